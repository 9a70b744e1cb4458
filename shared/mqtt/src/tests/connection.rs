//! What goes over the wire, in all three versions.

use super::rig::*;
use crate::*;
use selvedge_types::mqtt::*;
use selvedge_types::topic::Filter;

fn delivery(qos: QoS, payload: &'static str) -> Delivery {
    Delivery { topic: "a".into(), payload: payload.into(), qos }
}

#[test]
fn connect_is_answered_in_the_version_of_the_client() {
    for (bytes, version, want) in [
        (V31, Version::V31, &b"\x20\x02\x00\x00"[..]),
        (V311, Version::V311, b"\x20\x02\x01\x00"),
        // Receive Maximum 4, no retain, packets of 1000, 2 aliases, no subscription identifiers, no shared
        // subscriptions; that wildcards are available is the default and left out.
        (
            V5,
            Version::V5,
            b"\x20\x14\x01\x00\x11\x21\x00\x04\x25\x00\x27\x00\x00\x03\xe8\x22\x00\x02\x29\x00\x2a\x00",
        ),
    ] {
        let mut rig = Rig::new(limits());
        rig.feed(bytes);
        let Some(Inbound::Connect(c)) = rig.events.pop() else { panic!("no connect") };
        assert_eq!((c.version, &*c.client_id, c.clean, c.keepalive_s), (version, "c", true, 10));
        assert_eq!(rig.out(), b"", "nothing before the application has answered");
        rig.answer(Answer::Accept(Box::new(Accept { session_present: true, ..Accept::default() })));
        assert_eq!(rig.out(), want, "{version:?}");
    }
}

#[test]
fn the_session_of_an_older_client_lasts_for_ever_unless_it_is_clean() {
    let mut rig = Rig::new(limits());
    rig.feed(b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x0a\x00\x01c");
    let Some(Inbound::Connect(c)) = rig.events.pop() else { panic!("no connect") };
    assert_eq!((c.clean, c.expiry_s), (false, u32::MAX));
    let mut rig = Rig::new(limits());
    rig.feed(b"\x10\x13\x00\x04MQTT\x05\x00\x00\x0a\x05\x11\x00\x00\x00\x3c\x00\x01c");
    let Some(Inbound::Connect(c)) = rig.events.pop() else { panic!("no connect") };
    assert_eq!((c.clean, c.expiry_s), (false, 60));
}

#[test]
fn a_refusal_has_the_code_of_the_version() {
    for (bytes, refusal, want) in [
        (V31, Refusal::BadCredentials, &b"\x20\x02\x00\x04"[..]),
        (V311, Refusal::Unavailable, b"\x20\x02\x00\x03"),
        (V5, Refusal::Unavailable, b"\x20\x03\x00\x88\x00"),
        (V5, Refusal::ClientId, b"\x20\x03\x00\x85\x00"),
    ] {
        let mut rig = Rig::new(limits());
        rig.feed(bytes);
        rig.answer(Answer::Refuse(refusal));
        assert_eq!(rig.out(), want);
        assert_eq!(rig.closed().reason, CloseReason::Refused(refusal));
    }
}

#[test]
fn an_assigned_client_id_is_told_and_needed() {
    let nameless = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x00";
    let mut rig = Rig::new(limits());
    rig.feed(nameless);
    let accept = Accept { assigned_client_id: Some("n1".into()), ..Accept::default() };
    rig.answer(Answer::Accept(Box::new(accept)));
    assert!(rig.out().windows(5).any(|w| w == b"\x12\x00\x02n1"));
    let mut rig = Rig::new(limits());
    rig.feed(nameless);
    rig.answer(Answer::Accept(Box::default()));
    assert_eq!(rig.closed().reason, CloseReason::Refused(Refusal::ClientId));
    // Without clean start, too: nobody had that session before.
    let mut rig = Rig::new(limits());
    rig.feed(&[&nameless[..9], b"\x00", &nameless[10..11]].concat());
    rig.feed(&nameless[11..13]);
    assert!(rig.events.is_empty());
    rig.feed(&nameless[13..]);
    assert!(matches!(&rig.events[..], [Inbound::Connect(c)] if c.client_id.is_empty()));
    // 3.1.1 without a name and without clean session: the codec refuses, and we say so.
    let mut rig = Rig::new(limits());
    rig.feed(b"\x10\x0c\x00\x04MQTT\x04\x00\x00\x0a\x00\x00");
    assert_eq!(rig.out(), b"\x20\x02\x00\x02");
    assert!(rig.core.is_closed() && rig.events.is_empty());
}

#[test]
fn a_client_id_has_at_most_its_bound() {
    for (length, taken) in [(MAX_CLIENT_ID_BYTES, true), (MAX_CLIENT_ID_BYTES + 1, false)] {
        let mut rig = Rig::new(limits());
        let (size, name) = ((length as u16).to_be_bytes(), "c".repeat(length));
        let remaining = 13 + length;
        let head = [0x10, (remaining % 128) as u8 | 0x80, (remaining / 128) as u8];
        let fixed = b"\x00\x04MQTT\x05\x02\x00\x0a\x00";
        rig.feed(&[&head[..], fixed, &size, name.as_bytes()].concat());
        assert_eq!(rig.events.len(), usize::from(taken));
        assert_eq!(rig.out(), if taken { &b""[..] } else { b"\x20\x03\x00\x85\x00" });
    }
}

#[test]
fn what_follows_connect_at_once_waits_for_the_answer() {
    let mut rig = Rig::new(limits());
    rig.feed(&[V311, &publish3(0x32, 7), b"\xc0\x00"].concat());
    assert!(matches!(rig.events[..], [Inbound::Connect(_)]));
    assert_eq!(rig.out(), b"");
    rig.events.clear();
    rig.answer(Answer::Accept(Box::default()));
    assert_eq!(rig.out(), b"\x20\x02\x00\x00\xd0\x00");
    assert_eq!(rig.tokens(), [1]);
}

#[test]
fn an_unanswered_connect_is_bounded_in_bytes_and_time() {
    let mut rig = Rig::new(limits());
    rig.feed(V311);
    assert!(rig.core.wants_input());
    rig.feed(&vec![0xc0; MAX_READ_BYTES]);
    assert!(!rig.core.wants_input());
    rig.tick(9_999);
    assert!(!rig.core.is_closed());
    rig.tick(10_000);
    assert_eq!(rig.out(), b"\x20\x02\x00\x03");
    assert_eq!(rig.closed().reason, CloseReason::Refused(Refusal::Unavailable));
}

#[test]
fn connect_comes_first_and_once_and_in_time() {
    for bytes in [&b"\xc0\x00"[..], b"GET / HTTP/1.1\r\n", b"\x32\x06\x00\x01a\x00\x01x"] {
        let mut rig = Rig::new(limits());
        rig.feed(bytes);
        assert!(rig.core.is_closed() && rig.events.is_empty() && rig.out().is_empty());
    }
    let mut rig = Rig::open(V311);
    rig.feed(V311);
    assert_eq!(rig.closed().reason, CloseReason::Protocol("a second CONNECT"));
    let mut rig = Rig::new(limits());
    rig.feed(&V311[..5]);
    rig.tick(10_000);
    assert!(rig.core.is_closed() && rig.events.is_empty());
}

#[test]
fn an_unknown_protocol_level_is_told_so() {
    for bytes in [
        &b"\x10\x0d\x00\x04MQTT\x09\x02\x00\x0a\x00\x01c"[..],
        b"\x10\x0d\x00\x04MQTX\x04\x02\x00\x0a\x00\x01c",
    ] {
        let mut rig = Rig::new(limits());
        rig.feed(bytes);
        assert_eq!(rig.out(), b"\x20\x02\x00\x01");
        assert!(rig.core.is_closed());
    }
}

#[test]
fn connect_flags_that_contradict_each_other_are_refused() {
    for flags in [0x0a, 0x22, 0x12, 0x42, 0x03] {
        for bytes in [V311, V5] {
            // In MQTT 5 a password may come without a user name; here it then lacks its bytes.
            let mut bytes = bytes.to_vec();
            bytes[9] = flags;
            let mut rig = Rig::new(limits());
            rig.feed(&bytes);
            assert!(rig.core.is_closed(), "flags {flags:02x}");
            assert!(rig.events.is_empty());
        }
    }
}

#[test]
fn every_split_of_the_bytes_gives_the_same() {
    let v3 = [V311, &publish3(0x32, 1), b"\xc0\x00", &publish3(0x34, 2), b"\x82\x06\x00\x03\x00\x01b\x01"]
        .concat();
    let v5 =
        [V5, b"\x32\x07\x00\x01a\x00\x01\x00x", b"\xc0\x00", b"\x82\x07\x00\x03\x00\x00\x01b\x01"].concat();
    for bytes in [v3, v5] {
        let run = |cut: usize| {
            let mut rig = Rig::new(limits());
            for part in [&bytes[..cut], &bytes[cut..]] {
                rig.feed(part);
                rig.answer(Answer::Accept(Box::default()));
            }
            let out = rig.out();
            (std::mem::take(&mut rig.events), out)
        };
        let whole = run(0);
        assert!(whole.0.len() >= 3);
        for cut in 1..bytes.len() {
            assert_eq!(run(cut), whole, "cut at {cut}");
        }
        let mut rig = Rig::new(limits());
        for byte in &bytes {
            rig.feed(&[*byte]);
            rig.answer(Answer::Accept(Box::default()));
        }
        assert_eq!((std::mem::take(&mut rig.events), rig.out()), whole, "byte by byte");
    }
}

#[test]
fn acks_leave_in_the_order_of_arrival() {
    let mut rig = Rig::open(V311);
    rig.feed(&[publish3(0x32, 1), publish3(0x34, 2), publish3(0x32, 3)].concat());
    assert_eq!(rig.tokens(), [1, 2, 3]);
    rig.kept(3);
    rig.kept(2);
    assert_eq!(rig.out(), b"");
    rig.kept(1);
    assert_eq!(rig.out(), b"\x40\x02\x00\x01\x50\x02\x00\x02\x40\x02\x00\x03");
    rig.kept(1);
    rig.kept(99);
    assert_eq!(rig.out(), b"", "a token is answered once");
}

#[test]
fn pings_are_answered_while_acks_are_held_and_subscriptions_pass_them() {
    let mut rig = Rig::open(V311);
    let many: Vec<u8> = (1..=6).flat_map(|id| publish3(0x32, id)).collect();
    rig.feed(&[&many[..], b"\xc0\x00", b"\x82\x06\x00\x09\x00\x01b\x02"].concat());
    assert_eq!(rig.out(), b"\xd0\x00", "SUBACK waits for the application");
    let Some(Inbound::Subscribe { token, subscriptions }) = rig.events.pop() else { panic!("none") };
    rig.answer(Answer::Subscribed { token, refused: Vec::new() });
    assert_eq!(rig.out(), b"\x90\x03\x00\x09\x01", "QoS 2 is granted as 1");
    assert_eq!(
        subscriptions,
        [Subscription { filter: Filter::new("b").unwrap(), qos: QoS::AtLeastOnce, no_local: false }]
    );
    assert_eq!(rig.tokens(), [1, 2, 3, 4], "the window is 4; the others are parked");
    rig.kept(1);
    rig.kept(2);
    assert_eq!(rig.tokens(), [5, 6]);
}

#[test]
fn reading_stops_at_the_cap_and_goes_on_after_answers() {
    let mut rig = Rig::open(V311);
    let many: Vec<u8> = (1..=30).flat_map(|id| publish3(0x32, id)).collect();
    rig.feed(&[&many[..], b"\xc0\x00"].concat());
    assert_eq!(rig.tokens(), [1, 2, 3, 4]);
    assert!(!rig.core.wants_input());
    assert_eq!(rig.core.deadline_ms(), None, "no keep alive while we do not read");
    assert_eq!(rig.out(), b"");
    rig.now_ms = 60_000;
    for token in 1..=30 {
        rig.kept(token);
    }
    assert_eq!(rig.tokens(), (5..=30).collect::<Vec<_>>());
    assert!(rig.core.wants_input());
    assert_eq!(rig.core.deadline_ms(), Some(75_000), "it counts from when we read again");
    let out = rig.out();
    assert_eq!(out.len(), 30 * 4 + 2, "all acks and the pong");
}

#[test]
fn dup_of_a_pending_packet_id_is_handed_up_once_and_answered_once() {
    let mut rig = Rig::open(V311);
    rig.feed(&[publish3(0x32, 1), publish3(0x3a, 1)].concat());
    assert_eq!(rig.tokens(), [1]);
    rig.kept(1);
    assert_eq!(rig.out(), b"\x40\x02\x00\x01");
    rig.feed(&publish3(0x3a, 1));
    assert_eq!(rig.tokens(), [2], "after the answer it is one more");
    // Parked ones count as pending too.
    rig.feed(&(2..=6).flat_map(|id| publish3(0x32, id)).collect::<Vec<_>>());
    rig.feed(&publish3(0x3a, 6));
    rig.events.clear();
    for token in 2..=9 {
        rig.kept(token);
    }
    assert_eq!(rig.out().len(), 6 * 4);
}

#[test]
fn qos_2_is_handed_up_once_until_it_is_released() {
    let mut rig = Rig::open(V311);
    rig.feed(&publish3(0x34, 5));
    assert_eq!(rig.tokens(), [1]);
    rig.feed(&publish3(0x3c, 5));
    assert!(rig.events.is_empty());
    rig.kept(1);
    assert_eq!(rig.out(), b"\x50\x02\x00\x05", "PUBREC once");
    rig.feed(&publish3(0x3c, 5));
    assert!(rig.events.is_empty());
    assert_eq!(rig.out(), b"\x50\x02\x00\x05", "PUBREC again for one that came again");
    rig.feed(b"\x62\x02\x00\x05\x62\x02\x00\x05");
    assert!(matches!(rig.events[..], [Inbound::Release { token: 3, packet_id }] if packet_id.get() == 5));
    assert_eq!(rig.out(), b"", "PUBCOMP waits for the application");
    rig.events.clear();
    rig.kept(3);
    assert_eq!(rig.out(), b"\x70\x02\x00\x05");
    rig.feed(&publish3(0x34, 5));
    assert_eq!(rig.tokens(), [4], "the id is free again");
}

#[test]
fn a_release_of_an_earlier_connection_is_handed_up() {
    let mut rig = Rig::open(V5);
    rig.feed(b"\x62\x02\x00\x05");
    assert_eq!(rig.tokens(), [1]);
    rig.kept(1);
    assert_eq!(rig.out(), b"\x70\x04\x00\x05\x00\x00");
}

#[test]
fn a_reason_and_a_receipt_reach_clients_of_version_5_alone() {
    let refused = || Answer::Ack(Ack::refused(1, AckCode::PayloadFormatInvalid, "no"));
    let mut rig = Rig::open(V5);
    rig.feed(b"\x32\x07\x00\x01a\x00\x01\x00x\x34\x07\x00\x01a\x00\x02\x00x");
    rig.answer(refused());
    assert_eq!(rig.out(), b"\x40\x09\x00\x01\x99\x05\x1f\x00\x02no");
    rig.answer(Answer::Ack(Ack::kept(2).with_receipt("s3/41")));
    assert_eq!(rig.out(), b"\x50\x15\x00\x02\x00\x11\x26\x00\x07receipt\x00\x05s3/41");
    let mut rig = Rig::open(V311);
    rig.feed(&publish3(0x32, 1));
    rig.answer(refused());
    assert_eq!(rig.out(), b"\x40\x02\x00\x01");
}

#[test]
fn a_refused_qos_2_publish_of_version_5_frees_its_id() {
    let mut rig = Rig::open(V5);
    let publish = b"\x34\x07\x00\x01a\x00\x05\x00x";
    rig.feed(publish);
    rig.answer(Answer::Ack(Ack { token: 1, code: AckCode::QuotaExceeded, note: None }));
    assert_eq!(rig.out(), b"\x50\x04\x00\x05\x97\x00");
    rig.feed(publish);
    assert_eq!(rig.tokens(), [1, 2]);
}

#[test]
fn that_nobody_subscribes_is_a_success_after_which_a_release_is_due() {
    let mut rig = Rig::open(V5);
    let publish = b"\x34\x07\x00\x01a\x00\x05\x00x";
    rig.feed(publish);
    rig.answer(Answer::Ack(Ack { token: 1, code: AckCode::NoSubscribers, note: None }));
    assert_eq!(rig.out(), b"\x50\x04\x00\x05\x10\x00");
    rig.feed(publish);
    assert_eq!(rig.tokens(), [1], "the id is not free yet");
}

#[test]
fn a_note_is_left_out_where_the_client_does_not_take_it() {
    // Maximum Packet Size 64, then Request Problem Information 0.
    for connect in [
        &b"\x10\x13\x00\x04MQTT\x05\x02\x00\x0a\x05\x27\x00\x00\x00\x40\x00\x01c"[..],
        b"\x10\x10\x00\x04MQTT\x05\x02\x00\x0a\x02\x17\x00\x00\x01c",
    ] {
        let mut rig = Rig::open(connect);
        rig.feed(b"\x32\x07\x00\x01a\x00\x01\x00x");
        rig.answer(Answer::Ack(Ack::kept(1).with_receipt("r".repeat(64))));
        assert_eq!(rig.out(), b"\x40\x04\x00\x01\x00\x00");
    }
    // Of a note that is too long the reason goes first.
    let mut rig = Rig::open(b"\x10\x13\x00\x04MQTT\x05\x02\x00\x0a\x05\x27\x00\x00\x00\x40\x00\x01c");
    rig.feed(b"\x32\x07\x00\x01a\x00\x01\x00x");
    rig.answer(Answer::Ack(Ack::kept(1).with_receipt("s3/41").saying("w".repeat(40))));
    assert_eq!(rig.out(), b"\x40\x15\x00\x01\x00\x11\x26\x00\x07receipt\x00\x05s3/41");
    // One byte: nothing fits, and nothing panics.
    let mut rig = Rig::new(limits());
    rig.feed(b"\x10\x13\x00\x04MQTT\x05\x02\x00\x0a\x05\x27\x00\x00\x00\x01\x00\x01c");
    rig.answer(Answer::Accept(Box::default()));
    assert_eq!(rig.closed().reason, CloseReason::PacketTooLarge);
    assert_eq!(rig.out(), b"");
}

#[test]
fn malformed_packets_close_with_a_reason() {
    for (what, bytes, code) in [
        ("packet id 0", &b"\x32\x07\x00\x01a\x00\x00\x00x"[..], 0x81),
        ("QoS 3", b"\x36\x07\x00\x01a\x00\x01\x00x", 0x81),
        ("flags of PUBREL", b"\x60\x02\x00\x05", 0x81),
        ("a topic that is no UTF-8", b"\x30\x05\x00\x01\xff\x00x", 0x81),
        ("a wildcard in a topic", b"\x30\x05\x00\x01+\x00x", 0x90),
        ("an empty topic", b"\x30\x04\x00\x00\x00x", 0x90),
        ("NUL in a topic", b"\x30\x05\x00\x01\x00\x00x", 0x90),
        ("a length of five bytes", b"\x30\xff\xff\xff\xff\x01", 0x81),
        ("too large", b"\x30\xe9\x07", 0x95),
        ("SUBSCRIBE without a filter", b"\x82\x03\x00\x01\x00", 0x82),
        ("CONNACK", b"\x20\x03\x00\x00\x00", 0x82),
        ("AUTH", b"\xf0\x00", 0x82),
        ("alias 0", b"\x30\x08\x00\x01a\x03\x23\x00\x00x", 0x81),
        ("alias above the limit", b"\x30\x08\x00\x01a\x03\x23\x00\x03x", 0x94),
        ("unknown alias", b"\x30\x07\x00\x00\x03\x23\x00\x01x", 0x94),
    ] {
        let mut rig = Rig::open(V5);
        rig.feed(bytes);
        assert_eq!(rig.out(), [0xe0, 2, code, 0], "{what}");
        rig.closed();
    }
}

#[test]
fn a_topic_without_its_name_in_version_3_closes() {
    for bytes in [&b"\x30\x03\x00\x00x"[..], b"\x30\x04\x00\x01#x", b"\x32\x06\x00\x01a\x00\x00x"] {
        let mut rig = Rig::open(V311);
        rig.feed(bytes);
        assert_eq!(rig.out(), b"", "version 3 has no word for it");
        rig.closed();
    }
}

#[test]
fn a_packet_that_is_too_large_is_refused_by_its_length_alone() {
    // MQTT 5 clients were told the limit; in MQTT 3 only a PUBLISH can be discarded and answered.
    for (connect, first) in [(V5, 0x30), (V311, 0x82)] {
        let mut rig = Rig::open(connect);
        rig.feed(&[first, 0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(rig.closed().reason, CloseReason::PacketTooLarge);
    }
    let mut rig = Rig::new(limits());
    rig.feed(b"\x10\xff\xff\xff\x7f\x00\x04MQTT\x05\x02");
    assert!(rig.core.is_closed());
}

/// The oversize publishes handed up since the last call.
fn oversize(rig: &mut Rig) -> Vec<Oversize> {
    let one = |event| match event {
        Inbound::Oversize(oversize) => *oversize,
        other => panic!("not expected: {other:?}"),
    };
    rig.events.drain(..).map(one).collect()
}

#[test]
fn a_publish_of_version_3_that_is_too_large_is_discarded_and_answered_in_its_turn() {
    for (first, ack) in [(0x32, 0x40), (0x34, 0x50)] {
        let mut rig = Rig::open(V311);
        rig.feed(&publish3(0x32, 1));
        assert_eq!(rig.tokens(), [1]);
        // 200,000 bytes, byte by byte at first, and a small one behind it.
        let head = [&[first, 0xc0, 0x9a, 0x0c][..], b"\x00\x05a/b/c\x00\x09"].concat();
        head.iter().for_each(|byte| rig.feed(&[*byte]));
        let mut left = 200_000 - 9;
        while left > 0 {
            let now = left.min(60_000);
            rig.feed(&vec![b'x'; now]);
            left -= now;
            assert!(rig.core.input().len() < 1_000, "{} bytes are kept", rig.core.input().len());
            assert_eq!(rig.events.len(), usize::from(left == 0));
        }
        let all = oversize(&mut rig);
        assert_eq!((&*all[0].topic, all[0].payload_bytes, all[0].token), ("a/b/c", 199_991, 2));
        assert_eq!(all[0].why, TooLarge::Packet { bytes: 200_000, most: 1_000 });
        rig.feed(&publish3(0x32, 3));
        assert_eq!(rig.tokens(), [3]);
        rig.kept(3);
        rig.kept(2);
        assert_eq!(rig.out(), b"", "the first is still owed");
        rig.kept(1);
        assert_eq!(rig.out(), [&[0x40, 2, 0, 1, ack, 2, 0, 9][..], &[0x40, 2, 0, 3]].concat());
    }
}

#[test]
fn a_topic_beyond_a_bound_is_answered_and_the_connection_stays() {
    let publish = |v5: bool, topic: &str, id: u8| {
        let mut body = (topic.len() as u16).to_be_bytes().to_vec();
        body.extend_from_slice(topic.as_bytes());
        body.extend([0, id]);
        body.extend(v5.then_some(0));
        body.push(b'x');
        let length = [body.len() as u8 | 0x80, (body.len() >> 7) as u8];
        [&[0x32][..], &length, &body].concat()
    };
    let limits = ConnectionLimits { max_packet_bytes: 10_000, ..limits() };
    for connect in [V311, V5] {
        let mut rig = Rig::new(limits);
        rig.feed(connect);
        rig.events.clear();
        rig.answer(Answer::Accept(Box::default()));
        rig.out();
        rig.feed(&publish(connect == V5, &"t".repeat(1_025), 7));
        rig.feed(&publish(connect == V5, &"t/".repeat(100), 8));
        let all = oversize(&mut rig);
        assert_eq!((all[0].why, all[0].topic.len()), (TooLarge::TopicBytes(1_025), 1_024));
        assert_eq!((all[1].why, all[1].payload_bytes), (TooLarge::TopicLevels, 1));
        rig.kept(1);
        rig.kept(2);
        assert!(!rig.core.is_closed());
        assert_eq!(rig.out().iter().filter(|b| **b == 0x40).count(), 2);
    }
}

#[test]
fn what_is_unanswered_is_bounded_in_bytes() {
    let mut rig = Rig::new(ConnectionLimits { max_inflight_bytes: 3, ..limits() });
    rig.feed(V311);
    rig.events.clear();
    rig.answer(Answer::Accept(Box::default()));
    rig.out();
    for id in 1..=3 {
        rig.feed(&publish3(0x32, id));
    }
    assert_eq!(rig.tokens(), [1, 2], "2 bytes each, and one more while it is less than 3");
    rig.kept(1);
    assert_eq!(rig.tokens(), [3]);
}

#[test]
fn held_publishes_are_parked_and_pings_behind_them_answered() {
    let mut rig = Rig::open(V311);
    rig.core.hold(true);
    rig.feed(&publish3(0x32, 1));
    rig.feed(b"\xc0\x00");
    assert_eq!((rig.events.len(), rig.out()), (0, b"\xd0\x00".to_vec()));
    assert!(rig.core.holds_back());
    rig.core.hold(false);
    rig.core.progress(0, &mut rig.events);
    assert_eq!(rig.tokens(), [1]);
    assert!(!rig.core.holds_back());
}

#[test]
fn topic_aliases_stand_for_their_last_topic() {
    let mut rig = Rig::open(V5);
    rig.feed(b"\x30\x08\x00\x01a\x03\x23\x00\x01x\x30\x07\x00\x00\x03\x23\x00\x01y");
    rig.feed(b"\x30\x08\x00\x01b\x03\x23\x00\x01x\x30\x07\x00\x00\x03\x23\x00\x01y");
    let topics: Vec<_> = rig
        .events
        .iter()
        .map(|e| match e {
            Inbound::Publish(p) => p.topic.to_string(),
            other => panic!("not expected: {other:?}"),
        })
        .collect();
    assert_eq!(topics, ["a", "a", "b", "b"]);
}

#[test]
fn a_message_may_expire_at_once() {
    // A User Property before it, and one byte at a time: the codec never sees a part of a packet.
    let publish = b"\x32\x13\x00\x01a\x00\x05\x0c\x26\x00\x01k\x00\x01v\x02\x00\x00\x00\x00x";
    for step in [publish.len(), 1] {
        let mut rig = Rig::open(V5);
        publish.chunks(step).for_each(|piece| rig.feed(piece));
        rig.feed(b"\x82\x07\x30\x03\x00\x00\x01a\x00");
        let [Inbound::Publish(p), Inbound::Subscribe { .. }] = &rig.events[..] else {
            panic!("{:?}", rig.events)
        };
        assert_eq!((&*p.topic, &p.payload[..]), ("a", &b"x"[..]));
    }
    // A SUBSCRIBE that comes in pieces, the second of which looks like the start of a PUBLISH.
    let mut rig = Rig::open(V5);
    rig.feed(b"\x82\x07");
    rig.feed(b"\x30\x03\x00\x00\x01a\x00");
    assert!(matches!(rig.events[..], [Inbound::Subscribe { .. }]), "{:?}", rig.events);
    // The same of a will.
    let mut rig = Rig::new(limits());
    rig.feed(b"\x10\x19\x00\x04MQTT\x05\x06\x00\x0a\x00\x00\x01c\x05\x02\x00\x00\x00\x00\x00\x01w\x00\x00");
    assert!(matches!(rig.events[..], [Inbound::Connect(_)]), "{:?}", rig.events);
}

#[test]
fn retain_is_dropped_and_the_publish_taken() {
    let mut rig = Rig::open(V5);
    rig.feed(b"\x31\x05\x00\x01a\x00x");
    assert!(matches!(&rig.events[..], [Inbound::Publish(p)] if !p.retain && p.qos == QoS::AtMostOnce));
}

#[test]
fn bad_filters_fail_one_by_one() {
    let mut rig = Rig::open(V5);
    rig.feed(b"\x82\x1c\x00\x01\x00\x00\x01a\x05\x00\x02a#\x00\x00\x0a$share/g/a\x01\x00\x00\x00");
    let asked = rig.granted();
    assert_eq!(rig.out(), b"\x90\x07\x00\x01\x00\x01\x8f\x9e\x8f");
    let one = |s: &[Subscription]| s.len() == 1 && s[0].no_local;
    assert!(matches!(&asked[..], [Inbound::Subscribe { subscriptions: s, .. }] if one(s)));
    rig.feed(b"\x82\x09\x00\x02\x02\x0b\x05\x00\x01a\x01");
    assert_eq!(rig.out(), b"\x90\x04\x00\x02\x00\xa1");
    rig.feed(b"\xa2\x09\x00\x03\x00\x00\x01a\x00\x01b");
    assert_eq!(rig.out(), b"", "UNSUBACK waits, too");
    assert_eq!(rig.granted(), [Inbound::Unsubscribe { token: 2, filters: vec![Filter::new("a").unwrap()] }]);
    assert_eq!(rig.out(), b"\xb0\x05\x00\x03\x00\x00\x11");
    rig.feed(b"\xa2\x06\x00\x04\x00\x00\x01b");
    assert_eq!(rig.out(), b"\xb0\x04\x00\x04\x00\x11", "nothing is given up, so nobody is asked");
    let mut rig = Rig::open(V311);
    rig.feed(b"\x82\x0b\x00\x01\x00\x01a\x00\x00\x02a#\x00");
    rig.granted();
    assert_eq!(rig.out(), b"\x90\x04\x00\x01\x00\x80");
}

#[test]
fn a_filter_that_the_application_refuses_fails_alone_and_is_not_held() {
    for (connect, subscribe, unsubscribe, suback, unsuback) in [
        (
            V5,
            &b"\x82\x0b\x00\x01\x00\x00\x01a\x01\x00\x01b\x01"[..],
            &b"\xa2\x09\x00\x02\x00\x00\x01a\x00\x01b"[..],
            &b"\x90\x05\x00\x01\x00\x01\x97"[..],
            &b"\xb0\x05\x00\x02\x00\x00\x11"[..],
        ),
        (
            V311,
            b"\x82\x0a\x00\x01\x00\x01a\x01\x00\x01b\x01",
            b"\xa2\x08\x00\x02\x00\x01a\x00\x01b",
            b"\x90\x04\x00\x01\x01\x80",
            b"\xb0\x02\x00\x02",
        ),
    ] {
        let mut rig = Rig::open(connect);
        rig.feed(subscribe);
        rig.events.clear();
        rig.answer(Answer::Subscribed { token: 1, refused: vec![1, 7] });
        assert_eq!(rig.out(), suback);
        rig.answer(Answer::Subscribed { token: 1, refused: Vec::new() });
        rig.feed(unsubscribe);
        rig.granted();
        assert_eq!(rig.out(), unsuback);
    }
}

#[test]
fn subscribes_without_an_answer_are_bounded_in_bytes() {
    let mut rig = Rig::open(V311);
    let mut asked = 0;
    while rig.core.wants_input() {
        rig.feed(b"\x82\x06\x00\x09\x00\x01b\x01\xc0\x00");
        asked += 1;
        assert!(asked < 20, "it must press back");
    }
    assert_eq!(rig.out(), b"\xd0\x00".repeat(asked - 1), "pings are answered until then");
    rig.answer(Answer::Subscribed { token: 3, refused: Vec::new() });
    assert!(rig.core.wants_input());
    assert_eq!(rig.out(), b"\x90\x03\x00\x09\x01\xd0\x00");
    rig.core.close(CloseReason::Gone, &mut rig.events);
    rig.answer(Answer::Subscribed { token: 1, refused: Vec::new() });
    assert_eq!(rig.out(), b"", "nothing is said after the end");
}

#[test]
fn subscriptions_of_a_resumed_session_count_as_held() {
    let mut rig = Rig::new(limits());
    rig.feed(V5);
    let a = Subscription::from_options(Filter::new("a").unwrap(), 1);
    rig.answer(Answer::Accept(Box::new(Accept { subscriptions: vec![a], ..Accept::default() })));
    rig.out();
    rig.events.clear();
    rig.feed(b"\xa2\x06\x00\x03\x00\x00\x01a");
    rig.granted();
    assert_eq!(rig.out(), b"\xb0\x04\x00\x03\x00\x00");
}

#[test]
fn a_connection_holds_a_bounded_number_of_filters() {
    let mut rig = Rig::open(V5);
    for n in 0..=MAX_CONNECTION_FILTER_ENTRIES {
        let filter = format!("f/{n:06}");
        rig.feed(&[b"\x82\x0e\x00\x01\x00\x00\x08", filter.as_bytes(), b"\x01"].concat());
        rig.granted();
        let want = if n < MAX_CONNECTION_FILTER_ENTRIES { 1 } else { 0x97 };
        assert_eq!(rig.out(), [0x90, 4, 0, 1, 0, want], "filter {n}");
    }
}

#[test]
fn filters_of_many_levels_are_bounded_by_what_they_take() {
    let mut rig = Rig::open(V5);
    let mut granted = 0;
    for n in 0..MAX_CONNECTION_FILTER_ENTRIES {
        let filter = format!("{n:06}/{}#", "a/".repeat(62));
        let length = 2 + 1 + 2 + filter.len() + 1;
        let head = [0x82, length as u8 | 0x80, (length >> 7) as u8, 0, 1, 0, 0, filter.len() as u8];
        rig.feed(&[&head, filter.as_bytes(), b"\x01"].concat());
        rig.granted();
        let out = rig.out();
        granted += usize::from(out == [0x90, 4, 0, 1, 0, 1]);
        assert!(out == [0x90, 4, 0, 1, 0, 1] || out == [0x90, 4, 0, 1, 0, 0x97], "filter {n}: {out:?}");
    }
    assert!((80..200).contains(&granted), "{granted} of {MAX_CONNECTION_FILTER_ENTRIES} are granted");
}

#[test]
fn deliveries_keep_to_the_window_of_the_client() {
    // Receive Maximum 1.
    let mut rig = Rig::open(b"\x10\x11\x00\x04MQTT\x05\x02\x00\x0a\x03\x21\x00\x01\x00\x01c");
    rig.core.deliver(delivery(QoS::AtLeastOnce, "x"));
    rig.core.deliver(delivery(QoS::AtMostOnce, "y"));
    assert_eq!(rig.out(), b"\x32\x07\x00\x01a\x00\x01\x00x\x30\x05\x00\x01a\x00y");
    assert!(!rig.core.can_deliver(QoS::AtLeastOnce));
    assert!(rig.core.can_deliver(QoS::AtMostOnce));
    rig.feed(b"\x40\x02\x00\x09\x40\x02\x00\x01");
    assert!(rig.core.can_deliver(QoS::AtLeastOnce));
    rig.core.deliver(delivery(QoS::AtLeastOnce, "z"));
    assert_eq!(rig.out(), b"\x32\x07\x00\x01a\x00\x02\x00z");
    rig.core.close(CloseReason::Gone, &mut rig.events);
    assert_eq!(rig.closed().undelivered, [delivery(QoS::AtLeastOnce, "z")]);
}

#[test]
fn a_delivery_that_is_larger_than_the_client_takes_is_left_out() {
    let mut rig = Rig::open(b"\x10\x13\x00\x04MQTT\x05\x02\x00\x0a\x05\x27\x00\x00\x00\x40\x00\x01c");
    let large = Delivery { topic: "a".into(), payload: vec![b'x'; 100].into(), qos: QoS::AtLeastOnce };
    assert!(!rig.core.deliver(large));
    assert_eq!(rig.out(), b"");
    assert!(rig.core.deliver(delivery(QoS::AtLeastOnce, "x")));
}

#[test]
fn a_will_is_given_back_unless_the_client_says_goodbye() {
    let connect = b"\x10\x13\x00\x04MQTT\x04\x0e\x00\x0a\x00\x01c\x00\x01w\x00\x01!";
    let will = || Will { topic: "w".into(), payload: "!".into(), qos: QoS::AtLeastOnce, delay_s: 0 };
    let mut rig = Rig::open(connect);
    rig.core.close(CloseReason::Gone, &mut rig.events);
    assert_eq!(rig.closed().will, Some(will()));
    let mut rig = Rig::open(connect);
    rig.feed(b"\xe0\x00");
    let closed = rig.closed();
    assert_eq!((closed.will, closed.reason), (None, CloseReason::Disconnected));
    let mut rig = Rig::new(limits());
    rig.feed(connect);
    rig.answer(Answer::Refuse(Refusal::NotAuthorized));
    assert_eq!(rig.closed().will, None, "one that was not let in leaves none");

    let connect =
        b"\x10\x1a\x00\x04MQTT\x05\x0e\x00\x0a\x00\x00\x01c\x05\x18\x00\x00\x00\x05\x00\x01w\x00\x01!";
    let mut rig = Rig::open(connect);
    rig.feed(b"\xe0\x01\x04");
    let closed = rig.closed();
    assert_eq!(closed.will, Some(Will { delay_s: 5, ..will() }));
    assert_eq!(closed.reason, CloseReason::DisconnectedWithWill);
}

#[test]
fn disconnect_changes_the_expiry_of_a_session_that_has_one() {
    let disconnect = |s: u8| [&b"\xe0\x07\x00\x05\x11\x00\x00\x00"[..], &[s]].concat();
    let durable = b"\x10\x13\x00\x04MQTT\x05\x00\x00\x0a\x05\x11\x00\x00\x00\x3c\x00\x01c";
    for expiry_s in [0, 5] {
        let mut rig = Rig::open(durable);
        rig.feed(&disconnect(expiry_s));
        let closed = rig.closed();
        assert_eq!((closed.reason, closed.expiry_s), (CloseReason::Disconnected, Some(expiry_s.into())));
    }
    let mut rig = Rig::open(V5);
    rig.feed(&disconnect(0));
    assert_eq!(rig.closed().reason, CloseReason::Disconnected);
    let mut rig = Rig::open(V5);
    rig.feed(&disconnect(5));
    assert_eq!(rig.out(), b"\xe0\x02\x82\x00", "from 0 it may not be raised");
    assert!(matches!(rig.closed().reason, CloseReason::Protocol(_)));
}

#[test]
fn a_will_to_no_topic_name_is_refused() {
    let mut rig = Rig::new(limits());
    rig.feed(b"\x10\x13\x00\x04MQTT\x04\x0e\x00\x0a\x00\x01c\x00\x01#\x00\x01!");
    assert!(rig.core.is_closed() && rig.events.is_empty());
}

#[test]
fn what_is_parked_and_sent_again_is_not_handed_up_at_the_end() {
    let once = b"\x30\x04\x00\x01ax";
    for goodbye in [true, false] {
        let mut rig = Rig::open(V311);
        let many: Vec<u8> = (1..=6).flat_map(|id| publish3(0x32, id)).collect();
        rig.feed(&[&many[..], &publish3(0x34, 7), b"\x62\x02\x00\x08", once].concat());
        match goodbye {
            true => rig.feed(b"\xe0\x00"),
            false => rig.core.close(CloseReason::Gone, &mut rig.events),
        }
        rig.closed();
        let last = rig.events.last().cloned();
        assert!(
            matches!(last, Some(Inbound::Publish(p)) if p.qos == QoS::AtMostOnce),
            "it is sent only once"
        );
        assert_eq!(rig.tokens(), [1, 2, 3, 4, 5], "four were in the window");
    }
    let mut rig = Rig::open(V311);
    let many: Vec<u8> = (1..=6).flat_map(|id| publish3(0x32, id)).collect();
    rig.feed(&[&many[..], once].concat());
    rig.core.close(CloseReason::TakenOver, &mut rig.events);
    rig.closed();
    assert_eq!(rig.tokens(), [1, 2, 3, 4], "who is thrown out has nothing taken");
}

#[test]
fn keep_alive_ends_a_silent_client_after_one_and_a_half() {
    let mut rig = Rig::open(V5);
    assert_eq!(rig.core.deadline_ms(), Some(15_000));
    rig.now_ms = 5_000;
    rig.feed(b"\xc0\x00");
    rig.out();
    rig.tick(19_999);
    assert!(!rig.core.is_closed());
    rig.tick(20_000);
    assert_eq!(rig.out(), b"\xe0\x02\x8d\x00");
    assert_eq!(rig.closed().reason, CloseReason::KeepAlive);
}

#[test]
fn a_capped_keep_alive_is_told_to_version_5() {
    let mut rig = Rig::new(ConnectionLimits { max_keepalive_s: 5, ..limits() });
    rig.feed(V5);
    assert!(matches!(&rig.events[..], [Inbound::Connect(c)] if c.keepalive_s == 5));
    rig.answer(Answer::Accept(Box::default()));
    assert!(rig.out().windows(3).any(|w| w == b"\x13\x00\x05"));
    assert_eq!(rig.core.deadline_ms(), Some(7_500));
}

#[test]
fn an_older_client_without_a_keep_alive_gets_the_longest() {
    for keepalive_s in [[0, 0], [0xff, 0xff]] {
        let mut rig = Rig::new(ConnectionLimits { max_keepalive_s: 60, ..limits() });
        rig.feed(&[b"\x10\x0d\x00\x04MQTT\x04\x02", &keepalive_s[..], b"\x00\x01c"].concat());
        rig.events.clear();
        rig.answer(Answer::Accept(Box::default()));
        rig.tick(89_999);
        assert!(!rig.core.is_closed());
        rig.tick(90_000);
        assert_eq!(rig.closed().reason, CloseReason::KeepAlive);
    }
}

#[test]
fn a_client_that_sends_pings_and_does_not_read_is_not_read_either() {
    let mut rig = Rig::open(V311);
    while rig.core.wants_input() {
        rig.feed(&b"\xc0\x00".repeat(1000));
        assert!(rig.core.output().len() <= MAX_OUTPUT_BYTES + 16);
    }
    rig.out();
    assert!(rig.core.wants_input());
}

#[test]
fn after_the_end_nothing_is_taken_or_sent() {
    let mut rig = Rig::open(V5);
    rig.feed(b"\x32\x07\x00\x01a\x00\x01\x00x");
    rig.core.close(CloseReason::TakenOver, &mut rig.events);
    assert_eq!(rig.out(), b"\xe0\x02\x8e\x00");
    rig.closed();
    rig.events.clear();
    rig.kept(1);
    rig.feed(&publish3(0x32, 2));
    rig.core.close(CloseReason::Gone, &mut rig.events);
    rig.tick(u64::MAX);
    assert!(rig.events.is_empty() && rig.out().is_empty() && !rig.core.wants_input());
}

#[test]
fn a_password_is_not_shown() {
    let mut rig = Rig::new(limits());
    rig.feed(b"\x10\x17\x00\x04MQTT\x04\xc2\x00\x0a\x00\x01c\x00\x02me\x00\x04s3cr");
    let shown = format!("{:?}", rig.events);
    assert!(shown.contains("me") && !shown.contains("s3cr"), "{shown}");
    assert!(matches!(&rig.events[..], [Inbound::Connect(c)] if c.password.as_deref() == Some(&b"s3cr"[..])));
}

#[test]
fn enhanced_authentication_is_refused() {
    let mut rig = Rig::new(limits());
    rig.feed(b"\x10\x12\x00\x04MQTT\x05\x02\x00\x0a\x04\x15\x00\x01x\x00\x01c");
    assert_eq!(rig.out(), b"\x20\x03\x00\x8c\x00");
}

#[test]
fn while_credit_is_short_a_connection_reads_what_is_its_own_and_packets_for_which_there_is_room() {
    let limits =
        ConnectionLimits { max_packet_bytes: 100_000, parked_bytes: 100_000, ..ConnectionLimits::default() };
    let mut rig = Rig::open_within(V311, limits);
    let lend = |rig: &mut Rig, left_bytes, held_bytes| {
        rig.core.lend(Loan { left_bytes, held_bytes });
        rig.core.progress(rig.now_ms, &mut rig.events);
        rig.core.most_input_bytes()
    };
    assert_eq!(lend(&mut rig, None, 0), usize::MAX);
    assert_eq!(lend(&mut rig, Some(0), 0), 4_096, "its own");
    let large = large_publish3(1, 20_000);
    rig.feed(&large[..4_096]);
    assert!(!rig.core.wants_input() && rig.core.holds_back());
    assert_eq!((rig.core.most_input_bytes(), rig.core.charged_bytes()), (0, 0));
    rig.tick(60_000);
    assert!(!rig.core.is_closed(), "it is we who do not read");
    assert_eq!(lend(&mut rig, Some(large.len() - 1), 0), 0);
    assert_eq!(lend(&mut rig, Some(large.len()), 0), large.len() - 4_096);
    assert_eq!(rig.core.charged_bytes(), large.len() - 4_096);
    assert_eq!(lend(&mut rig, Some(0), 0), large.len() - 4_096, "what was lent is not called back");
    rig.feed(&large[4_096..]);
    assert_eq!((rig.tokens(), rig.core.charged_bytes()), (vec![1], 0));
    // While the application has more of it than its own, nothing more goes up; what is behind it is answered.
    lend(&mut rig, Some(0), 20_000);
    rig.feed(&[&publish3(0x32, 2)[..], b"\xc0\x00"].concat());
    assert_eq!((rig.tokens(), rig.out()), (vec![], b"\xd0\x00".to_vec()));
    rig.kept(1);
    assert!(rig.tokens().is_empty(), "it has not said that it holds less");
    assert!(rig.core.holds_back(), "no answer will tell");
    lend(&mut rig, Some(0), 0);
    assert_eq!(rig.tokens(), [2]);
    // The same goes for QoS 0, which is not answered.
    lend(&mut rig, None, limits.max_inflight_bytes);
    rig.feed(b"\x30\x04\x00\x01ax");
    assert!(rig.tokens().is_empty());
    lend(&mut rig, None, limits.max_inflight_bytes - 1);
    assert_eq!(rig.tokens(), [3]);
}
