//! The form of a group's records in the log, and the recovery of a replica from them.
//!
//! Each record carries the number of its configuration, because ballots of one configuration mean nothing in another:
//! a promise or a vote counts in its own configuration only. The first record of each later configuration is
//! [`KIND_CONFIGURATION`]. In front of it, the log holds the stop that the configuration follows, unless a snapshot
//! covers the stop's slot. So all slots up to the stop are chosen, and the last record of each holds its chosen value.
//! Records of an earlier configuration behind it are state records that trimming carried forward. They do not count.
//!
//! A log has lost records if it names a configuration whose beginning neither the log nor a snapshot holds. A replica
//! that lost records begins in the configuration of its snapshot, does not vote there, and learns what was chosen
//! since. It stays damaged in each configuration that it passes through, because it may have voted in any of them.
//!
//! After its host has given a replica up, the log holds [`KIND_FORGOTTEN`], and nothing in front of that counts.

use super::Slot;
use crate::configuration::{Configuration, FIRST_CONFIGURATION, Succession, is_stop};
use crate::machine::unknown_proposal_version;
use crate::record::{KIND_FORGOTTEN, LogRecord};
use selvedge_paxos::{Ballot, Entry, Record, Recovered, Value};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::ShardId;
use std::collections::BTreeMap;

/// The kind of a record with a promised ballot. The newest counts.
pub const KIND_PROMISED: u8 = 1;
/// The kind of a record with an accepted entry of its slot.
pub const KIND_ACCEPTED: u8 = 2;
/// The kind of a record with a commit index, as eight little-endian bytes. The newest counts.
pub const KIND_COMMITTED: u8 = 3;

/// The replica had lost records and began anew: earlier entries of the group, in this record's slot and above, are
/// void. The record's slot is the first that the replica lacked at that time, so the log keeps the record as long as
/// any entry that it voids.
pub const KIND_BEGUN_ANEW: u8 = 4;

/// The replica that began anew votes again. A start without this record finds the replica damaged, however whole
/// everything else looks by then: a lost snapshot may have been fetched again, but the voided votes are not known
/// yet.
pub const KIND_HEALED: u8 = 5;

/// A configuration begins. The payload is what [`Configuration::encode`] writes. The record's slot is that of the stop,
/// so the log keeps the record until a snapshot holds the configuration.
pub const KIND_CONFIGURATION: u8 = 6;

/// The replica was made after its shard began. It votes in no configuration up to the one whose number the payload
/// holds as four little-endian bytes, because an earlier replica on this gateway may have voted there before it was
/// retired and dropped. The log must keep this for good, so it is a state record.
pub const KIND_LEARNS: u8 = 7;

/// A recovery begins a configuration, after which the replica goes on without the majority that it lost. The payload is the
/// number of the configuration that ends, as four little-endian bytes, and what [`Configuration::encode`] writes. The
/// record's slot is that of the [`Succession`], which the log holds as an accepted entry.
pub const KIND_SUCCESSION: u8 = 8;

/// The record that a replica writes when its lost records are repaired.
pub(super) fn healed(group: ShardId, configuration: u32, commit: Slot) -> LogRecord {
    mark(group, configuration, KIND_HEALED, commit.max(1))
}

/// The first record that a replica writes after it lost records. Entries that it still holds may have lost
/// replacements, or lie behind a hole. It learns everything again, and a later start must not mix the two.
pub(super) fn begun_anew(group: ShardId, configuration: u32, snapshot_slot: Slot) -> LogRecord {
    mark(group, configuration, KIND_BEGUN_ANEW, snapshot_slot + 1)
}

/// The first record of a replica that is made after its shard began, and votes in no configuration up to `until`.
pub fn learns(group: ShardId, until: u32) -> LogRecord {
    LogRecord { payload: until.to_le_bytes().into(), ..mark(group, until, KIND_LEARNS, 0) }
}

/// The first record of each later configuration.
pub(super) fn configuration(group: ShardId, begins: &Configuration) -> LogRecord {
    let payload = begins.encode().into();
    LogRecord { payload, ..mark(group, begins.number, KIND_CONFIGURATION, begins.base) }
}

/// A record that only states a fact. Its slot is one that no snapshot trims too soon.
fn mark(group: ShardId, configuration: u32, kind: u8, slot: Slot) -> LogRecord {
    let (group, ballot) = (group.0, (0, 0));
    LogRecord { group, configuration, kind, ballot, slot, payload: [].into() }
}

/// A group's record in the log's form. A record of the group's state, rather than of a slot, carries slot 0.
pub(super) fn record(group: ShardId, configuration: u32, record: Record) -> LogRecord {
    let form = |kind, ballot: Ballot, slot, payload| LogRecord {
        group: group.0,
        configuration,
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

/// The promise and the entries that the records of one configuration hold.
#[derive(Debug, Clone, Default)]
struct Part {
    promised: Ballot,
    entries: BTreeMap<Slot, Entry>,
}

/// Gathers one group's records while a restart reads them.
#[derive(Debug, Clone, Default)]
pub struct Replay {
    /// By configuration number: the newest configuration whose beginning was read, and later ones.
    parts: BTreeMap<u32, Part>,
    commit: Slot,
    /// The newest configuration whose beginning was read.
    configuration: Option<Configuration>,
    /// The last recorded values of slots that belong to earlier configurations than `configuration`.
    ended: BTreeMap<Slot, Value>,
    /// The highest configuration number of any record other than [`KIND_LEARNS`].
    highest: u32,
    silent_until: u32,
    /// At a witness: the log holds the chosen values of all slots between its base and this one. They are not held here.
    passed: Option<Slot>,
    /// The slot of a witness's base.
    base: Slot,
    begun_anew: bool,
    unreadable: Option<String>,
}

/// The state of a replica that a restart finds in its log, beside the snapshot.
#[derive(Debug, Clone, Default)]
pub struct FoundReplica {
    /// The configuration to begin in; `None` for that of the machine.
    pub(super) configuration: Option<Configuration>,
    /// The chosen values between the snapshot and the beginning of that configuration, which the machine applies first.
    pub(super) ended: Vec<(Slot, Value)>,
    /// The group's state in that configuration.
    pub(super) recovered: Recovered,
    /// The replica votes in no configuration up to the one with this number.
    pub(super) silent_until: u32,
    /// Whether the replica is new and must first record that ([`KIND_LEARNS`]).
    pub(super) is_new: bool,
    /// At a witness whose log is whole: the slot up to which it follows what was chosen, and the configuration there.
    pub(super) passed: Option<(Slot, Option<Configuration>)>,
}

impl From<Recovered> for FoundReplica {
    fn from(recovered: Recovered) -> Self {
        Self { recovered, ..Self::default() }
    }
}

impl FoundReplica {
    /// A new replica, made while the shard is in this configuration. It learns, and votes only in later configurations
    /// that name it as a member. If this gateway had a replica of the shard before, that one must have been retired
    /// before it was dropped.
    pub fn learner(configuration: u32) -> Self {
        Self { silent_until: configuration, is_new: true, ..Self::default() }
    }

    /// The same replica, for a gateway whose log may have lost an earlier replica of this shard, together with its
    /// votes. `nonce` is a number that no earlier start has drawn.
    pub fn damaged(mut self, nonce: u64) -> Self {
        self.recovered.damaged = Some(nonce);
        self
    }

    /// The state that the group recovers from.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }
}

impl Replay {
    /// For the replica of a witness with this base. It does not hold chosen values, because a witness may keep more of
    /// them than fit into memory, and needs none of them.
    pub fn of_witness(base: Slot, configuration: Option<Configuration>) -> Self {
        Self { passed: Some(base), base, configuration, ..Self::default() }
    }

    /// Takes in the next record of the group, in the order of the log.
    pub fn record(&mut self, record: LogRecord) {
        if record.kind == KIND_FORGOTTEN {
            // What another release wrote stays unreadable, so that nothing is changed.
            let (base, passed) = (self.base, self.passed.map(|_| self.base));
            *self = Self { unreadable: self.unreadable.take(), base, passed, ..Self::default() };
            return;
        }
        let ballot = Ballot { round: record.ballot.0, gateway: record.ballot.1 };
        if record.kind != KIND_LEARNS {
            self.highest = self.highest.max(record.configuration);
        }
        match record.kind {
            KIND_PROMISED => {
                if let Some(part) = self.part(record.configuration) {
                    part.promised = part.promised.max(ballot);
                }
            }
            KIND_ACCEPTED => {
                if let Some(version) = unknown_proposal_version(&record.payload) {
                    self.note_unreadable(&record, format!("of format version {version}"));
                }
                if let Some(part) = self.part(record.configuration) {
                    let entry = Entry { slot: record.slot, ballot, value: record.payload };
                    let held = part.entries.get(&entry.slot).filter(|held| held.ballot > ballot);
                    if held.is_none() || !canary::makes(Canary::OldPromiseReplaces) {
                        part.entries.insert(entry.slot, entry);
                    }
                }
            }
            KIND_COMMITTED => match <[u8; 8]>::try_from(&*record.payload) {
                Ok(bytes) => {
                    self.commit = self.commit.max(u64::from_le_bytes(bytes));
                    self.pass(self.commit);
                }
                Err(_) => self.note_unreadable(&record, "a commit index of other than 8 bytes".to_string()),
            },
            KIND_BEGUN_ANEW => self.begin_anew(record.slot),
            KIND_HEALED => self.begun_anew = false,
            KIND_LEARNS => match <[u8; 4]>::try_from(&*record.payload) {
                Ok(bytes) => self.silent_until = self.silent_until.max(u32::from_le_bytes(bytes)),
                Err(_) => self
                    .note_unreadable(&record, "a configuration's number of other than 4 bytes".to_string()),
            },
            KIND_CONFIGURATION => match Configuration::decode(&record.payload) {
                Ok(begins) => {
                    let ended = begins.number - 1; // a stored one is not the first
                    self.begin(begins, ended);
                }
                Err(why) => self.note_unreadable(&record, why.to_string()),
            },
            KIND_SUCCESSION => {
                let (ended, begins) = record.payload.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
                match Configuration::decode(begins) {
                    Ok(begins) => self.begin(begins, u32::from_le_bytes(*ended)),
                    Err(why) => self.note_unreadable(&record, why.to_string()),
                }
            }
            kind => self.note_unreadable(&record, format!("of the unknown kind {kind}")),
        }
    }

    fn present(&self) -> u32 {
        self.configuration.as_ref().map_or(FIRST_CONFIGURATION, |c| c.number)
    }

    /// The part to which a record of this configuration belongs; `None` if the configuration is over.
    fn part(&mut self, configuration: u32) -> Option<&mut Part> {
        if canary::makes(Canary::OldPromiseReplaces) {
            return Some(self.parts.entry(FIRST_CONFIGURATION).or_default());
        }
        (configuration >= self.present()).then(|| self.parts.entry(configuration).or_default())
    }

    /// Begins a configuration behind the one of the number `ended`.
    fn begin(&mut self, begins: Configuration, ended: u32) {
        if begins.number <= self.present() {
            return; // read before
        }
        self.pass(begins.base);
        let mixed = canary::makes(Canary::OldPromiseReplaces);
        let number = if mixed { FIRST_CONFIGURATION } else { ended };
        if let Some(before) = self.parts.get_mut(&number) {
            let above = before.entries.split_off(&(begins.base + 1));
            let ended = std::mem::replace(&mut before.entries, above).into_values();
            self.ended.extend(ended.map(|entry| (entry.slot, entry.value)));
        }
        if !mixed {
            self.parts = self.parts.split_off(&begins.number);
        }
        self.configuration = Some(begins);
    }

    /// At a witness, drops the values of the present configuration that are known to be chosen.
    fn pass(&mut self, chosen: Slot) {
        let present = self.present();
        let Some(passed) = &mut self.passed else { return };
        let Some(part) = self.parts.get_mut(&present) else { return };
        while let Some(first) = part.entries.first_entry()
            && *first.key() <= chosen.min(*passed + 1)
        {
            *passed = (*passed).max(first.remove().slot);
        }
    }

    fn begin_anew(&mut self, from: Slot) {
        self.passed = self.passed.map(|passed| passed.min(from.saturating_sub(1)).max(self.base));
        for part in self.parts.values_mut() {
            part.entries.split_off(&from);
        }
        self.ended.split_off(&from);
        // The replica began anew in the configuration of its snapshot, and recorded each later one again.
        if self.configuration.as_ref().is_some_and(|c| c.base >= from) {
            self.configuration = None;
        }
        self.begun_anew = true;
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

    /// Whether the log holds any record of the replica.
    pub fn has_records(&self) -> bool {
        self.highest > 0 || self.came_later()
    }

    /// Takes in what the host's own mark says: the replica votes in no configuration up to this one.
    pub fn silent_until(&mut self, configuration: u32) {
        self.silent_until = self.silent_until.max(configuration);
    }

    /// Whether the log says that the replica was made after its shard began ([`FoundReplica::learner`]).
    pub fn came_later(&self) -> bool {
        self.silent_until > 0
    }

    /// Whether the replica lost records and was not repaired yet when it stopped.
    pub fn is_damaged(&self) -> bool {
        self.begun_anew
    }

    /// Whether the log lacks records that must be there beside a snapshot of this slot and configuration (`None` for
    /// the first): the record of the newest configuration's beginning, or an entry between the snapshot and that
    /// beginning.
    pub fn lacks_records(&self, snapshot_slot: Slot, snapshot: Option<&Configuration>) -> bool {
        let newest = self.newest(snapshot);
        let (number, base) = newest.map_or((FIRST_CONFIGURATION, 0), |c| (c.number, c.base));
        if let Some(passed) = self.passed {
            return self.highest > number || passed < base;
        }
        let behind = self.ended.range(snapshot_slot.saturating_add(1)..);
        let held = behind.take_while(|(slot, _)| **slot <= base).count() as u64;
        self.highest > number || held < base.saturating_sub(snapshot_slot)
    }

    fn newest<'a>(&'a self, snapshot: Option<&'a Configuration>) -> Option<&'a Configuration> {
        self.configuration.as_ref().into_iter().chain(snapshot).max_by_key(|c| c.number)
    }

    /// The number of the newest configuration that the log or the snapshot (`None` for the first) names.
    pub fn newest_number(&self, snapshot: Option<&Configuration>) -> u32 {
        self.newest(snapshot).map_or(FIRST_CONFIGURATION, |c| c.number)
    }

    /// Whether the log says already that the replica votes in no configuration up to this one.
    pub fn is_silent_until(&self, configuration: u32) -> bool {
        self.silent_until >= configuration
    }

    /// The records with which the group goes on from this replica alone ([`crate::recovery`]), behind the last slot that it
    /// holds. The slot and the configuration (`None` for the first) are those of its newest durable snapshot. A replica
    /// that is not `whole` goes on from the snapshot; its host voids its records first. Empty if the configuration, or a
    /// later one, has begun.
    pub fn succeed(
        self,
        group: ShardId,
        succession: &Succession,
        (snapshot_slot, snapshot): (Slot, Option<&Configuration>),
        whole: bool,
    ) -> Vec<LogRecord> {
        let ended = self.newest_number(snapshot);
        if ended >= succession.begins {
            return Vec::new();
        }
        let (mut records, value) = (Vec::new(), Value::from(succession.encode()));
        let (mut last, mut ballot, mut is_written) = (snapshot_slot, Ballot::ZERO, false);
        if whole {
            let base = self.newest(snapshot).map_or(0, |c| c.base);
            let found = self.finish(snapshot_slot, snapshot, None);
            (last, ballot) = (last.max(base), found.recovered.promised);
            for entry in found.recovered.entries {
                if entry.slot != last + 1 {
                    break;
                }
                last = entry.slot;
                // The host was stopped between the two records.
                is_written = entry.value == value;
                if is_stop(&entry.value) {
                    break; // what lies above it is void
                }
            }
        } else {
            records.push(learns(group, succession.begins - 1));
        }
        if !is_written {
            last += 1;
            let entry = Entry { slot: last, ballot, value };
            records.push(record(group, ended, Record::Accepted(entry)));
        }
        let begins = Configuration::succeeding(succession, last);
        let payload = [&ended.to_le_bytes()[..], &begins.encode()].concat().into();
        records.push(LogRecord { payload, ..mark(group, begins.number, KIND_SUCCESSION, last) });
        records
    }

    /// The state from which the replica recovers, given the slot and the configuration (`None` for the first) of its
    /// newest durable snapshot. `damaged` carries a random number if the log may have lost records of this group.
    pub fn finish(
        mut self,
        snapshot_slot: Slot,
        snapshot: Option<&Configuration>,
        damaged: Option<u64>,
    ) -> FoundReplica {
        if damaged.is_some() {
            // All configurations before the newest that a record names are over.
            let silent_until = self.silent_until.max(self.highest.saturating_sub(1));
            let recovered = Recovered { snapshot_slot, damaged, ..Recovered::default() };
            let configuration = snapshot.cloned();
            return FoundReplica { configuration, recovered, silent_until, ..FoundReplica::default() };
        }
        let configuration = self.newest(snapshot).cloned();
        let (number, base) = configuration.as_ref().map_or((FIRST_CONFIGURATION, 0), |c| (c.number, c.base));
        let number = if canary::makes(Canary::OldPromiseReplaces) { FIRST_CONFIGURATION } else { number };
        let part = self.parts.remove(&number).unwrap_or_default();
        let passed = self.passed.map(|slot| (slot, configuration.clone()));
        let snapshot_slot = self.passed.unwrap_or(snapshot_slot);
        let ended = self.ended.split_off(&(snapshot_slot + 1)).into_iter();
        let ended = ended.take_while(|(slot, _)| *slot <= base).collect();
        let mut entries = part.entries;
        let entries = entries.split_off(&(snapshot_slot.max(base) + 1)).into_values().collect();
        let recovered =
            Recovered { promised: part.promised, commit: self.commit, snapshot_slot, entries, damaged };
        FoundReplica {
            configuration,
            ended,
            recovered,
            silent_until: self.silent_until,
            is_new: false,
            passed,
        }
    }
}
