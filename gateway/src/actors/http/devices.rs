//! `/v1/devices`: the devices and streams that the site knows, and retiring them. Any gateway answers; it asks the
//! shards' leaders.

use super::problem::Failure;
use super::{Api, Given, tables};
use crate::actors::orders::ORDER_WAIT_MS;
use actix_web::{HttpResponse, web};
use selvedge_fabric::forward::Forwardable;
use selvedge_fabric::machine::{DeviceInfo, Item, ItemOutcome, StreamInfo};
use selvedge_fabric::peer::{TableAnswer, TableQuestion};
use selvedge_types::ids::{MAX_NAME_BYTES, ShardId};
use selvedge_types::params::{Parameters, bad};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The parameters of `/v1/devices`.
pub const LIST_PARAMETERS: [&str; 2] = ["limit", "after"];

/// The parameters of `/v1/devices/{device}`.
pub const ONE_PARAMETERS: [&str; 1] = ["after"];

/// A page of the devices of many shards, in the order of their names.
struct Merged {
    limit: usize,
    devices: Vec<DeviceInfo>,
    /// The last name of the page, if there may be further devices.
    end: Option<Arc<str>>,
}

impl Merged {
    /// Merges in a shard's devices; with `more`, the shard has further ones.
    fn take(&mut self, list: Vec<DeviceInfo>, more: bool) {
        if let Some(last) = list.last().filter(|_| more) {
            self.end_at(last.device.clone());
        }
        self.devices.extend(list);
        self.devices.sort_by(|a, b| a.device.cmp(&b.device));
        if let Some(last) =
            self.devices.get(self.limit.saturating_sub(1)).filter(|_| self.devices.len() > self.limit)
        {
            self.end_at(last.device.clone());
        }
        if let Some(end) = &self.end {
            self.devices.retain(|d| d.device <= *end);
        }
    }

    fn end_at(&mut self, last: Arc<str>) {
        self.end = Some(self.end.take().map_or(last.clone(), |end| end.min(last)));
    }
}

/// Answers a page of the site's devices, by name.
pub async fn list(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &LIST_PARAMETERS)?;
    let (after, limit) = (p.after(name)?, p.limit()? as usize);
    let (until, mut missing) = (tables::deadline(), Vec::new());
    let mut merged = Merged { limit, devices: Vec::new(), end: None };
    let shards: Vec<_> = (0..api.overview.ring.shards()).map(ShardId).collect();
    for some in shards.chunks(tables::SHARDS_ASKED) {
        let question = |shard: &ShardId| {
            (*shard, TableQuestion::Devices { shard: *shard, after: after.clone(), most: limit as u32 })
        };
        for (shard, answer) in tables::ask_shards(&api, until, some.iter().map(question).collect()).await {
            match answer {
                Some(TableAnswer::Devices { list, more }) => merged.take(list, more),
                _ => missing.push(shard),
            }
        }
    }
    let list: Vec<_> = merged.devices.iter().map(device).collect();
    Ok(HttpResponse::Ok().json(json!({
        "devices": list, "truncated": merged.end.is_some(), "next": merged.end.as_deref(),
        "partial": !missing.is_empty(), "missing_shards": missing,
        "missing_gateways": tables::out_of_reach(&api).await,
    })))
}

fn device(d: &DeviceInfo) -> Value {
    json!({ "device": &*d.device, "streams": d.streams, "seen": d.seen.to_string(), "refused_readings": d.refused })
}

fn stream(s: &StreamInfo) -> Value {
    let set_aside: BTreeMap<_, _> =
        s.set_aside.iter().map(|(reason, count)| (reason.name(), count)).collect();
    json!({
        "stream": &*s.stream, "seen": s.seen.to_string(), "watermark": s.watermark.to_string(),
        "watermark_ms": s.watermark.0, "windows_ms": s.windows_ms, "client": s.client.as_deref(),
        "set_aside": set_aside,
    })
}

/// Answers one device and its streams, as its shard's leader knows them.
pub async fn one(
    api: web::Data<Api>,
    device_name: web::Path<String>,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &ONE_PARAMETERS)?;
    let shard = api.overview.ring.shard_of(&device_name);
    let question = TableQuestion::Device { shard, device: device_name.into_inner(), after: p.after(name)? };
    let Some(TableAnswer::Device { device: known, streams, more }) =
        tables::ask_shard(&api, shard, question).await
    else {
        return Err(Failure::OutOfReach(
            "no majority of the device's replicas is within reach: try again".into(),
        ));
    };
    let info = known.ok_or_else(|| unknown(false))?;
    let mut answer = device(&info);
    answer["shard"] = shard.0.into();
    answer["truncated"] = more.into();
    answer["next"] = streams.last().filter(|_| more).map(|s| s.stream.to_string()).into();
    answer["streams"] = streams.iter().map(stream).collect();
    Ok(HttpResponse::Ok().json(answer))
}

/// A name to continue after, if it is not too long.
fn name(text: &str) -> Option<String> {
    (text.len() <= MAX_NAME_BYTES).then(|| text.to_string())
}

fn unknown(is_stream: bool) -> Failure {
    let what = if is_stream { "stream" } else { "device" };
    Failure::Unknown(format!("no such {what} is known"))
}

/// Retires every stream of a device.
pub async fn retire_device(api: web::Data<Api>, name: web::Path<String>) -> Result<HttpResponse, Failure> {
    retire(&api, name.into_inner(), None).await
}

/// Retires one stream of a device.
pub async fn retire_stream(
    api: web::Data<Api>,
    names: web::Path<(String, String)>,
) -> Result<HttpResponse, Failure> {
    let (device, stream) = names.into_inner();
    retire(&api, device, Some(stream)).await
}

/// Answers when the order is chosen. Repeating it does no harm: a retired device or stream is then unknown.
async fn retire(api: &Api, device: String, stream: Option<String>) -> Result<HttpResponse, Failure> {
    for (parameter, name) in [("device", Some(&device)), ("stream", stream.as_ref())] {
        if name.is_some_and(|name| name.len() > MAX_NAME_BYTES) {
            return Err(bad(
                parameter,
                format!("has more than {MAX_NAME_BYTES} bytes, the most that a name may have"),
            )
            .into());
        }
    }
    let shard = api.overview.ring.shard_of(&device);
    let item = Forwardable::Item(Item::Retire { device: device.clone(), stream: stream.clone() });
    let Some(outcome) = api.overview.ways.order(shard, item) else {
        return Err(Failure::Busy);
    };
    match tokio::time::timeout(Duration::from_millis(ORDER_WAIT_MS), outcome).await {
        Ok(Ok(ItemOutcome::Retired { streams: 0 })) => Err(unknown(stream.is_some())),
        Ok(Ok(ItemOutcome::Retired { streams })) => {
            if let Some(left_out) = api.log_limit.note("retired") {
                tracing::info!(device, stream, streams, "retired{left_out}");
            }
            Ok(HttpResponse::Ok().json(json!({ "device": device, "stream": stream, "retired_streams": streams })))
        }
        Ok(Ok(_)) => {
            // The outcome was lost on the way, but the order was carried out.
            Ok(HttpResponse::Ok().json(json!({ "device": device, "stream": stream, "retired_streams": null })))
        }
        _ => Err(Failure::OutOfReach(
            "no majority of the device's replicas has chosen it yet; it may still be carried out, and asking again does no harm".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_types::time::EpochMs;

    fn named(names: &[&str]) -> Vec<DeviceInfo> {
        let of =
            |name: &&str| DeviceInfo { device: (*name).into(), streams: 1, seen: EpochMs(0), refused: 0 };
        names.iter().map(of).collect()
    }

    fn merged(limit: usize, shards: &[(&[&str], bool)]) -> (Vec<String>, Option<String>) {
        let mut merged = Merged { limit, devices: Vec::new(), end: None };
        shards.iter().for_each(|(names, more)| merged.take(named(names), *more));
        let names = merged.devices.iter().map(|d| d.device.to_string()).collect();
        (names, merged.end.map(|end| end.to_string()))
    }

    #[test]
    fn a_page_ends_where_some_shard_has_more_and_at_its_limit() {
        let all = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            merged(9, &[(&["b", "d"], false), (&["a", "c"], false)]),
            (all(&["a", "b", "c", "d"]), None)
        );
        let cut = merged(9, &[(&["b", "d"], true), (&["a", "c", "e"], true), (&["f"], false)]);
        assert_eq!(cut, (all(&["a", "b", "c", "d"]), Some("d".into())));
        let few = merged(2, &[(&["b", "d"], false), (&["a", "c"], false), (&["e"], false)]);
        assert_eq!(few, (all(&["a", "b"]), Some("b".into())));
        assert_eq!(merged(2, &[(&["a", "b"], false)]), (all(&["a", "b"]), None));
    }
}
