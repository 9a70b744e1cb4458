//! What became of a command: done, or refused with what is wrong and what to do about it.

use super::gateway::{GatewayState, MAX_ADDRESS_BYTES, MAX_ZONE_BYTES};
use super::invitation::{MAX_INVITATION_MS, MAX_INVITATIONS_ENTRIES};
use super::moves::{MAX_MOVES_ENTRIES, MAX_RATE_BYTES_PER_S, MIN_RATE_BYTES_PER_S};
use super::{DIRECTORY_GROUP, Group};
use crate::ring::{MAX_GATEWAYS, MAX_REPLICAS, MAX_WEIGHT};
use bincode::{Decode, Encode};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::ElapsedMs;

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum DirectoryOutcome {
    Done,
    /// It was so already.
    Unchanged,
    /// The token is good until then, by the directory's elapsed time.
    Invited {
        expires: ElapsedMs,
    },
    /// The new gateway has this number, for ever.
    Joined {
        gateway: GatewayId,
    },
    /// The move is known by its shard and this slot.
    Begun {
        since: u64,
    },
    /// Nothing changed.
    Refused(DirectoryRefusal),
}

/// Why a command changed nothing. The texts are for people: what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum DirectoryRefusal {
    #[error("the site has no gateway {0}: list its gateways")]
    UnknownGateway(GatewayId),
    #[error("gateway {0} was removed for good, and its number is not given again: invite a new gateway")]
    Gone(GatewayId),
    #[error("gateway {0} is {1}: only one that is joining can be activated")]
    NotJoining(GatewayId, GatewayState),
    #[error("gateway {0} is {1}: only an active one can be drained; remove one that never became active")]
    NotActive(GatewayId, GatewayState),
    #[error("gateway {0} is {1}: only one that is draining can resume")]
    NotDraining(GatewayId, GatewayState),
    #[error("gateway {gateway} is replaced by {by}: remove {by} first, if it is not to be")]
    Replaced { gateway: GatewayId, by: GatewayId },
    #[error("gateway {0} is the last active one that holds data: add another first")]
    LastFull(GatewayId),
    #[error(
        "without gateway {gateway}, {} has {left} of {voters} voters left, which is no majority: wait until its replicas have moved \
         (drain it, or add a gateway), or force the removal and then recover the site from what is left",
        Group(*shard)
    )]
    NoMajority { gateway: GatewayId, shard: ShardId, left: u8, voters: u8 },
    #[error(
        "gateway {gateway} has the only good replica of {}: wait until the others have caught up, or force the removal and lose what \
         only it has",
        Group(*shard)
    )]
    LastGoodReplica { gateway: GatewayId, shard: ShardId },
    #[error("weight {0}: weights are 1 to {MAX_WEIGHT}; drain a gateway to take everything from it")]
    Weight(u32),
    #[error(
        "an address can't be kept: give host and port of at most {MAX_ADDRESS_BYTES} bytes, without control characters; the one for \
         other gateways is needed"
    )]
    Address,
    #[error("a zone is 1 to {MAX_ZONE_BYTES} bytes without control characters, or left out")]
    Zone,
    #[error("the site knows no invitation with this token: check it, or have another one made")]
    InvitationUnknown,
    #[error("this token was used by gateway {0}: have another one made")]
    InvitationUsed(GatewayId),
    #[error("the time of this token is up: have another one made")]
    InvitationExpired,
    #[error("there is an invitation with this token already: draw another token")]
    InvitationKnown,
    #[error("{0} ms: an invitation stays open for 1 to {MAX_INVITATION_MS} ms")]
    InvitationTime(u64),
    #[error(
        "{MAX_INVITATIONS_ENTRIES} invitations are open, and there may not be more: wait until one is used or its time is up"
    )]
    TooManyInvitations,
    #[error("the site has {MAX_GATEWAYS} gateways, and there may not be more: remove one first")]
    TooManyGateways,
    #[error("all numbers of gateways were given: the site has to be set up anew")]
    NoNumberLeft,
    #[error("this key is that of gateway {0}: let the new gateway start with an empty data folder")]
    KeyKnown(GatewayId),
    #[error("this data folder is that of gateway {0}: let the new gateway start with an empty one")]
    IncarnationKnown(GatewayId),
    #[error(
        "gateway {0} comes with another data folder or key than it was admitted with: it may have forgotten votes; replace it by a new \
         gateway"
    )]
    NotTheSame(GatewayId),
    #[error("the gateway understands level {found} at most, and the site is at {level}: update it first")]
    LevelTooLow { found: u32, level: u32 },
    #[error("level {found}: the site is at {level} already, and a level never goes back")]
    LevelBack { found: u32, level: u32 },
    #[error("level {level} is not understood by {}: update these gateways, or remove them", list(gateways))]
    NotUnderstood { level: u32, gateways: Vec<GatewayId> },
    #[error("the site has no shard {0}")]
    NoShard(ShardId),
    #[error("{}: a configuration has a number, 1 to {MAX_REPLICAS} voters, and names each known gateway once", Group(*.0))]
    BadConfiguration(ShardId),
    #[error("{}: configuration {number} was reported with other voters", Group(*shard))]
    Contradiction { shard: ShardId, number: u32 },
    #[error("{}: a replica of it is moving already, and one moves at a time", Group(*.0))]
    MoveUnderWay(ShardId),
    #[error("{MAX_MOVES_ENTRIES} replicas are moving, and not more do at a time")]
    TooManyMoves,
    #[error("moves are paused: continue them first")]
    Paused,
    #[error("{}: a move needs somebody who leaves or comes, and not the same", Group(*.0))]
    EmptyMove(ShardId),
    #[error("{}: gateway {gateway} does not vote in it and can't leave it", Group(*shard))]
    NoVoter { shard: ShardId, gateway: GatewayId },
    #[error("{}: gateway {gateway} votes in it already", Group(*shard))]
    VoterAlready { shard: ShardId, gateway: GatewayId },
    #[error("{}: nobody would vote in it, or more than {MAX_REPLICAS}", Group(*.0))]
    Voters(ShardId),
    #[error("gateway {0} is not active, and only an active one takes a replica")]
    ComesInactive(GatewayId),
    #[error("{}: it has configuration {configuration} by now: plan again", Group(*shard))]
    Superseded { shard: ShardId, configuration: u32 },
    #[error("{}: no such move is under way", Group(*.0))]
    NoMove(ShardId),
    #[error("{}: more bytes are done than there are", Group(*.0))]
    Progress(ShardId),
    #[error("{0} bytes per second: the rate of moves is {MIN_RATE_BYTES_PER_S} to {MAX_RATE_BYTES_PER_S}")]
    Rate(u64),
    #[error("this idempotency key was used for another request: draw a key for each request")]
    KeyReused,
}

fn list(gateways: &[GatewayId]) -> String {
    gateways.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl std::fmt::Display for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0 == DIRECTORY_GROUP { f.write_str("the directory") } else { write!(f, "shard {}", self.0) }
    }
}
