//! Deliveries to a subscriber: the bounded queue before it, and the window of those that it has not acknowledged.

use super::event::Delivery;
use super::{Limits, MAX_DELIVERY_QUEUE_BYTES};
use rmqtt_codec::types::QoS;
use std::collections::VecDeque;
use std::num::NonZeroU16;

/// Deliveries that wait; bounded in number and bytes.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Delivery>,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
}

impl Queue {
    pub fn new(limits: &Limits) -> Self {
        let max_bytes = limits.delivery_queue_bytes.min(MAX_DELIVERY_QUEUE_BYTES);
        Self { waiting: VecDeque::new(), bytes: 0, max_entries: limits.delivery_queue_entries, max_bytes }
    }

    /// Takes it, or not: the bound is reached.
    pub fn push(&mut self, delivery: Delivery) -> bool {
        let bytes = self.bytes.saturating_add(delivery.cost_bytes());
        if self.waiting.len() >= self.max_entries || bytes > self.max_bytes {
            return false;
        }
        self.bytes = bytes;
        self.waiting.push_back(delivery);
        true
    }

    pub fn front(&self) -> Option<&Delivery> {
        self.waiting.front()
    }

    pub fn pop(&mut self) -> Option<Delivery> {
        let delivery = self.waiting.pop_front()?;
        self.bytes = self.bytes.saturating_sub(delivery.cost_bytes());
        Some(delivery)
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
    pub fn new(limits: &Limits) -> Self {
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
