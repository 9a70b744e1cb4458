//! What a gateway keeps on disk, as one: the log, the snapshots and the contents of uplink batches, around the files of
//! [`crate::wal`]. No threads and no actors: the log's actor runs it, and so do the tests that simulate whole sites.
//!
//! The protocol: [`read`] reads the log and changes nothing, and [`Found::open`] makes replicas of what was found. Then [`Desk`] carries
//! between the shards, the log and the store: it gathers what shards want written ([`crate::logic::commit`]), and says what the log
//! ([`LogKeeper`]) and the store ([`Stores`]) are to do next. Both do one piece of work at a time, in the order in which it was
//! given, on threads of their own, so that a snapshot does not hold up a commit.
//!
//! Invariant: a shard hears that a token is on disk only when the write that holds it, and every earlier one, was synced.
//! Invariant: the log is trimmed below a slot only when a snapshot through it is durable, with every content that it lists.
//! Invariant: what another release wrote is never treated as damage: opening is refused, and nothing is changed.
//! Invariant: an error that may not be retried ends the process: what was not acknowledged was not promised, and what was is
//! on disk. A full disk is no such error.

mod desk;
mod keeper;
mod open;

pub use desk::{Desk, Errand, LogFigures};
pub use keeper::{Done, Kept, LogKeeper, LogWork, Stores};
pub use open::{Folders, Found, OpenError, Opened, ReplicaSettings, read};
