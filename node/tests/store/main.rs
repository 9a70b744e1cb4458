//! The same over each store: see [`homes`].

use selvedge_node::store::find::Seek;
use selvedge_node::store::{Database, Postgres, Reader, WindowKey, Writer, open};
use selvedge_node_core::incoming::{Incoming, IncomingBatch};
use selvedge_node_core::stage::{Applied, KEPT_BATCHES_ENTRIES, MessageOutcome};
use selvedge_node_core::stored::StoredWindow;
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, LostBatch, Part, SiteIncarnation, StreamName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_postgres::{Client, SimpleQueryMessage};

fn site() -> SiteId {
    SiteId::new("plant-7").unwrap()
}

fn part(stream: u32, start: i64, values: &[f64]) -> Part {
    let sample = |(i, v): (usize, &f64)| Sample {
        time: EpochMs(start + i as i64),
        slot: 1,
        index: i as u32,
        value: *v,
    };
    let mut all = values.iter().enumerate().map(sample).map(Aggregate::of);
    let mut aggregate = all.next().unwrap();
    all.for_each(|one| aggregate.merge(&one));
    let start = EpochMs(start);
    let (set_aside, sequences) = (0, Sequences::default());
    Part { stream, width_ms: 10_000, start, aggregate, late: 0, watermark: start, set_aside, sequences }
}

fn batch(parts: Vec<Part>) -> Batch {
    let name = |s: &str| StreamName { device: "press-1".into(), stream: s.into() };
    Batch { streams: vec![name("temp"), name("force")], parts }
}

fn message(seq: u64, first_kept: u64, batch: Batch) -> Incoming {
    let body_hash = xxhash_rust::xxh3::xxh3_64(&batch.encode());
    let content = Some(IncomingBatch { seq, batch, body_hash });
    Incoming {
        site: site(),
        incarnation: SiteIncarnation::default(),
        shard: ShardId(3),
        first_kept,
        last: seq,
        content,
        lost: None,
    }
}

/// Batch `seq` holds one reading of value `seq` in the one window, and one in a window of its own.
fn numbered(seq: u64) -> Incoming {
    let own = part(1, seq as i64 * 10_000, &[1.0]);
    message(seq, 1, batch(vec![part(0, 0, &[seq as f64]), own]))
}

fn beacon(first_kept: u64, last: u64) -> Incoming {
    Incoming {
        site: site(),
        incarnation: SiteIncarnation::default(),
        shard: ShardId(3),
        first_kept,
        last,
        content: None,
        lost: None,
    }
}

async fn window(reader: &Reader, stream: &str, start: i64) -> StoredWindow {
    let series = reader.series(None, Some("press-1"), Some(stream), 9).await.unwrap();
    assert_eq!(series.len(), 1);
    reader.windows(series[0].id, EpochMs(start), EpochMs(start + 1), 9).await.unwrap().rows.remove(0)
}

async fn total(reader: &Reader) -> (u64, f64) {
    let all = window(reader, "temp", 0).await.aggregate;
    (all.count, all.sum().unwrap())
}

async fn apply(writer: &mut Writer, messages: &[Incoming]) -> Applied {
    writer.apply(&messages.to_vec().into(), EpochMs(1_764_000_000_000)).await.unwrap()
}

fn cursor(applied: &Applied) -> Option<u64> {
    applied.cursors.get(&(site(), ShardId(3))).map(|settled| settled.cursor)
}

/// A database of a test's own.
enum Home {
    Sqlite { database: Database, _folder: tempfile::TempDir },
    Postgres { database: Database, client: Client, name: String, server: String },
}

/// One of each store. PostgreSQL only if `SELVEDGE_TEST_POSTGRES` names a server to make databases on.
async fn homes() -> Vec<Home> {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Home::Sqlite { database: Database::sqlite(folder.path()), _folder: folder };
    let Ok(server) = std::env::var("SELVEDGE_TEST_POSTGRES") else {
        eprintln!("left out: PostgreSQL; `.ci/postgres run cargo test -p selvedge-node` tests it too");
        return vec![sqlite];
    };
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    connect(&server).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    let (before, _) = server.rsplit_once('/').unwrap();
    let address = format!("{before}/{name}");
    let database = Database::Postgres(Box::new(Postgres::parse(&address, false).unwrap()));
    let client = connect(&address).await;
    vec![sqlite, Home::Postgres { database, client, name, server }]
}

async fn connect(address: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(address, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Home {
    fn database(&self) -> &Database {
        match self {
            Self::Sqlite { database, .. } | Self::Postgres { database, .. } => database,
        }
    }

    async fn open(&self) -> (Writer, Reader) {
        open(self.database()).await.unwrap()
    }

    /// The process ends without closing anything, and a new one opens the same database.
    async fn crash(&self, writer: Writer, reader: Reader) -> (Writer, Reader) {
        drop((writer, reader));
        self.open().await
    }

    /// The test is over; the server, if it is one, keeps nothing of it.
    async fn end(self) {
        if let Self::Postgres { client, name, server, .. } = self {
            drop(client);
            connect(&server)
                .await
                .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
                .await
                .unwrap();
        }
    }

    /// The rows of one statement as text, as a person sees them.
    async fn sql(&self, text: &str) -> Vec<Vec<String>> {
        let folder = match self {
            Self::Postgres { client, .. } => {
                let shown = |text: Option<&str>| text.unwrap_or("NULL").to_string();
                let row = |message| match message {
                    SimpleQueryMessage::Row(row) => {
                        Some((0..row.len()).map(|at| shown(row.get(at))).collect())
                    }
                    _ => None,
                };
                return client.simple_query(text).await.unwrap().into_iter().filter_map(row).collect();
            }
            Self::Sqlite { _folder, .. } => _folder.path(),
        };
        let db = rusqlite::Connection::open(folder.join("selvedge.db")).unwrap();
        let mut query = db.prepare(text).unwrap();
        let columns = query.column_count();
        let shown = |value: rusqlite::types::Value| match value {
            rusqlite::types::Value::Null => "NULL".to_string(),
            rusqlite::types::Value::Integer(n) => n.to_string(),
            rusqlite::types::Value::Real(n) => n.to_string(),
            rusqlite::types::Value::Text(text) => text,
            rusqlite::types::Value::Blob(bytes) => format!("{bytes:?}"),
        };
        let row = |row: &rusqlite::Row<'_>| (0..columns).map(|at| row.get(at).map(shown)).collect();
        query.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// Makes the database fail when batch 3 is recorded.
    async fn fail_at_batch_3(&self) {
        let text = match self {
            Self::Sqlite { .. } => {
                "CREATE TRIGGER no BEFORE INSERT ON applied_batch WHEN new.seq = 3 \
                 BEGIN SELECT raise(ABORT, 'not this one'); END"
            }
            Self::Postgres { .. } => {
                "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$; \
                 CREATE TRIGGER no BEFORE INSERT ON applied_batch FOR EACH ROW WHEN (new.seq = 3) EXECUTE FUNCTION no()"
            }
        };
        self.sql(text).await;
    }

    async fn fail_no_more(&self) {
        let of = if matches!(self, Self::Sqlite { .. }) { "" } else { " ON applied_batch" };
        self.sql(&format!("DROP TRIGGER no{of}")).await;
    }

    /// How a true value is shown.
    fn yes(&self) -> &'static str {
        if matches!(self, Self::Sqlite { .. }) { "1" } else { "t" }
    }

    async fn times_read_well(&self) {
        let columns = "start, first_time, watermark";
        let rows = self.sql(&format!("SELECT {columns} FROM windows WHERE stream = 'force'")).await;
        let sqlite = matches!(self, Self::Sqlite { .. });
        let time = if sqlite { "1970-01-01T00:00:20.000Z" } else { "1970-01-01 00:00:20+00" };
        assert_eq!(rows, [[time; 3]]);
        if !sqlite {
            let bare = "SELECT c.relname, a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid \
                        WHERE c.relname IN ('windows', 'hour', 'holes') AND col_description(c.oid, a.attnum) IS NULL \
                        AND NOT (c.relname = 'holes' AND a.attname IN ('site', 'shard'))";
            assert_eq!(self.sql(bare).await, [[""; 0]; 0], "columns without a comment");
        }
    }
}

#[tokio::test]
async fn each_batch_counts_once_in_any_order_and_across_crashes() {
    for home in homes().await {
        let (mut writer, mut reader) = home.open().await;
        use MessageOutcome::{Applied as New, Duplicate};
        let steps: [(&[u64], &[MessageOutcome], u64); 5] = [
            (&[3, 1, 1], &[New, New, Duplicate], 1),
            (&[3, 1], &[Duplicate, Duplicate], 1),
            (&[5, 2], &[New, New], 3),
            (&[1, 2, 3, 4, 5], &[Duplicate, Duplicate, Duplicate, New, Duplicate], 5),
            (&[5, 4, 3], &[Duplicate; 3], 5),
        ];
        for (seqs, outcomes, expected) in steps {
            let messages: Vec<_> = seqs.iter().map(|seq| numbered(*seq)).collect();
            let applied = apply(&mut writer, &messages).await;
            assert_eq!((applied.outcomes.as_slice(), cursor(&applied)), (outcomes, Some(expected)));
            (writer, reader) = home.crash(writer, reader).await;
        }
        assert_eq!(total(&reader).await, (5, 15.0));
        let merged = window(&reader, "temp", 0).await;
        assert_eq!((merged.parts, merged.late), (5, 0));
        for seq in 1..=5 {
            assert_eq!(window(&reader, "force", seq * 10_000).await.aggregate.count, 1);
        }
        let status = reader.shards().await.unwrap();
        assert_eq!((status[0].batches_applied, status[0].missing, status[0].given_up), (5, 0, 0));
        home.end().await;
    }
}

#[tokio::test]
async fn a_transaction_that_does_not_commit_leaves_nothing() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        apply(&mut writer, &[numbered(1)]).await;
        home.fail_at_batch_3().await;
        let error = writer.apply(&vec![numbered(2), numbered(3)].into(), EpochMs(0)).await.unwrap_err();
        assert!(error.to_string().contains("not this one"), "{error}");
        assert_eq!(total(&reader).await, (1, 1.0));
        // The same writer goes on, over a new connection.
        assert_eq!(cursor(&apply(&mut writer, &[beacon(1, 3)]).await), Some(1));
        home.fail_no_more().await;
        let (mut writer, reader) = home.crash(writer, reader).await;
        assert_eq!(total(&reader).await, (1, 1.0));
        assert_eq!(reader.shards().await.unwrap()[0].cursor, 1);
        let applied = apply(&mut writer, &[numbered(2), numbered(3)]).await;
        assert_eq!(applied.outcomes, [MessageOutcome::Applied; 2]);
        assert_eq!(total(&reader).await, (3, 6.0));
        home.end().await;
    }
}

#[tokio::test]
async fn merging_in_the_database_is_merging_of_aggregates() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let prints =
            [i64::MAX, i64::MAX, 1, i64::MIN, i64::MIN, -1, 0, -1, i64::MIN, i64::MAX, 7, i64::MIN + 1];
        let mut expected: Option<Aggregate> = None;
        let mut random = fastrand::Rng::with_seed(1);
        for (i, print) in prints.iter().enumerate() {
            let mut random = |n: u64| random.u64(..n);
            let values: Vec<f64> = (0..4).map(|_| random(100) as f64 - 50.0).collect();
            let mut one = part(0, 0, &values);
            let a = &mut one.aggregate;
            a.fingerprint = *print as u64;
            (a.first.time, a.first.slot, a.first.index) =
                (EpochMs(random(3) as i64), random(3), random(9) as u32);
            (a.last.time, a.last.slot, a.last.index) =
                (EpochMs(random(3) as i64), random(3), random(9) as u32);
            match &mut expected {
                Some(all) => all.merge(a),
                none => *none = Some(a.clone()),
            }
            apply(&mut writer, &[message(i as u64 + 1, 1, batch(vec![one]))]).await;
            assert_eq!(Some(window(&reader, "temp", 0).await.aggregate), expected, "after part {i}");
        }
        home.end().await;
    }
}

#[tokio::test]
async fn counts_stop_at_their_end_and_odd_values_do_not_block_a_shard() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let mut huge = part(0, 0, &[f64::MAX]);
        huge.aggregate.count = i64::MAX as u64;
        huge.late = i64::MAX as u64;
        let odd = part(0, 0, &[f64::MIN, 5e-324, f64::MAX]);
        let messages =
            [huge.clone(), odd, huge].into_iter().zip(1..).map(|(p, seq)| message(seq, 1, batch(vec![p])));
        for one in messages {
            assert_eq!(apply(&mut writer, &[one]).await.outcomes, [MessageOutcome::Applied]);
        }
        let stored = window(&reader, "temp", 0).await;
        assert_eq!(
            (stored.aggregate.count, stored.late, stored.parts),
            (i64::MAX as u64, i64::MAX as u64, 3)
        );
        let a = &stored.aggregate;
        assert_eq!((a.sum(), a.min, a.max), (None, f64::MIN, f64::MAX));
        home.end().await;
    }
}

#[tokio::test]
async fn odd_names_and_least_values_can_be_stored_and_read() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let odd = "a\0b'\"%_\u{1f9f5}";
        let mut one = message(1, 1, batch(vec![part(0, 0, &[5e-324]), part(1, 0, &[f64::MAX, f64::MAX])]));
        one.content.as_mut().unwrap().batch.streams[0].device = odd.into();
        assert_eq!(apply(&mut writer, &[one]).await.outcomes, [MessageOutcome::Applied]);
        assert_eq!(reader.series(None, Some(odd), None, 9).await.unwrap().len(), 1);
        assert_eq!(reader.series(Some("\0"), None, None, 9).await.unwrap(), []);
        assert_eq!(home.sql("SELECT mean FROM windows ORDER BY sum").await.len(), 2);
        home.end().await;
    }
}

#[tokio::test]
async fn holes_are_recorded_passed_over_and_filled_by_what_comes_late() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        apply(&mut writer, &[numbered(1), numbered(5)]).await;
        let applied = apply(&mut writer, &[beacon(8, 9)]).await;
        assert_eq!((cursor(&applied), applied.given_up), (Some(7), 5));
        let (mut writer, reader) = home.crash(writer, reader).await;
        let late = apply(&mut writer, &[numbered(3), numbered(3), numbered(1)]).await;
        assert_eq!(
            late.outcomes,
            [MessageOutcome::Applied, MessageOutcome::Duplicate, MessageOutcome::Duplicate]
        );
        assert_eq!((cursor(&late), late.given_up), (Some(7), 0));
        let (_writer, reader) = home.crash(writer, reader).await;
        let status = reader.shards().await.unwrap();
        assert_eq!((status[0].given_up, status[0].cursor, status[0].batches_applied), (4, 7, 3));
        assert_eq!(total(&reader).await, (3, 9.0));
        home.end().await;
    }
}

#[tokio::test]
async fn a_batch_that_its_site_has_lost_is_a_hole_with_what_it_held_and_the_cursor_passes_it() {
    let known = LostBatch { readings: 7, parts: 2, from: EpochMs(20_000), to: EpochMs(40_000) };
    let lost = |seq| Incoming { lost: Some((seq, known)), ..beacon(1, 9) };
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let applied = apply(&mut writer, &[numbered(1), lost(3), numbered(5)]).await;
        assert_eq!(
            applied.outcomes,
            [MessageOutcome::Applied, MessageOutcome::LostEarly, MessageOutcome::Applied]
        );
        assert_eq!((cursor(&applied), applied.given_up), (Some(1), 0));
        let applied = apply(&mut writer, &[lost(1), lost(2), lost(3), lost(3), numbered(4)]).await;
        use MessageOutcome::{Applied, Duplicate, Lost};
        assert_eq!(applied.outcomes, [Duplicate, Lost, Lost, Duplicate, Applied]);
        assert_eq!((cursor(&applied), applied.given_up, applied.lacking), (Some(5), 2, vec![]));
        let key = (site(), ShardId(3));
        assert_eq!(applied.lost, [(key.clone(), 2, known), (key, 3, known)]);
        let (mut writer, reader) = home.crash(writer, reader).await;
        let holes = reader.find_holes(&[site().to_string()], EpochMs(0), 9).await.unwrap();
        let of: Vec<_> = holes.iter().map(|hole| (hole.first, hole.last, hole.lost)).collect();
        assert_eq!(of, [(2, 2, Some(known)), (3, 3, Some(known))]);
        assert_eq!(reader.shards().await.unwrap()[0].given_up, 2);
        let text =
            home.sql("SELECT first_batch, readings, parts FROM holes WHERE windows_from < windows_to").await;
        assert_eq!(text, [["2", "7", "2"], ["3", "7", "2"]]);
        // What lies on both sides of it is complete no more.
        let series = reader.series(None, Some("press-1"), Some("temp"), 9).await.unwrap();
        assert!(series[0].doubtful);
        // Sent again, and then found after all.
        assert_eq!(apply(&mut writer, &[lost(2)]).await.outcomes, [Duplicate]);
        assert_eq!(apply(&mut writer, &[numbered(2), numbered(3)]).await.outcomes, [Applied; 2]);
        assert_eq!(reader.find_holes(&[site().to_string()], EpochMs(0), 9).await.unwrap(), []);
        home.end().await;
    }
}

#[tokio::test]
async fn another_content_under_a_used_number_is_not_counted_and_ends_confirmations() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        apply(&mut writer, &[numbered(1), numbered(2)]).await;
        let other = message(2, 1, batch(vec![part(0, 0, &[77.0])]));
        let applied = apply(&mut writer, &[other]).await;
        assert_eq!(
            (applied.outcomes.as_slice(), cursor(&applied)),
            ([MessageOutcome::Conflict].as_slice(), None)
        );
        let (mut writer, reader) = home.crash(writer, reader).await;
        assert_eq!(
            cursor(&apply(&mut writer, &[beacon(1, 2)]).await),
            None,
            "a beacon gets no answer either"
        );
        assert_eq!(reader.shards().await.unwrap()[0].conflict, Some(2));
        assert_eq!(total(&reader).await, (2, 3.0));
        home.end().await;
    }
}

#[tokio::test]
async fn a_beacon_is_answered_and_writes_nothing() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let applied = apply(&mut writer, &[beacon(1, 0)]).await;
        assert_eq!(
            (applied.outcomes.as_slice(), cursor(&applied)),
            ([MessageOutcome::Beacon].as_slice(), Some(0))
        );
        assert_eq!(reader.shards().await.unwrap(), []);
        home.end().await;
    }
}

#[tokio::test]
async fn shards_and_sites_are_counted_apart() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let mut elsewhere = numbered(1);
        elsewhere.site = SiteId::new("other").unwrap();
        let mut shard = numbered(1);
        shard.shard = ShardId(4);
        let applied = apply(&mut writer, &[numbered(1), elsewhere, shard]).await;
        assert_eq!(applied.outcomes, [MessageOutcome::Applied; 3]);
        assert_eq!(reader.series(None, Some("press-1"), Some("temp"), 9).await.unwrap().len(), 2);
        assert_eq!(reader.shards().await.unwrap().len(), 3);
        home.end().await;
    }
}

#[tokio::test]
async fn only_the_newest_batches_stay_listed() {
    for home in homes().await {
        let (mut writer, _reader) = home.open().await;
        let many: Vec<_> =
            (1..=KEPT_BATCHES_ENTRIES + 10).map(|seq| message(seq, 1, batch(vec![]))).collect();
        apply(&mut writer, &many).await;
        let listed = home.sql("SELECT count(*), min(seq) FROM applied_batch").await;
        assert_eq!(listed, [[KEPT_BATCHES_ENTRIES.to_string(), "11".to_string()]]);
        home.end().await;
    }
}

#[tokio::test]
async fn the_views_read_as_one_expects() {
    for home in homes().await {
        let (mut writer, _reader) = home.open().await;
        let sketched = |n: i64| {
            let mut part = part(0, n * 10_000, &[2.0, 4.0]);
            let samples = [part.aggregate.first, part.aggregate.last];
            part.aggregate = Aggregate::sketched(samples[0]);
            part.aggregate.add(samples[1]);
            part.watermark = EpochMs((n + 1) * 10_000 - i64::from(n == 150));
            part
        };
        let first = message(1, 1, batch((1..=150).map(sketched).collect()));
        assert_eq!(apply(&mut writer, &[first]).await.windows, 150);
        let mut late = part(0, 10_000, &[9.0]);
        late.watermark = EpochMs(151 * 10_000 - 1);
        (late.late, late.aggregate.first.slot, late.aggregate.last.slot) = (1, 9, 9);
        apply(&mut writer, &[message(2, 1, batch(vec![late, part(1, 20_000, &[1.0])]))]).await;
        apply(&mut writer, &[beacon(8, 9)]).await;

        let columns = "site, device, stream, length, count, sum, min, max, first, last, mean, stddev, p50, p99, revision, \
                       late_count, complete";
        let rows = home
            .sql(&format!("SELECT {columns} FROM windows WHERE stream = 'temp' ORDER BY start LIMIT 2"))
            .await;
        let expected = |text: &str| text.split(' ').map(str::to_string).collect::<Vec<_>>();
        assert_eq!(rows[0][..11], expected("plant-7 press-1 temp 10 3 15 2 9 2 4 5"));
        assert_eq!(
            rows[0][12..],
            expected(&format!("NULL NULL 2 1 {}", home.yes())),
            "a part without a sketch takes it away"
        );
        assert_eq!(
            rows[1],
            expected(&format!("plant-7 press-1 temp 10 2 6 2 4 2 4 3 1 2 4 1 0 {}", home.yes()))
        );
        for (view, spans, count, length) in
            [("minute", 26, 12, 60), ("hour", 1, 301, 3_600), ("day", 1, 301, 86_400)]
        {
            let sum = format!(
                "SELECT count(*), max(count), max(length), sum(late_count), sum(revision), max(window_length) FROM {view} WHERE stream = 'temp'"
            );
            let expected = [spans, count, length, 1, 151, 10].map(|n: i64| n.to_string());
            assert_eq!(home.sql(&sum).await, [expected], "{view}");
        }
        let open = home.sql("SELECT count FROM windows WHERE NOT complete AND stream = 'temp'").await;
        assert_eq!(open, [["2"]]);
        assert_eq!(
            home.sql("SELECT device, stream, length FROM streams ORDER BY 2").await,
            [expected("press-1 force 10"), expected("press-1 temp 10"),]
        );
        assert_eq!(
            home.sql("SELECT site, device, streams FROM devices").await,
            [expected("plant-7 press-1 2")]
        );
        let holes = home.sql("SELECT site, shard, first_batch, last_batch, batches FROM holes").await;
        assert_eq!(holes, [expected("plant-7 3 3 7 5")]);
        let shards = home
            .sql("SELECT shard, confirmed_batch, last_batch, batches_applied, conflict_batch FROM shards")
            .await;
        assert_eq!(shards, [expected("3 7 9 2 NULL")]);
        home.times_read_well().await;
        home.end().await;
    }
}

/// The starts, in seconds, of what is complete of a stream in a view.
async fn complete(home: &Home, view: &str, stream: &str) -> Vec<i64> {
    let start = if matches!(home, Home::Sqlite { .. }) {
        "start_ms / 1000"
    } else {
        "extract(epoch from start)::bigint"
    };
    let sql = format!("SELECT {start} FROM {view} WHERE stream = '{stream}' AND complete ORDER BY 1");
    home.sql(&sql).await.into_iter().map(|row| row[0].parse().unwrap()).collect()
}

/// A part of one reading that closed when its stream was silent, as each does of a stream that tells something once a minute.
fn alone(stream: u32, start: i64) -> Part {
    let mut part = part(stream, start, &[1.0]);
    part.watermark = EpochMs(start - 2_000);
    part
}

#[tokio::test]
async fn rows_are_complete_when_their_stream_has_passed_them_by_whichever_window() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let each_minute = (0..61).map(|n| alone(0, n * 60_000)).chain([alone(1, 0)]);
        apply(&mut writer, &[message(1, 1, batch(each_minute.collect()))]).await;
        let ends = |every: i64, n: i64| (0..n).map(|i| i * every).collect::<Vec<_>>();
        assert_eq!(complete(&home, "windows", "temp").await, ends(60, 60));
        // The last has come to 59 min 58 s.
        assert_eq!(complete(&home, "minute", "temp").await, ends(60, 59));
        assert_eq!(complete(&home, "hour", "temp").await, [0; 0]);
        apply(&mut writer, &[message(2, 1, batch(vec![alone(0, 61 * 60_000)]))]).await;
        assert_eq!(complete(&home, "minute", "temp").await, ends(60, 60));
        assert_eq!(complete(&home, "hour", "temp").await, [0]);
        assert_eq!(complete(&home, "hour", "force").await, [0; 0], "another stream says nothing of this one");
        apply(&mut writer, &[message(3, 1, batch(vec![alone(0, 86_460_000)]))]).await;
        assert_eq!(complete(&home, "day", "temp").await, [0]);
        // Of all widths, also of one that is new.
        let mut wide = part(0, 0, &[1.0]);
        (wide.width_ms, wide.watermark) = (3_600_000, EpochMs(86_458_000));
        apply(&mut writer, &[message(4, 1, batch(vec![wide]))]).await;
        let all = reader.series(None, None, Some("temp"), 9).await.unwrap();
        assert_eq!(all.iter().map(|s| s.passed.0).collect::<Vec<_>>(), [86_458_000; 2]);
        home.end().await;
    }
}

#[tokio::test]
async fn what_missing_batches_may_hold_is_not_complete() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let at = |seq: u64, first_kept| message(seq, first_kept, batch(vec![alone(0, seq as i64 * 60_000)]));
        apply(&mut writer, &[at(1, 1), at(2, 1)]).await;
        assert_eq!(complete(&home, "windows", "temp").await, [60]);
        // Batch 3 is on its way: it may hold something of the minutes before those of 4 and 5.
        apply(&mut writer, &[at(4, 1)]).await;
        let (mut writer, reader) = home.crash(writer, reader).await;
        apply(&mut writer, &[at(5, 1)]).await;
        assert_eq!(complete(&home, "windows", "temp").await, [60]);
        apply(&mut writer, &[message(3, 1, batch(vec![alone(1, 0)]))]).await;
        assert_eq!(complete(&home, "windows", "temp").await, [60, 120, 240]);
        // Batches 6 and 7 never come. Batch 8 came before that was known, and tells of the stream; of another one only 9 does.
        apply(&mut writer, &[at(8, 1)]).await;
        apply(&mut writer, &[beacon(8, 8)]).await;
        apply(&mut writer, &[message(9, 8, batch(vec![alone(1, 540_000), alone(0, 540_000)]))]).await;
        assert_eq!(complete(&home, "windows", "temp").await, [60, 120, 240], "300 and 480 are in doubt");
        assert_eq!(complete(&home, "hour", "temp").await, [0; 0]);
        let series = reader.series(None, None, None, 9).await.unwrap();
        let mut doubts = vec![];
        for one in &series {
            doubts.push((one.stream.as_str(), reader.progress(one).await.unwrap().doubts));
        }
        let stretch = |from, to| vec![(EpochMs(from), EpochMs(to))];
        let expected = [("force", stretch(-2_000, 598_000)), ("temp", stretch(298_000, 538_000))];
        assert_eq!(doubts, expected);
        apply(&mut writer, &[message(10, 8, batch(vec![alone(0, 3_660_000)]))]).await;
        assert_eq!(complete(&home, "windows", "temp").await, [60, 120, 240, 540]);
        assert_eq!(complete(&home, "hour", "temp").await, [0; 0], "for good");
        // They come after all.
        apply(&mut writer, &[at(6, 1), at(7, 1)]).await;
        assert_eq!(complete(&home, "windows", "temp").await, [60, 120, 240, 300, 360, 420, 480, 540]);
        assert_eq!(complete(&home, "hour", "temp").await, [0]);
        home.end().await;
    }
}

#[tokio::test]
async fn a_site_that_is_set_up_anew_counts_from_one_and_is_counted() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let of = |generation: u64, message: Incoming| {
            let incarnation = SiteIncarnation { generation, random: generation.into() };
            Incoming { incarnation, ..message }
        };
        let settled = |applied: &Applied| applied.cursors[&(site(), ShardId(3))];
        apply(&mut writer, &(1..=5).map(|seq| of(10, numbered(seq))).collect::<Vec<_>>()).await;
        // Batch 6 never comes; batch 7 does.
        let applied = apply(&mut writer, &[of(10, numbered(7))]).await;
        assert_eq!(settled(&applied).cursor, 5);
        let (mut writer, _) = home.crash(writer, reader).await;
        // The same names, the same secret, other readings under the same numbers.
        let anew: Vec<_> = (1..=3)
            .map(|seq| of(20, numbered(100 + seq)))
            .map(|mut message| {
                message.content.as_mut().unwrap().seq -= 100;
                message.last -= 100;
                message
            })
            .collect();
        let applied = apply(&mut writer, &anew).await;
        assert_eq!(applied.outcomes, [MessageOutcome::Applied; 3]);
        assert_eq!((settled(&applied).incarnation.generation, settled(&applied).cursor), (20, 3));
        assert_eq!(applied.given_up, 1, "batch 6 of the old one can come from nowhere any more");
        assert_eq!(apply(&mut writer, &anew).await.outcomes, [MessageOutcome::Duplicate; 3]);
        // Recorded frames of the old one, played again.
        let old = [of(10, numbered(2)), of(10, numbered(6)), of(10, beacon(1, 9))];
        let applied = apply(&mut writer, &old).await;
        assert_eq!(applied.outcomes, [MessageOutcome::Superseded; 3]);
        assert_eq!(settled(&applied).incarnation.generation, 20, "the old one is told nothing");
        let (mut writer, reader) = home.open().await;
        let applied = apply(&mut writer, &[of(20, beacon(1, 3))]).await;
        assert_eq!(settled(&applied).cursor, 3);
        assert_eq!(total(&reader).await, (9, (1 + 2 + 3 + 4 + 5 + 7 + 101 + 102 + 103) as f64));
        home.end().await;
    }
}

#[tokio::test]
async fn people_read_each_reading_once_however_many_widths_there_are() {
    for home in homes().await {
        let (mut writer, _reader) = home.open().await;
        let windows = |width_ms: i64, from: i64, to: i64| {
            let step = |start: i64| {
                // A reading every 10 s.
                let values = vec![1.0; (width_ms / 10_000) as usize];
                let mut part = part(0, start, &values);
                (part.width_ms, part.watermark) = (width_ms as u32, EpochMs(start + width_ms));
                part
            };
            (from..to).step_by(width_ms as usize).map(step).collect::<Vec<_>>()
        };
        // Ten minutes at two widths, and ten at the wider one alone, before the rule was changed.
        let parts = [windows(60_000, -600_000, 600_000), windows(10_000, 0, 600_000)].concat();
        apply(&mut writer, &[message(1, 1, batch(parts))]).await;
        for (view, rows) in [("windows", 70), ("minute", 20), ("hour", 2), ("day", 2)] {
            let sql = format!("SELECT count(*), sum(count) FROM {view}");
            assert_eq!(home.sql(&sql).await, [[rows.to_string(), "120".to_string()]], "{view}");
        }
        assert_eq!(home.sql("SELECT count(*), sum(count) FROM windows_all").await, [["80", "180"]]);
        assert_eq!(home.sql("SELECT stream, length, lengths FROM streams").await, [["temp", "10", "2"]]);
        home.end().await;
    }
}

#[tokio::test]
async fn one_wild_time_is_not_the_newest() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let now = 1_764_000_000_000;
        let years = [4_292_000_000_000, 253_402_300_790_000];
        let mut parts: Vec<_> = years.map(|start| alone(0, start)).into();
        parts.iter_mut().for_each(|part| part.watermark = EpochMs(now - 2_000));
        parts.push(alone(0, now));
        parts.push(alone(0, 0));
        // All of another stream is ahead of its time.
        parts.push(alone(1, years[0]));
        apply(&mut writer, &[message(1, 1, batch(parts))]).await;
        let seek = Seek::default();
        let newest = reader.newest(&seek, [""; 3], EpochMs(now), 9).await.unwrap();
        let newest: Vec<_> = newest.iter().map(|(s, w)| (s.stream.as_str(), w.start.0)).collect();
        assert_eq!(newest, [("force", years[0]), ("temp", now)]);
        let times = reader.find_devices(&seek, ("", ""), EpochMs(now), 9).await.unwrap();
        let last: Vec<_> = times.iter().map(|t| t.last.unwrap().0).collect();
        assert_eq!(last, [years[0], now]);
        let text = if matches!(home, Home::Sqlite { .. }) { "2025-11-24T16" } else { "2025-11-24 16" };
        let shown = home.sql("SELECT last_window FROM streams WHERE stream = 'temp'").await;
        assert!(shown[0][0].starts_with(text), "{shown:?}");
        home.end().await;
    }
}

#[tokio::test]
async fn one_wild_time_is_not_the_oldest() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let now = 1_764_000_000_000;
        let rollover = now - 1_024 * 7 * 86_400_000;
        // A box that lost its GPS weeks, and one whose clock is in 1970 at each start; a recording that is old as a whole.
        let wild = [0, 60_000, rollover, rollover + 50_000, now].map(|start| alone(0, start));
        let recording = [rollover, rollover + 10_000].map(|start| alone(1, start));
        let parts = [wild.to_vec(), recording.to_vec()].concat();
        apply(&mut writer, &[message(1, 1, batch(parts))]).await;
        let times = reader.find_devices(&Seek::default(), ("", ""), EpochMs(now), 9).await.unwrap();
        let first: Vec<_> = times.iter().map(|t| t.first.unwrap().0).collect();
        assert_eq!(first, [rollover, now]);
        let text = if matches!(home, Home::Sqlite { .. }) { "2025-11-24T16" } else { "2025-11-24 16" };
        let shown = home.sql("SELECT first_window FROM streams WHERE stream = 'temp'").await;
        assert!(shown[0][0].starts_with(text), "{shown:?}");
        home.end().await;
    }
}

#[tokio::test]
async fn what_was_before_the_node_and_joins_what_came_later_is_the_oldest() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        let (now, month_ms) = (1_764_000_000_000, 30 * 86_400_000);
        // Imported, month by month, on two streams; of one nothing for more than a year.
        let all = (0..40).map(|month| alone(0, now - month * month_ms));
        let late = [0, 1, 20, 21].map(|month| alone(1, now - month * month_ms));
        apply(&mut writer, &[message(1, 1, batch(all.chain(late).collect()))]).await;
        let times = reader.find_devices(&Seek::default(), ("", ""), EpochMs(now), 9).await.unwrap();
        let first: Vec<_> = times.iter().map(|t| (now - t.first.unwrap().0) / month_ms).collect();
        assert_eq!(first, [1, 39]);
        home.end().await;
    }
}

#[tokio::test]
async fn the_ledger_gives_every_window_once_page_by_page() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        apply(&mut writer, &(1..=20).map(numbered).collect::<Vec<_>>()).await;
        let mut after = WindowKey { series: 0, start: EpochMs(i64::MIN) };
        let mut seen = vec![];
        loop {
            let page = reader.ledger(Some("plant-7"), Some(10_000), after, 6).await.unwrap();
            assert!(page.windows.iter().all(|w| page.series.iter().any(|s| s.id == w.0.series)));
            seen.extend(page.windows.iter().map(|w| w.0));
            let Some(last) = page.windows.last().filter(|_| page.more) else { break };
            after = last.0;
        }
        let distinct: BTreeSet<_> = seen.iter().copied().collect();
        assert_eq!((seen.len(), distinct.len()), (21, 21));
        assert_eq!(
            reader
                .ledger(Some("none"), None, WindowKey { series: 0, start: EpochMs(0) }, 6)
                .await
                .unwrap()
                .windows,
            []
        );
        home.end().await;
    }
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused() {
    for home in homes().await {
        let (_writer, _reader) = home.open().await;
        home.sql("INSERT INTO schema_version VALUES (99)").await;
        let refused = open(home.database()).await.err().unwrap();
        assert!(refused.to_string().contains("99"), "{refused}");
        home.end().await;
    }
}

#[tokio::test]
async fn roll_ups_are_what_their_windows_add_up_to() {
    for home in homes().await {
        let (mut writer, reader) = home.open().await;
        for seq in 1..=40i64 {
            let parts = (0..30).map(|n| {
                let width_ms = [10_000, 1_200_000, 7_200_000, 7_000, 3_600_000, 60_000][(n % 6) as usize];
                let start = (seq * 7 + n * 13 - 300) * 600_000;
                let mut part = part(
                    (n % 2) as u32,
                    start - start.rem_euclid(i64::from(width_ms)),
                    &[(seq * n) as f64, -3.0],
                );
                part.width_ms = width_ms;
                part
            });
            apply(&mut writer, &[message(seq as u64, 1, batch(parts.collect()))]).await;
        }
        let all = (EpochMs(i64::MIN / 4), EpochMs(i64::MAX / 4));
        let mut checked = 0;
        for series in reader.series(None, None, None, 100).await.unwrap() {
            let windows = reader.windows(series.id, all.0, all.1, 10_000).await.unwrap().rows;
            for span_ms in selvedge_node_core::rollup::spans_of(series.width_ms) {
                let mut expected: BTreeMap<EpochMs, StoredWindow> = BTreeMap::new();
                for window in &windows {
                    let start = selvedge_node_core::rollup::floor(window.start, span_ms);
                    let new = || StoredWindow { start, ..window.clone() };
                    let merge = |row: &mut StoredWindow| row.merge(window);
                    expected.entry(start).and_modify(merge).or_insert_with(new);
                }
                let page = reader.rollups(series.id, span_ms, all.0, all.1, 10_000).await.unwrap();
                assert_eq!(page.rows, expected.into_values().collect::<Vec<_>>(), "{series:?} {span_ms}");
                checked += page.rows.len();
            }
        }
        assert!(checked > 100, "{checked}");
        home.end().await;
    }
}
