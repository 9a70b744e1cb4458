//! What a recovery writes on a survivor's disk, while the power fails at each operation: whenever it is begun again, the
//! replica goes on with everything that it held, alone, and the others vote in nothing older.

use selvedge_fabric::configuration::Succession;
use selvedge_fabric::machine::{CountingRules, Proposal};
use selvedge_fabric::record::LogRecord;
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::shard::{KIND_ACCEPTED, KIND_COMMITTED, KIND_PROMISED, Now};
use selvedge_fabric::site_state::ReplicaRole;
use selvedge_log::storage::{
    self, Folders, LogKeeper, LogWork, OpenError, Opened, ReplicaSettings, Succeeding,
};
use selvedge_log::{Crash, Disk, Faults, Floor, LogError, LogOptions, MemoryDisk, ReplicaMark};
use selvedge_paxos::Limits;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::SiteIncarnation;
use std::sync::Arc;

const ME: GatewayId = GatewayId(1);
const NOW: Now = Now { mono_ms: 1, wall: EpochMs(1_764_000_000_000), sure: true };
const BEGINS: u32 = 1_000_001;
/// It goes on here.
const MINE: ShardId = ShardId(0);
/// It goes on elsewhere.
const OTHER: ShardId = ShardId(1);
/// Nothing is left of it: it begins anew here.
const ANEW: ShardId = ShardId(2);
/// What is left of it here does not count.
const LEFT: ShardId = ShardId(3);
/// It has its majority.
const KEPT: ShardId = ShardId(4);
const LAST: u64 = 9;

/// Three gateways that hold everything.
fn ring() -> Ring {
    let members: Vec<_> = (1..=3).map(|id| Member { id: GatewayId(id), weight: 1 }).collect();
    Ring::new(8, &members, 3).unwrap()
}

fn folders(disk: &MemoryDisk) -> Result<(Folders, LogOptions), OpenError> {
    let folder = |name| {
        let failed = |e| LogError::Io { doing: "opening", name: "a folder".to_string(), source: e };
        disk.folder(name).map_err(failed)
    };
    let (log, snapshots, batches) = (folder("log")?, folder("snapshots")?, folder("batches")?);
    let mut options = LogOptions::new([1; 16]);
    (options.segment_bytes, options.keep_free_bytes, options.unit_bytes) = (8 * 1024, 0, 1_024);
    Ok((Folders { floor: Arc::new(disk.clone()), log, snapshots, batches }, options))
}

fn open(disk: &MemoryDisk) -> Opened {
    let settings = ReplicaSettings {
        rules: Arc::new(CountingRules::default()),
        limits: Limits::default(),
        outbox_budget_bytes: 1 << 20,
        incarnation: 1,
        shelf_bytes: 1 << 10,
        is_witness: false,
    };
    let (folders, options) = folders(disk).unwrap();
    storage::read(folders, options).unwrap().open(ME, &ring(), &settings, &mut || 7).unwrap()
}

fn succeed(disk: &MemoryDisk) -> Result<(), OpenError> {
    let incarnation = SiteIncarnation { generation: 7, random: 9 };
    let succession = Succession { begins: BEGINS, members: vec![ME], incarnation };
    let orders = [
        (MINE, Succeeding::GoesOn(succession.clone())),
        (OTHER, Succeeding::Learns(BEGINS)),
        (ANEW, Succeeding::BeginsAnew(succession)),
        (LEFT, Succeeding::Leaves(BEGINS)),
    ];
    let (folders, options) = folders(disk)?;
    storage::succeed(folders, options, &orders, &Arc::new(CountingRules::default()))
}

/// A disk on which all shards have entries, of which the last ones are not known to be chosen.
fn used() -> MemoryDisk {
    let disk = MemoryDisk::new(1 << 20);
    Floor::create(Arc::new(disk.clone()), [1; 16]).unwrap();
    let opened = open(&disk);
    let mut log = LogKeeper::new(opened.log, opened.marks);
    let value = Proposal::<Arc<[u8]>>::default().encode();
    for shard in [MINE, OTHER, ANEW, LEFT, KEPT] {
        let record = |kind, slot, payload: &[u8]| LogRecord {
            group: shard.0,
            configuration: 1,
            kind,
            ballot: (3, 2),
            slot,
            payload: payload.into(),
        };
        let mut records = vec![record(KIND_PROMISED, 0, &[])];
        records.extend((1..=LAST).map(|slot| record(KIND_ACCEPTED, slot, &value)));
        records.push(record(KIND_COMMITTED, 0, &5u64.to_le_bytes()));
        log.perform(LogWork::Write(records)).unwrap();
    }
    drop(log);
    disk.image()
}

/// The configuration of a shard's replica, its role, and the last slot in front of that configuration or in its group.
fn seen(opened: &Opened, shard: ShardId) -> Option<(u32, ReplicaRole, u64)> {
    let core = opened.replicas.get(&shard)?.core();
    let last = if core.configuration().number == BEGINS {
        core.configuration().base
    } else {
        core.consensus().last_slot()
    };
    Some((core.configuration().number, core.status(NOW).role, last))
}

fn check(disk: &MemoryDisk, case: &str) {
    let opened = open(disk);
    assert!(opened.recovery.damaged_groups.is_empty(), "{case}");
    let alone = |base| Some((BEGINS, ReplicaRole::Follower, base));
    assert_eq!(seen(&opened, MINE), alone(LAST + 1), "{case}");
    assert_eq!(seen(&opened, OTHER), Some((1, ReplicaRole::Learner, LAST)), "{case}");
    assert_eq!(seen(&opened, ANEW), alone(1), "{case}");
    assert_eq!(seen(&opened, LEFT), None, "{case}");
    assert_eq!(seen(&opened, KEPT), Some((1, ReplicaRole::Follower, LAST)), "{case}");
    assert_eq!(opened.marks.get(LEFT.0), Some(ReplicaMark::GivenUp { through: BEGINS - 1 }), "{case}");
}

#[test]
fn wherever_the_power_fails_the_next_start_finishes_what_was_begun() {
    let disk = used();
    for after in 0.. {
        let mut whole = false;
        for how in [Crash::Lost, Crash::Kept, Crash::Torn(after), Crash::Torn(1_000 + after)] {
            let disk = disk.image();
            disk.set_faults(Faults { power_off_after: Some(after), ..Faults::default() });
            whole = succeed(&disk).is_ok();
            let left = disk.crash(how);
            let case = format!("{how:?} after {after} operations");
            succeed(&left).unwrap_or_else(|e| panic!("{case}: {e}"));
            check(&left, &case);
            // It is noted as done only after that, so it may run once more.
            succeed(&left).unwrap_or_else(|e| panic!("{case}: {e}"));
            check(&left, &case);
        }
        if whole {
            println!("{after} operations");
            return;
        }
    }
}
