//! When windows close, and how queries show them.

use crate::support::*;
use selvedge_fabric::machine::*;
use selvedge_types::site_window::SiteWindow;
use selvedge_types::time::{ElapsedMs, EpochMs};

fn rules() -> CountingRules {
    CountingRules { windows_ms: vec![10_000], allowed_lateness_ms: 1_000, ..CountingRules::default() }
}

#[test]
fn a_series_of_years_ago_closes_its_windows_as_a_live_one() {
    let run = |offset: i64| {
        let mut s = Shard::new(CountingRules { max_past_s: u32::MAX, ..rules() });
        for i in 0..600 {
            s.publish(1_700_000_000_000 + i * 10, None, reading(offset + i * 1_000, i as f64));
        }
        s.settle();
        assert!(s.parts().iter().all(|(_, p)| p.late == 0 && p.aggregate.count == 10));
        s.parts().len()
    };
    assert_eq!(run(1_700_000_000_000), 60);
    assert_eq!(run(1_000_000_000_000), 60, "2001");
    assert_eq!(run(-10_000_000), 60, "before 1970");
}

#[test]
fn two_widths_count_every_reading_each() {
    let mut s = Shard::new(CountingRules { windows_ms: vec![10_000, 60_000], ..rules() });
    for i in 0..120 {
        s.publish(i, None, reading(i * 1_000, 1.0));
    }
    s.settle();
    let counted =
        |width| s.parts().iter().filter(|(_, p)| p.width_ms == width).map(|(_, p)| p.aggregate.count).sum();
    let (narrow, wide): (u64, u64) = (counted(10_000), counted(60_000));
    assert_eq!((narrow, wide), (120, 120));
}

#[test]
fn a_reading_without_time_counts_at_the_wall_time() {
    let mut s = Shard::new(rules());
    s.publish(77_000, None, Reading { time: None, ..reading(0, 1.0) });
    s.settle();
    assert_eq!(s.parts()[0].1.aggregate.first.time, EpochMs(77_000));
}

#[test]
fn elapsed_time_never_goes_back_and_wall_time_may() {
    let mut s = Shard::new(rules());
    s.tick(5_000);
    s.apply(0, Vec::new());
    s.publish(4_000, None, Reading { time: None, ..reading(0, 1.0) });
    assert_eq!((s.machine.elapsed(), s.machine.wall()), (ElapsedMs(5_000), EpochMs(4_000)));
    let (from, to) = (EpochMs(0), EpochMs(10_000));
    let asked = Query { device: "d", stream: None, from, to, every_ms: None };
    let view = s.ask(&asked, &Page::default()).windows;
    assert_eq!(view[0].aggregate.first.time, EpochMs(4_000));
}

#[test]
fn a_tick_before_it_is_due_does_nothing_and_one_when_due_does_something() {
    let mut s = Shard::new(rules());
    let mut random = fastrand::Rng::with_seed(11);
    let mut now = 1_000_000;
    for _ in 0..300 {
        now += random.i64(1..9_000);
        if let Some(due) = s.machine.next_tick_due() {
            if due.0 - 1 > s.machine.elapsed().0 {
                let early = s.tick((due.0 as i64 - 1).min(now));
                assert_eq!((early.counters.closed, early.batches.len()), (0, 0));
            }
            if due.0 as i64 <= now {
                let done = s.tick(now);
                let put_off = s.machine.next_tick_due().is_none_or(|next| next > due);
                let some = done.counters.closed > 0 || !done.batches.is_empty();
                assert!(some || put_off, "due at {due} in vain");
            }
        }
        s.publish(now, None, reading(now - random.i64(0..40_000), 1.0));
    }
    s.settle();
    assert_eq!(s.machine.next_tick_due(), None);
    assert_eq!(s.machine.sizes().open_parts, 0);
}

#[test]
fn rules_take_effect_when_chosen_and_change_no_reading_counted_before() {
    let mut s = Shard::fresh(CountingRules { windows_ms: vec![10_000], ..CountingRules::default() });
    s.publish(1, None, reading(1_000, 1.0));
    assert_eq!(s.machine.rules().windows_ms, [60_000], "not chosen yet");
    let command = s.machine.rules_command().unwrap();
    s.apply(2, vec![command.clone()]);
    assert_eq!(s.machine.rules_command(), None);
    s.publish(3, None, reading(1_500, 1.0));
    s.settle();
    let widths: Vec<_> = s.parts().iter().map(|(_, p)| (p.width_ms, p.aggregate.count)).collect();
    assert_eq!(widths, [(60_000, 1), (10_000, 1)]);
    let before = s.machine.rules().clone();
    s.apply(
        4,
        vec![Command::Rules(Box::new(CountingRules { windows_ms: vec![], ..CountingRules::default() }))],
    );
    assert_eq!(*s.machine.rules(), before, "rules that can't be kept change nothing");
}

#[test]
fn overrides_by_pattern_have_their_own_windows() {
    let o = Override {
        device: "d*".into(),
        stream: "*".into(),
        windows_ms: Some(vec![2_000]),
        ..Override::default()
    };
    let mut s = Shard::new(CountingRules { streams: vec![o], ..rules() });
    s.publish(1, None, reading(1_000, 1.0));
    let items = vec![Item::Publish(PublishItem { source: None, readings: vec![reading(1_000, 1.0)] })];
    s.submit(2, &Submission { streams: vec![name("x", "s")], makers: Vec::new(), items });
    s.settle();
    let mut widths: Vec<_> = s.parts().iter().map(|(n, p)| (n.device.clone(), p.width_ms)).collect();
    widths.sort();
    assert_eq!(widths, [("d".to_string(), 2_000), ("x".to_string(), 10_000)]);
}

#[test]
fn a_query_merges_closed_and_open_parts_and_wider_windows() {
    let mut s = Shard::new(rules());
    for i in 0..45 {
        s.publish(i, None, reading(i * 1_000, 1.0));
    }
    s.publish(46, None, reading(3_000, 1.0));
    let query = |stream, from, to, every_ms| {
        let q = Query { device: "d", stream, from: EpochMs(from), to: EpochMs(to), every_ms };
        let shown = |w: SiteWindow| (w.start.0, w.aggregate.count, w.late, w.parts, w.closed);
        s.ask(&q, &Page::default()).windows.into_iter().map(shown).collect::<Vec<_>>()
    };
    let all = query(Some("s"), 0, 60_000, None);
    assert_eq!(all[0], (0, 11, 1, 2, false), "the late reading is in a part that is open");
    assert_eq!(all[1], (10_000, 10, 0, 1, true));
    assert_eq!(all[4], (40_000, 5, 0, 1, false));
    assert_eq!(query(None, 10_000, 20_000, None), [(10_000, 10, 0, 1, true)]);
    assert_eq!(query(None, 0, 60_000, Some(20_000)).iter().map(|w| w.1).collect::<Vec<_>>(), [21, 20, 5]);
    assert_eq!(query(None, 0, 60_000, Some(15_000)), [], "no kept width divides it");
    assert_eq!(query(None, 0, 60_000, Some(0)), []);
    assert_eq!(query(Some("none"), 0, 60_000, None), []);
    assert_eq!(s.machine.devices(None, 9).0[0].streams, 1);
    assert_eq!(s.machine.devices(Some("d"), 9), (vec![], false));
    assert_eq!(s.machine.streams("d")[0].watermark, EpochMs(43_000));
}
