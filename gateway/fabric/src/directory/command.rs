//! The directory group's commands, as they come in batches.

use super::configuration::ShardConfiguration;
use super::gateway::{GatewayAddresses, GatewayKey};
use super::genesis::Genesis;
use super::invitation::{Admission, InvitationId, TokenHash};
use bincode::{Decode, Encode};
use selvedge_types::ids::{GatewayId, ShardId};

/// The idempotency key of an operator's request. The client draws it, and sends the same key when it repeats the
/// request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct RequestKey(pub [u8; 16]);

/// An item of a batch for the directory group.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum DirectoryItem {
    /// Begins the directory of a new site. The first one chosen stays; later ones change nothing.
    Begin(Genesis),
    /// A command, with the request's key if an operator caused it.
    Command(Option<RequestKey>, DirectoryCommand),
}

/// A change to the directory. New variants go last, since the encoding numbers them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum DirectoryCommand {
    /// Opens an invitation for a one-time token that an operator requested.
    Invite {
        token: TokenHash,
        /// How long the invitation stays open, in elapsed time; at most
        /// [`MAX_INVITATION_MS`](super::MAX_INVITATION_MS).
        lasts_ms: u64,
        admits: Admission,
    },
    /// Admits a new box that presents a token, and gives it a number.
    Join(Box<JoinRequest>),
    /// A joining gateway has learned the directory. It becomes active, and the gateway that it replaces starts to
    /// drain.
    Activate { gateway: GatewayId },
    /// A gateway announces its identity and addresses at its start.
    Announce(Box<Announcement>),
    /// Empties a gateway, for maintenance or before its removal.
    Drain { gateway: GatewayId },
    /// Ends a drain: the gateway is active again.
    Resume { gateway: GatewayId },
    /// Removes a gateway for good, whether or not it can be reached. The directory judges the removal by the last
    /// reports of the groups in which the gateway votes, so the proposer has these report first.
    Remove {
        gateway: GatewayId,
        /// Remove it even if a shard loses its majority or its last good replica.
        force: bool,
        /// Replicas that the leader of the directory group knows to be damaged, behind or unreachable.
        unsound: Vec<UnsoundReplica>,
    },
    /// Changes a gateway's weight, and with it its share of the replicas.
    Reweigh { gateway: GatewayId, weight: u32 },
    /// The configuration that a shard or the directory group ([`DIRECTORY_GROUP`](super::DIRECTORY_GROUP)) has chosen.
    Report { shard: ShardId, configuration: ShardConfiguration },
    /// Begins a move of one replica of a group.
    BeginMove {
        shard: ShardId,
        /// The voter to drop; `None` if a replica is added.
        leaves: Option<GatewayId>,
        /// The gateway to add; `None` if a replica is taken away.
        comes: Option<GatewayId>,
        /// The number of the configuration that the move was planned for. Another one by then refuses the move.
        configuration: u32,
    },
    /// Records how much of a move's data the new replica holds.
    Progress { shard: ShardId, since: u64, done_bytes: u64, total_bytes: u64 },
    /// Gives a move up. A move that succeeds ends with the report of its group.
    EndMove { shard: ShardId, since: u64 },
    /// Stops all moves and all other planning until [`Continue`](Self::Continue).
    Pause,
    /// Ends a pause. The moves that were under way go on from where they were.
    Continue,
    /// Sets the bandwidth limit for all moves together.
    SetRate { bytes_per_s: u64 },
    /// Allows the formats of this level. Every gateway must understand it already.
    Upgrade { level: u32 },
    /// Changes nothing itself: it only brings the directory's elapsed time up to its slot's.
    Elapsed,
    /// A person has given up the gateways that the site has lost: the survivors go on as a new generation.
    Recover(Box<SiteRecovery>),
    /// Ends an open invitation, so that nobody can join with its token.
    Withdraw { invitation: InvitationId },
}

/// What a recovery changes in the directory ([`crate::recovery`]).
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SiteRecovery {
    /// The new generation of the site, higher than the one before.
    pub generation: u64,
    /// The gateways that are given up for good.
    pub lost: Vec<GatewayId>,
    /// The groups that had lost their majorities, each with its new configuration and the only member of that.
    pub groups: Vec<(ShardId, u32, GatewayId)>,
}

/// A new box's request for admission.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinRequest {
    pub token: TokenHash,
    /// The random number that identifies its data folder.
    pub incarnation: u128,
    pub key: GatewayKey,
    pub addresses: GatewayAddresses,
    /// Used unless the operator named a zone in the invitation.
    pub zone: Option<String>,
    /// The highest level that its release understands.
    pub level: u32,
}

/// A gateway's identity and addresses, as it announces them at its start.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Announcement {
    pub gateway: GatewayId,
    /// The random number that identifies its data folder.
    pub incarnation: u128,
    pub key: GatewayKey,
    pub addresses: GatewayAddresses,
    /// `None` keeps the known zone.
    pub zone: Option<String>,
    /// The highest level that its release understands.
    pub level: u32,
}

/// A replica that is damaged, behind or unreachable, and so does not count as a good copy of its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct UnsoundReplica {
    pub shard: ShardId,
    pub gateway: GatewayId,
}
