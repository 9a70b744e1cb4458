//! The switch: routes messages from peers to the actors that they concern, and messages to peers to their links, or by a
//! detour ([`selvedge_fabric::detour`]) where a link is down; announces which gateways are up; and puts questions to the
//! site's replicas.

use crate::actors::clock::SiteClock;
use crate::actors::link::PeerLinks;
use crate::actors::messages::PlacementChanged;
use crate::actors::messages::describer::Describe;
use crate::actors::messages::forwarder::{Answered, GatewayDown, GatewayUp};
use crate::actors::messages::host::ReplicaMade;
use crate::actors::messages::shard::ShardEvents;
use crate::actors::messages::switch::{
    Ask, AskTable, FromPeer, GetPeers, InterestChanged, PeersChanged, PeersWithin, ToPeers,
};
use crate::actors::pulse;
use crate::actors::replicas::Replicas;
use crate::actors::room::SiteRoom;
use crate::front::Front;
use actix::{Actor, Context, Handler, Message, Recipient};
use selvedge_fabric::detour::{self, DetourRefused};
use selvedge_fabric::peer::{PeerMessage, TableAnswer, TableQuestion};
use selvedge_fabric::reach::Reach;
use selvedge_fabric::ring::Ring;
use selvedge_fabric::shard::ShardEvent;
use selvedge_fabric::site_questions::{self, SiteAnswer, SiteQuestions};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// How many questions about tables may be open.
const MAX_TABLE_QUESTIONS: usize = 256;

/// How often peers learn of changed subscriptions, clocks and disks are compared, and open questions are checked.
const LOOK_MS: u64 = 200;

/// The ways out of the switch.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SwitchWays {
    pub replicas: Arc<Replicas>,
    /// To the forwarder: answers about its batches.
    pub answered: Recipient<Answered>,
    /// To the forwarder: a gateway that can't be reached.
    pub down: Recipient<GatewayDown>,
    /// To the forwarder: a gateway that can be reached again.
    pub up: Recipient<GatewayUp>,
    /// To the describer: gateways that ask how this one is.
    pub describe: Recipient<Describe>,
    pub links: PeerLinks,
}

/// Routes messages between peers and the other actors of the gateway.
pub struct Switch {
    me: GatewayId,
    front: Arc<Front>,
    ways: Option<SwitchWays>,
    reach: Reach,
    /// Whose replicas are preferred for detours.
    ring: Arc<Ring>,
    told: u64,
    epoch: Instant,
    clock: Arc<SiteClock>,
    /// The gateways whose clocks are outside, as last sent to the shards.
    outside: Vec<GatewayId>,
    room: Arc<SiteRoom>,
    /// The gateways whose disks are full, as last logged.
    full: Vec<GatewayId>,
    /// The gateways that should lead nothing, as last sent to the shards.
    reluctant: Vec<GatewayId>,
    asks: SiteQuestions,
    /// Where the answer to each question about windows goes.
    replies: BTreeMap<u64, oneshot::Sender<SiteAnswer>>,
    /// Where the answer to each question about a table goes.
    tables: BTreeMap<u64, oneshot::Sender<TableAnswer>>,
    last_table: u64,
}

impl Switch {
    /// A switch that has no ways out yet and knows only this gateway as up. Monotonic times count from `epoch`.
    pub fn new(
        me: GatewayId,
        ring: Arc<Ring>,
        front: Arc<Front>,
        epoch: Instant,
        clock: Arc<SiteClock>,
        room: Arc<SiteRoom>,
    ) -> Self {
        Self {
            me,
            front,
            ways: None,
            reach: Reach::new(me),
            ring: ring.clone(),
            told: 0,
            epoch,
            clock,
            outside: Vec::new(),
            room,
            full: Vec::new(),
            reluctant: Vec::new(),
            asks: SiteQuestions::new(me, ring, fastrand::u64(..)),
            replies: BTreeMap::new(),
            tables: BTreeMap::new(),
            last_table: fastrand::u64(..u64::MAX / 2),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// What the replicas were told of the other gateways, for one that comes later.
    fn told_so_far(&self) -> Vec<ShardEvent> {
        let up = self.reach.up().iter().copied().collect();
        let said = Arc::new(self.reach.said().clone());
        let mut events = vec![ShardEvent::Peers { up, restarted: Vec::new() }, ShardEvent::Said(said)];
        if !self.outside.is_empty() {
            events.push(ShardEvent::Clocks { outside: self.outside.clone() });
        }
        if !self.reluctant.is_empty() {
            events.push(ShardEvent::Full { who: self.reluctant.clone() });
        }
        events
    }

    /// Takes in messages from the other end of a link, or of this gateway itself.
    fn take_in(&mut self, peer: GatewayId, messages: Vec<PeerMessage>) {
        let mut events: BTreeMap<ShardId, Vec<ShardEvent>> = BTreeMap::new();
        let mut answers: BTreeMap<GatewayId, Vec<_>> = BTreeMap::new();
        for message in messages {
            let (from, message) = match message {
                PeerMessage::Detoured { from, message } => match self.arrived(peer, from, &message) {
                    Some(message) => (from, message),
                    None => continue,
                },
                message => (peer, message),
            };
            match message {
                PeerMessage::Detour { to, message } => self.pass_on(peer, to, message),
                PeerMessage::Detoured { .. } => {} // within another one: `arrived` lets none through
                PeerMessage::Paxos { group, configuration, message } => {
                    events.entry(group).or_default().push(ShardEvent::Paxos { from, configuration, message });
                }
                PeerMessage::Transfer { shard, configuration, message } => {
                    events.entry(shard).or_default().push(ShardEvent::Transfer {
                        from,
                        configuration,
                        message,
                    });
                }
                PeerMessage::Superseded { shard, configuration } => {
                    metrics::counter!("selvedge_foreign_configuration_total").increment(1);
                    events.entry(shard).or_default().push(ShardEvent::Superseded { from, configuration });
                }
                PeerMessage::Forward { shard, origin, n, submission } => {
                    events.entry(shard).or_default().push(ShardEvent::Forward {
                        from,
                        origin,
                        n,
                        submission,
                    });
                }
                PeerMessage::Query { id, shard, query } => {
                    events.entry(shard).or_default().push(ShardEvent::Query { from, id, query });
                }
                PeerMessage::AskTable { id, question } => match question.shard() {
                    Some(shard) => {
                        events.entry(shard).or_default().push(ShardEvent::AskTable { from, id, question });
                    }
                    None => self.answer(from, id, &question),
                },
                PeerMessage::TableAnswer { id, answer } => {
                    if let Some(reply) = self.tables.remove(&id) {
                        let _ = reply.send(answer); // the request may be gone
                    }
                }
                PeerMessage::Forwarded { shard, origin, n, answer } => {
                    answers.entry(from).or_default().push((origin, shard, n, answer))
                }
                PeerMessage::Answer { id, answer } => {
                    let (now_ms, mut effects) = (self.now_ms(), Vec::new());
                    self.asks.answered(now_ms, id, answer, &mut effects);
                    self.perform(effects);
                }
                PeerMessage::Evict { start, connection } => self.front.evict(start, connection),
                PeerMessage::EvictAll { start, shard } => self.front.evict_all(start, shard),
                PeerMessage::Interest { filters } => self.front.set_interest(from, &filters),
                PeerMessage::Route { publisher, publishes } => {
                    self.front.route_in(from, publisher, publishes)
                }
                PeerMessage::Taken { publishers } => self.front.taken(publishers),
            }
        }
        self.front.tell_taken();
        let Some(ways) = &self.ways else { return };
        let replicas = ways.replicas.all();
        for (shard, events) in events {
            if let Some(replica) = replicas.get(&shard)
                && replica.events.try_send(ShardEvents(events)).is_err()
            {
                metrics::counter!("selvedge_shard_behind_total").increment(1);
            }
        }
        for (from, answers) in answers {
            ways.answered.do_send(Answered { from, answers });
        }
    }

    /// Passes on what a peer sends to another one by this gateway. It goes over a link or nowhere: never by a detour.
    fn pass_on(&self, from: GatewayId, to: GatewayId, message: Arc<[u8]>) {
        match detour::pass_on(&self.reach, from, to, message) {
            Ok((to, message)) => {
                metrics::counter!("selvedge_detours_total", "what" => "passed_on").increment(1);
                if let Some(ways) = &self.ways {
                    ways.links.send(to, vec![message]);
                }
            }
            Err(why) => Self::refused(from, why),
        }
    }

    /// The message in what has come through a peer, if it may be taken.
    fn arrived(&self, by: GatewayId, from: GatewayId, message: &[u8]) -> Option<PeerMessage> {
        let is_peer = |from| self.ways.as_ref().is_some_and(|ways| ways.links.knows(from));
        match detour::arrived(by, from, message, is_peer) {
            Ok(message) => {
                metrics::counter!("selvedge_detours_total", "what" => "taken").increment(1);
                Some(message)
            }
            Err(why) => {
                Self::refused(by, why);
                None
            }
        }
    }

    fn refused(by: GatewayId, why: DetourRefused) {
        metrics::counter!("selvedge_detours_total", "what" => "refused").increment(1);
        tracing::debug!(%by, "a message by a detour was dropped: {why}");
    }

    /// Answers from what this gateway itself knows.
    fn answer(&mut self, to: GatewayId, id: u64, question: &TableQuestion) {
        let uptime_ms = self.now_ms();
        let answer = match question {
            TableQuestion::Unmapped => {
                let (total, topics) = self.front.unmapped();
                TableAnswer::Unmapped { total, topics, uptime_ms }
            }
            TableQuestion::Skipped { device } => {
                TableAnswer::Skipped { list: self.front.skipped(device.as_deref()), uptime_ms }
            }
            TableQuestion::Gateway => {
                if let Some(ways) = &self.ways {
                    let _ = ways.describe.try_send(Describe { to, id }); // else the asker counts it as missing
                }
                return;
            }
            _ => return, // the shard's leader answers it
        };
        self.send(vec![(to, PeerMessage::TableAnswer { id, answer })]);
    }

    fn send(&mut self, messages: Vec<(GatewayId, PeerMessage)>) {
        let mut by_peer: BTreeMap<GatewayId, Vec<PeerMessage>> = BTreeMap::new();
        for (to, message) in messages {
            let (to, message) = match to == self.me || self.reach.up().contains(&to) {
                true => (to, message),
                false => self.address(to, message),
            };
            by_peer.entry(to).or_default().push(message);
        }
        if let Some(own) = by_peer.remove(&self.me) {
            self.take_in(self.me, own);
        }
        if let Some(ways) = &self.ways {
            for (peer, messages) in by_peer {
                ways.links.send(peer, messages);
            }
        }
    }

    /// Addresses a message for a gateway whose link is down.
    fn address(&self, to: GatewayId, message: PeerMessage) -> (GatewayId, PeerMessage) {
        let preferred = message.shard().map_or(&[][..], |shard| self.ring.replicas(shard));
        let (to, message) = detour::address(&self.reach, to, message, preferred);
        if matches!(message, PeerMessage::Detour { .. }) {
            metrics::counter!("selvedge_detours_total", "what" => "sent").increment(1);
        }
        (to, message)
    }

    fn perform(&mut self, effects: Vec<site_questions::QuestionEffect>) {
        let mut messages = Vec::new();
        for effect in effects {
            match effect {
                site_questions::QuestionEffect::Send(to, message) => messages.push((to, message)),
                site_questions::QuestionEffect::Told(question, told) => {
                    if let Some(reply) = self.replies.remove(&question) {
                        let _ = reply.send(told); // the request may be gone
                    }
                }
            }
        }
        if !messages.is_empty() {
            self.send(messages);
        }
    }

    fn tell_interest(&mut self) {
        let (version, filters) = self.front.filters();
        if version != self.told {
            self.told = version;
            let filters: Arc<[String]> = filters.into();
            let peers: Vec<_> = self.reach.up().iter().copied().filter(|p| *p != self.me).collect();
            let interest = |peer| (peer, PeerMessage::Interest { filters: filters.clone() });
            self.send(peers.into_iter().map(interest).collect());
        }
    }

    fn look_at_clocks(&mut self) {
        let outside = self.clock.look();
        let Some(ways) = self.ways.as_ref().filter(|_| outside != self.outside) else { return };
        match outside.is_empty() {
            true => tracing::info!("the gateways agree on the time"),
            false => tracing::warn!(
                gateways = ?outside,
                "their wall clocks differ from the time that a majority agrees on: set them right; these gateways lead only when no other \
                 can"
            ),
        }
        for replica in ways.replicas.all().values() {
            replica.events.do_send(ShardEvents(vec![ShardEvent::Clocks { outside: outside.clone() }]));
        }
        self.outside = outside;
    }

    fn look_at_room(&mut self) {
        let full = self.room.full();
        if full != self.full && !full.is_empty() {
            tracing::warn!(gateways = ?full, "their disks are full: free some space; other gateways lead where a majority has room");
        }
        self.full = full;
        // A gateway that is being emptied leads no more than one whose disk is full.
        let who = self.room.reluctant();
        let Some(ways) = self.ways.as_ref().filter(|_| who != self.reluctant) else { return };
        for replica in ways.replicas.all().values() {
            replica.events.do_send(ShardEvents(vec![ShardEvent::Full { who: who.clone() }]));
        }
        self.reluctant = who;
    }

    fn look(&mut self) {
        self.look_at_clocks();
        self.look_at_room();
        self.tell_interest();
        self.front.tell_taken();
        if self.asks.open() > 0 {
            let (now_ms, mut effects) = (self.now_ms(), Vec::new());
            for (question, _) in self.replies.extract_if(.., |_, reply| reply.is_closed()) {
                self.asks.withdraw(now_ms, question, &mut effects);
            }
            self.asks.timer(now_ms, &mut effects);
            self.perform(effects);
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

impl Handler<SwitchWays> for Switch {
    type Result = ();
    fn handle(&mut self, ways: SwitchWays, _: &mut Self::Context) {
        for replica in ways.replicas.all().values() {
            replica.events.do_send(ShardEvents(self.told_so_far()));
        }
        self.ways = Some(ways);
    }
}

impl Handler<ReplicaMade> for Switch {
    type Result = ();
    fn handle(&mut self, ReplicaMade { shard, .. }: ReplicaMade, _: &mut Self::Context) {
        if let Some(replica) = self.ways.as_ref().and_then(|ways| ways.replicas.get(shard)) {
            replica.events.do_send(ShardEvents(self.told_so_far()));
        }
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
    fn handle(&mut self, PeersChanged(change): PeersChanged, _: &mut Self::Context) {
        let news = self.reach.changed(change);
        for gone in &news.lost {
            tracing::warn!(peer = %gone, "a gateway can't be reached");
        }
        for fresh in &news.reached {
            tracing::info!(peer = %fresh, "a gateway can be reached");
        }
        for by_detour in news.back.iter().filter(|g| !self.reach.up().contains(g)) {
            let through = self.reach.detour(*by_detour, &[]);
            tracing::info!(peer = %by_detour, ?through, "a gateway can be reached by a detour");
        }
        if let Some(ways) = &self.ways {
            let said = Arc::new(news.said);
            for replica in ways.replicas.all().values() {
                let (up, restarted) = (news.up.clone(), news.restarted.clone());
                let events = vec![ShardEvent::Peers { up, restarted }, ShardEvent::Said(said.clone())];
                replica.events.do_send(ShardEvents(events));
            }
            news.gone.iter().for_each(|gone| ways.down.do_send(GatewayDown(*gone)));
            news.back.iter().for_each(|back| ways.up.do_send(GatewayUp(*back)));
        }
        let (now_ms, mut effects) = (self.now_ms(), Vec::new());
        self.asks.peers(now_ms, &self.reach.within(), &mut effects);
        if !news.reached.is_empty() {
            self.told = u64::MAX; // so that a peer that comes back learns the subscriptions again
        }
        self.perform(effects);
    }
}

impl Handler<PlacementChanged> for Switch {
    type Result = ();
    fn handle(&mut self, PlacementChanged(ring): PlacementChanged, _: &mut Self::Context) {
        let (now_ms, mut effects) = (self.now_ms(), Vec::new());
        self.ring = ring.clone();
        self.asks.set_ring(now_ms, ring, &mut effects);
        self.perform(effects);
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
    fn handle(&mut self, Ask { wanted, reply }: Ask, _: &mut Self::Context) {
        let (now_ms, mut effects) = (self.now_ms(), Vec::new());
        if let Some(question) = self.asks.ask(now_ms, wanted, &mut effects) {
            self.replies.insert(question, reply);
        }
        self.perform(effects);
    }
}

impl Handler<AskTable> for Switch {
    type Result = ();
    fn handle(&mut self, AskTable { to, question, reply }: AskTable, _: &mut Self::Context) {
        self.tables.retain(|_, reply| !reply.is_closed());
        if self.tables.len() >= MAX_TABLE_QUESTIONS {
            return;
        }
        self.last_table += 1;
        let id = self.last_table;
        self.tables.insert(id, reply);
        let ask = |to| (to, PeerMessage::AskTable { id, question: question.clone() });
        self.send(to.into_iter().map(ask).collect());
    }
}

impl Handler<GetPeers> for Switch {
    type Result = actix::MessageResult<GetPeers>;
    fn handle(&mut self, _: GetPeers, _: &mut Self::Context) -> Self::Result {
        let up = self.reach.up().clone();
        let distant = self.reach.within().into_iter().filter(|g| !up.contains(g));
        let by_detour = distant.filter_map(|g| Some((g, self.reach.detour(g, &[])?))).collect();
        actix::MessageResult(PeersWithin { up, by_detour })
    }
}
