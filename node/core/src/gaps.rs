//! Gaps: stretches of time in which a stream has no window, between its first one and its last.
//!
//! If two windows are more than a year apart, a clock was wrong for one of them, or the device lay in store. The number of
//! missing windows between them is then unknown.

use selvedge_types::time::{EpochMs, MAX_DURATION_MS};

/// A stretch without windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Its start: the end of the window before it, or the start of the search.
    pub from: EpochMs,
    /// Its end: the start of the window after it, or the end of the search.
    pub to: EpochMs,
    /// The end of the window before it, even if that lies before the search.
    pub began: EpochMs,
}

/// The longest gap for which an answer counts the missing windows.
pub const MAX_GAP_MS: i64 = MAX_DURATION_MS;

impl Gap {
    /// How long it is.
    pub fn length_ms(&self) -> i64 {
        self.to.0.saturating_sub(self.from.0)
    }

    /// How many windows have room in it, begun ones included; nothing if it is longer than [`MAX_GAP_MS`].
    pub fn windows(&self, width_ms: i64) -> Option<i64> {
        let width = width_ms.max(1);
        let windows = self.length_ms() / width + i64::from(self.length_ms() % width != 0);
        (self.to.0.saturating_sub(self.began.0) <= MAX_GAP_MS).then_some(windows)
    }
}

/// Looks for the gaps of one series, whose windows are given by start.
#[derive(Debug)]
pub struct Gaps {
    width_ms: i64,
    from: EpochMs,
    /// The end of the last window so far.
    end: Option<EpochMs>,
}

impl Gaps {
    /// Looks from `from` on; `before` is the start of the last window that starts before it.
    pub fn new(width_ms: i64, from: EpochMs, before: Option<EpochMs>) -> Self {
        Self { width_ms, from, end: before.map(|start| start.plus(width_ms)) }
    }

    /// Takes in the next window; gives back the gap before it, if there is one.
    pub fn push(&mut self, start: EpochMs) -> Option<Gap> {
        let gap = self.until(start);
        self.end = Some(start.plus(self.width_ms));
        gap
    }

    /// There is no further window before `to`, but there is one later: gives back the gap until `to`, if there is one.
    pub fn finish(&self, to: EpochMs) -> Option<Gap> {
        self.until(to)
    }

    /// Where to continue the search so that it misses no gap.
    pub fn reached(&self) -> EpochMs {
        self.end.map_or(self.from, |end| end.max(self.from))
    }

    fn until(&self, to: EpochMs) -> Option<Gap> {
        let began = self.end?;
        let gap = Gap { from: began.max(self.from), to, began };
        (gap.from < gap.to).then_some(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(from: i64, before: Option<i64>, starts: &[i64], to: Option<i64>) -> Vec<(i64, i64)> {
        let mut gaps = Gaps::new(10, EpochMs(from), before.map(EpochMs));
        let mut all: Vec<_> = starts.iter().filter_map(|start| gaps.push(EpochMs(*start))).collect();
        all.extend(to.and_then(|to| gaps.finish(EpochMs(to))));
        all.iter().map(|gap| (gap.from.0, gap.to.0)).collect()
    }

    #[test]
    fn a_gap_lies_between_two_windows_and_within_what_is_looked_at() {
        assert_eq!(found(0, None, &[0, 10, 30, 40, 70], None), [(20, 30), (50, 70)]);
        assert_eq!(found(5, None, &[30], None), [], "nothing before the first window");
        assert_eq!(found(5, Some(-100), &[30], None), [(5, 30)]);
        assert_eq!(found(5, Some(0), &[10], None), []);
        assert_eq!(found(0, None, &[0], Some(35)), [(10, 35)]);
        assert_eq!(found(0, Some(-30), &[], Some(35)), [(0, 35)]);
        assert_eq!(found(0, None, &[0], Some(5)), []);
        let gap = Gap { from: EpochMs(5), to: EpochMs(30), began: EpochMs(0) };
        assert_eq!((gap.length_ms(), gap.windows(10)), (25, Some(3)));
        let leap = Gap { began: EpochMs(29 - MAX_GAP_MS), ..gap };
        assert_eq!((leap.length_ms(), leap.windows(10)), (25, None));
    }
}
