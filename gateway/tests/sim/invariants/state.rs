//! Every replica's machine is in the same state at the same slot, but for those of witnesses, which hold none.

use selvedge_fabric::shard::ShardCore;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct State {
    known: BTreeMap<(ShardId, u64), u64>,
    /// The gateway's start and the slot at which a replica was last compared. Its machine changes with its slot only.
    compared: BTreeMap<(GatewayId, ShardId), (u64, u64)>,
}

impl State {
    pub fn check(&mut self, at: GatewayId, start: u64, shard: ShardId, replica: &ShardCore) {
        if replica.is_witness() {
            return;
        }
        let slot = replica.machine().slot();
        if self.compared.insert((at, shard), (start, slot)) == Some((start, slot)) {
            return;
        }
        let found = replica.machine().digest();
        let known = *self.known.entry((shard, slot)).or_insert(found);
        assert!(known == found, "{shard}: {at} is in another state at slot {slot}");
    }
}
