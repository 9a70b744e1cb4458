//! Deliveries to a subscriber: the bounded queue before it, and the window of those that it has not acknowledged.

use super::{ConnectionLimits, MAX_DELIVERIES_BYTES, MAX_DELIVERY_QUEUE_BYTES, QUEUE_OWN_BYTES};
use selvedge_types::mqtt::Delivery;
use selvedge_types::mqtt::QoS;
use std::collections::VecDeque;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all queues of a listener may hold beyond [`QUEUE_OWN_BYTES`] each.
///
/// A queue borrows no more than is then left, so that however many subscribers do not follow, another one's burst finds room.
#[derive(Debug)]
pub(super) struct Pool(AtomicUsize);

impl Default for Pool {
    fn default() -> Self {
        Self(AtomicUsize::new(MAX_DELIVERIES_BYTES))
    }
}

impl Pool {
    /// Lends further bytes to a queue that has already borrowed `borrowed`.
    fn borrow(&self, borrowed: usize, more: usize) -> bool {
        let left = |free: usize| free.checked_sub(more).filter(|left| borrowed + more <= *left);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Deliveries that wait; bounded in number and bytes.
#[derive(Debug)]
pub(super) struct DeliveryQueue {
    waiting: VecDeque<Delivery>,
    bytes: usize,
    borrowed: usize,
    pool: Arc<Pool>,
    max_entries: usize,
    max_bytes: usize,
}

impl DeliveryQueue {
    pub fn new(limits: &ConnectionLimits, pool: Arc<Pool>) -> Self {
        let max_bytes = limits.delivery_queue_bytes.min(MAX_DELIVERY_QUEUE_BYTES);
        let max_entries = limits.delivery_queue_entries;
        Self { waiting: VecDeque::new(), bytes: 0, borrowed: 0, pool, max_entries, max_bytes }
    }

    /// Takes it, or gives it back: the bound is reached.
    pub fn push(&mut self, delivery: Delivery) -> Result<(), Delivery> {
        let bytes = self.bytes.saturating_add(delivery.cost_bytes());
        if self.waiting.len() >= self.max_entries || bytes > self.max_bytes {
            return Err(delivery);
        }
        let more = bytes.saturating_sub(QUEUE_OWN_BYTES).saturating_sub(self.borrowed);
        if more > 0 && !self.pool.borrow(self.borrowed, more) {
            return Err(delivery);
        }
        self.borrowed += more;
        self.bytes = bytes;
        self.waiting.push_back(delivery);
        Ok(())
    }

    pub fn front(&self) -> Option<&Delivery> {
        self.waiting.front()
    }

    pub fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.waiting.pop_front()?;
        self.bytes = self.bytes.saturating_sub(delivery.cost_bytes());
        let spare = self.borrowed.saturating_sub(self.bytes.saturating_sub(QUEUE_OWN_BYTES));
        self.borrowed -= spare;
        self.pool.give_back(spare);
        Some(delivery)
    }

    /// What waits, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether its subscriber is behind: from when half of the most waits, until it is a quarter.
    pub fn is_behind(&self, was: bool) -> bool {
        self.bytes > self.max_bytes / if was { 4 } else { 2 }
    }
}

impl Drop for DeliveryQueue {
    fn drop(&mut self) {
        self.pool.give_back(self.borrowed);
    }
}

/// QoS 1 deliveries that were sent and not acknowledged.
#[derive(Debug)]
pub(super) struct Window {
    unacked: VecDeque<(NonZeroU16, Delivery)>,
    next: NonZeroU16,
    pub max_entries: usize,
}

impl Window {
    pub fn new(limits: &ConnectionLimits) -> Self {
        let max_entries = usize::from(limits.max_unacked_entries.max(1));
        Self { unacked: VecDeque::new(), next: NonZeroU16::MIN, max_entries }
    }

    pub fn has_room(&self, qos: QoS) -> bool {
        qos == QoS::AtMostOnce || self.unacked.len() < self.max_entries
    }

    /// A packet id that is not in use. There is one, for the window is smaller than the number of ids.
    pub fn packet_id(&mut self) -> NonZeroU16 {
        loop {
            let id = self.next;
            self.next = self.next.checked_add(1).unwrap_or(NonZeroU16::MIN);
            if self.unacked.len() >= usize::from(u16::MAX) || self.unacked.iter().all(|(used, _)| *used != id)
            {
                return id;
            }
        }
    }

    pub fn sent(&mut self, packet_id: NonZeroU16, delivery: Delivery) {
        self.unacked.push_back((packet_id, delivery));
    }

    /// PUBACK. One for an id that is not in use is ignored.
    pub fn acked(&mut self, packet_id: NonZeroU16) {
        if let Some(at) = self.unacked.iter().position(|(id, _)| *id == packet_id) {
            self.unacked.remove(at);
        }
    }

    /// What was not acknowledged, oldest first.
    pub fn take(&mut self) -> Vec<Delivery> {
        self.unacked.drain(..).map(|(_, delivery)| delivery).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_that_nobody_reads_leave_room_for_anothers_burst() {
        let (limits, pool) = (ConnectionLimits::default(), Arc::new(Pool::default()));
        let delivery =
            || Delivery { topic: "t".into(), payload: vec![0; 20_000].into(), qos: QoS::AtLeastOnce };
        let fill = |queue: &mut DeliveryQueue| (0..).take_while(|_| queue.push(delivery()).is_ok()).count();
        let mut slow: Vec<_> = (0..20).map(|_| DeliveryQueue::new(&limits, pool.clone())).collect();
        slow.iter_mut().for_each(|queue| _ = fill(queue));
        let waiting: usize = slow.iter().map(DeliveryQueue::bytes).sum();
        assert!(waiting <= MAX_DELIVERIES_BYTES + slow.len() * QUEUE_OWN_BYTES, "{waiting}");
        assert!(
            DeliveryQueue::new(&limits, pool.clone()).push(delivery()).is_ok(),
            "what is its own is always there"
        );
        slow.truncate(2);
        assert!(fill(&mut DeliveryQueue::new(&limits, pool.clone())) >= 256);
        while slow.iter_mut().any(|queue| queue.pop().is_some()) {}
        assert_eq!(pool.0.load(Ordering::Relaxed), MAX_DELIVERIES_BYTES);
        fill(&mut slow[0]);
        drop(slow);
        assert_eq!(pool.0.load(Ordering::Relaxed), MAX_DELIVERIES_BYTES);
    }
}
