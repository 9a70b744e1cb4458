//! Queries: reads one from its parameters, and answers it from stored windows.
//!
//! A stream may be stored at several widths. Without `every`, an answer has the windows of the narrowest width as they are
//! stored; with it, the query merges those of the widest width that divides `every` into the spans of a [`Grid`]. `width`
//! chooses another stored width. A window counts if it starts in `from` (included) to `to` (excluded), so a span that `from` or
//! `to` cuts holds only the windows inside, and is marked. For whole minutes, hours or days the query reads roll-ups instead of
//! windows, with the same result.
//!
//! `group_by` merges streams, from roll-ups if all of them have some, otherwise from windows.
//!
//! Limits: a row merges at most [`MAX_MERGED_ENTRIES`] windows or roll-ups, and windows of at most
//! [`MAX_MERGED_STREAMS_ENTRIES`] streams; an answer holds at most [`MAX_LIMIT_ENTRIES`] rows and says where to continue.

use super::fill::Fill;
use super::grid::Grid;
use super::owner::{GroupBy, Owner};
use super::params::{WantedStreams, WindowPlace};
use super::passed::NEVER;
use super::rollup::{self, Segment};
use super::row::{Function, Row, RowContent};
use super::stored::SeriesInfo;
use selvedge_types::params::{BadParameter, MAX_LIMIT_ENTRIES, Parameters, bad, shown};
use selvedge_types::time::{EpochMs, duration_text};
use selvedge_types::window_query::WindowQuery;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The most windows or roll-ups that are merged into one span; a little more where `from` or `to` cuts it.
pub const MAX_MERGED_ENTRIES: i64 = 100_000;

/// The most streams whose windows are merged with each other; roll-ups have no such limit.
pub const MAX_MERGED_STREAMS_ENTRIES: usize = 5_000;

/// A checked question for windows, or for spans that merge them.
#[derive(Debug, Clone, PartialEq)]
pub struct AggregateQuery {
    pub wanted: WantedStreams,
    /// The earliest start of a window.
    pub from: EpochMs,
    /// The first start that is too late.
    pub to: EpochMs,
    /// The spans asked for.
    pub every: Option<Grid>,
    /// The stored width asked for.
    pub width_ms: Option<i64>,
    /// The statistics to return per row; `None` returns all.
    pub functions: Option<Vec<Function>>,
    /// Which of site, device and stream distinguish rows; the query merges across the others.
    pub group: GroupBy,
    /// How to fill spans without readings.
    pub fill: Option<Fill>,
    pub limit: u32,
    /// The last row of the page before this one.
    pub after: Option<WindowPlace>,
}

/// The parameters of `/v1/aggregates`.
pub const AGGREGATE_PARAMETERS: [&str; 14] = [
    "site", "device", "stream", "from", "to", "every", "tz", "width", "fn", "group_by", "fill", "limit",
    "after", "format",
];

impl AggregateQuery {
    /// Reads the parameters of `/v1/aggregates`, which are all known.
    ///
    /// # Errors
    /// Names the parameter that is wrong.
    pub fn read(p: &Parameters) -> Result<Self, BadParameter> {
        let windows = WindowQuery::read(p)?;
        let (from, to, limit) = (windows.from, windows.to, windows.limit);
        let (zone, width_ms) = (p.text("tz")?, p.duration("width")?);
        let since = p.has("from").then_some(from);
        let every = p.text("every")?.map(|every| Grid::read(every, zone, since, to)).transpose()?;
        if zone.is_some() && every.is_none() {
            return Err(bad(
                "every",
                "is needed with `tz`, whose days, weeks or months it names: every=1d, 1w or 1mo",
            ));
        }
        if let (Some(every), Some(width)) = (&every, width_ms)
            && every.divisor_ms() % width != 0
        {
            return Err(bad("every", format!("{}: {} asked for", every.misfit(), duration_text(width))));
        }
        let group = GroupBy::read(p)?;
        if group != GroupBy::ALL && every.is_none() {
            return Err(bad("every", "is needed to merge streams by `group_by`, such as every=1h"));
        }
        let fill = p.text("fill")?.map(Fill::parse).transpose()?.flatten();
        let query = Self {
            wanted: WantedStreams {
                site: p.pattern("site")?,
                device: windows.devices(),
                stream: windows.streams(),
                search: None,
            },
            from,
            to,
            every,
            width_ms,
            functions: p.list("fn", Function::named, &Function::names())?,
            group,
            fill,
            limit,
            after: p.after(WindowPlace::parse)?,
        };
        if query.fill.is_some() {
            for name in ["every", "from", "to"] {
                if !p.has(name) {
                    return Err(bad(
                        name,
                        "is needed with `fill`, which fills the spans between `from` and `to`",
                    ));
                }
            }
            let spans = query.spans();
            if spans > i64::from(limit) {
                let why = format!(
                    "makes {spans} spans of each stream, more than the {limit} rows of `limit` (at most {MAX_LIMIT_ENTRIES}): with `fill` \
                     an answer holds each stream whole"
                );
                return Err(bad("every", why));
            }
        }
        Ok(query)
    }

    /// How many spans lie between `from` and `to`; of the calendar's at most one more than an answer has rows.
    pub fn spans(&self) -> i64 {
        let most = i64::from(MAX_LIMIT_ENTRIES);
        self.every.as_ref().unwrap_or(&Grid::Every(1)).count(self.from, self.to, most)
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
            let one = self.choose_width(widths)?;
            if self.group == GroupBy::ALL && self.merged_entries(one) > MAX_MERGED_ENTRIES {
                let why = format!(
                    "would merge more than {MAX_MERGED_ENTRIES} windows into one: {}",
                    stored(widths)
                );
                return Err(bad("every", why));
            }
            chosen.push(one.clone());
        }
        Ok(chosen)
    }

    /// Which of one stream's series answers, of which there is at least one.
    fn choose_width<'a>(&self, widths: &'a [SeriesInfo]) -> Result<&'a SeriesInfo, BadParameter> {
        let divides = |divided: i64, s: &&SeriesInfo| s.width_ms > 0 && divided % s.width_ms == 0;
        let pick = match (self.width_ms, self.every.as_ref().map(Grid::divisor_ms)) {
            (Some(width), every) => widths
                .iter()
                .find(|s| s.width_ms == width)
                .filter(|s| every.is_none_or(|every| divides(every, s))),
            (None, None) => widths.first(),
            (None, Some(every)) => {
                // What is merged with others is best at a width that all roll-ups are kept of.
                let hour = rollup::HOUR_MS;
                let rolled = (self.group != GroupBy::ALL && every % hour == 0)
                    .then(|| widths.iter().rev().find(|s| divides(hour, s)))
                    .flatten();
                rolled.or_else(|| widths.iter().rev().find(|s| divides(every, s)))
            }
        };
        pick.ok_or_else(|| match self.width_ms {
            Some(_) => bad("width", format!("does not fit: {}", stored(widths))),
            None => {
                let misfit = self.every.as_ref().map(Grid::misfit).unwrap_or_default();
                bad("every", format!("{misfit}: {}", stored(widths)))
            }
        })
    }

    /// How many windows or roll-ups of a series one span is made of.
    fn merged_entries(&self, series: &SeriesInfo) -> i64 {
        let Some(every) = &self.every else { return 1 };
        let widest = rollup::useful(every.divisor_ms(), series.width_ms).pop().unwrap_or(series.width_ms);
        every.longest_ms() / widest.max(1)
    }

    /// What to read of a series at a stored width: windows, and the roll-ups that stand for them.
    pub fn segments(&self, width_ms: i64, from: EpochMs) -> Vec<Segment> {
        let spans = self.every.as_ref().map(|every| rollup::useful(every.divisor_ms(), width_ms));
        rollup::cover(&spans.unwrap_or_default(), from, self.to)
    }

    /// What to read when these series are merged, from `from` on: roll-ups that all of them have, and windows where there
    /// are none.
    ///
    /// # Errors
    /// When that would be too many for one span.
    pub fn merged_segments(
        &self,
        chosen: &[SeriesInfo],
        from: EpochMs,
    ) -> Result<Vec<Segment>, BadParameter> {
        let grid = self.every.clone().unwrap_or(Grid::Every(rollup::HOUR_MS));
        let (divisor, every) = (grid.divisor_ms(), grid.longest_ms());
        let widths: BTreeSet<i64> = chosen.iter().map(|s| s.width_ms).collect();
        let kept = |span: &i64| {
            divisor % span == 0 && widths.iter().all(|width| rollup::spans_of(*width).any(|s| s == *span))
        };
        let spans: Vec<i64> = rollup::ROLLUPS_MS.into_iter().filter(kept).collect();
        let segments = rollup::cover(&spans, from, self.to);
        let narrowest = widths.first().copied().unwrap_or(every).max(1);
        // The most that a span is made of at either kind of segment; a span that several touch is less than the sum.
        let of_a_span = |segment: &Segment| {
            let length = every.min(segment.to.0.saturating_sub(segment.from.0));
            length / segment.span_ms.unwrap_or(narrowest) + i64::from(segment.span_ms.is_none())
        };
        let most = segments.iter().map(of_a_span).max().unwrap_or(1).max(1);
        let streams = chosen.len() as i64;
        let windows = segments.iter().any(|segment| segment.span_ms.is_none());
        let roll_ups = "; for whole minutes, hours and days that the stored widths divide, with `from` and `to` at their ends, the node \
                        reads roll-ups, which are fewer";
        if most.saturating_mul(streams) > MAX_MERGED_ENTRIES {
            let why = format!(
                "would read about {} windows or roll-ups of {streams} streams for one row, more than {MAX_MERGED_ENTRIES}; ask for fewer \
                 streams or a shorter `every`{}",
                most.saturating_mul(streams),
                if windows { roll_ups } else { "" }
            );
            return Err(bad("every", why));
        }
        if windows && chosen.len() > MAX_MERGED_STREAMS_ENTRIES {
            let why = format!(
                "would merge the windows of {streams} streams, more than {MAX_MERGED_STREAMS_ENTRIES}; ask for fewer{roll_ups}"
            );
            return Err(bad("every", why));
        }
        Ok(segments)
    }

    /// The start of the span of a window at `start`.
    pub fn span_start(&self, start: EpochMs) -> EpochMs {
        self.every.as_ref().map_or(start, |every| every.start(start))
    }

    /// A row of the span, or of the window of this width, that begins at `start`. How far its stream has come is not known of it yet.
    pub fn row(&self, owner: &Arc<Owner>, start: EpochMs, width_ms: i64, content: RowContent) -> Row {
        let end = self.every.as_ref().map_or(start.plus(width_ms), |every| every.end(start));
        Row {
            owner: owner.clone(),
            start,
            width_ms: end.0.saturating_sub(start.0),
            local: self.every.as_ref().and_then(|every| every.local(start)).map(Arc::from),
            streams: 1,
            content,
            passed: NEVER,
            complete: false,
            partial: self.every.is_some() && (start < self.from || end > self.to),
        }
    }

    /// The rows of one owner, by start, and one for each other span of the query.
    pub fn filled(&self, fill: Fill, rows: Vec<Row>) -> Vec<Row> {
        let Some(every) = &self.every else { return rows };
        let (mut start, to) = (every.start(self.from), self.to);
        let Some(owner) = rows.first().map(|row| row.owner.clone()) else { return vec![] };
        let counted = |row: &Row| match &row.content {
            RowContent::Counted(window) => Some(window.clone()),
            RowContent::Filled(_) => None,
        };
        let (mut all, mut before) = (vec![], None);
        let mut rows = rows.into_iter().peekable();
        while start < to {
            match rows.next_if(|row| row.start == start) {
                Some(row) => {
                    before = counted(&row).or(before);
                    all.push(row);
                }
                None => {
                    let after = rows.peek().and_then(counted);
                    let content = RowContent::Filled(fill.between(start, before.as_ref(), after.as_ref()));
                    all.push(Row { streams: 0, ..self.row(&owner, start, 0, content) });
                }
            }
            start = every.end(start);
        }
        all
    }
}

/// At what widths a stream is stored, in words.
fn stored(widths: &[SeriesInfo]) -> String {
    let all: Vec<_> = widths.iter().map(|s| duration_text(s.width_ms)).collect();
    let Some(first) = widths.first() else { return String::new() };
    let (stream, device) = (shown(&first.stream), shown(&first.device));
    format!("stream {stream} of device {device} of site {} is stored at {}", first.site, all.join(", "))
}

#[cfg(test)]
mod tests;
