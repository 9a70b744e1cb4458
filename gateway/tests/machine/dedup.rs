//! What is recognised as a resend, and what is not.

use crate::support::*;
use selvedge_gateway::logic::machine::*;
use selvedge_shared::ids::GatewayId;

fn shard() -> Shard {
    Shard::new(Rules::default())
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
    let items = vec![Item::Publish(Publish { source: None, readings: vec![numbered(7, None)] })];
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
    assert_eq!(put(&mut s, dup(1, 9)), Outcome::Duplicate);
    assert_eq!(put(&mut s, dup(1, 8)), COUNTED, "other bytes");
    assert_eq!(put(&mut s, dup(2, 9)), COUNTED, "another id");
    assert_eq!(put(&mut s, source(1, 1, 8 << 32)), COUNTED, "no resend: the id is used again");
    assert_eq!(put(&mut s, dup(1, 9)), COUNTED, "only the latest publish of an id is resent");
    for id in 1_000..1_000 + MAX_INFLIGHT_ENTRIES as u16 {
        assert_eq!(put(&mut s, source(1, id, 9 << 32)), COUNTED);
    }
    assert_eq!(put(&mut s, dup(2, 9)), COUNTED, "long ago");
    assert_eq!(put(&mut s, dup(1_100, 9)), Outcome::Duplicate);
}

#[test]
fn a_qos_2_packet_id_counts_once_until_it_is_released() {
    let mut s = shard();
    let release = |id| Item::Release(source(2, id, 0));
    assert_eq!(s.publish(1, Some(source(2, 5, 1)), reading(1_000, 1.0)), COUNTED);
    assert_eq!(s.publish(2, Some(source(2, 5, 1)), reading(1_000, 1.0)), Outcome::Duplicate);
    assert_eq!(s.item(3, release(5)), Outcome::Done);
    assert_eq!(s.item(3, release(5)), Outcome::Done, "again");
    assert_eq!(s.publish(4, Some(source(2, 5, 1)), reading(1_000, 1.0)), COUNTED, "free again");
    for id in 100..100 + MAX_UNRELEASED_ENTRIES as u16 - 1 {
        assert_eq!(s.publish(5, Some(source(2, id, 1)), reading(1_000, 1.0)), COUNTED);
    }
    let outcome = s.publish(6, Some(source(2, 9, 1)), reading(1_000, 1.0));
    assert!(matches!(&outcome, Outcome::Refused(why) if why.contains("PUBREL")), "{outcome:?}");
    assert_eq!(s.item(7, release(100)), Outcome::Done);
    assert_eq!(s.publish(8, Some(source(2, 9, 1)), reading(1_000, 1.0)), COUNTED);
}

#[test]
fn a_replaced_connection_is_stale_and_a_new_instance_forgets() {
    let mut s = shard();
    let of = |instance, epoch| Source { instance, epoch, ..source(2, 5, 1) };
    let put = |s: &mut Shard, source| s.publish(1, Some(source), reading(1_000, 1.0));
    assert_eq!(put(&mut s, of(1, 1)), COUNTED);
    assert_eq!(put(&mut s, of(1, 2)), Outcome::Duplicate, "the session goes on");
    assert_eq!(put(&mut s, of(1, 1)), Outcome::Stale);
    assert_eq!(s.item(2, Item::Release(of(1, 1))), Outcome::Stale);
    assert_eq!(put(&mut s, of(3, 3)), COUNTED, "a session made anew");
    assert_eq!(put(&mut s, of(1, 2)), Outcome::Stale);
}

#[test]
fn a_refused_publish_leaves_no_packet_id_behind() {
    let mut s = Shard::new(Rules { max_streams: 1, ..Rules::default() });
    let publish = |device: &str, qos| {
        let items = vec![Item::Publish(Publish {
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
        items: vec![Item::Publish(Publish { source: None, readings: vec![reading(1_000, 1.0)] })],
    };
    let mut put = |gateway, start, n| {
        let origin = Origin { gateway: GatewayId(gateway), start };
        s.apply(1, vec![forwarded(origin, n, &submission)]).verdicts.remove(0).2
    };
    let applied = Verdict::Applied(vec![COUNTED]);
    assert_eq!(put(1, 5, 2), Verdict::Gap { last: 0 });
    assert_eq!(put(1, 5, 1), applied);
    assert_eq!(put(1, 5, 1), Verdict::AlreadyApplied);
    assert_eq!(put(2, 1, 1), applied);
    assert_eq!(put(1, 5, 3), Verdict::Gap { last: 1 });
    assert_eq!(put(1, 5, 2), applied);
    assert_eq!(put(1, 6, 2), Verdict::Gap { last: 0 });
    assert_eq!(put(1, 5, 3), Verdict::OldStart, "the newer start was seen, though nothing of it applied");
    assert_eq!(put(1, 6, 1), applied);
    assert_eq!(put(1, 6, 0), Verdict::AlreadyApplied);
    assert_eq!(put(1, 6, u64::MAX), Verdict::Gap { last: 1 });
    assert_eq!(s.machine.origin(GatewayId(1)), Some((6, 1)));
}

#[test]
fn a_batch_that_does_not_decode_uses_up_its_number() {
    let mut s = shard();
    let origin = Origin { gateway: GatewayId(1), start: 1 };
    let bad = Command::Forwarded { origin, n: 1, submission: vec![9, 9].into() };
    let applied = s.apply(1, vec![bad]);
    assert_eq!(applied.verdicts, [(origin, 1, Verdict::Malformed)]);
    let next = s.apply(2, vec![forwarded(origin, 2, &Submission::default())]);
    assert_eq!(next.verdicts, [(origin, 2, Verdict::Applied(Vec::new()))]);
}
