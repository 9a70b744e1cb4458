//! Publishes that were not counted, over HTTP and for the whole site: the quarantine, topics that map to no stream, and operators'
//! orders about them. Any gateway answers; it asks the shards' leaders.

use crate::actors::http::problem::Failure;
use crate::actors::http::routes::{Routes, get, post};
use crate::actors::http::{Api, Given, tables};
use crate::actors::orders::ORDER_WAIT_MS;
use crate::actors::ways::Ways;
use crate::front::Front;
use actix_web::http::Method;
use actix_web::{HttpResponse, web};
use selvedge_fabric::decode::{Decoded, Few};
use selvedge_fabric::forward::{Forwardable, NamedReading};
use selvedge_fabric::machine::{Item, ItemOutcome, QuarantineEntry, Reading, Readmit, Reason};
use selvedge_fabric::peer::{Listed, TableAnswer, TableQuestion};
use selvedge_fabric::session::reading_hash;
use selvedge_types::ids::ShardId;
use selvedge_types::params::Parameters;
use selvedge_types::uplink::StreamName;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The parameters of `/v1/quarantine`.
pub const PARAMETERS: [&str; 3] = ["client", "limit", "after"];

/// The default number of entries on a page: fewer than in other lists, since each has a payload.
pub const PAGE_ENTRIES: u32 = 100;

/// The most entries of one page.
pub const MAX_PAGE_ENTRIES: u32 = 1_000;

/// An entry's shard, and its number there.
pub type QuarantinePlace = (u16, u64);

/// Registers these paths in an application.
pub fn routes(all: &mut Routes<'_>) {
    all.path("/v1/quarantine", get(list));
    all.path("/v1/quarantine/{id}", get(one).and(Method::DELETE, discard));
    all.path("/v1/quarantine/{id}/readmit", post(readmit));
    all.path("/v1/unmapped", get(unmapped));
    all.path("/v1/devices/{device}/reset-sequence", post(reset_device));
    all.path("/v1/devices/{device}/streams/{stream}/reset-sequence", post(reset_stream));
}

/// Parses `SHARD-ID`, the form in which entries are named.
pub fn place(text: &str) -> Option<QuarantinePlace> {
    let (shard, id) = text.split_once('-')?;
    Some((shard.parse().ok()?, id.parse().ok()?))
}

async fn list(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &PARAMETERS)?;
    let client = p.text("client")?.map(str::to_string);
    let after = p.after(place)?.unwrap_or((0, 0));
    let limit = p.limit_within(PAGE_ENTRIES, MAX_PAGE_ENTRIES)? as usize;
    // A client belongs to one shard. The totals are those of all shards, whatever the page shows.
    let only = client.as_ref().map(|client| api.overview.front.shard_of(client));
    let all: Vec<_> = (0..api.overview.ring.shards()).map(ShardId).collect();
    let (mut entries, mut missing, mut next) = (Vec::new(), Vec::new(), None);
    let (mut kept, mut bytes, mut taken, mut evicted) = (0, 0, 0, 0);
    let until = tables::deadline();
    for some in all.chunks(tables::SHARDS_ASKED) {
        let is_full = next.is_some();
        let is_wanted = |shard: ShardId| shard.0 >= after.0 && only.is_none_or(|only| only == shard);
        let question = |shard: &ShardId| {
            let after = if shard.0 == after.0 { after.1 } else { 0 };
            let what = match is_wanted(*shard) && !is_full {
                true => Listed::Excerpts { client: client.clone(), after },
                false => Listed::Nothing,
            };
            (*shard, TableQuestion::Quarantine { shard: *shard, what })
        };
        for (shard, answer) in tables::ask_shards(&api, until, some.iter().map(question).collect()).await {
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
    }
    Ok(HttpResponse::Ok().json(json!({
        "entries": entries, "next": next, "kept": kept, "bytes": bytes, "total": taken, "evicted": evicted,
        "partial": !missing.is_empty(), "missing_shards": missing,
        "missing_gateways": tables::out_of_reach(&api).await,
    })))
}

fn shown(shard: ShardId, id: u64, entry: &QuarantineEntry) -> Value {
    let p = &entry.publish;
    json!({
        "id": format!("{}-{id}", shard.0), "at": p.at.to_string(), "client": p.client, "topic": p.topic,
        "why": p.why, "payload": String::from_utf8_lossy(&p.payload), "bytes": p.payload_bytes, "qos": p.qos,
        "times": entry.times, "counted": p.counted.len(), "far_behind": p.far_behind,
    })
}

/// Fetches one entry with its whole payload.
async fn find(api: &Api, (shard, id): QuarantinePlace) -> Result<QuarantineEntry, Failure> {
    if shard >= api.overview.ring.shards() {
        return Err(Failure::NoEntry);
    }
    let shard = ShardId(shard);
    let question = TableQuestion::Quarantine { shard, what: Listed::Whole { id } };
    match tables::ask_shard(api, shard, question).await {
        Some(TableAnswer::Quarantine { entries, .. }) => {
            let entry = entries.into_iter().find(|(found, _)| *found == id).map(|(_, entry)| entry);
            entry.ok_or(Failure::NoEntry)
        }
        _ => {
            Err(Failure::OutOfReach("no majority of the shard's replicas is within reach: try again".into()))
        }
    }
}

async fn one(api: web::Data<Api>, id: web::Path<String>) -> Result<HttpResponse, Failure> {
    let ((shard, id), entry) = ordered(&api, &id).await?;
    Ok(HttpResponse::Ok().json(shown(ShardId(shard), id, &entry)))
}

/// Submits items, and waits for their outcomes.
async fn order(ways: &Ways, items: Vec<(ShardId, Forwardable)>) -> Result<Vec<ItemOutcome>, Failure> {
    let replies: Option<Vec<_>> = items.into_iter().map(|(shard, item)| ways.order(shard, item)).collect();
    let replies = replies.ok_or(Failure::Busy)?;
    let late = || {
        Failure::OutOfReach(
            "no majority answered in time; the order may still be carried out: repeat it".into(),
        )
    };
    let mut outcomes = Vec::with_capacity(replies.len());
    let end = tokio::time::Instant::now() + Duration::from_millis(ORDER_WAIT_MS);
    for reply in replies {
        outcomes.push(tokio::time::timeout_at(end, reply).await.map_err(|_| late())?.map_err(|_| late())?);
    }
    Ok(outcomes)
}

/// Fetches the entry that a request names.
async fn ordered(api: &Api, id: &str) -> Result<(QuarantinePlace, QuarantineEntry), Failure> {
    let place = place(id).ok_or(Failure::NoEntry)?;
    Ok((place, find(api, place).await?))
}

async fn discard(api: web::Data<Api>, id: web::Path<String>) -> Result<HttpResponse, Failure> {
    let (place, entry) = ordered(&api, &id).await?;
    finish(&api, place, entry.attempt, (Vec::new(), 0), true).await?;
    Ok(HttpResponse::Ok().json(json!({ "removed": true })))
}

/// Notes in the entry what was counted, or removes it if it is `done`.
async fn finish(
    api: &Api,
    (shard, id): QuarantinePlace,
    attempt: u64,
    (counted, far_behind): (Vec<u64>, u32),
    done: bool,
) -> Result<(), Failure> {
    let item = Item::Readmitted { id, attempt, counted, far_behind, done };
    order(&api.overview.ways, vec![(ShardId(shard), Forwardable::Item(item))]).await.map(|_| ())
}

/// Decodes an entry again, and counts those of its readings that were not counted before.
async fn readmit(api: web::Data<Api>, id: web::Path<String>) -> Result<HttpResponse, Failure> {
    let (place, entry) = ordered(&api, &id).await?;
    let (front, p) = (&api.overview.front, &entry.publish);
    let left = left_of(front, &entry).map_err(Failure::NotCountable)?;
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
    let outcomes = order(&api.overview.ways, items.collect()).await?;
    let (mut counted, mut recognised, mut hashes, mut why) = (0, 0, Vec::new(), Vec::new());
    let mut far_behind = 0;
    for (outcome, (_, list)) in outcomes.iter().zip(&asked) {
        match outcome {
            ItemOutcome::Judged(judged) => {
                counted += judged.counted;
                recognised += judged.recognised;
                let aside = |at: &u32| judged.set_aside.iter().any(|s| s.reading == *at);
                hashes.extend((0..).zip(list).filter(|(at, _)| !aside(at)).map(|(_, hash)| *hash));
                why.extend(judged.set_aside.iter().map(|s| s.reason.name()));
                let behind = judged.set_aside.iter().filter(|s| s.reason == Reason::FarBehind);
                far_behind += behind.count() as u32;
            }
            ItemOutcome::Refused(refused) => return Err(Failure::OutOfReach(refused.clone())),
            // The answer was lost: a repetition of the same attempt gets the same outcome.
            _ => return Err(Failure::OutOfReach("the answer of a shard was lost: repeat the order".into())),
        }
    }
    finish(&api, place, entry.attempt, (hashes, far_behind), why.is_empty()).await?;
    let set_aside = why.len();
    why.dedup();
    Ok(HttpResponse::Ok().json(json!({
        "counted": counted, "recognised": recognised, "set_aside": set_aside, "reasons": why,
        "removed": set_aside == 0,
    })))
}

/// The readings of an entry, decoded again, that were not counted.
fn left_of(front: &Front, entry: &QuarantineEntry) -> Result<Vec<NamedReading>, String> {
    let p = &entry.publish;
    if p.payload_bytes != p.payload.len() as u64 {
        return Err("its payload was too large to be kept".to_string());
    }
    if p.far_behind > 0 {
        return Err(format!(
            "{} of its readings were set aside as far behind: they may have been counted before, and the site can't tell. If the device \
             did start again, POST .../reset-sequence, have it send them once more, and DELETE this entry",
            p.far_behind
        ));
    }
    let list = match front.decoder().decode(p.at, &p.topic, &p.payload) {
        Decoded::Readings { list, .. } => list,
        Decoded::NoReading { .. } => Few::new(),
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
    if !counted.is_empty() {
        return Err(format!(
            "{} of its readings were counted when it came, but its topic or its payload now stands for other readings, so that these \
             could count twice: publish the rest by itself, and DELETE this entry",
            counted.len()
        ));
    }
    Ok(left)
}

/// Merges the lists of all gateways; each gateway counts since it started.
async fn unmapped(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    Parameters::new(given.into_inner(), &[])?;
    let (answers, missing) = tables::ask_gateways(&api, TableQuestion::Unmapped).await;
    let (mut total, mut since) = (0u64, Vec::new());
    let mut topics: BTreeMap<String, (u64, selvedge_types::time::EpochMs, u64)> = BTreeMap::new();
    for (gateway, answer) in answers {
        let TableAnswer::Unmapped { total: came, topics: list, uptime_ms } = answer else { continue };
        total = total.saturating_add(came);
        since.push(json!({ "gateway": gateway.0, "uptime_ms": uptime_ms }));
        for topic in list {
            let known = topics.entry(topic.topic).or_default();
            known.0 = known.0.saturating_add(topic.count);
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
    Ok(HttpResponse::Ok().json(json!({
        "total": total, "topics": list, "counted_since_start_of": since,
        "partial": !missing.is_empty(), "missing_gateways": missing,
    })))
}

async fn reset_device(api: web::Data<Api>, path: web::Path<String>) -> Result<HttpResponse, Failure> {
    reset(&api, path.into_inner(), None).await
}

async fn reset_stream(
    api: web::Data<Api>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Failure> {
    let (device, stream) = path.into_inner();
    reset(&api, device, Some(stream)).await
}

async fn reset(api: &Api, device: String, stream: Option<String>) -> Result<HttpResponse, Failure> {
    let front = &api.overview.front;
    let item = Forwardable::Item(Item::ResetSequence { device: device.clone(), stream });
    match order(&api.overview.ways, vec![(front.shard_of(&device), item)]).await?.first() {
        Some(ItemOutcome::Refused(why)) => Err(Failure::Unknown(why.clone())),
        _ => Ok(HttpResponse::Ok().json(json!({ "reset": true }))),
    }
}
