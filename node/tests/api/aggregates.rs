//! `/v1/aggregates`, by example.

use super::*;
use parquet::file::reader::{FileReader, SerializedFileReader};

#[actix_web::test]
async fn a_window_is_answered_with_all_that_is_known_of_it() {
    let mut w = World::new().await;
    w.store("press-1", "temp", 10_000, 3).await;
    let body = w.ok("/v1/aggregates?device=press-1&stream=temp&from=2025-11-24T16:00:20Z").await;
    let print = format!("{:016x}", selvedge_types::aggregate::fingerprint(2.0));
    let point = json!({ "time": "2025-11-24T16:00:20.001Z", "time_ms": START + 20_001, "value": 2.0 });
    let row = json!({
        "site": "plant-7", "device": "press-1", "stream": "temp",
        "start": "2025-11-24T16:00:20.000Z", "start_ms": START + 20_000, "width_ms": 10_000,
        "count": 1, "sum": 2.0, "mean": 2.0, "min": 2.0, "max": 2.0, "stddev": 0.0,
        "p50": 2.0, "p90": 2.0, "p99": 2.0,
        "first": point, "last": point, "late": 0, "set_aside": 0, "missing": null, "parts": 1, "fingerprint": print,
        "watermark": "2025-11-24T16:00:30.000Z", "watermark_ms": START + 30_000, "complete": true,
    });
    assert_eq!(body, json!({ "aggregates": [row], "truncated": false, "next": null }));
}

#[actix_web::test]
async fn a_figure_that_can_not_be_reckoned_is_nothing_in_every_form() {
    for mut w in World::each().await {
        w.change(|api| api.sql.enabled = true);
        let sample = |slot, value| Sample { time: EpochMs(START), slot, index: 0, value };
        let mut aggregate = Aggregate::of(sample(1, 1e308));
        aggregate.add(sample(2, 1e308));
        let start = EpochMs(START);
        let part = Part {
            stream: 0,
            width_ms: 10_000,
            start,
            aggregate,
            late: 0,
            watermark: start.plus(10_000),
            set_aside: 0,
            sequences: Sequences::default(),
        };
        w.put("d", "s", vec![part]).await;
        let path = "/v1/aggregates?device=d&fn=sum,mean,stddev,p50";
        for every in ["", "&every=1h"] {
            let body = w.ok(&format!("{path}{every}")).await;
            let row = &body["aggregates"][0];
            let figures = ["sum", "mean", "stddev", "p50"].map(|name| row[name].clone());
            assert_eq!(figures, [Value::Null, json!(1e308), json!(0.0), Value::Null]);
        }
        let (_, text) = w.text(&format!("{path}&format=csv")).await;
        assert!(text.ends_with(",10000,,1e308,0.0,\r\n"), "{text}");
        let (_, text) = w.text(&format!("{path}&format=ndjson")).await;
        assert!(text.contains(r#""sum":null,"mean":1e+308,"stddev":0.0,"p50":null"#), "{text}");
        let (_, _, body) = w.ask(test::TestRequest::get().uri(&format!("{path}&format=parquet"))).await;
        let file = SerializedFileReader::new(bytes::Bytes::from(body)).unwrap();
        let row = file.get_row_iter(None).unwrap().next().unwrap().unwrap().to_string();
        assert!(row.contains("sum: null") && row.contains("p50: null"), "{row}");
        for view in ["windows", "hour"] {
            let sql = format!("SELECT sum, mean, stddev, p50 FROM {view}");
            let asked =
                test::TestRequest::post().uri("/v1/sql").insert_header(("content-type", "text/plain"));
            let (_, _, body) = w.ask(asked.set_payload(sql)).await;
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["rows"], json!([[null, 1e308, 0.0, null]]), "{view}");
        }
        w.end().await;
    }
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
    for mut w in World::each().await {
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
                    all.extend(
                        column(&body, "stream").into_iter().zip(starts).map(|(s, t)| format!("{s} {t}")),
                    );
                    let Some(next) = body["next"].as_str() else { break };
                    path = format!("/v1/aggregates?device=d{query}&limit={limit}&after={next}");
                }
                let distinct: std::collections::BTreeSet<_> = all.iter().collect();
                assert_eq!((all.len(), distinct.len()), (rows, rows), "{query} limit {limit}");
            }
        }
        w.end().await;
    }
}

#[actix_web::test]
async fn without_a_device_all_answer_and_groups_merge_them() {
    let mut w = World::new().await;
    for (device, stream) in [("a", "temp"), ("b", "temp"), ("b", "door")] {
        w.store(device, stream, 10_000, 400).await;
    }
    let all = w.ok("/v1/aggregates?every=1h").await;
    assert_eq!(column(&all, "device"), ["a", "a", "b", "b", "b", "b"]);
    let of_site = w.ok("/v1/aggregates?every=1h&group_by=site,stream&stream=temp").await;
    assert_eq!(column(&of_site, "count"), [720, 80]);
    assert_eq!(column(&of_site, "sum"), [129_240.0, 30_360.0]);
    assert_eq!(
        (column(&of_site, "site"), column(&of_site, "device")),
        (vec![json!("plant-7"); 2], vec![Value::Null; 2])
    );
    assert_eq!(
        (column(&of_site, "streams"), column(&of_site, "complete")),
        (vec![json!(2); 2], vec![json!(true), json!(false)])
    );
    let of_all = w.ok("/v1/aggregates?every=1h&group_by=stream").await;
    assert_eq!(column(&of_all, "site"), vec![Value::Null; 4]);
    assert_eq!(column(&of_all, "stream"), ["temp", "door", "temp", "door"]);
    // A device that is behind holds up the row.
    w.store("c", "temp", 10_000, 350).await;
    let behind = w.ok("/v1/aggregates?every=1h&group_by=site,stream&stream=temp&limit=1").await;
    assert_eq!(
        (&behind["aggregates"][0]["streams"], &behind["aggregates"][0]["complete"]),
        (&json!(3), &json!(false))
    );
    w.store("c", "slow", 7_000, 1).await;
    let (status, body) = w.get("/v1/aggregates?every=1h&group_by=stream").await;
    assert_eq!((status, &body["parameter"]), (400, &json!("every")));
    assert!(body["detail"].as_str().unwrap().contains("\"slow\" of device \"c\""), "{body}");
}

#[actix_web::test]
async fn pages_of_groups_give_every_row_once() {
    let mut w = World::new().await;
    for device in ["a", "b"] {
        for stream in ["s", "t", "u"] {
            w.store(device, stream, 600_000, 30).await;
        }
    }
    let all = w.ok("/v1/aggregates?every=2h&group_by=stream").await;
    assert_eq!((column(&all, "count").len(), &all["truncated"]), (9, &json!(false)));
    for limit in 1..10 {
        let (mut path, mut rows) = (format!("/v1/aggregates?every=2h&group_by=stream&limit={limit}"), vec![]);
        loop {
            let body = w.ok(&path).await;
            rows.extend(body["aggregates"].as_array().unwrap().clone());
            let Some(next) = body["next"].as_str() else { break };
            path = format!("/v1/aggregates?every=2h&group_by=stream&limit={limit}&after={next}");
        }
        assert_eq!(&rows, all["aggregates"].as_array().unwrap(), "limit {limit}");
    }
}

#[actix_web::test]
async fn patterns_pick_streams() {
    for mut w in World::each().await {
        for device in ["press-1", "press-2", "pres", "saw-1"] {
            w.store(device, "temp", 10_000, 1).await;
        }
        w.store("press-1", "door", 10_000, 1).await;
        for (query, devices) in [
            ("device=press-*&stream=temp", vec!["press-1", "press-2"]),
            ("device=press-1", vec!["press-1", "press-1"]),
            ("device=*-1&stream=t*", vec!["press-1", "saw-1"]),
            ("device=PRESS-*", vec![]),
            ("site=plant-*&stream=door", vec!["press-1"]),
            ("site=plant-8", vec![]),
            ("device=*%5C*", vec![]),
        ] {
            assert_eq!(column(&w.ok(&format!("/v1/aggregates?{query}")).await, "device"), devices, "{query}");
        }
        w.end().await;
    }
}

#[actix_web::test]
async fn fn_picks_what_is_told() {
    let mut w = World::new().await;
    w.store("d", "s", 10_000, 1).await;
    let body = w.ok("/v1/aggregates?fn=mean,last,complete").await;
    let last = json!({ "time": "2025-11-24T16:00:00.001Z", "time_ms": START + 1, "value": 0.0 });
    let row = json!({ "site": "plant-7", "device": "d", "stream": "s", "start": "2025-11-24T16:00:00.000Z",
        "start_ms": START, "width_ms": 10_000, "mean": 0.0, "last": last, "complete": true });
    assert_eq!(body["aggregates"], json!([row]));
    let (status, body) = w.get("/v1/aggregates?fn=mean,mean").await;
    assert_eq!((status, &body["parameter"]), (400, &json!("fn")));
}

#[actix_web::test]
async fn gaps_are_filled_page_by_page() {
    for mut w in World::each().await {
        w.store_at("a", "s", 10_000, [1, 4]).await;
        w.store_at("b", "s", 10_000, [0]).await;
        w.store_at("c", "s", 10_000, [90]).await;
        let (from, to) = (START, START + 60_000);
        let query = format!("/v1/aggregates?every=10s&from={from}&to={to}&fn=count,mean");
        let told = |body: &Value| -> Vec<String> {
            let rows = body["aggregates"].as_array().unwrap().iter();
            rows.map(|row| {
                let number = (row["start_ms"].as_i64().unwrap() - START) / 10_000;
                format!(
                    "{}{number} {} {} {}",
                    row["device"].as_str().unwrap_or("-"),
                    row["count"],
                    row["mean"],
                    row["filled"]
                )
            })
            .collect()
        };
        let all = told(&w.ok(&format!("{query}&fill=linear")).await);
        let a = [
            "a0 0 null true",
            "a1 1 1.0 false",
            "a2 0 2.0 true",
            "a3 0 3.0 true",
            "a4 1 4.0 false",
            "a5 0 null true",
        ];
        let b = [
            "b0 1 0.0 false",
            "b1 0 null true",
            "b2 0 null true",
            "b3 0 null true",
            "b4 0 null true",
            "b5 0 null true",
        ];
        assert_eq!(all, [a, b].concat(), "c has nothing there and is left out");
        for limit in [6, 7, 12] {
            let (mut pages, mut after) = (vec![], String::new());
            loop {
                let body = w.ok(&format!("{query}&fill=linear&limit={limit}{after}")).await;
                pages.extend(told(&body));
                let Some(next) = body["next"].as_str() else { break };
                after = format!("&after={next}");
            }
            assert_eq!(pages, all, "limit {limit}");
        }
        let merged = told(&w.ok(&format!("{query}&fill=previous&group_by=stream")).await);
        let expected = [
            "-0 1 0.0 false",
            "-1 1 1.0 false",
            "-2 0 1.0 true",
            "-3 0 1.0 true",
            "-4 1 4.0 false",
            "-5 0 4.0 true",
        ];
        assert_eq!(merged, expected);
        assert_eq!(told(&w.ok(&format!("{query}&fill=-1&device=b")).await)[5], "b5 0 -1.0 true");
        assert_eq!(told(&w.ok(&format!("{query}&fill=none&device=b")).await), ["b0 1 0.0 null"]);
        for (more, parameter) in
            [("&fill=linear&limit=5", "every"), ("&fill=null&group_by=device&limit=6", "limit")]
        {
            let (status, body) = w.get(&format!("{query}{more}")).await;
            assert_eq!((status, &body["parameter"]), (400, &json!(parameter)), "{body}");
        }
        w.end().await;
    }
}

#[actix_web::test]
async fn merging_too_many_windows_names_the_bound() {
    let mut w = World::new().await;
    for device in 0..30 {
        w.store(&format!("d{device}"), "s", 70, 1).await;
    }
    let (status, body) = w.get("/v1/aggregates?every=7m&group_by=stream").await;
    let detail = body["detail"].as_str().unwrap();
    assert_eq!((status, &body["parameter"]), (400, &json!("every")));
    assert!(detail.contains("more than 100000") && detail.contains("whole minutes, hours"), "{detail}");
    assert_eq!(column(&w.ok("/v1/aggregates?every=7s&group_by=stream").await, "streams"), [30]);
}

#[actix_web::test]
async fn the_same_rows_in_other_forms() {
    let mut w = World::new().await;
    w.store("a,\"b\"", "s", 10_000, 3).await;
    let path = "/v1/aggregates?fn=count,last&limit=2";
    let (headers, text) = w.text(&format!("{path}&format=csv")).await;
    let lines = [
        "site,device,stream,start,start_ms,width_ms,count,last_time,last_time_ms,last_value",
        "plant-7,\"a,\"\"b\"\"\",s,2025-11-24T16:00:00.000Z,1764000000000,10000,1,2025-11-24T16:00:00.001Z,1764000000001,0.0",
        "plant-7,\"a,\"\"b\"\"\",s,2025-11-24T16:00:10.000Z,1764000010000,10000,1,2025-11-24T16:00:10.001Z,1764000010001,1.0",
    ];
    assert_eq!(text, lines.map(|line| format!("{line}\r\n")).concat());
    assert!(header(&headers, "content-type").starts_with("text/csv"));
    let link = header(&headers, "link");
    let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    let (headers, text) = w.text(&format!("/v1/aggregates{next}")).await;
    assert_eq!((text.lines().count(), header(&headers, "link")), (2, ""));
    let accepting = |accept: &str| test::TestRequest::get().uri(path).insert_header(("accept", accept));
    let (_, headers, body) = w.ask(accepting("application/x-ndjson")).await;
    assert_eq!(header(&headers, "content-type"), "application/x-ndjson");
    let body = String::from_utf8(body).unwrap();
    assert_eq!(
        body.lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["count"].clone())
            .collect::<Vec<_>>(),
        [1, 1]
    );
    let (_, headers, body) = w.ask(test::TestRequest::get().uri(&format!("{path}&format=parquet"))).await;
    assert_eq!(header(&headers, "content-type"), "application/vnd.apache.parquet");
    let file = SerializedFileReader::new(bytes::Bytes::from(body)).unwrap();
    let rows: Vec<String> = file.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
    assert_eq!(rows.len(), 2);
    assert!(rows[0].contains("count: 1") && rows[1].contains("last_value: 1"), "{}", rows[0]);
    let (status, _, body) = w.ask(accepting("image/png")).await;
    assert_eq!(status, 406);
    assert!(String::from_utf8(body).unwrap().contains("text/csv"));
}

#[actix_web::test]
async fn a_span_that_is_cut_is_marked_in_every_form() {
    let mut w = World::new().await;
    w.store("d", "s", 10_000, 360).await;
    let cut = format!("/v1/aggregates?every=20m&from={}&to={}", START + 600_000, START + 3_000_000);
    let body = w.ok(&cut).await;
    assert_eq!(column(&body, "partial"), [true, false, true]);
    assert_eq!(column(&body, "complete"), [false, true, false], "what is cut off is not there");
    assert_eq!(column(&body, "count"), [60, 120, 60]);
    let (_, csv) = w.text(&format!("{cut}&fn=count&format=csv")).await;
    assert!(csv.starts_with("site,device,stream,start,start_ms,width_ms,partial,count\r\n"), "{csv}");
    assert!(csv.contains(",1200000,true,60\r\n") && csv.contains(",1200000,false,120\r\n"), "{csv}");
    assert_eq!(column(&w.ok("/v1/aggregates?every=20m").await, "partial"), [false; 3]);
    assert_eq!(
        w.ok("/v1/aggregates").await["aggregates"][0]["partial"],
        Value::Null,
        "a window is never cut"
    );
}

#[actix_web::test]
async fn days_and_weeks_of_a_time_zone() {
    for mut w in World::each().await {
        // Three days around the night in which clocks are put forward in Berlin, an hour a window.
        let first = EpochMs::parse("2026-03-28T00:00:00Z").unwrap().0;
        let hours = (0..72).map(|hour| (first - START) / 3_600_000 + hour);
        assert_eq!((first - START) % 3_600_000, 0);
        w.store_at("d", "s", 3_600_000, hours).await;
        let days = w.ok("/v1/aggregates?every=1d&tz=Europe/Berlin").await;
        assert_eq!(column(&days, "count"), [23, 23, 24, 2]);
        assert_eq!(column(&days, "width_ms"), [24, 23, 24, 24].map(|hours| hours * 3_600_000));
        assert_eq!(
            column(&days, "start_local"),
            ["28T00:00:00+01:00", "29T00:00:00+01:00", "30T00:00:00+02:00", "31T00:00:00+02:00"]
                .map(|day| format!("2026-03-{day}"))
        );
        assert_eq!(column(&days, "complete"), [true, true, true, false]);
        let utc = w.ok("/v1/aggregates?every=1d").await;
        assert_eq!(
            (column(&utc, "count"), &utc["aggregates"][0]["start_local"]),
            (vec![json!(24); 3], &Value::Null)
        );
        let weeks = w.ok("/v1/aggregates?every=1w&tz=Europe/Berlin&fn=count").await;
        assert_eq!(column(&weeks, "count"), [46, 26], "from Monday");
        let merged = w.ok("/v1/aggregates?every=1mo&tz=Europe/Berlin&group_by=site&fn=count,complete").await;
        assert_eq!(
            (column(&merged, "count"), column(&merged, "complete")),
            (vec![json!(72)], vec![json!(false)])
        );
        let filled = "/v1/aggregates?every=1d&tz=Europe/Berlin&fill=null&fn=count&from=2026-03-27T23:00:00Z&to=2026-04-02T22:00:00Z";
        assert_eq!(column(&w.ok(filled).await, "count"), [23, 23, 24, 2, 0, 0]);
        for (query, parameter, says) in [
            ("every=1d&tz=Asia/Kolkata", "every", "multiples of 30m"),
            ("every=1d&tz=Berlin", "tz", "Europe/Berlin"),
            ("tz=Europe/Berlin", "every", "is needed"),
            ("every=30m&tz=Asia/Kolkata", "every", "not a multiple of a stored width"),
            ("from=2026-03-28T00:00:00", "from", "no time zone"),
            ("from=1774656000", "from", "1774656000s"),
        ] {
            let (status, body) = w.get(&format!("/v1/aggregates?{query}")).await;
            assert_eq!((status, &body["parameter"]), (400, &json!(parameter)), "{query}: {body}");
            assert!(body["detail"].as_str().unwrap().contains(says), "{query}: {body}");
        }
        let zoned =
            w.ok("/v1/aggregates?from=2026-03-28T01:00:00+01:00&to=2026-03-28T02:00:00%2B01:00").await;
        assert_eq!(column(&zoned, "start_ms"), [first]);
        // Windows of half an hour fit days of Kolkata.
        w.store_at("k", "s", 1_800_000, [0, 1]).await;
        assert_eq!(column(&w.ok("/v1/aggregates?device=k&every=1d&tz=Asia/Kolkata").await, "count"), [2]);
        w.end().await;
    }
}

#[actix_web::test]
async fn csv_lines_and_parquet_hold_all_rows_or_break_off() {
    for mut w in World::each().await {
        for device in ["a", "b"] {
            w.store(device, "s", 10_000, 1_500).await;
        }
        let (headers, csv) = w.text("/v1/aggregates?fn=count&format=csv").await;
        assert_eq!((csv.lines().count(), header(&headers, "link")), (3_001, ""));
        let distinct: std::collections::BTreeSet<&str> = csv.lines().collect();
        assert_eq!(distinct.len(), 3_001);
        let (_, lines) = w.text("/v1/aggregates?every=30s&fn=count&format=ndjson").await;
        assert_eq!(lines.lines().count(), 1_000);
        let (_, _, file) =
            w.ask(test::TestRequest::get().uri("/v1/aggregates?fn=count&format=parquet")).await;
        let file = SerializedFileReader::new(bytes::Bytes::from(file)).unwrap();
        assert_eq!(file.get_row_iter(None).unwrap().count(), 3_000);
        assert_eq!(w.text("/v1/latest?format=csv").await.1.lines().count(), 3);
        assert_eq!(w.text("/v1/gaps?format=csv").await.1.lines().count(), 1);
        let (headers, page) = w.text("/v1/aggregates?fn=count&format=csv&limit=7").await;
        assert_eq!((page.lines().count(), header(&headers, "selvedge-truncated")), (8, "true"));

        w.change(|api| api.whole_limits.rows_entries = 2_000);
        let app = test::init_service(App::new().app_data(w.api.clone()).configure(configure)).await;
        for form in ["csv", "ndjson", "parquet"] {
            let path = format!("/v1/aggregates?fn=count&format={form}");
            let answer = test::call_service(&app, test::TestRequest::get().uri(&path).to_request()).await;
            assert_eq!(answer.status().as_u16(), 200);
            let whole = actix_web::body::to_bytes(answer.into_body()).await;
            assert!(whole.is_err(), "{form}: what is cut off does not end");
        }
        w.end().await;
    }
}

#[actix_web::test]
async fn what_the_site_set_aside_and_what_is_missing_are_told_and_add_up() {
    use selvedge_types::sequences::{SequenceSpan, Sequences};
    for mut w in World::each().await {
        let part = |n: i64, first: u64, last: u64| {
            let start = EpochMs(START + n * 10_000);
            let span = SequenceSpan { boot: Some(1), first, last, count: 1 };
            let sample = Sample { time: start, slot: 1, index: 0, value: 1.0 };
            Part {
                stream: 0,
                width_ms: 10_000,
                start,
                aggregate: Aggregate::of(sample),
                late: 0,
                watermark: start,
                set_aside: 2,
                sequences: Sequences::from_list(&[span]),
            }
        };
        // Number 3 is missing within the second window, number 2 between both.
        let name = StreamName { device: "d".into(), stream: "s".into() };
        let batch = Batch { streams: vec![name], parts: vec![part(0, 1, 1), part(1, 4, 5), part(1, 3, 3)] };
        let content = Some(IncomingBatch { seq: 1, batch, body_hash: 1 });
        let site = w.api.sites[0].clone();
        let one = Incoming {
            site,
            incarnation: Default::default(),
            shard: ShardId(0),
            first_kept: 1,
            last: 1,
            content,
            lost: None,
        };
        w.writer.apply(&[one].into(), EpochMs(START)).await.unwrap();
        let windows = w.ok("/v1/aggregates?fn=set_aside,missing").await;
        assert_eq!(
            (column(&windows, "set_aside"), column(&windows, "missing")),
            (vec![json!(2), json!(4)], vec![json!(0), json!(1)])
        );
        for every in ["1m", "20s", "1h"] {
            let spans = w.ok(&format!("/v1/aggregates?every={every}&fn=set_aside,missing")).await;
            assert_eq!(
                (column(&spans, "set_aside"), column(&spans, "missing")),
                (vec![json!(6)], vec![json!(2)]),
                "{every}"
            );
        }
        let device = w.ok("/v1/devices").await["devices"][0].clone();
        for one in [&device, &device["streams"][0]] {
            assert_eq!(
                (&one["readings"], &one["set_aside"], &one["missing"]),
                (&json!(3), &json!(6), &json!(2))
            );
        }
        w.end().await;
    }
}
