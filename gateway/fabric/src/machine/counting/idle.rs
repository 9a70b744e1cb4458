//! Idle streams: when each stream must be retired because it has been silent (`retire_idle_after_s`).
//!
//! Silence is measured in elapsed time. This index is derived from the state and updated lazily: a reading
//! postpones its stream's deadline without touching the index. So an entry may be earlier than the stream's
//! deadline, never later, and is moved when it comes first. The index is empty if no rule retires streams.

use super::window::Streams;
use crate::machine::rules::StreamClass;
use selvedge_types::time::ElapsedMs;
use std::collections::BTreeSet;

const NEVER: ElapsedMs = ElapsedMs(u64::MAX);

/// Streams in the order in which they may be retired.
#[derive(Debug, Default)]
pub struct Idle {
    order: BTreeSet<(ElapsedMs, u32)>,
    /// The time under which each stream is in `order`; [`NEVER`] if it is not.
    at: Vec<ElapsedMs>,
}

impl Idle {
    /// The index of these streams, under the rules of their classes.
    pub fn of(ids: impl Iterator<Item = u32>, streams: &Streams, classes: &[StreamClass]) -> Self {
        let mut idle = Self::default();
        ids.for_each(|id| idle.put(id, deadline(id, streams, classes)));
        idle
    }

    /// Adds a stream that became known at `now`.
    pub fn add(&mut self, id: u32, class: &StreamClass, now: ElapsedMs) {
        self.put(id, class.retire_idle_ms.map_or(NEVER, |after| now.plus(after)));
    }

    pub fn remove(&mut self, id: u32) {
        self.put(id, NEVER);
    }

    fn put(&mut self, id: u32, at: ElapsedMs) {
        let place = id as usize;
        if at == NEVER && self.at.len() <= place {
            return;
        }
        if self.at.len() <= place {
            self.at.resize(place + 1, NEVER);
        }
        let before = std::mem::replace(&mut self.at[place], at);
        self.order.remove(&(before, id));
        if at != NEVER {
            self.order.insert((at, id));
        }
    }

    /// When the next stream must be retired.
    pub fn due(&mut self, streams: &Streams, classes: &[StreamClass]) -> Option<ElapsedMs> {
        loop {
            let (at, id) = self.order.first().copied()?;
            let deadline = deadline(id, streams, classes);
            if deadline == at {
                return Some(at);
            }
            self.put(id, deadline);
        }
    }

    /// Takes at most `most` streams that must be retired at `now`, those that were silent for longest first.
    pub fn take_due(
        &mut self,
        now: ElapsedMs,
        streams: &Streams,
        classes: &[StreamClass],
        most: usize,
    ) -> Vec<u32> {
        let mut due = Vec::new();
        while due.len() < most && self.due(streams, classes).is_some_and(|at| at <= now) {
            let Some((_, id)) = self.order.first().copied() else { break };
            self.remove(id);
            due.push(id);
        }
        due
    }
}

fn deadline(id: u32, streams: &Streams, classes: &[StreamClass]) -> ElapsedMs {
    let stream = &streams.list[id as usize];
    let after = classes[usize::from(stream.class)].retire_idle_ms;
    after.map_or(NEVER, |after| stream.heard.plus(after))
}
