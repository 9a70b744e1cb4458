//! The messages between actors, one file for each receiver. An actor knows the messages that it sends and holds a
//! `Recipient` of each; only [`crate::actors::wiring`] knows which actor is behind it.
//!
//! All recipients of one actor lead into its one mailbox, so the messages of one sender arrive in order, whatever their
//! kinds. The table in [`crate::actors`] says what bounds their number.

pub mod describer;
pub mod forwarder;
pub mod log;
pub mod shard;
pub mod switch;
pub mod uplink;
