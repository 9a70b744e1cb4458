//! The replicas on this gateway, for all of its actors. A shard that moves here gets its replica while the gateway runs,
//! and loses it again when that is given up, so no actor keeps a list of its own.

use crate::actors::messages::shard::{GetStatus, GiveUp, LoadBatch, LogSaid, ShardEvents};
use actix::Recipient;
use selvedge_fabric::ring::MAX_SHARDS;
use selvedge_types::ids::ShardId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

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
    pub give_up: Recipient<GiveUp>,
}

/// A replica that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenUp {
    /// No later replica of the shard may vote in a configuration up to this one.
    pub through: u32,
    /// Whether its data is deleted. Before that, the shard can't have another replica here.
    pub is_deleted: bool,
}

/// The shards with a replica here, and those whose replica was given up.
#[derive(Debug, Default)]
pub struct Replicas {
    here: RwLock<Arc<BTreeMap<ShardId, ReplicaWays>>>,
    /// At most one entry for each shard.
    given_up: Mutex<BTreeMap<ShardId, GivenUp>>,
}

impl Replicas {
    /// No replicas yet; those that the marks name as given up may not be deleted completely.
    pub fn new(given_up: impl IntoIterator<Item = (ShardId, u32)>) -> Self {
        let given_up =
            given_up.into_iter().map(|(shard, through)| (shard, GivenUp { through, is_deleted: false }));
        Self { here: RwLock::default(), given_up: Mutex::new(given_up.collect()) }
    }

    /// All replicas as of now. The lock is held only for this call, not while the caller sends.
    pub fn all(&self) -> Arc<BTreeMap<ShardId, ReplicaWays>> {
        self.here.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The ways to the shard's replica, if it has one here.
    pub fn get(&self, shard: ShardId) -> Option<ReplicaWays> {
        self.all().get(&shard).cloned()
    }

    /// Adds a replica. Returns false, and changes nothing, if the shard has one already or the bound
    /// ([`MAX_REPLICAS_ENTRIES`]) is reached.
    pub fn add(&self, shard: ShardId, ways: ReplicaWays) -> bool {
        let mut all = self.here.write().unwrap_or_else(PoisonError::into_inner);
        if all.contains_key(&shard) || all.len() >= MAX_REPLICAS_ENTRIES {
            return false;
        }
        Arc::make_mut(&mut all).insert(shard, ways);
        true
    }

    /// Removes a replica that is given up while the shard is in this configuration. Its actor ends when the last way to it
    /// is gone.
    pub fn give_up(&self, shard: ShardId, through: u32) {
        self.gone().insert(shard, GivenUp { through, is_deleted: false });
        let mut all = self.here.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut all).remove(&shard);
    }

    /// Notes that nothing is left of a replica that was given up.
    pub fn deleted(&self, shard: ShardId) {
        if let Some(gone) = self.gone().get_mut(&shard) {
            gone.is_deleted = true;
        }
    }

    /// The shard's replica that was given up last, if any was.
    pub fn given_up(&self, shard: ShardId) -> Option<GivenUp> {
        self.gone().get(&shard).copied()
    }

    /// All replicas that were given up.
    pub fn all_given_up(&self) -> BTreeMap<ShardId, GivenUp> {
        self.gone().clone()
    }

    fn gone(&self) -> MutexGuard<'_, BTreeMap<ShardId, GivenUp>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
