//! How a replica that lost records, and may have forgotten votes, comes to vote again.

use super::config::Members;
use super::consensus::{Consensus, State};
use super::message::{Ballot, Message, Slot};
use selvedge_types::canary::{self, Canary};
use std::hash::{Hash, Hasher};

/// How far a damaged replica has healed.
#[derive(Debug, Clone)]
pub(super) struct Damage {
    nonce: u64,
    /// The members that have answered, itself included.
    answered: Members,
    /// The highest ballot that any of them has promised: no lost vote was cast in a higher one.
    above: Ballot,
    /// The slot that must be known as chosen: that of the first own entry of a leader in a ballot above.
    mark: Option<Slot>,
    asked_all: bool,
    ask_at_ms: u64,
}

impl Damage {
    /// `me`: this replica, if it is a member.
    pub fn new(nonce: u64, me: Members) -> Self {
        let answered = me;
        Self { nonce, answered, above: Ballot::ZERO, mark: None, asked_all: false, ask_at_ms: 0 }
    }

    /// The leader, or whom this replica can ask, has changed: it asks at the next opportunity. The log of the new
    /// leader may never reach the mark of the old one.
    pub fn begin_with_new_leader(&mut self, now: u64) {
        self.mark = None;
        self.ask_at_ms = self.ask_at_ms.min(now);
    }

    /// Adds what [`Consensus::digest`](super::Consensus::digest) compares.
    pub fn digest(&self, state: &mut impl Hasher) {
        (self.nonce, self.answered, self.above, self.mark, self.asked_all).hash(state);
    }
}

impl Consensus {
    /// When to ask again; none as long as there is no one to ask.
    pub(super) fn damage_deadline(&self, damage: &Damage) -> Option<u64> {
        let up = self.up.and(self.members()).without(Members::only(self.me));
        let led = self.is_led();
        let somebody = if damage.asked_all { up.len() > 0 } else { up.without(damage.answered).len() > 0 };
        ((damage.mark.is_none() || !led) && somebody).then_some(damage.ask_at_ms)
    }

    /// Sends the questions that are still open, if their time has come.
    pub(super) fn ask_around(&mut self) {
        let (now, wait) = (self.now, self.config.limits.resend_ms);
        let (led, leader) = (self.is_led(), self.leader);
        if self.stopped().is_some() {
            return; // the next configuration begins damaged
        }
        let Some(damage) = &mut self.damage else { return };
        if damage.ask_at_ms > now {
            return;
        }
        damage.ask_at_ms = now + wait;
        let (nonce, above, answered) = (damage.nonce, damage.above, damage.answered);
        let unasked = self.up.without(answered);
        if !damage.asked_all {
            for rank in self.others().filter(|&r| unasked.contains(r)) {
                self.send(rank, Message::Recovering { nonce });
            }
        } else if !led {
            // Messages of an earlier process may have reached others late: a replica that still takes this one for
            // its leader must look for another, because this one can't campaign.
            damage.ask_at_ms = now + self.config.limits.yield_ms;
            let ballot = self.seen;
            self.tell_others_up(|| Message::Resigned { ballot });
        } else if let (Some(leader), None) = (leader, damage.mark) {
            self.send(leader, Message::Rejoin { nonce, above });
        }
    }

    pub(super) fn on_recovering(&mut self, from: usize, nonce: u64) {
        if !self.is_member(self.me) {
            return; // a learner has promised nothing
        }
        let (promised, damaged) = (self.acceptor.promised(), self.damage.is_some());
        self.send_after(from, Message::Standing { nonce, promised, damaged });
    }

    pub(super) fn on_standing(&mut self, from: usize, nonce: u64, promised: Ballot, damaged: bool) {
        self.seen = self.seen.max(promised);
        let all = self.config.members.len();
        let now = self.now;
        let Some(damage) = &mut self.damage else { return };
        if damage.nonce != nonce || damage.asked_all {
            return;
        }
        damage.answered.insert(from);
        if !damaged {
            damage.above = damage.above.max(promised);
        }
        let needed = if canary::makes(Canary::MajorityHeals) { all / 2 + 1 } else { all };
        if damage.answered.len() >= needed {
            damage.asked_all = true;
            damage.ask_at_ms = now;
        }
    }

    /// A damaged follower needs an election in a ballot above all that it may have voted in. If this leader's
    /// ballot isn't above them, it has itself elected anew.
    pub(super) fn on_rejoin(&mut self, from: usize, nonce: u64, above: Ballot) {
        self.seen = self.seen.max(above);
        let State::Leading(leader) = &self.state else { return };
        if leader.ballot > above {
            let slot = leader.start;
            self.send(from, Message::Mark { nonce, slot });
        } else if self.room && self.may_campaign() && self.acceptor.commit() >= leader.start {
            self.prepare();
        }
    }

    pub(super) fn on_mark(&mut self, nonce: u64, slot: Slot) {
        if let Some(damage) = &mut self.damage
            && damage.nonce == nonce
            && damage.asked_all
        {
            damage.mark = Some(slot);
        }
    }

    /// Votes again once the replica knows everything that its lost votes may have helped to choose.
    pub(super) fn check_healed(&mut self) {
        let commit = self.acceptor.commit();
        let Some(damage) = &self.damage else { return };
        if self.stopped().is_some() {
            // It may have voted in the next configuration as well, so it goes on damaged there.
            return;
        }
        if damage.mark.is_some_and(|mark| commit >= mark) && self.room {
            let above = damage.above;
            self.damage = None;
            self.logged_after = commit;
            // This covers the forgotten promises as well: none was of a higher ballot.
            if above > self.acceptor.promised() {
                self.follow(None);
                self.acceptor.promise(above);
            }
            self.effects.healed = true;
            self.effects.leadership_changed = true;
            self.owes_ack = self.leader.is_some();
        }
    }
}
