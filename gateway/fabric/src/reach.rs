//! Which gateways this one can reach, directly or by a detour, and the news for its shards and its forwarding when that
//! changes.
//!
//! The failure detector says which gateways are up, which of them have restarted, and which gateways each of them has up
//! itself ([`Change`]). A restart counts as a loss and a return at once: requests to the old process will not be answered
//! any more, and the new one knows nothing of them.
//!
//! A gateway that is not up is *within reach* if one that is up says that it has it up. Messages that may take a detour
//! ([`crate::detour`]) go to it through that one. A gateway's word is as old as its last frame, at most a heartbeat, plus
//! the time that its own detector needs. So it counts only some time after the other one was lost here
//! ([`crate::detector`]): otherwise forwarding would wait for a dead leader by a detour instead of asking who leads now.
//!
//! Invariant: forwarding learns that a gateway is gone before it learns that it is back. A gateway that was up and is
//! within reach only by a detour now is gone and back at once: answers that were under way may be lost with the link.
//! Invariant: the same reports give the same detour.

use super::detector::{Change, ReachReports};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeSet;

/// The gateways within reach of one that has these up: those, and the ones that some of them have up.
pub fn within(up: impl IntoIterator<Item = GatewayId>, said: &ReachReports) -> BTreeSet<GatewayId> {
    let up: BTreeSet<GatewayId> = up.into_iter().collect();
    let by_detour = said.iter().filter(|(peer, _)| up.contains(peer)).flat_map(|(_, theirs)| theirs);
    let by_detour: Vec<GatewayId> = by_detour.copied().collect();
    up.into_iter().chain(by_detour).collect()
}

/// The gateways that are up and within reach, according to the last news given out.
#[derive(Debug)]
pub struct Reach {
    me: GatewayId,
    up: BTreeSet<GatewayId>,
    said: ReachReports,
}

/// The consequences of a change for shards and forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// For shards: all gateways that are up, including this one.
    pub up: Vec<GatewayId>,
    /// For shards: the gateways whose process is another than the one last seen.
    pub restarted: Vec<GatewayId>,
    /// For shards: the gateways that each of these has up.
    pub said: ReachReports,
    /// The gateways that were up and are not any more.
    pub lost: Vec<GatewayId>,
    /// The gateways that were not up and are now.
    pub reached: Vec<GatewayId>,
    /// For forwarding, first: what was sent to these gateways may stay without an answer.
    pub gone: BTreeSet<GatewayId>,
    /// For forwarding, second: these gateways can be asked (again).
    pub back: BTreeSet<GatewayId>,
}

impl Reach {
    /// At the start of a process only this gateway itself is up.
    pub fn new(me: GatewayId) -> Self {
        Self { me, up: BTreeSet::from([me]), said: ReachReports::new() }
    }

    /// The gateway whose view this is.
    pub fn me(&self) -> GatewayId {
        self.me
    }

    /// The gateways that are up, including this one.
    pub fn up(&self) -> &BTreeSet<GatewayId> {
        &self.up
    }

    /// The gateways that each of those that are up has up itself.
    pub fn said(&self) -> &ReachReports {
        &self.said
    }

    /// The gateways that are up or can be reached by a detour, including this one.
    pub fn within(&self) -> BTreeSet<GatewayId> {
        within(self.up.iter().copied(), &self.said)
    }

    /// The gateway through which a message gets to one that is not up: the first of `preferred` that is up and has it
    /// up, or else the one with the lowest number. `None` if there is none, or if no detour is needed.
    pub fn detour(&self, to: GatewayId, preferred: &[GatewayId]) -> Option<GatewayId> {
        if self.up.contains(&to) {
            return None;
        }
        let leads_there =
            |by: &GatewayId| *by != self.me && self.said.get(by).is_some_and(|s| s.contains(&to));
        preferred.iter().chain(self.said.keys()).copied().find(leads_there)
    }

    /// Takes in a change that the detector saw. (The links handle which connections to close.)
    pub fn changed(&mut self, Change { up, restarted, said, .. }: Change) -> News {
        let lost: Vec<GatewayId> = self.up.difference(&up).copied().collect();
        let reached = up.difference(&self.up).copied().collect();
        let before = self.within();
        (self.up, self.said) = (up, said);
        let within = self.within();
        let gone: BTreeSet<GatewayId> =
            before.difference(&within).chain(&lost).chain(&restarted).copied().collect();
        let back = within.iter().filter(|g| gone.contains(g) || !before.contains(g)).copied().collect();
        let (up, said) = (self.up.iter().copied().collect(), self.said.clone());
        News { up, restarted, said, lost, reached, gone, back }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &[u16]) -> Vec<GatewayId> {
        list.iter().copied().map(GatewayId).collect()
    }

    /// What each gateway says that it has up.
    type Said<'a> = &'a [(u16, &'a [u16])];

    fn change(up: &[u16], restarted: &[u16], said: Said<'_>) -> Change {
        let said = said.iter().map(|(peer, up)| (GatewayId(*peer), ids(up).into_iter().collect())).collect();
        Change { up: ids(up).into_iter().collect(), restarted: ids(restarted), cut: Vec::new(), said }
    }

    /// The gateways that forwarding takes for gone, and those that it takes for back.
    fn told(
        reach: &mut Reach,
        up: &[u16],
        restarted: &[u16],
        said: Said<'_>,
    ) -> (Vec<GatewayId>, Vec<GatewayId>) {
        let news = reach.changed(change(up, restarted, said));
        assert_eq!(news.up, ids(up));
        (news.gone.into_iter().collect(), news.back.into_iter().collect())
    }

    #[test]
    fn a_restart_is_a_loss_and_a_return() {
        let mut reach = Reach::new(GatewayId(1));
        assert_eq!(told(&mut reach, &[1, 2, 3], &[], &[]), (vec![], ids(&[2, 3])));
        assert_eq!(told(&mut reach, &[1, 3], &[], &[]), (ids(&[2]), vec![]));
        assert_eq!(told(&mut reach, &[1, 2, 3], &[3], &[]), (ids(&[3]), ids(&[2, 3])));
    }

    #[test]
    fn a_restarted_gateway_that_is_not_up_yet_is_not_back() {
        let mut reach = Reach::new(GatewayId(1));
        told(&mut reach, &[1, 2], &[], &[]);
        assert_eq!(told(&mut reach, &[1], &[2], &[]), (ids(&[2]), vec![]));
        assert_eq!(told(&mut reach, &[1, 2], &[], &[]), (vec![], ids(&[2])));
    }

    #[test]
    fn a_gateway_that_a_neighbour_has_up_is_within_reach_and_its_answers_are_asked_for_again() {
        let mut reach = Reach::new(GatewayId(1));
        told(&mut reach, &[1, 2, 3], &[], &[(2, &[1, 2, 3]), (3, &[1, 2, 3])]);
        assert_eq!(reach.detour(GatewayId(2), &[]), None, "it is up");
        assert_eq!(told(&mut reach, &[1, 3], &[], &[(3, &[1, 2, 3])]), (ids(&[2]), ids(&[2])));
        assert_eq!(reach.detour(GatewayId(2), &[]), Some(GatewayId(3)));
        assert_eq!(reach.within(), ids(&[1, 2, 3]).into_iter().collect());
        assert_eq!(
            told(&mut reach, &[1, 3], &[], &[(3, &[1, 3])]),
            (ids(&[2]), vec![]),
            "3 has lost it, too"
        );
        assert_eq!(reach.detour(GatewayId(2), &[]), None);
        assert_eq!(told(&mut reach, &[1, 3], &[], &[(3, &[1, 2, 3])]), (vec![], ids(&[2])));
        assert_eq!(told(&mut reach, &[1], &[], &[]), (ids(&[2, 3]), vec![]), "the neighbour is lost");
    }

    #[test]
    fn a_detour_goes_through_a_preferred_gateway_or_the_first() {
        let mut reach = Reach::new(GatewayId(1));
        told(&mut reach, &[1, 3, 4, 5], &[], &[(3, &[1, 3]), (4, &[1, 2, 4]), (5, &[1, 2, 5])]);
        let through = |preferred: &[u16]| reach.detour(GatewayId(2), &ids(preferred));
        assert_eq!(through(&[]), Some(GatewayId(4)));
        assert_eq!(through(&[2, 3, 5, 4]), Some(GatewayId(5)), "3 does not reach it");
        assert_eq!(through(&[1, 2]), Some(GatewayId(4)), "none of these leads there");
        assert_eq!(reach.detour(GatewayId(9), &[]), None);
    }

    #[test]
    fn of_several_changes_the_last_says_who_is_up_and_all_say_who_restarted() {
        let mut first = change(&[1, 2], &[2], &[(2, &[2])]);
        first.then(change(&[1], &[], &[]));
        first.then(change(&[1, 2, 3], &[3, 2], &[(3, &[1])]));
        assert_eq!(first, change(&[1, 2, 3], &[2, 3], &[(3, &[1])]));
    }
}
