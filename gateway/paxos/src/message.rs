//! The messages between replicas of one group, and the records they write to disk.

use bincode::{Decode, Encode};
use selvedge_types::ids::GatewayId;
use std::fmt;
use std::sync::Arc;

/// A slot's value: opaque bytes that log, messages and machine share without copying.
pub type Value = Arc<[u8]>;

/// An index in a group's log. The first slot is 1; 0 means "none yet".
pub type Slot = u64;

/// The highest slot and the highest round that a replica believes when a peer names them. No correct replica ever
/// gets there (at a million slots a second it would take 2,000 years), and the range above leaves room for
/// arithmetic without overflow.
pub const MAX_COUNT: u64 = 1 << 56;

/// The number of an attempt to lead. Ballots are totally ordered; no two gateways use the same one, and a restarted
/// gateway uses none of its earlier ones again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Encode, Decode)]
pub struct Ballot {
    /// Raised at every attempt to lead.
    pub round: u64,
    /// The number of the gateway that makes the attempt; breaks ties.
    pub gateway: u16,
}

impl Ballot {
    /// Lies below every ballot that is ever used.
    pub const ZERO: Self = Self { round: 0, gateway: 0 };

    /// The gateway that leads in this ballot; meaningless for [`Ballot::ZERO`].
    pub fn leader(&self) -> GatewayId {
        GatewayId(self.gateway)
    }
}

impl fmt::Display for Ballot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}.{}", self.round, self.gateway)
    }
}

/// What one slot holds at one replica: the value that it last accepted, and in which ballot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Entry {
    pub slot: Slot,
    /// The ballot in which the replica accepted the value.
    pub ballot: Ballot,
    pub value: Value,
}

/// Facts that a replica must have on disk before it sends the messages that rely on them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// The replica no longer accepts any ballot below this one (a candidate also writes it for its own ballot).
    Promised(Ballot),
    /// The replica accepted this entry.
    Accepted(Entry),
    /// All slots up to this one are chosen. Needs no fsync of its own: it only saves work after a restart.
    Committed(Slot),
}

/// What replicas of one group say to each other. [The essay](crate) tells how the messages work together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Encode, Decode)]
pub enum Message {
    /// "Would you let me lead?" A replica asks this before it uses up a ballot; the answers bind no one.
    Canvass {
        /// Numbers the attempt, to match the answer to it.
        attempt: u64,
        /// The candidate's commit index: a replica that no longer holds the entries after it says no.
        commit: Slot,
    },
    /// Says whether the sender supports the attempt of a [`Message::Canvass`].
    Canvassed {
        /// The attempt that was asked about.
        attempt: u64,
        /// Whether the sender supports the attempt: it knows no live leader and could make a promise that helps.
        granted: bool,
        /// The highest ballot that the sender has seen.
        seen: Ballot,
    },
    /// Phase 1: "promise me this ballot, and send me your entries from this slot on". Sent again for each chunk.
    Prepare {
        /// The candidate's ballot, which is on the candidate's disk.
        ballot: Ballot,
        /// The first slot that the candidate asks for.
        from: Slot,
    },
    /// Answers [`Message::Prepare`]: the sender has promised this ballot (durably) and holds these entries from
    /// `from` on.
    Promise {
        ballot: Ballot,
        /// The slot of the first of the entries.
        from: Slot,
        /// The sender's commit index: its entries up to here are chosen.
        commit: Slot,
        /// The entries of consecutive slots: the ballot in which each was accepted, and the value.
        entries: Vec<(Ballot, Value)>,
        /// Whether the sender holds more entries after these.
        more: bool,
    },
    /// The other answer to [`Message::Prepare`]: no promise, because the slots asked for are no longer in the
    /// sender's memory.
    Behind {
        ballot: Ballot,
        /// The first slot that the sender still has in memory.
        first: Slot,
    },
    /// Phase 2: "accept these values in consecutive slots after `prev`". Without values it is a probe, or news of
    /// commits.
    Accept {
        ballot: Ballot,
        /// A follower takes the message only if it knows all slots up to here to be chosen, or has accepted them in
        /// this ballot.
        prev: Slot,
        /// The values of the slots from `prev + 1` on.
        values: Vec<Value>,
        commit: Slot,
    },
    /// Answers [`Message::Accept`]: the sender knows all slots up to `upto` to be chosen, or has (durably) accepted
    /// them in this ballot.
    Accepted {
        ballot: Ballot,
        /// The sender's accepted prefix.
        upto: Slot,
        commit: Slot,
        /// The sender's commit index as its disk states it: a restart finds no lower one.
        recorded: Slot,
        /// False from a replica that lost votes and only learns: the message then says how far the replica is, and
        /// counts as no vote.
        vote: bool,
        /// The sender has lost records: as a learner, it must not become a member yet.
        damaged: bool,
    },
    /// The other answer to [`Message::Accept`]: the sender did not take it and asks for the slots after `prefix`.
    Lagging {
        ballot: Ballot,
        /// The sender's accepted prefix.
        prefix: Slot,
    },
    /// The sender has promised a higher ballot than that of the message it answers.
    Refused { promised: Ballot },
    /// Before a linearizable read, the leader asks: "have you promised no ballot above this one?"
    Confirm {
        ballot: Ballot,
        /// Numbers the round of reads.
        n: u64,
    },
    /// Answers [`Message::Confirm`]: the sender has promised no higher ballot.
    Confirmed {
        ballot: Ballot,
        /// The round that was asked about.
        n: u64,
    },
    /// The sender does not lead (any more): a replica that takes it for the leader may look for another.
    Resigned {
        /// The highest ballot that the sender has promised.
        ballot: Ballot,
    },
    /// A replica that lost records asks for the highest ballot that the receiver has promised.
    Recovering {
        /// Drawn at each start, so that an answer to an earlier start doesn't count.
        nonce: u64,
    },
    /// Answers [`Message::Recovering`], once the promise that it reports is on disk.
    Standing {
        /// The nonce of the question.
        nonce: u64,
        /// The highest ballot that the sender has (durably) promised.
        promised: Ballot,
        /// The sender has lost records itself, so `promised` may be too low.
        damaged: bool,
    },
    /// A damaged replica tells the leader: "I may vote again after an election in a ballot above this one".
    Rejoin {
        /// The nonce of the damaged replica's start.
        nonce: u64,
        /// The highest ballot that any undamaged member had promised when asked.
        above: Ballot,
    },
    /// Answers [`Message::Rejoin`], from a leader in a ballot above it: "you may vote when your commit index has
    /// reached this slot".
    Mark {
        nonce: u64,
        /// The slot of the first entry of the leader's own.
        slot: Slot,
    },
}

impl Message {
    /// Whether a learner ever sends this. Anything else would make it a voter or a leader.
    pub(super) fn may_come_from_a_learner(&self) -> bool {
        matches!(
            self,
            Self::Accepted { .. }
                | Self::Lagging { .. }
                | Self::Refused { .. }
                | Self::Resigned { .. }
                | Self::Recovering { .. }
                | Self::Rejoin { .. }
        )
    }

    /// Whether a correct member could have sent these numbers. This keeps arithmetic on them from overflowing and
    /// any gateway from leading in another's ballot.
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
            Self::Accepted { ballot: b, upto, commit, recorded, .. } => {
                ballot(b) && slot(*upto) && slot(*commit) && recorded <= commit
            }
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
