//! The configurations that groups reported: each shard chooses its own, and the directory keeps the newest.

use crate::ring::{MAX_GATEWAYS, MAX_REPLICAS};
use bincode::{Decode, Encode};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, BTreeSet};

/// The configuration of a group, as one of its members reported it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ShardConfiguration {
    /// Starts at 1; each stop entry adds one.
    pub number: u32,
    /// The preferred leader comes first. At most [`MAX_REPLICAS`].
    pub voters: Vec<GatewayId>,
    /// Learners may change within a configuration; the last report of it wins.
    pub learners: Vec<GatewayId>,
}

impl ShardConfiguration {
    /// How many of the voters are a majority.
    pub fn majority(&self) -> usize {
        majority(self.voters.len())
    }

    /// Whether the number and the lists are within their bounds, and no gateway is named twice.
    pub(super) fn is_sound(&self) -> bool {
        let all: BTreeSet<GatewayId> = self.voters.iter().chain(&self.learners).copied().collect();
        self.number > 0
            && (1..=MAX_REPLICAS).contains(&self.voters.len())
            && self.learners.len() <= MAX_GATEWAYS
            && all.len() == self.voters.len() + self.learners.len()
    }
}

/// How many of `voters` voters are a majority.
pub(super) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// How a report relates to the known configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    News,
    Known,
    /// The report has the known number, but other voters.
    Contradicts,
}

/// The last configuration of each shard, and of the directory group.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Configurations(pub BTreeMap<ShardId, ShardConfiguration>);

impl Configurations {
    /// Applies a report; an older one changes nothing. Returns `None` if the site has no such group.
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

    /// Whether a gateway votes in any group.
    pub fn has_voter(&self, gateway: GatewayId) -> bool {
        self.0.values().any(|c| c.voters.contains(&gateway))
    }
}
