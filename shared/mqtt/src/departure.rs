//! How connections end, and that some are refused: what an operator is told of each.
//!
//! A line in the log names client, address, reason, topic, size and the setting that bounds it. Lines are limited by reason
//! ([`crate::log_limit`]), so that clients that come and go in a loop, or strangers, can't fill a disk.

use super::event::{CloseReason, Refusal, Version};
use crate::log_limit::SharedLogLimit;
use bytestring::ByteString;
use std::fmt;
use std::net::SocketAddr;

/// The most that is told of a topic, in bytes.
pub const SHOWN_TOPIC_BYTES: usize = 120;

/// What a connection has carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Publishes of the client.
    pub publishes_in: u64,
    /// Publishes for the client.
    pub publishes_out: u64,
    /// Bytes that were read, of packets of all kinds.
    pub bytes_in: u64,
    /// Bytes that were written.
    pub bytes_out: u64,
}

/// The packet for which a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Culprit {
    /// Its topic, at most [`SHOWN_TOPIC_BYTES`] of it; empty if it has none, or none that can be read.
    pub topic: ByteString,
    /// How large it is, in bytes.
    pub bytes: u64,
}

impl Culprit {
    /// One with so much of its topic as is told.
    pub fn new(topic: &str, bytes: u64) -> Self {
        Self { topic: topic[..topic.floor_char_boundary(SHOWN_TOPIC_BYTES)].into(), bytes }
    }
}

/// How a connection ended, or that it was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Departure {
    /// The client's address.
    pub peer: SocketAddr,
    /// Its client id; nothing if it never said CONNECT, empty if it gave none and was given none.
    pub client_id: Option<ByteString>,
    /// Which MQTT it spoke; nothing if it never said CONNECT.
    pub version: Option<Version>,
    /// Why it ended.
    pub reason: CloseReason,
    /// For which packet, if for one.
    pub culprit: Option<Box<Culprit>>,
    /// How long it lasted, in milliseconds.
    pub lasted_ms: u64,
    /// What it carried.
    pub traffic: Traffic,
}

impl Departure {
    /// A connection that got no seat.
    pub fn refused(peer: SocketAddr, reason: CloseReason) -> Self {
        let (lasted_ms, traffic) = (0, Traffic::default());
        Self { peer, client_id: None, version: None, reason, culprit: None, lasted_ms, traffic }
    }
}

impl CloseReason {
    /// Its name in metrics and lists: one of few.
    pub fn label(self) -> &'static str {
        match self {
            Self::Disconnected => "disconnected",
            Self::DisconnectedWithWill => "disconnected_with_will",
            Self::Gone => "gone",
            Self::KeepAlive => "keep_alive",
            Self::NoConnect => "no_connect",
            Self::Refused(refusal) => refusal.label(),
            Self::Malformed(_) => "malformed",
            Self::Protocol(_) => "protocol_error",
            Self::TopicName => "topic_name",
            Self::TopicAlias => "topic_alias",
            Self::PacketTooLarge => "packet_too_large",
            Self::SlowConsumer => "slow_consumer",
            Self::TakenOver => "taken_over",
            Self::ShuttingDown => "shutting_down",
            Self::Busy => "busy",
            Self::Quota => "quota",
            Self::NotAuthorized => "not_authorized",
            Self::Administrative => "administrative",
            Self::NoSeat => "no_seat",
            Self::NoSeatForAddress => "no_seat_for_address",
        }
    }

    /// The bound of [`super::Limits`] or [`super::ListenerConfig`] that the client has met, by its name there.
    pub fn bound(self) -> Option<&'static str> {
        Some(match self {
            Self::KeepAlive => "max_keepalive_s",
            Self::NoConnect => "connect_wait_ms",
            Self::PacketTooLarge => "max_packet_bytes",
            Self::SlowConsumer => "delivery_queue_bytes",
            Self::NoSeat => "max_connections",
            Self::NoSeatForAddress => "max_connections_per_address",
            _ => return None,
        })
    }
}

impl Refusal {
    /// Its name in metrics and lists: one of few.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "refused_unavailable",
            Self::Busy => "refused_busy",
            Self::ClientId => "refused_client_id",
            Self::BadCredentials => "refused_bad_credentials",
            Self::NotAuthorized => "refused_not_authorized",
            Self::Quota => "refused_quota",
            Self::AuthMethod => "refused_auth_method",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "the client said goodbye",
            Self::DisconnectedWithWill => "the client said goodbye and wants its will published",
            Self::Gone => "the client's end went away without a word",
            Self::KeepAlive => "nothing was heard of the client for one and a half of its keep alive",
            Self::NoConnect => "no CONNECT came in time",
            Self::Refused(Refusal::Unavailable) => "refused: the site can't let it in now",
            Self::Refused(Refusal::Busy) => "refused: the site has too much to do, or no room",
            Self::Refused(Refusal::ClientId) => "refused: the client id can't be used",
            Self::Refused(Refusal::BadCredentials) => "refused: unknown user name or wrong password",
            Self::Refused(Refusal::NotAuthorized) => "refused: not allowed",
            Self::Refused(Refusal::Quota) => "refused: its will is larger than a bound",
            Self::Refused(Refusal::AuthMethod) => "refused: enhanced authentication is not supported",
            Self::Malformed(what) => return write!(f, "no MQTT: {what}"),
            Self::Protocol(what) => return write!(f, "against the protocol: {what}"),
            Self::TopicName => "it published to something that is no topic name",
            Self::TopicAlias => "it used a topic alias that is 0, too high or unknown",
            Self::PacketTooLarge => "it sent a packet that is larger than the limit",
            Self::SlowConsumer => "it subscribes and does not read fast enough",
            Self::TakenOver => "the same client id connected anew",
            Self::ShuttingDown => "this process ends",
            Self::Busy => "this process has too much to do",
            Self::Quota => "it used up what it may",
            Self::NotAuthorized => "it may not do that",
            Self::Administrative => "an operator ended it",
            Self::NoSeat => "refused: too many connections are open",
            Self::NoSeatForAddress => "refused: its address has too many connections",
        })
    }
}

/// Writes departures into the log, a few for each reason.
#[derive(Debug, Default)]
pub struct DepartureLog(SharedLogLimit);

impl DepartureLog {
    /// Notes one. `setting` is what bounds the client, as an operator would set it.
    pub fn note(&self, departure: &Departure, setting: Option<&str>) {
        self.sweep();
        let Some(left_out) = self.0.note(departure.reason.label()) else { return };
        let Departure { peer, reason, lasted_ms, .. } = departure;
        let client = departure.client_id.as_deref().unwrap_or("(no CONNECT)");
        let about = About(departure, setting);
        tracing::info!(client, %peer, lasted_ms, "an MQTT connection ended: {reason}{about}{left_out}");
    }

    /// Says how many were left out of reasons that do not come any more. To be called now and then.
    pub fn sweep(&self) {
        for (reason, left_out) in self.0.ended() {
            tracing::info!(reason, "MQTT connections ended{left_out}");
        }
    }
}

/// What of a departure stands behind its reason.
struct About<'a>(&'a Departure, Option<&'a str>);

impl fmt::Display for About<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(departure, setting) = self;
        if let Some(culprit) = &departure.culprit {
            write!(f, "; {} bytes", culprit.bytes)?;
            if !culprit.topic.is_empty() {
                write!(f, ", topic {:?}", &*culprit.topic)?;
            }
        }
        setting.map_or(Ok(()), |setting| write!(f, "; bounded by {setting}"))
    }
}
