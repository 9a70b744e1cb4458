//! The stores of snapshots and batches under crashes, rot and full disks.

use super::IDENTITY;
use selvedge_log::snapshots::DEFAULT_SNAPSHOT_BYTES;
use selvedge_log::{BatchStore, Crash, Disk, Faults, LogError, MemoryDisk, RealDisk, SnapshotStore};
use std::sync::Arc;

pub fn snapshots(disk: &MemoryDisk) -> SnapshotStore {
    SnapshotStore::open(disk.folder("snapshots").unwrap(), IDENTITY, DEFAULT_SNAPSHOT_BYTES).unwrap()
}

pub fn batches(disk: &MemoryDisk) -> BatchStore {
    BatchStore::open(disk.folder("batches").unwrap(), IDENTITY).unwrap()
}

#[test]
fn at_every_operation_a_power_cut_leaves_the_old_snapshot_or_the_new_one() {
    for at in 0..40 {
        let disk = MemoryDisk::new(1 << 20);
        disk.set_faults(Faults { power_off_after: Some(at), ..Faults::default() });
        let mut saved = 0;
        let mut store = snapshots(&disk);
        for n in 1..=3u64 {
            if store.save(7, n * 10, &vec![n as u8; 2000]).is_err() {
                break;
            }
            saved = n;
        }
        for how in [Crash::Lost, Crash::Kept, Crash::Torn(at)] {
            let left = disk.crash(how);
            let found = snapshots(&left).load_newest(7).unwrap();
            let n = found.as_ref().map_or(0, |(slot, _)| slot / 10);
            assert!(n == saved || n == saved + 1, "{at} {how:?}: {n} after {saved}");
            assert!(found.is_none_or(|(_, bytes)| bytes == vec![n as u8; 2000]));
        }
    }
}

#[test]
fn any_flip_in_a_snapshot_or_a_batch_is_damage() {
    let disk = MemoryDisk::new(1 << 20);
    snapshots(&disk).save(3, 5, b"state").unwrap();
    batches(&disk).put(3, 5, b"batch").unwrap();
    let names = ["snapshots/snapshot-0003-0000000000000005", "batches/0003/batch-0000000000000005"];
    for name in names {
        let length = disk.bytes(name).unwrap().len();
        assert_eq!(length, 64 + 5);
        for at in 0..length {
            let rotten = disk.image();
            rotten.meddle(name, |b| b[at] ^= 0x10);
            let error = match name.starts_with("snap") {
                true => snapshots(&rotten).load_newest(3).unwrap_err(),
                false => batches(&rotten).get(3, 5).unwrap_err(),
            };
            assert!(matches!(error, LogError::Damaged { .. }), "{name} {at}: {error}");
        }
        for length in 0..length {
            let short = disk.image();
            short.meddle(name, |b| b.truncate(length));
            let failed = match name.starts_with("snap") {
                true => snapshots(&short).load_newest(3).is_err(),
                false => batches(&short).get(3, 5).is_err(),
            };
            assert!(failed);
        }
    }
}

#[test]
fn a_snapshot_without_room_leaves_the_old_one_and_no_rest() {
    let disk = MemoryDisk::new(3000);
    let mut store = snapshots(&disk);
    store.save(1, 1, &[1; 1000]).unwrap();
    let error = store.save(1, 2, &[2; 2500]).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert_eq!(disk.folder("snapshots").unwrap().list().unwrap().len(), 1);
    assert_eq!(store.load_newest(1).unwrap(), Some((1, vec![1; 1000])));
    store.save(1, 3, &[3; 1000]).unwrap();
    store.save(1, 2, &[2; 10]).unwrap();
    assert_eq!(store.load_newest(1).unwrap(), Some((3, vec![3; 1000])), "an older one changes nothing");
    assert_eq!(store.load_newest(2).unwrap(), None);
    let error =
        SnapshotStore::open(disk.folder("snapshots").unwrap(), IDENTITY, 10).unwrap().save(1, 9, &[0; 11]);
    assert!(matches!(error, Err(LogError::TooLarge { limit: 10, .. })));
}

#[test]
fn a_snapshot_of_another_identity_is_refused() {
    let disk = MemoryDisk::new(1 << 20);
    snapshots(&disk).save(1, 1, b"x").unwrap();
    let other = SnapshotStore::open(disk.folder("snapshots").unwrap(), [0; 16], 100).unwrap();
    assert!(matches!(other.load_newest(1), Err(LogError::Foreign { .. })));
}

#[test]
fn a_failed_fsync_stops_the_stores() {
    let disk = MemoryDisk::new(1 << 20);
    let (mut snapshots, mut batches) = (snapshots(&disk), batches(&disk));
    let fail = || disk.set_faults(Faults { sync_fails_after: Some(0), ..Faults::default() });
    fail();
    assert!(matches!(snapshots.save(1, 1, b"x"), Err(LogError::Io { .. })));
    assert!(matches!(snapshots.save(1, 2, b"x"), Err(LogError::Poisoned { .. })));
    batches.put(1, 1, b"x").unwrap();
    fail();
    assert!(matches!(batches.sync(1, 1), Err(LogError::Io { .. })));
    assert!(matches!(batches.sync(1, 1), Err(LogError::Poisoned { .. })));
    assert!(matches!(batches.put(1, 2, b"x"), Err(LogError::Poisoned { .. })));
}

#[test]
fn synced_batches_outlive_a_power_cut_and_others_are_there_or_not_but_never_wrong() {
    for seed in 0..50 {
        let disk = MemoryDisk::new(1 << 20);
        let mut store = batches(&disk);
        for seq in 1..=6 {
            store.put(2, seq, &vec![seq as u8; 1500]).unwrap();
            if seq == 3 {
                store.sync(2, 3).unwrap();
            }
        }
        let left = disk.crash(Crash::Torn(seed));
        let mut store = batches(&left);
        for seq in 1..=6u64 {
            match store.get(2, seq) {
                Ok(Some(bytes)) => assert_eq!(bytes, vec![seq as u8; 1500]),
                Ok(None) | Err(LogError::Damaged { .. }) => assert!(seq > 3, "{seed}: {seq}"),
                Err(e) => panic!("{e}"),
            }
            // The log is applied again, which puts every batch again.
            store.put(2, seq, &vec![seq as u8; 1500]).unwrap();
        }
        store.sync(2, 6).unwrap();
        let left = disk_after(&left);
        assert_eq!(batches(&left).list(2).unwrap(), (1..=6).map(|s| (s, 1500)).collect::<Vec<_>>());
        assert_eq!(batches(&left).get(2, 6).unwrap(), Some(vec![6; 1500]));
    }
}

fn disk_after(disk: &MemoryDisk) -> MemoryDisk {
    disk.crash(Crash::Lost)
}

#[test]
fn batches_are_immutable_and_removed_from_the_front() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(folder.path().join("batches")).unwrap());
    let mut store = BatchStore::open(disk.clone(), IDENTITY).unwrap();
    for seq in 1..=5 {
        store.put(300, seq, &[seq as u8; 10]).unwrap();
    }
    assert!(matches!(store.put(300, 2, b"other"), Err(LogError::Conflict { .. })));
    store.put(300, 2, &[2; 10]).unwrap();
    store.sync(300, 4).unwrap();
    store.sync(300, 5).unwrap();
    store.remove_through(300, 3).unwrap();
    drop(store);
    let mut store = BatchStore::open(disk, IDENTITY).unwrap();
    store.assume_synced(300, 5);
    assert_eq!(store.list(300).unwrap(), [(4, 10), (5, 10)]);
    assert_eq!(store.get(300, 3).unwrap(), None);
    assert_eq!(store.get(300, 4).unwrap(), Some(vec![4; 10]));
    assert_eq!(store.list(1).unwrap(), []);
    store.remove_through(1, 9).unwrap();
    store.sync(1, 9).unwrap();
}

#[test]
fn batches_up_to_the_greatest_number_can_be_synced_and_synced_again() {
    let disk = MemoryDisk::new(1 << 20);
    let mut store = batches(&disk);
    for seq in [1, u64::MAX] {
        store.put(1, seq, b"x").unwrap();
    }
    store.sync(1, u64::MAX).unwrap();
    store.sync(1, u64::MAX).unwrap();
    store.remove_through(1, u64::MAX).unwrap();
    assert_eq!(store.list(1).unwrap(), []);
}
