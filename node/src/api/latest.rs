//! `/v1/latest`: the newest window of each stream, with its last value.

use super::problem::Failure;
use super::routes::Asker;
use super::whole::{self, Pages};
use super::{Api, Given, answer};
use crate::store::find::Seek;
use actix_web::{HttpRequest, HttpResponse, web};
use selvedge_node_core::params::{NamesPlace, WantedStreams};
use selvedge_node_core::row::{Function, More, Row, RowTable};
use selvedge_types::params::{MAX_LIMIT_ENTRIES, Parameters};
use selvedge_types::time::EpochMs;
use std::time::SystemTime;

/// The parameters of `/v1/latest`.
pub const PARAMETERS: [&str; 8] = ["site", "device", "stream", "q", "fn", "limit", "after", "format"];

pub(super) async fn latest(
    api: web::Data<Api>,
    Asker(caller): Asker,
    request: HttpRequest,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &PARAMETERS)?;
    let form = answer::form(&request, &p)?;
    let functions = p.list("fn", Function::named, &Function::names())?;
    let after = p.after(|text| NamesPlace::parse(text, 3))?;
    let seek = Seek { sites: caller.sites, wanted: WantedStreams::read(&p)? };
    let page = answer::is_page(form, &p);
    let limit = if page { p.limit()? } else { MAX_LIMIT_ENTRIES };
    let mut newest = Newest { api: api.clone(), seek, functions, limit, after, over: false };
    if !page {
        return whole::rows(&api, form, newest).await;
    }
    let table = newest.page().await?;
    let next = newest.after.filter(|_| !newest.over).map(|next| next.to_string());
    Ok(answer::rows(&request, form, "latest", &table, next, None))
}

/// The newest window of each stream, page by page.
struct Newest {
    api: web::Data<Api>,
    seek: Seek,
    functions: Option<Vec<Function>>,
    limit: u32,
    /// The last stream of the previous page.
    after: Option<NamesPlace>,
    /// Whether there is no further stream.
    over: bool,
}

impl Newest {
    async fn page(&mut self) -> Result<RowTable, Failure> {
        let names = self.after.take().map(|place| place.0).unwrap_or_default();
        let after = [0, 1, 2].map(|at| names.get(at).map_or("", String::as_str));
        let reader = &self.api.reader;
        let newest = reader.newest(&self.seek, after, EpochMs::from(SystemTime::now()), self.limit).await?;
        self.over = newest.len() < self.limit as usize;
        let last = newest.last();
        self.after = last.map(|(s, _)| NamesPlace(vec![s.site.clone(), s.device.clone(), s.stream.clone()]));
        let mut table = RowTable::new(self.functions.as_deref(), More::default());
        let progress = reader.progress_of(newest.iter().map(|(series, _)| series)).await?;
        for (series, window) in newest {
            let rows = progress.get(&series.id).map(|progress| Row::of(&series, window, progress));
            table.rows.extend(rows);
        }
        Ok(table)
    }
}

impl Pages for Newest {
    type Page = RowTable;

    async fn next(&mut self) -> Result<Option<RowTable>, Failure> {
        if self.over { Ok(None) } else { self.page().await.map(Some) }
    }
}
