//! What the durable log and the stores beside it promise under crashes, rot, full disks and failing ones.

mod crash;
mod damage;
mod floor;
mod forged;
mod form;
mod measure;
mod reader;
mod room;
mod scrub;
mod stores;

use selvedge_fabric::record::LogRecord;
use selvedge_log::{Disk, FLOOR_NAME, Floor, Log, LogError, LogOptions, MemoryDisk, RealDisk, Recovery};
use std::sync::Arc;

const IDENTITY: [u8; 16] = *b"site-a gateway-1";

/// Small segments and units, so that little work reaches every boundary.
fn small() -> LogOptions {
    let settings = LogOptions::new(IDENTITY);
    LogOptions {
        segment_bytes: 4096,
        unit_bytes: 700,
        keep_free_bytes: 0,
        floor_every_bytes: 1_500,
        ..settings
    }
}

/// A record whose content identifies it: `mark` is unique in a test.
fn record(group: u16, kind: u8, slot: u64, mark: u64, payload: usize) -> LogRecord {
    let mut content = mark.to_le_bytes().to_vec();
    content.resize(8 + payload, mark as u8);
    LogRecord { group, configuration: 1, kind, ballot: (mark, 4), slot, payload: Arc::from(content) }
}

type Opened = Result<(Log, Recovery, Vec<LogRecord>), LogError>;

fn open_with(disk: Arc<dyn Disk>, settings: LogOptions) -> Opened {
    let mut read = Vec::new();
    // Tests about the floor, or about crashes, have created one.
    let has_floor = disk.list().is_ok_and(|names| names.iter().any(|name| name == FLOOR_NAME));
    let floor = has_floor.then(|| Floor::read(disk.clone(), settings.identity)).transpose()?;
    let log = Log::read(disk, floor, settings, &mut |record| read.push(record))?;
    let recovery = log.recovery().clone();
    Ok((log.begin()?, recovery, read))
}

fn open(disk: &MemoryDisk) -> Opened {
    open_with(Arc::new(disk.clone()), small())
}

#[test]
fn what_was_committed_on_a_real_disk_is_read_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(folder.path().join("wal")).unwrap());
    let settings = LogOptions { segment_bytes: 16 * 1024, ..small() };
    let mut wanted = Vec::new();
    for start in 0..3 {
        let (mut log, recovery, read) = open_with(disk.clone(), settings.clone()).unwrap();
        assert_eq!(read, wanted);
        assert!(recovery.damaged_groups.is_empty());
        assert_eq!(recovery.torn_bytes_cut, 0);
        for i in 1..=60 {
            let slot = start * 60 + i;
            let batch = [record(1, 2, slot, slot, 300), record(2, 2, slot, slot, 1)];
            log.commit(&batch).unwrap();
            wanted.extend(batch);
        }
        assert!(log.stats().segments > 2, "{:?}", log.stats());
        if start == 1 {
            log.close().unwrap();
        }
    }
    let (mut log, _, read) = open_with(disk, settings).unwrap();
    assert_eq!(read, wanted);
    log.keep_from(1, 1000);
    log.keep_from(2, 1000);
    assert!(log.trim().unwrap() > 2);
    let left = std::fs::read_dir(folder.path().join("wal")).unwrap().count() as u64;
    assert_eq!(left, log.stats().segments + 1, "the segments and the lock");
}

#[test]
fn two_can_not_open_the_same_log() {
    let folder = tempfile::tempdir().unwrap();
    let real: Arc<dyn Disk> = Arc::new(RealDisk::open(folder.path()).unwrap());
    for disk in [real, Arc::new(MemoryDisk::new(1 << 20))] {
        let first = open_with(disk.clone(), small()).unwrap();
        let error = open_with(disk.clone(), small()).unwrap_err();
        assert!(matches!(error, LogError::Locked { .. }), "{error}");
        assert!(error.to_string().contains("LOCK"), "{error}");
        drop(first);
        open_with(disk, small()).unwrap();
    }
}

#[test]
fn a_log_of_another_identity_is_refused_and_left_alone() {
    let disk = MemoryDisk::new(1 << 20);
    let (mut log, ..) = open(&disk).unwrap();
    log.commit(&[record(1, 1, 1, 1, 9)]).unwrap();
    drop(log);
    let other = LogOptions { identity: [9; 16], ..small() };
    let error = open_with(Arc::new(disk.clone()), other).unwrap_err();
    assert!(matches!(error, LogError::Foreign { .. }), "{error}");
    assert!(error.to_string().contains("wal-0000000000000001.log"), "{error}");
    assert_eq!(open(&disk).unwrap().2.len(), 1);
}
