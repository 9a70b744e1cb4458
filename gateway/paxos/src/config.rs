//! What a group is made of, how much it may hold, and what a restart finds.

use super::message::{Ballot, Entry, Slot};
use selvedge_types::ids::{GatewayId, ShardId};

/// The most replicas a group may have.
pub const MAX_MEMBERS: usize = 7;

/// One replica's view of its group.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// The shard whose log this is.
    pub group: ShardId,
    /// This replica.
    pub me: GatewayId,
    /// All replicas, this one among them; the same list everywhere. The first is the preferred leader, then the
    /// second and so on.
    pub members: Vec<GatewayId>,
    /// How much is held and how long is waited.
    pub limits: Limits,
}

/// The bounds of a group. Bytes count a value's length and a little overhead for each entry.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest value that may be proposed.
    pub value_bytes: usize,
    /// Proposals above the commit index.
    pub window_entries: u64,
    /// Their bytes.
    pub window_bytes: usize,
    /// Entries in one message (a single larger entry travels alone).
    pub chunk_bytes: usize,
    /// Sent to one follower and not yet answered.
    pub in_flight_bytes: usize,
    /// Entries in memory. When it is reached, nothing more is taken until the host trims what it has applied.
    pub memory_bytes: usize,
    /// Reads that wait for confirmation.
    pub waiting_reads: usize,
    /// Between the campaigns of replicas of neighbouring ranks.
    pub stagger_ms: u64,
    /// How long one that helped another's campaign waits for it to succeed.
    pub patience_ms: u64,
    /// How long an attempt to lead may make no progress.
    pub attempt_ms: u64,
    /// Until something unanswered is said again; doubled up to [`MAX_RESEND_DOUBLINGS`] times.
    pub resend_ms: u64,
    /// How long followers may be left without news of commits when no accept carries them.
    pub commit_notice_ms: u64,
    /// How long a leader may have proposals open without any being chosen.
    pub stall_ms: u64,
    /// How long one that gave up leading leaves it to others.
    pub yield_ms: u64,
}

/// How often the wait before saying something again doubles.
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

/// What a restart found on disk.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The highest ballot in a [`Record::Promised`](super::Record::Promised).
    pub promised: Ballot,
    /// The highest slot in a [`Record::Committed`](super::Record::Committed).
    pub commit: Slot,
    /// The host's machine is restored from a durable snapshot through this slot (0: none).
    pub snapshot_slot: Slot,
    /// All accepted entries in the order they were recorded: a later one of the same slot replaces the earlier.
    /// Those up to `snapshot_slot` may be left out.
    pub entries: Vec<Entry>,
    /// Set when records of this group were lost that may have been votes: a number drawn fresh at this start.
    /// All else but the snapshot is then disregarded, and the replica learns and does not vote until
    /// [`PaxosEffects::healed`](super::PaxosEffects::healed). The host keeps a durable mark of the damage from before the
    /// first step until then, so that a restart in between is told so too; once damaged, records older than
    /// that mark belong to no later recovery.
    pub damaged: Option<u64>,
}

/// Why there is no group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Too few or too many replicas.
    #[error("group {group} has {count} members; give it 1 to {MAX_MEMBERS}")]
    Count {
        /// The group.
        group: ShardId,
        /// How many.
        count: usize,
    },
    /// A replica is named twice.
    #[error("group {group} names {member} twice; name each member once")]
    Twice {
        /// The group.
        group: ShardId,
        /// Who.
        member: GatewayId,
    },
    /// This gateway has no business here.
    #[error("group {group} has no member {me}; only its members may run it")]
    NotMember {
        /// The group.
        group: ShardId,
        /// This gateway.
        me: GatewayId,
    },
    /// The bounds contradict each other.
    #[error("limits of group {group}: {what}")]
    Limits {
        /// The group.
        group: ShardId,
        /// Which and why.
        what: &'static str,
    },
    /// The entries found on disk are not a run of slots.
    #[error("the log of group {group} holds slot {found} where {wanted} was due; recover it as damaged")]
    Hole {
        /// The group.
        group: ShardId,
        /// The slot that was due.
        wanted: Slot,
        /// The slot that was there.
        found: Slot,
    },
    /// The commit index on disk lies above the log.
    #[error(
        "the log of group {group} ends at slot {last} but slot {commit} was committed; recover it as damaged"
    )]
    CommitBeyondLog {
        /// The group.
        group: ShardId,
        /// The commit index.
        commit: Slot,
        /// The last slot.
        last: Slot,
    },
    /// Too few other replicas to heal from.
    #[error(
        "group {group} lost records and has only {count} members: no majority is left to learn from; \
         restore the gateway's data from a copy, or create the site anew"
    )]
    DamagedAlone {
        /// The group.
        group: ShardId,
        /// How many members it has.
        count: usize,
    },
    /// A number no honest log holds.
    #[error(
        "the log of group {group} names slot or round {number}, above any that is ever used; recover it as damaged"
    )]
    Absurd {
        /// The group.
        group: ShardId,
        /// The number.
        number: u64,
    },
}

impl GroupConfig {
    /// Checks what every later line takes for granted.
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

/// Some members of a group, by rank (their place in its list).
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

    /// How many of them come before this rank.
    pub fn before(self, rank: usize) -> usize {
        (0..rank).filter(|&r| self.contains(r)).count()
    }
}
