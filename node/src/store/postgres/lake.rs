//! What exports to a lake read, and their table.

use super::super::StoreError;
use super::super::day::{Claim, DayState, Written};
use super::link::{Postgres, PostgresConnection, WRITE_MS};
use super::read::PostgresReader;
use super::{At, ROW, window_at};
use selvedge_node_core::rollup::{DAY_MS, is_kept};
use selvedge_node_core::stored::StoredWindow;
use selvedge_types::time::EpochMs;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// The series of a site ($1) and a width ($2).
const SERIES: &str =
    "SELECT series_id FROM series JOIN device USING (device_id) WHERE site = $1 AND width_ms = $2";

impl PostgresReader {
    pub async fn widths(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = "SELECT DISTINCT site, width_ms FROM series JOIN device USING (device_id) ORDER BY site, width_ms";
        self.rows(sql, &[], |row| Ok((row.try_get(0)?, row.try_get(1)?))).await
    }

    pub async fn days(
        &self,
        site: &str,
        width_ms: i64,
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<Vec<(EpochMs, DayState)>, StoreError> {
        let sql = match is_kept(DAY_MS, width_ms) {
            true => format!(
                "SELECT start, (sum(revision) + sum((timestamptz 'epoch' + passed_ms * interval '1 millisecond' >= start + {DAY_MS} * interval '1 millisecond')::int + 2 * set_back))::bigint, min(passed_ms) \
                 FROM series_rollup JOIN series USING (series_id) WHERE span_ms = {DAY_MS} AND start >= $3 AND start < $4 AND series_id IN ({SERIES}) \
                 GROUP BY start ORDER BY start LIMIT $5"
            ),
            // There is no roll-up of them.
            false => format!(
                "SELECT date_trunc('day', start, 'UTC') AS day, \
                 (sum(revision) + sum((timestamptz 'epoch' + passed_ms * interval '1 millisecond' >= start + {width_ms} * interval '1 millisecond')::int + 2 * set_back))::bigint, min(passed_ms) \
                 FROM series_window JOIN series USING (series_id) WHERE series_id IN ({SERIES}) AND start >= $3 AND start < $4 GROUP BY day ORDER BY day LIMIT $5"
            ),
        };
        let read = |row: &Row| {
            let passed = row.try_get::<_, Option<i64>>(2)?.map(EpochMs);
            Ok((row.try_get::<_, At>(0)?.0, DayState { revisions: row.try_get(1)?, passed }))
        };
        self.rows(&sql, &[&site, &width_ms, &At(from), &At(to), &i64::from(limit)], read).await
    }

    pub async fn windows_of(
        &self,
        series: &[i64],
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<Vec<(i64, StoredWindow)>, StoreError> {
        let sql = format!(
            "SELECT w.series_id, {ROW} FROM series_window AS w \
             WHERE series_id = ANY ($1) AND start >= $2 AND start < $3 ORDER BY series_id, start LIMIT $4"
        );
        let read = |row: &Row| Ok((row.try_get(0)?, window_at(row, 1)?));
        self.rows(&sql, &[&series, &At(from), &At(to), &i64::from(limit)], read).await
    }
}

/// The table, over a connection for each call: there are few.
#[derive(Clone)]
pub struct PostgresExports(Arc<Postgres>);

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl PostgresExports {
    pub fn new(server: &Postgres) -> Self {
        Self(Arc::new(server.clone()))
    }

    /// The server ends what takes too long; one that says nothing any more is left.
    async fn within<T>(
        &self,
        work: impl AsyncFnOnce(PostgresConnection) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, StoreError> {
        let limit = Duration::from_millis(WRITE_MS + 5_000);
        let work = async { Ok(work(self.0.link_to_write().await?).await?) };
        tokio::time::timeout(limit, work).await.map_err(|_| StoreError::Silent)?
    }

    async fn changes(&self, sql: &str, parameters: Parameters<'_>) -> Result<bool, StoreError> {
        let changed = self.within(async |link| link.client.execute(sql, parameters).await).await?;
        Ok(changed > 0)
    }

    pub async fn written(
        &self,
        target: &str,
        site: &str,
        width_ms: i64,
    ) -> Result<Vec<(EpochMs, Written)>, StoreError> {
        let sql = "SELECT day_ms, revisions, windows, bytes, exported_ms FROM lake_export \
             WHERE target = $1 AND site = $2 AND width_ms = $3 AND revisions IS NOT NULL ORDER BY day_ms";
        let rows =
            self.within(async |link| link.client.query(sql, &[&target, &site, &width_ms]).await).await?;
        let read = |row: &Row| Ok((row.try_get::<_, i64>(0)?, written_at(row)?));
        let rows: Vec<_> = rows.iter().map(read).collect::<Result<_, StoreError>>()?;
        Ok(rows.into_iter().filter_map(|(day, written)| Some((EpochMs(day), written?))).collect())
    }

    pub async fn claim(
        &self,
        claim: &Claim,
        now: EpochMs,
        until: EpochMs,
    ) -> Result<Option<Option<Written>>, StoreError> {
        let Claim { target, key, owner } = claim;
        let sql = "INSERT INTO lake_export AS e (target, site, width_ms, day_ms, owner, lease_until_ms) \
             VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (target, site, width_ms, day_ms) DO UPDATE SET owner = $5, lease_until_ms = $6 \
             WHERE e.owner = $5 OR e.lease_until_ms < $7 RETURNING day_ms, revisions, windows, bytes, exported_ms";
        let parameters: Parameters<'_> =
            &[target, &key.site, &key.width_ms, &key.day.0, owner, &until.0, &now.0];
        let row = self.within(async |link| link.client.query_opt(sql, parameters).await).await?;
        row.as_ref().map(written_at).transpose()
    }

    pub async fn finish(&self, claim: &Claim, written: Option<Written>) -> Result<bool, StoreError> {
        let Claim { target, key, owner } = claim;
        let of = "WHERE target = $1 AND site = $2 AND width_ms = $3 AND day_ms = $4 AND owner = $5";
        let key: Parameters<'_> = &[target, &key.site, &key.width_ms, &key.day.0, owner];
        let Some(written) = written else {
            return self.changes(&format!("UPDATE lake_export SET lease_until_ms = 0 {of}"), key).await;
        };
        let sql = format!(
            "UPDATE lake_export SET revisions = $6, windows = $7, bytes = $8, exported_ms = $9, lease_until_ms = 0 {of}"
        );
        let values: Parameters<'_> = &[&written.revisions, &written.windows, &written.bytes, &written.at.0];
        self.changes(&sql, &[key, values].concat()).await
    }
}

/// The columns revisions, windows, bytes and exported_ms, from the second on; nothing of a day that was never written.
fn written_at(row: &Row) -> Result<Option<Written>, StoreError> {
    let Some(revisions) = row.try_get(1)? else { return Ok(None) };
    let (windows, bytes) = (row.try_get(2)?, row.try_get(3)?);
    Ok(Some(Written { revisions, windows, bytes, at: EpochMs(row.try_get(4)?) }))
}
