//! What replicas of one group say to each other, and what they write down.

use bincode::{Decode, Encode};
use selvedge_types::ids::GatewayId;
use std::fmt;
use std::sync::Arc;

/// A slot's value: opaque bytes, shared between log, messages and machine without copying.
pub type Value = Arc<[u8]>;

/// An index in a group's log. The first slot is 1; 0 means "none yet".
pub type Slot = u64;

/// The highest slot and the highest round that are believed when a peer names them. No honest log gets there
/// (a million slots a second for 2,000 years); above it lies room for arithmetic without overflow.
pub const MAX_COUNT: u64 = 1 << 56;

/// A ballot: totally ordered, never used by two gateways, never used again by one that restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Ballot {
    /// Raised at every attempt to lead.
    pub round: u64,
    /// Who attempts it (a gateway's number); breaks ties.
    pub gateway: u16,
}

impl Ballot {
    /// Below every ballot that is ever used.
    pub const ZERO: Self = Self { round: 0, gateway: 0 };

    /// The gateway that leads in this ballot; of no meaning for [`Ballot::ZERO`].
    pub fn leader(&self) -> GatewayId {
        GatewayId(self.gateway)
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}.{}", self.round, self.gateway)
    }
}

/// What one slot holds at one replica: the value it last accepted and in which ballot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Entry {
    /// Where.
    pub slot: Slot,
    /// In which ballot it was accepted.
    pub ballot: Ballot,
    /// What.
    pub value: Value,
}

/// What a replica must have on disk before it says certain things.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// No ballot below this one is answered any more (also written by a candidate for its own ballot).
    Promised(Ballot),
    /// The entry was accepted.
    Accepted(Entry),
    /// All slots up to this one are chosen. Needs no fsync of its own: it only spares work after a restart.
    Committed(Slot),
}

/// What replicas of one group say to each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Message {
    /// "Would you let me lead?" Asked before a ballot is used up; binds nobody.
    Canvass {
        /// Which attempt, to match the answer.
        attempt: u64,
        /// The asker's commit index: who no longer holds what comes after it says no.
        commit: Slot,
    },
    /// The answer to [`Message::Canvass`].
    Canvassed {
        /// The attempt asked about.
        attempt: u64,
        /// Whether the answerer knows no living leader and could help this one.
        granted: bool,
        /// The highest ballot the answerer has seen.
        seen: Ballot,
    },
    /// Phase 1: promise me this ballot, and tell me what you hold from this slot on. Asked again for each chunk.
    Prepare {
        /// The candidate's ballot, durable at the candidate.
        ballot: Ballot,
        /// The first slot asked for.
        from: Slot,
    },
    /// The answer: this ballot is promised (durably), and this is what slots from `from` on hold.
    Promise {
        /// The ballot promised.
        ballot: Ballot,
        /// The slot of the first entry.
        from: Slot,
        /// The promiser's commit index: its entries up to here are chosen.
        commit: Slot,
        /// What consecutive slots hold: the ballot it was accepted in, and the value.
        entries: Vec<(Ballot, Value)>,
        /// Whether the promiser holds more after these.
        more: bool,
    },
    /// The other answer: nothing is promised, for the slots asked for are no longer in memory here.
    Behind {
        /// The ballot asked for.
        ballot: Ballot,
        /// The first slot still in memory.
        first: Slot,
    },
    /// Phase 2: accept these values in consecutive slots after `prev`. Without values: a probe, or news of commits.
    Accept {
        /// The leader's ballot.
        ballot: Ballot,
        /// Only who knows all slots up to here as chosen or accepted in this ballot may take it.
        prev: Slot,
        /// The values of `prev + 1` and on.
        values: Vec<Value>,
        /// The leader's commit index.
        commit: Slot,
    },
    /// The answer: all slots up to `upto` are chosen or (durably) accepted in this ballot here.
    Accepted {
        /// The ballot.
        ballot: Ballot,
        /// The accepted prefix.
        upto: Slot,
        /// The follower's commit index.
        commit: Slot,
        /// False from a replica that lost votes and only learns: tells how far it is, and counts for nothing.
        vote: bool,
    },
    /// The other answer: the accept was not taken; send from after this slot.
    Lagging {
        /// The ballot.
        ballot: Ballot,
        /// The accepted prefix.
        prefix: Slot,
    },
    /// A higher ballot is promised here.
    Refused {
        /// That ballot.
        promised: Ballot,
    },
    /// Before a linearizable read: do you still follow this ballot?
    Confirm {
        /// The leader's ballot.
        ballot: Ballot,
        /// Which round of reads.
        n: u64,
    },
    /// The answer: no higher ballot was promised here.
    Confirmed {
        /// The ballot.
        ballot: Ballot,
        /// The round.
        n: u64,
    },
    /// The sender does not lead (any more): who counted on it may look for another leader.
    Resigned {
        /// The highest ballot the sender has promised.
        ballot: Ballot,
    },
    /// A replica that lost records asks what it may have promised.
    Recovering {
        /// Drawn at each start, so that no answer to an earlier life counts.
        nonce: u64,
    },
    /// The answer to [`Message::Recovering`].
    Standing {
        /// The nonce asked with.
        nonce: u64,
        /// The highest ballot promised (durably) here.
        promised: Ballot,
        /// The answerer has lost records itself and knows nothing for sure.
        damaged: bool,
    },
    /// To the leader: I may vote again after an election in a ballot above this one.
    Rejoin {
        /// The nonce of the damaged replica's start.
        nonce: u64,
        /// The highest ballot anyone had promised when asked.
        above: Ballot,
    },
    /// The answer of a leader in a ballot above it: you may vote when your commit index has reached this slot.
    Mark {
        /// The nonce.
        nonce: u64,
        /// The slot of the first entry of the leader's own.
        slot: Slot,
    },
}

impl Message {
    /// Whether the numbers in it are such as an honest member of a group could send, so that arithmetic on
    /// them can't overflow and nobody leads in another's ballot.
    pub(super) fn is_sound(&self, from: GatewayId) -> bool {
        let ballot = |b: &Ballot| b.round <= MAX_COUNT;
        let own = |b: &Ballot| b.round >= 1 && b.round <= MAX_COUNT && b.leader() == from;
        let slot = |s: Slot| s <= MAX_COUNT;
        match self {
            Self::Canvass { commit, .. } => slot(*commit),
            Self::Canvassed { seen, .. } => ballot(seen),
            Self::Prepare { ballot, from } => own(ballot) && slot(*from) && *from >= 1,
            Self::Promise { ballot: b, from, commit, entries, .. } => {
                ballot(b) && slot(*from) && slot(*commit) && entries.iter().all(|(b, _)| ballot(b))
            }
            Self::Behind { ballot: b, first } => ballot(b) && slot(*first),
            Self::Accept { ballot, prev, commit, .. } => own(ballot) && slot(*prev) && slot(*commit),
            Self::Accepted { ballot: b, upto, commit, .. } => ballot(b) && slot(*upto) && slot(*commit),
            Self::Lagging { ballot: b, prefix } => ballot(b) && slot(*prefix),
            Self::Refused { promised } => ballot(promised),
            Self::Confirm { ballot, .. } => own(ballot),
            Self::Confirmed { ballot: b, .. } | Self::Resigned { ballot: b } => ballot(b),
            Self::Recovering { .. } => true,
            Self::Standing { promised, .. } => ballot(promised),
            Self::Rejoin { above, .. } => ballot(above),
            Self::Mark { slot: s, .. } => slot(*s),
        }
    }
}
