//! The actor of the steward: carries what this gateway's copy of the directory asks for to the host, the replicas and
//! the forwarder.

use crate::actors::directory_copy::DirectoryCopy;
use crate::actors::link::PeerLinks;
use crate::actors::messages::PlacementChanged;
use crate::actors::messages::host::{DropReplica, HoldReplica};
use crate::actors::messages::shard::ShardEvents;
use crate::actors::messages::steward::{DirectoryIs, ReplicaDropped, ReplicaIs};
use crate::actors::messages::switch::{AskTable, GetPeers};
use crate::actors::process::end_process;
use crate::actors::pulse;
use crate::actors::replicas::Replicas;
use crate::actors::room::SiteRoom;
use crate::actors::ways::Ways;
use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, Recipient, WrapFuture};
use selvedge_fabric::directory::DIRECTORY_GROUP;
use selvedge_fabric::forward::Forwardable;
use selvedge_fabric::machine::Item;
use selvedge_fabric::peer::{TableAnswer, TableQuestion};
use selvedge_fabric::ring::Ring;
use selvedge_fabric::shard::ShardEvent;
use selvedge_fabric::steward::{AGAIN_MS, Steward, StewardEffect};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often the steward looks whether anything is to be done.
const LOOK_MS: u64 = 200;

/// The ways out of the steward.
pub struct StewardWays {
    pub host: Recipient<HoldReplica>,
    pub drop: Recipient<DropReplica>,
    pub replicas: Arc<Replicas>,
    /// For items to the directory group.
    pub ways: Arc<Ways>,
    /// To the switch: which gateways are up, and questions to them.
    pub peers: Recipient<GetPeers>,
    pub ask: Recipient<AskTable>,
    /// To all who send to shards.
    pub placed: Vec<Recipient<PlacementChanged>>,
    pub links: PeerLinks,
    /// The addresses that the settings give for other gateways.
    pub addresses: BTreeMap<GatewayId, String>,
    pub room: Arc<SiteRoom>,
    pub copy: Arc<DirectoryCopy>,
}

/// Runs the core [`Steward`].
pub struct StewardActor {
    core: Steward,
    /// The ring with which the site began.
    ring: Arc<Ring>,
    up: BTreeSet<GatewayId>,
    ways: StewardWays,
}

impl StewardActor {
    /// An actor around a steward. `ring` is that with which the site began.
    pub fn new(core: Steward, ring: Arc<Ring>, ways: StewardWays) -> Self {
        Self { core, ring, up: BTreeSet::new(), ways }
    }

    fn perform(&mut self, ctx: &mut Context<Self>) {
        for effect in self.core.take() {
            match effect {
                StewardEffect::Hold { shard, configuration } => {
                    self.ways.host.do_send(HoldReplica { shard, configuration });
                }
                StewardEffect::Drop { shard, configuration } => {
                    self.ways.drop.do_send(DropReplica { shard, configuration });
                }
                StewardEffect::Learners { shard, learners } => {
                    self.tell(shard, ShardEvent::Learners(learners));
                }
                StewardEffect::TransferRate { shard, bytes_per_s } => {
                    self.tell(shard, ShardEvent::TransferRate { bytes_per_s });
                }
                StewardEffect::Reconfigure { shard, stop } => {
                    self.tell(shard, ShardEvent::Reconfigure(stop));
                }
                StewardEffect::Submit(item) => {
                    // The outcome shows in the directory. If too many orders are under way, this one is submitted again.
                    let item = Forwardable::Item(Item::Directory(Box::new(item)));
                    drop(self.ways.ways.order(DIRECTORY_GROUP, item));
                }
                StewardEffect::Placed(sets) => {
                    let ring = Arc::new(self.ring.placed(sets));
                    for to in &self.ways.placed {
                        to.do_send(PlacementChanged(ring.clone()));
                    }
                    self.ways.copy.place(ring);
                }
                StewardEffect::Peers(mut peers) => {
                    // What the settings say of an address counts more: it may be one that only this gateway uses.
                    for (peer, known) in &mut peers {
                        if let Some(address) = self.ways.addresses.get(peer) {
                            known.address.clone_from(address);
                        }
                    }
                    if let Err(e) = self.ways.links.set_peers(peers) {
                        tracing::error!("the site has more gateways than this one can know: {e}");
                    }
                }
                StewardEffect::Removed(removed) => self.ways.links.remember_removed(removed),
                StewardEffect::Draining(draining) => self.ways.room.drain(draining),
                StewardEffect::Describe => self.ask_all(ctx),
                StewardEffect::TooOld { level } => end_process(&format!(
                    "the site is at level {level}, which this release does not understand: run the release that the other gateways run"
                )),
            }
        }
    }

    fn tell(&self, shard: selvedge_types::ids::ShardId, event: ShardEvent) {
        if let Some(replica) = self.ways.replicas.get(shard) {
            replica.events.do_send(ShardEvents(vec![event]));
        }
    }

    fn ask_all(&self, ctx: &mut Context<Self>) {
        for gateway in self.up.iter().copied() {
            let (reply, answer) = oneshot::channel();
            let question = AskTable { to: vec![gateway], question: TableQuestion::Gateway, reply };
            if self.ways.ask.try_send(question).is_err() {
                continue; // too many questions are open: the next round asks again
            }
            let answer = tokio::time::timeout(Duration::from_millis(AGAIN_MS), answer);
            ctx.spawn(answer.into_actor(self).map(move |answer, actor, ctx| {
                if let Ok(Ok(TableAnswer::Gateway(description))) = answer {
                    actor.core.described(pulse::now_ms(), gateway, *description);
                    actor.perform(ctx);
                }
            }));
        }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let peers = self.ways.peers.send(GetPeers);
        ctx.spawn(peers.into_actor(self).map(|up, actor, ctx| {
            let now_ms = pulse::now_ms();
            actor.core.full(actor.ways.room.full());
            actor.up = up.unwrap_or_default().all();
            actor.core.peers(now_ms, &actor.up);
            actor.perform(ctx);
        }));
    }
}

impl Actor for StewardActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_interval(Duration::from_millis(LOOK_MS), Self::look);
    }
}

impl Handler<ReplicaIs> for StewardActor {
    type Result = ();
    fn handle(&mut self, ReplicaIs(shard, view): ReplicaIs, ctx: &mut Self::Context) {
        self.core.replica(pulse::now_ms(), shard, view);
        self.perform(ctx);
    }
}

impl Handler<ReplicaDropped> for StewardActor {
    type Result = ();
    fn handle(&mut self, ReplicaDropped(shard): ReplicaDropped, _: &mut Self::Context) {
        self.core.dropped(shard);
    }
}

impl Handler<DirectoryIs> for StewardActor {
    type Result = ();
    fn handle(&mut self, DirectoryIs(directory): DirectoryIs, ctx: &mut Self::Context) {
        self.ways.copy.set(directory.clone());
        self.core.copied(pulse::now_ms(), directory);
        self.perform(ctx);
    }
}
