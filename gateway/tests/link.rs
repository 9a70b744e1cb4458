//! Links on loopback: the link actors of whole gateways, each gateway in an arbiter of its own. The end of the arbiter
//! stands for the end of the process.

use actix::{Actor, Arbiter, Context, Handler, System};
use selvedge_fabric::detector::{Change, DETECT_MS};
use selvedge_fabric::directory::{FirstGateway, GatewayAddresses, GatewayKey, Genesis};
use selvedge_fabric::link::{
    Greeting, Hello, Incarnation, JoinAnswer, JoinQuestion, JoinToken, KnownPeer, LinkState, join_question,
};
use selvedge_fabric::machine::Origin;
use selvedge_fabric::peer::PeerMessage;
use selvedge_gateway::actors::clock::SiteClock;
use selvedge_gateway::actors::link::{
    self, LinkKey, LinkSettings, LinkStatus, MAX_UNAUTHENTICATED_CONNECTIONS, PeerLinks,
};
use selvedge_gateway::actors::messages::admission::{AskToJoin, JoinDecision};
use selvedge_gateway::actors::messages::switch::{FromPeer, PeersChanged};
use selvedge_gateway::actors::room::SiteRoom;
use selvedge_gateway::identity::{Expected, Identity};
use selvedge_gateway::static_key::StaticKey;
use selvedge_types::ids::{GatewayId, ShardId, SiteId};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// No wait of these tests may last longer; all of them end at an event.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug)]
enum Event {
    From(GatewayId, Vec<PeerMessage>),
    Changed(Change),
    /// Messages came and were not taken, because the gate is closed.
    Waiting,
}

/// Passes on what it receives, in order; takes messages only while its gate has room.
struct Receiver(UnboundedSender<Event>, Arc<Semaphore>);

impl Actor for Receiver {
    type Context = Context<Self>;
}

impl Handler<FromPeer> for Receiver {
    type Result = actix::ResponseFuture<()>;
    fn handle(&mut self, m: FromPeer, _: &mut Self::Context) -> Self::Result {
        let (events, gate) = (self.0.clone(), self.1.clone());
        Box::pin(async move {
            if gate.available_permits() == 0 {
                let _ = events.send(Event::Waiting);
            }
            let open = gate.acquire().await;
            let _ = events.send(Event::From(m.peer, m.messages));
            drop(open);
        })
    }
}

impl Handler<PeersChanged> for Receiver {
    type Result = ();
    fn handle(&mut self, m: PeersChanged, _: &mut Self::Context) {
        let _ = self.0.send(Event::Changed(m.0));
    }
}

/// Stands for the site that decides on new boxes: by the first byte of the token.
struct Admits {
    asked: u8,
}

impl Actor for Admits {
    type Context = Context<Self>;
}

const GOOD: u8 = 1;
const WRONG: u8 = 2;
const EARLY: u8 = 3;

impl Handler<AskToJoin> for Admits {
    type Result = actix::ResponseFuture<JoinDecision>;
    fn handle(&mut self, AskToJoin { asked, key }: AskToJoin, _: &mut Self::Context) -> Self::Result {
        self.asked += 1;
        let decision = match asked.token.0[0] {
            EARLY if self.asked == 1 => JoinDecision::Later("no majority".into()),
            GOOD | EARLY => JoinDecision::Admitted(Box::new(answer(key))),
            _ => JoinDecision::Refused("no such token".into()),
        };
        Box::pin(async { decision })
    }
}

/// An answer that names the key of the box.
fn answer(key: GatewayKey) -> JoinAnswer {
    let first = FirstGateway { id: id(1), weight: 1, peer: "box-1:7081".into() };
    let known = KnownPeer { address: "box-9:7081".into(), key: Some(key), incarnation: None };
    let genesis = Genesis { shards: 8, replicas: 3, gateways: vec![first] };
    JoinAnswer { gateway: id(9), is_witness: false, genesis, peers: vec![(id(9), known)] }
}

struct Gateway {
    arbiter: Option<Arbiter>,
    key: GatewayKey,
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

/// A listener at a port that can be bound again and again.
fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", selvedge_ports::claim(1).unwrap())).unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

fn id(n: u16) -> GatewayId {
    GatewayId(n)
}

fn known(peers: &[(u16, SocketAddr)]) -> BTreeMap<GatewayId, KnownPeer> {
    peers.iter().map(|(p, at)| (id(*p), KnownPeer::at(at.to_string()))).collect()
}

fn start(dir: &Path, me: u16, listener: TcpListener, peers: &[(u16, SocketAddr)], o: &Options) -> Gateway {
    let site = SiteId::new(o.site).unwrap();
    let expected = Expected { site, gateway: id(me), membership: [o.membership; 32] };
    if !Identity::exists(dir) {
        Identity::init(dir, &expected).unwrap();
    }
    let identity = Arc::new(Mutex::new(Identity::open(dir, &expected).unwrap()));
    let key = identity.lock().unwrap().public_key();
    let arbiter = Arbiter::new();
    let (tx, events) = unbounded_channel();
    let gate = Arc::new(Semaphore::new(1));
    let open = gate.clone();
    let receiver = Receiver::start_in_arbiter(&arbiter.handle(), move |_| Receiver(tx, open));
    let settings = LinkSettings {
        identity,
        key: LinkKey::new([o.key; 32]),
        listener,
        peers: known(peers),
        inbound: receiver.clone().recipient(),
        status: receiver.recipient(),
        clock: Arc::new(SiteClock::new(id(me), peers.iter().map(|(p, _)| id(*p)))),
        room: Arc::new(SiteRoom::new(id(me))),
        admission: Admits::start_in_arbiter(&arbiter.handle(), |_| Admits { asked: 0 }).recipient(),
    };
    let links = link::start(settings, &arbiter.handle()).unwrap();
    Gateway { arbiter: Some(arbiter), key, links, events, gate }
}

impl Gateway {
    async fn event(&mut self) -> Event {
        let event = timeout(PATIENCE, self.events.recv()).await;
        let event = event.unwrap_or_else(|_| panic!("no event came: {:#?}", self.links.status()));
        event.expect("the gateway ended")
    }

    /// Waits for a change that leaves exactly these gateways up. Returns those that had restarted until then.
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

    /// Takes what has come until now: no messages, and no change of who is up.
    fn stays(&mut self, up: &[u16]) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Changed(change) => {
                    assert!(change.up.iter().eq(&up.iter().map(|p| id(*p)).collect::<Vec<_>>()))
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The numbers of the next `n` forwards from a peer.
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

    fn status(&self, of: u16) -> LinkStatus {
        self.links.status().into_iter().find(|s| s.peer == id(of)).unwrap()
    }

    fn trouble(&self, with: u16) -> String {
        let status = self.status(with);
        assert_ne!(status.state, LinkState::Up);
        status.trouble.unwrap_or_default()
    }

    /// Ends the gateway as a kill would: without a message, its sockets closed by the system.
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

/// Polls a condition for which there is no event.
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
        // Small messages, and one of several Noise messages.
        g1.links.send(id(2), (1..=100).map(|n| message(n, 40)).collect());
        g1.links.send(id(2), vec![message(101, 3_000_000), message(102, 0)]);
        g2.links.send(id(1), vec![message(7, 65_519), message(8, 65_520)]);
        assert_eq!(g2.numbers(1, 102).await, (1..=102).collect::<Vec<_>>());
        assert_eq!(g1.numbers(2, 2).await, [7, 8]);
    });
}

#[test]
fn another_secret_is_refused_and_both_ends_say_why() {
    run(async {
        let (d1, d2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ((l1, a1), (l2, a2)) = (listen(), listen());
        let g1 = start(d1.path(), 1, l1, &[(2, a2)], &USUAL);
        let g2 = start(d2.path(), 2, l2, &[(1, a1)], &Options { key: 2, ..USUAL });
        eventually("g1 names the secret", || g1.trouble(2).contains("same site secret")).await;
        assert_eq!(g2.trouble(1), "", "a stranger is not taken for the peer that it claims to be");
        for secret in ["01010101", "02020202", "1, 1, 1", "2, 2, 2"] {
            assert!(!g1.trouble(2).contains(secret));
        }
    });
}

#[test]
fn another_membership_or_site_is_refused_with_its_reason_at_both_ends() {
    for (other, says) in [
        (Options { membership: 2, ..USUAL }, "disagree on the site's membership or settings"),
        (Options { site: "plant-8", ..USUAL }, "correct the peer addresses"),
    ] {
        run(async move {
            let (d1, d2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let ((l1, a1), (l2, a2)) = (listen(), listen());
            let g1 = start(d1.path(), 1, l1, &[(2, a2)], &USUAL);
            let g2 = start(d2.path(), 2, l2, &[(1, a1)], &other);
            eventually("g1 says so", || g1.trouble(2).contains(says)).await;
            eventually("g2 says so", || g2.trouble(1).contains(says)).await;
        });
    }
}

#[test]
fn an_emptied_data_directory_is_refused_under_the_old_id_whoever_dials() {
    for emptied in [1, 2] {
        run(async move {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let ((l1, a1), (l2, a2)) = (listen(), listen());
            let mut g1 = start(dirs[0].path(), 1, l1, &[(2, a2)], &USUAL);
            let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
            g1.up(&[1, 2]).await;
            g2.up(&[1, 2]).await;
            let (stays, goes, at, other) = if emptied == 1 { (g2, g1, a1, a2) } else { (g1, g2, a2, a1) };
            let other_id = 3 - emptied;
            goes.kill().await;
            let fresh = tempfile::tempdir().unwrap();
            let listener = TcpListener::bind(at).unwrap();
            let back = start(fresh.path(), emptied, listener, &[(other_id, other)], &USUAL);
            let says = "another data folder than before";
            eventually("who stays says so", || stays.trouble(emptied).contains(says)).await;
            eventually("who is refused says so", || back.trouble(other_id).contains(says)).await;
        });
    }
}

#[test]
fn a_killed_process_goes_down_and_its_successor_is_seen_as_restarted_whoever_dials() {
    for killed in [1, 2] {
        run(async move {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let ((l1, a1), (l2, a2)) = (listen(), listen());
            let mut g1 = start(dirs[0].path(), 1, l1, &[(2, a2)], &USUAL);
            let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
            g1.up(&[1, 2]).await;
            g2.up(&[1, 2]).await;
            let other = 3 - killed;
            let (mut stays, goes, at, its) = if killed == 1 { (g2, g1, a1, a2) } else { (g1, g2, a2, a1) };
            goes.kill().await;
            assert_eq!(stays.up(&[other]).await, []);
            let dir = dirs[usize::from(killed) - 1].path();
            let mut back = start(dir, killed, TcpListener::bind(at).unwrap(), &[(other, its)], &USUAL);
            assert_eq!(stays.up(&[1, 2]).await, [id(killed)]);
            assert_eq!(back.up(&[1, 2]).await, [], "the first meeting of a process is no restart");
            back.links.send(id(other), vec![message(1, 9)]);
            assert_eq!(stays.numbers(killed, 1).await, [1]);
        });
    }
}

/// Stands between the dialler and the gateway that it dials; it can break connections and swallow bytes.
struct Proxy {
    at: SocketAddr,
    /// When raised, all connections are closed at both ends.
    cut: watch::Sender<u32>,
    /// When raised, all connections are closed at the dialler's end only.
    cut_half: watch::Sender<u32>,
    frozen: watch::Sender<bool>,
}

fn proxy(to: SocketAddr) -> Proxy {
    let (listener, at) = listen();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let (cut, cut_half, frozen) = (watch::Sender::new(0), watch::Sender::new(0), watch::Sender::new(false));
    let (c, h, f) = (cut.clone(), cut_half.clone(), frozen.clone());
    actix::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let Ok(mut far) = TcpStream::connect(to).await else { continue };
            let (mut cut, mut half, f) = (c.subscribe(), h.subscribe(), f.clone());
            actix::spawn(async move {
                let halved = {
                    let ((nr, nw), (fr, fw)) = (near.split(), far.split());
                    tokio::select! {
                        _ = pump(nr, fw, f.subscribe()) => false,
                        _ = pump(fr, nw, f.subscribe()) => false,
                        _ = cut.changed() => false,
                        _ = half.changed() => true,
                    }
                };
                if halved {
                    drop(near);
                    // The other end closes it once it has a newer connection.
                    while matches!(far.read(&mut [0; 4096]).await, Ok(1..)) {}
                }
            });
        }
    });
    Proxy { at, cut, cut_half, frozen }
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut frozen: watch::Receiver<bool>) {
    let mut buffer = vec![0; 65536];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        if frozen.wait_for(|f| !f).await.is_err() || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

#[test]
fn a_peer_that_is_added_at_run_time_comes_up_whoever_dials() {
    for late in [1, 2] {
        run(async move {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let ((l1, a1), (l2, a2)) = (listen(), listen());
            let (to_1, to_2) = ([(1, a1)], [(2, a2)]);
            let mut g1 = start(dirs[0].path(), 1, l1, if late == 1 { &[] } else { &to_2 }, &USUAL);
            let mut g2 = start(dirs[1].path(), 2, l2, if late == 2 { &[] } else { &to_1 }, &USUAL);
            if late == 2 {
                eventually("g1 is told", || g1.trouble(2).contains("g2 knows no gateway g1")).await;
                g2.links.set_peers(known(&to_1)).unwrap();
            } else {
                g1.links.set_peers(known(&to_2)).unwrap();
            }
            assert_eq!(g1.up(&[1, 2]).await, []);
            assert_eq!(g2.up(&[1, 2]).await, []);
            g1.links.send(id(2), vec![message(1, 9)]);
            assert_eq!(g2.numbers(1, 1).await, [1]);
        });
    }
}

#[test]
fn a_removed_peer_goes_down_and_is_refused_with_the_reason() {
    for removed in [1, 2] {
        run(async move {
            let dirs =
                [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let ((l1, a1), (l2, a2), (l3, a3)) = (listen(), listen(), listen());
            let mut g1 = start(dirs[0].path(), 1, l1, &[(2, a2), (3, a3)], &USUAL);
            let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1), (3, a3)], &USUAL);
            let mut g3 = start(dirs[2].path(), 3, l3, &[(1, a1), (2, a2)], &USUAL);
            g1.up(&[1, 2, 3]).await;
            g2.up(&[1, 2, 3]).await;
            let (mut stays, mut goes) = if removed == 1 { (g2, g1) } else { (g1, g2) };
            let other = 3 - removed;
            stays.links.set_peers(known(&[(3, a3)])).unwrap();
            assert_eq!(stays.up(&[other, 3]).await, []);
            assert_eq!(goes.up(&[removed, 3]).await, [], "the connection is closed");
            let listed: Vec<_> = stays.links.status().into_iter().map(|s| s.peer).collect();
            assert_eq!(listed, [id(3)]);
            let says = format!(
                "g{removed} was removed from the site and can't come back under this id; stop it, or let its box join"
            );
            eventually("who was removed says so", || goes.trouble(other).contains(&says)).await;
            eventually("its process knows", || goes.links.removed().is_some_and(|why| why.contains(&says)))
                .await;
            assert!(stays.links.removed().is_none());
            stays.links.send(id(removed), vec![message(1, 9)]);
            stays.links.send(id(3), vec![message(2, 9)]);
            assert_eq!(g3.numbers(other, 1).await, [2], "the other links are as before");
            goes.stays(&[removed, 3]);
            stays.stays(&[other, 3]);
        });
    }
}

/// A process that has just started did not see the other one go: the directory's tombstone tells it.
#[test]
fn a_removed_gateway_hears_it_from_one_that_knows_it_by_its_tombstone_only() {
    run(async {
        let (d1, d2) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ((l1, a1), (l2, a2)) = (listen(), listen());
        let g1 = start(d1.path(), 1, l1, &[], &USUAL);
        g1.links.remember_removed([id(2)]);
        let g2 = start(d2.path(), 2, l2, &[(1, a1)], &USUAL);
        eventually("g2 knows", || {
            g2.links.removed().is_some_and(|why| why.contains("selvedge gateway invite"))
        })
        .await;
        assert!(g1.links.status().is_empty() && a2.port() > 0);
    });
}

/// One address is wrong, or a firewall lets only one direction through.
#[test]
fn a_link_needs_one_end_that_can_dial() {
    for able in [1, 2] {
        run(async move {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let ((l1, a1), (l2, a2), (closed, nobody)) = (listen(), listen(), listen());
            drop(closed);
            let (of_1, of_2) = if able == 1 { (nobody, a2) } else { (a1, nobody) };
            let mut g1 = start(dirs[0].path(), 1, l1, &[(2, of_2)], &USUAL);
            let mut g2 = start(dirs[1].path(), 2, l2, &[(1, of_1)], &USUAL);
            assert_eq!(g1.up(&[1, 2]).await, []);
            assert_eq!(g2.up(&[1, 2]).await, []);
            heals(&g1, 1, &mut g2, 2).await;
            heals(&g2, 2, &mut g1, 1).await;
            for (gateway, other) in [(&g1, 2), (&g2, 1)] {
                let status = gateway.status(other);
                assert_eq!((status.state, status.dialled_by), (LinkState::Up, Some(id(able))));
            }
        });
    }
}

/// What is known of the first one's address is wrong until the other one hears of the right one.
#[test]
fn the_lower_id_dials_again_as_soon_as_it_has_an_address() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let ((l1, a1), (l2, a2), (closed, nobody)) = (listen(), listen(), listen());
        drop(closed);
        let mut g1 = start(dirs[0].path(), 1, l1, &[(2, nobody)], &USUAL);
        let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
        g1.up(&[1, 2]).await;
        g2.up(&[1, 2]).await;
        assert_eq!(g1.status(2).dialled_by, Some(id(2)));
        g1.links.set_peers(known(&[(2, a2)])).unwrap();
        heals(&g1, 1, &mut g2, 2).await;
        assert_eq!(g1.status(2).dialled_by, Some(id(2)), "the connection stays");
    });
}

#[test]
fn each_hears_whom_the_others_have_up() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let ((l1, a1), (l2, a2), (l3, a3)) = (listen(), listen(), listen());
        // 1 and 2 know each other at addresses where nobody is.
        let (closed, nobody) = listen();
        drop(closed);
        let mut g1 = start(dirs[0].path(), 1, l1, &[(2, nobody), (3, a3)], &USUAL);
        let mut g2 = start(dirs[1].path(), 2, l2, &[(1, nobody), (3, a3)], &USUAL);
        let _g3 = start(dirs[2].path(), 3, l3, &[(1, a1), (2, a2)], &USUAL);
        for (gateway, up) in [(&mut g1, [1, 3]), (&mut g2, [2, 3])] {
            let all = [1, 2, 3].map(id).into();
            loop {
                if let Event::Changed(change) = gateway.event().await
                    && change.said.get(&id(3)) == Some(&all)
                {
                    assert!(change.up.iter().eq(&up.map(id)));
                    break;
                }
            }
        }
    });
}

#[test]
fn a_peer_with_the_secret_and_another_key_is_refused_whoever_dials() {
    for changed in [1, 2] {
        run(async move {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let ((l1, a1), (l2, a2)) = (listen(), listen());
            let mut g1 = start(dirs[0].path(), 1, l1, &[(2, a2)], &USUAL);
            let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
            g1.up(&[1, 2]).await;
            g2.up(&[1, 2]).await;
            let other = 3 - changed;
            let (stays, goes, at, its) = if changed == 1 { (g2, g1, a1, a2) } else { (g1, g2, a2, a1) };
            let before = goes.key;
            goes.kill().await;
            let dir = dirs[usize::from(changed) - 1].path();
            std::fs::remove_file(dir.join("link-key.json")).unwrap();
            let back = start(dir, changed, TcpListener::bind(at).unwrap(), &[(other, its)], &USUAL);
            assert_ne!(back.key, before);
            let says = format!("g{changed} has another key than before");
            eventually("who stays says so", || stays.trouble(changed).contains(&says)).await;
            eventually("who is refused says so", || back.trouble(other).contains(&says)).await;
        });
    }
}

#[test]
fn a_connection_ends_when_the_directory_names_another_key_for_its_peer() {
    for named in [1, 2] {
        run(async move {
            let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
            let ((l1, a1), (l2, a2)) = (listen(), listen());
            let mut g1 = start(dirs[0].path(), 1, l1, &[(2, a2)], &USUAL);
            let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
            g1.up(&[1, 2]).await;
            g2.up(&[1, 2]).await;
            let (mut one, peer, at) = if named == 1 { (g2, g1, a1) } else { (g1, g2, a2) };
            let other = 3 - named;
            let with = |key| {
                let known = KnownPeer { key: Some(key), ..KnownPeer::at(at.to_string()) };
                BTreeMap::from([(id(named), known)])
            };
            one.links.set_peers(with(peer.key)).unwrap();
            one.links.set_peers(with(GatewayKey([8; 32]))).unwrap();
            assert_eq!(one.up(&[other]).await, [], "its own key changed nothing, another one did");
            let says = format!("g{named} has another key than the one that the site knows");
            eventually("who asks says so", || one.trouble(named).contains(&says)).await;
            eventually("who is refused says so", || peer.trouble(other).contains(&says)).await;
            one.links.set_peers(with(peer.key)).unwrap();
            assert_eq!(one.up(&[1, 2]).await, []);
        });
    }
}

#[test]
fn a_changed_address_is_used_by_the_next_connection() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let ((l1, a1), (l2, a2)) = (listen(), listen());
        let proxy = proxy(a2);
        let mut g1 = start(dirs[0].path(), 1, l1, &[(2, proxy.at)], &USUAL);
        let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
        g1.up(&[1, 2]).await;
        g2.up(&[1, 2]).await;
        g1.links.set_peers(known(&[(2, a2)])).unwrap();
        heals(&g1, 1, &mut g2, 2).await; // over the old one, which stays
        // No byte passes the old address any more.
        proxy.frozen.send_replace(true);
        proxy.cut.send_modify(|n| *n += 1);
        heals(&g1, 1, &mut g2, 2).await;
        heals(&g2, 2, &mut g1, 1).await;
    });
}

#[test]
fn too_many_peers_change_nothing() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let ((l1, _), (_l2, a2)) = (listen(), listen());
        let g1 = start(dir.path(), 1, l1, &[(2, a2)], &USUAL);
        let many: Vec<_> = (2..=65).map(|p| (p, a2)).collect();
        let said = g1.links.set_peers(known(&many)).unwrap_err().to_string();
        assert!(said.contains("64 peers were named"), "{said}");
        assert_eq!(g1.links.status().len(), 1);
    });
}

/// Two gateways, of which the one with the lower id dials through a proxy.
async fn through_a_proxy(dirs: &[tempfile::TempDir; 2]) -> (Gateway, Gateway, Proxy) {
    let ((l1, a1), (l2, a2)) = (listen(), listen());
    let proxy = proxy(a2);
    let mut g1 = start(dirs[0].path(), 1, l1, &[(2, proxy.at)], &USUAL);
    let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
    g1.up(&[1, 2]).await;
    g2.up(&[1, 2]).await;
    (g1, g2, proxy)
}

/// Sends until a message arrives that was sent after this call: a link may lose what a dying connection had taken.
async fn heals(from: &Gateway, from_id: u16, to: &mut Gateway, to_id: u16) {
    static SENT: AtomicU64 = AtomicU64::new(0);
    let before = SENT.load(Ordering::SeqCst);
    let heard = async {
        loop {
            let n = SENT.fetch_add(1, Ordering::SeqCst) + 1;
            from.links.send(id(to_id), vec![message(n, 100)]);
            let soon = timeout(Duration::from_millis(10), to.events.recv()).await;
            match soon.map(|e| e.expect("the gateway ended")) {
                Ok(Event::From(peer, messages)) => {
                    assert_eq!(peer, id(from_id));
                    if messages.iter().map(number).any(|got| got > before) {
                        return;
                    }
                }
                Ok(Event::Changed(c)) => assert_eq!(c.restarted, []),
                Ok(Event::Waiting) | Err(_) => {}
            }
        }
    };
    timeout(PATIENCE, heard).await.expect("the link did not heal");
}

#[test]
fn a_killed_connection_is_made_anew() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (mut g1, mut g2, proxy) = through_a_proxy(&dirs).await;
        for _ in 0..3 {
            proxy.cut.send_modify(|n| *n += 1);
            heals(&g1, 1, &mut g2, 2).await;
            heals(&g2, 2, &mut g1, 1).await;
        }
    });
}

#[test]
fn a_new_connection_replaces_one_that_only_the_dialler_knows_to_be_dead() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (mut g1, mut g2, proxy) = through_a_proxy(&dirs).await;
        proxy.cut_half.send_modify(|n| *n += 1);
        eventually("g1 notices", || g1.links.status()[0].trouble.is_some()).await;
        heals(&g1, 1, &mut g2, 2).await;
        heals(&g2, 2, &mut g1, 1).await;
    });
}

#[test]
fn a_silent_connection_is_given_up_by_both_and_comes_back() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (mut g1, mut g2, proxy) = through_a_proxy(&dirs).await;
        proxy.frozen.send_replace(true);
        assert_eq!(g1.up(&[1]).await, []);
        assert_eq!(g2.up(&[2]).await, []);
        proxy.frozen.send_replace(false);
        assert_eq!(g1.up(&[1, 2]).await, []);
        assert_eq!(g2.up(&[1, 2]).await, []);
        heals(&g1, 1, &mut g2, 2).await;
    });
}

/// A receiver takes nothing for much longer than the detector waits: its peer's queue drops its oldest messages, and no
/// gateway is declared down.
#[test]
fn a_busy_receiver_presses_back_without_being_taken_for_dead() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let ((l1, a1), (l2, a2)) = (listen(), listen());
        let mut g1 = start(dirs[0].path(), 1, l1, &[(2, a2)], &USUAL);
        let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
        g1.up(&[1, 2]).await;
        g2.up(&[1, 2]).await;
        let closed = g2.gate.clone().acquire_owned().await.unwrap();
        let full = Duration::from_millis(3 * DETECT_MS);
        let mut n = 0;
        let _ = timeout(full, async {
            loop {
                n += 1;
                g1.links.send(id(2), vec![message(n, 100_000)]);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        eventually("the queue overflows", || {
            n += 1;
            g1.links.send(id(2), vec![message(n, 100_000)]);
            g1.links.status()[0].counts.total().dropped_full > 0
        })
        .await;
        while !matches!(g2.event().await, Event::Waiting) {}
        g1.stays(&[1, 2]);
        g2.stays(&[1, 2]);
        drop(closed);
        let mut last = 0;
        while last < n {
            let messages = match g2.event().await {
                Event::From(_, messages) => messages,
                Event::Waiting => continue,
                Event::Changed(change) => {
                    assert_eq!(change.up.len(), 2, "nobody went down");
                    continue;
                }
            };
            for got in messages.iter().map(number) {
                assert!(got > last, "{got} came after {last}");
                last = got;
            }
        }
    });
}

#[test]
fn a_connection_that_is_lost_while_it_is_pressed_back_counts_as_silent() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let (mut g1, mut g2, proxy) = through_a_proxy(&dirs).await;
        let closed = g2.gate.clone().acquire_owned().await.unwrap();
        g1.links.send(id(2), vec![message(1, 10)]);
        while !matches!(g2.event().await, Event::Waiting) {}
        proxy.frozen.send_replace(true);
        proxy.cut.send_modify(|n| *n += 1);
        g1.up(&[1]).await;
        g2.up(&[2]).await;
        drop(closed);
    });
}

#[test]
fn garbage_is_hung_up_on_and_leaves_room_for_peers() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let ((l1, a1), (l2, a2)) = (listen(), listen());
        let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
        let mut garbage: Vec<Vec<u8>> = vec![
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"SVL\x03".to_vec(),
            [b"SVL\x01".to_vec(), vec![0; 48]].concat(),
            [b"SVL\x02".to_vec(), vec![0; 48]].concat(),
            [b"SVL\x02".to_vec(), vec![0xff; 1_000_000]].concat(),
        ];
        // More than may be in their handshake at once.
        garbage.extend((0..3 * MAX_UNAUTHENTICATED_CONNECTIONS).map(|i| vec![i as u8; 100_000]));
        for bytes in garbage {
            let mut socket = TcpStream::connect(a2).await.unwrap();
            let _ = socket.write_all(&bytes).await; // the connection may be closed half-way
            let mut answer = vec![];
            let read = timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
            assert!(read.is_ok(), "it was not hung up on");
            assert!(answer.is_empty(), "a stranger gets no answer");
        }
        let mut g1 = start(dirs[0].path(), 1, l1, &[(2, a2)], &USUAL);
        g1.up(&[1, 2]).await;
        g2.up(&[1, 2]).await;
        // Silent strangers do not affect a link that is up, and their connections are closed in the end.
        let mut quiet = vec![];
        for _ in 0..MAX_UNAUTHENTICATED_CONNECTIONS {
            quiet.push(TcpStream::connect(a2).await.unwrap());
        }
        heals(&g1, 1, &mut g2, 2).await;
        for mut socket in quiet {
            let read = timeout(PATIENCE, socket.read(&mut [0])).await.expect("it was not hung up on");
            assert!(matches!(read, Ok(0) | Err(_)));
        }
    });
}

#[test]
fn strangers_that_say_nothing_keep_no_peer_out() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let ((l1, a1), (l2, a2)) = (listen(), listen());
        let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
        // So many that the test would run out of patience many times over if each kept its seat until its time is over.
        let mut quiet = Vec::new();
        for _ in 0..20 * MAX_UNAUTHENTICATED_CONNECTIONS {
            quiet.push(TcpStream::connect(a2).await.unwrap());
        }
        // The one with the lower id dials, so it needs a seat among them.
        let mut g1 = start(dirs[0].path(), 1, l1, &[(2, a2)], &USUAL);
        let met = timeout(PATIENCE, async {
            g1.up(&[1, 2]).await;
            g2.up(&[1, 2]).await;
        });
        assert!(met.await.is_ok(), "strangers keep the peer out");
        drop(quiet);
    });
}

/// Sends the first message of a handshake, and takes in the second.
async fn shake(
    socket: &mut TcpStream,
    preamble: &[u8],
    noise: &mut snow::HandshakeState,
    answer_bytes: usize,
) {
    let mut message = [0; 65535];
    let n = noise.write_message(&[], &mut message).unwrap();
    socket.write_all(&[preamble, &message[..n]].concat()).await.unwrap();
    let mut answer = vec![0; answer_bytes];
    socket.read_exact(&mut answer).await.unwrap();
    noise.read_message(&answer, &mut []).unwrap();
}

/// Sends one Noise message with its length.
async fn send(socket: &mut TcpStream, noise: &mut snow::TransportState, frame: &[u8]) {
    let mut message = [0; 65535];
    let n = noise.write_message(frame, &mut message).unwrap();
    socket.write_all(&(n as u16).to_be_bytes()).await.unwrap();
    socket.write_all(&message[..n]).await.unwrap();
}

/// A gateway of a release without static keys, byte for byte as that greets.
#[test]
fn a_gateway_without_a_static_key_is_told_to_upgrade() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let ((_l1, a1), (l2, a2)) = (listen(), listen());
        let g2 = start(dir.path(), 2, l2, &[(1, a1)], &USUAL);
        for newest in [1, 2] {
            let mut socket = TcpStream::connect(a2).await.unwrap();
            let params = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
            let builder = snow::Builder::new(params).psk(0, &[1; 32]).unwrap().prologue(b"SVL\x01").unwrap();
            let mut noise = builder.build_initiator().unwrap();
            shake(&mut socket, b"SVL\x01", &mut noise, 48).await;
            let mut noise = noise.into_transport_mode().unwrap();
            let hello = Greeting::Hello(Hello {
                oldest: 1,
                newest, // claiming the protocol is not enough
                site: USUAL.site.to_string(),
                membership: [USUAL.membership; 32],
                gateway: id(1),
                incarnation: Incarnation(5),
                start: 1,
                run: 1,
            })
            .encode();
            let length = (hello.len() as u32).to_le_bytes();
            send(&mut socket, &mut noise, &[&length[..], &hello].concat()).await;
            let mut sealed = vec![];
            timeout(PATIENCE, socket.read_to_end(&mut sealed)).await.expect("it was not hung up on").unwrap();
            let mut frame = vec![0; sealed.len()];
            let n = noise.read_message(&sealed[2..], &mut frame).unwrap();
            let Greeting::Refused { reason } = Greeting::decode(&frame[4..n]).unwrap() else { panic!() };
            let says = format!("g2 speaks protocols 2 to 2, g1 1 to {newest}; upgrade the older gateway");
            assert!(reason.contains(&says), "{reason}");
            eventually("g2 says so", || g2.trouble(1).contains(&says)).await;
        }
    });
}

/// A gateway with a defect: it has the secret but breaks the bounds.
#[test]
fn a_frame_beyond_the_bound_ends_the_handshake() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let ((_l1, a1), (l2, a2)) = (listen(), listen());
        let _g2 = start(dir.path(), 2, l2, &[(1, a1)], &USUAL);
        for frame in [
            [u32::MAX.to_le_bytes().to_vec(), vec![0; 100]].concat(), // a length far beyond the bound
            [1u32.to_le_bytes().to_vec(), vec![0; 100]].concat(),     // more than it claims
            vec![1],                                                  // no length
            [4u32.to_le_bytes().to_vec(), vec![1, 2, 3, 4]].concat(), // not a greeting
            vec![0; 60_000],                                          // a piece larger than any greeting
        ] {
            let mut socket = TcpStream::connect(a2).await.unwrap();
            let params = "Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
            let builder = snow::Builder::new(params).psk(0, &[1; 32]).unwrap().prologue(b"SVL\x02").unwrap();
            let mut noise = builder.local_private_key(&[9; 32]).unwrap().build_initiator().unwrap();
            shake(&mut socket, b"SVL\x02", &mut noise, 96).await;
            let mut message = [0; 65535];
            let n = noise.write_message(&[], &mut message).unwrap();
            socket.write_all(&message[..n]).await.unwrap();
            let mut noise = noise.into_transport_mode().unwrap();
            send(&mut socket, &mut noise, &frame).await;
            let read = timeout(PATIENCE, socket.read(&mut [0])).await.expect("it was not hung up on");
            assert!(matches!(read, Ok(0) | Err(_)), "no answer to a broken frame");
        }
    });
}

#[test]
fn a_new_box_asks_until_the_site_has_decided_and_no_link_comes_of_it() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let ((listener, at), (closed, nobody)) = (listen(), listen());
        drop(closed);
        let gateway = start(dir.path(), 1, listener, &[], &USUAL);
        let own = StaticKey::new([9; 32]).unwrap();
        let (key, seeds) = (LinkKey::new([1; 32]), [nobody.to_string(), at.to_string()]);
        let question = |site: &str, token| {
            let addresses = GatewayAddresses { peer: "box-9:7081".into(), ..GatewayAddresses::default() };
            join_question(site.into(), JoinToken([token; 32]), Incarnation(7), addresses)
        };
        for token in [GOOD, EARLY] {
            let question = question("plant-7", token);
            let asked = link::ask_to_join(&seeds, &key, &own, &question);
            let answered = timeout(PATIENCE, asked).await.unwrap().unwrap();
            assert_eq!(answered, answer(own.public()), "admitted with the key that it showed");
        }
        let refused = async |question: JoinQuestion| {
            let asked = link::ask_to_join(&seeds, &key, &own, &question);
            timeout(PATIENCE, asked).await.unwrap().unwrap_err().to_string()
        };
        let said = refused(question("plant-7", WRONG)).await;
        assert!(said.contains("no such token") && said.contains(&at.to_string()), "{said}");
        let said = refused(question("plant-8", GOOD)).await;
        assert!(said.contains("plant-8") && said.contains("site.seeds"), "{said}");
        assert!(gateway.links.status().is_empty());
    });
}

/// Prints what a link carries and how long a message takes; run it with
/// `cargo test --release -p selvedge-gateway --test link -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn measure_throughput_and_latency() {
    run(async {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let ((l1, a1), (l2, a2)) = (listen(), listen());
        let mut g1 = start(dirs[0].path(), 1, l1, &[(2, a2)], &USUAL);
        let mut g2 = start(dirs[1].path(), 2, l2, &[(1, a1)], &USUAL);
        g1.up(&[1, 2]).await;
        g2.up(&[1, 2]).await;
        for (bytes, count) in [(65_536usize, 16_384u64), (4_096, 131_072), (256, 500_000)] {
            let window = (2_000_000 / bytes as u64).min(10_000); // within the queue, so that nothing is dropped
            let begin = std::time::Instant::now();
            let (mut sent, mut got) = (0, 0);
            while got < count {
                let some = (window - (sent - got)).min(count - sent);
                if some > 0 {
                    g1.links.send(id(2), (0..some).map(|_| message(0, bytes)).collect());
                    sent += some;
                }
                if let Event::From(_, messages) = g2.event().await {
                    got += messages.len() as u64;
                }
            }
            let s = begin.elapsed().as_secs_f64();
            let (mb, k) = (count as f64 * bytes as f64 / s / 1e6, count as f64 / s / 1e3);
            println!("messages of {bytes} bytes: {mb:.0} MB/s, {k:.0} thousand messages/s");
        }
        let mut trips = vec![];
        for n in 0..5_000u64 {
            let begin = std::time::Instant::now();
            g1.links.send(id(2), vec![message(n, 200)]);
            g2.numbers(1, 1).await;
            g2.links.send(id(1), vec![message(n, 50)]);
            g1.numbers(2, 1).await;
            trips.push(begin.elapsed().as_micros());
        }
        trips.sort_unstable();
        println!("there and back, idle link: median {} us, p99 {} us", trips[2_500], trips[4_950]);
        let begin = std::time::Instant::now();
        g1.kill().await;
        g2.up(&[2]).await;
        println!("a killed process is down after {} ms", begin.elapsed().as_millis());
    });
}
