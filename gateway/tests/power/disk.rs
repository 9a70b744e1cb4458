//! A folder as it could be on disk after a power cut, derived from the acts of the process that wrote it.
//!
//! The rules are those that POSIX guarantees and no more: a file's bytes are durable when a sync of it that began after
//! they were written has ended, and its name when its folder is synced. What is not durable may be there, or not, or
//! (bytes, by sector) in part; of the changes of a folder's names any prefix may be there.

use super::trace::Act;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const SECTOR_BYTES: usize = 512;

/// The effect of a power cut on everything that is not durable.
#[derive(Debug, Clone, Copy)]
pub enum Crash {
    Lost,
    Kept,
    /// A generator with this seed decides.
    Torn(u64),
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
    Grow(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(at, new) => {
                if bytes.len() < at + new.len() {
                    bytes.resize(at + new.len(), 0);
                }
                bytes[*at..at + new.len()].copy_from_slice(new);
            }
            Change::Length(length) => bytes.resize(*length, 0),
            Change::Grow(length) => bytes.resize(bytes.len().max(*length), 0),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Entry {
    File(usize),
    Folder,
}

#[derive(Debug, Clone)]
enum NameChange {
    Put(String, Entry),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Entry>) {
        match self {
            NameChange::Put(name, entry) => {
                names.insert(name.clone(), *entry);
            }
            NameChange::Rename(from, to) => {
                if let Some(entry) = names.remove(from) {
                    names.insert(to.clone(), entry);
                }
            }
            NameChange::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

/// A value with a durable state and numbered changes that are pending.
#[derive(Debug, Clone)]
struct Kept<T, C> {
    durable: T,
    pending: Vec<(usize, C)>,
}

/// One folder and everything within it.
pub struct Disk {
    /// The folder's path, without a slash at the end.
    root: String,
    files: Vec<Kept<Vec<u8>, Change>>,
    folders: BTreeMap<String, Kept<BTreeMap<String, Entry>, NameChange>>,
    /// Names as the process sees them.
    seen: BTreeMap<String, Entry>,
    changes: usize,
    /// For each sync that is under way, the last change that it covers.
    syncs: HashMap<usize, usize>,
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Disk {
    /// An empty folder, which itself is durable.
    pub fn new(root: &str) -> Self {
        let empty = Kept { durable: BTreeMap::new(), pending: Vec::new() };
        Self {
            root: root.to_string(),
            files: Vec::new(),
            folders: BTreeMap::from([(root.to_string(), empty)]),
            seen: BTreeMap::new(),
            changes: 0,
            syncs: HashMap::new(),
        }
    }

    /// Whether an act concerns this folder.
    pub fn concerns(&self, act: &Act) -> bool {
        let (Act::Create(path)
        | Act::Write(path, ..)
        | Act::Length(path, _)
        | Act::Grow(path, _)
        | Act::Rename(path, _)
        | Act::Remove(path)
        | Act::Folder(path)
        | Act::SyncBegins(_, path)
        | Act::SyncEnds(_, path)) = act;
        path.strip_prefix(&self.root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    fn change(&mut self, path: &str, change: Change) {
        let Some(Entry::File(file)) = self.seen.get(path).copied() else { return }; // removed, but still open
        self.changes += 1;
        self.files[file].pending.push((self.changes, change));
    }

    fn rename(&mut self, folder: &str, change: NameChange) {
        self.changes += 1;
        let folder = self.folders.get_mut(folder).unwrap_or_else(|| panic!("{folder} is no folder"));
        folder.pending.push((self.changes, change));
    }

    /// Applies an act.
    pub fn act(&mut self, act: &Act) {
        match act {
            Act::Create(path) => {
                if !self.seen.contains_key(path) {
                    self.files.push(Kept { durable: Vec::new(), pending: Vec::new() });
                    self.put(path, Entry::File(self.files.len() - 1));
                }
            }
            Act::Folder(path) => {
                let empty = Kept { durable: BTreeMap::new(), pending: Vec::new() };
                self.folders.insert(path.clone(), empty);
                self.put(path, Entry::Folder);
            }
            Act::Write(path, at, bytes) => self.change(path, Change::Write(*at as usize, bytes.clone())),
            Act::Length(path, length) => self.change(path, Change::Length(*length as usize)),
            Act::Grow(path, length) => self.change(path, Change::Grow(*length as usize)),
            Act::Rename(from, to) => {
                assert_eq!(split(from).0, split(to).0, "from one folder to another");
                let entry = self.seen.remove(from).unwrap_or_else(|| panic!("{from} is not there"));
                self.seen.insert(to.clone(), entry);
                self.rename(split(from).0, NameChange::Rename(split(from).1.into(), split(to).1.into()));
            }
            Act::Remove(path) => {
                self.seen.remove(path);
                self.rename(split(path).0, NameChange::Remove(split(path).1.into()));
            }
            Act::SyncBegins(sync, _) => {
                self.syncs.insert(*sync, self.changes);
            }
            Act::SyncEnds(sync, path) => {
                let Some(covered) = self.syncs.remove(sync) else { return };
                if let Some(folder) = self.folders.get_mut(path) {
                    settle(folder, covered, |change, names| change.apply(names));
                } else if let Some(Entry::File(file)) = self.seen.get(path) {
                    settle(&mut self.files[*file], covered, |change, bytes| change.apply(bytes));
                }
            }
        }
    }

    fn put(&mut self, path: &str, entry: Entry) {
        self.seen.insert(path.to_string(), entry);
        self.rename(split(path).0, NameChange::Put(split(path).1.into(), entry));
    }

    /// Writes the folder as it could be found after a power cut now.
    pub fn image(&self, how: Crash, to: &Path) {
        let mut chance = fastrand::Rng::with_seed(match how {
            Crash::Torn(seed) => seed,
            _ => 0,
        });
        std::fs::create_dir_all(to).unwrap();
        self.folder(&self.root, how, &mut chance, to);
    }

    fn folder(&self, path: &str, how: Crash, chance: &mut fastrand::Rng, to: &Path) {
        let folder = &self.folders[path];
        let kept = match how {
            Crash::Lost => 0,
            Crash::Kept => folder.pending.len(),
            Crash::Torn(_) => chance.usize(0..=folder.pending.len()),
        };
        let mut names = folder.durable.clone();
        folder.pending.iter().take(kept).for_each(|(_, change)| change.apply(&mut names));
        for (name, entry) in names {
            let to = to.join(&name);
            match entry {
                Entry::Folder => {
                    std::fs::create_dir_all(&to).unwrap();
                    self.folder(&format!("{path}/{name}"), how, chance, &to);
                }
                Entry::File(file) => {
                    let bytes = self.bytes(file, how, chance);
                    // Trailing zeros become a hole, which takes no room.
                    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
                    std::fs::write(&to, &bytes[..used]).unwrap();
                    // Modes are not recorded, and a gateway refuses a key that others can read.
                    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
                    std::fs::File::options()
                        .write(true)
                        .open(&to)
                        .unwrap()
                        .set_len(bytes.len() as u64)
                        .unwrap();
                }
            }
        }
    }

    fn bytes(&self, file: usize, how: Crash, chance: &mut fastrand::Rng) -> Vec<u8> {
        let Kept { durable, pending } = &self.files[file];
        let mut bytes = durable.clone();
        for (_, change) in pending {
            match (how, change) {
                (Crash::Lost, _) => {}
                (Crash::Kept, change) => change.apply(&mut bytes),
                (Crash::Torn(_), Change::Write(at, new)) => tear(*at, new, &mut bytes, chance),
                (Crash::Torn(_), change) => {
                    if chance.bool() {
                        change.apply(&mut bytes);
                    }
                }
            }
        }
        bytes
    }
}

fn settle<T, C>(kept: &mut Kept<T, C>, covered: usize, apply: impl Fn(&C, &mut T)) {
    let (now, later) =
        std::mem::take(&mut kept.pending).into_iter().partition(|(number, _)| *number <= covered);
    kept.pending = later;
    let now: Vec<(usize, C)> = now;
    now.iter().for_each(|(_, change)| apply(change, &mut kept.durable));
}

/// Writes each sector wholly, not at all, or sometimes up to a byte within.
fn tear(at: usize, new: &[u8], bytes: &mut Vec<u8>, chance: &mut fastrand::Rng) {
    let mut from = 0;
    while from < new.len() {
        let to = (from + SECTOR_BYTES - (at + from) % SECTOR_BYTES).min(new.len());
        let kept = match chance.u32(0..8) {
            0..=3 => to,
            4 => chance.usize(from..to),
            _ => from,
        };
        if kept > from {
            Change::Write(at + from, new[from..kept].to_vec()).apply(bytes);
        }
        from = to;
    }
}

mod tests {
    use super::*;

    /// The files of an image, with their bytes.
    fn image(disk: &Disk, how: Crash) -> BTreeMap<String, Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        disk.image(how, dir.path());
        let entries = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap());
        entries.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
    }

    #[test]
    fn only_what_was_synced_must_be_there() {
        let mut disk = Disk::new("/r");
        let (a, b) = ("/r/a".to_string(), "/r/b".to_string());
        let write = |path: &str, at, byte| Act::Write(path.into(), at, vec![byte]);
        disk.act(&Act::Create(a.clone()));
        disk.act(&write("/r/a", 0, 1));
        disk.act(&Act::SyncBegins(1, a.clone()));
        disk.act(&write("/r/a", 1, 2));
        disk.act(&Act::SyncEnds(1, a.clone()));
        assert!(image(&disk, Crash::Lost).is_empty(), "its name is not durable");
        assert_eq!(image(&disk, Crash::Kept)["a"], [1, 2]);
        disk.act(&Act::SyncBegins(2, "/r".into()));
        disk.act(&Act::Rename(a.clone(), b.clone()));
        disk.act(&Act::SyncEnds(2, "/r".into()));
        assert_eq!(image(&disk, Crash::Lost), BTreeMap::from([("a".to_string(), vec![1])]));
        disk.act(&Act::SyncBegins(3, b.clone()));
        disk.act(&Act::SyncEnds(3, b));
        assert_eq!(image(&disk, Crash::Lost), BTreeMap::from([("a".to_string(), vec![1, 2])]));
        let torn = (0..50).map(|seed| image(&disk, Crash::Torn(seed)));
        assert!(torn.clone().any(|i| i.contains_key("a")) && torn.clone().any(|i| i.contains_key("b")));
        assert!(torn.into_iter().all(|i| i.len() == 1 && i.values().all(|bytes| *bytes == [1, 2])));
        disk.act(&Act::SyncBegins(4, "/r".into()));
        disk.act(&Act::SyncEnds(4, "/r".into()));
        disk.act(&Act::Remove("/r/b".into()));
        assert_eq!(image(&disk, Crash::Lost), BTreeMap::from([("b".to_string(), vec![1, 2])]));
        assert!(image(&disk, Crash::Kept).is_empty());
    }
}
