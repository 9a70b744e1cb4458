//! Around [`selvedge_fabric::redirection`]: tells the front which gateways take devices and how many connections they have, and has
//! it send devices away while this gateway drains. It also has the front forget what clients of removed gateways subscribed to.

use crate::actors::directory_copy::DirectoryCopy;
use crate::actors::messages::switch::{AskTable, GetPeers};
use crate::actors::pulse;
use crate::actors::room::SiteRoom;
use crate::front::Front;
use actix::Recipient;
use selvedge_fabric::directory::GatewayState;
use selvedge_fabric::peer::{TableAnswer, TableQuestion};
use selvedge_fabric::redirection::{DeviceSite, MIN_BALANCED_ENTRIES};
use selvedge_types::ids::GatewayId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// How often it looks whether this gateway drains, and which gateways take devices.
const LOOK_MS: u64 = 1_000;
/// How often it sends devices away while the gateway drains.
const DRAIN_LOOK_MS: u64 = 200;
/// How often the other gateways are asked how many connections they have.
const COUNT_MS: u64 = 5_000;
/// How long they may take to answer.
const ANSWER_MS: u64 = 2_000;

/// Looks after the clients' redirection.
pub struct Redirector {
    pub me: GatewayId,
    pub front: Arc<Front>,
    pub copy: Arc<DirectoryCopy>,
    pub room: Arc<SiteRoom>,
    /// To the switch: which gateways are up.
    pub peers: Recipient<GetPeers>,
    /// To the switch: questions to other gateways.
    pub ask: Recipient<AskTable>,
}

impl Redirector {
    /// Runs as long as the gateway.
    pub async fn run(self) {
        let balances = self.front.balances();
        let (mut was_draining, mut count_ms) = (false, 0);
        loop {
            let period_ms = if was_draining { DRAIN_LOOK_MS } else { LOOK_MS };
            tokio::time::sleep_until(pulse::at((pulse::now_ms() / period_ms + 1) * period_ms)).await;
            let Some(directory) = self.copy.get() else { continue };
            self.front.keep_interest(|peer| directory.gateway(peer).is_some());
            let drains = directory.gateway(self.me).is_some_and(|g| g.state == GatewayState::Draining);
            if !(drains || was_draining || balances) {
                continue;
            }
            was_draining = drains;
            let up = self.peers.send(GetPeers).await.unwrap_or_default().all();
            let site = DeviceSite::of(&directory, self.me, &up, &self.room.full());
            let is_loaded = drains || self.front.connections() as u64 >= MIN_BALANCED_ENTRIES;
            if balances && is_loaded && pulse::now_ms() >= count_ms {
                count_ms = pulse::now_ms() + COUNT_MS;
                site.others.iter().for_each(|other| self.ask(other.gateway));
            }
            self.front.note_site(site);
            self.front.send_away();
        }
    }

    /// Asks a gateway how many connections it has: one question a gateway is open, since it ends before the next is asked.
    fn ask(&self, gateway: GatewayId) {
        let (reply, answer) = oneshot::channel();
        let question = AskTable { to: vec![gateway], question: TableQuestion::Gateway, reply };
        if self.ask.try_send(question).is_err() {
            return; // too many questions are open: the next round asks again
        }
        let front = self.front.clone();
        actix::spawn(async move {
            let answer = tokio::time::timeout(Duration::from_millis(ANSWER_MS), answer).await;
            // A gateway in trouble refuses new clients: it gets none as long as its count is missing.
            if let Ok(Ok(TableAnswer::Gateway(said))) = answer
                && said.trouble.is_none()
            {
                front.note_connections(gateway, said.connections);
            }
        });
    }
}
