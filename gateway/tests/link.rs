//! Links on loopback: whole gateways' worth of link actors, each in an arbiter of its own, whose end is the end of its process.

use actix::{Actor, Arbiter, Context, Handler, System};
use selvedge_gateway::actors::link::{self, FromPeer, LinkKey, LinkSettings, PeerLinks, PeersChanged};
use selvedge_gateway::identity::{Expected, Identity};
use selvedge_gateway::logic::link::State;
use selvedge_gateway::logic::machine::Origin;
use selvedge_gateway::logic::peer::PeerMessage;
use selvedge_shared::ids::{GatewayId, ShardId, SiteId};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

/// No wait of these tests may last longer; all of them end at an event.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
enum Event {
    From(GatewayId, Vec<PeerMessage>),
    Changed(PeersChanged),
}

/// Passes on what it gets, in order; takes messages only while its gate has room.
struct Receiver(UnboundedSender<Event>, Arc<Semaphore>);

impl Actor for Receiver {
    type Context = Context<Self>;
}

impl Handler<FromPeer> for Receiver {
    type Result = actix::ResponseFuture<()>;
    fn handle(&mut self, m: FromPeer, _: &mut Self::Context) -> Self::Result {
        let (events, gate) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            let open = gate.acquire().await;
            let _ = events.send(Event::From(m.peer, m.messages));
            drop(open);
        })
    }
}

impl Handler<PeersChanged> for Receiver {
    type Result = ();
    fn handle(&mut self, m: PeersChanged, _: &mut Self::Context) {
        let _ = self.0.send(Event::Changed(m));
    }
}

struct Gateway {
    arbiter: Option<Arbiter>,
    links: PeerLinks,
    events: UnboundedReceiver<Event>,
    gate: Arc<Semaphore>,
}

struct Options {
    key: u8,
    membership: u8,
    site: &'static str,
}

const USUAL: Options = Options { key: 1, membership: 1, site: "plant-7" };

/// A port that is free now and can be bound again and again.
fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

fn id(n: u16) -> GatewayId {
    GatewayId(n)
}

fn start(dir: &Path, me: u16, listener: TcpListener, peers: &[(u16, SocketAddr)], o: &Options) -> Gateway {
    let site = SiteId::new(o.site).unwrap();
    let expected = Expected { site, gateway: id(me), membership: [o.membership; 32] };
    if !Identity::exists(dir) {
        Identity::init(dir, &expected).unwrap();
    }
    let identity = Arc::new(Mutex::new(Identity::open(dir, &expected).unwrap()));
    let arbiter = Arbiter::new();
    let (tx, events) = unbounded_channel();
    let gate = Arc::new(Semaphore::new(1));
    let open = gate.clone();
    let receiver = Receiver::start_in_arbiter(&arbiter.handle(), move |_| Receiver(tx, open));
    let settings = LinkSettings {
        identity,
        key: LinkKey::new([o.key; 32]),
        listener,
        peers: peers.iter().map(|(p, at)| (id(*p), at.to_string())).collect::<BTreeMap<_, _>>(),
        inbound: receiver.clone().recipient(),
        status: receiver.recipient(),
    };
    let links = link::start(settings, &arbiter.handle()).unwrap();
    Gateway { arbiter: Some(arbiter), links, events, gate }
}

impl Gateway {
    async fn event(&mut self) -> Event {
        let event = timeout(PATIENCE, self.events.recv()).await;
        let event = event.unwrap_or_else(|_| panic!("no event came: {:#?}", self.links.status()));
        event.expect("the gateway ended")
    }

    /// Waits for a change that leaves exactly these up, and says who had restarted until then.
    async fn up(&mut self, up: &[u16]) -> Vec<GatewayId> {
        let up = up.iter().map(|p| id(*p)).collect();
        let mut restarted = vec![];
        loop {
            if let Event::Changed(change) = self.event().await {
                restarted.extend(change.restarted);
                if change.up == up {
                    return restarted;
                }
            }
        }
    }

    /// The next `n` forwards' numbers that come from a peer.
    async fn numbers(&mut self, from: u16, n: usize) -> Vec<u64> {
        let mut got = vec![];
        while got.len() < n {
            if let Event::From(peer, messages) = self.event().await {
                assert_eq!(peer, id(from));
                got.extend(messages.iter().map(number));
            }
        }
        got
    }

    fn trouble(&self, with: u16) -> String {
        let status = self.links.status().into_iter().find(|s| s.peer == id(with)).unwrap();
        assert_ne!(status.state, State::Up);
        status.trouble.unwrap_or_default()
    }

    /// Ends it as a kill would: without a word, its sockets closed by the system.
    async fn kill(mut self) {
        let arbiter = self.arbiter.take().unwrap();
        arbiter.stop();
        tokio::task::spawn_blocking(move || arbiter.join()).await.unwrap().unwrap();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(arbiter) = &self.arbiter {
            arbiter.stop();
        }
    }
}

fn message(n: u64, bytes: usize) -> PeerMessage {
    let origin = Origin { gateway: id(1), start: 1 };
    PeerMessage::Forward { shard: ShardId(3), origin, n, submission: vec![n as u8; bytes].into() }
}

fn number(m: &PeerMessage) -> u64 {
    match m {
        PeerMessage::Forward { n, submission, .. } => {
            assert!(submission.iter().all(|b| *b == *n as u8), "the content of {n} is damaged");
            *n
        }
        other => panic!("{other:?}"),
    }
}

/// Asks until the answer is yes: for what no event tells.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let asked = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("never: {what}"));
}

fn run(test: impl Future<Output = ()>) {
    System::new().block_on(test);
}

#[test]
fn two_gateways_talk_both_ways_in_order() {
    run(async {
        let (d1, d2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ((l1, a1), (l2, a2)) = (listen(), listen());
        let mut g1 = start(d1.path(), 1, l1, &[(2, a2)], &USUAL);
        let mut g2 = start(d2.path(), 2, l2, &[(1, a1)], &USUAL);
        assert_eq!(g1.up(&[1, 2]).await, []);
        assert_eq!(g2.up(&[1, 2]).await, []);
        // Small ones, and one of several Noise messages.
        g1.links.send(id(2), (1..=100).map(|n| message(n, 40)).collect());
        g1.links.send(id(2), vec![message(101, 3_000_000), message(102, 0)]);
        g2.links.send(id(1), vec![message(7, 65_519), message(8, 65_520)]);
        assert_eq!(g2.numbers(1, 102).await, (1..=102).collect::<Vec<_>>());
        assert_eq!(g1.numbers(2, 2).await, [7, 8]);
    });
}
