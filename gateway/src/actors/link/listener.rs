//! Accepts connections from peers and greets them.

use super::greet::Greeter;
use super::noise::LinkError;
use super::peer::{Attach, PeerLink};
use super::{Complaints, Line, Task};
use crate::actors::pulse;
use actix::{Actor, Addr, AsyncContext, Context};
use selvedge_shared::ids::GatewayId;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How many connections may be in their handshake at once; further ones wait in the system's backlog.
pub const MAX_UNAUTHENTICATED_CONNECTIONS: usize = 16;

/// The pause after an accept that failed (out of file descriptors, say), in milliseconds.
const ACCEPT_RETRY_MS: u64 = 100;

/// Accepts connections from peers and hands those that were greeted to their [`PeerLink`]s.
pub struct PeerListener {
    listener: Option<std::net::TcpListener>,
    desk: Rc<Desk>,
    accepting: Option<Task>,
    /// An actor whose address nobody has would be stopped.
    myself: Option<Addr<Self>>,
}

/// What all greetings share.
struct Desk {
    greeter: Arc<Greeter>,
    links: BTreeMap<GatewayId, Addr<PeerLink>>,
    lines: BTreeMap<GatewayId, Arc<Line>>,
    complaints: RefCell<Complaints>,
}

impl PeerListener {
    pub(super) fn new(
        listener: std::net::TcpListener,
        greeter: Arc<Greeter>,
        links: BTreeMap<GatewayId, Addr<PeerLink>>,
        lines: BTreeMap<GatewayId, Arc<Line>>,
    ) -> Self {
        let desk = Rc::new(Desk { greeter, links, lines, complaints: RefCell::default() });
        Self { listener: Some(listener), desk, accepting: None, myself: None }
    }
}

impl Actor for PeerListener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.myself = Some(ctx.address());
        let Some(listener) = self.listener.take() else { return };
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => self.accepting = Some(Task::spawn(accept(listener, self.desk.clone()))),
            Err(e) => tracing::error!("peers can't connect to this gateway: {e}"),
        }
    }
}

async fn accept(listener: tokio::net::TcpListener, desk: Rc<Desk>) {
    let seats = Arc::new(Semaphore::new(MAX_UNAUTHENTICATED_CONNECTIONS));
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, from)) => {
                let desk = desk.clone();
                // Bounded by its seat and, in time, by the greeting.
                actix::spawn(async move {
                    desk.greet(socket, from).await;
                    drop(seat);
                });
            }
            Err(e) => {
                desk.complain("accept", || tracing::warn!("a peer's connection can't be accepted: {e}"));
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
            }
        }
    }
}

impl Desk {
    async fn greet(&self, socket: tokio::net::TcpStream, from: std::net::SocketAddr) {
        let met = Cell::new(None);
        match self.greeter.accept(socket, |peer| met.set(Some(peer))).await {
            Ok(established) => {
                if let Some(link) = self.links.get(&established.peer) {
                    let _ = link.send(Attach(established)).await; // fails only when the arbiter is ending
                }
            }
            Err(e) => match met.get() {
                Some(peer) => {
                    let why = e.to_string();
                    self.complain(&why, || tracing::warn!(%peer, %from, "no link: {why}"));
                    if let Some(line) = self.lines.get(&peer) {
                        line.trouble(&why);
                    }
                }
                // A peer asks so whether this process lives; a scanner may, too.
                None if matches!(e, LinkError::HungUp) => tracing::debug!(%from, "hung up without a word"),
                // Strangers share one complaint, so that they can't fill the log.
                None => {
                    metrics::counter!("selvedge_link_strangers_total").increment(1);
                    self.complain("stranger", || tracing::warn!(%from, "a connection was refused: {e}"));
                }
            },
        }
    }

    fn complain(&self, what: &str, say: impl FnOnce()) {
        if self.complaints.borrow_mut().worth(pulse::now_ms(), what) {
            say();
        }
    }
}
