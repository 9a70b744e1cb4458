//! `/v1/aggregates?group_by=...`: streams merged with each other, span by span, from roll-ups where there are any and
//! from windows elsewhere.
//!
//! Rows are read in the order of time, so that memory holds only one span: one row of each series with readings in it.
//! A merged row is complete when each of these series has passed the end of the span.

use super::answer::MAX_ANSWER_BYTES;
use super::problem::Failure;
use super::scan::of_another_query;
use super::{Api, in_order::InOrder};
use selvedge_node_core::fill::Fill;
use selvedge_node_core::owner::Owner;
use selvedge_node_core::params::WindowPlace;
use selvedge_node_core::passed::StreamProgress;
use selvedge_node_core::query::AggregateQuery;
use selvedge_node_core::row::{Row, RowContent, RowTable};
use selvedge_node_core::series_rows::{READ_ENTRIES, SCAN_ENTRIES};
use selvedge_node_core::stored::{SeriesInfo, StoredWindow};
use selvedge_types::params::bad;
use selvedge_types::time::EpochMs;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Reads the rows in the order of time. Returns where to continue if the answer is full before the end.
pub(super) async fn merged(
    api: &Api,
    query: &AggregateQuery,
    chosen: &[SeriesInfo],
    table: &RowTable,
) -> Result<(Vec<Row>, Option<WindowPlace>), Failure> {
    // `next` names a group by its lowest series.
    let mut lowest: HashMap<Owner, i64> = HashMap::new();
    for one in chosen {
        let id = lowest.entry(query.group.owner(one)).or_insert(one.id);
        *id = one.id.min(*id);
    }
    if query.after.is_some_and(|after| query.fill.is_some() || !lowest.values().any(|id| *id == after.series))
    {
        return Err(of_another_query());
    }
    let (groups, spans, limit) = (lowest.len() as i64, query.spans(), i64::from(query.limit));
    if query.fill.is_some() && groups.saturating_mul(spans) > limit {
        let why = format!(
            "{limit} is less than {spans} spans of {groups} groups: one answer has to hold all rows that are merged and filled"
        );
        return Err(bad("limit", why).into());
    }
    let groups = lowest.into_iter().map(|(owner, id)| {
        let row_bytes = table.row_bytes(&owner);
        (id, Group { owner: Arc::new(owner), row_bytes })
    });
    let groups: BTreeMap<i64, Group> = groups.collect();
    let by_owner: HashMap<&Owner, i64> = groups.iter().map(|(id, group)| (&*group.owner, *id)).collect();
    let series = chosen.iter().filter_map(|one| Some((one.id, *by_owner.get(&query.group.owner(one))?)));
    let progress = api.reader.progress_of(chosen.iter()).await?;
    let series = series.collect();
    let mut answer = Answer { query, series, progress, groups: &groups, rows: vec![], bytes: 0 };
    let next = read(api, query, chosen, &mut answer).await?;
    let rows = answer.rows;
    match (query.fill, next) {
        (None, next) => Ok((rows.into_iter().map(|(_, row)| row).collect(), next)),
        (Some(fill), None) => Ok((filled(query, fill, rows), None)),
        (Some(_), Some(_)) => {
            let why = format!(
                "and `from` to `to` would read more than {SCAN_ENTRIES} windows or roll-ups; ask for a shorter time"
            );
            Err(bad("every", why).into())
        }
    }
}

async fn read(
    api: &Api,
    query: &AggregateQuery,
    chosen: &[SeriesInfo],
    answer: &mut Answer<'_>,
) -> Result<Option<WindowPlace>, Failure> {
    let from = query.after.map_or(query.from, |after| query.from.max(query.span_start(after.start)));
    let segments = query.merged_segments(chosen, from)?;
    let mut source = InOrder::new(api, query, chosen, segments);
    let (mut open, mut spans, mut scanned) = (None, BTreeMap::new(), 0);
    while let Some(page) = source.page(READ_ENTRIES).await? {
        for (id, window) in &page {
            let start = query.span_start(window.start);
            if open.is_some_and(|open| open != start) {
                let next = answer.span(std::mem::take(&mut spans));
                if next.is_some() || answer.is_full() || scanned >= SCAN_ENTRIES {
                    let first = || answer.groups.keys().next().map(|id| WindowPlace { series: *id, start });
                    return Ok(next.or_else(first));
                }
            }
            open = Some(start);
            if answer.series.contains_key(id) {
                let new = || StoredWindow { start, ..window.clone() };
                spans.entry(*id).and_modify(|span| span.merge(window)).or_insert_with(new);
            }
        }
        scanned += page.len();
    }
    Ok(answer.span(spans))
}

struct Group {
    owner: Arc<Owner>,
    row_bytes: usize,
}

struct Answer<'a> {
    query: &'a AggregateQuery,
    /// The group of each series, named by its lowest series.
    series: HashMap<i64, i64>,
    /// How far the stream of each series has come.
    progress: HashMap<i64, StreamProgress>,
    /// By the lowest series of each group.
    groups: &'a BTreeMap<i64, Group>,
    /// Each row with its group.
    rows: Vec<(i64, Row)>,
    bytes: usize,
}

/// One span, merged over several streams.
struct Merged {
    streams: u64,
    /// How far the stream that is furthest behind has come.
    passed: EpochMs,
    /// Whether the span is complete in every stream.
    complete: bool,
    span: StoredWindow,
}

impl Merged {
    fn merge(&mut self, other: &Self) {
        self.streams += other.streams;
        self.passed = self.passed.min(other.passed);
        self.complete &= other.complete;
        self.span.merge(&other.span);
    }
}

impl Answer<'_> {
    fn is_full(&self) -> bool {
        self.rows.len() >= self.query.limit as usize || self.bytes >= MAX_ANSWER_BYTES
    }

    /// Adds the rows of one span, in the order of groups. Returns where to continue if they do not all fit.
    fn span(&mut self, spans: BTreeMap<i64, StoredWindow>) -> Option<WindowPlace> {
        let mut groups: BTreeMap<i64, Merged> = BTreeMap::new();
        for (id, span) in spans {
            let (Some(group), Some(progress)) = (self.series.get(&id), self.progress.get(&id)) else {
                continue;
            };
            let end = self.query.every.as_ref().map_or(span.start, |every| every.end(span.start));
            let complete = progress.is_complete(span.start, end);
            let one = Merged { streams: 1, passed: progress.passed, complete, span };
            match groups.entry(*group) {
                Entry::Vacant(place) => drop(place.insert(one)),
                Entry::Occupied(mut place) => place.get_mut().merge(&one),
            }
        }
        for (id, Merged { streams, passed, complete, span }) in groups {
            let start = span.start;
            let told_before =
                |after: WindowPlace| span.start == self.query.span_start(after.start) && id < after.series;
            if self.query.after.is_some_and(told_before) {
                continue;
            }
            if self.is_full() {
                return Some(WindowPlace { series: id, start: span.start });
            }
            let Some(group) = self.groups.get(&id) else { continue };
            self.bytes += group.row_bytes;
            let content = RowContent::Counted(Arc::new(span));
            let row = self.query.row(&group.owner, start, 0, content);
            let row = Row { streams, passed, complete, ..row };
            self.rows.push((id, row));
        }
        None
    }
}

/// Fills the gaps of each group that has a row, and keeps the order of time.
fn filled(query: &AggregateQuery, fill: Fill, rows: Vec<(i64, Row)>) -> Vec<Row> {
    let mut groups: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
    for (group, row) in rows {
        groups.entry(group).or_default().push(row);
    }
    let mut all: Vec<Row> = groups.into_values().flat_map(|rows| query.filled(fill, rows)).collect();
    all.sort_by_key(|row| row.start);
    all
}
