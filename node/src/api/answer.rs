//! Answers with rows: the requested form, the place of the next page, and the bounds of an answer.

use super::problem::Failure;
use crate::lake::parquet;
use actix_web::http::header::{self, Header};
use actix_web::{HttpRequest, HttpResponse};
use selvedge_node_core::table::{self, Form, JsonRows, Table};
use selvedge_types::params::Parameters;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

/// The approximate size limit of an answer in bytes: it ends with a `next` before it has more, but has at least one
/// row.
pub const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// The longest query string that an answer repeats in a `Link` header.
const MAX_LINK_BYTES: usize = 4096;

/// The form of the answer: by `format`, or else by `Accept`.
pub fn form(request: &HttpRequest, p: &Parameters) -> Result<Form, Failure> {
    let accepted = header::Accept::parse(request).map(|accept| accept.ranked()).unwrap_or_default();
    let accepted: Vec<String> = accepted.iter().map(|media| media.essence_str().to_string()).collect();
    Form::choose(p.text("format")?, &accepted)?.ok_or_else(|| {
        let why = format!("`Accept` names no available form; there are: {}", Form::media_types());
        Failure::Accept(why)
    })
}

/// Whether an answer is one page, which says where to continue, rather than all rows.
pub fn is_page(form: Form, p: &Parameters) -> bool {
    form == Form::Json || p.has("limit") || p.has("after")
}

/// Answers with rows. In JSON they are called `name`, with `more` beside them.
pub fn rows<T: Table>(
    request: &HttpRequest,
    form: Form,
    name: &'static str,
    table: &T,
    next: Option<String>,
    more: Option<(&'static str, serde_json::Value)>,
) -> HttpResponse {
    let next_is_there = next.is_some();
    let link = next.as_ref().and_then(|next| link(request, next));
    let body = match form {
        Form::Json => serde_json::to_vec(&Body { name, table, next, more }).ok(),
        Form::Csv => {
            table::csv_head(table.fields()).and_then(|head| Ok([head, table::csv_rows(table)?].concat())).ok()
        }
        Form::Lines => table::lines(table).ok(),
        Form::Parquet => parquet::of_table(table).ok(),
    };
    let mut answer = HttpResponse::Ok();
    if next_is_there {
        // The other forms have no place for this.
        answer.insert_header(("Selvedge-Truncated", "true"));
    }
    if let Some(link) = link {
        answer.insert_header((header::LINK, link));
    }
    answer.insert_header((header::VARY, "Accept"));
    answer.content_type(form.content_type()).body(body.unwrap_or_default())
}

struct Body<'a, T> {
    name: &'static str,
    table: &'a T,
    next: Option<String>,
    more: Option<(&'static str, serde_json::Value)>,
}

impl<T: Table> Serialize for Body<'_, T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut body = to.serialize_map(None)?;
        body.serialize_entry(self.name, &JsonRows(self.table))?;
        if let Some((name, value)) = &self.more {
            body.serialize_entry(name, value)?;
        }
        body.serialize_entry("truncated", &self.next.is_some())?;
        body.serialize_entry("next", &self.next)?;
        body.end()
    }
}

/// The request for the next page, as a link of RFC 8288.
fn link(request: &HttpRequest, next: &str) -> Option<String> {
    let query = request.query_string();
    let rest = query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("after="));
    let rest: String = rest.map(|pair| format!("{pair}&")).collect();
    let sound = rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'"'));
    (sound && rest.len() <= MAX_LINK_BYTES).then(|| format!("<?{rest}after={next}>; rel=\"next\""))
}
