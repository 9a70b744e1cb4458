//! The marks of replicas: which groups have a replica on this gateway, and which replicas were given up, in a small file
//! beside the log's folder.
//!
//! The log can't show everything that a restart must know. Once the records of a replica are gone (because the log is
//! lost, or because the replica was given up and its records were trimmed), nothing would tell a gateway that it has
//! voted in this group. It would make a voter without memory. So there is a mark for each group:
//!
//! - [`ReplicaMark::Held`]: a replica is here and may have voted. If nothing of it is on disk, it is lost, and counts as damaged.
//! - [`ReplicaMark::GivenUp`]: the replica has left its group for good, and its data may be deleted. Whatever is still on disk is
//!   deleted at the next start. A later replica votes in no configuration up to the one that the mark names.
//!
//! A mark is on disk before what follows from it: `Held` before the first record of the replica, and `GivenUp` before
//! anything of it is deleted. The file is replaced as a whole:
//!
//! ```text
//! 0 the head of a stored file, 64 (see `stored.rs`), of group 0 and number 0
//! 64 version 1 | 65 complete 1 | 66 marks 2 | then for each mark, in the order of the groups:
//!    group 2 | kind 1 (0 held, 1 given up) | configuration 4
//! ```
//!
//! A data folder of a release without marks has no such file. Its marks follow from what is on disk. Those of replicas of
//! which nothing is left can't be known, if the log is damaged, and neither can the marks of a file that has rotted. Then
//! the file is not `complete`, and stays so: a replica that is made without a mark may follow a lost one.
//!
//! Invariant: what another release wrote refuses to start, and nothing is changed.
//! Limits: one mark for each group, at most [`MAX_MARKS_ENTRIES`]. Somebody who deletes the file alone deletes the marks of
//! replicas that were given up; nothing shows that.

use super::disk::Disk;
use super::error::LogError;
use super::form::LogIdentity;
use super::stored::Label;
use selvedge_fabric::ring::MAX_SHARDS;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// The file's name, in the gateway's data folder.
pub const MARKS_NAME: &str = "replica-marks";
/// The most marks: one of each shard, and one of the directory group.
pub const MAX_MARKS_ENTRIES: usize = MAX_SHARDS as usize + 1;

const MAKING_NAME: &str = "replica-marks-making.tmp";
const MAGIC: &[u8; 8] = b"SelvgMrk";
const VERSION: u8 = 1;
const MARK_BYTES: usize = 7;
const MAX_CONTENT_BYTES: u64 = (4 + MARK_BYTES * MAX_MARKS_ENTRIES) as u64;

/// What is known of a group's replica on this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaMark {
    /// It is here, and votes in no configuration up to `silent_until`; 0 if it is here since its group began.
    Held { silent_until: u32 },
    /// It was given up. No replica on this gateway may vote in a configuration up to `through` any more.
    GivenUp { through: u32 },
}

impl ReplicaMark {
    /// The configuration up to which a replica that is made now must not vote.
    fn configuration(self) -> u32 {
        let (Self::Held { silent_until: it } | Self::GivenUp { through: it }) = self;
        it
    }
}

/// What was found of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Whole,
    Absent,
    Damaged,
}

/// The marks of one gateway.
pub struct ReplicaMarks {
    disk: Arc<dyn Disk>,
    identity: LogIdentity,
    found: Found,
    complete: bool,
    marks: BTreeMap<u16, ReplicaMark>,
}

impl ReplicaMarks {
    /// Reads the marks in a data folder, and changes nothing. A damaged file has none.
    ///
    /// # Errors
    /// [`LogError::Version`], [`LogError::Unreadable`], [`LogError::Foreign`], [`LogError::Io`].
    pub fn read(disk: Arc<dyn Disk>, identity: LogIdentity) -> Result<Self, LogError> {
        let label = label(&identity);
        let (found, complete, marks) = match label.read(disk.as_ref(), MARKS_NAME, MAX_CONTENT_BYTES) {
            Ok(content) => {
                let (complete, marks) = decode(&disk.describe(MARKS_NAME), &content)?;
                (Found::Whole, complete, marks)
            }
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                (Found::Absent, true, BTreeMap::new())
            }
            Err(e @ LogError::Damaged { .. }) => {
                tracing::error!("{e}");
                (Found::Damaged, false, BTreeMap::new())
            }
            Err(e) => return Err(e),
        };
        Ok(Self { disk, identity, found, complete, marks })
    }

    /// The mark of a group.
    pub fn get(&self, group: u16) -> Option<ReplicaMark> {
        self.marks.get(&group).copied()
    }

    /// The groups that have a replica here.
    pub fn held(&self) -> impl Iterator<Item = u16> + '_ {
        self.marks
            .iter()
            .filter(|(_, mark)| matches!(mark, ReplicaMark::Held { .. }))
            .map(|(group, _)| *group)
    }

    /// The groups whose replica was given up, each with the configuration up to which no later one votes.
    pub fn given_up(&self) -> impl Iterator<Item = (u16, u32)> + '_ {
        self.marks.iter().filter_map(|(group, mark)| match mark {
            ReplicaMark::GivenUp { through } => Some((*group, *through)),
            ReplicaMark::Held { .. } => None,
        })
    }

    /// Whether the file has rotted: replicas may be missing, and groups may have been given up.
    pub fn is_damaged(&self) -> bool {
        self.found == Found::Damaged
    }

    /// Whether every replica that was ever here has a mark.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Marks the replicas with which a process begins. With `forgets`, some may be lost of which nothing is left: that
    /// counts only for a folder without marks.
    ///
    /// # Errors
    /// [`LogError::Full`]; [`LogError::Io`]: what the disk holds is unknown.
    pub fn begin(&mut self, groups: impl IntoIterator<Item = u16>, forgets: bool) -> Result<(), LogError> {
        let mut marks = self.marks.clone();
        for group in groups {
            marks.entry(group).or_insert(ReplicaMark::Held { silent_until: 0 });
        }
        if self.found == Found::Absent && forgets {
            self.complete = false;
        }
        if self.found != Found::Whole || marks != self.marks {
            self.save(marks)?;
        }
        Ok(())
    }

    /// Marks, durably, that a replica of the group is made here. It votes in no configuration up to `silent_until`.
    ///
    /// # Errors
    /// [`LogError::Full`], which changes nothing; [`LogError::Io`]: what the disk holds is unknown.
    pub fn hold(&mut self, group: u16, silent_until: u32) -> Result<(), LogError> {
        let silent_until = self.at_least(group, silent_until);
        self.set(group, ReplicaMark::Held { silent_until })
    }

    /// Marks, durably, that the group's replica is given up, while `through` is the group's latest configuration.
    ///
    /// # Errors
    /// [`LogError::Full`], which changes nothing; [`LogError::Io`]: what the disk holds is unknown.
    pub fn give_up(&mut self, group: u16, through: u32) -> Result<(), LogError> {
        let through = self.at_least(group, through);
        self.set(group, ReplicaMark::GivenUp { through })
    }

    fn at_least(&self, group: u16, configuration: u32) -> u32 {
        configuration.max(self.get(group).map_or(0, ReplicaMark::configuration))
    }

    fn set(&mut self, group: u16, mark: ReplicaMark) -> Result<(), LogError> {
        let mut marks = self.marks.clone();
        if marks.insert(group, mark) == Some(mark) {
            return Ok(());
        }
        self.save(marks)
    }

    /// Puts all marks into a new file, which takes the place of the old one once it is durable.
    fn save(&mut self, marks: BTreeMap<u16, ReplicaMark>) -> Result<(), LogError> {
        let content = encode(self.complete, &marks);
        let (bytes, limit) = (content.len() as u64, MAX_CONTENT_BYTES);
        if bytes > limit {
            return Err(LogError::TooLarge { what: "the list of replicas", bytes, limit });
        }
        let write = || {
            let mut file = self.disk.create(MAKING_NAME)?;
            label(&self.identity).write(file.as_mut(), &content)?;
            file.sync()?;
            self.disk.rename(MAKING_NAME, MARKS_NAME)?;
            self.disk.sync_folder()
        };
        write().map_err(|e| LogError::io("saving", &self.disk.describe(MARKS_NAME), e))?;
        (self.found, self.marks) = (Found::Whole, marks);
        Ok(())
    }
}

fn label(identity: &LogIdentity) -> Label<'_> {
    Label { magic: MAGIC, identity, group: 0, number: 0 }
}

fn encode(complete: bool, marks: &BTreeMap<u16, ReplicaMark>) -> Vec<u8> {
    let mut out = vec![VERSION, complete.into()];
    out.extend((marks.len() as u16).to_le_bytes());
    for (group, mark) in marks {
        out.extend(group.to_le_bytes());
        out.push(matches!(mark, ReplicaMark::GivenUp { .. }).into());
        out.extend(mark.configuration().to_le_bytes());
    }
    out
}

fn decode(shown: &str, content: &[u8]) -> Result<(bool, BTreeMap<u16, ReplicaMark>), LogError> {
    let unreadable = |why: &str| LogError::Unreadable { name: shown.to_string(), why: why.to_string() };
    let (head, rest) = content.split_first_chunk::<4>().ok_or_else(|| unreadable("it is too short"))?;
    let [version, complete, count @ ..] = *head;
    if version != VERSION {
        let name = shown.to_string();
        return Err(LogError::Version { name, found: version.into(), known: VERSION.into() });
    }
    let mut marks = BTreeMap::new();
    for entry in rest.chunks(MARK_BYTES) {
        let mark = match *entry {
            [a, b, kind @ 0..=1, c, d, e, f] => {
                let (group, configuration) = (u16::from_le_bytes([a, b]), u32::from_le_bytes([c, d, e, f]));
                let mark = match kind {
                    0 => ReplicaMark::Held { silent_until: configuration },
                    _ => ReplicaMark::GivenUp { through: configuration },
                };
                (group, mark)
            }
            _ => return Err(unreadable("a mark does not decode")),
        };
        marks.insert(mark.0, mark.1);
    }
    let sound = complete <= 1 && marks.len() == usize::from(u16::from_le_bytes(count));
    // Groups in order, each once, and nothing else: what is written again has the same bytes.
    if !sound || encode(complete == 1, &marks) != content {
        return Err(unreadable("its marks contradict each other"));
    }
    Ok((complete == 1, marks))
}

impl std::fmt::Debug for ReplicaMarks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaMarks").field("marks", &self.marks).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    const IDENTITY: LogIdentity = *b"site-a gateway-1";

    fn marks(disk: &MemoryDisk) -> Result<ReplicaMarks, LogError> {
        ReplicaMarks::read(Arc::new(disk.clone()), IDENTITY)
    }

    fn disk() -> MemoryDisk {
        MemoryDisk::new(1 << 20)
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let disk = disk();
        let mut written = marks(&disk).unwrap();
        written.begin([2, 0xFFFF], true).unwrap();
        written.hold(0x0102, 0x0304_0506).unwrap();
        written.give_up(2, 7).unwrap();
        let bytes = disk.bytes(MARKS_NAME).unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&bytes[..16]), "53656c76674d726b01000000be829acf");
        assert_eq!(
            hex(&bytes[64..]),
            "01000300".to_string() + "02000107000000" + "02010006050403" + "ffff0000000000"
        );
        let read = marks(&disk.image()).unwrap();
        assert_eq!(read.marks, written.marks);
        assert!(!read.is_complete() && !read.is_damaged());
    }

    #[test]
    fn what_was_marked_is_there_after_a_power_cut_and_no_later_replica_votes_where_an_earlier_one_did() {
        let disk = disk();
        let mut written = marks(&disk).unwrap();
        written.begin([1, 2], false).unwrap();
        assert_eq!(written.get(1), Some(ReplicaMark::Held { silent_until: 0 }));
        written.give_up(1, 5).unwrap();
        written.hold(3, 4).unwrap();
        let mut read = marks(&disk.crash(crate::Crash::Lost)).unwrap();
        assert_eq!(read.held().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(read.given_up().collect::<Vec<_>>(), [(1, 5)]);
        assert!(read.is_complete());
        read.hold(1, 4).unwrap();
        assert_eq!(read.get(1), Some(ReplicaMark::Held { silent_until: 5 }), "an order from an old copy");
        read.give_up(1, 1).unwrap();
        assert_eq!(read.get(1), Some(ReplicaMark::GivenUp { through: 5 }));
    }

    #[test]
    fn a_folder_without_marks_is_complete_unless_its_log_forgets_and_a_rotten_file_is_not() {
        for forgets in [false, true] {
            let disk = disk();
            marks(&disk).unwrap().begin([1], forgets).unwrap();
            assert_eq!(marks(&disk).unwrap().is_complete(), !forgets);
            // Later damage of the log is no reason: the file has every replica.
            marks(&disk).unwrap().begin([1], true).unwrap();
            assert_eq!(marks(&disk).unwrap().is_complete(), !forgets);
        }
        let disk = disk();
        marks(&disk).unwrap().begin([1], false).unwrap();
        for byte in 0..disk.bytes(MARKS_NAME).unwrap().len() {
            let rotten = disk.image();
            rotten.meddle(MARKS_NAME, |bytes| bytes[byte] ^= 4);
            let mut read = marks(&rotten).unwrap_or_else(|e| panic!("byte {byte}: {e}"));
            assert!(read.is_damaged() && !read.is_complete(), "byte {byte}");
            read.begin([1], false).unwrap();
            assert!(!marks(&rotten).unwrap().is_complete());
        }
    }

    #[test]
    fn marks_of_another_release_or_gateway_are_refused() {
        let write = |identity: &LogIdentity, content: &[u8]| {
            let disk = disk();
            let mut file = disk.create(MARKS_NAME).unwrap();
            label(identity).write(file.as_mut(), content).unwrap();
            marks(&disk).map(|_| ()).unwrap_err()
        };
        let none = encode(true, &BTreeMap::new());
        assert!(matches!(write(&[9; 16], &none), LogError::Foreign { .. }));
        assert!(matches!(write(&IDENTITY, &[2, 1, 0, 0]), LogError::Version { found: 2, .. }));
        let one = |kind| [1, 1, 1, 0, 5, 0, kind, 1, 0, 0, 0];
        for content in [&none[..3], &one(2), &one(0)[..9], &[1, 2, 0, 0], &[1, 1, 1, 0]] {
            let error = write(&IDENTITY, content);
            assert!(matches!(error, LogError::Unreadable { .. }), "{content:?}: {error}");
        }
    }

    #[test]
    fn without_room_nothing_changes() {
        let disk = disk();
        let mut written = marks(&disk).unwrap();
        written.begin([1], false).unwrap();
        disk.set_capacity(1);
        assert!(written.give_up(1, 3).unwrap_err().is_full());
        assert_eq!(written.get(1), Some(ReplicaMark::Held { silent_until: 0 }));
        disk.set_capacity(1 << 20);
        written.give_up(1, 3).unwrap();
        assert_eq!(marks(&disk).unwrap().get(1), Some(ReplicaMark::GivenUp { through: 3 }));
    }
}
