//! The IO: one actor per mailbox, each a thin adapter around a core of [`crate::logic`].

pub mod arriving;
pub mod clock;
pub mod departures;
pub mod forwarder;
pub mod front;
pub mod fullness;
pub mod http;
pub mod link;
pub mod log;
pub mod orders;
mod pulse;
pub mod quarantine;
pub mod report;
pub mod room;
mod scrub;
pub mod shard;
pub mod supervisor;
pub mod switch;
pub mod uplink;
pub mod wiring;
