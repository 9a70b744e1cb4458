//! Decoding: from a publish to readings. The topic map says what a topic means, and a decoder reads the
//! payload.
//!
//! [`TopicMap`] holds rules. The first whose pattern matches the topic names the device, perhaps the stream,
//! and the payload's form ([`Form`]). Without configured rules, these apply:
//!
//! | Topic | Payload |
//! |---|---|
//! | `d/{device}/{stream}` | `21.5`, or `{"value":21.5,"ts":1764000000000,"seq":7,"boot":1}`, or an array of these |
//! | `d/{device}` | `{"temp":21.5,"door":true,"ts":...}`: one stream for each key |
//! | `spBv1.0/#` | Sparkplug B |
//!
//! # What is a number
//! All forms follow one rule. A number is a finite number; `true` and `on` (in any case) are 1, `false` and
//! `off` are 0; a text of one of these is the same number, unless the form itself says that a value is a text
//! (SenML's `vs`, Sparkplug's strings). Fields that can't be numbers are skipped, each by name and with a
//! reason ([`Skipped`]). A payload without any number is [`Decoded::Malformed`], unless it has another
//! meaning ([`Decoded::NoReading`]).
//!
//! # Invariants
//! Invariant: whatever makes the readings of a payload doubtful as a whole (no valid JSON, a repeated key, an
//! invalid time or sequence number) discards all of them: the publish is [`Decoded::Malformed`].
//! Invariant: a reading's value is finite, its time is within `TIME_RANGE`, and its names are 1 to
//! `MAX_NAME_BYTES` bytes without control characters.
//! Invariant: the same publish decodes to the same readings, apart from times relative to now (SenML) and
//! Sparkplug B's aliases, which births define.
//!
//! # Decisions, because devices differ
//! - Integers beyond 2^53 are rounded to the nearest double as values; as sequence numbers they are exact.
//! - A repeated JSON key makes the payload malformed, because it is unknown which one is meant.
//! - Nested JSON objects are flattened: `{"a":{"b":1}}` is stream `a.b`. So are short arrays of values:
//!   `{"a":[7,0]}` is `a.0` and `a.1`. Long arrays and arrays of objects are skipped.
//! - Names may contain `/`, `+`, `#` and `*`.
//! - A byte order mark before a text in UTF-8 is ignored.
//!
//! # Limits
//! A payload holds at most [`MAX_READINGS_PER_PAYLOAD`] values (keys, records, metrics). The listener bounds
//! the payload's bytes; [`MAX_INFLATED_BYTES`] bounds those of a compressed one. The memory for Sparkplug
//! births is bounded in bytes.
//!
//! # Left out
//! Schemas and units (the stream's name carries the meaning), and expression languages in rules (a flow in
//! front of the gateway can do that).
//!
//! Sources: RFC 8428 (SenML), RFC 8949 (CBOR), Eclipse Sparkplug 3.0.0, MQTT 5.0 section 4.7 (topics).

mod births;
mod error;
mod excerpt;
mod inflate;
pub mod json;
mod number;
mod scalar;
mod senml;
mod skipped;
mod sparkplug;
mod time;
mod topic_map;

pub use births::{
    MAX_EDGE_NODES_ENTRIES, MAX_REBIRTH_WAIT_MS, MAX_SPARKPLUG_STATE_BYTES, REBIRTH_WAIT_MS, SparkplugFigures,
};
pub use error::{DecodeError, MAX_EXCERPT_BYTES, PublishPlace, Rebirth};
pub use inflate::MAX_INFLATED_BYTES;
pub use skipped::{MAX_SKIPPED_TEXT_BYTES, SkipReason, Skipped, name_skipped};
pub use time::TimeUnit;
pub use topic_map::{
    Form, MAX_PLACEHOLDERS, MAX_TEMPLATE_BYTES, MAX_TOPIC_RULES, TopicMap, TopicMapError, TopicRule,
    defaults_behind,
};

use selvedge_types::ids::MAX_NAME_BYTES;
use selvedge_types::time::EpochMs;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

/// A list that mostly has one entry, which is then stored inline.
pub type Few<T> = SmallVec<[T; 1]>;

/// The most readings that one payload may hold.
pub const MAX_READINGS_PER_PAYLOAD: usize = 4_096;

/// The byte order mark that some programs put before a text.
const UTF_8_BOM: &[u8] = b"\xef\xbb\xbf";

/// One reading of a publish. Names borrow from the topic and the payload where possible.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedReading<'a> {
    pub device: Cow<'a, str>,
    pub stream: Cow<'a, str>,
    /// The time of measurement, if the payload has one.
    pub time: Option<EpochMs>,
    /// Finite, whatever the payload holds.
    pub value: f64,
    /// The device's sequence number for this stream.
    pub seq: Option<u64>,
    /// The boot of the device that counts the sequence.
    pub boot: Option<u64>,
}

/// The meaning of a publish.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<'a> {
    /// It holds at least one reading.
    Readings {
        /// In the payload's order.
        list: Few<DecodedReading<'a>>,
        /// Fields that are not numbers, in the payload's order; at most [`MAX_READINGS_PER_PAYLOAD`].
        skipped: Vec<Skipped<'a>>,
        /// A request to a Sparkplug edge node to send its births, if some aliases or types are unknown or
        /// messages are missing.
        rebirth: Option<Box<Rebirth>>,
    },
    /// It is understood, and is not meant to hold a reading: an emptied retained message, a Sparkplug death,
    /// or a Sparkplug birth without numbers. It is routed; there is nothing to keep.
    NoReading {
        /// Fields that are not numbers.
        skipped: Vec<Skipped<'a>>,
    },
    /// Its topic maps to no stream, so it is only routed.
    NotMapped,
    /// Its topic maps to a stream, but its payload can't be read or holds no number. Nothing of it is
    /// counted. Subscribers receive it like any publish.
    Malformed(Box<DecodeError>),
}

/// Decodes publishes. A gateway has one, which its connections share.
#[derive(Debug, Default)]
pub struct Decoder {
    map: TopicMap,
    births: Mutex<births::Births>,
}

impl Decoder {
    /// A decoder with these rules, or with the default ones if there are none.
    ///
    /// # Errors
    /// Names the first invalid rule and what is wrong with it.
    pub fn new(rules: Vec<TopicRule>) -> Result<Self, TopicMapError> {
        Ok(Self { map: TopicMap::new(rules)?, births: Mutex::default() })
    }

    /// Totals about Sparkplug sessions since the process started.
    pub fn sparkplug_figures(&self) -> SparkplugFigures {
        self.births.lock().unwrap_or_else(PoisonError::into_inner).figures()
    }

    /// Decodes one publish. Relative times are relative to `now`.
    pub fn decode<'a>(&self, now: EpochMs, topic: &'a str, payload: &'a [u8]) -> Decoded<'a> {
        let Some((rule, captures)) = self.map.find(topic) else { return Decoded::NotMapped };
        let target = Target { rule, captures };
        let payload =
            if rule.form.is_text() { payload.strip_prefix(UTF_8_BOM).unwrap_or(payload) } else { payload };
        if payload.is_empty() && !matches!(rule.form, Form::SparkplugB | Form::None) {
            // Clients clear a retained message with an empty payload.
            return Decoded::NoReading { skipped: Vec::new() };
        }
        let result = match rule.form {
            Form::None => return Decoded::NotMapped,
            Form::Number => target.device().and_then(|device| number::decode(&target, device, payload)),
            Form::Auto if !json::looks_like_json(payload) => {
                target.device().and_then(|device| number::decode(&target, device, payload))
            }
            Form::Auto | Form::Json => {
                target.device().and_then(|device| json::decode(&target, device, payload))
            }
            Form::Object => target.device().and_then(|device| json::decode_object(&target, device, payload)),
            Form::SenmlJson => senml::decode_json(&target, now, payload),
            Form::SenmlCbor => senml::decode_cbor(&target, now, payload),
            Form::SparkplugB => {
                let mut births = self.births.lock().unwrap_or_else(PoisonError::into_inner);
                match sparkplug::decode(&mut births, now, topic, target.captures.rest(), payload) {
                    Ok(None) => return Decoded::NotMapped,
                    Ok(Some(found)) => Ok(found),
                    Err(e) => Err(e),
                }
            }
        };
        match result {
            Ok(Found { list, skipped, rebirth, .. }) if !list.is_empty() => {
                Decoded::Readings { list, skipped, rebirth }
            }
            Ok(Found { skipped, steers: true, .. }) => Decoded::NoReading { skipped },
            Ok(Found { skipped, rebirth, .. }) => {
                let mut e = DecodeError::no_number(skipped, right(rule.form));
                e.rebirth = rebirth;
                Decoded::Malformed(e.showing(payload))
            }
            Err(e) => Decoded::Malformed(e.showing(payload)),
        }
    }
}

/// The result of decoding a payload.
#[derive(Debug, Default, PartialEq)]
struct Found<'a> {
    list: Few<DecodedReading<'a>>,
    skipped: Vec<Skipped<'a>>,
    rebirth: Option<Box<Rebirth>>,
    /// The payload has a meaning apart from readings, so it need not hold any.
    steers: bool,
}

/// A rule, with what its placeholders stand for in one topic.
struct Target<'m, 'a> {
    rule: &'m topic_map::Rule,
    captures: topic_map::Captures<'a>,
}

impl<'a> Target<'_, 'a> {
    /// The device that the topic names.
    fn device(&self) -> Result<Cow<'a, str>, Box<DecodeError>> {
        let device =
            self.rule.device.as_ref().map_or(Cow::Borrowed(""), |t| t.fill(&self.captures, "".into()));
        check_name("device", &device, || PublishPlace::Topic)?;
        Ok(device)
    }

    /// The stream that the topic names.
    fn stream(&self) -> Result<Cow<'a, str>, Box<DecodeError>> {
        let stream = self.filled(Cow::Borrowed(""));
        check_name("stream", &stream, || PublishPlace::Topic)?;
        Ok(stream)
    }

    /// The stream that `key` of the payload names; or the invalid name that results.
    fn named(&self, key: Cow<'a, str>) -> Result<Cow<'a, str>, Cow<'a, str>> {
        let stream = self.filled(key);
        if is_name(&stream) { Ok(stream) } else { Err(stream) }
    }

    fn filled(&self, key: Cow<'a, str>) -> Cow<'a, str> {
        match &self.rule.stream {
            Some(template) => template.fill(&self.captures, key),
            None => key,
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Refuses an invalid name of a device, stream or metric.
fn check_name(kind: &str, name: &str, place: impl FnOnce() -> PublishPlace) -> Result<(), Box<DecodeError>> {
    if is_name(name) {
        return Ok(());
    }
    let what = match name.len() {
        0 => format!("the {kind}'s name is empty"),
        n if n > MAX_NAME_BYTES => format!("the {kind}'s name has {n} bytes"),
        _ => format!("the {kind}'s name {:?} holds a control character", excerpt::cut(name.into(), 80)),
    };
    let right = format!("names have 1 to {MAX_NAME_BYTES} bytes and no control characters");
    Err(DecodeError::new(place(), what, right))
}

/// The correct shape of a payload of this form, for errors.
fn right(form: Form) -> &'static str {
    match form {
        Form::Auto | Form::Json => json::RIGHT_ONE,
        Form::Number | Form::None => number::RIGHT,
        Form::Object => json::RIGHT_OBJECT,
        Form::SenmlJson | Form::SenmlCbor => senml::RIGHT,
        Form::SparkplugB => sparkplug::RIGHT,
    }
}
