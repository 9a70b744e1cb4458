//! The progress of a shard: which of its batches are applied.
//!
//! Batches of a shard are numbered 1, 2, 3, ... and arrive in any order and more than once. The progress is a prefix (`cursor`:
//! everything up to it is settled) and a bounded set of numbers applied beyond it. The node ignores a batch beyond that bound;
//! the edge sends it again once the gap before it has closed.
//!
//! Every message of the edge names the first batch that it still has. A batch below it that was never applied can't come from
//! anywhere any more: the node records it as a **hole**, and the cursor passes it. If the batch arrives after all, in a message
//! that was delayed, it fills the hole. The edge may also report a single batch as lost: that becomes a hole, too, once the
//! cursor reaches it.
//!
//! - Invariant: the progress calls a number new at most once between two restores of the same state.
//! - Invariant: each number up to the cursor is either applied or in a hole; none is both.
//! - Invariant: the number after the cursor is not applied.
//!
//! Limits: the youngest [`MAX_HOLES_ENTRIES`] holes can be filled; older ones are final.

use std::collections::BTreeSet;

/// How many batches beyond the cursor may be applied before the gap has closed.
pub const MAX_BEYOND_ENTRIES: usize = 4096;

/// How many holes of a shard can still be filled.
pub const MAX_HOLES_ENTRIES: usize = 1024;

/// A run of batch numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchSpan {
    pub first: u64,
    pub last: u64,
}

/// What to do with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has to be applied; from now on it counts as applied.
    New,
    /// It was applied before, or lies in a hole that is final.
    Duplicate,
    /// It can't be taken before the gap before it has closed.
    TooFarAhead,
}

/// The applied batches of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShardProgress {
    cursor: u64,
    beyond: BTreeSet<u64>,
    holes: BTreeSet<BatchSpan>,
}

impl ShardProgress {
    /// From what was stored; of the holes only the youngest [`MAX_HOLES_ENTRIES`] are kept.
    pub fn restore(
        cursor: u64,
        beyond: impl IntoIterator<Item = u64>,
        holes: impl IntoIterator<Item = BatchSpan>,
    ) -> Self {
        let beyond = beyond.into_iter().filter(|seq| *seq > cursor).collect();
        let mut holes: BTreeSet<BatchSpan> = holes.into_iter().collect();
        while holes.len() > MAX_HOLES_ENTRIES {
            holes.pop_first();
        }
        let mut progress = Self { cursor, beyond, holes };
        progress.advance();
        progress
    }

    /// Everything up to here is applied or a hole.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The highest number that is settled.
    pub fn highest(&self) -> u64 {
        self.beyond.last().copied().unwrap_or(self.cursor)
    }

    /// How many batches beyond the cursor are applied.
    pub fn beyond(&self) -> usize {
        self.beyond.len()
    }

    /// The holes that can still be filled.
    pub fn holes(&self) -> &BTreeSet<BatchSpan> {
        &self.holes
    }

    /// Judges batch `seq`, and records it as applied if it is new.
    pub fn apply(&mut self, seq: u64) -> Verdict {
        if seq <= self.cursor {
            return self.fill(seq);
        }
        if self.beyond.contains(&seq) {
            return Verdict::Duplicate;
        }
        let next = seq == self.cursor.saturating_add(1);
        if !next && self.beyond.len() >= MAX_BEYOND_ENTRIES {
            return Verdict::TooFarAhead;
        }
        self.beyond.insert(seq);
        self.advance();
        Verdict::New
    }

    /// The edge has nothing below `first_kept` any more: what is missing there becomes holes.
    pub fn skip_below(&mut self, first_kept: u64) {
        while let Some(missing) = self.cursor.checked_add(1).filter(|seq| *seq < first_kept) {
            let applied = self.beyond.range(..first_kept).next();
            let last = applied.map_or(first_kept - 1, |seq| seq - 1);
            self.holes.insert(BatchSpan { first: missing, last });
            self.cursor = last;
            self.advance();
        }
    }

    /// The edge has lost batch `seq` for good: it becomes a hole if it is the next after the cursor, and was never applied.
    pub fn lose(&mut self, seq: u64) -> Verdict {
        if seq <= self.cursor || self.beyond.contains(&seq) {
            return Verdict::Duplicate;
        }
        if seq != self.cursor.saturating_add(1) {
            return Verdict::TooFarAhead;
        }
        self.holes.insert(BatchSpan { first: seq, last: seq });
        self.cursor = seq;
        self.advance();
        Verdict::New
    }

    fn fill(&mut self, seq: u64) -> Verdict {
        let around = self.holes.range(..=BatchSpan { first: seq, last: u64::MAX }).next_back().copied();
        let Some(hole) = around.filter(|hole| hole.last >= seq) else { return Verdict::Duplicate };
        self.holes.remove(&hole);
        if hole.first < seq {
            self.holes.insert(BatchSpan { first: hole.first, last: seq - 1 });
        }
        if seq < hole.last {
            self.holes.insert(BatchSpan { first: seq + 1, last: hole.last });
        }
        Verdict::New
    }

    fn advance(&mut self) {
        while let Some(seq) = self.beyond.first().copied().filter(|seq| *seq == self.cursor.saturating_add(1))
        {
            self.beyond.pop_first();
            self.cursor = seq;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, last: u64) -> BatchSpan {
        BatchSpan { first, last }
    }

    fn holes(progress: &ShardProgress) -> Vec<BatchSpan> {
        progress.holes().iter().copied().collect()
    }

    #[test]
    fn batches_in_any_order_are_new_once_and_the_cursor_is_the_prefix() {
        let mut p = ShardProgress::default();
        let mut cursors = vec![];
        for seq in [3, 1, 1, 5, 2, 3, 5, 4] {
            cursors.push((seq, p.apply(seq), p.cursor()));
        }
        use Verdict::{Duplicate, New};
        let expected = [
            (3, New, 0),
            (1, New, 1),
            (1, Duplicate, 1),
            (5, New, 1),
            (2, New, 3),
            (3, Duplicate, 3),
            (5, Duplicate, 3),
            (4, New, 5),
        ];
        assert_eq!(cursors, expected);
    }

    #[test]
    fn what_the_edge_no_longer_has_becomes_holes_around_what_is_applied() {
        let mut p = ShardProgress::default();
        for seq in [1, 4, 5, 9] {
            p.apply(seq);
        }
        p.skip_below(8);
        assert_eq!((p.cursor(), holes(&p)), (7, vec![span(2, 3), span(6, 7)]));
        p.skip_below(9);
        assert_eq!((p.cursor(), p.beyond()), (9, 0));
        p.skip_below(3);
        assert_eq!((p.cursor(), holes(&p)), (9, vec![span(2, 3), span(6, 7), span(8, 8)]), "never backwards");
    }

    #[test]
    fn a_batch_that_the_edge_has_lost_is_a_hole_unless_it_is_here() {
        let mut p = ShardProgress::default();
        assert_eq!(p.lose(2), Verdict::TooFarAhead);
        assert_eq!([p.apply(1), p.apply(3)], [Verdict::New; 2]);
        assert_eq!([p.lose(1), p.lose(3)], [Verdict::Duplicate; 2]);
        assert_eq!((p.lose(2), p.cursor(), holes(&p)), (Verdict::New, 3, vec![span(2, 2)]));
        assert_eq!(p.lose(2), Verdict::Duplicate);
        assert_eq!((p.apply(2), holes(&p)), (Verdict::New, vec![]), "it comes after all");
    }

    #[test]
    fn a_late_batch_fills_its_hole_once() {
        let mut p = ShardProgress::default();
        p.skip_below(6);
        assert_eq!(p.apply(3), Verdict::New);
        assert_eq!(p.apply(3), Verdict::Duplicate);
        assert_eq!((p.cursor(), holes(&p)), (5, vec![span(1, 2), span(4, 5)]));
        for seq in [1, 2, 4, 5] {
            assert_eq!(p.apply(seq), Verdict::New);
        }
        assert_eq!(holes(&p), []);
    }

    #[test]
    fn the_gap_set_is_bounded_and_the_missing_batch_is_always_taken() {
        let mut p = ShardProgress::default();
        let far = MAX_BEYOND_ENTRIES as u64;
        for seq in 2..far + 2 {
            assert_eq!(p.apply(seq), Verdict::New);
        }
        assert_eq!(p.apply(far + 2), Verdict::TooFarAhead);
        assert_eq!(p.apply(1), Verdict::New);
        assert_eq!((p.cursor(), p.beyond()), (far + 1, 0));
        assert_eq!(p.apply(far + 2), Verdict::New);
    }

    #[test]
    fn the_ends_of_the_numbers_do_no_harm() {
        let mut p = ShardProgress::default();
        assert_eq!(p.apply(0), Verdict::Duplicate);
        assert_eq!(p.apply(u64::MAX), Verdict::New);
        p.skip_below(u64::MAX);
        assert_eq!((p.cursor(), holes(&p)), (u64::MAX, vec![span(1, u64::MAX - 1)]));
        assert_eq!(p.apply(u64::MAX), Verdict::Duplicate);
        p.skip_below(u64::MAX);
    }

    #[test]
    fn holes_are_bounded() {
        let mut p = ShardProgress::default();
        for n in 1..2 * MAX_HOLES_ENTRIES as u64 {
            p.skip_below(2 * n);
            p.apply(2 * n);
        }
        let mut p = ShardProgress::restore(p.cursor(), [], holes(&p));
        assert_eq!(p.holes().len(), MAX_HOLES_ENTRIES);
        assert_eq!(p.apply(1), Verdict::Duplicate, "the oldest are final");
    }

    #[test]
    fn a_restored_progress_goes_on_where_it_was() {
        let mut p = ShardProgress::default();
        for seq in [1, 2, 4, 7] {
            p.apply(seq);
        }
        let again = ShardProgress::restore(p.cursor(), [1, 2, 4, 7], holes(&p));
        assert_eq!(again, p);
        assert_eq!(ShardProgress::restore(0, [1, 2, 4], []).cursor(), 2);
    }
}
