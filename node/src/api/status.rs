//! `/v1/status`, `/metrics`, `/healthz` and `/readyz`: the state of the node.

use super::problem::Failure;
use super::routes::Asker;
use super::{Api, Given};
use crate::store::ShardStatus;
use actix_web::{HttpResponse, web};
use selvedge_types::ids::ShardId;
use selvedge_types::params::Parameters;
use selvedge_types::time::EpochMs;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// The state of the node: its database, its uplink, and how far each shard has come.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Status {
    version: &'static str,
    now: String,
    /// Whether the node's uplink is subscribed at its broker.
    uplink_connected: bool,
    /// The ledger that the database is. A site trims only for the ledger that it has admitted.
    ledger: String,
    batches_applied: u64,
    batches_missing: u64,
    batches_given_up: u64,
    /// The number of messages that were not accepted since the node started, by reason.
    refused: BTreeMap<&'static str, u64>,
    sites: Vec<SiteBody>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct SiteBody {
    site: String,
    shards: Vec<ShardBody>,
}

/// Whether the node runs, or can work.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Health {
    status: &'static str,
    /// What a person should look at although the node can work.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attention: Vec<String>,
}

#[derive(Serialize, Default, utoipa::ToSchema)]
struct ShardBody {
    shard: u16,
    /// The batch up to which all are applied, or given up.
    cursor: u64,
    /// The number of batches applied beyond the cursor.
    beyond: u64,
    /// The highest batch that the site is known to have cut.
    edge_last: u64,
    /// The number of batches up to that one that are not here yet.
    missing: u64,
    /// The number of batches that the site no longer has and that never came.
    given_up: u64,
    batches_applied: u64,
    last_change: Option<String>,
    last_heard: Option<String>,
    /// The number of a batch that came with two different contents; no further batch is confirmed until a person has
    /// cleared it.
    conflict_seq: Option<u64>,
}

pub(super) async fn status(
    api: web::Data<Api>,
    Asker(caller): Asker,
    given: Given,
) -> Result<HttpResponse, Failure> {
    Parameters::new(given.into_inner(), &[])?;
    let mut sites: BTreeMap<String, BTreeMap<u16, ShardBody>> =
        api.sites.iter().map(|site| (site.to_string(), BTreeMap::new())).collect();
    for s in api.reader.shards().await? {
        let shard = ShardBody {
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
    sites.retain(|site, _| caller.sees(site));
    let total = |of: fn(&ShardBody) -> u64| sites.values().flat_map(BTreeMap::values).map(of).sum::<u64>();
    let (applied, missing, given_up) =
        (total(|s| s.batches_applied), total(|s| s.missing), total(|s| s.given_up));
    let one = |(site, shards): (String, BTreeMap<u16, ShardBody>)| SiteBody {
        site,
        shards: shards.into_values().collect(),
    };
    Ok(HttpResponse::Ok().json(Status {
        version: env!("CARGO_PKG_VERSION"),
        now: EpochMs::from(SystemTime::now()).to_string(),
        uplink_connected: api.stats.is_subscribed(),
        ledger: api.reader.ledger_id().await?.to_string(),
        batches_applied: applied,
        batches_missing: missing,
        batches_given_up: given_up,
        refused: api.stats.refusals(),
        sites: sites.into_iter().map(one).collect(),
    }))
}

pub(super) async fn metrics(api: web::Data<Api>) -> HttpResponse {
    let text = api.metrics.as_ref().map(|handle| handle.render()).unwrap_or_default();
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(text)
}

pub(super) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().json(Health { status: "ok", attention: vec![] })
}

pub(super) async fn readyz(api: web::Data<Api>) -> Result<HttpResponse, Failure> {
    let (mut not_ready, mut attention) = (vec![], vec![]);
    match api.reader.shards().await {
        Ok(shards) => attention = wants_attention(&shards),
        Err(_) => not_ready.push("the database does not answer"),
    }
    if !api.stats.is_subscribed() {
        not_ready.push("the uplink is not connected to its broker");
    }
    if not_ready.is_empty() {
        Ok(HttpResponse::Ok().json(Health { status: "ready", attention }))
    } else {
        Err(Failure::NotReady(not_ready))
    }
}

/// What a person should look at. It has no names of sites, because anyone may ask.
fn wants_attention(shards: &[ShardStatus]) -> Vec<String> {
    let mut all = vec![];
    let lost: Vec<_> = shards.iter().map(|shard| shard.given_up).filter(|batches| *batches > 0).collect();
    if !lost.is_empty() {
        all.push(format!(
            "this database lacks {} batches of {} shards, which another database confirmed or their site lost: what they held is missing \
             for good; /v1/status and the view `holes` list them",
            lost.iter().fold(0, |sum: u64, batches| sum.saturating_add(*batches)),
            lost.len()
        ));
    }
    let conflicts = shards.iter().filter(|shard| shard.conflict.is_some()).count();
    if conflicts > 0 {
        all.push(format!(
            "{conflicts} shards sent two contents under one batch number: the node confirms nothing of them until \
             shard_progress.conflict_seq is cleared"
        ));
    }
    all
}
