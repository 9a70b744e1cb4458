//! Faults that wait for a step of a move, and then strike the gateway that takes it.

use super::End;
use crate::gateway::Live;
use crate::plan::{Blow, MoveStep};
use selvedge_fabric::configuration::{DIRECTORY_GROUP, is_stop};
use selvedge_paxos::Role;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct Ambushes {
    waiting: Vec<(MoveStep, Blow, u64)>,
    /// The newest configuration that was seen at each replica.
    seen: BTreeMap<(GatewayId, ShardId), u32>,
}

impl Ambushes {
    pub fn wait(&mut self, step: MoveStep, blow: Blow, after_ms: u64) {
        self.waiting.push((step, blow, after_ms));
    }

    /// Looks at a gateway after a turn. Returns what strikes it, and when.
    pub fn look(&mut self, now: u64, at: GatewayId, live: &Live) -> Vec<(u64, End)> {
        let mut blows = Vec::new();
        for (shard, replica) in &live.replicas {
            let core = replica.core();
            let (number, group) = (core.configuration().number, core.consensus());
            let before = self.seen.insert((at, *shard), number);
            let open = group.role() == Role::Leader && group.last_slot() > group.commit();
            let ends = open && group.entry(group.last_slot()).is_some_and(|entry| is_stop(&entry.value));
            // There is always somebody who learns the directory.
            let teaches = *shard != DIRECTORY_GROUP && !group.config().learners.is_empty();
            let steps = [
                (MoveStep::TakenOn, before.is_none() && core.is_retired()),
                (MoveStep::Begun, before.is_some_and(|before| before < number)),
                (MoveStep::Teaching, open && teaches && !ends),
                (MoveStep::StopProposed, ends),
            ];
            for (step, _) in steps.into_iter().filter(|(_, taken)| *taken) {
                let Some(waits) = self.waiting.iter().position(|(of, ..)| *of == step) else { continue };
                let (_, blow, after_ms) = self.waiting.remove(waits);
                blows.push((now + after_ms, End::Strike(blow.at(at))));
            }
        }
        blows
    }
}
