//! The pair of MQTT clients that a program has at a broker elsewhere: a [`Hearer`] subscribes and receives, a [`Speaker`] publishes.
//!
//! **Two, not one.** One task drives a client of `rumqttc`. When its queue of requests is full, whoever both answers what it hears and
//! drives it waits for room that only driving makes. So the one that hears never publishes, and the one that speaks
//! hears nothing that matters.
//!
//! **They keep nothing.** There is no session, and an acknowledgement of the broker means nothing: whoever sends over the uplink sends
//! again until the other end has answered. After any error a client is built anew, which is the one state that is surely
//! sound; what waited in it is gone.
//!
//! Bounds: [`QUEUE_ENTRIES`] publishes wait in a speaker, packets have at most [`MAX_PACKET_BYTES`], and after an error
//! a client rests for [`RECONNECT_MS`].

mod hearer;
mod speaker;

pub use hearer::{Hearer, HearerEvent};
pub use speaker::{Speaker, Speaking, Spoken};

use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions};
use std::fmt;
use std::time::Duration;

/// The largest MQTT packet in either direction: a sealed batch and its topic.
pub const MAX_PACKET_BYTES: usize = 256 * 1024;

/// How many publishes may wait in a speaker.
pub const QUEUE_ENTRIES: usize = 256;

/// How long a client rests after an error before it connects again.
pub const RECONNECT_MS: u64 = 500;

const KEEP_ALIVE_S: u64 = 15;

/// How many QoS 1 publishes may be on their way unacknowledged; some brokers take no more than 100.
const MAX_INFLIGHT_ENTRIES: u16 = 100;

/// Where a broker is, and who we are there.
#[derive(Clone)]
pub struct BrokerAddress {
    /// The broker's name or address.
    pub host: String,
    pub port: u16,
    /// User name and password, if it wants them.
    pub credentials: Option<(String, String)>,
    /// What our client ids begin with. Each client of a process adds its own ending.
    pub client_id: String,
}

impl fmt::Debug for BrokerAddress {
    /// Leaves the credentials out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BrokerAddress({}:{} as {})", self.host, self.port, self.client_id)
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl BrokerAddress {
    fn connect(&self, role: &str) -> (AsyncClient, EventLoop) {
        let id = format!("{}{role}", self.client_id);
        let mut options = MqttOptions::new(id, self.host.clone(), self.port);
        options.set_clean_session(true);
        options.set_keep_alive(Duration::from_secs(KEEP_ALIVE_S));
        options.set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
        options.set_inflight(MAX_INFLIGHT_ENTRIES);
        if let Some((username, password)) = &self.credentials {
            options.set_credentials(username.clone(), password.clone());
        }
        AsyncClient::new(options, QUEUE_ENTRIES)
    }
}

/// A client and what drives it, built anew after each error.
struct Driven {
    address: BrokerAddress,
    role: &'static str,
    client: AsyncClient,
    events: EventLoop,
    failed: bool,
}

impl Driven {
    fn new(address: BrokerAddress, role: &'static str) -> Self {
        let (client, events) = address.connect(role);
        Self { address, role, client, events, failed: false }
    }

    /// The next event, or why the connection ended.
    async fn poll(&mut self) -> Result<Event, String> {
        if self.failed {
            tokio::time::sleep(Duration::from_millis(RECONNECT_MS)).await;
            self.failed = false;
        }
        match self.events.poll().await {
            Ok(event) => Ok(event),
            Err(error) => Err(self.fail(error.to_string())),
        }
    }

    /// Gives the connection up, for this reason.
    fn fail(&mut self, why: String) -> String {
        (self.client, self.events) = self.address.connect(self.role);
        self.failed = true;
        why
    }
}
