//! Sessions: who is connected where, and what outlives a connection. Kept in the shard of the client id.
//!
//! Every CONNECT is a command: it raises the client's epoch (from a count of the whole shard, so that no
//! session, also none made anew, ever gets an epoch again), and whoever held the client before is told
//! to close it. A session is discarded by a clean CONNECT, at the end of its connection if it has no
//! expiry, and when that has passed by the shard's elapsed time.
//!
//! Limit: the sessions of a gateway that never starts again count as connected until their clients
//! connect elsewhere, and hold their place in the shard's bound.

use super::Evicted;
use super::command::{Connect, Connected, Origin};
use super::rules::Rules;
use bincode::{Decode, Encode};
use selvedge_shared::ids::GatewayId;
use selvedge_shared::time::ElapsedMs;
use std::collections::{BTreeMap, BTreeSet};

/// The longest client id.
pub const MAX_CLIENT_BYTES: usize = 256;
/// The longest filter of a subscription.
pub const MAX_FILTER_BYTES: usize = 512;

/// One client's session.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) struct Session {
    instance: u64,
    epoch: u64,
    at: Origin,
    connection: u64,
    expiry_s: u32,
    /// The elapsed time at which it ends; nothing while it is connected.
    ends: Option<ElapsedMs>,
    /// By filter.
    subscriptions: BTreeMap<String, u8>,
    touched: BTreeSet<u16>,
}

impl Session {
    fn connected(&self, present: bool) -> Connected {
        Connected {
            instance: self.instance,
            epoch: self.epoch,
            present,
            subscriptions: self.subscriptions.iter().map(|(f, q)| (f.clone(), *q)).collect(),
            touched: self.touched.iter().copied().collect(),
        }
    }
}

/// All sessions of a shard.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: BTreeMap<String, Session>,
    /// The greatest epoch given.
    epoch: u64,
    /// Derived: when disconnected sessions end.
    ends: BTreeSet<(ElapsedMs, String)>,
    /// Derived: how many subscriptions they have.
    subscriptions: usize,
}

/// Why a command on a session was not carried out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Not {
    /// The session is not of that epoch.
    Current,
    /// A bound is reached.
    Possible(String),
}

impl Sessions {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// How many subscriptions they have.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Whether a later connection than that of this epoch has taken the client's session.
    pub fn is_replaced(&self, client: &str, epoch: u64) -> bool {
        epoch > 0 && self.all.get(client).is_some_and(|s| s.epoch > epoch)
    }

    /// When the next disconnected session ends.
    pub fn due(&self) -> Option<ElapsedMs> {
        self.ends.first().map(|(at, _)| *at)
    }

    pub fn connect(
        &mut self,
        c: &Connect,
        now: ElapsedMs,
        rules: &Rules,
    ) -> Result<(Connected, Option<Evicted>), Not> {
        if !(1..=MAX_CLIENT_BYTES).contains(&c.client.len()) {
            return Err(Not::Possible(format!("a client id must have 1 to {MAX_CLIENT_BYTES} bytes")));
        }
        self.expire(now);
        // The answer to this very connection was lost: it is told the same again.
        if let Some(s) = self.all.get(&c.client)
            && (s.at, s.connection, s.ends) == (c.at, c.connection, None)
        {
            return Ok((s.connected(s.instance < s.epoch), None));
        }
        let mut old = self.remove(&c.client);
        if old.is_none() && self.all.len() >= rules.max_sessions as usize {
            // A server may discard a session: better one that nobody uses than to turn a client away.
            match self.ends.first().map(|(_, client)| client.clone()) {
                Some(idle) => drop(self.remove(&idle)),
                None => return Err(Not::Possible(full("max_sessions", rules.max_sessions))),
            }
        }
        self.epoch += 1;
        let evicted = old.as_ref().filter(|s| s.ends.is_none()).map(|s| Evicted {
            client: c.client.clone(),
            at: s.at,
            connection: s.connection,
            epoch: s.epoch,
        });
        // One without an expiry ends with its connection, which may be over without the shard knowing yet.
        let kept = old.take_if(|s| !c.clean && s.expiry_s > 0);
        let present = kept.is_some();
        let mut session = kept.unwrap_or_else(|| Session {
            instance: self.epoch,
            epoch: 0,
            at: c.at,
            connection: 0,
            expiry_s: 0,
            ends: None,
            subscriptions: BTreeMap::new(),
            touched: BTreeSet::new(),
        });
        session.epoch = self.epoch;
        session.at = c.at;
        session.connection = c.connection;
        session.expiry_s = c.expiry_s.min(rules.session_expiry_cap_s);
        session.ends = None;
        let connected = session.connected(present);
        self.insert(c.client.clone(), session);
        Ok((connected, evicted))
    }

    pub fn disconnect(&mut self, client: &str, epoch: u64, now: ElapsedMs) -> Result<(), Not> {
        let current = self.all.get(client).is_some_and(|s| s.epoch == epoch && s.ends.is_none());
        let session = if current { self.remove(client) } else { None };
        let mut session = session.ok_or(Not::Current)?;
        if session.expiry_s > 0 {
            session.ends = Some(now.plus(u64::from(session.expiry_s) * 1_000));
            self.insert(client.to_string(), session);
        }
        Ok(())
    }

    pub fn subscribe(
        &mut self,
        client: &str,
        epoch: u64,
        add: &[(String, u8)],
        remove: &[String],
        rules: &Rules,
    ) -> Result<(), Not> {
        let session = self.all.get_mut(client).filter(|s| s.epoch == epoch).ok_or(Not::Current)?;
        if add.iter().any(|(filter, _)| !(1..=MAX_FILTER_BYTES).contains(&filter.len())) {
            return Err(Not::Possible(format!("a filter must have 1 to {MAX_FILTER_BYTES} bytes")));
        }
        let new = add.iter().filter(|(filter, _)| !session.subscriptions.contains_key(filter)).count();
        if new > 0 && self.subscriptions + new > rules.max_subscriptions as usize {
            return Err(Not::Possible(full("max_subscriptions", rules.max_subscriptions)));
        }
        self.subscriptions -= session.subscriptions.len();
        session.subscriptions.extend(add.iter().cloned());
        for filter in remove {
            session.subscriptions.remove(filter);
        }
        self.subscriptions += session.subscriptions.len();
        Ok(())
    }

    pub fn touch(&mut self, client: &str, epoch: u64, shard: u16) -> Result<(), Not> {
        let session = self.all.get_mut(client).filter(|s| s.epoch == epoch).ok_or(Not::Current)?;
        session.touched.insert(shard);
        Ok(())
    }

    /// A gateway's process has started anew: what its earlier ones held is disconnected.
    pub fn superseded(&mut self, gateway: GatewayId, start: u64, now: ElapsedMs) {
        let lost = |s: &Session| s.at.gateway == gateway && s.at.start < start && s.ends.is_none();
        let clients: Vec<_> =
            self.all.iter().filter(|(_, s)| lost(s)).map(|(c, s)| (c.clone(), s.epoch)).collect();
        for (client, epoch) in clients {
            // Each was found connected at this epoch just now.
            let _ = self.disconnect(&client, epoch, now);
        }
    }

    /// Discards what has ended; says how many that were.
    pub fn expire(&mut self, now: ElapsedMs) -> u64 {
        let mut expired = 0;
        while let Some((at, client)) = self.ends.first() {
            if *at > now {
                break;
            }
            let client = client.clone();
            self.remove(&client);
            expired += 1;
        }
        expired
    }

    fn insert(&mut self, client: String, session: Session) {
        if let Some(at) = session.ends {
            self.ends.insert((at, client.clone()));
        }
        self.subscriptions += session.subscriptions.len();
        self.all.insert(client, session);
    }

    /// Takes a session out, to be discarded or put back changed.
    fn remove(&mut self, client: &str) -> Option<Session> {
        let session = self.all.remove(client)?;
        if let Some(at) = session.ends {
            self.ends.remove(&(at, client.to_string()));
        }
        self.subscriptions -= session.subscriptions.len();
        Some(session)
    }

    /// The greatest epoch and the sessions, as they are stored.
    pub fn image(&self) -> (u64, &BTreeMap<String, Session>) {
        (self.epoch, &self.all)
    }

    /// From what [`Sessions::image`] gave; nothing if that can't be.
    pub fn from_image(epoch: u64, all: BTreeMap<String, Session>) -> Option<Self> {
        let mut sessions = Self { epoch, ..Self::default() };
        for (client, session) in all {
            if session.epoch > epoch || session.instance > session.epoch {
                return None;
            }
            sessions.insert(client, session);
        }
        Some(sessions)
    }
}

fn full(rule: &str, most: u32) -> String {
    format!("the shard has its most ({rule} is {most})")
}
