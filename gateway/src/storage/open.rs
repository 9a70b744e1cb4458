//! From what is on disk to replicas.

use super::keeper::Stores;
use crate::logic::machine::{Machine, Rules};
use crate::logic::paxos::{self, GroupConfig};
use crate::logic::replica::Replica;
use crate::logic::ring::Ring;
use crate::logic::shard::{MAX_SNAPSHOT_BYTES, Replay, Settings as ShardSettings, Shard};
use crate::wal::{
    BatchStore, Disk, Groups, Log, LogError, Record, Recovery, Room, Settings as LogSettings, SnapshotStore,
};
use selvedge_shared::canary::{self, Canary};
use selvedge_shared::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Why there are no replicas.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log or a snapshot.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A shard.
    #[error(transparent)]
    Group(#[from] paxos::ConfigError),
}

/// The folders of a gateway's data.
pub struct Folders {
    /// The log's segments.
    pub log: Arc<dyn Disk>,
    /// Snapshots.
    pub snapshots: Arc<dyn Disk>,
    /// Contents of uplink batches.
    pub batches: Arc<dyn Disk>,
}

/// What was found on disk, opened.
pub struct Opened {
    /// The log.
    pub log: Log,
    /// The store.
    pub stores: Stores,
    /// What reading the log met.
    pub recovery: Recovery,
    replays: BTreeMap<u16, Replay>,
}

/// How replicas are set up.
#[derive(Debug, Clone)]
pub struct ReplicaSettings {
    /// The rules that this gateway's settings name.
    pub rules: Arc<Rules>,
    /// The bounds of each shard's group.
    pub limits: paxos::Limits,
    /// A leader takes no more batches while this many bytes of uplink batches are unconfirmed.
    pub outbox_budget_bytes: u64,
    /// Contents of batches that each replica keeps in memory.
    pub shelf_bytes: usize,
}

/// Opens what is in the folders, or begins there.
///
/// # Errors
/// [`LogError`], when it can't be read or is another's.
pub fn open(folders: Folders, settings: LogSettings) -> Result<Opened, LogError> {
    let identity = settings.identity;
    let mut replays: BTreeMap<u16, Replay> = BTreeMap::new();
    let mut visit = |record: Record| replays.entry(record.group).or_default().record(record);
    let (log, recovery) = Log::open(folders.log, settings, &mut visit)?;
    let snapshots = SnapshotStore::open(folders.snapshots, identity, MAX_SNAPSHOT_BYTES)?;
    let batches = BatchStore::open(folders.batches, identity)?;
    Ok(Opened { log, stores: Stores { snapshots, batches }, recovery, replays })
}

impl Opened {
    /// The replicas of gateway `me`. `nonce` draws a number that no earlier start has drawn.
    ///
    /// # Errors
    /// [`OpenError`], when a replica can't run.
    pub fn replicas(
        &mut self,
        me: GatewayId,
        ring: &Ring,
        settings: &ReplicaSettings,
        nonce: &mut dyn FnMut() -> u64,
    ) -> Result<BTreeMap<ShardId, Replica>, OpenError> {
        let damaged_groups: Groups = self.recovery.damaged_groups.clone();
        let mut replicas = BTreeMap::new();
        for id in ring.shards_of(me) {
            let replay = self.replays.remove(&id.0).unwrap_or_default();
            let mut damaged = damaged_groups.contains(id.0) || replay.is_damaged();
            let snapshot = match self.stores.snapshots.load_newest(id.0) {
                Ok(found) => found,
                Err(e @ LogError::Damaged { .. }) => {
                    tracing::error!(shard = %id, "its snapshot is damaged, it is fetched from a peer: {e}");
                    damaged = true;
                    None
                }
                Err(e) => return Err(e.into()),
            };
            let rules = || settings.rules.clone();
            let machine = match &snapshot {
                None => Machine::new(id, rules()),
                Some((_, bytes)) => Machine::restore(id, rules(), bytes).unwrap_or_else(|e| {
                    tracing::error!(shard = %id, "its snapshot can't be read, it is fetched from a peer: {e}");
                    damaged = true;
                    Machine::new(id, rules())
                }),
            };
            if damaged {
                tracing::error!(shard = %id, "its log is damaged: it does not vote until it is repaired from its peers");
            }
            // A durable snapshot lists only what was synced.
            self.stores.batches.assume_synced(id.0, machine.outbox_stats().last);
            damaged &= !canary::makes(Canary::DamagedVotes);
            let found = replay.finish(machine.slot(), damaged.then(&mut *nonce));
            // What a snapshot covers need not stay in the log; the log does not remember this itself.
            self.log.keep_from(id.0, found.snapshot_slot + 1);
            let members = ring.replicas(id).to_vec();
            let shard_settings = ShardSettings {
                group: GroupConfig { group: id, me, members, limits: settings.limits.clone() },
                rules: rules(),
                outbox_budget_bytes: settings.outbox_budget_bytes,
            };
            let has_stored = self.stores.batches.has_any(id.0);
            let shard = Shard::recover(shard_settings, machine, found)?;
            let mut replica = Replica::new(id, shard, has_stored, settings.shelf_bytes);
            replica.starts_with(self.log.room() == Room::Plenty);
            replicas.insert(id, replica);
        }
        Ok(replicas)
    }
}
