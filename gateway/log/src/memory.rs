//! A disk in memory that loses what was not synced, for tests and for the simulator.
//!
//! It keeps two images of everything: what a reader sees, and what is durable. A power cut gives a new disk on which
//! each write and each change of a folder since the last sync is lost, kept, or (writes, by sector) torn. After a
//! failed sync its writes can never become durable, as on Linux: the page cache shows them, but the disk never gets
//! them.

use super::disk::{Disk, DiskFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a sector: a power cut may tear a longer write at these boundaries.
pub const SECTOR_BYTES: usize = 512;

/// The effect of a power cut on everything that was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// Every unsynced change is lost.
    Lost,
    /// Every unsynced change survives.
    Kept,
    /// A generator with this seed decides: for writes sector by sector, for a folder how many of its changes survive.
    Torn(u64),
}

/// Faults to come. A sync or a write fails once; the loss of power lasts, and so does an unreadable range.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// After this many more operations that change something, the power is off: the next one and all later ones fail.
    pub power_off_after: Option<u64>,
    /// After this many more syncs of files, one fails.
    pub sync_fails_after: Option<u64>,
    /// After this many more writes, one writes only half and fails with this kind.
    pub write_fails_after: Option<(u64, io::ErrorKind)>,
    /// These ranges of these files can't be read, until the file is created anew or replaced.
    pub unreadable: Vec<(String, Range<u64>)>,
}

/// A disk in memory. Clones share one disk.
#[derive(Clone)]
pub struct MemoryDisk {
    shared: Arc<Mutex<State>>,
    /// Empty, or ends with a slash.
    folder: String,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, new) => {
                let end = at + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*at..end].copy_from_slice(new);
            }
            Self::Length(length) => bytes.resize(*length, 0),
        }
    }
}

#[derive(Clone, Default)]
struct Content {
    durable: Vec<u8>,
    seen: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone)]
enum NameChange {
    Put(String, u64),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Put(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }

    fn within(&self, folder: &str) -> bool {
        let (Self::Put(name, _) | Self::Rename(_, name) | Self::Remove(name)) = self;
        in_folder(name, folder).is_some()
    }
}

/// The name within a folder, if it is directly in it.
fn in_folder<'a>(name: &'a str, folder: &str) -> Option<&'a str> {
    name.strip_prefix(folder).filter(|rest| !rest.contains('/'))
}

struct State {
    capacity_bytes: u64,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    /// How often each file is open. A file without a name lives as long as it is open.
    open: BTreeMap<u64, usize>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    pending: Vec<NameChange>,
    /// Whether there may be files to which no name leads, now or after a crash.
    has_nameless: bool,
    folders: BTreeSet<String>,
    locks: BTreeSet<String>,
    faults: Faults,
    operations: u64,
    syncs: u64,
}

impl State {
    /// Counts an operation that changes something; fails if the power is off.
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.faults.power_off_after {
            Some(0) => return Err(io::Error::other("the power is off")),
            Some(left) => *left -= 1,
            None => {}
        }
        self.operations += 1;
        Ok(())
    }

    fn used_bytes(&self) -> u64 {
        self.files.values().map(|f| f.seen.len() as u64).sum()
    }

    fn file(&mut self, file: u64) -> io::Result<&mut Content> {
        self.files.get_mut(&file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn change(&mut self, file: u64, change: Change) -> io::Result<()> {
        let grown = match &change {
            Change::Write(at, bytes) => at + bytes.len(),
            Change::Length(length) => *length,
        };
        let used = self.used_bytes();
        let capacity = self.capacity_bytes;
        let content = self.file(file)?;
        if used + grown.saturating_sub(content.seen.len()) as u64 > capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        change.apply(&mut content.seen);
        content.pending.push(change);
        Ok(())
    }

    /// Drops files that are not open and that no name leads to, now or after a crash.
    fn sweep(&mut self) {
        let pending = self.pending.iter().filter_map(|c| match c {
            NameChange::Put(_, file) => Some(*file),
            _ => None,
        });
        let live: BTreeSet<u64> =
            self.names.values().chain(self.durable_names.values()).copied().chain(pending).collect();
        let open = &self.open;
        let mut has_nameless = false;
        self.files.retain(|file, _| {
            let named = live.contains(file);
            has_nameless |= !named && open.contains_key(file);
            named || open.contains_key(file)
        });
        self.has_nameless = has_nameless;
    }
}

/// A small generator (splitmix64): the same seed gives the same crash.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

impl MemoryDisk {
    /// An empty disk whose files may take `capacity_bytes` together.
    pub fn new(capacity_bytes: u64) -> Self {
        let state = State {
            capacity_bytes,
            files: BTreeMap::new(),
            next_file: 1,
            open: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending: Vec::new(),
            has_nameless: false,
            folders: BTreeSet::new(),
            locks: BTreeSet::new(),
            faults: Faults::default(),
            operations: 0,
            syncs: 0,
        };
        Self { shared: Arc::new(Mutex::new(state)), folder: String::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    /// The disk as it is found after a power cut now. The old one keeps its content, without power.
    pub fn crash(&self, how: Crash) -> Self {
        let mut state = self.state();
        state.faults.power_off_after = Some(0);
        let mut chance = Chance(match how {
            Crash::Torn(seed) => seed,
            _ => 0,
        });
        let mut files = BTreeMap::new();
        for (id, content) in &state.files {
            let mut bytes = content.durable.clone();
            for change in &content.pending {
                match (how, change) {
                    (Crash::Lost, _) => {}
                    (Crash::Kept, change) => change.apply(&mut bytes),
                    (Crash::Torn(_), Change::Length(_)) => {
                        if chance.below(2) == 0 {
                            change.apply(&mut bytes);
                        }
                    }
                    (Crash::Torn(_), Change::Write(at, new)) => tear(*at, new, &mut bytes, &mut chance),
                }
            }
            files.insert(*id, Content { durable: bytes.clone(), seen: bytes, pending: Vec::new() });
        }
        let kept = match how {
            Crash::Lost => 0,
            Crash::Kept => state.pending.len(),
            Crash::Torn(_) => chance.below(state.pending.len() as u64 + 1) as usize,
        };
        let mut names = state.durable_names.clone();
        state.pending.iter().take(kept).for_each(|change| change.apply(&mut names));
        let after = Self::new(state.capacity_bytes);
        {
            let mut new = after.state();
            new.files = files;
            new.next_file = state.next_file;
            new.durable_names = names.clone();
            new.names = names;
            new.folders = state.folders.clone();
            new.sweep();
        }
        Self { shared: after.shared, folder: self.folder.clone() }
    }

    /// An unlocked copy of the disk as it stands, without faults and with nothing pending: the state after an orderly
    /// stop.
    pub fn image(&self) -> Self {
        let powered = self.state().faults.power_off_after;
        let copy = self.crash(Crash::Kept);
        self.state().faults.power_off_after = powered;
        copy
    }

    /// The disk as the next process finds it after the process that used it was killed: the operating system still has
    /// everything that was written, and no more of it is durable than before. The old disk keeps its content, without
    /// power.
    pub fn killed(&self) -> Self {
        let mut state = self.state();
        let after = Self::new(state.capacity_bytes);
        {
            let mut new = after.state();
            new.files = state.files.clone();
            new.next_file = state.next_file;
            new.names = state.names.clone();
            new.durable_names = state.durable_names.clone();
            new.pending = state.pending.clone();
            new.has_nameless = true; // those that the old process had open
            new.folders = state.folders.clone();
        }
        state.faults.power_off_after = Some(0);
        Self { shared: after.shared, folder: self.folder.clone() }
    }

    /// Replaces the faults to come.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Changes the capacity; the content stays, even if it is more.
    pub fn set_capacity(&self, bytes: u64) {
        self.state().capacity_bytes = bytes;
    }

    /// The number of operations so far that changed something.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The number of file syncs so far.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// A file's bytes as a reader sees them; `None` if there is no such file.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.path(name);
        let state = self.state();
        state.names.get(&path).and_then(|file| state.files.get(file)).map(|f| f.seen.clone())
    }

    /// Changes a file's bytes durably, without any write of its owner: rot, lost sectors, misdirected writes.
    pub fn meddle(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.path(name);
        let mut state = self.state();
        if let Some(file) = state.names.get(&path).copied()
            && let Some(content) = state.files.get_mut(&file)
        {
            change(&mut content.seen);
            content.durable = content.seen.clone();
            content.pending.clear();
        }
    }
}

/// Applies part of a write: each sector is written wholly, not at all, or, sometimes, up to a byte within.
fn tear(at: usize, new: &[u8], bytes: &mut Vec<u8>, chance: &mut Chance) {
    let mut from = 0;
    while from < new.len() {
        let to = (from + SECTOR_BYTES - (at + from) % SECTOR_BYTES).min(new.len());
        let kept = match chance.below(8) {
            0..=3 => to,
            4 => from + chance.below((to - from) as u64) as usize,
            _ => from,
        };
        if kept > from {
            Change::Write(at + from, new[from..kept].to_vec()).apply(bytes);
        }
        from = to;
    }
}

impl Disk for MemoryDisk {
    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path(name);
        let mut state = self.state();
        state.operate()?;
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Content::default());
        state.faults.unreadable.retain(|(name, _)| *name != path);
        state.has_nameless |= state.names.contains_key(&path);
        let change = NameChange::Put(path, file);
        change.apply(&mut state.names);
        state.pending.push(change);
        *state.open.entry(file).or_default() += 1;
        Ok(Box::new(MemoryFile { shared: self.shared.clone(), file, path: self.path(name) }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let path = self.path(name);
        let mut state = self.state();
        let file = state.names.get(&path).copied().ok_or(io::ErrorKind::NotFound)?;
        *state.open.entry(file).or_default() += 1;
        Ok(Box::new(MemoryFile { shared: self.shared.clone(), file, path }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        Ok(state.names.keys().filter_map(|n| in_folder(n, &self.folder)).map(str::to_string).collect())
    }

    fn folders(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        Ok(state.folders.iter().filter_map(|n| in_folder(n, &self.folder)).map(str::to_string).collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        if !state.names.contains_key(&self.path(from)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let to = self.path(to);
        state.faults.unreadable.retain(|(name, _)| *name != to);
        let change = NameChange::Rename(self.path(from), to);
        change.apply(&mut state.names);
        state.pending.push(change);
        state.sweep();
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        let mut state = self.state();
        state.operate()?;
        if !state.names.contains_key(&path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = NameChange::Remove(path);
        change.apply(&mut state.names);
        state.pending.push(change);
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut guard = self.state();
        guard.operate()?;
        let state = &mut *guard;
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut state.pending).into_iter().partition(|change| change.within(&self.folder));
        now.iter().for_each(|change| change.apply(&mut state.durable_names));
        state.pending = later;
        state.sweep();
        Ok(())
    }

    fn folder(&self, name: &str) -> io::Result<Arc<dyn Disk>> {
        let path = self.path(name);
        self.state().folders.insert(path.clone());
        Ok(Arc::new(Self { shared: self.shared.clone(), folder: format!("{path}/") }))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity_bytes.saturating_sub(state.used_bytes()))
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn Send>> {
        let path = self.path(name);
        if !self.state().locks.insert(path.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(MemoryLock { shared: self.shared.clone(), path }))
    }

    fn describe(&self, name: &str) -> String {
        format!("memory:{}", self.path(name))
    }
}

struct MemoryLock {
    shared: Arc<Mutex<State>>,
    path: String,
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).locks.remove(&self.path);
    }
}

struct MemoryFile {
    shared: Arc<Mutex<State>>,
    file: u64,
    path: String,
}

impl MemoryFile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.change(self.file, change)
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let mut state = self.state();
        match state.open.get_mut(&self.file) {
            Some(times) if *times > 1 => *times -= 1,
            _ => {
                state.open.remove(&self.file);
                if state.has_nameless {
                    state.sweep();
                }
            }
        }
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

impl DiskFile for MemoryFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.state().file(self.file)?.seen.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        let wanted = offset..offset.saturating_add(into.len() as u64);
        let lost = |(name, bad): &(String, Range<u64>)| {
            *name == self.path && bad.start < wanted.end && wanted.start < bad.end
        };
        if state.faults.unreadable.iter().any(lost) {
            return Err(io::Error::other("input/output error"));
        }
        let seen = &state.file(self.file)?.seen;
        let from = index(offset)?.min(seen.len());
        let read = into.len().min(seen.len() - from);
        into[..read].copy_from_slice(&seen[from..from + read]);
        Ok(read)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let at = index(offset)?;
        let fails = match &mut self.state().faults.write_fails_after {
            Some((0, kind)) => Some(*kind),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        if let Some(kind) = fails {
            self.state().faults.write_fails_after = None;
            self.change(Change::Write(at, bytes[..bytes.len() / 2].to_vec()))?;
            return Err(kind.into());
        }
        self.change(Change::Write(at, bytes.to_vec()))
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.syncs += 1;
        let fails = match &mut state.faults.sync_fails_after {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        };
        if fails {
            state.faults.sync_fails_after = None;
        }
        let content = state.file(self.file)?;
        let pending = std::mem::take(&mut content.pending);
        if fails {
            return Err(io::Error::other("input/output error"));
        }
        pending.iter().for_each(|change| change.apply(&mut content.durable));
        Ok(())
    }

    fn preallocate(&mut self, length: u64) -> io::Result<()> {
        let length = index(length)?.max(index(self.length()?)?);
        self.change(Change::Length(length))
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.change(Change::Length(index(length)?))
    }
}
