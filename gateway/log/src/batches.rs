//! The contents of uplink batches: immutable checksummed files, one folder per group and one file per batch.
//!
//! A batch's content follows from the log, so putting it costs no fsync: after a crash the replica puts it again from
//! the log, unless a durable snapshot lists it. Hence the one rule: call [`BatchStore::sync`] before saving a snapshot
//! that lists a batch.

use super::disk::Disk;
use super::error::LogError;
use super::form::LogIdentity;
use super::stored::{self, HEAD_BYTES, Label};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"SelvgBat";

/// The most bytes of a batch's content.
pub const MAX_BATCH_BYTES: u64 = 1024 * 1024;

/// The batches of all groups, in a folder of their own.
pub struct BatchStore {
    disk: Arc<dyn Disk>,
    identity: LogIdentity,
    groups: BTreeMap<u16, Folder>,
    poison: Option<String>,
}

struct Folder {
    disk: Arc<dyn Disk>,
    /// The batches that have a file. Asking the folder for each removal would cost more than everything else.
    seqs: BTreeSet<u64>,
    /// Batches that a durable snapshot lists and that had no file at the start.
    lost: BTreeSet<u64>,
    /// Every file up to this one is durable.
    synced_through: u64,
}

impl Folder {
    fn new(disk: Arc<dyn Disk>, seqs: BTreeSet<u64>) -> Self {
        Self { disk, seqs, lost: BTreeSet::new(), synced_through: 0 }
    }
}

impl BatchStore {
    /// Opens the store in `disk` and lists what it holds.
    ///
    /// # Errors
    /// [`LogError::Io`] when the folder can't be read.
    pub fn open(disk: Arc<dyn Disk>, identity: LogIdentity) -> Result<Self, LogError> {
        let failed = |e| LogError::io("opening", &disk.describe(""), e);
        let mut groups = BTreeMap::new();
        for name in disk.folders().map_err(failed)? {
            if let Some(group) = stored::group_of(&name) {
                let folder = disk.folder(&name).map_err(failed)?;
                let names = folder.list().map_err(|e| LogError::io("listing", &folder.describe(""), e))?;
                let seqs = names.iter().filter_map(|name| seq_of(name)).collect();
                groups.insert(group, Folder::new(folder, seqs));
            }
        }
        Ok(Self { disk, identity, groups, poison: None })
    }

    /// Writes a batch. An intact file with the same content stays as it is; a damaged one is replaced. Returns whether
    /// the batch should have been there already, but was damaged or had no file.
    ///
    /// # Errors
    /// [`LogError::TooLarge`]; [`LogError::Full`] (nothing is left behind); [`LogError::Conflict`] when an intact file
    /// has other content, which is a bug; [`LogError::Foreign`], [`LogError::Version`], [`LogError::Io`].
    pub fn put(&mut self, group: u16, seq: u64, bytes: &[u8]) -> Result<bool, LogError> {
        self.check()?;
        let size = bytes.len() as u64;
        if size > MAX_BATCH_BYTES {
            return Err(LogError::TooLarge { what: "a batch", bytes: size, limit: MAX_BATCH_BYTES });
        }
        match self.get(group, seq) {
            Ok(Some(found)) if found == bytes => return Ok(false),
            Ok(Some(_)) => return Err(LogError::Conflict { name: self.shown(group, seq) }),
            Ok(None) | Err(LogError::Damaged { .. }) => {}
            Err(e) => return Err(e),
        }
        let (shown, identity) = (self.shown(group, seq), self.identity);
        let folder = self.folder(group)?;
        folder.synced_through = folder.synced_through.min(seq.saturating_sub(1));
        let (name, label) = (name_of(seq), label(&identity, group, seq));
        let written = folder.disk.create(&name).and_then(|mut file| label.write(file.as_mut(), bytes));
        written.map_err(|e| {
            // If the removal fails too, the file is found damaged and replaced later, or removed after the next start.
            let _ = folder.disk.remove(&name);
            folder.seqs.remove(&seq);
            LogError::io("writing", &shown, e)
        })?;
        Ok(folder.lost.remove(&seq) | !folder.seqs.insert(seq))
    }

    /// The folder of a group, which is created if there is none.
    fn folder(&mut self, group: u16) -> Result<&mut Folder, LogError> {
        match self.groups.entry(group) {
            Entry::Occupied(folder) => Ok(folder.into_mut()),
            Entry::Vacant(none) => {
                let name = format!("{group:04x}");
                let disk = self.disk.folder(&name);
                let disk = disk.map_err(|e| LogError::io("making", &self.disk.describe(&name), e))?;
                Ok(none.insert(Folder::new(disk, BTreeSet::new())))
            }
        }
    }

    /// Whether a batch that should be here is damaged, or has no file.
    pub fn is_rotten(&self, group: u16, seq: u64) -> bool {
        self.has(group, seq) && matches!(self.get(group, seq), Ok(None) | Err(LogError::Damaged { .. }))
    }

    /// Batches of a group that should be here but have no file; at most `most` of them.
    ///
    /// # Errors
    /// [`LogError::Io`] when the group's folder can't be read.
    pub fn missing(&self, group: u16, most: usize) -> Result<Vec<u64>, LogError> {
        let Some(folder) = self.groups.get(&group) else { return Ok(Vec::new()) };
        let names = folder.disk.list().map_err(|e| LogError::io("listing", &folder.disk.describe(""), e))?;
        let there: BTreeSet<u64> = names.iter().filter_map(|name| seq_of(name)).collect();
        let gone = folder.seqs.union(&folder.lost).filter(|seq| !there.contains(seq));
        Ok(gone.copied().take(most).collect())
    }

    /// Whether a group's batch has a file; the content may be damaged.
    pub fn has(&self, group: u16, seq: u64) -> bool {
        self.groups.get(&group).is_some_and(|folder| folder.seqs.contains(&seq))
    }

    /// The groups that have a folder here. It may be empty.
    pub fn groups(&self) -> impl Iterator<Item = u16> + '_ {
        self.groups.keys().copied()
    }

    /// Whether the group has any batches here.
    pub fn has_any(&self, group: u16) -> bool {
        self.groups.get(&group).is_some_and(|folder| !folder.seqs.is_empty())
    }

    /// Makes a group's batches up to and including `up_to` durable.
    ///
    /// # Errors
    /// [`LogError::Io`]; every later call is then [`LogError::Poisoned`].
    pub fn sync(&mut self, group: u16, up_to: u64) -> Result<(), LogError> {
        self.check()?;
        let Some(folder) = self.groups.get_mut(&group) else { return Ok(()) };
        let mut result = Ok(());
        let mut new =
            folder.seqs.iter().copied().filter(|s| *s > folder.synced_through && *s <= up_to).peekable();
        if new.peek().is_some() {
            result = new
                .try_for_each(|seq| folder.disk.open(&name_of(seq))?.sync())
                .and_then(|()| folder.disk.sync_folder());
        }
        match result {
            Ok(()) => {
                let last = folder.seqs.last().copied().unwrap_or(0);
                folder.synced_through = up_to.min(last).max(folder.synced_through);
                Ok(())
            }
            Err(source) => {
                let error = LogError::Io { doing: "syncing", name: folder.disk.describe(""), source };
                self.poison = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// Called after a restart when a durable snapshot shows that the batches up to this one were synced. Without this
    /// call they are synced again, which does no harm.
    pub fn assume_synced(&mut self, group: u16, up_to: u64) {
        if let Some(folder) = self.groups.get_mut(&group) {
            folder.synced_through = up_to.max(folder.synced_through);
        }
    }

    /// Called after a restart with the batches that a durable snapshot lists. Those without a file count as missing
    /// ([`Self::missing`]) until they are put again or removed.
    ///
    /// # Errors
    /// [`LogError::Io`] when the group's folder can't be created.
    pub fn expect(&mut self, group: u16, seqs: impl Iterator<Item = u64>) -> Result<(), LogError> {
        let lost: BTreeSet<u64> = seqs.filter(|seq| !self.has(group, *seq)).collect();
        if !lost.is_empty() {
            self.folder(group)?.lost = lost;
        }
        Ok(())
    }

    /// A batch's content; `None` if it has no file.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::Foreign`], [`LogError::Version`], [`LogError::Io`].
    pub fn get(&self, group: u16, seq: u64) -> Result<Option<Vec<u8>>, LogError> {
        let Some(folder) = self.groups.get(&group) else { return Ok(None) };
        let label = label(&self.identity, group, seq);
        match label.read(folder.disk.as_ref(), &name_of(seq), MAX_BATCH_BYTES) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(LogError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Checks that this release can read the version of the group's newest batch.
    ///
    /// # Errors
    /// [`LogError::Version`]; [`LogError::Io`].
    pub fn check_version(&self, group: u16) -> Result<(), LogError> {
        let Some(folder) = self.groups.get(&group) else { return Ok(()) };
        let Some(seq) = folder.seqs.last().copied() else { return Ok(()) };
        let label = label(&self.identity, group, seq);
        label.check_version(folder.disk.as_ref(), &name_of(seq))
    }

    /// A group's batches in order: sequence number and bytes of content.
    ///
    /// # Errors
    /// [`LogError::Io`] when the group's folder can't be read.
    pub fn list(&self, group: u16) -> Result<Vec<(u64, u64)>, LogError> {
        let Some(folder) = self.groups.get(&group) else { return Ok(Vec::new()) };
        let failed = |e| LogError::io("listing", &folder.disk.describe(""), e);
        let mut found = Vec::new();
        for name in folder.disk.list().map_err(failed)? {
            if let Some(seq) = seq_of(&name) {
                let bytes = folder.disk.open(&name).and_then(|file| file.length()).map_err(failed)?;
                found.push((seq, bytes.saturating_sub(HEAD_BYTES as u64)));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes a group's batches up to and including `seq`. Some may reappear after a crash, which does no harm.
    ///
    /// # Errors
    /// [`LogError::Io`] when a file can't be removed.
    pub fn remove_through(&mut self, group: u16, seq: u64) -> Result<(), LogError> {
        let Some(folder) = self.groups.get_mut(&group) else { return Ok(()) };
        folder.lost.retain(|old| *old > seq);
        while let Some(old) = folder.seqs.first().copied().filter(|old| *old <= seq) {
            let name = name_of(old);
            match folder.disk.remove(&name) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(LogError::io("removing", &folder.disk.describe(&name), e));
                }
                _ => folder.seqs.remove(&old),
            };
        }
        Ok(())
    }

    /// Removes at most `most` batches of a group whose replica was given up. Returns whether there are more; if not, the
    /// removal is durable. The empty folder stays.
    ///
    /// # Errors
    /// [`LogError::Io`] when a file can't be removed.
    pub fn remove_some(&mut self, group: u16, most: usize) -> Result<bool, LogError> {
        let Some(folder) = self.groups.get_mut(&group) else { return Ok(false) };
        let shown = folder.disk.describe("");
        // The folder itself counts: after a crash it may hold more than what this process has put there.
        let names = folder.disk.list().map_err(|e| LogError::io("listing", &shown, e))?;
        let names: Vec<_> = names.into_iter().filter(|name| seq_of(name).is_some()).collect();
        for name in names.iter().take(most) {
            folder.disk.remove(name).map_err(|e| LogError::io("removing", &folder.disk.describe(name), e))?;
        }
        if names.len() > most {
            return Ok(true);
        }
        folder.disk.sync_folder().map_err(|e| LogError::io("syncing", &shown, e))?;
        self.groups.remove(&group);
        Ok(false)
    }

    fn check(&self) -> Result<(), LogError> {
        match &self.poison {
            Some(why) => Err(LogError::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    fn shown(&self, group: u16, seq: u64) -> String {
        self.disk.describe(&format!("{group:04x}/{}", name_of(seq)))
    }
}

pub(super) fn label(identity: &LogIdentity, group: u16, seq: u64) -> Label<'_> {
    Label { magic: MAGIC, identity, group, number: seq }
}

pub(super) fn seq_of(name: &str) -> Option<u64> {
    name.strip_prefix("batch-").and_then(stored::number_of)
}

pub(super) fn name_of(seq: u64) -> String {
    format!("batch-{seq:016x}")
}

impl std::fmt::Debug for BatchStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchStore").field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}
