//! The result of reading a log. The log itself is unchanged until [`FoundLog::begin`] (`begin.rs`) makes it writable.

use super::damage::{Groups, LogDamage};
use super::form::{self, Header, RECORD_HEAD_BYTES};
use selvedge_fabric::record::{LogRecord, Position};
use std::collections::{BTreeMap, BTreeSet};

/// The name of a segment's file until it is complete.
pub const MAKING_NAME: &str = "wal-making.tmp";

/// Summary of what opening a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Groups whose records may be lost or stale. They must not vote before they are repaired from their peers and
    /// [`super::Log::repaired`] was called.
    pub damaged_groups: Groups,
    /// The number of damaged places behind `damaged_groups`.
    pub damaged_places: usize,
    /// Bytes of a torn tail that were cut off. Nothing in them was acknowledged.
    pub torn_bytes_cut: u64,
    /// Records given to the visitor.
    pub records: u64,
    /// Units above every mark, which were written again.
    pub units_rewritten: u64,
}

/// A segment's content in brief, as the log keeps it in memory.
#[derive(Debug, Clone, Default)]
pub struct SegmentInfo {
    pub number: u64,
    /// Its file's length in bytes.
    pub bytes: u64,
    /// The highest slot of each group that has records with slots in it.
    pub slots: BTreeMap<u16, u64>,
    /// All groups that have units in it, state records included.
    pub groups: BTreeSet<u16>,
    /// The number of intact units.
    pub units: u64,
    /// Whether its header is intact.
    pub header: bool,
}

impl SegmentInfo {
    pub fn note(&mut self, record: &LogRecord) {
        self.groups.insert(record.group);
        if record.forgets() {
            self.slots.remove(&record.group);
        } else if !record.is_state() {
            let highest = self.slots.entry(record.group).or_default();
            *highest = record.slot.max(*highest);
        }
    }
}

/// The newest state record of each group and kind, with the segment that holds it.
pub type States = BTreeMap<(u16, u8), (u64, LogRecord)>;

/// Bytes that rewriting every state record could take.
pub fn states_bytes(states: &States) -> u64 {
    states.values().map(|(_, r)| form::unit_bytes(1, RECORD_HEAD_BYTES + r.payload.len()) as u64).sum()
}

/// A log that was read, and not changed.
pub struct FoundLog {
    pub recovery: Recovery,
    pub(super) damage: LogDamage,
    /// The segments that are kept, in order.
    pub(super) infos: Vec<SegmentInfo>,
    pub(super) states: States,
    /// Files that hold nothing durable.
    pub(super) removals: Vec<String>,
    /// Segments (by index in `infos`) that end earlier than their file, at the offset that the next one's header gives.
    pub(super) cuts: Vec<(usize, u32)>,
    pub(super) tail: Tail,
}

/// Where writing continues after the log was read.
pub(super) enum Tail {
    /// There is no segment; the first one gets this header.
    Absent(Header),
    /// In the last segment.
    GoOn { end: Position, next_sequence: u64 },
    /// In a new segment.
    Rewrite(Box<Rewrite>),
}

/// A new segment, made of the units above the mark.
pub(super) struct Rewrite {
    pub header: Header,
    /// It replaces the last segment.
    pub replaces: bool,
    /// Where the durable content of the last segment ends, and where its used bytes end.
    pub start: u32,
    pub used: u32,
    pub info: SegmentInfo,
    pub content: Vec<u8>,
    pub end: Position,
    pub next_sequence: u64,
}
