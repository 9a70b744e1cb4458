//! The topic map, plain numbers and JSON, through the decoder as the gateway uses it.

use selvedge_fabric::decode::{
    Decoded, DecodedReading, Decoder, MAX_EXCERPT_BYTES, MAX_READINGS_PER_PAYLOAD, PublishPlace, TopicRule,
};
use selvedge_types::time::EpochMs;

const NOW: EpochMs = EpochMs(1_764_000_000_000);

#[derive(serde::Deserialize)]
struct Settings {
    topics: Vec<TopicRule>,
}

fn rules(text: &str) -> Result<Vec<TopicRule>, toml::de::Error> {
    Ok(toml::from_str::<Settings>(text)?.topics)
}

fn decoder(toml: &str) -> Decoder {
    Decoder::new(rules(toml).unwrap()).unwrap()
}

/// A publish's readings as text: `device stream value`, then `@time`, `#seq` and `boot` where they are
/// present, and `-name:why` for each skipped field.
fn show(decoded: Decoded<'_>) -> String {
    let reading = |r: DecodedReading<'_>| {
        let time = r.time.map(|t| format!(" @{}", t.0)).unwrap_or_default();
        let seq = r.seq.map(|n| format!(" #{n}")).unwrap_or_default();
        let boot = r.boot.map(|n| format!(" boot{n}")).unwrap_or_default();
        format!("{} {} {}{time}{seq}{boot}", r.device, r.stream, r.value)
    };
    match decoded {
        Decoded::Readings { list, skipped, .. } => {
            assert!(!list.is_empty());
            let skipped: String = skipped.iter().map(|s| format!(" -{}:{}", s.name, s.why.label())).collect();
            list.into_iter().map(reading).collect::<Vec<_>>().join(", ") + &skipped
        }
        Decoded::NoReading { .. } => "no reading".into(),
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
                "pump-7 temp 21.5 @1764000000000 #7 boot2, pump-7 door 1 @1764000000000 #7 boot2 -name:text",
            ),
            ("d/pump-7", "21.5", "malformed: payload: it is not a JSON object..."),
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
    for (payload, said) in [
        ("  ", "it is empty"),
        ("NaN", "it is not a finite number"),
        ("inf", "it is not a finite number"),
        ("-Infinity", "it is not a finite number"),
        ("1e999", "it is larger than a double can hold"),
        ("-1e400", "it is larger than a double can hold"),
        ("21,5", "it has a comma where decimals begin with a point"),
        ("21.5 C", "there is more text after the number"),
        ("1_000", "there is more text after the number"),
        ("0x10", "it is written in hexadecimal"),
        ("-0X1F", "it is written in hexadecimal"),
        ("yes", "it is a text, not a number"),
        ("offline", "it is a text, not a number"),
        ("2\x001\x00", "it holds zero bytes"),
    ] {
        let shown = show(d.decode(NOW, "d/a/b", payload.as_bytes()));
        assert!(shown.starts_with(&format!("malformed: payload: {said}")), "{payload}: {shown}");
        assert!(shown.contains("such as 21.5"), "{shown}");
    }
    for (payload, said) in
        [(&b"\xff\xfe2\0"[..], "zero bytes"), (b"\xe4", "not text in UTF-8"), (b"\x1f\x8b\x08", "compressed")]
    {
        let shown = show(d.decode(NOW, "d/a/b", payload));
        assert!(shown.contains(said), "{shown}");
    }
}

#[test]
fn one_rule_says_what_a_number_is_in_every_form() {
    check(
        &Decoder::default(),
        &[
            ("d/a/b", "47", "a b 47"),
            ("d/a/b", r#""47""#, "a b 47"),
            ("d/a/b", r#"{"value":"47"}"#, "a b 47"),
            ("d/a/b", r#"{"value":" off "}"#, "a b 0"),
            ("d/a/b", "+5", "a b 5"),
            ("d/a/b", "007", "a b 7"),
            ("d/a/b", "1.\n", "a b 1"),
            ("d/a", r#"{"flow":"47","burner":"off","code":204}"#, "a flow 47, a burner 0, a code 204"),
            ("d/a", r#"{"flow":"+5","p":".5","x":"1e3"}"#, "a flow 5, a p 0.5, a x 1000"),
            (
                "d/a",
                r#"{"t":1,"name":"pump","n":null,"nan":"NaN","big":"1e400","hex":"0x10","comma":"1,5"}"#,
                "a t 1 -name:text -n:null -nan:not_finite -big:not_finite -hex:text -comma:text",
            ),
            ("d/a", r#"{"Power":[7,0]}"#, "a Power.0 7, a Power.1 0"),
            ("d/a", r#"{"E":{"Power":["7",null,true]}}"#, "a E.Power.0 7, a E.Power.2 1 -E.Power.1:null"),
            ("d/a", r#"{"t":1,"e":[],"o":{}}"#, "a t 1 -e:empty_array"),
            (
                "d/a",
                r#"{"timestamp":1764000000000,"t":1,"values":[{"id":"a","v":1}]}"#,
                "a t 1 @1764000000000 -values:array",
            ),
            ("d/a", r#"{"t":1,"m":[[1,2],[3]],"mixed":[1,{}]}"#, "a t 1, a mixed.0 1 -m:array -mixed:array"),
            ("d/a/b", "[1,null,{\"value\":\"x\"},[2],{}]", "a b 1 -b:null -b:text -b:array -b:null"),
            ("d/a", r#"{"":1,"x\u0000":2,"t":3}"#, "a t 3 -:bad_name -x\0:bad_name"),
            ("d/a", r##"{"a/b":1,"a+":2,"#":3,"a*b":4}"##, "a a/b 1, a a+ 2, a # 3, a a*b 4"),
            // Retained messages that are cleared, and a byte order mark.
            ("d/a/b", "", "no reading"),
            ("d/a", "", "no reading"),
            ("d/a/b", "\u{feff}21.5", "a b 21.5"),
            ("d/a", "\u{feff}{\"t\":1}", "a t 1"),
        ],
    );
}

#[test]
fn a_payload_without_a_number_is_told_so_by_name() {
    check(
        &Decoder::default(),
        &[
            ("d/a", "{}", "malformed: payload: it holds no number in `{}`; send an object of numbers..."),
            ("d/a/b", "[]", "malformed: payload: it holds no number in `[]`; send a number..."),
            ("d/a/b", "null", "malformed: payload: it is null, which is not a value..."),
            ("d/a/b", "offline", "malformed: payload: it is a text, not a number in `offline`..."),
            ("d/a/b", r#""offline""#, "malformed: payload: it is a text, not a number..."),
            (
                "d/a",
                r#"{"values":[{"id":"a","v":1}],"state":"idle"}"#,
                "malformed: payload: it holds no number; skipped: \"values\" (an array of objects or arrays), \"state\" (a string that is \
                 not a number)...",
            ),
            (
                "d/a",
                r#"{"timestamp":1764000000000,"values":[{"id":"a","v":1}]}"#,
                "malformed: payload: it holds no number; skipped: \"values\" (an array of objects or arrays)...",
            ),
            ("d/a/b", "[[1]]", "malformed: payload: it holds no number; skipped: \"b\" (an array of..."),
            ("d/a", r#"{"ts":1764000000000,"seq":7}"#, "malformed: payload: it holds no number..."),
        ],
    );
    let Decoded::Malformed(e) = Decoder::default().decode(NOW, "d/a", br#"{"state":"idle"}"#) else {
        panic!()
    };
    assert_eq!((&*e.skipped[0].device, &*e.skipped[0].name), ("a", "state"));
    let Decoded::Malformed(e) = Decoder::default().decode(NOW, "d/a/b", b"offline") else { panic!() };
    assert_eq!((&*e.skipped[0].device, &*e.skipped[0].name), ("a", "b"));
}

#[test]
fn json_that_is_wrong_is_told_by_place_and_cure() {
    check(
        &Decoder::default(),
        &[
            ("d/a/b", r#"{"value":21.5"#, "malformed: payload, byte 12: it ends too early..."),
            (
                "d/a/b",
                r#"{"value":21.5} x"#,
                "malformed: payload, byte 15: there is more text after the end...",
            ),
            ("d/a/b", "{\n\"value\":?}", "malformed: payload, byte 10: this is not a JSON value..."),
            ("d/a/b", r#"{"value":NaN}"#, "malformed: payload, byte 9: JSON has no such word or number..."),
            ("d/a/b", r#"{"value":+5}"#, "malformed: payload, byte 9: JSON has no such word or number..."),
            (
                "d/a/b",
                r#"{'value':5}"#,
                "malformed: payload, byte 1: a key is not in double quotation marks...",
            ),
            (
                "d/a/b",
                r#"{value:5}"#,
                "malformed: payload, byte 1: a key is not in double quotation marks...",
            ),
            ("d/a", r#"{"a":'x'}"#, "malformed: payload, byte 5: a string is in single quotation marks..."),
            ("d/a", r#"{"a":}"#, "malformed: payload, byte 5: a value is missing..."),
            ("d/a", r#"{"a":1,}"#, "malformed: payload, byte 7: a comma precedes the closing bracket..."),
            (
                "d/a",
                r#"{"a":1 "b":2}"#,
                "malformed: payload, byte 7: a comma or the closing bracket is missing...",
            ),
            ("d/a", r#"{"a" 1}"#, "malformed: payload, byte 5: a colon is missing after a key..."),
            ("d/a", r#"{"a":01}"#, "malformed: payload, byte 6: it is not a JSON number..."),
            (
                "d/a",
                r#"{"a":0x1F}"#,
                "malformed: payload, byte 6: a comma or the closing bracket is missing...",
            ),
            ("d/a", "{\"a\":\"x\ny\"}", "malformed: payload, byte 7: a string holds a line break..."),
            ("d/a", r#"{"a":"\q"}"#, "malformed: payload, byte 7: a backslash precedes..."),
            (
                "d/a",
                r#"{"a":"\ud800"}"#,
                "malformed: payload, byte 12: half of a surrogate pair of \\u escapes...",
            ),
            (
                "d/a/b",
                r#"{"val":1}"#,
                "malformed: payload, key \"value\": the key of the value is missing...",
            ),
            ("d/a/b", r#"{"value":null}"#, "malformed: payload, key \"value\": the value is no value..."),
            (
                "d/a/b",
                r#"{"value":[1]}"#,
                "malformed: payload, key \"value\": the value is an object or an array...",
            ),
            (
                "d/a/b",
                r#"{"value":1e999}"#,
                "malformed: payload, byte 13: the number is larger than a double can hold...",
            ),
            (
                "d/a/b",
                r#"{"value":1,"value":2}"#,
                "malformed: payload, byte 20: key \"value\" occurs twice...",
            ),
            (
                "d/a/b",
                r#"{"value":1,"seq":-1}"#,
                "malformed: payload, key \"seq\": it is not a whole number...",
            ),
            (
                "d/a/b",
                r#"{"value":1,"seq":1.5}"#,
                "malformed: payload, key \"seq\": it is not a whole number...",
            ),
            (
                "d/a/b",
                r#"{"value":1,"boot":true}"#,
                "malformed: payload, key \"boot\": it is not a whole number...",
            ),
            (
                "d/a/b",
                r#"{"value":1,"ts":"yesterday"}"#,
                "malformed: payload, key \"ts\": \"yesterday\" is not a time...",
            ),
            (
                "d/a/b",
                r#"{"value":1,"ts":"2025-11-24T16:00:00"}"#,
                "malformed: payload, key \"ts\": the time \"2025-11-24T16:00:00\" has no zone...",
            ),
            (
                "d/a/b",
                r#"{"value":1,"ts":"2025-11-24"}"#,
                "malformed: payload, key \"ts\": \"2025-11-24\" is a date without a time...",
            ),
            (
                "d/a/b",
                r#"{"value":1,"ts":9e18}"#,
                "malformed: payload, key \"ts\": 9000000000000000000 is outside the years 1 to 9999 in \
                 milliseconds...",
            ),
            ("d/a/b", r#"{"value":1,"ts":true}"#, "malformed: payload, key \"ts\": it is not a time..."),
            (
                "d/a/b",
                r#"[1,{"value":2,"seq":"x"}]"#,
                "malformed: payload, record 1: it is not a whole number of 0 or more (payload, key \"seq\")...",
            ),
            ("d/a", r#"{"a.b":1,"a":{"b":2}}"#, "malformed: payload, byte 20: key \"a.b\" occurs twice..."),
            ("d/a", "[1]", "malformed: payload: it is not a JSON object..."),
        ],
    );
    let d = Decoder::default();
    for (payload, said) in [
        (&b"\xff\xfe{\0"[..], "begins as UTF-16"),
        (b"{\0\"\0a\0", "begins as UTF-16"),
        (b"\x1f\x8b\x08\0", "it is compressed"),
        (b"{\"a\":\"\xff\"}", "a string is not UTF-8"),
    ] {
        let shown = show(d.decode(NOW, "d/a", payload));
        assert!(shown.contains(said), "{shown}");
    }
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
                "a m.x 1, a m.deep.y 2.5, a list.0 1 -list:array -n:null",
            ),
            ("d/a", r#"{"\u00e4":1}"#, "a ä 1"),
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
    malformed("d/a/b", list(most + 1, "1"), "it holds more than 4096 values");
    malformed("d/a/b", list(most + 1, "{}"), "it holds more than 4096 values");
    let keys: Vec<String> = (0..=most).map(|n| format!("\"k{n}\":1")).collect();
    malformed("d/a", format!("{{{}}}", keys.join(",")), "it holds more than 4096 values");
    let Decoded::Malformed(e) = d.decode(NOW, "d/a/b", list(most + 1, "1").as_bytes()) else { panic!() };
    assert!(e.too_large);
    malformed("d/a", format!(r#"{{"a":{}"#, "[".repeat(90_000)), "it ends too early");
    // A field that is too deep or too long is skipped without the rest.
    let shown = |payload: String| show(d.decode(NOW, "d/a", payload.as_bytes()));
    for depth in [8, 9_000] {
        let deep = shown(format!(r#"{{"t":1,"a":{}1{}}}"#, r#"{"a":"#.repeat(depth), "}".repeat(depth)));
        assert_eq!(deep, "a t 1 -a.a.a.a.a.a.a.a:too_deep");
    }
    let long = shown(format!(r#"{{"{}":{{"x":1}},"t":1}}"#, "k".repeat(257)));
    assert!(long.starts_with("a t 1 -kkk") && long.ends_with("…:bad_name"), "{long}");
    assert_eq!(shown(format!(r#"{{"t":1,"wave":{}}}"#, list(17, "1"))), "a t 1 -wave:long_array");
    assert!(shown(format!(r#"{{"wave":{}}}"#, list(16, "1"))).ends_with("a wave.15 1"));
    assert_eq!(shown(format!(r#"{{"t":1,"wave":{}}}"#, list(9_000, "[1]"))), "a t 1 -wave:long_array");
    let topic = format!("d/{}/x", "n".repeat(257));
    assert!(show(d.decode(NOW, &topic, b"1")).contains("name has 257 bytes"));
}

#[test]
fn an_error_shows_little_of_the_payload() {
    let payload = format!(r#"{{"value":1,"note":"{}","value":2}}"#, "\u{1F980}".repeat(5_000));
    let Decoded::Malformed(e) = Decoder::default().decode(NOW, "d/a/b", payload.as_bytes()) else { panic!() };
    assert!(matches!(e.place, PublishPlace::Byte(_)), "{e:?}");
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
            ("plant/p1", r#"{"value":5}"#, "malformed: payload: it is a text, not a number..."),
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
        // The first and the last second of the years 1971 to 2100.
        ("auto", "31536000", 31_536_000_000),
        ("auto", "31536000000", 31_536_000_000),
        ("auto", "31536000000000", 31_536_000_000),
        ("auto", "31536000000000000", 31_536_000_000),
        ("auto", "4133980799", 4_133_980_799_000),
        ("auto", "4133980799000", 4_133_980_799_000),
        ("auto", "4133980799000000", 4_133_980_799_000),
        ("auto", "4133980799000000000", 4_133_980_799_000),
        ("auto", "4133980799.5", 4_133_980_799_500),
        ("ms", "1764000000", 1_764_000_000),
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
        &[("x", "5", "x temp 5"), ("x", "on", "malformed: payload, byte 0: this is not a JSON value...")],
    );
}

#[test]
fn a_bad_rule_is_named_with_its_number_and_its_cure() {
    for (toml, said) in [
        (r#"topic = """#, "topic must have 1 to 512 bytes"),
        (r##"topic = "a/#/{device}/{stream}""##, "# may only be at the end"),
        (r#"topic = "a{device}/{stream}""#, "mixes text with"),
        (r#"topic = "{device}/{device}/{stream}""#, "{device} occurs in topic twice"),
        (r#"topic = "{De}/{stream}""#, "{De} is not a placeholder"),
        (r#"topic = "{key}/{stream}""#, "{key} is reserved"),
        (r#"topic = "{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}""#, "more than 8 placeholders"),
        (r#"topic = "a/{stream}""#, "names no device"),
        (r#"topic = "a/{device}""#, "names no stream"),
        ("topic = \"{device}/{stream}\"\ndevice = \"{line}\"", "{line}, which topic does not have"),
        ("topic = \"{device}/{stream}\"\ndevice = \"{device\"", "a { without its }"),
        ("topic = \"{device}/{stream}\"\ndevice = \"device}\"", "a } without its {"),
        ("topic = \"{device}/{stream}\"\ndevice = \"{key}\"", "device can't hold {key}"),
        ("topic = \"{device}/{stream}\"\nstream = \"{key}\"", "reads no keys as streams"),
        ("topic = \"{device}\"\ndecoder = \"object\"\nstream = \"x\"", "stream must hold {key}"),
        ("topic = \"{device}\"\ndecoder = \"object\"\nvalue = \"x\"", "does not use value; remove it"),
        (
            "topic = \"{device}/{stream}\"\ndecoder = \"number\"\nseq = \"n\"",
            "does not use time, seq, boot or time_unit",
        ),
        ("topic = \"{device}/{stream}\"\nseq = \"value\"", "can't mean two things"),
        ("topic = \"sp/{group}/#\"\ndecoder = \"sparkplug-b\"", "ends with # and has no placeholders"),
        (
            "topic = \"sp/#\"\ndecoder = \"sparkplug-b\"\ndevice = \"x\"",
            "does not use a device or stream template",
        ),
        (
            "topic = \"ok/{a}/{b}\"\ndevice = \"{a}\"\nstream = \"{b}\"",
            "number 1 comes before it and takes all its topics",
        ),
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
    for (key, right) in [("decoder", "senml-json"), ("time_unit", "auto")] {
        let toml = format!("[[topics]]\ntopic = \"a\"\n{key} = \"senml\"");
        let said = rules(&toml).unwrap_err().to_string();
        assert!(said.contains("\"senml\"") && said.contains(right) && !said.contains("variant"), "{said}");
    }
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
