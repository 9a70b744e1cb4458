//! Leading: who has what, how much is under way to whom, and reads that wait for confirmation.

use super::acceptor::Acceptor;
use super::config::{Limits, MAX_RESEND_DOUBLINGS, Members};
use super::log::weight;
use super::message::{Ballot, Message, Slot};
use selvedge_types::canary::{self, Canary};
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

/// Messages to one follower that are not yet answered.
const MAX_IN_FLIGHT_MESSAGES: usize = 64;

/// A replica that leads in `ballot`.
#[derive(Debug, Clone)]
pub(super) struct Leader {
    /// The ballot; durable here.
    pub ballot: Ballot,
    /// The slot of the first entry that is this ballot's own: all below were adopted.
    pub start: Slot,
    /// The last slot up to which the own log is on disk: the own vote.
    own: Slot,
    /// Which last slot each token stands for that is not yet on disk.
    writing: VecDeque<(u64, Slot)>,
    /// By rank; one's own is not used.
    pub followers: Vec<Progress>,
    /// Since when proposals are open without any being chosen.
    pub stalled_since_ms: Option<u64>,
    /// When a follower last answered an accept.
    pub heard_ms: u64,
    /// Reads.
    pub reads: Reads,
}

/// What a leader knows of a follower.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// It voted for all slots up to this one.
    pub voted: Slot,
    /// It has all slots up to this one, voter or not.
    pub matched: Slot,
    /// The next slot to send.
    next: Slot,
    /// Where sending began again after something was lost.
    rewound_to: Slot,
    /// Its commit index.
    commit: Slot,
    /// The commit index it was told.
    told_commit: Slot,
    /// The last slot and the weight of each message not yet answered.
    in_flight: VecDeque<(Slot, usize)>,
    in_flight_bytes: usize,
    /// One message at a time, until one is taken: its position is a guess, or it is slow, or gone.
    probing: bool,
    /// Something is to be said, if only an empty accept.
    pub probe_due: bool,
    /// It was found to need more than memory holds, and the host was told.
    told_behind: bool,
    /// When something is said again.
    resend_at_ms: Option<u64>,
    /// How often in a row that was in vain.
    silence: u32,
}

/// Linearizable reads of a leader: each waits for a round of confirmation that began after it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Reads {
    /// Not in a round yet.
    pub waiting: Vec<u64>,
    /// In the round under way.
    pub asked: Vec<u64>,
    /// The number of that round.
    pub round: u64,
    /// The commit index when it began.
    pub slot: Slot,
    /// Who confirmed.
    pub confirmed: Members,
    /// When it is asked again.
    pub resend_at_ms: u64,
    /// When it began.
    pub since_ms: u64,
}

impl Reads {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }
}

impl Leader {
    /// Leads from now on; all up to `commit` is chosen, `start` is the first slot of its own.
    pub fn new(ballot: Ballot, start: Slot, commit: Slot, members: usize, now: u64) -> Self {
        // Optimistic: a follower that is not that far says where it is.
        let progress = || Progress {
            next: commit + 1,
            rewound_to: commit + 1,
            probe_due: true,
            probing: true,
            ..Progress::default()
        };
        Self {
            ballot,
            start,
            own: commit,
            writing: VecDeque::new(),
            followers: (0..members).map(|_| progress()).collect(),
            stalled_since_ms: None,
            heard_ms: now,
            reads: Reads::default(),
        }
    }

    /// Records up to `last` were given out with this token.
    pub fn wrote(&mut self, token: u64, last: Slot) {
        if canary::makes(Canary::OwnVoteEarly) {
            self.own = last;
        }
        if self.writing.back().is_none_or(|(_, slot)| *slot < last) {
            self.writing.push_back((token, last));
        }
    }

    /// Records up to this token are on disk.
    pub fn persisted(&mut self, token: u64) {
        while let Some(&(t, slot)) = self.writing.front()
            && t <= token
        {
            self.own = slot;
            self.writing.pop_front();
        }
    }

    /// The last slot for which the own vote counts.
    pub fn own(&self) -> Slot {
        self.own
    }

    /// The last slot that a quorum has voted for in this ballot. The own vote counts only as far as it is on disk.
    pub fn chosen(&self, me: usize, quorum: usize) -> Slot {
        let mut votes: Vec<Slot> = self
            .followers
            .iter()
            .enumerate()
            .map(|(r, f)| if r == me { self.own } else { f.voted })
            .collect();
        votes.sort_unstable_by(|a, b| b.cmp(a));
        votes.get(quorum - 1).copied().unwrap_or(0)
    }

    /// See [`Consensus::digest`](super::Consensus::digest); `token` is the group's last, `commit` its commit index.
    pub fn digest(&self, token: u64, commit: Slot, state: &mut impl Hasher) {
        // Votes for what is chosen already change nothing.
        (self.ballot, self.start, self.own.max(commit), self.writing.len()).hash(state);
        for (t, slot) in &self.writing {
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
    /// Its process or its link is another: what was under way may be lost, and its commit index may be lower.
    pub fn reset(&mut self, leader_commit: Slot) {
        self.rewind(if self.matched > 0 { self.matched + 1 } else { leader_commit + 1 });
        self.commit = 0;
        self.told_commit = 0;
        self.told_behind = false;
        self.silence = 0;
        self.probe_due = true;
    }

    /// It has all slots up to `upto`, and knows `commit` of them to be chosen.
    pub fn accepted(&mut self, upto: Slot, commit: Slot, vote: bool) {
        if upto > self.matched || commit > self.commit {
            self.silence = 0;
        }
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

    /// It could not take what it was sent, for it is only at `prefix`.
    pub fn lagging(&mut self, prefix: Slot) {
        // The echo of several accepts that went past the same gap: what fills it is on its way.
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

    /// Whether it has all, and knows all that is chosen.
    fn is_settled(&self, acceptor: &Acceptor) -> bool {
        self.matched >= acceptor.log().last() && self.commit >= acceptor.commit()
    }

    /// When something must be said again.
    pub fn deadline(&self) -> Option<u64> {
        self.resend_at_ms
    }

    /// The time has come to say something again.
    pub fn timer(&mut self, now: u64, acceptor: &Acceptor) {
        if self.resend_at_ms.is_none_or(|at| at > now) {
            return;
        }
        self.probe_due = true;
        self.resend_at_ms = None;
        let only_news = self.matched >= acceptor.log().last() && self.told_commit < acceptor.commit();
        if !only_news {
            self.silence = (self.silence + 1).min(MAX_RESEND_DOUBLINGS);
            self.rewind(if self.matched > 0 { self.matched + 1 } else { acceptor.commit() + 1 });
            self.told_behind = false;
        }
    }

    /// Says what there is to say, as far as the bounds allow. True if it needs more than memory holds, and the host was not
    /// told yet.
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
