//! Runs the statements of [`super::super::statement`].

use super::super::StoreError;
use super::super::statement::{BoundValue, Columns, Statement};
use super::{At, PostgresReader, held, window_at};
use selvedge_node_core::stored::StoredWindow;
use selvedge_types::time::EpochMs;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

impl Columns for Row {
    type Error = StoreError;

    fn text(&self, at: usize) -> Result<String, StoreError> {
        Ok(self.try_get(at)?)
    }

    fn whole(&self, at: usize) -> Result<i64, StoreError> {
        Ok(self.try_get(at)?)
    }

    fn whole_if_any(&self, at: usize) -> Result<Option<i64>, StoreError> {
        Ok(self.try_get(at)?)
    }

    fn start(&self, at: usize) -> Result<EpochMs, StoreError> {
        Ok(self.try_get::<_, At>(at)?.0)
    }

    fn start_if_any(&self, at: usize) -> Result<Option<EpochMs>, StoreError> {
        Ok(self.try_get::<_, Option<At>>(at)?.map(|at| at.0))
    }

    fn flag(&self, at: usize) -> Result<bool, StoreError> {
        Ok(self.try_get(at)?)
    }

    fn window(&self, at: usize) -> Result<StoredWindow, StoreError> {
        window_at(self, at)
    }
}

impl PostgresReader {
    /// All rows of a statement.
    pub async fn run<T>(
        &self,
        statement: Statement,
        read: fn(&Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let values: Vec<Box<dyn ToSql + Sync + Send>> = statement
            .values
            .into_iter()
            .map(|value| -> Box<dyn ToSql + Sync + Send> {
                match value {
                    BoundValue::Text(text) => Box::new(held(&text).into_owned()),
                    BoundValue::TextIfAny(text) => Box::new(text.map(|text| held(&text).into_owned())),
                    BoundValue::Whole(n) => Box::new(n),
                    BoundValue::WholeIfAny(n) => Box::new(n),
                    BoundValue::Start(at) => Box::new(At(at)),
                }
            })
            .collect();
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| &**value as _).collect();
        self.rows(&statement.text, &values, read).await
    }
}
