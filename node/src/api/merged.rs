//! `/v1/aggregates?group=...`: a stream of many devices merged, span by span, from roll-ups.
//!
//! Roll-ups are read in order of time, so that only one span is in memory: one row of each series that has something
//! in it. A row is complete when each of these has passed the end of the span.

use super::aggregates::{Owner, READ_ENTRIES, Row, SCAN_ENTRIES, of_another_query, row};
use super::{Api, Failure};
use crate::logic::query::{AggregateQuery, Group, Place, merge};
use crate::store::{SeriesInfo, StoredWindow, WindowKey};
use std::collections::{BTreeMap, HashMap};

/// What is merged: a stream, and its site unless all sites are. Known to `next` by its lowest series.
type Groups<'a> = HashMap<(Option<&'a str>, &'a str), i64>;

/// The rows in order of time; says where to go on if the answer is full before the end.
pub(super) async fn merged(
    api: &Api,
    query: &AggregateQuery,
    chosen: &[SeriesInfo],
) -> Result<(Vec<Row>, Option<Place>), Failure> {
    let mut groups = Groups::new();
    for one in chosen {
        let id = groups.entry(key(query, one)).or_insert(one.id);
        *id = one.id.min(*id);
    }
    if query.after.is_some_and(|after| !groups.values().any(|id| *id == after.series)) {
        return Err(of_another_query());
    }
    let mut answer = Answer { query, series: HashMap::new(), rows: vec![] };
    for one in chosen {
        let group = groups.get(&key(query, one)).copied().unwrap_or(one.id);
        answer.series.insert(one.id, (group, one));
    }
    let (site, stream) = (query.site.as_deref(), query.stream.as_deref());
    let from = query.after.map_or(query.from, |after| query.from.max(query.span_start(after.start)));
    let (mut open, mut spans, mut scanned) = (None, BTreeMap::new(), 0);
    for (span_ms, segment) in query.rollups(from) {
        let mut after = Some(WindowKey { series: 0, start: segment.from });
        while let Some(place) = after {
            let page =
                api.reader.rollups_of_all(span_ms, place, segment.to, site, stream, READ_ENTRIES).await?;
            for (id, window) in &page {
                let start = query.span_start(window.start);
                if open.is_some_and(|open| open != start) {
                    let next = answer.span(std::mem::take(&mut spans));
                    if next.is_some() || answer.is_full() || scanned >= SCAN_ENTRIES {
                        let first = || answer.first_group().map(|series| Place { series, start });
                        let next = next.or_else(first);
                        return Ok((answer.rows, next));
                    }
                }
                open = Some(start);
                if answer.series.contains_key(id) {
                    let new = || StoredWindow { start, ..window.clone() };
                    spans.entry(*id).and_modify(|span| merge(span, window)).or_insert_with(new);
                }
            }
            scanned += page.len();
            let last = page.last().filter(|_| page.len() == READ_ENTRIES as usize);
            after = last.map(|(series, window)| WindowKey { series: *series, start: window.start });
        }
    }
    let next = answer.span(spans);
    Ok((answer.rows, next))
}

fn key<'a>(query: &AggregateQuery, series: &'a SeriesInfo) -> (Option<&'a str>, &'a str) {
    ((query.group == Group::Site).then_some(series.site.as_str()), series.stream.as_str())
}

struct Answer<'a> {
    query: &'a AggregateQuery,
    /// Each with its group.
    series: HashMap<i64, (i64, &'a SeriesInfo)>,
    rows: Vec<Row>,
}

impl Answer<'_> {
    fn is_full(&self) -> bool {
        self.rows.len() >= self.query.limit as usize
    }

    /// Where a span starts to be told.
    fn first_group(&self) -> Option<i64> {
        self.series.values().map(|(group, _)| *group).min()
    }

    /// Adds the rows of one span, by their groups; says where to go on if they are too many.
    fn span(&mut self, spans: BTreeMap<i64, StoredWindow>) -> Option<Place> {
        let mut groups: BTreeMap<i64, (usize, StoredWindow)> = BTreeMap::new();
        for (id, window) in spans {
            let Some((group, _)) = self.series.get(&id) else { continue };
            let merge_in = |(devices, span): &mut (usize, StoredWindow)| {
                let behind = span.watermark.min(window.watermark);
                merge(span, &window);
                span.watermark = behind;
                *devices += 1;
            };
            groups.entry(*group).and_modify(merge_in).or_insert((1, window));
        }
        for (group, (devices, span)) in groups {
            let told_before =
                |after: Place| span.start == self.query.span_start(after.start) && group < after.series;
            if self.query.after.is_some_and(told_before) {
                continue;
            }
            if self.is_full() {
                return Some(Place { series: group, start: span.start });
            }
            let Some((_, one)) = self.series.get(&group) else { continue };
            let site = (self.query.group == Group::Site).then(|| one.site.clone());
            let owner = Owner { site, device: None, stream: one.stream.clone(), devices: Some(devices) };
            self.rows.push(row(owner, self.query.every_ms.unwrap_or_default(), &span));
        }
        None
    }
}
