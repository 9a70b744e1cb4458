//! Two clocks: elapsed time decides, wall time labels. Also: which windows a stream's own time closes.

use crate::support::*;
use selvedge_fabric::machine::*;
use selvedge_types::ids::GatewayId;
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::{Batch, Part};
use std::collections::BTreeMap;

const GPS_ROLLOVER_MS: i64 = 1_024 * 7 * 86_400_000;
const WALL: i64 = 1_764_000_000_000;
const DAY_MS: i64 = 86_400_000;

/// A shard whose wall time is `WALL` at elapsed time 0.
fn shard(rules: CountingRules) -> Shard {
    Shard { wall_ahead: WALL, ..Shard::fresh(rules) }.ruled()
}

fn ten_seconds() -> CountingRules {
    CountingRules { windows_ms: vec![10_000], allowed_lateness_ms: 1_000, ..CountingRules::default() }
}

fn untimed(value: f64) -> Reading {
    Reading { time: None, ..reading(0, value) }
}

#[test]
fn no_leap_of_the_wall_time_ends_a_session_or_forgets_what_was_published_in_it() {
    let mut s = shard(CountingRules::default());
    let at = Origin { gateway: GatewayId(1), start: 1 };
    let client = || "a".to_string();
    let connect =
        ConnectItem { client: client(), at, connection: 1, clean: false, expiry_s: 7 * 86_400, will: None };
    let ItemOutcome::Connected(c) = s.item(1, Item::Connect(connect)) else { panic!("not connected") };
    let source = |dup| Source {
        client: client(),
        instance: c.instance,
        epoch: c.epoch,
        packet_id: 1,
        qos: 1,
        dup,
        hash: 5 << 32,
    };
    assert_eq!(s.publish(2, Some(source(false)), untimed(1.0)), COUNTED);
    let gone = DisconnectItem { client: client(), epoch: c.epoch, at, with_will: false, expiry_s: None };
    s.item(1_000, Item::Disconnect(gone));
    for leap in [GPS_ROLLOVER_MS, -GPS_ROLLOVER_MS, 7 * DAY_MS, -WALL, i64::MAX / 4] {
        s.wall_ahead = WALL + leap;
        s.tick(2_000);
        assert_eq!(s.machine.sizes().sessions, 1, "{leap}");
        assert_eq!(s.publish(2_000, Some(source(true)), untimed(1.0)), ItemOutcome::Duplicate, "{leap}");
    }
    // The session ends exactly when its expiry has elapsed.
    let ends = 1_000 + 7 * DAY_MS;
    s.tick(ends - 1);
    assert_eq!(s.machine.sizes().sessions, 1);
    s.tick(ends);
    assert_eq!(s.machine.sizes().sessions, 0);
}

#[test]
fn a_time_that_can_not_be_is_set_aside_and_changes_nothing() {
    let mut s = shard(ten_seconds());
    let (past, future) = (30 * 31_557_600_000, DAY_MS);
    assert_eq!(s.publish(0, None, reading(WALL, 1.0)), COUNTED);
    let state = |s: &mut Shard| {
        let stream = &s.machine.streams("d")[0];
        (stream.watermark, stream.seen, s.machine.sizes(), s.machine.next_tick_due())
    };
    let before = state(&mut s);
    let seconds = WALL / 1_000;
    let (year_2106, year_9999) = (4_294_967_295_000, 253_402_300_799_000);
    for wrong in [seconds, 0, -1, year_2106, year_9999, WALL - past - 1, WALL + future + 1] {
        let numbered = Reading { seq: Some(7), ..reading(wrong, 1.0) };
        let (outcomes, applied) = s.submit(
            0,
            &Submission {
                streams: vec![name("d", "s")],
                makers: Vec::new(),
                items: vec![Item::Publish(PublishItem { source: None, readings: vec![numbered] })],
            },
        );
        let reason = if wrong < WALL { Reason::TooOld } else { Reason::TooFarAhead };
        assert_eq!(outcomes, [aside(reason)], "{wrong}");
        assert_eq!(applied.counters.by_reason().filter(|(_, n)| *n > 0).collect::<Vec<_>>(), [(reason, 1)]);
        assert_eq!(state(&mut s), before);
    }
    let numbered = |time| Reading { seq: Some(7), ..reading(time, 1.0) };
    assert_eq!(s.publish(0, None, numbered(WALL)), COUNTED, "its number is free");
    assert_eq!(
        s.publish(0, None, numbered(0)),
        RECOGNISED,
        "what was counted is not set aside when it comes again"
    );
    for right in [WALL - past, 1_372_636_800_000, WALL + future] {
        assert_eq!(s.publish(0, None, reading(right, 1.0)), COUNTED, "{right}");
    }
    let o = Override { max_past_s: Some(60), max_future_s: Some(1), ..Override::default() };
    let mut s = shard(CountingRules { streams: vec![o], ..ten_seconds() });
    let times = [WALL - 60_001, WALL - 60_000, WALL + 1_000, WALL + 1_001];
    assert_eq!(
        times.map(|t| s.publish(0, None, reading(t, 1.0))),
        [aside(Reason::TooOld), COUNTED, COUNTED, aside(Reason::TooFarAhead)]
    );
}

#[test]
fn what_seems_wrong_to_a_clock_that_was_never_set_is_counted() {
    // No majority ever agreed: the clock shows 1970, and the devices know better. But whoever says so, it is
    // neither 1970 nor 2106.
    let mut s = Shard { wall_ahead: 0, sure: false, ..Shard::fresh(ten_seconds()) };
    for time in [WALL, WALL + 20 * 366 * DAY_MS] {
        assert_eq!(s.publish(5_000, None, reading(time, 1.0)), COUNTED);
    }
    assert_eq!(s.publish(5_000, None, reading(1_000, 1.0)), aside(Reason::TooOld));
    assert_eq!(s.publish(5_000, None, reading(4_294_967_295_000, 1.0)), aside(Reason::TooFarAhead));
    // A site that was off for a month continues from the last agreement, so the real time may be later, but
    // not earlier.
    let mut s = shard(ten_seconds());
    s.publish(0, None, reading(WALL, 1.0));
    s.sure = false;
    assert_eq!(s.publish(1_000, None, reading(WALL + 30 * DAY_MS, 1.0)), COUNTED);
    assert_eq!(
        s.publish(1_000, None, reading(WALL / 1_000, 1.0)),
        aside(Reason::TooOld),
        "in 1970 it is not"
    );
    assert_eq!(s.machine.continued(ElapsedMs(9_000)), Some(EpochMs(WALL + 9_000)));
}

/// Asserts that no part that is not late belongs to a window that the earlier batches reported as passed,
/// unless its own batch takes that back first.
fn nothing_passed_changes(s: &Shard) {
    let mut told = EpochMs(i64::MIN);
    for cut in &s.batches {
        let batch = Batch::decode(&cut.bytes).unwrap();
        let mut passed = told;
        for part in &batch.parts {
            assert!(part.late > 0 || part.start.plus(part.width_ms.into()) > passed, "{passed}: {part:?}");
            passed = part.watermark.min(passed);
            told = part.watermark;
        }
    }
}

/// Settles the shard and returns all parts. Asserts that they count this many readings, each once.
fn all_counted_once(s: &mut Shard, readings: u64) -> Vec<Part> {
    s.settle();
    nothing_passed_changes(s);
    let parts: Vec<Part> = s.parts().into_iter().map(|(_, p)| p).collect();
    let widths = s.machine.rules().windows_ms.clone();
    for width in widths {
        let count: u64 = parts.iter().filter(|p| p.width_ms == width).map(|p| p.aggregate.count).sum();
        assert_eq!(count, readings, "each is in exactly one part of width {width}");
    }
    parts
}

#[test]
fn a_wall_time_that_leaps_by_years_and_comes_back_poisons_nothing() {
    for leap in [GPS_ROLLOVER_MS, -10 * 365 * DAY_MS, DAY_MS, 700_000] {
        let mut s = shard(CountingRules { windows_ms: vec![10_000, 60_000], ..ten_seconds() });
        let mut readings = 0;
        for second in 0..180 {
            s.wall_ahead = WALL + if (60..90).contains(&second) { leap } else { 0 };
            while let Some(due) = s.machine.next_tick_due().filter(|due| due.0 <= second * 1_000) {
                s.tick(due.0 as i64);
            }
            assert_eq!(s.publish(second as i64 * 1_000, None, untimed(1.0)), COUNTED);
            readings += 1;
        }
        let parts = all_counted_once(&mut s, readings);
        let after = |p: &&Part| p.width_ms == 10_000 && (WALL + 100_000..WALL + 170_000).contains(&p.start.0);
        let after: Vec<_> = parts.iter().filter(after).collect();
        assert_eq!(after.len(), 7, "{leap}: one part for each window");
        for part in after {
            let end = part.start.plus(10_000);
            assert!(part.late == 0 && part.watermark >= end && part.watermark < end.plus(20_000), "{part:?}");
        }
    }
}

#[test]
fn one_reading_of_tomorrow_makes_nobody_late_and_nothing_complete_that_still_fills() {
    let mut s = shard(ten_seconds());
    for second in 0..60 {
        s.publish(second * 1_000, None, reading(WALL + second * 1_000, 1.0));
        if second == 33 {
            s.publish(second * 1_000, None, reading(WALL + 23 * 3_600_000, 1.0));
            let told = s.machine.streams("d")[0].watermark;
            assert!(told.0 <= WALL + 33_000 + MAX_LEAD_MS, "{told}");
        }
    }
    let parts = all_counted_once(&mut s, 61);
    assert_eq!(parts.iter().map(|p| p.late).sum::<u64>(), 0);
    let tomorrow = parts.iter().find(|p| p.start.0 > WALL + DAY_MS / 2).unwrap();
    assert!(tomorrow.watermark < tomorrow.start, "it is not complete");
    // A device whose clock is always 14 hours ahead works well by its own time.
    let mut s = shard(ten_seconds());
    for second in 0..60 {
        s.publish(second * 1_000, None, reading(WALL + 14 * 3_600_000 + second * 1_000, 1.0));
    }
    let parts = all_counted_once(&mut s, 60);
    assert!(parts.len() <= 7 && parts.iter().all(|p| p.late == 0), "{}", parts.len());
}

/// A device without a clock publishes each second for an hour. From second 1234 on, the site's wall time is
/// off by `leap_ms` for `for_s` seconds. Returns all parts, each with the second in which it closed.
fn leap(leap_ms: i64, for_s: i64) -> Vec<(i64, Part)> {
    let mut s = shard(CountingRules { windows_ms: vec![10_000, 60_000], cut_after_ms: 0, ..ten_seconds() });
    let (mut parts, mut seen) = (Vec::new(), 0);
    for second in 0..3_600 {
        s.wall_ahead = WALL + if (1_234..1_234 + for_s).contains(&second) { leap_ms } else { 0 };
        assert_eq!(s.publish(second * 1_000, None, untimed(1.0)), COUNTED);
        s.tick(second * 1_000);
        let new = s.batches[seen..].iter().flat_map(|b| Batch::decode(&b.bytes).unwrap().parts);
        parts.extend(new.map(|part| (second, part)));
        seen = s.batches.len();
    }
    all_counted_once(&mut s, 3_600);
    parts
}

#[test]
fn where_all_clocks_leap_by_years_and_come_back_nothing_was_told_that_had_not_passed() {
    for years in [20, -20] {
        for for_s in [7, BELIEVED_AFTER_MS as i64 / 1_000] {
            let parts = leap(years * 365 * DAY_MS, for_s);
            let right = |p: &Part| (p.start.0 - WALL).abs() < DAY_MS;
            for (second, part) in &parts {
                assert!(part.watermark.0 <= WALL + second * 1_000, "{years}, {for_s}: {part:?}");
                assert_eq!(part.late, 0);
            }
            let after = |(_, p): &&(i64, Part)| right(p) && p.start.0 >= WALL + (1_300 + for_s) * 1_000;
            for (second, part) in parts.iter().filter(after) {
                let end = part.start.plus(part.width_ms.into());
                assert!(part.watermark >= end && end.0 > WALL + (second - 20) * 1_000, "{part:?}");
            }
        }
    }
}

#[test]
fn what_was_told_by_a_time_that_was_wrong_for_long_is_taken_back() {
    let for_s = 2 * BELIEVED_AFTER_MS as i64 / 1_000;
    let parts = leap(20 * 365 * DAY_MS, for_s);
    let wrong = |(_, p): &&(i64, Part)| p.watermark.0 > WALL + DAY_MS;
    assert!(parts.iter().any(|part| wrong(&part)), "after a while it is believed");
    let (last, _) = parts.iter().rfind(wrong).unwrap();
    assert!(*last <= 1_234 + for_s, "{last}: nothing is told by it any more");
    assert!(
        parts.iter().all(|(_, part)| part.late <= 60),
        "what comes next for what was told as passed is late"
    );
    let after = parts.iter().filter(|(second, _)| *second > 1_234 + for_s + 120);
    assert!(after.clone().count() > 40 && after.map(|(_, part)| part.late).sum::<u64>() == 0);
}

#[test]
fn while_nobody_knows_the_time_no_device_tells_more_than_may_have_passed() {
    let timed = |s: &mut Shard, second: i64, ahead: i64| {
        assert_eq!(s.publish(second * 1_000, None, reading(WALL + second * 1_000 + ahead, 1.0)), COUNTED);
        s.tick(second * 1_000);
    };
    let mut s = shard(CountingRules { cut_after_ms: 0, ..ten_seconds() });
    for second in 0..180 {
        s.sure = second < 60;
        timed(&mut s, second, if (73..120).contains(&second) { 20 * 365 * DAY_MS } else { 0 });
    }
    for part in all_counted_once(&mut s, 180) {
        assert!(part.watermark.0 < WALL + 3_600_000, "{part:?}");
    }
    // If no majority ever agreed, no window after 2025 is reported as passed.
    let mut s = Shard { wall_ahead: 0, sure: false, ..Shard::fresh(ten_seconds()) };
    (0..60).for_each(|second| timed(&mut s, second, 0));
    for part in all_counted_once(&mut s, 60) {
        assert!(part.watermark < part.start, "{part:?}");
    }
    let told = s.machine.streams("d")[0].watermark;
    assert!(told.0 < WALL, "{told}");
}

/// Publishes readings, each given as (elapsed time, event time less `WALL`), and ticks when ticks are due.
/// Returns the parts of each window and when they closed.
fn play(s: &mut Shard, readings: &[(i64, i64)]) -> BTreeMap<i64, Vec<(i64, Part)>> {
    let mut closed = BTreeMap::<i64, Vec<(i64, Part)>>::new();
    let (mut seen, mut i) = (0, 0);
    loop {
        let due = s.machine.next_tick_due().map(|due| due.0 as i64);
        let next = readings.get(i).copied();
        let now = match (due, next) {
            (Some(due), Some((at, _))) if due <= at => due,
            (_, Some((at, time))) => {
                i += 1;
                assert_eq!(s.publish(at, None, reading(WALL + time, 1.0)), COUNTED);
                at
            }
            (Some(due), None) => due,
            (None, None) => break,
        };
        if due == Some(now) {
            s.tick(now);
        }
        for part in s.batches[seen..].iter().flat_map(|b| Batch::decode(&b.bytes).unwrap().parts) {
            closed.entry(part.start.0 - WALL).or_default().push((now, part));
        }
        seen = s.batches.len();
    }
    closed
}

/// Readings at each `interval`, give or take a tenth, the first one within a window.
fn regular(interval: i64, count: i64) -> Vec<(i64, i64)> {
    let mut random = fastrand::Rng::with_seed(9);
    let mut jitter = || random.i64(-interval / 10..=interval / 10);
    (1..=count).map(|i| i * interval + 3_700 + jitter()).map(|at| (at, at)).collect()
}

#[test]
fn a_stream_of_any_pace_has_one_part_a_window_soon_after_its_end_and_it_is_complete() {
    let (second, minute, hour) = (1_000, 60_000, 3_600_000);
    for (interval, width) in [
        (100, 10 * second),
        (second, minute),
        (20 * second, minute),
        (minute, 10 * second),
        (minute, hour),
        (hour, 10 * second),
        (hour, minute),
        (hour, DAY_MS),
    ] {
        let count = (12 * width.max(interval) / interval).min(800);
        let mut s = shard(CountingRules {
            windows_ms: vec![width as u32],
            cut_after_ms: 0,
            ..CountingRules::default()
        });
        let closed = play(&mut s, &regular(interval, count));
        // The pace is learned from the first two windows; in the last one the stream stops.
        let settled = closed.iter().skip(2).take(closed.len().saturating_sub(3));
        assert!(settled.len() > 3);
        for (start, parts) in settled {
            let [(at, part)] = parts.as_slice() else { panic!("{interval}/{width}: {} parts", parts.len()) };
            let end = start + width;
            assert_eq!(part.late, 0);
            assert!(part.watermark.0 >= WALL + end, "{interval}/{width}: not complete");
            let wait = at - end;
            assert!(
                (0..=5_000 + interval / 5 + 1_000).contains(&wait),
                "{interval}/{width}: closed {wait} ms after its end"
            );
        }
    }
}

#[test]
fn a_device_that_sends_in_bursts_is_not_late() {
    // Every 30 s, the device sends what it measured in each second since.
    let bursts =
        (1..40).flat_map(|burst| (0..30).map(move |i| (burst * 30_000, (burst - 1) * 30_000 + i * 1_000)));
    let mut s =
        shard(CountingRules { windows_ms: vec![10_000], cut_after_ms: 0, ..CountingRules::default() });
    let closed = play(&mut s, &bursts.collect::<Vec<_>>());
    let all = || closed.values().skip(12).take(95);
    assert!(all().all(|parts| parts.len() == 1), "a part for each window");
    assert!(all().flatten().all(|(_, part)| part.late == 0 && part.watermark >= part.start.plus(10_000)));
}

#[test]
fn a_stream_that_stops_in_the_middle_of_a_window_is_not_called_complete_there() {
    let mut s =
        shard(CountingRules { windows_ms: vec![60_000], cut_after_ms: 0, ..CountingRules::default() });
    let fast: Vec<_> = (0..900).map(|i| (i * 100, i * 100)).collect(); // it stops after 90 s
    let closed = play(&mut s, &fast);
    let (at, part) = closed.values().flatten().last().unwrap();
    assert!(part.watermark < part.start.plus(60_000) && *at == 89_900 + 15_000, "{part:?} at {at}");
    // The last reading of a slow stream is the only one in its window.
    let mut s =
        shard(CountingRules { windows_ms: vec![10_000], cut_after_ms: 0, ..CountingRules::default() });
    let closed = play(&mut s, &regular(60_000, 20));
    let (_, part) = closed.values().flatten().last().unwrap();
    assert!(part.watermark >= part.start.plus(10_000), "{part:?}");
}

#[test]
fn a_week_of_buffered_readings_counts_and_adds_up() {
    let mut s =
        shard(CountingRules { windows_ms: vec![60_000], cut_after_ms: 0, ..CountingRules::default() });
    let live = (0..300).map(|i| (i * 1_000, i * 1_000));
    let back = 300_000 + 7 * DAY_MS;
    // The device first sends what it measures now, and then the week, the latest reading first.
    let buffered = (0..2_000).map(|i| (back + i, back - i * 300_000));
    let readings: Vec<_> = live.chain([(back - 1, back - 1)]).chain(buffered).collect();
    play(&mut s, &readings);
    all_counted_once(&mut s, readings.len() as u64);
}
