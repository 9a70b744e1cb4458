//! The API over each kind of database, as requests see it.

mod access;
mod aggregates;
mod describe;
mod lists;
mod live;
mod random;
mod sql;

use actix_web::http::header::HeaderMap;
use actix_web::{App, test, web};
use selvedge_guard::access::{Access, Scope, Token, TokenDigest};
use selvedge_node::api::routes::{Guard, Route};
use selvedge_node::api::{self, Api, MAX_RUNNING_ENTRIES, MAX_WHOLE_ENTRIES, WholeLimits};
use selvedge_node::live::Live;
use selvedge_node::settings::SqlSettings;
use selvedge_node::sites::Edge;
use selvedge_node::stats::Stats;
use selvedge_node::store::{Database, Postgres, Writer, open};
use selvedge_node_core::incoming::{Incoming, IncomingBatch};
use selvedge_node_core::stage::MessageOutcome;
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, Part, StreamName};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Semaphore;

const START: i64 = 1_764_000_000_000;

struct World {
    api: web::Data<Api>,
    writer: Writer,
    seq: u64,
    folder: tempfile::TempDir,
    /// The server on which its database is, and the database's name.
    postgres: Option<(String, String)>,
}

impl World {
    async fn new() -> Self {
        Self::with(Access::default()).await
    }

    /// With these tokens, each of which is its own name.
    async fn with_tokens(tokens: &[(&str, &[Scope], Option<&str>)]) -> Self {
        let token = |(name, scopes, site): &(&str, &[Scope], Option<&str>)| Token {
            name: name.to_string(),
            digest: TokenDigest::of(name),
            scopes: scopes.to_vec(),
            sites: site.map(|site| Arc::from([site.to_string()])),
        };
        Self::with(Access::new(tokens.iter().map(token).collect())).await
    }

    async fn with(access: Access) -> Self {
        Self::on(access, None).await
    }

    /// One on each kind of database; PostgreSQL only if `SELVEDGE_TEST_POSTGRES` names a server to make databases on.
    async fn each() -> Vec<Self> {
        let mut all = vec![Self::new().await];
        all.extend(Self::on_postgres().await);
        all
    }

    async fn on_postgres() -> Option<Self> {
        let Ok(server) = std::env::var("SELVEDGE_TEST_POSTGRES") else {
            eprintln!("left out: PostgreSQL; `.ci/postgres run cargo test -p selvedge-node` tests it too");
            return None;
        };
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("test_api_{}_{number}", std::process::id());
        on_server(&server, &format!("CREATE DATABASE {name}")).await;
        Some(Self::on(Access::default(), Some((server, name))).await)
    }

    async fn on(access: Access, postgres: Option<(String, String)>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let database = match &postgres {
            None => Database::sqlite(folder.path()),
            Some((server, name)) => {
                let (before, _) = server.rsplit_once('/').unwrap();
                Database::Postgres(Box::new(Postgres::parse(&format!("{before}/{name}"), false).unwrap()))
            }
        };
        let (writer, reader) = open(&database).await.unwrap();
        let (live, telling) = Live::new(reader.clone(), EpochMs(START));
        actix_web::rt::spawn(telling);
        let api = Api {
            reader,
            stats: Arc::new(Stats::default()),
            sites: vec![SiteId::new("plant-7").unwrap()],
            edge: Arc::new(Edge::new([SiteId::new("plant-7").unwrap()]).unwrap()),
            metrics: None,
            access,
            live,
            sql: SqlSettings::default(),
            sql_places: Arc::new(Semaphore::new(MAX_RUNNING_ENTRIES)),
            whole_places: Arc::new(Semaphore::new(MAX_WHOLE_ENTRIES)),
            whole_limits: WholeLimits::default(),
        };
        Self { api: web::Data::new(api), writer, seq: 0, folder, postgres }
    }

    /// The test is over; the server, if it is one, keeps nothing of it.
    async fn end(self) {
        if let Some((server, name)) = &self.postgres {
            on_server(server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
    }

    /// Before anybody has asked.
    fn change(&mut self, change: impl FnOnce(&mut Api)) {
        let before = &self.api;
        let mut api = Api {
            reader: before.reader.clone(),
            stats: before.stats.clone(),
            sites: before.sites.clone(),
            edge: before.edge.clone(),
            metrics: before.metrics.clone(),
            access: before.access.clone(),
            live: before.live.clone(),
            sql: before.sql.clone(),
            sql_places: Arc::new(Semaphore::new(MAX_RUNNING_ENTRIES)),
            whole_places: Arc::new(Semaphore::new(MAX_WHOLE_ENTRIES)),
            whole_limits: WholeLimits::default(),
        };
        change(&mut api);
        self.api = web::Data::new(api);
    }

    /// Applies windows of one reading each, whose value is their number.
    async fn store(&mut self, device: &str, stream: &str, width_ms: u32, windows: i64) {
        self.store_at(device, stream, width_ms, 0..windows).await;
    }

    /// The same, of the windows of these numbers.
    async fn store_at(
        &mut self,
        device: &str,
        stream: &str,
        width_ms: u32,
        windows: impl IntoIterator<Item = i64>,
    ) {
        let parts = windows.into_iter().map(|n| {
            let start = EpochMs(START + n * i64::from(width_ms));
            let sample = Sample { time: start.plus(1), slot: 1, index: 0, value: n as f64 };
            let aggregate = Aggregate::sketched(sample);
            Part {
                stream: 0,
                width_ms,
                start,
                aggregate,
                late: 0,
                watermark: start.plus(i64::from(width_ms)),
                set_aside: 0,
                sequences: Sequences::default(),
            }
        });
        self.put(device, stream, parts.collect()).await;
    }

    /// Applies parts of one stream.
    async fn put(&mut self, device: &str, stream: &str, parts: Vec<Part>) {
        let name = StreamName { device: device.into(), stream: stream.into() };
        let batch = Batch { streams: vec![name], parts };
        self.seq += 1;
        let one = Incoming::latest(self.api.sites[0].clone(), self.seq, batch);
        let messages: Arc<[Incoming]> = [one].into();
        let applied = self.writer.apply(&messages, EpochMs(START)).await.unwrap();
        assert_eq!(applied.outcomes, [MessageOutcome::Applied]);
        self.api.live.applied(&messages, &applied.outcomes);
    }

    async fn ask(&self, request: test::TestRequest) -> (u16, HeaderMap, Vec<u8>) {
        let app = test::init_service(App::new().app_data(self.api.clone()).configure(configure)).await;
        let answer = test::call_service(&app, request.to_request()).await;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, test::read_body(answer).await.to_vec())
    }

    /// The status and the JSON, which is a problem unless the status is 200.
    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, headers, body) = self.ask(test::TestRequest::get().uri(path)).await;
        let expected = if status == 200 { "application/json" } else { "application/problem+json" };
        assert_eq!(header(&headers, "content-type"), expected, "{path}");
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn text(&self, path: &str) -> (HeaderMap, String) {
        let (status, headers, body) = self.ask(test::TestRequest::get().uri(path)).await;
        let text = String::from_utf8(body).unwrap();
        assert_eq!(status, 200, "{path}: {text}");
        (headers, text)
    }

    async fn ok(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
}

/// All that a node answers; says which paths, without the pages.
fn all_routes(app: &mut web::ServiceConfig) -> Vec<Route> {
    api::routes(app, selvedge_node::web::pages)
}

fn configure(app: &mut web::ServiceConfig) {
    all_routes(app);
}

async fn on_server(server: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(server, tokio_postgres::NoTls).await.unwrap();
    let connection = actix_web::rt::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn column(body: &Value, field: &str) -> Vec<Value> {
    body["aggregates"].as_array().unwrap().iter().map(|row| row[field].clone()).collect()
}

/// Not a test: what this program becomes when a reader of its own starts it again to run SQL. The harness takes the
/// argument that it is started with for the name of the test to run.
#[std::prelude::v1::test]
fn sql_worker() {
    if std::env::args().nth(1).is_some_and(|first| first == selvedge_node::SQL_WORKER) {
        selvedge_node::store::sql_worker::run();
        std::process::exit(0);
    }
}

#[actix_web::test]
async fn a_bad_parameter_is_answered_with_what_would_be_right() {
    let mut w = World::new().await;
    w.store("d", "s", 10_000, 1).await;
    for (path, parameter, right) in [
        ("/v1/aggregates?device=", "device", "empty"),
        ("/v1/aggregates?group_by=stream", "every", "is needed"),
        ("/v1/aggregates?group_by=all&every=1h", "group_by", "site, device, stream"),
        ("/v1/aggregates?group_by=stream&every=1h&after=99.0", "after", "another query"),
        ("/v1/aggregates?fn=average", "fn", "mean"),
        ("/v1/aggregates?format=xml", "format", "json, csv"),
        ("/v1/aggregates?fill=null", "every", "is needed"),
        ("/v1/aggregates?device=a%00", "device", "zero"),
        ("/v1/aggregates?device=*****", "device", "4"),
        ("/v1/aggregates?device=d&every=15s", "every", "stored at 10s"),
        ("/v1/aggregates?device=d&from=now", "from", "RFC 3339"),
        ("/v1/aggregates?device=d&after=99.0", "after", "another query"),
        ("/v1/aggregates?device=d&%ff=1", "\u{fffd}", "there are"),
        ("/v1/devices?site=", "site", "empty"),
        ("/v1/devices?after=x", "after", "next"),
        ("/v1/latest?after=00", "after", "next"),
        ("/v1/gaps?width=7s&device=d", "width", "7s"),
        ("/v1/gaps?min=x", "min", "10s"),
        ("/v1/status?x=1", "x", "takes no parameters"),
        ("/v1/ledger?limit=10001", "limit", "10000"),
        ("/v1/ledger?width=x", "width", "10s"),
    ] {
        let (status, body) = w.get(path).await;
        assert_eq!((status, &body["parameter"]), (400, &json!(parameter)), "{path}: {body}");
        assert!(body["detail"].as_str().unwrap().contains(right), "{path}: {body}");
    }
    let (status, body) = w.get("/v1/aggregates?limit=0").await;
    let detail = "parameter `limit`: \"0\" is not a whole number from 1 to 10000";
    let problem = json!({ "type": "/docs#problem-bad-parameter", "title": "A parameter is wrong", "status": 400,
        "detail": detail, "parameter": "limit" });
    assert_eq!((status, body), (400, problem));
}

#[actix_web::test]
async fn status_tells_how_far_each_shard_has_come() {
    let mut w = World::new().await;
    assert_eq!(w.ok("/v1/status").await["sites"], json!([{ "site": "plant-7", "shards": [] }]));
    w.store("d", "s", 10_000, 1).await;
    let site = w.api.sites[0].clone();
    let heard = Incoming {
        site,
        incarnation: Default::default(),
        shard: ShardId(0),
        first_kept: 1,
        last: 5,
        content: None,
        lost: None,
    };
    w.api.stats.heard(&heard, EpochMs(START));
    w.api.stats.refused("not_authentic", std::time::Instant::now());
    let body = w.ok("/v1/status").await;
    let shard = &body["sites"][0]["shards"][0];
    assert_eq!((&shard["cursor"], &shard["edge_last"], &shard["missing"]), (&json!(1), &json!(5), &json!(4)));
    assert_eq!(shard["last_heard"], "2025-11-24T16:00:00.000Z");
    assert_eq!((&body["batches_applied"], &body["batches_missing"]), (&json!(1), &json!(4)));
    assert_eq!(body["refused"], json!({ "not_authentic": 1 }));
}

#[actix_web::test]
async fn a_node_without_its_broker_is_alive_and_not_ready() {
    let w = World::new().await;
    assert_eq!(w.get("/healthz").await.0, 200);
    let (status, body) = w.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body["why"][0].as_str().unwrap().contains("uplink"), "{body}");
    w.api.stats.set_subscribed(true);
    assert_eq!(w.get("/readyz").await.0, 200);
}

#[actix_web::test]
async fn metrics_are_prometheus_text() {
    let mut w = World::new().await;
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        selvedge_node::stats::describe_metrics();
        w.api.stats.refused("topic", std::time::Instant::now());
    });
    w.change(|api| api.metrics = Some(recorder.handle()));
    let (headers, text) = w.text("/metrics").await;
    assert!(header(&headers, "content-type").starts_with("text/plain; version=0.0.4"));
    assert!(text.contains("# TYPE selvedge_node_refused_total counter"), "{text}");
    assert!(text.contains("selvedge_node_refused_total{reason=\"topic\"} 1"), "{text}");
}
