//! The newest snapshot of each group: one checksummed file, which the next one replaces as a whole.
//!
//! Invariant: when [`SnapshotStore::save`] returns, the snapshot is durable under its name. Only then are older ones
//! removed, and only then may the log be trimmed below it. So if the newest one is damaged, an older one would not
//! help: the log no longer reaches back to it. A damaged snapshot is an error, and the group's state must come from a
//! peer.

use super::disk::{Disk, DiskFile};
use super::error::LogError;
use super::form::LogIdentity;
use super::stored::{self, HEAD_BYTES, Label};
use std::collections::BTreeSet;
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"SelvgSnp";
const MAKING_NAME: &str = "snapshot-making.tmp";

/// The default for the most bytes of a snapshot.
pub const DEFAULT_SNAPSHOT_BYTES: u64 = 64 * 1024 * 1024;

/// The snapshots of all groups, in a folder of their own.
pub struct SnapshotStore {
    disk: Arc<dyn Disk>,
    identity: LogIdentity,
    most_bytes: u64,
    poison: Option<String>,
}

impl SnapshotStore {
    /// Opens the store in `disk` and changes nothing there. `most_bytes` bounds what is saved and what is read.
    ///
    /// # Errors
    /// [`LogError::Io`] when the folder can't be read.
    pub fn open(disk: Arc<dyn Disk>, identity: LogIdentity, most_bytes: u64) -> Result<Self, LogError> {
        let store = Self { disk, identity, most_bytes, poison: None };
        store.names()?;
        Ok(store)
    }

    /// Removes the file that an interrupted save left behind.
    ///
    /// # Errors
    /// [`LogError::Io`].
    pub fn tidy(&self) -> Result<(), LogError> {
        match self.names()?.iter().any(|name| name == MAKING_NAME) {
            true => self.remove(MAKING_NAME),
            false => Ok(()),
        }
    }

    /// Durably stores the group's snapshot through `slot` (inclusive), and then removes those of lower slots. If a
    /// snapshot of a higher slot is stored already, nothing changes.
    ///
    /// # Errors
    /// [`LogError::TooLarge`], [`LogError::Full`] (the previous snapshot stays, nothing is left behind),
    /// [`LogError::Io`]; after a failed fsync every later call is [`LogError::Poisoned`].
    pub fn save(&mut self, group: u16, slot: u64, bytes: &[u8]) -> Result<(), LogError> {
        if let Some(why) = &self.poison {
            return Err(LogError::Poisoned { why: why.clone() });
        }
        let size = bytes.len() as u64;
        if size > self.most_bytes {
            return Err(LogError::TooLarge { what: "a snapshot", bytes: size, limit: self.most_bytes });
        }
        let kept = self.slots(group)?;
        if kept.last().is_some_and(|newest| *newest > slot) {
            return Ok(());
        }
        let name = name_of(group, slot);
        let shown = self.disk.describe(&name);
        let written = (|| {
            let mut file = self.disk.create(MAKING_NAME)?;
            file.preallocate(HEAD_BYTES as u64 + size)?;
            self.label(group, slot).write(file.as_mut(), bytes)?;
            Ok(file)
        })();
        let mut file = match written {
            Ok(file) => file,
            Err(e) => {
                // If the removal fails too, the next start does it.
                let _ = self.disk.remove(MAKING_NAME);
                return Err(LogError::io("saving", &shown, e));
            }
        };
        let named = file
            .sync()
            .and_then(|()| self.disk.rename(MAKING_NAME, &name))
            .and_then(|()| self.disk.sync_folder());
        if let Err(source) = named {
            let error = LogError::Io { doing: "syncing", name: shown, source };
            self.poison = Some(error.to_string());
            return Err(error);
        }
        for old in kept.into_iter().filter(|old| *old < slot) {
            self.remove(&name_of(group, old))?;
        }
        Ok(())
    }

    /// The newest snapshot of a group with its slot; `None` if the group has no snapshot.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Foreign`], [`LogError::Version`], [`LogError::Io`].
    pub fn load_newest(&self, group: u16) -> Result<Option<(u64, Vec<u8>)>, LogError> {
        let Some(slot) = self.slots(group)?.pop() else { return Ok(None) };
        let bytes =
            self.label(group, slot).read(self.disk.as_ref(), &name_of(group, slot), self.most_bytes)?;
        Ok(Some((slot, bytes)))
    }

    /// Like [`SnapshotStore::load_newest`], but `None` if the snapshot has more bytes than this.
    ///
    /// # Errors
    /// Those of [`SnapshotStore::load_newest`].
    pub fn load_short(&self, group: u16, most_bytes: u64) -> Result<Option<(u64, Vec<u8>)>, LogError> {
        let Some(slot) = self.newest(group)? else { return Ok(None) };
        let name = name_of(group, slot);
        let length = self.disk.open(&name).and_then(|file| file.length());
        let length = length.map_err(|e| LogError::io("reading", &self.disk.describe(&name), e))?;
        if length > HEAD_BYTES as u64 + most_bytes {
            return Ok(None);
        }
        self.load_newest(group)
    }

    /// The slot of the newest snapshot of a group, without reading it.
    ///
    /// # Errors
    /// [`LogError::Io`] when the folder can't be read.
    pub fn newest(&self, group: u16) -> Result<Option<u64>, LogError> {
        Ok(self.slots(group)?.pop())
    }

    /// Opens the newest snapshot of a group to read it in pieces. While it is open its bytes stay on disk, even after a
    /// newer snapshot has replaced it.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Io`].
    pub fn pin_newest(&self, group: u16) -> Result<Option<PinnedSnapshot>, LogError> {
        let Some(slot) = self.newest(group)? else { return Ok(None) };
        let (file, bytes, crc) =
            self.label(group, slot).open_whole(self.disk.as_ref(), &name_of(group, slot))?;
        Ok(Some(PinnedSnapshot { slot, bytes, crc, file }))
    }

    /// Whether the newest snapshot of a group is the one of this slot and is damaged.
    ///
    /// # Errors
    /// [`LogError::Io`] when the folder can't be read.
    pub fn is_rotten(&self, group: u16, slot: u64) -> Result<bool, LogError> {
        let name = name_of(group, slot);
        let is_newest = self.newest(group)? == Some(slot);
        Ok(is_newest && !self.label(group, slot).is_whole(self.disk.as_ref(), &name, &mut |_| {}))
    }

    /// The groups that have a snapshot here.
    ///
    /// # Errors
    /// [`LogError::Io`] when the folder can't be read.
    pub fn groups(&self) -> Result<BTreeSet<u16>, LogError> {
        Ok(self.names()?.iter().filter_map(|name| parse(name)).map(|(group, _)| group).collect())
    }

    /// Removes all snapshots of a group, durably: its replica was given up.
    ///
    /// # Errors
    /// [`LogError::Io`] when a file can't be removed.
    pub fn remove_all(&self, group: u16) -> Result<(), LogError> {
        let slots = self.slots(group)?;
        slots.iter().try_for_each(|slot| self.remove(&name_of(group, *slot)))?;
        if slots.is_empty() {
            return Ok(());
        }
        self.disk.sync_folder().map_err(|e| LogError::io("syncing", &self.disk.describe(""), e))
    }

    fn label(&self, group: u16, slot: u64) -> Label<'_> {
        label(&self.identity, group, slot)
    }

    fn names(&self) -> Result<Vec<String>, LogError> {
        self.disk.list().map_err(|e| LogError::io("listing", &self.disk.describe(""), e))
    }

    fn remove(&self, name: &str) -> Result<(), LogError> {
        self.disk.remove(name).map_err(|e| LogError::io("removing", &self.disk.describe(name), e))
    }

    /// The slots of a group's snapshots, in ascending order.
    fn slots(&self, group: u16) -> Result<Vec<u64>, LogError> {
        let mut slots: Vec<u64> = self
            .names()?
            .iter()
            .filter_map(|name| parse(name))
            .filter_map(|(of, slot)| (of == group).then_some(slot))
            .collect();
        slots.sort_unstable();
        Ok(slots)
    }
}

/// An open snapshot, whose bytes stay on disk until it is dropped.
pub struct PinnedSnapshot {
    /// The last slot that the snapshot covers.
    pub slot: u64,
    /// Length of its content.
    pub bytes: u64,
    /// Checksum (crc32c) of its content.
    pub crc: u32,
    file: Box<dyn DiskFile>,
}

impl PinnedSnapshot {
    /// At most `most_bytes` of the content, from `offset` on; empty at its end.
    ///
    /// # Errors
    /// [`LogError::Io`] when the disk can't read it; [`LogError::Damaged`] when the file became shorter.
    pub fn piece(&self, offset: u64, most_bytes: usize) -> Result<Vec<u8>, LogError> {
        let left = self.bytes.saturating_sub(offset);
        let mut piece = vec![0; most_bytes.min(usize::try_from(left).unwrap_or(usize::MAX))];
        let read = self.file.read_at((HEAD_BYTES as u64).saturating_add(offset), &mut piece);
        match read {
            Ok(read) if read == piece.len() => Ok(piece),
            Ok(_) => Err(LogError::Damaged {
                name: format!("the snapshot of slot {}", self.slot),
                why: "its file got shorter".to_string(),
            }),
            Err(e) => Err(LogError::io("reading", "a snapshot", e)),
        }
    }
}

impl std::fmt::Debug for PinnedSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedSnapshot").field("slot", &self.slot).finish_non_exhaustive()
    }
}

pub(super) fn label(identity: &LogIdentity, group: u16, slot: u64) -> Label<'_> {
    Label { magic: MAGIC, identity, group, number: slot }
}

pub(super) fn name_of(group: u16, slot: u64) -> String {
    format!("snapshot-{group:04x}-{slot:016x}")
}

pub(super) fn parse(name: &str) -> Option<(u16, u64)> {
    let (group, slot) = name.strip_prefix("snapshot-")?.split_once('-')?;
    Some((stored::group_of(group)?, stored::number_of(slot)?))
}

impl std::fmt::Debug for SnapshotStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotStore").field("most_bytes", &self.most_bytes).finish_non_exhaustive()
    }
}
