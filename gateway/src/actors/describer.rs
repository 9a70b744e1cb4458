//! Describes this gateway to other gateways on request ([`selvedge_fabric::site_state`]).

use crate::actors::messages::describer::Describe;
use crate::actors::messages::log::GetLogFigures;
use crate::actors::messages::switch::ToPeers;
use crate::actors::report::Overview;
use actix::{Actor, AtomicResponse, Context, Handler, Recipient, WrapFuture};
use selvedge_fabric::peer::{PeerMessage, TableAnswer};
use selvedge_fabric::site_state::GatewayDescription;
use selvedge_types::report::shown;
use std::time::Instant;

/// How many questions may wait. A question beyond that gets no answer, and the gateway that asked reports this one as
/// missing.
const MAX_WAITING_ENTRIES: usize = 64;

/// Answers one question at a time, because each answer asks all shards that have a replica here.
pub struct Describer {
    pub overview: Overview,
    pub log: Recipient<GetLogFigures>,
    /// The switch, which sends the answers.
    pub peers: Recipient<ToPeers>,
    /// The origin of the reported uptime.
    pub epoch: Instant,
}

impl Actor for Describer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAX_WAITING_ENTRIES);
    }
}

impl Handler<Describe> for Describer {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Describe { to, id }: Describe, _: &mut Self::Context) -> Self::Result {
        let (overview, log, peers, epoch) =
            (self.overview.clone(), self.log.clone(), self.peers.clone(), self.epoch);
        let answer = async move {
            let answer = TableAnswer::Gateway(Box::new(describe(&overview, &log, epoch).await));
            // One message per question, so the bound of the questions also bounds these.
            peers.do_send(ToPeers(vec![(to, PeerMessage::TableAnswer { id, answer })]));
        };
        AtomicResponse::new(Box::pin(answer.into_actor(self)))
    }
}

async fn describe(overview: &Overview, log: &Recipient<GetLogFigures>, epoch: Instant) -> GatewayDescription {
    let groups = overview.group_reports().await;
    let replicas = groups.iter().map(|r| (&r.status).into()).collect();
    let reports: Vec<_> = groups.into_iter().filter(|r| !r.is_directory()).collect();
    let reach = overview.within_reach().await;
    let log = log.send(GetLogFigures).await.unwrap_or_default();
    GatewayDescription {
        release: env!("CARGO_PKG_VERSION").to_string(),
        uptime_ms: u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX),
        trouble: overview.trouble(&reports, &reach).map(|why| shown(&why)),
        warnings: overview.warnings(&reports, &log).len() as u32,
        connections: overview.front.connections() as u64,
        acked: overview.front.acked(),
        room: log.room,
        clock_sure: overview.clock.now().sure,
        replicas,
    }
}
