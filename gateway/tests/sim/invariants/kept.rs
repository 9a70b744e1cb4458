//! Every later leader has what was acknowledged: a replica that begins to serve has applied every slot on which an
//! acknowledgement so far rests. (A former leader that was frozen and does not know of its successor begins nothing: it
//! can neither acknowledge nor answer.)

use selvedge_fabric::shard::ShardCore;
use selvedge_paxos::{Ballot, Role};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Kept {
    /// The highest slot on which an acknowledgement rests.
    acknowledged: BTreeMap<ShardId, u64>,
    /// The latest configuration, and the highest ballot in it, in which any replica led.
    led: BTreeMap<ShardId, (u32, Ballot)>,
    serving: BTreeMap<(GatewayId, ShardId), (u32, Ballot)>,
}

impl Kept {
    pub fn acknowledged(&mut self, shard: ShardId, slot: u64) {
        let highest = self.acknowledged.entry(shard).or_default();
        *highest = slot.max(*highest);
    }

    pub fn check(&mut self, at: GatewayId, shard: ShardId, replica: &ShardCore) {
        if replica.consensus().role() != Role::Leader {
            return;
        }
        let ballot = (replica.configuration().number, replica.consensus().ballot());
        let led = self.led.entry(shard).or_default();
        *led = ballot.max(*led);
        if !replica.serves() || ballot < *led {
            return;
        }
        if self.serving.insert((at, shard), ballot) == Some(ballot) {
            return;
        }
        let (applied, kept) = (replica.machine().slot(), self.acknowledged.get(&shard).copied().unwrap_or(0));
        assert!(
            applied >= kept,
            "{shard}: {at} leads in {ballot:?} with {applied} slots, {kept} is acknowledged"
        );
    }
}
