//! Nothing from outside makes a machine panic, halt or grow without bound.

use crate::support::*;
use selvedge_fabric::machine::*;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::{EARLIEST_NOW, ElapsedMs, EpochMs, LATEST_NOW, TIME_RANGE};
use selvedge_types::uplink::{LedgerId, SiteIncarnation};
use std::sync::Arc;

#[test]
fn the_open_parts_of_a_stream_are_bounded_and_every_reading_is_still_counted() {
    let mut s = Shard::new(CountingRules {
        windows_ms: vec![1_000],
        max_future_s: u32::MAX,
        ..CountingRules::default()
    });
    let most = MAX_OPEN_WINDOWS_ENTRIES as i64;
    for i in 0..most + 50 {
        // All are far ahead, so that no watermark closes them, and come from the latest to the earliest.
        s.publish(1, None, reading(10_000_000_000 - i * 1_000, 1.0));
    }
    assert_eq!(s.machine.sizes().open_parts, MAX_OPEN_WINDOWS_ENTRIES);
    s.settle();
    assert_eq!(s.parts().iter().map(|(_, p)| p.aggregate.count).sum::<u64>(), most as u64 + 50);
}

#[test]
fn the_open_parts_of_a_shard_are_bounded() {
    let mut s = Shard::new(CountingRules { max_open_parts: 8, ..CountingRules::default() });
    for i in 0..20 {
        let items = vec![Item::Publish(PublishItem { source: None, readings: vec![reading(1_000, 1.0)] })];
        s.submit(i, &Submission { streams: vec![name(&format!("d{i}"), "s")], makers: Vec::new(), items });
        assert!(s.machine.sizes().open_parts <= 8);
    }
    s.settle();
    let devices: Vec<_> = s.parts().iter().map(|(n, _)| n.device.clone()).collect();
    assert_eq!(devices, (0..20).map(|i| format!("d{i}")).collect::<Vec<_>>(), "silent for longest first");
}

#[test]
fn a_snapshot_that_claims_the_world_is_refused_before_room_is_made_for_it() {
    let form = bincode::config::standard();
    let whole = Machine::new(SHARD, Arc::new(CountingRules::default())).snapshot();
    let mut rules = bincode::encode_to_vec(CountingRules::default(), form).unwrap();
    assert_eq!(rules.pop(), Some(0), "no overrides");
    let trust = (None::<(ElapsedMs, EpochMs)>, None::<ElapsedMs>);
    let clocks = (ElapsedMs(0), EpochMs(0), false, None::<(ElapsedMs, EpochMs)>, trust);
    let head = bincode::encode_to_vec((SHARD, 0u64, 1u32, None::<SiteIncarnation>, clocks), form).unwrap();
    let overrides = bincode::encode_to_vec(1_000_000u64, form).unwrap();
    let mut bytes = [&whole[..1], &head, &rules, &overrides].concat();
    bytes.extend(xxhash_rust::xxh3::xxh3_64(&bytes).to_le_bytes());
    let refused = Machine::restore(SHARD, Arc::new(CountingRules::default()), &bytes).unwrap_err();
    assert!(refused.to_string().contains("LimitExceeded"), "{refused}");
}

#[test]
fn a_leader_s_clock_at_the_end_of_numbers_stops_neither_bounds_nor_idle_streams() {
    for at in [i64::MAX, i64::MAX - 1, (1 << 62) + 1] {
        let mut s = Shard::new(CountingRules { max_open_parts: 8, ..CountingRules::default() });
        for i in 0..20 {
            let readings = vec![Reading { time: None, ..reading(0, 1.0) }];
            let items = vec![Item::Publish(PublishItem { source: None, readings })];
            let streams = vec![name(&format!("d{i}"), "s")];
            s.submit(at, &Submission { streams, makers: Vec::new(), items });
            assert!(s.machine.sizes().open_parts <= 8, "{} open at {at}", s.machine.sizes().open_parts);
        }
        assert_eq!(s.machine.elapsed(), ElapsedMs(1 << 62), "no time goes beyond");
        assert!(s.machine.next_tick_due().is_some_and(|due| due.0 < u64::MAX), "what is open has its time");
        let again =
            Machine::restore(SHARD, Arc::new(CountingRules::default()), &s.machine.snapshot()).unwrap();
        assert_eq!(again.digest(), s.machine.digest());
    }
}

#[test]
fn what_can_not_be_counted_is_set_aside_and_changes_nothing() {
    let mut s = Shard::new(CountingRules::default());
    let unsound = |outcome: ItemOutcome| match outcome {
        ItemOutcome::Judged(judged) => {
            judged.set_aside.iter().all(|s| s.reason == Reason::Unsound).then_some(judged)
        }
        _ => None,
    };
    let alone = |outcome| unsound(outcome).is_some_and(|j| !j.is_kept() && j.set_aside.len() == 1);
    for value in [f64::NAN, f64::INFINITY] {
        assert!(alone(s.publish(1, None, reading(1, value))));
    }
    for time in [i64::MIN, TIME_RANGE.start() - 1, TIME_RANGE.end() + 1, i64::MAX] {
        assert!(alone(s.publish(1, None, reading(time, 1.0))));
    }
    for bad in [name("", "s"), name("d", ""), name(&"x".repeat(257), "s")] {
        let items = vec![Item::Publish(PublishItem { source: None, readings: vec![reading(1, 1.0)] })];
        let submission = Submission { streams: vec![bad], makers: Vec::new(), items };
        assert!(alone(s.submit(1, &submission).0.remove(0)));
    }
    assert_eq!((s.machine.sizes().open_parts, s.machine.sizes().streams), (0, 0));
    // The other reading of such a publish counts.
    let readings = vec![reading(1, 1.0), reading(1, f64::NAN)];
    let items = vec![Item::Publish(PublishItem { source: None, readings })];
    let submission = Submission { streams: vec![name("d", "s")], makers: Vec::new(), items };
    let judged = unsound(s.submit(1, &submission).0.remove(0)).unwrap();
    assert_eq!((judged.counted, judged.set_aside[0].reading), (1, 1));
}

#[test]
fn the_ends_of_time_and_huge_values_are_counted() {
    // The widest range that the rules allow. No majority ever agreed on the time, so it is between 2025 and
    // 2075.
    let wide = CountingRules { max_past_s: u32::MAX, max_future_s: u32::MAX, ..CountingRules::default() };
    let (first, last) =
        (EARLIEST_NOW.0 - i64::from(u32::MAX) * 1_000, LATEST_NOW.0 + i64::from(u32::MAX) * 1_000);
    let mut s = Shard { sure: false, ..Shard::fresh(wide.clone()) };
    let rules = s.machine.rules_command().unwrap();
    s.apply(0, vec![rules]);
    for (time, value) in [(first, f64::MAX), (last, f64::MIN), (0, f64::MAX), (0, f64::MAX)] {
        assert_eq!(s.publish(*TIME_RANGE.end(), None, reading(time, value)), COUNTED);
    }
    s.publish(*TIME_RANGE.end(), None, reading(0, f64::MIN));
    s.publish(*TIME_RANGE.end() + 1, None, Reading { time: None, ..reading(0, 1.0) });
    let restored = Machine::restore(SHARD, Arc::new(wide), &s.machine.snapshot()).unwrap();
    assert_eq!(restored.snapshot(), s.machine.snapshot());
    s.settle();
    assert_eq!(s.machine.sizes().open_parts, 0);
    assert_eq!(
        s.publish(i64::MAX, None, reading(1, 1.0)),
        COUNTED,
        "a clock gone mad harms no more than that"
    );
    s.tick(i64::MAX);
}

#[test]
fn confirmations_of_what_was_never_cut_or_long_confirmed_are_ignored() {
    let rules = CountingRules {
        windows_ms: vec![1_000],
        cut_after_ms: 0,
        recent_bytes: 0,
        ..CountingRules::default()
    };
    let mut s = Shard::new(rules);
    for i in 0..3 {
        s.publish(i * 100_000, None, reading(i * 100_000, 1.0));
        s.settle();
    }
    let mut confirm =
        |cursor| s.apply(400_000, vec![Command::Confirmed { ledger: LedgerId(1), cursor }]).released;
    assert_eq!(
        [confirm(4), confirm(u64::MAX), confirm(0), confirm(2), confirm(1), confirm(2)]
            .iter()
            .flatten()
            .count(),
        1
    );
    let stats = s.machine.outbox_stats();
    assert_eq!(
        (stats.cursor, stats.last, stats.batches, stats.bytes),
        (2, 3, 1, s.batches[2].bytes.len() as u64)
    );
    assert_eq!(s.machine.batch_record(2), None);
    assert_eq!(s.machine.batch_record(3).unwrap().parts, 1);
    assert_eq!(s.machine.batch_record(4), None);
}

#[test]
fn a_long_time_offline_makes_few_batches() {
    let mut s = Shard::new(CountingRules { windows_ms: vec![1_000], ..CountingRules::default() });
    let mut now = 1_000_000;
    for _ in 0..7_200 {
        now += 500;
        s.publish(now, None, reading(now, 1.0));
        if s.machine.next_tick_due().is_some_and(|due| due.0 as i64 <= now) {
            s.tick(now);
        }
    }
    assert!(s.batches.len() < 160, "{} batches in an hour", s.batches.len());
    assert!(s.batches.len() > 60);
}

#[test]
fn full_batches_are_cut_at_once() {
    let mut s = Shard::new(CountingRules {
        windows_ms: vec![1_000],
        allowed_lateness_ms: 0,
        ..CountingRules::default()
    });
    let readings = (0..8_000).map(|i| reading(i * 1_000, 0.1 * i as f64)).collect();
    let items = vec![Item::Publish(PublishItem { source: None, readings })];
    let (_, applied) =
        s.submit(10_000_000, &Submission { streams: vec![name("d", "s")], makers: Vec::new(), items });
    assert!(applied.batches.len() >= 4);
    for batch in &applied.batches {
        assert!(batch.bytes.len() > 65_000, "{}", batch.bytes.len());
    }
}

#[test]
fn client_tables_are_bounded_and_the_one_unheard_of_for_longest_goes() {
    let mut s = Shard::new(CountingRules { max_clients: 2, ..CountingRules::default() });
    let source = |client: &str| Source {
        client: client.into(),
        instance: 1,
        epoch: 1,
        packet_id: 1,
        qos: 2,
        dup: false,
        hash: 0,
    };
    let mut put = |client| s.publish(1, Some(source(client)), reading(1_000, 1.0));
    assert_eq!([put("a"), put("b")], [COUNTED, COUNTED]);
    assert_eq!(put("a"), ItemOutcome::Duplicate);
    assert_eq!(put("c"), COUNTED);
    assert_eq!(put("a"), ItemOutcome::Duplicate, "used after b");
    assert_eq!(put("b"), COUNTED, "forgotten");
    assert_eq!(s.machine.sizes().clients, 2);
}

#[test]
fn sessions_and_subscriptions_are_bounded() {
    let mut s = Shard::new(CountingRules {
        max_sessions: 2,
        max_subscriptions: 2,
        session_expiry_cap_s: 10,
        ..CountingRules::default()
    });
    let connect = |client: &str, clean| {
        let at = Origin { gateway: GatewayId(1), start: 1 };
        Item::Connect(ConnectItem {
            client: client.into(),
            at,
            connection: 1 + u64::from(clean),
            clean,
            expiry_s: u32::MAX,
            will: None,
        })
    };
    let epoch = |outcome| match outcome {
        ItemOutcome::Connected(c) => c.epoch,
        other => panic!("{other:?}"),
    };
    let a = epoch(s.item(1, connect("a", false)));
    let b = epoch(s.item(1, connect("b", false)));
    let full = s.item(1, connect("c", false));
    assert!(matches!(full, ItemOutcome::Refused(why) if why.contains("max_sessions is 2")));
    assert_eq!(
        s.item(
            2,
            Item::Disconnect(DisconnectItem {
                client: "a".into(),
                epoch: a,
                at: Origin { gateway: GatewayId(1), start: 1 },
                with_will: true,
                expiry_s: None,
            })
        ),
        ItemOutcome::Done
    );
    assert_eq!(s.machine.next_tick_due(), Some(ElapsedMs(10_002)), "for ever is capped");
    let c = epoch(s.item(3, connect("c", false)));
    assert!(c > b && s.machine.sizes().sessions == 2, "the session that nobody used went");
    let filters = |n: usize| (0..n).map(|i| (format!("f/{i}"), 1)).collect();
    let add = |client: &str, epoch, n| Item::Subscriptions {
        client: client.into(),
        epoch,
        add: filters(n),
        remove: vec![],
    };
    assert_eq!(s.item(4, add("b", b, 2)), ItemOutcome::Done);
    assert_eq!(s.item(4, add("b", b, 2)), ItemOutcome::Done, "the same ones again");
    assert_eq!(s.item(5, add("c", c, 1)), ItemOutcome::Subscribed { refused: vec![0] });
    assert_eq!(
        s.item(5, add("b", b, 4)),
        ItemOutcome::Subscribed { refused: vec![2, 3] },
        "the others are held"
    );
    epoch(s.item(6, connect("b", true)));
    assert_eq!(s.item(7, add("c", c, 2)), ItemOutcome::Done, "a clean connection discards");
    for client in ["", &"x".repeat(MAX_CLIENT_BYTES + 1)] {
        assert!(matches!(s.item(8, connect(client, false)), ItemOutcome::Refused(_)));
    }
    let long = vec![("f/0".to_string(), 0), ("f".repeat(MAX_FILTER_BYTES + 1), 1), (String::new(), 1)];
    let item = Item::Subscriptions { client: "c".into(), epoch: c, add: long, remove: vec![] };
    assert_eq!(s.item(9, item), ItemOutcome::Subscribed { refused: vec![1, 2] });
}

#[test]
fn wills_are_bounded_in_bytes() {
    let mut s = Shard::new(CountingRules::default());
    let connect = |client: &str, connection, bytes: usize| {
        let at = Origin { gateway: GatewayId(1), start: 1 };
        let will = SessionWill { topic: "w".into(), payload: vec![0; bytes], qos: 0, delay_s: 0 };
        let (client, will) = (client.to_string(), Some(Box::new(will)));
        Item::Connect(ConnectItem { client, at, connection, clean: true, expiry_s: 0, will })
    };
    assert!(matches!(s.item(1, connect("a", 1, MAX_WILL_BYTES)), ItemOutcome::Refused(_)));
    let most = MAX_WILL_BYTES - 65;
    let fit = (0..)
        .take_while(|i| matches!(s.item(1, connect(&format!("c{i}"), 1, most)), ItemOutcome::Connected(_)));
    assert_eq!(fit.count(), MAX_WILLS_BYTES / MAX_WILL_BYTES);
    // A takeover frees as many bytes as it brings, but the will of the earlier connection counts until it is
    // published.
    assert!(matches!(s.item(2, connect("c0", 2, most)), ItemOutcome::Connected(c) if c.will.is_some()));
    assert!(matches!(s.item(2, connect("c1", 2, most)), ItemOutcome::Refused(_)));
    let at = Origin { gateway: GatewayId(1), start: 1 };
    assert_eq!(s.item(3, Item::WillDone { client: "c0".into(), epoch: 1, at }), ItemOutcome::Done);
    assert!(matches!(s.item(4, connect("c1", 2, most)), ItemOutcome::Connected(_)));
}

#[test]
fn a_will_that_two_gateways_publish_counts_once() {
    let mut s = Shard::new(CountingRules::default());
    let will = || Source {
        client: "pump".into(),
        instance: 3,
        epoch: 5,
        packet_id: 0,
        qos: 1,
        dup: true,
        hash: 9 << 32,
    };
    assert_eq!(s.publish(1, Some(will()), reading(1_000, 0.0)), COUNTED);
    assert_eq!(s.publish(2, Some(will()), reading(1_000, 0.0)), ItemOutcome::Duplicate);
    let next = Source { epoch: 6, hash: 10 << 32, ..will() };
    assert_eq!(s.publish(3, Some(next), reading(1_000, 0.0)), COUNTED, "the will of the next connection");
    assert_eq!(s.publish(4, Some(will()), reading(1_000, 0.0)), ItemOutcome::Stale);
    // The wills do not displace the publishes that the client may still send again.
    let of = |epoch, packet_id, dup| Source { epoch, packet_id, dup, hash: 7 << 32, ..will() };
    assert_eq!(s.publish(5, Some(of(6, 9, false)), reading(1_000, 0.0)), COUNTED);
    let third = Source { epoch: 6, hash: 11 << 32, ..will() };
    assert_eq!(s.publish(6, Some(third), reading(1_000, 0.0)), COUNTED);
    assert_eq!(s.publish(7, Some(of(7, 9, true)), reading(1_000, 0.0)), ItemOutcome::Duplicate);
}

#[test]
fn a_connect_asked_again_is_told_the_same_and_evicts_nobody() {
    let mut s = Shard::new(CountingRules::default());
    let at = Origin { gateway: GatewayId(1), start: 1 };
    let connect = |connection| {
        Item::Connect(ConnectItem {
            client: "a".into(),
            at,
            connection,
            clean: false,
            expiry_s: 60,
            will: None,
        })
    };
    let first = s.item(1, connect(1));
    assert!(matches!(&first, ItemOutcome::Connected(c) if !c.present));
    assert_eq!(s.item(2, connect(1)), first, "also that no session was present");
    let ItemOutcome::Connected(second) = s.item(3, connect(2)) else { panic!("not connected") };
    assert!(second.present && second.epoch == 2);
}

#[test]
fn a_session_without_expiry_is_not_resumed_though_its_end_is_not_known_yet() {
    let mut s = Shard::new(CountingRules::default());
    let at = Origin { gateway: GatewayId(1), start: 1 };
    let mut connect = |connection, clean, expiry_s| {
        let client = "a".into();
        match s.item(1, Item::Connect(ConnectItem { client, at, connection, clean, expiry_s, will: None })) {
            ItemOutcome::Connected(c) => (c.present, c.instance == c.epoch),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(connect(1, true, 0), (false, true));
    assert_eq!(connect(2, false, 60), (false, true), "what the first one left is not stored");
    assert_eq!(connect(3, false, 0), (true, false));
    assert_eq!(connect(4, false, 60), (false, true), "version 5 may resume a session for the last time");
}

#[test]
fn a_slot_out_of_order_halts() {
    let mut machine = Machine::new(SHARD, Arc::new(CountingRules::default()));
    let halt = machine.apply(2, &<Proposal>::default()).unwrap_err();
    assert_eq!(halt, Halt::Slot { shard: SHARD, expected: 1, found: 2 });
    machine.apply(1, &<Proposal>::default()).unwrap();
    assert!(machine.apply(1, &<Proposal>::default()).is_err());
}

#[test]
fn no_damaged_snapshot_restores() {
    let mut s = Shard::new(CountingRules::default());
    s.publish(1, None, numbered(1, Some(2)));
    s.publish(1, None, numbered(9, Some(2)));
    let whole = s.machine.snapshot();
    let restore = |bytes: &[u8]| Machine::restore(SHARD, Arc::new(CountingRules::default()), bytes);
    for cut in 0..whole.len() {
        assert!(restore(&whole[..cut]).is_err());
    }
    let other = Machine::restore(ShardId(4), Arc::new(CountingRules::default()), &whole).unwrap_err();
    assert!(matches!(other, RestoreError::Shard { .. }));
    // A valid checksum over invalid content gives an error or some machine, and never a panic, even when it
    // goes on.
    let mut random = fastrand::Rng::with_seed(5);
    for _ in 0..20_000 {
        let mut body = whole[..whole.len() - 8].to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(1..body.len());
            body[at] = random.u8(..);
        }
        let digest = xxhash_rust::xxh3::xxh3_64(&body);
        body.extend(digest.to_le_bytes());
        let Ok(mut machine) = restore(&body) else { continue };
        let origin = Origin { gateway: GatewayId(8), start: u64::MAX };
        let items = vec![Item::Publish(PublishItem { source: None, readings: vec![numbered(5, Some(2))] })];
        let submission = Submission { streams: vec![name("d", "s")], makers: Vec::new(), items };
        let commands = vec![forwarded(origin, 1, &submission), Command::Tick];
        let slot = machine.slot().saturating_add(1);
        let _ = machine.apply(slot, &proposal(100_000, commands));
        let (from, to) = (EpochMs(0), EpochMs(i64::MAX));
        let all = Query { device: "*", stream: None, from, to, every_ms: None };
        machine.scan(&all, &Page::default()).finish();
    }
}

#[test]
fn what_was_refused_is_still_known_as_refused_after_a_snapshot_but_not_for_ever() {
    let mut s = Shard::new(CountingRules { max_streams: 1, ..CountingRules::default() });
    let origin = Origin { gateway: GatewayId(9), start: 1 };
    let publish = |stream: &str| Submission {
        streams: vec![name("d", stream)],
        makers: Vec::new(),
        items: vec![Item::Publish(PublishItem { source: None, readings: vec![reading(1_000, 1.0)] })],
    };
    s.submit(1_000, &publish("a"));
    let (outcomes, _) = s.submit(1_000, &publish("b"));
    assert!(matches!(&outcomes[0], ItemOutcome::Judged(j) if j.set_aside[0].reason == Reason::StreamsFull));
    let slot = s.machine.slot();
    let mut restored = Machine::restore(SHARD, Default::default(), &s.machine.snapshot()).unwrap();
    let again = proposal(1_001, vec![forwarded(origin, 2, &publish("b"))]);
    let applied = restored.apply(slot + 1, &again).unwrap();
    assert_eq!(applied.verdicts, [(origin, 2, BatchVerdict::AlreadyApplied)]);
    assert_eq!(
        restored.verdict(origin, 2),
        Some((slot, &BatchVerdict::Applied(outcomes.into_iter().collect())))
    );
    assert_eq!(restored.verdict(origin, 1), None, "that all was done need not be remembered");
    // A gateway only ever asks about its last few batches.
    (0..4).for_each(|_| _ = s.submit(1_000, &publish("a")));
    assert_eq!(s.machine.verdict(origin, 2), None);
}
