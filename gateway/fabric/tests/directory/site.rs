//! A simulated site around a directory: shards choose stop entries and report, learners receive data, gateways join and
//! leave. It carries out the planner's steps as the program will do it, and checks each stop entry against the rules of
//! a shard.

use selvedge_fabric::directory::*;
use selvedge_fabric::ring::MAX_REPLICAS;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::ElapsedMs;
use std::collections::{BTreeMap, BTreeSet};

/// The size of every simulated replica.
pub const REPLICA_BYTES: u64 = 1_000;

pub fn genesis(shards: u16, replicas: usize, weights: &[(u16, u32)]) -> Genesis {
    let first = |(id, weight): &(u16, u32)| FirstGateway {
        id: GatewayId(*id),
        weight: *weight,
        peer: format!("10.0.0.{id}:7081"),
    };
    Genesis { shards, replicas, gateways: weights.iter().map(first).collect() }
}

/// The join request of box `number`, from which its data folder and key follow.
pub fn join(token: u8, number: u8, level: u32) -> JoinRequest {
    JoinRequest {
        token: TokenHash([token; 32]),
        incarnation: u128::from(number),
        key: GatewayKey([number; 32]),
        addresses: addresses(number),
        zone: None,
        level,
    }
}

pub fn addresses(number: u8) -> GatewayAddresses {
    let at = |port| format!("10.0.1.{number}:{port}");
    GatewayAddresses { peer: at(7081), mqtt: at(1883), http: at(8081) }
}

pub fn invite(token: u8, admits: Admission) -> DirectoryCommand {
    DirectoryCommand::Invite { token: TokenHash([token; 32]), lasts_ms: 3_600_000, admits }
}

pub struct Site {
    pub directory: Directory,
    pub seen: Seen,
    /// The configurations that the groups have chosen, reported or not.
    pub chosen: BTreeMap<ShardId, ShardConfiguration>,
    /// The directory slot in each group's last stop entry.
    stopped_by: BTreeMap<ShardId, u64>,
    /// How many replicas of shards were copied.
    pub copies: usize,
    /// How many stop entries of shards removed a replica without adding another.
    pub shrinks: usize,
    /// Delayed reports; `None` while reports arrive at once.
    pub held_up: Option<Vec<DirectoryCommand>>,
    pub tokens: u8,
}

impl Site {
    pub fn new(genesis: &Genesis) -> Self {
        let directory = Directory::genesis(genesis).unwrap();
        let chosen = directory.configurations().map(|(s, c)| (s, c.clone())).collect();
        let mut site = Self {
            directory,
            seen: Seen::default(),
            chosen,
            stopped_by: BTreeMap::new(),
            copies: 0,
            shrinks: 0,
            held_up: None,
            tokens: 0,
        };
        let first: Vec<GatewayId> = site.directory.gateways().map(|(id, _)| id).collect();
        first.into_iter().for_each(|id| site.up(id));
        site
    }

    pub fn up(&mut self, id: GatewayId) {
        self.seen.gateways.insert(id, SeenGateway { has_room: true, leads: 0, devices: 0 });
    }

    pub fn tell(&mut self, command: DirectoryCommand) -> DirectoryOutcome {
        self.tell_as(None, command)
    }

    pub fn tell_as(&mut self, key: Option<RequestKey>, command: DirectoryCommand) -> DirectoryOutcome {
        self.directory.apply(self.directory.slot() + 1, self.seen.elapsed, key, &command)
    }

    /// Invites, joins and activates a new gateway.
    pub fn add(&mut self, admits: Admission) -> GatewayId {
        self.tokens += 1;
        let token = self.tokens;
        assert!(matches!(self.tell(invite(token, admits)), DirectoryOutcome::Invited { .. }));
        let joined = self.tell(DirectoryCommand::Join(Box::new(join(token, 100 + token, 1))));
        let DirectoryOutcome::Joined { gateway } = joined else { panic!("{joined:?}") };
        self.up(gateway);
        assert_eq!(self.tell(DirectoryCommand::Activate { gateway }), DirectoryOutcome::Done);
        gateway
    }

    fn learn(&mut self, shard: ShardId, gateway: GatewayId) {
        if !self.seen.gateways.contains_key(&gateway) {
            return;
        }
        let learner = self.seen.learners.entry((shard, gateway)).or_default();
        match learner.total_bytes {
            0 => *learner = SeenLearner { done_bytes: 0, total_bytes: REPLICA_BYTES, is_ready: false },
            _ => (learner.done_bytes, learner.is_ready) = (REPLICA_BYTES, true),
        }
        if learner.is_ready && shard == DIRECTORY_GROUP {
            let known = self.chosen.get_mut(&shard).unwrap();
            if !known.learners.contains(&gateway) && !known.voters.contains(&gateway) {
                known.learners.push(gateway);
            }
            let known = known.clone();
            self.report(shard, known);
        }
    }

    /// Delivers all delayed reports.
    pub fn hear_all(&mut self) {
        self.held_up.take().into_iter().flatten().for_each(|report| _ = self.tell(report));
    }

    fn report(&mut self, shard: ShardId, configuration: ShardConfiguration) {
        let report = DirectoryCommand::Report { shard, configuration };
        match &mut self.held_up {
            Some(waiting) => waiting.push(report),
            None => _ = self.tell(report),
        }
    }

    /// The shard's side of a stop entry. It ignores what a shard would refuse, and panics on what must never be asked
    /// of one.
    fn stop(&mut self, shard: ShardId, configuration: u32, next: &[GatewayId], directory_slot: u64) {
        let known = self.chosen[&shard].clone();
        if configuration != known.number {
            return; // superseded
        }
        let before = self.stopped_by.insert(shard, directory_slot).unwrap_or(0);
        assert!(directory_slot > before, "{shard}: from slot {directory_slot} after {before}");
        let comes: Vec<_> = next.iter().copied().filter(|g| !known.voters.contains(g)).collect();
        let leaves: Vec<_> = known.voters.iter().filter(|g| !next.contains(g)).collect();
        assert!(comes.len() <= 1 && leaves.len() <= 1 && comes.len() + leaves.len() > 0, "one at a time");
        assert!((1..=MAX_REPLICAS).contains(&next.len()));
        assert_eq!(next.iter().collect::<BTreeSet<_>>().len(), next.len(), "distinct");
        for voters in [&known.voters[..], next] {
            let alive = voters.iter().filter(|g| self.seen.gateways.contains_key(g)).count();
            assert!(alive > voters.len() / 2, "{shard}: no majority of {voters:?} can be reached");
        }
        for gateway in &comes {
            assert!(
                self.seen.learners[&(shard, *gateway)].is_ready,
                "{shard}: {gateway} does not hold everything"
            );
            self.copies += usize::from(shard != DIRECTORY_GROUP);
        }
        self.shrinks += usize::from(comes.is_empty() && shard != DIRECTORY_GROUP);
        for gateway in next {
            self.seen.learners.remove(&(shard, *gateway));
        }
        // All other gateways continue to learn the directory.
        let mut learners = if shard == DIRECTORY_GROUP { known.learners } else { Vec::new() };
        learners.retain(|g| !next.contains(g));
        if shard == DIRECTORY_GROUP {
            learners.extend(leaves.into_iter().copied());
        }
        let chosen = ShardConfiguration { number: known.number + 1, voters: next.to_vec(), learners };
        self.chosen.insert(shard, chosen.clone());
        self.report(shard, chosen);
    }

    /// Carries out one step. Returns the outcome if the step was a command.
    pub fn carry_out(&mut self, step: &DirectoryStep) -> Option<DirectoryOutcome> {
        match step {
            DirectoryStep::Propose(command) => {
                if let DirectoryCommand::Remove { .. } = command {
                    // The proposer has the shards report first, and the reports may change the plan.
                    self.hear_all();
                    if !plan(&self.directory, &self.seen).contains(step) {
                        return None;
                    }
                }
                if let DirectoryCommand::EndMove { shard, .. } = command {
                    let comes = self.directory.moves().get(shard).and_then(|m| m.comes);
                    comes.map(|g| self.seen.learners.remove(&(*shard, g)));
                }
                return Some(self.tell(command.clone()));
            }
            DirectoryStep::StopLeading { gateway } => {
                self.seen.gateways.entry(*gateway).and_modify(|g| g.leads = 0);
            }
            DirectoryStep::SendDevicesAway { gateway } => {
                self.seen.gateways.entry(*gateway).and_modify(|g| g.devices = 0);
            }
            DirectoryStep::Learn { shard, gateway } => self.learn(*shard, *gateway),
            DirectoryStep::Stop { shard, configuration, next, directory_slot } => {
                self.stop(*shard, *configuration, next, *directory_slot);
            }
        }
        None
    }

    /// Plans and carries out steps until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..20_000 {
            let steps = plan(&self.directory, &self.seen);
            if steps.is_empty() {
                return;
            }
            for step in steps {
                self.carry_out(&step);
            }
        }
        panic!("it never comes to rest: {:?}", plan(&self.directory, &self.seen));
    }

    pub fn elapse(&mut self, ms: u64) {
        self.seen.elapsed = ElapsedMs(self.seen.elapsed.0 + ms);
    }
}
