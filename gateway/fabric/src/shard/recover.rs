//! The form of a group's records in the log, and the recovery of a replica from them.

use super::{CONFIGURATION, Slot};
use crate::machine::unknown_proposal_version;
use crate::record::LogRecord;
use selvedge_paxos::{Ballot, Entry, Record, Recovered};
use selvedge_types::ids::ShardId;
use std::collections::BTreeMap;

/// The kind of a record with a promised ballot. The newest counts.
pub const KIND_PROMISED: u8 = 1;
/// The kind of a record with an accepted entry of its slot.
pub const KIND_ACCEPTED: u8 = 2;
/// The kind of a record with a commit index, as eight little-endian bytes. The newest counts.
pub const KIND_COMMITTED: u8 = 3;

/// All entries of the group before this record are void: the replica had lost records and began anew. The record's
/// slot is the first that the replica then lacked, so the log keeps it as long as anything that it voids.
pub const KIND_BEGUN_ANEW: u8 = 4;

/// The replica that began anew votes again. A start without this record finds the replica damaged, however whole
/// everything else looks by then: a lost snapshot may have been fetched again, but the voided votes are not known
/// yet.
pub const KIND_HEALED: u8 = 5;

/// The record that a replica writes when its lost records are repaired.
pub(super) fn healed(group: ShardId, commit: Slot) -> LogRecord {
    mark(group, KIND_HEALED, commit.max(1))
}

/// The first record that a replica writes after it lost records. Entries that it still holds may have lost
/// replacements, or lie behind a hole. It learns everything again, and a later start must not mix the two.
pub(super) fn begun_anew(group: ShardId, snapshot_slot: Slot) -> LogRecord {
    mark(group, KIND_BEGUN_ANEW, snapshot_slot + 1)
}

/// A record that only states a fact. Its slot is one that no snapshot trims too soon.
fn mark(group: ShardId, kind: u8, slot: Slot) -> LogRecord {
    let (group, configuration, ballot) = (group.0, CONFIGURATION, (0, 0));
    LogRecord { group, configuration, kind, ballot, slot, payload: [].into() }
}

/// A group's record in the log's form. A record of the group's state, rather than of a slot, carries slot 0.
pub(super) fn record(group: ShardId, record: Record) -> LogRecord {
    let form = |kind, ballot: Ballot, slot, payload| LogRecord {
        group: group.0,
        configuration: CONFIGURATION,
        kind,
        ballot: (ballot.round, ballot.gateway),
        slot,
        payload,
    };
    match record {
        Record::Promised(ballot) => form(KIND_PROMISED, ballot, 0, [].into()),
        Record::Accepted(entry) => form(KIND_ACCEPTED, entry.ballot, entry.slot, entry.value),
        Record::Committed(slot) => form(KIND_COMMITTED, Ballot::ZERO, 0, slot.to_le_bytes().into()),
    }
}

/// Gathers one group's records while a restart reads them.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    promised: Ballot,
    commit: Slot,
    entries: BTreeMap<Slot, Entry>,
    begun_anew: bool,
    unreadable: Option<String>,
}

impl Replay {
    /// Takes in the next record of the group, in the order of the log.
    pub fn record(&mut self, record: LogRecord) {
        let ballot = Ballot { round: record.ballot.0, gateway: record.ballot.1 };
        match record.kind {
            KIND_PROMISED => self.promised = self.promised.max(ballot),
            KIND_ACCEPTED => {
                if let Some(version) = unknown_proposal_version(&record.payload) {
                    self.note_unreadable(&record, format!("of format version {version}"));
                }
                let entry = Entry { slot: record.slot, ballot, value: record.payload };
                self.entries.insert(entry.slot, entry);
            }
            KIND_COMMITTED => match <[u8; 8]>::try_from(&*record.payload) {
                Ok(bytes) => self.commit = self.commit.max(u64::from_le_bytes(bytes)),
                Err(_) => self.note_unreadable(&record, "a commit index of other than 8 bytes".to_string()),
            },
            KIND_BEGUN_ANEW => {
                self.entries.clear();
                self.begun_anew = true;
            }
            KIND_HEALED => self.begun_anew = false,
            kind => self.note_unreadable(&record, format!("of the unknown kind {kind}")),
        }
    }

    fn note_unreadable(&mut self, record: &LogRecord, what: String) {
        let why = || format!("the record of slot {} in shard {} is {what}", record.slot, record.group);
        self.unreadable.get_or_insert_with(why);
    }

    /// The first record of the group that this release does not understand: another release wrote it. Such a
    /// replica must neither run nor begin anew.
    pub fn unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }

    /// Whether the replica lost records and was not repaired yet when it stopped.
    pub fn is_damaged(&self) -> bool {
        self.begun_anew
    }

    /// The state from which the group recovers, given its newest durable snapshot. `damaged` carries a random
    /// number if the log may have lost records of this group.
    pub fn finish(mut self, snapshot_slot: Slot, damaged: Option<u64>) -> Recovered {
        let entries = self.entries.split_off(&(snapshot_slot + 1)).into_values().collect();
        Recovered { promised: self.promised, commit: self.commit, snapshot_slot, entries, damaged }
    }
}
