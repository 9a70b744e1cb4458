//! Publishes of devices: whatever topic and payload, a decoder that follows whatever rules gives readings that keep its
//! promises, or one error that can be shown.

use crate::source::Source;
use selvedge_fabric::decode::{
    Decoded, Decoder, Form, MAX_EXCERPT_BYTES, MAX_READINGS_PER_PAYLOAD, MAX_SKIPPED_TEXT_BYTES, Rebirth,
    Skipped, TimeUnit, TopicRule, name_skipped,
};
use selvedge_types::ids::MAX_NAME_BYTES;
use selvedge_types::sparkplug::{Metric, MetricValue, Payload};
use selvedge_types::time::{EpochMs, TIME_RANGE};
use selvedge_types::topic::check_name;

const NOW: EpochMs = EpochMs(1_764_000_000_000);
const MAX_PUBLISHES: usize = 16;

const TOPICS: [&str; 12] = [
    "d/pump/temp",
    "d/pump",
    "j/pump",
    "j",
    "c/pump",
    "c",
    "spBv1.0/g/NBIRTH/e",
    "spBv1.0/g/NDATA/e",
    "spBv1.0/g/DBIRTH/e/d",
    "spBv1.0/g/DDATA/e/d",
    "spBv1.0/g/NDEATH/e",
    "plant/x/y",
];

fn rule(topic: &str, decoder: Form) -> TopicRule {
    TopicRule { topic: topic.into(), decoder, ..TopicRule::default() }
}

fn rules() -> Vec<TopicRule> {
    let auto = TopicRule { time_unit: Some(TimeUnit::Auto), ..rule("d/{device}/{stream}", Form::Auto) };
    let json = TopicRule { stream: Some("x".into()), ..rule("{device}/#", Form::Json) };
    vec![
        auto,
        rule("d/{device}", Form::Object),
        rule("j/{device}", Form::SenmlJson),
        rule("j", Form::SenmlJson),
        rule("c/{device}", Form::SenmlCbor),
        rule("c", Form::SenmlCbor),
        rule("spBv1.0/#", Form::SparkplugB),
        json,
    ]
}

/// Rules that an operator may have written wrongly.
fn odd_rules(source: &mut Source) -> Vec<TopicRule> {
    let forms = [
        Form::Auto,
        Form::Number,
        Form::Json,
        Form::Object,
        Form::SenmlJson,
        Form::SenmlCbor,
        Form::SparkplugB,
        Form::None,
    ];
    let units = [TimeUnit::Ms, TimeUnit::S, TimeUnit::Us, TimeUnit::Ns, TimeUnit::Auto];
    let text = |source: &mut Source| match source.below(5) {
        0 => Some(source.text(40)),
        1 => Some("{device}-{key}".to_string()),
        2 => Some("{a}.{stream}".to_string()),
        _ => None,
    };
    let patterns = ["d/{device}/{stream}", "{a}/{device}/+/{stream}", "+/{device}/#", "#", "{device}"];
    (0..source.below(4))
        .map(|_| TopicRule {
            topic: if source.flag() { source.pick(&patterns).to_string() } else { source.text(60) },
            decoder: source.pick(&forms),
            device: text(source),
            stream: text(source),
            value: text(source),
            time: text(source),
            seq: text(source),
            boot: text(source),
            time_unit: source.flag().then(|| source.pick(&units)),
        })
        .collect()
}

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let odd = source.byte() < 48;
    let rules = if odd { odd_rules(&mut source) } else { rules() };
    let decoder = match Decoder::new(rules) {
        Ok(decoder) => decoder,
        Err(e) => {
            assert!(odd && e.to_string().len() < 2_000, "{e}");
            return;
        }
    };
    for _ in 0..MAX_PUBLISHES {
        if source.is_empty() {
            break;
        }
        let topic = if source.byte() < 200 { source.pick(&TOPICS).to_string() } else { source.text(100) };
        let payload = match source.below(4) {
            0 if topic.starts_with("spBv1.0") => sparkplug(&mut source).write(),
            1 => source.bytes(60).to_vec(),
            2 => source.bytes(4000).to_vec(),
            _ => source.rest().to_vec(),
        };
        // What the listener lets through.
        if check_name(&topic).is_ok() {
            publish(&decoder, &topic, &payload);
        }
    }
}

fn publish(decoder: &Decoder, topic: &str, payload: &[u8]) {
    match decoder.decode(NOW, topic, payload) {
        Decoded::Readings { list, skipped, rebirth } => {
            assert!(!list.is_empty() && list.len() + skipped.len() <= MAX_READINGS_PER_PAYLOAD);
            named(&skipped);
            sound_rebirth(rebirth.as_deref());
            for r in list {
                for name in [&r.device, &r.stream] {
                    let sound =
                        (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
                    assert!(sound, "{name:?}");
                }
                assert!(r.value.is_finite() && r.time.is_none_or(|t| TIME_RANGE.contains(&t.0)));
            }
        }
        Decoded::Malformed(e) => {
            assert!(e.excerpt.len() <= MAX_EXCERPT_BYTES && e.to_string().len() < 2_000, "{e}");
            named(&e.skipped);
            sound_rebirth(e.rebirth.as_deref());
        }
        Decoded::NoReading { skipped } => named(&skipped),
        Decoded::NotMapped => {}
    }
}

/// What is skipped has names that can be shown.
fn named(skipped: &[Skipped<'_>]) {
    assert!(skipped.len() <= MAX_READINGS_PER_PAYLOAD);
    if !skipped.is_empty() {
        assert!(name_skipped(skipped).len() <= MAX_SKIPPED_TEXT_BYTES);
    }
}

fn sound_rebirth(rebirth: Option<&Rebirth>) {
    if let Some(rebirth) = rebirth {
        assert!(check_name(&rebirth.topic).is_ok(), "{}", rebirth.topic);
        assert!(Payload::read(&rebirth.payload, 1).is_ok());
    }
}

fn sparkplug(source: &mut Source) -> Payload {
    let mut metrics = Vec::new();
    for _ in 0..source.below(6) {
        let value = match source.below(8) {
            0 => None,
            1 => Some(MetricValue::Int(source.number(0) as u32)),
            2 => Some(MetricValue::Long(source.number(0))),
            3 => Some(MetricValue::Float(source.float() as f32)),
            4 => Some(MetricValue::Double(source.float())),
            5 => Some(MetricValue::Boolean(source.flag())),
            6 => Some(MetricValue::Text(source.text(20))),
            _ => Some(MetricValue::Bytes(source.bytes(20).to_vec())),
        };
        metrics.push(Metric {
            is_historical: source.flag().then(|| source.flag()),
            name: source.flag().then(|| if source.flag() { "m".to_string() } else { source.text(40) }),
            alias: source.flag().then(|| source.number(1)),
            timestamp: source.flag().then(|| source.number(NOW.0 as u64)),
            datatype: source.flag().then(|| source.number(3) as u32),
            is_null: source.flag().then(|| source.flag()),
            value,
            ..Metric::default()
        });
    }
    let timestamp = source.flag().then(|| source.number(NOW.0 as u64));
    let seq = source.flag().then(|| source.number(1));
    let compressed = source.below(8) == 0;
    let uuid = compressed.then(|| "SPBV1.0_COMPRESSED".to_string());
    let body = compressed.then(|| source.bytes(60).to_vec());
    Payload { timestamp, metrics, seq, uuid, body }
}
