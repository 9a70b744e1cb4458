//! The messages between actors, one file for each receiver. An actor knows the messages that it sends and holds a
//! `Recipient` of each; only [`crate::actors::wiring`] knows which actor is behind it.
//!
//! All recipients of one actor lead into its one mailbox, so the messages of one sender arrive in order, whatever their
//! kinds. The table in [`crate::actors`] says what bounds their number.

use actix::Message;
use selvedge_fabric::ring::Ring;
use std::sync::Arc;

pub mod admission;
pub mod describer;
pub mod forwarder;
pub mod host;
pub mod log;
pub mod shard;
pub mod steward;
pub mod switch;
pub mod uplink;

/// Replicas have moved: whoever sends to shards follows them to where this ring has them.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct PlacementChanged(pub Arc<Ring>);
