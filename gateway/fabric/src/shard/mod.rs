//! The shard core: one replica of one shard, without its host. It joins a [`Consensus`] with the machine that
//! applies the values that the group chooses.
//!
//! # Protocol
//!
//! Batches that gateways forward gather during a turn and become one proposal. Chosen values are applied in slot
//! order. The verdict about each batch goes back to the gateway that took it in, from the leader, and from that
//! gateway's own replica if it has one. The leader also proposes the ticks that the machine asks for and the
//! confirmations that the uplink brings, and answers queries after it has made sure that it still leads. A replica
//! that fell behind what its leader holds in memory catches up from the leader's disk (see [`transfer`]). If every
//! member has lost the content of a batch, the leader proposes the batch as lost, so that the uplink stops waiting
//! for it ([`ShardEvent::BatchLost`]).
//!
//! The members of the group change when a stop is chosen: the core then makes the group of the next configuration (see
//! [`configure`]).
//!
//! A leader that another member is better connected than hands over to that one ([`lead`]). A gateway that the leader
//! reaches only by a detour ([`crate::detour`]) is served like any other. Its replica gets nothing meanwhile: it can't
//! hear its leader and canvasses the others, but nobody supports it as long as the leader lives for them. So it disturbs
//! nobody, and it follows again when a member leads that reaches it.
//!
//! Wall time is the gateway's, as far as a majority agrees on it ([`crate::agreement`]). Without agreement it
//! continues by elapsed time from the last time agreed on, and the proposal marks it as unsure.
//!
//! # Invariants and limits
//!
//! Invariant: applied <= commit; the machine's slot is `applied`.
//! Invariant: a leader takes a forwarded batch only after it applied its own opening entry, so that what the
//! machine knows of an origin includes everything that earlier leaders may have chosen.
//! Invariant: elapsed time never goes back along the log, and advances at most as fast as the monotonic clock of
//! the current leader: see [`clock`].
//! Invariant: a query that is not stale is answered from a state that holds everything that was chosen before the
//! query came.
//! Limits: at most [`MAX_PENDING_BYTES`] of batches wait for a proposal; further ones are answered as busy. At most
//! [`MAX_QUERIES`] queries wait, and a turn looks at a bounded number of names for them (see [`reads`]).

mod clock;
mod configure;
mod lead;
mod reads;
mod recover;
mod tables;
mod transfer;
mod witness;

pub use recover::{
    FoundReplica, KIND_ACCEPTED, KIND_BEGUN_ANEW, KIND_COMMITTED, KIND_CONFIGURATION, KIND_HEALED,
    KIND_LEARNS, KIND_PROMISED, KIND_SUCCESSION, Replay, learns,
};

use crate::configuration::{self, Configuration, LastValue, ReconfigureRefused, Stop};

use crate::detector::ReachReports;
use crate::directory::Directory;
use crate::link::MAX_START;
use crate::machine::{
    BatchVerdict, Counters, CountingRules, CutBatch, DueWill, Halt, Machine, Origin, Proposal, Scan,
};
use crate::peer::{ForwardAnswer, PeerMessage, QueryAnswer, ShardQuery, TableQuestion, TransferMessage};
use crate::reach;
use crate::record::LogRecord;
use crate::site_state::{ReplicaDescription, ReplicaRole, TransferProgress};
use configure::{Group, Place};
use lead::{Absent, HandBack, Lead};
pub use lead::{HAND_BACK_MS, LOST_AFTER_MS, NOTE_ELAPSED_MS};
use reads::ReadQueue;
use selvedge_paxos::{Ballot, Consensus, Slot};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{LedgerId, SiteIncarnation};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;
use transfer::{Helped, Receiving};
pub use transfer::{MAX_SNAPSHOT_BYTES, TransferAnswer, TransferRequest};
pub use witness::ASK_BASE_MS;
use witness::Base;

/// How many bytes of forwarded batches may wait for a proposal at a leader.
pub const MAX_PENDING_BYTES: usize = 1024 * 1024;
/// The largest proposal that is made of several batches.
pub const MAX_PROPOSAL_BYTES: usize = 192 * 1024;
/// The largest forwarded batch: one with only the largest payload that a quarantine holds.
pub const MAX_SUBMISSION_BYTES: usize = 288 * 1024;
/// How many queries may wait for a confirmation of leadership, or for a slot to be applied.
pub const MAX_QUERIES: usize = 256;
/// How much of the applied log stays in memory for followers that lag a little.
pub const TAIL_BYTES: usize = 64 * 1024;
/// How much of the applied log stays in memory while a follower catches up from disk, so that memory reaches back
/// to where the disk part ends.
pub const HELPED_TAIL_BYTES: usize = 512 * 1024;
/// A snapshot is made after this many applied bytes, so that a restart replays less.
pub const SNAPSHOT_EVERY_BYTES: usize = 2 * 1024 * 1024;
/// How many bytes of chosen entries are taken from the group's log at a time.
const APPLY_CHUNK_BYTES: usize = 1024 * 1024;

/// The time by both clocks of this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// A clock that never goes back and starts anywhere, in milliseconds: for waits, and to count elapsed time.
    pub mono_ms: u64,
    /// The wall time, for labels.
    pub wall: EpochMs,
    /// Whether a majority of the gateways agrees on `wall`.
    pub sure: bool,
}

/// An input of the shard core.
#[derive(Debug)]
pub enum ShardEvent {
    /// A message within the shard's Paxos group.
    Paxos {
        /// The sender, as authenticated by the link.
        from: GatewayId,
        configuration: u32,
        message: selvedge_paxos::Message,
    },
    /// A gateway forwards a batch.
    Forward {
        /// The sender, as authenticated by the link, or named by the neighbour that passed it on.
        from: GatewayId,
        /// The process that took the batch's items in.
        origin: Origin,
        /// The origin's number of the batch.
        n: u64,
        /// The batch as an encoded [`Submission`](crate::machine::Submission).
        submission: Arc<[u8]>,
    },
    /// A message of a state transfer, to or from a replica that is behind.
    Transfer {
        /// The sender, as authenticated by the link.
        from: GatewayId,
        configuration: u32,
        message: TransferMessage,
    },
    /// A replica says that it is in this configuration.
    Superseded { from: GatewayId, configuration: u32 },
    /// The directory orders the next configuration. The leader proposes the stop, or gives the reason why not in
    /// [`ShardEffects::refused`], as any other replica does. [`ShardEffects::configured`] reports that it was chosen.
    Reconfigure(Stop),
    /// The learners that the directory names, which replace those named before. Only the first
    /// [`selvedge_paxos::MAX_LEARNERS`] count.
    Learners(Vec<GatewayId>),
    /// The rate to which this replica holds itself while it fetches a snapshot and what that lists; `None` for none.
    TransferRate { bytes_per_s: Option<NonZeroU64> },
    /// The result of reading the disk here for a replica that is behind: the answer to [`ShardEffects::transfers`].
    TransferAnswered {
        /// The replica that is behind.
        to: GatewayId,
        answer: TransferAnswer,
    },
    /// The failure detector's verdict changed.
    Peers {
        /// The gateways that can be reached.
        up: Vec<GatewayId>,
        /// Those whose process is another than before.
        restarted: Vec<GatewayId>,
    },
    /// A change in what the gateways that are up say of which gateways they have up.
    Said(Arc<ReachReports>),
    /// A change in which gateways have wall clocks outside the interval that a majority agrees on: they should lead
    /// only if no other can.
    Clocks {
        /// All gateways that are outside now.
        outside: Vec<GatewayId>,
    },
    /// A change in which gateways' disks have no room: they should not lead while a majority has room.
    Full {
        /// All gateways without room now, possibly including this one.
        who: Vec<GatewayId>,
    },
    /// Records up to this token are on disk.
    Persisted { token: u64 },
    /// The attempt to make the snapshot through this slot durable has ended.
    SnapshotSaved {
        slot: Slot,
        /// Whether it was saved; if not, a later one is tried.
        saved: bool,
    },
    /// The encoding of the machine lent for a snapshot is done.
    MachineReturned,
    /// Make a snapshot soon: the log needs one in order to be trimmed.
    SnapshotWanted,
    /// The newest snapshot on disk has rotted: make another one, even if nothing was applied since.
    SnapshotRotten,
    /// The node has everything up to this cursor.
    Confirmed {
        /// The ledger that confirms it.
        ledger: LedgerId,
        /// The highest seq up to which the ledger has every batch.
        cursor: u64,
    },
    /// The node has said how far it has the batches of the generation before a recovery
    /// ([`UplinkView::fence`]).
    Settled {
        /// The ledger that says so.
        ledger: LedgerId,
        /// The last batch of that generation here.
        last: u64,
        /// Whether the ledger has later ones.
        beyond: bool,
    },
    /// Every member of the group, including this replica, has just said that it lost the content of this batch.
    BatchLost { seq: u64 },
    /// A question about recent windows.
    Query {
        /// The gateway to answer.
        from: GatewayId,
        /// The asker's id of the question.
        id: u64,
        query: ShardQuery,
    },
    /// A question about a table.
    AskTable {
        /// The gateway to answer.
        from: GatewayId,
        /// The asker's id of the question.
        id: u64,
        question: TableQuestion,
    },
    /// Whether the disk has room.
    Room(bool),
    /// The time of [`ShardCore::deadline_ms`] has come.
    Timer,
}

/// The effects of a turn, in this order: `send` may leave at once; `records` and then `cut` are stored;
/// `send_after` leaves when all records up to `token` are on disk. Messages to this gateway itself are for its own
/// forwarder and queries.
#[derive(Debug, Default)]
pub struct ShardEffects {
    /// To send at once.
    pub send: Vec<(GatewayId, PeerMessage)>,
    /// To append to the log, in this order.
    pub records: Vec<LogRecord>,
    /// Names these records and all earlier ones.
    pub token: u64,
    /// To be sent once everything up to `token` is on disk.
    pub send_after: Vec<(GatewayId, PeerMessage)>,
    /// Uplink batches whose content must be kept.
    pub cut: Vec<CutBatch>,
    /// The contents of uplink batches up to this one may be deleted.
    pub released: Option<u64>,
    /// Batches that applied commands have just marked as lost.
    pub lost: Vec<u64>,
    /// Batches that a fetched snapshot lists, and whose contents its sender did not have.
    pub skipped: Vec<u64>,
    /// A transfer to this replica was given up: its sender, and why. The replica asks for it again.
    pub given_up: Option<(GatewayId, &'static str)>,
    /// Questions to answer once the contents that they need were evaluated.
    pub scans: Vec<Scanning>,
    /// A snapshot to make durable, together with the contents of all batches that it lists;
    /// [`ShardEvent::SnapshotSaved`] reports the result.
    pub snapshot: Option<(Slot, SnapshotState)>,
    /// A peer asks for the content of an uplink batch: the host answers with [`TransferMessage::Batch`].
    pub fetch: Vec<(GatewayId, u64)>,
    /// Replicas that are behind, and what to read from the disk here for each: [`ShardEvent::TransferAnswered`].
    pub transfers: Vec<(GatewayId, TransferRequest)>,
    /// The uplink's view of this shard, when it changed.
    pub uplink: Option<UplinkView>,
    /// Wills that this gateway must publish.
    pub wills: Vec<DueWill>,
    /// Counts from applying while this replica led, by slot.
    pub counters: Vec<Counters>,
    /// The damage that the log reported is repaired, once everything up to `token` is on disk.
    pub healed: bool,
    /// The later configuration that has begun here, if one has. If this gateway is neither a member of it nor a
    /// learner, its replica is retired: it keeps its state and answers until the host drops it.
    pub configured: Option<Configuration>,
    /// The directory as applied here, when it changed. Only the directory group's replicas have one.
    pub directory: Option<Arc<Directory>>,
    /// The directory's orders that this replica refused to propose: the order's slot in the directory, and the reason.
    pub refused: Vec<(Slot, ReconfigureRefused)>,
}

/// The state to make a snapshot of.
#[derive(Debug)]
pub enum SnapshotState {
    /// This replica's own state, lent so that it can be encoded on a thread that nothing else waits for. Nothing is
    /// applied until it is released and [`ShardEvent::MachineReturned`] says so.
    Lent(Arc<Machine>),
    /// The bytes of a snapshot that was fetched, or the base of a witness.
    Ready(Vec<u8>),
}

/// A question about recent windows that the shard has gathered, and the gateway to answer.
#[derive(Debug)]
pub struct Scanning {
    /// The gateway that asks.
    pub to: GatewayId,
    /// The asker's id of the question.
    pub id: u64,
    /// The rows found so far, and the contents to evaluate.
    pub scan: Scan,
}

/// The part of a shard's state that the uplink needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UplinkView {
    /// This replica leads, has applied everything that earlier leaders chose, and knows the site's incarnation.
    pub leading: bool,
    /// The lowest unconfirmed batch.
    pub first_kept: u64,
    /// The last batch that was cut; `first_kept - 1` when all are confirmed.
    pub last: u64,
    /// The ledger whose confirmations count; none before the first.
    pub ledger: Option<LedgerId>,
    /// The zero value until an incarnation is chosen.
    pub incarnation: SiteIncarnation,
    /// The last batch of the site's earlier generations: the ledger counts those after it from 1.
    pub base: u64,
    /// The batch behind which a recovery holds all others back, until the ledger has said how far it has this generation's.
    pub fence: Option<u64>,
}

/// A replica's state for operators.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Status {
    pub shard: u16,
    /// The configuration of the shard that the replica is in.
    pub configuration: u32,
    /// The leader's gateway number, as far as known.
    pub leader: Option<u16>,
    pub role: ReplicaRole,
    /// The members of the configuration, the preferred leader first.
    pub members: Vec<ReplicaStatus>,
    /// The learners that the directory has named to this replica.
    pub learners: Vec<ReplicaStatus>,
    /// The ballot that the replica has promised last.
    #[serde(serialize_with = "as_text")]
    pub ballot: Ballot,
    /// All slots up to this one are chosen.
    pub commit: u64,
    /// All slots up to this one are chosen, or accepted in that ballot.
    #[serde(skip)]
    pub prefix: u64,
    /// The last slot that is held here.
    #[serde(skip)]
    pub last_slot: u64,
    /// The generation of the incarnation of the site that batches are sent under; 0 before one is chosen.
    #[serde(skip)]
    pub generation: u64,
    /// All slots up to this one are applied here.
    pub applied: u64,
    /// What it has fetched of a snapshot, if it is fetching one.
    pub transfer: TransferProgress,
    /// How many uplink batches are unconfirmed.
    pub outbox_batches: u64,
    /// The bytes of the unconfirmed uplink batches.
    pub outbox_bytes: u64,
    /// Uplink batches whose contents every replica has lost, since the shard began.
    pub lost_batches: u64,
    /// Parts of closed windows that are in no batch yet, and windows that are open.
    pub waiting_parts: u64,
    /// The last uplink batch that was cut.
    pub last_batch: u64,
    /// How long the oldest closed part has waited to be cut, in milliseconds, as far as this replica knows.
    pub waiting_ms: Option<u64>,
}

impl From<&Status> for ReplicaDescription {
    fn from(status: &Status) -> Self {
        Self {
            shard: ShardId(status.shard),
            configuration: status.configuration,
            role: status.role,
            leader: status.leader.map(GatewayId),
            ballot: status.ballot,
            commit: status.commit,
            applied: status.applied,
            outbox_batches: status.outbox_batches,
            outbox_bytes: status.outbox_bytes,
            transfer: status.transfer,
        }
    }
}

fn as_text<S: serde::Serializer>(ballot: &Ballot, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(ballot)
}

/// A member or learner of a shard as one replica knows it, for [`Status`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ReplicaStatus {
    pub gateway: u16,
    /// Whether it is a member that never leads.
    pub witness: bool,
    /// The slot up to which the replica has everything on disk, by its last answer. Only the leader knows this.
    pub has: Option<u64>,
}

/// The set-up of one replica.
#[derive(Debug, Clone)]
pub struct ShardSettings {
    /// The Paxos group in its first configuration. The log and the snapshot name the members of later ones.
    pub group: selvedge_paxos::GroupConfig,
    /// The site's rules for its machines.
    pub rules: Arc<CountingRules>,
    /// A leader takes no more batches while this many bytes of uplink batches are unconfirmed.
    pub outbox_budget_bytes: u64,
    /// A drawn number that becomes part of the site's incarnation, if none is chosen yet.
    pub incarnation: u128,
}

/// One replica of one shard, without the things that its host keeps for it.
#[derive(Debug)]
pub struct ShardCore {
    id: ShardId,
    me: GatewayId,
    rules: Arc<CountingRules>,
    outbox_budget_bytes: u64,
    incarnation: u128,
    configuration: Configuration,
    /// The group of the present configuration.
    consensus: Consensus,
    place: Place,
    /// The group of the earlier configuration, as long as it has messages to send.
    previous: Option<Group>,
    /// This replica votes in no configuration up to this one.
    silent_until: u32,
    /// The members of the earlier configuration; empty if this process did not see it end.
    former: Vec<GatewayId>,
    /// The gateways within reach, as the host last reported.
    known_up: Vec<GatewayId>,
    /// The gateways that each of those has up, as the host last reported.
    said: Arc<ReachReports>,
    /// The learners that the directory names.
    learners: Vec<GatewayId>,
    /// Bytes per second at which it fetches a snapshot and what that lists, if it is held to a rate.
    transfer_rate: Option<NonZeroU64>,
    limits: selvedge_paxos::Limits,
    /// The random number of this start, with which a damaged group asks the others; `None` if it is not damaged.
    nonce: Option<u64>,
    /// The reason why the replica can't go on. The next [`ShardCore::take`] returns it.
    halt: Option<Halt>,
    /// Chosen values of earlier configurations that a restart found. The machine applies them before anything else.
    ended: Vec<(Slot, selvedge_paxos::Value)>,
    /// The gateways that the next turn sends [`PeerMessage::Superseded`].
    superseded: BTreeSet<GatewayId>,
    /// At a witness, what it may drop; `None` at a full replica.
    base: Option<Base>,
    /// Lent while a snapshot of it is encoded elsewhere: it can still be read, but nothing is applied.
    machine: Arc<Machine>,
    room: bool,
    lead: Option<Lead>,
    /// Slots that are applied and still in memory, with their sizes.
    tail: VecDeque<(Slot, usize)>,
    tail_bytes: usize,
    applied_since_snapshot_bytes: usize,
    saving: Option<Slot>,
    snapshot_wanted: bool,
    /// Queries that wait for the group to confirm leadership: read id -> question.
    asked: BTreeMap<u64, (GatewayId, u64, ShardQuery)>,
    /// Queries that wait for a slot to be applied.
    readable: Vec<(Slot, (GatewayId, u64, ShardQuery))>,
    last_read: u64,
    helped: BTreeMap<GatewayId, Helped>,
    reads: ReadQueue,
    receiving: Option<Receiving>,
    uplink: UplinkView,
    /// The directory as it was last told to the host.
    directory: Option<Arc<Directory>>,
    hand_back: HandBack,
    absent: Absent,
    out: ShardEffects,
}

impl ShardCore {
    /// A replica with the state that its disk holds. A call of [`ShardCore::take`] right afterwards returns the
    /// effects of applying again.
    ///
    /// # Errors
    /// Returns why the replica can't run.
    pub fn recover(
        settings: ShardSettings,
        machine: Machine,
        found: impl Into<FoundReplica>,
    ) -> Result<Self, selvedge_paxos::ConfigError> {
        let found: FoundReplica = found.into();
        let base = machine.is_witness().then(|| Base::found(&machine));
        let machine = match found.passed {
            Some((slot, at)) if machine.is_witness() => Machine::witness(settings.group.group, slot, at),
            _ => machine,
        };
        let (id, me) = (settings.group.group, settings.group.me);
        let first = Configuration::first(settings.group.members.clone(), settings.group.witnesses.clone());
        let known = found.configuration.or_else(|| machine.configuration().cloned());
        let configuration = known.unwrap_or(first);
        let mut out = ShardEffects::default();
        if found.recovered.damaged.is_some() {
            out.records.push(recover::begun_anew(id, configuration.number, found.recovered.snapshot_slot));
        }
        // A log that lost records may have lost this one; without it, each later start would find the replica damaged.
        let lost = found.recovered.damaged.is_some() && found.silent_until > 0;
        if found.is_new || lost {
            out.records.push(recover::learns(id, found.silent_until));
        }
        let (nonce, limits) = (found.recovered.damaged, settings.group.limits);
        let learners = settings.group.learners;
        let who = configure::Who { shard: id, me, learners: &learners, limits: &limits };
        let votes = configuration.number > found.silent_until;
        let consensus = who.recover(&configuration, found.recovered, votes)?;
        Ok(Self {
            id,
            me,
            hand_back: HandBack::new(me, &configuration),
            place: Place::of(&consensus),
            configuration,
            previous: None,
            silent_until: found.silent_until,
            former: Vec::new(),
            known_up: Vec::new(),
            said: Arc::default(),
            learners,
            transfer_rate: None,
            limits,
            nonce,
            ended: found.ended,
            halt: None,
            superseded: BTreeSet::new(),
            absent: Absent::new(me),
            rules: settings.rules,
            outbox_budget_bytes: settings.outbox_budget_bytes,
            incarnation: settings.incarnation,
            consensus,
            base,
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
            reads: ReadQueue::default(),
            receiving: None,
            uplink: UplinkView::default(),
            directory: None,
            out,
        })
    }

    /// Takes in an event.
    pub fn step(&mut self, now: Now, event: ShardEvent) {
        match event {
            ShardEvent::Paxos { from, configuration, message } => {
                self.on_paxos(now, from, configuration, message);
            }
            ShardEvent::Superseded { from, configuration } => self.on_superseded(now, from, configuration),
            ShardEvent::Reconfigure(stop) => self.reconfigure(now, stop),
            ShardEvent::Learners(learners) => self.on_learners(now, learners),
            ShardEvent::TransferRate { bytes_per_s } => self.transfer_rate = bytes_per_s,
            ShardEvent::Forward { from, origin, n, submission } => {
                // The link knows who is at its other end. A batch in another gateway's name would use up that
                // gateway's numbers, and a start that no process reaches would become the last one that the shard
                // accepts.
                if origin.gateway == from && origin.start <= MAX_START {
                    self.on_forward(from, origin, n, submission);
                }
            }
            ShardEvent::Transfer { from, configuration, message } => {
                self.on_transfer(now, from, configuration, message);
            }
            ShardEvent::TransferAnswered { to, answer } => self.on_answer(now, to, answer),
            ShardEvent::Peers { up, restarted } => {
                self.hand_back.peers(now, &up, &restarted);
                self.on_peers(now, up, restarted);
                self.reach_changed(now);
            }
            ShardEvent::Said(said) => {
                self.hand_back.said(now, &said);
                self.said = said;
                self.reach_changed(now);
            }
            ShardEvent::Clocks { outside } => {
                self.hand_back.clocks(now, &outside);
                self.consensus
                    .step(now.mono_ms, selvedge_paxos::Event::Reluctant(self.hand_back.reluctant()));
            }
            ShardEvent::Full { who } => {
                self.hand_back.full(now, &who);
                self.consensus
                    .step(now.mono_ms, selvedge_paxos::Event::Reluctant(self.hand_back.reluctant()));
            }
            ShardEvent::Persisted { token } => {
                self.persisted(now, token);
                self.learned_is_saved(now, token);
            }
            ShardEvent::MachineReturned => {} // the turn applies what has gathered
            ShardEvent::SnapshotSaved { slot, saved } => self.on_snapshot_saved(now, slot, saved),
            ShardEvent::SnapshotWanted => self.snapshot_wanted = true,
            ShardEvent::SnapshotRotten if self.is_witness() => {
                self.base.iter_mut().for_each(Base::rotten);
            }
            ShardEvent::SnapshotRotten => {
                self.snapshot_wanted = true;
                self.applied_since_snapshot_bytes = self.applied_since_snapshot_bytes.max(1);
            }
            ShardEvent::Confirmed { ledger, cursor } => {
                let admitted = self.machine.outbox_stats().ledger;
                if let Some(lead) =
                    self.lead.as_mut().filter(|_| admitted.is_none_or(|known| known == ledger))
                {
                    lead.confirm(ledger, cursor);
                }
            }
            ShardEvent::Settled { ledger, last, beyond } => {
                let fence = self.machine.outbox_stats().fence;
                if let Some(lead) =
                    self.lead.as_mut().filter(|_| fence.is_some_and(|fence| fence.last == last))
                {
                    lead.settle_fence(ledger, last, beyond);
                }
            }
            ShardEvent::BatchLost { seq } => self.give_up_batch(seq),
            ShardEvent::Query { from, id, query } => self.on_query(now, from, id, query),
            ShardEvent::AskTable { from, id, question } => self.on_table(from, id, question),
            ShardEvent::Room(room) => {
                self.room = room;
                self.consensus.step(now.mono_ms, selvedge_paxos::Event::Room(room));
            }
            ShardEvent::Timer => {
                self.hand_back_if_due(now);
                self.consensus.step(now.mono_ms, selvedge_paxos::Event::Timer);
                self.step_previous(now, selvedge_paxos::Event::Timer);
                self.pull(now);
            }
        }
    }

    /// Proposes what gathered, applies what is chosen, and returns the effects of all events since the last call.
    ///
    /// # Errors
    /// Returned if the replica can't go on without diverging from the others: the process must end.
    pub fn take(&mut self, now: Now) -> Result<ShardEffects, Halt> {
        if let Some(halt) = self.halt.take() {
            return Err(halt);
        }
        loop {
            self.propose(now);
            let effects = self.consensus.take();
            let quiet = effects.is_empty() && self.previous_is_quiet();
            self.absorb(effects);
            let goes_on = self.apply(now)?;
            if quiet && !goes_on {
                break;
            }
        }
        self.tell_superseded();
        self.note_learned(now);
        self.helped.retain(|_, helped| helped.until_ms > now.mono_ms);
        self.serve_reads(now);
        self.publish_wills();
        self.snapshot_if_due(now);
        self.note_uplink();
        self.note_directory();
        Ok(std::mem::take(&mut self.out))
    }

    /// When the core next needs [`ShardEvent::Timer`], on the monotonic clock.
    pub fn deadline_ms(&mut self, now: Now) -> Option<u64> {
        let ticks = self.room && self.lead.as_ref().is_some_and(|lead| lead.takes_ticks());
        let at = if ticks && self.elapsed_now(now).is_some() { self.tick_at() } else { None };
        let clock = self.lead.as_ref().and_then(|lead| lead.clock);
        let tick = at.zip(clock).map(|(at, clock)| clock.when(now.mono_ms, at));
        let pull = self.receiving.as_ref().and_then(Receiving::deadline_ms);
        let hand_back = if self.serves() { self.hand_back.due_ms() } else { None };
        let lost = self.lost_due_ms(now);
        let reads = (!self.reads.is_empty()).then_some(now.mono_ms);
        let previous = self.previous.as_ref().and_then(|group| group.consensus.deadline());
        let base = self.base_due_ms();
        let due = [self.consensus.deadline(), previous, tick, pull, hand_back, lost, reads, base];
        due.into_iter().flatten().min()
    }

    /// The replica's state for operators.
    pub fn status(&self, now: Now) -> Status {
        let outbox = self.machine.outbox_stats();
        let clock = self.lead.as_ref().and_then(|lead| lead.clock);
        let elapsed = clock.map_or(self.machine.elapsed(), |clock| clock.now(now.mono_ms));
        let group = self.consensus.config();
        let replica = |gateway: &GatewayId| ReplicaStatus {
            gateway: gateway.0,
            witness: self.configuration.witnesses.contains(gateway),
            has: self.consensus.progress(*gateway),
        };
        Status {
            shard: self.id.0,
            leader: self.consensus.leader().map(|g| g.0),
            configuration: self.configuration.number,
            role: match self.consensus.role().into() {
                ReplicaRole::Learner if self.is_retired() => ReplicaRole::Retired,
                role => role,
            },
            members: self.configuration.members.iter().map(replica).collect(),
            learners: group
                .learners
                .iter()
                .filter(|l| !self.is_retired() || **l != self.me)
                .map(replica)
                .collect(),
            ballot: self.consensus.ballot(),
            commit: self.consensus.commit(),
            prefix: self.consensus.prefix(),
            last_slot: self.consensus.last_slot(),
            generation: self.machine.incarnation().map_or(0, |incarnation| incarnation.generation),
            applied: self.machine.slot(),
            transfer: self.receiving.as_ref().map(Receiving::progress).unwrap_or_default(),
            outbox_batches: outbox.batches,
            outbox_bytes: outbox.bytes,
            lost_batches: outbox.lost,
            waiting_parts: outbox.waiting_parts + self.machine.sizes().open_parts as u64,
            last_batch: outbox.last,
            waiting_ms: outbox.waiting_since.map(|since| elapsed.since(since)),
        }
    }

    /// Read access to the machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The latest configuration that has begun here. A retired replica has no part in it.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Read access to the replica's consensus in the present configuration.
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Whether this replica leads and has applied its opening entry, so that it serves requests.
    pub fn serves(&self) -> bool {
        self.lead.as_ref().is_some_and(|l| l.opened)
    }

    /// Takes in which gateways are within reach, directly or by a detour: they can be answered.
    fn reach_changed(&mut self, now: Now) {
        let within = reach::within(self.known_up.iter().copied(), &self.said);
        self.absent.reach(now, &within);
        self.reads.reach(self.me, &within);
    }

    fn absorb(&mut self, effects: selvedge_paxos::PaxosEffects) {
        let (group, configuration) = (self.id, self.configuration.number);
        let wrap = |(to, message)| (to, PeerMessage::Paxos { group, configuration, message });
        let send = effects.send.into_iter().map(wrap);
        // The replica sends nothing of a configuration until the record of its beginning is on disk.
        match self.place.is_durable() {
            true => self.out.send.extend(send),
            false => self.out.send_after.extend(send),
        }
        self.out
            .records
            .extend(effects.records.into_iter().map(|r| recover::record(group, configuration, r)));
        self.out.token = self.out.token.max(self.place.token(effects.token));
        self.out.send_after.extend(effects.send_after.into_iter().map(wrap));
        // A replica that only learns here may be repaired in this configuration and still have lost votes in a later
        // one.
        if effects.healed && self.configuration.number > self.silent_until {
            (self.out.healed, self.nonce) = (true, None);
            self.out.records.push(recover::healed(group, configuration, self.consensus.commit()));
        }
        if effects.leadership_changed {
            self.leadership_changed();
        }
        for (id, slot) in effects.reads {
            self.readable.extend(self.asked.remove(&id).map(|asked| (slot, asked)));
        }
        for id in effects.reads_failed {
            if let Some((to, id, _)) = self.asked.remove(&id) {
                self.answer_not_leader(to, id, self.consensus.leader());
            }
        }
        for to in effects.behind {
            self.invite(to);
        }
    }

    /// Applies what is chosen. Returns whether a later configuration has begun.
    fn apply(&mut self, now: Now) -> Result<bool, Halt> {
        for (slot, value) in std::mem::take(&mut self.ended) {
            self.apply_one(slot, &value)?;
        }
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
        self.begin_next(now)
    }

    fn apply_one(&mut self, slot: Slot, value: &[u8]) -> Result<(), Halt> {
        if configuration::is_stop(value) {
            let undecodable = |why| Halt::Undecodable { shard: self.id, slot, why };
            let last = LastValue::decode(value).map_err(|e| undecodable(e.to_string()))?;
            if let Some(machine) = Arc::get_mut(&mut self.machine) {
                match last {
                    LastValue::Stop(stop) => machine.stop(slot, &stop)?,
                    LastValue::Succession(succession) => {
                        self.out.cut.extend(machine.succeed(slot, &succession)?.batches);
                    }
                }
                self.applied_since_snapshot_bytes += value.len() + 32;
            }
            return Ok(());
        }
        if self.is_witness() {
            if let Some(machine) = Arc::get_mut(&mut self.machine) {
                machine.pass(slot)?;
                self.remember(slot, value.len() + 32);
            }
            return Ok(());
        }
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
        // All replicas of a shard apply the same entries: only the leader counts them, so that a site's sum is
        // right.
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
        self.remember(slot, value.len() + 32);
        Ok(())
    }

    /// Keeps an applied slot in memory for followers that lag a little, and drops the oldest.
    fn remember(&mut self, slot: Slot, bytes: usize) {
        self.applied_since_snapshot_bytes += bytes;
        self.tail.push_back((slot, bytes));
        self.tail_bytes += bytes;
        let mut through = 0;
        let most = if self.helped.is_empty() { TAIL_BYTES } else { HELPED_TAIL_BYTES };
        while self.tail_bytes > most {
            let Some((slot, bytes)) = self.tail.pop_front() else { break };
            (self.tail_bytes, through) = (self.tail_bytes - bytes, slot);
        }
        if self.is_witness() {
            // Only the log can give what memory no longer holds, so it must show that this was chosen.
            through = through.min(self.consensus.recorded_commit());
        }
        if through > 0 {
            self.consensus.step(0, selvedge_paxos::Event::TrimMemory { through });
        }
    }

    /// The answer to a batch that the machine has applied before.
    fn answer_again(&self, origin: Origin, n: u64) -> (Slot, BatchVerdict) {
        let kept = self.machine.verdict(origin, n);
        kept.map_or((0, BatchVerdict::AlreadyApplied), |(slot, verdict)| (slot, verdict.clone()))
    }

    fn on_query(&mut self, now: Now, from: GatewayId, id: u64, query: ShardQuery) {
        if self.is_retired() {
            return self.answer_not_leader(from, id, None); // its state no longer changes
        }
        if self.is_witness() {
            return self.answer_not_leader(from, id, self.consensus.leader()); // it has no state
        }
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

    fn answer_not_leader(&mut self, to: GatewayId, id: u64, leader: Option<GatewayId>) {
        let (leader, replicas) = (leader.map(|g| g.0), self.configuration.replicas());
        self.answer(to, id, QueryAnswer::NotLeader { leader, replicas });
    }

    fn snapshot_if_due(&mut self, now: Now) {
        if self.is_witness() {
            return self.move_base(now);
        }
        let due = self.snapshot_wanted || self.applied_since_snapshot_bytes >= SNAPSHOT_EVERY_BYTES;
        let fresh = self.applied_since_snapshot_bytes > 0;
        if due && fresh && self.saving.is_none() && !self.fetches_snapshot() {
            let slot = self.machine.slot();
            self.out.snapshot = Some((slot, SnapshotState::Lent(self.machine.clone())));
            (self.saving, self.snapshot_wanted, self.applied_since_snapshot_bytes) = (Some(slot), false, 0);
        }
    }

    fn note_directory(&mut self) {
        let Some(directory) = self.machine.directory() else { return };
        if self.directory.as_ref().is_none_or(|known| !Arc::ptr_eq(known, directory)) {
            self.directory = Some(directory.clone());
            self.out.directory = Some(directory.clone());
        }
    }

    fn note_uplink(&mut self) {
        let outbox = self.machine.outbox_stats();
        let (first_kept, ledger, base) = (outbox.cursor + 1, outbox.ledger, outbox.base);
        let fence = outbox.fence.map(|fence| fence.last);
        let last = fence.unwrap_or(outbox.last);
        let leading = self.serves() && self.machine.incarnation().is_some();
        let incarnation = self.machine.incarnation().unwrap_or_default();
        let view = UplinkView { leading, first_kept, last, ledger, incarnation, base, fence };
        if view != self.uplink {
            (self.uplink, self.out.uplink) = (view, Some(view));
        }
    }
}
