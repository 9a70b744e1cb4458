//! The part of a replica's log that is held in memory: a run of slots without holes.

use super::message::{Entry, Slot};
use std::collections::VecDeque;

/// The bytes that an entry counts beside its value, so that empty ones are not free.
pub(super) const ENTRY_OVERHEAD_BYTES: usize = 64;

/// The bytes that an entry with a value of this length counts for.
pub(super) fn weight(value_bytes: usize) -> usize {
    value_bytes.saturating_add(ENTRY_OVERHEAD_BYTES)
}

/// Consecutive slots `first ..= last`; all slots before `first` are chosen and kept by the host.
#[derive(Debug, Clone, Hash)]
pub(super) struct Log {
    first: Slot,
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Log {
    /// An empty log that continues after this slot.
    pub fn after(slot: Slot) -> Self {
        Self { first: slot + 1, entries: VecDeque::new(), bytes: 0 }
    }

    /// The first slot in memory (or the next one to come, if memory is empty).
    pub fn first(&self) -> Slot {
        self.first
    }

    /// The last slot that holds an entry; `first - 1` if none does.
    pub fn last(&self) -> Slot {
        self.first - 1 + self.entries.len() as Slot
    }

    /// The weight of all entries in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entry of this slot, if it is in memory.
    pub fn get(&self, slot: Slot) -> Option<&Entry> {
        self.entries.get(usize::try_from(slot.checked_sub(self.first)?).ok()?)
    }

    /// Puts an entry into a slot of `first ..= last + 1`, replacing what it held. Returns false for any other slot,
    /// which would leave a hole.
    pub fn put(&mut self, entry: Entry) -> bool {
        let Some(index) = entry.slot.checked_sub(self.first).and_then(|i| usize::try_from(i).ok()) else {
            return false;
        };
        if index > self.entries.len() {
            return false;
        }
        self.bytes += weight(entry.value.len());
        match self.entries.get_mut(index) {
            Some(held) => {
                self.bytes -= weight(held.value.len());
                *held = entry;
            }
            None => self.entries.push_back(entry),
        }
        true
    }

    /// Drops all slots above this one.
    pub fn cut(&mut self, after: Slot) {
        while self.last() > after
            && let Some(entry) = self.entries.pop_back()
        {
            self.bytes -= weight(entry.value.len());
        }
    }

    /// Drops all slots up to this one; if none remains, the log continues after it.
    pub fn trim(&mut self, through: Slot) {
        while self.first <= through {
            let Some(entry) = self.entries.pop_front() else {
                self.first = through + 1;
                return;
            };
            self.bytes -= weight(entry.value.len());
            self.first += 1;
        }
    }

    /// The entries of `from ..= through` in memory, as many as weigh no more than `max_bytes` together, and at
    /// least one.
    pub fn chunk(&self, from: Slot, through: Slot, max_bytes: usize) -> impl Iterator<Item = &Entry> {
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        // There is nothing to give before `first`: the answer is empty, never a run that begins later than asked.
        let skip = if from < self.first { usize::MAX } else { skip };
        let mut taken = 0usize;
        self.entries.iter().skip(skip).take_while(move |e| {
            let begun = taken > 0;
            taken = taken.saturating_add(weight(e.value.len()));
            e.slot <= through && (!begun || taken <= max_bytes)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ballot;

    fn entry(slot: Slot, bytes: usize) -> Entry {
        Entry { slot, ballot: Ballot::ZERO, value: vec![0; bytes].into() }
    }

    #[test]
    fn no_hole_gets_in() {
        let mut log = Log::after(4);
        assert!(!log.put(entry(4, 1)));
        assert!(!log.put(entry(6, 1)));
        assert!(!log.put(entry(u64::MAX, 1)));
        assert!(log.put(entry(5, 1)) && log.put(entry(6, 1)) && log.put(entry(5, 9)));
        assert_eq!((log.first(), log.last(), log.bytes()), (5, 6, 10 + 2 * ENTRY_OVERHEAD_BYTES));
    }

    #[test]
    fn trimming_past_the_end_jumps() {
        let mut log = Log::after(0);
        assert!(log.put(entry(1, 3)) && log.put(entry(2, 3)));
        log.trim(1);
        assert_eq!((log.first(), log.last()), (2, 2));
        log.trim(9);
        assert_eq!((log.first(), log.last(), log.bytes()), (10, 9, 0));
    }

    #[test]
    fn a_cut_drops_what_lies_above() {
        let mut log = Log::after(3);
        for slot in 4..=6 {
            assert!(log.put(entry(slot, 2)));
        }
        log.cut(4);
        assert_eq!((log.first(), log.last(), log.bytes()), (4, 4, 2 + ENTRY_OVERHEAD_BYTES));
        log.cut(9);
        assert_eq!(log.last(), 4);
        log.cut(0);
        assert_eq!((log.first(), log.last(), log.bytes()), (4, 3, 0));
    }

    #[test]
    fn a_chunk_keeps_its_bytes_and_never_starts_late() {
        let mut log = Log::after(0);
        for slot in 1..=9 {
            assert!(log.put(entry(slot, 36)));
        }
        let slots = |from, through, max| log.chunk(from, through, max).map(|e| e.slot).collect::<Vec<_>>();
        assert_eq!(slots(2, 9, 250), [2, 3]);
        assert_eq!(slots(2, 9, 1), [2]);
        assert_eq!(slots(8, 8, 9999), [8]);
        assert_eq!(slots(10, 99, 9999), [0u64; 0]);
        log.trim(3);
        assert_eq!(log.chunk(2, 9, 9999).count(), 0);
    }
}
