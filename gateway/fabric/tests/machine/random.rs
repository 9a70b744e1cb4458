//! Pseudo-random runs: every reading is in exactly one part, and every replica has the same state.

use crate::support::*;
use selvedge_fabric::machine::*;
use selvedge_types::aggregate::fingerprint;
use selvedge_types::ids::GatewayId;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::LedgerId;
use std::collections::BTreeMap;

/// The expected content of a window, computed in the simplest way.
#[derive(Debug, Default, PartialEq)]
struct Sum {
    count: u64,
    sum: f64,
    fingerprint: u64,
    first: Option<i64>,
    last: Option<i64>,
}

const NOW: i64 = 1_700_000_000_000;

fn some_rules(random: &mut fastrand::Rng) -> CountingRules {
    let windows_ms = [vec![1_000], vec![10_000, 60_000], vec![60_000, 5_000, 86_400_000]];
    CountingRules {
        windows_ms: windows_ms[random.usize(..windows_ms.len())].clone(),
        allowed_lateness_ms: random.u32(0..20_000),
        idle_close_ms: random.u32(100..30_000),
        late_flush_ms: random.u32(100..10_000),
        cut_after_ms: random.u32(0..3_000),
        max_open_parts: random.u32(8..200),
        recent_bytes: random.u32(0..20_000),
        max_clients: random.u32(1..6),
        max_sessions: random.u32(1..6),
        max_streams: random.u32(5..60),
        max_streams_per_device: random.u32(2..6),
        max_streams_per_client: random.u32(1..9),
        retire_idle_after_s: [0, 60, 3_600][random.usize(..3)],
        max_past_s: u32::MAX,
        max_future_s: u32::MAX,
        ..CountingRules::default()
    }
}

fn some_time(random: &mut fastrand::Rng, now: i64) -> Option<EpochMs> {
    let time = match random.u32(0..20) {
        0 => return None,
        1 => random.i64(-1_000_000..1_000_000),
        2 => now + random.i64(0..100_000_000_000),
        3 => now - random.i64(0..100_000_000_000),
        4..8 => now - random.i64(0..60_000),
        _ => now / 1_000 * 1_000,
    };
    Some(EpochMs(time))
}

/// Now and then, lets the wall time leap by years, or lets no majority agree on it.
fn leap(random: &mut fastrand::Rng, s: &mut Shard) {
    if random.u32(0..30) == 0 {
        let years = [0, 0, 20, -20, 1, -1][random.usize(..6)];
        (s.wall_ahead, s.sure) = (years * 31_557_600_000, random.u32(0..3) > 0);
    }
}

fn source(random: &mut fastrand::Rng, qos: u8) -> Source {
    Source {
        client: format!("c{}", random.u32(0..8)),
        instance: 1 + random.u64(0..2),
        epoch: 2 + random.u64(0..3),
        packet_id: random.u16(0..9),
        qos,
        dup: random.bool(),
        hash: random.u64(0..2) << 60,
    }
}

fn session_item(random: &mut fastrand::Rng) -> Item {
    let client = format!("c{}", random.u32(0..8));
    let epoch = random.u64(0..30);
    match random.u32(0..8) {
        6 => {
            let stream = random.bool().then(|| format!("s{}", random.u32(0..4)));
            Item::Retire { device: format!("d{}", random.u32(0..9)), stream }
        }
        0 | 1 => Item::Connect(ConnectItem {
            client: client.clone(),
            at: Origin { gateway: GatewayId(random.u16(1..3)), start: 1 },
            connection: random.u64(..),
            clean: random.bool(),
            expiry_s: random.u32(0..20),
            will: random.bool().then(|| {
                let (topic, payload) = (format!("w/{client}"), vec![0; random.usize(0..20)]);
                Box::new(SessionWill { topic, payload, qos: random.u8(0..3), delay_s: random.u32(0..4) * 5 })
            }),
        }),
        2 => Item::Disconnect(DisconnectItem {
            client,
            epoch,
            at: Origin { gateway: GatewayId(random.u16(1..3)), start: 1 },
            with_will: random.bool(),
            expiry_s: random.bool().then(|| random.u32(0..9)),
        }),
        3 => {
            let add = vec![(format!("f/{}", random.u32(0..5)), 1)];
            Item::Subscriptions { client, epoch, add, remove: vec![format!("f/{}", random.u32(0..5))] }
        }
        7 => {
            let at = Origin { gateway: GatewayId(random.u16(1..3)), start: 1 };
            Item::WillDone { client, epoch, at }
        }
        4 => Item::Touch { client, epoch, shard: random.u16(0..4) },
        _ => Item::Release(source(random, 2)),
    }
}

#[test]
fn every_reading_is_in_exactly_one_part_of_each_width() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut s = Shard::new(some_rules(&mut random));
        let mut wanted: BTreeMap<(String, u32, i64), Sum> = BTreeMap::new();
        let mut now = NOW;
        for _ in 0..300 {
            now += random.i64(1..3_000);
            leap(&mut random, &mut s);
            let names: Vec<_> = (0..5).map(|i| name(&format!("d{}", i % 3), &format!("s{i}"))).collect();
            let readings: Vec<Reading> = (0..random.u32(1..8))
                .map(|_| {
                    let value = f64::from(random.i32(-100..100));
                    let time = some_time(&mut random, now);
                    Reading { stream: random.u32(0..5), time, value, seq: None, boot: None }
                })
                .collect();
            for r in &readings {
                let time = r.time.unwrap_or(EpochMs(now + s.wall_ahead));
                for width in &s.machine.rules().windows_ms {
                    let of = &names[r.stream as usize];
                    let key = (format!("{}/{}", of.device, of.stream), *width, time.window_start(*width).0);
                    let sum = wanted.entry(key).or_default();
                    sum.count += 1;
                    sum.sum += r.value;
                    sum.fingerprint = sum.fingerprint.wrapping_add(fingerprint(r.value));
                    sum.first = Some(sum.first.map_or(time.0, |t| t.min(time.0)));
                    sum.last = Some(sum.last.map_or(time.0, |t| t.max(time.0)));
                }
            }
            let count = readings.len() as u32;
            let items = vec![Item::Publish(PublishItem { source: None, readings })];
            let outcomes = s.submit(now, &Submission { streams: names, makers: Vec::new(), items }).0;
            assert_eq!(
                outcomes,
                [ItemOutcome::Judged(Judged { counted: count, recognised: 0, set_aside: Vec::new() })]
            );
            if random.u32(0..4) == 0 {
                s.tick(now);
            }
            if random.u32(0..20) == 0 {
                let cursor = s.machine.outbox_stats().last;
                s.apply(now, vec![Command::Confirmed { ledger: LedgerId(1), cursor }]);
            }
        }
        s.settle();
        let mut found: BTreeMap<(String, u32, i64), Sum> = BTreeMap::new();
        for (of, part) in s.parts() {
            let sum = found
                .entry((format!("{}/{}", of.device, of.stream), part.width_ms, part.start.0))
                .or_default();
            let a = part.aggregate;
            assert!(part.late <= a.count);
            sum.count += a.count;
            sum.sum += a.sum().unwrap();
            sum.fingerprint = sum.fingerprint.wrapping_add(a.fingerprint);
            sum.first = Some(sum.first.map_or(a.first.time.0, |t| t.min(a.first.time.0)));
            sum.last = Some(sum.last.map_or(a.last.time.0, |t| t.max(a.last.time.0)));
        }
        assert_eq!(found, wanted, "seed {seed}");
    }
}

/// A run that uses every kind of command.
fn history(seed: u64) -> (CountingRules, Shard) {
    let mut random = fastrand::Rng::with_seed(seed);
    let max_past_s = [u32::MAX, 86_400, 40 * 31_557_600][random.usize(..3)];
    let rules = CountingRules { max_past_s, max_future_s: 86_400, ..some_rules(&mut random) };
    let mut s = Shard::new(rules.clone());
    let mut now = NOW;
    let mut next = [(1, 1); 3];
    for _ in 0..250 {
        now += random.i64(0..4_000);
        leap(&mut random, &mut s);
        let mut commands = Vec::new();
        for _ in 0..random.u32(0..4) {
            let command = match random.u32(0..10) {
                0 => Command::Tick,
                1 => {
                    // Ask the machine as a host would: corrections of derived indexes must not show.
                    s.machine.next_tick_due();
                    Command::Confirmed {
                        ledger: LedgerId(1),
                        cursor: s.machine.outbox_stats().last + random.u64(0..2),
                    }
                }
                2 if random.u32(0..20) == 0 => {
                    let rules = CountingRules { allowed_lateness_ms: random.u32(0..9_000), ..rules.clone() };
                    Command::Rules(Box::new(rules))
                }
                3 => Command::Upgrade { level: random.u32(0..4) },
                _ => {
                    let gateway = random.usize(..3);
                    let (start, n) = &mut next[gateway];
                    if random.u32(0..30) == 0 {
                        (*start, *n) = (*start + 1, 1);
                    }
                    let origin = Origin { gateway: GatewayId(gateway as u16), start: *start };
                    let number = *n;
                    *n += u64::from(random.u32(0..10) > 0);
                    let streams =
                        (0..4).map(|i| name(&format!("d{}", random.u32(0..9)), &format!("s{i}"))).collect();
                    let items = (0..random.u32(0..6))
                        .map(|_| match random.u32(0..3) {
                            0 => session_item(&mut random),
                            which => {
                                let qos = random.u8(1..3);
                                let source = (which == 1).then(|| source(&mut random, qos));
                                let reading = |random: &mut fastrand::Rng| Reading {
                                    stream: random.u32(0..4),
                                    time: some_time(random, now),
                                    value: random.f64() * 100.0,
                                    seq: random.bool().then(|| random.u64(0..3_000)),
                                    boot: random.bool().then(|| random.u64(0..6)),
                                };
                                let readings = (0..random.u32(0..5)).map(|_| reading(&mut random)).collect();
                                Item::Publish(PublishItem { source, readings })
                            }
                        })
                        .collect();
                    let mut maker = |stream| {
                        let client = format!("c{}", random.u32(0..4));
                        random.bool().then_some(Maker { stream, client })
                    };
                    let makers = (0..4).filter_map(&mut maker).collect();
                    forwarded(origin, number, &Submission { streams, makers, items })
                }
            };
            commands.push(command);
        }
        s.apply(now, commands);
    }
    (rules, s)
}

#[test]
fn the_same_commands_give_the_same_bytes_restored_on_the_way_or_not() {
    for seed in 0..30 {
        let (rules, s) = history(seed);
        let (plain, answers) = replay(&rules, &s.history, |_| false);
        assert_eq!(plain.snapshot(), s.machine.snapshot(), "seed {seed}");
        let (restored, same) = replay(&rules, &s.history, |slot| slot % 7 == seed % 7);
        for (slot, (again, first)) in (1..).zip(same.iter().zip(&answers)) {
            assert_eq!(again, first, "seed {seed}: another answer or batch in slot {slot}");
        }
        assert_eq!(restored.snapshot(), plain.snapshot(), "seed {seed}");
        assert_eq!(restored.digest(), plain.digest());
        let mut batches = answers.into_iter().flat_map(|a| a.batches);
        assert!(s.batches.iter().all(|b| batches.next().as_ref() == Some(b)));
    }
}

#[test]
fn another_history_gives_another_digest() {
    assert_ne!(history(1).1.machine.digest(), history(2).1.machine.digest());
}
