//! Reads stretches of the log again while it is being written, for a peer that lacks what memory no longer holds.
//!
//! The log says where a group's records of some slot begin and up to where it is durable ([`super::Log::stretch`]).
//! Below that end no byte changes any more, so a reader needs no lock and may run on another thread. It goes from unit
//! to unit, and reads only the head of a unit without records of its group. The bytes per call are bounded; a call
//! returns where the next one continues.
//!
//! Records come as they were appended. A slot may have several, and a state record may come again behind younger ones
//! (see the crate's documentation): the caller decides what they mean together.
//!
//! Invariant: a visitor is given only records below the end that the log named as durable, in the order of appending.
//! Invariant: anything that is not intact ends the reading with an error: no record from behind a hole is given out.
//! Limits: a segment that was trimmed meanwhile is an error, too. One unit at a time is in memory.

use super::disk::Disk;
use super::error::LogError;
use super::form::{self, HEADER_BYTES, Head, LogIdentity, UNIT_HEAD_BYTES, UnitRole};
use super::segment::{self, Segment, UnitRead};
use selvedge_fabric::record::{LogRecord, Position};
use std::sync::Arc;

/// Reads segments of a log that its owner is still writing.
#[derive(Clone)]
pub struct LogReader {
    disk: Arc<dyn Disk>,
    identity: LogIdentity,
}

impl LogReader {
    /// A reader of the log in `disk`; no file is opened yet.
    pub fn new(disk: Arc<dyn Disk>, identity: LogIdentity) -> Self {
        Self { disk, identity }
    }

    /// Gives `visit` the group's records from units between `at` and `end`. It stops at the end of a unit once `visit`
    /// has returned false, or once it has read about `most_bytes`. Returns where to continue; a position at or behind
    /// `end` if there is no more.
    ///
    /// # Errors
    /// [`LogError::Damaged`] for what is not intact; [`LogError::Io`], also when a segment is gone.
    pub fn read(
        &self,
        mut at: Position,
        end: Position,
        group: u16,
        most_bytes: u64,
        visit: &mut dyn FnMut(LogRecord) -> bool,
    ) -> Result<Position, LogError> {
        let mut read_bytes = 0;
        while at < end {
            let mut segment = self.open(at.segment)?;
            let limit = match at.segment == end.segment {
                true => Some(end.offset),
                false => self.cut_of(at.segment)?,
            };
            while limit.is_none_or(|limit| at.offset < limit) {
                let wanted = |head: &Head| head.groups.contains(&group) && head.role == UnitRole::Batch;
                let unit = segment.unit_if(at.offset, &wanted).map_err(|e| self.failed(at.segment, e))?;
                let UnitRead::Whole(head) = unit else { return Err(self.damaged(at)) };
                let unit_bytes = head.unit_bytes();
                at.offset += u32::try_from(unit_bytes).map_err(|_| self.damaged(at))?;
                if head.role == UnitRole::Seal {
                    break;
                }
                let mut enough = false;
                if wanted(&head) {
                    read_bytes += unit_bytes;
                    self.records(&head, &segment.body, at, &mut |record| {
                        enough |= record.group == group && !visit(record);
                    })?;
                } else {
                    read_bytes += UNIT_HEAD_BYTES as u64;
                }
                if enough || read_bytes >= most_bytes {
                    return Ok(at);
                }
            }
            if at.segment == end.segment {
                return Ok(at);
            }
            at = Position { segment: at.segment + 1, offset: HEADER_BYTES };
        }
        Ok(at)
    }

    fn records(
        &self,
        head: &Head,
        body: &[u8],
        behind: Position,
        visit: &mut dyn FnMut(LogRecord),
    ) -> Result<(), LogError> {
        let mut at = 0;
        for _ in 0..head.records {
            let (record, next) = form::decode_record(body, at).ok_or_else(|| self.damaged(behind))?;
            at = next;
            visit(record);
        }
        Ok(())
    }

    /// The end of a segment's content, if the next one's header says so; `None` if it ends with its seal.
    fn cut_of(&self, number: u64) -> Result<Option<u32>, LogError> {
        let next = self.open(number + 1)?;
        let Some(header) = next.good_header().filter(|header| !header.lost) else {
            return Err(self.damaged(Position { segment: number + 1, offset: 0 }));
        };
        Ok((header.continues.segment == number).then_some(header.continues.offset))
    }

    fn open(&self, number: u64) -> Result<Segment, LogError> {
        let file = self.disk.open(&segment::name_of(number)).map_err(|e| self.failed(number, e))?;
        Segment::open(file, number, self.identity).map_err(|e| self.failed(number, e))
    }

    fn failed(&self, number: u64, e: std::io::Error) -> LogError {
        LogError::io("reading", &self.disk.describe(&segment::name_of(number)), e)
    }

    fn damaged(&self, at: Position) -> LogError {
        let name = self.disk.describe(&segment::name_of(at.segment));
        LogError::Damaged { name, why: format!("it can't be read from byte {} on", at.offset) }
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader").finish_non_exhaustive()
    }
}
