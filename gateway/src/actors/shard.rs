//! The actor of one shard's replica: gathers events, steps the core once for all of them, and performs the effects in
//! their order of durability.

use crate::actors::clock::SiteClock;
use crate::actors::messages::forwarder::{Answered, LeaderIs, PublishWills};
use crate::actors::messages::log::{Forget, Healed, Persist, Store};
use crate::actors::messages::shard::{GetStatus, GiveUp, LoadBatch, LogSaid, ShardEvents, ShardReport};
use crate::actors::messages::steward::{DirectoryIs, ReplicaIs};
use crate::actors::messages::switch::ToPeers;
use crate::actors::messages::uplink::{Loaded, ShardView};
use crate::actors::process::end_process;
use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient, SpawnHandle};
use metrics::Counter;
use selvedge_fabric::agreement::WallTime;
use selvedge_fabric::directory::DIRECTORY_GROUP;
use selvedge_fabric::machine::Counters;
use selvedge_fabric::peer::PeerMessage;
use selvedge_fabric::replica::Replica;
use selvedge_fabric::shard::{Now, ShardEvent};
use selvedge_fabric::steward::ReplicaView;
use selvedge_guard::log_limit::SharedLogLimit;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::LostBatch;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most events that one turn steps.
const MAX_TURN_EVENTS: usize = 4_096;

/// The ways out of all shards, and the clocks that they use.
pub struct ShardWays {
    /// To the log: records.
    pub persist: Recipient<Persist>,
    /// To the log, behind all records of a shard: its replica is given up.
    pub forget: Recipient<Forget>,
    /// To the log: a repaired shard.
    pub healed: Recipient<Healed>,
    /// To the log: snapshots and contents of batches.
    pub store: Recipient<Store>,
    /// To the switch: messages to peers, and to this gateway's own questions.
    pub peers: Recipient<ToPeers>,
    /// To the forwarder: answers about its batches.
    pub answered: Recipient<Answered>,
    /// To the forwarder: that this gateway leads.
    pub leader: Recipient<LeaderIs>,
    /// To the forwarder: wills that are due.
    pub wills: Recipient<PublishWills>,
    /// To the uplink: contents that it asked for.
    pub loaded: Recipient<Loaded>,
    /// To the steward: the directory, and the replica's configuration.
    pub directory: Recipient<DirectoryIs>,
    pub steward: Recipient<ReplicaIs>,
    /// To the uplink: the state of the outbox.
    pub view: Recipient<ShardView>,
    /// The origin of monotonic times.
    pub epoch: Instant,
    pub clock: Arc<SiteClock>,
    /// How often transfers may cause a line in the log.
    pub log_limit: SharedLogLimit,
}

/// Runs the core of one shard's [`Replica`].
pub struct ShardActor {
    id: ShardId,
    me: GatewayId,
    replica: Replica,
    ways: Arc<ShardWays>,
    inbox: Vec<ShardEvent>,
    turning: bool,
    timer: Option<(u64, SpawnHandle)>,
    led: u64,
    /// Handles of the counters `selvedge_applied_total` that were used so far.
    applied: BTreeMap<&'static str, Counter>,
    /// What the steward was last told.
    told: Option<ReplicaView>,
    /// The replica was given up and takes no further turn. The actor ends when the last way to it is gone.
    given_up: bool,
}

impl ShardActor {
    /// An actor around a recovered replica.
    pub fn new(id: ShardId, me: GatewayId, replica: Replica, ways: Arc<ShardWays>) -> Self {
        let (inbox, applied) = (Vec::new(), BTreeMap::new());
        Self {
            id,
            me,
            replica,
            ways,
            inbox,
            turning: false,
            timer: None,
            led: 0,
            applied,
            told: None,
            given_up: false,
        }
    }

    fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.ways.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let WallTime { wall, sure } = self.ways.clock.now();
        Now { mono_ms, wall, sure }
    }

    fn take_in(&mut self, event: ShardEvent, ctx: &mut Context<Self>) {
        if self.given_up {
            return;
        }
        self.inbox.push(event);
        if self.inbox.len() >= MAX_TURN_EVENTS {
            self.turn(ctx);
        } else {
            self.turn_soon(ctx);
        }
    }

    fn turn_soon(&mut self, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.turning, true) {
            ctx.notify(Turn);
        }
    }

    fn turn(&mut self, ctx: &mut Context<Self>) {
        if self.given_up {
            return;
        }
        let now = self.now();
        for event in std::mem::take(&mut self.inbox) {
            self.replica.step(now, event);
        }
        let effects = match self.replica.take(now) {
            Ok(effects) => effects,
            Err(halt) => end_process(&halt.to_string()),
        };
        self.send(effects.send);
        let (shard, ways) = (self.id, &self.ways);
        if let Some(submission) = effects.persist {
            ways.persist.do_send(Persist(submission));
        }
        if effects.healed {
            ways.healed.do_send(Healed(shard));
        }
        effects.store.into_iter().for_each(|work| ways.store.do_send(Store(work)));
        for (seq, content) in effects.loaded {
            ways.loaded.do_send(Loaded { shard, seq, content });
        }
        for (seq, lost) in effects.lost {
            let LostBatch { readings, parts, from, to } = lost;
            tracing::error!(
                %shard, seq, readings, parts, %from, %to,
                "the content of an uplink batch is lost on every replica of its shard: nodes learn that it is missing for good"
            );
        }
        if let Some((from, why)) = effects.given_up
            && let Some(left_out) = ways.log_limit.note("transfer")
        {
            tracing::warn!(%shard, %from, why, "a transfer to this replica was given up; the replica asks for it again{left_out}");
        }
        if effects.began_to_lead {
            self.led += 1;
            metrics::counter!("selvedge_leaderships_total").increment(1);
            ways.leader.do_send(LeaderIs(shard, self.me));
        }
        if let Some(directory) = effects.directory {
            ways.directory.do_send(DirectoryIs(directory));
        }
        for (slot, why) in effects.refused {
            tracing::debug!(%shard, slot, "can't move a replica yet: {why}");
        }
        if let Some(configuration) = effects.configured {
            tracing::info!(%shard, number = configuration.number, members = ?configuration.members, "a configuration has begun");
        }
        let core = self.replica.core();
        let (configuration, leads) = (core.configuration(), core.serves());
        if self.told.as_ref().is_none_or(|told| told.leads != leads || told.configuration != *configuration) {
            let view = ReplicaView { configuration: configuration.clone(), leads };
            self.told = Some(view.clone());
            ways.steward.do_send(ReplicaIs(shard, view));
        }
        // The directory group has nothing for the cloud.
        if let Some(view) = effects.uplink.filter(|_| shard != DIRECTORY_GROUP) {
            ways.view.do_send(ShardView(shard, view));
        }
        if !effects.wills.is_empty() {
            ways.wills.do_send(PublishWills(effects.wills));
        }
        for (what, count) in effects.counters.iter().flat_map(Counters::named).filter(|(_, count)| *count > 0)
        {
            let counter = || metrics::counter!("selvedge_applied_total", "what" => what);
            self.applied.entry(what).or_insert_with(counter).increment(count);
        }
        for (reason, count) in effects.counters.iter().flat_map(Counters::by_reason).filter(|(_, n)| *n > 0) {
            metrics::counter!("selvedge_set_aside_total", "reason" => reason.name()).increment(count);
        }
        self.arm(now, ctx);
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
            self.ways.answered.do_send(Answered { from: self.me, answers });
        }
        if !rest.is_empty() {
            self.ways.peers.do_send(ToPeers(rest));
        }
    }

    fn arm(&mut self, now: Now, ctx: &mut Context<Self>) {
        let due = self.replica.deadline_ms(now);
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
        // For events from peers, which come at most a frame at a time: see the table in [`crate::actors`].
        ctx.set_mailbox_capacity(256);
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
        self.take_in(ShardEvent::Timer, ctx);
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
    fn handle(&mut self, LogSaid(said): LogSaid, ctx: &mut Self::Context) {
        if self.given_up {
            return;
        }
        let now = self.now();
        for event in std::mem::take(&mut self.inbox) {
            self.replica.step(now, event); // events before the log's answer, in the order of arrival
        }
        self.replica.said(now, said);
        self.turn_soon(ctx);
    }
}

impl Handler<LoadBatch> for ShardActor {
    type Result = ();
    fn handle(&mut self, LoadBatch(seq): LoadBatch, ctx: &mut Self::Context) {
        if self.given_up {
            return;
        }
        self.replica.load(seq);
        self.turn_soon(ctx);
    }
}

impl Handler<GiveUp> for ShardActor {
    type Result = bool;
    fn handle(&mut self, GiveUp { configuration }: GiveUp, ctx: &mut Self::Context) -> bool {
        self.turn(ctx); // of what gathered before
        if self.given_up || !self.replica.may_be_given_up(configuration) {
            return false; // the steward asks again
        }
        self.given_up = true;
        if let Some((_, timer)) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        // The log is a single mailbox, so this follows everything that the replica wanted on disk.
        self.ways.forget.do_send(Forget { shard: self.id, through: configuration });
        true
    }
}

impl Handler<GetStatus> for ShardActor {
    type Result = ShardReport;
    fn handle(&mut self, _: GetStatus, _: &mut Self::Context) -> ShardReport {
        let core = self.replica.core();
        let quarantined = core.machine().quarantine_stats().taken;
        let (sizes, fullness) = (core.machine().sizes(), core.machine().fullness());
        let status = core.status(self.now());
        ShardReport { status, led: self.led, quarantined, sizes, fullness }
    }
}
