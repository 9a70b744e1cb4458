//! Writing: many batches in one transaction, each counted once.

use super::StoreError;
use crate::logic::progress::{MAX_BEYOND_ENTRIES, MAX_HOLES_ENTRIES, Progress, Span, Verdict};
use crate::logic::rollup;
use selvedge_shared::aggregate::Aggregate;
use selvedge_shared::ids::{ShardId, SiteId};
use selvedge_shared::time::EpochMs;
use selvedge_shared::uplink::{Batch, Part, StreamName};
use sqlx::query_builder::Separated;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, QueryBuilder, Sqlite, SqliteConnection};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How many of a shard's newest batches stay listed in `applied_batch`, beyond those above the cursor: enough to
/// tell a batch that is sent again from another one that bears its number.
pub const KEPT_BATCHES_ENTRIES: u64 = 4096;

/// How many series the writer remembers the row numbers of.
pub const SERIES_CACHE_ENTRIES: usize = 100_000;

/// How many windows one statement writes.
const ROWS_PER_STATEMENT: usize = 64;

type Db = SqliteConnection;
type ShardKey = (SiteId, ShardId);
/// By series and start, as in the table.
type Windows = BTreeMap<(i64, EpochMs), Window>;
/// By span, start and series, as in the table.
type Rollups = BTreeMap<(i64, EpochMs, i64), Window>;
type Values<'a> = Separated<'a, Sqlite, &'static str>;
/// Site, stream name and width.
type SeriesKey = (SiteId, StreamName, u32);

/// One authentic, checked message of the uplink.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// The site it came from.
    pub site: SiteId,
    /// The shard it is of.
    pub shard: ShardId,
    /// The lowest seq that the edge still has.
    pub first_kept: u64,
    /// The highest seq that the edge has cut.
    pub last: u64,
    /// The batch; nothing for a beacon.
    pub content: Option<Content>,
}

/// A batch and its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// Its number in its shard.
    pub seq: u64,
    /// What it holds.
    pub batch: Batch,
    /// A hash of its encoded bytes: equal for the same content.
    pub body_hash: u64,
}

/// What became of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Its windows are counted.
    Applied,
    /// They were counted before.
    Duplicate,
    /// It had none.
    Beacon,
    /// Too far beyond a gap; it has to be sent again.
    TooFarAhead,
    /// Its number was used before for another content: not counted. The shard is not confirmed any more
    /// until someone has looked at it and cleared `shard_progress.conflict_seq`.
    Conflict,
}

/// What became of the messages of one transaction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// One for each message, in their order.
    pub outcomes: Vec<Outcome>,
    /// The cursors, on disk, of all shards that were heard, except those with a conflict
    /// (which an edge that was set up anew under an old name and secret would cause).
    pub cursors: BTreeMap<ShardKey, u64>,
    /// How many windows were written.
    pub windows: usize,
    /// How many batch numbers were given up as holes.
    pub given_up: u64,
}

/// The one connection that writes.
pub struct Writer {
    /// How it is opened again.
    options: SqliteConnectOptions,
    /// None after a failure: SQLite may have ended the transaction on its own (a full disk does that), and
    /// what the connection believes of it can't be trusted any more.
    db: Option<Db>,
    series: HashMap<SeriesKey, i64>,
}

struct Shard {
    before: Progress,
    now: Progress,
    first_kept: u64,
    last: u64,
    applied: Vec<(u64, usize, u64)>,
    conflict: Option<u64>,
    new_conflict: bool,
}

#[derive(Clone)]
struct Window {
    aggregate: Aggregate,
    late: u64,
    parts: u32,
    watermark: EpochMs,
}

impl Writer {
    pub(super) fn new(options: SqliteConnectOptions, db: Db) -> Self {
        Self { options, db: Some(db), series: HashMap::new() }
    }

    /// Applies messages in one transaction. When this returns, it is on disk; when it fails, nothing of it is.
    ///
    /// # Errors
    /// When the database fails; the messages may be given again.
    pub async fn apply(&mut self, messages: &[Incoming], now: EpochMs) -> Result<Applied, StoreError> {
        let mut db = match self.db.take() {
            Some(db) => db,
            None => self.options.connect().await?,
        };
        let applied = self.transact(&mut db, messages, now).await?;
        self.db = Some(db);
        Ok(applied)
    }

    async fn transact(
        &mut self,
        db: &mut Db,
        messages: &[Incoming],
        now: EpochMs,
    ) -> Result<Applied, StoreError> {
        let mut tx = db.begin_with("BEGIN IMMEDIATE").await?;
        let mut found = HashMap::new();
        let (applied, any) = stage(&mut tx, messages, now, &self.series, &mut found).await?;
        if any {
            tx.commit().await?;
            if self.series.len() + found.len() > SERIES_CACHE_ENTRIES {
                self.series.clear();
            }
            self.series.extend(found);
        } else {
            tx.rollback().await?;
        }
        Ok(applied)
    }

    /// Closes the database.
    ///
    /// # Errors
    /// When the last checkpoint fails; nothing that was applied is lost by it.
    pub async fn close(self) -> Result<(), StoreError> {
        match self.db {
            Some(db) => Ok(db.close().await?),
            None => Ok(()),
        }
    }
}

/// Everything of a transaction but its end; says whether there is anything to commit.
async fn stage(
    db: &mut Db,
    messages: &[Incoming],
    now: EpochMs,
    known: &HashMap<SeriesKey, i64>,
    found: &mut HashMap<SeriesKey, i64>,
) -> Result<(Applied, bool), StoreError> {
    let mut shards: BTreeMap<ShardKey, Shard> = BTreeMap::new();
    let (mut windows, mut rollups) = (Windows::new(), Rollups::new());
    let mut out = Applied::default();
    for message in messages {
        let key = (message.site.clone(), message.shard);
        if !shards.contains_key(&key) {
            shards.insert(key.clone(), load(db, &key).await?);
        }
        let Some(shard) = shards.get_mut(&key) else { continue };
        shard.last = shard.last.max(message.last);
        let outcome = match &message.content {
            None => Outcome::Beacon,
            Some(content) => match shard.now.apply(content.seq) {
                Verdict::TooFarAhead => Outcome::TooFarAhead,
                Verdict::Duplicate if is_other(db, &key, shard, content).await? => {
                    shard.new_conflict |= shard.conflict.is_none();
                    shard.conflict.get_or_insert(content.seq);
                    Outcome::Conflict
                }
                Verdict::Duplicate => Outcome::Duplicate,
                Verdict::New => {
                    let parts = content.batch.parts.len();
                    shard.applied.push((content.seq, parts, content.body_hash));
                    for part in &content.batch.parts {
                        let Some(name) = content.batch.streams.get(part.stream as usize) else { continue };
                        let series =
                            series_id(db, &message.site, name, part.width_ms, now, known, found).await?;
                        gather(&mut windows, (series, part.start), part);
                        for span_ms in rollup::spans_of(part.width_ms.into()) {
                            let start = rollup::floor(part.start, span_ms);
                            gather(&mut rollups, (span_ms, start, series), part);
                        }
                    }
                    Outcome::Applied
                }
            },
        };
        if message.first_kept > shard.first_kept {
            shard.first_kept = message.first_kept;
            shard.now.skip_below(message.first_kept);
        }
        out.outcomes.push(outcome);
    }
    let rows: Vec<_> = windows.into_iter().collect();
    for chunk in rows.chunks(ROWS_PER_STATEMENT) {
        let key = |row: &mut Values<'_>, (series, start): (i64, EpochMs)| {
            row.push_bind(series).push_bind(start.0);
        };
        upsert(db, "series_window (series_id, start_ms, ", key, chunk).await?;
    }
    out.windows = rows.len();
    let rows: Vec<_> = rollups.into_iter().collect();
    for chunk in rows.chunks(ROWS_PER_STATEMENT) {
        let key = |row: &mut Values<'_>, (span, start, series): (i64, EpochMs, i64)| {
            row.push_bind(span).push_bind(start.0).push_bind(series);
        };
        upsert(db, "series_rollup (span_ms, start_ms, series_id, ", key, chunk).await?;
    }
    let mut changed = false;
    for (key, shard) in shards {
        if shard.now != shard.before || !shard.applied.is_empty() || shard.new_conflict {
            changed = true;
            out.given_up = out.given_up.saturating_add(save(db, &key, &shard, now).await?);
        }
        if shard.conflict.is_none() {
            out.cursors.insert(key, shard.now.cursor());
        }
    }
    Ok((out, changed))
}

fn gather<K: Ord>(windows: &mut BTreeMap<K, Window>, key: K, part: &Part) {
    let (late, watermark) = (part.late, part.watermark);
    windows
        .entry(key)
        .and_modify(|window| {
            window.aggregate.merge(&part.aggregate);
            window.late = window.late.saturating_add(late);
            window.parts = window.parts.saturating_add(1);
            window.watermark = window.watermark.max(watermark);
        })
        .or_insert_with(|| Window { aggregate: part.aggregate.clone(), late, parts: 1, watermark });
}

async fn load(db: &mut Db, (site, shard): &ShardKey) -> Result<Shard, StoreError> {
    let (site, number) = (site.as_str(), i64::from(shard.0));
    let row = sqlx::query_as(
        "SELECT cursor, edge_first_kept, edge_last, conflict_seq FROM shard_progress WHERE site = ? AND shard = ?",
    )
    .bind(site)
    .bind(number)
    .fetch_optional(&mut *db)
    .await?;
    let (cursor, first_kept, last, conflict): (i64, i64, i64, Option<i64>) = row.unwrap_or_default();
    let beyond: Vec<i64> = sqlx::query_scalar(
        "SELECT seq FROM applied_batch WHERE site = ? AND shard = ? AND seq > ? ORDER BY seq LIMIT ?",
    )
    .bind(site)
    .bind(number)
    .bind(cursor)
    .bind(MAX_BEYOND_ENTRIES as i64 + 1)
    .fetch_all(&mut *db)
    .await?;
    let holes: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT first_seq, last_seq FROM hole WHERE site = ? AND shard = ? ORDER BY first_seq DESC LIMIT ?",
    )
    .bind(site)
    .bind(number)
    .bind(MAX_HOLES_ENTRIES as i64)
    .fetch_all(&mut *db)
    .await?;
    let holes = holes.into_iter().map(|(first, last)| Span { first: first as u64, last: last as u64 });
    let before = Progress::restore(cursor as u64, beyond.into_iter().map(|seq| seq as u64), holes);
    Ok(Shard {
        now: before.clone(),
        before,
        first_kept: first_kept as u64,
        last: last as u64,
        applied: vec![],
        conflict: conflict.map(|seq| seq as u64),
        new_conflict: false,
    })
}

/// Whether the number of `content` was applied with another content, as far as that is still known.
async fn is_other(
    db: &mut Db,
    (site, number): &ShardKey,
    shard: &Shard,
    content: &Content,
) -> Result<bool, StoreError> {
    if let Some((_, _, hash)) = shard.applied.iter().find(|(seq, _, _)| *seq == content.seq) {
        return Ok(*hash != content.body_hash);
    }
    let stored: Option<i64> =
        sqlx::query_scalar("SELECT body_hash FROM applied_batch WHERE site = ? AND shard = ? AND seq = ?")
            .bind(site.as_str())
            .bind(i64::from(number.0))
            .bind(content.seq as i64)
            .fetch_optional(db)
            .await?;
    Ok(stored.is_some_and(|hash| hash as u64 != content.body_hash))
}

async fn series_id(
    db: &mut Db,
    site: &SiteId,
    name: &StreamName,
    width_ms: u32,
    now: EpochMs,
    known: &HashMap<SeriesKey, i64>,
    found: &mut HashMap<SeriesKey, i64>,
) -> Result<i64, StoreError> {
    let key = (site.clone(), name.clone(), width_ms);
    if let Some(id) = known.get(&key).or_else(|| found.get(&key)) {
        return Ok(*id);
    }
    sqlx::query("INSERT INTO device (site, name, first_seen_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(site.as_str())
        .bind(&name.device)
        .bind(now.0)
        .execute(&mut *db)
        .await?;
    let device: i64 = sqlx::query_scalar("SELECT device_id FROM device WHERE site = ? AND name = ?")
        .bind(site.as_str())
        .bind(&name.device)
        .fetch_one(&mut *db)
        .await?;
    sqlx::query("INSERT INTO series (device_id, stream, width_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(device)
        .bind(&name.stream)
        .bind(i64::from(width_ms))
        .execute(&mut *db)
        .await?;
    let id: i64 = sqlx::query_scalar(
        "SELECT series_id FROM series WHERE device_id = ? AND stream = ? AND width_ms = ?",
    )
    .bind(device)
    .bind(&name.stream)
    .bind(i64::from(width_ms))
    .fetch_one(db)
    .await?;
    found.insert(key, id);
    Ok(id)
}

/// What [`Aggregate::merge`] does, in SQL. Sums that are not a number are NULL and stay so. Counts stop at
/// the largest integer; fingerprints wrap around, step by step, because SQLite's `+` would turn real.
pub(super) const MERGE: &str = r"
ON CONFLICT DO UPDATE SET
    count = iif(count > 9223372036854775807 - excluded.count, 9223372036854775807, count + excluded.count),
    sum = sum + excluded.sum,
    sum_sq = sum_sq + excluded.sum_sq,
    min = coalesce(min(min, excluded.min), min, excluded.min),
    max = coalesce(max(max, excluded.max), max, excluded.max),
    (first_ms, first_slot, first_index, first_value) = (SELECT
        iif(earlier, excluded.first_ms, first_ms), iif(earlier, excluded.first_slot, first_slot),
        iif(earlier, excluded.first_index, first_index), iif(earlier, excluded.first_value, first_value)
        FROM (SELECT (excluded.first_ms, excluded.first_slot, excluded.first_index)
                   < (first_ms, first_slot, first_index) AS earlier)),
    (last_ms, last_slot, last_index, last_value) = (SELECT
        iif(later, excluded.last_ms, last_ms), iif(later, excluded.last_slot, last_slot),
        iif(later, excluded.last_index, last_index), iif(later, excluded.last_value, last_value)
        FROM (SELECT (excluded.last_ms, excluded.last_slot, excluded.last_index)
                   > (last_ms, last_slot, last_index) AS later)),
    fingerprint = CASE
        WHEN fingerprint > 0 AND excluded.fingerprint > 9223372036854775807 - fingerprint
        THEN (fingerprint - 9223372036854775807 - 1) + (excluded.fingerprint - 9223372036854775807 - 1)
        WHEN fingerprint < 0 AND excluded.fingerprint < -9223372036854775807 - 1 - fingerprint
        THEN (fingerprint + 9223372036854775807 + 1) + (excluded.fingerprint + 9223372036854775807 + 1)
        ELSE fingerprint + excluded.fingerprint END,
    late_count = iif(late_count > 9223372036854775807 - excluded.late_count,
                     9223372036854775807, late_count + excluded.late_count),
    parts = parts + excluded.parts,
    watermark_ms = max(watermark_ms, excluded.watermark_ms)";

/// Writes rows into `table`, which is its name and the columns of its key, or merges them into what is there.
async fn upsert<K: Copy>(
    db: &mut Db,
    table: &str,
    push_key: impl Fn(&mut Values<'_>, K),
    rows: &[(K, Window)],
) -> Result<(), StoreError> {
    let mut insert: QueryBuilder<Sqlite> = QueryBuilder::new("INSERT INTO ");
    insert.push(table).push(
        "count, sum, sum_sq, min, max, first_ms, first_slot, first_index, first_value, \
         last_ms, last_slot, last_index, last_value, fingerprint, late_count, parts, watermark_ms) ",
    );
    insert.push_values(rows, |mut row, (key, window)| {
        let Aggregate { count, sum, sum_sq, min, max, first, last, fingerprint, .. } = window.aggregate;
        push_key(&mut row, *key);
        row.push_bind(whole(count));
        row.push_bind(sum).push_bind(sum_sq).push_bind(min).push_bind(max);
        for sample in [first, last] {
            row.push_bind(sample.time.0).push_bind(whole(sample.slot));
            row.push_bind(i64::from(sample.index)).push_bind(sample.value);
        }
        row.push_bind(fingerprint as i64).push_bind(whole(window.late));
        row.push_bind(i64::from(window.parts)).push_bind(window.watermark.0);
    });
    insert.push(MERGE);
    // Full statements are kept prepared; the shorter last one comes in too many lengths for that.
    insert.build().persistent(rows.len() == ROWS_PER_STATEMENT).execute(db).await?;
    Ok(())
}

/// As SQL holds it; larger ones are refused before they come here.
fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// Records a shard's progress; says how many batch numbers became holes.
async fn save(
    db: &mut Db,
    (site, number): &ShardKey,
    shard: &Shard,
    now: EpochMs,
) -> Result<u64, StoreError> {
    let (site, number, cursor) = (site.as_str(), i64::from(number.0), shard.now.cursor());
    sqlx::query(
        "INSERT INTO shard_progress (site, shard, cursor, edge_first_kept, edge_last, batches_applied, changed_ms, \
         conflict_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET cursor = excluded.cursor, \
         edge_first_kept = excluded.edge_first_kept, edge_last = excluded.edge_last, \
         batches_applied = batches_applied + excluded.batches_applied, changed_ms = excluded.changed_ms, \
         conflict_seq = excluded.conflict_seq",
    )
    .bind(site)
    .bind(number)
    .bind(whole(cursor))
    .bind(whole(shard.first_kept))
    .bind(whole(shard.last))
    .bind(shard.applied.len() as i64)
    .bind(now.0)
    .bind(shard.conflict.map(whole))
    .execute(&mut *db)
    .await?;
    for (seq, parts, hash) in &shard.applied {
        sqlx::query(
            "INSERT INTO applied_batch (site, shard, seq, applied_ms, parts, body_hash) VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(site)
        .bind(number)
        .bind(whole(*seq))
        .bind(now.0)
        .bind(*parts as i64)
        .bind(*hash as i64)
        .execute(&mut *db)
        .await?;
    }
    sqlx::query("DELETE FROM applied_batch WHERE site = ? AND shard = ? AND seq <= ?")
        .bind(site)
        .bind(number)
        .bind(whole(cursor.saturating_sub(KEPT_BATCHES_ENTRIES)))
        .execute(&mut *db)
        .await?;
    let gone: BTreeSet<&Span> = shard.before.holes().difference(shard.now.holes()).collect();
    let new: BTreeSet<&Span> = shard.now.holes().difference(shard.before.holes()).collect();
    for span in gone {
        sqlx::query("DELETE FROM hole WHERE site = ? AND shard = ? AND first_seq = ?")
            .bind(site)
            .bind(number)
            .bind(whole(span.first))
            .execute(&mut *db)
            .await?;
    }
    for span in &new {
        sqlx::query("INSERT INTO hole (site, shard, first_seq, last_seq, found_ms) VALUES (?, ?, ?, ?, ?)")
            .bind(site)
            .bind(number)
            .bind(whole(span.first))
            .bind(whole(span.last))
            .bind(now.0)
            .execute(&mut *db)
            .await?;
    }
    let numbers = |span: &&Span| span.last.saturating_sub(span.first).saturating_add(1);
    let opened = new.iter().filter(|span| span.last > shard.before.cursor()).map(numbers).sum();
    Ok(opened)
}

#[cfg(test)]
mod tests;
