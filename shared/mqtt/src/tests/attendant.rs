//! Attendants without sockets, a clock turned by hand.

use super::rig::{V311, large_publish3, publish3};
use crate::handle::FOLLOW_MS;
use crate::*;
use selvedge_types::mqtt::*;
use std::sync::{Arc, Mutex};

/// Takes everything in, and answers CONNECT alone.
#[derive(Default)]
struct Quiet {
    credit: Arc<CreditPool>,
    departures: Mutex<Vec<Departure>>,
    tokens: Mutex<Vec<u64>>,
}

impl Application for Quiet {
    fn inbound(&self, connection: &Arc<Handle>, events: &mut Vec<Inbound>) {
        for event in events.drain(..) {
            match event {
                Inbound::Connect(_) => connection.answer(Answer::Accept(Box::default())),
                Inbound::Publish(p) => self.tokens.lock().unwrap().push(p.token),
                _ => {}
            }
        }
    }

    fn credit(&self) -> Arc<CreditPool> {
        self.credit.clone()
    }

    fn departed(&self, departure: &Departure) {
        self.departures.lock().unwrap().push(departure.clone());
    }
}

fn config(limits: ConnectionLimits) -> ListenerConfig {
    let (max_connections, max_connections_per_address) = (10, 10);
    ListenerConfig {
        address: ([127, 0, 0, 1], 0).into(),
        max_connections,
        max_connections_per_address,
        limits,
    }
}

/// Goes round until there is something to wait for; what it waits for, and what it has written.
fn round(attendant: &mut Attendant, now_ms: u64) -> (Option<Wait>, Vec<u8>) {
    let mut out = Vec::new();
    loop {
        if !attendant.exchange(now_ms) {
            return (None, out);
        }
        let bytes = attendant.output().to_vec();
        out.extend_from_slice(&bytes);
        attendant.written(bytes.len());
        if let Some(wait) = attendant.go_on(now_ms) {
            return (Some(wait), out);
        }
    }
}

fn feed(attendant: &mut Attendant, bytes: &[u8], now_ms: u64) -> (Option<Wait>, Vec<u8>) {
    attendant.input().extend_from_slice(bytes);
    attendant.received(bytes.len(), now_ms);
    round(attendant, now_ms)
}

fn open(reception: &mut Reception) -> Attendant {
    let mut attendant = reception.receive(([127, 0, 0, 1], 1).into(), 0).unwrap();
    let (wait, _) = round(&mut attendant, 0);
    assert!(wait.unwrap().reads);
    let (_, out) = feed(&mut attendant, V311, 0);
    assert_eq!(out, b"\x20\x02\x00\x00");
    attendant
}

#[test]
fn an_idle_connection_reads_by_the_credit_there_is_when_bytes_come() {
    let app = Arc::new(Quiet { credit: Arc::new(CreditPool::new(64 * 1024)), ..Quiet::default() });
    let mut reception = Reception::new(app.clone(), &config(ConnectionLimits::default()));
    let mut attendant = open(&mut reception);
    let large = large_publish3(1, 40_000);
    // Large reads make the next one larger.
    for piece in large.chunks(8 * 1024) {
        feed(&mut attendant, piece, 0);
    }
    assert_eq!(*app.tokens.lock().unwrap(), [1]);
    assert!(attendant.most_read_bytes() > 4_096);
    let other = Charge::new(app.credit.clone());
    other.set(64 * 1024);
    assert_eq!(attendant.most_read_bytes(), 4_096, "what is its own");
    other.set(0);
    assert!(attendant.most_read_bytes() > 4_096);
}

#[test]
fn a_publisher_waits_for_a_subscriber_that_is_behind_but_not_for_ever() {
    let app = Arc::new(Quiet::default());
    let mut reception = Reception::new(app.clone(), &config(ConnectionLimits::default()));
    let mut publisher = open(&mut reception);
    let subscriber = Handle::detached(
        99,
        &ConnectionLimits { delivery_queue_bytes: 1_000, ..ConnectionLimits::default() },
    );
    let delivery = || Delivery { topic: "t".into(), payload: vec![0; 500].into(), qos: QoS::AtLeastOnce };
    subscriber.deliver(delivery()).unwrap();
    assert!(subscriber.behind().get());
    publisher.handle().wait_for(subscriber.behind().clone());
    // It begins when it begins to keep publishes back.
    let (wait, _) = feed(&mut publisher, &publish3(0x32, 1), 5_000);
    assert!(app.tokens.lock().unwrap().len() == 1 && wait.is_some(), "what came with it was handed up");
    let (wait, _) = feed(&mut publisher, &publish3(0x32, 2), 5_001);
    assert_eq!(app.tokens.lock().unwrap().len(), 1);
    assert!(wait.unwrap().until_ms.is_some_and(|at| at < 5_100), "it looks again soon");
    round(&mut publisher, 5_000 + FOLLOW_MS - 1);
    assert_eq!(app.tokens.lock().unwrap().len(), 1);
    round(&mut publisher, 5_000 + FOLLOW_MS);
    assert_eq!(*app.tokens.lock().unwrap(), [1, 2]);
    // One that follows again is not waited for.
    publisher.handle().wait_for(subscriber.behind().clone());
    round(&mut publisher, 7_000);
    feed(&mut publisher, &publish3(0x32, 3), 7_001);
    assert_eq!(app.tokens.lock().unwrap().len(), 2);
    subscriber.take_deliveries();
    round(&mut publisher, 7_002);
    assert_eq!(*app.tokens.lock().unwrap(), [1, 2, 3]);
}

#[test]
fn a_call_is_heard_once_and_the_departure_is_told_at_the_end() {
    let app = Arc::new(Quiet::default());
    let mut reception = Reception::new(app.clone(), &config(ConnectionLimits::default()));
    let mut attendant = open(&mut reception);
    while attendant.was_called() {}
    attendant.handle().close(CloseReason::Administrative);
    assert!(attendant.was_called() && !attendant.was_called());
    assert_eq!(round(&mut attendant, 9).0, None);
    assert!(attendant.end(10), "it was let in, so it has been told something");
    let departures = app.departures.lock().unwrap();
    assert_eq!((departures.len(), departures[0].reason), (1, CloseReason::Administrative));
    assert_eq!(departures[0].lasted_ms, 10);
}

#[test]
fn a_write_that_makes_no_progress_ends_the_connection() {
    let app = Arc::new(Quiet::default());
    let limits = ConnectionLimits { write_stall_ms: 700, ..ConnectionLimits::default() };
    let mut reception = Reception::new(app, &config(limits));
    let mut attendant = open(&mut reception);
    attendant.input().extend_from_slice(b"\xc0\x00");
    attendant.received(2, 100);
    assert!(attendant.exchange(100));
    attendant.blocked(100);
    let wait = attendant.go_on(100).unwrap();
    assert_eq!((wait.writes, wait.until_ms), (true, Some(800)));
    attendant.tick(799);
    assert!(attendant.exchange(799));
    attendant.tick(800);
    assert!(!attendant.exchange(800));
}
