//! Which publishes and readings are recognised as resends, and which are not.

use crate::support::*;
use selvedge_fabric::machine::*;
use selvedge_types::ids::GatewayId;

fn shard() -> Shard {
    Shard::new(CountingRules::default())
}

fn source(qos: u8, packet_id: u16, hash: u64) -> Source {
    Source { client: "c".into(), instance: 1, epoch: 1, packet_id, qos, dup: false, hash }
}

#[test]
fn a_sequence_number_counts_once_per_device_stream_and_boot() {
    let mut s = shard();
    assert_eq!(s.publish(1, None, numbered(7, None)), COUNTED);
    assert_eq!(s.publish(2, None, numbered(7, None)), RECOGNISED);
    assert_eq!(s.publish(3, None, numbered(7, Some(1))), COUNTED, "another boot");
    assert_eq!(s.publish(4, None, numbered(5, None)), COUNTED, "within the width below the first");
    let items = vec![Item::Publish(PublishItem { source: None, readings: vec![numbered(7, None)] })];
    let other = Submission { streams: vec![name("d", "other")], makers: Vec::new(), items };
    assert_eq!(s.submit(5, &other).0, [COUNTED], "another stream");
    assert_eq!(s.publish(6, None, numbered(9_000, None)), COUNTED);
    assert_eq!(s.publish(7, None, numbered(6, None)), aside(Reason::FarBehind));
    assert_eq!(s.publish(8, None, numbered(0, Some(u64::MAX))), COUNTED);
}

#[test]
fn equal_times_and_values_without_identity_all_count() {
    let mut s = shard();
    for stamp in 1..4 {
        assert_eq!(s.publish(stamp, None, reading(1_000, 5.0)), COUNTED);
    }
}

#[test]
fn a_qos_1_resend_is_known_by_dup_id_and_hash() {
    let mut s = shard();
    let mut at = 0;
    let mut put = |s: &mut Shard, source: Source| {
        at += 1;
        s.publish(at, Some(source), reading(1_000, 1.0))
    };
    let dup = |id, hash: u64| Source { dup: true, ..source(1, id, hash << 32) };
    assert_eq!(put(&mut s, source(1, 1, 9 << 32)), COUNTED);
    assert_eq!(put(&mut s, dup(1, 9)), ItemOutcome::Duplicate);
    assert_eq!(put(&mut s, dup(1, 8)), COUNTED, "other bytes");
    assert_eq!(put(&mut s, dup(2, 9)), COUNTED, "another id");
    assert_eq!(put(&mut s, source(1, 1, 8 << 32)), COUNTED, "no resend: the id is used again");
    assert_eq!(put(&mut s, dup(1, 9)), COUNTED, "only the latest publish of an id is resent");
}

#[test]
fn all_that_may_be_in_flight_is_known_when_it_is_resent() {
    let mut s = shard();
    let of = |id: u16, dup| Source { dup, ..source(1, id, u64::from(id) << 32) };
    // All ids but one, none of them acknowledged. Each submission has a thousand publishes.
    let send = |s: &mut Shard, stamp: i64, ids: std::ops::RangeInclusive<u16>, dup| {
        let item = |id| {
            Item::Publish(PublishItem { source: Some(of(id, dup)), readings: vec![reading(1_000, 1.0)] })
        };
        let items = ids.map(item).collect();
        s.submit(stamp, &Submission { streams: vec![name("d", "s")], makers: Vec::new(), items }).0
    };
    for first in (1..=60_001).step_by(1_000) {
        let outcomes = send(&mut s, 1, first..=first + 999, false);
        assert!(outcomes.iter().all(|o| *o == COUNTED));
    }
    // Days later. Only the ends are resent, because the shard searches for each among all.
    let later = 3 * 86_400_000;
    for ids in [1..=300, 30_000..=30_010, 60_990..=61_000] {
        assert!(send(&mut s, later, ids, true).iter().all(|o| *o == ItemOutcome::Duplicate));
    }
    assert_eq!(send(&mut s, later, 62_000..=62_000, true), [COUNTED], "that one never came");
    // The client goes on, so publishes older than half a minute are forgotten, except for the last few.
    assert_eq!(send(&mut s, later, 1..=1, true), [COUNTED]);
    let kept = 61_000 - KEPT_ENTRIES as u16 + 100;
    assert_eq!(send(&mut s, later, kept..=kept, true), [ItemOutcome::Duplicate]);
}

#[test]
fn a_packet_id_that_is_used_again_shows_that_all_before_it_was_acknowledged() {
    let mut s = shard();
    let of = |id: u16, hash: u64, dup| Source { dup, ..source(1, id, hash << 32) };
    let mut put = |source| s.publish(1, Some(source), reading(1_000, 1.0));
    for id in 1..=10 {
        assert_eq!(put(of(id, 1, false)), COUNTED);
    }
    assert_eq!(put(of(5, 2, false)), COUNTED);
    assert_eq!(put(of(6, 1, true)), ItemOutcome::Duplicate);
    assert_eq!(put(of(5, 2, true)), ItemOutcome::Duplicate);
    assert_eq!(put(of(4, 1, true)), COUNTED, "before the earlier 5, so it can't be a resend");
}

#[test]
fn a_wild_sequence_number_changes_nothing_and_an_operator_can_reset_them() {
    let mut s = shard();
    let leap = aside(Reason::LeapsAhead);
    assert_eq!(s.publish(1, None, numbered(u64::MAX, None)), leap);
    for n in 1..=5 {
        assert_eq!(s.publish(2, None, numbered(n, None)), COUNTED);
    }
    assert_eq!(s.publish(3, None, numbered(1 << 50, None)), leap);
    assert_eq!(s.publish(4, None, numbered(6, None)), COUNTED);
    for n in 5_000..5_003 {
        assert_eq!(s.publish(5, None, numbered(n, None)), COUNTED);
    }
    assert_eq!(s.publish(6, None, numbered(0, None)), aside(Reason::FarBehind), "it started again");
    let told = &s.machine.streams("d")[0].set_aside;
    assert_eq!(told, &[(Reason::FarBehind, 1), (Reason::LeapsAhead, 2)]);
    let reset = |device: &str, stream: Option<&str>| Item::ResetSequence {
        device: device.into(),
        stream: stream.map(str::to_string),
    };
    assert!(matches!(s.item(7, reset("d", Some("other"))), ItemOutcome::Refused(_)));
    assert!(matches!(s.item(7, reset("e", None)), ItemOutcome::Refused(_)));
    assert_eq!(s.item(7, reset("d", Some("s"))), ItemOutcome::Done);
    assert_eq!(s.publish(8, None, numbered(0, None)), COUNTED);
    s.settle();
    let parts = s.parts();
    let set_aside: u64 = parts.iter().map(|(_, p)| p.set_aside).sum();
    let mut spans = selvedge_types::sequences::Sequences::default();
    parts.iter().for_each(|(_, p)| spans.merge(&p.sequences));
    assert_eq!((set_aside, spans.missing()), (3, Some(4_993)), "7 to 4999, once each");
}

#[test]
fn a_counter_whose_width_is_told_may_wrap() {
    let width = Override { device: "d".into(), sequence_bits: Some(16), ..Override::default() };
    let mut s = Shard::new(CountingRules { streams: vec![width], ..CountingRules::default() });
    for n in [65_533, 65_534, 65_535, 0, 1, 2] {
        assert_eq!(s.publish(1, None, numbered(n, None)), COUNTED);
    }
    assert_eq!(s.publish(1, None, numbered(65_535, None)), RECOGNISED);
    let mut plain = shard();
    for (n, want) in [(65_534, COUNTED), (65_535, COUNTED), (0, aside(Reason::FarBehind))] {
        assert_eq!(plain.publish(1, None, numbered(n, None)), want);
    }
}

#[test]
fn known_streams_of_a_publish_count_beside_one_that_may_not_be_made() {
    let mut s = Shard::new(CountingRules { max_streams: 2, ..CountingRules::default() });
    let names = ["a", "b", "new"].map(|stream| name("d", stream));
    let of = |stream| Reading { stream, ..reading(1_000, 1.0) };
    let items =
        vec![Item::Publish(PublishItem { source: Some(source(2, 5, 1)), readings: vec![of(0), of(1)] })];
    s.submit(1, &Submission { streams: names.to_vec(), makers: Vec::new(), items });
    let readings = vec![of(2), of(0), of(1)];
    let items = vec![Item::Publish(PublishItem { source: Some(source(2, 6, 1)), readings })];
    let (outcomes, _) = s.submit(2, &Submission { streams: names.to_vec(), makers: Vec::new(), items });
    let set_aside = vec![SetAside { reading: 0, reason: Reason::StreamsFull }];
    assert_eq!(outcomes, [ItemOutcome::Judged(Judged { counted: 2, recognised: 0, set_aside })]);
}

#[test]
fn what_is_counted_anew_counts_once_however_often_it_is_ordered() {
    let mut s = shard();
    let publish = Quarantined {
        client: "c".into(),
        topic: "d/d/s".into(),
        payload: b"47".to_vec(),
        payload_bytes: 2,
        qos: 1,
        packet_id: 9,
        dup: false,
        at: selvedge_types::time::EpochMs(1_000),
        why: "no number".into(),
        counted: Vec::new(),
        recognised: 0,
        far_behind: 0,
    };
    assert_eq!(s.item(1, Item::Quarantine { epoch: 0, publish: Box::new(publish) }), ItemOutcome::Done);
    let (list, more) = s.machine.quarantine(Some("c"), 0, 1_000);
    assert_eq!((list.len(), list[0].0, list[0].1.attempt, more), (1, 1, 0, false));
    let readmit = |attempt| Submission {
        streams: vec![name("d", "s")],
        makers: Vec::new(),
        items: vec![Item::Readmit(Readmit {
            shard: 3,
            id: 1,
            attempt,
            readings: vec![reading(1_000, 47.0)],
        })],
    };
    assert_eq!(s.submit(2, &readmit(0)).0, [COUNTED]);
    let (again, applied) = s.submit(3, &readmit(0));
    assert_eq!((again, applied.counters.counted), (vec![COUNTED], 0), "told the same, counted no more");
    let done = |attempt| Item::Readmitted { id: 1, attempt, counted: Vec::new(), far_behind: 0, done: true };
    assert!(matches!(s.item(4, done(1)), ItemOutcome::Refused(_)));
    assert_eq!(s.item(4, done(0)), ItemOutcome::Done);
    assert_eq!(s.machine.quarantine_stats().entries, 0);
    let restored = Machine::restore(SHARD, Default::default(), &s.machine.snapshot()).unwrap();
    assert_eq!(restored.snapshot(), s.machine.snapshot());
}

#[test]
fn a_qos_2_packet_id_counts_once_until_it_is_released() {
    let mut s = shard();
    let release = |id| Item::Release(source(2, id, 0));
    assert_eq!(s.publish(1, Some(source(2, 5, 1)), reading(1_000, 1.0)), COUNTED);
    assert_eq!(s.publish(2, Some(source(2, 5, 1)), reading(1_000, 1.0)), ItemOutcome::Duplicate);
    assert_eq!(s.item(3, release(5)), ItemOutcome::Done);
    assert_eq!(s.item(3, release(5)), ItemOutcome::Done, "again");
    assert_eq!(s.publish(4, Some(source(2, 5, 1)), reading(1_000, 1.0)), COUNTED, "free again");
    for id in 100..100 + MAX_UNRELEASED_ENTRIES as u16 - 1 {
        assert_eq!(s.publish(5, Some(source(2, id, 1)), reading(1_000, 1.0)), COUNTED);
    }
    let outcome = s.publish(6, Some(source(2, 9, 1)), reading(1_000, 1.0));
    assert!(matches!(&outcome, ItemOutcome::Refused(why) if why.contains("PUBREL")), "{outcome:?}");
    assert_eq!(s.item(7, release(100)), ItemOutcome::Done);
    assert_eq!(s.publish(8, Some(source(2, 9, 1)), reading(1_000, 1.0)), COUNTED);
}

#[test]
fn a_replaced_connection_is_stale_and_a_new_instance_forgets() {
    let mut s = shard();
    let of = |instance, epoch| Source { instance, epoch, ..source(2, 5, 1) };
    let put = |s: &mut Shard, source| s.publish(1, Some(source), reading(1_000, 1.0));
    assert_eq!(put(&mut s, of(1, 1)), COUNTED);
    assert_eq!(put(&mut s, of(1, 2)), ItemOutcome::Duplicate, "the session goes on");
    assert_eq!(put(&mut s, of(1, 1)), ItemOutcome::Stale);
    assert_eq!(s.item(2, Item::Release(of(1, 1))), ItemOutcome::Stale);
    assert_eq!(put(&mut s, of(3, 3)), COUNTED, "a session made anew");
    assert_eq!(put(&mut s, of(1, 2)), ItemOutcome::Stale);
}

#[test]
fn a_refused_publish_leaves_no_packet_id_behind() {
    let mut s = Shard::new(CountingRules { max_streams: 1, ..CountingRules::default() });
    let publish = |device: &str, qos| {
        let items = vec![Item::Publish(PublishItem {
            source: Some(source(qos, 5, 1)),
            readings: vec![reading(1_000, 1.0)],
        })];
        Submission { streams: vec![name(device, "s")], makers: Vec::new(), items }
    };
    assert_eq!(s.submit(1, &publish("a", 1)).0, [COUNTED]);
    for _ in 0..2 {
        assert_eq!(s.submit(2, &publish("b", 2)).0, [aside(Reason::StreamsFull)], "never taken for applied");
    }
    assert_eq!(s.submit(3, &publish("a", 2)).0, [COUNTED]);
}

#[test]
fn forwarded_batches_apply_once_in_order_per_start() {
    let mut s = shard();
    let submission = Submission {
        streams: vec![name("d", "s")],
        makers: Vec::new(),
        items: vec![Item::Publish(PublishItem { source: None, readings: vec![reading(1_000, 1.0)] })],
    };
    let mut put = |gateway, start, n| {
        let origin = Origin { gateway: GatewayId(gateway), start };
        s.apply(1, vec![forwarded(origin, n, &submission)]).verdicts.remove(0).2
    };
    let applied = BatchVerdict::Applied([COUNTED].into_iter().collect());
    assert_eq!(put(1, 5, 2), BatchVerdict::Gap { last: 0 });
    assert_eq!(put(1, 5, 1), applied);
    assert_eq!(put(1, 5, 1), BatchVerdict::AlreadyApplied);
    assert_eq!(put(2, 1, 1), applied);
    assert_eq!(put(1, 5, 3), BatchVerdict::Gap { last: 1 });
    assert_eq!(put(1, 5, 2), applied);
    assert_eq!(put(1, 6, 2), BatchVerdict::Gap { last: 0 });
    assert_eq!(
        put(1, 5, 3),
        BatchVerdict::OldStart,
        "the newer start was seen, though nothing of it applied"
    );
    assert_eq!(put(1, 6, 1), applied);
    assert_eq!(put(1, 6, 0), BatchVerdict::AlreadyApplied);
    assert_eq!(put(1, 6, u64::MAX), BatchVerdict::Gap { last: 1 });
    assert_eq!(s.machine.origin(GatewayId(1)), Some((6, 1)));
}

#[test]
fn a_batch_that_does_not_decode_uses_up_its_number() {
    let mut s = shard();
    let origin = Origin { gateway: GatewayId(1), start: 1 };
    let bad = Command::Forwarded { origin, n: 1, submission: vec![9, 9].into() };
    let applied = s.apply(1, vec![bad]);
    assert_eq!(applied.verdicts, [(origin, 1, BatchVerdict::Malformed)]);
    let next = s.apply(2, vec![forwarded(origin, 2, &Submission::default())]);
    assert_eq!(next.verdicts, [(origin, 2, BatchVerdict::Applied(ItemOutcomes::default()))]);
}
