//! Messages to the forwarder.

use actix::Message;
use selvedge_fabric::forward::{Forwardable, Ticket};
use selvedge_fabric::machine::{DueWill, Origin};
use selvedge_fabric::peer::ForwardAnswer;
use selvedge_types::ids::{GatewayId, ShardId};

/// Items of one connection, in order.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Submit(pub Vec<(ShardId, Ticket, Forwardable)>);

/// Items that no client waits for any more: at most as many as CONNECTs were submitted.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Withdraw(pub Vec<(ShardId, Ticket)>);

/// Wills that this gateway must publish: at most as many as the bounds of the shards that it leads allow.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct PublishWills(pub Vec<DueWill>);

/// Answers to batches that were forwarded.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Answered {
    /// The gateway that answers.
    pub from: GatewayId,
    /// For each: the origin under which the batch was forwarded, its shard, its number, and the answer.
    pub answers: Vec<(Origin, ShardId, u64, ForwardAnswer)>,
}

/// A shard has this leader.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LeaderIs(pub ShardId, pub GatewayId);

/// A gateway can't be reached.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct GatewayDown(pub GatewayId);

/// A gateway can be reached again.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct GatewayUp(pub GatewayId);
