//! Sparkplug B: births, aliases, what is lost with a birth, and how it is asked for again.

use selvedge_gateway::logic::decode::{DecodeError, Decoded, Decoder};
use selvedge_shared::sparkplug::{Metric, Payload, Value, data_type as t};
use selvedge_shared::time::EpochMs;

const NOW: EpochMs = EpochMs(1_764_000_000_000);

fn metric(name: Option<&str>, alias: Option<u64>, datatype: Option<u32>, value: Option<Value>) -> Metric {
    Metric { name: name.map(Into::into), alias, datatype, value, ..Metric::default() }
}

fn payload(metrics: Vec<Metric>) -> Vec<u8> {
    Payload { timestamp: Some(1_000), metrics, seq: Some(0) }.write()
}

fn show(decoder: &Decoder, topic: &str, payload: &[u8]) -> Result<String, Box<DecodeError>> {
    match decoder.decode(NOW, topic, payload) {
        Decoded::Readings { list, skipped } => {
            let time = |t: Option<EpochMs>| t.map(|t| format!(" @{}", t.0)).unwrap_or_default();
            let each = list.iter().map(|r| format!("{} {} {}{}", r.device, r.stream, r.value, time(r.time)));
            let skipped = if skipped > 0 { format!(" ({skipped} skipped)") } else { String::new() };
            Ok(each.collect::<Vec<_>>().join(", ") + &skipped)
        }
        Decoded::NotMapped => Ok("not mapped".into()),
        Decoded::Malformed(e) => Err(e),
    }
}

fn birth() -> Vec<u8> {
    payload(vec![
        metric(Some("bdSeq"), None, Some(t::INT64), Some(Value::Long(3))),
        metric(Some("Node Control/Rebirth"), None, Some(t::BOOLEAN), Some(Value::Boolean(false))),
        metric(Some("temp"), Some(1), Some(t::FLOAT), Some(Value::Float(21.5))),
        metric(Some("Motor/rpm"), Some(2), Some(t::INT16), Some(Value::Int(0xffff_fffe))),
        metric(Some("serial"), Some(3), Some(t::STRING), Some(Value::Text("x".into()))),
    ])
}

#[test]
fn a_birth_defines_what_data_by_alias_means() {
    let d = Decoder::default();
    let born = show(&d, "spBv1.0/plant/NBIRTH/edge-1", &birth()).unwrap();
    assert_eq!(born, "plant/edge-1 temp 21.5 @1000, plant/edge-1 Motor/rpm -2 @1000 (1 skipped)");
    let mut timed = metric(None, Some(2), None, Some(Value::Int(0xffff)));
    timed.timestamp = Some(2_000);
    timed.is_historical = Some(true);
    let mut null = metric(None, Some(1), None, None);
    null.is_null = Some(true);
    let nan = metric(Some("temp"), None, None, Some(Value::Float(f32::NAN)));
    let data = payload(vec![timed, null, nan, metric(Some("temp"), None, None, Some(Value::Double(1.5)))]);
    assert_eq!(
        show(&d, "spBv1.0/plant/NDATA/edge-1", &data).unwrap(),
        "plant/edge-1 Motor/rpm -1 @2000, plant/edge-1 temp 1.5 @1000 (2 skipped)"
    );
}

#[test]
fn an_unknown_alias_asks_for_a_rebirth() {
    let d = Decoder::default();
    let data = payload(vec![metric(None, Some(1), None, Some(Value::Float(1.0)))]);
    let unknown = |topic: &str| show(&d, topic, &data).unwrap_err();
    let e = unknown("spBv1.0/plant/NDATA/edge-1");
    assert!(e.to_string().contains("alias 1 of \"plant/edge-1\" is not known here"), "{e}");
    let rebirth = e.rebirth.unwrap();
    assert_eq!(rebirth.topic, "spBv1.0/plant/NCMD/edge-1");
    assert_eq!(Payload::read(&rebirth.payload, 1).unwrap(), Payload::rebirth(NOW.0 as u64));
    // A device's data asks its edge node.
    assert_eq!(unknown("spBv1.0/plant/DDATA/edge-1/pump").rebirth.unwrap().topic, rebirth.topic);

    show(&d, "spBv1.0/plant/NBIRTH/edge-1", &birth()).unwrap();
    assert_eq!(show(&d, "spBv1.0/plant/NDATA/edge-1", &data).unwrap(), "plant/edge-1 temp 1 @1000");
    unknown("spBv1.0/plant/NDATA/edge-2");
    unknown("spBv1.0/plant/DDATA/edge-1/pump");
    // An integer whose type no one has told can't be read either: its sign is unknown.
    let bare = payload(vec![metric(Some("new"), None, None, Some(Value::Int(5)))]);
    assert!(show(&d, "spBv1.0/plant/NDATA/edge-1", &bare).unwrap_err().rebirth.is_some());
}

#[test]
fn deaths_and_births_of_an_edge_node_forget_its_devices() {
    let d = Decoder::default();
    let data = payload(vec![metric(None, Some(1), None, Some(Value::Float(1.0)))]);
    let say = |topic: &str, payload: &[u8]| show(&d, &format!("spBv1.0/plant/{topic}"), payload).is_ok();
    let begin = || {
        assert!(say("NBIRTH/e", &birth()) && say("DBIRTH/e/a", &birth()) && say("DBIRTH/e/b", &birth()));
        assert!(say("NBIRTH/e2", &birth()) && say("DBIRTH/e2/a", &birth()));
    };
    begin();
    assert!(say("DDEATH/e/a", b""));
    assert!(!say("DDATA/e/a", &data) && say("DDATA/e/b", &data) && say("NDATA/e", &data));
    begin();
    assert!(say("NDEATH/e", b"anything"));
    assert!(!say("DDATA/e/a", &data) && !say("DDATA/e/b", &data) && !say("NDATA/e", &data));
    assert!(say("DDATA/e2/a", &data), "another edge node's device");
    begin();
    assert!(say("NBIRTH/e", &birth()));
    assert!(!say("DDATA/e/a", &data) && say("NDATA/e", &data));
}

#[test]
fn integers_are_read_by_their_type() {
    let d = Decoder::default();
    for (datatype, value, wanted) in [
        (t::INT8, Value::Int(0xff), "-1"),
        (t::INT16, Value::Int(0x8000), "-32768"),
        (t::INT32, Value::Int(0xffff_ffff), "-1"),
        (t::INT32, Value::Long(u64::MAX), "-1"),
        (t::INT64, Value::Long(u64::MAX), "-1"),
        (t::UINT8, Value::Int(0xff), "255"),
        (t::UINT32, Value::Int(0xffff_ffff), "4294967295"),
        (t::UINT64, Value::Long(1 << 63), "9223372036854776000"),
        (t::BOOLEAN, Value::Boolean(true), "1"),
        (t::DOUBLE, Value::Double(-0.5), "-0.5"),
    ] {
        let data = payload(vec![metric(Some("x"), None, Some(datatype), Some(value))]);
        let shown = show(&d, "spBv1.0/g/DDATA/e/d", &data).unwrap();
        assert_eq!(shown, format!("g/e/d x {wanted} @1000"), "type {datatype}");
    }
    let time = payload(vec![metric(Some("x"), None, Some(t::DATE_TIME), Some(Value::Long(5)))]);
    assert_eq!(show(&d, "spBv1.0/g/DDATA/e/d", &time).unwrap(), " (1 skipped)");
}

#[test]
fn what_is_wrong_is_told() {
    let d = Decoder::default();
    let fails = |topic: &str, payload: &[u8], said: &str| {
        let e = show(&d, &format!("spBv1.0/{topic}"), payload).unwrap_err().to_string();
        assert!(e.contains(said), "{e}");
    };
    fails("g/NDATA/e/d", &birth(), "it is no Sparkplug B topic");
    fails("g/DDATA/e", &birth(), "it is no Sparkplug B topic");
    fails("g/DDATA/e/", &birth(), "it is no Sparkplug B topic");
    fails("/NDATA/e", &birth(), "it is no Sparkplug B topic");
    fails("g/NDATA/e", b"{}", "not a Sparkplug B payload");
    fails("g/NDATA/e", &[0x12, 0].repeat(4_097), "4097 metrics, at most 4096");
    fails("g/NDATA/e", &payload(vec![metric(None, None, None, None)]), "neither name nor alias");
    fails("g/NBIRTH/e", &payload(vec![metric(None, Some(1), None, None)]), "a birth's metric has no name");
    let twice = ["a", "b"].map(|n| metric(Some(n), Some(1), Some(t::FLOAT), None));
    fails("g/NBIRTH/e", &payload(twice.into()), "alias 1 stands for two metrics");
    let mut late = metric(Some("a"), None, None, Some(Value::Float(1.0)));
    late.timestamp = Some(u64::MAX);
    fails("g/NDATA/e", &payload(vec![late]), "timestamp 18446744073709551615 is after year 9999");
    assert_eq!(show(&d, "spBv1.0/g/DCMD/e/d", b"").unwrap(), "not mapped");
}

#[test]
fn births_are_bounded_and_the_one_unused_for_longest_goes_first() {
    let d = Decoder::default();
    let name = |n: usize| format!("{n:0>200}");
    let big: Vec<Metric> = (0..4_000)
        .map(|n| metric(Some(&name(n)), Some(n as u64), Some(t::FLOAT), Some(Value::Float(0.0))))
        .collect();
    let big = payload(big);
    let data = payload(vec![metric(None, Some(1), None, Some(Value::Float(1.0)))]);
    let say = |topic: &str, payload: &[u8]| show(&d, &format!("spBv1.0/g/{topic}"), payload).is_ok();
    // Some 1.3 MB each: three fit.
    for edge in ["a", "b", "c"] {
        assert!(say(&format!("NBIRTH/{edge}"), &big));
    }
    assert!(say("NDATA/a", &data) && say("NDATA/b", &data) && say("NDATA/c", &data) && say("NDATA/a", &data));
    assert!(say("NBIRTH/d", &big));
    assert!(say("NDATA/a", &data) && say("NDATA/c", &data) && say("NDATA/d", &data));
    assert!(!say("NDATA/b", &data), "b was used least recently");
}
