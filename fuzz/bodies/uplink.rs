//! The uplink at the node: what a broker can do to sealed frames, and what a holder of a site's secret could put into
//! them. What is let in is such as the store can hold, and each number counts once.

use crate::source::Source;
use selvedge_node_core::progress::{MAX_HOLES_ENTRIES, ShardProgress, Verdict};
use selvedge_node_core::verify::Verifier;
use selvedge_seal::{Opener, Sealer, SiteSecret};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::ids::{MAX_NAME_BYTES, ShardId, SiteId};
use selvedge_types::sealed::MAX_SEALED_BYTES;
use selvedge_types::sequences::{SequenceSpan, Sequences};
use selvedge_types::time::{EpochMs, TIME_RANGE};
use selvedge_types::uplink::{
    Batch, Down, LedgerId, LostBatch, Part, StreamName, Up, ack_topic, parse_topic, up_topic,
};
use std::collections::BTreeSet;

const SHARD: ShardId = ShardId(3);
const NOW: i64 = 1_764_000_000_000;

fn site() -> SiteId {
    SiteId::new("plant-7").expect("a name")
}

fn secret(n: u8) -> SiteSecret {
    let hex: String = (0..32).map(|i| format!("{:02x}", i * 7 + n)).collect();
    SiteSecret::from_hex(&hex).expect("a secret")
}

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(5) {
        0 => raw(&mut source),
        1 => altered(&mut source),
        2 => progress(&mut source),
        _ => authentic(&mut source),
    }
}

/// Bytes of no origin.
fn raw(source: &mut Source) {
    let topic = if source.flag() { up_topic(&site(), SHARD) } else { source.text(60) };
    if let Some((way, site, shard)) = parse_topic(&topic) {
        let again = if way == "up" { up_topic(&site, shard) } else { ack_topic(&site, shard) };
        assert_eq!(again, topic);
    }
    let bytes = source.rest();
    assert!(Verifier::new([(&site(), &secret(1))]).verify(&topic, bytes).is_err(), "nobody sealed this");
    let _ = Batch::decode(bytes).map(|batch| Batch::decode(&batch.encode()).expect("it decoded before"));
}

/// A frame that was sealed and then changed, moved or cut.
fn altered(source: &mut Source) {
    let seq = source.number(5);
    let mut sealed = if source.flag() {
        let mut sealer = Sealer::<Up>::new(&secret(1), &site()).expect("randomness");
        sealer.seal(SHARD, seq, &Up::Beacon { first_kept: 1, last: 9 })
    } else {
        let mut sealer = Sealer::<Down>::new(&secret(1), &site()).expect("randomness");
        sealer.seal(SHARD, seq, &Down::Confirm { ledger: LedgerId(1), cursor: seq })
    }
    .expect("small");
    let before = sealed.clone();
    for _ in 0..source.below(4) {
        let at = source.below(sealed.len());
        match source.below(4) {
            0 => sealed.truncate(at),
            1 => sealed.extend(source.bytes(20)),
            _ => {
                if let Some(byte) = sealed.get_mut(at) {
                    *byte ^= source.byte();
                }
            }
        }
    }
    let shard = ShardId(SHARD.0 + u16::from(source.byte() < 64));
    let site = if source.byte() < 64 { SiteId::new("plant-8").expect("a name") } else { site() };
    let (mut ups, mut downs) = (Opener::<Up>::new(), Opener::<Down>::new());
    for n in [1, 2] {
        ups.add(&site, &secret(n));
        downs.add(&site, &secret(n));
    }
    let same = sealed == before && shard == SHARD && site == self::site();
    let up = ups.open(&site, shard, &sealed).map(|(n, _)| n);
    let down = downs.open(&site, shard, &sealed).map(|(n, message)| {
        assert_eq!(message, Down::Confirm { ledger: LedgerId(1), cursor: seq });
        n
    });
    assert_eq!(u8::from(up == Ok(seq)) + u8::from(down == Ok(seq)), u8::from(same), "{up:?} {down:?}");
    assert!(same || (up.is_err() && down.is_err()));
}

/// A gateway of the site that says anything.
fn authentic(source: &mut Source) {
    let mut sealer = Sealer::<Up>::new(&secret(1), &site()).expect("randomness");
    let mut verifier = Verifier::new([(&site(), &secret(1))]);
    let (first_kept, last, seq) = (source.number(1), source.number(9), source.number(5));
    let message = match source.below(8) {
        0 => Up::Beacon { first_kept, last },
        1 | 2 => Up::Batch { first_kept, last, body: source.rest().to_vec() },
        3 => {
            let (readings, parts) = (source.number(9), source.number(2) as u32);
            let (from, to) = (EpochMs(source.number(0) as i64), EpochMs(source.number(0) as i64));
            Up::Lost { first_kept, last, lost: LostBatch { readings, parts, from, to } }
        }
        _ => Up::Batch { first_kept, last, body: batch(source).encode() },
    };
    let Ok(sealed) = sealer.seal(SHARD, seq, &message) else { return };
    assert!(sealed.len() <= MAX_SEALED_BYTES);
    let Ok(incoming) = verifier.verify(&up_topic(&site(), SHARD), &sealed) else { return };
    assert!(incoming.first_kept >= 1 && incoming.first_kept - 1 <= incoming.last);
    assert!(i64::try_from(incoming.last).is_ok() && i64::try_from(incoming.first_kept).is_ok());
    let Some(content) = incoming.content else { return };
    assert!((incoming.first_kept..=incoming.last).contains(&content.seq) && content.seq == seq);
    for name in &content.batch.streams {
        for text in [&name.device, &name.stream] {
            assert!((1..=MAX_NAME_BYTES).contains(&text.len()));
        }
    }
    for part in &content.batch.parts {
        let a = &part.aggregate;
        assert!((part.stream as usize) < content.batch.streams.len() && part.width_ms > 0);
        assert!((1..=i64::MAX as u64).contains(&a.count) && part.late <= a.count);
        for sample in [a.first, a.last] {
            assert!(TIME_RANGE.contains(&sample.time.0) && i64::try_from(sample.slot).is_ok());
        }
        assert_eq!(part.start.window_start(part.width_ms), part.start);
        // What the node does with it: add parts up, and windows to greater ones.
        let mut sum = a.clone();
        content.batch.parts.iter().for_each(|other| sum.merge(&other.aggregate));
        for every in [part.width_ms, 3_600_000, 86_400_000] {
            let _ = part.start.window_start(every).plus(i64::from(every));
        }
    }
}

fn batch(source: &mut Source) -> Batch {
    let name = |source: &mut Source| match source.byte() {
        0..200 => "d".to_string(),
        200..230 => source.text(20),
        n => "x".repeat(usize::from(n) + 26),
    };
    let streams = (0..source.below(3)).map(|_| StreamName { device: name(source), stream: name(source) });
    let streams: Vec<_> = streams.collect();
    let mut parts = Vec::new();
    for _ in 0..source.below(5) {
        let sample = |source: &mut Source| Sample {
            time: EpochMs(source.time(NOW)),
            slot: source.number(1),
            index: source.number(0) as u32,
            value: source.float(),
        };
        let first = sample(source);
        let mut aggregate = if source.flag() { Aggregate::sketched(first) } else { Aggregate::of(first) };
        (0..source.below(4)).for_each(|_| aggregate.add(sample(source)));
        if source.flag() {
            aggregate.count = source.number(2);
            (aggregate.min, aggregate.max) = (source.float(), source.float());
            (aggregate.last, aggregate.fingerprint) = (sample(source), source.u64());
        }
        let width_ms = source.number(10_000) as u32;
        let start = EpochMs(source.time(NOW));
        // Mostly aligned, as far as that can be said of it.
        let aligned = start.0.checked_rem_euclid(i64::from(width_ms)).and_then(|r| start.0.checked_sub(r));
        parts.push(Part {
            stream: source.below(3) as u32,
            width_ms,
            start: if source.byte() < 32 { start } else { EpochMs(aligned.unwrap_or(start.0)) },
            aggregate,
            late: if source.flag() { 0 } else { source.number(1) },
            watermark: EpochMs(source.time(NOW)),
            set_aside: if source.flag() { 0 } else { source.number(1) },
            sequences: sequences(source),
        });
    }
    Batch { streams, parts }
}

fn sequences(source: &mut Source) -> Sequences {
    let span = |source: &mut Source| {
        let (a, b) = (source.u64(), source.u64());
        let boot = source.flag().then(|| source.number(0));
        SequenceSpan { boot, first: a.min(b), last: a.max(b), count: source.u64().max(1) }
    };
    let list: Vec<_> = (0..source.below(6)).map(|_| span(source)).collect();
    Sequences::from_list(&list)
}

/// Numbers in any order, with holes that open and are filled.
fn progress(source: &mut Source) {
    let mut progress = ShardProgress::default();
    let mut applied = BTreeSet::new();
    for _ in 0..400 {
        if source.is_empty() {
            break;
        }
        let before = progress.cursor();
        match source.below(4) {
            0 => progress.skip_below(source.number(before.saturating_add(4))),
            1 => {
                let again = ShardProgress::restore(
                    progress.cursor(),
                    applied.iter().copied(),
                    progress.holes().iter().copied(),
                );
                assert_eq!(again, progress);
            }
            _ => {
                let seq = source.number(before.saturating_add(2));
                if progress.apply(seq) == Verdict::New {
                    assert!(applied.insert(seq), "{seq} counts twice");
                } else if progress.holes().len() < MAX_HOLES_ENTRIES {
                    assert!(seq == 0 || applied.contains(&seq), "{seq} never came and is taken for known");
                }
            }
        }
        assert!(progress.cursor() >= before, "a cursor never goes back");
        let cursor = progress.cursor();
        assert!(!applied.contains(&cursor.saturating_add(1)) || cursor == u64::MAX);
        for hole in progress.holes() {
            assert!(hole.first <= hole.last && hole.last <= cursor);
            assert!(applied.range(hole.first..=hole.last).next().is_none(), "applied, and a hole");
        }
    }
}
