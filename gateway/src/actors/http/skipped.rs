//! `/v1/skipped`: fields of publishes that were no readings.

use super::{Api, Given};
use crate::logic::skips::{DeviceSkips, Skip};
use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

/// What this gateway skipped, of all devices or of the one that `device` names.
pub async fn list(api: web::Data<Api>, given: Given) -> HttpResponse {
    if let Some((other, _)) = given.0.iter().find(|(key, _)| key != "device") {
        let error = format!("{other}: there is no such parameter: device");
        return HttpResponse::BadRequest().json(json!({ "error": error, "parameter": other }));
    }
    let device = given.0.first().map(|(_, device)| device.as_str());
    let list: Vec<_> = api.overview.front.skipped(device).iter().map(of_device).collect();
    HttpResponse::Ok().json(json!({ "gateway": api.me.0, "skipped": list }))
}

fn of_device((device, skips): &(String, DeviceSkips)) -> Value {
    let field = |(name, skip): (&String, &Skip)| {
        json!({
            "name": name, "why": skip.why.label(), "count": skip.count,
            "last": skip.last.to_string(), "last_ms": skip.last.0,
        })
    };
    let fields: Vec<_> = skips.fields.iter().map(field).collect();
    json!({ "device": device, "fields": fields, "others": skips.others })
}
