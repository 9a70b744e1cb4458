//! The replicas on this gateway, for all of its actors. A shard that moves here gets its replica while the gateway runs,
//! so no actor keeps a list of its own.

use crate::actors::messages::shard::{GetStatus, LoadBatch, LogSaid, ShardEvents};
use actix::Recipient;
use selvedge_fabric::ring::MAX_SHARDS;
use selvedge_types::ids::ShardId;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The most replicas on one gateway: one of each shard, and one of the directory.
pub const MAX_REPLICAS_ENTRIES: usize = MAX_SHARDS as usize + 1;

/// The ways to one shard's replica.
#[derive(Debug, Clone)]
pub struct ReplicaWays {
    pub events: Recipient<ShardEvents>,
    /// What the log reports.
    pub said: Recipient<LogSaid>,
    /// The uplink's requests for the content of a batch.
    pub load: Recipient<LoadBatch>,
    pub status: Recipient<GetStatus>,
}

/// The shards with a replica here. A replica is added, and none is removed while the process runs.
#[derive(Debug, Default)]
pub struct Replicas(RwLock<Arc<BTreeMap<ShardId, ReplicaWays>>>);

impl Replicas {
    /// All replicas as of now. The lock is held only for this call, not while the caller sends.
    pub fn all(&self) -> Arc<BTreeMap<ShardId, ReplicaWays>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ways to the shard's replica, if it has one here.
    pub fn get(&self, shard: ShardId) -> Option<ReplicaWays> {
        self.all().get(&shard).cloned()
    }

    /// Adds a replica. Returns false, and changes nothing, if the shard has one already or the bound
    /// ([`MAX_REPLICAS_ENTRIES`]) is reached.
    pub fn add(&self, shard: ShardId, ways: ReplicaWays) -> bool {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if all.contains_key(&shard) || all.len() >= MAX_REPLICAS_ENTRIES {
            return false;
        }
        Arc::make_mut(&mut all).insert(shard, ways);
        true
    }
}
