//! `/v1/clients`: the clients connected to this gateway, and how the last connections ended.

use super::problem::Failure;
use super::{Api, Given};
use crate::actors::departures::DepartureDesk;
use crate::departures::Left;
use crate::front::ConnectedClient;
use actix_web::{HttpResponse, web};
use selvedge_mqtt::Traffic;
use selvedge_types::mqtt::Version;
use selvedge_types::params::Parameters;
use serde_json::{Value, json};

/// The parameters of `/v1/clients`.
pub const PARAMETERS: [&str; 3] = ["client", "limit", "after"];

/// The clients that are connected to this gateway, in the order of their connections, and the last departures: of all
/// clients, or of those whose client id matches `client`.
pub async fn list(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &PARAMETERS)?;
    let (client, limit) = (p.pattern("client")?, p.limit()? as usize);
    let after = p.after(|text| text.parse().ok())?.unwrap_or(0);
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
    Ok(HttpResponse::Ok().json(json!({
        "gateway": api.me.0, "connections": front.connections(), "clients": clients,
        "truncated": truncated, "next": next, "left": left, "left_by_reason": desk.counts(),
    })))
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

fn one(c: &ConnectedClient) -> Value {
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
