//! The record of connections that ended or were refused, for operators.
//!
//! A line in the log names client, address, reason, topic, size and the setting that bounds it. Lines are limited by reason
//! ([`selvedge_guard::log_limit`]), so that clients that come and go in a loop, or strangers, can't fill a disk.

use bytestring::ByteString;
use selvedge_guard::log_limit::SharedLogLimit;
use selvedge_types::mqtt::{CloseReason, Version};
use std::fmt;
use std::net::SocketAddr;

/// The longest part of a topic that a record shows, in bytes.
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
    /// A packet at fault, with its topic cut to what a record shows.
    pub fn new(topic: &str, bytes: u64) -> Self {
        Self { topic: topic[..topic.floor_char_boundary(SHOWN_TOPIC_BYTES)].into(), bytes }
    }
}

/// How a connection ended, or that it was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Departure {
    pub peer: SocketAddr,
    /// Its client id; nothing if it never said CONNECT, empty if it gave none and was given none.
    pub client_id: Option<ByteString>,
    /// Which MQTT it spoke; nothing if it never said CONNECT.
    pub version: Option<Version>,
    pub reason: CloseReason,
    /// For which packet, if for one.
    pub culprit: Option<Box<Culprit>>,
    /// How long it lasted, in milliseconds.
    pub lasted_ms: u64,
    pub traffic: Traffic,
}

impl Departure {
    /// A connection that got no seat.
    pub fn refused(peer: SocketAddr, reason: CloseReason) -> Self {
        let (lasted_ms, traffic) = (0, Traffic::default());
        Self { peer, client_id: None, version: None, reason, culprit: None, lasted_ms, traffic }
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
