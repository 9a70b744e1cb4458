//! The events that an MQTT connection hands to its application, and the application's answers.

mod closing;

pub use closing::{CloseReason, Refusal};

use crate::topic::{Filter, MAX_TOPIC_BYTES, MAX_TOPIC_LEVELS_ENTRIES};
use bytes::Bytes;
use bytestring::ByteString;
use std::fmt;
use std::num::NonZeroU16;

/// The longest client id, in bytes.
pub const MAX_CLIENT_ID_BYTES: usize = 256;

/// What a queued message counts beyond its topic and its payload.
pub const QUEUED_OVERHEAD_BYTES: usize = 128;

/// How surely a message arrives (MQTT 5, section 4.3), from the least to the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum QoS {
    /// 0: once, or never.
    AtMostOnce,
    /// 1: acknowledged; once, or several times.
    AtLeastOnce,
    /// 2: acknowledged twice; once.
    ExactlyOnce,
}

impl From<QoS> for u8 {
    fn from(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce => 1,
            QoS::ExactlyOnce => 2,
        }
    }
}

/// Which MQTT a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1, level 3 (`MQIsdp`).
    V31,
    /// MQTT 3.1.1, level 4.
    V311,
    /// MQTT 5, level 5.
    V5,
}

/// From the connection up to the application.
#[derive(Debug, Clone, PartialEq)]
pub enum Inbound {
    /// A client wants in; answered by [`Answer::Accept`] or [`Answer::Refuse`]. Always the first event, and only once.
    Connect(Box<Connect>),
    /// The client published. QoS 1 and 2 are answered by [`Answer::Ack`] with the token; QoS 0 takes no answer.
    Publish(Publish),
    /// The client published more than a bound that waiting can't lift; answered as a publish.
    Oversize(Box<Oversize>),
    /// PUBREL: it will not send the QoS 2 publish with this packet id again. Answered by [`Answer::Ack`] with the
    /// token, once that may be forgotten. The packet id may be of a publish of an earlier connection.
    Release {
        /// Names it in the answer.
        token: u64,
        /// Of the QoS 2 publish.
        packet_id: NonZeroU16,
    },
    /// The client subscribes. Answered by [`Answer::Subscribed`] with the token; SUBACK waits for that. A filter that it holds
    /// already is replaced.
    Subscribe {
        /// Names it in the answer: counted from 1, apart from the tokens of publishes.
        token: u64,
        /// At least one, in the client's order.
        subscriptions: Vec<Subscription>,
    },
    /// The client gives up filters that it holds. Answered by [`Answer::Unsubscribed`] with the token; UNSUBACK waits for that.
    Unsubscribe {
        /// As in [`Inbound::Subscribe`], with which it shares the count.
        token: u64,
        /// At least one, in the client's order.
        filters: Vec<Filter>,
    },
    /// The connection is over. The last event; comes after each [`Inbound::Connect`], accepted or not.
    Closed(Box<Closed>),
}

/// What a client says in CONNECT.
#[derive(Clone, PartialEq)]
pub struct Connect {
    /// At most [`MAX_CLIENT_ID_BYTES`]; may be empty, and then [`Accept::assigned_client_id`] must be given.
    pub client_id: ByteString,
    pub version: Version,
    /// Clean session (3.1.1) or clean start (5): what is stored of its session is discarded first.
    pub clean: bool,
    /// How long its session outlives the connection, in seconds: 0 is not at all, `u32::MAX` for ever.
    pub expiry_s: u32,
    /// The keep alive that counts, in seconds; 0 is none.
    pub keepalive_s: u16,
    /// What to publish for it if it goes without DISCONNECT; given back in [`Closed`].
    pub will: Option<Will>,
    pub username: Option<ByteString>,
    pub password: Option<Bytes>,
}

impl fmt::Debug for Connect {
    /// Leaves the password out: events are logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("client_id", &self.client_id)
            .field("version", &self.version)
            .field("clean", &self.clean)
            .field("expiry_s", &self.expiry_s)
            .field("keepalive_s", &self.keepalive_s)
            .field("will", &self.will)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "(hidden)"))
            .finish()
    }
}

/// What a client leaves to be published after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Will {
    /// A well-formed topic name.
    pub topic: ByteString,
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: QoS,
    /// MQTT 5: how long to wait before publishing it, in seconds.
    pub delay_s: u32,
}

/// A PUBLISH. Topic and payload are slices of the read buffer: what is kept for long should be copied, or it keeps
/// all of the buffer alive with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    /// Its running number in this connection, from 1 and shared with releases; names it in the answer.
    pub token: u64,
    /// A well-formed topic name; topic aliases are already resolved.
    pub topic: ByteString,
    pub payload: Bytes,
    /// 0, 1 or 2.
    pub qos: QoS,
    /// The client says that it may have sent it before.
    pub dup: bool,
    /// Always false: retained messages are not kept, and a publish that asks for it is taken as a plain one.
    pub retain: bool,
    /// None at QoS 0.
    pub packet_id: Option<NonZeroU16>,
}

impl Publish {
    /// What it counts for bounds, in bytes.
    pub fn cost_bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + QUEUED_OVERHEAD_BYTES
    }
}

/// A PUBLISH that is larger than a bound, without its payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Oversize {
    /// As in [`Publish`], with which it shares the count.
    pub token: u64,
    /// Its topic, cut to the bounds of a topic.
    pub topic: ByteString,
    /// How long its payload was, in bytes.
    pub payload_bytes: u64,
    /// 0, 1 or 2.
    pub qos: QoS,
    /// The client says that it may have sent it before.
    pub dup: bool,
    /// None at QoS 0.
    pub packet_id: Option<NonZeroU16>,
    pub why: TooLarge,
}

/// What of a publish is larger than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// Its topic has too many bytes.
    #[error("its topic has {0} bytes, {MAX_TOPIC_BYTES} are allowed")]
    TopicBytes(usize),
    /// Its topic has too many levels.
    #[error("its topic has more than {MAX_TOPIC_LEVELS_ENTRIES} levels")]
    TopicLevels,
    /// It is larger than `max_packet_bytes`.
    #[error("its packet has {bytes} bytes, {most} are allowed (max_packet_bytes)")]
    Packet { bytes: u64, most: u32 },
}

/// What a client listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub filter: Filter,
    /// The greatest QoS: 0 or 1.
    pub qos: QoS,
    /// MQTT 5: not to be given its own publishes.
    pub no_local: bool,
}

impl Subscription {
    /// QoS in bits 0 and 1, no-local in bit 2: for those who store subscriptions.
    pub fn options(&self) -> u8 {
        u8::from(self.qos) | u8::from(self.no_local) << 2
    }

    /// From stored parts; unknown bits are ignored, QoS above 1 counts as 1.
    pub fn from_options(filter: Filter, options: u8) -> Self {
        let qos = if options & 3 == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        Self { filter, qos, no_local: options & 4 != 0 }
    }
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    pub reason: CloseReason,
    /// To be published now: the client had been accepted, left a will and did not take it back.
    pub will: Option<Will>,
    /// MQTT 5: DISCONNECT changed how long the session outlives the connection, in seconds.
    pub expiry_s: Option<u32>,
    /// QoS 1 deliveries that the client has not acknowledged, oldest first: some were sent, some were not.
    pub undelivered: Vec<Delivery>,
}

/// From the application down to the connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To [`Inbound::Connect`]: come in.
    Accept(Box<Accept>),
    /// To [`Inbound::Connect`]: no. The connection closes.
    Refuse(Refusal),
    /// To [`Inbound::Publish`] and [`Inbound::Release`]. In any order: the connection answers the client in the order
    /// in which the client sent. A token that is unknown, or answered already, is ignored.
    Ack(Ack),
    /// To [`Inbound::Subscribe`]: SUBACK may leave.
    Subscribed {
        /// The token of the event that this answers; an unknown one is ignored.
        token: u64,
        /// Which of the subscriptions, by their index, a bound refuses.
        refused: Vec<usize>,
    },
    /// To [`Inbound::Unsubscribe`]: UNSUBACK may leave.
    Unsubscribed {
        /// The token of the event that this answers; an unknown one is ignored.
        token: u64,
    },
}

/// How a client comes in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Accept {
    /// The client continues a stored session.
    pub session_present: bool,
    /// The client id, if the client gave none. At most [`MAX_CLIENT_ID_BYTES`].
    pub assigned_client_id: Option<ByteString>,
    /// MQTT 5: how long the session outlives the connection, in seconds, if it is not what the client asked for.
    pub expiry_s: Option<u32>,
    /// What the stored session subscribes to. No [`Inbound::Subscribe`] comes for these.
    pub subscriptions: Vec<Subscription>,
}

/// The answer to a publish or a release.
#[derive(Debug, Clone, PartialEq)]
pub struct Ack {
    /// The token of the event that this answers.
    pub token: u64,
    /// The outcome, as a reason code.
    pub code: AckCode,
    /// More for an MQTT 5 client; left out where it does not fit, or the client does not want it.
    pub note: Option<Box<AckNote>>,
}

impl Ack {
    /// A plain success, without a note.
    pub fn kept(token: u64) -> Self {
        Self { token, code: AckCode::Kept, note: None }
    }

    /// A failure with its reason. (MQTT 3 has no way to say so: such a client gets a plain acknowledgement.)
    pub fn refused(token: u64, code: AckCode, why: impl Into<ByteString>) -> Self {
        let note = AckNote { reason_string: Some(why.into()), properties: Vec::new() };
        Self { token, code, note: Some(Box::new(note)) }
    }

    /// Adds a reason string for MQTT 5 clients.
    pub fn saying(mut self, why: impl Into<ByteString>) -> Self {
        self.note.get_or_insert_default().reason_string = Some(why.into());
        self
    }

    /// Adds the user property `receipt` for MQTT 5 clients.
    pub fn with_receipt(mut self, receipt: impl Into<ByteString>) -> Self {
        let note = self.note.get_or_insert_default();
        note.properties.push((ByteString::from_static("receipt"), receipt.into()));
        self
    }
}

/// More about an acknowledgement.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AckNote {
    /// For people: the reason in words.
    pub reason_string: Option<ByteString>,
    /// For programs: user properties, name and value.
    pub properties: Vec<(ByteString, ByteString)>,
}

/// The reason code of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckCode {
    /// 0x00: the publish is accepted.
    Kept,
    /// 0x10: a success, but nobody subscribes, and nothing was kept.
    NoSubscribers,
    /// 0x80: none of the others says it.
    Unspecified,
    /// 0x83: will do no better the next time.
    ImplementationSpecific,
    /// 0x87: the client may not publish this.
    NotAuthorized,
    /// 0x90: the topic is not accepted here.
    TopicNameInvalid,
    /// 0x97: some bound is reached.
    QuotaExceeded,
    /// 0x99: the payload does not decode.
    PayloadFormatInvalid,
}

impl AckCode {
    /// Whether the code is a failure, which ends the exchange at QoS 2.
    pub fn is_failure(self) -> bool {
        !matches!(self, Self::Kept | Self::NoSubscribers)
    }
}

/// A message on its way to a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// A well-formed topic name.
    pub topic: ByteString,
    pub payload: Bytes,
    /// 0 or 1; 2 counts as 1.
    pub qos: QoS,
}

impl Delivery {
    /// What it counts against bounds in bytes.
    pub fn cost_bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + QUEUED_OVERHEAD_BYTES
    }
}
