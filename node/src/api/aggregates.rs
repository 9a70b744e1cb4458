//! `/v1/aggregates`: the windows of a device's streams, as stored or merged upwards.

use super::{Api, Failure, Given};
use crate::logic::query::{AggregateQuery, BadParameter, Place, Spans};
use crate::store::{SeriesInfo, StoredWindow};
use actix_web::{HttpResponse, web};
use selvedge_shared::aggregate::Sample;
use selvedge_shared::time::EpochMs;
use serde::Serialize;

/// How many series of one device a query looks at.
const MAX_SERIES_ENTRIES: u32 = 10_000;

/// How many windows are read at a time.
const READ_ENTRIES: u32 = 5_000;

/// How many windows one answer reads at most before it ends with a `next`.
const SCAN_ENTRIES: usize = 300_000;

#[derive(Serialize)]
struct Answer {
    aggregates: Vec<Row>,
    /// Whether there is more.
    truncated: bool,
    /// What to give as `after` to get it.
    next: Option<String>,
}

#[derive(Serialize)]
struct Row {
    site: String,
    device: String,
    stream: String,
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
    let stream = query.stream.as_deref();
    let series = api.reader.series(query.site.as_deref(), &query.device, stream, MAX_SERIES_ENTRIES).await?;
    let chosen = query.choose(series)?;
    let resume = query.after.map(|after| chosen.iter().position(|s| s.id == after.series));
    if resume == Some(None) {
        let why = "belongs to another query; give it with the same device, stream, every and width";
        return Err(BadParameter { parameter: "after".into(), why: why.into() }.into());
    }
    let mut answer = Answer { aggregates: vec![], truncated: false, next: None };
    let mut scanned = 0;
    for one in chosen.iter().skip(resume.flatten().unwrap_or(0)) {
        let after = query.after.filter(|after| after.series == one.id);
        let from = after.map_or(query.from, |after| query.from.max(after.start));
        if let Some(start) = read(&api, &query, one, from, &mut scanned, &mut answer.aggregates).await? {
            answer.truncated = true;
            answer.next = Some(Place { series: one.id, start }.to_string());
            break;
        }
    }
    Ok(HttpResponse::Ok().json(answer))
}

/// Adds the spans of one series; says where to go on if the answer is full before its end.
async fn read(
    api: &Api,
    query: &AggregateQuery,
    series: &SeriesInfo,
    mut from: EpochMs,
    scanned: &mut usize,
    out: &mut Vec<Row>,
) -> Result<Option<EpochMs>, Failure> {
    let mut spans = Spans::default();
    let full = |out: &Vec<Row>| out.len() >= query.limit as usize;
    let width = query.every_ms.unwrap_or(series.width_ms);
    loop {
        let windows = api.reader.windows(series.id, from, query.to, READ_ENTRIES).await?;
        for window in &windows {
            if full(out) {
                return Ok(Some(window.start));
            }
            out.extend(spans.push(query.span_start(window.start), window).map(|s| row(series, width, &s)));
            if full(out) {
                return Ok(spans.open_start());
            }
        }
        *scanned += windows.len();
        match windows.last() {
            Some(last) if windows.len() == READ_ENTRIES as usize => from = last.start.plus(1),
            _ => break,
        }
        if *scanned >= SCAN_ENTRIES
            && let Some(start) = spans.open_start().filter(|_| !out.is_empty())
        {
            return Ok(Some(start));
        }
    }
    out.extend(spans.finish().map(|s| row(series, width, &s)));
    Ok(None)
}

fn row(series: &SeriesInfo, width_ms: i64, window: &StoredWindow) -> Row {
    let a = &window.aggregate;
    let finite = |value: f64| value.is_finite().then_some(value);
    let point = |s: &Sample| Point { time: s.time.to_string(), time_ms: s.time.0, value: finite(s.value) };
    let variance = (a.sum_sq / a.count as f64 - a.mean() * a.mean()).max(0.0);
    Row {
        site: series.site.clone(),
        device: series.device.clone(),
        stream: series.stream.clone(),
        start: window.start.to_string(),
        start_ms: window.start.0,
        width_ms,
        count: a.count,
        sum: finite(a.sum),
        mean: finite(a.mean()),
        min: finite(a.min),
        max: finite(a.max),
        stddev: finite(variance.sqrt()).filter(|_| a.sum_sq.is_finite() && a.sum.is_finite()),
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
