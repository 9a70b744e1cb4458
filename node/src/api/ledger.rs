//! `/v1/ledger`: count and fingerprint of every window, compact and page by page, to reckon up against what
//! the devices say they sent.

use super::{Api, Failure, Given};
use crate::logic::query::{Parameters, Place};
use crate::store::WindowKey;
use actix_web::{HttpResponse, web};
use selvedge_shared::time::EpochMs;
use serde::Serialize;

/// The most windows of one page, and the number when nothing is said.
pub const MAX_PAGE_ENTRIES: u32 = 10_000;

#[derive(Serialize)]
struct Answer {
    /// Each series of the page once.
    series: Vec<Series>,
    /// What to give as `after` for the next page; nothing on the last.
    next: Option<String>,
}

#[derive(Serialize)]
struct Series {
    site: String,
    device: String,
    stream: String,
    width_ms: i64,
    /// Start in epoch milliseconds, count, fingerprint in hexadecimal.
    windows: Vec<(i64, u64, String)>,
}

pub(super) async fn ledger(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &["site", "width", "after", "limit"])?;
    let limit = p.limit(MAX_PAGE_ENTRIES, MAX_PAGE_ENTRIES)?;
    // A width that fits no stored one (they are 32-bit) finds nothing.
    let width = p.duration("width")?.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX));
    let start = Place { series: 0, start: EpochMs(i64::MIN) };
    let after = p.place("after")?.unwrap_or(start);
    let after = WindowKey { series: after.series, start: after.start };
    let page = api.reader.ledger(p.text("site")?, width, after, limit).await?;
    let last = page.windows.last().filter(|_| page.more);
    let next = last.map(|(key, _, _)| Place { series: key.series, start: key.start }.to_string());
    let series = page.series.into_iter().map(|s| {
        let of_it = page.windows.iter().skip_while(|(key, _, _)| key.series != s.id);
        let of_it = of_it.take_while(|(key, _, _)| key.series == s.id);
        let windows =
            of_it.map(|(key, count, print)| (key.start.0, *count, format!("{print:016x}"))).collect();
        Series { site: s.site, device: s.device, stream: s.stream, width_ms: s.width_ms, windows }
    });
    Ok(HttpResponse::Ok().json(Answer { series: series.collect(), next }))
}
