//! `/openapi.json`: the description of a gateway's paths in OpenAPI 3.1.

use super::problem::KINDS;
use super::quarantine;
use super::{Api, access, clients, devices, membership, site, skipped};
use actix_web::http::Method;
use actix_web::http::header::{self, ContentType};
use actix_web::{HttpResponse, web};
use selvedge_http::describe::{
    Described, Document, content, limits, names, or_null, path_parameter, plain, query_parameter, rows_of,
    string, text,
};
use selvedge_http::site_parameters::site_parameters;
use selvedge_types::params::{DEFAULT_LIMIT_ENTRIES, MAX_LIMIT_ENTRIES};
use serde_json::{Value, json};
use utoipa::openapi::path::{HttpMethod, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{ArrayBuilder, ComponentsBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{Content, Ref, Required};

const ABOUT: &str = "A site's recent windows and everything that it has not sent yet, its devices, and what was not counted. Any gateway \
                     answers for its whole site; only `/v1/status`, `/v1/clients`, `/metrics` and health describe the gateway \
                     itself.\n\nTimes are RFC 3339 in UTC, or epoch milliseconds where a name ends in `_ms`. Errors are \
                     `application/problem+json` (RFC 9457). Lists come in pages: pass `next` as `after`.";

const TAGS: &[(&str, &str)] = &[
    ("windows", "Windows of aggregates"),
    ("devices", "Devices and streams"),
    ("not counted", "Publishes and fields that were not counted"),
    ("site", "State of the site"),
    ("gateway", "State of the gateway"),
    ("about", "Health and this description"),
];

pub(super) async fn document(api: web::Data<Api>) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::json())
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(serde_json::to_vec(&describe(api.open)).unwrap_or_default())
}

/// The description of this release; with `open`, no operation needs a token.
pub fn describe(open: bool) -> Value {
    let components = ComponentsBuilder::new().schema("Row", row());
    let (kinds, paths) = (KINDS, paths());
    Document { title: "Selvedge gateway", about: ABOUT, tags: TAGS, components, kinds, paths }.describe(open)
}

/// The description of a path without parameters.
fn described(
    method: HttpMethod,
    path: &'static str,
    tag: &'static str,
    summary: &'static str,
    description: &str,
    answer: Vec<(&'static str, Content)>,
) -> Described {
    let asked = if method == HttpMethod::Get { Method::GET } else { Method::POST };
    Described {
        path,
        scope: access::needed(&asked, path),
        method,
        tag,
        summary,
        description: description.to_string(),
        parameters: vec![],
        body: None,
        answers: answer,
        problems: &[],
    }
}

fn json_of(schema: impl Into<Schema>) -> Vec<(&'static str, Content)> {
    vec![("application/json", content(schema.into(), None))]
}

fn plain_text(about: &str) -> Vec<(&'static str, Content)> {
    vec![("text/plain", content(text(about), None))]
}

/// All paths, in the order in which `/docs` shows them.
fn paths() -> Vec<Described> {
    use HttpMethod::{Delete, Get, Post};
    let device = || path_parameter("device", "The device.");
    let stream = || path_parameter("stream", "The stream.");
    let gateway = || path_parameter("id", "The number of the gateway.");
    let entry = || path_parameter("id", "The entry, as `/v1/quarantine` lists it.");
    let some = |named: &[&str], most: u32, default: u32| -> Vec<Parameter> {
        named.iter().map(|name| parameter(name, most, default)).collect()
    };
    let listed = |named: &[&str]| some(named, MAX_LIMIT_ENTRIES, DEFAULT_LIMIT_ENTRIES);
    vec![
        Described {
            parameters: site_parameters().collect(),
            ..described(
                Get,
                "/v1/aggregates",
                "windows",
                "Recent windows, and all windows not sent yet",
                "Windows of the devices that `device` names, as the site keeps them, or merged with `every`; windows that are still open \
                 are among them (`closed` is false). `covers_since` says from what time on the answer is complete. Rows are in the order \
                 of device, stream and start. 503 if no replica could answer.",
                json_of(rows_of("aggregates", rows("Row"), &window_more())),
            )
        },
        Described {
            parameters: listed(&devices::LIST_PARAMETERS),
            ..described(
                Get,
                "/v1/devices",
                "devices",
                "Devices of the site",
                "In the order of their names, each with the number of its streams, the time of the last new reading, and the number of \
                 readings of further streams that the site refused.",
                json_of(rows_of("devices", objects(), &site_more())),
            )
        },
        Described {
            parameters: [vec![device()], listed(&devices::ONE_PARAMETERS)].concat(),
            problems: &[404],
            ..described(
                Get,
                "/v1/devices/{device}",
                "devices",
                "One device with its streams",
                "Each stream with its widths, its watermark, the client that introduced it, and the number of its readings that were set \
                 aside.",
                json_of(rows_of(
                    "streams",
                    objects(),
                    &[("device", text("The device.")), ("shard", whole("Its shard."))],
                )),
            )
        },
        Described {
            parameters: vec![device()],
            problems: &[404],
            ..described(
                Delete,
                "/v1/devices/{device}",
                "devices",
                "Retires a device",
                "Retires all streams of the device: their numbers become free, and the site still recognises resends of readings that it \
                 counted. New readings make the device known again.",
                json_of(plain(Type::Object)),
            )
        },
        Described {
            parameters: vec![device(), stream()],
            problems: &[404],
            ..described(
                Delete,
                "/v1/devices/{device}/streams/{stream}",
                "devices",
                "Retires a stream",
                "The same for one stream of the device.",
                json_of(plain(Type::Object)),
            )
        },
        Described {
            parameters: vec![device()],
            problems: &[404],
            ..described(
                Post,
                "/v1/devices/{device}/reset-sequence",
                "devices",
                "Accepts a device's sequence numbers from the start again",
                "For a device that lost its counter: the site judges its next readings as if it had counted none of that device before.",
                json_of(plain(Type::Object)),
            )
        },
        Described {
            parameters: vec![device(), stream()],
            problems: &[404],
            ..described(
                Post,
                "/v1/devices/{device}/streams/{stream}/reset-sequence",
                "devices",
                "The same for one stream",
                "The same for one stream of the device.",
                json_of(plain(Type::Object)),
            )
        },
        Described {
            parameters: some(&quarantine::PARAMETERS, quarantine::MAX_PAGE_ENTRIES, quarantine::PAGE_ENTRIES),
            ..described(
                Get,
                "/v1/quarantine",
                "not counted",
                "Publishes of which something was not counted",
                "Each with its topic, the reason, and the beginning of its payload, and how much the quarantine of the site holds.",
                json_of(quarantined()),
            )
        },
        Described {
            parameters: vec![entry()],
            problems: &[404],
            ..described(
                Get,
                "/v1/quarantine/{id}",
                "not counted",
                "One such publish",
                "With its whole payload.",
                json_of(plain(Type::Object)),
            )
        },
        Described {
            parameters: vec![entry()],
            problems: &[404],
            ..described(
                Delete,
                "/v1/quarantine/{id}",
                "not counted",
                "Discards a publish",
                "It will never be counted.",
                json_of(plain(Type::Object)),
            )
        },
        Described {
            parameters: vec![entry()],
            problems: &[404, 409],
            ..described(
                Post,
                "/v1/quarantine/{id}/readmit",
                "not counted",
                "Counts what was not counted before",
                "Decodes the publish by the present rules. 409 if that could count a reading twice, or if there is nothing to count.",
                json_of(plain(Type::Object)),
            )
        },
        described(
            Get,
            "/v1/unmapped",
            "not counted",
            "Topics that map to no stream and have no subscriber",
            "Those that the gateways received since they started.",
            json_of(plain(Type::Object)),
        ),
        Described {
            parameters: some(&skipped::PARAMETERS, 0, 0),
            ..described(
                Get,
                "/v1/skipped",
                "not counted",
                "Fields that were no readings, by device and name",
                "Those that the gateways received since they started.",
                json_of(plain(Type::Object)),
            )
        },
        described(
            Get,
            "/v1/gateways",
            "site",
            "The gateways of the site",
            "Each gateway as it describes itself: `ready`, `troubled` (its `trouble` says why), or `unreachable`. `behind_slots` is how many \
             slots its replica that is furthest behind has yet to apply; `room` says whether its disk takes new readings. \
             `directory_state`, `role`, `zone` and `mqtt` (where devices connect) come from the directory, and are null while the gateway \
             that answers has no copy of it. `takes_devices` says whether devices may come new; `connections_share` is the share of the \
             site's `connections` that it should have by its weight, null if it takes none.",
            json_of(gateways_answer()),
        ),
        described(
            Get,
            "/v1/directory",
            "site",
            "Gateways, wanted placement and moves",
            "This gateway's copy of the site's directory: each gateway's state (`joining`, `active`, `draining`), role, weight, zone and \
             addresses, whether this gateway can reach it (`up`), and the elapsed time at which it entered its state; the groups whose voters are not the wanted ones \
             (`misplaced`), and the moves under way. In a group or move, `shard` is null for the directory itself. 503 while this \
             gateway has no copy.",
            json_of(plain(Type::Object)),
        ),
        Described {
            parameters: vec![gateway(), key()],
            problems: &[404, 409],
            ..described(
                Post,
                "/v1/gateways/{id}/drain",
                "site",
                "Empties a gateway",
                "Its leaders, devices and replicas move to other gateways, for maintenance or before its removal. Answered when the order \
                 is chosen; `/v1/directory` shows how far it is. `changed` is false if the gateway was draining already.",
                json_of(ordered()),
            )
        },
        Described {
            parameters: vec![gateway(), key()],
            problems: &[404, 409],
            ..described(
                Post,
                "/v1/gateways/{id}/resume",
                "site",
                "Ends a drain",
                "The gateway is active again, and its share of the replicas moves back.",
                json_of(ordered()),
            )
        },
        Described {
            parameters: vec![gateway(), key()],
            body: Some(body("The new weight, 1 to 64.", json!({ "weight": 2 }))),
            problems: &[404, 409],
            ..described(
                Post,
                "/v1/gateways/{id}/weight",
                "site",
                "Changes a gateway's share",
                "Of the replicas, in relation to the other gateways' weights.",
                json_of(ordered()),
            )
        },
        Described {
            parameters: vec![gateway(), force(), key()],
            problems: &[404, 409],
            ..described(
                Delete,
                "/v1/gateways/{id}",
                "site",
                "Removes a gateway for good",
                "Whether or not it can be reached. Its number is never used again. 409 if a shard would lose its majority or its last good \
                 replica; the gateway that answers asks all others how their replicas are.",
                json_of(ordered()),
            )
        },
        Described {
            parameters: vec![key()],
            problems: &[409],
            ..described(
                Post,
                "/v1/moves/pause",
                "site",
                "Pauses all moves",
                "No replica moves, and none begins to, until the site is told to continue.",
                json_of(ordered()),
            )
        },
        Described {
            parameters: vec![key()],
            problems: &[409],
            ..described(
                Post,
                "/v1/moves/continue",
                "site",
                "Ends a pause",
                "Moves that were under way go on from where they were.",
                json_of(ordered()),
            )
        },
        Described {
            parameters: vec![key()],
            body: Some(body(
                "The limit in bytes per second, 16,384 to 1,073,741,824.",
                json!({ "bytes_per_s": 10_000_000 }),
            )),
            problems: &[409],
            ..described(
                Post,
                "/v1/moves/rate",
                "site",
                "Limits the bandwidth of moves",
                "For all moves of the site together.",
                json_of(ordered()),
            )
        },
        described(
            Get,
            "/v1/recovery",
            "gateway",
            "What this gateway has of the site",
            "Of this gateway alone, whatever has become of the others: the gateways that it knows and reaches, each group's latest \
             configuration, how far its replicas hold it, and the last plan that it has taken. `selvedge site recover` judges from it what \
             can be recovered when a majority is gone for good.",
            json_of(rows_of("replicas", objects(), &[("gateways", objects()), ("groups", objects())])),
        ),
        Described {
            body: Some(body("The plan that `selvedge site recover` made.", json!({}))),
            problems: &[409],
            ..described(
                Post,
                "/v1/recovery",
                "gateway",
                "Gives up a lost majority for good",
                "Hands this gateway the plan of a recovery. It is on disk when this is answered; then the process ends (exit code 70), and \
                 carries the plan out when it is started again. `changed` is false if it has this plan already. 409 if the plan is for \
                 another site or gateway, if a gateway that it gives up can still be reached, or if a plan of the same or a later generation \
                 is known.",
                json_of(ordered()),
            )
        },
        Described {
            parameters: listed(&site::SHARDS_PARAMETERS),
            ..described(
                Get,
                "/v1/shards",
                "site",
                "The shards of the site",
                "In order, each with its configuration, its leader, and its replicas with their roles and how far they are. `members`, \
                 `wanted_members` and `move` are null while this gateway has no copy of the directory.",
                json_of(rows_of("shards", objects(), &reached())),
            )
        },
        Described {
            parameters: vec![path_parameter("shard", "The shard's number.")],
            problems: &[404],
            ..described(
                Get,
                "/v1/shards/{shard}",
                "site",
                "One shard with its replicas",
                "A replica whose gateway does not answer has no role.",
                json_of(plain(Type::Object)),
            )
        },
        described(
            Get,
            "/v1/status",
            "gateway",
            "State of the gateway",
            "Its shards, links, clock, uplink and log, bounds that are nearly reached, and warnings.",
            json_of(plain(Type::Object)),
        ),
        Described {
            parameters: listed(&clients::PARAMETERS),
            ..described(
                Get,
                "/v1/clients",
                "gateway",
                "Clients connected to this gateway",
                "In the order in which they connected, and how the last connections ended.",
                json_of(rows_of("clients", objects(), &[("left", objects())])),
            )
        },
        Described {
            parameters: vec![key()],
            body: Some(invitation()),
            problems: &[409, 503],
            ..described(
                Post,
                "/v1/invitations",
                "site",
                "Lets one new gateway join",
                "The answer holds the one-time `token`, of which the site keeps only a hash, and `seeds`, the addresses where gateways of the \
                 site listen for each other. A repeated request needs the same `token` in its body, so clients that repeat draw it \
                 themselves.",
                json_of(ordered()),
            )
        },
        described(
            Get,
            "/v1/invitations",
            "site",
            "The open invitations",
            "Without their tokens: the `id` is the beginning of the SHA-256 of the token. `zone` is null if the new gateway names its own, \
             `replaces` if it takes no other one's place. Invitations that were used, withdrawn or have expired are not listed.",
            json_of(ObjectBuilder::new().property("invitations", objects()).required("invitations").build()),
        ),
        Described {
            parameters: vec![
                path_parameter("id", "The invitation: 8 hexadecimal digits, as the list has it."),
                key(),
            ],
            problems: &[404, 409, 503],
            ..described(
                Delete,
                "/v1/invitations/{id}",
                "site",
                "Withdraws an invitation",
                "Nobody can join with its token any more. 409 if a gateway has joined with it already.",
                json_of(ordered()),
            )
        },
        Described {
            parameters: vec![path_parameter(
                "id",
                "The ledger: 32 hexadecimal digits, as the node's `/v1/status` has it.",
            )],
            ..described(
                Post,
                "/v1/ledger/{id}",
                "gateway",
                "Admits a node's new database",
                "From then on only this database's confirmations trim what the site keeps, and the site sends it all that it still keeps. \
                 Repeating the order does no harm. 503 with `missing_shards` if some shards have not chosen it yet.",
                json_of(plain(Type::Object)),
            )
        },
        described(
            Get,
            "/metrics",
            "gateway",
            "Metrics for Prometheus",
            "Its text format.",
            plain_text("Metrics"),
        ),
        described(
            Get,
            "/healthz",
            "about",
            "Whether the gateway runs",
            "200 as long as it runs.",
            plain_text("`ok`"),
        ),
        Described {
            problems: &[503],
            ..described(
                Get,
                "/readyz",
                "about",
                "Whether the gateway serves",
                "200 with `ready`, followed by lines with warnings and the state of the uplink; otherwise 503, with the reason in `why`.",
                plain_text("`ready`"),
            )
        },
        described(
            Get,
            "/openapi.json",
            "about",
            "This description",
            "OpenAPI 3.1.",
            json_of(plain(Type::Object)),
        ),
        described(
            Get,
            "/docs",
            "about",
            "This description for people",
            "A page that loads nothing from elsewhere.",
            vec![("text/html", content(text("A page"), None))],
        ),
        described(
            Get,
            "/docs/page.js",
            "about",
            "The page's script",
            "Part of `/docs`.",
            vec![("text/javascript", content(text("A script"), None))],
        ),
        described(
            Get,
            "/docs/page.css",
            "about",
            "The page's style",
            "Part of `/docs`.",
            vec![("text/css", content(text("A style sheet"), None))],
        ),
    ]
}

/// The idempotency key of an order.
fn key() -> Parameter {
    let about = format!(
        "1 to {} printable ASCII characters, drawn by the client for this order. When a request is repeated with the same key, it gets the \
         outcome of the first. Without a key, each request is an order of its own.",
        membership::MAX_KEY_BYTES
    );
    let key = string("^[ -~]+$").max_length(Some(membership::MAX_KEY_BYTES));
    ParameterBuilder::new()
        .name(membership::KEY_HEADER)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(about))
        .schema(Some(key.build()))
        .build()
}

fn force() -> Parameter {
    let about = "`true` removes it even if a shard loses its majority or its last good replica.";
    let [name] = membership::REMOVE_PARAMETERS;
    query_parameter(name, about, plain(Type::Boolean), None)
}

/// The body of an order, whose only field the example has.
fn body(about: &str, example: Value) -> RequestBody {
    let fields = example.as_object().into_iter().flat_map(|o| o.keys());
    let schema = fields.fold(ObjectBuilder::new(), |all, name| {
        all.property(name, plain(Type::Integer).minimum(Some(1))).required(name)
    });
    RequestBodyBuilder::new()
        .description(Some(about))
        .content("application/json", content(Schema::from(schema.build()), Some(example)))
        .required(Some(Required::True))
        .build()
}

/// The body of an invitation.
fn invitation() -> RequestBody {
    let about = "What the invitation admits; all fields may be missing.";
    let token =
        string("^[0-9a-fA-F]{64}$").description(Some("Drawn by the client; without it, by the gateway."));
    let replaces = plain(Type::Integer).description(Some(
        "The gateway whose place the new one takes; it is removed when it holds nothing more.",
    ));
    let witness = flag("Whether it only votes.");
    let weight = plain(Type::Integer)
        .minimum(Some(1))
        .description(Some("Its share of the replicas; as the replaced gateway, or 1."));
    let zone = text("Its zone; what its own settings say, or as the replaced gateway.");
    let lasts = plain(Type::Integer)
        .minimum(Some(1))
        .description(Some("When the token expires, in seconds; 3600, at most seven days."));
    let schema = ObjectBuilder::new()
        .property("token", token)
        .property("replaces", replaces)
        .property("witness", witness)
        .property("weight", weight)
        .property("zone", zone)
        .property("lasts_s", lasts);
    RequestBodyBuilder::new()
        .description(Some(about))
        .content("application/json", content(Schema::from(schema.build()), Some(json!({ "replaces": 2 }))))
        .required(Some(Required::True))
        .build()
}

/// The answer to an order to the directory: what was ordered, and whether that changed anything.
fn ordered() -> Schema {
    let changed = flag("Whether the order changed anything: false if all was so already.");
    ObjectBuilder::new().property("changed", changed).required("changed").build().into()
}

/// A parameter that is not part of a query for windows.
fn parameter(name: &str, most: u32, default: u32) -> Parameter {
    let (description, schema) = match name {
        "client" => ("A client id, or (of `/v1/clients`) a pattern of them.".to_string(), names()),
        "device" => ("One device.".to_string(), names()),
        "limit" => (format!("The maximum number of entries; {default} by default."), limits(most)),
        _ => ("The `next` of an earlier answer, to continue there.".to_string(), names()),
    };
    query_parameter(name, description, schema, None)
}

fn whole(about: &str) -> Schema {
    plain(Type::Integer).description(Some(about)).build().into()
}

fn rows(name: &str) -> Schema {
    ArrayBuilder::new().items(Ref::from_schema_name(name)).build().into()
}

fn objects() -> Schema {
    ArrayBuilder::new().items(plain(Type::Object).build()).build().into()
}

fn flag(about: &str) -> Schema {
    plain(Type::Boolean).description(Some(about)).build().into()
}

fn numbers(about: &str) -> Schema {
    ArrayBuilder::new().items(plain(Type::Integer).build()).description(Some(about)).build().into()
}

/// Whether every gateway answered.
fn reached() -> [(&'static str, Schema); 2] {
    let [partial, _, gateways] = site_more();
    [partial, gateways]
}

/// The answer of `/v1/gateways`, which has no pages.
fn gateways_answer() -> Schema {
    let mut all: Vec<(&str, Schema)> = vec![
        ("gateways", objects()),
        ("site", text("The site.")),
        ("answered_by", whole("The gateway that gathered the answers.")),
        ("shard_count", whole("How many shards the site has.")),
        ("replicas_per_shard", whole("How many gateways hold each of them.")),
        ("leaderless_shards", whole("How many shards have no leader among the gateways that answered.")),
        ("directory", or_null(Type::Object).description(Some("What moves: as `/v1/directory`, without its lists of gateways and groups. Null while the gateway that answers has no copy of the directory.")).build().into()),
    ];
    all.extend(reached());
    let body = ObjectBuilder::new();
    let put =
        |body: ObjectBuilder, (name, schema): (&str, Schema)| body.property(name, schema).required(name);
    all.into_iter().fold(body, put).build().into()
}

/// The fields in every answer for the whole site about parts that are out of reach.
fn site_more() -> [(&'static str, Schema); 3] {
    [
        ("partial", flag("Whether a part of the site is out of reach, so that something may be missing.")),
        ("missing_shards", numbers("The shards that did not answer.")),
        ("missing_gateways", numbers("The gateways that are out of reach.")),
    ]
}

fn window_more() -> Vec<(&'static str, Schema)> {
    let time = |about: &str| or_null(Type::String).description(Some(about)).build().into();
    let mut all = vec![
        ("from", time("The same as in the request.")),
        ("to", time("The same as in the request.")),
        (
            "covers_since",
            time(
                "The answer may lack windows that closed before this time: the site no longer keeps them, or did not read them. Null if \
                 it read all.",
            ),
        ),
        (
            "unreadable_batches",
            whole("The number of batches that the site should still have, but could not read."),
        ),
        ("consistency", text("The same as in the request.")),
    ];
    all.extend(site_more());
    all
}

fn quarantined() -> Schema {
    let mut body = ObjectBuilder::new()
        .property("entries", objects())
        .property(
            "next",
            or_null(Type::String)
                .description(Some("The value of `after` for the next page; null on the last one.")),
        )
        .property("kept", whole("The number of publishes in the quarantine."))
        .property("bytes", whole("The number of bytes that they take."))
        .property(
            "total",
            whole("The number of publishes that went into the quarantine since the site began."),
        )
        .property("evicted", whole("The number of these that its bound pushed out."));
    for (name, schema) in site_more() {
        body = body.property(name, schema);
    }
    body.build().into()
}

/// A window, with the fields that `window` writes.
fn row() -> Schema {
    let number = |about: &str| -> Schema { or_null(Type::Number).description(Some(about)).build().into() };
    let sample = |about: &str| -> Schema {
        let of = ObjectBuilder::new().description(Some(about));
        let of = of
            .property("time", text("When it was measured."))
            .property("time_ms", whole("The same in milliseconds since 1970."));
        of.property("value", plain(Type::Number)).build().into()
    };
    let quantile = "By nearest rank, or close to it; null if no sketch was kept.";
    let missing = or_null(Type::Integer).description(Some(
        "The number of sequence numbers missing between its readings; null if they have none.",
    ));
    ObjectBuilder::new()
        .property("site", text("The site."))
        .property("device", text("The device."))
        .property("stream", text("The stream."))
        .property("start", text("The start of the window."))
        .property("start_ms", whole("The same in milliseconds since 1970."))
        .property("width_ms", whole("The length in milliseconds."))
        .property("count", whole("The number of readings."))
        .property("sum", number("The sum of the values; null if a double can't hold it."))
        .property("mean", number("The arithmetic mean."))
        .property("min", number("The least value."))
        .property("max", number("The greatest value."))
        .property("stddev", number("The standard deviation of all readings, not of a sample."))
        .property("p50", number(quantile))
        .property("p90", number(quantile))
        .property("p99", number(quantile))
        .property("first", sample("The earliest reading."))
        .property("last", sample("The latest reading."))
        .property("late", whole("The number of readings that came after the window had closed."))
        .property("set_aside", whole("The number of readings of the stream that the site set aside meanwhile: not counted, but kept in \
                                      the quarantine."))
        .property("missing", missing)
        .property("parts", whole("The number of parts that were merged."))
        .property("fingerprint", text("A hash of the values: equal for equal values, in any order."))
        .property("watermark", text("The watermark of the stream by now."))
        .property("watermark_ms", whole("The same in milliseconds since 1970."))
        .property("complete", flag("Whether the stream has passed the end of the window."))
        .property("closed", flag("Whether the window has closed: false while a part of it is open."))
        .build()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::http::tests::a_window;
    use crate::actors::http::{routes, window};
    use actix_web::App;
    use actix_web::test::init_service;
    use selvedge_types::ids::SiteId;
    use std::collections::BTreeSet;

    #[actix_web::test]
    async fn every_path_is_described_and_every_described_one_is_there() {
        let mut there = vec![];
        init_service(App::new().configure(|app| there = routes(app))).await;
        let one = |(path, methods): (&str, Vec<Method>)| {
            methods
                .into_iter()
                .map(move |method| (path.to_string(), method.as_str().to_lowercase()))
                .collect::<Vec<_>>()
        };
        let there: BTreeSet<_> = there.into_iter().flat_map(one).collect();
        let all = describe(false);
        let (mut told, mut ids) = (BTreeSet::new(), BTreeSet::new());
        let tags: Vec<_> = all["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
        for (path, methods) in all["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                told.insert((path.clone(), method.clone()));
                assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{path}");
                assert!(tags.contains(&&operation["tags"][0]), "{path}: the page shows no such chapter");
                let asked: Method = method.to_uppercase().parse().unwrap();
                let scope =
                    access::needed(&asked, path).map(|scope| json!([{ "token": [scope.to_string()] }]));
                assert_eq!(operation["security"], scope.unwrap_or_default(), "{path}");
                let variables = path.matches('{').count();
                let of_path =
                    operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "path");
                assert_eq!(of_path.count(), variables, "{path}");
            }
        }
        assert_eq!(told, there);
        assert_eq!(describe(true)["paths"]["/v1/aggregates"]["get"]["security"], Value::Null);
    }

    #[test]
    fn all_references_lead_somewhere_and_a_row_has_the_fields_that_are_described() {
        let all = describe(false);
        let mut waiting = vec![&all];
        while let Some(value) = waiting.pop() {
            if let Some(reference) = value["$ref"].as_str() {
                assert!(all.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference}");
            }
            waiting.extend(value.as_object().into_iter().flat_map(|o| o.values()));
            waiting.extend(value.as_array().into_iter().flatten());
        }
        let told = all["components"]["schemas"]["Row"]["properties"].as_object().unwrap();
        let row = window(&SiteId::new("plant-7").unwrap(), &a_window(&[1.0]));
        let written = row.as_object().unwrap();
        assert_eq!(told.keys().collect::<BTreeSet<_>>(), written.keys().collect::<BTreeSet<_>>());
    }

    /// A request with an unknown parameter is answered with the list of known ones.
    #[test]
    fn the_parameters_that_are_described_are_those_that_are_read() {
        let all = describe(false);
        let read: [(&str, &[&str]); 7] = [
            ("/v1/aggregates", &selvedge_types::question::SITE_PARAMETERS),
            ("/v1/devices", &devices::LIST_PARAMETERS),
            ("/v1/devices/{device}", &devices::ONE_PARAMETERS),
            ("/v1/quarantine", &quarantine::PARAMETERS),
            ("/v1/skipped", &skipped::PARAMETERS),
            ("/v1/shards", &site::SHARDS_PARAMETERS),
            ("/v1/clients", &clients::PARAMETERS),
        ];
        for (path, methods) in all["paths"].as_object().unwrap() {
            let parameters = methods["get"]["parameters"].as_array().into_iter().flatten();
            let told: BTreeSet<_> =
                parameters.filter(|p| p["in"] == "query").map(|p| p["name"].as_str().unwrap()).collect();
            let known = read.iter().find(|(known, _)| known == path).map_or(&[][..], |(_, names)| names);
            assert_eq!(told, known.iter().copied().collect::<BTreeSet<_>>(), "{path}");
        }
    }
}
