//! The tables, and how they come to be: one list of numbered steps, each applied once in its transaction.
//!
//! For users of SQL the views are the ones to read: `window_aggregate` has a row for each window of each stream,
//! `rollup_aggregate` one for each hour and each day of each stream.
//!
//! Roll-ups lie in order of time, unlike windows: what all devices of a fleet send now goes into the same few pages, and
//! an hour of the fleet is read in one piece. For one device an hour is a search in the tree.

use super::StoreError;
use super::write::MERGE;
use sqlx::{Connection, SqliteConnection};

/// The steps; a step is never changed once it was released, only followed by another. `{MERGE}` stands for the clause
/// by which a row takes in another of its key.
const STEPS: &[&str] = &[
    r"
CREATE TABLE device (
    device_id     INTEGER PRIMARY KEY,
    site          TEXT NOT NULL,
    name          TEXT NOT NULL,
    first_seen_ms INTEGER NOT NULL,
    UNIQUE (site, name)
) STRICT;

CREATE TABLE series (
    series_id INTEGER PRIMARY KEY,
    device_id INTEGER NOT NULL REFERENCES device,
    stream    TEXT NOT NULL,
    width_ms  INTEGER NOT NULL,
    UNIQUE (device_id, stream, width_ms)
) STRICT;

CREATE TABLE series_window (
    series_id    INTEGER NOT NULL REFERENCES series,
    start_ms     INTEGER NOT NULL,
    count        INTEGER NOT NULL,
    sum          REAL,
    sum_sq       REAL,
    min          REAL,
    max          REAL,
    first_ms     INTEGER NOT NULL,
    first_slot   INTEGER NOT NULL,
    first_index  INTEGER NOT NULL,
    first_value  REAL,
    last_ms      INTEGER NOT NULL,
    last_slot    INTEGER NOT NULL,
    last_index   INTEGER NOT NULL,
    last_value   REAL,
    fingerprint  INTEGER NOT NULL,
    late_count   INTEGER NOT NULL,
    parts        INTEGER NOT NULL,
    watermark_ms INTEGER NOT NULL,
    PRIMARY KEY (series_id, start_ms)
) STRICT, WITHOUT ROWID;

CREATE VIEW window_aggregate AS
SELECT device.site, device.name AS device, series.stream, series.width_ms,
       strftime('%Y-%m-%dT%H:%M:%fZ', w.start_ms / 1000.0, 'unixepoch') AS start,
       w.start_ms, w.count, w.sum / w.count AS mean, w.sum, w.sum_sq, w.min, w.max,
       w.first_ms, w.first_value, w.last_ms, w.last_value,
       w.fingerprint, w.late_count, w.parts, w.watermark_ms
FROM series_window AS w
JOIN series USING (series_id)
JOIN device USING (device_id);

CREATE TABLE shard_progress (
    site            TEXT NOT NULL,
    shard           INTEGER NOT NULL,
    cursor          INTEGER NOT NULL,
    edge_first_kept INTEGER NOT NULL,
    edge_last       INTEGER NOT NULL,
    batches_applied INTEGER NOT NULL,
    changed_ms      INTEGER NOT NULL,
    conflict_seq    INTEGER,
    PRIMARY KEY (site, shard)
) STRICT, WITHOUT ROWID;

CREATE TABLE applied_batch (
    site       TEXT NOT NULL,
    shard      INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    applied_ms INTEGER NOT NULL,
    parts      INTEGER NOT NULL,
    body_hash  INTEGER NOT NULL,
    PRIMARY KEY (site, shard, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE hole (
    site      TEXT NOT NULL,
    shard     INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL,
    found_ms  INTEGER NOT NULL,
    PRIMARY KEY (site, shard, first_seq)
) STRICT, WITHOUT ROWID;
",
    // Days are made of hours where there are hours, which are fewer than windows.
    r"
CREATE INDEX device_name ON device (name);

CREATE TABLE series_rollup (
    span_ms      INTEGER NOT NULL,
    start_ms     INTEGER NOT NULL,
    series_id    INTEGER NOT NULL REFERENCES series,
    count        INTEGER NOT NULL,
    sum          REAL,
    sum_sq       REAL,
    min          REAL,
    max          REAL,
    first_ms     INTEGER NOT NULL,
    first_slot   INTEGER NOT NULL,
    first_index  INTEGER NOT NULL,
    first_value  REAL,
    last_ms      INTEGER NOT NULL,
    last_slot    INTEGER NOT NULL,
    last_index   INTEGER NOT NULL,
    last_value   REAL,
    fingerprint  INTEGER NOT NULL,
    late_count   INTEGER NOT NULL,
    parts        INTEGER NOT NULL,
    watermark_ms INTEGER NOT NULL,
    PRIMARY KEY (span_ms, start_ms, series_id)
) STRICT, WITHOUT ROWID;

INSERT INTO series_rollup
SELECT 3600000, start_ms - (start_ms % 3600000 + 3600000) % 3600000, series_id,
       w.count, w.sum, w.sum_sq, w.min, w.max, w.first_ms, w.first_slot, w.first_index, w.first_value,
       w.last_ms, w.last_slot, w.last_index, w.last_value, w.fingerprint, w.late_count, w.parts, w.watermark_ms
FROM series JOIN series_window AS w USING (series_id) WHERE 3600000 % series.width_ms = 0
{MERGE};

INSERT INTO series_rollup
SELECT 86400000, start_ms - (start_ms % 86400000 + 86400000) % 86400000, series_id,
       w.count, w.sum, w.sum_sq, w.min, w.max, w.first_ms, w.first_slot, w.first_index, w.first_value,
       w.last_ms, w.last_slot, w.last_index, w.last_value, w.fingerprint, w.late_count, w.parts, w.watermark_ms
FROM series_rollup AS w WHERE span_ms = 3600000
{MERGE};

INSERT INTO series_rollup
SELECT 86400000, start_ms - (start_ms % 86400000 + 86400000) % 86400000, series_id,
       w.count, w.sum, w.sum_sq, w.min, w.max, w.first_ms, w.first_slot, w.first_index, w.first_value,
       w.last_ms, w.last_slot, w.last_index, w.last_value, w.fingerprint, w.late_count, w.parts, w.watermark_ms
FROM series JOIN series_window AS w USING (series_id)
WHERE 86400000 % series.width_ms = 0 AND 3600000 % series.width_ms <> 0
{MERGE};

CREATE VIEW rollup_aggregate AS
SELECT device.site, device.name AS device, series.stream, series.width_ms, r.span_ms,
       strftime('%Y-%m-%dT%H:%M:%fZ', r.start_ms / 1000.0, 'unixepoch') AS start,
       r.start_ms, r.count, r.sum / r.count AS mean, r.sum, r.sum_sq, r.min, r.max,
       r.first_ms, r.first_value, r.last_ms, r.last_value,
       r.fingerprint, r.late_count, r.parts, r.watermark_ms
FROM series_rollup AS r
JOIN series USING (series_id)
JOIN device USING (device_id);
",
];

/// Brings the database to this release's tables.
///
/// # Errors
/// When the database can't be written, or a newer release has already moved it on.
pub async fn migrate(db: &mut SqliteConnection) -> Result<(), StoreError> {
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY) STRICT")
        .execute(&mut *db)
        .await?;
    loop {
        let mut tx = db.begin_with("BEGIN IMMEDIATE").await?;
        let found: i64 = sqlx::query_scalar("SELECT coalesce(max(version), 0) FROM schema_version")
            .fetch_one(&mut *tx)
            .await?;
        let done = usize::try_from(found).unwrap_or(usize::MAX);
        if done > STEPS.len() {
            return Err(StoreError::Newer { found, known: STEPS.len() });
        }
        let Some(step) = STEPS.get(done) else { return Ok(()) };
        if found > 0 {
            tracing::info!(
                from = found,
                "bringing the database to a newer schema; the more windows, the longer"
            );
        }
        let step = sqlx::AssertSqlSafe(step.replace("{MERGE}", MERGE));
        sqlx::raw_sql(step).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO schema_version (version) VALUES (?)")
            .bind(found + 1)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
    }
}
