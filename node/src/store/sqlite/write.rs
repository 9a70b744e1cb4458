//! Writing: many batches in one transaction, each counted once.

use super::super::{StoreError, sequences_bytes, sequences_from, whole};
use super::{File, ROW, blocking, ledger_id, open_to_write, window_at};
use rusqlite::types::FromSqlError;
use rusqlite::{Connection, OptionalExtension, ToSql, Transaction, TransactionBehavior, params};
use selvedge_node_core::incoming::Incoming;
use selvedge_node_core::passed::{DOUBT_AFTER_MS, Passed, Seen};
use selvedge_node_core::progress::{BatchSpan, MAX_BEYOND_ENTRIES, MAX_HOLES_ENTRIES};
use selvedge_node_core::stage::{
    self, Applied, Change, SeriesIds, SeriesKey, ShardKey, Stage, StoredShard, StreamSeen,
};
use selvedge_node_core::stored::StoredWindow;
use selvedge_node_core::totals::Totals;
use selvedge_types::ids::ShardId;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{LedgerId, SiteIncarnation};
use std::sync::Arc;
use std::time::Duration;

/// The one connection that writes.
pub struct SqliteWriter {
    file: File,
    /// None after a failure: SQLite may have ended the transaction on its own (a full disk does that), and what is remembered of
    /// it can't be trusted any more.
    session: Option<Session>,
}

struct Session {
    db: Connection,
    ledger: LedgerId,
    series: SeriesIds,
}

impl SqliteWriter {
    pub(super) fn new(file: File, db: Connection, ledger: LedgerId) -> Self {
        Self { file, session: Some(Session { db, ledger, series: SeriesIds::default() }) }
    }

    pub async fn apply(&mut self, messages: &Arc<[Incoming]>, now: EpochMs) -> Result<Applied, StoreError> {
        let (session, file, messages) = (self.session.take(), self.file.clone(), messages.clone());
        let work = move || {
            let mut session = match session {
                Some(session) => session,
                None => {
                    let db = open_to_write(&file)?;
                    Session { ledger: ledger_id(&db)?, db, series: SeriesIds::default() }
                }
            };
            let mut applied = session.transact(&messages, now)?;
            applied.ledger = session.ledger;
            Ok((session, applied))
        };
        let (session, applied) = blocking(work).await?;
        self.session = Some(session);
        Ok(applied)
    }

    pub async fn close(self) -> Result<(), StoreError> {
        match self.session {
            Some(session) => blocking(|| session.close()).await,
            None => Ok(()),
        }
    }
}

impl Session {
    /// Leaves all in one file, unless somebody reads just now.
    fn close(self) -> Result<(), StoreError> {
        self.db.busy_timeout(Duration::ZERO)?;
        self.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        self.db.close().map_err(|(_, why)| why.into())
    }

    fn transact(&mut self, messages: &[Incoming], now: EpochMs) -> Result<Applied, StoreError> {
        self.series.bound();
        let tx = self.db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let (applied, changed) = stage(&tx, messages, now, &mut self.series)?;
        if changed {
            tx.commit()?;
        }
        Ok(applied)
    }
}

/// Everything of a transaction but its end; says whether there is anything to commit.
fn stage(
    tx: &Transaction<'_>,
    messages: &[Incoming],
    now: EpochMs,
    series: &mut SeriesIds,
) -> Result<(Applied, bool), StoreError> {
    let mut shards = std::collections::BTreeMap::new();
    for (key, seqs) in stage::heard(messages) {
        let shard = load(tx, &key, &seqs)?;
        shards.insert(key, shard);
    }
    let stage = Stage::new(messages, shards);
    let changed = stage.changes();
    for (key, shard) in stage.unknown_series(series) {
        let id = series_id(tx, &key, shard, now)?;
        series.insert(key, id);
    }
    let (windows, rollups) = stage.rows(series);
    let written = windows.len();
    let mut stored = tx.prepare_cached(&format!(
        "SELECT {ROW} FROM series_window AS w WHERE series_id = ? AND start_ms = ?"
    ))?;
    let mut write =
        tx.prepare_cached(&format!("INSERT OR REPLACE INTO series_window (series_id, start_ms, {WRITTEN}"))?;
    for ((series, start), mut row) in windows {
        let key = params![series, start.0];
        if let Some(before) = stored.query_row(key, |row| window_at(row, 0)).optional()? {
            stage::merge(&mut row, before);
        }
        put(&mut write, key, &row)?;
    }
    let mut stored = tx.prepare_cached(&format!(
        "SELECT {ROW} FROM series_rollup AS w WHERE span_ms = ? AND start_ms = ? AND series_id = ?"
    ))?;
    let mut write = tx.prepare_cached(
        &format!("INSERT OR REPLACE INTO series_rollup (span_ms, start_ms, series_id, {WRITTEN}")
            .replace("(?, ?", "(?, ?, ?"),
    )?;
    for ((span_ms, start, series), mut row) in rollups {
        let key = params![span_ms, start.0, series];
        if let Some(before) = stored.query_row(key, |row| window_at(row, 0)).optional()? {
            stage::merge(&mut row, before);
        }
        put(&mut write, key, &row)?;
    }
    for stream in stage.streams(series) {
        pass(tx, &stream)?;
    }
    let (applied, changes) = stage.finish(written);
    for change in &changes {
        save(tx, change, now)?;
    }
    Ok((applied, changed))
}

/// Records how far a stream has come, in all its series, and what these add up to.
fn pass(tx: &Transaction<'_>, stream: &StreamSeen<'_>) -> Result<(), StoreError> {
    // The one of all widths that knows most: a width that is new knows nothing.
    let mut stored = tx.prepare_cached(
        "SELECT n.series_id, n.passed_ms, n.passed_seq, n.ahead_ms, n.ahead_seq, n.readings, n.late_count, n.set_aside, \
         n.sequences, n.missing_before, n.set_back FROM series AS s \
         JOIN series AS n ON n.device_id = s.device_id AND n.stream = s.stream WHERE s.series_id = ? \
         ORDER BY n.passed_seq DESC",
    )?;
    let stored = stored.query_map([stream.series], |row| {
        let ahead = row.get::<_, Option<i64>>(3)?.zip(row.get::<_, Option<i64>>(4)?);
        let ahead = ahead.map(|(ms, seq)| Seen { seq: seq as u64, watermark: EpochMs(ms) });
        let (at, seq) = (EpochMs(row.get(1)?), row.get::<_, i64>(2)? as u64);
        let bytes = row.get_ref(8)?.as_blob_or_null()?;
        let sequences = sequences_from(bytes).map_err(|why| FromSqlError::Other(Box::new(why)))?;
        let whole = |at: usize| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)? as u64);
        let (readings, late, set_aside, missing_before) = (whole(5)?, whole(6)?, whole(7)?, whole(9)?);
        let totals = Totals { readings, late, set_aside, sequences, missing_before };
        Ok((row.get::<_, i64>(0)?, Passed { at, seq, ahead, set_back: whole(10)? }, totals))
    })?;
    let stored = stored.collect::<Result<Vec<_>, _>>()?;
    let Some((_, before, _)) = stored.first() else { return Ok(()) };
    let (now, doubt) = stream.advance(*before);
    let mut update = tx.prepare_cached(
        "UPDATE series SET passed_ms = ?, passed_seq = ?, ahead_ms = ?, ahead_seq = ?, readings = ?, late_count = ?, set_aside = ?, \
         missing = ?, sequences = ?, missing_before = ?, set_back = ? WHERE series_id = ?",
    )?;
    for (series, _, mut totals) in stored {
        if let Some(more) = stream.totals.get(&series) {
            totals.merge(more);
        }
        let ahead = now.ahead.map(|seen| (seen.watermark.0, whole(seen.seq)));
        update.execute(params![
            now.at.0,
            whole(now.seq),
            ahead.map(|a| a.0),
            ahead.map(|a| a.1),
            whole(totals.readings),
            whole(totals.late),
            whole(totals.set_aside),
            totals.missing().map(whole),
            sequences_bytes(&totals.sequences),
            whole(totals.missing_before),
            whole(now.set_back),
            series
        ])?;
        if let Some(doubt) = doubt {
            tx.prepare_cached("INSERT OR IGNORE INTO doubt VALUES (?, ?, ?, ?, ?)")?.execute(params![
                series,
                doubt.from.0,
                doubt.to.0,
                whole(doubt.batches.first),
                whole(doubt.batches.last)
            ])?;
        }
    }
    Ok(())
}

/// Streams whose newest batch was beyond a gap that has closed: they have come as far as that batch says, and what the hole may have
/// held of them, if the gap became one, is in doubt.
const DOUBT_PASSED: &str = "INSERT OR IGNORE INTO doubt SELECT s.series_id, min(s.passed_ms, s.ahead_ms), \
     max(s.passed_ms, s.ahead_ms) + ?4, min(h.first_seq), max(h.last_seq) FROM device AS d JOIN series AS s USING (device_id) \
     JOIN hole AS h ON h.site = d.site AND h.shard = d.shard AND h.first_seq > s.passed_seq AND h.last_seq < s.ahead_seq \
     WHERE d.site = ?1 AND d.shard = ?2 AND s.ahead_seq <= ?3 GROUP BY s.series_id";
const PASS: &str = "UPDATE series SET passed_ms = ahead_ms, set_back = set_back + (ahead_ms < passed_ms), passed_seq = ahead_seq, \
     ahead_ms = NULL, ahead_seq = NULL WHERE ahead_seq <= ?3 AND device_id IN (SELECT device_id FROM device WHERE site = ?1 AND shard = ?2)";

/// What a hole that is filled after all had left in doubt.
const CLEAR: &str = "DELETE FROM doubt WHERE series_id IN \
     (SELECT s.series_id FROM device AS d JOIN series AS s USING (device_id) WHERE d.site = ?1 AND d.shard = ?2) \
     AND NOT EXISTS (SELECT 1 FROM hole AS h WHERE h.site = ?1 AND h.shard = ?2 \
     AND h.first_seq <= doubt.last_seq AND h.last_seq >= doubt.first_seq)";

/// The columns that [`put`] writes after those of a key of two.
const WRITTEN: &str = "count, min, max, first_ms, first_slot, first_index, first, last_ms, last_slot, last_index, \
     last, fingerprint, late_count, revision, set_aside, missing, sequences, spread, sum, mean, stddev, p50, p90, p99) \
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

fn put(
    write: &mut rusqlite::CachedStatement<'_>,
    key: &[&dyn ToSql],
    row: &StoredWindow,
) -> Result<(), rusqlite::Error> {
    let a = &row.aggregate;
    let mut at = 0;
    let mut bind = |value: &dyn ToSql| {
        at += 1;
        write.raw_bind_parameter(at, value)
    };
    for part in key {
        bind(part)?;
    }
    bind(&whole(a.count))?;
    for value in [a.min, a.max] {
        bind(&value)?;
    }
    for sample in [a.first, a.last] {
        bind(&sample.time.0)?;
        bind(&whole(sample.slot))?;
        bind(&i64::from(sample.index))?;
        bind(&sample.value)?;
    }
    bind(&(a.fingerprint as i64))?;
    bind(&whole(row.late))?;
    bind(&whole(row.parts))?;
    bind(&whole(row.set_aside))?;
    bind(&row.sequences.missing().map(whole))?;
    bind(&sequences_bytes(&row.sequences))?;
    bind(&a.spread())?;
    bind(&a.sum())?;
    for figure in [a.mean(), a.stddev()] {
        bind(&figure)?;
    }
    for percent in [50, 90, 99] {
        bind(&a.quantile(percent))?;
    }
    write.raw_execute()?;
    Ok(())
}

fn load(tx: &Transaction<'_>, (site, shard): &ShardKey, seqs: &[u64]) -> Result<StoredShard, StoreError> {
    let (site, shard) = (site.as_str(), shard.0);
    let found = tx
        .prepare_cached(
            "SELECT cursor, edge_first_kept, edge_last, conflict_seq, incarnation, base FROM shard_progress \
             WHERE site = ? AND shard = ?",
        )?
        .query_row(params![site, shard], |row| {
            let seq = |at: usize| Ok::<_, rusqlite::Error>(row.get::<_, i64>(at)? as u64);
            let conflict = row.get::<_, Option<i64>>(3)?.map(|seq| seq as u64);
            let (cursor, first_kept, last) = (seq(0)?, seq(1)?, seq(2)?);
            let (incarnation, base) = (SiteIncarnation::from_bytes(row.get(4)?), seq(5)?);
            Ok(StoredShard {
                incarnation,
                base,
                cursor,
                first_kept,
                last,
                conflict,
                ..StoredShard::default()
            })
        })
        .optional()?;
    // Without a row there are no batches of it either.
    let Some(mut shard_stored) = found else { return Ok(StoredShard::default()) };
    let mut beyond = tx.prepare_cached(
        "SELECT seq FROM applied_batch WHERE site = ? AND shard = ? AND seq > ? ORDER BY seq LIMIT ?",
    )?;
    let limit = MAX_BEYOND_ENTRIES as i64 + 1;
    let beyond = beyond.query_map(params![site, shard, whole(shard_stored.cursor), limit], |row| {
        Ok(row.get::<_, i64>(0)? as u64)
    })?;
    shard_stored.beyond = beyond.collect::<Result<_, _>>()?;
    let mut holes = tx.prepare_cached(
        "SELECT first_seq, last_seq FROM hole WHERE site = ? AND shard = ? ORDER BY first_seq DESC LIMIT ?",
    )?;
    let holes = holes.query_map(params![site, shard, MAX_HOLES_ENTRIES as i64], |row| {
        Ok(BatchSpan { first: row.get::<_, i64>(0)? as u64, last: row.get::<_, i64>(1)? as u64 })
    })?;
    shard_stored.holes = holes.collect::<Result<_, _>>()?;
    let mut hash =
        tx.prepare_cached("SELECT body_hash FROM applied_batch WHERE site = ? AND shard = ? AND seq = ?")?;
    // No batch of another incarnation was applied under these numbers.
    for seq in seqs.iter().map(|seq| seq.saturating_add(shard_stored.base)) {
        let found: Option<i64> =
            hash.query_row(params![site, shard, whole(seq)], |row| row.get(0)).optional()?;
        shard_stored.hashes.extend(found.map(|hash| (seq, hash as u64)));
    }
    Ok(shard_stored)
}

fn series_id(
    tx: &Transaction<'_>,
    (site, name, width_ms): &SeriesKey,
    shard: ShardId,
    now: EpochMs,
) -> Result<i64, StoreError> {
    tx.prepare_cached(
        "INSERT INTO device (site, name, shard, first_seen_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
    )?
    .execute(params![site.as_str(), name.device, shard.0, now.0])?;
    let device: i64 = tx
        .prepare_cached("SELECT device_id FROM device WHERE site = ? AND name = ?")?
        .query_row(params![site.as_str(), name.device], |row| row.get(0))?;
    tx.prepare_cached(
        "INSERT INTO series (device_id, stream, width_ms) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
    )?
    .execute(params![device, name.stream, width_ms])?;
    let id = tx
        .prepare_cached("SELECT series_id FROM series WHERE device_id = ? AND stream = ? AND width_ms = ?")?
        .query_row(params![device, name.stream, width_ms], |row| row.get(0))?;
    Ok(id)
}

/// Records a shard's progress.
fn save(tx: &Transaction<'_>, change: &Change, now: EpochMs) -> Result<(), StoreError> {
    let (site, shard) = (change.key.0.as_str(), change.key.1.0);
    tx.prepare_cached(
        "INSERT INTO shard_progress (site, shard, cursor, edge_first_kept, edge_last, batches_applied, changed_ms, \
         conflict_seq, incarnation, base) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET cursor = excluded.cursor, \
         edge_first_kept = excluded.edge_first_kept, edge_last = excluded.edge_last, \
         batches_applied = batches_applied + excluded.batches_applied, changed_ms = excluded.changed_ms, \
         conflict_seq = excluded.conflict_seq, incarnation = excluded.incarnation, base = excluded.base",
    )?
    .execute(params![
        site,
        shard,
        whole(change.cursor),
        whole(change.first_kept),
        whole(change.last),
        change.applied.len() as i64,
        now.0,
        change.conflict.map(whole),
        change.incarnation.to_bytes(),
        whole(change.base),
    ])?;
    let mut applied = tx.prepare_cached(
        "INSERT INTO applied_batch (site, shard, seq, applied_ms, parts, body_hash) VALUES (?, ?, ?, ?, ?, ?)",
    )?;
    for one in &change.applied {
        applied.execute(params![site, shard, whole(one.seq), now.0, one.parts as i64, one.hash as i64])?;
    }
    tx.prepare_cached("DELETE FROM applied_batch WHERE site = ? AND shard = ? AND seq <= ?")?
        .execute(params![site, shard, whole(change.forget)])?;
    let mut filled = tx.prepare_cached("DELETE FROM hole WHERE site = ? AND shard = ? AND first_seq = ?")?;
    for first in &change.filled {
        filled.execute(params![site, shard, whole(*first)])?;
    }
    let mut opened = tx.prepare_cached(
        "INSERT INTO hole (site, shard, first_seq, last_seq, found_ms, readings, parts, from_ms, to_ms) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    for (hole, lost) in &change.opened {
        opened.execute(params![
            site,
            shard,
            whole(hole.first),
            whole(hole.last),
            now.0,
            lost.map(|lost| whole(lost.readings)),
            lost.map(|lost| lost.parts),
            lost.map(|lost| lost.from.0),
            lost.map(|lost| lost.to.0),
        ])?;
    }
    if change.gap_closed {
        let cursor = whole(change.cursor);
        tx.prepare_cached(DOUBT_PASSED)?.execute(params![site, shard, cursor, DOUBT_AFTER_MS])?;
        tx.prepare_cached(PASS)?.execute(params![site, shard, cursor])?;
    }
    if !change.filled.is_empty() {
        tx.prepare_cached(CLEAR)?.execute(params![site, shard])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_types::aggregate::{Aggregate, Sample};
    use selvedge_types::ids::SiteId;
    use selvedge_types::sequences::Sequences;
    use selvedge_types::uplink::{Batch, Part, StreamName};
    use std::ops::Range;

    fn site() -> SiteId {
        SiteId::new("plant-7").unwrap()
    }

    /// Batches of one window each.
    fn batches(numbers: Range<u64>) -> Arc<[Incoming]> {
        let batch = |seq: u64| {
            let start = EpochMs(seq as i64 * 10_000);
            let part = Part {
                stream: 0,
                width_ms: 10_000,
                start,
                aggregate: Aggregate::of(Sample { time: start, slot: 1, index: 0, value: 1.0 }),
                late: 0,
                watermark: start,
                set_aside: 0,
                sequences: Sequences::default(),
            };
            let streams = vec![StreamName { device: "press-1".into(), stream: "temp".into() }];
            Incoming::latest(site(), seq, Batch { streams, parts: vec![part] })
        };
        numbers.map(batch).collect()
    }

    #[tokio::test]
    async fn a_full_disk_costs_a_wait_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, reader) = super::super::open(folder.path()).await.unwrap();
        writer.apply(&batches(1..2), EpochMs(0)).await.unwrap();
        // SQLite rolls a transaction back on its own when it finds no room.
        let db = &writer.session.as_ref().unwrap().db;
        db.pragma_update_and_check(None, "max_page_count", 1, |_| Ok(())).unwrap();
        let many = batches(2..200);
        let error = writer.apply(&many, EpochMs(0)).await.unwrap_err();
        assert!(error.to_string().contains("full"), "{error}");
        // The next connection has room.
        let applied = writer.apply(&many, EpochMs(0)).await.unwrap();
        assert_eq!(applied.cursors[&(site(), ShardId(0))].cursor, 199);
        let count = "SELECT count(*) FROM series_window";
        let windows = reader.ask(|db| db.query_row(count, [], |row| row.get::<_, i64>(0))).await.unwrap();
        assert_eq!(windows, 199);
    }
}
