//! What reading a log found. Nothing of the log is changed yet: it becomes one that is written by [`FoundLog::begin`] (`begin.rs`).

use super::damage::{Damage, Groups};
use super::form::{self, Header, RECORD_HEAD_BYTES};
use selvedge_fabric::record::{LogRecord, Position};
use std::collections::{BTreeMap, BTreeSet};

/// The name of a segment that is being made.
pub const MAKING_NAME: &str = "wal-making.tmp";

/// What opening a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Groups whose records may be lost or stale: they must not vote before they are repaired from their peers and
    /// [`super::Log::repaired`] was called.
    pub damaged_groups: Groups,
    /// How many damaged places that comes from.
    pub damaged_places: usize,
    /// Bytes of a torn tail that were cut off: never acknowledged.
    pub torn_bytes_cut: u64,
    /// Records given to the visitor.
    pub records: u64,
    /// Units that were above every mark and written again.
    pub units_rewritten: u64,
}

/// What is remembered of a segment that is kept.
#[derive(Debug, Clone, Default)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u64,
    /// Its file's length in bytes.
    pub bytes: u64,
    /// The highest slot of each group that has records with slots in it.
    pub slots: BTreeMap<u16, u64>,
    /// All groups in it.
    pub groups: BTreeSet<u16>,
    /// How many whole units it has.
    pub units: u64,
    /// Its header is whole.
    pub header: bool,
}

impl SegmentInfo {
    pub fn note(&mut self, record: &LogRecord) {
        self.groups.insert(record.group);
        if !record.is_state() {
            let highest = self.slots.entry(record.group).or_default();
            *highest = record.slot.max(*highest);
        }
    }
}

/// The newest state record of a group and kind, and the segment that it is in.
pub type States = BTreeMap<(u16, u8), (u64, LogRecord)>;

/// Bytes that writing every state record again could take.
pub fn states_bytes(states: &States) -> u64 {
    states.values().map(|(_, r)| form::unit_bytes(1, RECORD_HEAD_BYTES + r.payload.len()) as u64).sum()
}

/// A log that was read, and not changed.
pub struct FoundLog {
    pub recovery: Recovery,
    pub(super) damage: Damage,
    /// The segments that are kept, in order.
    pub(super) infos: Vec<SegmentInfo>,
    pub(super) states: States,
    /// Files that held nothing durable.
    pub(super) removals: Vec<String>,
    /// Which of the segments end where, by the header of the next.
    pub(super) cuts: Vec<(usize, u32)>,
    pub(super) tail: Tail,
}

/// How the log goes on.
pub(super) enum Tail {
    /// There is no segment; the first one gets this header.
    Absent(Header),
    /// In the last segment.
    GoOn { end: Position, next_sequence: u64 },
    /// In a segment that is to be made.
    Rewrite(Box<Rewrite>),
}

/// A segment that is to be made of what stands above the mark.
pub(super) struct Rewrite {
    pub header: Header,
    /// It takes the place of the last one.
    pub replaces: bool,
    /// Where the last one's durable content ends, and where its used bytes do.
    pub start: u32,
    pub used: u32,
    pub info: SegmentInfo,
    pub content: Vec<u8>,
    pub end: Position,
    pub next_sequence: u64,
}
