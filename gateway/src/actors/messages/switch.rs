//! Messages to the switch.

use actix::Message;
use selvedge_fabric::detector::Change;
use selvedge_fabric::peer::{PeerMessage, TableAnswer, TableQuestion};
use selvedge_fabric::site_questions::{SiteAnswer, SiteQuestion};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

/// Messages from a peer, in the order in which they were sent. Never empty.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FromPeer {
    /// The gateway that sent it.
    pub peer: GatewayId,
    pub messages: Vec<PeerMessage>,
}

/// The set of gateways that are up has changed.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct PeersChanged(pub Change);

/// Messages to gateways: peers, or this one.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ToPeers(pub Vec<(GatewayId, PeerMessage)>);

/// Asks the site about recent windows. The answer comes through `reply`, which closes if too many questions are open.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Ask {
    /// The question; its deadline counts from the switch's `epoch`.
    pub wanted: SiteQuestion,
    /// Receives the answer to the question.
    pub reply: oneshot::Sender<SiteAnswer>,
}

/// Asks gateways about a table. The first answer comes through `reply`, which closes if too many questions are open.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct AskTable {
    /// All replicas of a shard, of which the leader answers, or one gateway.
    pub to: Vec<GatewayId>,
    pub question: TableQuestion,
    /// Receives the answer to the question.
    pub reply: oneshot::Sender<TableAnswer>,
}

/// Subscriptions here have changed. The peers learn it at once, because clients here want what the peers receive from
/// now on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct InterestChanged;

/// Asks which gateways are within reach.
#[derive(Debug, Message)]
#[rtype(result = "PeersWithin")]
pub struct GetPeers;

/// The gateways within reach of this one.
#[derive(Debug, Clone, Default)]
pub struct PeersWithin {
    /// Those that are up, this one among them.
    pub up: BTreeSet<GatewayId>,
    /// Those that only others have up, and through which of these messages go to them.
    pub by_detour: BTreeMap<GatewayId, GatewayId>,
}

impl PeersWithin {
    /// Whether a gateway is among them.
    pub fn contains(&self, gateway: &GatewayId) -> bool {
        self.up.contains(gateway) || self.by_detour.contains_key(gateway)
    }

    /// The gateways that are up or reached by a detour.
    pub fn all(self) -> BTreeSet<GatewayId> {
        self.up.into_iter().chain(self.by_detour.into_keys()).collect()
    }
}
