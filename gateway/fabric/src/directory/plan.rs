//! The planner of moves: computes the next steps from the directory and from what the leader observes of the site.
//!
//! The planner keeps no state. The leader of the directory group calls it at intervals and carries out the steps. A
//! step that is carried out twice does no harm, because the directory or the shard refuses the second one. After a
//! crash the next leader continues from the directory's state.
//!
//! # A move
//! 1. A command begins it ([`DirectoryCommand::BeginMove`]).
//! 2. The new gateway learns ([`DirectoryStep::Learn`]) until it holds everything.
//! 3. The shard chooses a stop entry that names the next voters ([`DirectoryStep::Stop`]).
//! 4. The report of the next configuration ends the move.
//!
//! When a move has lost its purpose (its gateway was removed, or a drain was resumed), the planner gives it up as long
//! as no stop entry can be on its way, and completes it otherwise. A move whose new gateway is out of reach or has no
//! room is given up if another move waits.
//!
//! # Order of moves
//! 1. Removed voters are replaced, since their shards have lost a replica.
//! 2. Shards with too few replicas get more.
//! 3. Draining gateways are emptied. Leaders and devices leave a draining gateway before its replicas, but the replicas
//!    follow after [`DRAIN_FIRST_MS`] at the latest.
//! 4. The load is balanced.
//!
//! Within each of these the directory group goes first.
//!
//! # Levels
//! A level that every gateway has understood for [`LEVEL_HOLD_MS`] begins ([`DirectoryCommand::Upgrade`]).
//!
//! # What does not move
//! - While moves are paused, the planner plans nothing: it activates, empties and removes no gateway either.
//! - A dead gateway that is active keeps its replicas. It may be back in a minute, and copying its data elsewhere is an
//!   operator's decision (drain, remove or replace it).
//! - A replica moves only while a majority of its group can be reached, both of the present voters and of the next
//!   ones.

use super::command::DirectoryCommand;
use super::configuration::{ShardConfiguration, majority};
use super::gateway::{GatewayRecord, GatewayState, LEVEL_HOLD_MS};
use super::moves::{MAX_MOVES_ENTRIES, ShardMove};
use super::{DIRECTORY_GROUP, Directory};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::ElapsedMs;
use std::collections::BTreeMap;

/// How long a draining gateway has to hand over leaders and devices before its replicas move away anyway.
pub const DRAIN_FIRST_MS: u64 = 60_000;
/// The planner records a move's progress when it has changed by more than this share of the total.
const NOTED_PERCENT: u64 = 10;

/// The observations of the directory group's leader.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// From the same clock as the elapsed time of proposals.
    pub elapsed: ElapsedMs,
    /// The gateways that can be reached, the leader's own included.
    pub gateways: BTreeMap<GatewayId, SeenGateway>,
    /// The learners of each group, whether or not a move is under way.
    pub learners: BTreeMap<(ShardId, GatewayId), SeenLearner>,
}

/// The report of a gateway that can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeenGateway {
    /// Whether its disk has room for more replicas.
    pub has_room: bool,
    /// How many groups it leads; the greatest number as long as it has not said so.
    pub leads: u32,
    /// How many devices are connected; likewise.
    pub devices: u32,
}

/// How much of its group's data a learner holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeenLearner {
    pub done_bytes: u64,
    /// 0 until the size is known.
    pub total_bytes: u64,
    /// Whether it holds snapshot, log and contents up to what its leader sends now.
    pub is_ready: bool,
}

/// One step for the leader of the directory group to carry out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryStep {
    /// Propose this command in the directory group.
    Propose(DirectoryCommand),
    /// Have this gateway hand over the leadership of all its groups.
    StopLeading { gateway: GatewayId },
    /// Have this gateway send its devices to other gateways ([`crate::redirection`]).
    SendDevicesAway { gateway: GatewayId },
    /// Have the group's leader send this gateway the group's data as a learner.
    Learn { shard: ShardId, gateway: GatewayId },
    /// Have the group choose this stop entry.
    Stop {
        shard: ShardId,
        /// The number of the configuration that ends.
        configuration: u32,
        /// The voters of the next configuration, the preferred leader first.
        next: Vec<GatewayId>,
        /// The directory slot that began the move.
        directory_slot: u64,
    },
}

/// The steps to carry out now, the most important first; none while moves are paused.
pub fn plan(directory: &Directory, seen: &Seen) -> Vec<DirectoryStep> {
    if directory.is_paused() {
        return Vec::new();
    }
    let planner = Planner { directory, seen };
    let mut steps = planner.gateways();
    steps.extend(planner.level());
    steps.extend(planner.moves());
    steps
}

struct Planner<'a> {
    directory: &'a Directory,
    seen: &'a Seen,
}

/// A move that can begin if fewer than [`MAX_MOVES_ENTRIES`] are under way.
struct Candidate {
    /// Lower goes first: 0 replaces a removed voter, 1 adds a missing one, 2 drains, 3 balances.
    urgency: u8,
    shard: ShardId,
    leaves: Option<GatewayId>,
    comes: Option<GatewayId>,
    configuration: u32,
}

impl Planner<'_> {
    /// Steps that concern a gateway as a whole.
    fn gateways(&self) -> Vec<DirectoryStep> {
        let mut steps = Vec::new();
        let directory = self.directory.configuration(DIRECTORY_GROUP);
        for (id, gateway) in self.directory.gateways() {
            let reached = self.seen.gateways.get(&id);
            match gateway.state {
                GatewayState::Joining if reached.is_some() && self.is_ready(DIRECTORY_GROUP, id) => {
                    steps.push(DirectoryStep::Propose(DirectoryCommand::Activate { gateway: id }));
                }
                GatewayState::Draining => steps.extend(self.draining(id)),
                _ => {}
            }
            // Every gateway learns the directory, including those that do not vote in it.
            let knows = |c: &ShardConfiguration| c.voters.contains(&id) || c.learners.contains(&id);
            if reached.is_some() && !directory.is_some_and(knows) {
                steps.push(DirectoryStep::Learn { shard: DIRECTORY_GROUP, gateway: id });
            }
        }
        steps
    }

    /// The level to begin, if it is time.
    fn level(&self) -> Option<DirectoryStep> {
        let (level, since) = self.directory.next_level()?;
        let is_due = self.seen.elapsed.since(since) >= LEVEL_HOLD_MS;
        is_due.then_some(DirectoryStep::Propose(DirectoryCommand::Upgrade { level }))
    }

    fn draining(&self, id: GatewayId) -> Vec<DirectoryStep> {
        let mut steps = Vec::new();
        let reached = self.seen.gateways.get(&id);
        if reached.is_some_and(|g| g.leads > 0) {
            steps.push(DirectoryStep::StopLeading { gateway: id });
        }
        if reached.is_some_and(|g| g.devices > 0) {
            steps.push(DirectoryStep::SendDevicesAway { gateway: id });
        }
        // Only a replaced gateway is removed here. One that an operator drained stays until an operator removes it.
        if self.directory.replacement_of(id).is_some() && !self.directory.holds_place(id) {
            let remove = DirectoryCommand::Remove { gateway: id, force: false, unsound: Vec::new() };
            steps.push(DirectoryStep::Propose(remove));
        }
        steps
    }

    /// Steps of moves under way, and moves to begin.
    fn moves(&self) -> Vec<DirectoryStep> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for (shard, configuration) in self.directory.configurations() {
            if !self.directory.moves().contains_key(&shard) {
                candidates.extend(self.candidate(shard, configuration));
            }
        }
        candidates.sort_by_key(|c| (c.urgency, c.shard != DIRECTORY_GROUP, c.shard));
        let free = MAX_MOVES_ENTRIES.saturating_sub(self.directory.moves().len());
        let somebody_waits = candidates.len() > free;
        let mut steps = Vec::new();
        for (shard, m) in self.directory.moves() {
            steps.extend(self.go_on(*shard, m, somebody_waits));
        }
        let begin = |c: Candidate| {
            let Candidate { shard, leaves, comes, configuration, .. } = c;
            DirectoryStep::Propose(DirectoryCommand::BeginMove { shard, leaves, comes, configuration })
        };
        steps.extend(candidates.into_iter().take(free).map(begin));
        steps
    }

    /// The next steps of a move under way.
    fn go_on(&self, shard: ShardId, m: &ShardMove, somebody_waits: bool) -> Vec<DirectoryStep> {
        let end = || vec![DirectoryStep::Propose(DirectoryCommand::EndMove { shard, since: m.since })];
        let Some(configuration) = self.directory.configuration(shard) else { return end() };
        let (voters, wanted) = (&configuration.voters, self.directory.wanted(shard));
        let comes_to_no_purpose =
            m.comes.is_some_and(|g| voters.contains(&g) || !wanted.contains(&g) || !self.is_active(g));
        let may_leave = |g: GatewayId| {
            voters.contains(&g)
                && !wanted.contains(&g)
                && (m.comes.is_some() || self.may_shrink(voters, &wanted, g))
        };
        let no_purpose = comes_to_no_purpose || m.leaves.is_some_and(|g| !may_leave(g));
        let next = m.next_voters(configuration);
        let can_stop = self.has_majority(voters) && self.has_majority(&next);
        // The stop entry may be on its way already.
        let may_be_chosen = m.comes.is_none_or(|g| self.is_ready(shard, g) && self.rank(g) > 0);
        if no_purpose && !(may_be_chosen && can_stop && !m.is_done(configuration)) {
            return end();
        }
        let mut steps = Vec::new();
        if let Some(comes) = m.comes {
            if !self.takes_replicas(comes) && somebody_waits {
                return end();
            }
            let learner = self.seen.learners.get(&(shard, comes)).copied().unwrap_or_default();
            let SeenLearner { done_bytes, total_bytes, is_ready } = learner;
            let noted_bytes = total_bytes / 100 * NOTED_PERCENT;
            let news = total_bytes != m.total_bytes || done_bytes.abs_diff(m.done_bytes) > noted_bytes;
            if news && done_bytes <= total_bytes {
                let since = m.since;
                let note = DirectoryCommand::Progress { shard, since, done_bytes, total_bytes };
                steps.push(DirectoryStep::Propose(note));
            }
            if !is_ready {
                steps.push(DirectoryStep::Learn { shard, gateway: comes });
                return steps;
            }
        }
        if can_stop {
            let (configuration, directory_slot) = (configuration.number, m.since);
            let next = in_order(next, &wanted);
            steps.push(DirectoryStep::Stop { shard, configuration, next, directory_slot });
        }
        steps
    }

    /// The move that a group needs next, if one can begin.
    fn candidate(&self, shard: ShardId, configuration: &ShardConfiguration) -> Option<Candidate> {
        let voters = &configuration.voters;
        let wanted = self.directory.wanted(shard);
        let lacks = voters.len() < wanted.len();
        let missing = wanted.iter().copied().filter(|g| !voters.contains(g));
        let mut leaving: Vec<GatewayId> = voters.iter().copied().filter(|g| !wanted.contains(g)).collect();
        leaving.sort_by_key(|g| (self.rank(*g), *g));
        let needs_more = voters.iter().filter(|g| wanted.contains(g)).count() < wanted.len();
        let may_leave = |g: &GatewayId| match self.rank(*g) {
            0 => true,
            1 => self.is_emptied(*g),
            // An active voter leaves in exchange for another gateway, or if there are too many voters.
            _ => {
                if needs_more {
                    !lacks
                } else {
                    self.may_shrink(voters, &wanted, *g)
                }
            }
        };
        let leaves = leaving.into_iter().find(may_leave);
        let comes = missing.into_iter().find(|g| self.is_active(*g) && self.takes_replicas(*g));
        if needs_more && comes.is_none() || comes.is_some() && leaves.is_none() && !lacks {
            return None;
        }
        let m = ShardMove { leaves, comes, since: 0, done_bytes: 0, total_bytes: 0 };
        let possible = self.has_majority(voters) && self.has_majority(&m.next_voters(configuration));
        if leaves == comes || !possible {
            return None; // both are `None`, or no majority can be reached
        }
        let urgency = match leaves.map(|g| self.rank(g)) {
            Some(0) => 0,
            _ if lacks => 1,
            Some(1) => 2,
            _ => 3,
        };
        let configuration = configuration.number;
        Some(Candidate { urgency, shard, leaves, comes, configuration })
    }

    /// The order in which voters leave: 0 for gone gateways, 1 for draining ones, 2 for all others.
    fn rank(&self, id: GatewayId) -> u8 {
        match self.directory.gateway(id).map(|g| g.state) {
            None => 0,
            Some(GatewayState::Draining) => 1,
            Some(_) => 2,
        }
    }

    fn is_active(&self, id: GatewayId) -> bool {
        self.directory.gateway(id).is_some_and(|g| g.state == GatewayState::Active)
    }

    fn takes_replicas(&self, id: GatewayId) -> bool {
        self.seen.gateways.get(&id).is_some_and(|g| g.has_room)
    }

    fn is_ready(&self, shard: ShardId, id: GatewayId) -> bool {
        self.seen.learners.get(&(shard, id)).is_some_and(|l| l.is_ready)
    }

    /// Whether leaders and devices have left a draining gateway, it can't be reached, or [`DRAIN_FIRST_MS`] have
    /// passed.
    fn is_emptied(&self, id: GatewayId) -> bool {
        let Some(reached) = self.seen.gateways.get(&id) else { return true };
        let since = self.directory.gateway(id).map_or(ElapsedMs(0), |g: &GatewayRecord| g.since);
        reached.leads == 0 && reached.devices == 0 || self.seen.elapsed.since(since) >= DRAIN_FIRST_MS
    }

    /// Whether a voter may leave without a successor: it is gone or draining, or there are more voters than wanted.
    fn may_shrink(&self, voters: &[GatewayId], wanted: &[GatewayId], leaves: GatewayId) -> bool {
        self.rank(leaves) < 2 || voters.len() > wanted.len()
    }

    /// Whether a majority of these voters can be reached and is not gone.
    fn has_majority(&self, voters: &[GatewayId]) -> bool {
        let alive = |g: &&GatewayId| self.rank(**g) > 0 && self.seen.gateways.contains_key(*g);
        voters.iter().filter(alive).count() >= majority(voters.len())
    }
}

/// Sorts voters into the wanted order; those that are not wanted come last.
pub(crate) fn in_order(mut voters: Vec<GatewayId>, wanted: &[GatewayId]) -> Vec<GatewayId> {
    voters.sort_by_key(|g| wanted.iter().position(|w| w == g).unwrap_or(wanted.len()));
    voters
}
