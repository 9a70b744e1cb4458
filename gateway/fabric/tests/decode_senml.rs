//! SenML: the examples of RFC 8428, its rules, and the packs that the decoder refuses.

use ciborium::Value as Cbor;
use selvedge_fabric::decode::{Decoded, Decoder, Form, TopicRule};
use selvedge_types::time::EpochMs;

const NOW: EpochMs = EpochMs(1_764_000_000_000);

fn decoder(topic: &str, decoder: Form, device: Option<&str>) -> Decoder {
    let device = device.map(Into::into);
    Decoder::new(vec![TopicRule { topic: topic.into(), decoder, device, ..TopicRule::default() }]).unwrap()
}

fn show(decoded: Decoded<'_>) -> String {
    match decoded {
        Decoded::Readings { list, skipped, .. } => {
            let time = |t: Option<EpochMs>| t.map(|t| format!(" @{}", t.0)).unwrap_or_default();
            let each = list.iter().map(|r| format!("{} {} {}{}", r.device, r.stream, r.value, time(r.time)));
            let skipped: String = skipped.iter().map(|s| format!(" -{}:{}", s.name, s.why.label())).collect();
            each.collect::<Vec<_>>().join(", ") + &skipped
        }
        Decoded::NoReading { .. } => "no reading".into(),
        Decoded::NotMapped => "not mapped".into(),
        Decoded::Malformed(e) => format!("malformed: {e}"),
    }
}

fn json(payload: &str) -> String {
    show(decoder("senml", Form::SenmlJson, None).decode(NOW, "senml", payload.as_bytes()))
}

#[test]
fn rfc_8428_section_5_1_examples() {
    assert_eq!(
        json(r#"[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]"#),
        "urn:dev:ow:10e2073a01080063 value 23.1"
    );
    assert_eq!(
        json(
            r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1},
                {"n":"current","u":"A","v":1.2}]"#
        ),
        "urn:dev:ow:10e2073a01080063 voltage 120.1, urn:dev:ow:10e2073a01080063 current 1.2"
    );
    assert_eq!(
        json(
            r#"[{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,
                 "n":"voltage","u":"V","v":120.1},
                {"n":"current","t":-5,"v":1.2},
                {"n":"current","t":-4,"v":1.3}]"#
        ),
        "urn:dev:ow:10e2073a0108006 voltage 120.1 @1276020076001, \
         urn:dev:ow:10e2073a0108006 current 1.2 @1276020071001, \
         urn:dev:ow:10e2073a0108006 current 1.3 @1276020072001"
    );
    // 5.1.3: measurements under one name.
    assert_eq!(
        json(
            r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},
                {"u":"lon","v":24.30621},{"u":"lat","v":60.07965},
                {"t":60,"v":20.3}]"#
        )
        .split(", ")
        .last()
        .unwrap(),
        "urn:dev:ow:10e2073a01080063 value 20.3 @1320067524000"
    );
    // 5.1.5: values of several kinds.
    assert_eq!(
        json(
            r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},
                {"n":"label","vs":"Machine Room"},{"n":"open","vb":false},{"n":"nfv","vd":"aGkgCg"}]"#
        ),
        "urn:dev:ow:10e2073a01080063 temp 23.1, urn:dev:ow:10e2073a01080063 open 0 -label:text -nfv:bytes"
    );
}

/// RFC 8428, section 6: the CBOR of the example in 5.1.2.
#[test]
fn rfc_8428_section_6_example_in_cbor() {
    let hex = "87a721781b75726e3a6465763a6f773a3130653230373361303130383030363a22fb41d303a15b00106223614120050067766f6c7461\
               6765016156 02fb405e066666666666a3006763757272656e74062402fb3ff3333333333333a3006763757272656e74062302fb3ff4\
               cccccccccccda3006763757272656e74062202fb3ff6666666666666a3006763757272656e74062102f93e00a3006763757272656e\
               74062002fb3ff999999999999aa3006763757272656e74060002fb3ffb333333333333";
    let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    let cbor: Vec<u8> = hex.chunks(2).map(byte).collect();
    let shown = show(decoder("senml", Form::SenmlCbor, None).decode(NOW, "senml", &cbor));
    let name = "urn:dev:ow:10e2073a0108006";
    let mut wanted = vec![format!("{name} voltage 120.1 @1276020076001")];
    for (t, v) in [(-5, 1.2), (-4, 1.3), (-3, 1.4), (-2, 1.5), (-1, 1.6), (0, 1.7)] {
        wanted.push(format!("{name} current {v} @{}", 1_276_020_076_001i64 + t * 1_000));
    }
    assert_eq!(shown, wanted.join(", "));
}

#[test]
fn times_near_zero_are_relative_to_now() {
    assert_eq!(
        json(
            r#"[{"bn":"a:","n":"x","v":1},{"n":"x","t":-2.5,"v":2},{"n":"x","t":268435455,"v":3},{"n":"x","t":268435456,"v":4}]"#
        ),
        "a x 1, a x 2 @1763999997500, a x 3 @2032435455000, a x 4 @268435456000"
    );
}

#[test]
fn base_values_add_and_hold_until_the_next() {
    assert_eq!(
        json(
            r#"[{"bn":"a:","bv":100,"n":"x","v":1},{"n":"y","v":2},{"bn":"b/","bv":0,"n":"z","v":3},{"n":"z","s":9}]"#
        ),
        "a x 101, a y 102, b z 3 -z:sum"
    );
}

#[test]
fn a_device_named_by_the_topic_keeps_the_name_as_its_stream() {
    let d = decoder("s/{device}", Form::SenmlJson, None);
    let show = |payload: &str| show(d.decode(NOW, "s/pump-7", payload.as_bytes()));
    assert_eq!(show(r#"[{"n":"temp","v":1}]"#), "pump-7 temp 1");
    assert_eq!(show(r#"[{"bn":"pump-7:","n":"temp","v":1}]"#), "pump-7 temp 1");
    assert_eq!(show(r#"[{"bn":"pump-7","v":1}]"#), "pump-7 value 1");
    assert_eq!(show(r#"[{"bn":"cell-3:","n":"temp","v":1}]"#), "pump-7 cell-3:temp 1");
}

/// RFC 8949, section 3.4.
#[test]
fn tagged_numbers_of_cbor_are_read() {
    let d = decoder("senml", Form::SenmlCbor, None);
    let tag = |tag: u64, content: Cbor| Cbor::Tag(tag, Box::new(content));
    let pair = |a: i64, b: Cbor| Cbor::Array(vec![a.into(), b]);
    let big = |bytes: &[u8]| Cbor::Bytes(bytes.to_vec());
    let record = |label: i64, value: Cbor| {
        let fields = vec![(0.into(), "a".into()), (2.into(), 1.into())];
        let mut fields: Vec<_> = fields.into_iter().filter(|(l, _)| *l != Cbor::from(label)).collect();
        fields.push((label.into(), value));
        let mut out = Vec::new();
        ciborium::into_writer(&Cbor::Array(vec![Cbor::Map(fields)]), &mut out).unwrap();
        show(d.decode(NOW, "senml", &out))
    };
    for (value, wanted) in [
        (tag(4, pair(-2, 27_315.into())), "273.15"),
        (tag(4, pair(-1, (-5).into())), "-0.5"),
        (tag(4, pair(3, 7.into())), "7000"),
        (tag(4, pair(-1, tag(2, big(&[1, 0])))), "25.6"),
        (tag(5, pair(-1, 3.into())), "1.5"),
        (tag(5, pair(-1_074, 1.into())), "0.000"),
        (tag(2, big(&[1, 0, 0, 0, 0, 0, 0, 0, 0])), "18446744073709552000"),
        (tag(3, big(&[1, 0])), "-257"),
        (tag(2, big(&[1; 20])), "573137896992511"),
        (Cbor::Integer(u64::MAX.into()), "18446744073709552000"),
        (tag(1, 5.into()), "5"),
        ("47".into(), "47"),
    ] {
        let shown = record(2, value.clone());
        assert!(shown.starts_with(&format!("a value {wanted}")), "{value:?}: {shown}");
    }
    for value in [
        tag(4, pair(400, 1.into())),
        tag(5, pair(2_000, 1.into())),
        tag(4, Cbor::Array(vec![1.into()])),
        tag(4, 1.into()),
        tag(99, big(&[1])),
    ] {
        let shown = record(2, value.clone());
        assert!(shown.contains("it holds no number; skipped: \"value\" ("), "{value:?}: {shown}");
        assert!(!shown.contains("enum") && !shown.contains("TAGGED"), "{shown}");
    }
    for time in [
        tag(1, 1_764_000_000.into()),
        tag(4, pair(-3, 1_764_000_000_000i64.into())),
        tag(1, 1_764_000_000.0.into()),
    ] {
        assert_eq!(record(6, time), "a value 1 @1764000000000");
    }
    // The value of an unknown label is ignored, whatever it is.
    for odd in [tag(4, pair(-1, 5.into())), tag(99, Cbor::Map(vec![(1.into(), 2.into())])), Cbor::Null] {
        assert_eq!(record(77, odd), "a value 1");
    }
}

#[test]
fn what_can_not_be_a_number_is_named_and_the_rest_counts() {
    assert_eq!(
        json(
            r#"[{"bn":"a:","n":"x","v":"47"},{"n":"y","v":"off"},{"n":"s","vs":"47"},{"n":"z","v":null},
                {"n":"b ad","v":1},{"bn":"-:","n":"x","v":2},{"bn":"a:","n":"o","v":{"x":1}},{"n":"t"}]"#
        ),
        "a x 47, a y 0 -s:text -z:null -b ad:senml_name -value:senml_name -o:object -t:null"
    );
}

#[test]
fn relative_times_need_a_clock() {
    let d = decoder("senml", Form::SenmlJson, None);
    let show = |now: i64, payload: &str| show(d.decode(EpochMs(now), "senml", payload.as_bytes()));
    let relative = r#"[{"n":"a","t":-5,"v":1}]"#;
    let refused = show(100_000, relative);
    assert!(refused.starts_with("malformed: payload, record 0: the time is relative to now"), "{refused}");
    assert!(refused.contains("clock is not set"), "{refused}");
    assert_eq!(show(NOW.0, relative), "a value 1 @1763999995000");
    // Absolute times, and records without a time, need no clock.
    assert_eq!(show(100_000, r#"[{"n":"a","t":1764000000,"v":1}]"#), "a value 1 @1764000000000");
    assert_eq!(show(100_000, r#"[{"n":"a","v":1}]"#), "a value 1");
}

#[test]
fn what_is_no_senml_is_refused_with_its_place() {
    for (payload, said) in [
        ("{}", "byte 0: expected an array of SenML records, found an object"),
        ("[5]", "expected a SenML record, found a number"),
        (r#"[{"n":5,"v":1}]"#, "expected a string, found a number"),
        (r#"[{"n":"a","t":"noon","v":1}]"#, "a base field or a time is not a number"),
        (r#"[{"n":"a","v":"x"}]"#, "it holds no number; skipped: \"value\" (a string that is not a number)"),
        (
            r#"[{"n":"a","vs":"47"}]"#,
            "it holds no number; skipped: \"value\" (a string that is not a number)",
        ),
        (r#"[{"v":1}]"#, "it holds no number; skipped: \"value\" (a name that SenML does not allow)"),
        (r#"[{"n":"a b","v":1}]"#, "a name that SenML does not allow"),
        ("[]", "it holds no number in `[]`"),
        (r#"[{"bn":"a:","bt":1764000000}]"#, "it holds no number"),
        (r#"[{"n":"a","v":1,"x_":1}]"#, "label \"x_\" must be understood"),
        (r#"[{"n":"a","v":1,"v":2}]"#, "occurs twice"),
        (r#"[{"n":"a","v":1,"vs":"x"}]"#, "occurs twice"),
        (r#"[{"n":"a","bver":11,"v":1}]"#, "SenML version 11"),
        (r#"[{"n":"a","t":1e15,"v":1}]"#, "time 1000000000000000 is out of range"),
        (r#"[{"n":"a","bv":1e308,"v":1e308}]"#, "not a finite number"),
    ] {
        let shown = json(payload);
        assert!(shown.starts_with("malformed") && shown.contains(said), "{payload}: {shown}");
    }
    let many = format!("[{}]", vec![r#"{"n":"a","v":1}"#; 4_097].join(","));
    assert!(json(&many).contains("it holds more than 4096 records"));
}

#[test]
fn cbor_that_lies_is_refused() {
    let d = decoder("senml", Form::SenmlCbor, None);
    let show = |payload: &[u8]| show(d.decode(NOW, "senml", payload));
    let bytes = |value: &Cbor| {
        let mut out = Vec::new();
        ciborium::into_writer(value, &mut out).unwrap();
        out
    };
    let record = |value: Cbor| Cbor::Array(vec![Cbor::Map(vec![(0.into(), "a".into()), (2.into(), value)])]);
    let sound = bytes(&record(Cbor::from(5)));
    assert_eq!(show(&sound), "a value 5");
    assert!(show(&[&sound[..], &[0]].concat()).contains("byte 7: there is more after the pack"));
    assert!(show(&sound[..4]).contains("ends too early"));
    let said = show(&[0xff]);
    assert!(said.contains("expected an array or an object, found something else"), "{said}");
    for value in [Cbor::from(f64::NAN), Cbor::from(f64::INFINITY), Cbor::Null, Cbor::Bytes(vec![1])] {
        assert!(show(&bytes(&record(value))).starts_with("malformed"));
    }
    // An array that claims 2^63 records, a text that claims as many bytes, and a deep nesting of arrays.
    assert!(show(&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).starts_with("malformed"));
    assert!(
        show(&[0x81, 0xa1, 0x00, 0x7b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
            .starts_with("malformed")
    );
    let tower = [&[0x81, 0xa1, 0x18, 0x63][..], &[0x81; 5_000]].concat();
    assert!(show(&tower).contains("nested more than 32 deep"));
}
