//! What a session has under way: publishes and releases that wait for shards, and packets that wait behind one.

use crate::not_counted::{NotCounted, Sent};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::ShardId;
use selvedge_types::mqtt::{Inbound, Publish};
use selvedge_types::time::EpochMs;
use std::collections::VecDeque;

/// A publish that is not answered yet, or a release.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) publish: Option<Publish>,
    /// When it was decoded: relative times in it count from here.
    pub(super) at: EpochMs,
    /// How many parts are not settled.
    pub(super) open: usize,
    pub(super) receipt: Option<(ShardId, u64)>,
    /// Whether at least one of its readings is in the windows.
    pub(super) kept: bool,
    pub(super) sent: Sent,
    /// None as long as all of it counts.
    pub(super) not: Option<Box<NotCounted>>,
    /// The publish now waits to be in the quarantine or, if it was there and is counted now, to have left it.
    pub(super) quarantining: bool,
}

impl Pending {
    pub(super) fn of(publish: Option<Publish>, at: EpochMs, open: usize, sent: Sent) -> Self {
        Self { publish, at, open, receipt: None, kept: false, sent, not: None, quarantining: false }
    }

    fn cost_bytes(&self) -> usize {
        self.publish.as_ref().map_or(0, Publish::cost_bytes)
    }
}

/// Events that wait for a shard to be noted as touched.
#[derive(Debug, Default)]
pub(super) struct HeldList {
    pub(super) list: VecDeque<Inbound>,
    /// The bytes of the publishes among them.
    pub(super) bytes: usize,
}

impl HeldList {
    fn cost_bytes(event: &Inbound) -> usize {
        if let Inbound::Publish(publish) = event { publish.cost_bytes() } else { 0 }
    }

    pub(super) fn push_back(&mut self, event: Inbound) {
        self.bytes += Self::cost_bytes(&event);
        self.list.push_back(event);
    }

    pub(super) fn push_front(&mut self, event: Inbound) {
        self.bytes += Self::cost_bytes(&event);
        self.list.push_front(event);
    }

    pub(super) fn pop_front(&mut self) -> Option<Inbound> {
        let event = self.list.pop_front()?;
        self.bytes -= Self::cost_bytes(&event);
        Some(event)
    }
}

/// Publishes and releases that wait for shards, by token. Tokens ascend, and most are settled in their order.
#[derive(Debug, Default)]
pub(super) struct PendingList {
    list: VecDeque<(u64, Option<Pending>)>,
    /// The bytes of their publishes.
    pub(super) bytes: usize,
}

impl PendingList {
    /// Appends an entry; `token` is greater than all before.
    pub(super) fn push(&mut self, token: u64, pending: Pending) {
        debug_assert!(self.list.back().is_none_or(|(last, _)| *last < token));
        self.bytes += pending.cost_bytes();
        self.list.push_back((token, Some(pending)));
    }

    fn place(&self, token: u64) -> Option<usize> {
        // Without QoS 0 in between, tokens follow each other and give the place directly.
        let guess = token.checked_sub(self.list.front()?.0).and_then(|at| usize::try_from(at).ok());
        let guess = guess.filter(|at| self.list.get(*at).is_some_and(|(at_guess, _)| *at_guess == token));
        guess.or_else(|| self.list.binary_search_by_key(&token, |(token, _)| *token).ok())
    }

    fn entry(&mut self, token: u64) -> Option<&mut Option<Pending>> {
        let at = self.place(token)?;
        self.list.get_mut(at).map(|(_, pending)| pending)
    }

    pub(super) fn get(&self, token: u64) -> Option<&Pending> {
        self.list.get(self.place(token)?)?.1.as_ref()
    }

    pub(super) fn get_mut(&mut self, token: u64) -> Option<&mut Pending> {
        self.entry(token)?.as_mut()
    }

    pub(super) fn remove(&mut self, token: u64) -> Option<Pending> {
        let pending = self.entry(token)?.take();
        self.bytes -= pending.as_ref().map_or(0, Pending::cost_bytes);
        while self.list.pop_front_if(|(_, pending)| pending.is_none()).is_some() {}
        pending
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether anything is awaited that came before this token. Most entries are settled in their order: then there
    /// is none.
    pub(super) fn has_before(&self, token: u64) -> bool {
        self.list.front().is_some_and(|(first, _)| *first < token)
    }

    /// Whether a publish to this topic is awaited that came before this token.
    pub(super) fn is_behind(&self, token: u64, topic: &str) -> bool {
        let mut earlier = self.list.iter().take_while(|(of, _)| *of < token);
        let publishes = |(_, pending): &(u64, Option<Pending>)| {
            let publish = pending.as_ref().and_then(|pending| pending.publish.as_ref());
            publish.is_some_and(|publish| &*publish.topic == topic)
        };
        earlier.any(publishes) && !canary::makes(Canary::RoutedAsSettled)
    }
}
