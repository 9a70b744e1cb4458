//! The reasons for which connections end or are refused.

use std::fmt;

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client said DISCONNECT.
    Disconnected,
    /// The client said DISCONNECT and wants its will published (or gave a failure as the reason).
    DisconnectedWithWill,
    /// The client's end went away without a word.
    Gone,
    /// The client was silent for 1.5 times its keep alive.
    KeepAlive,
    /// No CONNECT came in time.
    NoConnect,
    /// The application refused it, or did not answer in time.
    Refused(Refusal),
    /// Bytes that are no MQTT; what about them.
    Malformed(&'static str),
    /// MQTT that is not allowed here; what about it.
    Protocol(&'static str),
    /// A PUBLISH to something that is no topic name.
    TopicName,
    /// A topic alias that is 0, too high or unknown.
    TopicAlias,
    /// A packet larger than the limit.
    PacketTooLarge,
    /// It does not read: its QoS 1 deliveries reached their bound, or a write made no progress in time.
    SlowConsumer,
    /// A new connection took the client id over.
    TakenOver,
    ShuttingDown,
    /// This process has too much to do.
    Busy,
    /// The client reached a quota, such as its subscriptions.
    Quota,
    /// The client lacks the right.
    NotAuthorized,
    /// An operator wants it so.
    Administrative,
    /// The client should use another server: this one is being emptied.
    UseAnotherServer,
    /// All connections that there may be are open.
    NoSeat,
    /// The client's address has reached its share of the connections that are open now.
    NoSeatForAddress,
}

/// Why a CONNECT is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The site can't serve the client now: no majority of its gateways answers, for example.
    Unavailable,
    /// Too much to do.
    Busy,
    /// The client id can't be used.
    ClientId,
    /// Unknown user name or wrong password.
    BadCredentials,
    /// Known, but not allowed.
    NotAuthorized,
    /// What it asks to be kept (its will) is larger than a bound.
    Quota,
    /// MQTT 5's enhanced authentication was asked for.
    AuthMethod,
    /// The client should use another server: this one is being emptied, or has more than its share of clients.
    UseAnotherServer,
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
            Self::UseAnotherServer => "use_another_server",
            Self::NoSeat => "no_seat",
            Self::NoSeatForAddress => "no_seat_for_address",
        }
    }

    /// The bound of `selvedge-mqtt`'s `Limits` or `ListenerConfig` that the client has met, by its name there.
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
            Self::UseAnotherServer => "refused_use_another_server",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "the client disconnected",
            Self::DisconnectedWithWill => "the client disconnected and wants its will published",
            Self::Gone => "the connection broke without a DISCONNECT",
            Self::KeepAlive => "the client was silent for one and a half times its keep alive",
            Self::NoConnect => "no CONNECT came in time",
            Self::Refused(Refusal::Unavailable) => "refused: the site can't serve the client now",
            Self::Refused(Refusal::Busy) => "refused: the site has too much to do, or no room",
            Self::Refused(Refusal::ClientId) => "refused: the client id can't be used",
            Self::Refused(Refusal::BadCredentials) => "refused: unknown user name or wrong password",
            Self::Refused(Refusal::NotAuthorized) => "refused: not allowed",
            Self::Refused(Refusal::Quota) => "refused: its will is larger than a bound",
            Self::Refused(Refusal::AuthMethod) => "refused: enhanced authentication is not supported",
            Self::Refused(Refusal::UseAnotherServer) => "refused: it was sent to another gateway",
            Self::Malformed(what) => return write!(f, "not MQTT: {what}"),
            Self::Protocol(what) => return write!(f, "protocol error: {what}"),
            Self::TopicName => "it published to an invalid topic name",
            Self::TopicAlias => "it used a topic alias that is 0, too high or unknown",
            Self::PacketTooLarge => "it sent a packet that is larger than the limit",
            Self::SlowConsumer => "it does not read its subscriptions fast enough",
            Self::TakenOver => "a new connection has the same client id",
            Self::ShuttingDown => "this process is stopping",
            Self::Busy => "this process has too much to do",
            Self::Quota => "it exceeded its quota",
            Self::NotAuthorized => "it lacks the right to do that",
            Self::Administrative => "an operator ended it",
            Self::UseAnotherServer => "this gateway drains and sent it to another one",
            Self::NoSeat => "refused: too many connections are open",
            Self::NoSeatForAddress => "refused: its address has too many connections",
        })
    }
}
