use super::*;
use crate::logic::query::{Spans, merge};
use crate::store::{Content, Database, Incoming, SeriesInfo, StoredWindow, Writer, open};
use actix_web::{App, test};
use selvedge_shared::aggregate::{Aggregate, Sample};
use selvedge_shared::ids::ShardId;
use selvedge_shared::time::EpochMs;
use selvedge_shared::uplink::{Batch, Part, StreamName};
use serde_json::Value;
use std::collections::BTreeMap;

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
        let (writer, reader) = open(&Database::sqlite(folder.path())).await.unwrap();
        let site = SiteId::new("plant-7").unwrap();
        let edge = Arc::new(Edge::new([site.clone()]).unwrap());
        let api = Api { reader, stats: Arc::new(Stats::default()), sites: vec![site], edge, metrics: None };
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
        self.writer.apply(&[one].into(), EpochMs(START)).await.unwrap();
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
        ("/v1/aggregates?device=", "device", "empty"),
        ("/v1/aggregates?group=all", "every", "multiple of 1h"),
        ("/v1/aggregates?group=all&every=30m", "every", "multiple of 1h"),
        ("/v1/aggregates?group=stream&every=1h", "group", "device, site, all"),
        ("/v1/aggregates?group=all&every=1h&from=2025-11-24T16:00:20Z", "from", "2025-11-24T16:00:00.000Z"),
        ("/v1/aggregates?group=all&every=1h&after=99.0", "after", "another query"),
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
    let (_writer, reader) = open(&Database::sqlite(folder.path())).await.unwrap();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let stats = Arc::new(Stats::default());
    metrics::with_local_recorder(&recorder, || {
        crate::stats::describe_metrics();
        stats.refused("topic", std::time::Instant::now());
    });
    let edge = Arc::new(Edge::new([]).unwrap());
    let api = web::Data::new(Api { reader, stats, sites: vec![], edge, metrics: Some(recorder.handle()) });
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

#[actix_web::test]
async fn without_a_device_all_answer_and_groups_merge_them() {
    let mut w = World::new().await;
    for (device, stream) in [("a", "temp"), ("b", "temp"), ("b", "door")] {
        w.store(device, stream, 10_000, 400).await;
    }
    let all = w.ok("/v1/aggregates?every=1h").await;
    assert_eq!(column(&all, "device"), ["a", "a", "b", "b", "b", "b"]);
    let of_site = w.ok("/v1/aggregates?every=1h&group=site&stream=temp").await;
    assert_eq!(column(&of_site, "count"), [720, 80]);
    assert_eq!(column(&of_site, "sum"), [129_240.0, 30_360.0]);
    assert_eq!(
        (column(&of_site, "site"), column(&of_site, "device")),
        (vec![json!("plant-7"); 2], vec![Value::Null; 2])
    );
    assert_eq!(
        (column(&of_site, "devices"), column(&of_site, "complete")),
        (vec![json!(2); 2], vec![json!(true), json!(false)])
    );
    let of_all = w.ok("/v1/aggregates?every=1h&group=all").await;
    assert_eq!(column(&of_all, "site"), vec![Value::Null; 4]);
    assert_eq!(column(&of_all, "stream"), ["temp", "door", "temp", "door"]);
    // A device that is behind holds up the row.
    w.store("c", "temp", 10_000, 350).await;
    let behind = w.ok("/v1/aggregates?every=1h&group=site&stream=temp&limit=1").await;
    assert_eq!(
        (&behind["aggregates"][0]["devices"], &behind["aggregates"][0]["complete"]),
        (&json!(3), &json!(false))
    );
    w.store("c", "slow", 7_000, 1).await;
    let (status, body) = w.get("/v1/aggregates?every=1h&group=all").await;
    assert_eq!((status, &body["parameter"]), (400, &json!("group")));
    assert!(body["error"].as_str().unwrap().contains("\"slow\" of device \"c\""), "{body}");
}

#[actix_web::test]
async fn pages_of_groups_give_every_row_once() {
    let mut w = World::new().await;
    for device in ["a", "b"] {
        for stream in ["s", "t", "u"] {
            w.store(device, stream, 600_000, 30).await;
        }
    }
    let all = w.ok("/v1/aggregates?every=2h&group=all").await;
    assert_eq!((column(&all, "count").len(), &all["truncated"]), (9, &json!(false)));
    for limit in 1..10 {
        let (mut path, mut rows) = (format!("/v1/aggregates?every=2h&group=all&limit={limit}"), vec![]);
        loop {
            let body = w.ok(&path).await;
            rows.extend(body["aggregates"].as_array().unwrap().clone());
            let Some(next) = body["next"].as_str() else { break };
            path = format!("/v1/aggregates?every=2h&group=all&limit={limit}&after={next}");
        }
        assert_eq!(&rows, all["aggregates"].as_array().unwrap(), "limit {limit}");
    }
}

/// Numbers that are the same in every run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

impl World {
    /// Applies batches of parts of a few streams around 1970, many of them late ones of windows that are there; some batches
    /// come twice, in one transaction or in two. Values are whole numbers, so that sums are the same in any order.
    async fn store_at_random(&mut self, random: &mut Seeded, batches: u64) {
        let mut sent: Vec<Incoming> = vec![];
        for _ in 0..batches {
            let mut batch = Batch::default();
            for device in ["a", "b", "c"] {
                batch
                    .streams
                    .extend(["s", "t"].map(|s| StreamName { device: device.into(), stream: s.into() }));
            }
            for _ in 0..random.below(40) {
                let width_ms = [600_000, 900_000, 3_600_000, 7_200_000, 7_000][random.below(5) as usize];
                let start =
                    (random.below(120) as i64 - 60) * 1_800_000 / i64::from(width_ms) * i64::from(width_ms);
                let sample = |random: &mut Seeded| Sample {
                    time: EpochMs(start + random.below(100) as i64),
                    slot: random.below(1_000),
                    index: random.below(10) as u32,
                    value: random.below(2_000) as f64 - 1_000.0,
                };
                let mut aggregate = Aggregate::of(sample(random));
                (0..random.below(4)).for_each(|_| aggregate.merge(&Aggregate::of(sample(random))));
                let (stream, late) = (random.below(6) as u32, random.below(2));
                let watermark = EpochMs(start + random.below(10_000_000) as i64);
                batch.parts.push(Part {
                    stream,
                    width_ms,
                    start: EpochMs(start),
                    aggregate,
                    late,
                    watermark,
                });
            }
            self.seq += 1;
            let content = Some(Content { seq: self.seq, batch, body_hash: self.seq });
            let site = self.api.sites[0].clone();
            sent.push(Incoming { site, shard: ShardId(0), first_kept: 1, last: self.seq, content });
            let again = sent[random.below(sent.len() as u64) as usize].clone();
            let newest = sent[sent.len() - 1].clone();
            self.writer.apply(&[again, newest].into(), EpochMs(START)).await.unwrap();
        }
    }

    /// What the stored windows of a width add up to, by key, span and series.
    async fn merged_by_hand(
        &self,
        width_ms: i64,
        every: i64,
        from: i64,
        to: i64,
    ) -> Vec<(SeriesInfo, StoredWindow)> {
        let mut all = vec![];
        for series in self.api.reader.series(None, None, None, 100).await.unwrap() {
            let page = self.api.reader.windows(series.id, EpochMs(from), EpochMs(to), 10_000).await.unwrap();
            let mut spans = Spans::default();
            let mut add = |span| all.extend(Option::map(span, |span| (series.clone(), span)));
            for window in page.rows.iter().filter(|_| series.width_ms == width_ms) {
                add(spans.push(EpochMs(window.start.0.div_euclid(every) * every), window));
            }
            add(spans.finish());
        }
        all
    }
}

/// What is compared of a row.
fn told(row: &Value) -> Value {
    json!([
        row["device"],
        row["stream"],
        row["start_ms"],
        row["count"],
        row["sum"],
        row["min"],
        row["max"],
        row["first"]["time_ms"],
        row["first"]["value"],
        row["last"]["time_ms"],
        row["last"]["value"],
        row["fingerprint"],
        row["late"],
        row["parts"],
        row["watermark_ms"],
    ])
}

fn told_by_hand(device: Option<&str>, stream: &str, w: &StoredWindow) -> Value {
    let a = &w.aggregate;
    json!([
        device,
        stream,
        w.start.0,
        a.count,
        a.sum,
        a.min,
        a.max,
        a.first.time.0,
        a.first.value,
        a.last.time.0,
        a.last.value,
        format!("{:016x}", a.fingerprint),
        w.late,
        w.parts,
        w.watermark.0,
    ])
}

#[actix_web::test]
async fn roll_ups_answer_as_windows_would() {
    const HOUR: i64 = 3_600_000;
    let mut w = World::new().await;
    let mut random = Seeded(1);
    for round in 0..6 {
        w.store_at_random(&mut random, 20).await;
        for (width, every) in [
            (600_000, 1),
            (600_000, 2),
            (900_000, 24),
            (600_000, 72),
            (HOUR, 24),
            (7_200_000, 24),
            (7_200_000, 6),
            (7_000, 7),
        ] {
            let every = every * HOUR;
            let from = random.below(120) as i64 * HOUR - 60 * HOUR + random.below(2) as i64 * 1_234;
            let to = from + 1 + random.below(60) as i64 * HOUR;
            let path = format!("/v1/aggregates?width={width}&every={every}&from={from}&to={to}&limit=10000");
            let expected = w.merged_by_hand(width, every, from, to).await;
            let mut expected: Vec<_> =
                expected.iter().map(|(s, w)| told_by_hand(Some(&s.device), &s.stream, w)).collect();
            let body = w.ok(&path).await;
            let mut got: Vec<_> = body["aggregates"].as_array().unwrap().iter().map(told).collect();
            let order = |v: &Value| v.to_string();
            got.sort_by_key(order);
            expected.sort_by_key(order);
            assert_eq!(got, expected, "round {round} {path}");
        }
        for (width, every) in [(600_000, 1), (900_000, 6), (600_000, 24), (HOUR, 1), (HOUR, 48)] {
            let every = every * HOUR;
            let from = (random.below(100) as i64 - 50) * HOUR;
            let to = from + (1 + random.below(60) as i64) * HOUR;
            let mut groups: BTreeMap<(i64, String), StoredWindow> = BTreeMap::new();
            for (series, span) in w.merged_by_hand(width, every, from, to).await {
                let key = (span.start.0, series.stream.clone());
                groups
                    .entry(key)
                    .and_modify(|all| {
                        let watermark = all.watermark.min(span.watermark);
                        merge(all, &span);
                        all.watermark = watermark;
                    })
                    .or_insert(span);
            }
            let expected: Vec<_> = groups.iter().map(|((_, s), w)| told_by_hand(None, s, w)).collect();
            let path = format!("/v1/aggregates?group=all&width={width}&every={every}&from={from}&to={to}");
            let body = w.ok(&path).await;
            let mut got: Vec<_> = body["aggregates"].as_array().unwrap().iter().map(told).collect();
            got.sort_by_key(|v| (v[2].as_i64(), v[1].to_string()));
            assert_eq!(got, expected, "round {round} {path}");
        }
    }
}
