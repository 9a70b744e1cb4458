//! The client's end of MQTT: encodes what a device sends and decodes what it receives. It checks one rule of the
//! protocol that the codec does not: the order of answers.

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use rmqtt_codec::types::{self, Publish};
use rmqtt_codec::{v3, v5};
use selvedge_types::mqtt::{Connect, QoS, Version};
use std::collections::VecDeque;
use std::num::NonZeroU16;
use tokio_util::codec::{Decoder, Encoder};

/// A packet that a device sends.
#[derive(Debug, Clone)]
pub enum Packet {
    Connect(Box<Connect>),
    Publish {
        packet_id: u16,
        topic: String,
        payload: String,
        qos: QoS,
        dup: bool,
    },
    Release(u16),
    Subscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    /// PUBACK for a publish that the device received.
    Acked(u16),
    Ping,
}

/// The kind of answer that an exchange expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    Ack,
    Received,
    Complete,
}

/// A packet that a gateway sends.
#[derive(Debug)]
pub enum Said {
    Accepted {
        present: bool,
    },
    Refused,
    Answer {
        exchange: Exchange,
        packet_id: u16,
        kept: bool,
        note: Option<String>,
    },
    Subscribed {
        packet_id: u16,
    },
    Given {
        topic: String,
        payload: Bytes,
        packet_id: Option<u16>,
    },
    Pong,
    /// The gateway ends the connection.
    Goodbye,
}

enum Codec {
    V3(v3::Codec),
    V5(Box<v5::Codec>),
}

/// The state of one connection on the device's side.
pub struct Client {
    codec: Codec,
    input: BytesMut,
    /// The answers that are expected, in order.
    owed: VecDeque<(Exchange, u16)>,
}

fn id(packet_id: u16) -> NonZeroU16 {
    NonZeroU16::new(packet_id).expect("no packet id is 0")
}

impl Client {
    pub fn new(version: Version) -> Self {
        let codec = match version {
            Version::V5 => Codec::V5(Box::new(v5::Codec::new(0, 0))),
            Version::V31 | Version::V311 => Codec::V3(v3::Codec::new(0)),
        };
        Self { codec, input: BytesMut::new(), owed: VecDeque::new() }
    }

    /// Encodes packets.
    pub fn say(&mut self, packets: Vec<Packet>) -> BytesMut {
        let mut bytes = BytesMut::new();
        for packet in packets {
            match &packet {
                Packet::Publish { packet_id, qos: QoS::AtLeastOnce, .. } => {
                    self.owed.push_back((Exchange::Ack, *packet_id));
                }
                Packet::Publish { packet_id, qos: QoS::ExactlyOnce, .. } => {
                    self.owed.push_back((Exchange::Received, *packet_id));
                }
                Packet::Release(packet_id) => self.owed.push_back((Exchange::Complete, *packet_id)),
                _ => {}
            }
            match &mut self.codec {
                Codec::V3(codec) => codec.encode(to_v3(packet), &mut bytes).expect("it can be said"),
                Codec::V5(codec) => codec.encode(to_v5(packet), &mut bytes).expect("it can be said"),
            }
        }
        bytes
    }

    /// Decodes the packets that are complete, and checks that answers come in the order of their requests.
    pub fn hear(&mut self, bytes: &[u8]) -> Vec<Said> {
        self.input.extend_from_slice(bytes);
        let mut list = Vec::new();
        loop {
            let said = match &mut self.codec {
                Codec::V3(codec) => codec.decode(&mut self.input).expect("MQTT 3").map(|(p, _)| from_v3(p)),
                Codec::V5(codec) => codec.decode(&mut self.input).expect("MQTT 5").map(|(p, _)| from_v5(p)),
            };
            let Some(said) = said else { return list };
            if let Said::Answer { exchange, packet_id, .. } = said {
                super::invariants::answers::check((exchange, packet_id), self.owed.pop_front());
            }
            list.push(said);
        }
    }
}

fn to_v3(packet: Packet) -> v3::Packet {
    match packet {
        Packet::Connect(c) => v3::Packet::Connect(Box::new(v3::Connect {
            clean_session: c.clean,
            keep_alive: c.keepalive_s,
            last_will: c.will.map(|w| v3::LastWill {
                qos: coded(w.qos),
                retain: false,
                topic: w.topic,
                message: w.payload,
            }),
            client_id: c.client_id,
            ..v3::Connect::default()
        })),
        Packet::Publish { packet_id, topic, payload, qos, dup } => {
            v3::Packet::Publish(publish(packet_id, topic, payload, qos, dup))
        }
        Packet::Release(packet_id) => v3::Packet::PublishRelease { packet_id: id(packet_id) },
        Packet::Subscribe { packet_id, filters } => v3::Packet::Subscribe {
            packet_id: id(packet_id),
            topic_filters: filters
                .into_iter()
                .map(|f| (ByteString::from(f), types::QoS::AtLeastOnce))
                .collect(),
        },
        Packet::Acked(packet_id) => v3::Packet::PublishAck { packet_id: id(packet_id) },
        Packet::Ping => v3::Packet::PingRequest,
    }
}

fn to_v5(packet: Packet) -> v5::Packet {
    match packet {
        Packet::Connect(c) => v5::Packet::Connect(Box::new(v5::Connect {
            clean_start: c.clean,
            keep_alive: c.keepalive_s,
            session_expiry_interval_secs: c.expiry_s,
            last_will: c.will.map(|w| v5::LastWill {
                qos: coded(w.qos),
                retain: false,
                topic: w.topic,
                message: w.payload,
                will_delay_interval_sec: (w.delay_s > 0).then_some(w.delay_s),
                correlation_data: None,
                message_expiry_interval: None,
                content_type: None,
                user_properties: Vec::new(),
                is_utf8_payload: None,
                response_topic: None,
            }),
            client_id: c.client_id,
            ..v5::Connect::default()
        })),
        Packet::Publish { packet_id, topic, payload, qos, dup } => {
            v5::Packet::Publish(publish(packet_id, topic, payload, qos, dup))
        }
        Packet::Release(packet_id) => {
            let ack = v5::PublishAck2 { packet_id: id(packet_id), ..v5::PublishAck2::default() };
            v5::Packet::PublishRelease(ack)
        }
        Packet::Subscribe { packet_id, filters } => {
            let options = v5::SubscriptionOptions { qos: types::QoS::AtLeastOnce, ..Default::default() };
            v5::Packet::Subscribe(v5::Subscribe {
                packet_id: id(packet_id),
                id: None,
                user_properties: Vec::new(),
                topic_filters: filters.into_iter().map(|f| (f.into(), options)).collect(),
            })
        }
        Packet::Acked(packet_id) => {
            v5::Packet::PublishAck(v5::PublishAck { packet_id: id(packet_id), ..v5::PublishAck::default() })
        }
        Packet::Ping => v5::Packet::PingRequest,
    }
}

fn publish(packet_id: u16, topic: String, payload: String, qos: QoS, dup: bool) -> Box<Publish> {
    Box::new(Publish {
        dup,
        retain: false,
        qos: coded(qos),
        topic: topic.into(),
        packet_id: NonZeroU16::new(packet_id),
        payload: payload.into(),
        properties: None,
    })
}

fn given(publish: Publish) -> Said {
    assert!(
        !publish.dup && publish.qos <= types::QoS::AtLeastOnce,
        "no such publish was asked for: {publish:?}"
    );
    let packet_id = publish.packet_id.map(NonZeroU16::get);
    Said::Given { topic: publish.topic.to_string(), payload: publish.payload, packet_id }
}

fn answer(exchange: Exchange, packet_id: NonZeroU16) -> Said {
    Said::Answer { exchange, packet_id: packet_id.get(), kept: true, note: None }
}

fn from_v3(packet: v3::Packet) -> Said {
    match packet {
        v3::Packet::ConnectAck(ack) => match ack.return_code {
            v3::ConnectAckReason::ConnectionAccepted => Said::Accepted { present: ack.session_present },
            _ => Said::Refused,
        },
        v3::Packet::PublishAck { packet_id } => answer(Exchange::Ack, packet_id),
        v3::Packet::PublishReceived { packet_id } => answer(Exchange::Received, packet_id),
        v3::Packet::PublishComplete { packet_id } => answer(Exchange::Complete, packet_id),
        v3::Packet::SubscribeAck { packet_id, status } => {
            let granted = |s: &v3::SubscribeReturnCode| matches!(s, v3::SubscribeReturnCode::Success(_));
            assert!(status.iter().all(granted), "nothing is at its bound");
            Said::Subscribed { packet_id: packet_id.get() }
        }
        v3::Packet::Publish(publish) => given(*publish),
        v3::Packet::PingResponse => Said::Pong,
        other => panic!("no gateway says {other:?}"),
    }
}

fn from_v5(packet: v5::Packet) -> Said {
    let noted = |exchange, ack: v5::PublishAck| Said::Answer {
        exchange,
        packet_id: ack.packet_id.get(),
        kept: ack.reason_code == v5::PublishAckReason::Success,
        note: ack.reason_string.map(|note| note.to_string()),
    };
    match packet {
        v5::Packet::ConnectAck(ack) => match ack.reason_code {
            v5::ConnectAckReason::Success => Said::Accepted { present: ack.session_present },
            _ => Said::Refused,
        },
        v5::Packet::PublishAck(ack) => noted(Exchange::Ack, ack),
        v5::Packet::PublishReceived(ack) => noted(Exchange::Received, ack),
        v5::Packet::PublishComplete(ack) => answer(Exchange::Complete, ack.packet_id),
        v5::Packet::SubscribeAck(ack) => {
            let granted = |s: &v5::SubscribeAckReason| *s == v5::SubscribeAckReason::GrantedQos1;
            assert!(ack.status.iter().all(granted), "nothing is at its bound: {ack:?}");
            Said::Subscribed { packet_id: ack.packet_id.get() }
        }
        v5::Packet::Publish(publish) => given(*publish),
        v5::Packet::PingResponse => Said::Pong,
        v5::Packet::Disconnect(_) => Said::Goodbye,
        other => panic!("no gateway says {other:?}"),
    }
}

fn coded(qos: QoS) -> types::QoS {
    match qos {
        QoS::AtMostOnce => types::QoS::AtMostOnce,
        QoS::AtLeastOnce => types::QoS::AtLeastOnce,
        QoS::ExactlyOnce => types::QoS::ExactlyOnce,
    }
}
