//! Messages between the actors of a link.

use super::greet::Established;
use actix::{Message, Recipient};
use selvedge_types::ids::GatewayId;

/// To a link: a new connection, which replaces the current one.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Attach(pub Established);

/// To a link: close the connection, because the detector has given the peer up.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Cut;

/// To the watch: there is a connection to a peer. Answered when the change that it caused, if any, has been handled.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct PeerConnected {
    pub peer: GatewayId,
    pub start: u64,
    pub link: Recipient<Cut>,
}

/// To the watch: the connection to a peer ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct PeerDisconnected {
    pub peer: GatewayId,
}

/// To the watch: the peer's machine refuses connections.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct PeerRefused {
    pub peer: GatewayId,
}
