//! Queries about recent windows: which batches answer them, and what the answer says of the others.

use crate::support::*;
use selvedge_fabric::machine::*;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{LedgerId, SiteIncarnation};
use std::collections::BTreeMap;

const ALL: Query<'_> =
    Query { device: "*", stream: None, from: EpochMs(i64::MIN), to: EpochMs(i64::MAX), every_ms: None };

/// Windows of 1 s, cut into batches at once.
fn rules(recent_bytes: u32) -> CountingRules {
    CountingRules {
        windows_ms: vec![1_000],
        allowed_lateness_ms: 0,
        cut_after_ms: 0,
        recent_bytes,
        ..CountingRules::default()
    }
}

/// Makes one batch for each second from `from` to `to`, of stream `d/s`.
fn seconds(s: &mut Shard, from: i64, to: i64) {
    for second in from..to {
        let at = second * 1_000;
        s.publish(at + 500, None, reading(at, second as f64));
        s.tick(at + 501);
    }
}

fn confirm(s: &mut Shard, cursor: u64) -> Option<u64> {
    let stamp = s.machine.elapsed().0 as i64 + 1;
    s.apply(stamp, vec![Command::Confirmed { ledger: LedgerId(1), cursor }]).released
}

fn starts(scanned: &Scanned) -> Vec<i64> {
    scanned.windows.iter().map(|w| w.start.0 / 1_000).collect()
}

#[test]
fn confirmed_batches_are_kept_within_their_bytes_and_answered_from() {
    // A small batch counts as 1 KiB, so three are kept.
    let mut s = Shard::new(rules(3 * 1_024));
    seconds(&mut s, 0, 11);
    assert_eq!(s.batches.len(), 10);
    assert_eq!(confirm(&mut s, 6), Some(6), "four are unconfirmed, and take the room");
    assert_eq!(confirm(&mut s, 9), Some(7));
    let stats = s.machine.outbox_stats();
    assert_eq!((stats.kept, stats.cursor, stats.last, stats.batches), (7, 9, 10, 1));
    let answer = s.ask(&ALL, &Page::default());
    assert_eq!(starts(&answer), [7, 8, 9, 10]);
    assert!(answer.windows[..3].iter().all(|w| w.closed) && !answer.windows[3].closed);
    assert_eq!(answer.since, Some(EpochMs(7_501)), "when the last of what is released was cut");
    // A snapshot restores the batches that are kept.
    let restored = Machine::restore(SHARD, Default::default(), &s.machine.snapshot()).unwrap();
    assert_eq!(restored.outbox_stats(), stats);
    assert_eq!(restored.batch_record(8), s.machine.batch_record(8));
    assert_eq!((restored.batch_record(7), restored.batch_record(11)), (None, None));
    // A new batch pushes out the oldest one.
    seconds(&mut s, 11, 12);
    assert_eq!(s.machine.outbox_stats().kept, 8);
    // So does a rule that allows less.
    s.apply(20_000, vec![Command::Rules(Box::new(rules(0)))]);
    assert_eq!(s.machine.outbox_stats().kept, 9, "what is not confirmed stays");
}

#[test]
fn what_is_not_confirmed_is_answered_however_much_it_is() {
    let mut s =
        Shard::new(CountingRules { windows_ms: vec![1_000], recent_bytes: 0, ..CountingRules::default() });
    let mut now = 0;
    for second in 0..5_000 {
        now = second * 1_000;
        s.publish(now, None, reading(now, 1.0));
        if s.machine.next_tick_due().is_some_and(|due| due.0 <= now as u64) {
            s.tick(now);
        }
    }
    assert!(s.machine.outbox_stats().batches > 40);
    let answer = s.ask(&ALL, &Page::default());
    assert_eq!((answer.windows.len(), answer.since, answer.lacking), (5_000, None, 0));
    // Only the batches in the span of the query are read.
    let few = Query { from: EpochMs(now - 3_000_000), to: EpochMs(now - 2_990_000), ..ALL };
    assert!((1..4).contains(&s.machine.scan(&few, &Page::default()).wanted().len()));
    assert_eq!(s.ask(&few, &Page::default()).windows.len(), 10);
}

#[test]
fn an_answer_is_that_of_the_slot_at_which_it_was_begun() {
    let mut s = Shard::new(rules(1 << 20));
    seconds(&mut s, 0, 5);
    let before = s.ask(&ALL, &Page::default());
    let mut scan = s.machine.scan(&ALL, &Page::default());
    seconds(&mut s, 5, 9);
    s.publish(9_600, None, reading(100, 7.0)); // late, for a window that the scan holds
    let wanted = scan.wanted();
    assert_eq!(wanted, [1, 2, 3, 4]);
    for seq in wanted.into_iter().rev() {
        assert!(!scan.look_at(seq, &s.batches[seq as usize].bytes), "another batch's content");
        assert!(scan.look_at(seq, &s.batches[seq as usize - 1].bytes));
        assert!(!scan.look_at(seq, &s.batches[seq as usize - 1].bytes), "each once");
    }
    assert_eq!(scan.finish(), before);
}

#[test]
fn a_content_that_is_not_to_be_had_is_counted_not_left_out_in_silence() {
    let mut s = Shard::new(rules(1 << 20));
    seconds(&mut s, 0, 5);
    let mut scan = s.machine.scan(&ALL, &Page::default());
    scan.give_up(2);
    scan.give_up(2);
    scan.look_at(1, &s.batches[0].bytes);
    scan.look_at(3, &s.batches[2].bytes);
    let mut damaged = s.batches[3].bytes.clone();
    damaged[20] ^= 1;
    assert!(!scan.look_at(4, &damaged));
    let answer = scan.finish();
    assert_eq!((starts(&answer), answer.lacking), (vec![0, 2, 4], 2));
}

#[test]
fn more_than_a_scan_looks_at_is_told_by_the_time_from_which_on_it_did() {
    let mut s = Shard::new(CountingRules {
        windows_ms: vec![1_000],
        quantiles: true,
        recent_bytes: 1 << 30,
        ..CountingRules::default()
    });
    let mut at = 0;
    while s.machine.outbox_stats().bytes < MAX_SCAN_BYTES + MAX_SCAN_BYTES / 2 {
        let readings = (0..3_000).map(|i| reading(at + i * 100, (i * i) as f64)).collect();
        let items = vec![Item::Publish(PublishItem { source: None, readings })];
        s.submit(at + 1_000, &Submission { streams: vec![name("d", "s")], items, ..Submission::default() });
        at += 300_000;
    }
    let (page, last) = (Page { limit: 5, ..Page::default() }, s.machine.outbox_stats().last);
    let scan = s.machine.scan(&ALL, &page);
    let wanted = scan.wanted();
    assert!(wanted[0] > 1 && *wanted.last().unwrap() == last);
    let since = scan.finish().since.unwrap();
    let cut = s.machine.batch_record(wanted[0] - 1).unwrap().cut;
    assert_eq!(since, s.machine.wall_of(cut));
    // A query about an early part of the past reads all of that part.
    let old = Query { to: since, from: EpochMs(since.0 / 2), ..ALL };
    assert_eq!(s.machine.scan(&old, &page).finish().since, None);
}

#[test]
fn pages_put_together_are_the_whole_whatever_the_order_of_the_contents() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let windows_ms = vec![1_000, 3_000];
        let mut s = Shard::new(CountingRules { windows_ms, recent_bytes: random.u32(0..40_000), ..rules(0) });
        let mut counted: BTreeMap<(String, i64), u64> = BTreeMap::new();
        for i in 0..400 {
            let (device, at) = (format!("d{}", random.u32(0..5)), i * 50 + random.i64(-3_000..3_000));
            *counted.entry((device.clone(), EpochMs(at).window_start(1_000).0)).or_default() += 1;
            let items = vec![Item::Publish(PublishItem { source: None, readings: vec![reading(at, 1.0)] })];
            s.submit(
                i * 50,
                &Submission { streams: vec![name(&device, "s")], items, ..Submission::default() },
            );
            s.tick(i * 50);
        }
        let every_ms = [None, Some(3_000), Some(6_000)][random.usize(0..3)];
        let query = Query { every_ms, ..ALL };
        let whole = s.ask(&query, &Page::default());
        let total: u64 = whole.windows.iter().map(|w| w.aggregate.count).sum();
        assert_eq!((total, whole.since), (400, None), "nothing is confirmed, so all is there");
        if every_ms.is_none() {
            let found = whole.windows.iter().map(|w| ((w.device.to_string(), w.start.0), w.aggregate.count));
            assert_eq!(found.collect::<BTreeMap<_, _>>(), counted);
        }
        let (mut pages, mut after) = (Vec::new(), None);
        loop {
            let page = Page { after, limit: random.u32(1..9), bytes: random.u32(200..4_000) };
            let mut scan = s.machine.scan(&query, &page);
            let mut wanted = scan.wanted();
            random.shuffle(&mut wanted);
            wanted.iter().for_each(|seq| assert!(scan.look_at(*seq, &s.batches[*seq as usize - 1].bytes)));
            let page = scan.finish();
            pages.extend(page.windows);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, whole.windows, "seed {seed}");
    }
}

#[test]
fn more_streams_than_a_page_may_have_go_on_in_the_next() {
    let most = CountingRules { max_streams: 10_000, max_names_bytes: 16 << 20, ..rules(1 << 20) };
    let mut s = Shard::new(most);
    let count = MAX_SCAN_STREAMS + 3;
    let names: Vec<_> = (0..count).map(|i| name(&format!("d{i:05}"), "s")).collect();
    for chunk in names.chunks(500) {
        let readings =
            (0..chunk.len() as u32).map(|stream| Reading { stream, ..reading(1_000, 1.0) }).collect();
        let items = vec![Item::Publish(PublishItem { source: None, readings })];
        s.submit(1_000, &Submission { streams: chunk.to_vec(), items, ..Submission::default() });
    }
    let first = s.ask(&ALL, &Page::default());
    assert_eq!(first.windows.len(), MAX_SCAN_STREAMS);
    let rest = s.ask(&ALL, &Page { after: first.next, ..Page::default() });
    assert_eq!((rest.windows.len(), rest.next), (3, None));
}

#[test]
fn only_the_admitted_ledger_trims_and_another_one_is_sent_what_is_kept() {
    let mut s = Shard::new(rules(3 * 1_024));
    seconds(&mut s, 0, 11);
    let confirm_by = |s: &mut Shard, ledger, cursor| {
        let stamp = s.machine.elapsed().0 as i64 + 1;
        s.apply(stamp, vec![Command::Confirmed { ledger, cursor }]).released
    };
    let (first, staging) = (LedgerId(1), LedgerId(2));
    assert_eq!(s.machine.outbox_stats().ledger, None);
    assert_eq!(confirm_by(&mut s, first, 0), None, "the first word admits it");
    assert_eq!(confirm_by(&mut s, staging, 9), None);
    let stats = s.machine.outbox_stats();
    assert_eq!((stats.ledger, stats.cursor, stats.batches), (Some(first), 0, 10));
    assert_eq!(confirm_by(&mut s, first, 11), None, "more than was cut is not cut to it");
    assert_eq!(s.machine.outbox_stats().cursor, 0);
    assert_eq!(confirm_by(&mut s, first, 9), Some(7));
    // A newly built database has none of the batches that the shard still keeps.
    let stamp = s.machine.elapsed().0 as i64 + 1;
    assert_eq!(s.item(stamp, Item::AdmitLedger { ledger: staging }), ItemOutcome::Done);
    let stats = s.machine.outbox_stats();
    assert_eq!((stats.ledger, stats.kept, stats.cursor, stats.batches), (Some(staging), 7, 7, 3));
    assert!(stats.bytes > 0);
    assert_eq!(s.item(stamp, Item::AdmitLedger { ledger: staging }), ItemOutcome::Done);
    assert_eq!(confirm_by(&mut s, first, 10), None);
    let restored = Machine::restore(SHARD, Default::default(), &s.machine.snapshot()).unwrap();
    assert_eq!(restored.outbox_stats(), s.machine.outbox_stats());
    assert_eq!(confirm_by(&mut s, staging, 10), None);
    assert_eq!((s.machine.outbox_stats().cursor, s.machine.outbox_stats().bytes), (10, 0));
}

#[test]
fn the_first_name_of_a_site_is_its_name_for_good() {
    let mut s = Shard::new(rules(1_024));
    let [first, other] = [1, 2].map(|generation| SiteIncarnation { generation, random: 7 });
    assert_eq!(s.machine.incarnation(), None);
    s.apply(1_000, vec![Command::Incarnation(first), Command::Incarnation(other)]);
    s.apply(2_000, vec![Command::Incarnation(other)]);
    let restored = Machine::restore(SHARD, Default::default(), &s.machine.snapshot()).unwrap();
    assert_eq!((s.machine.incarnation(), restored.incarnation()), (Some(first), Some(first)));
}

#[test]
fn what_is_gathered_turn_by_turn_has_each_stream_once_whatever_is_done_between_the_turns() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let most = CountingRules {
            retire_idle_after_s: 120,
            max_streams: 10_000,
            max_names_bytes: 16 << 20,
            ..rules(4 << 20)
        };
        let mut s = Shard::new(most);
        let (mut at, mut counted) = (0, BTreeMap::<String, u64>::new());
        let mut publish = |s: &mut Shard, counted: &mut BTreeMap<String, u64>, random: &mut fastrand::Rng| {
            at += random.i64(0..700);
            let device = format!("d{:03}", random.u32(0..150));
            let readings = vec![reading(at, 1.0)];
            let items = vec![Item::Publish(PublishItem { source: None, readings })];
            s.submit(at, &Submission { streams: vec![name(&device, "s")], items, ..Submission::default() });
            s.tick(at);
            *counted.entry(device).or_default() += 1;
            if random.u32(0..10) == 0 {
                let cursor = s.machine.outbox_stats().last;
                s.apply(at, vec![Command::Confirmed { ledger: LedgerId(1), cursor }]);
            }
        };
        for _ in 0..300 {
            publish(&mut s, &mut counted, &mut random);
        }
        let (before, stats) = (counted.clone(), s.machine.outbox_stats());
        let mut gathering = Gathering::new(&ALL, &Page::default());
        let mut turns = 1;
        while !gathering.go_on(&s.machine, &mut random.usize(1..40)) {
            turns += 1;
            for _ in 0..random.u32(0..20) {
                publish(&mut s, &mut counted, &mut random);
            }
        }
        assert!(turns > 5 && s.machine.outbox_stats().last > stats.last, "nothing happened meanwhile");
        let mut scan = gathering.into_scan();
        for seq in scan.wanted() {
            assert!(scan.look_at(seq, &s.batches[seq as usize - 1].bytes));
        }
        let told = scan.finish();
        assert_eq!((told.next, told.since), (None, None));
        let mut found = BTreeMap::<String, u64>::new();
        for w in &told.windows {
            *found.entry(w.device.to_string()).or_default() += w.aggregate.count;
        }
        for (device, after) in &counted {
            let (before, found) = (before.get(device).copied().unwrap_or(0), found.get(device).copied());
            // A stream that was retired may be missing; a stream that became known behind the place already
            // reached is found.
            if let Some(found) = found {
                assert!((before.min(*after)..=*after).contains(&found), "{device}: {before} {found} {after}");
            }
        }
        assert!(found.len() > 100, "{} of {}", found.len(), counted.len());
    }
}

#[test]
fn a_list_of_devices_looks_at_so_many_streams_and_goes_on_behind_the_last() {
    let most = CountingRules {
        max_streams: 100_000,
        max_streams_per_device: 5_000,
        max_names_bytes: 64 << 20,
        ..rules(0)
    };
    let mut s = Shard::new(most);
    for device in ["a", "b", "c", "d"] {
        for part in 0..5 {
            let streams: Vec<_> = (0..1_000).map(|i| name(device, &format!("{part}-{i}"))).collect();
            let readings = (0..1_000).map(|stream| Reading { stream, ..reading(1_000, 1.0) }).collect();
            let items = vec![Item::Publish(PublishItem { source: None, readings })];
            s.submit(1_000, &Submission { streams, items, ..Submission::default() });
        }
    }
    let (mut pages, mut after) = (Vec::new(), None::<String>);
    loop {
        let (page, more) = s.machine.devices(after.as_deref(), 256);
        after = page.last().map(|d| d.device.to_string());
        pages.push(page.iter().map(|d| d.device.to_string()).collect::<Vec<_>>().concat());
        if !more {
            break;
        }
    }
    assert_eq!(pages, ["ab", "cd"]);
}
