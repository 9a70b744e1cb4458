//! Runs the statements of [`super::super::statement`].

use super::super::StoreError;
use super::super::statement::{BoundValue, Columns, Statement};
use super::{SqliteReader, window_at};
use rusqlite::Row;
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use selvedge_node_core::stored::StoredWindow;
use selvedge_types::time::EpochMs;

impl Columns for Row<'_> {
    type Error = rusqlite::Error;

    fn text(&self, at: usize) -> Result<String, Self::Error> {
        self.get(at)
    }

    fn whole(&self, at: usize) -> Result<i64, Self::Error> {
        self.get(at)
    }

    fn whole_if_any(&self, at: usize) -> Result<Option<i64>, Self::Error> {
        self.get(at)
    }

    fn start(&self, at: usize) -> Result<EpochMs, Self::Error> {
        self.get(at).map(EpochMs)
    }

    fn start_if_any(&self, at: usize) -> Result<Option<EpochMs>, Self::Error> {
        Ok(self.get::<_, Option<i64>>(at)?.map(EpochMs))
    }

    fn flag(&self, at: usize) -> Result<bool, Self::Error> {
        self.get(at)
    }

    fn window(&self, at: usize) -> Result<StoredWindow, Self::Error> {
        window_at(self, at)
    }
}

impl ToSql for BoundValue {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Text(text) => ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes())),
            Self::TextIfAny(text) => text.to_sql()?,
            Self::Whole(n) | Self::Start(EpochMs(n)) => ToSqlOutput::Borrowed(ValueRef::Integer(*n)),
            Self::WholeIfAny(n) => n.to_sql()?,
        })
    }
}

impl SqliteReader {
    /// All rows of a statement.
    pub async fn run<T: Send + 'static>(
        &self,
        statement: Statement,
        read: fn(&Row<'_>) -> Result<T, rusqlite::Error>,
    ) -> Result<Vec<T>, StoreError> {
        self.ask(move |db| {
            let mut query = db.prepare_cached(&statement.text)?;
            query.query_map(rusqlite::params_from_iter(&statement.values), read)?.collect()
        })
        .await
    }
}
