//! The actor of one shard's replica: gathers what comes, steps the core once for all of it, and performs
//! the effects in their order of durability.

use crate::actors::forwarder::{Answered, Forwarder, LeaderIs};
use crate::actors::log::{LogActor, Persist, Store, end_process};
use crate::actors::switch::{Switch, ToPeers};
use crate::actors::uplink::{Loaded, ShardView, UplinkActor};
use crate::logic::commit::Submission;
use crate::logic::machine::{Counters, CutBatch, DeviceInfo, MAX_ANSWER_ENTRIES};
use crate::logic::peer::{PeerMessage, TransferMessage};
use crate::logic::shard::{CONFIGURATION, Event, Now, Shard, Status};
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, SpawnHandle};
use selvedge_shared::ids::{GatewayId, ShardId};
use selvedge_shared::time::EpochMs;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Contents of unconfirmed batches that stay in memory; older ones go to the store.
const SHELF_BYTES: usize = 256 * 1024;
/// Events that are stepped in one turn.
const MAX_TURN_EVENTS: usize = 4_096;

/// Events for a shard.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ShardEvents(pub Vec<Event>);

/// What the log says to a shard.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub enum LogSaid {
    /// Records up to this token are on disk.
    Persisted(u64),
    /// Whether the disk has room.
    Room(bool),
    /// The log wants to be trimmed.
    SnapshotWanted,
    /// A snapshot is on disk, or could not be put there.
    SnapshotSaved {
        /// Its last slot.
        slot: u64,
        /// It is there.
        saved: bool,
    },
    /// A batch's content that the store could not take.
    NotStored(CutBatch),
    /// A batch's content.
    Loaded {
        /// The batch.
        seq: u64,
        /// Nothing if it is not there.
        body: Option<Vec<u8>>,
    },
}

/// Asks for the content of a batch, for the uplink.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct LoadBatch(pub u64);

/// Asks how the shard is.
#[derive(Debug, Message)]
#[rtype(result = "ShardReport")]
pub struct GetStatus {
    /// With its devices.
    pub devices: bool,
}

/// How the shard is.
#[derive(Debug, actix::MessageResponse)]
pub struct ShardReport {
    /// Its replica.
    pub status: Status,
    /// How often this process began to lead it.
    pub led: u64,
    /// Its devices, if asked for.
    pub devices: Vec<DeviceInfo>,
}

/// Whom the shard's effects go to.
#[derive(Clone)]
pub struct Around {
    /// The log.
    pub log: Addr<LogActor>,
    /// Messages to peers and to this gateway's queries.
    pub switch: Addr<Switch>,
    /// This gateway's forwarder.
    pub forwarder: Addr<Forwarder>,
    /// The uplink.
    pub uplink: Addr<UplinkActor>,
    /// What monotonic times count from.
    pub epoch: Instant,
}

/// One shard's replica.
pub struct ShardActor {
    id: ShardId,
    me: GatewayId,
    core: Shard,
    around: Around,
    inbox: Vec<Event>,
    turning: bool,
    /// Messages that wait for a token.
    held: BTreeMap<u64, Vec<(GatewayId, PeerMessage)>>,
    shelf: BTreeMap<u64, Arc<[u8]>>,
    shelf_bytes: usize,
    /// Contents up to this seq are in the store or on their way to it.
    stored_through: u64,
    /// There may be contents in the store, to be removed once they are confirmed.
    uses_store: bool,
    /// Peers that wait for a batch's content.
    fetching: BTreeMap<u64, Vec<GatewayId>>,
    loading: BTreeMap<u64, u32>,
    timer: Option<(u64, SpawnHandle)>,
    led: u64,
    leading: bool,
}

impl ShardActor {
    /// An actor around a recovered replica. `stored_through`: the highest batch in the store.
    pub fn new(id: ShardId, me: GatewayId, core: Shard, stored_through: u64, around: Around) -> Self {
        Self {
            id,
            me,
            core,
            around,
            inbox: Vec::new(),
            turning: false,
            held: BTreeMap::new(),
            shelf: BTreeMap::new(),
            shelf_bytes: 0,
            stored_through,
            uses_store: stored_through > 0,
            fetching: BTreeMap::new(),
            loading: BTreeMap::new(),
            timer: None,
            led: 0,
            leading: false,
        }
    }

    fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.around.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono_ms, wall: EpochMs::now() }
    }

    fn take_in(&mut self, event: Event, ctx: &mut Context<Self>) {
        self.inbox.push(event);
        if self.inbox.len() >= MAX_TURN_EVENTS {
            self.turn(ctx);
        } else if !self.turning {
            self.turning = true;
            ctx.notify(Turn);
        }
    }

    fn turn(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        for event in std::mem::take(&mut self.inbox) {
            self.core.step(now, event);
        }
        let mut effects = match self.core.take(now) {
            Ok(effects) => effects,
            Err(halt) => end_process(&halt.to_string()),
        };
        self.send(std::mem::take(&mut effects.send));
        let (shard, token) = (self.id, effects.token);
        if !effects.records.is_empty() {
            let submission = Submission { shard, token, records: effects.records };
            self.around.log.do_send(Persist(submission));
            self.held.entry(token).or_default().extend(effects.send_after);
        } else if let Some(mut last) = self.held.last_entry() {
            last.get_mut().extend(effects.send_after);
        } else {
            self.send(effects.send_after);
        }
        if effects.healed {
            // The log writes in order, so this comes after everything before it.
            self.around.log.do_send(Store::Healed(shard));
        }
        self.shelve(effects.cut);
        if let Some(through) = effects.confirmed {
            self.shelf = self.shelf.split_off(&(through + 1));
            self.shelf_bytes = self.shelf.values().map(|b| b.len()).sum();
            if self.uses_store {
                self.around.log.do_send(Store::Remove(shard, through));
            }
        }
        if let Some((slot, bytes)) = effects.snapshot {
            let unstored = self.shelf.range(self.stored_through + 1..);
            let batches: Vec<_> =
                unstored.map(|(seq, b)| CutBatch { seq: *seq, bytes: b.to_vec() }).collect();
            self.stored_through = self.stored_through.max(batches.last().map_or(0, |b| b.seq));
            self.uses_store |= !batches.is_empty();
            self.around.log.do_send(Store::Snapshot { shard, slot, bytes, batches });
        }
        for (to, seq) in effects.fetch {
            match self.shelf.get(&seq) {
                Some(body) => self.hand_over(to, seq, Some(body.clone())),
                None => {
                    self.fetching.entry(seq).or_default().push(to);
                    self.around.log.do_send(Store::Load(shard, seq));
                }
            }
        }
        if let Some(view) = effects.uplink {
            if view.leading && !self.leading {
                self.led += 1;
                metrics::counter!("selvedge_leaderships_total").increment(1);
                self.around.forwarder.do_send(LeaderIs(shard, self.me));
            }
            self.leading = view.leading;
            self.around.uplink.do_send(ShardView(shard, view));
        }
        for (what, count) in effects.counters.iter().flat_map(Counters::named).filter(|(_, count)| *count > 0)
        {
            metrics::counter!("selvedge_applied_total", "what" => what).increment(count);
        }
        self.arm(now, ctx);
    }

    /// Keeps the contents of batches, the newest in memory.
    fn shelve(&mut self, cut: Vec<CutBatch>) {
        for batch in cut {
            self.shelf_bytes += batch.bytes.len();
            self.shelf.insert(batch.seq, batch.bytes.into());
        }
        while self.shelf_bytes > SHELF_BYTES && self.shelf.len() > 1 {
            let Some((seq, bytes)) = self.shelf.pop_first() else { break };
            self.shelf_bytes -= bytes.len();
            if seq > self.stored_through {
                (self.stored_through, self.uses_store) = (seq, true);
                let batch = CutBatch { seq, bytes: bytes.to_vec() };
                self.around.log.do_send(Store::Batch(self.id, batch));
            }
        }
    }

    fn hand_over(&self, to: GatewayId, seq: u64, body: Option<Arc<[u8]>>) {
        let message = TransferMessage::Batch { seq, body };
        self.send(vec![(
            to,
            PeerMessage::Transfer { shard: self.id, configuration: CONFIGURATION, message },
        )]);
    }

    fn send(&self, messages: Vec<(GatewayId, PeerMessage)>) {
        if messages.is_empty() {
            return;
        }
        let (own, others): (Vec<_>, Vec<_>) = messages.into_iter().partition(|(to, _)| *to == self.me);
        let mut answers = Vec::new();
        let mut rest = others;
        for (to, message) in own {
            match message {
                PeerMessage::Forwarded { shard, origin, n, answer } => {
                    answers.push((origin, shard, n, answer))
                }
                message => rest.push((to, message)),
            }
        }
        if !answers.is_empty() {
            self.around.forwarder.do_send(Answered { from: self.me, answers });
        }
        if !rest.is_empty() {
            self.around.switch.do_send(ToPeers(rest));
        }
    }

    fn arm(&mut self, now: Now, ctx: &mut Context<Self>) {
        let due = self.core.deadline_ms(now);
        match (due, &self.timer) {
            (Some(due), Some((armed, _))) if *armed <= due && *armed > now.mono_ms => {}
            (Some(due), _) => {
                if let Some((_, old)) = self.timer.take() {
                    ctx.cancel_future(old);
                }
                let wait = Duration::from_millis(due.saturating_sub(now.mono_ms).max(1));
                self.timer = Some((due, ctx.notify_later(TimeIsUp, wait)));
            }
            (None, _) => {}
        }
    }
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Turn;

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct TimeIsUp;

impl Actor for ShardActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Bounded by what may be under way: the group's window, the forwarders' batches, one turn's answers.
        ctx.set_mailbox_capacity(1024);
        self.turn(ctx); // re-applies what was committed before the last stop
    }
}

impl Handler<Turn> for ShardActor {
    type Result = ();
    fn handle(&mut self, _: Turn, ctx: &mut Self::Context) {
        self.turning = false;
        self.turn(ctx);
    }
}

impl Handler<TimeIsUp> for ShardActor {
    type Result = ();
    fn handle(&mut self, _: TimeIsUp, ctx: &mut Self::Context) {
        self.timer = None;
        self.take_in(Event::Timer, ctx);
    }
}

impl Handler<ShardEvents> for ShardActor {
    type Result = ();
    fn handle(&mut self, ShardEvents(events): ShardEvents, ctx: &mut Self::Context) {
        for event in events {
            self.take_in(event, ctx);
        }
    }
}

impl Handler<LogSaid> for ShardActor {
    type Result = ();
    fn handle(&mut self, said: LogSaid, ctx: &mut Self::Context) {
        match said {
            LogSaid::Persisted(token) => {
                let later = self.held.split_off(&(token + 1));
                let free = std::mem::replace(&mut self.held, later);
                self.send(free.into_values().flatten().collect());
                self.take_in(Event::Persisted { token }, ctx);
            }
            LogSaid::Room(room) => self.take_in(Event::Room(room), ctx),
            LogSaid::SnapshotWanted => self.take_in(Event::SnapshotWanted, ctx),
            LogSaid::NotStored(batch) => {
                // Nothing of it is lost: the log holds what it was made of, and the next snapshot stores it.
                self.stored_through = self.stored_through.min(batch.seq.saturating_sub(1));
                self.shelf_bytes += batch.bytes.len();
                self.shelf.insert(batch.seq, batch.bytes.into());
            }
            LogSaid::SnapshotSaved { slot, saved } => {
                if !saved {
                    self.stored_through = 0; // which of the contents got there is not known; storing twice does no harm
                }
                self.take_in(Event::SnapshotSaved { slot, saved }, ctx);
            }
            LogSaid::Loaded { seq, body } => {
                let shared: Option<Arc<[u8]>> = body.as_deref().map(Into::into);
                for to in self.fetching.remove(&seq).unwrap_or_default() {
                    self.hand_over(to, seq, shared.clone());
                }
                if self.loading.remove(&seq).is_some() {
                    self.around.uplink.do_send(Loaded { shard: self.id, seq, body });
                }
            }
        }
    }
}

impl Handler<LoadBatch> for ShardActor {
    type Result = ();
    fn handle(&mut self, LoadBatch(seq): LoadBatch, _: &mut Self::Context) {
        match self.shelf.get(&seq) {
            Some(body) => {
                let loaded = Loaded { shard: self.id, seq, body: Some(body.to_vec()) };
                self.around.uplink.do_send(loaded);
            }
            None => {
                *self.loading.entry(seq).or_default() += 1;
                self.around.log.do_send(Store::Load(self.id, seq));
            }
        }
    }
}

impl Handler<GetStatus> for ShardActor {
    type Result = ShardReport;
    fn handle(&mut self, wanted: GetStatus, _: &mut Self::Context) -> ShardReport {
        let devices =
            if wanted.devices { self.core.machine().devices(None, MAX_ANSWER_ENTRIES) } else { Vec::new() };
        ShardReport { status: self.core.status(), led: self.led, devices }
    }
}
