//! One replica with what its host must keep in order: messages that wait for the disk, and the contents of
//! uplink batches, the newest in memory and the older ones in a store.
//!
//! The protocol: what the shard's core wants written goes to the log under a token, and what may leave only
//! afterwards is held until the log says that the token is on disk. Contents of batches lie on a shelf; beyond
//! its bound the oldest go to the store. A snapshot takes along what the store has not been
//! given, so that whatever a durable snapshot lists is durable too. A content that the store can't give back
//! (its sectors rotted) is fetched from the other replicas, which have the same bytes.
//!
//! Invariant: what is to leave after a token leaves only when the log has said so, in the order of the tokens.
//! Invariant: after a restart only those contents count as stored that a durable snapshot lists. Others that are found
//! may be torn; they were cut after the snapshot, so applying the log again cuts them again.
//! Invariant: a content leaves the shelf only when the store has it or was given it by itself; a snapshot that is being saved does
//! not count, for it may fail.
//! Invariant: a repair is told to the log only when everything that it rests on is on disk.
//! Limits: at most [`MAX_LOADING_ENTRIES`] contents are being loaded or fetched at a time; further questions go unanswered
//! and are asked again. The shelf holds one batch more than its bound; while the disk is full it holds what the store could
//! not take, which the outbox budget bounds.

use super::commit::Submission;
use super::machine::{Counters, CutBatch, DueWill, Halt};
use super::paxos::Slot;
use super::peer::{PeerMessage, TransferMessage};
use super::shard::{CONFIGURATION, Event, Now, Shard, UplinkView};
use selvedge_shared::ids::{GatewayId, ShardId};
use selvedge_shared::time::EpochMs;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Contents of unconfirmed batches that stay in memory, in bytes, unless told otherwise.
pub const SHELF_BYTES: usize = 256 * 1024;
/// How many contents may be on their way from the store or from peers.
pub const MAX_LOADING_ENTRIES: usize = 256;

/// What the replica's host says beside the shard's own events.
#[derive(Debug)]
pub enum Said {
    /// Records up to this token are on disk.
    Persisted(u64),
    /// Whether the disk has room.
    Room(bool),
    /// The log wants to be trimmed.
    SnapshotWanted,
    /// A snapshot is on disk, or could not be put there.
    SnapshotSaved {
        /// Its last slot.
        slot: Slot,
        /// It is there.
        saved: bool,
    },
    /// A batch's content that the store could not take.
    NotStored(CutBatch),
    /// A batch's content from the store.
    Loaded {
        /// The batch.
        seq: u64,
        /// Nothing if it is not there, or damaged.
        body: Option<Vec<u8>>,
    },
}

/// What is wanted of the store of snapshots and batches.
#[derive(Debug)]
pub enum StoreWork {
    /// Make a snapshot durable, and before it the contents of the batches that it lists.
    Snapshot {
        /// The shard.
        shard: ShardId,
        /// The last slot it covers.
        slot: Slot,
        /// Its bytes.
        bytes: Vec<u8>,
        /// Contents that are not in the store yet.
        batches: Vec<CutBatch>,
        /// The store must have the contents of these batches before the snapshot counts; nothing for a snapshot that was
        /// fetched, which lists what was confirmed while it was on its way.
        lists: Option<RangeInclusive<u64>>,
    },
    /// Keep a batch's content out of memory.
    Batch(ShardId, CutBatch),
    /// Forget the contents of batches up to a seq.
    Remove(ShardId, u64),
    /// Read a batch's content.
    Load(ShardId, u64),
}

/// What a turn wants done, to be performed in this order.
#[derive(Debug, Default)]
pub struct Effects {
    /// May leave at once. Messages to this gateway itself are for its own forwarder and queries.
    pub send: Vec<(GatewayId, PeerMessage)>,
    /// For the log; the host answers with [`Said::Persisted`].
    pub persist: Option<Submission>,
    /// For the log, behind what was persisted before: the damage that it reported is repaired.
    pub healed: bool,
    /// For the store, in this order.
    pub store: Vec<StoreWork>,
    /// Contents that the uplink asked for; nothing for one that is no longer there.
    pub loaded: Vec<(u64, Option<Arc<[u8]>>)>,
    /// This replica began to lead: this gateway's forwarder and metrics are to know.
    pub began_to_lead: bool,
    /// How the uplink sees this shard, when that changed.
    pub uplink: Option<UplinkView>,
    /// Wills that this gateway is to publish.
    pub wills: Vec<DueWill>,
    /// What applying has counted; re-applied slots count again after a restart.
    pub counters: Vec<Counters>,
}

/// Who waits for a content.
#[derive(Debug, Default)]
struct Waiting {
    uplink: bool,
    peers: BTreeSet<GatewayId>,
}

/// One shard's replica and what is held for it.
#[derive(Debug)]
pub struct Replica {
    id: ShardId,
    me: GatewayId,
    core: Shard,
    /// Messages that wait for a token.
    held: BTreeMap<u64, Vec<(GatewayId, PeerMessage)>>,
    shelf: BTreeMap<u64, Arc<[u8]>>,
    shelf_bytes: usize,
    most_shelf_bytes: usize,
    /// Contents up to this seq are in the store, or were given to it by themselves, and it says so if it can't take one.
    stored_through: u64,
    /// A snapshot that is being saved takes along contents up to this seq.
    saving_through: u64,
    /// There may be contents in the store, to be removed once they are confirmed.
    uses_store: bool,
    waiting: BTreeMap<u64, Waiting>,
    /// Batches whose contents the store lost.
    lost: BTreeSet<u64>,
    /// Which of the other members is asked next for a content that is lost here.
    ask_next: usize,
    /// A repair that waits for this token.
    healing: Option<u64>,
    leading: bool,
    out: Effects,
}

impl Replica {
    /// A replica around a recovered shard. `has_stored`: the store holds contents of its batches.
    pub fn new(id: ShardId, core: Shard, has_stored: bool, most_shelf_bytes: usize) -> Self {
        let me = core.group().config().me;
        // What the machine lists now, a durable snapshot lists: nothing was applied yet.
        let stored_through = core.machine().outbox_stats().last;
        Self {
            id,
            me,
            core,
            held: BTreeMap::new(),
            shelf: BTreeMap::new(),
            shelf_bytes: 0,
            most_shelf_bytes,
            stored_through,
            saving_through: 0,
            uses_store: has_stored,
            waiting: BTreeMap::new(),
            lost: BTreeSet::new(),
            ask_next: 0,
            healing: None,
            leading: false,
            out: Effects::default(),
        }
    }

    /// Whether the disk has room when the process starts; later [`Said::Room`] tells.
    pub fn starts_with(&mut self, room: bool) {
        self.core.step(Now { mono_ms: 0, wall: EpochMs(0), sure: false }, Event::Room(room));
    }

    /// The shard's core, to look at.
    pub fn core(&self) -> &Shard {
        &self.core
    }

    /// Takes in an event of the shard.
    pub fn step(&mut self, now: Now, event: Event) {
        if let Event::Transfer { message: TransferMessage::Batch { seq, body: Some(body) }, .. } = &event
            && self.lost.contains(seq)
            && self.core.machine().batch_record(*seq).is_some_and(|want| want.matches(body))
        {
            self.lost.remove(seq);
            self.not_stored(*seq, body.clone());
        }
        self.core.step(now, event);
    }

    /// Takes in what the host says.
    pub fn said(&mut self, now: Now, said: Said) {
        match said {
            Said::Persisted(token) => {
                let later = self.held.split_off(&(token + 1));
                let free = std::mem::replace(&mut self.held, later);
                self.out.send.extend(free.into_values().flatten());
                self.out.healed |= self.healing.take_if(|t| *t <= token).is_some();
                self.core.step(now, Event::Persisted { token });
            }
            Said::Room(room) => self.core.step(now, Event::Room(room)),
            Said::SnapshotWanted => self.core.step(now, Event::SnapshotWanted),
            Said::NotStored(batch) => {
                // Nothing of it is lost: the log holds what it was made of, and the next snapshot stores it.
                self.not_stored(batch.seq, batch.bytes.into());
            }
            Said::SnapshotSaved { slot, saved } => {
                match saved {
                    true => self.stored_through = self.stored_through.max(self.saving_through),
                    false => self.stored_through = 0, // what got there is not known; storing twice does no harm
                }
                self.core.step(now, Event::SnapshotSaved { slot, saved });
            }
            Said::Loaded { seq, body } => {
                let body = body.map(Arc::from).or_else(|| self.shelf.get(&seq).cloned());
                if body.is_none() && self.core.machine().batch_record(seq).is_some() {
                    self.ask_peer(seq); // who waits asks again later
                }
                self.hand_out(seq, body);
            }
        }
    }

    /// The uplink asks for a batch's content: it comes with [`Effects::loaded`].
    pub fn load(&mut self, seq: u64) {
        match self.shelf.get(&seq) {
            Some(body) => self.out.loaded.push((seq, Some(body.clone()))),
            None => self.look_up(seq, |waiting| waiting.uplink = true),
        }
    }

    /// What is to be done about all that came since this was last asked.
    ///
    /// # Errors
    /// The replica can't go on without drifting from the others: the process must end.
    pub fn take(&mut self, now: Now) -> Result<Effects, Halt> {
        let effects = self.core.take(now)?;
        self.out.send.extend(effects.send);
        let shard = self.id;
        if !effects.records.is_empty() {
            let token = effects.token;
            self.out.persist = Some(Submission { shard, token, records: effects.records });
            self.held.entry(token).or_default().extend(effects.send_after);
        } else if let Some(mut last) = self.held.last_entry() {
            last.get_mut().extend(effects.send_after);
        } else {
            self.out.send.extend(effects.send_after);
        }
        if effects.healed {
            match self.held.last_key_value() {
                Some((token, _)) => self.healing = Some(*token),
                None => self.out.healed = true,
            }
        }
        for batch in effects.cut {
            self.put(batch.seq, batch.bytes.into());
        }
        self.shelve();
        if let Some(through) = effects.confirmed {
            self.shelf = self.shelf.split_off(&(through + 1));
            self.shelf_bytes = self.shelf.values().map(|b| b.len()).sum();
            if self.uses_store {
                self.out.store.push(StoreWork::Remove(shard, through));
            }
        }
        if let Some((slot, bytes)) = effects.snapshot {
            let unstored = self.shelf.range(self.stored_through + 1..);
            let batches: Vec<_> =
                unstored.map(|(seq, b)| CutBatch { seq: *seq, bytes: b.to_vec() }).collect();
            self.saving_through = batches.last().map_or(0, |b| b.seq);
            self.uses_store |= !batches.is_empty();
            let outbox = self.core.machine().outbox_stats();
            let lists = (slot == self.core.machine().slot()).then_some(outbox.cursor + 1..=outbox.last);
            self.out.store.push(StoreWork::Snapshot { shard, slot, bytes, batches, lists });
        }
        for (to, seq) in effects.fetch {
            match self.shelf.get(&seq) {
                Some(body) => {
                    let body = Some(body.clone());
                    self.hand_over(to, seq, body);
                }
                None => self.look_up(seq, |waiting| {
                    waiting.peers.insert(to);
                }),
            }
        }
        if let Some(view) = effects.uplink {
            self.out.began_to_lead = view.leading && !self.leading;
            self.leading = view.leading;
            self.out.uplink = Some(view);
        }
        self.out.wills = effects.wills;
        self.out.counters = effects.counters;
        Ok(std::mem::take(&mut self.out))
    }

    /// When [`Event::Timer`] is wanted next, on the monotonic clock.
    pub fn deadline_ms(&mut self, now: Now) -> Option<u64> {
        self.core.deadline_ms(now)
    }

    fn put(&mut self, seq: u64, body: Arc<[u8]>) {
        self.shelf_bytes += body.len();
        if let Some(old) = self.shelf.insert(seq, body) {
            self.shelf_bytes -= old.len();
        }
    }

    /// Sends the oldest contents to the store while there are more than may be in memory.
    fn shelve(&mut self) {
        while self.shelf_bytes > self.most_shelf_bytes && self.shelf.len() > 1 {
            let Some((seq, bytes)) = self.shelf.pop_first() else { break };
            self.shelf_bytes -= bytes.len();
            if seq > self.stored_through {
                (self.stored_through, self.uses_store) = (seq, true);
                let batch = CutBatch { seq, bytes: bytes.to_vec() };
                self.out.store.push(StoreWork::Batch(self.id, batch));
            }
        }
    }

    fn look_up(&mut self, seq: u64, note: impl FnOnce(&mut Waiting)) {
        if self.waiting.len() < MAX_LOADING_ENTRIES || self.waiting.contains_key(&seq) {
            note(self.waiting.entry(seq).or_default());
            self.out.store.push(StoreWork::Load(self.id, seq));
        }
    }

    /// A content is here (or is not to be had): those who wait for it are answered.
    fn hand_out(&mut self, seq: u64, body: Option<Arc<[u8]>>) {
        let Some(waiting) = self.waiting.remove(&seq) else { return };
        for to in waiting.peers {
            self.hand_over(to, seq, body.clone());
        }
        if waiting.uplink {
            self.out.loaded.push((seq, body));
        }
    }

    fn hand_over(&mut self, to: GatewayId, seq: u64, body: Option<Arc<[u8]>>) {
        self.say(to, TransferMessage::Batch { seq, body });
    }

    fn say(&mut self, to: GatewayId, message: TransferMessage) {
        let transfer = PeerMessage::Transfer { shard: self.id, configuration: CONFIGURATION, message };
        self.out.send.push((to, transfer));
    }

    /// A content that the store does not have.
    fn not_stored(&mut self, seq: u64, body: Arc<[u8]>) {
        self.stored_through = self.stored_through.min(seq.saturating_sub(1));
        self.put(seq, body);
    }

    /// The store lacks the content of an unconfirmed batch: another replica has it.
    fn ask_peer(&mut self, seq: u64) {
        if self.lost.len() >= MAX_LOADING_ENTRIES {
            self.lost.pop_first(); // asked for anew when it is wanted again
        }
        self.lost.insert(seq);
        let members = &self.core.group().config().members;
        let others: Vec<_> = members.iter().copied().filter(|m| *m != self.me).collect();
        self.ask_next += 1;
        if let Some(to) = others.get(self.ask_next % others.len().max(1)) {
            self.say(*to, TransferMessage::FetchBatch { seq });
        }
    }
}
