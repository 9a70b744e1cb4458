//! JSON payloads: one value with its time and sequence, an array of these, or an object of values.
//!
//! All forms read an object into a flat list of dotted keys and scalars, and pick what they need from it. The
//! elements of a short array of single values are fields too: `{"a":[7,0]}` is `a.0` and `a.1`. Other arrays
//! are skipped by name, because a position in a long array, or in one of objects, rarely is a stream.

use super::error::{MORE_THAN, syntax_error};
use super::excerpt::cut;
use super::scalar::Scalar;
use super::time::time_of;
use super::topic_map::Keys;
use super::{
    DecodeError, DecodedReading, Found, MAX_READINGS_PER_PAYLOAD, PublishPlace, SkipReason, Skipped, Target,
    number,
};
use selvedge_types::ids::MAX_NAME_BYTES;
use selvedge_types::time::EpochMs;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use smallvec::{SmallVec, smallvec};
use std::borrow::Cow;
use std::fmt;

/// The deepest nesting of objects, including the outermost one. What is nested deeper is skipped.
pub const MAX_OBJECT_DEPTH: usize = 8;

/// The longest array within an object whose elements become fields.
pub const MAX_ARRAY_ENTRIES: usize = 16;

/// Up to this many keys, comparing each with each is quicker than sorting.
const FEW_FIELDS_ENTRIES: usize = 8;

pub(super) const RIGHT_ONE: &str =
    r#"send a number, or {"value":21.5,"ts":1764000000000,"seq":7}, or an array of these"#;
pub(super) const RIGHT_OBJECT: &str = r#"send an object of numbers such as {"temp":21.5,"ts":1764000000000}"#;
const RIGHT_COUNT: &str = "send a whole number of 0 to 18446744073709551615";

/// Whether a payload begins like an object, an array or a text.
pub(super) fn looks_like_json(payload: &[u8]) -> bool {
    matches!(payload.trim_ascii_start().first(), Some(b'{' | b'[' | b'"'))
}

/// One value, or an array of values of the same stream.
pub(super) fn decode<'a>(
    target: &Target<'_, 'a>,
    device: Cow<'a, str>,
    payload: &'a [u8],
) -> Result<Found<'a>, Box<DecodeError>> {
    let stream = target.stream()?;
    let keys = &target.rule.keys;
    match parse(payload, RIGHT_ONE)? {
        Doc::Array(docs) => {
            let mut found = Found { list: SmallVec::with_capacity(docs.len()), ..Found::default() };
            for (n, doc) in docs.into_iter().enumerate() {
                let one = one(keys, &doc).map_err(|mut e| {
                    e.what = format!("{} ({})", e.what, e.place);
                    e.place = PublishPlace::Record(n);
                    e
                })?;
                match one {
                    Ok((value, Meta { time, seq, boot })) => {
                        let (device, stream) = (device.clone(), stream.clone());
                        found.list.push(DecodedReading { device, stream, time, value, seq, boot });
                    }
                    Err(NoNumber { why, .. }) => {
                        found.skipped.push(Skipped { device: device.clone(), name: stream.clone(), why });
                    }
                }
            }
            Ok(found)
        }
        doc => match one(keys, &doc)? {
            Ok((value, Meta { time, seq, boot })) => {
                let list = smallvec![DecodedReading { device, stream, time, value, seq, boot }];
                Ok(Found { list, ..Found::default() })
            }
            Err(NoNumber { place, why, what }) => {
                let mut e = DecodeError::new(place, what, RIGHT_ONE);
                e.skipped.push(Skipped { device, name: stream, why }.into_owned());
                Err(e)
            }
        },
    }
}

/// Why there is no number where a value belongs.
struct NoNumber {
    place: PublishPlace,
    why: SkipReason,
    what: String,
}

/// The value of a document that represents one reading, with its time and sequence.
fn one(keys: &Keys, doc: &Doc<'_>) -> Result<Result<(f64, Meta), NoNumber>, Box<DecodeError>> {
    let (scalar, meta) = match doc {
        Doc::Scalar(scalar) => (scalar, Meta::default()),
        Doc::Array(_) => (&Scalar::Skip(SkipReason::Array), Meta::default()),
        Doc::Object(fields) => {
            let meta = Meta::of(fields, keys)?;
            match fields.iter().find(|f| f.path == keys.value) {
                Some(field) => (&field.scalar, meta),
                None => return Ok(Err(without_value(keys, fields))),
            }
        }
    };
    Ok(match value_of(scalar) {
        Ok(value) => Ok((value, meta)),
        Err(why) => {
            let place = match doc {
                Doc::Object(_) => PublishPlace::Key(cut(keys.value.clone(), 80)),
                _ => PublishPlace::Payload,
            };
            Err(NoNumber { place, why, what: scalar.what_is_wrong(why) })
        }
    })
}

/// An object whose value key is missing, or holds an object or an array.
fn without_value(keys: &Keys, fields: &[Field<'_>]) -> NoNumber {
    let below =
        |f: &Field<'_>| f.path.strip_prefix(keys.value.as_str()).is_some_and(|rest| rest.starts_with('.'));
    let (why, what) = match fields.iter().any(below) {
        true => (SkipReason::Object, "the value is an object or an array"),
        false => (SkipReason::Null, "the key of the value is missing"),
    };
    NoNumber { place: PublishPlace::Key(cut(keys.value.clone(), 80)), why, what: what.into() }
}

/// One reading for each key.
pub(super) fn decode_object<'a>(
    target: &Target<'_, 'a>,
    device: Cow<'a, str>,
    payload: &'a [u8],
) -> Result<Found<'a>, Box<DecodeError>> {
    let Doc::Object(fields) = parse(payload, RIGHT_OBJECT)? else {
        return Err(DecodeError::new(PublishPlace::Payload, "it is not a JSON object", RIGHT_OBJECT));
    };
    let keys = &target.rule.keys;
    let Meta { time, seq, boot } = Meta::of(&fields, keys)?;
    let mut found = Found { list: SmallVec::with_capacity(fields.len()), ..Found::default() };
    for Field { path, scalar } in fields {
        if keys.is_time(&path) || path == keys.seq || path == keys.boot {
            continue;
        }
        let named = match value_of(&scalar) {
            Ok(value) => {
                target.named(path).map(|stream| (stream, value)).map_err(|n| (n, SkipReason::BadName))
            }
            Err(why) => Err((path, why)),
        };
        match named {
            Ok((stream, value)) => {
                found.list.push(DecodedReading { device: device.clone(), stream, time, value, seq, boot });
            }
            Err((name, why)) => found.skipped.push(Skipped { device: device.clone(), name, why }),
        }
    }
    Ok(found)
}

/// The fields of an object that apply to all its values.
#[derive(Default)]
struct Meta {
    time: Option<EpochMs>,
    seq: Option<u64>,
    boot: Option<u64>,
}

impl Meta {
    fn of(fields: &[Field<'_>], keys: &Keys) -> Result<Self, Box<DecodeError>> {
        let mut meta = Self::default();
        for Field { path, scalar } in fields {
            if matches!(scalar, Scalar::Null) {
                continue;
            }
            let place = || PublishPlace::Key(path.to_string());
            if keys.is_time(path) {
                let time = time_of(scalar, keys.time_unit);
                let time = time.map_err(|(what, right)| DecodeError::new(place(), what, right))?;
                // If both time keys are present, the one in the rule counts, wherever it stands.
                if *path == keys.time || meta.time.is_none() {
                    meta.time = Some(time);
                }
            } else if *path == keys.seq || *path == keys.boot {
                let count = count_of(scalar);
                let wrong =
                    || DecodeError::new(place(), "it is not a whole number of 0 or more", RIGHT_COUNT);
                *(if *path == keys.seq { &mut meta.seq } else { &mut meta.boot }) =
                    Some(count.ok_or_else(wrong)?);
            }
        }
        Ok(meta)
    }
}

/// Converts a scalar by the rule for all forms: a finite number, true or false, or a text of one of these.
fn value_of(scalar: &Scalar<'_>) -> Result<f64, SkipReason> {
    let value = match scalar {
        Scalar::Int(n) => *n as f64,
        Scalar::Uint(n) => *n as f64,
        Scalar::Float(x) => *x,
        Scalar::Bool(b) => f64::from(*b),
        Scalar::Text(text) => number::parse(text.trim_ascii())?,
        Scalar::Null => return Err(SkipReason::Null),
        Scalar::Skip(why) => return Err(*why),
    };
    if value.is_finite() { Ok(value) } else { Err(SkipReason::NotFinite) }
}

/// A whole number of 0 or more. Some interpreters write 7.0, which is accepted as far as doubles are exact.
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

fn too_many<E: Error>() -> E {
    E::custom(format!("{MORE_THAN} {MAX_READINGS_PER_PAYLOAD} values"))
}

/// Uses up one of the values that the payload may still hold.
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

/// Defines the visitor methods of all scalars, each of which ends in `$wrap`.
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
            Some(path) => Err(A::Error::custom(format!("key {:?} occurs twice", cut(path.into(), 80)))),
            None => Ok(Doc::Object(fields)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Doc<'de>, A::Error> {
        if !self.outermost {
            take(self.left)?;
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Doc::Scalar(Scalar::Skip(SkipReason::Array)));
        }
        let mut docs = Vec::new();
        while let Some(doc) = seq.next_element_seed(Node { left: &mut *self.left, outermost: false })? {
            // Empty objects use up no values, so the elements are counted as well.
            if docs.len() == MAX_READINGS_PER_PAYLOAD {
                return Err(too_many());
            }
            docs.push(doc);
        }
        Ok(Doc::Array(docs))
    }
}

/// A path that occurs more than once.
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
    while let Some(key) = map.next_key_seed(Key)? {
        let path = match parent {
            Some(parent) => Cow::Owned(format!("{parent}.{key}")),
            None => key,
        };
        if path.len() > MAX_NAME_BYTES {
            map.next_value::<IgnoredAny>()?;
            take(left)?;
            let path = Cow::Owned(cut(path.into_owned(), MAX_NAME_BYTES));
            fields.push(Field { path, scalar: Scalar::Skip(SkipReason::BadName) });
        } else {
            map.next_value_seed(Inner { path, depth, fields: &mut *fields, left: &mut *left })?;
        }
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
        if self.depth == MAX_OBJECT_DEPTH {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return self.push(Scalar::Skip(SkipReason::TooDeep));
        }
        read_fields(&mut map, Some(&self.path), self.depth + 1, self.fields, self.left)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let (mut n, mut whole) = (0, None);
        let (first, left) = (self.fields.len(), *self.left);
        while let Some(element) = seq.next_element_seed(Element)? {
            if n == MAX_ARRAY_ENTRIES {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                self.fields.truncate(first);
                *self.left = left;
                return self.push(Scalar::Skip(SkipReason::LongArray));
            }
            match element {
                Scalar::Skip(_) => whole = Some(SkipReason::Array),
                scalar => {
                    take(self.left)?;
                    self.fields.push(Field { path: Cow::Owned(format!("{}.{n}", self.path)), scalar });
                }
            }
            n += 1;
        }
        match whole.or((n == 0).then_some(SkipReason::EmptyArray)) {
            Some(why) => self.push(Scalar::Skip(why)),
            None => Ok(()),
        }
    }
}

/// An element of an array within an object.
struct Element;

impl<'de> DeserializeSeed<'de> for Element {
    type Value = Scalar<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Scalar<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Element {
    type Value = Scalar<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    scalars!(Scalar<'de>, self, scalar => Ok(scalar));

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Skip(SkipReason::Array))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar<'de>, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Skip(SkipReason::Array))
    }
}
