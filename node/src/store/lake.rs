//! What exports to a lake need of the database: which days there are, all windows of one, and what was written where.

use super::day::{Claim, DayState, Written};
use super::{Database, Reader, StoreError, postgres, sqlite};
use selvedge_node_core::stored::StoredWindow;
use selvedge_types::time::EpochMs;

impl Reader {
    /// The sites and the widths of their windows, in order.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn widths(&self) -> Result<Vec<(String, i64)>, StoreError> {
        match self {
            Self::Sqlite(reader) => reader.widths().await,
            Self::Postgres(reader) => reader.widths().await,
        }
    }

    /// The days in `from..to` in which a site has windows of a width, in order, at most `limit`. Both are starts of days.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn days(
        &self,
        site: &str,
        width_ms: i64,
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<Vec<(EpochMs, DayState)>, StoreError> {
        match self {
            Self::Sqlite(reader) => reader.days(site, width_ms, from, to, limit).await,
            Self::Postgres(reader) => reader.days(site, width_ms, from, to, limit).await,
        }
    }

    /// The windows of some series that start in `from..to`, by series and start, at most `limit`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn windows_of(
        &self,
        series: &[i64],
        from: EpochMs,
        to: EpochMs,
        limit: u32,
    ) -> Result<Vec<(i64, StoredWindow)>, StoreError> {
        match self {
            Self::Sqlite(reader) => reader.windows_of(series, from, to, limit).await,
            Self::Postgres(reader) => reader.windows_of(series, from, to, limit).await,
        }
    }
}

/// The table `lake_export`: what was written to each target, and who is writing. Whoever writes a day holds a lease on it, so
/// that of several nodes only one does.
#[derive(Clone)]
pub struct Exports(ExportTable);

#[derive(Clone)]
enum ExportTable {
    Sqlite(sqlite::SqliteExports),
    Postgres(postgres::PostgresExports),
}

impl Exports {
    /// Of a database that [`super::open`] has been at.
    pub fn new(database: &Database) -> Self {
        Self(match database {
            Database::Sqlite(folder) => ExportTable::Sqlite(sqlite::SqliteExports::new(folder)),
            Database::Postgres(server) => ExportTable::Postgres(postgres::PostgresExports::new(server)),
        })
    }

    /// What was written to a target of a site's windows of one width.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn written(
        &self,
        target: &str,
        site: &str,
        width_ms: i64,
    ) -> Result<Vec<(EpochMs, Written)>, StoreError> {
        match &self.0 {
            ExportTable::Sqlite(table) => table.written(target, site, width_ms).await,
            ExportTable::Postgres(table) => table.written(target, site, width_ms).await,
        }
    }

    /// Takes a day, or keeps it, until `until`: nothing if somebody else has it, or else what was written last of it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn claim(
        &self,
        claim: &Claim,
        now: EpochMs,
        until: EpochMs,
    ) -> Result<Option<Option<Written>>, StoreError> {
        match &self.0 {
            ExportTable::Sqlite(table) => table.claim(claim, now, until).await,
            ExportTable::Postgres(table) => table.claim(claim, now, until).await,
        }
    }

    /// Gives a day back, with what was written if something was; says whether it was still ours. If it was not, nothing is
    /// recorded.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish(&self, claim: &Claim, written: Option<Written>) -> Result<bool, StoreError> {
        match &self.0 {
            ExportTable::Sqlite(table) => table.finish(claim, written).await,
            ExportTable::Postgres(table) => table.finish(claim, written).await,
        }
    }
}
