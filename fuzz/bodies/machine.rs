//! A shard's machine: commands that nobody honest makes, in any order, and snapshots that only look like some.
//! It keeps its bounds, makes the same of the same, and comes back from its own snapshot as it was.

use crate::source::Source;
use selvedge_fabric::machine::{
    Applied, BatchVerdict, Command, ConnectItem, CountingRules, DisconnectItem, Item, ItemOutcome,
    MAX_TOMBSTONES_ENTRIES, Machine, Maker, Origin, Page, Proposal, PublishItem, Quarantined, Query, Reading,
    Readmit, Scanned, SessionWill, Source as By, Submission,
};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::{Batch, LedgerId, MAX_BATCH_BYTES, StreamName};
use std::sync::Arc;

const SHARD: ShardId = ShardId(3);
const NOW: i64 = 1_764_000_000_000;
const MAX_SLOTS: usize = 200;

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let rules = Arc::new(small_rules());
    if source.byte() < 64 {
        return restored(&mut source, rules);
    }
    let (mut one, mut other) = (Machine::new(SHARD, rules.clone()), Machine::new(SHARD, rules.clone()));
    let first = Proposal {
        elapsed: ElapsedMs(0),
        wall: EpochMs(NOW),
        sure: true,
        commands: one.rules_command().into_iter().collect(),
    };
    for machine in [&mut one, &mut other] {
        let _ = machine.apply(1, &first).expect("the next slot");
    }
    let mut contents = Vec::new();
    for _ in 0..MAX_SLOTS {
        if source.is_empty() {
            break;
        }
        let Some(proposal) = proposal(&mut source, &one) else {
            raw(source.bytes(300));
            continue;
        };
        let proposal = <Proposal>::decode(&proposal.encode()).expect("it was encoded");
        let slot = one.slot() + 1;
        let applied = one.apply(slot, &proposal).expect("the next slot");
        check_applied(&applied, &mut contents, &one);
        check_bounds(&one);
        if source.byte() < 40 {
            // The other replica was restored on the way, and asked what a host asks.
            let restored = Machine::restore(SHARD, rules.clone(), &other.snapshot());
            other = restored.expect("its own snapshot");
            let _ = one.next_tick_due();
        }
        assert_eq!(other.apply(slot, &proposal).as_ref(), Ok(&applied));
        ask(&mut source, &one, &contents);
    }
    assert_eq!(one.snapshot(), other.snapshot(), "replicas differ");
    settle(&mut one, &mut contents);
}

/// Bounds that little work reaches.
fn small_rules() -> CountingRules {
    CountingRules {
        windows_ms: vec![10_000, 60_000],
        max_streams: 6,
        max_streams_per_device: 4,
        max_streams_per_client: 3,
        max_names_bytes: 1_024,
        retire_idle_after_s: 3_600,
        max_sessions: 3,
        max_subscriptions: 4,
        max_clients: 3,
        quarantine_bytes: 1_000,
        max_open_parts: 20,
        max_outbox_batches: 8,
        recent_bytes: 3_000,
        ..CountingRules::default()
    }
}

fn raw(bytes: &[u8]) {
    if let Ok(proposal) = <Proposal>::decode(bytes) {
        let again = <Proposal>::decode(&proposal.encode()).expect("it decoded before");
        assert_eq!(again.encode(), proposal.encode());
    }
    if let Ok(submission) = Submission::decode(bytes) {
        let bytes = submission.encode();
        let again = Submission::decode(&bytes).expect("it decoded before");
        assert_eq!(again.encode(), bytes);
    }
}

fn check_applied(applied: &Applied, contents: &mut Vec<Vec<u8>>, machine: &Machine) {
    for batch in &applied.batches {
        contents.push(batch.bytes.clone());
        assert_eq!(batch.seq, contents.len() as u64, "seqs have no gaps");
        assert!(batch.bytes.len() <= MAX_BATCH_BYTES);
        let decoded = Batch::decode(&batch.bytes).expect("the node reads it");
        assert!(!decoded.parts.is_empty());
        let kept = machine.batch_record(batch.seq);
        // One may be given up as lost in the very slot that cuts it.
        let sound = kept.is_some_and(|r| r.lost || r.matches(&batch.bytes));
        assert!(sound || batch.seq <= machine.outbox_stats().kept);
    }
    for (_, _, verdict) in &applied.verdicts {
        if let BatchVerdict::Applied(outcomes) = verdict {
            let told = |o: &ItemOutcome| !matches!(o, ItemOutcome::Refused(why) if why.is_empty() || why.len() > 300);
            assert!(outcomes.iter().all(told));
        }
    }
}

fn check_bounds(machine: &Machine) {
    let (sizes, rules, outbox) = (machine.sizes(), machine.rules(), machine.outbox_stats());
    assert!(sizes.streams <= rules.max_streams.max(6) as usize && sizes.devices <= sizes.streams);
    assert!(sizes.names_bytes <= rules.max_names_bytes.max(1_024) as usize);
    assert!(sizes.tombstones <= MAX_TOMBSTONES_ENTRIES);
    assert!(sizes.open_parts <= rules.max_open_parts as usize);
    assert!(sizes.sessions <= rules.max_sessions.max(3) as usize);
    assert!(sizes.clients <= rules.max_clients.max(4096) as usize);
    assert!(
        outbox.kept <= outbox.cursor
            && outbox.cursor <= outbox.last
            && outbox.last - outbox.cursor == outbox.batches
    );
}

/// Ticks until nothing is due: that ends, and leaves no part open.
fn settle(machine: &mut Machine, contents: &mut Vec<Vec<u8>>) {
    let mut ticks = 0;
    while let Some(due) = machine.next_tick_due() {
        ticks += 1;
        assert!(ticks < 10_000, "ticks never end");
        let elapsed = due.max(machine.elapsed().plus(1));
        if elapsed.0 > 1 << 62 {
            return; // the end of time: nothing comes after it
        }
        let tick: Proposal =
            Proposal { elapsed, wall: EpochMs(NOW), sure: true, commands: vec![Command::Tick] };
        let applied = machine.apply(machine.slot() + 1, &tick).expect("the next slot");
        check_applied(&applied, contents, machine);
    }
    assert!(machine.sizes().open_parts == 0 && machine.outbox_stats().waiting_parts == 0);
}

/// What a replica answers that has these contents.
fn answered(machine: &Machine, contents: &[Vec<u8>], query: &Query<'_>, page: &Page) -> Scanned {
    let mut scan = machine.scan(query, page);
    for seq in scan.wanted() {
        let lost = machine.batch_record(seq).is_some_and(|r| r.lost);
        match contents.get(seq as usize - 1).filter(|_| !lost) {
            Some(content) => assert!(scan.look_at(seq, content)),
            None => scan.give_up(seq),
        }
    }
    scan.finish()
}

fn ask(source: &mut Source, machine: &Machine, contents: &[Vec<u8>]) {
    if source.byte() < 200 {
        return;
    }
    let query = Query {
        device: source.pick(&["a", "*", "*a*"]),
        stream: None,
        from: EpochMs(source.time(NOW)),
        to: EpochMs(source.time(NOW)),
        every_ms: source.flag().then(|| source.number(60_000) as u32),
    };
    let windows = answered(machine, contents, &query, &Page::default()).windows;
    for window in &windows {
        assert!(window.aggregate.count > 0 && window.start < query.to);
    }
    assert!(windows.windows(2).all(|two| two[0].order() < two[1].order()));
    // Page by page it is the same.
    let (mut after, mut pages) = (None, Vec::new());
    loop {
        let page = Page { after, limit: 1 + source.below(3) as u32, ..Page::default() };
        let Scanned { windows: more, next, .. } = answered(machine, contents, &query, &page);
        pages.extend(more);
        assert!(pages.len() <= windows.len());
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages.len(), windows.len());
    let _ = machine.devices(Some("a"), source.below(9));
    let _ = machine.streams("a");
}

fn proposal(source: &mut Source, machine: &Machine) -> Option<Proposal> {
    let (elapsed, wall) = match source.byte() {
        0..8 => return None,
        8..16 => (ElapsedMs(source.u64()), EpochMs(source.time(NOW))),
        16..32 => (machine.elapsed(), EpochMs(source.time(NOW))),
        n => (machine.elapsed().plus(u64::from(n) * 100), machine.wall().plus(i64::from(n) * 100)),
    };
    let sure = source.byte() > 40;
    let commands = (0..source.below(4)).map(|_| command(source, machine)).collect();
    Some(Proposal { elapsed, wall, sure, commands })
}

fn command(source: &mut Source, machine: &Machine) -> Command {
    match source.below(13) {
        0 | 1 => Command::Tick,
        2 => {
            let stats = machine.outbox_stats();
            Command::Confirmed {
                ledger: LedgerId(u128::from(source.flag())),
                cursor: if source.flag() { stats.last } else { source.number(stats.cursor) },
            }
        }
        3 if source.flag() => Command::Lost { origin: origin(source) },
        3 if source.flag() => Command::LostBatch { seq: source.number(machine.outbox_stats().cursor) },
        3 => Command::Upgrade { level: source.number(1) as u32 },
        4 => {
            let rules = CountingRules {
                windows_ms: vec![source.number(10_000) as u32, 60_000],
                allowed_lateness_ms: source.number(0) as u32,
                idle_close_ms: source.number(100) as u32,
                max_open_parts: source.number(20) as u32,
                recent_bytes: source.number(5) as u32,
                ..small_rules()
            };
            Command::Rules(Box::new(rules))
        }
        _ => {
            let gateway = GatewayId(source.below(3) as u16);
            let known = machine.origin(gateway).unwrap_or((1, 0));
            let wild = source.byte() < 24;
            let start = if wild { source.number(known.0) } else { known.0 };
            let n = if wild { source.number(known.1) } else { known.1.wrapping_add(1) };
            let submission =
                if source.byte() < 16 { source.bytes(200).to_vec() } else { submission(source).encode() };
            Command::Forwarded { origin: Origin { gateway, start }, n, submission: submission.into() }
        }
    }
}

fn name(source: &mut Source) -> String {
    match source.byte() {
        n @ 0..240 => ["a", "b", "c"][usize::from(n) % 3].to_string(),
        240..250 => source.text(12),
        n => "x".repeat(usize::from(n)),
    }
}

fn submission(source: &mut Source) -> Submission {
    let streams = (0..1 + source.below(3)).map(|_| StreamName { device: name(source), stream: name(source) });
    let streams: Vec<_> = streams.collect();
    let count = streams.len() as u32;
    let maker = |stream| source.flag().then(|| Maker { stream, client: name(source) });
    let makers = (0..count).filter_map(maker).collect();
    let items = (0..source.below(4)).map(|_| item(source)).collect();
    Submission { streams, makers, items }
}

fn item(source: &mut Source) -> Item {
    let client = name(source);
    let epoch = source.number(2);
    match source.below(16) {
        0 => Item::Connect(ConnectItem {
            client,
            at: origin(source),
            connection: source.number(1),
            clean: source.flag(),
            expiry_s: source.number(10) as u32,
            will: source.flag().then(|| {
                let (topic, payload) = (source.text(6), source.bytes(30).to_vec());
                Box::new(SessionWill {
                    topic,
                    payload,
                    qos: source.byte(),
                    delay_s: source.number(10) as u32,
                })
            }),
        }),
        1 if source.flag() => Item::WillDone { client, epoch, at: origin(source) },
        1 => Item::Disconnect(DisconnectItem {
            client,
            epoch,
            at: origin(source),
            with_will: source.flag(),
            expiry_s: source.flag().then(|| source.number(10) as u32),
        }),
        2 => {
            let add = (0..source.below(3)).map(|_| (source.text(6), source.byte())).collect();
            Item::Subscriptions { client, epoch, add, remove: vec![source.text(6)] }
        }
        3 => Item::Touch { client, epoch, shard: source.below(4) as u16 },
        4 if source.flag() => Item::ResendCounted(by(source, client)),
        4 => Item::Release(by(source, client)),
        5 => Item::Reading(reading(source)),
        6 => Item::Retire { device: name(source), stream: source.flag().then(|| name(source)) },
        7 => Item::Quarantine { epoch: source.number(2), publish: Box::new(quarantined(source, client)) },
        8 => {
            let (shard, id, attempt) = (source.below(2) as u16, source.number(1), source.number(0));
            let readings = (0..source.below(4)).map(|_| reading(source)).collect();
            Item::Readmit(Readmit { shard, id, attempt, readings })
        }
        9 => {
            let (id, attempt, done) = (source.number(1), source.number(0), source.flag());
            Item::Readmitted {
                id,
                attempt,
                counted: vec![source.u64()],
                far_behind: source.below(2) as u32,
                done,
            }
        }
        10 => Item::ResetSequence { device: name(source), stream: source.flag().then(|| name(source)) },
        n => {
            let by = (n > 14).then(|| by(source, client));
            let readings = (0..source.below(5)).map(|_| reading(source)).collect();
            Item::Publish(PublishItem { source: by, readings })
        }
    }
}

fn quarantined(source: &mut Source, client: String) -> Quarantined {
    let payload = source.bytes(300).to_vec();
    Quarantined {
        client,
        topic: source.text(20),
        payload_bytes: if source.flag() { payload.len() as u64 } else { source.u64() },
        payload,
        qos: source.below(4) as u8,
        packet_id: source.below(5) as u16,
        dup: source.flag(),
        at: EpochMs(source.time(0)),
        why: source.text(30),
        counted: (0..source.below(3)).map(|_| source.u64()).collect(),
        recognised: source.below(3) as u32,
        far_behind: source.below(2) as u32,
    }
}

fn origin(source: &mut Source) -> Origin {
    Origin { gateway: GatewayId(source.below(3) as u16), start: source.number(1) }
}

fn by(source: &mut Source, client: String) -> By {
    By {
        client,
        instance: source.number(1),
        epoch: source.number(2),
        packet_id: source.below(5) as u16,
        qos: source.below(4) as u8,
        dup: source.flag(),
        hash: u64::from(source.byte()) << 56,
    }
}

fn reading(source: &mut Source) -> Reading {
    Reading {
        stream: source.below(4) as u32,
        time: (source.byte() > 30).then(|| EpochMs(if source.flag() { NOW } else { source.time(NOW) })),
        value: source.float(),
        seq: source.flag().then(|| source.number(1_024)),
        boot: source.flag().then(|| source.number(1)),
    }
}

/// A snapshot with changed bytes and the right checksum: refused, or a machine that goes on.
fn restored(source: &mut Source, rules: Arc<CountingRules>) {
    let mut machine = Machine::new(SHARD, rules.clone());
    for slot in 1..=source.below(6) as u64 {
        let Some(proposal) = proposal(source, &machine) else { break };
        let _ = machine.apply(slot, &proposal);
    }
    let mut bytes = machine.snapshot();
    bytes.truncate(bytes.len() - 8);
    for _ in 0..1 + source.below(6) {
        let at = source.below(bytes.len());
        match source.below(6) {
            0 => bytes.truncate(at.max(1)),
            1 => {
                let more = source.bytes(40);
                bytes.splice(at..at, more.iter().copied());
            }
            2 => {
                // A number where a number may stand, in the form of the tables.
                let number = bincode::encode_to_vec(source.number(1), bincode::config::standard());
                let end = bytes.len().min(at + 1);
                bytes.splice(at..end, number.expect("memory"));
            }
            _ => bytes[at] = source.byte(),
        }
    }
    bytes.extend(xxhash_rust::xxh3::xxh3_64(&bytes).to_le_bytes());
    let Ok(mut machine) = Machine::restore(SHARD, rules.clone(), &bytes) else { return };
    let again = Machine::restore(SHARD, rules, &machine.snapshot()).expect("it restored before");
    assert_eq!(again.snapshot(), machine.snapshot());
    for _ in 0..20 {
        if source.is_empty() {
            break;
        }
        let Some(proposal) = proposal(source, &machine) else { break };
        let _ = machine.apply(machine.slot() + 1, &proposal).expect("the next slot");
        let _ = machine.next_tick_due();
        ask(source, &machine, &[]);
    }
    let _ = machine.snapshot();
}
