//! Reading stretches of a log while it is being written.

use super::{IDENTITY, open, record};
use selvedge_fabric::record::{LogRecord, Position};
use selvedge_log::{Disk, Log, LogReader, MAX_PINNED_SEGMENTS, MemoryDisk};
use std::sync::Arc;

const END: u64 = u64::MAX;

fn reader(disk: &MemoryDisk) -> LogReader {
    LogReader::new(Arc::new(disk.clone()), IDENTITY)
}

/// The slots of a group's records from a slot on, read in turns of `turn_bytes`.
fn slots(disk: &MemoryDisk, log: &Log, group: u16, from: u64, turn_bytes: u64) -> Option<Vec<u64>> {
    let stretch = log.stretch(group, from)?;
    let (mut at, mut found) = (stretch.start, Vec::new());
    let mut visit = |record: LogRecord| {
        assert_eq!(record.group, group);
        found.push(record.slot);
        true
    };
    while at < stretch.end {
        let next = reader(disk).read(at, stretch.end, group, turn_bytes, &mut visit).ok()?;
        assert!(next > at);
        at = next;
    }
    Some(found)
}

#[test]
fn a_group_s_records_are_read_in_order_over_seals_and_cuts_and_only_what_is_durable() {
    let disk = MemoryDisk::new(1 << 20);
    let mut wanted = Vec::new();
    for start in 0..3_u64 {
        let disk = &disk;
        let (mut log, ..) = open(disk).unwrap();
        for i in 1..=30 {
            let slot = start * 30 + i;
            log.commit(&[record(1, 2, slot, slot, 200), record(2, 2, slot, slot, 90)]).unwrap();
            if i % 2 == 0 {
                log.commit(&[record(2, 2, slot, slot, 400)]).unwrap();
            }
            wanted.push(slot);
        }
        log.append(&[record(1, 2, 1_000 + start, 1_000, 10)]).unwrap();
        for turn_bytes in [1, 700, END] {
            assert_eq!(slots(disk, &log, 1, 1, turn_bytes).unwrap(), wanted, "start {start}");
        }
        let late = slots(disk, &log, 1, start * 30 + 25, END).unwrap();
        assert!(late.ends_with(&wanted[wanted.len() - 6..]) && (start > 0 || late.len() < 20), "{late:?}");
        assert_eq!(log.stretch(3, 1), None);
        // This record is written but not synced: the next start finds it above its mark, and writes it again.
        wanted.push(1_000 + start);
    }
    assert!(
        reader(&disk)
            .read(
                Position { segment: 99, offset: 512 },
                Position { segment: 100, offset: 600 },
                1,
                END,
                &mut |_| true
            )
            .is_err()
    );
}

#[test]
fn a_reader_stops_when_it_has_enough_and_goes_on_behind_it() {
    let disk = MemoryDisk::new(1 << 20);
    let (mut log, ..) = open(&disk).unwrap();
    (1..=40).for_each(|slot| _ = log.commit(&[record(1, 2, slot, slot, 200)]).unwrap());
    let stretch = log.stretch(1, 1).unwrap();
    for (enough, most_bytes) in [(true, END), (false, 1)] {
        let (mut at, mut found) = (stretch.start, Vec::new());
        while at < stretch.end {
            let before = found.len();
            at = reader(&disk)
                .read(at, stretch.end, 1, most_bytes, &mut |record| {
                    found.push(record.slot);
                    !enough
                })
                .unwrap();
            assert!(found.len() <= before + 1, "each write is a unit");
        }
        assert_eq!(found, (1..=40).collect::<Vec<_>>());
    }
}

#[test]
fn nothing_is_given_from_behind_what_is_not_whole() {
    let disk = MemoryDisk::new(1 << 20);
    let (mut log, ..) = open(&disk).unwrap();
    (1..=40).for_each(|slot| _ = log.commit(&[record(1, 2, slot, slot, 200)]).unwrap());
    let stretch = log.stretch(1, 1).unwrap();
    let whole = disk.bytes("wal-0000000000000001.log").unwrap();
    for at in (512..4_000).step_by(97) {
        disk.meddle("wal-0000000000000001.log", |bytes| bytes[at] ^= 1);
        let mut found = Vec::new();
        let mut at_unit = stretch.start;
        let result = loop {
            match reader(&disk).read(at_unit, stretch.end, 1, 1, &mut |r| {
                found.push(r.slot);
                true
            }) {
                Ok(next) if next >= stretch.end => break Ok(()),
                Ok(next) => at_unit = next,
                Err(e) => break Err(e),
            }
        };
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "byte {at}");
        assert!(result.is_err() || found.len() == 40, "byte {at}");
        disk.meddle("wal-0000000000000001.log", |bytes| *bytes = whole.clone());
    }
}

#[test]
fn what_is_pinned_stays_until_it_is_let_go_or_holds_back_too_much_or_there_is_no_room() {
    let disk = MemoryDisk::new(4 << 20);
    let (mut log, ..) = open(&disk).unwrap();
    let mut slot = 0;
    let mut write = |log: &mut Log, segments: usize| {
        let until = log.stats().segments + segments as u64;
        while log.stats().segments < until {
            slot += 1;
            log.commit(&[record(1, 2, slot, slot, 500)]).unwrap();
        }
        slot
    };
    let last = write(&mut log, 5);
    log.pin(1, Some(1));
    log.keep_from(1, last + 1);
    assert_eq!((log.trim().unwrap(), log.pinned_segments()), (0, 5));
    assert_eq!(slots(&disk, &log, 1, 1, END).unwrap(), (1..=last).collect::<Vec<_>>());
    assert_eq!(log.oldest(), None, "nobody is asked for a snapshot because of what is pinned");
    log.pin(1, Some(20));
    assert!(log.trim().unwrap() > 0);
    assert!(slots(&disk, &log, 1, 20, END).unwrap().contains(&20));
    log.pin(1, None);
    log.trim().unwrap();
    assert_eq!((log.pinned_segments(), log.stats().segments), (0, 2));

    log.pin(1, Some(1));
    let last = write(&mut log, MAX_PINNED_SEGMENTS + 1);
    log.keep_from(1, last + 1);
    assert!(log.trim().unwrap() > MAX_PINNED_SEGMENTS, "it holds back too much");

    log.pin(1, Some(last));
    let last = write(&mut log, 3);
    log.keep_from(1, last + 1);
    assert_eq!(log.trim().unwrap(), 0);
    disk.set_capacity((4 << 20) - disk.free_bytes().unwrap());
    let mut slot = last;
    while log.room() == selvedge_log::Room::Plenty {
        slot += 1;
        log.commit(&[record(1, 2, slot, slot, 500)]).unwrap();
    }
    log.keep_from(1, slot);
    assert!(log.trim().unwrap() > 0, "there is no room");
}

#[test]
fn a_snapshot_that_is_pinned_is_read_in_pieces_though_a_newer_one_has_replaced_it() {
    let disk = MemoryDisk::new(1 << 20);
    let mut store = selvedge_log::SnapshotStore::open(Arc::new(disk.clone()), IDENTITY, 1 << 20).unwrap();
    assert!(store.pin_newest(1).unwrap().is_none());
    let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i / 7) as u8).collect();
    store.save(1, 10, &bytes).unwrap();
    let pinned = store.pin_newest(1).unwrap().unwrap();
    assert_eq!((pinned.slot, pinned.bytes, pinned.crc), (10, 200_000, crc32c::crc32c(&bytes)));
    store.save(1, 20, b"newer").unwrap();
    let mut read = Vec::new();
    loop {
        let piece = pinned.piece(read.len() as u64, 64 * 1024).unwrap();
        if piece.is_empty() {
            break;
        }
        read.extend(piece);
    }
    assert!(read == bytes);
    drop(pinned);
    let name = disk.list().unwrap().into_iter().find(|n| n.starts_with("snapshot-")).unwrap();
    disk.meddle(&name, |bytes| *bytes.last_mut().unwrap() ^= 1);
    assert!(store.pin_newest(1).is_err(), "it has rotted");
}
