//! The durable log: one segmented file sequence per gateway for all its groups. Bytes and checksums, nothing of Paxos.
//!
//! **Writing.** [`Log::append`] encodes a batch of [`LogRecord`]s as one *unit* (or as several, if it is long) and writes it at the
//! log's end; [`Log::sync`] makes it durable with one `fdatasync`. A unit carries a *mark*: the position below which all
//! was known to be durable when the unit was made. Segments are preallocated, so that an fdatasync moves no file length and
//! a full disk is noticed ahead, when the next segment (the *reserve*) can't be claimed. A segment is sealed (its last unit
//! lists the groups in it) and synced before the next one gets its first unit.
//!
//! **Reading.** Below the highest surviving mark everything must be a valid unit. What is not is corruption: the groups that may
//! have been in it are reported, and reading goes on behind it. Above that mark the first thing that is not a valid unit is
//! a torn write, and the log is cut there. What stood above the mark may be page cache that never reached the disk: it is
//! written again, to a new segment, and synced before [`Log::open`] returns. Reading ([`Log::read`]) comes first and changes
//! nothing, so that a release which can't read what is there leaves it as it is. See `recovery.rs`; the bytes are in
//! `form.rs`.
//!
//! **Trimming.** [`Log::trim`] removes segments in front, once every group said that a snapshot covers what they hold of it.
//! Records of slot 0 are *state records* (a promise, a commit index): only the newest of a group and kind matters. The log
//! keeps those in memory and writes those that are nowhere else again before it removes a segment. So a reader may meet a
//! state record a second time, behind records that are younger; among those of its group and kind the last is the newest.
//!
//! Invariant: what was durable when [`Log::sync`] returned is given to the visitor of every later [`Log::open`], in order, or its
//! group is reported as damaged; short of that one exception: a flip in the batch written last, which no mark covers yet, can't
//! be told from a tear. ([`Log::close`] covers it.)
//! Invariant: only what its checksum does not cover is damage. What is whole and of another version, or does not decode, is an
//! error, and nothing is written.
//! Invariant: nothing is given to a visitor that was not appended, and nothing from behind a tear.
//! Invariant: damage stays reported until [`Log::repaired`], and no trimming removes the evidence before. A repair counts for the
//! places that were known when it was made: what rots later is reported anew.
//! Invariant: after a failed fsync, or a write that failed for another reason than room, the log does nothing more.
//!
//! **Its end.** A floor is kept outside of the log's folder (`floor.rs`): a log that ends below it has lost records of any group, be the
//! folder emptied, the last segment gone or cut short. The segment that goes on from there says so in its header, so
//! that this stays reported until it is repaired.
//!
//! **Limits.** It can't see that the whole data folder is an older copy: peers see that by the starts they know. A unit whose head is destroyed in a segment without a seal concerns all
//! groups. A sector that can't be read counts as zeros. Segments are never overwritten in place: that would spare the
//! file system's journal some writes, but old content would have to be told from new.
//!
//! **Reading again.** What a peer lacks is read from the segments while the log is written ([`LogReader`]), from where
//! [`Log::stretch`] says. A pin ([`Log::pin`]) holds trimming back for it.
//!
//! Left out: compression, encryption (the disk's), threads, an index: the log is read whole once, at the start, and in stretches later.
//!
//! Sources: the mark is the idea of "known flushed" positions that tell torn tails from corruption in R. Alagappan et al.,
//! "Protocol-Aware Recovery for Consensus-Based Storage" (FAST 2018); why a failed fsync is final: A. Rebello et al., "Can
//! Applications Recover from fsync Failures?" (USENIX ATC 2020).

pub mod batches;
mod begin;
mod damage;
mod disk;
mod error;
mod floor;
mod form;
mod found;
mod log;
mod memory;
mod reader;
mod recovery;
mod scrub;
mod segment;
pub mod snapshots;
pub mod storage;
mod stored;

pub use batches::BatchStore;
pub use damage::Groups;
pub use disk::{CHUNK_BYTES, Disk, DiskFile, RealDisk};
pub use error::LogError;
pub use floor::{FLOOR_NAME, Floor};
pub use form::{Identity, MAX_PAYLOAD_BYTES, MAX_STATE_PAYLOAD_BYTES};
pub use found::Recovery;
pub use log::{
    Log, LogSettings, MAX_PINNED_SEGMENTS, MIN_SEGMENT_BYTES, OldestSegment, ReadLog, Room, Stats,
};
pub use memory::{Crash, Faults, MemoryDisk};
pub use reader::LogReader;
pub use scrub::{Extent, ScrubRound, Scrubber};
pub use snapshots::{PinnedSnapshot, SnapshotStore};
