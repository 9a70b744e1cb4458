//! The actor of the failure detector: it watches all links, and announces which gateways are up.

use super::messages::{Cut, PeerConnected, PeerDisconnected, PeerRefused, PeerSaid, WatchPeers};
use super::{Line, Task, UpList};
use crate::actors::messages::switch::PeersChanged;
use crate::actors::pulse;
use actix::{Actor, Context, Handler, Recipient, ResponseFuture};
use selvedge_fabric::detector::{Change, Detector, TICK_MS};
use selvedge_types::ids::GatewayId;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{Notify, oneshot};

/// Announces which gateways are up.
pub struct PeerWatch {
    detector: Detector,
    lines: BTreeMap<GatewayId, Arc<Line>>,
    links: BTreeMap<GatewayId, Recipient<Cut>>,
    news: Rc<News>,
    /// For frames: the gateways that this one has up.
    up: Arc<UpList>,
    status: Option<Recipient<PeersChanged>>,
    telling: Option<Task>,
}

/// The changes that the receiver has not been sent yet, merged into one: a slow receiver has at most the latest state
/// waiting for it.
#[derive(Default)]
struct News {
    latest: RefCell<(Option<PeersChanged>, Vec<oneshot::Sender<()>>)>,
    wake: Notify,
}

impl News {
    fn add(&self, change: Change) {
        let mut latest = self.latest.borrow_mut();
        match &mut latest.0 {
            Some(PeersChanged(untold)) => untold.then(change),
            None => latest.0 = Some(PeersChanged(change)),
        }
        self.wake.notify_one();
    }

    /// Completes when everything that was added up to now has been handled.
    fn told(&self) -> oneshot::Receiver<()> {
        let (done, told) = oneshot::channel();
        self.latest.borrow_mut().1.push(done);
        self.wake.notify_one();
        told
    }

    async fn tell(self: Rc<Self>, status: Recipient<PeersChanged>) {
        loop {
            let (change, waiting) = std::mem::take(&mut *self.latest.borrow_mut());
            if change.is_none() && waiting.is_empty() {
                self.wake.notified().await;
                continue;
            }
            if let Some(change) = change
                && status.send(change).await.is_err()
            {
                return; // this gateway is stopping
            }
            for done in waiting {
                let _ = done.send(()); // the connection may be gone
            }
        }
    }
}

impl PeerWatch {
    /// A watch that knows no peer yet: see [`WatchPeers`].
    pub(super) fn new(me: GatewayId, up: Arc<UpList>, status: Recipient<PeersChanged>) -> Self {
        let detector = Detector::new(pulse::now_ms(), me, []);
        let (lines, links, news) = (BTreeMap::new(), BTreeMap::new(), Rc::default());
        Self { detector, lines, links, news, up, status: Some(status), telling: None }
    }

    fn apply(&mut self, change: Option<Change>) {
        let Some(change) = change else { return };
        for link in change.cut.iter().filter_map(|p| self.links.get(p)) {
            link.do_send(Cut);
        }
        if self.up.set(&change.up) || !change.restarted.is_empty() {
            tracing::info!(up = ?change.up, restarted = ?change.restarted, "peers changed");
        }
        self.news.add(change);
    }

    fn tick(&mut self) {
        let now = pulse::now_ms();
        for (peer, line) in &self.lines {
            let pressed_back = line.pressed_back.load(Ordering::Relaxed);
            let at = if pressed_back { now } else { line.heard_ms.load(Ordering::Relaxed) };
            self.detector.heard(at, *peer);
        }
        let change = self.detector.tick(now);
        let stalled_ms = self.detector.stalled_ms();
        if stalled_ms > 0 {
            metrics::counter!("selvedge_stalled_ms_total").increment(stalled_ms);
            tracing::warn!(stalled_ms, "this process did not run for a while");
        }
        self.apply(change);
    }
}

impl Actor for PeerWatch {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(status) = self.status.take() {
            self.telling = Some(Task::spawn(self.news.clone().tell(status)));
        }
        pulse::every(ctx, TICK_MS, Self::tick);
    }
}

impl Handler<WatchPeers> for PeerWatch {
    type Result = ();
    fn handle(&mut self, WatchPeers(lines): WatchPeers, _: &mut Self::Context) {
        self.lines = lines;
        self.links.retain(|peer, _| self.lines.contains_key(peer));
        let change = self.detector.set_peers(self.lines.keys().copied());
        self.apply(change);
    }
}

impl Handler<PeerConnected> for PeerWatch {
    type Result = ResponseFuture<()>;
    fn handle(
        &mut self,
        PeerConnected { peer, start, link }: PeerConnected,
        _: &mut Self::Context,
    ) -> Self::Result {
        if self.lines.contains_key(&peer) {
            self.links.insert(peer, link);
        }
        let change = self.detector.connected(pulse::now_ms(), peer, start);
        self.apply(change);
        let told = self.news.told();
        Box::pin(async move {
            let _ = told.await; // fails only when the arbiter is ending
        })
    }
}

impl Handler<PeerDisconnected> for PeerWatch {
    type Result = ();
    fn handle(&mut self, PeerDisconnected { peer }: PeerDisconnected, _: &mut Self::Context) {
        self.detector.lost(peer);
    }
}

impl Handler<PeerSaid> for PeerWatch {
    type Result = ();
    fn handle(&mut self, PeerSaid { peer, up }: PeerSaid, _: &mut Self::Context) {
        let change = self.detector.said(peer, &up);
        self.apply(change);
    }
}

impl Handler<PeerRefused> for PeerWatch {
    type Result = ();
    fn handle(&mut self, PeerRefused { peer }: PeerRefused, _: &mut Self::Context) {
        let change = self.detector.refused(pulse::now_ms(), peer);
        self.apply(change);
    }
}
