//! The durable log: one segmented file sequence per gateway for all its groups; bytes and checksums, nothing of Paxos.
//!
//! (essay follows)

pub mod damage;
pub mod disk;
mod error;
mod form;
mod log;
mod memory;
mod record;
mod recovery;
mod segment;

pub use damage::Groups;
pub use disk::{Disk, DiskFile, RealDisk};
pub use error::LogError;
pub use form::Identity;
pub use log::{
    Log, MAX_PAYLOAD_BYTES, MAX_STATE_PAYLOAD_BYTES, MIN_SEGMENT_BYTES, OldestSegment, Room, Settings, Stats,
};
pub use memory::{Crash, Faults, MemoryDisk};
pub use record::{Position, Record};
pub use recovery::Recovery;
