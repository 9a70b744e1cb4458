//! Why a request gets no answer, as `application/problem+json` (RFC 9457).

use crate::store::StoreError;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use selvedge_guard::access::Denied;
use selvedge_guard::log_limit::SharedLogLimit;
use selvedge_node_core::params::BadParameter;
use selvedge_node_core::questions::Unanswered;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;

/// The form of every answer that is none.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Where the documentation explains a type; its slug follows.
const TYPES_AT: &str = "/docs#problem-";

/// The longest piece of a request that an error repeats.
const MAX_SHOWN_CHARS: usize = 80;

/// How long to wait before asking again when the node has no room or no database.
const RETRY_AFTER_S: u32 = 5;

/// What every problem of a type has in common.
pub struct Kind {
    /// Its name in the `type`.
    pub slug: &'static str,
    /// The status that it comes with.
    pub status: StatusCode,
    /// What it is, in few words.
    pub title: &'static str,
    /// What to do about it.
    pub meaning: &'static str,
}

macro_rules! kinds {
    ($($name:ident $slug:literal $status:ident $title:literal $meaning:literal)*) => {
        $(const $name: Kind =
            Kind { slug: $slug, status: StatusCode::$status, title: $title, meaning: $meaning };)*
        /// All there are.
        pub const KINDS: &[Kind] = &[$($name),*];
    };
}

kinds! {
    BAD_PARAMETER "bad-parameter" BAD_REQUEST "A parameter is wrong"
        "`parameter` names it, `detail` says what would be right. Asking again does not help."
    BAD_BODY "bad-body" BAD_REQUEST "The body is wrong"
        "`detail` says what would be right."
    SQL "sql" BAD_REQUEST "The statement can't be run"
        "`detail` is what the database says, or why the node refuses it: one statement that only reads."
    UNAUTHORIZED "unauthorized" UNAUTHORIZED "A token is needed"
        "Send `Authorization: Bearer <token>` with a token of the setting `http.tokens`."
    FORBIDDEN "forbidden" FORBIDDEN "The token is not good for this"
        "The token lacks the scope, or the site, that `detail` names."
    STRANGER "stranger" FORBIDDEN "A web page of somebody else asks"
        "`detail` says what of the request is another's: its `Host`, `Origin` or `Sec-Fetch-Site`. Ask from a page of this node, with          a program, or add the name to `http.hosts`."
    SQL_OFF "sql-off" FORBIDDEN "SQL is switched off"
        "Set `http.sql.enabled = true` to switch it on."
    NOT_FOUND "not-found" NOT_FOUND "There is nothing here"
        "The path is not one of this API. `/openapi.json` lists them all."
    NO_SITE "no-site" NOT_FOUND "There is no such site"
        "`/v1/sites` lists those that this node serves."
    METHOD_NOT_ALLOWED "method-not-allowed" METHOD_NOT_ALLOWED "The path has no such method"
        "The header `Allow` lists those that it has."
    NOT_ACCEPTABLE "not-acceptable" NOT_ACCEPTABLE "No such form"
        "`Accept` names no form that the path answers in; leave it out, or use `format=`."
    TOO_LARGE "too-large" PAYLOAD_TOO_LARGE "The body is too large"
        "`detail` says how large it may be."
    MEDIA_TYPE_UNKNOWN "unsupported-media-type" UNSUPPORTED_MEDIA_TYPE "The body's form is not understood"
        "`detail` says which `Content-Type` are."
    TOO_EXPENSIVE "too-expensive" UNPROCESSABLE_ENTITY "The query takes too long"
        "It ran into its limit of time. Ask for less, or raise the setting that `detail` names."
    BUSY "busy" SERVICE_UNAVAILABLE "No room for another one"
        "A bound is reached that `detail` names. Ask again after `Retry-After` seconds."
    NOT_READY "not-ready" SERVICE_UNAVAILABLE "The node can't work now"
        "`why` lists what is missing."
    UNANSWERED "unanswered" GATEWAY_TIMEOUT "The site did not answer in time"
        "`detail` says who did not. Give it more `timeout`, or ask with `consistency=stale`."
    EDGE_UNAVAILABLE "edge-unavailable" SERVICE_UNAVAILABLE "The site can't be asked now"
        "`detail` says why. Ask again after `Retry-After` seconds."
    UNAVAILABLE "unavailable" SERVICE_UNAVAILABLE "The database does not answer"
        "Ask again after `Retry-After` seconds; the node's log says more."
}

/// A problem as it is answered.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// What kind of problem it is: a reference into the documentation.
    #[serde(rename = "type")]
    #[schema(example = "/docs#problem-bad-parameter")]
    pub kind: String,
    /// The same in few words.
    #[schema(example = "A parameter is wrong")]
    pub title: String,
    /// The status that the answer came with.
    #[schema(example = 400)]
    pub status: u16,
    /// What is wrong with this request, and what would be right.
    #[schema(example = "parameter `limit`: \"0\" is no whole number from 1 to 10000")]
    pub detail: String,
    /// The parameter that is wrong, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "limit")]
    pub parameter: Option<String>,
    /// What is missing, if the node is not ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
}

/// Why a request gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A parameter.
    #[error("{0}")]
    Bad(#[from] BadParameter),
    /// The body, in words.
    #[error("{0}")]
    BadBody(String),
    /// Nobody who may ask.
    #[error("{0}")]
    Denied(#[from] Denied),
    /// A site that the token does not show.
    #[error("the token does not show the site {0:?}")]
    Site(String),
    /// No such site.
    #[error("there is no site {0:?} here; see /v1/sites")]
    NoSite(String),
    /// The site was asked in vain.
    #[error("{0}")]
    Unanswered(#[from] Unanswered),
    /// No such path.
    #[error("there is no {0}; see /docs, or /openapi.json")]
    Path(String),
    /// The path is there, the method is not.
    #[error("{path} has no method {method}; it has {allowed}")]
    Method {
        /// The path.
        path: String,
        /// The method that was tried.
        method: String,
        /// Those that it has.
        allowed: &'static str,
    },
    /// No form that `Accept` names.
    #[error("{0}")]
    Accept(String),
    /// The body is longer than that many bytes.
    #[error("the body may have {0} bytes at most")]
    TooLarge(usize),
    /// The body's form.
    #[error("the body has to be {0}")]
    MediaType(&'static str),
    /// A web page of somebody else asks, in words.
    #[error("{0}")]
    Stranger(String),
    /// SQL is not answered.
    #[error("SQL is not answered by this node (setting `http.sql.enabled`)")]
    SqlOff,
    /// The statement.
    #[error("{0}")]
    Sql(String),
    /// Its time is over.
    #[error("{0}")]
    TooExpensive(String),
    /// A bound is reached, in words.
    #[error("{0}")]
    Busy(String),
    /// What is missing for the node to work.
    #[error("{}", .0.join("; "))]
    NotReady(Vec<&'static str>),
    /// The database.
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl Failure {
    /// What kind it is.
    pub fn kind(&self) -> Kind {
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

    /// As it is answered.
    pub fn problem(&self) -> Problem {
        let Kind { slug, status, title, .. } = self.kind();
        let detail = match self {
            // What the database says is for the log.
            Self::Store(StoreError::Busy) => StoreError::Busy.to_string(),
            Self::Store(_) => "the database does not answer; try again".to_string(),
            other => other.to_string(),
        };
        let parameter = match self {
            Self::Bad(bad) => Some(bad.parameter.clone()),
            _ => None,
        };
        let why = match self {
            Self::NotReady(why) => why.iter().map(|why| why.to_string()).collect(),
            _ => vec![],
        };
        Problem {
            kind: format!("{TYPES_AT}{slug}"),
            title: title.to_string(),
            status: status.as_u16(),
            detail,
            parameter,
            why,
        }
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        self.kind().status
    }

    fn error_response(&self) -> HttpResponse {
        if let Self::Store(error) = self {
            static FAILED: LazyLock<SharedLogLimit> = LazyLock::new(SharedLogLimit::default);
            if let Some(left_out) = FAILED.note("failed") {
                tracing::error!(%error, "a query failed{left_out}");
            }
        }
        let mut answer = HttpResponse::build(self.status_code());
        match self {
            Self::Denied(Denied::NoToken) => {
                answer.insert_header((header::WWW_AUTHENTICATE, "Bearer realm=\"selvedge\""));
            }
            Self::Denied(Denied::Unknown) => {
                let how = "Bearer realm=\"selvedge\", error=\"invalid_token\"";
                answer.insert_header((header::WWW_AUTHENTICATE, how));
            }
            Self::Denied(Denied::Scope(scope)) => {
                let how =
                    format!("Bearer realm=\"selvedge\", error=\"insufficient_scope\", scope=\"{scope}\"");
                answer.insert_header((header::WWW_AUTHENTICATE, how));
            }
            Self::Method { allowed, .. } => {
                answer.insert_header((header::ALLOW, *allowed));
            }
            Self::Busy(_) | Self::Store(_) | Self::Unanswered(_) => {
                answer.insert_header((header::RETRY_AFTER, RETRY_AFTER_S.to_string()));
            }
            _ => {}
        }
        let body = serde_json::to_vec(&self.problem()).unwrap_or_default();
        answer.content_type(MEDIA_TYPE).body(body)
    }
}

/// A piece of a request, cut short.
pub fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).collect()
}
