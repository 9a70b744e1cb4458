//! Reading: what queries, the status page and the ledger want to know.

use super::StoreError;
use selvedge_shared::aggregate::{Aggregate, Sample};
use selvedge_shared::time::EpochMs;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};

/// The columns of a row of windows or roll-ups, as [`window_at`] reads them.
const ROW: &str = "w.start_ms, count, sum, sum_sq, min, max, first_ms, first_slot, first_index, first_value, \
     last_ms, last_slot, last_index, last_value, fingerprint, late_count, parts, watermark_ms";

/// Reads the database, from any number of tasks.
#[derive(Clone)]
pub struct Reader {
    pool: SqlitePool,
}

/// One stream at one width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesInfo {
    /// Its row number.
    pub id: i64,
    /// The site of its device.
    pub site: String,
    /// Its device.
    pub device: String,
    /// The stream.
    pub stream: String,
    /// The width of its windows.
    pub width_ms: i64,
}

/// A window's place: its series and its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowKey {
    /// The series' row number.
    pub series: i64,
    /// Where the window starts.
    pub start: EpochMs,
}

/// One window as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredWindow {
    /// Where it starts.
    pub start: EpochMs,
    /// What is known of its readings.
    pub aggregate: Aggregate,
    /// How many of them were late.
    pub late: u64,
    /// How many parts it was merged from.
    pub parts: u64,
    /// The latest watermark that a part came with.
    pub watermark: EpochMs,
}

/// Rows of one series, and where to go on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowPage {
    /// In order of their start.
    pub rows: Vec<StoredWindow>,
    /// From where more may follow.
    pub next: Option<EpochMs>,
}

/// A page of the ledger: for each window its place, its count and its fingerprint.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LedgerPage {
    /// In order of series and start.
    pub windows: Vec<(WindowKey, u64, u64)>,
    /// The series that they name.
    pub series: Vec<SeriesInfo>,
    /// Whether more may follow.
    pub more: bool,
}

/// How far a shard has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardStatus {
    /// The site.
    pub site: String,
    /// The shard's number.
    pub shard: u16,
    /// All batches up to it are settled.
    pub cursor: u64,
    /// Batches applied beyond the cursor.
    pub beyond: u64,
    /// Batches between the cursor and the highest that the edge is known to have cut that are not applied.
    pub missing: u64,
    /// Batches given up because the edge no longer has them.
    pub given_up: u64,
    /// Batches applied since the database was made.
    pub batches_applied: u64,
    /// The highest batch that the edge was known to have cut when something changed last.
    pub edge_last: u64,
    /// When something changed last.
    pub changed: EpochMs,
    /// The number that came with two contents, if one did; then nothing is confirmed any more.
    pub conflict: Option<u64>,
}

const SERIES: &str =
    "SELECT series_id, site, name, stream, width_ms FROM series JOIN device USING (device_id)";

impl Reader {
    pub(super) fn new(pool: SqlitePool) -> Self {
        Self { pool }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1 FROM schema_version").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// The series (of one site, device or stream, if said), at most `limit`, by site, device, stream and width.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn series(
        &self,
        site: Option<&str>,
        device: Option<&str>,
        stream: Option<&str>,
        limit: u32,
    ) -> Result<Vec<SeriesInfo>, StoreError> {
        // Said apart, since an index serves no condition that may be left open.
        let device_is = if device.is_some() { "name = ?1" } else { "?1 IS NULL" };
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{SERIES} WHERE {device_is} AND (?2 IS NULL OR site = ?2) AND (?3 IS NULL OR stream = ?3) \
             ORDER BY site, name, stream, width_ms LIMIT ?4"
        )))
        .bind(device)
        .bind(site)
        .bind(stream)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(series_of).collect()
    }

    /// Series in order of (site, device, stream, width), after the one given, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices(
        &self,
        site: Option<&str>,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<SeriesInfo>, StoreError> {
        let (after_site, after_device) = after.unwrap_or_default();
        let rows = sqlx::query(
            "SELECT series_id, site, name, stream, width_ms FROM \
             (SELECT * FROM device WHERE (site, name) > (?1, ?2) AND (?3 IS NULL OR site = ?3) \
              ORDER BY site, name LIMIT ?4) \
             JOIN series USING (device_id) ORDER BY site, name, stream, width_ms",
        )
        .bind(after_site)
        .bind(after_device)
        .bind(site)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(series_of).collect()
    }

    /// The windows of a series that start in `from..to`, by start, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn windows(
        &self,
        series: i64,
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<RowPage, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT {ROW} FROM series_window AS w \
             WHERE series_id = ? AND start_ms >= ? AND start_ms < ? ORDER BY start_ms LIMIT ?"
        )))
        .bind(series)
        .bind(from.0)
        .bind(to.0)
        .bind(limit)
        .try_map(|row| window_at(&row, 0))
        .fetch_all(&self.pool)
        .await?;
        let next = rows.last().filter(|_| rows.len() == limit as usize).map(|last| last.start.plus(1));
        Ok(RowPage { rows, next })
    }

    /// The roll-ups to `span_ms` of a series that start in `from..to`, by start. Looks at no more than `limit` spans,
    /// including those in which only other series have something.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rollups(
        &self,
        series: i64,
        span_ms: i64,
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<RowPage, StoreError> {
        // From one start to the next that is there, whatever lies between them.
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "WITH RECURSIVE place (start_ms) AS ( \
             SELECT min(start_ms) FROM series_rollup WHERE span_ms = ?1 AND start_ms >= ?3 UNION ALL \
             SELECT (SELECT min(r.start_ms) FROM series_rollup AS r WHERE r.span_ms = ?1 AND r.start_ms > place.start_ms) \
             FROM place WHERE place.start_ms < ?4 LIMIT ?5) \
             SELECT place.start_ms, {ROW} FROM place \
             LEFT JOIN series_rollup AS w ON w.span_ms = ?1 AND w.start_ms = place.start_ms AND w.series_id = ?2 \
             WHERE place.start_ms < ?4 ORDER BY place.start_ms",
        )))
        .bind(span_ms)
        .bind(series)
        .bind(from.0)
        .bind(to.0)
        .bind(limit)
        .try_map(|row| {
            let found = row.try_get::<Option<i64>, _>(1)?.is_some();
            Ok((EpochMs(row.try_get(0)?), if found { Some(window_at(&row, 1)?) } else { None }))
        })
        .fetch_all(&self.pool)
        .await?;
        let next = rows.last().filter(|_| rows.len() == limit as usize).map(|(start, _)| start.plus(1));
        Ok(RowPage { rows: rows.into_iter().filter_map(|(_, row)| row).collect(), next })
    }

    /// The roll-ups to `span_ms` of all series (of one site, of one stream, if said) that start before `to`, after the
    /// place `after` in order of start and series, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rollups_of_all(
        &self,
        span_ms: i64,
        after: WindowKey,
        to: EpochMs,
        site: Option<&str>,
        stream: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(i64, StoredWindow)>, StoreError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "SELECT series_id, {ROW} FROM series_rollup AS w \
             WHERE span_ms = ?1 AND (start_ms, series_id) > (?2, ?3) AND start_ms < ?4 \
             AND (?5 IS NULL OR series_id IN (SELECT series_id FROM series WHERE stream = ?5)) \
             AND (?6 IS NULL OR series_id IN (SELECT series_id FROM series JOIN device USING (device_id) WHERE site = ?6)) \
             ORDER BY start_ms, series_id LIMIT ?7"
        )))
        .bind(span_ms)
        .bind(after.start.0)
        .bind(after.series)
        .bind(to.0)
        .bind(stream)
        .bind(site)
        .bind(limit)
        .try_map(|row| Ok((row.try_get(0)?, window_at(&row, 1)?)))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows)
    }

    /// The windows of all series (of one site, of one width, if said) after `after`, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ledger(
        &self,
        site: Option<&str>,
        width_ms: Option<u32>,
        after: WindowKey,
        limit: u32,
    ) -> Result<LedgerPage, StoreError> {
        // CROSS JOIN keeps the order of the loops: series by row number, each one's windows by start.
        let rows: Vec<(i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT s.series_id, w.start_ms, w.count, w.fingerprint \
             FROM series AS s CROSS JOIN series_window AS w ON w.series_id = s.series_id \
             WHERE s.series_id >= ?1 AND (w.series_id, w.start_ms) > (?1, ?2) \
             AND (?3 IS NULL OR s.width_ms = ?3) \
             AND (?4 IS NULL OR s.device_id IN (SELECT device_id FROM device WHERE site = ?4)) \
             ORDER BY s.series_id, w.start_ms LIMIT ?5",
        )
        .bind(after.series)
        .bind(after.start.0)
        .bind(width_ms.map(i64::from))
        .bind(site)
        .bind(limit)
        .fetch_all(&self.pool)
        .await?;
        let windows: Vec<_> = rows
            .iter()
            .map(|(series, start, count, print)| {
                (WindowKey { series: *series, start: EpochMs(*start) }, *count as u64, *print as u64)
            })
            .collect();
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
            return Ok(LedgerPage::default());
        };
        let named = sqlx::query(sqlx::AssertSqlSafe(format!("{SERIES} WHERE series_id BETWEEN ? AND ?")))
            .bind(first.0.series)
            .bind(last.0.series)
            .fetch_all(&self.pool)
            .await?;
        let named = named.iter().map(series_of).collect::<Result<Vec<_>, _>>()?;
        let used: std::collections::BTreeSet<i64> = windows.iter().map(|(key, _, _)| key.series).collect();
        let series = named.into_iter().filter(|s| used.contains(&s.id)).collect();
        Ok(LedgerPage { more: windows.len() == limit as usize, windows, series })
    }

    /// All shards that have ever been heard of.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn shards(&self) -> Result<Vec<ShardStatus>, StoreError> {
        type Counts = (String, i64, i64, i64, i64, i64, Option<i64>, i64, i64);
        let rows: Vec<Counts> = sqlx::query_as(
            "SELECT site, shard, cursor, edge_last, batches_applied, changed_ms, conflict_seq, \
             (SELECT count(*) FROM applied_batch AS b WHERE b.site = p.site AND b.shard = p.shard AND b.seq > p.cursor), \
             (SELECT CAST(total(last_seq - first_seq + 1) AS INTEGER) FROM hole AS h WHERE h.site = p.site AND h.shard = p.shard) \
             FROM (SELECT * FROM shard_progress ORDER BY site, shard) AS p",
        )
        .fetch_all(&self.pool)
        .await?;
        let status = |(site, shard, cursor, last, applied, changed, conflict, beyond, given_up): Counts| {
            let (cursor, last, beyond) = (cursor as u64, last as u64, beyond as u64);
            ShardStatus {
                site,
                shard: shard as u16,
                cursor,
                beyond,
                missing: last.saturating_sub(cursor).saturating_sub(beyond),
                given_up: given_up as u64,
                batches_applied: applied as u64,
                edge_last: last,
                changed: EpochMs(changed),
                conflict: conflict.map(|seq| seq as u64),
            }
        };
        Ok(rows.into_iter().map(status).collect())
    }
}

fn series_of(row: &SqliteRow) -> Result<SeriesInfo, StoreError> {
    Ok(SeriesInfo {
        id: row.try_get(0)?,
        site: row.try_get(1)?,
        device: row.try_get(2)?,
        stream: row.try_get(3)?,
        width_ms: row.try_get(4)?,
    })
}

/// The columns [`ROW`] from `base` on. Their types are not asked for, value by value: strict tables hold no others.
fn window_at(row: &SqliteRow, base: usize) -> Result<StoredWindow, sqlx::Error> {
    let whole = |at: usize| row.try_get_unchecked::<i64, _>(base + at);
    let real = |at: usize| {
        Ok::<_, sqlx::Error>(row.try_get_unchecked::<Option<f64>, _>(base + at)?.unwrap_or(f64::NAN))
    };
    let sample = |at: usize| {
        Ok::<_, sqlx::Error>(Sample {
            time: EpochMs(whole(at)?),
            slot: whole(at + 1)? as u64,
            index: whole(at + 2)? as u32,
            value: real(at + 3)?,
        })
    };
    Ok(StoredWindow {
        start: EpochMs(whole(0)?),
        aggregate: Aggregate {
            count: whole(1)? as u64,
            sum: real(2)?,
            sum_sq: real(3)?,
            min: real(4)?,
            max: real(5)?,
            first: sample(6)?,
            last: sample(10)?,
            fingerprint: whole(14)? as u64,
            sketch: None,
        },
        late: whole(15)? as u64,
        parts: whole(16)? as u64,
        watermark: EpochMs(whole(17)?),
    })
}
