//! One value per slot: whatever any replica applies in a slot, every other replica applies there.

use selvedge_fabric::shard::ShardCore;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Agreement {
    chosen: BTreeMap<(ShardId, u64), Vec<u8>>,
    looked_at: BTreeMap<(GatewayId, u64, ShardId), u64>,
}

impl Agreement {
    pub fn check(&mut self, at: GatewayId, start: u64, shard: ShardId, replica: &ShardCore) {
        let group = replica.consensus();
        let seen = self.looked_at.entry((at, start, shard)).or_default();
        for slot in *seen + 1..=group.commit() {
            let Some(entry) = group.entry(slot) else { continue };
            let value = self.chosen.entry((shard, slot)).or_insert_with(|| entry.value.to_vec());
            assert!(**value == *entry.value, "{shard} slot {slot}: another value is chosen at {at}");
        }
        *seen = group.commit();
    }
}
