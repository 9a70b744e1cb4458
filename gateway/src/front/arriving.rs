//! Clients whose CONNECT is not answered yet, and the shards for which they would wait in vain.
//!
//! Limit: a client that has waited for more than [`CONNECT_WAIT_MS`] is given up; the listener bounds how many clients
//! wait.

use selvedge_fabric::session::CONNECT_WAIT_MS;
use selvedge_types::ids::ShardId;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

#[derive(Debug, Default)]
struct Waiting {
    /// For each client in the order of arrival: when it came, its connection and its client id.
    queue: VecDeque<(u64, u64, String)>,
    /// The last connection of each client.
    last: HashMap<String, u64>,
}

/// The clients that wait, and the shards that can't make progress.
#[derive(Debug, Default)]
pub struct Arriving {
    waiting: Mutex<Waiting>,
    stuck: RwLock<BTreeSet<ShardId>>,
}

impl Arriving {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a client. Returns its previous connection, if that came recently.
    pub fn came(&self, now_ms: u64, connection: u64, client: &str) -> Option<u64> {
        let mut waiting = self.waiting();
        waiting.queue.push_back((now_ms, connection, client.to_string()));
        if client.is_empty() {
            return None;
        }
        waiting.last.insert(client.to_string(), connection)
    }

    /// Takes out the next connection that has waited for too long.
    pub fn late(&self, now_ms: u64) -> Option<u64> {
        let is_late = |(since_ms, ..): &mut (u64, u64, String)| now_ms >= *since_ms + CONNECT_WAIT_MS;
        let mut waiting = self.waiting();
        let (_, connection, client) = waiting.queue.pop_front_if(is_late)?;
        if waiting.last.get(&client) == Some(&connection) {
            waiting.last.remove(&client);
        }
        Some(connection)
    }

    /// When [`Arriving::late`] has something to return; `None` if no client waits.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.waiting().queue.front().map(|(since_ms, ..)| since_ms + CONNECT_WAIT_MS)
    }

    /// Replaces the set of shards that can't make progress at the moment.
    pub fn note_stuck(&self, shards: BTreeSet<ShardId>) {
        let mut stuck = self.stuck.write().unwrap_or_else(PoisonError::into_inner);
        if *stuck != shards {
            *stuck = shards;
        }
    }

    /// Whether a shard can't make progress at the moment.
    pub fn is_stuck(&self, shard: ShardId) -> bool {
        self.stuck.read().unwrap_or_else(PoisonError::into_inner).contains(&shard)
    }
}
