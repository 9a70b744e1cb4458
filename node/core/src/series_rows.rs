//! The rows of one series, made from pages of its windows or roll-ups: what to read next, which windows merge into a row, and where to
//! go on if the answer is full before the series ends.
//!
//! Limits: an answer reads some [`SCAN_ENTRIES`] windows, [`READ_ENTRIES`] of them at a time, and holds as many rows as its query asks
//! for.

use super::owner::Owner;
use super::passed::StreamProgress;
use super::query::AggregateQuery;
use super::rollup::Segment;
use super::row::{Row, RowContent};
use super::stored::StoredWindow;
use selvedge_types::time::EpochMs;
use std::sync::Arc;

/// How many windows are read at a time.
pub const READ_ENTRIES: u32 = 5_000;

/// How many windows one answer reads at most before it ends with a `next`.
pub const SCAN_ENTRIES: usize = 300_000;

/// What is known of a series before its windows are read.
#[derive(Debug)]
pub struct SeriesStart {
    /// Whose the rows are.
    pub owner: Arc<Owner>,
    /// The width of its windows.
    pub width_ms: i64,
    /// How far its stream has come.
    pub progress: StreamProgress,
    pub from: EpochMs,
    /// How many rows the answer has room for, at least one.
    pub room_rows: usize,
    /// How many windows the answer has read before, for other series.
    pub read_before: usize,
    /// Whether the answer has rows of other series.
    pub rows_before: bool,
}

/// What to read next of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeriesRead {
    /// The length of the roll-ups to read; nothing: windows.
    pub span_ms: Option<i64>,
    /// From this start on.
    pub from: EpochMs,
    pub to: EpochMs,
    /// How many at most.
    pub entries: u32,
}

/// What came of a series.
#[derive(Debug)]
pub struct SeriesEnd {
    /// Its rows, by start.
    pub rows: Vec<Row>,
    /// Where to go on, if the answer is full before the end.
    pub next: Option<EpochMs>,
    /// How many windows were read.
    pub read: usize,
}

/// Makes rows from what is read of one series.
#[derive(Debug)]
pub struct SeriesRows<'a> {
    query: &'a AggregateQuery,
    start: SeriesStart,
    rest: std::vec::IntoIter<Segment>,
    /// The segment that is read, and from where on.
    reading: Option<(Segment, EpochMs)>,
    /// The span that may not be whole yet.
    open: Option<StoredWindow>,
    end: SeriesEnd,
}

impl<'a> SeriesRows<'a> {
    /// Of none of its windows yet.
    pub fn new(query: &'a AggregateQuery, start: SeriesStart) -> Self {
        let mut rest = query.segments(start.width_ms, start.from).into_iter();
        let reading = rest.next().map(|segment| (segment, segment.from));
        let end = SeriesEnd { rows: vec![], next: None, read: 0 };
        Self { query, start, rest, reading, open: None, end }
    }

    /// What to read, and then to [`SeriesRows::take`]; nothing once that is all.
    pub fn next_read(&self) -> Option<SeriesRead> {
        let (segment, from) = self.reading?;
        // As stored, each window is a row; one more says whether there is more.
        let left = (self.start.room_rows - self.end.rows.len()) as u32 + 1;
        let entries = if self.query.every.is_some() { READ_ENTRIES } else { READ_ENTRIES.min(left) };
        Some(SeriesRead { span_ms: segment.span_ms, from, to: segment.to, entries })
    }

    /// Takes in what was read, and where its segment goes on.
    pub fn take(&mut self, windows: &[StoredWindow], next: Option<EpochMs>) {
        for window in windows {
            if self.is_full() {
                return self.stop(window.start);
            }
            let start = self.query.span_start(window.start);
            match &mut self.open {
                Some(span) if span.start == start => span.merge(window),
                open => {
                    let before = open.replace(StoredWindow { start, ..window.clone() });
                    self.add(before);
                }
            }
            if self.is_full() {
                return self.stop(start);
            }
        }
        self.end.read += windows.len();
        self.reading = match (self.reading, next) {
            (Some((segment, _)), Some(next)) => Some((segment, next)),
            _ => self.rest.next().map(|segment| (segment, segment.from)),
        };
        let read = self.start.read_before + self.end.read;
        let has_rows = self.start.rows_before || !self.end.rows.is_empty();
        if next.is_some()
            && read >= SCAN_ENTRIES
            && has_rows
            && let Some(open) = &self.open
        {
            self.stop(open.start);
        }
    }

    /// What came of it, once nothing is left to read.
    pub fn finish(mut self) -> SeriesEnd {
        if self.end.next.is_none() {
            let last = self.open.take();
            self.add(last);
        }
        self.end
    }

    fn is_full(&self) -> bool {
        self.end.rows.len() >= self.start.room_rows
    }

    fn stop(&mut self, at: EpochMs) {
        (self.end.next, self.reading) = (Some(at), None);
    }

    fn add(&mut self, span: Option<StoredWindow>) {
        let Some(span) = span else { return };
        let SeriesStart { owner, width_ms, progress, .. } = &self.start;
        let mut row = self.query.row(owner, span.start, *width_ms, RowContent::Counted(Arc::new(span)));
        let end = row.start.plus(row.width_ms);
        (row.passed, row.complete) = (progress.passed, progress.is_complete(row.start, end));
        self.end.rows.push(row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::AGGREGATE_PARAMETERS;
    use selvedge_types::aggregate::{Aggregate, Sample};
    use selvedge_types::params::Parameters;

    fn window(start: i64, value: f64) -> StoredWindow {
        StoredWindow {
            start: EpochMs(start),
            aggregate: Aggregate::of(Sample { time: EpochMs(start), slot: 1, index: 0, value }),
            late: 1,
            parts: 2,
            set_aside: 0,
            sequences: Default::default(),
        }
    }

    fn query(every: &str) -> AggregateQuery {
        let given = [("device", "d"), ("every", every)].map(|(k, v)| (k.to_string(), v.to_string()));
        let given = given.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        AggregateQuery::read(&Parameters::new(given, &AGGREGATE_PARAMETERS).unwrap()).unwrap()
    }

    fn start(query: &AggregateQuery, room_rows: usize) -> SeriesStart {
        let owner = Arc::new(Owner::default());
        let progress = StreamProgress::to(query.from);
        SeriesStart {
            owner,
            width_ms: 7_000,
            progress,
            from: query.from,
            room_rows,
            read_before: 0,
            rows_before: false,
        }
    }

    fn told(end: &SeriesEnd) -> Vec<(i64, u64, f64, u64, u64)> {
        let one = |row: &Row| match &row.content {
            RowContent::Counted(w) => {
                (row.start.0, w.aggregate.count, w.aggregate.sum().unwrap(), w.late, w.parts)
            }
            RowContent::Filled(_) => unreachable!("nothing is filled here"),
        };
        end.rows.iter().map(one).collect()
    }

    #[test]
    fn windows_merge_into_spans_page_by_page() {
        let query = query("1m");
        let mut rows = SeriesRows::new(&query, start(&query, 10));
        let read = rows.next_read().unwrap();
        assert_eq!((read.span_ms, read.from, read.entries), (None, query.from, READ_ENTRIES));
        rows.take(&[window(-10_000, 5.0), window(0, 1.0)], Some(EpochMs(10_000)));
        assert_eq!(rows.next_read().unwrap().from, EpochMs(10_000));
        rows.take(&[window(50_000, 3.0), window(120_000, 9.0)], None);
        assert_eq!(rows.next_read(), None);
        let end = rows.finish();
        assert_eq!(told(&end), [(-60_000, 1, 5.0, 1, 2), (0, 2, 4.0, 2, 4), (120_000, 1, 9.0, 1, 2)]);
        assert_eq!((end.next, end.read), (None, 4));
    }

    #[test]
    fn a_full_answer_says_where_to_go_on() {
        let windows = [window(0, 1.0), window(7_000, 2.0), window(14_000, 3.0), window(60_000, 4.0)];
        let narrow = query("");
        let mut rows = SeriesRows::new(&narrow, start(&narrow, 2));
        assert_eq!(rows.next_read().unwrap().entries, 3, "one more than there is room for");
        rows.take(&windows[..3], Some(EpochMs(21_000)));
        assert_eq!(rows.next_read(), None);
        let end = rows.finish();
        assert_eq!((end.rows.len(), end.next), (2, Some(EpochMs(14_000))));
        let wide = query("1m");
        let mut rows = SeriesRows::new(&wide, start(&wide, 1));
        rows.take(&windows, None);
        let end = rows.finish();
        assert_eq!((told(&end), end.next), (vec![(0, 3, 6.0, 3, 6)], Some(EpochMs(60_000))));
    }

    #[test]
    fn an_answer_that_has_read_enough_ends_before_its_open_span() {
        let query = query("1m");
        for (rows_before, next) in [(true, Some(EpochMs(0))), (false, None)] {
            let begun = SeriesStart { read_before: SCAN_ENTRIES, rows_before, ..start(&query, 10) };
            let mut rows = SeriesRows::new(&query, begun);
            rows.take(&[window(0, 1.0)], Some(EpochMs(7_000)));
            assert_eq!(rows.next_read().is_none(), rows_before);
            assert_eq!(rows.finish().next, next, "without a row the answer would never get on");
        }
    }
}
