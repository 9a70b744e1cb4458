//! State transfer to a replica that fell behind what its leader holds in memory.
//!
//! # Protocol
//!
//! The leader sends [`TransferMessage::Behind`], and the replica asks it for chosen values after its own commit
//! index. The leader reads them from its log on disk, a bounded piece at a time. The replica takes them as chosen
//! ([`selvedge_paxos::Event::Learned`]) and asks for more when they are on its own disk, so that a slow disk sets
//! the pace. When it asks for values that the leader holds in memory, the leader says so, and the replica continues
//! as every follower does. Meanwhile the leader holds more in memory than usual, so that the two parts meet under
//! load as well.
//!
//! If the leader's log does not reach back that far, the leader offers its newest snapshot on disk (slot, length,
//! checksum), and first has one made if that one is of no use. The replica pulls the snapshot piece by piece,
//! checks it, pulls the contents of the uplink batches that the snapshot only lists, and has all of it made
//! durable. Only then does it replace its machine and let its group jump; then it asks for the log after it. A newer
//! offer never replaces the snapshot that a replica is pulling: under load newer snapshots come faster than one is
//! pulled.
//!
//! The host reads the disk beside the threads on which the protocol runs: this core only names what it needs
//! ([`TransferRequest`]) and takes the result ([`TransferAnswer`]). The host's storage also decides which replicas
//! get a place, and what stays on disk for them (see [`selvedge_log::storage`]).
//!
//! A replica that is in an earlier configuration than others catches up in the same way. It asks the replica from which
//! it heard of the later configuration. That one gives the chosen values up to the stop and beyond it, from memory if
//! it holds them there, because no leader of the earlier configuration sends them any more. The snapshot may belong to
//! a later configuration: then the receiver continues in that one. Even a damaged replica offers its snapshot here.
//!
//! A replica that moves here is held to a rate ([`ShardEvent::TransferRate`](super::ShardEvent::TransferRate)): it rests
//! between pieces of the snapshot and between contents of batches. It never rests for the log, or it might not catch up
//! with what is written meanwhile.
//!
//! A witness has no state: it offers none and fetches none ([`super::witness`]).
//!
//! Every message may be lost. The receiver asks again after [`PULL_MS`] and gives up after [`GIVE_UP_PULLS`] in a
//! row; the leader repeats that the replica is behind as long as it is. Any replica that is not damaged can be
//! asked, not only the leader: what it gives is chosen.
//!
//! # Invariants and limits
//!
//! Invariant: a replica gives nothing as chosen at or below
//! [`Consensus::logged_after`](selvedge_paxos::Consensus::logged_after), where its log may not show what was
//! chosen.
//! Invariant: no other snapshot replaces one that is being pulled.
//! Limits: a replica receives one thing at a time, and holds a snapshot whole until it has become a machine. A
//! snapshot has at most [`MAX_SNAPSHOT_BYTES`].

use super::{Now, ShardCore, SnapshotState};
use crate::machine::{CutBatch, Machine};
use crate::peer::{BatchAnswer, PeerMessage, TransferMessage};
use crate::site_state::TransferProgress;
use selvedge_paxos::{Consensus, Role, Slot, Value};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;
use std::num::NonZeroU64;
use std::sync::Arc;

/// The receiver asks again for a piece that did not come after this time.
pub const PULL_MS: u64 = 300;
/// The receiver gives up after asking this often without an answer.
pub const GIVE_UP_PULLS: u32 = 20;
/// A receiver that was asked to wait asks again after this time.
pub const WAIT_MS: u64 = 1_000;
/// While it makes a snapshot durable, the receiver tells the sender this often that the transfer goes on.
pub const INSTALLING_MS: u64 = 3_000;
/// The longest rest between two pieces, shorter than the sender waits for a sign of life. A rate below a piece in this
/// time is not kept.
pub const MAX_REST_MS: u64 = 5_000;
/// For this long after the last piece, a replica counts as one that is catching up from here.
pub const HELPED_MS: u64 = 5_000;
/// After this many answers in a row without new values, the log is replaced by a snapshot.
const MAX_DRY_ANSWERS: u32 = 3;
/// The most bytes of values from memory in one answer to a replica in an earlier configuration, unless a single value
/// is longer.
const HELD_PIECE_BYTES: usize = 64 * 1024;
/// The largest snapshot that is offered or taken.
pub const MAX_SNAPSHOT_BYTES: u64 = 256 * 1024 * 1024;

/// A request to read from this gateway's disk for a replica that is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferRequest {
    /// Chosen values, from this slot on. The replica won't ask for slots below it again.
    Log { from: Slot },
    /// A snapshot, to be held ready.
    Snapshot {
        /// The snapshot must cover this slot.
        least: Slot,
    },
    /// A piece of the snapshot that is held ready.
    State {
        /// The last slot that the snapshot covers.
        slot: Slot,
        /// The piece begins at this byte.
        offset: u64,
    },
    /// Nothing of the log or of a snapshot just now: the replica is fetching contents of batches.
    Contents,
    /// The replica needs nothing more, so its place is free.
    Nothing,
}

/// The host's answer to a [`TransferRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferAnswer {
    /// Chosen values of consecutive slots.
    Log {
        /// The slot of the first value.
        from: Slot,
        values: Vec<Value>,
    },
    /// The log holds no further chosen values just now.
    NothingYet {
        /// The first slot asked for.
        from: Slot,
    },
    /// The log does not reach back that far, or can't be read.
    NoLog {
        /// The first slot asked for.
        from: Slot,
    },
    /// A snapshot is held ready.
    Snapshot {
        /// The last slot that the snapshot covers.
        slot: Slot,
        /// The length of the whole snapshot.
        bytes: u64,
        /// The CRC-32C checksum of the whole snapshot.
        crc: u32,
    },
    /// There is no snapshot that is of use.
    NoSnapshot,
    /// A piece of the snapshot.
    State {
        /// The last slot that the snapshot covers.
        slot: Slot,
        /// The piece begins at this byte.
        offset: u64,
        /// At most [`TRANSFER_CHUNK_BYTES`](crate::peer::TRANSFER_CHUNK_BYTES); empty at the snapshot's end.
        data: Vec<u8>,
    },
    /// That snapshot is no longer held ready.
    NoState {
        /// The last slot that the snapshot covers.
        slot: Slot,
    },
    /// All places are taken: other replicas are catching up just now.
    NoPlace,
}

/// A replica that is catching up from here.
#[derive(Debug, Default)]
pub(super) struct Helped {
    /// It counts as catching up until then.
    pub until_ms: u64,
    /// How often in a row the log held nothing new for it.
    dry: u32,
}

/// A transfer to this replica.
#[derive(Debug)]
pub(super) struct Receiving {
    from: GatewayId,
    stage: Stage,
    asked_ms: u64,
    pulls: u32,
    /// Nothing of a snapshot is asked for before this time.
    rest_until_ms: u64,
}

#[derive(Debug)]
enum Stage {
    /// Chosen values after the commit index.
    Log(Learning),
    Snapshot(Box<Fetched>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Learning {
    /// The replica may ask for the next values.
    Idle,
    /// The replica learned values in this turn.
    Learned,
    /// The learned values are on disk with this token.
    Saving(u64),
}

/// A snapshot that is being fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    slot: Slot,
    bytes: u64,
    crc: u32,
    state: Vec<u8>,
    /// Once the state is complete: the machine made of it. `batch` is the next batch whose content is needed.
    machine: Option<Box<Machine>>,
    batch: u64,
    /// The snapshot is complete and being made durable.
    installing: bool,
}

impl Fetched {
    /// A state of which nothing is to be fetched: it only has to be made durable.
    pub(super) fn complete(machine: Machine) -> Self {
        let (slot, state) = (machine.slot(), machine.snapshot());
        let (bytes, batch) = (state.len() as u64, machine.outbox_stats().last + 1);
        let machine = Some(Box::new(machine));
        Self { slot, bytes, crc: 0, state, machine, batch, installing: false }
    }

    fn is_complete(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| self.batch > machine.outbox_stats().last)
    }
}

impl Receiving {
    pub(super) fn new(now: Now, from: GatewayId) -> Self {
        let stage = Stage::Log(Learning::Idle);
        let mut receiving = Self { from, stage, asked_ms: 0, pulls: 0, rest_until_ms: 0 };
        receiving.begin_log(now);
        receiving
    }

    pub(super) fn deadline_ms(&self) -> Option<u64> {
        match &self.stage {
            Stage::Log(Learning::Learned | Learning::Saving(_)) => None,
            Stage::Snapshot(fetched) if fetched.installing => Some(self.asked_ms + INSTALLING_MS),
            Stage::Snapshot(_) => Some((self.asked_ms + PULL_MS).max(self.rest_until_ms)),
            Stage::Log(_) => Some(self.asked_ms + PULL_MS),
        }
    }

    /// Rests as long as these bytes take at this rate.
    fn rest(&mut self, now: Now, bytes: u64, rate: Option<NonZeroU64>) {
        if let Some(rate) = rate {
            let ms = bytes.saturating_mul(1_000).div_ceil(rate.get()).min(MAX_REST_MS);
            self.rest_until_ms = self.rest_until_ms.max(now.mono_ms) + ms;
        }
    }

    /// What was fetched, and how much there is.
    pub(super) fn progress(&self) -> TransferProgress {
        let Stage::Snapshot(fetched) = &self.stage else { return TransferProgress::default() };
        let Fetched { bytes, batch, machine, .. } = &**fetched;
        let Some(machine) = machine else {
            return TransferProgress { done_bytes: fetched.state.len() as u64, total_bytes: *bytes };
        };
        let outbox = machine.outbox_stats();
        let contents = |seqs: std::ops::RangeInclusive<u64>| -> u64 {
            seqs.filter_map(|seq| machine.batch_record(seq)).map(|record| u64::from(record.bytes)).sum()
        };
        let total_bytes = bytes + contents(outbox.kept + 1..=outbox.last);
        TransferProgress { done_bytes: total_bytes - contents(*batch..=outbox.last), total_bytes }
    }

    /// Makes the next question due at once.
    fn hurry(&mut self, now: Now) {
        (self.pulls, self.asked_ms) = (0, now.mono_ms.saturating_sub(PULL_MS));
    }

    fn begin_log(&mut self, now: Now) {
        self.stage = Stage::Log(Learning::Idle);
        self.hurry(now);
    }

    /// Whether the replica waits for no value and fetches nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.learns(Learning::Idle)
    }

    pub(super) fn comes_from(&self, gateway: GatewayId) -> bool {
        self.from == gateway
    }

    pub(super) fn begin_jump(&mut self, fetched: Fetched) {
        self.stage = Stage::Snapshot(Box::new(fetched));
        self.pulls = 0;
    }

    /// Asks again in a while.
    pub(super) fn wait(&mut self, now: Now) {
        (self.pulls, self.asked_ms) = (0, now.mono_ms + WAIT_MS - PULL_MS);
    }

    fn learns(&self, learning: Learning) -> bool {
        matches!(&self.stage, Stage::Log(is) if *is == learning)
    }

    fn fetched(&mut self) -> Option<&mut Fetched> {
        match &mut self.stage {
            Stage::Snapshot(fetched) => Some(fetched),
            Stage::Log(_) => None,
        }
    }
}

/// The receiving end: this replica catches up.
impl ShardCore {
    pub(super) fn on_transfer(
        &mut self,
        now: Now,
        from: GatewayId,
        configuration: u32,
        message: TransferMessage,
    ) {
        let present = self.configuration.number;
        match message {
            TransferMessage::Behind if configuration < present => _ = self.superseded.insert(from),
            TransferMessage::Behind => {
                let leads = self.configuration.has_member(from) || configuration > present;
                if leads && self.receiving.is_none() {
                    self.receiving = Some(Receiving::new(now, from));
                    self.pull(now);
                }
            }
            TransferMessage::Log { from: slot, values } => {
                let Some(r) = self.receiving.as_mut().filter(|r| r.from == from) else { return };
                if !r.learns(Learning::Idle) {
                    return;
                }
                if values.is_empty() {
                    self.receiving = None;
                    return;
                }
                let before = self.consensus.commit();
                self.consensus.step(now.mono_ms, selvedge_paxos::Event::Learned { from: slot, values });
                if self.consensus.commit() > before {
                    (r.pulls, r.stage) = (0, Stage::Log(Learning::Learned));
                }
            }
            TransferMessage::Wait => {
                if let Some(r) = self.receiving.as_mut().filter(|r| r.from == from) {
                    r.wait(now);
                }
            }
            TransferMessage::FetchBase => self.give_base(from),
            TransferMessage::Base { slot, configuration: at } => {
                self.on_base(now, from, configuration, (slot, at));
            }
            TransferMessage::Offer { .. } if self.is_witness() => {
                let asks = |r: &Receiving| r.from == from && r.learns(Learning::Idle);
                if self.receiving.as_ref().is_some_and(asks) {
                    self.say(from, TransferMessage::FetchBase);
                }
            }
            TransferMessage::Offer { slot, bytes, crc } => self.on_offer(now, from, (slot, bytes, crc)),
            TransferMessage::State { slot, offset, data } => {
                let Some(r) = self.receiving.as_mut().filter(|r| r.from == from) else { return };
                let Some(fetched) = r.fetched().filter(|f| f.slot == slot && f.machine.is_none()) else {
                    return;
                };
                let fits = offset == fetched.state.len() as u64 && !data.is_empty();
                if !fits || offset + data.len() as u64 > fetched.bytes {
                    return;
                }
                fetched.state.extend_from_slice(&data);
                r.rest(now, data.len() as u64, self.transfer_rate);
                self.progress(now);
            }
            TransferMessage::Gone { slot } => {
                let Some(r) = self.receiving.as_mut().filter(|r| r.from == from) else { return };
                if r.fetched().is_some_and(|f| f.slot == slot && f.machine.is_none()) {
                    r.begin_log(now);
                    self.pull(now);
                }
            }
            TransferMessage::Batch { seq, answer } => self.on_batch(now, from, seq, answer),
            TransferMessage::FetchLog { from: slot } => self.give_log(from, slot, configuration < present),
            TransferMessage::FetchState { slot, offset } => {
                self.want(from, TransferRequest::State { slot, offset });
            }
            TransferMessage::FetchBatch { seq } => {
                self.want(from, TransferRequest::Contents);
                self.out.fetch.push((from, seq));
            }
        }
    }

    fn on_offer(&mut self, now: Now, from: GatewayId, (slot, bytes, crc): (Slot, u64, u32)) {
        // Beyond the highest slot that a group believes, the machine would jump but its group would not.
        let sound = slot <= selvedge_paxos::MAX_COUNT && bytes <= MAX_SNAPSHOT_BYTES;
        let wanted = sound && slot > self.consensus.commit();
        let Some(r) = self.receiving.as_mut().filter(|r| r.from == from && wanted) else { return };
        let replaced = canary::makes(Canary::TransferReplaced)
            && r.fetched().is_some_and(|fetched| fetched.slot < slot && !fetched.installing);
        if r.learns(Learning::Idle) || replaced {
            let (state, machine) = (Vec::new(), None);
            let fetched = Fetched { slot, bytes, crc, state, machine, batch: 0, installing: false };
            r.stage = Stage::Snapshot(Box::new(fetched));
            r.hurry(now);
            self.pull(now);
        }
    }

    fn on_batch(&mut self, now: Now, from: GatewayId, seq: u64, answer: BatchAnswer) {
        let Some(r) = self.receiving.as_mut().filter(|r| r.from == from) else { return };
        let Some(fetched) = r.fetched().filter(|fetched| fetched.batch == seq) else { return };
        let Some(machine) = &fetched.machine else { return };
        let length = if let BatchAnswer::Here(bytes) = &answer { bytes.len() as u64 } else { 0 };
        match answer {
            BatchAnswer::Here(bytes)
                if machine.batch_record(seq).is_some_and(|want| want.matches(&bytes)) =>
            {
                self.out.cut.push(CutBatch { seq, bytes: bytes.to_vec() });
            }
            BatchAnswer::Here(_) => return self.give_up("a batch is not what the snapshot lists"),
            // The batch was released in the meantime (the log will say so once this replica follows it again), or
            // its content is lost there.
            BatchAnswer::Unsure | BatchAnswer::Lost => self.out.skipped.push(seq),
        }
        fetched.batch += 1;
        r.rest(now, length, self.transfer_rate);
        self.progress(now);
    }

    /// Takes note of a piece of a snapshot: asks for the next one, or has the whole made durable.
    fn progress(&mut self, now: Now) {
        let (id, rules) = (self.id, self.rules.clone());
        let here = self.machine.outbox_stats().last;
        let present = self.configuration.number;
        let Some(r) = &mut self.receiving else { return };
        r.hurry(now);
        let Some(fetched) = r.fetched() else { return };
        if fetched.machine.is_none() && fetched.state.len() as u64 == fetched.bytes {
            if crc32c::crc32c(&fetched.state) != fetched.crc {
                return self.give_up("its checksum is wrong");
            }
            match Machine::restore(id, rules, &fetched.state) {
                Ok(machine)
                    if !machine.is_witness()
                        && machine.slot() == fetched.slot
                        && machine.configuration_number() >= present =>
                {
                    // This replica has the batches that its own machine lists: a batch's content never changes.
                    fetched.batch = machine.outbox_stats().kept.max(here) + 1;
                    fetched.machine = Some(Box::new(machine));
                }
                _ => return self.give_up("it does not decode"),
            }
        }
        self.pull(now);
    }

    /// Has a complete snapshot made durable, unless another one of this replica is being made so.
    fn install(&mut self) {
        let busy = self.saving.is_some();
        let Some(fetched) = self.receiving.as_mut().and_then(Receiving::fetched) else { return };
        if fetched.is_complete() && !fetched.installing && !busy {
            fetched.installing = true;
            self.saving = Some(fetched.slot);
            let state = SnapshotState::Ready(std::mem::take(&mut fetched.state));
            self.out.snapshot = Some((fetched.slot, state));
        }
    }

    /// Asks for the next piece, if it is time to.
    pub(super) fn pull(&mut self, now: Now) {
        self.install();
        let (commit, leads) = (self.consensus.commit(), self.consensus.role() == Role::Leader);
        let Some(r) = &mut self.receiving else { return };
        if r.fetched().is_some_and(|fetched| fetched.slot <= commit && !fetched.installing) {
            r.begin_log(now); // the log got there first
        }
        if r.deadline_ms().is_none_or(|at| now.mono_ms < at) {
            return;
        }
        r.asked_ms = now.mono_ms;
        let (to, message) = match &r.stage {
            Stage::Log(_) if leads => {
                self.receiving = None; // it knows all that is chosen
                return;
            }
            Stage::Log(_) => (r.from, TransferMessage::FetchLog { from: commit + 1 }),
            Stage::Snapshot(fetched) => {
                let slot = fetched.slot;
                let message = match fetched.machine {
                    _ if fetched.installing => {
                        r.pulls = 0; // to be told that this goes on
                        TransferMessage::FetchState { slot, offset: fetched.bytes }
                    }
                    None => TransferMessage::FetchState { slot, offset: fetched.state.len() as u64 },
                    Some(_) if fetched.is_complete() => return, // it is installed when another one is saved
                    Some(_) => TransferMessage::FetchBatch { seq: fetched.batch },
                };
                (r.from, message)
            }
        };
        r.pulls += 1;
        match r.pulls > GIVE_UP_PULLS {
            true => self.give_up("its sender is silent"),
            false => self.say(to, message),
        }
    }

    /// At the end of a turn, notes the token under which the values learned in it are written.
    pub(super) fn note_learned(&mut self, now: Now) {
        let (written, token) = (!self.out.records.is_empty(), self.out.token);
        let Some(r) = &mut self.receiving else { return };
        if r.learns(Learning::Learned) {
            match written {
                true => r.stage = Stage::Log(Learning::Saving(token)),
                false => (r.stage, r.asked_ms) = (Stage::Log(Learning::Idle), now.mono_ms),
            }
        }
    }

    /// Records up to this token are on disk: asks for more, if they held the values learned last.
    pub(super) fn learned_is_saved(&mut self, now: Now, token: u64) {
        if let Some(r) = &mut self.receiving
            && matches!(r.stage, Stage::Log(Learning::Saving(saving)) if saving <= token)
        {
            r.begin_log(now);
            self.pull(now);
        }
    }

    /// Whether this replica is fetching a snapshot.
    pub(super) fn fetches_snapshot(&self) -> bool {
        self.receiving.as_ref().is_some_and(|r| matches!(r.stage, Stage::Snapshot(_)))
    }

    /// Takes note that a snapshot, made here or fetched, is durable (or could not be made so).
    pub(super) fn on_snapshot_saved(&mut self, now: Now, slot: Slot, saved: bool) {
        if self.saving != Some(slot) {
            return;
        }
        self.saving = None;
        self.base_saved(now, slot, saved);
        let installed = |r: &mut Receiving| r.fetched().is_some_and(|f| f.installing && f.slot == slot);
        let fetched = match self.receiving.take_if(installed) {
            Some(Receiving { from, stage: Stage::Snapshot(fetched), .. }) => {
                self.receiving = saved.then(|| Receiving::new(now, from));
                fetched.machine
            }
            _ => None,
        };
        match fetched {
            Some(machine) if saved && slot > self.machine.slot() => {
                self.machine = Arc::from(machine);
                self.find_base();
                // The new machine will not report again what it has released.
                self.out.released = self.out.released.max(Some(self.machine.outbox_stats().kept));
                self.tail.clear();
                self.tail_bytes = 0;
                self.applied_since_snapshot_bytes = 0;
                match self.begin_next(now) {
                    Ok(true) => {} // the snapshot is of a later configuration
                    Ok(false) => {
                        self.consensus.step(now.mono_ms, selvedge_paxos::Event::SnapshotInstalled { slot });
                    }
                    Err(halt) => self.halt = Some(halt),
                }
            }
            // The replica tries again when the log asks, which it does as long as there is no room, or after
            // further work.
            _ if !saved => self.applied_since_snapshot_bytes = self.applied_since_snapshot_bytes.max(1),
            _ => {}
        }
        self.pull(now);
    }

    fn give_up(&mut self, why: &'static str) {
        if let Some(receiving) = self.receiving.take() {
            self.out.given_up = Some((receiving.from, why));
        }
    }
}

/// The sending end: other replicas catch up from here.
impl ShardCore {
    /// Tells a follower that it needs more than the log in memory holds.
    pub(super) fn invite(&mut self, to: GatewayId) {
        if canary::makes(Canary::TransferReplaced) {
            self.want(to, TransferRequest::Snapshot { least: self.consensus.first_slot() - 1 });
        }
        self.say(to, TransferMessage::Behind);
    }

    /// Gives chosen values from this slot on, or a snapshot. `earlier`: the replica is in an earlier configuration, in
    /// which no leader sends it values, so it gets them from memory too.
    fn give_log(&mut self, to: GatewayId, from: Slot, earlier: bool) {
        let from = from.max(1);
        let values = if earlier { self.held_values(from) } else { Vec::new() };
        if !values.is_empty() {
            return self.say(to, TransferMessage::Log { from, values });
        }
        if from >= self.consensus.first_slot() || from > self.consensus.commit() {
            self.say(to, TransferMessage::Log { from, values: Vec::new() });
            return self.want(to, TransferRequest::Nothing);
        }
        match self.logged_after() {
            // A damaged replica has applied chosen values only, whatever its log holds, so its snapshot helps one that
            // is in an earlier configuration. In its own configuration, others supply more.
            None if earlier => self.want_snapshot(to, from),
            None => {}
            Some(after) if from > after => self.want(to, TransferRequest::Log { from }),
            Some(after) => self.want_snapshot(to, after.max(from)),
        }
    }

    /// Has a snapshot offered that covers the slot `least`. A witness has none: others must help.
    fn want_snapshot(&mut self, to: GatewayId, least: Slot) {
        match self.is_witness() {
            true => self.say(to, TransferMessage::Log { from: least, values: Vec::new() }),
            false => self.want(to, TransferRequest::Snapshot { least }),
        }
    }

    /// The chosen values from this slot on that memory holds; empty if the slot's value is not in memory.
    fn held_values(&self, from: Slot) -> Vec<Value> {
        let previous = self.previous.as_ref().map(|group| &group.consensus);
        let groups = [Some(&self.consensus), previous].into_iter().flatten();
        let held = |group: &Consensus| -> Vec<Value> {
            group.committed_entries(from, HELD_PIECE_BYTES).map(|entry| entry.value.clone()).collect()
        };
        groups.map(held).find(|values| !values.is_empty()).unwrap_or_default()
    }

    pub(super) fn on_answer(&mut self, now: Now, to: GatewayId, answer: TransferAnswer) {
        let until_ms = now.mono_ms + HELPED_MS;
        let message = match answer {
            TransferAnswer::NoPlace => TransferMessage::Wait,
            TransferAnswer::NoState { slot } => TransferMessage::Gone { slot },
            TransferAnswer::Log { from, values } => {
                self.helped.insert(to, Helped { until_ms, dry: 0 });
                TransferMessage::Log { from, values }
            }
            TransferAnswer::NothingYet { from } => {
                let helped = self.helped.entry(to).or_default();
                (helped.until_ms, helped.dry) = (until_ms, helped.dry + 1);
                if helped.dry >= MAX_DRY_ANSWERS {
                    helped.dry = 0;
                    return self.want_snapshot(to, from);
                }
                TransferMessage::Wait
            }
            TransferAnswer::NoLog { from } => return self.want_snapshot(to, from),
            TransferAnswer::Snapshot { slot, bytes, crc } => {
                self.helped.entry(to).or_default().until_ms = until_ms;
                TransferMessage::Offer { slot, bytes, crc }
            }
            TransferAnswer::NoSnapshot => {
                self.snapshot_wanted = true;
                self.applied_since_snapshot_bytes = self.applied_since_snapshot_bytes.max(1);
                TransferMessage::Wait
            }
            TransferAnswer::State { slot, offset, data } => {
                self.helped.entry(to).or_default().until_ms = until_ms;
                TransferMessage::State { slot, offset, data }
            }
        };
        self.say(to, message);
    }

    fn want(&mut self, to: GatewayId, request: TransferRequest) {
        self.out.transfers.push((to, request));
    }

    pub(super) fn say(&mut self, to: GatewayId, message: TransferMessage) {
        let (shard, configuration) = (self.id, self.configuration.number);
        self.out.send.push((to, PeerMessage::Transfer { shard, configuration, message }));
    }
}
