//! Thousands of damaged payloads and topics: none may panic, and all readings satisfy the decoder's
//! invariants.

use selvedge_fabric::decode::{
    Decoded, Decoder, Form, MAX_EXCERPT_BYTES, MAX_READINGS_PER_PAYLOAD, TopicRule,
};
use selvedge_types::ids::MAX_NAME_BYTES;
use selvedge_types::sparkplug::{Metric, MetricValue, Payload, data_type};
use selvedge_types::time::{EpochMs, TIME_RANGE};

const NOW: EpochMs = EpochMs(1_764_000_000_000);

/// SplitMix64: the same damage on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(5) {
                0 => bytes.insert(at, self.below(256) as u8),
                1 => bytes.truncate(at),
                2 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                3 if at < bytes.len() => {
                    bytes[at] = *b"{}[]\",:0-eE.\x00\xff\x9f\x7f".get(self.below(16)).unwrap()
                }
                _ => {
                    let again = bytes[at..].iter().take(9).copied().collect::<Vec<_>>();
                    bytes.splice(at..at, again);
                }
            }
        }
    }
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let metric = |n: u64| Metric {
        name: Some(format!("m{n}")),
        alias: Some(n),
        timestamp: Some(5),
        datatype: Some(data_type::INT32),
        value: Some(if n.is_multiple_of(2) { MetricValue::Int(7) } else { MetricValue::Double(7.5) }),
        ..Metric::default()
    };
    let birth = Payload {
        timestamp: Some(1),
        metrics: (0..4).map(metric).collect(),
        seq: Some(1),
        ..Payload::default()
    }
    .write();
    let nameless = |n| Metric { name: None, datatype: None, ..metric(n) };
    let data = Payload {
        timestamp: Some(1),
        metrics: (0..4).map(nameless).collect(),
        seq: Some(2),
        ..Payload::default()
    }
    .write();
    let pack: Vec<ciborium::Value> = (0..3)
        .map(|n| {
            ciborium::Value::Map(vec![
                ((-2).into(), "urn:x:".into()),
                (0.into(), "n".into()),
                (2.into(), n.into()),
                (6.into(), (-n).into()),
            ])
        })
        .collect();
    let mut cbor = Vec::new();
    ciborium::into_writer(&pack, &mut cbor).unwrap();
    vec![
        ("d/pump/temp", b"21.5".to_vec()),
        ("d/pump/temp", br#"{"value":21.5,"ts":1764000000000,"seq":7,"boot":1}"#.to_vec()),
        ("d/pump/temp", br#"[{"value":1,"ts":"2025-11-24T16:00:00Z"},2,{"value":true}]"#.to_vec()),
        ("d/pump", br#"{"temp":21.5,"m":{"x":1,"y":{"z":-1e-3}},"l":[1,{}],"t":"\u00e4","ts":12}"#.to_vec()),
        ("j", br#"[{"bn":"urn:x:","bt":1.3e9,"bv":2,"n":"a","v":1},{"n":"b","t":-5,"vb":true},{"n":"c","vs":"x"}]"#.to_vec()),
        ("c", cbor),
        ("spBv1.0/g/NBIRTH/e", birth),
        ("spBv1.0/g/NDATA/e", data),
    ]
}

#[test]
fn no_damage_panics_and_what_is_read_is_sound() {
    let rule = |topic: &str, decoder, stream: Option<&str>| TopicRule {
        topic: topic.into(),
        decoder,
        stream: stream.map(Into::into),
        ..TopicRule::default()
    };
    let rules = vec![
        rule("d/{device}/{stream}", Form::Auto, None),
        rule("d/{device}", Form::Object, None),
        rule("j", Form::SenmlJson, None),
        rule("c", Form::SenmlCbor, None),
        rule("spBv1.0/#", Form::SparkplugB, None),
        rule("{device}/#", Form::Json, Some("x")),
    ];
    let decoder = Decoder::new(rules).unwrap();
    let mut dice = Dice(7);
    let (mut read, mut refused) = (0, 0);
    let seeds = seeds();
    for (topic, payload) in &seeds {
        assert!(
            matches!(decoder.decode(NOW, topic, payload), Decoded::Readings { .. }),
            "{topic} is a sound seed"
        );
    }
    for round in 0..40_000 {
        let (topic, payload) = &seeds[round % seeds.len()];
        let (mut topic, mut payload) = (topic.as_bytes().to_vec(), payload.clone());
        if dice.below(4) == 0 {
            dice.damage(&mut topic)
        } else {
            dice.damage(&mut payload)
        }
        let topic = String::from_utf8_lossy(&topic).into_owned();
        match decoder.decode(NOW, &topic, &payload) {
            Decoded::Readings { list, .. } => {
                read += 1;
                assert!(list.len() <= MAX_READINGS_PER_PAYLOAD);
                for r in list {
                    let sound = |name: &str| {
                        (1..=MAX_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control)
                    };
                    assert!(sound(&r.device) && sound(&r.stream), "{r:?}");
                    assert!(r.value.is_finite() && r.time.is_none_or(|t| TIME_RANGE.contains(&t.0)), "{r:?}");
                }
            }
            Decoded::Malformed(e) => {
                refused += 1;
                assert!(e.excerpt.len() <= MAX_EXCERPT_BYTES && e.to_string().len() < 1_000, "{e}");
            }
            Decoded::NotMapped | Decoded::NoReading { .. } => {}
        }
    }
    assert!(read > 2_000 && refused > 2_000, "{read} read, {refused} refused: the damage is of use");
}
