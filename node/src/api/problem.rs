//! Why a request can't be answered, as `application/problem+json` (RFC 9457).

use crate::store::StoreError;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use selvedge_guard::access::Denied;
use selvedge_guard::log_limit::SharedLogLimit;
use selvedge_http::problem::{RETRY_AFTER_S, respond};
use selvedge_node_core::questions::Unanswered;
use selvedge_types::params::BadParameter;
use selvedge_types::problem::{
    BAD_PARAMETER, BUSY, FORBIDDEN, METHOD_NOT_ALLOWED, NOT_FOUND, NOT_READY, Problem, ProblemKind, STRANGER,
    UNAUTHORIZED,
};
use std::sync::LazyLock;

macro_rules! kinds {
    ($($name:ident $slug:literal $status:literal $title:literal $meaning:literal)*) => {
        $(const $name: ProblemKind =
            ProblemKind { slug: $slug, status: $status, title: $title, meaning: $meaning };)*
    };
}

kinds! {
    BAD_BODY "bad-body" 400 "The body is wrong"
        "`detail` says what would be right."
    SQL "sql" 400 "The statement can't be run"
        "`detail` is what the database says, or why the node refuses it: one statement that only reads."
    SQL_OFF "sql-off" 403 "SQL is switched off"
        "Set `http.sql.enabled = true` to switch it on."
    NO_SITE "no-site" 404 "There is no such site"
        "`/v1/sites` lists those that this node serves."
    NOT_ACCEPTABLE "not-acceptable" 406 "No such form"
        "`Accept` names no form that the path answers in; leave it out, or use `format=`."
    TOO_LARGE "too-large" 413 "The body is too large"
        "`detail` says how large it may be."
    MEDIA_TYPE_UNKNOWN "unsupported-media-type" 415 "The form of the body is unknown"
        "`detail` says which values of `Content-Type` are."
    TOO_EXPENSIVE "too-expensive" 422 "The query takes too long"
        "It exceeded its time limit. Ask for less, or raise the setting that `detail` names."
    UNANSWERED "unanswered" 504 "The site did not answer in time"
        "`detail` says whether gateways or shards did not answer. Raise `timeout`, or ask with `consistency=stale`."
    EDGE_UNAVAILABLE "edge-unavailable" 503 "The site can't be asked now"
        "`detail` says why. Ask again after `Retry-After` seconds."
    UNAVAILABLE "unavailable" 503 "The database does not answer"
        "Ask again after `Retry-After` seconds; the node's log says more."
}

/// All kinds of problems of a node, in the order in which `/docs` shows them.
pub const KINDS: &[ProblemKind] = &[
    BAD_PARAMETER,
    BAD_BODY,
    SQL,
    UNAUTHORIZED,
    FORBIDDEN,
    STRANGER,
    SQL_OFF,
    NOT_FOUND,
    NO_SITE,
    METHOD_NOT_ALLOWED,
    NOT_ACCEPTABLE,
    TOO_LARGE,
    MEDIA_TYPE_UNKNOWN,
    TOO_EXPENSIVE,
    BUSY,
    NOT_READY,
    UNANSWERED,
    EDGE_UNAVAILABLE,
    UNAVAILABLE,
];

/// Why a request can't be answered.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A parameter of the query string or of the path is wrong.
    #[error("{0}")]
    Bad(#[from] BadParameter),
    /// The body is wrong; the text says how.
    #[error("{0}")]
    BadBody(String),
    /// The token is missing, unknown, or lacks the scope.
    #[error("{0}")]
    Denied(#[from] Denied),
    /// The token does not allow this site.
    #[error("the token gives no access to the site {0:?}")]
    Site(String),
    /// The node does not serve this site.
    #[error("there is no site {0:?} here; see /v1/sites")]
    NoSite(String),
    /// The site was asked, and no answer came.
    #[error("{0}")]
    Unanswered(#[from] Unanswered),
    /// There is no such path.
    #[error("there is no {0}; see /docs, or /openapi.json")]
    Path(String),
    /// The path exists, but not with this method.
    #[error("{path} has no method {method}; it has {allowed}")]
    Method {
        path: String,
        /// The method of the request.
        method: String,
        /// The methods of the path, as in the `Allow` header.
        allowed: &'static str,
    },
    /// The path has no form that `Accept` names; the text lists those that it has.
    #[error("{0}")]
    Accept(String),
    /// The body is longer than this many bytes.
    #[error("the body may have {0} bytes at most")]
    TooLarge(usize),
    /// The body's `Content-Type` is not understood; the text says what is.
    #[error("the body has to be {0}")]
    MediaType(&'static str),
    /// A web page of another origin sent the request; the text says how that showed.
    #[error("{0}")]
    Stranger(String),
    /// SQL is switched off.
    #[error("this node does not answer SQL (setting `http.sql.enabled`)")]
    SqlOff,
    /// The statement can't be run; the text is the database's, or the node's reason.
    #[error("{0}")]
    Sql(String),
    /// The query ran into a limit; the text names it.
    #[error("{0}")]
    TooExpensive(String),
    /// A bound is reached; the text names it.
    #[error("{0}")]
    Busy(String),
    /// What the node lacks to work, one text for each cause.
    #[error("{}", .0.join("; "))]
    NotReady(Vec<&'static str>),
    /// The database failed, or is busy.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Failure {
    /// The kind of problem that answers this failure.
    pub fn kind(&self) -> ProblemKind {
        match self {
            Self::Bad(_) => BAD_PARAMETER,
            Self::BadBody(_) => BAD_BODY,
            Self::Denied(Denied::NoToken | Denied::Unknown) => UNAUTHORIZED,
            Self::Denied(Denied::Scope(_)) | Self::Site(_) => FORBIDDEN,
            Self::NoSite(_) => NO_SITE,
            Self::Unanswered(Unanswered::TimedOut | Unanswered::NoShard) => UNANSWERED,
            Self::Unanswered(_) => EDGE_UNAVAILABLE,
            Self::Path(_) => NOT_FOUND,
            Self::Method { .. } => METHOD_NOT_ALLOWED,
            Self::Accept(_) => NOT_ACCEPTABLE,
            Self::TooLarge(_) => TOO_LARGE,
            Self::MediaType(_) => MEDIA_TYPE_UNKNOWN,
            Self::Stranger(_) => STRANGER,
            Self::SqlOff => SQL_OFF,
            Self::Sql(_) => SQL,
            Self::TooExpensive(_) => TOO_EXPENSIVE,
            Self::Busy(_) => BUSY,
            Self::NotReady(_) => NOT_READY,
            Self::Store(StoreError::Busy) => BUSY,
            Self::Store(_) => UNAVAILABLE,
        }
    }

    /// The body of the answer.
    pub fn problem(&self) -> Problem {
        match self {
            Self::Bad(bad) => Problem::from(bad),
            // The database's own error goes to the log only.
            Self::Store(error) if !matches!(error, StoreError::Busy) => {
                self.kind().problem("the database does not answer; try again")
            }
            Self::NotReady(why) => {
                let why = why.iter().map(|why| why.to_string()).collect();
                Problem { why, ..self.kind().problem(self.to_string()) }
            }
            other => other.kind().problem(other.to_string()),
        }
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.kind().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        if let Self::Store(error) = self {
            static FAILED: LazyLock<SharedLogLimit> = LazyLock::new(SharedLogLimit::default);
            if let Some(left_out) = FAILED.note("failed") {
                tracing::error!(%error, "a query failed{left_out}");
            }
        }
        let bearer = |how: &str| vec![(header::WWW_AUTHENTICATE, format!("Bearer realm=\"selvedge\"{how}"))];
        let headers = match self {
            Self::Denied(Denied::NoToken) => bearer(""),
            Self::Denied(Denied::Unknown) => bearer(", error=\"invalid_token\""),
            Self::Denied(Denied::Scope(scope)) => {
                bearer(&format!(", error=\"insufficient_scope\", scope=\"{scope}\""))
            }
            Self::Method { allowed, .. } => vec![(header::ALLOW, allowed.to_string())],
            Self::Busy(_) | Self::Store(_) | Self::Unanswered(_) => {
                vec![(header::RETRY_AFTER, RETRY_AFTER_S.to_string())]
            }
            _ => vec![],
        };
        respond(&self.problem(), &headers)
    }
}
