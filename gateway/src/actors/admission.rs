//! The actor that passes the questions of new boxes on to the directory. It holds nothing: of a link that asks it is
//! answered at most as many questions as the listener has unauthenticated connections.

use crate::actors::directory_copy::DirectoryCopy;
use crate::actors::directory_orders::{OrderEnd, order};
use crate::actors::messages::admission::{AskToJoin, JoinDecision};
use crate::actors::ways::Ways;
use crate::identity::bytes;
use actix::{Actor, Context, Handler, ResponseFuture};
use ring::digest::{SHA256, digest};
use selvedge_fabric::directory::{
    DirectoryCommand, DirectoryOutcome, GatewayRole, Genesis, JoinRequest, TokenHash,
};
use selvedge_fabric::link::{JOIN_WAIT_MS, JoinAnswer, JoinToken, KnownPeer};
use std::sync::Arc;
use std::time::Duration;

/// Has the directory decide on new boxes.
pub struct AdmissionActor {
    pub ways: Arc<Ways>,
    pub directory: Arc<DirectoryCopy>,
    /// How the site began.
    pub genesis: Genesis,
}

/// The token in a text: 64 hexadecimal digits.
pub fn token_of(text: &str) -> Option<JoinToken> {
    bytes(text).map(JoinToken)
}

/// How often, and at what intervals, it is looked whether the own copy of the directory shows a gateway that was admitted.
const MAX_LOOKS: usize = 20;
const LOOK_MS: u64 = 50;

/// What the directory keeps of a token.
pub fn token_hash(JoinToken(token): &JoinToken) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    TokenHash(hash)
}

impl Actor for AdmissionActor {
    type Context = Context<Self>;
}

impl Handler<AskToJoin> for AdmissionActor {
    type Result = ResponseFuture<JoinDecision>;
    fn handle(&mut self, AskToJoin { asked, key }: AskToJoin, _: &mut Self::Context) -> Self::Result {
        let request = JoinRequest {
            token: token_hash(&asked.token),
            incarnation: asked.incarnation.0,
            key,
            addresses: asked.addresses,
            zone: asked.zone,
            level: asked.level,
        };
        let (ways, copy, genesis) = (self.ways.clone(), self.directory.clone(), self.genesis.clone());
        Box::pin(async move {
            let command = DirectoryCommand::Join(Box::new(request));
            let gateway = match order(&ways, None, command, JOIN_WAIT_MS).await {
                OrderEnd::Outcome(DirectoryOutcome::Joined { gateway }) => gateway,
                OrderEnd::Outcome(DirectoryOutcome::Refused(why)) => {
                    return JoinDecision::Refused(why.to_string());
                }
                OrderEnd::Outcome(_) => return JoinDecision::Later("the site gave another answer".into()),
                OrderEnd::Early(why) => return JoinDecision::Later(why),
                OrderEnd::Busy => {
                    return JoinDecision::Later("too many orders are under way at this gateway".into());
                }
                OrderEnd::Unanswered => {
                    return JoinDecision::Later(
                        "no majority of the directory's replicas has answered: check that a majority of the site's gateways runs".into(),
                    );
                }
            };
            // The new gateway refuses whom it does not know, so it must be told of all that were there when it was admitted.
            let mut known = None;
            for _ in 0..MAX_LOOKS {
                known = copy.get().filter(|directory| directory.gateway(gateway).is_some());
                if known.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            }
            let Some(directory) = known else {
                return JoinDecision::Later(
                    "it is admitted, but this gateway's copy of the directory does not show it yet".into(),
                );
            };
            let others = directory.gateways().filter(|(id, _)| *id != gateway);
            let peers = others.map(|(id, record)| (id, KnownPeer::of(record))).collect();
            let role = directory.gateway(gateway).map(|record| record.role);
            let is_witness = role == Some(GatewayRole::Witness);
            tracing::info!(%gateway, is_witness, "a new gateway was admitted to this site");
            JoinDecision::Admitted(Box::new(JoinAnswer { gateway, is_witness, genesis, peers }))
        })
    }
}
