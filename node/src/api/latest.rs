//! `/v1/latest`: the newest window of each stream, with its last value.

use super::problem::Failure;
use super::routes::Asker;
use super::{Api, Given, answer};
use crate::logic::query::{DEFAULT_LIMIT_ENTRIES, MAX_LIMIT_ENTRIES, NamesPlace, Parameters};
use crate::logic::row::{Function, More, Row, RowTable};
use crate::store::find::Seek;
use actix_web::{HttpRequest, HttpResponse, web};
use selvedge_shared::time::EpochMs;

/// Its parameters.
pub const PARAMETERS: [&str; 8] = ["site", "device", "stream", "q", "fn", "limit", "after", "format"];

pub(super) async fn latest(
    api: web::Data<Api>,
    Asker(caller): Asker,
    request: HttpRequest,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &PARAMETERS)?;
    let form = answer::form(&request, &p)?;
    let limit = p.limit(DEFAULT_LIMIT_ENTRIES, MAX_LIMIT_ENTRIES)?;
    let functions = p.list("fn", Function::named, &Function::names())?;
    let after = p.names_place("after", 3)?.map(|place| place.0).unwrap_or_default();
    let after = [0, 1, 2].map(|at| after.get(at).map_or("", String::as_str));
    let seek = Seek { sites: caller.sites, wanted: p.wanted()? };
    let newest = api.reader.newest(&seek, after, EpochMs::now(), limit).await?;
    let last = newest.last().filter(|_| newest.len() == limit as usize);
    let next = last.map(|(s, _)| NamesPlace(vec![s.site.clone(), s.device.clone(), s.stream.clone()]));
    let mut table = RowTable::new(functions.as_deref(), More::default());
    for (series, window) in newest {
        let progress = api.reader.progress(&series).await?;
        table.rows.push(Row::of(&series, window, &progress));
    }
    Ok(answer::rows(&request, form, "latest", &table, next.map(|next| next.to_string()), None))
}
