//! What actors say to each other, a file for each receiver. An actor knows the messages it sends and holds a `Recipient` of
//! each; only [`crate::actors::wiring`] knows which actor is behind it.
//!
//! All recipients of one actor lead into its one mailbox, so what one sender puts in arrives in that order, whatever kinds of
//! messages it is. What bounds their number is in the table of [`crate::actors`].

pub mod forwarder;
pub mod log;
pub mod shard;
pub mod switch;
pub mod uplink;
