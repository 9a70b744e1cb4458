//! The placement by which a gateway sends to shards: the ring, and what replicas of later configurations said.
//!
//! The ring follows the directory, which learns of a new configuration from a report. A replica knows its own
//! configuration earlier, and names the members when it answers that it does not lead.
//!
//! Limit: one replica set for each shard of the ring and for the directory group.

use super::{ReplicaSet, Ring};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The latest replica sets that one gateway knows.
#[derive(Debug, Clone)]
pub(crate) struct LatestPlacement {
    ring: Arc<Ring>,
    /// Replica sets of later configurations than the ring's.
    later: BTreeMap<ShardId, ReplicaSet>,
}

impl LatestPlacement {
    pub fn new(ring: Arc<Ring>) -> Self {
        Self { ring, later: BTreeMap::new() }
    }

    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Replaces the ring. What replicas said of later configurations than the new ring's stays.
    pub fn set_ring(&mut self, ring: Arc<Ring>) {
        self.later.retain(|shard, said| {
            ring.set(*shard).is_some_and(|placed| placed.configuration < said.configuration)
        });
        self.ring = ring;
    }

    /// Takes in the configuration that a replica of this shard is in. Returns whether it is later than the known one.
    pub fn learn(&mut self, shard: ShardId, said: ReplicaSet) -> bool {
        let is_later =
            said.is_sound() && self.set(shard).is_some_and(|set| set.configuration < said.configuration);
        if is_later {
            self.later.insert(shard, said);
        }
        is_later
    }

    /// The members of the shard's latest known configuration, the preferred leader first. Empty for a shard that the
    /// site does not have.
    pub fn replicas(&self, shard: ShardId) -> &[GatewayId] {
        self.set(shard).map_or(&[], |set| &set.members)
    }

    /// The number of the shard's latest known configuration; 0 for a shard that the site does not have.
    pub fn configuration(&self, shard: ShardId) -> u32 {
        self.set(shard).map_or(0, |set| set.configuration)
    }

    fn set(&self, shard: ShardId) -> Option<&ReplicaSet> {
        self.later.get(&shard).or_else(|| self.ring.set(shard))
    }
}
