//! `/v1/status`, `/v1/devices`, `/metrics`, `/healthz` and `/readyz`.

use super::{Api, Failure, Given};
use crate::logic::query::{BadParameter, DEFAULT_LIMIT_ENTRIES, MAX_LIMIT_ENTRIES, Parameters};
use actix_web::{HttpResponse, web};
use selvedge_shared::ids::ShardId;
use selvedge_shared::time::EpochMs;
use serde::Serialize;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Serialize, Default)]
struct Shard {
    shard: u16,
    /// All batches up to here are applied, or given up.
    cursor: u64,
    /// Batches applied beyond the cursor.
    beyond: u64,
    /// The highest batch that the edge is known to have cut.
    edge_last: u64,
    /// Batches up to that one that are not here yet.
    missing: u64,
    /// Batches that the edge no longer has and that never came.
    given_up: u64,
    batches_applied: u64,
    last_change: Option<String>,
    last_heard: Option<String>,
    /// A batch number that came with two contents; nothing more is confirmed until it is looked at.
    conflict_seq: Option<u64>,
}

pub(super) async fn status(api: web::Data<Api>) -> Result<HttpResponse, Failure> {
    let mut sites: BTreeMap<String, BTreeMap<u16, Shard>> =
        api.sites.iter().map(|site| (site.to_string(), BTreeMap::new())).collect();
    for s in api.reader.shards().await? {
        let shard = Shard {
            shard: s.shard,
            cursor: s.cursor,
            beyond: s.beyond,
            edge_last: s.edge_last,
            missing: s.missing,
            given_up: s.given_up,
            batches_applied: s.batches_applied,
            last_change: Some(s.changed.to_string()),
            last_heard: None,
            conflict_seq: s.conflict,
        };
        sites.entry(s.site).or_default().insert(s.shard, shard);
    }
    for ((site, ShardId(number)), heard) in api.stats.last_heard() {
        let shard = sites.entry(site.to_string()).or_default().entry(number).or_default();
        shard.shard = number;
        shard.last_heard = Some(heard.at.to_string());
        shard.edge_last = shard.edge_last.max(heard.last);
        shard.missing = shard.edge_last.saturating_sub(shard.cursor).saturating_sub(shard.beyond);
    }
    let total = |of: fn(&Shard) -> u64| sites.values().flat_map(BTreeMap::values).map(of).sum::<u64>();
    let (applied, missing, given_up) =
        (total(|s| s.batches_applied), total(|s| s.missing), total(|s| s.given_up));
    let sites: Vec<_> = sites
        .iter()
        .map(|(site, shards)| json!({ "site": site, "shards": shards.values().collect::<Vec<_>>() }))
        .collect();
    Ok(HttpResponse::Ok().json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now": EpochMs::now().to_string(),
        "uplink_connected": api.stats.is_subscribed(),
        "batches_applied": applied,
        "batches_missing": missing,
        "batches_given_up": given_up,
        "refused": api.stats.refusals(),
        "sites": sites,
    })))
}

#[derive(Serialize)]
struct Device {
    site: String,
    device: String,
    streams: Vec<Stream>,
}

#[derive(Serialize)]
struct Stream {
    stream: String,
    widths_ms: Vec<i64>,
}

pub(super) async fn devices(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &["site", "limit", "after"])?;
    let limit = p.limit(DEFAULT_LIMIT_ENTRIES, MAX_LIMIT_ENTRIES)?;
    let wrong = || BadParameter {
        parameter: "after".into(),
        why: "is not what an earlier answer gave as `next`".into(),
    };
    let after = p.text("after")?.map(|text| text.split_once('/').ok_or_else(wrong)).transpose()?;
    let mut devices: Vec<Device> = vec![];
    for s in api.reader.devices(p.text("site")?, after, limit).await? {
        if devices.last().is_none_or(|d| d.site != s.site || d.device != s.device) {
            devices.push(Device { site: s.site, device: s.device, streams: vec![] });
        }
        let Some(device) = devices.last_mut() else { continue };
        match device.streams.last_mut().filter(|known| known.stream == s.stream) {
            Some(stream) => stream.widths_ms.push(s.width_ms),
            None => device.streams.push(Stream { stream: s.stream, widths_ms: vec![s.width_ms] }),
        }
    }
    let truncated = devices.len() == limit as usize;
    let next = devices.last().filter(|_| truncated).map(|d| format!("{}/{}", d.site, d.device));
    Ok(HttpResponse::Ok().json(json!({ "devices": devices, "truncated": truncated, "next": next })))
}

pub(super) async fn metrics(api: web::Data<Api>) -> HttpResponse {
    let text = api.metrics.as_ref().map(|handle| handle.render()).unwrap_or_default();
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text)
}

pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "ok" }))
}

pub(super) async fn readyz(api: web::Data<Api>) -> HttpResponse {
    let mut not_ready = BTreeSet::new();
    if api.reader.ping().await.is_err() {
        not_ready.insert("the database does not answer");
    }
    if !api.stats.is_subscribed() {
        not_ready.insert("the uplink is not connected to its broker");
    }
    if not_ready.is_empty() {
        HttpResponse::Ok().json(json!({ "status": "ready" }))
    } else {
        HttpResponse::ServiceUnavailable().json(json!({ "status": "not ready", "why": not_ready }))
    }
}
