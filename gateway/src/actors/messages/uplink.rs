//! Messages to the uplink.

use actix::Message;
use selvedge_fabric::shard::UplinkView;
use selvedge_fabric::uplink::UplinkContent;
use selvedge_types::ids::ShardId;
use selvedge_types::report::Report;

/// The state of a shard's outbox.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShardView(pub ShardId, pub UplinkView);

/// The content of a batch, or why there is none.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Loaded {
    pub shard: ShardId,
    pub seq: u64,
    pub content: UplinkContent,
}

/// A report for the nodes.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SendReport(pub Report);

/// Asks how many questions of nodes are under way, and how long one took recently in milliseconds; `None` while the
/// broker is not connected.
#[derive(Debug, Message)]
#[rtype(result = "Option<(u32, u32)>")]
pub struct GetLoad;

/// Asks for the state of the uplink.
#[derive(Debug, Message)]
#[rtype(result = "UplinkState")]
pub struct GetState;

/// The state of the uplink. A site takes readings without it, so it does not decide whether a gateway is ready.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, actix::MessageResponse)]
pub struct UplinkState {
    /// Host and port of the broker.
    pub broker: String,
    /// Whether both connections to the broker are up.
    pub connected: bool,
    /// Why results do not reach a node, if they do not.
    pub trouble: Option<String>,
    /// The ledgers that the shards with a replica here have admitted; more than one only while that changes.
    pub ledgers: Vec<String>,
}
