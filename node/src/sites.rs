//! The node's side of reports and questions: two MQTT clients, or the node's own broker, as in [`crate::uplink`], around
//! [`selvedge_node_core::sites`] and [`selvedge_node_core::questions`].
//!
//! Every node hears all reports and the answers to its own questions; what one does not hear is asked or reported again.

use crate::broker::{Carrier, Embedded, Outlet};
use crate::settings::ServedSite;
use crate::stats::Stats;
use crate::uplink::drive;
use selvedge_broker_client::{BrokerAddress, Hearer, HearerEvent, Speaker};
use selvedge_node_core::questions::{Answered, Ask, Effect, MAX_QUESTIONS, Questions, Unanswered};
use selvedge_node_core::sites::Sites;
use selvedge_seal::{Opener, SealError, Sealer};
use selvedge_types::ids::{GatewayId, ShardId, SiteId};
use selvedge_types::question::{
    GatewayAnswer, NodeId, NodeQuestion, answer_topic, ask_topic, parse_answer_topic,
};
use selvedge_types::report::{Report, parse_report_topic, place};
use selvedge_types::time::EpochMs;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, oneshot, watch};

/// What waits to be sent at most: each question is put twice.
const OUTBOX_ENTRIES: usize = 2 * MAX_QUESTIONS;

/// The sites as the node knows them, and what it asks them.
pub struct Edge {
    me: NodeId,
    epoch: Instant,
    inner: Mutex<Inner>,
    /// There is something to send.
    send: Notify,
    /// A deadline may have come closer.
    rearm: Notify,
}

struct Inner {
    sites: Sites,
    questions: Questions,
    replies: BTreeMap<u64, oneshot::Sender<Result<Answered, Unanswered>>>,
    last: u64,
    outbox: VecDeque<(SiteId, GatewayId, NodeQuestion)>,
}

impl Edge {
    /// Knows the sites' names.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn new(sites: impl IntoIterator<Item = SiteId>) -> Result<Self, SealError> {
        let me = NodeId(u64::from_le_bytes(selvedge_seal::random()?));
        let inner = Inner {
            sites: Sites::new(sites),
            questions: Questions::new(me),
            replies: BTreeMap::new(),
            last: 0,
            outbox: VecDeque::new(),
        };
        let (send, rearm) = (Notify::new(), Notify::new());
        Ok(Self { me, epoch: Instant::now(), inner: Mutex::new(inner), send, rearm })
    }

    /// The number that answers to this node are addressed to.
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Never held across an await.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The state of the sites, and the present time on the clock that it uses.
    pub fn look<T>(&self, at: impl FnOnce(u64, &Sites) -> T) -> T {
        at(self.now_ms(), &self.inner().sites)
    }

    /// Asks a site, and waits for what it says.
    ///
    /// # Errors
    /// Why there is no answer.
    pub async fn ask(&self, ask: Ask) -> Result<Answered, Unanswered> {
        let random = u128::from_le_bytes(selvedge_seal::random().map_err(|_| Unanswered::TooMany)?);
        let (reply, answer) = oneshot::channel();
        let asked = {
            let (now_ms, mut inner) = (self.now_ms(), self.inner());
            let (inner, mut effects) = (&mut *inner, Vec::new());
            inner.last += 1;
            let asked = inner.questions.ask(now_ms, &inner.sites, inner.last, ask, random, &mut effects);
            if asked.is_ok() {
                inner.replies.insert(inner.last, reply);
            }
            self.perform(inner, effects);
            asked
        };
        let result = match asked {
            Ok(()) => answer.await.unwrap_or(Err(Unanswered::TimedOut)),
            Err(why) => Err(why),
        };
        let outcome = match &result {
            Ok(answered) if answered.windows.missing.is_empty() => "answered",
            Ok(_) => "partly_answered",
            Err(why) => why.reason(),
        };
        metrics::counter!("selvedge_node_questions_total", "outcome" => outcome).increment(1);
        result
    }

    fn perform(&self, inner: &mut Inner, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(site, gateway, question) => {
                    if inner.outbox.len() >= OUTBOX_ENTRIES {
                        inner.outbox.pop_front(); // nobody has sent for long: it is late by now
                    }
                    inner.outbox.push_back((site, gateway, question));
                    self.send.notify_one();
                }
                Effect::Done(number, result) => {
                    if let Some(reply) = inner.replies.remove(&number) {
                        let _ = reply.send(result); // who asked may have gone
                    }
                }
            }
        }
        self.rearm.notify_one();
    }

    /// Takes a report in. False if it is not newer than the one that is known of its gateway.
    pub fn heard(&self, site: &SiteId, report: Report) -> bool {
        let (now_ms, mut inner) = (self.now_ms(), self.inner());
        inner.questions.reported(site, &report);
        inner.sites.hear(now_ms, EpochMs::from(SystemTime::now()), site, report)
    }

    /// Takes an answer in. False if no question waits for it.
    pub fn answered(&self, site: &SiteId, answer: GatewayAnswer) -> bool {
        let (now_ms, mut inner) = (self.now_ms(), self.inner());
        let (inner, mut effects) = (&mut *inner, Vec::new());
        let known = inner.questions.answered(now_ms, &inner.sites, site, answer, &mut effects);
        self.perform(inner, effects);
        known
    }

    /// Asks others and gives up, when it is time.
    async fn keep_time(&self) {
        loop {
            let due = self.inner().questions.deadline_ms();
            let wait = due.map(|due| Duration::from_millis(due.saturating_sub(self.now_ms())));
            let sleep = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.rearm.notified() => {}
                () = sleep => {
                    let (now_ms, mut inner) = (self.now_ms(), self.inner());
                    let (inner, mut effects) = (&mut *inner, Vec::new());
                    inner.questions.timer(now_ms, &inner.sites, &mut effects);
                    self.perform(inner, effects);
                }
            }
        }
    }

    /// Waits for the next question to send, and names the gateway that it is for.
    pub async fn next(&self) -> (SiteId, GatewayId, NodeQuestion) {
        loop {
            if let Some(next) = self.inner().outbox.pop_front() {
                return next;
            }
            self.send.notified().await;
        }
    }
}

/// What speaks with the broker.
pub struct SitesLink {
    edge: Arc<Edge>,
    carrier: Carrier,
    sites: Vec<SiteId>,
    reports: Opener<Report>,
    answers: Opener<GatewayAnswer>,
    sealers: HashMap<SiteId, Sealer<NodeQuestion>>,
    stats: Arc<Stats>,
}

impl SitesLink {
    /// For these sites.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        edge: Arc<Edge>,
        carrier: Carrier,
        sites: &[ServedSite],
        stats: Arc<Stats>,
    ) -> Result<Self, SealError> {
        let (mut reports, mut answers, mut sealers) = (Opener::new(), Opener::new(), HashMap::new());
        for site in sites {
            for secret in std::iter::once(&site.secret).chain(&site.also_accepted) {
                reports.add(&site.name, secret);
                answers.add(&site.name, secret);
            }
            sealers.insert(site.name.clone(), Sealer::new(&site.secret, &site.name)?);
        }
        let names = sites.iter().map(|site| site.name.clone()).collect();
        Ok(Self { edge, carrier, sites: names, reports, answers, sealers, stats })
    }

    /// Hears, asks and keeps time until `shutdown` is true.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let Self { edge, carrier, sites, reports, answers, sealers, stats } = self;
        let mut ear = Ear { edge: edge.clone(), sites, reports, answers, stats };
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = edge.keep_time() => {}
            () = ear.hear_for_ever(&carrier) => {}
            () = ask_for_ever(&edge, &carrier, sealers) => {}
        }
    }
}

struct Ear {
    edge: Arc<Edge>,
    sites: Vec<SiteId>,
    reports: Opener<Report>,
    answers: Opener<GatewayAnswer>,
    stats: Arc<Stats>,
}

impl Ear {
    async fn hear_for_ever(&mut self, carrier: &Carrier) {
        match carrier {
            Carrier::External(broker) => self.hear_external(broker).await,
            Carrier::Embedded(own) => self.hear_embedded(own).await,
        }
    }

    async fn hear_embedded(&mut self, own: &Embedded) {
        let mut told = 0;
        loop {
            let heard = own.reports.next().await;
            told = self.stats.flooded(told, own.reports.dropped());
            self.take(&heard.topic, &heard.payload);
        }
    }

    async fn hear_external(&mut self, broker: &BrokerAddress) {
        let me = self.edge.me;
        let filters = |site| [format!("selvedge/{site}/report/+"), answer_topic(site, me)];
        let mut hearer =
            Hearer::new(broker.clone(), "-reports", self.sites.iter().flat_map(filters).collect());
        loop {
            match hearer.next().await {
                HearerEvent::Subscribed => {}
                HearerEvent::Message { topic, payload } => self.take(&topic, &payload),
                HearerEvent::Lost(why) => {
                    if let Some(left_out) = self.stats.log_due("no_reports", Instant::now()) {
                        tracing::warn!(%why, "no connection for the reports of sites; trying again{left_out}");
                    }
                }
            }
        }
    }

    fn take(&mut self, topic: &str, payload: &[u8]) {
        metrics::counter!("selvedge_node_received_bytes_total").increment(payload.len() as u64);
        if let Err(reason) = self.open(topic, payload)
            && let Some(left_out) = self.stats.refused(reason, Instant::now())
        {
            let topic: String = topic.chars().take(80).collect();
            tracing::warn!(topic, reason, "refused a report or an answer{left_out}");
        }
    }

    fn open(&mut self, topic: &str, payload: &[u8]) -> Result<(), &'static str> {
        let me = self.edge.me;
        if let Some((site, gateway)) = parse_report_topic(topic) {
            let (_, report) = self.reports.open(&site, place(gateway), payload).map_err(|e| e.reason())?;
            if report.gateway != gateway {
                return Err("other_gateway");
            }
            if !self.edge.heard(&site, report) {
                return Err("old_report");
            }
            return Ok(());
        }
        let site = parse_answer_topic(topic, me).ok_or("topic")?;
        let (node, answer) = self.answers.open(&site, ShardId(0), payload).map_err(|e| e.reason())?;
        if node != me.0 {
            return Err("other_node");
        }
        // The slower of two gateways that were asked answers in vain; that is nothing to complain of.
        let known = self.edge.answered(&site, answer);
        let outcome = if known { "taken" } else { "unasked" };
        metrics::counter!("selvedge_node_answers_total", "outcome" => outcome).increment(1);
        Ok(())
    }
}

async fn ask_for_ever(edge: &Edge, carrier: &Carrier, mut sealers: HashMap<SiteId, Sealer<NodeQuestion>>) {
    let broker = match carrier {
        Carrier::External(broker) => broker,
        Carrier::Embedded(own) => return send(edge, &Outlet::Embedded(own.clone()), &mut sealers).await,
    };
    let (speaker, speaking) = Speaker::new(broker.clone(), "-ask");
    let outlet = Outlet::Client(speaker);
    // Two futures side by side: sending may wait for room, which only driving makes.
    tokio::select! {
        () = drive(speaking, "questions") => {}
        () = send(edge, &outlet, &mut sealers) => {}
    }
}

async fn send(edge: &Edge, outlet: &Outlet, sealers: &mut HashMap<SiteId, Sealer<NodeQuestion>>) {
    loop {
        let (site, gateway, question) = edge.next().await;
        let Some(sealer) = sealers.get_mut(&site) else { continue };
        let sealed = match sealer.seal(place(gateway), question.node.0, &question) {
            Ok(sealed) => sealed,
            Err(error) => {
                tracing::error!(%error, %site, "can't seal a question");
                continue;
            }
        };
        // What is lost on the way is asked again, or given up at its deadline.
        outlet.publish(ask_topic(&site, gateway), sealed).await;
    }
}
