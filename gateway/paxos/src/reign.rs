//! A leader at work: it counts votes, keeps followers up to date, confirms reads, and notices when it can't lead.

use super::config::{Limits, Members};
use super::consensus::{Consensus, State};
use super::leader::{Leader, Progress};
use super::message::{Ballot, Message, Slot};
use selvedge_types::canary::{self, Canary};

impl Leader {
    /// When the leader next wants the timer.
    pub(super) fn deadline(&self, up: Members, stopped: Option<Slot>, limits: &Limits) -> Option<u64> {
        let followers = self.followers.iter().enumerate().filter(|(rank, _)| up.contains(*rank));
        let resend = followers.filter_map(|(_, f)| f.deadline(stopped.is_some())).min();
        let reads = (!self.reads.asked.is_empty()).then_some(self.reads.resend_at_ms);
        let stall = self.stalled_since_ms.map(|since| since + limits.stall_ms);
        resend.into_iter().chain(reads).chain(stall).min()
    }
}

impl Consensus {
    pub(super) fn on_accepted(
        &mut self,
        from: usize,
        ballot: Ballot,
        upto: Slot,
        (commit, recorded): (Slot, Slot),
        vote: bool,
        damaged: bool,
    ) {
        let last = self.acceptor.prefix();
        let (now, votes) = (self.now, self.is_member(from));
        let Some(leader) = self.leading(ballot) else { return };
        let Some(follower) = leader.followers.get_mut(from) else { return };
        if upto > last {
            return; // it can't have entries that were never sent
        }
        follower.accepted(upto, commit, vote);
        follower.undamaged = !damaged;
        follower.recorded = follower.recorded.max(recorded);
        if votes {
            leader.heard_ms = now; // that a learner answers says nothing of the majority
        }
        self.count_votes();
    }

    pub(super) fn on_lagging(&mut self, from: usize, ballot: Ballot, prefix: Slot) {
        let last = self.acceptor.prefix();
        let (now, votes) = (self.now, self.is_member(from));
        let Some(leader) = self.leading(ballot) else { return };
        if let Some(follower) = leader.followers.get_mut(from)
            && prefix <= last
        {
            if votes {
                leader.heard_ms = now;
            }
            follower.lagging(prefix);
        }
    }

    pub(super) fn leading(&mut self, ballot: Ballot) -> Option<&mut Leader> {
        match &mut self.state {
            State::Leading(leader) if leader.ballot == ballot => Some(leader),
            _ => None,
        }
    }

    /// Raises the commit index to what a quorum has voted for.
    pub(super) fn count_votes(&mut self) {
        let members = self.config.members.len();
        let State::Leading(leader) = &mut self.state else { return };
        // Every slot above the commit index was proposed in this ballot, so only votes in it count.
        let chosen = leader.chosen(self.me, members).min(self.acceptor.prefix());
        if chosen > self.acceptor.commit() {
            self.acceptor.commit_to(chosen);
            let open = self.acceptor.prefix() > chosen;
            leader.stalled_since_ms = open.then_some(self.now);
            if self.acceptor.stopped().is_some() {
                leader.followers.iter_mut().for_each(Progress::begin_stop_notices);
            }
        }
    }

    /// Sends followers what they lack, and advances reads.
    pub(super) fn pump(&mut self) {
        let State::Leading(leader) = &mut self.state else { return };
        let (now, me, up) = (self.now, self.me, self.up);
        let ballot = leader.ballot;
        for (rank, follower) in leader.followers.iter_mut().enumerate() {
            let Some(id) = self.config.gateway(rank) else { continue };
            if rank == me || !up.contains(rank) {
                continue;
            }
            let send = |message| self.effects.send.push((id, message));
            if follower.pump(now, ballot, &self.acceptor, &self.config.limits, send) {
                self.effects.behind.push(id);
            }
        }
        self.pump_reads();
    }

    pub(super) fn read(&mut self, id: u64) {
        let stop = self.acceptor.stop();
        let stopped = self.stopped().is_some();
        match &mut self.state {
            // The next configuration may have chosen values already. If this leader adopted the stop, an earlier leader
            // may have had it chosen; otherwise, nobody knows before this leader that it is.
            State::Leading(leader) if stopped || stop == Some(leader.start) => {
                self.effects.reads_failed.push(id)
            }
            State::Leading(leader) if leader.reads.len() < self.config.limits.waiting_reads => {
                leader.reads.waiting.push(id);
            }
            _ => self.effects.reads_failed.push(id),
        }
    }

    /// Begins a round for the waiting reads, if none is under way.
    fn pump_reads(&mut self) {
        let quorum = self.quorum();
        let State::Leading(leader) = &mut self.state else { return };
        // Only when an entry of its own ballot is chosen does the leader know everything that was chosen before.
        let ready = self.acceptor.commit() >= leader.start;
        if !ready || !leader.reads.asked.is_empty() || leader.reads.waiting.is_empty() {
            return;
        }
        let reads = &mut leader.reads;
        reads.asked = std::mem::take(&mut reads.waiting);
        reads.round += 1;
        reads.slot = self.acceptor.commit();
        reads.confirmed = Members::only(self.me);
        reads.resend_at_ms = self.now + self.config.limits.resend_ms;
        reads.since_ms = self.now;
        if quorum == 1 || canary::makes(Canary::StaleRead) {
            return self.finish_reads();
        }
        self.ask_confirmation();
    }

    fn ask_confirmation(&mut self) {
        let State::Leading(leader) = &self.state else { return };
        let (ballot, n, confirmed) = (leader.ballot, leader.reads.round, leader.reads.confirmed);
        for rank in
            self.others().filter(|&r| self.up.contains(r) && !confirmed.contains(r)).collect::<Vec<_>>()
        {
            self.send(rank, Message::Confirm { ballot, n });
        }
    }

    pub(super) fn on_confirmed(&mut self, from: usize, ballot: Ballot, n: u64) {
        let quorum = self.quorum();
        let Some(leader) = self.leading(ballot) else { return };
        if leader.reads.round != n || leader.reads.asked.is_empty() {
            return;
        }
        leader.reads.confirmed.insert(from);
        if leader.reads.confirmed.len() >= quorum {
            self.finish_reads();
        }
    }

    fn finish_reads(&mut self) {
        let State::Leading(leader) = &mut self.state else { return };
        let slot = leader.reads.slot;
        self.effects.reads.extend(leader.reads.asked.drain(..).map(|id| (id, slot)));
    }

    pub(super) fn leader_timer(&mut self) {
        let limits = &self.config.limits;
        let (now, up, commit) = (self.now, self.up, self.acceptor.commit());
        let State::Leading(leader) = &mut self.state else { return };
        if leader.stalled_since_ms.is_some_and(|since| since + limits.stall_ms <= now) {
            // If its own vote is missing, its disk hangs; if no follower answers, its messages are lost. Another
            // replica may do better. If neither is the case, followers are catching up, and another could not do
            // better.
            let alone = self.config.members.len() == 1;
            let mute = leader.heard_ms + limits.stall_ms <= now;
            if !alone && (leader.own() <= commit || mute) {
                return self.resign(self.config.limits.yield_ms);
            }
            leader.stalled_since_ms = Some(now);
        }
        for (rank, follower) in leader.followers.iter_mut().enumerate() {
            if up.contains(rank) {
                follower.timer(now, &self.acceptor);
            }
        }
        if !leader.reads.asked.is_empty() && leader.reads.resend_at_ms <= now {
            leader.reads.resend_at_ms = now + limits.resend_ms;
            if leader.reads.since_ms + limits.stall_ms <= now {
                self.effects.reads_failed.append(&mut leader.reads.asked);
            } else {
                self.ask_confirmation();
            }
        }
    }
}
