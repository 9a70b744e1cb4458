//! Topic map, plain numbers and JSON, through the decoder as the gateway uses it.

use selvedge_gateway::logic::decode::{
    Decoded, DecodedReading, Decoder, MAX_EXCERPT_BYTES, MAX_READINGS_PER_PAYLOAD, Place, TopicRule,
};
use selvedge_shared::time::EpochMs;

const NOW: EpochMs = EpochMs(1_764_000_000_000);

#[derive(serde::Deserialize)]
struct Settings {
    topics: Vec<TopicRule>,
}

fn rules(toml: &str) -> Result<Vec<TopicRule>, config::ConfigError> {
    let source = config::File::from_str(toml, config::FileFormat::Toml);
    Ok(config::Config::builder().add_source(source).build()?.try_deserialize::<Settings>()?.topics)
}

fn decoder(toml: &str) -> Decoder {
    Decoder::new(rules(toml).unwrap()).unwrap()
}

/// A publish's readings as text: `device stream value`, then `@time`, `#seq`, `boot` where there are any.
fn show(decoded: Decoded<'_>) -> String {
    let reading = |r: DecodedReading<'_>| {
        let time = r.time.map(|t| format!(" @{}", t.0)).unwrap_or_default();
        let seq = r.seq.map(|n| format!(" #{n}")).unwrap_or_default();
        let boot = r.boot.map(|n| format!(" boot{n}")).unwrap_or_default();
        format!("{} {} {}{time}{seq}{boot}", r.device, r.stream, r.value)
    };
    match decoded {
        Decoded::Readings { list, skipped } => {
            let skipped = if skipped > 0 { format!(" ({skipped} skipped)") } else { String::new() };
            list.into_iter().map(reading).collect::<Vec<_>>().join(", ") + &skipped
        }
        Decoded::NotMapped => "not mapped".into(),
        Decoded::Malformed(e) => format!("malformed: {e}"),
    }
}

fn check(decoder: &Decoder, table: &[(&str, &str, &str)]) {
    for (topic, payload, wanted) in table {
        let shown = show(decoder.decode(NOW, topic, payload.as_bytes()));
        match wanted.strip_suffix("...") {
            Some(start) => assert!(shown.starts_with(start), "{topic} {payload}: {shown}"),
            None => assert_eq!(shown, *wanted, "{topic} {payload}"),
        }
    }
}

#[test]
fn without_any_setting_the_default_map_holds() {
    check(
        &Decoder::default(),
        &[
            ("d/pump-7/temp", "21.5", "pump-7 temp 21.5"),
            ("d/pump-7/temp", " -3e2\r\n", "pump-7 temp -300"),
            ("d/pump-7/temp", r#"{"value":21.5}"#, "pump-7 temp 21.5"),
            (
                "d/pump-7/temp",
                r#"{"value":21.5,"ts":1764000000000,"seq":7,"boot":1,"unit":"C"}"#,
                "pump-7 temp 21.5 @1764000000000 #7 boot1",
            ),
            (
                "d/pump-7/temp",
                r#"[{"value":1,"seq":1},{"value":2,"seq":2}, 3]"#,
                "pump-7 temp 1 #1, pump-7 temp 2 #2, pump-7 temp 3",
            ),
            (
                "d/pump-7",
                r#"{"temp":21.5,"door":true,"name":"x","ts":"2025-11-24T16:00:00Z","seq":7,"boot":2}"#,
                "pump-7 temp 21.5 @1764000000000 #7 boot2, pump-7 door 1 @1764000000000 #7 boot2 (1 skipped)",
            ),
            ("d/pump-7", "21.5", "malformed: payload: it is no JSON object..."),
            ("d/pump-7/temp/deep", "21.5", "not mapped"),
            ("d", "21.5", "not mapped"),
            ("other/pump-7/temp", "21.5", "not mapped"),
            ("d//temp", "21.5", "malformed: topic: the device's name is empty..."),
            ("d/pump-7/", "21.5", "malformed: topic: the stream's name is empty..."),
            ("d/pump\u{7}/x", "1", "malformed: topic: the device's name \"pump\\u{7}\" holds a control..."),
            ("spBv1.0/g/NCMD/e", "", "not mapped"),
            ("spBv1.0/STATE/host", "{}", "not mapped"),
        ],
    );
}

#[test]
fn plain_numbers_are_finite_and_switches_are_one_and_zero() {
    let d = Decoder::default();
    for (payload, value) in [
        ("on", 1.0),
        ("OFF", 0.0),
        ("True", 1.0),
        ("false", 0.0),
        ("1e-3", 0.001),
        ("9007199254740993", 9007199254740992.0),
    ] {
        let Decoded::Readings { list, .. } = d.decode(NOW, "d/a/b", payload.as_bytes()) else {
            panic!("{payload}")
        };
        assert_eq!(list[0].value, value);
    }
    for payload in ["", "  ", "NaN", "inf", "-Infinity", "1e999", "21,5", "21.5 C", "0x10", "yes"] {
        let shown = show(d.decode(NOW, "d/a/b", payload.as_bytes()));
        assert!(shown.starts_with("malformed: payload: it is"), "{payload}: {shown}");
        assert!(shown.contains("such as 21.5"), "{shown}");
    }
    assert!(matches!(d.decode(NOW, "d/a/b", b"\xff\xfe"), Decoded::Malformed(_)));
}

#[test]
fn json_that_is_wrong_is_told_by_place_and_cure() {
    check(
        &Decoder::default(),
        &[
            ("d/a/b", r#"{"value":21.5"#, "malformed: payload, byte 12: EOF while parsing an object..."),
            ("d/a/b", r#"{"value":21.5} x"#, "malformed: payload, byte 15: trailing characters..."),
            ("d/a/b", "{\n\"value\":?}", "malformed: payload, byte 10: expected value..."),
            (
                "d/a/b",
                r#"{"val":1}"#,
                "malformed: payload, key \"value\": the key of the value is missing...",
            ),
            (
                "d/a/b",
                r#"{"value":null}"#,
                "malformed: payload, key \"value\": the value is no finite number...",
            ),
            (
                "d/a/b",
                r#"{"value":[1]}"#,
                "malformed: payload, key \"value\": the value is no finite number...",
            ),
            ("d/a/b", r#"{"value":1e999}"#, "malformed: payload, byte 13: number out of range..."),
            (
                "d/a/b",
                r#"{"value":1,"value":2}"#,
                "malformed: payload, byte 20: key \"value\" comes twice...",
            ),
            ("d/a/b", r#"{"value":1,"seq":-1}"#, "malformed: payload, key \"seq\": it is no count..."),
            ("d/a/b", r#"{"value":1,"seq":1.5}"#, "malformed: payload, key \"seq\": it is no count..."),
            ("d/a/b", r#"{"value":1,"boot":true}"#, "malformed: payload, key \"boot\": it is no count..."),
            ("d/a/b", r#"{"value":1,"ts":"yesterday"}"#, "malformed: payload, key \"ts\": it is no time..."),
            ("d/a/b", r#"{"value":1,"ts":9e18}"#, "malformed: payload, key \"ts\": it is no time..."),
            ("d/a/b", "[[1]]", "malformed: payload, byte 1: an array within an array..."),
            (
                "d/a/b",
                r#"[1,{"value":"x"}]"#,
                "malformed: payload, record 1: the value is no finite number (payload, key \"value\")...",
            ),
            ("d/a", r#"{"a.b":1,"a":{"b":2}}"#, "malformed: payload, byte 20: key \"a.b\" comes twice..."),
            ("d/a", r#"{"":1}"#, "malformed: topic: the stream's name is empty..."),
            ("d/a", r#"{"x\u0000":1}"#, "malformed: payload, key \"x\\0\": the stream's name..."),
            ("d/a", "[1]", "malformed: payload: it is no JSON object..."),
        ],
    );
}

#[test]
fn json_keeps_what_is_exact() {
    check(
        &Decoder::default(),
        &[
            ("d/a/b", r#"{"value":1,"seq":18446744073709551615}"#, "a b 1 #18446744073709551615"),
            ("d/a/b", r#"{"value":1,"seq":7.0}"#, "a b 1 #7"),
            ("d/a/b", r#"{"value":1,"seq":"7","boot":null,"ts":null}"#, "a b 1 #7"),
            ("d/a/b", r#"{"value":"ON","ts":"1764000000000"}"#, "a b 1 @1764000000000"),
            ("d/a/b", r#"{"value":1,"ts":-5}"#, "a b 1 @-5"),
            ("d/a/b", r#"{"value":1,"ts":12.6}"#, "a b 1 @13"),
            (
                "d/a",
                r#"{"m":{"x":1,"deep":{"y":2.5}},"list":[1,[2]],"n":null}"#,
                "a m.x 1, a m.deep.y 2.5 (2 skipped)",
            ),
            ("d/a", r#"{"\u00e4":1}"#, "a ä 1"),
            ("d/a", "{}", ""),
            ("d/a/b", "[]", ""),
        ],
    );
}

#[test]
fn a_payload_is_bounded_in_values_depth_and_key_length() {
    let d = Decoder::default();
    let malformed = |topic: &str, payload: String, what: &str| {
        let shown = show(d.decode(NOW, topic, payload.as_bytes()));
        assert!(shown.contains(what), "{}", &shown[..shown.len().min(300)]);
    };
    let list = |n: usize, one: &str| format!("[{}]", vec![one; n].join(","));
    let most = MAX_READINGS_PER_PAYLOAD;
    assert!(
        matches!(d.decode(NOW, "d/a/b", list(most, "1").as_bytes()), Decoded::Readings { list, .. } if list.len() == most)
    );
    malformed("d/a/b", list(most + 1, "1"), "more than 4096 values");
    malformed("d/a/b", list(most + 1, "{}"), "more than 4096 values");
    let keys: Vec<String> = (0..=most).map(|n| format!("\"k{n}\":1")).collect();
    malformed("d/a", format!("{{{}}}", keys.join(",")), "more than 4096 values");
    malformed("d/a", format!("{}1{}", r#"{"a":"#.repeat(9), "}".repeat(9)), "nested more than 8 deep");
    malformed(
        "d/a",
        format!("{}1{}", r#"{"a":"#.repeat(9_000), "}".repeat(9_000)),
        "nested more than 8 deep",
    );
    malformed("d/a", format!(r#"{{"a":{}"#, "[".repeat(90_000)), "EOF while parsing a list");
    malformed("d/a", format!(r#"{{"{}":1}}"#, "k".repeat(257)), "a key of more than 256 bytes");
    let topic = format!("d/{}/x", "n".repeat(257));
    assert!(show(d.decode(NOW, &topic, b"1")).contains("name has 257 bytes"));
}

#[test]
fn an_error_shows_little_of_the_payload() {
    let payload = format!(r#"{{"value":1,"note":"{}","value":2}}"#, "\u{1F980}".repeat(5_000));
    let Decoded::Malformed(e) = Decoder::default().decode(NOW, "d/a/b", payload.as_bytes()) else { panic!() };
    assert!(matches!(e.place, Place::Byte(_)), "{e:?}");
    assert!(e.excerpt.len() <= MAX_EXCERPT_BYTES && e.to_string().len() < 400, "{e}");
}

#[test]
fn rules_build_names_from_levels() {
    let d = decoder(
        r#"
        [[topics]]
        topic = "plant/+/{line}/{device}/sensors/{stream}"
        device = "{line}-{device}"

        [[topics]]
        topic = "plant/raw/#"
        decoder = "none"

        [[topics]]
        topic = "plant/{device}/#"
        stream = "all"
        decoder = "number"

        [[topics]]
        topic = "boiler/{part}"
        device = "boiler"
        stream = "{part}.{key}"
        decoder = "object"

        [[topics]]
        topic = "o/{device}/{stream}"
        decoder = "object"

        [[topics]]
        topic = "{device}/{stream}"
        "#,
    );
    check(
        &d,
        &[
            ("plant/7/l1/press/sensors/temp", "5", "l1-press temp 5"),
            ("plant/raw/x/y", "5", "not mapped"),
            ("plant/raw", "5", "not mapped"),
            ("plant/p1/any/where", "5", "p1 all 5"),
            ("plant/p1", "5", "p1 all 5"),
            ("plant/p1", r#"{"value":5}"#, "malformed: payload: it is not a finite number..."),
            ("boiler/top", r#"{"t":1,"u":{"v":2}}"#, "boiler top.t 1, boiler top.u.v 2"),
            ("o/dev/env", r#"{"t":1}"#, "dev env.t 1"),
            ("a/b", "1", "a b 1"),
            ("$SYS/uptime", "1", "not mapped"),
            ("a", "1", "not mapped"),
            ("d/pump-7/temp", "1", "not mapped"),
        ],
    );
}

#[test]
fn rules_name_the_keys_and_the_unit_of_time() {
    let rule = |unit: &str| {
        decoder(&format!(
            r#"
            [[topics]]
            topic = "{{device}}"
            stream = "temp"
            decoder = "json"
            value = "data.temp"
            time = "at"
            seq = "n"
            boot = "run"
            time_unit = "{unit}"
            "#
        ))
    };
    let payload = |at: &str| format!(r#"{{"data":{{"temp":5}},"at":{at},"n":1,"run":2,"ts":"ignored"}}"#);
    for (unit, at, ms) in [
        ("ms", "1764000000000", 1_764_000_000_000i64),
        ("s", "1764000000", 1_764_000_000_000),
        ("s", "1764000000.25", 1_764_000_000_250),
        ("us", "1764000000000999", 1_764_000_000_000),
        ("ns", "1764000000000000000", 1_764_000_000_000),
        ("auto", "1764000000", 1_764_000_000_000),
        ("auto", "1764000000000", 1_764_000_000_000),
        ("auto", "1764000000000000", 1_764_000_000_000),
        ("auto", "1764000000000000000", 1_764_000_000_000),
        ("s", "\"2025-11-24T17:00:00+01:00\"", 1_764_000_000_000),
        ("s", "\"1764000000\"", 1_764_000_000_000),
    ] {
        check(&rule(unit), &[("x", &payload(at), &format!("x temp 5 @{ms} #1 boot2"))]);
    }
    check(
        &rule("s"),
        &[("x", "5", "x temp 5"), ("x", "on", "malformed: payload, byte 0: expected value...")],
    );
}

#[test]
fn a_bad_rule_is_named_with_its_number_and_its_cure() {
    for (toml, said) in [
        (r#"topic = """#, "topic must have 1 to 512 bytes"),
        (r##"topic = "a/#/{device}/{stream}""##, "# may only stand at the end"),
        (r#"topic = "a{device}/{stream}""#, "mixes text with"),
        (r#"topic = "{device}/{device}/{stream}""#, "{device} stands in topic twice"),
        (r#"topic = "{De}/{stream}""#, "{De} is no placeholder"),
        (r#"topic = "{key}/{stream}""#, "{key} is kept"),
        (r#"topic = "{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}""#, "more than 8 placeholders"),
        (r#"topic = "a/{stream}""#, "names no device"),
        (r#"topic = "a/{device}""#, "names no stream"),
        ("topic = \"{device}/{stream}\"\ndevice = \"{line}\"", "{line}, which does not stand in topic"),
        ("topic = \"{device}/{stream}\"\ndevice = \"{device\"", "a { without its }"),
        ("topic = \"{device}/{stream}\"\ndevice = \"device}\"", "a } without its {"),
        ("topic = \"{device}/{stream}\"\ndevice = \"{key}\"", "device can't hold {key}"),
        ("topic = \"{device}/{stream}\"\nstream = \"{key}\"", "reads no keys as streams"),
        ("topic = \"{device}\"\ndecoder = \"object\"\nstream = \"x\"", "stream must hold {key}"),
        ("topic = \"{device}\"\ndecoder = \"object\"\nvalue = \"x\"", "value means nothing"),
        (
            "topic = \"{device}/{stream}\"\ndecoder = \"number\"\nseq = \"n\"",
            "time, seq, boot or time_unit means nothing",
        ),
        ("topic = \"{device}/{stream}\"\nseq = \"value\"", "can't mean two things"),
        ("topic = \"sp/{group}/#\"\ndecoder = \"sparkplug-b\"", "ends with # and has no placeholders"),
        ("topic = \"sp/#\"\ndecoder = \"sparkplug-b\"\ndevice = \"x\"", "means nothing to decoder"),
        ("topic = \"ok/{a}/{b}\"\ndevice = \"{a}\"\nstream = \"{b}\"", "number 1 takes the same topics"),
    ] {
        let all = rules(&format!("[[topics]]\ntopic = \"ok/{{device}}/{{stream}}\"\n[[topics]]\n{toml}\n"))
            .unwrap();
        let error = Decoder::new(all).unwrap_err().to_string();
        assert!(error.starts_with("[[topics]] number 2 ("), "{error}");
        assert!(error.contains(said), "{toml}: {error}");
    }
    assert!(
        rules("[[topics]]\ntopic = \"a\"\ndevcie = \"x\"").is_err_and(|e| e.to_string().contains("devcie"))
    );
    assert!(
        rules("[[topics]]\ntopic = \"a\"\ndecoder = \"xml\"").is_err_and(|e| e.to_string().contains("xml"))
    );
    let many = vec![rules("[[topics]]\ntopic = \"{device}/{stream}\"").unwrap()[0].clone(); 257];
    assert!(Decoder::new(many).unwrap_err().to_string().starts_with("257 [[topics]]"));
}

#[test]
fn names_borrow_from_topic_and_payload() {
    use std::borrow::Cow;
    let d = Decoder::default();
    for (topic, payload) in [("d/a/b", "1"), ("d/a/b", r#"{"value":1}"#), ("d/a", r#"{"x":1}"#)] {
        let Decoded::Readings { list, .. } = d.decode(NOW, topic, payload.as_bytes()) else { panic!() };
        assert!(
            matches!((&list[0].device, &list[0].stream), (Cow::Borrowed(_), Cow::Borrowed(_))),
            "{topic}"
        );
    }
}
