//! What a group is told and what it wants done.

use super::message::{Message, Record, Slot, Value};
use selvedge_types::ids::GatewayId;

/// What a group is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member said something. What a gateway says that is no member is ignored.
    Message {
        /// Who, as authenticated by the link.
        from: GatewayId,
        /// What.
        message: Message,
    },
    /// The verdict of the failure detectors changed.
    Peers {
        /// All gateways that can be reached now. This one counts as reachable, named or not.
        up: Vec<GatewayId>,
        /// Those whose process is another than when they were last named up.
        restarted: Vec<GatewayId>,
    },
    /// All records given out with this token or a lower one are on disk.
    Persisted {
        /// The token.
        token: u64,
    },
    /// [`Consensus::deadline`](super::Consensus::deadline) has come. Too early or too often does no harm.
    Timer,
    /// A linearizable read wants to know which slot it must wait for.
    Read {
        /// Chosen by the host, given back in [`PaxosEffects::reads`] or [`PaxosEffects::reads_failed`].
        id: u64,
    },
    /// The host has applied all slots up to this one and does not want them kept in memory, not even for
    /// followers (who then need the host's help).
    TrimMemory {
        /// The slot. What is not yet chosen stays anyway.
        through: Slot,
    },
    /// A member that knows them says which values were chosen for consecutive slots. Taken are those behind the commit index, as far as
    /// there is room, by a replica that follows.
    Learned {
        /// The first slot.
        from: Slot,
        /// Their values.
        values: Vec<Value>,
    },
    /// The host has replaced its machine by a snapshot through this slot, and that snapshot is durable.
    SnapshotInstalled {
        /// The slot.
        slot: Slot,
    },
    /// Whether the disk has room. Without, nothing is taken that would have to be written, as if it was lost.
    Room(bool),
    /// Gateways that had better not lead: when nobody leads, they try after all others. Of all messages of this kind the last
    /// counts.
    Reluctant(Vec<GatewayId>),
    /// Give up leading (to drain this gateway, say) and leave it to others for a while.
    StepDown,
}

/// What a group wants done, in this order of durability: `send` may leave at once; `records` are appended to
/// the log in their order; `send_after` leaves only when all records up to `token` are on disk, also those
/// of earlier effects. Messages may be lost, doubled and reordered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[must_use]
pub struct PaxosEffects {
    /// May leave at once.
    pub send: Vec<(GatewayId, Message)>,
    /// To be written. If these are only `Committed`, no fsync is needed; they never are only that.
    pub records: Vec<Record>,
    /// Names these records and all before them; 0 as long as there were none. Growing, from 1 at each start.
    /// When they are on disk, the group wants [`Event::Persisted`] (if there were records).
    pub token: u64,
    /// Leaves once everything up to `token` is on disk.
    pub send_after: Vec<(GatewayId, Message)>,
    /// The commit index, if it rose: apply up to here.
    pub commit: Option<Slot>,
    /// Reads that may be served as soon as the slot is applied.
    pub reads: Vec<(u64, Slot)>,
    /// Reads that can't be served here: ask the leader, or try again.
    pub reads_failed: Vec<u64>,
    /// Followers of this leader that need more than memory holds. Named again now and then until they caught up.
    pub behind: Vec<GatewayId>,
    /// Role, leader or ballot changed. Proposals of another ballot that are not yet committed may turn up or not.
    pub leadership_changed: bool,
    /// A damaged replica may vote again. Once everything up to `token` is on disk, the host forgets its mark of
    /// the damage.
    pub healed: bool,
}

impl PaxosEffects {
    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.send.is_empty()
            && self.records.is_empty()
            && self.send_after.is_empty()
            && self.commit.is_none()
            && self.reads.is_empty()
            && self.reads_failed.is_empty()
            && self.behind.is_empty()
            && !self.leadership_changed
            && !self.healed
    }
}

/// What a replica is in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Votes, and perhaps knows a leader.
    Follower,
    /// Tries to lead.
    Candidate,
    /// Leads.
    Leader,
    /// Lost records, learns, and does not vote.
    Damaged,
}

/// Why a value was not proposed. Nothing of it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another may lead.
    #[error("this replica does not lead; {}", match .leader { Some(l) => format!("ask {l}"), None => "nobody is known to, try again".into() })]
    NotLeader {
        /// Who, as far as known.
        leader: Option<GatewayId>,
    },
    /// Enough is under way or unapplied.
    #[error("as much is under way as the group may hold; try again when some of it is applied")]
    WindowFull,
    /// The disk is full.
    #[error("the disk is full; try again when there is room")]
    NoRoom,
    /// Values have a largest size.
    #[error("a value of {bytes} bytes is above the limit of {limit}; split it")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}
