//! A client that says anything, on a connection whose application answers late, out of order, or not at all.

use crate::source::Source;
use selvedge_mqtt::{
    Connection, ConnectionLimits, MAX_CONNECTION_FILTER_ENTRIES, MAX_OUTPUT_BYTES, MAX_READ_BYTES,
};
use selvedge_types::mqtt::{
    Accept, Ack, AckCode, Answer, CloseReason, Delivery, Inbound, MAX_CLIENT_ID_BYTES, QoS, Refusal,
    Subscription,
};
use selvedge_types::topic::{Filter, MAX_TOPIC_BYTES, check_name};
use std::collections::{HashSet, VecDeque};

const CONNECTS: [&[u8]; 4] = [
    b"",
    b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x0a\x00\x01c",
    b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x0a\x00\x01c",
    b"\x10\x13\x00\x04MQTT\x05\x02\x00\x0a\x05\x11\x00\x00\x00\x09\x00\x01c",
];

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBCOMP: u8 = 0x70;

/// The application's side, and what it holds against the connection.
struct Side {
    core: Connection,
    limits: ConnectionLimits,
    events: Vec<Inbound>,
    connected: bool,
    accepted: bool,
    closed: bool,
    /// Tokens that are not answered.
    open: Vec<u64>,
    /// What the client is owed: kind of answer and packet id, in the order in which it was handed up.
    owed: VecDeque<(u8, u16)>,
    /// Packet ids that a PUBREC was sent for.
    received: HashSet<u16>,
    filters: HashSet<Filter>,
    /// The last token of a SUBSCRIBE or UNSUBSCRIBE.
    asked: u64,
    output: Vec<u8>,
    greeted: bool,
}

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let limits = ConnectionLimits {
        max_packet_bytes: 4096,
        max_inflight_entries: 1 + source.below(8) as u16,
        parked_bytes: 1 + source.below(2000),
        topic_alias_entries: source.below(4) as u16,
        max_keepalive_s: source.below(3) as u16 * 30,
        max_unacked_entries: 1 + source.below(3) as u16,
        ..ConnectionLimits::default()
    };
    let mut side = Side {
        core: Connection::new(limits, 0),
        limits,
        events: Vec::new(),
        connected: false,
        accepted: false,
        closed: false,
        open: Vec::new(),
        owed: VecDeque::new(),
        received: HashSet::new(),
        filters: HashSet::new(),
        asked: 0,
        output: Vec::new(),
        greeted: false,
    };
    let connect = source.pick(&CONNECTS);
    let mut now_ms = 0;
    side.feed(now_ms, connect);
    if !connect.is_empty() && !source.flag() {
        side.answer(now_ms, Answer::Accept(Box::default()));
    }
    while !source.is_empty() {
        match source.below(16) {
            0..3 => {
                let bytes = source.bytes(MAX_READ_BYTES - 1);
                side.feed(now_ms, bytes);
            }
            3..8 => {
                let packet = packet(&mut source);
                side.feed(now_ms, &packet);
            }
            8 | 9 => {
                if !side.open.is_empty() {
                    let at = source.below(side.open.len());
                    let token = side.open.remove(at);
                    let ack = match source.below(5) {
                        0 => Ack::kept(token).with_receipt(source.text(40)),
                        1 => Ack::refused(token, AckCode::QuotaExceeded, source.text(40)),
                        2 => Ack { token, code: AckCode::PayloadFormatInvalid, note: None },
                        _ => Ack::kept(token),
                    };
                    side.answer(now_ms, Answer::Ack(ack));
                }
            }
            10 => {
                let token = source.number(3);
                if source.flag() {
                    // Which filters a refusal takes away again is the connection's to know.
                    let refused = Vec::new();
                    side.answer(now_ms, Answer::Subscribed { token, refused });
                    side.answer(now_ms, Answer::Unsubscribed { token: token.wrapping_add(1) });
                }
                side.open.retain(|t| *t != token);
                side.answer(now_ms, Answer::Ack(Ack::kept(token)));
            }
            11 => {
                let subscriptions = Filter::new(&source.text(20)).map(|filter| Subscription {
                    filter,
                    qos: QoS::AtLeastOnce,
                    no_local: source.flag(),
                });
                let accept = Accept {
                    session_present: source.flag(),
                    assigned_client_id: source.flag().then(|| "n".into()),
                    expiry_s: source.flag().then_some(7),
                    subscriptions: subscriptions.into_iter().collect(),
                };
                if side.connected && !side.accepted {
                    side.filters = accept.subscriptions.iter().map(|s| s.filter.clone()).collect();
                }
                side.answer(now_ms, Answer::Accept(Box::new(accept)));
            }
            12 => {
                let refusal =
                    source.pick(&[Refusal::Unavailable, Refusal::BadCredentials, Refusal::ClientId]);
                side.answer(now_ms, Answer::Refuse(refusal));
            }
            13 => {
                let qos = source.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]);
                if side.core.can_deliver(qos) {
                    let payload = source.bytes(300).to_vec().into();
                    side.core.deliver(Delivery { topic: "a/b".into(), payload, qos });
                }
            }
            14 => {
                now_ms += source.number(10_000) % 1_000_000;
                side.core.tick(now_ms, &mut side.events);
            }
            _ => {
                side.take_output();
                side.core.progress(now_ms, &mut side.events);
            }
        }
        side.look();
    }
    side.core.close(CloseReason::Gone, &mut side.events);
    side.look();
    side.take_output();
    assert!(side.core.is_closed() && (side.closed || !side.connected), "it ends once it is closed");
}

/// A packet whose length is right, whatever is in it.
fn packet(source: &mut Source) -> Vec<u8> {
    let first = match source.below(4) {
        0 => source.byte(),
        _ => source.pick(&[0x30, 0x32, 0x3a, 0x34, 0x3c, 0x62, 0x82, 0xa2, 0x40, 0xc0, 0xe0, 0x10]),
    };
    let mut body = Vec::new();
    if first & 0xf0 == 0x30 && source.flag() {
        let topic = source.bytes(24);
        body.extend((topic.len() as u16).to_be_bytes());
        body.extend(topic);
        if first & 6 != 0 {
            body.extend((source.below(6) as u16).to_be_bytes());
        }
    } else if first != 0xc0 {
        body.extend((source.below(6) as u16).to_be_bytes());
    }
    body.extend(source.bytes(300));
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        out.push((left % 128) as u8 | if left > 127 { 0x80 } else { 0 });
        left /= 128;
        if left == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

impl Side {
    /// As a socket would: only when bytes are wanted.
    fn feed(&mut self, now_ms: u64, bytes: &[u8]) {
        if self.core.wants_input() {
            self.core.input().extend_from_slice(bytes);
            self.core.received(now_ms, &mut self.events);
            let most = 2 * MAX_READ_BYTES + self.limits.max_packet_bytes as usize;
            assert!(self.core.input().len() <= most, "input grows");
        }
        self.look();
    }

    fn answer(&mut self, now_ms: u64, answer: Answer) {
        self.accepted |= self.connected && matches!(answer, Answer::Accept(_));
        self.core.answer(now_ms, &mut vec![answer], &mut self.events);
        self.look();
    }

    /// Holds what was handed up against the promises.
    fn look(&mut self) {
        for event in std::mem::take(&mut self.events) {
            assert!(!self.closed, "nothing comes after Closed: {event:?}");
            match event {
                Inbound::Connect(connect) => {
                    assert!(!std::mem::replace(&mut self.connected, true), "one CONNECT");
                    assert!(connect.client_id.len() <= MAX_CLIENT_ID_BYTES);
                    assert!(connect.will.is_none_or(|w| check_name(&w.topic).is_ok()));
                    continue;
                }
                Inbound::Publish(publish) => {
                    assert!(check_name(&publish.topic).is_ok(), "{publish:?}");
                    assert_eq!(publish.packet_id.is_none(), publish.qos == QoS::AtMostOnce);
                    if let Some(id) = publish.packet_id {
                        self.open.push(publish.token);
                        let kind = if publish.qos == QoS::ExactlyOnce { PUBREC } else { PUBACK };
                        self.owed.push_back((kind, id.get()));
                    }
                }
                Inbound::Oversize(oversize) => {
                    assert!(oversize.topic.len() <= MAX_TOPIC_BYTES);
                    assert_eq!(oversize.packet_id.is_none(), oversize.qos == QoS::AtMostOnce);
                    if let Some(id) = oversize.packet_id {
                        self.open.push(oversize.token);
                        let kind = if oversize.qos == QoS::ExactlyOnce { PUBREC } else { PUBACK };
                        self.owed.push_back((kind, id.get()));
                    }
                }
                Inbound::Release { token, packet_id } => {
                    self.open.push(token);
                    self.owed.push_back((PUBCOMP, packet_id.get()));
                }
                Inbound::Subscribe { token, subscriptions } => {
                    assert_eq!(token, self.asked + 1);
                    self.asked = token;
                    self.filters.extend(subscriptions.into_iter().map(|s| s.filter));
                }
                Inbound::Unsubscribe { token, filters } => {
                    assert_eq!(token, self.asked + 1);
                    self.asked = token;
                    assert!(filters.iter().all(|f| self.filters.remove(f)), "it held what it gave up");
                }
                Inbound::Closed(_) => self.closed = true,
            }
            assert!(self.connected, "CONNECT comes first");
        }
        assert!(self.filters.len() <= MAX_CONNECTION_FILTER_ENTRIES);
        if !self.closed {
            assert!(self.open.len() <= usize::from(self.limits.max_inflight_entries), "window");
        }
        let waiting = self.core.output().len();
        assert!(
            waiting <= MAX_OUTPUT_BYTES + 4 * self.limits.max_packet_bytes as usize,
            "{waiting} bytes wait"
        );
    }

    /// Reads what the client is sent, packet by packet.
    fn take_output(&mut self) {
        self.output.extend(self.core.output().split());
        let all = std::mem::take(&mut self.output);
        let mut rest = &all[..];
        while let Some((&first, mut body)) = rest.split_first() {
            let (mut length, mut shift) = (0usize, 0);
            loop {
                let (&byte, after) = body.split_first().expect("a whole length");
                body = after;
                length |= usize::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    break;
                }
            }
            assert!(length <= body.len(), "only whole packets are written");
            let (body, after) = body.split_at(length);
            rest = after;
            if !std::mem::replace(&mut self.greeted, true) {
                assert_eq!(first, 0x20, "nothing before CONNACK");
                continue;
            }
            match first & 0xf0 {
                kind @ (PUBACK | PUBREC | PUBCOMP) => {
                    let id = u16::from_be_bytes([body[0], body[1]]);
                    if self.owed.front() == Some(&(kind, id)) {
                        self.owed.pop_front();
                    } else {
                        let again = kind == PUBREC && self.received.contains(&id);
                        assert!(again, "{kind:x} {id} is not what is owed next: {:?}", self.owed);
                    }
                    if kind == PUBREC {
                        self.received.insert(id);
                    }
                }
                0x30 | 0x90 | 0xb0 | 0xd0 | 0xe0 => {}
                other => panic!("a packet {other:x} that no server sends here"),
            }
        }
    }
}
