//! The records of a site's gateways, and the tombstones of those that were removed.

use crate::ring::{MAX_GATEWAYS, MAX_WEIGHT};
use bincode::{Decode, Encode};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::ElapsedMs;
use std::collections::BTreeMap;
use std::fmt;

/// The longest address (host and port) of a gateway.
pub const MAX_ADDRESS_BYTES: usize = 255;
/// The longest name of a zone.
pub const MAX_ZONE_BYTES: usize = 32;
/// How many tombstones are kept; those of gateways that still vote in a reported configuration are kept beyond that.
/// The number of a dropped tombstone is not given again either.
pub const MAX_TOMBSTONES_ENTRIES: usize = 1024;
/// The level that every release understands.
pub const FIRST_LEVEL: u32 = 1;

/// The highest level that this release understands. A release that brings new stored or sent forms raises it, and uses
/// these forms only once the directory's level has reached theirs.
pub const RELEASE_LEVEL: u32 = FIRST_LEVEL;
/// How long all gateways must have understood a higher level before the site begins it, in elapsed time: ten minutes, in
/// which an operator can still go back to the release before. Afterwards that release refuses to run in the site.
pub const LEVEL_HOLD_MS: u64 = 600_000;

/// Whether a gateway holds data, or only votes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub enum GatewayRole {
    /// Holds replicas, leads, and accepts devices.
    #[default]
    Full,
    /// Votes and keeps the log, without the state. Never leads.
    Witness,
}

/// The stage of a gateway's life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum GatewayState {
    /// Admitted, and learning the directory. The ring does not place replicas on it yet.
    Joining,
    /// The ring places replicas on it.
    Active,
    /// Its leaders, devices and replicas are moving away.
    Draining,
    /// Removed for good. The record is a tombstone.
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

/// A gateway's addresses, each host and port. `mqtt` and `http` are empty until the gateway announces them, and if
/// no other machine reaches them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct GatewayAddresses {
    /// For the links from other gateways.
    pub peer: String,
    /// For devices' MQTT connections.
    pub mqtt: String,
    /// For operators and programs.
    pub http: String,
}

impl GatewayAddresses {
    /// Whether the lengths are within [`MAX_ADDRESS_BYTES`] without control characters; only `peer` is mandatory.
    pub(super) fn is_sound(&self) -> bool {
        let may_miss = |text: &str| text.is_empty() || is_text(text, MAX_ADDRESS_BYTES);
        is_text(&self.peer, MAX_ADDRESS_BYTES) && may_miss(&self.mqtt) && may_miss(&self.http)
    }
}

/// Whether a text from outside has 1 to `most_bytes` bytes and no control characters.
pub(super) fn is_text(text: &str, most_bytes: usize) -> bool {
    (1..=most_bytes).contains(&text.len()) && !text.chars().any(char::is_control)
}

pub(super) fn is_zone(zone: Option<&str>) -> bool {
    zone.is_none_or(|zone| is_text(zone, MAX_ZONE_BYTES))
}

/// The public key by which a gateway's links are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct GatewayKey(pub [u8; 32]);

impl fmt::Display for GatewayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The directory's record of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct GatewayRecord {
    /// Identifies its data folder. `None` until a gateway of genesis announces itself.
    pub incarnation: Option<u128>,
    /// `None` until a gateway of genesis announces itself.
    pub key: Option<GatewayKey>,
    /// Empty in a tombstone.
    pub addresses: GatewayAddresses,
    /// Its share of the replicas in relation to the other gateways; 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// Gateways with the same zone name are likely to fail together. `None` if it shares no zone.
    pub zone: Option<String>,
    pub role: GatewayRole,
    pub state: GatewayState,
    /// The number by which the ring places it: its own, or the `ring_id` of the gateway that it replaces, so that the
    /// replacement takes over exactly the same replicas.
    pub ring_id: GatewayId,
    /// The highest level that its release understands.
    pub level: u32,
    /// The last slot that changed this record.
    pub changed: u64,
    /// The elapsed time at which it entered its state.
    pub since: ElapsedMs,
}

impl GatewayRecord {
    /// Whether it holds data when it is active.
    pub(super) fn is_full(&self) -> bool {
        self.role == GatewayRole::Full
    }

    /// Whether it is active and holds data.
    pub fn is_active_full(&self) -> bool {
        self.state == GatewayState::Active && self.role == GatewayRole::Full
    }

    pub(super) fn enter(&mut self, state: GatewayState, now: ElapsedMs) {
        (self.state, self.since) = (state, now);
        if state == GatewayState::Gone {
            // Key and incarnation stay, so that neither is admitted again.
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

/// All gateways and tombstones, and the highest number that was ever given.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Gateways {
    pub all: BTreeMap<GatewayId, GatewayRecord>,
    pub highest: GatewayId,
}

impl Gateways {
    /// All gateways that are not gone, ordered by number.
    pub fn living(&self) -> impl Iterator<Item = (GatewayId, &GatewayRecord)> {
        self.all.iter().filter(|(_, g)| g.state != GatewayState::Gone).map(|(id, g)| (*id, g))
    }

    /// The active gateways that hold data, ordered by number.
    pub fn active_full(&self) -> impl Iterator<Item = (GatewayId, &GatewayRecord)> {
        self.living().filter(|(_, g)| g.is_active_full())
    }

    /// The highest level that all of them understand, except those that are gone.
    pub fn common_level(&self) -> u32 {
        self.living().map(|(_, g)| g.level).min().unwrap_or(FIRST_LEVEL)
    }

    pub fn state(&self, id: GatewayId) -> Option<GatewayState> {
        self.all.get(&id).map(|g| g.state)
    }

    /// Whether this number was given at some time. The record may be missing, because its tombstone was dropped.
    pub fn may_have_been(&self, id: GatewayId) -> bool {
        id <= self.highest
    }

    /// The number for the next gateway; `None` when all numbers were given.
    pub fn next_id(&self) -> Option<GatewayId> {
        if canary::makes(Canary::IdUsedAgain) {
            return (1..=u16::MAX).map(GatewayId).find(|id| self.living().all(|(living, _)| living != *id));
        }
        self.highest.0.checked_add(1).map(GatewayId)
    }

    /// Another gateway in this state that has the same `ring_id`.
    pub fn in_place_of(&self, id: GatewayId, ring_id: GatewayId, state: GatewayState) -> Option<GatewayId> {
        let same = |(other, g): &(GatewayId, &GatewayRecord)| *other != id && g.ring_id == ring_id;
        self.living().filter(same).find(|(_, g)| g.state == state).map(|(other, _)| other)
    }

    /// Drops the oldest tombstones beyond [`MAX_TOMBSTONES_ENTRIES`], except those for which `held` returns true.
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

    /// Whether decoded gateways keep the directory's bounds and invariants.
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
