//! Rot: whichever byte or sector is lost, its groups are reported unless it was in the batch written last.

use super::{IDENTITY, open, record, small};
use selvedge_fabric::record::LogRecord;
use selvedge_log::{Faults, Groups, MemoryDisk};

const HEADER_BYTES: usize = 512;

/// A log of some segments; its records, and how many of those are in the last unit, which no mark covers.
fn written() -> (MemoryDisk, Vec<LogRecord>, usize) {
    let disk = MemoryDisk::new(1 << 20);
    let mut all = Vec::new();
    for start in 0..2u64 {
        let (mut log, ..) = open(&disk).unwrap();
        for i in 1..=18 {
            let slot = start * 18 + i;
            let mut batch =
                vec![record(1 + (i % 4) as u16, 2, slot, slot, 120), record(9, 2, slot, 100 + slot, 30)];
            if i % 7 == 0 {
                batch.push(record(9, 1, 0, 200 + slot, 0));
            }
            log.commit(&batch).unwrap();
            all.extend(batch);
        }
    }
    (disk.image(), all, 2)
}

fn segments(disk: &MemoryDisk) -> Vec<(String, usize)> {
    (1..20)
        .map(|n| format!("wal-{n:016x}.log"))
        .filter_map(|name| disk.bytes(&name).map(|bytes| (name, bytes.len())))
        .collect()
}

/// Checks that every record is there, or its group is reported, or it was in the last unit; that the order is kept; and
/// that a second opening reports the same. Returns the groups reported.
fn check(disk: &MemoryDisk, all: &[LogRecord], last: usize, case: &str) -> Groups {
    let (log, recovery, read) = open(disk).unwrap_or_else(|e| panic!("{case}: {e}"));
    let mut from = 0;
    let mut missing = Vec::new();
    for (i, record) in all.iter().enumerate() {
        if read.get(from) == Some(record) {
            from += 1;
        } else {
            missing.push(i);
        }
    }
    assert_eq!(from, read.len(), "{case}: something invented or out of order");
    for i in missing {
        let reported = recovery.damaged_groups.contains(all[i].group);
        assert!(reported || i >= all.len() - last, "{case}: record {i} dropped in silence, {recovery:?}");
    }
    drop(log);
    let (_, again, read_again) = open(disk).unwrap();
    assert_eq!(read, read_again, "{case}: reading twice");
    assert_eq!(recovery.damaged_groups, again.damaged_groups, "{case}: damage is not forgotten");
    recovery.damaged_groups
}

#[test]
fn any_flipped_byte_is_reported_or_was_in_the_last_unit() {
    let (disk, all, last) = written();
    let (mut reported, mut narrow) = (0, 0);
    for (name, bytes) in segments(&disk) {
        for at in 0..bytes {
            let rotten = disk.image();
            rotten.meddle(&name, |b| b[at] ^= 1 << (at % 8));
            let groups = check(&rotten, &all, last, &format!("{name} byte {at}"));
            reported += usize::from(!groups.is_empty());
            narrow += usize::from(!groups.is_empty() && !groups.is_all());
        }
    }
    // Most bytes belong to bodies, and a body's groups are known from its head.
    assert!(reported > 7000 && narrow > reported * 6 / 10, "{reported} reported, {narrow} by group");
}

#[test]
fn any_lost_sector_is_reported_or_was_in_the_last_unit() {
    let (disk, all, last) = written();
    for (name, bytes) in segments(&disk) {
        for at in (0..bytes).step_by(512) {
            let case = format!("{name} sector at {at}");
            let end = (at + 512).min(bytes);
            let zeroed = disk.image();
            zeroed.meddle(&name, |b| b[at..end].fill(0));
            let groups = check(&zeroed, &all, last + 2, &case);

            let unreadable = disk.image();
            let range = at as u64..end as u64;
            unreadable.set_faults(Faults { unreadable: vec![(name.clone(), range)], ..Faults::default() });
            assert_eq!(
                check(&unreadable, &all, last + 2, &case),
                groups,
                "{case}: unreadable is as bad as zeros"
            );
        }
    }
}

/// The only unit of the last segment rots before any mark covers it, and an older segment has rotted too. What the last
/// segment showed of the one before it must stay known; otherwise that one's end, and the seal that lists its groups,
/// would be written again.
#[test]
fn rot_in_the_first_unit_of_the_last_segment_leaves_older_damage_as_it_was() {
    let disk = MemoryDisk::new(1 << 20);
    let (mut all, mut narrow) = (Vec::new(), 0);
    let (mut log, ..) = open(&disk).unwrap();
    for slot in 1..=40 {
        let batch = vec![record(1 + (slot % 4) as u16, 2, slot, slot, 120), record(9, 2, slot, slot, 30)];
        log.commit(&batch).unwrap();
        all.extend(batch);
        let left = disk.image();
        let of = |(_, name): &(String, usize)| *name > HEADER_BYTES;
        let names: Vec<_> = segments(&left).into_iter().filter(of).map(|(name, _)| name).collect();
        for pair in names.windows(2) {
            let rotten = left.image();
            rotten.meddle(&pair[0], |bytes| bytes[HEADER_BYTES] ^= 1);
            rotten.meddle(&pair[1], |bytes| bytes[HEADER_BYTES + 80] ^= 1);
            let groups = check(&rotten, &all, 2, &format!("{pair:?} after {slot}"));
            narrow += usize::from(!groups.is_empty() && !groups.is_all());
        }
    }
    assert!(narrow > 10, "the seal tells the groups in {narrow} cases");
}

#[test]
fn a_lost_segment_concerns_everyone() {
    let (disk, all, last) = written();
    for (name, _) in &segments(&disk)[1..3] {
        let left = disk.image();
        left.meddle(name, |b| b.fill(0));
        assert!(check(&left, &all, last, name).is_all());

        use selvedge_log::Disk;
        let left = disk.image();
        left.remove(name).unwrap();
        assert!(check(&left, &all, last, name).is_all());
    }
}

#[test]
fn damage_blocks_trimming_until_it_is_repaired_and_is_then_forgotten() {
    let (disk, all, last) = written();
    // A payload byte of the first unit: groups 2 and 9.
    disk.meddle("wal-0000000000000001.log", |b| b[512 + 48 + 4 + 60] ^= 1);
    assert_eq!(check(&disk, &all, last, "flip"), Groups::these([2, 9]));

    let (mut log, ..) = open(&disk).unwrap();
    for group in [1, 2, 3, 4, 9] {
        log.keep_from(group, 1000);
    }
    assert!(log.oldest().unwrap().damaged);
    assert_eq!(log.trim().unwrap(), 0);
    log.repaired(&Groups::these([2])).unwrap();
    assert_eq!(log.trim().unwrap(), 0);
    drop(log);

    let (mut log, recovery, _) = open(&disk).unwrap();
    assert_eq!(recovery.damaged_groups, Groups::these([9]), "the repair of group 2 is remembered");
    log.repaired(&Groups::these([9])).unwrap();
    for group in [1, 2, 3, 4, 9] {
        log.keep_from(group, 1000);
    }
    assert!(log.trim().unwrap() > 0);
    drop(log);
    assert!(open(&disk).unwrap().1.damaged_groups.is_empty());
}

#[test]
fn damage_of_unknown_extent_is_repaired_group_by_group_or_at_once() {
    let (disk, ..) = written();
    disk.meddle("wal-0000000000000001.log", |b| b[100] ^= 1);
    let (mut log, recovery, _) = open(&disk).unwrap();
    assert!(recovery.damaged_groups.is_all() && recovery.damaged_groups.contains(777));
    log.repaired(&Groups::these([777])).unwrap();
    drop(log);
    let (mut log, recovery, _) = open(&disk).unwrap();
    assert!(!recovery.damaged_groups.contains(777) && recovery.damaged_groups.contains(1));
    let rest = log.damaged_groups();
    log.repaired(&rest).unwrap();
    assert!(log.damaged_groups().is_empty());
    drop(log);
    assert!(open(&disk).unwrap().1.damaged_groups.is_empty());
}

#[test]
fn a_payload_that_looks_like_a_unit_is_not_taken_for_one() {
    // An attacker who knows everything but the identity writes units into payloads, even at the right place.
    let disk = MemoryDisk::new(1 << 20);
    let forged = MemoryDisk::new(1 << 20);
    let other = selvedge_log::LogOptions { identity: [1; 16], ..small() };
    let (mut log, ..) = super::open_with(std::sync::Arc::new(forged.clone()), other).unwrap();
    log.commit(&[record(5, 2, 1, 1, 40)]).unwrap();
    let unit = forged.bytes("wal-0000000000000001.log").unwrap()[512..640].to_vec();
    let (mut log, ..) = open(&disk).unwrap();
    assert_ne!(IDENTITY, [1; 16]);
    // Behind 48 + 2 + 29 + 1 bytes a payload's byte is aligned.
    let mut payload = vec![0];
    payload.extend(unit);
    let evil = LogRecord { payload: std::sync::Arc::from(payload), ..record(5, 2, 1, 1, 0) };
    log.commit(&[evil]).unwrap();
    log.commit(&[record(6, 2, 1, 2, 40)]).unwrap();
    drop(log);
    // The outer unit's head rots, so that reading looks for the next one.
    disk.meddle("wal-0000000000000001.log", |b| b[513] ^= 1);
    let (_, recovery, read) = open(&disk).unwrap();
    assert_eq!(read, [record(6, 2, 1, 2, 40)]);
    assert!(recovery.damaged_groups.contains(5));
}

#[test]
fn what_rots_after_a_repair_is_reported_also_in_front_of_it() {
    let first = "wal-0000000000000001.log";
    for groups in [Groups::these([2, 9]), Groups::all()] {
        let (disk, all, last) = written();
        disk.meddle(first, |b| b[512 + 48 + 4 + 60] ^= 1);
        let (mut log, ..) = open(&disk).unwrap();
        // The lost records are learned again, and so is the same group's next promise; then it votes again.
        let learned = [record(2, 2, 1, 900, 120), record(9, 1, 0, 901, 9)];
        log.commit(&learned).unwrap();
        log.repaired(&groups).unwrap();
        log.commit(&[record(2, 2, 99, 902, 10)]).unwrap();
        drop(log);
        assert!(open(&disk).unwrap().1.damaged_groups.is_empty());

        // Byte by byte, whatever stood in the log when the repair was made: a missing record is noticed.
        let whole = open(&disk).unwrap().2;
        let known = [&all[..], &learned].concat();
        for (name, bytes) in segments(&disk) {
            for at in (0..bytes).step_by(5) {
                let rotten = disk.image();
                rotten.meddle(&name, |b| b[at] ^= 1 << (at % 8));
                let (_, recovery, read) = open(&rotten).unwrap();
                for lost in known.iter().filter(|r| whole.contains(r) && !read.contains(r)) {
                    let reported = recovery.damaged_groups.contains(lost.group);
                    assert!(
                        reported,
                        "{name} byte {at}: {lost:?} dropped in silence, {last} in the last unit"
                    );
                }
            }
        }
    }
}
