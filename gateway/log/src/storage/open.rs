//! Makes replicas of what is on disk.
//!
//! Everything is read before anything is written. What a checksum shows to be damaged is fetched from peers. What is
//! intact and can't be read was written by another release: this one then refuses to start and leaves everything as it
//! is.

use super::keeper::Stores;
use crate::{
    BatchStore, Disk, Floor, Log, LogError, LogOptions, LogReader, ReadLog, Recovery, Room, SnapshotStore,
};
use selvedge_fabric::machine::{CountingRules, Machine, RestoreError};
use selvedge_fabric::record::LogRecord;
use selvedge_fabric::replica::Replica;
use selvedge_fabric::ring::Ring;
use selvedge_fabric::shard::{MAX_SNAPSHOT_BYTES, Replay, ShardCore, ShardSettings};
use selvedge_paxos::GroupConfig;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Why the replicas could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log, a snapshot or a batch can't be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The configuration of a shard's group is not valid.
    #[error(transparent)]
    Group(#[from] selvedge_paxos::ConfigError),
    /// Another release wrote this. It is intact, so it is not damage.
    #[error(
        "shard {shard}: {what} can't be read by this release: {why}; nothing was changed: run the release that wrote it, or a newer one"
    )]
    Unreadable {
        shard: ShardId,
        /// The shard's snapshot, or its log.
        what: &'static str,
        /// What did not decode.
        why: String,
    },
}

/// The folders in which a gateway keeps its data.
pub struct Folders {
    /// The data folder itself. The log's floor lies here, outside of every folder that may be emptied.
    pub floor: Arc<dyn Disk>,
    pub log: Arc<dyn Disk>,
    pub snapshots: Arc<dyn Disk>,
    /// Contents of uplink batches.
    pub batches: Arc<dyn Disk>,
}

/// The result of reading the disk. Nothing is changed there yet.
pub struct ReadStorage {
    log: ReadLog,
    stores: Stores,
    replays: BTreeMap<u16, Replay>,
}

/// The opened log and stores, and the replicas that were made of them.
pub struct Opened {
    pub log: Log,
    pub stores: Stores,
    /// The summary of reading the log.
    pub recovery: Recovery,
    pub replicas: BTreeMap<ShardId, Replica>,
}

/// Settings that the replicas of all shards share.
#[derive(Debug, Clone)]
pub struct ReplicaSettings {
    /// The rules in this gateway's settings.
    pub rules: Arc<CountingRules>,
    /// The bounds of each shard's group.
    pub limits: selvedge_paxos::Limits,
    /// A leader accepts no more batches while this many bytes of uplink batches are unconfirmed.
    pub outbox_budget_bytes: u64,
    /// A drawn incarnation of the site, for shards that have none yet.
    pub incarnation: u128,
    /// Contents of batches that each replica keeps in memory, in bytes.
    pub shelf_bytes: usize,
}

/// Reads what is in the folders, and changes nothing.
///
/// # Errors
/// [`OpenError`], when something can't be read or belongs to another gateway.
pub fn read(folders: Folders, settings: LogOptions) -> Result<ReadStorage, OpenError> {
    let identity = settings.identity;
    let mut replays: BTreeMap<u16, Replay> = BTreeMap::new();
    let mut visit = |record: LogRecord| replays.entry(record.group).or_default().record(record);
    let floor = Floor::read(folders.floor, identity)?;
    let reader = LogReader::new(folders.log.clone(), identity);
    let log = Log::read(folders.log, Some(floor), settings, &mut visit)?;
    for (group, replay) in &replays {
        if let Some(why) = replay.unreadable() {
            let (shard, why) = (ShardId(*group), why.to_string());
            return Err(OpenError::Unreadable { shard, what: "its log", why });
        }
    }
    let snapshots = SnapshotStore::open(folders.snapshots, identity, MAX_SNAPSHOT_BYTES)?;
    let batches = BatchStore::open(folders.batches, identity)?;
    Ok(ReadStorage { log, stores: Stores::new(snapshots, batches, reader), replays })
}

impl ReadStorage {
    /// The summary of reading the log.
    pub fn recovery(&self) -> &Recovery {
        self.log.recovery()
    }

    /// Opens what was read, with replicas of the shards that the ring gives to gateway `me`: those of which it is a
    /// member in the first configuration. See [`ReadStorage::open_shards`].
    ///
    /// # Errors
    /// Those of [`ReadStorage::open_shards`].
    pub fn open(
        self,
        me: GatewayId,
        ring: &Ring,
        settings: &ReplicaSettings,
        nonce: &mut dyn FnMut() -> u64,
    ) -> Result<Opened, OpenError> {
        self.open_shards(me, ring.shards_of(me), ring, settings, nonce)
    }

    /// Opens what was read, with replicas of these shards at gateway `me`. The ring need not give it these shards: logs
    /// and snapshots name the present configurations. Reads all snapshots before it writes anything. `nonce` draws a
    /// number that no earlier start has drawn.
    ///
    /// # Errors
    /// [`OpenError`], when a snapshot can't be read (nothing is changed then), or a replica can't run.
    pub fn open_shards(
        self,
        me: GatewayId,
        shards: impl IntoIterator<Item = ShardId>,
        ring: &Ring,
        settings: &ReplicaSettings,
        nonce: &mut dyn FnMut() -> u64,
    ) -> Result<Opened, OpenError> {
        let Self { log, mut stores, mut replays } = self;
        let recovery = log.recovery().clone();
        let mut restored = Vec::new();
        for id in shards {
            let machine = restore(&stores, id, &settings.rules)?;
            stores.batches.check_version(id.0)?;
            restored.push((id, machine, replays.remove(&id.0).unwrap_or_default()));
        }
        let mut log = log.begin()?;
        stores.snapshots.tidy()?;
        let mut replicas = BTreeMap::new();
        for (id, machine, replay) in restored {
            let lost = machine.is_none();
            let machine = machine.unwrap_or_else(|| Machine::new(id, settings.rules.clone()));
            let slot = machine.slot();
            let mut damaged = lost || recovery.damaged_groups.contains(id.0) || replay.is_damaged();
            damaged |= replay.lacks_records(slot, machine.configuration());
            if damaged {
                tracing::error!(shard = %id, "its log is damaged: it does not vote until its peers have repaired it");
            }
            // A durable snapshot lists only what was synced. A listed content that has no file was on its way from a
            // peer.
            let outbox = machine.outbox_stats();
            stores.batches.assume_synced(id.0, outbox.last);
            let lost: BTreeSet<u64> = machine.lost_batches().collect();
            let listed = (outbox.kept + 1..=outbox.last).filter(|seq| !lost.contains(seq));
            stores.batches.expect(id.0, listed)?;
            damaged &= !canary::makes(Canary::DamagedVotes);
            let found = replay.finish(slot, machine.configuration(), damaged.then(&mut *nonce));
            // The log need not keep what a snapshot covers, but does not remember that itself.
            log.keep_from(id.0, slot + 1);
            let members = ring.replicas(id).to_vec();
            let shard_settings = ShardSettings {
                group: GroupConfig::new(id, me, members, settings.limits.clone()),
                rules: settings.rules.clone(),
                outbox_budget_bytes: settings.outbox_budget_bytes,
                incarnation: settings.incarnation,
            };
            let has_stored = stores.batches.has_any(id.0);
            let shard = ShardCore::recover(shard_settings, machine, found)?;
            let mut replica = Replica::new(id, shard, has_stored, settings.shelf_bytes);
            replica.starts_with(log.room() == Room::Plenty);
            replicas.insert(id, replica);
        }
        Ok(Opened { log, stores, recovery, replicas })
    }
}

/// The shard's machine, from its newest snapshot; `None` if that is damaged.
fn restore(stores: &Stores, id: ShardId, rules: &Arc<CountingRules>) -> Result<Option<Machine>, OpenError> {
    let damaged = |why: &dyn std::fmt::Display| {
        tracing::error!(shard = %id, "its snapshot is damaged, fetching one from a peer: {why}");
        Ok(None)
    };
    let bytes = match stores.snapshots.load_newest(id.0) {
        Ok(Some((_, bytes))) => bytes,
        Ok(None) => return Ok(Some(Machine::new(id, rules.clone()))),
        Err(e @ LogError::Damaged { .. }) => return damaged(&e),
        Err(e) => return Err(e.into()),
    };
    match Machine::restore(id, rules.clone(), &bytes) {
        Ok(machine) => Ok(Some(machine)),
        Err(e @ RestoreError::Damaged(_)) => damaged(&e),
        Err(e) if canary::makes(Canary::UnreadableIsDamage) => damaged(&e),
        Err(e) => Err(OpenError::Unreadable { shard: id, what: "its snapshot", why: e.to_string() }),
    }
}
