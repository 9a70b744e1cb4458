//! The layer between shards and files: full disks, repairs, trimming, contents of batches. The simulation in `sim/`
//! covers whole sites under faults; these are single cases that it found, or that were found while it was written.

use selvedge_fabric::commit::CommitRequest;
use selvedge_fabric::machine::{CountingRules, CutBatch, Machine, PROPOSAL_VERSION};
use selvedge_fabric::record::LogRecord;
use selvedge_fabric::replica::StoreWork;
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::shard::{KIND_ACCEPTED, KIND_BEGUN_ANEW, KIND_HEALED, Now, Replay};
use selvedge_fabric::site_state::ReplicaRole;
use selvedge_log::storage::{
    self, Done, Folders, LogKeeper, LogWork, OpenError, Opened, ReadStorage, ReplicaSettings,
};
use selvedge_log::{Disk, Floor, LogOptions, MemoryDisk, ReplicaMarks};
use selvedge_paxos::Limits;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use std::sync::Arc;

const ME: GatewayId = GatewayId(1);
const SEGMENT_BYTES: u64 = 8 * 1024;
const ROOM_BYTES: u64 = 1 << 20;

fn found(disk: &MemoryDisk) -> Result<ReadStorage, OpenError> {
    let folder = |name| disk.folder(name).unwrap();
    let floor = Arc::new(disk.clone());
    let folders =
        Folders { floor, log: folder("log"), snapshots: folder("snapshots"), batches: folder("batches") };
    let mut settings = LogOptions::new([1; 16]);
    (settings.segment_bytes, settings.keep_free_bytes, settings.unit_bytes) = (SEGMENT_BYTES, 0, 1_024);
    storage::read(folders, settings)
}

/// A disk on which a new gateway begins.
fn fresh(capacity_bytes: u64) -> MemoryDisk {
    let disk = MemoryDisk::new(capacity_bytes);
    Floor::create(Arc::new(disk.clone()), [1; 16]).unwrap();
    disk
}

fn ring() -> Ring {
    let members: Vec<_> = (1..=3).map(|id| Member { id: GatewayId(id), weight: 1 }).collect();
    Ring::new(1, &members, 3).unwrap()
}

fn replica_settings() -> ReplicaSettings {
    ReplicaSettings {
        rules: Arc::new(CountingRules::default()),
        limits: Limits::default(),
        outbox_budget_bytes: 1 << 20,
        incarnation: 1,
        shelf_bytes: 1 << 10,
        is_witness: false,
    }
}

fn try_open(disk: &MemoryDisk) -> Result<Opened, OpenError> {
    found(disk)?.open(ME, &ring(), &replica_settings(), &mut || 7)
}

fn open(disk: &MemoryDisk) -> Opened {
    try_open(disk).unwrap()
}

/// Marks of replicas of these groups, on a disk of their own.
fn marks<const N: usize>(groups: [u16; N]) -> ReplicaMarks {
    let mut marks = ReplicaMarks::read(Arc::new(MemoryDisk::new(1 << 16)), [1; 16]).unwrap();
    marks.begin(groups, false).unwrap();
    marks
}

fn entry(group: u16, slot: u64, bytes: usize) -> LogRecord {
    let mut payload = vec![slot as u8; bytes];
    payload[0] = PROPOSAL_VERSION;
    let payload = payload.into();
    LogRecord { group, configuration: 1, kind: KIND_ACCEPTED, ballot: (1, 1), slot, payload }
}

fn write(keeper: &mut LogKeeper, records: Vec<LogRecord>) -> bool {
    let done = keeper.perform(LogWork::Write(records)).unwrap();
    done.iter().any(|d| matches!(d, Done::Written))
}

fn slots_read(disk: &MemoryDisk) -> Vec<u64> {
    let mut settings = LogOptions::new([1; 16]);
    settings.segment_bytes = SEGMENT_BYTES;
    let mut slots = Vec::new();
    let log = disk.folder("log").unwrap();
    selvedge_log::Log::open(log, settings, &mut |r| slots.push(r.slot)).unwrap();
    slots
}

#[test]
fn what_a_full_disk_can_not_take_is_written_when_there_is_room_and_ends_nothing() {
    let disk = fresh(3 * SEGMENT_BYTES);
    let mut keeper = LogKeeper::new(open(&disk).log, marks([1]));
    let mut slot = 0;
    let mut stuck = false;
    while !stuck {
        slot += 1;
        stuck = !write(&mut keeper, vec![entry(1, slot, 900)]);
        assert!(slot < 100, "it is never full");
    }
    let looked = keeper.perform(LogWork::Look).unwrap();
    assert!(looked.iter().any(|d| matches!(d, Done::Room(false))), "{looked:?}");
    disk.set_capacity(ROOM_BYTES);
    let looked = keeper.perform(LogWork::Look).unwrap();
    assert!(looked.iter().any(|d| matches!(d, Done::Written)), "{looked:?}");
    assert!(looked.iter().any(|d| matches!(d, Done::Room(true))), "{looked:?}");
    drop(keeper);
    assert_eq!(slots_read(&disk), (1..=slot).collect::<Vec<_>>());
}

#[test]
fn a_write_of_more_than_a_segment_is_written_in_pieces() {
    let disk = fresh(ROOM_BYTES);
    let mut keeper = LogKeeper::new(open(&disk).log, marks([1]));
    let records: Vec<_> = (1..=20).map(|slot| entry(1, slot, 900)).collect();
    assert!(write(&mut keeper, records), "two segments and a half");
    drop(keeper);
    assert_eq!(slots_read(&disk), (1..=20).collect::<Vec<_>>());
}

#[test]
fn damage_of_unknown_groups_is_over_when_all_groups_that_are_here_are_repaired_and_the_log_is_trimmed_then() {
    let disk = fresh(ROOM_BYTES);
    let mut keeper = LogKeeper::new(open(&disk).log, marks([1, 2]));
    for slot in 1..=30 {
        assert!(write(&mut keeper, vec![entry(1, slot, 700), entry(2, slot, 100)]));
    }
    drop(keeper);
    // The head of a unit and the seal at the end of its segment: nothing tells whose records those were.
    disk.meddle("log/wal-0000000000000001.log", |bytes| bytes[600..SEGMENT_BYTES as usize].fill(0));
    let opened = open(&disk);
    assert!(opened.recovery.damaged_groups.is_all());
    let mut keeper = LogKeeper::new(opened.log, marks([1, 2]));
    for shard in [1, 2] {
        assert!(!keeper.log().damaged_groups().is_empty());
        keeper.perform(LogWork::Healed(ShardId(shard))).unwrap();
    }
    assert!(keeper.log().damaged_groups().is_empty(), "there are no other groups here");
    for shard in [1, 2] {
        keeper.perform(LogWork::Keep { shard: ShardId(shard), from: 31 }).unwrap();
    }
    assert!(keeper.log().oldest().is_none(), "{:?}", keeper.log().oldest());
}

#[test]
fn a_log_whose_oldest_segment_holds_no_slots_is_trimmed_too() {
    let disk = fresh(ROOM_BYTES);
    let mut keeper = LogKeeper::new(open(&disk).log, marks([1]));
    for round in 1..=200 {
        let promise = LogRecord {
            group: 1,
            configuration: 1,
            kind: 1,
            ballot: (round, 1),
            slot: 0,
            payload: vec![0; 100].into(),
        };
        assert!(write(&mut keeper, vec![promise]));
    }
    assert!(keeper.log().stats().segments > 3);
    keeper.perform(LogWork::Look).unwrap();
    assert!(keeper.log().oldest().is_none(), "no snapshot comes that would ask for it");
}

#[test]
fn what_was_recorded_before_a_replica_began_anew_is_void() {
    let mut replay = Replay::default();
    [3, 4, 5].into_iter().for_each(|slot| replay.record(entry(1, slot, 1)));
    let begun =
        LogRecord { kind: KIND_BEGUN_ANEW, ballot: (0, 0), slot: 1, payload: [].into(), ..entry(1, 1, 1) };
    replay.record(begun);
    [1, 2].into_iter().for_each(|slot| replay.record(entry(1, slot, 1)));
    assert!(replay.is_damaged(), "also when a snapshot that was lost has been fetched since");
    replay.record(LogRecord { kind: KIND_HEALED, slot: 2, payload: [].into(), ..entry(1, 2, 1) });
    assert!(!replay.is_damaged());
    let slots: Vec<u64> = replay.finish(0, None, None).recovered().entries.iter().map(|e| e.slot).collect();
    assert_eq!(slots, [1, 2], "3 to 5 may lie behind a hole");
}

#[test]
fn damage_of_unknown_groups_is_not_over_while_a_replica_that_was_added_is_damaged() {
    let disk = used();
    let log = disk.folder("log").unwrap();
    log.list().unwrap().iter().for_each(|name| log.remove(name).unwrap());
    let opened = open(&disk);
    assert!(opened.recovery.damaged_groups.is_all());
    let mut keeper = LogKeeper::new(opened.log, marks([0]));
    keeper.perform(LogWork::Add { shard: ShardId(4), silent_until: 1 }).unwrap();
    keeper.perform(LogWork::Healed(ShardId(0))).unwrap();
    assert!(!keeper.log().damaged_groups().is_empty());
    keeper.perform(LogWork::Healed(ShardId(4))).unwrap();
    assert!(keeper.log().damaged_groups().is_empty());
}

const NOW: Now = Now { mono_ms: 1, wall: EpochMs(1_764_000_000_000), sure: true };

#[test]
fn a_replica_that_starts_with_damage_says_so_in_the_log_first() {
    let disk = fresh(ROOM_BYTES);
    let mut keeper = LogKeeper::new(open(&disk).log, marks([0]));
    (1..=30).for_each(|slot| assert!(write(&mut keeper, vec![entry(0, slot, 700)])));
    drop(keeper);
    disk.meddle("log/wal-0000000000000001.log", |bytes| bytes[900] ^= 1);
    let mut opened = open(&disk);
    let replica = opened.replicas.get_mut(&ShardId(0)).unwrap();
    assert_eq!(replica.core().status(NOW).role, ReplicaRole::Damaged);
    let effects = replica.take(NOW).unwrap();
    let Some(CommitRequest { records, .. }) = effects.persist else { panic!("nothing is to be written") };
    assert_eq!((records[0].kind, records[0].slot), (KIND_BEGUN_ANEW, 1));
    assert!(!effects.healed);
}

#[test]
fn a_snapshot_does_not_count_while_the_store_lacks_what_it_lists() {
    let disk = fresh(ROOM_BYTES);
    let mut stores = open(&disk).stores;
    let snapshot = |slot, except: &[u64]| {
        let (shard, bytes, except) = (ShardId(0), vec![1; 10], except.iter().copied().collect());
        StoreWork::Snapshot { shard, slot, bytes, lists: Some(1..=2), except }
    };
    let batch = |seq| StoreWork::Batch(ShardId(0), CutBatch { seq, bytes: vec![seq as u8; 10] });
    let saved = |done: Vec<Done>| matches!(done[..], [Done::Snapshot { saved: true, .. }]);
    assert!(stores.perform(batch(2)).unwrap().is_empty());
    assert!(!saved(stores.perform(snapshot(9, &[])).unwrap()));
    assert!(stores.snapshots.load_newest(0).unwrap().is_none());
    assert!(saved(stores.perform(snapshot(9, &[1])).unwrap()), "known as lost everywhere");
    assert!(stores.perform(batch(1)).unwrap().is_empty());
    assert!(saved(stores.perform(snapshot(10, &[])).unwrap()));
}

/// All files on a disk: name and bytes.
fn contents(disk: &MemoryDisk) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for folder in ["log", "snapshots", "batches/0000"] {
        let mut names = disk.folder(folder).unwrap().list().unwrap();
        names.sort();
        for name in names.into_iter().map(|name| format!("{folder}/{name}")) {
            let bytes = disk.bytes(&name).unwrap();
            files.push((name, bytes));
        }
    }
    files
}

/// A disk with a log of two segments, a snapshot, a batch, and the leftovers of interrupted operations.
fn used() -> MemoryDisk {
    let disk = fresh(ROOM_BYTES);
    let opened = open(&disk);
    let (mut keeper, mut stores) = (LogKeeper::new(opened.log, marks([0])), opened.stores);
    (1..=9).for_each(|slot| assert!(write(&mut keeper, vec![entry(0, slot, 900)])));
    stores.perform(StoreWork::Batch(ShardId(0), CutBatch { seq: 1, bytes: vec![1; 10] })).unwrap();
    let bytes = Machine::new(ShardId(0), Arc::new(CountingRules::default())).snapshot();
    stores.snapshots.save(0, 0, &bytes).unwrap();
    drop((keeper, stores));
    let disk = disk.image();
    for name in ["log/wal-making.tmp", "snapshots/snapshot-making.tmp"] {
        let (folder, name) = name.split_once('/').unwrap();
        disk.folder(folder).unwrap().create(name).unwrap();
    }
    disk
}

const SNAPSHOT: &str = "snapshots/snapshot-0000-0000000000000000";

/// Corrects the checksums of a file that was changed, as if another release had written it.
fn restamp(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes[16..20].fill(0);
    let crc = crc32c::crc32c(bytes);
    bytes[16..20].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn what_another_release_wrote_is_refused_by_name_and_left_as_it_is() {
    type Change = (&'static str, &'static str, fn(&mut Vec<u8>));
    let cases: [Change; 8] = [
        ("the file of a snapshot", SNAPSHOT, |b| {
            b[8] = 9;
            restamp(b);
        }),
        ("what a snapshot holds", SNAPSHOT, |b| {
            b[64] += 1;
            restamp(b);
        }),
        ("a table of a snapshot", SNAPSHOT, |b| {
            let end = b.len() - 8;
            b[66..90].fill(251);
            let digest = xxhash_rust::xxh3::xxh3_64(&b[64..end]);
            b[end..].copy_from_slice(&digest.to_le_bytes());
            restamp(b);
        }),
        ("a batch", "batches/0000/batch-0000000000000001", |b| {
            b[8] = 9;
            restamp(b);
        }),
        ("a segment of the log", "log/wal-0000000000000001.log", |b| {
            b[8] = 9;
            b[12..16].fill(0);
            let crc = crc32c::crc32c(&b[..512]);
            b[12..16].copy_from_slice(&crc.to_le_bytes());
        }),
        ("a unit of the log", "log/wal-0000000000000001.log", |b| change_first_unit(b, |unit| unit[4] = 9)),
        ("a role in the log", "log/wal-0000000000000001.log", |b| change_first_unit(b, |unit| unit[5] = 9)),
        ("a record's length", "log/wal-0000000000000001.log", |b| {
            change_first_unit(b, |unit| unit[50..54].fill(255));
        }),
    ];
    for (what, name, change) in cases {
        let disk = used();
        disk.meddle(name, change);
        let before = contents(&disk);
        let refused = try_open(&disk).err().unwrap_or_else(|| panic!("{what} is taken"));
        let said = refused.to_string();
        assert!(said.contains("nothing was changed"), "{what}: {said}");
        assert_eq!(before, contents(&disk), "{what}");
    }
    for (what, record) in [
        ("a kind of record", LogRecord { kind: 99, ..entry(0, 10, 5) }),
        ("a slot's value", LogRecord { payload: vec![PROPOSAL_VERSION + 1, 7].into(), ..entry(0, 10, 5) }),
    ] {
        let disk = used();
        let mut keeper = LogKeeper::new(open(&disk).log, marks([0]));
        assert!(write(&mut keeper, vec![record]));
        drop(keeper);
        let before = contents(&disk);
        let said = try_open(&disk).err().unwrap_or_else(|| panic!("{what} is taken")).to_string();
        assert!(said.contains("nothing was changed"), "{what}: {said}");
        assert_eq!(before, contents(&disk), "{what}");
    }
    // Rot is still damage: the gateway starts, and its replica does not vote.
    for (name, at) in [(SNAPSHOT, 8), (SNAPSHOT, 64), ("log/wal-0000000000000001.log", 8)] {
        let disk = used();
        disk.meddle(name, |bytes| bytes[at] ^= 1);
        assert_eq!(
            open(&disk).replicas[&ShardId(0)].core().status(NOW).role,
            ReplicaRole::Damaged,
            "{name} byte {at}"
        );
    }
}

/// Changes the first unit of a segment, which lists one group, and corrects its checksums.
fn change_first_unit(segment: &mut [u8], change: impl FnOnce(&mut [u8])) {
    let unit = &mut segment[512..];
    let body_bytes = u32::from_le_bytes(unit[16..20].try_into().unwrap()) as usize;
    let unit = &mut unit[..50 + body_bytes];
    change(unit);
    let body = crc32c::crc32c(&unit[50..]);
    unit[20..24].copy_from_slice(&body.to_le_bytes());
    let seed = crc32c::crc32c(&[1; 16]);
    let seed = crc32c::crc32c_append(seed, &1u64.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &512u32.to_le_bytes());
    let head = crc32c::crc32c_append(crc32c::crc32c_append(seed, &unit[..44]), &unit[48..50]);
    unit[44..48].copy_from_slice(&head.to_le_bytes());
}

#[test]
fn a_gateway_whose_log_folder_was_emptied_does_not_vote() {
    let disk = used();
    assert_eq!(open(&disk.image()).replicas[&ShardId(0)].core().status(NOW).role, ReplicaRole::Follower);
    let log = disk.folder("log").unwrap();
    log.list().unwrap().iter().for_each(|name| log.remove(name).unwrap());
    for start in 0..2 {
        let opened = open(&disk);
        assert_eq!(
            opened.replicas[&ShardId(0)].core().status(NOW).role,
            ReplicaRole::Damaged,
            "start {start}"
        );
    }
}
