//! Messages to the log.

use actix::Message;
use selvedge_fabric::commit::CommitRequest;
use selvedge_fabric::replica::StoreWork;
use selvedge_log::storage::LogFigures;
use selvedge_types::ids::ShardId;

/// Records of one shard, to be made durable.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Persist(pub CommitRequest);

/// Work for the store of snapshots and batches.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Store(pub StoreWork);

/// The shard's damage is repaired by what was persisted before.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Healed(pub ShardId);

/// The shard's replica is given up while `through` is the shard's latest configuration: it writes nothing any more, and its
/// data is deleted.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Forget {
    pub shard: ShardId,
    pub through: u32,
}

/// Asks for the log's figures for operators.
#[derive(Debug, Clone, Copy, Default, Message)]
#[rtype(result = "LogFigures")]
pub struct GetLogFigures;
