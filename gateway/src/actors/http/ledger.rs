//! An operator's word on which ledger the site's batches belong to.

use super::Api;
use super::problem::Failure;
use crate::actors::orders::ORDER_WAIT_MS;
use actix_web::{HttpResponse, web};
use selvedge_fabric::forward::Forwardable;
use selvedge_fabric::machine::Item;
use selvedge_types::ids::ShardId;
use selvedge_types::params::bad;
use selvedge_types::uplink::LedgerId;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How many shards are ordered at a time, so that other orders find room beside them.
const SHARDS_ORDERED_ENTRIES: usize = 64;

/// Admits a ledger in every shard: it alone trims from then on, and what is still kept is sent to it. Asking again does no harm.
pub async fn admit(api: web::Data<Api>, name: web::Path<String>) -> Result<HttpResponse, Failure> {
    let ledger: LedgerId = name.parse().map_err(|why: String| bad("id", why))?;
    let end = Instant::now() + Duration::from_millis(ORDER_WAIT_MS);
    let shards: Vec<_> = (0..api.overview.ring.shards()).map(ShardId).collect();
    let mut missing = Vec::new();
    for some in shards.chunks(SHARDS_ORDERED_ENTRIES) {
        let order = |shard: &ShardId| {
            (*shard, api.overview.ways.order(*shard, Forwardable::Item(Item::AdmitLedger { ledger })))
        };
        let orders: Vec<_> = some.iter().map(order).collect();
        for (shard, outcome) in orders {
            let Some(outcome) = outcome else {
                missing.push(shard);
                continue;
            };
            if !matches!(timeout_at(end, outcome).await, Ok(Ok(_))) {
                missing.push(shard);
            }
        }
    }
    tracing::info!(%ledger, missing = missing.len(), "a ledger is admitted");
    if !missing.is_empty() {
        let why = format!(
            "no majority of the replicas of some shards has chosen to admit ledger {ledger} yet; it may still be carried out, and asking \
             again does no harm"
        );
        return Err(Failure::Unchosen { why, shards: missing });
    }
    Ok(HttpResponse::Ok().json(json!({ "ledger": ledger.to_string(), "shards": shards.len() })))
}
