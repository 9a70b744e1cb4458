//! Clients whose CONNECT is not answered yet, and the shards that they would wait for in vain.
//!
//! Limit: who came more than [`CONNECT_WAIT_MS`] ago is let go of; the listener bounds how many come.

use selvedge_fabric::session::CONNECT_WAIT_MS;
use selvedge_types::ids::ShardId;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

#[derive(Debug, Default)]
struct Waiting {
    /// When each came, its connection and its client id.
    queue: VecDeque<(u64, u64, String)>,
    /// The last connection of each client.
    last: HashMap<String, u64>,
}

/// Those that arrive.
#[derive(Debug, Default)]
pub struct Arriving {
    waiting: Mutex<Waiting>,
    stuck: RwLock<BTreeSet<ShardId>>,
}

impl Arriving {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client has come. Gives its connection before this one, if that came lately.
    pub fn came(&self, now_ms: u64, connection: u64, client: &str) -> Option<u64> {
        let mut waiting = self.waiting();
        waiting.queue.push_back((now_ms, connection, client.to_string()));
        if client.is_empty() {
            return None;
        }
        waiting.last.insert(client.to_string(), connection)
    }

    /// The next that has waited for too long.
    pub fn late(&self, now_ms: u64) -> Option<u64> {
        let is_late = |(since_ms, ..): &mut (u64, u64, String)| now_ms >= *since_ms + CONNECT_WAIT_MS;
        let mut waiting = self.waiting();
        let (_, connection, client) = waiting.queue.pop_front_if(is_late)?;
        if waiting.last.get(&client) == Some(&connection) {
            waiting.last.remove(&client);
        }
        Some(connection)
    }

    /// When [`Arriving::late`] has one to give, if it will.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.waiting().queue.front().map(|(since_ms, ..)| since_ms + CONNECT_WAIT_MS)
    }

    /// Which shards can't move now.
    pub fn note_stuck(&self, shards: BTreeSet<ShardId>) {
        let mut stuck = self.stuck.write().unwrap_or_else(PoisonError::into_inner);
        if *stuck != shards {
            *stuck = shards;
        }
    }

    /// Whether a shard can't move now.
    pub fn is_stuck(&self, shard: ShardId) -> bool {
        self.stuck.read().unwrap_or_else(PoisonError::into_inner).contains(&shard)
    }
}
