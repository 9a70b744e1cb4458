//! Known mistakes, to be made on purpose by tests: a simulator that does not find them proves nothing.
//!
//! Without the feature `canaries`, which only dev-dependencies name, [`makes`] is constantly false and what it guards is
//! not in the program. With it a mistake is made on those threads that asked for it.

/// A mistake that a program like this one might contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Canary {
    /// Accepted leaves before the entry is on disk.
    AcceptedBeforeFsync,
    /// Prepare leaves before its ballot is on disk, and the candidate does not wait for it either.
    PrepareBeforeDurable,
    /// A leader counts its own vote when it has given it to the disk.
    OwnVoteEarly,
    /// A follower appends behind entries of an older ballot as if they belonged to the new one.
    StaleEntryCounts,
    /// A restarted leader continues in its old ballot.
    BallotUsedAgain,
    /// What is sent again to a follower is appended to what it has, not put in its place.
    ResentIsAppended,
    /// A follower takes the leader's commit index for all that it holds, accepted in this ballot or not.
    CommitPastPrefix,
    /// A follower that lags behind the log in memory is sent what comes after the gap.
    TrimmedIsSkipped,
    /// A read is served by who believes to lead, without asking.
    StaleRead,
    /// A replica that lost records votes at once.
    DamagedVotes,
    /// A torn unit at the log's end is taken for whole.
    TornTailTaken,
    /// The log is trimmed below a snapshot that could not be saved.
    TrimmedWithoutSnapshot,
    /// A batch that is forwarded again is applied again.
    ForwardedTwice,
    /// A publish is acknowledged when the first of its shards has it.
    AcknowledgedInPart,
    /// An MQTT 3 client is acknowledged a publish before it is in the quarantine.
    AcknowledgedUnquarantined,
    /// A sequence number is believed however far it leaps.
    LeapBelieved,
    /// Sequence numbers that were seen are not in the snapshot.
    DedupNotInSnapshot,
    /// The outbox is trimmed when a batch was sent, not when it was confirmed.
    SentIsConfirmed,
    /// A retired stream leaves no tombstone.
    RetiredIsForgotten,
    /// SUBACK leaves before the subscriptions are chosen.
    SubackBeforeChosen,
    /// A gateway accepts a client before the will of the client's earlier connection is published.
    WillAfterConnack,
    /// The content of a batch is deleted when it is confirmed, though it is kept for questions.
    ConfirmedIsDeleted,
    /// A restarted gateway seals with the key and the nonces of its earlier start.
    NonceUsedAgain,
    /// A leader writes what its own wall clock shows, whatever its peers' do.
    WallUnbounded,
    /// Sessions end by wall time.
    ExpiryByWall,
    /// A snapshot that another release wrote counts as damaged.
    UnreadableIsDamage,
    /// A log that ends below its floor is taken for whole.
    FloorIgnored,
    /// A leader whose disk is full keeps leading although a majority has room.
    FullKeepsLeading,
    /// Only the first of the shards that hold a packet id receives its PUBREL.
    ReleasedInPart,
    /// A QoS 2 publish does not wait until the record of its session names the shard.
    TouchedUnnoted,
    /// What an earlier connection of a session still has under way counts behind a later one.
    StaleEpochCounts,
    /// Fewer packet ids of a client are remembered than it may have in flight.
    FewPacketIds,
    /// A damaged replica asks a majority what was promised, not all.
    MajorityHeals,
    /// A content counts as lost everywhere once a majority of its replicas has lost it.
    LostByMajority,
    /// A newer snapshot replaces the one that a replica is pulling.
    TransferReplaced,
    /// A scrub takes what has rotted for whole.
    ScrubPassesOver,
    /// A connection reads by the credit that there was when it became idle.
    CreditOfThen,
    /// All lanes of a link share one bound, so routed publishes displace accepts.
    LanesShared,
    /// A process that stood still takes its own stall for the silence of its peers.
    StallIsSilence,
    /// A restart between two connections is not reported.
    RestartUnseen,
    /// A client whose shard can't move waits for it.
    StuckLaneTaken,
    /// PUBACK, PUBREC and PUBCOMP leave as publishes are settled.
    AnsweredAsSettled,
    /// Publishes to one topic reach subscribers as they are settled.
    RoutedAsSettled,
    /// A gateway passes on what others send by it under its own name.
    DetourInOwnName,
    /// A leader keeps leading, whoever is better connected.
    WorseConnectedLeads,
    /// The number of a gateway that has gone is given to the next one.
    IdUsedAgain,
    /// A leader proposes values after the stop of its configuration.
    ProposesAfterStop,
    /// A learner votes, and the leader counts its vote.
    LearnerVotes,
    /// A leader that adopts a stop writes an opening entry after it.
    OpensAfterStop,
    /// A leader that adopts a stop adopts the entries above it, too.
    KeptAboveStop,
    /// A shard that moves forgets the forwarding numbers of all gateways but its next members.
    OriginsForgotten,
    /// A restart takes promises and votes of an earlier configuration for those of the present one, if their ballots
    /// are higher.
    OldPromiseReplaces,
    /// A witness drops everything that is chosen, whatever the full members have.
    WitnessTrimsTooEarly,
    /// A witness campaigns and leads like a full member.
    WitnessLeads,
}

impl Canary {
    /// Those that sites show whose members change. [`Self::KeptAboveStop`] and [`Self::OldPromiseReplaces`] need entries
    /// above a stop that outlive it, which tests of one group show much sooner.
    pub const OF_GROWTH: [Self; 5] = [
        Self::ProposesAfterStop,
        Self::LearnerVotes,
        Self::OpensAfterStop,
        Self::OriginsForgotten,
        Self::IdUsedAgain,
    ];

    /// Those that sites with a witness show.
    pub const OF_WITNESSES: [Self; 2] = [Self::WitnessTrimsTooEarly, Self::WitnessLeads];

    /// Those that sites show whose members stay. [`Self::MajorityHeals`] takes too many elections of one group, here as
    /// there.
    pub const OF_SITES: [Self; 42] = [
        Self::AcceptedBeforeFsync,
        Self::PrepareBeforeDurable,
        Self::OwnVoteEarly,
        Self::StaleEntryCounts,
        Self::BallotUsedAgain,
        Self::ResentIsAppended,
        Self::CommitPastPrefix,
        Self::TrimmedIsSkipped,
        Self::StaleRead,
        Self::DamagedVotes,
        Self::TornTailTaken,
        Self::TrimmedWithoutSnapshot,
        Self::ForwardedTwice,
        Self::AcknowledgedInPart,
        Self::AcknowledgedUnquarantined,
        Self::LeapBelieved,
        Self::DedupNotInSnapshot,
        Self::SentIsConfirmed,
        Self::SubackBeforeChosen,
        Self::WillAfterConnack,
        Self::NonceUsedAgain,
        Self::RetiredIsForgotten,
        Self::WallUnbounded,
        Self::ExpiryByWall,
        Self::ConfirmedIsDeleted,
        Self::UnreadableIsDamage,
        Self::FloorIgnored,
        Self::FullKeepsLeading,
        Self::ReleasedInPart,
        Self::TouchedUnnoted,
        Self::StaleEpochCounts,
        Self::FewPacketIds,
        Self::LostByMajority,
        Self::TransferReplaced,
        Self::ScrubPassesOver,
        Self::LanesShared,
        Self::StallIsSilence,
        Self::RestartUnseen,
        Self::CreditOfThen,
        Self::StuckLaneTaken,
        Self::AnsweredAsSettled,
        Self::RoutedAsSettled,
    ];

    /// Those that sites show while a link stays cut.
    pub const OF_DETOURS: [Self; 2] = [Self::DetourInOwnName, Self::WorseConnectedLeads];
}

#[cfg(feature = "canaries")]
mod switch {
    use super::Canary;
    use std::cell::Cell;

    thread_local! {
        static MADE: Cell<Option<Canary>> = const { Cell::new(None) };
    }

    /// From now on this thread makes this mistake, or none.
    pub fn make(canary: Option<Canary>) {
        MADE.set(canary);
    }

    /// Whether the mistake is to be made.
    pub fn makes(canary: Canary) -> bool {
        MADE.get() == Some(canary)
    }
}

#[cfg(feature = "canaries")]
pub use switch::{make, makes};

/// Whether the mistake is to be made: never.
#[cfg(not(feature = "canaries"))]
#[inline(always)]
pub const fn makes(_: Canary) -> bool {
    false
}
