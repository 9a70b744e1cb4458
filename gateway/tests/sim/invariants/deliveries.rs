//! A subscriber that reads gets every publish that its own gateway acknowledged while it was subscribed, as long as its
//! connection lasts. Of one topic of one publisher there, it gets publishes that were sent once in the order in which
//! they were sent.

use selvedge_types::ids::GatewayId;
use selvedge_types::topic::Filter;
use std::collections::{BTreeMap, BTreeSet};

/// A publish: its topic, and its payload without padding.
type Key = (String, String);

struct Subscriber {
    at: (GatewayId, u64),
    since_ms: u64,
    filters: Vec<Filter>,
    got: BTreeSet<Key>,
    due: BTreeSet<Key>,
    /// By topic and publisher: the number of the latest publish that it got.
    latest: BTreeMap<(String, usize), u64>,
}

/// A publish that was sent: its device, its number there, and the gateway if it was sent only once.
struct Sent {
    device: usize,
    n: u64,
    once_to: Option<(GatewayId, u64)>,
}

#[derive(Default)]
pub struct Deliveries {
    /// By connection.
    subscribers: BTreeMap<u64, Subscriber>,
    sent: BTreeMap<Key, Sent>,
}

fn key(topic: &str, payload: &str) -> Key {
    // Payloads are padded with spaces, some with many.
    let end = payload.bytes().rposition(|byte| byte != b' ').map_or(0, |last| last + 1);
    (topic.to_string(), payload[..end].to_string())
}

impl Deliveries {
    /// SUBACK has come.
    pub fn subscribed(&mut self, now: u64, connection: u64, at: (GatewayId, u64), filters: &[String]) {
        let filters = filters.iter().map(|f| Filter::new(f).expect("a filter")).collect();
        let subscriber = Subscriber {
            at,
            since_ms: now,
            filters,
            got: BTreeSet::new(),
            due: BTreeSet::new(),
            latest: BTreeMap::new(),
        };
        self.subscribers.entry(connection).or_insert(subscriber);
    }

    /// The connection is over for the subscriber.
    pub fn over(&mut self, connection: u64) {
        self.subscribers.remove(&connection);
    }

    /// A device sends its publish number `n`.
    pub fn sent(&mut self, device: usize, at: (GatewayId, u64), n: u64, topic: &str, payload: &str) {
        let key = key(topic, payload);
        let once_to = (!self.sent.contains_key(&key)).then_some(at);
        self.sent.insert(key, Sent { device, n, once_to });
    }

    /// The gateway has answered a publish that was sent to it at this time.
    pub fn answered(&mut self, at: (GatewayId, u64), sent_ms: u64, topic: &str, payload: &str) {
        let wants = |s: &&mut Subscriber| {
            s.at == at && s.since_ms <= sent_ms && s.filters.iter().any(|f| f.matches(topic))
        };
        for subscriber in self.subscribers.values_mut().filter(wants) {
            let key = key(topic, payload);
            if !subscriber.got.contains(&key) {
                subscriber.due.insert(key);
            }
        }
    }

    /// A subscriber receives a publish.
    pub fn given(&mut self, connection: u64, topic: &str, payload: &str) {
        let key = key(topic, payload);
        let Some(subscriber) = self.subscribers.get_mut(&connection) else { return };
        if let Some(Sent { device, n, once_to }) = self.sent.get(&key)
            && *once_to == Some(subscriber.at)
        {
            let latest = subscriber.latest.insert((topic.to_string(), *device), *n).unwrap_or(0);
            assert!(latest < *n, "{topic}: publish {n} comes to connection {connection} behind {latest}");
        }
        subscriber.due.remove(&key);
        subscriber.got.insert(key);
    }

    /// Whether no subscriber still has to get a publish.
    pub fn is_settled(&self) -> bool {
        self.subscribers.values().all(|subscriber| subscriber.due.is_empty())
    }

    pub fn show(&self) -> String {
        let due = self.subscribers.iter().filter(|(_, s)| !s.due.is_empty());
        due.map(|(id, s)| format!("\nconnection {id} to {:?} was never given {:?}", s.at, s.due)).collect()
    }
}
