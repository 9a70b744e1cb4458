//! Devices: numbered readings that are sent again until they are settled, and plain ones that are sent once.

use super::world::Random;
use selvedge_gateway::logic::forward::{Forwardable, NamedReading};
use selvedge_gateway::logic::machine::Reading;
use selvedge_shared::time::EpochMs;
use selvedge_shared::uplink::StreamName;
use std::collections::{BTreeMap, VecDeque};

/// A device without an answer goes to another gateway after this time.
pub const PATIENCE_MS: u64 = 1_500;
const INFLIGHT: usize = 4;

/// A reading of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub name: StreamName,
    pub reading: Reading,
    /// It carries its number, so it is sent until it is settled.
    pub numbered: bool,
}

impl Sent {
    pub fn item(&self) -> Forwardable {
        let named = NamedReading { name: self.name.clone(), reading: self.reading.clone() };
        Forwardable::Publish(None, vec![named])
    }
}

struct Device {
    todo: VecDeque<u64>,
    /// When each is due to be sent again.
    open: BTreeMap<u64, u64>,
    boot: u64,
    seq: u64,
}

pub struct Devices {
    list: Vec<Device>,
    /// By the number that also is the token.
    pub sent: BTreeMap<u64, Sent>,
    /// Whether it was kept; if not, it was refused.
    pub settled: BTreeMap<u64, bool>,
}

impl Devices {
    pub fn new(count: usize) -> Self {
        let device = |_| Device { todo: VecDeque::new(), open: BTreeMap::new(), boot: 1, seq: 0 };
        Self { list: (0..count).map(device).collect(), sent: BTreeMap::new(), settled: BTreeMap::new() }
    }

    /// Someone measures something.
    pub fn measure(&mut self, random: &mut Random, wall: EpochMs) {
        let token = self.sent.len() as u64 + 1;
        let d = random.below(self.list.len() as u64) as usize;
        let device = &mut self.list[d];
        let numbered = random.chance(600);
        if random.chance(20) && device.boot < 3 {
            (device.boot, device.seq) = (device.boot + 1, 0);
        }
        let stream = if numbered { "n".to_string() } else { format!("p{token}") };
        let late = if random.chance(100) { random.below(5_000) as i64 } else { 0 };
        let padding = if random.chance(200) { 200 } else { 0 };
        let name = StreamName { device: format!("device-{d}{}", "x".repeat(padding)), stream };
        let (seq, boot) = (numbered.then_some(device.seq), numbered.then_some(device.boot));
        device.seq += u64::from(numbered);
        let time = (numbered || random.chance(500)).then(|| wall.plus(-late));
        let reading = Reading { stream: 0, time, value: token as f64, seq, boot };
        self.sent.insert(token, Sent { name, reading, numbered });
        device.todo.push_back(token);
    }

    /// What is to be sent now.
    pub fn due(&mut self, now: u64) -> Vec<u64> {
        let mut due = Vec::new();
        for device in &mut self.list {
            due.extend(device.open.iter().filter(|(_, at)| **at <= now).map(|(token, _)| *token));
            while device.open.len() < INFLIGHT {
                let Some(token) = device.todo.pop_front() else { break };
                device.open.insert(token, 0);
                due.push(token);
            }
            for token in &due {
                if let Some(at) = device.open.get_mut(token) {
                    *at = now + PATIENCE_MS;
                }
            }
            // Of the plain ones the first try is all.
            device.open.retain(|token, _| self.sent[token].numbered);
        }
        due
    }

    pub fn settle(&mut self, seed: u64, token: u64, kept: bool) {
        let before = *self.settled.entry(token).or_insert(kept);
        assert_eq!(before, kept, "seed {seed}: reading {token} was both kept and refused");
        self.list.iter_mut().for_each(|d| _ = d.open.remove(&token));
    }

    pub fn deadline(&self) -> Option<u64> {
        self.list.iter().flat_map(|d| d.open.values().copied()).min()
    }

    pub fn done(&self) -> bool {
        self.list.iter().all(|d| d.open.is_empty() && d.todo.is_empty())
    }
}
