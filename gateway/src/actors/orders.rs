//! Orders: items that operators submit over HTTP. They go through the forwarder to the leader of their shard, like
//! items of devices, and are answered when they are chosen.
//!
//! An order that is not answered in time is still under way and may be carried out. It occupies its place in the bound
//! until then, so that a site without a majority does not accumulate orders.

use selvedge_fabric::forward::SettledItem;
use selvedge_fabric::machine::ItemOutcome;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::oneshot;

/// How many orders may be unanswered.
pub const MAX_ORDERS: usize = 256;
/// How long a request waits for the outcome of its order.
pub const ORDER_WAIT_MS: u64 = 5_000;

/// The orders of a gateway that are under way.
#[derive(Debug, Default)]
pub struct Orders(Mutex<(u64, BTreeMap<u64, oneshot::Sender<ItemOutcome>>)>);

impl Orders {
    /// A new order: its token, and the receiver of its outcome. `None` if too many are under way.
    pub fn open(&self) -> Option<(u64, oneshot::Receiver<ItemOutcome>)> {
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, open) = &mut *orders;
        if open.len() >= MAX_ORDERS {
            return None;
        }
        *last += 1;
        let (reply, outcome) = oneshot::channel();
        open.insert(*last, reply);
        Some((*last, outcome))
    }

    /// Passes the outcome to whoever waits for the order.
    pub fn settled(&self, settled: SettledItem) {
        let mut orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reply) = orders.1.remove(&settled.ticket.token) {
            let _ = reply.send(settled.outcome); // the request may be gone
        }
    }
}
