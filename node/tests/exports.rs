//! Exports of each store to a folder, read back.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::RowAccessor;
use selvedge_node::lake::export::{Choice, Done, Exporter, LEASE_MS};
use selvedge_node::lake::parquet::{Encoder, ROW_GROUP_ENTRIES, of_table};
use selvedge_node::lake::schedule::{LakeSettings, Schedule};
use selvedge_node::lake::target::{Target, check_address, day_text};
use selvedge_node::store::day::{Claim, DayKey};
use selvedge_node::store::lake::Exports;
use selvedge_node::store::{self, Database, Postgres, Reader, Writer};
use selvedge_node_core::incoming::Incoming;
use selvedge_node_core::stage::MessageOutcome;
use selvedge_node_core::table::{Cell, ColumnKind, Field, Table};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::SiteId;
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, Part, StreamName};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

const DAY_MS: i64 = 86_400_000;
/// 2025-11-24.
const DAY: i64 = 1_763_942_400_000;

/// A database, and where it is exported to.
struct Home {
    database: Database,
    folder: tempfile::TempDir,
    writer: Writer,
    reader: Reader,
    seq: u64,
    /// The watermark of each stream.
    told: [EpochMs; 4],
    /// PostgreSQL: the server and the name of the database on it.
    server: Option<(String, String)>,
}

/// One of each store. PostgreSQL only if `SELVEDGE_TEST_POSTGRES` names a server to make databases on.
async fn homes() -> Vec<Home> {
    let folder = tempfile::tempdir().unwrap();
    let mut all = vec![Home::open(Database::sqlite(folder.path()), folder, None).await];
    if let Ok(server) = std::env::var("SELVEDGE_TEST_POSTGRES") {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("lake_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        sql(&server, &format!("CREATE DATABASE {name}")).await;
        let address = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        let database = Database::Postgres(Box::new(Postgres::parse(&address, false).unwrap()));
        all.push(Home::open(database, tempfile::tempdir().unwrap(), Some((server, name))).await);
    }
    all
}

async fn sql(server: &str, text: &str) {
    let (client, connection) = tokio_postgres::connect(server, tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute(text).await.unwrap();
    connection.abort();
}

fn part(stream: u32, width_ms: u32, start: i64, value: f64) -> Part {
    let aggregate = Aggregate::sketched(Sample { time: EpochMs(start + 1), slot: 1, index: 0, value });
    let start = EpochMs(start);
    let (set_aside, sequences) = (0, Sequences::default());
    Part { stream, width_ms, start, aggregate, late: 0, watermark: start, set_aside, sequences }
}

impl Home {
    async fn open(database: Database, folder: tempfile::TempDir, server: Option<(String, String)>) -> Self {
        let (writer, reader) = store::open(&database).await.unwrap();
        Self { database, folder, writer, reader, seq: 0, told: [EpochMs(0); 4], server }
    }

    async fn end(self) {
        drop((self.writer, self.reader));
        if let Some((server, name)) = &self.server {
            sql(server, &format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
    }

    async fn sql(&self, text: &str) {
        match &self.server {
            Some((server, name)) => {
                sql(&format!("{}/{name}", server.rsplit_once('/').unwrap().0), text).await
            }
            None => {
                let db = rusqlite::Connection::open(self.folder.path().join("selvedge.db")).unwrap();
                db.execute_batch(text).unwrap();
            }
        }
    }

    /// Applies windows of the devices b and a, streams 0 to 3: b/temp, b/force, a/temp, a/force.
    async fn apply(&mut self, mut parts: Vec<Part>) {
        self.seq += 1;
        for part in &mut parts {
            let told = &mut self.told[part.stream as usize];
            *told = part.watermark.max(*told);
            part.watermark = *told;
        }
        let name = |device: &str, stream: &str| StreamName { device: device.into(), stream: stream.into() };
        let streams = vec![name("b", "temp"), name("b", "force"), name("a", "temp"), name("a", "force")];
        let batch = Batch { streams, parts };
        let message = Incoming::latest(SiteId::new("plant-7").unwrap(), self.seq, batch);
        let applied = self.writer.apply(&vec![message].into(), EpochMs(1)).await.unwrap();
        assert_eq!(applied.outcomes, [MessageOutcome::Applied]);
    }

    /// Three days of windows of 10 s, and one of a width that divides no day.
    async fn fill(&mut self) {
        for day in 0..3 {
            let start = DAY + day * DAY_MS;
            let of = |i: i64| part((i % 4) as u32, 10_000, start + i / 4 * 10_000, i as f64);
            self.apply((0..40).map(of).collect()).await;
        }
        self.apply(vec![part(2, 7_000, 7_000 * (DAY / 7_000 + 1), 5.0)]).await;
    }

    fn lake(&self) -> PathBuf {
        self.folder.path().join("lake")
    }

    fn exporter(&self) -> Exporter {
        let target = Target::open(self.lake().to_str().unwrap()).unwrap();
        Exporter::new(self.reader.clone(), Exports::new(&self.database), target)
    }

    /// What became of each day, as `10s 2025-11-24 new 40`.
    async fn export(&self, choice: &Choice) -> Vec<String> {
        let mut all = vec![];
        let told = |key: &DayKey, done: &Done| {
            let what = match done {
                Done::Written { windows, replaced: false, .. } => format!("new {windows}"),
                Done::Written { windows, replaced: true, .. } => format!("replaced {windows}"),
                Done::Unchanged(written) => format!("unchanged {}", written.windows),
                Done::Kept(written) => format!("kept {}", written.windows),
                Done::Taken => "taken".to_string(),
                Done::Failed(error) => format!("failed {error}"),
            };
            all.push(format!("{}s {} {what}", key.width_ms / 1_000, day_text(key.day)));
        };
        self.exporter().run(choice, told).await.unwrap();
        all
    }

    /// All files with their contents.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        fn walk(root: &Path, folder: &Path, out: &mut BTreeMap<String, Vec<u8>>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(root, &path, out);
                } else {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
                    out.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
        let mut out = BTreeMap::new();
        walk(&self.lake(), &self.lake(), &mut out);
        out
    }
}

const FILES: [&str; 4] = [
    "windows/site=plant-7/width=10s/day=2025-11-24/part-0.parquet",
    "windows/site=plant-7/width=10s/day=2025-11-25/part-0.parquet",
    "windows/site=plant-7/width=10s/day=2025-11-26/part-0.parquet",
    "windows/site=plant-7/width=7s/day=2025-11-24/part-0.parquet",
];

fn all() -> Choice {
    Choice::all()
}

#[tokio::test]
async fn days_are_files_with_their_windows_in_order() {
    for mut home in homes().await {
        home.fill().await;
        let done = home.export(&all()).await;
        assert_eq!(
            done,
            [
                "7s 2025-11-24 new 1",
                "10s 2025-11-24 new 40",
                "10s 2025-11-25 new 40",
                "10s 2025-11-26 new 40"
            ]
        );
        let files = home.files();
        assert_eq!(files.keys().collect::<Vec<_>>(), FILES);
        let file = SerializedFileReader::new(bytes::Bytes::from(files[FILES[1]].clone())).unwrap();
        let group = file.metadata().row_group(0);
        assert!(group.columns().iter().all(|column| column.statistics().is_some()));
        let rows: Vec<_> = file.get_row_iter(None).unwrap().map(Result::unwrap).collect();
        let keys: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    row.get_string(0).unwrap().clone(),
                    row.get_string(1).unwrap().clone(),
                    row.get_timestamp_millis(2).unwrap(),
                )
            })
            .collect();
        assert!(keys.is_sorted());
        assert_eq!((&*keys[0].0, &*keys[0].1, keys[0].2), ("a", "force", DAY + DAY_MS));
        // a/force is stream 3: its values are 3, 7, 11, ...
        let row = &rows[1];
        let real = |at: usize| row.get_double(at).unwrap();
        assert_eq!((row.get_long(3).unwrap(), row.get_long(4).unwrap()), (10_000, 1));
        assert_eq!([5, 6, 7, 8, 9, 11].map(real), [7.0; 6]);
        assert_eq!(row.get_timestamp_millis(10).unwrap(), DAY + DAY_MS + 10_001);
        assert_eq!(real(13), 0.0);
        assert!((real(14) - 7.0).abs() < 0.1, "the median");
        assert_eq!((row.get_long(17).unwrap(), row.get_long(18).unwrap()), (1, 0));
        let complete: Vec<bool> = rows.iter().map(|row| row.get_bool(21).unwrap()).collect();
        assert_eq!(
            complete.iter().filter(|yes| !**yes).count(),
            0,
            "streams have passed the day on the next one"
        );
        assert_eq!(row.get_long(22).unwrap() as u64, selvedge_types::aggregate::fingerprint(7.0));
        home.end().await;
    }
}

#[tokio::test]
async fn writing_again_gives_the_same_bytes_under_the_same_names() {
    for mut home in homes().await {
        home.fill().await;
        home.export(&all()).await;
        let before = home.files();
        assert_eq!(home.export(&all()).await[1], "10s 2025-11-24 unchanged 40");
        let again = home.export(&Choice { again: true, ..all() }).await;
        assert_eq!((again.len(), &*again[1]), (4, "10s 2025-11-24 replaced 40"));
        assert_eq!(home.files(), before);
        home.end().await;
    }
}

#[tokio::test]
async fn a_late_reading_rewrites_its_day_alone() {
    for mut home in homes().await {
        home.fill().await;
        home.export(&all()).await;
        let before = home.files();
        home.apply(vec![part(2, 10_000, DAY + DAY_MS, 99.0)]).await;
        let done = home.export(&all()).await;
        let unchanged = |i: usize| done[i].contains("unchanged");
        assert!(unchanged(0) && unchanged(1) && unchanged(3), "{done:?}");
        assert_eq!(done[2], "10s 2025-11-25 replaced 40");
        let after = home.files();
        let changed: Vec<_> = FILES.into_iter().filter(|file| before[*file] != after[*file]).collect();
        assert_eq!(changed, [FILES[1]]);
        assert_eq!(after.len(), FILES.len());
        home.end().await;
    }
}

#[tokio::test]
async fn a_day_that_was_told_as_passed_by_mistake_is_written_again_at_every_turn() {
    for mut home in homes().await {
        let day = |part: Part, passed: i64| Part { watermark: EpochMs(passed), ..part };
        let complete = |home: &Home| -> Vec<bool> {
            let file = home.files().remove(FILES[0]).unwrap();
            let file = SerializedFileReader::new(bytes::Bytes::from(file)).unwrap();
            file.get_row_iter(None).unwrap().map(|row| row.unwrap().get_bool(21).unwrap()).collect()
        };
        home.apply(vec![day(part(0, 10_000, DAY, 1.0), DAY + 20 * 365 * DAY_MS)]).await;
        assert_eq!(home.export(&all()).await, ["10s 2025-11-24 new 1"]);
        assert_eq!(complete(&home), [true]);
        // The clocks have come back: the day still fills.
        home.told = [EpochMs(0); 4];
        home.apply(vec![day(part(0, 10_000, DAY + 10_000, 1.0), DAY + 15_000)]).await;
        assert_eq!(home.export(&all()).await, ["10s 2025-11-24 replaced 2"]);
        assert_eq!(complete(&home), [true, false]);
        home.apply(vec![day(part(0, 10_000, DAY + DAY_MS, 1.0), DAY + DAY_MS + 1)]).await;
        let done = home.export(&all()).await;
        assert_eq!(done, ["10s 2025-11-24 replaced 2", "10s 2025-11-25 new 1"]);
        assert_eq!(complete(&home), [true; 2]);
        home.end().await;
    }
}

#[tokio::test]
async fn what_a_database_has_forgotten_stays_in_the_lake() {
    for mut home in homes().await {
        home.fill().await;
        home.export(&all()).await;
        let before = home.files();
        home.sql("DELETE FROM series_window WHERE series_id = 1").await;
        home.apply(vec![part(2, 10_000, DAY, 99.0)]).await;
        let of_day = |again| Choice { width_ms: Some(10_000), to: EpochMs(DAY + DAY_MS), again, ..all() };
        assert_eq!(home.export(&of_day(false)).await, ["10s 2025-11-24 kept 40"]);
        assert_eq!(home.files(), before);
        assert_eq!(home.export(&of_day(true)).await, ["10s 2025-11-24 replaced 30"]);
        home.end().await;
    }
}

#[tokio::test]
async fn a_file_that_is_gone_or_another_is_written_again() {
    for mut home in homes().await {
        home.fill().await;
        home.export(&all()).await;
        let before = home.files();
        std::fs::remove_file(home.lake().join(FILES[0])).unwrap();
        std::fs::write(home.lake().join(FILES[2]), b"torn").unwrap();
        let done = home.export(&all()).await;
        assert_eq!(
            done[1..],
            ["10s 2025-11-24 new 40", "10s 2025-11-25 unchanged 40", "10s 2025-11-26 replaced 40"]
        );
        assert_eq!(home.files(), before);
        home.end().await;
    }
}

#[tokio::test]
async fn a_day_is_written_by_one_at_a_time() {
    for mut home in homes().await {
        home.fill().await;
        let exports = Exports::new(&home.database);
        let target = Target::open(home.lake().to_str().unwrap()).unwrap();
        let key = DayKey { site: "plant-7".into(), width_ms: 10_000, day: EpochMs(DAY) };
        let claim =
            |owner: &str| Claim { target: target.name().into(), key: key.clone(), owner: owner.into() };
        let now = EpochMs::from(SystemTime::now());
        assert_eq!(exports.claim(&claim("other"), now, now.plus(LEASE_MS)).await.unwrap(), Some(None));
        assert_eq!(exports.claim(&claim("me"), now, now.plus(LEASE_MS)).await.unwrap(), None);
        let done = home.export(&all()).await;
        assert_eq!(done[1..3], ["10s 2025-11-24 taken", "10s 2025-11-25 new 40"]);
        // The other one died; its time is over.
        let later = now.plus(LEASE_MS + 1);
        assert_eq!(exports.claim(&claim("me"), later, later).await.unwrap(), Some(None));
        assert!(!exports.finish(&claim("other"), None).await.unwrap(), "it is not its any more");
        assert!(exports.finish(&claim("me"), None).await.unwrap());
        assert_eq!(home.export(&all()).await[1], "10s 2025-11-24 new 40");
        home.end().await;
    }
}

#[tokio::test]
async fn a_schedule_writes_days_that_are_settled_and_again_when_revised() {
    for mut home in homes().await {
        let today = EpochMs::from(SystemTime::now()).0.div_euclid(DAY_MS) * DAY_MS;
        let old = DAY - 10 * DAY_MS;
        let mut passed = part(0, 10_000, today, 1.0);
        passed.watermark = EpochMs(today + DAY_MS);
        home.apply(vec![passed, part(1, 60_000, today, 1.0), part(1, 60_000, old, 1.0)]).await;
        let settings =
            LakeSettings { url: home.lake().display().to_string(), every_minutes: 60, settle_hours: 24 };
        let exports = Exports::new(&home.database);
        let schedule = Schedule::new(&settings, home.reader.clone(), exports).unwrap().unwrap();
        schedule.round().await;
        let file = |width: &str, day| {
            format!("windows/site=plant-7/width={width}/day={}/part-0.parquet", day_text(EpochMs(day)))
        };
        let files = home.files();
        assert_eq!(files.keys().cloned().collect::<Vec<_>>(), [file("10s", today), file("1m", old)]);
        home.apply(vec![part(0, 60_000, old, 2.0)]).await;
        schedule.round().await;
        let after = home.files();
        assert_eq!(after.keys().collect::<Vec<_>>(), files.keys().collect::<Vec<_>>());
        assert!(after[&file("10s", today)] == files[&file("10s", today)]);
        assert!(after[&file("1m", old)] != files[&file("1m", old)]);
        home.end().await;
    }
}

#[tokio::test]
async fn a_series_of_many_windows_is_read_in_pages() {
    for mut home in homes().await {
        for from in [0, 12_000] {
            home.apply((from..from + 12_000).map(|i| part(0, 1_000, DAY + i * 1_000, i as f64)).collect())
                .await;
        }
        home.apply(vec![part(2, 1_000, DAY, -1.0)]).await;
        assert_eq!(home.export(&all()).await, ["1s 2025-11-24 new 24001"]);
        let (_, bytes) = home.files().pop_first().unwrap();
        let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
        let values: Vec<_> =
            file.get_row_iter(None).unwrap().map(|row| row.unwrap().get_double(5).unwrap()).collect();
        let expected: Vec<_> = (-1..24_000).map(f64::from).collect();
        assert_eq!(values, expected);
        home.end().await;
    }
}

/// Rows that are their own numbers.
struct Numbers {
    fields: [Field; 3],
    rows: usize,
}

impl Numbers {
    fn new(rows: usize) -> Self {
        let fields = [("name", ColumnKind::Text), ("n", ColumnKind::Whole), ("x", ColumnKind::Real)];
        Self { fields: fields.map(|(name, kind)| Field::new(name, kind)), rows }
    }
}

impl Table for Numbers {
    fn fields(&self) -> &[Field] {
        &self.fields
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cell(&self, row: usize, field: usize) -> Cell<'_> {
        match field {
            0 => Cell::Text(if row < self.rows / 2 { "a" } else { "b" }),
            1 => Cell::Whole(row as i64),
            _ => Cell::Real(f64::NAN),
        }
    }
}

#[test]
fn a_file_has_row_groups_of_bounded_size() {
    let n = ROW_GROUP_ENTRIES as i64 * 2 + 3;
    let bytes = of_table(&Numbers::new(n as usize)).unwrap();
    let file = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
    let sizes: Vec<_> = file.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
    assert_eq!(sizes, [ROW_GROUP_ENTRIES as i64, ROW_GROUP_ENTRIES as i64, 3]);
    let sum: i64 = file.get_row_iter(None).unwrap().map(|row| row.unwrap().get_long(1).unwrap()).sum();
    assert_eq!(sum, n * (n - 1) / 2);
    let row = file.get_row_iter(None).unwrap().next().unwrap().unwrap();
    assert!(row.get_double(2).is_err(), "what is no number is none");
}

#[test]
fn rows_that_do_not_fit_are_refused() {
    let mut encoder = Encoder::new(&[("n", ColumnKind::Whole)]).unwrap();
    assert!(encoder.push(&[Cell::Text("x")]).is_err());
    assert!(encoder.push(&[]).is_err());
    encoder.push(&[Cell::Time(EpochMs(i64::MAX))]).unwrap();
    let empty = of_table(&Numbers::new(0)).unwrap();
    let file = SerializedFileReader::new(bytes::Bytes::from(empty)).unwrap();
    assert_eq!(file.metadata().file_metadata().num_rows(), 0);
}

#[test]
fn an_address_is_checked_and_its_secrets_are_not_repeated() {
    for good in ["/srv/lake", "file:///srv/lake"] {
        assert!(check_address(good).is_ok(), "{good}");
    }
    for cloud in ["s3://bucket/lake", "gs://bucket", "az://container/x", "abfss://c@a.dfs.core.windows.net/x"]
    {
        let said = check_address(cloud);
        assert_eq!(said.is_ok(), cfg!(feature = "cloud"), "{cloud}: {said:?}");
    }
    for wrong in ["lake", "ftp://h/x", "s3://me:hunter2@bucket/x", "az://c/x?sig=hunter2", "memory:///x", ""]
    {
        let said = check_address(wrong).unwrap_err().to_string();
        assert!(!said.contains("hunter2") && said.starts_with("the address of the lake"), "{said}");
    }
}
