//! The replica of a shard on a witness.
//!
//! # What it is
//!
//! A witness votes and keeps entries, so that two full members and a witness survive the loss of any one of the three.
//! It holds no state of the shard: it applies no command, keeps no contents of batches, answers no question about the
//! state, and never leads. It follows what is chosen only to see the stops. [`Machine::witness`] stands in the machine's
//! place, with nothing but the slot and the configuration.
//!
//! Which gateways are witnesses is fixed when they are admitted ([`crate::directory`]), so a replica is a witness's from
//! its first slot to its last, as a learner too. No stop changes it
//! ([`ReconfigureRefused::ChangesRole`](crate::configuration::ReconfigureRefused::ChangesRole)). The directory group is
//! no shard in this sense: every gateway applies it, and so do witnesses.
//!
//! # The base
//!
//! A full replica may drop entries that its snapshot covers. A witness has a *base* instead: the slot up to which it has
//! dropped entries, with the configuration at that slot, in the form and the place of a snapshot. Trimming, recovery,
//! scrubbing and giving up work on it as on any snapshot.
//!
//! The witness moves its base up to a *floor* only: a slot up to which every full member of the present configuration
//! has everything on disk, in its log or in a snapshot, and by its disk knows it to be chosen
//! ([`Consensus::floor`](selvedge_paxos::Consensus::floor)). A member that has an entry and does not know that it is chosen
//! would have to ask for it, and nobody might have it any more.
//! Learners do not count, even shortly before they become members. Only the leader knows the floor; the witness asks it
//! ([`TransferMessage::FetchBase`]) when it has taken [`SNAPSHOT_EVERY_BYTES`] since it moved the base last, or when the
//! log needs room, and at most once in [`ASK_BASE_MS`]. While a full member is away the floor stands still, and the
//! witness keeps everything behind it. A floor counts in its configuration only: a full member of the next one may lack
//! what those of this one had.
//!
//! # Who catches up from it
//!
//! A full member that was away finds entries at the witness that nobody else has any more, if the other full member is
//! lost. It canvasses; the witness, whose memory begins later, does not support it but invites it, and gives it the
//! chosen values from its log on disk ([`super::transfer`]). Then its promise supplies what may be chosen beyond them.
//! So that its log and its memory meet, a witness drops from memory only what its log shows to be chosen. It has no
//! snapshot to offer, and never offers one.
//!
//! A restart of any replica finds entries of which it does not know that they were chosen in the form in which the log
//! holds them, since a snapshot may have jumped over slots. A witness jumps over no slot above its base, so its log shows
//! what was chosen behind the base, whichever process wrote it. For the same reason a start need not hold the entries
//! that were chosen, of which there may be many ([`Replay::of_witness`](super::Replay::of_witness)).
//!
//! # A witness that is behind
//!
//! It asks for the log like every replica. If the log of the leader does not reach back that far, the leader has
//! snapshots of what is missing, and the witness asks for the floor. At a floor above its commit index it *jumps*: the
//! base is durable there first, and then the witness goes on behind it. The jump claims no more than the floor does. If
//! the floor does not reach the leader's log, then a full member is away and the witness lost entries that only the
//! leader has: two failures at once. The witness waits, and does not vote for later slots, until that full member has
//! caught up. A damaged witness is repaired like every replica, except that it jumps where others fetch a snapshot.
//!
//! # Invariants
//!
//! Invariant: what a witness has dropped, every full member of its configuration has on disk.
//! Invariant: the log of a witness that is not damaged holds the chosen value of every slot above its base and up to the
//! commit index.
//! Limits: what a witness keeps while a full member is away is bounded by its disk. When that is full, it takes no
//! further entries, and leaders take no further batches.

use super::transfer::Fetched;
use super::{Now, SNAPSHOT_EVERY_BYTES, ShardCore, SnapshotState};
use crate::configuration::Configuration;
use crate::machine::Machine;
use crate::peer::TransferMessage;
use selvedge_paxos::Slot;
use selvedge_types::ids::GatewayId;

/// A witness asks for the floor at most once in this time.
pub const ASK_BASE_MS: u64 = 2_000;

/// What a witness knows of what it may drop.
#[derive(Debug)]
pub(super) struct Base {
    /// The durable base: its slot, and the configuration there.
    pub slot: Slot,
    configuration: Option<Configuration>,
    /// The last floor that a leader of the present configuration has named; 0 for none.
    floor: Slot,
    /// The base must be written again, because its file is missing or has rotted.
    again: bool,
    /// When the witness may ask for the floor again, or try again to write its base.
    again_at_ms: u64,
}

impl Base {
    /// The base that a start found. A replica without one writes it at once.
    pub fn found(machine: &Machine) -> Self {
        let (slot, configuration) = (machine.slot(), machine.configuration().cloned());
        Self { slot, configuration, floor: 0, again: slot == 0, again_at_ms: 0 }
    }

    pub fn rotten(&mut self) {
        self.again = true;
    }

    /// The next configuration has begun.
    pub fn configured(&mut self) {
        (self.floor, self.again_at_ms) = (0, 0);
    }
}

impl ShardCore {
    /// Whether this gateway is a witness, whose replica holds no state.
    pub fn is_witness(&self) -> bool {
        self.base.is_some()
    }

    /// Takes the slot of a machine that is new here as the base, if it is a witness's.
    pub(super) fn find_base(&mut self) {
        self.base = self.machine.is_witness().then(|| Base::found(&self.machine));
    }

    /// The slot up to which a witness has dropped entries; `None` at a full replica.
    pub fn dropped_through(&self) -> Option<Slot> {
        self.base.as_ref().map(|base| base.slot)
    }

    /// Moves the base of a witness if that is due, or asks how far it may go.
    pub(super) fn move_base(&mut self, now: Now) {
        let wanted = self.snapshot_wanted || self.applied_since_snapshot_bytes >= SNAPSHOT_EVERY_BYTES;
        let busy = self.saving.is_some() || self.fetches_snapshot();
        let (slot, begins) = (self.machine.slot(), self.configuration.base);
        let Some(base) = self.base.as_mut().filter(|_| !busy) else { return };
        let to = base.floor.min(slot);
        if wanted && to > base.slot && to >= begins {
            let configuration = self.machine.configuration().cloned();
            (base.slot, base.configuration) = (to, configuration);
            (base.again, base.again_at_ms) = (true, 0);
            (self.snapshot_wanted, self.applied_since_snapshot_bytes) = (false, 0);
        }
        if base.again && base.again_at_ms <= now.mono_ms {
            base.again = false;
            self.saving = Some(base.slot);
            let bytes = Machine::witness(self.id, base.slot, base.configuration.clone()).snapshot();
            self.out.snapshot = Some((base.slot, SnapshotState::Ready(bytes)));
        } else if wanted && slot > base.slot && base.again_at_ms <= now.mono_ms {
            base.again_at_ms = now.mono_ms + ASK_BASE_MS;
            let leader = self.consensus.leader().filter(|leader| *leader != self.me);
            if let Some(leader) = leader {
                self.say(leader, TransferMessage::FetchBase);
            }
        }
    }

    /// When a witness asks for the floor again, or writes its base again.
    pub(super) fn base_due_ms(&self) -> Option<u64> {
        let wanted = self.snapshot_wanted || self.applied_since_snapshot_bytes >= SNAPSHOT_EVERY_BYTES;
        let due = |base: &&Base| base.again || (wanted && self.machine.slot() > base.slot);
        self.base.as_ref().filter(due).filter(|_| self.saving.is_none()).map(|base| base.again_at_ms)
    }

    /// A base was made durable, or could not be.
    pub(super) fn base_saved(&mut self, now: Now, slot: Slot, saved: bool) {
        let Some(base) = &mut self.base else { return };
        if !saved && slot == base.slot {
            (base.again, base.again_at_ms) = (true, now.mono_ms + ASK_BASE_MS);
        }
    }

    /// A witness asks how far it may drop entries.
    pub(super) fn give_base(&mut self, to: GatewayId) {
        let message = match self.consensus.floor().filter(|_| !self.is_witness()) {
            Some(slot) if slot >= self.configuration.base => {
                let configuration =
                    self.machine.configuration().filter(|c| c.number == self.configuration.number);
                TransferMessage::Base { slot, configuration: configuration.cloned() }
            }
            Some(_) => TransferMessage::Wait,
            None if self.serves() => TransferMessage::Wait,
            None => TransferMessage::Log { from: 1, values: Vec::new() },
        };
        self.say(to, message);
    }

    /// The sender leads `number` and says that every full member has everything up to `slot`.
    pub(super) fn on_base(
        &mut self,
        now: Now,
        from: GatewayId,
        number: u32,
        (slot, configuration): (Slot, Option<Configuration>),
    ) {
        let names = configuration.as_ref().map_or(crate::configuration::FIRST_CONFIGURATION, |c| c.number);
        let sound = slot <= selvedge_paxos::MAX_COUNT
            && names == number
            && configuration.as_ref().is_none_or(|c| c.check().is_ok() && c.base <= slot);
        let (present, commit) = (self.configuration.number, self.consensus.commit());
        let id = self.id;
        let Some(base) = self.base.as_mut().filter(|_| sound && number >= present) else { return };
        if number == present {
            base.floor = base.floor.max(slot);
        }
        let Some(r) = self.receiving.as_mut().filter(|r| r.comes_from(from)) else { return };
        if r.is_idle() && slot > commit {
            let machine = Machine::witness(id, slot, configuration);
            r.begin_jump(Fetched::complete(machine));
            self.pull(now);
        } else {
            r.wait(now);
        }
    }
}
