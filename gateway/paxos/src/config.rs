//! A group's configuration and bounds, and the state that a restart recovers from disk.

use super::message::{Ballot, Entry, Slot};
use selvedge_types::ids::{GatewayId, ShardId};

/// The most replicas a group may have.
pub const MAX_MEMBERS: usize = 7;

/// One replica's view of its group.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// The shard whose log this is.
    pub group: ShardId,
    pub me: GatewayId,
    /// All replicas, including this one; every replica has the same list. The order is the rank: the first is the
    /// preferred leader, then the second and so on.
    pub members: Vec<GatewayId>,
    pub limits: Limits,
}

/// The bounds of a group. Bytes count a value's length and a little overhead for each entry.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest value that a proposal may have.
    pub value_bytes: usize,
    /// The most proposals above the commit index.
    pub window_entries: u64,
    /// The most bytes that the proposals above the commit index may have.
    pub window_bytes: usize,
    /// The most bytes of entries in one message; a single larger entry travels alone.
    pub chunk_bytes: usize,
    /// The most bytes sent to one follower and not yet answered.
    pub in_flight_bytes: usize,
    /// The most bytes of entries in memory. At this bound the replica takes no further entry until the host trims
    /// what it has applied.
    pub memory_bytes: usize,
    /// The most reads that wait for confirmation.
    pub waiting_reads: usize,
    /// The time between the campaigns of replicas of neighbouring ranks.
    pub stagger_ms: u64,
    /// How long a replica that supported another's campaign waits for it to succeed.
    pub patience_ms: u64,
    /// How long an attempt to lead may go without progress.
    pub attempt_ms: u64,
    /// How long to wait before resending an unanswered message; the wait doubles up to [`MAX_RESEND_DOUBLINGS`]
    /// times.
    pub resend_ms: u64,
    /// How long followers may go without news of commits when no accept carries them.
    pub commit_notice_ms: u64,
    /// How long a leader may have proposals open without any being chosen.
    pub stall_ms: u64,
    /// How long a leader that gave up leaves campaigning to the others.
    pub yield_ms: u64,
}

/// How often the wait before a resend doubles.
pub const MAX_RESEND_DOUBLINGS: u32 = 3;

impl Default for Limits {
    fn default() -> Self {
        Self {
            value_bytes: 320 << 10,
            window_entries: 1024,
            window_bytes: 1 << 20,
            chunk_bytes: 256 << 10,
            in_flight_bytes: 1 << 20,
            memory_bytes: 4 << 20,
            waiting_reads: 4096,
            stagger_ms: 100,
            patience_ms: 500,
            attempt_ms: 1000,
            resend_ms: 200,
            commit_notice_ms: 20,
            stall_ms: 2000,
            yield_ms: 3000,
        }
    }
}

/// The durable state that a restart found.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The highest ballot in a [`Record::Promised`](super::Record::Promised).
    pub promised: Ballot,
    /// The highest slot in a [`Record::Committed`](super::Record::Committed).
    pub commit: Slot,
    /// The slot through which a durable snapshot restored the host's machine (0: no snapshot).
    pub snapshot_slot: Slot,
    /// All accepted entries in the order they were recorded: a later one of the same slot replaces the earlier.
    /// Those up to `snapshot_slot` may be left out.
    pub entries: Vec<Entry>,
    /// Set if this group lost records that may have been votes: a number drawn fresh at this start. The replica
    /// then ignores everything here but the snapshot, and learns without voting until
    /// [`PaxosEffects::healed`](super::PaxosEffects::healed). The host keeps a durable mark of the damage from
    /// before the first step until then, and passes this field again after a restart in between; records older than
    /// that mark never belong to a later recovery.
    pub damaged: Option<u64>,
}

/// Why a group can't start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("group {group} has {count} members; give it 1 to {MAX_MEMBERS}")]
    Count { group: ShardId, count: usize },
    #[error("group {group} names {member} twice; name each member once")]
    Twice { group: ShardId, member: GatewayId },
    /// The list of members lacks this gateway.
    #[error("group {group} has no member {me}; only its members may run it")]
    NotMember { group: ShardId, me: GatewayId },
    /// The bounds contradict each other.
    #[error("limits of group {group}: {what}")]
    Limits {
        group: ShardId,
        /// Which limits contradict each other, and how to set them.
        what: &'static str,
    },
    /// The entries found on disk don't have consecutive slots.
    #[error("the log of group {group} holds slot {found} where {wanted} was due; recover it as damaged")]
    Hole { group: ShardId, wanted: Slot, found: Slot },
    /// The commit index on disk lies above the last entry.
    #[error(
        "the log of group {group} ends at slot {last} but slot {commit} was committed; recover it as damaged"
    )]
    CommitBeyondLog { group: ShardId, commit: Slot, last: Slot },
    /// A damaged replica needs two other members to recover from, so that a majority is left without it.
    #[error(
        "group {group} lost records and has only {count} members: no majority is left to learn from; \
         restore the gateway's data from a copy, or create the site anew"
    )]
    DamagedAlone { group: ShardId, count: usize },
    /// A slot or round on disk lies above [`MAX_COUNT`](super::MAX_COUNT), which no correct replica ever writes.
    #[error(
        "the log of group {group} names slot or round {number}, above any that is ever used; recover it as damaged"
    )]
    Absurd { group: ShardId, number: u64 },
}

impl GroupConfig {
    /// Checks the assumptions of the rest of this crate: the number of members, their uniqueness, and the limits.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let group = self.group;
        let count = self.members.len();
        if !(1..=MAX_MEMBERS).contains(&count) {
            return Err(ConfigError::Count { group, count });
        }
        for (i, &member) in self.members.iter().enumerate() {
            if self.members.iter().skip(i + 1).any(|&m| m == member) {
                return Err(ConfigError::Twice { group, member });
            }
        }
        if !self.members.contains(&self.me) {
            return Err(ConfigError::NotMember { group, me: self.me });
        }
        let l = &self.limits;
        let bad = |what| Err(ConfigError::Limits { group, what });
        if l.window_entries == 0 || l.in_flight_bytes == 0 || l.chunk_bytes == 0 {
            return bad("window_entries, in_flight_bytes and chunk_bytes must be above 0");
        }
        if l.memory_bytes / 2 < l.window_bytes || l.window_bytes < l.value_bytes {
            return bad(
                "memory_bytes must be at least twice window_bytes, and window_bytes at least value_bytes",
            );
        }
        let waits = [
            l.stagger_ms,
            l.patience_ms,
            l.attempt_ms,
            l.resend_ms,
            l.commit_notice_ms,
            l.stall_ms,
            l.yield_ms,
        ];
        if waits.iter().any(|ms| !(1..=86_400_000).contains(ms)) {
            return bad("every wait must be 1 ms to one day");
        }
        Ok(())
    }
}

/// A set of members of a group, by rank (their position in its list of members).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub(super) struct Members(u8);

impl Members {
    pub fn only(rank: usize) -> Self {
        let mut set = Self::default();
        set.insert(rank);
        set
    }

    pub fn insert(&mut self, rank: usize) {
        debug_assert!(rank < MAX_MEMBERS);
        self.0 |= 1 << rank;
    }

    pub fn contains(self, rank: usize) -> bool {
        rank < MAX_MEMBERS && self.0 & (1 << rank) != 0
    }

    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// How many members of the set rank before this one.
    pub fn before(self, rank: usize) -> usize {
        (0..rank).filter(|&r| self.contains(r)).count()
    }
}
