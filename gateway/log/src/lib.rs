//! The durable log: one sequence of segment files per gateway, shared by all its groups. It knows bytes and checksums,
//! and nothing of Paxos.
//!
//! # Writing
//!
//! [`Log::append`] encodes a batch of [`LogRecord`](selvedge_fabric::record::LogRecord)s as one *unit* (a long one as
//! several) and writes it at the log's end; [`Log::sync`] makes it durable with one `fdatasync`. A unit carries a
//! *mark*: the position below which everything was known to be durable when the unit was made. Segments are
//! preallocated, so that an fdatasync changes no file length, and so that the log notices a full disk early, when it
//! can't claim the next segment (the *reserve*). The log seals a segment (its last unit lists the groups in it) and
//! syncs it before the next one gets its first unit.
//!
//! # Reading
//!
//! Below the highest surviving mark everything must be a valid unit. Anything else there is corruption: the log reports
//! the groups that may have been in it, and reads on behind it. Above that mark, the first thing that is not a valid
//! unit is a torn write, and the log is cut there. Units above the mark may exist only in the page cache: the log
//! writes them again, to a new segment, and syncs that before [`Log::open`] returns. Reading ([`Log::read`]) comes
//! first and changes nothing, so that a release that can't read the files leaves them as they are. See `recovery.rs`
//! for the steps and `form.rs` for the bytes.
//!
//! # Trimming
//!
//! [`Log::trim`] removes segments from the front, once snapshots cover what every group has in them. Records of slot 0
//! are *state records* (a promise, a commit index): only the newest of a group and kind matters. The log keeps those in
//! memory, and before it removes a segment it writes again those that are nowhere else. So a reader may meet a state
//! record a second time, behind younger records; the last one of a group and kind is the newest.
//!
//! [`Log::forget`] voids a group's records altogether, by a record that later openings find. That record is removed with
//! its segment, hence after all that it voids.
//!
//! # Invariants
//!
//! - What was durable when [`Log::sync`] returned is given to the visitor of every later [`Log::open`], in order, or
//!   its group is reported as damaged. There is one exception: a flipped bit in the batch written last, which no mark
//!   covers yet, can't be told from a torn write. ([`Log::close`] covers that batch.)
//! - Only a failed checksum is damage. Intact bytes of another version, or that do not decode, are an error, and
//!   nothing is written.
//! - A visitor is given only what was appended, and nothing from behind a torn write.
//! - Damage stays reported until [`Log::repaired`], and until then trimming does not remove the evidence. A repair
//!   covers the places that were known when it was made: later rot is reported anew.
//! - After a failed fsync, or a write that failed for another reason than room, the log refuses every further call.
//!
//! # Its end
//!
//! A floor is kept outside of the log's folder (`floor.rs`). A log that ends below it has lost records, possibly of
//! every group: the folder was emptied, or the last segment is gone or cut short. The segment in which such a log
//! continues says so in its header, so that the loss stays reported until it is repaired.
//!
//! # Reading while it is written
//!
//! Another thread reads what a peer lacks from the segments while the log is being written ([`LogReader`]);
//! [`Log::stretch`] says where to begin. A pin ([`Log::pin`]) holds trimming back meanwhile.
//!
//! # Limits
//!
//! The log can't notice that the whole data folder is an older copy; peers notice it by the starts that they know. A
//! unit whose head is destroyed, in a segment without a seal, counts as damage of all groups. A sector that can't be
//! read counts as zeros. Segments are never overwritten in place: that would spare the file system's journal some
//! writes, but then old content would have to be distinguished from new.
//!
//! Left out: compression, encryption (left to the disk), threads, and an index: the log is read as a whole once, at the
//! start, and later in stretches.
//!
//! # Sources
//!
//! The mark is the idea of "known flushed" positions that tell torn tails from corruption, in R. Alagappan et al.,
//! "Protocol-Aware Recovery for Consensus-Based Storage" (FAST 2018). For why a failed fsync is final, see A. Rebello
//! et al., "Can Applications Recover from fsync Failures?" (USENIX ATC 2020).

pub mod batches;
mod begin;
mod damage;
mod disk;
mod error;
mod floor;
mod form;
mod found;
mod log;
mod marks;
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
pub use form::{LogIdentity, MAX_PAYLOAD_BYTES, MAX_STATE_PAYLOAD_BYTES};
pub use found::Recovery;
pub use log::{Log, LogOptions, MAX_PINNED_SEGMENTS, MIN_SEGMENT_BYTES, OldestSegment, ReadLog, Room, Stats};
pub use marks::{MARKS_NAME, MAX_MARKS_ENTRIES, ReplicaMark, ReplicaMarks};
pub use memory::{Crash, Faults, MemoryDisk};
pub use reader::LogReader;
pub use scrub::{Extent, ScrubRound, Scrubber};
pub use snapshots::{PinnedSnapshot, SnapshotStore};
