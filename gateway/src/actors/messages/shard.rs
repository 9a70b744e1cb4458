//! Messages to a shard's replica.

use actix::Message;
use selvedge_fabric::machine::{Fullness, Sizes};
use selvedge_fabric::replica::Said;
use selvedge_fabric::shard::{Event, Status};

/// Events for a shard.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShardEvents(pub Vec<Event>);

/// What the log says to a shard.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LogSaid(pub Said);

/// Asks for the content of a batch, for the uplink.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LoadBatch(pub u64);

/// Asks how the shard is.
#[derive(Debug, Message)]
#[rtype(result = "ShardReport")]
pub struct GetStatus;

/// How the shard is.
#[derive(Debug, actix::MessageResponse)]
pub struct ShardReport {
    /// Its replica.
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
