//! Outcomes of commands, with the texts of refusals.

use super::gateway::{GatewayState, MAX_ADDRESS_BYTES, MAX_ZONE_BYTES};
use super::invitation::{InvitationId, MAX_INVITATION_MS, MAX_INVITATIONS_ENTRIES};
use super::moves::{MAX_MOVES_ENTRIES, MAX_RATE_BYTES_PER_S, MIN_RATE_BYTES_PER_S};
use super::{DIRECTORY_GROUP, Group};
use crate::ring::{MAX_GATEWAYS, MAX_REPLICAS, MAX_WEIGHT};
use bincode::{Decode, Encode};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::{ElapsedMs, duration_text};

/// The outcome of a command. Snapshots keep those of operators' requests.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum DirectoryOutcome {
    Done,
    /// The state was already as the command wants it.
    Unchanged,
    /// The invitation is open.
    Invited {
        /// In the directory's elapsed time.
        expires: ElapsedMs,
    },
    /// The box joined, and keeps this number for good.
    Joined {
        gateway: GatewayId,
    },
    /// The move began. Its shard and this slot identify it.
    Begun {
        since: u64,
    },
    Refused(DirectoryRefusal),
}

/// Why a command changed nothing. The texts tell operators what is wrong and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum DirectoryRefusal {
    #[error("the site has no gateway {0}: check the number against the site's list of gateways")]
    UnknownGateway(GatewayId),
    #[error("gateway {0} was removed for good: invite a new gateway")]
    Gone(GatewayId),
    #[error("gateway {0} is {1}: only a joining gateway can be activated")]
    NotJoining(GatewayId, GatewayState),
    #[error(
        "gateway {0} is {1}: only an active gateway can be drained; remove a gateway that never became active"
    )]
    NotActive(GatewayId, GatewayState),
    #[error("gateway {0} is {1}: only a draining gateway can resume")]
    NotDraining(GatewayId, GatewayState),
    #[error("gateway {gateway} is being replaced by {by}: to cancel the replacement, remove {by} first")]
    Replaced { gateway: GatewayId, by: GatewayId },
    #[error("gateway {0} is the last active gateway that holds data: add another gateway first")]
    LastFull(GatewayId),
    #[error(
        "without gateway {gateway}, {} keeps {left} of {voters} voters, which is not a majority: drain the gateway or add another, and \
         wait until its replicas have moved; or force the removal, and then recover the site from the remaining replicas",
        Group(*shard)
    )]
    NoMajority { gateway: GatewayId, shard: ShardId, left: u8, voters: u8 },
    #[error(
        "gateway {gateway} has the only good replica of {}: wait until the others have caught up, or force the removal and lose the \
         data that only it has",
        Group(*shard)
    )]
    LastGoodReplica { gateway: GatewayId, shard: ShardId },
    #[error(
        "weight {0} is out of range: give 1 to {MAX_WEIGHT}, or drain the gateway to move everything off it"
    )]
    Weight(u32),
    #[error(
        "an address is not valid: give host and port in at most {MAX_ADDRESS_BYTES} bytes without control characters; the address for \
         other gateways is mandatory"
    )]
    Address,
    #[error(
        "the zone is not valid: give 1 to {MAX_ZONE_BYTES} bytes without control characters, or leave it out"
    )]
    Zone,
    #[error("the site knows no invitation with this token: check the token, or request another one")]
    InvitationUnknown,
    #[error("gateway {0} has already joined with this token: request another one")]
    InvitationUsed(GatewayId),
    #[error("this token has expired: request another one")]
    InvitationExpired,
    #[error("an invitation with this token already exists or has ended: draw another token")]
    InvitationKnown,
    #[error(
        "an invitation can't stay open for {}: give 1ms to {}",
        duration(*.0),
        duration(MAX_INVITATION_MS)
    )]
    InvitationTime(u64),
    #[error(
        "{MAX_INVITATIONS_ENTRIES} invitations are open, which is the maximum: wait until one is used or expires"
    )]
    TooManyInvitations,
    #[error("the site has {MAX_GATEWAYS} gateways, which is the maximum: remove one first")]
    TooManyGateways,
    #[error("all gateway numbers have been used: set up a new site")]
    NoNumberLeft,
    #[error("this key belongs to gateway {0}: start the new gateway with an empty data folder")]
    KeyKnown(GatewayId),
    #[error("this data folder belongs to gateway {0}: start the new gateway with an empty one")]
    IncarnationKnown(GatewayId),
    #[error(
        "gateway {0} has another data folder or key than when it was admitted, so it may have forgotten votes: replace it with a new \
         gateway"
    )]
    NotTheSame(GatewayId),
    #[error(
        "the gateway understands levels up to {found}, but the site is at level {level}: update the gateway first"
    )]
    LevelTooLow { found: u32, level: u32 },
    #[error("the site is already at level {level} and can't go back to level {found}")]
    LevelBack { found: u32, level: u32 },
    #[error("level {level} is too new for {}: update these gateways, or remove them", list(gateways))]
    NotUnderstood { level: u32, gateways: Vec<GatewayId> },
    #[error("the site has no shard {0}: check the number against the site's list of shards")]
    NoShard(ShardId),
    #[error(
        "{}: the reported configuration is not valid: it needs a number above 0 and 1 to {MAX_REPLICAS} voters, and can name only \
         known gateways, each once",
        Group(*.0)
    )]
    BadConfiguration(ShardId),
    #[error(
        "the site is in generation {known} already, and generation {found} is older: assess the site again"
    )]
    OldGeneration { found: u64, known: u64 },
    #[error("no gateway that holds data would be left: name a survivor that is no witness")]
    NoSurvivor,
    #[error("{}: configuration {number} is already known with other voters", Group(*shard))]
    Contradiction { shard: ShardId, number: u32 },
    #[error("{}: a replica is already moving; wait until that move ends", Group(*.0))]
    MoveUnderWay(ShardId),
    #[error("{MAX_MOVES_ENTRIES} replicas are moving, which is the maximum: wait until a move ends")]
    TooManyMoves,
    #[error("moves are paused: continue them first")]
    Paused,
    #[error("{}: a move must add or drop a gateway, and can't do both with the same one", Group(*.0))]
    EmptyMove(ShardId),
    #[error("{}: gateway {gateway} is not a voter, so it can't be dropped", Group(*shard))]
    NoVoter { shard: ShardId, gateway: GatewayId },
    #[error("{}: gateway {gateway} is already a voter", Group(*shard))]
    VoterAlready { shard: ShardId, gateway: GatewayId },
    #[error("{}: after this move it would have no voter, or more than {MAX_REPLICAS}", Group(*.0))]
    Voters(ShardId),
    #[error("{}: after this move most of its voters would be gateways that were removed", Group(*.0))]
    VotersGone(ShardId),
    #[error("gateway {0} is not active, and only active gateways take replicas")]
    ComesInactive(GatewayId),
    #[error("{}: its configuration is now {configuration}: plan the move again", Group(*shard))]
    Superseded { shard: ShardId, configuration: u32 },
    #[error("{}: this move is not under way; it has ended, or never began", Group(*.0))]
    NoMove(ShardId),
    #[error("{}: the move reports more bytes done than its total", Group(*.0))]
    Progress(ShardId),
    #[error(
        "{0} bytes per second is out of range for moves: give {MIN_RATE_BYTES_PER_S} to {MAX_RATE_BYTES_PER_S}"
    )]
    Rate(u64),
    #[error("this idempotency key was used for another request: draw a new key for each request")]
    KeyReused,
    #[error(
        "without gateway {gateway}, only {left} of {voters} voters of {} can be reached and have everything, which is not a majority: \
         bring the others back or remove those that are dead for good first; or force the removal, and lose the group if they don't \
         come back",
        Group(*shard)
    )]
    NoSoundMajority { gateway: GatewayId, shard: ShardId, left: u8, voters: u8 },
    #[error("this invitation was withdrawn: request another one")]
    InvitationWithdrawn,
    #[error("the site has no invitation {0}: check it against the site's list of invitations")]
    NoInvitation(InvitationId),
    #[error(
        "gateway {gateway} has already joined with invitation {invitation}: remove that gateway to undo it"
    )]
    JoinedAlready { invitation: InvitationId, gateway: GatewayId },
}

fn duration(ms: u64) -> String {
    duration_text(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn list(gateways: &[GatewayId]) -> String {
    gateways.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == DIRECTORY_GROUP { f.write_str("the directory") } else { write!(f, "shard {}", self.0) }
    }
}
