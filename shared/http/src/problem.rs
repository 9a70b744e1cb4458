//! Problems as responses: `application/problem+json` for everything that is not answered, what actix-web refuses by itself included.

use actix_web::error::InternalError;
use actix_web::http::StatusCode;
use actix_web::http::header::HeaderName;
use actix_web::{HttpResponse, web};
use selvedge_types::params::bad;
use selvedge_types::problem::{MEDIA_TYPE, Problem};

/// How long to wait before asking again where a bound is reached or something is out of reach.
pub const RETRY_AFTER_S: u32 = 5;

/// The longest piece of a path that an error repeats.
const MAX_SHOWN_CHARS: usize = 80;

/// A piece of a path, cut short.
pub fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN_CHARS).collect()
}

/// The response, with the headers that belong to its kind.
pub fn respond(problem: &Problem, headers: &[(HeaderName, String)]) -> HttpResponse {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = HttpResponse::build(status);
    for (name, value) in headers {
        answer.insert_header((name.clone(), value.as_str()));
    }
    answer.content_type(MEDIA_TYPE).body(serde_json::to_vec(problem).unwrap_or_default())
}

/// Has an application answer with a problem where the query string or the path of a request can't be read.
pub fn refuse_unreadable(app: &mut web::ServiceConfig) {
    let refused = |part: &str, why: &str| respond(&Problem::from(&bad(part, why)), &[]);
    let query = web::QueryConfig::default().error_handler(move |error, _| {
        let why = "is not a list of name=value, joined by `&`, with special characters as %20 and the like";
        InternalError::from_response(error, refused("query string", why)).into()
    });
    let path = web::PathConfig::default().error_handler(move |error, _| {
        let why = "has a name that can't be read: write special characters as %20 and the like, in UTF-8";
        InternalError::from_response(error, refused("path", why)).into()
    });
    app.app_data(query).app_data(path);
}
