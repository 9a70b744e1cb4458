//! The state machine of one shard: commands, applied in slot order.
//!
//! Every replica of a shard applies the same proposals at the same slots and so holds the same state, cuts
//! the same batches and gives the same answers. Time reaches it only with a proposal, ids and randomness not at all.
//!
//! # Two clocks
//! **Elapsed time** decides: sessions expire, streams fall idle, late parts are flushed and batches are cut by it. It is what leaders
//! have counted on their monotonic clocks, so nothing happens early, whatever wall clocks do. **Wall time** labels: readings
//! without a time of their own get it, and people are shown it. It may jump by years, forward or back.
//!
//! # The way of a batch through it
//! A gateway's batch ([`Command::Forwarded`]) is applied if its number is the next of its origin; so a gateway may
//! send it again until it is answered. Each publish in it is first held against the packet ids of its client
//! (in persistent sessions), each of its readings against the sequence numbers of its stream; what is new
//! is counted into windows. Parts of windows close by the watermark while readings are applied, and by time at a
//! [`Command::Tick`]; they wait in the outbox until they are cut into batches. What a node has confirmed is kept for
//! questions about recent windows, within a bound of bytes. The contents of batches lie with the host: a question becomes a
//! [`Scan`] that takes along what is in memory and says which contents are to be looked at.
//!
//! # Tables
//! The machine itself keeps little: its clocks, the rules in force, and which batches of each gateway were applied. All else is in tables
//! (`table`), one for each kind of state: what is counted, packet ids, the quarantine, sessions. A table applies its own items, ticks,
//! says when it is due next, and writes and reads its part of a snapshot. What concerns two tables at once is written out in
//! [`Machine::apply`] and what it calls, so that no table knows another.
//!
//! # Invariants
//! - Invariant: slots are applied in order, each once.
//! - Invariant: the same proposals give the same snapshot bytes, whether or not a replica was restored from a snapshot on
//!   the way. So nothing iterates over a hash map, and what is kept lazily (deadlines, orders of use)
//!   is derived from the state and never decides more than the state does.
//! - Invariant: the content of a batch is fixed by the command that cuts it.
//!
//! # Limits
//! Every table has a bound ([`CountingRules`]): at the bounds of streams, sessions and unconfirmed batches it
//! refuses, at those of open parts it closes early, at that of clients it forgets the one unheard of for longest.
//! Streams stay until they are retired. `docs/internals/decisions/0005-dedup-rule.md` says what a reading is recognised by.
//!
//! # Left out
//! Event time as a reading's identity; sliding windows (a query merges tumbling ones); twins, locks
//! and transactions.
//!
//! Sources: Schneider, "Implementing Fault-Tolerant Services Using the State Machine Approach" (1990); Akidau
//! et al., "The Dataflow Model" (2015) for watermarks and late panes; MQTT 3.1.1 section 4.3 and 5.0 section 4.4.

mod applied;
mod clocks;
mod command;
mod counting;
mod fullness;
mod gather;
mod judged;
mod outcomes;
mod packet_ids;
mod quarantine;
mod query;
mod rules;
mod scan;
mod sessions;
mod snapshot;
mod submission;
mod table;
mod tables;
mod trust;
mod verdicts;

pub use applied::{Applied, Counters, CutBatch, Evicted};
pub use command::*;
pub use counting::{
    BatchRecord, MAX_BOOTS_ENTRIES, MAX_CUT_WAIT_MS, MAX_NUMBER, MAX_OPEN_WINDOWS_ENTRIES,
    MAX_TICK_RETIRED_ENTRIES, MAX_TOMBSTONES_ENTRIES, OutboxStats, SEQUENCE_WIDTH_ENTRIES, TOMBSTONE_MS,
};
pub use fullness::{Fullness, WARN_PERCENT};
pub use gather::{GATHER_TURN_STEPS, Gathering};
pub use judged::{Judged, Reason, SetAside};
pub use outcomes::{BatchVerdict, Connected, ItemOutcome, ItemOutcomes};
pub use packet_ids::{FORGET_AFTER_S, KEPT_ENTRIES, MAX_INFLIGHT_ENTRIES, MAX_UNRELEASED_ENTRIES};
pub use quarantine::{
    MAX_PAYLOAD_BYTES, MAX_READMITTED_ENTRIES, MAX_TEXT_BYTES, QuarantineEntry, QuarantineStats,
};
pub use query::{DEVICES_STREAMS, DeviceInfo, MAX_ANSWER_BYTES, MAX_ANSWER_ENTRIES, Page, Query, StreamInfo};
pub use rules::{BadRule, CountingRules, Override};
pub use scan::{MAX_SCAN_BYTES, MAX_SCAN_STREAMS, Scan, Scanned};
pub use sessions::{MAX_CLIENT_BYTES, MAX_FILTER_BYTES, MAX_PUBLISHING_MS, MAX_WILL_BYTES, MAX_WILLS_BYTES};
pub use snapshot::{RestoreError, SNAPSHOT_VERSION};
pub use submission::{Maker, NameRef, SUBMISSION_VERSION, Submission};
pub use trust::{BELIEVED_AFTER_MS, MAX_LEAD_MS};
pub use verdicts::MAX_INFLIGHT_BATCHES;

use clocks::Clocks;
use counting::Named;
use packet_ids::KnownPublish;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::SiteIncarnation;
use std::collections::BTreeMap;
use std::sync::Arc;
use table::Moment;
use tables::Tables;
use verdicts::Verdicts;

/// Why a replica must stop: what it holds is no longer the shard's state, or would not be after this slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// Not the next slot.
    #[error("shard {shard}: slot {found} was to be applied, but {expected} is next")]
    Slot {
        /// The shard.
        shard: ShardId,
        /// The next slot.
        expected: u64,
        /// The slot given.
        found: u64,
    },
    /// A chosen value that this release can't read.
    #[error("shard {shard}: what was chosen in slot {slot} can't be read: {why}")]
    Undecodable {
        /// The shard.
        shard: ShardId,
        /// The slot.
        slot: u64,
        /// What the decoder says.
        why: String,
    },
}

/// The state of one shard.
#[derive(Debug)]
pub struct Machine {
    shard: ShardId,
    /// What this gateway's settings say.
    wanted: Arc<CountingRules>,

    slot: u64,
    clocks: Clocks,
    level: u32,
    incarnation: Option<SiteIncarnation>,
    /// The rules in force.
    rules: Arc<CountingRules>,
    /// Of each gateway, the start of its process that is known, and its last batch that was applied.
    origins: BTreeMap<GatewayId, (u64, u64)>,
    verdicts: Verdicts,
    tables: Tables,
}

impl Machine {
    /// The machine of a new shard. [`CountingRules::default`] are in force until those given here are
    /// chosen: see [`Machine::rules_command`].
    pub fn new(shard: ShardId, rules: Arc<CountingRules>) -> Self {
        Self {
            shard,
            wanted: rules,
            slot: 0,
            clocks: Clocks::default(),
            level: 1,
            incarnation: None,
            rules: Arc::default(),
            origins: BTreeMap::new(),
            verdicts: Verdicts::default(),
            tables: Tables::default(),
        }
    }

    /// What a leader proposes first, and whenever it takes over: the command that puts its gateway's rules in
    /// force; nothing if they are, or if they are not valid.
    pub fn rules_command(&self) -> Option<Command> {
        let news = self.wanted != self.rules && self.wanted.validate().is_ok();
        news.then(|| Command::Rules(Box::new((*self.wanted).clone())))
    }

    /// Which making of the site this is; nothing before it is chosen.
    pub fn incarnation(&self) -> Option<SiteIncarnation> {
        self.incarnation
    }

    /// Applies what slot `slot` holds.
    ///
    /// # Errors
    /// [`Halt`] when this machine can't go on; it is then to be dropped.
    pub fn apply<Bytes: AsRef<[u8]>>(
        &mut self,
        slot: u64,
        proposal: &Proposal<Bytes>,
    ) -> Result<Applied, Halt> {
        let expected = self.slot.saturating_add(1);
        if slot != expected {
            return Err(Halt::Slot { shard: self.shard, expected, found: slot });
        }
        self.slot = slot;
        self.clocks.go_on(proposal);
        self.tables.counting.begin_slot();
        let mut applied = Applied::default();
        for command in &proposal.commands {
            self.command(command, &mut applied);
        }
        applied.released = self.tables.counting.outbox.release(self.rules.recent_bytes);
        Ok(applied)
    }

    fn command<Bytes: AsRef<[u8]>>(&mut self, command: &Command<Bytes>, applied: &mut Applied) {
        let at = self.moment();
        let Tables { counting, sessions, .. } = &mut self.tables;
        match command {
            Command::Forwarded { origin, n, submission } => {
                let verdict = self.forwarded(*origin, *n, submission.as_ref(), &at, applied);
                self.verdicts.note(*origin, *n, self.slot, &verdict);
                applied.verdicts.push((*origin, *n, verdict));
            }
            Command::Tick => self.tables.list_mut().into_iter().for_each(|table| table.tick(&at, applied)),
            Command::Confirmed { ledger, cursor } => counting.outbox.confirmed(*ledger, *cursor),
            Command::Lost { origin } => sessions.lost(*origin, &at),
            Command::Upgrade { level } => self.level = self.level.max(*level),
            Command::Rules(rules) if rules.validate().is_err() || **rules == *self.rules => {}
            Command::Rules(rules) => {
                counting.put_in_force(rules, &at, applied);
                self.rules = Arc::new((**rules).clone());
            }
            Command::LostBatch { seq } if counting.outbox.lose(*seq) => {
                applied.counters.batches_lost += 1;
                applied.lost.push(*seq);
            }
            Command::LostBatch { .. } => {}
            Command::Incarnation(chosen) => _ = self.incarnation.get_or_insert(*chosen),
        }
    }

    /// What a command that is applied now may go by.
    fn moment(&self) -> Moment {
        Moment { slot: self.slot, now: self.clocks.now(), rules: self.rules.clone() }
    }

    fn forwarded(
        &mut self,
        origin: Origin,
        n: u64,
        submission: &[u8],
        at: &Moment,
        applied: &mut Applied,
    ) -> BatchVerdict {
        let (start, last) = self.origins.get(&origin.gateway).copied().unwrap_or((0, 0));
        if origin.start < start {
            return BatchVerdict::OldStart;
        }
        let mut last = last;
        if origin.start > start {
            last = 0;
            self.origins.insert(origin.gateway, (origin.start, 0));
            self.verdicts.restarted(origin.gateway);
            self.tables.sessions.superseded(origin.gateway, origin.start, at);
        }
        if n <= last && !canary::makes(Canary::ForwardedTwice) {
            applied.counters.already_applied += 1;
            return BatchVerdict::AlreadyApplied;
        }
        if n > last + 1 {
            return BatchVerdict::Gap { last };
        }
        self.origins.insert(origin.gateway, (origin.start, last.max(n)));
        if self.tables.sessions.is_back(origin.gateway) {
            applied.returned.push(origin);
        }
        let Ok(submission) = Submission::decode(submission) else {
            applied.counters.malformed += 1;
            return BatchVerdict::Malformed;
        };
        self.tables.counting.begin(&submission);
        let mut outcomes = ItemOutcomes::default();
        for item in &submission.items {
            let outcome = self.item(item, &submission, at, applied);
            match &outcome {
                ItemOutcome::Duplicate => applied.counters.duplicates += 1,
                ItemOutcome::Stale => applied.counters.stale += 1,
                ItemOutcome::Refused(_) => applied.counters.refused += 1,
                ItemOutcome::Done
                | ItemOutcome::Judged(_)
                | ItemOutcome::Connected(_)
                | ItemOutcome::Subscribed { .. }
                | ItemOutcome::Retired { .. }
                | ItemOutcome::WillDue(_) => {}
            }
            outcomes.push(outcome);
        }
        BatchVerdict::Applied(outcomes)
    }

    /// What needs more than one table is written out here; any other item is its table's.
    fn item(
        &mut self,
        item: &Item,
        submission: &Named<'_>,
        at: &Moment,
        applied: &mut Applied,
    ) -> ItemOutcome {
        let Tables { counting, sessions, .. } = &mut self.tables;
        match item {
            Item::Begin => ItemOutcome::Done,
            Item::Reading(reading) => {
                ItemOutcome::Judged(counting.judge(std::slice::from_ref(reading), submission, at, applied))
            }
            Item::Publish(publish) => self.publish(publish, submission, at, applied),
            Item::Readmit(readmit) => self.readmit(readmit, submission, at, applied),
            Item::Quarantine { epoch, publish } if sessions.is_replaced(&publish.client, *epoch) => {
                ItemOutcome::Stale
            }
            Item::ResendCounted(source) if sessions.is_replaced(&source.client, source.epoch) => {
                ItemOutcome::Stale
            }
            item => {
                let outcome =
                    self.tables.list_mut().into_iter().find_map(|table| table.apply(item, at, applied));
                debug_assert!(outcome.is_some(), "no table takes {item:?}");
                outcome.unwrap_or_else(|| ItemOutcome::Refused("no table takes it".to_string()))
            }
        }
    }

    fn publish(
        &mut self,
        Publish { source, readings }: &Publish,
        submission: &Named<'_>,
        at: &Moment,
        applied: &mut Applied,
    ) -> ItemOutcome {
        let Tables { counting, packet_ids, .. } = &mut self.tables;
        if let Some(source) = source {
            if source.client.len() > MAX_CLIENT_BYTES {
                return ItemOutcome::Refused(format!("a client id must have 1 to {MAX_CLIENT_BYTES} bytes"));
            }
            let forgotten = &mut applied.counters.clients_forgotten;
            match packet_ids.meet(source, at.rules.max_clients, forgotten) {
                KnownPublish::New => {}
                KnownPublish::Duplicate => return ItemOutcome::Duplicate,
                KnownPublish::Stale => return ItemOutcome::Stale,
                KnownPublish::Full => {
                    let most = MAX_UNRELEASED_ENTRIES;
                    return ItemOutcome::Refused(format!(
                        "{most} QoS 2 publishes of this client await PUBREL"
                    ));
                }
            }
        }
        let judged = counting.judge(readings, submission, at, applied);
        // Nothing of a publish that is set aside as a whole has to be recognised: its packet id stays free.
        if let Some(source) = source.as_ref().filter(|_| judged.is_kept()) {
            packet_ids.note(source, at.now.elapsed);
        }
        ItemOutcome::Judged(judged)
    }

    /// Judges readings of a quarantined publish again.
    fn readmit(
        &mut self,
        readmit: &Readmit,
        submission: &Named<'_>,
        at: &Moment,
        applied: &mut Applied,
    ) -> ItemOutcome {
        let Tables { counting, quarantine, .. } = &mut self.tables;
        let (of, attempt) = ((readmit.shard, readmit.id), readmit.attempt);
        if let Some(judged) = quarantine.readmitted(of, attempt) {
            return ItemOutcome::Judged(judged.clone());
        }
        let judged = counting.judge(&readmit.readings, submission, at, applied);
        if judged.is_kept() {
            quarantine.note_readmitted(of, attempt, judged.clone());
        }
        ItemOutcome::Judged(judged)
    }

    /// The elapsed time from which on a [`Command::Tick`] has something to do; nothing when it never has as things
    /// are. Cheap: what readings have moved back since is looked at only when it comes first.
    pub fn next_tick_due(&mut self) -> Option<ElapsedMs> {
        self.tables.list_mut().into_iter().filter_map(|table| table.next_due(&self.rules)).min()
    }

    /// The shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The last slot that was applied; 0: none.
    pub fn slot(&self) -> u64 {
        self.slot
    }

    /// The elapsed time of the last proposal that was applied.
    pub fn elapsed(&self) -> ElapsedMs {
        self.clocks.elapsed
    }

    /// The wall time of the last proposal that was applied.
    pub fn wall(&self) -> EpochMs {
        self.clocks.wall
    }

    /// Whether a majority of the gateways agreed on [`Machine::wall`].
    pub fn is_sure(&self) -> bool {
        self.clocks.sure
    }

    /// The wall time at `elapsed` as it continues from when a majority last agreed on it; nothing if none ever did.
    pub fn continued(&self, elapsed: ElapsedMs) -> Option<EpochMs> {
        self.clocks.continued(elapsed)
    }

    /// The level of forms that may be used.
    pub fn level(&self) -> u32 {
        self.level
    }

    /// The rules in force.
    pub fn rules(&self) -> &CountingRules {
        &self.rules
    }

    /// The start of a gateway's process that is known, and its last batch that was applied.
    pub fn origin(&self, gateway: GatewayId) -> Option<(u64, u64)> {
        self.origins.get(&gateway).copied()
    }

    /// What became of a batch that was applied, and in which slot, if that says more than that all was done.
    pub fn verdict(&self, origin: Origin, n: u64) -> Option<(u64, &BatchVerdict)> {
        let known = self.origins.get(&origin.gateway).is_some_and(|(start, _)| *start == origin.start);
        self.verdicts.get(origin.gateway, n).filter(|_| known)
    }

    /// How full the quarantine is.
    pub fn quarantine_stats(&self) -> QuarantineStats {
        self.tables.quarantine.stats()
    }

    /// Entries of the quarantine after this id, with their ids, perhaps of one client alone: as many as take at most so many
    /// bytes, and at least one; and whether there are more behind them.
    pub fn quarantine(
        &self,
        client: Option<&str>,
        after: u64,
        bytes: usize,
    ) -> (Vec<(u64, &QuarantineEntry)>, bool) {
        self.tables.quarantine.page(client, after, bytes)
    }

    /// How full the outbox is.
    pub fn outbox_stats(&self) -> OutboxStats {
        self.tables.counting.outbox.stats()
    }

    /// What a batch that is kept must look like; nothing for other seqs.
    pub fn batch_record(&self, seq: u64) -> Option<BatchRecord> {
        self.tables.counting.outbox.record(seq)
    }

    /// The batches that are kept and whose contents every replica has lost.
    pub fn lost_batches(&self) -> impl Iterator<Item = u64> {
        self.tables.counting.outbox.lost_ones()
    }

    /// Wills that are due and that the leader's gateway is to publish, by client id. Bounded by [`MAX_WILLS_BYTES`].
    pub fn orphaned_wills(&self) -> impl Iterator<Item = &DueWill> {
        self.tables.sessions.orphans()
    }

    /// The processes that clients of this shard are connected to.
    pub fn processes(&self) -> impl Iterator<Item = Origin> {
        self.tables.sessions.processes()
    }

    /// How much the tables hold.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            devices: self.tables.counting.names.devices.len(),
            streams: self.tables.counting.names.streams.len(),
            open_parts: self.tables.counting.streams.open(),
            sessions: self.tables.sessions.len(),
            due_wills: self.tables.sessions.due_wills(),
            clients: self.tables.packet_ids.len(),
            subscriptions: self.tables.sessions.subscriptions(),
            names_bytes: self.tables.counting.names.bytes(),
            tombstones: self.tables.counting.tombstones(),
        }
    }
}

/// How much the tables of a machine hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Devices.
    pub devices: usize,
    /// Streams.
    pub streams: usize,
    /// Open parts of windows.
    pub open_parts: usize,
    /// Sessions, connected or not.
    pub sessions: usize,
    /// Wills that are due and not known to be published.
    pub due_wills: usize,
    /// Clients whose packet ids are remembered.
    pub clients: usize,
    /// Subscriptions of all sessions.
    pub subscriptions: usize,
    /// The bytes of all names.
    pub names_bytes: usize,
    /// Retired streams whose sequence numbers are remembered.
    pub tombstones: usize,
}
