//! Rows of windows: their owners, the statistics that they return (`fn=`), and their columns.

use super::owner::{GroupBy, Owner};
use super::passed::StreamProgress;
use super::stored::{SeriesInfo, StoredWindow};
use super::table::{Cell, ColumnKind, Field, Table};
use selvedge_types::ids::SiteId;
use selvedge_types::site_window::SiteWindow;
use selvedge_types::time::EpochMs;
use std::sync::Arc;

/// One span of one stream, or of several that are merged.
#[derive(Debug, Clone)]
pub struct Row {
    pub owner: Arc<Owner>,
    /// The start of the span.
    pub start: EpochMs,
    /// How long it is.
    pub width_ms: i64,
    /// Its start on the clock of the requested zone.
    pub local: Option<Arc<str>>,
    /// Of how many streams something was counted in it.
    pub streams: u64,
    pub content: RowContent,
    /// How far its stream has come; of several the one that is furthest behind.
    pub passed: EpochMs,
    /// Whether all that its streams had in it in time is there.
    pub complete: bool,
    /// Whether `from` or `to` cuts the span, so that only a piece of it is in the row.
    pub partial: bool,
}

/// What is in a span.
#[derive(Debug, Clone)]
pub enum RowContent {
    Counted(Arc<StoredWindow>),
    /// None; and what stands for them.
    Filled(Filling),
}

/// What stands for readings where there are none.
#[derive(Debug, Clone)]
pub enum Filling {
    Null,
    Value(f64),
    Same(Arc<StoredWindow>),
    /// What lies between two windows, at this share of the way.
    Between(Arc<StoredWindow>, Arc<StoredWindow>, f64),
}

impl Row {
    /// A window as its site knows it.
    pub fn of_site(site: &SiteId, window: SiteWindow) -> Self {
        let complete = window.is_complete();
        let SiteWindow { device, stream, width_ms, start, aggregate, late, parts, watermark, .. } = window;
        let SiteWindow { set_aside, sequences, .. } = window;
        let names = [site.as_str(), &*device, &*stream].map(|name| Some(name.to_string()));
        let [site, device, stream] = names;
        let stored = StoredWindow { start, aggregate, late, parts: u64::from(parts), set_aside, sequences };
        Self {
            owner: Arc::new(Owner { site, device, stream }),
            start,
            width_ms: i64::from(width_ms),
            local: None,
            streams: 1,
            passed: watermark,
            complete,
            partial: false,
            content: RowContent::Counted(Arc::new(stored)),
        }
    }

    /// A window as it is stored.
    pub fn of(series: &SeriesInfo, window: StoredWindow, progress: &StreamProgress) -> Self {
        Self {
            owner: Arc::new(GroupBy::ALL.owner(series)),
            start: window.start,
            width_ms: series.width_ms,
            local: None,
            streams: 1,
            passed: progress.passed,
            complete: progress.is_complete(window.start, window.start.plus(series.width_ms)),
            partial: false,
            content: RowContent::Counted(Arc::new(window)),
        }
    }
}

/// A statistic that rows can return, as `fn=` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    pub name: &'static str,
    /// The columns that tell it.
    columns: &'static [Column],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Site,
    Device,
    Stream,
    Streams,
    Start,
    StartMs,
    WidthMs,
    Local,
    Partial,
    Filled,
    Count,
    Sum,
    Mean,
    Min,
    Max,
    Stddev,
    /// In percent: 50, 90, 99.
    Quantile(u8),
    FirstTime,
    FirstMs,
    FirstValue,
    LastTime,
    LastMs,
    LastValue,
    Late,
    SetAside,
    Missing,
    Parts,
    Fingerprint,
    Watermark,
    WatermarkMs,
    Complete,
}

use Column as C;

const KEYS: [Column; 6] = [C::Site, C::Device, C::Stream, C::Start, C::StartMs, C::WidthMs];

/// All statistics, in the order of an answer that does not name any.
pub const FUNCTIONS: [Function; 18] = [
    Function { name: "count", columns: &[C::Count] },
    Function { name: "sum", columns: &[C::Sum] },
    Function { name: "mean", columns: &[C::Mean] },
    Function { name: "min", columns: &[C::Min] },
    Function { name: "max", columns: &[C::Max] },
    Function { name: "stddev", columns: &[C::Stddev] },
    Function { name: "p50", columns: &[C::Quantile(50)] },
    Function { name: "p90", columns: &[C::Quantile(90)] },
    Function { name: "p99", columns: &[C::Quantile(99)] },
    Function { name: "first", columns: &[C::FirstTime, C::FirstMs, C::FirstValue] },
    Function { name: "last", columns: &[C::LastTime, C::LastMs, C::LastValue] },
    Function { name: "late", columns: &[C::Late] },
    Function { name: "set_aside", columns: &[C::SetAside] },
    Function { name: "missing", columns: &[C::Missing] },
    Function { name: "parts", columns: &[C::Parts] },
    Function { name: "fingerprint", columns: &[C::Fingerprint] },
    Function { name: "watermark", columns: &[C::Watermark, C::WatermarkMs] },
    Function { name: "complete", columns: &[C::Complete] },
];

impl Function {
    /// The function that `fn=` calls by this name.
    pub fn named(name: &str) -> Option<Self> {
        FUNCTIONS.into_iter().find(|function| function.name == name)
    }

    /// The names that `fn=` knows, with commas, for an error's text.
    pub fn names() -> String {
        FUNCTIONS.map(|function| function.name).join(", ")
    }
}

impl Column {
    fn field(self) -> Field {
        let (name, kind, meaning) = match self {
            C::Site => ("site", ColumnKind::Text, "The name; null where `group_by` merges."),
            C::Device => ("device", ColumnKind::Text, "The name; null where `group_by` merges."),
            C::Stream => ("stream", ColumnKind::Text, "The name; null where `group_by` merges."),
            C::Streams => (
                "streams",
                ColumnKind::Whole,
                "The number of streams with readings in the span; only with `group_by`.",
            ),
            C::Start => ("start", ColumnKind::Time, "The start of the span."),
            C::StartMs => ("start_ms", ColumnKind::Whole, "The same in milliseconds since 1970."),
            C::WidthMs => ("width_ms", ColumnKind::Whole, "The length in milliseconds."),
            C::Local => {
                ("start_local", ColumnKind::Text, "The start of the span in the time zone; only with `tz`.")
            }
            C::Partial => (
                "partial",
                ColumnKind::Flag,
                "Whether `from` or `to` cuts the span, so that the row covers only a piece of it; only with `every`.",
            ),
            C::Filled => (
                "filled",
                ColumnKind::Flag,
                "Whether the row stands for a span without readings; only with `fill`.",
            ),
            C::Count => ("count", ColumnKind::Whole, "The number of readings."),
            C::Sum => ("sum", ColumnKind::Real, "The sum of the values; null if a double can't hold it."),
            C::Mean => ("mean", ColumnKind::Real, "The arithmetic mean."),
            C::Min => ("min", ColumnKind::Real, "The least value."),
            C::Max => ("max", ColumnKind::Real, "The greatest value."),
            C::Stddev => {
                ("stddev", ColumnKind::Real, "The standard deviation of all readings, not of a sample.")
            }
            C::Quantile(50) => (
                "p50",
                ColumnKind::Real,
                "The reading of rank ceil(0.5 count) in ascending order, or close to it; null if no sketch was kept.",
            ),
            C::Quantile(90) => (
                "p90",
                ColumnKind::Real,
                "The reading of rank ceil(0.9 count) in ascending order, or close to it; null if no sketch was kept.",
            ),
            C::Quantile(_) => (
                "p99",
                ColumnKind::Real,
                "The reading of rank ceil(0.99 count) in ascending order, or close to it; null if no sketch was kept.",
            ),
            C::FirstTime => ("first.time", ColumnKind::Time, "When the earliest reading was measured."),
            C::FirstMs => ("first.time_ms", ColumnKind::Whole, "The same in milliseconds since 1970."),
            C::FirstValue => ("first.value", ColumnKind::Real, "The value of the earliest reading."),
            C::LastTime => ("last.time", ColumnKind::Time, "When the latest reading was measured."),
            C::LastMs => ("last.time_ms", ColumnKind::Whole, "The same in milliseconds since 1970."),
            C::LastValue => ("last.value", ColumnKind::Real, "The value of the latest reading."),
            C::Late => {
                ("late", ColumnKind::Whole, "The number of readings that came after the window had closed.")
            }
            C::SetAside => (
                "set_aside",
                ColumnKind::Whole,
                "The number of readings that the site set aside meanwhile: not counted, but kept in its quarantine.",
            ),
            C::Missing => (
                "missing",
                ColumnKind::Whole,
                "The number of sequence numbers missing between its readings; null if they have none.",
            ),
            C::Parts => ("parts", ColumnKind::Whole, "The number of parts that were merged."),
            C::Fingerprint => (
                "fingerprint",
                ColumnKind::Text,
                "A hash of the values: equal for equal values, in any order.",
            ),
            C::Watermark => (
                "watermark",
                ColumnKind::Time,
                "The watermark of the stream by now; where streams are merged, the watermark of the one furthest behind.",
            ),
            C::WatermarkMs => ("watermark_ms", ColumnKind::Whole, "The same in milliseconds since 1970."),
            C::Complete => (
                "complete",
                ColumnKind::Flag,
                "Whether the stream has passed the end of the span, the span is not cut, and no lost batch may have held readings of it.",
            ),
        };
        Field::new(name, kind).meaning(meaning)
    }

    /// What a window says of its values here, if it is something that can be filled in.
    fn value(self, window: &StoredWindow) -> Option<f64> {
        let a = &window.aggregate;
        Some(match self {
            C::Sum => a.sum()?,
            C::Mean => a.mean(),
            C::Min => a.min,
            C::Max => a.max,
            C::Stddev => a.stddev(),
            C::Quantile(percent) => a.quantile(percent)?,
            C::FirstValue => a.first.value,
            C::LastValue => a.last.value,
            _ => return None,
        })
    }

    fn of_window(self, window: &StoredWindow, row: &Row) -> Cell<'static> {
        let a = &window.aggregate;
        match self {
            C::Count => Cell::count(a.count),
            C::FirstTime => Cell::Time(a.first.time),
            C::FirstMs => Cell::Whole(a.first.time.0),
            C::LastTime => Cell::Time(a.last.time),
            C::LastMs => Cell::Whole(a.last.time.0),
            C::Late => Cell::count(window.late),
            C::SetAside => Cell::count(window.set_aside),
            C::Missing => window.sequences.missing().map_or(Cell::Null, Cell::count),
            C::Parts => Cell::count(window.parts),
            C::Fingerprint => Cell::Hex(a.fingerprint),
            C::Watermark => Cell::Time(row.passed),
            C::WatermarkMs => Cell::Whole(row.passed.0),
            C::Complete => Cell::Flag(row.complete && !row.partial),
            value => value.value(window).map_or(Cell::Null, Cell::Real),
        }
    }

    fn of_filling(self, filling: &Filling) -> Cell<'static> {
        let value = match (self, filling) {
            (C::Count | C::Late | C::SetAside | C::Parts, _) => return Cell::Whole(0),
            (_, Filling::Null) => None,
            (_, Filling::Same(before)) => self.value(before),
            (_, Filling::Between(before, after, share)) => {
                self.value(before).zip(self.value(after)).map(|(a, b)| between(a, b, *share))
            }
            (C::Sum | C::Mean | C::Min | C::Max | C::Stddev | C::Quantile(_), Filling::Value(value)) => {
                Some(*value)
            }
            (C::FirstValue | C::LastValue, Filling::Value(value)) => Some(*value),
            _ => None,
        };
        value.map_or(Cell::Null, Cell::Real)
    }
}

/// The number at this share of the way from `a` to `b`, which may lie further apart than the greatest double.
fn between(a: f64, b: f64, share: f64) -> f64 {
    if (b - a).is_finite() { a + (b - a) * share } else { a * (1.0 - share) + b * share }
}

/// The columns that rows have besides their owner and the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct More {
    /// Where spans start on the clock of a zone, where one was named.
    pub zone: bool,
    /// Which spans are cut, where windows are merged into spans.
    pub spans: bool,
    /// Of how many streams something is in a row, where streams are merged.
    pub merged: bool,
    /// Which rows are filled in.
    pub filled: bool,
}

/// Rows with the statistics that they return.
#[derive(Debug, Clone)]
pub struct RowTable {
    fields: Vec<Field>,
    columns: Vec<Column>,
    pub rows: Vec<Row>,
}

impl RowTable {
    /// An answer without rows yet; it returns all statistics if the request names none.
    pub fn new(functions: Option<&[Function]>, more: More) -> Self {
        let functions = functions.unwrap_or(&FUNCTIONS);
        let mut columns = KEYS.to_vec();
        columns.extend(more.zone.then_some(C::Local));
        columns.extend(more.spans.then_some(C::Partial));
        columns.extend(more.merged.then_some(C::Streams));
        columns.extend(functions.iter().flat_map(|function| function.columns));
        columns.extend(more.filled.then_some(C::Filled));
        Self { fields: columns.iter().map(|column| column.field()).collect(), columns, rows: vec![] }
    }

    /// About how many bytes a row of these names takes in an answer.
    pub fn row_bytes(&self, owner: &Owner) -> usize {
        const PER_COLUMN_BYTES: usize = 32;
        let names = [&owner.site, &owner.device, &owner.stream];
        let names: usize = names.iter().map(|name| name.as_ref().map_or(0, String::len)).sum();
        names + PER_COLUMN_BYTES * self.columns.len()
    }
}

impl Table for RowTable {
    fn fields(&self) -> &[Field] {
        &self.fields
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn cell(&self, row: usize, field: usize) -> Cell<'_> {
        let (Some(row), Some(column)) = (self.rows.get(row), self.columns.get(field)) else {
            return Cell::Null;
        };
        match column {
            C::Site => row.owner.site.as_deref().map_or(Cell::Null, Cell::Text),
            C::Device => row.owner.device.as_deref().map_or(Cell::Null, Cell::Text),
            C::Stream => row.owner.stream.as_deref().map_or(Cell::Null, Cell::Text),
            C::Streams => Cell::count(row.streams),
            C::Start => Cell::Time(row.start),
            C::StartMs => Cell::Whole(row.start.0),
            C::WidthMs => Cell::Whole(row.width_ms),
            C::Local => row.local.as_deref().map_or(Cell::Null, Cell::Text),
            C::Partial => Cell::Flag(row.partial),
            C::Filled => Cell::Flag(matches!(row.content, RowContent::Filled(_))),
            told => match &row.content {
                RowContent::Counted(window) => told.of_window(window, row),
                RowContent::Filled(filling) => told.of_filling(filling),
            },
        }
    }
}
