//! Wills that are due, until they are published.
//!
//! A will is part of its client's session until it falls due. The command that makes it due moves it here:
//! the end of its connection, a takeover, the end of its delay, the end of the session, or the loss of its
//! gateway. The gateway that sent this command publishes the will; if no gateway did, the leader's gateway
//! publishes it. A later CONNECT of the client hands the will to the gateway of that connection. If a gateway
//! has not published its will within [`MAX_PUBLISHING_MS`] of elapsed time, or is gone, the leader's gateway
//! publishes it as well. Its readings are recognised by (client, instance, epoch, packet id 0), so they count
//! once, however many gateways publish them.
//!
//! Invariant: a client has at most one will that is due. A gateway answers CONNECT only after the client's
//! earlier will is published. So if a will falls due while an earlier one is still here, the later one's
//! connection was never accepted, and its will is dropped.

use crate::machine::command::{DueWill, Origin};
use bincode::{Decode, Encode};
use selvedge_types::time::ElapsedMs;
use std::collections::{BTreeMap, BTreeSet};

/// The most that one will may count, by [`SessionWill::cost_bytes`](crate::machine::SessionWill::cost_bytes).
pub const MAX_WILL_BYTES: usize = 8 * 1024;
/// The most that all wills of a shard may count together.
pub const MAX_WILLS_BYTES: usize = 512 * 1024;
/// How long a gateway has to publish a will before the leader's gateway publishes it as well.
pub const MAX_PUBLISHING_MS: u64 = 10_000;

/// A will that is due and not known to be published.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Due {
    will: DueWill,
    /// The process that publishes it, and until when it has time. `None`: the leader's gateway.
    by: Option<(Origin, ElapsedMs)>,
}

/// The wills that are due, by client.
#[derive(Debug, Default)]
pub struct DueWills {
    due: BTreeMap<String, Due>,
    /// Derived: until when their processes have time to publish them.
    until: BTreeSet<(ElapsedMs, String)>,
    /// Derived: clients whose wills the leader's gateway must publish.
    orphans: BTreeSet<String>,
    /// Derived: what all due wills count against [`MAX_WILLS_BYTES`].
    bytes: usize,
}

impl DueWills {
    /// The bytes that all due wills count against [`MAX_WILLS_BYTES`].
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.due.len()
    }

    /// When the leader's gateway must next take over a will.
    pub fn due(&self) -> Option<ElapsedMs> {
        self.until.first().map(|(at, _)| *at)
    }

    /// Wills that the leader's gateway must publish.
    pub fn orphans(&self) -> impl Iterator<Item = &DueWill> {
        self.orphans.iter().filter_map(|client| self.due.get(client)).map(|due| &due.will)
    }

    /// The due will of a client.
    pub fn of(&self, client: &str) -> Option<&DueWill> {
        self.due.get(client).map(|due| &due.will)
    }

    /// Takes in a will that falls due. Drops it if the client has one already.
    pub fn add(&mut self, will: DueWill, by: Option<Origin>, now: ElapsedMs) {
        if !self.due.contains_key(&will.client) {
            self.insert(Due { will, by: by.map(|origin| (origin, now.plus(MAX_PUBLISHING_MS))) });
        }
    }

    /// Makes this process the publisher of the client's will.
    pub fn hand_to(&mut self, client: &str, origin: Origin, now: ElapsedMs) {
        if let Some(mut due) = self.remove(client) {
            due.by = Some((origin, now.plus(MAX_PUBLISHING_MS)));
            self.insert(due);
        }
    }

    /// Removes a will that has been published. Returns true if it was this process's to publish.
    pub fn done(&mut self, client: &str, epoch: u64, at: Origin) -> bool {
        let own = |due: &Due| due.will.epoch == epoch && due.by.is_none_or(|(by, _)| by == at);
        self.due.get(client).is_some_and(own) && self.remove(client).is_some()
    }

    /// Hands wills that were not published in time to the leader's gateway.
    pub fn expire(&mut self, now: ElapsedMs) {
        while let Some((_, client)) = self.until.first().filter(|(at, _)| *at <= now) {
            let client = client.clone();
            self.orphan(&client);
        }
    }

    /// Hands the wills of processes that are gone to the leader's gateway.
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

    /// The wills as a snapshot has them.
    pub fn image(&self) -> Vec<&Due> {
        self.due.values().collect()
    }

    /// Restores what [`DueWills::image`] returned. `None` if the wills contradict each other or an epoch exceeds
    /// `most_epoch`.
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
