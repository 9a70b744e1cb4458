//! What rots on the disk of a gateway that runs is found and mended: whole again, or not needed any more. That takes a bounded time where no
//! fault goes on.

use crate::disk::SimDisk;
use crate::gateway::Place;
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;

/// How long it may take, in milliseconds.
const MEND_MS: u64 = 60_000;

#[derive(Default)]
pub struct Mended {
    /// Files that have rotted and are not mended, and since when.
    rotten: BTreeMap<(GatewayId, String), u64>,
}

impl Mended {
    pub fn rotted(&mut self, now: u64, at: GatewayId, name: String) {
        self.rotten.insert((at, name), now);
    }

    /// A gateway's process is over. Its next start finds itself what has rotted of log and snapshots; of batches it looks at none.
    pub fn ended(&mut self, at: GatewayId) {
        self.rotten.retain(|(of, name), _| *of != at || name.starts_with("batches"));
    }

    /// The faults are over: what waited for others waits no longer.
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

/// Of a file that was. The log never changes what it has written.
fn is_rotten(disk: &SimDisk, name: &str) -> bool {
    disk.has(name) && (name.starts_with("log") || disk.stored(name).is_none())
}
