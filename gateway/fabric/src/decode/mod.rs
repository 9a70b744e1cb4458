//! From a publish to readings: the topic map says what a topic means, a decoder reads the payload.
//!
//! [`TopicMap`] holds rules; the first whose pattern matches the topic names the device, perhaps the stream,
//! and the payload's form ([`Form`]). Without a configured rule these hold:
//!
//! | Topic | Payload |
//! |---|---|
//! | `d/{device}/{stream}` | `21.5`, or `{"value":21.5,"ts":1764000000000,"seq":7,"boot":1}`, or an array of such |
//! | `d/{device}` | `{"temp":21.5,"door":true,"ts":...}`: one stream a key |
//! | `spBv1.0/#` | Sparkplug B |
//!
//! One rule for what a number is, in all forms: a finite number; `true`, `on` and `false`, `off` (any case) as 1 and 0; and a
//! text of one of these, but where the form itself says that a value is a text (SenML's `vs`, Sparkplug's strings). Fields that
//! can't be numbers are skipped, each named with its reason ([`Skipped`]). A payload without any number is
//! [`Decoded::Malformed`], unless it is understood to mean something else ([`Decoded::NoReading`]).
//!
//! Invariant: what makes readings doubtful as a whole (no JSON, a key that comes twice, a time or a sequence number that is
//! none) leaves none of them: then the publish is [`Decoded::Malformed`].
//! Invariant: a reading's value is finite, its time within `TIME_RANGE`, its names are 1 to `MAX_NAME_BYTES`
//! bytes without control characters.
//! Invariant: the same publish decodes to the same readings, but for what is told relative to now (SenML)
//! and Sparkplug B's aliases, which its births define.
//!
//! Decided, since devices differ:
//! - Integers beyond 2^53 are rounded to the nearest double as values; as sequence numbers they are exact.
//! - A JSON key that comes twice makes the payload malformed: there is no telling which one is meant.
//! - Nested JSON objects are flattened, `{"a":{"b":1}}` is stream `a.b`, and so are short arrays of values: `{"a":[7,0]}`
//!   is `a.0` and `a.1`. Long arrays and arrays of objects are skipped.
//! - Names may hold `/`, `+`, `#` and `*`.
//! - A byte order mark before a text in UTF-8 is passed over.
//!
//! Limits: [`MAX_READINGS_PER_PAYLOAD`] values (keys, records, metrics) a payload; the listener bounds the payload's bytes,
//! [`MAX_INFLATED_BYTES`] those of a compressed one. What is known of Sparkplug births is bounded in bytes.
//!
//! Left out: schemas and units (the stream's name carries the meaning), and expression languages in rules (a flow before the
//! gateway can do that).
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

/// A list that mostly has one entry, which then takes no place of its own.
pub type Few<T> = SmallVec<[T; 1]>;

/// The most readings that one payload may hold.
pub const MAX_READINGS_PER_PAYLOAD: usize = 4_096;

/// What some programs put before a text.
const UTF_8_BOM: &[u8] = b"\xef\xbb\xbf";

/// One reading, as it stands in a publish. Names borrow from topic and payload where they can.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodedReading<'a> {
    /// The device.
    pub device: Cow<'a, str>,
    /// The stream.
    pub stream: Cow<'a, str>,
    /// When it was measured, if the device says so.
    pub time: Option<EpochMs>,
    /// What. Finite.
    pub value: f64,
    /// The device's sequence number for this stream.
    pub seq: Option<u64>,
    /// Which boot of the device counts that sequence.
    pub boot: Option<u64>,
}

/// What a publish is.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded<'a> {
    /// It holds at least one reading.
    Readings {
        /// In the payload's order.
        list: Few<DecodedReading<'a>>,
        /// Fields that are no numbers, in the payload's order; at most [`MAX_READINGS_PER_PAYLOAD`].
        skipped: Vec<Skipped<'a>>,
        /// What to send to a Sparkplug edge node some of whose aliases are not known here.
        rebirth: Option<Box<Rebirth>>,
    },
    /// It is understood, and is not meant to hold a reading: an emptied retained message, a Sparkplug death, a
    /// Sparkplug birth without numbers. There is nothing to keep; it is routed.
    NoReading {
        /// Fields that are no numbers.
        skipped: Vec<Skipped<'a>>,
    },
    /// Its topic maps to no stream: it is only routed.
    NotMapped,
    /// Its topic maps to a stream, but its payload can't be read or holds no number. Nothing of it counts; subscribers get
    /// it like any publish.
    Malformed(Box<DecodeError>),
}

/// Reads publishes. One for a gateway, shared by its connections.
#[derive(Debug, Default)]
pub struct Decoder {
    map: TopicMap,
    births: Mutex<births::Births>,
}

impl Decoder {
    /// A decoder that follows these rules; without any the default ones.
    ///
    /// # Errors
    /// Names the first bad rule and what is wrong with it.
    pub fn new(rules: Vec<TopicRule>) -> Result<Self, TopicMapError> {
        Ok(Self { map: TopicMap::new(rules)?, births: Mutex::default() })
    }

    /// What was seen of Sparkplug sessions.
    pub fn sparkplug_figures(&self) -> SparkplugFigures {
        self.births.lock().unwrap_or_else(PoisonError::into_inner).figures()
    }

    /// Reads one publish. `now` is what relative times are relative to.
    pub fn decode<'a>(&self, now: EpochMs, topic: &'a str, payload: &'a [u8]) -> Decoded<'a> {
        let Some((rule, captures)) = self.map.find(topic) else { return Decoded::NotMapped };
        let target = Target { rule, captures };
        let payload =
            if rule.form.is_text() { payload.strip_prefix(UTF_8_BOM).unwrap_or(payload) } else { payload };
        if payload.is_empty() && !matches!(rule.form, Form::SparkplugB | Form::None) {
            // A retained message is emptied so.
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

/// What a decoder finds.
#[derive(Debug, Default, PartialEq)]
struct Found<'a> {
    list: Few<DecodedReading<'a>>,
    skipped: Vec<Skipped<'a>>,
    rebirth: Option<Box<Rebirth>>,
    /// It says something else too, so that it need not hold a reading.
    steers: bool,
}

/// A rule and what its placeholders stand for in one topic.
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

    /// The stream that `key` of the payload names; or what it would be, if that can't be a name.
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

/// Refuses what can't be a device's or a stream's name.
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

/// What a payload of this form should look like.
fn right(form: Form) -> &'static str {
    match form {
        Form::Auto | Form::Json => json::RIGHT_ONE,
        Form::Number | Form::None => number::RIGHT,
        Form::Object => json::RIGHT_OBJECT,
        Form::SenmlJson | Form::SenmlCbor => senml::RIGHT,
        Form::SparkplugB => sparkplug::RIGHT,
    }
}
