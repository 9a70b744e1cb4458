//! A program's subscription to its own embedded broker: in memory, apart from the delivery queues of clients.
//!
//! Each connection has a queue of its own here, and they are emptied in turn. A publish is acknowledged only once the program has
//! taken it, so a client that publishes too fast is slowed down by its own unacknowledged publishes. When the bound of all queues
//! is reached, the connection that holds the most bytes loses its newest message. So no client, however fast, can make the program
//! lose a message of another one that sends no more than its share, and there is no subscriber's connection to close, nor a client
//! id to take over.
//!
//! - Invariant: `bytes` is the sum over all lanes, and at most the bound.
//! - Invariant: a lane stands in `turns` exactly once if it holds a message, and not at all otherwise.
//! - A message of a connection that has ended is gone. It was not acknowledged at QoS 1.

use super::handle::Handle;
use bytes::Bytes;
use selvedge_types::mqtt::{Ack, AckCode, Answer, Publish, QUEUED_OVERHEAD_BYTES, QoS};
use selvedge_types::topic::Filter;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The bound that fits an embedded broker.
pub const DEFAULT_INLET_BYTES: usize = 64 * 1024 * 1024;

/// A message for the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InletMessage {
    /// A well-formed topic name.
    pub topic: String,
    pub payload: Bytes,
}

/// A message that waits, and how it is answered.
#[derive(Debug)]
struct Waiting {
    heard: InletMessage,
    /// To acknowledge; none at QoS 0.
    token: Option<u64>,
}

impl Waiting {
    fn cost_bytes(&self) -> usize {
        self.heard.topic.len() + self.heard.payload.len() + QUEUED_OVERHEAD_BYTES
    }
}

/// What one connection has sent.
#[derive(Debug)]
struct Lane {
    handle: Arc<Handle>,
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Lanes {
    by_connection: HashMap<u64, Lane>,
    turns: VecDeque<u64>,
    bytes: usize,
}

/// What the program hears.
#[derive(Debug)]
pub struct Inlet {
    filters: Vec<Filter>,
    max_bytes: usize,
    lanes: Mutex<Lanes>,
    arrived: Notify,
    dropped: AtomicU64,
}

impl Inlet {
    /// Hears the topics of these filters. At most `max_bytes` of messages wait, 128 for each counted in.
    pub fn new(filters: Vec<Filter>, max_bytes: usize) -> Self {
        let (lanes, arrived, dropped) = (Mutex::default(), Notify::new(), AtomicU64::new(0));
        Self { filters, max_bytes, lanes, arrived, dropped }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the program hears this topic.
    pub fn hears(&self, topic: &str) -> bool {
        self.filters.iter().any(|filter| filter.matches(topic))
    }

    /// How many messages were dropped because of the bound.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes a publish in; it is answered when the program has taken it, or when it is dropped.
    pub(super) fn put(&self, handle: &Arc<Handle>, publish: &Publish) {
        // A copy: the payload is a piece of a read buffer, which would be held by it as a whole.
        let heard = InletMessage {
            topic: publish.topic.to_string(),
            payload: Bytes::copy_from_slice(&publish.payload),
        };
        let token = (publish.qos != QoS::AtMostOnce).then_some(publish.token);
        let waiting = Waiting { heard, token };
        let cost = waiting.cost_bytes();
        let mut dropped = Vec::new();
        let mut lanes = self.lanes();
        let (id, lanes_now) = (handle.id(), &mut *lanes);
        let new = || Lane { handle: handle.clone(), waiting: VecDeque::new(), bytes: 0 };
        let lane = lanes_now.by_connection.entry(id).or_insert_with(new);
        if lane.waiting.is_empty() {
            lanes_now.turns.push_back(id);
        }
        lane.waiting.push_back(waiting);
        lane.bytes += cost;
        lanes_now.bytes += cost;
        while lanes_now.bytes > self.max_bytes
            && let Some((_, most)) = lanes_now.by_connection.iter_mut().max_by_key(|(_, lane)| lane.bytes)
            && let Some(newest) = most.waiting.pop_back()
        {
            most.bytes -= newest.cost_bytes();
            lanes_now.bytes -= newest.cost_bytes();
            dropped.push((most.handle.clone(), newest.token));
            if most.waiting.is_empty() {
                let emptied = most.handle.id();
                lanes_now.by_connection.remove(&emptied);
                lanes_now.turns.retain(|id| *id != emptied);
            }
        }
        drop(lanes);
        self.dropped.fetch_add(dropped.len() as u64, Ordering::Relaxed);
        for (handle, token) in dropped {
            if let Some(token) = token {
                let why = "messages come faster than this node reads them; send them again later";
                handle.answer(Answer::Ack(Ack::refused(token, AckCode::QuotaExceeded, why)));
            }
        }
        self.arrived.notify_one();
    }

    /// A connection has ended.
    pub(super) fn closed(&self, id: u64) {
        let mut lanes = self.lanes();
        if let Some(lane) = lanes.by_connection.remove(&id) {
            lanes.bytes -= lane.bytes;
            lanes.turns.retain(|turn| *turn != id);
        }
    }

    fn take(&self) -> Option<InletMessage> {
        let mut lanes = self.lanes();
        let lanes = &mut *lanes;
        let id = lanes.turns.pop_front()?;
        let lane = lanes.by_connection.get_mut(&id)?;
        let Waiting { heard, token } = lane.waiting.pop_front()?;
        let cost = heard.topic.len() + heard.payload.len() + QUEUED_OVERHEAD_BYTES;
        lane.bytes -= cost;
        lanes.bytes -= cost;
        if let Some(token) = token {
            lane.handle.answer(Answer::Ack(Ack::kept(token)));
        }
        match lane.waiting.is_empty() {
            true => drop(lanes.by_connection.remove(&id)),
            false => lanes.turns.push_back(id),
        }
        Some(heard)
    }

    /// The next message: of the connection whose turn it is. For one task.
    pub async fn next(&self) -> InletMessage {
        loop {
            if let Some(heard) = self.take() {
                return heard;
            }
            self.arrived.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConnectionLimits;

    fn publish(token: u64, bytes: usize) -> Publish {
        Publish {
            token,
            topic: "up/1".into(),
            payload: vec![0; bytes].into(),
            qos: QoS::AtLeastOnce,
            dup: false,
            retain: false,
            packet_id: None,
        }
    }

    fn codes(handle: &Handle) -> Vec<(u64, AckCode)> {
        let code = |answer| match answer {
            Answer::Ack(ack) => (ack.token, ack.code),
            other => panic!("{other:?}"),
        };
        handle.take_answers().into_iter().map(code).collect()
    }

    #[tokio::test]
    async fn a_flood_costs_only_the_one_who_floods() {
        let inlet = Inlet::new(vec![Filter::new("up/+").unwrap()], 10_000);
        assert!(inlet.hears("up/1") && !inlet.hears("up/1/2"));
        let [quiet, loud] = [1, 2].map(|id| Handle::detached(id, &ConnectionLimits::default()));
        for token in 1..=1_000 {
            inlet.put(&loud, &publish(token, 100));
        }
        inlet.put(&quiet, &publish(1, 2_000));
        for token in 1_001..=2_000 {
            inlet.put(&loud, &publish(token, 100));
        }
        assert!(inlet.lanes().bytes <= 10_000);
        assert!(codes(&quiet).is_empty(), "nothing of it was dropped");
        let refused = codes(&loud);
        assert!(refused.iter().all(|(_, code)| *code == AckCode::QuotaExceeded));
        assert_eq!(inlet.dropped(), refused.len() as u64);
        // The other one does not wait behind all that.
        let sizes = [inlet.next().await.payload.len(), inlet.next().await.payload.len()];
        assert_eq!(sizes, [100, 2_000]);
        assert_eq!(codes(&quiet), [(1, AckCode::Kept)]);
        let mut rest = 1;
        while inlet.take().is_some() {
            rest += 1;
        }
        assert_eq!(rest + refused.len(), 2_000);
        assert_eq!(inlet.lanes().bytes, 0);
    }

    #[tokio::test]
    async fn an_ended_connection_leaves_nothing() {
        let inlet = Inlet::new(vec![Filter::new("#").unwrap()], 10_000);
        let handle = Handle::detached(1, &ConnectionLimits::default());
        inlet.put(&handle, &publish(1, 10));
        inlet.closed(1);
        assert!(inlet.take().is_none());
        assert_eq!(inlet.lanes().bytes, 0);
        let huge = publish(2, 20_000);
        inlet.put(&handle, &huge);
        assert_eq!(codes(&handle), [(2, AckCode::QuotaExceeded)]);
        assert!(inlet.take().is_none() && inlet.lanes().turns.is_empty());
    }
}
