//! Roll-ups and merges against the windows that they are made of, on random batches.

use super::*;
use fastrand::Rng;
use selvedge_node_core::stored::{SeriesInfo, StoredWindow};
use selvedge_types::sequences::Sequences;
use std::collections::BTreeMap;

impl World {
    /// Applies batches of parts of a few streams around 1970, many of them late ones of windows that are there; some batches
    /// come twice, in one transaction or in two. Values are whole numbers, so that sums are the same in any order.
    async fn store_at_random(&mut self, random: &mut Rng, batches: u64) {
        let mut sent: Vec<Incoming> = vec![];
        for _ in 0..batches {
            let mut batch = Batch::default();
            for device in ["a", "b", "c"] {
                batch
                    .streams
                    .extend(["s", "t"].map(|s| StreamName { device: device.into(), stream: s.into() }));
            }
            for _ in 0..random.u64(..40) {
                let width_ms = [600_000, 900_000, 3_600_000, 7_200_000, 7_000][random.u64(..5) as usize];
                let start =
                    (random.u64(..120) as i64 - 60) * 1_800_000 / i64::from(width_ms) * i64::from(width_ms);
                let sample = |random: &mut Rng| Sample {
                    time: EpochMs(start + random.u64(..100) as i64),
                    slot: random.u64(..1_000),
                    index: random.u64(..10) as u32,
                    value: random.u64(..2_000) as f64 - 1_000.0,
                };
                let mut aggregate = Aggregate::of(sample(random));
                (0..random.u64(..4)).for_each(|_| aggregate.merge(&Aggregate::of(sample(random))));
                let (stream, late) = (random.u64(..6) as u32, random.u64(..2));
                let watermark = EpochMs(start + random.u64(..10_000_000) as i64);
                batch.parts.push(Part {
                    stream,
                    width_ms,
                    start: EpochMs(start),
                    aggregate,
                    late,
                    watermark,
                    set_aside: 0,
                    sequences: Sequences::default(),
                });
            }
            self.seq += 1;
            sent.push(Incoming::latest(self.api.sites[0].clone(), self.seq, batch));
            let again = sent[random.u64(..sent.len() as u64) as usize].clone();
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
            let mut spans: BTreeMap<EpochMs, StoredWindow> = BTreeMap::new();
            for window in page.rows.into_iter().filter(|_| series.width_ms == width_ms) {
                let start = EpochMs(window.start.0.div_euclid(every) * every);
                let whole = || StoredWindow { start, ..window.clone() };
                spans.entry(start).and_modify(|span| span.merge(&window)).or_insert_with(whole);
            }
            all.extend(spans.into_values().map(|span| (series.clone(), span)));
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
        row["partial"],
        row["complete"],
    ])
}

/// What was asked for, and what is there of a row.
struct ByHand<'a> {
    /// Milliseconds: the length of spans, and the time asked for.
    asked: (i64, i64, i64),
    device: Option<&'a str>,
    stream: Option<&'a str>,
    /// How far the stream that is furthest behind has come.
    passed: EpochMs,
}

fn told_by_hand(of: &ByHand<'_>, w: &StoredWindow) -> Value {
    let (a, (every, from, to)) = (&w.aggregate, of.asked);
    let (device, stream) = (of.device, of.stream);
    let partial = w.start.0 < from || w.start.0 + every > to;
    json!([
        device,
        stream,
        w.start.0,
        a.count,
        a.sum(),
        a.min,
        a.max,
        a.first.time.0,
        a.first.value,
        a.last.time.0,
        a.last.value,
        format!("{:016x}", a.fingerprint),
        w.late,
        w.parts,
        of.passed.0,
        partial,
        !partial && of.passed.0 >= w.start.0 + every,
    ])
}

#[actix_web::test]
async fn roll_ups_answer_as_windows_would() {
    for mut w in World::each().await {
        const HOUR: i64 = 3_600_000;
        let mut random = Rng::with_seed(1);
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
                let from = random.u64(..120) as i64 * HOUR - 60 * HOUR + random.u64(..2) as i64 * 1_234;
                let to = from + 1 + random.u64(..60) as i64 * HOUR;
                let path =
                    format!("/v1/aggregates?width={width}&every={every}&from={from}ms&to={to}ms&limit=10000");
                let expected = w.merged_by_hand(width, every, from, to).await;
                let told_of = |(s, w): &(SeriesInfo, StoredWindow)| {
                    let (device, stream) = (Some(s.device.as_str()), Some(s.stream.as_str()));
                    told_by_hand(&ByHand { asked: (every, from, to), device, stream, passed: s.passed }, w)
                };
                let mut expected: Vec<_> = expected.iter().map(told_of).collect();
                let body = w.ok(&path).await;
                let mut got: Vec<_> = body["aggregates"].as_array().unwrap().iter().map(told).collect();
                let order = |v: &Value| v.to_string();
                got.sort_by_key(order);
                expected.sort_by_key(order);
                assert_eq!(got, expected, "round {round} {path}");
            }
            for (every, keys, device) in [
                (HOUR, "stream", ""),
                (24 * HOUR, "stream", ""),
                (48 * HOUR, "device,stream", ""),
                (HOUR, "site,stream", "&device=*"),
                (24 * HOUR, "none", "&device=*"),
                (600_000, "stream", ""),
                (1_200_000, "device", ""),
                (5 * HOUR, "site", ""),
            ] {
                // Whole hours, or somewhere within one.
                let odd = random.u64(..2) as i64 * 1_234_567;
                let from = (random.u64(..100) as i64 - 50) * HOUR + odd;
                let to = from + (1 + random.u64(..60) as i64) * HOUR - odd / 2;
                let has = |key: &str| keys.split(',').any(|k| k == key);
                type Key = (i64, Option<String>, Option<String>);
                let mut groups: BTreeMap<Key, (StoredWindow, EpochMs, u64)> = BTreeMap::new();
                for (series, span) in w.merged_by_hand(600_000, every, from, to).await {
                    let of = |key, name: &String| has(key).then(|| name.clone());
                    let key = (span.start.0, of("device", &series.device), of("stream", &series.stream));
                    groups
                        .entry(key)
                        .and_modify(|(all, passed, streams)| {
                            all.merge(&span);
                            *passed = series.passed.min(*passed);
                            *streams += 1;
                        })
                        .or_insert((span, series.passed, 1));
                }
                let expected = groups.iter().map(|((_, device, stream), (w, passed, streams))| {
                    let (device, stream) = (device.as_deref(), stream.as_deref());
                    let of = ByHand { asked: (every, from, to), device, stream, passed: *passed };
                    let told = told_by_hand(&of, w);
                    (told, json!(streams), has("site"))
                });
                let mut expected: Vec<_> = expected.collect();
                let query =
                    format!("group_by={keys}&width=10m&every={every}&from={from}ms&to={to}ms{device}");
                let row = |row: &Value| (told(row), row["streams"].clone(), row["site"].is_string());
                let order = |(told, ..): &(Value, Value, bool)| (told[2].as_i64(), told.to_string());
                expected.sort_by_key(order);
                for limit in [10_000, 1 + random.u64(..7)] {
                    let (mut got, mut after) = (vec![], String::new());
                    loop {
                        let body = w.ok(&format!("/v1/aggregates?{query}&limit={limit}{after}")).await;
                        got.extend(body["aggregates"].as_array().unwrap().iter().map(row));
                        let Some(next) = body["next"].as_str() else { break };
                        after = format!("&after={next}");
                    }
                    assert!(got.is_sorted_by_key(|(told, ..)| told[2].as_i64()), "{query}");
                    got.sort_by_key(order);
                    assert_eq!(got, expected, "round {round} {query} limit {limit}");
                }
            }
        }
        w.end().await;
    }
}
