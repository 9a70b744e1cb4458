//! The uplink's actor: seals what the core sends, and opens what the node answers. Nodes' questions to the site, and
//! reports to the nodes, take the same way.
//!
//! Of the pair of MQTT clients ([`selvedge_broker_client`]) one receives confirmations and questions, and the other
//! publishes. The gateway trusts neither with delivery: it sends again what the node has not confirmed.

use crate::actors::messages::shard::{LoadBatch, ShardEvents};
use crate::actors::messages::switch::Ask;
use crate::actors::messages::uplink::{GetLoad, GetState, Loaded, SendReport, ShardView, UplinkState};
use crate::actors::pulse;
use crate::actors::replicas::Replicas;
use crate::settings::UplinkTo;
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, Recipient};
use selvedge_broker_client::{BrokerAddress, Hearer, HearerEvent, Speaker, Speaking, Spoken};
use selvedge_fabric::node_questions::{NodeQuestions, QuestionVerdict};
use selvedge_fabric::shard::{ShardEvent, UplinkView};
use selvedge_fabric::site_questions::SiteAnswer;
use selvedge_fabric::uplink::{Confirmation, NotTaken, Uplink, UplinkEffect};
use selvedge_guard::log_limit::SharedLogLimit;
use selvedge_seal::{Opener, SealError, Sealer, SiteSecret};
use selvedge_types::ids::{GatewayId, ShardId, SiteId};
use selvedge_types::question::{
    GatewayAnswer, NodeId, NodeQuestion, QuestionId, answer_topic, ask_topic, parse_ask_topic,
};
use selvedge_types::report::{Report, place, report_topic};
use selvedge_types::sealed::Sealable;
use selvedge_types::uplink::{Down, LedgerId, SiteIncarnation, Up, parse_topic, up_topic};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Notify, oneshot};

/// How often overdue batches are looked for.
const LOOK_MS: u64 = 200;
/// If results wait and no node has confirmed anything for this long, the node counts as missing: twice the period of
/// beacons, which a node answers.
const SILENCE_MS: u64 = 60_000;

/// The ways out of the uplink.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct UplinkWays {
    /// To the shards with a replica here: requests for the content of a batch, and what the node has confirmed.
    pub replicas: Arc<Replicas>,
    /// To the site's replicas: questions of nodes.
    pub ask: Recipient<Ask>,
}

/// The site's answer to a question; `None` if it could not be asked.
#[derive(Debug, Message)]
#[rtype(result = "()")]
struct SiteSaid(QuestionId, Option<SiteAnswer>);

#[derive(Debug, Message)]
#[rtype(result = "()")]
enum FromBroker {
    Subscribed(Result<(), String>),
    Publishing(Result<(), String>),
    Said { topic: String, payload: bytes::Bytes },
}

/// Everything that the actor needs at its start.
pub struct UplinkSettings {
    pub site: SiteId,
    pub me: GatewayId,
    /// The number of this start of the process.
    pub start: u64,
    /// The site's secret, from which the keys are derived.
    pub secret: SiteSecret,
    /// Distinguishes this process at the broker.
    pub client_id: String,
    /// Where the broker is.
    pub to: UplinkTo,
    /// The password for the broker, if it wants one.
    pub password: Option<String>,
    /// The origin of monotonic times, and of the uptime in reports.
    pub epoch: Instant,
    /// Woken when something changes that nodes should soon learn.
    pub changed: Arc<Notify>,
}

/// Runs the core [`Uplink`] over the pair of MQTT clients.
pub struct UplinkActor {
    settings: UplinkSettings,
    core: Uplink,
    sealer: Sealer<Up>,
    opener: Opener<Down>,
    reports: Sealer<Report>,
    answers: Sealer<GatewayAnswer>,
    questions: Opener<NodeQuestion>,
    node_questions: NodeQuestions,
    ways: Option<UplinkWays>,
    views: BTreeMap<ShardId, UplinkView>,
    /// Why the broker can't be reached, in the client's words.
    failure: Option<String>,
    /// When the broker was connected, or a node last confirmed something.
    heard_ms: u64,
    /// The state that was logged last.
    told: Option<UplinkState>,
    /// How often the broker, or anyone who publishes through it, may cause a line in the log.
    log_limit: SharedLogLimit,
    /// The last confirmation that was refused, and when it came.
    conflict: Option<(u64, NotTaken)>,
    speaker: Option<Speaker>,
    myself: Option<Addr<UplinkActor>>,
    subscribed: bool,
    publishing: bool,
}

impl UplinkActor {
    /// An actor with keys of its own: every start of the process draws a new salt.
    ///
    /// # Errors
    /// When the system provides no random numbers.
    pub fn new(settings: UplinkSettings) -> Result<Self, SealError> {
        let sealer = Sealer::new(&settings.secret, &settings.site)?;
        let (mut opener, mut questions) = (Opener::new(), Opener::new());
        opener.add(&settings.site, &settings.secret);
        questions.add(&settings.site, &settings.secret);
        Ok(Self {
            core: Uplink::default(),
            sealer,
            opener,
            reports: Sealer::new(&settings.secret, &settings.site)?,
            answers: Sealer::new(&settings.secret, &settings.site)?,
            questions,
            node_questions: NodeQuestions::new(settings.me, settings.start),
            settings,
            ways: None,
            views: BTreeMap::new(),
            failure: None,
            heard_ms: 0,
            told: None,
            log_limit: SharedLogLimit::default(),
            conflict: None,
            speaker: None,
            myself: None,
            subscribed: false,
            publishing: false,
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.settings.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn address(&self) -> BrokerAddress {
        let to = &self.settings.to;
        let credentials = || (to.username.clone(), self.settings.password.clone().unwrap_or_default());
        BrokerAddress {
            host: to.host.clone(),
            port: to.port,
            credentials: (!to.username.is_empty()).then(credentials),
            client_id: self.settings.client_id.clone(),
        }
    }

    fn perform(&mut self, effects: Vec<UplinkEffect>) {
        for effect in effects {
            match effect {
                UplinkEffect::Load(shard, seq) => {
                    if let Some(replica) = self.ways.as_ref().and_then(|ways| ways.replicas.get(shard)) {
                        replica.load.do_send(LoadBatch(seq));
                    }
                }
                UplinkEffect::Batch { shard, incarnation, seq, first_kept, last, body } => {
                    self.publish(incarnation, shard, seq, &Up::Batch { first_kept, last, body });
                }
                UplinkEffect::Lost { shard, incarnation, seq, first_kept, last, lost } => {
                    self.publish(incarnation, shard, seq, &Up::Lost { first_kept, last, lost });
                }
                UplinkEffect::Beacon { shard, incarnation, first_kept, last } => {
                    self.publish(incarnation, shard, last, &Up::Beacon { first_kept, last });
                }
                UplinkEffect::Settled { shard, ledger, last, beyond } => {
                    if let Some(replica) = self.ways.as_ref().and_then(|ways| ways.replicas.get(shard)) {
                        let settled = ShardEvent::Settled { ledger, last, beyond };
                        replica.events.do_send(ShardEvents(vec![settled]));
                    }
                }
                UplinkEffect::Confirmed(shard, ledger, cursor) => {
                    if let Some(replica) = self.ways.as_ref().and_then(|ways| ways.replicas.get(shard)) {
                        replica.events.do_send(ShardEvents(vec![ShardEvent::Confirmed { ledger, cursor }]));
                    }
                }
            }
        }
    }

    fn publish(&mut self, incarnation: SiteIncarnation, shard: ShardId, seq: u64, message: &Up) {
        let sealed = self.sealer.seal_of(incarnation, shard, seq, message);
        self.put::<Up>(up_topic(&self.settings.site, shard), sealed);
    }

    fn put<M: Sealable>(&self, topic: String, sealed: Result<Vec<u8>, SealError>) {
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(e) => return tracing::error!(topic, "can't seal the {} for the uplink: {e}", M::WHAT),
        };
        if let Some(speaker) = &self.speaker
            && !speaker.try_publish(topic, sealed)
        {
            metrics::counter!("selvedge_uplink_queue_full_total").increment(1);
        }
    }

    /// Takes in a frame for this gateway that may be a node's question.
    fn asked(&mut self, bytes: &[u8]) {
        let (site, me) = (&self.settings.site, self.settings.me);
        let question = match self.questions.open(site, place(me), bytes) {
            Ok((node, question)) if node == question.node.0 => question,
            Ok(_) => return refuse("node", "it is sealed for another node than the one that it names"),
            Err(e) => return refuse(e.reason(), &e.to_string()),
        };
        let (Some(ways), Some(myself)) = (&self.ways, self.myself.clone()) else { return };
        match self.node_questions.take(self.now_ms(), &question) {
            QuestionVerdict::Taken(wanted) => {
                let (reply, told) = oneshot::channel();
                ways.ask.do_send(Ask { wanted, reply });
                actix::spawn(async move { myself.do_send(SiteSaid(question.id, told.await.ok())) });
            }
            QuestionVerdict::Busy => {
                metrics::counter!("selvedge_questions_total", "outcome" => "busy").increment(1);
                let busy = self.node_questions.busy(question.id);
                self.answer(question.node, &busy);
            }
            QuestionVerdict::Dropped(why) => {
                metrics::counter!("selvedge_questions_total", "outcome" => why).increment(1);
                tracing::debug!(why, "dropped a question");
            }
        }
    }

    fn answer(&mut self, node: NodeId, answer: &GatewayAnswer) {
        let sealed = self.answers.seal(ShardId(0), node.0, answer);
        self.put::<GatewayAnswer>(answer_topic(&self.settings.site, node), sealed);
    }

    fn note_connection(&mut self) {
        let connected = self.subscribed && self.publishing;
        if connected != self.core.is_connected() {
            self.heard_ms = self.now_ms();
            if connected {
                self.settings.changed.notify_one();
            }
            let mut effects = Vec::new();
            self.core.connected(self.now_ms(), connected, &mut effects);
            self.perform(effects);
        }
        self.tell_state();
    }

    fn state(&self) -> UplinkState {
        let to = &self.settings.to;
        let (broker, connected) = (format!("{}:{}", to.host, to.port), self.core.is_connected());
        let silent_ms = self.now_ms().saturating_sub(self.heard_ms);
        let waiting: u64 = self
            .views
            .values()
            .filter(|v| v.leading)
            .map(|v| (v.last + 1).saturating_sub(v.first_kept))
            .sum();
        let conflict = self.conflict.filter(|(at_ms, _)| self.now_ms().saturating_sub(*at_ms) < SILENCE_MS);
        let ledgers: BTreeSet<_> = self.views.values().filter_map(|view| view.ledger).collect();
        let ledgers = ledgers.iter().map(LedgerId::to_string).collect();
        let trouble = match &self.failure {
            Some(why) if !connected => Some(format!(
                "the broker at {broker} can't be reached ({why}); the site keeps its results until it can: check uplink.host and \
                 uplink.port"
            )),
            None if !connected => Some(format!("the broker at {broker} is not connected yet")),
            _ if conflict.is_some() => conflict.map(|(_, why)| why.to_string()),
            _ if waiting > 0 && silent_ms >= SILENCE_MS => Some(format!(
                "the broker at {broker} is connected, but no node confirms what this gateway sends: does a node with this site and the \
                 same secret use that broker?"
            )),
            _ => None,
        };
        UplinkState { broker, connected, trouble, ledgers }
    }

    /// Notes that a confirmation was refused.
    fn not_taken(&mut self, now_ms: u64, why: NotTaken) {
        metrics::counter!("selvedge_uplink_refused_total", "reason" => why.reason()).increment(1);
        self.conflict = Some((now_ms, why));
        self.tell_state();
    }

    /// Logs the state if it has changed.
    fn tell_state(&mut self) {
        let state = self.state();
        let known = |s: &UplinkState| (s.connected, s.trouble.is_some());
        metrics::gauge!("selvedge_uplink_connected").set(f64::from(u8::from(state.connected)));
        metrics::gauge!("selvedge_uplink_trouble").set(f64::from(u8::from(state.trouble.is_some())));
        if self.told.as_ref().map(known) == Some(known(&state))
            || (!state.connected && self.failure.is_none())
        {
            return;
        }
        match (
            &state.trouble,
            self.log_limit.note(if state.trouble.is_some() { "trouble" } else { "connected" }),
        ) {
            (_, None) => {}
            (None, Some(left_out)) => {
                tracing::info!("the uplink's broker at {} is connected{left_out}", state.broker);
            }
            (Some(why), Some(left_out)) => tracing::warn!("uplink: {why}{left_out}"),
        }
        self.told = Some(state);
    }
}

fn refuse(reason: &'static str, why: &str) {
    metrics::counter!("selvedge_uplink_refused_total", "reason" => reason).increment(1);
    tracing::debug!("a question was refused: {why}");
}

impl Actor for UplinkActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        let (speaker, speaking) = Speaker::new(self.address(), "-up");
        self.speaker = Some(speaker);
        self.myself = Some(ctx.address());
        let site = &self.settings.site;
        let filters = vec![format!("selvedge/{site}/ack/+"), ask_topic(site, self.settings.me)];
        actix::spawn(listen(Hearer::new(self.address(), "-down", filters), ctx.address()));
        actix::spawn(send(speaking, ctx.address()));
        pulse::every(ctx, LOOK_MS, |actor| {
            let now_ms = actor.now_ms();
            if actor.core.deadline_ms().is_some_and(|due| due <= now_ms) {
                let mut effects = Vec::new();
                actor.core.timer(now_ms, &mut effects);
                actor.perform(effects);
            }
            actor.tell_state();
        });
    }
}

/// Waits until the actor has taken the message, so that TCP holds back a broker that sends faster.
async fn say(to: &Addr<UplinkActor>, said: FromBroker) {
    let _ = to.send(said).await; // fails only when the process is ending
}

async fn listen(mut hearer: Hearer, to: Addr<UplinkActor>) {
    loop {
        let said = match hearer.next().await {
            HearerEvent::Subscribed => FromBroker::Subscribed(Ok(())),
            HearerEvent::Message { topic, payload } => FromBroker::Said { topic, payload },
            HearerEvent::Lost(why) => FromBroker::Subscribed(Err(why)),
        };
        say(&to, said).await;
    }
}

async fn send(mut speaking: Speaking, to: Addr<UplinkActor>) {
    loop {
        let said = match speaking.next().await {
            Spoken::Connected => FromBroker::Publishing(Ok(())),
            Spoken::Lost(why) => FromBroker::Publishing(Err(why)),
        };
        say(&to, said).await;
    }
}

impl Handler<FromBroker> for UplinkActor {
    type Result = ();
    fn handle(&mut self, from: FromBroker, _: &mut Self::Context) {
        match from {
            FromBroker::Subscribed(up) => {
                self.subscribed = up.is_ok();
                self.failure = up.err();
                self.note_connection();
            }
            FromBroker::Publishing(up) => {
                self.publishing = up.is_ok();
                self.failure = up.err();
                self.note_connection();
            }
            FromBroker::Said { topic, payload } => {
                if parse_ask_topic(&topic, self.settings.me).as_ref() == Some(&self.settings.site) {
                    return self.asked(&payload);
                }
                let Some(("ack", site, shard)) = parse_topic(&topic) else { return };
                match self.opener.open_of(&site, shard, &payload) {
                    Ok((incarnation, _, Down::Confirm { ledger, cursor })) => {
                        let (now_ms, mut effects) = (self.now_ms(), Vec::new());
                        let taken = self.core.confirmed(
                            now_ms,
                            shard,
                            Confirmation { incarnation, ledger, cursor },
                            &mut effects,
                        );
                        self.perform(effects);
                        match taken {
                            Ok(()) => self.heard_ms = now_ms,
                            Err(why) => self.not_taken(now_ms, why),
                        }
                    }
                    Err(e) => {
                        metrics::counter!("selvedge_uplink_refused_total", "reason" => e.reason())
                            .increment(1);
                        if let Some(left_out) = self.log_limit.note("refused") {
                            tracing::warn!(%shard, "a confirmation was refused: {e}{left_out}");
                        }
                    }
                }
            }
        }
    }
}

impl Handler<ShardView> for UplinkActor {
    type Result = ();
    fn handle(&mut self, ShardView(shard, view): ShardView, _: &mut Self::Context) {
        if self.views.insert(shard, view).map(|before| before.leading) != Some(view.leading) {
            self.settings.changed.notify_one();
        }
        let mut effects = Vec::new();
        self.core.view(self.now_ms(), shard, view, &mut effects);
        self.perform(effects);
    }
}

impl Handler<Loaded> for UplinkActor {
    type Result = ();
    fn handle(&mut self, Loaded { shard, seq, content }: Loaded, _: &mut Self::Context) {
        let mut effects = Vec::new();
        self.core.loaded(self.now_ms(), shard, seq, content, &mut effects);
        self.perform(effects);
    }
}

impl Handler<UplinkWays> for UplinkActor {
    type Result = ();
    fn handle(&mut self, ways: UplinkWays, _: &mut Self::Context) {
        self.ways = Some(ways);
    }
}

impl Handler<SendReport> for UplinkActor {
    type Result = ();
    fn handle(&mut self, SendReport(report): SendReport, _: &mut Self::Context) {
        let sealed = self.reports.seal(place(report.gateway), report.n, &report);
        self.put::<Report>(report_topic(&self.settings.site, report.gateway), sealed);
    }
}

impl Handler<GetLoad> for UplinkActor {
    type Result = Option<(u32, u32)>;
    fn handle(&mut self, _: GetLoad, _: &mut Self::Context) -> Option<(u32, u32)> {
        self.core.is_connected().then(|| self.node_questions.load(self.now_ms()))
    }
}

impl Handler<SiteSaid> for UplinkActor {
    type Result = ();
    fn handle(&mut self, SiteSaid(id, told): SiteSaid, _: &mut Self::Context) {
        let outcome = if told.is_some() { "answered" } else { "busy" };
        if let Some((node, answer)) = self.node_questions.told(self.now_ms(), id, told) {
            metrics::counter!("selvedge_questions_total", "outcome" => outcome).increment(1);
            self.answer(node, &answer);
        }
    }
}

impl Handler<GetState> for UplinkActor {
    type Result = UplinkState;
    fn handle(&mut self, _: GetState, _: &mut Self::Context) -> UplinkState {
        self.state()
    }
}
