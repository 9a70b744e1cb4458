//! `POST /v1/sql`: what is run, what is refused, and what it may take.

use super::*;
use selvedge_node::store::sql::SqlLimits;
use std::time::Duration;

fn ask(body: &str) -> test::TestRequest {
    test::TestRequest::post()
        .uri("/v1/sql")
        .insert_header(("content-type", "text/plain"))
        .set_payload(body.to_string())
}

async fn world(change: impl FnOnce(&mut SqlSettings)) -> World {
    let mut w = World::new().await;
    w.store("press-1", "temp", 10_000, 50).await;
    w.change(|api| {
        api.sql.enabled = true;
        change(&mut api.sql);
    });
    w
}

impl World {
    async fn sql(&self, sql: &str) -> (u16, Value) {
        let (status, _, body) = self.ask(ask(sql)).await;
        (status, serde_json::from_slice(&body).unwrap())
    }
}

#[actix_web::test]
async fn a_statement_that_reads_is_answered_with_names_and_types() {
    let w = world(|_| {}).await;
    let (status, body) =
        w.sql("SELECT device, count(*) AS n, sum(sum), NULL, x'0aff' FROM windows GROUP BY 1;  -- all").await;
    let column = |name: &str, kind: &str| json!({ "name": name, "type": kind });
    let columns = json!([
        column("device", "text"),
        column("n", "integer"),
        column("sum(sum)", "real"),
        column("NULL", "null"),
        column("x'0aff'", "blob")
    ]);
    assert_eq!((status, &body["columns"]), (200, &columns), "{body}");
    assert_eq!(body["rows"], json!([["press-1", 50, 1225.0, null, "0aff"]]));
    let json = |body: Value| {
        test::TestRequest::post()
            .uri("/v1/sql")
            .insert_header(("content-type", "application/json"))
            .set_payload(body.to_string())
    };
    let (status, headers, body) =
        w.ask(json(json!({ "sql": "SELECT start_ms FROM windows ORDER BY 1", "limit": 2 }))).await;
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, header(&headers, "selvedge-truncated")), (200, "true"));
    assert_eq!((&body["rows"], &body["truncated"]), (&json!([[START], [START + 10_000]]), &json!(true)));
    let (_, headers, body) =
        w.ask(ask("SELECT 'a,b' AS \"x.y\", 1.5, TRUE").insert_header(("accept", "text/csv"))).await;
    assert_eq!(header(&headers, "content-type"), "text/csv; charset=utf-8; header=present");
    assert_eq!(String::from_utf8(body).unwrap(), "x.y,1.5,TRUE\r\n\"a,b\",1.5,1\r\n");
    let (_, body) = w.sql("SELECT name FROM pragma_table_info('device') ORDER BY cid LIMIT 2").await;
    assert_eq!(body["rows"], json!([["device_id"], ["site"]]));
    let (_, body) = w.sql("EXPLAIN QUERY PLAN SELECT * FROM series").await;
    assert_eq!(body["rows"][0][3], "SCAN series");
}

#[actix_web::test]
async fn what_does_not_only_read_is_refused() {
    let w = world(|_| {}).await;
    let folder = w.folder.path().join("copy.db");
    let copy = format!("VACUUM INTO '{}'", folder.display());
    let attach = format!("ATTACH '{}' AS other", folder.display());
    for sql in [
        "DELETE FROM device",
        "UPDATE device SET name = 'x'",
        "INSERT INTO hole VALUES ('a', 0, 1, 2, 3)",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t (a)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "DROP VIEW windows",
        "WITH a AS (SELECT 1) DELETE FROM device",
        "BEGIN",
        "SAVEPOINT a",
        &attach,
        &copy,
        "VACUUM",
        "REINDEX",
        "PRAGMA query_only = 0",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA wal_checkpoint",
        "PRAGMA database_list",
        "SELECT load_extension('x')",
        "SELECT 1; SELECT 2",
        "SELECT 1; DELETE FROM device",
        "SELECT ?",
        "SELEC",
        "SELECT * FROM nowhere",
        "",
        " -- nothing",
    ] {
        let (status, body) = w.sql(sql).await;
        assert_eq!((status, &body["type"]), (400, &json!("/docs#problem-sql")), "{sql}: {body}");
        assert!(!body["detail"].as_str().unwrap().is_empty());
    }
    assert!(!folder.exists());
    let (_, body) = w.sql("SELECT count(*) FROM device").await;
    assert_eq!(body["rows"], json!([[1]]));
}

#[actix_web::test]
async fn a_statement_is_bounded_in_time_rows_and_bytes() {
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT";
    let w = world(|sql| {
        sql.timeout_ms = 50;
        sql.limit_rows = 3;
        sql.limit_bytes = 100_000;
    })
    .await;
    let (status, body) = w.sql(&format!("{endless} count(*) FROM n")).await;
    assert_eq!((status, &body["type"]), (422, &json!("/docs#problem-too-expensive")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("http.sql.timeout_ms"));
    let w = world(|sql| {
        sql.limit_rows = 3;
        sql.limit_bytes = 100_000;
    })
    .await;
    let (_, body) = w.sql(&format!("{endless} i FROM n")).await;
    assert_eq!((&body["rows"], &body["truncated"]), (&json!([[1], [2], [3]]), &json!(true)));
    let (_, body) = w.sql(&format!("{endless} hex(zeroblob(20000)) FROM n")).await;
    assert_eq!((body["rows"].as_array().unwrap().len(), &body["truncated"]), (2, &json!(true)));
    assert_eq!(w.sql("SELECT hex(zeroblob(200000))").await.0, 400, "no value is longer than an answer");
    // A first row that does not fit is no empty answer.
    let (status, body) = w.sql("SELECT hex(zeroblob(40000)), hex(zeroblob(40000))").await;
    assert_eq!((status, &body["type"]), (422, &json!("/docs#problem-too-expensive")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("http.sql.limit_bytes"), "{body}");
}

/// Searches megabytes within one step of the database's machine, where it looks at no clock.
const ONE_LONG_STEP: &str = "SELECT instr(replace(hex(zeroblob(2000000)), '0', 'a'), replace(hex(zeroblob(1000000)), '0', 'a') || 'b')";

/// Far longer than anything takes here that is stopped.
const PATIENCE: Duration = Duration::from_secs(60);

#[actix_web::test]
async fn a_step_that_looks_at_no_clock_is_stopped_in_time_all_the_same() {
    let w = world(|sql| sql.timeout_ms = 100).await;
    let (status, body) = actix_web::rt::time::timeout(PATIENCE, w.sql(ONE_LONG_STEP)).await.unwrap();
    assert_eq!((status, &body["type"]), (422, &json!("/docs#problem-too-expensive")), "{body}");
    assert_eq!(w.sql("SELECT 1").await.0, 200);
}

#[actix_web::test]
async fn a_statement_is_bounded_in_memory() {
    let w = world(|sql| sql.timeout_ms = 60_000).await;
    let growing = "WITH RECURSIVE n(b) AS (SELECT randomblob(1000000) UNION SELECT randomblob(1000000) FROM n) SELECT count(*) FROM n";
    let (status, body) = w.sql(growing).await;
    assert_eq!((status, &body["type"]), (422, &json!("/docs#problem-too-expensive")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains("bytes of memory"), "{body}");
    let wide = format!("SELECT {}", vec!["zeroblob(16000000)"; 60].join(", "));
    let (status, body) = w.sql(&wide).await;
    assert_eq!((status, &body["type"]), (422, &json!("/docs#problem-too-expensive")), "{body}");
}

fn limits() -> SqlLimits {
    SqlLimits { time: Duration::from_secs(600), rows: 10, bytes: 1_000_000 }
}

#[actix_web::test]
async fn what_nobody_waits_for_is_stopped_and_its_place_is_free() {
    let w = world(|_| {}).await;
    let place = w.api.sql_places.clone().acquire_many_owned(MAX_RUNNING_ENTRIES as u32).await.unwrap();
    let mut asked = Box::pin(w.api.reader.sql(ONE_LONG_STEP.to_string(), limits(), place));
    // Begun, and given up.
    assert!(futures_util::poll!(&mut asked).is_pending());
    actix_web::rt::task::yield_now().await;
    drop(asked);
    let free = w.api.sql_places.acquire_many(MAX_RUNNING_ENTRIES as u32);
    drop(actix_web::rt::time::timeout(PATIENCE, free).await.unwrap().unwrap());
}

#[actix_web::test]
async fn it_is_off_unless_enabled_and_its_body_is_checked() {
    let w = World::new().await;
    let (status, body) = w.sql("SELECT 1").await;
    assert_eq!((status, &body["type"]), (403, &json!("/docs#problem-sql-off")));
    let w = world(|_| {}).await;
    let of = |form: &str, body: &str| {
        test::TestRequest::post()
            .uri("/v1/sql")
            .insert_header(("content-type", form))
            .set_payload(body.to_string())
    };
    for (form, body, expected) in [
        ("application/xml", "<a/>", 415),
        ("application/json", "{", 400),
        ("application/json", "{\"sql\": \"SELECT 1\", \"limt\": 1}", 400),
        ("application/json", "{\"sql\": \"SELECT 1\", \"limit\": 0}", 400),
        ("application/json", "{\"sql\": \"SELECT 1\", \"limit\": -1}", 400),
        ("application/json", "{\"sql\": \"SELECT 1\"}", 200),
    ] {
        let (status, _, answer) = w.ask(of(form, body)).await;
        assert_eq!(status, expected, "{body}: {}", String::from_utf8_lossy(&answer));
    }
    let (status, headers, _) = w.ask(ask(&"x".repeat(selvedge_node::api::MAX_BODY_BYTES + 1))).await;
    assert_eq!((status, header(&headers, "content-type")), (413, "application/problem+json"));
    assert_eq!(w.sql(&"x".repeat(selvedge_node::api::MAX_BODY_BYTES)).await.0, 400);
    let held = w.api.sql_places.acquire_many(MAX_RUNNING_ENTRIES as u32).await.unwrap();
    let (status, body) = w.sql("SELECT 1").await;
    assert_eq!((status, &body["type"]), (503, &json!("/docs#problem-busy")));
    drop(held);
    assert_eq!(w.sql("SELECT 1").await.0, 200);
}

#[actix_web::test]
async fn the_same_on_postgresql() {
    let Some(mut w) = World::on_postgres().await else { return };
    w.store("press-1", "temp", 10_000, 300).await;
    w.change(|api| {
        api.sql.enabled = true;
        api.sql.timeout_ms = 3_000;
        api.sql.limit_rows = 250;
        api.sql.limit_bytes = 1_000_000;
    });
    let (status, body) = w
        .sql("SELECT device, count(*) AS n, sum(count), avg(mean) AS mean, bool_and(complete), NULL FROM windows GROUP BY 1; ")
        .await;
    let kinds: Vec<_> =
        body["columns"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
    assert_eq!((status, kinds), (200, vec!["text", "int8", "numeric", "float8", "bool", "text"]), "{body}");
    assert_eq!(body["rows"], json!([["press-1", 300, 300, 149.5, true, null]]));
    let (_, body) = w.sql("SELECT start FROM windows ORDER BY start DESC -- the newest").await;
    let rows = body["rows"].as_array().unwrap();
    assert_eq!(
        (rows.len(), &body["truncated"], &rows[0][0]),
        (250, &json!(true), &json!("2025-11-24 16:49:50+00"))
    );
    assert_eq!(w.sql("VALUES (1), (2)").await.1["rows"], json!([[1], [2]]));
    assert_eq!(w.sql("TABLE shards").await.0, 200);
    for sql in [
        "DELETE FROM device",
        "WITH gone AS (DELETE FROM device RETURNING *) SELECT * FROM gone",
        "SELECT * INTO t FROM device",
        "CREATE TABLE t (a int)",
        "CREATE TEMP TABLE t (a int)",
        "SELECT * FROM device FOR UPDATE",
        "LOCK TABLE device",
        "BEGIN",
        "COMMIT",
        "SET statement_timeout = 0",
        "SET TRANSACTION READ WRITE",
        "COPY device TO STDOUT",
        "COPY device TO PROGRAM 'true'",
        "DO $$ BEGIN NULL; END $$",
        "SELECT 1; SELECT 2",
        "SELECT 1) AS a; DELETE FROM device; SELECT * FROM (SELECT 1",
        "SELECT $1::int",
        "SELECT * FROM device",
        "SELEC",
        "SELECT * FROM nowhere",
        "",
    ] {
        let (status, body) = w.sql(sql).await;
        assert_eq!((status, &body["type"]), (400, &json!("/docs#problem-sql")), "{sql}: {body}");
    }
    assert_eq!(w.sql("SELECT count(*) FROM devices").await.1["rows"], json!([[1]]));
    let (status, body) = w.sql("SELECT count(*) FROM generate_series(1, 1000000000)").await;
    assert_eq!((status, &body["type"]), (422, &json!("/docs#problem-too-expensive")), "{body}");
    let (status, body) = w.sql("SELECT string_agg(a.device, '') FROM windows AS a, windows AS b").await;
    assert_eq!(status, 400);
    assert!(body["detail"].as_str().unwrap().contains("a row has more than 262144 bytes"), "{body}");
    let long = "(SELECT string_agg(a.device, '') FROM windows AS a, (SELECT * FROM windows LIMIT 95) AS b)";
    let (_, body) = w.sql(&format!("SELECT {long} FROM windows")).await;
    assert_eq!((body["rows"].as_array().unwrap().len(), &body["truncated"]), (5, &json!(true)));
    w.end().await;
}

#[actix_web::test]
async fn on_postgresql_a_statement_reaches_the_views_and_nothing_else() {
    let Some(mut w) = World::on_postgres().await else { return };
    w.store("press-1", "temp", 10_000, 3).await;
    w.change(|api| api.sql.enabled = true);
    for view in ["devices", "streams", "windows", "windows_all", "minute", "hour", "day", "holes", "shards"] {
        let (status, body) = w.sql(&format!("SELECT * FROM {view}")).await;
        assert_eq!(status, 200, "{view}: {body}");
    }
    for sql in [
        "SELECT CASE WHEN g=1 THEN set_config('statement_timeout','0',false) WHEN g=5000 THEN pg_sleep(30)::text ELSE 'a' END \
         FROM generate_series(1,6000) g",
        "SELECT pg_terminate_backend(1)",
        "SELECT pg_sleep(1)",
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT lo_import('/etc/hostname')",
        "SELECT pg_advisory_lock(1)",
        "SELECT query_to_xml('SELECT pg_sleep(1)', true, true, '')",
        "SELECT repeat('x', 1000000000)",
        "SELECT * FROM pg_stat_activity",
        "SELECT * FROM device",
        "SELECT * FROM schema_version",
        "TABLE series_window",
        "SET ROLE postgres",
        "RESET ROLE",
    ] {
        let (status, body) = w.sql(sql).await;
        assert_eq!((status, &body["type"]), (400, &json!("/docs#problem-sql")), "{sql}: {body}");
    }
    let (_, body) = w.sql("SELECT current_user").await;
    assert_eq!(body["rows"], json!([["selvedge_sql"]]), "also if the check of functions had a hole");
    w.end().await;
}

#[actix_web::test]
async fn on_postgresql_a_place_is_free_only_when_the_server_is_done() {
    let Some(mut w) = World::on_postgres().await else { return };
    w.change(|api| api.sql.enabled = true);
    let (server, name) = w.postgres.clone().unwrap();
    let (before, _) = server.rsplit_once('/').unwrap();
    let (client, connection) =
        tokio_postgres::connect(&format!("{before}/{name}"), tokio_postgres::NoTls).await.unwrap();
    actix_web::rt::spawn(connection);
    let at_it = async || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'FETCH%' AND state = 'active'";
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    let place = w.api.sql_places.clone().acquire_many_owned(MAX_RUNNING_ENTRIES as u32).await.unwrap();
    let statement = "SELECT count(*) FROM generate_series(1, 100000000000)".to_string();
    let mut asked = Box::pin(w.api.reader.sql(statement, limits(), place));
    while at_it().await == 0 {
        assert!(futures_util::poll!(&mut asked).is_pending());
        actix_web::rt::task::yield_now().await;
    }
    drop(asked);
    let free = w.api.sql_places.acquire_many(MAX_RUNNING_ENTRIES as u32);
    drop(actix_web::rt::time::timeout(PATIENCE, free).await.unwrap().unwrap());
    assert_eq!(at_it().await, 0);
    w.end().await;
}
