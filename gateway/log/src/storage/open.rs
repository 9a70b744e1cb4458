//! From what is on disk to replicas.
//!
//! Everything is read before anything is written. What a checksum shows to be damaged is fetched from peers; what is whole and can't
//! be read was written by another release: this one then refuses to start and leaves all as it is.

use super::keeper::Stores;
use crate::{
    BatchStore, Disk, Floor, Log, LogError, LogReader, LogSettings, ReadLog, Recovery, Room, SnapshotStore,
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

/// Why there are no replicas.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log or a snapshot.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A shard.
    #[error(transparent)]
    Group(#[from] selvedge_paxos::ConfigError),
    /// What another release wrote. It is whole, so it is no damage.
    #[error(
        "shard {shard}: {what} can't be read by this release: {why}; nothing was changed: run the release that wrote it, or a newer one"
    )]
    Unreadable {
        /// The shard.
        shard: ShardId,
        /// Its snapshot, or its log.
        what: &'static str,
        /// What is not understood.
        why: String,
    },
}

/// The folders of a gateway's data.
pub struct Folders {
    /// The data folder itself, in which the log's floor lies: not in a folder that may be emptied.
    pub floor: Arc<dyn Disk>,
    /// The log's segments.
    pub log: Arc<dyn Disk>,
    /// Snapshots.
    pub snapshots: Arc<dyn Disk>,
    /// Contents of uplink batches.
    pub batches: Arc<dyn Disk>,
}

/// What was read from disk. Nothing is changed there yet.
pub struct Found {
    log: ReadLog,
    stores: Stores,
    replays: BTreeMap<u16, Replay>,
}

/// What was found on disk, opened.
pub struct Opened {
    /// The log.
    pub log: Log,
    /// The store.
    pub stores: Stores,
    /// What reading the log met.
    pub recovery: Recovery,
    /// The replicas.
    pub replicas: BTreeMap<ShardId, Replica>,
}

/// How replicas are set up.
#[derive(Debug, Clone)]
pub struct ReplicaSettings {
    /// The rules that this gateway's settings name.
    pub rules: Arc<CountingRules>,
    /// The bounds of each shard's group.
    pub limits: selvedge_paxos::Limits,
    /// A leader takes no more batches while this many bytes of uplink batches are unconfirmed.
    pub outbox_budget_bytes: u64,
    /// What this making of the site is called in shards that have no name for it yet: drawn.
    pub incarnation: u128,
    /// Contents of batches that each replica keeps in memory.
    pub shelf_bytes: usize,
}

/// Reads what is in the folders, and changes nothing.
///
/// # Errors
/// [`OpenError`], when it can't be read or is another's.
pub fn read(folders: Folders, settings: LogSettings) -> Result<Found, OpenError> {
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
    Ok(Found { log, stores: Stores::new(snapshots, batches, reader), replays })
}

impl Found {
    /// What reading the log met.
    pub fn recovery(&self) -> &Recovery {
        self.log.recovery()
    }

    /// Opens what was read, with the replicas of gateway `me`: reads their snapshots, and only then writes.
    /// `nonce` draws a number that no earlier start has drawn.
    ///
    /// # Errors
    /// [`OpenError`], when a snapshot can't be read (nothing is changed then), or a replica can't run.
    pub fn open(
        self,
        me: GatewayId,
        ring: &Ring,
        settings: &ReplicaSettings,
        nonce: &mut dyn FnMut() -> u64,
    ) -> Result<Opened, OpenError> {
        let Self { log, mut stores, mut replays } = self;
        let recovery = log.recovery().clone();
        let mut restored = Vec::new();
        for id in ring.shards_of(me) {
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
            let mut damaged = lost || recovery.damaged_groups.contains(id.0) || replay.is_damaged();
            if damaged {
                tracing::error!(shard = %id, "its log is damaged: it does not vote until it is repaired from its peers");
            }
            // A durable snapshot lists only what was synced. A content of these that is gone was on its way from a peer.
            let outbox = machine.outbox_stats();
            stores.batches.assume_synced(id.0, outbox.last);
            let lost: BTreeSet<u64> = machine.lost_batches().collect();
            let listed = (outbox.kept + 1..=outbox.last).filter(|seq| !lost.contains(seq));
            stores.batches.expect(id.0, listed)?;
            damaged &= !canary::makes(Canary::DamagedVotes);
            let found = replay.finish(machine.slot(), damaged.then(&mut *nonce));
            // What a snapshot covers need not stay in the log; the log does not remember this itself.
            log.keep_from(id.0, found.snapshot_slot + 1);
            let members = ring.replicas(id).to_vec();
            let shard_settings = ShardSettings {
                group: GroupConfig { group: id, me, members, limits: settings.limits.clone() },
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

/// The machine of a shard as its newest snapshot has it; nothing if that is damaged.
fn restore(stores: &Stores, id: ShardId, rules: &Arc<CountingRules>) -> Result<Option<Machine>, OpenError> {
    let damaged = |why: &dyn std::fmt::Display| {
        tracing::error!(shard = %id, "its snapshot is damaged, it is fetched from a peer: {why}");
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
