//! Packet ids: which publishes of persistent sessions a shard has taken in.
//!
//! - QoS 1: the last [`MAX_INFLIGHT_ENTRIES`] (packet id, hash). A publish that says it may be a resend, and has
//!   the id and the hash of the latest one of that id, is one.
//! - QoS 2: the packet ids that were received and not yet released. One of them again is a resend.
//! - A higher instance of the client's session forgets both; what comes from a lower instance or a
//!   lower epoch is stale.
//!
//! Limit: a QoS 1 publish that never arrived, resent with the id and the bytes of an acknowledged
//! one, looks like a resend of that. A shard can't know which clients are still connected, so at the
//! bound of clients the one unheard of for longest is forgotten, and a resend of his would count again.

use super::command::Source;
use bincode::{Decode, Encode};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// How many QoS 1 publishes of a client are remembered.
pub const MAX_INFLIGHT_ENTRIES: usize = 256;
/// The most QoS 2 publishes of a client that are received and not released.
pub const MAX_UNRELEASED_ENTRIES: usize = 1_024;

/// What is known of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    New,
    Duplicate,
    Stale,
    /// Too many are unreleased.
    Full,
}

/// What is known of one client.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) struct Client {
    instance: u64,
    epoch: u64,
    /// When it was last heard of, on the shard's count of uses.
    used: u64,
    /// Packet id (16 bits) and the upper 48 bits of the hash, the oldest at `next` once it is full.
    ring: Vec<u64>,
    next: u16,
    /// In order.
    unreleased: Vec<u16>,
}

/// All clients. The hash map is only looked up; the order of use is kept lazily: an entry may name an
/// earlier use than the client's last, and is moved when it comes first.
#[derive(Debug, Default)]
pub(super) struct Clients {
    by_name: HashMap<Arc<str>, Client>,
    order: BTreeMap<u64, Arc<str>>,
    uses: u64,
}

impl Clients {
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Meets a publish's source. One that is new is to be noted with [`Clients::note`] once its readings are counted.
    pub fn meet(&mut self, source: &Source, most: u32, forgotten: &mut u64) -> Known {
        if !self.by_name.contains_key(source.client.as_str()) {
            self.make_room(most, forgotten);
            let name: Arc<str> = source.client.as_str().into();
            self.order.insert(self.uses, name.clone());
            let (instance, epoch) = (source.instance, source.epoch);
            let used = self.uses;
            self.by_name.insert(
                name,
                Client { instance, epoch, used, ring: Vec::new(), next: 0, unreleased: Vec::new() },
            );
        }
        let uses = &mut self.uses;
        let Some(client) = self.by_name.get_mut(source.client.as_str()) else { return Known::Stale };
        if !client.admit(source) {
            return Known::Stale;
        }
        client.used = *uses;
        *uses += 1;
        if source.qos == 2 {
            match client.unreleased.binary_search(&source.packet_id) {
                Ok(_) => Known::Duplicate,
                Err(_) if client.unreleased.len() >= MAX_UNRELEASED_ENTRIES => Known::Full,
                Err(_) => Known::New,
            }
        } else if source.dup && client.latest(source.packet_id) == Some(packed(source)) {
            Known::Duplicate
        } else {
            Known::New
        }
    }

    /// Notes a publish that [`Clients::meet`] found new.
    pub fn note(&mut self, source: &Source) {
        let Some(client) = self.by_name.get_mut(source.client.as_str()) else { return };
        if source.qos == 2 {
            if let Err(at) = client.unreleased.binary_search(&source.packet_id) {
                client.unreleased.insert(at, source.packet_id);
            }
        } else if client.ring.len() < MAX_INFLIGHT_ENTRIES {
            client.ring.push(packed(source));
        } else if let Some(oldest) = client.ring.get_mut(usize::from(client.next)) {
            *oldest = packed(source);
            client.next = (client.next + 1) % MAX_INFLIGHT_ENTRIES as u16;
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

    /// How often clients were heard of, and all clients in the order of their last use.
    pub fn image(&self) -> (u64, Vec<(&str, &Client)>) {
        let mut all: Vec<_> = self.by_name.iter().map(|(name, client)| (&**name, client)).collect();
        all.sort_unstable_by_key(|(_, client)| client.used);
        (self.uses, all)
    }

    /// From what [`Clients::image`] gave; nothing if that can't be.
    pub fn from_image(uses: u64, all: Vec<(String, Client)>) -> Option<Self> {
        let mut clients = Self { uses, ..Self::default() };
        let count = all.len();
        for (name, client) in all {
            let ordered = client.unreleased.windows(2).all(|w| w[0] < w[1]);
            let ring =
                client.ring.len() <= MAX_INFLIGHT_ENTRIES && usize::from(client.next) < MAX_INFLIGHT_ENTRIES;
            if !ordered || !ring || client.used >= uses {
                return None;
            }
            let name: Arc<str> = name.into();
            clients.order.insert(client.used, name.clone());
            clients.by_name.insert(name, client);
        }
        (clients.order.len() == count && clients.by_name.len() == count).then_some(clients)
    }
}

impl Client {
    /// Whether `source` is of the latest instance and epoch known, which it may raise.
    fn admit(&mut self, source: &Source) -> bool {
        if (source.instance, source.epoch) < (self.instance, self.epoch) {
            return false;
        }
        if source.instance > self.instance {
            self.instance = source.instance;
            self.ring = Vec::new();
            self.next = 0;
            self.unreleased = Vec::new();
        }
        self.epoch = source.epoch;
        true
    }

    /// The latest entry of a packet id.
    fn latest(&self, packet_id: u16) -> Option<u64> {
        let (newer, older) = self.ring.split_at(usize::from(self.next).min(self.ring.len()));
        let is_it = |e: &&u64| **e >> 48 == u64::from(packet_id);
        newer.iter().rev().chain(older.iter().rev()).find(is_it).copied()
    }
}

fn packed(source: &Source) -> u64 {
    u64::from(source.packet_id) << 48 | source.hash >> 16
}
