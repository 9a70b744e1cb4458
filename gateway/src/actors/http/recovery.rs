//! `/v1/recovery`: what this gateway has of the site, for a person who has to decide that the others are gone; and the plan
//! that all survivors carry out.
//!
//! The answer is about this gateway alone, because it must not wait for gateways that are gone. A plan is on disk when it
//! is acknowledged. The process then ends, and carries it out when it is started again.

use super::problem::Failure;
use super::{Api, Given};
use crate::actors::process::end_process;
use crate::recovery::{KeptRecovery, PlanRefused};
use actix_web::{HttpResponse, web};
use selvedge_fabric::directory::{Directory, GatewayRole};
use selvedge_fabric::shard::Status;
use selvedge_fabric::site_state::ReplicaRole;
use selvedge_types::params::{Parameters, bad};
use selvedge_types::recovery::{KnownGateway, KnownGroup, RecoveryPlan, SurvivingReplica, Survivor};
use serde_json::json;
use std::time::Duration;

/// The longest body that is read as a plan: a site of 1,024 shards takes half of it.
pub const MAX_PLAN_BYTES: usize = 256 * 1024;
/// How long the process goes on after it has taken a plan, so that the answer arrives.
const END_AFTER_MS: u64 = 300;

/// What this gateway has of each group, and which gateways it reaches.
pub async fn one(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    Parameters::new(given.into_inner(), &[])?;
    let reports = api.overview.group_reports().await;
    let reachable = api.overview.up().await.into_iter().map(|g| g.0).collect();
    let directory = api.overview.directory.get();
    let plan = KeptRecovery::find(&api.data_dir).map_err(|e| Failure::OutOfReach(e.to_string()))?;
    let (gateways, groups) = match &directory {
        Some(directory) => known(directory),
        // Without a copy, the gateways with which the site began.
        None => {
            let one = |gateway: u16| KnownGateway { gateway, http: String::new(), witness: false };
            (api.members.iter().map(|m| one(m.id.0)).collect(), Vec::new())
        }
    };
    Ok(HttpResponse::Ok().json(Survivor {
        site: api.site.to_string(),
        gateway: api.me.0,
        generation: directory.map_or(0, |directory| directory.generation()),
        plan: plan.map(|kept| kept.plan),
        reachable,
        gateways,
        groups,
        replicas: reports.iter().map(|report| replica(api.me.0, &report.status)).collect(),
    }))
}

fn known(directory: &Directory) -> (Vec<KnownGateway>, Vec<KnownGroup>) {
    let gateways = directory.gateways().map(|(id, g)| KnownGateway {
        gateway: id.0,
        http: g.addresses.http.clone(),
        witness: g.role == GatewayRole::Witness,
    });
    let groups = directory.configurations().map(|(shard, c)| KnownGroup {
        group: shard.0,
        configuration: c.number,
        members: c.voters.iter().map(|g| g.0).collect(),
    });
    (gateways.collect(), groups.collect())
}

fn replica(me: u16, status: &Status) -> SurvivingReplica {
    SurvivingReplica {
        group: status.shard,
        configuration: status.configuration,
        members: status.members.iter().map(|m| m.gateway).collect(),
        witness: status.members.iter().any(|m| m.gateway == me && m.witness),
        sound: status.role != ReplicaRole::Damaged,
        ballot: (status.ballot.round, status.ballot.gateway),
        commit: status.commit,
        prefix: status.prefix,
        last: status.last_slot,
        applied: status.applied,
        unconfirmed_batches: status.outbox_batches,
        generation: status.generation,
    }
}

/// Takes a plan, and ends the process so that it is carried out. The same plan may be sent again.
pub async fn carry_out(
    api: web::Data<Api>,
    sent: Result<web::Bytes, actix_web::Error>,
) -> Result<HttpResponse, Failure> {
    let bytes = sent.map_err(|e| bad("plan", format!("can't be read: {e}")))?;
    if bytes.len() > MAX_PLAN_BYTES {
        return Err(bad("plan", format!("is longer than {MAX_PLAN_BYTES} bytes")).into());
    }
    let plan: RecoveryPlan = serde_json::from_slice(&bytes)
        .map_err(|e| bad("plan", format!("is none that `selvedge site recover` makes: {e}")))?;
    let up = api.overview.up().await;
    if let Some(there) = up.iter().find(|g| plan.lost.contains(&g.0)) {
        return Err(Failure::Refused(format!(
            "gateway {} can still be reached from here: stop it for good before it is given up",
            there.0
        )));
    }
    let generation = api.overview.directory.get().map_or(0, |directory| directory.generation());
    let said = json!({ "gateway": api.me.0, "generation": plan.name.generation });
    let changed = match KeptRecovery::take(&api.data_dir, plan, (api.site.as_str(), api.me, generation)) {
        Ok(changed) => changed,
        Err(PlanRefused::File(e)) => return Err(Failure::OutOfReach(e.to_string())),
        Err(why) => return Err(Failure::Refused(why.to_string())),
    };
    if changed {
        actix_web::rt::spawn(async {
            actix_web::rt::time::sleep(Duration::from_millis(END_AFTER_MS)).await;
            end_process(
                "an operator recovers the site: this gateway has the plan, and carries it out when it starts again",
            )
        });
    }
    let mut said = said;
    said["changed"] = changed.into();
    Ok(HttpResponse::Ok().json(said))
}
