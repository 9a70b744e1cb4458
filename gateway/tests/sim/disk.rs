//! A gateway's disk: the shipped log and stores on a disk in memory that loses what was not synced.

use super::plan::Rot;
use super::random::Random;
use selvedge_fabric::record::Position;
use selvedge_log::storage::Folders;
use selvedge_log::{Crash, Disk, Faults, Floor, Log, LogIdentity, LogOptions, MemoryDisk, Scrubber};
use selvedge_types::ids::{GatewayId, ShardId};
use std::sync::Arc;

const CAPACITY_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES: u64 = 12 << 10;
/// For devices with hundreds of publishes under way, whose batches are large.
const WIDE_SEGMENT_BYTES: u64 = 256 << 10;
const KEEP_FREE_BYTES: u64 = 32 << 10;
/// The length of the head of a snapshot's or a batch's file.
const HEAD_BYTES: usize = 64;

fn identity(gateway: GatewayId) -> LogIdentity {
    [gateway.0 as u8; 16]
}

pub struct SimDisk {
    memory: MemoryDisk,
    segment_bytes: u64,
}

impl SimDisk {
    pub fn new(gateway: GatewayId, wide: bool) -> Self {
        let memory = MemoryDisk::new(CAPACITY_BYTES);
        Floor::create(Arc::new(memory.clone()), identity(gateway)).expect("there is room");
        Self { memory, segment_bytes: if wide { WIDE_SEGMENT_BYTES } else { SEGMENT_BYTES } }
    }

    pub fn folders(&self) -> Folders {
        let folder = |name| self.memory.folder(name).expect("a folder");
        let floor = Arc::new(self.memory.clone());
        Folders { floor, log: folder("log"), snapshots: folder("snapshots"), batches: folder("batches") }
    }

    pub fn settings(&self, gateway: GatewayId) -> LogOptions {
        let mut settings = LogOptions::new(identity(gateway));
        settings.floor_every_bytes = 2_048;
        (settings.segment_bytes, settings.keep_free_bytes) = (self.segment_bytes, KEEP_FREE_BYTES);
        settings.unit_bytes = 2_048;
        settings
    }

    /// The power fails after this many more operations.
    pub fn power_off_after(&self, operations: u64) {
        self.memory.set_faults(Faults { power_off_after: Some(operations), ..Faults::default() });
    }

    pub fn next_sync_fails(&self) {
        self.memory.set_faults(Faults { sync_fails_after: Some(0), ..Faults::default() });
    }

    /// The disk becomes what the next start finds after a power cut.
    pub fn crash(&mut self, how: Crash) {
        self.memory = self.memory.crash(how);
        self.memory.set_capacity(CAPACITY_BYTES);
    }

    /// The disk becomes what a killed process leaves: the system has everything that was written, and no more of it is
    /// durable than before.
    pub fn kill(&mut self) {
        self.memory = self.memory.killed();
    }

    pub fn full(&self, full: bool) {
        let used = CAPACITY_BYTES - self.memory.free_bytes().unwrap_or(0).min(CAPACITY_BYTES);
        self.memory.set_capacity(if full { used + 1_024 } else { CAPACITY_BYTES });
    }

    /// All files: name and bytes.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let batches = self.memory.folder("batches").and_then(|f| f.folders()).unwrap_or_default();
        let batches = batches.iter().map(|folder| format!("batches/{folder}"));
        let folders = ["log", "snapshots"].map(String::from).into_iter().chain(batches);
        let mut names: Vec<_> = folders.flat_map(|folder| self.names(&folder)).collect();
        names.sort();
        names.into_iter().filter_map(|name| Some((name.clone(), self.memory.bytes(&name)?))).collect()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let found = self.memory.folder(folder).and_then(|f| f.list()).unwrap_or_default();
        found.into_iter().map(|n| format!("{folder}/{n}")).collect()
    }

    /// The content of a batch's file, if it is intact.
    pub fn batch(&self, shard: ShardId, seq: u64) -> Option<Vec<u8>> {
        self.stored(&batch_name(shard, seq))
    }

    /// The content of a snapshot's or a batch's file, if it is intact.
    pub fn stored(&self, name: &str) -> Option<Vec<u8>> {
        let mut bytes = self.memory.bytes(name)?;
        let crc: [u8; 4] = bytes.get(16..20)?.try_into().ok()?;
        bytes[16..20].fill(0);
        let start = bytes[12..16] == crc32c::crc32c(&bytes[..12]).to_le_bytes();
        let whole = start && bytes.len() > HEAD_BYTES && crc32c::crc32c(&bytes).to_le_bytes() == crc;
        whole.then(|| bytes.split_off(HEAD_BYTES))
    }

    pub fn has(&self, name: &str) -> bool {
        self.memory.bytes(name).is_some()
    }

    /// The number of damaged places that a start would find in the log.
    pub fn damaged_places(&self, gateway: GatewayId) -> u64 {
        let copy = Self { memory: self.memory.image(), segment_bytes: self.segment_bytes };
        let found = Log::read(copy.folders().log, None, copy.settings(gateway), &mut |_| {});
        found.expect("it is one").recovery().damaged_places as u64
    }

    pub fn scrubber(&self, gateway: GatewayId) -> Scrubber {
        let Folders { log, snapshots, batches, .. } = self.folders();
        Scrubber { log, snapshots, batches, identity: identity(gateway) }
    }

    /// The batches of a shard that have files.
    pub fn batches(&self, shard: ShardId) -> Vec<u64> {
        let names = self.names(&format!("batches/{:04x}", shard.0));
        names.iter().filter_map(|name| batch_of(name)).map(|(_, seq)| seq).collect()
    }

    /// Damages the file of a batch.
    pub fn damage_batch(&self, shard: ShardId, seq: u64, pick: u64) {
        self.memory.meddle(&batch_name(shard, seq), |bytes| {
            let place = HEAD_BYTES + pick as usize % (bytes.len() - HEAD_BYTES);
            bytes[place] ^= 1;
        });
    }

    /// A copy in which another release wrote the newest snapshot of a group: intact, in a form that this release does
    /// not know. `None` if there is no snapshot, or it is rotten.
    pub fn with_snapshot_of_another_release(&self) -> Option<Self> {
        let copy = Self { memory: self.memory.image(), segment_bytes: self.segment_bytes };
        let name = copy.names("snapshots").into_iter().filter(|n| !n.ends_with("tmp")).max()?;
        let mut whole = false;
        copy.memory.meddle(&name, |bytes| {
            if bytes.len() <= HEAD_BYTES {
                return;
            }
            let stamp = |bytes: &mut Vec<u8>| {
                bytes[16..20].fill(0);
                let crc = crc32c::crc32c(bytes).to_le_bytes();
                bytes[16..20].copy_from_slice(&crc);
                crc
            };
            let start = crc32c::crc32c(&bytes[..12]).to_le_bytes();
            let crc: [u8; 4] = bytes[16..20].try_into().expect("four bytes");
            whole = bytes[12..16] == start && stamp(bytes) == crc;
            bytes[HEAD_BYTES] += 1;
            stamp(bytes);
        });
        whole.then_some(copy)
    }

    /// Loses the end of the log: its whole folder, its last segment, or a part of that. Returns what was lost, and
    /// whether acknowledged records are gone, by the floor.
    pub fn lose_end_of_log(&self, gateway: GatewayId, pick: u64) -> Option<(String, bool)> {
        let floor = Floor::read(Arc::new(self.memory.clone()), identity(gateway)).expect("it is whole").at();
        let floor = floor.unwrap_or_default();
        let mut names = self.names("log");
        names.retain(|name| name.contains("wal-") && name.ends_with(".log"));
        names.sort();
        if pick.is_multiple_of(2) {
            names.iter().for_each(|name| self.remove(name));
            return Some(("its whole log".to_string(), floor > Position::default()));
        }
        let used = |name: &&String| self.memory.bytes(name).is_some_and(|b| b[512..].iter().any(|b| *b != 0));
        let last = names.iter().rev().find(used)?.clone();
        let segment =
            u64::from_str_radix(last.trim_start_matches("log/wal-").trim_end_matches(".log"), 16).ok()?;
        if pick % 4 == 1 {
            names.iter().filter(|name| **name >= last).for_each(|name| self.remove(name));
            return Some((last, floor.segment >= segment));
        }
        let left = 512 + (pick >> 8) as u32 % 4_096;
        let mut cut = false;
        self.memory.meddle(&last, |bytes| {
            cut = bytes.len() > left as usize;
            bytes.truncate(left as usize);
        });
        Some((format!("{last} from byte {left} on"), cut && floor.segment == segment && floor.offset > left))
    }

    fn remove(&self, name: &str) {
        let log = self.memory.folder("log").expect("a folder");
        log.remove(name.trim_start_matches("log/")).and_then(|()| log.sync_folder()).expect("it is there");
    }

    /// Flips a bit or loses a sector of a file that was durable long ago and that may rot. Returns which file, if there
    /// is one.
    ///
    /// If a start follows, it never picks the segment of the log that was written last: a flip in its last batch can't
    /// be told from a torn write, which is a limit that the log documents.
    pub fn rot(
        &self,
        what: Rot,
        pick: u64,
        sector: bool,
        may: impl Fn(&str) -> bool,
    ) -> Option<(String, usize)> {
        let mut random = Random::new(pick);
        let names = |folder: &str| {
            let mut names = self.names(folder);
            names.sort();
            names
        };
        let files = match what {
            Rot::Log | Rot::LastSegment => {
                let mut names: Vec<_> = names("log").into_iter().filter(|n| n.contains("wal-")).collect();
                let all = names.clone();
                // The reserve, which is empty, and the active segment.
                let is_used = |n: &String| {
                    self.memory.bytes(n).is_some_and(|b| b.iter().skip(512).any(|byte| *byte != 0))
                };
                while names.pop().is_some_and(|last| !is_used(&last)) {}
                match what {
                    Rot::LastSegment => all.into_iter().skip(names.len()).take(1).collect(),
                    _ => names,
                }
            }
            Rot::Snapshot => names("snapshots").into_iter().filter(|n| !n.ends_with("tmp")).collect(),
            Rot::Batch => {
                let folders = self.memory.folder("batches").and_then(|f| f.folders()).unwrap_or_default();
                folders.iter().flat_map(|f| names(&format!("batches/{f}"))).collect()
            }
        };
        let files: Vec<_> = files.into_iter().filter(|name| may(name)).collect();
        if files.is_empty() {
            return None;
        }
        let name = files[random.below(files.len() as u64) as usize].clone();
        let mut place = 0;
        self.memory.meddle(&name, |bytes| {
            if bytes.is_empty() {
                return;
            }
            place = random.below(bytes.len() as u64) as usize;
            if sector {
                place -= place % 512;
                let end = bytes.len().min(place + 512);
                bytes[place..end].fill(0);
            } else {
                bytes[place] ^= 1 << random.below(8);
            }
        });
        Some((name, place))
    }
}

fn batch_name(shard: ShardId, seq: u64) -> String {
    format!("batches/{:04x}/batch-{seq:016x}", shard.0)
}

/// The batch that a file holds, by its name.
pub fn batch_of(name: &str) -> Option<(ShardId, u64)> {
    let (shard, file) = name.strip_prefix("batches/")?.split_once('/')?;
    let seq = u64::from_str_radix(file.strip_prefix("batch-")?, 16).ok()?;
    Some((ShardId(u16::from_str_radix(shard, 16).ok()?), seq))
}
