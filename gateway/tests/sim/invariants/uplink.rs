//! The uplink has no gaps: the node has every batch that the site no longer keeps. (That a batch never changes, and
//! counts once, is checked where the node applies it.)

use selvedge_types::ids::ShardId;

pub fn kept(shard: ShardId, first_kept: u64, cursor: u64) {
    assert!(first_kept <= cursor + 1, "{shard} dropped batches from {} to {first_kept}", cursor + 1);
}
