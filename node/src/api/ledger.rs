//! `/v1/ledger`: count and fingerprint of every window, compact and page by page, to compare with what the devices
//! sent.

use super::problem::Failure;
use super::routes::Asker;
use super::{Api, Given};
use crate::store::WindowKey;
use actix_web::{HttpResponse, web};
use selvedge_node_core::params::WindowPlace;
use selvedge_types::params::{Parameters, bad};
use selvedge_types::time::EpochMs;
use serde::Serialize;

/// The most windows of one page, and the default.
pub const MAX_PAGE_ENTRIES: u32 = 10_000;

/// A page of the ledger: windows grouped by series.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Ledger {
    /// Each series of the page, once.
    series: Vec<Series>,
    /// The value of `after` for the next page; null on the last page.
    next: Option<String>,
}

#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = LedgerSeries)]
struct Series {
    site: String,
    device: String,
    stream: String,
    width_ms: i64,
    /// For each window: its start in epoch milliseconds, its count, and its fingerprint in hexadecimal.
    #[schema(value_type = Vec<Vec<serde_json::Value>>)]
    windows: Vec<(i64, u64, String)>,
}

/// The parameters of `/v1/ledger`.
pub const PARAMETERS: [&str; 4] = ["site", "width", "after", "limit"];

pub(super) async fn ledger(
    api: web::Data<Api>,
    Asker(caller): Asker,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &PARAMETERS)?;
    let limit = p.limit_within(MAX_PAGE_ENTRIES, MAX_PAGE_ENTRIES)?;
    // A width that no stored one can have (they are 32-bit) finds nothing.
    let width = p.duration("width")?.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX));
    let start = WindowPlace { series: 0, start: EpochMs(i64::MIN) };
    let after = p.after(WindowPlace::parse)?.unwrap_or(start);
    let after = WindowKey { series: after.series, start: after.start };
    let site = match (p.text("site")?, caller.sites.as_deref()) {
        (Some(site), _) if !caller.sees(site) => return Err(Failure::Site(site.to_string())),
        (None, Some([only])) => Some(only.as_str()),
        (None, Some(several)) => {
            let why = format!("is needed with this token, which gives access to {}", several.join(", "));
            return Err(bad("site", why).into());
        }
        (site, _) => site,
    };
    let page = api.reader.ledger(site, width, after, limit).await?;
    let last = page.windows.last().filter(|_| page.more);
    let next = last.map(|(key, _, _)| WindowPlace { series: key.series, start: key.start }.to_string());
    let series = page.series.into_iter().map(|s| {
        let of_it = page.windows.iter().skip_while(|(key, _, _)| key.series != s.id);
        let of_it = of_it.take_while(|(key, _, _)| key.series == s.id);
        let windows =
            of_it.map(|(key, count, print)| (key.start.0, *count, format!("{print:016x}"))).collect();
        Series { site: s.site, device: s.device, stream: s.stream, width_ms: s.width_ms, windows }
    });
    Ok(HttpResponse::Ok().json(Ledger { series: series.collect(), next }))
}
