//! Sparkplug B: births define metrics and their aliases, and data messages carry values.
//!
//! # Names
//! A topic is `spBv1.0/{group}/{type}/{edge node}` or `.../{edge node}/{device}`. Readings of an edge node
//! belong to device `group/edge node`, those of a device to `group/edge node/device`. A topic level contains
//! no `/`, so names can't clash. The stream is the metric's name.
//!
//! # Messages
//! NBIRTH, DBIRTH, NDATA and DDATA carry readings; they may be compressed. NDEATH and DDEATH carry none and
//! make the gateway forget what the birth defined. NCMD, DCMD and STATE are only routed. `bdSeq` and the
//! `Node Control/` and `Device Control/` metrics control the session and are not readings. Values that are
//! null, not finite, times, texts or structures are skipped by name. So are values marked as transient (not
//! to be stored), and historical ones without a time of their own. `seq` restarts at every birth, so it can't
//! tell a resend from a new reading; it only shows gaps.
//!
//! Invariant: a data message that uses aliases is read by the last birth of its edge node or device, or not
//! at all. Metrics whose alias or type is not known here are skipped, and the edge node is asked for its
//! births.
//!
//! # Where births are kept
//! Births are in the memory of the gateway to which the edge node is connected (`births.rs`). An edge node
//! that connects to another gateway must send its births again in any case (Sparkplug 3.0.0, chapter 5). The
//! rebirth command brings them back in three other cases: the gateway restarted while the edge node's own
//! connection (to a bridge) stayed, the births exceeded `MAX_SPARKPLUG_STATE_BYTES`, or `seq` has a gap.

use super::births::{BD_SEQ, Birth, Births};
use super::inflate::{InflateError, MAX_INFLATED_BYTES, inflate, is_compressed};
use super::{
    DecodeError, DecodedReading, Found, MAX_READINGS_PER_PAYLOAD, PublishPlace, SkipReason, Skipped,
    check_name,
};
use selvedge_types::sparkplug::{MetricValue, Payload, SparkplugError, data_type};
use selvedge_types::time::EpochMs;
use smallvec::SmallVec;
use std::borrow::Cow;

pub(super) const RIGHT: &str =
    "send a Sparkplug B payload with metrics that are numbers (Eclipse Sparkplug 3.0.0, chapter 6)";
const RIGHT_BIRTH: &str = "the edge node must send its births again, and this gateway asks it to";
const RIGHT_SMALLER: &str = "split it into several messages";

/// The types of message that carry readings or control births.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Birth,
    Data,
    Death,
}

/// Decodes one message; `rest` is its topic from the group on. `None` for messages that are only routed.
pub(super) fn decode<'a>(
    births: &mut Births,
    now: EpochMs,
    topic: &str,
    rest: &str,
    payload: &[u8],
) -> Result<Option<Found<'a>>, Box<DecodeError>> {
    let mut levels = rest.split('/');
    let group = levels.next().unwrap_or_default();
    let Some(kind) = levels.next().filter(|_| group != "STATE") else { return Ok(None) };
    let edge = levels.next().unwrap_or_default();
    let device = levels.next();
    let (kind, of_device) = match kind {
        "NBIRTH" => (Kind::Birth, false),
        "DBIRTH" => (Kind::Birth, true),
        "NDATA" => (Kind::Data, false),
        "DDATA" => (Kind::Data, true),
        "NDEATH" => (Kind::Death, false),
        "DDEATH" => (Kind::Death, true),
        _ => return Ok(None),
    };
    let sound =
        !group.is_empty() && !edge.is_empty() && device.is_some() == of_device && levels.next().is_none();
    if !sound || device == Some("") {
        let right = "N... topics end in {group}/{type}/{edge node}, D... topics in {group}/{type}/{edge node}/{device}";
        return Err(DecodeError::new(PublishPlace::Topic, "it is not a Sparkplug B topic", right));
    }
    let node = format!("{group}/{edge}");
    let name = device.map_or_else(|| node.clone(), |device| format!("{node}/{device}"));
    check_name("device", &name, || PublishPlace::Topic)?;

    let steers = Found { steers: true, ..Found::default() };
    if kind == Kind::Death {
        // A death is valid even if its payload can't be read.
        let payload = read(payload).ok();
        if of_device {
            births.note_seq(&node, payload.and_then(|p| p.seq));
            births.device_is_dead(&name);
        } else {
            births.node_is_dead(&node, payload.as_ref());
        }
        return Ok(Some(steers));
    }
    if payload.is_empty() {
        return Ok(Some(steers)); // a retained message that was cleared
    }
    let payload = read(payload)?;
    match (kind, of_device) {
        (Kind::Birth, false) => births.node_is_born(&node, &payload)?,
        (Kind::Birth, true) => {
            births.note_seq(&node, payload.seq);
            births.device_is_born(&name, &payload)?;
        }
        _ => births.note_seq(&node, payload.seq),
    }
    let mut found = readings(&name, births.of(&name), payload)?;
    found.steers |= kind == Kind::Birth;
    let unknown = found.skipped.iter().any(|s| is_unknown(s.why));
    let prefix = topic.strip_suffix(rest).unwrap_or_default();
    found.rebirth = births.rebirth(now, &node, || format!("{prefix}{group}/NCMD/{edge}"), unknown);
    if found.list.is_empty() && unknown {
        let mut e = DecodeError::no_number(found.skipped, RIGHT_BIRTH);
        e.rebirth = found.rebirth;
        return Err(e);
    }
    Ok(Some(found))
}

fn is_unknown(why: SkipReason) -> bool {
    matches!(why, SkipReason::UnknownAlias | SkipReason::UnknownType)
}

/// Reads a payload and uncompresses it if necessary.
fn read(bytes: &[u8]) -> Result<Payload, Box<DecodeError>> {
    let read = |bytes: &[u8]| {
        Payload::read(bytes, MAX_READINGS_PER_PAYLOAD).map_err(|e| match e {
            SparkplugError::Malformed => DecodeError::new(PublishPlace::Payload, e.to_string(), RIGHT),
            SparkplugError::TooMany { .. } => {
                DecodeError::new(PublishPlace::Payload, e.to_string(), RIGHT_SMALLER).too_large()
            }
        })
    };
    let payload = read(bytes)?;
    if !is_compressed(&payload) {
        return Ok(payload);
    }
    let inflated = inflate(&payload).map_err(|e| match e {
        InflateError::Unreadable(what) => DecodeError::new(PublishPlace::Payload, what, RIGHT),
        InflateError::TooLarge => {
            let what = format!("it holds more than {MAX_INFLATED_BYTES} bytes once it is decompressed");
            DecodeError::new(PublishPlace::Payload, what, RIGHT_SMALLER).too_large()
        }
    })?;
    let payload = read(&inflated)?;
    if is_compressed(&payload) {
        return Err(DecodeError::new(PublishPlace::Payload, "it is compressed twice", RIGHT));
    }
    Ok(payload)
}

fn readings<'a>(
    device: &str,
    birth: Option<&Birth>,
    payload: Payload,
) -> Result<Found<'a>, Box<DecodeError>> {
    let mut found = Found { list: SmallVec::with_capacity(payload.metrics.len()), ..Found::default() };
    for (n, metric) in payload.metrics.into_iter().enumerate() {
        let wrong = |what: String, right: &str| Err(DecodeError::new(PublishPlace::Record(n), what, right));
        let mut skip = |name: String, why| {
            let device = Cow::Owned(device.into());
            found.skipped.push(Skipped { device, name: Cow::Owned(name), why });
        };
        let (stream, born_as) = match (metric.name, metric.alias) {
            (Some(name), _) if !name.is_empty() => {
                let born_as = birth.and_then(|b| b.datatype(&name));
                (name, born_as)
            }
            (_, Some(alias)) => match birth.and_then(|b| b.alias(alias)) {
                Some((name, datatype)) => (name.to_string(), Some(datatype)),
                None => {
                    skip(format!("alias {alias}"), SkipReason::UnknownAlias);
                    continue;
                }
            },
            _ => return wrong("the metric has neither name nor alias".into(), RIGHT),
        };
        if stream == BD_SEQ || stream.starts_with("Node Control/") || stream.starts_with("Device Control/") {
            found.steers = true;
            continue;
        }
        let datatype = metric.datatype.or(born_as).unwrap_or(0);
        let value = match &metric.value {
            _ if metric.is_null == Some(true) => Err(SkipReason::Null),
            _ if metric.is_transient == Some(true) => Err(SkipReason::Transient),
            _ if metric.is_historical == Some(true) && metric.timestamp.is_none() => {
                Err(SkipReason::HistoricalWithoutTime)
            }
            None => Err(without_value(datatype)),
            Some(value) => number(value, datatype),
        };
        let value = match value {
            Ok(value) if check_name("metric", &stream, || PublishPlace::Record(n)).is_ok() => value,
            Ok(_) => {
                skip(stream, SkipReason::BadName);
                continue;
            }
            Err(why) => {
                skip(stream, why);
                continue;
            }
        };
        let time = match metric.timestamp.or(payload.timestamp) {
            Some(ms) => match i64::try_from(ms).ok().and_then(EpochMs::in_range) {
                Some(time) => Some(time),
                None => {
                    return wrong(format!("timestamp {ms} is after year 9999"), "send epoch milliseconds");
                }
            },
            None => None,
        };
        let (device, stream) = (Cow::Owned(device.into()), Cow::Owned(stream));
        found.list.push(DecodedReading { device, stream, time, value, seq: None, boot: None });
    }
    Ok(found)
}

/// Why a metric without a readable value that is not marked as null is not a reading.
fn without_value(datatype: u32) -> SkipReason {
    match datatype {
        data_type::DATA_SET | data_type::TEMPLATE => SkipReason::Structure,
        0 => SkipReason::Structure,
        _ => SkipReason::Null,
    }
}

/// The value of a metric if it is a finite number. Edge nodes differ in how far they extend the sign of short
/// integers, so bits beyond the type are ignored.
fn number(value: &MetricValue, datatype: u32) -> Result<f64, SkipReason> {
    use data_type as t;
    let other = || match datatype {
        0 => SkipReason::UnknownType,
        t::DATE_TIME => SkipReason::Time,
        _ => SkipReason::Structure,
    };
    let number = match *value {
        MetricValue::Int(v) => match datatype {
            t::INT8 => f64::from(v as u8 as i8),
            t::INT16 => f64::from(v as u16 as i16),
            t::INT32 | t::INT64 => f64::from(v as i32),
            t::UINT8 => f64::from(v as u8),
            t::UINT16 => f64::from(v as u16),
            t::UINT32 | t::UINT64 => f64::from(v),
            t::BOOLEAN => f64::from(v != 0),
            _ => return Err(other()),
        },
        MetricValue::Long(v) => match datatype {
            t::INT8 => f64::from(v as u8 as i8),
            t::INT16 => f64::from(v as u16 as i16),
            t::INT32 => f64::from(v as u32 as i32),
            t::INT64 => v as i64 as f64,
            t::UINT8 => f64::from(v as u8),
            t::UINT16 => f64::from(v as u16),
            t::UINT32 => f64::from(v as u32),
            t::UINT64 => v as f64,
            t::BOOLEAN => f64::from(v != 0),
            _ => return Err(other()),
        },
        MetricValue::Float(v) => f64::from(v),
        MetricValue::Double(v) => v,
        MetricValue::Boolean(v) => f64::from(v),
        MetricValue::Text(_) => return Err(SkipReason::Text),
        MetricValue::Bytes(_) => return Err(SkipReason::Bytes),
    };
    if number.is_finite() { Ok(number) } else { Err(SkipReason::NotFinite) }
}
