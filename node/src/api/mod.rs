//! The HTTP API: queries in pages, live windows, SQL, status, metrics and health. `/openapi.json` describes it and
//! `/docs` shows the description. A wrong request is answered with what would be right, as `application/problem+json`.
//!
//! - Invariant: [`routes::Routes`] registers every path, and admits only requests with a token of the right scope.

mod aggregates;
mod answer;
mod browser;
mod devices;
mod gaps;
mod in_order;
mod latest;
mod ledger;
mod live;
mod merged;
mod openapi;
mod problem;
pub mod routes;
mod scan;
mod sites;
mod sql;
mod status;
mod whole;

use crate::live::Live;
use crate::settings::SqlSettings;
use crate::sites::Edge;
use crate::stats::Stats;
use crate::store::Reader;
use actix_web::web;
use metrics_exporter_prometheus::PrometheusHandle;
use routes::{Guard, Route, Routes};
use selvedge_guard::access::{Access, Scope};
use selvedge_http::docs;
use selvedge_types::ids::SiteId;
use std::sync::Arc;
use tokio::sync::Semaphore;

pub use browser::admit;
pub use sites::read as read_ask;
pub use sql::{MAX_BODY_BYTES, MAX_RUNNING_ENTRIES};
pub use whole::{MAX_RUNNING_ENTRIES as MAX_WHOLE_ENTRIES, WholeLimits};

/// The state that all handlers share.
pub struct Api {
    /// Runs the queries of all handlers on the database.
    pub reader: Reader,
    pub stats: Arc<Stats>,
    /// The sites that this node serves.
    pub sites: Vec<SiteId>,
    /// The reports of these sites, and questions to them.
    pub edge: Arc<Edge>,
    /// The metrics, if they are recorded.
    pub metrics: Option<PrometheusHandle>,
    /// The tokens that are accepted, and what each allows.
    pub access: Access,
    /// Windows as they are applied.
    pub live: Arc<Live>,
    /// Whether SQL is answered, and its limits.
    pub sql: SqlSettings,
    /// One permit for each statement that may run at the same time.
    pub sql_places: Arc<Semaphore>,
    /// One permit for each answer with all rows that may be sent at the same time.
    pub whole_places: Arc<Semaphore>,
    /// The limits of each answer with all rows.
    pub whole_limits: WholeLimits,
}

/// The parameters of the query string, in order.
type Given = web::Query<Vec<(String, String)>>;

/// Registers all paths of the API in an application, and those that `pages` adds. Returns those of the API.
pub fn routes(app: &mut web::ServiceConfig, pages: impl FnOnce(&mut Routes<'_>)) -> Vec<Route> {
    let read = Guard::Scope(Scope::Read);
    let mut all = Routes::new(app);
    all.get("/v1/aggregates", read, aggregates::aggregates);
    all.get("/v1/latest", read, latest::latest);
    all.get("/v1/devices", read, devices::devices);
    all.get("/v1/gaps", read, gaps::gaps);
    all.get("/v1/ledger", read, ledger::ledger);
    all.get("/v1/live", Guard::Scope(Scope::Live), live::live);
    all.post("/v1/sql", Guard::Scope(Scope::Sql), sql::sql);
    all.get("/v1/sites", read, sites::sites);
    all.get("/v1/sites/{site}", read, sites::site);
    all.get("/v1/sites/{site}/aggregates", Guard::Scope(Scope::Edge), sites::aggregates);
    all.get("/v1/status", read, status::status);
    all.get("/metrics", Guard::Scope(Scope::Metrics), status::metrics);
    all.get("/healthz", Guard::Open, status::healthz);
    all.get("/readyz", Guard::Open, status::readyz);
    all.get("/openapi.json", Guard::Open, openapi::document);
    all.get("/docs", Guard::Open, docs::page);
    all.get("/docs/page.js", Guard::Open, docs::script);
    all.get("/docs/page.css", Guard::Open, docs::style);
    pages(&mut all);
    all.end()
}
