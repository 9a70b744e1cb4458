//! The progress of a stream, and which of its rows are complete by it.
//!
//! Every part of a window carries a watermark: how far its stream had come when the part closed. The latest watermark counts,
//! in the order of the shard's batches and of the parts within them. It may be lower than an earlier one: when a wrong clock
//! has come back, the site corrects what it reported before. (A site never reports more than its clocks bear out, and no part
//! arrives in time for a row that the latest watermark has passed.)
//!
//! Only batches up to the shard's cursor count. While a batch is missing, batches behind it may be here already, but what the
//! missing one holds of their streams is unknown; a lower watermark in the newest of them counts at once. A row is complete
//! when its stream has passed the end of the row's span, whichever part of whichever window said so.
//!
//! Batches that never come leave a hole. Nobody knows their content, but they closed in time no window that the stream had
//! passed before the hole, and none that begins after the watermark in the first batch behind it. The stretch between these
//! two is in doubt, and a row that touches it is never complete. If a stream first appears after a hole, everything up to that
//! point is in doubt.
//!
//! - Invariant: a stream's progress is its latest watermark, or less while batches are missing.
//! - Invariant: a complete row stays complete, unless its site reports that the stream went back, or the database loses batches
//!   that the site had confirmed.

use super::progress::BatchSpan;
use selvedge_types::time::{EpochMs, TIME_RANGE};
use std::collections::BTreeSet;

/// How much further than its watermark a stream may have come: readings of this time, before that, may be in lost batches. More than
/// the lateness that is usually allowed.
pub const DOUBT_AFTER_MS: i64 = 60_000;

/// Before any time: the stream's progress is unknown.
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
    /// How often it went back.
    pub set_back: u64,
}

/// What a batch says of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub seq: u64,
    /// The last watermark of the stream in it.
    pub watermark: EpochMs,
}

/// A stretch of a stream's time of which lost batches may have held readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt {
    /// How far the stream had come before them, or after them if that is less far.
    pub from: EpochMs,
    /// The other of the two, and [`DOUBT_AFTER_MS`] more.
    pub to: EpochMs,
    /// The batches, from the first to the last.
    pub batches: BatchSpan,
}

impl Default for Passed {
    fn default() -> Self {
        Self { at: NEVER, seq: 0, ahead: None, set_back: 0 }
    }
}

impl Passed {
    /// After these batches, in a shard with this cursor and these holes.
    pub fn advance(self, seen: &[Seen], cursor: u64, holes: &BTreeSet<BatchSpan>) -> (Self, Option<Doubt>) {
        let all = || self.ahead.into_iter().chain(seen.iter().copied()).filter(|one| one.seq > self.seq);
        let settled = all().filter(|one| one.seq <= cursor).max_by_key(|one| one.seq);
        let ahead = || all().filter(|one| one.seq > cursor);
        let within = |at: EpochMs| at.clamp(NEVER, EpochMs(*TIME_RANGE.end()).plus(1));
        let told = settled.map_or(self.at, |one| within(one.watermark));
        let at = ahead().map(|one| within(one.watermark)).fold(told, EpochMs::min);
        let now = Self {
            at,
            seq: settled.map_or(self.seq, |one| one.seq),
            ahead: ahead().max_by_key(|one| one.seq),
            set_back: self.set_back.saturating_add(u64::from(at < self.at)),
        };
        // The first batch after the holes may be another than the last one here; what is in doubt is then more than need be.
        let mut between = holes.iter().filter(|hole| self.seq < hole.first && hole.last < now.seq);
        let doubt = between.next().map(|first| {
            let last = between.next_back().unwrap_or(first).last;
            let (from, to) = (self.at.min(told), self.at.max(told).plus(DOUBT_AFTER_MS));
            Doubt { from, to, batches: BatchSpan { first: first.first, last } }
        });
        (now, doubt)
    }
}

/// How far a stream has come, as a query sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamProgress {
    pub passed: EpochMs,
    /// Its stretches in doubt.
    pub doubts: Vec<(EpochMs, EpochMs)>,
}

impl StreamProgress {
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

    fn holes(all: &[(u64, u64)]) -> BTreeSet<BatchSpan> {
        all.iter().map(|(first, last)| BatchSpan { first: *first, last: *last }).collect()
    }

    #[test]
    fn what_lies_beyond_a_gap_counts_once_the_gap_has_closed() {
        let none = holes(&[]);
        let (one, _) = Passed::default().advance(&[seen(1, 100), seen(4, 400)], 2, &none);
        assert_eq!((one.at, one.seq, one.ahead), (EpochMs(100), 1, Some(seen(4, 400))));
        let (two, _) = one.advance(&[seen(5, 350)], 2, &none);
        assert_eq!((two.at, two.ahead), (EpochMs(100), Some(seen(5, 350))));
        let (three, doubt) = two.advance(&[seen(3, 300)], 5, &none);
        assert_eq!((three.at, three.seq, three.ahead, doubt), (EpochMs(350), 5, None, None));
        assert_eq!(three.advance(&[seen(2, 900)], 5, &none).0, three, "a hole that is filled late");
        let (wild, _) = three.advance(&[seen(6, i64::MAX)], 6, &none);
        assert_eq!(wild.at, EpochMs(TIME_RANGE.end() + 1));
    }

    #[test]
    fn what_was_told_last_counts_and_that_a_stream_went_back_counts_at_once() {
        let none = holes(&[]);
        let start = Passed { at: EpochMs(9_000_000), seq: 3, ..Passed::default() };
        let (back, _) = start.advance(&[seen(4, 200)], 4, &none);
        assert_eq!((back.at, back.set_back), (EpochMs(200), 1));
        let (on, _) = back.advance(&[seen(5, 300)], 5, &none);
        assert_eq!((on.at, on.set_back), (EpochMs(300), 1));
        // Beyond a gap, and in whichever order they come.
        let (back, _) = start.advance(&[seen(6, 250)], 3, &none);
        assert_eq!((back.at, back.seq, back.ahead), (EpochMs(250), 3, Some(seen(6, 250))));
        let (gone, _) = start.advance(&[seen(5, 230), seen(7, 8_000)], 3, &none);
        assert_eq!((gone.at, gone.ahead), (EpochMs(230), Some(seen(7, 8_000))));
        let (there, _) = gone.advance(&[seen(4, 9_900_000), seen(6, 240)], 7, &none);
        assert_eq!((there.at, there.set_back), (EpochMs(8_000), 1));
        let (_, doubt) = start.advance(&[seen(6, 250)], 6, &holes(&[(4, 5)]));
        let doubt = doubt.unwrap();
        assert_eq!((doubt.from, doubt.to), (EpochMs(250), EpochMs(9_000_000 + DOUBT_AFTER_MS)));
    }

    #[test]
    fn in_any_order_a_stream_has_come_as_far_as_was_told_last_once_all_is_there() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut below = |most: u64| random.u64(..most);
        for _ in 0..2_000 {
            let told: Vec<i64> = (0..9).map(|_| below(1_000) as i64).collect();
            let mut order: Vec<u64> = (1..=9).collect();
            (1..9).rev().for_each(|at| order.swap(at, below(at as u64 + 1) as usize));
            let (mut passed, mut here, mut cursor) = (Passed::default(), BTreeSet::<u64>::new(), 0);
            while !order.is_empty() {
                let some = order.split_off(below(order.len() as u64) as usize);
                here.extend(&some);
                while here.contains(&(cursor + 1)) {
                    cursor += 1;
                }
                let seen: Vec<Seen> = some.iter().map(|seq| seen(*seq, told[*seq as usize - 1])).collect();
                (passed, _) = passed.advance(&seen, cursor, &BTreeSet::new());
                let newest = here.last().map_or(0, |seq| told[*seq as usize - 1]);
                assert!(passed.at.0 <= newest, "{told:?} {here:?}: {passed:?}");
            }
            assert_eq!(passed.at.0, told[8]);
        }
    }

    #[test]
    fn lost_batches_leave_what_they_may_have_held_in_doubt() {
        let start = Passed { at: EpochMs(100), seq: 3, ..Passed::default() };
        let lost = holes(&[(1, 2), (5, 6), (8, 8), (20, 21)]);
        let (after, doubt) = start.advance(&[seen(9, 300)], 12, &lost);
        let batches = BatchSpan { first: 5, last: 8 };
        assert_eq!(doubt, Some(Doubt { from: EpochMs(100), to: EpochMs(300 + DOUBT_AFTER_MS), batches }));
        assert_eq!(after.advance(&[seen(10, 400)], 12, &lost).1, None, "only once");
        let progress = StreamProgress { passed: EpochMs(500), doubts: vec![(EpochMs(100), EpochMs(300))] };
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
