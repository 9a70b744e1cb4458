//! Numbers that only somebody who knows how to make checksums can have written. Reading believes what has the right
//! checksum; a log that continued from such numbers would soon write what it does not believe itself.

use super::{IDENTITY, open, record};
use selvedge_log::{Disk, LogError, MemoryDisk};

/// The numbers below this one are believed in a unit.
const MAX_COUNT: u64 = 1 << 62;
/// The numbers below this one let a log continue.
const MAX_FOUND_COUNT: u64 = MAX_COUNT - (1 << 60);
const FIRST_UNIT: usize = 512;

fn name(segment: u64) -> String {
    format!("wal-{segment:016x}.log")
}

/// Gives the first unit of a segment this sequence number, and the checksum that fits.
fn forge(disk: &MemoryDisk, segment: u64, sequence: u64) {
    disk.meddle(&name(segment), |all| {
        let unit = &mut all[FIRST_UNIT..];
        unit[24..32].copy_from_slice(&sequence.to_le_bytes());
        let groups = u32::from_le_bytes(unit[8..12].try_into().unwrap()) as usize;
        let mut crc = crc32c::crc32c(&IDENTITY);
        for bytes in [
            &segment.to_le_bytes()[..],
            &(FIRST_UNIT as u32).to_le_bytes(),
            &unit[..44],
            &unit[48..48 + 2 * groups],
        ] {
            crc = crc32c::crc32c_append(crc, bytes);
        }
        unit[44..48].copy_from_slice(&crc.to_le_bytes());
    });
}

fn written() -> MemoryDisk {
    let disk = MemoryDisk::new(1 << 20);
    let (mut log, ..) = open(&disk).unwrap();
    for slot in 1..=20 {
        log.commit(&[record(1, 2, slot, slot, 700)]).unwrap();
    }
    assert!(log.stats().segments > 3, "{:?}", log.stats());
    drop(log);
    disk.image()
}

fn files(disk: &MemoryDisk) -> Vec<(String, Option<Vec<u8>>)> {
    let mut names = disk.list().unwrap();
    names.sort();
    names.into_iter().map(|name| (name.clone(), disk.bytes(&name))).collect()
}

/// The segments with units in them.
fn used(disk: &MemoryDisk) -> Vec<u64> {
    let used =
        |segment: &u64| disk.bytes(&name(*segment)).is_some_and(|b| b[FIRST_UNIT..].iter().any(|b| *b != 0));
    (1..20).filter(used).collect()
}

#[test]
fn a_unit_with_a_number_that_no_log_reaches_is_refused_by_the_name_of_its_file_and_nothing_is_changed() {
    for segment in used(&written()) {
        for sequence in [MAX_COUNT - 1, MAX_FOUND_COUNT] {
            let disk = written();
            forge(&disk, segment, sequence);
            let before = files(&disk);
            let error = open(&disk).map(|_| ()).unwrap_err();
            assert!(matches!(error, LogError::Unreadable { .. }), "{error}");
            assert!(error.to_string().contains(&name(segment)), "{error}");
            assert!(error.to_string().contains(&sequence.to_string()), "{error}");
            assert_eq!(files(&disk), before);
        }
    }
}

#[test]
fn with_a_lower_number_the_log_goes_on_and_keeps_what_it_takes() {
    for segment in used(&written()) {
        for sequence in [0, 1, 1 << 40, 1 << 61] {
            let disk = written();
            forge(&disk, segment, sequence);
            let fresh = record(3, 2, 1_000, 1_000, 30);
            open(&disk).unwrap().0.commit(std::slice::from_ref(&fresh)).unwrap();
            let (_, _, read) = open(&disk.image()).unwrap_or_else(|e| panic!("{segment}, {sequence}: {e}"));
            assert_eq!(read.last(), Some(&fresh), "{segment}, {sequence}");
        }
    }
}

#[test]
fn a_segment_with_a_number_that_no_log_reaches_is_refused() {
    let disk = written();
    let far = MAX_COUNT - 1;
    let last = *used(&disk).last().unwrap();
    disk.rename(&name(last), &name(far)).unwrap();
    forge(&disk, far, 1_000);
    let error = open(&disk).map(|_| ()).unwrap_err();
    assert!(matches!(error, LogError::Unreadable { .. }), "{error}");
    assert!(error.to_string().contains(&name(far)), "{error}");
}
