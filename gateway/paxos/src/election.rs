//! The two steps of an attempt to lead: the canvass, then phase 1 of Paxos.

use super::config::Members;
use super::log::weight;
use super::message::{Ballot, Slot, Value};
use selvedge_types::canary::{self, Canary};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

/// A canvass: asks whether an attempt would succeed. Binds no one and writes nothing.
#[derive(Debug, Clone)]
pub(super) struct Canvass {
    pub attempt: u64,
    /// The members that said yes, itself included.
    pub granted: Members,
    /// When the replica gives up the canvass.
    pub until_ms: u64,
}

/// Phase 1 in a ballot of this replica's own.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub ballot: Ballot,
    /// The token of the record of the ballot; none until the host takes the effects.
    pub token: Option<u64>,
    /// The record is on disk: the replica's own promise counts.
    pub durable: bool,
    /// For each member, by rank: how far its promise has come.
    promisers: Vec<Promiser>,
    /// For each slot above `greatest`: the value that was accepted in the highest ballot.
    best: BTreeMap<Slot, (Ballot, Value)>,
    best_bytes: usize,
    /// The greatest commit index of any promiser.
    greatest: Slot,
    /// When to repeat the questions that are unanswered.
    pub resend_at_ms: u64,
    /// When the replica gives up the attempt, unless there is progress.
    pub until_ms: u64,
}

/// How far a member's answer to phase 1 has come.
#[derive(Debug, Clone, Copy, Default, Hash)]
struct Promiser {
    /// The slot to ask from; 0 before the first answer.
    next: Slot,
    done: bool,
}

/// The result of taking one chunk of a promise.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Not the chunk that was asked for: an echo.
    Stale,
    /// This member holds more, from this slot on.
    More(Slot),
    /// This member's promise is complete.
    Done,
    /// The values to propose anew exceed what this replica may hold in memory.
    TooMuch,
}

impl Candidate {
    /// Begins phase 1 in this ballot, in a group of this many members.
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

    /// The slot from which to ask this member; none if it has sent everything.
    pub fn next_for(&self, rank: usize, commit: Slot) -> Option<Slot> {
        let promiser = self.promisers.get(rank)?;
        if promiser.done {
            return None;
        }
        Some(if promiser.next == 0 { commit + 1 } else { promiser.next })
    }

    /// Whether this chunk is the one this member was asked for.
    pub fn expects(&self, rank: usize, from: Slot, commit: Slot) -> bool {
        // A first answer may be to a question that was asked when the commit index was lower.
        self.promisers
            .get(rank)
            .is_some_and(|p| !p.done && if p.next == 0 { from <= commit + 1 } else { from == p.next })
    }

    /// Takes an expected chunk: the entries of consecutive slots from `from` on, of a member whose commit index is
    /// `theirs`. The caller learns those at or below that index.
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
            // Slots up to the greatest commit index are learned from the member that knows them as chosen.
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
        // The other promisers need not send the slots that this replica learns from the one with the greatest
        // commit index.
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

    /// Whether phase 1 is complete: a majority has promised and sent all its entries, and everything known to be
    /// chosen is learned.
    pub fn is_complete(&self, quorum: usize, commit: Slot) -> bool {
        self.durable
            && 1 + self.promisers.iter().filter(|p| p.done).count() >= quorum
            && commit >= self.greatest
    }

    /// The highest slot for which a promiser reported a value.
    pub fn last(&self) -> Slot {
        self.best.last_key_value().map_or(0, |(slot, _)| *slot)
    }

    /// Takes out the value that was accepted for this slot in the highest ballot.
    pub fn best(&mut self, slot: Slot) -> Option<(Ballot, Value)> {
        self.best.remove(&slot)
    }

    /// Adds what [`Consensus::digest`](super::Consensus::digest) compares; `token` is the group's last.
    pub fn digest(&self, token: u64, state: &mut impl Hasher) {
        // Once the ballot is on disk, it no longer matters which write brought it there.
        let age = self.token.filter(|_| !self.durable).map(|t| token - t);
        (self.ballot, self.durable, age, &self.promisers, &self.best, self.greatest).hash(state);
    }
}
