//! What gateways of one site say to each other: the content of a link's frames.

use crate::logic::machine::{Origin, Verdict};
use crate::logic::paxos;
use bincode::{Decode, Encode};
use selvedge_shared::ids::ShardId;
use std::sync::Arc;

/// One message to a peer. Many share a frame.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum PeerMessage {
    /// Of one Paxos group. Dropped unless the configuration is the group's.
    Paxos {
        /// The group.
        group: ShardId,
        /// The group's configuration (1 until it is changed).
        configuration: u32,
        /// What it says.
        message: paxos::Message,
    },
    /// A batch for the leader of a shard; kept by its origin until it is answered.
    Forward {
        /// The shard.
        shard: ShardId,
        /// Who took it in.
        origin: Origin,
        /// Its number.
        n: u64,
        /// A submission frame.
        submission: Arc<[u8]>,
    },
    /// The answer to a forwarded batch.
    Forwarded {
        /// The shard.
        shard: ShardId,
        /// Who took it in.
        origin: Origin,
        /// Its number.
        n: u64,
        /// What became of it.
        answer: ForwardAnswer,
    },
}

/// What a shard's replica answers to a forwarded batch.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum ForwardAnswer {
    /// It went through the log.
    Verdict(Verdict),
    /// This replica does not lead; perhaps that one does.
    NotLeader {
        /// The leader's gateway number as far as known here.
        leader: Option<u16>,
    },
    /// The leader takes nothing more now (its window, its outbox budget or its disk is full): send it again later.
    Busy {
        /// Why, for the operator.
        why: BusyReason,
    },
}

/// Why a leader takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum BusyReason {
    /// Too much is under way.
    Window,
    /// A disk is full.
    Disk,
    /// The outbox has reached its budget.
    Outbox,
}
