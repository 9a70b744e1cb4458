//! Messages to the describer.

use actix::Message;
use selvedge_types::ids::GatewayId;

/// A gateway asks how this one is. The answer goes back through the switch.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Describe {
    pub to: GatewayId,
    /// The question's id at the gateway that asks.
    pub id: u64,
}
