//! The bytes of version 1. A change here changes the format: it needs a new version, and these bytes must stay
//! readable.

use super::{IDENTITY, open, record, small};
use selvedge_fabric::record::LogRecord;
use selvedge_log::{LogError, MemoryDisk};
use std::sync::Arc;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

const SEGMENT: &str = "wal-0000000000000001.log";

#[test]
fn golden_bytes_of_version_1() {
    let disk = MemoryDisk::new(1 << 20);
    let (mut log, ..) = open(&disk).unwrap();
    let entry = LogRecord {
        group: 0x0102,
        configuration: 0x0304_0506,
        kind: 7,
        ballot: (0x1112_1314_1516_1718, 0x191a),
        slot: 0x2122_2324_2526_2728,
        payload: Arc::from(*b"payload"),
    };
    log.commit(&[entry.clone(), record(3, 1, 0, 5, 0)]).unwrap();
    log.commit(std::slice::from_ref(&entry)).unwrap();
    let golden = disk.bytes(SEGMENT).unwrap();
    let units = golden[512..].to_vec();
    let lines = [&golden[..56], &units[..48], &units[48..128], &units[128..176], &units[176..216]];
    let found: Vec<String> = lines.iter().map(|line| hex(line)).collect();
    assert_eq!(found, GOLDEN);
    log.close().unwrap();
    let sealed = disk.bytes(SEGMENT).unwrap();
    assert_eq!(hex(&sealed[512 + 216..512 + 272]), GOLDEN_SEAL);
    assert!(sealed[512 + 272..].iter().all(|b| *b == 0));
}

const GOLDEN: [&str; 5] = [
    "53656c76674c6f670100000094e5a373736974652d6120676174657761792d31010000000000000000000000000000000000000000020000",
    "f5556e1c0100000002000000020000004c000000bbbed37a0100000000000000010000000000000000020000032566c3",
    "03000201070000000201060504030718171615141312111a1928272625242322217061796c6f616408000000030001000000010500000000000000040000000000000000000500000000000000000000",
    "f5556e1c01000000010000000100000026000000aa21c52e02000000000000000100000000000000800200002aea1dd0",
    "0201070000000201060504030718171615141312111a1928272625242322217061796c6f61640000",
];
const GOLDEN_SEAL: &str = "f5556e1c01010000020000000000000004000000c74b674803000000000000000100000000000000d80200005a089d1e0300020100000000";

#[test]
fn a_segment_of_a_newer_version_is_refused_by_name() {
    let disk = MemoryDisk::new(1 << 20);
    drop(open(&disk).unwrap());
    disk.meddle(SEGMENT, |b| {
        b[8] = 2;
        b[12..16].fill(0);
        let crc = crc32c::crc32c(&b[..512]);
        b[12..16].copy_from_slice(&crc.to_le_bytes());
    });
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, LogError::Version { found: 2, known: 1, .. }), "{error}");
    assert!(error.to_string().contains(SEGMENT), "{error}");
    assert_eq!(small().identity, IDENTITY);
}

#[test]
fn noise_in_place_of_a_segment_is_damage_and_never_a_panic() {
    for seed in 0..200u64 {
        let disk = MemoryDisk::new(1 << 20);
        let (mut log, ..) = open(&disk).unwrap();
        for slot in 1..30 {
            log.commit(&[record(1, 2, slot, slot, 150)]).unwrap();
        }
        drop(log);
        let mut chance = fastrand::Rng::with_seed(seed);
        disk.meddle(SEGMENT, |b| {
            let from = chance.usize(..b.len());
            let length = chance.usize(1..2000).min(b.len() - from);
            match seed % 3 {
                0 => b[from..from + length].iter_mut().for_each(|b| *b = chance.u8(..)),
                1 => b.truncate(from),
                _ => b.resize(from + length * 3, 0xff),
            }
        });
        let (_, recovery, read) = open(&disk).unwrap();
        assert!(
            read.len() == 29 || recovery.damaged_groups.contains(1),
            "{seed}: {} {recovery:?}",
            read.len()
        );
    }
}
