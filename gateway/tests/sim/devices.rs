//! Devices: MQTT clients that keep what is not acknowledged, reconnect to whichever gateway, and send it again.
//!
//! What is between a device and a gateway is one connection at a time that matters to the device, in which packets keep
//! their order. A connection that the device has left lives on at its gateway for a while: what it had under way may
//! still arrive there.

use super::clock::true_time;
use super::random::Random;
use selvedge_shared::ids::GatewayId;
use selvedge_shared::mqtt::{AckCode, Answer, Connect, Inbound, Publish, QoS, Subscription, Version, Will};
use selvedge_shared::topic::Filter;
use selvedge_shared::uplink::StreamName;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;

/// A device that hears nothing for so long tries another gateway.
const PATIENCE_MS: u64 = 2_500;
const RECONNECT_MS: u64 = 200;
/// How many publishes a device has under way, and how many packet ids it goes round in; in a wide run more than are
/// remembered of one that is idle.
const IN_FLIGHT: (usize, u16) = (4, 16);
const WIDE_IN_FLIGHT: (usize, u16) = (600, 2_000);
/// How many readings a device of a wide run measures at once.
const BURST: u64 = 600;
/// Windows of the widest rules that are in force in a run.
pub const WIDEST_MS: i64 = 60_000;

/// How a device makes sure that it is counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number in each payload; QoS 1; no session.
    Numbered,
    /// QoS 2 in a persistent session.
    Exact,
    /// QoS 1 in a persistent session; resends are marked as such.
    Resent,
    /// Nothing: QoS 1, no session, no number. What its connection takes along it does not send again.
    Plain,
    /// As `Exact`, with readings of several devices in one publish, so that it touches several shards.
    Many,
    /// As `Resent`, by MQTT 3.1.1, which knows no failures: what is acknowledged is counted, or in the quarantine.
    Old,
}

/// A reading of its own: its number is its value.
#[derive(Debug, Clone)]
pub struct Reading {
    pub name: StreamName,
    /// The start of the widest window that it belongs to, if its device says when it was measured.
    pub window: Option<i64>,
    /// Its publish was acknowledged; if it was refused instead, false.
    pub kept: Option<bool>,
    /// It is sent once only, in a stream of its own, and may be lost with its connection.
    pub once: bool,
    /// It has a stream of its own, and is counted there or in the quarantine.
    pub either: bool,
    /// A will: it is counted, or, where the site's clocks show what no time can be, in the quarantine.
    pub will: bool,
    /// Its sequence number is far from all others of its device.
    pub wild: bool,
}

#[derive(Debug, Clone)]
struct Flight {
    topic: String,
    payload: String,
    readings: Vec<u64>,
    sent_before: bool,
    /// It was sent more than once: what was recognised then is not named again.
    resent: bool,
    /// PUBREC came: from now on PUBREL is what is sent.
    received: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Connection {
    pub gateway: GatewayId,
    pub start: u64,
    pub id: u64,
    accepted: bool,
    /// When something last came.
    heard: u64,
    /// When the packet sent last arrives.
    pub last_arrival: u64,
}

pub struct Device {
    name: String,
    kind: Kind,
    boot: u64,
    seq: u64,
    /// How many wild numbers it has sent, and whether the last was one.
    wild: (u32, bool),
    last_packet: u16,
    /// How many publishes it has under way at most, and how many packet ids it uses.
    in_flight: (usize, u16),
    todo: VecDeque<Flight>,
    flights: BTreeMap<u16, Flight>,
    order: VecDeque<u16>,
    pub connection: Option<Connection>,
    connect_at: u64,
    /// The reading that its connection leaves as its will, and that of the last one that was let in.
    will: Option<u64>,
    accepted_will: Option<u64>,
    /// What it subscribed to on this connection, by token; what was granted in its session.
    asked: BTreeMap<u64, String>,
    granted: BTreeSet<String>,
    filters: u64,
}

/// What a device puts on its connection.
#[derive(Debug, Clone)]
pub enum Packet {
    Connect(Box<Connect>),
    Publish { packet_id: u16, topic: String, payload: String, qos: QoS, dup: bool },
    Release(u16),
    Subscribe { token: u64, filter: String },
}

impl Packet {
    /// As the listener tells it, as number `token` of its connection.
    pub fn inbound(self, token: u64) -> Inbound {
        match self {
            Self::Connect(connect) => Inbound::Connect(connect),
            Self::Publish { packet_id, topic, payload, qos, dup } => Inbound::Publish(Publish {
                token,
                topic: topic.into(),
                payload: payload.into(),
                qos,
                dup,
                retain: false,
                packet_id: NonZeroU16::new(packet_id),
            }),
            Self::Release(packet_id) => {
                Inbound::Release { token, packet_id: NonZeroU16::new(packet_id).expect("not 0") }
            }
            Self::Subscribe { token, filter } => {
                let filter = Filter::new(&filter).expect("a filter");
                let subscription = Subscription { filter, qos: QoS::AtLeastOnce, no_local: false };
                Inbound::Subscribe { token, subscriptions: vec![subscription] }
            }
        }
    }

    /// The packet id that its answer is for, or 0; the listener keeps it with the token.
    pub fn id(&self) -> u16 {
        match self {
            Self::Connect(_) | Self::Subscribe { .. } => 0,
            Self::Publish { packet_id, .. } | Self::Release(packet_id) => *packet_id,
        }
    }
}

pub struct Devices {
    pub list: Vec<Device>,
    pub readings: BTreeMap<u64, Reading>,
    cramped: bool,
    last_connection: u64,
}

impl Devices {
    pub fn new(count: usize, cramped: bool, wide: bool) -> Self {
        let kinds = [Kind::Numbered, Kind::Exact, Kind::Resent, Kind::Plain, Kind::Many, Kind::Old];
        let device = |i: usize| Device {
            name: format!("device-{i}"),
            kind: kinds[i % kinds.len()],
            boot: 1,
            seq: 0,
            wild: (0, false),
            last_packet: 0,
            in_flight: if wide { WIDE_IN_FLIGHT } else { IN_FLIGHT },
            todo: VecDeque::new(),
            flights: BTreeMap::new(),
            order: VecDeque::new(),
            connection: None,
            connect_at: 0,
            will: None,
            accepted_will: None,
            asked: BTreeMap::new(),
            granted: BTreeSet::new(),
            filters: 0,
        };
        Self {
            list: (0..count).map(device).collect(),
            readings: BTreeMap::new(),
            cramped,
            last_connection: 0,
        }
    }

    /// Someone measures something.
    pub fn measure(&mut self, random: &mut Random, now: u64, cramped: bool) {
        let d = random.below(self.list.len() as u64) as usize;
        self.measure_by(d, random, now, cramped);
    }

    /// A device that has nothing waiting measures as much at once as it can have under way.
    pub fn burst(&mut self, random: &mut Random, now: u64, cramped: bool) {
        let d = random.below(self.list.len() as u64) as usize;
        if !self.list[d].todo.is_empty() {
            return;
        }
        for _ in 0..1 + random.below(BURST) {
            self.measure_by(d, random, now, cramped);
        }
    }

    fn measure_by(&mut self, d: usize, random: &mut Random, now: u64, cramped: bool) {
        let told_alone = self.cramped;
        let device = &mut self.list[d];
        let name = device.name.clone();
        let late = if random.chance(100) { random.below(5_000) as i64 } else { 0 };
        let time = true_time(now).plus(-late).0;
        let id = self.readings.len() as u64 + 1;
        let (mut readings, device_kind) = (Vec::new(), device.kind);
        // Each half of the one before: none follows another closely.
        let numbered = device_kind == Kind::Numbered && device.seq > 2;
        let wild = numbered && !device.wild.1 && device.wild.0 < 14 && random.chance(60);
        device.wild = (device.wild.0 + u32::from(wild), wild);
        let mut read = |id: u64, device: &str, stream: String, time: Option<i64>| {
            let window = time.map(|t| t.div_euclid(WIDEST_MS));
            let name = StreamName { device: device.to_string(), stream };
            let once = device_kind == Kind::Plain || name.stream.starts_with("once-");
            let either = device_kind == Kind::Old;
            self.readings.insert(id, Reading { name, window, kept: None, once, either, will: false, wild });
            readings.push(id);
        };
        let (topic, payload) = match device.kind {
            Kind::Numbered => {
                let seq = if wild { (1 << 60) >> device.wild.0 } else { device.seq };
                let boot = device.boot;
                device.seq += u64::from(!wild);
                read(id, &name, "n".into(), Some(time));
                let payload = format!(r#"{{"value":{id},"ts":{time},"seq":{seq},"boot":{boot}}}"#);
                (format!("d/{name}/n"), payload)
            }
            Kind::Plain => {
                // Some of a time that can't be, or that can't be while clocks are wrong: what becomes of each is told.
                let stream = format!("once-{id}");
                read(id, &name, stream.clone(), None);
                let time = match random.below(8) {
                    0 => Some(time / 1_000),
                    1 => Some(time + 2 * 86_400_000),
                    2 | 3 => Some(time),
                    _ => None,
                };
                let payload = time.map_or(id.to_string(), |time| format!(r#"{{"value":{id},"ts":{time}}}"#));
                (format!("d/{name}/{stream}"), payload)
            }
            Kind::Old => {
                let stream = format!("either-{id}");
                read(id, &name, stream.clone(), None);
                let bad = random.chance(300);
                (format!("d/{name}/{stream}"), if bad { format!("bad {id}") } else { id.to_string() })
            }
            Kind::Exact | Kind::Resent => {
                // Names of their own now and then, so that shards meet their bound of streams.
                let stream = if cramped && random.chance(300) { format!("p{id}") } else { "p".to_string() };
                let timed = random.chance(500);
                read(id, &name, stream.clone(), timed.then_some(time));
                let payload = if timed { format!(r#"{{"value":{id},"ts":{time}}}"#) } else { id.to_string() };
                (format!("d/{name}/{stream}"), payload)
            }
            Kind::Many => {
                let records: Vec<String> = (0..2 + random.below(3))
                    .map(|i| {
                        let (id, part) = (id + i, format!("part-{d}-{}", random.below(6)));
                        // Where shards are at their bound of streams, each is told of alone.
                        let name = if told_alone { format!("once-{id}") } else { "m".to_string() };
                        read(id, &part, name.clone(), Some(time));
                        format!(
                            r#"{{"bn":"{part}/","n":"{name}","v":{id},"bt":{}.{:03}}}"#,
                            time / 1000,
                            time % 1000
                        )
                    })
                    .collect();
                ("many".to_string(), format!("[{}]", records.join(",")))
            }
        };
        device.todo.push_back(Flight {
            topic,
            payload,
            readings,
            sent_before: false,
            resent: false,
            received: false,
        });
    }

    /// A device starts anew: what it had measured it still has.
    pub fn reboot(&mut self, now: u64, pick: u64) {
        let count = self.list.len() as u64;
        let device = &mut self.list[(pick % count) as usize];
        if device.kind == Kind::Numbered && device.boot < 3 {
            (device.boot, device.seq) = (device.boot + 1, 0);
        }
        device.leave(now);
    }

    /// What device `d` puts on its connection now; the first packet of a new one is a CONNECT.
    pub fn work(
        &mut self,
        d: usize,
        now: u64,
        cramped: bool,
        to: impl FnOnce() -> (GatewayId, u64),
    ) -> Vec<Packet> {
        let device = &mut self.list[d];
        if device.connection.is_some_and(|c| c.heard + PATIENCE_MS <= now && device.waits()) {
            device.leave(now);
        }
        let mut packets = Vec::new();
        match &device.connection {
            None if device.connect_at <= now && device.wants() => {
                let (gateway, start) = to();
                self.last_connection += 1;
                let id = self.last_connection;
                let (heard, last_arrival) = (now, now);
                device.connection =
                    Some(Connection { gateway, start, id, accepted: false, heard, last_arrival });
                let id = self.readings.len() as u64 + 1;
                let will = device.next_will(id, cramped);
                if let Some((name, _)) = &will {
                    let reading = Reading {
                        name: name.clone(),
                        window: None,
                        kept: None,
                        once: true,
                        either: false,
                        will: true,
                        wild: false,
                    };
                    self.readings.insert(id, reading);
                }
                device.will = will.as_ref().map(|_| id);
                let mut connect = device.connect();
                connect.will = will.map(|(_, will)| will);
                packets.push(Packet::Connect(Box::new(connect)));
            }
            Some(connection) if connection.accepted => device.publish(&mut packets),
            _ => {}
        }
        packets
    }

    pub fn deadline(&self, d: usize) -> u64 {
        let device = &self.list[d];
        match &device.connection {
            None if device.wants() => device.connect_at,
            Some(c) if device.waits() => c.heard + PATIENCE_MS,
            _ => u64::MAX,
        }
    }

    /// Which device a connection is of, if it is the one that the device uses.
    pub fn of(&self, connection: u64) -> Option<usize> {
        self.list.iter().position(|d| d.connection.is_some_and(|c| c.id == connection))
    }

    /// The gateway says something on a device's connection.
    pub fn answered(&mut self, d: usize, now: u64, answer: Answer, packet_id: u16) -> Vec<Packet> {
        let device = &mut self.list[d];
        let Some(connection) = &mut device.connection else { return Vec::new() };
        connection.heard = now;
        let mut packets = Vec::new();
        match answer {
            Answer::Accept(accept) => {
                connection.accepted = true;
                // One that was let in before has not said goodbye: its will came before this.
                let before = device.accepted_will.take().filter(|_| !device.delays_its_will());
                if let Some(will) = before.and_then(|id| self.readings.get_mut(&id)) {
                    will.kept = Some(true);
                }
                device.accepted_will = device.will;
                device.resubscribe(accept.session_present, &accept.subscriptions, &mut packets);
                device.resume(accept.session_present, &mut packets);
                device.publish(&mut packets);
            }
            Answer::Refuse(_) => device.leave(now),
            Answer::Subscribed { token, refused } => {
                assert!(refused.is_empty(), "nothing is at its bound");
                device.granted.extend(device.asked.remove(&token));
            }
            Answer::Unsubscribed { .. } => {}
            Answer::Ack(ack) => {
                let kept = ack.code == AckCode::Kept;
                let qos2 = device.qos() == QoS::ExactlyOnce;
                if let Some(flight) = device.flights.get_mut(&packet_id) {
                    if !flight.received {
                        let note = ack.note.as_ref().and_then(|note| note.reason_string.as_deref());
                        for id in &flight.readings {
                            let reading = self.readings.get_mut(id).expect("it was measured");
                            if device.kind == Kind::Many && self.cramped {
                                let StreamName { device, stream } = &reading.name;
                                let aside = note.is_some_and(|n| n.contains(&format!("{device}/{stream}: ")));
                                let counted = kept && !aside;
                                if !(counted && flight.resent) {
                                    reading.kept = Some(counted);
                                }
                                continue;
                            }
                            // Only a number that leaps, and a bound, set a numbered reading aside.
                            let sound = device.kind != Kind::Numbered || self.cramped || reading.wild;
                            assert!(kept || sound, "reading {id} is refused: {ack:?}");
                            let before = *reading.kept.get_or_insert(kept);
                            assert_eq!(before, kept, "reading {id} was both kept and refused");
                        }
                    }
                    if qos2 && kept && !flight.received {
                        flight.received = true;
                        packets.push(Packet::Release(packet_id));
                    } else {
                        device.flights.remove(&packet_id);
                        device.order.retain(|p| *p != packet_id);
                    }
                }
                device.publish(&mut packets);
            }
        }
        packets
    }

    /// Its connection is gone.
    pub fn lost(&mut self, d: usize, now: u64) {
        self.list[d].leave(now);
    }

    pub fn done(&self) -> bool {
        self.list.iter().all(|d| !d.wants())
    }
}

impl Device {
    fn qos(&self) -> QoS {
        match self.kind {
            Kind::Numbered | Kind::Resent | Kind::Plain | Kind::Old => QoS::AtLeastOnce,
            Kind::Exact | Kind::Many => QoS::ExactlyOnce,
        }
    }

    fn wants(&self) -> bool {
        !self.flights.is_empty() || !self.todo.is_empty()
    }

    fn waits(&self) -> bool {
        self.connection.is_some_and(|c| !c.accepted) || !self.flights.is_empty()
    }

    fn leave(&mut self, now: u64) {
        self.connection = None;
        self.asked.clear();
        if self.kind == Kind::Plain {
            self.flights.clear();
            self.order.clear();
        }
        self.connect_at = now + RECONNECT_MS;
    }

    fn connect(&self) -> Connect {
        let clean = matches!(self.kind, Kind::Numbered | Kind::Plain);
        Connect {
            client_id: self.name.clone().into(),
            version: if self.kind == Kind::Old { Version::V311 } else { Version::V5 },
            clean,
            expiry_s: if clean { 0 } else { u32::MAX },
            keepalive_s: 0,
            will: None,
            username: None,
            password: None,
        }
    }

    /// Wills that come late if at all: the session goes on before.
    fn delays_its_will(&self) -> bool {
        self.kind == Kind::Exact
    }

    /// What the next connection leaves behind, as reading `id`: in a stream of its own, for which a cramped site has no room.
    fn next_will(&self, id: u64, cramped: bool) -> Option<(StreamName, Will)> {
        if cramped || matches!(self.kind, Kind::Plain | Kind::Many) {
            return None;
        }
        let name = StreamName { device: self.name.clone(), stream: format!("once-{id}") };
        let topic = format!("d/{}/{}", name.device, name.stream).into();
        let delay_s = if self.delays_its_will() { 2 } else { 0 };
        Some((name, Will { topic, payload: id.to_string().into(), qos: QoS::AtLeastOnce, delay_s }))
    }

    /// What SUBACK granted must be there; a further filter is asked for.
    fn resubscribe(&mut self, present: bool, found: &[Subscription], packets: &mut Vec<Packet>) {
        if !matches!(self.kind, Kind::Exact | Kind::Resent) {
            return;
        }
        let found: BTreeSet<&str> = found.iter().map(|s| s.filter.as_str()).collect();
        for filter in &self.granted {
            assert!(!present || found.contains(&**filter), "{} was granted {filter}, and lost it", self.name);
        }
        if !present {
            self.granted.clear();
        }
        self.filters += 1;
        let (token, filter) = (1, format!("f/{}/{}", self.name, self.filters % 32));
        self.asked.insert(token, filter.clone());
        packets.push(Packet::Subscribe { token, filter });
    }

    /// Sends again what was under way (MQTT 5, section 4.4).
    fn resume(&mut self, session_present: bool, packets: &mut Vec<Packet>) {
        let qos = self.qos();
        for packet_id in &self.order {
            let Some(flight) = self.flights.get_mut(packet_id) else { continue };
            assert!(
                session_present || self.kind == Kind::Numbered || !flight.received,
                "the session of {} was forgotten",
                self.name
            );
            flight.resent |= !flight.received;
            packets.push(match flight.received {
                true => Packet::Release(*packet_id),
                false => Packet::Publish {
                    packet_id: *packet_id,
                    topic: flight.topic.clone(),
                    payload: flight.payload.clone(),
                    qos,
                    dup: flight.sent_before,
                },
            });
        }
    }

    fn publish(&mut self, packets: &mut Vec<Packet>) {
        let (most, ids) = self.in_flight;
        while self.flights.len() < most {
            let Some(mut flight) = self.todo.pop_front() else { return };
            // As most clients do: the next free packet id.
            self.last_packet = (self.last_packet % ids) + 1;
            while self.flights.contains_key(&self.last_packet) {
                self.last_packet = (self.last_packet % ids) + 1;
            }
            let packet_id = self.last_packet;
            flight.sent_before = true;
            packets.push(Packet::Publish {
                packet_id,
                topic: flight.topic.clone(),
                payload: flight.payload.clone(),
                qos: self.qos(),
                dup: false,
            });
            self.flights.insert(packet_id, flight);
            self.order.push_back(packet_id);
        }
    }
}
