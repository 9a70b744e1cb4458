//! Bringing a replica up to date that fell behind what its leader holds in memory.
//!
//! The leader says so ([`TransferMessage::Behind`]), and the replica asks it for chosen values behind its own commit index. They come from the
//! leader's log on disk, a bounded piece at a time; the replica takes them as chosen
//! ([`selvedge_paxos::Event::Learned`]), and asks for more when they are on its disk, so that a slow disk sets the pace. When it asks for what the leader holds in
//! memory, it is told so, and goes on as every follower does. Meanwhile the leader holds more in memory than usual, so that the two meet
//! also under load.
//!
//! Where the leader's log does not reach back so far, it offers its newest snapshot on disk (slot, length, checksum), and has one made if that one is of no
//! use. The replica pulls it piece by piece, checks it, pulls the content of the uplink batches that the snapshot only lists, has all
//! of it made durable, and only then replaces its machine and lets its group jump; then it asks for the log behind it. A snapshot that is being
//! pulled is finished first, whatever is offered meanwhile: under load newer ones come faster than one is pulled.
//!
//! What is on disk is read elsewhere, beside the threads on which the protocol runs: this core only says what is wanted ([`TransferRequest`]) and is
//! told what there is ([`TransferAnswer`]). There, too, it is decided who gets a place, and what stays on disk for it (see
//! [`selvedge_log::storage`]).
//!
//! Every message may be lost: the receiver asks again after [`PULL_MS`] and gives up after [`GIVE_UP_PULLS`] in a row; the leader
//! says again that it is behind as long as it is. Any replica that is not damaged can be asked, not only the leader: what it gives is chosen.
//!
//! Invariant: nothing is given as chosen at or below [`Consensus::logged_after`](selvedge_paxos::Consensus::logged_after), where the log need not tell.
//! Invariant: a snapshot that is being pulled is replaced by no other one.
//! Limits: a replica receives one thing at a time, and holds a snapshot whole until it has become a machine; a snapshot is at most
//! [`MAX_SNAPSHOT_BYTES`].

use super::{CONFIGURATION, Now, ShardCore, SnapshotState};
use crate::machine::{CutBatch, Machine};
use crate::peer::{BatchAnswer, PeerMessage, TransferMessage};
use selvedge_paxos::{Role, Slot, Value};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;
use std::sync::Arc;

/// A piece that did not come is asked for again after this time.
pub const PULL_MS: u64 = 300;
/// After so many askings without an answer the transfer is given up.
pub const GIVE_UP_PULLS: u32 = 20;
/// Who was told to wait asks again after this time.
pub const WAIT_MS: u64 = 1_000;
/// While a snapshot is made durable its sender is told so often that it goes on.
pub const INSTALLING_MS: u64 = 3_000;
/// So long after the last piece a replica counts as one that is brought up to date.
pub const HELPED_MS: u64 = 5_000;
/// A log that has told nothing new so often is replaced by a snapshot.
const MAX_DRY_ANSWERS: u32 = 3;
/// The largest snapshot that is offered or taken.
pub const MAX_SNAPSHOT_BYTES: u64 = 256 * 1024 * 1024;

/// What is wanted for a replica that is behind, of what is on disk here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferRequest {
    /// Chosen values, from this slot on. Nothing below is asked for again.
    Log {
        /// The slot.
        from: Slot,
    },
    /// A snapshot, to be held ready.
    Snapshot {
        /// It must cover this slot.
        least: Slot,
    },
    /// A piece of the snapshot that is held ready.
    State {
        /// The last slot that it covers.
        slot: Slot,
        /// From this byte on.
        offset: u64,
    },
    /// Nothing of the log or of a snapshot just now: it fetches contents of batches.
    Contents,
    /// Nothing any more.
    Nothing,
}

/// What there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransferAnswer {
    /// Chosen values of consecutive slots.
    Log {
        /// The first slot.
        from: Slot,
        /// Their values.
        values: Vec<Value>,
    },
    /// The log tells nothing more just now.
    NothingYet {
        /// From this slot on.
        from: Slot,
    },
    /// The log does not reach back so far, or can't be read.
    NoLog {
        /// To this slot.
        from: Slot,
    },
    /// A snapshot is held ready.
    Snapshot {
        /// The last slot that it covers.
        slot: Slot,
        /// Its length.
        bytes: u64,
        /// Checksum (crc32c) of all of it.
        crc: u32,
    },
    /// There is none that is of use.
    NoSnapshot,
    /// A piece of the snapshot.
    State {
        /// The last slot that it covers.
        slot: Slot,
        /// From this byte on.
        offset: u64,
        /// At most [`TRANSFER_CHUNK_BYTES`](crate::peer::TRANSFER_CHUNK_BYTES); none at its end.
        data: Vec<u8>,
    },
    /// That snapshot is not held ready any more.
    NoState {
        /// The last slot that it covers.
        slot: Slot,
    },
    /// Others are brought up to date just now.
    NoPlace,
}

/// A replica that is brought up to date from here.
#[derive(Debug, Default)]
pub(super) struct Helped {
    /// It counts as such until then.
    pub until_ms: u64,
    /// How often in a row the log has told nothing new.
    dry: u32,
}

/// What is being fetched.
#[derive(Debug)]
pub(super) struct Receiving {
    from: GatewayId,
    stage: Stage,
    asked_ms: u64,
    pulls: u32,
}

#[derive(Debug)]
enum Stage {
    /// Chosen values, behind the commit index.
    Log(Learning),
    Snapshot(Box<Fetched>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Learning {
    /// The next values may be asked for.
    Idle,
    /// Values were learned in this turn.
    Learned,
    /// They are on disk with this token.
    Saving(u64),
}

/// A snapshot that is being fetched.
#[derive(Debug)]
struct Fetched {
    slot: Slot,
    bytes: u64,
    crc: u32,
    state: Vec<u8>,
    /// Once the state is complete: the machine it makes, and the next batch whose content is wanted.
    machine: Option<Box<Machine>>,
    batch: u64,
    /// It is complete and being made durable.
    installing: bool,
}

impl Receiving {
    fn new(now: Now, from: GatewayId) -> Self {
        let mut receiving = Self { from, stage: Stage::Log(Learning::Idle), asked_ms: 0, pulls: 0 };
        receiving.begin_log(now);
        receiving
    }

    pub(super) fn deadline_ms(&self) -> Option<u64> {
        match &self.stage {
            Stage::Log(Learning::Learned | Learning::Saving(_)) => None,
            Stage::Snapshot(fetched) if fetched.installing => Some(self.asked_ms + INSTALLING_MS),
            _ => Some(self.asked_ms + PULL_MS),
        }
    }

    /// What is next is asked for at once.
    fn hurry(&mut self, now: Now) {
        (self.pulls, self.asked_ms) = (0, now.mono_ms.saturating_sub(PULL_MS));
    }

    fn begin_log(&mut self, now: Now) {
        self.stage = Stage::Log(Learning::Idle);
        self.hurry(now);
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

/// Being brought up to date.
impl ShardCore {
    pub(super) fn on_transfer(&mut self, now: Now, from: GatewayId, message: TransferMessage) {
        if !self.consensus.config().members.contains(&from) {
            return;
        }
        match message {
            TransferMessage::Behind => {
                if self.receiving.is_none() {
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
                    (r.pulls, r.asked_ms) = (0, now.mono_ms + WAIT_MS - PULL_MS);
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
            TransferMessage::FetchLog { from: slot } => self.give_log(from, slot),
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
        // Beyond the last slot that a group believes in, the machine would jump and its group would not.
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
        match answer {
            BatchAnswer::Here(bytes)
                if machine.batch_record(seq).is_some_and(|want| want.matches(&bytes)) =>
            {
                self.out.cut.push(CutBatch { seq, bytes: bytes.to_vec() });
            }
            BatchAnswer::Here(_) => return self.give_up("a batch is not what the snapshot lists"),
            // Released in the meantime: the log will say so once this replica follows it again. Or lost there.
            BatchAnswer::Unsure | BatchAnswer::Lost => self.out.skipped.push(seq),
        }
        fetched.batch += 1;
        self.progress(now);
    }

    /// Something of a snapshot came: asks for what is next, or has the whole made durable.
    fn progress(&mut self, now: Now) {
        let (id, rules) = (self.id, self.rules.clone());
        let here = self.machine.outbox_stats().last;
        let Some(r) = &mut self.receiving else { return };
        r.hurry(now);
        let Some(fetched) = r.fetched() else { return };
        if fetched.machine.is_none() && fetched.state.len() as u64 == fetched.bytes {
            if crc32c::crc32c(&fetched.state) != fetched.crc {
                return self.give_up("its checksum is wrong");
            }
            match Machine::restore(id, rules, &fetched.state) {
                Ok(machine) if machine.slot() == fetched.slot => {
                    // What this replica's own machine lists it has already: a batch's content never changes.
                    fetched.batch = machine.outbox_stats().kept.max(here) + 1;
                    fetched.machine = Some(Box::new(machine));
                }
                _ => return self.give_up("it does not decode"),
            }
        }
        self.pull(now);
    }

    /// Has a snapshot made durable that is complete, unless another one of this replica is being made so.
    fn install(&mut self) {
        let busy = self.saving.is_some();
        let Some(fetched) = self.receiving.as_mut().and_then(Receiving::fetched) else { return };
        let complete =
            fetched.machine.as_ref().is_some_and(|machine| fetched.batch > machine.outbox_stats().last);
        if complete && !fetched.installing && !busy {
            fetched.installing = true;
            self.saving = Some(fetched.slot);
            let state = SnapshotState::Fetched(std::mem::take(&mut fetched.state));
            self.out.snapshot = Some((fetched.slot, state));
        }
    }

    /// Asks for what is next, if it is time to.
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

    /// At the end of a turn: what was learned in it is written with its token.
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

    /// Records up to this token are on disk.
    pub(super) fn learned_is_saved(&mut self, now: Now, token: u64) {
        if let Some(r) = &mut self.receiving
            && matches!(r.stage, Stage::Log(Learning::Saving(saving)) if saving <= token)
        {
            r.begin_log(now);
            self.pull(now);
        }
    }

    /// Whether it fetches a snapshot.
    pub(super) fn fetches_snapshot(&self) -> bool {
        self.receiving.as_ref().is_some_and(|r| matches!(r.stage, Stage::Snapshot(_)))
    }

    /// A snapshot, made here or fetched, is durable (or could not be made so).
    pub(super) fn on_snapshot_saved(&mut self, now: Now, slot: Slot, saved: bool) {
        if self.saving != Some(slot) {
            return;
        }
        self.saving = None;
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
                // What it has released will not be said again.
                self.out.released = self.out.released.max(Some(self.machine.outbox_stats().kept));
                self.tail.clear();
                self.tail_bytes = 0;
                self.applied_since_snapshot_bytes = 0;
                self.consensus.step(now.mono_ms, selvedge_paxos::Event::SnapshotInstalled { slot });
            }
            // Tried again when the log asks, which it does as long as there is no room, or after further work.
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

/// Bringing others up to date.
impl ShardCore {
    /// Tells a follower that it needs more than the log in memory holds.
    pub(super) fn invite(&mut self, to: GatewayId) {
        if canary::makes(Canary::TransferReplaced) {
            self.want(to, TransferRequest::Snapshot { least: self.consensus.first_slot() - 1 });
        }
        self.say(to, TransferMessage::Behind);
    }

    fn give_log(&mut self, to: GatewayId, from: Slot) {
        let from = from.max(1);
        if from >= self.consensus.first_slot() || from > self.consensus.commit() {
            self.say(to, TransferMessage::Log { from, values: Vec::new() });
            return self.want(to, TransferRequest::Nothing);
        }
        match self.consensus.logged_after() {
            None => {}
            Some(after) if from > after => self.want(to, TransferRequest::Log { from }),
            Some(after) => self.want(to, TransferRequest::Snapshot { least: after.max(from) }),
        }
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
                    return self.want(to, TransferRequest::Snapshot { least: from });
                }
                TransferMessage::Wait
            }
            TransferAnswer::NoLog { from } => {
                return self.want(to, TransferRequest::Snapshot { least: from });
            }
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

    fn say(&mut self, to: GatewayId, message: TransferMessage) {
        let transfer = PeerMessage::Transfer { shard: self.id, configuration: CONFIGURATION, message };
        self.out.send.push((to, transfer));
    }
}
