//! A shard of one replica, turn by turn.

#![allow(clippy::disallowed_methods)] // A turn is measured.

use selvedge_fabric::machine::{
    BatchVerdict, ConnectItem, CountingRules, DisconnectItem, Item, ItemOutcome, Judged, Machine, Origin,
    Page, PublishItem, Query, Reading, Scan, Submission,
};
use selvedge_fabric::peer::{ForwardAnswer, PeerMessage, ShardQuery, TransferMessage};
use selvedge_fabric::shard::{
    MAX_SUBMISSION_BYTES, NOTE_ELAPSED_MS, Now, ShardCore, ShardEffects, ShardEvent, ShardSettings,
    SnapshotState,
};
use selvedge_paxos::{GroupConfig, Limits, MAX_COUNT, Recovered};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{LedgerId, StreamName};
use std::num::NonZeroU64;
use std::sync::Arc;

const ME: GatewayId = GatewayId(1);
const ORIGIN: Origin = Origin { gateway: ME, start: 1 };

struct Host {
    shard: ShardCore,
    mono_ms: u64,
    /// The wall clock when the monotonic clock showed 0, and whether a majority agrees.
    wall: i64,
    sure: bool,
    answers: Vec<(u64, ForwardAnswer)>,
    cut: Vec<u64>,
    released: Option<u64>,
    /// The ids of questions that are gathered.
    scans: Vec<(u64, Scan)>,
}

impl Host {
    fn new(rules: CountingRules) -> Self {
        let rules = Arc::new(rules);
        let group = GroupConfig::new(ShardId(0), ME, vec![ME], Limits::default());
        let settings =
            ShardSettings { group, rules: rules.clone(), outbox_budget_bytes: 1 << 20, incarnation: 1 };
        let shard =
            ShardCore::recover(settings, Machine::new(ShardId(0), rules), Recovered::default()).unwrap();
        let (answers, cut, scans) = (Vec::new(), Vec::new(), Vec::new());
        let (wall, sure) = (1_764_000_000_000, true);
        let mut host = Self { shard, mono_ms: 0, wall, sure, answers, cut, released: None, scans };
        host.settle();
        host.wait(1_000);
        assert!(host.shard.serves());
        host
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.mono_ms, wall: EpochMs(self.wall + self.mono_ms as i64), sure: self.sure }
    }

    fn step(&mut self, event: ShardEvent) {
        self.shard.step(self.now(), event);
    }

    /// Runs turns until nothing is left to write; every write is on disk at once.
    fn settle(&mut self) {
        loop {
            let ShardEffects { send, records, token, cut, released, scans, .. } =
                self.shard.take(self.now()).unwrap();
            self.scans.extend(scans.into_iter().map(|s| (s.id, s.scan)));
            for (_, message) in send {
                if let PeerMessage::Forwarded { n, answer, .. } = message {
                    self.answers.push((n, answer));
                }
            }
            self.cut.extend(cut.into_iter().map(|c| c.seq));
            self.released = released.or(self.released);
            if records.is_empty() {
                return;
            }
            self.step(ShardEvent::Persisted { token });
        }
    }

    fn wait(&mut self, ms: u64) {
        let until = self.mono_ms + ms;
        while let Some(at) = self.shard.deadline_ms(self.now()).filter(|at| *at <= until) {
            self.mono_ms = at.max(self.mono_ms + 1);
            self.step(ShardEvent::Timer);
            self.settle();
        }
        self.mono_ms = until;
    }

    fn forward(&mut self, n: u64, submission: Vec<u8>) -> Vec<(u64, ForwardAnswer)> {
        self.step(ShardEvent::Forward { from: ME, origin: ORIGIN, n, submission: submission.into() });
        self.settle();
        std::mem::take(&mut self.answers)
    }
}

fn readings(streams: &[&str]) -> Vec<u8> {
    let item = |(stream, _)| {
        let reading = Reading { stream, time: None, value: 1.0, seq: None, boot: None };
        Item::Publish(PublishItem { source: None, readings: vec![reading] })
    };
    let name = |s: &&str| StreamName { device: "d".into(), stream: s.to_string() };
    Submission {
        streams: streams.iter().map(name).collect(),
        makers: Vec::new(),
        items: (0..).zip(streams).map(item).collect(),
    }
    .encode()
}

#[test]
fn a_batch_whose_answer_was_lost_is_told_the_same_again_if_it_said_more_than_done() {
    let mut host = Host::new(CountingRules { max_streams: 1, ..CountingRules::default() });
    let first = host.forward(1, readings(&["a", "b"]));
    let [(1, ForwardAnswer::Verdict { verdict: BatchVerdict::Applied(outcomes), .. })] = &first[..] else {
        panic!("{first:?}")
    };
    let outcomes: Vec<&ItemOutcome> = outcomes.iter().collect();
    assert!(matches!(
        outcomes[..],
        [ItemOutcome::Judged(Judged { counted: 1, .. }), ItemOutcome::Judged(Judged { counted: 0, .. })]
    ));
    assert_eq!(host.forward(1, readings(&["a", "b"])), first);
    host.forward(2, readings(&["a"]));
    let again = host.forward(2, readings(&["a"]));
    assert_eq!(again, [(2, ForwardAnswer::Verdict { slot: 0, verdict: BatchVerdict::AlreadyApplied })]);
}

#[test]
fn nobody_uses_up_the_numbers_or_the_starts_of_another_gateway() {
    let mut host = Host::new(CountingRules::default());
    let submission: Arc<[u8]> = readings(&["a"]).into();
    for (from, start) in [(GatewayId(2), ORIGIN.start), (GatewayId(2), ORIGIN.start + 1), (ME, u64::MAX)] {
        let origin = Origin { gateway: ME, start };
        host.step(ShardEvent::Forward { from, origin, n: 1, submission: submission.clone() });
        host.settle();
        assert!(host.shard.machine().origin(ME).is_none(), "{from} under {origin:?}");
    }
    let answers = host.forward(1, submission.to_vec());
    assert!(matches!(answers[..], [(1, ForwardAnswer::Verdict { slot: 1.., .. })]), "{answers:?}");
}

#[test]
fn a_submission_too_large_to_propose_is_refused_and_those_behind_it_go_on() {
    let mut host = Host::new(CountingRules::default());
    let answers = host.forward(1, vec![1; MAX_SUBMISSION_BYTES + 1]);
    assert!(matches!(answers[..], [(1, ForwardAnswer::Verdict { verdict: BatchVerdict::Malformed, .. })]));
    let answers = host.forward(2, readings(&["a"]));
    assert!(matches!(answers[..], [(2, ForwardAnswer::Verdict { verdict: BatchVerdict::Applied(_), .. })]));
}

#[test]
fn elapsed_time_is_counted_on_the_monotonic_clock_and_a_wall_time_that_is_not_sure_goes_on_by_it() {
    const YEARS: i64 = 20 * 31_557_600_000;
    let mut host = Host::new(CountingRules::default());
    host.forward(1, readings(&["a"]));
    let clocks = |host: &Host| {
        let machine = host.shard.machine();
        (machine.elapsed().0, machine.wall().0, machine.is_sure())
    };
    let (elapsed, wall, _) = clocks(&host);
    assert!(elapsed <= host.mono_ms);
    // The leader's own clock leaps, without agreement.
    host.mono_ms += 5_000;
    (host.wall, host.sure) = (host.wall + YEARS, false);
    host.forward(2, readings(&["a"]));
    assert_eq!(clocks(&host), (elapsed + 5_000, wall + 5_000, false));
    // The others' clocks have leapt, too.
    host.sure = true;
    host.forward(3, readings(&["a"]));
    assert_eq!(clocks(&host), (elapsed + 5_000, wall + 5_000 + YEARS, true));
    // And back to 1970.
    host.wall = 0;
    host.mono_ms += 1;
    host.forward(4, readings(&["a"]));
    assert_eq!(clocks(&host), (elapsed + 5_001, host.mono_ms as i64, true));
    // While nothing is due for long, a leader with something waiting notes the elapsed time.
    let at = Origin { gateway: ME, start: 1 };
    let connect =
        ConnectItem { client: "c".into(), at, connection: 1, clean: false, expiry_s: 86_400, will: None };
    let item = |item| {
        Submission::<StreamName> { streams: Vec::new(), makers: Vec::new(), items: vec![item] }.encode()
    };
    host.forward(5, item(Item::Connect(connect)));
    host.wait(60_000);
    let gone = DisconnectItem { client: "c".into(), epoch: 1, at, with_will: false, expiry_s: None };
    host.forward(6, item(Item::Disconnect(gone)));
    let (before, ..) = clocks(&host);
    host.wait(5 * NOTE_ELAPSED_MS + 1_000);
    assert_eq!(clocks(&host).0, before + 5 * NOTE_ELAPSED_MS);
}

#[test]
fn a_stream_that_falls_silent_is_closed_cut_and_confirmed_and_then_nothing_is_due() {
    let mut host = Host::new(CountingRules { recent_bytes: 0, ..CountingRules::default() });
    host.forward(1, readings(&["a"]));
    host.wait(60_000);
    assert_eq!(host.cut, [1]);
    host.step(ShardEvent::Confirmed { ledger: LedgerId(1), cursor: 1 });
    host.settle();
    assert_eq!((host.released, host.shard.deadline_ms(host.now())), (Some(1), None));
}

#[test]
fn without_room_a_tick_that_is_due_does_not_spin() {
    let mut host = Host::new(CountingRules::default());
    host.forward(1, readings(&["a"]));
    host.step(ShardEvent::Room(false));
    host.settle();
    host.mono_ms += 60_000;
    assert_eq!(host.shard.deadline_ms(host.now()), None);
    host.step(ShardEvent::Room(true));
    host.settle();
    host.wait(10_000);
    assert_eq!(host.cut, [1]);
}

/// What one of three replicas does when another sends it these events.
fn told(messages: impl IntoIterator<Item = TransferMessage>) -> ShardEffects {
    let rules = Arc::new(CountingRules::default());
    let members = vec![ME, GatewayId(2), GatewayId(3)];
    let group = GroupConfig::new(ShardId(0), ME, members, Limits::default());
    let settings =
        ShardSettings { group, rules: rules.clone(), outbox_budget_bytes: 1 << 20, incarnation: 1 };
    let machine = Machine::new(ShardId(0), rules);
    let mut shard = ShardCore::recover(settings, machine, Recovered::default()).unwrap();
    let now = Now { mono_ms: 1_000, wall: EpochMs(0), sure: false };
    for message in messages {
        shard.step(now, ShardEvent::Transfer { from: GatewayId(2), configuration: 1, message });
    }
    shard.take(now).unwrap()
}

#[test]
fn why_a_transfer_was_given_up_is_said() {
    let (slot, data) = (9, b"no state of a machine".to_vec());
    let (bytes, right) = (data.len() as u64, crc32c::crc32c(&data));
    for (crc, why) in [(right, "it does not decode"), (right ^ 1, "its checksum is wrong")] {
        let offer = TransferMessage::Offer { slot, bytes, crc };
        let state = TransferMessage::State { slot, offset: 0, data: data.clone() };
        let effects = told([TransferMessage::Behind, offer, state]);
        assert_eq!(effects.given_up, Some((GatewayId(2), why)));
    }
}

#[test]
fn a_replica_that_is_held_to_a_rate_rests_between_pieces() {
    let rules = Arc::new(CountingRules::default());
    let group = GroupConfig::new(ShardId(0), ME, vec![ME, GatewayId(2), GatewayId(3)], Limits::default());
    let settings =
        ShardSettings { group, rules: rules.clone(), outbox_budget_bytes: 1 << 20, incarnation: 1 };
    let machine = Machine::new(ShardId(0), rules);
    let mut shard = ShardCore::recover(settings, machine, Recovered::default()).unwrap();
    let (slot, bytes) = (9, 10_000);
    // Fetches a piece of 1,000 bytes at this time, and returns after how long the replica asks for the next one.
    let asks_after = |shard: &mut ShardCore, at_ms: u64, offset: u64| {
        let now = |mono_ms| Now { mono_ms, wall: EpochMs(0), sure: false };
        let state = TransferMessage::State { slot, offset, data: vec![0; 1_000] };
        let event = ShardEvent::Transfer { from: GatewayId(2), configuration: 1, message: state };
        shard.step(now(at_ms), event);
        (0..20_000).find(|ms| {
            shard.step(now(at_ms + ms), ShardEvent::Timer);
            let sent = shard.take(now(at_ms + ms)).unwrap().send;
            let next = TransferMessage::FetchState { slot, offset: offset + 1_000 };
            sent.iter().any(|(_, m)| matches!(m, PeerMessage::Transfer { message, .. } if *message == next))
        })
    };
    let now = Now { mono_ms: 1_000, wall: EpochMs(0), sure: false };
    for message in [TransferMessage::Behind, TransferMessage::Offer { slot, bytes, crc: 0 }] {
        shard.step(now, ShardEvent::Transfer { from: GatewayId(2), configuration: 1, message });
    }
    shard.take(now).unwrap();
    assert_eq!(asks_after(&mut shard, 1_000, 0), Some(0));
    let rate = |bytes_per_s| ShardEvent::TransferRate { bytes_per_s: NonZeroU64::new(bytes_per_s) };
    shard.step(now, rate(2_000));
    assert_eq!(asks_after(&mut shard, 2_000, 1_000), Some(500));
    let transfer = shard.status(now).transfer;
    assert_eq!((transfer.done_bytes, transfer.total_bytes), (2_000, bytes));
    shard.step(now, rate(1));
    assert_eq!(asks_after(&mut shard, 4_000, 2_000), Some(5_000), "its sender waits no longer for it");
    shard.step(now, rate(0));
    assert_eq!(asks_after(&mut shard, 10_000, 3_000), Some(0), "it moves here no more");
}

#[test]
fn a_snapshot_beyond_the_last_slot_that_a_group_believes_in_is_not_fetched() {
    let fetches = |slot| {
        let fetch = TransferMessage::FetchState { slot, offset: 0 };
        let is_fetch =
            |m: &PeerMessage| matches!(m, PeerMessage::Transfer { message, .. } if *message == fetch);
        let offer = TransferMessage::Offer { slot, bytes: 100, crc: 0 };
        told([TransferMessage::Behind, offer]).send.iter().any(|(_, message)| is_fetch(message))
    };
    assert!(fetches(MAX_COUNT));
    assert!(!fetches(MAX_COUNT + 1), "its machine would jump ahead of its group for good");
}

#[test]
fn while_its_machine_is_lent_a_shard_answers_its_peers_and_applies_nothing_and_then_all_that_gathered() {
    let mut host = Host::new(CountingRules::default());
    host.step(ShardEvent::SnapshotWanted);
    let (slot, state) = host.shard.take(host.now()).unwrap().snapshot.expect("something was applied");
    let SnapshotState::Lent(machine) = state else { panic!("it is its own") };
    assert_eq!((host.shard.machine().slot(), machine.slot()), (slot, slot));
    for n in 1..=3 {
        assert_eq!(host.forward(n, readings(&["a"])), []);
    }
    assert!(host.shard.consensus().commit() >= slot + 3, "what comes is chosen meanwhile");
    assert_eq!(host.shard.machine().slot(), slot);
    let encoded = machine.snapshot();
    drop(machine);
    host.step(ShardEvent::MachineReturned);
    host.settle();
    let answered: Vec<u64> = std::mem::take(&mut host.answers).into_iter().map(|(n, _)| n).collect();
    assert_eq!(answered, [1, 2, 3]);
    let restored = Machine::restore(ShardId(0), Arc::new(CountingRules::default()), &encoded).unwrap();
    assert_eq!(restored.slot(), slot, "it was not changed while it was read");
}

#[test]
fn a_snapshot_that_found_no_room_is_made_again_when_the_log_asks_though_nothing_is_new() {
    let mut host = Host::new(CountingRules::default());
    let mut wanted = || {
        host.step(ShardEvent::SnapshotWanted);
        host.shard.take(host.now()).unwrap().snapshot.map(|(slot, _)| slot)
    };
    let slot = wanted().expect("something was applied");
    assert_eq!(wanted(), None, "one at a time");
    for saved in [false, true] {
        host.step(ShardEvent::SnapshotSaved { slot, saved });
        host.step(ShardEvent::SnapshotWanted);
        let again = host.shard.take(host.now()).unwrap().snapshot.map(|(slot, _)| slot);
        assert_eq!(again, (!saved).then_some(slot));
    }
}

/// A shard with this many devices of one stream each.
fn with_devices(count: u32) -> Host {
    let mut host = Host::new(CountingRules {
        max_streams: count + 1,
        max_names_bytes: 64 << 20,
        max_open_parts: 1_000_000,
        recent_bytes: 0,
        ..CountingRules::default()
    });
    for n in 0..count.div_ceil(1_000) {
        let names = n * 1_000..count.min((n + 1) * 1_000);
        let reading = |stream| Reading { stream, time: None, value: 1.0, seq: None, boot: None };
        let name = |i| StreamName { device: format!("press-{i:05}"), stream: "temperature".into() };
        let readings = (0..names.len() as u32).map(reading).collect();
        let items = vec![Item::Publish(PublishItem { source: None, readings })];
        let streams = names.map(name).collect();
        host.forward(u64::from(n) + 1, Submission { streams, makers: Vec::new(), items }.encode());
    }
    host
}

fn ask(from: u16, id: u64, device: &str, wait_ms: u32) -> ShardEvent {
    let (from_time, to) = (EpochMs(i64::MIN), EpochMs(i64::MAX));
    let query = ShardQuery {
        device: device.into(),
        stream: None,
        from: from_time,
        to,
        every_ms: None,
        stale: true,
        page: Page::default(),
        wait_ms,
    };
    ShardEvent::Query { from: GatewayId(from), id, query }
}

#[test]
fn a_question_about_very_many_names_takes_turns_and_holds_up_no_question_about_one() {
    let mut host = with_devices(10_000);
    host.step(ask(1, 1, "*-09999", 1_000));
    host.settle();
    assert_eq!(host.scans.len(), 0, "more names than one turn looks at");
    assert_eq!(host.shard.deadline_ms(host.now()), Some(host.mono_ms), "the next turn is due");
    host.step(ask(1, 1, "*-09999", 1_000));
    host.step(ask(1, 2, "press-00007", 1_000));
    host.settle();
    assert_eq!(host.scans.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2]);
    host.wait(100);
    let [(2, _), (1, _)] = &host.scans[..] else { panic!("{:?}", host.scans) };
    let rows = host.scans.drain(..).map(|(_, scan)| scan.finish().windows);
    assert_eq!(
        rows.map(|rows| rows[0].device.to_string()).collect::<Vec<_>>(),
        ["press-00007", "press-09999"]
    );
}

#[test]
fn nothing_is_gathered_for_an_asker_that_waits_no_longer_or_is_gone() {
    let mut host = with_devices(10_000);
    host.step(ask(1, 1, "*-09999", 1));
    host.step(ask(2, 2, "*-09999", 1_000));
    host.settle();
    host.step(ShardEvent::Peers { up: vec![GatewayId(3)], restarted: Vec::new() });
    host.wait(100);
    assert_eq!(host.scans.len(), 0);
    host.step(ask(3, 3, "*-09999", 1_000));
    host.wait(100);
    assert_eq!(host.scans.len(), 1);
}

/// Measures the longest turn of a shard that knows 20,000 names:
/// `cargo test --release -p selvedge-fabric --test shard -- --ignored --nocapture longest_turn`.
#[test]
#[ignore = "a measurement"]
fn longest_turn_of_a_question_about_20_000_names() {
    for pattern in ["press-*", "*-19999", "*9*9*9*"] {
        let mut host = with_devices(20_000);
        let (from, to) = (EpochMs(i64::MIN), EpochMs(i64::MAX));
        let query = Query { device: pattern, stream: None, from, to, every_ms: None };
        // The best of several runs, because other programs take processor time, too.
        let mut best = [std::time::Duration::MAX; 2];
        let mut turns = 0;
        for id in 0..20 {
            let began = std::time::Instant::now();
            let whole = host.shard.machine().scan(&query, &Page::default());
            best[0] = best[0].min(began.elapsed());
            host.step(ask(1, id, pattern, 60_000));
            let mut longest = std::time::Duration::ZERO;
            turns = 0;
            while host.scans.is_empty() {
                let began = std::time::Instant::now();
                host.settle();
                longest = longest.max(began.elapsed());
                turns += 1;
            }
            best[1] = best[1].min(longest);
            assert_eq!(host.scans.pop().unwrap().1.finish(), whole.finish());
        }
        let [at_once, longest] = best;
        println!("{pattern}: at once {at_once:?}; {turns} turns, the longest {longest:?}");
    }
}
