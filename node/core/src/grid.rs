//! Spans of time that windows are merged into.
//!
//! Spans of one length are aligned to 1970-01-01T00:00:00Z, as windows are: a span of 7 days begins on a Thursday. Weeks (`1w`,
//! from Monday) and months (`1mo`) follow the calendar, in UTC or in a named time zone, and so do days in a zone: a day has 23 or 25
//! hours there when clocks are changed. Where a zone's day begins at an hour that there is twice, the first counts; where at one that is left out, the
//! first there is.
//!
//! A window belongs to the span in which it starts. So that none lies in two, all spans have to begin where windows do: at multiples
//! of [`Grid::divisor_ms`], which is 30 minutes for a zone that is 5 h 30 min ahead of UTC.

use super::rollup::{DAY_MS, HOUR_MS, floor};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use selvedge_types::params::{BadParameter, bad, shown};
use selvedge_types::time::{EpochMs, duration_text, parse_duration_ms};

/// The most weeks, and the most months, of a span.
const MAX_UNITS: i64 = 120;

/// From when on a zone's clock is looked at if nothing is said: before, cities had a time of their own.
const ZONES_SINCE: EpochMs = EpochMs(0);

/// Until when: from then on every year is as the one before.
const ZONES_UNTIL: EpochMs = EpochMs(2_145_916_800_000);

/// How many changes of a zone's clock are looked at; none has had more.
const MAX_CHANGES_ENTRIES: usize = 1_000;

/// The Monday from which weeks are counted, in days from 1970-01-01.
const MONDAY: i64 = -3;

/// How time is divided.
#[derive(Debug, Clone, PartialEq)]
pub enum Grid {
    /// Spans of this many milliseconds.
    Every(i64),
    /// Days, weeks or months.
    Calendar(Calendar),
}

/// Days, weeks or months of a time zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Calendar {
    zone: TimeZone,
    /// Whether the zone was named.
    named: bool,
    unit: Unit,
    /// How many units a span has.
    units: i64,
    divisor_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Day,
    Week,
    Month,
}

impl Grid {
    /// Reads `every` and `tz`, for spans from `from` (if it is given) to `to`.
    ///
    /// # Errors
    /// Names the parameter that is wrong.
    pub fn read(
        every: &str,
        zone: Option<&str>,
        from: Option<EpochMs>,
        to: EpochMs,
    ) -> Result<Self, BadParameter> {
        let named = zone.map(named_zone).transpose()?;
        let units = |text: &str, most: i64| {
            let sound = text.parse().ok().filter(|n| (1..=most).contains(n));
            sound.ok_or_else(|| bad("every", format!("{} is not 1 to {most} of its unit", shown(every))))
        };
        let (unit, units) = if let Some(number) = every.strip_suffix("mo") {
            (Unit::Month, units(number, MAX_UNITS)?)
        } else if let Some(number) = every.strip_suffix('w') {
            (Unit::Week, units(number, MAX_UNITS)?)
        } else {
            let ms = parse_duration_ms(every).map_err(|e| bad("every", format!("{e}; also 1w and 1mo")))?;
            match &named {
                Some(_) if ms % DAY_MS == 0 => (Unit::Day, ms / DAY_MS),
                Some(zone) => return within_days(zone, ms, from, to),
                None => return Ok(Self::Every(ms)),
            }
        };
        let (zone, named) = (named.clone().unwrap_or(TimeZone::UTC), named.is_some());
        let divisor_ms = offsets(&zone, from, to).into_iter().fold(DAY_MS, gcd);
        Ok(Self::Calendar(Calendar { zone, named, unit, units, divisor_ms }))
    }

    /// The start of the span that contains this time.
    pub fn start(&self, at: EpochMs) -> EpochMs {
        match self {
            Self::Every(ms) => floor(at, *ms),
            Self::Calendar(calendar) => calendar.start(at),
        }
    }

    /// The end of the span that begins at `start`.
    pub fn end(&self, start: EpochMs) -> EpochMs {
        match self {
            Self::Every(ms) => start.plus(*ms),
            Self::Calendar(calendar) => calendar.end(start),
        }
    }

    /// What the start of every span is a multiple of.
    pub fn divisor_ms(&self) -> i64 {
        match self {
            Self::Every(ms) => *ms,
            Self::Calendar(calendar) => calendar.divisor_ms,
        }
    }

    /// How long a span is at most.
    pub fn longest_ms(&self) -> i64 {
        match self {
            Self::Every(ms) => *ms,
            Self::Calendar(Calendar { unit, units, .. }) => {
                let days = match unit {
                    Unit::Day => 1,
                    Unit::Week => 7,
                    Unit::Month => 31,
                };
                units * days * DAY_MS + HOUR_MS
            }
        }
    }

    /// How many spans lie between two times, at most `most` and one.
    pub fn count(&self, from: EpochMs, to: EpochMs, most: i64) -> i64 {
        let first = self.start(from);
        if let Self::Every(ms) = self {
            let length = to.0.saturating_sub(first.0);
            return length / ms + i64::from(length % ms != 0);
        }
        let (mut at, mut count) = (first, 0);
        while at < to && count <= most {
            (at, count) = (self.end(at), count + 1);
        }
        count
    }

    /// Whether a zone was named whose clock says where spans start.
    pub fn has_zone(&self) -> bool {
        matches!(self, Self::Calendar(calendar) if calendar.named)
    }

    /// A time on the clock of the zone that was named, with its offset; nothing if none was.
    pub fn local(&self, at: EpochMs) -> Option<String> {
        let Self::Calendar(calendar) = self else { return None };
        let at = Timestamp::from_millisecond(at.0).ok().filter(|_| calendar.named)?;
        Some(at.to_zoned(calendar.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string())
    }

    /// Why windows of a width don't fit, in words.
    pub fn misfit(&self) -> String {
        match self {
            Self::Every(_) => "is not a multiple of a stored width".to_string(),
            Self::Calendar(calendar) if calendar.divisor_ms < DAY_MS => format!(
                "begins at times of that zone that are multiples of {}, where no stored window begins",
                duration_text(calendar.divisor_ms)
            ),
            Self::Calendar(_) => "has spans of whole days, in which no stored width fits".to_string(),
        }
    }
}

impl Calendar {
    /// The number of the unit that a date lies in.
    fn number(&self, date: Date) -> i64 {
        match self.unit {
            Unit::Day => days(date),
            Unit::Week => (days(date) - MONDAY).div_euclid(7),
            Unit::Month => i64::from(date.year()) * 12 + i64::from(date.month()) - 1,
        }
    }

    /// When the unit of this number begins; nothing if that is beyond all times.
    fn begins(&self, number: i64) -> Option<EpochMs> {
        let date = match self.unit {
            Unit::Day => date(number),
            Unit::Week => date(number * 7 + MONDAY),
            Unit::Month => {
                let year = i16::try_from(number.div_euclid(12)).ok()?;
                Date::new(year, (number.rem_euclid(12) + 1) as i8, 1).ok()
            }
        };
        let midnight = date?.to_zoned(self.zone.clone()).ok()?;
        Some(EpochMs(midnight.timestamp().as_millisecond()))
    }

    fn start(&self, at: EpochMs) -> EpochMs {
        let Ok(instant) = Timestamp::from_millisecond(at.0) else { return floor(at, DAY_MS) };
        let date = instant.to_zoned(self.zone.clone()).date();
        let first = self.number(date).div_euclid(self.units) * self.units;
        // A midnight that there is twice begins the next day the first time.
        let next = self.begins(first + self.units).filter(|next| *next <= at);
        next.or_else(|| self.begins(first)).unwrap_or_else(|| floor(at, DAY_MS))
    }

    fn end(&self, start: EpochMs) -> EpochMs {
        let number = |at: Timestamp| self.number(at.to_zoned(self.zone.clone()).date());
        let instant = Timestamp::from_millisecond(start.0).ok();
        let next =
            instant.and_then(|at| self.begins(number(at).div_euclid(self.units) * self.units + self.units));
        next.filter(|next| *next > start).unwrap_or_else(|| start.plus(DAY_MS))
    }
}

fn named_zone(name: &str) -> Result<TimeZone, BadParameter> {
    TimeZone::get(name).map_err(|_| {
        let why =
            "is not a time zone of the IANA database; write one such as Europe/Berlin, America/New_York or UTC";
        bad("tz", format!("{} {why}", shown(name)))
    })
}

/// Spans within a day: the same in every zone whose clock differs from UTC by multiples of them.
fn within_days(
    zone: &TimeZone,
    every_ms: i64,
    from: Option<EpochMs>,
    to: EpochMs,
) -> Result<Grid, BadParameter> {
    if offsets(zone, from, to).iter().all(|offset| offset % every_ms == 0) {
        return Ok(Grid::Every(every_ms));
    }
    let why = "goes with `tz` only if it is whole days, weeks (1w) or months (1mo), or if the zone's clock differs from UTC by a \
               multiple of it";
    Err(bad("every", why))
}

/// By how much a zone's clock is ahead of UTC, in milliseconds, at one time or another.
fn offsets(zone: &TimeZone, from: Option<EpochMs>, to: EpochMs) -> Vec<i64> {
    let from = from.unwrap_or(ZONES_SINCE).min(ZONES_UNTIL);
    let until = to.min(ZONES_UNTIL);
    let Ok(first) = Timestamp::from_millisecond(from.0) else { return vec![] };
    let changes = zone.following(first).take(MAX_CHANGES_ENTRIES);
    let changes = changes.take_while(|change| change.timestamp().as_millisecond() < until.0);
    let first = std::iter::once(zone.to_offset(first));
    let all = first.chain(changes.map(|change| change.offset()));
    all.map(|offset| i64::from(offset.seconds()) * 1_000).collect()
}

fn gcd(a: i64, b: i64) -> i64 {
    let (mut a, mut b) = (a.abs(), b.abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The days from 1970-01-01 to a date.
fn days(date: Date) -> i64 {
    i64::from((date - Date::constant(1970, 1, 1)).get_days())
}

fn date(days: i64) -> Option<Date> {
    let span = jiff::Span::new().try_days(days).ok()?;
    Date::constant(1970, 1, 1).checked_add(span).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_types::time::TIME_RANGE;

    fn at(text: &str) -> EpochMs {
        EpochMs::parse(text).unwrap()
    }

    fn grid(every: &str, zone: Option<&str>) -> Grid {
        Grid::read(every, zone, Some(at("2025-01-01T00:00:00Z")), at("2027-01-01T00:00:00Z")).unwrap()
    }

    /// The span that a time lies in, and how many hours it has.
    fn span(grid: &Grid, text: &str) -> (String, i64) {
        let start = grid.start(at(text));
        let end = grid.end(start);
        assert_eq!((grid.start(start), grid.start(EpochMs(end.0 - 1))), (start, start));
        assert_eq!(start.0 % grid.divisor_ms(), 0);
        (start.to_string(), (end.0 - start.0) / HOUR_MS)
    }

    #[test]
    fn days_of_a_zone_have_23_or_25_hours_when_clocks_change() {
        let berlin = grid("1d", Some("Europe/Berlin"));
        for (text, start, hours) in [
            ("2026-03-28T12:00:00Z", "2026-03-27T23:00:00.000Z", 24),
            ("2026-03-29T21:59:59Z", "2026-03-28T23:00:00.000Z", 23),
            ("2026-03-29T22:00:00Z", "2026-03-29T22:00:00.000Z", 24),
            ("2026-10-25T22:59:59Z", "2026-10-24T22:00:00.000Z", 25),
        ] {
            assert_eq!(span(&berlin, text), (start.to_string(), hours), "{text}");
        }
        assert_eq!(berlin.local(at("2026-03-29T22:00:00Z")).as_deref(), Some("2026-03-30T00:00:00+02:00"));
        assert_eq!(
            (berlin.divisor_ms(), grid("1d", Some("Asia/Kolkata")).divisor_ms()),
            (HOUR_MS, HOUR_MS / 2)
        );
        let year = berlin.count(at("2025-12-31T23:00:00Z"), at("2026-12-31T23:00:00Z"), 1_000);
        assert_eq!((year, berlin.count(EpochMs(0), at("2026-01-01T00:00:00Z"), 10)), (365, 11));
        // Lebanon's days begin at an hour that is left out once a year, and at one that there is twice.
        let beirut = grid("1d", Some("Asia/Beirut"));
        assert_eq!(span(&beirut, "2026-03-29T12:00:00Z").1, 23);
        assert_eq!(span(&beirut, "2026-10-24T22:30:00Z").1 + span(&beirut, "2026-10-24T12:00:00Z").1, 49);
    }

    #[test]
    fn weeks_begin_on_monday_months_on_the_first_and_seven_days_on_thursday() {
        let start = |every: &str, zone: Option<&str>| span(&grid(every, zone), "2026-11-29T12:00:00Z");
        assert_eq!(start("1w", None), ("2026-11-23T00:00:00.000Z".to_string(), 168));
        assert_eq!(start("1w", Some("America/New_York")), ("2026-11-23T05:00:00.000Z".to_string(), 168));
        assert_eq!(start("7d", None), ("2026-11-26T00:00:00.000Z".to_string(), 168));
        assert_eq!(start("1mo", None), ("2026-11-01T00:00:00.000Z".to_string(), 720));
        assert_eq!(
            start("3mo", Some("Europe/Berlin")),
            ("2026-09-30T22:00:00.000Z".to_string(), 92 * 24 + 1)
        );
        assert_eq!(start("1h", Some("Europe/Berlin")), ("2026-11-29T12:00:00.000Z".to_string(), 1));
        let wild = grid("1mo", Some("Europe/Berlin"));
        for time in [*TIME_RANGE.start(), *TIME_RANGE.end(), TIME_RANGE.end() + 1] {
            let start = wild.start(EpochMs(time));
            assert!(wild.end(start) >= start && wild.longest_ms() >= 31 * DAY_MS);
        }
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let refused = |every: &str, zone: Option<&str>| {
            let error = Grid::read(every, zone, None, at("2027-01-01T00:00:00Z")).unwrap_err();
            (error.parameter, error.why)
        };
        for (every, zone, parameter, says) in [
            ("1d", Some("Berlin"), "tz", "Europe/Berlin"),
            ("1h", Some("Asia/Kolkata"), "every", "multiple of it"),
            ("6h", Some("Europe/Berlin"), "every", "whole days"),
            ("0w", None, "every", "1 to 120"),
            ("soon", None, "every", "1mo"),
        ] {
            let (named, why) = refused(every, zone);
            assert!(named == parameter && why.contains(says), "{every} {zone:?}: {why}");
        }
    }
}
