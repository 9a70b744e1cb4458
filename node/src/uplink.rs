//! The uplink's two MQTT clients: one hears the sites' batches, the other sends confirmations. An embedded
//! broker is spoken to in the same way, over loopback.
//!
//! The clients keep nothing: no session, no acknowledgement that means anything. Whatever is lost on the way, the edge sends
//! again until it is confirmed. After any error a client is built anew, which is the one state that is surely sound.

use crate::apply::Confirmations;
use crate::logic::verify::Verifier;
use crate::settings::Site;
use crate::stats::Stats;
use crate::store::Incoming;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, SubscribeFilter, SubscribeReasonCode,
};
use selvedge_shared::ids::SiteId;
use selvedge_shared::seal::{SealError, Sealer};
use selvedge_shared::time::EpochMs;
use selvedge_shared::uplink::{Down, ack_topic};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// The largest MQTT packet in either direction.
pub const MAX_PACKET_BYTES: usize = 256 * 1024;

/// How long a message may wait for a place in the queue before it is dropped (the edge sends it again).
pub const QUEUE_WAIT_MS: u64 = 5_000;

/// How long to rest before connecting again.
pub const RECONNECT_MS: u64 = 1_000;

const KEEP_ALIVE_S: u64 = 30;
const REQUEST_ENTRIES: usize = 64;

/// Where the broker is, and who we are there.
#[derive(Clone)]
pub struct BrokerAddress {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name and password, if it wants them.
    pub credentials: Option<(String, String)>,
    /// Our client id; empty makes one up.
    pub client_id: String,
}

impl BrokerAddress {
    /// A client of this role.
    pub(crate) fn options(&self, role: &str) -> MqttOptions {
        let made_up = || {
            let random = std::hash::RandomState::new().build_hasher().finish();
            format!("selvedge-node-{random:016x}")
        };
        let id = if self.client_id.is_empty() { made_up() } else { self.client_id.clone() };
        let mut options = MqttOptions::new(format!("{id}{role}"), self.host.clone(), self.port);
        options.set_clean_session(true);
        options.set_keep_alive(Duration::from_secs(KEEP_ALIVE_S));
        options.set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
        if let Some((username, password)) = &self.credentials {
            options.set_credentials(username.clone(), password.clone());
        }
        options
    }
}

/// What hears the sites.
pub struct Subscriber {
    /// The broker.
    pub broker: BrokerAddress,
    /// The sites to hear.
    pub sites: Vec<SiteId>,
    /// The group of nodes that shares the work; empty for none.
    pub share: String,
    /// What opens their messages.
    pub verifier: Verifier,
    /// Where they go.
    pub queue: mpsc::Sender<Incoming>,
    /// Where they are counted.
    pub stats: Arc<Stats>,
}

impl Subscriber {
    /// Hears until `shutdown` is true.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut stopped = shutdown.clone();
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = self.hear_for_ever(&mut stopped) => {}
        }
        self.stats.set_subscribed(false);
    }

    async fn hear_for_ever(&mut self, stopped: &mut watch::Receiver<bool>) {
        loop {
            let (client, events) = AsyncClient::new(self.broker.options(""), REQUEST_ENTRIES);
            let why = self.hear(&client, events).await;
            self.stats.set_subscribed(false);
            if *stopped.borrow() {
                return;
            }
            metrics::counter!("selvedge_node_disconnects_total").increment(1);
            if let Some(unlogged) = self.stats.log_due("disconnected", Instant::now()) {
                let BrokerAddress { host, port, .. } = &self.broker;
                tracing::warn!(%why, unlogged, "no connection to the broker {host}:{port}; trying on");
            }
            tokio::time::sleep(Duration::from_millis(RECONNECT_MS)).await;
        }
    }

    /// One connection; says why it ended.
    async fn hear(&mut self, client: &AsyncClient, mut events: EventLoop) -> String {
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    let filter = |site| SubscribeFilter::new(filter(&self.share, site), QoS::AtLeastOnce);
                    if let Err(error) = client.try_subscribe_many(self.sites.iter().map(filter)) {
                        return error.to_string();
                    }
                }
                Ok(Event::Incoming(Packet::SubAck(ack))) => {
                    if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                        let refused = filter(&self.share, "{site}");
                        return format!("the broker refuses the subscription to {refused}");
                    }
                    tracing::info!("hearing {} sites", self.sites.len());
                    self.stats.set_subscribed(true);
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    self.take(&publish.topic, &publish.payload).await;
                }
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    }

    async fn take(&mut self, topic: &str, payload: &[u8]) {
        metrics::counter!("selvedge_node_received_bytes_total").increment(payload.len() as u64);
        let message = match self.verifier.verify(topic, payload) {
            Ok(message) => message,
            Err(refused) => {
                if let Some(unlogged) = self.stats.refused(refused.reason(), Instant::now()) {
                    let topic: String = topic.chars().take(80).collect();
                    tracing::warn!(topic, unlogged, "a message is not let in: {refused}");
                }
                return;
            }
        };
        self.stats.heard(&message, EpochMs::now());
        let wait = Duration::from_millis(QUEUE_WAIT_MS);
        if self.queue.send_timeout(message, wait).await.is_err()
            && let Some(unlogged) = self.stats.refused("busy", Instant::now())
        {
            tracing::warn!(unlogged, "the database does not keep up; messages are dropped until it does");
        }
    }
}

/// What is subscribed to for a site. In a group each message goes to one of its nodes; whichever it is, what was applied is in the
/// database that they share.
fn filter(share: &str, site: impl std::fmt::Display) -> String {
    let group = if share.is_empty() { String::new() } else { format!("$share/{share}/") };
    format!("{group}selvedge/{site}/up/+")
}

/// What sends confirmations.
pub struct Confirmer {
    broker: BrokerAddress,
    sealers: HashMap<SiteId, Sealer<Down>>,
    confirmations: Arc<Confirmations>,
}

impl Confirmer {
    /// A confirmer for these sites.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        broker: BrokerAddress,
        sites: &[Site],
        confirmations: Arc<Confirmations>,
    ) -> Result<Self, SealError> {
        let sealer = |site: &Site| Ok((site.name.clone(), Sealer::new(&site.secret, &site.name)?));
        let sealers = sites.iter().map(sealer).collect::<Result<_, _>>()?;
        Ok(Self { broker, sealers, confirmations })
    }

    /// Sends until `shutdown` is true.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = self.send_for_ever() => {}
        }
    }

    async fn send_for_ever(&mut self) {
        loop {
            let (client, mut events) = AsyncClient::new(self.broker.options("-ack"), REQUEST_ENTRIES);
            // Two futures side by side: sending may wait for room, which only polling makes.
            tokio::select! {
                error = async { loop { if let Err(error) = events.poll().await { break error; } } } => {
                    tracing::debug!(%error, "no connection for confirmations");
                }
                () = self.send(&client) => {}
            }
            tokio::time::sleep(Duration::from_millis(RECONNECT_MS)).await;
        }
    }

    async fn send(&mut self, client: &AsyncClient) {
        loop {
            for ((site, shard), cursor) in self.confirmations.take().await {
                let Some(sealer) = self.sealers.get_mut(&site) else { continue };
                let sealed = match sealer.seal(shard, cursor, &Down::Confirm { cursor }) {
                    Ok(sealed) => sealed,
                    Err(error) => {
                        tracing::error!(%error, %site, "can't seal confirmations; restart the node");
                        continue;
                    }
                };
                if client.publish(ack_topic(&site, shard), QoS::AtLeastOnce, false, sealed).await.is_err() {
                    return;
                }
                metrics::counter!("selvedge_node_confirmations_total").increment(1);
            }
        }
    }
}
