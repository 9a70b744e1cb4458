//! Reading: what queries, the status page and the ledger want to know.

use super::super::find::{SERIES, series_info};
use super::super::pool::Pool;
use super::super::{LedgerPage, RowPage, ShardStatus, StoreError, WindowKey};
use super::{File, ROW, blocking, ledger_id, open_to_read, window_at};
use rusqlite::{Connection, Row, ToSql, params};
use selvedge_node_core::stored::{SeriesInfo, StoredWindow};
use selvedge_shared::time::EpochMs;
use selvedge_shared::uplink::LedgerId;
use std::sync::Arc;

/// The connections that read.
#[derive(Clone)]
pub struct Reader {
    pub(super) file: File,
    pool: Arc<Pool<Connection>>,
}

const NAMED: &str = "series AS s JOIN device AS d USING (device_id)";

impl Reader {
    pub(super) fn new(file: File) -> Self {
        Self { file, pool: Arc::default() }
    }

    /// Asks over one of the connections. One that fails is not used again.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (place, db) = self.pool.take().await?;
        let (file, pool) = (self.file.clone(), self.pool.clone());
        blocking(move || {
            let db = db.map_or_else(|| open_to_read(&file), Ok)?;
            let answer = ask(&db)?;
            pool.give_back(db);
            drop(place);
            Ok(answer)
        })
        .await
    }

    /// All rows of a query.
    pub(super) async fn rows<T: Send + 'static>(
        &self,
        sql: String,
        parameters: Vec<Box<dyn ToSql + Send>>,
        read: impl Fn(&Row<'_>) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<Vec<T>, StoreError> {
        self.ask(move |db| {
            let mut query = db.prepare_cached(&sql)?;
            let parameters = parameters.iter().map(|one| one.as_ref() as &dyn ToSql);
            query.query_map(rusqlite::params_from_iter(parameters), |row| read(row))?.collect()
        })
        .await
    }

    pub async fn ledger_id(&self) -> Result<LedgerId, StoreError> {
        self.ask(ledger_id).await
    }

    pub async fn series(
        &self,
        site: Option<&str>,
        device: Option<&str>,
        stream: Option<&str>,
        limit: u32,
    ) -> Result<Vec<SeriesInfo>, StoreError> {
        // Said apart, since an index serves no condition that may be left open.
        let device_is = if device.is_some() { "name = ?1" } else { "?1 IS NULL" };
        let sql = format!(
            "SELECT {SERIES} FROM {NAMED} WHERE {device_is} AND (?2 IS NULL OR site = ?2) AND (?3 IS NULL OR stream = ?3) \
             ORDER BY site, name, stream, width_ms LIMIT ?4"
        );
        self.rows(sql, vec![text(device), text(site), text(stream), Box::new(limit)], |row| series_info(row))
            .await
    }

    pub async fn devices(
        &self,
        site: Option<&str>,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<SeriesInfo>, StoreError> {
        let (after_site, after_device) = after.unwrap_or_default();
        let sql = format!(
            "SELECT {SERIES} FROM \
             (SELECT * FROM device WHERE (site, name) > (?1, ?2) AND (?3 IS NULL OR site = ?3) \
              ORDER BY site, name LIMIT ?4) AS d \
             JOIN series AS s USING (device_id) ORDER BY d.site, d.name, s.stream, s.width_ms"
        );
        let parameters: Vec<Box<dyn ToSql + Send>> =
            vec![text(Some(after_site)), text(Some(after_device)), text(site), Box::new(limit)];
        self.rows(sql, parameters, |row| series_info(row)).await
    }

    pub async fn windows(
        &self,
        series: i64,
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<RowPage, StoreError> {
        let rows = self
            .ask(move |db| {
                let mut query = db.prepare_cached(&format!(
                    "SELECT {ROW} FROM series_window AS w \
                     WHERE series_id = ? AND start_ms >= ? AND start_ms < ? ORDER BY start_ms LIMIT ?"
                ))?;
                let rows = query.query_map(params![series, from.0, to.0, limit], |row| {
                    let row = window_at(row, 0)?;
                    Ok((row.start, Some(row)))
                })?;
                rows.collect()
            })
            .await?;
        Ok(RowPage::new(rows, limit))
    }

    pub async fn rollups(
        &self,
        series: i64,
        span_ms: i64,
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<RowPage, StoreError> {
        // From one start to the next that is there, whatever lies between them.
        let sql = format!(
            "WITH RECURSIVE place (start_ms) AS ( \
             SELECT min(start_ms) FROM series_rollup WHERE span_ms = ?1 AND start_ms >= ?3 UNION ALL \
             SELECT (SELECT min(r.start_ms) FROM series_rollup AS r WHERE r.span_ms = ?1 AND r.start_ms > place.start_ms) \
             FROM place WHERE place.start_ms < ?4 LIMIT ?5) \
             SELECT place.start_ms, {ROW} FROM place \
             LEFT JOIN series_rollup AS w ON w.span_ms = ?1 AND w.start_ms = place.start_ms AND w.series_id = ?2 \
             WHERE place.start_ms < ?4 ORDER BY place.start_ms",
        );
        let rows = self
            .ask(move |db| {
                let mut query = db.prepare_cached(&sql)?;
                let rows = query.query_map(params![span_ms, series, from.0, to.0, limit], |row| {
                    let found = row.get::<_, Option<i64>>(1)?.is_some();
                    Ok((EpochMs(row.get(0)?), if found { Some(window_at(row, 1)?) } else { None }))
                })?;
                rows.collect()
            })
            .await?;
        Ok(RowPage::new(rows, limit))
    }

    pub async fn rollups_of_all(
        &self,
        span_ms: i64,
        after: WindowKey,
        to: EpochMs,
        site: Option<&str>,
        stream: Option<&str>,
        limit: u32,
    ) -> Result<Vec<(i64, StoredWindow)>, StoreError> {
        let sql = format!(
            "SELECT series_id, {ROW} FROM series_rollup AS w \
             WHERE span_ms = ?1 AND (start_ms, series_id) > (?2, ?3) AND start_ms < ?4 \
             AND (?5 IS NULL OR series_id IN (SELECT series_id FROM series WHERE stream = ?5)) \
             AND (?6 IS NULL OR series_id IN (SELECT series_id FROM series JOIN device USING (device_id) WHERE site = ?6)) \
             ORDER BY start_ms, series_id LIMIT ?7"
        );
        let parameters: Vec<Box<dyn ToSql + Send>> = vec![
            Box::new(span_ms),
            Box::new(after.start.0),
            Box::new(after.series),
            Box::new(to.0),
            text(stream),
            text(site),
            Box::new(limit),
        ];
        self.rows(sql, parameters, |row| Ok((row.get(0)?, window_at(row, 1)?))).await
    }

    pub async fn ledger(
        &self,
        site: Option<&str>,
        width_ms: Option<u32>,
        after: WindowKey,
        limit: u32,
    ) -> Result<LedgerPage, StoreError> {
        let parameters: Vec<Box<dyn ToSql + Send>> = vec![
            Box::new(after.series),
            Box::new(after.start.0),
            Box::new(width_ms),
            text(site),
            Box::new(limit),
        ];
        let read = |row: &Row<'_>| {
            let key = WindowKey { series: row.get(0)?, start: EpochMs(row.get(1)?) };
            Ok((key, row.get::<_, i64>(2)? as u64, row.get::<_, i64>(3)? as u64))
        };
        let windows = self.rows(LEDGER.to_string(), parameters, read).await?;
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
            return Ok(LedgerPage::default());
        };
        let sql = format!("SELECT {SERIES} FROM {NAMED} WHERE series_id BETWEEN ? AND ? ORDER BY series_id");
        let between = vec![Box::new(first.0.series) as _, Box::new(last.0.series) as _];
        let between = self.rows(sql, between, |row| series_info(row)).await?;
        Ok(LedgerPage::new(windows, between, limit))
    }

    pub async fn shards(&self) -> Result<Vec<ShardStatus>, StoreError> {
        let sql = "SELECT site, shard, cursor, edge_last, batches_applied, changed_ms, conflict_seq, \
             (SELECT count(*) FROM applied_batch AS b WHERE b.site = p.site AND b.shard = p.shard AND b.seq > p.cursor), \
             (SELECT CAST(total(last_seq - first_seq + 1) AS INTEGER) FROM hole AS h WHERE h.site = p.site AND h.shard = p.shard) \
             FROM (SELECT * FROM shard_progress ORDER BY site, shard) AS p";
        let read = |row: &Row<'_>| <(_, _, _, _, _, _, _, _, _)>::try_from(row).map(ShardStatus::from);
        self.rows(sql.to_string(), vec![], read).await
    }
}

/// CROSS JOIN keeps the order of the loops: series by row number, each one's windows by start.
const LEDGER: &str = "SELECT s.series_id, w.start_ms, w.count, w.fingerprint \
     FROM series AS s CROSS JOIN series_window AS w ON w.series_id = s.series_id \
     WHERE s.series_id >= ?1 AND (w.series_id, w.start_ms) > (?1, ?2) \
     AND (?3 IS NULL OR s.width_ms = ?3) \
     AND (?4 IS NULL OR s.device_id IN (SELECT device_id FROM device WHERE site = ?4)) \
     ORDER BY s.series_id, w.start_ms LIMIT ?5";

fn text(text: Option<&str>) -> Box<dyn ToSql + Send> {
    Box::new(text.map(str::to_string))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_of_the_ledger_does_not_sort_everything() {
        let folder = tempfile::tempdir().unwrap();
        let (_writer, reader) = super::super::open(folder.path()).await.unwrap();
        let plan = format!("EXPLAIN QUERY PLAN {}", LEDGER.replace('?', "1+"));
        let steps = reader.rows(plan, vec![], |row| row.get::<_, String>(3)).await.unwrap();
        assert!(!steps.is_empty() && !steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:?}");
    }
}
