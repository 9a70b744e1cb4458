//! Questions about tables of the whole site: any gateway answers, by asking the shards' leaders, or each gateway.
//!
//! Limits: [`SHARDS_ASKED`] shards are asked at a time; an answer takes at most [`ALL_WAIT_MS`], and names what is
//! missing in it.

use super::Api;
use crate::actors::messages::switch::AskTable;
use actix_web::web;
use selvedge_fabric::peer::{TableAnswer, TableQuestion};
use selvedge_types::ids::{GatewayId, ShardId};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A table counts as missing if no answer comes within this time.
const TABLE_WAIT_MS: u64 = 1_500;
/// A question that could not be sent within this time counts as missing.
const ALL_WAIT_MS: u64 = 6_000;
/// How many shards are asked at a time.
pub const SHARDS_ASKED: usize = 8;

/// The time at which an answer that is begun now must be complete.
pub fn deadline() -> Instant {
    Instant::now() + Duration::from_millis(ALL_WAIT_MS)
}

async fn ask(api: &Api, to: Vec<GatewayId>, question: TableQuestion) -> Option<TableAnswer> {
    let (reply, answer) = oneshot::channel();
    // If there is no room, the reply is closed, as it is when too many questions are open.
    let _ = api.overview.ask_table.try_send(AskTable { to, question, reply });
    tokio::time::timeout(Duration::from_millis(TABLE_WAIT_MS), answer).await.ok()?.ok()
}

/// Asks the leader of the shard that a question is about; `None` if it did not answer in time.
pub async fn ask_shard(api: &Api, shard: ShardId, question: TableQuestion) -> Option<TableAnswer> {
    ask(api, api.overview.directory.ring().replicas(shard).to_vec(), question).await
}

/// Asks the leaders of shards at the same time, with a task for each: at most [`SHARDS_ASKED`]. Returns their answers
/// in the same order.
pub async fn ask_shards(
    api: &web::Data<Api>,
    until: Instant,
    questions: Vec<(ShardId, TableQuestion)>,
) -> Vec<(ShardId, Option<TableAnswer>)> {
    let asked = questions.into_iter().map(|(shard, question)| {
        let api = api.clone();
        let answer = actix_web::rt::spawn(async move {
            match Instant::now() < until {
                true => ask_shard(&api, shard, question).await,
                false => None,
            }
        });
        (shard, answer)
    });
    let asked: Vec<_> = asked.collect();
    let mut answers = Vec::with_capacity(asked.len());
    for (shard, answer) in asked {
        answers.push((shard, answer.await.ok().flatten()));
    }
    answers
}

/// Asks every gateway of the site. Returns their answers, and the gateways that did not answer.
pub async fn ask_gateways(
    api: &web::Data<Api>,
    question: TableQuestion,
) -> (Vec<(GatewayId, TableAnswer)>, Vec<u16>) {
    let mut missing = out_of_reach(api).await;
    let directory = api.overview.directory.get();
    // A gateway that was removed may still run.
    let is_of_the_site = |id: &GatewayId| directory.as_ref().is_none_or(|d| d.gateway(*id).is_some());
    let up = api.overview.up().await;
    let asked: Vec<_> = up
        .into_iter()
        .filter(is_of_the_site)
        .map(|gateway| {
            let (api, question) = (api.clone(), question.clone());
            (gateway, actix_web::rt::spawn(async move { ask(&api, vec![gateway], question).await }))
        })
        .collect();
    let mut answers = Vec::new();
    for (gateway, answer) in asked {
        match answer.await {
            Ok(Some(answer)) => answers.push((gateway, answer)),
            _ if !missing.contains(&gateway.0) => missing.push(gateway.0),
            _ => {}
        }
    }
    (answers, missing)
}

/// The gateways of the site that can't be reached now, in ascending order. Where there is a copy of the directory, it
/// says which gateways the site has; otherwise the settings do.
pub async fn out_of_reach(api: &Api) -> Vec<u16> {
    let up = api.overview.up().await;
    let all: Vec<GatewayId> = match api.overview.directory.get() {
        Some(directory) => directory.gateways().map(|(id, _)| id).filter(|id| *id != api.me).collect(),
        None => api.links.status().into_iter().map(|l| l.peer).collect(),
    };
    all.into_iter().filter(|id| !up.contains(id)).map(|g| g.0).collect()
}
