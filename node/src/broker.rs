//! What carries messages between the node and its sites: a broker elsewhere, or the node's own.
//!
//! To a broker elsewhere the node is a client. Its own it hears and speaks through memory ([`selvedge_mqtt::inlet`]): no
//! client of it, whatever it sends or calls itself, can close, displace or replace the node's ears.

use rumqttc::{AsyncClient, MqttOptions, QoS};
use selvedge_mqtt::broker::Credentials;
use selvedge_mqtt::inlet::{DEFAULT_INLET_BYTES, Inlet};
use selvedge_seal::SealError;
use selvedge_types::mqtt;
use selvedge_types::question::NodeId;
use selvedge_types::topic::Filter;
use std::sync::Arc;
use std::time::Duration;

/// The largest MQTT packet in either direction.
pub const MAX_PACKET_BYTES: usize = 256 * 1024;

const KEEP_ALIVE_S: u64 = 30;

/// Where a broker elsewhere is, and who we are there.
#[derive(Clone)]
pub struct BrokerAddress {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name and password, if it wants them.
    pub credentials: Option<(String, String)>,
    /// Our client id; each role has its own ending.
    client_id: String,
}

impl BrokerAddress {
    /// With this client id, or one that nobody can guess if it is empty.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        host: String,
        port: u16,
        credentials: Option<(String, String)>,
        client_id: &str,
    ) -> Result<Self, SealError> {
        let client_id = match client_id {
            "" => format!("selvedge-node-{:032x}", u128::from_le_bytes(selvedge_seal::random()?)),
            given => given.to_string(),
        };
        Ok(Self { host, port, credentials, client_id })
    }

    /// A client of this role.
    pub(crate) fn options(&self, role: &str) -> MqttOptions {
        let id = format!("{}{role}", self.client_id);
        let mut options = MqttOptions::new(id, self.host.clone(), self.port);
        options.set_clean_session(true);
        options.set_keep_alive(Duration::from_secs(KEEP_ALIVE_S));
        options.set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
        if let Some((username, password)) = &self.credentials {
            options.set_credentials(username.clone(), password.clone());
        }
        options
    }
}

/// The node's own broker.
pub struct Embedded {
    /// What clients connect to.
    pub broker: Arc<selvedge_mqtt::Broker>,
    /// Batches and beacons.
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
    /// A broker elsewhere.
    External(BrokerAddress),
    /// The node's own.
    Embedded(Arc<Embedded>),
}

/// What messages are sent through.
pub enum Outlet {
    /// A connection to a broker elsewhere.
    Client(AsyncClient),
    /// The node's own broker.
    Embedded(Arc<Embedded>),
}

impl Outlet {
    /// Sends to whoever listens. False: the connection is gone.
    pub async fn publish(&self, topic: String, sealed: Vec<u8>) -> bool {
        match self {
            Self::Client(client) => client.publish(topic, QoS::AtLeastOnce, false, sealed).await.is_ok(),
            Self::Embedded(own) => {
                let router = own.broker.router();
                // Who does not hear it now asks again.
                router.route(None, &topic.into(), &sealed.into(), mqtt::QoS::AtLeastOnce);
                true
            }
        }
    }
}
