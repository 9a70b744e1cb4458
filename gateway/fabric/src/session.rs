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

mod filters;
mod names;
mod pending;
mod publish;

use super::decode::{Decoder, Rebirth, Skipped};
use super::forward::{Forwardable, SettledItem, Ticket};
use super::machine::{
    ConnectItem, ConnectOutcome, DisconnectItem, DueWill, Item, ItemOutcome, MAX_CLIENT_BYTES,
    MAX_WILL_BYTES, Origin, SessionWill,
};
pub use super::not_counted::{MAX_WHY_BYTES, reading_hash};
use super::ring::Ring;
use filters::AskedFilters;
pub(crate) use names::{Meaning, RecentNames};
use pending::{HeldList, PendingList};
pub(crate) use publish::quarantined;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::ShardId;
use selvedge_types::mqtt::{
    Accept, Answer, CloseReason, Closed, Connect, Inbound, Publish, QoS, Refusal, Subscription, Version,
};
use selvedge_types::time::EpochMs;
use selvedge_types::topic::Filter;
use std::collections::{BTreeMap, BTreeSet};

/// How many unapplied QoS 0 publishes of one connection are kept; further ones are dropped.
pub const MAX_QOS0_PENDING: usize = 1_024;
/// The largest publish, as an estimate of its readings' bytes in the log.
pub const MAX_PUBLISH_BYTES: usize = 100 * 1024;
/// A CONNECT that no quorum has confirmed in this time is refused.
pub const CONNECT_WAIT_MS: u64 = 5_000;

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
    asked: BTreeMap<u64, AskedFilters>,
}

/// How a connection left its session.
#[derive(Debug, Clone, Copy, Default)]
struct Leave {
    with_will: bool,
    expiry_s: Option<u32>,
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
        self.names = RecentNames::of(if fits { &self.client } else { "" });
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

    /// Submits an item to the shard of the client id.
    fn submit(&self, site: SessionContext<'_>, token: u64, item: Item, out: &mut SessionEffects) {
        let ticket = Ticket { connection: self.connection, token };
        out.submit.push((site.ring.shard_of(&self.client), ticket, Forwardable::Item(item)));
    }
}
