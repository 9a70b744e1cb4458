//! The surroundings of the front in a running gateway: the actors that do what it wants done, the clocks, and the records of
//! departures and of operators' orders.

use crate::actors::clock::SiteClock;
use crate::actors::departures::DepartureDesk;
use crate::actors::link::PeerLinks;
use crate::actors::messages::forwarder::{Submit, Withdraw};
use crate::actors::messages::switch::InterestChanged;
use crate::actors::orders::Orders;
use crate::front::{ORDERS, Outside};
use actix::Recipient;
use selvedge_fabric::forward::{Forwardable, SettledItem, Ticket};
use selvedge_fabric::machine::ItemOutcome;
use selvedge_fabric::peer::PeerMessage;
use selvedge_mqtt::Departure;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use std::sync::{Arc, OnceLock};
use std::time::Instant;
use tokio::sync::oneshot;

/// The ways to the actors that serve the front.
pub struct FrontWays {
    /// To the forwarder: items.
    pub submit: Recipient<Submit>,
    /// To the forwarder: items that no client waits for any more.
    pub withdraw: Recipient<Withdraw>,
    /// To the switch: changed subscriptions.
    pub interest: Recipient<InterestChanged>,
    pub links: PeerLinks,
}

/// The ways from the front to the actors. Before the actors run everything sent is lost, but then there is no
/// connection yet.
pub struct Ways {
    epoch: Instant,
    clock: Arc<SiteClock>,
    departures: DepartureDesk,
    orders: Orders,
    to: OnceLock<FrontWays>,
}

impl Ways {
    /// Unconnected ways. Monotonic times count from `epoch`, as the forwarder's do.
    pub fn new(epoch: Instant, clock: Arc<SiteClock>, departures: DepartureDesk) -> Self {
        Self { epoch, clock, departures, orders: Orders::default(), to: OnceLock::new() }
    }

    /// Connects the ways to the actors; called once, before the first connection.
    pub fn connect(&self, to: FrontWays) {
        let _ = self.to.set(to);
    }

    /// The record of how connections ended.
    pub fn departures(&self) -> &DepartureDesk {
        &self.departures
    }

    /// Submits an operator's order to a shard; the outcome comes when it is chosen. `None` if too many are under way.
    pub fn order(&self, shard: ShardId, item: Forwardable) -> Option<oneshot::Receiver<ItemOutcome>> {
        let to = self.to.get()?;
        let (token, outcome) = self.orders.open()?;
        let ticket = Ticket { connection: ORDERS, token };
        to.submit.do_send(Submit(vec![(shard, ticket, item)]));
        Some(outcome)
    }
}

impl Outside for Ways {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wall(&self) -> EpochMs {
        self.clock.now().wall
    }

    fn submit(&self, items: Vec<(ShardId, Ticket, Forwardable)>) {
        if let Some(to) = self.to.get() {
            to.submit.do_send(Submit(items));
        }
    }

    fn withdraw(&self, items: Vec<(ShardId, Ticket)>) {
        if let Some(to) = self.to.get() {
            to.withdraw.do_send(Withdraw(items));
        }
    }

    fn send(&self, peer: GatewayId, messages: Vec<PeerMessage>) {
        if let Some(to) = self.to.get() {
            to.links.send(peer, messages);
        }
    }

    fn interest_changed(&self) {
        if let Some(to) = self.to.get() {
            // If there is no room, the switch notices the change by itself soon.
            let _ = to.interest.try_send(InterestChanged);
        }
    }

    fn ordered(&self, settled: SettledItem) {
        self.orders.settled(settled);
    }

    fn departed(&self, departure: &Departure) {
        self.departures.note(self.wall(), departure);
    }
}
