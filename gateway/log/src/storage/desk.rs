//! Carries work and results between the shards, the log and the store.

use super::keeper::{Done, LogSize, LogWork};
use super::transfers::{Served, Transfers};
use selvedge_fabric::commit::{CommitRequest, GroupCommit};
use selvedge_fabric::replica::{Encoding, Said, StoreWork};
use selvedge_fabric::shard::{TransferAnswer, TransferRequest};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::ShardId;

/// Something to carry, and where to.
#[derive(Debug)]
pub enum Errand {
    /// To the log, which does it after everything carried there before.
    Log(LogWork),
    /// To the store, which does it after everything carried there before.
    Store(StoreWork),
    /// To the thread that encodes states; it answers [`Done::Encoded`].
    Encode(Encoding),
    Shard(ShardId, Said),
    /// To every shard: whether the disk has room.
    Room(bool),
    /// To the host of replicas: nothing is left of the shard's replica, which was given up. A new one may be made.
    Dropped(ShardId),
}

/// The log's figures for operators.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct LogFigures {
    /// Whether the disk has room for new readings.
    pub room: bool,
    /// Log segments on disk, without those that only a transfer to another replica keeps.
    pub segments: u64,
    /// Bytes of log beyond the wanted number of segments. A witness keeps them while a full gateway is away; elsewhere
    /// they go with the next snapshots.
    pub overlong_bytes: u64,
    /// For how many whole hours there is room at the rate at which the log has grown since it became overlong. None
    /// while it is not, or has been so for less than [`MEASURE_MS`].
    pub room_for_hours: Option<u64>,
}

/// How long a log must have been overlong before it is said for how long there is room, in milliseconds.
pub const MEASURE_MS: u64 = 60_000;

/// When a log became overlong, and how many bytes had been written to it by then.
#[derive(Debug, Clone, Copy)]
struct Overlong {
    since_ms: u64,
    written_bytes: u64,
}

impl Overlong {
    fn room_for_hours(self, now_ms: u64, size: LogSize) -> Option<u64> {
        let ms = now_ms.saturating_sub(self.since_ms);
        let bytes = size.written_bytes.saturating_sub(self.written_bytes);
        if ms < MEASURE_MS || bytes == 0 {
            return None;
        }
        let hours = u128::from(size.free_bytes) * u128::from(ms) / u128::from(bytes) / 3_600_000;
        Some(u64::try_from(hours).unwrap_or(u64::MAX))
    }
}

/// The core of the log's actor: it decides what the log and the store do next, and in what order.
#[derive(Debug)]
pub struct StorageDesk {
    commit: GroupCommit,
    transfers: Transfers,
    max_segments: u64,
    figures: LogFigures,
    overlong: Option<Overlong>,
}

impl StorageDesk {
    /// A desk without work. When the log has more than `max_segments`, the desk asks the shards in its oldest segment
    /// for snapshots. `room` is what the shards were told about the disk at the start. Records to write gather for
    /// `delay_ms`.
    pub fn new(max_segments: u64, room: bool, delay_ms: u64) -> Self {
        let figures = LogFigures { room, ..LogFigures::default() };
        let (commit, transfers) = (GroupCommit::new(delay_ms), Transfers::default());
        Self { commit, transfers, max_segments, figures, overlong: None }
    }

    /// The log's figures as they were last reported.
    pub fn figures(&self) -> LogFigures {
        self.figures
    }

    /// Takes in records that a shard wants on disk. Returns a write if one is due now.
    pub fn persist(&mut self, now_ms: u64, request: CommitRequest) -> Option<Errand> {
        self.commit.submit(now_ms, request);
        self.timer(now_ms)
    }

    /// Takes in what a shard wants of the store, or for another replica.
    pub fn store(&mut self, now_ms: u64, work: StoreWork) -> Vec<Errand> {
        let (shard, to, request) = match work {
            StoreWork::Transfer { shard, to, request } => (shard, to, request),
            StoreWork::Encode(encoding) => return vec![Errand::Encode(encoding)],
            work => return vec![Errand::Store(work)],
        };
        let who = (shard, to);
        let answer = |answer| vec![Errand::Shard(shard, Said::Transfer { to, answer })];
        match request {
            TransferRequest::Nothing => self.end(who, self.transfers.has(who)),
            TransferRequest::Contents => {
                self.transfers.reached(now_ms, who, (0, 0), true);
                Vec::new()
            }
            TransferRequest::State { slot, .. } if !self.transfers.has(who) => {
                answer(TransferAnswer::NoState { slot })
            }
            TransferRequest::State { .. } if !self.transfers.ask(who) => Vec::new(),
            TransferRequest::State { .. } => vec![Errand::Store(StoreWork::Transfer { shard, to, request })],
            _ if !self.transfers.admit(now_ms, who) => answer(TransferAnswer::NoPlace),
            _ if !self.transfers.ask(who) => Vec::new(),
            TransferRequest::Snapshot { .. } => {
                vec![Errand::Store(StoreWork::Transfer { shard, to, request })]
            }
            TransferRequest::Log { from } => {
                let pinned = self.transfers.pin(who, from);
                let stretch = LogWork::Stretch { shard, to, from };
                vec![Errand::Log(LogWork::Pin(shard, pinned)), Errand::Log(stretch)]
            }
        }
    }

    /// Gives up the shard's replica, which writes nothing any more, while `through` is the shard's latest configuration.
    /// Call it for each mark at the start too: it finishes what a crash interrupted.
    pub fn give_up(&mut self, shard: ShardId, through: u32) -> Vec<Errand> {
        self.commit.forget(shard);
        self.transfers.forget(shard);
        vec![Errand::Log(LogWork::GiveUp { shard, through })]
    }

    /// How many replicas are being brought up to date from here. While there are any, the host has the log looked at
    /// now and then.
    pub fn transfers(&self) -> usize {
        self.transfers.active()
    }

    /// Ends a transfer; `was` says whether there was one.
    fn end(&mut self, who: Served, was: bool) -> Vec<Errand> {
        self.transfers.end(who);
        let (shard, to) = who;
        let over = StoreWork::Transfer { shard, to, request: TransferRequest::Nothing };
        let unpin = LogWork::Pin(shard, self.transfers.pinned(shard));
        if was { vec![Errand::Store(over), Errand::Log(unpin)] } else { Vec::new() }
    }

    /// Passes on what was found for a replica that is behind.
    fn found(&mut self, now_ms: u64, who: Served, answer: TransferAnswer) -> Vec<Errand> {
        let (shard, to) = who;
        let mut errands = Vec::new();
        self.transfers.answered(who);
        match &answer {
            TransferAnswer::Log { from, values } => {
                self.transfers.reached(now_ms, who, (from + values.len() as u64, 0), false);
            }
            TransferAnswer::Snapshot { slot, .. } => {
                // The replica will need the log behind the snapshot.
                self.transfers.reached(now_ms, who, (*slot, 0), false);
                errands.push(Errand::Log(LogWork::Pin(shard, self.transfers.pin(who, slot + 1))));
            }
            TransferAnswer::State { slot, offset, data } => {
                let upto = offset.saturating_add(data.len() as u64);
                self.transfers.reached(now_ms, who, (*slot, upto), data.is_empty());
            }
            _ => {}
        }
        errands.push(Errand::Shard(shard, Said::Transfer { to, answer }));
        errands
    }

    fn measure(&mut self, now_ms: u64, segments: u64, size: LogSize) {
        let beyond = segments.saturating_sub(self.max_segments);
        self.figures.overlong_bytes = beyond.saturating_mul(size.segment_bytes);
        let fresh = Overlong { since_ms: now_ms, written_bytes: size.written_bytes };
        self.overlong = (beyond > 0).then(|| self.overlong.unwrap_or(fresh));
        self.figures.room_for_hours = self.overlong.and_then(|o| o.room_for_hours(now_ms, size));
    }

    /// When [`StorageDesk::timer`] has something to do; `None` if nothing gathers.
    pub fn due_ms(&self) -> Option<u64> {
        self.commit.due_ms()
    }

    /// Returns the write of records that have gathered for long enough.
    pub fn timer(&mut self, now_ms: u64) -> Option<Errand> {
        self.commit.next_write(now_ms).map(|records| Errand::Log(LogWork::Write(records)))
    }

    /// Takes in a result of the log or the store, and returns what follows from it.
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
            Done::Looked { oldest, segments, rotten, size } => {
                for who in self.transfers.expire(now_ms) {
                    errands.extend(self.end(who, true));
                }
                self.figures.segments = segments;
                self.measure(now_ms, segments, size);
                let short = segments > self.max_segments || !self.figures.room || rotten;
                let groups = oldest.filter(|_| short).into_iter().flat_map(|o| o.slots.into_keys());
                errands.extend(groups.map(|g| Errand::Shard(ShardId(g), Said::SnapshotWanted)));
            }
            Done::Encoded(shard, work) => {
                // Before anything that follows from what the shard applies from now on.
                errands.push(Errand::Store(work));
                errands.push(Errand::Shard(shard, Said::MachineReturned));
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
            Done::GivenUp(shard) | Done::DroppedInPart(shard) => {
                errands.push(Errand::Store(StoreWork::Drop(shard)));
            }
            Done::Dropped(shard) => errands.push(Errand::Dropped(shard)),
            Done::NotStored(shard, batch) => errands.push(Errand::Shard(shard, Said::NotStored(batch))),
            Done::Loaded { shard, seq, stored } => {
                errands.push(Errand::Shard(shard, Said::Loaded { seq, stored }));
            }
            // The transfer may have ended meanwhile.
            Done::Stretch { shard, to, stretch: Some(_), .. } | Done::ReadInPart { shard, to, .. }
                if !self.transfers.has((shard, to)) => {}
            Done::Stretch { shard, to, from, stretch: Some(stretch) } => {
                errands.push(Errand::Store(StoreWork::ReadLog { shard, to, from, stretch }));
            }
            Done::Stretch { shard, to, from, stretch: None } => {
                errands.extend(self.found(now_ms, (shard, to), TransferAnswer::NoLog { from }));
            }
            Done::ReadInPart { shard, to, from, stretch } => {
                errands.push(Errand::Store(StoreWork::ReadLog { shard, to, from, stretch }));
            }
            Done::Transfer { shard, to, answer } => errands.extend(self.found(now_ms, (shard, to), answer)),
            Done::Scanned { shard, ticket, scan } => {
                errands.push(Errand::Shard(shard, Said::Scanned { ticket, scan }));
            }
        }
        errands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlong_log_has_room_for_as_long_as_the_disk_lasts_at_its_rate() {
        let overlong = Overlong { since_ms: 1_000, written_bytes: 500 };
        let size = |written_bytes, free_bytes| LogSize { written_bytes, free_bytes, ..LogSize::default() };
        let after = |ms, size| overlong.room_for_hours(1_000 + ms, size);
        assert_eq!(after(MEASURE_MS - 1, size(1_500, 600_000)), None, "too short to tell");
        assert_eq!(after(MEASURE_MS, size(500, 600_000)), None, "it does not grow");
        // 1,000 bytes a minute, and 600,000 bytes are free.
        assert_eq!(after(MEASURE_MS, size(1_500, 600_000)), Some(10));
        assert_eq!(after(2 * MEASURE_MS, size(2_500, 599_999)), Some(9));
        assert_eq!(after(MEASURE_MS, size(u64::MAX, 0)), Some(0), "the disk is full");
    }
}
