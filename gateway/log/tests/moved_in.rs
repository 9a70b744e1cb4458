//! Replicas that a gateway takes on while it runs, and finds again when it restarts.

use selvedge_fabric::commit::CommitRequest;
use selvedge_fabric::configuration::{Configuration, FIRST_CONFIGURATION};
use selvedge_fabric::machine::{CountingRules, CutBatch, Machine, PROPOSAL_VERSION};
use selvedge_fabric::record::LogRecord;
use selvedge_fabric::replica::{Replica, StoreWork};
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::shard::{KIND_ACCEPTED, KIND_BEGUN_ANEW, KIND_CONFIGURATION, KIND_LEARNS, Now};
use selvedge_fabric::site_state::ReplicaRole;
use selvedge_log::storage::{self, Done, Folders, LogKeeper, LogWork, Opened, ReadStorage, ReplicaSettings};
use selvedge_log::{Disk, Floor, LogOptions, MemoryDisk};
use selvedge_paxos::Limits;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use std::sync::Arc;

const ME: GatewayId = GatewayId(1);
const NOW: Now = Now { mono_ms: 1, wall: EpochMs(1_764_000_000_000), sure: true };
/// The configuration in which the shard is when the replica is made.
const CAME_IN: u32 = 3;

fn fresh() -> MemoryDisk {
    let disk = MemoryDisk::new(1 << 20);
    Floor::create(Arc::new(disk.clone()), [1; 16]).unwrap();
    disk
}

fn ring() -> Ring {
    let members: Vec<_> = (1..=5).map(|id| Member { id: GatewayId(id), weight: 1 }).collect();
    Ring::new(8, &members, 3).unwrap()
}

/// A shard that the ring does not give this gateway.
fn moves_in() -> ShardId {
    (0..8).map(ShardId).find(|shard| !ring().replicas(*shard).contains(&ME)).unwrap()
}

fn settings() -> ReplicaSettings {
    ReplicaSettings {
        rules: Arc::new(CountingRules::default()),
        limits: Limits::default(),
        outbox_budget_bytes: 1 << 20,
        incarnation: 1,
        shelf_bytes: 1 << 10,
        is_witness: false,
    }
}

fn open(disk: &MemoryDisk) -> Opened {
    read(disk).open(ME, &ring(), &settings(), &mut || 7).unwrap()
}

fn read(disk: &MemoryDisk) -> ReadStorage {
    let folder = |name| disk.folder(name).unwrap();
    let (floor, log) = (Arc::new(disk.clone()), folder("log"));
    let folders = Folders { floor, log, snapshots: folder("snapshots"), batches: folder("batches") };
    let mut options = LogOptions::new([1; 16]);
    (options.segment_bytes, options.keep_free_bytes, options.unit_bytes) = (8 * 1024, 0, 1_024);
    storage::read(folders, options).unwrap()
}

fn keeper(opened: Opened) -> LogKeeper {
    LogKeeper::new(opened.log, opened.marks)
}

fn write(keeper: &mut LogKeeper, records: Vec<LogRecord>) {
    let done = keeper.perform(LogWork::Write(records)).unwrap();
    assert!(done.iter().any(|done| matches!(done, Done::Written)), "{done:?}");
}

fn made(damaged: Option<u64>) -> Replica {
    storage::new_replica(ME, moves_in(), &ring(), &settings(), CAME_IN, damaged).unwrap()
}

/// Makes the replica on a running gateway and writes its first records. Returns their kinds.
fn make(keeper: &mut LogKeeper, damaged: Option<u64>) -> Vec<u8> {
    let effects = made(damaged).take(NOW).unwrap();
    let Some(CommitRequest { records, .. }) = effects.persist else { panic!("it writes nothing") };
    let kinds = records.iter().map(|record| record.kind).collect();
    keeper.perform(LogWork::Add { shard: moves_in(), silent_until: CAME_IN }).unwrap();
    write(keeper, records);
    kinds
}

fn entry(configuration: u32, slot: u64) -> LogRecord {
    let payload = vec![PROPOSAL_VERSION, slot as u8].into();
    LogRecord { group: moves_in().0, configuration, kind: KIND_ACCEPTED, ballot: (1, 2), slot, payload }
}

/// The record with which a configuration begins that has this gateway as a member.
fn begins(number: u32, base: u64) -> LogRecord {
    let members = vec![ME, GatewayId(2), GatewayId(3)];
    let begins = Configuration { number, members, witnesses: Vec::new(), base, directory: base };
    let payload = begins.encode().into();
    LogRecord { kind: KIND_CONFIGURATION, ballot: (0, 0), payload, ..entry(number, base) }
}

fn votes(opened: &Opened) -> bool {
    opened.replicas[&moves_in()].core().consensus().config().members.contains(&ME)
}

fn role(opened: &Opened) -> ReplicaRole {
    opened.replicas[&moves_in()].core().status(NOW).role
}

#[test]
fn a_replica_that_moved_in_is_found_again_and_votes_only_behind_the_configuration_in_which_it_came() {
    let disk = fresh();
    let opened = open(&disk);
    assert!(opened.replicas.keys().copied().eq(ring().shards_of(ME)), "nothing else is on disk");
    let mut keeper = keeper(opened);
    assert_eq!(make(&mut keeper, None), [KIND_LEARNS]);

    for number in FIRST_CONFIGURATION..=CAME_IN + 1 {
        // One entry and a stop end each configuration.
        let base = 2 * u64::from(number - 1);
        if number > FIRST_CONFIGURATION {
            write(&mut keeper, vec![begins(number, base)]);
        }
        write(&mut keeper, vec![entry(number, base + 1)]);
        let opened = open(&disk.image());
        let here = opened.replicas.keys().filter(|shard| **shard != moves_in());
        assert!(here.copied().eq(ring().shards_of(ME)));
        let core = opened.replicas[&moves_in()].core();
        assert_eq!(core.configuration().number, number);
        let last = core.consensus().last_slot();
        assert_eq!(last, base + 1, "configuration {number}");
        assert_eq!(votes(&opened), number > CAME_IN, "configuration {number}");
        write(&mut keeper, vec![entry(number, base + 2)]);
    }
}

#[test]
fn what_is_left_of_a_replica_that_moved_in_makes_a_damaged_one() {
    type Leaves = fn(&mut Opened);
    let left: [(&str, Leaves); 2] = [
        ("its snapshot", |opened| {
            let bytes = Machine::new(moves_in(), Arc::new(CountingRules::default())).snapshot();
            opened.stores.snapshots.save(moves_in().0, 0, &bytes).unwrap();
        }),
        ("a batch", |opened| {
            let batch = CutBatch { seq: 1, bytes: vec![1; 10] };
            opened.stores.perform(StoreWork::Batch(moves_in(), batch)).unwrap();
        }),
    ];
    for (what, leaves) in left {
        for loses_log in [false, true] {
            let disk = fresh();
            let mut opened = open(&disk);
            leaves(&mut opened);
            drop(opened);
            if loses_log {
                let log = disk.folder("log").unwrap();
                log.list().unwrap().iter().for_each(|name| log.remove(name).unwrap());
            }
            let opened = open(&disk);
            assert_eq!((role(&opened), votes(&opened)), (ReplicaRole::Damaged, false), "{what}, {loses_log}");
        }
    }
}

#[test]
fn damage_that_names_the_shard_alone_makes_a_damaged_replica() {
    let disk = fresh();
    let mut keeper = keeper(open(&disk));
    make(&mut keeper, None);
    drop(keeper);
    // The body of the unit with its first record.
    disk.meddle("log/wal-0000000000000001.log", |bytes| bytes[512 + 52] ^= 1);
    let opened = open(&disk);
    assert!(opened.recovery.damaged_groups.known().is_some_and(|groups| groups.contains(&moves_in().0)));
    assert_eq!((role(&opened), votes(&opened)), (ReplicaRole::Damaged, false));
}

#[test]
fn a_replica_that_may_follow_a_lost_one_stays_damaged_until_it_is_repaired() {
    let disk = fresh();
    let mut keeper = keeper(open(&disk));
    assert_eq!(make(&mut keeper, Some(5)), [KIND_BEGUN_ANEW, KIND_LEARNS]);
    drop(keeper);
    let opened = open(&disk);
    assert!(opened.recovery.damaged_groups.is_empty());
    assert_eq!((role(&opened), votes(&opened)), (ReplicaRole::Damaged, false));
}

#[test]
fn groups_that_the_ring_does_not_have_get_no_replica() {
    let disk = fresh();
    let mut keeper = keeper(open(&disk));
    write(&mut keeper, vec![LogRecord { group: 8, ..entry(1, 1) }]);
    drop(keeper);
    assert!(open(&disk).replicas.keys().copied().eq(ring().shards_of(ME)));
    assert!(storage::new_replica(ME, ShardId(8), &ring(), &settings(), CAME_IN, None).is_err());
}

/// Every gateway has a replica of the directory group from its first start on, as one that learns if it is not among the
/// first voters.
#[test]
fn a_replica_that_a_first_start_asks_for_is_new_and_not_damaged() {
    let disk = fresh();
    let start = || read(&disk).open_shards(ME, [moves_in()], &ring(), &settings(), &mut || 7).unwrap();
    let mut opened = start();
    assert_eq!(
        (role(&opened), votes(&opened)),
        (ReplicaRole::Retired, false),
        "nobody has named it a learner"
    );
    let effects = opened.replicas.get_mut(&moves_in()).unwrap().take(NOW).unwrap();
    let Some(CommitRequest { records, .. }) = effects.persist else { panic!("it writes nothing") };
    assert_eq!(records.iter().map(|record| record.kind).collect::<Vec<_>>(), [KIND_LEARNS]);
    drop(opened);
    assert_eq!(
        role(&start()),
        ReplicaRole::Damaged,
        "its mark is on disk and no record of it: it may have lost them"
    );
    write(&mut keeper(start()), records);
    assert_eq!(role(&start()), ReplicaRole::Retired);

    // Records without the one that must come first are no new replica.
    let disk = fresh();
    write(&mut keeper(open(&disk)), vec![entry(FIRST_CONFIGURATION, 1)]);
    let opened = read(&disk).open_shards(ME, [moves_in()], &ring(), &settings(), &mut || 7).unwrap();
    assert_eq!(role(&opened), ReplicaRole::Damaged);
}
