//! A group's configuration and bounds, and the state that a restart recovers from disk.

use super::message::{Ballot, Entry, MAX_COUNT, Slot};
use selvedge_types::ids::{GatewayId, ShardId};

/// The most members a configuration may have.
pub const MAX_MEMBERS: usize = 7;

/// The most learners a group may have at a time: all other gateways of the largest site.
pub const MAX_LEARNERS: usize = 63;

/// One replica's view of its group in one configuration.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// The shard whose log this is.
    pub group: ShardId,
    /// Numbers the configurations of the group. The core only shows it: the host keeps the messages and the records
    /// of different configurations apart.
    pub configuration: u32,
    /// This gateway: a member, or one of the learners.
    pub me: GatewayId,
    /// The replicas that vote; every replica has the same list. The order is the rank: the first is the preferred
    /// leader, then the second and so on.
    pub members: Vec<GatewayId>,
    /// The members that vote and keep entries but never lead, so they never campaign either. The same list at every
    /// replica.
    pub witnesses: Vec<GatewayId>,
    /// The replicas that the leader sends everything to and that never vote. [`Event::Learners`](super::Event)
    /// replaces the list while the replica runs; replicas may differ in it for a while.
    pub learners: Vec<GatewayId>,
    /// All slots up to this one belong to earlier configurations and are chosen: the slot of the stop that began
    /// this configuration, 0 for the first.
    pub base: Slot,
    /// Tells a stop, which ends the configuration, from all other values. It depends on the bytes alone, and it is
    /// cheap, because every value that is written is put to it.
    pub is_stop: fn(&[u8]) -> bool,
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
    /// The highest ballot in a [`Record::Promised`](super::Record::Promised). Like everything here, it comes from
    /// records of this configuration alone: those of an earlier one are neither promises nor votes in this one.
    pub promised: Ballot,
    /// The highest slot in a [`Record::Committed`](super::Record::Committed).
    pub commit: Slot,
    /// The slot through which a durable snapshot restored the host's machine (0: no snapshot). It may lie below
    /// [`GroupConfig::base`] if the host has applied the slots in between.
    pub snapshot_slot: Slot,
    /// All accepted entries in the order they were recorded: a later one of the same slot replaces the earlier.
    /// Those up to `snapshot_slot`, or up to [`GroupConfig::base`], may be left out.
    pub entries: Vec<Entry>,
    /// Set if this group lost records that may have been votes: a number drawn fresh at this start. The replica
    /// then ignores everything here but the snapshot, and learns without voting until
    /// [`PaxosEffects::healed`](super::PaxosEffects::healed). The host keeps a durable mark of the damage from
    /// before the first step until then, and passes this field again after a restart in between; records older than
    /// that mark never belong to a later recovery. The mark outlives the configuration: a replica that is still
    /// damaged when its configuration stops begins the next one damaged.
    pub damaged: Option<u64>,
}

/// Why a group can't start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("group {group} has {count} members; give it 1 to {MAX_MEMBERS}")]
    Count { group: ShardId, count: usize },
    #[error("group {group} names {member} twice; name each member once")]
    Twice { group: ShardId, member: GatewayId },
    /// More than [`MAX_LEARNERS`] learners.
    #[error("group {group} has {count} learners; give it at most {MAX_LEARNERS}")]
    Learners { group: ShardId, count: usize },
    /// A learner would vote, too.
    #[error(
        "group {group} names {learner} as a member and as a learner; a learner never votes, so name it once"
    )]
    MemberLearns { group: ShardId, learner: GatewayId },
    /// A witness votes, so it has to be a member.
    #[error(
        "group {group} names the witness {witness}, which is no member; name it among the members as well"
    )]
    WitnessNotMember { group: ShardId, witness: GatewayId },
    /// No member may lead.
    #[error("group {group} has only witnesses, so none of its members may lead; make one a full member")]
    AllWitnesses { group: ShardId },
    /// The configuration begins above [`MAX_COUNT`](super::MAX_COUNT).
    #[error(
        "configuration {configuration} of group {group} begins after slot {base}, above any that is ever used"
    )]
    Base { group: ShardId, configuration: u32, base: Slot },
    /// Neither the members nor the learners include this gateway.
    #[error("group {group} has no member or learner {me}; only these may run it")]
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
    /// The first configuration of a group that has no learners and no witnesses, and in which no value is a stop.
    pub fn new(group: ShardId, me: GatewayId, members: Vec<GatewayId>, limits: Limits) -> Self {
        let (witnesses, learners) = (Vec::new(), Vec::new());
        let is_stop = |_: &[u8]| false;
        Self { group, configuration: 1, me, members, witnesses, learners, base: 0, is_stop, limits }
    }

    /// Checks the assumptions of the rest of this crate: who takes part and as what, the base, and the limits.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let group = self.group;
        let count = self.members.len();
        if !(1..=MAX_MEMBERS).contains(&count) {
            return Err(ConfigError::Count { group, count });
        }
        if self.learners.len() > MAX_LEARNERS {
            return Err(ConfigError::Learners { group, count: self.learners.len() });
        }
        for all in [&self.members, &self.learners, &self.witnesses] {
            for (i, &member) in all.iter().enumerate() {
                if all.iter().skip(i + 1).any(|&m| m == member) {
                    return Err(ConfigError::Twice { group, member });
                }
            }
        }
        if let Some(&learner) = self.learners.iter().find(|l| self.members.contains(l)) {
            return Err(ConfigError::MemberLearns { group, learner });
        }
        if let Some(&witness) = self.witnesses.iter().find(|w| !self.members.contains(w)) {
            return Err(ConfigError::WitnessNotMember { group, witness });
        }
        if self.witnesses.len() == count {
            return Err(ConfigError::AllWitnesses { group });
        }
        if self.base > MAX_COUNT {
            return Err(ConfigError::Base { group, configuration: self.configuration, base: self.base });
        }
        if self.rank(self.me).is_none() {
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

    /// A replica's position among the members, which come first, and the learners.
    pub(super) fn rank(&self, gateway: GatewayId) -> Option<usize> {
        self.members.iter().chain(&self.learners).position(|&g| g == gateway)
    }

    /// The replica of this rank.
    pub(super) fn gateway(&self, rank: usize) -> Option<GatewayId> {
        self.members.get(rank).or_else(|| self.learners.get(rank.checked_sub(self.members.len())?)).copied()
    }

    /// How many replicas there are, learners included.
    pub(super) fn replicas(&self) -> usize {
        self.members.len() + self.learners.len()
    }

    /// The members that may lead.
    pub(super) fn may_lead(&self) -> Members {
        let mut set = Members::first(self.members.len());
        for rank in self.witnesses.iter().filter_map(|w| self.rank(*w)) {
            set = set.without(Members::only(rank));
        }
        set
    }
}

/// A set of replicas of a group, by rank: their position in the list of members, continued by the learners.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub(super) struct Members(u128);

/// How many replicas a set can hold.
const MAX_RANKS: usize = MAX_MEMBERS + MAX_LEARNERS;

impl Members {
    /// All replicas of the lowest ranks, this many.
    pub fn first(count: usize) -> Self {
        let mut set = Self::default();
        (0..count).for_each(|rank| set.insert(rank));
        set
    }

    pub fn only(rank: usize) -> Self {
        let mut set = Self::default();
        set.insert(rank);
        set
    }

    pub fn insert(&mut self, rank: usize) {
        debug_assert!(rank < MAX_RANKS);
        self.0 |= 1 << rank;
    }

    pub fn contains(self, rank: usize) -> bool {
        rank < MAX_RANKS && self.0 & (1 << rank) != 0
    }

    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    pub fn and(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    pub fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// How many members of the set rank before this one.
    pub fn before(self, rank: usize) -> usize {
        (0..rank).filter(|&r| self.contains(r)).count()
    }
}
