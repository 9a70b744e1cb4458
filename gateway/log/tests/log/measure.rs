//! Measurements, not a test: `cargo test --release -p selvedge-log --test log -- --ignored --nocapture measure`
//! Set `WAL_FOLDER` to measure another disk than that of the temporary folder.

use super::{IDENTITY, open_with, record};
use selvedge_fabric::record::LogRecord;
use selvedge_log::{LogOptions, RealDisk};
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
#[ignore = "prints figures"]
fn measure_bytes_a_record_and_batches_a_second() {
    let folder = match std::env::var("WAL_FOLDER") {
        Ok(path) => tempfile::tempdir_in(path).unwrap(),
        Err(_) => tempfile::tempdir().unwrap(),
    };
    println!("records/batch  payload B  batches/s  records/s  log B/record  device B/batch");
    for (records, payload) in [(1, 100), (1, 4096), (10, 100), (10, 4096), (100, 1000)] {
        let disk = Arc::new(RealDisk::open(folder.path().join(format!("{records}-{payload}"))).unwrap());
        let settings = LogOptions { keep_free_bytes: 0, ..LogOptions::new(IDENTITY) };
        let (mut log, ..) = open_with(disk, settings).unwrap();
        let before = (log.stats(), device_bytes());
        let start = Instant::now();
        let mut slot = 0;
        while start.elapsed() < Duration::from_secs(2) {
            slot += 1;
            let batch: Vec<LogRecord> = (0..records).map(|g| record(g, 2, slot, slot, payload - 8)).collect();
            log.commit(&batch).unwrap();
        }
        let seconds = start.elapsed().as_secs_f64();
        let (stats, device) = (log.stats(), device_bytes());
        let written = stats.records - before.0.records;
        println!(
            "{records:13}  {payload:9}  {:9.0}  {:9.0}  {:12.1}  {:14.0}",
            slot as f64 / seconds,
            written as f64 / seconds,
            (stats.bytes_written - before.0.bytes_written) as f64 / written as f64,
            (device - before.1) as f64 / slot as f64,
        );
    }
}

/// Bytes that the kernel wrote to storage for this process so far.
fn device_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}
