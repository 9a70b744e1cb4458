//! Messages to the uplink.

use actix::Message;
use selvedge_fabric::shard::UplinkView;
use selvedge_fabric::uplink::UplinkContent;
use selvedge_types::ids::ShardId;
use selvedge_types::report::Report;

/// How a shard's outbox stands.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShardView(pub ShardId, pub UplinkView);

/// What there is to be sent of a batch.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Loaded {
    /// The shard.
    pub shard: ShardId,
    /// The batch.
    pub seq: u64,
    /// What there is.
    pub content: UplinkContent,
}

/// A report to be sent.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct SendReport(pub Report);

/// Asks how many questions of nodes are under way, and how long one took lately in milliseconds; nothing while the
/// broker is not connected.
#[derive(Debug, Message)]
#[rtype(result = "Option<(u32, u32)>")]
pub struct GetLoad;

/// Asks how the uplink is.
#[derive(Debug, Message)]
#[rtype(result = "UplinkState")]
pub struct GetState;

/// How the uplink is. A site takes readings without it, so it does not decide whether a gateway is ready.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, actix::MessageResponse)]
pub struct UplinkState {
    /// Host and port of the broker.
    pub broker: String,
    /// Both connections to the broker are up.
    pub connected: bool,
    /// Why results do not reach a node, if they do not.
    pub trouble: Option<String>,
    /// The ledger that the shards led here have admitted; more than one only while that changes.
    pub ledgers: Vec<String>,
}
