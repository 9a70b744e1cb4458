//! JSON payloads: one value with its time and sequence, an array of these, or an object of values.
//!
//! All forms read an object into a flat list of dotted keys and scalars, and pick what they want from it.

use super::topic_map::{Keys, TimeUnit};
use super::{
    DecodeError, DecodedReading, Found, MAX_READINGS_PER_PAYLOAD, Place, Target, error, error::cut, number,
};
use selvedge_shared::ids::MAX_NAME_BYTES;
use selvedge_shared::time::EpochMs;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;

/// How deep objects may be nested, the outermost counted.
pub const MAX_OBJECT_DEPTH: usize = 8;

/// So many keys are sooner compared with each other than sorted.
const FEW_FIELDS_ENTRIES: usize = 8;

const RIGHT_ONE: &str =
    r#"send a number, or {"value":21.5,"ts":1764000000000,"seq":7}, or an array of these"#;
const RIGHT_OBJECT: &str = r#"send an object of numbers such as {"temp":21.5,"ts":1764000000000}"#;
const RIGHT_TIME: &str =
    "send epoch milliseconds (or the unit that the topic's rule sets) or RFC 3339, of years 1 to 9999";
const RIGHT_COUNT: &str = "send a whole number of 0 to 18446744073709551615";

/// Whether a payload starts as an object or an array.
pub(super) fn looks_like_json(payload: &[u8]) -> bool {
    matches!(payload.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// One value, or an array of values of the same stream.
pub(super) fn decode<'a>(
    target: &Target<'_, 'a>,
    device: Cow<'a, str>,
    payload: &'a [u8],
) -> Result<Found<'a>, Box<DecodeError>> {
    let stream = target.stream(Cow::Borrowed(""))?;
    let keys = &target.rule.keys;
    let reading = |doc: Doc<'a>, device: Cow<'a, str>, stream: Cow<'a, str>| match doc {
        Doc::Scalar(scalar) => {
            let value = value_of(&scalar, || Place::Payload)?;
            Ok(DecodedReading { device, stream, time: None, value, seq: None, boot: None })
        }
        Doc::Object(fields) => {
            let meta = Meta::of(&fields, keys)?;
            let missing = || {
                DecodeError::new(Place::Key(keys.value.clone()), "the key of the value is missing", RIGHT_ONE)
            };
            let field = fields.iter().find(|f| f.path == keys.value).ok_or_else(missing)?;
            let value = value_of(&field.scalar, || Place::Key(keys.value.clone()))?;
            Ok(DecodedReading { device, stream, time: meta.time, value, seq: meta.seq, boot: meta.boot })
        }
        Doc::Array(_) => Err(DecodeError::new(Place::Payload, "an array within an array", RIGHT_ONE)),
    };
    let list = match parse(payload, RIGHT_ONE)? {
        Doc::Array(docs) => {
            let each = docs.into_iter().enumerate();
            let each = each.map(|(n, doc)| {
                reading(doc, device.clone(), stream.clone()).map_err(|mut e| {
                    e.what = format!("{} ({})", e.what, e.place);
                    e.place = Place::Record(n);
                    e
                })
            });
            each.collect::<Result<Vec<_>, _>>()?
        }
        doc => vec![reading(doc, device, stream)?],
    };
    Ok(Found { list, skipped: 0 })
}

/// One reading a key.
pub(super) fn decode_object<'a>(
    target: &Target<'_, 'a>,
    device: Cow<'a, str>,
    payload: &'a [u8],
) -> Result<Found<'a>, Box<DecodeError>> {
    let Doc::Object(fields) = parse(payload, RIGHT_OBJECT)? else {
        return Err(DecodeError::new(Place::Payload, "it is no JSON object", RIGHT_OBJECT));
    };
    let keys = &target.rule.keys;
    let Meta { time, seq, boot } = Meta::of(&fields, keys)?;
    let mut found = Found { list: Vec::with_capacity(fields.len()), skipped: 0 };
    for Field { path, scalar } in fields {
        if path == keys.time || path == keys.seq || path == keys.boot {
            continue;
        }
        if let Scalar::Text(_) | Scalar::Null | Scalar::Array = scalar {
            found.skipped += 1;
            continue;
        }
        let value = value_of(&scalar, || Place::Key(path.to_string()))?;
        let stream = target.stream(path)?;
        found.list.push(DecodedReading { device: device.clone(), stream, time, value, seq, boot });
    }
    Ok(found)
}

/// What an object says of all its values.
struct Meta {
    time: Option<EpochMs>,
    seq: Option<u64>,
    boot: Option<u64>,
}

impl Meta {
    fn of(fields: &[Field<'_>], keys: &Keys) -> Result<Self, Box<DecodeError>> {
        let mut meta = Self { time: None, seq: None, boot: None };
        for Field { path, scalar } in fields {
            if matches!(scalar, Scalar::Null) {
                continue;
            }
            let wrong = |what: &str, right| Err(DecodeError::new(Place::Key(path.to_string()), what, right));
            if *path == keys.time {
                meta.time = time_of(scalar, keys.time_unit);
                if meta.time.is_none() {
                    return wrong("it is no time", RIGHT_TIME);
                }
            } else if *path == keys.seq || *path == keys.boot {
                let Some(count) = count_of(scalar) else { return wrong("it is no count", RIGHT_COUNT) };
                *(if *path == keys.seq { &mut meta.seq } else { &mut meta.boot }) = Some(count);
            }
        }
        Ok(meta)
    }
}

fn value_of(scalar: &Scalar<'_>, place: impl FnOnce() -> Place) -> Result<f64, Box<DecodeError>> {
    let value = match scalar {
        Scalar::Int(n) => Some(*n as f64),
        Scalar::Uint(n) => Some(*n as f64),
        Scalar::Float(x) => Some(*x),
        Scalar::Bool(b) => Some(f64::from(*b)),
        Scalar::Text(text) => number::parse(text.trim_ascii()),
        Scalar::Null | Scalar::Array => None,
    };
    let value = value.filter(|v| v.is_finite());
    value.ok_or_else(|| DecodeError::new(place(), "the value is no finite number", RIGHT_ONE))
}

/// A whole number; also written as 7.0, as some interpreters do, as far as doubles are exact.
fn count_of(scalar: &Scalar<'_>) -> Option<u64> {
    match scalar {
        Scalar::Uint(n) => Some(*n),
        Scalar::Int(n) => u64::try_from(*n).ok(),
        Scalar::Float(x) if x.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(x) => {
            Some(*x as u64)
        }
        Scalar::Text(text) => text.parse().ok(),
        _ => None,
    }
}

fn time_of(scalar: &Scalar<'_>, unit: TimeUnit) -> Option<EpochMs> {
    match scalar {
        Scalar::Int(n) => whole_time(*n, unit),
        Scalar::Uint(n) => whole_time(i64::try_from(*n).ok()?, unit),
        Scalar::Float(x) => {
            let scale = match settled(unit, x.abs()) {
                TimeUnit::S => 1_000.0,
                TimeUnit::Us => 1e-3,
                TimeUnit::Ns => 1e-6,
                TimeUnit::Ms | TimeUnit::Auto => 1.0,
            };
            EpochMs::in_range((x * scale).round() as i64) // a cast saturates, which is out of range
        }
        Scalar::Text(text) => match text.parse() {
            Ok(n) => whole_time(n, unit),
            Err(_) => EpochMs::parse(text).ok(),
        },
        _ => None,
    }
}

fn whole_time(n: i64, unit: TimeUnit) -> Option<EpochMs> {
    EpochMs::in_range(match settled(unit, n.unsigned_abs() as f64) {
        TimeUnit::S => n.checked_mul(1_000)?,
        TimeUnit::Us => n.div_euclid(1_000),
        TimeUnit::Ns => n.div_euclid(1_000_000),
        TimeUnit::Ms | TimeUnit::Auto => n,
    })
}

fn settled(unit: TimeUnit, size: f64) -> TimeUnit {
    match unit {
        TimeUnit::Auto if size < 1e11 => TimeUnit::S,
        TimeUnit::Auto if size < 1e14 => TimeUnit::Ms,
        TimeUnit::Auto if size < 1e17 => TimeUnit::Us,
        TimeUnit::Auto => TimeUnit::Ns,
        unit => unit,
    }
}

#[derive(Debug)]
enum Scalar<'a> {
    Int(i64),
    Uint(u64),
    Float(f64),
    Bool(bool),
    Text(Cow<'a, str>),
    Null,
    /// Its content is passed over.
    Array,
}

#[derive(Debug)]
struct Field<'a> {
    path: Cow<'a, str>,
    scalar: Scalar<'a>,
}

#[derive(Debug)]
enum Doc<'a> {
    Scalar(Scalar<'a>),
    Object(Vec<Field<'a>>),
    Array(Vec<Doc<'a>>),
}

fn parse<'a>(payload: &'a [u8], right: &str) -> Result<Doc<'a>, Box<DecodeError>> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let mut left = MAX_READINGS_PER_PAYLOAD;
    let doc = Node { left: &mut left, outermost: true }.deserialize(&mut json);
    doc.and_then(|doc| json.end().map(|()| doc)).map_err(|e| syntax_error(&e, payload, right))
}

/// Tells a parser's error by the byte where it was met.
pub(super) fn syntax_error(e: &serde_json::Error, payload: &[u8], right: &str) -> Box<DecodeError> {
    let lines = payload.split_inclusive(|b| *b == b'\n').take(e.line().saturating_sub(1));
    let before: usize = lines.map(<[u8]>::len).sum();
    let at = (before + e.column().saturating_sub(1)).min(payload.len());
    let said = e.to_string();
    let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
    DecodeError::new(Place::Byte(at), error::parser_says(what), right)
}

fn too_many<E: Error>() -> E {
    E::custom(format!("more than {MAX_READINGS_PER_PAYLOAD} values"))
}

/// Takes one of the values that are left.
fn take<E: Error>(left: &mut usize) -> Result<(), E> {
    *left = left.checked_sub(1).ok_or_else(too_many)?;
    Ok(())
}

/// The document, or an element of an outermost array.
struct Node<'l> {
    left: &'l mut usize,
    outermost: bool,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Doc<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Doc<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// The visits that every scalar takes, each wrapped in `$wrap`.
macro_rules! scalars {
    ($value:ty, $self:ident, $scalar:ident => $wrap:expr) => {
        fn visit_bool<E: Error>($self, v: bool) -> Result<$value, E> {
            let $scalar = Scalar::Bool(v);
            $wrap
        }
        fn visit_i64<E: Error>($self, v: i64) -> Result<$value, E> {
            let $scalar = Scalar::Int(v);
            $wrap
        }
        fn visit_u64<E: Error>($self, v: u64) -> Result<$value, E> {
            let $scalar = Scalar::Uint(v);
            $wrap
        }
        fn visit_f64<E: Error>($self, v: f64) -> Result<$value, E> {
            let $scalar = Scalar::Float(v);
            $wrap
        }
        fn visit_borrowed_str<E: Error>($self, v: &'de str) -> Result<$value, E> {
            let $scalar = Scalar::Text(Cow::Borrowed(v));
            $wrap
        }
        fn visit_str<E: Error>($self, v: &str) -> Result<$value, E> {
            let $scalar = Scalar::Text(Cow::Owned(v.into()));
            $wrap
        }
        fn visit_unit<E: Error>($self) -> Result<$value, E> {
            let $scalar = Scalar::Null;
            $wrap
        }
    };
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Doc<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, an object or an array")
    }

    scalars!(Doc<'de>, self, scalar => {
        take(self.left)?;
        Ok(Doc::Scalar(scalar))
    });

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Doc<'de>, A::Error> {
        let mut fields = Vec::new();
        read_fields(&mut map, None, 1, &mut fields, self.left)?;
        match doubled(&fields) {
            Some(path) => Err(A::Error::custom(format!("key {:?} comes twice", cut(path.into(), 80)))),
            None => Ok(Doc::Object(fields)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Doc<'de>, A::Error> {
        if !self.outermost {
            return Err(A::Error::custom("an array within an array"));
        }
        let mut docs = Vec::new();
        while let Some(doc) = seq.next_element_seed(Node { left: &mut *self.left, outermost: false })? {
            // An empty object takes none of what is left.
            if docs.len() == MAX_READINGS_PER_PAYLOAD {
                return Err(too_many());
            }
            docs.push(doc);
        }
        Ok(Doc::Array(docs))
    }
}

/// A path that comes twice.
fn doubled<'f>(fields: &'f [Field<'_>]) -> Option<&'f str> {
    if fields.len() <= FEW_FIELDS_ENTRIES {
        let again = fields.iter().enumerate().find(|(n, f)| fields[..*n].iter().any(|e| e.path == f.path));
        return again.map(|(_, f)| f.path.as_ref());
    }
    let mut paths: Vec<&str> = fields.iter().map(|f| f.path.as_ref()).collect();
    paths.sort_unstable();
    paths.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}

fn read_fields<'de, A: MapAccess<'de>>(
    map: &mut A,
    parent: Option<&str>,
    depth: usize,
    fields: &mut Vec<Field<'de>>,
    left: &mut usize,
) -> Result<(), A::Error> {
    if depth > MAX_OBJECT_DEPTH {
        return Err(A::Error::custom(format!("objects are nested more than {MAX_OBJECT_DEPTH} deep")));
    }
    while let Some(key) = map.next_key_seed(Key)? {
        let path = match parent {
            Some(parent) => Cow::Owned(format!("{parent}.{key}")),
            None => key,
        };
        if path.len() > MAX_NAME_BYTES {
            return Err(A::Error::custom(format!("a key of more than {MAX_NAME_BYTES} bytes")));
        }
        map.next_value_seed(Inner { path, depth, fields: &mut *fields, left: &mut *left })?;
    }
    Ok(())
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E: Error>(self, v: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(v))
    }
    fn visit_str<E: Error>(self, v: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(v.into()))
    }
}

/// A value within an object.
struct Inner<'l, 'de> {
    path: Cow<'de, str>,
    depth: usize,
    fields: &'l mut Vec<Field<'de>>,
    left: &'l mut usize,
}

impl<'de> Inner<'_, 'de> {
    fn push<E: Error>(self, scalar: Scalar<'de>) -> Result<(), E> {
        take(self.left)?;
        self.fields.push(Field { path: self.path, scalar });
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Inner<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Inner<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    scalars!((), self, scalar => self.push(scalar));

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        read_fields(&mut map, Some(&self.path), self.depth + 1, self.fields, self.left)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        self.push(Scalar::Array)
    }
}
