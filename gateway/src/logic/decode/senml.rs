//! SenML (RFC 8428) in JSON and CBOR.
//!
//! A pack is an array of records. Base fields hold from their record on. A record's name is base name and
//! name together. Where the topic names the device, that name is the stream (without the base name if that
//! is just the device again). Where it does not, the base name is the device (without the `:`, `/`, `.`
//! or `-` it ends in) and the name the stream; a record whose name is all in one field is stream `value`.
//!
//! Times below 2^28 are relative to now; a record without any time has none, so that the gateway's counts.
//! Texts, data and pure sums are no readings: skipped. Units are not kept. Labels that end in `_` must
//! be understood, and none is; other unknown labels are passed over (RFC 8428, section 4.4).

use super::json::syntax_error;
use super::{
    DecodeError, DecodedReading, Found, MAX_READINGS_PER_PAYLOAD, Place, Target, check_name, error,
    error::cut,
};
use selvedge_shared::time::EpochMs;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// The version of SenML that is read.
const VERSION: f64 = 10.0;

/// Times below this many seconds are relative.
const RELATIVE_BELOW_S: f64 = 268_435_456.0;

/// How deep CBOR may be nested.
const MAX_CBOR_DEPTH: usize = 32;

const RIGHT: &str = r#"send a SenML pack such as [{"bn":"pump-7:","n":"temp","v":21.5}] (RFC 8428)"#;

/// A pack in JSON.
pub(super) fn decode_json<'a>(
    target: &Target<'_, 'a>,
    now: EpochMs,
    payload: &[u8],
) -> Result<Found<'a>, Box<DecodeError>> {
    let pack: Pack = serde_json::from_slice(payload).map_err(|e| syntax_error(&e, payload, RIGHT))?;
    resolve(target, now, pack)
}

/// A pack in CBOR.
pub(super) fn decode_cbor<'a>(
    target: &Target<'_, 'a>,
    now: EpochMs,
    payload: &[u8],
) -> Result<Found<'a>, Box<DecodeError>> {
    use ciborium::de::Error;
    let mut left = payload;
    let pack = ciborium::de::from_reader_with_recursion_limit(&mut left, MAX_CBOR_DEPTH).map_err(|e| {
        let wrong = |at: Option<usize>, what: String| {
            DecodeError::new(at.map_or(Place::Payload, Place::Byte), what, RIGHT)
        };
        match e {
            Error::Io(_) => wrong(Some(payload.len()), "the payload ends too early".into()),
            Error::Syntax(at) => wrong(Some(at), "it is no CBOR".into()),
            Error::Semantic(at, what) => wrong(at, error::parser_says(&what)),
            Error::RecursionLimitExceeded => {
                wrong(None, format!("it is nested more than {MAX_CBOR_DEPTH} deep"))
            }
        }
    })?;
    if !left.is_empty() {
        return Err(DecodeError::new(
            Place::Byte(payload.len() - left.len()),
            "something follows the pack",
            RIGHT,
        ));
    }
    resolve(target, now, pack)
}

/// Applies the base fields (RFC 8428, section 4.6).
fn resolve<'a>(target: &Target<'_, 'a>, now: EpochMs, pack: Pack) -> Result<Found<'a>, Box<DecodeError>> {
    let by_topic = if target.rule.device.is_some() { Some(target.device()?) } else { None };
    let mut found = Found { list: Vec::with_capacity(pack.0.len()), skipped: 0 };
    let (mut base_name, mut base_time, mut base_value) = (String::new(), 0.0, 0.0);
    for (n, record) in pack.0.into_iter().enumerate() {
        let wrong = |what: String, right: &str| DecodeError::new(Place::Record(n), what, right);
        if let Some(Number(version)) = record.base_version
            && version > VERSION
        {
            return Err(wrong(format!("SenML version {version}"), "version 10 is read"));
        }
        base_name = record.base_name.unwrap_or(base_name);
        base_time = record.base_time.map_or(base_time, |n| n.0);
        base_value = record.base_value.map_or(base_value, |n| n.0);
        let value = match record.value {
            Value::Number(value) => base_value + value,
            Value::Bool(value) => f64::from(value),
            Value::Other | Value::None => {
                found.skipped += 1;
                continue;
            }
        };
        if !value.is_finite() {
            return Err(wrong("the value is not finite".into(), "send numbers within a double's range"));
        }
        let name = record.name.unwrap_or_default();
        check_senml_name(&base_name, &name).map_err(|what| wrong(what, RIGHT))?;
        let time = time(base_time + record.time.map_or(0.0, |n| n.0), now)
            .map_err(|what| wrong(what, "send seconds since 1970, or relative to now, of years 1 to 9999"))?;
        let (device, key) = names(by_topic.as_ref(), &base_name, name);
        check_name("device", &device, || Place::Record(n))?;
        let stream = target.stream(Cow::Owned(key))?;
        found.list.push(DecodedReading { device, stream, time, value, seq: None, boot: None });
    }
    Ok(found)
}

/// The device and the stream's key.
fn names<'a>(by_topic: Option<&Cow<'a, str>>, base: &str, name: String) -> (Cow<'a, str>, String) {
    let bare = base.trim_end_matches([':', '/', '.', '-']);
    let or_value = |name: String| if name.is_empty() { "value".into() } else { name };
    match by_topic {
        Some(device) if **device == *bare || **device == *base => (device.clone(), or_value(name)),
        Some(device) => (device.clone(), format!("{base}{name}")),
        None if bare.is_empty() => (Cow::Owned(name), "value".into()),
        None => (Cow::Owned(bare.into()), or_value(name)),
    }
}

/// RFC 8428, section 4.5.1.
fn check_senml_name(base: &str, name: &str) -> Result<(), String> {
    let mut bytes = base.bytes().chain(name.bytes());
    let Some(first) = bytes.next() else { return Err("it has neither bn nor n".into()) };
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"-:./_".contains(&b);
    if first.is_ascii_alphanumeric() && bytes.all(rest) {
        return Ok(());
    }
    let name = cut(format!("{}{}", cut(base.into(), 80), cut(name.into(), 80)), 80);
    Err(format!("name {name:?} does not start with a letter or digit, or holds more than those and -:./_"))
}

/// RFC 8428, section 4.5.3. No time at all is no time.
fn time(seconds: f64, now: EpochMs) -> Result<Option<EpochMs>, String> {
    if seconds == 0.0 {
        return Ok(None);
    }
    let ms = (seconds * 1_000.0).round();
    // The cast saturates, and NaN becomes 0; the range says no to both ends, and a NaN is not `<` anything.
    let at = if seconds < RELATIVE_BELOW_S { now.plus(ms as i64).0 } else { ms as i64 };
    match EpochMs::in_range(at) {
        Some(at) if seconds.is_finite() => Ok(Some(at)),
        _ => Err(format!("time {seconds} is out of range")),
    }
}

struct Pack(Vec<Record>);

/// One record as it stands, base fields not applied.
#[derive(Default)]
struct Record {
    base_version: Option<Number>,
    base_name: Option<String>,
    base_time: Option<Number>,
    base_value: Option<Number>,
    name: Option<String>,
    time: Option<Number>,
    value: Value,
}

#[derive(Default, PartialEq)]
enum Value {
    #[default]
    None,
    Number(f64),
    Bool(bool),
    /// A text or data.
    Other,
}

impl<'de> Deserialize<'de> for Pack {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Records;
        impl<'de> Visitor<'de> for Records {
            type Value = Pack;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of SenML records")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Pack, A::Error> {
                let mut records = Vec::new();
                while let Some(record) = seq.next_element()? {
                    if records.len() == MAX_READINGS_PER_PAYLOAD {
                        return Err(A::Error::custom(format!(
                            "more than {MAX_READINGS_PER_PAYLOAD} records"
                        )));
                    }
                    records.push(record);
                }
                Ok(Pack(records))
            }
        }
        deserializer.deserialize_seq(Records)
    }
}

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Record;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a SenML record")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Record, A::Error> {
                read_record(map)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

fn read_record<'de, A: MapAccess<'de>>(mut map: A) -> Result<Record, A::Error> {
    let mut record = Record::default();
    while let Some(label) = map.next_key::<Label>()? {
        let twice = |was_there: bool| {
            if was_there {
                Err(A::Error::custom("a label, or a value, comes twice in a record"))
            } else {
                Ok(())
            }
        };
        let value = match label {
            Label::BaseVersion => {
                twice(record.base_version.replace(map.next_value()?).is_some())?;
                continue;
            }
            Label::BaseName => {
                twice(record.base_name.replace(map.next_value()?).is_some())?;
                continue;
            }
            Label::BaseTime => {
                twice(record.base_time.replace(map.next_value()?).is_some())?;
                continue;
            }
            Label::BaseValue => {
                twice(record.base_value.replace(map.next_value()?).is_some())?;
                continue;
            }
            Label::Name => {
                twice(record.name.replace(map.next_value()?).is_some())?;
                continue;
            }
            Label::Time => {
                twice(record.time.replace(map.next_value()?).is_some())?;
                continue;
            }
            Label::Number => Value::Number(map.next_value::<Number>()?.0),
            Label::Bool => Value::Bool(map.next_value()?),
            Label::Other => {
                map.next_value::<IgnoredAny>()?;
                Value::Other
            }
            Label::Unknown => {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
        };
        twice(std::mem::replace(&mut record.value, value) != Value::None)?;
    }
    Ok(record)
}

/// A number of any kind; CBOR writes whole ones as integers.
struct Number(f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Numbers;
        impl Visitor<'_> for Numbers {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }
            fn visit_i64<E: Error>(self, v: i64) -> Result<Number, E> {
                Ok(Number(v as f64))
            }
            fn visit_u64<E: Error>(self, v: u64) -> Result<Number, E> {
                Ok(Number(v as f64))
            }
            fn visit_f64<E: Error>(self, v: f64) -> Result<Number, E> {
                Ok(Number(v))
            }
        }
        deserializer.deserialize_any(Numbers)
    }
}

/// A label: a text in JSON, mostly a number in CBOR (RFC 8428, section 6).
enum Label {
    BaseVersion,
    BaseName,
    BaseTime,
    BaseValue,
    Name,
    Time,
    Number,
    Bool,
    Other,
    Unknown,
}

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Labels;
        impl Visitor<'_> for Labels {
            type Value = Label;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a SenML label")
            }
            fn visit_str<E: Error>(self, label: &str) -> Result<Label, E> {
                Ok(match label {
                    "bver" => Label::BaseVersion,
                    "bn" => Label::BaseName,
                    "bt" => Label::BaseTime,
                    "bv" => Label::BaseValue,
                    "n" => Label::Name,
                    "t" => Label::Time,
                    "v" => Label::Number,
                    "vb" => Label::Bool,
                    "vs" | "vd" => Label::Other,
                    must if must.ends_with('_') => {
                        let label = cut(must.into(), 80);
                        return Err(E::custom(format!("label {label:?} must be understood, but is not")));
                    }
                    _ => Label::Unknown,
                })
            }
            fn visit_i64<E: Error>(self, label: i64) -> Result<Label, E> {
                Ok(match label {
                    -1 => Label::BaseVersion,
                    -2 => Label::BaseName,
                    -3 => Label::BaseTime,
                    -5 => Label::BaseValue,
                    0 => Label::Name,
                    6 => Label::Time,
                    2 => Label::Number,
                    4 => Label::Bool,
                    3 | 8 => Label::Other,
                    _ => Label::Unknown,
                })
            }
            fn visit_u64<E: Error>(self, label: u64) -> Result<Label, E> {
                self.visit_i64(i64::try_from(label).unwrap_or(i64::MAX))
            }
        }
        deserializer.deserialize_any(Labels)
    }
}
