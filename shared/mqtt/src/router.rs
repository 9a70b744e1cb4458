//! Which connected subscribers a publish goes to.
//!
//! Filters without a wildcard are found by their whole text; the others lie in a tree of levels. A connection gets a
//! publish at most once, at the greatest QoS that its matching filters were granted, and never above the publish's.
//!
//! A subscriber at QoS 1 that reads loses nothing: what waits for it is bounded in bytes, and who publishes to it at this listener is kept back
//! when it is behind. One that does not follow all the same is told so, and closed.
//!
//! Live only: a subscriber that is not connected gets nothing. QoS 1 lasts from [`Router::route`] until the
//! connection ends; QoS 0 may be dropped when the subscriber does not follow, and is counted.

use super::MAX_CONNECTION_FILTER_ENTRIES;
use super::filters::cost_bytes;
use super::handle::{Behind, Handle, NotDelivered};
use bytes::Bytes;
use bytestring::ByteString;
use selvedge_types::mqtt::QoS;
use selvedge_types::mqtt::{Delivery, Subscription};
use selvedge_types::topic::Filter;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The most that the subscriptions of a router may take in memory, in bytes, by [`cost_bytes`].
pub const MAX_ROUTER_FILTER_BYTES: usize = 8 * 1024 * 1024;

/// A payload that is smaller than this is copied before it waits for a subscriber; a larger one makes up much of its read buffer.
const OWN_COPY_BYTES: usize = 16 * 1024;

/// The bound on subscriptions is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "too many subscriptions: at most {MAX_CONNECTION_FILTER_ENTRIES} per connection, and {MAX_ROUTER_FILTER_BYTES} bytes in all"
)]
pub struct TooManyFilters;

/// One subscriber of one filter.
#[derive(Debug, Clone, Copy)]
struct Want {
    qos: QoS,
    no_local: bool,
}

/// The subscribers of one filter, by connection.
type Wants = BTreeMap<u64, Want>;

#[derive(Debug, Default)]
struct Node {
    /// In boxes of their own, for a table has room for more than it holds.
    below: HashMap<Box<str>, Box<Node>>,
    one: Option<Box<Node>>,
    all: Wants,
    here: Wants,
}

impl Node {
    fn is_empty(&self) -> bool {
        self.below.is_empty() && self.one.is_none() && self.all.is_empty() && self.here.is_empty()
    }

    /// Filters have a bounded number of levels, and so has this recursion.
    fn wants_mut(&mut self, levels: &mut dyn Iterator<Item = &str>) -> &mut Wants {
        match levels.next() {
            None => &mut self.here,
            Some("#") => &mut self.all,
            Some("+") => self.one.get_or_insert_default().wants_mut(levels),
            Some(level) => self.below.entry(level.into()).or_default().wants_mut(levels),
        }
    }

    fn remove(&mut self, levels: &mut dyn Iterator<Item = &str>, id: u64) {
        match levels.next() {
            None => drop(self.here.remove(&id)),
            Some("#") => drop(self.all.remove(&id)),
            Some("+") => {
                if let Some(one) = &mut self.one {
                    one.remove(levels, id);
                    if one.is_empty() {
                        self.one = None;
                    }
                }
            }
            Some(level) => {
                if let Some(below) = self.below.get_mut(level) {
                    below.remove(levels, id);
                    if below.is_empty() {
                        self.below.remove(level);
                    }
                }
            }
        }
    }

    /// Calls `found` for each filter that matches the levels from here on. `first`: wildcards here are the filter's
    /// first level, which does not match `$` topics.
    fn find(&self, levels: &[&str], first: bool, found: &mut dyn FnMut(&Wants)) {
        let wild = !(first && levels.first().is_some_and(|l| l.starts_with('$')));
        if wild {
            found(&self.all);
        }
        let Some((level, rest)) = levels.split_first() else {
            return found(&self.here);
        };
        if let Some(one) = self.one.as_ref().filter(|_| wild) {
            one.find(rest, false, found);
        }
        if let Some(below) = self.below.get(*level) {
            below.find(rest, false, found);
        }
    }
}

#[derive(Debug, Default)]
struct Table {
    exact: HashMap<Filter, Wants>,
    wild: Node,
    /// How many subscribe to each filter.
    filters: BTreeMap<Filter, usize>,
    version: u64,
    total: usize,
    bytes: usize,
    connections: HashMap<u64, (Arc<Handle>, Vec<Filter>)>,
}

impl Table {
    fn add(&mut self, handle: &Arc<Handle>, subscription: &Subscription) -> Result<(), TooManyFilters> {
        let Subscription { filter, qos, no_local } = subscription;
        let id = handle.id();
        let bytes = self.bytes + cost_bytes(filter);
        let (_, held) = self.connections.entry(id).or_insert_with(|| (handle.clone(), Vec::new()));
        if !held.contains(filter) {
            if bytes > MAX_ROUTER_FILTER_BYTES || held.len() >= MAX_CONNECTION_FILTER_ENTRIES {
                return Err(TooManyFilters);
            }
            held.push(filter.clone());
            self.total += 1;
            self.bytes = bytes;
            let count = self.filters.entry(filter.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.version += 1;
            }
        }
        let wants = match filter.has_wildcard() {
            true => self.wild.wants_mut(&mut filter.as_str().split('/')),
            false => self.exact.entry(filter.clone()).or_default(),
        };
        wants.insert(id, Want { qos: *qos, no_local: *no_local });
        Ok(())
    }

    /// Takes a filter of a connection out of everything but the connection's own list.
    fn forget(&mut self, id: u64, filter: &Filter) {
        if filter.has_wildcard() {
            self.wild.remove(&mut filter.as_str().split('/'), id);
        } else if let Some(wants) = self.exact.get_mut(filter) {
            wants.remove(&id);
            if wants.is_empty() {
                self.exact.remove(filter);
            }
        }
        self.total = self.total.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(cost_bytes(filter));
        if let Some(count) = self.filters.get_mut(filter) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.filters.remove(filter);
                self.version += 1;
            }
        }
    }
}

/// How many connections [`Router::route`] reached, and whether the publisher should wait for one of them.
#[derive(Debug, Clone, Default)]
pub struct Routed {
    /// The number of connections whose queues took the publish.
    pub delivered: usize,
    /// The number of connections that could not take it: their queue was full, or they had ended.
    pub failed: usize,
    /// Set if a subscriber at QoS 1, other than the publisher, is behind: the publisher should wait for it ([`Handle::wait_for`]).
    pub behind: Option<Behind>,
}

/// Subscriptions of connected clients. For use from many threads.
#[derive(Debug, Default)]
pub struct Router {
    table: RwLock<Table>,
    dropped: AtomicU64,
}

impl Router {
    /// A router that knows no subscription yet.
    pub fn new() -> Self {
        Self::default()
    }

    // A panic while it is written would have to come from the allocator; what is there then is still a table.
    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody subscribes to a topic.
    pub fn listens(&self, topic: &str) -> bool {
        let table = self.read();
        if table.total == 0 {
            return false;
        }
        if table.exact.get(topic).is_some_and(|wants| !wants.is_empty()) {
            return true;
        }
        let levels: Vec<&str> = topic.split('/').collect();
        let mut any = false;
        table.wild.find(&levels, true, &mut |wants| any |= !wants.is_empty());
        any
    }

    /// Adds subscriptions of a connection, or replaces those with the same filter.
    ///
    /// # Errors
    /// When a bound is reached: those before it were added, so close the connection.
    pub fn subscribe(
        &self,
        handle: &Arc<Handle>,
        subscriptions: &[Subscription],
    ) -> Result<(), TooManyFilters> {
        let mut table = self.write();
        subscriptions.iter().try_for_each(|s| table.add(handle, s))
    }

    /// Takes subscriptions of a connection away.
    pub fn unsubscribe(&self, id: u64, filters: &[Filter]) {
        let mut table = self.write();
        for filter in filters {
            let Some((_, held)) = table.connections.get_mut(&id) else { return };
            if let Some(at) = held.iter().position(|f| f == filter) {
                held.swap_remove(at);
                table.forget(id, filter);
            }
        }
    }

    /// Takes everything of a connection away: when it has closed.
    pub fn disconnect(&self, id: u64) {
        let mut table = self.write();
        if let Some((_, held)) = table.connections.remove(&id) {
            for filter in &held {
                table.forget(id, filter);
            }
        }
    }

    /// Whether nobody subscribes to anything, so that routing can be spared.
    pub fn is_empty(&self) -> bool {
        self.read().total == 0
    }

    /// Gives a publish to all matching subscribers. `from` is the connection that it came from, if it came from one here. The
    /// topic must be well-formed.
    pub fn route(&self, from: Option<u64>, topic: &ByteString, payload: &Bytes, qos: QoS) -> Routed {
        let mut found: Vec<(u64, QoS)> = Vec::new();
        let mut handles: Vec<(Arc<Handle>, QoS)> = Vec::new();
        {
            let table = self.read();
            let mut add = |wants: &Wants| {
                let wanted = wants.iter().filter(|(id, want)| !(want.no_local && from == Some(**id)));
                found.extend(wanted.map(|(&id, want)| (id, want.qos)));
            };
            if let Some(wants) = table.exact.get(&**topic) {
                add(wants);
            }
            if !table.wild.is_empty() {
                let levels: Vec<&str> = topic.split('/').collect();
                table.wild.find(&levels, true, &mut add);
            }
            // The greatest QoS first, so that it is the one that stays.
            found.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
            found.dedup_by_key(|(id, _)| *id);
            let handle = |(id, qos): &(u64, QoS)| table.connections.get(id).map(|(h, _)| (h.clone(), *qos));
            handles.extend(found.iter().filter_map(handle));
        }
        let mut routed = Routed::default();
        if handles.is_empty() {
            return routed;
        }
        // A queue counts what it holds, not the read buffers that topic and payload are slices of.
        let (mut own_topic, mut own_payload) = (topic.clone(), payload.clone());
        if payload.len() < OWN_COPY_BYTES {
            own_topic = topic.to_string().into();
            own_payload = Bytes::copy_from_slice(payload);
        }
        for (handle, granted) in handles {
            let qos = qos.min(granted).min(QoS::AtLeastOnce);
            match handle.deliver(Delivery { topic: own_topic.clone(), payload: own_payload.clone(), qos }) {
                Ok(()) => {
                    routed.delivered += 1;
                    if qos != QoS::AtMostOnce && handle.behind().get() && from != Some(handle.id()) {
                        routed.behind = Some(handle.behind().clone());
                    }
                }
                Err(why) => {
                    routed.failed += 1;
                    if why == NotDelivered::Full && qos == QoS::AtMostOnce {
                        self.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
        routed
    }

    /// The filters that someone subscribes to, without repetition, and a number that changes when they do.
    pub fn filters(&self) -> (u64, Vec<Filter>) {
        let table = self.read();
        (table.version, table.filters.keys().cloned().collect())
    }

    /// The number of [`Router::filters`], alone.
    pub fn version(&self) -> u64 {
        self.read().version
    }

    /// How many QoS 0 deliveries were dropped, since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
