//! The leader's bookkeeping: each follower's progress, messages in flight, and reads that wait for confirmation.

use super::acceptor::Acceptor;
use super::config::{Limits, MAX_RESEND_DOUBLINGS, Members};
use super::log::weight;
use super::message::{Ballot, Message, Slot};
use selvedge_types::canary::{self, Canary};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

/// The most messages to one follower that are not yet answered.
const MAX_IN_FLIGHT_MESSAGES: usize = 64;

/// Once the stop is chosen, a follower that answers nothing is told so this many times (in half a minute and more, by
/// default): it may have gone on to the next configuration.
const MAX_STOP_NOTICES: u32 = 30;

/// A replica that leads in `ballot`.
#[derive(Debug, Clone)]
pub(super) struct Leader {
    /// The ballot, which is on this replica's disk.
    pub ballot: Ballot,
    /// The slot of the first entry that is this ballot's own: the leader adopted all entries below. If it adopted a
    /// stop, it has none of its own, and this is the stop's slot.
    pub start: Slot,
    /// The last slot up to which this replica's log is on disk: its own vote.
    own: Slot,
    /// The commit index as this replica's disk states it.
    own_recorded: Slot,
    /// For each token that is not yet on disk, the last slot that it covers, and the commit index recorded by then.
    writing: VecDeque<(u64, Slot, Slot)>,
    /// By rank, the learners after the members; the leader's own place is unused.
    pub followers: Vec<Progress>,
    /// Since when proposals are open without any being chosen.
    pub stalled_since_ms: Option<u64>,
    /// When a follower last answered an accept.
    pub heard_ms: u64,
    pub reads: Reads,
}

/// A follower's progress, as far as the leader knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// The follower voted for all slots up to this one.
    pub voted: Slot,
    /// The follower has all slots up to this one, whether it votes or not.
    pub matched: Slot,
    /// The follower has said, since it was last seen to start, that it has lost no records.
    pub undamaged: bool,
    /// The follower's commit index as its disk states it.
    pub recorded: Slot,
    /// The next slot to send.
    next: Slot,
    /// Where sending began again after a loss.
    rewound_to: Slot,
    /// The follower's commit index.
    commit: Slot,
    /// The commit index that the leader last sent to the follower.
    told_commit: Slot,
    /// The last slot and the weight of each message that is not yet answered.
    in_flight: VecDeque<(Slot, usize)>,
    in_flight_bytes: usize,
    /// Send one message at a time until the follower takes one: its position is a guess, or it is slow, or gone.
    probing: bool,
    /// A message is due, if only an empty accept.
    pub probe_due: bool,
    /// The follower needs entries that have left memory, and the effects have said so to the host.
    told_behind: bool,
    /// When to resend, or to send news of commits; none while there is nothing to send.
    resend_at_ms: Option<u64>,
    /// How many resends in a row brought no progress; it sets the wait before the next and rises no further than
    /// that does.
    silence: u32,
    /// How many resends in a row went unanswered.
    unanswered: u32,
}

/// Linearizable reads of a leader: each waits for a round of confirmation that began after the read arrived.
#[derive(Debug, Clone, Default)]
pub(super) struct Reads {
    /// Reads that no round covers yet.
    pub waiting: Vec<u64>,
    /// Reads that the current round covers.
    pub asked: Vec<u64>,
    /// The number of the current round.
    pub round: u64,
    /// The commit index when the round began.
    pub slot: Slot,
    /// The members that have confirmed it, the leader included.
    pub confirmed: Members,
    /// When to ask again the members that have not confirmed.
    pub resend_at_ms: u64,
    /// When the round began.
    pub since_ms: u64,
}

impl Reads {
    /// The reads that wait, in the current round or for the next.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }
}

impl Leader {
    /// Starts to lead: all slots up to `commit` are chosen, `start` is the slot of the first entry of its own.
    pub fn new(ballot: Ballot, start: Slot, commit: Slot, replicas: usize, now: u64) -> Self {
        Self {
            ballot,
            start,
            own: commit,
            own_recorded: 0,
            writing: VecDeque::new(),
            followers: (0..replicas).map(|_| Progress::unknown(commit)).collect(),
            stalled_since_ms: None,
            heard_ms: now,
            reads: Reads::default(),
        }
    }

    /// The host was given the records up to slot `last` with this token, and they state the commit index `recorded`.
    pub fn wrote(&mut self, token: u64, last: Slot, recorded: Slot) {
        if canary::makes(Canary::OwnVoteEarly) {
            self.own = last;
        }
        if self.writing.back().is_none_or(|(_, slot, _)| *slot < last) {
            self.writing.push_back((token, last, recorded));
        }
    }

    /// Records up to this token are on disk.
    pub fn persisted(&mut self, token: u64) {
        while let Some(&(t, slot, recorded)) = self.writing.front()
            && t <= token
        {
            (self.own, self.own_recorded) = (slot, recorded);
            self.writing.pop_front();
        }
    }

    /// The last slot for which the leader's own vote counts.
    pub fn own(&self) -> Slot {
        self.own
    }

    /// The slot up to which the disks of this replica and of these followers state that everything is chosen. `None` if
    /// one of them has not said that it lost no records.
    pub fn floor(&self, followers: impl Iterator<Item = usize>) -> Option<Slot> {
        let mut floor = self.own_recorded;
        for rank in followers {
            let follower = self.followers.get(rank).filter(|f| f.undamaged)?;
            floor = floor.min(follower.recorded);
        }
        Some(floor)
    }

    /// The last slot that a quorum has voted for in this ballot. The leader's own vote counts only as far as it is
    /// on disk.
    pub fn chosen(&self, me: usize, members: usize) -> Slot {
        let quorum = members / 2 + 1;
        let voters = if canary::makes(Canary::LearnerVotes) { self.followers.len() } else { members };
        let mut votes: Vec<Slot> = self
            .followers
            .iter()
            .take(voters)
            .enumerate()
            .map(|(r, f)| if r == me { self.own } else { f.voted })
            .collect();
        votes.sort_unstable_by(|a, b| b.cmp(a));
        votes.get(quorum - 1).copied().unwrap_or(0)
    }

    /// Adds what [`Consensus::digest`](super::Consensus::digest) compares; `token` is the group's last, `commit`
    /// its commit index.
    pub fn digest(&self, token: u64, commit: Slot, state: &mut impl Hasher) {
        // Votes for slots that are already chosen change nothing.
        (self.ballot, self.start, self.own.max(commit), self.writing.len()).hash(state);
        for (t, slot, _) in &self.writing {
            (token - t, slot).hash(state);
        }
        for follower in &self.followers {
            follower.voted.max(commit).hash(state);
        }
        let reads = &self.reads;
        (&reads.waiting, &reads.asked, reads.round, reads.slot, reads.confirmed).hash(state);
    }
}

impl Progress {
    /// Nothing is known of the follower yet.
    pub fn unknown(commit: Slot) -> Self {
        // An optimistic guess: a follower that is not that far says where it is.
        let next = commit + 1;
        Self { next, rewound_to: next, probe_due: true, probing: true, ..Self::default() }
    }

    /// The follower's process or link is a new one: messages under way may be lost, and its commit index may be
    /// lower.
    pub fn reset(&mut self, leader_commit: Slot) {
        self.rewind(if self.matched > 0 { self.matched + 1 } else { leader_commit + 1 });
        self.undamaged = false;
        self.recorded = 0;
        self.commit = 0;
        self.told_commit = 0;
        self.told_behind = false;
        self.silence = 0;
        self.unanswered = 0;
        self.probe_due = true;
    }

    /// The follower has all slots up to `upto`, and knows those up to `commit` to be chosen.
    pub fn accepted(&mut self, upto: Slot, commit: Slot, vote: bool) {
        if upto > self.matched || commit > self.commit {
            self.silence = 0;
        }
        self.unanswered = 0;
        self.resend_at_ms = None;
        self.matched = self.matched.max(upto);
        if vote {
            self.voted = self.voted.max(upto);
        }
        self.commit = self.commit.max(commit.min(upto));
        while let Some(&(slot, bytes)) = self.in_flight.front()
            && slot <= upto
        {
            self.in_flight.pop_front();
            self.in_flight_bytes -= bytes;
        }
        self.next = self.next.max(upto + 1);
        self.probing = false;
        self.told_behind = false;
    }

    /// The follower could not take an accept, because its prefix ends at `prefix`.
    pub fn lagging(&mut self, prefix: Slot) {
        self.unanswered = 0;
        // One of several accepts that hit the same gap: the message that fills it is under way.
        if self.probing && self.rewound_to == prefix + 1 && !self.in_flight.is_empty() {
            return;
        }
        self.rewind(prefix + 1);
        self.told_behind = false;
    }

    fn rewind(&mut self, next: Slot) {
        self.next = next;
        self.rewound_to = next;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
        self.probing = true;
        self.resend_at_ms = None;
    }

    /// Whether the follower has all entries, and knows everything that is chosen.
    fn is_settled(&self, acceptor: &Acceptor) -> bool {
        self.matched >= acceptor.log().last() && self.commit >= acceptor.commit()
    }

    /// The stop is chosen: from now on, the resends are counted.
    pub fn begin_stop_notices(&mut self) {
        self.unanswered = 0;
    }

    /// When to resend, if anything is unanswered. Once the stop is chosen, this ends.
    pub fn deadline(&self, stopped: bool) -> Option<u64> {
        self.resend_at_ms.filter(|_| !stopped || self.unanswered < MAX_STOP_NOTICES)
    }

    /// Prepares a resend if its time has come.
    pub fn timer(&mut self, now: u64, acceptor: &Acceptor) {
        if self.deadline(acceptor.stopped().is_some()).is_none_or(|at| at > now) {
            return;
        }
        self.probe_due = true;
        self.resend_at_ms = None;
        let only_news = self.matched >= acceptor.log().last() && self.told_commit < acceptor.commit();
        if !only_news {
            self.silence = (self.silence + 1).min(MAX_RESEND_DOUBLINGS);
            self.unanswered = self.unanswered.saturating_add(1);
            self.rewind(if self.matched > 0 { self.matched + 1 } else { acceptor.commit() + 1 });
            self.told_behind = false;
        }
    }

    /// Sends what the follower lacks, as far as the bounds allow. Returns true if the follower needs entries that
    /// have left memory and the host has not been informed yet.
    pub fn pump(
        &mut self,
        now: u64,
        ballot: Ballot,
        acceptor: &Acceptor,
        limits: &Limits,
        mut send: impl FnMut(Message),
    ) -> bool {
        let (log, commit) = (acceptor.log(), acceptor.commit());
        let mut behind = false;
        while self.next <= log.last() {
            if canary::makes(Canary::TrimmedIsSkipped) {
                self.next = self.next.max(log.first());
            }
            if self.next < log.first() {
                behind = !std::mem::replace(&mut self.told_behind, true);
                break;
            }
            let busy = self.in_flight_bytes >= limits.in_flight_bytes
                || self.in_flight.len() >= MAX_IN_FLIGHT_MESSAGES
                || (self.probing && !self.in_flight.is_empty());
            if busy {
                break;
            }
            let entries = log.chunk(self.next, log.last(), limits.chunk_bytes);
            let values: Vec<_> = entries.map(|e| e.value.clone()).collect();
            let bytes = values.iter().map(|v| weight(v.len())).sum();
            let skipped = canary::makes(Canary::TrimmedIsSkipped);
            let prev = if skipped { self.matched.min(self.next - 1) } else { self.next - 1 };
            self.next += values.len() as Slot;
            self.in_flight.push_back((self.next - 1, bytes));
            self.in_flight_bytes += bytes;
            self.told_commit = commit;
            self.probe_due = false;
            send(Message::Accept { ballot, prev, values, commit });
        }
        if std::mem::take(&mut self.probe_due) {
            self.told_commit = commit;
            send(Message::Accept { ballot, prev: self.next - 1, values: Vec::new(), commit });
        }
        if self.is_settled(acceptor) {
            self.resend_at_ms = None;
        } else if self.resend_at_ms.is_none() {
            let only_news = self.matched >= log.last() && self.told_commit < commit;
            let wait = if only_news { limits.commit_notice_ms } else { limits.resend_ms << self.silence };
            self.resend_at_ms = Some(now + wait);
        }
        behind
    }
}
