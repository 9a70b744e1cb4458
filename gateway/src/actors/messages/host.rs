//! Messages to the host of replicas, and what it says to the others.

use actix::Message;
use selvedge_types::ids::ShardId;

/// A replica of the shard moves to this gateway, or has moved here before. If there is none yet, an empty one is made,
/// which votes in no configuration up to `configuration`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct HoldReplica {
    pub shard: ShardId,
    /// The number of the shard's present configuration, as far as the directory knows.
    pub configuration: u32,
}

/// A replica was made while the gateway runs. The replicas' list has it already.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct ReplicaMade(pub ShardId);
