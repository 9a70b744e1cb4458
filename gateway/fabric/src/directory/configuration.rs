//! What the groups reported of themselves: each shard decides on its own configuration, and the directory repeats the newest.

use crate::ring::{MAX_GATEWAYS, MAX_REPLICAS};
use bincode::{Decode, Encode};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// The configuration of a group, as one of its members reported it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ShardConfiguration {
    /// From 1, one more with each stop entry.
    pub number: u32,
    /// Who votes, the preferred leader first.
    pub voters: Vec<GatewayId>,
    /// Who learns. These change within a configuration, and the last report of it counts.
    pub learners: Vec<GatewayId>,
}

impl ShardConfiguration {
    /// How many voters a decision takes.
    pub fn majority(&self) -> usize {
        majority(self.voters.len())
    }

    /// Whether it can be one, however wrong: its bounds, and nobody in it twice.
    pub(super) fn is_sound(&self) -> bool {
        let all: BTreeSet<GatewayId> = self.voters.iter().chain(&self.learners).copied().collect();
        self.number > 0
            && (1..=MAX_REPLICAS).contains(&self.voters.len())
            && self.learners.len() <= MAX_GATEWAYS
            && all.len() == self.voters.len() + self.learners.len()
    }
}

/// How many of so many voters a decision takes.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    News,
    Known,
    /// The same number with other voters.
    Contradicts,
}

/// The last configuration of each shard, and of the directory group.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Configurations(pub BTreeMap<ShardId, ShardConfiguration>);

impl Configurations {
    /// Takes a report in: an older one changes nothing. Nothing for a group that the site does not have.
    pub fn report(&mut self, group: ShardId, found: &ShardConfiguration) -> Option<Reported> {
        let known = self.0.get_mut(&group)?;
        Some(match found.number.cmp(&known.number) {
            std::cmp::Ordering::Less => Reported::Known,
            std::cmp::Ordering::Equal if found.voters != known.voters => Reported::Contradicts,
            std::cmp::Ordering::Equal if found.learners == known.learners => Reported::Known,
            _ => {
                known.clone_from(found);
                Reported::News
            }
        })
    }

    /// Whether a gateway votes anywhere.
    pub fn has_voter(&self, gateway: GatewayId) -> bool {
        self.0.values().any(|c| c.voters.contains(&gateway))
    }
}
