//! `/v1/aggregates`: the windows of devices' streams, as stored or merged upwards, or merged over streams.

use super::answer::{self, MAX_ANSWER_BYTES};
use super::problem::Failure;
use super::routes::Asker;
use super::scan::of_another_query;
use super::whole::{self, Pages};
use super::{Api, Given, merged};
use crate::store::find::Seek;
use actix_web::{HttpRequest, HttpResponse, web};
use selvedge_guard::access::Caller;
use selvedge_node_core::grid::Grid;
use selvedge_node_core::owner::GroupBy;
use selvedge_node_core::params::WindowPlace;
use selvedge_node_core::query::{AGGREGATE_PARAMETERS, AggregateQuery};
use selvedge_node_core::row::{More, RowTable};
use selvedge_node_core::series_rows::{SCAN_ENTRIES, SeriesEnd, SeriesRead, SeriesRows, SeriesStart};
use selvedge_node_core::stored::SeriesInfo;
use selvedge_types::params::{MAX_LIMIT_ENTRIES, Parameters, bad};
use std::sync::Arc;

/// The most series, over all their widths, that one query may match.
pub const MAX_SERIES_ENTRIES: u32 = 100_000;

/// Each series counts as this many scanned windows, besides those found.
const SEEK_ENTRIES: usize = 20;

pub(super) async fn aggregates(
    api: web::Data<Api>,
    Asker(caller): Asker,
    request: HttpRequest,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &AGGREGATE_PARAMETERS)?;
    let form = answer::form(&request, &p)?;
    let mut query = AggregateQuery::read(&p)?;
    let page = answer::is_page(form, &p);
    if !page {
        query.limit = MAX_LIMIT_ENTRIES;
    }
    let plan = Plan::new(&api, &caller, query).await?;
    if page {
        let (table, next) = plan.page(&api).await?;
        return Ok(answer::rows(
            &request,
            form,
            "aggregates",
            &table,
            next.map(|place| place.to_string()),
            None,
        ));
    }
    let pages = AllPages { api: api.clone(), plan: Some(plan) };
    whole::rows(&api, form, pages).await
}

/// A query with the series that answer it.
struct Plan {
    query: AggregateQuery,
    chosen: Vec<SeriesInfo>,
}

impl Plan {
    async fn new(api: &Api, caller: &Caller, query: AggregateQuery) -> Result<Self, Failure> {
        let seek = Seek { sites: caller.sites.clone(), wanted: query.wanted.clone() };
        let chosen = query.choose(series(api, &seek).await?)?;
        Ok(Self { query, chosen })
    }

    /// Reads one page. Returns where the next one begins.
    async fn page(&self, api: &Api) -> Result<(RowTable, Option<WindowPlace>), Failure> {
        let query = &self.query;
        let (merged, filled) = (query.group != GroupBy::ALL, query.fill.is_some());
        let zone = query.every.as_ref().is_some_and(Grid::has_zone);
        let more = More { zone, spans: query.every.is_some(), merged, filled };
        let mut table = RowTable::new(query.functions.as_deref(), more);
        let next = if merged {
            let (rows, next) = merged::merged(api, query, &self.chosen, &table).await?;
            table.rows = rows;
            next
        } else {
            apart(api, query, &self.chosen, &mut table).await?
        };
        Ok((table, next))
    }
}

/// All pages of a query.
struct AllPages {
    api: web::Data<Api>,
    /// The rest of the query; `None` after the last page.
    plan: Option<Plan>,
}

impl Pages for AllPages {
    type Page = RowTable;

    async fn next(&mut self) -> Result<Option<RowTable>, Failure> {
        let Some(mut plan) = self.plan.take() else { return Ok(None) };
        let (table, next) = plan.page(&self.api).await?;
        if next.is_some() {
            plan.query.after = next;
            self.plan = Some(plan);
        }
        Ok(Some(table))
    }
}

/// The wanted series; an error if there are too many.
pub(super) async fn series(api: &Api, seek: &Seek) -> Result<Vec<SeriesInfo>, Failure> {
    let series = api.reader.find(seek, MAX_SERIES_ENTRIES + 1).await?;
    if series.len() > MAX_SERIES_ENTRIES as usize {
        let why =
            format!("more than {MAX_SERIES_ENTRIES} streams match; name fewer, or give `site` or `device`");
        return Err(bad("stream", why).into());
    }
    Ok(series)
}

/// Reads one series after the other. Returns where to continue if the answer is full before the end.
async fn apart(
    api: &Api,
    query: &AggregateQuery,
    chosen: &[SeriesInfo],
    table: &mut RowTable,
) -> Result<Option<WindowPlace>, Failure> {
    let resume = query.after.map(|after| chosen.iter().position(|s| s.id == after.series));
    if resume == Some(None) {
        return Err(of_another_query());
    }
    let (mut scanned, mut bytes, limit) = (0, 0, query.limit as usize);
    for one in chosen.iter().skip(resume.flatten().unwrap_or(0)) {
        let here = WindowPlace { series: one.id, start: query.from };
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
        let progress = api.reader.progress(one).await?;
        let start = |from, room_rows, read_before| SeriesStart {
            owner,
            width_ms: one.width_ms,
            progress,
            from,
            room_rows,
            read_before,
            rows_before: before > 0 && query.fill.is_none(),
        };
        if let Some(fill) = query.fill {
            // All rows of a stream come in one page, so that the values that fill its gaps do not depend on where a
            // page ends.
            let spans = query.spans();
            if spans > room as i64 && before > 0 {
                return Ok(Some(here));
            }
            let end = read(api, query, one, start(query.from, limit, 0)).await?;
            if end.next.is_some() {
                let why = format!(
                    "and `from` to `to` would read more than {SCAN_ENTRIES} windows of one stream; ask for a shorter time"
                );
                return Err(bad("every", why).into());
            }
            scanned += end.read;
            table.rows.extend(query.filled(fill, end.rows));
        } else {
            let after = query.after.filter(|after| after.series == one.id);
            let from = after.map_or(query.from, |after| query.from.max(after.start));
            let end = read(api, query, one, start(from, room.max(1), scanned)).await?;
            scanned += end.read;
            table.rows.extend(end.rows);
            if let Some(start) = end.next {
                return Ok(Some(WindowPlace { series: one.id, start }));
            }
        }
        bytes = MAX_ANSWER_BYTES.min(bytes + (table.rows.len() - before) * row_bytes);
        scanned += SEEK_ENTRIES;
    }
    Ok(None)
}

/// Reads the rows of one series.
async fn read(
    api: &Api,
    query: &AggregateQuery,
    series: &SeriesInfo,
    start: SeriesStart,
) -> Result<SeriesEnd, Failure> {
    let mut rows = SeriesRows::new(query, start);
    while let Some(SeriesRead { span_ms, from, to, entries }) = rows.next_read() {
        let page = match span_ms {
            Some(span) => api.reader.rollups(series.id, span, from, to, entries).await?,
            None => api.reader.windows(series.id, from, to, entries).await?,
        };
        rows.take(&page.rows, page.next);
    }
    Ok(rows.finish())
}
