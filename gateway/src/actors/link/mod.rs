//! Peer links on sockets and actors. The protocol is [`selvedge_fabric::link`]'s; here is how it runs.
//!
//! ```text
//!  PeerLinks::send ─> Link (queue) ─> writer task ─┐                 ┌─> FromPeer      (inbound)
//!                                                 TCP ─> reader task ┤
//!  PeerListener ─> greeting task ─> Attach ─> PeerLink ─> PeerWatch ─┴─> PeersChanged  (status)
//! ```
//!
//! Each peer has one [`PeerLink`] actor, which dials (if this is the lower id), holds the one connection
//! and lets a new one replace it. One [`PeerListener`] accepts and greets; one [`PeerWatch`] owns the failure
//! detector. All of them run in the arbiter that [`start`] is given, and only [`start`] names them all.
//!
//! **Back pressure.** A reader hands over one frame's messages, and reads on when the receiver's handler has
//! returned. A receiver that is busy, or whose mailbox is full, so leaves the rest in the sockets, and the
//! peer's queue drops its oldest. The detector takes a peer that we don't read for heard.
//!
//! **Order.** What a new connection brings is delivered after the [`PeersChanged`] that it caused has been
//! handled, so nobody sees a message of a restarted peer before its restart.
//!
//! Limit: [`MAX_UNAUTHENTICATED_CONNECTIONS`] connections are in their handshake at once. Of more, the address that holds the most gives
//! up its oldest; links that are up are not touched by it.

mod greet;
mod listener;
mod messages;
mod noise;
mod peer;
mod watch;

pub use listener::{MAX_UNAUTHENTICATED_CONNECTIONS, PeerListener};
pub use noise::{LinkError, LinkKey};
pub use peer::PeerLink;
pub use watch::PeerWatch;

use crate::actors::clock::SiteClock;
use crate::actors::messages::switch::{FromPeer, PeersChanged};
use crate::actors::room::SiteRoom;
use crate::identity::Identity;
use actix::{Actor, ArbiterHandle, Recipient};
use greet::Greeter;
use peer::LinkWays;
use selvedge_fabric::link::{Lane, LaneCounts, Link, LinkCounts, State};
use selvedge_fabric::peer::PeerMessage;
use selvedge_guard::log_limit::SharedLogLimit;
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What the links of a gateway need.
pub struct LinkSettings {
    /// Who this gateway is; shared, because admitting a peer writes to it.
    pub identity: Arc<Mutex<Identity>>,
    /// Derived from the site secret.
    pub key: LinkKey,
    /// Where peers connect to; bound by the caller, so that a taken port is an error at start.
    pub listener: TcpListener,
    /// All other gateways of the site, with their `host:port`.
    pub peers: BTreeMap<GatewayId, String>,
    /// Takes what comes. Its handler must have taken it into something bounded when it returns.
    pub inbound: Recipient<FromPeer>,
    /// Takes who lives. Nothing is sent before the first change; until then, this gateway alone is up.
    pub status: Recipient<PeersChanged>,
    /// Is told what the peers' clocks show.
    pub clock: Arc<SiteClock>,
    /// Is told which peers' disks are full, and says whether this gateway's is.
    pub room: Arc<SiteRoom>,
}

/// Starts the links of a gateway in an arbiter. They end with it.
///
/// # Errors
/// When the listening socket can't be used.
pub fn start(settings: LinkSettings, arbiter: &ArbiterHandle) -> io::Result<PeerLinks> {
    let LinkSettings { identity, key, listener, mut peers, inbound, status, clock, room } = settings;
    listener.set_nonblocking(true)?;
    let hello = identity.lock().unwrap_or_else(PoisonError::into_inner).hello();
    let me = hello.gateway;
    peers.remove(&me);
    let members: BTreeSet<GatewayId> = peers.keys().copied().collect();
    let greeter = Arc::new(Greeter { me: hello, key, members, identity });
    let lines: BTreeMap<_, _> =
        peers.keys().map(|p| (*p, Arc::new(Line::new(me, *p, clock.clone(), room.clone())))).collect();

    let watched = lines.clone();
    let watch = PeerWatch::start_in_arbiter(arbiter, move |_| PeerWatch::new(me, watched, status));
    let ways = LinkWays {
        connected: watch.clone().recipient(),
        disconnected: watch.clone().recipient(),
        refused: watch.recipient(),
        inbound,
    };
    let mut links = BTreeMap::new();
    for (peer, address) in peers {
        let Some(line) = lines.get(&peer).cloned() else { continue };
        let (greeter, ways) = (greeter.clone(), ways.clone());
        let link = PeerLink::start_in_arbiter(arbiter, move |_| PeerLink::new(address, line, greeter, ways));
        links.insert(peer, link.recipient());
    }
    let listed = lines.clone();
    PeerListener::start_in_arbiter(arbiter, move |_| PeerListener::new(listener, greeter, links, listed));
    Ok(PeerLinks { lines: Arc::new(lines) })
}

/// The links of a gateway, for those who send on them.
#[derive(Clone)]
pub struct PeerLinks {
    lines: Arc<BTreeMap<GatewayId, Arc<Line>>>,
}

impl PeerLinks {
    /// Sends messages to a peer, in order, without waiting: what the link can't hold is dropped and counted
    /// (see [`selvedge_fabric::link`]). To this gateway itself, or to no peer, nothing is sent.
    pub fn send(&self, to: GatewayId, messages: Vec<PeerMessage>) {
        if let Some(line) = self.lines.get(&to) {
            line.send(messages);
        }
    }

    /// How each link is, for the operator.
    pub fn status(&self) -> Vec<LinkStatus> {
        self.lines.values().map(|line| line.status()).collect()
    }

    /// Sets the counters of what the links carried and dropped, by kind of traffic.
    pub fn set_metrics(&self) {
        let counts: Vec<LinkCounts> = self.lines.values().map(|line| line.link().counts()).collect();
        for lane in Lane::ALL {
            let kind = lane.name();
            let sum = |of: fn(LaneCounts) -> u64| counts.iter().map(|c| of(c.of(lane))).sum::<u64>();
            metrics::counter!("selvedge_link_sent_total", "kind" => kind).absolute(sum(|c| c.sent));
            for (why, dropped) in [
                ("down", sum(|c| c.dropped_down)),
                ("full", sum(|c| c.dropped_full)),
                ("long", sum(|c| c.dropped_long)),
                ("replaced", sum(|c| c.replaced)),
            ] {
                let counter = metrics::counter!("selvedge_link_dropped_total", "kind" => kind, "why" => why);
                counter.absolute(dropped);
            }
        }
    }
}

/// How one link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// To whom.
    pub peer: GatewayId,
    /// Where it is in its life.
    pub state: State,
    /// Why it is not up; while it is, why somebody else who claimed to be the peer was refused since.
    pub trouble: Option<String>,
    /// What it counted.
    pub counts: LinkCounts,
}

/// One link as its actor, its tasks, the watch and the senders share it.
struct Line {
    peer: GatewayId,
    link: Mutex<Link>,
    /// Wakes the writer.
    wake: Notify,
    heard_ms: AtomicU64,
    /// We have read what the receiver has not taken yet.
    pressed_back: AtomicBool,
    clock: Arc<SiteClock>,
    room: Arc<SiteRoom>,
    trouble: Mutex<Option<String>>,
    /// How often the link may cause a line in the log.
    log_limit: SharedLogLimit,
}

impl Line {
    fn new(me: GatewayId, peer: GatewayId, clock: Arc<SiteClock>, room: Arc<SiteRoom>) -> Self {
        Self {
            peer,
            link: Mutex::new(Link::new(me, peer)),
            wake: Notify::new(),
            heard_ms: AtomicU64::new(0),
            pressed_back: AtomicBool::new(false),
            clock,
            room,
            trouble: Mutex::new(None),
            log_limit: SharedLogLimit::default(),
        }
    }

    /// The core; never held across an await.
    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, messages: Vec<PeerMessage>) {
        let wake = self.link().send(messages);
        if wake {
            self.wake.notify_one();
        }
    }

    fn heard(&self, now: u64) {
        self.heard_ms.fetch_max(now, Ordering::Relaxed);
    }

    fn trouble(&self, why: &str) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_string());
    }

    /// What was wrong is over.
    fn no_trouble(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn status(&self) -> LinkStatus {
        let link = self.link();
        LinkStatus {
            peer: self.peer,
            state: link.state(),
            trouble: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            counts: link.counts(),
        }
    }
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Task {
    fn spawn(work: impl Future<Output = ()> + 'static) -> Self {
        Self(actix::spawn(work))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
