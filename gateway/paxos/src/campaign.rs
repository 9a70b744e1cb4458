//! Campaigns: from "there is no leader" to leading, and supporting the campaigns of others.

use super::consensus::{Consensus, State};
use super::election::{Candidate, Canvass, Chunk};
use super::leader::Leader;
use super::message::{Ballot, MAX_COUNT, Message, Slot, Value};
use selvedge_types::canary::{self, Canary};

impl Consensus {
    /// Asks the other members whether an attempt to lead would succeed.
    pub(super) fn canvass(&mut self) {
        if !self.room || !self.may_campaign() {
            // It could not write its ballot, or it never leads. Replicas that still take it for the leader must learn
            // that it does not lead, and a leader that it does not know answers.
            let ballot = self.acceptor.promised();
            self.tell_others_up(|| Message::Resigned { ballot });
            self.fail_attempt();
            return;
        }
        if self.quorum() == 1 {
            return self.prepare();
        }
        self.canvasses += 1;
        let attempt = self.canvasses;
        let until_ms = self.now + self.config.limits.resend_ms;
        self.state =
            State::Canvassing(Canvass { attempt, granted: super::config::Members::only(self.me), until_ms });
        self.leader = None;
        self.effects.leadership_changed = true;
        let commit = self.acceptor.commit();
        self.tell_others_up(|| Message::Canvass { attempt, commit });
    }

    pub(super) fn on_canvass(&mut self, from: usize, attempt: u64, commit: Slot) {
        if self.leader == Some(from) {
            self.follow(None); // it would not ask if it still led
        }
        if !self.is_member(self.me) {
            return; // a learner supports nobody
        }
        let led = self.is_led();
        let too_old = commit + 1 < self.acceptor.log().first();
        let granted = !led && !too_old && self.room && self.damage.is_none();
        if let State::Leading(leader) = &mut self.state
            && let Some(follower) = leader.followers.get_mut(from)
        {
            follower.probe_due = true; // it does not know who leads
        }
        if granted {
            self.be_patient();
        } else if !led && too_old {
            // Only a replica with more recent entries can lead: this one.
            self.campaign_instead(from);
        }
        let seen = self.seen;
        self.send(from, Message::Canvassed { attempt, granted, seen });
    }

    pub(super) fn on_canvassed(&mut self, from: usize, attempt: u64, granted: bool, seen: Ballot) {
        self.seen = self.seen.max(seen);
        let quorum = self.quorum();
        let State::Canvassing(canvass) = &mut self.state else { return };
        if canvass.attempt != attempt || !granted {
            return;
        }
        canvass.granted.insert(from);
        if canvass.granted.len() >= quorum {
            self.prepare();
        }
    }

    /// Begins phase 1 in a ballot above all that this replica has seen.
    pub(super) fn prepare(&mut self) {
        let top = self.seen.max(self.acceptor.promised()).round;
        if top >= MAX_COUNT || !self.room || self.damage.is_some() || !self.may_campaign() {
            return self.fail_attempt();
        }
        let mut ballot = Ballot { round: top + 1, gateway: self.config.me.0 };
        let old = self.acceptor.promised();
        if canary::makes(Canary::BallotUsedAgain) && old.leader() == self.config.me && old >= self.seen {
            ballot = old;
        }
        self.follow(None);
        self.seen = ballot;
        // Invariant: a restarted replica never leads in a ballot that it used before. It promises its own ballot,
        // and that promise is on disk before any other replica hears of the ballot.
        self.acceptor.promise(ballot);
        let limits = &self.config.limits;
        let (resend, until) = (self.now + limits.resend_ms, self.now + limits.attempt_ms);
        let members = self.config.members.len();
        self.state = State::Preparing(Box::new(Candidate::new(ballot, members, resend, until)));
        self.effects.leadership_changed = true;
        self.ask_promises();
    }

    fn ask_promises(&mut self) {
        let State::Preparing(candidate) = &self.state else { return };
        let commit = self.acceptor.commit();
        let ballot = candidate.ballot;
        let asks: Vec<_> = self
            .others()
            .filter(|&rank| self.up.contains(rank))
            .filter_map(|rank| Some((rank, candidate.next_for(rank, commit)?)))
            .collect();
        for (rank, from) in asks {
            if canary::makes(Canary::PrepareBeforeDurable) {
                self.send(rank, Message::Prepare { ballot, from });
            } else {
                self.send_after(rank, Message::Prepare { ballot, from });
            }
        }
    }

    pub(super) fn prepare_timer(&mut self) {
        let (now, wait) = (self.now, self.config.limits.resend_ms);
        let State::Preparing(candidate) = &mut self.state else { return };
        if candidate.until_ms <= now {
            self.fail_attempt();
        } else if candidate.resend_at_ms <= now {
            candidate.resend_at_ms = now + wait;
            // Before the ballot is on disk no message has left, and those to send are waiting already.
            if candidate.durable {
                self.ask_promises();
            }
        }
    }

    /// Phase 1 at a voter.
    pub(super) fn on_prepare(&mut self, from: usize, ballot: Ballot, slot: Slot) {
        self.seen = self.seen.max(ballot);
        if !self.is_member(self.me) {
            return; // a learner promises nothing
        }
        let promised = self.acceptor.promised();
        if ballot < promised {
            return self.send(from, Message::Refused { promised });
        }
        if self.damage.is_some() || (ballot > promised && !self.room) {
            return;
        }
        let first = self.acceptor.log().first();
        if slot < first {
            if !self.is_led() {
                self.campaign_instead(from);
            }
            return self.send(from, Message::Behind { ballot, first });
        }
        if ballot > promised {
            self.follow(None);
            self.acceptor.promise(ballot);
        }
        if self.leader.is_some() {
            return; // an echo: this ballot leads already
        }
        self.be_patient();
        let log = self.acceptor.log();
        let chunk = log.chunk(slot, log.last(), self.config.limits.chunk_bytes);
        let entries: Vec<_> = chunk.map(|e| (e.ballot, e.value.clone())).collect();
        let more = slot + (entries.len() as Slot) <= log.last();
        let commit = self.acceptor.commit();
        self.send_after(from, Message::Promise { ballot, from: slot, commit, entries, more });
    }

    /// A candidate lacks entries that have left this replica's memory.
    fn campaign_instead(&mut self, of: usize) {
        if self.may_campaign() {
            self.campaign_at = self.campaign_at.min(self.now);
        } else if let Some(id) = self.config.gateway(of)
            && self.damage.is_none()
            && !self.effects.behind.contains(&id)
        {
            // A witness never leads, and nobody needs to lead where the stop is chosen: the host helps the candidate.
            self.effects.behind.push(id);
        }
    }

    pub(super) fn on_promise(
        &mut self,
        rank: usize,
        ballot: Ballot,
        from: Slot,
        theirs: Slot,
        entries: Vec<(Ballot, Value)>,
        more: bool,
    ) {
        let (now, limits) = (self.now, &self.config.limits);
        let State::Preparing(candidate) = &mut self.state else { return };
        let commit = self.acceptor.commit();
        if candidate.ballot != ballot || !candidate.expects(rank, from, commit) {
            return;
        }
        // The candidate learns at once what the promiser knows to be chosen, so that it need not be held twice.
        for (slot, (_, value)) in (from..).zip(&entries) {
            if slot > theirs {
                break;
            }
            if slot == self.acceptor.commit() + 1 {
                if self.acceptor.is_full() {
                    return; // asked again by the timer, when the host has applied and trimmed
                }
                self.acceptor.learn(value.clone());
            }
        }
        candidate.until_ms = now + limits.attempt_ms;
        match candidate.take(rank, from, theirs, entries, more, limits.memory_bytes) {
            Chunk::Stale => {}
            Chunk::More(next) => self.send_after(rank, Message::Prepare { ballot, from: next }),
            Chunk::Done => {}
            Chunk::TooMuch => return self.fail_attempt(),
        }
        self.lead_if_complete();
    }

    /// A voter has trimmed entries that this candidate lacks: a replica with more recent entries should lead, and
    /// then brings this one up to date.
    pub(super) fn on_behind(&mut self, ballot: Ballot) {
        if matches!(&self.state, State::Preparing(c) if c.ballot == ballot) {
            self.fail_attempt();
            let limits = &self.config.limits;
            self.campaign_at = self.campaign_at.max(self.now + limits.yield_ms);
        }
    }

    pub(super) fn on_refused(&mut self, promised: Ballot) {
        self.seen = self.seen.max(promised);
        let own = match &self.state {
            State::Preparing(candidate) => candidate.ballot,
            State::Leading(leader) => leader.ballot,
            State::Following | State::Canvassing(_) => return,
        };
        if promised > own {
            self.fail_attempt();
        }
    }

    pub(super) fn on_resigned(&mut self, from: usize, ballot: Ballot) {
        self.seen = self.seen.max(ballot);
        if self.leader == Some(from) && ballot >= self.acceptor.promised() {
            self.follow(None);
        }
        if let State::Leading(leader) = &mut self.state
            && let Some(follower) = leader.followers.get_mut(from)
        {
            follower.probe_due = true; // it may not know who leads
        }
    }

    /// Leads, if phase 1 is complete.
    pub(super) fn lead_if_complete(&mut self) {
        let quorum = self.quorum();
        if self.stopped().is_some() {
            return; // learned from a promise: there is nothing left to lead
        }
        let State::Preparing(candidate) = &mut self.state else { return };
        let commit = self.acceptor.commit();
        if !candidate.is_complete(quorum, commit) {
            return;
        }
        if !self.room {
            return self.fail_attempt();
        }
        let ballot = candidate.ballot;
        debug_assert_eq!(ballot, self.acceptor.promised());
        // For each slot that may be chosen: the value that was accepted in the highest ballot, this replica's own
        // vote included. (A log has no holes, but a slot without a value would take an empty one.)
        // A stop drops what lies above it, and no opening entry follows it.
        let last = candidate.last().max(self.acceptor.log().last());
        let mut stop = None;
        for slot in commit + 1..=last {
            let theirs = candidate.best(slot);
            let own = self.acceptor.log().get(slot).map(|e| (e.ballot, e.value.clone()));
            let value = match (theirs, own) {
                (Some(a), Some(b)) => {
                    if b.0 > a.0 {
                        b.1
                    } else {
                        a.1
                    }
                }
                (Some(a), None) | (None, Some(a)) => a.1,
                (None, None) => Value::from([]),
            };
            let stops = (self.config.is_stop)(&value);
            let put = self.acceptor.lead(value);
            debug_assert_eq!(put, slot);
            if stops {
                stop = Some(put);
                if !canary::makes(Canary::KeptAboveStop) {
                    break;
                }
            }
        }
        let start = match stop {
            Some(stop) if !canary::makes(Canary::OpensAfterStop) => stop,
            _ => self.acceptor.lead(Value::from([])),
        };
        let replicas = self.config.replicas();
        let mut leader = Leader::new(ballot, start, commit, replicas, self.now);
        leader.stalled_since_ms = Some(self.now);
        self.state = State::Leading(Box::new(leader));
        self.leader = Some(self.me);
        self.attempts = 0;
        self.effects.leadership_changed = true;
    }

    /// Gives up trying to lead (or leading) and schedules the next attempt.
    pub(super) fn fail_attempt(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        self.follow(None);
        self.schedule();
    }

    /// Delays this replica's own campaign, to give the one that it supports time to succeed.
    pub(super) fn be_patient(&mut self) {
        let limits = &self.config.limits;
        let turn = self.turn() * limits.stagger_ms;
        self.campaign_at = self.campaign_at.max(self.now + limits.patience_ms + turn);
    }

    /// Gives up leading, says so, and does not campaign for this long.
    pub(super) fn resign(&mut self, yield_ms: u64) {
        let ballot = self.acceptor.promised();
        self.follow(None);
        self.campaign_at = self.campaign_at.max(self.now + yield_ms);
        self.tell_others_up(|| Message::Resigned { ballot });
    }

    pub(super) fn tell_others_up(&mut self, message: impl Fn() -> Message) {
        for rank in self.others().filter(|&rank| self.up.contains(rank)).collect::<Vec<_>>() {
            self.send(rank, message());
        }
    }
}
