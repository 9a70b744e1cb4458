//! What exports to a lake read, and their table.

use super::super::StoreError;
use super::super::day::{Claim, DayState, Written};
use super::read::SqliteReader;
use super::{File, ROW, blocking, open_to_write, window_at};
use rusqlite::{Connection, OptionalExtension, Row, params};
use selvedge_node_core::rollup::{DAY_MS, is_kept};
use selvedge_node_core::stored::StoredWindow;
use selvedge_types::time::EpochMs;
use std::path::Path;

/// The series of a site (?1) and a width (?2).
const SERIES: &str =
    "SELECT series_id FROM series JOIN device USING (device_id) WHERE site = ?1 AND width_ms = ?2";

impl SqliteReader {
    pub async fn widths(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = "SELECT DISTINCT site, width_ms FROM series JOIN device USING (device_id) ORDER BY site, width_ms";
        self.rows(sql.to_string(), vec![], |row| Ok((row.get(0)?, row.get(1)?))).await
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
                "SELECT start_ms, sum(revision) + sum((passed_ms >= start_ms + {DAY_MS}) + 2 * set_back), min(passed_ms) \
                 FROM series_rollup JOIN series USING (series_id) \
                 WHERE span_ms = {DAY_MS} AND start_ms >= ?3 AND start_ms < ?4 AND series_id IN ({SERIES}) \
                 GROUP BY start_ms ORDER BY start_ms LIMIT ?5"
            ),
            // There is no roll-up of them.
            false => format!(
                "SELECT start_ms - (start_ms % {DAY_MS} + {DAY_MS}) % {DAY_MS} AS day, \
                 sum(revision) + sum((passed_ms >= start_ms + {width_ms}) + 2 * set_back), min(passed_ms) \
                 FROM series_window JOIN series USING (series_id) \
                 WHERE series_id IN ({SERIES}) AND start_ms >= ?3 AND start_ms < ?4 GROUP BY day ORDER BY day LIMIT ?5"
            ),
        };
        let parameters: Vec<Box<dyn rusqlite::ToSql + Send>> = vec![
            Box::new(site.to_string()),
            Box::new(width_ms),
            Box::new(from.0),
            Box::new(to.0),
            Box::new(limit),
        ];
        let read = |row: &Row<'_>| {
            let passed = row.get::<_, Option<i64>>(2)?.map(EpochMs);
            Ok((EpochMs(row.get(0)?), DayState { revisions: row.get(1)?, passed }))
        };
        self.rows(sql, parameters, read).await
    }

    pub async fn windows_of(
        &self,
        series: &[i64],
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<Vec<(i64, StoredWindow)>, StoreError> {
        let series: Vec<_> = series.iter().map(i64::to_string).collect();
        let sql = format!(
            "SELECT series_id, {ROW} FROM series_window AS w \
             WHERE series_id IN (SELECT value FROM json_each(?1)) AND start_ms >= ?2 AND start_ms < ?3 \
             ORDER BY series_id, start_ms LIMIT ?4"
        );
        let parameters: Vec<Box<dyn rusqlite::ToSql + Send>> = vec![
            Box::new(format!("[{}]", series.join(","))),
            Box::new(from.0),
            Box::new(to.0),
            Box::new(limit),
        ];
        self.rows(sql, parameters, |row| Ok((row.get(0)?, window_at(row, 1)?))).await
    }
}

/// The table, over a connection for each call: there are few.
#[derive(Clone)]
pub struct SqliteExports(File);

impl SqliteExports {
    pub fn new(folder: &Path) -> Self {
        Self(super::file(folder))
    }

    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = self.0.clone();
        blocking(move || Ok(ask(&open_to_write(&file)?)?)).await
    }

    pub async fn written(
        &self,
        target: &str,
        site: &str,
        width_ms: i64,
    ) -> Result<Vec<(EpochMs, Written)>, StoreError> {
        let (target, site) = (target.to_string(), site.to_string());
        self.ask(move |db| {
            let mut query = db.prepare(
                "SELECT day_ms, revisions, windows, bytes, exported_ms FROM lake_export \
                 WHERE target = ? AND site = ? AND width_ms = ? AND revisions IS NOT NULL ORDER BY day_ms",
            )?;
            let read = |row: &Row<'_>| Ok((EpochMs(row.get(0)?), written_at(row)?));
            let rows: Vec<_> =
                query.query_map(params![target, site, width_ms], read)?.collect::<Result<_, _>>()?;
            Ok(rows.into_iter().filter_map(|(day, written)| Some((day, written?))).collect())
        })
        .await
    }

    pub async fn claim(
        &self,
        claim: &Claim,
        now: EpochMs,
        until: EpochMs,
    ) -> Result<Option<Option<Written>>, StoreError> {
        let Claim { target, key, owner } = claim.clone();
        self.ask(move |db| {
            db.query_row(
                "INSERT INTO lake_export (target, site, width_ms, day_ms, owner, lease_until_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                 ON CONFLICT (target, site, width_ms, day_ms) DO UPDATE SET owner = ?5, lease_until_ms = ?6 \
                 WHERE owner = ?5 OR lease_until_ms < ?7 RETURNING day_ms, revisions, windows, bytes, exported_ms",
                params![target, key.site, key.width_ms, key.day.0, owner, until.0, now.0],
                written_at,
            )
            .optional()
        })
        .await
    }

    pub async fn finish(&self, claim: &Claim, written: Option<Written>) -> Result<bool, StoreError> {
        let Claim { target, key, owner } = claim.clone();
        self.ask(move |db| {
            let of = "WHERE target = ?1 AND site = ?2 AND width_ms = ?3 AND day_ms = ?4 AND owner = ?5";
            let changed = match written {
                Some(Written { revisions, windows, bytes, at }) => db.execute(
                    &format!(
                        "UPDATE lake_export SET revisions = ?6, windows = ?7, bytes = ?8, exported_ms = ?9, lease_until_ms = 0 {of}"
                    ),
                    params![target, key.site, key.width_ms, key.day.0, owner, revisions, windows, bytes, at.0],
                )?,
                None => db.execute(
                    &format!("UPDATE lake_export SET lease_until_ms = 0 {of}"),
                    params![target, key.site, key.width_ms, key.day.0, owner],
                )?,
            };
            Ok(changed > 0)
        })
        .await
    }
}

/// The columns revisions, windows, bytes and exported_ms, from the second on; nothing of a day that was never written.
fn written_at(row: &Row<'_>) -> Result<Option<Written>, rusqlite::Error> {
    let Some(revisions) = row.get(1)? else { return Ok(None) };
    Ok(Some(Written { revisions, windows: row.get(2)?, bytes: row.get(3)?, at: EpochMs(row.get(4)?) }))
}
