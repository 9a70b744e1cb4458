//! Packets under way outside of the connections between gateways: those of devices, the cloud and queries, and in rough
//! runs messages that gateways have read and not taken yet.

use super::plan::Weather;
use super::random::Random;
use std::collections::BTreeMap;

/// More packets than this under way means that they multiply.
pub const MAX_PACKETS: usize = 6_000;

/// Packets under way, by the time at which they arrive.
pub struct Net<P> {
    pub weather: Weather,
    under_way: BTreeMap<(u64, u64), P>,
    last_id: u64,
}

impl<P: Clone> Net<P> {
    pub fn new(weather: Weather) -> Self {
        Self { weather, under_way: BTreeMap::new(), last_id: 0 }
    }

    pub fn calm(&mut self) {
        self.weather = Weather { disk_ms: 2, ..Weather::default() };
    }

    /// Sends a packet that may be lost, doubled and reordered.
    pub fn send(&mut self, random: &mut Random, now: u64, packet: P) {
        let w = self.weather;
        let copies = 1 + u64::from(random.chance(w.doubled));
        for _ in 0..copies {
            if random.chance(w.loss) {
                continue;
            }
            let wait = 1 + random.below(8) + if random.chance(w.late) { random.below(900) } else { 0 };
            self.put(now + wait, packet.clone());
        }
    }

    /// Has a packet arrive at that time.
    pub fn put(&mut self, at: u64, packet: P) {
        self.last_id += 1;
        self.under_way.insert((at, self.last_id), packet);
    }

    pub fn next_at(&self) -> Option<u64> {
        self.under_way.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn arrived(&mut self, now: u64) -> Option<P> {
        let first = self.under_way.first_entry().filter(|e| e.key().0 <= now)?;
        Some(first.remove())
    }

    pub fn len(&self) -> usize {
        self.under_way.len()
    }
}
