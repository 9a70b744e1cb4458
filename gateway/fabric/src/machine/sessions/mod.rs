//! Sessions: which client is connected where, and the state that outlives a connection. A session lies in the
//! shard of its client id.
//!
//! Every CONNECT is a command and raises the client's epoch. Epochs come from one counter of the shard, so no
//! two connections have the same one, even if a session is discarded and made anew. If the client was
//! connected, the gateway that holds the earlier connection closes it ([`Evicted`]). A session ends by a
//! clean CONNECT, with its connection if it has no expiry, or when its expiry has passed by the shard's
//! elapsed time. At the bound of sessions, the disconnected session that ends first makes room for a new one.
//!
//! # Wills
//! A connection's will is part of its session. It falls due (MQTT 5, 3.1.2.5) when the connection ends
//! without a DISCONNECT or is taken over, and then its delay has passed or its session has ended, whichever
//! comes first. If the client continues the session before the delay has passed, the will is not published.
//! [`wills`] describes how a due will is published.
//!
//! # Lost gateways
//! All connections of a gateway process end when the shard sees a later start of that gateway, or when the
//! leader could not reach it for long ([`super::Command::Lost`]). A gateway that was given up and is heard
//! from again closes them.

mod wills;

pub use wills::{MAX_PUBLISHING_MS, MAX_WILL_BYTES, MAX_WILLS_BYTES};

use super::applied::{Applied, Evicted};
use super::command::{ConnectItem, DisconnectItem, DueWill, Item, Origin, SessionWill};
use super::fullness::Fullness;
use super::outcomes::{ConnectOutcome, ItemOutcome};
use super::rules::CountingRules;
use super::snapshot::{MAX_COUNT, Reader, RestoreError, Writer, inconsistent};
use super::table::{Moment, Table};
use bincode::{Decode, Encode};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::ElapsedMs;
use std::collections::{BTreeMap, BTreeSet};
use wills::{Due, DueWills};

/// The longest client id.
pub const MAX_CLIENT_BYTES: usize = 256;
/// The longest filter of a subscription.
pub const MAX_FILTER_BYTES: usize = 512;

/// A client's session: the state that outlives a connection, and the connection that has it now.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub(super) struct StoredSession {
    instance: u64,
    epoch: u64,
    at: Origin,
    connection: u64,
    expiry_s: u32,
    /// When the session ends; `None` while the client is connected.
    ends: Option<ElapsedMs>,
    will: Option<Box<SessionWill>>,
    /// When the will falls due; `None` while the client is connected.
    will_at: Option<ElapsedMs>,
    /// By filter; the options are one byte.
    subscriptions: BTreeMap<String, u8>,
    touched: BTreeSet<u16>,
}

impl StoredSession {
    fn due_will(&self, client: &str, will: SessionWill) -> DueWill {
        DueWill { client: client.to_string(), instance: self.instance, epoch: self.epoch, will }
    }

    fn will_bytes(&self) -> usize {
        self.will.as_ref().map_or(0, |will| will.cost_bytes())
    }
}

/// All sessions of a shard.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: BTreeMap<String, StoredSession>,
    /// The greatest epoch that was given.
    epoch: u64,
    wills: DueWills,
    /// Gateways that were given up as lost and have not been heard from since.
    lost: BTreeSet<GatewayId>,
    /// Derived: when disconnected sessions end.
    ends: BTreeSet<(ElapsedMs, String)>,
    /// Derived: when wills of disconnected sessions fall due.
    delayed: BTreeSet<(ElapsedMs, String)>,
    /// Derived: the number of subscriptions of all sessions.
    subscriptions: usize,
    /// Derived: what the wills of all sessions count, without those that are due.
    will_bytes: usize,
    /// Derived: the number of connected clients at each process.
    connected: BTreeMap<Origin, usize>,
}

/// The time by which sessions expire.
fn time(at: &Moment) -> ElapsedMs {
    match canary::makes(Canary::ExpiryByWall) {
        true => ElapsedMs(u64::try_from(at.now.wall.0).unwrap_or(0)),
        false => at.now.elapsed,
    }
}

impl Sessions {
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// The number of subscriptions of all sessions.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Whether a connection with a higher epoch has taken the client's session.
    pub fn is_replaced(&self, client: &str, epoch: u64) -> bool {
        epoch > 0 && self.all.get(client).is_some_and(|s| s.epoch > epoch)
    }

    /// The number of wills that are due.
    pub fn due_wills(&self) -> usize {
        self.wills.len()
    }

    /// Wills that the leader's gateway must publish.
    pub fn orphans(&self) -> impl Iterator<Item = &DueWill> {
        self.wills.orphans()
    }

    /// The gateway processes to which clients are connected.
    pub fn processes(&self) -> impl Iterator<Item = Origin> {
        self.connected.keys().copied()
    }

    fn connect(
        &mut self,
        c: &ConnectItem,
        now: ElapsedMs,
        rules: &CountingRules,
    ) -> Result<(ConnectOutcome, Option<Evicted>), ItemOutcome> {
        if !(1..=MAX_CLIENT_BYTES).contains(&c.client.len()) {
            return Err(ItemOutcome::Refused(format!("a client id must have 1 to {MAX_CLIENT_BYTES} bytes")));
        }
        self.expire(now);
        // The gateway repeats this CONNECT because the answer was lost, and gets the same answer again.
        if let Some(s) = self.all.get(&c.client)
            && (s.at, s.connection, s.ends) == (c.at, c.connection, None)
        {
            return Ok((self.found(&c.client, s, s.instance < s.epoch), None));
        }
        self.check_will(c)?;
        let mut old = self.remove(&c.client);
        if old.is_none() && self.all.len() >= rules.max_sessions as usize {
            // MQTT lets a server discard a session. It is better to discard an idle one than to refuse a
            // client.
            match self.ends.first().map(|(_, client)| client.clone()) {
                Some(idle) => self.end(&idle, now),
                None => return Err(ItemOutcome::Refused(full("max_sessions", rules.max_sessions))),
            }
        }
        self.epoch += 1;
        let evicted = old.as_ref().filter(|s| s.ends.is_none()).map(|s| Evicted {
            client: c.client.clone(),
            at: s.at,
            connection: s.connection,
            epoch: s.epoch,
        });
        // Without an expiry, a session ends with its connection, and the connection may have ended without
        // the shard knowing yet.
        let goes_on = |s: &StoredSession| !c.clean && s.expiry_s > 0;
        self.wills.hand_to(&c.client, c.at, now);
        if let Some(s) = &mut old
            && let Some(will) = s.will.take()
            && (!goes_on(s) || (s.ends.is_none() && will.delay_s == 0))
        {
            self.wills.add(s.due_will(&c.client, *will), Some(c.at), now);
        }
        let kept = old.take_if(|s| goes_on(s));
        let present = kept.is_some();
        let mut session = kept.unwrap_or_else(|| StoredSession {
            instance: self.epoch,
            epoch: 0,
            at: c.at,
            connection: 0,
            expiry_s: 0,
            ends: None,
            will: None,
            will_at: None,
            subscriptions: BTreeMap::new(),
            touched: BTreeSet::new(),
        });
        session.epoch = self.epoch;
        session.at = c.at;
        session.connection = c.connection;
        session.expiry_s = c.expiry_s.min(rules.session_expiry_cap_s);
        session.ends = None;
        session.will = c.will.clone();
        session.will_at = None;
        let connected = self.found(&c.client, &session, present);
        self.insert(c.client.clone(), session);
        Ok((connected, evicted))
    }

    /// Refuses the will of a new connection if it is too large, or if the shard has no room for it.
    fn check_will(&self, c: &ConnectItem) -> Result<(), ItemOutcome> {
        let bytes = c.will.as_ref().map_or(0, |will| will.cost_bytes());
        if bytes > MAX_WILL_BYTES {
            return Err(ItemOutcome::Refused(format!("a will must take at most {MAX_WILL_BYTES} bytes")));
        }
        let before = self.all.get(&c.client).map_or(0, StoredSession::will_bytes);
        if bytes > 0 && self.will_bytes + self.wills.bytes() + bytes > MAX_WILLS_BYTES + before {
            return Err(ItemOutcome::Refused(format!(
                "the shard's wills take their most ({MAX_WILLS_BYTES} bytes)"
            )));
        }
        Ok(())
    }

    fn found(&self, client: &str, s: &StoredSession, present: bool) -> ConnectOutcome {
        ConnectOutcome {
            instance: s.instance,
            epoch: s.epoch,
            present,
            subscriptions: s.subscriptions.iter().map(|(f, q)| (f.clone(), *q)).collect(),
            touched: s.touched.iter().copied().collect(),
            expiry_s: s.expiry_s,
            will: self.wills.of(client).cloned().map(Box::new),
        }
    }

    /// Ends a connection. Returns its will if that is due at once, for the gateway that held the connection
    /// to publish.
    fn disconnect(
        &mut self,
        d: &DisconnectItem,
        now: ElapsedMs,
        rules: &CountingRules,
    ) -> Result<Option<DueWill>, ItemOutcome> {
        let session = self.all.get_mut(&d.client).filter(|s| s.epoch == d.epoch && s.ends.is_none());
        let session = session.ok_or(ItemOutcome::Stale)?;
        if let Some(expiry_s) = d.expiry_s.filter(|_| session.expiry_s > 0) {
            session.expiry_s = expiry_s.min(rules.session_expiry_cap_s);
        }
        self.over(&d.client, d.with_will, Some(d.at), now);
        Ok(self.wills.of(&d.client).filter(|will| will.epoch == d.epoch).cloned())
    }

    /// Ends the connection of a session; `by` publishes a will that is due at once, or the leader's gateway
    /// if there is none.
    fn over(&mut self, client: &str, with_will: bool, by: Option<Origin>, now: ElapsedMs) {
        let Some(mut session) = self.remove(client) else { return };
        if let Some(will) = session.will.take().filter(|_| with_will) {
            let delay_s = will.delay_s.min(session.expiry_s);
            if delay_s == 0 {
                self.wills.add(session.due_will(client, *will), by, now);
            } else {
                session.will_at = Some(now.plus(u64::from(delay_s) * 1_000));
                session.will = Some(will);
            }
        }
        if session.expiry_s > 0 {
            session.ends = Some(now.plus(u64::from(session.expiry_s) * 1_000));
            self.insert(client.to_string(), session);
        }
    }

    /// Discards a session. Its will falls due with it.
    fn end(&mut self, client: &str, now: ElapsedMs) {
        let Some(mut session) = self.remove(client) else { return };
        if let Some(will) = session.will.take() {
            self.wills.add(session.due_will(client, *will), None, now);
        }
    }

    /// Removes a will that has been published. Returns true if it was this process's to publish.
    fn will_done(&mut self, client: &str, epoch: u64, at: Origin) -> Result<bool, ItemOutcome> {
        if self.wills.done(client, epoch, at) {
            return Ok(true);
        }
        match self.all.get(client).is_some_and(|session| session.at != at) {
            true => Err(ItemOutcome::Stale),
            false => Ok(false),
        }
    }

    /// Adds and removes filters. Returns the indices of added filters that a bound refuses.
    fn subscribe(
        &mut self,
        client: &str,
        epoch: u64,
        add: &[(String, u8)],
        remove: &[String],
        rules: &CountingRules,
    ) -> Result<Vec<u16>, ItemOutcome> {
        let session = self.all.get_mut(client).filter(|s| s.epoch == epoch).ok_or(ItemOutcome::Stale)?;
        let mut refused = Vec::new();
        for (i, (filter, options)) in (0..).zip(add) {
            let new = !session.subscriptions.contains_key(filter);
            let full = new && self.subscriptions >= rules.max_subscriptions as usize;
            if full || !(1..=MAX_FILTER_BYTES).contains(&filter.len()) {
                refused.push(i);
                continue;
            }
            session.subscriptions.insert(filter.clone(), *options);
            self.subscriptions += usize::from(new);
        }
        for filter in remove {
            self.subscriptions -= usize::from(session.subscriptions.remove(filter).is_some());
        }
        Ok(refused)
    }

    fn touch(&mut self, client: &str, epoch: u64, shard: u16) -> Result<(), ItemOutcome> {
        let session = self.all.get_mut(client).filter(|s| s.epoch == epoch).ok_or(ItemOutcome::Stale)?;
        session.touched.insert(shard);
        Ok(())
    }

    /// Disconnects all clients of earlier starts of a gateway.
    pub fn superseded(&mut self, gateway: GatewayId, start: u64, at: &Moment) {
        self.lost.remove(&gateway);
        self.gone(|at| at.gateway == gateway && at.start < start, time(at));
    }

    /// Disconnects all clients of a gateway process that the leader could not reach for long.
    pub fn lost(&mut self, origin: Origin, at: &Moment) {
        self.lost.insert(origin.gateway);
        self.gone(|at| at == origin, time(at));
    }

    /// Whether the gateway was given up, now that it is heard from again. It then no longer is.
    pub fn is_back(&mut self, gateway: GatewayId) -> bool {
        self.lost.remove(&gateway)
    }

    fn gone(&mut self, gone: impl Fn(Origin) -> bool, now: ElapsedMs) {
        if self.connected.keys().any(|at| gone(*at)) {
            let held = |(_, s): &(&String, &StoredSession)| s.ends.is_none() && gone(s.at);
            let clients: Vec<_> = self.all.iter().filter(held).map(|(client, _)| client.clone()).collect();
            clients.iter().for_each(|client| self.over(client, true, None, now));
        }
        self.wills.lost(gone);
    }

    /// Discards sessions that have expired, and lets wills fall due. Returns how many sessions expired.
    fn expire(&mut self, now: ElapsedMs) -> u64 {
        while let Some((_, client)) = self.delayed.first().filter(|(at, _)| *at <= now) {
            let client = client.clone();
            let Some(mut session) = self.remove(&client) else { break };
            session.will_at = None;
            if let Some(will) = session.will.take() {
                self.wills.add(session.due_will(&client, *will), None, now);
            }
            self.insert(client, session);
        }
        let mut expired = 0;
        while let Some((_, client)) = self.ends.first().filter(|(at, _)| *at <= now) {
            let client = client.clone();
            self.end(&client, now);
            expired += 1;
        }
        self.wills.expire(now);
        expired
    }

    fn insert(&mut self, client: String, session: StoredSession) {
        match session.ends {
            Some(at) => drop(self.ends.insert((at, client.clone()))),
            None => *self.connected.entry(session.at).or_default() += 1,
        }
        if let Some(at) = session.will_at {
            self.delayed.insert((at, client.clone()));
        }
        self.subscriptions += session.subscriptions.len();
        self.will_bytes += session.will_bytes();
        self.all.insert(client, session);
    }

    /// Removes a session, to be discarded or put back changed.
    fn remove(&mut self, client: &str) -> Option<StoredSession> {
        let session = self.all.remove(client)?;
        if let Some(at) = session.ends {
            self.ends.remove(&(at, client.to_string()));
        } else if let Some(count) = self.connected.get_mut(&session.at) {
            *count -= 1;
            if *count == 0 {
                self.connected.remove(&session.at);
            }
        }
        if let Some(at) = session.will_at {
            self.delayed.remove(&(at, client.to_string()));
        }
        self.subscriptions -= session.subscriptions.len();
        self.will_bytes -= session.will_bytes();
        Some(session)
    }
}

impl Table for Sessions {
    fn apply(&mut self, item: &Item, at: &Moment, applied: &mut Applied) -> Option<ItemOutcome> {
        let (now, rules) = (time(at), &*at.rules);
        let outcome = match item {
            Item::Connect(connect) => self.connect(connect, now, rules).map(|(connected, evicted)| {
                applied.evicted.extend(evicted);
                ItemOutcome::Connected(Box::new(connected))
            }),
            Item::Disconnect(disconnect) => {
                let will = self.disconnect(disconnect, now, rules);
                will.map(|will| will.map_or(ItemOutcome::Done, |will| ItemOutcome::WillDue(Box::new(will))))
            }
            Item::WillDone { client, epoch, at: by } => {
                let done = self.will_done(client, *epoch, *by);
                done.map(|own| if own { ItemOutcome::Done } else { ItemOutcome::Duplicate })
            }
            Item::Subscriptions { client, epoch, add, remove } => {
                let done = self.subscribe(client, *epoch, add, remove, rules);
                done.map(|refused| match refused.is_empty() {
                    true => ItemOutcome::Done,
                    false => ItemOutcome::Subscribed { refused },
                })
            }
            Item::Touch { client, epoch, shard } => {
                self.touch(client, *epoch, *shard).map(|()| ItemOutcome::Done)
            }
            _ => return None,
        };
        Some(match outcome {
            Ok(done) => done,
            Err(not_done) => not_done,
        })
    }

    fn tick(&mut self, at: &Moment, applied: &mut Applied) {
        applied.counters.sessions_expired += self.expire(time(at));
    }

    /// When the next session ends or the next will falls due.
    fn next_due(&mut self, _: &CountingRules) -> Option<ElapsedMs> {
        let first = |set: &BTreeSet<(ElapsedMs, String)>| set.first().map(|(at, _)| *at);
        [first(&self.ends), first(&self.delayed), self.wills.due()].into_iter().flatten().min()
    }

    fn snapshot(&self, to: &mut Writer) {
        to.put((self.epoch, &self.all, self.wills.image(), &self.lost));
    }

    fn restore(&mut self, from: &mut Reader<'_>, _: &Moment) -> Result<(), RestoreError> {
        let (epoch, all, due, lost): (u64, BTreeMap<String, StoredSession>, Vec<Due>, _) =
            from.take("sessions")?;
        if epoch > MAX_COUNT {
            return Err(inconsistent("counts"));
        }
        let wills = DueWills::from_image(due, epoch).ok_or(inconsistent("sessions"))?;
        *self = Self { epoch, wills, lost, ..Self::default() };
        for (client, session) in all {
            let wills = match (&session.will, session.will_at, session.ends) {
                (_, None, None) | (None, None, Some(_)) => true,
                (Some(_), Some(at), Some(ends)) => at <= ends,
                _ => false,
            };
            if session.epoch > epoch || session.instance > session.epoch || !wills {
                return Err(inconsistent("sessions"));
            }
            self.insert(client, session);
        }
        Ok(())
    }

    fn fullness(&self, rules: &CountingRules) -> Vec<Fullness> {
        const SESSIONS: &str =
            "at the bound, the idle session that expires first is discarded; raise the rule";
        const SUBSCRIPTIONS: &str = "at the bound, further subscriptions are refused; raise the rule";
        vec![
            Fullness::new("max_sessions", self.len(), rules.max_sessions, SESSIONS),
            Fullness::new("max_subscriptions", self.subscriptions, rules.max_subscriptions, SUBSCRIPTIONS),
        ]
    }
}

fn full(rule: &str, most: u32) -> String {
    format!("the shard has its most ({rule} is {most})")
}
