//! `/v1/clients`: who is connected to this gateway, and how the last connections ended.

use super::Api;
use super::tables::{Given, bad};
use crate::actors::departures::DepartureDesk;
use crate::departures::Left;
use crate::front::Connected;
use actix_web::{HttpResponse, web};
use selvedge_mqtt::Traffic;
use selvedge_types::mqtt::Version;
use selvedge_types::pattern::Pattern;
use serde_json::{Value, json};

/// How many clients an answer holds unless it is asked for another number.
const PAGE_ENTRIES: usize = 1_000;
/// The most.
const MAX_PAGE_ENTRIES: usize = 10_000;

/// Those that are connected to this gateway, in the order in which they came, and the last that left: all, or those whose client id
/// `client` names.
pub async fn list(api: web::Data<Api>, given: Given) -> HttpResponse {
    let (mut client, mut after, mut limit) = (None, 0, PAGE_ENTRIES);
    for (key, value) in &given.0 {
        match key.as_str() {
            "client" => match Pattern::parse(value) {
                Ok(pattern) => client = Some(pattern),
                Err(why) => return bad("client", &why),
            },
            "after" => match value.parse() {
                Ok(n) => after = n,
                Err(_) => return bad("after", "give what an earlier answer gave as next"),
            },
            "limit" => match value.parse() {
                Ok(n) if (1..=MAX_PAGE_ENTRIES).contains(&n) => limit = n,
                _ => return bad("limit", &format!("give a whole number from 1 to {MAX_PAGE_ENTRIES}")),
            },
            _ => return bad(key, "there is no such parameter: client, limit, after"),
        }
    }
    let wanted = |id: &str| client.as_ref().is_none_or(|pattern| pattern.matches(id));
    let front = &api.overview.front;
    let mut connected = front.connected(after, limit + 1, wanted);
    let truncated = connected.len() > limit;
    connected.truncate(limit);
    let next = connected.last().filter(|_| truncated).map(|c| c.connection.to_string());
    let clients: Vec<_> = connected.iter().map(one).collect();
    let desk = api.overview.ways.departures();
    let left = desk.list(|d| wanted(d.client_id.as_deref().unwrap_or_default()));
    let left: Vec<_> = left.iter().map(|l| gone(desk, l)).collect();
    HttpResponse::Ok().json(json!({
        "gateway": api.me.0, "connections": front.connections(), "clients": clients,
        "truncated": truncated, "next": next, "left": left, "left_by_reason": desk.counts(),
    }))
}

fn version(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5",
    }
}

fn with_traffic(mut row: Value, traffic: Traffic) -> Value {
    row["publishes_in"] = traffic.publishes_in.into();
    row["publishes_out"] = traffic.publishes_out.into();
    row["bytes_in"] = traffic.bytes_in.into();
    row["bytes_out"] = traffic.bytes_out.into();
    row
}

fn one(c: &Connected) -> Value {
    let row = json!({
        "client": c.client, "address": c.peer.to_string(), "version": version(c.version),
        "since": c.since.to_string(), "since_ms": c.since.0,
        "state": if c.arriving { "arriving" } else { "connected" }, "durable": c.durable,
        "dropped": c.dropped,
    });
    with_traffic(row, c.traffic)
}

fn gone(desk: &DepartureDesk, left: &Left) -> Value {
    let d = &left.departure;
    let mut row = json!({
        "client": d.client_id.as_deref(), "address": d.peer.to_string(), "version": d.version.map(version),
        "reason": d.reason.label(), "why": d.reason.to_string(), "setting": desk.setting(d.reason),
        "at": left.at.to_string(), "at_ms": left.at.0, "lasted_ms": d.lasted_ms,
    });
    if let Some(culprit) = &d.culprit {
        row["topic"] = Some(&*culprit.topic).filter(|topic| !topic.is_empty()).into();
        row["packet_bytes"] = culprit.bytes.into();
    }
    with_traffic(row, d.traffic)
}
