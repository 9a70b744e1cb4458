//! What replicas of one group say to each other, and what they write down.

use bincode::{Decode, Encode};
use selvedge_shared::ids::GatewayId;
use std::fmt;
use std::sync::Arc;

/// A slot's value: opaque bytes, shared between log, messages and machine without copying.
pub type Value = Arc<[u8]>;

/// An index in a group's log. The first slot is 1; 0 means "none yet".
pub type Slot = u64;

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
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Entry {
    /// Where.
    pub slot: Slot,
    /// In which ballot it was accepted.
    pub ballot: Ballot,
    /// What.
    pub value: Value,
}

/// What a replica must have on disk before it says certain things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// No ballot below this one is answered any more (also written by a candidate for its own ballot).
    Promised(Ballot),
    /// The entry was accepted.
    Accepted(Entry),
    /// All slots up to this one are chosen. Needs no fsync of its own: it only spares work after a restart.
    Committed(Slot),
}

/// (being written: what replicas say to each other)
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// Placeholder.
    Nothing,
}
