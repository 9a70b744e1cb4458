//! `/v1/gateways` and `/v1/shards`: the gateways of the site and the replicas of each shard. Any gateway can answer: it
//! asks all others to describe themselves. Which gateways there are and which of them hold a shard comes from this
//! gateway's copy of the directory, and from the settings as long as there is none.

use super::problem::Failure;
use super::{Api, Given, directory, tables};
use actix_web::{HttpResponse, web};
use selvedge_fabric::directory::{Directory, GatewayRecord};
use selvedge_fabric::peer::{TableAnswer, TableQuestion};
use selvedge_fabric::ring::Member;
use selvedge_fabric::site_state::{GatewayDescription, ReplicaDescription, ShardState, Shards};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::params::Parameters;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The query parameters that `/v1/shards` accepts.
pub const SHARDS_PARAMETERS: [&str; 2] = ["limit", "after"];

/// The answers of the gateways, and what follows from them.
pub(super) struct Asked {
    /// This gateway's copy of the directory.
    directory: Option<Arc<Directory>>,
    pub(super) gateways: BTreeMap<GatewayId, GatewayDescription>,
    shards: Shards,
    /// The gateways that did not answer, or whose answer is out of bounds; in ascending order.
    missing: Vec<u16>,
}

pub(super) async fn ask(api: &web::Data<Api>) -> Asked {
    let (answers, mut missing) = tables::ask_gateways(api, TableQuestion::Gateway).await;
    let mut gateways = BTreeMap::new();
    for (gateway, answer) in answers {
        match answer {
            TableAnswer::Gateway(state) if state.is_sound() => drop(gateways.insert(gateway, *state)),
            _ => missing.push(gateway.0),
        }
    }
    missing.sort_unstable();
    let (ring, directory) = (&api.overview.ring, api.overview.directory.get());
    let shards = match &directory {
        None => Shards::of(ring, &gateways),
        Some(directory) => {
            let shards = (0..ring.shards()).map(ShardId);
            Shards::placed(shards.map(|shard| (shard, holders(directory, shard))), &gateways)
        }
    };
    Asked { directory, gateways, shards, missing }
}

/// The gateways that hold a shard by the directory: its voters, and the gateway to which a replica moves.
fn holders(directory: &Directory, shard: ShardId) -> Vec<GatewayId> {
    let mut all = directory.configuration(shard).map_or_else(Vec::new, |c| c.voters.clone());
    let comes = directory.moves().get(&shard).and_then(|m| m.comes);
    all.extend(comes.filter(|g| !all.contains(g)));
    all
}

/// Answers `/v1/gateways`: each gateway's description of itself, and a summary of the shards.
pub async fn gateways(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    Parameters::new(given.into_inner(), &[])?;
    let asked = ask(&api).await;
    let troubles: BTreeMap<_, _> = api.links.status().into_iter().map(|l| (l.peer, l.trouble)).collect();
    let members = members(asked.directory.as_deref(), &api.members);
    let one =
        |member: &Member| gateway(member, &members, &asked, troubles.get(&member.id).cloned().flatten());
    let list: Vec<_> = members.iter().map(one).collect();
    let ring = &api.overview.ring;
    let wanted = asked.directory.as_ref().map(|d| d.wanted(ShardId(0)).len());
    Ok(HttpResponse::Ok().json(json!({
        "site": api.site, "answered_by": api.me.0, "gateways": list,
        "shard_count": ring.shards(), "replicas_per_shard": wanted.unwrap_or(ring.replication()),
        "leaderless_shards": asked.shards.leaderless(),
        "directory": asked.directory.as_deref().map(directory::summary),
        "partial": !asked.missing.is_empty(), "missing_gateways": asked.missing,
    })))
}

/// The gateways of the site: by the directory, or by the settings if there is no copy of it.
fn members(directory: Option<&Directory>, settings: &[Member]) -> Vec<Member> {
    match directory {
        None => settings.to_vec(),
        Some(directory) => {
            directory.gateways().map(|(id, record)| Member { id, weight: record.weight }).collect()
        }
    }
}

/// Whether a gateway takes devices that come new: by the directory, and as it describes itself.
fn takes_devices(id: GatewayId, asked: &Asked) -> bool {
    let may =
        asked.directory.as_ref().is_none_or(|d| d.gateway(id).is_some_and(GatewayRecord::is_active_full));
    may && asked.gateways.get(&id).is_some_and(|said| said.room && said.trouble.is_none())
}

/// A gateway's share, by weight, of the connections to the gateways that take devices, in connections; `None` if it takes none.
fn connections_share(member: &Member, members: &[Member], asked: &Asked) -> Option<f64> {
    let taking: Vec<_> = members.iter().filter(|m| takes_devices(m.id, asked)).collect();
    taking.iter().find(|m| m.id == member.id)?;
    let weights: u64 = taking.iter().map(|m| u64::from(m.weight)).sum();
    let connections: u64 =
        taking.iter().filter_map(|m| asked.gateways.get(&m.id)).map(|g| g.connections).sum();
    Some((connections * u64::from(member.weight)) as f64 / weights.max(1) as f64)
}

/// A gateway of the site with these `members`. `link_trouble` is why the gateway that was asked has no link to it.
fn gateway(member: &Member, members: &[Member], asked: &Asked, link_trouble: Option<String>) -> Value {
    let (id, weight) = (member.id, member.weight);
    let record = asked.directory.as_ref().and_then(|d| d.gateway(id));
    let mut said = match asked.gateways.get(&id) {
        None => json!({ "state": "unreachable", "trouble": link_trouble }),
        Some(state) => json!({
            "state": if state.trouble.is_some() { "troubled" } else { "ready" },
            "trouble": state.trouble, "warnings": state.warnings, "release": state.release,
            "uptime_ms": state.uptime_ms, "connections": state.connections, "publishes_acked": state.acked,
            "room": state.room, "clock_sure": state.clock_sure,
            "replicas": state.shards().count(), "leads": state.leads(), "behind_slots": asked.shards.behind_slots(id),
        }),
    };
    said["gateway"] = id.0.into();
    said["weight"] = weight.into();
    said["directory_state"] = record.map(|r| r.state.to_string()).into();
    said["role"] = record.map(directory::role).into();
    said["zone"] = record.and_then(|r| r.zone.clone()).into();
    let mqtt = record.map(|r| r.addresses.mqtt.clone()).filter(|address| !address.is_empty());
    said["mqtt"] = mqtt.into();
    said["takes_devices"] = takes_devices(id, asked).into();
    said["connections_share"] = connections_share(member, members, asked).into();
    said
}

/// Answers `/v1/shards`: one page of the site's shards, each with its replicas.
pub async fn shards(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &SHARDS_PARAMETERS)?;
    let (after, limit) = (p.after(|text| text.parse::<u16>().ok())?, p.limit()? as usize);
    let asked = ask(&api).await;
    let mut rest = asked.shards.0.iter().filter(|s| after.is_none_or(|after| s.shard.0 > after));
    let page: Vec<_> = rest.by_ref().take(limit).collect();
    let next = rest.next().and_then(|_| page.last()).map(|s| s.shard.0.to_string());
    let list: Vec<_> = page.into_iter().map(|s| row(s, asked.directory.as_deref())).collect();
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
    let mut row = found.map_or(Value::Null, |s| row(s, asked.directory.as_deref()));
    row["partial"] = (!asked.missing.is_empty()).into();
    row["missing_gateways"] = asked.missing.into();
    Ok(HttpResponse::Ok().json(row))
}

fn row(s: &ShardState, directory: Option<&Directory>) -> Value {
    let replica = |(gateway, state): &(GatewayId, Option<ReplicaDescription>)| match state {
        None => json!({ "gateway": gateway.0, "role": null }),
        Some(r) => json!({
            "gateway": gateway.0, "role": r.role, "ballot": r.ballot.to_string(), "commit": r.commit,
            "applied": r.applied, "behind_slots": s.behind_slots(r),
        }),
    };
    let replicas: Vec<_> = s.replicas.iter().map(replica).collect();
    let leading = s.leading();
    let members = directory.and_then(|d| d.configuration(s.shard)).map(|c| directory::numbers(&c.voters));
    let wanted = directory.map(|d| directory::numbers(&d.wanted(s.shard)));
    let moving = directory.and_then(|d| d.moves().get(&s.shard)).map(directory::progress);
    json!({
        "shard": s.shard.0, "configuration": s.configuration, "leader": s.leader.map(|g| g.0),
        "members": members, "wanted_members": wanted, "move": moving,
        "replicas": replicas, "commit": s.commit(),
        "outbox_batches": leading.map(|r| r.outbox_batches), "outbox_bytes": leading.map(|r| r.outbox_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::super::directory::tests::directory as site;
    use super::*;
    use selvedge_fabric::directory::DirectoryCommand;

    fn asked(directory: Option<Directory>) -> Asked {
        let directory = directory.map(Arc::new);
        Asked { directory, gateways: BTreeMap::new(), shards: Shards(Vec::new()), missing: Vec::new() }
    }

    #[test]
    fn the_directory_says_which_gateways_the_site_has() {
        let settings: Vec<_> = (1..=4).map(|n| Member { id: GatewayId(n), weight: 1 }).collect();
        assert_eq!(members(None, &settings), settings, "without a copy, the settings say it");
        let removed = DirectoryCommand::Remove { gateway: GatewayId(4), force: true, unsound: Vec::new() };
        let heavier = DirectoryCommand::Reweigh { gateway: GatewayId(2), weight: 5 };
        let found = members(Some(&site(4, &[removed, heavier])), &settings);
        let found: Vec<_> = found.iter().map(|m| (m.id.0, m.weight)).collect();
        assert_eq!(found, [(1, 1), (2, 5), (3, 1)]);
    }

    #[test]
    fn a_gateway_shows_what_the_directory_knows_of_it() {
        let member = Member { id: GatewayId(2), weight: 1 };
        let members = [member];
        let shown = gateway(&member, &members, &asked(None), None);
        assert_eq!((&shown["directory_state"], &shown["role"]), (&Value::Null, &Value::Null));
        let drained = site(3, &[DirectoryCommand::Drain { gateway: GatewayId(2) }]);
        let shown = gateway(&member, &members, &asked(Some(drained)), Some("no link".into()));
        let wanted = json!({
            "gateway": 2, "weight": 1, "state": "unreachable", "trouble": "no link", "directory_state": "draining",
            "role": "full", "zone": null, "mqtt": null, "takes_devices": false, "connections_share": null,
        });
        assert_eq!(shown, wanted);
    }

    #[test]
    fn devices_see_who_takes_them_and_how_loaded_each_is() {
        let members: Vec<_> =
            [(1, 1), (2, 3), (3, 1)].map(|(id, weight)| Member { id: GatewayId(id), weight }).into();
        let heavier = DirectoryCommand::Reweigh { gateway: GatewayId(2), weight: 3 };
        let mut asked = asked(Some(site(3, &[heavier, DirectoryCommand::Drain { gateway: GatewayId(3) }])));
        let said = |connections| GatewayDescription {
            release: "1".into(),
            uptime_ms: 1,
            trouble: None,
            warnings: 0,
            connections,
            acked: 0,
            room: true,
            clock_sure: true,
            replicas: Vec::new(),
        };
        asked.gateways = [(1, 30), (2, 70), (3, 50)].map(|(id, n)| (GatewayId(id), said(n))).into();
        let shown = |asked: &Asked, i: usize| {
            let shown = gateway(&members[i], &members, asked, None);
            (shown["takes_devices"] == true, shown["connections_share"].as_f64())
        };
        assert_eq!(shown(&asked, 0), (true, Some(25.0)), "a quarter of the weights, of 100 connections");
        assert_eq!(shown(&asked, 1), (true, Some(75.0)));
        assert_eq!(shown(&asked, 2), (false, None), "it drains");
        asked.gateways.get_mut(&GatewayId(2)).unwrap().room = false;
        assert_eq!(shown(&asked, 1), (false, None), "its disk is full");
        assert_eq!(shown(&asked, 0), (true, Some(30.0)));
    }

    #[test]
    fn a_shard_shows_its_members_and_its_move() {
        let shard = ShardId(1);
        let mut directory = site(4, &[]);
        let voters = directory.configuration(shard).unwrap().voters.clone();
        let comes = (1..=4).map(GatewayId).find(|g| !voters.contains(g)).unwrap();
        let leaves = Some(voters[0]);
        let begin = DirectoryCommand::BeginMove { shard, leaves, comes: Some(comes), configuration: 1 };
        directory.apply(7, selvedge_types::time::ElapsedMs(7), None, &begin);
        assert_eq!(holders(&directory, shard), [&voters[..], &[comes]].concat());
        let state = ShardState { shard, configuration: None, leader: None, replicas: Vec::new() };
        let shown = row(&state, Some(&directory));
        assert_eq!(shown["members"], json!(directory::numbers(&voters)));
        assert_eq!((&shown["move"]["comes"], &shown["move"]["since_slot"]), (&json!(comes.0), &json!(7)));
        let shown = row(&state, None);
        assert_eq!([&shown["members"], &shown["wanted_members"], &shown["move"]], [&Value::Null; 3]);
    }
}
