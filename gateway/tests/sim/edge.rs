//! The edge of a gateway: its front and the connections of its devices, as they ship. This module takes the place of
//! the listener and of the forwarder's actor.

use super::gateway::Common;
use super::invariants::{admission, credit, events::Events};
use super::pipe::{Line, Piece};
use selvedge_fabric::decode::Decoder;
use selvedge_fabric::forward::{Forward, Forwardable, SettledItem, Ticket};
use selvedge_fabric::machine::{DueWill, Item, ItemOutcome, Origin};
use selvedge_fabric::peer::PeerMessage;
use selvedge_fabric::shard::Now;
use selvedge_fabric::wills::WILLS;
use selvedge_gateway::front::{Front, Load, Outside};
use selvedge_mqtt::{
    Application, Charge, ConnectionLimits, CreditPool, Departure, Handle, ListenerConfig, Reception,
};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::mqtt::Inbound;
use selvedge_types::time::EpochMs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// The bytes that may wait for a subscriber on one connection.
const DELIVERY_QUEUE_BYTES: usize = 24 * 1024;
/// How long a device that does not read may keep a gateway from writing.
const WRITE_STALL_MS: u64 = 3_000;
/// The unanswered publishes of a connection, as in a running gateway.
const MAX_INFLIGHT_ENTRIES: u16 = 256;
/// The deliveries that a device may leave unacknowledged.
const MAX_UNACKED_ENTRIES: u16 = 8;

/// A request of the front to its surroundings.
enum Wanted {
    Submit(Vec<(ShardId, Ticket, Forwardable)>),
    Withdraw(Vec<(ShardId, Ticket)>),
    Send(GatewayId, Vec<PeerMessage>),
}

/// Surrounds the front, and collects what it wants done.
#[derive(Default)]
struct Around {
    now: Mutex<(u64, EpochMs)>,
    wanted: Mutex<Vec<Wanted>>,
    interest_changed: AtomicBool,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().expect("nobody panics with it")
}

impl Outside for Around {
    fn now_ms(&self) -> u64 {
        lock(&self.now).0
    }

    fn wall(&self) -> EpochMs {
        lock(&self.now).1
    }

    fn submit(&self, items: Vec<(ShardId, Ticket, Forwardable)>) {
        lock(&self.wanted).push(Wanted::Submit(items));
    }

    fn withdraw(&self, items: Vec<(ShardId, Ticket)>) {
        lock(&self.wanted).push(Wanted::Withdraw(items));
    }

    fn send(&self, peer: GatewayId, messages: Vec<PeerMessage>) {
        lock(&self.wanted).push(Wanted::Send(peer, messages));
    }

    fn interest_changed(&self) {
        self.interest_changed.store(true, Ordering::Relaxed);
    }

    /// No test waits for these outcomes.
    fn ordered(&self, _: SettledItem) {}

    fn departed(&self, _: &Departure) {}
}

/// The front, with a check of the events that connections give it.
struct Watched {
    front: Arc<Front>,
    events: Mutex<Events>,
    ring: Arc<selvedge_fabric::ring::Ring>,
}

impl Application for Watched {
    fn inbound(&self, handle: &Arc<Handle>, events: &mut Vec<Inbound>) {
        lock(&self.events).inbound(handle.id(), events);
        let client = match events.first() {
            Some(Inbound::Connect(connect)) => Some(connect.client_id.to_string()),
            _ => None,
        };
        self.front.inbound(handle, events);
        if let Some(client) = client.filter(|client| !client.is_empty()) {
            admission::check(&self.front, handle.id(), &client, self.ring.shard_of(&client));
        }
    }

    fn holds_publishes(&self) -> bool {
        self.front.holds_publishes()
    }

    fn credit(&self) -> Arc<CreditPool> {
        self.front.credit()
    }

    fn departed(&self, departure: &Departure) {
        self.front.departed(departure);
    }
}

/// The client and connection that a settled item belongs to, for the checks.
pub struct About {
    pub client: String,
    pub epoch: u64,
    pub is_will: bool,
}

/// Bytes and messages that leave the edge.
#[derive(Default)]
pub struct Left {
    /// To devices, by connection.
    pub pieces: Vec<(u64, Piece)>,
    /// To peers.
    pub send: Vec<(GatewayId, PeerMessage)>,
}

pub struct Edge {
    pub front: Arc<Front>,
    around: Arc<Around>,
    reception: Reception,
    lines: BTreeMap<u64, Line>,
    /// All connections that it ever had.
    met: BTreeSet<u64>,
    load: Load,
    /// For what the forwarder holds.
    charge: Charge,
    credit_bytes: usize,
    /// The client and the epoch of each will under way, by token.
    wills_of: BTreeMap<u64, (String, u64)>,
    /// The client of each connection, by number, and its epoch once it is admitted.
    clients: BTreeMap<u64, (String, u64)>,
}

impl Edge {
    pub fn new(common: &Common, origin: Origin) -> Self {
        let around = Arc::<Around>::default();
        let credit = Arc::new(CreditPool::new(common.credit_bytes));
        let decoder = Decoder::new(common.topics.clone()).expect("rules");
        let front = Front::new(common.ring.clone(), decoder, origin, credit.clone(), around.clone());
        let front = Arc::new(front);
        let config = ListenerConfig {
            address: ([127, 0, 0, 1], 1883).into(),
            max_connections: 10_000,
            max_connections_per_address: 10_000,
            limits: ConnectionLimits {
                max_packet_bytes: 16 * 1024,
                max_inflight_entries: MAX_INFLIGHT_ENTRIES,
                max_keepalive_s: common.keepalive_s,
                max_unacked_entries: MAX_UNACKED_ENTRIES,
                delivery_queue_bytes: DELIVERY_QUEUE_BYTES,
                write_stall_ms: WRITE_STALL_MS,
                ..ConnectionLimits::default()
            },
        };
        let (events, ring) = (Mutex::default(), common.ring.clone());
        let app = Arc::new(Watched { front: front.clone(), events, ring });
        Self {
            front,
            around,
            reception: Reception::new(app, &config),
            lines: BTreeMap::new(),
            met: BTreeSet::new(),
            load: Load::default(),
            charge: Charge::new(credit),
            credit_bytes: common.credit_bytes,
            wills_of: BTreeMap::new(),
            clients: BTreeMap::new(),
        }
    }

    /// Sets the time for everything that follows.
    pub fn at(&self, now: Now) {
        *lock(&self.around.now) = (now.mono_ms, now.wall);
    }

    /// Something comes along a device's connection; the first piece makes the connection.
    pub fn arrives(&mut self, now: Now, connection: u64, piece: Piece) {
        if self.met.insert(connection) {
            let peer = ([127, 0, 0, 1], 1).into();
            let attendant = self.reception.receive(peer, now.mono_ms).expect("there are seats for all");
            self.lines.insert(connection, Line::new(attendant, self.front.credit()));
        }
        if let Some(line) = self.lines.get_mut(&connection) {
            line.arrives(piece);
        }
    }

    /// A device has read this many bytes.
    pub fn gets_room(&mut self, connection: u64, bytes: usize) {
        if let Some(line) = self.lines.get_mut(&connection) {
            line.gets_room(bytes);
        }
    }

    /// Lets connections and front do what they can, and the forwarder take its items, until nothing is left to do.
    pub fn serve(&mut self, now: Now, forward: &mut Forward, left: &mut Left) {
        self.at(now);
        loop {
            let ready = self.lines.iter().filter(|(_, line)| line.is_ready(now.mono_ms)).map(|(id, _)| *id);
            let ready: Vec<u64> = ready.collect();
            for id in &ready {
                let Some(line) = self.lines.get_mut(id) else { continue };
                let (bytes, over) = line.turn(now.mono_ms);
                if !bytes.is_empty() {
                    left.pieces.push((*id, Piece::Bytes(bytes)));
                }
                if over {
                    self.lines.remove(id);
                    self.around.interest_changed();
                    left.pieces.push((*id, Piece::End));
                }
            }
            let wanted = std::mem::take(&mut *lock(&self.around.wanted));
            if ready.is_empty() && wanted.is_empty() {
                break;
            }
            for wanted in wanted {
                self.take(wanted, forward, left);
            }
        }
        self.charge.set(forward.queued_bytes());
        credit::check(self, forward);
    }

    /// Sends changed subscriptions to the peers; links send them to peers that they reach later.
    pub fn tell_interest(&mut self, peers: impl Iterator<Item = GatewayId>, left: &mut Left) {
        if !self.around.interest_changed.swap(false, Ordering::Relaxed) {
            return;
        }
        let filters: Arc<[String]> = self.front.filters().1.into();
        left.send.extend(peers.map(|peer| (peer, PeerMessage::Interest { filters: filters.clone() })));
    }

    /// The bytes of publishes that this edge may hold.
    pub fn credit_bytes(&self) -> usize {
        self.credit_bytes
    }

    fn take(&mut self, wanted: Wanted, forward: &mut Forward, left: &mut Left) {
        match wanted {
            Wanted::Submit(items) => {
                for (shard, ticket, item) in items {
                    match &item {
                        Forwardable::Publish(Some(source), _) if ticket.connection == WILLS => {
                            self.wills_of.insert(ticket.token, (source.client.clone(), source.epoch));
                        }
                        Forwardable::Item(Item::Connect(connect)) => {
                            self.clients.insert(ticket.connection, (connect.client.clone(), 0));
                        }
                        _ => {}
                    }
                    forward.submit(shard, ticket, item);
                }
            }
            Wanted::Withdraw(items) => {
                for (shard, ticket) in items {
                    if forward.withdraw(shard, ticket) {
                        self.front.withdrawn(ticket.connection);
                    }
                }
            }
            Wanted::Send(peer, messages) => {
                left.send.extend(messages.into_iter().map(|message| (peer, message)));
            }
        }
    }

    /// Takes in settled items. Returns for each the client and connection that it belongs to, if known.
    pub fn settled(
        &mut self,
        now: Now,
        outcomes: Vec<SettledItem>,
        mut about: impl FnMut(&SettledItem, Option<About>),
    ) {
        self.at(now);
        for settled in &outcomes {
            let Ticket { connection, token } = settled.ticket;
            if let ItemOutcome::Connected(found) = &settled.outcome
                && let Some((_, epoch)) = self.clients.get_mut(&connection)
            {
                *epoch = found.epoch;
            }
            let is_will = connection == WILLS;
            let of = if is_will { self.wills_of.get(&token) } else { self.clients.get(&connection) };
            let of = of.filter(|(_, epoch)| *epoch > 0).cloned();
            about(settled, of.map(|(client, epoch)| About { client, epoch, is_will }));
        }
        self.front.settled(outcomes);
    }

    /// A shard wants wills published.
    pub fn publish_wills(&self, now: Now, wills: Vec<DueWill>) {
        self.at(now);
        self.front.publish_wills(wills);
    }

    /// Looks at the forwarder, as its actor does every few milliseconds.
    pub fn look(&mut self, now: Now, forward: &Forward) {
        self.at(now);
        self.load.look(now.mono_ms, forward, &self.front);
    }

    /// When the edge next has something to do.
    pub fn deadline_ms(&self) -> u64 {
        let lines = self.lines.values().map(Line::deadline_ms).min().unwrap_or(u64::MAX);
        lines.min(self.front.arriving().deadline_ms().unwrap_or(u64::MAX))
    }

    /// The open connections, by their numbers among all.
    pub fn connections(&self) -> impl Iterator<Item = u64> {
        self.lines.keys().copied()
    }
}
