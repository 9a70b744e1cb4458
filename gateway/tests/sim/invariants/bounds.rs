//! Memory and queues stay within their bounds.

use crate::gateway::{Live, OUTBOX_BUDGET_BYTES};
use selvedge_fabric::forward::{MAX_BATCH_BYTES, MAX_QUEUED_BYTES};
use selvedge_types::uplink::MAX_BATCH_BYTES as MAX_UPLINK_BATCH_BYTES;

/// What may be chosen after the leader last looked at its outbox: the proposals that a group has under way.
const UNDER_WAY_BYTES: u64 = 64 * 1024;
/// Slots in memory beyond those that are applied and kept for replicas that lag (see `shard::TAIL_BYTES`).
const MAX_MEMORY_SLOTS: u64 = 6_000;

pub fn check(live: &Live) {
    assert!(live.forward.queued_bytes() <= MAX_QUEUED_BYTES + MAX_BATCH_BYTES, "{}: forwarding", live.me);
    for (shard, replica) in &live.replicas {
        let core = replica.core();
        let outbox = core.machine().outbox_stats();
        let most = OUTBOX_BUDGET_BYTES + MAX_UPLINK_BATCH_BYTES as u64 + UNDER_WAY_BYTES;
        assert!(outbox.bytes <= most, "{shard} at {}: {} bytes in the outbox", live.me, outbox.bytes);
        let slots = core.consensus().last_slot() + 1 - core.consensus().first_slot();
        assert!(slots <= MAX_MEMORY_SLOTS, "{shard} at {}: {slots} slots in memory", live.me);
    }
}
