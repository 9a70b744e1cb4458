//! SenML (RFC 8428) in JSON and CBOR.
//!
//! # Names
//! A pack is an array of records. A base field applies from its record on. A record's name is the base name
//! followed by its own name. If the topic names the device, the record's name is the stream; a base name that
//! only repeats the device is left out. Otherwise, the base name is the device, without a trailing `:`, `/`,
//! `.` or `-`, and the record's own name is the stream. A record whose name is entirely in one of these
//! fields is stream `value`.
//!
//! # Times and values
//! Times below 2^28 are relative to now. A record without any time has none, and gets the gateway's. If the
//! gateway's own clock is below 2^28, it was never set, and relative times are refused.
//! Texts (`vs`), data and sums without a value are not readings and are skipped by name, as are records with
//! names that SenML does not allow. Units are not kept. A label that ends in `_` must be understood, and the
//! decoder understands none; other unknown labels are ignored (RFC 8428, section 4.4).
//!
//! In CBOR, a number may also be a bignum, a decimal fraction or a bigfloat (tags 2 to 5; RFC 8428, section
//! 6). A time may have tag 1, which changes nothing, because that also counts seconds since 1970.

use super::error::{MORE_THAN, plain, syntax_error};
use super::excerpt::cut;
use super::{
    DecodeError, DecodedReading, Found, MAX_READINGS_PER_PAYLOAD, PublishPlace, SkipReason, Skipped, Target,
    is_name, number,
};
use ciborium::Value as Cbor;
use selvedge_types::time::EpochMs;
use serde::de::{
    Deserialize, Deserializer, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::fmt;

/// The highest version of SenML that the decoder reads.
const VERSION: f64 = 10.0;

/// Times below this many seconds are relative.
const RELATIVE_BELOW_S: f64 = 268_435_456.0;

/// The deepest nesting of CBOR.
const MAX_CBOR_DEPTH: usize = 32;

pub(super) const RIGHT: &str =
    r#"send a SenML pack such as [{"bn":"pump-7:","n":"temp","v":21.5}] (RFC 8428)"#;

/// Decodes a pack in JSON.
pub(super) fn decode_json<'a>(
    target: &Target<'_, 'a>,
    now: EpochMs,
    payload: &[u8],
) -> Result<Found<'a>, Box<DecodeError>> {
    let pack: Pack = serde_json::from_slice(payload).map_err(|e| syntax_error(&e, payload, RIGHT))?;
    resolve(target, now, pack)
}

/// Decodes a pack in CBOR.
pub(super) fn decode_cbor<'a>(
    target: &Target<'_, 'a>,
    now: EpochMs,
    payload: &[u8],
) -> Result<Found<'a>, Box<DecodeError>> {
    use ciborium::de::Error;
    let mut left = payload;
    let pack = ciborium::de::from_reader_with_recursion_limit(&mut left, MAX_CBOR_DEPTH).map_err(|e| {
        let wrong = |at: Option<usize>, what: String| {
            let e = DecodeError::new(at.map_or(PublishPlace::Payload, PublishPlace::Byte), what, RIGHT);
            if e.what.starts_with(MORE_THAN) { e.too_large() } else { e }
        };
        match e {
            Error::Io(_) => wrong(Some(payload.len()), "the payload ends too early".into()),
            Error::Syntax(at) => wrong(Some(at), "it is not CBOR".into()),
            Error::Semantic(at, what) => wrong(at, plain(&what)),
            Error::RecursionLimitExceeded => {
                wrong(None, format!("it is nested more than {MAX_CBOR_DEPTH} deep"))
            }
        }
    })?;
    if !left.is_empty() {
        return Err(DecodeError::new(
            PublishPlace::Byte(payload.len() - left.len()),
            "there is more after the pack",
            RIGHT,
        ));
    }
    resolve(target, now, pack)
}

/// Applies the base fields to the records (RFC 8428, section 4.6).
fn resolve<'a>(target: &Target<'_, 'a>, now: EpochMs, pack: Pack) -> Result<Found<'a>, Box<DecodeError>> {
    let by_topic = if target.rule.device.is_some() { Some(target.device()?) } else { None };
    let mut found = Found { list: SmallVec::with_capacity(pack.0.len()), ..Found::default() };
    let (mut base_name, mut base_time, mut base_value) = (String::new(), 0.0, 0.0);
    for (n, record) in pack.0.into_iter().enumerate() {
        let wrong = |what: String, right: &str| DecodeError::new(PublishPlace::Record(n), what, right);
        if let Some(version) = record.base_version
            && version > VERSION
        {
            return Err(wrong(format!("SenML version {version}"), "this gateway reads version 10"));
        }
        base_name = record.base_name.unwrap_or(base_name);
        base_time = record.base_time.unwrap_or(base_time);
        base_value = record.base_value.unwrap_or(base_value);
        let bare = record.name.is_none() && record.time.is_none();
        let value = match record.value.map(Item::by_rule) {
            Some(Item::Number(value)) if (base_value + value).is_finite() => Ok(base_value + value),
            Some(Item::Number(_)) => Err(SkipReason::NotFinite),
            Some(Item::Bool(value)) => Ok(f64::from(value)),
            Some(Item::Text(_)) => Err(SkipReason::Text),
            Some(Item::Other(why)) => Err(why),
            None if record.sum => Err(SkipReason::Sum),
            None if bare => continue, // the record only sets base fields
            None => Err(SkipReason::Null),
        };
        let name = record.name.unwrap_or_default();
        let allowed = senml_allows(&base_name, &name);
        let time = base_time + record.time.unwrap_or(0.0);
        let (device, key) = names(by_topic.as_ref(), &base_name, name);
        let named = match value {
            Ok(_) if !allowed => Err((Cow::Owned(key), SkipReason::SenmlName)),
            Ok(_) if !is_name(&device) => Err((Cow::Owned(key), SkipReason::BadName)),
            Ok(value) => match target.named(Cow::Owned(key)) {
                Ok(stream) => Ok((stream, value)),
                Err(name) => Err((name, SkipReason::BadName)),
            },
            Err(why) => Err((Cow::Owned(key), why)),
        };
        match named {
            Ok((stream, value)) => {
                let time = resolve_time(time, now).map_err(|(what, right)| wrong(what, right))?;
                found.list.push(DecodedReading { device, stream, time, value, seq: None, boot: None });
            }
            Err((name, why)) => found.skipped.push(Skipped { device, name, why }),
        }
    }
    Ok(found)
}

/// The device, and the key that names the stream.
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

/// Whether base name and name together are valid (RFC 8428, section 4.5.1).
fn senml_allows(base: &str, name: &str) -> bool {
    let mut bytes = base.bytes().chain(name.bytes());
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"-:./_".contains(&b))
}

const RIGHT_TIME: &str = "send seconds since 1970, or relative to now, of years 1 to 9999";
const RIGHT_CLOCK: &str = "send seconds since 1970, or no time";

/// The absolute time (RFC 8428, section 4.5.3). 0 means that the record has no time.
fn resolve_time(seconds: f64, now: EpochMs) -> Result<Option<EpochMs>, (String, &'static str)> {
    if seconds == 0.0 {
        return Ok(None);
    }
    let ms = (seconds * 1_000.0).round();
    // The casts saturate, and a saturated value is out of range.
    let at = if seconds >= RELATIVE_BELOW_S {
        ms as i64
    } else if (now.0 as f64) < RELATIVE_BELOW_S * 1_000.0 {
        return Err(("the time is relative to now, and this gateway's clock is not set".into(), RIGHT_CLOCK));
    } else {
        now.plus(ms as i64).0
    };
    match EpochMs::in_range(at) {
        Some(at) if seconds.is_finite() => Ok(Some(at)),
        _ => Err((format!("time {seconds} is out of range"), RIGHT_TIME)),
    }
}

struct Pack(Vec<Record>);

/// One record, without base fields applied.
#[derive(Default)]
struct Record {
    base_version: Option<f64>,
    base_name: Option<String>,
    base_time: Option<f64>,
    base_value: Option<f64>,
    name: Option<String>,
    time: Option<f64>,
    value: Option<Item>,
    sum: bool,
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
                            "{MORE_THAN} {MAX_READINGS_PER_PAYLOAD} records"
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
        let number = |map: &mut A| match map.next_value()? {
            Item::Number(n) => Ok(n),
            _ => Err(A::Error::custom("a base field or a time is not a number")),
        };
        let again = match label {
            Label::BaseVersion => record.base_version.replace(number(&mut map)?).is_some(),
            Label::BaseName => record.base_name.replace(map.next_value()?).is_some(),
            Label::BaseTime => record.base_time.replace(number(&mut map)?).is_some(),
            Label::BaseValue => record.base_value.replace(number(&mut map)?).is_some(),
            Label::Name => record.name.replace(map.next_value()?).is_some(),
            Label::Time => record.time.replace(number(&mut map)?).is_some(),
            Label::Value => record.value.replace(map.next_value()?).is_some(),
            Label::Text | Label::Data => {
                map.next_value::<Item>()?;
                let why = if matches!(label, Label::Text) { SkipReason::Text } else { SkipReason::Bytes };
                record.value.replace(Item::Other(why)).is_some()
            }
            Label::Sum => {
                map.next_value::<Item>()?;
                std::mem::replace(&mut record.sum, true)
            }
            Label::Unknown => {
                map.next_value::<Item>()?;
                false
            }
        };
        if again {
            return Err(A::Error::custom("a label, or a value, occurs twice in a record"));
        }
    }
    Ok(record)
}

/// The value of any label.
enum Item {
    Number(f64),
    Bool(bool),
    Text(String),
    Other(SkipReason),
}

impl Item {
    /// Applies the rule of all forms: a text may be a number.
    fn by_rule(self) -> Self {
        match self {
            Self::Text(text) => match number::parse(text.trim_ascii()) {
                Ok(value) => Self::Number(value),
                Err(why) => Self::Other(why),
            },
            item => item,
        }
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Items)
    }
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Item, E> {
        Ok(Item::Bool(v))
    }
    fn visit_i64<E: Error>(self, v: i64) -> Result<Item, E> {
        Ok(Item::Number(v as f64))
    }
    fn visit_u64<E: Error>(self, v: u64) -> Result<Item, E> {
        Ok(Item::Number(v as f64))
    }
    fn visit_i128<E: Error>(self, v: i128) -> Result<Item, E> {
        Ok(Item::Number(v as f64))
    }
    fn visit_u128<E: Error>(self, v: u128) -> Result<Item, E> {
        Ok(Item::Number(v as f64))
    }
    fn visit_f64<E: Error>(self, v: f64) -> Result<Item, E> {
        Ok(if v.is_finite() { Item::Number(v) } else { Item::Other(SkipReason::NotFinite) })
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<Item, E> {
        Ok(Item::Text(v.into()))
    }
    fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Item, E> {
        Ok(Item::Other(SkipReason::Bytes))
    }
    fn visit_unit<E: Error>(self) -> Result<Item, E> {
        Ok(Item::Other(SkipReason::Null))
    }
    fn visit_none<E: Error>(self) -> Result<Item, E> {
        Ok(Item::Other(SkipReason::Null))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
        while seq.next_element::<Item>()?.is_some() {}
        Ok(Item::Other(SkipReason::Array))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
        while map.next_entry::<Item, Item>()?.is_some() {}
        Ok(Item::Other(SkipReason::Object))
    }
    /// The CBOR reader presents a tag and its content as an enum.
    fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Item, A::Error> {
        data.variant::<IgnoredAny>()?.1.tuple_variant(2, Tagged)
    }
}

struct Tagged;

impl<'de> Visitor<'de> for Tagged {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value with a tag")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Item, A::Error> {
        let (tag, content) = (seq.next_element::<u64>()?, seq.next_element::<Cbor>()?);
        let tagged = tag.zip(content).map(|(tag, content)| Cbor::Tag(tag, Box::new(content)));
        Ok(match tagged.as_ref().and_then(tagged_number) {
            Some(value) if value.is_finite() => Item::Number(value),
            Some(_) => Item::Other(SkipReason::NotFinite),
            None => Item::Other(SkipReason::Structure),
        })
    }
}

/// A number with or without a tag (RFC 8949, section 3.4).
fn tagged_number(item: &Cbor) -> Option<f64> {
    match item {
        Cbor::Integer(n) => Some(i128::from(*n) as f64),
        Cbor::Float(x) => Some(*x),
        Cbor::Tag(1, content) => tagged_number(content),
        Cbor::Tag(2 | 3, _) => big(item).map(|(mantissa, shift)| scaled(mantissa as f64, shift)),
        Cbor::Tag(tag @ (4 | 5), content) => {
            let [exponent, mantissa] = content.as_array()?.as_slice() else { return None };
            let exponent = i32::try_from(i128::from(exponent.as_integer()?)).ok()?;
            let (mantissa, shift) = big(mantissa)?;
            match tag {
                // Formatting and parsing rounds only once.
                4 if shift == 0 => format!("{mantissa}e{exponent}").parse().ok(),
                4 => Some(scaled(mantissa as f64, shift) * 10f64.powi(exponent)),
                _ => Some(scaled(mantissa as f64, exponent.saturating_add(shift))),
            }
        }
        _ => None,
    }
}

/// An integer as its first 15 bytes, and the power of two to multiply them by.
fn big(item: &Cbor) -> Option<(i128, i32)> {
    let (negative, bytes) = match item {
        Cbor::Integer(n) => return Some(((*n).into(), 0)),
        Cbor::Tag(tag @ (2 | 3), content) => (*tag == 3, content.as_bytes()?),
        _ => return None,
    };
    let zeros = bytes.iter().take_while(|b| **b == 0).count();
    let bytes = &bytes[zeros..];
    let (first, rest) = bytes.split_at(bytes.len().min(15));
    let n = first.iter().fold(0i128, |n, b| n << 8 | i128::from(*b));
    let shift = i32::try_from(rest.len()).ok()?.checked_mul(8)?;
    Some((if negative { -1 - n } else { n }, shift))
}

/// `x` times two to the power of `exponent`, even if that power alone exceeds a double.
fn scaled(x: f64, exponent: i32) -> f64 {
    let half = exponent / 2;
    x * 2f64.powi(half) * 2f64.powi(exponent - half)
}

/// A label: a text in JSON, mostly a number in CBOR (RFC 8428, section 6).
enum Label {
    BaseVersion,
    BaseName,
    BaseTime,
    BaseValue,
    Name,
    Time,
    Value,
    Text,
    Data,
    Sum,
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
                    "v" | "vb" => Label::Value,
                    "vs" => Label::Text,
                    "vd" => Label::Data,
                    "s" => Label::Sum,
                    must if must.ends_with('_') => {
                        let label = cut(must.into(), 80);
                        return Err(E::custom(format!(
                            "label {label:?} must be understood, but this gateway does not know it"
                        )));
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
                    2 | 4 => Label::Value,
                    3 => Label::Text,
                    8 => Label::Data,
                    5 => Label::Sum,
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
