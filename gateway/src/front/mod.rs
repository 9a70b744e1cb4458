//! The front: the state that the MQTT connections of a gateway share, and their connection to the forwarder. It admits
//! clients, steps their sessions ([`selvedge_fabric::session`]), has wills published, and routes publishes to
//! subscribers here and at peers.
//!
//! The tasks of connections and the forwarder call it, on several threads at once; every lock is held for one batch of
//! one connection. What the front wants done elsewhere goes through [`Outside`], which accepts it without waiting.
//!
//! Invariant: a client whose shard can't make progress, or that comes while the site accepts no readings, is refused at
//! once: no client waits in vain.
//! Invariant: of several connections of one client whose CONNECT waits at this gateway, only the last one may be
//! admitted.
//! Invariant: submissions of one connection leave in the order of its events: its session is locked until they have
//! left.
//! Invariant: a client that [`selvedge_fabric::redirection`] sends to another gateway first gets the answers that it is owed.
//! Invariant: what sessions hold of publishes is charged to the credit of all connections ([`selvedge_mqtt::credit`]).

pub mod arriving;
mod away;
mod load;

pub use load::Load;

use arriving::Arriving;
use away::Away;
use bytes::Bytes;
use metrics::Counter;
use selvedge_fabric::decode::{Decoder, Rebirth, Skipped, SparkplugFigures};
use selvedge_fabric::forward::{Forwardable, SettledItem, Ticket};
use selvedge_fabric::machine::{DueWill, Origin};
use selvedge_fabric::peer::{BusyReason, MAX_INTEREST_FILTERS, PeerMessage, RoutedPublish};
use selvedge_fabric::redirection::{Arrival, DeviceSite, Elsewhere, Redirection};
use selvedge_fabric::ring::Ring;
use selvedge_fabric::session::{Fates, Session, SessionContext, SessionEffects};
use selvedge_fabric::skips::{DeviceSkips, Skips};
use selvedge_fabric::unmapped::{Unmapped, UnmappedTopic};
use selvedge_fabric::wills::{WILLS, WillPublisher};
use selvedge_mqtt::{Application, Charge, CreditPool, Departure, Handle, Router, Traffic};
use selvedge_types::balance::Policy;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::mqtt::{Answer, CloseReason, Connect, Inbound, Publish, QoS, Refusal, Version};
use selvedge_types::report::SkippedField;
use selvedge_types::time::EpochMs;
use selvedge_types::topic::Filter;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

struct Client {
    handle: Arc<Handle>,
    session: Mutex<Session>,
    /// For what the session holds; updated while the session is locked.
    charge: Charge,
    version: Version,
    since: EpochMs,
}

impl Client {
    /// Updates the charge to what the (locked) session holds now.
    fn charge(&self, session: &Session) {
        let bytes = session.held_bytes();
        self.charge.set(bytes);
        self.handle.note_held(bytes);
    }
}

/// A client that is connected, or whose CONNECT is not answered yet.
#[derive(Debug)]
pub struct ConnectedClient {
    /// The connection's number: later connections have greater ones.
    pub connection: u64,
    pub client: String,
    pub peer: SocketAddr,
    /// The MQTT version that it speaks.
    pub version: Version,
    /// When its CONNECT came.
    pub since: EpochMs,
    /// Whether its CONNECT still waits for its shard.
    pub arriving: bool,
    /// Whether its session outlives the connection.
    pub durable: bool,
    /// Messages for it that were dropped.
    pub dropped: u64,
    /// Publishes and bytes in each direction.
    pub traffic: Traffic,
}

/// The connection number in tickets of operators' orders; no MQTT connection has this number.
pub const ORDERS: u64 = u64::MAX;

/// The surroundings of the front: they accept what the front wants done, without waiting, and know the time.
pub trait Outside: Send + Sync {
    /// Milliseconds of a clock that never goes back.
    fn now_ms(&self) -> u64;
    /// The wall time, as the site's gateways agree on it.
    fn wall(&self) -> EpochMs;
    /// Accepts items for the shards; each shard gets them in this order, after earlier ones.
    fn submit(&self, items: Vec<(ShardId, Ticket, Forwardable)>);
    /// Takes back items that no client waits for any more. It calls [`Front::withdrawn`] for each one that could be
    /// taken back.
    fn withdraw(&self, items: Vec<(ShardId, Ticket)>);
    /// Sends messages to a peer, in order. What can't be sent is lost.
    fn send(&self, peer: GatewayId, messages: Vec<PeerMessage>);
    /// Subscriptions at this gateway have changed ([`Front::filters`]).
    fn interest_changed(&self);
    /// Accepts the outcome of an item that was submitted with a ticket of [`ORDERS`].
    fn ordered(&self, settled: SettledItem);
    /// A connection has ended, or was refused.
    fn departed(&self, departure: &Departure);
}

/// The state that the connections of a gateway share.
pub struct Front {
    ring: Arc<Ring>,
    decoder: Decoder,
    origin: Origin,
    outside: Arc<dyn Outside>,
    clients: RwLock<HashMap<u64, Arc<Client>>>,
    credit: Arc<CreditPool>,
    arriving: Arriving,
    /// Never locked together with a session.
    redirection: Mutex<Redirection>,
    /// Locked after a session, never before one.
    wills: Mutex<WillPublisher>,
    router: Router,
    interest: RwLock<BTreeMap<GatewayId, Vec<Filter>>>,
    away: Mutex<Away>,
    skips: Mutex<Skips>,
    unmapped: Mutex<Unmapped>,
    overloaded: AtomicBool,
    busy: AtomicU8,
    acked: AtomicU64,
    figures: Figures,
}

/// Handles of the counters that nearly every batch of publishes moves: looking a counter up takes as long as counting a
/// hundred times.
struct Figures {
    acked: Counter,
    counted: Counter,
    recognised: Counter,
    set_aside: Counter,
}

impl Figures {
    fn new() -> Self {
        let readings = |fate: &'static str| metrics::counter!("selvedge_readings_total", "fate" => fate);
        Self {
            acked: metrics::counter!("selvedge_publishes_acked_total"),
            counted: readings("counted"),
            recognised: readings("recognised"),
            set_aside: readings("set_aside"),
        }
    }

    fn note(&self, acked: u64, fates: Fates) {
        self.acked.increment(acked);
        self.counted.increment(fates.counted);
        self.recognised.increment(fates.recognised);
        self.set_aside.increment(fates.set_aside);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves its data consistent: a panic in one connection must not stop the others.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Front {
    /// A front without connections. `credit` bounds what its connections, its sessions and the forwarder hold of
    /// publishes.
    pub fn new(
        ring: Arc<Ring>,
        decoder: Decoder,
        origin: Origin,
        credit: Arc<CreditPool>,
        outside: Arc<dyn Outside>,
    ) -> Self {
        Self {
            ring,
            decoder,
            origin,
            outside,
            clients: RwLock::default(),
            credit,
            arriving: Arriving::default(),
            redirection: Mutex::new(Redirection::new(None)),
            wills: Mutex::default(),
            router: Router::new(),
            interest: RwLock::default(),
            away: Mutex::default(),
            skips: Mutex::default(),
            unmapped: Mutex::default(),
            overloaded: AtomicBool::new(false),
            busy: AtomicU8::new(0),
            acked: AtomicU64::new(0),
            figures: Figures::new(),
        }
    }

    /// The same, but it balances new clients over the site's gateways by this policy, if there is one.
    pub fn balancing(self, policy: Option<Policy>) -> Self {
        Self { redirection: Mutex::new(Redirection::new(policy)), ..self }
    }

    /// Takes in outcomes of items, in the order in which each shard has settled them.
    pub fn settled(&self, mut outcomes: Vec<SettledItem>) {
        outcomes.sort_by_key(|settled| settled.ticket.connection); // stable, so that the outcomes of each connection stay in order
        let mut outcomes = outcomes.into_iter().peekable();
        while let Some(connection) = outcomes.peek().map(|first| first.ticket.connection) {
            let of_it = std::iter::from_fn(|| outcomes.next_if(|s| s.ticket.connection == connection));
            self.settled_of(connection, of_it);
        }
    }

    /// Takes in outcomes of one connection's items; consumes the whole list.
    fn settled_of(&self, connection: u64, list: impl Iterator<Item = SettledItem>) {
        if connection == ORDERS {
            return list.for_each(|settled| self.outside.ordered(settled));
        }
        if connection == WILLS {
            return list.for_each(|settled| self.will_settled(settled));
        }
        let Some(client) = self.client(connection) else { return list.for_each(drop) };
        let listens = |topic: &str| self.listens(topic);
        let (mut effects, site) = (SessionEffects::default(), self.site(&listens));
        let mut session = lock(&client.session);
        for settled in list {
            session.settled(site, settled, &mut effects);
        }
        client.charge(&session);
        self.perform(&client, effects);
        let over = session.is_over();
        drop(session);
        if over {
            self.forget(connection);
        }
    }

    fn will_settled(&self, settled: SettledItem) {
        let mut effects = SessionEffects::default();
        let listens = |topic: &str| self.listens(topic);
        let waits = lock(&self.wills).settled(self.site(&listens), settled, &mut effects);
        self.spread(WILLS, &mut effects);
        // Subscribers get the will before the next connection of its client is admitted.
        self.route(None, std::mem::take(&mut effects.route));
        let Some(waited) = waits else { return };
        let Some(client) = self.client(waited.connection) else { return };
        let mut session = lock(&client.session);
        match waited.replaced {
            true => session.replaced(&mut effects),
            false => session.will_published(&mut effects),
        }
        self.perform(&client, effects);
    }

    /// Publishes wills of clients whose connections are over.
    pub fn publish_wills(&self, wills: Vec<DueWill>) {
        let mut effects = SessionEffects { wills, ..SessionEffects::default() };
        self.spread(WILLS, &mut effects);
    }

    /// The clients whose CONNECT is not answered yet.
    pub fn arriving(&self) -> &Arriving {
        &self.arriving
    }

    /// Refuses clients whose shard did not answer in time.
    fn expire(&self, now_ms: u64) {
        while let Some(connection) = self.arriving.late(now_ms) {
            if let Some(client) = self.client(connection) {
                self.end_arriving(&client, Session::refuse);
            }
        }
    }

    /// Ends a connection whose CONNECT is not answered, unless it was answered meanwhile.
    fn end_arriving(
        &self,
        client: &Arc<Client>,
        end: impl FnOnce(&mut Session, SessionContext<'_>, &mut SessionEffects),
    ) {
        let mut effects = SessionEffects::default();
        let listens = |topic: &str| self.listens(topic);
        let mut session = lock(&client.session);
        end(&mut session, self.site(&listens), &mut effects);
        self.perform(client, effects);
    }

    /// Notes that the CONNECT of a connection that is over was taken back.
    pub fn withdrawn(&self, connection: u64) {
        let Some(client) = self.client(connection) else { return };
        let mut session = lock(&client.session);
        session.withdrawn();
        let over = session.is_over();
        drop(session);
        if over {
            self.forget(connection);
        }
    }

    /// Why a client can't be admitted now, if it can't.
    fn refusal(&self, client_id: &str) -> Option<Refusal> {
        if self.trouble().is_some() {
            return Some(Refusal::Busy);
        }
        // A client without a client id waits for no shard yet.
        let waits = !client_id.is_empty() && self.arriving.is_stuck(self.ring.shard_of(client_id));
        (waits && !canary::makes(Canary::StuckLaneTaken)).then_some(Refusal::Unavailable)
    }

    /// Notes the site's load: while it is `full`, connections hold publishes back; a lasting reason turns new clients
    /// away.
    fn note_load(&self, full: bool, busy: Option<BusyReason>) {
        self.overloaded.store(full, Ordering::Relaxed);
        let reason = match busy {
            None | Some(BusyReason::Window) => 0,
            Some(BusyReason::Disk) => 1,
            Some(BusyReason::Outbox) => 2,
        };
        if self.busy.swap(reason, Ordering::Relaxed) != reason {
            match reason {
                0 => tracing::info!("taking readings again"),
                1 => {
                    tracing::error!("a disk of the site is full: slowing devices down until there is room")
                }
                _ => tracing::error!(
                    "the outbox budget is reached: slowing devices down until the node confirms"
                ),
            }
        }
    }

    /// Why new clients are turned away, if they are.
    pub fn trouble(&self) -> Option<&'static str> {
        match self.busy.load(Ordering::Relaxed) {
            0 => None,
            1 => Some("a disk of the site is full"),
            _ => Some("the outbox budget is reached"),
        }
    }

    /// Whether new clients are balanced over the site's gateways.
    pub fn balances(&self) -> bool {
        lock(&self.redirection).balances()
    }

    /// Takes which gateways of the site take devices.
    pub fn note_site(&self, site: DeviceSite) {
        lock(&self.redirection).site(self.outside.now_ms(), site);
    }

    /// Takes how many connections another gateway has.
    pub fn note_connections(&self, gateway: GatewayId, connections: u64) {
        lock(&self.redirection).counted(self.outside.now_ms(), gateway, connections);
    }

    /// Where a new client is to go instead, if not here.
    fn redirects(&self, connection: u64, connect: &Connect) -> Option<Elsewhere> {
        let arrival = Arrival { connection, client: &connect.client_id, v5: connect.version == Version::V5 };
        let (now_ms, connections) = (self.outside.now_ms(), self.connections() as u64);
        lock(&self.redirection).arrives(now_ms, fastrand::u64(..), arrival, connections)
    }

    /// Sends connected clients to other gateways, as many as may go now, if this gateway drains. Call it several times a
    /// second meanwhile.
    pub fn send_away(&self) {
        let now_ms = self.outside.now_ms();
        let Some(due) = lock(&self.redirection).due(now_ms) else { return };
        let all = self.clients.read().unwrap_or_else(PoisonError::into_inner);
        let stays = |c: &&Arc<Client>| c.handle.id() > due.up_to || c.handle.away_asked().is_some();
        let mut clients: Vec<_> = all.values().filter(|c| !stays(c)).cloned().collect();
        drop(all);
        clients.sort_unstable_by_key(|client| client.handle.id());
        let mut most = due.most;
        for client in clients {
            if most == 0 {
                break;
            }
            let session = lock(&client.session);
            // A client whose CONNECT is not answered yet is looked at again.
            let name = (!session.arriving() && !session.is_gone()).then(|| session.client().to_string());
            drop(session);
            let Some(name) = name else { continue };
            let v5 = client.version == Version::V5;
            let leaves = lock(&self.redirection).leaves(now_ms, fastrand::u64(..), &name, v5);
            if let Some(Elsewhere { reference }) = leaves {
                most -= 1;
                client.handle.send_away(reference.map(Into::into));
            }
        }
    }

    /// Closes a connection whose session was taken over elsewhere.
    pub fn evict(&self, start: u64, connection: u64) {
        if start == self.origin.start
            && let Some(client) = self.client(connection)
        {
            client.handle.close(CloseReason::TakenOver);
        }
    }

    /// Closes all connections whose clients belong to this shard: the shard has given this gateway up as lost, so there
    /// they count as ended. Their clients connect anew.
    pub fn evict_all(&self, start: u64, shard: ShardId) {
        if start != self.origin.start {
            return;
        }
        let clients: Vec<_> =
            self.clients.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        for client in clients {
            let name = lock(&client.session).client().to_string();
            if !name.is_empty() && self.ring.shard_of(&name) == shard {
                client.handle.close(CloseReason::TakenOver);
            }
        }
    }

    /// The filters that clients here subscribe to, and a number that changes with them.
    pub fn filters(&self) -> (u64, Vec<String>) {
        let (version, filters) = self.router.filters();
        let all = || filters.iter().map(|f| f.as_str().to_string()).collect();
        (version, if filters.len() > MAX_INTEREST_FILTERS { vec!["#".into()] } else { all() })
    }

    /// Replaces the filters that a peer's clients subscribe to.
    pub fn set_interest(&self, peer: GatewayId, filters: &[String]) {
        let filters = filters.iter().take(MAX_INTEREST_FILTERS).filter_map(|f| Filter::new(f).ok()).collect();
        self.interest.write().unwrap_or_else(PoisonError::into_inner).insert(peer, filters);
    }

    /// Drops the filters of all gateways but these: the others were removed from the site.
    pub fn keep_interest(&self, is_of_site: impl Fn(GatewayId) -> bool) {
        self.interest.write().unwrap_or_else(PoisonError::into_inner).retain(|peer, _| is_of_site(*peer));
    }

    /// Routes publishes that another gateway received, on one of its connections, to subscribers here. Call
    /// [`Front::tell_taken`] afterwards.
    pub fn route_in(&self, peer: GatewayId, publisher: u64, publishes: Vec<RoutedPublish>) {
        let (mut bytes, mut behind) = (0, None);
        for p in publishes {
            bytes += p.follow_bytes();
            let qos = match p.qos {
                0 => QoS::AtMostOnce,
                _ => QoS::AtLeastOnce,
            };
            let routed = self.router.route(None, &p.topic.into(), &Bytes::from(p.payload), qos);
            behind = behind.or(routed.behind);
        }
        if publisher > 0 && bytes > 0 {
            lock(&self.away).came(self.outside.now_ms(), peer, publisher, bytes, behind);
        }
    }

    /// Reports to peers which of their publishes have been taken. Call it after [`Front::route_in`], and several times
    /// a second.
    pub fn tell_taken(&self) {
        let taken = lock(&self.away).taken(self.outside.now_ms());
        for (peer, publishers) in taken {
            self.outside.send(peer, vec![PeerMessage::Taken { publishers }]);
        }
    }

    /// Takes in a peer's report about publishes of connections here.
    pub fn taken(&self, publishers: Vec<(u64, u64)>) {
        let (now_ms, mut away) = (self.outside.now_ms(), lock(&self.away));
        publishers.into_iter().for_each(|(publisher, bytes)| away.told(now_ms, publisher, bytes));
    }

    /// How many publishes ever came to topics that map to no stream and have no subscriber, and the topics.
    pub fn unmapped(&self) -> (u64, Vec<UnmappedTopic>) {
        lock(&self.unmapped).list()
    }

    /// Fields of publishes that were not readings, of all devices or of one.
    pub fn skipped(&self, device: Option<&str>) -> Vec<(String, DeviceSkips)> {
        lock(&self.skips).list(device)
    }

    /// The fields that were skipped last, in the form of a report; at most `most`.
    pub fn last_skipped(&self, most: usize) -> Vec<SkippedField> {
        lock(&self.skips).latest(most)
    }

    /// Counters of Sparkplug sessions.
    pub fn sparkplug(&self) -> SparkplugFigures {
        self.decoder.sparkplug_figures()
    }

    /// The decoder, for entries of the quarantine.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The shard that a device, or a client, belongs to.
    pub fn shard_of(&self, name: &str) -> ShardId {
        self.ring.shard_of(name)
    }

    /// Publishes of QoS 1 and 2 that were answered with success.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        self.clients.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The number of wills that are being published.
    pub fn wills_under_way(&self) -> usize {
        lock(&self.wills).len()
    }

    /// Bytes of publishes that are held unanswered, wherever they are.
    pub fn held_bytes(&self) -> usize {
        self.credit.used_bytes()
    }

    /// Messages of QoS 0 that were dropped because their subscribers were behind.
    pub fn dropped(&self) -> u64 {
        self.router.dropped()
    }

    /// At most `most` connections with numbers above `after` and `wanted` client ids, in the order of their numbers.
    pub fn connected(&self, after: u64, most: usize, wanted: impl Fn(&str) -> bool) -> Vec<ConnectedClient> {
        let mut clients: Vec<_> =
            self.clients.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        clients.sort_unstable_by_key(|client| client.handle.id());
        let listed = clients.iter().filter(|c| c.handle.id() > after).filter_map(|c| {
            let session = lock(&c.session);
            let is_wanted = !session.is_gone() && wanted(session.client());
            is_wanted.then(|| ConnectedClient {
                connection: c.handle.id(),
                client: session.client().to_string(),
                peer: c.handle.peer_addr(),
                version: c.version,
                since: c.since,
                arriving: session.arriving(),
                durable: session.persistent(),
                dropped: c.handle.dropped(),
                traffic: c.handle.traffic(),
            })
        });
        listed.take(most).collect()
    }

    fn site<'a>(&'a self, listens: &'a dyn Fn(&str) -> bool) -> SessionContext<'a> {
        let Self { ring, decoder, origin, .. } = self;
        SessionContext { ring, decoder, origin: *origin, now: self.outside.wall(), listens }
    }

    /// Whether a client subscribes to a topic, here or at a peer.
    fn listens(&self, topic: &str) -> bool {
        if self.router.listens(topic) {
            return true;
        }
        let interest = self.interest.read().unwrap_or_else(PoisonError::into_inner);
        interest.values().flatten().any(|filter| filter.matches(topic))
    }

    fn client(&self, id: u64) -> Option<Arc<Client>> {
        self.clients.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn forget(&self, id: u64) {
        lock(&self.away).over(id);
        self.clients.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Carries out a session's effects. Called with the session locked, so that submissions of one connection keep
    /// their order.
    fn perform(&self, client: &Arc<Client>, mut effects: SessionEffects) {
        if !effects.subscribe.is_empty() && self.router.subscribe(&client.handle, &effects.subscribe).is_err()
        {
            effects.answers.retain(|a| !matches!(a, Answer::Subscribed { .. }));
            client.handle.close(CloseReason::Quota);
        }
        if !effects.unsubscribe.is_empty() {
            self.router.unsubscribe(client.handle.id(), &effects.unsubscribe);
        }
        if !effects.subscribe.is_empty() || !effects.unsubscribe.is_empty() {
            self.outside.interest_changed();
        }
        self.spread(client.handle.id(), &mut effects);
        self.acked.fetch_add(effects.acked, Ordering::Relaxed);
        self.figures.note(effects.acked, effects.fates);
        if effects.refused > 0 {
            metrics::counter!("selvedge_publishes_refused_total").increment(effects.refused);
        }
        if !effects.unmapped.is_empty() {
            metrics::counter!("selvedge_publishes_unmapped_total").increment(effects.unmapped.len() as u64);
            let (mut unmapped, now) = (lock(&self.unmapped), self.outside.wall());
            for (topic, bytes) in &effects.unmapped {
                unmapped.note(topic, *bytes, now);
            }
        }
        if effects.dropped > 0 {
            metrics::counter!("selvedge_qos0_dropped_total").increment(effects.dropped);
        }
        client.handle.answers(effects.answers);
        if let Some(reason) = effects.close {
            client.handle.close(reason);
        }
        self.route(Some(client.handle.id()), effects.route);
    }

    /// Carries out the effects that concern shards, and counts skipped fields.
    fn spread(&self, from: u64, effects: &mut SessionEffects) {
        for will in std::mem::take(&mut effects.wills) {
            let waits = Some(from).filter(|from| *from != WILLS);
            let listens = |topic: &str| self.listens(topic);
            lock(&self.wills).publish(self.site(&listens), will, waits, effects);
        }
        if !effects.submit.is_empty() {
            self.outside.submit(std::mem::take(&mut effects.submit));
        }
        if !effects.withdraw.is_empty() {
            self.outside.withdraw(std::mem::take(&mut effects.withdraw));
        }
        if !effects.skipped.is_empty() {
            self.note_skipped(&effects.skipped);
            effects.skipped.clear();
        }
        // The gateway is the sender, so that the edge node gets the request even if it does not want its own publishes
        // back.
        let rebirths = std::mem::take(&mut effects.rebirths);
        self.route(None, rebirths.into_iter().map(|rebirth| command(*rebirth)).collect());
    }

    fn note_skipped(&self, skipped: &[Skipped<'_>]) {
        let (now, mut skips) = (self.outside.wall(), lock(&self.skips));
        for field in skipped {
            skips.note(now, field);
            metrics::counter!("selvedge_fields_skipped_total", "why" => field.why.label()).increment(1);
        }
    }

    fn route(&self, from: Option<u64>, publishes: Vec<Publish>) {
        if publishes.is_empty() {
            return;
        }
        let mut away: BTreeMap<GatewayId, Vec<PeerMessage>> = BTreeMap::new();
        let interest = self.interest.read().unwrap_or_else(PoisonError::into_inner);
        if self.router.is_empty() && interest.values().all(Vec::is_empty) {
            return;
        }
        let (publisher, mut follow_bytes) = (from.and_then(|from| self.client(from)), 0);
        for p in publishes {
            let routed = self.router.route(from, &p.topic, &p.payload, p.qos);
            if let Some((behind, publisher)) = routed.behind.zip(publisher.as_ref()) {
                publisher.handle.wait_for(behind);
            }
            for (peer, filters) in interest.iter() {
                if filters.iter().any(|f| f.matches(&p.topic)) {
                    let (topic, payload, qos) = (p.topic.to_string(), p.payload.to_vec(), u8::from(p.qos));
                    let publish = RoutedPublish { topic, payload, qos };
                    follow_bytes += publish.follow_bytes();
                    let (publisher, publishes) = (from.unwrap_or(0), vec![publish]);
                    away.entry(*peer).or_default().push(PeerMessage::Route { publisher, publishes });
                }
            }
        }
        // Counted before it leaves, because a peer may report on it at once.
        if let Some(publisher) = publisher.filter(|_| follow_bytes > 0)
            && let Some(behind) =
                lock(&self.away).sent(self.outside.now_ms(), publisher.handle.id(), follow_bytes)
        {
            publisher.handle.wait_for(behind);
        }
        away.into_iter().for_each(|(peer, messages)| self.outside.send(peer, messages));
    }

    fn admit(&self, handle: &Arc<Handle>, connect: &Connect) -> Arc<Client> {
        let (id, handle, since) = (handle.id(), handle.clone(), self.outside.wall());
        let version = connect.version;
        let (session, charge) = (Mutex::new(Session::new(id)), Charge::new(self.credit.clone()));
        let client = Arc::new(Client { handle, session, charge, version, since });
        self.clients.write().unwrap_or_else(PoisonError::into_inner).insert(id, client.clone());
        let before = self.arriving.came(self.outside.now_ms(), id, &connect.client_id);
        if let Some(before) = before.and_then(|before| self.client(before)) {
            self.end_arriving(&before, Session::overtaken);
        }
        client
    }
}

/// A request for births, in the form of a Sparkplug command: QoS 0, not retained.
fn command(Rebirth { topic, payload }: Rebirth) -> Publish {
    Publish {
        token: 0,
        topic: topic.into(),
        payload: payload.into(),
        qos: QoS::AtMostOnce,
        dup: false,
        retain: false,
        packet_id: None,
    }
}

impl Application for Front {
    fn inbound(&self, handle: &Arc<Handle>, events: &mut Vec<Inbound>) {
        let client = match (self.client(handle.id()), events.first()) {
            (Some(client), _) => client,
            (None, Some(Inbound::Connect(connect))) => {
                if let Some(refusal) = self.refusal(&connect.client_id) {
                    handle.answer(Answer::Refuse(refusal));
                    return;
                }
                if let Some(Elsewhere { reference }) = self.redirects(handle.id(), connect) {
                    handle.send_away(reference.map(Into::into));
                    return;
                }
                self.admit(handle, connect)
            }
            _ => return, // the client was refused
        };
        let (mut effects, mut gone) = (SessionEffects::default(), false);
        let listens = |topic: &str| self.listens(topic);
        let site = self.site(&listens);
        let mut session = lock(&client.session);
        for event in events.drain(..) {
            gone |= matches!(event, Inbound::Closed(_));
            session.inbound(site, event, &mut effects);
        }
        if gone {
            self.router.disconnect(handle.id());
        }
        client.charge(&session);
        self.perform(&client, effects);
        let over = session.is_over();
        drop(session);
        if over {
            self.forget(handle.id());
        }
    }

    fn holds_publishes(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    fn credit(&self) -> Arc<CreditPool> {
        self.credit.clone()
    }

    fn departed(&self, departure: &Departure) {
        self.outside.departed(departure);
    }
}
