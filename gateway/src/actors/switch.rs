//! The switch: takes what comes from peers to whom it concerns, and what goes to peers to their links;
//! tells everyone who lives; and finds the replica that can answer a query.

use crate::actors::forwarder::{Answered, Forwarder, GatewayDown, GatewayUp};
use crate::actors::front::Front;
use crate::actors::link::{FromPeer, PeerLinks, PeersChanged};
use crate::actors::pulse;
use crate::actors::shard::{ShardActor, ShardEvents};
use crate::logic::machine::WindowView;
use crate::logic::peer::{PeerMessage, QueryAnswer, WindowQuery};
use crate::logic::ring::Ring;
use crate::logic::shard::{CONFIGURATION, Event};
use actix::{Actor, Addr, Context, Handler, Message};
use selvedge_shared::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How often changed subscriptions are told to peers, and queries are looked after.
const LOOK_MS: u64 = 200;
/// A query that nobody answered in this time is given up.
pub const QUERY_WAIT_MS: u64 = 3_000;
/// A query that was not answered is put to another replica after this time.
const QUERY_RETRY_MS: u64 = 500;
/// How many queries may wait.
pub const MAX_QUERIES: usize = 256;

/// Messages to gateways: peers, or this one.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ToPeers(pub Vec<(GatewayId, PeerMessage)>);

/// Whom the switch serves.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Connect {
    /// The shards that have a replica here.
    pub shards: BTreeMap<ShardId, Addr<ShardActor>>,
    /// This gateway's forwarder.
    pub forwarder: Addr<Forwarder>,
    /// The links.
    pub links: PeerLinks,
}

/// Asks the site about recent windows; the answer comes through `reply`, nothing if there is none.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Ask {
    /// The shard of the device.
    pub shard: ShardId,
    /// The question.
    pub query: WindowQuery,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Vec<WindowView>>,
}

/// Subscriptions have changed here: the peers are told at once, for what they take in from now on is wanted.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct InterestChanged;

/// Asks who lives.
#[derive(Debug, Message)]
#[rtype(result = "BTreeSet<GatewayId>")]
pub struct GetPeers;

struct Waiting {
    shard: ShardId,
    query: WindowQuery,
    reply: oneshot::Sender<Vec<WindowView>>,
    since: Instant,
    asked: Instant,
    tries: usize,
}

/// The switch.
pub struct Switch {
    me: GatewayId,
    ring: Arc<Ring>,
    front: Arc<Front>,
    to: Option<Connect>,
    up: BTreeSet<GatewayId>,
    told: u64,
    last_query: u64,
    queries: BTreeMap<u64, Waiting>,
}

impl Switch {
    /// A switch that knows nobody yet.
    pub fn new(me: GatewayId, ring: Arc<Ring>, front: Arc<Front>) -> Self {
        Self {
            me,
            ring,
            front,
            to: None,
            up: BTreeSet::from([me]),
            told: 0,
            last_query: 0,
            queries: BTreeMap::new(),
        }
    }

    fn take_in(&mut self, from: GatewayId, messages: Vec<PeerMessage>) {
        let mut events: BTreeMap<ShardId, Vec<Event>> = BTreeMap::new();
        let mut answers = Vec::new();
        for message in messages {
            match message {
                PeerMessage::Paxos { group, configuration, message } if configuration == CONFIGURATION => {
                    events.entry(group).or_default().push(Event::Paxos { from, message });
                }
                PeerMessage::Transfer { shard, configuration, message } if configuration == CONFIGURATION => {
                    events.entry(shard).or_default().push(Event::Transfer { from, message });
                }
                PeerMessage::Paxos { .. } | PeerMessage::Transfer { .. } => {
                    metrics::counter!("selvedge_foreign_configuration_total").increment(1);
                }
                PeerMessage::Forward { shard, origin, n, submission } => {
                    events.entry(shard).or_default().push(Event::Forward { from, origin, n, submission });
                }
                PeerMessage::Query { id, shard, query } => {
                    events.entry(shard).or_default().push(Event::Query { from, id, query });
                }
                PeerMessage::Forwarded { shard, origin, n, answer } => {
                    answers.push((origin, shard, n, answer))
                }
                PeerMessage::Answer { id, answer } => self.answered(id, answer),
                PeerMessage::Evict { start, connection } => self.front.evict(start, connection),
                PeerMessage::Interest { filters } => self.front.set_interest(from, &filters),
                PeerMessage::Route { publishes } => self.front.route_in(publishes),
            }
        }
        let Some(to) = &self.to else { return };
        for (shard, events) in events {
            if let Some(actor) = to.shards.get(&shard) {
                actor.do_send(ShardEvents(events));
            }
        }
        if !answers.is_empty() {
            to.forwarder.do_send(Answered { from, answers });
        }
    }

    fn send(&mut self, messages: Vec<(GatewayId, PeerMessage)>) {
        let mut by_peer: BTreeMap<GatewayId, Vec<PeerMessage>> = BTreeMap::new();
        for (to, message) in messages {
            by_peer.entry(to).or_default().push(message);
        }
        if let Some(own) = by_peer.remove(&self.me) {
            self.take_in(self.me, own);
        }
        if let Some(to) = &self.to {
            for (peer, messages) in by_peer {
                to.links.send(peer, messages);
            }
        }
    }

    /// Puts a query to the replica that it is the turn of.
    fn put(&mut self, id: u64) {
        let Some(waiting) = self.queries.get_mut(&id) else { return };
        let replicas = self.ring.replicas(waiting.shard);
        let live: Vec<_> = replicas.iter().filter(|r| self.up.contains(r)).collect();
        let own = replicas.contains(&self.me) && waiting.query.stale;
        let Some(to) =
            (if own { Some(&self.me) } else { live.get(waiting.tries % live.len().max(1)).copied() })
        else {
            return;
        };
        (waiting.tries, waiting.asked) = (waiting.tries + 1, Instant::now());
        let message = PeerMessage::Query { id, shard: waiting.shard, query: waiting.query.clone() };
        let to = *to;
        self.send(vec![(to, message)]);
    }

    fn answered(&mut self, id: u64, answer: QueryAnswer) {
        match answer {
            QueryAnswer::Windows(windows) => {
                if let Some(waiting) = self.queries.remove(&id) {
                    let _ = waiting.reply.send(windows); // who asked may have gone
                }
            }
            QueryAnswer::NotLeader { leader: Some(leader) } => {
                if let Some(waiting) = self.queries.get_mut(&id).filter(|w| w.tries < 16) {
                    (waiting.tries, waiting.asked) = (waiting.tries + 1, Instant::now());
                    let message =
                        PeerMessage::Query { id, shard: waiting.shard, query: waiting.query.clone() };
                    self.send(vec![(GatewayId(leader), message)]);
                }
            }
            QueryAnswer::NotLeader { leader: None } | QueryAnswer::Unavailable => {} // tried again by the clock
        }
    }

    fn tell_interest(&mut self) {
        let (version, filters) = self.front.filters();
        if version != self.told {
            self.told = version;
            let peers: Vec<_> = self.up.iter().copied().filter(|p| *p != self.me).collect();
            let interest = |peer| (peer, PeerMessage::Interest { filters: filters.clone() });
            self.send(peers.into_iter().map(interest).collect());
        }
    }

    fn look(&mut self) {
        self.tell_interest();
        let given_up = |w: &Waiting| w.since.elapsed() > Duration::from_millis(QUERY_WAIT_MS);
        self.queries.retain(|_, w| !given_up(w));
        let late = |w: &Waiting| w.asked.elapsed() > Duration::from_millis(QUERY_RETRY_MS);
        let again: Vec<_> = self.queries.iter().filter(|(_, w)| late(w)).map(|(id, _)| *id).collect();
        for id in again {
            self.put(id);
        }
    }
}

impl Actor for Switch {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(1024);
        pulse::every(ctx, LOOK_MS, Self::look);
    }
}

impl Handler<Connect> for Switch {
    type Result = ();
    fn handle(&mut self, connect: Connect, _: &mut Self::Context) {
        let up: Vec<_> = self.up.iter().copied().collect();
        for shard in connect.shards.values() {
            shard.do_send(ShardEvents(vec![Event::Peers { up: up.clone(), restarted: Vec::new() }]));
        }
        self.to = Some(connect);
    }
}

impl Handler<FromPeer> for Switch {
    type Result = ();
    fn handle(&mut self, FromPeer { peer, messages }: FromPeer, _: &mut Self::Context) {
        self.take_in(peer, messages);
    }
}

impl Handler<PeersChanged> for Switch {
    type Result = ();
    fn handle(&mut self, PeersChanged { up, restarted }: PeersChanged, _: &mut Self::Context) {
        for gone in self.up.difference(&up) {
            tracing::warn!(peer = %gone, "a gateway can't be reached");
        }
        for fresh in up.difference(&self.up) {
            tracing::info!(peer = %fresh, "a gateway is reached");
        }
        if let Some(to) = &self.to {
            let event = || Event::Peers { up: up.iter().copied().collect(), restarted: restarted.clone() };
            for shard in to.shards.values() {
                shard.do_send(ShardEvents(vec![event()]));
            }
            for gone in self.up.difference(&up).chain(&restarted) {
                to.forwarder.do_send(GatewayDown(*gone));
            }
            for back in up.difference(&self.up).chain(restarted.iter().filter(|r| up.contains(r))) {
                to.forwarder.do_send(GatewayUp(*back));
            }
        }
        self.up = up;
        self.told = u64::MAX; // a peer that comes back is told the subscriptions again
    }
}

impl Handler<ToPeers> for Switch {
    type Result = ();
    fn handle(&mut self, ToPeers(messages): ToPeers, _: &mut Self::Context) {
        self.send(messages);
    }
}

impl Handler<InterestChanged> for Switch {
    type Result = ();
    fn handle(&mut self, _: InterestChanged, _: &mut Self::Context) {
        self.tell_interest();
    }
}

impl Handler<Ask> for Switch {
    type Result = ();
    fn handle(&mut self, Ask { shard, query, reply }: Ask, _: &mut Self::Context) {
        if self.queries.len() >= MAX_QUERIES {
            return; // the asker sees its channel close
        }
        self.last_query += 1;
        let now = Instant::now();
        self.queries
            .insert(self.last_query, Waiting { shard, query, reply, since: now, asked: now, tries: 0 });
        self.put(self.last_query);
    }
}

impl Handler<GetPeers> for Switch {
    type Result = actix::MessageResult<GetPeers>;
    fn handle(&mut self, _: GetPeers, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.up.clone())
    }
}
