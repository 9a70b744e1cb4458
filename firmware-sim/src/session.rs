//! The MQTT side of a device: which publishes are unacknowledged, under which packet ids, and when to
//! connect again and where.
//!
//! **Protocol.** A message enters a bounded queue with [`Session::offer`] and leaves it only when a gateway
//! has acknowledged it (PUBACK, or PUBREC followed by PUBCOMP) or has said that its payload is unreadable.
//! At most `in_flight` messages are on the wire at once. When a connection ends in whatever way, the next
//! gateway of a seeded order is tried after a growing, jittered wait, and everything unacknowledged is sent
//! again in its old order:
//! - in a *clean* session under new packet ids, without DUP: the payload's sequence number tells the
//!   readings apart;
//! - in a *persistent* one under the same packet id, with the same bytes and DUP set (MQTT 3.1.1 section
//!   4.4, MQTT 5 section 4.4): the session tells them apart.
//!
//! The first connection of a persistent session discards whatever an earlier run left under its client id.
//! MQTT 5 can do so and keep the new session; 3.1.1 needs a clean connection before the real one.
//!
//! A version-5 refusal (reason 0x80 and up) frees the packet id; the message stays and is sent again, as a
//! new publish, after a wait. "Payload format invalid" (0x99) is final: the message is quarantined there.
//! A gateway that is silent for too long, to a ping or to a publish, is left for the next one.
//!
//! A gateway that says "use another server" (0x9C, version 5) may name others: these are tried first, in its order, and after them
//! the known ones again, that gateway among them. The session stays as it is: what is unacknowledged is sent again.
//!
//! Invariant: a message leaves the queue only by an acknowledgement, a PUBCOMP or a 0x99.
//! Invariant: two messages in the queue never share a packet id, and a packet id that a persistent session
//! has sent stays with its message until that is acknowledged, refused or the session is gone.
//! Invariant: nothing is sent that was offered [`SPAN_ENTRIES`] or more after the oldest in the queue.
//! Invariant: messages are sent for the first time in the order in which they were offered.
//!
//! **Limits.** `queue` messages, `in_flight` of them on the wire (fewer if the gateway says so); [`MAX_NAMED_ENTRIES`] servers that
//! a gateway names.
//! **Left out.** Subscriptions, wills, topic aliases, QoS 0 beyond sending once.

use std::collections::{BTreeSet, VecDeque};

/// The first wait before a new connection; doubled on each failure in a row.
pub const BACKOFF_FIRST_MS: u64 = 50;
/// The longest such wait.
pub const BACKOFF_MAX_MS: u64 = 2_000;
/// How long a message rests after a gateway refused it.
pub const REFUSED_REST_MS: u64 = 500;
/// How long a connection may take until it is accepted.
pub const CONNECT_PATIENCE_MS: u64 = 10_000;
/// How long the oldest publish on the wire may wait before another gateway is tried.
pub const ACK_PATIENCE_MS: u64 = 20_000;
/// The keepalive that is announced; a ping goes out after half of it in which nothing was sent.
pub const KEEPALIVE_S: u16 = 10;
/// The most messages on the wire that a session may be configured for.
pub const MAX_IN_FLIGHT_ENTRIES: usize = 10_000;

/// How far the newest message on the wire may be ahead of the oldest unacknowledged one, counted in messages
/// offered: a gateway tells resends of numbered readings apart only within a bounded span (1,024 numbers).
pub const SPAN_ENTRIES: u64 = 1_000;

/// The most servers of one reference that are tried.
pub const MAX_NAMED_ENTRIES: usize = 8;

/// MQTT 5 reason "payload format invalid".
pub const REASON_PAYLOAD_FORMAT: u8 = 0x99;

/// How a device speaks MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Version 5 (else 3.1.1).
    pub v5: bool,
    /// 0, 1 or 2.
    pub qos: u8,
    /// The session outlives its connections.
    pub persistent: bool,
}

/// What a session is set up with.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    pub manner: Manner,
    /// How many gateways it knows (at least 1).
    pub gateways: usize,
    /// The most messages in the queue.
    pub queue_entries: usize,
    /// The most of them on the wire.
    pub in_flight_entries: usize,
    /// For the order of gateways and the jitter of waits.
    pub seed: u64,
}

/// One message to publish, with whatever its maker wants to be told about it (`T`).
#[derive(Debug, Clone, PartialEq)]
pub struct Message<T> {
    pub topic: String,
    pub payload: Vec<u8>,
    /// Given back in [`Effect::Published`] and its like.
    pub tag: T,
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Nothing but time has passed: timers may be due.
    Tick,
    /// The gateway accepted the connection.
    Connected {
        /// The gateway continues a stored session.
        present: bool,
        /// The gateway's Receive Maximum: publishes that may be unacknowledged at a time.
        receive_max: u16,
    },
    /// The connection could not be made, was refused, or has ended.
    Lost,
    /// The gateway has refused or ended the connection, and wants these servers to be used.
    SentAway(Vec<Server>),
    /// PUBACK; the reason is 0 in version 3.1.1.
    PubAck(u16, u8),
    PubRec(u16, u8),
    PubComp(u16),
    Pong,
    /// Leave this connection; `abandon`: without a word and without closing it at once.
    Break {
        /// Not even the TCP connection is closed at first.
        abandon: bool,
    },
    /// Say goodbye and don't connect again.
    Stop,
}

/// A server to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// One of the gateways that the device knows, by its place among them.
    Known(usize),
    /// Another one that a gateway named: host and port.
    Named(String),
}

/// A packet to send.
#[derive(Debug, Clone, PartialEq)]
pub enum Out {
    Publish {
        /// 0 at QoS 0.
        packet_id: u16,
        /// Sent before under this id.
        dup: bool,
        topic: String,
        payload: Vec<u8>,
    },
    Release(u16),
    Ping,
    Disconnect,
}

/// What a session wants done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect<T> {
    /// Open a connection and tell of it with [`Event::Connected`], [`Event::SentAway`] or [`Event::Lost`].
    Connect {
        to: Server,
        /// Clean session, or clean start.
        clean: bool,
    },
    /// Send this on the connection.
    Send(Out),
    /// Drop the connection (and expect nothing more from it).
    Close {
        /// Keep the dead connection open for a while instead of closing it.
        abandon: bool,
    },
    /// The message was sent for the first time.
    Published(T),
    /// A gateway has it.
    Acked(T),
    /// A gateway can't read its payload and has set it aside.
    Quarantined(T),
}

/// Counters of one session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionStats {
    pub connects: u64,
    /// Connections that failed or ended unasked.
    pub losses: u64,
    /// Connections that a gateway refused or ended to have another server used.
    pub sent_away: u64,
    pub resends: u64,
    /// Publishes refused with a reason of 0x80 and up, without 0x99.
    pub refusals: u64,
    /// Persistent sessions that the gateway did not know any more.
    pub sessions_gone: u64,
}

#[derive(Debug)]
struct Entry<T> {
    message: Message<T>,
    /// Its number among all that were offered.
    number: u64,
    /// Set once sent, until acknowledged or refused or the session is new.
    packet_id: Option<u16>,
    received: bool,
    /// The number of the connection it was last sent on; 0: none.
    sent_on: u64,
    /// When it was sent there.
    sent_at: u64,
    published: bool,
    /// Not to be sent before.
    not_before: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Waiting { until: u64 },
    Connecting { since: u64 },
    Up { receive_max: usize, last_sent: u64, ping_since: Option<u64> },
    Stopped,
}

/// The core. Times are milliseconds on any clock that does not go back.
#[derive(Debug)]
pub struct Session<T> {
    settings: SessionSettings,
    rng: fastrand::Rng,
    order: Vec<usize>,
    turn: usize,
    /// The servers that a gateway has named and that are not tried yet.
    named: VecDeque<Server>,
    /// The server that is used or tried.
    at: Option<Server>,
    failures: u32,
    link: Link,
    /// Number of the current connection.
    connection: u64,
    /// Nothing of an earlier run is left under our client id.
    fresh: bool,
    queue: VecDeque<Entry<T>>,
    offered: u64,
    ids: BTreeSet<u16>,
    next_id: u16,
    on_wire: usize,
    /// All entries before this index are on the wire.
    unsent_from: usize,
    stats: SessionStats,
}

impl<T: Clone> Session<T> {
    /// A session that will connect at its first step.
    pub fn new(settings: SessionSettings) -> Self {
        let mut rng = fastrand::Rng::with_seed(settings.seed);
        let mut order: Vec<usize> = (0..settings.gateways.max(1)).collect();
        rng.shuffle(&mut order);
        Self {
            fresh: !settings.manner.persistent,
            settings,
            rng,
            order,
            turn: 0,
            named: VecDeque::new(),
            at: None,
            failures: 0,
            link: Link::Waiting { until: 0 },
            connection: 0,
            queue: VecDeque::new(),
            offered: 0,
            ids: BTreeSet::new(),
            next_id: 0,
            on_wire: 0,
            unsent_from: 0,
            stats: SessionStats::default(),
        }
    }

    /// How many more messages the queue takes.
    pub fn room(&self) -> usize {
        self.settings.queue_entries.saturating_sub(self.queue.len())
    }

    /// How many messages are unacknowledged, sent or not.
    pub fn pending(&self) -> usize {
        self.queue.len()
    }

    /// Something is not acknowledged yet. (What is only to be released, at QoS 2, is.)
    pub fn waits(&self) -> bool {
        self.queue.iter().any(|e| !e.received)
    }

    /// The known gateway that it uses or tries.
    pub fn gateway(&self) -> Option<usize> {
        match (&self.at, self.link) {
            (Some(Server::Known(gateway)), Link::Up { .. } | Link::Connecting { .. }) => Some(*gateway),
            _ => None,
        }
    }

    /// Whether a gateway has accepted the connection (CONNACK).
    pub fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    /// What the session has counted since it was made.
    pub fn stats(&self) -> SessionStats {
        self.stats
    }

    /// Puts a message at the end of the queue; gives it back when that is full.
    ///
    /// # Errors
    /// The message, when there is no room.
    pub fn offer(&mut self, message: Message<T>) -> Result<(), Message<T>> {
        if self.room() == 0 {
            return Err(message);
        }
        self.offered += 1;
        self.queue.push_back(Entry {
            message,
            number: self.offered,
            packet_id: None,
            received: false,
            sent_on: 0,
            sent_at: 0,
            published: false,
            not_before: 0,
        });
        Ok(())
    }

    /// When the session next wants a [`Event::Tick`], if nothing else happens before.
    pub fn wake_at(&self) -> Option<u64> {
        match self.link {
            Link::Waiting { until } => Some(until),
            Link::Connecting { since } => Some(since.saturating_add(CONNECT_PATIENCE_MS)),
            Link::Stopped => None,
            Link::Up { last_sent, ping_since, receive_max } => {
                let ping = match ping_since {
                    None => last_sent.saturating_add(ping_after_ms()),
                    Some(at) => at.saturating_add(2 * ping_after_ms()),
                };
                let on_wire = |e: &&Entry<T>| e.sent_on == self.connection;
                let oldest = self.queue.front().filter(on_wire);
                let ack = oldest.map_or(u64::MAX, |e| e.sent_at.saturating_add(ACK_PATIENCE_MS));
                let resting = self.queue.get(self.unsent_from).map_or(0, |e| e.not_before);
                let may_send = resting > 0 && self.on_wire < self.limit(receive_max);
                Some(ping.min(ack).min(if may_send { resting } else { u64::MAX }))
            }
        }
    }

    /// One step; the effects are appended to `out`.
    pub fn step(&mut self, now: u64, event: Event, out: &mut Vec<Effect<T>>) {
        match event {
            Event::Tick => {}
            Event::Connected { present, receive_max } => self.connected(now, present, receive_max, out),
            Event::Lost => self.lost(now),
            Event::SentAway(servers) => self.sent_away(now, servers),
            Event::PubAck(id, reason) => self.acked(now, id, reason, out),
            Event::PubRec(id, reason) => self.received(now, id, reason, out),
            Event::PubComp(id) => self.completed(id),
            Event::Pong => {
                if let Link::Up { ping_since, .. } = &mut self.link {
                    *ping_since = None;
                }
            }
            Event::Break { abandon } => {
                if self.is_up() {
                    self.leave(now, abandon, out);
                }
            }
            Event::Stop => {
                if self.is_up() {
                    out.push(Effect::Send(Out::Disconnect));
                }
                out.push(Effect::Close { abandon: false });
                self.link = Link::Stopped;
            }
        }
        self.turn_link(now, out);
        self.pump(now, out);
    }

    fn connected(&mut self, now: u64, present: bool, receive_max: u16, out: &mut Vec<Effect<T>>) {
        if !matches!(self.link, Link::Connecting { .. }) {
            return;
        }
        if !self.fresh {
            self.fresh = true;
            if !self.settings.manner.v5 {
                out.push(Effect::Send(Out::Disconnect));
                out.push(Effect::Close { abandon: false });
                self.link = Link::Waiting { until: now };
                return;
            }
        }
        self.stats.connects += 1;
        self.connection += 1;
        self.failures = 0;
        self.named.clear();
        self.on_wire = 0;
        self.unsent_from = 0;
        self.link =
            Link::Up { receive_max: usize::from(receive_max.max(1)), last_sent: now, ping_since: None };
        if !(present && self.settings.manner.persistent) {
            if self.settings.manner.persistent && self.queue.iter().any(|e| e.packet_id.is_some()) {
                self.stats.sessions_gone += 1;
            }
            self.queue.retain(|e| !e.received);
            self.queue.iter_mut().for_each(|e| e.packet_id = None);
            self.ids.clear();
        }
    }

    fn lost(&mut self, now: u64) {
        if matches!(self.link, Link::Stopped | Link::Waiting { .. }) {
            return;
        }
        self.stats.losses += 1;
        self.wait(now);
    }

    fn sent_away(&mut self, now: u64, servers: Vec<Server>) {
        if matches!(self.link, Link::Stopped | Link::Waiting { .. }) {
            return;
        }
        self.stats.sent_away += 1;
        // A server that has been named sends us on: its list replaces the one that is being tried.
        self.named = servers.into_iter().take(MAX_NAMED_ENTRIES).collect();
        self.wait(now);
    }

    /// Waits, longer after each failure in a row, and then tries the next server: of those that a gateway has named, or of the
    /// known ones.
    fn wait(&mut self, now: u64) {
        let span = BACKOFF_FIRST_MS.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_MAX_MS);
        self.failures = self.failures.saturating_add(1);
        // Where named servers led nowhere, the known ones go on in their order.
        if self.named.is_empty() {
            self.turn = (self.turn + 1) % self.order.len();
        }
        self.link = Link::Waiting { until: now.saturating_add(self.rng.u64(span / 2..=span)) };
    }

    fn leave(&mut self, now: u64, abandon: bool, out: &mut Vec<Effect<T>>) {
        out.push(Effect::Close { abandon });
        self.wait(now);
    }

    fn position(&self, id: u16) -> Option<usize> {
        self.queue.iter().position(|e| e.packet_id == Some(id) && e.sent_on == self.connection)
    }

    fn remove(&mut self, at: usize) -> Option<Entry<T>> {
        let entry = self.queue.remove(at)?;
        if let Some(id) = entry.packet_id {
            self.ids.remove(&id);
        }
        self.on_wire = self.on_wire.saturating_sub(1);
        if at < self.unsent_from {
            self.unsent_from -= 1;
        }
        Some(entry)
    }

    /// A refusal: the packet id is free, the message rests and is sent again as a new one.
    fn refused(&mut self, now: u64, at: usize, reason: u8, out: &mut Vec<Effect<T>>) {
        if reason == REASON_PAYLOAD_FORMAT {
            if let Some(entry) = self.remove(at) {
                out.push(Effect::Quarantined(entry.message.tag));
            }
            return;
        }
        self.stats.refusals += 1;
        self.on_wire = self.on_wire.saturating_sub(1);
        self.unsent_from = self.unsent_from.min(at);
        let Some(entry) = self.queue.get_mut(at) else { return };
        if let Some(id) = entry.packet_id.take() {
            self.ids.remove(&id);
        }
        entry.sent_on = 0;
        entry.not_before = now.saturating_add(REFUSED_REST_MS);
    }

    fn acked(&mut self, now: u64, id: u16, reason: u8, out: &mut Vec<Effect<T>>) {
        let Some(at) = self.position(id) else { return };
        if self.settings.manner.qos != 1 {
            return;
        }
        if reason >= 0x80 {
            self.refused(now, at, reason, out);
        } else if let Some(entry) = self.remove(at) {
            out.push(Effect::Acked(entry.message.tag));
        }
    }

    fn received(&mut self, now: u64, id: u16, reason: u8, out: &mut Vec<Effect<T>>) {
        let Some(at) = self.position(id) else { return };
        if self.settings.manner.qos != 2 {
            return;
        }
        if reason >= 0x80 {
            return self.refused(now, at, reason, out);
        }
        let Some(entry) = self.queue.get_mut(at) else { return };
        entry.sent_at = now;
        if !entry.received {
            entry.received = true;
            out.push(Effect::Acked(entry.message.tag.clone()));
        }
        self.send(now, Out::Release(id), out);
    }

    fn completed(&mut self, id: u16) {
        if let Some(at) = self.position(id)
            && self.queue.get(at).is_some_and(|e| e.received)
        {
            self.remove(at);
        }
    }

    fn send(&mut self, now: u64, packet: Out, out: &mut Vec<Effect<T>>) {
        if let Link::Up { last_sent, .. } = &mut self.link {
            *last_sent = now;
            out.push(Effect::Send(packet));
        }
    }

    /// Connects when it is time to, and leaves a gateway that is silent.
    fn turn_link(&mut self, now: u64, out: &mut Vec<Effect<T>>) {
        match self.link {
            Link::Waiting { until } if until <= now => {
                let known = || Server::Known(self.order.get(self.turn).copied().unwrap_or(0));
                let to = self.named.pop_front().unwrap_or_else(known);
                self.at = Some(to.clone());
                let clean = !self.settings.manner.persistent || !self.fresh;
                self.link = Link::Connecting { since: now };
                out.push(Effect::Connect { to, clean });
            }
            Link::Connecting { since } if since.saturating_add(CONNECT_PATIENCE_MS) <= now => {
                self.stats.losses += 1;
                self.leave(now, false, out);
            }
            Link::Up { last_sent, ping_since, receive_max } => {
                let late = |at: u64, patience: u64| at.saturating_add(patience) <= now;
                let oldest = self.queue.front().filter(|e| e.sent_on == self.connection);
                let unanswered = ping_since.is_some_and(|at| late(at, 2 * ping_after_ms()));
                if unanswered || oldest.is_some_and(|e| late(e.sent_at, ACK_PATIENCE_MS)) {
                    self.stats.losses += 1;
                    return self.leave(now, false, out);
                }
                if ping_since.is_none() && late(last_sent, ping_after_ms()) {
                    self.link = Link::Up { receive_max, last_sent: now, ping_since: Some(now) };
                    out.push(Effect::Send(Out::Ping));
                }
            }
            _ => {}
        }
    }

    /// Sends what may be sent.
    fn pump(&mut self, now: u64, out: &mut Vec<Effect<T>>) {
        let Link::Up { receive_max, .. } = self.link else { return };
        let limit = self.limit(receive_max);
        let mut at = self.unsent_from;
        let mut skipped = false;
        let end = self.queue.front().map_or(0, |e| e.number.saturating_add(SPAN_ENTRIES));
        while at < self.queue.len() && self.on_wire < limit {
            let id = self.free_id();
            let (persistent, qos) = (self.settings.manner.persistent, self.settings.manner.qos);
            let Some(entry) = self.queue.get_mut(at) else { break };
            if entry.number >= end {
                break;
            }
            let resting = entry.not_before > now;
            if entry.sent_on == self.connection || resting {
                skipped |= resting;
                at += 1;
                if !skipped {
                    self.unsent_from = at;
                }
                continue;
            }
            if entry.published && !entry.received {
                self.stats.resends += 1;
            }
            let dup = persistent && entry.packet_id.is_some();
            let packet_id = if qos == 0 { 0 } else { *entry.packet_id.get_or_insert(id) };
            if packet_id == id {
                self.next_id = id;
            }
            entry.sent_on = self.connection;
            entry.sent_at = now;
            let first = !std::mem::replace(&mut entry.published, true);
            let tag = first.then(|| entry.message.tag.clone());
            let packet = if entry.received {
                Out::Release(packet_id)
            } else {
                let (topic, payload) = (entry.message.topic.clone(), entry.message.payload.clone());
                Out::Publish { packet_id, dup, topic, payload }
            };
            out.extend(tag.map(Effect::Published));
            self.send(now, packet, out);
            if qos == 0 {
                self.queue.remove(at);
                continue;
            }
            self.ids.insert(packet_id);
            self.on_wire += 1;
            at += 1;
            if !skipped {
                self.unsent_from = at;
            }
        }
    }

    fn limit(&self, receive_max: usize) -> usize {
        self.settings.in_flight_entries.clamp(1, MAX_IN_FLIGHT_ENTRIES).min(receive_max)
    }

    /// A packet id that no message in the queue has. There are more ids than a queue may hold on the wire.
    fn free_id(&mut self) -> u16 {
        let mut id = self.next_id;
        loop {
            id = id.checked_add(1).unwrap_or(1);
            if !self.ids.contains(&id) {
                break;
            }
        }
        id
    }
}

fn ping_after_ms() -> u64 {
    u64::from(KEEPALIVE_S) * 1_000 / 2
}
