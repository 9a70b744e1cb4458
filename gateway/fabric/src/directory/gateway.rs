//! The gateways of a site, for ever: those that are there, and a tombstone for each that has gone.

use crate::ring::{MAX_GATEWAYS, MAX_WEIGHT};
use bincode::{Decode, Encode};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::ElapsedMs;
use std::collections::BTreeMap;
use std::fmt;

/// The longest address of a gateway.
pub const MAX_ADDRESS_BYTES: usize = 255;
/// The longest name of a zone.
pub const MAX_ZONE_BYTES: usize = 32;
/// How many tombstones are kept. The number of one that is dropped is not given again all the same.
pub const MAX_TOMBSTONES_ENTRIES: usize = 1024;
/// The level that every release understands.
pub const FIRST_LEVEL: u32 = 1;

/// What a gateway is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub enum GatewayRole {
    /// Holds replicas, leads, and accepts devices.
    #[default]
    Full,
    /// Votes and keeps the log, without the state. Never leads.
    Witness,
}

/// How far a gateway has come in its site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum GatewayState {
    /// It was admitted and learns the directory. It takes no place yet.
    Joining,
    /// It takes places.
    Active,
    /// Its leaders, devices and replicas leave it.
    Draining,
    /// It was removed for good: a tombstone.
    Gone,
}

impl fmt::Display for GatewayState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Joining => "joining",
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Gone => "gone",
        })
    }
}

/// Where a gateway is reached: host and port each. `mqtt` and `http` are empty until it tells them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct GatewayAddresses {
    /// By the other gateways.
    pub peer: String,
    /// By devices.
    pub mqtt: String,
    /// By operators and programs.
    pub http: String,
}

impl GatewayAddresses {
    /// Whether they can be kept and shown; `peer` is needed.
    pub(super) fn is_sound(&self) -> bool {
        let may_miss = |text: &str| text.is_empty() || is_text(text, MAX_ADDRESS_BYTES);
        is_text(&self.peer, MAX_ADDRESS_BYTES) && may_miss(&self.mqtt) && may_miss(&self.http)
    }
}

/// Whether a text from outside can be kept and shown.
pub(super) fn is_text(text: &str, most_bytes: usize) -> bool {
    (1..=most_bytes).contains(&text.len()) && !text.chars().any(char::is_control)
}

pub(super) fn is_zone(zone: Option<&str>) -> bool {
    zone.is_none_or(|zone| is_text(zone, MAX_ZONE_BYTES))
}

/// The public key by which a gateway's links are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct GatewayKey(pub [u8; 32]);

/// What the directory knows of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct GatewayRecord {
    /// Its data folder; nothing before a gateway of genesis told it.
    pub incarnation: Option<u128>,
    /// Nothing before a gateway of genesis told it.
    pub key: Option<GatewayKey>,
    /// Empty in a tombstone.
    pub addresses: GatewayAddresses,
    /// How much it takes in relation to others; 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// What it fails together with.
    pub zone: Option<String>,
    pub role: GatewayRole,
    pub state: GatewayState,
    /// The number by which the ring places it: its own, or that of the gateway that it replaces. So a replacement takes over exactly
    /// the replicas of the one before it.
    pub ring_id: GatewayId,
    /// The highest level that its release understands.
    pub level: u32,
    /// The slot that changed it last.
    pub changed: u64,
    /// The elapsed time since which it is in its state.
    pub since: ElapsedMs,
}

impl GatewayRecord {
    /// Whether it is active and holds state.
    pub fn is_active_full(&self) -> bool {
        self.state == GatewayState::Active && self.role == GatewayRole::Full
    }

    pub(super) fn enter(&mut self, state: GatewayState, now: ElapsedMs) {
        (self.state, self.since) = (state, now);
        if state == GatewayState::Gone {
            // Key and incarnation stay: neither is ever admitted again.
            (self.addresses, self.zone) = (GatewayAddresses::default(), None);
        }
    }

    fn is_sound(&self, highest: GatewayId) -> bool {
        let gone = self.state == GatewayState::Gone;
        let addresses =
            if gone { self.addresses == GatewayAddresses::default() } else { self.addresses.is_sound() };
        addresses
            && is_zone(self.zone.as_deref())
            && (1..=MAX_WEIGHT).contains(&self.weight)
            && self.ring_id <= highest
    }
}

/// All gateways, and the highest number that was ever given.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Gateways {
    pub all: BTreeMap<GatewayId, GatewayRecord>,
    pub highest: GatewayId,
}

impl Gateways {
    /// Those that are not gone.
    pub fn living(&self) -> impl Iterator<Item = (GatewayId, &GatewayRecord)> {
        self.all.iter().filter(|(_, g)| g.state != GatewayState::Gone).map(|(id, g)| (*id, g))
    }

    /// Active ones that hold state.
    pub fn active_full(&self) -> impl Iterator<Item = (GatewayId, &GatewayRecord)> {
        self.living().filter(|(_, g)| g.is_active_full())
    }

    pub fn state(&self, id: GatewayId) -> Option<GatewayState> {
        self.all.get(&id).map(|g| g.state)
    }

    /// Whether there ever was such a gateway: a tombstone may have been dropped.
    pub fn may_have_been(&self, id: GatewayId) -> bool {
        id <= self.highest
    }

    /// The number of the next gateway; nothing if all were given.
    pub fn next_id(&self) -> Option<GatewayId> {
        if canary::makes(Canary::IdUsedAgain) {
            return (1..=u16::MAX).map(GatewayId).find(|id| self.living().all(|(living, _)| living != *id));
        }
        self.highest.0.checked_add(1).map(GatewayId)
    }

    /// Another gateway that stands in the same place of the ring in this state.
    pub fn in_place_of(&self, id: GatewayId, ring_id: GatewayId, state: GatewayState) -> Option<GatewayId> {
        let same = |(other, g): &(GatewayId, &GatewayRecord)| *other != id && g.ring_id == ring_id;
        self.living().filter(same).find(|(_, g)| g.state == state).map(|(other, _)| other)
    }

    /// Drops the oldest tombstones beyond the bound, but for those that `held` says are still needed.
    pub fn drop_tombstones(&mut self, held: impl Fn(GatewayId) -> bool) {
        let tombstones: Vec<_> = self
            .all
            .iter()
            .filter(|(_, g)| g.state == GatewayState::Gone)
            .map(|(id, g)| (g.changed, *id))
            .collect();
        let Some(beyond) = tombstones.len().checked_sub(MAX_TOMBSTONES_ENTRIES).filter(|n| *n > 0) else {
            return;
        };
        let mut free: Vec<_> = tombstones.into_iter().filter(|(_, id)| !held(*id)).collect();
        free.sort_unstable();
        for (_, id) in free.into_iter().take(beyond) {
            self.all.remove(&id);
        }
    }

    /// Whether this can have come about.
    pub fn is_sound(&self, level: u32) -> bool {
        let mut places: Vec<GatewayId> =
            self.living().filter(|(_, g)| g.state == GatewayState::Active).map(|(_, g)| g.ring_id).collect();
        places.sort_unstable();
        self.living().count() <= MAX_GATEWAYS
            && self.active_full().next().is_some()
            && places.windows(2).all(|two| two[0] != two[1])
            && self.living().all(|(_, g)| g.level >= level)
            && self.all.iter().all(|(id, g)| *id <= self.highest && g.is_sound(self.highest))
    }
}
