//! A fleet against a small endpoint that keeps every publish and breaks connections as it likes: before it
//! keeps one, after it but before the acknowledgement, and after that. What it kept must be exactly what the
//! ledger says, for numbered payloads in clean sessions and for plain ones in persistent sessions alike.

use bytes::BytesMut;
use firmware_sim::fleet::{Fleet, FleetSettings};
use firmware_sim::ledger::Tally;
use firmware_sim::reckoning::{NodeWindows, reckon};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::version::VersionCodec;
use rmqtt_codec::{MqttCodec, MqttPacket, v3, v5};
use selvedge_types::time::EpochMs;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Decoder, Encoder};

/// What all endpoints of the site share.
#[derive(Default)]
struct Kept {
    rng: fastrand::Rng,
    chaos: bool,
    windows: NodeWindows,
    /// Numbered readings: topic, boot and seq.
    numbered: HashSet<(String, u64, u64)>,
    /// Persistent sessions: what each packet id last stood for, and whether it is still unreleased (QoS 2).
    sessions: HashMap<String, HashMap<u16, (bytes::Bytes, bool)>>,
    resends: u64,
}

impl Kept {
    fn breaks(&mut self) -> bool {
        self.chaos && self.rng.u32(0..40) == 0
    }

    fn keep(&mut self, client: &str, persistent: bool, publish: &Publish) {
        let id = publish.packet_id.map_or(0, |id| id.get());
        if persistent {
            let session = self.sessions.entry(client.to_string()).or_default();
            let known = session.get(&id);
            let resent = match publish.qos {
                QoS::ExactlyOnce => known.is_some_and(|(_, unreleased)| *unreleased),
                _ => publish.dup && known.is_some_and(|(payload, _)| *payload == publish.payload),
            };
            session.insert(id, (publish.payload.clone(), true));
            if resent {
                self.resends += 1;
                return;
            }
        }
        let levels: Vec<&str> = publish.topic.split('/').collect();
        let json: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
        match levels.as_slice() {
            ["d", device, stream] => {
                if let Some(seq) = json.get("seq") {
                    let number =
                        (publish.topic.to_string(), json["boot"].as_u64().unwrap(), seq.as_u64().unwrap());
                    if !self.numbered.insert(number) {
                        self.resends += 1;
                        return;
                    }
                }
                let value = json.get("value").unwrap_or(&json).as_f64().unwrap();
                self.count(device, stream, time(json.get("ts")), value);
            }
            ["d", device] => {
                for (stream, value) in json.as_object().unwrap() {
                    self.count(device, stream, EpochMs(0), value.as_f64().unwrap());
                }
            }
            ["senml", device] => {
                let time = json[0].get("bt").map_or(EpochMs(0), |bt| EpochMs(bt.as_i64().unwrap() * 1_000));
                for record in json.as_array().unwrap() {
                    self.count(device, record["n"].as_str().unwrap(), time, record["v"].as_f64().unwrap());
                }
            }
            other => panic!("unexpected topic {other:?}"),
        }
    }

    fn count(&mut self, device: &str, stream: &str, time: EpochMs, value: f64) {
        let mut one = Tally::default();
        one.add_value(value);
        self.windows.add(device, stream, time.window_start(1_000), one);
    }
}

fn time(ts: Option<&serde_json::Value>) -> EpochMs {
    ts.map_or(EpochMs(0), |ts| {
        ts.as_i64().map_or_else(|| EpochMs::parse(ts.as_str().unwrap()).unwrap(), EpochMs)
    })
}

/// Serves one connection; returns when it ends or is broken.
async fn serve(mut stream: TcpStream, kept: Arc<Mutex<Kept>>) -> Option<()> {
    let (mut inward, mut outward) = (BytesMut::new(), BytesMut::new());
    let version = loop {
        if let Some(version) = VersionCodec.decode(&mut inward).ok()? {
            break version;
        }
        if stream.read_buf(&mut inward).await.ok()? == 0 {
            return None;
        }
    };
    let five = version == rmqtt_codec::version::ProtocolVersion::MQTT5;
    let mut codec =
        if five { MqttCodec::V5(v5::Codec::default()) } else { MqttCodec::V3(v3::Codec::default()) };
    let (mut client, mut persistent) = (String::new(), false);
    loop {
        while let Some((packet, _)) = codec.decode(&mut inward).ok()? {
            let mut kept = kept.lock().unwrap();
            let answer = match packet {
                MqttPacket::V3(v3::Packet::Connect(connect)) => {
                    (client, persistent) = (connect.client_id.to_string(), !connect.clean_session);
                    let session_present = begin(&mut kept, &client, connect.clean_session, persistent);
                    let return_code = v3::ConnectAckReason::ConnectionAccepted;
                    Some(MqttPacket::V3(v3::Packet::ConnectAck(v3::ConnectAck {
                        return_code,
                        session_present,
                    })))
                }
                MqttPacket::V5(v5::Packet::Connect(connect)) => {
                    persistent = connect.session_expiry_interval_secs > 0;
                    client = connect.client_id.to_string();
                    let session_present = begin(&mut kept, &client, connect.clean_start, persistent);
                    let ack = v5::ConnectAck { session_present, ..Default::default() };
                    Some(MqttPacket::V5(v5::Packet::ConnectAck(Box::new(ack))))
                }
                MqttPacket::V3(v3::Packet::Publish(publish))
                | MqttPacket::V5(v5::Packet::Publish(publish)) => {
                    if kept.breaks() {
                        return None;
                    }
                    kept.keep(&client, persistent, &publish);
                    if kept.breaks() {
                        return None;
                    }
                    let packet_id = publish.packet_id?;
                    Some(match (five, publish.qos) {
                        (false, QoS::ExactlyOnce) => {
                            MqttPacket::V3(v3::Packet::PublishReceived { packet_id })
                        }
                        (false, _) => MqttPacket::V3(v3::Packet::PublishAck { packet_id }),
                        (true, QoS::ExactlyOnce) => {
                            MqttPacket::V5(v5::Packet::PublishReceived(ack(packet_id)))
                        }
                        (true, _) => MqttPacket::V5(v5::Packet::PublishAck(ack(packet_id))),
                    })
                }
                MqttPacket::V3(v3::Packet::PublishRelease { packet_id }) => {
                    release(&mut kept, &client, packet_id.get());
                    Some(MqttPacket::V3(v3::Packet::PublishComplete { packet_id }))
                }
                MqttPacket::V5(v5::Packet::PublishRelease(release_)) => {
                    release(&mut kept, &client, release_.packet_id.get());
                    Some(MqttPacket::V5(v5::Packet::PublishComplete(release_)))
                }
                MqttPacket::V3(v3::Packet::PingRequest) => Some(MqttPacket::V3(v3::Packet::PingResponse)),
                MqttPacket::V5(v5::Packet::PingRequest) => Some(MqttPacket::V5(v5::Packet::PingResponse)),
                _ => return None,
            };
            codec.encode(answer?, &mut outward).ok()?;
            if kept.breaks() {
                return None;
            }
        }
        stream.write_all_buf(&mut outward).await.ok()?;
        if stream.read_buf(&mut inward).await.ok()? == 0 {
            return None;
        }
    }
}

fn ack(packet_id: std::num::NonZeroU16) -> v5::PublishAck {
    let reason_code = v5::PublishAckReason::Success;
    v5::PublishAck { packet_id, reason_code, properties: Vec::new(), reason_string: None }
}

fn begin(kept: &mut Kept, client: &str, clean: bool, persistent: bool) -> bool {
    let before = if clean { None } else { kept.sessions.get(client) };
    let present = before.is_some();
    if clean {
        kept.sessions.remove(client);
    }
    if persistent {
        kept.sessions.entry(client.to_string()).or_default();
    }
    present
}

fn release(kept: &mut Kept, client: &str, id: u16) {
    if let Some(entry) = kept.sessions.get_mut(client).and_then(|s| s.get_mut(&id)) {
        entry.1 = false;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_endpoints_that_break_connections_kept_is_exactly_what_the_ledger_says() {
    let kept =
        Arc::new(Mutex::new(Kept { rng: fastrand::Rng::with_seed(4), chaos: true, ..Kept::default() }));
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        gateways.push(listener.local_addr().unwrap().to_string());
        let kept = kept.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, kept.clone()));
            }
        });
    }
    let settings = FleetSettings {
        gateways,
        // The first six kinds write texts: all manners of session, both versions, QoS 1 and 2.
        devices: 6,
        rate: 400.0,
        seed: 2,
        boot: 77,
        faults: false,
        in_flight_entries: 16,
        window_ms: 1_000,
        recordings: Vec::new(),
        speed: None,
    };
    let mut fleet = Fleet::start(&settings);
    // Long enough to have been broken off often, however slow the machine is.
    let enough = |fleet: &Fleet| {
        fleet.with_ledger(|l| l.streams().iter().all(|s| acked(&s.accounts) >= 150))
            && fleet.progress().resends > 100
    };
    let patience = Duration::from_secs(60);
    wait(patience, || enough(&fleet)).await;
    fleet.drain();
    wait(patience, || fleet.is_done()).await;
    fleet.stop().await;
    let kept = kept.lock().unwrap();
    let result = fleet.with_ledger(|ledger| reckon(ledger, &kept.windows));
    assert!(result.is_clean(), "{:#?}", result.findings);
    assert_eq!(result.published, result.acked);
    assert_eq!(result.counted, result.acked);
    assert!(kept.resends > 0, "some that were kept must have come again");
}

fn acked(accounts: &firmware_sim::ledger::Accounts) -> u64 {
    use firmware_sim::ledger::Accounts;
    match accounts {
        Accounts::Whole(account) => account.acked.count,
        Accounts::Windows(windows) => windows.values().map(|a| a.acked.count).sum(),
    }
}

async fn wait(patience: Duration, done: impl Fn() -> bool) {
    let look = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(patience, look).await.expect("not done in time");
}
