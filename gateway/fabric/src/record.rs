//! What the log keeps, and where.

use std::fmt;
use std::sync::Arc;

/// One entry of the log. To the log, all of it but `group`, `kind` and `slot` is opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
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

impl Record {
    /// Whether it is a state record (see [`Record::slot`]).
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
