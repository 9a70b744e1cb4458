//! Packet ids: which publishes of persistent sessions a shard has taken in.
//!
//! - QoS 1: (packet id, hash) of all that the client may still send again, in the order in which they came. A publish that says
//!   it may be a resend, and has the id and the hash of the latest one of that id, is one.
//! - QoS 2: the packet ids that were received and not yet released. One of them again is a resend.
//! - A higher instance of the client's session forgets both; what comes from a lower instance or a
//!   lower epoch is stale.
//!
//! # What a client may still send again
//! A client takes acknowledgements in the order in which it published (MQTT 3.1.1 and 5.0, section 4.6), so that what it has not
//! seen acknowledged is the end of what it sent: of a client of MQTT 3 perhaps 65,535 publishes, for its window is not
//! told. The beginning is forgotten when the client shows that it has gone on:
//! - It uses a packet id again: it has the acknowledgement of the earlier publish, and so of all before. (Wills have packet id 0,
//!   which no client uses, and show nothing.)
//! - It publishes [`FORGET_AFTER_S`] later: a client that reads nothing for so long has stopped, for its window is full, or its
//!   connection is cut. The last [`KEPT_ENTRIES`] stay nevertheless.
//!
//! Nothing is forgotten by time alone: whoever is cut off comes back after days and sends again all that is open. So the memory is
//! eight bytes for each publish that is open or of the last half minute.
//!
//! Limit: a QoS 1 publish that never arrived, resent with the id and the bytes of an acknowledged
//! one, looks like a resend of that. A shard can't know which clients are still connected, so at the
//! bound of clients the one unheard of for longest is forgotten, and a resend of his would count again.

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

/// What a will has for a packet id: another will says nothing of what its client has seen acknowledged.
const WILL_PACKET_ID: u16 = 0;

/// How many QoS 1 publishes of a client are remembered: as many as there are packet ids.
pub const MAX_INFLIGHT_ENTRIES: usize = 65_535;
/// So many are remembered however long ago they came.
pub const KEPT_ENTRIES: usize = 256;
/// Others are forgotten when the client publishes so many seconds later.
pub const FORGET_AFTER_S: u64 = 30;
/// How far from both ends the earlier use of a packet id is looked for: further in there is none, but for a client that hops.
const SEARCH_ENTRIES: usize = 256;
/// The most QoS 2 publishes of a client that are received and not released.
pub const MAX_UNRELEASED_ENTRIES: usize = 1_024;

/// What is known of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KnownPublish {
    New,
    Duplicate,
    Stale,
    /// Too many are unreleased.
    Full,
}

/// What is known of one client.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) struct KnownClient {
    instance: u64,
    epoch: u64,
    /// When it was last heard of, on the shard's count of uses.
    used: u64,
    /// QoS 1, the latest last: packet id (16 bits), second in which it came (16 bits), the upper 32 bits of the hash.
    open: VecDeque<u64>,
    /// In order.
    unreleased: Vec<u16>,
}

/// All clients. The hash map is only looked up; the order of use is kept lazily: an entry may name an
/// earlier use than the client's last, and is moved when it comes first.
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

    /// Meets a publish's source. One that is new is to be noted with [`PacketIds::note`] once its readings are counted.
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

    /// Notes a publish that [`PacketIds::meet`] found new.
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

    /// PUBREL. False when it is stale.
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

    /// How often clients were heard of, and all clients in the order of their last use.
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
        const ADVICE: &str = "the client unheard of for longest is forgotten at the bound, and what it sends again counts again; \
            raise the rule";
        vec![Fullness::new("max_clients", self.len(), rules.max_clients, ADVICE)]
    }
}

impl KnownClient {
    /// Whether `source` is of the latest instance and epoch known, which it may raise.
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

    /// Whether the latest publish of that packet id was this one.
    fn has_open(&self, source: &Source) -> bool {
        let latest = self.open.iter().rev().find(|e| of_id(**e, source.packet_id));
        latest.is_some_and(|e| *e as u32 == (source.hash >> 32) as u32)
    }

    /// Notes a QoS 1 publish, and forgets what the client can't send again any more.
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

/// The second, as far as it fits: one that seems later than it was is only kept longer.
fn seconds(now: ElapsedMs) -> u16 {
    (now.0 / 1_000) as u16
}
