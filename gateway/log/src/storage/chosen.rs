//! Chosen values from the log on disk, for a replica that fell behind what its leader holds in memory.
//!
//! The log holds what a replica *accepted*. A slot may have been accepted several times, in one ballot after another,
//! and only the last of those values was chosen. So a value is given out only when the log itself says that it was
//! chosen: when, in the order of appending, a record of the commit index that reaches the slot comes after it.
//!
//! # Why this is right
//!
//! Let the running process record the commit index c, and let c lie above what the process began with: the highest of
//! what it found committed at its start, what it was repaired through, and the snapshot that it installed. (Nothing
//! below that is given out: [`selvedge_paxos::Consensus::logged_after`].) When c was recorded, the replica held an
//! entry for each slot up to c that it had not applied from a snapshot, and that entry was the chosen value. Each entry
//! had been recorded before c: when the replica accepted it, or before the process started, which then found it in the
//! log. A slot at or below the commit index is never written again. So of a slot's records, the last one in front of
//! c's record is the chosen one.
//!
//! The same holds across configurations. The record of the next configuration's beginning follows the stop and the
//! record that the stop is chosen. Entries that the earlier configuration recorded above its stop are void, and also
//! stand in front of it. Behind it, the log holds only commit indexes of later configurations.
//!
//! A slot that a snapshot skipped may have records that were never chosen: it lies below what the process began with. A
//! commit index from an earlier process reaches no higher than what this one began with, even where trimming writes its
//! record again behind younger ones. And records that became void when the replica later began anew come before those
//! that replaced them.
//!
//! # Limits
//!
//! A [`Cursor`] reads on from where it stopped, and holds what it has read and not given out yet. It keeps what it gave
//! last, in case that answer is lost. An answer has [`LOG_PIECE_BYTES`], or one value; a turn reads [`TURN_BYTES`]; a
//! cursor holds [`HELD_BYTES`], and gives up beyond that.

use crate::{LogError, LogReader};
use selvedge_fabric::record::{KIND_FORGOTTEN, LogRecord, Position, Stretch};
use selvedge_fabric::shard::{
    KIND_ACCEPTED, KIND_BEGUN_ANEW, KIND_COMMITTED, KIND_CONFIGURATION, KIND_SUCCESSION,
};
use selvedge_paxos::Value;
use std::collections::BTreeMap;

/// The most bytes of values in one answer, unless a single value is longer.
pub const LOG_PIECE_BYTES: usize = 64 * 1024;
/// The most bytes of the log that one turn reads, unless a single unit is longer.
pub const TURN_BYTES: u64 = 1024 * 1024;
/// The most bytes of values that wait for evidence that they are chosen: as much as a group holds in memory.
pub const HELD_BYTES: usize = 4 * 1024 * 1024;
/// What a value is assumed to take besides its bytes.
const OVERHEAD_BYTES: usize = 64;

/// The result of one turn of a [`Cursor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Values of consecutive slots, starting with the one asked for.
    Values(Vec<Value>),
    /// Nothing yet, but there is more to read.
    More,
    /// Nothing, and nothing more to read at the moment.
    Ends,
    /// The log does not hold the slot, or can't be read.
    Gone,
}

/// How far the reading for one replica has come in the log.
#[derive(Debug)]
pub struct Cursor {
    group: u16,
    at: Position,
    /// Values that were accepted and are not known to be chosen, by slot.
    open: BTreeMap<u64, Value>,
    open_bytes: usize,
    /// Chosen values that were not asked for yet, or whose answer may be lost.
    chosen: BTreeMap<u64, Value>,
    chosen_bytes: usize,
    /// No slot below this one is held any more.
    first: u64,
}

fn weight(value: &Value) -> usize {
    value.len() + OVERHEAD_BYTES
}

impl Cursor {
    /// A cursor at the start of a stretch, for values from slot `first` on.
    pub fn new(group: u16, stretch: Stretch, first: u64) -> Self {
        let (open, chosen) = (BTreeMap::new(), BTreeMap::new());
        Self { group, at: stretch.start, open, open_bytes: 0, chosen, chosen_bytes: 0, first }
    }

    /// Whether the cursor can still give this slot.
    pub fn reaches_back_to(&self, slot: u64) -> bool {
        self.first <= slot
    }

    /// Values from slot `from` on. `from` never decreases, and no slot below it is asked for again.
    pub fn turn(&mut self, reader: &LogReader, end: Position, from: u64) -> Turn {
        self.first = self.first.max(from);
        self.forget_below(from);
        if self.chosen_bytes < LOG_PIECE_BYTES
            && let Err(e) = self.read(reader, end)
        {
            tracing::warn!("a replica that is behind can't be served from the log: {e}");
            return Turn::Gone;
        }
        let mut bytes = 0;
        let values: Vec<Value> = (from..)
            .map_while(|slot| self.chosen.get(&slot))
            .take_while(|value| {
                let begun = bytes > 0;
                bytes += weight(value);
                !begun || bytes <= LOG_PIECE_BYTES
            })
            .cloned()
            .collect();
        match values.is_empty() {
            false => Turn::Values(values),
            // Later slots are chosen, but this one has no record: it was trimmed.
            true if !self.chosen.is_empty() || self.open_bytes > HELD_BYTES => Turn::Gone,
            true if self.at < end => Turn::More,
            true => Turn::Ends,
        }
    }

    fn read(&mut self, reader: &LogReader, end: Position) -> Result<(), LogError> {
        let (group, at) = (self.group, self.at);
        self.at = reader.read(at, end, group, TURN_BYTES, &mut |record| self.take_in(record))?;
        Ok(())
    }

    /// Takes in the next record of the group; returns false when the cursor holds enough.
    fn take_in(&mut self, record: LogRecord) -> bool {
        match record.kind {
            KIND_ACCEPTED if record.slot >= self.first => {
                self.open_bytes += weight(&record.payload);
                if let Some(old) = self.open.insert(record.slot, record.payload) {
                    self.open_bytes -= weight(&old);
                }
            }
            KIND_COMMITTED => {
                if let Ok(bytes) = <[u8; 8]>::try_from(&*record.payload) {
                    self.committed(u64::from_le_bytes(bytes));
                }
            }
            // A replica that was given up wrote what stands in front of KIND_FORGOTTEN.
            KIND_BEGUN_ANEW | KIND_FORGOTTEN => {
                self.open.clear();
                self.open_bytes = 0;
            }
            // The record's slot is that of the stop. No earlier configuration chose anything in a later slot.
            KIND_CONFIGURATION | KIND_SUCCESSION => {
                let void = self.open.split_off(&(record.slot + 1));
                self.open_bytes -= void.values().map(weight).sum::<usize>();
            }
            _ => {}
        }
        self.chosen_bytes < LOG_PIECE_BYTES && self.open_bytes <= HELD_BYTES
    }

    fn committed(&mut self, through: u64) {
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() <= through) {
            let (slot, value) = entry.remove_entry();
            self.open_bytes -= weight(&value);
            self.chosen_bytes += weight(&value);
            if let Some(same) = self.chosen.insert(slot, value) {
                self.chosen_bytes -= weight(&same);
            }
        }
    }

    fn forget_below(&mut self, slot: u64) {
        while let Some(entry) = self.chosen.first_entry().filter(|entry| *entry.key() < slot) {
            self.chosen_bytes -= weight(&entry.remove());
        }
        while let Some(entry) = self.open.first_entry().filter(|entry| *entry.key() < slot) {
            self.open_bytes -= weight(&entry.remove());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Log, LogOptions, MemoryDisk};
    use std::sync::Arc;

    const IDENTITY: [u8; 16] = [3; 16];

    /// A group's log, written as its replica does.
    struct Written {
        disk: MemoryDisk,
        log: Log,
    }

    impl Written {
        fn new() -> Self {
            let disk = MemoryDisk::new(64 << 20);
            let mut settings = LogOptions::new(IDENTITY);
            (settings.segment_bytes, settings.keep_free_bytes, settings.unit_bytes) =
                (256 << 10, 0, 32 << 10);
            let log = Log::open(Arc::new(disk.clone()), settings, &mut |_| {}).unwrap().0;
            Self { disk, log }
        }

        fn write(&mut self, kind: u8, slot: u64, payload: Vec<u8>) {
            let (group, configuration, ballot) = (1, 1, (1, 1));
            let record = LogRecord { group, configuration, kind, ballot, slot, payload: payload.into() };
            self.log.commit(&[record]).unwrap();
        }

        fn accepted(&mut self, slot: u64, value: &[u8]) {
            self.write(KIND_ACCEPTED, slot, value.to_vec());
        }

        fn committed(&mut self, through: u64) {
            self.write(KIND_COMMITTED, 0, through.to_le_bytes().to_vec());
        }

        fn turn(&self, cursor: &mut Option<Cursor>, from: u64) -> Turn {
            let Some(stretch) = self.log.stretch(1, from) else { return Turn::Gone };
            let reader = LogReader::new(Arc::new(self.disk.clone()), IDENTITY);
            if cursor.as_ref().is_none_or(|cursor| !cursor.reaches_back_to(from)) {
                *cursor = Some(Cursor::new(1, stretch, from));
            }
            cursor.as_mut().unwrap().turn(&reader, stretch.end, from)
        }

        /// Everything that can be read from a slot on.
        fn all(&self, mut from: u64) -> Vec<Value> {
            let (mut cursor, mut all) = (None, Vec::new());
            loop {
                match self.turn(&mut cursor, from) {
                    Turn::Values(values) => {
                        assert!(
                            values.len() == 1 || values.iter().map(weight).sum::<usize>() <= LOG_PIECE_BYTES
                        );
                        from += values.len() as u64;
                        all.extend(values);
                    }
                    Turn::More => {}
                    Turn::Ends | Turn::Gone => return all,
                }
            }
        }
    }

    fn values(texts: &[&str]) -> Vec<Value> {
        texts.iter().map(|text| Value::from(text.as_bytes())).collect()
    }

    #[test]
    fn of_what_was_accepted_one_after_another_the_last_before_the_commit_index_counts_and_nothing_above_it() {
        let mut written = Written::new();
        for (slot, value) in [(1, "a"), (2, "of a ballot that was lost"), (3, "this too")] {
            written.accepted(slot, value.as_bytes());
        }
        assert_eq!(written.all(1), values(&[]), "nobody knows what is chosen");
        written.committed(1);
        assert_eq!(written.all(1), values(&["a"]));
        written.accepted(2, b"b");
        assert_eq!(written.all(1), values(&["a"]));
        written.accepted(3, b"c");
        written.committed(3);
        written.accepted(4, b"perhaps");
        assert_eq!(written.all(1), values(&["a", "b", "c"]));
        assert_eq!(written.all(3), values(&["c"]));
        assert_eq!(written.all(4), values(&[]));
        // Records from before a replica began anew are void.
        written.write(KIND_BEGUN_ANEW, 4, Vec::new());
        written.committed(4);
        assert_eq!(written.all(4), values(&[]));
    }

    #[test]
    fn a_long_log_is_given_in_pieces_an_answer_that_was_lost_again_and_what_was_trimmed_never() {
        let mut written = Written::new();
        let value = |slot: u64| vec![slot as u8; 100 + (slot % 7) as usize * 900];
        for slot in 1..=1_000_u64 {
            written.accepted(slot, &value(slot));
            if slot % 5 == 0 {
                written.committed(slot - 3);
            }
        }
        written.accepted(1_001, &vec![1; 3 * LOG_PIECE_BYTES]);
        written.committed(1_001);
        let all = written.all(1);
        assert_eq!(all.len(), 1_001);
        assert!((1..=1_000).all(|slot| *all[slot as usize - 1] == *value(slot)));

        let mut cursor = None;
        let turn = |cursor: &mut Option<Cursor>, from| loop {
            match written.turn(cursor, from) {
                Turn::More => {}
                turn => break turn,
            }
        };
        let first = turn(&mut cursor, 300);
        assert_eq!(turn(&mut cursor, 300), first);
        let Turn::Values(some) = &first else { panic!("{first:?}") };
        let next = turn(&mut cursor, 300 + some.len() as u64);
        assert!(matches!(&next, Turn::Values(more) if *more[0] == *value(300 + some.len() as u64)));
        assert_eq!(turn(&mut cursor, 300), first, "one that begins anew asks for it once more");
        let held = cursor.as_ref().map(|c| (c.chosen_bytes, c.open_bytes)).unwrap();
        assert!(held.0 < 3 * LOG_PIECE_BYTES && held.1 < LOG_PIECE_BYTES, "{held:?}");

        written.log.keep_from(1, 900);
        assert!(written.log.trim().unwrap() > 0);
        let mut cursor = None;
        assert_eq!(written.turn(&mut cursor, 2), Turn::Gone);
        let late = written.all(990);
        assert_eq!(late.len(), 12);
    }

    #[test]
    fn what_is_damaged_is_not_read_past() {
        let mut written = Written::new();
        for slot in 1..=400 {
            written.accepted(slot, &[slot as u8; 1_000]);
            written.committed(slot);
        }
        written.disk.meddle("wal-0000000000000001.log", |bytes| bytes[100_000] ^= 1);
        let got = written.all(1);
        assert!(got.len() < 120, "{}", got.len());
        assert_eq!(written.all(300).len(), 101, "what lies behind is whole");
    }
}
