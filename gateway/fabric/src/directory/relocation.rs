//! Commands for reports of configurations, and for beginning, recording and ending moves.

use super::configuration::{Reported, ShardConfiguration, majority};
use super::gateway::GatewayState;
use super::moves::{MAX_MOVES_ENTRIES, MAX_RATE_BYTES_PER_S, MIN_RATE_BYTES_PER_S, ShardMove};
use super::outcome::{DirectoryOutcome, DirectoryRefusal};
use super::{Directory, DirectoryResult};
use crate::ring::MAX_REPLICAS;
use selvedge_types::ids::{GatewayId, ShardId};

use DirectoryOutcome::{Done, Unchanged};

impl Directory {
    pub(super) fn report(&mut self, shard: ShardId, found: &ShardConfiguration) -> DirectoryResult {
        let state = &mut self.state;
        let known = |g: &GatewayId| state.gateways.may_have_been(*g);
        if !found.is_sound() || !found.voters.iter().chain(&found.learners).all(known) {
            return Err(DirectoryRefusal::BadConfiguration(shard));
        }
        let number = state.configurations.0.get(&shard).map_or(0, |c| c.number);
        match state.configurations.report(shard, found) {
            None => Err(DirectoryRefusal::NoShard(shard)),
            Some(Reported::Known) => Ok(Unchanged),
            Some(Reported::Contradicts) => {
                Err(DirectoryRefusal::Contradiction { shard, number: found.number })
            }
            Some(Reported::News) => {
                // A move belongs to one configuration. A newer one means that it is done or superseded.
                if found.number > number {
                    state.moves.under_way.remove(&shard);
                }
                Ok(Done)
            }
        }
    }

    pub(super) fn begin_move(
        &mut self,
        shard: ShardId,
        leaves: Option<GatewayId>,
        comes: Option<GatewayId>,
        configuration: u32,
    ) -> DirectoryResult {
        let state = &mut self.state;
        let Some(now) = state.configurations.0.get(&shard) else {
            return Err(DirectoryRefusal::NoShard(shard));
        };
        if state.moves.paused {
            return Err(DirectoryRefusal::Paused);
        }
        if state.moves.under_way.contains_key(&shard) {
            return Err(DirectoryRefusal::MoveUnderWay(shard));
        }
        if state.moves.under_way.len() >= MAX_MOVES_ENTRIES {
            return Err(DirectoryRefusal::TooManyMoves);
        }
        if now.number != configuration {
            return Err(DirectoryRefusal::Superseded { shard, configuration: now.number });
        }
        if leaves == comes {
            return Err(DirectoryRefusal::EmptyMove(shard));
        }
        if let Some(gateway) = leaves.filter(|g| !now.voters.contains(g)) {
            return Err(DirectoryRefusal::NoVoter { shard, gateway });
        }
        if let Some(gateway) = comes {
            if now.voters.contains(&gateway) {
                return Err(DirectoryRefusal::VoterAlready { shard, gateway });
            }
            if state.gateways.state(gateway) != Some(GatewayState::Active) {
                return Err(DirectoryRefusal::ComesInactive(gateway));
            }
        }
        let since = state.slot;
        let begun = ShardMove { leaves, comes, since, done_bytes: 0, total_bytes: 0 };
        let next = begun.next_voters(now);
        if !(1..=MAX_REPLICAS).contains(&next.len()) {
            return Err(DirectoryRefusal::Voters(shard));
        }
        // The planner's copy may be of before a removal.
        let living =
            |g: &&GatewayId| state.gateways.state(**g).is_some_and(|state| state != GatewayState::Gone);
        if next.iter().filter(living).count() < majority(next.len()) {
            return Err(DirectoryRefusal::VotersGone(shard));
        }
        state.moves.under_way.insert(shard, begun);
        Ok(DirectoryOutcome::Begun { since })
    }

    pub(super) fn progress(&mut self, shard: ShardId, since: u64, done: u64, total: u64) -> DirectoryResult {
        let under_way = self.state.moves.under_way.get_mut(&shard);
        let m = under_way.filter(|m| m.since == since).ok_or(DirectoryRefusal::NoMove(shard))?;
        if done > total {
            return Err(DirectoryRefusal::Progress(shard));
        }
        let news = (m.done_bytes, m.total_bytes) != (done, total);
        (m.done_bytes, m.total_bytes) = (done, total);
        Ok(if news { Done } else { Unchanged })
    }

    pub(super) fn end_move(&mut self, shard: ShardId, since: u64) -> DirectoryResult {
        let under_way = &mut self.state.moves.under_way;
        if under_way.get(&shard).is_none_or(|m| m.since != since) {
            return Err(DirectoryRefusal::NoMove(shard));
        }
        under_way.remove(&shard);
        Ok(Done)
    }

    pub(super) fn pause(&mut self, paused: bool) -> DirectoryResult {
        let news = self.state.moves.paused != paused;
        self.state.moves.paused = paused;
        Ok(if news { Done } else { Unchanged })
    }

    pub(super) fn set_rate(&mut self, bytes_per_s: u64) -> DirectoryResult {
        if !(MIN_RATE_BYTES_PER_S..=MAX_RATE_BYTES_PER_S).contains(&bytes_per_s) {
            return Err(DirectoryRefusal::Rate(bytes_per_s));
        }
        let news = self.state.moves.rate_bytes_per_s != bytes_per_s;
        self.state.moves.rate_bytes_per_s = bytes_per_s;
        Ok(if news { Done } else { Unchanged })
    }
}
