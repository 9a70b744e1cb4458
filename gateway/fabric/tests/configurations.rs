//! A shard moves from one configuration to the next, step by step. The host of these tests has every write on disk at
//! once, unless a test ends a process in the middle of a write. The tests of `selvedge-log` run whole sites under
//! random faults, on real logs.

use selvedge_fabric::configuration::{Configuration, ReconfigureRefused, Stop};
use selvedge_fabric::machine::{
    BatchVerdict, CountingRules, Item, Machine, Origin, Page, PublishItem, Query, Reading, Submission,
};
use selvedge_fabric::peer::{ForwardAnswer, PeerMessage, QueryAnswer, ShardQuery, TransferMessage};
use selvedge_fabric::record::LogRecord;
use selvedge_fabric::shard::{
    FoundReplica, KIND_ACCEPTED, KIND_COMMITTED, KIND_CONFIGURATION, KIND_LEARNS, KIND_PROMISED, Now, Replay,
    ShardCore, ShardEvent, ShardSettings, SnapshotState, TransferAnswer, TransferRequest,
};
use selvedge_fabric::site_state::ReplicaRole;
use selvedge_paxos::{GroupConfig, Limits, Slot};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::StreamName;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const SHARD: ShardId = ShardId(0);
const FIRST: [u16; 3] = [1, 2, 3];

fn ids(numbers: &[u16]) -> Vec<GatewayId> {
    numbers.iter().copied().map(GatewayId).collect()
}

fn rules() -> Arc<CountingRules> {
    let (windows_ms, idle_close_ms) = (vec![86_400_000], 86_400_000);
    Arc::new(CountingRules { windows_ms, idle_close_ms, ..CountingRules::default() })
}

fn settings(me: u16) -> ShardSettings {
    let group = GroupConfig::new(SHARD, GatewayId(me), ids(&FIRST), Limits::default());
    ShardSettings { group, rules: rules(), outbox_budget_bytes: 1 << 20, incarnation: 1 }
}

struct Gateway {
    core: ShardCore,
    records: Vec<LogRecord>,
    snapshot: Option<(Slot, Vec<u8>)>,
}

/// The process of this gateway ends when its log holds this many records.
type PowerCut = (u16, usize);

struct Site {
    gateways: BTreeMap<u16, Gateway>,
    net: VecDeque<(u16, u16, PeerMessage)>,
    down: BTreeSet<u16>,
    now_ms: u64,
    cut: Option<PowerCut>,
    directory: Slot,
    answers: BTreeMap<u64, ForwardAnswer>,
    refused: Vec<ReconfigureRefused>,
    superseded: Vec<(u16, u16, u32)>,
}

fn replay(records: &[LogRecord]) -> Replay {
    let mut replay = Replay::default();
    records.iter().for_each(|record| replay.record(record.clone()));
    replay
}

/// Reads the chosen values from a log, from a slot on.
fn logged(records: &[LogRecord], from: Slot) -> TransferAnswer {
    let (mut open, mut chosen) = (BTreeMap::new(), BTreeMap::new());
    for record in records {
        match record.kind {
            KIND_ACCEPTED => _ = open.insert(record.slot, record.payload.clone()),
            KIND_COMMITTED => {
                let through = u64::from_le_bytes(record.payload[..].try_into().unwrap());
                let above = open.split_off(&(through + 1));
                chosen.append(&mut std::mem::replace(&mut open, above));
            }
            _ => {}
        }
    }
    let values: Vec<_> = (from..).map_while(|slot| chosen.get(&slot).cloned()).collect();
    match values.is_empty() {
        true => TransferAnswer::NoLog { from },
        false => TransferAnswer::Log { from, values },
    }
}

impl Site {
    /// A site of the gateways in the first configuration, with a leader.
    fn new() -> Self {
        let gateway = |id: &u16| {
            let machine = Machine::new(SHARD, rules());
            let core = ShardCore::recover(settings(*id), machine, FoundReplica::default()).unwrap();
            (*id, Gateway { core, records: Vec::new(), snapshot: None })
        };
        let mut site = Self {
            gateways: FIRST.iter().map(gateway).collect(),
            net: VecDeque::new(),
            down: BTreeSet::new(),
            now_ms: 1_000,
            cut: None,
            directory: 0,
            answers: BTreeMap::new(),
            refused: Vec::new(),
            superseded: Vec::new(),
        };
        site.tell_peers();
        site.run(1_000);
        site
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall: EpochMs(1_764_000_000_000), sure: true }
    }

    fn core(&self, id: u16) -> &ShardCore {
        &self.gateways[&id].core
    }

    fn step(&mut self, id: u16, event: ShardEvent) {
        let now = self.now();
        self.gateways.get_mut(&id).unwrap().core.step(now, event);
    }

    fn tell_peers(&mut self) {
        let running: Vec<u16> = self.gateways.keys().copied().filter(|id| !self.down.contains(id)).collect();
        for id in &running {
            let up = running.iter().filter(|other| *other != id).copied().map(GatewayId).collect();
            self.step(*id, ShardEvent::Peers { up, restarted: Vec::new() });
        }
    }

    /// Cuts a gateway off from all others, or connects it again.
    fn set_down(&mut self, id: u16, down: bool) {
        if down {
            self.down.insert(id)
        } else {
            self.down.remove(&id)
        };
        self.tell_peers();
    }

    /// Makes a new replica at this gateway, which learns.
    fn add(&mut self, id: u16) {
        let configuration = self.newest().number;
        let found = FoundReplica::learner(configuration);
        let core = ShardCore::recover(settings(id), Machine::new(SHARD, rules()), found).unwrap();
        self.gateways.insert(id, Gateway { core, records: Vec::new(), snapshot: None });
        self.tell_peers();
        self.learners(&[id]);
    }

    fn learners(&mut self, learners: &[u16]) {
        for id in self.gateways.keys().copied().collect::<Vec<_>>() {
            self.step(id, ShardEvent::Learners(ids(learners)));
        }
        self.run(1_000);
    }

    /// Ends the process of a gateway and starts another on what is on disk.
    fn restart(&mut self, id: u16) {
        self.restart_with(id, None);
    }

    /// The same, when the log may have lost records: `damaged` is a random number then.
    fn restart_with(&mut self, id: u16, damaged: Option<u64>) {
        let gateway = self.gateways.get_mut(&id).unwrap();
        let machine = match &gateway.snapshot {
            Some((_, bytes)) => Machine::restore(SHARD, rules(), bytes).unwrap(),
            None => Machine::new(SHARD, rules()),
        };
        let (slot, replay) = (machine.slot(), replay(&gateway.records));
        assert!(!replay.lacks_records(slot, machine.configuration()));
        // A new replica records that it is one with its first records. Until those are on disk, the host makes it anew.
        let is_new = !FIRST.contains(&id) && !gateway.records.iter().any(|r| r.kind == KIND_LEARNS);
        let found = match is_new {
            true => FoundReplica::learner(1),
            false => replay.finish(slot, machine.configuration(), damaged),
        };
        gateway.core = ShardCore::recover(settings(id), machine, found).unwrap();
        let gone = |(from, to, _): &(u16, u16, PeerMessage)| *from != id && *to != id;
        self.net.retain(gone);
        let running: Vec<u16> = self.gateways.keys().copied().filter(|g| !self.down.contains(g)).collect();
        for other in running.iter().filter(|other| **other != id) {
            let up = running.iter().filter(|g| *g != other).copied().map(GatewayId).collect();
            self.step(*other, ShardEvent::Peers { up, restarted: ids(&[id]) });
        }
        self.tell_peers();
        let learners: Vec<u16> = if self.gateways.contains_key(&4) { vec![4] } else { Vec::new() };
        self.step(id, ShardEvent::Learners(ids(&learners)));
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now_ms += 10;
            let now = self.now();
            for gateway in self.gateways.values_mut() {
                if gateway.core.deadline_ms(now).is_some_and(|at| at <= now.mono_ms) {
                    gateway.core.step(now, ShardEvent::Timer);
                }
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        loop {
            for id in self.gateways.keys().copied().collect::<Vec<_>>() {
                self.turn(id);
            }
            let Some((from, to, message)) = self.net.pop_front() else { return };
            self.hear(from, to, message);
        }
    }

    fn hear(&mut self, from: u16, to: u16, message: PeerMessage) {
        let sender = GatewayId(from);
        if let PeerMessage::Forwarded { n, answer, .. } = message {
            self.answers.insert(n, answer);
            return;
        }
        if self.down.contains(&from) || self.down.contains(&to) || !self.gateways.contains_key(&to) {
            return;
        }
        let event = match message {
            PeerMessage::Paxos { configuration, message, .. } => {
                ShardEvent::Paxos { from: sender, configuration, message }
            }
            PeerMessage::Transfer { configuration, message, .. } => {
                ShardEvent::Transfer { from: sender, configuration, message }
            }
            PeerMessage::Superseded { configuration, .. } => {
                self.superseded.push((from, to, configuration));
                ShardEvent::Superseded { from: sender, configuration }
            }
            _ => return,
        };
        self.step(to, event);
    }

    /// Performs the effects of a replica. Each write is on disk at once.
    fn turn(&mut self, id: u16) {
        let now = self.now();
        loop {
            let gateway = self.gateways.get_mut(&id).unwrap();
            let effects = gateway.core.take(now).unwrap();
            let say = |(to, message): (GatewayId, PeerMessage)| (id, to.0, message);
            self.net.extend(effects.send.into_iter().map(say));
            self.refused.extend(effects.refused.into_iter().map(|(_, why)| why));
            let wrote = !effects.records.is_empty();
            gateway.records.extend(effects.records);
            if let Some((at, count)) = self.cut
                && at == id
                && gateway.records.len() > count
            {
                gateway.records.truncate(count);
                self.cut = None;
                return self.restart(id);
            }
            self.net.extend(effects.send_after.into_iter().map(say));
            for (to, request) in effects.transfers {
                let held = gateway.snapshot.as_ref();
                let answer = match request {
                    TransferRequest::Log { from } => logged(&gateway.records, from),
                    TransferRequest::Snapshot { least } => match held.filter(|(slot, _)| *slot >= least) {
                        Some((slot, b)) => {
                            let (bytes, crc) = (b.len() as u64, crc32c::crc32c(b));
                            TransferAnswer::Snapshot { slot: *slot, bytes, crc }
                        }
                        None => TransferAnswer::NoSnapshot,
                    },
                    TransferRequest::State { slot, offset } => {
                        let (_, bytes) = held.expect("it was offered");
                        let data = bytes[offset as usize..].iter().copied().take(60_000).collect();
                        TransferAnswer::State { slot, offset, data }
                    }
                    TransferRequest::Contents | TransferRequest::Nothing => continue,
                };
                gateway.core.step(now, ShardEvent::TransferAnswered { to, answer });
            }
            if let Some((slot, state)) = effects.snapshot {
                let bytes = match state {
                    SnapshotState::Lent(machine) => machine.snapshot(),
                    SnapshotState::Ready(bytes) => bytes,
                };
                gateway.snapshot = Some((slot, bytes));
                gateway.core.step(now, ShardEvent::SnapshotSaved { slot, saved: true });
                gateway.core.step(now, ShardEvent::MachineReturned);
            }
            if !wrote {
                return;
            }
            gateway.core.step(now, ShardEvent::Persisted { token: effects.token });
        }
    }

    fn newest(&self) -> Configuration {
        let all = self.gateways.values().map(|g| g.core.configuration());
        all.max_by_key(|c| c.number).unwrap().clone()
    }

    fn leader(&self) -> Option<u16> {
        let newest = self.newest().number;
        let leads = |(id, g): (&u16, &Gateway)| {
            (g.core.serves() && g.core.configuration().number == newest).then_some(*id)
        };
        self.gateways.iter().filter(|(id, _)| !self.down.contains(id)).find_map(leads)
    }

    fn order(&mut self, at: u16, ends: u32, members: &[u16]) {
        self.directory += 1;
        let stop = Stop { ends, members: ids(members), witnesses: Vec::new(), directory: self.directory };
        self.step(at, ShardEvent::Reconfigure(stop));
    }

    /// Orders the next configuration until a leader of it serves.
    fn move_to(&mut self, members: &[u16]) {
        let ends = self.newest().number;
        for _ in 0..40 {
            match self.leader() {
                Some(_) if self.newest().number > ends => return,
                Some(leader) => self.order(leader, ends, members),
                None => {}
            }
            self.run(1_000);
        }
        panic!("{ends} goes on: {:?}", self.refused);
    }

    /// Asks a replica about a window, and returns what it answers at once.
    fn ask(&mut self, id: u16, stale: bool) -> Option<QueryAnswer> {
        let (from, to, page) = (EpochMs(i64::MIN), EpochMs(i64::MAX), Page::default());
        let device = "d1".into();
        let query =
            ShardQuery { device, stream: None, from, to, every_ms: None, stale, page, wait_ms: 1_000 };
        self.step(id, ShardEvent::Query { from: GatewayId(2), id: 7, query });
        let now = self.now();
        let effects = self.gateways.get_mut(&id).unwrap().core.take(now).unwrap();
        effects.send.into_iter().find_map(|(_, message)| match message {
            PeerMessage::Answer { answer, .. } => Some(answer),
            _ => None,
        })
    }

    /// Forwards a batch of gateway 1 to the leader until it has a verdict.
    fn publish(&mut self, n: u64) {
        let origin = Origin { gateway: GatewayId(1), start: 1 };
        let reading = Reading { stream: 0, time: None, value: 1.0, seq: None, boot: None };
        let submission: Arc<[u8]> = Submission {
            streams: vec![StreamName { device: format!("d{n}").as_str().into(), stream: "s".into() }],
            makers: Vec::new(),
            items: vec![Item::Publish(PublishItem { source: None, readings: vec![reading] })],
        }
        .encode()
        .into();
        for _ in 0..60 {
            if matches!(self.answers.get(&n), Some(ForwardAnswer::Verdict { .. })) {
                return;
            }
            if let Some(leader) = self.leader() {
                let submission = submission.clone();
                self.step(leader, ShardEvent::Forward { from: origin.gateway, origin, n, submission });
            }
            self.run(500);
        }
        panic!("batch {n} gets no verdict: {:?}", self.answers.get(&n));
    }

    /// Checks that all members have the same state, and that it counts each of the batches 1 to `batches` once.
    fn check(&mut self, batches: u64) {
        self.run(3_000);
        let members = self.newest().members;
        let machines: Vec<_> = members.iter().map(|m| self.core(m.0).machine()).collect();
        let state = |m: &&Machine| (m.slot(), m.digest());
        assert!(machines.iter().all(|m| state(m) == state(&machines[0])), "{members:?}");
        for n in 1..=batches {
            let (device, from, to) = (format!("d{n}"), EpochMs(i64::MIN), EpochMs(i64::MAX));
            let query = Query { device: &device, stream: None, from, to, every_ms: None };
            let rows = machines[0].scan(&query, &Page::default()).finish().windows;
            assert_eq!(rows.iter().map(|r| r.aggregate.count).sum::<u64>(), 1, "batch {n}");
            let answer = &self.answers[&n];
            let applied =
                |v: &BatchVerdict| matches!(v, BatchVerdict::Applied(_) | BatchVerdict::AlreadyApplied);
            assert!(
                matches!(answer, ForwardAnswer::Verdict { verdict, .. } if applied(verdict)),
                "{answer:?}"
            );
        }
    }
}

/// A site in which gateway 4 has replaced gateway 1.
fn replaced(cut: Option<PowerCut>) -> Site {
    let mut site = Site::new();
    site.cut = cut;
    site.publish(1);
    site.add(4);
    site.publish(2);
    site.move_to(&[2, 3, 4]);
    site.publish(3);
    site.check(3);
    site
}

#[test]
fn the_leader_is_replaced_through_a_learner_and_all_goes_on() {
    let mut site = replaced(None);
    let roles = |site: &Site| (1..=4).map(|id| site.core(id).status(site.now()).role).collect::<Vec<_>>();
    assert_eq!(roles(&site)[0], ReplicaRole::Retired);
    assert!(
        roles(&site)[1..].iter().all(|role| [ReplicaRole::Leader, ReplicaRole::Follower].contains(role)),
        "{:?}",
        roles(&site)
    );
    let Configuration { number, members, base, directory, .. } = site.newest();
    assert_eq!((number, members, directory), (2, ids(&[2, 3, 4]), 1));
    // The numbers of forwarded batches continue.
    let leader = site.leader().unwrap();
    assert_eq!(site.core(leader).machine().origin(GatewayId(1)), Some((1, 3)));
    let status = site.core(leader).status(site.now());
    assert_eq!(status.configuration, 2);
    let others = status.members.iter().filter(|m| m.gateway != leader);
    assert!(
        others.clone().count() == 2 && others.clone().all(|m| m.has == Some(status.commit)),
        "{status:?}"
    );
    // In each log, all records of a configuration follow the record of its beginning.
    for id in 1..=4 {
        let records = &site.gateways[&id].records;
        let begins = records.iter().position(|r| r.kind == KIND_CONFIGURATION).unwrap();
        assert_eq!((records[begins].configuration, records[begins].slot), (2, base));
        assert!(records[..begins].iter().all(|r| r.configuration == 1), "{id}");
        assert!(records[begins..].iter().all(|r| r.configuration == 2), "{id}");
    }
    // The retired replica answers a message of the ended configuration, writes nothing, and knows no leader.
    let wrote = site.gateways[&1].records.len();
    let message = selvedge_paxos::Message::Canvass { attempt: 1, commit: 1 };
    site.superseded.clear();
    site.step(1, ShardEvent::Paxos { from: GatewayId(3), configuration: 1, message });
    site.settle();
    assert_eq!(site.superseded, [(1, 3, 2)]);
    let submission: Arc<[u8]> = Submission::<StreamName>::default().encode().into();
    let origin = Origin { gateway: GatewayId(1), start: 1 };
    site.step(1, ShardEvent::Forward { from: GatewayId(1), origin, n: 4, submission });
    site.settle();
    let replicas = site.newest().replicas();
    assert_eq!(site.answers[&4], ForwardAnswer::NotLeader { leader: None, replicas });
    for stale in [false, true] {
        let said = site.ask(1, stale);
        let replicas = site.newest().replicas();
        assert_eq!(said, Some(QueryAnswer::NotLeader { leader: None, replicas }), "its state is old");
    }
    site.run(10_000);
    assert_eq!(site.gateways[&1].records.len(), wrote);
    assert_eq!(site.core(1).consensus().deadline(), None, "it is silent by itself");
}

#[test]
fn who_waits_at_the_leader_of_a_configuration_that_ends_learns_the_next_one() {
    let mut site = Site::new();
    site.publish(1);
    site.add(4);
    site.publish(2);
    let leader = site.leader().unwrap();
    let stays: Vec<u16> = FIRST.into_iter().filter(|id| *id != leader).collect();
    site.order(leader, 1, &[stays[0], stays[1], 4]);
    // Nothing is proposed after the stop.
    let submission: Arc<[u8]> = Submission::<StreamName>::default().encode().into();
    let origin = Origin { gateway: GatewayId(1), start: 1 };
    site.step(leader, ShardEvent::Forward { from: GatewayId(1), origin, n: 3, submission });
    site.settle();
    assert_eq!(site.newest().number, 2, "{:?}", site.refused);
    let replicas = site.newest().replicas();
    assert_eq!(site.answers[&3], ForwardAnswer::NotLeader { leader: None, replicas });
}

#[test]
fn a_process_may_end_at_any_write_while_its_shard_moves() {
    for id in 1..=4 {
        let whole = replaced(None).gateways[&id].records.len();
        for count in 0..whole {
            replaced(Some((id, count)));
        }
    }
}

#[test]
fn a_leader_refuses_what_it_must_not_propose() {
    use ReconfigureRefused as Refused;
    let mut site = Site::new();
    let leader = site.leader().unwrap();
    let follower = FIRST.into_iter().find(|id| *id != leader).unwrap();
    site.order(follower, 1, &[1, 2]);
    site.settle();
    assert_eq!(site.refused.pop(), Some(Refused::NotLeader { leader: Some(GatewayId(leader)) }));
    site.order(leader, 2, &[1, 2]);
    site.order(leader, 1, &[1, 2, 4]);
    site.order(leader, 1, &[1, 4, 5]);
    site.settle();
    let other = Refused::OtherConfiguration { ends: 2, current: 1 };
    assert_eq!(site.refused, [other, Refused::NoLearner(GatewayId(4)), Refused::SeveralChange]);
    site.refused.clear();
    // A learner that has never answered may have no replica.
    for id in FIRST {
        site.step(id, ShardEvent::Learners(ids(&[4])));
    }
    site.order(leader, 1, &[1, 2, 4]);
    site.settle();
    assert!(matches!(site.refused.pop(), Some(Refused::LearnerBehind { has: 0, .. })), "{:?}", site.refused);
    assert_eq!(site.newest().number, 1);
}

#[test]
fn a_learner_that_has_lost_records_becomes_a_member_only_after_it_has_healed() {
    let mut site = Site::new();
    site.publish(1);
    site.add(4);
    site.run(2_000);
    let leader = site.leader().unwrap();
    let away = FIRST.into_iter().find(|id| *id != leader).unwrap();
    let stays: Vec<u16> = FIRST.into_iter().filter(|id| *id != away).collect();
    // It can't heal while a member that it has to ask is away, though it learns everything from the leader.
    site.set_down(away, true);
    site.restart_with(4, Some(77));
    site.run(2_000);
    assert_eq!(site.core(4).status(site.now()).role, ReplicaRole::Damaged);
    let next = [stays[0], stays[1], 4];
    let leader = site.leader().unwrap();
    site.order(leader, 1, &next);
    site.run(1_000);
    assert_eq!(site.refused.pop(), Some(ReconfigureRefused::LearnerDamaged(GatewayId(4))));
    assert_eq!(site.newest().number, 1);
    site.set_down(away, false);
    site.run(2_000);
    assert_eq!(site.core(4).status(site.now()).role, ReplicaRole::Learner);
    site.move_to(&next);
    site.publish(2);
    site.check(2);
}

#[test]
fn a_laggard_two_configurations_behind_catches_up_from_whoever_is_there() {
    let mut site = Site::new();
    site.publish(1);
    site.run(1_000);
    let laggard = FIRST.into_iter().rfind(|id| Some(*id) != site.leader()).unwrap();
    site.set_down(laggard, true);
    let two: Vec<u16> = FIRST.into_iter().filter(|id| *id != laggard).collect();
    site.publish(2);
    // It stays a member: the other two change ranks.
    site.move_to(&[two[1], two[0], laggard]);
    site.publish(3);
    site.move_to(&[two[0], two[1], laggard]);
    site.publish(4);
    assert_eq!((site.newest().number, site.core(laggard).configuration().number), (3, 1));
    site.set_down(laggard, false);
    site.check(4);
    assert_eq!(site.core(laggard).configuration(), &site.newest());
    assert!(site.gateways[&laggard].snapshot.is_none(), "the log of the others was enough");
}

#[test]
fn a_laggard_jumps_with_a_snapshot_into_a_later_configuration_and_votes_there() {
    let mut site = Site::new();
    site.publish(1);
    site.run(1_000);
    let laggard = FIRST.into_iter().rfind(|id| Some(*id) != site.leader()).unwrap();
    site.set_down(laggard, true);
    let two: Vec<u16> = FIRST.into_iter().filter(|id| *id != laggard).collect();
    for round in 0..2 {
        site.move_to(&[two[(round + 1) % 2], two[round % 2], laggard]);
        site.publish(2 + round as u64);
    }
    // After their restarts, the others no longer hold the values in memory.
    two.iter().for_each(|id| site.step(*id, ShardEvent::SnapshotWanted));
    site.run(500);
    two.iter().for_each(|id| site.restart(*id));
    site.run(2_000);
    let before = site.gateways[&laggard].records.len();
    site.set_down(laggard, false);
    site.check(3);
    assert!(site.gateways[&laggard].snapshot.is_some());
    let records = &site.gateways[&laggard].records[before..];
    let later = records.iter().position(|r| r.configuration == 3).unwrap();
    assert_eq!(records[later].kind, KIND_CONFIGURATION, "that is written first");
    // Its vote counts: it and one of the others are a majority.
    site.set_down(two[0], true);
    site.publish(4);
    site.restart(laggard);
    site.publish(5);
    site.set_down(two[0], false);
    site.check(5);
}

#[test]
fn a_replica_that_is_made_again_votes_in_none_of_the_configurations_that_its_predecessor_saw() {
    let mut site = replaced(None);
    // The replica on gateway 1 is dropped with its data, and made again as a learner.
    site.gateways.remove(&1);
    let found = FoundReplica::learner(2);
    let core = ShardCore::recover(settings(1), Machine::new(SHARD, rules()), found).unwrap();
    site.gateways.insert(1, Gateway { core, records: Vec::new(), snapshot: None });
    for restarted in [false, true] {
        if restarted {
            site.turn(1);
            site.restart(1);
        }
        let role = site.core(1).status(site.now()).role;
        assert!(
            [ReplicaRole::Learner, ReplicaRole::Retired].contains(&role),
            "in configuration 1, which names it as a member: {role:?}"
        );
        let ballot = selvedge_paxos::Ballot { round: 99, gateway: 2 };
        let message = selvedge_paxos::Message::Prepare { ballot, from: 1 };
        site.step(1, ShardEvent::Paxos { from: GatewayId(2), configuration: 1, message });
        let now = site.now();
        let effects = site.gateways.get_mut(&1).unwrap().core.take(now).unwrap();
        let promises = |(_, m): &(GatewayId, PeerMessage)| {
            matches!(m, PeerMessage::Paxos { message: selvedge_paxos::Message::Promise { .. }, .. })
        };
        assert!(!effects.send_after.iter().chain(&effects.send).any(promises));
        site.gateways.get_mut(&1).unwrap().records.extend(effects.records);
    }
    site.tell_peers();
    site.learners(&[1]);
    site.move_to(&[1, 2, 3]);
    site.publish(4);
    site.check(4);
    assert!(site.core(1).configuration().has_member(GatewayId(1)));
}

#[test]
fn a_promise_and_a_vote_of_an_earlier_configuration_do_not_count_in_a_later_one() {
    let record = |configuration, kind, ballot, slot, payload: Vec<u8>| LogRecord {
        group: 0,
        configuration,
        kind,
        ballot: (ballot, 1),
        slot,
        payload: payload.into(),
    };
    let (accepted, committed) = (KIND_ACCEPTED, KIND_COMMITTED);
    let stop = Stop { ends: 1, members: ids(&[2, 1, 3]), witnesses: Vec::new(), directory: 1 };
    let begins = Configuration::after(&stop, 2);
    let mut records = vec![
        record(1, KIND_PROMISED, 9, 0, Vec::new()),
        record(1, accepted, 9, 1, Vec::new()),
        record(1, accepted, 9, 3, vec![5, 9]),
        record(1, accepted, 10, 2, stop.encode()),
        record(1, committed, 0, 0, 2u64.to_le_bytes().to_vec()),
        record(2, KIND_CONFIGURATION, 0, 2, begins.encode()),
        record(2, KIND_PROMISED, 1, 0, Vec::new()),
        record(2, accepted, 1, 3, Vec::new()),
        // Carried forward by trimming.
        record(1, KIND_PROMISED, 9, 0, Vec::new()),
    ];
    let found = replay(&records).finish(0, None, None);
    let recovered = found.recovered();
    assert_eq!((recovered.promised.round, recovered.entries.len()), (1, 1));
    assert_eq!((recovered.entries[0].slot, recovered.entries[0].value.len()), (3, 0));
    let mut core = ShardCore::recover(settings(1), Machine::new(SHARD, rules()), found).unwrap();
    let now = Now { mono_ms: 1, wall: EpochMs(0), sure: true };
    let effects = core.take(now).unwrap();
    assert!(effects.records.is_empty() && effects.configured.is_none(), "it has begun before");
    assert_eq!((core.configuration(), core.machine().configuration()), (&begins, Some(&begins)));
    assert_eq!((core.machine().slot(), core.consensus().commit(), core.consensus().last_slot()), (2, 2, 3));
    // Without the record of configuration 2's beginning, its other records show that the log lost something. A snapshot
    // of configuration 2 makes up for that.
    records.remove(5);
    assert!(replay(&records).lacks_records(0, None));
    assert!(!replay(&records).lacks_records(2, Some(&begins)));
    // A log that begins behind the stop needs the snapshot below which it was trimmed.
    records.drain(..5);
    assert!(replay(&records).lacks_records(1, None));
    let transfer = TransferMessage::Behind;
    core.step(now, ShardEvent::Transfer { from: GatewayId(3), configuration: 1, message: transfer });
    let said = core.take(now).unwrap().send;
    let superseded = PeerMessage::Superseded { shard: SHARD, configuration: 2 };
    assert_eq!(said, [(GatewayId(3), superseded)], "who led in a configuration that is over is told so");
}
