//! Sparkplug B: births, aliases, the loss of a birth, and the request to send it again.

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use selvedge_fabric::decode::{
    DecodeError, Decoded, Decoder, Form, MAX_EDGE_NODES_ENTRIES, MAX_INFLATED_BYTES, MAX_REBIRTH_WAIT_MS,
    REBIRTH_WAIT_MS, Rebirth, TopicRule,
};
use selvedge_types::sparkplug::{Metric, MetricValue, Payload, data_type as t};
use selvedge_types::time::EpochMs;
use std::io::Write;

const NOW: EpochMs = EpochMs(1_764_000_000_000);

fn metric(
    name: Option<&str>,
    alias: Option<u64>,
    datatype: Option<u32>,
    value: Option<MetricValue>,
) -> Metric {
    Metric { name: name.map(Into::into), alias, datatype, value, ..Metric::default() }
}

fn payload(metrics: Vec<Metric>) -> Vec<u8> {
    numbered(0, metrics)
}

fn numbered(seq: u64, metrics: Vec<Metric>) -> Vec<u8> {
    Payload { timestamp: Some(1_000), metrics, seq: Some(seq), ..Payload::default() }.write()
}

fn show(decoder: &Decoder, topic: &str, payload: &[u8]) -> Result<String, Box<DecodeError>> {
    match decoder.decode(NOW, topic, payload) {
        Decoded::Readings { list, skipped, .. } => {
            let time = |t: Option<EpochMs>| t.map(|t| format!(" @{}", t.0)).unwrap_or_default();
            let each = list.iter().map(|r| format!("{} {} {}{}", r.device, r.stream, r.value, time(r.time)));
            let skipped: String = skipped.iter().map(|s| format!(" -{}:{}", s.name, s.why.label())).collect();
            Ok(each.collect::<Vec<_>>().join(", ") + &skipped)
        }
        Decoded::NoReading { .. } => Ok("no reading".into()),
        Decoded::NotMapped => Ok("not mapped".into()),
        Decoded::Malformed(e) => Err(e),
    }
}

/// The request to an edge node that follows a message at this time.
fn asked(decoder: &Decoder, at_ms: i64, topic: &str, payload: &[u8]) -> Option<Rebirth> {
    match decoder.decode(EpochMs(at_ms), topic, payload) {
        Decoded::Readings { rebirth, .. } => rebirth.map(|r| *r),
        Decoded::Malformed(e) => e.rebirth.map(|r| *r),
        Decoded::NoReading { .. } | Decoded::NotMapped => None,
    }
}

/// The metric that pairs a birth and a death of an edge node.
fn bd_seq(n: u64) -> Metric {
    metric(Some("bdSeq"), None, Some(t::INT64), Some(MetricValue::Long(n)))
}

fn birth() -> Vec<u8> {
    payload(vec![
        metric(Some("bdSeq"), None, Some(t::INT64), Some(MetricValue::Long(3))),
        metric(Some("Node Control/Rebirth"), None, Some(t::BOOLEAN), Some(MetricValue::Boolean(false))),
        metric(Some("temp"), Some(1), Some(t::FLOAT), Some(MetricValue::Float(21.5))),
        metric(Some("Motor/rpm"), Some(2), Some(t::INT16), Some(MetricValue::Int(0xffff_fffe))),
        metric(Some("serial"), Some(3), Some(t::STRING), Some(MetricValue::Text("x".into()))),
    ])
}

#[test]
fn a_birth_defines_what_data_by_alias_means() {
    let d = Decoder::default();
    let born = show(&d, "spBv1.0/plant/NBIRTH/edge-1", &birth()).unwrap();
    assert_eq!(born, "plant/edge-1 temp 21.5 @1000, plant/edge-1 Motor/rpm -2 @1000 -serial:text");
    let mut timed = metric(None, Some(2), None, Some(MetricValue::Int(0xffff)));
    timed.timestamp = Some(2_000);
    timed.is_historical = Some(true);
    let mut null = metric(None, Some(1), None, None);
    null.is_null = Some(true);
    let nan = metric(Some("temp"), None, None, Some(MetricValue::Float(f32::NAN)));
    let data =
        payload(vec![timed, null, nan, metric(Some("temp"), None, None, Some(MetricValue::Double(1.5)))]);
    assert_eq!(
        show(&d, "spBv1.0/plant/NDATA/edge-1", &data).unwrap(),
        "plant/edge-1 Motor/rpm -1 @2000, plant/edge-1 temp 1.5 @1000 -temp:null -temp:not_finite"
    );
}

#[test]
fn an_unknown_alias_asks_for_a_rebirth_once() {
    let d = Decoder::default();
    let data = payload(vec![metric(None, Some(1), None, Some(MetricValue::Float(1.0)))]);
    let unknown = |topic: &str| show(&d, topic, &data).unwrap_err();
    let e = unknown("spBv1.0/plant/NDATA/edge-1");
    assert!(e.to_string().contains("\"alias 1\" (an unknown alias)"), "{e}");
    let rebirth = e.rebirth.unwrap();
    assert_eq!(rebirth.topic, "spBv1.0/plant/NCMD/edge-1");
    assert_eq!(Payload::read(&rebirth.payload, 1).unwrap(), Payload::rebirth(NOW.0 as u64));
    // While the request waits, the edge node and its devices are not asked again; another edge node is.
    assert_eq!(unknown("spBv1.0/plant/NDATA/edge-1").rebirth, None);
    assert_eq!(unknown("spBv1.0/plant/DDATA/edge-1/pump").rebirth, None);
    assert_eq!(
        unknown("spBv1.0/plant/DDATA/edge-3/pump").rebirth.unwrap().topic,
        "spBv1.0/plant/NCMD/edge-3"
    );

    show(&d, "spBv1.0/plant/NBIRTH/edge-1", &birth()).unwrap();
    assert_eq!(show(&d, "spBv1.0/plant/NDATA/edge-1", &data).unwrap(), "plant/edge-1 temp 1 @1000");
    unknown("spBv1.0/plant/NDATA/edge-2");
    unknown("spBv1.0/plant/DDATA/edge-1/pump");
    // An integer whose type no birth defines can't be read either, because its sign is unknown.
    let bare = payload(vec![metric(Some("new"), None, None, Some(MetricValue::Int(5)))]);
    assert!(show(&d, "spBv1.0/plant/NDATA/edge-4", &bare).unwrap_err().rebirth.is_some());
    // The readable metrics beside it count.
    let mixed = payload(vec![
        metric(Some("a"), None, Some(t::DOUBLE), Some(MetricValue::Double(2.0))),
        metric(None, Some(9), None, Some(MetricValue::Float(1.0))),
    ]);
    assert_eq!(
        show(&d, "spBv1.0/plant/NDATA/edge-5", &mixed).unwrap(),
        "plant/edge-5 a 2 @1000 -alias 9:unknown_alias"
    );
    assert_eq!(
        asked(&d, NOW.0, "spBv1.0/plant/NDATA/edge-6", &mixed).unwrap().topic,
        "spBv1.0/plant/NCMD/edge-6"
    );
    assert_eq!(d.sparkplug_figures().rebirths, 6);
}

#[test]
fn a_rebirth_is_asked_for_ever_more_seldom() {
    let d = Decoder::default();
    let data = payload(vec![metric(None, Some(1), None, Some(MetricValue::Float(1.0)))]);
    let mut at = Vec::new();
    for s in 0..4 * 3_600 {
        if asked(&d, NOW.0 + s * 1_000, "spBv1.0/g/NDATA/e", &data).is_some() {
            at.push(s * 1_000);
        }
    }
    let waits: Vec<i64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(waits[..4], [1, 2, 4, 8].map(|n| n * REBIRTH_WAIT_MS));
    assert!(waits.iter().all(|wait| *wait <= MAX_REBIRTH_WAIT_MS) && at.len() <= 9, "{waits:?}");
    // After a clock jumps by years, the edge node is asked once more, and not again and again.
    let after = NOW.0 + 40 * 365 * 86_400_000;
    let jumped = (0..100).filter(|s| asked(&d, after + s, "spBv1.0/g/NDATA/e", &data).is_some()).count();
    assert_eq!(jumped, 1);
}

#[test]
fn a_rebirth_goes_to_the_namespace_that_the_topic_has() {
    let topic = "site-7/spBv1.0/#".into();
    let d =
        Decoder::new(vec![TopicRule { topic, decoder: Form::SparkplugB, ..TopicRule::default() }]).unwrap();
    let data = payload(vec![metric(None, Some(1), None, Some(MetricValue::Float(1.0)))]);
    let rebirth = asked(&d, NOW.0, "site-7/spBv1.0/g/DDATA/e/d", &data).unwrap();
    assert_eq!(rebirth.topic, "site-7/spBv1.0/g/NCMD/e");
}

#[test]
fn edge_nodes_that_are_known_are_bounded() {
    let d = Decoder::default();
    let data = payload(vec![metric(None, Some(1), None, Some(MetricValue::Float(1.0)))]);
    for n in 0..MAX_EDGE_NODES_ENTRIES + 1 {
        assert!(asked(&d, NOW.0, &format!("spBv1.0/g/NDATA/e{n}"), &data).is_some());
    }
    assert!(asked(&d, NOW.0, "spBv1.0/g/NDATA/e1", &data).is_none(), "remembered");
    assert!(asked(&d, NOW.0, "spBv1.0/g/NDATA/e0", &data).is_some(), "forgotten");
}

#[test]
fn a_death_is_that_of_the_birth_with_its_bd_seq() {
    let d = Decoder::default();
    let say = |topic: &str, payload: &[u8]| show(&d, &format!("spBv1.0/g/{topic}"), payload);
    let temp = || metric(Some("temp"), Some(1), Some(t::FLOAT), Some(MetricValue::Float(20.0)));
    let data = payload(vec![metric(None, Some(1), None, Some(MetricValue::Float(1.0)))]);
    // A new session's birth arrives before the will of the old one.
    assert!(say("NBIRTH/e", &payload(vec![bd_seq(4), temp()])).is_ok());
    assert!(say("NBIRTH/e", &payload(vec![bd_seq(5), temp()])).is_ok());
    assert!(say("DBIRTH/e/pump", &payload(vec![temp()])).is_ok());
    assert_eq!(say("NDEATH/e", &payload(vec![bd_seq(4)])).unwrap(), "no reading");
    assert_eq!(say("NDATA/e", &data).unwrap(), "g/e temp 1 @1000");
    assert_eq!(say("DDATA/e/pump", &data).unwrap(), "g/e/pump temp 1 @1000");
    assert_eq!(d.sparkplug_figures().late_deaths, 1);
    // Its own will ends it, and so does one that names no session.
    assert_eq!(say("NDEATH/e", &payload(vec![bd_seq(5)])).unwrap(), "no reading");
    assert!(say("NDATA/e", &data).is_err());
    for death in [payload(vec![]), b"anything".to_vec()] {
        assert!(say("NBIRTH/e", &payload(vec![bd_seq(6), temp()])).is_ok());
        assert!(say("NDEATH/e", &death).is_ok());
        assert!(say("NDATA/e", &data).is_err());
    }
    // It counts modulo 256.
    assert!(say("NBIRTH/e", &payload(vec![bd_seq(0), temp()])).is_ok());
    assert!(say("NDEATH/e", &payload(vec![bd_seq(255)])).is_ok());
    assert!(say("NDATA/e", &data).is_ok());
}

#[test]
fn a_gap_in_seq_is_counted_and_asks_for_births() {
    let d = Decoder::default();
    let temp = || metric(Some("temp"), Some(1), Some(t::FLOAT), Some(MetricValue::Float(20.0)));
    let send =
        |topic: &str, seq: u64| asked(&d, NOW.0, &format!("spBv1.0/g/{topic}"), &numbered(seq, vec![temp()]));
    assert_eq!(send("NBIRTH/e", 250), None);
    assert_eq!(send("DBIRTH/e/a", 251), None);
    for seq in [252, 253, 254, 255, 0, 1] {
        assert_eq!(send("DDATA/e/a", seq), None, "{seq}");
    }
    // The same again, and older ones, are resends.
    assert_eq!((send("NDATA/e", 1), send("NDATA/e", 255)), (None, None));
    assert_eq!(d.sparkplug_figures().missing, 0);
    assert_eq!(send("NDATA/e", 5).unwrap().topic, "spBv1.0/g/NCMD/e");
    assert_eq!(d.sparkplug_figures().missing, 3);
    assert_eq!(send("NDATA/e", 6), None, "it was asked");
    assert_eq!((send("NBIRTH/e", 0), send("NDATA/e", 1)), (None, None));
    assert_eq!(d.sparkplug_figures().missing, 3);
}

fn compressed(algorithm: Option<&str>, body: Vec<u8>) -> Vec<u8> {
    let algorithm = algorithm
        .map(|name| metric(Some("algorithm"), None, Some(t::STRING), Some(MetricValue::Text(name.into()))));
    let (uuid, body) = (Some("SPBV1.0_COMPRESSED".into()), Some(body));
    Payload { timestamp: Some(1), metrics: algorithm.into_iter().collect(), uuid, body, ..Payload::default() }
        .write()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn compressed_payloads_are_read() {
    let d = Decoder::default();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(&birth()).unwrap();
    let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
    raw.write_all(&birth()).unwrap();
    let (zlib, raw) = (zlib.finish().unwrap(), raw.finish().unwrap());
    for (algorithm, body) in [
        (Some("GZIP"), gzip(&birth())),
        (Some("DEFLATE"), zlib.clone()),
        (Some("deflate"), raw),
        (None, zlib),
    ] {
        assert_eq!(
            show(&d, "spBv1.0/g/NBIRTH/e", &compressed(algorithm, body)).unwrap(),
            "g/e temp 21.5 @1000, g/e Motor/rpm -2 @1000 -serial:text"
        );
    }
    // A death within a compressed payload is paired too.
    assert!(show(&d, "spBv1.0/g/NDEATH/e", &compressed(None, gzip(&payload(vec![bd_seq(2)])))).is_ok());
    let data = payload(vec![metric(None, Some(1), None, Some(MetricValue::Float(1.0)))]);
    assert!(show(&d, "spBv1.0/g/NDATA/e", &compressed(None, gzip(&data))).is_ok());
}

#[test]
fn a_compressed_payload_is_bounded_and_what_is_wrong_with_it_is_told() {
    let d = Decoder::default();
    let fails = |payload: &[u8]| show(&d, "spBv1.0/g/NDATA/e", payload).unwrap_err();
    for (payload, said) in [
        (compressed(Some("BROTLI"), vec![1]), "neither GZIP nor DEFLATE"),
        (compressed(None, vec![]), "its body is empty"),
        (compressed(None, vec![0x1f, 0x8b, 8, 0]), "its compressed body is damaged"),
        (compressed(None, vec![0xff; 20]), "its compressed body is damaged"),
        (compressed(None, gzip(b"{}")), "it is not a Sparkplug B payload"),
        (compressed(None, gzip(&compressed(None, gzip(&birth())))), "it is compressed twice"),
    ] {
        let e = fails(&payload);
        assert!(e.to_string().contains(said) && !e.too_large, "{e}");
    }
    let bomb = fails(&compressed(Some("GZIP"), gzip(&vec![0; MAX_INFLATED_BYTES + 1])));
    assert!(bomb.too_large && bomb.to_string().contains("once it is decompressed"), "{bomb}");
}

#[test]
fn metrics_that_are_no_numbers_are_named() {
    let d = Decoder::default();
    let data = |metrics| show(&d, "spBv1.0/g/NDATA/e", &payload(metrics));
    let mut past = metric(Some("past"), None, Some(t::FLOAT), Some(MetricValue::Float(1.0)));
    past.is_historical = Some(true);
    let mut passing = metric(Some("passing"), None, Some(t::FLOAT), Some(MetricValue::Float(1.0)));
    passing.is_transient = Some(true);
    let odd = || {
        vec![
            metric(Some("text"), None, Some(t::STRING), Some(MetricValue::Text("47".into()))),
            metric(Some("set"), None, Some(t::DATA_SET), None),
            metric(Some("template"), None, Some(t::TEMPLATE), None),
            metric(Some("bytes"), None, Some(17), Some(MetricValue::Bytes(vec![1]))),
            metric(Some("when"), None, Some(t::DATE_TIME), Some(MetricValue::Long(5))),
            metric(Some("nan"), None, Some(t::DOUBLE), Some(MetricValue::Double(f64::NAN))),
            metric(Some("a\nb"), None, Some(t::DOUBLE), Some(MetricValue::Double(1.0))),
            past.clone(),
            passing.clone(),
        ]
    };
    let named = "-text:text -set:structure -template:structure -bytes:bytes -when:time -nan:not_finite \
                 -a\nb:bad_name -past:historical_without_time -passing:transient";
    let mut all = odd();
    all.push(metric(Some("x"), None, Some(t::DOUBLE), Some(MetricValue::Double(1.0))));
    assert_eq!(data(all).unwrap(), format!("g/e x 1 @1000 {named}"));
    let e = data(odd()).unwrap_err();
    assert!(e.to_string().starts_with("payload: it holds no number; skipped: \"text\" (a string"), "{e}");
    assert_eq!((e.skipped.len(), e.rebirth), (9, None));
    // A birth defines something, and control metrics steer: neither is an error.
    let text = metric(Some("text"), Some(1), Some(t::STRING), Some(MetricValue::Text("x".into())));
    assert_eq!(show(&d, "spBv1.0/g/DBIRTH/e/d", &payload(vec![text])).unwrap(), "no reading");
    assert_eq!(show(&d, "spBv1.0/g/NBIRTH/e", &payload(vec![bd_seq(1)])).unwrap(), "no reading");
    let control =
        metric(Some("Node Control/Rebirth"), None, Some(t::BOOLEAN), Some(MetricValue::Boolean(false)));
    assert_eq!(data(vec![control]).unwrap(), "no reading");
    assert_eq!(show(&d, "spBv1.0/g/NDATA/e", b"").unwrap(), "no reading", "emptied");
    assert!(data(vec![]).is_err());
    for topic in ["spBv1.0/STATE/host", "spBv1.0/STATE/NDATA", "spBv1.0/STATE/NDATA/x"] {
        assert_eq!(show(&d, topic, b"{}").unwrap(), "not mapped");
    }
}

#[test]
fn deaths_and_births_of_an_edge_node_forget_its_devices() {
    let d = Decoder::default();
    let data = payload(vec![metric(None, Some(1), None, Some(MetricValue::Float(1.0)))]);
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
        (t::INT8, MetricValue::Int(0xff), "-1"),
        (t::INT16, MetricValue::Int(0x8000), "-32768"),
        (t::INT32, MetricValue::Int(0xffff_ffff), "-1"),
        (t::INT32, MetricValue::Long(u64::MAX), "-1"),
        (t::INT64, MetricValue::Long(u64::MAX), "-1"),
        (t::UINT8, MetricValue::Int(0xff), "255"),
        (t::UINT32, MetricValue::Int(0xffff_ffff), "4294967295"),
        (t::UINT64, MetricValue::Long(1 << 63), "9223372036854776000"),
        (t::UINT8, MetricValue::Long(0x1ff), "255"),
        (t::INT64, MetricValue::Int(0xffff_ffff), "-1"),
        (t::BOOLEAN, MetricValue::Boolean(true), "1"),
        (t::BOOLEAN, MetricValue::Long(2), "1"),
        (t::DOUBLE, MetricValue::Double(-0.5), "-0.5"),
    ] {
        let data = payload(vec![metric(Some("x"), None, Some(datatype), Some(value))]);
        let shown = show(&d, "spBv1.0/g/DDATA/e/d", &data).unwrap();
        assert_eq!(shown, format!("g/e/d x {wanted} @1000"), "type {datatype}");
    }
}

#[test]
fn what_is_wrong_is_told() {
    let d = Decoder::default();
    let fails = |topic: &str, payload: &[u8], said: &str| {
        let e = show(&d, &format!("spBv1.0/{topic}"), payload).unwrap_err().to_string();
        assert!(e.contains(said), "{e}");
    };
    fails("g/NDATA/e/d", &birth(), "it is not a Sparkplug B topic");
    fails("g/DDATA/e", &birth(), "it is not a Sparkplug B topic");
    fails("g/DDATA/e/", &birth(), "it is not a Sparkplug B topic");
    fails("/NDATA/e", &birth(), "it is not a Sparkplug B topic");
    fails("g/NDATA/e", b"{}", "it is not a Sparkplug B payload");
    fails("g/NDATA/e", &[0x12, 0].repeat(4_097), "4097 metrics; at most 4096 are allowed");
    fails("g/NDATA/e", &payload(vec![metric(None, None, None, None)]), "neither name nor alias");
    fails("g/NBIRTH/e", &payload(vec![metric(None, Some(1), None, None)]), "a birth's metric has no name");
    let twice = ["a", "b"].map(|n| metric(Some(n), Some(1), Some(t::FLOAT), None));
    fails("g/NBIRTH/e", &payload(twice.into()), "alias 1 stands for two metrics");
    let mut late = metric(Some("a"), None, None, Some(MetricValue::Float(1.0)));
    late.timestamp = Some(u64::MAX);
    fails("g/NDATA/e", &payload(vec![late]), "timestamp 18446744073709551615 is after year 9999");
    assert_eq!(show(&d, "spBv1.0/g/DCMD/e/d", b"").unwrap(), "not mapped");
}

#[test]
fn births_are_bounded_and_the_one_unused_for_longest_goes_first() {
    let d = Decoder::default();
    let name = |n: usize| format!("{n:0>200}");
    let big: Vec<Metric> = (0..4_000)
        .map(|n| metric(Some(&name(n)), Some(n as u64), Some(t::FLOAT), Some(MetricValue::Float(0.0))))
        .collect();
    let big = payload(big);
    let data = payload(vec![metric(None, Some(1), None, Some(MetricValue::Float(1.0)))]);
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
