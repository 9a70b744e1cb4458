//! Retiring streams, by command and by rule: what was counted stays counted, the room is free again, and
//! nothing counts twice.

use crate::support::*;
use selvedge_fabric::machine::*;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::StreamName;
use std::sync::Arc;

fn retire(s: &mut Shard, stamp: i64, device: &str, stream: Option<&str>) -> (u32, Applied) {
    let item = Item::Retire { device: device.into(), stream: stream.map(str::to_string) };
    let (outcomes, applied) = s.submit(stamp, &Submission { items: vec![item], ..Submission::default() });
    match outcomes[0] {
        ItemOutcome::Retired { streams } => (streams, applied),
        ref other => panic!("{other:?}"),
    }
}

fn put(s: &mut Shard, stamp: i64, of: StreamName, reading: Reading) -> ItemOutcome {
    let items = vec![Item::Publish(PublishItem { source: None, readings: vec![reading] })];
    s.submit(stamp, &Submission { streams: vec![of], items, ..Submission::default() }).0.remove(0)
}

fn restored(s: &Shard) -> Machine {
    Machine::restore(SHARD, Arc::new(CountingRules::default()), &s.machine.snapshot()).unwrap()
}

fn counted(s: &Shard, of: &StreamName) -> u64 {
    s.parts().iter().filter(|(n, _)| n == of).map(|(_, p)| p.aggregate.count).sum()
}

#[test]
fn what_was_counted_of_a_retired_stream_reaches_the_cloud_under_its_own_name() {
    let mut s = Shard::new(CountingRules { max_streams: 2, ..CountingRules::default() });
    for stream in ["a", "b"] {
        assert_eq!(put(&mut s, 1_000, name("d", stream), reading(1_000, 1.0)), COUNTED);
    }
    assert_eq!(retire(&mut s, 2_000, "d", Some("a")).0, 1);
    // Another stream gets the number at once, while parts of both are under way.
    assert_eq!(put(&mut s, 3_000, name("e", "c"), reading(1_000, 2.0)), COUNTED);
    assert_eq!(restored(&s).digest(), s.machine.digest());
    s.settle();
    let sums: Vec<_> =
        s.parts().iter().map(|(n, p)| (n.stream.clone(), p.aggregate.sum().unwrap())).collect();
    assert_eq!(sums, [("a".into(), 1.0), ("b".into(), 1.0), ("c".into(), 2.0)]);
    let (from, to) = (EpochMs(0), EpochMs(1_000_000));
    let all = Query { device: "*", stream: None, from, to, every_ms: None };
    let shown: Vec<_> = s.ask(&all, &Page::default()).windows.iter().map(|w| w.stream.to_string()).collect();
    assert_eq!(shown, ["b", "c"], "what is retired is not shown, and no other stream has its windows");
}

#[test]
fn retiring_is_done_once_however_often_it_is_asked_for() {
    let mut s = Shard::new(CountingRules::default());
    (0..3).for_each(|i| _ = put(&mut s, 1_000, name("d", &format!("s{i}")), reading(1_000, 1.0)));
    assert_eq!(retire(&mut s, 2_000, "d", Some("none")).0, 0);
    assert_eq!(retire(&mut s, 2_000, "none", None).0, 0);
    let (streams, applied) = retire(&mut s, 2_000, "d", None);
    assert_eq!((streams, applied.counters.retired, applied.counters.closed), (3, 3, 3));
    assert_eq!(retire(&mut s, 2_001, "d", None).0, 0);
    assert_eq!((s.machine.sizes().devices, s.machine.sizes().names_bytes), (0, 0));
    assert_eq!(s.machine.devices(None, 9), (vec![], false));
}

#[test]
fn a_reading_sent_again_after_its_stream_was_retired_does_not_count_again() {
    let mut s = Shard::new(CountingRules::default());
    let of = name("d", "s");
    for seq in [1, 2, 4] {
        assert_eq!(put(&mut s, 1_000, of.clone(), numbered(seq, Some(7))), COUNTED);
    }
    assert_eq!(retire(&mut s, 2_000, "d", None).0, 1);
    assert_eq!(s.machine.sizes().tombstones, 1);
    s.machine = restored(&s);
    for seq in [2, 4, 1] {
        put(&mut s, 3_000, of.clone(), numbered(seq, Some(7)));
    }
    assert_eq!(s.machine.sizes().streams, 0, "resends alone do not bring it back");
    // A reading that never arrived before makes the stream known again, with the sequence numbers that it
    // had.
    assert_eq!(put(&mut s, 4_000, of.clone(), numbered(3, Some(7))), COUNTED);
    assert_eq!((s.machine.sizes().streams, s.machine.sizes().tombstones), (1, 0));
    assert_eq!(put(&mut s, 4_000, of.clone(), numbered(5, Some(7))), COUNTED);
    for seq in [1, 2, 3, 4, 5] {
        put(&mut s, 5_000, of.clone(), numbered(seq, Some(7)));
    }
    s.settle();
    assert_eq!(counted(&s, &of), 5);
}

#[test]
fn an_operator_can_have_the_numbers_of_a_retired_stream_forgotten() {
    for named in [true, false] {
        let mut s = Shard::new(CountingRules::default());
        for device in ["d", "e"] {
            assert_eq!(put(&mut s, 1_000, name(device, "s"), numbered(5, None)), COUNTED);
            retire(&mut s, 2_000, device, None);
        }
        let stream = named.then(|| "s".to_string());
        assert_eq!(s.item(3_000, Item::ResetSequence { device: "d".into(), stream }), ItemOutcome::Done);
        assert_eq!(put(&mut s, 4_000, name("d", "s"), numbered(5, None)), COUNTED);
        put(&mut s, 4_000, name("e", "s"), numbered(5, None));
        assert_eq!(s.machine.devices(None, 9).0.len(), 1, "that of the other device is still known");
    }
}

#[test]
fn a_stream_without_numbers_leaves_nothing_and_counts_anew() {
    let mut s = Shard::new(CountingRules::default());
    assert_eq!(s.publish(1_000, None, reading(1_000, 1.0)), COUNTED);
    retire(&mut s, 2_000, "d", None);
    assert_eq!(s.machine.sizes().tombstones, 0);
    assert_eq!(s.publish(3_000, None, reading(1_000, 1.0)), COUNTED);
    s.settle();
    assert_eq!(counted(&s, &name("d", "s")), 2);
}

#[test]
fn a_batch_that_retires_a_stream_and_goes_on_with_it_makes_it_known_anew() {
    let mut s = Shard::new(CountingRules::default());
    let put = || Item::Reading(reading(1_000, 1.0));
    let items = vec![put(), Item::Retire { device: "d".into(), stream: None }, put()];
    let (outcomes, _) =
        s.submit(1_000, &Submission { streams: vec![name("d", "s")], makers: Vec::new(), items });
    assert_eq!(outcomes, [COUNTED, ItemOutcome::Retired { streams: 1 }, COUNTED]);
    assert_eq!(s.machine.sizes().streams, 1);
    s.settle();
    assert_eq!(counted(&s, &name("d", "s")), 2);
}

#[test]
fn tombstones_are_bounded_in_entries_and_time() {
    let mut s = Shard::new(CountingRules { max_streams: 1, ..CountingRules::default() });
    let mut forgotten = 0;
    for i in 0..MAX_TOMBSTONES_ENTRIES as i64 + 10 {
        let device = format!("d{i}");
        assert_eq!(put(&mut s, 1_000 + i, name(&device, "s"), numbered(1, None)), COUNTED);
        forgotten += retire(&mut s, 1_000 + i, &device, None).1.counters.tombstones_forgotten;
    }
    assert_eq!((s.machine.sizes().tombstones, forgotten), (MAX_TOMBSTONES_ENTRIES, 10));
    let before = s.machine.elapsed();
    s.settle();
    assert_eq!(s.machine.sizes().tombstones, 0);
    assert!(s.machine.elapsed() >= before.plus(TOMBSTONE_MS));
}

#[test]
fn streams_that_were_silent_for_as_long_as_their_rule_says_are_retired() {
    let o = Override { device: "keep*".into(), retire_idle_after_s: Some(0), ..Override::default() };
    let slow = Override { device: "slow*".into(), retire_idle_after_s: Some(600), ..Override::default() };
    let mut s = Shard::new(CountingRules {
        retire_idle_after_s: 60,
        streams: vec![o, slow],
        ..CountingRules::default()
    });
    for device in ["keep", "slow", "a", "b"] {
        assert_eq!(put(&mut s, 1_000, name(device, "s"), numbered(1, None)), COUNTED);
    }
    put(&mut s, 50_000, name("b", "s"), numbered(2, None));
    let left =
        |s: &Shard| s.machine.devices(None, 9).0.iter().map(|d| d.device.to_string()).collect::<Vec<_>>();
    s.tick(60_999);
    assert_eq!(left(&s), ["a", "b", "keep", "slow"]);
    s.machine = restored(&s);
    let applied = s.tick(61_000);
    assert_eq!(
        (applied.counters.retired_idle, left(&s)),
        (1, vec!["b".into(), "keep".into(), "slow".into()])
    );
    assert_eq!(s.machine.next_tick_due().map(|at| at.0 <= 110_000), Some(true));
    s.settle();
    assert_eq!(left(&s), ["keep"]);
    assert_eq!(s.parts().len(), 4);
}

#[test]
fn a_tick_retires_so_many_and_the_next_one_goes_on() {
    let mut s = Shard::new(CountingRules { retire_idle_after_s: 60, ..CountingRules::default() });
    for i in 0..MAX_TICK_RETIRED_ENTRIES + 5 {
        put(&mut s, 1_000, name(&format!("d{i}"), "s"), reading(1_000, 1.0));
    }
    assert_eq!(s.tick(100_000).counters.retired_idle, MAX_TICK_RETIRED_ENTRIES as u64);
    assert!(s.machine.next_tick_due().is_some_and(|at| at.0 <= 100_000));
    assert_eq!(s.tick(100_001).counters.retired_idle, 5);
}

#[test]
fn rules_that_change_retire_from_then_on() {
    let mut s = Shard::new(CountingRules::default());
    put(&mut s, 1_000, name("d", "s"), reading(1_000, 1.0));
    s.settle();
    assert_eq!(s.machine.sizes().streams, 1, "never, unless a rule says so");
    let stamp = s.machine.elapsed().0 as i64 + 1;
    let rules = CountingRules { retire_idle_after_s: 60, ..CountingRules::default() };
    s.apply(stamp, vec![Command::Rules(Box::new(rules))]);
    s.settle();
    assert_eq!(s.machine.sizes().streams, 0);
}
