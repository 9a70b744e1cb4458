//! Snapshots on their way to a replica that fell behind what its leader keeps of the log.
//!
//! The leader offers one snapshot (slot, length, checksum) and keeps it for a while; the receiver pulls it
//! piece by piece, checks it, pulls the content of the uplink batches that the snapshot only lists, has all
//! of it made durable, and only then replaces its machine and lets its group jump. Every message may be
//! lost: the receiver asks again after [`PULL_MS`] and gives up after [`GIVE_UP_PULLS`] in a row; the leader
//! offers again as long as the replica is behind.
//!
//! Limits: a replica receives one snapshot at a time; a snapshot is at most [`MAX_SNAPSHOT_BYTES`].

use super::{CONFIGURATION, Now, Shard};
use crate::logic::machine::{CutBatch, Machine};
use crate::logic::paxos::{self, Slot};
use crate::logic::peer::{BatchAnswer, PeerMessage, TRANSFER_CHUNK_BYTES, TransferMessage};
use selvedge_shared::ids::GatewayId;
use std::sync::Arc;

/// A piece that did not come is asked for again after this time.
pub const PULL_MS: u64 = 300;
/// After so many askings without an answer the transfer is given up.
pub const GIVE_UP_PULLS: u32 = 20;
/// An offered snapshot is kept this long after it was last asked for.
pub const OFFER_KEPT_MS: u64 = 30_000;
/// The largest snapshot that is offered or taken.
pub const MAX_SNAPSHOT_BYTES: u64 = 256 * 1024 * 1024;

/// A snapshot that a follower may fetch from here.
#[derive(Debug)]
pub(super) struct Sending {
    slot: Slot,
    state: Arc<[u8]>,
    crc: u32,
    used_ms: u64,
}

/// A snapshot that is being fetched.
#[derive(Debug)]
pub(super) struct Receiving {
    from: GatewayId,
    slot: Slot,
    bytes: u64,
    crc: u32,
    state: Vec<u8>,
    /// Once the state is complete: the machine it makes, and the next batch whose content is wanted.
    machine: Option<Box<Machine>>,
    batch: u64,
    /// It is complete and being made durable.
    installing: bool,
    asked_ms: u64,
    pulls: u32,
}

impl Receiving {
    pub(super) fn deadline_ms(&self) -> u64 {
        self.asked_ms + PULL_MS
    }
}

impl Shard {
    /// Tells a follower that needs more than the log in memory holds that there is a snapshot.
    pub(super) fn offer(&mut self, now: Now, to: GatewayId) {
        self.sending.retain(|_, s| now.mono_ms.saturating_sub(s.used_ms) < OFFER_KEPT_MS);
        let first_in_memory = self.group.first_slot();
        let sending = match self.sending.get(&to) {
            Some(kept) if kept.slot + 1 >= first_in_memory => kept,
            _ => {
                let state: Arc<[u8]> = self.machine.snapshot().into();
                let (slot, crc) = (self.machine.slot(), crc32c::crc32c(&state));
                self.sending.insert(to, Sending { slot, state, crc, used_ms: now.mono_ms });
                &self.sending[&to]
            }
        };
        let (slot, bytes, crc) = (sending.slot, sending.state.len() as u64, sending.crc);
        self.say(to, TransferMessage::Offer { slot, bytes, crc });
    }

    pub(super) fn on_transfer(&mut self, now: Now, from: GatewayId, message: TransferMessage) {
        if !self.group.config().members.contains(&from) {
            return;
        }
        match message {
            TransferMessage::Offer { slot, bytes, crc } => {
                // Beyond the last slot that a group believes in, the machine would jump and its group would not.
                let sound = slot <= paxos::MAX_COUNT && bytes <= MAX_SNAPSHOT_BYTES;
                let wanted = sound && slot > self.group.commit();
                if wanted && self.receiving.is_none() && self.saving.is_none() {
                    let (state, machine) = (Vec::new(), None);
                    let asked_ms = now.mono_ms.saturating_sub(PULL_MS);
                    self.receiving = Some(Receiving {
                        from,
                        slot,
                        bytes,
                        crc,
                        state,
                        machine,
                        batch: 0,
                        installing: false,
                        asked_ms,
                        pulls: 0,
                    });
                    self.pull(now);
                }
            }
            TransferMessage::FetchState { slot, offset } => {
                let Some(sending) = self.sending.get_mut(&from).filter(|s| s.slot == slot) else { return };
                sending.used_ms = now.mono_ms;
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(sending.state.len());
                let end = sending.state.len().min(start.saturating_add(TRANSFER_CHUNK_BYTES));
                let data = sending.state[start..end].to_vec();
                self.say(from, TransferMessage::State { slot, offset, data });
            }
            TransferMessage::State { slot, offset, data } => {
                let Some(r) = self.receiving.as_mut().filter(|r| r.from == from && r.slot == slot) else {
                    return;
                };
                let fits = r.machine.is_none() && offset == r.state.len() as u64 && !data.is_empty();
                if !fits || offset + data.len() as u64 > r.bytes {
                    return;
                }
                r.state.extend_from_slice(&data);
                self.progress(now);
            }
            TransferMessage::FetchBatch { seq } => self.out.fetch.push((from, seq)),
            TransferMessage::Batch { seq, answer } => {
                let Some(r) = self.receiving.as_mut().filter(|r| r.from == from && r.batch == seq) else {
                    return;
                };
                let Some(machine) = &r.machine else { return };
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
                r.batch += 1;
                self.progress(now);
            }
        }
    }

    /// Something came: asks for what is next, or has the whole made durable.
    fn progress(&mut self, now: Now) {
        let (id, rules) = (self.id, self.rules.clone());
        let here = self.machine.outbox_stats().last;
        let Some(r) = &mut self.receiving else { return };
        r.pulls = 0;
        r.asked_ms = now.mono_ms.saturating_sub(PULL_MS);
        if r.machine.is_none() && r.state.len() as u64 == r.bytes {
            if crc32c::crc32c(&r.state) != r.crc {
                return self.give_up("its checksum is wrong");
            }
            match Machine::restore(id, rules, &r.state) {
                Ok(machine) if machine.slot() == r.slot => {
                    // What this replica's own machine lists it has already: a batch's content never changes.
                    r.batch = machine.outbox_stats().kept.max(here) + 1;
                    r.machine = Some(Box::new(machine));
                }
                _ => return self.give_up("it does not decode"),
            }
        }
        let complete = r.machine.as_ref().is_some_and(|m| r.batch > m.outbox_stats().last);
        if complete && !r.installing {
            r.installing = true;
            self.saving = Some(r.slot);
            self.out.snapshot = Some((r.slot, std::mem::take(&mut r.state)));
        }
        self.pull(now);
    }

    /// Asks for the next piece, if it is time to.
    pub(super) fn pull(&mut self, now: Now) {
        let Some(r) = &mut self.receiving else { return };
        if r.installing {
            r.asked_ms = now.mono_ms;
            return;
        }
        if now.mono_ms < r.deadline_ms() {
            return;
        }
        (r.asked_ms, r.pulls) = (now.mono_ms, r.pulls + 1);
        if r.pulls > GIVE_UP_PULLS {
            return self.give_up("its sender is silent");
        }
        let (to, slot) = (r.from, r.slot);
        let message = match r.machine {
            None => TransferMessage::FetchState { slot, offset: r.state.len() as u64 },
            Some(_) => TransferMessage::FetchBatch { seq: r.batch },
        };
        self.say(to, message);
    }

    /// A snapshot, made here or fetched, is durable (or could not be made so).
    pub(super) fn on_snapshot_saved(&mut self, now: Now, slot: Slot, saved: bool) {
        if self.saving != Some(slot) {
            return;
        }
        self.saving = None;
        let fetched = self.receiving.take_if(|r| r.installing && r.slot == slot).and_then(|r| r.machine);
        match fetched {
            Some(machine) if saved && slot > self.machine.slot() => {
                self.machine = *machine;
                // What it has released will not be said again.
                self.out.released = self.out.released.max(Some(self.machine.outbox_stats().kept));
                self.tail.clear();
                self.tail_bytes = 0;
                self.applied_since_snapshot_bytes = 0;
                self.group.step(now.mono_ms, paxos::Event::SnapshotInstalled { slot });
            }
            // Tried again when the log asks, which it does as long as there is no room, or after further work.
            _ if !saved => self.applied_since_snapshot_bytes = self.applied_since_snapshot_bytes.max(1),
            _ => {}
        }
    }

    fn give_up(&mut self, _why: &'static str) {
        self.receiving = None;
    }

    fn say(&mut self, to: GatewayId, message: TransferMessage) {
        let transfer = PeerMessage::Transfer { shard: self.id, configuration: CONFIGURATION, message };
        self.out.send.push((to, transfer));
    }
}
