//! Devices, newest windows, gaps and the ledger.

use super::*;

#[actix_web::test]
async fn devices_are_listed_with_their_streams_page_by_page() {
    for mut w in World::each().await {
        for (device, stream, width, windows) in
            [("b", "s", 10_000, 1), ("a", "t", 10_000, 2), ("a", "s", 60_000, 1), ("a", "s", 10_000, 1)]
        {
            w.store(device, stream, width, windows).await;
        }
        let (first, last) = ("2025-11-24T16:00:00.001Z", "2025-11-24T16:00:10.001Z");
        let times = |stream: &str, widths: &[u32], last: &str, readings: u64| {
            json!({ "stream": stream, "widths_ms": widths, "first": first, "last": last, "readings": readings, "late": 0,
                "set_aside": 0, "missing": null })
        };
        let a = json!({ "site": "plant-7", "device": "a", "first_seen": "2025-11-24T16:00:00.000Z", "first": first, "last": last,
            "readings": 3, "late": 0, "set_aside": 0, "missing": null,
            "streams": [times("s", &[10_000, 60_000], first, 1), times("t", &[10_000], last, 2)] });
        let page = w.ok("/v1/devices?limit=1").await;
        assert_eq!((&page["devices"], &page["truncated"]), (&json!([a]), &json!(true)));
        let rest = w.ok(&format!("/v1/devices?after={}", page["next"].as_str().unwrap())).await;
        assert_eq!((&rest["devices"][0]["device"], &rest["next"]), (&json!("b"), &Value::Null));
        assert_eq!(w.ok("/v1/devices?site=other").await["devices"], json!([]));
        w.end().await;
    }
}

#[actix_web::test]
async fn the_ledger_is_compact_and_complete() {
    for mut w in World::each().await {
        w.store("d", "s", 10_000, 3).await;
        w.store("d", "t", 10_000, 2).await;
        w.store("d", "t", 60_000, 1).await;
        let print = |v: f64| format!("{:016x}", selvedge_types::aggregate::fingerprint(v));
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
        w.end().await;
    }
}

#[actix_web::test]
async fn the_newest_window_of_each_stream_at_its_narrowest_width() {
    for mut w in World::each().await {
        w.store("a", "s", 60_000, 3).await;
        w.store("a", "s", 10_000, 3).await;
        w.store("b", "s", 10_000, 5).await;
        w.store("b", "t", 60_000, 1).await;
        let rows = |body: &Value| -> Vec<String> {
            let rows = body["latest"].as_array().unwrap().iter();
            rows.map(|r| {
                format!(
                    "{} {} {} {}",
                    r["device"].as_str().unwrap(),
                    r["stream"].as_str().unwrap(),
                    r["width_ms"],
                    r["last"]["value"]
                )
            })
            .collect()
        };
        let all = w.ok("/v1/latest").await;
        assert_eq!(rows(&all), ["a s 10000 2.0", "b s 10000 4.0", "b t 60000 0.0"]);
        assert_eq!(all["latest"][1]["last"]["time_ms"], START + 40_001);
        assert_eq!(rows(&w.ok("/v1/latest?device=b*&stream=s").await), ["b s 10000 4.0"]);
        assert_eq!(rows(&w.ok("/v1/latest?q=B").await).len(), 2);
        let (mut paged, mut path) = (vec![], "/v1/latest?limit=1".to_string());
        loop {
            let body = w.ok(&path).await;
            paged.extend(rows(&body));
            let Some(next) = body["next"].as_str() else { break };
            path = format!("/v1/latest?limit=1&after={next}");
        }
        assert_eq!(paged, rows(&all));
        let (_, text) = w.text("/v1/latest?format=csv&fn=last&device=a").await;
        assert!(
            text.ends_with(
                "a,s,2025-11-24T16:00:20.000Z,1764000020000,10000,2025-11-24T16:00:20.001Z,1764000020001,2.0\r\n"
            ),
            "{text}"
        );
        w.end().await;
    }
}

#[actix_web::test]
async fn gaps_lie_between_windows_and_are_told_once() {
    for mut w in World::each().await {
        w.store_at("a", "s", 10_000, [0, 1, 4, 5, 9]).await;
        w.store_at("b", "s", 10_000, [0, 1, 2]).await;
        w.store_at("c", "s", 10_000, [0, 7]).await;
        let rows = |body: &Value| -> Vec<String> {
            let rows = body["gaps"].as_array().unwrap().iter();
            let number = |ms: &Value| (ms.as_i64().unwrap() - START) / 1_000;
            rows.map(|r| {
                format!(
                    "{} {}-{} {}",
                    r["device"].as_str().unwrap(),
                    number(&r["from_ms"]),
                    number(&r["to_ms"]),
                    r["windows"]
                )
            })
            .collect()
        };
        let all = w.ok("/v1/gaps").await;
        assert_eq!(rows(&all), ["a 20-40 2", "a 60-90 3", "c 10-70 6"]);
        assert_eq!((&all["holes"], &all["next"]), (&json!([]), &Value::Null));
        assert_eq!(rows(&w.ok("/v1/gaps?min=30s").await), ["a 60-90 3", "c 10-70 6"]);
        let within = format!("/v1/gaps?from={}&to={}", START + 25_000, START + 65_000);
        assert_eq!(rows(&w.ok(&within).await), ["a 25-40 2", "a 60-65 1", "c 25-65 4"]);
        for limit in 1..4 {
            let (mut paged, mut path) = (vec![], format!("/v1/gaps?limit={limit}"));
            loop {
                let body = w.ok(&path).await;
                paged.extend(rows(&body));
                let Some(next) = body["next"].as_str() else { break };
                path = format!("/v1/gaps?limit={limit}&after={next}");
            }
            assert_eq!(paged, rows(&all), "limit {limit}");
        }
        // The edge no longer has batches 4 and 5.
        let site = w.api.sites[0].clone();
        let hole = Incoming {
            site,
            incarnation: Default::default(),
            shard: ShardId(0),
            first_kept: 6,
            last: 6,
            content: None,
            lost: None,
        };
        w.writer.apply(&[hole].into(), EpochMs(START + 5)).await.unwrap();
        let holes = w.ok("/v1/gaps?device=b").await["holes"].clone();
        let hole = json!({ "site": "plant-7", "shard": 0, "first_seq": 4, "last_seq": 5, "batches": 2,
            "found": "2025-11-24T16:00:00.005Z", "found_ms": START + 5, "lost_at_site": false, "readings": null, "parts": null,
            "windows_from": null, "windows_to": null });
        assert_eq!(holes, json!([hole]));
        assert_eq!(w.ok(&format!("/v1/gaps?from={}", START + 6)).await["holes"], json!([]));
        assert_eq!(w.ok("/v1/gaps?site=other").await["holes"], json!([]));
        w.end().await;
    }
}

#[actix_web::test]
async fn devices_are_found_by_patterns_and_pieces_of_names() {
    for mut w in World::each().await {
        for (device, stream) in [("press-1", "temp"), ("press-2", "door"), ("Saw", "temp")] {
            w.store(device, stream, 10_000, 2).await;
        }
        let names = |body: Value| -> Vec<Value> {
            body["devices"].as_array().unwrap().iter().map(|d| d["device"].clone()).collect()
        };
        for (query, expected) in [
            ("q=saw", vec!["Saw"]),
            ("q=ES", vec!["press-1", "press-2"]),
            ("device=press*&stream=door", vec!["press-2"]),
            ("stream=temp", vec!["Saw", "press-1"]),
            ("q=%25", vec![]),
        ] {
            assert_eq!(names(w.ok(&format!("/v1/devices?{query}")).await), expected, "{query}");
        }
        w.end().await;
    }
}

#[actix_web::test]
async fn one_wild_time_neither_stays_the_newest_nor_makes_gaps() {
    for mut w in World::each().await {
        let wild = (4_292_000_000_000 - START) / 10_000;
        let last = (253_402_300_790_000 - START) / 10_000;
        w.store_at("d", "s", 10_000, [0, 1, 4, wild, last]).await;
        let latest = w.ok("/v1/latest?fn=last").await;
        assert_eq!(latest["latest"][0]["start"], "2025-11-24T16:00:40.000Z");
        let device = w.ok("/v1/devices").await["devices"][0].clone();
        assert_eq!(device["last"], "2025-11-24T16:00:40.001Z");
        let gaps = w.ok("/v1/gaps").await["gaps"].clone();
        assert_eq!((gaps.as_array().unwrap().len(), &gaps[0]["windows"]), (1, &json!(2)));
        // A clock at 1970 before it was set.
        w.store_at("d", "s", 10_000, [-START / 10_000]).await;
        let gaps = w.ok("/v1/gaps").await["gaps"].clone();
        let told: Vec<_> = gaps.as_array().unwrap().iter().map(|gap| &gap["windows"]).collect();
        assert_eq!(told, [&Value::Null, &json!(2)]);
        let gaps = w.ok(&format!("/v1/gaps?from={}", START - 50_000)).await["gaps"].clone();
        assert_eq!(gaps[0]["windows"], Value::Null, "not five windows: the stream was not there yet");
        // Every time is a time, whatever its year.
        let (_, csv) = w.text("/v1/aggregates?fn=count&format=csv").await;
        let starts: Vec<&str> = csv.lines().skip(1).map(|line| line.split(',').nth(3).unwrap()).collect();
        assert!(starts.iter().all(|start| start.len() == 24 && start.ends_with('Z')), "{starts:?}");
        assert_eq!(starts.last(), Some(&"9999-12-31T23:59:50.000Z"));
        w.end().await;
    }
}

#[actix_web::test]
async fn readiness_tells_what_a_person_should_look_at() {
    let mut w = World::new().await;
    w.api.stats.set_subscribed(true);
    assert_eq!(w.ok("/readyz").await, json!({ "status": "ready" }));
    let site = w.api.sites[0].clone();
    let beacon = Incoming {
        site,
        incarnation: Default::default(),
        shard: ShardId(0),
        first_kept: 8,
        last: 9,
        content: None,
        lost: None,
    };
    let applied = w.writer.apply(&[beacon].into(), EpochMs(START)).await.unwrap();
    assert_eq!(applied.lacking.len(), 1);
    let body = w.ok("/readyz").await;
    assert_eq!(body["status"], "ready", "it can work all the same");
    assert!(
        body["attention"][0].as_str().unwrap().starts_with("this database lacks 7 batches of 1 shards"),
        "{body}"
    );
    assert!(!body.to_string().contains("plant-7"), "everybody may ask");
}

#[actix_web::test]
async fn odd_names_are_asked_for_alone_and_harm_no_spreadsheet() {
    for mut w in World::each().await {
        let names = ["a*b", "axb", "..", "=1+1", "a/b?#%", "-7", "new\nline", "\\"];
        for name in names {
            w.store(name, "s", 10_000, 1).await;
        }
        for name in names {
            let escaped = name.replace('\\', "\\\\").replace('*', "\\*");
            let encoded: String = url::form_urlencoded::byte_serialize(escaped.as_bytes()).collect();
            let body = w.ok(&format!("/v1/aggregates?device={encoded}&fn=count")).await;
            assert_eq!(column(&body, "device"), [name]);
        }
        let (_, csv) = w.text("/v1/aggregates?fn=count&format=csv").await;
        for cell in [",'=1+1,", ",'-7,", ",..,", ",a/b?#%,"] {
            assert!(csv.contains(cell), "{cell}: {csv}");
        }
        let (_, lines) = w.text("/v1/aggregates?fn=count&format=ndjson").await;
        assert!(lines.contains("\"=1+1\"") && !lines.contains('\''), "{lines}");
        w.end().await;
    }
}
