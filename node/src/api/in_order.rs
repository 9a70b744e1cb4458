//! Reads windows and roll-ups of many series in the order of time.

use super::Api;
use super::problem::Failure;
use crate::store::{RowPage, WindowKey};
use selvedge_node_core::query::AggregateQuery;
use selvedge_node_core::rollup::Segment;
use selvedge_node_core::stored::{SeriesInfo, StoredWindow};
use selvedge_types::time::EpochMs;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// The most series of named devices that are looked up in roll-ups one by one, rather than by reading the roll-ups of
/// all series.
const FEW_ENTRIES: usize = 64;

/// The most rows held for all series together while they are merged by time.
const HELD_ENTRIES: usize = 50_000;

/// The fewest rows that are read of a series at a time.
const MIN_READ_ENTRIES: usize = 10;

/// Reads one segment after the other.
pub(super) struct InOrder<'a> {
    api: &'a Api,
    query: &'a AggregateQuery,
    chosen: &'a [SeriesInfo],
    segments: std::vec::IntoIter<Segment>,
    now: Option<Now>,
}

enum Now {
    /// Reads the roll-ups of all series, wanted or not, as one range of the database.
    Whole { segment: Segment, span_ms: i64, after: WindowKey },
    /// Reads each chosen series by itself.
    Each { segment: Segment, heads: Vec<Head>, first: BinaryHeap<Reverse<(EpochMs, i64, usize)>> },
}

struct Head {
    series: i64,
    rows: VecDeque<StoredWindow>,
    next: Option<EpochMs>,
}

impl<'a> InOrder<'a> {
    pub(super) fn new(
        api: &'a Api,
        query: &'a AggregateQuery,
        chosen: &'a [SeriesInfo],
        segments: Vec<Segment>,
    ) -> Self {
        Self { api, query, chosen, segments: segments.into_iter(), now: None }
    }

    /// The next rows with their series, at most `limit`, in the order of start and series; `None` at the end. They may
    /// include rows of series that are not chosen.
    pub(super) async fn page(&mut self, limit: u32) -> Result<Option<Vec<(i64, StoredWindow)>>, Failure> {
        loop {
            let Some(mut now) = self.now.take() else {
                let Some(segment) = self.segments.next() else { return Ok(None) };
                self.now = Some(self.start(segment).await?);
                continue;
            };
            let page = match &mut now {
                Now::Whole { segment, span_ms, after } => {
                    self.whole(*segment, *span_ms, after, limit).await?
                }
                Now::Each { segment, heads, first } => self.each(*segment, heads, first, limit).await?,
            };
            if !page.is_empty() {
                self.now = Some(now);
                return Ok(Some(page));
            }
        }
    }

    async fn start(&self, segment: Segment) -> Result<Now, Failure> {
        let few = self.query.wanted.device.is_some() && self.chosen.len() <= FEW_ENTRIES;
        if let Some(span_ms) = segment.span_ms.filter(|_| !few) {
            return Ok(Now::Whole { segment, span_ms, after: WindowKey { series: 0, start: segment.from } });
        }
        let (mut heads, mut first) = (vec![], BinaryHeap::new());
        for one in self.chosen {
            let mut head = Head { series: one.id, rows: VecDeque::new(), next: Some(segment.from) };
            self.refill(segment, &mut head).await?;
            if let Some(row) = head.rows.front() {
                first.push(Reverse((row.start, one.id, heads.len())));
                heads.push(head);
            }
        }
        Ok(Now::Each { segment, heads, first })
    }

    async fn whole(
        &self,
        segment: Segment,
        span_ms: i64,
        after: &mut WindowKey,
        limit: u32,
    ) -> Result<Vec<(i64, StoredWindow)>, Failure> {
        let exact = |pattern: &'a Option<selvedge_types::pattern::Pattern>| {
            pattern.as_ref().and_then(selvedge_types::pattern::Pattern::exact)
        };
        let (site, stream) = (exact(&self.query.wanted.site), exact(&self.query.wanted.stream));
        let page = self.api.reader.rollups_of_all(span_ms, *after, segment.to, site, stream, limit).await?;
        if let Some((series, window)) = page.last() {
            *after = WindowKey { series: *series, start: window.start };
        }
        Ok(page)
    }

    async fn each(
        &self,
        segment: Segment,
        heads: &mut [Head],
        first: &mut BinaryHeap<Reverse<(EpochMs, i64, usize)>>,
        limit: u32,
    ) -> Result<Vec<(i64, StoredWindow)>, Failure> {
        let mut page = vec![];
        while page.len() < limit as usize
            && let Some(Reverse((_, series, at))) = first.pop()
        {
            let Some(head) = heads.get_mut(at) else { continue };
            page.extend(head.rows.pop_front().map(|row| (series, row)));
            self.refill(segment, head).await?;
            first.extend(head.rows.front().map(|row| Reverse((row.start, series, at))));
        }
        Ok(page)
    }

    async fn refill(&self, segment: Segment, head: &mut Head) -> Result<(), Failure> {
        let entries = (HELD_ENTRIES / self.chosen.len().max(1)).clamp(MIN_READ_ENTRIES, 1_000) as u32;
        while head.rows.is_empty()
            && let Some(start) = head.next
        {
            let RowPage { rows, next } = match segment.span_ms {
                Some(span) => self.api.reader.rollups(head.series, span, start, segment.to, entries).await?,
                None => self.api.reader.windows(head.series, start, segment.to, entries).await?,
            };
            head.rows = rows.into();
            head.next = next;
        }
        Ok(())
    }
}
