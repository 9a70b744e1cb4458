//! The shard core: one replica of one shard, without its host. It joins a [`Consensus`] with the machine that applies what the group
//! chooses.
//!
//! The protocol: batches that gateways forward gather while a turn lasts and become one proposal; what is
//! chosen is applied in slot order; each batch's verdict goes back to the gateway that took it in, from
//! the leader, and from that gateway's own replica if it has one. The leader also proposes the ticks that
//! the machine asks for and the confirmations that the uplink brings, and answers queries after it made
//! sure that it still leads. A replica that fell behind what its leader holds in memory is brought up to date from
//! the leader's disk (see [`transfer`]).
//! A batch whose content every member has lost is proposed as lost, so that nobody waits for it ([`Event::BatchLost`]).
//!
//! Invariant: applied <= commit; the machine's slot is `applied`.
//! Invariant: a leader takes a forwarded batch only after it applied its own opening entry, so that what
//! the machine knows of an origin includes everything earlier leaders may have chosen.
//! Invariant: elapsed time never goes back along the log, and advances at most as fast as the monotonic clock of whoever leads:
//! see [`clock`].
//! Wall time is the gateway's as far as a majority agrees on it ([`crate::agreement`]); where none does, it continues by
//! elapsed time from when one last did, and the proposal says that it is not sure.
//! Invariant: a query that is not stale is answered from a state that holds everything that was chosen
//! before the query came.
//! Limits: at most [`MAX_PENDING_BYTES`] of batches wait for a proposal, beyond that their gateways are told
//! to come again; at most [`MAX_QUERIES`] queries wait, and a turn looks at so many names for them (see [`reads`]).

mod clock;
mod lead;
mod reads;
mod recover;
mod tables;
mod transfer;

pub use recover::{KIND_ACCEPTED, KIND_BEGUN_ANEW, KIND_COMMITTED, KIND_HEALED, KIND_PROMISED, Replay};

use crate::link::MAX_START;
use crate::machine::{
    BatchVerdict, Counters, CountingRules, CutBatch, DueWill, Halt, Machine, Origin, Proposal, Scan,
};
use crate::peer::{ForwardAnswer, PeerMessage, QueryAnswer, ShardQuery, TableQuestion, TransferMessage};
use crate::record::LogRecord;
use lead::{Absent, HandBack, Lead};
pub use lead::{HAND_BACK_MS, LOST_AFTER_MS, NOTE_ELAPSED_MS};
use reads::Reads;
use selvedge_paxos::{Consensus, Role, Slot};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{LedgerId, SiteIncarnation};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use transfer::{Helped, Receiving};
pub use transfer::{MAX_SNAPSHOT_BYTES, TransferAnswer, TransferRequest};

/// How many bytes of forwarded batches may wait for a proposal at a leader.
pub const MAX_PENDING_BYTES: usize = 1024 * 1024;
/// The largest proposal that is made of several batches.
pub const MAX_PROPOSAL_BYTES: usize = 192 * 1024;
/// The largest forwarded batch: one that carries nothing but the largest payload that a quarantine holds.
pub const MAX_SUBMISSION_BYTES: usize = 288 * 1024;
/// How many queries may wait for a confirmation of leadership or for being applied.
pub const MAX_QUERIES: usize = 256;
/// How much of the applied log stays in memory for followers that lag a little.
pub const TAIL_BYTES: usize = 64 * 1024;
/// How much of it stays while a follower is brought up to date from disk, so that memory reaches back to where that ends.
pub const HELPED_TAIL_BYTES: usize = 512 * 1024;
/// After so many applied bytes a snapshot is made, so that a restart replays less.
pub const SNAPSHOT_EVERY_BYTES: usize = 2 * 1024 * 1024;
/// How much is applied between two looks at the group's log.
const APPLY_CHUNK_BYTES: usize = 1024 * 1024;
/// The configuration of every group until it can be changed.
pub const CONFIGURATION: u32 = 1;

/// What the time is, by both clocks of this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// A clock that never goes back and starts anywhere, in milliseconds: for waits, and to count elapsed time.
    pub mono_ms: u64,
    /// The wall time, for labels.
    pub wall: EpochMs,
    /// A majority of the gateways agrees on `wall`.
    pub sure: bool,
}

/// What a replica is told.
#[derive(Debug)]
pub enum Event {
    /// The group's protocol.
    Paxos {
        /// Who says it, as authenticated by the link.
        from: GatewayId,
        /// What.
        message: selvedge_paxos::Message,
    },
    /// A gateway forwards a batch.
    Forward {
        /// Who says it.
        from: GatewayId,
        /// Under which origin.
        origin: Origin,
        /// Its number.
        n: u64,
        /// A submission frame.
        submission: Arc<[u8]>,
    },
    /// What a replica lacks, on its way.
    Transfer {
        /// Who says it.
        from: GatewayId,
        /// What.
        message: TransferMessage,
    },
    /// What there is on disk here for a replica that is behind: the answer to [`ShardEffects::transfers`].
    TransferAnswered {
        /// Who is behind.
        to: GatewayId,
        /// What there is.
        answer: TransferAnswer,
    },
    /// The failure detector's verdict changed.
    Peers {
        /// Who can be reached.
        up: Vec<GatewayId>,
        /// Whose process is another than before.
        restarted: Vec<GatewayId>,
    },
    /// The gateways whose wall clocks are outside of what a majority agrees on changed: others had better lead.
    Clocks {
        /// Who.
        outside: Vec<GatewayId>,
    },
    /// The gateways whose disks have no room changed: they had better not lead where a majority has some.
    Full {
        /// Who, this one among them.
        who: Vec<GatewayId>,
    },
    /// Records up to this token are on disk.
    Persisted {
        /// The token.
        token: u64,
    },
    /// The snapshot through this slot is on disk.
    SnapshotSaved {
        /// The slot.
        slot: Slot,
        /// It was saved; if not, a later one is tried.
        saved: bool,
    },
    /// The machine that was lent for a snapshot is not read there any more.
    MachineReturned,
    /// Make a snapshot soon: the log wants to be trimmed.
    SnapshotWanted,
    /// The newest snapshot on disk has rotted: make another one, also if nothing was applied since.
    SnapshotRotten,
    /// The node has everything up to this cursor.
    Confirmed {
        /// The ledger that it has it in.
        ledger: LedgerId,
        /// The cursor.
        cursor: u64,
    },
    /// Every member of the group, this replica among them, has just said that it has lost the content of this batch.
    BatchLost {
        /// The batch.
        seq: u64,
    },
    /// A question about recent windows.
    Query {
        /// The gateway that is to be answered.
        from: GatewayId,
        /// Its name for the question.
        id: u64,
        /// The question.
        query: ShardQuery,
    },
    /// A question about a table.
    AskTable {
        /// Who asks.
        from: GatewayId,
        /// Its id there.
        id: u64,
        /// What is asked.
        question: TableQuestion,
    },
    /// Whether the disk has room.
    Room(bool),
    /// [`Shard::deadline_ms`] has come.
    Timer,
}

/// What a replica wants done, in this order: `send` may leave at once; `records` and then `cut` are stored;
/// `send_after` leaves when all records up to `token` are on disk. Messages to this gateway itself are for
/// its own forwarder and queries.
#[derive(Debug, Default)]
pub struct ShardEffects {
    /// May leave at once.
    pub send: Vec<(GatewayId, PeerMessage)>,
    /// To be written.
    pub records: Vec<LogRecord>,
    /// Names these records and all earlier ones.
    pub token: u64,
    /// Leaves once everything up to `token` is on disk.
    pub send_after: Vec<(GatewayId, PeerMessage)>,
    /// Uplink batches whose content is to be kept.
    pub cut: Vec<CutBatch>,
    /// The content of uplink batches up to this one may go.
    pub released: Option<u64>,
    /// Batches that were marked as lost now.
    pub lost: Vec<u64>,
    /// Batches that a fetched snapshot lists, and whose contents its sender did not have.
    pub skipped: Vec<u64>,
    /// A transfer to this replica was given up, from whom and why; it is asked for again.
    pub given_up: Option<(GatewayId, &'static str)>,
    /// Questions, to be answered when the contents that they want were looked at.
    pub scans: Vec<Scanning>,
    /// To be made durable with the content of all batches that it lists, then [`Event::SnapshotSaved`].
    pub snapshot: Option<(Slot, SnapshotState)>,
    /// A peer wants the content of an uplink batch: answer with [`TransferMessage::Batch`].
    pub fetch: Vec<(GatewayId, u64)>,
    /// Replicas that are behind, and what is wanted for them of what is on disk here: [`Event::TransferAnswered`].
    pub transfers: Vec<(GatewayId, TransferRequest)>,
    /// How the uplink sees this shard, when that changed.
    pub uplink: Option<UplinkView>,
    /// Wills that this gateway is to publish.
    pub wills: Vec<DueWill>,
    /// What applying has counted while this replica led, by slot.
    pub counters: Vec<Counters>,
    /// The damage that the log reported is repaired, once everything up to `token` is on disk.
    pub healed: bool,
}

/// What a snapshot is made of.
#[derive(Debug)]
pub enum SnapshotState {
    /// This replica's own state, lent so that it is encoded where nobody waits: nothing is applied until it is let go of, and
    /// [`Event::MachineReturned`] says so.
    Lent(Arc<Machine>),
    /// A snapshot that was fetched.
    Fetched(Vec<u8>),
}

/// A question that was let in, and whom to answer.
#[derive(Debug)]
pub struct Scanning {
    /// The gateway that asks.
    pub to: GatewayId,
    /// Its name for the question.
    pub id: u64,
    /// What is to be looked at.
    pub scan: Scan,
}

/// What the uplink needs to know of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UplinkView {
    /// This replica leads, has applied all that earlier leaders chose, and knows which making of the site this is.
    pub leading: bool,
    /// The lowest unconfirmed batch.
    pub first_kept: u64,
    /// The last batch that was cut; `first_kept - 1` when all are confirmed.
    pub last: u64,
    /// The ledger whose confirmations count; nothing before the first.
    pub ledger: Option<LedgerId>,
    /// Which making of the site this is.
    pub incarnation: SiteIncarnation,
}

/// A replica's state for operators.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Status {
    /// The shard.
    pub shard: u16,
    /// The leader's gateway number as far as known.
    pub leader: Option<u16>,
    /// `leader`, `candidate`, `follower` or `damaged`.
    pub role: &'static str,
    /// The ballot it is in.
    pub ballot: String,
    /// All slots up to this one are chosen.
    pub commit: u64,
    /// All slots up to this one are applied here.
    pub applied: u64,
    /// Unconfirmed uplink batches.
    pub outbox_batches: u64,
    /// Their bytes.
    pub outbox_bytes: u64,
    /// Uplink batches whose contents every replica has lost, since the shard began.
    pub lost_batches: u64,
    /// Closed windows' parts that are in no batch yet, and windows that are open.
    pub waiting_parts: u64,
    /// The last uplink batch that was cut.
    pub last_batch: u64,
    /// For how long the oldest closed part has waited to be cut, in milliseconds, as far as this replica knows.
    pub waiting_ms: Option<u64>,
}

/// How a replica is set up.
#[derive(Debug, Clone)]
pub struct ShardSettings {
    /// The group.
    pub group: selvedge_paxos::GroupConfig,
    /// The site's rules for its machines.
    pub rules: Arc<CountingRules>,
    /// A leader takes no more batches while this many bytes of uplink batches are unconfirmed.
    pub outbox_budget_bytes: u64,
    /// What this making of the site is called if it has no name yet: drawn.
    pub incarnation: u128,
}

/// One replica of one shard, but for what its host keeps for it.
#[derive(Debug)]
pub struct ShardCore {
    id: ShardId,
    me: GatewayId,
    rules: Arc<CountingRules>,
    outbox_budget_bytes: u64,
    incarnation: u128,
    consensus: Consensus,
    /// Lent while a snapshot of it is encoded elsewhere: read as ever, and nothing is applied.
    machine: Arc<Machine>,
    room: bool,
    lead: Option<Lead>,
    /// Slots that are applied and still in memory, with their sizes.
    tail: VecDeque<(Slot, usize)>,
    tail_bytes: usize,
    applied_since_snapshot_bytes: usize,
    saving: Option<Slot>,
    snapshot_wanted: bool,
    /// Waiting for the group's word: read id -> question.
    asked: BTreeMap<u64, (GatewayId, u64, ShardQuery)>,
    /// Waiting for a slot to be applied.
    readable: Vec<(Slot, (GatewayId, u64, ShardQuery))>,
    last_read: u64,
    helped: BTreeMap<GatewayId, Helped>,
    reads: Reads,
    receiving: Option<Receiving>,
    uplink: UplinkView,
    hand_back: HandBack,
    absent: Absent,
    out: ShardEffects,
}

impl ShardCore {
    /// A replica as its disk has it; [`Shard::take`] right afterwards gives what re-applying brought.
    ///
    /// # Errors
    /// Says why the replica can't run.
    pub fn recover(
        settings: ShardSettings,
        machine: Machine,
        found: selvedge_paxos::Recovered,
    ) -> Result<Self, selvedge_paxos::ConfigError> {
        let (id, me) = (settings.group.group, settings.group.me);
        let hand_back = HandBack::new(me, settings.group.members.clone());
        let mut out = ShardEffects::default();
        if found.damaged.is_some() {
            out.records.push(recover::begun_anew(id, found.snapshot_slot));
        }
        Ok(Self {
            id,
            me,
            hand_back,
            absent: Absent::new(me),
            rules: settings.rules,
            outbox_budget_bytes: settings.outbox_budget_bytes,
            incarnation: settings.incarnation,
            consensus: Consensus::recover(settings.group, found)?,
            machine: Arc::new(machine),
            room: true,
            lead: None,
            tail: VecDeque::new(),
            tail_bytes: 0,
            applied_since_snapshot_bytes: 0,
            saving: None,
            snapshot_wanted: false,
            asked: BTreeMap::new(),
            readable: Vec::new(),
            last_read: 0,
            helped: BTreeMap::new(),
            reads: Reads::default(),
            receiving: None,
            uplink: UplinkView::default(),
            out,
        })
    }

    /// Takes in an event.
    pub fn step(&mut self, now: Now, event: Event) {
        match event {
            Event::Paxos { from, message } => {
                self.consensus.step(now.mono_ms, selvedge_paxos::Event::Message { from, message })
            }
            Event::Forward { from, origin, n, submission } => {
                // The link knows who is at its other end. What claims to be of another gateway would use up that one's numbers, and
                // a start that no process reaches would be the last that the shard believes in.
                if origin.gateway == from && origin.start <= MAX_START {
                    self.on_forward(from, origin, n, submission);
                }
            }
            Event::Transfer { from, message } => self.on_transfer(now, from, message),
            Event::TransferAnswered { to, answer } => self.on_answer(now, to, answer),
            Event::Peers { up, restarted } => {
                self.hand_back.peers(now, &up, &restarted);
                self.absent.peers(now, &up);
                self.reads.peers(self.me, &up);
                self.consensus.step(now.mono_ms, selvedge_paxos::Event::Peers { up, restarted });
            }
            Event::Clocks { outside } => {
                self.hand_back.clocks(now, &outside);
                self.consensus
                    .step(now.mono_ms, selvedge_paxos::Event::Reluctant(self.hand_back.reluctant()));
            }
            Event::Full { who } => {
                self.hand_back.full(now, &who);
                self.consensus
                    .step(now.mono_ms, selvedge_paxos::Event::Reluctant(self.hand_back.reluctant()));
            }
            Event::Persisted { token } => {
                self.consensus.step(now.mono_ms, selvedge_paxos::Event::Persisted { token });
                self.learned_is_saved(now, token);
            }
            Event::MachineReturned => {} // the turn applies what has gathered
            Event::SnapshotSaved { slot, saved } => self.on_snapshot_saved(now, slot, saved),
            Event::SnapshotWanted => self.snapshot_wanted = true,
            Event::SnapshotRotten => {
                self.snapshot_wanted = true;
                self.applied_since_snapshot_bytes = self.applied_since_snapshot_bytes.max(1);
            }
            Event::Confirmed { ledger, cursor } => {
                let admitted = self.machine.outbox_stats().ledger;
                if let Some(lead) =
                    self.lead.as_mut().filter(|_| admitted.is_none_or(|known| known == ledger))
                {
                    lead.confirm(ledger, cursor);
                }
            }
            Event::BatchLost { seq } => self.give_up_batch(seq),
            Event::Query { from, id, query } => self.on_query(now, from, id, query),
            Event::AskTable { from, id, question } => self.on_table(from, id, question),
            Event::Room(room) => {
                self.room = room;
                self.consensus.step(now.mono_ms, selvedge_paxos::Event::Room(room));
            }
            Event::Timer => {
                self.hand_back_if_due(now);
                self.consensus.step(now.mono_ms, selvedge_paxos::Event::Timer);
                self.pull(now);
            }
        }
    }

    /// Proposes what gathered, applies what is chosen, and says what is to be done about all events since it
    /// last did.
    ///
    /// # Errors
    /// The replica can't go on without drifting from the others: the process must end.
    pub fn take(&mut self, now: Now) -> Result<ShardEffects, Halt> {
        loop {
            self.propose(now);
            let effects = self.consensus.take();
            let quiet = effects.is_empty();
            self.absorb(effects);
            self.apply()?;
            if quiet {
                break;
            }
        }
        self.note_learned(now);
        self.helped.retain(|_, helped| helped.until_ms > now.mono_ms);
        self.serve_reads(now);
        self.publish_wills();
        self.snapshot_if_due();
        self.note_uplink();
        Ok(std::mem::take(&mut self.out))
    }

    /// When [`Event::Timer`] is wanted next, on the monotonic clock.
    pub fn deadline_ms(&mut self, now: Now) -> Option<u64> {
        let ticks = self.room && self.lead.as_ref().is_some_and(|lead| lead.takes_ticks());
        let at = if ticks && self.elapsed_now(now).is_some() { self.tick_at() } else { None };
        let clock = self.lead.as_ref().and_then(|lead| lead.clock);
        let tick = at.zip(clock).map(|(at, clock)| clock.when(now.mono_ms, at));
        let pull = self.receiving.as_ref().and_then(Receiving::deadline_ms);
        let hand_back = if self.serves() { self.hand_back.due_ms() } else { None };
        let lost = self.lost_due_ms(now);
        let reads = (!self.reads.is_empty()).then_some(now.mono_ms);
        [self.consensus.deadline(), tick, pull, hand_back, lost, reads].into_iter().flatten().min()
    }

    /// For operators.
    pub fn status(&self, now: Now) -> Status {
        let outbox = self.machine.outbox_stats();
        let clock = self.lead.as_ref().and_then(|lead| lead.clock);
        let elapsed = clock.map_or(self.machine.elapsed(), |clock| clock.now(now.mono_ms));
        Status {
            shard: self.id.0,
            leader: self.consensus.leader().map(|g| g.0),
            role: match self.consensus.role() {
                Role::Leader => "leader",
                Role::Candidate => "candidate",
                Role::Follower => "follower",
                Role::Damaged => "damaged",
            },
            ballot: self.consensus.ballot().to_string(),
            commit: self.consensus.commit(),
            applied: self.machine.slot(),
            outbox_batches: outbox.batches,
            outbox_bytes: outbox.bytes,
            lost_batches: outbox.lost,
            waiting_parts: outbox.waiting_parts + self.machine.sizes().open_parts as u64,
            last_batch: outbox.last,
            waiting_ms: outbox.waiting_since.map(|since| elapsed.since(since)),
        }
    }

    /// The machine, to look at.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its consensus, to look at.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Whether this replica leads and serves.
    pub fn serves(&self) -> bool {
        self.lead.as_ref().is_some_and(|l| l.opened)
    }

    fn absorb(&mut self, effects: selvedge_paxos::PaxosEffects) {
        let (group, configuration) = (self.id, CONFIGURATION);
        let wrap = |(to, message)| (to, PeerMessage::Paxos { group, configuration, message });
        self.out.send.extend(effects.send.into_iter().map(wrap));
        self.out.records.extend(effects.records.into_iter().map(|r| recover::record(group, r)));
        self.out.token = self.out.token.max(effects.token);
        self.out.send_after.extend(effects.send_after.into_iter().map(wrap));
        if effects.healed {
            self.out.healed = true;
            self.out.records.push(recover::healed(group, self.consensus.commit()));
        }
        if effects.leadership_changed {
            self.leadership_changed();
        }
        for (id, slot) in effects.reads {
            self.readable.extend(self.asked.remove(&id).map(|asked| (slot, asked)));
        }
        for id in effects.reads_failed {
            if let Some((to, id, _)) = self.asked.remove(&id) {
                self.answer(to, id, QueryAnswer::NotLeader { leader: self.consensus.leader().map(|g| g.0) });
            }
        }
        for to in effects.behind {
            self.invite(to);
        }
    }

    fn apply(&mut self) -> Result<(), Halt> {
        while self.machine.slot() < self.consensus.commit() && Arc::get_mut(&mut self.machine).is_some() {
            let from = self.machine.slot() + 1;
            let chunk: Vec<_> = self
                .consensus
                .committed_entries(from, APPLY_CHUNK_BYTES)
                .map(|e| (e.slot, e.value.clone()))
                .collect();
            if chunk.is_empty() {
                break; // only a snapshot reaches there
            }
            for (slot, value) in chunk {
                self.apply_one(slot, &value)?;
            }
        }
        Ok(())
    }

    fn apply_one(&mut self, slot: Slot, value: &[u8]) -> Result<(), Halt> {
        let proposal: Proposal<&[u8]> = match value {
            [] => Proposal {
                elapsed: self.machine.elapsed(),
                wall: self.machine.wall(),
                sure: self.machine.is_sure(),
                commands: Vec::new(),
            },
            bytes => Proposal::decode(bytes).map_err(|e| Halt::Undecodable {
                shard: self.id,
                slot,
                why: e.to_string(),
            })?,
        };
        let Some(machine) = Arc::get_mut(&mut self.machine) else { return Ok(()) }; // it is lent: not before it is back
        let applied = machine.apply(slot, &proposal)?;
        for (origin, n, verdict) in applied.verdicts {
            let asked = self.lead.as_mut().and_then(|lead| lead.settle(origin, n));
            let (slot, verdict) = match verdict {
                BatchVerdict::AlreadyApplied => self.answer_again(origin, n),
                verdict => (slot, verdict),
            };
            let to = asked.or((origin.gateway == self.me).then_some(self.me));
            if let Some(to) = to {
                let answer = ForwardAnswer::Verdict { slot, verdict };
                self.out.send.push((to, PeerMessage::Forwarded { shard: self.id, origin, n, answer }));
            }
        }
        // The replicas of a shard apply the same: one of them counts it, so that a site's sum is right.
        if self.lead.is_some() {
            self.out.counters.push(applied.counters);
        }
        self.out.cut.extend(applied.batches);
        self.out.released = applied.released.or(self.out.released);
        self.out.lost.extend(applied.lost);
        if let Some(lead) = &mut self.lead {
            lead.applied(slot);
            for evicted in applied.evicted {
                let evict = PeerMessage::Evict { start: evicted.at.start, connection: evicted.connection };
                self.out.send.push((evicted.at.gateway, evict));
            }
            for Origin { gateway, start } in applied.returned {
                self.out.send.push((gateway, PeerMessage::EvictAll { start, shard: self.id }));
            }
        }
        self.applied_since_snapshot_bytes += value.len() + 32;
        self.tail.push_back((slot, value.len() + 32));
        self.tail_bytes += value.len() + 32;
        let mut through = 0;
        let most = if self.helped.is_empty() { TAIL_BYTES } else { HELPED_TAIL_BYTES };
        while self.tail_bytes > most {
            let Some((slot, bytes)) = self.tail.pop_front() else { break };
            (self.tail_bytes, through) = (self.tail_bytes - bytes, slot);
        }
        if through > 0 {
            self.consensus.step(0, selvedge_paxos::Event::TrimMemory { through });
        }
        Ok(())
    }

    /// The answer to a batch that the machine has applied before.
    fn answer_again(&self, origin: Origin, n: u64) -> (Slot, BatchVerdict) {
        let kept = self.machine.verdict(origin, n);
        kept.map_or((0, BatchVerdict::AlreadyApplied), |(slot, verdict)| (slot, verdict.clone()))
    }

    fn on_query(&mut self, now: Now, from: GatewayId, id: u64, query: ShardQuery) {
        if query.stale {
            return self.scan(now, from, id, &query);
        }
        if self.asked.len() + self.readable.len() >= MAX_QUERIES {
            return self.answer(from, id, QueryAnswer::Unavailable);
        }
        self.last_read += 1;
        self.asked.insert(self.last_read, (from, id, query));
        self.consensus.step(now.mono_ms, selvedge_paxos::Event::Read { id: self.last_read });
    }

    fn serve_reads(&mut self, now: Now) {
        let applied = self.machine.slot();
        for (slot, (to, id, query)) in std::mem::take(&mut self.readable) {
            if slot <= applied {
                self.scan(now, to, id, &query);
            } else {
                self.readable.push((slot, (to, id, query)));
            }
        }
        self.reads.gather(now.mono_ms, &self.machine, &mut self.out.scans);
    }

    fn scan(&mut self, now: Now, to: GatewayId, id: u64, query: &ShardQuery) {
        if !self.reads.put(now.mono_ms, to, id, query) {
            self.answer(to, id, QueryAnswer::Unavailable);
        }
    }

    fn answer(&mut self, to: GatewayId, id: u64, answer: QueryAnswer) {
        self.out.send.push((to, PeerMessage::Answer { id, answer }));
    }

    fn snapshot_if_due(&mut self) {
        let due = self.snapshot_wanted || self.applied_since_snapshot_bytes >= SNAPSHOT_EVERY_BYTES;
        let fresh = self.applied_since_snapshot_bytes > 0;
        if due && fresh && self.saving.is_none() && !self.fetches_snapshot() {
            let slot = self.machine.slot();
            self.out.snapshot = Some((slot, SnapshotState::Lent(self.machine.clone())));
            (self.saving, self.snapshot_wanted, self.applied_since_snapshot_bytes) = (Some(slot), false, 0);
        }
    }

    fn note_uplink(&mut self) {
        let outbox = self.machine.outbox_stats();
        let (first_kept, last, ledger) = (outbox.cursor + 1, outbox.last, outbox.ledger);
        let leading = self.serves() && self.machine.incarnation().is_some();
        let incarnation = self.machine.incarnation().unwrap_or_default();
        let view = UplinkView { leading, first_kept, last, ledger, incarnation };
        if view != self.uplink {
            (self.uplink, self.out.uplink) = (view, Some(view));
        }
    }
}
