//! The HTTP face: queries, the ledger, status, metrics and health. JSON throughout; what is asked wrongly
//! is answered with what would be right.

mod aggregates;
mod ledger;
mod merged;
mod sites;
mod status;

use crate::logic::query::BadParameter;
use crate::logic::questions::Unanswered;
use crate::sites::Edge;
use crate::stats::Stats;
use crate::store::{Reader, StoreError};
use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, ResponseError, web};
use metrics_exporter_prometheus::PrometheusHandle;
use selvedge_shared::ids::SiteId;
use serde_json::json;
use std::sync::Arc;

/// What the handlers work with.
pub struct Api {
    /// The database.
    pub reader: Reader,
    /// The running node.
    pub stats: Arc<Stats>,
    /// The sites that it serves.
    pub sites: Vec<SiteId>,
    /// What they report, and how they are asked.
    pub edge: Arc<Edge>,
    /// The metrics, if they are recorded.
    pub metrics: Option<PrometheusHandle>,
}

/// The pairs of the query string.
type Given = web::Query<Vec<(String, String)>>;

const PATHS: &str = "/v1/aggregates, /v1/devices, /v1/ledger, /v1/sites, /v1/sites/{site}, /v1/sites/{site}/aggregates, \
     /v1/status, /metrics, /healthz, /readyz";

/// Puts all paths into an application.
pub fn routes(app: &mut web::ServiceConfig) {
    app.route("/v1/aggregates", web::get().to(aggregates::aggregates))
        .route("/v1/devices", web::get().to(status::devices))
        .route("/v1/ledger", web::get().to(ledger::ledger))
        .route("/v1/sites", web::get().to(sites::sites))
        .route("/v1/sites/{site}", web::get().to(sites::site))
        .route("/v1/sites/{site}/aggregates", web::get().to(sites::aggregates))
        .route("/v1/status", web::get().to(status::status))
        .route("/metrics", web::get().to(status::metrics))
        .route("/healthz", web::get().to(status::healthz))
        .route("/readyz", web::get().to(status::readyz))
        .app_data(web::QueryConfig::default().error_handler(|error, _| {
            Failure::Bad(BadParameter { parameter: "query string".into(), why: error.to_string() }).into()
        }))
        .default_service(web::to(unknown));
}

async fn unknown(request: HttpRequest) -> HttpResponse {
    let path: String = request.path().chars().take(80).collect();
    let error = format!("there is no {} {path}; there are (GET): {PATHS}", request.method());
    HttpResponse::NotFound().json(json!({ "error": error }))
}

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Bad(#[from] BadParameter),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("there is no site {0:?} here; see /v1/sites")]
    NoSite(String),
    #[error("{0}")]
    Unanswered(#[from] Unanswered),
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoSite(_) => StatusCode::NOT_FOUND,
            Self::Unanswered(Unanswered::TimedOut | Unanswered::NoShard) => StatusCode::GATEWAY_TIMEOUT,
            Self::Unanswered(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let body = match self {
            Self::Bad(bad) => json!({ "error": self.to_string(), "parameter": bad.parameter }),
            Self::Store(error) => {
                tracing::error!(%error, "a query failed");
                json!({ "error": "the database does not answer; try again" })
            }
            Self::NoSite(_) => json!({ "error": self.to_string() }),
            Self::Unanswered(why) => json!({ "error": self.to_string(), "reason": why.reason() }),
        };
        HttpResponse::build(self.status_code()).json(body)
    }
}

#[cfg(test)]
mod tests;
