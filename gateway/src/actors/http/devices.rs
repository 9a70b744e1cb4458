//! `/v1/devices`: which devices and streams are known, and retiring them.

use super::Api;
use crate::actors::orders::ORDER_WAIT_MS;
use crate::actors::shard::GetDevice;
use crate::logic::forward::Forwardable;
use crate::logic::machine::{DeviceInfo, Item, Outcome, StreamInfo};
use actix_web::{HttpResponse, web};
use selvedge_shared::ids::MAX_NAME_BYTES;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// All devices of the shards that are kept here.
pub async fn list(api: web::Data<Api>) -> HttpResponse {
    let reports = api.overview.reports(true).await;
    let list: Vec<_> = reports.iter().flat_map(|r| &r.devices).map(device).collect();
    HttpResponse::Ok().json(json!({ "devices": list, "of_shards": api.overview.shards.len() }))
}

fn device(d: &DeviceInfo) -> Value {
    json!({ "device": &*d.device, "streams": d.streams, "seen": d.seen.to_string(), "refused_readings": d.refused })
}

fn stream(s: &StreamInfo) -> Value {
    let set_aside: BTreeMap<_, _> =
        s.set_aside.iter().map(|(reason, count)| (reason.name(), count)).collect();
    json!({
        "stream": &*s.stream, "seen": s.seen.to_string(), "watermark": s.watermark.to_string(),
        "watermark_ms": s.watermark.0, "windows_ms": s.windows_ms, "client": s.client.as_deref(),
        "set_aside": set_aside,
    })
}

/// One device and its streams, as the replica here knows them.
pub async fn one(api: web::Data<Api>, name: web::Path<String>) -> HttpResponse {
    let shard = api.overview.ring.shard_of(&name);
    let Some(replica) = api.overview.shards.get(&shard) else {
        let at: Vec<_> = api.overview.ring.replicas(shard).iter().map(|g| g.0).collect();
        let error = format!(
            "the shard of this device, {}, is not kept here; ask one of the gateways {at:?}",
            shard.0
        );
        return HttpResponse::NotFound().json(json!({ "error": error, "gateways": at }));
    };
    match replica.send(GetDevice(name.into_inner())).await.ok().flatten() {
        Some((info, streams)) => {
            let mut answer = device(&info);
            answer["shard"] = shard.0.into();
            answer["streams"] = streams.iter().map(stream).collect();
            HttpResponse::Ok().json(answer)
        }
        None => HttpResponse::NotFound().json(json!({ "error": "no such device is known" })),
    }
}

/// Retires all streams of a device.
pub async fn retire_device(api: web::Data<Api>, name: web::Path<String>) -> HttpResponse {
    retire(&api, name.into_inner(), None).await
}

/// Retires one stream of a device.
pub async fn retire_stream(api: web::Data<Api>, names: web::Path<(String, String)>) -> HttpResponse {
    let (device, stream) = names.into_inner();
    retire(&api, device, Some(stream)).await
}

/// Answers when it is chosen. Asking again does no harm: what is retired already counts as none.
async fn retire(api: &Api, device: String, stream: Option<String>) -> HttpResponse {
    if device.len().max(stream.as_ref().map_or(0, String::len)) > MAX_NAME_BYTES {
        let error = format!("a name has at most {MAX_NAME_BYTES} bytes");
        return HttpResponse::BadRequest().json(json!({ "error": error }));
    }
    let shard = api.overview.ring.shard_of(&device);
    let item = Forwardable::Item(Item::Retire { device: device.clone(), stream: stream.clone() });
    let unavailable = |error: &str| HttpResponse::ServiceUnavailable().json(json!({ "error": error }));
    let Some(outcome) = api.overview.front.order(shard, item) else {
        return unavailable("too many orders are under way; try again");
    };
    match tokio::time::timeout(Duration::from_millis(ORDER_WAIT_MS), outcome).await {
        Ok(Ok(Outcome::Retired { streams })) => {
            tracing::info!(device, stream, streams, "retired");
            HttpResponse::Ok().json(json!({ "device": device, "stream": stream, "retired_streams": streams }))
        }
        Ok(Ok(_)) => {
            // The answer was lost on the way; it was carried out.
            HttpResponse::Ok().json(json!({ "device": device, "stream": stream, "retired_streams": null }))
        }
        _ => unavailable(
            "no majority of the device's replicas has chosen it yet; it may still be carried out, and asking again does no harm",
        ),
    }
}
