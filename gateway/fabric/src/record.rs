//! The form of the log's records, and positions in the log. The cores own these types; the log writes them and
//! knows nothing of Paxos.

use std::fmt;
use std::sync::Arc;

/// The one kind of record that means something to the log: all earlier records of its group are void, because the
/// replica that wrote them was given up. It is never carried forward: the log removes it after everything that it voids.
pub const KIND_FORGOTTEN: u8 = 0;

/// One entry of the log. Only `group`, `kind` and `slot` mean something to the log; the rest is opaque.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// The Paxos group that it belongs to.
    pub group: u16,
    /// The group's configuration when the record was written.
    pub configuration: u32,
    /// The kind of record, numbered by the caller from 1; 0 is [`KIND_FORGOTTEN`].
    pub kind: u8,
    /// A ballot: round, then the gateway's number.
    pub ballot: (u64, u16),
    /// The slot that the record is about. Slot 0 makes it a *state record*: only the newest of a group and kind
    /// matters, it never holds back trimming, and trimming carries it forward.
    pub slot: u64,
    pub payload: Arc<[u8]>,
}

impl LogRecord {
    /// The record that voids all earlier ones of this group.
    pub fn forgotten(group: u16) -> Self {
        Self { group, configuration: 0, kind: KIND_FORGOTTEN, ballot: (0, 0), slot: 0, payload: [].into() }
    }

    /// Whether this record voids all earlier ones of its group ([`KIND_FORGOTTEN`]).
    pub fn forgets(&self) -> bool {
        self.kind == KIND_FORGOTTEN
    }

    /// Whether it is a state record (see [`LogRecord::slot`]).
    pub fn is_state(&self) -> bool {
        self.slot == 0 && !self.forgets()
    }
}

/// A place in the log: a segment's number and a byte offset in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The segment's number, from 1. 0 means "nowhere yet".
    pub segment: u64,
    /// Bytes from the start of the segment's file.
    pub offset: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.segment, self.offset)
    }
}

/// A range of the log to read again, for one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The range begins here: no record of the slots in question lies before it.
    pub start: Position,
    /// The range ends here: everything below is durable.
    pub end: Position,
}

/// A file, or files, whose content may have rotted on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspect {
    /// A segment of the log, by number.
    Segment(u64),
    Snapshot {
        group: u16,
        /// The last slot that the snapshot covers.
        slot: u64,
    },
    Batch {
        group: u16,
        seq: u64,
    },
    /// The folder of a group's batches: any of them may lack its file.
    Folder(u16),
}
