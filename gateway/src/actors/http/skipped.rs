//! `/v1/skipped`: fields of publishes that were not readings.

use super::problem::Failure;
use super::{Api, Given, tables};
use actix_web::{HttpResponse, web};
use selvedge_fabric::peer::{TableAnswer, TableQuestion};
use selvedge_fabric::skips::{DeviceSkips, Skip};
use selvedge_types::params::Parameters;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The parameters of `/v1/skipped`.
pub const PARAMETERS: [&str; 1] = ["device"];

/// The fields that the site's gateways skipped, each gateway since it started: of all devices, or of the one that
/// `device` names.
pub async fn list(api: web::Data<Api>, given: Given) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &PARAMETERS)?;
    let device = p.text("device")?.map(str::to_string);
    let (answers, missing) = tables::ask_gateways(&api, TableQuestion::Skipped { device }).await;
    let (mut skipped, mut since) = (BTreeMap::<String, DeviceSkips>::new(), Vec::new());
    for (gateway, answer) in answers {
        let TableAnswer::Skipped { list, uptime_ms } = answer else { continue };
        since.push(json!({ "gateway": gateway.0, "uptime_ms": uptime_ms }));
        for (device, skips) in list {
            skipped.entry(device).or_default().merge(skips);
        }
    }
    let list: Vec<_> = skipped.iter().map(of_device).collect();
    Ok(HttpResponse::Ok().json(json!({
        "skipped": list, "counted_since_start_of": since,
        "partial": !missing.is_empty(), "missing_gateways": missing,
    })))
}

fn of_device((device, skips): (&String, &DeviceSkips)) -> Value {
    let field = |(name, skip): (&String, &Skip)| {
        json!({
            "name": name, "why": skip.why.label(), "count": skip.count,
            "last": skip.last.to_string(), "last_ms": skip.last.0,
        })
    };
    let fields: Vec<_> = skips.fields.iter().map(field).collect();
    json!({ "device": device, "fields": fields, "others": skips.others })
}
