//! What a gateway keeps on disk, as one: the log, the snapshots and the contents of uplink batches, around the files of
//! this crate. No threads and no actors: the log's actor runs it, and so do the tests that simulate whole sites.
//!
//! The protocol: [`read`] reads the log and changes nothing, and [`Found::open`] makes replicas of what was found. Then [`StorageDesk`] carries
//! between the shards, the log and the store: it gathers what shards want written ([`selvedge_fabric::commit`]), and says what the log
//! ([`LogKeeper`]) and the store ([`Stores`]) are to do next. Both do one piece of work at a time, in the order in which it was
//! given, on threads of their own, so that a snapshot does not hold up a commit. States are encoded as snapshots on a third one
//! ([`selvedge_fabric::replica::Encoding`]): of a large state that takes long, and neither heartbeats nor the store's other work wait for it.
//!
//! Replicas elsewhere that fell behind are served from here: of the log what was chosen (`chosen.rs`), or a snapshot in pieces; few at a time, and what
//! they need stays on disk (`transfers.rs`). The log's thread only says where things lie; the store's thread reads them.
//!
//! Invariant: a shard hears that a token is on disk only when the write that holds it, and every earlier one, was synced.
//! Invariant: the log is trimmed below a slot only when a snapshot through it is durable, with every content that it lists.
//! Invariant: what is given out as chosen was chosen (`chosen.rs`).
//! Invariant: what another release wrote is never treated as damage: opening is refused, and nothing is changed.
//! Invariant: an error that may not be retried ends the process: what was not acknowledged was not promised, and what was is
//! on disk. A full disk is no such error.

mod chosen;
mod desk;
mod keeper;
mod open;
mod transfers;

pub use desk::{Errand, LogFigures, StorageDesk};
pub use keeper::{Done, Kept, LogKeeper, LogWork, Stores};
pub use open::{Folders, Found, OpenError, Opened, ReplicaSettings, read};
pub use transfers::{MAX_TRANSFERS_ENTRIES, STALLED_MS, TRANSFER_MS};
