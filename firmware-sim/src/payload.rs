//! The forms in which devices write their readings, and the topics they publish them to.
//!
//! Only [`Form::Json`] and [`Form::JsonText`] carry a sequence number; readings in the other forms
//! are distinguished from resends by their MQTT session alone, so they need a persistent one.
//!
//! Topics: `d/{device}/{stream}` and `d/{device}` are known to a gateway without configuration, and so is
//! Sparkplug's `spBv1.0/{group}/DDATA/{edge}/{device}`. SenML goes to `senml/{device}` in JSON
//! and to `senml-cbor/{device}` in CBOR, for which a gateway needs a topic rule each.

use selvedge_types::sparkplug::{Metric, MetricValue, NAMESPACE, Payload, data_type};
use selvedge_types::time::EpochMs;

/// Sparkplug group of all simulated devices.
pub const SPARKPLUG_GROUP: &str = "sim";

/// Sparkplug edge node of all simulated devices.
pub const SPARKPLUG_EDGE: &str = "edge";

/// Times below this many seconds are relative to now in SenML (RFC 8428, section 4.5.3).
const SENML_RELATIVE_BELOW_S: i64 = 1 << 28;

/// A form of payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    Json,
    /// The same with an RFC 3339 time.
    JsonText,
    /// `21.5` on `d/{device}/{stream}`: no time.
    Plain,
    /// `{"power":230.1,"current":1.2}` on `d/{device}`: no time.
    Object,
    /// RFC 8428, JSON, on `senml/{device}`; times in whole seconds.
    SenmlJson,
    /// RFC 8428, CBOR, on `senml-cbor/{device}`; times in whole seconds.
    SenmlCbor,
    /// Sparkplug B device data.
    Sparkplug,
}

impl Form {
    /// Its payloads carry a sequence number.
    pub fn has_seq(self) -> bool {
        matches!(self, Form::Json | Form::JsonText)
    }

    /// One payload holds the readings of all streams of its device (else of one stream).
    pub fn holds_all_streams(self) -> bool {
        !matches!(self, Form::Json | Form::JsonText | Form::Plain)
    }

    /// The name that gateways know the device `name` by: Sparkplug's are `group/edge node/device`.
    pub fn device_name(self, name: &str) -> String {
        match self {
            Form::Sparkplug => format!("{SPARKPLUG_GROUP}/{SPARKPLUG_EDGE}/{name}"),
            _ => name.to_string(),
        }
    }

    /// The time that its payloads carry for a reading that was taken at `time`, if they carry one. SenML takes times below
    /// 2^28 s for relative ones: a device whose clock was never set sends none.
    pub fn carried(self, time: Option<i64>) -> Option<EpochMs> {
        let time = time?;
        match self {
            Form::Plain | Form::Object => None,
            Form::SenmlJson | Form::SenmlCbor => {
                let seconds = time.div_euclid(1_000);
                (seconds >= SENML_RELATIVE_BELOW_S).then_some(EpochMs(seconds * 1_000))
            }
            Form::Json | Form::JsonText | Form::Sparkplug => Some(EpochMs(time)),
        }
    }
}

/// What goes into one payload.
#[derive(Debug, Clone, Copy)]
pub struct Content<'a> {
    pub device: &'a str,
    /// Streams and values: one of them, unless [`Form::holds_all_streams`].
    pub values: &'a [(&'a str, f64)],
    /// As [`Form::carried`] gives it.
    pub time: Option<EpochMs>,
    /// The number of this reading, for forms that carry it.
    pub seq: u64,
    /// The boot that counts it.
    pub boot: u64,
}

/// The topic and the payload of a publish in this form.
pub fn encode(form: Form, content: &Content<'_>) -> (String, Vec<u8>) {
    let device = content.device;
    let (stream, value) = content.values.first().copied().unwrap_or(("", 0.0));
    let one = || format!("d/{device}/{stream}");
    match form {
        Form::Json => (one(), json(value, content.time.map(|t| t.0.to_string()), content)),
        Form::JsonText => (one(), json(value, content.time.map(|t| format!("\"{t}\"")), content)),
        Form::Plain => (one(), value.to_string().into_bytes()),
        Form::Object => {
            let fields = content.values.iter().map(|(s, v)| format!("{}:{v}", quoted(s)));
            (format!("d/{device}"), format!("{{{}}}", join(fields)).into_bytes())
        }
        Form::SenmlJson => (format!("senml/{device}"), senml_json(content)),
        Form::SenmlCbor => (format!("senml-cbor/{device}"), senml_cbor(content)),
        Form::Sparkplug => {
            let topic = format!("{NAMESPACE}/{SPARKPLUG_GROUP}/DDATA/{SPARKPLUG_EDGE}/{device}");
            (topic, sparkplug(content))
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn json(value: f64, ts: Option<String>, content: &Content<'_>) -> Vec<u8> {
    let ts = ts.map(|t| format!(",\"ts\":{t}")).unwrap_or_default();
    let (seq, boot) = (content.seq, content.boot);
    format!("{{\"value\":{value}{ts},\"seq\":{seq},\"boot\":{boot}}}").into_bytes()
}

fn senml_json(content: &Content<'_>) -> Vec<u8> {
    let records = content.values.iter().enumerate().map(|(i, (stream, value))| {
        let base = content.time.filter(|_| i == 0).map(|t| format!("\"bt\":{},", t.0.div_euclid(1_000)));
        format!("{{{}\"n\":{},\"v\":{value}}}", base.unwrap_or_default(), quoted(stream))
    });
    format!("[{}]", join(records)).into_bytes()
}

/// Labels of RFC 8428, table 4: base time -3, name 0, value 2.
fn senml_cbor(content: &Content<'_>) -> Vec<u8> {
    use ciborium::Value as Cbor;
    let label = |n: i64| Cbor::Integer(n.into());
    let records = content.values.iter().enumerate().map(|(i, (stream, value))| {
        let mut record = Vec::new();
        if let Some(time) = content.time.filter(|_| i == 0) {
            record.push((label(-3), Cbor::Integer(time.0.div_euclid(1_000).into())));
        }
        record.push((label(0), Cbor::Text((*stream).to_string())));
        record.push((label(2), Cbor::Float(*value)));
        Cbor::Map(record)
    });
    let mut out = Vec::new();
    let written = ciborium::into_writer(&Cbor::Array(records.collect()), &mut out);
    debug_assert!(written.is_ok(), "writing to memory does not fail");
    out
}

fn sparkplug(content: &Content<'_>) -> Vec<u8> {
    let timestamp = content.time.and_then(|t| u64::try_from(t.0).ok());
    let metrics = content.values.iter().map(|(stream, value)| Metric {
        name: Some((*stream).to_string()),
        timestamp,
        datatype: Some(data_type::DOUBLE),
        value: Some(MetricValue::Double(*value)),
        ..Metric::default()
    });
    Payload { timestamp, metrics: metrics.collect(), seq: Some(content.seq & 0xff), ..Payload::default() }
        .write()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content<'a>(values: &'a [(&'a str, f64)]) -> Content<'a> {
        Content { device: "pump-01", values, time: Some(EpochMs(1_764_000_000_250)), seq: 7, boot: 99 }
    }

    fn text(form: Form, content: &Content<'_>) -> (String, String) {
        let (topic, payload) = encode(form, content);
        (topic, String::from_utf8(payload).unwrap())
    }

    #[test]
    fn every_text_form_reads_as_documented() {
        let one = [("flow", 21.5)];
        let two = [("flow", 21.5), ("pressure", -3.0)];
        let pair = |topic: &str, payload: &str| (topic.to_string(), payload.to_string());
        assert_eq!(
            text(Form::Json, &content(&one)),
            pair("d/pump-01/flow", r#"{"value":21.5,"ts":1764000000250,"seq":7,"boot":99}"#)
        );
        assert_eq!(
            text(Form::JsonText, &content(&one)),
            pair("d/pump-01/flow", r#"{"value":21.5,"ts":"2025-11-24T16:00:00.250Z","seq":7,"boot":99}"#)
        );
        let clockless = Content { time: None, ..content(&one) };
        assert_eq!(
            text(Form::Json, &clockless),
            pair("d/pump-01/flow", r#"{"value":21.5,"seq":7,"boot":99}"#)
        );
        assert_eq!(text(Form::Plain, &content(&one)), pair("d/pump-01/flow", "21.5"));
        assert_eq!(text(Form::Object, &content(&two)), pair("d/pump-01", r#"{"flow":21.5,"pressure":-3}"#));
        let senml = Content { time: Form::SenmlJson.carried(Some(1_764_000_000_250)), ..content(&two) };
        assert_eq!(
            text(Form::SenmlJson, &senml),
            pair("senml/pump-01", r#"[{"bt":1764000000,"n":"flow","v":21.5},{"n":"pressure","v":-3}]"#)
        );
        assert_eq!(senml.time, Some(EpochMs(1_764_000_000_000)));
    }

    #[test]
    fn senml_carries_no_time_of_a_clock_that_was_never_set() {
        for form in [Form::SenmlJson, Form::SenmlCbor] {
            assert_eq!(form.carried(Some(100_000)), None);
            assert_eq!(form.carried(Some(268_435_455_999)), None);
            assert_eq!(form.carried(Some(268_435_456_000)), Some(EpochMs(268_435_456_000)));
        }
        assert_eq!(Form::Json.carried(Some(100_000)), Some(EpochMs(100_000)));
    }

    #[test]
    fn the_binary_forms_hold_the_exact_values() {
        let values = [("flow", 0.1 + 0.2), ("pressure", 1.5)];
        let (topic, bytes) = encode(Form::Sparkplug, &content(&values));
        assert_eq!(topic, "spBv1.0/sim/DDATA/edge/pump-01");
        let back = Payload::read(&bytes, 10).unwrap();
        assert_eq!(back.metrics[0].value, Some(MetricValue::Double(0.1 + 0.2)));
        assert_eq!(back.timestamp, Some(1_764_000_000_250));
        let (_, bytes) = encode(Form::SenmlCbor, &content(&values));
        let ciborium::Value::Array(records) = ciborium::from_reader(bytes.as_slice()).unwrap() else {
            panic!("no array")
        };
        let map = records[0].as_map().unwrap();
        assert_eq!(map[2].1.as_float(), Some(0.1 + 0.2));
        assert_eq!(records[1].as_map().unwrap().len(), 2, "the base time is said once");
    }
}
