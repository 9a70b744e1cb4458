//! A connection core on a table: bytes in, bytes out, a clock turned by hand.

use crate::*;
use selvedge_types::mqtt::*;

pub const V31: &[u8] = b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x0a\x00\x01c";
pub const V311: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x0a\x00\x01c";
pub const V5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x01c";

pub struct Rig {
    pub core: Connection,
    pub now_ms: u64,
    pub events: Vec<Inbound>,
}

/// Small bounds, so that tests reach them.
pub fn limits() -> ConnectionLimits {
    ConnectionLimits {
        max_packet_bytes: 1000,
        max_inflight_entries: 4,
        parked_bytes: 1000,
        topic_alias_entries: 2,
        max_unacked_entries: 2,
        ..ConnectionLimits::default()
    }
}

impl Rig {
    pub fn new(limits: ConnectionLimits) -> Self {
        Self { core: Connection::new(limits, 0), now_ms: 0, events: Vec::new() }
    }

    /// Connected with one of the packets above, CONNACK taken.
    pub fn open(connect: &[u8]) -> Self {
        Self::open_within(connect, limits())
    }

    /// The same within other bounds.
    pub fn open_within(connect: &[u8], limits: ConnectionLimits) -> Self {
        let mut rig = Self::new(limits);
        rig.feed(connect);
        assert!(matches!(rig.events[..], [Inbound::Connect(_)]), "{:?}", rig.events);
        rig.events.clear();
        rig.answer(Answer::Accept(Box::default()));
        assert_eq!(rig.out()[0], 0x20);
        rig
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        self.core.input().extend_from_slice(bytes);
        self.core.received(self.now_ms, &mut self.events);
    }

    pub fn answer(&mut self, answer: Answer) {
        self.core.answer(self.now_ms, &mut vec![answer], &mut self.events);
    }

    pub fn kept(&mut self, token: u64) {
        self.answer(Answer::Ack(Ack::kept(token)));
    }

    /// Grants what was subscribed to and given up since the last call; gives these.
    pub fn granted(&mut self) -> Vec<Inbound> {
        let asked = std::mem::take(&mut self.events);
        for event in &asked {
            match event {
                Inbound::Subscribe { token, .. } => {
                    self.answer(Answer::Subscribed { token: *token, refused: Vec::new() });
                }
                Inbound::Unsubscribe { token, .. } => self.answer(Answer::Unsubscribed { token: *token }),
                other => panic!("not expected: {other:?}"),
            }
        }
        asked
    }

    pub fn out(&mut self) -> Vec<u8> {
        let all = self.core.output().split().to_vec();
        self.core.progress(self.now_ms, &mut self.events);
        all
    }

    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.core.tick(now_ms, &mut self.events);
    }

    /// Tokens of the publishes and releases handed up since the last call.
    pub fn tokens(&mut self) -> Vec<u64> {
        let token = |event: Inbound| match event {
            Inbound::Publish(p) => p.token,
            Inbound::Release { token, .. } => token,
            other => panic!("not expected: {other:?}"),
        };
        self.events.drain(..).map(token).collect()
    }

    /// The last event, which must be Closed.
    pub fn closed(&mut self) -> Closed {
        assert!(self.core.is_closed());
        match self.events.pop() {
            Some(Inbound::Closed(closed)) => *closed,
            other => panic!("not expected: {other:?}"),
        }
    }
}

/// PUBLISH of `x` to `a`, QoS 1 unless `first` says otherwise.
pub fn publish3(first: u8, id: u8) -> Vec<u8> {
    vec![first, 6, 0, 1, b'a', 0, id, b'x']
}

/// PUBLISH of so many bytes to `a` at QoS 1: 128 and more, in a packet of five bytes more with its header and a byte for each seven bits
/// of its length beyond the first.
pub fn large_publish3(id: u8, payload_bytes: usize) -> Vec<u8> {
    let (mut packet, mut left) = (vec![0x32], payload_bytes + 5);
    while left > 127 {
        packet.push(left as u8 | 128);
        left >>= 7;
    }
    packet.extend([left as u8, 0, 1, b'a', 0, id]);
    packet.resize(packet.len() + payload_bytes, id);
    packet
}
