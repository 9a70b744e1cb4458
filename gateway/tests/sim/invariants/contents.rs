//! Contents of batches are deleted exactly when they are released: a replica has every content that it keeps, in memory
//! or on disk, and its disk has none that it has released.

use crate::gateway::Live;
use selvedge_types::ids::ShardId;

/// Holds whenever the store has no work, for the replicas of these shards.
pub fn check(live: &Live, of: impl Fn(ShardId) -> bool) {
    for (shard, replica) in live.replicas.iter().filter(|(shard, _)| of(**shard)) {
        let outbox = replica.core().machine().outbox_stats();
        for seq in live.contents(*shard) {
            assert!(seq > outbox.kept, "{shard} at {}: batch {seq} is released and on disk", live.me);
        }
        for seq in outbox.kept + 1..=outbox.last {
            let here = live.has_content(*shard, seq) || replica.needs_no_store(seq);
            assert!(here, "{shard} at {}: batch {seq} is kept and nowhere", live.me);
        }
    }
}
