//! Rot on the disk of a running gateway is found and mended: the file is intact again, or no longer needed. While no
//! fault lasts, this takes a bounded time.

use crate::disk::SimDisk;
use crate::gateway::Place;
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;

/// The longest that this may take, in milliseconds.
const MEND_MS: u64 = 60_000;

#[derive(Default)]
pub struct Mended {
    /// Files that have rotted and are not mended yet, and since when.
    rotten: BTreeMap<(GatewayId, String), u64>,
}

impl Mended {
    pub fn rotted(&mut self, now: u64, at: GatewayId, name: String) {
        self.rotten.insert((at, name), now);
    }

    /// A gateway's process is over. Its next start finds rot of the log and of snapshots by itself, but does not read
    /// batches.
    pub fn ended(&mut self, at: GatewayId) {
        self.rotten.retain(|(of, name), _| *of != at || name.starts_with("batches"));
    }

    /// The faults are over: nothing waits for other gateways any more.
    pub fn calm(&mut self, now: u64) {
        self.rotten.values_mut().for_each(|since| *since = now);
    }

    pub fn is_sound(&self, at: GatewayId) -> bool {
        !self.rotten.keys().any(|(of, _)| *of == at)
    }

    pub fn is_over(&self) -> bool {
        self.rotten.is_empty()
    }

    pub fn check(&mut self, now: u64, calm: bool, places: &BTreeMap<GatewayId, Place>) {
        self.rotten.retain(|(at, name), _| is_rotten(&places[at].disk, name));
        if let Some(((at, name), since)) = self.rotten.iter().next().filter(|_| calm) {
            assert!(now < since + MEND_MS, "{name} of {at} has rotted and is not mended");
        }
    }
}

/// Whether a file that rotted still is rotten. The log never rewrites a segment, so a rotten one stays rotten while it
/// exists.
fn is_rotten(disk: &SimDisk, name: &str) -> bool {
    disk.has(name) && (name.starts_with("log") || disk.stored(name).is_none())
}
