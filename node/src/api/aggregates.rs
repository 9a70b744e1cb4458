//! `/v1/aggregates`: the windows of devices' streams, as stored or merged upwards, or merged over devices.

use super::{Api, Failure, Given, merged};
use crate::logic::query::{AggregateQuery, BadParameter, Group, Place, Spans};
use crate::store::{SeriesInfo, StoredWindow};
use actix_web::{HttpResponse, web};
use selvedge_shared::aggregate::Sample;
use selvedge_shared::time::EpochMs;
use serde::Serialize;

/// How many series, over all their widths, a query is about at most.
const MAX_SERIES_ENTRIES: u32 = 100_000;

/// How many windows are read at a time.
pub(super) const READ_ENTRIES: u32 = 5_000;

/// How many windows one answer reads at most before it ends with a `next`.
pub(super) const SCAN_ENTRIES: usize = 300_000;

/// For how many windows a series counts in which nothing is found.
const SEEK_ENTRIES: usize = 20;

#[derive(Serialize)]
struct Answer {
    aggregates: Vec<Row>,
    /// Whether there is more.
    truncated: bool,
    /// What to give as `after` to get it.
    next: Option<String>,
}

/// Whose readings a row holds.
#[derive(Serialize)]
pub(super) struct Owner {
    /// Nothing if sites are merged.
    pub site: Option<String>,
    /// Nothing if devices are merged.
    pub device: Option<String>,
    pub stream: String,
    /// Of how many devices, if they are merged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    owner: Owner,
    start: String,
    start_ms: i64,
    width_ms: i64,
    count: u64,
    sum: Option<f64>,
    mean: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    stddev: Option<f64>,
    first: Point,
    last: Point,
    late: u64,
    parts: u64,
    fingerprint: String,
    watermark: String,
    watermark_ms: i64,
    complete: bool,
}

#[derive(Serialize)]
struct Point {
    time: String,
    time_ms: i64,
    value: Option<f64>,
}

pub(super) async fn aggregates(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    let query = AggregateQuery::read(given.into_inner())?;
    let (site, device, stream) = (query.site.as_deref(), query.device.as_deref(), query.stream.as_deref());
    let series = api.reader.series(site, device, stream, MAX_SERIES_ENTRIES + 1).await?;
    if series.len() > MAX_SERIES_ENTRIES as usize {
        let why = format!(
            "there are more than {MAX_SERIES_ENTRIES} streams; say which, or which `site` or `device`"
        );
        return Err(BadParameter { parameter: "stream".into(), why }.into());
    }
    let chosen = query.choose(series)?;
    let (aggregates, next) = match query.group {
        Group::Device => apart(&api, &query, &chosen).await?,
        Group::Site | Group::All => merged::merged(&api, &query, &chosen).await?,
    };
    Ok(HttpResponse::Ok().json(Answer {
        aggregates,
        truncated: next.is_some(),
        next: next.map(|place| place.to_string()),
    }))
}

/// That `after` does not go with the rest.
pub(super) fn of_another_query() -> Failure {
    let why = "belongs to another query; give it with the same device, stream, every, group and width";
    BadParameter { parameter: "after".into(), why: why.into() }.into()
}

/// Each series for itself; says where to go on if the answer is full before the end.
async fn apart(
    api: &Api,
    query: &AggregateQuery,
    chosen: &[SeriesInfo],
) -> Result<(Vec<Row>, Option<Place>), Failure> {
    let resume = query.after.map(|after| chosen.iter().position(|s| s.id == after.series));
    if resume == Some(None) {
        return Err(of_another_query());
    }
    let (mut rows, mut scanned) = (vec![], 0);
    for one in chosen.iter().skip(resume.flatten().unwrap_or(0)) {
        if scanned >= SCAN_ENTRIES {
            return Ok((rows, Some(Place { series: one.id, start: query.from })));
        }
        let after = query.after.filter(|after| after.series == one.id);
        let from = after.map_or(query.from, |after| query.from.max(after.start));
        if let Some(start) = read(api, query, one, from, &mut scanned, &mut rows).await? {
            return Ok((rows, Some(Place { series: one.id, start })));
        }
        scanned += SEEK_ENTRIES;
    }
    Ok((rows, None))
}

/// Adds the spans of one series; says where to go on if the answer is full before its end.
async fn read(
    api: &Api,
    query: &AggregateQuery,
    series: &SeriesInfo,
    from: EpochMs,
    scanned: &mut usize,
    out: &mut Vec<Row>,
) -> Result<Option<EpochMs>, Failure> {
    let mut spans = Spans::default();
    let limit = query.limit as usize;
    let width = query.every_ms.unwrap_or(series.width_ms);
    let row = |span: &StoredWindow| {
        let (site, device) = (Some(series.site.clone()), Some(series.device.clone()));
        row(Owner { site, device, stream: series.stream.clone(), devices: None }, width, span)
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
                out.extend(spans.push(query.span_start(window.start), window).map(|s| row(&s)));
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
    out.extend(spans.finish().map(|s| row(&s)));
    Ok(None)
}

pub(super) fn row(owner: Owner, width_ms: i64, window: &StoredWindow) -> Row {
    let a = &window.aggregate;
    let finite = |value: f64| value.is_finite().then_some(value);
    let point = |s: &Sample| Point { time: s.time.to_string(), time_ms: s.time.0, value: finite(s.value) };
    Row {
        owner,
        start: window.start.to_string(),
        start_ms: window.start.0,
        width_ms,
        count: a.count,
        sum: finite(a.sum),
        mean: finite(a.mean()),
        min: finite(a.min),
        max: finite(a.max),
        stddev: finite(a.stddev()).filter(|_| a.sum_sq.is_finite() && a.sum.is_finite()),
        first: point(&a.first),
        last: point(&a.last),
        late: window.late,
        parts: window.parts,
        fingerprint: format!("{:016x}", a.fingerprint),
        watermark: window.watermark.to_string(),
        watermark_ms: window.watermark.0,
        complete: window.watermark >= window.start.plus(width_ms),
    }
}
