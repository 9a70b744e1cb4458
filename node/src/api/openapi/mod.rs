//! `/openapi.json`: the paths as OpenAPI 3.1 describes them. Parameters and columns come from where they are read and written,
//! so that neither can be here and not there.

mod parameters;
mod paths;
mod schema;

use super::problem::{KINDS, MEDIA_TYPE, Problem};
use super::routes::Guard;
use super::{Api, devices, ledger, sql, status};
use actix_web::http::header::{self, ContentType};
use actix_web::{HttpResponse, web};
use paths::{Described, paths};
use schema::object;
use selvedge_node_core::row::{More, RowTable};
use selvedge_node_core::table::Table;
use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, OperationBuilder, PathsBuilder};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, ComponentsBuilder, Content, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem,
    Ref, RefOr, Response, ResponseBuilder,
};
use utoipa::{PartialSchema, ToSchema};

/// Under which name tokens are known in the document.
const TOKEN: &str = "token";

pub(super) async fn document(api: web::Data<Api>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::json())
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(serde_json::to_vec(&describe(api.access.is_open())).unwrap_or_default())
}

/// What this release answers, without a token if everything is open; with the types of problems, which OpenAPI has no
/// place for.
pub fn describe(open: bool) -> Value {
    let mut all = serde_json::to_value(document_of(open)).unwrap_or_default();
    let one = |kind: &super::problem::Kind| json!({ "slug": kind.slug, "status": kind.status.as_u16(), "title": kind.title, "meaning": kind.meaning });
    all["x-problems"] = KINDS.iter().map(one).collect();
    all
}

fn document_of(open: bool) -> OpenApi {
    let mut all = PathsBuilder::new();
    for one in paths() {
        all = all.path(one.path, PathItem::new(one.method.clone(), operation(one, open)));
    }
    let tags = [
        ("windows", "Windows of aggregates"),
        ("streams", "Devices and streams, and what is missing"),
        ("sql", "Any other question, in SQL"),
        ("node", "State of the node"),
        ("about", "Health and this description"),
    ];
    let tags = tags.map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build());
    let about = "Windows of aggregates of all devices of all sites, each reading counted once.\n\nTimes are RFC 3339 in UTC, or epoch \
                 milliseconds where a name ends in `_ms`. Errors are `application/problem+json` (RFC 9457). Lists come in pages: pass \
                 `next` as `after`.";
    let info = InfoBuilder::new()
        .title("Selvedge node")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(about))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()));
    OpenApiBuilder::new().info(info).paths(all).components(Some(components())).tags(Some(tags)).build()
}

fn components() -> Components {
    let fields = RowTable::new(None, More { zone: true, spans: true, merged: true, filled: true });
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A token of the setting `http.tokens`; none is needed while there are none."))
        .build();
    let mut all = ComponentsBuilder::new()
        .security_scheme(TOKEN, SecurityScheme::Http(token))
        .schema("Row", object(fields.fields(), 6))
        .response("Problem", problem("Why there is no answer; its `type` is explained in /docs"));
    for (name, schema) in [
        ("Problem", Problem::schema()),
        ("Devices", devices::Devices::schema()),
        ("SqlQuestion", sql::Question::schema()),
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
    all.schemas_from_iter(nested).build()
}

fn problem(description: &str) -> Response {
    let content = Content::new(Some(Ref::from_schema_name("Problem")));
    ResponseBuilder::new().description(description).content(MEDIA_TYPE, content).build()
}

fn operation(one: Described, open: bool) -> Operation {
    let mut ok = ResponseBuilder::new().description("The answer");
    for (media, content) in one.answers {
        ok = ok.content(media, content);
    }
    let mut all = OperationBuilder::new()
        .operation_id(Some(one.path.trim_start_matches('/').replace(['/', '.'], "_")))
        .tag(one.tag)
        .summary(Some(one.summary))
        .description(Some(one.description))
        .request_body(one.body)
        .response("200", ok);
    if !one.parameters.is_empty() {
        all = all.parameters(Some(one.parameters));
    }
    let of_guard: &[u16] = match one.guard {
        Guard::Open => &[],
        Guard::Scope(_) => &[400, 401, 403, 503],
    };
    for status in of_guard.iter().chain(one.problems) {
        let reference = RefOr::Ref(Ref::from_response_name("Problem"));
        all = all.response(status.to_string(), reference);
    }
    if let Guard::Scope(scope) = one.guard
        && !open
    {
        // Scopes of plain bearer tokens may be named since 3.1.
        all = all.security(SecurityRequirement::new(TOKEN, [scope.to_string()]));
    }
    all.build()
}
