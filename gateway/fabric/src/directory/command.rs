//! What a slot of the directory group holds: commands.

use super::configuration::ShardConfiguration;
use super::gateway::{GatewayAddresses, GatewayKey};
use super::invitation::{Admission, TokenHash};
use bincode::{Decode, Encode};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::ElapsedMs;

/// Format version of [`DirectoryProposal`] frames.
pub const DIRECTORY_PROPOSAL_VERSION: u8 = 1;

/// What an operator's program calls one request, however often it sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct RequestKey(pub [u8; 16]);

/// The value of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct DirectoryProposal {
    /// What the leaders of the directory group have counted on their monotonic clocks. Never below that of a lower slot.
    pub elapsed: ElapsedMs,
    /// Applied in this order, each with the key of the request that it comes from, if an operator made one.
    pub commands: Vec<(Option<RequestKey>, DirectoryCommand)>,
}

impl DirectoryProposal {
    /// One command without a request, at a time.
    pub fn of(elapsed: ElapsedMs, command: DirectoryCommand) -> Self {
        Self { elapsed, commands: vec![(None, command)] }
    }

    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(DIRECTORY_PROPOSAL_VERSION, self)
    }

    /// From bytes. A slot without any, as a new leader may open its ballot with, holds no command.
    ///
    /// # Errors
    /// When the frame is damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        frame::decode("directory proposal", DIRECTORY_PROPOSAL_VERSION, bytes)
    }
}

/// The version of a slot's value, if it is one that this release does not know.
pub fn unknown_directory_version(value: &[u8]) -> Option<u8> {
    value.first().copied().filter(|version| *version != DIRECTORY_PROPOSAL_VERSION)
}

/// What the directory can be told. New ones come last.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum DirectoryCommand {
    /// An operator has a one-time token made.
    Invite {
        token: TokenHash,
        /// How long it is open, in elapsed time; at most [`MAX_INVITATION_MS`](super::MAX_INVITATION_MS).
        lasts_ms: u64,
        admits: Admission,
    },
    /// A new box shows a token. It gets a number.
    Join(Box<JoinRequest>),
    /// A joining gateway has learned the directory: it takes places from now on, and the one that it replaces drains.
    Activate { gateway: GatewayId },
    /// A gateway tells at its start who and where it is.
    Announce(Box<Announcement>),
    /// A gateway is to be emptied, for maintenance or for good.
    Drain { gateway: GatewayId },
    /// One that drains is to stay.
    Resume { gateway: GatewayId },
    /// A gateway leaves for good, whether it can be reached or not. Its proposer has the groups in which it votes report first, for what is
    /// left of them is judged by the last report.
    Remove {
        gateway: GatewayId,
        /// Though a shard may lose its majority or its last good replica.
        force: bool,
        /// Replicas that can't be relied on, as the leader of the directory group knows it: damaged, behind, or out of reach.
        unsound: Vec<UnsoundReplica>,
    },
    /// A gateway is to take more or less.
    Reweigh { gateway: GatewayId, weight: u32 },
    /// A group has this configuration; [`DIRECTORY_GROUP`](super::DIRECTORY_GROUP) is one of them.
    Report { shard: ShardId, configuration: ShardConfiguration },
    /// One replica of a group is to move.
    BeginMove {
        shard: ShardId,
        /// Who leaves.
        leaves: Option<GatewayId>,
        /// Who comes.
        comes: Option<GatewayId>,
        /// The configuration that it was planned for.
        configuration: u32,
    },
    /// How far a move is.
    Progress { shard: ShardId, since: u64, done_bytes: u64, total_bytes: u64 },
    /// A move is given up. One that succeeds ends with the report of its shard.
    EndMove { shard: ShardId, since: u64 },
    /// No replica moves until further notice.
    Pause,
    /// They move again.
    Continue,
    /// How many bytes per second all moves may take together.
    SetRate { bytes_per_s: u64 },
    /// From here on, forms of this level may be used.
    Upgrade { level: u32 },
    /// Time has passed.
    Elapsed,
}

/// A new box asks to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct JoinRequest {
    pub token: TokenHash,
    /// Its data folder.
    pub incarnation: u128,
    pub key: GatewayKey,
    pub addresses: GatewayAddresses,
    pub zone: Option<String>,
    /// The highest level that it understands.
    pub level: u32,
}

/// A gateway tells who and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Announcement {
    pub gateway: GatewayId,
    /// Its data folder.
    pub incarnation: u128,
    pub key: GatewayKey,
    pub addresses: GatewayAddresses,
    /// Nothing: as it is known.
    pub zone: Option<String>,
    /// The highest level that it understands.
    pub level: u32,
}

/// A replica that its shard can't rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct UnsoundReplica {
    pub shard: ShardId,
    pub gateway: GatewayId,
}
