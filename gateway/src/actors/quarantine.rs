//! What was not counted, over HTTP and for the whole site: the quarantine, topics that map to no stream, and an operator's orders
//! about them. Any gateway answers; it asks the shards' leaders.

use crate::actors::front::Front;
use crate::actors::http::Api;
use crate::actors::orders::ORDER_WAIT_MS;
use crate::actors::switch::AskTable;
use crate::logic::decode::Decoded;
use crate::logic::forward::{Forwardable, NamedReading};
use crate::logic::machine::{Item, Outcome, QuarantineEntry, Reading, Readmit};
use crate::logic::peer::{TableAnswer, TableQuestion};
use crate::logic::session::reading_hash;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use selvedge_shared::ids::{GatewayId, ShardId};
use selvedge_shared::uplink::StreamName;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A table that no one answers for within this time is missing.
const TABLE_WAIT_MS: u64 = 1_500;
/// How many shards are asked at a time.
const SHARDS_ASKED: usize = 8;
/// The most entries of one page, and how many unless more are asked for.
const PAGE_ENTRIES: (usize, usize) = (1_000, 100);

type Given = web::Query<BTreeMap<String, String>>;
type Place = (u16, u64);

/// Puts these paths into an application.
pub fn routes(app: &mut web::ServiceConfig) {
    app.route("/v1/quarantine", web::get().to(list))
        .route("/v1/quarantine/{id}", web::get().to(one))
        .route("/v1/quarantine/{id}", web::delete().to(discard))
        .route("/v1/quarantine/{id}/readmit", web::post().to(readmit))
        .route("/v1/unmapped", web::get().to(unmapped))
        .route("/v1/devices/{device}/reset-sequence", web::post().to(reset_device))
        .route("/v1/devices/{device}/streams/{stream}/reset-sequence", web::post().to(reset_stream));
}

fn bad(parameter: &str, why: &str) -> HttpResponse {
    HttpResponse::BadRequest().json(json!({ "error": format!("{parameter}: {why}"), "parameter": parameter }))
}

fn unavailable(why: &str) -> HttpResponse {
    HttpResponse::ServiceUnavailable().json(json!({ "error": why }))
}

/// `SHARD-ID`, as entries are named.
fn place(text: &str) -> Option<Place> {
    let (shard, id) = text.split_once('-')?;
    Some((shard.parse().ok()?, id.parse().ok()?))
}

/// Orders come from operators' tools: a page of another site must not have a browser give one.
fn is_foreign(request: &HttpRequest) -> bool {
    let text = |name| request.headers().get(name).and_then(|v: &header::HeaderValue| v.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else { return false };
    let own = text(header::HOST).is_some_and(|host| origin.split_once("://").is_some_and(|(_, o)| o == host));
    !own
}

fn forbidden() -> HttpResponse {
    HttpResponse::Forbidden().json(json!({ "error": "orders are not taken from pages of other sites" }))
}

async fn ask(api: &Api, to: Vec<GatewayId>, question: TableQuestion) -> Option<TableAnswer> {
    let (reply, answer) = oneshot::channel();
    api.overview.switch.do_send(AskTable { to, question, reply });
    tokio::time::timeout(Duration::from_millis(TABLE_WAIT_MS), answer).await.ok()?.ok()
}

async fn list(api: web::Data<Api>, given: Given) -> HttpResponse {
    let (mut client, mut after, mut limit) = (None, (0, 0), PAGE_ENTRIES.1);
    for (key, value) in given.into_inner() {
        match key.as_str() {
            "client" => client = Some(value),
            "after" => match place(&value) {
                Some(place) => after = place,
                None => return bad("after", "give what an earlier answer gave as next"),
            },
            "limit" => match value.parse() {
                Ok(n) if (1..=PAGE_ENTRIES.0).contains(&n) => limit = n,
                _ => return bad("limit", "give a whole number from 1 to 1000"),
            },
            _ => return bad(&key, "there is no such parameter: client, limit, after"),
        }
    }
    let shards = api.overview.ring.shards();
    // A client is one shard's alone.
    let only = client.as_ref().map(|client| api.overview.front.shard_of(client).0);
    let wanted: Vec<u16> = (after.0..shards).filter(|s| only.is_none_or(|only| only == *s)).collect();
    let (mut entries, mut missing, mut next) = (Vec::new(), Vec::new(), None);
    let (mut kept, mut bytes, mut taken, mut evicted) = (0, 0, 0, 0);
    for some in wanted.chunks(SHARDS_ASKED) {
        let asked: Vec<_> = some
            .iter()
            .map(|shard| {
                let (api, client, shard) = (api.clone(), client.clone(), ShardId(*shard));
                let after = if shard.0 == after.0 { after.1 } else { 0 };
                let question = TableQuestion::Quarantine { shard, client, after, whole: false };
                actix_web::rt::spawn(async move {
                    let to = api.overview.ring.replicas(shard).to_vec();
                    (shard, ask(&api, to, question).await)
                })
            })
            .collect();
        for answer in asked {
            let Ok((shard, answer)) = answer.await else { continue };
            let Some(TableAnswer::Quarantine { entries: list, more, stats }) = answer else {
                missing.push(shard);
                continue;
            };
            (kept, bytes) = (kept + stats.entries, bytes + stats.bytes);
            (taken, evicted) = (taken + stats.taken, evicted + stats.evicted);
            if next.is_some() {
                continue;
            }
            let room = limit - entries.len();
            let last = list[..room.min(list.len())].last().map_or(0, |(id, _)| *id);
            if more || list.len() > room {
                next = Some(format!("{}-{last}", shard.0));
            }
            entries.extend(list.iter().take(room).map(|(id, entry)| shown(shard, *id, entry)));
        }
        if next.is_some() {
            break;
        }
    }
    HttpResponse::Ok().json(json!({
        "entries": entries, "next": next, "kept": kept, "bytes": bytes, "total": taken, "evicted": evicted,
        "partial": !missing.is_empty(), "missing_shards": missing,
    }))
}

fn shown(shard: ShardId, id: u64, entry: &QuarantineEntry) -> Value {
    let p = &entry.publish;
    json!({
        "id": format!("{}-{id}", shard.0), "at": p.at.to_string(), "client": p.client, "topic": p.topic,
        "why": p.why, "payload": String::from_utf8_lossy(&p.payload), "bytes": p.payload_bytes, "qos": p.qos,
        "times": entry.times, "counted": p.counted.len(),
    })
}

/// One entry with its whole payload.
async fn find(api: &Api, (shard, id): Place) -> Result<QuarantineEntry, HttpResponse> {
    if shard >= api.overview.ring.shards() {
        return Err(not_found());
    }
    let shard = ShardId(shard);
    let after = id.saturating_sub(1);
    let question = TableQuestion::Quarantine { shard, client: None, after, whole: true };
    match ask(api, api.overview.ring.replicas(shard).to_vec(), question).await {
        Some(TableAnswer::Quarantine { entries, .. }) => {
            let entry = entries.into_iter().find(|(found, _)| *found == id).map(|(_, entry)| entry);
            entry.ok_or_else(not_found)
        }
        _ => Err(unavailable("no majority of the shard's replicas is within reach: try again")),
    }
}

fn not_found() -> HttpResponse {
    let error = "there is no such entry: GET /v1/quarantine lists them";
    HttpResponse::NotFound().json(json!({ "error": error }))
}

async fn one(api: web::Data<Api>, id: web::Path<String>) -> HttpResponse {
    let Some(place) = place(&id) else { return not_found() };
    match find(&api, place).await {
        Ok(entry) => HttpResponse::Ok().json(shown(ShardId(place.0), place.1, &entry)),
        Err(answer) => answer,
    }
}

/// Has items carried out, and waits for what became of them.
async fn order(front: &Front, items: Vec<(ShardId, Forwardable)>) -> Result<Vec<Outcome>, HttpResponse> {
    let replies: Option<Vec<_>> = items.into_iter().map(|(shard, item)| front.order(shard, item)).collect();
    let replies = replies.ok_or_else(|| unavailable("too many orders are under way: try again"))?;
    let late = || unavailable("no majority answered in time; the order may still be carried out: repeat it");
    let mut outcomes = Vec::with_capacity(replies.len());
    let end = tokio::time::Instant::now() + Duration::from_millis(ORDER_WAIT_MS);
    for reply in replies {
        outcomes.push(tokio::time::timeout_at(end, reply).await.map_err(|_| late())?.map_err(|_| late())?);
    }
    Ok(outcomes)
}

/// The entry that an order is about, unless a page of another site sent it.
async fn ordered(
    request: &HttpRequest,
    api: &Api,
    id: &str,
) -> Result<(Place, QuarantineEntry), HttpResponse> {
    if is_foreign(request) {
        return Err(forbidden());
    }
    let place = place(id).ok_or_else(not_found)?;
    Ok((place, find(api, place).await?))
}

async fn discard(request: HttpRequest, api: web::Data<Api>, id: web::Path<String>) -> HttpResponse {
    let (place, entry) = match ordered(&request, &api, &id).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    match finish(&api, place, entry.attempt, Vec::new(), true).await {
        Ok(()) => HttpResponse::Ok().json(json!({ "removed": true })),
        Err(answer) => answer,
    }
}

/// Notes in the entry what was counted, or removes it.
async fn finish(
    api: &Api,
    (shard, id): Place,
    attempt: u64,
    counted: Vec<u64>,
    done: bool,
) -> Result<(), HttpResponse> {
    let item = Item::Readmitted { id, attempt, counted, done };
    order(&api.overview.front, vec![(ShardId(shard), Forwardable::Item(item))]).await.map(|_| ())
}

/// Decodes an entry anew and has counted what was not counted then.
async fn readmit(request: HttpRequest, api: web::Data<Api>, id: web::Path<String>) -> HttpResponse {
    let (place, entry) = match ordered(&request, &api, &id).await {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    match readmitted(&api, place, &entry).await {
        Ok(answer) | Err(answer) => answer,
    }
}

async fn readmitted(api: &Api, place: Place, entry: &QuarantineEntry) -> Result<HttpResponse, HttpResponse> {
    let (front, p) = (&api.overview.front, &entry.publish);
    let left = match left_of(front, entry) {
        Ok(left) => left,
        Err(why) => {
            let error = format!("it still can't be counted: {why}");
            return Ok(HttpResponse::Conflict().json(json!({ "error": error })));
        }
    };
    let mut parts: BTreeMap<ShardId, Vec<NamedReading>> = BTreeMap::new();
    for reading in left {
        parts.entry(front.shard_of(&reading.name.device)).or_default().push(reading);
    }
    let asked: Vec<(ShardId, Vec<u64>)> =
        parts.iter().map(|(shard, list)| (*shard, list.iter().map(reading_hash).collect())).collect();
    let items = parts.into_iter().map(|(shard, mut readings)| {
        // A reading without a time was measured when it came, not now.
        readings.iter_mut().for_each(|r| r.reading.time = r.reading.time.or(Some(p.at)));
        let readmit = Readmit { shard: place.0, id: place.1, attempt: entry.attempt, readings: Vec::new() };
        (shard, Forwardable::Readmit(readmit, readings))
    });
    let outcomes = order(front, items.collect()).await?;
    let (mut counted, mut recognised, mut hashes, mut why) = (0, 0, Vec::new(), Vec::new());
    for (outcome, (_, list)) in outcomes.iter().zip(&asked) {
        match outcome {
            Outcome::Judged(judged) => {
                counted += judged.counted;
                recognised += judged.recognised;
                let aside = |at: &u32| judged.set_aside.iter().any(|s| s.reading == *at);
                hashes.extend((0..).zip(list).filter(|(at, _)| !aside(at)).map(|(_, hash)| *hash));
                why.extend(judged.set_aside.iter().map(|s| s.reason.name()));
            }
            Outcome::Refused(refused) => return Err(unavailable(refused)),
            // Its answer was lost: a repetition of the same attempt is told what became of it.
            _ => return Err(unavailable("the answer of a shard was lost: repeat it")),
        }
    }
    finish(api, place, entry.attempt, hashes, why.is_empty()).await?;
    let set_aside = why.len();
    why.dedup();
    Ok(HttpResponse::Ok().json(json!({
        "counted": counted, "recognised": recognised, "set_aside": set_aside, "reasons": why,
        "removed": set_aside == 0,
    })))
}

/// The readings of an entry, decoded anew, that were not counted.
fn left_of(front: &Front, entry: &QuarantineEntry) -> Result<Vec<NamedReading>, String> {
    let p = &entry.publish;
    if p.payload_bytes != p.payload.len() as u64 {
        return Err("its payload was too large to be kept".to_string());
    }
    let list = match front.decoder().decode(p.at, &p.topic, &p.payload) {
        Decoded::Readings { list, .. } => list,
        Decoded::NoReading { .. } => Vec::new(),
        Decoded::NotMapped => return Err("its topic maps to no stream".to_string()),
        Decoded::Malformed(e) => return Err(e.to_string()),
    };
    let maker: Arc<str> = p.client.as_str().into();
    let mut counted = p.counted.clone();
    let mut left = Vec::new();
    for r in list {
        let reading = Reading { stream: 0, time: r.time, value: r.value, seq: r.seq, boot: r.boot };
        let name = StreamName { device: r.device.into_owned(), stream: r.stream.into_owned() };
        let reading = NamedReading { name: Arc::new(name), maker: Some(maker.clone()), reading };
        match counted.iter().position(|hash| *hash == reading_hash(&reading)) {
            Some(at) => drop(counted.swap_remove(at)),
            None => left.push(reading),
        }
    }
    Ok(left)
}

async fn unmapped(api: web::Data<Api>) -> HttpResponse {
    let up = api.overview.up().await;
    let gone = |peer: &GatewayId| !up.contains(peer);
    let mut missing: Vec<_> =
        api.links.status().into_iter().map(|l| l.peer).filter(gone).map(|g| g.0).collect();
    let asked: Vec<_> = up
        .into_iter()
        .map(|gateway| {
            let api = api.clone();
            actix_web::rt::spawn(
                async move { (gateway, ask(&api, vec![gateway], TableQuestion::Unmapped).await) },
            )
        })
        .collect();
    let mut total = 0u64;
    let mut topics: BTreeMap<String, (u64, selvedge_shared::time::EpochMs, u64)> = BTreeMap::new();
    for answer in asked {
        let Ok((gateway, answer)) = answer.await else { continue };
        let Some(TableAnswer::Unmapped(came, list)) = answer else {
            missing.push(gateway.0);
            continue;
        };
        total += came;
        for topic in list {
            let known = topics.entry(topic.topic).or_default();
            known.0 += topic.count;
            if topic.last >= known.1 {
                (known.1, known.2) = (topic.last, topic.payload_bytes);
            }
        }
    }
    let mut topics: Vec<_> = topics.into_iter().collect();
    topics.sort_by_key(|(_, (_, last, _))| std::cmp::Reverse(*last));
    let list: Vec<_> = topics
        .iter()
        .map(|(topic, (count, last, bytes))| {
            json!({ "topic": topic, "count": count, "last": last.to_string(), "bytes": bytes })
        })
        .collect();
    HttpResponse::Ok().json(json!({ "total": total, "topics": list, "missing_gateways": missing }))
}

async fn reset_device(request: HttpRequest, api: web::Data<Api>, path: web::Path<String>) -> HttpResponse {
    reset(&request, &api, path.into_inner(), None).await
}

async fn reset_stream(
    request: HttpRequest,
    api: web::Data<Api>,
    path: web::Path<(String, String)>,
) -> HttpResponse {
    let (device, stream) = path.into_inner();
    reset(&request, &api, device, Some(stream)).await
}

async fn reset(request: &HttpRequest, api: &Api, device: String, stream: Option<String>) -> HttpResponse {
    if is_foreign(request) {
        return forbidden();
    }
    let front = &api.overview.front;
    let item = Forwardable::Item(Item::ResetSequence { device: device.clone(), stream });
    match order(front, vec![(front.shard_of(&device), item)]).await {
        Err(answer) => answer,
        Ok(outcomes) => match outcomes.first() {
            Some(Outcome::Refused(why)) => HttpResponse::NotFound().json(json!({ "error": why })),
            _ => HttpResponse::Ok().json(json!({ "reset": true })),
        },
    }
}
