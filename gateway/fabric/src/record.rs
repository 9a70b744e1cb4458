//! What the log keeps, and where. The cores own these types, and the log writes them: it knows nothing of Paxos.

use std::fmt;
use std::sync::Arc;

/// One entry of the log. To the log, all of it but `group`, `kind` and `slot` is opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The group it belongs to.
    pub group: u16,
    /// The group's configuration when it was written.
    pub configuration: u32,
    /// What it says; the caller's numbering.
    pub kind: u8,
    /// A ballot: round, then the gateway's number.
    pub ballot: (u64, u16),
    /// The slot it is about. Slot 0 makes it a *state record*: only the newest of a group and kind matters, it never
    /// holds back trimming, and trimming carries it forward.
    pub slot: u64,
    /// The content.
    pub payload: Arc<[u8]>,
}

impl LogRecord {
    /// Whether it is a state record (see [`LogRecord::slot`]).
    pub fn is_state(&self) -> bool {
        self.slot == 0
    }
}

/// A place in the log: a segment's number and a byte offset in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The segment's number, from 1. 0 means "nowhere yet".
    pub segment: u64,
    /// Bytes from the start of its file.
    pub offset: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// A stretch of the log to be read again, for one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// No record of the slots in question lies before.
    pub start: Position,
    /// Everything below is durable.
    pub end: Position,
}

/// What may be rotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspect {
    /// A segment of the log.
    Segment(u64),
    /// A group's snapshot.
    Snapshot {
        /// The group.
        group: u16,
        /// Its slot.
        slot: u64,
    },
    /// A batch.
    Batch {
        /// The group.
        group: u16,
        /// Its number.
        seq: u64,
    },
    /// Any of a group's batches, by having no file.
    Folder(u16),
}
