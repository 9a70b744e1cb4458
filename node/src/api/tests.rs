use super::*;
use crate::store::{Content, Incoming, Writer, open};
use actix_web::{App, test};
use selvedge_shared::aggregate::{Aggregate, Sample};
use selvedge_shared::ids::ShardId;
use selvedge_shared::time::EpochMs;
use selvedge_shared::uplink::{Batch, Part, StreamName};
use serde_json::Value;

const START: i64 = 1_764_000_000_000;

struct World {
    api: web::Data<Api>,
    writer: Writer,
    seq: u64,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (writer, reader) = open(folder.path()).await.unwrap();
        let site = SiteId::new("plant-7").unwrap();
        let api = Api { reader, stats: Arc::new(Stats::default()), sites: vec![site], metrics: None };
        Self { api: web::Data::new(api), writer, seq: 0, _folder: folder }
    }

    /// Applies windows of one reading each, whose value is their number.
    async fn store(&mut self, device: &str, stream: &str, width_ms: u32, windows: i64) {
        let parts = (0..windows).map(|n| {
            let start = EpochMs(START + n * i64::from(width_ms));
            let sample = Sample { time: start.plus(1), slot: 1, index: 0, value: n as f64 };
            let aggregate = Aggregate::of(sample);
            Part {
                stream: 0,
                width_ms,
                start,
                aggregate,
                late: 0,
                watermark: start.plus(i64::from(width_ms)),
            }
        });
        let name = StreamName { device: device.into(), stream: stream.into() };
        let batch = Batch { streams: vec![name], parts: parts.collect() };
        self.seq += 1;
        let site = self.api.sites[0].clone();
        let content = Some(Content { seq: self.seq, batch, body_hash: self.seq });
        let one = Incoming { site, shard: ShardId(0), first_kept: 1, last: self.seq, content };
        self.writer.apply(&[one], EpochMs(START)).await.unwrap();
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let app = test::init_service(App::new().app_data(self.api.clone()).configure(routes)).await;
        let answer = test::call_service(&app, test::TestRequest::get().uri(path).to_request()).await;
        let status = answer.status().as_u16();
        (status, serde_json::from_slice(&test::read_body(answer).await).unwrap())
    }

    async fn ok(&self, path: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
}

fn column(body: &Value, field: &str) -> Vec<Value> {
    body["aggregates"].as_array().unwrap().iter().map(|row| row[field].clone()).collect()
}

#[actix_web::test]
async fn a_window_is_answered_with_all_that_is_known_of_it() {
    let mut w = World::new().await;
    w.store("press-1", "temp", 10_000, 3).await;
    let body = w.ok("/v1/aggregates?device=press-1&stream=temp&from=2025-11-24T16:00:20Z").await;
    let print = format!("{:016x}", selvedge_shared::aggregate::fingerprint(2.0));
    let point = json!({ "time": "2025-11-24T16:00:20.001Z", "time_ms": START + 20_001, "value": 2.0 });
    let row = json!({
        "site": "plant-7", "device": "press-1", "stream": "temp",
        "start": "2025-11-24T16:00:20.000Z", "start_ms": START + 20_000, "width_ms": 10_000,
        "count": 1, "sum": 2.0, "mean": 2.0, "min": 2.0, "max": 2.0, "stddev": 0.0,
        "first": point, "last": point, "late": 0, "parts": 1, "fingerprint": print,
        "watermark": "2025-11-24T16:00:30.000Z", "watermark_ms": START + 30_000, "complete": true,
    });
    assert_eq!(body, json!({ "aggregates": [row], "truncated": false, "next": null }));
}

#[actix_web::test]
async fn every_merges_upwards_and_width_picks() {
    let mut w = World::new().await;
    w.store("d", "s", 10_000, 12).await;
    w.store("d", "s", 60_000, 2).await;
    let merged = w.ok("/v1/aggregates?device=d&every=1m&width=10s").await;
    assert_eq!(column(&merged, "count"), [6, 6]);
    assert_eq!(column(&merged, "sum"), [15.0, 51.0]);
    assert_eq!(column(&merged, "stddev")[0].as_f64().map(|d| (d * d * 6.0).round()), Some(18.0), "17.5");
    assert_eq!(
        column(&w.ok("/v1/aggregates?device=d&every=1m").await, "count"),
        [1, 1],
        "the widest that fits"
    );
    assert_eq!(column(&w.ok("/v1/aggregates?device=d").await, "count").len(), 12, "the narrowest");
    assert_eq!(column(&w.ok("/v1/aggregates?device=d&width=1m").await, "count").len(), 2);
    let to = START + 30_000;
    assert_eq!(column(&w.ok(&format!("/v1/aggregates?device=d&to={to}")).await, "count").len(), 3);
    assert_eq!(w.ok("/v1/aggregates?device=none").await["aggregates"], json!([]));
}

#[actix_web::test]
async fn pages_give_every_row_once() {
    let mut w = World::new().await;
    for stream in ["a", "b", "c"] {
        w.store("d", stream, 10_000, 12).await;
    }
    for (query, rows) in [("", 36), ("&every=30s", 12), ("&every=1h", 3)] {
        for limit in [1, 2, 4, 12, 13] {
            let (mut path, mut all) = (format!("/v1/aggregates?device=d{query}&limit={limit}"), vec![]);
            loop {
                let body = w.ok(&path).await;
                let starts = column(&body, "start_ms");
                assert!(starts.len() <= limit);
                all.extend(column(&body, "stream").into_iter().zip(starts).map(|(s, t)| format!("{s} {t}")));
                let Some(next) = body["next"].as_str() else { break };
                path = format!("/v1/aggregates?device=d{query}&limit={limit}&after={next}");
            }
            let distinct: std::collections::BTreeSet<_> = all.iter().collect();
            assert_eq!((all.len(), distinct.len()), (rows, rows), "{query} limit {limit}");
        }
    }
}

#[actix_web::test]
async fn a_bad_parameter_is_answered_with_what_would_be_right() {
    let mut w = World::new().await;
    w.store("d", "s", 10_000, 1).await;
    for (path, parameter, right) in [
        ("/v1/aggregates", "device", "/v1/devices"),
        ("/v1/aggregates?device=d&every=15s", "every", "stored at 10s"),
        ("/v1/aggregates?device=d&from=now", "from", "RFC 3339"),
        ("/v1/aggregates?device=d&after=99.0", "after", "another query"),
        ("/v1/aggregates?device=d&%ff=1", "\u{fffd}", "there are"),
        ("/v1/devices?site=", "site", "empty"),
        ("/v1/devices?after=x", "after", "next"),
        ("/v1/ledger?limit=10001", "limit", "10000"),
        ("/v1/ledger?width=x", "width", "10s"),
    ] {
        let (status, body) = w.get(path).await;
        assert_eq!((status, &body["parameter"]), (400, &json!(parameter)), "{path}: {body}");
        assert!(body["error"].as_str().unwrap().contains(right), "{path}: {body}");
    }
    let (status, body) = w.get("/v2").await;
    assert_eq!(status, 404);
    assert!(body["error"].as_str().unwrap().contains("/v1/aggregates"), "{body}");
}

#[actix_web::test]
async fn devices_are_listed_with_their_streams_page_by_page() {
    let mut w = World::new().await;
    for (device, stream, width) in
        [("b", "s", 10_000), ("a", "t", 10_000), ("a", "s", 60_000), ("a", "s", 10_000)]
    {
        w.store(device, stream, width, 1).await;
    }
    let a = json!({ "site": "plant-7", "device": "a", "streams": [
        { "stream": "s", "widths_ms": [10_000, 60_000] }, { "stream": "t", "widths_ms": [10_000] },
    ]});
    let first = w.ok("/v1/devices?limit=1").await;
    assert_eq!(first, json!({ "devices": [a], "truncated": true, "next": "plant-7/a" }));
    let rest = w.ok("/v1/devices?after=plant-7/a").await;
    assert_eq!((&rest["devices"][0]["device"], &rest["next"]), (&json!("b"), &Value::Null));
    assert_eq!(w.ok("/v1/devices?site=other").await["devices"], json!([]));
}

#[actix_web::test]
async fn the_ledger_is_compact_and_complete() {
    let mut w = World::new().await;
    w.store("d", "s", 10_000, 3).await;
    w.store("d", "t", 10_000, 2).await;
    w.store("d", "t", 60_000, 1).await;
    let print = |v: f64| format!("{:016x}", selvedge_shared::aggregate::fingerprint(v));
    let page = w.ok("/v1/ledger?site=plant-7&width=10s&limit=4").await;
    assert_eq!(
        page["series"],
        json!([
            { "site": "plant-7", "device": "d", "stream": "s", "width_ms": 10_000, "windows": [
                [START, 1, print(0.0)], [START + 10_000, 1, print(1.0)], [START + 20_000, 1, print(2.0)]] },
            { "site": "plant-7", "device": "d", "stream": "t", "width_ms": 10_000, "windows": [[START, 1, print(0.0)]] },
        ])
    );
    let next = page["next"].as_str().unwrap();
    let rest = w.ok(&format!("/v1/ledger?site=plant-7&width=10s&limit=4&after={next}")).await;
    assert_eq!(rest["series"][0]["windows"], json!([[START + 10_000, 1, print(1.0)]]));
    assert_eq!((rest["series"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));
    assert_eq!(w.ok("/v1/ledger").await["series"].as_array().unwrap().len(), 3);
}

#[actix_web::test]
async fn status_tells_how_far_each_shard_has_come() {
    let mut w = World::new().await;
    assert_eq!(w.ok("/v1/status").await["sites"], json!([{ "site": "plant-7", "shards": [] }]));
    w.store("d", "s", 10_000, 1).await;
    let site = w.api.sites[0].clone();
    let heard = Incoming { site, shard: ShardId(0), first_kept: 1, last: 5, content: None };
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
    let folder = tempfile::tempdir().unwrap();
    let (_writer, reader) = open(folder.path()).await.unwrap();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let stats = Arc::new(Stats::default());
    metrics::with_local_recorder(&recorder, || {
        crate::stats::describe_metrics();
        stats.refused("topic", std::time::Instant::now());
    });
    let api = web::Data::new(Api { reader, stats, sites: vec![], metrics: Some(recorder.handle()) });
    let app = test::init_service(App::new().app_data(api).configure(routes)).await;
    let answer = test::call_service(&app, test::TestRequest::get().uri("/metrics").to_request()).await;
    assert!(
        answer
            .headers()
            .get("content-type")
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with("text/plain; version=0.0.4")
    );
    let text = String::from_utf8(test::read_body(answer).await.to_vec()).unwrap();
    assert!(text.contains("# TYPE selvedge_node_refused_total counter"), "{text}");
    assert!(text.contains("selvedge_node_refused_total{reason=\"topic\"} 1"), "{text}");
}
