//! Performs the work on the log and on the store, one piece at a time.

use super::chosen::{Cursor, Turn};
use super::transfers::Served;
use crate::{
    BatchStore, Extent, Groups, Log, LogError, LogReader, OldestSegment, PinnedSnapshot, ReplicaMarks, Room,
    SnapshotStore,
};
use selvedge_fabric::machine::{CutBatch, Scan};
use selvedge_fabric::peer::TRANSFER_CHUNK_BYTES;
use selvedge_fabric::record::{LogRecord, Stretch, Suspect};
use selvedge_fabric::replica::{MAX_LOADING_ENTRIES, StoreWork, StoredBatch};
use selvedge_fabric::shard::{TransferAnswer, TransferRequest};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::mpsc::Sender;

/// How large the log is, and how far it can grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSize {
    pub segment_bytes: u64,
    /// Bytes handed to the disk since the log was opened.
    pub written_bytes: u64,
    /// Bytes that further segments may claim on this disk.
    pub free_bytes: u64,
}

/// One piece of work for the log.
#[derive(Debug)]
pub enum LogWork {
    /// Make these records durable.
    Write(Vec<LogRecord>),
    /// Find out whether there is room, and how long the log is; trim it.
    Look,
    /// A durable snapshot covers the shard's slots below `from`.
    Keep { shard: ShardId, from: u64 },
    /// The shard's damage is repaired.
    Healed(ShardId),
    /// The shard has a replica here from now on, which votes in no configuration up to `silent_until`. Nothing that it
    /// writes later is on disk before its mark ([`ReplicaMarks`]).
    Add { shard: ShardId, silent_until: u32 },
    /// The shard's replica is given up for good, while `through` is the shard's latest configuration: mark that, and forget
    /// its records. At a start, the same is done again for each mark that says so.
    GiveUp { shard: ShardId, through: u32 },
    /// Keep the shard's records from this slot on, whatever snapshots cover; `None` removes the pin.
    Pin(ShardId, Option<u64>),
    /// Find where the shard's records of slot `from` and later lie, for the replica on gateway `to`.
    Stretch { shard: ShardId, to: GatewayId, from: u64 },
    /// Send a scrub what each segment holds.
    Extents(Sender<Vec<Extent>>),
    /// A scrub found this segment rotten.
    Rotten(u64),
}

/// The most files that the store deletes of a given-up replica before it does other work.
const DROP_PIECE_ENTRIES: usize = 32;

/// The kinds of files that a gateway keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A segment of the log.
    Segment,
    Snapshot,
    Batch,
}

impl FileKind {
    /// The name of this kind in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Segment => "log",
            Self::Snapshot => "snapshot",
            Self::Batch => "batch",
        }
    }
}

/// The result of a piece of work on the log or the store.
#[derive(Debug)]
pub enum Done {
    /// The records are on disk.
    Written,
    /// Whether the disk has room.
    Room(bool),
    /// How long the log is.
    Looked {
        /// Its oldest segment, if it is not the only one.
        oldest: Option<OldestSegment>,
        /// The number of segments, without those that only pins keep.
        segments: u64,
        /// Whether the log must be trimmed because a segment has rotted.
        rotten: bool,
        size: LogSize,
    },
    /// A state is encoded: its shard continues, and the store has this to do.
    Encoded(ShardId, StoreWork),
    /// A snapshot through `slot` is on disk (`saved`), or there was no room for it.
    Snapshot { shard: ShardId, slot: u64, saved: bool },
    /// The store confirmed a scrub's suspicion: these batches of the shard are damaged or gone. At most
    /// [`MAX_LOADING_ENTRIES`].
    RottenBatches(ShardId, Vec<u64>),
    /// The store confirmed a scrub's suspicion: the shard's newest snapshot is damaged.
    RottenSnapshot(ShardId),
    /// The log has left this rotten segment, so that it can be trimmed.
    RottenSegment(u64),
    /// A rotten file is intact again, or no longer needed.
    Mended(FileKind),
    /// Where the shard's records of slot `from` and later lie; `None` if there are none.
    Stretch { shard: ShardId, to: GatewayId, from: u64, stretch: Option<Stretch> },
    /// The cursor of the replica on gateway `to` read a part of the stretch and has no value to give yet.
    ReadInPart { shard: ShardId, to: GatewayId, from: u64, stretch: Stretch },
    /// The answer to a replica that is behind, on gateway `to`.
    Transfer { shard: ShardId, to: GatewayId, answer: TransferAnswer },
    /// The shard's replica is given up, and the mark is on disk: its files may be deleted.
    GivenUp(ShardId),
    /// A part of the files of a replica that was given up is deleted.
    DroppedInPart(ShardId),
    /// Nothing is left of a replica that was given up.
    Dropped(ShardId),
    /// The store could not take this batch's content.
    NotStored(ShardId, CutBatch),
    /// A batch's content, as far as the store has it.
    Loaded { shard: ShardId, seq: u64, stored: StoredBatch },
    /// A query that has seen those of the contents it wanted that are here.
    Scanned {
        shard: ShardId,
        /// The ticket that the work came with.
        ticket: u64,
        scan: Box<Scan>,
    },
}

/// Owns the log, and performs the work on it.
///
/// The keeper holds on to a write for which a full disk has no room, and retries it whenever there may be room: nothing
/// in it was promised yet, and nothing else is written before it. The same holds for marks.
#[derive(Debug)]
pub struct LogKeeper {
    log: Log,
    /// They name the groups that have a replica here.
    marks: ReplicaMarks,
    /// Replicas that are here now, and whose marks found no room yet. Nothing is written before they have.
    unmarked: BTreeMap<u16, u32>,
    /// Replicas to give up, for which there was no room yet.
    leaving: BTreeMap<u16, u32>,
    stuck: Option<Vec<LogRecord>>,
    /// Segments that have rotted since the log was opened, and are not trimmed yet.
    rotten: BTreeSet<u64>,
}

impl LogKeeper {
    /// A keeper of this log and of the marks beside it.
    pub fn new(log: Log, marks: ReplicaMarks) -> Self {
        let (unmarked, leaving) = (BTreeMap::new(), BTreeMap::new());
        Self { log, marks, unmarked, leaving, stuck: None, rotten: BTreeSet::new() }
    }

    /// Damage that may concern any group is repaired once all groups with a replica here are: there are no others.
    fn close_repairs(&mut self) -> Result<(), LogError> {
        let damaged = self.log.damaged_groups();
        let here = |group: u16| damaged.contains(group);
        if damaged.is_all() && !self.marks.held().any(here) && !self.unmarked.keys().copied().any(here) {
            self.log.repaired(&Groups::all())?;
        }
        Ok(())
    }

    /// Marks the replicas that have no mark yet. Returns whether all have one now.
    fn mark(&mut self) -> Result<bool, LogError> {
        while let Some((group, silent_until)) = self.unmarked.first_key_value().map(|(g, c)| (*g, *c)) {
            match self.marks.hold(group, silent_until) {
                Err(e) if e.is_full() => {
                    tracing::warn!(shard = %ShardId(group), "no room to mark a replica, trying again: {e}");
                    return Ok(false);
                }
                result => result?,
            }
            self.unmarked.remove(&group);
        }
        Ok(true)
    }

    /// Gives up the replicas that are to be given up, as far as there is room.
    fn give_up(&mut self, done: &mut Vec<Done>) -> Result<(), LogError> {
        while let Some((group, through)) = self.leaving.first_key_value().map(|(g, c)| (*g, *c)) {
            let given_up = self.marks.give_up(group, through).and_then(|()| self.log.forget(group));
            match given_up {
                Err(e) if e.is_full() => {
                    tracing::warn!(shard = %ShardId(group), "no room to give a replica up, trying again: {e}");
                    return Ok(());
                }
                result => result?,
            }
            self.leaving.remove(&group);
            done.push(Done::GivenUp(ShardId(group)));
            self.close_repairs()?;
        }
        Ok(())
    }

    /// Has a rotten segment trimmed. The replicas' memory holds intact what was in it, so snapshots of that let the
    /// segment go. If the process ends before, its next start finds the damage.
    fn note_rotten(&mut self, number: u64, done: &mut Vec<Done>) -> Result<(), LogError> {
        if !self.log.has_segment(number) {
            return Ok(());
        }
        tracing::error!(segment = number, "a segment of the log has rotted: snapshots will replace it");
        match self.log.leave(number) {
            Ok(true) if self.rotten.insert(number) => done.push(Done::RottenSegment(number)),
            Ok(_) => {}
            Err(e) if e.is_full() => tracing::warn!("no room to begin another segment: {e}"),
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn trim(&mut self) -> Result<(), LogError> {
        match self.log.trim() {
            Err(e) if e.is_full() => tracing::warn!("no room to trim the log: {e}"),
            result => _ = result?,
        }
        Ok(())
    }

    fn write(&mut self, records: Vec<LogRecord>, done: &mut Vec<Done>) -> Result<(), LogError> {
        if !self.mark()? {
            self.stuck = Some(records);
            return Ok(());
        }
        match append(&mut self.log, &records).and_then(|()| self.log.sync()) {
            Ok(_) => done.push(Done::Written),
            Err(e) if e.is_full() || (e.is_too_large() && self.log.room() == Room::Full) => {
                tracing::warn!("no room in the log, trying again: {e}");
                self.stuck = Some(records);
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Performs one piece of work. Every result ends with whether the disk has room.
    ///
    /// # Errors
    /// The process must end: what the disk holds is unknown.
    pub fn perform(&mut self, work: LogWork) -> Result<Vec<Done>, LogError> {
        let mut done = Vec::new();
        match work {
            LogWork::Write(records) => self.write(records, &mut done)?,
            LogWork::Look => {
                self.give_up(&mut done)?;
                self.close_repairs()?;
                self.trim()?;
                self.log.retry_reserve()?;
                let oldest = self.log.oldest();
                // A pinned segment stays, whatever snapshots are made.
                let segments = self.log.stats().segments - self.log.pinned_segments() as u64;
                let last = self.rotten.last().copied();
                let rotten = oldest.as_ref().zip(last).is_some_and(|(oldest, last)| oldest.number <= last);
                let size = LogSize {
                    segment_bytes: self.log.segment_bytes(),
                    written_bytes: self.log.stats().bytes_written,
                    free_bytes: self.log.free_bytes()?,
                };
                done.push(Done::Looked { oldest, segments, rotten, size });
            }
            LogWork::Keep { shard, from } => {
                self.log.keep_from(shard.0, from);
                self.trim()?;
            }
            LogWork::Healed(shard) => {
                self.log.repaired(&Groups::these([shard.0]))?;
                self.close_repairs()?;
            }
            LogWork::Add { shard, silent_until } => {
                self.unmarked.insert(shard.0, silent_until);
                self.mark()?;
            }
            LogWork::GiveUp { shard, through } => {
                // Nothing rests on what it wanted to write.
                self.stuck.iter_mut().for_each(|stuck| stuck.retain(|record| record.group != shard.0));
                self.unmarked.remove(&shard.0);
                self.leaving.insert(shard.0, through);
                self.give_up(&mut done)?;
                self.trim()?;
            }
            LogWork::Pin(shard, from) => self.log.pin(shard.0, from),
            LogWork::Stretch { shard, to, from } => {
                let stretch = self.log.stretch(shard.0, from);
                done.push(Done::Stretch { shard, to, from, stretch });
            }
            LogWork::Extents(to) => _ = to.send(self.log.extents()),
            LogWork::Rotten(number) => self.note_rotten(number, &mut done)?,
        }
        let log = &self.log;
        self.rotten.retain(|number| {
            let there = log.has_segment(*number);
            if !there {
                tracing::info!(
                    segment = number,
                    "the rotten segment of the log is trimmed: snapshots cover what it held"
                );
                done.push(Done::Mended(FileKind::Segment));
            }
            there
        });
        if self.log.room() == Room::Plenty
            && let Some(records) = self.stuck.take()
        {
            self.write(records, &mut done)?;
        }
        done.push(Done::Room(self.log.room() == Room::Plenty && self.stuck.is_none()));
        Ok(done)
    }

    /// The marks of the replicas that are here, and of those that were given up.
    pub fn marks(&self) -> &ReplicaMarks {
        &self.marks
    }

    /// The log, for reading its state.
    pub fn log(&self) -> &Log {
        &self.log
    }
}

/// Writes records, in several batches if a segment can't take them at once.
fn append(log: &mut Log, records: &[LogRecord]) -> Result<(), LogError> {
    match log.append(records) {
        Err(e) if e.is_too_large() && records.len() > 1 => {
            let (front, back) = records.split_at(records.len() / 2);
            append(log, front)?;
            append(log, back)
        }
        result => result.map(|_| ()),
    }
}

/// The snapshots and the contents of batches, and the state of transfers that read them and the log.
#[derive(Debug)]
pub struct Stores {
    pub snapshots: SnapshotStore,
    /// Contents of uplink batches.
    pub batches: BatchStore,
    /// Groups whose snapshot a scrub has found rotten, until the next one is saved.
    rotten: BTreeSet<u16>,
    log: LogReader,
    /// The position in the log of each replica with a transfer, and the snapshot that it fetches.
    cursors: BTreeMap<Served, Cursor>,
    pinned: BTreeMap<Served, PinnedSnapshot>,
}

impl Stores {
    /// The stores, and a reader of the log beside them.
    pub fn new(snapshots: SnapshotStore, batches: BatchStore, log: LogReader) -> Self {
        let (cursors, pinned) = (BTreeMap::new(), BTreeMap::new());
        Self { snapshots, batches, rotten: BTreeSet::new(), log, cursors, pinned }
    }

    /// Answers what a replica that is behind asks about snapshots.
    fn transfer(
        &mut self,
        shard: ShardId,
        to: GatewayId,
        request: TransferRequest,
    ) -> Option<TransferAnswer> {
        let who = (shard, to);
        match request {
            TransferRequest::Snapshot { least } => {
                let newer = canary::makes(Canary::TransferReplaced);
                if newer || self.pinned.get(&who).is_none_or(|pinned| pinned.slot < least) {
                    self.pinned.remove(&who);
                    match self.snapshots.pin_newest(shard.0) {
                        Ok(found) => _ = found.map(|found| self.pinned.insert(who, found)),
                        Err(e) => tracing::warn!(%shard, "can't offer a snapshot, making another one: {e}"),
                    }
                }
                let of_use = self.pinned.get(&who).filter(|pinned| pinned.slot >= least);
                Some(of_use.map_or(TransferAnswer::NoSnapshot, |found| {
                    let (slot, bytes, crc) = (found.slot, found.bytes, found.crc);
                    TransferAnswer::Snapshot { slot, bytes, crc }
                }))
            }
            TransferRequest::State { slot, offset } => {
                let pinned = self.pinned.get(&who).filter(|pinned| pinned.slot == slot);
                let piece = pinned.map(|pinned| pinned.piece(offset, TRANSFER_CHUNK_BYTES));
                Some(match piece {
                    Some(Ok(data)) => TransferAnswer::State { slot, offset, data },
                    Some(Err(e)) => {
                        tracing::warn!(%shard, slot, "can't read more of a snapshot: {e}");
                        self.pinned.remove(&who);
                        TransferAnswer::NoState { slot }
                    }
                    None => TransferAnswer::NoState { slot },
                })
            }
            TransferRequest::Nothing => {
                self.cursors.remove(&who);
                self.pinned.remove(&who);
                None
            }
            TransferRequest::Log { .. } | TransferRequest::Contents => None, // the desk's
        }
    }

    /// Deletes a part of what there is of a replica that was given up. After an error, the next start goes on.
    fn drop_some(&mut self, shard: ShardId) -> Option<Done> {
        self.cursors.retain(|(of, _), _| *of != shard);
        self.pinned.retain(|(of, _), _| *of != shard);
        self.rotten.remove(&shard.0);
        let removed = self.snapshots.remove_all(shard.0);
        match removed.and_then(|()| self.batches.remove_some(shard.0, DROP_PIECE_ENTRIES)) {
            Ok(true) => Some(Done::DroppedInPart(shard)),
            Ok(false) => Some(Done::Dropped(shard)),
            Err(e) => {
                tracing::warn!(%shard, "can't delete what is left of a replica that was given up: {e}");
                None
            }
        }
    }

    fn read_log(&mut self, (shard, to): Served, from: u64, stretch: Stretch) -> Done {
        self.pinned.remove(&(shard, to)); // the replica has what it wanted of a snapshot
        let fresh = || Cursor::new(shard.0, stretch, from);
        let cursor = self.cursors.entry((shard, to)).or_insert_with(fresh);
        if !cursor.reaches_back_to(from) {
            *cursor = fresh();
        }
        let answer = match cursor.turn(&self.log, stretch.end, from) {
            Turn::Values(values) => TransferAnswer::Log { from, values },
            Turn::More => return Done::ReadInPart { shard, to, from, stretch },
            Turn::Ends => TransferAnswer::NothingYet { from },
            Turn::Gone => {
                self.cursors.remove(&(shard, to));
                TransferAnswer::NoLog { from }
            }
        };
        Done::Transfer { shard, to, answer }
    }

    /// Performs one piece of work.
    ///
    /// # Errors
    /// The process must end: what the disk holds is unknown.
    pub fn perform(&mut self, work: StoreWork) -> Result<Vec<Done>, LogError> {
        let mut done = Vec::new();
        match work {
            StoreWork::Encode(encoding) => {
                let (shard, work) = encoding.perform();
                done.push(Done::Encoded(shard, work));
            }
            StoreWork::Snapshot { shard, slot, bytes, lists, except } => {
                let saved = self.save(shard, slot, &bytes, lists, &except);
                match &saved {
                    Err(e) if !e.is_full() => return saved.map(|()| Vec::new()),
                    Err(e) => tracing::warn!(%shard, "no room for a snapshot, trying again later: {e}"),
                    Ok(()) => {}
                }
                let saved = saved.is_ok();
                done.extend(
                    (saved && self.rotten.remove(&shard.0)).then_some(Done::Mended(FileKind::Snapshot)),
                );
                done.push(Done::Snapshot { shard, slot, saved });
            }
            StoreWork::Batch(shard, batch) => match self.batches.put(shard.0, batch.seq, &batch.bytes) {
                Ok(true) => {
                    tracing::info!(%shard, seq = batch.seq, "a damaged uplink batch is whole again");
                    done.push(Done::Mended(FileKind::Batch));
                }
                Ok(false) => {}
                Err(e) => {
                    tracing::warn!(%shard, seq = batch.seq, "can't store an uplink batch, keeping it in memory: {e}");
                    done.push(Done::NotStored(shard, batch));
                }
            },
            StoreWork::Remove(shard, through) => {
                if let Err(e) = self.batches.remove_through(shard.0, through) {
                    tracing::warn!(%shard, "can't remove confirmed uplink batches: {e}");
                }
            }
            StoreWork::Load(shard, seq) => {
                let stored = match self.batches.get(shard.0, seq) {
                    Ok(Some(body)) => StoredBatch::Whole(body),
                    Ok(None) => StoredBatch::Gone,
                    Err(e) => {
                        tracing::error!(%shard, seq, "can't read an uplink batch, asking another gateway for it: {e}");
                        match e {
                            LogError::Damaged { .. } => StoredBatch::Gone,
                            _ => StoredBatch::Unsure,
                        }
                    }
                };
                done.push(Done::Loaded { shard, seq, stored });
            }
            StoreWork::Scan { shard, ticket, mut scan, shelf } => {
                for (seq, content) in shelf {
                    scan.look_at(seq, &content);
                }
                for seq in scan.wanted() {
                    match self.batches.get(shard.0, seq) {
                        Ok(Some(content)) => _ = scan.look_at(seq, &content),
                        Ok(None) => {}
                        Err(e) => {
                            tracing::error!(%shard, seq, "can't read a batch, asking other gateways: {e}")
                        }
                    }
                }
                done.push(Done::Scanned { shard, ticket, scan });
            }
            StoreWork::Drop(shard) => done.extend(self.drop_some(shard)),
            StoreWork::Check(suspect) => done.extend(self.check(suspect)?),
            StoreWork::Transfer { shard, to, request } => {
                let answer = self.transfer(shard, to, request);
                done.extend(answer.map(|answer| Done::Transfer { shard, to, answer }));
            }
            StoreWork::ReadLog { shard, to, from, stretch } => {
                done.push(self.read_log((shard, to), from, stretch));
            }
        }
        Ok(done)
    }

    /// Verifies a scrub's suspicion.
    fn check(&mut self, suspect: Suspect) -> Result<Option<Done>, LogError> {
        let (group, seqs) = match suspect {
            Suspect::Segment(_) => return Ok(None), // the log's
            Suspect::Snapshot { group, slot } => {
                if !self.snapshots.is_rotten(group, slot)? {
                    return Ok(None);
                }
                tracing::error!(shard = %ShardId(group), slot, "a snapshot has rotted: making another one");
                self.rotten.insert(group);
                return Ok(Some(Done::RottenSnapshot(ShardId(group))));
            }
            Suspect::Batch { group, seq } if self.batches.is_rotten(group, seq) => (group, vec![seq]),
            Suspect::Batch { .. } => return Ok(None),
            Suspect::Folder(group) => (group, self.batches.missing(group, MAX_LOADING_ENTRIES)?),
        };
        let shard = ShardId(group);
        for seq in &seqs {
            tracing::error!(%shard, seq, "an uplink batch has rotted: fetching it from another gateway");
        }
        Ok((!seqs.is_empty()).then_some(Done::RottenBatches(shard, seqs)))
    }

    fn save(
        &mut self,
        shard: ShardId,
        slot: u64,
        bytes: &[u8],
        lists: Option<RangeInclusive<u64>>,
        except: &BTreeSet<u64>,
    ) -> Result<(), LogError> {
        if let Some(lists) = lists {
            // A batch that was handed over earlier may have found no room.
            let lacks = |seq: &u64| !self.batches.has(shard.0, *seq) && !except.contains(seq);
            if let Some(seq) = lists.into_iter().find(lacks) {
                return Err(LogError::Full { what: format!("batch {seq} of {shard} beside its snapshot") });
            }
        }
        self.batches.sync(shard.0, u64::MAX)?;
        self.snapshots.save(shard.0, slot, bytes)
    }
}
