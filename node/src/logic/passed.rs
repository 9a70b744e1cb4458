//! How far a stream has come, and which of its rows are complete by that.
//!
//! Every part of a window says how far its stream had come when it closed: its watermark. What counts here is the watermark in
//! the batches up to the shard's cursor: while a batch is missing, those behind it may be here, but what it holds of their
//! streams is not. A row is complete when its stream has passed the end of its span, whichever part of whichever window said so.
//!
//! Batches that never come leave a hole. What they held nobody knows, but they closed no window in time that the stream had passed
//! before them, or that begins after what it had passed with the first batch behind them. The stretch between is in doubt, and a
//! row that touches it is never called complete. Of a stream that is first heard of after a hole, all up to there is.
//!
//! - Invariant: how far a stream has passed only grows.
//! - Invariant: a row that is complete stays so, unless batches that the site had confirmed are lost to the database.

use super::progress::Span;
use selvedge_shared::time::{EpochMs, TIME_RANGE};
use std::collections::BTreeSet;

/// How much further than its watermark a stream may have come: readings of this time, before that, may be in lost batches. More than
/// the lateness that is usually allowed.
pub const DOUBT_AFTER_MS: i64 = 60_000;

/// Before any time: nothing is known of the stream.
pub const NEVER: EpochMs = EpochMs(*TIME_RANGE.start());

/// How far a stream has come, as the database has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// Its watermark in the batches up to the shard's cursor.
    pub at: EpochMs,
    /// The batch that brought it.
    pub seq: u64,
    /// The same of batches beyond a gap, if there is one.
    pub ahead: Option<Seen>,
}

/// What a batch says of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The batch.
    pub seq: u64,
    /// The greatest watermark of the stream in it.
    pub watermark: EpochMs,
}

/// A stretch of a stream's time of which lost batches may have held readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// How far the stream had come before them.
    pub from: EpochMs,
    /// How far it had come after them, and [`DOUBT_AFTER_MS`] more.
    pub to: EpochMs,
    /// The batches, from the first to the last.
    pub batches: Span,
}

impl Default for Passed {
    fn default() -> Self {
        Self { at: NEVER, seq: 0, ahead: None }
    }
}

impl Passed {
    /// After these batches, in a shard with this cursor and these holes.
    pub fn advance(self, seen: &[Seen], cursor: u64, holes: &BTreeSet<Span>) -> (Self, Option<Doubt>) {
        let newest = |all: &mut dyn Iterator<Item = Seen>| {
            let later =
                |a: Seen, b: Seen| Seen { seq: a.seq.max(b.seq), watermark: a.watermark.max(b.watermark) };
            all.reduce(later)
        };
        let all = || self.ahead.into_iter().chain(seen.iter().copied());
        let settled = newest(&mut all().filter(|one| one.seq <= cursor));
        let ahead = newest(&mut all().filter(|one| one.seq > cursor));
        let Some(settled) = settled.filter(|one| one.seq > self.seq) else {
            return (Self { ahead, ..self }, None);
        };
        let end = EpochMs(*TIME_RANGE.end()).plus(1);
        let at = settled.watermark.clamp(self.at, end.max(self.at));
        // The first batch after the holes may be another than the last one here; what is in doubt is then more than need be.
        let mut between = holes.iter().filter(|hole| self.seq < hole.first && hole.last < settled.seq);
        let doubt = between.next().map(|first| {
            let last = between.next_back().unwrap_or(first).last;
            let to = at.plus(DOUBT_AFTER_MS);
            Doubt { from: self.at, to, batches: Span { first: first.first, last } }
        });
        (Self { at, seq: settled.seq, ahead }, doubt)
    }
}

/// How far a stream has come, as a query sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// [`Passed::at`].
    pub passed: EpochMs,
    /// Its stretches in doubt.
    pub doubts: Vec<(EpochMs, EpochMs)>,
}

impl Progress {
    /// A stream that has come so far, with nothing in doubt.
    pub fn to(passed: EpochMs) -> Self {
        Self { passed, doubts: vec![] }
    }

    /// Whether all that the stream had in this span in time is here.
    pub fn is_complete(&self, from: EpochMs, to: EpochMs) -> bool {
        self.passed >= to && !self.doubts.iter().any(|(before, after)| *before < to && *after > from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(seq: u64, watermark: i64) -> Seen {
        Seen { seq, watermark: EpochMs(watermark) }
    }

    fn holes(all: &[(u64, u64)]) -> BTreeSet<Span> {
        all.iter().map(|(first, last)| Span { first: *first, last: *last }).collect()
    }

    #[test]
    fn what_lies_beyond_a_gap_counts_once_the_gap_has_closed() {
        let none = holes(&[]);
        let (one, _) = Passed::default().advance(&[seen(1, 100), seen(4, 400)], 2, &none);
        assert_eq!((one.at, one.seq, one.ahead), (EpochMs(100), 1, Some(seen(4, 400))));
        let (two, _) = one.advance(&[seen(5, 350)], 2, &none);
        assert_eq!((two.at, two.ahead), (EpochMs(100), Some(seen(5, 400))), "a watermark never goes back");
        let (three, doubt) = two.advance(&[seen(3, 300)], 5, &none);
        assert_eq!((three.at, three.seq, three.ahead, doubt), (EpochMs(400), 5, None, None));
        assert_eq!(three.advance(&[seen(2, 900)], 5, &none).0, three, "a hole that is filled late");
        let (wild, _) = three.advance(&[seen(6, i64::MAX)], 6, &none);
        assert_eq!(wild.at, EpochMs(TIME_RANGE.end() + 1));
    }

    #[test]
    fn lost_batches_leave_what_they_may_have_held_in_doubt() {
        let start = Passed { at: EpochMs(100), seq: 3, ahead: None };
        let lost = holes(&[(1, 2), (5, 6), (8, 8), (20, 21)]);
        let (after, doubt) = start.advance(&[seen(9, 300)], 12, &lost);
        let batches = Span { first: 5, last: 8 };
        assert_eq!(doubt, Some(Doubt { from: EpochMs(100), to: EpochMs(300 + DOUBT_AFTER_MS), batches }));
        assert_eq!(after.advance(&[seen(10, 400)], 12, &lost).1, None, "only once");
        let progress = Progress { passed: EpochMs(500), doubts: vec![(EpochMs(100), EpochMs(300))] };
        let complete = |from, to| progress.is_complete(EpochMs(from), EpochMs(to));
        assert_eq!([complete(0, 100), complete(300, 400), complete(400, 500)], [true; 3]);
        assert_eq!(
            [complete(0, 101), complete(150, 160), complete(299, 400), complete(400, 501)],
            [false; 4]
        );
        let (_, new) = Passed::default().advance(&[seen(4, 50)], 12, &lost);
        assert_eq!(
            new.map(|doubt| (doubt.from, doubt.to)),
            Some((NEVER, EpochMs(50 + DOUBT_AFTER_MS))),
            "never heard of before"
        );
    }
}
