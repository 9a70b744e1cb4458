//! What queries read of windows and roll-ups, how far shards have come, and the ledger.

use super::find::{SERIES, Seek, series_info};
use super::statement::{BoundValue, Columns, Dialect, Statement, ask};
use super::{LedgerPage, Reader, RowPage, ShardStatus, StoreError, WindowKey};
use selvedge_node_core::params::WantedStreams;
use selvedge_node_core::stored::{SeriesInfo, StoredWindow};
use selvedge_types::pattern::Pattern;
use selvedge_types::time::EpochMs;

const NAMED: &str = "series AS s JOIN device AS d USING (device_id)";

impl Reader {
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
        let [site, device, stream] = [site, device, stream].map(|name| name.map(Pattern::exactly));
        let seek = Seek { sites: None, wanted: WantedStreams { site, device, stream, search: None } };
        self.find(&seek, limit).await
    }

    /// Series in order of (site, device, stream, width) of the devices after the one given, at most `limit` devices.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices(
        &self,
        site: Option<&str>,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<SeriesInfo>, StoreError> {
        ask!(self, |dialect| devices(dialect, site, after.unwrap_or_default(), limit), series_info)
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
        let found = ask!(self, |dialect| windows(dialect, series, from, to, limit), window)?;
        Ok(RowPage::new(found, limit))
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
        let found = ask!(self, |dialect| rollups(dialect, series, span_ms, from, to, limit), rollup_if_any)?;
        Ok(RowPage::new(found, limit))
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
        let statement = |dialect| rollups_of_all(dialect, span_ms, after, to, [site, stream], limit);
        ask!(self, statement, rollup_of)
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
        let windows = ask!(self, |dialect| ledger(dialect, site, width_ms, after, limit), ledger_line)?;
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
            return Ok(LedgerPage::default());
        };
        let (first, last) = (first.0.series, last.0.series);
        let between = ask!(self, |dialect| series_between(dialect, first, last), series_info)?;
        Ok(LedgerPage::new(windows, between, limit))
    }

    /// All shards that have ever been heard of, by site and number.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn shards(&self) -> Result<Vec<ShardStatus>, StoreError> {
        ask!(self, shards, shard_status)
    }
}

fn window<C: Columns>(row: &C) -> Result<(EpochMs, Option<StoredWindow>), C::Error> {
    let window = row.window(0)?;
    Ok((window.start, Some(window)))
}

/// A start, and what begins there, if it is of the series asked for.
fn rollup_if_any<C: Columns>(row: &C) -> Result<(EpochMs, Option<StoredWindow>), C::Error> {
    let found = row.start_if_any(1)?.map(|_| row.window(1)).transpose()?;
    Ok((row.start(0)?, found))
}

fn rollup_of<C: Columns>(row: &C) -> Result<(i64, StoredWindow), C::Error> {
    Ok((row.whole(0)?, row.window(1)?))
}

fn ledger_line<C: Columns>(row: &C) -> Result<(WindowKey, u64, u64), C::Error> {
    let key = WindowKey { series: row.whole(0)?, start: row.start(1)? };
    Ok((key, row.whole(2)? as u64, row.whole(3)? as u64))
}

fn shard_status<C: Columns>(row: &C) -> Result<ShardStatus, C::Error> {
    let (cursor, last, beyond) = (row.whole(2)? as u64, row.whole(3)? as u64, row.whole(7)? as u64);
    Ok(ShardStatus {
        site: row.text(0)?,
        shard: row.whole(1)? as u16,
        cursor,
        beyond,
        missing: last.saturating_sub(cursor).saturating_sub(beyond),
        given_up: row.whole(8)? as u64,
        batches_applied: row.whole(4)? as u64,
        edge_last: last,
        changed: EpochMs(row.whole(5)?),
        conflict: row.whole_if_any(6)?.map(|seq| seq as u64),
    })
}

fn devices(dialect: Dialect, site: Option<&str>, after: (&str, &str), limit: u32) -> Statement {
    let text = format!("SELECT {SERIES} FROM (SELECT * FROM device WHERE (site, name) > (");
    let mut all = Statement::new(dialect, &text);
    all.words(after.0).push(", ").words(after.1).push(")");
    if let Some(site) = site {
        all.push(" AND site = ").words(site);
    }
    all.push(" ORDER BY site, name").limit(limit);
    all.push(") AS d JOIN series AS s USING (device_id) ORDER BY d.site, d.name, s.stream, s.width_ms");
    all
}

fn windows(dialect: Dialect, series: i64, from: EpochMs, to: EpochMs, limit: u32) -> Statement {
    let (start, row) = (dialect.start(), dialect.row());
    let mut all =
        Statement::new(dialect, &format!("SELECT {row} FROM series_window AS w WHERE series_id = "));
    all.whole(series).push(&format!(" AND {start} >= ")).start(from);
    all.push(&format!(" AND {start} < ")).start(to).push(&format!(" ORDER BY {start}")).limit(limit);
    all
}

/// From one start to the next that is there, whatever lies between them.
fn rollups(dialect: Dialect, series: i64, span_ms: i64, from: EpochMs, to: EpochMs, limit: u32) -> Statement {
    let (start, row) = (dialect.start(), dialect.row());
    let places = match dialect {
        Dialect::Sqlite => {
            "place (start_ms) AS ( \
             SELECT min(start_ms) FROM series_rollup WHERE span_ms = ?1 AND start_ms >= ?3 UNION ALL \
             SELECT (SELECT min(r.start_ms) FROM series_rollup AS r \
             WHERE r.span_ms = ?1 AND r.start_ms > place.start_ms) \
             FROM place WHERE place.start_ms < ?4 LIMIT ?5)"
        }
        Dialect::Postgres => {
            "place (start, n) AS ( \
             (SELECT start, 1::bigint FROM series_rollup WHERE span_ms = ?1 AND start >= ?3 \
             ORDER BY start LIMIT 1) UNION ALL \
             SELECT (SELECT r.start FROM series_rollup AS r WHERE r.span_ms = ?1 AND r.start > place.start \
             ORDER BY r.start LIMIT 1), \
             n + 1 FROM place WHERE place.start < ?4 AND n < ?5)"
        }
    };
    let text = format!(
        "WITH RECURSIVE {places} SELECT place.{start}, {row} FROM place \
         LEFT JOIN series_rollup AS w ON w.span_ms = ?1 AND w.{start} = place.{start} AND w.series_id = ?2 \
         WHERE place.{start} < ?4 ORDER BY place.{start}"
    );
    let values = [
        BoundValue::Whole(span_ms),
        BoundValue::Whole(series),
        BoundValue::Start(from),
        BoundValue::Start(to),
    ];
    Statement::written(dialect, &text, values.into_iter().chain([BoundValue::Whole(limit.into())]).collect())
}

/// `of`: the site and the stream.
fn rollups_of_all(
    dialect: Dialect,
    span_ms: i64,
    after: WindowKey,
    to: EpochMs,
    of: [Option<&str>; 2],
    limit: u32,
) -> Statement {
    let (start, row) = (dialect.start(), dialect.row());
    let text = format!(
        "SELECT w.series_id, {row} FROM series_rollup AS w \
         WHERE span_ms = ?1 AND ({start}, series_id) > (?2, ?3) AND {start} < ?4 \
         AND (CAST(?5 AS text) IS NULL OR series_id IN (SELECT series_id FROM series WHERE stream = ?5)) \
         AND (CAST(?6 AS text) IS NULL OR series_id IN \
         (SELECT series_id FROM series JOIN device USING (device_id) WHERE site = ?6)) \
         ORDER BY {start}, series_id LIMIT ?7"
    );
    let [site, stream] = of.map(|name| BoundValue::TextIfAny(name.map(str::to_string)));
    let after = [BoundValue::Start(after.start), BoundValue::Whole(after.series)];
    let values =
        [BoundValue::Whole(span_ms)].into_iter().chain(after).chain([BoundValue::Start(to), stream, site]);
    Statement::written(dialect, &text, values.chain([BoundValue::Whole(limit.into())]).collect())
}

fn ledger(
    dialect: Dialect,
    site: Option<&str>,
    width_ms: Option<u32>,
    after: WindowKey,
    limit: u32,
) -> Statement {
    let start = dialect.start();
    // The table by whose row number the rows come in order, and so need no sorting.
    let (first, tables) = match dialect {
        // CROSS JOIN keeps the order of the loops: series by row number, each one's windows by start.
        Dialect::Sqlite => (
            "s",
            "series AS s CROSS JOIN series_window AS w ON w.series_id = s.series_id WHERE s.series_id >= ?1 AND",
        ),
        Dialect::Postgres => ("w", "series_window AS w JOIN series AS s USING (series_id) WHERE"),
    };
    let text = format!(
        "SELECT {first}.series_id, w.{start}, w.count, w.fingerprint \
         FROM {tables} (w.series_id, w.{start}) > (?1, ?2) \
         AND (CAST(?3 AS bigint) IS NULL OR s.width_ms = ?3) \
         AND (CAST(?4 AS text) IS NULL OR s.device_id IN (SELECT device_id FROM device WHERE site = ?4)) \
         ORDER BY {first}.series_id, w.{start} LIMIT ?5"
    );
    let values = vec![
        BoundValue::Whole(after.series),
        BoundValue::Start(after.start),
        BoundValue::WholeIfAny(width_ms.map(i64::from)),
        BoundValue::TextIfAny(site.map(str::to_string)),
        BoundValue::Whole(limit.into()),
    ];
    Statement::written(dialect, &text, values)
}

fn series_between(dialect: Dialect, first: i64, last: i64) -> Statement {
    let text = format!("SELECT {SERIES} FROM {NAMED} WHERE series_id BETWEEN ");
    let mut all = Statement::new(dialect, &text);
    all.whole(first).push(" AND ").whole(last).push(" ORDER BY series_id");
    all
}

fn shards(dialect: Dialect) -> Statement {
    // So many numbers may be given up that SQLite's sum of whole numbers would fail.
    let (given_up, shards) = match dialect {
        Dialect::Sqlite => (
            "CAST(total(last_seq - first_seq + 1) AS INTEGER)",
            "(SELECT * FROM shard_progress ORDER BY site, shard) AS p",
        ),
        Dialect::Postgres => {
            ("coalesce(sum(last_seq - first_seq + 1), 0)::bigint", "shard_progress AS p ORDER BY site, shard")
        }
    };
    let text = format!(
        "SELECT site, CAST(shard AS bigint), cursor, edge_last, batches_applied, changed_ms, conflict_seq, \
         (SELECT count(*) FROM applied_batch AS b \
         WHERE b.site = p.site AND b.shard = p.shard AND b.seq > p.cursor), \
         (SELECT {given_up} FROM hole AS h WHERE h.site = p.site AND h.shard = p.shard) FROM {shards}"
    );
    Statement::new(dialect, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_of_the_ledger_does_not_sort_everything() {
        let folder = tempfile::tempdir().unwrap();
        let _open = crate::store::open(&crate::store::Database::sqlite(folder.path())).await.unwrap();
        let db = rusqlite::Connection::open(folder.path().join("selvedge.db")).unwrap();
        let page = ledger(Dialect::Sqlite, None, None, WindowKey { series: 0, start: EpochMs(0) }, 9);
        let mut query = db.prepare(&format!("EXPLAIN QUERY PLAN {}", page.text)).unwrap();
        let steps = query.query_map(rusqlite::params_from_iter(&page.values), |row| row.get::<_, String>(3));
        let steps: Vec<String> = steps.unwrap().map(Result::unwrap).collect();
        assert!(!steps.is_empty() && !steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:?}");
    }
}
