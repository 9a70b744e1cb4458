//! `/openapi.json`: the description of the paths in OpenAPI 3.1. Parameters and columns come from the code that reads
//! and writes them, so that the description can't differ from it.

mod parameters;
mod paths;
mod schema;

use super::problem::KINDS;
use super::{Api, devices, ledger, sites, sql, status};
use actix_web::http::header::{self, ContentType};
use actix_web::{HttpResponse, web};
use schema::object;
use selvedge_http::describe::Document;
use selvedge_node_core::row::{More, RowTable};
use selvedge_node_core::table::Table;
use serde_json::Value;
use utoipa::openapi::ComponentsBuilder;
use utoipa::{PartialSchema, ToSchema};

const ABOUT: &str = "Windows of aggregates of all devices of all sites, each reading counted once.\n\nTimes are RFC 3339 in UTC, or epoch \
                     milliseconds where a name ends in `_ms`. Errors are `application/problem+json` (RFC 9457). Lists come in pages: pass \
                     `next` as `after`.";

const TAGS: &[(&str, &str)] = &[
    ("windows", "Windows of aggregates"),
    ("streams", "Devices and streams, and what is missing"),
    ("sql", "Any other query, in SQL"),
    ("sites", "The sites as their gateways report them"),
    ("node", "State of the node"),
    ("about", "Health and this description"),
];

pub(super) async fn document(api: web::Data<Api>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::json())
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(serde_json::to_vec(&describe(api.access.is_open())).unwrap_or_default())
}

/// The description of this release; with `open`, no operation needs a token.
pub fn describe(open: bool) -> Value {
    let (paths, components) = (paths::paths(), components());
    Document { title: "Selvedge node", about: ABOUT, tags: TAGS, components, kinds: KINDS, paths }
        .describe(open)
}

fn components() -> ComponentsBuilder {
    let fields = RowTable::new(None, More { zone: true, spans: true, merged: true, filled: true });
    let mut all = ComponentsBuilder::new()
        .schema("Row", object(fields.fields(), 6))
        .schema("EdgeRow", object(&sites::fields(), 6));
    for (name, schema) in [
        ("Devices", devices::Devices::schema()),
        ("SqlQuestion", sql::SqlQuestion::schema()),
        ("SqlAnswer", sql::Told::schema()),
        ("Ledger", ledger::Ledger::schema()),
        ("Status", status::Status::schema()),
        ("Health", status::Health::schema()),
    ] {
        all = all.schema(name, schema);
    }
    let mut nested = vec![];
    devices::Devices::schemas(&mut nested);
    ledger::Ledger::schemas(&mut nested);
    status::Status::schemas(&mut nested);
    sql::Told::schemas(&mut nested);
    all.schemas_from_iter(nested)
}
