//! Idempotent forwarding: batches of devices' publishes and other items go to the leaders of the shards they
//! concern.
//!
//! # Protocol
//!
//! For each shard, items gather in the order in which they came. A batch of them gets a number n = 1, 2, 3, ...
//! under this process's [`Origin`] and goes to the shard's leader. The forwarder keeps the batch until its answer
//! comes, and resends the same bytes under the same number when the answer is late, when the leader changes, or
//! when a leader says that it lacks earlier batches. The state machine applies each number once and in order, so
//! the forwarder retries an unknown outcome and never reports it to the device as a failure.
//!
//! A batch costs each replica much the same, however little it holds. So while one is under way, new items gather
//! until it is answered or they make a batch that is worth its cost (Nagle, RFC 896). An idle lane never waits, and
//! a busy one has fewer and larger batches.
//!
//! When a leader refuses a batch (it is busy, or there is a gap), nothing is resent at once: the refusal only sets
//! the time at which all unanswered batches are resent. Each of several batches under way gets such an answer, and
//! if each answer caused several batches to be sent, their number would multiply with every round trip.
//!
//! A shard's replicas move. The ring that the forwarder is given ([`Forward::set_ring`]) may be older than the shard's
//! configuration. A replica that does not lead therefore names the configuration that it is in and its members, a
//! retired one the configuration that it has no part in. The forwarder turns to the members of the latest configuration
//! that it has heard of, and ignores which leader a replica of an earlier configuration names. Each answer of this kind
//! leads to a later configuration, so a forwarder that is some configurations behind needs as many hops to catch up.
//!
//! # Invariants and limits
//!
//! Invariant: batches of a shard are numbered without gaps, and the bytes of a number never change.
//! Invariant: the outcomes of items leave in the order of the items, per shard.
//! Limit: at most [`MAX_INFLIGHT_BATCHES`] numbers of a shard are under way. The windows of the connections and
//! [`MAX_QUEUED_BYTES`] bound the items that gather behind them (see [`Forward::full`]).
//! Limit: a batch that was applied but whose answer was lost reports its items as done without their receipts. The
//! state machine remembers recent outcomes other than plain success.

use super::machine::{
    BatchVerdict, Item, ItemOutcome, ItemOutcomes, MAX_INFLIGHT_BATCHES, Maker, Origin, PublishItem, Readmit,
    Source, Submission,
};
use super::peer::{BusyReason, ForwardAnswer};
use super::ring::{LatestPlacement, ReplicaSet, Ring};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::StreamName;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// While batches are under way, another one leaves only when this much is queued, as an estimate: some hundred
/// readings, which then share the cost of one log entry.
pub const PIPELINE_BYTES: usize = 12 * 1024;
/// A batch takes no further item beyond this estimate of its size.
pub const MAX_BATCH_BYTES: usize = 128 * 1024;
/// Above this estimate of everything queued and unanswered, [`Forward::full`] makes the listener slow down: half of
/// the memory that publishes may hold altogether ([`selvedge_mqtt::credit`]).
pub const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;
/// The most bytes that a reading takes in a batch besides its names.
pub const READING_BYTES: usize = 56;
/// The most bytes that the client of a new stream takes in a batch besides its id.
const MAKER_BYTES: usize = 8;
/// An unanswered batch is resent after this time.
pub const RESEND_MS: u64 = 500;
/// A batch that found no leader, or a busy one, is resent after this time.
pub const RETRY_MS: u64 = 50;
/// A shard whose batches have had no answer for this long counts as stuck: new connections should not wait for it.
pub const STUCK_MS: u64 = 2_000;
/// A batch whose leader had a full disk or outbox is resent after this time.
pub const FULL_RETRY_MS: u64 = 1_000;

/// Identifies an item to its submitter: a connection, and a number that the connection counts up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    pub connection: u64,
    pub token: u64,
}

/// The ticket of items whose outcome no connection waits for.
const NOBODY: Ticket = Ticket { connection: u64::MAX - 1, token: 0 };

/// A reading with its stream's name still in full, as a decoder produces it.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedReading {
    /// The device and the name of the stream.
    pub name: Arc<StreamName>,
    /// The id of the client that publishes it, as long as the shard may not know the stream yet.
    pub maker: Option<Arc<str>>,
    /// The reading; its stream index is filled in when the batch is made.
    pub reading: super::machine::Reading,
}

impl NamedReading {
    fn estimate_bytes(&self) -> usize {
        let maker = self.maker.as_ref().map_or(0, |client| client.len() + MAKER_BYTES);
        self.name.device.len() + self.name.stream.len() + maker + READING_BYTES
    }
}

/// An item to forward, with its readings' streams still in full.
#[derive(Debug, Clone, PartialEq)]
pub enum Forwardable {
    /// A publish and those of its readings that lie in the shard.
    Publish(Option<Source>, Vec<NamedReading>),
    /// A publish of one reading outside a persistent session. Most publishes are, and this form allocates no list.
    Reading(NamedReading),
    /// Readings of a quarantined publish, to be judged again; `readmit` itself lists no readings yet.
    Readmit(Readmit, Vec<NamedReading>),
    /// Any other item, in the form that the machine takes.
    Item(Item),
}

impl Forwardable {
    /// An upper estimate of its size in a batch, in bytes.
    fn estimate_bytes(&self) -> usize {
        match self {
            Self::Publish(source, readings) => {
                let names: usize = readings.iter().map(NamedReading::estimate_bytes).sum();
                names + source.as_ref().map_or(0, |s| s.client.len() + 64) + 16
            }
            Self::Reading(reading) => reading.estimate_bytes() + 16,
            Self::Item(Item::Subscriptions { add, remove, .. }) => {
                let filters = add.iter().map(|(f, _)| f).chain(remove);
                filters.map(|f| f.len() + 8).sum::<usize>() + 512
            }
            Self::Readmit(_, readings) => {
                readings.iter().map(NamedReading::estimate_bytes).sum::<usize>() + 32
            }
            Self::Item(Item::Quarantine { publish: q, .. }) => {
                let texts = q.client.len() + q.topic.len() + q.payload.len() + q.why.len();
                texts + 9 * q.counted.len() + 512
            }
            Self::Item(Item::Readmitted { counted, .. }) => 9 * counted.len() + 512,
            Self::Item(Item::Connect(connect)) => {
                connect.will.as_ref().map_or(0, |will| will.cost_bytes()) + 512
            }
            Self::Item(_) => 512,
        }
    }
}

/// The readings of a publish that lie in one shard.
pub(crate) enum ShardReadings {
    One(NamedReading),
    More(Vec<NamedReading>),
}

impl ShardReadings {
    pub fn list(&self) -> &[NamedReading] {
        match self {
            Self::One(reading) => std::slice::from_ref(reading),
            Self::More(readings) => readings,
        }
    }

    /// Makes these readings an item, with the publish's source if the shard must know it.
    pub fn with_source(self, source: Option<Source>) -> Forwardable {
        match (self, source) {
            (Self::One(reading), None) => Forwardable::Reading(reading),
            (Self::One(reading), source) => Forwardable::Publish(source, vec![reading]),
            (Self::More(readings), source) => Forwardable::Publish(source, readings),
        }
    }
}

/// Effects that the forwarder asks its host for.
#[derive(Debug, Default)]
pub struct ForwardEffects {
    /// Batches to send (including to this gateway's own replica).
    pub send: Vec<(GatewayId, Outgoing)>,
    /// Items whose outcome is known.
    pub outcomes: Vec<SettledItem>,
}

/// A numbered batch to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub shard: ShardId,
    pub n: u64,
    /// An encoded [`Submission`]: the same bytes whenever this number is sent.
    pub submission: Arc<[u8]>,
}

/// An item whose outcome is known.
#[derive(Debug, Clone, PartialEq)]
pub struct SettledItem {
    pub ticket: Ticket,
    pub shard: ShardId,
    /// The slot in which it was chosen; 0 if no longer known.
    pub slot: u64,
    pub outcome: ItemOutcome,
}

#[derive(Debug)]
struct Inflight {
    n: u64,
    submission: Arc<[u8]>,
    tickets: Vec<Ticket>,
    estimate_bytes: usize,
    /// Once it is answered: the slot in which the batch was applied, and the outcomes of its items as far as known.
    answer: Option<(u64, Option<ItemOutcomes>)>,
}

#[derive(Debug, Default)]
struct Lane {
    last_n: u64,
    queue: VecDeque<(Ticket, Forwardable)>,
    /// The estimated size of the queued items.
    queue_bytes: usize,
    inflight: VecDeque<Inflight>,
    /// When the last answer came, or when the oldest unanswered batch was sent to an idle lane.
    still_ms: u64,
    /// When all unanswered batches are resent.
    due_ms: u64,
    /// Whether an answer has set that time; otherwise there has been no answer since the batches were sent.
    heard: bool,
    leader: Option<GatewayId>,
    /// The gateway that the unanswered batches were last sent to.
    asked: Option<GatewayId>,
    /// How often in a row a replica named another as the leader.
    hops: usize,
    /// Which replica to try next while no leader is known.
    probe: usize,
    busy: Option<BusyReason>,
}

/// The forwarder of one gateway process.
#[derive(Debug)]
pub struct Forward {
    origin: Origin,
    placement: LatestPlacement,
    lanes: BTreeMap<ShardId, Lane>,
    dirty: BTreeSet<ShardId>,
    queued_bytes: usize,
    pipeline_bytes: usize,
    /// Gateways that can't be reached. The forwarder does not ask them while another replica can be reached.
    down: BTreeSet<GatewayId>,
}

impl Forward {
    /// A forwarder that numbers its batches under `origin`. While batches are under way, another one leaves only
    /// when `pipeline_bytes` are queued: [`PIPELINE_BYTES`], or less to have more batches under way at a time.
    pub fn new(origin: Origin, ring: Arc<Ring>, pipeline_bytes: usize) -> Self {
        let (lanes, dirty, down) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let placement = LatestPlacement::new(ring);
        Self { origin, placement, lanes, dirty, queued_bytes: 0, pipeline_bytes, down }
    }

    /// Takes a ring with other replica sets. Unanswered batches that were sent to a gateway that no longer holds their
    /// shard go to one that does. A replica set that a replica named stays if it is later than the ring's.
    pub fn set_ring(&mut self, now_ms: u64, ring: Arc<Ring>, out: &mut ForwardEffects) {
        let before = self.placement.clone();
        self.placement.set_ring(ring);
        for (shard, lane) in &mut self.lanes {
            let replicas = self.placement.replicas(*shard);
            if replicas != before.replicas(*shard) && lane.is_outside(replicas) {
                (lane.leader, lane.hops) = (None, 0);
                let to = lane.target(replicas, &self.down);
                lane.resend(now_ms, *shard, to, out);
            }
        }
    }

    /// The origin that this process's batches carry.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Queues an item for a shard. Nothing is sent before [`Forward::flush`].
    pub fn submit(&mut self, shard: ShardId, ticket: Ticket, item: Forwardable) {
        let bytes = item.estimate_bytes();
        self.queued_bytes += bytes;
        let lane = self.lanes.entry(shard).or_default();
        lane.queue_bytes += bytes;
        lane.queue.push_back((ticket, item));
        self.dirty.insert(shard);
    }

    /// Takes back an item that is in no batch yet and that no connection waits for any more. Returns false if a
    /// batch has it, for its bytes never change.
    pub fn withdraw(&mut self, shard: ShardId, ticket: Ticket) -> bool {
        let Some(lane) = self.lanes.get_mut(&shard) else { return false };
        // Items that are withdrawn came recently.
        let Some(at) = lane.queue.iter().rposition(|(of, _)| *of == ticket) else { return false };
        let bytes = lane.queue.remove(at).map_or(0, |(_, item)| item.estimate_bytes());
        lane.queue_bytes -= bytes;
        self.queued_bytes -= bytes;
        true
    }

    /// The shards that have answered nothing for [`STUCK_MS`] although batches are unanswered, for example without
    /// a majority.
    pub fn stuck(&self, now_ms: u64) -> BTreeSet<ShardId> {
        let is_stuck = |lane: &Lane| !lane.inflight.is_empty() && now_ms >= lane.still_ms + STUCK_MS;
        self.lanes.iter().filter(|(_, lane)| is_stuck(lane)).map(|(shard, _)| *shard).collect()
    }

    /// Tells every shard that this process has begun, unless it is the gateway's first.
    pub fn begin(&mut self) {
        if self.origin.start > 1 {
            for shard in (0..self.placement.ring().shards()).map(ShardId) {
                self.submit(shard, NOBODY, Forwardable::Item(Item::Begin));
            }
        }
    }

    /// Whether more is queued than should be: submitters must slow down.
    pub fn full(&self) -> bool {
        self.queued_bytes > MAX_QUEUED_BYTES
    }

    /// The estimate of all that is queued and unanswered, in bytes.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Why leaders accept nothing more, if some say so.
    pub fn busy(&self) -> Option<BusyReason> {
        self.lanes.values().filter_map(|l| l.busy).max_by_key(|b| *b as u8)
    }

    /// Makes batches of the submitted items and sends them.
    pub fn flush(&mut self, now_ms: u64, out: &mut ForwardEffects) {
        for shard in std::mem::take(&mut self.dirty) {
            let Some(lane) = self.lanes.get_mut(&shard) else { continue };
            // A busy leader would also refuse the batches behind a refused one.
            while lane.busy.is_none() && lane.wants_to_send(self.pipeline_bytes) {
                if lane.inflight.is_empty() {
                    lane.still_ms = now_ms;
                    lane.wait(now_ms, RESEND_MS, false);
                }
                let batch = lane.cut();
                let to = lane.target(self.placement.replicas(shard), &self.down);
                lane.asked = Some(to);
                out.send.push((to, batch.outgoing(shard)));
                lane.inflight.push_back(batch);
            }
        }
    }

    /// Takes the answer about batch `n` of `origin` in a shard, which came from `from`. A replica that applies old
    /// slots again answers earlier starts of this gateway, whose numbers meant other batches: those answers are
    /// ignored.
    pub fn answered(
        &mut self,
        now_ms: u64,
        (from, origin, shard, n): (GatewayId, Origin, ShardId, u64),
        answer: ForwardAnswer,
        out: &mut ForwardEffects,
    ) {
        if origin != self.origin {
            return;
        }
        let Some(lane) = self.lanes.get_mut(&shard) else { return };
        if !lane.inflight.iter().any(|b| b.n == n) {
            return; // an echo
        }
        match answer {
            ForwardAnswer::Verdict { slot, verdict } => match verdict {
                BatchVerdict::Applied(outcomes) => self.settle(now_ms, shard, (n, slot), Some(outcomes), out),
                BatchVerdict::AlreadyApplied => self.settle(now_ms, shard, (n, 0), None, out),
                BatchVerdict::Malformed => {
                    let refused = "this gateway's batch does not decode at the shard's leader";
                    let count = lane.inflight.iter().find(|b| b.n == n).map_or(0, |b| b.tickets.len());
                    let outcomes =
                        std::iter::repeat_n(ItemOutcome::Refused(refused.to_string()), count).collect();
                    self.settle(now_ms, shard, (n, slot), Some(outcomes), out);
                }
                BatchVerdict::Gap { .. } => {
                    lane.leader = Some(from);
                    lane.retry(now_ms, RETRY_MS);
                }
                // Only a copy of this process's data folder can be ahead of it. The identity check keeps such a
                // copy from starting, so all that is left is to wait, and to be seen waiting.
                BatchVerdict::OldStart => {}
            },
            ForwardAnswer::NotLeader { leader, replicas } => {
                self.not_leader(now_ms, shard, from, leader.map(GatewayId), replicas, out);
            }
            ForwardAnswer::Busy { why } => {
                lane.leader = Some(from);
                lane.busy = Some(why);
                lane.retry(now_ms, if why == BusyReason::Window { RETRY_MS } else { FULL_RETRY_MS });
            }
        }
        self.flush(now_ms, out);
    }

    fn not_leader(
        &mut self,
        now_ms: u64,
        shard: ShardId,
        from: GatewayId,
        leader: Option<GatewayId>,
        said: ReplicaSet,
        out: &mut ForwardEffects,
    ) {
        let Some(lane) = self.lanes.get_mut(&shard) else { return };
        let is_old = said.configuration < self.placement.configuration(shard);
        let is_later = self.placement.learn(shard, said);
        let replicas = self.placement.replicas(shard);
        let asked = lane.leader.or(lane.asked).filter(|asked| *asked != from);
        if asked.is_some_and(|asked| match is_later {
            true => replicas.contains(&asked),
            false => lane.leader.is_some() || !replicas.contains(&from),
        }) {
            return; // it says nothing about the gateway that is asked now
        }
        lane.hops = if is_later { 0 } else { lane.hops + 1 };
        // A replica that has not noticed yet that its leader is gone still names it.
        lane.leader = leader.filter(|l| !is_old && *l != from && !self.down.contains(l));
        // A retired replica names no leader, but the configuration that it names has one or soon elects one.
        let next = (is_later && !replicas.contains(&from)).then(|| lane.target(replicas, &self.down));
        // Two replicas may each believe that the other leads.
        match lane.leader.or(next).filter(|_| lane.hops < replicas.len()) {
            Some(to) => lane.resend(now_ms, shard, to, out),
            None => lane.retry(now_ms, RETRY_MS),
        }
    }

    /// Notes which gateway leads a shard and sends it the unanswered batches.
    pub fn leader_is(&mut self, now_ms: u64, shard: ShardId, leader: GatewayId, out: &mut ForwardEffects) {
        let lane = self.lanes.entry(shard).or_default();
        if lane.leader.replace(leader) != Some(leader) {
            lane.resend(now_ms, shard, leader, out);
        }
    }

    /// Notes that a gateway can't be reached: batches that were sent to it look for another leader.
    pub fn gateway_down(&mut self, now_ms: u64, gateway: GatewayId) {
        self.down.insert(gateway);
        for lane in self.lanes.values_mut() {
            if lane.leader == Some(gateway) || (lane.leader.is_none() && lane.asked == Some(gateway)) {
                lane.leader = None;
                lane.wait(now_ms, RETRY_MS, true);
            }
        }
    }

    /// Notes that a gateway can be reached again.
    pub fn gateway_up(&mut self, gateway: GatewayId) {
        self.down.remove(&gateway);
    }

    /// Resends batches that have waited too long.
    pub fn timer(&mut self, now_ms: u64, out: &mut ForwardEffects) {
        for (shard, lane) in &mut self.lanes {
            if lane.inflight.is_empty() || lane.due_ms > now_ms {
                continue;
            }
            if !lane.heard {
                lane.leader = None;
            }
            lane.hops = 0;
            lane.probe = lane.probe.wrapping_add(1);
            let to = lane.target(self.placement.replicas(*shard), &self.down);
            lane.resend(now_ms, *shard, to, out);
        }
    }

    /// When [`Forward::timer`] next has something to do, if ever.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.lanes.values().filter(|l| !l.inflight.is_empty()).map(|l| l.due_ms).min()
    }

    fn settle(
        &mut self,
        now_ms: u64,
        shard: ShardId,
        (n, slot): (u64, u64),
        outcomes: Option<ItemOutcomes>,
        out: &mut ForwardEffects,
    ) {
        let Some(lane) = self.lanes.get_mut(&shard) else { return };
        (lane.busy, lane.hops, lane.still_ms) = (None, 0, now_ms);
        // Batches that were refused together with this one still wait for their time.
        if !lane.heard {
            lane.wait(now_ms, RESEND_MS, false);
        }
        if let Some(batch) = lane.inflight.iter_mut().find(|b| b.n == n) {
            batch.answer.get_or_insert((slot, outcomes));
        }
        while let Some(batch) = lane.inflight.pop_front_if(|b| b.answer.is_some()) {
            self.queued_bytes = self.queued_bytes.saturating_sub(batch.estimate_bytes);
            let (slot, outcomes) = batch.answer.unwrap_or_default();
            let known = outcomes.filter(|o| o.len() == batch.tickets.len());
            let slot = if known.is_some() { slot } else { 0 };
            let mut known = known.into_iter().flatten();
            out.outcomes.extend(batch.tickets.into_iter().map(|ticket| {
                let outcome = known.next().unwrap_or(ItemOutcome::Done);
                SettledItem { ticket, shard, slot, outcome }
            }));
        }
        // The machine applies in order, so batches before an answered one were applied and their answers lost. They
        // are resent to get the answers again, because these may name refused items.
        if lane.inflight.iter().any(|b| b.answer.is_some()) {
            lane.retry(now_ms, RETRY_MS);
        }
        self.dirty.insert(shard);
    }
}

/// The streams of a batch, each listed once.
#[derive(Debug, Default)]
struct StreamList {
    names: Vec<Arc<StreamName>>,
    known: HashMap<Arc<StreamName>, u32>,
    /// The last stream looked up: readings of one stream often follow each other.
    last: Option<(Arc<StreamName>, u32)>,
    /// The clients that publish to the streams that may be new.
    makers: BTreeMap<u32, Arc<str>>,
}

impl StreamList {
    fn index(&mut self, name: Arc<StreamName>) -> u32 {
        if let Some((last, index)) = &self.last
            && Arc::ptr_eq(last, &name)
        {
            return *index;
        }
        let index = *self.known.entry(name.clone()).or_insert_with(|| {
            self.names.push(name.clone());
            self.names.len() as u32 - 1
        });
        self.last = Some((name, index));
        index
    }
}

impl Inflight {
    fn outgoing(&self, shard: ShardId) -> Outgoing {
        Outgoing { shard, n: self.n, submission: self.submission.clone() }
    }
}

impl Lane {
    /// Whether the gateway that it sends to is none of these.
    fn is_outside(&self, replicas: &[GatewayId]) -> bool {
        self.leader.or(self.asked).is_some_and(|gateway| !replicas.contains(&gateway))
    }

    fn target(&self, replicas: &[GatewayId], down: &BTreeSet<GatewayId>) -> GatewayId {
        let turn = |i: usize| replicas[(self.probe + i) % replicas.len()];
        let reachable = || (0..replicas.len()).map(turn).find(|r| !down.contains(r));
        self.leader.or_else(reachable).unwrap_or_else(|| turn(0))
    }

    fn wants_to_send(&self, pipeline_bytes: usize) -> bool {
        let worth_it = self.inflight.is_empty() || self.queue_bytes >= pipeline_bytes;
        worth_it && self.inflight.len() < MAX_INFLIGHT_BATCHES && !self.queue.is_empty()
    }

    fn cut(&mut self) -> Inflight {
        let (mut submission, mut tickets, mut bytes) = (Submission::default(), Vec::new(), 0);
        let mut streams = StreamList::default();
        while let Some((_, item)) = self.queue.front() {
            let more = item.estimate_bytes();
            if bytes > 0 && bytes + more > MAX_BATCH_BYTES {
                break;
            }
            bytes += more;
            let Some((ticket, item)) = self.queue.pop_front() else { break };
            tickets.push(ticket);
            let mut place = |r: NamedReading| {
                let stream = streams.index(r.name);
                if let Some(client) = r.maker {
                    streams.makers.entry(stream).or_insert(client);
                }
                super::machine::Reading { stream, ..r.reading }
            };
            submission.items.push(match item {
                Forwardable::Item(item) => item,
                Forwardable::Reading(reading) => Item::Reading(place(reading)),
                Forwardable::Readmit(readmit, readings) => {
                    Item::Readmit(Readmit { readings: readings.into_iter().map(place).collect(), ..readmit })
                }
                Forwardable::Publish(source, readings) => {
                    Item::Publish(PublishItem { source, readings: readings.into_iter().map(place).collect() })
                }
            });
        }
        self.queue_bytes -= bytes;
        submission.streams = streams.names;
        let maker = |(stream, client): (u32, Arc<str>)| Maker { stream, client: client.to_string() };
        submission.makers = streams.makers.into_iter().map(maker).collect();
        self.last_n += 1;
        let submission = submission.encode().into();
        Inflight { n: self.last_n, submission, tickets, estimate_bytes: bytes, answer: None }
    }

    /// Sends all unanswered batches.
    fn resend(&mut self, now_ms: u64, shard: ShardId, to: GatewayId, out: &mut ForwardEffects) {
        self.wait(now_ms, RESEND_MS, false);
        self.asked = Some(to);
        out.send.extend(self.inflight.iter().filter(|b| b.answer.is_none()).map(|b| (to, b.outgoing(shard))));
    }

    /// Schedules a resend after this time, unless an answer has scheduled one already.
    fn retry(&mut self, now_ms: u64, wait_ms: u64) {
        if !self.heard {
            self.wait(now_ms, wait_ms, true);
        }
    }

    fn wait(&mut self, now_ms: u64, wait_ms: u64, heard: bool) {
        (self.due_ms, self.heard) = (now_ms + wait_ms, heard);
    }
}
