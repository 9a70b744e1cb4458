//! Group commit: one fsync for everything that all shards of a gateway want on disk.
//!
//! # Protocol
//!
//! A shard submits records under a token. While the log is idle they are written at once; while it is busy they
//! gather. When a write is on disk, every shard with records in it is notified of its highest token, and the
//! records that gathered in the meantime become the next write. So batches grow with the load and with the slowness
//! of the disk, and an idle gateway never waits.
//!
//! Requests that share a write are also answered, sent and applied together, so under load a larger write makes
//! everything after it cheaper. If the last write held at least [`BUSY_BYTES`] from [`BUSY_SUBMISSIONS`]
//! submissions, the log counts as busy. The next write then waits until its first request is [`BUSY_DELAY_MS`] old
//! or [`MAX_HELD_BYTES`] are waiting (like PostgreSQL's `commit_delay` beyond `commit_siblings`). The delay never
//! leaves a disk idle that takes longer than that for a write, and a few publishes at a time never wait.
//!
//! Every write costs flash at least a page, however little it holds. Where readings come slowly and flash matters
//! more than a quick acknowledgement, a configured delay lets more records gather: a write then begins only when
//! its first request has waited that long, or when [`MAX_HELD_BYTES`] are waiting.
//!
//! # Invariants and limits
//!
//! Invariant: records of one shard reach the log in the order of their tokens.
//! Invariant: a token is reported only after the write that holds it, and every earlier one, is on disk.
//! Limit: one write holds at most [`MAX_WRITE_BYTES`] of payload beyond its first request; the rest waits for the
//! next write. The shards' in-flight windows bound how much can wait.

use crate::record::LogRecord;
use selvedge_types::ids::ShardId;
use std::collections::VecDeque;

/// The most payload that one write gathers beyond its first request.
pub const MAX_WRITE_BYTES: usize = 4 * 1024 * 1024;

/// A log is busy if its last write held at least this many submissions, with [`BUSY_BYTES`] of payload together.
pub const BUSY_SUBMISSIONS: usize = 4;

/// The least payload of a write that makes the log busy, if [`BUSY_SUBMISSIONS`] share it.
pub const BUSY_BYTES: usize = 4 * 1024;

/// How long requests gather while the log is busy, in milliseconds.
pub const BUSY_DELAY_MS: u64 = 2;

/// A delay ends early once this much payload is waiting.
pub const MAX_HELD_BYTES: usize = 64 * 1024;

/// Records that one shard wants on disk.
#[derive(Debug)]
pub struct CommitRequest {
    pub shard: ShardId,
    /// Grows from request to request; reported back once this request is on disk.
    pub token: u64,
    /// In the order in which they must reach the log.
    pub records: Vec<LogRecord>,
}

impl CommitRequest {
    fn bytes(&self) -> usize {
        self.records.iter().map(|r| r.payload.len()).sum()
    }
}

/// Gathers the shards' requests while the log writes.
#[derive(Debug, Default)]
pub struct GroupCommit {
    delay_ms: u64,
    waiting: VecDeque<CommitRequest>,
    waiting_bytes: usize,
    /// Since when the first of the waiting requests waits.
    since_ms: u64,
    writing: Option<Vec<(ShardId, u64)>>,
    /// Whether the last write made the log busy.
    busy: bool,
}

impl GroupCommit {
    /// Lets requests gather for `delay_ms`; with 0 it writes as soon as the log is idle, unless the log is busy.
    pub fn new(delay_ms: u64) -> Self {
        Self { delay_ms, ..Self::default() }
    }

    /// Takes a request, to be part of one of the next writes.
    pub fn submit(&mut self, now_ms: u64, request: CommitRequest) {
        if self.waiting.is_empty() {
            self.since_ms = now_ms;
        }
        self.waiting_bytes += request.bytes();
        self.waiting.push_back(request);
    }

    /// When [`GroupCommit::next_write`] would return a write, unless more requests come; none while the log writes.
    pub fn due_ms(&self) -> Option<u64> {
        let held = self.waiting_bytes < MAX_HELD_BYTES;
        let busy_ms = if self.busy { BUSY_DELAY_MS } else { 0 };
        let due_ms = if held { self.since_ms.saturating_add(self.delay_ms.max(busy_ms)) } else { 0 };
        (self.writing.is_none() && !self.waiting.is_empty()).then_some(due_ms)
    }

    /// The next write, if the log is idle and the write is due. The caller makes it durable and then calls
    /// [`GroupCommit::written`]; if that fails, the process must end.
    pub fn next_write(&mut self, now_ms: u64) -> Option<Vec<LogRecord>> {
        self.due_ms().filter(|due_ms| *due_ms <= now_ms)?;
        let (mut bytes, mut records, mut tokens) = (0, Vec::new(), Vec::new());
        while let Some(request) = self.waiting.pop_front() {
            bytes += request.bytes();
            tokens.push((request.shard, request.token));
            records.extend(request.records);
            if bytes >= MAX_WRITE_BYTES {
                break;
            }
        }
        self.waiting_bytes -= bytes;
        self.since_ms = now_ms; // of those that stay
        self.busy = tokens.len() >= BUSY_SUBMISSIONS && bytes >= BUSY_BYTES;
        self.writing = Some(tokens);
        Some(records)
    }

    /// Notes that the write is on disk. Returns the shards to notify, with the highest token of each.
    pub fn written(&mut self) -> Vec<(ShardId, u64)> {
        let mut tokens = self.writing.take().unwrap_or_default();
        tokens.sort_unstable_by_key(|(shard, token)| (*shard, std::cmp::Reverse(*token)));
        tokens.dedup_by_key(|(shard, _)| *shard);
        tokens
    }

    /// Drops the requests of a shard that wait: its replica was given up, and has promised nothing that rests on them.
    pub fn forget(&mut self, shard: ShardId) {
        self.waiting.retain(|request| request.shard != shard);
        self.waiting_bytes = self.waiting.iter().map(CommitRequest::bytes).sum();
    }

    /// How many requests wait or are being written.
    pub fn pending(&self) -> usize {
        self.waiting.len() + self.writing.as_ref().map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(shard: u16, token: u64, bytes: usize) -> CommitRequest {
        let record = LogRecord {
            group: shard,
            configuration: 1,
            kind: 1,
            ballot: (1, 1),
            slot: token,
            payload: vec![0; bytes].into(),
        };
        CommitRequest { shard: ShardId(shard), token, records: vec![record] }
    }

    #[test]
    fn what_comes_during_a_write_shares_the_next_one() {
        let mut commit = GroupCommit::default();
        commit.submit(0, request(1, 1, 10));
        assert_eq!(commit.next_write(0).unwrap().len(), 1, "an idle log writes at once");
        for (shard, token) in [(1, 2), (2, 1), (1, 3)] {
            commit.submit(0, request(shard, token, 10));
            assert!(commit.next_write(0).is_none(), "one write at a time");
        }
        assert_eq!(commit.written(), [(ShardId(1), 1)]);
        let slots: Vec<_> = commit.next_write(0).unwrap().iter().map(|r| (r.group, r.slot)).collect();
        assert_eq!(slots, [(1, 2), (2, 1), (1, 3)]);
        assert_eq!(commit.written(), [(ShardId(1), 3), (ShardId(2), 1)], "the highest token of each shard");
        assert_eq!(commit.pending(), 0);
    }

    #[test]
    fn a_write_is_bounded_and_the_rest_waits() {
        let mut commit = GroupCommit::default();
        for token in 1..=3 {
            commit.submit(0, request(1, token, MAX_WRITE_BYTES / 2 + 1));
        }
        assert_eq!(commit.next_write(0).unwrap().len(), 2);
        assert_eq!(commit.written(), [(ShardId(1), 2)]);
        assert_eq!(commit.next_write(0).unwrap().len(), 1);
    }

    #[test]
    fn with_a_delay_what_comes_within_it_is_one_write_and_much_is_written_at_once() {
        let mut commit = GroupCommit::new(200);
        commit.submit(1_000, request(1, 1, 10));
        commit.submit(1_150, request(2, 1, 10));
        assert!(commit.next_write(1_199).is_none());
        assert_eq!(commit.due_ms(), Some(1_200));
        assert_eq!(commit.next_write(1_200).unwrap().len(), 2);
        commit.submit(1_210, request(1, 2, 10));
        assert_eq!(commit.due_ms(), None, "the log writes");
        commit.written();
        assert_eq!(commit.due_ms(), Some(1_410));
        commit.submit(1_220, request(2, 2, MAX_HELD_BYTES));
        assert_eq!(commit.next_write(1_220).unwrap().len(), 2);
    }

    #[test]
    fn a_busy_log_lets_more_gather_and_is_quick_again_as_soon_as_little_comes() {
        let mut commit = GroupCommit::default();
        let come = |commit: &mut GroupCommit, now_ms, count: usize, bytes: usize| {
            (0..count).for_each(|n| commit.submit(now_ms, request(n as u16, now_ms, bytes)));
        };
        for (count, bytes) in [(1, BUSY_BYTES), (100, 10), (BUSY_SUBMISSIONS, BUSY_BYTES)] {
            come(&mut commit, 10, count, bytes);
            assert_eq!(
                commit.next_write(10).unwrap().len(),
                count,
                "one large publish or many small ones are no load"
            );
            commit.written();
        }
        come(&mut commit, 12, 1, 10);
        assert!(commit.next_write(13).is_none());
        assert_eq!(commit.due_ms(), Some(12 + BUSY_DELAY_MS));
        come(&mut commit, 14, 1, 10);
        assert_eq!(commit.next_write(14).unwrap().len(), 2, "the first of them has waited for long enough");
        commit.written();
        come(&mut commit, 15, 1, 10);
        assert_eq!(commit.next_write(15).unwrap().len(), 1, "it is not busy any more");
    }
}
