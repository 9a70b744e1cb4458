//! What a query asks, read from its parameters, and how stored windows answer it.
//!
//! A stream may be stored at several widths. Without `every` the narrowest is given as it is; with `every`, the widest
//! that divides it is merged upwards, into spans that are aligned to 1970-01-01T00:00:00Z as windows are. `width`
//! picks another one. What counts is where a window starts: in `from` (included) to `to` (excluded); so a span
//! that `from` or `to` cuts holds only the windows on the asked side. Where whole hours or days are asked for, roll-ups
//! answer in the windows' stead, with the same result.
//!
//! Without `device` all devices answer. With `group` they are merged, for each stream apart; that is done from roll-ups
//! alone, so it takes whole hours.
//!
//! Limits: a span is made of at most [`MAX_MERGED_ENTRIES`] windows or roll-ups, an answer holds at most
//! [`MAX_LIMIT_ENTRIES`] spans and says where to go on.

pub use super::params::{BadParameter, Parameters, Place, bad, duration_text, shown};
use super::rollup::{self, Segment};
use crate::store::{SeriesInfo, StoredWindow};
use selvedge_shared::time::{EpochMs, TIME_RANGE};

/// The most rows of one answer of `/v1/aggregates` and `/v1/devices`.
pub const MAX_LIMIT_ENTRIES: u32 = 10_000;

/// The rows of one answer when nothing is said.
pub const DEFAULT_LIMIT_ENTRIES: u32 = 1_000;

/// The most windows or roll-ups that are merged into one span; a little more where `from` or `to` cuts it.
pub const MAX_MERGED_ENTRIES: i64 = 100_000;

/// What is merged into one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// One stream of one device.
    Device,
    /// A stream of all devices of a site.
    Site,
    /// A stream of all devices.
    All,
}

/// A query for aggregates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregateQuery {
    /// Only of this site.
    pub site: Option<String>,
    /// Only this device.
    pub device: Option<String>,
    /// Only this stream.
    pub stream: Option<String>,
    /// The earliest start of a window.
    pub from: EpochMs,
    /// The first start that is too late.
    pub to: EpochMs,
    /// The width of the spans asked for.
    pub every_ms: Option<i64>,
    /// The stored width asked for.
    pub width_ms: Option<i64>,
    /// What makes a row.
    pub group: Group,
    /// The most rows.
    pub limit: u32,
    /// Where to go on.
    pub after: Option<Place>,
}

impl AggregateQuery {
    /// Reads the parameters of `/v1/aggregates`.
    ///
    /// # Errors
    /// Names the parameter that is wrong.
    pub fn read(given: Vec<(String, String)>) -> Result<Self, BadParameter> {
        let known = ["device", "stream", "from", "to", "every", "group", "width", "site", "limit", "after"];
        let p = Parameters::new(given, &known)?;
        let owned = |text: Option<&str>| text.map(str::to_string);
        let group = match p.text("group")? {
            None | Some("device") => Group::Device,
            Some("site") => Group::Site,
            Some("all") => Group::All,
            Some(other) => {
                return Err(bad("group", format!("{} is none of: device, site, all", shown(other))));
            }
        };
        let from = p.time("from", EpochMs(*TIME_RANGE.start()))?;
        let to = p.time("to", EpochMs(*TIME_RANGE.end()).plus(1))?;
        if to <= from {
            return Err(bad("to", format!("{to} is not after `from`, which is {from}")));
        }
        let (every_ms, width_ms) = (p.duration("every")?, p.duration("width")?);
        if let (Some(every), Some(width)) = (every_ms, width_ms)
            && every % width != 0
        {
            return Err(bad("every", format!("is no multiple of the width {}", duration_text(width))));
        }
        if group != Group::Device {
            whole_hours(every_ms, [("from", from), ("to", to)])?;
        }
        Ok(Self {
            site: owned(p.text("site")?),
            device: owned(p.text("device")?),
            stream: owned(p.text("stream")?),
            from,
            to,
            every_ms,
            width_ms,
            group,
            limit: p.limit(DEFAULT_LIMIT_ENTRIES, MAX_LIMIT_ENTRIES)?,
            after: p.place("after")?,
        })
    }

    /// Which series answers for each stream, in the order of `series` (by site, device, stream and width).
    ///
    /// # Errors
    /// When a stream is not stored at a width that fits.
    pub fn choose(&self, series: Vec<SeriesInfo>) -> Result<Vec<SeriesInfo>, BadParameter> {
        let mut chosen: Vec<SeriesInfo> = vec![];
        let mut rest = series.as_slice();
        while let Some(first) = rest.first() {
            let same = |s: &SeriesInfo| {
                (&s.site, &s.device, &s.stream) == (&first.site, &first.device, &first.stream)
            };
            let (widths, others) = rest.split_at(rest.iter().take_while(|s| same(s)).count().max(1));
            rest = others;
            // Roll-ups to hours are there only of widths that divide the hour.
            let divided =
                self.every_ms.map(|every| if self.group == Group::Device { every } else { rollup::HOUR_MS });
            let fits =
                |s: &&SeriesInfo| divided.is_none_or(|divided| s.width_ms > 0 && divided % s.width_ms == 0);
            let pick = match (self.width_ms, divided) {
                (Some(width), _) => widths.iter().find(|s| s.width_ms == width).filter(fits),
                (None, Some(_)) => widths.iter().rev().find(fits),
                (None, None) => widths.first(),
            };
            let stored = || {
                let all: Vec<_> = widths.iter().map(|s| duration_text(s.width_ms)).collect();
                format!(
                    "stream {} of device {} of site {} is stored at {}",
                    shown(&first.stream),
                    shown(&first.device),
                    first.site,
                    all.join(", ")
                )
            };
            let pick = match pick {
                Some(pick) => pick,
                None if self.width_ms.is_some() => {
                    return Err(bad("width", format!("does not fit: {}", stored())));
                }
                None if self.group == Group::Device => {
                    return Err(bad("every", format!("is no multiple of a stored width: {}", stored())));
                }
                None => {
                    return Err(bad("group", format!("needs a width that divides the hour: {}", stored())));
                }
            };
            if self.merged_entries(pick) > MAX_MERGED_ENTRIES {
                let why =
                    format!("would merge more than {MAX_MERGED_ENTRIES} windows into one: {}", stored());
                return Err(bad("every", why));
            }
            chosen.push(pick.clone());
        }
        let all =
            chosen.first().map_or(0, |one| self.merged_entries(one).saturating_mul(chosen.len() as i64));
        if self.group != Group::Device && all > MAX_MERGED_ENTRIES {
            let why = format!(
                "would merge {} streams, which are more than {MAX_MERGED_ENTRIES} roll-ups, into one; \
                 a shorter span, `site` or `stream` would make it less",
                chosen.len()
            );
            return Err(bad("every", why));
        }
        Ok(chosen)
    }

    /// How many windows or roll-ups of a series one span is made of.
    fn merged_entries(&self, series: &SeriesInfo) -> i64 {
        let Some(every) = self.every_ms else { return 1 };
        let widest = rollup::useful(every, series.width_ms).pop().unwrap_or(series.width_ms);
        every / widest.max(1)
    }

    /// What to read of a series at a stored width: windows, and the roll-ups that stand for them.
    pub fn segments(&self, width_ms: i64, from: EpochMs) -> Vec<Segment> {
        let spans = self.every_ms.map(|every| rollup::useful(every, width_ms));
        rollup::cover(&spans.unwrap_or_default(), from, self.to)
    }

    /// What to read when series are merged: roll-ups alone, with their span.
    pub fn rollups(&self, from: EpochMs) -> Vec<(i64, Segment)> {
        let every = self.every_ms.unwrap_or(rollup::HOUR_MS);
        let spans: Vec<_> = rollup::ROLLUPS_MS.into_iter().filter(|span| every % span == 0).collect();
        let all = rollup::cover(&spans, from, self.to).into_iter();
        // Both ends are at full hours, so that nothing is left to windows.
        all.filter_map(|segment| Some((segment.span_ms?, segment))).collect()
    }

    /// Where the span of a window at `start` begins.
    pub fn span_start(&self, start: EpochMs) -> EpochMs {
        self.every_ms.map_or(start, |every| rollup::floor(start, every))
    }
}

/// Merging over devices takes whole hours.
fn whole_hours(every_ms: Option<i64>, limits: [(&str, EpochMs); 2]) -> Result<(), BadParameter> {
    let hour = rollup::HOUR_MS;
    match every_ms {
        Some(every) if every % hour == 0 => {}
        _ => return Err(bad("every", "has to be a multiple of 1h with `group`")),
    }
    for (name, time) in limits {
        let before = rollup::floor(time, hour);
        if before != time {
            return Err(bad(name, format!("has to be at a full hour with `group`, such as {before}")));
        }
    }
    Ok(())
}

/// Takes in another window of the same span.
pub fn merge(span: &mut StoredWindow, window: &StoredWindow) {
    span.aggregate.merge(&window.aggregate);
    span.late = span.late.saturating_add(window.late);
    span.parts = span.parts.saturating_add(window.parts);
    span.watermark = span.watermark.max(window.watermark);
}

/// Merges windows, given by start, into spans.
#[derive(Debug, Default)]
pub struct Spans {
    open: Option<StoredWindow>,
}

impl Spans {
    /// Takes a window in, whose span begins at `start`; gives back the span before, if this begins another.
    pub fn push(&mut self, start: EpochMs, window: &StoredWindow) -> Option<StoredWindow> {
        match &mut self.open {
            Some(span) if span.start == start => {
                merge(span, window);
                None
            }
            open => open.replace(StoredWindow { start, ..window.clone() }),
        }
    }

    /// Where the span begins that is not given back yet.
    pub fn open_start(&self) -> Option<EpochMs> {
        self.open.as_ref().map(|span| span.start)
    }

    /// The last span.
    pub fn finish(self) -> Option<StoredWindow> {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;
    use selvedge_shared::aggregate::{Aggregate, Sample};

    fn read(text: &str) -> Result<AggregateQuery, BadParameter> {
        let pair = |p: &str| p.split_once('=').map(|(k, v)| (k.to_string(), v.to_string())).unwrap();
        AggregateQuery::read(text.split('&').filter(|p| !p.is_empty()).map(pair).collect())
    }

    fn series(id: i64, stream: &str, width_ms: i64) -> SeriesInfo {
        SeriesInfo { id, site: "a".into(), device: "d".into(), stream: stream.into(), width_ms }
    }

    fn chosen(query: &str, all: &[SeriesInfo]) -> Result<Vec<i64>, BadParameter> {
        Ok(read(query)?.choose(all.to_vec())?.iter().map(|s| s.id).collect())
    }

    #[test]
    fn parameters_are_read_in_all_their_forms() {
        let q =
            read("device=d&from=2025-11-24T16:00:00Z&to=1764000000250&every=1m&limit=5&after=7.-3").unwrap();
        assert_eq!((q.from, q.to), (EpochMs(1_764_000_000_000), EpochMs(1_764_000_000_250)));
        assert_eq!((q.every_ms, q.limit), (Some(60_000), 5));
        assert_eq!(q.after, Some(Place { series: 7, start: EpochMs(-3) }));
        let offset = read("device=d&from=2025-11-24T17:00:00 01:00").unwrap();
        assert_eq!(offset.from, EpochMs(1_764_000_000_000), "an offset's plus may come as a space");
        for (text, ms) in [("10s", 10_000), ("1h", 3_600_000), ("2d", 2 * DAY_MS), ("250ms", 250), ("7", 7)] {
            assert_eq!(read(&format!("device=d&every={text}")).unwrap().every_ms, Some(ms));
        }
        assert_eq!(
            [10_000, 90_000, 3_600_000, DAY_MS, 250].map(duration_text),
            ["10s", "90s", "1h", "1d", "250ms"]
        );
    }

    #[test]
    fn a_bad_parameter_is_named_with_what_would_be_right() {
        for (text, parameter, right) in [
            ("group=stream", "group", "device, site, all"),
            ("device=", "device", "empty"),
            ("device=d&form=1", "form", "from"),
            ("device=d&device=e", "device", "twice"),
            ("device=d&from=yesterday", "from", "RFC 3339"),
            ("device=d&from=5&to=5", "to", "after `from`"),
            ("device=d&every=1 minute", "every", "10s"),
            ("device=d&every=0", "every", "10s"),
            ("device=d&every=99999999999999999d", "every", "366d"),
            ("device=d&width=x", "width", "10s"),
            ("device=d&every=15s&width=10s", "every", "multiple"),
            ("device=d&limit=0", "limit", "1 to 10000"),
            ("device=d&limit=10001", "limit", "1 to 10000"),
            ("device=d&after=x", "after", "`next`"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.parameter, parameter, "{text}");
            assert!(error.why.contains(right), "{text}: {error}");
        }
    }

    #[test]
    fn the_widest_stored_width_that_divides_every_is_chosen() {
        let all =
            [series(1, "s", 1_000), series(2, "s", 10_000), series(3, "s", 60_000), series(4, "t", 10_000)];
        assert_eq!(chosen("device=d", &all), Ok(vec![1, 4]));
        assert_eq!(chosen("device=d&every=1h", &all), Ok(vec![3, 4]));
        assert_eq!(chosen("device=d&every=30s", &all), Ok(vec![2, 4]));
        assert_eq!(chosen("device=d&width=10s", &all), Ok(vec![2, 4]));
        let error = chosen("device=d&every=15s", &all).unwrap_err();
        assert_eq!(error.parameter, "every");
        assert!(error.why.contains("\"t\" of device \"d\" of site a is stored at 10s"), "{error}");
        assert_eq!(chosen("device=d&width=1m", &all).unwrap_err().parameter, "width");
        assert_eq!(chosen("device=d&every=100001s&width=1s", &all[..1]).unwrap_err().parameter, "every");
    }

    #[test]
    fn windows_merge_into_spans() {
        let query = read("device=d&every=1m").unwrap();
        let window = |start: i64, value: f64| StoredWindow {
            start: EpochMs(start),
            aggregate: Aggregate::of(Sample { time: EpochMs(start), slot: 1, index: 0, value }),
            late: 1,
            parts: 2,
            watermark: EpochMs(start),
        };
        let mut spans = Spans::default();
        let mut got = vec![];
        for w in [window(-10_000, 5.0), window(0, 1.0), window(50_000, 3.0), window(120_000, 9.0)] {
            got.extend(spans.push(query.span_start(w.start), &w));
        }
        assert_eq!(spans.open_start(), Some(EpochMs(120_000)));
        got.extend(spans.finish());
        let told: Vec<_> =
            got.iter().map(|s| (s.start.0, s.aggregate.count, s.aggregate.sum, s.late, s.parts)).collect();
        assert_eq!(told, [(-60_000, 1, 5.0, 1, 2), (0, 2, 4.0, 2, 4), (120_000, 1, 9.0, 1, 2)]);
        assert_eq!(got[1].watermark, EpochMs(50_000));
    }
}
