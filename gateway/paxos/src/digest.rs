//! A replica's state as a model checker compares it.

use super::consensus::{Consensus, State};
use std::hash::{Hash, Hasher};

impl Consensus {
    /// Hashes everything that decides what this replica may ever send, write or report as chosen, but no times, and
    /// nothing that only decides *when* or in which portions it sends something. Two replicas with the same digest
    /// differ at most in
    ///
    /// - the configuration (learners included), the clock, and every point in time to do something: only the timer reads these;
    /// - which members are reluctant to lead, and the numbers of attempts: these space campaigns and match the
    ///   answers of canvasses;
    /// - what a leader believes to be under way to a follower and where it continues (of a follower, only its votes
    ///   count);
    /// - how large tokens are, but not which of them are still open.
    pub fn digest(&self, state: &mut impl Hasher) {
        (&self.acceptor, self.leader, self.up, self.room, self.seen, self.owes_ack).hash(state);
        (self.acceptor.commit() - self.announced_commit.min(self.acceptor.commit())).hash(state);
        (self.announced_stop, &self.effects).hash(state);
        std::mem::discriminant(&self.state).hash(state);
        match &self.state {
            State::Following => {}
            State::Canvassing(canvass) => canvass.granted.hash(state),
            State::Preparing(candidate) => candidate.digest(self.token, state),
            State::Leading(leader) => leader.digest(self.token, self.acceptor.commit(), state),
        }
        self.damage.is_some().hash(state);
        if let Some(damage) = &self.damage {
            damage.digest(state);
        }
    }
}
