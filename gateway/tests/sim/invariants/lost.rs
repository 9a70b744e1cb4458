//! A batch is given up only when every replica of its shard has lost its content, and the node learns exactly what it
//! held. (The count of all readings shows that nothing else is missing at the node; the healing shows that the uplink
//! continues.)

use crate::gateway::Place;
use selvedge_fabric::shard::ShardCore;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::{Batch, LostBatch};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Lost {
    /// The copies that were damaged at some time.
    damaged: BTreeSet<(GatewayId, ShardId, u64)>,
    /// How many batches of each shard were given up.
    given_up: BTreeMap<ShardId, u64>,
}

impl Lost {
    pub fn damaged(&mut self, at: GatewayId, shard: ShardId, seq: u64) {
        self.damaged.insert((at, shard, seq));
    }

    pub fn check(&mut self, shard: ShardId, replica: &ShardCore, places: &BTreeMap<GatewayId, Place>) {
        let lost = replica.machine().outbox_stats().lost;
        let known = self.given_up.entry(shard).or_default();
        if lost <= *known {
            return;
        }
        *known = lost;
        for seq in replica.machine().lost_batches() {
            for member in &replica.consensus().config().members {
                let whole = places.get(member).is_some_and(|place| place.disk.batch(shard, seq).is_some());
                let had = whole && !self.damaged.contains(&(*member, shard, seq));
                assert!(!had, "{shard}: batch {seq} is given up, and {member} has never lost it");
            }
        }
    }
}

/// Checks that the node learns of a batch what it held.
pub fn as_it_was(shard: ShardId, seq: u64, lost: &LostBatch, body: &[u8]) {
    let batch = Batch::decode(body).expect("it was whole");
    let from = batch.parts.iter().map(|part| part.start).min().unwrap_or_default();
    let to = batch.parts.iter().map(|part| part.start.plus(part.width_ms.into())).max().unwrap_or_default();
    // All streams of the simulation have windows of one width.
    let readings = batch.parts.iter().map(|part| part.aggregate.count).sum();
    let was = LostBatch { readings, parts: batch.parts.len() as u32, from, to };
    assert_eq!(*lost, was, "{shard} batch {seq} is lost, and was another");
}
