//! The events that the host gives a group, and the effects that the group asks the host for.

use super::message::{Message, Record, Slot, Value};
use selvedge_types::ids::GatewayId;

/// Something that the host reports to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A member sent a message. Messages of a gateway that is no member are ignored.
    Message {
        /// The sender, as authenticated by the link.
        from: GatewayId,
        message: Message,
    },
    /// The verdict of the failure detectors changed.
    Peers {
        /// All gateways that can be reached now. This gateway always counts as reachable, whether listed or not.
        up: Vec<GatewayId>,
        /// Those whose process has changed since they were last listed as up.
        restarted: Vec<GatewayId>,
    },
    /// All records that came with this token or a lower one are on disk.
    Persisted { token: u64 },
    /// [`Consensus::deadline`](super::Consensus::deadline) has passed. Too early or too often does no harm.
    Timer,
    /// A client asks for a linearizable read: which slot must the host have applied first?
    Read {
        /// Chosen by the host, given back in [`PaxosEffects::reads`] or [`PaxosEffects::reads_failed`].
        id: u64,
    },
    /// The host has applied all slots up to this one and no longer wants them in memory, not even for followers
    /// (which then need the host's help).
    TrimMemory {
        /// The last slot to forget. Slots that are not yet chosen stay in memory anyway.
        through: Slot,
    },
    /// A member that knows them says which values were chosen for consecutive slots. A following replica takes
    /// those after its commit index, as far as it has room.
    Learned {
        from: Slot,
        /// The chosen values of `from` and the slots after it.
        values: Vec<Value>,
    },
    /// The host has replaced its machine by a snapshot through this slot, and that snapshot is durable. The host
    /// reports no snapshot that holds the stop of this configuration: it makes the next [`Consensus`](super::Consensus)
    /// from that one.
    SnapshotInstalled { slot: Slot },
    /// Whether the disk has room. Without room, the replica treats a message that would make it write as lost.
    Room(bool),
    /// The gateways that should lead only if no other can: when there is no leader, they campaign after all others.
    /// Each event of this kind replaces the previous one.
    Reluctant(Vec<GatewayId>),
    /// These are the learners from now on, as far as they are valid: members, repeated ones and those beyond
    /// [`MAX_LEARNERS`](super::MAX_LEARNERS) are left out, and a learner stays one itself.
    Learners(Vec<GatewayId>),
    /// Stop leading (for example to drain this gateway) and leave it to the others for
    /// [`Limits::yield_ms`](super::Limits::yield_ms). Ignored once the stop is chosen.
    StepDown,
}

/// The actions that a group asks its host for, in this order of durability: `send` may leave at once; the host
/// appends `records` to the log in order; `send_after` leaves only when all records up to `token` are on disk,
/// those of earlier effects included. The network may lose, duplicate and reorder messages.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[must_use]
pub struct PaxosEffects {
    pub send: Vec<(GatewayId, Message)>,
    /// To append to the log. `Committed` alone would need no fsync; it comes alone only if it says that the stop
    /// is chosen.
    pub records: Vec<Record>,
    /// Names these records and all before them; 0 as long as there were none. Grows, from 1 at each start. If there
    /// are records, the group expects [`Event::Persisted`] once they are on disk.
    pub token: u64,
    /// To be sent once everything up to `token` is on disk.
    pub send_after: Vec<(GatewayId, Message)>,
    /// The commit index, if it rose: the host applies up to here.
    pub commit: Option<Slot>,
    /// The slot of the stop, which is chosen now: reported once at each start. `records` say so, too, unless a
    /// restart found it on disk. The host applies up to here and then makes the next configuration.
    pub stopped: Option<Slot>,
    /// Reads that the host may serve as soon as it has applied the slot.
    pub reads: Vec<(u64, Slot)>,
    /// Reads that can't be served here: the client should ask the leader, or try again.
    pub reads_failed: Vec<u64>,
    /// Followers and learners of this leader that need entries which have left its memory. They are named again
    /// from time to time until they have caught up. A replica that can't lead names candidates that need such
    /// entries.
    pub behind: Vec<GatewayId>,
    /// Role, leader or ballot changed. Proposals of an earlier ballot that are not yet committed may or may not be
    /// chosen.
    pub leadership_changed: bool,
    /// A damaged replica may vote again. Once everything up to `token` is on disk, the host forgets its mark of
    /// the damage.
    pub healed: bool,
}

impl PaxosEffects {
    /// Whether the group asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.send.is_empty()
            && self.records.is_empty()
            && self.send_after.is_empty()
            && self.commit.is_none()
            && self.stopped.is_none()
            && self.reads.is_empty()
            && self.reads_failed.is_empty()
            && self.behind.is_empty()
            && !self.leadership_changed
            && !self.healed
    }
}

/// The part that a replica plays in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Votes, and may know a leader.
    Follower,
    /// Canvasses for support, or is in phase 1 of its own ballot.
    Candidate,
    /// Leads in its own ballot, which a majority has promised.
    Leader,
    /// Has lost records: it learns, and does not vote.
    Damaged,
    /// Receives everything and never votes in this configuration.
    Learner,
}

/// Why a value was not proposed. The replica keeps nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica does not lead.
    #[error("this replica does not lead; {}", match .leader { Some(l) => format!("ask {l}"), None => "it knows no leader; try again".into() })]
    NotLeader {
        /// The leader, as far as this replica knows.
        leader: Option<GatewayId>,
    },
    /// The proposals that are not yet chosen, or the entries not yet trimmed, have reached a bound of
    /// [`Limits`](super::Limits).
    #[error("as much is under way as the group may hold; try again when some of it is applied")]
    WindowFull,
    #[error("the disk is full; try again when there is room")]
    NoRoom,
    /// The log holds a stop, after which this configuration has no slots.
    #[error("this configuration of the group ends; try again in the next one")]
    Stopping,
    /// The value is larger than [`Limits::value_bytes`](super::Limits::value_bytes).
    #[error("a value of {bytes} bytes is above the limit of {limit}; split it")]
    TooLarge { bytes: usize, limit: usize },
}
