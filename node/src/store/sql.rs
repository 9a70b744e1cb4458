//! One statement of a person's SQL, which only reads, within limits of time, rows and bytes.

use super::{Reader, StoreError};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::oneshot;

/// The longest statement that `POST /v1/sql` accepts.
pub const MAX_STATEMENT_BYTES: usize = 64 * 1024;

/// What a statement may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlLimits {
    pub time: Duration,
    /// Rows of the answer.
    pub rows: u32,
    /// About how many bytes of the answer's values.
    pub bytes: u64,
}

/// A value of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum SqlValue {
    Null,
    /// True or false, where the database has that.
    Flag(bool),
    Whole(i64),
    Real(#[serde(with = "bits")] f64),
    /// Text; also what has no other form here, as the database writes it.
    Text(String),
    Bytes(Vec<u8>),
}

impl SqlValue {
    /// What it counts against [`SqlLimits::bytes`].
    pub(super) fn cost_bytes(&self) -> u64 {
        const PER_VALUE_BYTES: u64 = 8;
        PER_VALUE_BYTES
            + match self {
                SqlValue::Text(text) => text.len() as u64,
                SqlValue::Bytes(all) => 2 * all.len() as u64,
                _ => 0,
            }
    }
}

/// Numbers that are not finite, too.
mod bits {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(number.to_bits())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        u64::deserialize(from).map(f64::from_bits)
    }
}

/// The rows of a statement, within its bounds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SqlAnswer {
    /// Name and type of each column.
    pub columns: Vec<(String, String)>,
    /// Each with a value for each column.
    pub rows: Vec<Vec<SqlValue>>,
    /// Whether there were more rows than the limits let through.
    pub truncated: bool,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The statement is not one that is run here, or the database can't run it.
    #[error("{0}")]
    Statement(String),
    /// It took longer than it may.
    #[error("the statement exceeded its time limit")]
    Time,
    /// It took more memory than these bytes.
    #[error("the statement took more than {0} bytes of memory")]
    Memory(u64),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SqlError {
    pub(super) fn refused(why: &str) -> Self {
        Self::Statement(why.to_string())
    }
}

impl SqlAnswer {
    /// Adds a row unless that would pass a limit; says whether to go on. `bytes`: what all rows cost, with this one.
    pub(super) fn add(&mut self, row: Vec<SqlValue>, bytes: u64, limits: &SqlLimits) -> bool {
        self.truncated = self.rows.len() >= limits.rows as usize || bytes > limits.bytes;
        if !self.truncated {
            self.rows.push(row);
        }
        !self.truncated
    }
}

impl Reader {
    /// Runs one statement that only reads. When the caller drops the future, because nobody waits any more, the statement is
    /// stopped. `place` is dropped once nothing of the statement runs any more, here or at the server.
    ///
    /// # Errors
    /// When it is none, when the database can't run it, or not within the limits of time and memory.
    pub async fn sql(
        &self,
        statement: String,
        limits: SqlLimits,
        place: impl Send + 'static,
    ) -> Result<SqlAnswer, SqlError> {
        if statement.len() > MAX_STATEMENT_BYTES {
            let why = format!("the statement has more than {MAX_STATEMENT_BYTES} bytes");
            return Err(SqlError::Statement(why));
        }
        let reader = self.clone();
        let (mut told, answer) = oneshot::channel();
        // A task of its own: who asks may go at any time, and what he began has to be ended all the same.
        tokio::spawn(async move {
            let left = told.closed();
            let result = match reader {
                Self::Sqlite(reader) => reader.sql(statement, limits, left).await,
                Self::Postgres(reader) => reader.sql(&statement, limits, left).await,
            };
            drop(place);
            let _ = told.send(result); // he may have gone
        });
        answer.await.map_err(|_| SqlError::Store(StoreError::Stopped))?
    }
}
