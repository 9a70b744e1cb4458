//! The command with which the survivors of a lost majority go on.

use super::command::SiteRecovery;
use super::configuration::ShardConfiguration;
use super::gateway::GatewayState;
use super::outcome::{DirectoryOutcome, DirectoryRefusal};
use super::{Directory, DirectoryResult};
use selvedge_types::ids::GatewayId;

impl Directory {
    pub(super) fn recover(&mut self, recovery: &SiteRecovery) -> DirectoryResult {
        let SiteRecovery { generation, lost, groups } = recovery;
        let (slot, now) = (self.state.slot, self.state.elapsed);
        let state = &mut self.state;
        if *generation <= state.generation {
            return match *generation == state.generation {
                true => Ok(DirectoryOutcome::Unchanged),
                false => Err(DirectoryRefusal::OldGeneration { found: *generation, known: state.generation }),
            };
        }
        for (shard, number, voter) in groups {
            if !state.configurations.0.contains_key(shard) {
                return Err(DirectoryRefusal::NoShard(*shard));
            }
            let survives = state.gateways.state(*voter).is_some_and(|s| s != GatewayState::Gone);
            if *number == 0 || !survives || lost.contains(voter) {
                return Err(DirectoryRefusal::BadConfiguration(*shard));
            }
        }
        let survives = |id: &GatewayId| !lost.contains(id);
        if !state.gateways.living().any(|(id, g)| survives(&id) && g.is_full()) {
            return Err(DirectoryRefusal::NoSurvivor);
        }
        for id in lost {
            if let Some(gateway) = state.gateways.all.get_mut(id).filter(|g| g.state != GatewayState::Gone) {
                gateway.enter(GatewayState::Gone, now);
                gateway.changed = slot;
            }
        }
        // Nobody is left to drain to.
        if state.gateways.active_full().next().is_none() {
            let left = state.gateways.living().find(|(_, g)| g.is_full()).map(|(id, _)| id);
            if let Some(gateway) = left.and_then(|id| state.gateways.all.get_mut(&id)) {
                gateway.enter(GatewayState::Active, now);
                gateway.changed = slot;
            }
        }
        for (shard, number, voter) in groups {
            let configuration =
                ShardConfiguration { number: *number, voters: vec![*voter], learners: Vec::new() };
            // A later one was reported if the group has moved on by itself.
            state.configurations.report(*shard, &configuration);
        }
        state.moves.under_way.clear();
        state.generation = *generation;
        let configurations = &state.configurations;
        state.gateways.drop_tombstones(|gone| configurations.has_voter(gone));
        self.is_stale = true;
        Ok(DirectoryOutcome::Done)
    }
}
