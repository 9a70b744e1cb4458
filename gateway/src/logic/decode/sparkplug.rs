//! Sparkplug B: births define metrics and their aliases, data messages give values.
//!
//! A topic is `spBv1.0/{group}/{type}/{edge node}` or `.../{edge node}/{device}`. Readings of an edge
//! node belong to device `group/edge node`, those of a device to `group/edge node/device` (a level holds no
//! `/`, so names can't clash); the stream is the metric's name.
//!
//! NBIRTH, DBIRTH, NDATA and DDATA hold readings. NDEATH and DDEATH hold none and forget what the birth
//! defined. NCMD, DCMD and STATE are only routed. `bdSeq` and the `Node Control/` and `Device Control/` metrics
//! steer the session and are no readings. Values that are null, no finite numbers, times, texts or
//! structures are skipped. `seq` counts an edge node's messages modulo 256 and starts again at every birth,
//! so it can't tell a resend from a new reading and is not used for it.
//!
//! Invariant: a data message by alias is read by the last birth of its edge node or device, or not at
//! all: an alias that is not known is an error that carries the rebirth command.
//!
//! Births live in the memory of the gateway that the edge node is connected to. An edge node that connects to
//! another gateway must send its births anew anyway (Sparkplug 3.0.0, chapter 5); after a restart of the
//! gateway under a connection that stays (a bridge), or if the births were more than
//! [`MAX_SPARKPLUG_STATE_BYTES`], the error's rebirth command brings them back.

use super::{DecodeError, DecodedReading, Found, MAX_READINGS_PER_PAYLOAD, Place, Rebirth, check_name};
use selvedge_shared::sparkplug::{Metric, NAMESPACE, Payload, Value, data_type};
use selvedge_shared::time::EpochMs;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// About how much memory all births together may take; those unused for longest are forgotten first.
pub const MAX_SPARKPLUG_STATE_BYTES: usize = 4 * 1024 * 1024;

/// What a birth, and each metric of it, is counted as beside its name.
const BIRTH_BYTES: usize = 256;
const METRIC_BYTES: usize = 128;

const RIGHT: &str = "send a Sparkplug B payload (Eclipse Sparkplug 3.0.0, chapter 6)";
const RIGHT_BIRTH: &str = "the edge node must send its births again: publish it the rebirth command";

/// What births have defined, by device name.
#[derive(Debug, Default)]
pub(super) struct Births {
    /// Ordered, so that the devices of an edge node follow it.
    known: BTreeMap<String, Birth>,
    bytes: usize,
    /// Counts messages, to tell what was used last.
    clock: u64,
}

#[derive(Debug, Default)]
struct Birth {
    used: u64,
    bytes: usize,
    aliases: BTreeMap<u64, (Arc<str>, u32)>,
    types: BTreeMap<Arc<str>, u32>,
}

/// The types of message that matter here.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Birth,
    Data,
    Death,
}

impl Births {
    /// Reads one message; `rest` is its topic from the group on. Nothing for messages that are only routed.
    pub(super) fn decode<'a>(
        &mut self,
        now: EpochMs,
        rest: &str,
        payload: &[u8],
    ) -> Result<Option<Found<'a>>, Box<DecodeError>> {
        let mut levels = rest.split('/');
        let group = levels.next().unwrap_or_default();
        let Some(kind) = levels.next() else { return Ok(None) };
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
            return Err(DecodeError::new(Place::Topic, "it is no Sparkplug B topic", right));
        }
        let node = format!("{group}/{edge}");
        let name = device.map_or_else(|| node.clone(), |device| format!("{node}/{device}"));
        check_name("device", &name, || Place::Topic)?;

        if kind == Kind::Death {
            self.forget(&name, !of_device);
            return Ok(Some(Found::default()));
        }
        let payload = Payload::read(payload, MAX_READINGS_PER_PAYLOAD)
            .map_err(|e| DecodeError::new(Place::Payload, e.to_string(), RIGHT))?;
        if kind == Kind::Birth {
            let birth = Birth::of(&payload.metrics, name.len())?;
            self.forget(&name, !of_device);
            self.learn(name.clone(), birth);
        }
        self.clock += 1;
        let mut birth = self.known.get_mut(&name);
        if let Some(birth) = &mut birth {
            birth.used = self.clock;
        }
        let found = readings(&name, birth.as_deref(), payload);
        found.map(Some).map_err(|mut e| {
            if e.right == RIGHT_BIRTH {
                let topic = format!("{NAMESPACE}/{group}/NCMD/{edge}");
                let payload = Payload::rebirth(u64::try_from(now.0).unwrap_or(0)).write();
                e.rebirth = Some(Rebirth { topic, payload });
            }
            e
        })
    }

    /// Forgets a birth, and of an edge node those of its devices.
    fn forget(&mut self, name: &str, with_devices: bool) {
        let mut gone: Vec<String> = self.known.contains_key(name).then(|| name.into()).into_iter().collect();
        if with_devices {
            let prefix = format!("{name}/");
            let after = self.known.range(prefix.clone()..).map(|(name, _)| name);
            gone.extend(after.take_while(|name| name.starts_with(&prefix)).cloned());
        }
        for name in gone {
            if let Some(birth) = self.known.remove(&name) {
                self.bytes -= birth.bytes;
            }
        }
    }

    fn learn(&mut self, name: String, birth: Birth) {
        while self.bytes + birth.bytes > MAX_SPARKPLUG_STATE_BYTES {
            let oldest = self.known.iter().min_by_key(|(_, birth)| birth.used).map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { break };
            self.forget(&oldest, false);
        }
        self.bytes += birth.bytes;
        self.known.insert(name, birth);
    }
}

impl Birth {
    fn of(metrics: &[Metric], name_bytes: usize) -> Result<Self, Box<DecodeError>> {
        let mut birth = Self { bytes: BIRTH_BYTES + name_bytes, ..Self::default() };
        for (n, metric) in metrics.iter().enumerate() {
            let Some(name) = &metric.name else {
                return Err(DecodeError::new(Place::Record(n), "a birth's metric has no name", RIGHT));
            };
            check_name("metric", name, || Place::Record(n))?;
            let name: Arc<str> = name.as_str().into();
            let datatype = metric.datatype.unwrap_or(0);
            birth.bytes += METRIC_BYTES + name.len();
            if let Some(alias) = metric.alias
                && birth.aliases.insert(alias, (name.clone(), datatype)).is_some()
            {
                let what = format!("alias {alias} stands for two metrics");
                return Err(DecodeError::new(
                    Place::Record(n),
                    what,
                    "give every metric an alias of its own",
                ));
            }
            birth.types.insert(name, datatype);
        }
        Ok(birth)
    }
}

fn readings<'a>(
    device: &str,
    birth: Option<&Birth>,
    payload: Payload,
) -> Result<Found<'a>, Box<DecodeError>> {
    let mut found = Found { list: Vec::with_capacity(payload.metrics.len()), skipped: 0 };
    for (n, metric) in payload.metrics.into_iter().enumerate() {
        let wrong = |what: String, right: &str| Err(DecodeError::new(Place::Record(n), what, right));
        let (stream, born_as) = match (metric.name, metric.alias) {
            (Some(name), _) if !name.is_empty() => {
                let born_as = birth.and_then(|b| b.types.get(name.as_str()).copied());
                (name, born_as)
            }
            (_, Some(alias)) => match birth.and_then(|b| b.aliases.get(&alias)) {
                Some((name, datatype)) => (name.to_string(), Some(*datatype)),
                None => return wrong(format!("alias {alias} of {device:?} is not known here"), RIGHT_BIRTH),
            },
            _ => return wrong("the metric has neither name nor alias".into(), RIGHT),
        };
        if stream == "bdSeq" || stream.starts_with("Node Control/") || stream.starts_with("Device Control/") {
            continue;
        }
        let Some(value) = metric.value.filter(|_| metric.is_null != Some(true)) else {
            found.skipped += 1;
            continue;
        };
        let datatype = metric.datatype.or(born_as).filter(|d| *d != 0);
        if datatype.is_none() && matches!(value, Value::Int(_) | Value::Long(_)) {
            return wrong(format!("the data type of {stream:?} is not known here"), RIGHT_BIRTH);
        }
        let Some(value) = number(&value, datatype.unwrap_or(0)) else {
            found.skipped += 1;
            continue;
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
        check_name("metric", &stream, || Place::Record(n))?;
        let (device, stream) = (Cow::Owned(device.into()), Cow::Owned(stream));
        found.list.push(DecodedReading { device, stream, time, value, seq: None, boot: None });
    }
    Ok(found)
}

/// A metric's value, if it is a finite number. Edge nodes differ in how far they extend the sign of short
/// integers, so the bits beyond the type are ignored.
fn number(value: &Value, datatype: u32) -> Option<f64> {
    use data_type as t;
    let number = match *value {
        Value::Int(v) => match datatype {
            t::INT8 => f64::from(v as u8 as i8),
            t::INT16 => f64::from(v as u16 as i16),
            t::INT32 => f64::from(v as i32),
            t::INT64 => f64::from(v as i32),
            t::UINT8 | t::UINT16 | t::UINT32 | t::UINT64 => f64::from(v),
            t::BOOLEAN => f64::from(v != 0),
            _ => return None,
        },
        Value::Long(v) => match datatype {
            t::INT8 => f64::from(v as u8 as i8),
            t::INT16 => f64::from(v as u16 as i16),
            t::INT32 => f64::from(v as u32 as i32),
            t::INT64 => v as i64 as f64,
            t::UINT8 | t::UINT16 | t::UINT32 | t::UINT64 => v as f64,
            _ => return None,
        },
        Value::Float(v) => f64::from(v),
        Value::Double(v) => v,
        Value::Boolean(v) => f64::from(v),
        Value::Text(_) | Value::Bytes(_) => return None,
    };
    number.is_finite().then_some(number)
}
