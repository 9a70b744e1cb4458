//! The power fails at every operation that changes the disk, and everything unsynced is lost, kept or torn.

use super::{open, record};
use selvedge_fabric::record::LogRecord;
use selvedge_log::{Crash, Faults, Floor, Log, LogError, MemoryDisk};
use std::collections::BTreeMap;
use std::sync::Arc;

const CAPACITY_BYTES: u64 = 1 << 20;
const PROMISE: u8 = 1;
const ENTRY: u8 = 2;

/// What the caller of the log knows was written.
#[derive(Default)]
struct Known {
    /// Every record with a slot that was given to the log, in order.
    tried: Vec<LogRecord>,
    /// How many of those were synced.
    committed: usize,
    /// State records given to the log by group and kind, in order, and how many of those were synced.
    states: BTreeMap<(u16, u8), (Vec<LogRecord>, usize)>,
    keep_from: BTreeMap<u16, u64>,
    next: u64,
}

impl Known {
    fn append(&mut self, log: &mut Log, batch: Vec<LogRecord>) -> Result<(), LogError> {
        for record in &batch {
            if record.is_state() {
                self.states.entry((record.group, record.kind)).or_default().0.push(record.clone());
            } else {
                self.tried.push(record.clone());
            }
        }
        log.append(&batch).map(|_| ())
    }

    fn sync(&mut self, log: &mut Log) -> Result<(), LogError> {
        log.sync()?;
        self.committed = self.tried.len();
        self.states.values_mut().for_each(|(all, synced)| *synced = all.len());
        Ok(())
    }

    fn entry(&mut self, group: u16, slot: u64, payload: usize) -> LogRecord {
        self.next += 1;
        record(group, ENTRY, slot, self.next, payload)
    }

    fn promise(&mut self, group: u16) -> LogRecord {
        self.next += 1;
        record(group, PROMISE, 0, self.next, 3)
    }
}

/// Batches of every kind, roll-overs, trims and restarts, until the power fails.
fn work(disk: &MemoryDisk, known: &mut Known) -> Result<(), LogError> {
    let mut slot = 0;
    for round in 0..3 {
        let mut log = open(disk)?.0;
        let promises = vec![known.promise(1), known.promise(2)];
        known.append(&mut log, promises)?;
        known.sync(&mut log)?;
        for i in 0..8 {
            slot += 1;
            // A short batch; one of several units; two batches under one sync.
            let mut batch = vec![known.entry(1, slot, 40), known.entry(2, slot, 5)];
            if i % 3 == 1 {
                batch.extend([known.entry(3, slot, 600), known.entry(4, slot, 500)]);
            }
            if i % 3 == 2 {
                known.append(&mut log, batch)?;
                batch = vec![known.promise(2), known.entry(5, slot, 100)];
            }
            known.append(&mut log, batch)?;
            known.sync(&mut log)?;
        }
        if round > 0 {
            for group in 1..=5 {
                let from = slot - 6;
                known.keep_from.insert(group, from);
                log.keep_from(group, from);
            }
            log.trim()?;
        }
        if round == 1 {
            log.close()?;
        }
    }
    Ok(())
}

/// Opens what a crash left and compares it with what is known.
fn check(disk: &MemoryDisk, known: &Known, case: &str) {
    let (log, recovery, read) = open(disk).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert!(recovery.damaged_groups.is_empty(), "{case}: a crash is no damage: {recovery:?}");

    // Records with slots: a range of what was tried, without a hole, up to at least what was committed.
    let entries: Vec<&LogRecord> = read.iter().filter(|r| !r.is_state()).collect();
    let first = entries.first().map_or(known.tried.len(), |first| {
        known.tried.iter().position(|r| r == *first).expect("not invented")
    });
    let end = first + entries.len();
    assert!(known.tried[first..].iter().zip(&entries).all(|(a, b)| a == *b), "{case}: order or content");
    assert!(end <= known.tried.len(), "{case}: invented");
    assert!(
        end >= known.committed || first >= known.committed,
        "{case}: {end} of {} committed",
        known.committed
    );
    for missing in &known.tried[..first.min(known.committed)] {
        let keep = known.keep_from.get(&missing.group).copied().unwrap_or(0);
        assert!(missing.slot < keep, "{case}: {missing:?} was trimmed too early");
    }
    // State records: the newest of each kind was tried, and is not older than the last committed one.
    let newest: BTreeMap<(u16, u8), &LogRecord> =
        read.iter().filter(|r| r.is_state()).map(|r| ((r.group, r.kind), r)).collect();
    for (key, (tried, synced)) in &known.states {
        let found = newest.get(key).map(|r| tried.iter().position(|t| t == *r).expect("not invented") + 1);
        assert!(found.unwrap_or(0) >= *synced, "{case}: state {key:?} is {found:?}, committed {synced}");
    }
    drop(log);

    let (log, again, read_again) = open(disk).unwrap_or_else(|e| panic!("{case}, again: {e}"));
    assert_eq!(read, read_again, "{case}: reading twice");
    assert_eq!(again.torn_bytes_cut, 0, "{case}: the tear is gone");
    assert!(again.damaged_groups.is_empty(), "{case}: {again:?}");
    drop(log);
}

fn begun() -> MemoryDisk {
    let disk = MemoryDisk::new(CAPACITY_BYTES);
    Floor::create(Arc::new(disk.clone()), super::IDENTITY).unwrap();
    disk
}

fn run(power_off_after: Option<u64>) -> (MemoryDisk, Known) {
    let disk = begun();
    disk.set_faults(Faults { power_off_after, ..Faults::default() });
    let mut known = Known::default();
    let done = work(&disk, &mut known);
    assert_eq!(done.is_err(), power_off_after.is_some(), "{done:?}");
    (disk, known)
}

fn crashes(seed: u64) -> [Crash; 6] {
    let torn = |n| Crash::Torn(seed * 4 + n);
    [Crash::Lost, Crash::Kept, torn(0), torn(1), torn(2), torn(3)]
}

#[test]
fn at_every_operation_a_power_cut_keeps_what_was_committed_and_invents_nothing() {
    let before = begun().operations();
    let operations = run(None).0.operations() - before;
    assert!(operations > 100, "{operations}");
    for at in 0..operations {
        let (disk, known) = run(Some(at));
        for how in crashes(at) {
            check(&disk.crash(how), &known, &format!("operation {at}, {how:?}"));
        }
    }
}

#[test]
fn at_every_operation_of_a_recovery_another_power_cut_does_no_harm() {
    let operations = run(None).0.operations() - begun().operations();
    for at in (0..operations).step_by(3) {
        let (disk, known) = run(Some(at));
        for how in [Crash::Kept, Crash::Torn(at)] {
            for second in 0.. {
                let left = disk.crash(how);
                left.set_faults(Faults { power_off_after: Some(second), ..Faults::default() });
                if open(&left).is_ok() {
                    break;
                }
                for then in [Crash::Lost, Crash::Kept, Crash::Torn(at + second)] {
                    check(
                        &left.crash(then),
                        &known,
                        &format!("operation {at}, {how:?}; then {second}, {then:?}"),
                    );
                }
            }
        }
    }
}

#[test]
fn restarts_without_work_take_no_more_disk() {
    let disk = MemoryDisk::new(CAPACITY_BYTES);
    let (mut log, ..) = open(&disk).unwrap();
    log.commit(&[record(1, ENTRY, 1, 1, 10)]).unwrap();
    drop(log);
    let mut segments = Vec::new();
    for _ in 0..6 {
        let (log, _, read) = open(&disk).unwrap();
        assert_eq!(read.len(), 1);
        segments.push(log.stats().segments);
    }
    assert_eq!(segments, [2; 6], "the rewritten batch and the reserve");
    let before = disk.operations();
    drop(open(&disk).unwrap());
    assert!(disk.operations() - before <= 8, "nothing but another reserve is written");
}
