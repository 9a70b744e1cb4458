//! `/v1/aggregates`: the windows of devices' streams, as stored or merged upwards, or merged over streams.

use super::answer::{self, MAX_ANSWER_BYTES};
use super::problem::Failure;
use super::routes::Asker;
use super::{Api, Given, merged};
use crate::logic::access::Caller;
use crate::logic::query::{
    AGGREGATE_PARAMETERS, AggregateQuery, BadParameter, GroupBy, Parameters, Place, Spans, bad,
};
use crate::logic::row::{Content, More, Owner, Row, RowTable};
use crate::store::find::Seek;
use crate::store::{SeriesInfo, StoredWindow};
use actix_web::{HttpRequest, HttpResponse, web};
use selvedge_shared::time::EpochMs;
use std::sync::Arc;

/// How many series, over all their widths, a query is about at most.
pub const MAX_SERIES_ENTRIES: u32 = 100_000;

/// How many windows are read at a time.
pub(super) const READ_ENTRIES: u32 = 5_000;

/// How many windows one answer reads at most before it ends with a `next`.
pub const SCAN_ENTRIES: usize = 300_000;

/// For how many windows a series counts in which nothing is found.
const SEEK_ENTRIES: usize = 20;

pub(super) async fn aggregates(
    api: web::Data<Api>,
    Asker(caller): Asker,
    request: HttpRequest,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &AGGREGATE_PARAMETERS)?;
    let form = answer::form(&request, &p)?;
    let query = AggregateQuery::read(&p)?;
    let (table, next) = select(&api, &caller, &query).await?;
    Ok(answer::rows(&request, form, "aggregates", &table, next.map(|place| place.to_string()), None))
}

/// Answers a query: rows, and where to go on.
pub async fn select(
    api: &Api,
    caller: &Caller,
    query: &AggregateQuery,
) -> Result<(RowTable, Option<Place>), Failure> {
    let seek = Seek { sites: caller.sites.clone(), wanted: query.wanted.clone() };
    let chosen = query.choose(series(api, &seek).await?)?;
    let merges = query.group != GroupBy::ALL;
    let more = More { spans: query.every_ms.is_some(), merged: merges, filled: query.fill.is_some() };
    let mut table = RowTable::new(query.functions.as_deref(), more);
    let next = if merges {
        let (rows, next) = merged::merged(api, query, &chosen, &table).await?;
        table.rows = rows;
        next
    } else {
        apart(api, query, &chosen, &mut table).await?
    };
    Ok((table, next))
}

/// The series that are wanted, of which there are not too many.
pub(super) async fn series(api: &Api, seek: &Seek) -> Result<Vec<SeriesInfo>, Failure> {
    let series = api.reader.find(seek, MAX_SERIES_ENTRIES + 1).await?;
    if series.len() > MAX_SERIES_ENTRIES as usize {
        let why = format!(
            "there are more than {MAX_SERIES_ENTRIES} streams; say which, or which `site` or `device`"
        );
        return Err(bad("stream", why).into());
    }
    Ok(series)
}

/// That `after` does not go with the rest.
pub(super) fn of_another_query() -> Failure {
    let why = "belongs to another query; give it with all the parameters that it came from";
    BadParameter { parameter: "after".into(), why: why.into() }.into()
}

/// Each series for itself; says where to go on if the answer is full before the end.
async fn apart(
    api: &Api,
    query: &AggregateQuery,
    chosen: &[SeriesInfo],
    table: &mut RowTable,
) -> Result<Option<Place>, Failure> {
    let resume = query.after.map(|after| chosen.iter().position(|s| s.id == after.series));
    if resume == Some(None) {
        return Err(of_another_query());
    }
    let (mut scanned, mut bytes, limit) = (0, 0, query.limit as usize);
    for one in chosen.iter().skip(resume.flatten().unwrap_or(0)) {
        let here = Place { series: one.id, start: query.from };
        if scanned >= SCAN_ENTRIES {
            return Ok(Some(here));
        }
        let before = table.rows.len();
        let owner = Arc::new(query.group.owner(one));
        let row_bytes = table.row_bytes(&owner);
        let room = (limit - before).min((MAX_ANSWER_BYTES - bytes) / row_bytes);
        if room == 0 && before > 0 {
            return Ok(Some(here));
        }
        if let Some(fill) = query.fill {
            // A stream is told in one piece, so that what fills its gaps does not depend on where a page ends.
            let spans = query.spans();
            if spans > room as i64 && before > 0 {
                return Ok(Some(here));
            }
            let mut rows = vec![];
            let mut its_own = 0;
            if read(api, query, one, &owner, query.from, limit, &mut its_own, &mut rows).await?.is_some() {
                let why = format!(
                    "and `from` to `to` would read more than {SCAN_ENTRIES} windows of one stream; ask for a shorter time"
                );
                return Err(bad("every", why).into());
            }
            scanned += its_own;
            table.rows.extend(fill.rows(rows, query));
        } else {
            let after = query.after.filter(|after| after.series == one.id);
            let from = after.map_or(query.from, |after| query.from.max(after.start));
            let full = before + room.max(1);
            let next = read(api, query, one, &owner, from, full, &mut scanned, &mut table.rows).await?;
            if let Some(start) = next {
                return Ok(Some(Place { series: one.id, start }));
            }
        }
        bytes = MAX_ANSWER_BYTES.min(bytes + (table.rows.len() - before) * row_bytes);
        scanned += SEEK_ENTRIES;
    }
    Ok(None)
}

/// Adds the spans of one series until there are `limit` rows; says where to go on if that is before its end.
#[expect(clippy::too_many_arguments, reason = "the state of one loop over series")]
async fn read(
    api: &Api,
    query: &AggregateQuery,
    series: &SeriesInfo,
    owner: &Arc<Owner>,
    from: EpochMs,
    limit: usize,
    scanned: &mut usize,
    out: &mut Vec<Row>,
) -> Result<Option<EpochMs>, Failure> {
    let mut spans = Spans::default();
    let width_ms = query.every_ms.unwrap_or(series.width_ms);
    let progress = api.reader.progress(series).await?;
    let row = |window: StoredWindow| Row {
        owner: owner.clone(),
        start: window.start,
        width_ms,
        streams: 1,
        passed: progress.passed,
        complete: progress.is_complete(window.start, window.start.plus(width_ms)),
        partial: query.is_cut(window.start),
        content: Content::Counted(Arc::new(window)),
    };
    for segment in query.segments(series.width_ms, from) {
        let mut from = Some(segment.from);
        while let Some(start) = from {
            // As stored, each window is a row; one more says whether there is more.
            let left = (limit - out.len()) as u32 + 1;
            let entries = if query.every_ms.is_some() { READ_ENTRIES } else { READ_ENTRIES.min(left) };
            let page = match segment.span_ms {
                Some(span) => api.reader.rollups(series.id, span, start, segment.to, entries).await?,
                None => api.reader.windows(series.id, start, segment.to, entries).await?,
            };
            for window in &page.rows {
                if out.len() >= limit {
                    return Ok(Some(window.start));
                }
                out.extend(spans.push(query.span_start(window.start), window).map(row));
                if out.len() >= limit {
                    return Ok(spans.open_start());
                }
            }
            *scanned += page.rows.len();
            from = page.next;
            if from.is_some()
                && *scanned >= SCAN_ENTRIES
                && let Some(start) = spans.open_start().filter(|_| !out.is_empty())
            {
                return Ok(Some(start));
            }
        }
    }
    out.extend(spans.finish().map(row));
    Ok(None)
}
