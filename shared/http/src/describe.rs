//! Paths as OpenAPI 3.1 describes them.

use selvedge_guard::access::Scope;
use selvedge_types::problem::{MEDIA_TYPE, ProblemKind};
use serde_json::{Value, json};
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, LicenseBuilder, OpenApiBuilder, PathItem, Ref, RefOr, Required,
    Response, ResponseBuilder,
};

/// Under which name tokens are known in the document.
const TOKEN: &str = "token";

/// One path with one method.
pub struct Described {
    /// The path, with its variables in braces.
    pub path: &'static str,
    pub method: HttpMethod,
    /// The scope that a token needs; nothing: everybody may ask.
    pub scope: Option<Scope>,
    /// The chapter in which it is shown.
    pub tag: &'static str,
    /// What it answers or does, in few words.
    pub summary: &'static str,
    /// All that its caller should know.
    pub description: String,
    /// Its parameters, in the order in which they are shown.
    pub parameters: Vec<Parameter>,
    /// The body that it takes.
    pub body: Option<RequestBody>,
    /// Media type and content of the answer.
    pub answers: Vec<(&'static str, Content)>,
    /// The statuses of problems beyond those that every path may have.
    pub problems: &'static [u16],
}

/// The description of an API.
pub struct Document {
    pub title: &'static str,
    /// What the API is for.
    pub about: &'static str,
    /// The chapters, each with its name.
    pub tags: &'static [(&'static str, &'static str)],
    /// Schemas that paths refer to; `Problem` is added.
    pub components: ComponentsBuilder,
    /// The kinds of problems that there are.
    pub kinds: &'static [ProblemKind],
    pub paths: Vec<Described>,
}

impl Document {
    /// As JSON. No path asks for a token if the program is `open`. The kinds of problems stand in `x-problems`, since OpenAPI has no
    /// place for them.
    pub fn describe(self, open: bool) -> Value {
        let mut paths = PathsBuilder::new();
        for one in self.paths {
            paths = paths.path(one.path, PathItem::new(one.method.clone(), operation(one, open)));
        }
        let tags = self.tags.iter();
        let tags = tags.map(|(name, text)| TagBuilder::new().name(*name).description(Some(*text)).build());
        let info = InfoBuilder::new()
            .title(self.title)
            .version(env!("CARGO_PKG_VERSION"))
            .description(Some(self.about))
            .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()));
        let token = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "A token of the setting `http.tokens`; requests need none while the setting is empty.",
            ))
            .build();
        let components = self
            .components
            .security_scheme(TOKEN, SecurityScheme::Http(token))
            .schema("Problem", problem())
            .response("Problem", refusal("Why there is no answer; its `type` is explained in /docs"));
        let document = OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build()));
        let document = document.tags(Some(tags.collect::<Vec<_>>())).build();
        let mut all = serde_json::to_value(document).unwrap_or_default();
        all["x-problems"] = self.kinds.iter().map(|kind| json!(kind)).collect();
        all
    }
}

fn refusal(description: &str) -> Response {
    let content = Content::new(Some(Ref::from_schema_name("Problem")));
    ResponseBuilder::new().description(description).content(MEDIA_TYPE, content).build()
}

/// The schema of [`selvedge_types::problem::Problem`].
fn problem() -> Schema {
    let text = |about: &str, example: &str| {
        plain(Type::String).description(Some(about)).examples([json!(example)]).build()
    };
    let list = |kind: Type, about: &str| {
        ArrayBuilder::new().items(plain(kind).build()).description(Some(about)).build()
    };
    let status = plain(Type::Integer).description(Some("The status of the response.")).examples([json!(400)]);
    let detail = "parameter `limit`: \"0\" is not a whole number from 1 to 10000";
    let mut all = ObjectBuilder::new()
        .property("type", text("The kind of problem: a reference into /docs.", "/docs#problem-bad-parameter"))
        .property("title", text("The kind in a few words.", "A parameter is wrong"))
        .property("status", status.build())
        .property("detail", text("What is wrong with this request, and what would be right.", detail))
        .property("parameter", text("The parameter that is wrong, if one is.", "limit"))
        .property("why", list(Type::String, "What is missing if the program is not ready."))
        .property("missing_shards", list(Type::Integer, "The shards that did not choose the order in time."));
    for always in ["type", "title", "status", "detail"] {
        all = all.required(always);
    }
    all.build().into()
}

fn operation(one: Described, open: bool) -> Operation {
    let mut ok = ResponseBuilder::new().description("The answer");
    for (media, content) in one.answers {
        ok = ok.content(media, content);
    }
    let path = one.path.trim_start_matches('/').replace(['/', '.'], "_");
    let id = match one.method {
        HttpMethod::Delete => format!("delete_{path}"),
        HttpMethod::Post => format!("post_{path}"),
        _ => path,
    };
    let mut all = OperationBuilder::new()
        .operation_id(Some(id))
        .tag(one.tag)
        .summary(Some(one.summary))
        .description(Some(one.description))
        .request_body(one.body)
        .response("200", ok);
    if !one.parameters.is_empty() {
        all = all.parameters(Some(one.parameters));
    }
    let of_scope: &[u16] = if one.scope.is_some() { &[400, 401, 403, 503] } else { &[] };
    for status in of_scope.iter().chain(one.problems) {
        let reference = RefOr::Ref(Ref::from_response_name("Problem"));
        all = all.response(status.to_string(), reference);
    }
    if let Some(scope) = one.scope.filter(|_| !open) {
        // Scopes of plain bearer tokens may be named since 3.1.
        all = all.security(SecurityRequirement::new(TOKEN, [scope.to_string()]));
    }
    all.build()
}

/// A parameter of the query string, which may be left out.
pub fn query_parameter(
    name: &str,
    description: impl Into<String>,
    schema: ObjectBuilder,
    example: Option<Value>,
) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(schema.examples(example.clone()).build()))
        .example(example)
        .build()
}

/// A variable of the path.
pub fn path_parameter(name: &str, description: &str) -> Parameter {
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(names().build()))
        .build()
}

/// A schema of one type.
pub fn plain(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(kind)
}

/// A schema of one type, or null.
pub fn or_null(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::from_iter([kind, Type::Null]))
}

/// A text of a form.
pub fn string(pattern: &str) -> ObjectBuilder {
    plain(Type::String).pattern(Some(pattern))
}

/// A name, which is not empty.
pub fn names() -> ObjectBuilder {
    plain(Type::String).min_length(Some(1))
}

/// A number of rows.
pub fn limits(most: u32) -> ObjectBuilder {
    plain(Type::Integer).minimum(Some(1)).maximum(Some(most))
}

/// A time as a person asks with it.
pub fn times() -> ObjectBuilder {
    string(
        r"^(-?[0-9]{1,14}(s|ms)?|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2}))$",
    )
}

/// A duration as `parse_duration_ms` reads it.
pub fn durations() -> ObjectBuilder {
    string(r"^0*[1-9][0-9]{0,10}(ms|s|m|h|d)?$")
}

/// A text of any form, with what it is for.
pub fn text(description: &str) -> Schema {
    plain(Type::String).description(Some(description)).build().into()
}

/// The content of an answer, with an example.
pub fn content(schema: impl Into<RefOr<Schema>>, example: Option<Value>) -> Content {
    let mut content = Content::new(Some(schema));
    content.example = example;
    content
}

/// A page of a list: `{ name: rows, ..., truncated, next }`.
pub fn rows_of(name: &str, rows: Schema, more: &[(&str, Schema)]) -> Schema {
    let mut body = ObjectBuilder::new().property(name, rows).required(name);
    for (name, schema) in more {
        body = body.property(*name, schema.clone()).required(*name);
    }
    let next = or_null(Type::String)
        .description(Some("The value of `after` for the next page; null on the last one."));
    let more = plain(Type::Boolean).description(Some("Whether there are more rows."));
    let body = body.property("truncated", more).property("next", next);
    body.required("truncated").required("next").build().into()
}
