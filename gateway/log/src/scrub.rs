//! Slowly reads again what lies on disk, so that rot is noticed while peers still have what it destroyed.
//!
//! One round reads every segment of the log, the newest snapshot of each group and every batch, and compares them with
//! their checksums. It runs beside the threads that write, takes no lock and changes nothing. What it reports is a
//! suspicion, which the owner of the file verifies:
//!
//! - The units of a segment never change below the log's end. The log says beforehand where the units of each segment
//!   end, and how many there are ([`Extent`]). A segment with fewer intact units is rotten, if the log still has it.
//! - A snapshot gets its name when it is complete, and is removed when a newer one has got its own. The store checks
//!   again one that is not intact.
//! - A batch's file is written under its final name, so it may be half written or just removed. The store, which does
//!   both, checks again. It also knows which files should be there and are not.
//!
//! Invariant: everything is read from the disk. The cached pages of a file are dropped before and afterwards, so that a
//! scrub neither trusts the page cache nor fills it.
//! Limits: memory holds [`CHUNK_BYTES`](super::disk::CHUNK_BYTES) of a stored file, or one unit of the log, and the
//! numbers of one group's batches.
//!
//! A round goes file by file ([`Scrubber::step`]), so that a simulation can run everything else in between.

use super::batches;
use super::disk::Disk;
use super::form::{HEADER_BYTES, HeaderRead, LogIdentity};
use super::segment::{self, Segment, SegmentFinding};
use super::snapshots;
use super::stored;
use selvedge_fabric::record::Suspect;
use selvedge_types::canary::{self, Canary};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The content of a segment in numbers, as the log itself reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub segment: u64,
    /// All units end at or below this byte.
    pub end: u32,
    /// The number of intact units.
    pub units: u64,
    /// Whether its header is intact.
    pub header: bool,
}

/// Reads the files that a gateway keeps, folder by folder.
pub struct Scrubber {
    pub log: Arc<dyn Disk>,
    pub snapshots: Arc<dyn Disk>,
    pub batches: Arc<dyn Disk>,
    /// The identity that all files must carry.
    pub identity: LogIdentity,
}

/// The files of a round that are still to be read.
pub struct ScrubRound {
    /// In reverse order: the last one is read next.
    left: Vec<Unread>,
    /// The folder of the batches that are read next.
    folder: Option<Arc<dyn Disk>>,
}

enum Unread {
    Segment(Extent),
    Snapshots,
    Snapshot { group: u16, slot: u64 },
    Batches,
    Folder(String),
    Batch { group: u16, seq: u64 },
}

impl ScrubRound {
    /// A round over a log with these segments, and over all snapshots and batches.
    pub fn new(extents: &[Extent]) -> Self {
        let segments = extents.iter().rev().copied().map(Unread::Segment);
        let left = [Unread::Batches, Unread::Snapshots].into_iter().chain(segments).collect();
        Self { left, folder: None }
    }
}

impl Scrubber {
    /// Runs one round. `pace` is called with the number of bytes that were just read and returns when more may be read;
    /// `tell` is called with what may be rotten.
    pub fn round(&self, extents: &[Extent], pace: &mut dyn FnMut(u64), tell: &mut dyn FnMut(Suspect)) {
        let mut round = ScrubRound::new(extents);
        while self.step(&mut round, pace, tell) {}
    }

    /// Reads the next file of a round, or lists a folder. [`Scrubber::round`] calls this until it returns false:
    /// nothing was left.
    pub fn step(
        &self,
        round: &mut ScrubRound,
        pace: &mut dyn FnMut(u64),
        tell: &mut dyn FnMut(Suspect),
    ) -> bool {
        let Some(next) = round.left.pop() else { return false };
        let suspect = match next {
            Unread::Segment(extent) => {
                self.is_rotten(&extent, pace).then_some(Suspect::Segment(extent.segment))
            }
            Unread::Snapshots => {
                round.left.extend(self.newest_snapshots().into_iter().rev());
                None
            }
            Unread::Snapshot { group, slot } => {
                let label = snapshots::label(&self.identity, group, slot);
                let name = snapshots::name_of(group, slot);
                let whole = label.is_whole(self.snapshots.as_ref(), &name, pace);
                (!whole).then_some(Suspect::Snapshot { group, slot })
            }
            Unread::Batches => {
                let names = self.batches.folders().unwrap_or_default();
                round.left.extend(names.into_iter().rev().map(Unread::Folder));
                None
            }
            Unread::Folder(name) => self.folder(&name, round),
            Unread::Batch { group, seq } => {
                let label = batches::label(&self.identity, group, seq);
                let is_rotten =
                    |folder: &Arc<dyn Disk>| !label.is_whole(folder.as_ref(), &batches::name_of(seq), pace);
                round.folder.as_ref().is_some_and(is_rotten).then_some(Suspect::Batch { group, seq })
            }
        };
        let passes_over = canary::makes(Canary::ScrubPassesOver);
        suspect.filter(|what| !passes_over || matches!(what, Suspect::Folder(_))).into_iter().for_each(tell);
        true
    }

    /// Whether a segment has lost its header or some of its units. A segment that was trimmed is not rotten.
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
        let mut visit = |found: SegmentFinding<'_>| match found {
            SegmentFinding::Unit(_, head, _) => {
                units += 1;
                pace(head.unit_bytes());
            }
            SegmentFinding::Bad(from, to, _) => pace(u64::from(to.saturating_sub(from))),
        };
        let walked = segment.walk(HEADER_BYTES, extent.end, &mut 0, &mut visit).is_ok();
        if let Ok(file) = self.log.open(&name) {
            file.forget_cached();
        }
        walked && (headless || units < extent.units)
    }

    fn newest_snapshots(&self) -> Vec<Unread> {
        let names = self.snapshots.list().unwrap_or_default();
        let mut newest: BTreeMap<u16, u64> = BTreeMap::new();
        for (group, slot) in names.iter().filter_map(|name| snapshots::parse(name)) {
            let known = newest.entry(group).or_default();
            *known = slot.max(*known);
        }
        newest.into_iter().map(|(group, slot)| Unread::Snapshot { group, slot }).collect()
    }

    /// Puts the folder's batches next in the round. The folder itself is a suspect, because any of its batches may have
    /// no file.
    fn folder(&self, name: &str, round: &mut ScrubRound) -> Option<Suspect> {
        let group = stored::group_of(name)?;
        let folder = self.batches.folder(name).ok()?;
        let names = folder.list().unwrap_or_default();
        let seqs = names.iter().rev().filter_map(|name| batches::seq_of(name));
        round.left.extend(seqs.map(|seq| Unread::Batch { group, seq }));
        round.folder = Some(folder);
        Some(Suspect::Folder(group))
    }
}

impl std::fmt::Debug for ScrubRound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScrubRound").field("left", &self.left.len()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scrubber").finish_non_exhaustive()
    }
}
