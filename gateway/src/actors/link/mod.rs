//! Peer links on sockets and actors. [`selvedge_fabric::link`] defines the protocol; this module runs it.
//!
//! ```text
//!   PeerLinks::send ─> Link (queue) ─> writer task ─┐                 ┌─> FromPeer      (inbound)
//!                                                  TCP ─> reader task ┤
//!   PeerListener ─> greeting task ─> Attach ─> PeerLink ─> PeerWatch ─┴─> PeersChanged  (status)
//! ```
//!
//! Each peer has one [`PeerLink`] actor, which dials (at once if this gateway has the lower id, else after a while), holds
//! the one connection and lets a new one replace it. One [`PeerListener`] accepts and greets; one [`PeerWatch`] owns the failure detector. All
//! of them run in the arbiter that [`start`] is given, and only this file names them all.
//!
//! Gateways come and go ([`PeerLinks::set_peers`]): for each, a line, a link and an entry of the detector come and go.
//!
//! # Backpressure
//!
//! A reader hands over one frame's messages, and reads on when the receiver's handler has returned. So a receiver that
//! is busy, or whose mailbox is full, leaves the rest in the sockets, and the peer's queue drops its oldest messages.
//! While we do not read, the detector counts the peer as heard.
//!
//! # Order
//!
//! The messages of a new connection are delivered after the [`PeersChanged`] that it caused has been handled, so no
//! actor sees a message of a restarted peer before its restart.
//!
//! # Limits
//!
//! At most [`MAX_UNAUTHENTICATED_CONNECTIONS`] connections are in their handshake at once. When there are more, the
//! address that holds the most gives up its oldest; links that are up are not affected.

mod greet;
mod join;
mod listener;
mod messages;
mod noise;
mod peer;
mod watch;

pub use join::{JoinRefused, ask_to_join};
pub use listener::{MAX_UNAUTHENTICATED_CONNECTIONS, PeerListener};
pub use noise::{LinkError, LinkKey};
pub use peer::PeerLink;
pub use watch::PeerWatch;

use crate::actors::clock::SiteClock;
use crate::actors::messages::admission::AskToJoin;
use crate::actors::messages::switch::{FromPeer, PeersChanged};
use crate::actors::room::SiteRoom;
use crate::identity::Identity;
use actix::{Actor, Addr, ArbiterHandle, Recipient};
use greet::Greeter;
use messages::{CheckKey, EndLink, WatchPeers};
use peer::LinkWays;
use selvedge_fabric::link::{
    KnownPeer, Lane, Link, LinkCounts, LinkState, PeerList, PeerListChange, TooManyPeers,
};
use selvedge_fabric::peer::PeerMessage;
use selvedge_guard::log_limit::SharedLogLimit;
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What the links of a gateway need at their start.
pub struct LinkSettings {
    /// The identity of this gateway; shared, because admitting a peer writes to it.
    pub identity: Arc<Mutex<Identity>>,
    /// Derived from the site secret.
    pub key: LinkKey,
    /// Where peers connect to; bound by the caller, so that a port that is taken is an error at the start.
    pub listener: TcpListener,
    /// All gateways of the site at first; this one is ignored.
    pub peers: BTreeMap<GatewayId, KnownPeer>,
    /// Receives messages of peers. When its handler returns, it must have put them into something bounded.
    pub inbound: Recipient<FromPeer>,
    /// Receives which gateways are up. Nothing is sent before the first change; until then, only this gateway is up.
    pub status: Recipient<PeersChanged>,
    /// Takes in what the peers' clocks show.
    pub clock: Arc<SiteClock>,
    /// Takes in which peers' disks are full, and says whether this gateway's is.
    pub room: Arc<SiteRoom>,
    /// Decides on new boxes that ask to join.
    pub admission: Recipient<AskToJoin>,
}

/// Starts the links of a gateway in an arbiter. They end with it.
///
/// # Errors
/// When the listening socket can't be used, or there are too many peers.
pub fn start(settings: LinkSettings, arbiter: &ArbiterHandle) -> io::Result<PeerLinks> {
    let LinkSettings { identity, key, listener, peers, inbound, status, clock, room, admission } = settings;
    listener.set_nonblocking(true)?;
    let (hello, own) = {
        let identity = identity.lock().unwrap_or_else(PoisonError::into_inner);
        (identity.hello(), identity.static_key().clone())
    };
    let me = hello.gateway;
    let listed = RwLock::new(PeerList::new(me));
    let removed = OnceLock::new();
    let greeter = Arc::new(Greeter { me: hello, key, own, peers: listed, identity, admission, removed });
    let up = Arc::new(UpList::of(me));
    let watched = up.clone();
    let watch = PeerWatch::start_in_arbiter(arbiter, move |_| PeerWatch::new(me, watched, status));
    let ways = LinkWays {
        connected: watch.clone().recipient(),
        disconnected: watch.clone().recipient(),
        refused: watch.clone().recipient(),
        said: watch.clone().recipient(),
        inbound,
    };
    let (arbiter, lines) = (arbiter.clone(), RwLock::default());
    let links = PeerLinks(Arc::new(Links { lines, greeter, watch, ways, clock, room, up, arbiter }));
    links.set_peers(peers).map_err(io::Error::other)?;
    let listed = links.clone();
    PeerListener::start_in_arbiter(&links.0.arbiter, move |_| PeerListener::new(listener, listed));
    Ok(links)
}

/// The links of a gateway: for those who send over them, and for whoever knows which gateways the site has.
#[derive(Clone)]
pub struct PeerLinks(Arc<Links>);

struct Links {
    lines: RwLock<Lines>,
    greeter: Arc<Greeter>,
    watch: Addr<PeerWatch>,
    ways: LinkWays,
    clock: Arc<SiteClock>,
    room: Arc<SiteRoom>,
    up: Arc<UpList>,
    arbiter: ArbiterHandle,
}

#[derive(Default)]
struct Lines {
    present: BTreeMap<GatewayId, (Arc<Line>, Addr<PeerLink>)>,
    /// The counts of the links that ended, so that counters never go back.
    ended: LinkCounts,
}

impl PeerLinks {
    /// Takes these as all peers of this gateway from now on; this gateway itself is ignored. Links to new peers are
    /// made. A changed address is used by the next attempt to connect. A connection ends if its peer's key is named and
    /// it has another. Links to peers that are missing end: those are down for good, and refused if they come back.
    ///
    /// # Errors
    /// When they are too many. Nothing has changed then.
    pub fn set_peers(&self, peers: BTreeMap<GatewayId, KnownPeer>) -> Result<(), TooManyPeers> {
        let Links { lines, greeter, watch, ways, clock, room, up, arbiter } = &*self.0;
        // Held to the end: who meets a new peer waits until its link is there, and changes do not cross.
        let mut lines = lines.write().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<GatewayId> = peers.keys().copied().collect();
        let change = greeter.peers.write().unwrap_or_else(PoisonError::into_inner).set(peers)?;
        if change == PeerListChange::default() {
            return Ok(());
        }
        for (_, link) in change.keyed.iter().filter_map(|peer| lines.present.get(peer)) {
            link.do_send(CheckKey); // as often as the directory names another key for a gateway
        }
        clock.set_peers(ids);
        let me = greeter.me.gateway;
        let mut watched: BTreeMap<_, _> =
            lines.present.iter().map(|(peer, (line, _))| (*peer, line.clone())).collect();
        watched.retain(|peer, _| !change.removed.contains(peer));
        for peer in &change.added {
            watched.insert(*peer, Arc::new(Line::new(me, *peer, clock.clone(), room.clone(), up.clone())));
        }
        // First of all, so that the watch knows a peer before it learns of a connection to it. As many of these wait as
        // the site has changed its gateways meanwhile.
        watch.do_send(WatchPeers(watched.clone()));
        for peer in change.added {
            let Some(line) = watched.get(&peer).cloned() else { continue };
            let (used, greeter, ways) = (line.clone(), greeter.clone(), ways.clone());
            let link = PeerLink::start_in_arbiter(arbiter, move |_| PeerLink::new(used, greeter, ways));
            lines.present.insert(peer, (line, link));
            tracing::info!(%peer, "a gateway of this site");
        }
        for peer in change.removed {
            let Some((line, link)) = lines.present.remove(&peer) else { continue };
            let mut core = line.link();
            core.end();
            lines.ended.add(&core.counts());
            drop(core);
            link.do_send(EndLink); // once for each link
            tracing::warn!(%peer, "a gateway was removed from this site");
        }
        Ok(())
    }

    /// Takes in which gateways the directory knows as removed: they are refused with the reason.
    pub fn remember_removed(&self, removed: impl IntoIterator<Item = GatewayId>) {
        let mut peers = self.0.greeter.peers.write().unwrap_or_else(PoisonError::into_inner);
        peers.remember_removed(removed);
    }

    /// Whether a gateway is a peer: one of the site's, and another one than this.
    pub fn knows(&self, peer: GatewayId) -> bool {
        self.lines().present.contains_key(&peer)
    }

    /// What a gateway of the site has answered to this one if this one was removed from the site.
    pub fn removed(&self) -> Option<&str> {
        self.0.greeter.removed.get().map(String::as_str)
    }

    /// Sends messages to a peer, in order, without waiting: what the link can't hold is dropped and counted (see
    /// [`selvedge_fabric::link`]). Messages to this gateway itself, or to an unknown peer, are dropped.
    pub fn send(&self, to: GatewayId, messages: Vec<PeerMessage>) {
        if let Some((line, _)) = self.lines().present.get(&to) {
            line.send(messages);
        }
    }

    /// The state of each link, for operators.
    pub fn status(&self) -> Vec<LinkStatus> {
        self.lines().present.values().map(|(line, _)| line.status()).collect()
    }

    /// Sets the counters of what the links carried and dropped, by kind of traffic.
    pub fn set_metrics(&self) {
        let lines = self.lines();
        let mut counts = lines.ended;
        lines.present.values().for_each(|(line, _)| counts.add(&line.link().counts()));
        drop(lines);
        for lane in Lane::ALL {
            let (kind, of) = (lane.name(), counts.of(lane));
            metrics::counter!("selvedge_link_sent_total", "kind" => kind).absolute(of.sent);
            for (why, dropped) in [
                ("down", of.dropped_down),
                ("full", of.dropped_full),
                ("long", of.dropped_long),
                ("replaced", of.replaced),
            ] {
                let counter = metrics::counter!("selvedge_link_dropped_total", "kind" => kind, "why" => why);
                counter.absolute(dropped);
            }
        }
    }

    fn lines(&self) -> RwLockReadGuard<'_, Lines> {
        self.0.lines.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link to a peer, unless it was removed meanwhile.
    fn link(&self, peer: GatewayId) -> Option<(Arc<Line>, Addr<PeerLink>)> {
        self.lines().present.get(&peer).cloned()
    }
}

/// The state of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    pub peer: GatewayId,
    /// Its place in the life of a link.
    pub state: LinkState,
    /// The end that dialled the connection, while it is up.
    pub dialled_by: Option<GatewayId>,
    /// Why the link is not up. While it is up: why another machine that claimed to be the peer was refused since.
    pub trouble: Option<String>,
    /// What the link carried and dropped.
    pub counts: LinkCounts,
}

/// The gateways that this one has up, for the frames of all links.
struct UpList(Mutex<Arc<[GatewayId]>>);

impl UpList {
    fn of(me: GatewayId) -> Self {
        Self(Mutex::new([me].into()))
    }

    fn get(&self) -> Arc<[GatewayId]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns whether that is a change.
    fn set(&self, up: &BTreeSet<GatewayId>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = !known.iter().eq(up);
        if changed {
            *known = up.iter().copied().collect();
        }
        changed
    }
}

impl LinkStatus {
    /// Why the peer refuses this gateway, if that is why the link is not up.
    pub fn refused_us(&self) -> Option<&str> {
        let (_, why) = self.trouble.as_deref()?.split_once(noise::REFUSED_BY_PEER)?;
        (self.state != LinkState::Up).then_some(why)
    }
}

/// The part of one link that its actor, its tasks, the watch and the senders share.
struct Line {
    peer: GatewayId,
    link: Mutex<Link>,
    /// Wakes the writer when there is something to send.
    wake: Notify,
    heard_ms: AtomicU64,
    /// Whether the receiver has yet to take what we have read.
    pressed_back: AtomicBool,
    clock: Arc<SiteClock>,
    room: Arc<SiteRoom>,
    up: Arc<UpList>,
    trouble: Mutex<Option<String>>,
    /// How often the link may cause a line in the log.
    log_limit: SharedLogLimit,
}

impl Line {
    fn new(
        me: GatewayId,
        peer: GatewayId,
        clock: Arc<SiteClock>,
        room: Arc<SiteRoom>,
        up: Arc<UpList>,
    ) -> Self {
        Self {
            peer,
            link: Mutex::new(Link::new(me, peer)),
            wake: Notify::new(),
            heard_ms: AtomicU64::new(0),
            pressed_back: AtomicBool::new(false),
            clock,
            room,
            up,
            trouble: Mutex::new(None),
            log_limit: SharedLogLimit::default(),
        }
    }

    /// The core; the guard is never held across an await.
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

    /// Forgets the trouble, which is over.
    fn no_trouble(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn status(&self) -> LinkStatus {
        let link = self.link();
        LinkStatus {
            peer: self.peer,
            state: link.state(),
            dialled_by: link.dialled_by(),
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
