//! One replica with the things that its host must keep in order: messages that wait for the disk, and the contents
//! of uplink batches, the newest in memory and the older ones in a store.
//!
//! # Protocol
//!
//! The records of the shard's core go to the log under a token. Messages that may leave only afterwards are held
//! until the log reports that the token is on disk.
//!
//! Contents of batches lie on a shelf in memory. When the store lacks too many bytes of them, and before each
//! snapshot, the replica gives them to the store, and the oldest leave the shelf. A content is deleted when its
//! batch is released, not before. If the store can't return a content (its sectors rotted), the replica fetches it
//! from the other replicas, which have the same bytes; a content that all have lost is given up (see [`sought`]).
//!
//! A question about recent windows ([`Scan`]) goes to the store together with the contents on the shelf. There the
//! rest is read and all of it evaluated, away from the threads on which the protocol runs. Contents that the store
//! lacks are fetched from the other replicas; the answer counts those that they lack too.
//!
//! # Invariants and limits
//!
//! Invariant: a message held for a token leaves only when the log has reported that token, in the order of the
//! tokens.
//! Invariant: after a restart only those contents count as stored that a durable snapshot lists. Other files that
//! are found may be torn; those batches were cut after the snapshot, so applying the log again cuts them again.
//! Invariant: a content leaves the shelf only when it was given to the store individually, and comes back if
//! the store could not take it.
//! Invariant: a snapshot goes to the store behind every content that it lists, and before anything that was applied
//! later.
//! Invariant: the replica reports a repair to the log only when everything that the repair rests on is on disk.
//! Limits: at most [`MAX_LOADING_ENTRIES`] contents are being loaded or fetched at a time; further requests go
//! unanswered and are repeated by their senders. At most [`MAX_SCANS_ENTRIES`] questions are under way. The shelf
//! holds one batch more than its bound; while the disk is full it holds the contents that the store could not take,
//! which the outbox budget bounds.

mod sought;

use super::commit::CommitRequest;
use super::configuration::{Configuration, ReconfigureRefused};
use super::directory::Directory;
use super::machine::{Counters, CutBatch, DueWill, Halt, Machine, Scan};
use super::peer::{BatchAnswer, PeerMessage, QueryAnswer, TransferMessage};
use super::shard::{
    Now, Scanning, ShardCore, ShardEvent, SnapshotState, TransferAnswer, TransferRequest, UplinkView,
};
use super::uplink::UplinkContent;
use crate::record::{Stretch, Suspect};
use selvedge_paxos::Slot;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::LostBatch;
use sought::Sought;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// How many bytes of batches' contents stay in memory, unless the settings say otherwise.
pub const SHELF_BYTES: usize = 32 * 1024;
/// How many contents may be on their way from the store or from peers.
pub const MAX_LOADING_ENTRIES: usize = 256;
/// How many questions about recent windows may be under way.
pub const MAX_SCANS_ENTRIES: usize = 16;
/// How long a question waits for contents that only other replicas have, in milliseconds.
pub const FETCH_WAIT_MS: u64 = 400;

/// The host's messages to the replica, beside the shard's own events.
#[derive(Debug)]
pub enum Said {
    /// Records up to this token are on disk.
    Persisted(u64),
    /// Whether the disk has room.
    Room(bool),
    /// The log needs a snapshot in order to be trimmed.
    SnapshotWanted,
    /// The attempt to make a snapshot durable has ended.
    SnapshotSaved {
        /// The last slot that the snapshot covers.
        slot: Slot,
        /// Whether the snapshot is on disk.
        saved: bool,
    },
    /// The newest snapshot on disk has rotted.
    SnapshotRotten,
    /// The encoding of the machine lent for a snapshot is done.
    MachineReturned,
    /// Contents in the store have rotted, or are missing.
    RottenBatches(Vec<u64>),
    /// The store could not take this batch's content.
    NotStored(CutBatch),
    /// The store has looked for a batch's content.
    Loaded {
        seq: u64,
        /// What the store found of the batch.
        stored: StoredBatch,
    },
    /// The answer to [`StoreWork::Transfer`].
    Transfer {
        /// The replica that is behind.
        to: GatewayId,
        /// What the disk offers for it.
        answer: TransferAnswer,
    },
    /// A question for which the store has evaluated everything that it has.
    Scanned {
        /// The ticket of [`StoreWork::Scan`].
        ticket: u64,
        /// The store doesn't have the contents that the question still needs.
        scan: Box<Scan>,
    },
}

/// The result of reading a batch's content from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredBatch {
    /// The content, unchanged since it was cut.
    Whole(Vec<u8>),
    /// No content: the file is missing or damaged.
    Gone,
    /// The file can't be read just now, or another release wrote it.
    Unsure,
}

/// A state to encode as a snapshot. The host does this on a thread that nothing else waits for, because encoding a
/// large state takes long.
#[derive(Debug)]
pub struct Encoding {
    shard: ShardId,
    slot: Slot,
    machine: Arc<Machine>,
    lists: RangeInclusive<u64>,
    except: BTreeSet<u64>,
}

impl Encoding {
    /// Encodes the state and releases the machine. Returns the shard that waits for that, and the store's next
    /// work.
    pub fn perform(self) -> (ShardId, StoreWork) {
        let Self { shard, slot, machine, lists, except } = self;
        let bytes = machine.snapshot();
        drop(machine);
        (shard, StoreWork::Snapshot { shard, slot, bytes, lists: Some(lists), except })
    }
}

/// Work for the store of snapshots and batches.
#[derive(Debug)]
pub enum StoreWork {
    /// Encode a state, and then make it durable.
    Encode(Encoding),
    /// Make a snapshot durable, and before it the contents of the batches that it lists.
    Snapshot {
        shard: ShardId,
        /// The last slot that the snapshot covers.
        slot: Slot,
        bytes: Vec<u8>,
        /// The store must have the contents of these batches before the snapshot counts. None for a fetched
        /// snapshot, which lists batches that were released while it was being transferred.
        lists: Option<RangeInclusive<u64>>,
        /// Exceptions: batches that are confirmed or lost, and whose contents no replica that was asked has.
        except: BTreeSet<u64>,
    },
    /// Keep a batch's content out of memory.
    Batch(ShardId, CutBatch),
    /// Delete the contents of batches up to a seq.
    Remove(ShardId, u64),
    /// Delete a part of what there is of a shard whose replica was given up, its snapshots first.
    Drop(ShardId),
    /// Check again what a scrub suspects.
    Check(Suspect),
    /// Read a batch's content.
    Load(ShardId, u64),
    /// Read something from disk for another replica of the shard, which is behind.
    Transfer {
        shard: ShardId,
        /// The replica that is behind.
        to: GatewayId,
        /// What to read for it.
        request: TransferRequest,
    },
    /// Read chosen values out of this range of the log.
    ReadLog {
        shard: ShardId,
        /// The replica that is behind.
        to: GatewayId,
        /// The first slot that it needs.
        from: Slot,
        /// The range of the log that holds the records.
        stretch: Stretch,
    },
    /// Evaluate the contents that a question needs.
    Scan {
        shard: ShardId,
        /// Comes back with the answer, [`Said::Scanned`].
        ticket: u64,
        scan: Box<Scan>,
        /// Contents that are in memory.
        shelf: Vec<(u64, Arc<[u8]>)>,
    },
}

/// The effects of a turn, which the host performs in this order.
#[derive(Debug, Default)]
pub struct ReplicaEffects {
    /// To send at once. Messages to this gateway itself are for its own forwarder and queries.
    pub send: Vec<(GatewayId, PeerMessage)>,
    /// For the log; the host answers with [`Said::Persisted`].
    pub persist: Option<CommitRequest>,
    /// For the log, behind the records persisted before: the damage that it reported is repaired.
    pub healed: bool,
    /// For the store, in this order.
    pub store: Vec<StoreWork>,
    /// Contents that the uplink asked for.
    pub loaded: Vec<(u64, UplinkContent)>,
    /// Batches that are lost from now on, on every replica; re-applied slots report them again after a restart.
    pub lost: Vec<(u64, LostBatch)>,
    /// A transfer to this replica was given up: its sender, and why. The replica asks for it again.
    pub given_up: Option<(GatewayId, &'static str)>,
    /// This replica began to lead, which this gateway's forwarder and metrics must know.
    pub began_to_lead: bool,
    /// The uplink's view of this shard, when it changed.
    pub uplink: Option<UplinkView>,
    /// Wills that this gateway must publish.
    pub wills: Vec<DueWill>,
    /// Counts from applying; re-applied slots count again after a restart.
    pub counters: Vec<Counters>,
    /// The later configuration that has begun here, if one has (see
    /// [`ShardEffects::configured`](super::shard::ShardEffects::configured)).
    pub configured: Option<Configuration>,
    /// The directory as applied here, when it changed (see
    /// [`ShardEffects::directory`](super::shard::ShardEffects::directory)).
    pub directory: Option<Arc<Directory>>,
    /// The directory's orders that this replica refused to propose: the order's slot in the directory, and the reason.
    pub refused: Vec<(Slot, ReconfigureRefused)>,
}

/// The requesters that wait for a content.
#[derive(Debug, Default)]
struct Waiting {
    uplink: bool,
    peers: BTreeSet<GatewayId>,
}

/// A content on the shelf.
#[derive(Debug)]
struct Shelved {
    body: Arc<[u8]>,
    /// Whether the store was given the content. It reports if it can't take it.
    stored: bool,
}

/// A question about recent windows that this replica is answering.
#[derive(Debug)]
struct UnderWay {
    to: GatewayId,
    id: u64,
    /// None while the store works on it.
    scan: Option<Box<Scan>>,
    /// Until when it waits for contents from other replicas.
    until_ms: u64,
}

/// One shard's replica, with what its host keeps for it.
#[derive(Debug)]
pub struct Replica {
    id: ShardId,
    me: GatewayId,
    core: ShardCore,
    /// Messages that wait for a token, by token.
    held: BTreeMap<u64, Vec<(GatewayId, PeerMessage)>>,
    shelf: BTreeMap<u64, Shelved>,
    shelf_bytes: usize,
    unstored_bytes: usize,
    most_shelf_bytes: usize,
    /// The store may hold contents, to be removed once they are released.
    uses_store: bool,
    waiting: BTreeMap<u64, Waiting>,
    /// Batches whose contents this replica lacks and is asking the other replicas for.
    sought: BTreeMap<u64, Sought>,
    /// Contents just fetched go to the store at once, because it holds none of them whole.
    mending: bool,
    /// Batches whose contents the sender of a fetched snapshot did not have.
    absent: BTreeSet<u64>,
    scans: BTreeMap<u64, UnderWay>,
    last_ticket: u64,
    /// A repair that waits for this token.
    healing: Option<u64>,
    leading: bool,
    out: ReplicaEffects,
}

impl Replica {
    /// A replica around a recovered shard. `has_stored`: the store holds contents of its batches.
    pub fn new(id: ShardId, core: ShardCore, has_stored: bool, most_shelf_bytes: usize) -> Self {
        let me = core.consensus().config().me;
        let mut out = ReplicaEffects::default();
        if has_stored {
            // A crash may have brought back deleted files.
            out.store.push(StoreWork::Remove(id, core.machine().outbox_stats().kept));
        }
        Self {
            id,
            me,
            core,
            held: BTreeMap::new(),
            shelf: BTreeMap::new(),
            shelf_bytes: 0,
            unstored_bytes: 0,
            most_shelf_bytes,
            uses_store: has_stored,
            waiting: BTreeMap::new(),
            sought: BTreeMap::new(),
            mending: false,
            absent: BTreeSet::new(),
            scans: BTreeMap::new(),
            last_ticket: 0,
            healing: None,
            leading: false,
            out,
        }
    }

    /// Sets whether the disk has room when the process starts; later changes come as [`Said::Room`].
    pub fn starts_with(&mut self, room: bool) {
        self.core.step(Now { mono_ms: 0, wall: EpochMs(0), sure: false }, ShardEvent::Room(room));
    }

    /// Whether a batch's content is in memory, or known to be lost here and at the replicas that were asked for it.
    pub fn needs_no_store(&self, seq: u64) -> bool {
        let lost = || self.core.machine().batch_record(seq).is_some_and(|record| record.lost);
        self.shelf.contains_key(&seq) || self.absent.contains(&seq) || lost()
    }

    /// Read access to the shard's core.
    pub fn core(&self) -> &ShardCore {
        &self.core
    }

    /// Whether the host may give this replica up while `configuration` is the latest one of its shard, as far as the
    /// directory knows: the replica has left the shard, and nothing is being written for it that the log or the store
    /// would report later.
    pub fn may_be_given_up(&self, configuration: u32) -> bool {
        let is_over = self.core.configuration().number <= configuration;
        is_over && self.core.is_retired() && !self.core.saves_snapshot()
    }

    /// Takes in an event of the shard.
    pub fn step(&mut self, now: Now, event: ShardEvent) {
        match &event {
            ShardEvent::Transfer { from, message: TransferMessage::Batch { seq, answer }, .. }
                if self.sought.contains_key(seq) =>
            {
                let (from, seq, answer) = (*from, *seq, answer.clone());
                self.found(now, from, seq, answer);
            }
            ShardEvent::Timer => self.finish_scans(now),
            _ => {}
        }
        self.core.step(now, event);
    }

    /// Takes in a message of the host.
    pub fn said(&mut self, now: Now, said: Said) {
        match said {
            Said::Persisted(token) => {
                let later = self.held.split_off(&(token + 1));
                let free = std::mem::replace(&mut self.held, later);
                self.out.send.extend(free.into_values().flatten());
                self.out.healed |= self.healing.take_if(|t| *t <= token).is_some();
                self.core.step(now, ShardEvent::Persisted { token });
            }
            Said::Room(room) => self.core.step(now, ShardEvent::Room(room)),
            Said::SnapshotWanted => self.core.step(now, ShardEvent::SnapshotWanted),
            Said::MachineReturned => self.core.step(now, ShardEvent::MachineReturned),
            Said::SnapshotRotten => self.core.step(now, ShardEvent::SnapshotRotten),
            Said::RottenBatches(seqs) => {
                self.mending = true;
                for seq in seqs {
                    let kept = self.core.machine().batch_record(seq).is_some_and(|record| !record.lost);
                    match self.on_shelf(seq) {
                        Some(body) => self.put(seq, body), // to be stored again
                        None if kept => self.ask_peers(now, seq, true),
                        None => {} // released meanwhile, or lost everywhere
                    }
                }
            }
            Said::NotStored(batch) => {
                // Nothing is lost: the log holds what the content was made of, and the next snapshot stores it
                // again.
                self.put(batch.seq, batch.bytes.into());
            }
            Said::SnapshotSaved { slot, saved } => {
                self.core.step(now, ShardEvent::SnapshotSaved { slot, saved });
            }
            Said::Loaded { seq, stored } => {
                let listed = self.core.machine().batch_record(seq).is_some();
                let answer = match (stored, self.on_shelf(seq)) {
                    (StoredBatch::Whole(body), _) => BatchAnswer::Here(body.into()),
                    (_, Some(body)) => BatchAnswer::Here(body),
                    (StoredBatch::Gone, None) if listed => BatchAnswer::Lost,
                    (StoredBatch::Gone | StoredBatch::Unsure, None) => BatchAnswer::Unsure,
                };
                // A replica that asks can ask others itself: two that both lack a content would ask each other
                // forever.
                let wanted = self.waiting.get(&seq).is_some_and(|waiting| waiting.uplink);
                if wanted && listed && !matches!(answer, BatchAnswer::Here(_)) {
                    self.ask_peers(now, seq, answer == BatchAnswer::Lost); // the uplink asks again later
                }
                self.hand_out(seq, answer);
            }
            Said::Scanned { ticket, scan } => self.scanned(now, ticket, scan),
            Said::Transfer { to, answer } => self.core.step(now, ShardEvent::TransferAnswered { to, answer }),
        }
    }

    /// Starts to load a batch's content for the uplink; it comes with [`ReplicaEffects::loaded`].
    pub fn load(&mut self, seq: u64) {
        let lost = self.core.machine().batch_record(seq).filter(|record| record.lost);
        if let Some(record) = lost {
            return self.out.loaded.push((seq, UplinkContent::Lost(record.as_lost())));
        }
        match self.on_shelf(seq) {
            Some(body) => self.out.loaded.push((seq, UplinkContent::Here(body.to_vec()))),
            None => self.look_up(seq, |waiting| waiting.uplink = true),
        }
    }

    /// Takes the effects of everything since the last call.
    ///
    /// # Errors
    /// Returned if the replica can't go on without diverging from the others: the process must end.
    pub fn take(&mut self, now: Now) -> Result<ReplicaEffects, Halt> {
        let effects = self.core.take(now)?;
        self.out.send.extend(effects.send);
        let shard = self.id;
        if !effects.records.is_empty() {
            let token = effects.token;
            self.out.persist = Some(CommitRequest { shard, token, records: effects.records });
            self.held.entry(token).or_default().extend(effects.send_after);
        } else if let Some(mut last) = self.held.last_entry() {
            last.get_mut().extend(effects.send_after);
        } else {
            self.out.send.extend(effects.send_after);
        }
        if effects.healed {
            match self.held.last_key_value() {
                Some((token, _)) => self.healing = Some(*token),
                None => self.out.healed = true,
            }
        }
        for batch in effects.cut {
            self.put(batch.seq, batch.bytes.into());
        }
        for seq in effects.lost {
            self.take_off(seq);
            self.sought.remove(&seq);
            let record = self.core.machine().batch_record(seq);
            self.out.lost.extend(record.map(|record| (seq, record.as_lost())));
        }
        self.absent.extend(effects.skipped);
        self.out.given_up = effects.given_up;
        for scanning in effects.scans {
            self.begin_scan(scanning);
        }
        let most_unstored_bytes = if std::mem::take(&mut self.mending) { 0 } else { self.most_shelf_bytes };
        self.shelve(most_unstored_bytes);
        if let Some(through) = effects.released {
            self.release(through);
        }
        if let Some((slot, state)) = effects.snapshot {
            self.shelve(0);
            let outbox = self.core.machine().outbox_stats();
            let absent = self.absent.range(..=outbox.cursor).copied();
            let except = absent.chain(self.core.machine().lost_batches()).collect();
            self.out.store.push(match state {
                SnapshotState::Lent(machine) => {
                    let lists = outbox.kept + 1..=outbox.last;
                    StoreWork::Encode(Encoding { shard, slot, machine, lists, except })
                }
                SnapshotState::Ready(bytes) => {
                    StoreWork::Snapshot { shard, slot, bytes, lists: None, except }
                }
            });
        }
        for (to, seq) in effects.fetch {
            match self.on_shelf(seq) {
                Some(body) => self.hand_over(to, seq, BatchAnswer::Here(body)),
                None => self.look_up(seq, |waiting| {
                    waiting.peers.insert(to);
                }),
            }
        }
        for (to, request) in effects.transfers {
            self.out.store.push(StoreWork::Transfer { shard, to, request });
        }
        if let Some(view) = effects.uplink {
            self.out.began_to_lead = view.leading && !self.leading;
            self.leading = view.leading;
            self.out.uplink = Some(view);
        }
        self.out.wills = effects.wills;
        self.out.counters = effects.counters;
        (self.out.configured, self.out.refused) = (effects.configured, effects.refused);
        self.out.directory = effects.directory;
        Ok(std::mem::take(&mut self.out))
    }

    /// When the replica next needs [`ShardEvent::Timer`], on the monotonic clock.
    pub fn deadline_ms(&mut self, now: Now) -> Option<u64> {
        let fetching = self.scans.values().filter(|s| s.scan.is_some()).map(|s| s.until_ms).min();
        [self.core.deadline_ms(now), fetching].into_iter().flatten().min()
    }

    fn on_shelf(&self, seq: u64) -> Option<Arc<[u8]>> {
        self.shelf.get(&seq).map(|shelved| shelved.body.clone())
    }

    /// Puts a content on the shelf that the store does not have.
    fn put(&mut self, seq: u64, body: Arc<[u8]>) {
        self.take_off(seq);
        self.absent.remove(&seq);
        self.sought.remove(&seq);
        self.shelf_bytes += body.len();
        self.unstored_bytes += body.len();
        self.shelf.insert(seq, Shelved { body, stored: false });
    }

    fn take_off(&mut self, seq: u64) {
        if let Some(old) = self.shelf.remove(&seq) {
            self.shelf_bytes -= old.body.len();
            self.unstored_bytes -= if old.stored { 0 } else { old.body.len() };
        }
    }

    /// Gives the store the contents that it lacks, if they have more bytes than this. Then the oldest contents
    /// leave the shelf while it holds more than may stay in memory.
    fn shelve(&mut self, most_unstored_bytes: usize) {
        if self.unstored_bytes > most_unstored_bytes {
            for (seq, shelved) in self.shelf.iter_mut().filter(|(_, shelved)| !shelved.stored) {
                shelved.stored = true;
                let batch = CutBatch { seq: *seq, bytes: shelved.body.to_vec() };
                self.out.store.push(StoreWork::Batch(self.id, batch));
            }
            (self.unstored_bytes, self.uses_store) = (0, true);
        }
        while self.shelf_bytes > self.most_shelf_bytes && self.shelf.len() > 1 {
            let Some((seq, _)) = self.shelf.first_key_value().filter(|(_, first)| first.stored) else {
                break;
            };
            self.take_off(*seq);
        }
    }

    /// Drops the contents up to this seq, which no replica needs any more.
    fn release(&mut self, through: u64) {
        let early = canary::makes(Canary::ConfirmedIsDeleted);
        let through = if early { self.core.machine().outbox_stats().cursor } else { through };
        while let Some((seq, _)) = self.shelf.first_key_value().filter(|(seq, _)| **seq <= through) {
            self.take_off(*seq);
        }
        self.sought = self.sought.split_off(&(through + 1));
        self.absent = self.absent.split_off(&(through + 1));
        if self.uses_store {
            self.out.store.push(StoreWork::Remove(self.id, through));
        }
    }

    /// Begins a question that the shard has admitted: the store evaluates the contents that it needs.
    fn begin_scan(&mut self, Scanning { to, id, scan }: Scanning) {
        if scan.is_complete() {
            return self.answer(to, id, QueryAnswer::Windows(scan.finish()));
        }
        if self.scans.len() >= MAX_SCANS_ENTRIES {
            return self.answer(to, id, QueryAnswer::Unavailable);
        }
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        self.scans.insert(ticket, UnderWay { to, id, scan: None, until_ms: 0 });
        let shelf = scan.wanted().into_iter().filter_map(|seq| Some((seq, self.on_shelf(seq)?))).collect();
        self.out.store.push(StoreWork::Scan { shard: self.id, ticket, scan: Box::new(scan), shelf });
    }

    /// Takes a question back from the store and asks the other replicas for the contents that the store lacks.
    fn scanned(&mut self, now: Now, ticket: u64, mut scan: Box<Scan>) {
        for seq in scan.wanted() {
            let kept = self.core.machine().batch_record(seq).is_some_and(|record| !record.lost);
            match self.on_shelf(seq) {
                Some(body) => _ = scan.look_at(seq, &body),
                None if kept => self.ask_peers(now, seq, false),
                None => {} // released meanwhile, or lost everywhere
            }
        }
        let hoped_for = |seq: &u64| self.sought.contains_key(seq);
        let hopeless: Vec<u64> = scan.wanted().into_iter().filter(|seq| !hoped_for(seq)).collect();
        hopeless.into_iter().for_each(|seq| scan.give_up(seq));
        if let Some(under_way) = self.scans.get_mut(&ticket) {
            (under_way.scan, under_way.until_ms) = (Some(scan), now.mono_ms + FETCH_WAIT_MS);
        }
        self.finish_scans(now);
    }

    /// Answers the questions that are complete or have waited long enough.
    fn finish_scans(&mut self, now: Now) {
        let done = |s: &UnderWay| {
            s.scan.as_ref().is_some_and(|scan| scan.is_complete() || s.until_ms <= now.mono_ms)
        };
        let done: Vec<u64> = self.scans.iter().filter(|(_, s)| done(s)).map(|(ticket, _)| *ticket).collect();
        for ticket in done {
            if let Some(UnderWay { to, id, scan: Some(scan), .. }) = self.scans.remove(&ticket) {
                self.answer(to, id, QueryAnswer::Windows(scan.finish()));
            }
        }
    }

    fn answer(&mut self, to: GatewayId, id: u64, answer: QueryAnswer) {
        self.out.send.push((to, PeerMessage::Answer { id, answer }));
    }

    fn look_up(&mut self, seq: u64, note: impl FnOnce(&mut Waiting)) {
        if self.waiting.len() < MAX_LOADING_ENTRIES || self.waiting.contains_key(&seq) {
            note(self.waiting.entry(seq).or_default());
            self.out.store.push(StoreWork::Load(self.id, seq));
        }
    }

    /// Answers the requesters that wait for a content.
    fn hand_out(&mut self, seq: u64, answer: BatchAnswer) {
        let Some(waiting) = self.waiting.remove(&seq) else { return };
        for to in waiting.peers {
            self.hand_over(to, seq, answer.clone());
        }
        if waiting.uplink {
            let content = match answer {
                BatchAnswer::Here(body) => UplinkContent::Here(body.to_vec()),
                BatchAnswer::Unsure | BatchAnswer::Lost => UplinkContent::NotNow,
            };
            self.out.loaded.push((seq, content));
        }
    }

    fn hand_over(&mut self, to: GatewayId, seq: u64, answer: BatchAnswer) {
        self.say(to, TransferMessage::Batch { seq, answer });
    }

    fn say(&mut self, to: GatewayId, message: TransferMessage) {
        let (shard, configuration) = (self.id, self.core.configuration().number);
        self.out.send.push((to, PeerMessage::Transfer { shard, configuration, message }));
    }
}
