//! Which gateways this one can reach, and the news for its shards and its forwarding when that changes.
//!
//! The failure detector says which gateways are up and which have restarted ([`Change`]). A restart counts as a
//! loss and a return at once: requests to the old process will not be answered any more, and the new one knows
//! nothing of them.
//!
//! Invariant: forwarding learns that a gateway is gone before it learns that it is back.

use super::detector::Change;
use selvedge_types::ids::GatewayId;
use std::collections::BTreeSet;

/// The gateways that are up, according to the last news given out.
#[derive(Debug)]
pub struct Reach {
    up: BTreeSet<GatewayId>,
}

/// The consequences of a change for shards and forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// For shards: all gateways that are up, including this one.
    pub up: Vec<GatewayId>,
    /// For shards: the gateways whose process is another than the one last seen.
    pub restarted: Vec<GatewayId>,
    /// The gateways that were up and are not any more.
    pub lost: Vec<GatewayId>,
    /// The gateways that were not up and are now.
    pub reached: Vec<GatewayId>,
}

impl News {
    /// For forwarding, first: these gateways will not answer what was sent to them.
    pub fn gone(&self) -> impl Iterator<Item = GatewayId> {
        self.lost.iter().chain(&self.restarted).copied()
    }

    /// For forwarding, second: these gateways can be asked again.
    pub fn back(&self) -> impl Iterator<Item = GatewayId> {
        let restarted = self.restarted.iter().filter(|r| self.up.contains(r));
        self.reached.iter().chain(restarted).copied()
    }
}

impl Reach {
    /// At the start of a process only this gateway itself is up.
    pub fn new(me: GatewayId) -> Self {
        Self { up: BTreeSet::from([me]) }
    }

    /// The gateways that are up, including this one.
    pub fn up(&self) -> &BTreeSet<GatewayId> {
        &self.up
    }

    /// Takes in a change that the detector saw. (The links handle which connections to close.)
    pub fn changed(&mut self, Change { up, restarted, .. }: Change) -> News {
        let lost = self.up.difference(&up).copied().collect();
        let reached = up.difference(&self.up).copied().collect();
        self.up = up;
        News { up: self.up.iter().copied().collect(), restarted, lost, reached }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[u16]) -> Vec<GatewayId> {
        list.iter().copied().map(GatewayId).collect()
    }

    fn change(up: &[u16], restarted: &[u16]) -> Change {
        Change { up: ids(up).into_iter().collect(), restarted: ids(restarted), cut: Vec::new() }
    }

    fn told(reach: &mut Reach, up: &[u16], restarted: &[u16]) -> (Vec<GatewayId>, Vec<GatewayId>) {
        let news = reach.changed(change(up, restarted));
        assert_eq!(news.up, ids(up));
        (news.gone().collect(), news.back().collect())
    }

    #[test]
    fn a_restart_is_a_loss_and_a_return() {
        let mut reach = Reach::new(GatewayId(1));
        assert_eq!(told(&mut reach, &[1, 2, 3], &[]), (vec![], ids(&[2, 3])));
        assert_eq!(told(&mut reach, &[1, 3], &[]), (ids(&[2]), vec![]));
        assert_eq!(told(&mut reach, &[1, 2, 3], &[3]), (ids(&[3]), ids(&[2, 3])));
    }

    #[test]
    fn a_restarted_gateway_that_is_not_up_yet_is_not_back() {
        let mut reach = Reach::new(GatewayId(1));
        told(&mut reach, &[1, 2], &[]);
        assert_eq!(told(&mut reach, &[1], &[2]), (ids(&[2, 2]), vec![]));
        assert_eq!(told(&mut reach, &[1, 2], &[]), (vec![], ids(&[2])));
    }

    #[test]
    fn of_several_changes_the_last_says_who_is_up_and_all_say_who_restarted() {
        let mut first = change(&[1, 2], &[2]);
        first.then(change(&[1], &[]));
        first.then(change(&[1, 2, 3], &[3, 2]));
        assert_eq!(first, change(&[1, 2, 3], &[2, 3]));
    }
}
