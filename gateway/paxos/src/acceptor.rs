//! The voter's state: what a replica has promised, accepted and knows to be chosen, and the records that make it
//! durable.

use super::log::{Log, weight};
use super::message::{Ballot, Entry, Record, Slot, Value};
use selvedge_types::canary::{self, Canary};

/// The replica as a voter. Each change here comes with the record of it; messages that rely on the change leave
/// only after that record is on disk.
#[derive(Debug, Clone, Hash)]
pub(super) struct Acceptor {
    promised: Ballot,
    commit: Slot,
    prefix: Slot,
    log: Log,
    records: Vec<Record>,
    recorded_commit: Slot,
    memory_bytes: usize,
    /// The bytes of the entries above the commit index.
    open_bytes: usize,
    is_stop: fn(&[u8]) -> bool,
    /// The slot that holds a stop, chosen or not. It is the last slot of the log.
    stop: Option<Slot>,
}

impl Acceptor {
    /// A voter with the state found on disk; `log` is one run of slots from `snapshot + 1` on.
    pub fn recover(
        promised: Ballot,
        commit: Slot,
        mut log: Log,
        memory_bytes: usize,
        is_stop: fn(&[u8]) -> bool,
    ) -> Self {
        // What lay above the stop when it was written is still on disk.
        let stop = (log.first()..=log.last()).find(|s| log.get(*s).is_some_and(|e| is_stop(&e.value)));
        if let Some(stop) = stop {
            log.cut(stop.max(commit));
        }
        // Entries accepted in the promised ballot right after the commit index still count as its prefix.
        let mut prefix = commit;
        while log.get(prefix + 1).is_some_and(|e| e.ballot == promised) {
            prefix += 1;
        }
        let recorded_commit = commit;
        let open_bytes =
            (commit + 1..=log.last()).filter_map(|s| log.get(s)).map(|e| weight(e.value.len())).sum();
        let records = Vec::new();
        let acceptor = Self {
            promised,
            commit,
            prefix,
            log,
            records,
            recorded_commit,
            memory_bytes,
            open_bytes,
            is_stop,
            stop,
        };
        acceptor.check();
        acceptor
    }

    /// The highest ballot promised: this voter accepts none below it.
    pub fn promised(&self) -> Ballot {
        self.promised
    }

    /// All slots up to this one are known to be chosen.
    pub fn commit(&self) -> Slot {
        self.commit
    }

    /// All slots up to this one are known to be chosen, or accepted in the promised ballot.
    pub fn prefix(&self) -> Slot {
        self.prefix
    }

    /// The slot that holds a stop, chosen or not.
    pub fn stop(&self) -> Option<Slot> {
        self.stop
    }

    /// The slot of the stop, if it is known to be chosen.
    pub fn stopped(&self) -> Option<Slot> {
        self.stop.filter(|stop| *stop <= self.commit)
    }

    /// The highest commit index in a record that was taken.
    pub fn recorded_commit(&self) -> Slot {
        self.recorded_commit
    }

    /// The entries in memory.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The bytes of the entries above the commit index.
    pub fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Whether no further slot may be filled until the host trims.
    pub fn is_full(&self) -> bool {
        self.log.bytes() >= self.memory_bytes
    }

    /// Promises this ballot, if it is above the one promised before.
    pub fn promise(&mut self, ballot: Ballot) {
        if ballot > self.promised {
            self.promised = ballot;
            // Entries above the commit index were accepted in other ballots. They are kept (they may be chosen, and
            // this replica may be the only one left that can tell), but in this ballot they count for nothing.
            if !canary::makes(Canary::StaleEntryCounts) {
                self.prefix = self.commit;
            }
            self.records.push(Record::Promised(ballot));
        }
        self.check();
    }

    /// Takes the values that the leader of the promised ballot sends for the slots after `prev`. Returns false, and
    /// takes nothing, if there is a gap before them. Without room, it takes only what needs no writing.
    pub fn accept(&mut self, prev: Slot, values: Vec<Value>, leader_commit: Slot, room: bool) -> bool {
        if prev > self.prefix {
            return false;
        }
        let after = if canary::makes(Canary::ResentIsAppended) { self.prefix } else { prev };
        for (slot, value) in (after + 1..).zip(values) {
            if slot <= self.prefix {
                continue; // known already, and the same: one ballot has one value for a slot
            }
            if !room || (slot > self.log.last() && self.is_full()) || self.stopped().is_some() {
                break;
            }
            self.write(slot, self.promised, value);
            self.prefix = slot;
        }
        let known = if canary::makes(Canary::CommitPastPrefix) { self.log.last() } else { self.prefix };
        self.commit_to(leader_commit.min(known));
        true
    }

    /// Puts a value of this replica's own ballot in the slot after the prefix: only for the leader of the promised
    /// ballot.
    pub fn lead(&mut self, value: Value) -> Slot {
        let slot = self.prefix + 1;
        self.write(slot, self.promised, value);
        self.prefix = slot;
        self.check();
        slot
    }

    /// Takes the value of the slot after the commit index, which is known to be chosen. A configuration has no slot
    /// after its stop.
    pub fn learn(&mut self, value: Value) {
        if self.stopped().is_some() {
            return;
        }
        let slot = self.commit + 1;
        // The ballot in which it was chosen no longer matters: a report of it, in whatever ballot, reports the
        // value that every higher ballot has.
        self.write(slot, self.promised, value);
        self.commit_to(slot);
    }

    /// Notes that all slots up to this one are chosen. It may not lie above the prefix, except by one slot just
    /// learned.
    pub fn commit_to(&mut self, slot: Slot) {
        while self.commit < slot {
            self.commit += 1;
            let held = self.log.get(self.commit).map_or(0, |e| weight(e.value.len()));
            self.open_bytes -= held;
        }
        self.prefix = self.prefix.max(self.commit);
        self.check();
    }

    /// Drops chosen slots from memory.
    pub fn trim(&mut self, through: Slot) {
        self.log.trim(through.min(self.commit));
        self.check();
    }

    /// Jumps to a snapshot above the commit index: the host has applied all slots up to there.
    pub fn jump(&mut self, slot: Slot) {
        let held = |s| self.log.get(s).map_or(0, |e| weight(e.value.len()));
        let open = (self.commit + 1..=slot.min(self.log.last())).map(held).sum::<usize>();
        self.open_bytes -= open;
        self.log.trim(slot);
        // The host reports no snapshot that holds a stop: at that slot, another value was chosen.
        self.stop = self.stop.filter(|stop| *stop > slot);
        self.commit = self.commit.max(slot);
        self.prefix = self.prefix.max(slot);
        self.check();
        // The snapshot is durable, and a restart finds this commit index in it.
        self.recorded_commit = self.recorded_commit.max(slot);
    }

    /// The records to write since the last call.
    pub fn take_records(&mut self) -> Vec<Record> {
        // The commit index travels along with records that must be written anyway. It is there whenever an accept
        // in this ballot is: the prefix that a restart finds reaches as far as the one that the leader knows of.
        // That the stop is chosen is always written, so that it comes before every record of the next configuration.
        let due = !self.records.is_empty() || self.stopped().is_some();
        if due && self.commit > self.recorded_commit {
            self.records.push(Record::Committed(self.commit));
            self.recorded_commit = self.commit;
        }
        std::mem::take(&mut self.records)
    }

    fn write(&mut self, slot: Slot, ballot: Ballot, value: Value) {
        let entry = Entry { slot, ballot, value };
        // Writing the same entry again would only wear the flash.
        if self.log.get(slot) == Some(&entry) {
            return;
        }
        let added = weight(entry.value.len());
        let replaced = self.log.get(slot).map_or(0, |e| weight(e.value.len()));
        if self.log.put(entry.clone()) {
            self.open_bytes = self.open_bytes + added - replaced;
            self.note_stop(&entry);
            self.records.push(Record::Accepted(entry));
        } else {
            debug_assert!(false, "slot {slot} would leave a hole after {}", self.log.last());
        }
    }

    /// A stop was put into the log, or something else in its place.
    fn note_stop(&mut self, entry: &Entry) {
        if (self.is_stop)(&entry.value) {
            // Nothing above a stop can have been chosen, nor can it be any more: see the essay.
            let cut = entry.slot + 1..=self.log.last();
            let held = |slot| self.log.get(slot).map_or(0, |e| weight(e.value.len()));
            self.open_bytes -= cut.map(held).sum::<usize>();
            self.log.cut(entry.slot);
            self.prefix = self.prefix.min(entry.slot);
            self.stop = Some(entry.slot);
        } else if self.stop == Some(entry.slot) {
            self.stop = None;
        }
    }

    fn check(&self) {
        // Invariant: commit <= accepted prefix <= last, and memory reaches down at least to the slot after the
        // commit index.
        debug_assert!(self.commit <= self.prefix, "commit {} above prefix {}", self.commit, self.prefix);
        debug_assert!(self.prefix <= self.log.last(), "prefix {} above {}", self.prefix, self.log.last());
        debug_assert!(self.log.first() <= self.commit + 1, "uncommitted slots left memory");
    }
}
