//! The broker that carries messages between the node and its sites: an external one, or the node's own.
//!
//! The node is a client of an external broker. It exchanges messages with its own through memory
//! ([`selvedge_mqtt::inlet`]): no client, whatever it sends and whichever id it uses, can disconnect or displace the node.

use selvedge_broker_client::{BrokerAddress, Speaker};
use selvedge_mqtt::broker::Credentials;
use selvedge_mqtt::inlet::{DEFAULT_INLET_BYTES, Inlet};
use selvedge_seal::SealError;
use selvedge_types::mqtt::QoS;
use selvedge_types::question::NodeId;
use selvedge_types::topic::Filter;
use std::sync::Arc;

/// A client id that nobody can guess, unless one is given.
///
/// # Errors
/// When the system has no randomness.
pub fn client_id(given: &str) -> Result<String, SealError> {
    Ok(match given {
        "" => format!("selvedge-node-{:032x}", u128::from_le_bytes(selvedge_seal::random()?)),
        given => given.to_string(),
    })
}

/// The node's own broker.
pub struct Embedded {
    /// What clients connect to.
    pub broker: Arc<selvedge_mqtt::Broker>,
    pub batches: Arc<Inlet>,
    /// Reports, and answers to this node's questions.
    pub reports: Arc<Inlet>,
}

impl Embedded {
    /// For clients that show these credentials, or for all; hears answers that are for `me`.
    pub fn new(credentials: Option<Credentials>, me: NodeId) -> Self {
        // All of these are well-formed.
        let filters = |texts: &[&str]| texts.iter().filter_map(|text| Filter::new(text).ok()).collect();
        let inlet = |texts: &[&str]| Arc::new(Inlet::new(filters(texts), DEFAULT_INLET_BYTES));
        let batches = inlet(&["selvedge/+/up/+"]);
        let answers = format!("selvedge/+/answer/{:016x}", me.0);
        let reports = inlet(&["selvedge/+/report/+", &answers]);
        // Only the node confirms and asks; a flood of somebody else's would close the gateways' connections.
        let broker = selvedge_mqtt::Broker::new(credentials)
            .with_inlets(vec![batches.clone(), reports.clone()])
            .with_reserved(filters(&["selvedge/+/ack/+", "selvedge/+/ask/+"]));
        Self { broker: Arc::new(broker), batches, reports }
    }
}

/// What carries the node's messages.
#[derive(Clone)]
pub enum Carrier {
    External(BrokerAddress),
    Embedded(Arc<Embedded>),
}

/// What messages are sent through.
pub enum Outlet {
    /// A client at a broker elsewhere.
    Client(Speaker),
    /// The node's own broker.
    Embedded(Arc<Embedded>),
}

impl Outlet {
    /// Publishes to the subscribers. False: the connection ended first, and the message is gone.
    pub async fn publish(&self, topic: String, sealed: Vec<u8>) -> bool {
        match self {
            Self::Client(speaker) => speaker.publish(topic, sealed).await,
            Self::Embedded(own) => {
                let router = own.broker.router();
                // Who does not hear it now asks again.
                router.route(None, &topic.into(), &sealed.into(), QoS::AtLeastOnce);
                true
            }
        }
    }
}
