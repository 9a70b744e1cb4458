//! What must hold in every run.

use super::devices::Devices;
use super::gateway::Live;
use super::node::Node;
use super::world::Place;
use selvedge_gateway::logic::machine::Proposal;
use selvedge_gateway::logic::peer::QueryAnswer;
use selvedge_shared::aggregate::fingerprint;
use selvedge_shared::ids::{GatewayId, ShardId};
use selvedge_shared::uplink::StreamName;
use std::collections::BTreeMap;

/// Windows of the widest rules that were ever in force.
const WIDEST_MS: i64 = 60_000;

#[derive(Default)]
pub struct Checks {
    /// What was applied in each slot.
    chosen: BTreeMap<(ShardId, u64), Vec<u8>>,
    looked_at: BTreeMap<(GatewayId, ShardId), u64>,
    digests: BTreeMap<(ShardId, u64), u64>,
    /// How many readings of the device were settled when it was asked about.
    questions: BTreeMap<u64, usize>,
}

impl Checks {
    /// Replicas apply the same and hold the same.
    pub fn replicas(&mut self, seed: u64, live: &Live, digest: bool) {
        for (&shard, replica) in &live.replicas {
            let (group, machine) = (replica.core.group(), replica.core.machine());
            assert!(machine.slot() <= group.commit());
            let seen = self.looked_at.entry((live.me, shard)).or_default();
            for slot in *seen + 1..=machine.slot() {
                let Some(entry) = group.entry(slot) else { continue };
                let value = self.chosen.entry((shard, slot)).or_insert_with(|| entry.value.to_vec());
                assert_eq!(**value, *entry.value, "seed {seed}: {shard} slot {slot} at {}", live.me);
            }
            *seen = machine.slot();
            let mut stamp = machine.stamp();
            for slot in machine.slot() + 1..=group.last_slot() {
                let Some(entry) = group.entry(slot).filter(|_| replica.core.serves()) else { continue };
                let next = Proposal::decode(&entry.value).expect("a proposal").stamp;
                assert!(next > stamp, "seed {seed}: {shard} slot {slot} is stamped {next} after {stamp}");
                stamp = next;
            }
            if digest {
                let found = machine.digest();
                let known = *self.digests.entry((shard, machine.slot())).or_insert(found);
                assert_eq!(
                    known,
                    found,
                    "seed {seed}: {shard} differs at slot {} at {}",
                    machine.slot(),
                    live.me
                );
            }
        }
    }

    pub fn asked(&mut self, id: u64, device: &str, devices: &Devices) {
        let settled = devices
            .settled
            .iter()
            .filter(|(_, kept)| **kept)
            .map(|(t, _)| t)
            .filter(|t| devices.sent[t].name.device == device)
            .count();
        self.questions.insert(id, settled);
    }

    /// An answer knows everything that was acknowledged before it was asked for.
    pub fn answered(&mut self, seed: u64, id: u64, answer: &QueryAnswer) -> bool {
        let (QueryAnswer::Windows(windows), Some(least)) = (answer, self.questions.remove(&id)) else {
            return false;
        };
        let found: u64 = windows.iter().map(|w| w.aggregate.count).sum();
        assert!(found >= least as u64, "seed {seed}: an answer with {found} of {least} readings");
        true
    }

    pub fn at_the_end(
        &mut self,
        seed: u64,
        places: &BTreeMap<GatewayId, Place>,
        devices: &Devices,
        node: &Node,
    ) {
        for place in places.values() {
            self.replicas(seed, place.live.as_ref().expect("it is back"), true);
        }
        // A numbered reading is settled and counted, in the window of its time; a plain one at most once, and
        // once if it was settled.
        let mut wanted: BTreeMap<(StreamName, i64), (u64, u64)> = BTreeMap::new();
        for (token, sent) in devices.sent.iter().filter(|(_, s)| s.numbered) {
            if !devices.settled[token] {
                continue;
            }
            let start = sent.reading.time.map_or(0, |t| t.0.div_euclid(WIDEST_MS));
            let want = wanted.entry((sent.name.clone(), start)).or_default();
            *want = (want.0 + 1, want.1.wrapping_add(fingerprint(sent.reading.value)));
        }
        let (mut found, mut plain): (BTreeMap<_, (u64, u64)>, BTreeMap<StreamName, u64>) = Default::default();
        for ((name, start), a) in &node.windows {
            if name.stream == "n" {
                let had = found.entry((name.clone(), start.div_euclid(WIDEST_MS))).or_default();
                *had = (had.0 + a.count, had.1.wrapping_add(a.fingerprint));
            } else {
                *plain.entry(name.clone()).or_default() += a.count;
            }
        }
        assert_eq!(found, wanted, "seed {seed}");
        for (token, sent) in devices.sent.iter().filter(|(_, s)| !s.numbered) {
            let count = plain.get(&sent.name).copied().unwrap_or(0);
            let fits = match devices.settled.get(token) {
                Some(kept) => count == u64::from(*kept),
                None => count <= 1,
            };
            assert!(fits, "seed {seed}: reading {token} counted {count} times");
        }
    }
}
