//! Messages between the actors of a link.

use super::Line;
use super::greet::Established;
use actix::{Message, Recipient};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// To a link: a new connection, which replaces the current one.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Attach(pub Established);

/// To a link: close the connection, because the detector has given the peer up.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct Cut;

/// To a link: the peer was removed from the site.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct EndLink;

/// To a link: the directory names the peer's key. A connection with another one is closed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct CheckKey;

/// To the watch: all peers from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct WatchPeers(pub BTreeMap<GatewayId, Arc<Line>>);

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

/// To the watch: the gateways that a peer has up, as its frame says. Sent when that has changed.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct PeerSaid {
    pub peer: GatewayId,
    pub up: Arc<[GatewayId]>,
}

/// To the watch: the peer's machine refuses connections.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct PeerRefused {
    pub peer: GatewayId,
}
