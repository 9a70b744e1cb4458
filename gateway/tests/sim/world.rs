//! The world: time, and which gateway runs when; faults as they come; then the calm, in which everything must heal.

use super::client;
use super::cloud::Cloud;
use super::devices::{self, Devices, Habits};
use super::gateway::{Common, Ended, Live, Out, Place};
use super::invariants::{
    self, agreement::Agreement, ballots::Ballots, catches_up::CatchesUp, configurations::Configurations,
    kept::Kept, lost::Lost, mended::Mended, progress::Progress, reads::Reads, seals::Seals, state::State,
    wills::Wills, witness::Witness,
};
use super::net::{MAX_PACKETS, Net};
use super::pipe::Piece;
use super::plan::{Fault, Plan, Rot};
use super::random::Random;
use super::wire::Wires;
use selvedge_fabric::decode::{Form, TopicRule};
use selvedge_fabric::detour;
use selvedge_fabric::directory::{FirstGateway, Genesis};
use selvedge_fabric::machine::{CountingRules, Item, Override, Page, Quarantined};
use selvedge_fabric::peer::{PeerMessage, ShardQuery, TransferMessage};
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::shard::{HAND_BACK_MS, Now, ShardEvent};
use selvedge_log::Crash;
use selvedge_log::storage::OpenError;
use selvedge_paxos::{Limits, Role};
use selvedge_seal::SiteSecret;
use selvedge_types::ids::{GatewayId, ShardId, SiteId};
use selvedge_types::time::{EpochMs, TIME_RANGE};
use selvedge_types::uplink::StreamName;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

mod ambush;
mod apart;
mod growth;
mod peers;
mod witness;

use ambush::Ambushes;
use apart::Apart;
use growth::{Operators, Order};

/// How long the calm may take to settle everything.
const HEAL_MS: u64 = 180_000;
/// How long a fresh reading may take to be acknowledged on a healed site.
const FRESH_MS: u64 = 10_000;
/// A run has some thousand steps; one with an endless loop has far more.
const MAX_STEPS: u64 = 300_000;
/// How long readings are published until a disk that accepts nothing more is noticed to be full.
const FULL_MS: u64 = 20_000;
const SECRET: &str = "8f3a61c2d94e07b5a1fc2e6083d7495b6e1092cfa84d73e05b9c1f26d8a4e730";
/// How long leadership may take to return to where it belongs: the wait for it doubles.
const QUIET_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;
/// The bytes that each shard gets at a time under load, and what its state holds before.
const LOAD_BYTES: usize = 4 * 1024;
const STATE_BYTES: usize = 1024 * 1024;
const STATE_PART_BYTES: usize = 64 * 1024;

/// The results of runs, which show whether the runs were worth it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub readings: u64,
    pub restarts: u64,
    pub elections: u64,
    pub offers: u64,
    /// Pieces of the log that were sent to replicas that were behind.
    pub pieces: u64,
    pub damaged: u64,
    /// Files that rotted while their gateway ran.
    pub rotten: u64,
    pub batches: u64,
    pub holes: u64,
    pub queries: u64,
    pub forged: u64,
    pub wills: u64,
    pub refusals: u64,
    /// Connections between gateways that were greeted, and how often a gateway took another for down.
    pub connections: u64,
    pub lost: u64,
    /// Messages that took a detour.
    pub detours: u64,
    /// Messages that left a full lane.
    pub displaced: u64,
    /// Configurations that followed a first one, and gateways that joined and were removed.
    pub moves: u64,
    pub joined: u64,
    pub removed: u64,
    /// The most bytes of publishes that a gateway held.
    pub most_held: usize,
    pub steps: u64,
}

impl Tally {
    pub fn add(&mut self, o: &Self) {
        self.readings += o.readings;
        self.restarts += o.restarts;
        self.elections += o.elections;
        self.offers += o.offers;
        self.pieces += o.pieces;
        self.damaged += o.damaged;
        self.rotten += o.rotten;
        self.batches += o.batches;
        self.holes += o.holes;
        self.queries += o.queries;
        self.forged += o.forged;
        self.wills += o.wills;
        self.refusals += o.refusals;
        self.connections += o.connections;
        self.lost += o.lost;
        self.detours += o.detours;
        self.displaced += o.displaced;
        self.moves += o.moves;
        self.joined += o.joined;
        self.removed += o.removed;
        self.most_held = self.most_held.max(o.most_held);
        self.steps += o.steps;
    }
}

#[derive(Clone)]
enum Packet {
    /// A message of a gateway to itself, and in rough runs one that it has read from another.
    Peer {
        from: GatewayId,
        to: GatewayId,
        start: u64,
        message: PeerMessage,
    },
    /// From a device: the next bytes of its connection, or how it ends.
    In {
        gateway: GatewayId,
        start: u64,
        connection: u64,
        end: Option<Piece>,
    },
    /// To a device: what comes next along its connection.
    Back {
        connection: u64,
    },
    /// A query of some client.
    Ask {
        to: GatewayId,
        shard: ShardId,
        id: u64,
        query: ShardQuery,
    },
    Up {
        shard: ShardId,
        frame: Vec<u8>,
        forged: bool,
    },
    Down {
        to: GatewayId,
        shard: ShardId,
        frame: Vec<u8>,
        forged: bool,
    },
}

/// What is under way along the connection of a device, in order.
#[derive(Default)]
struct Way {
    up: VecDeque<Piece>,
    down: VecDeque<Piece>,
    /// When the last piece to the device arrives.
    last_down: u64,
}

/// The end of a fault that lasts.
#[derive(Debug, Clone, Copy)]
enum End {
    Cut {
        from: GatewayId,
        to: GatewayId,
    },
    Full(GatewayId),
    Slow(GatewayId),
    Power {
        at: GatewayId,
        how: Crash,
        down_ms: u64,
    },
    NoUplink(GatewayId),
    CloudAway,
    LoseContents {
        spare: bool,
    },
    Meddling,
    /// A removed gateway is stopped for a while, or for good.
    Stop {
        at: GatewayId,
        down_ms: u64,
    },
    Leaves(GatewayId),
    Strike(Fault),
    FlapOn {
        a: GatewayId,
        b: GatewayId,
        times: u64,
        each_ms: u64,
    },
}

impl End {
    /// The gateway whose box it concerns.
    fn at(self) -> Option<GatewayId> {
        match self {
            Self::Full(at)
            | Self::Slow(at)
            | Self::Power { at, .. }
            | Self::NoUplink(at)
            | Self::Stop { at, .. }
            | Self::Leaves(at) => Some(at),
            _ => None,
        }
    }
}

pub struct World {
    plan: Plan,
    random: Random,
    now: u64,
    common: Common,
    places: BTreeMap<GatewayId, Place>,
    net: Net<Packet>,
    devices: Devices,
    cloud: Cloud,
    /// By connection.
    ways: BTreeMap<u64, Way>,
    ends: Vec<(u64, End)>,
    wires: Wires,
    faults: bool,
    /// Since when no fault lasts and no process has started.
    calm_since: u64,
    operators: Operators,
    ambushes: Ambushes,
    apart: Option<Apart>,
    agreement: Agreement,
    configurations: Configurations,
    ballots: Ballots,
    kept: Kept,
    lost: Lost,
    mended: Mended,
    progress: Progress,
    reads: Reads,
    seals: Seals,
    state: State,
    wills: Wills,
    witnesses: Witness,
    last_query: u64,
    leaders: BTreeMap<ShardId, GatewayId>,
    tracing: bool,
    pub tally: Tally,
}

impl World {
    pub fn new(plan: &Plan, tracing: bool) -> Self {
        let mut random = Random::new(plan.seed);
        let gateways: Vec<_> = (1..=plan.gateways).map(GatewayId).collect();
        let members: Vec<_> = gateways.iter().map(|id| Member { id: *id, weight: 1 }).collect();
        let shards = match plan.growth {
            true => 2 + (plan.seed / 3 % 2) as u16,
            false if plan.gateways > 3 => 6,
            false => 3,
        };
        let replicas = if plan.witness { 3 } else { 3.min(members.len()) };
        let first = |id: &GatewayId| FirstGateway { id: *id, weight: 1, peer: id.to_string() };
        let genesis = Genesis { shards, replicas, gateways: gateways.iter().map(first).collect() };
        let rule = |topic: &str, decoder| TopicRule { topic: topic.into(), decoder, ..TopicRule::default() };
        let rules = vec![rule("d/{device}/{stream}", Form::Auto), rule("many", Form::SenmlJson)];
        let wide = [1_000, 2_000, 5_000][random.below(3) as usize];
        let common = Common {
            ring: Arc::new(Ring::new(shards, &members, replicas).expect("a ring")),
            rules: Arc::new(CountingRules {
                windows_ms: vec![wide],
                allowed_lateness_ms: 1_000,
                idle_close_ms: 2_000,
                late_flush_ms: 500,
                cut_after_ms: 300,
                quarantine_bytes: 16 * 1024 * 1024,
                recent_bytes: [1 << 30, 4_000, 0][(plan.seed % 3) as usize],
                max_streams: if plan.cramped { 12 } else { 20_000 },
                max_streams_per_device: 20_000,
                max_streams_per_client: 20_000,
                // Whatever the clocks of the site show, devices' readings count, except in the streams whose readings
                // are named in answers.
                max_past_s: u32::MAX,
                max_future_s: u32::MAX,
                streams: vec![Override {
                    stream: "once-*".into(),
                    max_past_s: Some(CountingRules::default().max_past_s),
                    max_future_s: Some(CountingRules::default().max_future_s),
                    ..Override::default()
                }],
                ..CountingRules::default()
            }),
            limits: match random.chance(500) && !plan.heavy {
                // A replica that lags a little lags by many messages.
                true => Limits {
                    chunk_bytes: 500,
                    in_flight_bytes: 2_000,
                    memory_bytes: 2 << 20,
                    ..Limits::default()
                },
                false => Limits { memory_bytes: 2 << 20, ..Limits::default() },
            },
            topics: rules,
            credit_bytes: plan.credit_bytes(),
            keepalive_s: if plan.lasts_for_days() { 3_600 } else { 20 },
            site: SiteId::new("sim").expect("a name"),
            secret: SiteSecret::from_hex(SECRET).expect("a secret"),
            scrubs: plan.rots,
            genesis: plan.growth.then_some(genesis),
        };
        let publishers = 4 + random.below(8) as usize;
        let habits = Habits {
            publishers: if plan.thirsty { publishers + 20 } else { publishers },
            subscribers: (plan.seed % 3) as usize,
            cramped: plan.cramped,
            wide: plan.wide,
            thirsty: plan.thirsty,
            keepalive_s: common.keepalive_s,
        };
        let place = |id: GatewayId| {
            let peers = gateways.iter().copied().filter(|peer| *peer != id).collect();
            Place::new(id, u128::from(id.0), peers, plan.wide || plan.heavy || plan.witness)
        };
        let devices = Devices::new(habits, &mut Random::new(plan.seed));
        let retires = plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::Retire { .. }));
        let cloud = Cloud::new(&common, retires);
        Self {
            plan: plan.clone(),
            random,
            now: 0,
            common,
            operators: Operators::of(&gateways),
            ambushes: Ambushes::default(),
            apart: None,
            places: gateways.iter().map(|id| (*id, place(*id))).collect(),
            net: Net::new(plan.weather),
            devices,
            cloud,
            ways: BTreeMap::new(),
            ends: Vec::new(),
            wires: Wires::new(plan.temper, plan.weather),
            faults: true,
            calm_since: 0,
            agreement: Agreement::default(),
            configurations: Configurations::default(),
            ballots: Ballots::default(),
            kept: Kept::default(),
            lost: Lost::default(),
            mended: Mended::default(),
            progress: Progress::default(),
            reads: Reads::default(),
            seals: Seals::default(),
            state: State::default(),
            wills: Wills::default(),
            witnesses: Witness::default(),
            last_query: 0,
            leaders: BTreeMap::new(),
            tracing,
            tally: Tally::default(),
        }
    }

    fn trace(&self, text: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:>8} ms  {}", self.now, text());
        }
    }

    /// Runs the faults, then the calm; panics if an invariant does not hold.
    pub fn run(&mut self) {
        self.pass(1_500); // every process starts
        if self.plan.witness {
            self.begin_with_witness();
        }
        let parts = if self.plan.heavy { STATE_BYTES / STATE_PART_BYTES } else { 0 };
        for _ in 0..parts {
            self.load(STATE_PART_BYTES);
            self.pass(30);
        }
        let begin = self.now;
        let mut faults = self.plan.faults.clone().into_iter().peekable();
        while self.now < begin + self.plan.storm_ms {
            while let Some((_, fault)) = faults.next_if(|(at, _)| begin + at <= self.now) {
                self.trace(|| format!("fault: {fault:?}"));
                self.apply(fault);
            }
            for _ in 0..self.random.below(if self.plan.thirsty { 1 } else { 4 }) {
                self.devices.measure(&mut self.random, self.now, self.plan.cramped);
            }
            if self.plan.wide && self.random.chance(100) {
                self.devices.burst(&mut self.random, self.now, self.plan.cramped);
            }
            if self.plan.thirsty && self.random.chance(150) {
                self.devices.rush(&mut self.random, self.now);
            }
            for _ in 0..self.random.below(3) {
                self.ask();
            }
            if self.plan.heavy {
                self.load(LOAD_BYTES);
            }
            self.noise();
            let next = faults.peek().map_or(u64::MAX, |(at, _)| (begin + at).saturating_sub(self.now));
            let step = 20 + self.random.below(160);
            self.pass(step.min(next.max(1)));
        }
        if self.plan.heavy {
            self.catch_up();
        }
        if self.plan.apart {
            self.stay_apart();
        }
        if self.plan.witness {
            self.last_of_two();
        }
        self.heal();
        self.tally.readings = self.devices.readings.len() as u64;
        self.tally.batches = self.cloud.applied;
        self.tally.holes = self.cloud.holes.len() as u64;
        self.tally.forged = self.cloud.refused;
        self.tally.wills = self.wills.count();
        self.tally.moves = self.configurations.count();
        (self.tally.joined, self.tally.removed) = (self.operators.joined, self.operators.removed);
    }

    /// Publishes that hold no reading, this many bytes for each shard: the quarantine keeps them whole.
    fn load(&mut self, bytes: usize) {
        if !self.plan.heavy && !self.plan.witness {
            return;
        }
        for shard in (0..self.common.ring.shards()).map(ShardId) {
            let at = self.pick();
            self.load_at(at, shard, bytes);
        }
    }

    /// The same for one shard, by way of this gateway.
    fn load_at(&mut self, at: GatewayId, shard: ShardId, bytes: usize) {
        let Some(live) = self.places.get_mut(&at).and_then(|place| place.live.as_mut()) else { return };
        let payload = vec![b'x'; bytes];
        let publish = Quarantined {
            client: format!("loud-{}", at.0),
            topic: "loud".into(),
            payload_bytes: payload.len() as u64,
            payload,
            qos: 0,
            packet_id: 0,
            dup: false,
            at: EpochMs(0),
            why: "noise".into(),
            counted: Vec::new(),
            recognised: 0,
            far_behind: 0,
        };
        live.order(shard, Item::Quarantine { epoch: 0, publish: Box::new(publish) });
        self.place(at).due = 0;
    }

    /// The faults stop and the load does not: replicas that fell behind must catch up nevertheless.
    fn catch_up(&mut self) {
        self.trace(|| "calm under load".to_string());
        self.calm();
        let mut behind = CatchesUp::new(self.now, &self.places);
        while !behind.is_over() {
            self.load(LOAD_BYTES);
            self.pass(50);
            behind.check(self.now, &self.places, || self.show());
        }
    }

    /// The faults stop: everything must settle, go quiet, and then continue.
    fn heal(&mut self) {
        self.wires.no_slow_links();
        self.calm();
        self.settle();
        // A healed site works: fresh readings are acknowledged soon, and counted.
        for _ in 0..10 {
            self.devices.measure(&mut self.random, self.now, false);
        }
        let until = self.now + FRESH_MS;
        while !self.devices.done() {
            assert!(self.now < until, "fresh readings are not acknowledged: {}", self.show());
            self.pass(50);
        }
        self.settle();
        if self.plan.rots {
            self.rot_all();
            self.settle();
        }
        self.fill_one();
        self.settle();
        // Leadership returns to where the ring wants it; then nothing is left to do: an idle site is quiet.
        let until = self.now + QUIET_MS;
        loop {
            let commits = self.commits();
            self.pass(HAND_BACK_MS + 1_000);
            if self.commits() == commits {
                break;
            }
            assert!(self.now < until, "an idle site commits: {}", self.show());
        }
        // A gateway whose clock is off leaves leading to those that agree.
        let until = self.now + QUIET_MS;
        while let Some(at) = self.leads_from_outside() {
            assert!(self.now < until, "{at} leads though its clock is off: {}", self.show());
            self.pass(1_000);
        }
        for (id, place) in &self.places {
            let live = place.live.as_ref().expect("it is up");
            for (shard, replica) in &live.replicas {
                self.state.check(*id, live.origin.start, *shard, replica.core());
            }
            invariants::contents::check(live, |shard| self.takes_part(*id, shard));
            let most = super::gateway::MAX_SEGMENTS + live.replicas.len() as u64 + 4;
            assert!(live.segments() <= most, "{id} keeps {} log segments: {}", live.segments(), self.show());
        }
        invariants::connections::check(&self.devices, &self.places);
        invariants::counted_once::check(&self.devices, &self.cloud.windows, &self.quarantine());
    }

    /// Ends all faults.
    fn calm(&mut self) {
        self.trace(|| "calm".to_string());
        self.faults = false;
        self.mended.calm(self.now);
        self.wake_all();
        self.net.calm();
        self.wires.calm(&mut self.random, self.now);
        self.calm_since = self.now;
        self.ends.clear();
        self.operators.calm();
        self.removed_leave();
        (self.cloud.away, self.cloud.meddling) = (0, 0);
        for place in self.places.values_mut() {
            place.disk.full(false);
            (place.slow_ms, place.cut_off, place.frozen_until) = (0, 0, 0);
            place.back_at = place.back_at.min(self.now + 500);
            place.clock.drift(self.now, 0);
        }
    }

    /// One file of each kind rots somewhere, and is mended although nothing else happens.
    fn rot_all(&mut self) {
        for what in [Rot::Log, Rot::Snapshot, Rot::Batch, Rot::LastSegment] {
            let (at, pick, sector) = (self.pick(), self.random.next(), self.random.chance(400));
            self.rots(at, what, pick, sector);
            while !self.mended.is_over() {
                self.pass(500);
            }
        }
    }

    /// A disk is full for good: as long as a majority has room, the site accepts readings once others lead.
    fn fill_one(&mut self) {
        // A site whose members changed may have one replica of a shard left.
        if self.places.len() < 3 || self.plan.growth {
            return;
        }
        let at = self.pick();
        self.place(at).disk.full(true);
        self.trace(|| format!("{at} is full for good"));
        let until = self.now + FULL_MS;
        while self.places[&at].live.as_ref().is_some_and(Live::has_room) && self.now < until {
            self.devices.measure(&mut self.random, self.now, false);
            self.pass(100);
        }
        let until = self.now + FRESH_MS;
        for _ in 0..10 {
            self.devices.measure(&mut self.random, self.now, false);
        }
        while !self.devices.done() {
            assert!(self.now < until, "{at} is full, and the site takes nothing: {}", self.show());
            self.pass(50);
        }
        self.place(at).disk.full(false);
    }

    /// How often each payload is in the site's quarantine.
    fn quarantine(&self) -> BTreeMap<String, u64> {
        let mut latest = BTreeMap::new();
        for place in self.places.values() {
            let replicas = place.live.iter().flat_map(|live| &live.replicas);
            for (shard, replica) in replicas.filter(|(_, r)| !r.core().is_witness()) {
                let machine = replica.core().machine();
                let known = latest.entry(*shard).or_insert(machine);
                if known.slot() < machine.slot() {
                    *known = machine;
                }
            }
        }
        let mut payloads = BTreeMap::new();
        for machine in latest.values() {
            let (mut after, mut more) = (0, true);
            while more {
                let list;
                (list, more) = machine.quarantine(None, after, usize::MAX);
                after = list.last().map_or(after, |(id, _)| *id);
                for (_, entry) in list {
                    let payload = String::from_utf8_lossy(&entry.publish.payload).into_owned();
                    *payloads.entry(payload).or_default() += 1;
                }
            }
        }
        payloads
    }

    /// A gateway that leads a shard although, as far as it knows, a replica with a better clock could.
    fn leads_from_outside(&self) -> Option<GatewayId> {
        let lives = self.places.iter().filter_map(|(id, p)| Some((*id, p.live.as_ref()?)));
        let could = |live: &Live, id: GatewayId| {
            let outside = live.agreement.outside();
            let leads = live.replicas.values().map(|r| r.core()).filter(|core| core.serves());
            let mut others =
                leads.map(|core| core.consensus().config().members.iter().any(|m| !outside.contains(m)));
            outside.contains(&id) && others.any(|other| other)
        };
        lives.filter(|(id, live)| could(live, *id)).map(|(id, _)| id).next()
    }

    /// After days in which little happened, streams are known to publish seldom and to be late: their windows wait as
    /// long.
    fn settle(&mut self) {
        let slow = self.plan.faults.iter().any(|(_, f)| matches!(f, Fault::CloudAwayForDays { .. }));
        let soon = self.now + HEAL_MS;
        let until = if slow { soon + 3 * DAY_MS } else { soon };
        while !self.is_settled() {
            assert!(self.now < until, "it does not heal: {}", self.show());
            // Something may just be about to become due.
            let at_work = (0..10).all(|_| {
                self.now >= soon && !self.waits_for_windows() && {
                    self.pass(1_000);
                    true
                }
            });
            assert!(!at_work, "it does not heal: {}", self.show());
            self.pass(if self.now < soon { 100 } else { 600_000 });
        }
    }

    /// Whether only windows are still open.
    fn waits_for_windows(&self) -> bool {
        self.devices.done() && self.places.values().all(|p| p.live.as_ref().is_some_and(Live::is_idle))
    }

    fn is_settled(&self) -> bool {
        if !self.devices.done() || !self.devices.deliveries.is_settled() || !self.is_placed() {
            return false;
        }
        let has_left = |id: &u64| self.devices.of(*id).is_none();
        if self
            .places
            .values()
            .filter_map(|p| p.live.as_ref())
            .any(|l| l.edge.connections().any(|id| has_left(&id)))
        {
            return false;
        }
        let commits = self.commits();
        self.places.iter().all(|(id, p)| {
            let Some(live) = &p.live else { return false };
            let taking_part = live.replicas.iter().filter(|(shard, _)| self.takes_part(*id, **shard));
            live.is_idle()
                && taking_part.into_iter().all(|(shard, replica)| {
                    let machine = replica.core().machine();
                    let outbox = machine.outbox_stats();
                    let most = commits.iter().filter(|c| c.1 == *shard).map(|c| c.2).max();
                    most == Some(machine.slot())
                        && outbox.cursor == outbox.last
                        && outbox.waiting_parts == 0
                        && machine.sizes().open_parts == 0
                        && machine.sizes().due_wills == 0
                        && replica.core().consensus().role() != Role::Damaged
                })
        })
    }

    fn commits(&self) -> Vec<(GatewayId, ShardId, u64)> {
        let of = |(g, p): (&GatewayId, &Place)| {
            let live = p.live.iter().flat_map(|l| l.replicas.iter());
            live.map(|(s, r)| (*g, *s, r.core().consensus().commit())).collect::<Vec<_>>()
        };
        self.places.iter().flat_map(of).collect()
    }

    fn show(&self) -> String {
        let settled = self.devices.readings.values().filter(|r| r.kept.is_some()).count();
        let mut text = format!("{settled} of {} readings settled", self.devices.readings.len());
        text += &self.devices.deliveries.show();
        if self.plan.growth {
            text += &format!(
                "\nunsettled: {:?}; {:?}",
                invariants::placement::unsettled(&self.places),
                self.operators
            );
        }
        for (id, place) in &self.places {
            let Some(live) = &place.live else {
                text += &format!("\n{id} is down until {}", place.back_at);
                continue;
            };
            text += &format!("\n{id} reaches {:?}, {:?}", live.links.up(), live.forward);
            text += &format!("\n  links: {}", live.links.show());
            text += &format!("\n  works at {}", live.works_at());
            text += &format!("\n  {} segments, the oldest {:?}", live.segments(), live.log.log().oldest());
            for (s, r) in &live.replicas {
                let core = r.core();
                text += &format!(
                    "\n  {:?} first {}",
                    core.status(place.now(self.now)),
                    core.consensus().first_slot()
                );
                text += &format!(
                    "\n  {:?}, {} open, {} elapsed, wall {}; the node has {}",
                    core.machine().outbox_stats(),
                    core.machine().sizes().open_parts,
                    core.machine().elapsed(),
                    core.machine().wall(),
                    self.cloud.cursor(*s)
                );
            }
        }
        text
    }

    fn apply(&mut self, fault: Fault) {
        self.wake_all();
        let now = self.now;
        let (mut ends, mut cuts) = (Vec::new(), Vec::new());
        if !fault.gateways().iter().all(|at| self.places.contains_key(at)) {
            return; // it has not joined yet, or has left
        }
        match fault {
            Fault::PowerCut { at, how, down_ms } => self.power_cut(at, how, down_ms),
            Fault::DyingDisk { at, write_ms, cut_after_ms, how, down_ms } => {
                self.place(at).slow_ms = write_ms;
                ends.push((cut_after_ms, End::Power { at, how, down_ms }));
            }
            Fault::OtherRelease { at, down_ms } => {
                self.kill(at, down_ms);
                self.tally.refusals += u64::from(self.places[&at].refuses_another_release(at, &self.common));
            }
            Fault::Kill { at, down_ms } => self.kill(at, down_ms),
            Fault::Freeze { at, for_ms } => {
                let place = self.place(at);
                place.stood_since = place.stood_since.or(Some(now)).filter(|_| place.live.is_some());
                place.frozen_until = now + for_ms;
            }
            Fault::SyncFails { at } => self.place(at).disk.next_sync_fails(),
            Fault::Full { at, for_ms } => {
                self.place(at).disk.full(true);
                ends.push((for_ms, End::Full(at)));
            }
            Fault::AllFull { for_ms } => {
                for (at, place) in &self.places {
                    place.disk.full(true);
                    ends.push((for_ms, End::Full(*at)));
                }
            }
            Fault::SlowDisk { at, write_ms, for_ms } => {
                self.place(at).slow_ms = write_ms;
                ends.push((for_ms, End::Slow(at)));
            }
            Fault::Rotten { at, what, pick, sector } => {
                if self.may_rot(at) {
                    self.place(at).rots.push((what, pick, sector));
                    self.power_cut(at, Crash::Torn(pick), 50);
                }
            }
            Fault::Rots { at, what, pick, sector } => self.rots(at, what, pick, sector),
            Fault::Cut { from, to, both, for_ms } => {
                cuts.push((from, to, for_ms));
                cuts.extend(both.then_some((to, from, for_ms)));
            }
            Fault::Isolate { at, for_ms } => {
                cuts.extend(self.places.keys().flat_map(|o| [(at, *o, for_ms), (*o, at, for_ms)]));
            }
            Fault::Flap { a, b, times, each_ms } => ends.push((0, End::FlapOn { a, b, times, each_ms })),
            Fault::ClockJump { at, by_ms } => self.place(at).clock.jump(now, by_ms),
            Fault::AllClocksJump { by_ms } => self.places.values_mut().for_each(|p| p.clock.jump(now, by_ms)),
            Fault::ClockSetRight { at } => self.place(at).clock.set_right(now),
            Fault::ClockDrift { at, per_mille } => self.place(at).clock.drift(now, per_mille),
            Fault::Clock1970 { at } => self.place(at).clock.go_to_1970(now),
            Fault::NoUplink { at, for_ms } => {
                self.place(at).cut_off += 1;
                ends.push((for_ms, End::NoUplink(at)));
            }
            Fault::CloudAway { for_ms } => {
                self.cloud.away += 1;
                ends.push((for_ms, End::CloudAway));
            }
            Fault::LostContents { for_ms, spare } => {
                self.cloud.away += 1;
                ends.push((for_ms, End::LoseContents { spare }));
            }
            Fault::CloudAwayForDays { days } => self.days_without_cloud(days),
            Fault::Meddling { for_ms } => {
                self.cloud.meddling += 1;
                ends.push((for_ms, End::Meddling));
            }
            Fault::DevicesMove { share } => {
                for d in 0..self.devices.list.len() {
                    if self.random.chance(share) {
                        self.devices.lost(d, now);
                    }
                }
            }
            Fault::Reboot { device } => self.devices.reboot(now, device),
            Fault::Retire { at, pick } => self.retire(at, pick),
            Fault::SlowLink { at, by_ms } => self.wires.slow(at, by_ms),
            Fault::Drain { at, devices_leave } => {
                self.operators.give(Order::Drain(at));
                if devices_leave {
                    self.send_devices_away(at);
                }
            }
            Fault::Resume { at } => self.operators.give(Order::Resume(at)),
            Fault::Reweigh { at, weight } => self.operators.give(Order::Reweigh(at, weight)),
            Fault::Remove { at, once_empty, runs_on_ms, back_for_ms } => {
                self.operators.remove(at, once_empty, runs_on_ms, back_for_ms);
            }
            Fault::Dies { at, noticed_after_ms } => {
                if self.may_lose(at) {
                    self.leaves(at, true);
                    self.operators.is_lost(at, now + noticed_after_ms);
                }
            }
            Fault::Ambush { step, blow, after_ms } => self.ambushes.wait(step, blow, after_ms),
            Fault::Join { replaces, starts_after_ms } => self.operators.join(replaces, starts_after_ms),
            Fault::Snapshots { at } => {
                let clock = self.place(at).now(now);
                if let Some(live) = &mut self.place(at).live {
                    live.snapshots(clock);
                }
            }
        }
        for (from, to, for_ms) in cuts.into_iter().filter(|(from, to, _)| from != to) {
            self.wires.cut(&mut self.random, now, from, to, true);
            ends.push((for_ms, End::Cut { from, to }));
        }
        self.ends.extend(ends.into_iter().map(|(after, end)| (now + after, end)));
    }

    fn end(&mut self, end: End) {
        self.wake_all();
        if end.at().is_some_and(|at| !self.places.contains_key(&at)) {
            return; // its box has left the site
        }
        match end {
            End::Cut { from, to } => self.wires.cut(&mut self.random, self.now, from, to, false),
            End::Full(at) => self.place(at).disk.full(false),
            End::Power { at, how, down_ms } => {
                self.place(at).slow_ms = 0;
                self.power_cut(at, how, down_ms);
            }
            End::Slow(at) => self.place(at).slow_ms = 0,
            End::Stop { at, down_ms } => self.kill(at, down_ms),
            End::Leaves(at) => self.leaves(at, false),
            End::Strike(fault) => {
                self.trace(|| format!("struck: {fault:?}"));
                self.apply(fault);
            }
            End::NoUplink(at) => {
                let place = self.place(at);
                place.cut_off = place.cut_off.saturating_sub(1);
            }
            End::CloudAway => self.cloud.away = self.cloud.away.saturating_sub(1),
            End::LoseContents { spare } => {
                self.lose_contents(spare);
                self.cloud.away = self.cloud.away.saturating_sub(1);
            }
            End::Meddling => self.cloud.meddling = self.cloud.meddling.saturating_sub(1),
            End::FlapOn { a, b, times, each_ms } => {
                if times > 0 && a != b {
                    for (from, to) in [(a, b), (b, a)] {
                        self.wires.cut(&mut self.random, self.now, from, to, true);
                        self.ends.push((self.now + each_ms, End::Cut { from, to }));
                    }
                    let again = End::FlapOn { a, b, times: times - 1, each_ms };
                    self.ends.push((self.now + 2 * each_ms, again));
                }
            }
        }
    }

    /// An operator retires the stream or device of some reading. The device continues to send its readings, and to
    /// resend them.
    fn retire(&mut self, at: GatewayId, pick: u64) {
        let count = self.devices.readings.len() as u64;
        let Some(name) = self.devices.readings.get(&(pick % count.max(1) + 1)).map(|r| r.name.clone()) else {
            return;
        };
        self.reads.retired(&name.device);
        let shard = self.common.ring.shard_of(&name.device);
        let StreamName { device, stream } = name;
        let item = Item::Retire { device, stream: pick.is_multiple_of(2).then_some(stream) };
        if let Some(live) = &mut self.place(at).live {
            live.order(shard, item);
        }
    }

    /// One of the batches that the node does not have yet, and that all replicas have on disk and none in memory, is
    /// damaged on all their disks, or on all but one.
    fn lose_contents(&mut self, spare: bool) {
        let mut found = Vec::new();
        for shard in (0..self.common.ring.shards()).map(ShardId) {
            let members = self.common.ring.replicas(shard);
            let on_disk =
                |seq: &u64| members.iter().all(|m| self.places[m].disk.batch(shard, *seq).is_some());
            let in_memory = |seq: &u64| {
                let lives = members.iter().filter_map(|m| self.places[m].live.as_ref());
                lives.filter_map(|live| live.replicas.get(&shard)).any(|replica| replica.needs_no_store(*seq))
            };
            let there = self.places[&members[0]].disk.batches(shard);
            let waits = there.into_iter().filter(|seq| *seq > self.cloud.cursor(shard));
            found.extend(waits.filter(|seq| on_disk(seq) && !in_memory(seq)).map(|seq| (shard, seq)));
        }
        if found.is_empty() {
            return;
        }
        let (shard, seq) = self.random.pick(&found);
        let mut members = self.common.ring.replicas(shard).to_vec();
        let body = self.places[&members[0]].disk.batch(shard, seq).expect("it is on disk");
        self.cloud.remember(shard, seq, body);
        if spare {
            members.remove(self.random.below(members.len() as u64) as usize);
        }
        self.trace(|| format!("batch {seq} of {shard} is damaged at {members:?}"));
        for at in members {
            let pick = self.random.next();
            self.places[&at].disk.damage_batch(shard, seq, pick);
            self.lost.damaged(at, shard, seq);
        }
    }

    /// Little happens, for days; the broker can't be reached.
    fn days_without_cloud(&mut self, days: u64) {
        self.places.values_mut().for_each(|p| p.cut_off += 1);
        let parts = 12;
        for _ in 0..parts {
            self.devices.measure(&mut self.random, self.now, self.plan.cramped);
            self.pass(days * DAY_MS / parts);
        }
        self.places.values_mut().for_each(|p| p.cut_off = p.cut_off.saturating_sub(1));
    }

    /// A file on the disk of a gateway rots while it runs, if one may.
    fn rots(&mut self, at: GatewayId, what: Rot, pick: u64, sector: bool) {
        if self.places[&at].damaged || !self.mended.is_sound(at) || !self.may_rot_while_running(at) {
            return;
        }
        let disk = &self.places[&at].disk;
        let damaged = disk.damaged_places(at);
        let rotten = disk.rot(what, pick, sector, |name| self.others_have(at, name));
        let Some((name, place)) = rotten else { return };
        let is_rotten = match what {
            Rot::Log | Rot::LastSegment => disk.damaged_places(at) > damaged,
            Rot::Snapshot | Rot::Batch => disk.stored(&name).is_none(),
        };
        self.trace(|| format!("{name} of {at} rots at byte {place}: {is_rotten}"));
        if is_rotten {
            self.tally.rotten += 1;
            if let Some((shard, seq)) = super::disk::batch_of(&name) {
                self.lost.damaged(at, shard, seq);
            }
            self.mended.rotted(self.now, at, name);
        }
    }

    /// Whether a file is no batch, or a batch that another replica has too.
    fn others_have(&self, at: GatewayId, name: &str) -> bool {
        super::disk::batch_of(name).is_none_or(|(shard, seq)| {
            let members = self.common.ring.replicas(shard).iter();
            members.filter(|m| **m != at).any(|m| self.places[m].disk.batch(shard, seq).is_some())
        })
    }

    fn is_sound(&self, id: GatewayId, place: &Place) -> bool {
        place.rots.is_empty()
            && place.live.is_some()
            && !place.damaged
            && !place.lost_batch
            && self.mended.is_sound(id)
    }

    /// Only a minority of each shard may rot: gateways that share one must be sound. So in larger sites several may rot
    /// at once.
    fn may_rot_while_running(&self, at: GatewayId) -> bool {
        let shards: Vec<ShardId> = self.common.ring.shards_of(at).collect();
        let shares =
            |id: GatewayId| shards.iter().any(|shard| self.common.ring.replicas(*shard).contains(&id));
        self.places[&at].live.is_some()
            && self
                .places
                .iter()
                .filter(|(id, _)| **id != at && shares(**id))
                .all(|(id, place)| self.is_sound(*id, place))
    }

    /// Only a minority may lose what was durable, and one replica at a time: the others must be there to repair it
    /// from.
    fn may_rot(&self, at: GatewayId) -> bool {
        (!self.plan.growth || self.plan.witness || self.may_lose(at))
            && self.places.len() >= 3
            && self.places.iter().filter(|(id, _)| **id != at).all(|(id, place)| self.is_sound(*id, place))
    }

    fn place(&mut self, id: GatewayId) -> &mut Place {
        self.places.get_mut(&id).expect("a gateway of the site")
    }

    fn pick(&mut self) -> GatewayId {
        let nth = self.random.below(self.places.len() as u64) as usize;
        *self.places.keys().nth(nth).expect("a gateway of the site")
    }

    fn power_cut(&mut self, at: GatewayId, how: Crash, down_ms: u64) {
        let back_at = self.now + down_ms;
        self.trace(|| format!("{at} loses power, back after {down_ms} ms"));
        let place = self.places.get_mut(&at).expect("a gateway of the site");
        place.cut_power(how, &mut self.random);
        place.off = true;
        self.wires.process_ended(&mut self.random, self.now, at, true);
        self.down(at, back_at);
    }

    fn kill(&mut self, at: GatewayId, down_ms: u64) {
        let back_at = self.now + down_ms;
        self.place(at).kill();
        self.wires.process_ended(&mut self.random, self.now, at, false);
        self.down(at, back_at);
    }

    fn down(&mut self, at: GatewayId, back_at: u64) {
        self.wake_all();
        if !self.faults {
            self.calm_since = self.now;
        }
        self.tally.restarts += 1;
        self.mended.ended(at);
        let place = self.place(at);
        (place.back_at, place.frozen_until, place.stood_since) = (back_at, 0, None);
        for (what, pick, sector) in std::mem::take(&mut place.rots) {
            if what == super::plan::Rot::Log && !sector && pick % 8 < 3 {
                let lost = self.places[&at].disk.lose_end_of_log(at, pick >> 3);
                self.trace(|| format!("{at} has lost the end of its log: {lost:?}"));
                self.place(at).lost_end |= lost.is_some_and(|(_, acknowledged)| acknowledged);
                continue;
            }
            let rotten = self.places[&at].disk.rot(what, pick, sector, |_| true);
            self.trace(|| format!("{at} finds {what:?} rotten: {rotten:?}"));
            if let Some((shard, seq)) = rotten.and_then(|(name, _)| super::disk::batch_of(&name)) {
                self.place(at).lost_batch = true;
                self.lost.damaged(at, shard, seq);
            }
        }
        // Devices that were connected there notice.
        let gone: Vec<usize> = (0..self.devices.list.len())
            .filter(|d| self.devices.list[*d].connection.as_ref().is_some_and(|c| c.gateway == at))
            .collect();
        for d in gone {
            if self.random.chance(700) {
                self.devices.lost(d, self.now); // others notice by their patience
            }
        }
    }

    /// Asks a gateway about a device.
    fn ask(&mut self) {
        let count = self.devices.readings.len() as u64;
        let Some(name) = self.devices.readings.get(&(self.random.below(count) + 1)).map(|r| r.name.clone())
        else {
            return;
        };
        let (at, device) = (self.pick(), name.device);
        self.last_query += 1;
        let id = self.last_query;
        let of = |r: &&devices::Reading| r.name.device == device && r.kept == Some(true) && !r.either;
        let acknowledged = self.devices.readings.values().filter(of).count() as u64;
        self.reads.asked(id, &device, acknowledged);
        let (from, to) = (EpochMs(*TIME_RANGE.start()), EpochMs(*TIME_RANGE.end()));
        let shard = self.common.ring.shard_of(&device);
        let (page, wait_ms) = (Page::default(), 3_000);
        let query =
            ShardQuery { device, stream: None, from, to, every_ms: None, stale: false, page, wait_ms };
        let packet = Packet::Ask { to: at, shard, id, query };
        self.net.put(self.now + 1 + self.random.below(5), packet);
    }

    fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while self.now < until {
            self.tick(until);
            assert!(self.net.len() < MAX_PACKETS, "a storm of messages: {}", self.show());
        }
        if !self.mended.is_over() {
            self.mended.check(self.now, !self.faults, &self.places);
        }
        if !self.faults {
            let apart = self.apart.as_ref().map(Apart::pair);
            invariants::reached::check(self.now, self.calm_since, &self.places, apart);
            if let Some(apart) = &mut self.apart {
                apart.check(self.now, &self.places);
            }
        }
    }

    /// Goes to the next time at which something happens, at most to `until`, and lets it happen.
    fn tick(&mut self, until: u64) {
        self.tally.steps += 1;
        // Days without the cloud have keep-alives and heartbeats of their own.
        let most = MAX_STEPS + self.now / 1_000;
        assert!(self.tally.steps < most, "it is busy with nothing: {}", self.show());
        let mut next = until.min(self.net.next_at().unwrap_or(u64::MAX));
        next = next.min(self.ends.iter().map(|(at, _)| *at).min().unwrap_or(u64::MAX));
        for d in 0..self.devices.list.len() {
            next = next.min(self.devices.deadline(d));
        }
        next = next.min(self.places.values().map(|place| place.due).min().unwrap_or(u64::MAX));
        if self.plan.growth {
            next = next.min(self.operators.due);
        }
        self.jump(next);
        next = next.min(self.links_due());
        let before = self.now;
        self.now = next.max(self.now + 1);
        if self.places.values().any(|p| (before + 1..=self.now).contains(&p.frozen_until)) {
            self.wake_all();
        }
        while let Some(i) = self.ends.iter().position(|(at, _)| *at <= self.now) {
            let (_, end) = self.ends.swap_remove(i);
            self.end(end);
        }
        self.operate();
        while let Some(packet) = self.net.arrived(self.now) {
            self.arrive(packet);
        }
        self.links_turn();
        for d in 0..self.devices.list.len() {
            self.device_reads(d);
            let gateways = self.places.len() as u64;
            let places = &self.places;
            let to = |random: &mut Random| {
                let (id, place) = places.iter().nth(random.below(gateways) as usize).expect("one of them");
                (*id, place.start)
            };
            let packets = self.devices.work(d, self.now, &mut self.random, to);
            self.device_sends(d, packets);
        }
        self.device_leaves();
        let due = |(id, place): (&GatewayId, &Place)| (place.due <= self.now).then_some(*id);
        let due: Vec<_> = self.places.iter().filter_map(due).collect();
        for id in due {
            self.work(id);
            let place = self.places.get_mut(&id).expect("a gateway of the site");
            let clock = place.now(self.now);
            place.due = match &mut place.live {
                Some(_) if place.frozen_until > self.now => place.frozen_until,
                Some(live) => live.deadline(clock),
                None => place.back_at,
            };
        }
    }

    /// Something changed that any gateway may notice.
    fn wake_all(&mut self) {
        self.places.values_mut().for_each(|p| p.due = 0);
    }

    fn work(&mut self, id: GatewayId) {
        let now = self.now;
        if self.places[&id].live.is_none() {
            if self.places[&id].back_at > now {
                return;
            }
            self.begin(id);
        }
        let (random, weather) = (&mut self.random, self.net.weather);
        let Some(place) = self.places.get_mut(&id).filter(|place| place.frozen_until <= now) else { return };
        let clock = place.now(now);
        let (slow_ms, cut_off) = (place.slow_ms, place.cut_off);
        let Some(live) = &mut place.live else { return };
        let mut out = Out::default();
        live.connect_uplink(clock, cut_off == 0, &mut out);
        let ended = live
            .disk(clock, weather.disk_ms + slow_ms, random)
            .map(|()| live.timers(clock, &mut out))
            .and_then(|()| live.turn(clock, &mut out));
        match ended {
            Ok(()) => {
                self.look(id);
                self.perform(id, out);
                self.flush(id);
            }
            Err(Ended(why)) => {
                assert!(self.faults || why.contains("input/output"), "{id} ends: {why}");
                assert!(!why.contains("can't be read: "), "{id} ends: {why}");
                self.trace(|| format!("{id} ends: {why}"));
                let down_ms = 100 + self.random.below(400);
                self.kill(id, down_ms);
            }
        }
    }

    fn begin(&mut self, id: GatewayId) {
        self.wake_all();
        let now = self.now;
        let place = self.places.get_mut(&id).expect("a gateway of the site");
        match place.start(id, &self.common, now) {
            Ok(()) => {
                let live = place.live.as_ref().expect("it started");
                let damaged =
                    live.replicas.values().filter(|r| r.core().consensus().role() == Role::Damaged).count();
                place.damaged = damaged > 0;
                if std::mem::take(&mut place.off) {
                    self.wires.box_is_back(&mut self.random, now, id);
                }
                if !self.faults {
                    self.calm_since = now;
                }
                self.tally.damaged += damaged as u64;
                self.trace(|| format!("{id} starts, {damaged} replicas damaged"));
            }
            Err(OpenError::Log(e))
                if e.to_string().contains("input/output") || (self.faults && e.is_full()) =>
            {
                place.back_at = now + 500;
                place.disk.kill();
                self.trace(|| format!("{id} can't start: {e}"));
            }
            Err(e) => panic!("{id} can't start: {e}"),
        }
    }

    /// Checks the invariants of a gateway's replicas, after each turn.
    fn look(&mut self, id: GatewayId) {
        let digest = self.random.chance(20);
        let Some(live) = self.places[&id].live.as_ref() else { return };
        if self.plan.growth && self.faults {
            self.ends.extend(self.ambushes.look(self.now, id, live));
        }
        self.tally.most_held = self.tally.most_held.max(live.edge.front.held_bytes());
        invariants::bounds::check(live);
        let start = live.origin.start;
        invariants::time::check_wall(id, self.places[&id].now(self.now), &self.places);
        if self.plan.growth {
            self.progress.here(id, start, |shard| live.replicas.contains_key(shard));
        }
        for (shard, replica) in &live.replicas {
            let core = replica.core();
            invariants::time::check_elapsed(id, *shard, core, self.now);
            self.progress.check(id, start, *shard, core);
            self.agreement.check(id, start, *shard, core);
            self.configurations.check(id, start, *shard, core);
            self.ballots.check(id, start, *shard, core);
            self.kept.check(id, *shard, core);
            self.lost.check(*shard, core, &self.places);
            self.witnesses.check(id, *shard, core, &self.places);
            if digest {
                self.state.check(id, start, *shard, core);
            }
            if core.serves() && self.leaders.insert(*shard, id) != Some(id) {
                self.tally.elections += 1;
                if self.tracing {
                    println!("{:>8} ms  {id} leads {shard} in {}", self.now, core.consensus().ballot());
                }
            }
        }
    }

    /// A device sends packets on its connection: their bytes go in pieces, cut anywhere.
    fn device_sends(&mut self, d: usize, packets: Vec<client::Packet>) {
        let Some(connection) = self.devices.list[d].connection.as_mut().filter(|_| !packets.is_empty())
        else {
            return;
        };
        let (gateway, start, id) = (connection.gateway, connection.start, connection.id);
        let mut bytes = connection.say(self.now, packets);
        let way = self.ways.entry(id).or_default();
        while !bytes.is_empty() {
            let cut =
                if self.random.chance(250) { 1 + self.random.below(bytes.len() as u64) } else { u64::MAX };
            let rest = bytes.split_off((cut as usize).min(bytes.len()));
            way.up.push_back(Piece::Bytes(std::mem::replace(&mut bytes, rest)));
            let late = if self.random.chance(20) { self.random.below(300) } else { 0 };
            connection.last_arrival = connection.last_arrival.max(self.now) + 1 + self.random.below(5) + late;
            self.net.put(connection.last_arrival, Packet::In { gateway, start, connection: id, end: None });
        }
        if self.random.chance(20) && self.faults {
            // The device goes away after this; its gateway notices much later, and the device by its own patience.
            let at = connection.last_arrival + self.random.below(6_000);
            let end = Some(if self.random.chance(500) { Piece::End } else { Piece::Reset });
            self.net.put(at, Packet::In { gateway, start, connection: id, end });
        }
    }

    /// Devices have left connections: their gateways learn it now, later, or by the keep alive.
    fn device_leaves(&mut self) {
        for (gateway, start, connection) in self.devices.left() {
            let (at, end) = match self.random.below(10) {
                0..3 => (self.random.below(10), Piece::End),
                3..7 => (self.random.below(6_000), Piece::Reset),
                _ if self.faults => continue,
                _ => (self.random.below(1_000), Piece::End),
            };
            self.net.put(self.now + 1 + at, Packet::In { gateway, start, connection, end: Some(end) });
        }
    }

    /// A device reads what has come, if it reads.
    fn device_reads(&mut self, d: usize) {
        let Some(connection) = &self.devices.list[d].connection else { return };
        let (gateway, start, id) = (connection.gateway, connection.start, connection.id);
        let (bytes, said) = self.devices.read(d, self.now, &mut self.random, self.faults);
        if bytes > 0
            && let Some(place) = self.places.get_mut(&gateway).filter(|p| p.start == start)
            && let Some(live) = &mut place.live
        {
            live.edge.gets_room(id, bytes);
            place.due = 0;
        }
        for said in said {
            let places = &self.places;
            let found = || {
                let live = places.get(&gateway)?.live.as_ref().filter(|live| live.origin.start == start)?;
                let has_it = live.edge.connections().any(|connection| connection == id);
                has_it.then(|| live.edge.front.filters().1)
            };
            let packets = self.devices.hears(d, self.now, said, found);
            self.device_sends(d, packets);
        }
    }

    fn perform(&mut self, from: GatewayId, out: Out) {
        for (shard, slot) in out.settled {
            self.kept.acknowledged(shard, slot);
        }
        out.wills.into_iter().for_each(|counted| self.wills.will(counted));
        out.published.into_iter().for_each(|counted| self.wills.published(counted));
        for (to, message) in out.send {
            if let Some(live) = self.places.get(&from).and_then(|place| place.live.as_ref()) {
                invariants::corruption::said(&live.replicas, &message);
                self.configurations.said(from, live, &message);
            }
            match &message {
                PeerMessage::Transfer { message: TransferMessage::Offer { .. }, .. } => {
                    self.tally.offers += 1
                }
                PeerMessage::Transfer { message: TransferMessage::Log { values, .. }, .. } => {
                    self.tally.pieces += u64::from(!values.is_empty());
                }
                _ => {}
            }
            let Some(place) = self.places.get_mut(&from) else { continue };
            if to == from {
                self.net.put(self.now, Packet::Peer { from, to, start: place.start, message });
            } else if let Some(live) = &mut place.live {
                let preferred = message.shard().map_or(&[][..], |shard| self.common.ring.replicas(shard));
                let (to, message) = detour::address(live.links.reach(), to, message, preferred);
                self.tally.detours += u64::from(matches!(message, PeerMessage::Detour { .. }));
                live.links.send(to, message);
            }
        }
        for (connection, piece) in out.pieces {
            let way = self.ways.entry(connection).or_default();
            way.last_down = way.last_down.max(self.now) + 1 + self.random.below(6);
            way.down.push_back(piece);
            self.net.put(way.last_down, Packet::Back { connection });
        }
        for (shard, frame) in out.up {
            self.seals.check(&frame);
            let (shard, frame, forged) = self.cloud.meddle(&mut self.random, 0, shard, frame);
            self.net.send(&mut self.random, self.now, Packet::Up { shard, frame, forged });
        }
        for (id, answer) in out.queries {
            let Some(device) = self.reads.about(id) else { continue };
            let measured = self.devices.readings.values().filter(|r| r.name.device == device).count() as u64;
            self.tally.queries += u64::from(self.reads.answered(id, &answer, measured));
        }
    }

    fn arrive(&mut self, packet: Packet) {
        match packet {
            Packet::Peer { from, to, start, message } => {
                let again = Packet::Peer { from, to, start, message: message.clone() };
                self.at(to, Some(start), again, |live, _, now, out| {
                    live.hear(now, from, message, out);
                });
            }
            Packet::In { gateway, start, connection, end } => {
                let place = self.places.get(&gateway).filter(|place| place.start == start);
                if let Some(until) = place.map(|place| place.frozen_until).filter(|until| *until > self.now) {
                    return self.net.put(until, Packet::In { gateway, start, connection, end });
                }
                let Some(piece) = end.or_else(|| self.ways.get_mut(&connection)?.up.pop_front()) else {
                    return;
                };
                if place.is_some() {
                    let again = Packet::In { gateway, start, connection, end: None };
                    self.at(gateway, Some(start), again, |live, _, now, _| {
                        live.edge.arrives(now, connection, piece);
                    });
                } else if let Some(d) = self.devices.of(connection) {
                    self.devices.lost(d, self.now); // no process is there
                }
            }
            Packet::Back { connection } => {
                let piece = self.ways.get_mut(&connection).and_then(|way| way.down.pop_front());
                if let (Some(piece), Some(d)) = (piece, self.devices.of(connection)) {
                    self.devices.arrives(d, piece);
                }
            }
            Packet::Ask { to, shard, id, query } => {
                let again = Packet::Ask { to, shard, id, query: query.clone() };
                let start = self.places.get(&to).map(|place| place.start);
                self.at(to, start, again, |live, _, now, _| {
                    live.event(now, shard, ShardEvent::Query { from: to, id, query });
                });
            }
            Packet::Up { shard, frame, forged } => {
                if self.cloud.away > 0 {
                    return;
                }
                let Some(confirmation) = self.cloud.hear(&self.common, shard, &frame, forged) else { return };
                self.seals.check(&confirmation);
                let ids: Vec<_> = self.places.keys().copied().collect();
                for to in ids {
                    let (shard, frame, forged) =
                        self.cloud.meddle(&mut self.random, 1, shard, confirmation.clone());
                    self.net.send(&mut self.random, self.now, Packet::Down { to, shard, frame, forged });
                }
            }
            Packet::Down { to, shard, frame, forged } => {
                let Some(place) = self.places.get(&to).filter(|place| place.cut_off == 0) else { return };
                let start = place.start;
                let again = Packet::Down { to, shard, frame: frame.clone(), forged };
                self.at(to, Some(start), again, |live, common, now, out| {
                    let admitted = live.confirmed(common, now, shard, &frame, out);
                    assert!(admitted || forged, "an honest confirmation of {shard} was refused");
                });
            }
        }
    }

    /// Lets something happen at a gateway's process, if that start of it is there; later, if it is frozen.
    fn at(
        &mut self,
        id: GatewayId,
        start: Option<u64>,
        again: Packet,
        what: impl FnOnce(&mut Live, &Common, Now, &mut Out),
    ) {
        let now = self.now;
        let Some(place) = self.places.get_mut(&id).filter(|p| Some(p.start) == start) else { return };
        if place.frozen_until > now {
            let until = place.frozen_until;
            return self.net.put(until, again);
        }
        let clock = place.now(now);
        let mut out = Out::default();
        if let Some(live) = &mut place.live {
            what(live, &self.common, clock, &mut out);
            place.due = 0;
        }
        self.perform(id, out);
    }
}
