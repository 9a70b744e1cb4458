//! The quarantine: publishes of which something could not be counted, whole, in the shard of their client.
//!
//! An MQTT 3 client can't be told that a publish was not counted, so its PUBACK waits until the publish is chosen into this
//! table; those of other clients, and publishes of QoS 0, come here without anybody waiting. Operators read the entries and
//! have them decoded and counted anew once a rule is mended.
//!
//! - Bounded in bytes (`quarantine_bytes`) and fair: beyond the bound the client with the most bytes loses its oldest entry, so
//!   that one device's bad messages push out its own. The newest entry always stays, however large: at most one payload of
//!   [`MAX_PAYLOAD_BYTES`] lies beyond the bound.
//! - A resend (DUP, the same packet id, topic and payload) is counted with the entry that is there: it is one publish. If more of it
//!   counts than before, for something has changed meanwhile, the entry learns of that; if all of it does, the entry goes.
//! - An entry knows by their hashes which of its readings were counted at the time ([`Quarantined::counted`]), so that counting it
//!   anew leaves those out.
//! - An entry that holds a reading which was set aside as far behind is never counted anew: that one may have counted before, and
//!   once the stream's numbers are reset, or its boot is forgotten, the machine would take it for new ([`Quarantined::far_behind`]).
//! - Counting an entry anew touches other shards. Each of them remembers what became of the last [`MAX_READMITTED_ENTRIES`] such
//!   publishes, so that one whose gateway died halfway may be repeated without counting anything twice; the entry is
//!   removed, by a chosen command, when all shards have answered.
//!
//! Invariant: entries together have at most `quarantine_bytes`, but for the newest.
//! Invariant: ids are never given twice in a shard.
//! Limit: a publish that is sent again without DUP, or in another session, is another publish: without sequence numbers, or when they
//! were reset since, counting the entry of the first one anew counts it twice.

use super::applied::Applied;
use super::command::{Item, Quarantined, Source, publish_hash};
use super::judged::Judged;
use super::outcomes::ItemOutcome;
use super::snapshot::{Reader, RestoreError, Writer, inconsistent};
use super::table::{Moment, Table};
use bincode::{Decode, Encode};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The largest payload that an entry holds; of a larger one only the length is kept.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// The longest reason, topic and name that an entry keeps of each.
pub const MAX_TEXT_BYTES: usize = 1_024;
/// How many publishes that were counted anew a shard remembers.
pub const MAX_READMITTED_ENTRIES: usize = 64;
/// The most entries of one page.
pub const MAX_PAGE_ENTRIES: usize = 256;
/// What an entry counts besides its texts and its payload.
const ENTRY_OVERHEAD_BYTES: u64 = 160;

impl Quarantined {
    fn cost_bytes(&self) -> u64 {
        let texts = self.client.len() + self.topic.len() + self.payload.len() + self.why.len();
        texts as u64 + 8 * self.counted.len() as u64 + ENTRY_OVERHEAD_BYTES
    }
}

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct QuarantineEntry {
    /// The publish.
    pub publish: Quarantined,
    /// How often it came: once, and each resend.
    pub times: u64,
    /// How often it was counted anew, and something of it was set aside again.
    pub attempt: u64,
}

/// How full the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct QuarantineStats {
    /// Entries.
    pub entries: u64,
    /// What they count against the bound, in bytes.
    pub bytes: u64,
    /// Publishes that were ever put here.
    pub taken: u64,
    /// Entries that the bound has pushed out.
    pub evicted: u64,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// By id.
    entries: BTreeMap<u64, QuarantineEntry>,
    last_id: u64,
    taken: u64,
    evicted: u64,
    readmitted: VecDeque<Readmitted>,
    /// Derived: what each client has here.
    shares: BTreeMap<String, Share>,
    /// Derived.
    bytes: u64,
}

/// What became of a publish that was counted anew.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Readmitted {
    /// The shard whose quarantine has the entry, and its id there.
    of: (u16, u64),
    /// Which attempt.
    attempt: u64,
    judged: Judged,
}

#[derive(Debug, Default)]
struct Share {
    bytes: u64,
    ids: BTreeSet<u64>,
}

impl Quarantine {
    /// Takes in a publish; `most_bytes` is the bound. Says how many entries it pushed out.
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

    /// The entry that a resend is of.
    fn sent_before(&self, again: &Quarantined) -> Option<u64> {
        let key = |p: &Quarantined| (p.packet_id, p.payload_bytes, p.qos);
        self.latest(&again.client, |p| {
            key(p) == key(again) && p.topic == again.topic && p.payload == again.payload
        })
    }

    /// The latest entry of a client that is such a publish.
    fn latest(&self, client: &str, is_it: impl Fn(&Quarantined) -> bool) -> Option<u64> {
        let ids = self.shares.get(client)?.ids.iter().rev().copied();
        { ids }.find(|id| self.entries.get(id).is_some_and(|e| is_it(&e.publish)))
    }

    /// A resend of which something is not counted either; perhaps less.
    fn sent_again(&mut self, id: u64, again: &Quarantined) {
        let Some(mut entry) = self.entries.get(&id).cloned() else { return };
        self.remove(id);
        entry.times = entry.times.saturating_add(1);
        let known: BTreeSet<u64> = entry.publish.counted.iter().copied().collect();
        let judged = again.counted.len().saturating_sub(again.recognised as usize);
        entry.publish.counted.extend(again.counted.iter().take(judged).filter(|hash| !known.contains(hash)));
        self.insert(id, entry);
    }

    /// All of a resend is counted: it leaves.
    pub fn resend_counted(&mut self, source: &Source) {
        let is_it = |p: &Quarantined| {
            (p.packet_id, p.qos) == (source.packet_id, source.qos)
                && publish_hash(&p.topic, &p.payload) == source.hash
        };
        if let Some(id) = self.latest(&source.client, is_it) {
            self.remove(id);
        }
    }

    /// Lets go of others until they keep the bound.
    fn make_room(&mut self, newest: u64, most_bytes: u64) -> u64 {
        let spared = self.entries.get(&newest).map_or(0, |e| e.publish.cost_bytes());
        let mut pushed_out = 0;
        while self.bytes - spared > most_bytes {
            // Of clients with equal shares the first by name.
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

    /// Takes an entry out. False if there is none.
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

    /// An entry was counted anew: it goes if all of it was, else it notes what was, and how many readings were far behind now. False
    /// if there is no such attempt.
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

    /// What became of a publish that was counted anew here, if that is remembered.
    pub fn readmitted(&self, of: (u16, u64), attempt: u64) -> Option<&Judged> {
        self.readmitted.iter().rev().find(|r| (r.of, r.attempt) == (of, attempt)).map(|r| &r.judged)
    }

    /// Remembers what became of one.
    pub fn note_readmitted(&mut self, of: (u16, u64), attempt: u64, judged: Judged) {
        if self.readmitted.len() >= MAX_READMITTED_ENTRIES {
            self.readmitted.pop_front();
        }
        self.readmitted.push_back(Readmitted { of, attempt, judged });
    }

    /// Entries after this id, perhaps of one client alone, as many as take at most so many bytes and at least one; and
    /// whether there are more behind them.
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

/// A quarantine as a snapshot has it: last id, taken and evicted; what was counted anew; the entries.
type Image = ((u64, u64, u64), VecDeque<Readmitted>, BTreeMap<u64, QuarantineEntry>);

/// Cuts a text to at most so many bytes, between characters.
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
        // 2 counts now; what a shard has only recognised it may have set aside.
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
        // A payload larger than the bound is held until the next comes, and pushes out nobody else.
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
