//! A shard moves from gateway to gateway at random under a forwarder whose ring lags behind. The network loses,
//! duplicates and reorders messages, gateways go down, replicas lag, and leaders change. Then the faults stop, but the
//! ring stays as old as it is, unless replicas that had left the shard were dropped.
//!
//! The shard is a model: one list of applied batches, and for each gateway the configuration that its replica knows.
//!
//! # Checked in every run
//!
//! - The shard applies every item once, in the order in which they were submitted.
//! - A number always has the same bytes.
//! - The outcomes leave in the order of the items.
//! - After the faults everything is answered within [`ENDS_WITHIN_MS`], with at most [`MAX_SENDS`] batches sent.
//!
//! A seed reproduces a run. `SELVEDGE_SEEDS=FROM..TO` runs those seeds instead of the usual ones.

#![allow(clippy::disallowed_methods)] // A seed may be given.

#[path = "../../paxos/tests/seeded/mod.rs"]
mod seeded;

use seeded::{Random, seeds};
use selvedge_fabric::directory::DIRECTORY_GROUP;
use selvedge_fabric::forward::{Forward, ForwardEffects, Forwardable, NamedReading, Outgoing, Ticket};
use selvedge_fabric::machine::{BatchVerdict, ItemOutcome, Origin, Reading, Submission};
use selvedge_fabric::peer::{BusyReason, ForwardAnswer};
use selvedge_fabric::ring::{Member, ReplicaSet, Ring};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::StreamName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const ORIGIN: Origin = Origin { gateway: GatewayId(9), start: 4 };
/// The gateways that may hold the shard: 1 up to this one.
const GATEWAYS: u64 = 8;
const ENDS_WITHIN_MS: u64 = 10_000;
const MAX_SENDS: u64 = 100;

enum Message {
    Batch(GatewayId, Outgoing),
    Answer(GatewayId, u64, ForwardAnswer),
}

/// A configuration of the shard.
struct Chosen {
    set: ReplicaSet,
    /// How many batches were applied before it began. Each of its replicas has these.
    base: u64,
    /// The gateway that leads it, or led it last.
    leader: Option<GatewayId>,
}

struct World {
    seed: u64,
    random: Random,
    faults: bool,
    /// Replicas that left the shard are dropped.
    drops: bool,
    now_ms: u64,
    shard: ShardId,
    first: Ring,
    forward: Forward,
    /// The configuration that the forwarder's ring has.
    ring: usize,
    configurations: Vec<Chosen>,
    /// The leader of the last configuration.
    leader: Option<GatewayId>,
    /// For each gateway with a replica, the configuration that it is in, or that it has no part in.
    replicas: BTreeMap<GatewayId, usize>,
    down: BTreeSet<GatewayId>,
    net: BTreeMap<(u64, u64), Message>,
    sent: u64,
    /// By number, from 1 on.
    applied: Vec<Arc<[u8]>>,
    submitted: u64,
    outcomes: Vec<u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let members: Vec<_> = (1..=3).map(|g| Member { id: GatewayId(g), weight: 1 }).collect();
        let first = Ring::new(1, &members, 3).unwrap();
        let shard = random.pick(&[ShardId(0), DIRECTORY_GROUP]);
        let members = first.replicas(shard).to_vec();
        let pipeline_bytes = random.pick(&[0, 200]);
        Self {
            seed,
            faults: true,
            drops: random.chance(300),
            now_ms: 0,
            shard,
            forward: Forward::new(ORIGIN, Arc::new(first.clone()), pipeline_bytes),
            first,
            ring: 0,
            replicas: members.iter().map(|m| (*m, 0)).collect(),
            configurations: vec![Chosen {
                set: ReplicaSet { configuration: 1, members },
                base: 0,
                leader: None,
            }],
            leader: None,
            down: BTreeSet::new(),
            net: BTreeMap::new(),
            sent: 0,
            applied: Vec::new(),
            submitted: 0,
            outcomes: Vec::new(),
            random,
        }
    }

    fn last(&self) -> usize {
        self.configurations.len() - 1
    }

    fn members(&self, configuration: usize) -> &[GatewayId] {
        &self.configurations[configuration].set.members
    }

    fn run(&mut self) {
        for _ in 0..300 + self.random.below(600) {
            self.tick();
        }
        self.faults = false;
        self.sent = 0;
        for gateway in std::mem::take(&mut self.down) {
            self.forward.gateway_up(gateway);
        }
        if self.drops {
            self.set_ring(self.last());
        }
        let until_ms = self.now_ms + ENDS_WITHIN_MS;
        while self.outcomes.len() as u64 != self.submitted {
            self.tick();
            assert!(self.now_ms < until_ms, "seed {}: it does not end", self.seed);
        }
        assert!(self.sent <= MAX_SENDS, "seed {}: {} batches are sent", self.seed, self.sent);
        let items = self.applied.iter().flat_map(|bytes| {
            let submission = Submission::decode(bytes).unwrap();
            submission.items.iter().map(|item| item.readings()[0].value as u64).collect::<Vec<_>>()
        });
        assert!(items.eq(1..=self.submitted), "seed {}: applied once, in order", self.seed);
        assert!(self.outcomes.iter().copied().eq(1..=self.submitted), "seed {}: told in order", self.seed);
        assert_eq!(self.forward.queued_bytes(), 0);
    }

    fn tick(&mut self) {
        self.now_ms += 1 + self.random.below(9);
        if self.faults {
            self.change();
        }
        self.catch_up();
        let mut effects = ForwardEffects::default();
        while let Some(first) = self.net.first_entry()
            && first.key().0 <= self.now_ms
        {
            match first.remove() {
                Message::Batch(to, batch) => self.take_in(to, batch),
                Message::Answer(from, n, answer) => {
                    let about = (from, ORIGIN, self.shard, n);
                    self.forward.answered(self.now_ms, about, answer, &mut effects);
                }
            }
        }
        if self.forward.deadline_ms().is_some_and(|at| at <= self.now_ms) {
            self.forward.timer(self.now_ms, &mut effects);
        }
        self.perform(effects);
    }

    fn change(&mut self) {
        if self.random.chance(200) {
            let mut effects = ForwardEffects::default();
            for _ in 0..=self.random.below(4) {
                self.submitted += 1;
                let name = StreamName { device: "d".into(), stream: "s".into() }.into();
                let value = self.submitted as f64;
                let reading = Reading { stream: 0, time: None, value, seq: None, boot: None };
                let item = Forwardable::Reading(NamedReading { name, maker: None, reading });
                self.forward.submit(self.shard, Ticket { connection: 1, token: self.submitted }, item);
                if self.random.chance(500) {
                    self.forward.flush(self.now_ms, &mut effects);
                }
            }
            self.forward.flush(self.now_ms, &mut effects);
            self.perform(effects);
        }
        if self.random.chance(15) {
            self.move_one();
        }
        if self.random.chance(10) {
            self.leader = None;
        }
        if self.random.chance(10) {
            let to = self.ring + self.random.below((self.last() - self.ring) as u64 + 1) as usize;
            self.set_ring(to);
        }
        let gateway = GatewayId(1 + self.random.below(GATEWAYS) as u16);
        if self.random.chance(10) && self.down.len() < 2 && self.down.insert(gateway) {
            self.leader = self.leader.filter(|leader| *leader != gateway);
            self.forward.gateway_down(self.now_ms, gateway);
        }
        if self.random.chance(100) && self.down.remove(&gateway) {
            self.forward.gateway_up(gateway);
        }
        if self.drops && self.random.chance(20) {
            let known = self.replicas.get(&gateway).copied();
            if known.is_some_and(|known| !self.members(known).contains(&gateway)) {
                self.replicas.remove(&gateway);
            }
        }
    }

    /// Begins the next configuration, in which one replica is replaced, added or removed.
    fn move_one(&mut self) {
        let mut members = self.members(self.last()).to_vec();
        let comes = GatewayId(1 + self.random.below(GATEWAYS) as u16);
        let at = self.random.below(members.len() as u64) as usize;
        match members.contains(&comes) {
            true if members.len() == 1 => return,
            true => members.retain(|m| *m != comes),
            false if members.len() < 5 && self.random.chance(300) => members.insert(at, comes),
            false => members[at] = comes,
        }
        let (base, configuration) = (self.applied.len() as u64, self.configurations.len() as u32 + 1);
        let set = ReplicaSet { configuration, members };
        self.configurations.push(Chosen { set, base, leader: None });
        // The leader of the configuration before knows; the others hear of it in time.
        let last = self.last();
        for gateway in self.leader.take().into_iter().chain([comes]) {
            self.replicas.insert(gateway, last);
        }
    }

    /// Replicas learn of the configuration that follows theirs, and one of those in the last is elected.
    fn catch_up(&mut self) {
        let last = self.last();
        for (gateway, known) in &mut self.replicas {
            let is_member = self.configurations[*known].set.members.contains(gateway);
            if *known < last && is_member && !self.down.contains(gateway) && self.random.chance(50) {
                *known += 1;
            }
        }
        if self.leader.is_none() && self.random.chance(50) {
            let candidate = self.random.pick(self.members(last).to_vec().as_slice());
            if self.replicas.get(&candidate) == Some(&last) && !self.down.contains(&candidate) {
                self.leader = Some(candidate);
                self.configurations[last].leader = Some(candidate);
            }
        }
    }

    fn set_ring(&mut self, configuration: usize) {
        self.ring = configuration;
        let ring = self.first.placed([(self.shard, self.configurations[configuration].set.clone())]);
        let mut effects = ForwardEffects::default();
        self.forward.set_ring(self.now_ms, Arc::new(ring), &mut effects);
        self.perform(effects);
    }

    fn perform(&mut self, effects: ForwardEffects) {
        for (to, batch) in effects.send {
            self.sent += 1;
            self.post(|| Message::Batch(to, batch.clone()));
        }
        self.outcomes.extend(effects.outcomes.into_iter().map(|settled| settled.ticket.token));
    }

    fn post(&mut self, message: impl Fn() -> Message) {
        for _ in 0..if self.faults && self.random.chance(30) { 2 } else { 1 } {
            if self.faults && self.random.chance(50) {
                continue;
            }
            let slow = self.faults && self.random.chance(40);
            let wait_ms = 1 + self.random.below(if slow { 800 } else { 10 });
            self.net.insert((self.now_ms + wait_ms, self.random.next()), message());
        }
    }

    fn take_in(&mut self, to: GatewayId, batch: Outgoing) {
        let Some(known) = self.replicas.get(&to).copied().filter(|_| !self.down.contains(&to)) else {
            return;
        };
        let Outgoing { n, submission, .. } = batch;
        let answer = self.answer(to, known, n, &submission);
        self.post(|| Message::Answer(to, n, answer.clone()));
    }

    fn answer(&mut self, at: GatewayId, known: usize, n: u64, submission: &Arc<[u8]>) -> ForwardAnswer {
        let last = self.applied.len() as u64;
        if let Some(bytes) = self.applied.get(n as usize - 1) {
            assert_eq!(bytes, submission, "seed {}: the bytes of {n} have changed", self.seed);
        }
        let leads = self.leader == Some(at) && known == self.last();
        let applied_here = if leads { last } else { self.configurations[known].base };
        let verdict = |verdict| ForwardAnswer::Verdict { slot: n + 10, verdict };
        if n <= applied_here {
            return verdict(BatchVerdict::AlreadyApplied);
        }
        if !leads {
            let Chosen { set, leader, .. } = &self.configurations[known];
            let leader = match known == self.last() {
                true => self.leader,
                false => *leader,
            };
            let leader = leader.filter(|_| set.members.contains(&at)).map(|leader| leader.0);
            return ForwardAnswer::NotLeader { leader, replicas: set.clone() };
        }
        if n > last + 1 {
            return verdict(BatchVerdict::Gap { last });
        }
        if self.faults && self.random.chance(50) {
            return ForwardAnswer::Busy { why: BusyReason::Window };
        }
        self.applied.push(submission.clone());
        let count = Submission::decode(submission).unwrap().items.len();
        verdict(BatchVerdict::Applied(std::iter::repeat_n(ItemOutcome::Done, count).collect()))
    }
}

#[test]
fn every_batch_is_applied_once_and_in_order_while_its_shard_moves() {
    let (mut configurations, mut behind, mut most_sent) = (0, 0, 0);
    for seed in seeds(0..1_000) {
        let mut world = World::new(seed);
        world.run();
        configurations += world.configurations.len();
        behind = behind.max(world.last() - world.ring);
        most_sent = most_sent.max(world.sent);
    }
    println!(
        "{configurations} configurations; rings up to {behind} behind; at most {most_sent} sent at the end"
    );
}
