//! Server redirection (MQTT 5, section 4.11): which clients a gateway sends to other gateways of its site, and to which.
//!
//! # Protocol
//!
//! A client is sent away by reason code 0x9C (Use another server) with a Server Reference, a list of other gateways' MQTT
//! addresses, the one to try first at the front. A gateway sends clients away for two reasons:
//!
//! - **It drains.** Its connected clients leave at [`DRAIN_CLIENTS_PER_S`] ([`Redirection::due`]), those of MQTT 3 by the end of
//!   their connection, for want of another way. An MQTT 5 client that comes new is sent on at once. One of MQTT 3 is accepted,
//!   because it may know no other gateway.
//! - **It has too many of the site's clients**: more than 1.25 times its share by weight. An operator has to want this (a policy),
//!   and it concerns new MQTT 5 clients only ([`Redirection::arrives`]).
//!
//! Nobody is sent away unless another gateway can take devices: it is active and holds data, this one has a link to it, and its
//! disk is not full. To be balanced it must have said lately how many connections it has, and be below its own share.
//!
//! # Invariants
//!
//! Invariant: no client loops. One that comes back within [`SENT_AWAY_MS`] after it was sent away is accepted, and whoever was
//! accepted during a drain stays until it leaves. A client without a client id can't be recognised, so it is accepted always.
//! Invariant: nobody is sent away who can't be remembered.
//!
//! # Limits
//!
//! Limit: [`MAX_SENT_AWAY_ENTRIES`] clients are remembered, by hash. Two clients of one hash count as one, which accepts the other
//! a little too readily. A gateway that restarts has forgotten them, and sends each away once more.
//! Limit: counts of other gateways' connections are seconds old. Each client that is sent to a gateway counts there at once, so
//! that a burst does not all go to the one that was emptiest.

use crate::directory::{Directory, GatewayRole, GatewayState};
use selvedge_types::balance::{Balancer, Policy};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use xxhash_rust::xxh3::xxh3_64;

/// How many connected clients leave a draining gateway per second. Each connects anew, which is a chosen command at its shard. As
/// many as a gateway has by default (`mqtt.max_connections`) leave within [`crate::directory::DRAIN_FIRST_MS`].
pub const DRAIN_CLIENTS_PER_S: u64 = 200;
/// With fewer connections than this a gateway sends nobody away for the balance.
pub const MIN_BALANCED_ENTRIES: u64 = 16;
/// How much more than its share a gateway holds before it sends clients away, in percent of the share.
pub const SHARE_PERCENT: u64 = 125;
/// How long a client that was sent away is accepted when it comes back. Longer than a battery-powered device sleeps.
pub const SENT_AWAY_MS: u64 = 3_600_000;
/// The most clients that are remembered as sent away.
pub const MAX_SENT_AWAY_ENTRIES: usize = 65_536;
/// The most addresses in a server reference.
pub const MAX_REFERENCE_ENTRIES: usize = 8;
/// The longest server reference.
pub const MAX_REFERENCE_BYTES: usize = 1_024;
/// How long a gateway's count of its connections is believed.
pub const COUNT_FRESH_MS: u64 = 15_000;

/// One client's time at [`DRAIN_CLIENTS_PER_S`].
const CLIENT_MS: u64 = 1_000 / DRAIN_CLIENTS_PER_S;
/// The time for which the rate of a drain makes up.
const BURST_MS: u64 = 1_000;

/// Another gateway that takes devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub gateway: GatewayId,
    /// Its share of the site relative to the others.
    pub weight: u32,
    /// Where devices connect, host and port; empty if it has announced nothing that can be used.
    pub mqtt: String,
}

/// The site as one of its gateways sees it, as far as devices are concerned. By default a site of one gateway.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceSite {
    /// Whether the gateway itself is being emptied.
    pub is_draining: bool,
    /// The gateway's own weight; 0 unless it is active and holds data.
    pub weight: u32,
    /// The other gateways that take devices, in ascending order of their numbers.
    pub others: Vec<Destination>,
}

impl DeviceSite {
    /// By gateway `me`'s copy of the directory, the gateways `up` to which it has links, and those whose disks are `full`.
    pub fn of(directory: &Directory, me: GatewayId, up: &BTreeSet<GatewayId>, full: &[GatewayId]) -> Self {
        let own = directory.gateway(me);
        let others = directory
            .gateways()
            .filter(|(id, g)| *id != me && g.is_active_full() && up.contains(id) && !full.contains(id))
            .map(|(id, g)| Destination { gateway: id, weight: g.weight, mqtt: usable(&g.addresses.mqtt) });
        Self {
            is_draining: own
                .is_some_and(|g| g.state == GatewayState::Draining && g.role == GatewayRole::Full),
            weight: own.filter(|g| g.is_active_full()).map_or(0, |g| g.weight),
            others: others.collect(),
        }
    }
}

/// The address, if it can stand in a list that is separated by spaces.
fn usable(address: &str) -> String {
    if address.contains(char::is_whitespace) { String::new() } else { address.to_string() }
}

/// A client that connects.
#[derive(Debug, Clone, Copy)]
pub struct Arrival<'a> {
    /// The number of its connection: later connections have greater ones.
    pub connection: u64,
    /// Its client id; empty if it gave none.
    pub client: &'a str,
    /// Whether it speaks MQTT 5.
    pub v5: bool,
}

/// A client is to use another server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elsewhere {
    /// The servers, `host:port` separated by spaces; `None` if no other gateway has announced an address, or the client could
    /// not be told.
    pub reference: Option<String>,
}

/// Which connections of a draining gateway may be sent away now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainDue {
    /// Those with numbers up to this one.
    pub up_to: u64,
    /// How many of them.
    pub most: usize,
}

/// The progress of a drain.
#[derive(Debug)]
struct DrainState {
    /// The last connection that there was when it began.
    up_to: u64,
    /// Up to when the rate is used up.
    used_ms: u64,
}

/// What another gateway said of its connections, and those that were sent to it since.
#[derive(Debug, Clone, Copy)]
struct Count {
    connections: u64,
    at_ms: u64,
}

/// The core. Times are milliseconds of any clock that never goes back; `random` numbers are drawn for each call.
#[derive(Debug)]
pub struct Redirection {
    /// By which policy clients are balanced; `None`: not at all.
    policy: Option<Policy>,
    site: DeviceSite,
    counts: BTreeMap<GatewayId, Count>,
    balancer: Balancer,
    sent: Remembered,
    /// The greatest number of a connection so far.
    newest: u64,
    drain: Option<DrainState>,
}

impl Redirection {
    /// A redirection that sends nobody away before it knows a site. Without a policy it does so only while the gateway drains.
    pub fn new(policy: Option<Policy>) -> Self {
        Self {
            policy,
            site: DeviceSite::default(),
            counts: BTreeMap::new(),
            balancer: Balancer::default(),
            sent: Remembered::default(),
            newest: 0,
            drain: None,
        }
    }

    /// Whether clients are balanced, so that [`Redirection::counted`] has to be called again and again.
    pub fn balances(&self) -> bool {
        self.policy.is_some()
    }

    /// Takes how the site is now.
    pub fn site(&mut self, now_ms: u64, site: DeviceSite) {
        let gone: Vec<_> =
            self.counts.keys().filter(|id| !site.others.iter().any(|o| o.gateway == **id)).copied().collect();
        for id in gone {
            self.counts.remove(&id);
            self.balancer.forget(id);
        }
        match (&self.drain, site.is_draining) {
            (None, true) => self.drain = Some(DrainState { up_to: self.newest, used_ms: now_ms }),
            (Some(_), false) => self.drain = None,
            _ => {}
        }
        self.site = site;
    }

    /// Takes how many connections another gateway says that it has. Ignored of one that takes no devices.
    pub fn counted(&mut self, now_ms: u64, gateway: GatewayId, connections: u64) {
        if self.site.others.iter().any(|o| o.gateway == gateway) {
            self.counts.insert(gateway, Count { connections, at_ms: now_ms });
            self.weigh(gateway);
        }
    }

    /// A client connects while this gateway has so many connections. Returns where to send it, or `None` to accept it.
    pub fn arrives(
        &mut self,
        now_ms: u64,
        random: u64,
        arrival: Arrival<'_>,
        connections: u64,
    ) -> Option<Elsewhere> {
        self.newest = self.newest.max(arrival.connection);
        if !arrival.v5 || arrival.client.is_empty() || self.sent.has(now_ms, arrival.client) {
            return None;
        }
        let to = match self.drain {
            Some(_) => self.all(),
            None => self.below_share(now_ms, connections),
        };
        if to.is_empty() || !self.sent.note(now_ms, arrival.client) {
            return None;
        }
        Some(self.elsewhere(now_ms, random, to))
    }

    /// Which connections of this draining gateway are to be sent away now: the host passes those that are open to
    /// [`Redirection::leaves`]. `None` if there is nothing to do.
    pub fn due(&self, now_ms: u64) -> Option<DrainDue> {
        let drain = self.drain.as_ref().filter(|_| !self.site.others.is_empty())?;
        let since_ms = drain.used_ms.max(now_ms.saturating_sub(BURST_MS));
        let most = (now_ms.saturating_sub(since_ms) / CLIENT_MS) as usize;
        (most > 0).then_some(DrainDue { up_to: drain.up_to, most })
    }

    /// Sends a connected client away. `None`: it stays, because it could not be remembered.
    pub fn leaves(&mut self, now_ms: u64, random: u64, client: &str, v5: bool) -> Option<Elsewhere> {
        let to = self.all();
        // Clients of MQTT 3 are accepted whether they are remembered or not.
        if to.is_empty() || v5 && !self.sent.note(now_ms, client) {
            return None;
        }
        let drain = self.drain.as_mut()?;
        drain.used_ms = drain.used_ms.max(now_ms.saturating_sub(BURST_MS)) + CLIENT_MS;
        if !v5 {
            return Some(Elsewhere { reference: None });
        }
        Some(self.elsewhere(now_ms, random, to))
    }

    /// All other gateways that take devices.
    fn all(&self) -> Vec<GatewayId> {
        self.site.others.iter().map(|o| o.gateway).collect()
    }

    /// The gateways that hold less than their share, if this one would hold too much with one more; otherwise none.
    fn below_share(&self, now_ms: u64, connections: u64) -> Vec<GatewayId> {
        let mine = connections.saturating_add(1);
        if self.policy.is_none() || self.site.weight == 0 || mine <= MIN_BALANCED_ENTRIES {
            return Vec::new();
        }
        let fresh = |o: &Destination| {
            let count = self.counts.get(&o.gateway)?;
            let is_fresh = now_ms < count.at_ms.saturating_add(COUNT_FRESH_MS);
            is_fresh
                .then(|| (o.gateway, u128::from(o.weight), u128::from(count.connections), o.mqtt.is_empty()))
        };
        let others: Vec<_> = self.site.others.iter().filter_map(fresh).collect();
        let (mine, weight) = (u128::from(mine), u128::from(self.site.weight));
        let weights = weight + others.iter().map(|(_, weight, ..)| weight).sum::<u128>();
        let total = mine + others.iter().map(|(_, _, count, _)| count).sum::<u128>();
        // Shares are compared as products, so that nothing is rounded: share = total * weight / weights.
        if mine * weights * 100 <= total * weight * u128::from(SHARE_PERCENT) {
            return Vec::new();
        }
        let takes = |(id, weight, count, is_nowhere): (GatewayId, u128, u128, bool)| {
            (!is_nowhere && (count + 1) * weights <= total * weight).then_some(id)
        };
        others.into_iter().filter_map(takes).collect()
    }

    /// Puts the gateways into the policy's order, and counts one more client at the first.
    fn elsewhere(&mut self, now_ms: u64, random: u64, mut to: Vec<GatewayId>) -> Elsewhere {
        // Without a policy they take turns: their loads are not known then.
        let policy = self.policy.unwrap_or(Policy::RoundRobin);
        let address = |id: &GatewayId| self.site.others.iter().find(|o| o.gateway == *id).map(|o| &*o.mqtt);
        to.retain(|id| address(id).is_some_and(|address| !address.is_empty()));
        let first = self.balancer.choose(policy, &to, random, now_ms);
        let at = to.iter().position(|id| Some(*id) == first).unwrap_or(0);
        to.rotate_left(at);
        let mut reference = String::new();
        for address in to.iter().filter_map(address).take(MAX_REFERENCE_ENTRIES) {
            if reference.len() + 1 + address.len() > MAX_REFERENCE_BYTES {
                break;
            }
            if !reference.is_empty() {
                reference.push(' ');
            }
            reference.push_str(address);
        }
        if let Some(first) = first
            && let Some(count) = self.counts.get_mut(&first)
        {
            count.connections = count.connections.saturating_add(1);
            self.weigh(first);
        }
        Elsewhere { reference: Some(reference).filter(|r| !r.is_empty()) }
    }

    /// Tells the balancer a gateway's connections in relation to its weight.
    fn weigh(&mut self, gateway: GatewayId) {
        let weight = self.site.others.iter().find(|o| o.gateway == gateway).map_or(1, |o| o.weight.max(1));
        let count = self.counts.get(&gateway).map_or(0, |c| c.connections);
        let load = count.saturating_mul(u64::from(crate::ring::MAX_WEIGHT)) / u64::from(weight);
        self.balancer.reported(gateway, u32::try_from(load).unwrap_or(u32::MAX));
    }
}

/// The clients that were sent away, by hash, each for [`SENT_AWAY_MS`].
#[derive(Debug, Default)]
struct Remembered {
    clients: BTreeSet<u64>,
    /// Until when each is remembered, in ascending order.
    until_ms: VecDeque<(u64, u64)>,
}

impl Remembered {
    fn has(&mut self, now_ms: u64, client: &str) -> bool {
        self.expire(now_ms);
        self.clients.contains(&xxh3_64(client.as_bytes()))
    }

    /// Remembers a client. Returns false if there is no room.
    fn note(&mut self, now_ms: u64, client: &str) -> bool {
        self.expire(now_ms);
        let hash = xxh3_64(client.as_bytes());
        if self.clients.contains(&hash) {
            return true;
        }
        if self.clients.len() >= MAX_SENT_AWAY_ENTRIES {
            return false;
        }
        self.clients.insert(hash);
        self.until_ms.push_back((now_ms.saturating_add(SENT_AWAY_MS), hash));
        true
    }

    fn expire(&mut self, now_ms: u64) {
        while let Some((_, hash)) = self.until_ms.pop_front_if(|(until_ms, _)| *until_ms <= now_ms) {
            self.clients.remove(&hash);
        }
    }
}
