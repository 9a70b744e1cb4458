//! One MQTT connection as the gateway sees it: what its packets mean for the site's shards, and when they are
//! answered.
//!
//! # Publishes
//!
//! A publish is decoded and its readings go to the shards of their devices. When every shard that it touches has
//! judged its part, the publish is answered and routed to subscribers. The answer reports the result: success with
//! a receipt if at least one reading is in the windows, with the readings and fields that were set aside or skipped
//! in the reason string; a failure with the reason if no reading is; "no matching subscribers" if its topic maps to
//! no stream and has no subscriber. MQTT 3 knows no failures: there PUBACK waits until a publish that was not fully
//! counted is chosen into the quarantine, in the shard of the client id. Whatever the answer, the publish is
//! routed: subscribers may want a payload that is no number. A publish that is settled before an earlier one to the
//! same topic (their readings may lie in different shards) is routed after that one.
//!
//! # Sessions
//!
//! A session that outlives its connection (3.1.1 without clean session, 5 with an expiry) is a record in the shard
//! of its client id. CONNECT is answered only when that shard has raised the session's epoch, so that everything an
//! older connection still has under way is refused, and when that connection's will, if it is due, is published.
//! The session's publishes carry (client, instance, epoch, packet id), by which any gateway recognises a resend. A
//! QoS 2 publish into a shard that the session has not touched waits until the session's record names that shard,
//! so that a later PUBREL, on any gateway, finds every shard that holds the packet id.
//!
//! A session without expiry is a record there, too, for as long as its connection lasts: it holds the will, and the
//! connection to close when the client connects elsewhere. Only a client whose id the gateway assigned is accepted
//! at once. SUBACK and UNSUBACK of a durable session leave when its shard has chosen what they answer.
//!
//! # Invariants and limits
//!
//! Invariant: a publish of QoS 1 or 2 is acknowledged as kept only after the judgement of each of its readings is
//! chosen.
//! Invariant: a publish that is answered with a failure has left its packet id in no shard: a shard notes the id
//! only if something of the publish counted there, and then the answer is a success.
//! Invariant: publishes reach each shard in the order in which the client sent them.
//! Invariant: publishes to one topic are routed in the order in which the client sent them.
//! Limits: QoS 0 publishes beyond [`MAX_QOS0_PENDING`] unapplied ones are dropped and counted.

use super::decode::{Decoded, Decoder, Few, Rebirth, Skipped, name_skipped};
use super::forward::{Forwardable, NamedReading, SettledItem, ShardReadings, Ticket};
use super::machine::{
    ConnectItem, ConnectOutcome, DisconnectItem, DueWill, Item, ItemOutcome, MAX_CLIENT_BYTES,
    MAX_FILTER_BYTES, MAX_PAYLOAD_BYTES, MAX_WILL_BYTES, Origin, Quarantined, Reading, SessionWill, Source,
    publish_hash,
};
pub use super::not_counted::{MAX_WHY_BYTES, reading_hash};
use super::not_counted::{NotCounted, Sent};
use super::ring::Ring;
use bytes::Bytes;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::ShardId;
use selvedge_types::mqtt::{
    Accept, Ack, AckCode, Answer, CloseReason, Closed, Connect, Inbound, Oversize, Publish, QoS, Refusal,
    Subscription, Version,
};
use selvedge_types::time::EpochMs;
use selvedge_types::topic::Filter;
use selvedge_types::uplink::StreamName;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// How many unapplied QoS 0 publishes of one connection are kept; further ones are dropped.
pub const MAX_QOS0_PENDING: usize = 1_024;
/// The largest publish, as an estimate of its readings' bytes in the log.
pub const MAX_PUBLISH_BYTES: usize = 100 * 1024;
/// A CONNECT that no quorum has confirmed in this time is refused.
pub const CONNECT_WAIT_MS: u64 = 5_000;

/// How many streams' names a connection caches at first, and at most once it has shown that it carries more.
const RECENT_NAMES_ENTRIES: (usize, usize) = (8, 256);

/// How many filters go to the shard of the client id in one item.
const FILTERS_ITEM_ENTRIES: usize = 64;

/// The session itself, not the connection, numbers the tokens at and above this one.
const OWN: u64 = 1 << 63;
/// From here on to [`OWN`]: tokens of SUBSCRIBE and UNSUBSCRIBE.
const ASKED: u64 = 1 << 62;
const CONNECT: u64 = OWN;
const TOUCH: u64 = OWN + 1;
const LEAVE: u64 = OWN + 2;
const IGNORED: u64 = OWN + 3;

/// The gateway and site as a session sees them at each step.
#[derive(Clone, Copy)]
pub struct SessionContext<'a> {
    /// Maps each device to its shard.
    pub ring: &'a Ring,
    /// The topic map and the payload decoders.
    pub decoder: &'a Decoder,
    /// This gateway, and the start of its process.
    pub origin: Origin,
    /// The time now, for relative times in payloads.
    pub now: EpochMs,
    /// Whether any client at this site subscribes to a topic.
    pub listens: &'a dyn Fn(&str) -> bool,
}

/// Effects that the session asks its host for.
#[derive(Debug, Default)]
pub struct SessionEffects {
    /// To be sent on the connection.
    pub answers: Vec<Answer>,
    /// Items for the forwarder, each with its shard.
    pub submit: Vec<(ShardId, Ticket, Forwardable)>,
    /// Items that nothing waits for any more: the host takes them back from the forwarder, if that is still
    /// possible ([`Session::withdrawn`]).
    pub withdraw: Vec<(ShardId, Ticket)>,
    /// Settled publishes, to be routed to subscribers.
    pub route: Vec<Publish>,
    /// Subscriptions that this connection now has.
    pub subscribe: Vec<Subscription>,
    /// Filters that this connection no longer subscribes to.
    pub unsubscribe: Vec<Filter>,
    /// Wills to publish. After the one that the client waits for, the host calls [`Session::will_published`].
    pub wills: Vec<DueWill>,
    /// Fields of publishes that are no readings.
    pub skipped: Vec<Skipped<'static>>,
    /// Requests for births, which the gateway itself publishes at QoS 0.
    pub rebirths: Vec<Box<Rebirth>>,
    /// Topics of publishes that map to no stream and have no subscriber, with the payloads' lengths in bytes.
    pub unmapped: Vec<(String, usize)>,
    /// Why the host must end the connection, if it must.
    pub close: Option<CloseReason>,
    /// QoS 0 publishes that were dropped.
    pub dropped: u64,
    /// Publishes of QoS 1 and 2 that were answered with success.
    pub acked: u64,
    /// Publishes of QoS 1 and 2 that were answered with a failure.
    pub refused: u64,
    /// How the readings that were published here were judged.
    pub fates: Fates,
}

/// How many readings the shards' answers judged in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fates {
    /// In the windows for the first time.
    pub counted: u64,
    /// Recognised as counted before.
    pub recognised: u64,
    /// Not counted, for a reason that the answer names.
    pub set_aside: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// CONNECT has not come, or waits for its shard.
    Arriving,
    /// The client is accepted and may publish.
    Open,
    /// The connection is refused, replaced or closed.
    Over,
}

#[derive(Debug)]
struct Pending {
    publish: Option<Publish>,
    /// When it was decoded: relative times in it count from here.
    at: EpochMs,
    /// How many parts are not settled.
    open: usize,
    receipt: Option<(ShardId, u64)>,
    /// Whether at least one of its readings is in the windows.
    kept: bool,
    sent: Sent,
    /// None as long as all of it counts.
    not: Option<Box<NotCounted>>,
    /// The publish now waits to be in the quarantine or, if it was there and is counted now, to have left it.
    quarantining: bool,
}

impl Pending {
    fn of(publish: Option<Publish>, at: EpochMs, open: usize, sent: Sent) -> Self {
        Self { publish, at, open, receipt: None, kept: false, sent, not: None, quarantining: false }
    }

    fn cost_bytes(&self) -> usize {
        self.publish.as_ref().map_or(0, Publish::cost_bytes)
    }
}

/// The session of one connection, from CONNECT until nothing is awaited for it any more.
#[derive(Debug)]
pub struct Session {
    connection: u64,
    phase: Phase,
    client: String,
    v5: bool,
    clean: bool,
    expiry_s: u32,
    assigned: bool,
    instance: u64,
    epoch: u64,
    will: Option<Box<SessionWill>>,
    /// CONNECT is on its way to its shard.
    connecting: bool,
    /// The shard's answer to CONNECT, while a will of an earlier connection is being published.
    found: Option<Box<ConnectOutcome>>,
    /// How the client left, until its shard can be informed.
    leave: Option<Leave>,
    /// The shard is being informed that the client has left.
    leaving: bool,
    /// A shard has said that a later connection has the session.
    taken_over: bool,
    touched: BTreeSet<u16>,
    pending: PendingList,
    /// Settled publishes, by token, that must be routed after earlier ones to their topics.
    late: Vec<(u64, Publish)>,
    /// Names of streams that were published recently, and their shards.
    names: RecentNames,
    qos0: usize,
    /// Publishes behind one that waits for a shard to be noted as touched.
    held: HeldList,
    touching: usize,
    /// SUBSCRIBE and UNSUBSCRIBE packets that wait for the shard of the client id, by token; the connection bounds
    /// their bytes.
    asked: BTreeMap<u64, Asked>,
}

/// How a connection left its session.
#[derive(Debug, Clone, Copy, Default)]
struct Leave {
    with_will: bool,
    expiry_s: Option<u32>,
}

/// A SUBSCRIBE or an UNSUBSCRIBE of a durable session.
#[derive(Debug, Default)]
struct Asked {
    subscriptions: Vec<Subscription>,
    filters: Vec<Filter>,
    /// Items that are not settled: the indices of the subscriptions in each.
    items: VecDeque<Vec<usize>>,
    /// Indices of the subscriptions that a bound refuses.
    refused: Vec<usize>,
}

impl Session {
    /// The session of a connection that has sent nothing yet.
    pub fn new(connection: u64) -> Self {
        Self {
            connection,
            phase: Phase::Arriving,
            client: String::new(),
            v5: false,
            clean: true,
            expiry_s: 0,
            assigned: false,
            instance: 0,
            epoch: 0,
            will: None,
            connecting: false,
            found: None,
            leave: None,
            leaving: false,
            taken_over: false,
            touched: BTreeSet::new(),
            pending: PendingList::default(),
            late: Vec::new(),
            names: RecentNames::default(),
            qos0: 0,
            held: HeldList::default(),
            touching: 0,
            asked: BTreeMap::new(),
        }
    }

    /// The client id; empty before CONNECT.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Numbers the connections of its client; 0 until the shard has answered CONNECT.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether CONNECT has not come, or waits for its shard.
    pub fn arriving(&self) -> bool {
        self.phase == Phase::Arriving
    }

    /// Whether the connection is over and nothing is awaited for it any more.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over && self.pending.is_empty() && !self.connecting && !self.leaving
    }

    /// The bytes of publishes that are not settled or not routed.
    pub fn held_bytes(&self) -> usize {
        let late: usize = self.late.iter().map(|(_, publish)| publish.cost_bytes()).sum();
        self.pending.bytes + self.held.bytes + late
    }

    /// Refuses a CONNECT that waited too long for its shard.
    pub fn refuse(&mut self, site: SessionContext<'_>, out: &mut SessionEffects) {
        if self.arriving() {
            self.turn_away(site, Refusal::Unavailable, out);
        }
    }

    /// Ends a CONNECT that waits here while the same client has sent a newer one at this gateway: of several that
    /// wait, only the last one can be meant.
    pub fn overtaken(&mut self, site: SessionContext<'_>, out: &mut SessionEffects) {
        if self.arriving() {
            self.phase = Phase::Over;
            self.found = None;
            self.withdraw(site, out);
            out.close = Some(CloseReason::TakenOver);
        }
    }

    fn turn_away(&mut self, site: SessionContext<'_>, why: Refusal, out: &mut SessionEffects) {
        self.phase = Phase::Over;
        self.found = None;
        self.withdraw(site, out);
        out.answers.push(Answer::Refuse(why));
    }

    /// Takes back the CONNECT of a connection that is over, so that it does not raise the epoch and close a live
    /// connection.
    fn withdraw(&self, site: SessionContext<'_>, out: &mut SessionEffects) {
        if self.connecting {
            let ticket = Ticket { connection: self.connection, token: CONNECT };
            out.withdraw.push((site.ring.shard_of(&self.client), ticket));
        }
    }

    /// Notes that CONNECT was taken back before it went to its shard.
    pub fn withdrawn(&mut self) {
        self.connecting = false;
        self.leave = None;
    }

    /// Takes in a packet of the client, or the end of its connection.
    pub fn inbound(&mut self, site: SessionContext<'_>, event: Inbound, out: &mut SessionEffects) {
        match event {
            Inbound::Closed(closed) => self.closed(site, *closed, out),
            _ if self.phase == Phase::Over => {} // refused or taken over, which the connection does not know yet
            Inbound::Connect(connect) => self.connect(site, &connect, out),
            Inbound::Publish(p)
                if self.touching > 0
                    && p.qos == QoS::AtMostOnce
                    && self.held.list.len() >= MAX_QOS0_PENDING =>
            {
                out.dropped += 1;
            }
            Inbound::Oversize(o)
                if self.touching > 0
                    && o.qos == QoS::AtMostOnce
                    && self.held.list.len() >= MAX_QOS0_PENDING =>
            {
                out.dropped += 1;
            }
            Inbound::Publish(_) | Inbound::Oversize(_) | Inbound::Release { .. } if self.touching > 0 => {
                self.held.push_back(event);
            }
            Inbound::Oversize(oversize) => self.oversize(site, *oversize, out),
            Inbound::Publish(publish) => self.publish(site, publish, out),
            Inbound::Release { token, packet_id } => self.release(token, packet_id.get(), out),
            Inbound::Subscribe { token, subscriptions } => self.subscribe(site, token, subscriptions, out),
            Inbound::Unsubscribe { token, filters } => self.unsubscribe(site, token, filters, out),
        }
    }

    /// Takes in the outcome of an item.
    pub fn settled(&mut self, site: SessionContext<'_>, settled: SettledItem, out: &mut SessionEffects) {
        if let ItemOutcome::Stale = settled.outcome {
            self.pending.remove(settled.ticket.token);
            self.route_late(out);
            self.leaving &= settled.ticket.token != LEAVE;
            return self.replaced(out);
        }
        match settled.ticket.token {
            CONNECT => self.connected(site, settled.outcome, out),
            TOUCH => {
                self.touching = self.touching.saturating_sub(1);
                while self.touching == 0 {
                    let Some(event) = self.held.pop_front() else { break };
                    self.inbound(site, event, out);
                }
            }
            IGNORED => {}
            LEAVE => {
                self.leaving = false;
                if let ItemOutcome::WillDue(will) = settled.outcome {
                    out.wills.push(*will);
                }
            }
            token if token >= ASKED => self.asked_settled(token - ASKED, settled.outcome, out),
            token => self.part_settled(site, token, settled, out),
        }
    }

    /// Ends the session here, because a later connection has it.
    pub fn replaced(&mut self, out: &mut SessionEffects) {
        self.taken_over = true;
        self.found = None;
        if self.phase != Phase::Over {
            self.phase = Phase::Over;
            out.close = Some(CloseReason::TakenOver);
        }
    }

    /// Whether the session outlives the connection.
    pub fn persistent(&self) -> bool {
        self.expiry_s > 0
    }

    /// Whether the connection is over, or about to end.
    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Over
    }

    fn connect(&mut self, site: SessionContext<'_>, connect: &Connect, out: &mut SessionEffects) {
        self.v5 = connect.version == Version::V5;
        (self.clean, self.expiry_s) = (connect.clean, connect.expiry_s);
        self.client = connect.client_id.to_string();
        if self.client.is_empty() {
            self.assigned = true;
            self.client = format!("auto-{}-{}-{}", site.origin.gateway.0, site.origin.start, self.connection);
        }
        let fits = !self.assigned && self.client.len() <= MAX_CLIENT_BYTES;
        self.names.maker = if fits { self.client.as_str().into() } else { "".into() };
        self.will = connect.will.as_ref().map(|w| {
            let (topic, payload) = (w.topic.to_string(), w.payload.to_vec());
            Box::new(SessionWill { topic, payload, qos: w.qos.into(), delay_s: w.delay_s })
        });
        if self.will.as_ref().is_some_and(|will| will.cost_bytes() > MAX_WILL_BYTES) {
            return self.turn_away(site, Refusal::Quota, out);
        }
        self.submit_connect(site, out);
        if self.assigned && !self.persistent() {
            // No other client has that id, and the shard stores nothing of the session: it only learns that the
            // client is here now.
            let expiry_s = self.expiry_s;
            self.open(ConnectOutcome { expiry_s, ..ConnectOutcome::default() }, out);
        }
    }

    fn submit_connect(&mut self, site: SessionContext<'_>, out: &mut SessionEffects) {
        self.connecting = true;
        let connect = ConnectItem {
            client: self.client.clone(),
            at: site.origin,
            connection: self.connection,
            clean: self.clean,
            expiry_s: self.expiry_s,
            will: self.will.clone(),
        };
        self.submit(site, CONNECT, Item::Connect(connect), out);
    }

    fn connected(&mut self, site: SessionContext<'_>, outcome: ItemOutcome, out: &mut SessionEffects) {
        self.connecting = false;
        match outcome {
            ItemOutcome::Connected(mut found) => {
                self.will = None;
                (self.instance, self.epoch) = (found.instance, found.epoch);
                let will = found.will.take();
                let waits = will.is_some() && !canary::makes(Canary::WillAfterConnack);
                out.wills.extend(will.map(|will| *will));
                if let Some(leave) = self.leave.take() {
                    return self.submit_disconnect(site, leave, out);
                }
                self.touched = found.touched.iter().copied().collect();
                match self.phase {
                    Phase::Arriving if waits => self.found = Some(found),
                    Phase::Arriving => self.open(*found, out),
                    Phase::Open | Phase::Over => {}
                }
            }
            ItemOutcome::Refused(_) if self.arriving() => self.turn_away(site, Refusal::Busy, out),
            ItemOutcome::Refused(_) if self.phase == Phase::Open => {
                self.phase = Phase::Over;
                out.close = Some(CloseReason::Quota); // its will could not be kept, nor who it is
            }
            ItemOutcome::Refused(_) => {}
            // The client may be connected elsewhere by now, and that connection must not be closed.
            _ if self.phase == Phase::Over => {}
            // CONNECT was applied, but the answer was lost; the same connection gets the same answer again.
            _ => self.submit_connect(site, out),
        }
    }

    /// Accepts the client, now that the will of an earlier connection is published.
    pub fn will_published(&mut self, out: &mut SessionEffects) {
        if let Some(found) = self.found.take()
            && self.arriving()
        {
            self.open(*found, out);
        }
    }

    fn open(&mut self, found: ConnectOutcome, out: &mut SessionEffects) {
        self.phase = Phase::Open;
        let restore = |(filter, options): (String, u8)| {
            Some(Subscription::from_options(Filter::new(&filter).ok()?, options))
        };
        let subscriptions: Vec<_> = found.subscriptions.into_iter().filter_map(restore).collect();
        out.subscribe.extend(subscriptions.iter().cloned());
        let assigned_client_id = self.assigned.then(|| self.client.as_str().into());
        let expiry_s = Some(found.expiry_s).filter(|granted| *granted != self.expiry_s);
        let accept = Accept { session_present: found.present, assigned_client_id, expiry_s, subscriptions };
        out.answers.push(Answer::Accept(Box::new(accept)));
    }

    fn publish(&mut self, site: SessionContext<'_>, publish: Publish, out: &mut SessionEffects) {
        let token = publish.token;
        if publish.qos == QoS::AtMostOnce && self.qos0 >= MAX_QOS0_PENDING {
            out.dropped += 1;
            return;
        }
        let (parts, not, skipped) = match self.names.decode(site, &publish, out) {
            Meaning::Unmapped => return self.unmapped(site, publish, out),
            Meaning::Parts { parts, not, skipped } => (parts, not, skipped),
        };
        if parts.is_empty() {
            out.skipped.extend(skipped);
            self.qos0 += usize::from(publish.qos == QoS::AtMostOnce);
            self.pending
                .push(token, Pending { not, ..Pending::of(Some(publish), site.now, 0, Sent::Nothing) });
            return self.concluded(site, token, out);
        }
        let packet_id = publish.packet_id.filter(|_| self.persistent());
        let source = packet_id.map(|packet_id| self.source_of(&publish, packet_id));
        if source.is_some() && publish.qos == QoS::ExactlyOnce {
            let fresh: Vec<u16> =
                parts.iter().map(|(s, _)| s.0).filter(|s| !self.touched.contains(s)).collect();
            if canary::makes(Canary::TouchedUnnoted) {
                self.touched.extend(fresh);
            } else if !fresh.is_empty() {
                for shard in fresh {
                    self.touched.insert(shard);
                    self.touching += 1;
                    let (client, epoch) = (self.client.clone(), self.epoch);
                    self.submit(site, TOUCH, Item::Touch { client, epoch, shard }, out);
                }
                self.held.push_front(Inbound::Publish(publish));
                return;
            }
        }
        let qos0 = publish.qos == QoS::AtMostOnce;
        self.qos0 += usize::from(qos0);
        let open = parts.len();
        out.skipped.extend(skipped);
        let sent = Sent::of(&parts);
        self.pending.push(token, Pending { not, ..Pending::of(Some(publish), site.now, open, sent) });
        let ticket = Ticket { connection: self.connection, token };
        out.submit
            .extend(parts.into_iter().map(|(shard, part)| (shard, ticket, part.with_source(source.clone()))));
    }

    /// Identifies a publish, so that a resend is recognised.
    fn source_of(&self, publish: &Publish, packet_id: NonZeroU16) -> Source {
        Source {
            client: self.client.clone(),
            instance: self.instance,
            epoch: self.epoch,
            packet_id: packet_id.get(),
            qos: u8::from(publish.qos),
            dup: publish.dup,
            hash: publish_hash(&publish.topic, &publish.payload),
        }
    }

    /// Handles a publish that is larger than a bound. It is answered and set aside, but not routed, because its
    /// payload was discarded.
    fn oversize(&mut self, site: SessionContext<'_>, oversize: Oversize, out: &mut SessionEffects) {
        let Oversize { token, topic, payload_bytes, qos, dup, packet_id, why } = oversize;
        let not = NotCounted::discarded(&why.to_string(), payload_bytes);
        self.qos0 += usize::from(qos == QoS::AtMostOnce);
        let publish = Publish { token, topic, payload: Bytes::new(), qos, dup, retain: false, packet_id };
        let pending = Pending::of(Some(publish), site.now, 0, Sent::Nothing);
        self.pending.push(token, Pending { not: Some(not), ..pending });
        self.concluded(site, token, out);
    }

    fn release(&mut self, token: u64, packet_id: u16, out: &mut SessionEffects) {
        if !self.persistent() || self.touched.is_empty() {
            out.answers.push(Answer::Ack(Ack::kept(token)));
            return;
        }
        let told = if canary::makes(Canary::ReleasedInPart) { 1 } else { self.touched.len() };
        let connection = self.connection;
        self.pending.push(token, Pending::of(None, EpochMs(0), told, Sent::Nothing));
        for shard in self.touched.iter().take(told) {
            let source = Source {
                client: self.client.clone(),
                instance: self.instance,
                epoch: self.epoch,
                packet_id,
                qos: 2,
                dup: false,
                hash: 0,
            };
            let item = Forwardable::Item(Item::Release(source));
            out.submit.push((ShardId(*shard), Ticket { connection, token }, item));
        }
    }

    /// Handles a publish whose topic maps to no stream: it is answered and routed, and touches no shard.
    fn unmapped(&mut self, site: SessionContext<'_>, publish: Publish, out: &mut SessionEffects) {
        let listened = (site.listens)(&publish.topic);
        if publish.qos != QoS::AtMostOnce {
            out.acked += 1;
            let code = if listened { AckCode::Kept } else { AckCode::NoSubscribers };
            out.answers.push(Answer::Ack(Ack { code, ..Ack::kept(publish.token) }));
        }
        if !listened {
            out.unmapped.push((publish.topic.to_string(), publish.payload.len()));
        }
        out.route.push(publish);
    }

    fn part_settled(
        &mut self,
        site: SessionContext<'_>,
        token: u64,
        settled: SettledItem,
        out: &mut SessionEffects,
    ) {
        let Some(pending) = self.pending.get_mut(token) else { return };
        pending.open = pending.open.saturating_sub(1);
        match settled.outcome {
            ItemOutcome::Judged(judged) => {
                out.fates.counted += u64::from(judged.counted);
                out.fates.recognised += u64::from(judged.recognised);
                out.fates.set_aside += judged.set_aside.len() as u64;
                pending.kept |= judged.is_kept();
                if judged.is_kept() && settled.slot > 0 {
                    pending.receipt = Some((settled.shard, settled.slot));
                }
                if !judged.set_aside.is_empty() {
                    let not = pending.not.get_or_insert_default();
                    not.set_aside(settled.shard, &pending.sent, &judged.set_aside);
                    self.names.forget();
                }
            }
            // The publish is not even in the quarantine: the client gets no answer, and sends it again.
            ItemOutcome::Refused(_) if pending.quarantining => {
                out.close = Some(CloseReason::Busy);
                self.pending.remove(token);
                return self.route_late(out);
            }
            ItemOutcome::Refused(why) => {
                pending.not.get_or_insert_default().refused(settled.shard, &why);
                self.names.forget();
            }
            ItemOutcome::Duplicate => {
                pending.kept = true;
                pending.not.get_or_insert_default().recognised(settled.shard);
            }
            _ => pending.kept = true,
        }
        if pending.open > 0 && !canary::makes(Canary::AcknowledgedInPart) {
            return;
        }
        let resent = pending.publish.as_ref().is_some_and(|publish| publish.dup);
        if pending.not.is_some() || resent {
            return self.concluded(site, token, out);
        }
        if let Some(done) = self.pending.remove(token) {
            self.answer(site, token, done, out);
        }
    }

    /// Concludes a publish whose parts are all settled, and that is not fully counted, or is a resend.
    fn concluded(&mut self, site: SessionContext<'_>, token: u64, out: &mut SessionEffects) {
        let resend = self.resend_counted(token);
        let Some(pending) = self.pending.get_mut(token) else { return };
        if let Some(source) = resend {
            (pending.quarantining, pending.open) = (true, 1);
            return self.submit(site, token, Item::ResendCounted(source), out);
        }
        if let (Some(publish), Some(not)) = (&pending.publish, &pending.not)
            && not.is_lasting()
            && !pending.quarantining
        {
            let item = quarantined((&self.client, self.epoch), pending.at, publish, not, &pending.sent);
            pending.quarantining = true;
            if self.v5 || publish.qos == QoS::AtMostOnce || canary::makes(Canary::AcknowledgedUnquarantined) {
                self.submit(site, IGNORED, item, out);
            } else {
                pending.open = 1;
                return self.submit(site, token, item, out);
            }
        }
        if let Some(done) = self.pending.remove(token) {
            self.answer(site, token, done, out);
        }
    }

    /// A resend that was judged only now and counted in full: the first time it may have gone into the quarantine.
    fn resend_counted(&self, token: u64) -> Option<Source> {
        let pending = self.pending.get(token)?;
        let publish = pending.publish.as_ref().filter(|publish| publish.dup && self.persistent())?;
        let all_counted = |not: &NotCounted| !not.is_lasting() && !not.is_recognised();
        let counted = pending.kept && pending.not.as_deref().is_none_or(all_counted);
        let packet_id = publish.packet_id.filter(|_| counted && !pending.quarantining)?;
        Some(self.source_of(publish, packet_id))
    }

    fn answer(&mut self, site: SessionContext<'_>, token: u64, done: Pending, out: &mut SessionEffects) {
        let Some(publish) = done.publish else {
            out.answers.push(Answer::Ack(Ack::kept(token)));
            return;
        };
        let is_whole = done.not.as_ref().is_none_or(|not| not.discarded_bytes().is_none());
        if publish.qos == QoS::AtMostOnce {
            self.qos0 -= 1;
        } else if let Some(not) = done.not.as_ref().filter(|not| self.v5 && not.is_lasting() && !done.kept) {
            out.refused += 1;
            out.answers.push(Answer::Ack(Ack::refused(token, not.code(), not.why())));
        } else {
            let mut ack = Ack::kept(token);
            if let Some((shard, slot)) = done.receipt.filter(|_| self.v5) {
                ack = ack.with_receipt(format!("{shard}/{slot}"));
            }
            if let Some(not) = done.not.filter(|not| self.v5 && !not.is_silent()) {
                ack = ack.saying(not.why());
            }
            out.acked += 1;
            out.answers.push(Answer::Ack(ack));
        }
        if is_whole {
            self.route(site, token, publish, out);
        }
        self.route_late(out);
    }

    /// Routes a settled publish, unless an earlier one to its topic is not settled.
    fn route(&mut self, site: SessionContext<'_>, token: u64, publish: Publish, out: &mut SessionEffects) {
        // Without subscribers the order doesn't matter, and is not looked up.
        let matters = self.pending.has_before(token) && (site.listens)(&publish.topic);
        match matters && self.pending.is_behind(token, &publish.topic) {
            true => {
                let at = self.late.partition_point(|(earlier, _)| *earlier < token);
                self.late.insert(at, (token, publish));
            }
            false => out.route.push(publish),
        }
    }

    /// Routes publishes that waited for one that is no longer awaited.
    fn route_late(&mut self, out: &mut SessionEffects) {
        let pending = &self.pending;
        let ready = self.late.extract_if(.., |(token, publish)| !pending.is_behind(*token, &publish.topic));
        out.route.extend(ready.map(|(_, publish)| publish));
    }

    fn closed(&mut self, site: SessionContext<'_>, closed: Closed, out: &mut SessionEffects) {
        let was_open = self.phase == Phase::Open;
        self.phase = Phase::Over;
        let lost = |e: &Inbound| matches!(e, Inbound::Publish(p) if p.qos == QoS::AtMostOnce);
        out.dropped += std::mem::take(&mut self.held).list.iter().filter(|e| lost(e)).count() as u64;
        self.asked.clear();
        // Items under way go on, and their publishes are routed when applied; there is no client left to answer.
        let leave = Leave { with_will: was_open && closed.will.is_some(), expiry_s: closed.expiry_s };
        if self.connecting {
            self.leave = Some(leave);
            // A client that was accepted before its shard knew of it leaves its will there.
            if !leave.with_will {
                self.withdraw(site, out);
            }
        } else if self.epoch > 0 && !self.taken_over {
            self.submit_disconnect(site, leave, out);
        }
    }

    fn submit_disconnect(&mut self, site: SessionContext<'_>, leave: Leave, out: &mut SessionEffects) {
        self.leaving = true;
        let (client, epoch, at) = (self.client.clone(), self.epoch, site.origin);
        let Leave { with_will, expiry_s } = leave;
        let disconnect = DisconnectItem { client, epoch, at, with_will, expiry_s };
        self.submit(site, LEAVE, Item::Disconnect(disconnect), out);
    }

    /// Subscribes a durable session. Its subscriptions count, and SUBACK leaves, once the shard of the client id
    /// has chosen them.
    fn subscribe(
        &mut self,
        site: SessionContext<'_>,
        token: u64,
        list: Vec<Subscription>,
        out: &mut SessionEffects,
    ) {
        if !self.persistent() {
            out.subscribe.extend(list);
            out.answers.push(Answer::Subscribed { token, refused: Vec::new() });
            return;
        }
        let fits = |(_, s): &(usize, &Subscription)| s.filter.as_str().len() <= MAX_FILTER_BYTES;
        let (fit, too_long): (Vec<_>, Vec<_>) = list.iter().enumerate().partition(fits);
        let mut asked = Asked { refused: too_long.into_iter().map(|(i, _)| i).collect(), ..Asked::default() };
        // One item is far smaller than a batch may be.
        for chunk in fit.chunks(FILTERS_ITEM_ENTRIES) {
            let add = chunk.iter().map(|(_, s)| (s.filter.as_str().to_string(), s.options())).collect();
            asked.items.push_back(chunk.iter().map(|(i, _)| *i).collect());
            self.submit_filters(site, token, add, Vec::new(), out);
        }
        asked.subscriptions = list;
        self.ask(token, asked, out);
    }

    fn unsubscribe(
        &mut self,
        site: SessionContext<'_>,
        token: u64,
        filters: Vec<Filter>,
        out: &mut SessionEffects,
    ) {
        if !self.persistent() {
            out.unsubscribe.extend(filters);
            out.answers.push(Answer::Unsubscribed { token });
            return;
        }
        let mut asked = Asked::default();
        // The shard holds no filter that is longer.
        let fit: Vec<_> = filters.iter().filter(|f| f.as_str().len() <= MAX_FILTER_BYTES).collect();
        for chunk in fit.chunks(FILTERS_ITEM_ENTRIES) {
            let remove = chunk.iter().map(|f| f.as_str().to_string()).collect();
            asked.items.push_back(Vec::new());
            self.submit_filters(site, token, Vec::new(), remove, out);
        }
        asked.filters = filters;
        self.ask(token, asked, out);
    }

    fn submit_filters(
        &self,
        site: SessionContext<'_>,
        token: u64,
        add: Vec<(String, u8)>,
        remove: Vec<String>,
        out: &mut SessionEffects,
    ) {
        let (client, epoch) = (self.client.clone(), self.epoch);
        self.submit(site, ASKED + token, Item::Subscriptions { client, epoch, add, remove }, out);
    }

    fn ask(&mut self, token: u64, asked: Asked, out: &mut SessionEffects) {
        let nothing_to_wait_for = asked.items.is_empty();
        self.asked.insert(token, asked);
        if nothing_to_wait_for || canary::makes(Canary::SubackBeforeChosen) {
            self.answer_asked(token, out);
        }
    }

    /// Settles the next item of a SUBSCRIBE or UNSUBSCRIBE: items are settled in the order in which they were
    /// submitted.
    fn asked_settled(&mut self, token: u64, outcome: ItemOutcome, out: &mut SessionEffects) {
        let Some(asked) = self.asked.get_mut(&token) else { return };
        let item = asked.items.pop_front().unwrap_or_default();
        match outcome {
            ItemOutcome::Refused(_) => asked.refused.extend(item),
            ItemOutcome::Subscribed { refused } => {
                asked.refused.extend(refused.iter().filter_map(|i| item.get(usize::from(*i))));
            }
            _ => {}
        }
        if asked.items.is_empty() {
            self.answer_asked(token, out);
        }
    }

    fn answer_asked(&mut self, token: u64, out: &mut SessionEffects) {
        let Some(asked) = self.asked.remove(&token).filter(|_| self.phase == Phase::Open) else { return };
        out.answers.push(match asked.filters.is_empty() {
            true => Answer::Subscribed { token, refused: asked.refused.clone() },
            false => Answer::Unsubscribed { token },
        });
        let granted = asked.subscriptions.into_iter().enumerate().filter(|(i, _)| !asked.refused.contains(i));
        out.subscribe.extend(granted.map(|(_, s)| s));
        out.unsubscribe.extend(asked.filters);
    }

    /// Submits an item to the shard of the client id.
    fn submit(&self, site: SessionContext<'_>, token: u64, item: Item, out: &mut SessionEffects) {
        let ticket = Ticket { connection: self.connection, token };
        out.submit.push((site.ring.shard_of(&self.client), ticket, Forwardable::Item(item)));
    }
}

/// A publish for the quarantine, from a session at this epoch.
pub(super) fn quarantined(
    (client, epoch): (&str, u64),
    at: EpochMs,
    publish: &Publish,
    not: &NotCounted,
    sent: &Sent,
) -> Item {
    let (counted, recognised) = not.counted(sent);
    let publish = Quarantined {
        client: client.to_string(),
        topic: publish.topic.to_string(),
        payload: if publish.payload.len() > MAX_PAYLOAD_BYTES {
            Vec::new()
        } else {
            publish.payload.to_vec()
        },
        payload_bytes: not.discarded_bytes().unwrap_or(publish.payload.len() as u64),
        qos: u8::from(publish.qos),
        packet_id: publish.packet_id.map_or(0, NonZeroU16::get),
        dup: publish.dup,
        at,
        why: not.why(),
        counted,
        recognised,
        far_behind: not.far_behind(),
    };
    Item::Quarantine { epoch, publish: Box::new(publish) }
}

/// Events that wait for a shard to be noted as touched.
#[derive(Debug, Default)]
struct HeldList {
    list: VecDeque<Inbound>,
    /// The bytes of the publishes among them.
    bytes: usize,
}

impl HeldList {
    fn cost_bytes(event: &Inbound) -> usize {
        if let Inbound::Publish(publish) = event { publish.cost_bytes() } else { 0 }
    }

    fn push_back(&mut self, event: Inbound) {
        self.bytes += Self::cost_bytes(&event);
        self.list.push_back(event);
    }

    fn push_front(&mut self, event: Inbound) {
        self.bytes += Self::cost_bytes(&event);
        self.list.push_front(event);
    }

    fn pop_front(&mut self) -> Option<Inbound> {
        let event = self.list.pop_front()?;
        self.bytes -= Self::cost_bytes(&event);
        Some(event)
    }
}

/// Publishes and releases that wait for shards, by token. Tokens ascend, and most are settled in their order.
#[derive(Debug, Default)]
struct PendingList {
    list: VecDeque<(u64, Option<Pending>)>,
    /// The bytes of their publishes.
    bytes: usize,
}

impl PendingList {
    /// Appends an entry; `token` is greater than all before.
    fn push(&mut self, token: u64, pending: Pending) {
        debug_assert!(self.list.back().is_none_or(|(last, _)| *last < token));
        self.bytes += pending.cost_bytes();
        self.list.push_back((token, Some(pending)));
    }

    fn place(&self, token: u64) -> Option<usize> {
        // Without QoS 0 in between, tokens follow each other and give the place directly.
        let guess = token.checked_sub(self.list.front()?.0).and_then(|at| usize::try_from(at).ok());
        let guess = guess.filter(|at| self.list.get(*at).is_some_and(|(at_guess, _)| *at_guess == token));
        guess.or_else(|| self.list.binary_search_by_key(&token, |(token, _)| *token).ok())
    }

    fn entry(&mut self, token: u64) -> Option<&mut Option<Pending>> {
        let at = self.place(token)?;
        self.list.get_mut(at).map(|(_, pending)| pending)
    }

    fn get(&self, token: u64) -> Option<&Pending> {
        self.list.get(self.place(token)?)?.1.as_ref()
    }

    fn get_mut(&mut self, token: u64) -> Option<&mut Pending> {
        self.entry(token)?.as_mut()
    }

    fn remove(&mut self, token: u64) -> Option<Pending> {
        let pending = self.entry(token)?.take();
        self.bytes -= pending.as_ref().map_or(0, Pending::cost_bytes);
        while self.list.pop_front_if(|(_, pending)| pending.is_none()).is_some() {}
        pending
    }

    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether anything is awaited that came before this token. Most entries are settled in their order: then there
    /// is none.
    fn has_before(&self, token: u64) -> bool {
        self.list.front().is_some_and(|(first, _)| *first < token)
    }

    /// Whether a publish to this topic is awaited that came before this token.
    fn is_behind(&self, token: u64, topic: &str) -> bool {
        let mut earlier = self.list.iter().take_while(|(of, _)| *of < token);
        let publishes = |(_, pending): &(u64, Option<Pending>)| {
            let publish = pending.as_ref().and_then(|pending| pending.publish.as_ref());
            publish.is_some_and(|publish| &*publish.topic == topic)
        };
        earlier.any(publishes) && !canary::makes(Canary::RoutedAsSettled)
    }
}

/// The decoded content of a publish.
pub(super) enum Meaning {
    /// The topic maps to no stream.
    Unmapped,
    /// The topic maps to streams.
    Parts {
        /// The readings by shard; empty if the publish holds none.
        parts: Few<(ShardId, ShardReadings)>,
        /// The parts that are no readings, as far as the client should hear of them.
        not: Option<Box<NotCounted>>,
        /// The fields that are no readings.
        skipped: Vec<Skipped<'static>>,
    },
}

/// A cache of streams that a connection published recently: everything that waits for them shares their names. Each
/// stream has one place, by its hash; a stream that takes another's place makes the table larger, up to the bound.
#[derive(Debug, Default)]
pub(super) struct RecentNames {
    places: Vec<Option<(u64, Arc<StreamName>, ShardId)>>,
    /// The client id, which a name that is not cached goes out with; empty for all clients without an id of their
    /// own.
    maker: Arc<str>,
}

impl RecentNames {
    /// An empty cache for this client.
    pub(super) fn of(client: &str) -> Self {
        Self { maker: client.into(), ..Self::default() }
    }

    /// The stream's name, its shard, and its maker if the stream may be new there.
    fn find(
        &mut self,
        ring: &Ring,
        device: Cow<'_, str>,
        stream: Cow<'_, str>,
    ) -> (Arc<StreamName>, ShardId, Option<Arc<str>>) {
        let hash = xxh3_64_with_seed(stream.as_bytes(), xxh3_64(device.as_bytes()));
        let (least, most) = RECENT_NAMES_ENTRIES;
        if self.places.is_empty() {
            self.places.resize(least, None);
        }
        let mut at = hash as usize % self.places.len();
        match &self.places[at] {
            Some((_, name, shard)) if name.device == device && name.stream == stream => {
                return (name.clone(), *shard, None);
            }
            Some(_) if self.places.len() < most => {
                let mut larger = vec![None; self.places.len() * 2];
                for known in self.places.drain(..).flatten() {
                    let at = known.0 as usize % larger.len();
                    larger[at] = Some(known);
                }
                at = hash as usize % larger.len();
                self.places = larger;
            }
            _ => {}
        }
        let shard = ring.shard_of(&device);
        let name = Arc::new(StreamName { device: device.into_owned(), stream: stream.into_owned() });
        self.places[at] = Some((hash, name.clone(), shard));
        (name, shard, Some(self.maker.clone()))
    }

    /// Empties the cache after something was not counted: the shard may not know the streams, so their makers must
    /// go along again.
    fn forget(&mut self) {
        self.places.fill(None);
    }

    /// Decodes a publish. A request for births that it may cause goes to `out`.
    pub(super) fn decode(
        &mut self,
        site: SessionContext<'_>,
        publish: &Publish,
        out: &mut SessionEffects,
    ) -> Meaning {
        let owned = |skipped: Vec<Skipped<'_>>| match skipped.is_empty() {
            true => Vec::new(),
            false => skipped.into_iter().map(Skipped::into_owned).collect(),
        };
        let none = |not, skipped| Meaning::Parts { parts: Few::new(), not, skipped };
        let (list, skipped) = match site.decoder.decode(site.now, &publish.topic, &publish.payload) {
            Decoded::Readings { list, skipped, rebirth } => {
                out.rebirths.extend(rebirth);
                (list, owned(skipped))
            }
            Decoded::NoReading { skipped } => return none(None, owned(skipped)),
            Decoded::NotMapped => return Meaning::Unmapped,
            Decoded::Malformed(mut e) => {
                out.rebirths.extend(e.rebirth.take());
                let why = e.to_string();
                let not =
                    if e.too_large { NotCounted::too_large(&why) } else { NotCounted::unreadable(&why) };
                return none(Some(not), e.skipped);
            }
        };
        let (mut parts, mut bytes) = (Few::<(ShardId, ShardReadings)>::new(), 0);
        for r in list {
            bytes += r.device.len() + r.stream.len() + 48;
            let reading = Reading { stream: 0, time: r.time, value: r.value, seq: r.seq, boot: r.boot };
            let (name, shard, maker) = self.find(site.ring, r.device, r.stream);
            let reading = NamedReading { name, maker, reading };
            match parts.iter_mut().find(|(of, _)| *of == shard) {
                None => parts.push((shard, ShardReadings::One(reading))),
                Some((_, ShardReadings::More(readings))) => readings.push(reading),
                Some((_, part)) => {
                    if let ShardReadings::One(first) =
                        std::mem::replace(part, ShardReadings::More(Vec::new()))
                    {
                        *part = ShardReadings::More(vec![first, reading]);
                    }
                }
            }
        }
        if bytes > MAX_PUBLISH_BYTES {
            let why = format!(
                "its readings and their names take {bytes} bytes, {MAX_PUBLISH_BYTES} are allowed: split it"
            );
            return none(Some(NotCounted::too_large(&why)), skipped);
        }
        let not = (!skipped.is_empty()).then(|| NotCounted::skipped(&name_skipped(&skipped)));
        Meaning::Parts { parts, not, skipped }
    }
}
