//! Stewards bring a site's replicas to where its directory wants them, without orders between gateways: whatever is
//! lost on the way, whichever gateways are away for a while, and however old each gateway's copy of the directory is. A
//! replica that has left its shard is given up, and only when all members hold everything.
//!
//! Shards are modelled here: each is a configuration, and the gateways that hold a replica of it. A stop is checked by
//! the shard's own rules ([`Configuration::check_next`]). `SELVEDGE_SEEDS=FROM..TO` runs those seeds instead of the usual
//! ones.

#![allow(clippy::disallowed_methods)] // A seed may be given.

#[path = "../../paxos/tests/seeded/mod.rs"]
mod seeded;

use seeded::{on_all_cores, seeds};
use selvedge_fabric::configuration::{Configuration, Stop};
use selvedge_fabric::directory::*;
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::site_state::{GatewayDescription, ReplicaDescription, ReplicaRole, TransferProgress};
use selvedge_fabric::steward::{ReplicaView, Steward, StewardEffect};
use selvedge_paxos::Ballot;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::ElapsedMs;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;

const SHARDS: u16 = 8;
/// Enough steps after the last fault for all moves, with what is lost on the way.
const CALM_STEPS: usize = 30_000;

/// One group of the site.
struct Group {
    configuration: Configuration,
    /// The gateways that hold a replica, and whether it has everything.
    held: BTreeMap<GatewayId, bool>,
    /// The learners that each replica was told.
    learners: BTreeMap<GatewayId, Vec<GatewayId>>,
}

struct World {
    random: fastrand::Rng,
    now_ms: u64,
    slot: u64,
    /// The directory as chosen; gateways' copies lag behind.
    chosen: Option<Directory>,
    copied: BTreeMap<GatewayId, u64>,
    groups: BTreeMap<ShardId, Group>,
    stewards: BTreeMap<GatewayId, Steward>,
    /// The rates that replicas which move were told.
    rates: BTreeMap<(GatewayId, ShardId), NonZeroU64>,
    away: BTreeSet<GatewayId>,
    /// Of a hundred effects, how many are lost.
    lost: u32,
    genesis: Genesis,
    tokens: u8,
    configurations: usize,
    /// The devices at each gateway.
    devices: u64,
    dropped: usize,
    /// The gateways that moves named as new members, each with the configuration in which it was named.
    named: BTreeSet<(ShardId, u32, GatewayId)>,
    /// The gateways that had to stop.
    too_old: BTreeSet<GatewayId>,
}

impl World {
    fn new(seed: u64, gateways: u16) -> Self {
        let first = |id| FirstGateway { id: GatewayId(id), weight: 1, peer: format!("gateway-{id}:7000") };
        let genesis = Genesis { shards: SHARDS, replicas: 3, gateways: (1..=gateways).map(first).collect() };
        let members: Vec<_> = (1..=gateways).map(|id| Member { id: GatewayId(id), weight: 1 }).collect();
        let ring = Ring::new(SHARDS, &members, 3).unwrap();
        let group = |shard: ShardId| {
            let members = ring.replicas(shard).to_vec();
            let held = members.iter().map(|g| (*g, true)).collect();
            (
                shard,
                Group {
                    configuration: Configuration::first(members, vec![]),
                    held,
                    learners: BTreeMap::new(),
                },
            )
        };
        let groups = (0..SHARDS).map(ShardId).chain([DIRECTORY_GROUP]).map(group).collect();
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            now_ms: 0,
            slot: 0,
            chosen: None,
            copied: BTreeMap::new(),
            groups,
            stewards: BTreeMap::new(),
            rates: BTreeMap::new(),
            away: BTreeSet::new(),
            lost: 20,
            genesis,
            tokens: 0,
            configurations: 0,
            devices: 0,
            dropped: 0,
            named: BTreeSet::new(),
            too_old: BTreeSet::new(),
        };
        (1..=gateways).for_each(|id| world.start(GatewayId(id)));
        world
    }

    fn start(&mut self, id: GatewayId) {
        self.start_as(id, None);
    }

    fn start_as(&mut self, id: GatewayId, announcement: Option<Announcement>) {
        self.stewards.insert(id, Steward::new(id, self.genesis.clone(), announcement));
        self.copied.insert(id, 0);
        // Every gateway holds a replica of the directory group.
        self.groups.get_mut(&DIRECTORY_GROUP).unwrap().held.entry(id).or_insert(false);
        let held: Vec<_> =
            self.groups.iter().filter(|(_, g)| g.held.contains_key(&id)).map(|(s, _)| *s).collect();
        held.into_iter().for_each(|shard| self.view(shard, id));
    }

    fn leader(&self, shard: ShardId) -> Option<GatewayId> {
        let members = &self.groups[&shard].configuration.members;
        let up = |g: &&GatewayId| !self.away.contains(g) && self.stewards.contains_key(g);
        let has_majority = members.iter().filter(up).count() > members.len() / 2;
        members.iter().find(up).copied().filter(|_| has_majority)
    }

    fn view(&mut self, shard: ShardId, id: GatewayId) {
        let leads = self.leader(shard) == Some(id);
        let view = ReplicaView { configuration: self.groups[&shard].configuration.clone(), leads };
        if let Some(steward) = self.stewards.get_mut(&id) {
            steward.replica(self.now_ms, shard, view);
        }
    }

    fn views(&mut self) {
        let held: Vec<_> = self.groups.iter().flat_map(|(s, g)| g.held.keys().map(|id| (*s, *id))).collect();
        held.into_iter().for_each(|(shard, id)| self.view(shard, id));
    }

    fn tell(&mut self, command: DirectoryCommand) -> Option<DirectoryOutcome> {
        self.slot += 1;
        let (slot, elapsed) = (self.slot, ElapsedMs(self.now_ms));
        let directory = self.chosen.as_mut()?;
        let outcome = directory.apply(slot, elapsed, None, &command);
        for (shard, m) in directory.moves() {
            let number = directory.configuration(*shard).map_or(0, |c| c.number);
            self.named.extend(m.comes.map(|comes| (*shard, number, comes)));
        }
        Some(outcome)
    }

    fn describe(&self, id: GatewayId) -> GatewayDescription {
        let replica = |(shard, group): (&ShardId, &Group)| {
            let whole = *group.held.get(&id)?;
            let role = match group.configuration.has_member(id) {
                true if self.leader(*shard) == Some(id) => ReplicaRole::Leader,
                true => ReplicaRole::Follower,
                false => ReplicaRole::Learner,
            };
            Some(ReplicaDescription {
                shard: *shard,
                configuration: group.configuration.number,
                role,
                leader: self.leader(*shard),
                ballot: Ballot::default(),
                commit: 1_000,
                applied: if whole { 1_000 } else { 1 },
                outbox_batches: 0,
                outbox_bytes: 0,
                transfer: TransferProgress::default(),
            })
        };
        GatewayDescription {
            release: "1".into(),
            uptime_ms: 1,
            trouble: None,
            warnings: 0,
            connections: self.devices,
            acked: 0,
            room: true,
            clock_sure: true,
            replicas: self.groups.iter().filter_map(replica).collect(),
        }
    }

    fn perform(&mut self, id: GatewayId) {
        let effects = self.stewards.get_mut(&id).map(Steward::take).unwrap_or_default();
        for effect in effects {
            // Only what a steward asks for again can be lost.
            let told_once = matches!(
                effect,
                StewardEffect::Learners { .. }
                    | StewardEffect::TransferRate { .. }
                    | StewardEffect::Placed(_)
                    | StewardEffect::Peers(_)
                    | StewardEffect::Removed(_)
                    | StewardEffect::Draining(_)
            );
            if !told_once && self.random.u32(..100) < self.lost {
                continue;
            }
            match effect {
                StewardEffect::Hold { shard, configuration } => {
                    let group = self.groups.get_mut(&shard).unwrap();
                    assert!(configuration <= group.configuration.number, "a configuration that is not yet");
                    group.held.entry(id).or_insert(false);
                    self.view(shard, id);
                }
                StewardEffect::Drop { shard, configuration } => self.drop(id, shard, configuration),
                StewardEffect::Learners { shard, learners } => {
                    self.groups.get_mut(&shard).unwrap().learners.insert(id, learners);
                }
                StewardEffect::TransferRate { shard, bytes_per_s } => {
                    match bytes_per_s {
                        Some(rate) => _ = self.rates.insert((id, shard), rate),
                        None => _ = self.rates.remove(&(id, shard)),
                    }
                    assert!(bytes_per_s.is_none_or(|rate| rate.get() <= DEFAULT_RATE_BYTES_PER_S));
                }
                StewardEffect::Reconfigure { shard, stop } => self.reconfigure(id, shard, &stop),
                StewardEffect::Submit(DirectoryItem::Begin(genesis)) => {
                    if self.chosen.is_none() {
                        self.chosen = Some(Directory::genesis(&genesis).unwrap());
                    }
                }
                StewardEffect::Submit(DirectoryItem::Command(_, command)) => drop(self.tell(command)),
                StewardEffect::TooOld { .. } => _ = self.too_old.insert(id),
                StewardEffect::Describe => {
                    let all: Vec<_> =
                        self.stewards.keys().copied().filter(|g| !self.away.contains(g)).collect();
                    for other in all {
                        let description = self.describe(other);
                        assert!(description.is_sound());
                        let steward = self.stewards.get_mut(&id).unwrap();
                        steward.described(self.now_ms, other, description);
                    }
                }
                StewardEffect::Placed(_)
                | StewardEffect::Peers(_)
                | StewardEffect::Removed(_)
                | StewardEffect::Draining(_) => {}
            }
        }
    }

    fn drop(&mut self, id: GatewayId, shard: ShardId, configuration: u32) {
        let group = self.groups.get_mut(&shard).unwrap();
        let Configuration { number, members, .. } = &group.configuration;
        assert!(shard != DIRECTORY_GROUP && *number >= configuration);
        if *number > configuration || !group.held.contains_key(&id) {
            return; // the order comes from an old copy, and the replica refuses; or it is the second one
        }
        self.rates.remove(&(id, shard));
        assert!(!members.contains(&id), "{id} gives up its replica of {shard} and is a member");
        let has_all = |m: &GatewayId| group.held.get(m).copied().unwrap_or(false);
        assert!(members.iter().all(has_all), "a member of {shard} lacks something when {id} gives it up");
        group.held.remove(&id);
        group.learners.remove(&id);
        self.dropped += 1;
        self.stewards.get_mut(&id).unwrap().dropped(shard);
    }

    /// The replicas that have no part in their shard any more, except those that a move in its present configuration named.
    fn left_over(&self) -> Vec<(ShardId, GatewayId)> {
        let of_shard = |(shard, group): (&ShardId, &Group)| {
            let Configuration { number, members, .. } = &group.configuration;
            let over = |g: &GatewayId| {
                let lives = self.chosen.as_ref().is_some_and(|d| d.gateway(*g).is_some());
                lives && !members.contains(g) && !self.named.contains(&(*shard, *number, *g))
            };
            group.held.keys().copied().filter(over).map(|g| (*shard, g)).collect::<Vec<_>>()
        };
        self.groups.iter().filter(|(shard, _)| **shard != DIRECTORY_GROUP).flat_map(of_shard).collect()
    }

    fn reconfigure(&mut self, id: GatewayId, shard: ShardId, stop: &Stop) {
        let leads = self.leader(shard) == Some(id);
        let group = self.groups.get_mut(&shard).unwrap();
        let Ok(added) = group.configuration.check_next(stop) else { return };
        let ready =
            |g: GatewayId| group.learners[&id].contains(&g) && group.held.get(&g).copied().unwrap_or(false);
        if !leads || !added.is_none_or(ready) {
            return;
        }
        group.configuration = Configuration::after(stop, group.configuration.base + 1);
        self.configurations += 1;
        let members = &group.configuration.members;
        assert!(members.iter().all(|m| group.held.contains_key(m)), "a member without a replica");
        self.views();
    }

    /// One step of a random gateway, or of a learner's transfer.
    fn step(&mut self) {
        self.now_ms += 20;
        let ids: Vec<_> = self.stewards.keys().copied().filter(|g| !self.away.contains(g)).collect();
        let Some(id) = self.random.choice(ids) else { return };
        match self.random.u32(..8) {
            0 => {
                let leaders: BTreeMap<_, _> =
                    self.groups.keys().filter_map(|s| Some((*s, self.leader(*s)?))).collect();
                for (shard, group) in &mut self.groups {
                    let Some(learners) = leaders.get(shard).and_then(|l| group.learners.get(l)) else {
                        continue;
                    };
                    let lacks = group.held.iter_mut().filter(|(g, _)| learners.contains(g));
                    lacks.for_each(|(_, whole)| *whole |= self.random.u32(..4) == 0);
                }
            }
            1..=3 => {
                if let Some(chosen) = self.chosen.clone()
                    && self.copied[&id] < self.slot.max(1)
                {
                    self.copied.insert(id, self.slot.max(1));
                    let steward = self.stewards.get_mut(&id).unwrap();
                    steward.copied(self.now_ms, Arc::new(chosen));
                }
            }
            _ => {
                let up = self.stewards.keys().copied().filter(|g| !self.away.contains(g)).collect();
                let steward = self.stewards.get_mut(&id).unwrap();
                steward.peers(self.now_ms, &up);
            }
        }
        self.perform(id);
    }

    fn order(&mut self) {
        let Some(chosen) = &self.chosen else { return };
        let living: Vec<_> = chosen.gateways().map(|(id, _)| id).collect();
        let Some(gateway) = self.random.choice(living.iter().copied()) else { return };
        match self.random.u32(..6) {
            0 => drop(self.tell(DirectoryCommand::Drain { gateway })),
            1 => drop(self.tell(DirectoryCommand::Resume { gateway })),
            2 => {
                let weight = self.random.u32(1..4);
                self.tell(DirectoryCommand::Reweigh { gateway, weight });
            }
            // Whoever orders a removal first makes sure that the directory knows all configurations.
            3 if living.len() > 4 && self.all_known() => {
                self.tell(DirectoryCommand::Remove { gateway, force: false, unsound: vec![] });
            }
            4 if living.len() < 7 => self.join(),
            _ if self.away.is_empty() => {
                self.away.insert(gateway);
                self.views();
            }
            _ => {
                self.away.clear();
                self.views();
            }
        }
    }

    fn join(&mut self) {
        self.tokens += 1;
        let token = TokenHash([self.tokens; 32]);
        let admits = Admission::default();
        self.tell(DirectoryCommand::Invite { token, lasts_ms: 60_000, admits });
        let (key, incarnation) = (GatewayKey([self.tokens; 32]), u128::from(self.tokens));
        let addresses = GatewayAddresses { peer: "new:7000".into(), ..GatewayAddresses::default() };
        let join = JoinRequest { token, incarnation, key, addresses, zone: None, level: 1 };
        let outcome = self.tell(DirectoryCommand::Join(Box::new(join)));
        let Some(DirectoryOutcome::Joined { gateway }) = outcome else { panic!("{outcome:?}") };
        self.start(gateway);
    }

    fn all_known(&self) -> bool {
        let number = |shard| self.chosen.as_ref()?.configuration(shard).map(|c| c.number);
        self.groups.iter().all(|(shard, g)| number(*shard) == Some(g.configuration.number))
    }

    /// Whether no replica of a gateway that the site has is held to a rate any more.
    fn unbounded(&self) -> bool {
        let Some(chosen) = &self.chosen else { return false };
        self.rates.keys().all(|(id, _)| chosen.gateway(*id).is_none())
    }

    fn is_settled(&self) -> bool {
        let Some(chosen) = &self.chosen else { return false };
        let settled = |(shard, group): (&ShardId, &Group)| {
            let wanted: BTreeSet<_> = chosen.wanted(*shard).into_iter().collect();
            let members: BTreeSet<_> = group.configuration.members.iter().copied().collect();
            let known = chosen.configuration(*shard).unwrap();
            wanted == members && known.number == group.configuration.number
        };
        let active = chosen.gateways().all(|(_, g)| g.state != GatewayState::Joining);
        active && chosen.moves().is_empty() && self.groups.iter().all(settled)
    }
}

fn announcement(gateway: u16, level: u32) -> Announcement {
    Announcement {
        gateway: GatewayId(gateway),
        incarnation: u128::from(gateway),
        key: GatewayKey([gateway as u8; 32]),
        addresses: GatewayAddresses { peer: "box:7000".into(), ..GatewayAddresses::default() },
        zone: None,
        level,
    }
}

fn run(seed: u64) -> (usize, usize) {
    let gateways = 3 + (seed % 4) as u16;
    let mut world = World::new(seed, gateways);
    for step in 0..6_000 {
        if step % 150 == 149 {
            world.order();
        }
        world.step();
    }
    world.away.clear();
    world.views();
    for _ in 0..CALM_STEPS {
        if world.is_settled() && world.left_over().is_empty() && world.unbounded() {
            return (world.configurations, world.dropped);
        }
        world.step();
    }
    let left_over = world.left_over();
    let chosen = world.chosen.unwrap();
    for (shard, group) in &world.groups {
        let (wanted, known) = (chosen.wanted(*shard), chosen.configuration(*shard));
        let (members, learners) = (&group.configuration.members, &group.learners);
        if members.iter().collect::<BTreeSet<_>>() != wanted.iter().collect() {
            println!("{shard}: {members:?} wanted {wanted:?} known {known:?} held {:?}", group.held);
            println!("{learners:?}");
        }
    }
    let states: Vec<_> = chosen.gateways().map(|(id, g)| (id, g.state)).collect();
    let moves = chosen.moves();
    panic!("seed {seed} does not settle; moves {moves:?}; gateways {states:?}; left over {left_over:?}");
}

#[test]
fn sites_settle_where_their_directory_wants_them() {
    let (mut configurations, mut dropped) = (0, 0);
    for run in on_all_cores(seeds(0..150), run) {
        (configurations, dropped) = (configurations + run.0, dropped + run.1);
    }
    assert!(configurations > 1_500, "only {configurations} configurations");
    assert!(dropped > 500, "only {dropped} replicas were given up");
}

#[test]
fn replicas_stay_on_a_draining_gateway_until_its_devices_and_leaders_have_left() {
    let drained = GatewayId(4);
    let mut world = World::new(1, 4);
    (world.devices, world.lost) = (3, 0);
    while world.chosen.is_none() {
        world.step();
    }
    // It leads nothing, so that only its devices hold the drain up.
    for group in world.groups.values_mut() {
        group.configuration.members.sort_unstable();
    }
    world.views();
    let outcome = world.tell(DirectoryCommand::Drain { gateway: drained });
    assert_eq!(outcome, Some(DirectoryOutcome::Done));
    let began_ms = world.now_ms;
    let moves = |world: &World| world.chosen.as_ref().unwrap().moves().len();
    while world.now_ms < began_ms + DRAIN_FIRST_MS / 2 {
        world.step();
        assert_eq!(moves(&world), 0, "{} ms after the order", world.now_ms - began_ms);
    }
    world.devices = 0;
    while moves(&world) == 0 {
        world.step();
        assert!(world.now_ms < began_ms + DRAIN_FIRST_MS, "at once, not after the longest wait");
    }
}

#[test]
fn a_gateway_that_is_too_old_for_the_level_of_its_site_has_to_stop() {
    let genesis = World::new(1, 3).genesis;
    let mut directory = Directory::genesis(&genesis).unwrap();
    let mut tell = |slot, command: &DirectoryCommand| directory.apply(slot, ElapsedMs(slot), None, command);
    for gateway in 1..=3 {
        tell(u64::from(gateway), &DirectoryCommand::Announce(Box::new(announcement(gateway, 2))));
    }
    assert_eq!(tell(4, &DirectoryCommand::Upgrade { level: 2 }), DirectoryOutcome::Done);
    let directory = Arc::new(directory);
    let stops = |level| {
        let mut steward = Steward::new(GatewayId(1), genesis.clone(), Some(announcement(1, level)));
        steward.copied(1_000, directory.clone());
        steward.take().contains(&StewardEffect::TooOld { level: 2 })
    };
    assert_eq!([1, 2, 3].map(stops), [true, false, false]);
}

/// A form that only releases of level 2 can read, and the level that each gateway's release understands: whoever sends it by
/// its own copy of the directory is understood by all.
#[test]
fn a_level_begins_when_every_gateway_understands_it_and_only_then_its_forms_are_used() {
    for seed in 0..5 {
        let mut world = World::new(seed, 3);
        let mut understands = BTreeMap::from([(1, 2), (2, 2), (3, 1)]);
        for (gateway, level) in &understands {
            world.start_as(GatewayId(*gateway), Some(announcement(*gateway, *level)));
        }
        let level = |world: &World| world.chosen.as_ref().map_or(FIRST_LEVEL, Directory::level);
        let steps = |world: &mut World, understands: &BTreeMap<u16, u32>, ms: u64| {
            let until_ms = world.now_ms + ms;
            while world.now_ms < until_ms {
                world.step();
                let copies = world.stewards.values().filter_map(Steward::directory);
                let sends_new_form = copies.into_iter().any(|copy| copy.level() >= 2);
                assert!(!sends_new_form || understands.values().all(|level| *level >= 2), "seed {seed}");
            }
        };
        steps(&mut world, &understands, 2 * LEVEL_HOLD_MS);
        assert_eq!(level(&world), FIRST_LEVEL, "gateway 3 has the old release");
        understands.insert(3, 2);
        world.start_as(GatewayId(3), Some(announcement(3, 2)));
        steps(&mut world, &understands, LEVEL_HOLD_MS - 1_000);
        assert_eq!(level(&world), FIRST_LEVEL, "there is still time to go back");
        steps(&mut world, &understands, 30_000);
        assert_eq!((level(&world), world.too_old.len()), (2, 0));
        // An operator starts the old release again.
        world.start_as(GatewayId(2), Some(announcement(2, 1)));
        for _ in 0..2_000 {
            world.step();
        }
        assert_eq!(world.too_old, BTreeSet::from([GatewayId(2)]));
        assert_eq!(world.chosen.unwrap().gateway(GatewayId(2)).unwrap().level, 2, "the site refuses it too");
    }
}
