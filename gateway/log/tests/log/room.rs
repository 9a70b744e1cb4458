//! Full disks, failing disks, trimming.

use super::{open, open_with, record, small};
use selvedge_fabric::record::LogRecord;
use selvedge_log::{Crash, Faults, Log, LogError, LogOptions, MAX_STATE_PAYLOAD_BYTES, MemoryDisk, Room};
use std::io::ErrorKind;
use std::sync::Arc;

/// Commits records of a group until there is no room. Returns those that are in the log, and the error.
fn fill(log: &mut Log, group: u16) -> (Vec<LogRecord>, LogError) {
    let mut all = Vec::new();
    loop {
        let next = record(group, 2, all.len() as u64 + 1, all.len() as u64 + 1, 200);
        match log.commit(std::slice::from_ref(&next)) {
            Ok(_) => all.push(next),
            Err(e) => return (all, e),
        }
        assert!(all.len() < 10_000);
    }
}

#[test]
fn a_full_disk_is_told_ahead_and_loses_nothing() {
    let disk = MemoryDisk::new(4 * 4096 + 100);
    let (mut log, ..) = open(&disk).unwrap();
    assert_eq!(log.room(), Room::Plenty);
    log.commit(&[record(1, 1, 0, 77, 0)]).unwrap();
    let mut told_at = None;
    let mut all = Vec::new();
    let error = loop {
        let next = record(2, 2, all.len() as u64 + 1, all.len() as u64 + 1, 200);
        match log.commit(std::slice::from_ref(&next)) {
            Ok(_) => all.push(next),
            Err(e) => break e,
        }
        if log.room() == Room::Full && told_at.is_none() {
            told_at = Some(all.len());
        }
    };
    assert!(error.is_full(), "{error}");
    // The log said so when the last segment was begun: most of that was still free for work under way.
    assert!(all.len() - told_at.unwrap() >= 7, "{told_at:?} of {}", all.len());
    assert_eq!(log.retry_reserve().unwrap(), Room::Full);

    // Trimming still works: the log kept room for state records.
    log.keep_from(2, 20);
    assert!(log.trim().unwrap() > 0);
    assert_eq!(log.room(), Room::Plenty);
    let more = record(2, 2, 900, 900, 200);
    log.commit(std::slice::from_ref(&more)).unwrap();
    drop(log);
    let (_, recovery, read) = open(&disk.crash(Crash::Lost)).unwrap();
    assert!(recovery.damaged_groups.is_empty());
    assert!(read.contains(&record(1, 1, 0, 77, 0)), "the state record was carried forward");
    let slots: Vec<u64> = read.iter().filter(|r| r.group == 2).map(|r| r.slot).collect();
    assert!(
        slots[0] < 20 && slots.windows(2).all(|w| w[0] < w[1]) && slots.ends_with(&[all.len() as u64, 900])
    );
}

#[test]
fn a_disk_that_gets_room_again_is_used_again() {
    let disk = MemoryDisk::new(2 * 4096);
    let (mut log, ..) = open(&disk).unwrap();
    let (before, error) = fill(&mut log, 1);
    assert!(error.is_full() && log.room() == Room::Full);
    disk.set_capacity(1 << 20);
    assert_eq!(log.room(), Room::Full, "until asked");
    assert_eq!(log.retry_reserve().unwrap(), Room::Plenty);
    log.commit(&[record(1, 2, 1000, 1000, 0)]).unwrap();
    drop(log);
    assert_eq!(open(&disk).unwrap().2.len(), before.len() + 1);
}

#[test]
fn the_room_that_others_need_is_left_free() {
    let disk = MemoryDisk::new(3 * 4096);
    let settings = LogOptions { keep_free_bytes: 2 * 4096, ..small() };
    let (log, ..) = open_with(Arc::new(disk), settings).unwrap();
    assert_eq!(log.room(), Room::Full);
}

#[test]
fn opening_on_a_full_disk_uses_the_reserve() {
    let disk = MemoryDisk::new(2 * 4096);
    let (mut log, ..) = open(&disk).unwrap();
    log.commit(&[record(1, 2, 1, 1, 9)]).unwrap();
    log.commit(&[record(1, 2, 2, 2, 9)]).unwrap();
    drop(log);
    let (mut log, _, read) = open(&disk).unwrap();
    assert_eq!(read.len(), 2);
    log.commit(&[record(1, 2, 3, 3, 9)]).unwrap();
}

#[test]
fn a_log_without_room_for_a_segment_still_opens_and_can_be_trimmed() {
    let disk = MemoryDisk::new(3 * 4096);
    let (mut log, ..) = open(&disk).unwrap();
    log.commit(&[record(1, 1, 0, 500, 9)]).unwrap();
    let (all, _) = fill(&mut log, 2);
    assert_eq!(log.room(), Room::Full);
    drop(log);
    // Repeatedly: the little room that an opening takes must not add up.
    for _ in 0..5 {
        let (log, recovery, read) = open(&disk.image()).unwrap();
        assert!(recovery.damaged_groups.is_empty());
        assert_eq!(read.iter().filter(|r| !r.is_state()).cloned().collect::<Vec<_>>(), all);
        drop(log);
        let (log, ..) = open(&disk).unwrap();
        assert_eq!(log.room(), Room::Full);
    }
    let (mut log, ..) = open(&disk).unwrap();
    let error = log.commit(&[record(2, 2, 900, 900, 200)]).unwrap_err();
    assert!(error.is_full(), "{error}");
    log.keep_from(2, 900);
    assert!(log.trim().unwrap() > 0);
    assert_eq!(log.room(), Room::Plenty);
    log.commit(&[record(2, 2, 900, 900, 200)]).unwrap();
    drop(log);
    let read = open(&disk).unwrap().2;
    assert!(read.contains(&record(1, 1, 0, 500, 9)) && read.contains(&record(2, 2, 900, 900, 200)));
}

#[test]
fn a_write_that_finds_no_room_leaves_what_was_written_and_the_next_one_works() {
    // The remains of the failed write, with whole units in them, must not be read behind later records.
    for size in [10, 300, 400] {
        let disk = MemoryDisk::new(1 << 20);
        let (mut log, ..) = open(&disk).unwrap();
        log.commit(&[record(1, 2, 1, 1, 50)]).unwrap();
        disk.set_faults(Faults { write_fails_after: Some((0, ErrorKind::StorageFull)), ..Faults::default() });
        let long: Vec<LogRecord> = (2..7).map(|i| record(1, 2, i, 100 + i, 400)).collect();
        let error = log.append(&long).unwrap_err();
        assert!(error.is_full(), "{error}");
        let short = record(1, 2, 2, 2, size);
        log.append(std::slice::from_ref(&short)).unwrap();
        log.sync().unwrap();
        for how in [Crash::Lost, Crash::Kept, Crash::Torn(size as u64)] {
            let (_, recovery, read) = open(&disk.crash(how)).unwrap();
            assert_eq!(read, [record(1, 2, 1, 1, 50), short.clone()], "{size} {how:?}");
            assert!(recovery.damaged_groups.is_empty());
        }
    }
}

#[test]
fn a_failed_fsync_or_write_stops_the_log_for_good() {
    let sync = Faults { sync_fails_after: Some(0), ..Faults::default() };
    let write = Faults { write_fails_after: Some((0, ErrorKind::Other)), ..Faults::default() };
    for faults in [sync, write] {
        let disk = MemoryDisk::new(1 << 20);
        let (mut log, ..) = open(&disk).unwrap();
        log.commit(&[record(1, 2, 1, 1, 5)]).unwrap();
        disk.set_faults(faults);
        assert!(matches!(log.commit(&[record(1, 2, 2, 2, 5)]), Err(LogError::Io { .. })));
        let syncs = disk.syncs();
        let mut errors = vec![
            log.commit(&[record(1, 2, 3, 3, 5)]).unwrap_err(),
            log.append(&[]).unwrap_err(),
            log.sync().unwrap_err(),
            log.trim().unwrap_err(),
            log.retry_reserve().unwrap_err(),
            log.repaired(&selvedge_log::Groups::all()).unwrap_err(),
        ];
        errors.push(log.close().unwrap_err());
        assert!(errors.iter().all(|e| matches!(e, LogError::Poisoned { .. })), "{errors:?}");
        assert_eq!(disk.syncs(), syncs, "never tried again");
        // The page cache still shows the second record; the disk may never have received it. Only the first was
        // promised.
        let (_, recovery, read) = open(&disk.crash(Crash::Lost)).unwrap();
        assert_eq!(read, [record(1, 2, 1, 1, 5)]);
        assert!(recovery.damaged_groups.is_empty());
    }
}

#[test]
fn what_only_the_page_cache_had_is_durable_once_the_log_is_open() {
    let disk = MemoryDisk::new(1 << 20);
    let (mut log, ..) = open(&disk).unwrap();
    log.commit(&[record(1, 2, 1, 1, 5)]).unwrap();
    log.append(&[record(1, 2, 2, 2, 5)]).unwrap();
    drop(log);
    // The process died, not the machine: the second record is read from the page cache. Then the power fails.
    let (log, recovery, read) = open(&disk).unwrap();
    assert_eq!((read.len(), recovery.units_rewritten), (2, 1));
    drop(log);
    assert_eq!(open(&disk.crash(Crash::Lost)).unwrap().2, read);
}

#[test]
fn trimming_keeps_the_newest_state_and_what_is_not_covered() {
    let disk = MemoryDisk::new(1 << 20);
    let (mut log, ..) = open(&disk).unwrap();
    for mark in 1..=3 {
        log.commit(&[record(1, 1, 0, mark, 4), record(2, 1, 0, 10 + mark, 4)]).unwrap();
    }
    log.commit(&[record(1, 3, 0, 50, 4)]).unwrap();
    for slot in 1..=60 {
        log.commit(&[record(1, 2, slot, 100 + slot, 200), record(2, 2, slot, 200 + slot, 10)]).unwrap();
    }
    log.commit(&[record(2, 1, 0, 99, 4)]).unwrap();
    log.keep_from(1, 61);
    assert_eq!(log.trim().unwrap(), 0, "group 2 needs it all");
    assert!(log.oldest().unwrap().slots.contains_key(&2));
    log.keep_from(2, 30);
    assert!(log.trim().unwrap() >= 1);
    drop(log);
    let (mut log, _, read) = open(&disk).unwrap();
    let newest =
        |group, kind| read.iter().rfind(|r| r.is_state() && r.group == group && r.kind == kind).cloned();
    assert_eq!(newest(1, 1), Some(record(1, 1, 0, 3, 4)));
    assert_eq!(newest(1, 3), Some(record(1, 3, 0, 50, 4)));
    assert_eq!(newest(2, 1), Some(record(2, 1, 0, 99, 4)));
    let slots: Vec<u64> = read.iter().filter(|r| r.group == 2 && r.slot > 0).map(|r| r.slot).collect();
    assert!(slots[0] <= 30 && slots[0] > 1 && slots.ends_with(&[59, 60]));
    // Once more, after a restart, from the segment to which it was carried over.
    log.keep_from(1, 61);
    log.keep_from(2, 61);
    assert!(log.trim().unwrap() >= 1);
    drop(log);
    let read = open(&disk).unwrap().2;
    assert!(read.contains(&record(1, 3, 0, 50, 4)) && read.contains(&record(2, 1, 0, 99, 4)));
}

#[test]
fn a_segment_goes_only_when_all_its_slots_are_below_what_is_kept() {
    let disk = MemoryDisk::new(1 << 20);
    let (mut log, ..) = open(&disk).unwrap();
    for slot in 1..=40 {
        log.commit(&[record(1, 2, slot, slot, 200)]).unwrap();
    }
    let last = log.oldest().unwrap().slots[&1];
    log.keep_from(1, last);
    assert_eq!(log.trim().unwrap(), 0);
    log.keep_from(1, last + 1);
    log.keep_from(1, 1);
    assert_eq!(log.trim().unwrap(), 1, "what is kept never moves back");
}

#[test]
fn a_power_cut_while_trimming_keeps_the_state_that_was_only_in_the_removed_segment() {
    for at in 0.. {
        let disk = MemoryDisk::new(1 << 20);
        let (mut log, ..) = open(&disk).unwrap();
        log.commit(&[record(1, 1, 0, 500, 4), record(3, 1, 0, 501, 4)]).unwrap();
        for slot in 1..=40 {
            log.commit(&[record(1, 2, slot, slot, 200)]).unwrap();
        }
        log.keep_from(1, 41);
        disk.set_faults(Faults { power_off_after: Some(at), ..Faults::default() });
        let done = log.trim();
        for how in [Crash::Lost, Crash::Kept, Crash::Torn(at)] {
            let (_, recovery, read) = open(&disk.crash(how)).unwrap();
            assert!(recovery.damaged_groups.is_empty(), "{at} {how:?}");
            for state in [record(1, 1, 0, 500, 4), record(3, 1, 0, 501, 4)] {
                assert!(read.contains(&state), "{at} {how:?}");
            }
        }
        if done.is_ok() {
            return;
        }
    }
}

#[test]
fn what_is_too_large_is_refused_before_anything_is_written() {
    let disk = MemoryDisk::new(1 << 20);
    let (mut log, ..) = open(&disk).unwrap();
    let before = disk.bytes("wal-0000000000000001.log");
    let state = record(1, 1, 0, 1, MAX_STATE_PAYLOAD_BYTES);
    let many: Vec<LogRecord> = (1..20).map(|i| record(1, 2, i, i, 400)).collect();
    for batch in [vec![record(1, 2, 1, 1, 5000)], vec![record(1, 2, 1, 1, 5), state], many] {
        let error = log.append(&batch).unwrap_err();
        assert!(matches!(error, LogError::TooLarge { .. }), "{error}");
    }
    assert_eq!(disk.bytes("wal-0000000000000001.log"), before);
    log.commit(&[record(1, 2, 1, 1, 5)]).unwrap();

    let tiny = LogOptions { segment_bytes: 100, ..small() };
    let error = open_with(Arc::new(MemoryDisk::new(1 << 20)), tiny).unwrap_err();
    assert!(error.to_string().contains("segment_bytes = 100"), "{error}");
}

#[test]
fn a_log_can_be_opened_with_other_sizes() {
    let disk = MemoryDisk::new(1 << 24);
    let mut all = Vec::new();
    for (i, segment_bytes) in [65536, 4096, 8192, 4096].into_iter().enumerate() {
        let settings = LogOptions { segment_bytes, unit_bytes: 4096, ..small() };
        let (mut log, recovery, read) = open_with(Arc::new(disk.clone()), settings).unwrap();
        assert_eq!(read, all);
        assert!(recovery.damaged_groups.is_empty());
        for slot in 1..=(30 - i as u64) {
            all.push(record(i as u16, 2, slot, slot, 100));
            log.commit(&all[all.len() - 1..]).unwrap();
        }
        if i == 0 {
            // A last batch that is longer than the next segments, so that opening has to rewrite it.
            let long: Vec<LogRecord> = (100..120).map(|slot| record(7, 2, slot, slot, 900)).collect();
            log.commit(&long).unwrap();
            all.extend(long);
        }
    }
}
