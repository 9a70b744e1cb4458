//! Why a request can't be answered, as `application/problem+json` (RFC 9457).

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use selvedge_guard::access::Denied;
use selvedge_http::problem::{RETRY_AFTER_S, respond};
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::params::BadParameter;
use selvedge_types::problem::{
    BAD_PARAMETER, BUSY, FORBIDDEN, METHOD_NOT_ALLOWED, NOT_FOUND, NOT_READY, Problem, ProblemKind, STRANGER,
    UNAUTHORIZED,
};

/// The site does not know the device, stream, shard or gateway.
const UNKNOWN: ProblemKind = ProblemKind {
    slug: "unknown",
    status: 404,
    title: "The site does not know it",
    meaning: "`detail` says what: no reading of such a device or stream was counted, or it was retired, or the site has no such shard or \
              gateway. `/v1/devices`, `/v1/shards` and `/v1/gateways` list those that are known.",
};

/// The entry is not in the quarantine.
const NO_ENTRY: ProblemKind = ProblemKind {
    slug: "no-entry",
    status: 404,
    title: "There is no such entry",
    meaning: "It was counted, discarded or evicted, or never was. `/v1/quarantine` lists the entries that there are.",
};

/// The publish can't be re-admitted.
const NOT_COUNTABLE: ProblemKind = ProblemKind {
    slug: "not-countable",
    status: 409,
    title: "It can't be counted",
    meaning: "`detail` says why, and what to do instead: to count it could count a reading twice, or there is nothing to count.",
};

/// The directory refuses an order.
const REFUSED: ProblemKind = ProblemKind {
    slug: "refused",
    status: 409,
    title: "The site refuses the order",
    meaning: "`detail` says why, and what to do first. Nothing was changed. Order again with another `Idempotency-Key`: the same key is \
              answered with the same refusal.",
};

/// A part of the site is out of reach.
const OUT_OF_REACH: ProblemKind = ProblemKind {
    slug: "out-of-reach",
    status: 503,
    title: "No majority answered",
    meaning: "`detail` names the replicas. Ask again after `Retry-After` seconds: an order may still be carried out, and repeating it \
              does no harm. For windows, `consistency=stale` asks for less.",
};

/// All kinds of problems of a gateway, in the order in which `/docs` shows them.
pub const KINDS: &[ProblemKind] = &[
    BAD_PARAMETER,
    UNAUTHORIZED,
    FORBIDDEN,
    STRANGER,
    NOT_FOUND,
    UNKNOWN,
    NO_ENTRY,
    METHOD_NOT_ALLOWED,
    NOT_COUNTABLE,
    REFUSED,
    BUSY,
    OUT_OF_REACH,
    NOT_READY,
];

/// Why a request can't be answered.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A parameter of the query string or of the path is wrong.
    #[error("{0}")]
    Bad(#[from] BadParameter),
    /// The token is missing, unknown, or lacks the scope.
    #[error("{0}")]
    Denied(#[from] Denied),
    /// The token is for other sites.
    #[error("the token is not for the site {0}")]
    Site(SiteId),
    /// A web page of another origin sent the request; the text says how that showed.
    #[error("{0}")]
    Stranger(String),
    /// There is no such path: the path, and those that there are.
    #[error("there is no {0}; there are: {1}. /openapi.json says more")]
    Path(String, String),
    /// The path exists, but not with this method.
    #[error("{path} has no method {method}; it has {allowed}")]
    Method {
        path: String,
        /// The method of the request.
        method: String,
        /// The methods of the path, as in the `Allow` header.
        allowed: String,
    },
    /// The device, stream, shard or gateway is unknown; the text says which.
    #[error("{0}")]
    Unknown(String),
    /// The entry is not in the quarantine.
    #[error("there is no such entry: GET /v1/quarantine lists them")]
    NoEntry,
    /// The publish can't be re-admitted; the text says why.
    #[error("it can't be counted: {0}")]
    NotCountable(String),
    /// The directory refuses the order; the text says why.
    #[error("{0}")]
    Refused(String),
    /// Too many orders are under way.
    #[error("too many orders are under way: try again")]
    Busy,
    /// A part of the site did not answer; the text says which.
    #[error("{0}")]
    OutOfReach(String),
    /// Some shards have not chosen an order.
    #[error("{why}")]
    Unchosen {
        /// The order, and what to do.
        why: String,
        /// The shards that have not chosen it.
        shards: Vec<ShardId>,
    },
    /// The gateway can't do its work; the text says why.
    #[error("{0}")]
    NotReady(String),
}

impl Failure {
    /// The kind of problem that answers this failure.
    fn kind(&self) -> ProblemKind {
        match self {
            Self::Bad(_) => BAD_PARAMETER,
            Self::Denied(Denied::NoToken | Denied::Unknown) => UNAUTHORIZED,
            Self::Denied(Denied::Scope(_)) | Self::Site(_) => FORBIDDEN,
            Self::Stranger(_) => STRANGER,
            Self::Path(..) => NOT_FOUND,
            Self::Method { .. } => METHOD_NOT_ALLOWED,
            Self::Unknown(_) => UNKNOWN,
            Self::NoEntry => NO_ENTRY,
            Self::NotCountable(_) => NOT_COUNTABLE,
            Self::Refused(_) => REFUSED,
            Self::Busy => BUSY,
            Self::OutOfReach(_) | Self::Unchosen { .. } => OUT_OF_REACH,
            Self::NotReady(_) => NOT_READY,
        }
    }

    /// The body of the answer.
    fn problem(&self) -> Problem {
        match self {
            Self::Bad(bad) => Problem::from(bad),
            Self::Unchosen { why, shards } => {
                Problem { missing_shards: shards.clone(), ..self.kind().problem(why) }
            }
            Self::NotReady(why) => Problem { why: vec![why.clone()], ..self.kind().problem(why) },
            other => other.kind().problem(other.to_string()),
        }
    }
}

impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.kind().status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        // The error codes of RFC 6750.
        let bearer = |how: &str| vec![(header::WWW_AUTHENTICATE, format!("Bearer realm=\"selvedge\"{how}"))];
        let headers = match self {
            Self::Denied(Denied::NoToken) => bearer(""),
            Self::Denied(Denied::Unknown) => bearer(", error=\"invalid_token\""),
            Self::Denied(Denied::Scope(_)) | Self::Site(_) => bearer(", error=\"insufficient_scope\""),
            Self::Method { allowed, .. } => vec![(header::ALLOW, allowed.clone())],
            Self::Busy | Self::OutOfReach(_) | Self::Unchosen { .. } => {
                vec![(header::RETRY_AFTER, RETRY_AFTER_S.to_string())]
            }
            _ => vec![],
        };
        respond(&self.problem(), &headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::to_bytes;
    use selvedge_types::params::bad;
    use selvedge_types::problem::MEDIA_TYPE;
    use serde_json::{Value, json};

    async fn answered(failure: Failure) -> (u16, Value, Vec<(String, String)>) {
        let answer = failure.error_response();
        let headers: Vec<_> =
            answer.headers().iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_string())).collect();
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&to_bytes(answer.into_body()).await.unwrap()).unwrap(), headers)
    }

    #[actix_web::test]
    async fn what_is_wrong_is_a_problem_as_at_a_node() {
        let (status, body, headers) =
            answered(bad("limit", "\"0\" is not a whole number from 1 to 10000").into()).await;
        let problem = json!({ "type": "/docs#problem-bad-parameter", "title": "A parameter is wrong", "status": 400,
            "detail": "parameter `limit`: \"0\" is not a whole number from 1 to 10000", "parameter": "limit" });
        assert_eq!((status, body), (400, problem));
        assert!(headers.contains(&("content-type".into(), MEDIA_TYPE.into())), "{headers:?}");
        let unchosen = Failure::Unchosen { why: "not yet".into(), shards: vec![ShardId(4)] };
        let (status, body, headers) = answered(unchosen).await;
        assert_eq!((status, &body["missing_shards"], &body["detail"]), (503, &json!([4]), &json!("not yet")));
        assert!(headers.iter().any(|(name, _)| name == "retry-after"), "{headers:?}");
        let (status, body, _) = answered(Failure::NotReady("no peers".into())).await;
        assert_eq!((status, &body["why"]), (503, &json!(["no peers"])));
    }
}
