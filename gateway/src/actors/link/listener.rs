//! Accepts connections from peers and greets them.

use super::messages::Attach;
use super::noise::LinkError;
use super::{PeerLinks, Task};
use actix::{Actor, Addr, AsyncContext, Context};
use selvedge_guard::log_limit::SharedLogLimit;
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// How many connections may be in their handshake at once. A further one takes the place of another: [`Seats`].
pub const MAX_UNAUTHENTICATED_CONNECTIONS: usize = 16;

/// The pause after an accept that failed (for lack of file descriptors, say), in milliseconds.
const ACCEPT_RETRY_MS: u64 = 100;

/// Accepts connections from peers, and hands those that were greeted to their links.
pub struct PeerListener {
    listener: Option<std::net::TcpListener>,
    greetings: Rc<Greetings>,
    accepting: Option<Task>,
    /// Keeps the actor alive: one without any address would be stopped.
    myself: Option<Addr<Self>>,
}

/// The state that all greetings share.
struct Greetings {
    links: PeerLinks,
    log_limit: SharedLogLimit,
}

impl PeerListener {
    pub(super) fn new(listener: std::net::TcpListener, links: PeerLinks) -> Self {
        let greetings = Rc::new(Greetings { links, log_limit: SharedLogLimit::default() });
        Self { listener: Some(listener), greetings, accepting: None, myself: None }
    }
}

impl Actor for PeerListener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.myself = Some(ctx.address());
        let Some(listener) = self.listener.take() else { return };
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => self.accepting = Some(Task::spawn(accept(listener, self.greetings.clone()))),
            Err(e) => tracing::error!("peers can't connect to this gateway: {e}"),
        }
    }
}

/// Connections that are not greeted yet. When all seats are taken, the address that holds the most gives up its oldest:
/// an address that opens connections and stays silent displaces only its own, and keeps no peer out.
#[derive(Default)]
struct Seats {
    last: u64,
    taken: Vec<Seat>,
}

struct Seat {
    number: u64,
    of: IpAddr,
    /// Dropping it closes the connection.
    _greeting: Task,
}

impl Seats {
    fn take(seats: &Rc<RefCell<Self>>, of: IpAddr, greeting: impl Future<Output = ()> + 'static) {
        let mut all = seats.borrow_mut();
        if all.taken.len() >= MAX_UNAUTHENTICATED_CONNECTIONS {
            let held = |of: &IpAddr| all.taken.iter().filter(|seat| seat.of == *of).count();
            let most = all.taken.iter().map(|seat| held(&seat.of)).max();
            if let Some(at) = all.taken.iter().position(|seat| Some(held(&seat.of)) == most) {
                all.taken.remove(at);
            }
        }
        all.last += 1;
        let (number, seats) = (all.last, seats.clone());
        // The greeting bounds its own time.
        let greeting = Task::spawn(async move {
            greeting.await;
            seats.borrow_mut().taken.retain(|seat| seat.number != number);
        });
        all.taken.push(Seat { number, of, _greeting: greeting });
    }
}

async fn accept(listener: tokio::net::TcpListener, greetings: Rc<Greetings>) {
    let seats = Rc::new(RefCell::new(Seats::default()));
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                let greetings = greetings.clone();
                Seats::take(&seats, from.ip(), async move { greetings.greet(socket, from).await });
            }
            Err(e) => {
                if let Some(left_out) = greetings.log_limit.note("accept") {
                    tracing::warn!("a peer's connection can't be accepted: {e}{left_out}");
                }
                tokio::time::sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
            }
        }
    }
}

impl Greetings {
    async fn greet(&self, socket: tokio::net::TcpStream, from: std::net::SocketAddr) {
        let met = Cell::new(None);
        match self.links.0.greeter.accept(socket, |peer| met.set(Some(peer))).await {
            // A new box, which got its answer.
            Ok(None) => {}
            Ok(Some(established)) => {
                if let Some((_, link)) = self.links.link(established.peer) {
                    // Fails when the arbiter is ending, or the peer was just removed.
                    let _ = link.send(Attach(established)).await;
                }
            }
            Err(e) => match met.get() {
                Some(peer) => {
                    let why = e.to_string();
                    let line = self.links.link(peer).map(|(line, _)| line);
                    // Gateways that are none of the site's share one log limit.
                    let log_limit = line.as_ref().map_or(&self.log_limit, |line| &line.log_limit);
                    if let Some(left_out) = log_limit.note("greeting") {
                        tracing::warn!(%peer, %from, "no link: {why}{left_out}");
                    }
                    if let Some(line) = line {
                        line.trouble(&why);
                    }
                }
                // A peer tests in this way whether this process lives; a scanner may, too.
                None if matches!(e, LinkError::HungUp) => {
                    tracing::debug!(%from, "it hung up without sending anything")
                }
                // Strangers share one log limit, so that they can't fill the log.
                None => {
                    metrics::counter!("selvedge_link_strangers_total").increment(1);
                    if let Some(left_out) = self.log_limit.note("stranger") {
                        tracing::warn!(%from, "a connection was refused: {e}{left_out}");
                    }
                }
            },
        }
    }
}
