//! `/v1/devices`: the devices with their streams, and the time ranges of their readings.

use super::problem::Failure;
use super::routes::Asker;
use super::{Api, Given};
use crate::store::find::{Seek, SeriesTimes};
use actix_web::{HttpResponse, web};
use selvedge_node_core::params::{NamesPlace, WantedStreams};
use selvedge_types::params::Parameters;
use selvedge_types::time::EpochMs;
use serde::{Serialize, Serializer};
use std::time::SystemTime;

/// The parameters of `/v1/devices`.
pub const DEVICE_PARAMETERS: [&str; 6] = ["site", "device", "stream", "q", "limit", "after"];

/// A page of devices, in the order of site and name.
#[derive(Serialize, utoipa::ToSchema)]
pub(super) struct Devices {
    devices: Vec<Device>,
    /// Whether there are more devices.
    truncated: bool,
    /// The value of `after` for the next page; null on the last page.
    next: Option<String>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct Device {
    site: String,
    device: String,
    /// When the node first heard of the device, by the node's clock.
    #[serde(serialize_with = "text")]
    #[schema(value_type = String, format = DateTime)]
    first_seen: EpochMs,
    /// The time of its earliest reading. Windows behind their time count only if there are no others: those that start
    /// more than a year before the node first heard of the device, and more than a year before the next window.
    #[serde(serialize_with = "text_if_any")]
    #[schema(value_type = Option<String>, format = DateTime)]
    first: Option<EpochMs>,
    /// The time of its latest reading. Windows ahead of their time count only if there are no others: those that start
    /// a day after the node's clock, or an hour after both that clock and the progress of the stream.
    #[serde(serialize_with = "text_if_any")]
    #[schema(value_type = Option<String>, format = DateTime)]
    last: Option<EpochMs>,
    /// The number of readings that were counted.
    readings: u64,
    /// The number of them that came after their window had closed.
    late: u64,
    /// The number of other readings that the site set aside: not counted, kept in its quarantine.
    set_aside: u64,
    /// The number of sequence numbers missing between its readings; null if they have none.
    missing: Option<u64>,
    streams: Vec<Stream>,
}

#[derive(Serialize, utoipa::ToSchema)]
struct Stream {
    stream: String,
    /// The widths, in milliseconds, at which its windows are stored.
    widths_ms: Vec<i64>,
    /// The time of its earliest reading. Windows behind their time count only if there are no others: those that start
    /// more than a year before the node first heard of the device, and more than a year before the next window.
    #[serde(serialize_with = "text_if_any")]
    #[schema(value_type = Option<String>, format = DateTime)]
    first: Option<EpochMs>,
    /// The time of its latest reading. Windows ahead of their time count only if there are no others: those that start
    /// a day after the node's clock, or an hour after both that clock and the progress of the stream.
    #[serde(serialize_with = "text_if_any")]
    #[schema(value_type = Option<String>, format = DateTime)]
    last: Option<EpochMs>,
    /// The number of readings that were counted.
    readings: u64,
    /// The number of them that came after their window had closed.
    late: u64,
    /// The number of other readings that the site set aside: not counted, kept in its quarantine.
    set_aside: u64,
    /// The number of sequence numbers missing between its readings; null if they have none.
    missing: Option<u64>,
}

fn text<S: Serializer>(at: &EpochMs, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(at)
}

fn text_if_any<S: Serializer>(at: &Option<EpochMs>, to: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => to.collect_str(at),
        None => to.serialize_none(),
    }
}

/// The earlier of two times, either of which may be missing.
fn earlier(a: Option<EpochMs>, b: Option<EpochMs>) -> Option<EpochMs> {
    a.zip(b).map(|(a, b)| a.min(b)).or(a).or(b)
}

pub(super) async fn devices(
    api: web::Data<Api>,
    Asker(caller): Asker,
    given: Given,
) -> Result<HttpResponse, Failure> {
    let p = Parameters::new(given.into_inner(), &DEVICE_PARAMETERS)?;
    let limit = p.limit()?;
    let after = p.after(|text| NamesPlace::parse(text, 2))?.map(|place| place.0).unwrap_or_default();
    let [site, device] = [0, 1].map(|at| after.get(at).map_or("", String::as_str));
    let seek = Seek { sites: caller.sites, wanted: WantedStreams::read(&p)? };
    let devices = listed(
        api.reader.find_devices(&seek, (site, device), EpochMs::from(SystemTime::now()), limit).await?,
    );
    let truncated = devices.len() == limit as usize;
    let last = devices.last().filter(|_| truncated);
    let next = last.map(|d| NamesPlace(vec![d.site.clone(), d.device.clone()]).to_string());
    Ok(HttpResponse::Ok().json(Devices { devices, truncated, next }))
}

/// Two numbers combined by `how`, or the one that there is.
fn both(a: Option<u64>, b: Option<u64>, how: fn(u64, u64) -> u64) -> Option<u64> {
    a.zip(b).map(|(a, b)| how(a, b)).or(a).or(b)
}

/// Groups series, which come in the order of site, device, stream and width, into devices. Every width of a stream
/// holds each of its readings.
fn listed(rows: Vec<SeriesTimes>) -> Vec<Device> {
    let mut devices: Vec<Device> = vec![];
    for one in rows {
        let SeriesTimes {
            series: s,
            device_seen: first_seen,
            first,
            last,
            readings,
            late,
            set_aside,
            missing,
        } = one;
        if devices.last().is_none_or(|d| d.site != s.site || d.device != s.device) {
            let (site, device, streams) = (s.site, s.device, vec![]);
            let (readings, late, set_aside, missing) = (0, 0, 0, None);
            devices.push(Device {
                site,
                device,
                first_seen,
                first: None,
                last: None,
                readings,
                late,
                set_aside,
                missing,
                streams,
            });
        }
        let Some(device) = devices.last_mut() else { continue };
        device.first = earlier(device.first, first);
        device.last = device.last.max(last);
        match device.streams.last_mut().filter(|known| known.stream == s.stream) {
            Some(stream) => {
                stream.widths_ms.push(s.width_ms);
                stream.first = earlier(stream.first, first);
                stream.last = stream.last.max(last);
                stream.readings = stream.readings.max(readings);
                stream.late = stream.late.max(late);
                stream.set_aside = stream.set_aside.max(set_aside);
                stream.missing = both(stream.missing, missing, u64::max);
            }
            None => {
                let (stream, widths_ms) = (s.stream, vec![s.width_ms]);
                device.streams.push(Stream {
                    stream,
                    widths_ms,
                    first,
                    last,
                    readings,
                    late,
                    set_aside,
                    missing,
                });
            }
        }
    }
    for device in &mut devices {
        for stream in &device.streams {
            device.readings = device.readings.saturating_add(stream.readings);
            device.late = device.late.saturating_add(stream.late);
            device.set_aside = device.set_aside.saturating_add(stream.set_aside);
            device.missing = both(device.missing, stream.missing, u64::saturating_add);
        }
    }
    devices
}
