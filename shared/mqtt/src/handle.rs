//! The application's end of one connection: its answers and deliveries go in, the connection's counters come out.

use super::ConnectionLimits;
use super::departure::{Culprit, Traffic};
use super::outgoing::{DeliveryQueue, Pool};
use bytestring::ByteString;
use selvedge_types::mqtt::QoS;
use selvedge_types::mqtt::{Answer, CloseReason, Delivery};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// How long a publisher waits at a time for a subscriber that is behind, in milliseconds.
pub const FOLLOW_MS: u64 = 1_000;

/// Why a delivery was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotDelivered {
    /// The queue's bound is reached. At QoS 0 the delivery is dropped and counted; at QoS 1 the connection closes.
    #[error("the subscriber is too slow: its delivery queue is full")]
    Full,
    /// The connection is over.
    #[error("the subscriber's connection is closed")]
    Closed,
}

/// A flag that says whether some subscriber is behind; publishers look at it before they continue.
#[derive(Debug, Clone, Default)]
pub struct Behind(Arc<AtomicBool>);

impl Behind {
    /// Whether a subscriber is behind at the moment.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes that a subscriber fell behind, or caught up.
    pub fn set(&self, behind: bool) {
        self.0.store(behind, Ordering::Relaxed);
    }
}

/// What waits for a connection's task.
#[derive(Debug)]
pub(super) struct Mail {
    pub answers: Vec<Answer>,
    pub deliveries: DeliveryQueue,
    pub close: Option<CloseReason>,
    /// The application sends the client to other servers, and perhaps names them.
    pub away: Option<Option<ByteString>>,
    /// What the connection is closed for.
    pub culprit: Option<Culprit>,
    pub closed: bool,
    /// A subscriber to this client's publishes that is behind.
    pub waits_for: Option<Behind>,
}

/// An application's end of one connection.
#[derive(Debug)]
pub struct Handle {
    id: u64,
    peer: SocketAddr,
    mail: Mutex<Mail>,
    pub(super) arrived: Notify,
    pub(super) dropped: AtomicU64,
    carried: [AtomicU64; 4],
    behind: Behind,
    held_bytes: AtomicUsize,
}

impl Handle {
    pub(super) fn new(id: u64, peer: SocketAddr, limits: &ConnectionLimits, pool: Arc<Pool>) -> Self {
        let mail = Mail {
            answers: Vec::new(),
            deliveries: DeliveryQueue::new(limits, pool),
            close: None,
            away: None,
            culprit: None,
            closed: false,
            waits_for: None,
        };
        Self {
            id,
            peer,
            mail: Mutex::new(mail),
            arrived: Notify::new(),
            dropped: AtomicU64::new(0),
            carried: Default::default(),
            behind: Behind::default(),
            held_bytes: AtomicUsize::new(0),
        }
    }

    /// A handle without a connection, for tests of applications: what it is told stays in it, for
    /// [`Handle::take_answers`] and [`Handle::take_deliveries`].
    pub fn detached(id: u64, limits: &ConnectionLimits) -> Arc<Self> {
        Arc::new(Self::new(id, SocketAddr::from(([127, 0, 0, 1], 0)), limits, Arc::default()))
    }

    /// Takes the answers that no task has taken yet.
    pub fn take_answers(&self) -> Vec<Answer> {
        std::mem::take(&mut self.mail().answers)
    }

    /// Takes the deliveries that no task has taken yet.
    pub fn take_deliveries(&self) -> Vec<Delivery> {
        let mut mail = self.mail();
        let taken = std::iter::from_fn(|| mail.deliveries.pop()).collect();
        self.note_behind(&mail);
        taken
    }

    /// Why the application has asked to close it.
    pub fn close_asked(&self) -> Option<CloseReason> {
        self.mail().close
    }

    /// Its number: unique in this listener, from 1.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The address and port that the client connected from.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// How many deliveries were dropped: at QoS 0 because the subscriber was behind, at any QoS because it accepts no packet so large.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// What the connection has carried so far.
    pub fn traffic(&self) -> Traffic {
        let [publishes_in, publishes_out, bytes_in, bytes_out] =
            self.carried.each_ref().map(|n| n.load(Ordering::Relaxed));
        Traffic { publishes_in, publishes_out, bytes_in, bytes_out }
    }

    /// Called by its task alone, once for all that one turn has carried.
    pub(super) fn note_traffic(&self, now: Traffic) {
        let now = [now.publishes_in, now.publishes_out, now.bytes_in, now.bytes_out];
        for (carried, now) in self.carried.iter().zip(now) {
            carried.store(now, Ordering::Relaxed);
        }
    }

    pub(super) fn mail(&self) -> MutexGuard<'_, Mail> {
        // Nothing in it is left half done by a panic: each section is a push or a take.
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one event; see [`Handle::answers`].
    pub fn answer(&self, answer: Answer) {
        self.answers([answer]);
    }

    /// Answers many at once. Each event is answered once, so what waits here is bounded by what was handed up.
    pub fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        let mut mail = self.mail();
        if mail.closed {
            return;
        }
        let first = mail.answers.is_empty();
        mail.answers.extend(answers);
        let wake = first && !mail.answers.is_empty();
        drop(mail);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// Queues a message for the client.
    ///
    /// # Errors
    /// When the queue is full or the connection is over; see [`NotDelivered`].
    pub fn deliver(&self, delivery: Delivery) -> Result<(), NotDelivered> {
        let mut mail = self.mail();
        if mail.closed || mail.close.is_some() {
            return Err(NotDelivered::Closed);
        }
        let taken = mail.deliveries.push(delivery);
        self.note_behind(&mail);
        let taken = match taken {
            Ok(()) => Ok(()),
            Err(dropped) if dropped.qos == QoS::AtMostOnce => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                return Err(NotDelivered::Full);
            }
            Err(first) => {
                mail.close = Some(CloseReason::SlowConsumer);
                mail.culprit = Some(Culprit::new(&first.topic, mail.deliveries.bytes() as u64));
                Err(NotDelivered::Full)
            }
        };
        drop(mail);
        self.arrived.notify_one();
        taken
    }

    /// Whether it does not follow: much of what may wait for it does.
    pub fn behind(&self) -> &Behind {
        &self.behind
    }

    /// To be called when something was queued or taken.
    pub(super) fn note_behind(&self, mail: &Mail) {
        let was = self.behind.get();
        let is = mail.deliveries.is_behind(was);
        if is != was {
            self.behind.set(is);
        }
    }

    /// The application holds so many bytes of what the client has published: further publishes are kept back while it is too much
    /// (see [`super::credit`]). An application that keeps none beyond its answers says nothing.
    pub fn note_held(&self, bytes: usize) {
        self.held_bytes.store(bytes, Ordering::Relaxed);
    }

    /// What the application holds of it, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// What the client publishes goes to somebody who is behind: further publishes are kept back until that is over, but for
    /// [`FOLLOW_MS`] at a time at most.
    pub fn wait_for(&self, behind: Behind) {
        self.mail().waits_for.get_or_insert(behind);
    }

    /// Sends the client to other servers: instead of an answer to its CONNECT, or later, once it has the answers that it is
    /// owed. `reference` names them in the form of MQTT 5, section 4.11: `host:port`, separated by spaces.
    /// [`Inbound::Closed`] follows.
    pub fn send_away(&self, reference: Option<ByteString>) {
        self.mail().away.get_or_insert(reference);
        self.arrived.notify_one();
    }

    /// Whether the application has asked to send it away, and where to, for tests of applications.
    pub fn away_asked(&self) -> Option<Option<ByteString>> {
        self.mail().away.clone()
    }

    /// Ends the connection, after the answers given so far. The first reason counts. [`Inbound::Closed`] follows.
    pub fn close(&self, reason: CloseReason) {
        self.mail().close.get_or_insert(reason);
        self.arrived.notify_one();
    }
}
