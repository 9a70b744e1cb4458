//! The connections that read, and how they are asked.

use super::super::StoreError;
use super::super::pool::ConnectionPool;
use super::{File, blocking, ledger_id, open_to_read};
use rusqlite::{Connection, Row, ToSql};
use selvedge_types::uplink::LedgerId;
use std::sync::Arc;

/// The connections that read.
#[derive(Clone)]
pub struct SqliteReader {
    pub(super) file: File,
    pool: Arc<ConnectionPool<Connection>>,
}

impl SqliteReader {
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
}
