//! Points in time: milliseconds since 1970-01-01 UTC ([`EpochMs`]), which label readings and windows, and the elapsed time of a
//! shard ([`ElapsedMs`]), by which its state waits and expires.

use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z; negative before it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, Encode, Decode,
)]
#[serde(transparent)]
pub struct EpochMs(pub i64);

/// The earliest and the latest time that is accepted from outside (years 0001 and 9999): wide enough for
/// any data, narrow enough that no arithmetic on windows can overflow.
pub const TIME_RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800_000..=253_402_300_799_999;

/// Earlier than this it is certainly not: a clock that shows less was never set, or lost count of GPS weeks.
pub const EARLIEST_NOW: EpochMs = EpochMs(1_735_689_600_000); // 2025-01-01

/// Later than this it is not while a release that knows it runs: what a site that does not know the time holds times of devices against.
pub const LATEST_NOW: EpochMs = EpochMs(3_313_526_400_000); // 2075-01-01

impl EpochMs {
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
        let bad = || BadTime::of(text);
        if let Ok(ms) = text.parse::<i64>() {
            return Self::in_range(ms).ok_or_else(bad);
        }
        let at = text.parse::<jiff::Timestamp>().map(|at| at.as_millisecond());
        // The last day of the year 9999 is no timestamp where there may still be zones east of it.
        let at = at.ok().or_else(|| civil_ms(text.strip_suffix('Z')?));
        at.and_then(Self::in_range).ok_or_else(bad)
    }

    /// Reads what a person asks with: as [`EpochMs::parse`], seconds as `1764000000s`, and an offset whose `+` came as a space, as
    /// it does in an address that was not percent-encoded.
    ///
    /// # Errors
    /// Says what is missing: the zone, or the unit of a number that is likely to count seconds.
    pub fn parse_asked(text: &str) -> Result<Self, BadTime> {
        let text = text.trim();
        let shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
        if let Some(seconds) = text.strip_suffix('s').filter(|n| !n.ends_with('m')) {
            let ms = seconds.parse::<i64>().ok().and_then(|s| s.checked_mul(1_000));
            return ms.and_then(Self::in_range).ok_or_else(|| BadTime::of(text));
        }
        if let Some(ms) = text.strip_suffix("ms") {
            return ms.parse().ok().and_then(Self::in_range).ok_or_else(|| BadTime::of(text));
        }
        match text.parse::<i64>() {
            Ok(n) if MAYBE_SECONDS.contains(&n.unsigned_abs()) => {
                return Err(BadTime(format!(
                    "{shown:?} looks like seconds, and milliseconds are expected: write {shown}000, or {shown}s ({shown}ms if it \
                     does count milliseconds, of the year {})",
                    Self(n).to_string().get(..4).unwrap_or("1970")
                )));
            }
            Ok(n) if n.unsigned_abs() > TIME_RANGE.end().unsigned_abs() => {
                return Err(BadTime(format!(
                    "{shown:?} is beyond the year 9999 in milliseconds: does it count microseconds or nanoseconds?"
                )));
            }
            _ => {}
        }
        if let Ok(at) = Self::parse(text) {
            return Ok(at);
        }
        // The time before it, not the date, is what an offset follows.
        if let Some((time, offset)) = text.rsplit_once(' ').filter(|(time, _)| time.contains(':'))
            && let Ok(at) = Self::parse(&format!("{time}+{offset}"))
        {
            return Ok(at);
        }
        if let Some(ms) = civil_ms(text) {
            return Err(BadTime(format!(
                "{shown:?} has no time zone: write {} if it is UTC, or add an offset, such as +01:00",
                Self(ms)
            )));
        }
        Err(BadTime::of(text))
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

    /// How many milliseconds have passed since `earlier`; 0 if that is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl From<SystemTime> for EpochMs {
    /// What a clock shows; before 1970 it is 0.
    fn from(at: SystemTime) -> Self {
        Self(at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
    }
}

impl fmt::Display for EpochMs {
    /// RFC 3339 in UTC with milliseconds; years beyond four digits with a sign and six, as ISO 8601 expands them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0.div_euclid(DAY_MS));
        let ms = self.0.rem_euclid(DAY_MS);
        let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
        match year {
            0..=9999 => write!(f, "{year:04}")?,
            _ => write!(f, "{year:+07}")?,
        }
        write!(f, "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", ms % 1_000)
    }
}

const DAY_MS: i64 = 86_400_000;

/// The days in 400 years, after which the Gregorian calendar repeats.
const ERA_DAYS: i64 = 146_097;

/// Days from 0000-03-01 to 1970-01-01. Years that begin in March have their leap day last.
const MARCH_0_TO_1970_DAYS: i64 = 719_468;

/// Year, month and day of a day that is counted from 1970-01-01.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + MARCH_0_TO_1970_DAYS;
    let (era, day) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (of_month, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (era * 400 + year + i64::from(month <= 2), month, of_month)
}

/// A date, with a time or without one, as if it were in UTC.
fn civil_ms(text: &str) -> Option<i64> {
    let at: jiff::civil::DateTime = text.parse().ok()?;
    let (year, month) = (i64::from(at.year()), i64::from(at.month()));
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(at.day()) - 1;
    let days = era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year - MARCH_0_TO_1970_DAYS;
    let time = [(at.hour(), 3_600_000), (at.minute(), 60_000), (at.second(), 1_000)];
    let time: i64 = time.iter().map(|(n, unit)| i64::from(*n) * unit).sum();
    Some(days * DAY_MS + time + i64::from(at.millisecond()))
}

/// Numbers that are dates between 1973 and 5138 if they count seconds, and in the first three years from 1970 if they count
/// milliseconds.
const MAYBE_SECONDS: std::ops::Range<u64> = 100_000_000..100_000_000_000;

const MAX_SHOWN_CHARS: usize = 40;

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

/// A text that is no time, and what would be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTime(String);

impl BadTime {
    fn of(text: &str) -> Self {
        let shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
        Self(format!(
            "{shown:?} is not a time: give epoch milliseconds (1764000000000) or RFC 3339 (2026-11-24T08:00:00Z)"
        ))
    }
}

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

/// A duration as a person writes it.
pub fn duration_text(ms: i64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let fits = units.iter().find(|(unit, _)| ms % unit == 0 && ms != 0);
    fits.map_or(format!("{ms}ms"), |(unit, name)| format!("{}{name}", ms / unit))
}

/// A text that is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration; give milliseconds or a number with ms, s, m, h or d, up to 366d, such as 10s, 1m, 1h, 1d"
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
    fn every_time_is_written_in_one_form() {
        for (ms, text) in [
            (*TIME_RANGE.start(), "0001-01-01T00:00:00.000Z"),
            (TIME_RANGE.start() - 1, "0000-12-31T23:59:59.999Z"),
            (-62_167_219_200_001, "-000001-12-31T23:59:59.999Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_292_000_000_000, "2106-01-03T22:13:20.000Z"),
            (253_402_293_600_000, "9999-12-31T22:00:00.000Z"),
            (*TIME_RANGE.end(), "9999-12-31T23:59:59.999Z"),
            (TIME_RANGE.end() + 1, "+010000-01-01T00:00:00.000Z"),
            (i64::MAX, "+292278994-08-17T07:12:55.807Z"),
            (i64::MIN, "-292275055-05-16T16:47:04.192Z"),
        ] {
            assert_eq!(EpochMs(ms).to_string(), text);
            if TIME_RANGE.contains(&ms) {
                assert_eq!(EpochMs::parse(text), Ok(EpochMs(ms)));
            }
        }
    }

    #[test]
    fn what_a_person_asks_with_is_read_or_said_to_lack_something() {
        let at = EpochMs(1_764_000_000_000);
        for text in [
            "1764000000000",
            "1764000000000ms",
            "1764000000s",
            "2025-11-24T16:00:00Z",
            "2025-11-24 16:00:00Z",
            "2025-11-24T17:00:00+01:00",
            "2025-11-24T17:00:00 01:00",
            "2025-11-24 17:00:00 01:00",
            "2025-11-24T11:00:00-05:00",
            " 2025-11-24T16:00:00Z ",
        ] {
            assert_eq!(EpochMs::parse_asked(text), Ok(at), "{text}");
        }
        assert_eq!(EpochMs::parse_asked("0"), Ok(EpochMs(0)));
        assert_eq!(EpochMs::parse_asked("-1"), Ok(EpochMs(-1)));
        assert_eq!(EpochMs::parse_asked("1764000000ms"), Ok(EpochMs(1_764_000_000)));
        for (text, says) in [
            ("2025-11-24T16:00:00", "no time zone: write 2025-11-24T16:00:00.000Z"),
            ("2025-11-24 16:00", "no time zone: write 2025-11-24T16:00:00.000Z"),
            ("2025-11-24", "no time zone: write 2025-11-24T00:00:00.000Z"),
            ("1764000000", "1764000000s"),
            ("1764000000000000", "microseconds"),
            ("yesterday", "RFC 3339"),
            ("", "RFC 3339"),
            ("9999999999999999s", "RFC 3339"),
        ] {
            let said = EpochMs::parse_asked(text).unwrap_err().to_string();
            assert!(said.contains(says), "{text}: {said}");
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
