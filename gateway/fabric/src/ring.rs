//! The ring: device -> shard -> replica set.
//!
//! Two steps, both pure functions of their input, the same on every platform and in every release:
//!
//! 1. A device's name is hashed (XXH3, 64 bit, no seed), and the hash space is cut into as many equal slices as the
//!    site has shards. The number of shards is set when the site is created and never changes, so a device never
//!    changes its shard.
//! 2. Shards are placed on gateways by consistent hashing. Every gateway has [`POINTS_PER_WEIGHT`] points (virtual
//!    nodes) per unit of weight on a circle, and every shard has one. From its point a shard walks clockwise and
//!    takes the first distinct gateways that are not full. "Full" bounds the load: a gateway takes at most 1.1
//!    times its weighted share, rounded up, of all replicas. Of the gateways that a shard took, the first that does
//!    not yet lead 1.1 times its share of shards is put first.
//!
//! Both bounds can leave a shard short: every gateway with room holds the shard already, or every gateway that
//! holds it leads enough shards already. The shard then exchanges places with another. Such an exchange always
//! exists, for the reasons given at [`Placing::fill_up`] and [`Placing::lead`].
//!
//! Invariant: a shard's replicas are distinct gateways, as many as [`Ring::replication`] says.
//! Invariant: no gateway holds more than ceil(1.1 x its share) replicas. The share is by weight, but at most one
//! replica of each shard; what a heavy gateway can't take for that reason is shared by the others.
//! Invariant: no gateway comes first in more than ceil(1.1 x its weighted share) of the shards.
//! Invariant: the order in which the members are listed has no influence.
//!
//! The ring only proposes. A shard's replica set is its last chosen configuration. A gateway that joins or leaves
//! changes the proposal for about its own share of the replicas (measured over all sizes in `tests/ring.rs`), and
//! each of those shards moves by a reconfiguration of its own. [`Ring::placed`] gives the same ring with the replica
//! sets of later configurations, to which the invariants above do not apply.
//!
//! The directory group is no shard, and no device maps to it. The ring holds its replicas too, because gateways send
//! to it as they send to shards. Its first members are those of [`Genesis`](crate::directory::Genesis).
//!
//! Limits: 1 to [`MAX_SHARDS`] shards, [`MAX_GATEWAYS`] gateways, weights of 1 to [`MAX_WEIGHT`]. With few replicas
//! per gateway the bounds are coarse (ceil), and a change moves somewhat more than its share. A change to this code
//! that places a single shard elsewhere moves data on every site: the golden tests forbid it.
//!
//! Gateways may stand in zones ([`Ring::zoned`]). Then no two replicas of a shard stand in one zone, as long as there
//! are enough zones: each step above leaves out the members whose zone is taken, and exchanges keep to the zones.
//! `ring/zones.rs` describes how, and what it does to the bounds. Zones that restrict nothing (no zone, one zone for
//! all, one for each gateway) change no placement.
//!
//! Left out: placement by the devices' real load, because shards are small, and weights are for boxes of unequal size.
//!
//! Sources: D. Karger et al., Consistent Hashing and Random Trees, STOC 1997; V. Mirrokni, M. Thorup, M.
//! Zadimoghaddam, Consistent Hashing with Bounded Loads, 2016 (arXiv:1608.01350); for the choice of hash
//! docs/internals/decisions/0004-hash.md.

mod latest;
mod zones;

pub(crate) use latest::LatestPlacement;

pub use crate::configuration::ReplicaSet;

use crate::configuration::DIRECTORY_GROUP;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;
use xxhash_rust::xxh3::xxh3_64;
use zones::Zones;

/// The number of shards of a site whose settings don't give one.
pub const DEFAULT_SHARDS: u16 = 64;

/// The most shards of a site.
pub const MAX_SHARDS: u16 = 1024;

/// The number of replicas of a shard unless the settings give another.
pub const DEFAULT_REPLICAS: usize = 3;

/// The most replicas of a shard.
pub const MAX_REPLICAS: usize = 5;

/// The most gateways of a site.
pub const MAX_GATEWAYS: usize = 64;

/// The greatest weight of a gateway.
pub const MAX_WEIGHT: u32 = 64;

/// How many points on the circle a gateway of weight 1 has.
pub const POINTS_PER_WEIGHT: u32 = 128;

/// How far above its share a gateway may be loaded, in tenths of the share: 11/10.
const LOAD_BOUND_TENTHS: u128 = 11;

/// A gateway that takes part in the placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub id: GatewayId,
    /// Its share of the shards relative to the others'; 1 to [`MAX_WEIGHT`].
    pub weight: u32,
}

/// Why the shards can't be placed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The number of shards is out of bounds.
    #[error(
        "{0} shards: a site has 1 to {MAX_SHARDS}, {DEFAULT_SHARDS} unless there is a reason for another number"
    )]
    Shards(u16),
    /// The number of replicas is even or out of bounds.
    #[error("{0} replicas: an odd number of 1 to {MAX_REPLICAS} is needed, so that one half is a majority")]
    Replicas(usize),
    /// The list of members is empty.
    #[error("no gateway: a ring needs at least one")]
    NoGateway,
    /// The site has more than [`MAX_GATEWAYS`] members.
    #[error("{0} gateways: a site has at most {MAX_GATEWAYS}")]
    TooManyGateways(usize),
    /// Two members have the same id.
    #[error("gateway {0} is named twice: give every gateway a number of its own")]
    Duplicate(GatewayId),
    /// A member's weight is out of bounds.
    #[error(
        "gateway {id} has weight {weight}: weights are 1 to {MAX_WEIGHT}; to take a gateway out of the ring, remove it from the list"
    )]
    Weight { id: GatewayId, weight: u32 },
}

/// The placement of a site's shards on its gateways. Look-ups allocate nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    replication: usize,
    shards: Vec<ReplicaSet>,
    directory: ReplicaSet,
}

impl Ring {
    /// Places `shards` shards on `members`, each on `replicas` of them. With fewer members, each goes on the
    /// greatest odd number of members that exists (of 2 gateways on 1, of 4 on 3).
    ///
    /// # Errors
    /// Returns the bound that is broken, and the gateway that breaks it.
    pub fn new(shards: u16, members: &[Member], replicas: usize) -> Result<Self, RingError> {
        Self::zoned(shards, members, &BTreeMap::new(), replicas)
    }

    /// As [`Ring::new`], for gateways that stand in zones. One that `zones` does not name stands alone.
    ///
    /// # Errors
    /// As [`Ring::new`].
    pub fn zoned(
        shards: u16,
        members: &[Member],
        zones: &BTreeMap<GatewayId, String>,
        replicas: usize,
    ) -> Result<Self, RingError> {
        if shards == 0 || shards > MAX_SHARDS {
            return Err(RingError::Shards(shards));
        }
        if replicas.is_multiple_of(2) || replicas > MAX_REPLICAS {
            return Err(RingError::Replicas(replicas));
        }
        if members.is_empty() {
            return Err(RingError::NoGateway);
        }
        if members.len() > MAX_GATEWAYS {
            return Err(RingError::TooManyGateways(members.len()));
        }
        if let Some(m) = members.iter().find(|m| m.weight == 0 || m.weight > MAX_WEIGHT) {
            return Err(RingError::Weight { id: m.id, weight: m.weight });
        }
        let mut members = members.to_vec();
        members.sort_unstable_by_key(|m| m.id);
        if let Some(pair) = members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(RingError::Duplicate(pair[0].id));
        }
        let replication = replicas.min(members.len() - usize::from(members.len().is_multiple_of(2)));

        let zones = Zones::new(&members, zones, replication);
        let mut placing = Placing::new(usize::from(shards), &members, replication, zones);
        placing.walk(&Circle::new(&members));
        placing.fill_up();
        placing.lead();
        let ids = |set: &Vec<usize>| ReplicaSet::first(set.iter().map(|m| members[*m].id).collect());
        let voters = MAX_REPLICAS.min(members.len() - usize::from(members.len().is_multiple_of(2)));
        let directory = ReplicaSet::first(members.iter().take(voters).map(|m| m.id).collect());
        Ok(Self { replication, shards: placing.sets.iter().map(ids).collect(), directory })
    }

    /// The same ring with these replica sets in place of its own. A set of no gateway or of more than [`selvedge_paxos::MAX_MEMBERS`],
    /// or of a shard that the site does not have, is left out.
    pub fn placed(&self, sets: impl IntoIterator<Item = (ShardId, ReplicaSet)>) -> Self {
        let mut placed = self.clone();
        for (shard, set) in sets.into_iter().filter(|(_, set)| set.is_sound()) {
            let place = match shard {
                DIRECTORY_GROUP => Some(&mut placed.directory),
                ShardId(n) => placed.shards.get_mut(usize::from(n)),
            };
            if let Some(place) = place {
                *place = set;
            }
        }
        placed
    }

    /// The shard that holds everything of this device.
    pub fn shard_of(&self, device: &str) -> ShardId {
        shard_of(device, self.shards())
    }

    /// The gateways that hold a shard or the directory group, distinct, the preferred leader first. Empty for a shard
    /// that the site does not have.
    pub fn replicas(&self, shard: ShardId) -> &[GatewayId] {
        self.set(shard).map_or(&[], |set| &set.members)
    }

    fn set(&self, shard: ShardId) -> Option<&ReplicaSet> {
        match shard {
            DIRECTORY_GROUP => Some(&self.directory),
            ShardId(n) => self.shards.get(usize::from(n)),
        }
    }

    /// The number of shards. The directory group does not count.
    pub fn shards(&self) -> u16 {
        self.shards.len() as u16 // at most MAX_SHARDS
    }

    /// How many replicas the ring gives every shard.
    pub fn replication(&self) -> usize {
        self.replication
    }

    /// The shards that a gateway holds, in order. The directory group does not count.
    pub fn shards_of(&self, gateway: GatewayId) -> impl Iterator<Item = ShardId> + '_ {
        (0..self.shards()).map(ShardId).filter(move |s| self.replicas(*s).contains(&gateway))
    }
}

/// The shard of a device in a site of `shards` (at least 1) shards: the one of that many equal slices of the 64-bit
/// hash space in which the XXH3 hash of the device's name lies.
pub fn shard_of(device: &str, shards: u16) -> ShardId {
    let scaled = u128::from(xxh3_64(device.as_bytes())) * u128::from(shards);
    ShardId((scaled >> 64) as u16) // below `shards`, for the hash is below 2^64
}

/// The circle of 2^64 positions with all points of all members, in order.
struct Circle(Vec<(u64, usize)>);

impl Circle {
    /// A member's points depend only on its number and weight, so they stay where they are when others come and go,
    /// and more weight only adds points.
    fn new(members: &[Member]) -> Self {
        let mut points = Vec::new();
        for (m, member) in members.iter().enumerate() {
            for n in 0..member.weight * POINTS_PER_WEIGHT {
                points.push((position(b'g', u32::from(member.id.0), n), m));
            }
        }
        points.sort_unstable();
        Self(points)
    }

    /// All members, in the order in which a shard meets them clockwise from its own point.
    fn from(&self, shard: usize, members: usize) -> Vec<usize> {
        let start = self.0.partition_point(|(at, _)| *at < position(b's', shard as u32, 0));
        let mut met = Vec::with_capacity(members);
        let mut seen = [false; MAX_GATEWAYS];
        for (_, m) in self.0[start..].iter().chain(&self.0[..start]) {
            if !std::mem::replace(&mut seen[*m], true) {
                met.push(*m);
                if met.len() == members {
                    break;
                }
            }
        }
        met
    }
}

/// The position on the circle of a gateway's or a shard's n-th point.
fn position(kind: u8, id: u32, n: u32) -> u64 {
    let mut key = [kind, 0, 0, 0, 0, 0, 0, 0, 0];
    key[1..5].copy_from_slice(&id.to_le_bytes());
    key[5..9].copy_from_slice(&n.to_le_bytes());
    xxh3_64(&key)
}

/// Shards while they are being placed. Members go by their index in the order of their ids.
struct Placing {
    replication: usize,
    /// The members of each shard.
    sets: Vec<Vec<usize>>,
    /// How many replicas each member has; `load_cap` says how many it may have.
    load: Vec<usize>,
    load_cap: Vec<usize>,
    /// How many shards each member may lead.
    lead_cap: Vec<usize>,
    /// If they bound anything.
    zones: Option<Zones>,
}

impl Placing {
    fn new(shards: usize, members: &[Member], replication: usize, zones: Option<Zones>) -> Self {
        let weights: Vec<u32> = members.iter().map(|m| m.weight).collect();
        Self {
            replication,
            sets: vec![Vec::with_capacity(replication); shards],
            load: vec![0; members.len()],
            load_cap: match &zones {
                Some(zones) => zones.caps(shards, replication, &weights),
                None => caps(shards, replication, &weights),
            },
            lead_cap: caps(shards, 1, &weights),
            zones,
        }
    }

    /// Whether the zones let a shard take `comes` after `leaves` has gone.
    fn zones_allow(&self, shard: usize, leaves: Option<usize>, comes: usize) -> bool {
        self.zones.as_ref().is_none_or(|zones| zones.allow(&self.sets[shard], leaves, comes))
    }

    /// Each shard in turn takes the first members on its walk that have room.
    fn walk(&mut self, circle: &Circle) {
        for shard in 0..self.sets.len() {
            for m in circle.from(shard, self.load.len()) {
                let room = self.load[m] < self.load_cap[m] && self.zones_allow(shard, None, m);
                if room && self.sets[shard].len() < self.replication {
                    self.sets[shard].push(m);
                    self.load[m] += 1;
                }
            }
        }
    }

    /// Completes the shards that found too few members with room.
    ///
    /// Some member has room, since the caps sum to at least all replicas. If the short shard holds that member
    /// already, then another shard does not (a cap is at most the number of shards). If that other shard is short
    /// too, it takes the member. Otherwise it has at least two members that the short shard lacks, and gives one of
    /// them to the short shard in exchange.
    fn fill_up(&mut self) {
        if let Some(zones) = self.zones.take() {
            let short = |placing: &Self| placing.sets.iter().position(|set| set.len() < placing.replication);
            while short(self).is_some_and(|short| zones.augment(self, short)) {}
            self.zones = Some(zones);
        }
        while let Some(short) = self.sets.iter().position(|set| set.len() < self.replication) {
            let Some(roomy) = (0..self.load.len())
                .filter(|m| self.load[*m] < self.load_cap[*m])
                .min_by_key(|m| (self.sets[short].contains(m), *m))
            else {
                break;
            };
            self.load[roomy] += 1;
            if !self.sets[short].contains(&roomy) {
                self.sets[short].push(roomy);
                continue;
            }
            let Some(other) = (0..self.sets.len()).find(|t| !self.sets[*t].contains(&roomy)) else { break };
            let given = self.sets[other].iter().rposition(|m| !self.sets[short].contains(m));
            match given {
                Some(at) if self.sets[other].len() == self.replication => {
                    let m = std::mem::replace(&mut self.sets[other][at], roomy);
                    self.sets[short].push(m);
                }
                _ => self.sets[other].push(roomy), // short as well
            }
        }
    }

    /// Puts each shard's preferred leader first.
    ///
    /// A shard takes the first of its members that leads fewer shards than it may. If there is none, shards pass
    /// their lead on to another of their members along a chain that ends at one with room (an augmenting path). If
    /// there is no chain either, some member outside has room to lead, since these caps sum to at least all shards.
    /// It joins the shard; if it has no room for another replica, it does so in exchange for its place in a shard
    /// that it does not lead (there is one: it may hold at least as many replicas as it may lead, and it leads
    /// fewer).
    fn lead(&mut self) {
        let mut leader: Vec<Option<usize>> = vec![None; self.sets.len()];
        let mut leads = vec![0usize; self.load.len()];
        for shard in 0..self.sets.len() {
            if let Some(end) = self.pass_leads_on(shard, &mut leader, &leads) {
                leads[end] += 1;
                continue;
            }
            let outside: Vec<usize> = (0..leads.len()).filter(|m| leads[*m] < self.lead_cap[*m]).collect();
            let joined = outside.into_iter().find(|m| self.join(shard, *m, &leader));
            let above = |m: &usize| leads[*m].saturating_sub(self.lead_cap[*m]);
            let Some(led_by) = joined.or_else(|| self.sets[shard].iter().copied().min_by_key(above)) else {
                break;
            };
            leader[shard] = Some(led_by);
            leads[led_by] += 1;
        }
        for (set, leader) in self.sets.iter_mut().zip(leader) {
            if let Some(at) = set.iter().position(|m| Some(*m) == leader) {
                set[..=at].rotate_right(1);
            }
        }
    }

    /// Finds the shortest chain that gives `shard` a leader, and performs it. Returns the member that leads one
    /// shard more.
    fn pass_leads_on(&self, shard: usize, leader: &mut [Option<usize>], leads: &[usize]) -> Option<usize> {
        // For each member reached: the shard that it would lead.
        let mut takes: Vec<Option<usize>> = vec![None; leads.len()];
        let mut reached = Vec::new();
        for &m in &self.sets[shard] {
            takes[m] = Some(shard);
            reached.push(m);
        }
        let mut next = 0;
        while let Some(&m) = reached.get(next) {
            next += 1;
            if leads[m] < self.lead_cap[m] {
                let mut hand = Some(m);
                while let Some(to) = hand {
                    let of = takes[to]?;
                    hand = leader[of].replace(to);
                }
                return Some(m);
            }
            for led in (0..self.sets.len()).filter(|t| leader[*t] == Some(m)) {
                for &other in &self.sets[led] {
                    if takes[other].is_none() {
                        takes[other] = Some(led);
                        reached.push(other);
                    }
                }
            }
        }
        None
    }

    /// Makes `outside`, which does not hold `shard`, one of its members. Returns whether the zones allow it.
    fn join(&mut self, shard: usize, outside: usize, leader: &[Option<usize>]) -> bool {
        if self.load[outside] < self.load_cap[outside] {
            let last = self.sets[shard].iter().rposition(|m| self.zones_allow(shard, Some(*m), outside));
            if let Some(last) = last {
                let gone = std::mem::replace(&mut self.sets[shard][last], outside);
                self.load[gone] -= 1;
                self.load[outside] += 1;
            }
            return last.is_some();
        }
        for (other, leads) in leader.iter().enumerate() {
            let there = self.sets[other].iter().position(|m| *m == outside);
            let here = self.sets[shard].iter().rposition(|m| {
                let allowed = self.zones_allow(other, Some(outside), *m);
                allowed && !self.sets[other].contains(m) && self.zones_allow(shard, Some(*m), outside)
            });
            if let (Some(there), Some(here)) = (there, here)
                && *leads != Some(outside)
            {
                self.sets[other][there] = self.sets[shard][here];
                self.sets[shard][here] = outside;
                return true;
            }
        }
        false
    }
}

/// How many of `shards` x `each` places each member may take: 1.1 times its weighted share, rounded up. A share is
/// at most one place in every shard; the others share what exceeds that.
fn caps(shards: usize, each: usize, weights: &[u32]) -> Vec<usize> {
    let mut full = vec![false; weights.len()];
    loop {
        let taken = full.iter().filter(|f| **f).count();
        let left = (shards * each.saturating_sub(taken)) as u128;
        let weight: u128 = weights.iter().zip(&full).filter(|(_, f)| !**f).map(|(w, _)| u128::from(*w)).sum();
        let over = |m: usize| left * u128::from(weights[m]) > shards as u128 * weight;
        let more: Vec<usize> = (0..weights.len()).filter(|m| !full[*m] && over(*m)).collect();
        if more.is_empty() {
            let cap = |m: usize| {
                let bound = (LOAD_BOUND_TENTHS * left * u128::from(weights[m])).div_ceil(10 * weight.max(1));
                if full[m] { shards } else { shards.min(bound as usize) }
            };
            return (0..weights.len()).map(cap).collect();
        }
        more.into_iter().for_each(|m| full[m] = true);
    }
}
