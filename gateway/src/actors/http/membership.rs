//! Operators' orders to the directory: `/v1/invitations` lets a gateway join or shows and withdraws invitations, `/v1/gateways/{id}/...` changes a gateway's place in the site, `/v1/moves/...`
//! pauses and bounds all moves of replicas.
//!
//! An order has an idempotency key, which the client draws and sends as `Idempotency-Key`. The directory remembers the
//! outcomes of the last orders by their keys, so a client that got no answer repeats the order with the same key and gets
//! the outcome of the first one.

use super::problem::Failure;
use super::{Api, Given, directory, site};
use crate::actors::admission::{token_hash, token_of};
use crate::actors::directory_orders::{self, OrderEnd};
use crate::actors::orders::ORDER_WAIT_MS;
use crate::identity::hex;
use actix_web::{HttpRequest, HttpResponse, web};
use ring::digest::{SHA256, digest};
use selvedge_fabric::configuration::MAX_LEARNER_LAG_SLOTS;
use selvedge_fabric::directory::{
    Admission, DIRECTORY_GROUP, Directory, DirectoryCommand, DirectoryOutcome, DirectoryRefusal, GatewayRole,
    InvitationId, RequestKey, UnsoundReplica,
};
use selvedge_fabric::link::JoinToken;
use selvedge_fabric::site_state::{GatewayDescription, ReplicaDescription, ReplicaRole};
use selvedge_types::ids::GatewayId;
use selvedge_types::params::{Parameters, bad, shown};
use selvedge_types::time::ElapsedMs;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The header with the idempotency key.
pub const KEY_HEADER: &str = "Idempotency-Key";
/// The longest idempotency key.
pub const MAX_KEY_BYTES: usize = 64;
/// The longest body of an order.
pub const MAX_BODY_BYTES: usize = 1024;
/// The parameters of `DELETE /v1/gateways/{id}`.
pub const REMOVE_PARAMETERS: [&str; 1] = ["force"];
/// How long an invitation stays open if the request does not say, in seconds.
pub const INVITATION_S: u64 = 3_600;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weight {
    weight: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    bytes_per_s: u64,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Invite {
    /// 64 hexadecimal digits that the client drew; without it the gateway draws the token.
    token: Option<String>,
    replaces: Option<u16>,
    witness: bool,
    weight: Option<u32>,
    zone: Option<String>,
    lasts_s: Option<u64>,
}

/// Opens an invitation, with which one new gateway may join. The answer holds the token, which nobody can ask for again.
pub async fn invite(
    api: web::Data<Api>,
    request: HttpRequest,
    sent: Result<web::Bytes, actix_web::Error>,
) -> Result<HttpResponse, Failure> {
    let key = key(&request)?;
    let Invite { token, replaces, witness, weight, zone, lasts_s } = body(sent, r#"{"replaces":2}"#)?;
    let token = match token {
        Some(text) => token_of(&text).ok_or_else(|| bad("token", "has to be 64 hexadecimal digits"))?,
        None => JoinToken(selvedge_seal::random().map_err(|e| Failure::OutOfReach(e.to_string()))?),
    };
    let role = if witness { GatewayRole::Witness } else { GatewayRole::Full };
    let lasts_s = lasts_s.unwrap_or(INVITATION_S);
    let said = json!({
        "replaces": replaces, "witness": witness, "weight": weight, "zone": zone, "lasts_s": lasts_s,
    });
    let admits = Admission { role, replaces: replaces.map(GatewayId), weight, zone };
    let lasts_ms = lasts_s.saturating_mul(1_000);
    let command = DirectoryCommand::Invite { token: token_hash(&token), lasts_ms, admits };
    // What is said is logged, so the token comes into it last.
    let (_, mut said) = chosen(&api, key, command, said).await?;
    said["token"] = hex(&token.0).into();
    let peers = directory::copy(&api)?;
    said["seeds"] = peers.gateways().map(|(_, g)| g.addresses.peer.clone()).collect();
    Ok(HttpResponse::Ok().json(said))
}

/// The open invitations, without their tokens.
pub async fn invitations(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    Parameters::new(given.into_inner(), &[])?;
    let directory = directory::copy(&api)?;
    let since_ms = api.overview.directory.age_ms();
    let all: Vec<_> = open(&directory, directory.elapsed().plus(since_ms)).collect();
    Ok(HttpResponse::Ok().json(json!({ "invitations": all })))
}

/// The invitations that are open by `now`, those that expire first before the others.
fn open(directory: &Directory, now: ElapsedMs) -> impl Iterator<Item = Value> {
    let mut all: Vec<_> = directory.invitations().iter().filter(|(_, i)| i.expires > now).collect();
    all.sort_by_key(|(token, invitation)| (invitation.expires, **token));
    all.into_iter().map(move |(token, i)| {
        let (replaced, old_zone) = match &i.replaces {
            Some((gateway, _, zone)) => (Some(gateway.0), zone.as_ref()),
            None => (None, None),
        };
        json!({
            "id": token.invitation().to_string(), "role": directory::role_word(i.role), "weight": i.weight,
            "zone": i.zone.as_ref().or(old_zone), "replaces": replaced, "expires_in_ms": i.expires.since(now),
        })
    })
}

/// Ends an open invitation, so that nobody can join with its token.
pub async fn withdraw(
    api: web::Data<Api>,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    let key = key(&request)?;
    let unknown = || {
        Failure::Unknown(format!("the site has no invitation {}: GET /v1/invitations lists them", shown(&id)))
    };
    let invitation = InvitationId::parse(&id).ok_or_else(unknown)?;
    let said = json!({ "invitation": invitation.to_string() });
    order(&api, key, DirectoryCommand::Withdraw { invitation }, said).await
}

/// Has leaders, devices and then replicas leave a gateway, which keeps running.
pub async fn drain(
    api: web::Data<Api>,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    let (gateway, key) = (known(&id)?, key(&request)?);
    order(&api, key, DirectoryCommand::Drain { gateway }, json!({ "gateway": gateway.0 })).await
}

/// Takes a draining gateway back: the ring gives it its share of the replicas again.
pub async fn resume(
    api: web::Data<Api>,
    id: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    let (gateway, key) = (known(&id)?, key(&request)?);
    order(&api, key, DirectoryCommand::Resume { gateway }, json!({ "gateway": gateway.0 })).await
}

/// Changes a gateway's share of the replicas.
pub async fn reweigh(
    api: web::Data<Api>,
    id: web::Path<String>,
    request: HttpRequest,
    sent: Result<web::Bytes, actix_web::Error>,
) -> Result<HttpResponse, Failure> {
    let (gateway, key) = (known(&id)?, key(&request)?);
    let Weight { weight } = body(sent, r#"{"weight":2}"#)?;
    let said = json!({ "gateway": gateway.0, "weight": weight });
    order(&api, key, DirectoryCommand::Reweigh { gateway, weight }, said).await
}

/// Removes a gateway for good, unless the site would lose data or a majority by it; with `force`, even then.
pub async fn remove(
    api: web::Data<Api>,
    id: web::Path<String>,
    request: HttpRequest,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let (gateway, key) = (known(&id)?, key(&request)?);
    let p = Parameters::new(given.into_inner(), &REMOVE_PARAMETERS)?;
    let force = match p.text("force")? {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return Err(bad("force", format!("{} is not true or false", shown(other))).into()),
    };
    let directory = directory::copy(&api)?;
    let answered = site::ask(&api).await.gateways;
    if let Some(group) = unreported(&directory, &answered) {
        return Err(Failure::OutOfReach(format!(
            "{group} has just changed its replicas, and the directory, which judges the removal, does not know it yet: try again"
        )));
    }
    let unsound = unsound(&directory, gateway, &answered);
    let command = DirectoryCommand::Remove { gateway, force, unsound };
    order(&api, key, command, json!({ "gateway": gateway.0, "force": force })).await
}

/// Stops all moves and planning until [`go_on`].
pub async fn pause(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    order(&api, key(&request)?, DirectoryCommand::Pause, json!({ "paused": true })).await
}

/// Has the moves go on from where [`pause`] stopped them.
pub async fn go_on(api: web::Data<Api>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    order(&api, key(&request)?, DirectoryCommand::Continue, json!({ "paused": false })).await
}

/// Bounds the bandwidth of all moves together.
pub async fn set_rate(
    api: web::Data<Api>,
    request: HttpRequest,
    sent: Result<web::Bytes, actix_web::Error>,
) -> Result<HttpResponse, Failure> {
    let key = key(&request)?;
    let Rate { bytes_per_s } = body(sent, r#"{"bytes_per_s":10000000}"#)?;
    let said = json!({ "rate_bytes_per_s": bytes_per_s });
    order(&api, key, DirectoryCommand::SetRate { bytes_per_s }, said).await
}

/// Submits an order, and answers when it is chosen: what was ordered, and whether that changed anything.
async fn order(
    api: &Api,
    key: RequestKey,
    command: DirectoryCommand,
    said: Value,
) -> Result<HttpResponse, Failure> {
    let (_, said) = chosen(api, key, command, said).await?;
    Ok(HttpResponse::Ok().json(said))
}

/// Submits an order, and returns its outcome when it is chosen, with what is said of it.
async fn chosen(
    api: &Api,
    key: RequestKey,
    command: DirectoryCommand,
    mut said: Value,
) -> Result<(DirectoryOutcome, Value), Failure> {
    directory::copy(api)?;
    let outcome = match directory_orders::order(&api.overview.ways, Some(key), command, ORDER_WAIT_MS).await {
        OrderEnd::Outcome(outcome) => outcome,
        OrderEnd::Early(why) => return Err(Failure::OutOfReach(why)),
        OrderEnd::Busy => return Err(Failure::Busy),
        OrderEnd::Unanswered => {
            return Err(Failure::OutOfReach(
                "no majority of the directory's replicas has chosen it yet: check with GET /v1/gateways that they run. It may still be \
                 carried out; repeat it with the same Idempotency-Key to learn its outcome"
                    .into(),
            ));
        }
    };
    let changed = settled(&outcome)?;
    if let Some(left_out) = api.log_limit.note("ordered") {
        tracing::info!(order = %said, changed, "an operator's order to the directory{left_out}");
    }
    said["changed"] = changed.into();
    Ok((outcome, said))
}

/// Whether an order changed anything.
fn settled(outcome: &DirectoryOutcome) -> Result<bool, Failure> {
    match outcome {
        DirectoryOutcome::Unchanged => Ok(false),
        DirectoryOutcome::Refused(
            why @ (DirectoryRefusal::UnknownGateway(_) | DirectoryRefusal::NoInvitation(_)),
        ) => Err(Failure::Unknown(why.to_string())),
        DirectoryOutcome::Refused(why) => Err(Failure::Refused(why.to_string())),
        _ => Ok(true),
    }
}

/// The gateway that a path names.
fn known(id: &str) -> Result<GatewayId, Failure> {
    let unknown =
        || Failure::Unknown(format!("the site has no gateway {}: GET /v1/gateways lists them", shown(id)));
    id.parse().map(GatewayId).map_err(|_| unknown())
}

/// The idempotency key of a request, or one that is drawn for it.
fn key(request: &HttpRequest) -> Result<RequestKey, Failure> {
    let mut given = request.headers().get_all(KEY_HEADER);
    let Some(first) = given.next() else { return Ok(RequestKey(fastrand::u128(..).to_le_bytes())) };
    if given.next().is_some() {
        return Err(bad(KEY_HEADER, "is given twice").into());
    }
    let text = first.as_bytes();
    let printable = text.iter().all(|byte| (b' '..=b'~').contains(byte));
    if !printable || !(1..=MAX_KEY_BYTES).contains(&text.len()) {
        let why = format!("has to be 1 to {MAX_KEY_BYTES} printable ASCII characters");
        return Err(bad(KEY_HEADER, why).into());
    }
    let mut key = [0; 16];
    key.copy_from_slice(&digest(&SHA256, text).as_ref()[..16]);
    Ok(RequestKey(key))
}

/// The body of an order. `example` is a right one.
fn body<T: DeserializeOwned>(
    sent: Result<web::Bytes, actix_web::Error>,
    example: &str,
) -> Result<T, Failure> {
    let wrong = |why: &str| bad("body", format!("{why}; send JSON such as {example}"));
    // actix-web refuses a body that is longer than its own bound, or breaks off.
    let sent = sent.map_err(|_| wrong("can't be read"))?;
    if sent.len() > MAX_BODY_BYTES {
        return Err(wrong(&format!("has more than {MAX_BODY_BYTES} bytes")).into());
    }
    serde_json::from_slice(&sent)
        .map_err(|why| wrong(&format!("is not what this order takes ({why})")).into())
}

/// A group in a later configuration than the directory knows.
fn unreported(directory: &Directory, answered: &BTreeMap<GatewayId, GatewayDescription>) -> Option<String> {
    let later = |r: &&ReplicaDescription| {
        directory.configuration(r.shard).is_some_and(|known| r.configuration > known.number)
    };
    let replica = answered.values().flat_map(|d| &d.replicas).find(later)?;
    Some(match replica.shard {
        DIRECTORY_GROUP => "the directory group".to_string(),
        shard => format!("shard {shard}"),
    })
}

/// The other replicas, in groups where a gateway votes, that do not count as good copies: their gateway did not answer,
/// or does not have the replica as a voter, or it is damaged or too far behind.
fn unsound(
    directory: &Directory,
    gateway: GatewayId,
    answered: &BTreeMap<GatewayId, GatewayDescription>,
) -> Vec<UnsoundReplica> {
    let mut all = Vec::new();
    for (shard, configuration) in directory.configurations() {
        let next = directory.moves().get(&shard).map(|m| m.next_voters(configuration)).unwrap_or_default();
        let mut voters = configuration.voters.clone();
        voters.extend(next.into_iter().filter(|g| !configuration.voters.contains(g)));
        if !voters.contains(&gateway) {
            continue;
        }
        let of = |id: &GatewayId| answered.get(id)?.replicas.iter().find(|r| r.shard == shard);
        let chosen = answered.keys().filter_map(of).map(|r| r.commit).max().unwrap_or(0);
        let is_sound = |id: &GatewayId| {
            of(id).is_some_and(|r| {
                let votes =
                    matches!(r.role, ReplicaRole::Leader | ReplicaRole::Follower | ReplicaRole::Candidate);
                votes && r.applied.saturating_add(MAX_LEARNER_LAG_SLOTS) >= chosen
            })
        };
        let bad = voters.iter().filter(|id| **id != gateway && !is_sound(id));
        all.extend(bad.map(|id| UnsoundReplica { shard, gateway: *id }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::directory::tests::directory;
    use super::*;
    use actix_web::test::TestRequest;
    use selvedge_fabric::directory::DirectoryOutcome::{Done, Refused, Unchanged};
    use selvedge_paxos::Ballot;
    use selvedge_types::ids::ShardId;

    fn key_of(headers: &[&str]) -> Result<RequestKey, String> {
        let request =
            headers.iter().fold(TestRequest::default(), |r, text| r.append_header((KEY_HEADER, *text)));
        key(&request.to_http_request()).map_err(|e| e.to_string())
    }

    #[test]
    fn an_idempotency_key_is_hashed_or_drawn() {
        let one = key_of(&["order 1"]).unwrap();
        assert_eq!(one.0[..4], [0xf3, 0xd6, 0xf0, 0xd5], "the beginning of the SHA-256");
        assert_eq!((key_of(&["order 1"]), key_of(&["order 2"]) == Ok(one)), (Ok(one), false));
        assert_ne!(key_of(&[]), key_of(&[]), "two requests without a key are two requests");
        assert!(key_of(&["x".repeat(64).as_str()]).is_ok());
        for wrong in [&["x".repeat(65).as_str()][..], &["é"], &[""]] {
            let why = key_of(wrong).unwrap_err();
            assert!(why.contains("Idempotency-Key") && why.contains("1 to 64"), "{why}");
        }
        assert!(key_of(&["a", "b"]).unwrap_err().contains("twice"));
    }

    #[test]
    fn open_invitations_are_shown_without_their_tokens() {
        let invite = |byte, lasts_ms, admits| DirectoryCommand::Invite {
            token: token_hash(&JoinToken([byte; 32])),
            lasts_ms,
            admits,
        };
        let replace = Admission { replaces: Some(GatewayId(2)), ..Admission::default() };
        let witness =
            Admission { role: GatewayRole::Witness, zone: Some("hall".into()), ..Admission::default() };
        let directory = directory(
            3,
            &[invite(1, 90_000, replace), invite(2, 10_000, witness), invite(3, 500, Admission::default())],
        );
        let shown: Vec<_> = open(&directory, ElapsedMs(4_000)).collect();
        let ids = [2, 1].map(|byte| token_hash(&JoinToken([byte; 32])).invitation().to_string());
        let wanted = [
            json!({"id": ids[0], "role": "witness", "weight": 1, "zone": "hall", "replaces": null, "expires_in_ms": 8_000}),
            json!({"id": ids[1], "role": "full", "weight": 1, "zone": null, "replaces": 2, "expires_in_ms": 87_000}),
        ];
        assert_eq!(
            shown, wanted,
            "the third has expired, though the directory has not been told the time since"
        );
        assert_eq!(InvitationId::parse(&ids[0]).unwrap().to_string(), ids[0]);
        for wrong in ["", "+1234567", "1234567", "123456789", "1234567g"] {
            assert_eq!(InvitationId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_body_is_exactly_what_the_order_takes() {
        let read = |text: &str| {
            let sent = Ok(web::Bytes::copy_from_slice(text.as_bytes()));
            body::<Weight>(sent, r#"{"weight":2}"#).map(|w| w.weight).map_err(|e| e.to_string())
        };
        assert_eq!(read(r#"{"weight":7}"#), Ok(7));
        let long = format!(r#"{{"weight":7}}{}"#, " ".repeat(MAX_BODY_BYTES));
        for wrong in ["", "7", "{}", r#"{"weight":-1}"#, r#"{"weight":7,"force":true}"#, &long] {
            let why = read(wrong).unwrap_err();
            assert!(why.contains("`body`") && why.contains(r#"{"weight":2}"#), "{why}");
        }
    }

    #[test]
    fn a_refusal_reaches_the_operator_as_it_is() {
        let told = |outcome: DirectoryOutcome| settled(&outcome);
        assert!(matches!((told(Done), told(Unchanged)), (Ok(true), Ok(false))));
        let last = DirectoryRefusal::LastFull(GatewayId(1));
        assert!(matches!(told(Refused(last.clone())), Err(Failure::Refused(why)) if why == last.to_string()));
        let unknown = DirectoryRefusal::UnknownGateway(GatewayId(9));
        assert!(
            matches!(told(Refused(unknown.clone())), Err(Failure::Unknown(why)) if why == unknown.to_string())
        );
        let unknown = known("three").unwrap_err().to_string();
        assert!(unknown.contains("\"three\"") && unknown.contains("/v1/gateways"), "{unknown}");
        assert!(known("65536").is_err() && known("3").is_ok());
    }

    /// A gateway whose replicas of shards 0 to 3 and of the directory have this role and are applied up to this slot.
    fn described(role: ReplicaRole, applied: u64) -> GatewayDescription {
        let replica = |shard| ReplicaDescription {
            shard,
            configuration: 1,
            role,
            leader: None,
            ballot: Ballot::default(),
            commit: applied,
            applied,
            outbox_batches: 0,
            outbox_bytes: 0,
            transfer: Default::default(),
        };
        GatewayDescription {
            release: "0.1.0".into(),
            uptime_ms: 0,
            trouble: None,
            warnings: 0,
            connections: 0,
            acked: 0,
            room: true,
            clock_sure: true,
            replicas: (0..4).map(ShardId).chain([DIRECTORY_GROUP]).map(replica).collect(),
        }
    }

    #[test]
    fn a_removal_waits_until_the_directory_knows_all_configurations() {
        let directory = directory(3, &[]);
        let mut answered = BTreeMap::from([(GatewayId(3), described(ReplicaRole::Leader, 500))]);
        assert_eq!(unreported(&directory, &answered), None);
        answered.get_mut(&GatewayId(3)).unwrap().replicas[2].configuration = 2;
        assert_eq!(unreported(&directory, &answered), Some("shard s2".into()));
    }

    #[test]
    fn replicas_that_are_silent_damaged_or_behind_are_unsound() {
        let directory = directory(3, &[]);
        let with = |second: Option<GatewayDescription>| {
            let mut answered = BTreeMap::from([(GatewayId(3), described(ReplicaRole::Leader, 500))]);
            answered.extend(second.map(|second| (GatewayId(2), second)));
            let all = unsound(&directory, GatewayId(1), &answered);
            assert!(all.iter().all(|u| u.gateway == GatewayId(2)), "{all:?}");
            all.len()
        };
        let close = 500 - MAX_LEARNER_LAG_SLOTS;
        assert_eq!(with(Some(described(ReplicaRole::Follower, close))), 0);
        assert_eq!(with(Some(described(ReplicaRole::Follower, close - 1))), 5);
        assert_eq!(with(Some(described(ReplicaRole::Damaged, 500))), 5);
        assert_eq!(with(Some(described(ReplicaRole::Retired, 500))), 5);
        assert_eq!(with(None), 5);
        let mut lacks_one = described(ReplicaRole::Follower, 500);
        lacks_one.replicas.pop();
        assert_eq!(with(Some(lacks_one)), 1);
    }
}
