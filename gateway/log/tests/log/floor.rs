//! The end of the log is gone: the rest must not pass for a log that never went further.

use super::{IDENTITY, open, record, small};
use selvedge_log::{Disk, FLOOR_NAME, Floor, Groups, LogOptions, MemoryDisk};
use std::sync::Arc;

fn begun() -> MemoryDisk {
    let disk = MemoryDisk::new(1 << 20);
    Floor::create(Arc::new(disk.clone()), IDENTITY).unwrap();
    disk
}

/// A log of some segments that is kept with a floor; everything in it was acknowledged.
fn written() -> MemoryDisk {
    let disk = begun();
    let mut log = open(&disk).unwrap().0;
    for slot in 1..=40 {
        log.commit(&[record(1, 2, slot, slot, 300), record(2, 2, slot, 100 + slot, 20)]).unwrap();
    }
    drop(log);
    disk.image()
}

fn segments(disk: &MemoryDisk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name.starts_with("wal-") && disk.bytes(name).unwrap()[512..].iter().any(|b| *b != 0));
    names.sort();
    names
}

fn remove(disk: &MemoryDisk, name: &str) {
    disk.remove(name).unwrap();
    disk.sync_folder().unwrap();
}

/// Checks that all groups are damaged until they are repaired, and not afterwards, and that records written in the
/// meantime are kept.
fn check(disk: &MemoryDisk, case: &str) {
    for start in 0..2 {
        let (mut log, recovery, _) = open(disk).unwrap();
        assert!(recovery.damaged_groups.is_all(), "{case}, start {start}: {recovery:?}");
        log.commit(&[record(7, 2, 1, 1_000 + start, 30)]).unwrap();
    }
    let (mut log, ..) = open(disk).unwrap();
    log.repaired(&Groups::these([7])).unwrap();
    drop(log);
    let (mut log, recovery, _) = open(disk).unwrap();
    assert!(recovery.damaged_groups.contains(1) && !recovery.damaged_groups.contains(7), "{case}");
    log.repaired(&Groups::all()).unwrap();
    drop(log);
    for _ in 0..2 {
        let (_, recovery, read) = open(disk).unwrap();
        assert!(recovery.damaged_groups.is_empty(), "{case}: {recovery:?}");
        assert_eq!(read.iter().filter(|r| r.group == 7).count(), 2, "{case}");
    }
}

#[test]
fn a_log_whose_end_is_gone_is_damage_of_all_groups() {
    let whole = written();
    assert!(open(&whole.image()).unwrap().1.damaged_groups.is_empty());
    let count = segments(&whole).len();
    assert!(count > 4, "{count}");
    for gone in 1..=count {
        let disk = whole.image();
        let names = segments(&disk);
        names[count - gone..].iter().for_each(|name| remove(&disk, name));
        check(&disk, &format!("the last {gone} of {count} segments are gone"));
    }
    let disk = whole.image();
    disk.list().unwrap().iter().filter(|n| n.starts_with("wal-")).for_each(|name| remove(&disk, name));
    check(&disk, "the folder is emptied");
    for left in [0, 300, 512, 700, 1_000] {
        let disk = whole.image();
        let last = segments(&disk).pop().unwrap();
        disk.meddle(&last, |bytes| bytes.truncate(left));
        check(&disk, &format!("{left} bytes are left of the last segment"));
    }
}

#[test]
fn what_rots_below_the_floor_is_no_tear() {
    let disk = written();
    let last = segments(&disk).pop().unwrap();
    // Without the floor the last batch could be a torn write: no mark covers it.
    open(&disk).unwrap().0.close().unwrap();
    let used = disk.bytes(&last).unwrap().iter().rposition(|b| *b != 0).unwrap();
    disk.meddle(&last, |bytes| bytes[used - 100..].fill(0));
    assert!(!open(&disk).unwrap().1.damaged_groups.is_empty());
}

#[test]
fn a_floor_that_is_gone_is_damage_too_and_one_of_its_two_sectors_is_none() {
    let whole = written();
    let floor = Floor::read(Arc::new(whole.clone()), IDENTITY).unwrap().at().unwrap();
    for sector in 0..2 {
        let disk = whole.image();
        disk.meddle(FLOOR_NAME, |bytes| bytes[sector * 512 + 40] ^= 1);
        let left = Floor::read(Arc::new(disk.clone()), IDENTITY).unwrap().at().unwrap();
        assert!(left <= floor, "{left} of {floor}");
        assert!(open(&disk).unwrap().1.damaged_groups.is_empty());
    }
    for (case, rot) in [("rotten", (0..1024).collect::<Vec<_>>()), ("half", vec![3, 515])] {
        let disk = whole.image();
        disk.meddle(FLOOR_NAME, |bytes| rot.iter().for_each(|at| bytes[*at] ^= 1));
        check(&disk, case);
    }
    let disk = whole.image();
    disk.meddle(FLOOR_NAME, |bytes| {
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..12]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let said = Floor::read(Arc::new(disk), IDENTITY).err().unwrap().to_string();
    assert!(said.contains("version 2"), "{said}");
}

#[test]
fn a_log_that_has_not_begun_is_whole() {
    let disk = begun();
    for _ in 0..3 {
        assert!(open(&disk).unwrap().1.damaged_groups.is_empty());
    }
}

#[test]
fn the_floor_costs_a_sync_a_segment_and_not_one_a_batch() {
    let disk = begun();
    let every = LogOptions { segment_bytes: 64 * 1024, floor_every_bytes: 16 * 1024, ..small() };
    let floor = Floor::read(Arc::new(disk.clone()), IDENTITY).unwrap();
    let read = selvedge_log::Log::read(Arc::new(disk.clone()), Some(floor), every, &mut |_| {});
    let mut log = read.unwrap().begin().unwrap();
    let before = disk.syncs();
    (1..=100).for_each(|slot| _ = log.commit(&[record(1, 2, slot, slot, 500)]).unwrap());
    let more = disk.syncs() - before - 100;
    assert!((3..=5).contains(&more), "{more} more than the batches: some 60 KB were written");
}
