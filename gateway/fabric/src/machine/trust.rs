//! Trust: the time that the shard believes where a mistake can't be taken back, which is when it reports that
//! a window is complete.
//!
//! The time that a majority of clocks shows may be wrong. If their common source fails, all of them leap
//! together, and come back later. Such a leap looks like one that corrects a wrong time, and like the time
//! that passes while the site is off. But a right time stays. So when the time leaps by more than
//! [`MAX_LEAD_MS`] from what the shard believed, advanced by elapsed time, the shard believes the new time
//! only after it has stayed for [`BELIEVED_AFTER_MS`]. Until then, and while no majority agrees, the believed
//! time goes on by elapsed time. Before a majority first agrees, it is [`EARLIEST_NOW`].
//!
//! Invariant: the believed time goes on by elapsed time from a time that a majority agreed on.
//! Limit: if a majority is wrong in the same way for longer than that, the shard believes it. Reports that it
//! makes once the clocks are right again correct those that it made before.

use bincode::{Decode, Encode};
use selvedge_types::time::{EARLIEST_NOW, ElapsedMs, EpochMs, TIME_RANGE};

/// How far ahead of a wall time that a majority agreed on a time may be and still be plausible, in
/// milliseconds. The clocks of devices that are set at all are closer.
pub const MAX_LEAD_MS: i64 = 600_000;
/// How long a time that leapt must stay before it is believed, in milliseconds.
pub const BELIEVED_AFTER_MS: u64 = 900_000;

/// The time that the shard believes. The default believes none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub(super) struct Trust {
    /// When a majority last agreed on a believed time, and on what wall time.
    from: Option<(ElapsedMs, EpochMs)>,
    /// Since when a majority has agreed on a time that is not believed yet.
    other_since: Option<ElapsedMs>,
}

impl Trust {
    /// A majority agrees that the wall time is `wall`.
    pub fn agreed(&mut self, elapsed: ElapsedMs, wall: EpochMs) {
        let near = match self.from {
            Some(_) => self.time(elapsed).0.abs_diff(wall.0) <= MAX_LEAD_MS.unsigned_abs(),
            None => true,
        };
        let since = *self.other_since.get_or_insert(elapsed);
        if near || elapsed.since(since) >= BELIEVED_AFTER_MS {
            *self = Self { from: Some((elapsed, wall)), other_since: None };
        }
    }

    /// The believed time at `elapsed`.
    pub fn time(&self, elapsed: ElapsedMs) -> EpochMs {
        let gone_on = |(at, wall): (ElapsedMs, EpochMs)| {
            wall.plus(i64::try_from(elapsed.since(at)).unwrap_or(i64::MAX))
        };
        self.from.map_or(EARLIEST_NOW, gone_on)
    }

    /// Whether a snapshot taken at `elapsed` may contain this.
    pub fn is_sound(&self, elapsed: ElapsedMs) -> bool {
        let from = self.from.is_none_or(|(at, wall)| at <= elapsed && TIME_RANGE.contains(&wall.0));
        from && self.other_since.is_none_or(|since| since <= elapsed && self.from.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: i64 = 1_764_000_000_000;
    const YEAR: i64 = 365 * 86_400_000;

    #[test]
    fn a_time_that_leaps_is_believed_once_it_has_stayed() {
        let mut trust = Trust::default();
        let mut agreed = |ms: u64, wall: i64| {
            trust.agreed(ElapsedMs(ms), EpochMs(wall + ms as i64));
            assert!(trust.is_sound(ElapsedMs(ms)) && !trust.is_sound(ElapsedMs(0)));
            trust.time(ElapsedMs(ms)).0 - ms as i64
        };
        assert_eq!(agreed(1, WALL), WALL, "the first one at once");
        assert_eq!(agreed(1_000, WALL + MAX_LEAD_MS), WALL + MAX_LEAD_MS, "a little");
        for (n, leap) in (1..).zip([20 * YEAR, -20 * YEAR, MAX_LEAD_MS + 1]) {
            let at = n * 2 * BELIEVED_AFTER_MS;
            assert_eq!(agreed(at, WALL), WALL);
            assert_eq!(agreed(at + 1, WALL + leap), WALL);
            assert_eq!(agreed(at + BELIEVED_AFTER_MS, WALL + leap), WALL);
            assert_eq!(agreed(at + BELIEVED_AFTER_MS, WALL), WALL, "it came back");
        }
        let later = 9 * BELIEVED_AFTER_MS;
        assert_eq!(agreed(later, WALL + YEAR), WALL);
        assert_eq!(agreed(later + BELIEVED_AFTER_MS, WALL + YEAR), WALL + YEAR, "it stays");
        assert_eq!(Trust::default().time(ElapsedMs(9_000)), EARLIEST_NOW);
    }
}
