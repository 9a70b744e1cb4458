//! A shard's replica among members that say anything: what they say never makes it panic, break its order
//! (applied <= commit <= last), or write down what it can't start again from.

use crate::source::Source;
use selvedge_fabric::link::PeerFrame;
use selvedge_fabric::machine::{
    Command, CountingRules, Halt, Item, Machine, Origin, Page, Proposal, PublishItem, Reading, Submission,
};
use selvedge_fabric::peer::{BatchAnswer, PeerMessage, ShardQuery, TransferMessage};
use selvedge_fabric::record::LogRecord;
use selvedge_fabric::shard::{
    Now, Replay, ShardCore, ShardEvent, ShardSettings, SnapshotState, TransferAnswer,
};
use selvedge_paxos::{Ballot, GroupConfig, Limits, MAX_COUNT, Message, Recovered, Value};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::{LedgerId, StreamName};
use std::sync::Arc;

const SHARD: ShardId = ShardId(3);
const ME: GatewayId = GatewayId(1);
const NOW: i64 = 1_764_000_000_000;
const MAX_STEPS: usize = 400;

/// The replica with its disk.
struct Host {
    shard: ShardCore,
    now: Now,
    records: Vec<LogRecord>,
    /// What is durable, once that was said.
    token: u64,
    snapshot: Option<(u64, Vec<u8>)>,
    saving: Option<(u64, Vec<u8>)>,
    /// A snapshot that the members offer.
    offered: Vec<u8>,
}

fn settings() -> ShardSettings {
    let members = [2, 1, 3].map(GatewayId).to_vec();
    let limits =
        Limits { memory_bytes: 1 << 20, window_bytes: 256 << 10, value_bytes: 64 << 10, ..Limits::default() };
    let group = GroupConfig::new(SHARD, ME, members, limits);
    let rules = CountingRules { recent_bytes: 2_000, ..CountingRules::default() };
    ShardSettings { group, rules: Arc::new(rules), outbox_budget_bytes: 1 << 20, incarnation: 1 }
}

fn fresh() -> Machine {
    Machine::new(SHARD, settings().rules)
}

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let damaged = source.byte().is_multiple_of(8).then_some(7);
    let found = Recovered { damaged, ..Recovered::default() };
    let shard = ShardCore::recover(settings(), fresh(), found).expect("an empty disk");
    let now = Now { mono_ms: 0, wall: EpochMs(NOW), sure: true };
    let (records, snapshot, saving) = (Vec::new(), None, None);
    let mut host = Host { shard, now, records, token: 0, snapshot, saving, offered: Vec::new() };
    host.shard.step(now, ShardEvent::Peers { up: vec![GatewayId(2), GatewayId(3)], restarted: vec![] });
    for _ in 0..MAX_STEPS {
        if source.is_empty() {
            break;
        }
        if !host.turn(&mut source) {
            return; // it ends rather than drift, which is what it should do with a value that no one can read
        }
    }
    if damaged.is_none() {
        host.start_again();
    }
}

impl Host {
    /// One event and its effects; false when the replica gives up.
    fn turn(&mut self, source: &mut Source) -> bool {
        let from = GatewayId(2 + source.below(3) as u16);
        let event = match source.below(20) {
            0..9 => ShardEvent::Paxos { from, configuration: 1, message: self.message(source) },
            9 => match PeerFrame::decode(source.bytes(400)) {
                Ok(frame) => {
                    for message in frame.messages {
                        if let Some(event) = event(from, message) {
                            self.shard.step(self.now, event);
                        }
                    }
                    ShardEvent::Timer
                }
                Err(_) => ShardEvent::Timer,
            },
            10 => {
                let gateway = GatewayId(source.below(4) as u16);
                let known = self.shard.machine().origin(gateway).unwrap_or((1, 0));
                let origin = Origin { gateway, start: source.number(known.0) };
                let submission = submission(source);
                ShardEvent::Forward { from: gateway, origin, n: source.number(known.1 + 1), submission }
            }
            11 if source.below(4) == 0 => {
                let at = self.slot(source);
                let answer = match source.below(5) {
                    0 => TransferAnswer::NothingYet { from: at },
                    1 => TransferAnswer::NoLog { from: at },
                    2 => TransferAnswer::NoSnapshot,
                    3 => TransferAnswer::Log { from: at, values: vec![self.value(source)] },
                    _ => TransferAnswer::Snapshot { slot: at, bytes: 9, crc: 9 },
                };
                ShardEvent::TransferAnswered { to: from, answer }
            }
            11..13 => ShardEvent::Transfer { from, configuration: 1, message: self.transfer(source) },
            13 => {
                let up = [GatewayId(2), GatewayId(3), GatewayId(77)][..source.below(4)].to_vec();
                ShardEvent::Peers { restarted: if source.flag() { up.clone() } else { vec![] }, up }
            }
            14 => {
                let query = ShardQuery {
                    device: "d".into(),
                    stream: source.flag().then(|| "s".into()),
                    from: EpochMs(source.time(NOW)),
                    to: EpochMs(source.time(NOW)),
                    every_ms: source.flag().then(|| source.number(60_000) as u32),
                    stale: source.flag(),
                    page: Page::default(),
                    wait_ms: source.number(3_000) as u32,
                };
                ShardEvent::Query { from, id: source.u64(), query }
            }
            15 => ShardEvent::Confirmed { ledger: LedgerId(1), cursor: source.number(1) },
            16 => ShardEvent::Room(source.byte() > 63),
            17 => ShardEvent::SnapshotWanted,
            _ => {
                let wait = source.number(200) % 100_000;
                self.now.mono_ms += wait;
                self.now.wall = if source.byte() < 8 {
                    EpochMs(source.time(NOW))
                } else {
                    self.now.wall.plus(wait as i64)
                };
                self.now.sure = source.byte() > 20;
                ShardEvent::Timer
            }
        };
        self.shard.step(self.now, event);
        self.perform(source)
    }

    /// Performs what the replica wants done, at once, or, of the disk, later.
    fn perform(&mut self, source: &mut Source) -> bool {
        // More rounds than any honest chain of writes takes would be a replica that keeps itself busy.
        for _ in 0..16 {
            let effects = match self.shard.take(self.now) {
                Ok(effects) => effects,
                Err(Halt::Undecodable { .. }) => return false,
                Err(halt @ (Halt::Slot { .. } | Halt::Configuration { .. })) => panic!("{halt}"),
            };
            let group = self.shard.consensus();
            assert!(group.commit() <= group.last_slot() && group.first_slot() <= group.commit() + 1);
            assert!(self.shard.machine().slot() <= group.commit(), "applied beyond what is chosen");
            let wrote = !effects.records.is_empty();
            self.records.extend(effects.records);
            self.token = self.token.max(effects.token);
            if let Some((slot, state)) = effects.snapshot {
                let bytes = match state {
                    SnapshotState::Lent(machine) => machine.snapshot(),
                    SnapshotState::Ready(bytes) => bytes,
                };
                let snapshot = (slot, bytes);
                assert!(self.saving.is_none(), "one snapshot at a time");
                self.saving = Some(snapshot);
            }
            let _ = self.shard.deadline_ms(self.now);
            let _ = self.shard.status(self.now);
            let choice = source.byte();
            if self.saving.is_some() && choice & 3 != 3 {
                let (slot, bytes) = self.saving.take().expect("there is one");
                let saved = choice & 4 == 0;
                if saved {
                    let restored = Machine::restore(SHARD, settings().rules, &bytes);
                    assert_eq!(restored.expect("it was made here, or checked").slot(), slot);
                    self.snapshot = Some((slot, bytes));
                }
                self.shard.step(self.now, ShardEvent::SnapshotSaved { slot, saved });
            } else if !(wrote && choice & 0x18 != 0) {
                return true;
            }
            self.shard.step(self.now, ShardEvent::Persisted { token: self.token });
        }
        true
    }

    /// A slot, most likely one that matters now.
    fn slot(&self, source: &mut Source) -> u64 {
        let group = self.shard.consensus();
        let near = source.pick(&[group.commit(), group.last_slot(), group.first_slot(), MAX_COUNT]);
        if source.flag() { near } else { source.number(near) }
    }

    fn ballot(&self, source: &mut Source) -> Ballot {
        let held = self.shard.consensus().ballot();
        match source.below(4) {
            0 => held,
            1 => Ballot { round: held.round.saturating_add(1), gateway: 2 + source.below(2) as u16 },
            2 => Ballot { round: held.round, gateway: source.below(4) as u16 },
            _ => Ballot { round: source.number(MAX_COUNT), gateway: source.below(4) as u16 },
        }
    }

    fn value(&self, source: &mut Source) -> Value {
        match source.below(8) {
            0 => Value::from([]),
            1 => Value::from(source.bytes(60)),
            2 => Value::from(vec![1; source.below(80_000)]),
            _ => {
                let elapsed = ElapsedMs(source.number(self.shard.machine().elapsed().0));
                let (wall, sure) = (EpochMs(source.time(NOW)), source.flag());
                let commands = (0..source.below(4)).map(|_| command(source)).collect();
                Proposal { elapsed, wall, sure, commands }.encode().into()
            }
        }
    }

    fn message(&self, source: &mut Source) -> Message {
        let ballot = self.ballot(source);
        let (a, b) = (self.slot(source), self.slot(source));
        let count = source.below(4);
        match source.below(20) {
            0 => Message::Canvass { attempt: source.number(1), commit: a },
            1 | 2 => Message::Canvassed { attempt: source.number(1), granted: true, seen: ballot },
            3 => Message::Prepare { ballot, from: a },
            4..6 => {
                let entries = (0..count).map(|_| (self.ballot(source), self.value(source))).collect();
                Message::Promise { ballot, from: a, commit: b, entries, more: source.flag() }
            }
            6 => Message::Behind { ballot, first: a },
            7..11 => {
                let values = (0..count).map(|_| self.value(source)).collect();
                Message::Accept { ballot, prev: a, values, commit: b }
            }
            11..13 => {
                let (vote, damaged) = (source.flag(), source.flag());
                Message::Accepted { ballot, upto: a, commit: b, recorded: b, vote, damaged }
            }
            13 => Message::Lagging { ballot, prefix: a },
            14 => Message::Refused { promised: ballot },
            15 if source.flag() => Message::Confirm { ballot, n: source.number(1) },
            15 => Message::Confirmed { ballot, n: source.number(1) },
            16 => Message::Resigned { ballot },
            17 => Message::Recovering { nonce: source.number(7) },
            18 => Message::Standing { nonce: source.number(7), promised: ballot, damaged: source.flag() },
            _ if source.flag() => Message::Rejoin { nonce: source.number(7), above: ballot },
            _ => Message::Mark { nonce: 7, slot: a },
        }
    }

    fn transfer(&mut self, source: &mut Source) -> TransferMessage {
        match source.below(13) {
            8..10 => TransferMessage::Behind,
            10 => {
                let values = (0..source.below(4)).map(|_| self.value(source)).collect();
                TransferMessage::Log { from: self.slot(source), values }
            }
            11 => match source.below(3) {
                0 => TransferMessage::Wait,
                1 => TransferMessage::Gone { slot: slot_in(&self.offered).unwrap_or(1) },
                _ => TransferMessage::FetchLog { from: self.slot(source) },
            },
            0 | 1 => {
                self.offered = snapshot(source);
                let bytes = self.offered.len() as u64;
                let crc = crc32c::crc32c(&self.offered);
                let slot = slot_in(&self.offered).unwrap_or(1);
                TransferMessage::Offer { slot, bytes, crc }
            }
            2..5 => {
                let slot = slot_in(&self.offered).unwrap_or(1);
                TransferMessage::State { slot, offset: 0, data: self.offered.clone() }
            }
            5 => TransferMessage::FetchState { slot: self.slot(source), offset: source.number(100) },
            6 => TransferMessage::FetchBatch { seq: source.number(1) },
            _ => {
                let answer = match source.below(3) {
                    0 => BatchAnswer::Here(source.bytes(40).into()),
                    1 => BatchAnswer::Unsure,
                    _ => BatchAnswer::Lost,
                };
                TransferMessage::Batch { seq: source.number(1), answer }
            }
        }
    }

    /// What was written down is read again: the same replica must come of it.
    fn start_again(mut self) {
        let Ok(effects) = self.shard.take(self.now) else { return };
        self.records.extend(effects.records);
        let (mut machine, mut snapshot_slot) = (fresh(), 0);
        if let Some((slot, bytes)) = &self.snapshot {
            machine = Machine::restore(SHARD, settings().rules, bytes).expect("it was restored before");
            snapshot_slot = *slot;
        }
        let mut replay = Replay::default();
        self.records.into_iter().for_each(|record| replay.record(record));
        let found = replay.finish(snapshot_slot, machine.configuration(), None);
        let again = ShardCore::recover(settings(), machine, found);
        let mut again =
            again.unwrap_or_else(|e| panic!("what a replica wrote down must do to start it: {e}"));
        let (before, after) = (self.shard.consensus(), again.consensus());
        // A commit index needs no fsync: less of it may be remembered.
        assert!(after.commit() <= before.commit().max(snapshot_slot));
        assert!(after.ballot() >= before.ballot(), "a promise is forgotten");
        assert!(after.last_slot() >= before.last_slot(), "a vote is forgotten");
        let now = self.now;
        again.step(now, ShardEvent::Timer);
        if let Ok(effects) = again.take(now) {
            drop(effects);
            assert!(again.machine().slot() <= again.consensus().commit());
        }
    }
}

fn event(from: GatewayId, message: PeerMessage) -> Option<ShardEvent> {
    match message {
        PeerMessage::Paxos { configuration, message, .. } => {
            Some(ShardEvent::Paxos { from, configuration, message })
        }
        PeerMessage::Forward { origin, n, submission, .. } => {
            Some(ShardEvent::Forward { from, origin, n, submission })
        }
        PeerMessage::Transfer { configuration, message, .. } => {
            Some(ShardEvent::Transfer { from, configuration, message })
        }
        PeerMessage::Superseded { configuration, .. } => Some(ShardEvent::Superseded { from, configuration }),
        PeerMessage::Query { id, query, .. } => Some(ShardEvent::Query { from, id, query }),
        _ => None,
    }
}

fn submission(source: &mut Source) -> Arc<[u8]> {
    if source.byte() < 32 {
        return Arc::from(source.bytes(100));
    }
    let name = |stream: &str| StreamName { device: "d".into(), stream: stream.into() };
    let readings = (0..source.below(4))
        .map(|_| Reading {
            stream: source.below(2) as u32,
            time: source.flag().then(|| EpochMs(source.time(NOW))),
            value: source.float(),
            seq: source.flag().then(|| source.number(1)),
            boot: None,
        })
        .collect();
    let items = vec![Item::Publish(PublishItem { source: None, readings })];
    Submission { streams: vec![name("s"), name("t")], makers: Vec::new(), items }.encode().into()
}

fn command(source: &mut Source) -> Command {
    match source.below(8) {
        0 => Command::Tick,
        1 => Command::Confirmed { ledger: LedgerId(1), cursor: source.number(1) },
        2 => Command::Upgrade { level: source.number(1) as u32 },
        3 => Command::Rules(Box::new(CountingRules {
            idle_close_ms: source.number(100) as u32,
            ..CountingRules::default()
        })),
        _ => {
            let origin = Origin { gateway: GatewayId(source.below(3) as u16), start: source.number(1) };
            Command::Forwarded { origin, n: source.number(1), submission: submission(source) }
        }
    }
}

/// A snapshot as a machine might make it, through a slot of the source's choice.
fn snapshot(source: &mut Source) -> Vec<u8> {
    let mut machine = fresh();
    for slot in 1..=source.below(4) as u64 {
        let (elapsed, wall, sure) = (ElapsedMs(source.number(1)), EpochMs(source.time(NOW)), source.flag());
        let commands = (0..source.below(3)).map(|_| command(source)).collect();
        let _ = machine.apply(slot, &Proposal { elapsed, wall, sure, commands });
    }
    let mut bytes = machine.snapshot();
    if source.flag() {
        let form = bincode::config::standard();
        let head = bincode::decode_from_slice::<(ShardId, u64, u32), _>(&bytes[1..], form);
        let ((shard, slot, level), used) = head.expect("it begins so");
        let slot = source.number(slot);
        let mut other = vec![bytes[0]];
        other.extend(bincode::encode_to_vec((shard, slot, level), form).expect("memory"));
        other.extend(&bytes[1 + used..bytes.len() - 8]);
        other.extend(xxhash_rust::xxh3::xxh3_64(&other).to_le_bytes());
        bytes = other;
    }
    bytes
}

fn slot_in(snapshot: &[u8]) -> Option<u64> {
    let form = bincode::config::standard();
    let head = bincode::decode_from_slice::<(ShardId, u64), _>(snapshot.get(1..)?, form);
    head.ok().map(|((_, slot), _)| slot)
}
