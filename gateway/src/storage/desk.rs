//! Carries between the shards, the log and the store.

use super::keeper::{Done, LogWork};
use crate::logic::commit::{GroupCommit, Submission};
use crate::logic::replica::Said;
use selvedge_shared::canary::{self, Canary};
use selvedge_shared::ids::ShardId;

/// Where something is to be carried.
#[derive(Debug)]
pub enum Errand {
    /// To the log, behind all that was carried there before.
    Log(LogWork),
    /// To a shard.
    Shard(ShardId, Said),
    /// To every shard.
    Room(bool),
}

/// Figures of the log for operators.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct LogFigures {
    /// The disk has room for new readings.
    pub room: bool,
    /// Log segments on disk.
    pub segments: u64,
}

/// The core of the log's actor.
#[derive(Debug)]
pub struct Desk {
    commit: GroupCommit,
    max_segments: u64,
    figures: LogFigures,
}

impl Desk {
    /// When the log has more than `max_segments`, shards that hold the oldest one are asked for a snapshot. `room`: whether
    /// the disk has room at the start, as the shards know it. `delay_ms`: how long what is to be written may gather.
    pub fn new(max_segments: u64, room: bool, delay_ms: u64) -> Self {
        let figures = LogFigures { room, segments: 0 };
        Self { commit: GroupCommit::new(delay_ms), max_segments, figures }
    }

    /// Figures for operators.
    pub fn figures(&self) -> LogFigures {
        self.figures
    }

    /// A shard wants records on disk.
    pub fn persist(&mut self, now_ms: u64, submission: Submission) -> Option<Errand> {
        self.commit.submit(now_ms, submission);
        self.timer(now_ms)
    }

    /// When [`Desk::timer`] has something to do, if ever.
    pub fn due_ms(&self) -> Option<u64> {
        self.commit.due_ms()
    }

    /// What has gathered for long enough is to be written.
    pub fn timer(&mut self, now_ms: u64) -> Option<Errand> {
        self.commit.next_write(now_ms).map(|records| Errand::Log(LogWork::Write(records)))
    }

    /// The log or the store has done something.
    pub fn done(&mut self, now_ms: u64, done: Done) -> Vec<Errand> {
        let mut errands = Vec::new();
        match done {
            Done::Written => {
                let persisted = |(shard, token)| Errand::Shard(shard, Said::Persisted(token));
                errands.extend(self.commit.written().into_iter().map(persisted));
                errands.extend(self.timer(now_ms));
            }
            Done::Room(room) if self.figures.room != room => {
                self.figures.room = room;
                errands.push(Errand::Room(room));
            }
            Done::Room(_) => {}
            Done::Looked { oldest, segments, rotten } => {
                self.figures.segments = segments;
                let short = segments > self.max_segments || !self.figures.room || rotten;
                let groups = oldest.filter(|_| short).into_iter().flat_map(|o| o.slots.into_keys());
                errands.extend(groups.map(|g| Errand::Shard(ShardId(g), Said::SnapshotWanted)));
            }
            Done::Snapshot { shard, slot, saved } => {
                if saved || canary::makes(Canary::TrimmedWithoutSnapshot) {
                    errands.push(Errand::Log(LogWork::Keep { shard, from: slot + 1 }));
                }
                errands.push(Errand::Shard(shard, Said::SnapshotSaved { slot, saved }));
            }
            Done::RottenBatches(shard, seqs) => {
                errands.push(Errand::Shard(shard, Said::RottenBatches(seqs)));
            }
            Done::RottenSnapshot(shard) => errands.push(Errand::Shard(shard, Said::SnapshotRotten)),
            Done::RottenSegment(_) => errands.push(Errand::Log(LogWork::Look)),
            Done::Mended(_) => {}
            Done::NotStored(shard, batch) => errands.push(Errand::Shard(shard, Said::NotStored(batch))),
            Done::Loaded { shard, seq, stored } => {
                errands.push(Errand::Shard(shard, Said::Loaded { seq, stored }));
            }
            Done::Scanned { shard, ticket, scan } => {
                errands.push(Errand::Shard(shard, Said::Scanned { ticket, scan }));
            }
        }
        errands
    }
}
