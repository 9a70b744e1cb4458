//! What a replica has promised, accepted and knows to be chosen, and the records that make it durable.

use super::log::{Log, weight};
use super::message::{Ballot, Entry, Record, Slot, Value};
use selvedge_types::canary::{self, Canary};

/// The replica as a voter. Everything here changes together with the records that say so; what was said about
/// it to others leaves only after those are on disk.
#[derive(Debug, Clone, Hash)]
pub(super) struct Acceptor {
    promised: Ballot,
    commit: Slot,
    prefix: Slot,
    log: Log,
    records: Vec<Record>,
    recorded_commit: Slot,
    memory_bytes: usize,
    /// What lies above the commit index, in bytes.
    open_bytes: usize,
}

impl Acceptor {
    /// A voter as found on disk; `entries` are one run of slots from `snapshot + 1` on.
    pub fn recover(promised: Ballot, commit: Slot, log: Log, memory_bytes: usize) -> Self {
        // What was accepted in the promised ballot beyond the commit index still counts as its prefix.
        let mut prefix = commit;
        while log.get(prefix + 1).is_some_and(|e| e.ballot == promised) {
            prefix += 1;
        }
        let recorded_commit = commit;
        let open_bytes =
            (commit + 1..=log.last()).filter_map(|s| log.get(s)).map(|e| weight(e.value.len())).sum();
        let records = Vec::new();
        let acceptor =
            Self { promised, commit, prefix, log, records, recorded_commit, memory_bytes, open_bytes };
        acceptor.check();
        acceptor
    }

    /// No ballot below this one is answered.
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

    /// What is in memory.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What the slots above the commit index weigh, in bytes.
    pub fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// Whether no further slot may be filled until the host trims.
    pub fn is_full(&self) -> bool {
        self.log.bytes() >= self.memory_bytes
    }

    /// Promises this ballot, if it is above what was promised before.
    pub fn promise(&mut self, ballot: Ballot) {
        if ballot > self.promised {
            self.promised = ballot;
            // Entries above were accepted in other ballots. They are kept (they may be chosen, and this replica
            // may be the only one left that can tell), but in this ballot they count for nothing.
            if !canary::makes(Canary::StaleEntryCounts) {
                self.prefix = self.commit;
            }
            self.records.push(Record::Promised(ballot));
        }
        self.check();
    }

    /// Takes what the leader of the promised ballot says about the slots after `prev`; false, and nothing taken,
    /// if there is a gap before them. Without room, only what needs no writing is taken.
    pub fn accept(&mut self, prev: Slot, values: Vec<Value>, leader_commit: Slot, room: bool) -> bool {
        if prev > self.prefix {
            return false;
        }
        let after = if canary::makes(Canary::ResentIsAppended) { self.prefix } else { prev };
        for (slot, value) in (after + 1..).zip(values) {
            if slot <= self.prefix {
                continue; // known already, and the same: one ballot has one value for a slot
            }
            if !room || (slot > self.log.last() && self.is_full()) {
                break;
            }
            self.write(slot, self.promised, value);
            self.prefix = slot;
        }
        let known = if canary::makes(Canary::CommitPastPrefix) { self.log.last() } else { self.prefix };
        self.commit_to(leader_commit.min(known));
        true
    }

    /// Puts a value of the own ballot in the slot after the prefix: only for the leader of the promised ballot.
    pub fn lead(&mut self, value: Value) -> Slot {
        let slot = self.prefix + 1;
        self.write(slot, self.promised, value);
        self.prefix = slot;
        self.check();
        slot
    }

    /// Takes the value of the slot after the commit index, known to be chosen.
    pub fn learn(&mut self, value: Value) {
        let slot = self.commit + 1;
        // In which ballot it was chosen is of no matter any more: who reports it in whatever ballot reports
        // the value that every higher ballot has.
        self.write(slot, self.promised, value);
        self.commit_to(slot);
    }

    /// All slots up to this one are chosen. It may not lie above the prefix, except by one slot just learned.
    pub fn commit_to(&mut self, slot: Slot) {
        while self.commit < slot {
            self.commit += 1;
            let held = self.log.get(self.commit).map_or(0, |e| weight(e.value.len()));
            self.open_bytes -= held;
        }
        self.prefix = self.prefix.max(self.commit);
        self.check();
    }

    /// Forgets memory of chosen slots.
    pub fn trim(&mut self, through: Slot) {
        self.log.trim(through.min(self.commit));
        self.check();
    }

    /// Jumps to a snapshot above the commit index: the host has all slots up to there.
    pub fn jump(&mut self, slot: Slot) {
        let held = |s| self.log.get(s).map_or(0, |e| weight(e.value.len()));
        let open = (self.commit + 1..=slot.min(self.log.last())).map(held).sum::<usize>();
        self.open_bytes -= open;
        self.log.trim(slot);
        self.commit = self.commit.max(slot);
        self.prefix = self.prefix.max(slot);
        self.check();
        // The snapshot is durable, and says it all at a restart.
        self.recorded_commit = self.recorded_commit.max(slot);
    }

    /// What must be written since it was last asked.
    pub fn take_records(&mut self) -> Vec<Record> {
        // The commit index travels along with what must be written anyway. It is there whenever an accept in this
        // ballot is: the prefix that a restart finds reaches as far as the one that was told to the leader.
        if !self.records.is_empty() && self.commit > self.recorded_commit {
            self.records.push(Record::Committed(self.commit));
            self.recorded_commit = self.commit;
        }
        std::mem::take(&mut self.records)
    }

    fn write(&mut self, slot: Slot, ballot: Ballot, value: Value) {
        let entry = Entry { slot, ballot, value };
        // A rewrite of the very same is not worth the flash.
        if self.log.get(slot) == Some(&entry) {
            return;
        }
        let added = weight(entry.value.len());
        let replaced = self.log.get(slot).map_or(0, |e| weight(e.value.len()));
        if self.log.put(entry.clone()) {
            self.open_bytes = self.open_bytes + added - replaced;
            self.records.push(Record::Accepted(entry));
        } else {
            debug_assert!(false, "slot {slot} would leave a hole after {}", self.log.last());
        }
    }

    fn check(&self) {
        // Invariant: commit <= accepted prefix <= last, and memory reaches down to the commit index at least.
        debug_assert!(self.commit <= self.prefix, "commit {} above prefix {}", self.commit, self.prefix);
        debug_assert!(self.prefix <= self.log.last(), "prefix {} above {}", self.prefix, self.log.last());
        debug_assert!(self.log.first() <= self.commit + 1, "uncommitted slots left memory");
    }
}
