//! Reading again what lies on disk, slowly, so that rot shows while peers still have what it took.
//!
//! One round reads every segment of the log, the newest snapshot of each group and every batch, and holds them against their checksums. It
//! runs beside the threads that write, asks them for no lock and changes nothing. What it names is a suspicion, for whoever owns the file to judge:
//!
//! - The units of a segment never change below the log's end. The log says beforehand where those of each segment end, and how many they
//!   are ([`Extent`]); a segment with fewer whole ones is rotten, if the log still has it.
//! - A snapshot gets its name when it is whole, and goes when a newer one has got its own. The store looks again at one that is not whole.
//! - A batch's file is written under its name, and may be half written or just removed. The store, which does both, looks again. It also knows
//!   which files should be there and are not.
//!
//! Invariant: what is read comes from the disk: what the system has cached of a file is dropped before, and afterwards, so that a scrub neither
//! believes the cache nor fills it.
//! Limits: in memory are [`CHUNK_BYTES`] of a stored file, or one unit of the log.

use super::batches;
use super::disk::Disk;
use super::form::{HEADER_BYTES, HeaderRead, Identity};
use super::segment::{self, Found, Segment};
use super::snapshots;
use super::stored;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How much of a snapshot or a batch is read at a time.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// What a segment of the log holds, by the log's own account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The segment's number.
    pub segment: u64,
    /// Its units end below this byte.
    pub end: u32,
    /// How many whole units there are.
    pub units: u64,
    /// Its header is whole.
    pub header: bool,
}

/// What may be rotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspect {
    /// A segment of the log.
    Segment(u64),
    /// A group's snapshot.
    Snapshot {
        /// The group.
        group: u16,
        /// Its slot.
        slot: u64,
    },
    /// A batch.
    Batch {
        /// The group.
        group: u16,
        /// Its number.
        seq: u64,
    },
    /// Any of a group's batches, by having no file.
    Folder(u16),
}

/// Reads what a gateway keeps.
pub struct Scrubber {
    /// The log's folder.
    pub log: Arc<dyn Disk>,
    /// That of snapshots.
    pub snapshots: Arc<dyn Disk>,
    /// That of batches.
    pub batches: Arc<dyn Disk>,
    /// Whose they are.
    pub identity: Identity,
}

impl Scrubber {
    /// One round. `pace` hears of bytes when they were read, and returns when more may be; `tell` hears of what may be rotten.
    pub fn round(&self, extents: &[Extent], pace: &mut dyn FnMut(u64), tell: &mut dyn FnMut(Suspect)) {
        for extent in extents {
            if self.is_rotten(extent, pace) {
                tell(Suspect::Segment(extent.segment));
            }
        }
        self.snapshots(pace, tell);
        self.batches(pace, tell);
    }

    /// Whether a segment has lost some of its units, or its header. One that was trimmed has not.
    fn is_rotten(&self, extent: &Extent, pace: &mut dyn FnMut(u64)) -> bool {
        let name = segment::name_of(extent.segment);
        let open = || {
            let file = self.log.open(&name)?;
            file.forget_cached();
            Segment::open(file, extent.segment, self.identity)
        };
        let Ok(mut segment) = open() else { return false };
        pace(HEADER_BYTES.into());
        let headless = extent.header && !matches!(segment.header, HeaderRead::Good(_));
        let mut units = 0;
        let mut visit = |found: Found<'_>| match found {
            Found::Unit(_, head, _) => {
                units += 1;
                pace(head.unit_bytes());
            }
            Found::Bad(from, to, _) => pace(u64::from(to.saturating_sub(from))),
        };
        let walked = segment.walk(HEADER_BYTES, extent.end, &mut 0, &mut visit).is_ok();
        if let Ok(file) = self.log.open(&name) {
            file.forget_cached();
        }
        walked && (headless || units < extent.units)
    }

    fn snapshots(&self, pace: &mut dyn FnMut(u64), tell: &mut dyn FnMut(Suspect)) {
        let names = self.snapshots.list().unwrap_or_default();
        let mut newest: BTreeMap<u16, u64> = BTreeMap::new();
        for (group, slot) in names.iter().filter_map(|name| snapshots::parse(name)) {
            let known = newest.entry(group).or_default();
            *known = slot.max(*known);
        }
        for (group, slot) in newest {
            let label = snapshots::label(&self.identity, group, slot);
            if !label.is_whole(self.snapshots.as_ref(), &snapshots::name_of(group, slot), pace) {
                tell(Suspect::Snapshot { group, slot });
            }
        }
    }

    fn batches(&self, pace: &mut dyn FnMut(u64), tell: &mut dyn FnMut(Suspect)) {
        for name in self.batches.folders().unwrap_or_default() {
            let Some(group) = stored::group_of(&name) else { continue };
            let Ok(folder) = self.batches.folder(&name) else { continue };
            tell(Suspect::Folder(group));
            let names = folder.list().unwrap_or_default();
            for seq in names.iter().filter_map(|name| batches::seq_of(name)) {
                let label = batches::label(&self.identity, group, seq);
                if !label.is_whole(folder.as_ref(), &batches::name_of(seq), pace) {
                    tell(Suspect::Batch { group, seq });
                }
            }
        }
    }
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scrubber").finish_non_exhaustive()
    }
}
