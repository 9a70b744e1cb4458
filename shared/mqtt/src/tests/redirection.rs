//! Clients that are sent to other servers: what goes over the wire, and what they are answered before.

use super::rig::*;
use crate::*;
use selvedge_types::mqtt::*;
use selvedge_types::topic::Filter;
use std::sync::{Arc, Mutex};

const SERVERS: &str = "g2:1883 g3:1883";

fn send_away(rig: &mut Rig, reference: Option<&'static str>) {
    rig.core.send_away(rig.now_ms, reference.map(Into::into), &mut rig.events);
}

fn disconnect(reference: &str) -> Vec<u8> {
    let length = reference.len() as u8;
    [&[0xe0, length + 5, 0x9c, length + 3, 0x1c, 0, length][..], reference.as_bytes()].concat()
}

#[test]
fn a_client_that_is_not_accepted_yet_gets_its_connack() {
    let length = SERVERS.len() as u8;
    let told = [&[0x20, length + 6, 0, 0x9c, length + 3, 0x1c, 0, length][..], SERVERS.as_bytes()].concat();
    let plain = b"\x20\x03\x00\x9c\x00";
    // Takes packets of 12 bytes at most: too few for the list.
    let small = b"\x10\x13\x00\x04MQTT\x05\x02\x00\x0a\x05\x27\x00\x00\x00\x0c\x00\x01c";
    for (connect, reference, want) in [
        (V5, Some(SERVERS), &told[..]),
        (V5, None, plain),
        (small, Some(SERVERS), plain),
        (V311, Some(SERVERS), b"\x20\x02\x00\x03"),
    ] {
        let mut rig = Rig::new(limits());
        rig.feed(connect);
        send_away(&mut rig, reference);
        assert_eq!(rig.out(), want);
        let closed = rig.closed();
        assert_eq!((closed.reason, closed.will), (CloseReason::Refused(Refusal::UseAnotherServer), None));
    }
}

#[test]
fn a_client_that_is_owed_nothing_leaves_at_once() {
    let mut rig = Rig::open(V5);
    send_away(&mut rig, Some(SERVERS));
    assert_eq!(rig.out(), disconnect(SERVERS));
    assert_eq!(rig.closed().reason, CloseReason::UseAnotherServer);
    let mut rig = Rig::open(V5);
    send_away(&mut rig, None);
    assert_eq!(rig.out(), b"\xe0\x02\x9c\x00");
    for old in [V31, V311] {
        let mut rig = Rig::open(old);
        send_away(&mut rig, Some(SERVERS));
        assert_eq!(rig.out(), b"", "version 3 has no words for it");
        assert_eq!(rig.closed().reason, CloseReason::UseAnotherServer);
    }
}

#[test]
fn what_is_in_flight_is_acknowledged_first() {
    let publish = |first: u8, id: u8| [first, 7, 0, 1, b'a', 0, id, 0, b'x'];
    let mut rig = Rig::open(V5);
    rig.feed(&[publish(0x32, 1), publish(0x34, 2)].concat());
    assert_eq!(rig.tokens(), [1, 2]);
    rig.kept(2);
    send_away(&mut rig, Some(SERVERS));
    send_away(&mut rig, Some("g9:1883"));
    assert_eq!(rig.out(), b"", "the first is not answered");
    // What comes now waits for another server; only pings are answered.
    rig.feed(&[&publish(0x32, 3)[..], b"\x30\x05\x00\x01a\x00y", b"\x62\x02\x00\x02", b"\xc0\x00"].concat());
    assert_eq!(rig.out(), b"\xd0\x00");
    assert!(rig.events.is_empty(), "{:?}", rig.events);
    rig.kept(1);
    let acks = b"\x40\x04\x00\x01\x00\x00\x50\x04\x00\x02\x00\x00";
    assert_eq!(rig.out(), [&acks[..], &disconnect(SERVERS)].concat());
    let closed = rig.closed();
    assert_eq!(closed.reason, CloseReason::UseAnotherServer);
    // QoS 0 comes once only, so it is handed up; the other publish was not acknowledged, and comes again elsewhere.
    assert!(matches!(&rig.events[..], [Inbound::Publish(p)] if &p.payload[..] == b"y"), "{:?}", rig.events);
}

#[test]
fn a_subscribe_is_answered_first() {
    let mut rig = Rig::open(V311);
    rig.feed(b"\x82\x06\x00\x07\x00\x01a\x01");
    let Some(Inbound::Subscribe { token, subscriptions }) = rig.events.pop() else { panic!("no subscribe") };
    assert_eq!(subscriptions[0].filter, Filter::new("a").unwrap());
    send_away(&mut rig, None);
    assert!(!rig.core.is_closed());
    rig.answer(Answer::Subscribed { token, refused: Vec::new() });
    assert_eq!(rig.out(), b"\x90\x03\x00\x07\x01");
    assert!(rig.core.is_closed());
}

#[test]
fn nobody_waits_for_answers_for_ever() {
    let mut rig = Rig::open(V5);
    rig.feed(b"\x32\x07\x00\x01a\x00\x01\x00x");
    rig.now_ms = 4_000;
    send_away(&mut rig, Some(SERVERS));
    let until_ms = 4_000 + SEND_AWAY_WAIT_MS;
    assert_eq!(rig.core.deadline_ms(), Some(until_ms));
    rig.tick(until_ms - 1);
    assert!(!rig.core.is_closed());
    rig.tick(until_ms);
    assert_eq!(rig.out(), disconnect(SERVERS));
    assert_eq!(rig.closed().reason, CloseReason::UseAnotherServer);
    // A client that is silent for too long meanwhile is closed for that.
    let mut rig = Rig::open(V5);
    rig.feed(b"\x32\x07\x00\x01a\x00\x01\x00x");
    rig.now_ms = 14_000;
    send_away(&mut rig, Some(SERVERS));
    rig.tick(15_000);
    assert_eq!(rig.closed().reason, CloseReason::KeepAlive);
}

#[derive(Default)]
struct Elsewhere(Mutex<Vec<CloseReason>>, Mutex<Vec<Arc<Handle>>>);

impl Application for Elsewhere {
    fn inbound(&self, connection: &Arc<Handle>, events: &mut Vec<Inbound>) {
        for event in events.drain(..) {
            match event {
                Inbound::Connect(c) if c.version == Version::V5 => connection.send_away(Some(SERVERS.into())),
                Inbound::Connect(_) => {
                    connection.answer(Answer::Accept(Box::default()));
                    self.1.lock().unwrap().push(connection.clone());
                }
                _ => {}
            }
        }
    }

    fn departed(&self, departure: &Departure) {
        self.0.lock().unwrap().push(departure.reason);
    }
}

#[tokio::test]
async fn an_application_sends_clients_away_over_a_socket() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let config = ListenerConfig {
        address: ([127, 0, 0, 1], 0).into(),
        max_connections: 10,
        max_connections_per_address: 10,
        limits: ConnectionLimits::default(),
    };
    let app = Arc::new(Elsewhere::default());
    let listener = Listener::bind(config).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let task = tokio::spawn(listener.run(app.clone(), stopped));
    let talk = async |connect: &[u8]| {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        socket.write_all(connect).await.unwrap();
        socket
    };
    let mut said = Vec::new();
    talk(V5).await.read_to_end(&mut said).await.unwrap();
    assert_eq!((said[0], said[3]), (0x20, 0x9c));
    assert!(said.ends_with(SERVERS.as_bytes()));
    let mut old = talk(V311).await;
    old.read_exact(&mut [0; 4]).await.unwrap();
    app.1.lock().unwrap().pop().unwrap().send_away(Some(SERVERS.into()));
    assert_eq!(old.read(&mut [0; 9]).await.unwrap(), 0, "just closed");
    drop(old);
    stop.send(true).unwrap();
    task.await.unwrap();
    let reasons = [CloseReason::Refused(Refusal::UseAnotherServer), CloseReason::UseAnotherServer];
    assert_eq!(app.0.lock().unwrap()[..], reasons);
}
