//! Makes replicas: at the start of what is on disk, and later of nothing, for shards that move here.
//!
//! Everything is read before anything is written. What a checksum shows to be damaged is fetched from peers. What is
//! intact and can't be read was written by another release: this one then refuses to start and leaves everything as it
//! is.
//!
//! The ring gives a gateway the shards that it holds from their beginning. A shard that moved here is on disk: the first
//! record of its replica says that the replica was made later, and the log keeps that record for good. If it is missing,
//! the log has lost it or had no room for it yet, so the replica counts as damaged. Marks beside the log ([`ReplicaMarks`])
//! name every replica, so none is forgotten, whatever is lost of the log. They also name the replicas that were given up
//! ([`super::LogWork::GiveUp`]): those are not made again, and what is left of them is deleted.
//! A replica of which nothing at all is on disk, and no mark, is made anew, and writes that record first.
//!
//! Invariant: every shard of which anything is on disk, or that has a mark, gets a replica at the next start, unless it was
//! given up.
//! Invariant: a replica is marked before anything of it is written, and a mark of one that is given up comes before anything
//! of it is deleted.
//! Limits: a folder of a release without marks may have forgotten a replica, if its log is damaged, and so may one whose
//! marks have rotted. A replica that such a gateway makes may not vote until it is repaired ([`ReplicaMarks::is_complete`]).

use super::keeper::Stores;
use crate::{
    BatchStore, Disk, Floor, Log, LogError, LogOptions, LogReader, ReadLog, Recovery, ReplicaMark,
    ReplicaMarks, Room, SnapshotStore,
};
use selvedge_fabric::configuration::{DIRECTORY_GROUP, FIRST_CONFIGURATION};
use selvedge_fabric::machine::{CountingRules, MAX_BASE_BYTES, Machine, RestoreError};
use selvedge_fabric::record::LogRecord;
use selvedge_fabric::replica::Replica;
use selvedge_fabric::ring::Ring;
use selvedge_fabric::shard::{FoundReplica, MAX_SNAPSHOT_BYTES, Replay, ShardCore, ShardSettings};
use selvedge_paxos::{ConfigError, GroupConfig};
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
    Group(#[from] ConfigError),
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
    /// The data folder itself. The log's floor and the marks of replicas lie here, outside of every folder that may be
    /// emptied.
    pub floor: Arc<dyn Disk>,
    pub log: Arc<dyn Disk>,
    pub snapshots: Arc<dyn Disk>,
    /// Contents of uplink batches.
    pub batches: Arc<dyn Disk>,
}

/// The result of reading the disk. Nothing is changed there yet.
pub struct ReadStorage {
    pub(super) log: ReadLog,
    pub(super) stores: Stores,
    pub(super) marks: ReplicaMarks,
    pub(super) replays: BTreeMap<u16, Replay>,
}

/// The opened log and stores, and the replicas that were made of them.
pub struct Opened {
    pub log: Log,
    pub stores: Stores,
    /// They hold a mark for each of the replicas.
    pub marks: ReplicaMarks,
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
    /// Whether this gateway is a witness: its replicas of shards hold no state.
    pub is_witness: bool,
}

impl ReplicaSettings {
    /// The machine of a replica of which nothing is on disk.
    fn empty(&self, shard: ShardId) -> Machine {
        match self.holds_no_state(shard) {
            true => Machine::witness(shard, 0, None),
            false => Machine::new(shard, self.rules.clone()),
        }
    }

    /// Every gateway applies the directory.
    fn holds_no_state(&self, shard: ShardId) -> bool {
        self.is_witness && shard != DIRECTORY_GROUP
    }

    /// The settings of gateway `me`'s replica of this shard, whose first members the ring names.
    fn of(&self, me: GatewayId, shard: ShardId, ring: &Ring) -> ShardSettings {
        let members = ring.replicas(shard).to_vec();
        ShardSettings {
            group: GroupConfig::new(shard, me, members, self.limits.clone()),
            rules: self.rules.clone(),
            outbox_budget_bytes: self.outbox_budget_bytes,
            incarnation: self.incarnation,
        }
    }
}

/// Makes an empty replica of a shard that moves to gateway `me`. It votes in no configuration up to `configuration`, the
/// shard's present one, or the one up to which an earlier replica was given up ([`FoundReplica::learner`]). `damaged`
/// carries a number that no earlier start has drawn if an earlier replica may be lost with its votes
/// ([`ReplicaMarks::is_complete`]). The log has to know of the replica before it writes the replica's records
/// ([`super::LogWork::Add`]).
///
/// # Errors
/// [`ConfigError`], when the ring has no such shard.
pub fn new_replica(
    me: GatewayId,
    shard: ShardId,
    ring: &Ring,
    settings: &ReplicaSettings,
    configuration: u32,
    damaged: Option<u64>,
) -> Result<Replica, ConfigError> {
    if ring.replicas(shard).is_empty() {
        return Err(ConfigError::Count { group: shard, count: 0 });
    }
    let found = FoundReplica::learner(configuration.max(FIRST_CONFIGURATION));
    let found = match damaged {
        Some(nonce) => found.damaged(nonce),
        None => found,
    };
    let machine = settings.empty(shard);
    let core = ShardCore::recover(settings.of(me, shard, ring), machine, found)?;
    Ok(Replica::new(shard, core, false, settings.shelf_bytes))
}

/// Reads what is in the folders, and changes nothing.
///
/// # Errors
/// [`OpenError`], when something can't be read or belongs to another gateway.
pub fn read(folders: Folders, settings: LogOptions) -> Result<ReadStorage, OpenError> {
    let identity = settings.identity;
    let snapshots = SnapshotStore::open(folders.snapshots, identity, MAX_SNAPSHOT_BYTES)?;
    let mut replays = replays_of_witness(&snapshots)?;
    let mut visit = |record: LogRecord| replays.entry(record.group).or_default().record(record);
    let floor = Floor::read(folders.floor.clone(), identity)?;
    let marks = ReplicaMarks::read(folders.floor, identity)?;
    let reader = LogReader::new(folders.log.clone(), identity);
    let log = Log::read(folders.log, Some(floor), settings, &mut visit)?;
    for (group, replay) in &replays {
        if let Some(why) = replay.unreadable() {
            let (shard, why) = (ShardId(*group), why.to_string());
            return Err(OpenError::Unreadable { shard, what: "its log", why });
        }
    }
    // A base alone is no record of the log.
    replays.retain(|_, replay| replay.has_records());
    let batches = BatchStore::open(folders.batches, identity)?;
    Ok(ReadStorage { log, stores: Stores::new(snapshots, batches, reader), marks, replays })
}

impl ReadStorage {
    /// The summary of reading the log.
    pub fn recovery(&self) -> &Recovery {
        self.log.recovery()
    }

    /// The shards of the ring of which gateway `me` has a replica: those that it holds from their beginning, and those
    /// that have a mark or of which anything is on disk, because a replica moved here. Those that were given up are
    /// left out. The directory group is among them only if it has a mark or is on disk.
    ///
    /// # Errors
    /// [`LogError::Io`] when the snapshots can't be listed.
    pub fn shards(&self, me: GatewayId, ring: &Ring) -> Result<BTreeSet<ShardId>, LogError> {
        let damaged = &self.log.recovery().damaged_groups;
        let found = self.replays.keys().copied().chain(self.stores.snapshots.groups()?);
        let found =
            found.chain(self.stores.batches.groups()).chain(damaged.known().into_iter().flatten().copied());
        let found = found.chain(self.marks.held());
        let found = found.filter(|group| *group < ring.shards() || *group == DIRECTORY_GROUP.0).map(ShardId);
        let given_up = |shard: &ShardId| matches!(self.marks.get(shard.0), Some(ReplicaMark::GivenUp { .. }));
        Ok(found.chain(ring.shards_of(me)).filter(|shard| !given_up(shard)).collect())
    }

    /// Opens what was read, with a replica of each of the [`ReadStorage::shards`]. See [`ReadStorage::open_shards`].
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
        let shards = self.shards(me, ring)?;
        self.open_shards(me, shards, ring, settings, nonce)
    }

    /// Opens what was read, with replicas of these shards at gateway `me`, except those that were given up. The ring need
    /// not give it these shards: logs and snapshots name the present configurations. Reads all snapshots before it writes
    /// anything, and marks all replicas. `nonce` draws a number that no earlier start has drawn.
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
        let Self { log, mut stores, mut marks, mut replays } = self;
        let recovery = log.recovery().clone();
        let forgets = marks.is_damaged();
        let mut restored = Vec::new();
        let saved = stores.snapshots.groups()?;
        for id in shards {
            if matches!(marks.get(id.0), Some(ReplicaMark::GivenUp { .. })) {
                continue;
            }
            let machine = restore(&stores, id, settings)?;
            stores.batches.check_version(id.0)?;
            let marked = marks.get(id.0).is_some();
            restored.push((id, machine, replays.remove(&id.0), marked));
        }
        let mut log = log.begin()?;
        stores.snapshots.tidy()?;
        let here = restored.iter().map(|(id, ..)| id.0);
        marks.begin(here, recovery.damaged_groups.is_all())?;
        let mut replicas = BTreeMap::new();
        for (id, machine, replay, marked) in restored {
            let lost = machine.is_none();
            let machine = machine.unwrap_or_else(|| settings.empty(id));
            let slot = machine.slot();
            let has_stored = stores.batches.has_any(id.0);
            // The directory group of a gateway that is none of its first voters: a start asks for its replica before
            // there is one. It learns, like one that moves in.
            let elsewhere = !ring.replicas(id).contains(&me);
            let is_new = elsewhere && !marked && replay.is_none() && !saved.contains(&id.0) && !has_stored;
            let mut replay = replay.unwrap_or_default();
            let mut damaged = lost || recovery.damaged_groups.contains(id.0) || replay.is_damaged();
            damaged |= replay.lacks_records(slot, machine.configuration());
            let silent_until = match marks.get(id.0) {
                Some(ReplicaMark::Held { silent_until }) => silent_until,
                _ => 0,
            };
            // A replica that was made later has a record that says so, unless it was lost.
            damaged |= (silent_until > 0 || elsewhere) && !is_new && !replay.came_later();
            // The replica that was here from the beginning may have been given up.
            damaged |= forgets && !replay.has_records();
            // Whoever is none of the first members has no vote in the first configuration.
            replay.silent_until(silent_until.max(if elsewhere { FIRST_CONFIGURATION } else { 0 }));
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
            let found = match is_new && !damaged {
                true => FoundReplica::learner(FIRST_CONFIGURATION),
                false => replay.finish(slot, machine.configuration(), damaged.then(&mut *nonce)),
            };
            // The log need not keep what a snapshot covers, but does not remember that itself.
            log.keep_from(id.0, slot + 1);
            let shard = ShardCore::recover(settings.of(me, id, ring), machine, found)?;
            let mut replica = Replica::new(id, shard, has_stored, settings.shelf_bytes);
            replica.starts_with(log.room() == Room::Plenty);
            replicas.insert(id, replica);
        }
        Ok(Opened { log, stores, marks, recovery, replicas })
    }
}

/// Makes ready to read the log of a witness: for each replica whose snapshot is a base, the replay begins behind it.
fn replays_of_witness(snapshots: &SnapshotStore) -> Result<BTreeMap<u16, Replay>, LogError> {
    let mut replays = BTreeMap::new();
    for group in snapshots.groups()? {
        // What can't be read is dealt with later.
        let Ok(Some((_, bytes))) = snapshots.load_short(group, MAX_BASE_BYTES as u64) else { continue };
        if let Ok(machine) = Machine::restore(ShardId(group), Arc::default(), &bytes)
            && machine.is_witness()
        {
            let configuration = machine.configuration().cloned();
            replays.insert(group, Replay::of_witness(machine.slot(), configuration));
        }
    }
    Ok(replays)
}

/// The shard's machine as this gateway holds it, from its newest snapshot; `None` if that is damaged.
fn restore(stores: &Stores, id: ShardId, settings: &ReplicaSettings) -> Result<Option<Machine>, OpenError> {
    match found(stores, id, &settings.rules)? {
        Found::Nothing => Ok(Some(settings.empty(id))),
        Found::Damaged => Ok(None),
        Found::Machine(machine) if machine.is_witness() != settings.holds_no_state(id) => {
            let why = match machine.is_witness() {
                true => "it is the base of a witness, and this gateway holds full states",
                false => "it is a full state, and this gateway is a witness, which holds none",
            };
            Err(OpenError::Unreadable { shard: id, what: "its snapshot", why: why.to_string() })
        }
        Found::Machine(machine) => Ok(Some(*machine)),
    }
}

/// What is there of a shard in place of a snapshot: none, one that can't be used, or the machine that the newest one holds.
pub(super) enum Found {
    Nothing,
    Damaged,
    Machine(Box<Machine>),
}

pub(super) fn found(stores: &Stores, id: ShardId, rules: &Arc<CountingRules>) -> Result<Found, OpenError> {
    let damaged = |why: &dyn std::fmt::Display| {
        tracing::error!(shard = %id, "its snapshot is damaged, fetching one from a peer: {why}");
        Ok(Found::Damaged)
    };
    let bytes = match stores.snapshots.load_newest(id.0) {
        Ok(Some((_, bytes))) => bytes,
        Ok(None) => return Ok(Found::Nothing),
        Err(e @ LogError::Damaged { .. }) => return damaged(&e),
        Err(e) => return Err(e.into()),
    };
    match Machine::restore(id, rules.clone(), &bytes) {
        Ok(machine) => Ok(Found::Machine(Box::new(machine))),
        Err(e @ RestoreError::Damaged(_)) => damaged(&e),
        Err(e) if canary::makes(Canary::UnreadableIsDamage) => damaged(&e),
        Err(e) => Err(OpenError::Unreadable { shard: id, what: "its snapshot", why: e.to_string() }),
    }
}
