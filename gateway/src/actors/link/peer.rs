//! The actor of one link: dials, holds the connection, and replaces it.

use super::greet::{Established, Greeter};
use super::messages::{
    Attach, CheckKey, Cut, EndLink, PeerConnected, PeerDisconnected, PeerRefused, PeerSaid,
};
use super::noise::{FrameReader, FrameWriter, LinkError};
use super::{Line, Task};
use crate::actors::messages::switch::FromPeer;
use crate::actors::pulse;
use actix::{Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, Recipient};
use selvedge_fabric::detector::DETECT_MS;
use selvedge_fabric::directory::GatewayKey;
use selvedge_fabric::link::{CONNECT_TIMEOUT_MS, MAX_PEER_FRAME_BYTES, PeerFrame, REDIAL_MIN_MS};
use selvedge_types::ids::GatewayId;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout, timeout_at};

/// A connection ended by itself.
#[derive(Message)]
#[rtype(result = "()")]
struct Lost {
    connection: u64,
    why: String,
}

/// The ways out of a link.
#[derive(Clone)]
pub(super) struct LinkWays {
    /// To the watch: there is a connection.
    pub connected: Recipient<PeerConnected>,
    /// To the watch: the connection ended.
    pub disconnected: Recipient<PeerDisconnected>,
    /// To the watch: the peer's machine refuses connections.
    pub refused: Recipient<PeerRefused>,
    /// To the watch: which gateways the peer has up.
    pub said: Recipient<PeerSaid>,
    /// Receives the messages of the peer.
    pub inbound: Recipient<FromPeer>,
}

/// Keeps the one connection to a peer.
pub struct PeerLink {
    line: Arc<Line>,
    greeter: Arc<Greeter>,
    ways: LinkWays,
    connection: Option<Connection>,
    /// Numbers the connections, so that the end of a replaced one does not end its successor.
    connections: u64,
    /// Dials, or tests whether the peer's process is gone.
    seeking: Option<Task>,
}

/// The one connection of a link.
struct Connection {
    /// The key by which the peer was authenticated.
    key: GatewayKey,
    _reader: Task,
    _writer: Task,
}

impl PeerLink {
    pub(super) fn new(line: Arc<Line>, greeter: Arc<Greeter>, ways: LinkWays) -> Self {
        Self { line, greeter, ways, connection: None, connections: 0, seeking: None }
    }

    /// Ends the connection, if there is one, and seeks a new one.
    fn lose(&mut self, why: &str, ctx: &mut Context<Self>) {
        let peer = self.line.peer;
        self.connection = None;
        // The reader may have ended while it waited for the receiver.
        self.line.pressed_back.store(false, Ordering::Relaxed);
        let wait_ms = self.line.link().lost(pulse::now_ms());
        self.line.trouble(why);
        self.ways.disconnected.do_send(PeerDisconnected { peer });
        if let Some(left_out) = self.line.log_limit.note("lost") {
            tracing::warn!(%peer, "link lost: {why}{left_out}");
        }
        self.seek(wait_ms, ctx);
    }

    fn seek(&mut self, wait_ms: u64, ctx: &mut Context<Self>) {
        let seeker = Seeker {
            line: self.line.clone(),
            greeter: self.greeter.clone(),
            refused: self.ways.refused.clone(),
            link: ctx.address(),
        };
        self.seeking = Some(Task::spawn(seeker.seek(wait_ms)));
    }
}

impl Actor for PeerLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let wait_ms = self.line.link().first_wait_ms();
        self.seek(wait_ms, ctx);
    }
}

impl Handler<Attach> for PeerLink {
    type Result = ();
    fn handle(
        &mut self,
        Attach(Established { peer, dialled, key, reader, writer }): Attach,
        ctx: &mut Self::Context,
    ) {
        if !self.greeter.may_have(peer, key) {
            // Its key was named while the greeting was under way; the next greeting is refused with the reason.
            if self.connection.is_none() {
                let wait_ms = self.line.link().failed();
                self.seek(wait_ms, ctx);
            }
            return;
        }
        if !self.line.link().takes(dialled) {
            tracing::debug!(%peer, by = %dialled.by, "both ends have dialled: the other connection stays");
            return;
        }
        self.seeking = None;
        self.connections += 1;
        let (connection, start) = (self.connections, dialled.start);
        let now = pulse::now_ms();
        self.line.heard(now);
        self.connection = None;
        self.line.pressed_back.store(false, Ordering::Relaxed);
        self.line.link().connected(now, dialled);
        self.line.no_trouble();
        self.line.clock.connected(peer);
        if let Some(left_out) = self.line.log_limit.note("up") {
            tracing::info!(%peer, start, by = %dialled.by, "link up{left_out}");
        }
        let end = if dialled.by == peer { "peer" } else { "this" };
        metrics::counter!("selvedge_link_connections_total", "dialled_by" => end).increment(1);
        let (line, link) = (self.line.clone(), ctx.address());
        let write = async move {
            let Err(e) = write(line, writer).await;
            link.do_send(Lost { connection, why: e.to_string() });
        };
        let (line, link, inbound) = (self.line.clone(), ctx.address(), self.ways.inbound.clone());
        let said = self.ways.said.clone();
        let announced =
            self.ways.connected.send(PeerConnected { peer, start, link: ctx.address().recipient() });
        let read = async move {
            let _ = announced.await; // fails only when the arbiter is ending
            let Err(e) = read(line, reader, said, inbound).await;
            link.do_send(Lost { connection, why: e.to_string() });
        };
        let (_reader, _writer) = (Task::spawn(read), Task::spawn(write));
        self.connection = Some(Connection { key, _reader, _writer });
    }
}

impl Handler<Cut> for PeerLink {
    type Result = ();
    fn handle(&mut self, _: Cut, ctx: &mut Self::Context) {
        if self.connection.is_some() {
            self.lose("the peer was silent for too long", ctx);
        }
    }
}

impl Handler<CheckKey> for PeerLink {
    type Result = ();
    fn handle(&mut self, _: CheckKey, ctx: &mut Self::Context) {
        if self.connection.as_ref().is_some_and(|c| !self.greeter.may_have(self.line.peer, c.key)) {
            self.lose("the site knows the peer by another key than that of this connection", ctx);
        }
    }
}

impl Handler<EndLink> for PeerLink {
    type Result = ();
    fn handle(&mut self, _: EndLink, ctx: &mut Self::Context) {
        (self.connection, self.seeking) = (None, None);
        // Only now can no frame of the peer bring that back.
        self.line.room.forget(self.line.peer);
        ctx.stop();
    }
}

impl Handler<Lost> for PeerLink {
    type Result = ();
    fn handle(&mut self, Lost { connection, why }: Lost, ctx: &mut Self::Context) {
        if self.connection.is_some() && connection == self.connections {
            self.lose(&why, ctx);
        }
    }
}

/// Writes frames whenever there are messages, and heartbeats when there are none.
async fn write(line: Arc<Line>, mut writer: FrameWriter) -> Result<std::convert::Infallible, LinkError> {
    loop {
        // Let everything that is ready run first, so that its messages share the frame: on a busy thread there are
        // fewer frames, and on an idle one no message waits.
        tokio::task::yield_now().await;
        let now = pulse::now_ms();
        let (frame, heartbeat_at) = {
            let mut link = line.link();
            link.says_full(line.room.is_full());
            link.says_up(line.up.get());
            (link.next_frame(now, || line.clock.note(line.peer)), link.heartbeat_at())
        };
        match frame {
            Some(frame) => writer.send(&frame).await?,
            None => {
                // On a wake-up as on a timeout there is something to do; a wake-up that comes while the writer is busy
                // is kept.
                let _ = timeout_at(pulse::at(heartbeat_at.max(now + 1)), line.wake.notified()).await;
            }
        }
    }
}

/// Reads frames and hands over their messages, one frame at a time.
async fn read(
    line: Arc<Line>,
    mut reader: FrameReader,
    said: Recipient<PeerSaid>,
    inbound: Recipient<FromPeer>,
) -> Result<std::convert::Infallible, LinkError> {
    let stopping = |_| LinkError::Broken("this gateway is stopping".to_string());
    let mut up: Arc<[GatewayId]> = Arc::default();
    loop {
        let body = reader.next(MAX_PEER_FRAME_BYTES, || line.heard(pulse::now_ms())).await?;
        let frame = PeerFrame::decode(body).map_err(|e| LinkError::Broken(e.to_string()))?;
        line.clock.heard(line.peer, frame.clocks);
        line.room.says(line.peer, frame.full);
        if frame.up != up {
            up = frame.up;
            said.send(PeerSaid { peer: line.peer, up: up.clone() }).await.map_err(stopping)?;
        }
        if frame.messages.is_empty() {
            continue;
        }
        line.pressed_back.store(true, Ordering::Relaxed);
        let taken = inbound.send(FromPeer { peer: line.peer, messages: frame.messages }).await;
        line.heard(pulse::now_ms());
        line.pressed_back.store(false, Ordering::Relaxed);
        taken.map_err(stopping)?;
    }
}

/// Seeks a new connection.
struct Seeker {
    line: Arc<Line>,
    greeter: Arc<Greeter>,
    refused: Recipient<PeerRefused>,
    link: Addr<PeerLink>,
}

impl Seeker {
    /// Waits, and then dials. The end that does not dial first may have lost a connection that the peer had dialled: it
    /// tests meanwhile whether the peer's process is gone.
    async fn seek(self, wait_ms: u64) {
        let until = pulse::at(pulse::now_ms() + wait_ms);
        if !self.line.link().dials_first() {
            let _ = timeout_at(until, self.probe()).await; // it has found out what it can
        }
        sleep_until(until).await;
        self.dial().await;
    }

    /// Dials until the peer has admitted us.
    async fn dial(self) {
        let peer = self.line.peer;
        loop {
            self.line.link().handshaking();
            let greeted = match self.connect().await {
                Ok((socket, at)) => self.greeter.dial(socket, peer).await.map_err(|e| (e, at)),
                Err(failed) => Err(failed),
            };
            match greeted {
                Ok(established) => return self.link.do_send(Attach(established)),
                Err((e, at)) => {
                    let why = format!("{at}: {e}");
                    if let Some(left_out) = self.line.log_limit.note("dial") {
                        tracing::warn!(%peer, "no link: {why}{left_out}");
                    }
                    self.line.trouble(&why);
                }
            }
            let wait_ms = self.line.link().failed();
            sleep(Duration::from_millis(wait_ms)).await;
        }
    }

    /// After the loss of a connection that the peer had dialled, tests whether the peer's process is gone, as long as
    /// the result can be news.
    async fn probe(&self) {
        for _ in 0..DETECT_MS / REDIAL_MIN_MS {
            let _ = self.connect().await; // which tells the watch of a refusal
            sleep(Duration::from_millis(REDIAL_MIN_MS)).await;
        }
    }

    /// Connects to the address that the peer has now. Returns that address as well, whether or not it succeeded.
    async fn connect(&self) -> Result<(TcpStream, String), (LinkError, String)> {
        // Without an address the peer was just removed, and this task with it.
        let at = self.greeter.address(self.line.peer).unwrap_or_default();
        let limit = Duration::from_millis(CONNECT_TIMEOUT_MS);
        let connected = timeout(limit, TcpStream::connect(&at)).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(socket) => Ok((socket, at)),
            Err(e) => {
                if e.kind() == io::ErrorKind::ConnectionRefused {
                    self.refused.do_send(PeerRefused { peer: self.line.peer });
                }
                Err((LinkError::Io(e), at))
            }
        }
    }
}
