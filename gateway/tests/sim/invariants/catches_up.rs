//! While no fault lasts, every replica comes near the furthest one of its shard within a bounded time, however much is
//! written meanwhile.

use crate::gateway::Place;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// The longest that this may take, in milliseconds.
const CATCH_UP_MS: u64 = 60_000;
/// How near it must come, in slots: what is under way over a slow link.
const NEAR_SLOTS: u64 = 100;

pub struct CatchesUp {
    until_ms: u64,
    behind: BTreeSet<(GatewayId, ShardId)>,
}

impl CatchesUp {
    pub fn new(now: u64, places: &BTreeMap<GatewayId, Place>) -> Self {
        let lives = places.iter().filter_map(|(id, place)| Some((*id, place.live.as_ref()?)));
        let mut behind: BTreeSet<_> =
            lives.flat_map(|(id, live)| live.replicas.keys().map(move |shard| (id, *shard))).collect();
        // What replicas of gateways that are down have is unknown.
        let down = places.iter().filter(|(_, place)| place.live.is_none()).map(|(id, _)| *id);
        let shards: BTreeSet<ShardId> = behind.iter().map(|(_, shard)| *shard).collect();
        behind.extend(down.flat_map(|id| shards.iter().map(move |shard| (id, *shard))));
        Self { until_ms: now + CATCH_UP_MS, behind }
    }

    pub fn is_over(&self) -> bool {
        self.behind.is_empty()
    }

    pub fn check(&mut self, now: u64, places: &BTreeMap<GatewayId, Place>, show: impl Fn() -> String) {
        let mut furthest: BTreeMap<ShardId, u64> = BTreeMap::new();
        for (shard, replica) in places.values().filter_map(|p| p.live.as_ref()).flat_map(|l| &l.replicas) {
            let most = furthest.entry(*shard).or_default();
            *most = replica.core().consensus().commit().max(*most);
        }
        self.behind.retain(|(id, shard)| {
            let Some(live) = places.get(id).and_then(|place| place.live.as_ref()) else { return true };
            let Some(replica) = live.replicas.get(shard) else { return false }; // it has no replica of that shard
            let most = furthest.get(shard).copied().unwrap_or(0);
            replica.core().machine().slot() + NEAR_SLOTS < most
        });
        let late = now >= self.until_ms && !self.behind.is_empty();
        assert!(!late, "replicas that do not catch up under load: {:?}: {}", self.behind, show());
    }
}
