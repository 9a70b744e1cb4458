//! A window that is complete for a node does not change: no part in time comes for a window that its stream has passed
//! by the word of earlier batches, unless its own batch first takes that back.

use selvedge_types::ids::ShardId;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, StreamName};
use std::collections::BTreeMap;

/// The progress of all streams. A stream that was retired and became known again has passed nothing, so runs in which
/// streams are retired do without this check.
#[derive(Debug, Default)]
pub struct Complete {
    told: BTreeMap<StreamName, EpochMs>,
}

impl Complete {
    /// The next batch of a shard, by its number.
    pub fn check(&mut self, shard: ShardId, seq: u64, batch: &Batch) {
        let mut passed = self.told.clone();
        for part in &batch.parts {
            let name = &batch.streams[part.stream as usize];
            if let Some(passed) = passed.get_mut(name) {
                let end = part.start.plus(part.width_ms.into());
                assert!(
                    part.late > 0 || end > *passed,
                    "{shard} batch {seq}: {name:?} had passed {passed}: {part:?}"
                );
                *passed = part.watermark.min(*passed);
            }
            self.told.insert(name.clone(), part.watermark);
        }
    }
}
