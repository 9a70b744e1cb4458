//! The time that a leader stamps proposals with: a hybrid of its wall clock and of the stamps in the log.
//!
//! Stamps only grow. If one was far ahead (its leader's clock was wrong), time must still pass for windows, late parts and
//! sessions: from the greatest stamp that was met it goes on by the monotonic clock, at half speed, until the wall clock has
//! caught up. So what waits for an hour waits two at most, and a lead of an hour is gone after two.
//!
//! Source: S. Kulkarni et al., "Logical Physical Clocks" (2014); half speed is how `adjtime` slews a clock back.

use super::Now;
use selvedge_shared::time::EpochMs;

/// The hybrid clock of one replica.
#[derive(Debug, Clone, Copy)]
pub(super) struct HybridClock {
    stamp: EpochMs,
    /// When the stamp was met, on the monotonic clock; none until the time is first told.
    met_ms: Option<u64>,
}

impl HybridClock {
    /// Goes on from the greatest stamp that a replica knows when it starts.
    pub(super) fn new(stamp: EpochMs) -> Self {
        Self { stamp, met_ms: None }
    }

    /// The time now. Not below any earlier answer as long as wall and monotonic clock don't go back.
    pub(super) fn now(&mut self, now: Now) -> EpochMs {
        let met_ms = *self.met_ms.get_or_insert(now.mono_ms);
        let passed = i64::try_from(now.mono_ms.saturating_sub(met_ms) / 2).unwrap_or(i64::MAX);
        now.wall.max(self.stamp.plus(passed))
    }

    /// A stamp was applied.
    pub(super) fn meet(&mut self, now: Now, stamp: EpochMs) {
        if stamp > self.now(now) {
            (self.stamp, self.met_ms) = (stamp, Some(now.mono_ms));
        }
    }

    /// When it will be `at`, on the monotonic clock; later than now.
    pub(super) fn when(&mut self, now: Now, at: EpochMs) -> u64 {
        let wait = |from: EpochMs| u64::try_from(at.0.saturating_sub(from.0)).unwrap_or(0);
        let (by_wall, by_stamp) = (wait(now.wall), wait(self.now(now)).saturating_mul(2));
        now.mono_ms.saturating_add(by_wall.min(by_stamp).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64, wall: i64) -> Now {
        Now { mono_ms, wall: EpochMs(wall) }
    }

    #[test]
    fn a_right_wall_clock_is_the_time() {
        let mut clock = HybridClock::new(EpochMs(900));
        assert_eq!(clock.now(at(5, 1_000)), EpochMs(1_000));
        clock.meet(at(5, 1_000), EpochMs(1_000));
        assert_eq!(clock.now(at(65, 1_060)), EpochMs(1_060));
        assert_eq!(clock.when(at(65, 1_060), EpochMs(1_100)), 105);
    }

    #[test]
    fn behind_a_stamp_that_was_far_ahead_time_goes_on_at_half_speed_until_the_wall_clock_is_there() {
        let mut clock = HybridClock::new(EpochMs(0));
        clock.meet(at(0, 1_000), EpochMs(5_000));
        assert_eq!(clock.now(at(0, 1_000)), EpochMs(5_000));
        assert_eq!(clock.now(at(2_000, 3_000)), EpochMs(6_000));
        assert_eq!(clock.when(at(2_000, 3_000), EpochMs(6_500)), 3_000);
        assert_eq!(clock.now(at(8_000, 9_000)), EpochMs(9_000), "caught up");
        assert_eq!(clock.now(at(9_000, 10_000)), EpochMs(10_000));
    }

    #[test]
    fn a_clock_in_1970_still_lets_time_pass() {
        let mut clock = HybridClock::new(EpochMs(5_000));
        assert_eq!(clock.now(at(100, 0)), EpochMs(5_000));
        assert_eq!(clock.now(at(300, 200)), EpochMs(5_100));
    }
}
