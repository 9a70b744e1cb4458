//! The log and the stores beside it on a disk that loses power, rots, or was written by somebody else.
//!
//! Rot (one place between two starts) may cost records, and then their groups are reported; it invents nothing.
//! What somebody forged, checksums and all, may say anything; it neither panics nor keeps the log from going on.

use crate::source::Source;
use selvedge_fabric::record::LogRecord;
use selvedge_log::{BatchStore, Crash, Disk, Groups, Log, LogError, LogOptions, MemoryDisk, SnapshotStore};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const IDENTITY: [u8; 16] = *b"site-a gateway-1";
const CAPACITY_BYTES: u64 = 256 << 10;
const MAX_STEPS: usize = 120;
const UNIT_MAGIC: [u8; 4] = [0xF5, b'U', b'n', 0x1C];

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(4) {
        0 => stores(&mut source),
        1 => Site::new(true).live(&mut source),
        _ => Site::new(false).live(&mut source),
    }
}

fn settings() -> LogOptions {
    LogOptions { segment_bytes: 4096, unit_bytes: 700, keep_free_bytes: 0, ..LogOptions::new(IDENTITY) }
}

struct Site {
    disk: MemoryDisk,
    /// Damage is forged, not rot: only panics and hangs are wrong then.
    forged: bool,
    log: Option<Log>,
    /// Every record with a slot that was written, in order.
    tried: Vec<LogRecord>,
    /// How many of those are durable.
    durable: usize,
    /// From here on no mark covers them: a flip can't be told from a tear.
    unmarked: usize,
    keep_from: BTreeMap<u16, u64>,
    damaged: Groups,
    next: u64,
    rotten: bool,
    /// The sectors that have rotted: none rots back.
    sectors: BTreeSet<(String, usize)>,
}

impl Site {
    fn new(forged: bool) -> Self {
        let mut site = Self {
            disk: MemoryDisk::new(CAPACITY_BYTES),
            forged,
            log: None,
            tried: Vec::new(),
            durable: 0,
            unmarked: 0,
            keep_from: BTreeMap::new(),
            damaged: Groups::default(),
            next: 0,
            rotten: false,
            sectors: BTreeSet::new(),
        };
        site.open();
        site
    }

    fn live(mut self, source: &mut Source) {
        for _ in 0..MAX_STEPS {
            if source.is_empty() {
                break;
            }
            let done = match source.below(12) {
                0..4 => self.append(source),
                4..6 => self.sync(),
                6 => self.trim(source),
                7 => self.repaired(source),
                8 => {
                    self.log = None; // the process ends
                    self.disk = self.disk.image();
                    Ok(())
                }
                9 => {
                    self.crash(source);
                    Ok(())
                }
                10 if self.forged => {
                    self.log = None;
                    self.disk = self.disk.image();
                    forge(&self.disk, source);
                    Ok(())
                }
                10 => {
                    self.rot(source);
                    Ok(())
                }
                _ => self.close(),
            };
            match done {
                Ok(()) | Err(LogError::Full { .. } | LogError::TooLarge { .. }) => {}
                Err(e) => panic!("a sound disk: {e}"),
            }
            if self.log.is_none() && !self.open() {
                return;
            }
        }
        self.log = None;
        self.disk = self.disk.image();
        if self.open() {
            // Whatever it has met, what it takes from here on it keeps.
            let record = self.record(1, 1000, 10);
            let Some(log) = &mut self.log else { return };
            if log.commit(std::slice::from_ref(&record)).is_ok() {
                self.log = None;
                let mut last = None;
                let opened = Log::open(Arc::new(self.disk.image()), settings(), &mut |r| last = Some(r));
                assert!(opened.is_ok() && last == Some(record), "it goes on");
            }
        }
    }

    fn record(&mut self, group: u16, slot: u64, payload: usize) -> LogRecord {
        self.next += 1;
        let mut content = self.next.to_le_bytes().to_vec();
        content.resize(8 + payload, self.next as u8);
        LogRecord {
            group,
            configuration: 1,
            kind: 2,
            ballot: (self.next, 4),
            slot,
            payload: Arc::from(content),
        }
    }

    fn append(&mut self, source: &mut Source) -> Result<(), LogError> {
        let mut batch = Vec::new();
        for _ in 0..=source.below(4) {
            let (group, length) = (source.below(5) as u16, source.below(900));
            let slot = if source.byte() < 32 { 0 } else { self.next + 1 };
            batch.push(self.record(group, slot, if slot == 0 { length % 40 } else { length }));
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        let marked = self.durable;
        log.append(&batch)?;
        self.unmarked = self.unmarked.max(marked);
        self.tried.extend(batch.into_iter().filter(|r| !r.is_state()));
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let Some(log) = &mut self.log else { return Ok(()) };
        log.sync()?;
        self.durable = self.tried.len();
        Ok(())
    }

    fn trim(&mut self, source: &mut Source) -> Result<(), LogError> {
        let Some(log) = &mut self.log else { return Ok(()) };
        for group in 0..5 {
            if source.flag() {
                let slot = self.next.saturating_sub(source.below(20) as u64);
                // Only what is durable is covered by a snapshot.
                let durable = self.tried[..self.durable].iter().rfind(|r| r.group == group);
                let slot = slot.min(durable.map_or(0, |r| r.slot + 1));
                let kept = self.keep_from.entry(group).or_default();
                *kept = slot.max(*kept);
                log.keep_from(group, slot);
            }
        }
        log.trim()?;
        // Trimming syncs when it carries state records on; then all is durable, which is no worse.
        Ok(())
    }

    fn repaired(&mut self, source: &mut Source) -> Result<(), LogError> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let groups = if source.flag() { Groups::all() } else { Groups::these([source.below(5) as u16]) };
        log.repaired(&groups)?;
        self.damaged = log.damaged_groups();
        self.rotten &= !self.damaged.is_empty();
        Ok(())
    }

    fn close(&mut self) -> Result<(), LogError> {
        let Some(log) = self.log.take() else { return Ok(()) };
        let closed = log.close();
        self.disk = self.disk.image();
        if closed.is_ok() {
            (self.durable, self.unmarked) = (self.tried.len(), self.tried.len());
        }
        closed
    }

    fn crash(&mut self, source: &mut Source) {
        let how = match source.below(4) {
            0 => Crash::Lost,
            1 => Crash::Kept,
            _ => Crash::Torn(source.u64()),
        };
        let left = self.disk.crash(how);
        self.log = None;
        self.disk = left;
    }

    /// One place of the log changes while nobody looks.
    fn rot(&mut self, source: &mut Source) {
        self.log = None;
        self.disk = self.disk.image();
        let names = segments(&self.disk);
        let name = names[source.below(names.len())].clone();
        let (at, how, bits) = (source.below(4096), source.below(3), [source.byte(), source.byte()]);
        if !self.sectors.insert((name.clone(), at / 512)) {
            return;
        }
        self.disk.meddle(&name, |bytes| {
            let Some(byte) = bytes.get_mut(at) else { return };
            match how {
                // At most two bits of one byte: every checksum sees that.
                0 => *byte ^= 1 << (bits[0] % 8),
                1 => *byte ^= (1 << (bits[0] % 8)) | (1 << (bits[1] % 8)),
                _ => {
                    let sector = at / 512 * 512;
                    let end = bytes.len().min(sector + 512);
                    bytes[sector..end].fill(0);
                }
            }
        });
        // A lost sector may hold the end of a unit and the head of the one whose mark covers it.
        if how == 2 {
            self.unmarked = self.unmarked.saturating_sub(12);
        }
        self.rotten = true;
    }

    /// Opens what is there and holds it against what is known; false if it is refused.
    fn open(&mut self) -> bool {
        let mut read = Vec::new();
        let opened = Log::open(Arc::new(self.disk.clone()), settings(), &mut |r| read.push(r));
        let (log, recovery) = match opened {
            Ok(opened) => opened,
            Err(LogError::Full { .. }) => return false,
            Err(e) if e.is_unreadable() && self.forged => return false,
            Err(e) => panic!("{e}"),
        };
        read.retain(|r| !r.is_state());
        if !self.forged {
            self.check(&read, &recovery.damaged_groups);
        }
        drop(log);
        let mut again = Vec::new();
        let (log, second) = Log::open(Arc::new(self.disk.clone()), settings(), &mut |r| again.push(r))
            .unwrap_or_else(|e| panic!("opened before: {e}"));
        again.retain(|r| !r.is_state());
        if !self.forged {
            assert_eq!(read, again, "read twice");
            assert_eq!(recovery.damaged_groups, second.damaged_groups, "damage is not forgotten");
        }
        self.damaged = second.damaged_groups;
        // All that was read is durable now, and marked where it was written again.
        (self.durable, self.unmarked) = (read.len(), read.len());
        self.tried = read;
        self.log = Some(log);
        true
    }

    fn check(&self, read: &[LogRecord], reported: &Groups) {
        let mut from = 0;
        for (i, record) in self.tried.iter().enumerate() {
            if read.get(from) == Some(record) {
                from += 1;
                continue;
            }
            let trimmed = record.slot < self.keep_from.get(&record.group).copied().unwrap_or(0);
            let excused = if self.rotten { i >= self.unmarked } else { i >= self.durable };
            assert!(
                trimmed || excused || reported.contains(record.group),
                "record {i} of {} ({} durable, {} marked) is dropped in silence: {reported:?}",
                self.tried.len(),
                self.durable,
                self.unmarked
            );
        }
        assert_eq!(from, read.len(), "invented, or out of order");
        if !self.rotten {
            assert_eq!(*reported, self.damaged, "a crash is no damage");
        }
    }
}

fn segments(disk: &MemoryDisk) -> Vec<String> {
    let mut names = disk.list().expect("a listing");
    names.retain(|n| n.starts_with("wal-") && n.len() == 24);
    names
}

/// Changes made by somebody who knows the format and the identity.
fn forge(disk: &MemoryDisk, source: &mut Source) {
    let names = segments(disk);
    let Some(name) = names.get(source.below(names.len())).cloned() else { return };
    match source.below(6) {
        0 => {
            let (at, bytes) = (source.below(4096), source.bytes(200));
            disk.meddle(&name, |all| {
                let end = all.len().min(at + bytes.len());
                if at < end {
                    all[at..end].copy_from_slice(&bytes[..end - at]);
                }
            });
        }
        1 => {
            let to = source.below(5000);
            disk.meddle(&name, |all| all.resize(to, 0));
        }
        2 => {
            // A header with other numbers and the right checksum.
            let (at, number) = (source.pick(&[32, 40, 48, 52]), source.number(2048));
            disk.meddle(&name, |all| {
                if all.len() < 512 {
                    return;
                }
                let bytes = if at >= 48 { 4 } else { 8 };
                all[at..at + bytes].copy_from_slice(&number.to_le_bytes()[..bytes]);
                all[12..16].fill(0);
                let crc = crc32c::crc32c(&all[..512]);
                all[12..16].copy_from_slice(&crc.to_le_bytes());
            });
        }
        3 => {
            let (which, at) = (source.below(8), source.pick(&[5, 8, 12, 16, 20, 24, 32, 40]));
            let number = source.number(2048);
            let segment = name.get(4..20).and_then(|n| u64::from_str_radix(n, 16).ok()).unwrap_or(0);
            disk.meddle(&name, |all| forge_unit(all, segment, which, at, number));
        }
        4 => {
            let to = format!("wal-{:016x}.log", source.number(3));
            let _ = disk.rename(&name, &to);
            let _ = disk.sync_folder();
        }
        _ => {
            let other = source.text(24);
            if !other.contains('/') && !other.is_empty() {
                let _ = disk.create(&other);
                disk.meddle(&other, |all| *all = vec![1; 9]);
            }
        }
    }
}

/// Puts a number into the head of one of a segment's units, and makes its checksum right again.
fn forge_unit(all: &mut [u8], segment: u64, which: usize, at: usize, number: u64) {
    let places: Vec<usize> =
        (512..all.len().saturating_sub(48)).step_by(8).filter(|i| all[*i..*i + 4] == UNIT_MAGIC).collect();
    let Some(&start) = places.get(which % places.len().max(1)) else { return };
    let bytes = match at {
        5 => 1,
        24 | 32 => 8,
        _ => 4,
    };
    all[start + at..start + at + bytes].copy_from_slice(&number.to_le_bytes()[..bytes]);
    let groups = u32::from_le_bytes(all[start + 8..start + 12].try_into().expect("four bytes")) as usize;
    let end = start.saturating_add(48).saturating_add(groups.saturating_mul(2)).min(all.len());
    let mut crc = crc32c::crc32c(&IDENTITY);
    crc = crc32c::crc32c_append(crc, &segment.to_le_bytes());
    crc = crc32c::crc32c_append(crc, &(start as u32).to_le_bytes());
    crc = crc32c::crc32c_append(crc, &all[start..start + 44]);
    crc = crc32c::crc32c_append(crc, &all[start + 48..end]);
    all[start + 44..start + 48].copy_from_slice(&crc.to_le_bytes());
}

/// Snapshots and batches: whole, or an error.
fn stores(source: &mut Source) {
    let disk = MemoryDisk::new(CAPACITY_BYTES);
    let folder = |name: &str| disk.folder(name).expect("a folder");
    let mut snapshots = SnapshotStore::open(folder("snapshots"), IDENTITY, 4096).expect("empty");
    let mut batches = BatchStore::open(folder("batches"), IDENTITY).expect("empty");
    let mut saved: BTreeMap<u16, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    let mut put: BTreeMap<(u16, u64), BTreeSet<Vec<u8>>> = BTreeMap::new();
    for _ in 0..MAX_STEPS {
        if source.is_empty() {
            break;
        }
        let group = source.below(3) as u16;
        match source.below(8) {
            0 | 1 => {
                let (slot, bytes) = (source.number(3), source.bytes(300).to_vec());
                if snapshots.save(group, slot, &bytes).is_ok() {
                    saved.entry(group).or_default().push((slot, bytes));
                }
            }
            2 => {
                let (seq, bytes) = (source.number(3), source.bytes(300).to_vec());
                if batches.put(group, seq, &bytes).is_ok() {
                    put.entry((group, seq)).or_default().insert(bytes);
                }
            }
            3 => {
                let _ = batches.sync(group, source.number(3));
            }
            4 => {
                let _ = batches.remove_through(group, source.number(3));
            }
            5 => {
                let batch = format!("{group:04x}/batch-{:016x}", source.number(3));
                let files = [format!("snapshots/snapshot-{group:04x}-{:016x}", source.number(3))];
                let names = files.into_iter().chain([format!("batches/{batch}")]);
                for name in names {
                    let (at, how) = (source.below(360), source.below(4));
                    let bit = source.byte() % 8;
                    disk.meddle(&name, |bytes| match how {
                        0 => bytes.truncate(at),
                        1 => bytes.resize(bytes.len() + at, 7),
                        _ => {
                            if let Some(byte) = bytes.get_mut(at) {
                                *byte ^= 1 << bit;
                            }
                        }
                    });
                }
            }
            6 => {
                let name = source.text(40);
                if !name.is_empty() {
                    let _ = folder("snapshots").create(&name);
                }
            }
            _ => {
                let left = disk.crash(match source.below(3) {
                    0 => Crash::Lost,
                    1 => Crash::Kept,
                    _ => Crash::Torn(source.u64()),
                });
                let folder = |name: &str| left.folder(name).expect("a folder");
                let snapshots = SnapshotStore::open(folder("snapshots"), IDENTITY, 4096).expect("opens");
                let batches = BatchStore::open(folder("batches"), IDENTITY).expect("opens");
                check_stores(&snapshots, &batches, &saved, &put);
                return;
            }
        }
    }
    check_stores(&snapshots, &batches, &saved, &put);
}

fn check_stores(
    snapshots: &SnapshotStore,
    batches: &BatchStore,
    saved: &BTreeMap<u16, Vec<(u64, Vec<u8>)>>,
    put: &BTreeMap<(u16, u64), BTreeSet<Vec<u8>>>,
) {
    for group in 0..3 {
        if let Ok(Some(found)) = snapshots.load_newest(group) {
            assert!(saved.get(&group).is_some_and(|all| all.contains(&found)), "a snapshot is invented");
        }
        for (seq, _) in batches.list(group).expect("a listing") {
            if let Ok(Some(found)) = batches.get(group, seq) {
                assert!(
                    put.get(&(group, seq)).is_some_and(|all| all.contains(&found)),
                    "a batch is invented"
                );
            }
        }
    }
}
