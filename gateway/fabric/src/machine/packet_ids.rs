//! Packet ids: which publishes of persistent sessions a shard has accepted.
//!
//! - QoS 1: (packet id, hash) of every publish that the client may still send again, in the order of arrival.
//!   A publish is a resend if it is marked as one (DUP) and its hash equals that of the latest publish with
//!   its packet id.
//! - QoS 2: the packet ids that were received and not yet released. A publish with one of these ids is a
//!   resend.
//! - A higher instance of the client's session forgets both. An item with a lower instance or epoch is stale.
//!
//! # What a client may still send again
//! A client handles acknowledgements in the order of its publishes (MQTT 3.1.1 and 5.0, section 4.6). So the
//! publishes that it has not seen acknowledged are the last ones that it sent. With MQTT 3, whose clients do
//! not announce a window, these may be 65,535. The shard forgets earlier publishes when the client shows that
//! it has moved on:
//! - It uses a packet id again. Then it has seen the acknowledgement of the earlier publish with that id, and
//!   of all publishes before it. (Wills have packet id 0, which no client uses, and prove nothing.)
//! - It publishes [`FORGET_AFTER_S`] later. A client that reads nothing for that long has stopped publishing
//!   because its window is full, or its connection is cut. The last [`KEPT_ENTRIES`] publishes are kept
//!   nevertheless.
//!
//! The passing of time alone makes the shard forget nothing: a client that was cut off may return after days
//! and send everything again that is unacknowledged. The memory this takes is eight bytes for each publish
//! that is unacknowledged or arrived within the last half minute.
//!
//! # Limits
//! A QoS 1 publish that never arrived, and is resent with the packet id and the bytes of an acknowledged one,
//! looks like a resend of that one. A shard does not know which clients are still connected, so at the bound
//! of clients it forgets the one not heard from for longest; a resend from that client would count again.

use super::applied::Applied;
use super::command::{Item, Source};
use super::fullness::Fullness;
use super::outcomes::ItemOutcome;
use super::rules::CountingRules;
use super::snapshot::{MAX_COUNT, Reader, RestoreError, Writer, inconsistent};
use super::table::{Moment, Table};
use bincode::{Decode, Encode};
use selvedge_types::canary::{self, Canary};
use selvedge_types::time::ElapsedMs;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

/// The packet id of wills. A new will does not show what its client has seen acknowledged.
const WILL_PACKET_ID: u16 = 0;

/// How many QoS 1 publishes of a client are remembered: as many as there are packet ids.
pub const MAX_INFLIGHT_ENTRIES: usize = 65_535;
/// The last publishes of a client, which are remembered however long ago they arrived.
pub const KEPT_ENTRIES: usize = 256;
/// Earlier publishes are forgotten when the client publishes this many seconds later.
pub const FORGET_AFTER_S: u64 = 30;
/// How far from either end of the list an earlier use of a packet id is searched. Further in, there is none
/// unless a client assigns ids out of order.
const SEARCH_ENTRIES: usize = 256;
/// The most QoS 2 publishes of a client that are received and not released.
pub const MAX_UNRELEASED_ENTRIES: usize = 1_024;

/// How a publish relates to those that its client sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KnownPublish {
    New,
    Duplicate,
    Stale,
    /// The client has [`MAX_UNRELEASED_ENTRIES`] unreleased publishes.
    Full,
}

/// The remembered publishes of one client, and the session that they belong to.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) struct KnownClient {
    instance: u64,
    epoch: u64,
    /// The value of [`PacketIds::uses`] when the client was last heard from.
    used: u64,
    /// Publishes of QoS 1, the latest last. An entry holds the packet id (16 bits), the second of arrival (16
    /// bits) and the upper half of the hash (32 bits).
    open: VecDeque<u64>,
    /// Packet ids of QoS 2 in ascending order.
    unreleased: Vec<u16>,
}

/// All clients. The hash map is only used for lookups. The order of use is updated lazily: an entry may stand
/// for an earlier use than the client's last one, and is moved when it comes first.
#[derive(Debug, Default)]
pub(super) struct PacketIds {
    by_name: HashMap<Arc<str>, KnownClient>,
    order: BTreeMap<u64, Arc<str>>,
    uses: u64,
}

impl PacketIds {
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Checks the source of a publish. The caller passes a new one to [`PacketIds::note`] once its readings
    /// are counted. `most` bounds the clients; `forgotten` counts those that had to go.
    pub fn meet(&mut self, source: &Source, most: u32, forgotten: &mut u64) -> KnownPublish {
        if !self.by_name.contains_key(source.client.as_str()) {
            self.make_room(most, forgotten);
            let name: Arc<str> = source.client.as_str().into();
            self.order.insert(self.uses, name.clone());
            let (instance, epoch) = (source.instance, source.epoch);
            let used = self.uses;
            self.by_name.insert(
                name,
                KnownClient { instance, epoch, used, open: VecDeque::new(), unreleased: Vec::new() },
            );
        }
        let uses = &mut self.uses;
        let Some(client) = self.by_name.get_mut(source.client.as_str()) else { return KnownPublish::Stale };
        if !client.admit(source) {
            return KnownPublish::Stale;
        }
        client.used = *uses;
        *uses += 1;
        if source.qos == 2 {
            match client.unreleased.binary_search(&source.packet_id) {
                Ok(_) => KnownPublish::Duplicate,
                Err(_) if client.unreleased.len() >= MAX_UNRELEASED_ENTRIES => KnownPublish::Full,
                Err(_) => KnownPublish::New,
            }
        } else if source.dup && client.has_open(source) {
            KnownPublish::Duplicate
        } else {
            KnownPublish::New
        }
    }

    /// Remembers a publish that [`PacketIds::meet`] found to be new.
    pub fn note(&mut self, source: &Source, now: ElapsedMs) {
        let Some(client) = self.by_name.get_mut(source.client.as_str()) else { return };
        if source.qos == 2 {
            if let Err(at) = client.unreleased.binary_search(&source.packet_id) {
                client.unreleased.insert(at, source.packet_id);
            }
        } else {
            client.open(source, now);
        }
    }

    /// Handles PUBREL. Returns false if it is stale.
    pub fn release(&mut self, source: &Source) -> bool {
        let Some(client) = self.by_name.get_mut(source.client.as_str()) else { return true };
        if !client.admit(source) {
            return false;
        }
        client.used = self.uses;
        self.uses += 1;
        if let Ok(at) = client.unreleased.binary_search(&source.packet_id) {
            client.unreleased.remove(at);
        }
        true
    }

    fn make_room(&mut self, most: u32, forgotten: &mut u64) {
        while self.by_name.len() >= most as usize {
            let Some((at, name)) = self.order.pop_first() else { return };
            match self.by_name.get(&name) {
                Some(client) if client.used != at => {
                    self.order.insert(client.used, name);
                }
                _ => {
                    self.by_name.remove(&name);
                    *forgotten += 1;
                }
            }
        }
    }
}

impl Table for PacketIds {
    fn apply(&mut self, item: &Item, _: &Moment, _: &mut Applied) -> Option<ItemOutcome> {
        match item {
            Item::Release(source) if self.release(source) => Some(ItemOutcome::Done),
            Item::Release(_) => Some(ItemOutcome::Stale),
            _ => None,
        }
    }

    /// How often clients were heard from, and all clients in the order of their last use.
    fn snapshot(&self, to: &mut Writer) {
        let mut all: Vec<_> = self.by_name.iter().map(|(name, client)| (&**name, client)).collect();
        all.sort_unstable_by_key(|(_, client)| client.used);
        to.put((self.uses, all));
    }

    fn restore(&mut self, from: &mut Reader<'_>, _: &Moment) -> Result<(), RestoreError> {
        let (uses, all): (u64, Vec<(String, KnownClient)>) = from.take("clients")?;
        if uses > MAX_COUNT {
            return Err(inconsistent("counts"));
        }
        self.uses = uses;
        let count = all.len();
        for (name, client) in all {
            let ordered = client.unreleased.windows(2).all(|w| w[0] < w[1]);
            if !ordered || client.open.len() > MAX_INFLIGHT_ENTRIES || client.used >= uses {
                return Err(inconsistent("clients"));
            }
            let name: Arc<str> = name.into();
            self.order.insert(client.used, name.clone());
            self.by_name.insert(name, client);
        }
        match self.order.len() == count && self.by_name.len() == count {
            true => Ok(()),
            false => Err(inconsistent("clients")),
        }
    }

    fn fullness(&self, rules: &CountingRules) -> Vec<Fullness> {
        const ADVICE: &str = "at the bound, the site forgets the client that was silent longest, and counts what that resends again; \
                              raise the rule";
        vec![Fullness::new("max_clients", self.len(), rules.max_clients, ADVICE)]
    }
}

impl KnownClient {
    /// Whether `source` has the latest known instance and epoch, or higher ones, which are then the latest.
    fn admit(&mut self, source: &Source) -> bool {
        let stale = (source.instance, source.epoch) < (self.instance, self.epoch);
        if stale && !canary::makes(Canary::StaleEpochCounts) {
            return false;
        }
        if source.instance > self.instance {
            self.instance = source.instance;
            self.open = VecDeque::new();
            self.unreleased = Vec::new();
        }
        self.epoch = source.epoch;
        true
    }

    /// Whether the latest publish with this packet id has the same hash.
    fn has_open(&self, source: &Source) -> bool {
        let latest = self.open.iter().rev().find(|e| of_id(**e, source.packet_id));
        latest.is_some_and(|e| *e as u32 == (source.hash >> 32) as u32)
    }

    /// Remembers a QoS 1 publish, and forgets those that the client can no longer send again.
    fn open(&mut self, source: &Source, now: ElapsedMs) {
        let second = seconds(now);
        let len = self.open.len();
        let near = (0..len.min(SEARCH_ENTRIES)).flat_map(|i| [len - 1 - i, i]);
        if let Some(at) = { near }.find(|at| self.open.get(*at).is_some_and(|e| of_id(*e, source.packet_id)))
        {
            match source.packet_id {
                WILL_PACKET_ID => drop(self.open.remove(at)),
                _ => drop(self.open.drain(..=at)),
            }
        }
        let old = |e: &u64| u64::from(second.wrapping_sub((*e >> 32) as u16)) > FORGET_AFTER_S;
        let most = if canary::makes(Canary::FewPacketIds) { KEPT_ENTRIES } else { MAX_INFLIGHT_ENTRIES };
        while self.open.len() >= most
            || (self.open.len() >= KEPT_ENTRIES && self.open.front().is_some_and(old))
        {
            self.open.pop_front();
        }
        if self.open.capacity() > KEPT_ENTRIES && self.open.capacity() / 4 > self.open.len() {
            self.open.shrink_to(self.open.len() * 2);
        }
        let id = u64::from(source.packet_id) << 48;
        self.open.push_back(id | u64::from(second) << 32 | source.hash >> 32);
    }
}

fn of_id(entry: u64, packet_id: u16) -> bool {
    entry >> 48 == u64::from(packet_id)
}

/// The second modulo 2^16. An entry that therefore looks newer than it is stays longer, which does no harm.
fn seconds(now: ElapsedMs) -> u16 {
    (now.0 / 1_000) as u16
}
