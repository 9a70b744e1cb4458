//! Messages to the host of replicas, and what it says to the others.

use actix::Message;
use selvedge_types::ids::ShardId;

/// A replica of the shard moves to this gateway, or has moved here before. If there is none yet, an empty one is made. It
/// votes in no configuration up to `configuration`, or up to the one in which an earlier replica was given up.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HoldReplica {
    pub shard: ShardId,
    /// The number of the shard's present configuration, as far as the directory knows.
    pub configuration: u32,
}

/// The shard's replica here has left the shard, and nobody needs anything of it: it is given up and deleted.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct DropReplica {
    pub shard: ShardId,
    /// The number of the shard's latest configuration, in which this gateway has no part.
    pub configuration: u32,
}

/// A replica was made while the gateway runs. The replicas' list has it already.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct ReplicaMade {
    pub shard: ShardId,
    /// It votes in no configuration up to this one.
    pub silent_until: u32,
}
