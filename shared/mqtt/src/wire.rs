//! What differs between the versions of MQTT on the wire, so that [`super::connection`] need not know it.
//!
//! The codec checks lengths, text and reserved bits. What it leaves open and is decided from raw bytes stands in
//! [`Wire::sniff`]. The codec is never given the client's maximum packet size: its arithmetic on small ones
//! underflows; [`Wire::put`] compares the finished packet instead.

use super::departure::Culprit;
use super::oversize::Discarding;
use super::{ConnectionLimits, lenient};
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::types::{self, Publish};
use rmqtt_codec::version::{ProtocolVersion, VersionCodec};
use rmqtt_codec::{v3, v5};
use selvedge_types::mqtt::{self, Accept, AckCode, AckNote, CloseReason, QoS, Refusal, Version, Will};
use std::num::NonZeroU16;
use tokio_util::codec::{Decoder, Encoder};

/// A packet from a client.
pub(super) enum Packet {
    Connect(Box<mqtt::Connect>, Outbound),
    Publish(Box<Publish>),
    Acked(NonZeroU16),
    Release(NonZeroU16),
    Subscribe {
        packet_id: NonZeroU16,
        filters: Vec<(ByteString, QoS, bool)>,
        identified: bool,
    },
    Unsubscribe {
        packet_id: NonZeroU16,
        filters: Vec<ByteString>,
    },
    Ping,
    Disconnect {
        with_will: bool,
        expiry_s: Option<u32>,
    },
    /// A packet that no client sends, or that is not valid here.
    Misplaced(&'static str),
}

/// The bounds that a client sets in CONNECT for packets to it.
pub(super) struct Outbound {
    /// The client's Receive Maximum: unacknowledged deliveries at QoS 1 and 2.
    pub window_entries: u16,
    /// The client's Maximum Packet Size.
    pub packet_bytes: u32,
    /// Asks for MQTT 5's enhanced authentication.
    pub auth: bool,
}

/// What is answered to one filter of SUBSCRIBE.
#[derive(Clone, Copy)]
pub(super) enum Granted {
    Qos(QoS),
    BadFilter,
    Shared,
    Identified,
    Quota,
}

/// Codec and version of one connection.
pub(super) struct Wire {
    codec: Codec,
    level: u8,
    max_packet_bytes: u32,
    /// The client's Maximum Packet Size.
    pub packet_bytes: u32,
}

enum Codec {
    Unknown,
    V3(v3::Codec),
    V5(Box<v5::Codec>),
}

/// A decoding error in the words of a close reason.
fn reason(error: &DecodeError) -> CloseReason {
    match error {
        DecodeError::MaxSizeExceeded { .. } => CloseReason::PacketTooLarge,
        DecodeError::InvalidClientId => CloseReason::Refused(Refusal::ClientId),
        DecodeError::InvalidTopicName => CloseReason::TopicName,
        DecodeError::Utf8Error => CloseReason::Malformed("text that is not UTF-8"),
        DecodeError::InvalidProtocol | DecodeError::UnsupportedProtocolLevel => {
            CloseReason::Malformed("the protocol's name or level is not one of MQTT 3.1, 3.1.1 and 5")
        }
        DecodeError::UnsupportedPacketType => {
            CloseReason::Malformed("an unknown packet type or reserved flags")
        }
        DecodeError::InvalidTopicFilter => CloseReason::Protocol("SUBSCRIBE or UNSUBSCRIBE without a filter"),
        _ => CloseReason::Malformed("a packet that does not decode"),
    }
}

/// The packet at the start of the input, as far as it can be read.
pub(super) fn culprit(input: &[u8]) -> Option<Culprit> {
    let (length, start) = lenient::number(input, 1)?;
    let topic = (input.first()? & 0xf0 == PUBLISH).then(|| {
        let of = input.get(start..start + 2)?;
        let end = (start + 2 + usize::from(u16::from_be_bytes([of[0], of[1]]))).min(input.len());
        input.get(start + 2..end).map(String::from_utf8_lossy)
    });
    Some(Culprit::new(&topic.flatten().unwrap_or_default(), length as u64))
}

/// The length of the packet at the start of the input, with its fixed header, once that can be told.
pub(super) fn packet_bytes(input: &[u8]) -> Option<usize> {
    lenient::number(input, 1).map(|(length, start)| start + length)
}

const CONNECT: u8 = 0x10;
const PUBLISH: u8 = 0x30;
const MISPLACED: &str = "a packet that clients do not send, or not now";

impl Wire {
    pub fn new(limits: &ConnectionLimits) -> Self {
        let max_packet_bytes = limits.max_packet_bytes.max(1);
        Self { codec: Codec::Unknown, level: 0, max_packet_bytes, packet_bytes: u32::MAX }
    }

    pub fn is_v5(&self) -> bool {
        matches!(self.codec, Codec::V5(_))
    }

    /// Learns the version from a CONNECT, of which it takes nothing. False: more bytes are needed.
    fn sniff(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<bool, CloseReason> {
        if input.first().is_some_and(|&b| b != CONNECT) {
            return Err(CloseReason::Malformed("the first packet is not CONNECT"));
        }
        let found = VersionCodec.decode(input).map_err(|e| {
            // Says "unacceptable protocol version" in the oldest form, which newer clients know too.
            let _ = self.put_v3(v3::ConnectAckReason::UnacceptableProtocolVersion, output);
            reason(&e)
        })?;
        let Some(version) = found else {
            return if input.len() > 16 { Err(CloseReason::Malformed("no CONNECT")) } else { Ok(false) };
        };
        // 1 byte of type, 1 to 4 of length, then name (length and text), level, flags.
        let size = input.iter().skip(1).take(4).position(|b| b & 0x80 == 0).map_or(0, |n| n + 1);
        let name = 1 + size;
        let name_length = input.get(name + 1).copied().unwrap_or(0);
        let level_at = name + 2 + usize::from(name_length);
        let (Some(&level), Some(&flags)) = (input.get(level_at), input.get(level_at + 1)) else {
            return Ok(false);
        };
        if flags & 0x04 == 0 && flags & 0x38 != 0 {
            return Err(CloseReason::Malformed("CONNECT with will flags and no will"));
        }
        if level == 4 && flags & 0xc0 == 0x40 {
            return Err(CloseReason::Malformed("CONNECT with a password and no user name"));
        }
        self.level = level;
        if version == ProtocolVersion::MQTT5 {
            let length =
                input.iter().skip(1).take(size).rev().fold(0, |sum, b| sum << 7 | usize::from(b & 0x7f));
            if length <= self.max_packet_bytes as usize {
                if input.len() < 1 + size + length {
                    return Ok(false); // the codec would take a part of it
                }
                lenient::mend_connect(input, level_at + 1);
            }
        }
        self.codec = match version {
            ProtocolVersion::MQTT3 => Codec::V3(v3::Codec::new(self.max_packet_bytes)),
            ProtocolVersion::MQTT5 => Codec::V5(Box::new(v5::Codec::new(self.max_packet_bytes, 0))),
        };
        Ok(true)
    }

    /// Begins to discard a PUBLISH of MQTT 3 that [`Wire::decode`] finds too large, of which it has taken nothing. None: it is no such.
    pub fn discard(&self, input: &mut BytesMut) -> Option<Result<Option<Discarding>, CloseReason>> {
        let is_publish = input.first().is_some_and(|first| first & 0xf0 == PUBLISH);
        let discards = is_publish && matches!(self.codec, Codec::V3(_));
        discards.then(|| Discarding::begin(input, self.max_packet_bytes))
    }

    /// The next packet; none: more bytes are needed.
    pub fn decode(
        &mut self,
        input: &mut BytesMut,
        output: &mut BytesMut,
    ) -> Result<Option<Packet>, CloseReason> {
        if matches!(self.codec, Codec::Unknown) && !self.sniff(input, output)? {
            return Ok(None);
        }
        // Also so that what has come of a packet begins with its length.
        if !lenient::is_whole(input, self.max_packet_bytes) {
            return Ok(None);
        }
        match &mut self.codec {
            Codec::Unknown => Ok(None),
            Codec::V3(codec) => {
                let found = codec.decode(input).map_err(|e| reason(&e))?;
                Ok(found.map(|(packet, _)| from_v3(packet, self.level)))
            }
            Codec::V5(codec) => {
                lenient::mend_publish(input);
                let found = codec.decode(input).map_err(|e| reason(&e))?;
                Ok(found.map(|(packet, _)| from_v5(packet)))
            }
        }
    }

    fn put_v3(&mut self, return_code: v3::ConnectAckReason, output: &mut BytesMut) -> bool {
        let ack = v3::ConnectAck { return_code, session_present: false };
        v3::Codec::new(0).encode(v3::Packet::ConnectAck(ack), output).is_ok()
    }

    /// Writes a packet in the client's version, if there is one and the client takes packets of its size.
    fn put(
        &mut self,
        output: &mut BytesMut,
        old: impl FnOnce() -> v3::Packet,
        new: impl FnOnce() -> v5::Packet,
    ) -> bool {
        let before = output.len();
        let done = match &mut self.codec {
            Codec::Unknown => return false,
            Codec::V3(codec) => codec.encode(old(), output).is_ok(),
            Codec::V5(codec) => codec.encode(new(), output).is_ok(),
        };
        let fits = output.len() - before <= self.packet_bytes as usize;
        if !(done && fits) {
            output.truncate(before);
        }
        done && fits
    }

    pub fn put_accept(
        &mut self,
        output: &mut BytesMut,
        limits: &ConnectionLimits,
        accept: &Accept,
        keepalive_s: Option<u16>,
    ) -> bool {
        // Of 3.1 the byte that holds it is reserved.
        let session_present = accept.session_present && self.level != 3;
        let window = limits.max_inflight_entries.max(1);
        self.put(
            output,
            || {
                v3::Packet::ConnectAck(v3::ConnectAck {
                    return_code: v3::ConnectAckReason::ConnectionAccepted,
                    session_present,
                })
            },
            || {
                v5::Packet::ConnectAck(Box::new(v5::ConnectAck {
                    session_present,
                    session_expiry_interval_secs: accept.expiry_s,
                    receive_max: NonZeroU16::new(window).unwrap_or(NonZeroU16::MAX),
                    max_packet_size: Some(limits.max_packet_bytes.max(1)),
                    assigned_client_id: accept.assigned_client_id.clone(),
                    topic_alias_max: limits.topic_alias_entries,
                    retain_available: false,
                    wildcard_subscription_available: true,
                    subscription_identifiers_available: false,
                    shared_subscription_available: false,
                    server_keepalive_sec: keepalive_s,
                    ..Default::default()
                }))
            },
        )
    }

    /// `reference`: the servers to use instead, left out where it does not fit.
    pub fn put_refusal(&mut self, output: &mut BytesMut, refusal: Refusal, reference: Option<ByteString>) {
        use v3::ConnectAckReason as Old;
        use v5::ConnectAckReason as New;
        let (old, new) = match refusal {
            Refusal::Unavailable => (Old::ServiceUnavailable, New::ServerUnavailable),
            Refusal::Busy => (Old::ServiceUnavailable, New::ServerBusy),
            Refusal::ClientId => (Old::IdentifierRejected, New::ClientIdentifierNotValid),
            Refusal::BadCredentials => (Old::BadUserNameOrPassword, New::BadUserNameOrPassword),
            Refusal::NotAuthorized => (Old::NotAuthorized, New::NotAuthorized),
            Refusal::Quota => (Old::ServiceUnavailable, New::QuotaExceeded),
            Refusal::AuthMethod => (Old::NotAuthorized, New::BadAuthenticationMethod),
            Refusal::UseAnotherServer => (Old::ServiceUnavailable, New::UseAnotherServer),
        };
        let old = || v3::Packet::ConnectAck(v3::ConnectAck { return_code: old, session_present: false });
        let new = |server_reference| {
            let ack = v5::ConnectAck { reason_code: new, server_reference, ..Default::default() };
            v5::Packet::ConnectAck(Box::new(ack))
        };
        let fits = reference.is_some() && self.put(output, old, || new(reference));
        if !fits {
            self.put(output, old, || new(None));
        }
    }

    /// `reference`: the servers to use instead, left out where it does not fit.
    pub fn put_disconnect(
        &mut self,
        output: &mut BytesMut,
        reason: CloseReason,
        reference: Option<ByteString>,
    ) {
        let (true, Some(code)) = (self.is_v5(), disconnect_code(reason)) else { return };
        let (old, new) = (
            || v3::Packet::Disconnect,
            |server_reference| {
                v5::Packet::Disconnect(v5::Disconnect { server_reference, ..v5::Disconnect::new(code) })
            },
        );
        let fits = reference.is_some() && self.put(output, old, || new(reference));
        if !fits {
            self.put(output, old, || new(None));
        }
    }

    pub fn put_pong(&mut self, output: &mut BytesMut) -> bool {
        self.put(output, || v3::Packet::PingResponse, || v5::Packet::PingResponse)
    }

    /// PUBACK, or PUBREC if `received`. What does not fit of a note is left out, the reason first.
    pub fn put_ack(
        &mut self,
        output: &mut BytesMut,
        packet_id: NonZeroU16,
        received: bool,
        code: AckCode,
        note: Option<Box<AckNote>>,
    ) -> bool {
        let old = || match received {
            false => v3::Packet::PublishAck { packet_id },
            true => v3::Packet::PublishReceived { packet_id },
        };
        let new = |note: Option<Box<AckNote>>| {
            let note = note.map(|n| *n).unwrap_or_default();
            let ack = v5::PublishAck {
                packet_id,
                reason_code: ack_code(code),
                properties: note.properties,
                reason_string: note.reason_string,
            };
            if received { v5::Packet::PublishReceived(ack) } else { v5::Packet::PublishAck(ack) }
        };
        // Whether the client wants a note at all (Request Problem Information) the codec knows.
        let note = note.map(|note| fitting(note, self.packet_bytes));
        let noted = note.is_some();
        self.put(output, old, || new(note)) || (noted && self.put(output, old, || new(None)))
    }

    /// Writes PUBCOMP; false if it does not fit the client's bound.
    pub fn put_complete(&mut self, output: &mut BytesMut, packet_id: NonZeroU16) -> bool {
        self.put(
            output,
            || v3::Packet::PublishComplete { packet_id },
            || v5::Packet::PublishComplete(v5::PublishAck2 { packet_id, ..Default::default() }),
        )
    }

    pub fn put_subscribed(
        &mut self,
        output: &mut BytesMut,
        packet_id: NonZeroU16,
        granted: &[Granted],
    ) -> bool {
        let old = |g: &Granted| match g {
            Granted::Qos(qos) => v3::SubscribeReturnCode::Success(coded(*qos)),
            _ => v3::SubscribeReturnCode::Failure,
        };
        let new = |g: &Granted| match g {
            Granted::Qos(QoS::AtMostOnce) => v5::SubscribeAckReason::GrantedQos0,
            Granted::Qos(_) => v5::SubscribeAckReason::GrantedQos1,
            Granted::BadFilter => v5::SubscribeAckReason::TopicFilterInvalid,
            Granted::Shared => v5::SubscribeAckReason::SharedSubscriptionNotSupported,
            Granted::Identified => v5::SubscribeAckReason::SubscriptionIdentifiersNotSupported,
            Granted::Quota => v5::SubscribeAckReason::QuotaExceeded,
        };
        self.put(
            output,
            || v3::Packet::SubscribeAck { packet_id, status: granted.iter().map(old).collect() },
            || {
                v5::Packet::SubscribeAck(v5::SubscribeAck {
                    packet_id,
                    properties: Vec::new(),
                    reason_string: None,
                    status: granted.iter().map(new).collect(),
                })
            },
        )
    }

    /// `held`: of each filter, whether it was subscribed to.
    pub fn put_unsubscribed(&mut self, output: &mut BytesMut, packet_id: NonZeroU16, held: &[bool]) -> bool {
        let status = |&held: &bool| match held {
            true => v5::UnsubscribeAckReason::Success,
            false => v5::UnsubscribeAckReason::NoSubscriptionExisted,
        };
        self.put(
            output,
            || v3::Packet::UnsubscribeAck { packet_id },
            || {
                v5::Packet::UnsubscribeAck(v5::UnsubscribeAck {
                    packet_id,
                    properties: Vec::new(),
                    reason_string: None,
                    status: held.iter().map(status).collect(),
                })
            },
        )
    }

    pub fn put_delivery(
        &mut self,
        output: &mut BytesMut,
        delivery: &mqtt::Delivery,
        packet_id: Option<NonZeroU16>,
    ) -> bool {
        let publish = Box::new(Publish {
            dup: false,
            retain: false,
            qos: coded(if packet_id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce }),
            topic: delivery.topic.clone(),
            packet_id,
            payload: delivery.payload.clone(),
            properties: None,
        });
        match self.codec {
            Codec::V5(_) => self.put(output, || v3::Packet::PingResponse, || v5::Packet::Publish(publish)),
            _ => self.put(output, || v3::Packet::Publish(publish), || v5::Packet::PingResponse),
        }
    }
}

/// The note without its reason string, if an acknowledgement of this many bytes has no room for it.
fn fitting(mut note: Box<AckNote>, packet_bytes: u32) -> Box<AckNote> {
    const HEAD_BYTES: usize = 5 + 2 + 1 + 4;
    let properties = note.properties.iter().map(|(key, value)| key.len() + value.len() + 5).sum::<usize>();
    let reason = note.reason_string.as_ref().map_or(0, |reason| reason.len() + 3);
    if HEAD_BYTES + properties + reason > packet_bytes as usize {
        note.reason_string = None;
    }
    note
}

fn ack_code(code: AckCode) -> v5::PublishAckReason {
    match code {
        AckCode::Kept => v5::PublishAckReason::Success,
        AckCode::NoSubscribers => v5::PublishAckReason::NoMatchingSubscribers,
        AckCode::Unspecified => v5::PublishAckReason::UnspecifiedError,
        AckCode::ImplementationSpecific => v5::PublishAckReason::ImplementationSpecificError,
        AckCode::NotAuthorized => v5::PublishAckReason::NotAuthorized,
        AckCode::TopicNameInvalid => v5::PublishAckReason::TopicNameInvalid,
        AckCode::QuotaExceeded => v5::PublishAckReason::QuotaExceeded,
        AckCode::PayloadFormatInvalid => v5::PublishAckReason::PayloadFormatInvalid,
    }
}

/// Copies, so that what lives as long as the connection does not keep a read buffer alive.
fn own(text: &ByteString) -> ByteString {
    ByteString::from(text.to_string())
}

fn from_v3(packet: v3::Packet, level: u8) -> Packet {
    match packet {
        v3::Packet::Connect(c) => {
            let will = c.last_will.map(|w| Will {
                topic: own(&w.topic),
                payload: Bytes::copy_from_slice(&w.message),
                qos: decoded(w.qos),
                delay_s: 0,
            });
            let connect = mqtt::Connect {
                client_id: own(&c.client_id),
                version: if level == 3 { Version::V31 } else { Version::V311 },
                clean: c.clean_session,
                expiry_s: if c.clean_session { 0 } else { u32::MAX },
                keepalive_s: c.keep_alive,
                will,
                username: c.username.as_ref().map(own),
                password: c.password,
            };
            let outbound = Outbound { window_entries: u16::MAX, packet_bytes: u32::MAX, auth: false };
            Packet::Connect(Box::new(connect), outbound)
        }
        v3::Packet::Publish(p) => Packet::Publish(p),
        v3::Packet::PublishAck { packet_id } => Packet::Acked(packet_id),
        v3::Packet::PublishRelease { packet_id } => Packet::Release(packet_id),
        v3::Packet::Subscribe { packet_id, topic_filters } => Packet::Subscribe {
            packet_id,
            filters: topic_filters.into_iter().map(|(filter, qos)| (filter, decoded(qos), false)).collect(),
            identified: false,
        },
        v3::Packet::Unsubscribe { packet_id, topic_filters } => {
            Packet::Unsubscribe { packet_id, filters: topic_filters }
        }
        v3::Packet::PingRequest => Packet::Ping,
        v3::Packet::Disconnect => Packet::Disconnect { with_will: false, expiry_s: None },
        _ => Packet::Misplaced(MISPLACED),
    }
}

fn from_v5(packet: v5::Packet) -> Packet {
    match packet {
        v5::Packet::Connect(c) => {
            let will = c.last_will.map(|w| Will {
                topic: own(&w.topic),
                payload: Bytes::copy_from_slice(&w.message),
                qos: decoded(w.qos),
                delay_s: w.will_delay_interval_sec.unwrap_or(0),
            });
            let connect = mqtt::Connect {
                client_id: own(&c.client_id),
                version: Version::V5,
                clean: c.clean_start,
                expiry_s: c.session_expiry_interval_secs,
                keepalive_s: c.keep_alive,
                will,
                username: c.username.as_ref().map(own),
                password: c.password,
            };
            let outbound = Outbound {
                window_entries: c.receive_max.map_or(u16::MAX, NonZeroU16::get),
                packet_bytes: c.max_packet_size.map_or(u32::MAX, |n| n.get()),
                auth: c.auth_method.is_some(),
            };
            Packet::Connect(Box::new(connect), outbound)
        }
        v5::Packet::Publish(p) => Packet::Publish(p),
        v5::Packet::PublishAck(a) => Packet::Acked(a.packet_id),
        v5::Packet::PublishRelease(a) => Packet::Release(a.packet_id),
        v5::Packet::Subscribe(s) => Packet::Subscribe {
            packet_id: s.packet_id,
            filters: s.topic_filters.into_iter().map(|(f, o)| (f, decoded(o.qos), o.no_local)).collect(),
            identified: s.id.is_some(),
        },
        v5::Packet::Unsubscribe(u) => {
            Packet::Unsubscribe { packet_id: u.packet_id, filters: u.topic_filters }
        }
        v5::Packet::PingRequest => Packet::Ping,
        v5::Packet::Disconnect(d) => Packet::Disconnect {
            with_will: d.reason_code != v5::DisconnectReasonCode::NormalDisconnection,
            expiry_s: d.session_expiry_interval_secs,
        },
        _ => Packet::Misplaced(MISPLACED),
    }
}

/// The reason code of MQTT 5's DISCONNECT; none where there is no one to tell.
fn disconnect_code(reason: CloseReason) -> Option<v5::DisconnectReasonCode> {
    use v5::DisconnectReasonCode as Code;
    Some(match reason {
        CloseReason::Disconnected
        | CloseReason::DisconnectedWithWill
        | CloseReason::Gone
        | CloseReason::NoConnect
        | CloseReason::NoSeat
        | CloseReason::NoSeatForAddress
        | CloseReason::Refused(_) => {
            return None;
        }
        CloseReason::KeepAlive => Code::KeepAliveTimeout,
        CloseReason::Malformed(_) => Code::MalformedPacket,
        CloseReason::Protocol(_) => Code::ProtocolError,
        CloseReason::TopicName => Code::TopicNameInvalid,
        CloseReason::TopicAlias => Code::TopicAliasInvalid,
        CloseReason::PacketTooLarge => Code::PacketTooLarge,
        CloseReason::SlowConsumer | CloseReason::Quota => Code::QuotaExceeded,
        CloseReason::TakenOver => Code::SessionTakenOver,
        CloseReason::ShuttingDown => Code::ServerShuttingDown,
        CloseReason::Busy => Code::ServerBusy,
        CloseReason::NotAuthorized => Code::NotAuthorized,
        CloseReason::Administrative => Code::AdministrativeAction,
        CloseReason::UseAnotherServer => Code::UseAnotherServer,
    })
}

/// A QoS as the codec has it.
fn coded(qos: QoS) -> types::QoS {
    match qos {
        QoS::AtMostOnce => types::QoS::AtMostOnce,
        QoS::AtLeastOnce => types::QoS::AtLeastOnce,
        QoS::ExactlyOnce => types::QoS::ExactlyOnce,
    }
}

/// A QoS of the codec's.
pub(super) fn decoded(qos: types::QoS) -> QoS {
    match qos {
        types::QoS::AtMostOnce => QoS::AtMostOnce,
        types::QoS::AtLeastOnce => QoS::AtLeastOnce,
        types::QoS::ExactlyOnce => QoS::ExactlyOnce,
    }
}
