//! Sockets around [`super::connection`]: one listener, one task a connection.
//!
//! A task reads much at once, hands the application all events of one read in one call, takes all answers that have
//! gathered from one place, and writes everything that is due in one write. There is no await, no message and no lock
//! for a single publish.
//!
//! A connection that is idle holds no read buffer; one that is busy reads into buffers that double up to
//! [`MAX_READ_BYTES`]. Publishes keep what was read alive until they are answered, so that little is read into a buffer of the
//! thread, and kept in as many bytes as it has.
//!
//! Invariant: a task never waits for the application, and an application that calls a [`Handle`] waits at most while
//! its task copies [`super::MAX_OUTPUT_BYTES`] in memory.
//! Invariant: every wait for a client is bounded: for CONNECT, between packets (keep alive), for a write.

use super::connection::Connection;
use super::credit::{Charge, CreditPool};
use super::departure::{Departure, Traffic};
use super::event::{Answer, CloseReason, Inbound};
use super::handle::Handle;
use super::outgoing::Pool;
use super::seats::{Seat, Seats};
use super::{Limits, MAX_OUTPUT_BYTES, MAX_READ_BYTES};
use crate::log_limit::LogLimit;
use bytes::{Buf, BufMut};
use rmqtt_codec::types::QoS;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long to rest after accepting failed (no file handles are left, for example).
const ACCEPT_REST_MS: u64 = 100;

/// How long a closed connection waits for the client to close its end.
const LINGER_MS: u64 = 1000;

/// How often a connection asks whether publishes are still to be kept back.
const HOLD_LOOK_MS: u64 = 50;

/// The smallest read.
const MIN_READ_BYTES: usize = 4 * 1024;

/// How much may wait in the system for a connection to be accepted.
const BACKLOG_ENTRIES: u32 = 1024;

/// What a program does with MQTT.
pub trait Application: Send + Sync + 'static {
    /// What one client sent: all events of one read, in order. The application takes what it wants out of `events`;
    /// what it leaves is dropped.
    ///
    /// Called from the connection's task, so it must not block: no IO, no lock that is held for long. Answers go
    /// through `connection`, from here or from anywhere later.
    fn inbound(&self, connection: &Arc<Handle>, events: &mut Vec<Inbound>);

    /// Whether connections are to keep publishes back for now, within their bounds: there is too much to do. Asked often.
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

/// Where and how to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// The most connections at a time; a further one is closed as soon as it is accepted.
    pub max_connections: usize,
    /// The most connections of one client address at a time; see [`super::seats`] for what else bounds them.
    pub max_connections_per_address: usize,
    /// The bounds of each connection.
    pub limits: Limits,
}

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    config: ListenerConfig,
}

impl Listener {
    /// Binds the address. Within a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses the address.
    pub async fn bind(config: ListenerConfig) -> io::Result<Self> {
        let socket = match config.address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(config.address)?;
        Ok(Self { socket: socket.listen(BACKLOG_ENTRIES)?, config })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `shutdown` is true (or its sender is gone). Then it tells the clients, and returns when the last
    /// connection has ended, which takes at most `write_stall_ms` and a second.
    pub async fn run(self, app: Arc<dyn Application>, mut shutdown: watch::Receiver<bool>) {
        let start = Instant::now();
        let mut tasks = JoinSet::new();
        let mut next_id = 0;
        let seats = Seats::new(&self.config);
        let (pool, credit) = (Arc::<Pool>::default(), app.credit());
        let mut complaints = LogLimit::default();
        loop {
            let accepted = tokio::select! {
                _ = shutdown.wait_for(|&stop| stop) => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
                accepted = self.socket.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                // Most often no file handle is left, which is no reason to end: some connection will.
                Err(error) => {
                    if let Some(left_out) = complaints.note(since(start), "accept") {
                        tracing::warn!(%error, "can't accept an MQTT connection; resting {ACCEPT_REST_MS} ms{left_out}");
                    }
                    tokio::time::sleep(Duration::from_millis(ACCEPT_REST_MS)).await;
                    continue;
                }
            };
            next_id += 1;
            let handle = Arc::new(Handle::new(next_id, peer, &self.config.limits, pool.clone()));
            let seat = match seats.take(&handle) {
                Ok(seat) => seat,
                Err(reason) => {
                    app.departed(&Departure::refused(peer, reason));
                    continue;
                }
            };
            // Without it small answers wait for the client's acknowledgements; a socket that refuses it works too.
            let _ = stream.set_nodelay(true);
            let now_ms = since(start);
            let mut task = Box::new(Task {
                app: app.clone(),
                handle,
                stream,
                core: Connection::new(self.config.limits, now_ms),
                charge: Charge::new(credit.clone()),
                seat,
                traffic: Traffic::default(),
                waits: false,
                events: Vec::new(),
                answers: Vec::new(),
                read_bytes: MIN_READ_BYTES,
                blocked_ms: None,
                write_stall_ms: self.config.limits.write_stall_ms,
                begun_ms: now_ms,
                start,
            });
            let shutdown = shutdown.clone();
            tasks.spawn(async move {
                task.run(shutdown).await;
                // In a place of its own: an idle connection should not hold room for its end.
                Box::pin(task.finish()).await;
            });
        }
        drop(self.socket);
        while tasks.join_next().await.is_some() {}
    }
}

thread_local! {
    /// Where little is read into, before it gets a place of its own size.
    static READ: RefCell<[u8; MIN_READ_BYTES]> = const { RefCell::new([0; MIN_READ_BYTES]) };
}

fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// One connection's task.
struct Task {
    app: Arc<dyn Application>,
    handle: Arc<Handle>,
    stream: TcpStream,
    core: Connection,
    charge: Charge,
    seat: Seat,
    traffic: Traffic,
    /// A subscriber of what it publishes is behind.
    waits: bool,
    events: Vec<Inbound>,
    answers: Vec<Answer>,
    /// How much is read at once.
    read_bytes: usize,
    /// Since when the socket takes nothing of what is to be written.
    blocked_ms: Option<u64>,
    write_stall_ms: u64,
    begun_ms: u64,
    start: Instant,
}

impl Task {
    async fn run(&mut self, mut shutdown: watch::Receiver<bool>) {
        let sleep = tokio::time::sleep_until(self.start);
        tokio::pin!(sleep);
        let mut armed_ms = 0;
        loop {
            // What the application says at once is part of the same write.
            self.hand_up();
            let more = self.take_mail();
            if self.core.is_closed() || !self.write() {
                break;
            }
            self.note_traffic();
            let now_ms = self.now_ms();
            self.core.hold(self.waits || self.app.holds_publishes());
            self.borrow();
            self.core.progress(now_ms, &mut self.events);
            self.charge.set(self.core.charged_bytes());
            let again = more && self.core.output().len() < MAX_OUTPUT_BYTES;
            if again || !self.events.is_empty() || self.core.is_closed() {
                continue;
            }
            let writing = !self.core.output().is_empty();
            let reading = self.core.wants_input();
            let stall_ms = self.stall_ms();
            let held_ms = self.core.holds_back().then(|| now_ms + HOLD_LOOK_MS);
            let due_ms = self.core.deadline_ms().into_iter().chain(stall_ms).chain(held_ms).min();
            // The timer is moved only when it would be too late, or has run out: most deadlines move on unseen.
            if let Some(due_ms) = due_ms
                && (due_ms < armed_ms || armed_ms <= now_ms)
            {
                armed_ms = due_ms.max(now_ms + 1);
                sleep.as_mut().reset(self.start + Duration::from_millis(armed_ms.min(MAX_TIMER_MS)));
            }
            if self.core.input().is_empty() {
                // Who waits holds no buffer; and what was read is mostly in use, so that another is needed anyway.
                *self.core.input() = bytes::BytesMut::new();
            }
            tokio::select! {
                ready = ready(&self.stream, reading, writing) => match ready {
                    Ok(true) => self.read(),
                    Ok(false) => {}
                    Err(_) => self.core.close(CloseReason::Gone, &mut self.events),
                },
                () = self.handle.arrived.notified() => {}
                () = &mut sleep, if due_ms.is_some() => {
                    let now_ms = self.now_ms();
                    armed_ms = 0;
                    self.core.tick(now_ms, &mut self.events);
                    if self.stall_ms().is_some_and(|at| now_ms >= at) {
                        self.core.close(CloseReason::SlowConsumer, &mut self.events);
                    }
                }
                _ = shutdown.wait_for(|&stop| stop) => self.core.close(CloseReason::ShuttingDown, &mut self.events),
            }
        }
    }

    fn now_ms(&self) -> u64 {
        since(self.start)
    }

    /// Takes note of what credit there is now.
    fn borrow(&mut self) {
        self.core.lend(self.charge.pool().lend(self.handle.held_bytes()));
    }

    /// When a write that makes no progress has lasted too long.
    fn stall_ms(&self) -> Option<u64> {
        Some(self.blocked_ms?.saturating_add(self.write_stall_ms))
    }

    /// Reads what there is, once.
    fn read(&mut self) {
        self.borrow(); // others may have taken credit while this one waited
        let most = self.read_bytes.min(self.core.most_input_bytes());
        if most == 0 {
            return;
        }
        let (input, stream) = (self.core.input(), &self.stream);
        let read = match most > MIN_READ_BYTES {
            true => {
                input.reserve(most);
                stream.try_read_buf(&mut input.limit(most))
            }
            false => READ.with_borrow_mut(|buffer| {
                let read = stream.try_read(&mut buffer[..most])?;
                input.extend_from_slice(&buffer[..read]);
                Ok(read)
            }),
        };
        match read {
            Ok(0) => self.core.close(CloseReason::Gone, &mut self.events),
            Ok(read) => {
                self.traffic.bytes_in += read as u64;
                self.read_bytes = match read >= self.read_bytes {
                    true => (self.read_bytes * 2).min(MAX_READ_BYTES),
                    false => (self.read_bytes / 2).max(MIN_READ_BYTES),
                };
                let now_ms = self.now_ms();
                self.core.received(now_ms, &mut self.events);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.core.close(CloseReason::Gone, &mut self.events),
        }
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
            mail.waits_for_nobody();
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

    /// Takes answers and deliveries, and perhaps the wish to close. True: it left deliveries until more is written.
    fn take_mail(&mut self) -> bool {
        let mut mail = self.handle.mail();
        std::mem::swap(&mut mail.answers, &mut self.answers);
        let close = mail.close;
        if !self.answers.is_empty() {
            drop(mail);
            let now_ms = since(self.start);
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
        self.waits = mail.waits();
        let more = mail.deliveries.front().is_some() && self.core.output().len() >= MAX_OUTPUT_BYTES;
        let culprit = mail.culprit.take();
        drop(mail);
        if let Some(reason) = close {
            self.core.blame(culprit);
            self.core.close(reason, &mut self.events);
        }
        more
    }

    /// Writes what the socket takes. False: the connection is broken, and closed.
    fn write(&mut self) -> bool {
        if self.core.output().is_empty() {
            return true;
        }
        while !self.core.output().is_empty() {
            match self.stream.try_write(self.core.output()) {
                Ok(0) => break,
                Ok(written) => {
                    self.core.output().advance(written);
                    self.traffic.bytes_out += written as u64;
                    self.blocked_ms = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let now_ms = self.now_ms();
                    self.blocked_ms.get_or_insert(now_ms);
                    return true;
                }
                Err(_) => break,
            }
        }
        if self.core.output().is_empty() {
            // Give large buffers back.
            if self.core.output().capacity() > MAX_READ_BYTES {
                *self.core.output() = bytes::BytesMut::new();
            }
            return true;
        }
        self.core.output().clear();
        self.core.close(CloseReason::Gone, &mut self.events);
        self.core.output().clear();
        false
    }

    /// Tells of the connection's end.
    fn depart(&mut self) {
        self.note_traffic();
        let (client_id, version) = self.core.client().unzip();
        self.app.departed(&Departure {
            peer: self.handle.peer_addr(),
            client_id,
            version,
            reason: self.core.ended().unwrap_or(CloseReason::Gone),
            culprit: self.core.culprit().cloned().map(Box::new),
            lasted_ms: self.now_ms().saturating_sub(self.begun_ms),
            traffic: self.traffic,
        });
    }

    fn note_traffic(&mut self) {
        (self.traffic.publishes_in, self.traffic.publishes_out) = self.core.publishes();
        self.handle.note_traffic(self.traffic);
    }

    /// Hands the last events up and writes the last bytes, within `write_stall_ms`.
    async fn finish(&mut self) {
        self.hand_up();
        self.charge.set(0);
        self.handle.mail().closed = true;
        self.depart();
        let has_spoken = self.traffic.bytes_out > 0 || !self.core.output().is_empty();
        let last = async {
            while !self.core.output().is_empty() {
                self.stream.writable().await?;
                match self.stream.try_write(self.core.output()) {
                    Ok(0) => break,
                    Ok(written) => self.core.output().advance(written),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            self.stream.shutdown().await
        };
        let written = tokio::time::timeout(Duration::from_millis(self.write_stall_ms), last).await;
        // Closing with bytes unread would reset the connection, and take our last words from the client.
        let discard = async {
            let mut bytes = [0; 1024];
            while self.stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
        };
        if has_spoken && matches!(written, Ok(Ok(()))) {
            let _ = tokio::time::timeout(Duration::from_millis(LINGER_MS), discard).await;
        }
    }
}

/// Beyond this a timer is as good as none; it keeps arithmetic on instants in range.
const MAX_TIMER_MS: u64 = 10 * 365 * 86_400_000;

/// Waits until the socket can be read (true) or written (false), as far as that is wanted.
async fn ready(stream: &TcpStream, reading: bool, writing: bool) -> io::Result<bool> {
    let interest = match (reading, writing) {
        (true, true) => Interest::READABLE | Interest::WRITABLE,
        (true, false) => Interest::READABLE,
        (false, true) => Interest::WRITABLE,
        (false, false) => return std::future::pending().await,
    };
    let ready = stream.ready(interest).await?;
    Ok(reading && (ready.is_readable() || ready.is_read_closed()))
}
