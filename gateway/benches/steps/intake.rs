//! From a publish to its shard and back: decoder, ring, session.

use super::load::{DEVICES, ORIGIN, SOCKET_READ, START_MS, device, payload, topic};
use super::{Measure, Step};
use selvedge_fabric::decode::{Decoded, Decoder};
use selvedge_fabric::forward::{SettledItem, Ticket};
use selvedge_fabric::machine::{ConnectOutcome, ItemOutcome, Judged};
use selvedge_fabric::ring::{DEFAULT_SHARDS, Member, Ring};
use selvedge_fabric::session::{Session, SessionContext, SessionEffects};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::mqtt::{Connect, Inbound, Publish, QoS, Version};
use selvedge_types::time::EpochMs;
use std::hint::black_box;
use std::num::NonZeroU16;

pub fn steps(m: &mut impl Measure) {
    let count = SOCKET_READ as u32;
    m.step("decode", count, || {
        let payloads = (1..=SOCKET_READ as u64).map(|i| payload(1_000_000 + i)).collect();
        Decode { decoder: Decoder::default(), topic: topic(123), payloads }
    });
    m.step("ring: shard of a device", DEVICES as u32, || Look {
        ring: ring(),
        devices: (0..DEVICES).map(device).collect(),
    });
    for persistent in [false, true] {
        let name = if persistent { "5, persistent" } else { "3.1.1, clean" };
        m.step(&format!("session {name}: publishes to submissions"), count, || {
            TakeIn(Visit::new(persistent))
        });
        m.step(&format!("session {name}: settled to acks"), count, || Settle(Visit::new(persistent)));
    }
}

/// A site of three gateways.
pub fn ring() -> Ring {
    let members: Vec<_> = (1..=3).map(|g| Member { id: GatewayId(g), weight: 1 }).collect();
    Ring::new(DEFAULT_SHARDS, &members, 3).unwrap()
}

struct Decode {
    decoder: Decoder,
    topic: String,
    payloads: Vec<String>,
}

impl Step for Decode {
    type Input = ();
    type Output = ();

    fn prepare(&mut self) {}

    fn run(&mut self, (): ()) {
        for payload in &self.payloads {
            let decoded = self.decoder.decode(EpochMs(START_MS), &self.topic, payload.as_bytes());
            assert!(matches!(black_box(decoded), Decoded::Readings { .. }));
        }
    }
}

struct Look {
    ring: Ring,
    devices: Vec<String>,
}

impl Step for Look {
    type Input = ();
    type Output = ();

    fn prepare(&mut self) {}

    fn run(&mut self, (): ()) {
        for device in &self.devices {
            black_box(self.ring.shard_of(black_box(device)));
        }
    }
}

struct Visit {
    ring: Ring,
    decoder: Decoder,
    session: Session,
    shard: ShardId,
    publishes: Vec<Publish>,
    /// The last token.
    token: u64,
}

impl Visit {
    fn new(persistent: bool) -> Self {
        let (ring, decoder, mut session) = (ring(), Decoder::default(), Session::new(1));
        let (version, expiry_s) = if persistent { (Version::V5, 3_600) } else { (Version::V311, 0) };
        let connect = Connect {
            client_id: device(123).into(),
            version,
            clean: !persistent,
            expiry_s,
            keepalive_s: 0,
            will: None,
            username: None,
            password: None,
        };
        let site = SessionContext {
            ring: &ring,
            decoder: &decoder,
            origin: ORIGIN,
            now: EpochMs(START_MS),
            listens: &|_| false,
        };
        let mut effects = SessionEffects::default();
        session.inbound(site, Inbound::Connect(Box::new(connect)), &mut effects);
        let (shard, ticket, _) = effects.submit.pop().unwrap();
        let found = ConnectOutcome { instance: 1, epoch: 1, ..ConnectOutcome::default() };
        let settled =
            SettledItem { ticket, shard, slot: 1, outcome: ItemOutcome::Connected(Box::new(found)) };
        session.settled(site, settled, &mut effects);
        let publish = |id: u16| Publish {
            token: 0,
            topic: topic(123).into(),
            payload: payload(1_000_000 + u64::from(id)).into(),
            qos: QoS::AtLeastOnce,
            dup: false,
            retain: false,
            packet_id: NonZeroU16::new(id),
        };
        let publishes = (1..=SOCKET_READ as u16).map(publish).collect();
        let shard = ring.shard_of(&device(123));
        Self { ring, decoder, session, shard, publishes, token: 0 }
    }

    fn events(&mut self) -> Vec<Inbound> {
        let mut events = Vec::with_capacity(SOCKET_READ);
        for publish in &self.publishes {
            self.token += 1;
            events.push(Inbound::Publish(Publish { token: self.token, ..publish.clone() }));
        }
        events
    }

    /// What the forwarder says of the last publishes.
    fn outcomes(&self) -> Vec<SettledItem> {
        let settled = |token| SettledItem {
            ticket: Ticket { connection: 1, token },
            shard: self.shard,
            slot: 1_000_000,
            outcome: ItemOutcome::Judged(Judged { counted: 1, recognised: 0, set_aside: Vec::new() }),
        };
        (self.token + 1 - SOCKET_READ as u64..=self.token).map(settled).collect()
    }

    fn take_in(&mut self, events: Vec<Inbound>) -> SessionEffects {
        let mut effects = SessionEffects::default();
        let site = SessionContext {
            ring: &self.ring,
            decoder: &self.decoder,
            origin: ORIGIN,
            now: EpochMs(START_MS),
            listens: &|_| false,
        };
        for event in events {
            self.session.inbound(site, event, &mut effects);
        }
        assert_eq!(effects.submit.len(), SOCKET_READ);
        effects
    }

    fn settle(&mut self, outcomes: Vec<SettledItem>) -> SessionEffects {
        let mut effects = SessionEffects::default();
        let site = SessionContext {
            ring: &self.ring,
            decoder: &self.decoder,
            origin: ORIGIN,
            now: EpochMs(START_MS),
            listens: &|_| false,
        };
        for settled in outcomes {
            self.session.settled(site, settled, &mut effects);
        }
        assert_eq!(effects.answers.len(), SOCKET_READ);
        effects
    }
}

struct TakeIn(Visit);

impl Step for TakeIn {
    type Input = Vec<Inbound>;
    type Output = SessionEffects;

    fn prepare(&mut self) -> Vec<Inbound> {
        if self.0.token > 0 {
            let outcomes = self.0.outcomes();
            self.0.settle(outcomes);
        }
        self.0.events()
    }

    fn run(&mut self, events: Vec<Inbound>) -> SessionEffects {
        self.0.take_in(events)
    }
}

struct Settle(Visit);

impl Step for Settle {
    type Input = Vec<SettledItem>;
    type Output = SessionEffects;

    fn prepare(&mut self) -> Vec<SettledItem> {
        let events = self.0.events();
        self.0.take_in(events);
        self.0.outcomes()
    }

    fn run(&mut self, outcomes: Vec<SettledItem>) -> SessionEffects {
        self.0.settle(outcomes)
    }
}
