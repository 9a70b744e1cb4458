//! Reading: what queries, the status page and the ledger want to know.

use super::super::find::{SERIES, series_info};
use super::super::pool::Pool;
use super::super::{LedgerPage, RowPage, ShardStatus, StoreError, WindowKey};
use super::link::{Link, Postgres, READ_MS};
use super::{At, LEDGER_ID, ROW, held, ledger_id, window_at};
use selvedge_node_core::stored::{SeriesInfo, StoredWindow};
use selvedge_shared::time::EpochMs;
use selvedge_shared::uplink::LedgerId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// The connections that read.
#[derive(Clone)]
pub struct Reader {
    pub(super) server: Arc<Postgres>,
    pool: Arc<Pool<Link>>,
    /// Whether the role that a person's SQL runs as was seen to.
    pub(super) sql_role: Arc<OnceCell<()>>,
}

pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

const NAMED: &str = "series AS s JOIN device AS d USING (device_id)";

impl Reader {
    pub(super) fn new(server: Arc<Postgres>) -> Self {
        Self { server, pool: Arc::default(), sql_role: Arc::default() }
    }

    /// All rows of a query. A connection that fails is not used again; one that lay idle may have been cut off meanwhile, so
    /// that a new one gets a second try.
    pub(super) async fn rows<T>(
        &self,
        sql: &str,
        parameters: Parameters<'_>,
        read: impl Fn(&Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let (_place, idle) = self.pool.take().await?;
        let asked = match idle {
            Some(mut link) => match ask(&mut link, sql, parameters).await {
                Err(StoreError::Postgres(why)) if why.0.is_closed() => None,
                asked => Some((link, asked?)),
            },
            None => None,
        };
        let (link, rows) = match asked {
            Some(asked) => asked,
            None => {
                let mut link = self.server.link_to_read().await?;
                let rows = ask(&mut link, sql, parameters).await?;
                (link, rows)
            }
        };
        self.pool.give_back(link);
        rows.iter().map(read).collect()
    }

    pub async fn ledger_id(&self) -> Result<LedgerId, StoreError> {
        let rows = self.rows(LEDGER_ID, &[], ledger_id).await?;
        rows.into_iter().next().ok_or(StoreError::NoLedger)
    }

    pub async fn series(
        &self,
        site: Option<&str>,
        device: Option<&str>,
        stream: Option<&str>,
        limit: u32,
    ) -> Result<Vec<SeriesInfo>, StoreError> {
        let (site, device, stream) = (site.map(held), device.map(held), stream.map(held));
        // Said apart, since an index serves no condition that may be left open.
        let device_is = if device.is_some() { "name = $1" } else { "$1::text IS NULL" };
        let sql = format!(
            "SELECT {SERIES} FROM {NAMED} WHERE {device_is} AND ($2::text IS NULL OR site = $2) AND ($3::text IS NULL OR stream = $3) \
             ORDER BY site, name, stream, width_ms LIMIT $4"
        );
        self.rows(&sql, &[&device, &site, &stream, &i64::from(limit)], series_info).await
    }

    pub async fn devices(
        &self,
        site: Option<&str>,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<SeriesInfo>, StoreError> {
        let (after_site, after_device) = after.unwrap_or_default();
        let (site, after_site, after_device) = (site.map(held), held(after_site), held(after_device));
        let sql = format!(
            "SELECT {SERIES} FROM \
             (SELECT * FROM device WHERE (site, name) > ($1, $2) AND ($3::text IS NULL OR site = $3) \
              ORDER BY site, name LIMIT $4) AS d \
             JOIN series AS s USING (device_id) ORDER BY d.site, d.name, s.stream, s.width_ms"
        );
        self.rows(&sql, &[&after_site, &after_device, &site, &i64::from(limit)], series_info).await
    }

    pub async fn windows(
        &self,
        series: i64,
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<RowPage, StoreError> {
        let sql = format!(
            "SELECT {ROW} FROM series_window AS w \
             WHERE series_id = $1 AND start >= $2 AND start < $3 ORDER BY start LIMIT $4"
        );
        let read = |row: &Row| {
            let row = window_at(row, 0)?;
            Ok((row.start, Some(row)))
        };
        let rows = self.rows(&sql, &[&series, &At(from), &At(to), &i64::from(limit)], read).await?;
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
            "WITH RECURSIVE place (start, n) AS ( \
             (SELECT start, 1::bigint FROM series_rollup WHERE span_ms = $1 AND start >= $3 ORDER BY start LIMIT 1) UNION ALL \
             SELECT (SELECT r.start FROM series_rollup AS r WHERE r.span_ms = $1 AND r.start > place.start ORDER BY r.start LIMIT 1), \
             n + 1 FROM place WHERE place.start < $4 AND n < $5) \
             SELECT place.start, w.series_id IS NOT NULL, {ROW} FROM place \
             LEFT JOIN series_rollup AS w ON w.span_ms = $1 AND w.start = place.start AND w.series_id = $2 \
             WHERE place.start < $4 ORDER BY place.start",
        );
        let read = |row: &Row| {
            let found: bool = row.try_get(1)?;
            Ok((row.try_get::<_, At>(0)?.0, if found { Some(window_at(row, 2)?) } else { None }))
        };
        let parameters: Parameters<'_> = &[&span_ms, &series, &At(from), &At(to), &i64::from(limit)];
        let rows = self.rows(&sql, parameters, read).await?;
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
            "SELECT w.series_id, {ROW} FROM series_rollup AS w \
             WHERE span_ms = $1 AND (start, series_id) > ($2, $3) AND start < $4 \
             AND ($5::text IS NULL OR series_id IN (SELECT series_id FROM series WHERE stream = $5)) \
             AND ($6::text IS NULL OR series_id IN (SELECT series_id FROM series JOIN device USING (device_id) WHERE site = $6)) \
             ORDER BY start, series_id LIMIT $7"
        );
        let (site, stream) = (site.map(held), stream.map(held));
        let parameters: Parameters<'_> =
            &[&span_ms, &At(after.start), &after.series, &At(to), &stream, &site, &i64::from(limit)];
        self.rows(&sql, parameters, |row| Ok((row.try_get(0)?, window_at(row, 1)?))).await
    }

    pub async fn ledger(
        &self,
        site: Option<&str>,
        width_ms: Option<u32>,
        after: WindowKey,
        limit: u32,
    ) -> Result<LedgerPage, StoreError> {
        let sql = "SELECT w.series_id, w.start, w.count, w.fingerprint FROM series_window AS w JOIN series AS s USING (series_id) \
             WHERE (w.series_id, w.start) > ($1, $2) AND ($3::bigint IS NULL OR s.width_ms = $3) \
             AND ($4::text IS NULL OR s.device_id IN (SELECT device_id FROM device WHERE site = $4)) \
             ORDER BY w.series_id, w.start LIMIT $5";
        let read = |row: &Row| {
            let key = WindowKey { series: row.try_get(0)?, start: row.try_get::<_, At>(1)?.0 };
            Ok((key, row.try_get::<_, i64>(2)? as u64, row.try_get::<_, i64>(3)? as u64))
        };
        let (site, width_ms) = (site.map(held), width_ms.map(i64::from));
        let parameters: Parameters<'_> =
            &[&after.series, &At(after.start), &width_ms, &site, &i64::from(limit)];
        let windows = self.rows(sql, parameters, read).await?;
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else {
            return Ok(LedgerPage::default());
        };
        let sql =
            format!("SELECT {SERIES} FROM {NAMED} WHERE series_id BETWEEN $1 AND $2 ORDER BY series_id");
        let between = self.rows(&sql, &[&first.0.series, &last.0.series], series_info).await?;
        Ok(LedgerPage::new(windows, between, limit))
    }

    pub async fn shards(&self) -> Result<Vec<ShardStatus>, StoreError> {
        let sql = "SELECT site, shard::bigint, cursor, edge_last, batches_applied, changed_ms, conflict_seq, \
             (SELECT count(*) FROM applied_batch AS b WHERE b.site = p.site AND b.shard = p.shard AND b.seq > p.cursor), \
             (SELECT coalesce(sum(last_seq - first_seq + 1), 0)::bigint FROM hole AS h WHERE h.site = p.site AND h.shard = p.shard) \
             FROM shard_progress AS p ORDER BY site, shard";
        let read = |row: &Row| {
            let whole = |at: usize| row.try_get::<_, i64>(at);
            let (first, second) = ((whole(1)?, whole(2)?, whole(3)?), (whole(4)?, whole(5)?));
            let rest = (row.try_get(6)?, whole(7)?, whole(8)?);
            let site = row.try_get(0)?;
            Ok((site, first.0, first.1, first.2, second.0, second.1, rest.0, rest.1, rest.2).into())
        };
        self.rows(sql, &[], read).await
    }
}

async fn ask(link: &mut Link, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, StoreError> {
    // The server ends what takes too long; a server that says nothing any more is left.
    let limit = Duration::from_millis(READ_MS + 5_000);
    let asking = async {
        let statement = link.statement(sql).await?;
        Ok(link.client.query(&statement, parameters).await?)
    };
    tokio::time::timeout(limit, asking).await.map_err(|_| StoreError::Silent)?
}
