//! One connection's protocol, without IO: bytes in, events up, answers down, bytes out.
//!
//! ```text
//!            input()+received()            Vec<Inbound>
//!   socket ---------------------> parse ----------------> application
//!          <--------------------- owed  <----------------
//!               output()         in order     answer()
//! ```
//!
//! A connection is fresh until CONNECT came, waiting until the application has answered it, open, and closed. While
//! it waits, bytes are kept as they are, up to a bound: clients may publish right after CONNECT.
//!
//! Publishes are handed up while fewer than `max_inflight_entries` are unanswered. Beyond that they are parsed and
//! parked, so that a PINGREQ behind them is answered at once even while no majority answers us. SUBSCRIBE and
//! UNSUBSCRIBE are handed up at once, and answered when the application has answered. When `parked_bytes` are parked
//! or wait for that answer, we stop parsing and say so ([`Connection::wants_input`]), and TCP presses the
//! client back. A client that exceeds its Receive Maximum is treated just so: some clients ignore it.
//!
//! All this is within one connection's bounds. Those of all connections together are lent turn by turn ([`Connection::lend`]):
//! see [`super::credit`].
//!
//! When a connection ends, what is parked of QoS 1 and 2 is forgotten: it was not acknowledged, and its client sends it
//! again. Parked publishes of QoS 0 are handed up if the client left by itself or was sent away, for it sends them only once.
//!
//! QoS 0 takes no answer and no place in that window, except by its bytes, as long as the application has them.
//!
//! A client that is sent to another server ([`Connection::send_away`]) first gets the answers that it is owed: its further
//! publishes are parked, and once nothing is owed, or after [`SEND_AWAY_WAIT_MS`], the connection ends. MQTT 5 clients are told
//! 0x9C with the servers to use (section 4.11); for older ones the connection just ends, and they may connect anywhere.
//!
//! Invariant: PUBACK, PUBREC and PUBCOMP leave in the order in which their PUBLISH and PUBREL came.
//! Invariant: a publish of a packet id that is still unanswered, sent again with DUP, is handed up once and answered
//! once. (Without DUP it is another publish, and both are handed up and answered: nothing is lost by a client that
//! reuses an id too soon.) At QoS 2 an id is remembered until its PUBREL, with or without DUP.
//! Invariant: nothing is sent before CONNACK, and nothing is handed up after [`Inbound::Closed`].
//! Invariant: no keep-alive timeout while it is we who do not read.
//!
//! QoS 2 packet ids are remembered within this connection only. What must hold across connections is the
//! application's: it knows the session, and a PUBREL for an id that is unknown here is handed up for it.
//!
//! A publish that is larger than a bound (its topic, or in MQTT 3 its packet) is handed up without its payload, and answered. In
//! MQTT 5 the client was told of the largest packet, and one that is larger ends the connection.
//!
//! Kinder than the standard: RETAIN on a publish is ignored though retained messages were announced as unavailable;
//! bad, shared or identified filters fail one by one in SUBACK. Stricter: see [`selvedge_types::topic`].
//!
//! Sources: OASIS MQTT 3.1.1 and MQTT 5.0; the 3.1 protocol specification.

use super::answers::{Answers, ReplyKind};
use super::credit::{Loan, RESERVE_BYTES};
use super::departure::Culprit;
use super::filters::Filters;
use super::outgoing::Window;
use super::oversize::{Discarding, shown};
use super::wire::{self, Granted, Outbound, Packet, Wire};
use super::{ConnectionLimits, MAX_OUTPUT_BYTES, MAX_READ_BYTES, SEND_AWAY_WAIT_MS};
use bytes::BytesMut;
use bytestring::ByteString;
use rmqtt_codec::types;
use selvedge_types::mqtt::{
    Accept, Answer, CloseReason, Closed, Connect, Delivery, Inbound, MAX_CLIENT_ID_BYTES, Oversize, Publish,
    QUEUED_OVERHEAD_BYTES, QoS, Refusal, Subscription, TooLarge, Version, Will,
};
use selvedge_types::topic::{self, BadTopic, Filter};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::num::NonZeroU16;

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// CONNECT has not come yet.
    Fresh,
    /// CONNECT is with the application.
    Waiting,
    Open,
    Closed,
}

/// A publish or release that the window has no room for.
enum Parked {
    Publish(Publish),
    Oversize(Box<Oversize>),
    Release(NonZeroU16),
}

impl Parked {
    fn cost_bytes(&self) -> usize {
        match self {
            Self::Publish(p) => p.cost_bytes(),
            Self::Oversize(o) => o.topic.len() + QUEUED_OVERHEAD_BYTES,
            Self::Release(_) => QUEUED_OVERHEAD_BYTES,
        }
    }

    /// Whether it is a publish of this QoS with this packet id.
    fn publishes(&self, qos: QoS, id: NonZeroU16) -> bool {
        let of = match self {
            Self::Publish(p) => (p.qos, p.packet_id),
            Self::Oversize(o) => (o.qos, o.packet_id),
            Self::Release(_) => return false,
        };
        of == (qos, Some(id))
    }
}

/// What is wrong with the topic of a publish.
enum Unfit {
    /// It is longer or deeper than may be.
    Bound(BadTopic),
    /// It ends the connection.
    Fatal(CloseReason),
}

impl From<BadTopic> for Unfit {
    fn from(bad: BadTopic) -> Self {
        if bad.is_bound() { Self::Bound(bad) } else { Self::Fatal(CloseReason::TopicName) }
    }
}

/// A SUBSCRIBE or UNSUBSCRIBE that the application has not answered.
enum Asked {
    /// What SUBACK says, filter by filter, and which of these the application decides: where in `granted`, and whether the
    /// client held the filter before.
    Subscribe { packet_id: NonZeroU16, granted: Vec<Granted>, taken: Vec<(usize, Filter, bool)> },
    /// Of each filter, whether the client held it.
    Unsubscribe { packet_id: NonZeroU16, held: Vec<bool> },
}

impl Asked {
    fn cost_bytes(&self) -> usize {
        QUEUED_OVERHEAD_BYTES
            + match self {
                Self::Subscribe { granted, taken, .. } => {
                    granted.len() + taken.iter().map(|(_, f, _)| f.as_str().len() + 32).sum::<usize>()
                }
                Self::Unsubscribe { held, .. } => held.len(),
            }
    }
}

/// A connection that ends once its client has the answers that it is owed.
struct SentAway {
    /// The servers to use instead (MQTT 5).
    reference: Option<ByteString>,
    /// When it ends in any case.
    until_ms: u64,
}

/// The core of one connection. Times are milliseconds of any clock that never goes back.
pub struct Connection {
    limits: ConnectionLimits,
    phase: Phase,
    wire: Wire,
    input: BytesMut,
    output: BytesMut,
    /// The last token that was given.
    token: u64,
    owed: Answers,
    parked: VecDeque<Parked>,
    parked_bytes: usize,
    /// By the token of the event that asked.
    asked: BTreeMap<u64, Asked>,
    asked_bytes: usize,
    /// The last token of these that was given.
    asked_token: u64,
    /// QoS 2 publishes that were taken and not released.
    unreleased: HashSet<NonZeroU16>,
    /// By alias - 1: the topic, and which bound it exceeds.
    aliases: Vec<Option<(ByteString, Option<BadTopic>)>>,
    filters: Filters,
    will: Option<Will>,
    window: Window,
    /// Set when it differs from what the client asked for.
    server_keepalive_s: Option<u16>,
    /// Its client id, given or assigned, and its version, once CONNECT came.
    client: Option<(ByteString, Version)>,
    /// The session expiry that CONNECT asked for.
    expiry_s: u32,
    keepalive_ms: u64,
    heard_ms: u64,
    since_ms: u64,
    paused: bool,
    held: bool,
    loan: Loan,
    /// The length of the packet that has begun to come, if there is room for all of it.
    claimed_bytes: usize,
    /// A PUBLISH that is too large, while its payload comes.
    discarding: Option<Discarding>,
    /// Of the client, and for it.
    publishes: (u64, u64),
    sent_away: Option<Box<SentAway>>,
    /// Why it is over.
    ended: Option<CloseReason>,
    culprit: Option<Culprit>,
}

impl Connection {
    /// A connection on which no CONNECT has come yet.
    pub fn new(limits: ConnectionLimits, now_ms: u64) -> Self {
        Self {
            limits,
            phase: Phase::Fresh,
            wire: Wire::new(&limits),
            input: BytesMut::new(),
            output: BytesMut::new(),
            token: 0,
            owed: Answers::default(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            asked: BTreeMap::new(),
            asked_bytes: 0,
            asked_token: 0,
            unreleased: HashSet::new(),
            aliases: Vec::new(),
            filters: Filters::default(),
            will: None,
            window: Window::new(&limits),
            server_keepalive_s: None,
            client: None,
            expiry_s: 0,
            keepalive_ms: 0,
            heard_ms: now_ms,
            since_ms: now_ms,
            paused: false,
            held: false,
            loan: Loan::default(),
            claimed_bytes: 0,
            discarding: None,
            publishes: (0, 0),
            sent_away: None,
            ended: None,
            culprit: None,
        }
    }

    /// The buffer for bytes from the client; then call [`Connection::received`].
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Bytes for the client, to be taken from the front.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Whether it is over: what is left in [`Connection::output`] is the last.
    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// What it will be over for, if it is known from outside.
    pub fn blame(&mut self, culprit: Option<Culprit>) {
        if culprit.is_some() {
            self.culprit = culprit;
        }
    }

    /// Why it is over, if it is.
    pub fn ended(&self) -> Option<CloseReason> {
        self.ended
    }

    /// The packet for which it is over, if it is one.
    pub fn culprit(&self) -> Option<&Culprit> {
        self.culprit.as_ref()
    }

    /// The client id (given or assigned) and the version, once CONNECT came.
    pub fn client(&self) -> Option<(ByteString, Version)> {
        self.client.clone()
    }

    /// How many publishes came from the client, and went to it.
    pub fn publishes(&self) -> (u64, u64) {
        self.publishes
    }

    /// Whether bytes may be appended; if not, the socket must be left unread.
    pub fn wants_input(&self) -> bool {
        self.most_input_bytes() > 0
            && match self.phase {
                Phase::Closed => false,
                Phase::Fresh => true,
                Phase::Waiting => self.input.len() < MAX_READ_BYTES,
                Phase::Open => !self.is_pressed(),
            }
    }

    /// How much may be read at most, as far as credit goes.
    pub fn most_input_bytes(&self) -> usize {
        if self.loan.left_bytes.is_none() {
            return usize::MAX;
        }
        let own = RESERVE_BYTES.saturating_sub(self.input.len() + self.parked_bytes + self.asked_bytes);
        own.max(self.claimed_bytes.saturating_sub(self.input.len()))
    }

    /// Sets what this connection may take of what all connections share; [`Connection::progress`] then continues.
    pub fn lend(&mut self, loan: Loan) {
        self.loan = loan;
    }

    /// What is held here beyond what is its own: read, or about to be, and not handed up.
    pub fn charged_bytes(&self) -> usize {
        let held = self.input.len().max(self.claimed_bytes) + self.parked_bytes + self.asked_bytes;
        held.saturating_sub(RESERVE_BYTES)
    }

    /// Takes room for the packet that has begun to come, if there is room.
    fn claim(&mut self) {
        let most = self.limits.max_packet_bytes as usize;
        let packet = wire::packet_bytes(&self.input).map_or(0, |bytes| bytes.min(most));
        if self.discarding.is_some() || packet <= self.input.len() {
            self.claimed_bytes = 0;
        } else if self.claimed_bytes < packet {
            let is_room = self.loan.left_bytes.is_none_or(|left| packet <= left);
            self.claimed_bytes = if is_room { packet } else { 0 };
        }
    }

    /// Whether parsing rests until the application answers or the client reads.
    fn is_pressed(&self) -> bool {
        self.parked_bytes + self.asked_bytes >= self.limits.parked_bytes.max(1)
            || self.output.len() >= MAX_OUTPUT_BYTES
    }

    /// Bytes were appended to [`Connection::input`].
    pub fn received(&mut self, now_ms: u64, events: &mut Vec<Inbound>) {
        self.heard_ms = now_ms;
        self.progress(now_ms, events);
    }

    /// Goes on where it rested. To be called after output was taken.
    pub fn progress(&mut self, now_ms: u64, events: &mut Vec<Inbound>) {
        self.unpark(events);
        while matches!(self.phase, Phase::Fresh | Phase::Open) && !self.is_pressed() && !self.input.is_empty()
        {
            if !self.discard(events) {
                break;
            }
            match self.wire.decode(&mut self.input, &mut self.output) {
                Ok(None) => break,
                Ok(Some(packet)) => self.take(packet, now_ms, events),
                Err(CloseReason::PacketTooLarge) => {
                    if !self.too_large(events) {
                        break;
                    }
                }
                Err(reason) => self.close(reason, events),
            }
        }
        self.claim();
        let pause = !self.wants_input();
        if self.paused && !pause {
            self.heard_ms = now_ms;
        }
        self.paused = pause;
    }

    /// The application answers. `answers` is emptied.
    pub fn answer(&mut self, now_ms: u64, answers: &mut Vec<Answer>, events: &mut Vec<Inbound>) {
        for answer in answers.drain(..) {
            match answer {
                Answer::Ack(ack) => self.owed.note(ack),
                Answer::Accept(accept) => self.accept(*accept, now_ms, events),
                Answer::Refuse(refusal) => self.refuse(refusal, events),
                Answer::Subscribed { token, refused } => self.subscribed(token, &refused, events),
                Answer::Unsubscribed { token } => self.subscribed(token, &[], events),
            }
        }
        self.settle(events);
        self.progress(now_ms, events);
        self.leave(now_ms, events);
    }

    /// Sends the client to other servers: at once if its CONNECT is not answered yet, otherwise after the answers that it is
    /// owed. `reference` names them, separated by spaces; only MQTT 5 clients see it.
    pub fn send_away(&mut self, now_ms: u64, reference: Option<ByteString>, events: &mut Vec<Inbound>) {
        if self.sent_away.is_some() || self.is_closed() {
            return;
        }
        self.sent_away =
            Some(Box::new(SentAway { reference, until_ms: now_ms.saturating_add(SEND_AWAY_WAIT_MS) }));
        match self.phase {
            Phase::Fresh | Phase::Waiting => self.refuse(Refusal::UseAnotherServer, events),
            Phase::Open | Phase::Closed => self.leave(now_ms, events),
        }
    }

    /// Ends the connection of a client that is sent away, if nothing is owed to it, or it has waited for too long.
    fn leave(&mut self, now_ms: u64, events: &mut Vec<Inbound>) {
        let Some(sent_away) = self.sent_away.as_ref().filter(|_| self.phase == Phase::Open) else { return };
        let is_owed = self.owed.len() > 0 || !self.asked.is_empty();
        if !is_owed || now_ms >= sent_away.until_ms {
            self.close(CloseReason::UseAnotherServer, events);
        }
    }

    /// Whether to park publishes for now, as if the window were full; [`Connection::progress`] continues with them later.
    pub fn hold(&mut self, hold: bool) {
        self.held = hold;
    }

    /// Whether it rests for what no answer to its client will tell of: it is to be asked again.
    pub fn holds_back(&self) -> bool {
        let is_short = self.most_input_bytes() == 0 && self.phase != Phase::Closed;
        let is_unanswered = self.owed.len() == 0 && self.loan.held_bytes > 0;
        is_short || (!self.parked.is_empty() && (self.held || is_unanswered))
    }

    /// Whether a delivery of this QoS can be taken now.
    pub fn can_deliver(&self, qos: QoS) -> bool {
        self.phase == Phase::Open && self.output.len() < MAX_OUTPUT_BYTES && self.window.has_room(qos)
    }

    /// Sends a delivery; only when [`Connection::can_deliver`]. One that is larger than the client takes is left out,
    /// as the standard wants it. False: it was left out.
    pub fn deliver(&mut self, delivery: Delivery) -> bool {
        let packet_id = (delivery.qos != QoS::AtMostOnce).then(|| self.window.packet_id());
        let sent = self.wire.put_delivery(&mut self.output, &delivery, packet_id);
        self.publishes.1 += u64::from(sent);
        if let Some(packet_id) = packet_id.filter(|_| sent) {
            self.window.sent(packet_id, delivery);
        }
        sent
    }

    /// When [`Connection::tick`] has something to do, if nothing happens before.
    pub fn deadline_ms(&self) -> Option<u64> {
        match self.phase {
            Phase::Fresh | Phase::Waiting => Some(self.since_ms.saturating_add(self.limits.connect_wait_ms)),
            Phase::Open => {
                let leaves_ms = self.sent_away.as_ref().map(|sent_away| sent_away.until_ms);
                self.silent_ms().into_iter().chain(leaves_ms).min()
            }
            Phase::Closed => None,
        }
    }

    /// When an open connection has been silent for too long.
    fn silent_ms(&self) -> Option<u64> {
        let watched = self.keepalive_ms > 0 && !self.paused;
        watched.then(|| self.heard_ms.saturating_add(self.keepalive_ms))
    }

    /// Lets time pass: closes a connection that is silent, or without CONNECT, for too long.
    pub fn tick(&mut self, now_ms: u64, events: &mut Vec<Inbound>) {
        if self.deadline_ms().is_none_or(|at| now_ms < at) {
            return;
        }
        match self.phase {
            Phase::Fresh => self.close(CloseReason::NoConnect, events),
            Phase::Waiting => self.refuse(Refusal::Unavailable, events),
            Phase::Open if self.silent_ms().is_some_and(|at| now_ms >= at) => {
                self.close(CloseReason::KeepAlive, events);
            }
            Phase::Open | Phase::Closed => self.leave(now_ms, events),
        }
    }

    /// Ends it, telling the client why where its version can.
    pub fn close(&mut self, reason: CloseReason, events: &mut Vec<Inbound>) {
        let is_elsewhere =
            matches!(reason, CloseReason::UseAnotherServer | CloseReason::Refused(Refusal::UseAnotherServer));
        let reference = self.sent_away.take().filter(|_| is_elsewhere).and_then(|s| s.reference);
        match (self.phase, reason) {
            (Phase::Open, _) => self.wire.put_disconnect(&mut self.output, reason, reference),
            (Phase::Fresh | Phase::Waiting, CloseReason::Refused(refusal)) => {
                self.wire.put_refusal(&mut self.output, refusal, reference);
            }
            (Phase::Waiting, CloseReason::Gone) => {}
            (Phase::Waiting, _) => self.wire.put_refusal(&mut self.output, Refusal::Unavailable, None),
            (Phase::Fresh | Phase::Closed, _) => {}
        }
        self.end(reason, None, events);
    }

    fn end(&mut self, reason: CloseReason, expiry_s: Option<u32>, events: &mut Vec<Inbound>) {
        use CloseReason::{Disconnected, DisconnectedWithWill, Gone, UseAnotherServer};
        let left = self.phase == Phase::Open
            && matches!(reason, Disconnected | DisconnectedWithWill | Gone | UseAnotherServer);
        let once = |p: &Parked| match p {
            Parked::Publish(p) => p.qos == QoS::AtMostOnce,
            Parked::Oversize(o) => o.qos == QoS::AtMostOnce,
            Parked::Release(_) => false,
        };
        for parked in std::mem::take(&mut self.parked).into_iter().filter(|p| left && once(p)) {
            self.hand_up(parked, events);
        }
        self.ended.get_or_insert(reason);
        let before = std::mem::replace(&mut self.phase, Phase::Closed);
        self.input = BytesMut::new();
        (self.parked_bytes, self.claimed_bytes) = (0, 0);
        self.asked.clear();
        self.asked_bytes = 0;
        if matches!(before, Phase::Waiting | Phase::Open) {
            let will = self.will.take().filter(|_| before == Phase::Open && reason != Disconnected);
            let undelivered = self.window.take();
            events.push(Inbound::Closed(Box::new(Closed { reason, will, expiry_s, undelivered })));
        }
    }

    fn take(&mut self, packet: Packet, now_ms: u64, events: &mut Vec<Inbound>) {
        if let (Phase::Fresh, false) = (self.phase, matches!(packet, Packet::Connect(..))) {
            return self.close(CloseReason::Protocol("the first packet is not CONNECT"), events);
        }
        let sent = match packet {
            Packet::Connect(connect, outbound) => {
                self.connect(*connect, &outbound, now_ms, events);
                true
            }
            Packet::Publish(publish) => {
                self.publish(*publish, events);
                true
            }
            Packet::Release(packet_id) => {
                self.release(packet_id, events);
                true
            }
            Packet::Acked(packet_id) => {
                self.window.acked(packet_id);
                true
            }
            Packet::Subscribe { packet_id, filters, identified } => {
                self.subscribe(packet_id, &filters, identified, events)
            }
            Packet::Unsubscribe { packet_id, filters } => self.unsubscribe(packet_id, &filters, events),
            Packet::Ping => self.wire.put_pong(&mut self.output),
            Packet::Disconnect { expiry_s: Some(1..), .. } if self.expiry_s == 0 => {
                let what = "DISCONNECT gives an expiry to a session that CONNECT gave none";
                self.close(CloseReason::Protocol(what), events);
                true
            }
            Packet::Disconnect { with_will, expiry_s } => {
                let reason = match with_will {
                    true => CloseReason::DisconnectedWithWill,
                    false => CloseReason::Disconnected,
                };
                self.end(reason, expiry_s, events);
                true
            }
            Packet::Misplaced(what) => {
                self.close(CloseReason::Protocol(what), events);
                true
            }
        };
        if !sent {
            self.close(CloseReason::Protocol("its maximum packet size leaves no room for an answer"), events);
        }
    }

    fn connect(&mut self, mut connect: Connect, out: &Outbound, now_ms: u64, events: &mut Vec<Inbound>) {
        if self.phase != Phase::Fresh {
            return self.close(CloseReason::Protocol("a second CONNECT"), events);
        }
        self.wire.packet_bytes = out.packet_bytes;
        self.window.max_entries = self.window.max_entries.min(usize::from(out.window_entries));
        if out.auth {
            return self.refuse(Refusal::AuthMethod, events);
        }
        if connect.client_id.len() > MAX_CLIENT_ID_BYTES || connect.client_id.contains('\0') {
            return self.refuse(Refusal::ClientId, events);
        }
        if connect.will.as_ref().is_some_and(|w| topic::check_name(&w.topic).is_err()) {
            return self.close(CloseReason::TopicName, events);
        }
        let cap_s = self.limits.max_keepalive_s;
        if cap_s > 0 && !(1..=cap_s).contains(&connect.keepalive_s) {
            connect.keepalive_s = cap_s;
            self.server_keepalive_s = Some(cap_s).filter(|_| self.wire.is_v5());
        }
        self.keepalive_ms = u64::from(connect.keepalive_s) * 1500;
        self.will = connect.will.clone();
        self.client = Some((connect.client_id.clone(), connect.version));
        self.expiry_s = connect.expiry_s;
        self.phase = Phase::Waiting;
        self.since_ms = now_ms;
        events.push(Inbound::Connect(Box::new(connect)));
    }

    fn accept(&mut self, accept: Accept, now_ms: u64, events: &mut Vec<Inbound>) {
        if self.phase != Phase::Waiting {
            return;
        }
        if let Some((client_id, version)) = self.client.as_mut().filter(|(id, _)| id.is_empty()) {
            match &accept.assigned_client_id {
                Some(assigned) => *client_id = assigned.clone(),
                None if *version == Version::V5 => return self.refuse(Refusal::ClientId, events),
                None => {}
            }
        }
        if !self.wire.put_accept(&mut self.output, &self.limits, &accept, self.server_keepalive_s) {
            return self.end(CloseReason::PacketTooLarge, None, events);
        }
        self.filters = Filters::restored(accept.subscriptions.into_iter().map(|s| s.filter));
        self.phase = Phase::Open;
        self.heard_ms = now_ms;
    }

    fn refuse(&mut self, refusal: Refusal, events: &mut Vec<Inbound>) {
        if matches!(self.phase, Phase::Fresh | Phase::Waiting) {
            self.close(CloseReason::Refused(refusal), events);
        }
    }

    /// Handles a packet larger than the limit. Returns false if it needs more bytes to decide what to do with it.
    fn too_large(&mut self, events: &mut Vec<Inbound>) -> bool {
        match self.wire.discard(&mut self.input) {
            Some(Ok(None)) => return false,
            Some(Ok(discarding)) => {
                self.publishes.0 += 1;
                self.discarding = discarding;
                return self.discard(events);
            }
            other => {
                self.culprit = wire::culprit(&self.input);
                let reason = other.and_then(Result::err).unwrap_or(CloseReason::PacketTooLarge);
                self.close(reason, events);
            }
        }
        true
    }

    /// Goes on with a PUBLISH that is too large, if there is one. False: there is more of it to come.
    fn discard(&mut self, events: &mut Vec<Inbound>) -> bool {
        let Some(mut discarding) = self.discarding.take() else { return true };
        if !discarding.discard(&mut self.input) {
            self.discarding = Some(discarding);
            return false;
        }
        self.numbered(Parked::Oversize(discarding.into_publish()), events);
        true
    }

    fn publish(&mut self, publish: types::Publish, events: &mut Vec<Inbound>) {
        self.publishes.0 += 1;
        let alias = publish.properties.as_ref().and_then(|p| p.topic_alias);
        let (qos, dup, packet_id, payload) =
            (wire::decoded(publish.qos), publish.dup, publish.packet_id, publish.payload);
        let parked = match self.resolve(publish.topic, alias) {
            Ok(topic) => {
                Parked::Publish(Publish { token: 0, topic, payload, qos, dup, retain: false, packet_id })
            }
            Err((Unfit::Bound(bad), topic)) => {
                let why = match bad {
                    BadTopic::TooDeep => TooLarge::TopicLevels,
                    _ => TooLarge::TopicBytes(topic.len()),
                };
                let (topic, payload_bytes) = (shown(&topic), payload.len() as u64);
                Parked::Oversize(Box::new(Oversize {
                    token: 0,
                    topic,
                    payload_bytes,
                    qos,
                    dup,
                    packet_id,
                    why,
                }))
            }
            Err((Unfit::Fatal(reason), topic)) => {
                self.culprit = Some(Culprit::new(&topic, (topic.len() + payload.len()) as u64));
                return self.close(reason, events);
            }
        };
        self.numbered(parked, events);
    }

    /// A publish goes up, unless it came before under its packet id.
    fn numbered(&mut self, parked: Parked, events: &mut Vec<Inbound>) {
        let (qos, dup, packet_id) = match &parked {
            Parked::Publish(p) => (p.qos, p.dup, p.packet_id),
            Parked::Oversize(o) => (o.qos, o.dup, o.packet_id),
            Parked::Release(_) => (QoS::AtMostOnce, false, None),
        };
        match (qos, packet_id) {
            (QoS::AtLeastOnce, Some(id)) if dup && self.is_pending(id) => return,
            (QoS::ExactlyOnce, Some(id)) if !self.unreleased.insert(id) => return self.again(id, events),
            _ => {}
        }
        self.park(parked, events);
    }

    /// The topic name, from the alias if there is none; notes the alias if there are both. What is wrong comes with the topic.
    fn resolve(
        &mut self,
        topic: ByteString,
        alias: Option<NonZeroU16>,
    ) -> Result<ByteString, (Unfit, ByteString)> {
        let at = match alias {
            Some(alias) if alias.get() > self.limits.topic_alias_entries => {
                return Err((Unfit::Fatal(CloseReason::TopicAlias), topic));
            }
            Some(alias) => usize::from(alias.get()) - 1,
            None => {
                return match topic::check_name(&topic) {
                    Ok(()) => Ok(topic),
                    Err(bad) => Err((bad.into(), topic)),
                };
            }
        };
        if topic.is_empty() {
            return match self.aliases.get(at).and_then(Option::as_ref) {
                Some((known, None)) => Ok(known.clone()),
                Some((known, Some(bad))) => Err((Unfit::Bound(*bad), known.clone())),
                None => Err((Unfit::Fatal(CloseReason::TopicAlias), topic)),
            };
        }
        let bad = match topic::check_name(&topic).map_err(Unfit::from) {
            Ok(()) => None,
            Err(Unfit::Bound(bad)) => Some(bad),
            Err(fatal) => return Err((fatal, topic)),
        };
        if self.aliases.len() <= at {
            self.aliases.resize(at + 1, None);
        }
        // A copy, so that the alias does not keep a read buffer alive.
        let own = shown(&topic);
        if let Some(slot) = self.aliases.get_mut(at) {
            *slot = Some((own.clone(), bad));
        }
        match bad {
            None => Ok(own),
            Some(bad) => Err((Unfit::Bound(bad), topic)),
        }
    }

    /// Whether a QoS 1 publish with this id is unanswered. Only asked for DUP, so a walk is cheap enough.
    fn is_pending(&self, id: NonZeroU16) -> bool {
        self.owed.owes(id, ReplyKind::Ack) || self.parked.iter().any(|p| p.publishes(QoS::AtLeastOnce, id))
    }

    /// A QoS 2 publish came again: PUBREC once more, unless it is owed anyway.
    fn again(&mut self, id: NonZeroU16, events: &mut Vec<Inbound>) {
        let is_parked = self.parked.iter().any(|p| p.publishes(QoS::ExactlyOnce, id));
        if self.owed.owes(id, ReplyKind::Received) || is_parked {
            return;
        }
        self.token += 1;
        self.owed.owe(self.token, id, ReplyKind::Received, 0, true);
        self.settle(events);
    }

    fn release(&mut self, id: NonZeroU16, events: &mut Vec<Inbound>) {
        let parked = |p: &Parked| matches!(p, Parked::Release(other) if *other == id);
        if !self.owed.owes(id, ReplyKind::Complete) && !self.parked.iter().any(parked) {
            self.park(Parked::Release(id), events);
        }
    }

    /// Hands it up, or parks it when the window is full or others wait before it.
    fn park(&mut self, parked: Parked, events: &mut Vec<Inbound>) {
        if self.parked.is_empty() && self.has_room() {
            return self.hand_up(parked, events);
        }
        self.parked_bytes += parked.cost_bytes();
        self.parked.push_back(parked);
    }

    fn unpark(&mut self, events: &mut Vec<Inbound>) {
        while self.has_room()
            && let Some(parked) = self.parked.pop_front()
        {
            self.parked_bytes = self.parked_bytes.saturating_sub(parked.cost_bytes());
            self.hand_up(parked, events);
        }
    }

    fn has_room(&self) -> bool {
        let most = self.limits.max_inflight_bytes.max(1);
        let most = if self.loan.left_bytes.is_some() { most.min(RESERVE_BYTES) } else { most };
        !self.held
            && self.sent_away.is_none()
            && self.owed.len() < usize::from(self.limits.max_inflight_entries.max(1))
            && self.owed.bytes().max(self.loan.held_bytes) < most
    }

    fn hand_up(&mut self, parked: Parked, events: &mut Vec<Inbound>) {
        self.token += 1;
        let token = self.token;
        let kind = |qos| if qos == QoS::ExactlyOnce { ReplyKind::Received } else { ReplyKind::Ack };
        match parked {
            Parked::Publish(publish) => {
                if let Some(id) = publish.packet_id {
                    let bytes = publish.topic.len() + publish.payload.len();
                    self.owed.owe(token, id, kind(publish.qos), bytes, false);
                }
                events.push(Inbound::Publish(Publish { token, ..publish }));
            }
            Parked::Oversize(mut oversize) => {
                if let Some(id) = oversize.packet_id {
                    self.owed.owe(token, id, kind(oversize.qos), oversize.topic.len(), false);
                }
                oversize.token = token;
                events.push(Inbound::Oversize(oversize));
            }
            Parked::Release(packet_id) => {
                self.owed.owe(token, packet_id, ReplyKind::Complete, 0, false);
                events.push(Inbound::Release { token, packet_id });
            }
        }
    }

    /// Sends what may leave.
    fn settle(&mut self, events: &mut Vec<Inbound>) {
        while let Some(owed) = self.owed.pop_done() {
            if self.phase != Phase::Open {
                continue;
            }
            let id = owed.packet_id;
            let sent = match owed.kind {
                ReplyKind::Ack => self.wire.put_ack(&mut self.output, id, false, owed.code, owed.note),
                ReplyKind::Received => {
                    // A failure ends the exchange: there will be no PUBREL. MQTT 3 can't be told of one.
                    if owed.code.is_failure() && self.wire.is_v5() {
                        self.unreleased.remove(&id);
                    }
                    self.wire.put_ack(&mut self.output, id, true, owed.code, owed.note)
                }
                ReplyKind::Complete => {
                    self.unreleased.remove(&id);
                    self.wire.put_complete(&mut self.output, id)
                }
            };
            if !sent {
                let what = "its maximum packet size leaves no room for an acknowledgement";
                self.close(CloseReason::Protocol(what), events);
            }
        }
    }

    fn subscribe(
        &mut self,
        packet_id: NonZeroU16,
        filters: &[(ByteString, QoS, bool)],
        identified: bool,
        events: &mut Vec<Inbound>,
    ) -> bool {
        let mut taken = Vec::new();
        let mut subscriptions = Vec::new();
        let mut granted = Vec::with_capacity(filters.len());
        for (text, qos, no_local) in filters {
            let grant = match Filter::new(text) {
                Err(BadTopic::Shared) => Granted::Shared,
                Err(_) => Granted::BadFilter,
                Ok(_) if identified => Granted::Identified,
                Ok(filter) => match self.filters.add(&filter) {
                    None => Granted::Quota,
                    Some(new) => {
                        let qos = QoS::AtLeastOnce.min(*qos);
                        taken.push((granted.len(), filter.clone(), !new));
                        subscriptions.push(Subscription { filter, qos, no_local: *no_local });
                        Granted::Qos(qos)
                    }
                },
            };
            granted.push(grant);
        }
        if subscriptions.is_empty() {
            return self.wire.put_subscribed(&mut self.output, packet_id, &granted);
        }
        let token = self.ask(Asked::Subscribe { packet_id, granted, taken });
        events.push(Inbound::Subscribe { token, subscriptions });
        true
    }

    fn unsubscribe(
        &mut self,
        packet_id: NonZeroU16,
        filters: &[ByteString],
        events: &mut Vec<Inbound>,
    ) -> bool {
        let mut gone = Vec::new();
        let mut held = Vec::with_capacity(filters.len());
        for text in filters {
            let found = self.filters.take(text);
            held.push(found.is_some());
            gone.extend(found);
        }
        if gone.is_empty() {
            return self.wire.put_unsubscribed(&mut self.output, packet_id, &held);
        }
        let token = self.ask(Asked::Unsubscribe { packet_id, held });
        events.push(Inbound::Unsubscribe { token, filters: gone });
        true
    }

    fn ask(&mut self, asked: Asked) -> u64 {
        self.asked_token += 1;
        self.asked_bytes += asked.cost_bytes();
        self.asked.insert(self.asked_token, asked);
        self.asked_token
    }

    /// The application has decided on a SUBSCRIBE or UNSUBSCRIBE.
    fn subscribed(&mut self, token: u64, refused: &[usize], events: &mut Vec<Inbound>) {
        let Some(asked) = self.asked.remove(&token) else { return };
        self.asked_bytes = self.asked_bytes.saturating_sub(asked.cost_bytes());
        let sent = match asked {
            Asked::Subscribe { packet_id, mut granted, taken } => {
                for (at, filter, held) in refused.iter().filter_map(|i| taken.get(*i)) {
                    if let Some(grant) = granted.get_mut(*at) {
                        *grant = Granted::Quota;
                    }
                    if !held && !self.is_asked(filter) {
                        self.filters.take(filter.as_str());
                    }
                }
                self.wire.put_subscribed(&mut self.output, packet_id, &granted)
            }
            Asked::Unsubscribe { packet_id, held } => {
                self.wire.put_unsubscribed(&mut self.output, packet_id, &held)
            }
        };
        if !sent {
            self.close(CloseReason::Protocol("its maximum packet size leaves no room for an answer"), events);
        }
    }

    /// Whether a SUBSCRIBE that is not answered names the filter.
    fn is_asked(&self, filter: &Filter) -> bool {
        let names = |asked: &Asked| matches!(asked, Asked::Subscribe { taken, .. } if taken.iter().any(|(_, f, _)| f == filter));
        self.asked.values().any(names)
    }
}
