//! Deliberate faults of a device: its clock, and its link.

use fastrand::Rng;
use selvedge_types::time::EpochMs;

/// How a device's clock tells time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Clock {
    True,
    /// There is none: readings carry no time.
    None,
    /// Runs fast (positive) or slow, in parts per million.
    Drift {
        /// Parts in a million.
        ppm: i32,
    },
    /// Was never set: it counts from 1970-01-01T00:00:00Z at the device's start.
    Epoch1970,
    /// Is ahead by the 1,024 weeks after which GPS counts from 0 again.
    GpsRollover,
}

/// 1,024 weeks, after which GPS counts its weeks from 0 again.
pub const GPS_ROLLOVER_MS: i64 = 1_024 * 7 * 86_400_000;

/// How far from the present a reading's time may be to be counted: what gateways hold by default (`max_past_s`, `max_future_s`).
const MAX_PAST_MS: i64 = 30 * 31_557_600_000;
const MAX_FUTURE_MS: i64 = 86_400_000;

/// Whether a site counts a reading of this time. Others it sets aside, acknowledged or not.
pub fn is_counted(time: EpochMs, now_ms: u64) -> bool {
    let ahead = time.0.saturating_sub(now_ms as i64);
    (-MAX_PAST_MS..=MAX_FUTURE_MS).contains(&ahead)
}

impl Clock {
    /// The time the device believes it is, in epoch milliseconds, when it really is `now_ms` and it was
    /// started at `start_ms`.
    pub fn read(self, start_ms: u64, now_ms: u64) -> Option<i64> {
        let up = now_ms.saturating_sub(start_ms) as i64;
        let start = start_ms as i64;
        match self {
            Clock::True => Some(start.saturating_add(up)),
            Clock::None => None,
            Clock::Drift { ppm } => {
                let wrong = i128::from(up) * i128::from(ppm) / 1_000_000;
                Some(start.saturating_add(up).saturating_add(wrong as i64))
            }
            Clock::Epoch1970 => Some(up),
            Clock::GpsRollover => Some(start.saturating_add(up).saturating_add(GPS_ROLLOVER_MS)),
        }
    }
}

/// How often a device's link breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    None,
    /// After a random time, on average this long.
    Flaky {
        mean_ms: u64,
        /// The dead connection is left open for a while, as when a cable is pulled, on both sides.
        abandon: bool,
    },
}

impl LinkFault {
    /// When the link breaks next, if ever.
    pub fn next(self, now_ms: u64, rng: &mut Rng) -> Option<u64> {
        match self {
            LinkFault::None => None,
            LinkFault::Flaky { mean_ms, .. } => {
                Some(now_ms.saturating_add(rng.u64(mean_ms / 2..=mean_ms.saturating_mul(3) / 2)).max(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_764_000_000_000;

    #[test]
    fn clocks_go_wrong_in_their_own_way() {
        let (start, now) = (1_764_000_000_000, 1_764_000_100_000);
        assert_eq!(Clock::True.read(start, now), Some(1_764_000_100_000));
        assert_eq!(Clock::None.read(start, now), None);
        assert_eq!(Clock::Drift { ppm: 500 }.read(start, now), Some(1_764_000_100_050));
        assert_eq!(Clock::Drift { ppm: -500 }.read(start, now), Some(1_764_000_099_950));
        assert_eq!(Clock::Epoch1970.read(start, now), Some(100_000));
        assert_eq!(Clock::GpsRollover.read(start, now), Some(1_764_000_100_000 + GPS_ROLLOVER_MS));
    }

    #[test]
    fn a_time_far_from_the_present_is_not_counted_and_a_recording_is() {
        let counted = |clock: Clock| is_counted(EpochMs(clock.read(NOW - 1_000, NOW).unwrap()), NOW);
        assert!(counted(Clock::True) && counted(Clock::Drift { ppm: 20_000 }));
        assert!(!counted(Clock::Epoch1970) && !counted(Clock::GpsRollover));
        assert!(is_counted(EpochMs(1_372_636_800_000), NOW), "July 2013");
    }
}
