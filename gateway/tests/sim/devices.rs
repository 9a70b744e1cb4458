//! Devices: MQTT clients that keep their unacknowledged publishes, reconnect to any gateway, and resend them.
//!
//! A device uses one connection at a time, along which its MQTT goes as bytes. A connection that the device has left
//! lives on at its gateway for a while, and bytes that were under way may still arrive there.
//!
//! Some devices measure nothing: they subscribe to what others publish, and sometimes read slowly.

use super::client::{Client, Packet, Said};
use super::clock::true_time;
use super::invariants::deliveries::Deliveries;
use super::pipe::Piece;
use super::random::Random;
use selvedge_types::ids::GatewayId;
use selvedge_types::mqtt::{Connect, QoS, Version, Will};
use selvedge_types::uplink::StreamName;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A device that receives nothing for this long tries another gateway.
const PATIENCE_MS: u64 = 2_500;
const RECONNECT_MS: u64 = 200;
/// How long a hasty device waits for CONNACK.
const HASTE_MS: u64 = 300;
/// The publishes that a device has under way, and the number of packet ids that it cycles through. In a wide run there
/// are more ids than a shard remembers of an idle client.
const IN_FLIGHT: (usize, u16) = (4, 16);
const WIDE_IN_FLIGHT: (usize, u16) = (600, 2_000);
const THIRSTY_IN_FLIGHT: (usize, u16) = (16, 32);
/// Packet ids from here on belong to SUBSCRIBE.
const SUBSCRIBE_IDS: u16 = 60_000;
/// The smallest and the largest payload of a large publish, in bytes.
const LARGE_BYTES: (u64, u64) = (1_000, 8_000);
/// A device with this many waiting readings measures no more: what accumulates while a site accepts nothing must fit
/// into the simulation's small segments at once.
const MOST_WAITING: usize = 10;
/// The readings that a device of a wide run measures at once.
const BURST: u64 = 600;
/// The widest windows of any rules that a run uses.
pub const WIDEST_MS: i64 = 60_000;

/// How a device ensures that its readings are counted once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number in each payload; QoS 1; no session.
    Numbered,
    /// QoS 2 in a persistent session.
    Exact,
    /// QoS 1 in a persistent session; resends are marked as such.
    Resent,
    /// Not at all: QoS 1, no session, no number. It does not resend what is lost with its connection.
    Plain,
    /// As `Exact`, with readings of several devices in one publish, so that the publish touches several shards.
    Many,
    /// As `Resent`, in MQTT 3.1.1, which has no failure codes: an acknowledged reading is counted, or in the
    /// quarantine.
    Old,
    /// Publishes nothing, and subscribes to what others publish.
    Subscriber,
}

/// A reading that is unique: its number is its value.
#[derive(Debug, Clone)]
pub struct Reading {
    pub name: StreamName,
    /// The start of the widest window that it belongs to, if its device gives it a time.
    pub window: Option<i64>,
    /// Whether its publish was acknowledged (true) or refused (false).
    pub kept: Option<bool>,
    /// It is sent only once, in a stream of its own, and may be lost with its connection.
    pub once: bool,
    /// It has a stream of its own, and must be counted there or be in the quarantine.
    pub either: bool,
    /// A will: it is counted, or in the quarantine if the site's clocks show an impossible time.
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
    /// It was sent more than once; a receipt does not name again what was recognised then.
    resent: bool,
    /// PUBREC came: from now on PUBREL is resent.
    received: bool,
    /// When it was sent on this connection.
    sent_ms: u64,
}

/// The connection that its device uses.
pub struct Connection {
    pub gateway: GatewayId,
    pub start: u64,
    pub id: u64,
    accepted: bool,
    /// Whether it sends publishes right behind CONNECT.
    eager: bool,
    /// When something last came.
    heard: u64,
    /// When it last sent something.
    said: u64,
    /// A ping is not answered yet.
    pinged: bool,
    /// How long it waits for an answer.
    patience_ms: u64,
    /// When the last piece that it sent arrives.
    pub last_arrival: u64,
    client: Client,
    /// What has come and is not read yet, and when the device reads on.
    unread: VecDeque<Piece>,
    reads_from: u64,
}

impl Connection {
    /// Encodes packets, and notes that the device sent something.
    pub fn say(&mut self, now: u64, packets: Vec<Packet>) -> Vec<u8> {
        self.said = now;
        self.client.say(packets).to_vec()
    }
}

pub struct Device {
    name: String,
    kind: Kind,
    boot: u64,
    seq: u64,
    /// How many wild numbers it has sent, and whether its last number was wild.
    wild: (u32, bool),
    last_packet: u16,
    /// The most publishes that it has under way, and how many packet ids it uses.
    in_flight: (usize, u16),
    todo: VecDeque<Flight>,
    flights: BTreeMap<u16, Flight>,
    order: VecDeque<u16>,
    pub connection: Option<Connection>,
    connect_at: u64,
    /// The reading that its connection leaves as its will, and the will of its last accepted connection.
    will: Option<u64>,
    accepted_will: Option<u64>,
    /// What it asked to subscribe to on this connection, by packet id; and what its session was granted.
    asked: BTreeMap<u16, Vec<String>>,
    granted: BTreeSet<String>,
    filters: u64,
    /// The topics that it wants of others, if it is a subscriber.
    wanted: Vec<String>,
    /// Connections that it has left.
    left: Vec<(GatewayId, u64, u64)>,
}

/// The behaviour of the devices of a run.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    pub publishers: usize,
    pub subscribers: usize,
    pub cramped: bool,
    pub wide: bool,
    /// Nearly all that they publish is large, and they have more of it under way.
    pub thirsty: bool,
    pub keepalive_s: u16,
}

pub struct Devices {
    pub list: Vec<Device>,
    pub readings: BTreeMap<u64, Reading>,
    pub deliveries: Deliveries,
    habits: Habits,
    last_connection: u64,
}

impl Devices {
    pub fn new(habits: Habits, random: &mut Random) -> Self {
        let kinds: &[Kind] = match habits.thirsty {
            // Their publishes are large, and their gateways read nothing else from them in the meantime.
            true => &[Kind::Numbered, Kind::Resent],
            false => &[Kind::Numbered, Kind::Exact, Kind::Resent, Kind::Plain, Kind::Many, Kind::Old],
        };
        let publishers = habits.publishers;
        let mut device = |i: usize| Device {
            name: format!("device-{i}"),
            kind: if i < publishers { kinds[i % kinds.len()] } else { Kind::Subscriber },
            boot: 1,
            seq: 0,
            wild: (0, false),
            last_packet: 0,
            in_flight: match (habits.wide, habits.thirsty) {
                (true, _) => WIDE_IN_FLIGHT,
                (false, true) => THIRSTY_IN_FLIGHT,
                (false, false) => IN_FLIGHT,
            },
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
            wanted: if i < publishers {
                Vec::new()
            } else {
                let of = |_| format!("d/device-{}/#", random.below(publishers as u64));
                (0..1 + i % 3).map(of).chain(i.is_multiple_of(2).then(|| "many".to_string())).collect()
            },
            left: Vec::new(),
        };
        Self {
            list: (0..publishers + habits.subscribers).map(&mut device).collect(),
            readings: BTreeMap::new(),
            deliveries: Deliveries::default(),
            habits,
            last_connection: 0,
        }
    }

    /// Picks a device that measures.
    fn pick(&self, random: &mut Random) -> usize {
        random.below(self.habits.publishers as u64) as usize
    }

    /// A random device measures something.
    pub fn measure(&mut self, random: &mut Random, now: u64, cramped: bool) {
        let d = self.pick(random);
        if self.list[d].todo.len() < MOST_WAITING {
            self.measure_by(d, random, now, cramped);
        }
    }

    /// A device without waiting readings measures as much at once as it can have under way.
    pub fn burst(&mut self, random: &mut Random, now: u64, cramped: bool) {
        let d = self.pick(random);
        if !self.list[d].todo.is_empty() {
            return;
        }
        for _ in 0..1 + random.below(BURST) {
            self.measure_by(d, random, now, cramped);
        }
    }

    /// All devices that measure publish at once.
    pub fn rush(&mut self, random: &mut Random, now: u64) {
        for d in 0..self.habits.publishers {
            for _ in 0..4 + random.below(12) {
                self.measure_by(d, random, now, false);
            }
        }
    }

    fn measure_by(&mut self, d: usize, random: &mut Random, now: u64, cramped: bool) {
        let told_alone = self.habits.cramped;
        let large = random.chance(if self.habits.thirsty { 900 } else { 30 }).then(|| {
            let (least, most) = LARGE_BYTES;
            (least + random.below(most - least)) as usize
        });
        let device = &mut self.list[d];
        let name = device.name.clone();
        let late = if random.chance(100) { random.below(5_000) as i64 } else { 0 };
        let time = true_time(now).plus(-late).0;
        let id = self.readings.len() as u64 + 1;
        let (mut readings, device_kind) = (Vec::new(), device.kind);
        // Each wild number is half of the one before, so that no two are close to each other.
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
                // Some have a time that is impossible, or impossible while clocks are wrong: the answer names each of
                // them.
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
                // Sometimes a stream of its own, so that shards reach their bound of streams.
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
                        // Where shards are at their bound of streams, the answer names each reading alone.
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
            Kind::Subscriber => return,
        };
        // The final check looks for quarantined payloads as they were sent, and the logs of the simulation are too
        // small for many large ones.
        let fills_up = !matches!(device_kind, Kind::Plain | Kind::Old) && !wild && !cramped;
        let bytes = large.filter(|_| fills_up).unwrap_or(0);
        let payload = format!("{payload:<bytes$}");
        device.todo.push_back(Flight {
            topic,
            payload,
            readings,
            sent_before: false,
            resent: false,
            received: false,
            sent_ms: 0,
        });
    }

    /// A device restarts; it still has its measured readings.
    pub fn reboot(&mut self, now: u64, pick: u64) {
        let count = self.list.len() as u64;
        let device = &mut self.list[(pick % count) as usize];
        if device.kind == Kind::Numbered && device.boot < 3 {
            (device.boot, device.seq) = (device.boot + 1, 0);
        }
        device.leave(now);
    }

    /// The packets that device `d` sends now; the first packet of a new connection is a CONNECT.
    pub fn work(
        &mut self,
        d: usize,
        now: u64,
        random: &mut Random,
        to: impl FnOnce(&mut Random) -> (GatewayId, u64),
    ) -> Vec<Packet> {
        let Habits { cramped, keepalive_s, .. } = self.habits;
        let device = &mut self.list[d];
        if device.is_late(now) {
            device.leave(now);
        }
        let mut packets = Vec::new();
        let connects = device.connect_at <= now && device.wants_connection();
        match &mut device.connection {
            None if connects => {
                let (gateway, start) = to(random);
                self.last_connection += 1;
                let version = device.version();
                let hasty = random.chance(100);
                device.connection = Some(Connection {
                    gateway,
                    start,
                    id: self.last_connection,
                    accepted: false,
                    eager: matches!(device.kind, Kind::Numbered | Kind::Plain) && random.chance(400),
                    heard: now,
                    said: now,
                    pinged: false,
                    patience_ms: if hasty { HASTE_MS } else { PATIENCE_MS },
                    last_arrival: now,
                    client: Client::new(version),
                    unread: VecDeque::new(),
                    reads_from: 0,
                });
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
                let mut connect = device.connect(keepalive_s);
                connect.will = will.map(|(_, will)| will);
                packets.push(Packet::Connect(Box::new(connect)));
                if device.connection.as_ref().is_some_and(|c| c.eager) {
                    device.resume(now, false, &mut packets);
                    device.publish(now, &mut packets);
                }
            }
            Some(connection) if connection.accepted => {
                if !connection.pinged && connection.said + ping_ms(keepalive_s) <= now {
                    (connection.pinged, connection.heard) = (true, now);
                    packets.push(Packet::Ping);
                }
                device.publish(now, &mut packets);
            }
            _ => {}
        }
        self.note_sent(d, &packets);
        packets
    }

    /// Notes the publishes that leave, for the check of deliveries.
    fn note_sent(&mut self, d: usize, packets: &[Packet]) {
        let Some(connection) = &self.list[d].connection else { return };
        let at = (connection.gateway, connection.start);
        for packet in packets {
            if let Packet::Publish { packet_id, topic, payload, .. } = packet
                && let Some(n) =
                    self.list[d].flights.get(packet_id).and_then(|flight| flight.readings.first())
            {
                self.deliveries.sent(d, at, *n, topic, payload);
            }
        }
    }

    pub fn deadline(&self, d: usize) -> u64 {
        let device = &self.list[d];
        match &device.connection {
            None if device.wants_connection() => device.connect_at,
            None => u64::MAX,
            Some(c) => {
                let reads = if c.unread.is_empty() { u64::MAX } else { c.reads_from };
                let patience = if device.waits() { c.heard + c.patience_ms } else { u64::MAX };
                let pings = c.accepted && !c.pinged;
                let ping = if pings { c.said + ping_ms(self.habits.keepalive_s) } else { u64::MAX };
                reads.min(patience).min(ping)
            }
        }
    }

    /// Something has come along the connection of a device.
    pub fn arrives(&mut self, d: usize, piece: Piece) {
        if let Some(connection) = &mut self.list[d].connection {
            connection.unread.push_back(piece);
        }
    }

    /// What device `d` reads now: the number of bytes, and the packets in them; the end of the connection counts as
    /// [`Said::Goodbye`].
    pub fn read(&mut self, d: usize, now: u64, random: &mut Random, slowly: bool) -> (usize, Vec<Said>) {
        let device = &mut self.list[d];
        let Some(connection) = device.connection.as_mut().filter(|c| c.reads_from <= now) else {
            return (0, Vec::new());
        };
        let (mut count, mut said) = (0, Vec::new());
        while let Some(piece) = connection.unread.pop_front() {
            match piece {
                Piece::Bytes(bytes) => {
                    count += bytes.len();
                    said.extend(connection.client.hear(&bytes));
                }
                Piece::End | Piece::Reset => said.push(Said::Goodbye),
            }
        }
        if slowly && count > 0 && device.kind == Kind::Subscriber && random.chance(100) {
            connection.reads_from = now + random.below(5_000);
        }
        (count, said)
    }

    /// The device that uses a connection, if one does.
    pub fn of(&self, connection: u64) -> Option<usize> {
        self.list.iter().position(|d| d.connection.as_ref().is_some_and(|c| c.id == connection))
    }

    /// Device `d` receives packets. `found`: the filters that its gateway has for it now, if the gateway still has the
    /// connection.
    pub fn hears(
        &mut self,
        d: usize,
        now: u64,
        said: Said,
        found: impl FnOnce() -> Option<Vec<String>>,
    ) -> Vec<Packet> {
        let device = &mut self.list[d];
        let Some(connection) = &mut device.connection else { return Vec::new() };
        connection.heard = now;
        let (id, at) = (connection.id, (connection.gateway, connection.start));
        let mut packets = Vec::new();
        match said {
            Said::Accepted { present } => {
                assert!(!connection.accepted, "{} is let in twice", device.name);
                connection.accepted = true;
                connection.patience_ms = PATIENCE_MS;
                let eager = connection.eager;
                // An earlier accepted connection has not sent DISCONNECT: its will was published before this one was
                // accepted.
                let before = device.accepted_will.take().filter(|_| !device.delays_its_will());
                if let Some(will) = before.and_then(|id| self.readings.get_mut(&id)) {
                    will.kept = Some(true);
                }
                device.accepted_will = device.will;
                device.resubscribe(present, found(), &mut packets);
                if !eager {
                    device.resume(now, present, &mut packets);
                }
                device.publish(now, &mut packets);
            }
            Said::Refused | Said::Goodbye => device.leave(now),
            Said::Subscribed { packet_id } => {
                let filters = device.asked.remove(&packet_id).expect("it was asked for");
                if device.kind == Kind::Subscriber {
                    self.deliveries.subscribed(now, id, at, &filters);
                }
                device.granted.extend(filters);
            }
            Said::Pong => connection.pinged = false,
            Said::Given { topic, payload, packet_id } => {
                packets.extend(packet_id.map(Packet::Acked));
                let payload = std::str::from_utf8(&payload).expect("devices publish text");
                self.deliveries.given(id, &topic, payload);
            }
            Said::Answer { packet_id, kept, note, .. } => {
                let note = note.as_deref();
                let qos2 = device.qos() == QoS::ExactlyOnce;
                if let Some(flight) = device.flights.get_mut(&packet_id) {
                    if !flight.received {
                        self.deliveries.answered(at, flight.sent_ms, &flight.topic, &flight.payload);
                        for id in &flight.readings {
                            let reading = self.readings.get_mut(id).expect("it was measured");
                            if device.kind == Kind::Many && self.habits.cramped {
                                let StreamName { device, stream } = &reading.name;
                                let aside = note.is_some_and(|n| n.contains(&format!("{device}/{stream}: ")));
                                let counted = kept && !aside;
                                if !(counted && flight.resent) {
                                    reading.kept = Some(counted);
                                }
                                continue;
                            }
                            // A numbered reading is set aside only for a number that leaps, or for a bound.
                            let sound = device.kind != Kind::Numbered || self.habits.cramped || reading.wild;
                            assert!(kept || sound, "reading {id} is refused: {note:?}");
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
                device.publish(now, &mut packets);
            }
        }
        if self.list[d].connection.is_none() {
            self.deliveries.over(id);
        }
        self.note_sent(d, &packets);
        packets
    }

    /// The connections that devices have left since the last call.
    pub fn left(&mut self) -> Vec<(GatewayId, u64, u64)> {
        let left: Vec<_> = self.list.iter_mut().flat_map(|device| device.left.drain(..)).collect();
        left.iter().for_each(|(.., id)| self.deliveries.over(*id));
        left
    }

    /// The connection of device `d` is gone.
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
            Kind::Numbered | Kind::Resent | Kind::Plain | Kind::Old | Kind::Subscriber => QoS::AtLeastOnce,
            Kind::Exact | Kind::Many => QoS::ExactlyOnce,
        }
    }

    fn wants(&self) -> bool {
        !self.flights.is_empty() || !self.todo.is_empty()
    }

    fn wants_connection(&self) -> bool {
        self.kind == Kind::Subscriber || self.wants()
    }

    fn waits(&self) -> bool {
        self.connection.as_ref().is_some_and(|c| !c.accepted || c.pinged) || !self.flights.is_empty()
    }

    /// Whether it has waited for too long, although it reads.
    fn is_late(&self, now: u64) -> bool {
        let late = |c: &Connection| c.heard.max(c.reads_from) + c.patience_ms <= now;
        self.waits() && self.connection.as_ref().is_some_and(late)
    }

    fn leave(&mut self, now: u64) {
        self.left.extend(self.connection.take().map(|c| (c.gateway, c.start, c.id)));
        self.asked.clear();
        if self.kind == Kind::Plain {
            self.flights.clear();
            self.order.clear();
        }
        self.connect_at = now + RECONNECT_MS;
    }

    fn version(&self) -> Version {
        if self.kind == Kind::Old { Version::V311 } else { Version::V5 }
    }

    fn connect(&self, keepalive_s: u16) -> Connect {
        let clean = matches!(self.kind, Kind::Numbered | Kind::Plain | Kind::Subscriber);
        Connect {
            client_id: self.name.clone().into(),
            version: self.version(),
            clean,
            expiry_s: if clean { 0 } else { u32::MAX },
            keepalive_s,
            will: None,
            username: None,
            password: None,
        }
    }

    /// Whether its wills come late if at all, because the session continues before.
    fn delays_its_will(&self) -> bool {
        self.kind == Kind::Exact
    }

    /// The will of the next connection, as reading `id`, in a stream of its own; a cramped site would have no room for
    /// it.
    fn next_will(&self, id: u64, cramped: bool) -> Option<(StreamName, Will)> {
        if cramped || matches!(self.kind, Kind::Plain | Kind::Many | Kind::Subscriber) {
            return None;
        }
        let name = StreamName { device: self.name.clone(), stream: format!("once-{id}") };
        let topic = format!("d/{}/{}", name.device, name.stream).into();
        let delay_s = if self.delays_its_will() { 2 } else { 0 };
        Some((name, Will { topic, payload: id.to_string().into(), qos: QoS::AtLeastOnce, delay_s }))
    }

    /// Checks that the session has every granted filter, and asks for a further one.
    fn resubscribe(&mut self, present: bool, found: Option<Vec<String>>, packets: &mut Vec<Packet>) {
        let filters = match self.kind {
            Kind::Subscriber => self.wanted.clone(),
            Kind::Exact | Kind::Resent => {
                self.filters += 1;
                vec![format!("f/{}/{}", self.name, self.filters % 32)]
            }
            _ => return,
        };
        if let Some(found) = found.filter(|_| present) {
            for filter in &self.granted {
                assert!(found.contains(filter), "{} was granted {filter}, and lost it", self.name);
            }
        }
        if !present {
            self.granted.clear();
        }
        let packet_id = SUBSCRIBE_IDS + (self.filters % 1_000) as u16;
        self.asked.insert(packet_id, filters.clone());
        packets.push(Packet::Subscribe { packet_id, filters });
    }

    /// Resends what was under way (MQTT 5, section 4.4).
    fn resume(&mut self, now: u64, session_present: bool, packets: &mut Vec<Packet>) {
        let qos = self.qos();
        for packet_id in &self.order {
            let Some(flight) = self.flights.get_mut(packet_id) else { continue };
            assert!(
                session_present || self.kind == Kind::Numbered || !flight.received,
                "the session of {} was forgotten",
                self.name
            );
            flight.resent |= !flight.received;
            flight.sent_ms = now;
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

    fn publish(&mut self, now: u64, packets: &mut Vec<Packet>) {
        let (most, ids) = self.in_flight;
        while self.flights.len() < most {
            let Some(mut flight) = self.todo.pop_front() else { return };
            // Takes the next free packet id, as most clients do.
            self.last_packet = (self.last_packet % ids) + 1;
            while self.flights.contains_key(&self.last_packet) {
                self.last_packet = (self.last_packet % ids) + 1;
            }
            let packet_id = self.last_packet;
            flight.sent_before = true;
            flight.sent_ms = now;
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

/// How long a device sends nothing before it pings.
fn ping_ms(keepalive_s: u16) -> u64 {
    u64::from(keepalive_s) * 500
}
