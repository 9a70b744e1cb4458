//! `/v1/gateways` and `/v1/shards`: the gateways of the site and the replicas of each shard. Any gateway can answer: it
//! asks all others to describe themselves.

use super::problem::Failure;
use super::{Api, Given, tables};
use actix_web::{HttpResponse, web};
use selvedge_fabric::peer::{TableAnswer, TableQuestion};
use selvedge_fabric::ring::Member;
use selvedge_fabric::site_state::{GatewayDescription, ReplicaDescription, ShardState, Shards};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::params::Parameters;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The query parameters that `/v1/shards` accepts.
pub const SHARDS_PARAMETERS: [&str; 2] = ["limit", "after"];

/// The answers of the gateways, and what follows from them.
struct Asked {
    gateways: BTreeMap<GatewayId, GatewayDescription>,
    shards: Shards,
    /// The gateways that did not answer, or whose answer is out of bounds; in ascending order.
    missing: Vec<u16>,
}

async fn ask(api: &web::Data<Api>) -> Asked {
    let (answers, mut missing) = tables::ask_gateways(api, TableQuestion::Gateway).await;
    let mut gateways = BTreeMap::new();
    for (gateway, answer) in answers {
        match answer {
            TableAnswer::Gateway(state) if state.is_sound() => drop(gateways.insert(gateway, *state)),
            _ => missing.push(gateway.0),
        }
    }
    missing.sort_unstable();
    let shards = Shards::of(&api.overview.ring, &gateways);
    Asked { gateways, shards, missing }
}

/// Answers `/v1/gateways`: each gateway's description of itself, and a summary of the shards.
pub async fn gateways(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    Parameters::new(given.into_inner(), &[])?;
    let asked = ask(&api).await;
    let troubles: BTreeMap<_, _> = api.links.status().into_iter().map(|l| (l.peer, l.trouble)).collect();
    let one = |member: &Member| gateway(member, &asked, troubles.get(&member.id).cloned().flatten());
    let list: Vec<_> = api.members.iter().map(one).collect();
    let ring = &api.overview.ring;
    Ok(HttpResponse::Ok().json(json!({
        "site": api.site, "answered_by": api.me.0, "gateways": list,
        "shard_count": ring.shards(), "replicas_per_shard": ring.replication(),
        "leaderless_shards": asked.shards.leaderless(),
        "partial": !asked.missing.is_empty(), "missing_gateways": asked.missing,
    })))
}

/// A gateway of the site. `link_trouble` is why the gateway that was asked has no link to it.
fn gateway(member: &Member, asked: &Asked, link_trouble: Option<String>) -> Value {
    let (id, weight) = (member.id, member.weight);
    let Some(state) = asked.gateways.get(&id) else {
        return json!({ "gateway": id.0, "weight": weight, "state": "unreachable", "trouble": link_trouble });
    };
    json!({
        "gateway": id.0, "weight": weight, "state": if state.trouble.is_some() { "troubled" } else { "ready" },
        "trouble": state.trouble, "warnings": state.warnings, "release": state.release,
        "uptime_ms": state.uptime_ms, "connections": state.connections, "publishes_acked": state.acked,
        "room": state.room, "clock_sure": state.clock_sure,
        "replicas": state.shards().count(), "leads": state.leads(), "behind_slots": asked.shards.behind_slots(id),
    })
}

/// Answers `/v1/shards`: one page of the site's shards, each with its replicas.
pub async fn shards(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &SHARDS_PARAMETERS)?;
    let (after, limit) = (p.after(|text| text.parse::<u16>().ok())?, p.limit()? as usize);
    let asked = ask(&api).await;
    let mut rest = asked.shards.0.iter().filter(|s| after.is_none_or(|after| s.shard.0 > after));
    let page: Vec<_> = rest.by_ref().take(limit).collect();
    let next = rest.next().and_then(|_| page.last()).map(|s| s.shard.0.to_string());
    let list: Vec<_> = page.into_iter().map(row).collect();
    Ok(HttpResponse::Ok().json(json!({
        "shards": list, "truncated": next.is_some(), "next": next,
        "partial": !asked.missing.is_empty(), "missing_gateways": asked.missing,
    })))
}

/// Answers `/v1/shards/{shard}`: one shard with its replicas.
pub async fn shard(
    api: web::Data<Api>,
    shard: web::Path<String>,
    given: Given,
) -> Result<HttpResponse, Failure> {
    Parameters::new(given.into_inner(), &[])?;
    let shards = api.overview.ring.shards();
    let Some(shard) = shard.parse().ok().filter(|shard| *shard < shards).map(ShardId) else {
        return Err(Failure::Unknown(format!(
            "the site has no shard {:?}; its shards are 0 to {}",
            shard.as_str(),
            shards - 1
        )));
    };
    let asked = ask(&api).await;
    let found = asked.shards.0.iter().find(|s| s.shard == shard);
    let mut row = found.map_or(Value::Null, row);
    row["partial"] = (!asked.missing.is_empty()).into();
    row["missing_gateways"] = asked.missing.into();
    Ok(HttpResponse::Ok().json(row))
}

fn row(s: &ShardState) -> Value {
    let replica = |(gateway, state): &(GatewayId, Option<ReplicaDescription>)| match state {
        None => json!({ "gateway": gateway.0, "role": null }),
        Some(r) => json!({
            "gateway": gateway.0, "role": r.role, "ballot": r.ballot.to_string(), "commit": r.commit,
            "applied": r.applied, "behind_slots": s.behind_slots(r),
        }),
    };
    let replicas: Vec<_> = s.replicas.iter().map(replica).collect();
    let leading = s.leading();
    json!({
        "shard": s.shard.0, "configuration": s.configuration, "leader": s.leader.map(|g| g.0),
        "replicas": replicas, "commit": s.commit(),
        "outbox_batches": leading.map(|r| r.outbox_batches), "outbox_bytes": leading.map(|r| r.outbox_bytes),
    })
}
