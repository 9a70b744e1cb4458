//! The simulated site: gateways with their disks, the network between them, faults, clients, and the directory that
//! moves replicas.

use crate::gateway::{Gateway, Process, SHARD, WALL, ring};
use crate::seeded::Random;
use selvedge_fabric::configuration::{Configuration, Stop};
use selvedge_fabric::machine::{BatchVerdict, Page, Query};
use selvedge_fabric::peer::{ForwardAnswer, PeerMessage};
use selvedge_fabric::shard::{Now, ShardEvent};
use selvedge_fabric::site_state::ReplicaRole;
use selvedge_types::ids::GatewayId;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::LedgerId;
use std::collections::{BTreeMap, BTreeSet};

pub const GATEWAYS: usize = 6;
/// The most batches that the clients of one run send.
const MAX_BATCHES: u64 = 600;
/// How long the last configuration may take to heal.
const HEALS_WITHIN_MS: u64 = 240_000;

/// Counts of a run, which show that it exercised what it should.
#[derive(Debug, Default)]
pub struct Told {
    pub slots: u64,
    pub configurations: u32,
    pub acknowledged: usize,
    pub restarts: u64,
    pub dropped: u64,
    pub damaged: u64,
    pub superseded: u64,
    pub offers: u64,
    pub logs: u64,
}

pub struct World {
    seed: u64,
    random: Random,
    now_ms: u64,
    gateways: Vec<Gateway>,
    net: BTreeMap<(u64, u64), (usize, usize, PeerMessage)>,
    sent: u64,
    cut: Vec<Vec<bool>>,
    faults: bool,
    loss: u64,
    storm: u64,
    damage: bool,
    /// Whether configurations and leaders change often, most configurations without a new member.
    hasty: bool,
    /// The time at which this leader's process ends, and the member that is then cut off (see
    /// [`World::change_leader`]).
    stranding: Option<(u64, usize, usize)>,
    learners: Vec<GatewayId>,
    plan: Option<(u32, Vec<GatewayId>, Vec<GatewayId>)>,
    directory: u64,
    /// The members that stops of each configuration have named, whether chosen or not.
    ordered: BTreeSet<(u32, GatewayId)>,
    last_configuration: u32,
    batches: u64,
    /// By slot: the digest of the state after it.
    digests: BTreeMap<u64, u64>,
    /// By number.
    configurations: BTreeMap<u32, Configuration>,
    acknowledged: BTreeMap<String, u64>,
    pub told: Told,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let loss = random.pick(&[0, 20, 100, 200]);
        let storm = random.pick(&[1, 2, 4, 8]);
        let damage = random.chance(250);
        let hasty = random.chance(400);
        let last_configuration = 2 + random.below(if hasty { 20 } else { 8 }) as u32;
        let first = Configuration::first(ring().replicas(SHARD).to_vec(), Vec::new());
        Self {
            seed,
            random,
            now_ms: 1_000,
            gateways: (0..GATEWAYS).map(|n| Gateway::new(n as u16 + 1, n < 3)).collect(),
            net: BTreeMap::new(),
            sent: 0,
            cut: vec![vec![false; GATEWAYS]; GATEWAYS],
            faults: true,
            loss,
            storm,
            damage,
            hasty,
            stranding: None,
            learners: Vec::new(),
            plan: None,
            directory: 0,
            ordered: BTreeSet::new(),
            last_configuration,
            batches: 0,
            digests: BTreeMap::new(),
            configurations: BTreeMap::from([(1, first)]),
            acknowledged: BTreeMap::new(),
            told: Told::default(),
        }
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall: EpochMs(WALL), sure: true }
    }

    fn newest(&self) -> &Configuration {
        self.configurations.last_key_value().expect("the first is known").1
    }

    pub fn run(&mut self) {
        let ticks = 600 + self.random.below(1_500);
        for _ in 0..ticks {
            self.tick();
        }
        self.faults = false;
        self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
        let until_ms = self.now_ms + HEALS_WITHIN_MS;
        while !self.is_healed() {
            self.tick();
            if self.now_ms > until_ms {
                self.describe();
                panic!("seed {}: it did not heal", self.seed);
            }
        }
        self.check_counted_once();
        self.told.slots = self.digests.last_key_value().map_or(0, |(slot, _)| *slot);
        self.told.configurations = self.newest().number;
        self.told.acknowledged = self.acknowledged.len();
    }

    fn tick(&mut self) {
        self.now_ms += 1 + self.random.below(9);
        if self.faults {
            self.breakage();
        }
        self.decide();
        while let Some(first) = self.net.first_entry()
            && first.key().0 <= self.now_ms
        {
            let (from, to, message) = first.remove();
            if !self.cut[from][to] {
                self.hear(from, to, message);
            }
        }
        for n in 0..GATEWAYS {
            self.work(n);
        }
    }

    fn work(&mut self, n: usize) {
        let now = self.now();
        if self.gateways[n].process.is_none() {
            if self.gateways[n].back_at_ms <= self.now_ms {
                let nonce = self.random.next();
                self.gateways[n].start(now, nonce);
            }
            return;
        }
        self.look(n);
        self.tell_learners(n);
        self.client(n);
        let Some(process) = self.gateways[n].process.as_mut() else { return };
        let said = process.turn(now, &mut self.random, self.faults);
        let (wrote, healed, gave_up) = (process.wrote, process.healed, process.gave_up);
        self.gateways[n].hosts |= wrote;
        self.gateways[n].gave_up = gave_up;
        self.gateways[n].damaged &= !healed;
        for (to, message) in said {
            self.post(n, to, message);
        }
        self.check(n);
    }

    /// Runs the failure detector of a gateway, if that is due.
    fn look(&mut self, n: usize) {
        let starts: Vec<Option<u64>> = (0..GATEWAYS)
            .map(|other| {
                let gateway = &self.gateways[other];
                (other != n && gateway.process.is_some() && !self.cut[n][other]).then_some(gateway.start)
            })
            .collect();
        let (now, next) = (self.now(), self.now_ms + 30 + self.random.below(100));
        let Some(process) = self.gateways[n].process.as_mut().filter(|p| p.look_at_ms <= now.mono_ms) else {
            return;
        };
        process.look_at_ms = next;
        if process.seen == starts {
            return;
        }
        let id = |n: usize| GatewayId(n as u16 + 1);
        let restarted = |n: &usize| matches!((process.seen[*n], starts[*n]), (Some(a), Some(b)) if a != b);
        let restarted = (0..GATEWAYS).filter(restarted).map(id).collect();
        let up = (0..GATEWAYS).filter(|n| starts[*n].is_some()).map(id).collect();
        process.seen = starts;
        process.step(now, ShardEvent::Peers { up, restarted });
    }

    /// After a random delay, a gateway receives the directory's list of learners, and makes the replica that it lacks.
    fn tell_learners(&mut self, n: usize) {
        let (now, number) = (self.now(), self.newest().number);
        let (id, listed) = (GatewayId(n as u16 + 1), self.learners.clone());
        if !self.random.chance(100) {
            return;
        }
        let gateway = &mut self.gateways[n];
        let Some(process) = gateway.process.as_mut() else { return };
        if process.replica.is_none() && !process.dropping && listed.contains(&id) {
            process.make_replica(id, number);
        }
        if process.learners != listed && process.replica.is_some() {
            process.learners.clone_from(&listed);
            process.step(now, ShardEvent::Learners(listed));
        }
    }

    /// The client at each gateway publishes one batch after another.
    fn client(&mut self, n: usize) {
        let now = self.now();
        let full = !self.faults || self.batches >= MAX_BATCHES;
        let start = self.gateways[n].start;
        let begins = !full && self.random.chance(if self.hasty { 500 } else { 60 });
        let large = self.random.chance(40);
        let anybody = GatewayId(1 + self.random.below(GATEWAYS as u64) as u16);
        let Some(process) = self.gateways[n].process.as_mut() else { return };
        let id = GatewayId(n as u16 + 1);
        if process.batch.is_none() && begins {
            self.batches += 1;
            process.next_batch(id, start, large);
        }
        if let Some((to, message)) = process.resend(now.mono_ms, id, start, anybody) {
            self.post(n, to, message);
        }
    }

    fn post(&mut self, from: usize, to: GatewayId, message: PeerMessage) {
        let to = usize::from(to.0) - 1;
        if to >= GATEWAYS {
            return;
        }
        match &message {
            PeerMessage::Superseded { .. } => self.told.superseded += 1,
            PeerMessage::Transfer {
                message: selvedge_fabric::peer::TransferMessage::Offer { .. }, ..
            } => {
                self.told.offers += 1;
            }
            PeerMessage::Transfer {
                message: selvedge_fabric::peer::TransferMessage::Log { values, .. },
                ..
            } if !values.is_empty() => {
                self.told.logs += 1;
            }
            _ => {}
        }
        if to == from {
            return self.hear(from, to, message);
        }
        let copies = if self.faults && self.random.chance(30) { 2 } else { 1 };
        for _ in 0..copies {
            if self.faults && self.random.chance(self.loss) {
                continue;
            }
            let mut wait = 1 + self.random.below(10);
            if self.faults && self.random.chance(40) {
                wait += self.random.below(800);
            }
            self.sent += 1;
            self.net.insert((self.now_ms + wait, self.sent), (from, to, message.clone()));
        }
    }

    fn hear(&mut self, from: usize, n: usize, message: PeerMessage) {
        let (now, sender) = (self.now(), GatewayId(from as u16 + 1));
        let start = self.gateways[n].start;
        let Some(process) = self.gateways[n].process.as_mut() else { return };
        let from = sender;
        let event = match message {
            PeerMessage::Paxos { configuration, message, .. } => {
                ShardEvent::Paxos { from, configuration, message }
            }
            PeerMessage::Transfer { configuration, message, .. } => {
                ShardEvent::Transfer { from, configuration, message }
            }
            PeerMessage::Superseded { configuration, .. } => ShardEvent::Superseded { from, configuration },
            PeerMessage::Forward { origin, n, submission, .. } => {
                ShardEvent::Forward { from, origin, n, submission }
            }
            PeerMessage::Forwarded { origin, n, answer, .. } => {
                if origin.start == start && process.batch.as_ref().is_some_and(|b| b.n == n) {
                    self.answered(usize::from(origin.gateway.0) - 1, from, answer);
                }
                return;
            }
            _ => return,
        };
        process.step(now, event);
    }

    fn answered(&mut self, n: usize, from: GatewayId, answer: ForwardAnswer) {
        let now_ms = self.now_ms;
        let Some(process) = self.gateways[n].process.as_mut() else { return };
        let Some(batch) = process.batch.as_mut() else { return };
        match answer {
            ForwardAnswer::Verdict { slot, verdict } => match verdict {
                BatchVerdict::Applied(_) | BatchVerdict::AlreadyApplied => {
                    let name = batch.name.clone();
                    (process.batch, process.leader) = (None, Some(from));
                    if slot > 0 {
                        let was = self.acknowledged.insert(name.clone(), slot);
                        assert!(was.is_none_or(|w| w == slot), "seed {}: {name} in two slots", self.seed);
                    } else {
                        self.acknowledged.entry(name).or_insert(0);
                    }
                }
                BatchVerdict::Malformed => process.batch = None,
                verdict => panic!("seed {}: {} is answered {verdict:?}", self.seed, batch.name),
            },
            ForwardAnswer::NotLeader { leader, .. } => {
                let leader = leader.map(GatewayId).filter(|l| *l != from);
                (batch.to, batch.at_ms) = (leader, now_ms + 20);
            }
            ForwardAnswer::Busy { .. } => batch.at_ms = now_ms + 50,
        }
    }

    /// Checks what must hold after each turn of a replica.
    fn check(&mut self, n: usize) {
        let seed = self.seed;
        let id = GatewayId(n as u16 + 1);
        let Some(process) = self.gateways[n].process.as_mut() else { return };
        let Some(replica) = &process.replica else { return };
        let (core, machine) = (replica.core(), replica.core().machine());
        assert!(machine.slot() <= core.consensus().commit(), "seed {seed}: {id} applies what is not chosen");
        assert_eq!(core.consensus().config().configuration, core.configuration().number);
        let place = (machine.slot(), machine.configuration_number());
        if process.checked == Some(place) {
            return;
        }
        process.checked = Some(place);
        let digest = machine.digest();
        let known = *self.digests.entry(machine.slot()).or_insert(digest);
        assert_eq!(known, digest, "seed {seed}: {id} has another state at slot {}", machine.slot());
        if let Some(configuration) = machine.configuration() {
            let known =
                self.configurations.entry(configuration.number).or_insert_with(|| configuration.clone());
            assert_eq!(known, configuration, "seed {seed}: {id}");
        }
        let is_next = |(a, b): (&Configuration, &Configuration)| {
            a.number + 1 == b.number && a.base < b.base && a.directory < b.directory
        };
        let all = || self.configurations.values();
        assert!(all().zip(all().skip(1)).all(is_next), "seed {seed}: {:?}", self.configurations);
    }

    fn breakage(&mut self) {
        if self.random.chance(4 * self.storm) {
            let n = self.random.below(GATEWAYS as u64) as usize;
            self.crash(n);
        }
        if self.hasty {
            self.change_leader();
        }
        if self.random.chance(6 * self.storm) {
            let (a, b) = (self.random.below(GATEWAYS as u64), self.random.below(GATEWAYS as u64));
            let cut = self.random.chance(500);
            self.cut[a as usize][b as usize] = cut;
            self.cut[b as usize][a as usize] = cut;
        }
        if self.random.chance(5 * self.storm) {
            self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
        }
        if self.random.chance(10) {
            self.drop_retired();
        }
    }

    /// Slows a leader's disk and lets only one member receive its proposals. Then it ends that leader's process and
    /// cuts the member off: the entries that the member accepted are never chosen if the others continue without it.
    fn change_leader(&mut self) {
        if let Some((at_ms, leader, member)) = self.stranding {
            // Each confirmation of a node makes a proposal of its own.
            let (now, cursor) = (self.now(), self.now_ms);
            if let Some(process) = self.gateways[leader].process.as_mut() {
                process.step(now, ShardEvent::Confirmed { ledger: LedgerId(1), cursor });
            }
            if at_ms <= self.now_ms {
                self.stranding = None;
                self.crash(leader);
                self.cut.iter_mut().flatten().for_each(|cut| *cut = false);
                self.cut_off(&[member]);
            }
            return;
        }
        let leads = |g: &Gateway| {
            let replica = g.process.as_ref().and_then(|p| p.replica.as_ref());
            replica.is_some_and(|r| r.core().serves())
        };
        if !self.random.chance(40) {
            return;
        }
        let Some(leader) = self.gateways.iter().position(leads) else { return };
        let members = self.newest().members.clone();
        let member = usize::from(self.random.pick(&members).0) - 1;
        let at_ms = self.now_ms + 40 + self.random.below(60);
        self.stranding = Some((at_ms, leader, member));
        if let Some(process) = self.gateways[leader].process.as_mut() {
            process.slow_until_ms = at_ms + 50;
        }
        let others: Vec<_> =
            members.iter().map(|m| usize::from(m.0) - 1).filter(|m| *m != member && *m != leader).collect();
        self.cut_off(&others);
    }

    /// Cuts the connections between these gateways and all others.
    fn cut_off(&mut self, apart: &[usize]) {
        for a in 0..GATEWAYS {
            for b in 0..GATEWAYS {
                self.cut[a][b] |= apart.contains(&a) != apart.contains(&b);
            }
        }
    }

    fn crash(&mut self, n: usize) {
        if self.gateways[n].process.is_none() {
            return;
        }
        let damages = self.damage && self.gateways.iter().all(|g| !g.damaged) && self.random.chance(300);
        let most_ms = if self.random.chance(200) { 6_000 } else { 800 };
        let away_ms = 20 + self.random.below(most_ms);
        let back_at_ms = self.now_ms + away_ms;
        self.gateways[n].crash(&mut self.random, back_at_ms);
        self.told.restarts += 1;
        if damages && self.gateways[n].hosts {
            self.gateways[n].lose_log();
            self.told.damaged += 1;
        }
    }

    /// A host gives up a retired replica once a leader of the newest configuration serves. Before that,
    /// the replica may be the only one that knows that the stop is chosen. The host also keeps a replica that a stop
    /// names as a member while that stop may still be chosen.
    fn drop_retired(&mut self) {
        let serves = |p: &Process| {
            let core = p.replica.as_ref().map(|r| r.core());
            core.is_some_and(|c| c.serves() && c.configuration() == self.newest())
        };
        if !self.gateways.iter().filter_map(|g| g.process.as_ref()).any(serves) {
            return;
        }
        let (newest, learners) = (self.newest().clone(), self.learners.clone());
        let planned = self.plan.as_ref().map_or(&[][..], |(_, members, _)| members);
        let n = self.random.below(GATEWAYS as u64) as usize;
        let id = GatewayId(n as u16 + 1);
        let retired = |p: &Process| p.replica.as_ref().is_some_and(|r| r.may_be_given_up(newest.number));
        let gateway = &mut self.gateways[n];
        let ordered = self.ordered.contains(&(newest.number, id));
        let wanted = newest.has_member(id) || ordered || learners.contains(&id) || planned.contains(&id);
        if !wanted && gateway.process.as_ref().is_some_and(retired) {
            gateway.give_up(Now { mono_ms: self.now_ms, wall: EpochMs(WALL), sure: true }, newest.number);
            self.told.dropped += 1;
        }
    }

    /// Moves one replica after another, as the directory would.
    fn decide(&mut self) {
        let newest = self.newest().clone();
        if !self.faults {
            return;
        }
        let often = if self.hasty { 900 } else { 60 };
        if newest.number >= self.last_configuration || !self.random.chance(often) {
            return;
        }
        if self.plan.as_ref().is_none_or(|(number, ..)| *number != newest.number) || self.random.chance(40) {
            let (members, witnesses) = self.next_members(&newest);
            self.learners = members.iter().filter(|m| !newest.has_member(**m)).copied().collect();
            self.plan = Some((newest.number, members, witnesses));
            return;
        }
        let Some((ends, members, witnesses)) = self.plan.clone() else { return };
        let now = self.now();
        let small = members.len() < 3 || newest.members.len() < 3;
        if small && self.gateways.iter().any(|g| g.damaged) {
            return;
        }
        let n = self.random.below(GATEWAYS as u64) as usize;
        let Some(process) = self.gateways[n].process.as_mut() else { return };
        if process.replica.as_ref().is_some_and(|r| r.core().serves()) {
            self.directory += 1;
            self.ordered.extend(members.iter().map(|m| (ends, *m)));
            let stop = Stop { ends, members, witnesses, directory: self.directory };
            process.step(now, ShardEvent::Reconfigure(stop));
        }
    }

    fn next_members(&mut self, newest: &Configuration) -> (Vec<GatewayId>, Vec<GatewayId>) {
        let (mut members, mut witnesses) = (newest.members.clone(), newest.witnesses.clone());
        let others: Vec<_> =
            (1..=GATEWAYS as u16).map(GatewayId).filter(|g| !newest.has_member(*g)).collect();
        let least = if self.damage { 3 } else { 1 };
        let at = self.random.below(members.len() as u64) as usize;
        match self.random.below(6) {
            _ if self.hasty && self.random.chance(800) => members.rotate_left(1),
            0 if members.len() > least => {
                let gone = members.remove(at);
                witnesses.retain(|w| *w != gone);
            }
            1 if members.len() < 5 => members.push(self.random.pick(&others)),
            2 if members.len() < 5 && witnesses.is_empty() => {
                let witness = self.random.pick(&others);
                members.push(witness);
                witnesses.push(witness);
            }
            _ => {
                let gone = std::mem::replace(&mut members[at], self.random.pick(&others));
                witnesses.retain(|w| *w != gone);
            }
        }
        if witnesses.len() == members.len() {
            // One more, so that one may lead.
            return ([&newest.members[..], &others[..1]].concat(), newest.witnesses.clone());
        }
        (members, witnesses)
    }

    /// Whether all members of the newest configuration have applied everything that is chosen, one of them serves, and
    /// every client has its answer.
    fn is_healed(&self) -> bool {
        let newest = self.newest();
        let cores: Option<Vec<_>> = newest
            .members
            .iter()
            .map(|m| self.gateways[usize::from(m.0) - 1].process.as_ref()?.replica.as_ref().map(|r| r.core()))
            .collect();
        let Some(cores) = cores else { return false };
        let commit = cores.iter().map(|c| c.consensus().commit()).max().unwrap_or(0);
        let ready = |c: &&selvedge_fabric::shard::ShardCore| {
            c.configuration() == newest
                && c.machine().slot() == commit
                && !matches!(c.status(self.now()).role, ReplicaRole::Damaged | ReplicaRole::Candidate)
        };
        let answered = self.gateways.iter().all(|g| g.process.as_ref().is_some_and(|p| p.batch.is_none()));
        answered && cores.iter().all(ready) && cores.iter().filter(|c| c.serves()).count() == 1
    }

    /// Every acknowledged batch was counted exactly once, and every other one at most once.
    fn check_counted_once(&self) {
        let newest = self.newest();
        let member = &self.gateways[usize::from(newest.members[0].0) - 1];
        let replica = member.process.as_ref().and_then(|p| p.replica.as_ref()).expect("it is healed");
        let machine = replica.core().machine();
        let (from, to) = (EpochMs(i64::MIN), EpochMs(i64::MAX));
        let mut counted = BTreeSet::new();
        let running = self.gateways.iter().filter_map(|g| g.process.as_ref()).flat_map(|p| &p.names);
        for name in self.gateways.iter().flat_map(|g| &g.names).chain(running) {
            let query = Query { device: name, stream: None, from, to, every_ms: None };
            let rows = machine.scan(&query, &Page::default()).finish().windows;
            let count: u64 = rows.iter().map(|row| row.aggregate.count).sum();
            assert!(count <= 1, "seed {}: {name} is counted {count} times", self.seed);
            if count == 1 {
                counted.insert(name.clone());
            }
        }
        for name in self.acknowledged.keys() {
            assert!(counted.contains(name), "seed {}: {name} is acknowledged and lost", self.seed);
        }
    }

    fn describe(&self) {
        let now = self.now();
        eprintln!("at {} newest {:?} learners {:?}", self.now_ms, self.newest(), self.learners);
        for (n, gateway) in self.gateways.iter().enumerate() {
            let Some(process) = &gateway.process else {
                eprintln!("{}: down", n + 1);
                continue;
            };
            let status = process.replica.as_ref().map(|r| r.core().status(now));
            let batch = process.batch.as_ref().map(|b| (&b.name, b.to));
            let status = status.map(|s| (s.configuration, s.role, s.leader, s.ballot, s.commit, s.applied));
            eprintln!("{}: {status:?} batch {batch:?}", n + 1);
        }
    }
}
