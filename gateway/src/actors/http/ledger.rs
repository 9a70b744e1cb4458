//! `/v1/ledger/{id}`: an operator's order to admit a node's new database.

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

/// How many shards get the order at a time, so that other orders have room beside them.
const SHARDS_ORDERED_ENTRIES: usize = 64;

/// Admits a ledger in every shard: from then on only its confirmations trim, and the site sends it everything that is
/// still kept. Repeating it does no harm.
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
