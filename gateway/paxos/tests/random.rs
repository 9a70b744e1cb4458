//! Whole groups under random faults: loss, duplication, reordering, partitions, crashes that lose records not yet
//! on disk, trimmed logs, snapshots and damaged disks. Then the faults stop and the group must heal.
//!
//! A seed reproduces a run. `SELVEDGE_SEEDS=FROM..TO` runs those seeds instead of the usual ones.

#![allow(clippy::disallowed_methods)] // A seed may be given.

mod seeded;

use seeded::{Random, seeds};
use selvedge_paxos::{
    Ballot, Consensus, Event, GroupConfig, Limits, Message, PaxosEffects, Record, Recovered, Role, Slot,
    Value,
};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, VecDeque};

/// A replica's process, disk and host.
struct Node {
    group: Option<Consensus>,
    life: u64,
    disk: Vec<Record>,
    writing: VecDeque<(u64, u64, Vec<Record>)>,
    waiting: VecDeque<(u64, GatewayId, Message)>,
    healing: Option<u64>,
    damaged: bool,
    snapshot: Slot,
    applied: Slot,
    back_at: u64,
    seen_lives: Vec<Option<u64>>,
    look_at: u64,
    proposed: Vec<(Ballot, Slot, Value)>,
    reads: BTreeMap<u64, Slot>,
    room: bool,
}

struct World {
    seed: u64,
    random: Random,
    now: u64,
    nodes: Vec<Node>,
    net: BTreeMap<(u64, u64), (usize, usize, Message)>,
    sent: u64,
    cut: Vec<Vec<bool>>,
    faults: bool,
    loss: u64,
    /// How many times more often than usual a fault happens.
    storm: u64,
    damage: bool,
    /// The values that any replica ever committed.
    chosen: Vec<Value>,
    led: BTreeMap<Ballot, (usize, u64)>,
    next: u64,
    reads_served: u64,
    heals: u64,
}

fn limits(small: bool) -> Limits {
    let mut limits = Limits::default();
    if small {
        limits.value_bytes = 256;
        limits.window_bytes = 1024;
        limits.window_entries = 6;
        limits.chunk_bytes = 300;
        limits.in_flight_bytes = 500;
        limits.memory_bytes = 3000;
    }
    limits
}

impl World {
    fn new(seed: u64, count: usize) -> Self {
        let mut random = Random::new(seed);
        let loss = [0, 20, 100, 250][random.below(4) as usize];
        let storm = [1, 1, 4, 10][random.below(4) as usize];
        let damage = random.chance(300);
        let node = |_| Node {
            group: None,
            life: 0,
            disk: Vec::new(),
            writing: VecDeque::new(),
            waiting: VecDeque::new(),
            healing: None,
            damaged: false,
            snapshot: 0,
            applied: 0,
            back_at: 0,
            seen_lives: vec![None; count],
            look_at: 0,
            proposed: Vec::new(),
            reads: BTreeMap::new(),
            room: true,
        };
        Self {
            seed,
            random,
            now: 1000,
            nodes: (0..count).map(node).collect(),
            net: BTreeMap::new(),
            sent: 0,
            cut: vec![vec![false; count]; count],
            faults: true,
            loss,
            storm,
            damage,
            chosen: Vec::new(),
            led: BTreeMap::new(),
            next: 0,
            reads_served: 0,
            heals: 0,
        }
    }

    fn start(&mut self, n: usize) {
        let members: Vec<_> = (1..=self.nodes.len() as u16).map(GatewayId).collect();
        let small = self.seed.is_multiple_of(2);
        let me = members[n];
        let config = GroupConfig::new(ShardId(1), me, members, limits(small));
        let node = &mut self.nodes[n];
        let mut found = Recovered { snapshot_slot: node.snapshot, ..Recovered::default() };
        found.damaged = node.damaged.then(|| self.random.next());
        for record in &node.disk {
            match record {
                Record::Promised(b) => found.promised = found.promised.max(*b),
                Record::Committed(s) => found.commit = found.commit.max(*s),
                Record::Accepted(e) => found.entries.push(e.clone()),
            }
        }
        let group = Consensus::recover(config, found).unwrap_or_else(|e| panic!("seed {}: {e}", self.seed));
        node.applied = node.snapshot;
        node.group = Some(group);
        node.life += 1;
        node.healing = None;
        node.seen_lives.fill(None);
        node.look_at = self.now;
        node.room = true;
        self.settle(n);
    }

    fn crash(&mut self, n: usize) {
        let most = (self.nodes.len() - 1) / 2;
        let others_damaged = self.nodes.iter().enumerate().filter(|(i, o)| *i != n && o.damaged).count();
        let node = &mut self.nodes[n];
        node.group = None;
        // Some of the records not yet reported may be on disk all the same.
        let kept = self.random.below(node.writing.len() as u64 + 1) as usize;
        for (_, _, records) in node.writing.drain(..).take(kept) {
            node.disk.extend(records);
        }
        node.waiting.clear();
        node.proposed.clear();
        node.reads.clear();
        node.back_at = self.now + 20 + self.random.below(800);
        if self.damage && others_damaged < most && self.random.chance(400) {
            // Nothing after the damage is usable; nothing before it is trusted.
            node.disk.clear();
            node.damaged = true;
            if self.random.chance(300) {
                node.snapshot = 0;
            }
        }
    }

    fn step(&mut self, n: usize, event: Event) {
        let now = self.now;
        if let Some(group) = &mut self.nodes[n].group {
            group.step(now, event);
        }
    }

    /// Takes and performs effects.
    fn settle(&mut self, n: usize) {
        let seed = self.seed;
        let life = self.nodes[n].life;
        let Some(group) = &mut self.nodes[n].group else { return };
        let PaxosEffects {
            send,
            records,
            token,
            send_after,
            commit,
            reads,
            reads_failed,
            behind,
            stopped: None,
            leadership_changed: _,
            healed,
        } = group.take()
        else {
            panic!("seed {seed}: a stop that nobody proposed")
        };
        if group.role() == Role::Leader {
            let me = (n, life);
            let before = *self.led.entry(group.ballot()).or_insert(me);
            assert_eq!(before, me, "seed {seed}: {} led twice", group.ballot());
            assert_eq!(group.leader(), Some(GatewayId(n as u16 + 1)));
        }
        let node = &mut self.nodes[n];
        let group = node.group.as_ref().unwrap();
        if let Some(commit) = commit {
            assert!(commit > node.applied, "seed {seed}: commit fell");
            for slot in node.applied + 1..=commit {
                let entry = group.entry(slot).unwrap_or_else(|| panic!("seed {seed}: no entry {slot}"));
                match self.chosen.get(slot as usize - 1) {
                    Some(chosen) => assert_eq!(*chosen, entry.value, "seed {seed}: g{} slot {slot}", n + 1),
                    None => {
                        assert_eq!(self.chosen.len() as u64 + 1, slot, "seed {seed}");
                        self.chosen.push(entry.value.clone());
                    }
                }
            }
            node.applied = commit;
            let ballot = group.ballot();
            node.proposed.retain(|(b, slot, value)| {
                if *slot <= commit && *b == ballot && group.role() == Role::Leader {
                    assert_eq!(self.chosen[*slot as usize - 1], *value, "seed {seed}: acked another value");
                }
                *slot > commit
            });
        }
        for (id, slot) in reads {
            let least = node.reads.remove(&id).expect("a read was asked for once");
            assert!(slot >= least, "seed {seed}: read at {slot} missed {least}");
            self.reads_served += 1;
        }
        for id in reads_failed {
            assert!(node.reads.remove(&id).is_some());
        }
        if healed {
            node.healing = Some(token);
        }
        if !records.is_empty() {
            assert!(records.iter().any(|r| !matches!(r, Record::Committed(_))));
            let due = self.now + 1 + self.random.below(if self.faults { 40 } else { 5 });
            node.writing.push_back((due, token, records));
        }
        let durable = node.writing.is_empty();
        for (to, message) in send_after {
            assert!(!matches!(message, Message::Accept { .. }));
            node.waiting.push_back((token, to, message));
        }
        for (to, message) in send {
            assert!(!matches!(
                message,
                Message::Accepted { .. } | Message::Promise { .. } | Message::Prepare { .. }
            ));
            self.post(n, to, message);
        }
        if durable {
            while let Some((_, to, message)) = self.nodes[n].waiting.pop_front() {
                self.post(n, to, message);
            }
            if self.nodes[n].healing.take().is_some() {
                self.nodes[n].damaged = false;
                self.heals += 1;
            }
        }
        for follower in behind {
            let to = follower.0 as usize - 1;
            let slot = self.nodes[n].applied;
            let reaches = !self.cut[n][to] && !self.random.chance(if self.faults { 300 } else { 0 });
            let node = &mut self.nodes[to];
            if reaches && node.group.is_some() && slot > node.applied {
                node.snapshot = slot;
                node.applied = slot;
                self.step(to, Event::SnapshotInstalled { slot });
                self.settle(to);
            }
        }
    }

    fn post(&mut self, from: usize, to: GatewayId, message: Message) {
        let to = to.0 as usize - 1;
        // A message that a frame can't carry does not exist.
        let config = bincode::config::standard();
        let bytes = bincode::encode_to_vec(&message, config).unwrap();
        let (back, _) = bincode::decode_from_slice::<Message, _>(&bytes, config).unwrap();
        assert_eq!(back, message);
        assert!(bytes.len() < 4096, "seed {}: a message of {} bytes", self.seed, bytes.len());
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
            self.net.insert((self.now + wait, self.sent), (from, to, message.clone()));
        }
    }

    /// One failure detector per gateway looks at the others from time to time.
    fn look(&mut self, n: usize) {
        if self.nodes[n].group.is_none() || self.nodes[n].look_at > self.now {
            return;
        }
        self.nodes[n].look_at = self.now + 30 + self.random.below(100);
        let mut up = Vec::new();
        let mut restarted = Vec::new();
        let mut changed = false;
        for other in 0..self.nodes.len() {
            if other == n {
                continue;
            }
            let reached = self.nodes[other].group.is_some() && !self.cut[n][other];
            let life = self.nodes[other].life;
            let id = GatewayId(other as u16 + 1);
            let seen = &mut self.nodes[n].seen_lives[other];
            let now_seen = reached.then_some(life);
            if *seen != now_seen {
                changed = true;
                if let (Some(a), Some(b)) = (*seen, now_seen)
                    && a != b
                {
                    restarted.push(id);
                }
                *seen = now_seen;
            }
            if reached {
                up.push(id);
            }
        }
        if changed {
            self.step(n, Event::Peers { up, restarted });
            self.settle(n);
        }
    }

    fn tick(&mut self) {
        self.now += 1 + self.random.below(8);
        let count = self.nodes.len();
        if self.faults {
            if self.random.chance(8 * self.storm.min(4)) {
                let n = self.random.below(count as u64) as usize;
                if self.nodes[n].group.is_some() {
                    self.crash(n);
                }
            }
            if self.random.chance(8 * self.storm) {
                let (a, b) =
                    (self.random.below(count as u64) as usize, self.random.below(count as u64) as usize);
                let cut = self.random.chance(500);
                self.cut[a][b] = cut;
                self.cut[b][a] = cut;
            }
            if self.random.chance(3 * self.storm) {
                // Everything works for a moment, so that runs make progress.
                self.cut.iter_mut().flatten().for_each(|c| *c = false);
            }
            if self.random.chance(5) {
                let n = self.random.below(count as u64) as usize;
                let room = self.random.chance(600);
                self.nodes[n].room = room;
                self.step(n, Event::Room(room));
                self.settle(n);
            }
        }
        while let Some(first) = self.net.first_entry()
            && first.key().0 <= self.now
        {
            let (from, to, message) = first.remove();
            if !self.cut[from][to] {
                self.step(to, Event::Message { from: GatewayId(from as u16 + 1), message });
                if self.random.chance(700) {
                    self.settle(to);
                }
            }
        }
        for n in 0..count {
            if self.nodes[n].group.is_none() {
                if self.nodes[n].back_at <= self.now {
                    self.start(n);
                }
                continue;
            }
            self.look(n);
            while let Some((due, token, _)) = self.nodes[n].writing.front()
                && *due <= self.now
            {
                let token = *token;
                let (_, _, records) = self.nodes[n].writing.pop_front().unwrap();
                let node = &mut self.nodes[n];
                node.disk.extend(records);
                if node.healing.is_some_and(|t| t <= token) {
                    node.healing = None;
                    node.damaged = false;
                    self.heals += 1;
                }
                while let Some((t, _, _)) = self.nodes[n].waiting.front()
                    && *t <= token
                {
                    let (_, to, message) = self.nodes[n].waiting.pop_front().unwrap();
                    self.post(n, to, message);
                }
                self.step(n, Event::Persisted { token });
            }
            let now = self.now;
            let group = self.nodes[n].group.as_ref().unwrap();
            if group.deadline().is_some_and(|at| at <= now) {
                self.step(n, Event::Timer);
            }
            if self.faults {
                self.work(n);
            }
            if self.random.chance(100) {
                self.host(n);
            }
            self.settle(n);
        }
    }

    /// Clients propose and read.
    fn work(&mut self, n: usize) {
        let least = self.chosen.len() as Slot;
        if self.random.chance(80) {
            self.next += 1;
            let mut value = self.next.to_le_bytes().to_vec();
            value.resize(8 + self.random.below(90) as usize, 0);
            let value = Value::from(value);
            let now = self.now;
            let group = self.nodes[n].group.as_mut().unwrap();
            if let Ok((ballot, slot)) = group.propose(now, value.clone()) {
                self.nodes[n].proposed.push((ballot, slot, value));
            }
        }
        if self.random.chance(20) {
            self.next += 1;
            let id = self.next;
            self.nodes[n].reads.insert(id, least);
            self.step(n, Event::Read { id });
        }
        if self.random.chance(self.storm * 2) {
            self.step(n, Event::StepDown);
        }
    }

    /// The host applies at once, makes snapshots and trims.
    fn host(&mut self, n: usize) {
        let small = self.seed.is_multiple_of(2);
        let keep = if small { self.random.below(6) } else { self.random.below(60) };
        let node = &mut self.nodes[n];
        let through = node.applied.saturating_sub(keep);
        if small || self.random.chance(200) {
            node.snapshot = node.snapshot.max(through);
            node.disk.retain(|r| !matches!(r, Record::Accepted(e) if e.slot <= through));
        }
        self.step(n, Event::TrimMemory { through });
    }

    fn run(&mut self, ticks: u64) {
        for _ in 0..ticks {
            self.tick();
        }
        // The faults stop.
        self.faults = false;
        self.cut.iter_mut().flatten().for_each(|c| *c = false);
        for n in 0..self.nodes.len() {
            self.step(n, Event::Room(true));
            self.settle(n);
        }
        let mut last = None;
        for _ in 0..8000 {
            self.tick();
            let leaders: Vec<_> = (0..self.nodes.len())
                .filter(|&n| self.nodes[n].group.as_ref().is_some_and(|g| g.role() == Role::Leader))
                .collect();
            if let [leader] = leaders[..]
                && last.is_none_or(|(b, _)| b != self.nodes[leader].group.as_ref().unwrap().ballot())
            {
                let now = self.now;
                let group = self.nodes[leader].group.as_mut().unwrap();
                if group.commit() > 0
                    && let Ok(proposed) = group.propose(now, Value::from(&b"healed"[..]))
                {
                    last = Some(proposed);
                }
                self.settle(leader);
            }
            let commit = self.chosen.len() as Slot;
            let done = self.nodes.iter().all(|n| {
                n.group.as_ref().is_some_and(|g| {
                    g.commit() == commit
                        && g.role() != Role::Damaged
                        && g.leader().is_some()
                        && g.deadline().is_none()
                })
            });
            // Healed and idle: no replica needs a timer any more.
            if done && last.is_some_and(|(_, slot)| slot <= commit) && self.net.is_empty() {
                return;
            }
        }
        for node in &self.nodes {
            if let Some(g) = &node.group {
                eprintln!(
                    "{} {:?} {} leader {:?} commit {} last {} first {} deadline {:?} now {}",
                    g.config().me,
                    g.role(),
                    g.ballot(),
                    g.leader(),
                    g.commit(),
                    g.last_slot(),
                    g.first_slot(),
                    g.deadline(),
                    self.now
                );
            }
        }
        panic!("seed {}: did not heal", self.seed);
    }
}

fn run(count: usize, usual: std::ops::Range<u64>) {
    let (mut chosen, mut reads, mut heals, mut ballots) = (0, 0, 0, 0);
    for seed in seeds(usual) {
        let mut world = World::new(seed, count);
        let ticks = 200 + world.random.below(800);
        world.run(ticks);
        chosen += world.chosen.len();
        reads += world.reads_served;
        heals += world.heals;
        ballots += world.led.len();
    }
    println!("{count} replicas: {chosen} slots chosen, {reads} reads, {ballots} ballots led, {heals} healed");
}

#[test]
fn three_replicas_agree_and_heal() {
    run(3, 0..1500);
}

#[test]
fn five_replicas_agree_and_heal() {
    run(5, 0..800);
}

/// How many seeds are searched for a run that shows a mistake.
const MAX_SEEDS: u64 = 20_000;

/// A damaged replica that asks only a majority for promised ballots, not all members, forgets a vote of its own.
#[test]
fn a_repair_that_asks_a_majority_is_found() {
    canary::make(Some(Canary::MajorityHeals));
    let fails = |seed: &u64| {
        let world = || {
            let mut world = World::new(*seed, 3);
            (world.damage, world.storm) = (true, 10);
            let ticks = 200 + world.random.below(800);
            world.run(ticks);
        };
        std::panic::catch_unwind(world).is_err()
    };
    let found = (0..MAX_SEEDS).find(fails);
    canary::make(None);
    println!("found after {:?} seeds", found.map(|seed| seed + 1));
    assert!(found.is_some(), "it is not found in {MAX_SEEDS} seeds");
}

#[test]
fn one_replica_keeps_what_it_chose() {
    run(1, 0..100);
}
