//! Topics of publishes that map to no stream and have no subscriber: devices publish them in vain.
//!
//! Limits: at most [`MAX_UNMAPPED_ENTRIES`] topics of [`MAX_UNMAPPED_BYTES`] together are remembered. A new topic
//! replaces the one not seen for longest; the total goes on counting all.

use bincode::{Decode, Encode};
use selvedge_types::time::EpochMs;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The most topics to remember.
pub const MAX_UNMAPPED_ENTRIES: usize = 1_024;
/// The most bytes of all remembered topics together.
pub const MAX_UNMAPPED_BYTES: usize = 64 * 1024;

/// A topic that maps to no stream and has no subscriber.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct UnmappedTopic {
    pub topic: String,
    /// How many publishes came, since the topic was last remembered anew.
    pub count: u64,
    /// The wall time when the last publish came.
    pub last: EpochMs,
    /// The length of the last publish's payload, in bytes.
    pub payload_bytes: u64,
}

/// The unmapped topics that publishes to this gateway had recently.
#[derive(Debug, Default)]
pub struct Unmapped {
    by_topic: HashMap<Arc<str>, (u64, UnmappedTopic)>,
    /// The topics by the value of `uses` at their last publish.
    order: BTreeMap<u64, Arc<str>>,
    uses: u64,
    bytes: usize,
    total: u64,
}

impl Unmapped {
    /// Counts a publish whose topic maps to no stream and has no subscriber.
    pub fn note(&mut self, topic: &str, payload_bytes: usize, now: EpochMs) {
        self.total = self.total.saturating_add(1);
        self.uses += 1;
        let payload_bytes = payload_bytes as u64;
        if let Some((used, known)) = self.by_topic.get_mut(topic) {
            known.count = known.count.saturating_add(1);
            (known.last, known.payload_bytes) = (now, payload_bytes);
            if let Some(topic) = self.order.remove(used) {
                self.order.insert(self.uses, topic);
            }
            *used = self.uses;
            return;
        }
        if topic.len() > MAX_UNMAPPED_BYTES {
            return;
        }
        while self.by_topic.len() >= MAX_UNMAPPED_ENTRIES || self.bytes + topic.len() > MAX_UNMAPPED_BYTES {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.bytes -= oldest.len();
            self.by_topic.remove(&oldest);
        }
        let name: Arc<str> = topic.into();
        self.bytes += topic.len();
        self.order.insert(self.uses, name.clone());
        let known = UnmappedTopic { topic: topic.to_string(), count: 1, last: now, payload_bytes };
        self.by_topic.insert(name, (self.uses, known));
    }

    /// The number of unmapped publishes since the start, and the remembered topics, latest first.
    pub fn list(&self) -> (u64, Vec<UnmappedTopic>) {
        let known = self.order.values().rev().filter_map(|topic| self.by_topic.get(topic));
        (self.total, known.map(|(_, known)| known.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_counted_and_bounded() {
        let mut u = Unmapped::default();
        for i in 0..3_000 {
            u.note("often", 5, EpochMs(i));
            u.note(&format!("some/{i}"), 1, EpochMs(i));
        }
        let (total, list) = u.list();
        assert_eq!((total, list.len(), u.order.len()), (6_000, MAX_UNMAPPED_ENTRIES, MAX_UNMAPPED_ENTRIES));
        assert_eq!((list[1].topic.as_str(), list[1].count, list[1].last), ("often", 3_000, EpochMs(2_999)));
        u.note(&"x".repeat(MAX_UNMAPPED_BYTES), 1, EpochMs(0));
        assert_eq!((u.list().1.len(), u.bytes), (1, MAX_UNMAPPED_BYTES), "it takes all the room");
        u.note(&"x".repeat(MAX_UNMAPPED_BYTES + 1), 1, EpochMs(0));
        assert_eq!((u.list().0, u.list().1.len()), (6_002, 1));
    }
}
