//! Wills that are due: what was left by connections that are over, until it is published.
//!
//! A will is part of its client's session while nothing is decided. When it falls due it moves here, in the command that
//! decides so: the end of its connection, a takeover, a delay that has passed, the end of the session, or the loss of its
//! gateway. It is published by the gateway that the deciding command came from, or without one by the leader's; and if that does
//! not happen within [`MAX_PUBLISHING_MS`] of elapsed time, by the leader's gateway, too. Its readings are recognised by
//! (client, instance, epoch, packet id 0), so that they count once however many publish it.
//!
//! Invariant: a client has at most one will that is due. The connection that a takeover lets in is let in only after the will
//! before it is done; so a will whose predecessor is still here is of a connection that was never let in, and is dropped.

use crate::machine::command::{DueWill, Origin};
use bincode::{Decode, Encode};
use selvedge_types::time::ElapsedMs;
use std::collections::{BTreeMap, BTreeSet};

/// The largest will: topic, payload and some.
pub const MAX_WILL_BYTES: usize = 8 * 1024;
/// The most that all wills of a shard take.
pub const MAX_WILLS_BYTES: usize = 512 * 1024;
/// How long a gateway has to publish a will before the leader's gateway does it, too.
pub const MAX_PUBLISHING_MS: u64 = 10_000;

/// A will that is due and not known to be published.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Due {
    will: DueWill,
    /// Who publishes it, and until when nobody else does; nobody: the leader's gateway.
    by: Option<(Origin, ElapsedMs)>,
}

/// Wills that are due, by client.
#[derive(Debug, Default)]
pub struct Wills {
    due: BTreeMap<String, Due>,
    /// Derived: when the leader's gateway takes over.
    until: BTreeSet<(ElapsedMs, String)>,
    /// Derived: those that are for the leader's gateway.
    orphans: BTreeSet<String>,
    /// Derived.
    bytes: usize,
}

impl Wills {
    /// What they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// When the leader's gateway takes over the next.
    pub fn due(&self) -> Option<ElapsedMs> {
        self.until.first().map(|(at, _)| *at)
    }

    /// Those that the leader's gateway is to publish.
    pub fn orphans(&self) -> impl Iterator<Item = &DueWill> {
        self.orphans.iter().filter_map(|client| self.due.get(client)).map(|due| &due.will)
    }

    /// The client's, if one is due.
    pub fn of(&self, client: &str) -> Option<&DueWill> {
        self.due.get(client).map(|due| &due.will)
    }

    /// A will falls due; dropped if one of the client is due already.
    pub fn add(&mut self, will: DueWill, by: Option<Origin>, now: ElapsedMs) {
        if !self.due.contains_key(&will.client) {
            self.insert(Due { will, by: by.map(|origin| (origin, now.plus(MAX_PUBLISHING_MS))) });
        }
    }

    /// The client's will is now this process's to publish.
    pub fn hand_to(&mut self, client: &str, origin: Origin, now: ElapsedMs) {
        if let Some(mut due) = self.remove(client) {
            due.by = Some((origin, now.plus(MAX_PUBLISHING_MS)));
            self.insert(due);
        }
    }

    /// It is published. True: by the one whose it was.
    pub fn done(&mut self, client: &str, epoch: u64, at: Origin) -> bool {
        let own = |due: &Due| due.will.epoch == epoch && due.by.is_none_or(|(by, _)| by == at);
        self.due.get(client).is_some_and(own) && self.remove(client).is_some()
    }

    /// Time has passed, or processes are gone: whoever did not publish in time is not waited for any longer.
    pub fn expire(&mut self, now: ElapsedMs) {
        while let Some((_, client)) = self.until.first().filter(|(at, _)| *at <= now) {
            let client = client.clone();
            self.orphan(&client);
        }
    }

    /// A process is gone.
    pub fn lost(&mut self, gone: impl Fn(Origin) -> bool) {
        let of =
            |(client, due): (&String, &Due)| due.by.is_some_and(|(by, _)| gone(by)).then(|| client.clone());
        let clients: Vec<_> = self.due.iter().filter_map(of).collect();
        clients.iter().for_each(|client| self.orphan(client));
    }

    fn orphan(&mut self, client: &str) {
        if let Some(mut due) = self.remove(client) {
            due.by = None;
            self.insert(due);
        }
    }

    fn insert(&mut self, due: Due) {
        let client = due.will.client.clone();
        self.bytes += due.will.will.cost_bytes();
        match due.by {
            Some((_, until)) => drop(self.until.insert((until, client.clone()))),
            None => drop(self.orphans.insert(client.clone())),
        }
        self.due.insert(client, due);
    }

    fn remove(&mut self, client: &str) -> Option<Due> {
        let due = self.due.remove(client)?;
        self.bytes -= due.will.will.cost_bytes();
        match due.by {
            Some((_, until)) => drop(self.until.remove(&(until, client.to_string()))),
            None => drop(self.orphans.remove(client)),
        }
        Some(due)
    }

    /// As they are stored.
    pub fn image(&self) -> Vec<&Due> {
        self.due.values().collect()
    }

    /// From what [`Wills::image`] gave; nothing if that can't be.
    pub fn from_image(all: Vec<Due>, most_epoch: u64) -> Option<Self> {
        let mut wills = Self::default();
        for due in all {
            let epochs = due.will.instance <= due.will.epoch && due.will.epoch <= most_epoch;
            if !epochs || wills.due.contains_key(&due.will.client) {
                return None;
            }
            wills.insert(due);
        }
        Some(wills)
    }
}
