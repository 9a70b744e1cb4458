//! Sockets around [`super::attendant`]: one listener, one task a connection.
//!
//! A task reads much at once, has the application told all events of one read in one call, takes all answers that have
//! gathered from one place, and writes everything that is due in one write. There is no await, no message and no lock
//! for a single publish.
//!
//! A connection that is idle holds no read buffer; one that is busy reads into buffers that double up to
//! [`super::MAX_READ_BYTES`]. Publishes keep what was read alive until they are answered, so that little is read into a
//! buffer of the thread, and kept in as many bytes as it has.
//!
//! Invariant: a task never waits for the application, and an application that calls a [`Handle`] waits at most while
//! its task copies [`super::MAX_OUTPUT_BYTES`] in memory.
//! Invariant: every wait for a client is bounded: for CONNECT, between packets (keep alive), for a write.

use super::ListenerConfig;
use super::attendant::{Application, Attendant, MIN_READ_BYTES, Reception};
use bytes::{Buf, BufMut};
use selvedge_guard::log_limit::LogLimit;
use selvedge_types::mqtt::CloseReason;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
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

/// How much may wait in the system for a connection to be accepted.
const BACKLOG_ENTRIES: u32 = 1024;

/// A bound socket that does not accept connections yet.
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
        let mut reception = Reception::new(app, &self.config);
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
                        tracing::warn!(%error, "can't accept an MQTT connection; waiting {ACCEPT_REST_MS} ms{left_out}");
                    }
                    tokio::time::sleep(Duration::from_millis(ACCEPT_REST_MS)).await;
                    continue;
                }
            };
            let Some(attendant) = reception.receive(peer, since(start)) else { continue };
            // Without it small answers wait for the client's acknowledgements; a socket that refuses it works too.
            let _ = stream.set_nodelay(true);
            let write_stall_ms = self.config.limits.write_stall_ms;
            let mut task = Box::new(Task { attendant, stream, write_stall_ms, start });
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
    /// The thread's buffer for small reads, which are then copied into a buffer of their own size.
    static READ: RefCell<[u8; MIN_READ_BYTES]> = const { RefCell::new([0; MIN_READ_BYTES]) };
}

fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// One connection's task: what [`Attendant`] decides, it does.
struct Task {
    attendant: Attendant,
    stream: TcpStream,
    write_stall_ms: u64,
    start: Instant,
}

impl Task {
    async fn run(&mut self, mut shutdown: watch::Receiver<bool>) {
        let sleep = tokio::time::sleep_until(self.start);
        tokio::pin!(sleep);
        let mut armed_ms = 0;
        while self.attendant.exchange(since(self.start)) && self.write() {
            let now_ms = since(self.start);
            let Some(wait) = self.attendant.go_on(now_ms) else { continue };
            // The timer is moved only when it would be too late, or has run out: most deadlines move on unseen.
            if let Some(due_ms) = wait.until_ms
                && (due_ms < armed_ms || armed_ms <= now_ms)
            {
                armed_ms = due_ms.max(now_ms + 1);
                sleep.as_mut().reset(self.start + Duration::from_millis(armed_ms.min(MAX_TIMER_MS)));
            }
            tokio::select! {
                ready = ready(&self.stream, wait.reads, wait.writes) => match ready {
                    Ok(true) => self.read(),
                    Ok(false) => {}
                    Err(_) => self.attendant.close(CloseReason::Gone),
                },
                () = self.attendant.handle().arrived.notified() => {}
                () = &mut sleep, if wait.until_ms.is_some() => {
                    armed_ms = 0;
                    self.attendant.tick(since(self.start));
                }
                _ = shutdown.wait_for(|&stop| stop) => self.attendant.close(CloseReason::ShuttingDown),
            }
        }
    }

    /// Reads what there is, once.
    fn read(&mut self) {
        let most = self.attendant.most_read_bytes();
        if most == 0 {
            return;
        }
        let (input, stream) = (self.attendant.input(), &self.stream);
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
            Ok(0) => self.attendant.close(CloseReason::Gone),
            Ok(read) => self.attendant.received(read, since(self.start)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.attendant.close(CloseReason::Gone),
        }
    }

    /// Writes what the socket takes. False: the connection is broken, and closed.
    fn write(&mut self) -> bool {
        while !self.attendant.output().is_empty() {
            match self.stream.try_write(self.attendant.output()) {
                Ok(written @ 1..) => self.attendant.written(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.attendant.blocked(since(self.start));
                    return true;
                }
                Ok(0) | Err(_) => {
                    self.attendant.broken();
                    return false;
                }
            }
        }
        true
    }

    /// Hands the last events up and writes the last bytes, within `write_stall_ms`.
    async fn finish(&mut self) {
        let has_spoken = self.attendant.end(since(self.start));
        let last = async {
            let output = self.attendant.output();
            while !output.is_empty() {
                self.stream.writable().await?;
                match self.stream.try_write(output) {
                    Ok(0) => break,
                    Ok(written) => output.advance(written),
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
