//! All paths, in the order in which `/docs` shows them.

use super::super::{aggregates, answer, devices, gaps, latest, ledger, live, sites, sql};
use super::parameters::parameter;
use super::schema::{holes, object};
use crate::live::MAX_LISTENERS_ENTRIES;
use selvedge_guard::access::Scope;
use selvedge_http::describe::{Described, content, path_parameter, rows_of, text};
use selvedge_http::site_parameters::site_parameters;
use selvedge_node_core::query::{AGGREGATE_PARAMETERS, MAX_MERGED_ENTRIES, MAX_MERGED_STREAMS_ENTRIES};
use selvedge_node_core::series_rows::SCAN_ENTRIES;
use serde_json::{Value, json};
use utoipa::openapi::path::{HttpMethod, Parameter};
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr, Required};

const READ: Option<Scope> = Some(Scope::Read);

/// Describes every path, in the order in which `/docs` shows them.
pub(super) fn paths() -> Vec<Described> {
    let rows = |name: &str, table: Schema, example: Value| {
        vec![
            ("application/json", content(rows_of(name, table, &[]), Some(example))),
            ("text/csv", content(text("RFC 4180, with a header line; `_` stands for `.`"), None)),
            ("application/x-ndjson", content(text("JSON, one row per line"), None)),
            ("application/vnd.apache.parquet", content(text("A Parquet file; `_` stands for `.`"), None)),
        ]
    };
    let row = || Ref::from_schema_name("Row");
    let read = |path, tag, summary, description: String, parameters: &[&str], answers, problems| Described {
        path,
        method: HttpMethod::Get,
        scope: READ,
        tag,
        summary,
        description,
        parameters: parameters.iter().map(|name| parameter(name)).collect(),
        body: None,
        answers,
        problems,
    };
    let of_rows = |name: &str, example| {
        let array = ArrayBuilder::new().items(row()).build();
        rows(name, array.into(), example)
    };
    let open = |path, summary, description: &str, answers| Described {
        path,
        method: HttpMethod::Get,
        scope: None,
        tag: "about",
        summary,
        description: description.to_string(),
        parameters: vec![],
        body: None,
        answers,
        problems: &[],
    };
    let gap_fields = gaps::fields();
    let gap_row = object(&gap_fields, gap_fields.len());
    let gap_rows: Schema = ArrayBuilder::new().items(RefOr::T(gap_row)).build().into();
    vec![
        read(
            "/v1/aggregates",
            "windows",
            "Windows, as stored or merged",
            format!(
                "Without `every`, the answer has the windows of each matching stream as they are stored, at their narrowest width; with \
                 `every` they are merged into spans. `group_by` merges streams. Rows are in the order of stream and start; merged rows in \
                 the order of start. A row is complete when its stream has passed its end and no lost batch may have held some of it.\n\n\
                 In CSV, JSON lines and Parquet the answer holds all rows, unless `limit` or `after` is given; an answer that the node can't \
                 complete breaks off (the node closes the connection before the last chunk). In CSV a text that begins with `=`, `+`, `-`, `@`, `'` or a control character has \
                 a `'` before it.\n\nIn JSON an answer ends with `next` (also as header `Link`) when it has `limit` rows, about {} MiB, or has read {} \
                 windows. One row is made of at most {MAX_MERGED_ENTRIES} windows or roll-ups; the windows of at most \
                 {MAX_MERGED_STREAMS_ENTRIES} streams are merged with each other, roll-ups (whole minutes, hours and days that the stored widths divide) of up to {}.",
                answer::MAX_ANSWER_BYTES / 1024 / 1024,
                SCAN_ENTRIES,
                aggregates::MAX_SERIES_ENTRIES,
            ),
            &AGGREGATE_PARAMETERS,
            of_rows("aggregates", example_rows("aggregates")),
            &[406],
        ),
        read(
            "/v1/latest",
            "windows",
            "The newest window of each stream",
            "One row for each stream, at its narrowest width: its newest window, whose `last` is the newest value with its time. A \
             window that is more than an hour ahead of its stream, or a day ahead of the node's clock, does not count as the newest. \
             In the order of site, device and stream."
                .to_string(),
            &latest::PARAMETERS,
            of_rows("latest", example_rows("latest")),
            &[406],
        ),
        Described {
            path: "/v1/live",
            method: HttpMethod::Get,
            scope: Some(Scope::Live),
            tag: "windows",
            summary: "Windows as they are applied",
            description: format!(
                "Server-sent events. `window` holds a row as `/v1/aggregates` returns it, as the window is stored after the batch; a \
                 late reading causes its window to be sent again. `lagged` says that windows were left out, and how many (null: unknown): \
                 query `/v1/aggregates` for them. A client that reconnects with `Last-Event-ID` receives the events it missed. Comments \
                 keep the connection open. At most {MAX_LISTENERS_ENTRIES} clients may listen. With several nodes at one database, each \
                 sends what it applied itself."
            ),
            parameters: live::PARAMETERS.iter().map(|name| parameter(name)).collect(),
            body: None,
            answers: vec![("text/event-stream", content(text("Events `window` and `lagged`"), None))],
            problems: &[],
        },
        read(
            "/v1/devices",
            "streams",
            "Devices with their streams",
            "In the order of site and name, with the number of readings that were counted, came late, were set aside by the site, or are \
             missing by their sequence numbers."
                .to_string(),
            &devices::DEVICE_PARAMETERS,
            vec![("application/json", content(Ref::from_schema_name("Devices"), Some(example_devices())))],
            &[],
        ),
        read(
            "/v1/gaps",
            "streams",
            "Where windows are missing",
            format!(
                "A gap is a stretch between the first and the last window of a stream, within `from` and `to`, in which no window is \
                 stored. Each gap has the number of windows that fit into it (null where more than a year lies between two windows: a \
                 clock was wrong). Windows ahead of their time do not end a gap. Gaps are at the stream's narrowest width, or at `width`. \
                 A device that was silent leaves gaps, and so does one whose readings were lost.\n\n`holes` are runs of batches of the \
                 same sites that the edge no longer had and that never came, found at or after `from`, the last {} of them; what they \
                 held is unknown. An answer looks at {} windows at most before it ends with `next`.",
                gaps::MAX_HOLES_ENTRIES,
                gaps::SCAN_ENTRIES,
            ),
            &gaps::PARAMETERS,
            vec![
                ("application/json", content(rows_of("gaps", gap_rows, &[("holes", holes())]), Some(example_gaps()))),
                ("text/csv", content(text("The gaps; RFC 4180, with a header line"), None)),
                ("application/x-ndjson", content(text("The gaps as JSON, one per line"), None)),
                ("application/vnd.apache.parquet", content(text("The gaps as a Parquet file"), None)),
            ],
            &[406],
        ),
        read(
            "/v1/ledger",
            "streams",
            "Count and fingerprint of every window",
            "A compact list for comparison with what devices sent: equal fingerprints mean equal values, in any order.".to_string(),
            &ledger::PARAMETERS,
            vec![("application/json", content(Ref::from_schema_name("Ledger"), None))],
            &[],
        ),
        Described {
            path: "/v1/sql",
            method: HttpMethod::Post,
            scope: Some(Scope::Sql),
            tag: "sql",
            summary: "One statement that reads",
            description: format!(
                "The statement is in the database's own SQL, on its views `devices`, `streams`, `windows`, `windows_all`, `minute`, `hour`, \
                 `day`, `holes` and `shards`. Off unless `http.sql.enabled = true`. The connection can't write. The node stops a statement \
                 after `http.sql.timeout_ms`, or when the client closes its connection. It cuts an answer off after `http.sql.limit_rows` rows \
                 or `http.sql.limit_bytes` (`truncated`); in CSV and JSON lines it refuses such an answer, unless `limit` was given. At most \
                 {} statements run at a time. On PostgreSQL a statement may only call functions that compute from their arguments, and an \
                 alias with columns needs AS before it.",
                sql::MAX_RUNNING_ENTRIES
            ),
            parameters: sql::PARAMETERS.iter().map(|name| parameter(name)).collect(),
            body: Some(question()),
            answers: vec![
                ("application/json", content(Ref::from_schema_name("SqlAnswer"), Some(example_sql()))),
                ("text/csv", content(text("RFC 4180, with a header line"), None)),
                ("application/x-ndjson", content(text("JSON, one row per line, each as an array"), None)),
            ],
            problems: &[406, 413, 415, 422],
        },
        read(
            "/v1/sites",
            "sites",
            "The sites as their gateways report them",
            "Each site with its gateways: when the node last heard them, whether they are ready, their state in the site (`joining`, `active`, \
             `draining`, `gone`), how many replicas they hold and should hold, and their load; how much waits to be sent; and `moves`, the \
             replicas that move now: the shard (null for the directory group), from which gateway to which, the phase (`waiting`, `learning`, \
             `stopping`), and the bytes done and in all (null until known). `moves_paused` is true while an operator has paused them."
                .to_string(),
            &[],
            vec![("application/json", content(ObjectBuilder::new().build(), None))],
            &[],
        ),
        Described {
            parameters: vec![site_of_path()],
            ..read(
                "/v1/sites/{site}",
                "sites",
                "One site with its shards",
                "As in `/v1/sites`, and for each shard its replicas, its leader and its outbox; and `holes`, the batches that this node will never \
                 have, as in `/v1/gaps`, the newest first. Those with `lost_at_site` are lost on every replica at the site."
                    .to_string(),
                &[],
                vec![("application/json", content(ObjectBuilder::new().build(), None))],
                &[404],
            )
        },
        Described {
            scope: Some(Scope::Edge),
            parameters: std::iter::once(site_of_path())
                .chain(site_parameters())
                .chain([parameter(sites::TIMEOUT)])
                .collect(),
            ..read(
                "/v1/sites/{site}/aggregates",
                "sites",
                "Windows as the site itself knows them",
                "The node asks the site's gateways, sealed, over MQTT. The answer includes what they have not sent yet, and windows that \
                 are still open (`closed` is false). The site keeps its latest windows and everything that it has not sent yet; \
                 `covers_since` says from what time on the answer is complete. `partial` means that shards did not answer in time \
                 (`missing_shards`) or that batches could not be read. `device` is required and may be a pattern."
                    .to_string(),
                &[],
                vec![("application/json", content(rows_of("aggregates", edge_rows(), &edge_more()), None))],
                &[404, 504],
            )
        },
        read(
            "/v1/status",
            "node",
            "How far each shard of each site has come",
            "The batches that were applied, are missing, or were given up.".to_string(),
            &[],
            vec![("application/json", content(Ref::from_schema_name("Status"), None))],
            &[],
        ),
        Described {
            scope: Some(Scope::Metrics),
            ..read(
                "/metrics",
                "node",
                "Metrics for Prometheus",
                "Its text format, version 0.0.4.".to_string(),
                &[],
                vec![("text/plain", content(text("Metrics"), None))],
                &[],
            )
        },
        open(
            "/healthz",
            "Whether the node runs",
            "200 as long as the node runs.",
            vec![("application/json", content(Ref::from_schema_name("Health"), Some(json!({ "status": "ok" }))))],
        ),
        Described {
            problems: &[503],
            ..open(
                "/readyz",
                "Whether the node can work",
                "200 if the database answers and the uplink is connected; otherwise 503, with the reason in `why`. `attention` names \
                 what a person should look at although the node can work, such as batches that are gone for good.",
                vec![("application/json", content(Ref::from_schema_name("Health"), Some(json!({ "status": "ready" }))))],
            )
        },
        open(
            "/openapi.json",
            "This description",
            "OpenAPI 3.1.",
            vec![("application/json", content(ObjectBuilder::new().build(), None))],
        ),
        open(
            "/docs",
            "This description for people",
            "A page that loads nothing from elsewhere.",
            vec![("text/html", content(text("A page"), None))],
        ),
        open(
            "/docs/page.js",
            "The page's script",
            "Part of `/docs`.",
            vec![("text/javascript", content(text("A script"), None))],
        ),
        open(
            "/docs/page.css",
            "The page's style",
            "Part of `/docs`.",
            vec![("text/css", content(text("A style sheet"), None))],
        ),
    ]
}

/// The rows that a site answers with, which have one column more than stored rows.
fn edge_rows() -> Schema {
    ArrayBuilder::new().items(Ref::from_schema_name("EdgeRow")).build().into()
}

fn edge_more() -> [(&'static str, Schema); 7] {
    let text = |about: &str| text(about);
    let shards = ArrayBuilder::new().items(ObjectBuilder::new().schema_type(Type::Integer).build()).build();
    [
        ("source", text("`edge`")),
        ("gateway", ObjectBuilder::new().schema_type(Type::Integer).build().into()),
        ("consistency", text("The same as in the request.")),
        (
            "covers_since",
            text(
                "The answer may lack windows that closed before this time: the site no longer keeps them, or did not read them. Null if \
                 it read all.",
            ),
        ),
        ("unreadable_batches", ObjectBuilder::new().schema_type(Type::Integer).build().into()),
        ("partial", ObjectBuilder::new().schema_type(Type::Boolean).build().into()),
        ("missing_shards", shards.into()),
    ]
}

fn example_rows(name: &str) -> Value {
    json!({ name: [{ "site": "plant-7", "device": "press-7", "stream": "temperature", "start": "2025-11-24T16:00:00.000Z",
        "start_ms": 1_764_000_000_000_i64, "width_ms": 3_600_000, "count": 3_600, "mean": 21.5, "p99": 24.25 }],
        "truncated": false, "next": null })
}

fn example_devices() -> Value {
    let (first, last) = ("2025-11-24T16:00:00.250Z", "2025-11-24T17:00:00.125Z");
    json!({ "devices": [{ "site": "plant-7", "device": "press-7", "first_seen": "2025-11-24T16:00:12.000Z", "first": first,
        "last": last, "readings": 3_600, "late": 0, "set_aside": 0, "missing": 0, "streams": [{ "stream": "temperature",
        "widths_ms": [10_000, 60_000], "first": first, "last": last, "readings": 3_600, "late": 0, "set_aside": 0, "missing": 0 }] }],
        "truncated": false, "next": null })
}

fn question() -> RequestBody {
    let sql =
        "SELECT device, start, mean FROM hour WHERE stream = 'temperature' ORDER BY start_ms DESC LIMIT 5";
    let json = content(Ref::from_schema_name("SqlQuestion"), Some(json!({ "sql": sql, "limit": 5 })));
    RequestBodyBuilder::new()
        .description(Some("The statement, in JSON with a limit of rows, or alone as text."))
        .required(Some(Required::True))
        .content("application/json", json)
        .content("text/plain", content(text("The statement"), Some(json!(sql))))
        .build()
}

fn example_sql() -> Value {
    json!({ "columns": [{ "name": "device", "type": "text" }, { "name": "start", "type": "text" }, { "name": "mean", "type": "real" }],
        "rows": [["press-7", "2025-11-24T16:00:00.000Z", 21.5]], "truncated": false, "elapsed_ms": 1 })
}

fn example_gaps() -> Value {
    json!({ "gaps": [{ "site": "plant-7", "device": "press-7", "stream": "temperature", "width_ms": 10_000,
        "from": "2025-11-24T16:10:00.000Z", "from_ms": 1_764_000_600_000_i64, "to": "2025-11-24T16:12:00.000Z",
        "to_ms": 1_764_000_720_000_i64, "windows": 12 }],
        "holes": [], "truncated": false, "next": null })
}

/// The parameter `site` in a path, as all paths of one site describe it.
fn site_of_path() -> Parameter {
    path_parameter("site", "The site, as `/v1/sites` lists it.")
}
