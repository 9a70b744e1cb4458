//! Everything that a gateway keeps on disk: the log, the snapshots and the contents of uplink batches. There are no
//! threads and no actors here: the log's actor runs this module, and so do the tests that simulate whole sites.
//!
//! [`read`] reads the log and changes nothing, and [`ReadStorage::open`] makes replicas of what was found.
//! [`new_replica`] makes one later, of a shard that moves here. Then
//! [`StorageDesk`] carries between the shards, the log and the store: it gathers the records that shards want written
//! ([`selvedge_fabric::commit`]), and decides what the log ([`LogKeeper`]) and the store ([`Stores`]) do next. Each of
//! these does one piece of work at a time, in the order given, on a thread of its own, so that a snapshot does not
//! delay a commit. A third thread encodes states as snapshots ([`selvedge_fabric::replica::Encoding`]): that takes long
//! for a large state, and neither heartbeats nor the store's other work wait for it.
//!
//! Replicas elsewhere that fell behind are served from here, with chosen values from the log (`chosen.rs`) or a
//! snapshot in pieces. Only a few are served at a time, and what they need stays on disk (`transfers.rs`). The log's
//! thread only says where records lie; the store's thread reads them.
//!
//! A replica that has left its shard is given up ([`StorageDesk::give_up`]) in this order, and each step may be repeated:
//! its mark is on disk; the log forgets its records; the store deletes its files. Only then may the shard get another
//! replica here.
//!
//! Invariant: a shard learns that a token is on disk only when the write that holds it, and every earlier one, was
//! synced.
//! Invariant: the log is trimmed below a slot only when a snapshot through it is durable, with every content that it
//! lists.
//! Invariant: what is given out as chosen was chosen (`chosen.rs`).
//! Invariant: what another release wrote is never treated as damage: opening is refused, and nothing is changed.
//! Invariant: an error that may not be retried ends the process. What was not acknowledged was not promised, and the
//! rest is on disk. A full disk is not such an error.

mod chosen;
mod desk;
mod keeper;
mod open;
mod succession;
mod transfers;

pub use desk::{Errand, LogFigures, MEASURE_MS, StorageDesk};
pub use keeper::{Done, FileKind, LogKeeper, LogSize, LogWork, Stores};
pub use open::{Folders, OpenError, Opened, ReadStorage, ReplicaSettings, new_replica, read};
pub use succession::{Succeeding, succeed};
pub use transfers::{MAX_TRANSFERS_ENTRIES, STALLED_MS, TRANSFER_MS};
