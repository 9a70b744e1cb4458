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
//! # Invariants
//! - Invariant: slots are applied in order, each once.
//! - Invariant: the same proposals give the same snapshot bytes, whether or not a replica was restored from a snapshot on
//!   the way. So nothing iterates over a hash map, and what is kept lazily (deadlines, orders of use)
//!   is derived from the state and never decides more than the state does.
//! - Invariant: a reading is counted in exactly one part of each of its stream's widths.
//! - Invariant: each reading of a publish is judged by itself: counted, recognised or set aside, whatever its neighbours are.
//! - Invariant: the content of a batch is fixed by the command that cuts it.
//!
//! # Limits
//! Every table has a bound ([`CountingRules`]): at the bounds of streams, sessions and unconfirmed batches it
//! refuses, at those of open parts it closes early, at that of clients it forgets the one unheard of for longest.
//! Streams stay until they are retired (`retire`). `docs/internals/decisions/0005-dedup-rule.md` says what a reading is recognised by.
//!
//! # Left out
//! Event time as a reading's identity; quantile sketches; sliding windows (a query merges tumbling ones); twins, locks
//! and transactions.
//!
//! Sources: Schneider, "Implementing Fault-Tolerant Services Using the State Machine Approach" (1990); Akidau
//! et al., "The Dataflow Model" (2015) for watermarks and late panes; MQTT 3.1.1 section 4.3 and 5.0 section 4.4.

mod clients;
mod command;
mod dedup;
mod fullness;
mod gather;
mod idle;
mod judged;
mod names;
mod outbox;
mod outcomes;
mod pace;
mod quarantine;
mod query;
mod retire;
mod rules;
mod scan;
mod session;
mod slots;
mod snapshot;
mod submission;
mod tombstones;
mod trust;
mod verdicts;
mod wills;
mod window;

pub use clients::{FORGET_AFTER_S, KEPT_ENTRIES, MAX_INFLIGHT_ENTRIES, MAX_UNRELEASED_ENTRIES};
pub use command::*;
pub use dedup::{MAX_BOOTS_ENTRIES, MAX_NUMBER, SEQUENCE_WIDTH_ENTRIES};
pub use fullness::{Fullness, WARN_PERCENT};
pub use gather::{GATHER_TURN_STEPS, Gathering};
pub use judged::{Judged, Reason, SetAside};
pub use outbox::{BatchRecord, CutBatch, MAX_CUT_WAIT_MS, OutboxStats};
pub use outcomes::{Connected, Outcome, Outcomes, Verdict};
pub use quarantine::{
    MAX_PAYLOAD_BYTES, MAX_READMITTED_ENTRIES, MAX_TEXT_BYTES, QuarantineEntry, QuarantineStats,
};
pub use query::{
    DEVICES_STREAMS, DeviceInfo, MAX_ANSWER_BYTES, MAX_ANSWER_ENTRIES, Page, Query, StreamInfo, WindowView,
};
pub use retire::MAX_TICK_RETIRED_ENTRIES;
pub use rules::{BadRule, CountingRules, Override};
pub use scan::{MAX_SCAN_BYTES, MAX_SCAN_STREAMS, Scan, Scanned};
pub use session::{MAX_CLIENT_BYTES, MAX_FILTER_BYTES};
pub use snapshot::{RestoreError, SNAPSHOT_VERSION};
pub use submission::{Maker, NameRef, SUBMISSION_VERSION, Submission};
pub use tombstones::{MAX_TOMBSTONES_ENTRIES, TOMBSTONE_MS};
pub use trust::BELIEVED_AFTER_MS;
pub use verdicts::MAX_INFLIGHT_BATCHES;
pub use wills::{MAX_PUBLISHING_MS, MAX_WILL_BYTES, MAX_WILLS_BYTES};
pub use window::{MAX_LEAD_MS, MAX_OPEN_WINDOWS_ENTRIES};

use clients::{Clients, Known};
use dedup::{Fate, Numbering};
use idle::Idle;
use names::Names;
use outbox::Outbox;
use quarantine::Quarantine;
use rules::Class;
use selvedge_types::aggregate::Sample;
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::{GatewayId, MAX_NAME_BYTES, ShardId};
use selvedge_types::time::{EARLIEST_NOW, ElapsedMs, EpochMs, LATEST_NOW, TIME_RANGE};
use selvedge_types::uplink::SiteIncarnation;
use session::{Not, Sessions};
use std::collections::BTreeMap;
use std::sync::Arc;
use tombstones::Tombstones;
use trust::Trust;
use verdicts::Verdicts;
use window::{Measured, Streams};

/// What applying one proposal gives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// One for each forwarded batch in the proposal, in its order.
    pub verdicts: Vec<(Origin, u64, Verdict)>,
    /// Batches that were cut now. To be stored before a snapshot that includes this slot counts; applying the slot
    /// again gives the same.
    pub batches: Vec<CutBatch>,
    /// The contents of batches up to this one may be deleted.
    pub released: Option<u64>,
    /// Batches that were marked as lost now.
    pub lost: Vec<u64>,
    /// Connections that a later one of the same client has replaced: whoever holds one closes it.
    pub evicted: Vec<Evicted>,
    /// Processes that were given up as lost and are heard of again: each closes the connections it has had in this shard.
    pub returned: Vec<Origin>,
    /// What happened, in numbers.
    pub counters: Counters,
}

/// A connection that is to be closed by the gateway that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// The client id.
    pub client: String,
    /// The gateway process that holds the connection.
    pub at: Origin,
    /// Which of its connections.
    pub connection: u64,
    /// The epoch it was given.
    pub epoch: u64,
}

/// How much of what happened. Not part of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Readings that were counted.
    pub counted: u64,
    /// Of these, readings for a window that had closed.
    pub late: u64,
    /// Of these, readings that are ahead of a wall time that is sure by more than [`MAX_LEAD_MS`].
    pub future: u64,
    /// Readings that were recognised by their sequence number as counted before.
    pub recognised: u64,
    /// Readings that were set aside, by [`Reason::ALL`].
    pub set_aside: [u64; Reason::ALL.len()],
    /// Publishes recognised by their packet id.
    pub duplicates: u64,
    /// Items from a connection that was replaced.
    pub stale: u64,
    /// Items refused at a bound.
    pub refused: u64,
    /// Publishes that went into the quarantine.
    pub quarantined: u64,
    /// Entries that its bound has pushed out.
    pub quarantine_evicted: u64,
    /// Batches that had been applied before.
    pub already_applied: u64,
    /// Batches that do not decode.
    pub malformed: u64,
    /// Parts that closed.
    pub closed: u64,
    /// Of these, parts that a bound closed early.
    pub forced: u64,
    /// Clients whose packet ids were forgotten at the bound.
    pub clients_forgotten: u64,
    /// Boots whose sequence numbers were forgotten at the bound.
    pub boots_forgotten: u64,
    /// Sessions that have ended by time.
    pub sessions_expired: u64,
    /// Streams that were retired.
    pub retired: u64,
    /// Of these, streams that were retired because they were silent.
    pub retired_idle: u64,
    /// Tombstones that were forgotten at their bound: a resend behind them would count again.
    pub tombstones_forgotten: u64,
    /// Unconfirmed batches whose contents every replica has lost.
    pub batches_lost: u64,
}

impl Counters {
    /// How many readings were set aside for each reason.
    pub fn by_reason(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.set_aside)
    }

    /// All but the reasons by their names, for those who add them up.
    pub fn named(&self) -> [(&'static str, u64); 20] {
        [
            ("counted", self.counted),
            ("late", self.late),
            ("future", self.future),
            ("recognised", self.recognised),
            ("duplicates", self.duplicates),
            ("stale", self.stale),
            ("refused", self.refused),
            ("quarantined", self.quarantined),
            ("quarantine_evicted", self.quarantine_evicted),
            ("already_applied", self.already_applied),
            ("malformed", self.malformed),
            ("closed", self.closed),
            ("forced", self.forced),
            ("clients_forgotten", self.clients_forgotten),
            ("boots_forgotten", self.boots_forgotten),
            ("sessions_expired", self.sessions_expired),
            ("retired", self.retired),
            ("retired_idle", self.retired_idle),
            ("tombstones_forgotten", self.tombstones_forgotten),
            ("batches_lost", self.batches_lost),
        ]
    }
}

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
    elapsed: ElapsedMs,
    wall: EpochMs,
    /// A majority agreed on `wall`.
    sure: bool,
    /// When a majority last agreed, and on what.
    agreed: Option<(ElapsedMs, EpochMs)>,
    trust: Trust,
    level: u32,
    incarnation: Option<SiteIncarnation>,
    rules: CountingRules,
    origins: BTreeMap<GatewayId, (u64, u64)>,
    verdicts: Verdicts,
    names: Names,
    streams: Streams,
    tombstones: Tombstones,
    clients: Clients,
    quarantine: Quarantine,
    sessions: Sessions,
    outbox: Outbox,

    /// Derived from `rules`.
    classes: Vec<Class>,
    /// Derived from `streams` and `rules`.
    idle: Idle,
    /// Kept to spare allocations: the numbers of a submission's streams.
    ids: Vec<u32>,
}

/// The greatest elapsed time that is applied: far above what is ever counted, with room behind it for every wait.
const MAX_ELAPSED: ElapsedMs = ElapsedMs(1 << 62);

/// Why a reading is not counted.
enum NotCounted {
    /// It was counted before.
    Recognised,
    /// It is set aside.
    Not(Reason),
}

/// A submission as the machine reads it.
type Named<'a> = Submission<NameRef<'a>>;

/// A stream of a submission that was not looked up yet.
const UNRESOLVED: u32 = u32::MAX;

impl Machine {
    /// The machine of a new shard. [`CountingRules::default`] are in force until those given here are chosen:
    /// see [`Machine::rules_command`].
    pub fn new(shard: ShardId, rules: Arc<CountingRules>) -> Self {
        let in_force = CountingRules::default();
        Self {
            shard,
            wanted: rules,
            slot: 0,
            elapsed: ElapsedMs(0),
            wall: EpochMs(0),
            sure: false,
            agreed: None,
            trust: Trust::default(),
            level: 1,
            incarnation: None,
            origins: BTreeMap::new(),
            verdicts: Verdicts::default(),
            names: Names::default(),
            streams: Streams::default(),
            tombstones: Tombstones::default(),
            clients: Clients::default(),
            quarantine: Quarantine::default(),
            sessions: Sessions::default(),
            outbox: Outbox::default(),
            classes: in_force.classes(),
            idle: Idle::default(),
            rules: in_force,
            ids: Vec::new(),
        }
    }

    /// What a leader proposes first, and whenever it takes over: the command that puts its gateway's rules in
    /// force; nothing if they are, or if they are not valid.
    pub fn rules_command(&self) -> Option<Command> {
        let news = *self.wanted != self.rules && self.wanted.validate().is_ok();
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
        // Never back, and never so far ahead that nothing could come due after it.
        self.elapsed = self.elapsed.max(proposal.elapsed).min(MAX_ELAPSED);
        self.wall = EpochMs(proposal.wall.0.clamp(*TIME_RANGE.start(), *TIME_RANGE.end()));
        self.sure = proposal.sure;
        if self.sure {
            self.agreed = Some((self.elapsed, self.wall));
            self.trust.agreed(self.elapsed, self.wall);
        }
        let mut applied = Applied::default();
        let mut index = 0;
        for command in &proposal.commands {
            match command {
                Command::Forwarded { origin, n, submission } => {
                    let verdict = self.forwarded(*origin, *n, submission.as_ref(), &mut index, &mut applied);
                    self.verdicts.note(*origin, *n, slot, &verdict);
                    applied.verdicts.push((*origin, *n, verdict));
                }
                Command::Tick => self.tick(&mut applied),
                Command::Confirmed { ledger, cursor } => self.outbox.confirmed(*ledger, *cursor),
                Command::Lost { origin } => self.sessions.lost(*origin, self.session_time()),
                Command::Upgrade { level } => self.level = self.level.max(*level),
                Command::Rules(rules) => self.put_in_force(rules, &mut applied),
                Command::LostBatch { seq } if self.outbox.lose(*seq) => {
                    applied.counters.batches_lost += 1;
                    applied.lost.push(*seq);
                }
                Command::LostBatch { .. } => {}
                Command::Incarnation(chosen) => _ = self.incarnation.get_or_insert(*chosen),
            }
        }
        applied.released = self.outbox.release(self.rules.recent_bytes);
        Ok(applied)
    }

    fn forwarded(
        &mut self,
        origin: Origin,
        n: u64,
        submission: &[u8],
        index: &mut u32,
        applied: &mut Applied,
    ) -> Verdict {
        let (start, last) = self.origins.get(&origin.gateway).copied().unwrap_or((0, 0));
        if origin.start < start {
            return Verdict::OldStart;
        }
        let mut last = last;
        if origin.start > start {
            last = 0;
            self.origins.insert(origin.gateway, (origin.start, 0));
            self.verdicts.restarted(origin.gateway);
            self.sessions.superseded(origin.gateway, origin.start, self.session_time());
        }
        if n <= last && !canary::makes(Canary::ForwardedTwice) {
            applied.counters.already_applied += 1;
            return Verdict::AlreadyApplied;
        }
        if n > last + 1 {
            return Verdict::Gap { last };
        }
        self.origins.insert(origin.gateway, (origin.start, last.max(n)));
        if self.sessions.is_back(origin.gateway) {
            applied.returned.push(origin);
        }
        let Ok(submission) = Submission::decode(submission) else {
            applied.counters.malformed += 1;
            return Verdict::Malformed;
        };
        let mut ids = std::mem::take(&mut self.ids);
        ids.clear();
        ids.resize(submission.streams.len(), UNRESOLVED);
        let mut outcomes = Outcomes::default();
        for item in &submission.items {
            let outcome = self.item(item, &submission, &mut ids, index, applied);
            match &outcome {
                Outcome::Duplicate => applied.counters.duplicates += 1,
                Outcome::Stale => applied.counters.stale += 1,
                Outcome::Refused(_) => applied.counters.refused += 1,
                Outcome::Done
                | Outcome::Judged(_)
                | Outcome::Connected(_)
                | Outcome::Subscribed { .. }
                | Outcome::Retired { .. }
                | Outcome::WillDue(_) => {}
            }
            outcomes.push(outcome);
        }
        self.ids = ids;
        Verdict::Applied(outcomes)
    }

    fn item(
        &mut self,
        item: &Item,
        submission: &Named<'_>,
        ids: &mut [u32],
        index: &mut u32,
        applied: &mut Applied,
    ) -> Outcome {
        let (now, rules) = (self.session_time(), &self.rules);
        let done = match item {
            Item::Publish(Publish { source, readings }) => {
                return self.publish(source.as_ref(), readings, submission, ids, index, applied);
            }
            Item::Reading(reading) => {
                return self.publish(None, std::slice::from_ref(reading), submission, ids, index, applied);
            }
            Item::Readmit(readmit) => return self.readmit(readmit, submission, ids, index, applied),
            Item::Quarantine { epoch, publish } if self.sessions.is_replaced(&publish.client, *epoch) => {
                Err(Not::Current)
            }
            Item::Quarantine { publish, .. } => {
                let most = u64::from(rules.quarantine_bytes);
                applied.counters.quarantined += 1;
                applied.counters.quarantine_evicted += self.quarantine.put((**publish).clone(), most);
                Ok(())
            }
            Item::ResendCounted(source) if self.sessions.is_replaced(&source.client, source.epoch) => {
                Err(Not::Current)
            }
            Item::ResendCounted(source) => {
                self.quarantine.resend_counted(source);
                Ok(())
            }
            Item::Readmitted { id, attempt, counted, far_behind, done } => {
                let known = self.quarantine.readmit(*id, *attempt, (counted, *far_behind), *done);
                known
                    .then_some(())
                    .ok_or(Not::Possible(format!("there is no entry {id} at attempt {attempt}")))
            }
            Item::AdmitLedger { ledger } => {
                self.outbox.admit(*ledger);
                Ok(())
            }
            Item::ResetSequence { device, stream } => self.reset_sequence(device, stream.as_deref()),
            Item::Connect(connect) => match self.sessions.connect(connect, now, rules) {
                Ok((connected, evicted)) => {
                    applied.evicted.extend(evicted);
                    return Outcome::Connected(Box::new(connected));
                }
                Err(not) => Err(not),
            },
            Item::Begin => Ok(()),
            Item::Disconnect(disconnect) => match self.sessions.disconnect(disconnect, now, rules) {
                Ok(Some(will)) => return Outcome::WillDue(Box::new(will)),
                done => done.map(drop),
            },
            Item::WillDone { client, epoch, at } => match self.sessions.will_done(client, *epoch, *at) {
                Ok(false) => return Outcome::Duplicate,
                done => done.map(drop),
            },
            Item::Subscriptions { client, epoch, add, remove } => {
                match self.sessions.subscribe(client, *epoch, add, remove, rules) {
                    Ok(refused) if !refused.is_empty() => return Outcome::Subscribed { refused },
                    done => done.map(drop),
                }
            }
            Item::Touch { client, epoch, shard } => self.sessions.touch(client, *epoch, *shard),
            Item::Retire { device, stream } => {
                // Items behind it may name a stream that is gone.
                ids.fill(UNRESOLVED);
                return Outcome::Retired { streams: self.retire(device, stream.as_deref(), applied) };
            }
            Item::Release(source) => self.clients.release(source).then_some(()).ok_or(Not::Current),
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(Not::Current) => Outcome::Stale,
            Err(Not::Possible(why)) => Outcome::Refused(why),
        }
    }

    fn publish(
        &mut self,
        source: Option<&Source>,
        readings: &[Reading],
        submission: &Named<'_>,
        ids: &mut [u32],
        index: &mut u32,
        applied: &mut Applied,
    ) -> Outcome {
        let counters = &mut applied.counters;
        if let Some(source) = source {
            if source.client.len() > MAX_CLIENT_BYTES {
                return Outcome::Refused(format!("a client id must have 1 to {MAX_CLIENT_BYTES} bytes"));
            }
            match self.clients.meet(source, self.rules.max_clients, &mut counters.clients_forgotten) {
                Known::New => {}
                Known::Duplicate => return Outcome::Duplicate,
                Known::Stale => return Outcome::Stale,
                Known::Full => {
                    let most = MAX_UNRELEASED_ENTRIES;
                    return Outcome::Refused(format!("{most} QoS 2 publishes of this client await PUBREL"));
                }
            }
        }
        let judged = self.judge(readings, submission, ids, index, applied);
        // Nothing of a publish that is set aside as a whole has to be recognised: its packet id stays free.
        if let Some(source) = source.filter(|_| judged.is_kept()) {
            self.clients.note(source, self.elapsed);
        }
        Outcome::Judged(judged)
    }

    /// Judges readings of a quarantined publish again.
    fn readmit(
        &mut self,
        readmit: &Readmit,
        submission: &Named<'_>,
        ids: &mut [u32],
        index: &mut u32,
        applied: &mut Applied,
    ) -> Outcome {
        let (of, attempt) = ((readmit.shard, readmit.id), readmit.attempt);
        if let Some(judged) = self.quarantine.readmitted(of, attempt) {
            return Outcome::Judged(judged.clone());
        }
        let judged = self.judge(&readmit.readings, submission, ids, index, applied);
        if judged.is_kept() {
            self.quarantine.note_readmitted(of, attempt, judged.clone());
        }
        Outcome::Judged(judged)
    }

    fn reset_sequence(&mut self, device: &str, stream: Option<&str>) -> Result<(), Not> {
        let known = self.names.device(device).into_iter();
        let ids = known.flat_map(|id| self.names.devices[id].streams.iter().copied());
        let ids: Vec<u32> = ids.filter(|id| stream.is_none_or(|s| &**self.names.of(*id).1 == s)).collect();
        for id in &ids {
            self.streams.list[*id as usize].boots = Vec::new();
        }
        let retired = self.tombstones.forget(device, stream);
        let none = || Not::Possible("there is no such stream".to_string());
        (retired || !ids.is_empty()).then_some(()).ok_or_else(none)
    }

    /// Judges each reading, and counts those that are to be.
    fn judge(
        &mut self,
        readings: &[Reading],
        submission: &Named<'_>,
        ids: &mut [u32],
        index: &mut u32,
        applied: &mut Applied,
    ) -> Judged {
        let mut judged = Judged::default();
        for (at, r) in (0..).zip(readings) {
            match self.judge_one(r, submission, ids, index, applied) {
                Ok(()) => judged.counted += 1,
                Err(NotCounted::Recognised) => judged.recognised += 1,
                Err(NotCounted::Not(reason)) => judged.set_aside.push(SetAside { reading: at, reason }),
            }
        }
        let counters = &mut applied.counters;
        counters.counted += u64::from(judged.counted);
        counters.recognised += u64::from(judged.recognised);
        judged.set_aside.iter().for_each(|aside| counters.set_aside[aside.reason as usize] += 1);
        judged
    }

    /// Counts a reading that is to be counted. What few readings need has functions of its own, which are not inlined here: this is
    /// done for every reading at every replica.
    fn judge_one(
        &mut self,
        r: &Reading,
        submission: &Named<'_>,
        ids: &mut [u32],
        index: &mut u32,
        applied: &mut Applied,
    ) -> Result<(), NotCounted> {
        let in_range = |t: EpochMs| TIME_RANGE.contains(&t.0);
        if !r.value.is_finite() || !r.time.is_none_or(in_range) {
            return Err(NotCounted::Not(Reason::Unsound));
        }
        let id = match ids.get(r.stream as usize) {
            Some(id) if *id != UNRESOLVED => *id,
            _ => self.resolve(r, submission, ids)?,
        };
        let now = self.now();
        let time = r.time.unwrap_or(now.wall);
        if let Some(reason) = self.wrong_time(id, time) {
            return Err(self.not_at_that_time(id, r, reason));
        }
        let mut number = None;
        if let Some(seq) = r.seq {
            let stream = &mut self.streams.list[id as usize];
            let numbering = Numbering::of(&self.classes[usize::from(stream.class)]);
            let forgotten = &mut applied.counters.boots_forgotten;
            match dedup::note(&mut stream.boots, r.boot, seq, numbering, forgotten) {
                Fate::New(n) => number = Some((r.boot, n)),
                Fate::Repeated => return Err(NotCounted::Recognised),
                Fate::FarBehind => return Err(self.set_aside(id, Reason::FarBehind)),
                Fate::LeapsAhead => return Err(self.set_aside(id, Reason::LeapsAhead)),
            }
        }
        // -0 is written as 0: which of them is the least differs between processors.
        let value = r.value + 0.0;
        let sample = Sample { time, slot: self.slot, index: *index, value };
        *index = index.wrapping_add(1);
        let most_open = self.rules.max_open_parts;
        let (late, forced) =
            self.streams.count(id, Measured { sample, number }, now, most_open, &self.classes);
        let counters = &mut applied.counters;
        counters.late += u64::from(late);
        counters.future += u64::from(now.sure && time > now.wall.plus(MAX_LEAD_MS));
        counters.forced += forced;
        if self.streams.has_closed() {
            self.keep_closed(applied);
        }
        Ok(())
    }

    #[cold]
    fn set_aside(&mut self, id: u32, reason: Reason) -> NotCounted {
        self.streams.set_aside(id, reason, &self.classes);
        NotCounted::Not(reason)
    }

    #[cold]
    fn not_at_that_time(&mut self, id: u32, r: &Reading, reason: Reason) -> NotCounted {
        if self.was_counted(id, r) { NotCounted::Recognised } else { self.set_aside(id, reason) }
    }

    /// What sessions expire by.
    fn session_time(&self) -> ElapsedMs {
        match canary::makes(Canary::ExpiryByWall) {
            true => ElapsedMs(u64::try_from(self.wall.0).unwrap_or(0)),
            false => self.elapsed,
        }
    }

    fn now(&self) -> window::Now {
        // No later than it may be by the wall time, for it may have leapt back.
        let believed = self.trust.time(self.elapsed).min(self.earliest());
        window::Now { elapsed: self.elapsed, wall: self.wall, sure: self.sure, believed }
    }

    /// The time that it is at least. Where no majority agrees on the wall time, that continues from when one last did, so it may be
    /// later than it says: a site that was off for a month goes on a month behind. Where none ever did, it is [`EARLIEST_NOW`].
    fn earliest(&self) -> EpochMs {
        if self.agreed.is_some() { self.wall } else { EARLIEST_NOW }
    }

    /// Why a reading of a stream can't be of that time, if it can't. Where no majority agrees on the wall time, only what is too old
    /// by [`Machine::earliest`] is too old, and it is not [`LATEST_NOW`] yet.
    fn wrong_time(&self, id: u32, time: EpochMs) -> Option<Reason> {
        let class = &self.classes[usize::from(self.streams.list[id as usize].class)];
        let latest = if self.sure { self.wall } else { LATEST_NOW };
        if time < self.earliest().plus(-class.max_past_ms) {
            Some(Reason::TooOld)
        } else if time > latest.plus(class.max_future_ms) {
            Some(Reason::TooFarAhead)
        } else {
            None
        }
    }

    /// Whether a reading is recognised, by its sequence number, as counted before. Notes nothing.
    fn was_counted(&self, id: u32, r: &Reading) -> bool {
        let stream = &self.streams.list[id as usize];
        let numbering = Numbering::of(&self.classes[usize::from(stream.class)]);
        let seen = |seq| dedup::note(&mut stream.boots.clone(), r.boot, seq, numbering, &mut 0);
        r.seq.is_some_and(|seq| seen(seq) == Fate::Repeated)
    }

    /// The number of a reading's stream, which is made known if it is new. Says why there is none.
    #[inline(never)]
    fn resolve(&mut self, r: &Reading, submission: &Named<'_>, ids: &mut [u32]) -> Result<u32, NotCounted> {
        const UNSOUND: NotCounted = NotCounted::Not(Reason::Unsound);
        let id = ids.get_mut(r.stream as usize).ok_or(UNSOUND)?;
        let (name, maker) = submission.named(r.stream).ok_or(UNSOUND)?;
        *id = match self.names.find(name.device, name.stream) {
            Some(id) => id,
            None => {
                let sound = 1..=MAX_NAME_BYTES;
                if !sound.contains(&name.device.len()) || !sound.contains(&name.stream.len()) {
                    return Err(UNSOUND);
                }
                self.let_in(name, maker, r)?
            }
        };
        Ok(*id)
    }

    /// Makes a stream known for a reading of it, if there is room; gives its number. What a retired stream counted before brings it
    /// not back.
    fn let_in(&mut self, name: NameRef<'_>, maker: Option<&str>, r: &Reading) -> Result<u32, NotCounted> {
        let (device, stream) = (name.device, name.stream);
        let class = self.rules.class_of(device, stream);
        let numbering = Numbering::of(&self.classes[usize::from(class)]);
        if let (Some(seq), Some(boots)) = (r.seq, self.tombstones.boots(device, stream)) {
            match dedup::note(&mut boots.to_vec(), r.boot, seq, numbering, &mut 0) {
                Fate::Repeated => return Err(NotCounted::Recognised),
                Fate::FarBehind => return Err(NotCounted::Not(Reason::FarBehind)),
                // A leap counts once the next number follows it, so the stream has to be there to remember it.
                Fate::New(_) | Fate::LeapsAhead => {}
            }
        }
        if let Err(full) = self.names.admits(device, stream, maker, &self.rules) {
            self.names.note_refused(device);
            return Err(NotCounted::Not(full));
        }
        let id = self.names.add(device, stream, maker);
        let boots = self.tombstones.remove(device, stream).unwrap_or_default();
        self.streams.add(id, class, boots, self.now());
        self.idle.add(id, &self.classes[usize::from(class)], self.elapsed);
        Ok(id)
    }

    fn tick(&mut self, applied: &mut Applied) {
        applied.counters.sessions_expired += self.sessions.expire(self.session_time());
        self.streams.close_due(self.now(), &self.classes);
        self.keep_closed(applied);
        self.tombstones.expire(self.elapsed);
        self.retire_idle(applied);
        if self.outbox.due(self.rules.cut_after_ms).is_some_and(|at| at <= self.elapsed) {
            applied.batches.extend(self.outbox.cut(self.elapsed, &self.names));
        }
    }

    /// Takes over rules that are valid; open parts close first, for the widths may be others afterwards.
    fn put_in_force(&mut self, rules: &CountingRules, applied: &mut Applied) {
        if rules.validate().is_err() || *rules == self.rules {
            return;
        }
        self.streams.close_all(self.now(), &self.classes);
        self.keep_closed(applied);
        self.rules = rules.clone();
        self.classes = rules.classes();
        for (id, _) in self.names.streams.iter() {
            let (device, name) = self.names.of(id);
            let stream = &mut self.streams.list[id as usize];
            stream.class = rules.class_of(device, name);
            stream.widths_changed(self.classes[usize::from(stream.class)].windows_ms.len());
        }
        self.idle = Idle::of(self.names.streams.iter().map(|(id, _)| id), &self.streams, &self.classes);
    }

    /// Puts what has closed into the outbox.
    #[inline(never)]
    fn keep_closed(&mut self, applied: &mut Applied) {
        let mut closed = self.streams.take_closed();
        applied.counters.closed += closed.len() as u64;
        for part in closed.drain(..) {
            applied.batches.extend(self.outbox.push(part, self.elapsed, &self.names));
        }
        self.streams.give_back(closed);
    }

    /// The elapsed time from which on a [`Command::Tick`] has something to do; nothing when it never has as things
    /// are. Cheap: what readings have moved back since is looked at only when it comes first.
    pub fn next_tick_due(&mut self) -> Option<ElapsedMs> {
        let (streams, cut) = (self.streams.due(&self.classes), self.outbox.due(self.rules.cut_after_ms));
        let idle = self.idle.due(&self.streams, &self.classes);
        [streams, cut, self.sessions.due(), idle, self.tombstones.due()].into_iter().flatten().min()
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
        self.elapsed
    }

    /// The wall time of the last proposal that was applied.
    pub fn wall(&self) -> EpochMs {
        self.wall
    }

    /// Whether a majority of the gateways agreed on [`Machine::wall`].
    pub fn is_sure(&self) -> bool {
        self.sure
    }

    /// The wall time at `elapsed` as it continues from when a majority last agreed on it; nothing if none ever did.
    pub fn continued(&self, elapsed: ElapsedMs) -> Option<EpochMs> {
        let (at, wall) = self.agreed?;
        Some(wall.plus(i64::try_from(elapsed.since(at)).unwrap_or(i64::MAX)))
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
    pub fn verdict(&self, origin: Origin, n: u64) -> Option<(u64, &Verdict)> {
        let known = self.origins.get(&origin.gateway).is_some_and(|(start, _)| *start == origin.start);
        self.verdicts.get(origin.gateway, n).filter(|_| known)
    }

    /// How full the quarantine is.
    pub fn quarantine_stats(&self) -> QuarantineStats {
        self.quarantine.stats()
    }

    /// Entries of the quarantine after this id, with their ids, perhaps of one client alone: as many as take at most so many
    /// bytes, and at least one; and whether there are more behind them.
    pub fn quarantine(
        &self,
        client: Option<&str>,
        after: u64,
        bytes: usize,
    ) -> (Vec<(u64, &QuarantineEntry)>, bool) {
        self.quarantine.page(client, after, bytes)
    }

    /// How full the outbox is.
    pub fn outbox_stats(&self) -> OutboxStats {
        self.outbox.stats()
    }

    /// What a batch that is kept must look like; nothing for other seqs.
    pub fn batch_record(&self, seq: u64) -> Option<BatchRecord> {
        self.outbox.record(seq)
    }

    /// The batches that are kept and whose contents every replica has lost.
    pub fn lost_batches(&self) -> impl Iterator<Item = u64> {
        self.outbox.lost_ones()
    }

    /// Wills that are due and that the leader's gateway is to publish, by client id. Bounded by [`MAX_WILLS_BYTES`].
    pub fn orphaned_wills(&self) -> impl Iterator<Item = &DueWill> {
        self.sessions.orphans()
    }

    /// The processes that clients of this shard are connected to.
    pub fn processes(&self) -> impl Iterator<Item = Origin> {
        self.sessions.processes()
    }

    /// How much the tables hold.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            devices: self.names.devices.len(),
            streams: self.names.streams.len(),
            open_parts: self.streams.open(),
            sessions: self.sessions.len(),
            due_wills: self.sessions.due_wills(),
            clients: self.clients.len(),
            subscriptions: self.sessions.subscriptions(),
            names_bytes: self.names.bytes(),
            tombstones: self.tombstones.len(),
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
