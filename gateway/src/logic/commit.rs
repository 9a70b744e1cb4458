//! Group commit: one fsync for everything that all shards of a gateway want on disk.
//!
//! The protocol: a shard submits records under a token; while the log is idle they are written at once,
//! while it is busy they gather; when a write is on disk, every shard that had records in it is told its
//! highest token, and what gathered in the meantime is the next write. So the batch grows with the load
//! and with the slowness of the disk, and an idle gateway waits for nobody.
//!
//! Invariant: records of one shard reach the log in the order of their tokens.
//! Invariant: a token is reported only after the write that holds it, and every earlier one, is on disk.
//! Limit: one write holds at most [`MAX_WRITE_BYTES`] of payload beyond its first submission; the rest waits
//! for the next. How much can wait is bounded by the shards' in-flight windows.

use crate::wal::Record;
use selvedge_shared::ids::ShardId;
use std::collections::VecDeque;

/// The most payload that one write gathers beyond its first submission.
pub const MAX_WRITE_BYTES: usize = 4 * 1024 * 1024;

/// What one shard wants on disk.
#[derive(Debug)]
pub struct Submission {
    /// The shard.
    pub shard: ShardId,
    /// Reported back once this submission is on disk; grows.
    pub token: u64,
    /// In order.
    pub records: Vec<Record>,
}

/// Gathers what shards submit while the log writes.
#[derive(Debug, Default)]
pub struct GroupCommit {
    waiting: VecDeque<Submission>,
    writing: Option<Vec<(ShardId, u64)>>,
}

impl GroupCommit {
    /// A shard wants records on disk.
    pub fn submit(&mut self, submission: Submission) {
        self.waiting.push_back(submission);
    }

    /// The next write, if the log is idle and something waits. The caller makes it durable and then calls
    /// [`GroupCommit::written`]; if that fails, the process must end.
    pub fn next_write(&mut self) -> Option<Vec<Record>> {
        if self.writing.is_some() || self.waiting.is_empty() {
            return None;
        }
        let (mut bytes, mut records, mut tokens) = (0, Vec::new(), Vec::new());
        while let Some(submission) = self.waiting.pop_front() {
            bytes += submission.records.iter().map(|r| r.payload.len()).sum::<usize>();
            tokens.push((submission.shard, submission.token));
            records.extend(submission.records);
            if bytes >= MAX_WRITE_BYTES {
                break;
            }
        }
        self.writing = Some(tokens);
        Some(records)
    }

    /// The write is on disk: which shards are to be told, with the highest token of each.
    pub fn written(&mut self) -> Vec<(ShardId, u64)> {
        let mut tokens = self.writing.take().unwrap_or_default();
        tokens.sort_unstable_by_key(|(shard, token)| (*shard, std::cmp::Reverse(*token)));
        tokens.dedup_by_key(|(shard, _)| *shard);
        tokens
    }

    /// How many submissions wait or are being written.
    pub fn pending(&self) -> usize {
        self.waiting.len() + self.writing.as_ref().map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submission(shard: u16, token: u64, bytes: usize) -> Submission {
        let record = Record {
            group: shard,
            configuration: 1,
            kind: 1,
            ballot: (1, 1),
            slot: token,
            payload: vec![0; bytes].into(),
        };
        Submission { shard: ShardId(shard), token, records: vec![record] }
    }

    #[test]
    fn what_comes_during_a_write_shares_the_next_one() {
        let mut commit = GroupCommit::default();
        commit.submit(submission(1, 1, 10));
        assert_eq!(commit.next_write().unwrap().len(), 1, "an idle log writes at once");
        for (shard, token) in [(1, 2), (2, 1), (1, 3)] {
            commit.submit(submission(shard, token, 10));
            assert!(commit.next_write().is_none(), "one write at a time");
        }
        assert_eq!(commit.written(), [(ShardId(1), 1)]);
        let slots: Vec<_> = commit.next_write().unwrap().iter().map(|r| (r.group, r.slot)).collect();
        assert_eq!(slots, [(1, 2), (2, 1), (1, 3)]);
        assert_eq!(commit.written(), [(ShardId(1), 3), (ShardId(2), 1)], "the highest token of each shard");
        assert_eq!(commit.pending(), 0);
    }

    #[test]
    fn a_write_is_bounded_and_the_rest_waits() {
        let mut commit = GroupCommit::default();
        for token in 1..=3 {
            commit.submit(submission(1, token, MAX_WRITE_BYTES / 2 + 1));
        }
        assert_eq!(commit.next_write().unwrap().len(), 2);
        assert_eq!(commit.written(), [(ShardId(1), 2)]);
        assert_eq!(commit.next_write().unwrap().len(), 1);
    }
}
