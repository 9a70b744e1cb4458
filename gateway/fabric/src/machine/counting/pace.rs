//! The course of a stream: its own time and its pace. Its own time is the latest event time, advanced by the
//! time that has elapsed since it arrived; [`super::window`] explains its use.
//!
//! The pace is the usual pause between readings, and the lag by which readings arrive after the stream's own
//! time. The shard learns it in elapsed time, in whole milliseconds, from when readings arrive, so every
//! replica learns the same. An hour between two readings is silence in a stream of ten a second, and normal
//! in a stream of one an hour.
//!
//! - A pause that is longer than the usual one becomes usual when a second one of its kind follows. So an
//!   outage teaches nothing. The very first pause is believed at once.
//! - The usual pause decays with time, by 1/[`WEAR`] of the time that passes. So a device that sends bursts,
//!   with a second between their readings and a minute between bursts, is judged by the minute.
//! - A reading's lag is the time by which the stream's own time has passed it. It can't be more than a usual
//!   pause, except for readings that were buffered for long. Those are late, and teach no more than a usual
//!   pause.

use crate::machine::rules::StreamClass;
use bincode::{Decode, Encode};
use selvedge_types::time::{ElapsedMs, EpochMs, TIME_RANGE};

/// Below every event time: the watermark of a stream without readings.
pub const NO_WATERMARK: EpochMs = EpochMs(*TIME_RANGE.start());
/// The longest pause that is learned, in milliseconds: a day.
pub const MAX_PAUSE_MS: u32 = 86_400_000;
/// The longest that the check of a window may be put off, in milliseconds.
const MAX_SPARE_MS: i64 = 1_000;
/// A learned pause decays within this many times its own length.
const WEAR: u32 = 16;
/// A stream falls silent after missing about this many readings.
const MISSED: u64 = 3;

/// A stream's own time, and its pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Course {
    /// The latest event time; [`NO_WATERMARK`] at first.
    front: EpochMs,
    /// The elapsed time at which the latest event time arrived.
    front_at: ElapsedMs,
    pace: Pace,
}

impl Default for Course {
    fn default() -> Self {
        Self { front: NO_WATERMARK, front_at: ElapsedMs(0), pace: Pace::default() }
    }
}

impl Course {
    /// Notes a counted reading of this event time, which arrived `gap_ms` after the previous one.
    pub fn hear(&mut self, time: EpochMs, now: ElapsedMs, gap_ms: u64) {
        if self.front > NO_WATERMARK {
            self.pace.pause(gap_ms);
            self.pace.lag(self.time(now).since(time));
        }
        if time > self.front {
            (self.front, self.front_at) = (time, now);
        }
    }

    /// The stream's own time at the elapsed time `now`.
    pub fn time(&self, now: ElapsedMs) -> EpochMs {
        self.front.plus(i64::try_from(now.since(self.front_at)).unwrap_or(i64::MAX))
    }

    /// The own time up to which the next reading is expected.
    pub fn next(&self) -> EpochMs {
        self.front.plus(self.pace.next_ms())
    }

    /// How far the stream's own time must have passed the end of a window, in milliseconds, before no more
    /// readings are expected in it.
    pub fn wait_ms(&self, class: &StreamClass) -> i64 {
        class.lateness_ms.saturating_add(i64::from(self.pace.lag_ms))
    }

    /// How much longer the check of a window is put off, in milliseconds. If the next reading is about to
    /// close the window, the check is unnecessary.
    pub fn spare_ms(&self) -> i64 {
        self.pace.next_ms().min(MAX_SPARE_MS)
    }

    /// How long without a reading makes the stream silent, in milliseconds: at least `least`.
    pub fn idle_ms(&self, least: u64) -> u64 {
        self.pace.idle_ms(least)
    }

    pub fn is_beyond(&self, time: EpochMs) -> bool {
        self.front > time
    }

    /// Sets an own time that is too far ahead back to `to`.
    pub fn go_back(&mut self, to: EpochMs, now: ElapsedMs) {
        (self.front, self.front_at) = (to, now);
    }

    /// Whether a snapshot may contain this.
    pub fn is_sound(&self) -> bool {
        self.pace.is_sound()
    }
}

/// The pace of a stream. The default knows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
struct Pace {
    /// The usual pause; 0 if none is known.
    pause_ms: u32,
    /// The longest recent pause, usual or not.
    longest_ms: u32,
    /// How much later than the stream's own time readings arrive.
    lag_ms: u32,
}

impl Pace {
    /// Notes that a reading arrived `gap_ms` after the previous one.
    fn pause(&mut self, gap_ms: u64) {
        if gap_ms == 0 {
            return; // a reading of the same proposal, like most in a burst
        }
        let gap = u32::try_from(gap_ms).unwrap_or(MAX_PAUSE_MS).min(MAX_PAUSE_MS);
        let worn = gap / WEAR;
        self.lag_ms = self.lag_ms.saturating_sub(worn);
        if gap > self.pause_ms {
            let usual = if self.longest_ms == 0 { gap } else { gap.min(self.longest_ms) };
            self.pause_ms = usual.max(self.pause_ms.saturating_sub(worn));
            self.longest_ms = gap.max(self.longest_ms.saturating_sub(worn));
        } else {
            self.pause_ms = gap.max(self.pause_ms - worn);
            self.longest_ms = self.pause_ms.max(self.longest_ms.saturating_sub(worn));
        }
    }

    /// Notes that the stream's own time had passed a reading by `behind_ms` when it arrived.
    fn lag(&mut self, behind_ms: u64) {
        let behind = u32::try_from(behind_ms).unwrap_or(u32::MAX).min(self.pause_ms);
        self.lag_ms = self.lag_ms.max(behind);
    }

    /// How long after a reading the next one is expected at the latest, with a margin for clocks that differ;
    /// 0 if the pace is not known.
    fn next_ms(&self) -> i64 {
        i64::from(self.pause_ms) + i64::from(self.pause_ms / 4)
    }

    /// How long without a reading makes the stream silent, in milliseconds: at least `least`.
    fn idle_ms(&self, least: u64) -> u64 {
        least.max((MISSED * u64::from(self.pause_ms)).min(u64::from(MAX_PAUSE_MS)))
    }

    /// Whether a snapshot may contain this.
    fn is_sound(&self) -> bool {
        self.pause_ms <= self.longest_ms && self.longest_ms <= MAX_PAUSE_MS && self.lag_ms <= MAX_PAUSE_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(gaps: impl IntoIterator<Item = u64>) -> Pace {
        let mut pace = Pace::default();
        for gap in gaps {
            pace.pause(gap);
            assert!(pace.is_sound());
        }
        pace
    }

    fn idle_s(gaps: impl IntoIterator<Item = u64>) -> u64 {
        after(gaps).idle_ms(15_000) / 1_000
    }

    #[test]
    fn the_first_pause_of_all_is_believed() {
        assert_eq!(idle_s([]), 15);
        assert_eq!(idle_s([100]), 15);
        assert_eq!(idle_s([60_000]), 180);
        assert_eq!(idle_s([3_600_000; 9]), 10_800);
        assert_eq!(idle_s([90_000_000; 9]), 86_400, "no more than a day");
    }

    #[test]
    fn an_outage_teaches_nothing_and_a_change_of_pace_does() {
        let steady = || std::iter::repeat_n(100, 500);
        assert_eq!(idle_s(steady().chain([3_600_000]).chain(steady())), 15);
        assert_eq!(idle_s(steady().chain([60_000, 60_000])), 180, "now it is once a minute");
        let back = [60_000; 20].into_iter().chain(std::iter::repeat_n(100, 16 * 600));
        assert_eq!(idle_s(back), 15, "and forgotten after sixteen minutes at the latest");
    }

    #[test]
    fn a_device_that_sends_in_bursts_is_known_by_what_lies_between_them() {
        let burst = || std::iter::once(30_000).chain([0; 20]).chain([1; 9]);
        assert_eq!(idle_s((0..50).flat_map(|_| burst())), 90);
    }

    #[test]
    fn lag_is_no_more_than_a_pause_and_wears_off() {
        let mut pace = after([60_000; 5]);
        pace.lag(20_000);
        assert_eq!(pace.lag_ms, 20_000);
        pace.lag(7 * 86_400_000);
        assert_eq!(pace.lag_ms, 60_000, "what was buffered for a week teaches no more");
        (0..16).for_each(|_| pace.pause(60_000));
        assert_eq!(pace.lag_ms, 0);
    }
}
