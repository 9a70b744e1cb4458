//! An export as a person runs it, read back by the programs that it is for.

use selvedge_node::store::{self, Database};
use selvedge_node_core::incoming::{Incoming, IncomingBatch};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, Part, StreamName};
use std::path::Path;
use std::process::{Command, Output};

/// 2025-11-24.
const DAY: i64 = 1_763_942_400_000;
const DAY_MS: i64 = 86_400_000;

/// Two sites, 5 devices of 2 streams each, 3 days; says how many windows.
fn fill(folder: &Path) -> usize {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (mut writer, _) = store::open(&Database::sqlite(folder)).await.unwrap();
        let mut windows = 0;
        for (site, seq) in [("plant-7", 1), ("plant-8", 1)] {
            let streams: Vec<_> = (0..10)
                .map(|i| StreamName {
                    device: format!("press-{}", i / 2),
                    stream: ["temp", "force"][i % 2].into(),
                })
                .collect();
            let part = |i: i64| {
                let start = DAY + (i / 10) % 3 * DAY_MS + i / 30 * 10_000;
                // One sum is beyond the greatest double.
                let [value, other] = if i == 77 { [f64::MAX; 2] } else { [i as f64 / 8.0, 1.0] };
                let sample = Sample { time: EpochMs(start + 5), slot: 1, index: 0, value };
                let mut aggregate = Aggregate::sketched(sample);
                aggregate.add(Sample { time: EpochMs(start + 9), slot: 2, index: 0, value: other });
                // A clock that is far off.
                let watermark = EpochMs(if i == 895 { i64::MAX } else { start + 10_000 });
                Part {
                    stream: (i % 10) as u32,
                    width_ms: 10_000,
                    start: EpochMs(start),
                    aggregate,
                    late: 0,
                    watermark,
                    set_aside: 0,
                    sequences: Sequences::default(),
                }
            };
            let batch = Batch { streams, parts: (0..900).map(part).collect() };
            windows += batch.parts.len();
            let content = Some(IncomingBatch { seq, batch, body_hash: 1 });
            let site = SiteId::new(site).unwrap();
            let message = Incoming {
                site,
                incarnation: Default::default(),
                shard: ShardId(0),
                first_kept: 1,
                last: seq,
                content,
                lost: None,
            };
            writer.apply(&vec![message].into(), EpochMs(DAY)).await.unwrap();
        }
        writer.close().await.unwrap();
        windows
    })
}

fn export(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-node"));
    let Output { status, stdout, stderr } =
        command.current_dir(folder).env_clear().arg("export").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn an_export_tells_what_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake").display().to_string();
    let here = ["--data-dir", ".", "--to", &lake];
    let (code, out, said) = export(folder.path(), &here);
    assert_eq!((code, &*out), (Some(2), ""));
    assert!(said.contains("there is no database in ."), "{said}");
    assert!(!folder.path().join("selvedge.db").exists() && !folder.path().join("lake").exists());

    let windows = fill(folder.path());
    let (code, out, said) = export(folder.path(), &here);
    assert_eq!((code, &*said), (Some(0), ""));
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["site", "width", "day", "windows", "bytes"]);
    assert_eq!(lines[1][..4], ["plant-7", "10s", "2025-11-24", "300"]);
    assert!(out.contains(&format!("6 files with {windows} windows written")), "{out}");
    let (code, out, _) = export(folder.path(), &here);
    assert_eq!(code, Some(0));
    assert!(out.contains("0 files with 0 windows written") && out.contains("6 days unchanged"), "{out}");

    let day = [
        "--from-day",
        "2025-11-25",
        "--to-day",
        "2025-11-25",
        "--site",
        "plant-8",
        "--width",
        "10s",
        "--again",
    ];
    let (_, out, _) = export(folder.path(), &[&here[..], &day].concat());
    assert!(out.contains("1 files with 300 windows written"), "{out}");
    let (code, _, said) = export(folder.path(), &["--data-dir", ".", "--to", "lake"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("is not the address of a lake"), "{said}");
    let (code, _, said) = export(folder.path(), &["--from-day", "yesterday"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("2026-11-24"), "{said}");
}

/// Compares what DuckDB, pandas and PyArrow find in the lake with what SQL finds in the database.
const READ: &str = r#"
import sqlite3, sys
import duckdb, pandas, pyarrow.dataset

columns = "site, device, stream, start_ms, count, sum, min, max, first, last, mean, stddev, p50, p90, p99, revision, late_count, set_aside, missing, complete, fingerprint"
database = sqlite3.connect("selvedge.db")
wanted = database.execute(f"SELECT {columns} FROM windows ORDER BY 1, 2, 3, 4").fetchall()
assert len(wanted) == int(sys.argv[1]), len(wanted)

lake = "read_parquet('lake/windows/**/*.parquet', hive_partitioning = true)"
of_duckdb = columns.replace("start_ms", "epoch_ms(start)").replace("complete", "complete::int")
found = duckdb.sql(f"SELECT {of_duckdb} FROM {lake} ORDER BY 1, 2, 3, 4").fetchall()
assert found == wanted, [pair for pair in zip(found, wanted) if pair[0] != pair[1]][:3]
days = duckdb.sql(f"SELECT typeof(day), width, count(*) FROM {lake} WHERE day = DATE '2025-11-25' GROUP BY ALL").fetchall()
assert days == [("DATE", "10s", 600)], days
assert str(duckdb.sql(f"SELECT max(watermark) FROM {lake}").fetchall()[0][0].year) == "9999"

frame = pandas.read_parquet("lake/windows")
assert len(frame) == len(wanted)
assert str(frame["start"].dtype) == "datetime64[ms, UTC]", frame["start"].dtype
sums = frame.groupby(["site", "stream"], observed=True)["count"].sum()
for site, stream, count in database.execute("SELECT site, stream, sum(count) FROM windows GROUP BY 1, 2"):
    assert sums[site, stream] == count
assert frame["sum"].isna().sum() == 2

table = pyarrow.dataset.dataset("lake/windows", partitioning="hive")
one = table.to_table(filter=(pyarrow.dataset.field("site") == "plant-8") & (pyarrow.dataset.field("device") == "press-3"))
assert one.num_rows == 180, one.num_rows
print("read", len(found))
"#;

#[test]
fn duckdb_pandas_and_pyarrow_find_what_the_database_holds() {
    let python = |folder: &Path, arguments: &[&str]| {
        Command::new("python3").current_dir(folder).args(arguments).output()
    };
    let folder = tempfile::tempdir().unwrap();
    let there = python(folder.path(), &["-c", "import duckdb, pandas, pyarrow"]);
    if !there.is_ok_and(|done| done.status.success()) {
        eprintln!("left out: `pip install duckdb pandas pyarrow` lets other programs read what was exported");
        return;
    }
    let windows = fill(folder.path());
    let lake = folder.path().join("lake").display().to_string();
    assert_eq!(export(folder.path(), &["--data-dir", ".", "--to", &lake]).0, Some(0));
    let done = python(folder.path(), &["-c", READ, &windows.to_string()]).unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&done.stdout), format!("read {windows}\n"));
}
