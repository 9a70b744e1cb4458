//! Why an HTTP request gets no answer, as RFC 9457 has it (`application/problem+json`): the value alone, which gateway and node turn into
//! responses. Both answer the same kind of problem with the same `type`, status and title.

use crate::ids::ShardId;
use crate::params::BadParameter;
use serde::{Deserialize, Serialize};

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Where the documentation of a program explains its kinds of problems; the slug follows.
const KINDS_AT: &str = "/docs#problem-";

/// What all problems of a kind have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ProblemKind {
    /// The kind's name, with which its `type` ends.
    pub slug: &'static str,
    /// The status of the response.
    pub status: u16,
    /// What it is, in few words.
    pub title: &'static str,
    /// What to do about it, with code between backticks.
    pub meaning: &'static str,
}

/// A parameter of the query string or of the path.
pub const BAD_PARAMETER: ProblemKind = ProblemKind {
    slug: "bad-parameter",
    status: 400,
    title: "A parameter is wrong",
    meaning: "`parameter` names it, `detail` says what would be right. Asking again does not help.",
};

/// No token, or none that is known.
pub const UNAUTHORIZED: ProblemKind = ProblemKind {
    slug: "unauthorized",
    status: 401,
    title: "A token is needed",
    meaning: "Send `Authorization: Bearer <token>` with a token of the setting `http.tokens`.",
};

/// A token that is not enough.
pub const FORBIDDEN: ProblemKind = ProblemKind {
    slug: "forbidden",
    status: 403,
    title: "The token does not allow this",
    meaning: "The token lacks the scope, or the site, that `detail` names.",
};

/// A browser's request that comes from another site's page.
pub const STRANGER: ProblemKind = ProblemKind {
    slug: "stranger",
    status: 403,
    title: "A web page of another origin asks",
    meaning: "`detail` says which header names another origin: `Host`, `Origin` or `Sec-Fetch-Site`. Ask from a page of this program \
              itself or without a browser, or add the name to `http.hosts`.",
};

/// A path that is not there.
pub const NOT_FOUND: ProblemKind = ProblemKind {
    slug: "not-found",
    status: 404,
    title: "There is nothing here",
    meaning: "The path is not one of this API. `/openapi.json` lists them all.",
};

/// A path that is there, but not with this method.
pub const METHOD_NOT_ALLOWED: ProblemKind = ProblemKind {
    slug: "method-not-allowed",
    status: 405,
    title: "The path has no such method",
    meaning: "The header `Allow` lists those that it has.",
};

/// A bound on how much may be asked at a time.
pub const BUSY: ProblemKind = ProblemKind {
    slug: "busy",
    status: 503,
    title: "Too much at once",
    meaning: "`detail` names the bound that is reached. Ask again after `Retry-After` seconds.",
};

/// The answer of `/readyz` while the program can't do its work.
pub const NOT_READY: ProblemKind = ProblemKind {
    slug: "not-ready",
    status: 503,
    title: "Not ready to work",
    meaning: "`why` lists what is missing.",
};

/// One problem, as it is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which kind: a reference to where the program's documentation explains it.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in few words.
    pub title: String,
    /// The status of the response.
    pub status: u16,
    /// What is wrong with this request, and what would be right.
    pub detail: String,
    /// The parameter that is wrong, if one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// What is missing if the program is not ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// The shards that did not choose the order in time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_shards: Vec<ShardId>,
}

impl ProblemKind {
    /// A problem of this kind, with what happened in this case.
    pub fn problem(&self, detail: impl Into<String>) -> Problem {
        Problem {
            kind: format!("{KINDS_AT}{}", self.slug),
            title: self.title.to_string(),
            status: self.status,
            detail: detail.into(),
            parameter: None,
            why: vec![],
            missing_shards: vec![],
        }
    }
}

impl From<&BadParameter> for Problem {
    fn from(bad: &BadParameter) -> Self {
        Self { parameter: Some(bad.parameter.clone()), ..BAD_PARAMETER.problem(bad.to_string()) }
    }
}
