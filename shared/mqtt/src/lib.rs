//! The MQTT endpoint that gateway and node both embed: 3.1, 3.1.1 and 5 on one port.
//!
//! - [`connection`]: the protocol of one connection, without IO: bytes in, events up, answers down, bytes out.
//! - [`attendant`]: what one connection and its application have to do with each other, without IO: the program is an [`Application`].
//! - [`listener`]: sockets and one task a connection around it.
//! - [`credit`]: how many bytes of publishes all connections and their application hold.
//! - [`departure`]: the record of ended and refused connections, for operators.
//! - [`router`]: which connected subscribers a publish goes to.
//! - [`broker`]: a small application that is a plain live broker; [`inlet`]: what its program hears of it without being a client.
//!
//! What it does not have: retained messages, shared subscriptions, subscription identifiers, enhanced authentication,
//! QoS 2 towards subscribers (they are granted 1), and the properties of MQTT 5 publishes (content type, response
//! topic, user properties, expiry), which are read and not passed on. It stores nothing: sessions, and with them what
//! must survive a connection, are the application's.

mod answers;
pub mod attendant;
pub mod broker;
pub mod connection;
pub mod credit;
pub mod departure;
mod filters;
mod handle;
pub mod inlet;
mod lenient;
pub mod listener;
mod outgoing;
mod oversize;
pub mod router;
mod seats;
#[cfg(test)]
mod tests;
mod wire;

pub use attendant::{Application, Attendant, Reception, Wait};
pub use broker::Broker;
pub use connection::Connection;
pub use credit::{Charge, CreditPool, Loan};
pub use departure::{Culprit, Departure, DepartureLog, Traffic};
pub use filters::MAX_CONNECTION_FILTER_BYTES;
pub use handle::{Behind, FOLLOW_MS, Handle, NotDelivered};
pub use inlet::{Inlet, InletMessage};
pub use listener::Listener;
pub use router::Router;

use std::net::SocketAddr;

/// Where and how to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// The most connections at a time; a further one is closed as soon as it is accepted.
    pub max_connections: usize,
    /// The most connections of one client address at a time; see `seats` for what else bounds them.
    pub max_connections_per_address: usize,
    /// The bounds of each connection.
    pub limits: ConnectionLimits,
}

/// The most subscriptions of one connection.
pub const MAX_CONNECTION_FILTER_ENTRIES: usize = 1024;

/// What is read before it is written out that the client does not read: beyond it, nothing more is read of it.
pub const MAX_OUTPUT_BYTES: usize = 256 * 1024;

/// The most that one read takes from a socket.
pub const MAX_READ_BYTES: usize = 64 * 1024;

/// The most that [`ConnectionLimits::delivery_queue_bytes`] can be.
pub const MAX_DELIVERY_QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// What may wait for a subscriber in any case, whatever waits for others.
pub const QUEUE_OWN_BYTES: usize = 64 * 1024;

/// What may wait for all subscribers of a listener together beyond that.
pub const MAX_DELIVERIES_BYTES: usize = 32 * 1024 * 1024;

/// How long a client that is sent away may wait for the answers that it is owed.
pub const SEND_AWAY_WAIT_MS: u64 = 10_000;

/// The bounds of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// The largest packet that a client may send, without its fixed header. 1 and up.
    pub max_packet_bytes: u32,
    /// How many publishes (QoS 1 and 2) and releases the application may have unanswered. 1 and up. MQTT 5 clients
    /// are told it as Receive Maximum.
    pub max_inflight_entries: u16,
    /// How many bytes of publishes the application may have unanswered: one more is handed up while it is less.
    pub max_inflight_bytes: usize,
    /// What is parsed and kept beyond these, so that pings behind it are still answered; then reading stops.
    pub parked_bytes: usize,
    /// The most topic aliases of a client (MQTT 5).
    pub topic_alias_entries: u16,
    /// How long to wait for CONNECT, and then for the application's answer to it.
    pub connect_wait_ms: u64,
    /// The longest keep alive, which is that of clients that ask for none, too; 0 is any. MQTT 5 clients are told; older ones find
    /// out when nothing was heard of them for one and a half of it.
    pub max_keepalive_s: u16,
    /// How many QoS 1 deliveries may be unacknowledged by the client, which may ask for less (MQTT 5). 1 and up.
    pub max_unacked_entries: u16,
    /// How many deliveries may wait.
    pub delivery_queue_entries: usize,
    /// How many bytes of deliveries may wait, [`QUEUED_OVERHEAD_BYTES`] for each counted in.
    pub delivery_queue_bytes: usize,
    /// How long a write may make no progress.
    pub write_stall_ms: u64,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_packet_bytes: 256 * 1024,
            max_inflight_entries: 1024,
            max_inflight_bytes: 1024 * 1024,
            parked_bytes: 256 * 1024,
            topic_alias_entries: 32,
            connect_wait_ms: 10_000,
            max_keepalive_s: 3_600,
            max_unacked_entries: 128,
            delivery_queue_entries: 65_536,
            delivery_queue_bytes: 8 * 1024 * 1024,
            write_stall_ms: 15_000,
        }
    }
}
