//! Retiring streams: on an operator's command, or by a rule when they have been silent for long.
//!
//! A stream that is retired closes its open parts, which reach the cloud like any others, and frees its room
//! and its number. Parts that wait in the outbox name their stream by its number. So if parts of a retiring
//! stream are waiting, the outbox is cut into a batch first. A tombstone keeps the stream's sequence numbers
//! (see `tombstones`). A reading that was not counted before makes the stream known again.

use super::Counting;
use crate::machine::applied::Applied;
use crate::machine::table::Moment;

/// The most streams that one tick retires; the next tick goes on.
pub const MAX_TICK_RETIRED_ENTRIES: usize = 64;

impl Counting {
    /// Retires one stream of a device, or all of them. Returns how many it retired.
    pub fn retire(&mut self, device: &str, stream: Option<&str>, at: &Moment, applied: &mut Applied) -> u32 {
        let ids: Vec<u32> = match (self.names.device(device), stream) {
            (None, _) => Vec::new(),
            (Some(_), Some(stream)) => self.names.find(device, stream).into_iter().collect(),
            (Some(id), None) => self.names.devices[id].streams.clone(),
        };
        self.retire_all(&ids, at, applied);
        ids.len() as u32
    }

    /// Retires streams that have been silent for as long as their rules say.
    pub fn retire_idle(&mut self, at: &Moment, applied: &mut Applied) {
        let ids = self.idle.take_due(at.now.elapsed, &self.streams, &self.classes, MAX_TICK_RETIRED_ENTRIES);
        applied.counters.retired_idle += ids.len() as u64;
        self.retire_all(&ids, at, applied);
    }

    fn retire_all(&mut self, ids: &[u32], at: &Moment, applied: &mut Applied) {
        if ids.is_empty() {
            return;
        }
        let now = at.now;
        for id in ids {
            self.streams.close_all_of(*id, now, &self.classes);
        }
        self.keep_closed(at, applied);
        if ids.iter().any(|id| self.outbox.holds(*id)) {
            applied.batches.extend(self.outbox.cut(now.elapsed, &self.names));
        }
        for id in ids {
            let (device, name) = self.names.of(*id);
            let boots = self.streams.remove(*id);
            applied.counters.tombstones_forgotten += self.tombstones.add(device, name, boots, now.elapsed);
            self.names.remove(*id);
            self.idle.remove(*id);
        }
        applied.counters.retired += ids.len() as u64;
    }
}
