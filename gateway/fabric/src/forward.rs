//! Idempotent forwarding: what devices did goes, in batches, to the leaders of the shards it concerns.
//!
//! The protocol: per shard, items gather in the order in which they came; a batch of them is numbered
//! n = 1, 2, 3, ... under this process's [`Origin`] and sent to the shard's leader. It is kept until its answer
//! comes, and sent again, the same bytes under the same number, when the answer is late, when the leader
//! changed or when a leader says that it lacks earlier ones. The state machine applies each number once and
//! in order, so an unknown outcome is retried and never told the device as a failure.
//!
//! A batch costs each replica much the same, however little it holds. So while one is under way, what comes gathers
//! until it is answered or makes a batch that is worth its cost (Nagle, RFC 896): an idle lane waits for nobody, and a
//! busy one has fewer and larger batches.
//!
//! An answer of a leader that refuses (busy, or a gap) never has anything sent at once: it only sets when all that is
//! unanswered is sent again. For each of several batches under way gets such an answer, and if each of these
//! sent several batches, their number would multiply with every round trip.
//!
//! Invariant: batches of a shard are numbered without gaps, and the bytes of a number never change.
//! Invariant: the outcomes of items leave in the order of the items, per shard.
//! Limit: at most [`MAX_INFLIGHT_BATCHES`] numbers of a shard are under way; what gathers behind them is
//! bounded by the windows of the connections it came from and by [`MAX_QUEUED_BYTES`] (see [`Forward::full`]).
//! Limit: a batch that was applied but whose answer was lost reports its items as done without their receipts. The state
//! machine remembers the last outcomes that say anything else.

use super::machine::{
    BatchVerdict, Item, ItemOutcome, ItemOutcomes, MAX_INFLIGHT_BATCHES, Maker, Origin, Publish, Readmit,
    Source, Submission,
};
use super::peer::{BusyReason, ForwardAnswer};
use super::ring::Ring;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::StreamName;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// While batches are under way, another one leaves only when so much is queued, as an estimate: some hundred readings, so that what
/// each entry of the log costs is shared by as many.
pub const PIPELINE_BYTES: usize = 12 * 1024;
/// A batch takes no further item beyond this estimate of its size.
pub const MAX_BATCH_BYTES: usize = 128 * 1024;
/// Above this estimate of all that is queued and unanswered, [`Forward::full`] tells the listener to slow down: half of what all that is
/// held of publishes may take ([`selvedge_mqtt::credit`]).
pub const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;
/// The most that a reading takes in a batch besides the bytes of its names.
pub const READING_BYTES: usize = 56;
/// The most that the client of a new stream takes in a batch besides the bytes of its id.
const MAKER_BYTES: usize = 8;
/// An unanswered batch is sent again after this time.
pub const RESEND_MS: u64 = 500;
/// A batch that found no leader, or a busy one, is sent again after this time.
pub const RETRY_MS: u64 = 50;
/// A shard whose batches get no answer for so long can't move, as far as newcomers should wait for it.
pub const STUCK_MS: u64 = 2_000;
/// A batch that found its leader's disk or outbox full is sent again after this time.
pub const FULL_RETRY_MS: u64 = 1_000;

/// Names an item to the one who submitted it: a connection and its running number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The connection.
    pub connection: u64,
    /// The number.
    pub token: u64,
}

/// Of items whose outcome nobody waits for.
const NOBODY: Ticket = Ticket { connection: u64::MAX - 1, token: 0 };

/// A reading with its stream's name still in full, as a decoder gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedReading {
    /// The stream.
    pub name: Arc<StreamName>,
    /// The client id of who names it, as long as the stream may not be known to its shard yet.
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

/// One thing to be forwarded.
#[derive(Debug, Clone, PartialEq)]
pub enum Forwardable {
    /// A publish and the readings of it that lie in the shard.
    Publish(Option<Source>, Vec<NamedReading>),
    /// A publish of one reading outside a persistent session: what most are, without a list to allocate.
    Reading(NamedReading),
    /// Readings of a quarantined publish, to be judged again; those of `readmit` are empty.
    Readmit(Readmit, Vec<NamedReading>),
    /// Anything else.
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

    /// To be forwarded, with the publish's source if that has to be known.
    pub fn with_source(self, source: Option<Source>) -> Forwardable {
        match (self, source) {
            (Self::One(reading), None) => Forwardable::Reading(reading),
            (Self::One(reading), source) => Forwardable::Publish(source, vec![reading]),
            (Self::More(readings), source) => Forwardable::Publish(source, readings),
        }
    }
}

/// What the forwarder wants done.
#[derive(Debug, Default)]
pub struct ForwardEffects {
    /// Batches to send (to this gateway's own replica too).
    pub send: Vec<(GatewayId, Outgoing)>,
    /// Items whose outcome is known.
    pub outcomes: Vec<Settled>,
}

/// A numbered batch on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The shard.
    pub shard: ShardId,
    /// Its number.
    pub n: u64,
    /// The [`Submission`] frame.
    pub submission: Arc<[u8]>,
}

/// An item whose outcome is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// Which item.
    pub ticket: Ticket,
    /// The shard that settled it.
    pub shard: ShardId,
    /// The slot it was chosen in; 0 when no longer known.
    pub slot: u64,
    /// What became of it.
    pub outcome: ItemOutcome,
}

#[derive(Debug)]
struct Inflight {
    n: u64,
    submission: Arc<[u8]>,
    tickets: Vec<Ticket>,
    estimate_bytes: usize,
    /// The slot it was applied in and what became of its items, as far as known, once it is answered.
    answer: Option<(u64, Option<ItemOutcomes>)>,
}

#[derive(Debug, Default)]
struct Lane {
    last_n: u64,
    queue: VecDeque<(Ticket, Forwardable)>,
    /// The estimate of what is queued.
    queue_bytes: usize,
    inflight: VecDeque<Inflight>,
    /// Since when nothing was answered, though something waits to be.
    still_ms: u64,
    /// When all that is unanswered is sent again.
    due_ms: u64,
    /// An answer has set that time; otherwise nobody has said anything since it was sent.
    heard: bool,
    leader: Option<GatewayId>,
    /// Who was sent what is unanswered.
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
    ring: Arc<Ring>,
    lanes: BTreeMap<ShardId, Lane>,
    dirty: BTreeSet<ShardId>,
    queued_bytes: usize,
    pipeline_bytes: usize,
    /// Gateways that can't be reached. They are not asked while another replica can be.
    down: BTreeSet<GatewayId>,
}

impl Forward {
    /// A forwarder that numbers its batches under `origin`. While batches are under way, another one leaves only when
    /// `pipeline_bytes` are queued: [`PIPELINE_BYTES`], unless more under way at a time is wanted.
    pub fn new(origin: Origin, ring: Arc<Ring>, pipeline_bytes: usize) -> Self {
        let (lanes, dirty, down) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { origin, ring, lanes, dirty, queued_bytes: 0, pipeline_bytes, down }
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

    /// Takes back an item that is in no batch yet: nobody waits for it any more. False: a batch has it, whose bytes never change.
    pub fn withdraw(&mut self, shard: ShardId, ticket: Ticket) -> bool {
        let Some(lane) = self.lanes.get_mut(&shard) else { return false };
        // What is withdrawn came lately.
        let Some(at) = lane.queue.iter().rposition(|(of, _)| *of == ticket) else { return false };
        let bytes = lane.queue.remove(at).map_or(0, |(_, item)| item.estimate_bytes());
        lane.queue_bytes -= bytes;
        self.queued_bytes -= bytes;
        true
    }

    /// The shards that have answered nothing for [`STUCK_MS`], though something waits for their answer: without a majority, say.
    pub fn stuck(&self, now_ms: u64) -> BTreeSet<ShardId> {
        let is_stuck = |lane: &Lane| !lane.inflight.is_empty() && now_ms >= lane.still_ms + STUCK_MS;
        self.lanes.iter().filter(|(_, lane)| is_stuck(lane)).map(|(shard, _)| *shard).collect()
    }

    /// Tells every shard that this process has begun, if it is not the first of its gateway.
    pub fn begin(&mut self) {
        if self.origin.start > 1 {
            for shard in (0..self.ring.shards()).map(ShardId) {
                self.submit(shard, NOBODY, Forwardable::Item(Item::Begin));
            }
        }
    }

    /// More is queued than should be: whoever submits must slow down.
    pub fn full(&self) -> bool {
        self.queued_bytes > MAX_QUEUED_BYTES
    }

    /// The estimate of all that is queued and unanswered, in bytes.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Why leaders take nothing more, if some say so.
    pub fn busy(&self) -> Option<BusyReason> {
        self.lanes.values().filter_map(|l| l.busy).max_by_key(|b| *b as u8)
    }

    /// Makes and sends batches of what was submitted.
    pub fn flush(&mut self, now_ms: u64, out: &mut ForwardEffects) {
        for shard in std::mem::take(&mut self.dirty) {
            let Some(lane) = self.lanes.get_mut(&shard) else { continue };
            // A busy leader would refuse what comes behind a refused batch, too.
            while lane.busy.is_none() && lane.wants_to_send(self.pipeline_bytes) {
                if lane.inflight.is_empty() {
                    lane.still_ms = now_ms;
                    lane.wait(now_ms, RESEND_MS, false);
                }
                let batch = lane.cut();
                let to = lane.target(self.ring.replicas(shard), &self.down);
                lane.asked = Some(to);
                out.send.push((to, batch.outgoing(shard)));
                lane.inflight.push_back(batch);
            }
        }
    }

    /// An answer about batch `n` of `origin` in a shard came from `from`. Answers meant for an earlier start of this
    /// gateway, whose numbers meant other batches, are passed over: a replica that applies old slots again gives such.
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
        let replicas = self.ring.replicas(shard).len();
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
                // Only a copy of this process's data folder can be ahead of it; the identity check keeps such a
                // copy from starting, so waiting (and being seen to wait) is all that is left.
                BatchVerdict::OldStart => {}
            },
            ForwardAnswer::NotLeader { leader } => {
                if lane.leader == Some(from) || lane.leader.is_none() {
                    // Who has not noticed yet that its leader is gone still names it.
                    lane.leader = leader.map(GatewayId).filter(|l| *l != from && !self.down.contains(l));
                    lane.hops += 1;
                    // Two replicas may each think that the other leads.
                    match lane.leader.filter(|_| lane.hops < replicas) {
                        Some(to) => lane.resend(now_ms, shard, to, out),
                        None => lane.retry(now_ms, RETRY_MS),
                    }
                }
            }
            ForwardAnswer::Busy { why } => {
                lane.leader = Some(from);
                lane.busy = Some(why);
                lane.retry(now_ms, if why == BusyReason::Window { RETRY_MS } else { FULL_RETRY_MS });
            }
        }
        self.flush(now_ms, out);
    }

    /// It became known who leads a shard: what is unanswered goes there.
    pub fn leader_is(&mut self, now_ms: u64, shard: ShardId, leader: GatewayId, out: &mut ForwardEffects) {
        let lane = self.lanes.entry(shard).or_default();
        if lane.leader.replace(leader) != Some(leader) {
            lane.resend(now_ms, shard, leader, out);
        }
    }

    /// A gateway can't be reached: batches that it was asked to take look for another leader.
    pub fn gateway_down(&mut self, now_ms: u64, gateway: GatewayId) {
        self.down.insert(gateway);
        for lane in self.lanes.values_mut() {
            if lane.leader == Some(gateway) || (lane.leader.is_none() && lane.asked == Some(gateway)) {
                lane.leader = None;
                lane.wait(now_ms, RETRY_MS, true);
            }
        }
    }

    /// A gateway can be reached again.
    pub fn gateway_up(&mut self, gateway: GatewayId) {
        self.down.remove(&gateway);
    }

    /// Sends again what waited too long.
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
            let to = lane.target(self.ring.replicas(*shard), &self.down);
            lane.resend(now_ms, *shard, to, out);
        }
    }

    /// When [`Forward::timer`] has something to do, if ever.
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
        // What was refused together with this one still waits for its time.
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
                Settled { ticket, shard, slot, outcome }
            }));
        }
        // The machine applies in order, so what comes before an answered batch was applied, and its answer lost. It
        // is asked for again, for it may say that something was refused.
        if lane.inflight.iter().any(|b| b.answer.is_some()) {
            lane.retry(now_ms, RETRY_MS);
        }
        self.dirty.insert(shard);
    }
}

/// The streams of a batch, each once.
#[derive(Debug, Default)]
struct StreamList {
    names: Vec<Arc<StreamName>>,
    known: HashMap<Arc<StreamName>, u32>,
    /// Readings of one stream often follow each other.
    last: Option<(Arc<StreamName>, u32)>,
    /// Who names those that may be new.
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
                    Item::Publish(Publish { source, readings: readings.into_iter().map(place).collect() })
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

    /// Sends all that is unanswered.
    fn resend(&mut self, now_ms: u64, shard: ShardId, to: GatewayId, out: &mut ForwardEffects) {
        self.wait(now_ms, RESEND_MS, false);
        self.asked = Some(to);
        out.send.extend(self.inflight.iter().filter(|b| b.answer.is_none()).map(|b| (to, b.outgoing(shard))));
    }

    /// Has it sent again after this time, unless an answer has set that before.
    fn retry(&mut self, now_ms: u64, wait_ms: u64) {
        if !self.heard {
            self.wait(now_ms, wait_ms, true);
        }
    }

    fn wait(&mut self, now_ms: u64, wait_ms: u64, heard: bool) {
        (self.due_ms, self.heard) = (now_ms + wait_ms, heard);
    }
}
