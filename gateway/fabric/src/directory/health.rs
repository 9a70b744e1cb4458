//! How many failures a site stands.

use super::configuration::majority;
use super::plan::Seen;
use super::{Directory, Group};
use selvedge_types::ids::{GatewayId, ShardId};
use std::fmt;

/// How far the groups of a site are from standing still.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SiteHealth {
    /// Groups of whose voters no majority can be reached.
    pub standing_still: Vec<ShardId>,
    /// Groups that stand still when one more of their voters fails.
    pub one_failure_away: Vec<ShardId>,
    /// How many active full gateways there are, and how many replicas are wanted, if that is more and no witness makes up for it.
    pub too_few: Option<(usize, usize)>,
}

impl Directory {
    /// How far each group is from standing still, as its voters are seen now.
    pub fn health(&self, seen: &Seen) -> SiteHealth {
        let mut health = SiteHealth::default();
        for (shard, configuration) in self.configurations() {
            let voters = &configuration.voters;
            let alive = |g: &&GatewayId| self.gateway(**g).is_some() && seen.gateways.contains_key(*g);
            let alive = voters.iter().filter(alive).count();
            match alive.cmp(&majority(voters.len())) {
                std::cmp::Ordering::Less => health.standing_still.push(shard),
                std::cmp::Ordering::Equal => health.one_failure_away.push(shard),
                std::cmp::Ordering::Greater => {}
            }
        }
        let full = self.gateways().filter(|(_, g)| g.is_active_full()).count();
        let placed = self.placement().wanted(ShardId(0)).len();
        health.too_few = (placed < self.replicas()).then_some((full, self.replicas()));
        health
    }
}

impl fmt::Display for SiteHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = Vec::new();
        for (groups, what) in [
            (&self.standing_still, "stand still: too few of their gateways can be reached"),
            (&self.one_failure_away, "are one failure from standing still"),
        ] {
            match groups.as_slice() {
                [] => {}
                [first] => all.push(format!("{}: {what}", Group(*first))),
                [first, ..] => {
                    all.push(format!("{} groups ({} and others) {what}", groups.len(), Group(*first)))
                }
            }
        }
        if let Some((full, wanted)) = self.too_few {
            all.push(format!(
                "{full} active gateways hold data, and {wanted} replicas are wanted: add gateways"
            ));
        }
        f.write_str(if all.is_empty() { "any one gateway may fail" } else { "" })?;
        f.write_str(&all.join("; "))
    }
}
