//! Commit and applied never go back during a process, applied never passes commit, and after a restart at least as much
//! is applied as the durable snapshot covers.

use selvedge_fabric::shard::ShardCore;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Progress(BTreeMap<(GatewayId, u64, ShardId), (u64, u64)>);

impl Progress {
    /// A replica that was given up is forgotten: a later one of the same shard begins anew.
    pub fn here(&mut self, at: GatewayId, start: u64, has: impl Fn(&ShardId) -> bool) {
        let all = (at, start, ShardId(0))..=(at, start, ShardId(u16::MAX));
        let gone: Vec<_> = self.0.range(all).map(|(key, _)| *key).filter(|(.., shard)| !has(shard)).collect();
        gone.iter().for_each(|key| _ = self.0.remove(key));
    }

    pub fn check(&mut self, at: GatewayId, start: u64, shard: ShardId, replica: &ShardCore) {
        let (commit, applied) = (replica.consensus().commit(), replica.machine().slot());
        assert!(applied <= commit, "{shard} at {at}: applied {applied} of {commit}");
        assert!(commit <= replica.consensus().last_slot(), "{shard} at {at}: {commit} is beyond the log");
        let (old_commit, old_applied) =
            self.0.insert((at, start, shard), (commit, applied)).unwrap_or((0, 0));
        assert!(commit >= old_commit, "{shard} at {at}: commit went back from {old_commit} to {commit}");
        assert!(applied >= old_applied, "{shard} at {at}: applied went back from {old_applied} to {applied}");
    }
}
