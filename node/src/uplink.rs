//! The uplink: one MQTT client hears the sites' batches, another sends confirmations ([`selvedge_broker_client`]). The node's own
//! broker is heard and spoken through without clients ([`crate::broker`]). The edge resends whatever was lost on the way until the
//! node confirms it.

use crate::apply::Confirmations;
use crate::broker::{Carrier, Embedded, Outlet};
use crate::settings::ServedSite;
use crate::stats::Stats;
use selvedge_broker_client::{BrokerAddress, Hearer, HearerEvent, Speaker, Speaking, Spoken};
use selvedge_node_core::incoming::Incoming;
use selvedge_node_core::stage::SettledCursor;
use selvedge_node_core::verify::Verifier;
use selvedge_seal::{SealError, Sealer};
use selvedge_types::ids::SiteId;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Down, ack_topic};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, watch};

/// How long a message may wait for a place in the queue before it is dropped (the edge sends it again).
pub const QUEUE_WAIT_MS: u64 = 5_000;

/// What hears the sites.
pub struct Subscriber {
    /// What carries the sites' messages.
    pub carrier: Carrier,
    /// The sites to hear.
    pub sites: Vec<SiteId>,
    /// The group of nodes that shares the work; empty for none.
    pub share: String,
    /// What opens their messages.
    pub verifier: Verifier,
    pub queue: mpsc::Sender<Incoming>,
    /// Where they are counted.
    pub stats: Arc<Stats>,
}

impl Subscriber {
    /// Hears until `shutdown` is true.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let stopped = shutdown.clone();
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = self.hear_for_ever(&stopped) => {}
        }
        self.stats.set_subscribed(false);
    }

    async fn hear_for_ever(&mut self, stopped: &watch::Receiver<bool>) {
        match self.carrier.clone() {
            Carrier::External(broker) => self.hear_external(&broker, stopped).await,
            Carrier::Embedded(own) => self.hear_embedded(&own).await,
        }
    }

    async fn hear_embedded(&mut self, own: &Embedded) {
        tracing::info!("receiving from {} sites", self.sites.len());
        self.stats.set_subscribed(true);
        let mut told = 0;
        loop {
            let heard = own.batches.next().await;
            told = self.stats.flooded(told, own.batches.dropped());
            self.take(&heard.topic, &heard.payload).await;
        }
    }

    async fn hear_external(&mut self, broker: &BrokerAddress, stopped: &watch::Receiver<bool>) {
        let filters = self.sites.iter().map(|site| filter(&self.share, site)).collect();
        let mut hearer = Hearer::new(broker.clone(), "", filters);
        loop {
            match hearer.next().await {
                HearerEvent::Subscribed => {
                    if let Some(left_out) = self.stats.log_due("connected", Instant::now()) {
                        tracing::info!(
                            "connected to the broker, receiving from {} sites{left_out}",
                            self.sites.len()
                        );
                    }
                    self.stats.set_subscribed(true);
                }
                HearerEvent::Message { topic, payload } => self.take(&topic, &payload).await,
                HearerEvent::Lost(_) if *stopped.borrow() => return,
                HearerEvent::Lost(why) => {
                    self.stats.set_subscribed(false);
                    metrics::counter!("selvedge_node_disconnects_total").increment(1);
                    if let Some(left_out) = self.stats.log_due("disconnected", Instant::now()) {
                        tracing::warn!(%why, "no connection to the broker {broker}; trying again{left_out}");
                    }
                }
            }
        }
    }

    async fn take(&mut self, topic: &str, payload: &[u8]) {
        metrics::counter!("selvedge_node_received_bytes_total").increment(payload.len() as u64);
        let message = match self.verifier.verify(topic, payload) {
            Ok(message) => message,
            Err(refused) => {
                if let Some(left_out) = self.stats.refused(refused.reason(), Instant::now()) {
                    let topic: String = topic.chars().take(80).collect();
                    tracing::warn!(topic, "refused a message: {refused}{left_out}");
                }
                return;
            }
        };
        self.stats.heard(&message, EpochMs::from(SystemTime::now()));
        let wait = Duration::from_millis(QUEUE_WAIT_MS);
        if self.queue.send_timeout(message, wait).await.is_err()
            && let Some(left_out) = self.stats.refused("busy", Instant::now())
        {
            tracing::warn!("the database does not keep up; messages are dropped until it does{left_out}");
        }
    }
}

/// Drives a connection that only speaks: whoever hears tells of trouble with the broker.
pub(crate) async fn drive(mut speaking: Speaking, what: &'static str) {
    loop {
        if let Spoken::Lost(why) = speaking.next().await {
            tracing::debug!(%why, "no connection for {what}");
        }
    }
}

/// What is subscribed to for a site. In a group each message goes to one of its nodes; whichever it is, what was applied is in the
/// database that they share.
fn filter(share: &str, site: impl std::fmt::Display) -> String {
    let group = if share.is_empty() { String::new() } else { format!("$share/{share}/") };
    format!("{group}selvedge/{site}/up/+")
}

/// Seals cursors into confirmations and publishes them.
pub struct Confirmer {
    carrier: Carrier,
    sealers: HashMap<SiteId, Sealer<Down>>,
    confirmations: Arc<Confirmations>,
}

impl Confirmer {
    /// A confirmer for these sites.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        carrier: Carrier,
        sites: &[ServedSite],
        confirmations: Arc<Confirmations>,
    ) -> Result<Self, SealError> {
        let sealer = |site: &ServedSite| Ok((site.name.clone(), Sealer::new(&site.secret, &site.name)?));
        let sealers = sites.iter().map(sealer).collect::<Result<_, _>>()?;
        Ok(Self { carrier, sealers, confirmations })
    }

    /// Sends until `shutdown` is true.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = self.send_for_ever() => {}
        }
    }

    async fn send_for_ever(&mut self) {
        let broker = match self.carrier.clone() {
            Carrier::External(broker) => broker,
            Carrier::Embedded(own) => return self.send(&Outlet::Embedded(own)).await,
        };
        let (speaker, speaking) = Speaker::new(broker, "-ack");
        let outlet = Outlet::Client(speaker);
        // Two futures side by side: sending may wait for room, which only driving makes.
        tokio::select! {
            () = drive(speaking, "confirmations") => {}
            () = self.send(&outlet) => {}
        }
    }

    async fn send(&mut self, outlet: &Outlet) {
        loop {
            for ((site, shard), (ledger, settled)) in self.confirmations.take().await {
                let SettledCursor { incarnation, cursor } = settled;
                let Some(sealer) = self.sealers.get_mut(&site) else { continue };
                let sealed =
                    match sealer.seal_of(incarnation, shard, cursor, &Down::Confirm { ledger, cursor }) {
                        Ok(sealed) => sealed,
                        Err(error) => {
                            tracing::error!(%error, %site, "can't seal confirmations; restart the node");
                            continue;
                        }
                    };
                if outlet.publish(ack_topic(&site, shard), sealed).await {
                    metrics::counter!("selvedge_node_confirmations_total").increment(1);
                }
            }
        }
    }
}
