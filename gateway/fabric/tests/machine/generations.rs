//! A recovery: what was counted before it waits for the ledger's word, and is never sent twice.

use crate::support::*;
use selvedge_fabric::configuration::{Configuration, Succession};
use selvedge_fabric::machine::*;
use selvedge_types::ids::GatewayId;
use selvedge_types::uplink::{LedgerId, SiteIncarnation};

const LEDGER: LedgerId = LedgerId(1);
const OLD: SiteIncarnation = SiteIncarnation { generation: 100, random: 1 };
const NEW: SiteIncarnation = SiteIncarnation { generation: 90, random: 2 };
const BEGINS: u32 = 1_000_001;

fn rules() -> CountingRules {
    CountingRules {
        windows_ms: vec![1_000],
        allowed_lateness_ms: 0,
        cut_after_ms: 0,
        recent_bytes: 1 << 20,
        ..CountingRules::default()
    }
}

/// Publishes a reading in each second from `from` to `to`; a batch is cut for each but the last.
fn seconds(s: &mut Shard, from: i64, to: i64) {
    for second in from..to {
        let at = second * 1_000;
        s.publish(at + 500, None, reading(at, second as f64));
        s.tick(at + 501);
    }
}

fn command(s: &mut Shard, command: Command) -> Applied {
    let stamp = s.machine.elapsed().0 as i64 + 1;
    s.apply(stamp, vec![command])
}

/// A shard that cut three batches, of which one is confirmed, and that goes on alone with a window open.
fn recovered() -> (Shard, Applied) {
    let mut s = Shard::new(rules());
    s.apply(1, vec![Command::Incarnation(OLD)]);
    seconds(&mut s, 0, 4);
    command(&mut s, Command::Confirmed { ledger: LEDGER, cursor: 1 });
    assert_eq!(s.machine.outbox_stats().last, 3);
    let slot = s.machine.slot() + 1;
    let succession = Succession { begins: BEGINS, members: vec![GatewayId(1)], incarnation: NEW };
    let applied = s.machine.succeed(slot, &succession).unwrap();
    s.batches.extend(applied.batches.iter().cloned());
    assert_eq!(s.machine.configuration(), Some(&Configuration::succeeding(&succession, slot)));
    assert!(s.machine.succeed(slot + 1, &succession).is_err(), "it begins a later configuration");
    (s, applied)
}

fn restored(s: &Shard) -> Machine {
    Machine::restore(SHARD, Default::default(), &s.machine.snapshot()).unwrap()
}

#[test]
fn what_was_counted_before_a_recovery_is_cut_and_held_back() {
    let (s, applied) = recovered();
    assert_eq!(applied.batches.iter().map(|b| b.seq).collect::<Vec<_>>(), [4], "the open window");
    let stats = s.machine.outbox_stats();
    let fence = stats.fence.unwrap();
    assert_eq!((fence.last, fence.through, stats.base), (3, 4, 0));
    assert_eq!(fence.next.generation, 101, "later than the shard's own, whatever the plan says");
    assert_eq!(s.machine.incarnation(), Some(OLD), "until the ledger has spoken");
    assert_eq!(restored(&s).outbox_stats(), stats);
}

#[test]
fn if_the_ledger_has_nothing_more_everything_is_sent_under_the_new_incarnation() {
    let (mut s, _) = recovered();
    // A confirmation that goes beyond the fence confirms nothing of what is behind it.
    command(&mut s, Command::Confirmed { ledger: LEDGER, cursor: 4 });
    assert_eq!(s.machine.outbox_stats().cursor, 1);
    command(&mut s, Command::Settled { ledger: LedgerId(9), last: 3, beyond: false });
    assert!(s.machine.outbox_stats().fence.is_some(), "another ledger's word counts for nothing");
    let applied = command(&mut s, Command::Settled { ledger: LEDGER, last: 3, beyond: false });
    assert!(applied.lost.is_empty());
    let stats = s.machine.outbox_stats();
    assert_eq!((stats.fence, stats.base, stats.cursor, stats.last), (None, 3, 3, 4));
    assert_eq!(s.machine.incarnation().map(|i| (i.generation, i.random)), Some((101, 2)));
    // Said twice, it changes nothing, though the ledger has more by now.
    let before = s.machine.outbox_stats();
    command(&mut s, Command::Settled { ledger: LEDGER, last: 3, beyond: true });
    assert_eq!(s.machine.outbox_stats(), before);
    assert_eq!(restored(&s).outbox_stats(), before);
    // A rebuilt database is sent nothing of the generation before.
    let stamp = s.machine.elapsed().0 as i64 + 1;
    s.item(stamp, Item::AdmitLedger { ledger: LedgerId(2) });
    assert_eq!(s.machine.outbox_stats().cursor, 3);
    assert_eq!(s.machine.configuration_number(), BEGINS);
}

#[test]
fn if_the_ledger_has_more_what_may_be_in_there_is_lost_and_later_readings_are_not() {
    let (mut s, _) = recovered();
    seconds(&mut s, 10, 13);
    let last = s.machine.outbox_stats().last;
    assert!(last > 4, "readings are counted all the while");
    let applied = command(&mut s, Command::Settled { ledger: LEDGER, last: 3, beyond: true });
    assert_eq!(applied.lost, [4]);
    let stats = s.machine.outbox_stats();
    assert_eq!((stats.base, stats.cursor, stats.last, stats.lost), (3, 3, last, 1));
    assert_eq!(s.machine.lost_batches().collect::<Vec<_>>(), [4]);
    assert_eq!(restored(&s).outbox_stats(), stats);
}
