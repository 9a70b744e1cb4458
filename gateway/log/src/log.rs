//! Writing: units go into the active segment, with one fdatasync per batch; a reserve segment lies ready, and trimming
//! removes old ones.

use super::begin;
use super::damage::{Groups, LogDamage};
use super::disk::{Disk, DiskFile};
use super::error::LogError;
use super::floor::Floor;
use super::form::{
    self, HEADER_BYTES, Header, LogIdentity, MAX_PAYLOAD_BYTES, MAX_STATE_PAYLOAD_BYTES, RECORD_HEAD_BYTES,
    UnitForm, UnitRole,
};
use super::found::{self, FoundLog, Recovery, SegmentInfo, States};
use super::recovery;
use super::scrub::Extent;
use super::segment;
use selvedge_fabric::record::{LogRecord, Position, Stretch};
use selvedge_types::canary::{self, Canary};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The smallest segment that settings may ask for.
pub const MIN_SEGMENT_BYTES: u64 = 4 * 1024;

/// The most segments that stay for the sake of pins alone.
pub const MAX_PINNED_SEGMENTS: usize = 32;

const LOCK_NAME: &str = "LOCK";

/// Bytes of encoding buffer that are kept from one batch to the next.
const BUFFER_BYTES: usize = 1024 * 1024;

/// How a log is kept. Options may differ from one opening to the next.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Identifies the log: a log of another identity is refused. Derive it from site, gateway and incarnation.
    pub identity: LogIdentity,
    /// Length of a segment in bytes, claimed on disk when the segment is made.
    pub segment_bytes: u64,
    /// A batch is split into units of at most this many bytes (a longer record gets a unit of its own).
    pub unit_bytes: usize,
    /// Bytes that a new reserve must leave free on the disk, so that snapshots and other files can still be written.
    pub keep_free_bytes: u64,
    /// The floor is raised at least each time this many bytes became durable, at the price of one more fdatasync. At
    /// most this much can be cut from the last segment unnoticed.
    pub floor_every_bytes: u64,
}

impl LogOptions {
    /// The defaults: segments of 16 MiB, units of 1 MiB, 64 MiB kept free, and a floor every MiB.
    pub fn new(identity: LogIdentity) -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            identity,
            segment_bytes: 16 * MIB,
            unit_bytes: MIB as usize,
            keep_free_bytes: 64 * MIB,
            floor_every_bytes: MIB,
        }
    }

    fn check(&self) -> Result<(), LogError> {
        let within = |setting, value: u64, least, most| {
            let sound = (least..=most).contains(&value);
            if sound { Ok(()) } else { Err(LogError::Setting { setting, value, least, most }) }
        };
        within("segment_bytes", self.segment_bytes, MIN_SEGMENT_BYTES, segment::MAX_SEGMENT_BYTES)?;
        within("unit_bytes", self.unit_bytes as u64, 512, MAX_PAYLOAD_BYTES as u64)
    }
}

/// Whether the log can keep growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// A reserve segment is claimed.
    Plenty,
    /// No reserve could be claimed: accept nothing new, trim, and call [`Log::retry_reserve`] from time to time. Work
    /// that is under way still fits into the active segment, which had just been begun when this was noticed.
    Full,
}

/// Counters of work since the log was opened, and its size now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes handed to the disk: units, seals and headers.
    pub bytes_written: u64,
    pub records: u64,
    /// Units written, seals included.
    pub units: u64,
    /// Calls of fdatasync, those for making segments and raising the floor included.
    pub fsyncs: u64,
    /// Segments that exist now, the reserve included.
    pub segments: u64,
    /// Bytes that those segments claim on disk.
    pub disk_bytes: u64,
}

/// The segment that trimming has to remove next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldestSegment {
    pub number: u64,
    /// Bytes that it claims on disk.
    pub bytes: u64,
    /// The highest slot of every group that has records with slots in it. A group whose `keep_from` is not above its
    /// slot holds the segment back.
    pub slots: BTreeMap<u16, u64>,
    /// Whether damage in the segment holds it back, until [`Log::repaired`].
    pub damaged: bool,
}

/// The log of one gateway, for all its groups. The crate's documentation describes it.
pub struct Log {
    disk: Arc<dyn Disk>,
    settings: LogOptions,
    _lock: Box<dyn Send>,
    floor: Option<Floor>,
    /// In order; the last one is the active segment.
    segments: VecDeque<SegmentInfo>,
    active: Box<dyn DiskFile>,
    reserve: Option<(SegmentInfo, Box<dyn DiskFile>)>,
    states: States,
    damage: LogDamage,
    keep_from: BTreeMap<u16, u64>,
    /// The slot from which a group's records stay although a snapshot covers them, because a peer reads them.
    pins: BTreeMap<u16, u64>,
    /// Where the next unit goes.
    end: Position,
    /// Everything below is durable. Invariant: `synced <= end`.
    synced: Position,
    next_sequence: u64,
    buffer: Vec<u8>,
    poison: Option<String>,
    stats: Stats,
}

/// Some consecutive records of a batch that become one unit.
struct Planned<'a> {
    records: &'a [LogRecord],
    groups: BTreeSet<u16>,
    bytes: u64,
}

/// A log that was read and not changed. Drop it if something else that the gateway keeps can't be read.
pub struct ReadLog {
    disk: Arc<dyn Disk>,
    settings: LogOptions,
    lock: Box<dyn Send>,
    floor: Option<Floor>,
    found: FoundLog,
}

impl ReadLog {
    /// The summary of reading the log.
    pub fn recovery(&self) -> &Recovery {
        &self.found.recovery
    }

    /// Makes the log writable. When this returns, everything that was read is durable.
    ///
    /// # Errors
    /// [`LogError::Full`] when there is no room for the new segment that opening needs; [`LogError::Io`].
    pub fn begin(self) -> Result<Log, LogError> {
        let Self { disk, settings, lock, floor, found } = self;
        let found = found.begin(disk.as_ref(), settings.identity, settings.segment_bytes)?;
        let mut log = Log {
            disk,
            settings,
            _lock: lock,
            floor,
            segments: found.segments.into(),
            active: found.active,
            reserve: None,
            states: found.states,
            damage: found.damage,
            keep_from: BTreeMap::new(),
            pins: BTreeMap::new(),
            end: found.end,
            synced: found.end,
            next_sequence: found.next_sequence,
            buffer: Vec::new(),
            poison: None,
            stats: Stats { bytes_written: u64::from(found.end.offset), fsyncs: 1, ..Stats::default() },
        };
        if let Some(floor) = log.floor.as_mut().filter(|floor| floor.at().is_none()) {
            // The segment exists, and says that records before it may be lost; it must not vanish either.
            floor.raise(Position { segment: log.end.segment, offset: 0 })?;
        }
        log.raise_floor(0)?;
        log.retry_reserve()?;
        Ok(log)
    }
}

impl Log {
    /// Reads the log in `disk` and gives every record to `visit`, in order. It changes nothing (except that it creates
    /// the empty lock file). A log that ends below its `floor` is damaged; without a floor a missing end goes
    /// unnoticed. The visitor's records may be relied on (for votes) only after [`ReadLog::begin`], which makes all of
    /// them durable.
    ///
    /// # Errors
    /// [`LogError::Locked`], [`LogError::Foreign`], [`LogError::Version`], [`LogError::Unreadable`],
    /// [`LogError::Setting`]; [`LogError::Io`].
    pub fn read(
        disk: Arc<dyn Disk>,
        floor: Option<Floor>,
        settings: LogOptions,
        visit: &mut dyn FnMut(LogRecord),
    ) -> Result<ReadLog, LogError> {
        settings.check()?;
        let lock = disk.lock(LOCK_NAME).map_err(|e| match e.kind() {
            std::io::ErrorKind::WouldBlock => LogError::Locked { name: disk.describe(LOCK_NAME) },
            _ => LogError::io("locking", &disk.describe(LOCK_NAME), e),
        })?;
        let at = floor.as_ref().map_or(Some(Position::default()), Floor::at);
        let at = if canary::makes(Canary::FloorIgnored) { Some(Position::default()) } else { at };
        let found = recovery::read(disk.as_ref(), settings.identity, at, visit)?;
        Ok(ReadLog { disk, settings, lock, floor, found })
    }

    /// Opens the log in `disk`, or begins one there, without a floor: [`Log::read`] and [`ReadLog::begin`].
    ///
    /// # Errors
    /// Those of both.
    pub fn open(
        disk: Arc<dyn Disk>,
        settings: LogOptions,
        visit: &mut dyn FnMut(LogRecord),
    ) -> Result<(Self, Recovery), LogError> {
        let read = Self::read(disk, None, settings, visit)?;
        let recovery = read.recovery().clone();
        Ok((read.begin()?, recovery))
    }

    /// Writes a batch and makes it durable: [`Log::append`] and [`Log::sync`].
    ///
    /// # Errors
    /// Those of both.
    pub fn commit(&mut self, records: &[LogRecord]) -> Result<Position, LogError> {
        self.append(records)?;
        self.sync()
    }

    /// Writes a batch at the log's end, as one unit or several. It is durable after the next [`Log::sync`]; after an
    /// earlier crash any prefix of it may be there. Returns the new end of the log.
    ///
    /// # Errors
    /// After [`LogError::TooLarge`] and [`LogError::Full`] the batch does not count as written, and the log keeps
    /// working. (A prefix of it can have been written only where a file system runs out of room in spite of
    /// preallocation.) Every other error poisons the log.
    pub fn append(&mut self, records: &[LogRecord]) -> Result<Position, LogError> {
        self.write(records, true)
    }

    /// Makes everything that was appended durable, with one fdatasync (none if there is nothing to do; one more when
    /// the floor is raised: with the first batch of a segment, and every [`LogOptions::floor_every_bytes`]). Returns
    /// the end of what is durable, which is the end of the log.
    ///
    /// # Errors
    /// Any error poisons the log: what the disk holds is then unknown, so the sync is never retried.
    pub fn sync(&mut self) -> Result<Position, LogError> {
        self.check()?;
        if self.synced < self.end {
            self.stats.fsyncs += 1;
            if let Err(e) = self.active.sync() {
                return Err(self.poisoned("syncing", self.end.segment, e));
            }
            self.synced = self.end;
            self.raise_floor(self.settings.floor_every_bytes)?;
        }
        Ok(self.synced)
    }

    /// [`Room::Plenty`] if there is a reserve.
    pub fn room(&self) -> Room {
        if self.reserve.is_some() { Room::Plenty } else { Room::Full }
    }

    /// Tries to claim a reserve if there is none. Returns whether there is one now.
    ///
    /// # Errors
    /// [`LogError::Io`] when the cause is not a lack of room; that poisons the log if a segment was being made.
    pub fn retry_reserve(&mut self) -> Result<Room, LogError> {
        self.check()?;
        if self.reserve.is_some() {
            return Ok(Room::Plenty);
        }
        let bytes = self.settings.segment_bytes;
        let free = self
            .disk
            .free_bytes()
            .map_err(|e| LogError::io("looking for room in", &self.disk.describe(""), e))?;
        if free < bytes.saturating_add(self.settings.keep_free_bytes) {
            return Ok(Room::Full);
        }
        let number = self.end.segment + 1;
        let (continues, mark_offset) = (Position::default(), HEADER_BYTES);
        let header = Header { number, continues, mark_offset, lost: false };
        match begin::make_segment(self.disk.as_ref(), &self.settings.identity, header, bytes, &[]) {
            Ok(file) => {
                self.stats.fsyncs += 1;
                self.stats.bytes_written += u64::from(HEADER_BYTES);
                self.reserve =
                    Some((SegmentInfo { number, bytes, header: true, ..SegmentInfo::default() }, file));
                Ok(Room::Plenty)
            }
            Err(e) if e.is_full() => Ok(Room::Full),
            Err(e) => {
                self.poison = Some(e.to_string());
                Err(e)
            }
        }
    }

    /// Length of a segment that is made now, in bytes.
    pub fn segment_bytes(&self) -> u64 {
        self.settings.segment_bytes
    }

    /// Bytes that further segments may claim, as long as nothing else fills the disk.
    ///
    /// # Errors
    /// [`LogError::Io`] when the disk does not say how much is free.
    pub fn free_bytes(&self) -> Result<u64, LogError> {
        let free = self.disk.free_bytes();
        let free = free.map_err(|e| LogError::io("looking for room in", &self.disk.describe(""), e))?;
        Ok(free.saturating_sub(self.settings.keep_free_bytes))
    }

    /// Notes that a durable snapshot of the group covers everything below `slot`. It takes effect with [`Log::trim`],
    /// is forgotten at a restart, and never moves back.
    pub fn keep_from(&mut self, group: u16, slot: u64) {
        let kept = self.keep_from.entry(group).or_default();
        *kept = slot.max(*kept);
    }

    /// Keeps the group's records from this slot on, whatever snapshots cover; `None` removes the pin. The next
    /// [`Log::trim`] drops all pins if they hold back more than [`MAX_PINNED_SEGMENTS`], or while there is no room.
    pub fn pin(&mut self, group: u16, slot: Option<u64>) {
        match slot {
            Some(slot) => _ = self.pins.insert(group, slot),
            None => _ = self.pins.remove(&group),
        }
    }

    /// Where the group's records of `slot` and later slots lie, as far as they are durable; `None` if there are none.
    pub fn stretch(&self, group: u16, slot: u64) -> Option<Stretch> {
        let holds = |info: &&SegmentInfo| info.slots.get(&group).is_some_and(|highest| *highest >= slot);
        let segment = self.segments.iter().find(holds)?.number;
        Some(Stretch { start: Position { segment, offset: HEADER_BYTES }, end: self.synced })
    }

    /// The number of segments at the front that only pins keep.
    pub fn pinned_segments(&self) -> usize {
        let covered = self.removable(false);
        covered - self.removable(true).min(covered)
    }

    /// The number of segments at the front that snapshots cover and that hold no damage; with `pins`, also none that a
    /// pin keeps.
    fn removable(&self, pins: bool) -> usize {
        let removable = |s: &SegmentInfo| {
            let covered = |(group, slot): (&u16, &u64)| {
                let pinned = pins && self.pins.get(group).is_some_and(|pin| slot >= pin);
                !pinned && self.keep_from.get(group).is_some_and(|keep| slot < keep)
            };
            s.slots.iter().all(covered) && !self.damage.lies_in(s.number)
        };
        let older = self.segments.len().saturating_sub(1);
        self.segments.iter().take(older).take_while(|s| removable(s)).count()
    }

    /// The oldest segment that snapshots do not cover; `None` if that is the active one.
    pub fn oldest(&self) -> Option<OldestSegment> {
        let pinned = self.pinned_segments();
        let oldest = self.segments.get(pinned).filter(|_| self.segments.len() > pinned + 1)?;
        Some(OldestSegment {
            number: oldest.number,
            bytes: oldest.bytes,
            slots: oldest.slots.clone(),
            damaged: self.damage.lies_in(oldest.number),
        })
    }

    /// Removes the segments at the front in which every record with a slot is below its group's `keep_from` and its
    /// pin, and in which no damage awaits repair. State records that are nowhere else are written again and synced
    /// first. Returns the number of removed segments.
    ///
    /// # Errors
    /// As for [`Log::append`] and [`Log::sync`]; [`LogError::Io`] when a file can't be removed (the next call tries
    /// again).
    pub fn trim(&mut self) -> Result<usize, LogError> {
        self.check()?;
        if self.pinned_segments() > MAX_PINNED_SEGMENTS || (self.reserve.is_none() && !self.pins.is_empty()) {
            self.pins.clear();
        }
        let count = self.removable(true);
        let Some(last) = count.checked_sub(1).and_then(|i| self.segments.get(i)).map(|s| s.number) else {
            return Ok(0);
        };
        let carried: Vec<LogRecord> =
            self.states.values().filter(|(at, _)| *at <= last).map(|(_, record)| record.clone()).collect();
        // One at a time, so that a batch of them is never too large, however small the segments are.
        for record in carried.chunks(1) {
            self.write(record, false)?;
        }
        self.sync()?;
        for removed in 0..count {
            let Some(oldest) = self.segments.front() else { return Ok(removed) };
            let name = segment::name_of(oldest.number);
            // In order, and each durably before the next: a gap would look like damage.
            self.disk
                .remove(&name)
                .and_then(|()| self.disk.sync_folder())
                .map_err(|e| LogError::io("removing", &self.disk.describe(&name), e))?;
            self.segments.pop_front();
        }
        self.retry_reserve()?;
        Ok(count)
    }

    /// What each segment holds, for a scrub. The reserve holds nothing and is left out.
    pub fn extents(&self) -> Vec<Extent> {
        let end = |info: &SegmentInfo| match info.number == self.end.segment {
            true => self.end.offset,
            false => u32::try_from(info.bytes).unwrap_or(u32::MAX),
        };
        let extent = |info: &SegmentInfo| Extent {
            segment: info.number,
            end: end(info),
            units: info.units,
            header: info.header,
        };
        self.segments.iter().map(extent).collect()
    }

    /// Whether a segment is still part of the log; one that was trimmed is not.
    pub fn has_segment(&self, number: u64) -> bool {
        self.segments.iter().any(|info| info.number == number)
    }

    /// Stops writing to a segment that has rotted, so that it can be trimmed as soon as snapshots cover it: if it is
    /// the active one, the log continues in the reserve. Returns false if there is no such segment, or no room for
    /// another.
    ///
    /// # Errors
    /// As for [`Log::append`] and [`Log::sync`].
    pub fn leave(&mut self, number: u64) -> Result<bool, LogError> {
        self.check()?;
        if number == self.end.segment && self.reserve.is_some() {
            self.roll()?;
        }
        Ok(self.has_segment(number) && number != self.end.segment)
    }

    /// The groups with damage that is not repaired yet.
    pub fn damaged_groups(&self) -> Groups {
        self.damage.groups()
    }

    /// Notes, durably, that all damage found so far is repaired for these groups: the lost records were fetched from
    /// peers and are in this log (or in a durable snapshot). Later openings do not report that damage again, and its
    /// segments can be trimmed.
    ///
    /// # Errors
    /// As for [`Log::append`] and [`Log::sync`].
    pub fn repaired(&mut self, groups: &Groups) -> Result<(), LogError> {
        self.check()?;
        // "All except those repaired before" has the same effect as "all".
        let groups = if groups.is_all() { Groups::all() } else { groups.clone() };
        let listed = groups.known().cloned().unwrap_or_default();
        let places = self.damage.places_of(&groups);
        if places.is_empty() {
            return Ok(());
        }
        for some in places.chunks(recovery::REPAIR_PLACES_ENTRIES) {
            let bytes = form::unit_bytes(listed.len(), recovery::repair_bytes(some.len())) as u64;
            if !self.fits(self.end.offset, &self.active_info().groups, &listed, bytes, false) {
                self.roll()?;
            }
            let body = recovery::encode_repair(some, groups.is_all());
            let mut buffer = std::mem::take(&mut self.buffer);
            self.encode(&mut buffer, self.end.offset, UnitRole::Repaired, &listed, 0, |out| {
                out.extend_from_slice(&body)
            });
            self.write_buffer(buffer, 1)?;
            if let Some(active) = self.segments.back_mut() {
                active.groups.extend(&listed);
            }
        }
        self.sync()?;
        self.damage.repaired(&places, &groups);
        Ok(())
    }

    /// Voids, durably, all records of a group so far, because its replica was given up: they hold trimming back no
    /// longer, and neither does damage that concerns the group. A visitor of a later opening is given the record that
    /// says so ([`LogRecord::forgotten`]), in front of what is written for the group later.
    ///
    /// # Errors
    /// As for [`Log::append`] and [`Log::sync`]. The call may be repeated.
    pub fn forget(&mut self, group: u16) -> Result<(), LogError> {
        self.check()?;
        let of_group = |(of, _): &(u16, u8)| *of == group;
        if self.states.keys().any(of_group) || self.segments.iter().any(|s| s.slots.contains_key(&group)) {
            // Like trimming, this gives room back, so it may use what is held back for that.
            self.write(&[LogRecord::forgotten(group)], false)?;
            self.sync()?;
        }
        self.drop_all_of(group);
        self.repaired(&Groups::these([group]))
    }

    /// Drops what the log knows of a group whose records are void.
    fn drop_all_of(&mut self, group: u16) {
        self.segments.iter_mut().for_each(|info| _ = info.slots.remove(&group));
        self.states.retain(|(of, _), _| *of != group);
        self.keep_from.remove(&group);
        self.pins.remove(&group);
    }

    /// The most bytes that one batch may take on disk, heads of units included: the content of one segment.
    pub fn batch_limit_bytes(&self) -> u64 {
        self.settings.segment_bytes.saturating_sub(u64::from(HEADER_BYTES))
    }

    /// Counters since the log was opened, and what it takes on disk now.
    pub fn stats(&self) -> Stats {
        let all = self.segments.iter().chain(self.reserve.iter().map(|(info, _)| info));
        let (segments, disk_bytes) = all.fold((0, 0), |(n, bytes), s| (n + 1, bytes + s.bytes));
        Stats { segments, disk_bytes, ..self.stats }
    }

    /// Seals and syncs the log. Calling it is optional: it spares the next opening from rewriting the last batch, and
    /// makes a flipped bit in that batch distinguishable from a torn write.
    ///
    /// # Errors
    /// As for [`Log::sync`].
    pub fn close(mut self) -> Result<(), LogError> {
        self.check()?;
        self.sync()?;
        self.seal()?;
        self.sync()?;
        self.raise_floor(0)
    }

    /// Raises the floor to the durable end, if that lies in another segment or at least `every_bytes` further.
    fn raise_floor(&mut self, every_bytes: u64) -> Result<(), LogError> {
        let to = self.synced;
        let Some(floor) = self.floor.as_mut().filter(|_| to.offset > HEADER_BYTES) else { return Ok(()) };
        let at = floor.at().unwrap_or_default();
        let far = u64::from(to.offset.saturating_sub(at.offset)) >= every_bytes.max(1);
        if to <= at || (to.segment == at.segment && !far) {
            return Ok(());
        }
        match floor.raise(to) {
            Ok(()) => self.stats.fsyncs += 1,
            Err(e) if e.is_full() => tracing::warn!("no room to raise the log's floor: {e}"),
            Err(e) => {
                self.poison = Some(e.to_string());
                return Err(e);
            }
        }
        Ok(())
    }

    fn active_info(&self) -> &SegmentInfo {
        // There is always an active segment; an empty one stands in so that nothing can panic.
        static NONE: SegmentInfo = SegmentInfo {
            number: 0,
            bytes: 0,
            slots: BTreeMap::new(),
            groups: BTreeSet::new(),
            units: 0,
            header: false,
        };
        self.segments.back().unwrap_or(&NONE)
    }

    fn check(&self) -> Result<(), LogError> {
        match &self.poison {
            Some(why) => Err(LogError::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    fn poisoned(&mut self, doing: &'static str, number: u64, source: std::io::Error) -> LogError {
        let name = self.disk.describe(&segment::name_of(number));
        let error = LogError::Io { doing, name, source };
        self.poison = Some(error.to_string());
        error
    }

    /// Whether a unit fits at `offset` of the active segment and leaves room for the seal. With `held_back`, and while
    /// there is no reserve, it must also leave room for what has to work on a full disk: trimming, which may write
    /// state records again, and opening, which makes a small segment of what is above the mark from the rest of this
    /// one.
    fn fits(
        &self,
        offset: u32,
        present: &BTreeSet<u16>,
        new: &BTreeSet<u16>,
        unit: u64,
        held_back: bool,
    ) -> bool {
        let end = u64::from(offset) + unit;
        let seal = form::unit_bytes(present.union(new).count(), 0) as u64;
        let held = if held_back && self.reserve.is_none() {
            let mark =
                if self.synced.segment == self.end.segment { self.synced.offset } else { HEADER_BYTES };
            let unmarked = end.saturating_sub(u64::from(mark));
            found::states_bytes(&self.states) + u64::from(HEADER_BYTES) + unmarked + seal
        } else {
            0
        };
        end + seal + held <= self.active_info().bytes
    }

    /// Splits a batch into units of at most [`LogOptions::unit_bytes`].
    fn plan<'a>(&self, records: &'a [LogRecord]) -> Result<Vec<Planned<'a>>, LogError> {
        let mut units: Vec<Planned<'a>> = Vec::new();
        let (mut start, mut body, mut groups) = (0, 0, BTreeSet::new());
        for (i, record) in records.iter().enumerate() {
            let limit = if record.is_state() { MAX_STATE_PAYLOAD_BYTES } else { MAX_PAYLOAD_BYTES };
            let payload = record.payload.len();
            if payload > limit {
                return Err(LogError::TooLarge {
                    what: if record.is_state() {
                        "the payload of a state record"
                    } else {
                        "a record's payload"
                    },
                    bytes: payload as u64,
                    limit: limit as u64,
                });
            }
            let encoded = RECORD_HEAD_BYTES + payload;
            if i > start && form::unit_bytes(groups.len() + 1, body + encoded) > self.settings.unit_bytes {
                let bytes = form::unit_bytes(groups.len(), body) as u64;
                let records = records.get(start..i).unwrap_or_default();
                units.push(Planned { records, groups: std::mem::take(&mut groups), bytes });
                (start, body) = (i, 0);
            }
            body += encoded;
            groups.insert(record.group);
        }
        if start < records.len() {
            let bytes = form::unit_bytes(groups.len(), body) as u64;
            units.push(Planned { records: records.get(start..).unwrap_or_default(), groups, bytes });
        }
        Ok(units)
    }

    fn write(&mut self, records: &[LogRecord], held_back: bool) -> Result<Position, LogError> {
        self.check()?;
        let units = self.plan(records)?;

        // `here` units go into the active segment; all others must fit into the next one.
        let (mut offset, mut groups, mut here) = (self.end.offset, self.active_info().groups.clone(), 0);
        for unit in &units {
            if !self.fits(offset, &groups, &unit.groups, unit.bytes, held_back) {
                break;
            }
            offset += unit.bytes as u32;
            groups.extend(&unit.groups);
            here += 1;
        }
        let (here, rest) = units.split_at_checked(here).unwrap_or((&units, &[]));
        if !rest.is_empty() {
            let listed: BTreeSet<u16> = rest.iter().flat_map(|u| u.groups.iter().copied()).collect();
            let bytes: u64 = rest.iter().map(|u| u.bytes).sum();
            let new_states: u64 = records
                .iter()
                .filter(|r| r.is_state())
                .map(|r| form::unit_bytes(1, RECORD_HEAD_BYTES + r.payload.len()) as u64)
                .sum();
            let held = if held_back { found::states_bytes(&self.states) + new_states } else { 0 };
            let limit =
                self.batch_limit_bytes().saturating_sub(form::unit_bytes(listed.len(), 0) as u64 + held);
            if bytes > limit {
                return Err(LogError::TooLarge { what: "a batch", bytes, limit });
            }
            if self.reserve.is_none() {
                return Err(LogError::Full { what: format!("a batch of {bytes} bytes in the log") });
            }
        }
        self.write_units(here)?;
        if !rest.is_empty() {
            self.roll()?;
            self.write_units(rest)?;
        }
        Ok(self.end)
    }

    /// Writes units that are known to fit into the active segment.
    fn write_units(&mut self, units: &[Planned<'_>]) -> Result<(), LogError> {
        if units.is_empty() {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        for unit in units {
            let offset = self.end.offset + buffer.len() as u32;
            self.encode(
                &mut buffer,
                offset,
                UnitRole::Batch,
                &unit.groups,
                unit.records.len() as u32,
                |out| {
                    unit.records.iter().for_each(|record| form::encode_record(record, out));
                },
            );
        }
        self.write_buffer(buffer, units.len() as u64)?;
        let number = self.end.segment;
        for record in units.iter().flat_map(|unit| unit.records) {
            self.stats.records += 1;
            if record.forgets() {
                self.drop_all_of(record.group);
            } else if record.is_state() {
                self.states.insert((record.group, record.kind), (number, record.clone()));
            }
            if let Some(active) = self.segments.back_mut() {
                active.note(record);
            }
        }
        Ok(())
    }

    fn encode(
        &mut self,
        buffer: &mut Vec<u8>,
        offset: u32,
        role: UnitRole,
        groups: &BTreeSet<u16>,
        records: u32,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let unit = UnitForm {
            identity: &self.settings.identity,
            at: Position { segment: self.end.segment, offset },
            role,
            sequence: self.next_sequence,
            mark: self.synced,
            groups,
            records,
        };
        // The number is used up even if the write fails, so that its remains can be told from the unit that is written
        // in its place.
        self.next_sequence += 1;
        unit.encode(buffer, body);
    }

    /// Writes the encoded units at the log's end.
    fn write_buffer(&mut self, mut buffer: Vec<u8>, units: u64) -> Result<(), LogError> {
        let bytes = buffer.len();
        let result = self.active.write_at(u64::from(self.end.offset), &buffer);
        buffer.clear();
        buffer.shrink_to(BUFFER_BYTES);
        self.buffer = buffer;
        match result {
            Ok(()) => {
                self.end.offset += bytes as u32;
                self.stats.bytes_written += bytes as u64;
                self.stats.units += units;
                if let Some(active) = self.segments.back_mut() {
                    active.units += units;
                }
                Ok(())
            }
            Err(e) if super::error::is_full(&e) => {
                Err(LogError::io("writing", &self.disk.describe(&segment::name_of(self.end.segment)), e))
            }
            Err(e) => Err(self.poisoned("writing", self.end.segment, e)),
        }
    }

    fn seal(&mut self) -> Result<(), LogError> {
        let groups = self.active_info().groups.clone();
        let mut buffer = std::mem::take(&mut self.buffer);
        self.encode(&mut buffer, self.end.offset, UnitRole::Seal, &groups, 0, |_| {});
        self.write_buffer(buffer, 1)
    }

    /// Continues in the reserve. Invariant: a segment is sealed and durable before the next one gets a unit.
    fn roll(&mut self) -> Result<(), LogError> {
        let full = || LogError::Full { what: "another segment of the log".to_string() };
        if self.reserve.is_none() {
            return Err(full());
        }
        self.seal()?;
        self.sync()?;
        let (info, file) = self.reserve.take().ok_or_else(full)?;
        self.end = Position { segment: info.number, offset: HEADER_BYTES };
        self.active = file;
        self.segments.push_back(info);
        self.retry_reserve()?;
        Ok(())
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("end", &self.end).field("synced", &self.synced).finish_non_exhaustive()
    }
}
