//! Three real gateways and clients that speak MQTT byte by byte: sessions that move between gateways, resends,
//! takeover, wills, subscriptions, kill -9 and the loss of the majority.

mod gateways {
    pub mod client;
    pub mod site;
}

use gateways::client::{Client, DISCONNECT, Hello, Message, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC};
use gateways::site::{Plan, Site, until};
use std::net::TcpListener;
use std::time::Duration;

/// Publishes to a topic at one gateway until a publish arrives at another.
fn until_routed(from: &mut Client, to: &mut Client, topic: &str) {
    until("a subscription is known at another gateway", || {
        from.publish(topic, "probe", 0, 0, false);
        to.message_within(topic, Duration::from_millis(100)).is_some()
    });
}

#[test]
fn a_persistent_session_goes_on_at_another_gateway_with_its_subscriptions() {
    let site = Site::shared();
    let mut first = Client::connect(site.mqtt(0), Hello::persistent("roams")).unwrap();
    assert!(!first.session_present);
    first.subscribe("roams/#");
    // Its own reading follows its subscription on the same way.
    first.publish("d/roams/x", "1", 1, 1, false);
    assert_eq!(first.packet(PUBACK), [0, 1]);
    drop(first);
    let mut second = Client::connect(site.mqtt(1), Hello::persistent("roams")).unwrap();
    assert!(second.session_present);
    let mut other = Client::connect(site.mqtt(2), Hello::clean("roams-other")).unwrap();
    until_routed(&mut other, &mut second, "roams/probe");
    other.publish("roams/live", "hello", 1, 1, false);
    assert_eq!(other.packet(PUBACK), [0, 1]);
    assert_eq!(second.message("roams/live").payload, "hello");
    second.disconnect();
    // DISCONNECT does not end the session; a clean connection does.
    let third = Client::connect(site.mqtt(2), Hello::persistent("roams")).unwrap();
    assert!(third.session_present);
    third.disconnect();
    Client::connect(site.mqtt(0), Hello::clean("roams")).unwrap().disconnect();
    assert!(!Client::connect(site.mqtt(1), Hello::persistent("roams")).unwrap().session_present);
}

#[test]
fn a_qos_1_resend_at_another_gateway_counts_once() {
    let site = Site::shared();
    for (device, hello) in
        [("resend-3", Hello::persistent("resend-3")), ("resend-5", Hello::persistent("resend-5").v5())]
    {
        let topic = format!("d/{device}/force");
        let mut a = Client::connect(site.mqtt(0), hello).unwrap();
        a.publish(&topic, "5", 1, 7, false);
        assert_eq!(a.packet(PUBACK)[..2], [0, 7]);
        drop(a);
        let mut b = Client::connect(site.mqtt(1), hello).unwrap();
        b.publish(&topic, "5", 1, 7, true);
        assert_eq!(b.packet(PUBACK)[..2], [0, 7]);
        assert_eq!(site.count(2, device), 1);
        // Not marked as a resend, it is another reading.
        b.publish(&topic, "5", 1, 7, false);
        assert_eq!(b.packet(PUBACK)[..2], [0, 7]);
        assert_eq!(site.count(2, device), 2);
    }
}

#[test]
fn a_device_that_is_retired_at_any_gateway_is_gone_and_its_resends_do_not_count() {
    let site = Site::shared();
    let mut client = Client::connect(site.mqtt(0), Hello::clean("retiring")).unwrap();
    let mut publish = |packet_id: u16, seq: u32| {
        let payload = format!(r#"{{"value":1,"seq":{seq}}}"#);
        client.publish("d/retiring/x", &payload, 1, packet_id, false);
        assert_eq!(client.packet(PUBACK)[..2], packet_id.to_be_bytes());
    };
    (1..=3).for_each(|n| publish(n, u32::from(n)));
    until("another gateway's replica knows the device", || {
        let stream = &site.json(1, "/v1/devices/retiring")["streams"][0];
        stream["stream"] == "x" && stream["client"] == "retiring"
    });
    assert_eq!(site.delete(1, "/v1/devices/retiring")["retired_streams"], 1);
    assert_eq!(site.order(2, "DELETE", "/v1/devices/retiring").0, 404, "it is not known any more");
    until("all replicas have retired it", || {
        (0..3).all(|i| site.json(i, "/v1/devices/retiring")["type"] == "/docs#problem-unknown")
    });
    // A resend of counted readings brings nothing back; new readings make the device known again.
    publish(4, 2);
    assert_eq!(site.count(0, "retiring"), 0);
    publish(5, 4);
    // Its earlier windows are in batches that are kept, and are shown with it again.
    assert_eq!(site.count(2, "retiring"), 4);
    assert_eq!(site.order(0, "DELETE", "/v1/devices/retiring/streams/none").0, 404);
    assert_eq!(site.delete(0, "/v1/devices/retiring/streams/x")["retired_streams"], 1);
    let bounds = site.json(0, "/v1/status")["bounds"].take();
    assert!(bounds.as_array().is_some_and(|list| list.iter().any(|b| b["rule"] == "max_streams")));
}

#[test]
fn a_qos_2_publish_counts_once_until_it_is_released_wherever_it_is_resent() {
    let site = Site::shared();
    let (hello, topic) = (Hello::persistent("exact"), "d/exact-device/force");
    let mut a = Client::connect(site.mqtt(0), hello).unwrap();
    a.publish(topic, "6", 2, 5, false);
    assert_eq!(a.packet(PUBREC), [0, 5]);
    drop(a);
    let mut b = Client::connect(site.mqtt(1), hello).unwrap();
    b.publish(topic, "6", 2, 5, true);
    assert_eq!(b.packet(PUBREC), [0, 5]);
    assert_eq!(site.count(2, "exact-device"), 1);
    drop(b);
    // PUBREL may also come first, and may be resent.
    let mut c = Client::connect(site.mqtt(2), hello).unwrap();
    for _ in 0..2 {
        c.release(5);
        assert_eq!(c.packet(PUBCOMP), [0, 5]);
    }
    // The packet id is free again: the same bytes are another reading.
    c.publish(topic, "6", 2, 5, false);
    assert_eq!(c.packet(PUBREC), [0, 5]);
    assert_eq!(site.count(1, "exact-device"), 2);
}

#[test]
fn who_connects_last_at_any_gateway_has_the_session() {
    let site = Site::shared();
    for (id, persistent) in [("taken-kept", true), ("taken-clean", false)] {
        let hello = if persistent { Hello::persistent(id) } else { Hello::clean(id) };
        let mut old = Client::connect(site.mqtt(0), hello).unwrap();
        old.publish("d/taken/x", "1", 1, 1, false);
        old.packet(PUBACK);
        let mut v5 = Client::connect(site.mqtt(1), hello.v5()).unwrap();
        assert_eq!(v5.session_present, persistent);
        assert!(old.is_closed());
        let mut newest = Client::connect(site.mqtt(2), hello).unwrap();
        assert_eq!(v5.packet(DISCONNECT).first(), Some(&0x8e), "session taken over");
        assert!(v5.is_closed());
        newest.publish("d/taken/x", "1", 1, 2, false);
        assert_eq!(newest.packet(PUBACK), [0, 2]);
    }
}

#[test]
fn a_subscriber_gets_what_is_published_at_another_gateway() {
    let site = Site::shared();
    let mut device = Client::connect(site.mqtt(0), Hello::clean("line-device")).unwrap();
    for (id, hello) in [("hmi-3", Hello::clean("hmi-3")), ("hmi-5", Hello::clean("hmi-5").v5())] {
        let mut hmi = Client::connect(site.mqtt(2), hello).unwrap();
        hmi.subscribe("line/+/state/#");
        hmi.subscribe("d/line-device/+");
        until_routed(&mut device, &mut hmi, &format!("line/7/state/{id}"));
        // No topic rule names the first one: it is not a stream, but it is routed.
        for (qos, topic) in
            [(1, "line/8/state/a/b"), (0, "line/9/state"), (1, "d/line-device/x"), (0, "d/line-device/y")]
        {
            device.publish(topic, "3.5", qos, 9, false);
            if qos == 1 {
                assert_eq!(device.packet(PUBACK), [0, 9]);
            }
            assert_eq!(hmi.message(topic), Message { topic: topic.into(), payload: "3.5".into(), qos });
        }
        // A topic without a subscription does not arrive: the next message is the one published after it.
        device.publish("line/8/other", "no", 1, 9, false);
        device.publish("line/8/state", "end", 1, 10, false);
        assert_eq!(device.acks(2), [9, 10]);
        assert_eq!(hmi.message("line/8/").payload, "end");
    }
    let quarantined = site.json(0, "/v1/quarantine").to_string();
    assert!(!quarantined.contains("line/8"), "{quarantined}");
}

/// Publishes a numbered message of 15,000 bytes with QoS 1.
fn publish_large(client: &mut Client, topic: &str, n: u16) {
    let payload = format!("{n:015000}");
    let body = [&[0, topic.len() as u8], topic.as_bytes(), &n.to_be_bytes(), payload.as_bytes()].concat();
    client.send_raw(&[0x32, (body.len() & 0x7f) as u8 | 0x80, (body.len() >> 7) as u8]);
    client.send_raw(&body);
}

/// The bytes that wait for a subscriber are bounded (8 MiB); here come 22 MB for one that reads only once its publisher
/// makes no more progress.
#[test]
fn a_subscriber_that_reads_late_loses_nothing_of_what_is_published_at_another_gateway() {
    const MESSAGES: u16 = 1_500;
    let site = Site::shared();
    let mut device = Client::connect(site.mqtt(0), Hello::clean("far-device")).unwrap();
    let mut hmi = Client::connect(site.mqtt(1), Hello::clean("far-hmi")).unwrap();
    hmi.subscribe("far/#");
    until_routed(&mut device, &mut hmi, "far/probe");
    let (mut sent, mut acked) = (0, 0);
    let publish = |device: &mut Client, sent: &mut u16, acked: u16| {
        while *sent < MESSAGES && *sent - acked < 32 {
            *sent += 1;
            publish_large(device, "far/large", *sent);
        }
    };
    publish(&mut device, &mut sent, acked);
    while acked < MESSAGES && device.packet_within(PUBACK, Duration::from_millis(700)).is_some() {
        acked += 1;
        publish(&mut device, &mut sent, acked);
    }
    let reads = std::thread::spawn(move || {
        let mut got = Vec::new();
        while got.last() != Some(&MESSAGES)
            && let Some(body) = hmi.packet_within(PUBLISH, Duration::from_secs(20))
        {
            let (topic, rest) = body[2..].split_at(usize::from(body[1]));
            if topic == b"far/large" {
                hmi.send_raw(&[0x40, 2, rest[0], rest[1]]);
                got.push(String::from_utf8_lossy(&rest[2..]).parse().unwrap());
            }
        }
        got
    });
    while acked < MESSAGES {
        device.packet(PUBACK);
        acked += 1;
        publish(&mut device, &mut sent, acked);
    }
    assert_eq!(reads.join().unwrap(), (1..=MESSAGES).collect::<Vec<u16>>());
}

#[test]
fn a_will_is_published_when_its_client_vanishes_and_not_when_it_takes_leave() {
    let site = Site::shared();
    let mut hmi = Client::connect(site.mqtt(1), Hello::clean("will-hmi")).unwrap();
    hmi.subscribe("will/+");
    let mut other = Client::connect(site.mqtt(0), Hello::clean("will-other")).unwrap();
    until_routed(&mut other, &mut hmi, "will/probe");
    let with_will = |id| Hello::clean(id).will(id, "gone");
    Client::connect(site.mqtt(0), with_will("will/leaves")).unwrap().disconnect();
    Client::connect(site.mqtt(0), with_will("will/leaves").v5()).unwrap().disconnect();
    drop(Client::connect(site.mqtt(0), with_will("will/vanishes")).unwrap());
    assert_eq!(hmi.message("will/vanishes").payload, "gone");
    drop(Client::connect(site.mqtt(1), with_will("will/vanishes").v5()).unwrap());
    assert_eq!(hmi.message("will/vanishes").payload, "gone");
    let silent = Client::connect(site.mqtt(0), with_will("will/silent").keep_alive_s(1)).unwrap();
    assert_eq!(hmi.message("will/silent").payload, "gone");
    drop(silent);
    assert_eq!(hmi.message_within("will/leaves", Duration::ZERO), None);
}

#[test]
fn the_will_of_a_connection_comes_before_what_its_successor_publishes() {
    let site = Site::shared();
    let topic = "d/order-device/alive";
    let mut hmi = Client::connect(site.mqtt(2), Hello::clean("order-hmi")).unwrap();
    hmi.subscribe("d/order-device/#");
    for gateway in 0..2 {
        let id = format!("order-probe-{gateway}");
        let mut probe = Client::connect(site.mqtt(gateway), Hello::clean(&id)).unwrap();
        until_routed(&mut probe, &mut hmi, &format!("d/order-device/probe/{gateway}"));
    }
    for n in 0..12 {
        let hello = match n % 3 {
            0 => Hello::clean("order"),
            1 => Hello::clean("order").v5(),
            _ => Hello::persistent("order"),
        };
        let mut old = Client::connect(site.mqtt(n % 2), hello.will(topic, "0")).unwrap();
        // Taken over at another gateway, or at the same one.
        let mut new = Client::connect(site.mqtt(n / 2 % 2), hello).unwrap();
        new.publish(topic, "1", 1, 1, false);
        assert_eq!(new.packet(PUBACK)[..2], [0, 1]);
        assert_eq!((hmi.message(topic).payload.as_str(), n), ("0", n), "the will comes first");
        assert_eq!((hmi.message(topic).payload.as_str(), n), ("1", n), "and once");
        assert!(old.is_closed());
        new.disconnect();
    }
    assert_eq!(site.count(0, "order-device"), 24);
}

#[test]
fn what_suback_granted_and_what_was_left_as_a_will_survives_kill_9() {
    let mut site = Site::start();
    let mut hmi = Client::connect(site.mqtt(2), Hello::clean("left-hmi")).unwrap();
    hmi.subscribe("left/#");
    let hello = Hello::persistent("granted").will("left/granted", "gone");
    let _stays_away = Client::connect(site.mqtt(1), Hello::clean("away").will("left/away", "gone")).unwrap();
    let mut client = Client::connect(site.mqtt(1), hello).unwrap();
    let filters: Vec<String> = (0..6).map(|n| format!("granted/{n}")).collect();
    filters.iter().for_each(|filter| client.subscribe(filter));
    site.kill(1);
    let mut again = Client::connect(site.mqtt(2), hello).unwrap();
    assert!(again.session_present);
    until("a list of the site says whose part it lacks", || {
        site.json(0, "/v1/unmapped")["missing_gateways"] == serde_json::json!([2])
    });
    assert_eq!(hmi.message_within("left/granted", Duration::from_millis(500)).unwrap().payload, "gone");
    let mut other = Client::connect(site.mqtt(2), Hello::clean("granting")).unwrap();
    for filter in &filters {
        other.publish(filter, "x", 1, 1, false);
        other.packet(PUBACK);
        assert_eq!(again.message(filter).payload, "x");
    }
    until("the interest of its subscriber is known where the will is published", || {
        other.publish("left/probe", "probe", 0, 0, false);
        hmi.message_within("left/probe", Duration::from_millis(100)).is_some()
    });
    site.restart(1);
    assert_eq!(hmi.message("left/away").payload, "gone", "its gateway has started anew");
    assert_eq!(hmi.message_within("left/", Duration::from_millis(200)), None, "each once");
}

#[test]
fn windows_of_a_width_that_is_not_kept_are_refused_rather_than_none() {
    let site = Site::shared();
    let (status, told) = site.order(0, "GET", "/v1/aggregates?device=nobody&every=1500ms");
    assert_eq!((status, &told["parameter"]), (400, &"every".into()), "{told}");
    assert!(
        told["detail"].as_str().unwrap().contains("not a multiple of a width that this site keeps"),
        "{told}"
    );
    assert_eq!(site.order(0, "GET", "/v1/aggregates?device=nobody&every=1d").0, 200);
}

#[test]
fn what_is_not_answered_is_a_problem_that_says_what_would_be_right() {
    let site = Site::shared();
    for (method, path, status, kind, says) in [
        ("GET", "/v1/aggregates", 400, "bad-parameter", "press-4"),
        (
            "GET",
            "/v1/aggregates?device=a&device=b",
            400,
            "bad-parameter",
            "parameter `device`: is given twice",
        ),
        ("GET", "/v1/aggregates?device=a&from=2&to=1", 400, "bad-parameter", "after `from`"),
        ("GET", "/v1/aggregates?devise=a", 400, "bad-parameter", "there are: device, stream"),
        ("GET", "/v1/devices?limit=10001", 400, "bad-parameter", "1 to 10000"),
        ("GET", "/v1/devices/a?after=x&after=y", 400, "bad-parameter", "twice"),
        ("GET", "/v1/clients?client=*****", 400, "bad-parameter", "more than 4"),
        ("GET", "/v1/quarantine?limit=1001", 400, "bad-parameter", "1 to 1000"),
        ("GET", "/v1/quarantine?after=1", 400, "bad-parameter", "`next`"),
        ("GET", "/v1/skipped?stream=x", 400, "bad-parameter", "there are: device"),
        ("GET", "/v1/shards?after=x", 400, "bad-parameter", "`next`"),
        ("GET", "/v1/shards/1?limit=1", 400, "bad-parameter", "takes no parameters"),
        ("GET", "/v1/shards/x", 404, "unknown", "0 to 7"),
        ("GET", "/v1/status?x=1", 400, "bad-parameter", "takes no parameters"),
        ("DELETE", "/v1/devices/d?stream=s", 400, "bad-parameter", "takes no parameters"),
        ("POST", "/v1/ledger/1", 400, "bad-parameter", "32 hexadecimal digits"),
        ("GET", "/v1/quarantine/9", 404, "no-entry", "/v1/quarantine lists them"),
        ("GET", "/v1/nothing", 404, "not-found", "/v1/devices/{device} (GET, DELETE)"),
        ("PUT", "/v1/devices/a", 405, "method-not-allowed", "it has GET, HEAD, DELETE"),
    ] {
        let answer = site.ask(0, method, path, "Host: x\r\n").unwrap();
        assert!(answer.contains("content-type: application/problem+json"), "{method} {path}: {answer}");
        let (found, told) = site.order(0, method, path);
        assert_eq!(
            (found, &told["type"]),
            (status, &format!("/docs#problem-{kind}").into()),
            "{method} {path}"
        );
        assert_eq!((&told["status"], told["title"].is_string()), (&status.into(), true), "{told}");
        assert_eq!(told["parameter"].is_string(), status == 400, "{told}");
        assert!(told["detail"].as_str().unwrap().contains(says), "{method} {path}: {told}");
    }
    assert_eq!(site.json(0, "/openapi.json")["openapi"], "3.1.0");
    assert!(site.ask(0, "GET", "/docs", "Host: x\r\n").unwrap().starts_with("HTTP/1.1 200"));
    let head = site.ask(0, "HEAD", "/v1/status", "Host: x\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn a_payload_that_does_not_decode_is_told_and_set_aside_and_its_neighbours_count() {
    let site = Site::shared();
    let mut v5 = Client::connect(site.mqtt(1), Hello::clean("odd-5").v5()).unwrap();
    let mut old = Client::connect(site.mqtt(1), Hello::clean("odd-3")).unwrap();
    for (client, device) in [(&mut v5, "odd-5"), (&mut old, "odd-3")] {
        for (n, payload) in [(1, "1"), (2, "{\"value\": oops"), (3, "2")] {
            client.publish(&format!("d/{device}/x"), payload, 1, n, false);
        }
        let acks = [(); 3].map(|()| client.packet(PUBACK));
        assert_eq!(acks.each_ref().map(|ack| ack[1]), [1, 2, 3], "in order");
        let reasons = acks.each_ref().map(|ack| ack.get(2).copied().unwrap_or(0));
        assert_eq!(reasons, if device == "odd-5" { [0, 0x99, 0] } else { [0; 3] });
        assert_eq!(site.count(0, device), 2);
        // At either gateway.
        let entries = site.quarantined(usize::from(device == "odd-5"), device, 1);
        assert_eq!(entries[0]["topic"], format!("d/{device}/x"));
        assert_eq!(entries[0]["payload"], "{\"value\": oops");
        assert_ne!(entries[0]["why"], "");
    }
}

#[test]
fn a_wild_sequence_number_costs_one_reading_and_what_may_have_counted_is_never_counted_anew() {
    let site = Site::shared();
    let mut device = Client::connect(site.mqtt(0), Hello::clean("wild").v5()).unwrap();
    let mut reason = |n: u16, seq: u64| {
        let payload = format!("{{\"value\":1,\"seq\":{seq}}}");
        device.publish("d/wild/x", &payload, 1, n, false);
        device.packet(PUBACK).get(2).copied().unwrap_or(0)
    };
    assert_eq!(reason(1, u64::MAX), 0x99);
    for seq in 1..=5 {
        assert_eq!(reason(2, seq), 0);
    }
    for seq in [5_000, 5_001] {
        assert_eq!(reason(3, seq), 0);
    }
    assert_eq!(reason(4, 0), 0x99, "it started again");
    assert_eq!(site.count(1, "wild"), 7);
    let entries = site.quarantined(2, "wild", 2);
    let path = |i: usize| format!("/v1/quarantine/{}", entries[i]["id"].as_str().unwrap());
    assert_eq!(site.json(1, &path(1))["payload"], "{\"value\":1,\"seq\":0}");
    // As long as nothing has changed, it is set aside again.
    let (status, told) = site.order(1, "POST", &format!("{}/readmit", path(0)));
    assert_eq!((status, &told["counted"], &told["removed"]), (200, &0.into(), &false.into()), "{told}");
    assert_eq!(site.order(0, "POST", "/v1/devices/wild/reset-sequence").0, 200);
    assert_eq!(site.order(0, "POST", "/v1/devices/wild/streams/nope/reset-sequence").0, 404);
    // A number that was too far behind to judge now looks new to the machine. It may have counted, so it is refused.
    let (status, told) = site.order(1, "POST", &format!("{}/readmit", path(1)));
    assert_eq!((status, entries[1]["far_behind"].as_u64()), (409, Some(1)), "{told}");
    assert!(told["detail"].as_str().unwrap().contains("have it send them once more"), "{told}");
    assert_eq!(site.count(2, "wild"), 7);
    assert_eq!(reason(5, 0), 0, "sent once more it counts");
    assert_eq!(site.count(2, "wild"), 8);
    for i in 0..2 {
        assert_eq!(site.order(2, "DELETE", &path(i)).0, 200);
        assert_eq!(site.order(2, "POST", &format!("{}/readmit", path(i))).0, 404);
    }
    site.quarantined(0, "wild", 0);
}

#[test]
fn once_a_rule_is_mended_what_was_set_aside_counts_once() {
    let plan = Plan::new(1);
    let topics = |of_m: &str, of_l: &str| {
        format!(
            r#"topics=[{{ topic = "m/{{device}}", decoder = "object"{of_m} }}, {{ topic = "l/{{device}}/{{stream}}"{of_l} }}]"#
        )
    };
    let count = |device: &str| {
        let path = format!("/v1/aggregates?device={device}");
        let windows = plan.json(0, &path)["aggregates"].take();
        windows.as_array().map(|list| list.iter().filter_map(|w| w["count"].as_u64()).sum::<u64>())
    };
    let readmit = |entry: &str| plan.order(0, "POST", &format!("/v1/quarantine/{entry}/readmit"));
    let first = plan.started_with(0, &[&topics("", ""), "rules.max_streams_per_device=1"]);
    until("it is ready", || plan.is_ready(0));
    let mut client = Client::connect(plan.mqtt[0], Hello::clean("mended")).unwrap();
    for (n, topic, payload) in [
        (1, "l/key/t", r#"{"v":5}"#),
        (2, "m/same", r#"{"a":1,"b":2}"#),
        (3, "m/renamed", r#"{"a":1,"b":2}"#),
    ] {
        client.publish(topic, payload, 1, n, false);
        assert_eq!(client.packet(PUBACK)[1], n as u8);
    }
    assert_eq!(["key", "same", "renamed"].map(count), [Some(0), Some(1), Some(1)]);
    let entries = plan.json(0, "/v1/quarantine")["entries"].take();
    let id = |topic: &str| {
        let entry = entries.as_array().unwrap().iter().find(|e| e["topic"] == topic);
        entry.unwrap()["id"].as_str().unwrap().to_string()
    };
    assert_eq!(readmit(&id("l/key/t")).0, 409, "as things are");
    drop(first);
    // The bound is raised; and the rule now names a key, which changes no name of a stream.
    let second = plan.started_with(0, &[&topics("", r#", value = "v""#)]);
    until("it is ready", || plan.is_ready(0));
    for topic in ["l/key/t", "m/same"] {
        until("the raised bound is chosen", || {
            let (status, told) = readmit(&id(topic));
            status == 404 || status == 200 && told["removed"] == true
        });
    }
    assert_eq!(["key", "same", "renamed"].map(count), [Some(1), Some(2), Some(1)]);
    drop(second);
    // Streams have other names now: what was counted can't be told from what was not.
    let _third = plan.started_with(0, &[&topics(r#", stream = "x.{key}""#, "")]);
    until("it is ready", || plan.is_ready(0));
    let (status, told) = readmit(&id("m/renamed"));
    assert_eq!(status, 409, "{told}");
    assert!(told["detail"].as_str().unwrap().contains("could count twice"), "{told}");
    assert_eq!(count("renamed"), Some(1));
}

#[test]
fn every_gateway_answers_for_the_whole_site_and_names_what_it_lacks() {
    // One replica of each shard: no gateway holds all shards.
    let mut site = Site::with(&["site.replicas=1"]);
    let mut client = Client::connect(site.mqtt(0), Hello::clean("wide")).unwrap();
    let names: Vec<String> = (10..22).map(|n| format!("wide-{n}")).collect();
    for (n, name) in (1..).zip(&names) {
        client.publish(&format!("d/{name}"), r#"{"x":1,"state":"idle"}"#, 1, n, false);
        assert_eq!(client.packet(PUBACK)[..2], n.to_be_bytes());
    }
    for (n, topic) in [(31, "d/wide-10/state"), (32, "nowhere/wide")] {
        client.publish(topic, "offline", 1, n, false);
        assert_eq!(client.packet(PUBACK)[1], n as u8);
    }
    let listed = |told: &serde_json::Value| -> Vec<String> {
        let devices = told["devices"].as_array().unwrap().iter();
        devices.map(|d| d["device"].as_str().unwrap().to_string()).collect()
    };
    for i in 0..3 {
        let all = site.json(i, "/v1/devices");
        assert_eq!((listed(&all), &all["partial"], &all["next"]), (names.clone(), &false.into(), &().into()));
        let (mut paged, mut after) = (Vec::new(), String::new());
        loop {
            let page = site.json(i, &format!("/v1/devices?limit=5&after={after}"));
            paged.extend(listed(&page));
            match page["next"].as_str() {
                Some(next) => after = next.to_string(),
                None => break,
            }
        }
        assert_eq!(paged, names);
        for name in &names {
            let one = site.json(i, &format!("/v1/devices/{name}"));
            assert_eq!((&one["streams"][0]["stream"], &one["next"]), (&"x".into(), &().into()), "{one}");
        }
        assert_eq!(site.order(i, "GET", "/v1/devices/nobody").0, 404);
        let none = site.json(i, "/v1/quarantine?client=somebody-else");
        assert_eq!(
            (&none["entries"], &none["kept"], &none["total"]),
            (&serde_json::json!([]), &1.into(), &1.into())
        );
        let skipped = site.json(i, "/v1/skipped");
        let fields = skipped["skipped"].as_array().unwrap().iter().map(|d| d["fields"][0]["count"].as_u64());
        assert_eq!((fields.flatten().sum::<u64>(), &skipped["partial"]), (13, &false.into()), "{skipped}");
        assert_eq!(skipped["counted_since_start_of"].as_array().unwrap().len(), 3);
        let unmapped = site.json(i, "/v1/unmapped");
        assert_eq!((&unmapped["total"], &unmapped["partial"]), (&1.into(), &false.into()), "{unmapped}");
    }
    let all = site.json(0, "/v1/devices");
    site.kill(2);
    let mut some = serde_json::Value::Null;
    until("the others see that it is gone", || {
        some = site.json(0, "/v1/devices");
        some["missing_gateways"] == serde_json::json!([3])
    });
    assert_eq!(some["partial"], true);
    let here = listed(&some);
    let gone: Vec<_> = listed(&all).into_iter().filter(|name| !here.contains(name)).collect();
    assert!(!here.is_empty() && !some["missing_shards"].as_array().unwrap().is_empty(), "{some}");
    for (name, status) in gone.first().map(|name| (name, 503)).into_iter().chain([(&here[0], 200)]) {
        assert_eq!(site.order(0, "GET", &format!("/v1/devices/{name}")).0, status, "{name}");
    }
    for path in ["/v1/quarantine", "/v1/skipped", "/v1/unmapped"] {
        let told = site.json(0, path);
        assert_eq!(
            (&told["partial"], &told["missing_gateways"]),
            (&true.into(), &serde_json::json!([3])),
            "{path}"
        );
    }
}

#[test]
fn any_gateway_tells_how_all_gateways_and_replicas_of_the_site_are() {
    let mut site = Site::with(&[]);
    let states = |told: &serde_json::Value| -> Vec<String> {
        let gateways = told["gateways"].as_array().unwrap().iter();
        gateways.map(|g| g["state"].as_str().unwrap().to_string()).collect()
    };
    for i in 0..3 {
        let mut told = serde_json::Value::Null;
        until("every gateway is ready and every shard is led", || {
            told = site.json(i, "/v1/gateways");
            states(&told) == ["ready"; 3] && told["leaderless_shards"] == 0
        });
        assert_eq!((&told["partial"], &told["answered_by"]), (&false.into(), &(i + 1).into()), "{told}");
        let sum = |name: &str| {
            told["gateways"].as_array().unwrap().iter().map(|g| g[name].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!((sum("leads"), sum("replicas")), (8, 24), "{told}");
    }
    // Pages have all shards once, in order.
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = site.json(1, &format!("/v1/shards?limit=3{after}"));
        paged.extend(page["shards"].as_array().unwrap().iter().map(|s| s["shard"].as_u64().unwrap()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(paged, (0..8).collect::<Vec<_>>());
    let described = site.json(0, "/openapi.json");
    for path in ["/v1/gateways", "/v1/shards"] {
        let answer =
            format!("/paths/{}/get/responses/200/content/application~1json/schema", path.replace('/', "~1"));
        let fields = |of: &serde_json::Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let schema = &described.pointer(&answer).unwrap()["properties"];
        assert_eq!(fields(&site.json(0, path)), fields(schema), "{path}");
    }
    let (status, unknown) = site.order(0, "GET", "/v1/shards/8");
    assert_eq!(status, 404);
    assert!(unknown["detail"].as_str().unwrap().contains("0 to 7"), "{unknown}");

    site.kill(2);
    let (mut told, mut shard) = (serde_json::Value::Null, serde_json::Value::Null);
    until("the others lead its shards, and say that it is gone", || {
        told = site.json(0, "/v1/gateways");
        told["missing_gateways"] == serde_json::json!([3]) && told["leaderless_shards"] == 0
    });
    assert_eq!((&states(&told)[2], &told["partial"]), (&"unreachable".to_string(), &true.into()), "{told}");
    until("no replica counts on it any more", || {
        shard = site.json(1, "/v1/shards/0");
        shard["leader"] != 3 && !shard["leader"].is_null()
    });
    let role_of = |id: u64| {
        let replicas = shard["replicas"].as_array().unwrap();
        replicas.iter().find(|r| r["gateway"] == id).map(|r| r["role"].clone()).unwrap()
    };
    assert_eq!(role_of(3), serde_json::Value::Null, "{shard}");
    assert_eq!(role_of(shard["leader"].as_u64().unwrap()), "leader", "{shard}");
    assert_eq!((&shard["configuration"], &shard["missing_gateways"]), (&1.into(), &serde_json::json!([3])));
}

#[test]
fn a_topic_without_a_stream_is_told_whether_somebody_listens_and_listed() {
    let site = Site::shared();
    let mut device = Client::connect(site.mqtt(0), Hello::clean("no-stream").v5()).unwrap();
    let mut hmi = Client::connect(site.mqtt(1), Hello::clean("no-stream-hmi")).unwrap();
    hmi.subscribe("no-stream/+/heard");
    until_routed(&mut device, &mut hmi, "no-stream/probe/heard");
    let mut reason = |topic: &str| {
        device.publish(topic, "12", 1, 9, false);
        device.packet(PUBACK).get(2).copied().unwrap_or(0)
    };
    assert_eq!(reason("no-stream/7/heard"), 0);
    for topic in ["/d/no-stream/t", "d/no-stream/t/", "no-stream/topic", "no-stream/topic"] {
        assert_eq!(reason(topic), 0x10);
    }
    let unmapped = site.json(2, "/v1/unmapped");
    let count = |topic: &str| {
        let found = unmapped["topics"].as_array().unwrap().iter().find(|t| t["topic"] == topic);
        found.and_then(|t| t["count"].as_u64())
    };
    assert_eq!((count("no-stream/topic"), count("/d/no-stream/t")), (Some(2), Some(1)), "{unmapped}");
    assert_eq!(count("no-stream/7/heard"), None);
}

#[test]
fn a_text_is_quarantined_and_still_reaches_subscribers() {
    let site = Site::shared();
    let mut hmi = Client::connect(site.mqtt(1), Hello::clean("status-hmi")).unwrap();
    hmi.subscribe("d/status-box/#");
    let mut device = Client::connect(site.mqtt(0), Hello::persistent("status-box")).unwrap();
    until_routed(&mut device, &mut hmi, "d/status-box/probe");
    for (n, packet_id) in [(1u8, 11u16), (2, 12)] {
        device.publish("d/status-box/status", "offline", n, packet_id, false);
        let answer = if n == 1 { PUBACK } else { PUBREC };
        assert_eq!(device.packet(answer), [0, packet_id as u8], "3.1.1 stays connected");
        assert_eq!(hmi.message("d/status-box/status").payload, "offline");
    }
    let entries = site.json(2, "/v1/quarantine?client=status-box&limit=1000")["entries"].take();
    let texts = entries.as_array().unwrap().iter().filter(|e| e["payload"] == "offline").count();
    assert_eq!(texts, 2, "there when it is acknowledged");
}

#[test]
fn what_was_acknowledged_survives_kill_9_and_publishing_goes_on() {
    let mut site = Site::start();
    let devices: Vec<String> = (0..24).map(|n| format!("kill-{n}")).collect();
    let mut stays = Client::connect(site.mqtt(0), Hello::clean("stays")).unwrap();
    let mut moves = Client::connect(site.mqtt(1), Hello::persistent("moves")).unwrap();
    until("the gateway to be killed leads shards", || {
        site.json(1, "/v1/status")["totals"]["leading"].as_u64() > Some(0)
    });
    let topic = |n: u16| format!("d/{}/x", devices[usize::from(n) % devices.len()]);
    for n in 1..=120 {
        stays.publish(&topic(n), "1", 1, n, false);
        moves.publish(&topic(n), "1", 1, n, false);
    }
    assert_eq!(stays.acks(40), (1..=40).collect::<Vec<_>>(), "in order");
    let mut acked = moves.acks(40);
    site.kill(1);
    // A client of a survivor need not resend anything, whichever gateway led; and there is no gap.
    assert_eq!(stays.acks(80), (41..=120).collect::<Vec<_>>());
    for n in 121..=144 {
        stays.publish(&topic(n), "1", 1, n, false);
    }
    assert_eq!(stays.acks(24), (121..=144).collect::<Vec<_>>());
    // The other client resends, elsewhere, what its gateway did not acknowledge before it was killed.
    acked.extend(moves.acks(80));
    assert_eq!(acked, (1..=acked.len() as u16).collect::<Vec<_>>());
    let mut moved = Client::connect(site.mqtt(2), Hello::persistent("moves")).unwrap();
    assert!(moved.session_present);
    let again = acked.len() as u16 + 1..=120;
    for n in again.clone() {
        moved.publish(&topic(n), "1", 1, n, true);
    }
    assert_eq!(moved.acks(again.len()), again.collect::<Vec<_>>());
    let total = |site: &Site, i: usize| devices.iter().map(|d| site.count(i, d)).sum::<u64>();
    assert_eq!((total(&site, 0), total(&site, 2)), (264, 264));
    site.restart(1);
    assert_eq!(total(&site, 1), 264);
}

#[test]
fn without_a_majority_nothing_is_acknowledged_and_with_one_it_goes_on() {
    let mut site = Site::start();
    let mut device = Client::connect(site.mqtt(0), Hello::clean("alone")).unwrap();
    device.publish("d/alone/x", "1", 1, 1, false);
    assert_eq!(device.packet(PUBACK), [0, 1]);
    site.kill(1);
    site.kill(2);
    until("the first gateway sees that it is alone", || !site.is_ready(0));
    device.publish("d/alone/x", "1", 1, 2, false);
    device.ping();
    assert!(device.packet(PINGRESP).is_empty(), "a ping is answered while the publish before it waits");
    std::thread::scope(|scope| {
        let refused = |hello| Client::connect(site.mqtt(0), hello).err();
        let v5 = scope.spawn(move || refused(Hello::persistent("late-5").v5()));
        assert_eq!(refused(Hello::persistent("late-3")), Some(3), "server unavailable");
        assert_eq!(v5.join().unwrap(), Some(0x88), "server unavailable");
    });
    assert_eq!(device.packet_within(PUBACK, Duration::ZERO), None, "one of three is no majority");
    site.restart(1);
    assert_eq!(device.packet(PUBACK), [0, 2], "kept as soon as there is a majority again");
    site.restart(2);
    assert_eq!(site.count(2, "alone"), 2);
}

#[test]
fn data_of_another_membership_is_refused() {
    let plan = Plan::new(1);
    let run = |set: &[&str]| plan.refused(0, set);
    let first = plan.started(0);
    until("a gateway alone is ready", || plan.is_ready(0));
    let (status, said) = run(&[]);
    assert!(!status.success());
    assert!(said.contains("peer.bind"), "its ports are in use: {said}");
    drop(first);
    for (set, named) in [("site.shards=16", "membership"), ("site.name=elsewhere", "site")] {
        let (status, said) = run(&[set]);
        assert!(!status.success());
        assert!(said.contains("was made for") && said.contains(named), "{said}");
        assert!(said.lines().count() == 1, "{said}");
    }
    let _again = plan.started(0);
    until("with its own settings it goes on", || plan.is_ready(0));
}

#[test]
fn a_taken_port_is_named_with_its_setting() {
    let plan = Plan::new(1);
    for (port, key) in [(plan.peer[0], "peer.bind"), (plan.mqtt[0], "mqtt.bind"), (plan.http[0], "http.bind")]
    {
        let taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (status, said) = plan.refused(0, &[]);
        assert_eq!((status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(key) && said.contains(&port.to_string()), "{said}");
        assert!(!plan.path().join("data-0").exists(), "nothing is written");
        drop(taken);
    }
    let (status, said) = plan.refused(0, &["uplink.username=u", "uplink.password_file=/no/such/file"]);
    assert_eq!((status.code(), said.lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("/no/such/file") && said.contains("uplink.password_file"), "{said}");
}

#[test]
fn a_sparkplug_edge_node_that_goes_on_by_alias_is_asked_for_its_birth_once() {
    let site = Site::shared();
    let mut edge = Client::connect(site.mqtt(0), Hello::clean("edge-9")).unwrap();
    let mut host = Client::connect(site.mqtt(1), Hello::clean("host-9")).unwrap();
    edge.subscribe("spBv1.0/plant/NCMD/edge-9");
    host.subscribe("spBv1.0/plant/NCMD/#");
    until_routed(&mut edge, &mut host, "spBv1.0/plant/NCMD/probe");
    let publish = |edge: &mut Client, packet_id: u16, kind: &str, payload: &str| {
        edge.publish(&format!("spBv1.0/plant/{kind}/edge-9"), payload, 1, packet_id, false);
        assert_eq!(edge.packet(PUBACK)[..2], packet_id.to_be_bytes());
    };
    let data = "\x12\x04\x10\x01\x50\x05"; // alias 1 is 5
    for packet_id in 1..=3 {
        publish(&mut edge, packet_id, "NDATA", data);
    }
    let names = |packet: &[u8], text: &str| packet.windows(text.len()).any(|part| part == text.as_bytes());
    let is_rebirth =
        |packet: &[u8]| names(packet, "spBv1.0/plant/NCMD/edge-9") && names(packet, "Node Control/Rebirth");
    assert!(is_rebirth(&edge.packet(PUBLISH)), "it is asked");
    assert!(is_rebirth(&host.packet(PUBLISH)), "so is whoever else listens, at any gateway");
    let birth = "\x12\x09\x0a\x01t\x10\x01\x20\x03\x50\x05"; // t, alias 1, is 5
    publish(&mut edge, 4, "NBIRTH", birth);
    publish(&mut edge, 5, "NDATA", data);
    assert_eq!(site.count(1, "plant/edge-9"), 2, "what came before the birth was not counted");
    assert_eq!(edge.packet_within(PUBLISH, Duration::from_millis(300)), None, "asked once");
}

#[test]
fn a_web_page_of_somebody_else_gets_no_answer() {
    let site = Site::shared();
    let status = |method, headers: &str| {
        let answer = site.ask(0, method, "/v1/devices/stranger-device", headers).unwrap();
        let body = answer.split("\r\n\r\n").nth(1).unwrap().to_string();
        (answer[9..12].to_string(), body)
    };
    assert_ne!(status("GET", "Host: 127.0.0.1\r\n").0, "403");
    assert_ne!(status("GET", "Host: localhost:8081\r\nSec-Fetch-Site: same-origin\r\n").0, "403");
    let (code, body) = status("GET", "Host: rebound.example\r\n");
    assert!(code == "403" && body.contains("http.hosts"), "{code} {body}");
    for headers in [
        "Host: 127.0.0.1\r\nOrigin: http://evil.example\r\n",
        "Host: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n",
    ] {
        let (code, body) = status("DELETE", headers);
        assert!(code == "403" && body.contains("another origin"), "{code} {body}");
    }
}

/// Publishes payloads that can't be decoded, of some KiB each, and waits until they are in the quarantine: each adds as
/// much to the log.
fn load(client: &mut Client, next_id: &mut u16, count: usize) {
    const PAYLOAD_BYTES: usize = 8 * 1024;
    for _ in 0..count {
        *next_id = *next_id % 60_000 + 1;
        let topic = b"d/loud/x";
        let (id, payload) = (next_id.to_be_bytes(), [b'?'; PAYLOAD_BYTES]);
        let body = [&[0, topic.len() as u8], &topic[..], &id, &payload].concat();
        let length = body.len();
        client.send_raw(&[0x32, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8]);
        client.send_raw(&body);
    }
    assert_eq!(client.acks(count).len(), count);
}

#[test]
fn a_gateway_that_was_away_while_much_was_written_catches_up_while_more_is() {
    let mut site = Site::start();
    let applied = |site: &Site, i: usize| {
        let shards = site.json(i, "/v1/status")["shards"].take();
        let of = |shard: &serde_json::Value| Some((shard["shard"].as_u64()?, shard["applied"].as_u64()?));
        shards.as_array().map(|list| list.iter().filter_map(of).collect::<std::collections::BTreeMap<_, _>>())
    };
    let mut client = Client::connect(site.mqtt(0), Hello::clean("loud")).unwrap();
    let mut next_id = 0;
    load(&mut client, &mut next_id, 16);
    site.kill(2);
    // Far more than the leader holds in memory.
    (0..24).for_each(|_| load(&mut client, &mut next_id, 16));
    site.restart(2);
    until("it has caught up", || {
        load(&mut client, &mut next_id, 16);
        let (Some(here), Some(there)) = (applied(&site, 0), applied(&site, 2)) else { return false };
        here.iter().all(|(shard, slot)| there.get(shard).is_some_and(|has| has + 64 >= *slot))
    });
}
