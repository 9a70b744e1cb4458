//! Ballots are never reused: in its configuration, each has one leader, and one start of that leader's process.

use selvedge_fabric::shard::ShardCore;
use selvedge_paxos::{Ballot, Role};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Ballots(BTreeMap<(ShardId, u32, Ballot), (GatewayId, u64)>);

impl Ballots {
    pub fn check(&mut self, at: GatewayId, start: u64, shard: ShardId, replica: &ShardCore) {
        let group = replica.consensus();
        if group.role() != Role::Leader {
            return;
        }
        let (configuration, ballot) = (replica.configuration().number, group.ballot());
        let who = *self.0.entry((shard, configuration, ballot)).or_insert((at, start));
        assert!(who == (at, start), "{shard}: {ballot} is used by {who:?} and by start {start} of {at}");
    }
}
