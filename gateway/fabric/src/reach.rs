//! Whom a gateway reaches, as its shards and its forwarding know it, and what they are told when that changes.
//!
//! The failure detector says which gateways are up and which have restarted ([`Change`]). A restart counts as a loss
//! and a return at once: what the old process was asked is not answered any more, and the new one knows nothing of
//! it.
//!
//! Invariant: forwarding is told that a gateway is gone before it is told that it is back.

use super::detector::Change;
use selvedge_types::ids::GatewayId;
use std::collections::BTreeSet;

/// The gateways that are up, as everybody within this gateway was last told.
#[derive(Debug)]
pub struct Reach {
    up: BTreeSet<GatewayId>,
}

/// What a change means for those who depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// For shards: all gateways that are up, this one among them.
    pub up: Vec<GatewayId>,
    /// For shards: the gateways whose process is another than the one last met.
    pub restarted: Vec<GatewayId>,
    /// The gateways that were up and are not any more.
    pub lost: Vec<GatewayId>,
    /// The gateways that were not up and are now.
    pub reached: Vec<GatewayId>,
}

impl News {
    /// For forwarding, first: what these gateways were sent is not answered any more.
    pub fn gone(&self) -> impl Iterator<Item = GatewayId> {
        self.lost.iter().chain(&self.restarted).copied()
    }

    /// For forwarding, then: these gateways can be asked again.
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

    /// The gateways that are up, this one among them.
    pub fn up(&self) -> &BTreeSet<GatewayId> {
        &self.up
    }

    /// The detector has seen a change. (Which connections to close is the links' affair.)
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
