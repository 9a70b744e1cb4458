//! The IO of one device: a TCP connection, the codec, a timer. All decisions are the core's.

use crate::board::{Board, Phase};
use crate::device::{Device, Taken};
use crate::faults::{LinkFault, is_counted};
use crate::session::{Effect, Event, KEEPALIVE_S, MAX_NAMED_ENTRIES, Manner, Out, Server};
use bytes::BytesMut;
use bytestring::ByteString;
use rmqtt_codec::types::{Protocol, Publish, QoS};
use rmqtt_codec::{MqttCodec, MqttPacket, v3, v5};
use selvedge_types::time::EpochMs;
use std::future::Future;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::codec::{Decoder, Encoder};

/// The largest packet that a device takes.
const MAX_PACKET_BYTES: u32 = 64 * 1024;

/// How long an abandoned connection is left open.
const ABANDONED_MS: u64 = 5_000;

/// How long a persistent session outlives its connection (MQTT 5).
const SESSION_EXPIRY_S: u32 = 24 * 60 * 60;

/// How long a goodbye may take.
const GOODBYE_MS: u64 = 500;

/// A clock in epoch milliseconds that does not go back.
#[derive(Debug, Clone, Copy)]
pub struct Timebase {
    wall_ms: u64,
    started: Instant,
}

impl Timebase {
    /// Starts at this machine's time.
    pub fn start() -> Self {
        Self {
            wall_ms: u64::try_from(EpochMs::from(SystemTime::now()).0).unwrap_or(0),
            started: Instant::now(),
        }
    }

    /// Epoch milliseconds that never go back: the wall clock at the start, and the time elapsed since.
    pub fn now_ms(&self) -> u64 {
        self.wall_ms.saturating_add(self.started.elapsed().as_millis() as u64)
    }

    fn instant(&self, at_ms: u64) -> tokio::time::Instant {
        // Far enough away to mean "not soon", near enough for any timer.
        let ahead = at_ms.saturating_sub(self.now_ms()).min(3_600_000);
        tokio::time::Instant::now() + Duration::from_millis(ahead)
    }
}

struct Connection {
    stream: TcpStream,
    codec: MqttCodec,
    inward: BytesMut,
    outward: BytesMut,
}

impl Connection {
    fn open(stream: TcpStream, manner: Manner, client: &str, clean: bool) -> Result<Self, ()> {
        let codec = if manner.v5 {
            MqttCodec::V5(v5::Codec::new(MAX_PACKET_BYTES, 0))
        } else {
            MqttCodec::V3(v3::Codec::new(MAX_PACKET_BYTES))
        };
        let mut connection = Self { stream, codec, inward: BytesMut::new(), outward: BytesMut::new() };
        let client_id = ByteString::from(client);
        let packet = if manner.v5 {
            MqttPacket::V5(v5::Packet::Connect(Box::new(v5::Connect {
                clean_start: clean,
                keep_alive: KEEPALIVE_S,
                session_expiry_interval_secs: if manner.persistent { SESSION_EXPIRY_S } else { 0 },
                client_id,
                ..Default::default()
            })))
        } else {
            MqttPacket::V3(v3::Packet::Connect(Box::new(v3::Connect {
                protocol: Protocol(rmqtt_codec::types::MQTT_LEVEL_311),
                clean_session: clean,
                keep_alive: KEEPALIVE_S,
                client_id,
                ..Default::default()
            })))
        };
        connection.encode(packet)?;
        Ok(connection)
    }

    fn encode(&mut self, packet: MqttPacket) -> Result<(), ()> {
        self.codec.encode(packet, &mut self.outward).map_err(|_| ())
    }

    fn send(&mut self, manner: Manner, packet: Out) -> Result<(), ()> {
        let packet = if manner.v5 { to_v5(packet, manner)? } else { to_v3(packet, manner)? };
        self.encode(packet)
    }

    /// Reads or writes what can be read or written next.
    async fn turn(&mut self) -> std::io::Result<()> {
        let (mut reader, mut writer) = self.stream.split();
        let wants_to_write = !self.outward.is_empty();
        tokio::select! {
            read = reader.read_buf(&mut self.inward) => match read? {
                0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(()),
            },
            wrote = writer.write_buf(&mut self.outward), if wants_to_write => wrote.map(|_| ()),
        }
    }

    /// What follows from the next packet that has come completely; `Err` when the stream makes no sense. `known` are the gateways'
    /// addresses.
    fn next(&mut self, known: &[String]) -> Result<Option<Event>, ()> {
        loop {
            let Some((packet, _)) = self.codec.decode(&mut self.inward).map_err(|_| ())? else {
                return Ok(None);
            };
            let event = match packet {
                MqttPacket::V3(packet) => from_v3(packet)?,
                MqttPacket::V5(packet) => from_v5(packet, known)?,
                MqttPacket::Version(_) => None,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }
}

fn nonzero(id: u16) -> Result<NonZeroU16, ()> {
    NonZeroU16::new(id).ok_or(())
}

fn publish(manner: Manner, packet_id: u16, dup: bool, topic: String, payload: Vec<u8>) -> Box<Publish> {
    let qos = match manner.qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    let (packet_id, topic) = (NonZeroU16::new(packet_id), topic.into());
    Box::new(Publish { dup, retain: false, qos, topic, packet_id, payload: payload.into(), properties: None })
}

fn to_v3(packet: Out, manner: Manner) -> Result<MqttPacket, ()> {
    Ok(MqttPacket::V3(match packet {
        Out::Publish { packet_id, dup, topic, payload } => {
            v3::Packet::Publish(publish(manner, packet_id, dup, topic, payload))
        }
        Out::Release(id) => v3::Packet::PublishRelease { packet_id: nonzero(id)? },
        Out::Ping => v3::Packet::PingRequest,
        Out::Disconnect => v3::Packet::Disconnect,
    }))
}

fn to_v5(packet: Out, manner: Manner) -> Result<MqttPacket, ()> {
    Ok(MqttPacket::V5(match packet {
        Out::Publish { packet_id, dup, topic, payload } => {
            v5::Packet::Publish(publish(manner, packet_id, dup, topic, payload))
        }
        Out::Release(id) => v5::Packet::PublishRelease(v5::PublishAck2 {
            packet_id: nonzero(id)?,
            reason_code: v5::PublishAck2Reason::Success,
            properties: Vec::new(),
            reason_string: None,
        }),
        Out::Ping => v5::Packet::PingRequest,
        Out::Disconnect => v5::Packet::Disconnect(v5::Disconnect {
            reason_code: v5::DisconnectReasonCode::NormalDisconnection,
            session_expiry_interval_secs: None,
            server_reference: None,
            reason_string: None,
            user_properties: Vec::new(),
        }),
    }))
}

fn from_v3(packet: v3::Packet) -> Result<Option<Event>, ()> {
    Ok(Some(match packet {
        v3::Packet::ConnectAck(ack) if ack.return_code == v3::ConnectAckReason::ConnectionAccepted => {
            Event::Connected { present: ack.session_present, receive_max: u16::MAX }
        }
        v3::Packet::ConnectAck(_) => return Err(()),
        v3::Packet::PublishAck { packet_id } => Event::PubAck(packet_id.get(), 0),
        v3::Packet::PublishReceived { packet_id } => Event::PubRec(packet_id.get(), 0),
        v3::Packet::PublishComplete { packet_id } => Event::PubComp(packet_id.get()),
        v3::Packet::PingResponse => Event::Pong,
        _ => return Ok(None),
    }))
}

/// The servers of a reference (MQTT 5, section 4.11) that can be connected to: host and port, separated by spaces.
fn servers(reference: Option<ByteString>, known: &[String]) -> Vec<Server> {
    let is_address = |text: &&str| {
        text.rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
    };
    let server = |text: &str| match known.iter().position(|address| address == text) {
        Some(gateway) => Server::Known(gateway),
        None => Server::Named(text.to_string()),
    };
    let reference = reference.unwrap_or_default();
    reference.split_ascii_whitespace().filter(is_address).take(MAX_NAMED_ENTRIES).map(server).collect()
}

fn from_v5(packet: v5::Packet, known: &[String]) -> Result<Option<Event>, ()> {
    Ok(Some(match packet {
        v5::Packet::ConnectAck(ack) if ack.reason_code == v5::ConnectAckReason::Success => {
            Event::Connected { present: ack.session_present, receive_max: ack.receive_max.get() }
        }
        v5::Packet::ConnectAck(ack) if ack.reason_code == v5::ConnectAckReason::UseAnotherServer => {
            Event::SentAway(servers(ack.server_reference, known))
        }
        v5::Packet::Disconnect(d) if d.reason_code == v5::DisconnectReasonCode::UseAnotherServer => {
            Event::SentAway(servers(d.server_reference, known))
        }
        v5::Packet::ConnectAck(_) | v5::Packet::Disconnect(_) => return Err(()),
        v5::Packet::PublishAck(ack) => Event::PubAck(ack.packet_id.get(), ack.reason_code.into()),
        v5::Packet::PublishReceived(ack) => Event::PubRec(ack.packet_id.get(), ack.reason_code.into()),
        v5::Packet::PublishComplete(ack) => Event::PubComp(ack.packet_id.get()),
        v5::Packet::PingResponse => Event::Pong,
        _ => return Ok(None),
    }))
}

type Connecting = Pin<Box<dyn Future<Output = std::io::Result<TcpStream>> + Send>>;

/// One device at work.
pub struct Client {
    device: Device,
    /// Its place on the board.
    index: usize,
    /// Its streams in the ledger.
    streams: Vec<usize>,
    addresses: Arc<[String]>,
    board: Arc<Mutex<Board>>,
    time: Timebase,
    connecting: Option<(Connecting, bool)>,
    connection: Option<Connection>,
    abandoned: Option<(Connection, u64)>,
}

impl Client {
    /// A device that will use these gateways and report to this board.
    pub fn new(
        device: Device,
        index: usize,
        streams: Vec<usize>,
        addresses: Arc<[String]>,
        board: Arc<Mutex<Board>>,
        time: Timebase,
    ) -> Self {
        Self {
            device,
            index,
            streams,
            addresses,
            board,
            time,
            connecting: None,
            connection: None,
            abandoned: None,
        }
    }

    /// Works until the phase is [`Phase::Stop`].
    pub async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        let mut events = vec![Event::Tick];
        loop {
            match *phase.borrow_and_update() {
                Phase::Run => {}
                Phase::Drain => self.device.quiet(),
                Phase::Stop => break,
            }
            self.work(&mut events);
            let wake = self.device.wake_at().unwrap_or(u64::MAX);
            let wake = wake.min(self.abandoned.as_ref().map_or(u64::MAX, |(_, until)| *until));
            let timer = tokio::time::sleep_until(self.time.instant(wake));
            let (connecting, connection) = (&mut self.connecting, &mut self.connection);
            tokio::select! {
                opened = async {
                    match connecting {
                        Some((future, _)) => future.await,
                        None => std::future::pending().await,
                    }
                } => self.opened(opened, &mut events),
                turned = async {
                    match connection {
                        Some(connection) => connection.turn().await,
                        None => std::future::pending().await,
                    }
                } => self.turned(turned, &mut events),
                () = timer => events.push(Event::Tick),
                changed = phase.changed() => if changed.is_err() { break } else { events.push(Event::Tick) },
            }
        }
        events.clear();
        events.push(Event::Stop);
        self.device.quiet();
        // The goodbye is sent on a connection that the core has already let go of.
        let mut last = Vec::new();
        self.device.step(self.time.now_ms(), Event::Stop, &mut last);
        if let Some(mut connection) = self.connection.take() {
            for effect in last {
                if let Effect::Send(packet) = effect {
                    let _ = connection.send(self.device.plan().manner, packet);
                }
            }
            let goodbye = connection.stream.write_all_buf(&mut connection.outward);
            let _ = tokio::time::timeout(Duration::from_millis(GOODBYE_MS), goodbye).await;
        }
        self.report(Vec::new());
    }

    fn opened(&mut self, opened: std::io::Result<TcpStream>, events: &mut Vec<Event>) {
        let clean = self.connecting.take().is_none_or(|(_, clean)| clean);
        let plan = self.device.plan();
        let connection = opened.map_err(|_| ()).and_then(|stream| {
            let _ = stream.set_nodelay(true);
            Connection::open(stream, plan.manner, &plan.name, clean)
        });
        match connection {
            Ok(connection) => self.connection = Some(connection),
            Err(()) => events.push(Event::Lost),
        }
    }

    fn turned(&mut self, turned: std::io::Result<()>, events: &mut Vec<Event>) {
        let Some(connection) = &mut self.connection else { return };
        let mut broken = turned.is_err();
        loop {
            match connection.next(&self.addresses) {
                Ok(Some(event @ Event::SentAway(_))) => {
                    // The last packet; what stands before it has been taken.
                    events.push(event);
                    self.connection = None;
                    return;
                }
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(()) => {
                    broken = true;
                    break;
                }
            }
        }
        if broken {
            self.connection = None;
            events.push(Event::Lost);
        }
    }

    /// Steps the core with all events and performs its effects.
    fn work(&mut self, events: &mut Vec<Event>) {
        let now = self.time.now_ms();
        if self.abandoned.as_ref().is_some_and(|(_, until)| *until <= now) {
            self.abandoned = None;
        }
        let mut notes = Vec::new();
        let mut effects = Vec::new();
        while !events.is_empty() {
            for event in events.drain(..) {
                self.device.step(now, event, &mut effects);
            }
            for effect in effects.drain(..) {
                if self.perform(now, effect, &mut notes).is_err() {
                    self.connection = None;
                    events.push(Event::Lost);
                }
            }
        }
        self.report(notes);
    }

    fn perform(
        &mut self,
        now: u64,
        effect: Effect<Vec<Taken>>,
        notes: &mut Vec<(Note, Vec<Taken>)>,
    ) -> Result<(), ()> {
        match effect {
            Effect::Connect { to, clean } => {
                self.connection = None;
                let address = match to {
                    Server::Known(gateway) => self.addresses.get(gateway).cloned().unwrap_or_default(),
                    Server::Named(address) => address,
                };
                self.connecting = Some((Box::pin(async move { TcpStream::connect(address).await }), clean));
            }
            Effect::Send(packet) => {
                if let Some(connection) = &mut self.connection {
                    return connection.send(self.device.plan().manner, packet);
                }
            }
            Effect::Close { abandon } => {
                self.connecting = None;
                if let Some(mut connection) = self.connection.take() {
                    if abandon {
                        self.abandoned = Some((connection, now.saturating_add(ABANDONED_MS)));
                    } else if !connection.outward.is_empty() {
                        // A DISCONNECT, mostly; if it does not fit at once, the end of the stream says as much.
                        let _ = connection.stream.try_write(&connection.outward.split());
                    }
                }
            }
            Effect::Published(taken) => notes.push((Note::Published, taken)),
            Effect::Acked(taken) => notes.push((Note::Acked, taken)),
            Effect::Quarantined(taken) => notes.push((Note::SetAside, taken)),
        }
        Ok(())
    }

    fn report(&mut self, notes: Vec<(Note, Vec<Taken>)>) {
        let mut board = Board::lock(&self.board);
        // A device that breaks its own link says nothing about the site.
        if self.device.plan().link == LinkFault::None {
            let acked = notes.iter().any(|(note, _)| !matches!(note, Note::Published));
            let (waits, gateway) = (self.device.waits(), self.device.gateway());
            board.gaps.note(self.time.now_ms(), self.index, acked, waits, gateway);
        }
        for (note, taken) in notes {
            for reading in taken {
                let Some(stream) = self.streams.get(reading.stream).copied() else { continue };
                // A site sets aside what is of a time that can't be, and can tell version 3.1.1 of it only by acknowledging.
                let counted = reading.time.is_none_or(|time| is_counted(time, self.time.now_ms()));
                let note = if matches!(note, Note::Acked) && !counted { Note::SetAside } else { note };
                match note {
                    Note::Published => board.ledger.published(stream, reading.time, reading.value),
                    Note::Acked => board.ledger.acked(stream, reading.time, reading.value),
                    Note::SetAside => board.ledger.set_aside(stream, reading.time, reading.value),
                }
            }
        }
        let (pending, done, stats) = (self.device.pending(), self.device.is_done(), self.device.stats());
        if let Some(view) = board.devices.get_mut(self.index) {
            view.pending = pending;
            view.done = done;
            view.stats = stats;
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Note {
    Published,
    Acked,
    SetAside,
}
