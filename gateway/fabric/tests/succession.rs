//! The log of a survivor from which a group goes on: whatever its replica held without a gap is kept, and a host that is
//! killed between the records finds the same when it begins again.

use selvedge_fabric::configuration::{
    Configuration, FIRST_CONFIGURATION, LastValue, Stop, Succession, is_stop,
};
use selvedge_fabric::machine::{CountingRules, Machine, Proposal};
use selvedge_fabric::record::LogRecord;
use selvedge_fabric::shard::{
    KIND_ACCEPTED, KIND_COMMITTED, KIND_PROMISED, KIND_SUCCESSION, Now, Replay, ShardCore, ShardSettings,
};
use selvedge_paxos::{GroupConfig, Limits};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::SiteIncarnation;
use std::sync::Arc;

const SHARD: ShardId = ShardId(0);
const BEGINS: u32 = 1_000_001;
const NOW: Now = Now { mono_ms: 1, wall: EpochMs(1_764_000_000_000), sure: true };

fn succession() -> Succession {
    let incarnation = SiteIncarnation { generation: 7, random: 9 };
    Succession { begins: BEGINS, members: vec![GatewayId(2)], incarnation }
}

fn record(kind: u8, slot: u64, payload: &[u8]) -> LogRecord {
    LogRecord {
        group: SHARD.0,
        configuration: FIRST_CONFIGURATION,
        kind,
        ballot: (3, 1),
        slot,
        payload: payload.into(),
    }
}

/// A log with entries up to `last`, of which the first two are known to be chosen.
fn log(last: u64) -> Vec<LogRecord> {
    let value = Proposal::<Arc<[u8]>>::default().encode();
    let mut records = vec![record(KIND_PROMISED, 0, &[])];
    records.extend((1..=last).map(|slot| record(KIND_ACCEPTED, slot, &value)));
    records.push(record(KIND_COMMITTED, 0, &2u64.to_le_bytes()));
    records
}

fn replay(records: &[LogRecord]) -> Replay {
    let mut replay = Replay::default();
    records.iter().for_each(|record| replay.record(record.clone()));
    replay
}

fn succeed(records: &[LogRecord], whole: bool) -> Vec<LogRecord> {
    replay(records).succeed(SHARD, &succession(), (0, None), whole)
}

/// The replica of gateway 2 that a start makes of these records.
fn started(records: &[LogRecord]) -> ShardCore {
    let replay = replay(records);
    assert_eq!(replay.unreadable(), None);
    assert!(!replay.lacks_records(0, None));
    let members = [1, 2, 3].map(GatewayId).to_vec();
    let group = GroupConfig::new(SHARD, GatewayId(2), members, Limits::default());
    let rules = Arc::new(CountingRules::default());
    let settings =
        ShardSettings { group, rules: rules.clone(), outbox_budget_bytes: 1 << 20, incarnation: 1 };
    ShardCore::recover(settings, Machine::new(SHARD, rules), replay.finish(0, None, None)).unwrap()
}

#[test]
fn everything_held_without_a_gap_is_kept_wherever_the_host_is_killed() {
    let mut records = log(5);
    records.push(record(KIND_ACCEPTED, 7, &[])); // behind a gap
    let written = succeed(&records, true);
    assert_eq!(
        written.iter().map(|r| (r.kind, r.slot)).collect::<Vec<_>>(),
        [(KIND_ACCEPTED, 6), (KIND_SUCCESSION, 6)]
    );
    for kept in 0..=written.len() {
        let mut records = records.clone();
        records.extend_from_slice(&written[..kept]);
        let again = succeed(&records, true);
        assert_eq!(again.len(), written.len() - kept, "after {kept} records");
        records.extend(again);
        assert_eq!(succeed(&records, true), [], "it is done once");
        let mut core = started(&records);
        core.take(NOW).unwrap();
        assert_eq!(core.configuration(), &Configuration::succeeding(&succession(), 6));
        assert_eq!(core.machine().slot(), 6, "the entries that were only accepted, and the succession");
        assert_eq!(core.consensus().config().members, [GatewayId(2)]);
        assert_eq!(core.machine().incarnation().map(|i| i.generation), Some(7));
    }
}

#[test]
fn an_accepted_stop_is_the_last_that_counts() {
    let members = [1, 2, 4].map(GatewayId).to_vec();
    let stop = Stop { ends: FIRST_CONFIGURATION, members, witnesses: vec![], directory: 3 };
    let mut records = log(3);
    records.push(record(KIND_ACCEPTED, 4, &stop.encode()));
    records.push(record(KIND_ACCEPTED, 5, &[])); // void, but still on disk
    let written = succeed(&records, true);
    assert_eq!(written[0].slot, 5);
    records.extend(written);
    let mut core = started(&records);
    core.take(NOW).unwrap();
    assert_eq!(core.configuration().number, BEGINS);
}

#[test]
fn a_damaged_log_goes_on_from_the_snapshot_alone() {
    let records = replay(&log(5)).succeed(SHARD, &succession(), (0, None), false);
    let mut log = vec![LogRecord::forgotten(SHARD.0)];
    log.extend(records);
    let mut core = started(&log);
    core.take(NOW).unwrap();
    assert_eq!(core.configuration().number, BEGINS);
    assert_eq!(core.configuration().base, 1, "nothing is in front of it");
}

#[test]
fn golden_bytes_of_a_succession() {
    let value = succession().encode();
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&value), "0002fc41420f0001020709");
    assert!(is_stop(&value));
    assert_eq!(LastValue::decode(&value), Ok(LastValue::Succession(succession())));
    assert!(Stop::decode(&value).is_err(), "a release that knows only stops takes it for another version");
    for bad in [Succession { begins: 1, ..succession() }, Succession { members: vec![], ..succession() }] {
        assert!(LastValue::decode(&bad.encode()).is_err(), "{bad:?}");
    }
    let begun = Configuration::succeeding(&succession(), 6);
    assert_eq!(Configuration::decode(&begun.encode()), Ok(begun));
}
