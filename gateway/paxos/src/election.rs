//! Trying to lead: first asking around, then phase 1 of Paxos.

use super::config::Members;
use super::log::weight;
use super::message::{Ballot, Slot, Value};
use selvedge_types::canary::{self, Canary};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

/// Asking whether an attempt would succeed. Binds nobody and writes nothing.
#[derive(Debug, Clone)]
pub(super) struct Canvass {
    /// Which attempt.
    pub attempt: u64,
    /// Who said yes.
    pub granted: Members,
    /// When it is given up.
    pub until_ms: u64,
}

/// Phase 1 in a ballot of one's own.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// The ballot.
    pub ballot: Ballot,
    /// The token of the record of it; none until the effects are taken.
    pub token: Option<u64>,
    /// The record is on disk: the own promise counts.
    pub durable: bool,
    /// For each member that answered, by rank.
    promisers: Vec<Promiser>,
    /// Of each slot above `greatest`, what was accepted in the highest ballot.
    best: BTreeMap<Slot, (Ballot, Value)>,
    best_bytes: usize,
    /// The greatest commit index of a promiser.
    greatest: Slot,
    /// When what is unanswered is asked again.
    pub resend_at_ms: u64,
    /// When it is given up, unless there is progress.
    pub until_ms: u64,
}

/// How far a member's answer to phase 1 has come.
#[derive(Debug, Clone, Copy, Default, Hash)]
struct Promiser {
    /// The slot to ask from; 0 before the first answer.
    next: Slot,
    done: bool,
}

/// What came of a chunk of a promise.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Not the one asked for: an echo.
    Stale,
    /// More is needed from this member, from this slot on.
    More(Slot),
    /// This member's promise is complete.
    Done,
    /// It holds more than this replica may keep.
    TooMuch,
}

impl Candidate {
    /// Begins in this ballot, in a group of so many members.
    pub fn new(ballot: Ballot, members: usize, resend_at_ms: u64, until_ms: u64) -> Self {
        Self {
            ballot,
            token: None,
            durable: canary::makes(Canary::PrepareBeforeDurable),
            promisers: vec![Promiser::default(); members],
            best: BTreeMap::new(),
            best_bytes: 0,
            greatest: 0,
            resend_at_ms,
            until_ms,
        }
    }

    /// From which slot on this member is to be asked; none if it has told everything.
    pub fn next_for(&self, rank: usize, commit: Slot) -> Option<Slot> {
        let promiser = self.promisers.get(rank)?;
        if promiser.done {
            return None;
        }
        Some(if promiser.next == 0 { commit + 1 } else { promiser.next })
    }

    /// Whether this chunk is the one this member was asked for.
    pub fn expects(&self, rank: usize, from: Slot, commit: Slot) -> bool {
        // A first answer may be to a question asked when the commit index was lower.
        self.promisers
            .get(rank)
            .is_some_and(|p| !p.done && if p.next == 0 { from <= commit + 1 } else { from == p.next })
    }

    /// Takes a chunk that was expected: entries of consecutive slots from `from` on, by a member whose commit
    /// index is `theirs`. What lies at or below that index is the caller's to learn.
    pub fn take(
        &mut self,
        rank: usize,
        from: Slot,
        theirs: Slot,
        entries: Vec<(Ballot, Value)>,
        more: bool,
        limit_bytes: usize,
    ) -> Chunk {
        let Some(promiser) = self.promisers.get_mut(rank) else { return Chunk::Stale };
        if more && entries.is_empty() {
            return Chunk::Stale;
        }
        self.greatest = self.greatest.max(theirs);
        let mut next = from;
        for (ballot, value) in entries {
            let slot = next;
            next += 1;
            // Slots up to the greatest commit index are learned from the one who knows them as chosen.
            if slot <= self.greatest || ballot >= self.ballot {
                continue;
            }
            if self.best.get(&slot).is_none_or(|(held, _)| ballot > *held) {
                self.best_bytes += weight(value.len());
                if let Some((_, old)) = self.best.insert(slot, (ballot, value)) {
                    self.best_bytes -= weight(old.len());
                }
            }
        }
        while let Some(lowest) = self.best.first_entry()
            && *lowest.key() <= self.greatest
        {
            let (_, value) = lowest.remove();
            self.best_bytes -= weight(value.len());
        }
        // Who is not the greatest need not tell what is learned from the greatest.
        promiser.next = if theirs < self.greatest { next.max(self.greatest + 1) } else { next };
        promiser.done = !more;
        if self.best_bytes > limit_bytes {
            Chunk::TooMuch
        } else if more {
            Chunk::More(promiser.next)
        } else {
            Chunk::Done
        }
    }

    /// Whether phase 1 is complete: a majority has promised and told all, everything known to be chosen is learned.
    pub fn is_complete(&self, quorum: usize, commit: Slot) -> bool {
        self.durable
            && 1 + self.promisers.iter().filter(|p| p.done).count() >= quorum
            && commit >= self.greatest
    }

    /// The highest slot for which something must be proposed.
    pub fn last(&self) -> Slot {
        self.best.last_key_value().map_or(0, |(slot, _)| *slot)
    }

    /// What was accepted for this slot in the highest ballot.
    pub fn best(&mut self, slot: Slot) -> Option<(Ballot, Value)> {
        self.best.remove(&slot)
    }

    /// See [`Consensus::digest`](super::Consensus::digest); `token` is the group's last.
    pub fn digest(&self, token: u64, state: &mut impl Hasher) {
        // Once the ballot is on disk, it no longer matters which write took it there.
        let age = self.token.filter(|_| !self.durable).map(|t| token - t);
        (self.ballot, self.durable, age, &self.promisers, &self.best, self.greatest).hash(state);
    }
}
