//! The decisions of the task around one connection, without its socket: when the application receives events, when answers and
//! deliveries are fetched, how much may be read by the available credit, and what to wait for.
//!
//! ```text
//!           +-- exchange() -- write what is in output() -- go_on() --+
//!           |        \                                       |        |  (it gives none: again at once)
//!           |         over: end(), write the rest            |        |
//!           +--- received(), tick(), written(), a call ---<- wait <---+
//! ```
//!
//! The owner of the socket ([`super::listener`], or a simulation) follows that circle and decides nothing itself: it writes,
//! waits for one of the things in [`Wait`] or for a call of the [`Handle`], and reads.
//!
//! Invariant: the attendant asks for credit before each read; credit from before a connection became idle does not count.
//! Invariant: the application receives no event of a connection after [`Inbound::Closed`], and after that exactly one departure.
//! Invariant: a publisher waits for a subscriber that is behind for [`FOLLOW_MS`] at a time at most.

use super::connection::Connection;
use super::credit::{Charge, CreditPool};
use super::departure::{Departure, Traffic};
use super::handle::{Behind, FOLLOW_MS, Handle};
use super::outgoing::Pool;
use super::seats::{Seat, Seats};
use super::{ConnectionLimits, ListenerConfig, MAX_OUTPUT_BYTES, MAX_READ_BYTES};
use bytes::{Buf, BytesMut};
use selvedge_types::canary::{self, Canary};
use selvedge_types::mqtt::QoS;
use selvedge_types::mqtt::{Answer, CloseReason, Inbound};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The smallest read, and the first.
pub(super) const MIN_READ_BYTES: usize = 4 * 1024;

/// How often a connection asks whether publishes are still to be kept back.
const HOLD_LOOK_MS: u64 = 50;

/// What a program does with MQTT.
pub trait Application: Send + Sync + 'static {
    /// What one client sent: all events of one read, in order. The application takes what it wants out of `events`;
    /// what it leaves is dropped.
    ///
    /// Called from the connection's task, so it must not block: no IO, no lock that is held for long. Answers go
    /// through `connection`, from here or from anywhere later.
    fn inbound(&self, connection: &Arc<Handle>, events: &mut Vec<Inbound>);

    /// Whether connections are to keep publishes back for now, within their bounds: there is too much to do. Asked
    /// often.
    fn holds_publishes(&self) -> bool {
        false
    }

    /// What its connections may hold together: asked once.
    fn credit(&self) -> Arc<CreditPool> {
        Arc::default()
    }

    /// A connection has ended, or was refused, also one that never said CONNECT. Comes after its last event.
    fn departed(&self, departure: &Departure);
}

/// What the connections of one listener share, and who lets them in.
pub struct Reception {
    app: Arc<dyn Application>,
    limits: ConnectionLimits,
    seats: Arc<Seats>,
    pool: Arc<Pool>,
    credit: Arc<CreditPool>,
    last_id: u64,
}

impl Reception {
    /// A reception that has not accepted any connection yet.
    pub fn new(app: Arc<dyn Application>, config: &ListenerConfig) -> Self {
        let (seats, pool, credit) = (Seats::new(config), Arc::default(), app.credit());
        Self { app, limits: config.limits, seats, pool, credit, last_id: 0 }
    }

    /// A client has connected. None: there is no seat for it, which the application has been told.
    pub fn receive(&mut self, peer: SocketAddr, now_ms: u64) -> Option<Attendant> {
        self.last_id += 1;
        let handle = Arc::new(Handle::new(self.last_id, peer, &self.limits, self.pool.clone()));
        let seat = match self.seats.take(&handle) {
            Ok(seat) => seat,
            Err(reason) => {
                self.app.departed(&Departure::refused(peer, reason));
                return None;
            }
        };
        Some(Attendant {
            app: self.app.clone(),
            handle,
            core: Connection::new(self.limits, now_ms),
            charge: Charge::new(self.credit.clone()),
            seat,
            traffic: Traffic::default(),
            follows_since_ms: None,
            more: false,
            events: Vec::new(),
            answers: Vec::new(),
            read_bytes: MIN_READ_BYTES,
            blocked_ms: None,
            write_stall_ms: self.limits.write_stall_ms,
            begun_ms: now_ms,
        })
    }
}

/// What to wait for, besides a call of the handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Bytes of the client.
    pub reads: bool,
    /// Room for bytes to it.
    pub writes: bool,
    /// The time at which [`Attendant::tick`] has something to do.
    pub until_ms: Option<u64>,
}

/// Attends to one connection. Times are milliseconds of any clock that never goes back.
pub struct Attendant {
    app: Arc<dyn Application>,
    handle: Arc<Handle>,
    core: Connection,
    charge: Charge,
    seat: Seat,
    traffic: Traffic,
    /// Since when it keeps publishes back because a subscriber of what it publishes is behind.
    follows_since_ms: Option<u64>,
    /// Deliveries wait until more is written.
    more: bool,
    events: Vec<Inbound>,
    answers: Vec<Answer>,
    /// How much is read at once.
    read_bytes: usize,
    /// Since when the socket takes nothing of what is to be written.
    blocked_ms: Option<u64>,
    write_stall_ms: u64,
    begun_ms: u64,
}

impl Attendant {
    /// The application's end of the connection.
    pub fn handle(&self) -> &Arc<Handle> {
        &self.handle
    }

    /// Whether the application has called since this was asked last: for those who don't wait for [`Handle`] as a task
    /// does.
    pub fn was_called(&self) -> bool {
        pin!(self.handle.arrived.notified()).as_mut().enable()
    }

    /// Hands events up and takes what the application says, which at once is part of the same write. False: it is over;
    /// what is left is [`Attendant::end`].
    pub fn exchange(&mut self, now_ms: u64) -> bool {
        self.hand_up();
        self.take_mail(now_ms);
        !self.core.is_closed()
    }

    /// Bytes for the client. Those that were written are to be told to [`Attendant::written`], but for the last ones,
    /// after [`Attendant::end`].
    pub fn output(&mut self) -> &mut BytesMut {
        self.core.output()
    }

    /// Notes that the first `bytes` of the output were written.
    pub fn written(&mut self, bytes: usize) {
        self.core.output().advance(bytes);
        self.traffic.bytes_out += bytes as u64;
        self.blocked_ms = None;
        // Give large buffers back.
        if self.core.output().is_empty() && self.core.output().capacity() > MAX_READ_BYTES {
            *self.core.output() = BytesMut::new();
        }
    }

    /// The socket takes no more for now.
    pub fn blocked(&mut self, now_ms: u64) {
        self.blocked_ms.get_or_insert(now_ms);
    }

    /// The socket can't be written to any more: the connection is over, and nothing is left to be written.
    pub fn broken(&mut self) {
        self.core.output().clear();
        self.core.close(CloseReason::Gone, &mut self.events);
        self.core.output().clear();
    }

    /// Goes on where it rested, once what can be is written. None: there is more to exchange before anything is waited
    /// for.
    pub fn go_on(&mut self, now_ms: u64) -> Option<Wait> {
        self.note_traffic();
        self.core.hold(self.follows_since_ms.is_some() || self.app.holds_publishes());
        self.borrow();
        self.core.progress(now_ms, &mut self.events);
        self.charge.set(self.core.charged_bytes());
        let again = self.more && self.core.output().len() < MAX_OUTPUT_BYTES;
        if again || !self.events.is_empty() || self.core.is_closed() {
            return None;
        }
        let held_ms = self.core.holds_back().then(|| now_ms + HOLD_LOOK_MS);
        let until_ms = self.core.deadline_ms().into_iter().chain(self.stall_ms()).chain(held_ms).min();
        if self.core.input().is_empty() {
            // Who waits holds no buffer; and what was read is mostly in use, so that another is needed anyway.
            *self.core.input() = BytesMut::new();
        }
        Some(Wait { reads: self.core.wants_input(), writes: !self.core.output().is_empty(), until_ms })
    }

    /// How many bytes are to be read at once, by the credit there is now; others may have taken some while this one
    /// waited.
    pub fn most_read_bytes(&mut self) -> usize {
        if !canary::makes(Canary::CreditOfThen) {
            self.borrow();
        }
        self.read_bytes.min(self.core.most_input_bytes())
    }

    /// The buffer to read into; then call [`Attendant::received`].
    pub fn input(&mut self) -> &mut BytesMut {
        self.core.input()
    }

    /// Handles bytes that were appended to the input.
    pub fn received(&mut self, bytes: usize, now_ms: u64) {
        self.traffic.bytes_in += bytes as u64;
        self.read_bytes = match bytes >= self.read_bytes {
            true => (self.read_bytes * 2).min(MAX_READ_BYTES),
            false => (self.read_bytes / 2).max(MIN_READ_BYTES),
        };
        self.core.received(now_ms, &mut self.events);
    }

    /// Lets time pass: the connection's timers, and a subscriber that has taken nothing for too long.
    pub fn tick(&mut self, now_ms: u64) {
        self.core.tick(now_ms, &mut self.events);
        if self.stall_ms().is_some_and(|at| now_ms >= at) {
            self.core.close(CloseReason::SlowConsumer, &mut self.events);
        }
    }

    /// Ends it, telling the client why where its version can.
    pub fn close(&mut self, reason: CloseReason) {
        self.core.close(reason, &mut self.events);
    }

    /// The connection is over: hands the last events up and tells of the departure. What is in the output then is the
    /// last. True: the client was told something, so that it should be given time to read it.
    pub fn end(&mut self, now_ms: u64) -> bool {
        self.hand_up();
        self.charge.set(0);
        self.handle.mail().closed = true;
        self.depart(now_ms);
        self.traffic.bytes_out > 0 || !self.core.output().is_empty()
    }

    /// Takes note of what credit there is now.
    fn borrow(&mut self) {
        self.core.lend(self.charge.pool().lend(self.handle.held_bytes()));
    }

    /// When a write that makes no progress has lasted too long.
    fn stall_ms(&self) -> Option<u64> {
        Some(self.blocked_ms?.saturating_add(self.write_stall_ms))
    }

    /// Hands the events up; with the last, what was never sent.
    fn hand_up(&mut self) {
        if self.events.is_empty() {
            return;
        }
        if let Some(Inbound::Connect(_)) = self.events.first() {
            self.seat.keep();
        }
        if let Some(Inbound::Closed(closed)) = self.events.last_mut() {
            let mut mail = self.handle.mail();
            mail.closed = true;
            mail.waits_for = None;
            mail.answers = Vec::new();
            while let Some(delivery) = mail.deliveries.pop() {
                if delivery.qos != QoS::AtMostOnce {
                    closed.undelivered.push(delivery);
                }
            }
            self.handle.note_behind(&mail);
        }
        self.app.inbound(&self.handle, &mut self.events);
        self.events.clear();
    }

    /// Takes answers and deliveries, and perhaps the wish to close.
    fn take_mail(&mut self, now_ms: u64) {
        let mut mail = self.handle.mail();
        std::mem::swap(&mut mail.answers, &mut self.answers);
        let close = mail.close;
        if !self.answers.is_empty() {
            drop(mail);
            self.core.answer(now_ms, &mut self.answers, &mut self.events);
            mail = self.handle.mail();
        }
        while let Some(qos) = mail.deliveries.front().map(|d| d.qos)
            && self.core.can_deliver(qos)
            && let Some(delivery) = mail.deliveries.pop()
        {
            if !self.core.deliver(delivery) {
                self.handle.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.handle.note_behind(&mail);
        // It is counted from when it begins to keep publishes back.
        let since_ms = *self.follows_since_ms.get_or_insert(now_ms);
        let is_over = |behind: &Behind| !behind.get() || now_ms.saturating_sub(since_ms) >= FOLLOW_MS;
        if mail.waits_for.as_ref().is_none_or(is_over) {
            mail.waits_for = None;
            self.follows_since_ms = None;
        }
        self.more = mail.deliveries.front().is_some() && self.core.output().len() >= MAX_OUTPUT_BYTES;
        let culprit = mail.culprit.take();
        let away = mail.away.clone();
        drop(mail);
        if let Some(reference) = away {
            self.core.send_away(now_ms, reference, &mut self.events);
        }
        if let Some(reason) = close {
            self.core.blame(culprit);
            self.core.close(reason, &mut self.events);
        }
    }

    /// Tells of the connection's end.
    fn depart(&mut self, now_ms: u64) {
        self.note_traffic();
        let (client_id, version) = self.core.client().unzip();
        self.app.departed(&Departure {
            peer: self.handle.peer_addr(),
            client_id,
            version,
            reason: self.core.ended().unwrap_or(CloseReason::Gone),
            culprit: self.core.culprit().cloned().map(Box::new),
            lasted_ms: now_ms.saturating_sub(self.begun_ms),
            traffic: self.traffic,
        });
    }

    fn note_traffic(&mut self) {
        (self.traffic.publishes_in, self.traffic.publishes_out) = self.core.publishes();
        self.handle.note_traffic(self.traffic);
    }
}
