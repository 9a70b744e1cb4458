//! The state machine of one shard: it applies commands in slot order.
//!
//! Every replica of a shard applies the same proposals at the same slots, so all of them hold the same state,
//! cut the same batches and give the same answers. Time, ids and random values reach the machine only inside
//! proposals.
//!
//! # Two clocks
//! **Elapsed time** drives everything that waits or expires: sessions, idle streams, late parts, the cutting
//! of batches. Leaders count it on their monotonic clocks, so nothing happens early, whatever the wall clocks
//! do. **Wall time** only labels: readings without a time of their own receive it, and people see it. It may
//! jump by years, forward or back.
//!
//! # The path of a batch
//! A gateway sends its readings in numbered batches ([`Command::Forwarded`]). The machine applies a batch if
//! its number is the next of its origin, so a gateway can repeat a batch until it is answered. Within a
//! persistent session, the machine checks each publish against the packet ids of its client. It checks each
//! reading against the sequence numbers of its stream, and counts new readings into windows. Parts of windows
//! close when readings advance the watermark, or by time at a [`Command::Tick`]. Closed parts wait in the
//! outbox until a command cuts them into a batch.
//!
//! The machine keeps only the manifest of batches; the host stores their contents. Confirmed batches stay,
//! within a bound in bytes, to answer queries about recent windows. A query becomes a [`Scan`], which carries
//! what the machine has in memory and lists the batches that still have to be read.
//!
//! # Tables
//! The machine itself keeps only its clocks, the rules in force and the numbers (with the last verdicts) of
//! each gateway's batches. All other state is in tables (`table`), one for each kind: counting, packet ids,
//! quarantine, sessions, and in the directory group's machine the directory. A table applies its own items, ticks, reports when it is due next, and writes and
//! reads its part of a snapshot. Tables do not know each other: a step that needs two of them is written out
//! in [`Machine::apply`] and the functions that it calls.
//!
//! # Invariants
//! - Invariant: slots are applied in order, each once.
//! - Invariant: the same proposals give the same snapshot bytes, whether or not a replica was restored from a
//!   snapshot on the way. So nothing iterates over a hash map, and indexes that are maintained lazily
//!   (deadlines, orders of use) are derived from the state and never decide more than the state does.
//! - Invariant: the command that cuts a batch fixes its content.
//!
//! # Limits
//! Every table has bounds ([`CountingRules`]). At the bound of streams it sets the readings of new streams
//! aside; at that of sessions it discards the disconnected session that ends first, or refuses the connection
//! if there is none; at that of open parts it closes parts early; at that of clients it forgets the one not
//! heard from for longest. Leaders accept no batch beyond the bound of unconfirmed batches. Streams stay
//! until they are retired. `docs/internals/decisions/0005-dedup-rule.md` explains how a repeated reading is
//! recognised.
//!
//! # Left out
//! Event time as the identity of a reading; sliding windows (a query merges tumbling ones); twins, locks and
//! transactions.
//!
//! Sources: Schneider, "Implementing Fault-Tolerant Services Using the State Machine Approach" (1990); Akidau
//! et al., "The Dataflow Model" (2015) for watermarks and late panes; MQTT 3.1.1 section 4.3 and 5.0 section
//! 4.4.

mod applied;
mod clocks;
mod command;
mod counting;
mod directory;
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
    MAX_TICK_RETIRED_ENTRIES, MAX_TOMBSTONES_ENTRIES, OutboxFence, OutboxStats, SEQUENCE_WIDTH_ENTRIES,
    TOMBSTONE_MS,
};
pub use fullness::{Fullness, WARN_PERCENT};
pub use gather::{GATHER_TURN_STEPS, Gathering};
pub use judged::{Judged, Reason, SetAside};
pub use outcomes::{BatchVerdict, ConnectOutcome, ItemOutcome, ItemOutcomes};
pub use packet_ids::{FORGET_AFTER_S, KEPT_ENTRIES, MAX_INFLIGHT_ENTRIES, MAX_UNRELEASED_ENTRIES};
pub use quarantine::{
    MAX_PAYLOAD_BYTES, MAX_READMITTED_ENTRIES, MAX_TEXT_BYTES, QuarantineEntry, QuarantineStats,
};
pub use query::{DEVICES_STREAMS, DeviceInfo, MAX_ANSWER_BYTES, MAX_ANSWER_ENTRIES, Page, Query, StreamInfo};
pub use rules::{BadRule, CountingRules, Override};
pub use scan::{MAX_SCAN_BYTES, MAX_SCAN_STREAMS, Scan, Scanned};
pub use sessions::{MAX_CLIENT_BYTES, MAX_FILTER_BYTES, MAX_PUBLISHING_MS, MAX_WILL_BYTES, MAX_WILLS_BYTES};
pub use snapshot::{IS_BASE, MAX_BASE_BYTES, NAMES_CONFIGURATION, RestoreError, SNAPSHOT_VERSION};
pub use submission::{Maker, NameRef, SUBMISSION_VERSION, Submission};
pub use trust::{BELIEVED_AFTER_MS, MAX_LEAD_MS};
pub use verdicts::MAX_INFLIGHT_BATCHES;

use crate::configuration::{Configuration, FIRST_CONFIGURATION, Stop, Succession};
use crate::directory::{DIRECTORY_GROUP, Directory};
use clocks::Clocks;
use counting::Named;
use directory::DirectoryTable;
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

/// Why a replica must stop: its state differs from the shard's, or would differ after this slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// The slot to apply is not the next one.
    #[error("shard {shard}: slot {found} was to be applied, but {expected} is next")]
    Slot { shard: ShardId, expected: u64, found: u64 },
    /// This release can't read the chosen value.
    #[error("shard {shard}: what was chosen in slot {slot} can't be read: {why}")]
    Undecodable { shard: ShardId, slot: u64, why: String },
    /// This replica can't form the Paxos group of its shard's next configuration.
    #[error("shard {shard}: this replica can't begin configuration {configuration}: {why}")]
    Configuration { shard: ShardId, configuration: u32, why: String },
}

/// The state of one shard.
#[derive(Debug)]
pub struct Machine {
    shard: ShardId,
    /// The rules in this gateway's settings, which may differ from those in force.
    wanted: Arc<CountingRules>,

    /// Whether it holds no state, as on a witness: it only follows the slots and the configurations.
    is_witness: bool,
    slot: u64,
    clocks: Clocks,
    level: u32,
    incarnation: Option<SiteIncarnation>,
    /// The present configuration; `None` until a stop has ended the first.
    configuration: Option<Configuration>,
    /// The rules in force, chosen by the shard.
    rules: Arc<CountingRules>,
    /// For each gateway, the latest start of its process that is known, and the number of its last applied
    /// batch.
    origins: BTreeMap<GatewayId, (u64, u64)>,
    verdicts: Verdicts,
    tables: Tables,
}

impl Machine {
    /// The machine of a new shard. [`CountingRules::default`] are in force until the shard has chosen the
    /// rules given here: see [`Machine::rules_command`].
    pub fn new(shard: ShardId, rules: Arc<CountingRules>) -> Self {
        Self {
            shard,
            wanted: rules,
            is_witness: false,
            slot: 0,
            clocks: Clocks::default(),
            level: 1,
            incarnation: None,
            configuration: None,
            rules: Arc::default(),
            origins: BTreeMap::new(),
            verdicts: Verdicts::default(),
            tables: Tables {
                directory: (shard == DIRECTORY_GROUP).then(DirectoryTable::default),
                ..Tables::default()
            },
        }
    }

    /// What a witness has in a machine's place: it applies no command and holds no state. It only follows the slots,
    /// for the sake of stops, so it knows the present configuration.
    pub fn witness(shard: ShardId, slot: u64, configuration: Option<Configuration>) -> Self {
        let empty = Self::new(shard, Arc::default());
        Self { is_witness: true, slot, configuration, ..empty }
    }

    /// Whether this is a witness's, which holds no state ([`Machine::witness`]).
    pub fn is_witness(&self) -> bool {
        self.is_witness
    }

    /// Takes note of a slot's value that is no stop, without applying it: a witness's part of [`Machine::apply`].
    ///
    /// # Errors
    /// Returns [`Halt`] when the slot is not the next one.
    pub fn pass(&mut self, slot: u64) -> Result<(), Halt> {
        self.advance(slot)
    }

    /// The command that puts this gateway's rules in force, which a new leader proposes first. `None` if they
    /// already are, or are not valid.
    pub fn rules_command(&self) -> Option<Command> {
        let news = self.wanted != self.rules && self.wanted.validate().is_ok();
        news.then(|| Command::Rules(Box::new((*self.wanted).clone())))
    }

    /// The incarnation of the site; `None` before the shard has chosen it.
    pub fn incarnation(&self) -> Option<SiteIncarnation> {
        self.incarnation
    }

    /// Applies the value of slot `slot`.
    ///
    /// # Errors
    /// Returns [`Halt`] when this machine can't go on; the caller must then drop it.
    pub fn apply<Bytes: AsRef<[u8]>>(
        &mut self,
        slot: u64,
        proposal: &Proposal<Bytes>,
    ) -> Result<Applied, Halt> {
        self.advance(slot)?;
        self.clocks.go_on(proposal);
        self.tables.counting.begin_slot();
        let mut applied = Applied::default();
        for command in &proposal.commands {
            self.command(command, &mut applied);
        }
        applied.released = self.tables.counting.outbox.release(self.rules.recent_bytes);
        Ok(applied)
    }

    /// Applies the stop that was chosen in `slot`: the next configuration begins. Nothing else in the state changes.
    ///
    /// # Errors
    /// Returns [`Halt`] when this machine can't go on; the caller must then drop it.
    pub fn stop(&mut self, slot: u64, stop: &Stop) -> Result<(), Halt> {
        let present = self.configuration_number();
        if stop.ends != present {
            let why = format!("it ends configuration {}, and the present one is {present}", stop.ends);
            return Err(Halt::Undecodable { shard: self.shard, slot, why });
        }
        self.advance(slot)?;
        self.configuration = Some(Configuration::after(stop, slot));
        if canary::makes(Canary::OriginsForgotten) {
            self.origins.retain(|gateway, _| stop.members.contains(gateway));
        }
        Ok(())
    }

    /// Applies the succession in `slot`: the group goes on from this state, as a new generation of the site. All open
    /// parts are cut into batches, whose fate depends on what the ledger has of the earlier generation
    /// ([`OutboxFence`]). Nothing else in the state changes.
    ///
    /// # Errors
    /// Returns [`Halt`] when this machine can't go on; the caller must then drop it.
    pub fn succeed(&mut self, slot: u64, succession: &Succession) -> Result<Applied, Halt> {
        let present = self.configuration_number();
        if succession.begins <= present {
            let why =
                format!("it begins configuration {}, and the present one is {present}", succession.begins);
            return Err(Halt::Undecodable { shard: self.shard, slot, why });
        }
        self.advance(slot)?;
        self.configuration = Some(Configuration::succeeding(succession, slot));
        let mut applied = Applied::default();
        let mut next = succession.incarnation;
        match self.incarnation {
            None => self.incarnation = Some(next),
            Some(before) => {
                next.generation = next.generation.max(before.generation.saturating_add(1));
                let at = self.moment();
                self.tables.counting.fence(next, &at, &mut applied);
            }
        }
        Ok(applied)
    }

    fn advance(&mut self, slot: u64) -> Result<(), Halt> {
        let expected = self.slot.saturating_add(1);
        if slot != expected {
            return Err(Halt::Slot { shard: self.shard, expected, found: slot });
        }
        self.slot = slot;
        Ok(())
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
            Command::Tick => self.tables.list_mut().for_each(|table| table.tick(&at, applied)),
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
            Command::Settled { ledger, last, beyond } => {
                let Some((next, lost)) = counting.outbox.settle(*ledger, *last, *beyond) else { return };
                self.incarnation = Some(next);
                applied.counters.batches_lost += lost.len() as u64;
                applied.lost.extend(lost);
            }
            Command::Incarnation(chosen) => _ = self.incarnation.get_or_insert(*chosen),
        }
    }

    /// The slot, the time and the rules that a command sees when it is applied now.
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
                | ItemOutcome::Directory(_)
                | ItemOutcome::WillDue(_) => {}
            }
            outcomes.push(outcome);
        }
        BatchVerdict::Applied(outcomes)
    }

    /// Applies one item. Items that need more than one table are written out here; any other goes to its
    /// table.
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
            Item::Directory(_) if self.shard != DIRECTORY_GROUP => {
                ItemOutcome::Refused("only the directory group takes it".to_string())
            }
            item => {
                let outcome = self.tables.list_mut().find_map(|table| table.apply(item, at, applied));
                debug_assert!(outcome.is_some(), "no table takes {item:?}");
                outcome.unwrap_or_else(|| ItemOutcome::Refused("no table takes it".to_string()))
            }
        }
    }

    fn publish(
        &mut self,
        PublishItem { source, readings }: &PublishItem,
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
        // If no reading is kept, a resend must not be taken for a duplicate: the packet id stays free.
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

    /// The elapsed time at which a [`Command::Tick`] will next have something to do; `None` if nothing is due
    /// as things stand. Cheap: readings postpone deadlines without touching their order, and an outdated
    /// entry is corrected only when it comes first.
    pub fn next_tick_due(&mut self) -> Option<ElapsedMs> {
        self.tables.list_mut().filter_map(|table| table.next_due(&self.rules)).min()
    }

    /// The shard whose commands this machine applies.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The configuration that follows the last applied stop; `None` in the first configuration.
    pub fn configuration(&self) -> Option<&Configuration> {
        self.configuration.as_ref()
    }

    /// The number of the present configuration, [`FIRST_CONFIGURATION`] until a stop is applied.
    pub fn configuration_number(&self) -> u32 {
        self.configuration.as_ref().map_or(FIRST_CONFIGURATION, |c| c.number)
    }

    /// The directory, if this is the directory group's machine and it is begun.
    pub fn directory(&self) -> Option<&Arc<Directory>> {
        self.tables.directory.as_ref()?.0.as_ref()
    }

    /// The last slot that was applied; 0 before the first.
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

    /// The wall time at `elapsed`, continued by elapsed time from when a majority last agreed on it; `None`
    /// if none ever did.
    pub fn continued(&self, elapsed: ElapsedMs) -> Option<EpochMs> {
        self.clocks.continued(elapsed)
    }

    /// The highest level of stored and sent forms that the shard has chosen to use (see
    /// [`Command::Upgrade`]).
    pub fn level(&self) -> u32 {
        self.level
    }

    /// The rules in force, which may differ from those that this machine was created with.
    pub fn rules(&self) -> &CountingRules {
        &self.rules
    }

    /// The latest start of a gateway's process that is known, and the number of its last applied batch.
    pub fn origin(&self, gateway: GatewayId) -> Option<(u64, u64)> {
        self.origins.get(&gateway).copied()
    }

    /// The verdict on an applied batch and its slot, if it says more than that everything was done.
    pub fn verdict(&self, origin: Origin, n: u64) -> Option<(u64, &BatchVerdict)> {
        let known = self.origins.get(&origin.gateway).is_some_and(|(start, _)| *start == origin.start);
        self.verdicts.get(origin.gateway, n).filter(|_| known)
    }

    /// How full the quarantine is, and how many publishes went through it.
    pub fn quarantine_stats(&self) -> QuarantineStats {
        self.tables.quarantine.stats()
    }

    /// A page of quarantine entries after id `after`, each with its id, of all clients or of one. It has at
    /// least one entry if there is any, and stops before it exceeds `bytes`. The flag says whether more
    /// entries follow.
    pub fn quarantine(
        &self,
        client: Option<&str>,
        after: u64,
        bytes: usize,
    ) -> (Vec<(u64, &QuarantineEntry)>, bool) {
        self.tables.quarantine.page(client, after, bytes)
    }

    /// How full the outbox is, and how far its batches are cut and confirmed.
    pub fn outbox_stats(&self) -> OutboxStats {
        self.tables.counting.outbox.stats()
    }

    /// The manifest entry of a batch that is kept, to check its content against; `None` for any other seq.
    pub fn batch_record(&self, seq: u64) -> Option<BatchRecord> {
        self.tables.counting.outbox.record(seq)
    }

    /// The batches in the manifest whose contents every replica has lost.
    pub fn lost_batches(&self) -> impl Iterator<Item = u64> {
        self.tables.counting.outbox.lost_ones()
    }

    /// Due wills that the leader's gateway must publish, by client id. Bounded by [`MAX_WILLS_BYTES`].
    pub fn orphaned_wills(&self) -> impl Iterator<Item = &DueWill> {
        self.tables.sessions.orphans()
    }

    /// The gateway processes to which clients of this shard are connected.
    pub fn processes(&self) -> impl Iterator<Item = Origin> {
        self.tables.sessions.processes()
    }

    /// How many entries the tables hold, for metrics.
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

/// How many entries the tables of a machine hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    pub devices: usize,
    pub streams: usize,
    pub open_parts: usize,
    /// Connected ones and disconnected ones that have not expired.
    pub sessions: usize,
    /// Wills that are due and not known to be published.
    pub due_wills: usize,
    /// Clients whose packet ids are remembered.
    pub clients: usize,
    pub subscriptions: usize,
    /// Names of devices, of streams and of the clients that made them known.
    pub names_bytes: usize,
    /// Retired streams whose sequence numbers are remembered.
    pub tombstones: usize,
}
