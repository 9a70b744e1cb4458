//! Messages to a shard's replica.

use actix::Message;
use selvedge_fabric::directory::DIRECTORY_GROUP;
use selvedge_fabric::machine::{Fullness, Sizes};
use selvedge_fabric::replica::Said;
use selvedge_fabric::shard::{ShardEvent, Status};

/// Events for the core of a shard's replica.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShardEvents(pub Vec<ShardEvent>);

/// What the log reports to a shard.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LogSaid(pub Said);

/// Asks for the content of a batch, for the uplink.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LoadBatch(pub u64);

/// Gives the replica up while `configuration` is the latest one of its shard. If it agrees, it takes no further turn, and
/// has handed everything to the log that it ever will.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct GiveUp {
    pub configuration: u32,
}

/// Asks for the state of the shard.
#[derive(Debug, Message)]
#[rtype(result = "ShardReport")]
pub struct GetStatus;

/// The state of a shard's replica, for operators and reports.
#[derive(Debug, actix::MessageResponse)]
pub struct ShardReport {
    pub status: Status,
    /// How often this process began to lead it.
    pub led: u64,
    /// How many publishes were ever put into its quarantine.
    pub quarantined: u64,
    /// How much its tables hold.
    pub sizes: Sizes,
    /// How much of each bound is used.
    pub fullness: Vec<Fullness>,
}

impl ShardReport {
    /// Whether this is the replica of the directory group, which is no shard.
    pub fn is_directory(&self) -> bool {
        self.status.shard == DIRECTORY_GROUP.0
    }
}
