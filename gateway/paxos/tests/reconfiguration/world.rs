//! The gateways, the network between them, the faults, the clients, and whoever decides on the next configuration.

use crate::checks::{Checks, Place};
use crate::host::{Host, Wire, Write};
use crate::seeded::Random;
use crate::stop::{self, Cast};
use selvedge_paxos::{Consensus, Event, Limits, PaxosEffects, Record, Role, Slot, Value};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;

const GATEWAYS: usize = 6;
/// How many values one message of help carries.
const HELP_VALUES: Slot = 8;

pub struct World {
    seed: u64,
    random: Random,
    now: u64,
    hosts: Vec<Host>,
    net: BTreeMap<(u64, u64), (usize, usize, Wire)>,
    sent: u64,
    cut: Vec<Vec<bool>>,
    faults: bool,
    loss: u64,
    /// How many times more often than usual something breaks.
    storm: u64,
    damage: bool,
    /// Stops are proposed early and often, and by leaders that nobody hears.
    hasty: bool,
    pub checks: Checks,
    /// For each configuration: the learners, and what is to come after it.
    learners: BTreeMap<u32, Vec<GatewayId>>,
    plans: BTreeMap<u32, Cast>,
    /// No configuration after this one is decided on.
    last_configuration: u32,
    next: u64,
    pub reads_served: u64,
    pub healed: u64,
}

fn small() -> Limits {
    Limits {
        value_bytes: 256,
        window_bytes: 1024,
        window_entries: 6,
        chunk_bytes: 300,
        in_flight_bytes: 500,
        memory_bytes: 3000,
        ..Limits::default()
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let loss = [0, 20, 100, 250][random.below(4) as usize];
        let storm = [1, 1, 3, 8][random.below(4) as usize];
        let damage = random.chance(300);
        let hasty = random.chance(300);
        let last_configuration = 2 + random.below(if hasty { 12 } else { 5 }) as u32;
        let first = cast(&mut random, damage);
        let checks = Checks::new(seed, first);
        let host = |n: usize| Host::new(GatewayId(n as u16 + 1), checks.places[0].clone(), GATEWAYS);
        Self {
            seed,
            random,
            now: 1000,
            hosts: (0..GATEWAYS).map(host).collect(),
            net: BTreeMap::new(),
            sent: 0,
            cut: vec![vec![false; GATEWAYS]; GATEWAYS],
            faults: true,
            loss,
            storm,
            damage,
            hasty,
            checks,
            learners: BTreeMap::new(),
            plans: BTreeMap::new(),
            last_configuration,
            next: 0,
            reads_served: 0,
            healed: 0,
        }
    }

    /// Makes the replica of the host's place, if the gateway takes part.
    fn begin(&mut self, n: usize) {
        let limits = if self.seed.is_multiple_of(2) { small() } else { Limits::default() };
        let nonce = self.random.next();
        let host = &mut self.hosts[n];
        let Place { configuration, cast, base } = host.place.clone();
        let mut learners = self.learners.get(&configuration).cloned().unwrap_or_default();
        learners.retain(|l| !cast.members.contains(l));
        host.learners.clone_from(&learners);
        let cast = Cast { learners, ..cast };
        host.next_at = None;
        host.proposed.clear();
        if !cast.has(host.id) {
            return;
        }
        let config = cast.config(host.id, configuration, base, limits);
        let found = host.recovered(configuration, nonce);
        let mut group =
            Consensus::recover(config, found).unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
        group.step(self.now, Event::Peers { up: host.up.clone(), restarted: Vec::new() });
        host.group = Some(group);
        self.settle(n, configuration);
    }

    /// The process starts: the snapshot says in which configuration it was made, and each chosen stop on disk leads on.
    fn start(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        host.applied = host.snapshot;
        host.place = self.checks.place_at(host.snapshot).clone();
        host.life += 1;
        host.runs = true;
        host.seen_lives.fill(None);
        host.up.clear();
        host.look_at = self.now;
        self.begin(n);
        while self.hosts[n].group.as_ref().is_some_and(|g| g.stopped().is_some()) {
            self.advance(n);
        }
        self.hosts[n].former = None;
    }

    /// The host has applied the stop and makes the next configuration.
    fn advance(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        let Some(slot) = host.group.as_ref().and_then(Consensus::stopped) else { return };
        assert_eq!(host.applied, slot, "seed {}", self.seed);
        let place = self.checks.place_at(slot).clone();
        assert_eq!(place.configuration, host.place.configuration + 1);
        host.former = host.group.take().map(|group| (host.place.configuration, group));
        host.place = place;
        host.moved_on.clear();
        let former = host.former.as_ref().map(|(c, _)| *c);
        host.reads.retain(|(c, _), _| Some(*c) == former);
        self.begin(n);
    }

    fn crash(&mut self, n: usize) {
        let any_damaged = self.hosts.iter().any(|h| h.damaged);
        let kept = self.random.below(self.hosts[n].writing.len() as u64 + 1) as usize;
        for write in std::mem::take(&mut self.hosts[n].writing).into_iter().take(kept) {
            self.keep(n, write);
        }
        let back_at = self.now + 20 + self.random.below(800);
        let host = &mut self.hosts[n];
        (host.group, host.former, host.runs, host.healing) = (None, None, false, None);
        host.waiting.clear();
        host.reads.clear();
        host.back_at = back_at;
        if self.damage && !any_damaged && self.random.chance(400) {
            host.disk.clear();
            host.damaged = true;
            if self.random.chance(400) {
                host.snapshot = host.first_snapshot;
            }
        }
    }

    /// A write is on disk.
    fn keep(&mut self, n: usize, write: Write) {
        let host = &mut self.hosts[n];
        let member = |configuration: u32, checks: &Checks| {
            let place = checks.places.iter().find(|p| p.configuration == configuration);
            place.is_some_and(|p| p.cast.members.contains(&host.id))
        };
        if !host.damaged && member(write.configuration, &self.checks) {
            for record in &write.records {
                if let Record::Accepted(entry) = record {
                    self.checks.voted(host.id, write.configuration, entry);
                }
            }
        }
        host.disk.extend(write.records.into_iter().map(|r| (write.configuration, r)));
        if host.healing.is_some_and(|number| number <= write.number) {
            self.heal(n);
        }
    }

    fn heal(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        (host.healing, host.damaged) = (None, false);
        self.healed += 1;
        let place = &host.place;
        if place.cast.members.contains(&host.id) {
            for (configuration, record) in &host.disk {
                if let Record::Accepted(entry) = record
                    && *configuration == place.configuration
                {
                    self.checks.voted(host.id, *configuration, entry);
                }
            }
        }
    }

    fn step(&mut self, n: usize, configuration: u32, event: Event) {
        let now = self.now;
        if let Some(group) = self.hosts[n].replica(configuration) {
            group.step(now, event);
        }
    }

    fn step_newest(&mut self, n: usize, event: Event) {
        let configuration = self.hosts[n].place.configuration;
        self.step(n, configuration, event);
        self.settle(n, configuration);
    }

    /// Takes and performs effects.
    fn settle(&mut self, n: usize, configuration: u32) {
        let seed = self.seed;
        let id = self.hosts[n].id;
        let Some(group) = self.hosts[n].replica(configuration) else { return };
        let PaxosEffects {
            send,
            records,
            token,
            send_after,
            commit,
            stopped,
            reads,
            reads_failed,
            behind,
            leadership_changed: _,
            healed,
        } = group.take();
        let (role, ballot) = (group.role(), group.ballot());
        let cast = self.checks.places.iter().find(|p| p.configuration == configuration).map(|p| &p.cast);
        let may_lead = cast.is_some_and(|c| c.members.contains(&id) && !c.witnesses.contains(&id));
        assert!(may_lead || !matches!(role, Role::Leader | Role::Candidate), "seed {seed}: {id} is {role:?}");
        let host = &mut self.hosts[n];
        if !records.is_empty() {
            host.writes += 1;
            let due = self.now + 1 + self.random.below(if self.faults { 40 } else { 5 });
            host.writing.push_back(Write { due, number: host.writes, configuration, token, records });
        }
        if healed {
            host.healing = Some(host.writes);
        }
        for (to, message) in send_after {
            host.waiting.push_back((host.writes, to, Wire::Paxos(configuration, message)));
        }
        for (to, message) in send {
            self.post(n, to, Wire::Paxos(configuration, message));
        }
        if let Some(commit) = commit {
            let host = &mut self.hosts[n];
            for slot in host.applied + 1..=commit {
                let group = host.replica(configuration).unwrap();
                let entry = group.entry(slot).unwrap_or_else(|| panic!("seed {seed}: no entry {slot}"));
                self.checks.applied(id, configuration, slot, &entry.value);
            }
            host.applied = host.applied.max(commit);
            host.proposed.retain(|(c, b, slot, value)| {
                if *slot <= commit && (*c, *b) == (configuration, ballot) && role == Role::Leader {
                    assert_eq!(
                        self.checks.chosen[*slot as usize - 1].0,
                        *value,
                        "seed {seed}: acked another"
                    );
                }
                *slot > commit
            });
        }
        if let Some(slot) = stopped {
            let value = &self.checks.chosen[slot as usize - 1].0;
            assert!(stop::is_stop(value), "seed {seed}: {id} stops at {slot}");
            let host = &mut self.hosts[n];
            if host.place.configuration == configuration {
                host.next_at = Some(self.now + self.random.below(60));
            }
        }
        let host = &mut self.hosts[n];
        for (read, slot) in reads {
            let least = host.reads.remove(&(configuration, read)).expect("a read was asked for once");
            assert!(slot >= least, "seed {seed}: read at {slot} missed {least}");
            self.reads_served += 1;
        }
        for read in reads_failed {
            assert!(host.reads.remove(&(configuration, read)).is_some());
        }
        self.release(n);
        for follower in behind {
            if !self.faults || self.random.chance(700) {
                let slot = self.hosts[n].applied;
                self.post(n, follower, Wire::Snapshot { slot });
            }
        }
    }

    /// What waits for nothing any more leaves.
    fn release(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        let open = host.writing.front().map_or(u64::MAX, |w| w.number);
        while let Some((number, _, _)) = self.hosts[n].waiting.front()
            && *number < open
        {
            let (_, to, wire) = self.hosts[n].waiting.pop_front().unwrap();
            self.post(n, to, wire);
        }
        if self.hosts[n].healing.is_some_and(|number| number < open) {
            self.heal(n);
        }
    }

    fn post(&mut self, from: usize, to: GatewayId, wire: Wire) {
        let to = to.0 as usize - 1;
        let copies = if self.faults && self.random.chance(30) { 2 } else { 1 };
        for _ in 0..copies {
            if self.faults && self.random.chance(self.loss) {
                continue;
            }
            let mut wait = 1 + self.random.below(10);
            if self.faults && self.random.chance(50) {
                wait += self.random.below(600);
            }
            self.sent += 1;
            self.net.insert((self.now + wait, self.sent), (from, to, wire.clone()));
        }
    }

    fn hear(&mut self, from: usize, n: usize, wire: Wire) {
        let sender = self.hosts[from].id;
        if !self.hosts[n].runs {
            return;
        }
        match wire {
            Wire::Paxos(configuration, message) => {
                let newest = self.hosts[n].place.configuration;
                if configuration > newest {
                    return self.ask(n, sender);
                }
                if configuration < newest {
                    self.post(n, sender, Wire::Superseded { configuration: newest, asks: false });
                }
                self.step(n, configuration, Event::Message { from: sender, message });
                if self.random.chance(700) {
                    self.settle(n, configuration);
                }
            }
            Wire::Superseded { configuration, asks } => {
                let newest = self.hosts[n].place.configuration;
                if configuration > newest {
                    return self.ask(n, sender);
                }
                if asks {
                    self.post(n, sender, Wire::Superseded { configuration: newest, asks: false });
                }
                let host = &mut self.hosts[n];
                if configuration == newest && !host.moved_on.contains(&sender) {
                    host.moved_on.push(sender);
                    if let Some((former, _)) = host.former {
                        self.tell_peers(n, former, &[]);
                    }
                }
            }
            Wire::Behind { applied, snapshot } => {
                let slot = self.hosts[n].applied;
                if slot <= applied {
                    return;
                }
                let wire = if snapshot || self.random.chance(500) {
                    Wire::Snapshot { slot }
                } else {
                    let run = applied..slot.min(applied + HELP_VALUES);
                    let values = run.map(|s| self.checks.chosen[s as usize].0.clone()).collect();
                    Wire::Values { from: applied + 1, values }
                };
                self.post(n, sender, wire);
            }
            Wire::Values { from, values } => self.step_newest(n, Event::Learned { from, values }),
            Wire::Snapshot { slot } => self.install(n, slot),
        }
    }

    /// The gateway has heard of a configuration that it has not begun.
    fn ask(&mut self, n: usize, of: GatewayId) {
        let host = &self.hosts[n];
        let (applied, snapshot) = (host.applied, host.group.is_none());
        if host.next_at.is_none() {
            self.post(n, of, Wire::Behind { applied, snapshot });
        }
    }

    /// A snapshot was fetched and is durable: its configuration begins here, unless it runs already.
    fn install(&mut self, n: usize, slot: Slot) {
        let place = self.checks.place_at(slot).clone();
        let host = &mut self.hosts[n];
        if slot <= host.applied {
            return;
        }
        if host.first_snapshot == 0 && !self.checks.places[0].cast.has(host.id) {
            host.first_snapshot = slot;
        }
        (host.snapshot, host.applied) = (slot, slot);
        host.disk.retain(|(_, r)| !matches!(r, Record::Accepted(e) if e.slot <= slot));
        if place.configuration > host.place.configuration {
            (host.place, host.group, host.former) = (place, None, None);
            host.reads.clear(); // their clients ask again
            self.begin(n);
        } else if host.group.is_some() {
            self.step_newest(n, Event::SnapshotInstalled { slot });
        }
    }

    /// One failure detector per gateway looks around now and then.
    fn look(&mut self, n: usize) {
        if !self.hosts[n].runs || self.hosts[n].look_at > self.now {
            return;
        }
        self.hosts[n].look_at = self.now + 30 + self.random.below(100);
        let (mut up, mut restarted, mut fresh) = (Vec::new(), Vec::new(), Vec::new());
        let mut changed = false;
        for other in (0..GATEWAYS).filter(|&o| o != n) {
            let life = self.hosts[other].life;
            let reached = (self.hosts[other].runs && !self.cut[n][other]).then_some(life);
            let id = self.hosts[other].id;
            let seen = &mut self.hosts[n].seen_lives[other];
            if *seen != reached {
                changed = true;
                if seen.is_some() && reached.is_some() {
                    restarted.push(id);
                }
                if reached.is_some() {
                    fresh.push(id);
                }
                *seen = reached;
            }
            if reached.is_some() {
                up.push(id);
            }
        }
        if changed {
            self.hosts[n].moved_on.retain(|id| !fresh.contains(id));
            self.hosts[n].up = up;
            let newest = self.hosts[n].place.configuration;
            let former = self.hosts[n].former.as_ref().map(|(c, _)| *c);
            for configuration in former.into_iter().chain([newest]) {
                self.tell_peers(n, configuration, &restarted);
            }
            // Who was away may believe in a leader of a configuration that is over.
            for id in fresh.into_iter().filter(|_| newest > 1) {
                self.post(n, id, Wire::Superseded { configuration: newest, asks: true });
            }
        }
    }

    /// A former replica no longer sees those who have moved on.
    fn tell_peers(&mut self, n: usize, configuration: u32, restarted: &[GatewayId]) {
        let host = &self.hosts[n];
        let gone: &[_] = if configuration < host.place.configuration { &host.moved_on } else { &[] };
        let up = host.up.iter().filter(|id| !gone.contains(id)).copied().collect();
        self.step(n, configuration, Event::Peers { up, restarted: restarted.to_vec() });
        self.settle(n, configuration);
    }

    fn breakage(&mut self) {
        if self.random.chance(6 * self.storm.min(4)) {
            let n = self.random.below(GATEWAYS as u64) as usize;
            if self.hosts[n].runs {
                self.crash(n);
            }
        }
        if self.random.chance(8 * self.storm) {
            let (a, b) = (self.random.below(GATEWAYS as u64), self.random.below(GATEWAYS as u64));
            let cut = self.random.chance(500);
            self.cut[a as usize][b as usize] = cut;
            self.cut[b as usize][a as usize] = cut;
        }
        if self.random.chance(4 * self.storm) {
            // Everything works for a moment, so that runs get somewhere.
            self.cut.iter_mut().flatten().for_each(|c| *c = false);
        }
        if self.random.chance(5) {
            let n = self.random.below(GATEWAYS as u64) as usize;
            let room = self.random.chance(600);
            self.step_newest(n, Event::Room(room));
        }
    }

    /// Whoever decides on configurations: first the newcomers learn, then a leader proposes the stop.
    fn decide(&mut self) {
        let Place { configuration, cast: present, .. } = self.checks.newest().clone();
        let (often, rivals) = if self.hasty { (400, 50) } else { (60, 100) };
        if configuration >= self.last_configuration || !self.random.chance(often) {
            return;
        }
        let rival = self.random.chance(rivals);
        if rival || !self.plans.contains_key(&configuration) {
            let plan = cast(&mut self.random, self.damage);
            let newcomers = plan.members.iter().filter(|m| !present.members.contains(m)).copied();
            self.learners.insert(configuration, newcomers.collect());
            self.plans.insert(configuration, plan);
            return;
        }
        let plan = self.plans[&configuration].clone();
        let n = self.random.below(GATEWAYS as u64) as usize;
        let host = &self.hosts[n];
        let Some(group) = host.group.as_ref().filter(|_| host.place.configuration == configuration) else {
            return;
        };
        // It is safe to propose the stop early, just slow.
        let waits = self.random.chance(if self.hasty { 300 } else { 800 });
        let near = |m: &GatewayId| group.progress(*m).is_some_and(|slot| slot + 4 >= group.commit());
        let behind = plan.members.iter().any(|m| !present.members.contains(m) && !near(m));
        let damaged = self.hosts.iter().any(|h| h.damaged && plan.members.contains(&h.id));
        if group.role() == Role::Leader && !(waits && behind) && !damaged {
            let value = Value::from(plan.to_string().as_bytes());
            self.propose(n, value);
        }
    }

    fn propose(&mut self, n: usize, value: Value) -> bool {
        let now = self.now;
        let host = &mut self.hosts[n];
        let configuration = host.place.configuration;
        let Some(group) = host.group.as_mut() else { return false };
        let proposed = group.propose(now, value.clone());
        if let Ok((ballot, slot)) = proposed {
            host.proposed.push((configuration, ballot, slot, value));
        }
        self.settle(n, configuration);
        proposed.is_ok()
    }

    /// Every host that knows of a configuration sees to it that its members begin it.
    fn see_it_begun(&mut self, n: usize) {
        let (id, now) = (self.hosts[n].id, self.now);
        let host = &mut self.hosts[n];
        if host.place.configuration == 1 || host.ask_at > now {
            return;
        }
        host.ask_at = now + 200;
        let missing = |m: &&GatewayId| **m != id && host.up.contains(m) && !host.moved_on.contains(m);
        let missing: Vec<_> = host.place.cast.members.iter().filter(missing).copied().collect();
        let configuration = host.place.configuration;
        for member in missing {
            self.post(n, member, Wire::Superseded { configuration, asks: true });
        }
    }

    /// The host's own work, and its clients.
    fn work(&mut self, n: usize) {
        if self.hosts[n].next_at.is_some_and(|at| at <= self.now) {
            self.advance(n);
        }
        self.see_it_begun(n);
        let configuration = self.hosts[n].place.configuration;
        let learners = self.learners.get(&configuration).cloned().unwrap_or_default();
        let stopped = self.hosts[n].next_at.is_some();
        if !stopped && learners != self.hosts[n].learners && self.random.chance(200) {
            let host = &mut self.hosts[n];
            host.learners.clone_from(&learners);
            if !host.place.cast.members.contains(&host.id) && !learners.contains(&host.id) {
                host.group = None; // it takes no part any more
                host.reads.retain(|(c, _), _| *c != configuration);
            }
            match host.group {
                Some(_) => self.step_newest(n, Event::Learners(learners)),
                None => self.begin(n),
            }
        }
        let host = &mut self.hosts[n];
        if host.former.as_ref().is_some_and(|(_, g)| g.deadline().is_none()) && host.writing.is_empty() {
            host.former = None;
            host.reads.retain(|(c, _), _| *c == configuration);
        }
        if self.random.chance(80) {
            let keep = if self.seed.is_multiple_of(2) { self.random.below(6) } else { self.random.below(60) };
            let host = &mut self.hosts[n];
            let through = host.applied.saturating_sub(keep);
            if self.seed.is_multiple_of(2) || self.random.chance(200) {
                let host = &mut self.hosts[n];
                host.snapshot = host.snapshot.max(through);
                let snapshot = host.snapshot;
                host.disk.retain(|(_, r)| !matches!(r, Record::Accepted(e) if e.slot <= snapshot));
            }
            self.step_newest(n, Event::TrimMemory { through });
        }
        if !self.faults {
            return;
        }
        if self.random.chance(80) {
            self.next += 1;
            let mut value = self.next.to_le_bytes().to_vec();
            value.resize(8 + self.random.below(90) as usize, 0);
            self.propose(n, Value::from(value));
        }
        if self.random.chance(20) {
            self.next += 1;
            let (id, least) = (self.next, self.checks.chosen.len() as Slot);
            if self.hosts[n].group.is_some() {
                self.hosts[n].reads.insert((configuration, id), least);
                self.step_newest(n, Event::Read { id });
            }
        }
        if self.random.chance(self.storm * 2) {
            self.step_newest(n, Event::StepDown);
        }
    }

    fn tick(&mut self) {
        self.now += 1 + self.random.below(8);
        if self.faults {
            self.breakage();
            self.decide();
        }
        while let Some(first) = self.net.first_entry()
            && first.key().0 <= self.now
        {
            let (from, to, wire) = first.remove();
            if !self.cut[from][to] {
                self.hear(from, to, wire);
            }
        }
        for n in 0..GATEWAYS {
            if !self.hosts[n].runs {
                if self.hosts[n].back_at <= self.now {
                    self.start(n);
                }
                continue;
            }
            self.look(n);
            while let Some(write) = self.hosts[n].writing.pop_front_if(|w| w.due <= self.now) {
                let (configuration, token) = (write.configuration, write.token);
                self.keep(n, write);
                self.release(n);
                self.step(n, configuration, Event::Persisted { token });
            }
            let now = self.now;
            let newest = self.hosts[n].place.configuration;
            let former = self.hosts[n].former.as_ref().map(|(c, _)| *c);
            for configuration in former.into_iter().chain([newest]) {
                let due = |g: &mut Consensus| g.deadline().is_some_and(|at| at <= now);
                if self.hosts[n].replica(configuration).is_some_and(due) {
                    self.step(n, configuration, Event::Timer);
                }
                self.settle(n, configuration);
            }
            self.work(n);
        }
    }

    pub fn run(&mut self) {
        let ticks = 400 + self.random.below(1200);
        for _ in 0..ticks {
            self.tick();
        }
        self.faults = false;
        self.cut.iter_mut().flatten().for_each(|c| *c = false);
        for n in 0..GATEWAYS {
            self.step_newest(n, Event::Room(true));
        }
        let mut proposed = None;
        for _ in 0..16_000 {
            self.tick();
            let place = self.checks.newest().clone();
            let leads =
                |h: &Host| h.place == place && h.group.as_ref().is_some_and(|g| g.role() == Role::Leader);
            let mut leaders = (0..GATEWAYS).filter(|&n| leads(&self.hosts[n]));
            if let (Some(leader), None) = (leaders.next(), leaders.next())
                && let Some(group) = &self.hosts[leader].group
                && proposed != Some((place.configuration, group.ballot()))
                && group.commit() > place.base
            {
                let ballot = group.ballot();
                if self.propose(leader, Value::from(&b"healed"[..])) {
                    proposed = Some((place.configuration, ballot));
                }
            }
            let last = self.checks.chosen.last();
            let served = last.is_some_and(|(value, _)| **value == b"healed"[..]);
            if served && self.net.is_empty() && self.hosts.iter().all(|h| self.is_calm(h)) {
                return;
            }
        }
        for host in &self.hosts {
            for g in host.former.iter().map(|(_, g)| g).chain(&host.group) {
                eprintln!(
                    "{} in {} of {}: {:?} {} leader {:?} commit {} last {} first {} stopped {:?} deadline {:?} now {}",
                    host.id,
                    g.config().configuration,
                    host.place.configuration,
                    g.role(),
                    g.ballot(),
                    g.leader(),
                    g.commit(),
                    g.last_slot(),
                    g.first_slot(),
                    g.stopped(),
                    g.deadline(),
                    self.now
                );
            }
        }
        panic!("seed {}: did not heal; newest {:?}", self.seed, self.checks.newest());
    }

    /// Who takes part in the last configuration has everything, and nobody wants a timer any more.
    fn is_calm(&self, host: &Host) -> bool {
        let place = self.checks.newest();
        let learns = self.learners.get(&place.configuration).is_some_and(|l| l.contains(&host.id));
        let takes_part = place.cast.members.contains(&host.id) || learns;
        let ready = |g: &Consensus| {
            g.commit() == self.checks.chosen.len() as Slot
                && !matches!(g.role(), Role::Damaged | Role::Candidate)
                && g.leader().is_some()
        };
        let idle = host.former.is_none() && host.group.as_ref().is_none_or(|g| g.deadline().is_none());
        host.runs
            && host.next_at.is_none()
            && idle
            && (!takes_part || (host.place == *place && host.group.as_ref().is_some_and(ready)))
    }
}

/// Some of the gateways, one of them a witness now and then.
fn cast(random: &mut Random, damage: bool) -> Cast {
    let least = if damage { 3 } else { 1 };
    let count = [least, 3, 3, 3, 4, 5][random.below(6) as usize];
    let mut all: Vec<_> = (1..=GATEWAYS as u16).collect();
    let members: Vec<_> = (0..count).map(|_| all.remove(random.below(all.len() as u64) as usize)).collect();
    let mut cast = Cast::of(members);
    if count > 2 && random.chance(400) {
        cast.witnesses.push(cast.members[random.below(count) as usize]);
    }
    cast
}
