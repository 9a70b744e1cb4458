//! `/v1/directory`: the gateways of the site, where its replicas should be, and what moves. Each gateway answers from its
//! own copy of the directory, which lags at most a little behind the other gateways' copies.

use super::problem::Failure;
use super::{Api, Given};
use actix_web::{HttpResponse, web};
use selvedge_fabric::directory::{
    DIRECTORY_GROUP, Directory, GatewayRecord, GatewayRole, LEVEL_HOLD_MS, ShardConfiguration, ShardMove,
};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::params::Parameters;
use serde_json::{Value, json};
use std::sync::Arc;

/// Shows gateways, misplaced replicas and moves from this gateway's copy.
pub async fn one(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    Parameters::new(given.into_inner(), &[])?;
    let directory = copy(&api)?;
    let mut answer = summary(&directory);
    answer["site"] = json!(api.site);
    answer["answered_by"] = api.me.0.into();
    let up = api.overview.up().await;
    let gateways = directory.gateways().map(|(id, record)| {
        let mut said = gateway(&directory, id, record);
        said["up"] = up.contains(&id).into();
        said
    });
    answer["gateways"] = gateways.collect();
    answer["misplaced"] = directory.misplaced().map(|(shard, c)| group(&directory, shard, c)).collect();
    Ok(HttpResponse::Ok().json(answer))
}

/// This gateway's copy of the directory.
///
/// # Errors
/// When it has none yet.
pub(super) fn copy(api: &Api) -> Result<Arc<Directory>, Failure> {
    api.overview.directory.get().ok_or_else(|| {
        Failure::OutOfReach(
            "this gateway has no copy of the site's directory yet, because the directory group has not begun or has no leader: check with \
             GET /v1/gateways that a majority of the gateways runs, and try again"
                .into(),
        )
    })
}

/// The directory without its lists of gateways and groups.
pub(super) fn summary(directory: &Directory) -> Value {
    let moves: Vec<_> = directory.moves().iter().map(|(shard, m)| under_way(*shard, m)).collect();
    json!({
        "slot": directory.slot(), "elapsed_ms": directory.elapsed().0, "level": directory.level(),
        "next_level": next_level(directory),
        "paused": directory.is_paused(), "rate_bytes_per_s": directory.rate_bytes_per_s(),
        "group_count": directory.configurations().count(), "misplaced_count": directory.misplaced().count(),
        "moves": moves,
    })
}

/// The highest level above the site's that any gateway understands, the gateways that don't yet, and how long after the
/// directory's elapsed time it begins if all do.
fn next_level(directory: &Directory) -> Option<Value> {
    let highest =
        directory.gateways().map(|(_, g)| g.level).max().filter(|level| *level > directory.level())?;
    let behind = directory.gateways().filter(|(_, g)| g.level < highest);
    let behind: Vec<_> = behind.map(|(id, _)| id.0).collect();
    let begins = directory.next_level().filter(|(level, _)| *level == highest);
    let begins_in_ms = begins.map(|(_, since)| since.plus(LEVEL_HOLD_MS).since(directory.elapsed()));
    Some(json!({ "level": highest, "waits_for": behind, "begins_in_ms": begins_in_ms }))
}

fn group(directory: &Directory, shard: ShardId, configuration: &ShardConfiguration) -> Value {
    json!({
        "shard": number(shard), "configuration": configuration.number,
        "voters": numbers(&configuration.voters), "wanted": numbers(&directory.wanted(shard)),
    })
}

fn under_way(shard: ShardId, m: &ShardMove) -> Value {
    let mut said = progress(m);
    said["shard"] = number(shard);
    said
}

/// A move without its group.
pub(super) fn progress(m: &ShardMove) -> Value {
    json!({
        "leaves": m.leaves.map(|g| g.0), "comes": m.comes.map(|g| g.0), "since_slot": m.since,
        "done_bytes": m.done_bytes, "total_bytes": (m.total_bytes > 0).then_some(m.total_bytes),
    })
}

/// The number of a shard; null for the directory group, which is none.
fn number(shard: ShardId) -> Value {
    (shard != DIRECTORY_GROUP).then_some(shard.0).into()
}

pub(super) fn numbers(gateways: &[GatewayId]) -> Vec<u16> {
    gateways.iter().map(|g| g.0).collect()
}

pub(super) fn role(record: &GatewayRecord) -> &'static str {
    role_word(record.role)
}

pub(super) fn role_word(role: GatewayRole) -> &'static str {
    match role {
        GatewayRole::Full => "full",
        GatewayRole::Witness => "witness",
    }
}

fn gateway(directory: &Directory, id: GatewayId, record: &GatewayRecord) -> Value {
    let votes = directory.configurations().filter(|(_, c)| c.voters.contains(&id)).count();
    let wanted =
        directory.configurations().filter(|(shard, _)| directory.wanted(*shard).contains(&id)).count();
    // Addresses that the gateway has not announced yet are empty.
    let address = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let addresses = &record.addresses;
    json!({
        "gateway": id.0, "state": record.state.to_string(), "since_ms": record.since.0, "role": role(record),
        "weight": record.weight, "zone": record.zone, "level": record.level,
        "replaced_by": directory.replacement_of(id).map(|g| g.0),
        "addresses": {
            "peer": addresses.peer, "mqtt": address(&addresses.mqtt), "http": address(&addresses.http),
        },
        "replicas": votes, "wanted_replicas": wanted,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use selvedge_fabric::directory::{
        Announcement, DirectoryCommand, DirectoryOutcome, FirstGateway, GatewayAddresses, GatewayKey, Genesis,
    };
    use selvedge_types::time::ElapsedMs;

    /// The directory of a site with gateways 1 to `gateways`, after these commands.
    pub fn directory(gateways: u16, commands: &[DirectoryCommand]) -> Directory {
        let first = |n| FirstGateway { id: GatewayId(n), weight: 1, peer: format!("10.0.0.{n}:7081") };
        let genesis = Genesis { shards: 4, replicas: 3, gateways: (1..=gateways).map(first).collect() };
        let mut directory = Directory::genesis(&genesis).unwrap();
        for (slot, command) in (1..).zip(commands) {
            let outcome = directory.apply(slot, ElapsedMs(slot * 1_000), None, command);
            assert!(!matches!(outcome, DirectoryOutcome::Refused(_)), "{command:?}: {outcome:?}");
        }
        directory
    }

    #[test]
    fn a_site_at_rest_has_nothing_misplaced() {
        let said = summary(&directory(3, &[]));
        let wanted = json!({
            "slot": 0, "elapsed_ms": 0, "level": 1, "next_level": null, "paused": false,
            "rate_bytes_per_s": 4_194_304, "group_count": 5, "misplaced_count": 0, "moves": [],
        });
        assert_eq!(said, wanted);
    }

    #[test]
    fn a_level_waits_for_gateways_and_then_for_its_time() {
        let announce = |n: u16| {
            DirectoryCommand::Announce(Box::new(Announcement {
                gateway: GatewayId(n),
                incarnation: u128::from(n),
                key: GatewayKey([n as u8; 32]),
                addresses: GatewayAddresses { peer: "box:7081".into(), ..GatewayAddresses::default() },
                zone: None,
                level: 2,
            }))
        };
        let some = directory(3, &[announce(1), announce(3)]);
        let waits = json!({ "level": 2, "waits_for": [2], "begins_in_ms": null });
        assert_eq!(summary(&some)["next_level"], waits);
        let all = directory(3, &[announce(1), announce(3), announce(2), DirectoryCommand::Elapsed]);
        let begins = json!({ "level": 2, "waits_for": [], "begins_in_ms": LEVEL_HOLD_MS - 1_000 });
        assert_eq!(summary(&all)["next_level"], begins);
    }

    #[test]
    fn a_draining_gateway_and_its_moves_are_shown() {
        let drained = GatewayId(2);
        let mut directory = directory(3, &[DirectoryCommand::Drain { gateway: drained }]);
        let begin = DirectoryCommand::BeginMove {
            shard: ShardId(3),
            leaves: Some(drained),
            comes: None,
            configuration: 1,
        };
        directory.apply(2, ElapsedMs(2_000), None, &begin);
        directory.apply(3, ElapsedMs(3_000), None, &DirectoryCommand::Pause);
        let said = summary(&directory);
        assert_eq!((&said["misplaced_count"], &said["paused"]), (&json!(5), &json!(true)));
        let moves = json!([
            {"shard": 3, "leaves": 2, "comes": null, "since_slot": 2, "done_bytes": 0, "total_bytes": null},
        ]);
        assert_eq!(said["moves"], moves);
        let record = directory.gateway(drained).unwrap();
        let shown = gateway(&directory, drained, record);
        let wanted = json!({
            "gateway": 2, "state": "draining", "since_ms": 1_000, "role": "full", "weight": 1, "zone": null,
            "level": 1, "replaced_by": null,
            "addresses": {"peer": "10.0.0.2:7081", "mqtt": null, "http": null},
            "replicas": 5, "wanted_replicas": 0,
        });
        assert_eq!(shown, wanted);
        let rows: Vec<_> = directory.misplaced().map(|(shard, c)| group(&directory, shard, c)).collect();
        assert_eq!(
            (&rows[3]["shard"], &rows[4]["shard"]),
            (&json!(3), &Value::Null),
            "the directory is last"
        );
        assert_eq!((&rows[4]["voters"], &rows[4]["wanted"]), (&json!([1, 2, 3]), &json!([1, 3])));
    }
}
