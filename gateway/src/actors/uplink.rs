//! The uplink's actor: seals what the core wants sent, and opens what the node says.
//!
//! Two MQTT clients, as one of `rumqttc` that both receives and sends can block itself: one subscribes to
//! the confirmations, the other publishes. Neither is believed: what the node has not confirmed is sent
//! again.

use crate::actors::pulse;
use crate::actors::shard::{LoadBatch, ShardActor, ShardEvents};
use crate::logic::shard::{Event, UplinkView};
use crate::logic::uplink::{Effect, Uplink};
use crate::settings::UplinkTo;
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message};
use rumqttc::{AsyncClient, Event as MqttEvent, EventLoop, MqttOptions, Packet, QoS};
use selvedge_shared::ids::{ShardId, SiteId};
use selvedge_shared::seal::{Opener, SealError, Sealer, SiteSecret};
use selvedge_shared::uplink::{Down, Up, parse_topic, up_topic};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The largest packet to and from the broker: a sealed batch and its topic.
const MAX_PACKET_BYTES: usize = 256 * 1024;
/// Publishes that the MQTT client may hold; what it does not take is sent again later.
const CLIENT_QUEUE_ENTRIES: usize = 256;
/// How often late batches are looked for.
const LOOK_MS: u64 = 200;
/// How long to rest after the broker could not be reached.
const RECONNECT_MS: u64 = 500;

/// How a shard's outbox stands.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShardView(pub ShardId, pub UplinkView);

/// A batch's content.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Loaded {
    /// The shard.
    pub shard: ShardId,
    /// The batch.
    pub seq: u64,
    /// Nothing if it is no longer there.
    pub body: Option<Vec<u8>>,
}

/// The shards that have a replica here.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Connect(pub BTreeMap<ShardId, Addr<ShardActor>>);

/// Asks whether the broker is connected.
#[derive(Debug, Message)]
#[rtype(result = "bool")]
pub struct IsConnected;

#[derive(Debug, Message)]
#[rtype(result = "()")]
enum FromBroker {
    Subscribed(bool),
    Publishing(bool),
    Said { topic: String, payload: bytes::Bytes },
}

/// What the actor is set up with.
pub struct UplinkSettings {
    /// The site.
    pub site: SiteId,
    /// Its secret.
    pub secret: SiteSecret,
    /// Distinguishes this process at the broker.
    pub client_id: String,
    /// The broker.
    pub to: UplinkTo,
    /// The password, if there is one.
    pub password: Option<String>,
    /// What monotonic times count from.
    pub epoch: Instant,
}

/// The uplink's actor.
pub struct UplinkActor {
    settings: UplinkSettings,
    core: Uplink,
    sealer: Sealer<Up>,
    opener: Opener<Down>,
    shards: BTreeMap<ShardId, Addr<ShardActor>>,
    publisher: Option<AsyncClient>,
    subscribed: bool,
    publishing: bool,
}

impl UplinkActor {
    /// An actor with keys of its own: every process start draws a new salt.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(settings: UplinkSettings) -> Result<Self, SealError> {
        let sealer = Sealer::new(&settings.secret, &settings.site)?;
        let mut opener = Opener::new();
        opener.add(&settings.site, &settings.secret);
        Ok(Self {
            settings,
            core: Uplink::default(),
            sealer,
            opener,
            shards: BTreeMap::new(),
            publisher: None,
            subscribed: false,
            publishing: false,
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.settings.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn options(&self, role: &str) -> MqttOptions {
        let to = &self.settings.to;
        let id = format!("{}-{role}", self.settings.client_id);
        let mut options = MqttOptions::new(id, to.host.clone(), to.port);
        options.set_clean_session(true);
        options.set_keep_alive(Duration::from_secs(15));
        options.set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
        options.set_inflight(100);
        if !to.username.is_empty() {
            options.set_credentials(to.username.clone(), self.settings.password.clone().unwrap_or_default());
        }
        options
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Load(shard, seq) => {
                    if let Some(actor) = self.shards.get(&shard) {
                        actor.do_send(LoadBatch(seq));
                    }
                }
                Effect::Batch { shard, seq, first_kept, last, body } => {
                    self.publish(shard, seq, &Up::Batch { first_kept, last, body });
                }
                Effect::Beacon { shard, first_kept, last } => {
                    self.publish(shard, last, &Up::Beacon { first_kept, last });
                }
                Effect::Confirmed(shard, cursor) => {
                    if let Some(actor) = self.shards.get(&shard) {
                        actor.do_send(ShardEvents(vec![Event::Confirmed { cursor }]));
                    }
                }
            }
        }
    }

    fn publish(&mut self, shard: ShardId, seq: u64, message: &Up) {
        let sealed = match self.sealer.seal(shard, seq, message) {
            Ok(sealed) => sealed,
            Err(e) => return tracing::error!(%shard, seq, "can't seal for the uplink: {e}"),
        };
        let topic = up_topic(&self.settings.site, shard);
        if let Some(client) = &self.publisher
            && client.try_publish(topic, QoS::AtLeastOnce, false, sealed).is_err()
        {
            metrics::counter!("selvedge_uplink_queue_full_total").increment(1);
        }
    }

    fn note_connection(&mut self) {
        let connected = self.subscribed && self.publishing;
        if connected != self.core.is_connected() {
            match connected {
                true => tracing::info!("the uplink's broker is connected"),
                false => tracing::warn!("the uplink's broker is gone: results are kept until it is back"),
            }
            let mut effects = Vec::new();
            self.core.connected(self.now_ms(), connected, &mut effects);
            self.perform(effects);
        }
    }
}

impl Actor for UplinkActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        let (subscriber, listening) = AsyncClient::new(self.options("down"), CLIENT_QUEUE_ENTRIES);
        let (publisher, sending) = AsyncClient::new(self.options("up"), CLIENT_QUEUE_ENTRIES);
        self.publisher = Some(publisher);
        let filter = format!("selvedge/{}/ack/+", self.settings.site);
        actix::spawn(listen(listening, subscriber, filter, ctx.address()));
        actix::spawn(send(sending, ctx.address()));
        pulse::every(ctx, LOOK_MS, |actor| {
            let now_ms = actor.now_ms();
            if actor.core.deadline_ms().is_some_and(|due| due <= now_ms) {
                let mut effects = Vec::new();
                actor.core.timer(now_ms, &mut effects);
                actor.perform(effects);
            }
        });
    }
}

async fn listen(mut events: EventLoop, client: AsyncClient, filter: String, to: Addr<UplinkActor>) {
    loop {
        match events.poll().await {
            Ok(MqttEvent::Incoming(Packet::ConnAck(_))) => {
                // Not awaited: the queue is empty right after connecting, and awaiting here could block the loop.
                if client.try_subscribe(filter.clone(), QoS::AtLeastOnce).is_err() {
                    tracing::warn!("can't subscribe to confirmations; trying again on the next connection");
                }
            }
            Ok(MqttEvent::Incoming(Packet::SubAck(_))) => to.do_send(FromBroker::Subscribed(true)),
            Ok(MqttEvent::Incoming(Packet::Publish(p))) => {
                to.do_send(FromBroker::Said { topic: p.topic, payload: p.payload });
            }
            Ok(_) => {}
            Err(e) => {
                tracing::debug!("uplink: {e}");
                to.do_send(FromBroker::Subscribed(false));
                tokio::time::sleep(Duration::from_millis(RECONNECT_MS)).await;
            }
        }
    }
}

async fn send(mut events: EventLoop, to: Addr<UplinkActor>) {
    loop {
        match events.poll().await {
            Ok(MqttEvent::Incoming(Packet::ConnAck(_))) => to.do_send(FromBroker::Publishing(true)),
            Ok(_) => {}
            Err(e) => {
                tracing::debug!("uplink: {e}");
                to.do_send(FromBroker::Publishing(false));
                tokio::time::sleep(Duration::from_millis(RECONNECT_MS)).await;
            }
        }
    }
}

impl Handler<FromBroker> for UplinkActor {
    type Result = ();
    fn handle(&mut self, from: FromBroker, _: &mut Self::Context) {
        match from {
            FromBroker::Subscribed(yes) => {
                self.subscribed = yes;
                self.note_connection();
            }
            FromBroker::Publishing(yes) => {
                self.publishing = yes;
                self.note_connection();
            }
            FromBroker::Said { topic, payload } => {
                let Some(("ack", site, shard)) = parse_topic(&topic) else { return };
                match self.opener.open(&site, shard, &payload) {
                    Ok((_, Down::Confirm { cursor })) => {
                        let mut effects = Vec::new();
                        self.core.confirmed(self.now_ms(), shard, cursor, &mut effects);
                        self.perform(effects);
                    }
                    Err(e) => {
                        metrics::counter!("selvedge_uplink_refused_total", "reason" => e.reason())
                            .increment(1);
                        tracing::warn!(%shard, "a confirmation was refused: {e}");
                    }
                }
            }
        }
    }
}

impl Handler<ShardView> for UplinkActor {
    type Result = ();
    fn handle(&mut self, ShardView(shard, view): ShardView, _: &mut Self::Context) {
        let mut effects = Vec::new();
        self.core.view(self.now_ms(), shard, view, &mut effects);
        self.perform(effects);
    }
}

impl Handler<Loaded> for UplinkActor {
    type Result = ();
    fn handle(&mut self, Loaded { shard, seq, body }: Loaded, _: &mut Self::Context) {
        let mut effects = Vec::new();
        self.core.loaded(self.now_ms(), shard, seq, body, &mut effects);
        self.perform(effects);
    }
}

impl Handler<Connect> for UplinkActor {
    type Result = ();
    fn handle(&mut self, Connect(shards): Connect, _: &mut Self::Context) {
        self.shards = shards;
    }
}

impl Handler<IsConnected> for UplinkActor {
    type Result = bool;
    fn handle(&mut self, _: IsConnected, _: &mut Self::Context) -> bool {
        self.core.is_connected()
    }
}
