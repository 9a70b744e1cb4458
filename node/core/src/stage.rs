//! The work of a transaction, for either database: which messages count, which rows they touch, and how these change.
//!
//! The order: the store locks and reads the shards' rows ([`StoredShard`]); [`Stage::new`] judges the messages; [`Stage::rows`]
//! gathers what the new batches add to each window and roll-up, and the store merges that with the stored row ([`merge`]) and
//! writes the row back whole; [`Stage::streams`] returns the progress of each stream, for all its series; [`Stage::finish`]
//! returns the progress of the shards. So the rules of merging are those of [`Aggregate::merge`] alone.
//!
//! [`Aggregate::merge`]: selvedge_types::aggregate::Aggregate::merge

use super::incoming::Incoming;
use super::passed::{Doubt, Passed, Seen};
use super::progress::{BatchSpan, ShardProgress, Verdict};
use super::rollup;
use super::stored::StoredWindow;
use super::totals::Totals;
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{Batch, LedgerId, LostBatch, Part, SiteIncarnation, StreamName};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How many of a shard's newest batches stay listed in `applied_batch`, beyond those above the cursor: enough to
/// tell a batch that is sent again from another one that bears its number.
pub const KEPT_BATCHES_ENTRIES: u64 = 4096;

/// How many series a writer remembers the row numbers of.
pub const SERIES_CACHE_ENTRIES: usize = 100_000;

/// A site and one of its shards.
pub type ShardKey = (SiteId, ShardId);

/// By series and start, as in the table.
pub type StoredWindows = BTreeMap<(i64, EpochMs), StoredWindow>;
/// By span, start and series, as in the table.
pub type Rollups = BTreeMap<(i64, EpochMs, i64), StoredWindow>;

/// The outcome of one message, which decides how it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageOutcome {
    /// Its windows are counted.
    Applied,
    /// They were counted before.
    Duplicate,
    Beacon,
    /// Its batch is lost at the site, and is a hole now.
    Lost,
    /// Its batch is lost at the site, but others before it are still missing here: it has to be sent again.
    LostEarly,
    /// Too far beyond a gap; it has to be sent again.
    TooFarAhead,
    /// Its number was used before for another content: not counted. The shard is not confirmed any more
    /// until someone has looked at it and cleared `shard_progress.conflict_seq`.
    Conflict,
    /// It belongs to an earlier incarnation of its site than the newest known one: neither counted nor confirmed.
    Superseded,
}

/// How far a shard is settled, as its site counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettledCursor {
    /// The incarnation of the site that the cursor belongs to.
    pub incarnation: SiteIncarnation,
    /// All batches up to it are on disk.
    pub cursor: u64,
}

/// The outcomes of the messages of one transaction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// One for each message, in their order.
    pub outcomes: Vec<MessageOutcome>,
    /// The cursors, on disk, of all shards that were heard, except those with a conflict.
    pub cursors: BTreeMap<ShardKey, SettledCursor>,
    /// The ledger that they are in.
    pub ledger: LedgerId,
    /// How many windows were written.
    pub windows: usize,
    /// How many batch numbers were given up as holes.
    pub given_up: u64,
    /// The holes whose batches count as confirmed at the site although this database lacks them.
    pub lacking: Vec<(ShardKey, BatchSpan)>,
    /// The holes whose batches the site itself has lost.
    pub lost: Vec<(ShardKey, u64, LostBatch)>,
}

/// A shard as the database has it; the default for one that it has not heard of.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StoredShard {
    /// The newest incarnation of the site that the node knows.
    pub incarnation: SiteIncarnation,
    /// Added to its batch numbers, so that no two incarnations have batches of one number.
    pub base: u64,
    /// All batches up to it are applied or holes.
    pub cursor: u64,
    /// The lowest seq that the edge still had when something changed last.
    pub first_kept: u64,
    /// The highest seq that the edge had cut by then.
    pub last: u64,
    /// The number that came with two contents, if one did.
    pub conflict: Option<u64>,
    /// Batches applied beyond the cursor.
    pub beyond: Vec<u64>,
    pub holes: Vec<BatchSpan>,
    /// The hashes of batches applied before, of those whose numbers have come again.
    pub hashes: HashMap<u64, u64>,
}

struct JudgedShard {
    incarnation: SiteIncarnation,
    base: u64,
    stored: StoredShard,
    before: ShardProgress,
    now: ShardProgress,
    first_kept: u64,
    last: u64,
    applied: Vec<AppliedBatch>,
    /// Batches that are holes now because the site has lost them.
    lost: BTreeMap<u64, LostBatch>,
    conflict: Option<u64>,
}

/// A batch that was applied in this transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppliedBatch {
    pub seq: u64,
    /// How many parts of windows it held.
    pub parts: usize,
    /// The hash of its encoded bytes, which distinguishes it from another batch with its number.
    pub hash: u64,
}

/// How a shard's progress changes.
pub struct Change {
    pub key: ShardKey,
    /// The newest incarnation of the site that the node knows from now on.
    pub incarnation: SiteIncarnation,
    /// Added to the batch numbers of this incarnation.
    pub base: u64,
    /// All batches up to it are applied or holes.
    pub cursor: u64,
    /// The lowest seq that the edge still has.
    pub first_kept: u64,
    /// The highest seq that the edge has cut.
    pub last: u64,
    /// The number that came with two contents, if one did.
    pub conflict: Option<u64>,
    /// The batches that count from now on.
    pub applied: Vec<AppliedBatch>,
    /// Batches up to it need not be listed any more.
    pub forget: u64,
    /// Holes that are no more, or not the same, by their first number.
    pub filled: Vec<u64>,
    /// Holes that are new, or not the same; and what is known of a batch that the site has lost.
    pub opened: Vec<(BatchSpan, Option<LostBatch>)>,
    /// Whether batches that were applied beyond the cursor are no more beyond it.
    pub gap_closed: bool,
}

struct New<'a> {
    site: &'a SiteId,
    shard: ShardId,
    seq: u64,
    batch: &'a Batch,
}

/// What the new batches of a transaction say of one stream.
pub struct StreamSeen<'a> {
    shard: &'a JudgedShard,
    pub series: i64,
    /// What the batches add to each of its series.
    pub totals: BTreeMap<i64, Totals>,
    seen: Vec<Seen>,
}

impl StreamSeen<'_> {
    /// How far it has come, given how far it had come; and the stretch that lost batches leave in doubt, if they do.
    pub fn advance(&self, before: Passed) -> (Passed, Option<Doubt>) {
        let now = &self.shard.now;
        before.advance(&self.seen, now.cursor(), now.holes())
    }
}

/// For each shard that is heard, the numbers of the batches that came, in the order in which they are locked.
pub fn heard(messages: &[Incoming]) -> BTreeMap<ShardKey, Vec<u64>> {
    let mut all: BTreeMap<ShardKey, Vec<u64>> = BTreeMap::new();
    for message in messages {
        let seqs = all.entry((message.site.clone(), message.shard)).or_default();
        seqs.extend(message.content.as_ref().map(|content| content.seq));
    }
    all
}

/// A transaction's messages, judged.
pub struct Stage<'a> {
    shards: BTreeMap<ShardKey, JudgedShard>,
    outcomes: Vec<MessageOutcome>,
    /// Batches that count, with their shards and numbers.
    new: Vec<New<'a>>,
}

impl<'a> Stage<'a> {
    /// Judges messages; `stored` holds each of their shards.
    pub fn new(messages: &'a [Incoming], stored: BTreeMap<ShardKey, StoredShard>) -> Self {
        let shard = |(key, stored): (ShardKey, StoredShard)| {
            let before = ShardProgress::restore(
                stored.cursor,
                stored.beyond.iter().copied(),
                stored.holes.iter().copied(),
            );
            let (first_kept, last, conflict) = (stored.first_kept, stored.last, stored.conflict);
            let now = before.clone();
            let (incarnation, base) = (stored.incarnation, stored.base);
            (
                key,
                JudgedShard {
                    incarnation,
                    base,
                    stored,
                    before,
                    now,
                    first_kept,
                    last,
                    applied: vec![],
                    lost: BTreeMap::new(),
                    conflict,
                },
            )
        };
        let mut stage =
            Self { shards: stored.into_iter().map(shard).collect(), outcomes: vec![], new: vec![] };
        for message in messages {
            let Some(shard) = stage.shards.get_mut(&(message.site.clone(), message.shard)) else { continue };
            if !shard.knows(message.incarnation) {
                stage.outcomes.push(MessageOutcome::Superseded);
                continue;
            }
            let base = shard.base;
            let here = |number: u64| number.saturating_add(base);
            let (first_kept, last) = (here(message.first_kept), here(message.last));
            let seq = message.content.as_ref().map(|content| here(content.seq));
            let judged = seq.zip(message.content.as_ref());
            let outcome = match (judged, message.lost) {
                (Some((seq, content)), _) => shard.judge(seq, content.parts_and_hash()),
                (None, Some((seq, lost))) => shard.lose(here(seq), lost),
                (None, None) => MessageOutcome::Beacon,
            };
            if let (MessageOutcome::Applied, Some((seq, content))) = (outcome, judged) {
                let (site, shard) = (&message.site, message.shard);
                stage.new.push(New { site, shard, seq, batch: &content.batch });
            }
            shard.last = shard.last.max(last);
            if first_kept > shard.first_kept {
                shard.first_kept = first_kept;
                shard.now.skip_below(first_kept);
            }
            stage.outcomes.push(outcome);
        }
        stage
    }

    /// Whether there is anything to write.
    pub fn changes(&self) -> bool {
        self.shards.values().any(JudgedShard::changes)
    }

    /// The series of the new batches that are not known yet, with their shards.
    pub fn unknown_series(&self, known: &SeriesIds) -> BTreeMap<SeriesKey, ShardId> {
        let mut unknown = BTreeMap::new();
        for new in &self.new {
            for (stream, width_ms) in series_of(new.batch) {
                let Some(name) = new.batch.streams.get(stream as usize) else { continue };
                let key = (new.site.clone(), name.clone(), width_ms);
                if !known.0.contains_key(&key) {
                    unknown.insert(key, new.shard);
                }
            }
        }
        unknown
    }

    /// What the new batches add to windows and roll-ups. Series that `known` lacks are left out.
    pub fn rows(&self, known: &SeriesIds) -> (StoredWindows, Rollups) {
        let (mut windows, mut rollups) = (StoredWindows::new(), Rollups::new());
        for new in &self.new {
            let ids = new.ids(known);
            for part in &new.batch.parts {
                let Some(&series) = ids.get(&(part.stream, part.width_ms)) else { continue };
                gather(&mut windows, (series, part.start), part.start, part);
                for span_ms in rollup::spans_of(part.width_ms.into()) {
                    let start = rollup::floor(part.start, span_ms);
                    gather(&mut rollups, (span_ms, start, series), start, part);
                }
            }
        }
        (windows, rollups)
    }

    /// What the new batches say of how far each of their streams has come, and of how much. Streams of which `known` lacks a series are left out.
    pub fn streams(&self, known: &SeriesIds) -> Vec<StreamSeen<'_>> {
        let mut all: BTreeMap<(&SiteId, &StreamName), StreamSeen<'_>> = BTreeMap::new();
        for new in &self.new {
            let Some(shard) = self.shards.get(&(new.site.clone(), new.shard)) else { continue };
            let ids = new.ids(known);
            for part in &new.batch.parts {
                let Some(&series) = ids.get(&(part.stream, part.width_ms)) else { continue };
                let Some(name) = new.batch.streams.get(part.stream as usize) else { continue };
                let first = || StreamSeen { shard, series, totals: BTreeMap::new(), seen: vec![] };
                let one = all.entry((new.site, name)).or_insert_with(first);
                one.totals.entry(series).or_default().add(part);
                let here = Seen { seq: new.seq, watermark: part.watermark };
                match one.seen.last_mut().filter(|seen| seen.seq == new.seq) {
                    Some(seen) => seen.watermark = part.watermark,
                    None => one.seen.push(here),
                }
            }
        }
        all.into_values().collect()
    }

    /// What became of the messages, once so many windows are written, and how the shards' progress changes.
    pub fn finish(self, windows: usize) -> (Applied, Vec<Change>) {
        let mut out = Applied { outcomes: self.outcomes, windows, ..Applied::default() };
        let mut changes = vec![];
        for (key, shard) in self.shards {
            if shard.conflict.is_none() {
                let cursor = shard.now.cursor().saturating_sub(shard.base);
                out.cursors.insert(key.clone(), SettledCursor { incarnation: shard.incarnation, cursor });
            }
            if shard.changes() {
                let change = shard.change(key);
                for (span, lost) in change.opened.iter().filter(|(span, _)| span.last > shard.before.cursor())
                {
                    let numbers = span.last.saturating_sub(span.first).saturating_add(1);
                    out.given_up = out.given_up.saturating_add(numbers);
                    match lost {
                        Some(lost) => out.lost.push((change.key.clone(), span.first, *lost)),
                        None => out.lacking.push((change.key.clone(), *span)),
                    }
                }
                changes.push(change);
            }
        }
        (out, changes)
    }
}

impl New<'_> {
    /// The row numbers of its series, by stream and width.
    fn ids(&self, known: &SeriesIds) -> HashMap<(u32, u32), i64> {
        let id = |(stream, width_ms): (u32, u32)| {
            let name = self.batch.streams.get(stream as usize)?;
            let id = known.0.get(&(self.site.clone(), name.clone(), width_ms))?;
            Some(((stream, width_ms), *id))
        };
        series_of(self.batch).into_iter().filter_map(id).collect()
    }
}

impl JudgedShard {
    /// Whether an incarnation of the site is the newest known one, which a later one becomes. What is missing of an earlier one comes no
    /// more.
    fn knows(&mut self, incarnation: SiteIncarnation) -> bool {
        if incarnation == self.incarnation {
            return true;
        }
        if incarnation.generation <= self.incarnation.generation {
            return false;
        }
        (self.incarnation, self.base) = (incarnation, self.now.highest().max(self.last));
        self.now.skip_below(self.base.saturating_add(1));
        (self.first_kept, self.last) = (self.base.saturating_add(1), self.base);
        self.conflict = None;
        true
    }

    /// Judges a batch by its number here.
    fn judge(&mut self, seq: u64, (parts, hash): (usize, u64)) -> MessageOutcome {
        match self.now.apply(seq) {
            Verdict::TooFarAhead => MessageOutcome::TooFarAhead,
            Verdict::Duplicate if self.is_other(seq, hash) => {
                self.conflict.get_or_insert(seq);
                MessageOutcome::Conflict
            }
            Verdict::Duplicate => MessageOutcome::Duplicate,
            Verdict::New => {
                self.applied.push(AppliedBatch { seq, parts, hash });
                MessageOutcome::Applied
            }
        }
    }

    fn lose(&mut self, seq: u64, lost: LostBatch) -> MessageOutcome {
        match self.now.lose(seq) {
            Verdict::Duplicate => MessageOutcome::Duplicate,
            Verdict::TooFarAhead => MessageOutcome::LostEarly,
            Verdict::New => {
                self.lost.insert(seq, lost);
                MessageOutcome::Lost
            }
        }
    }

    /// Whether a number was applied with another content, as far as that is still known.
    fn is_other(&self, seq: u64, hash: u64) -> bool {
        let now = self.applied.iter().find(|one| one.seq == seq).map(|one| one.hash);
        now.or(self.stored.hashes.get(&seq).copied()).is_some_and(|known| known != hash)
    }

    fn changes(&self) -> bool {
        // The next message makes an incarnation known again of which nothing was applied.
        let other = self.incarnation != self.stored.incarnation && self.base > 0;
        other || self.now != self.before || !self.applied.is_empty() || self.conflict != self.stored.conflict
    }

    fn change(&self, key: ShardKey) -> Change {
        let cursor = self.now.cursor();
        let with_lost = |span: &BatchSpan| {
            (*span, self.lost.get(&span.first).filter(|_| span.first == span.last).copied())
        };
        Change {
            key,
            incarnation: self.incarnation,
            base: self.base,
            cursor,
            first_kept: self.first_kept,
            last: self.last,
            conflict: self.conflict,
            applied: self.applied.clone(),
            forget: cursor.saturating_sub(KEPT_BATCHES_ENTRIES),
            filled: self.before.holes().difference(self.now.holes()).map(|hole| hole.first).collect(),
            opened: self.now.holes().difference(self.before.holes()).map(with_lost).collect(),
            gap_closed: self.before.beyond() > 0 && cursor > self.before.cursor(),
        }
    }
}

/// The streams and widths of a batch.
fn series_of(batch: &Batch) -> BTreeSet<(u32, u32)> {
    batch.parts.iter().map(|part| (part.stream, part.width_ms)).collect()
}

fn gather<K: Ord>(rows: &mut BTreeMap<K, StoredWindow>, key: K, start: EpochMs, part: &Part) {
    let Part { aggregate, late, set_aside, sequences, .. } = part;
    rows.entry(key)
        .and_modify(|row| {
            row.aggregate.merge(aggregate);
            row.late = row.late.saturating_add(*late);
            row.parts = row.parts.saturating_add(1);
            row.set_aside = row.set_aside.saturating_add(*set_aside);
            row.sequences.merge(sequences);
        })
        .or_insert_with(|| StoredWindow {
            start,
            aggregate: aggregate.clone(),
            late: *late,
            parts: 1,
            set_aside: *set_aside,
            sequences: sequences.clone(),
        });
}

/// Puts what is stored before what was gathered.
pub fn merge(gathered: &mut StoredWindow, mut stored: StoredWindow) {
    stored.merge(gathered);
    *gathered = stored;
}

/// Site, stream name and width.
pub type SeriesKey = (SiteId, StreamName, u32);

/// Row numbers of series, remembered as long as a connection.
#[derive(Debug, Default)]
pub struct SeriesIds(HashMap<SeriesKey, i64>);

impl SeriesIds {
    /// Before a transaction: forgets all if they are too many.
    pub fn bound(&mut self) {
        if self.0.len() > SERIES_CACHE_ENTRIES {
            self.0.clear();
        }
    }

    /// Remembers one; wrong if the transaction that made it does not commit, so the connection has to go then.
    pub fn insert(&mut self, key: SeriesKey, id: i64) {
        self.0.insert(key, id);
    }
}
