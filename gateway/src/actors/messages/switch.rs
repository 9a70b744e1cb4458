//! Messages to the switch.

use actix::Message;
use selvedge_fabric::detector::Change;
use selvedge_fabric::peer::{PeerMessage, TableAnswer, TableQuestion};
use selvedge_fabric::site_questions::{SiteAnswer, SiteQuestion};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeSet;
use tokio::sync::oneshot;

/// What came from a peer, in the order in which it was sent. Never empty.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromPeer {
    /// The gateway that sent it.
    pub peer: GatewayId,
    /// The messages.
    pub messages: Vec<PeerMessage>,
}

/// Which gateways live has changed.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct PeersChanged(pub Change);

/// Messages to gateways: peers, or this one.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ToPeers(pub Vec<(GatewayId, PeerMessage)>);

/// Asks the site about recent windows; what it says comes through `reply`, which closes if too much is asked.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Ask {
    /// The question; its deadline counts from the epoch that the switch was made with.
    pub wanted: SiteQuestion,
    /// Where the answer goes.
    pub reply: oneshot::Sender<SiteAnswer>,
}

/// Asks gateways about a table; the first answer comes through `reply`, which closes if too much is asked.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AskTable {
    /// Whom: all replicas of a shard, of which its leader answers, or one gateway.
    pub to: Vec<GatewayId>,
    /// The question.
    pub question: TableQuestion,
    /// Where the answer goes.
    pub reply: oneshot::Sender<TableAnswer>,
}

/// Subscriptions have changed here: the peers are told at once, for what they take in from now on is wanted.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct InterestChanged;

/// Asks who lives.
#[derive(Debug, Message)]
#[rtype(result = "BTreeSet<GatewayId>")]
pub struct GetPeers;
