//! Every replica's machine is in the same state at the same slot.

use selvedge_fabric::shard::ShardCore;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct State(BTreeMap<(ShardId, u64), u64>);

impl State {
    pub fn check(&mut self, at: GatewayId, shard: ShardId, replica: &ShardCore) {
        let (slot, found) = (replica.machine().slot(), replica.machine().digest());
        let known = *self.0.entry((shard, slot)).or_insert(found);
        assert!(known == found, "{shard}: {at} is in another state at slot {slot}");
    }
}
