//! The world: time, network, faults, and who runs when.

use super::checks::Checks;
use super::devices::Devices;
use super::gateway::{Disk, Live, Out};
use super::node::Node;
use selvedge_gateway::logic::forward::Ticket;
use selvedge_gateway::logic::machine::{Origin, Outcome, Rules};
use selvedge_gateway::logic::peer::{PeerMessage, WindowQuery};
use selvedge_gateway::logic::ring::{Member, Ring};
use selvedge_gateway::logic::shard::{Event, HAND_BACK_MS, Now};
use selvedge_gateway::logic::uplink;
use selvedge_shared::ids::{GatewayId, ShardId};
use selvedge_shared::time::{EpochMs, TIME_RANGE};
use std::collections::BTreeMap;
use std::sync::Arc;

const START: i64 = 1_764_000_000_000;
const HEAL_MS: u64 = 120_000;
/// More than so many under way means that they multiply.
const MAX_PACKETS: usize = 2_000;

pub struct Random(u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }
}

/// What came of runs, to see that they were worth it.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    pub readings: u64,
    pub crashes: u64,
    pub slots: u64,
    pub batches: u64,
    pub transfers: u64,
    pub queries: u64,
    pub busy: u64,
    pub refused: u64,
    pub steps: u64,
}

impl Tally {
    pub fn add(&mut self, o: &Self) {
        self.readings += o.readings;
        self.crashes += o.crashes;
        self.slots += o.slots;
        self.batches += o.batches;
        self.transfers += o.transfers;
        self.queries += o.queries;
        self.busy += o.busy;
        self.refused += o.refused;
        self.steps += o.steps;
    }
}

/// A gateway's box: it outlives its processes.
#[derive(Default)]
pub struct Place {
    pub disks: BTreeMap<ShardId, Disk>,
    pub live: Option<Live>,
    pub start: u64,
    back_at: u64,
    /// How far its wall clock is off.
    skew_ms: i64,
    online: bool,
}

enum Packet {
    Peer(GatewayId, GatewayId, u64, PeerMessage),
    Up(uplink::Effect),
    Down(GatewayId, ShardId, u64),
}

pub struct World {
    pub seed: u64,
    random: Random,
    now: u64,
    pub places: BTreeMap<GatewayId, Place>,
    ring: Arc<Ring>,
    rules: Arc<Rules>,
    net: BTreeMap<(u64, u64), Packet>,
    cut: BTreeMap<(GatewayId, GatewayId), bool>,
    faults: bool,
    /// Shards soon have their most streams. Without snapshots, for outcomes that one skipped are not remembered.
    cramped: bool,
    loss: u64,
    storm: u64,
    pub devices: Devices,
    pub node: Node,
    checks: Checks,
    last_id: u64,
    pub tally: Tally,
}

impl World {
    pub fn new(seed: u64, gateways: u16) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..4).for_each(|_| _ = random.next());
        let members: Vec<_> = (1..=gateways).map(|g| Member { id: GatewayId(g), weight: 1 }).collect();
        let ring = Arc::new(Ring::new(2, &members, 3).expect("a ring"));
        let mut rules = Rules { windows_ms: vec![1_000], allowed_lateness_ms: 500, ..Rules::default() };
        (rules.idle_close_ms, rules.late_flush_ms, rules.cut_after_ms) = (300, 150, 60);
        rules.recent_windows = 100_000;
        let cramped = seed % 4 == 3;
        if cramped {
            rules.max_streams = 20;
        }
        let place =
            |random: &mut Random| Place { skew_ms: random.below(100) as i64 - 50, ..Place::default() };
        let places = members.iter().map(|m| (m.id, place(&mut random))).collect();
        let (loss, storm) =
            ([0, 20, 100, 250][random.below(4) as usize], [0, 1, 3, 8][random.below(4) as usize]);
        Self {
            seed,
            random,
            now: 1_000,
            places,
            ring,
            rules: Arc::new(rules),
            net: BTreeMap::new(),
            cut: BTreeMap::new(),
            faults: true,
            cramped,
            loss,
            storm,
            devices: Devices::new(6),
            node: Node::default(),
            checks: Checks::default(),
            last_id: 0,
            tally: Tally::default(),
        }
    }

    pub fn run(&mut self) {
        let until = self.now + 1_000 + self.random.below(4_000);
        while self.now < until {
            self.disturb();
            self.pass(25);
        }
        self.faults = false;
        self.cut.clear();
        for id in self.places.keys().copied().collect::<Vec<_>>() {
            self.room(id, true);
        }
        let until = self.now + HEAL_MS;
        while !self.is_healed() {
            assert!(self.now < until, "seed {}: did not heal: {}", self.seed, self.state());
            self.pass(100);
        }
        // Leadership goes back to where the ring wants it; then nothing is left to do: an idle site is quiet.
        self.pass(HAND_BACK_MS + 1_000);
        let commits = self.commits();
        self.pass(5_000);
        assert_eq!(self.commits(), commits, "seed {}: an idle site commits", self.seed);
        self.checks.at_the_end(self.seed, &self.places, &self.devices, &self.node);
        self.tally.readings = self.devices.sent.len() as u64;
        self.tally.slots = commits.iter().map(|(_, _, c)| *c).max().unwrap_or(0);
    }

    fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.tick(until - self.now);
            assert!(
                self.net.len() < MAX_PACKETS,
                "seed {}: a storm of messages: {}",
                self.seed,
                self.state()
            );
        }
    }

    fn room(&mut self, id: GatewayId, room: bool) {
        let now = self.clock(id);
        if let Some(live) = self.places.get_mut(&id).and_then(|p| p.live.as_mut()) {
            live.every_shard(now, || Event::Room(room));
        }
    }

    fn commits(&self) -> Vec<(GatewayId, ShardId, u64)> {
        let of = |(g, p): (&GatewayId, &Place)| {
            let live = p.live.iter().flat_map(|l| l.replicas.iter());
            live.map(|(s, r)| (*g, *s, r.core.group().commit())).collect::<Vec<_>>()
        };
        self.places.iter().flat_map(of).collect()
    }

    fn state(&self) -> String {
        let mut text = format!("{} of {} settled", self.devices.settled.len(), self.devices.sent.len());
        for (id, place) in &self.places {
            let Some(live) = &place.live else { continue };
            text += &format!("\n{id} asked {:?}, {:?}", live.asked, live.forward);
            for (s, r) in &live.replicas {
                text += &format!("\n  {:?} first {}", r.core.status(), r.core.group().first_slot());
                text +=
                    &format!("\n  {s} {:?} node {}", r.core.machine().outbox_stats(), self.node.cursor(*s));
            }
        }
        text
    }

    fn is_healed(&self) -> bool {
        self.devices.done()
            && self.places.values().all(|p| {
                p.live.as_ref().is_some_and(|live| {
                    live.asked.is_empty()
                        && live.replicas.iter().all(|(shard, r)| {
                            let o = r.core.machine().outbox_stats();
                            let most = self.commits().iter().filter(|c| c.1 == *shard).map(|c| c.2).max();
                            let open = r.core.machine().sizes().open_parts;
                            most == Some(r.core.machine().slot())
                                && o.cursor == o.last
                                && o.waiting_parts == 0
                                && open == 0
                        })
                })
            })
    }

    fn pick(&mut self) -> GatewayId {
        GatewayId(self.random.below(self.places.len() as u64) as u16 + 1)
    }

    /// Something breaks, perhaps; someone measures something.
    fn disturb(&mut self) {
        let wall = EpochMs(START + self.now as i64);
        (0..self.random.below(4)).for_each(|_| self.devices.measure(&mut self.random, wall));
        let (a, b) = (self.pick(), self.pick());
        let storm = self.storm;
        if self.random.chance(8 * storm) {
            self.crash(a);
        }
        if self.random.chance(4 * storm) {
            let room = self.random.chance(600);
            self.room(b, room);
        }
        if self.random.chance(20 * storm) {
            let cut = self.random.chance(500);
            self.cut.insert((a.min(b), a.max(b)), cut);
        }
        let (shift, more) = (self.random.chance(5), self.random.below(400) as i64 - 200);
        let (offline, snapshot, now) = (self.random.chance(30), self.random.chance(60), self.clock(a));
        let Some(place) = self.places.get_mut(&a) else { return };
        if shift {
            place.skew_ms = more;
        }
        let mut out = Out::default();
        if let Some(live) = &mut place.live {
            if offline {
                place.online = !place.online;
                live.uplink.connected(now.mono_ms, place.online, &mut out.uplink);
            }
            if snapshot && !self.cramped {
                live.every_shard(now, || Event::SnapshotWanted);
            }
        }
        self.perform(a, out);
        if self.random.chance(50) {
            self.ask(a);
        }
    }

    fn clock(&self, id: GatewayId) -> Now {
        let skew = self.places.get(&id).map_or(0, |p| p.skew_ms);
        Now { mono_ms: self.now, wall: EpochMs(START + self.now as i64 + skew) }
    }

    /// Asks a replica about a device.
    fn ask(&mut self, at: GatewayId) {
        let Some(sent) =
            self.devices.sent.get(&(self.random.below(self.devices.sent.len().max(1) as u64) + 1))
        else {
            return;
        };
        let (device, shard) = (sent.name.device.clone(), self.ring.shard_of(&sent.name.device));
        self.last_id += 1;
        let id = self.last_id;
        self.checks.asked(id, &device, &self.devices);
        let (from, to) = (EpochMs(*TIME_RANGE.start()), EpochMs(*TIME_RANGE.end()));
        let query = WindowQuery { device, stream: None, from, to, every_ms: None, stale: false };
        let now = self.clock(at);
        if let Some(live) = self.places.get_mut(&at).and_then(|p| p.live.as_mut()) {
            live.event(now, shard, Event::Query { from: at, id, query });
        }
    }

    fn crash(&mut self, id: GatewayId) {
        let back_at = self.now + 20 + self.random.below(1_500);
        let kept = self.random.chance(500);
        let Some(place) = self.places.get_mut(&id) else { return };
        let Some(live) = place.live.take() else { return };
        self.tally.crashes += 1;
        place.back_at = back_at;
        // A write that was under way may have reached the disk all the same.
        for record in live.torn().into_iter().filter(|_| kept) {
            place.disks.entry(ShardId(record.group)).or_default().records.push(record);
        }
    }

    /// Goes to the next time at which something happens, at most so far, and has it happen.
    fn tick(&mut self, most_ms: u64) {
        self.tally.steps += 1;
        let ids: Vec<_> = self.places.keys().copied().collect();
        let mut next = self.now + most_ms;
        let mut sooner = |at: Option<u64>| next = next.min(at.unwrap_or(u64::MAX));
        sooner(self.net.first_key_value().map(|((at, _), _)| *at));
        sooner(self.devices.deadline());
        for id in &ids {
            let now = self.clock(*id);
            let Some(place) = self.places.get_mut(id) else { continue };
            match &mut place.live {
                Some(live) => sooner([live.deadline(now), Some(live.look_at)].into_iter().flatten().min()),
                None => sooner(Some(place.back_at)),
            }
        }
        self.now = next.max(self.now + 1);
        for token in self.devices.due(self.now) {
            self.submit(token);
        }
        while let Some(first) = self.net.first_entry().filter(|e| e.key().0 <= self.now) {
            let packet = first.remove();
            self.arrive(packet);
        }
        for id in ids {
            self.work(id);
        }
    }

    fn submit(&mut self, token: u64) {
        let at = self.pick();
        let sent = self.devices.sent[&token].clone();
        let shard = self.ring.shard_of(&sent.name.device);
        let Some(live) = self.places.get_mut(&at).and_then(|p| p.live.as_mut()) else { return };
        // A gateway's dead connection may still have the same reading under way.
        if live.asked.insert(token) {
            let ticket = Ticket { connection: 1, token };
            live.forward.submit(shard, ticket, sent.item());
        }
    }

    fn work(&mut self, id: GatewayId) {
        let now = self.clock(id);
        let mut out = Out::default();
        let starts: BTreeMap<_, _> = self
            .places
            .iter()
            .filter(|(o, p)| **o != id && p.live.is_some() && !self.is_cut(id, **o))
            .map(|(o, p)| (*o, p.start))
            .collect();
        let (faults, random) = (self.faults, &mut self.random);
        let Some(place) = self.places.get_mut(&id) else { return };
        if place.live.is_none() && place.back_at <= self.now {
            place.start += 1;
            let origin = Origin { gateway: id, start: place.start };
            let mut live =
                Live::start(self.seed, origin, &self.ring, &self.rules, &mut place.disks, self.now);
            place.online = true;
            live.uplink.connected(self.now, true, &mut out.uplink);
            place.live = Some(live);
        }
        let Some(live) = &mut place.live else { return };
        if live.look_at <= self.now {
            live.look_at = self.now + 30 + random.below(100);
            if live.seen != starts {
                let restarted = |(o, start): (&GatewayId, &u64)| {
                    live.seen.get(o).is_some_and(|s| s != start).then_some(*o)
                };
                let restarted: Vec<_> = starts.iter().filter_map(restarted).collect();
                let lost: Vec<_> = live.seen.keys().filter(|o| !starts.contains_key(o)).copied().collect();
                lost.into_iter().for_each(|o| live.forward.gateway_down(self.now, o));
                let up: Vec<_> = starts.keys().copied().collect();
                live.every_shard(now, || Event::Peers { up: up.clone(), restarted: restarted.clone() });
                live.seen = starts;
            }
        }
        if !faults && !place.online {
            place.online = true;
            live.uplink.connected(self.now, true, &mut out.uplink);
        }
        live.disk(random, faults, now, &mut place.disks, &mut out);
        live.timers(now, &mut out);
        live.turn(random, faults, now, &mut place.disks, &mut out);
        self.checks.replicas(self.seed, live, random.chance(30));
        self.perform(id, out);
    }

    fn is_cut(&self, a: GatewayId, b: GatewayId) -> bool {
        self.cut.get(&(a.min(b), a.max(b))).copied().unwrap_or(false)
    }

    fn perform(&mut self, from: GatewayId, out: Out) {
        for (to, message) in out.send {
            match &message {
                PeerMessage::Answer { id, answer } if to == from => {
                    self.tally.queries += u64::from(self.checks.answered(self.seed, *id, answer));
                    continue;
                }
                PeerMessage::Transfer { .. } => self.tally.transfers += 1,
                PeerMessage::Forwarded {
                    answer: selvedge_gateway::logic::peer::ForwardAnswer::Busy { .. },
                    ..
                } => self.tally.busy += 1,
                _ => {}
            }
            let start = self.places.get(&to).map_or(0, |p| p.start);
            self.post(to == from, || Packet::Peer(from, to, start, message.clone()));
        }
        for settled in out.settled {
            let done = matches!(settled.outcome, Outcome::Done { unknown: 0, .. });
            let refused = self.cramped && matches!(settled.outcome, Outcome::Refused(_));
            assert!(done || refused, "seed {}: {settled:?}", self.seed);
            self.tally.refused += u64::from(refused);
            self.devices.settle(self.seed, settled.ticket.token, done);
        }
        for effect in out.uplink {
            let now = self.clock(from);
            let Some(live) = self.places.get_mut(&from).and_then(|p| p.live.as_mut()) else { continue };
            match effect {
                uplink::Effect::Load(shard, seq) => {
                    let body = live.replicas.get(&shard).and_then(|r| r.batches.get(&seq).cloned());
                    let known = body.is_some() || self.node.cursor(shard) >= seq;
                    assert!(known, "seed {}: {from} lacks batch {seq} of {shard}", self.seed);
                    let mut more = Out::default();
                    live.uplink.loaded(now.mono_ms, shard, seq, body, &mut more.uplink);
                    self.perform(from, more);
                }
                uplink::Effect::Confirmed(shard, cursor) => {
                    live.event(now, shard, Event::Confirmed { cursor })
                }
                effect => self.post(false, || Packet::Up(effect.clone())),
            }
        }
    }

    fn post(&mut self, inside: bool, packet: impl Fn() -> Packet) {
        let copies = if !inside && self.faults && self.random.chance(30) { 2 } else { 1 };
        for _ in 0..copies {
            if !inside && self.faults && self.random.chance(self.loss) {
                continue;
            }
            let mut wait = if inside { 0 } else { 1 + self.random.below(10) };
            if !inside && self.faults && self.random.chance(50) {
                wait += self.random.below(600);
            }
            self.last_id += 1;
            self.net.insert((self.now + wait, self.last_id), packet());
        }
    }

    fn arrive(&mut self, packet: Packet) {
        match packet {
            Packet::Peer(from, to, start, message) => {
                let now = self.clock(to);
                let cut = self.is_cut(from, to);
                let Some(place) = self.places.get_mut(&to) else { return };
                let Some(live) = place.live.as_mut().filter(|_| place.start == start && !cut) else { return };
                let mut out = Out::default();
                live.hear(now, from, message, &mut out);
                self.perform(to, out);
            }
            Packet::Up(effect) => {
                let (shard, cursor) = match effect {
                    uplink::Effect::Batch { shard, seq, first_kept, body, .. } => {
                        self.tally.batches += 1;
                        (shard, self.node.apply(self.seed, shard, seq, first_kept, body))
                    }
                    uplink::Effect::Beacon { shard, first_kept, .. } => {
                        (shard, self.node.beacon(self.seed, shard, first_kept))
                    }
                    _ => return,
                };
                let ids: Vec<_> = self.places.keys().copied().collect();
                ids.into_iter().for_each(|id| self.post(false, || Packet::Down(id, shard, cursor)));
            }
            Packet::Down(to, shard, cursor) => {
                let now = self.clock(to);
                let Some(place) = self.places.get_mut(&to).filter(|p| p.online) else { return };
                let Some(live) = &mut place.live else { return };
                let mut out = Out::default();
                live.uplink.confirmed(now.mono_ms, shard, cursor, &mut out.uplink);
                self.perform(to, out);
            }
        }
    }
}
