//! How many failures a site can still tolerate.

use super::configuration::majority;
use super::plan::Seen;
use super::{Directory, Group};
use selvedge_types::ids::{GatewayId, ShardId};
use std::fmt;

/// The groups that have lost their majority, or lose it with one more failure.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SiteHealth {
    /// Groups without a reachable majority of voters.
    pub standing_still: Vec<ShardId>,
    /// Groups that lose their majority when one more reachable voter fails.
    pub one_failure_away: Vec<ShardId>,
    /// The number of active full gateways and the number of wanted replicas, if a shard gets fewer voters than wanted,
    /// even with a witness.
    pub too_few: Option<(usize, usize)>,
}

impl Directory {
    /// Counts the reachable voters of each group. A voter counts as reachable if it is in `seen` and not gone.
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
