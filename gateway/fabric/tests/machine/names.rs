//! Bounds of names: known streams go on, and no client takes the room of others.

use crate::support::*;
use selvedge_fabric::machine::*;
use selvedge_types::ids::GatewayId;
use selvedge_types::uplink::{LedgerId, StreamName};
use std::sync::Arc;

/// A publish of one reading for each name, each sent with its client.
fn publish(s: &mut Shard, client: &str, names: &[StreamName]) -> Judged {
    let readings = (0..names.len() as u32).map(|stream| Reading { stream, ..reading(1_000, 1.0) }).collect();
    let makers = (0..names.len() as u32).map(|stream| Maker { stream, client: client.into() }).collect();
    let items = vec![Item::Publish(PublishItem { source: None, readings })];
    match s.submit(1_000, &Submission { streams: names.to_vec(), makers, items }).0.remove(0) {
        ItemOutcome::Judged(judged) => judged,
        other => panic!("{other:?}"),
    }
}

fn many(device: &str, from: u32, count: u32) -> Vec<StreamName> {
    (from..from + count).map(|i| name(device, &format!("s{i}"))).collect()
}

fn reasons(judged: &Judged) -> Vec<Reason> {
    let mut reasons: Vec<_> = judged.set_aside.iter().map(|s| s.reason).collect();
    reasons.dedup();
    reasons
}

#[test]
fn known_streams_go_on_beside_a_new_one_that_is_not_let_in() {
    let mut s = Shard::new(CountingRules { max_streams: 2, ..CountingRules::default() });
    assert_eq!(publish(&mut s, "c", &many("d", 0, 2)).counted, 2);
    let judged = publish(&mut s, "c", &many("d", 0, 3));
    let set_aside = vec![SetAside { reading: 2, reason: Reason::StreamsFull }];
    assert_eq!(judged, Judged { counted: 2, recognised: 0, set_aside });
    assert_eq!(s.machine.devices(None, 1).0[0].refused, 1);
    // Once there is room, the same publish makes the stream known.
    s.item(2_000, Item::Retire { device: "d".into(), stream: Some("s0".into()) });
    assert_eq!(publish(&mut s, "c", &many("d", 1, 2)).counted, 2);
    let restored =
        Machine::restore(SHARD, Arc::new(CountingRules::default()), &s.machine.snapshot()).unwrap();
    assert_eq!(restored.digest(), s.machine.digest());
}

#[test]
fn one_client_leaves_room_for_the_others() {
    let mut s = Shard::new(CountingRules {
        max_streams: 100,
        max_streams_per_client: 10,
        ..CountingRules::default()
    });
    for i in 0..30 {
        let judged = publish(&mut s, "inventor", &many(&format!("d{i}"), i * 10, 10));
        assert_eq!(judged.counted, if i == 0 { 10 } else { 0 });
        assert!(i == 0 || reasons(&judged) == [Reason::NamesOfClientFull]);
    }
    for i in 0..9 {
        assert_eq!(publish(&mut s, &format!("c{i}"), &many(&format!("e{i}"), 0, 10)).counted, 10);
    }
    // Streams that were retired no longer count for their client.
    s.item(2_000, Item::Retire { device: "d0".into(), stream: None });
    assert_eq!(publish(&mut s, "inventor", &many("d", 0, 11)).counted, 10);
    // Using streams that another client made known takes no room. A further client is limited by the shard's
    // bound only.
    assert_eq!(publish(&mut s, "c0", &many("d", 0, 10)).counted, 10);
    assert_eq!(reasons(&publish(&mut s, "c99", &many("f", 0, 1))), [Reason::StreamsFull]);
}

#[test]
fn clients_are_told_apart_after_a_snapshot_too() {
    let rules = CountingRules { max_streams_per_client: 3, ..CountingRules::default() };
    let mut s = Shard::new(rules.clone());
    publish(&mut s, "a", &many("d", 0, 3));
    publish(&mut s, "b", &many("e", 0, 2));
    s.machine = Machine::restore(SHARD, Arc::new(rules), &s.machine.snapshot()).unwrap();
    assert_eq!(publish(&mut s, "a", &many("d", 3, 1)).counted, 0);
    assert_eq!(publish(&mut s, "b", &many("e", 2, 2)).counted, 1);
    let client = s.machine.streams("e")[0].client.clone();
    assert_eq!(client.as_deref(), Some("b"));
}

#[test]
fn one_device_leaves_room_for_the_others() {
    let mut s = Shard::new(CountingRules { max_streams_per_device: 5, ..CountingRules::default() });
    let judged = publish(&mut s, "c", &many("d", 0, 8));
    assert_eq!((judged.counted, reasons(&judged)), (5, vec![Reason::DeviceFull]));
    assert_eq!(publish(&mut s, "c", &many("e", 0, 5)).counted, 5);
}

#[test]
fn names_are_bounded_in_bytes() {
    let mut s = Shard::new(CountingRules { max_names_bytes: 2_048, ..CountingRules::default() });
    let long = |i: u32| vec![name(&format!("{i:0>200}"), "s")];
    let mut counted = [0; 2];
    for (client, counted) in ["a", "b"].into_iter().zip(&mut counted) {
        for i in 0..20 {
            let judged = publish(&mut s, client, &long(i + if client == "a" { 0 } else { 100 }));
            *counted += judged.counted;
            assert!(judged.counted == 1 || reasons(&judged) == [Reason::NamesOfClientFull]);
        }
    }
    assert_eq!(counted, [5, 5], "half of it for one client");
    assert_eq!(reasons(&publish(&mut s, "c", &long(200))), [Reason::NamesFull]);
    assert!(s.machine.sizes().names_bytes <= 2_048);
    // A stream name that several devices use counts once.
    let mut shared = Shard::new(CountingRules::default());
    (0..9).for_each(|i| _ = publish(&mut shared, "", &[name(&format!("d{i}"), "temperature")]));
    assert_eq!(shared.machine.sizes().names_bytes, 9 * 2 + 11);
}

#[test]
fn fullness_names_each_bound_and_warns_before_it_is_reached() {
    let mut s = Shard::new(CountingRules { max_streams: 10, ..CountingRules::default() });
    let near = |s: &Shard| {
        let all = s.machine.fullness();
        all.into_iter().filter(Fullness::is_near).map(|f| (f.rule, f.used, f.most)).collect::<Vec<_>>()
    };
    publish(&mut s, "c", &many("d", 0, 7));
    assert_eq!(near(&s), []);
    publish(&mut s, "c", &many("d", 7, 1));
    assert_eq!(near(&s), [("max_streams", 8, 10)]);
    let who =
        |rule| s.machine.fullness().into_iter().find(|f| f.rule == rule).map(|f| (f.who.unwrap(), f.used));
    assert_eq!(who("max_streams_per_device"), Some(("d".into(), 8)));
    assert_eq!(who("max_streams_per_client"), Some(("c".into(), 8)));
    assert!(s.machine.fullness().iter().all(|f| !f.advice().is_empty()));
}

#[test]
fn clients_of_streams_that_are_not_there_are_malformed() {
    let maker = |stream| Maker { stream, client: "c".into() };
    let long = Maker { stream: 0, client: "c".repeat(MAX_CLIENT_BYTES + 1) };
    for makers in [vec![maker(1)], vec![maker(0), maker(0)], vec![long]] {
        let submission = Submission { streams: vec![name("d", "s")], makers, items: Vec::new() };
        assert!(Submission::decode(&submission.encode()).is_err());
    }
}

/// The resident memory of this process, in bytes.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1_024
}

/// Measures the memory of a stream. `SELVEDGE_SHAPE` is 0 (invented keys, 1,000 for each device), 1 (ten
/// shared names for each device) or 2 (one stream for each device). `SELVEDGE_SILENT` closes their windows.
/// Each measurement needs a process of its own, because freed memory is not returned to the system:
/// `SELVEDGE_SHAPE=0 cargo test -p selvedge-fabric --test machine -- --ignored --nocapture
/// what_a_stream_costs`
#[test]
#[ignore = "prints what a stream costs, for those who set bounds"]
fn what_a_stream_costs() {
    const COUNT: u32 = 100_000;
    let most = COUNT + 1;
    let rules = CountingRules {
        max_streams: most,
        max_streams_per_device: most,
        max_streams_per_client: most,
        max_names_bytes: 64 * 1024 * 1024,
        max_open_parts: most,
        ..CountingRules::default()
    };
    let shape = std::env::var("SELVEDGE_SHAPE").unwrap_or_default();
    let silent = std::env::var_os("SELVEDGE_SILENT").is_some();
    let of = |i: u32| match shape.as_str() {
        "1" => name(&format!("device-{}", i / 10), &format!("sensor-{}", i % 10)),
        "2" => name(&format!("device-{i}"), "temperature"),
        _ => name(&format!("device-{}", i / 1_000), &format!("key-{i}")),
    };
    let (before, mut machine) = (resident_bytes(), Machine::new(SHARD, Arc::new(rules)));
    let first = machine.rules_command();
    machine.apply(1, &proposal(0, first.into_iter().collect())).unwrap();
    let origin = Origin { gateway: GatewayId(1), start: 1 };
    for n in 0..u64::from(COUNT) / 500 {
        let streams: Vec<_> = (0..500).map(|i| of(n as u32 * 500 + i)).collect();
        let maker = |(stream, n): (u32, &StreamName)| Maker { stream, client: n.device.clone() };
        let makers = (0..).zip(&streams).map(maker).collect();
        let put = |stream| Item::Reading(Reading { stream, seq: Some(1), ..reading(1_000, 1.0) });
        let submission = Submission { streams, makers, items: (0..500).map(put).collect() };
        let command = forwarded(origin, n + 1, &submission);
        let at = machine.elapsed().0 as i64;
        machine.apply(machine.slot() + 1, &proposal(at, vec![command])).unwrap();
        while let Some(due) = machine.next_tick_due().filter(|_| silent) {
            let cursor = machine.outbox_stats().last;
            let commands = vec![Command::Tick, Command::Confirmed { ledger: LedgerId(1), cursor }];
            machine.apply(machine.slot() + 1, &proposal(due.0 as i64, commands)).unwrap();
        }
    }
    assert_eq!(machine.sizes().streams, COUNT as usize);
    let bytes = (resident_bytes() - before) / u64::from(COUNT);
    println!(
        "shape {shape:?}, silent {silent}: {bytes} bytes a stream, {} stored",
        machine.snapshot().len() / COUNT as usize
    );
}
