//! Scrubs report what rots and nothing else, whatever happens to the files meanwhile.

use super::stores::{batches, snapshots};
use super::{IDENTITY, open, record};
use selvedge_fabric::record::Suspect;
use selvedge_log::{CHUNK_BYTES, Crash, Disk, Extent, Log, MemoryDisk, Scrubber};
use std::sync::Arc;

/// What a scrub reports, without the folders, which it always reports.
fn scrub(disk: &MemoryDisk, extents: &[Extent]) -> Vec<Suspect> {
    let folder = |name| disk.folder(name).unwrap();
    let (log, snapshots, batches) = (Arc::new(disk.clone()), folder("snapshots"), folder("batches"));
    let scrubber = Scrubber { log, snapshots, batches, identity: IDENTITY };
    let mut named = vec![];
    scrubber.round(extents, &mut |_| {}, &mut |suspect| named.push(suspect));
    named.retain(|suspect| !matches!(suspect, Suspect::Folder(_)));
    named
}

/// A log of some segments, the last of which has records.
fn written(disk: &MemoryDisk) -> Log {
    let (mut log, ..) = open(disk).unwrap();
    for slot in 1..=40 {
        log.commit(&[record(1, 2, slot, slot, 250), record(2, 1, 0, slot, 8)]).unwrap();
    }
    assert!(log.stats().segments > 3);
    log
}

#[test]
fn every_rotten_place_below_the_end_of_the_log_is_found_and_none_above_it() {
    let disk = MemoryDisk::new(1 << 20);
    let log = written(&disk);
    let extents = log.extents();
    assert_eq!(scrub(&disk, &extents), []);
    for extent in &extents {
        let name = format!("wal-{:016x}.log", extent.segment);
        let bytes = disk.bytes(&name).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        for at in (0..40).chain((512..used).step_by(61)) {
            let rotten = disk.image();
            rotten.meddle(&name, |bytes| bytes[at] ^= 4);
            assert_eq!(scrub(&rotten, &extents), [Suspect::Segment(extent.segment)], "{name} at {at}");
        }
        let rotten = disk.image();
        rotten.meddle(&name, |bytes| bytes.truncate(used / 2));
        assert_eq!(scrub(&rotten, &extents), [Suspect::Segment(extent.segment)], "{name} cut");
    }
    // What is written meanwhile is not read, intact or not.
    let last = extents.last().unwrap();
    let torn = disk.image();
    torn.meddle(&format!("wal-{:016x}.log", last.segment), |bytes| bytes[last.end as usize + 9] = 7);
    assert_eq!(scrub(&torn, &extents), []);
}

#[test]
fn segments_that_are_trimmed_meanwhile_are_not_rotten() {
    let disk = MemoryDisk::new(1 << 20);
    let mut log = written(&disk);
    let extents = log.extents();
    log.keep_from(1, 1_000);
    assert!(log.trim().unwrap() > 1);
    assert_eq!(scrub(&disk, &extents), []);
    assert!(!log.leave(extents[0].segment).unwrap(), "it is gone");
}

#[test]
fn what_a_crash_has_torn_is_no_rot_and_known_damage_is_not_named_again() {
    for seed in 0..30 {
        let disk = MemoryDisk::new(1 << 20);
        let mut log = written(&disk);
        log.append(&[record(1, 2, 99, 99, 700), record(1, 2, 100, 100, 300)]).unwrap();
        let after = disk.crash(Crash::Torn(seed));
        drop(log);
        let (mut log, ..) = open(&after).unwrap();
        assert_eq!(scrub(&after, &log.extents()), [], "{seed}");
        log.commit(&[record(1, 2, 101, 101, 100)]).unwrap();
        assert_eq!(scrub(&after, &log.extents()), [], "{seed}");
    }
    let disk = MemoryDisk::new(1 << 20);
    drop(written(&disk));
    disk.meddle("wal-0000000000000002.log", |bytes| bytes[700] ^= 1);
    let (log, recovery, _) = open(&disk).unwrap();
    assert!(!recovery.damaged_groups.is_empty());
    assert_eq!(scrub(&disk, &log.extents()), []);
    disk.meddle("wal-0000000000000002.log", |bytes| bytes[1_900] ^= 1);
    assert_eq!(scrub(&disk, &log.extents()), [Suspect::Segment(2)], "but more of it is");
}

#[test]
fn the_segment_that_is_written_is_left_when_it_has_rotted_and_goes_when_snapshots_cover_it() {
    let disk = MemoryDisk::new(1 << 20);
    let mut log = written(&disk);
    let active = log.extents().last().unwrap().segment;
    disk.meddle(&format!("wal-{active:016x}.log"), |bytes| bytes[600] ^= 1);
    assert_eq!(scrub(&disk, &log.extents()), [Suspect::Segment(active)]);
    assert!(log.leave(active).unwrap());
    log.commit(&[record(1, 2, 50, 50, 20)]).unwrap();
    log.keep_from(1, 41);
    log.trim().unwrap();
    assert!(!log.has_segment(active));
    assert_eq!(scrub(&disk, &log.extents()), []);
    drop(log);
    let (_, recovery, read) = open(&disk).unwrap();
    assert!(recovery.damaged_groups.is_empty(), "nothing of it is left");
    // The state record was written again when its segment was removed.
    assert_eq!(read.iter().map(|record| record.ballot.0).collect::<Vec<_>>(), [50, 40]);
}

#[test]
fn every_rotten_byte_of_snapshots_and_batches_is_found_and_the_store_agrees() {
    let disk = MemoryDisk::new(1 << 24);
    let long = vec![7; 2 * CHUNK_BYTES + 100];
    snapshots(&disk).save(3, 5, &long).unwrap();
    batches(&disk).put(3, 6, &long).unwrap();
    batches(&disk).put(3, 7, b"").unwrap();
    assert_eq!(scrub(&disk, &[]), []);
    let names = ["snapshots/snapshot-0003-0000000000000005", "batches/0003/batch-0000000000000006"];
    let suspects = [Suspect::Snapshot { group: 3, slot: 5 }, Suspect::Batch { group: 3, seq: 6 }];
    for (name, suspect) in names.into_iter().zip(suspects) {
        let length = disk.bytes(name).unwrap().len();
        for at in (0..64).chain((64..length).step_by(9_973)).chain([length - 1]) {
            let rotten = disk.image();
            rotten.meddle(name, |bytes| bytes[at] ^= 1);
            assert_eq!(scrub(&rotten, &[]), [suspect], "{name} at {at}");
            let (snapshots, batches) = (snapshots(&rotten), batches(&rotten));
            let agrees = (snapshots.is_rotten(3, 5).unwrap(), batches.is_rotten(3, 6));
            assert_eq!(agrees, (name.starts_with("snap"), name.starts_with("batch")), "{name} at {at}");
        }
        for length in [0, 10, 63, length - 1, length + 1] {
            let rotten = disk.image();
            rotten.meddle(name, |bytes| bytes.resize(length, 0));
            assert_eq!(scrub(&rotten, &[]), [suspect], "{name} of {length} bytes");
        }
        // Another release wrote it.
        let other = disk.image();
        other.meddle(name, |bytes| {
            bytes[8] += 1;
            let crc = crc32c::crc32c(&bytes[..12]).to_le_bytes();
            bytes[12..16].copy_from_slice(&crc);
        });
        assert_eq!(scrub(&other, &[]), []);
    }
}

#[test]
fn files_that_go_or_come_while_they_are_read_are_no_rot() {
    let disk = MemoryDisk::new(1 << 24);
    let (mut snapshots, mut batches) = (snapshots(&disk), batches(&disk));
    let long = vec![7; 3 * CHUNK_BYTES];
    snapshots.save(3, 5, &long).unwrap();
    (1..=3).for_each(|seq| _ = batches.put(3, seq, &long).unwrap());
    let folder = |name| disk.folder(name).unwrap();
    let scrubber = Scrubber {
        log: Arc::new(disk.clone()),
        snapshots: folder("snapshots"),
        batches: folder("batches"),
        identity: IDENTITY,
    };
    let (mut pieces, mut named) = (0, vec![]);
    let mut pace = |_| {
        pieces += 1;
        match pieces {
            1 => snapshots.save(3, 9, &long).unwrap(),
            4 => batches.remove_through(3, 2).unwrap(),
            _ => {}
        }
    };
    scrubber.round(&[], &mut pace, &mut |suspect| named.push(suspect));
    // A file that was removed while it was read may be reported; its owner decides.
    for suspect in named {
        let rotten = match suspect {
            Suspect::Segment(_) => true,
            Suspect::Snapshot { group, slot } => snapshots.is_rotten(group, slot).unwrap(),
            Suspect::Batch { group, seq } => batches.is_rotten(group, seq),
            Suspect::Folder(group) => !batches.missing(group, 9).unwrap().is_empty(),
        };
        assert!(!rotten, "{suspect:?}");
    }
    disk.folder("batches").unwrap().folder("0003").unwrap().remove("batch-0000000000000003").unwrap();
    assert_eq!(batches.missing(3, 9).unwrap(), [3], "but a file that somebody removed is missing");
}
