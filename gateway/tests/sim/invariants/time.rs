//! Elapsed time is never ahead of the time that has passed, whatever wall clocks show; and wall time that is sure is
//! what a majority of the gateways' clocks showed a moment ago.

use crate::gateway::Place;
use selvedge_fabric::agreement::{APART_MS, LOOK_MS, SAMPLE_KEPT_MS};
use selvedge_fabric::shard::{Now, ShardCore};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// Checks a replica; `now` is the time that has passed since the run began.
pub fn check_elapsed(at: GatewayId, shard: ShardId, replica: &ShardCore, now: u64) {
    let elapsed = replica.machine().elapsed().0;
    assert!(elapsed <= now, "{shard} at {at}: {elapsed} ms have elapsed by its log, {now} ms have passed");
}

/// Checks the wall time that a gateway uses.
pub fn check_wall(at: GatewayId, told: Now, places: &BTreeMap<GatewayId, Place>) {
    if !told.sure {
        return;
    }
    let now = told.mono_ms;
    let off = told.wall.0 - super::super::clock::true_time(now).0;
    let since = now.saturating_sub(SAMPLE_KEPT_MS + LOOK_MS);
    // A clock that drifts by a fifth moves by this much during the age of a sample.
    let most = APART_MS + 2 * (SAMPLE_KEPT_MS + LOOK_MS) as i64 / 5 + 100;
    let near = |p: &&Place| p.clock.offs(now, since).any(|o| (o - off).abs() <= most);
    let agree = places.values().filter(near).count();
    assert!(agree > places.len() / 2, "{at} is sure that it is {}, and {agree} clocks say so", told.wall);
}
