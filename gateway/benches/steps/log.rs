//! The log: records to a unit on disk, with one fdatasync. On the disk in memory that is encoding, checksums and copies.

use super::{Measure, Step};
use selvedge_fabric::record::LogRecord;
use selvedge_fabric::ring::DEFAULT_SHARDS;
use selvedge_log::{Disk, Log, LogOptions, MemoryDisk, RealDisk};
use std::sync::Arc;

const MEMORY_BYTES: u64 = 1 << 30;
/// Then the log is trimmed, as snapshots let it be.
const MAX_SEGMENTS: u64 = 6;

pub fn steps(m: &mut impl Measure) {
    for bytes in [256, 8 * 1024] {
        for records in [1, 16, 256] {
            let name = format!("{records} of {bytes} B, per record");
            m.step(&format!("log, memory: {name}"), records, || {
                Commit::new(Arc::new(MemoryDisk::new(MEMORY_BYTES)), records, bytes)
            });
            m.on_disk(&format!("log, disk: {name}"), records, |folder| {
                Commit::new(Arc::new(RealDisk::open(folder).unwrap()), records, bytes)
            });
        }
    }
}

struct Commit {
    log: Log,
    records: u32,
    payload: Arc<[u8]>,
    slot: u64,
}

impl Commit {
    fn new(disk: Arc<dyn Disk>, records: u32, payload_bytes: usize) -> Self {
        let (log, _) = Log::open(disk, LogOptions::new([7; 16]), &mut |_| {}).unwrap();
        let payload = (0..payload_bytes).map(|i| i as u8).collect();
        Self { log, records, payload, slot: 0 }
    }
}

impl Step for Commit {
    type Input = Vec<LogRecord>;
    type Output = Vec<LogRecord>;

    fn prepare(&mut self) -> Vec<LogRecord> {
        if self.log.stats().segments > MAX_SEGMENTS {
            for group in 0..DEFAULT_SHARDS {
                self.log.keep_from(group, self.slot);
            }
            self.log.trim().unwrap();
        }
        let record = |_| {
            self.slot += 1;
            LogRecord {
                group: (self.slot % u64::from(DEFAULT_SHARDS)) as u16,
                configuration: 1,
                kind: 2,
                ballot: (1, 1),
                slot: self.slot,
                payload: self.payload.clone(),
            }
        };
        (0..self.records).map(record).collect()
    }

    fn run(&mut self, records: Vec<LogRecord>) -> Vec<LogRecord> {
        self.log.commit(&records).unwrap();
        records
    }
}
