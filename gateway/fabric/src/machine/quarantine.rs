//! The quarantine: whole publishes of which something was not counted, in the shard of their client.
//!
//! MQTT 3 has no answer that says that a publish was not counted. So the PUBACK of such a client waits until
//! the publish is chosen into this table. Publishes of MQTT 5 clients and of QoS 0 also go into the
//! quarantine, but nothing waits for them. Operators read the entries, and have them decoded and counted
//! again once a rule has been corrected (re-admission).
//!
//! - The table is bounded in bytes (`quarantine_bytes`) and fair. Beyond the bound, the client whose entries
//!   take the most bytes loses its oldest one, so a faulty device pushes out its own messages only. The
//!   newest entry always stays, however large it is, so at most one payload of [`MAX_PAYLOAD_BYTES`] exceeds
//!   the bound.
//! - A resend (DUP, with the same packet id, topic and payload) does not make a second entry. If more of its
//!   readings count than before, the existing entry learns which; if all of them count, the entry is removed.
//! - An entry lists the hashes of its readings that have been counted ([`Quarantined::counted`]), so
//!   re-admission leaves these out.
//! - An entry with a reading that was set aside as far behind is never re-admitted
//!   ([`Quarantined::far_behind`]). That reading may have been counted before; once the stream's numbers are
//!   reset, or its boot is forgotten, the machine would take it for new.
//! - Re-admission involves other shards. Each of them remembers the results of its last
//!   [`MAX_READMITTED_ENTRIES`] re-admissions, so an attempt whose gateway died halfway can be repeated
//!   without counting anything twice. A chosen command removes the entry when all shards have answered.
//!
//! Invariant: all entries but the newest together take at most `quarantine_bytes`.
//! Invariant: a shard never uses an id twice.
//! Limit: a publish that is sent again without DUP, or in another session, is another publish. If its
//! readings have no sequence numbers, or the numbers were reset meanwhile, re-admission of the first
//! publish's entry counts them twice.

use super::applied::Applied;
use super::command::{Item, Quarantined, Source, publish_hash};
use super::judged::Judged;
use super::outcomes::ItemOutcome;
use super::snapshot::{Reader, RestoreError, Writer, inconsistent};
use super::table::{Moment, Table};
use bincode::{Decode, Encode};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The largest payload that an entry holds. Of a larger one, only the length is kept.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// The most bytes that an entry keeps of its client id, its topic and its reason, each.
pub const MAX_TEXT_BYTES: usize = 1_024;
/// The most re-admissions whose results a shard remembers.
pub const MAX_READMITTED_ENTRIES: usize = 64;
/// The most entries of one page.
pub const MAX_PAGE_ENTRIES: usize = 256;
/// The bytes that an entry counts against the bound in addition to its texts, hashes and payload.
const ENTRY_OVERHEAD_BYTES: u64 = 160;

impl Quarantined {
    fn cost_bytes(&self) -> u64 {
        let texts = self.client.len() + self.topic.len() + self.payload.len() + self.why.len();
        texts as u64 + 8 * self.counted.len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// A publish in the quarantine, with its history there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct QuarantineEntry {
    pub publish: Quarantined,
    /// How often the publish arrived: 1, plus one for each resend.
    pub times: u64,
    /// The number of re-admissions that left something of it set aside.
    pub attempt: u64,
}

/// How full the quarantine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct QuarantineStats {
    pub entries: u64,
    /// The bytes that the entries count against the bound.
    pub bytes: u64,
    /// All publishes that were ever put here, resends included.
    pub taken: u64,
    /// Entries that were pushed out at the bound.
    pub evicted: u64,
}

/// The quarantine of one shard.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// Ids ascend with the order of arrival.
    entries: BTreeMap<u64, QuarantineEntry>,
    last_id: u64,
    taken: u64,
    evicted: u64,
    readmitted: VecDeque<Readmitted>,
    /// Derived: the entries of each client and what they count.
    shares: BTreeMap<String, Share>,
    /// Derived: what all entries count against the bound.
    bytes: u64,
}

/// The result of a re-admission, as far as this shard judged it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Readmitted {
    /// The shard whose quarantine has the entry, and the entry's id there.
    of: (u16, u64),
    attempt: u64,
    judged: Judged,
}

#[derive(Debug, Default)]
struct Share {
    bytes: u64,
    ids: BTreeSet<u64>,
}

impl Quarantine {
    /// Takes in a publish and returns how many entries it pushed out. `most_bytes` is the bound.
    pub fn put(&mut self, mut publish: Quarantined, most_bytes: u64) -> u64 {
        if publish.payload.len() > MAX_PAYLOAD_BYTES {
            publish.payload = Vec::new();
        }
        for text in [&mut publish.client, &mut publish.topic, &mut publish.why] {
            cut(text, MAX_TEXT_BYTES);
        }
        self.taken = self.taken.saturating_add(1);
        if publish.dup
            && let Some(id) = self.sent_before(&publish)
        {
            self.sent_again(id, &publish);
            return 0;
        }
        self.last_id += 1;
        let id = self.last_id;
        self.insert(id, QuarantineEntry { publish, times: 1, attempt: 0 });
        self.make_room(id, most_bytes)
    }

    /// The entry of the publish that `again` resends.
    fn sent_before(&self, again: &Quarantined) -> Option<u64> {
        let key = |p: &Quarantined| (p.packet_id, p.payload_bytes, p.qos);
        self.latest(&again.client, |p| {
            key(p) == key(again) && p.topic == again.topic && p.payload == again.payload
        })
    }

    /// The latest entry of a client for which `is_it` holds.
    fn latest(&self, client: &str, is_it: impl Fn(&Quarantined) -> bool) -> Option<u64> {
        let ids = self.shares.get(client)?.ids.iter().rev().copied();
        { ids }.find(|id| self.entries.get(id).is_some_and(|e| is_it(&e.publish)))
    }

    /// Updates an entry for a resend of which something is still not counted.
    fn sent_again(&mut self, id: u64, again: &Quarantined) {
        let Some(mut entry) = self.entries.get(&id).cloned() else { return };
        self.remove(id);
        entry.times = entry.times.saturating_add(1);
        let known: BTreeSet<u64> = entry.publish.counted.iter().copied().collect();
        let judged = again.counted.len().saturating_sub(again.recognised as usize);
        entry.publish.counted.extend(again.counted.iter().take(judged).filter(|hash| !known.contains(hash)));
        self.insert(id, entry);
    }

    /// Removes the entry of a publish whose resend was counted completely.
    pub fn resend_counted(&mut self, source: &Source) {
        let is_it = |p: &Quarantined| {
            (p.packet_id, p.qos) == (source.packet_id, source.qos)
                && publish_hash(&p.topic, &p.payload) == source.hash
        };
        if let Some(id) = self.latest(&source.client, is_it) {
            self.remove(id);
        }
    }

    /// Removes entries other than the newest until those keep the bound, and returns how many.
    fn make_room(&mut self, newest: u64, most_bytes: u64) -> u64 {
        let spared = self.entries.get(&newest).map_or(0, |e| e.publish.cost_bytes());
        let mut pushed_out = 0;
        while self.bytes - spared > most_bytes {
            // Among clients with equal shares, the first by name loses an entry.
            let oldest = |share: &Share| share.ids.iter().find(|id| **id != newest).copied();
            let losing = self.shares.iter().filter_map(|(client, share)| {
                let own = if share.ids.contains(&newest) { spared } else { 0 };
                Some((share.bytes - own, Reverse(client), oldest(share)?))
            });
            let Some((_, _, id)) = losing.max() else { break };
            self.remove(id);
            pushed_out += 1;
        }
        self.evicted = self.evicted.saturating_add(pushed_out);
        pushed_out
    }

    fn insert(&mut self, id: u64, entry: QuarantineEntry) {
        let cost = entry.publish.cost_bytes();
        let share = self.shares.entry(entry.publish.client.clone()).or_default();
        share.bytes += cost;
        share.ids.insert(id);
        self.bytes += cost;
        self.entries.insert(id, entry);
    }

    /// Removes an entry. Returns false if there is none with this id.
    pub fn remove(&mut self, id: u64) -> bool {
        let Some(entry) = self.entries.remove(&id) else { return false };
        let cost = entry.publish.cost_bytes();
        self.bytes -= cost;
        if let Some(share) = self.shares.get_mut(&entry.publish.client) {
            share.bytes -= cost;
            share.ids.remove(&id);
            if share.ids.is_empty() {
                self.shares.remove(&entry.publish.client);
            }
        }
        true
    }

    /// Completes an attempt to re-admit an entry: removes the entry if everything was counted, or records
    /// what was counted and how many readings were far behind. Returns false if the entry is gone or at
    /// another attempt.
    pub fn readmit(
        &mut self,
        id: u64,
        attempt: u64,
        (counted, far_behind): (&[u64], u32),
        done: bool,
    ) -> bool {
        let Some(mut entry) = self.entries.get(&id).filter(|e| e.attempt == attempt).cloned() else {
            return false;
        };
        self.remove(id);
        if !done {
            entry.attempt += 1;
            entry.publish.counted.extend(counted);
            entry.publish.far_behind = entry.publish.far_behind.saturating_add(far_behind);
            self.insert(id, entry);
        }
        true
    }

    /// The remembered result of an attempt to re-admit an entry of any shard.
    pub fn readmitted(&self, of: (u16, u64), attempt: u64) -> Option<&Judged> {
        self.readmitted.iter().rev().find(|r| (r.of, r.attempt) == (of, attempt)).map(|r| &r.judged)
    }

    /// Remembers the result of an attempt.
    pub fn note_readmitted(&mut self, of: (u16, u64), attempt: u64, judged: Judged) {
        if self.readmitted.len() >= MAX_READMITTED_ENTRIES {
            self.readmitted.pop_front();
        }
        self.readmitted.push_back(Readmitted { of, attempt, judged });
    }

    /// A page of entries after id `after`, of all clients or of one. It has at least one entry if there is
    /// any, stops before it exceeds `bytes`, and has at most [`MAX_PAGE_ENTRIES`]. The flag says whether more
    /// entries follow.
    pub fn page(
        &self,
        client: Option<&str>,
        after: u64,
        bytes: usize,
    ) -> (Vec<(u64, &QuarantineEntry)>, bool) {
        let mut left = bytes as u64;
        let mut list = Vec::new();
        for (id, entry) in self.entries.range(after.saturating_add(1)..) {
            if client.is_some_and(|client| entry.publish.client != client) {
                continue;
            }
            let cost = entry.publish.cost_bytes();
            if !list.is_empty() && (cost > left || list.len() >= MAX_PAGE_ENTRIES) {
                return (list, true);
            }
            left = left.saturating_sub(cost);
            list.push((*id, entry));
        }
        (list, false)
    }

    pub fn stats(&self) -> QuarantineStats {
        let (entries, bytes) = (self.entries.len() as u64, self.bytes);
        QuarantineStats { entries, bytes, taken: self.taken, evicted: self.evicted }
    }
}

impl Table for Quarantine {
    fn apply(&mut self, item: &Item, at: &Moment, applied: &mut Applied) -> Option<ItemOutcome> {
        Some(match item {
            Item::Quarantine { publish, .. } => {
                let most = u64::from(at.rules.quarantine_bytes);
                applied.counters.quarantined += 1;
                applied.counters.quarantine_evicted += self.put((**publish).clone(), most);
                ItemOutcome::Done
            }
            Item::ResendCounted(source) => {
                self.resend_counted(source);
                ItemOutcome::Done
            }
            Item::Readmitted { id, attempt, counted, far_behind, done } => {
                match self.readmit(*id, *attempt, (counted, *far_behind), *done) {
                    true => ItemOutcome::Done,
                    false => ItemOutcome::Refused(format!("there is no entry {id} at attempt {attempt}")),
                }
            }
            _ => return None,
        })
    }

    fn snapshot(&self, to: &mut Writer) {
        to.put(((self.last_id, self.taken, self.evicted), &self.readmitted, &self.entries));
    }

    fn restore(&mut self, from: &mut Reader<'_>, _: &Moment) -> Result<(), RestoreError> {
        let ((last_id, taken, evicted), readmitted, entries): Image = from.take("quarantine")?;
        let sound = |(id, e): (&u64, &QuarantineEntry)| {
            let p = &e.publish;
            let texts = [&p.client, &p.topic, &p.why].iter().all(|text| text.len() <= MAX_TEXT_BYTES);
            *id <= last_id && p.payload.len() <= MAX_PAYLOAD_BYTES && texts
        };
        if !entries.iter().all(sound) || readmitted.len() > MAX_READMITTED_ENTRIES {
            return Err(inconsistent("quarantine"));
        }
        *self = Self { last_id, taken, evicted, readmitted, ..Self::default() };
        entries.into_iter().for_each(|(id, entry)| self.insert(id, entry));
        Ok(())
    }
}

/// The form of the quarantine in a snapshot: (last id, taken, evicted), the remembered results, the entries.
type Image = ((u64, u64, u64), VecDeque<Readmitted>, BTreeMap<u64, QuarantineEntry>);

/// Cuts a text to at most `most` bytes at a character boundary.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_types::time::EpochMs;

    fn publish(client: &str, bytes: usize) -> Quarantined {
        Quarantined {
            client: client.into(),
            topic: "d/x/t".into(),
            payload: vec![b'x'; bytes],
            payload_bytes: bytes as u64,
            qos: 1,
            packet_id: 1,
            dup: false,
            at: EpochMs(1),
            why: "no number".into(),
            counted: Vec::new(),
            recognised: 0,
            far_behind: 0,
        }
    }

    fn clients(q: &Quarantine) -> Vec<&str> {
        q.entries.values().map(|e| e.publish.client.as_str()).collect()
    }

    #[test]
    fn a_resend_that_counts_leaves_nothing_to_be_counted_anew() {
        let mut q = Quarantine::default();
        let first = Quarantined { counted: vec![1], ..publish("a", 10) };
        q.put(first.clone(), 1_000_000);
        q.put(Quarantined { packet_id: 2, ..first.clone() }, 1_000_000);
        // Reading 2 counts now. Reading 3 is in a shard that only recognised the resend, and may have set it
        // aside.
        let again = Quarantined { dup: true, counted: vec![1, 2, 3], recognised: 1, ..first.clone() };
        q.put(again.clone(), 1_000_000);
        let (times, counted) = (q.entries[&1].times, q.entries[&1].publish.counted.clone());
        assert_eq!((times, counted, q.entries.len()), (2, vec![1, 2], 2));
        let bytes: u64 = q.entries.values().map(|e| e.publish.cost_bytes()).sum();
        assert_eq!(q.bytes, bytes);
        let hash = publish_hash(&first.topic, &first.payload);
        let source = |client: &str, packet_id, hash| Source {
            client: client.into(),
            instance: 1,
            epoch: 1,
            packet_id,
            qos: 1,
            dup: true,
            hash,
        };
        for other in [source("b", 1, hash), source("a", 3, hash), source("a", 1, hash + 1)] {
            q.resend_counted(&other);
        }
        assert_eq!(q.entries.len(), 2);
        q.resend_counted(&source("a", 1, hash));
        assert_eq!(q.entries.keys().copied().collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn one_clients_bad_messages_push_out_its_own_and_no_one_elses() {
        let mut q = Quarantine::default();
        q.put(publish("quiet", 100), 20_000);
        for _ in 0..300 {
            q.put(publish("loud", 300), 20_000);
            assert!(q.bytes <= 20_000 + 500);
        }
        assert_eq!(clients(&q)[..2], ["quiet", "loud"]);
        let stats = q.stats();
        assert_eq!((stats.taken, stats.evicted + stats.entries), (301, 301));
        // A payload larger than the bound stays until the next entry, and pushes out nothing of other
        // clients.
        q.put(publish("loud", MAX_PAYLOAD_BYTES), 20_000);
        assert_eq!((clients(&q)[0], clients(&q).last()), ("quiet", Some(&"loud")));
        assert_eq!(q.entries.values().last().unwrap().publish.payload.len(), MAX_PAYLOAD_BYTES);
        q.put(publish("other", 10), 20_000);
        assert!(q.bytes <= 20_500 && clients(&q)[0] == "quiet");
        q.put(publish("loud", MAX_PAYLOAD_BYTES + 1), 20_000);
        let last = q.entries.values().last().unwrap();
        assert_eq!(
            (last.publish.payload.len(), last.publish.payload_bytes as usize),
            (0, MAX_PAYLOAD_BYTES + 1)
        );
    }

    #[test]
    fn a_resend_is_the_publish_that_is_there() {
        let mut q = Quarantine::default();
        q.put(publish("a", 5), 1_000);
        q.put(Quarantined { dup: true, ..publish("a", 5) }, 1_000);
        q.put(Quarantined { dup: true, packet_id: 2, ..publish("a", 5) }, 1_000);
        q.put(publish("a", 5), 1_000);
        let times: Vec<_> = q.entries.values().map(|e| e.times).collect();
        assert_eq!(times, [2, 1, 1]);
    }

    #[test]
    fn it_is_the_same_after_it_was_stored() {
        let mut q = Quarantine::default();
        for i in 0..9 {
            q.put(publish(["a", "b"][i % 2], i), 1_000);
        }
        q.note_readmitted((3, 1), 0, Judged { counted: 2, ..Judged::default() });
        assert!(q.readmit(9, 0, (&[7], 1), false) && !q.readmit(9, 0, (&[], 0), true));
        let again = crate::machine::table::stored_and_restored(&q);
        assert_eq!((again.stats(), &again.entries, again.last_id), (q.stats(), &q.entries, 9));
        assert_eq!(again.readmitted((3, 1), 0).map(|j| j.counted), Some(2));
        assert_eq!((again.page(Some("b"), 4, 10_000).0.len(), again.page(None, 0, 0).0.len()), (2, 1));
    }
}
