//! The forwarder's actor: carries items of devices to the leaders of their shards, and their outcomes back to the
//! connections.

use crate::actors::messages::PlacementChanged;
use crate::actors::messages::forwarder::{
    Answered, GatewayDown, GatewayUp, LeaderIs, PublishWills, Submit, Withdraw,
};
use crate::actors::messages::shard::ShardEvents;
use crate::actors::messages::switch::ToPeers;
use crate::actors::replicas::Replicas;
use crate::front::{Front, Load};
use actix::{Actor, AsyncContext, Context, Handler, Message, Recipient};
use selvedge_fabric::forward::{Forward, ForwardEffects};
use selvedge_fabric::peer::PeerMessage;
use selvedge_fabric::shard::ShardEvent;
use selvedge_mqtt::{Application, Charge};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often overdue answers are looked for.
const LOOK_MS: u64 = 20;

/// The ways out of the forwarder. Until they arrive it keeps what connections submit.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ForwarderWays {
    pub replicas: Arc<Replicas>,
    /// To the gateways that lead other shards.
    pub peers: Recipient<ToPeers>,
}

/// Runs the core [`Forward`] for all connections of the gateway.
pub struct Forwarder {
    me: GatewayId,
    core: Forward,
    /// For the publishes that the core holds.
    charge: Charge,
    front: Arc<Front>,
    ways: Option<ForwarderWays>,
    epoch: Instant,
    turning: bool,
    /// Whether the next look at overdue answers is scheduled.
    looking: bool,
    load: Load,
}

impl Forwarder {
    /// An actor around a forwarder's core. Times count from `epoch`.
    pub fn new(me: GatewayId, core: Forward, front: Arc<Front>, epoch: Instant) -> Self {
        Self {
            me,
            core,
            charge: Charge::new(front.credit()),
            front,
            ways: None,
            epoch,
            turning: false,
            looking: false,
            load: Load::default(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn perform(&mut self, effects: ForwardEffects) {
        self.charge.set(self.core.queued_bytes());
        let origin = self.core.origin();
        let mut away = Vec::new();
        let mut here: BTreeMap<ShardId, Vec<ShardEvent>> = BTreeMap::new();
        for (to, batch) in effects.send {
            let (shard, n, submission) = (batch.shard, batch.n, batch.submission);
            if to == self.me {
                here.entry(shard).or_default().push(ShardEvent::Forward {
                    from: self.me,
                    origin,
                    n,
                    submission,
                });
            } else {
                away.push((to, PeerMessage::Forward { shard, origin, n, submission }));
            }
        }
        if let Some(ways) = &self.ways {
            if !here.is_empty() {
                let replicas = ways.replicas.all();
                for (shard, events) in here {
                    if let Some(replica) = replicas.get(&shard) {
                        replica.events.do_send(ShardEvents(events));
                    }
                }
            }
            if !away.is_empty() {
                ways.peers.do_send(ToPeers(away));
            }
        }
        self.front.settled(effects.outcomes);
    }

    /// Looks for overdue answers, and again as long as some may become overdue: an idle gateway sleeps.
    fn look(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.looking, true) {
            return;
        }
        ctx.run_later(Duration::from_millis(LOOK_MS), |actor, ctx| {
            actor.looking = false;
            let now_ms = actor.now_ms();
            if actor.core.deadline_ms().is_some_and(|due| due <= now_ms) {
                let mut effects = ForwardEffects::default();
                actor.core.timer(now_ms, &mut effects);
                actor.perform(effects);
            }
            actor.load.look(now_ms, &actor.core, &actor.front);
            if Load::goes_on(&actor.core, &actor.front) {
                actor.look(ctx);
            }
        });
    }
}

#[derive(Debug, Message)]
#[rtype(result = "()")]
struct Turn;

impl Actor for Forwarder {
    type Context = Context<Self>;
}

impl Handler<Submit> for Forwarder {
    type Result = ();
    fn handle(&mut self, Submit(items): Submit, ctx: &mut Self::Context) {
        for (shard, ticket, item) in items {
            self.core.submit(shard, ticket, item);
        }
        if !std::mem::replace(&mut self.turning, true) {
            ctx.notify(Turn);
        }
    }
}

impl Handler<Withdraw> for Forwarder {
    type Result = ();
    fn handle(&mut self, Withdraw(items): Withdraw, _: &mut Self::Context) {
        for (shard, ticket) in items {
            if self.core.withdraw(shard, ticket) {
                self.front.withdrawn(ticket.connection);
            }
        }
    }
}

impl Handler<PublishWills> for Forwarder {
    type Result = ();
    fn handle(&mut self, PublishWills(wills): PublishWills, _: &mut Self::Context) {
        self.front.publish_wills(wills);
    }
}

impl Handler<Turn> for Forwarder {
    type Result = ();
    fn handle(&mut self, _: Turn, ctx: &mut Self::Context) {
        self.turning = false;
        let mut effects = ForwardEffects::default();
        self.core.flush(self.now_ms(), &mut effects);
        self.perform(effects);
        self.look(ctx);
    }
}

impl Handler<Answered> for Forwarder {
    type Result = ();
    fn handle(&mut self, Answered { from, answers }: Answered, _: &mut Self::Context) {
        let (now_ms, mut effects) = (self.now_ms(), ForwardEffects::default());
        for (origin, shard, n, answer) in answers {
            self.core.answered(now_ms, (from, origin, shard, n), answer, &mut effects);
        }
        self.perform(effects);
    }
}

impl Handler<LeaderIs> for Forwarder {
    type Result = ();
    fn handle(&mut self, LeaderIs(shard, leader): LeaderIs, _: &mut Self::Context) {
        let mut effects = ForwardEffects::default();
        self.core.leader_is(self.now_ms(), shard, leader, &mut effects);
        self.perform(effects);
    }
}

impl Handler<PlacementChanged> for Forwarder {
    type Result = ();
    fn handle(&mut self, PlacementChanged(ring): PlacementChanged, _: &mut Self::Context) {
        let mut effects = ForwardEffects::default();
        self.core.set_ring(self.now_ms(), ring, &mut effects);
        self.perform(effects);
    }
}

impl Handler<GatewayDown> for Forwarder {
    type Result = ();
    fn handle(&mut self, GatewayDown(gateway): GatewayDown, _: &mut Self::Context) {
        self.core.gateway_down(self.now_ms(), gateway);
    }
}

impl Handler<GatewayUp> for Forwarder {
    type Result = ();
    fn handle(&mut self, GatewayUp(gateway): GatewayUp, _: &mut Self::Context) {
        self.core.gateway_up(gateway);
    }
}

impl Handler<ForwarderWays> for Forwarder {
    type Result = ();
    fn handle(&mut self, ways: ForwarderWays, ctx: &mut Self::Context) {
        self.ways = Some(ways);
        self.core.begin();
        self.turning = true;
        ctx.notify(Turn);
    }
}
