//! Points in time, as every part of Selvedge writes them: milliseconds since 1970-01-01 UTC ([`EpochMs`]), which label, and the
//! elapsed time of a shard ([`ElapsedMs`]), by which its state waits and expires.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z; negative before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, Encode, Decode,
)]
#[serde(transparent)]
pub struct EpochMs(pub i64);

/// The earliest and the latest time that is accepted from outside (years 0001 and 9999): wide enough for
/// any data, narrow enough that no arithmetic on windows can overflow.
pub const TIME_RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

impl EpochMs {
    /// This machine's clock now.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since.map_or(0, |d| d.as_millis() as i64))
    }

    /// A time within [`TIME_RANGE`], or nothing.
    pub fn in_range(ms: i64) -> Option<Self> {
        TIME_RANGE.contains(&ms).then_some(Self(ms))
    }

    /// Reads epoch milliseconds (`1764000000000`) or RFC 3339 (`2026-11-24T08:00:00Z`; an offset is
    /// needed, fractions are cut to the millisecond).
    ///
    /// # Errors
    /// Says which two forms are understood.
    pub fn parse(text: &str) -> Result<Self, BadTime> {
        let bad = || BadTime(text.chars().take(40).collect());
        if let Ok(ms) = text.parse::<i64>() {
            return Self::in_range(ms).ok_or_else(bad);
        }
        let at: jiff::Timestamp = text.parse().map_err(|_| bad())?;
        Self::in_range(at.as_millisecond()).ok_or_else(bad)
    }

    /// The start of the window of `width_ms` (at least 1) that this time lies in; windows are aligned to
    /// 1970-01-01T00:00:00Z.
    pub fn window_start(self, width_ms: u32) -> Self {
        let width = i64::from(width_ms.max(1));
        Self(self.0.div_euclid(width) * width)
    }

    /// This time and `ms` more, stopping at the ends of what an `i64` holds.
    pub fn plus(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for EpochMs {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

/// Elapsed time of one shard: how many milliseconds its leaders have counted on their monotonic clocks since its log began. Not an
/// epoch: two shards have nothing in common by it, and no wall clock can move it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, Encode, Decode,
)]
#[serde(transparent)]
pub struct ElapsedMs(pub u64);

impl ElapsedMs {
    /// This time and `ms` more, stopping at the end of what a `u64` holds.
    pub fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// How many milliseconds have passed since `earlier`; 0 if that is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for ElapsedMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// A text that is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no time: give epoch milliseconds (1764000000000) or RFC 3339 (2026-11-24T08:00:00Z)")]
pub struct BadTime(String);

/// The longest span of time that is accepted from outside: 366 days.
pub const MAX_DURATION_MS: i64 = 366 * 86_400_000;

/// Reads a span of time as `10s`, `5m`, `1h`, `1d`, `1500ms`, or milliseconds without a unit: 1 to
/// [`MAX_DURATION_MS`] milliseconds.
///
/// # Errors
/// Says which forms are understood.
pub fn parse_duration_ms(text: &str) -> Result<i64, BadDuration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "" | "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let ms = number.parse::<i64>().ok().zip(unit_ms).and_then(|(n, unit)| n.checked_mul(unit));
    let sound = ms.filter(|ms| (1..=MAX_DURATION_MS).contains(ms));
    sound.ok_or_else(|| BadDuration(text.chars().take(40).collect()))
}

/// A text that is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no duration; give milliseconds or a number with ms, s, m, h or d, up to 366d, such as 10s, 1m, 1h, 1d"
)]
pub struct BadDuration(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_time_are_read_and_one_is_written() {
        let at = EpochMs::parse("2025-11-24T16:00:00.250Z").unwrap();
        assert_eq!(at, EpochMs::parse("1764000000250").unwrap());
        assert_eq!(at, EpochMs::parse("2025-11-24T17:00:00.25+01:00").unwrap());
        assert_eq!(at.to_string(), "2025-11-24T16:00:00.250Z");
        for bad in ["", "yesterday", "2025-11-24", "99999999999999999", "9223372036854775808"] {
            assert!(EpochMs::parse(bad).unwrap_err().to_string().contains("RFC 3339"));
        }
    }

    #[test]
    fn spans_have_units_and_bounds() {
        for (text, ms) in
            [("10s", 10_000), ("5m", 300_000), ("1h", 3_600_000), ("1d", 86_400_000), ("250", 250)]
        {
            assert_eq!(parse_duration_ms(text), Ok(ms));
        }
        for bad in ["", "s", "0s", "-1s", "1w", "1.5h", "367d", "99999999999999999999"] {
            assert!(parse_duration_ms(bad).unwrap_err().to_string().contains("10s"), "{bad}");
        }
    }

    #[test]
    fn windows_are_aligned_to_1970_on_both_sides_of_it() {
        assert_eq!(EpochMs(12_345).window_start(10_000), EpochMs(10_000));
        assert_eq!(EpochMs(-1).window_start(10_000), EpochMs(-10_000));
    }
}
