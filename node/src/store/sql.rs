//! One statement of a person's SQL, which only reads, within limits of time, rows and bytes.

use super::{Reader, StoreError};
use std::time::Duration;

/// The longest statement.
pub const MAX_STATEMENT_BYTES: usize = 64 * 1024;

/// What a statement may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlLimits {
    /// Time.
    pub time: Duration,
    /// Rows of the answer.
    pub rows: u32,
    /// About how many bytes of the answer's values.
    pub bytes: u64,
}

/// A value of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum SqlValue {
    /// NULL.
    Null,
    /// True or false, where the database has that.
    Flag(bool),
    /// A whole number.
    Whole(i64),
    /// A number.
    Real(f64),
    /// Text; also what has no other form here, as the database writes it.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Default)]
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
    #[error("the statement ran into its limit of time")]
    Time,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SqlError {
    pub(super) fn refused(why: &str) -> Self {
        Self::Statement(why.to_string())
    }
}

impl SqlAnswer {
    /// Adds a row unless that would pass a limit; says whether to go on.
    pub(super) fn add(&mut self, row: Vec<SqlValue>, bytes: &mut u64, limits: &SqlLimits) -> bool {
        const PER_VALUE_BYTES: u64 = 8;
        let size = |value: &SqlValue| {
            PER_VALUE_BYTES
                + match value {
                    SqlValue::Text(text) => text.len() as u64,
                    SqlValue::Bytes(all) => 2 * all.len() as u64,
                    _ => 0,
                }
        };
        *bytes += row.iter().map(size).sum::<u64>();
        self.truncated = self.rows.len() >= limits.rows as usize || *bytes > limits.bytes;
        if !self.truncated {
            self.rows.push(row);
        }
        !self.truncated
    }
}

impl Reader {
    /// Runs one statement that only reads.
    ///
    /// # Errors
    /// When it is none, when the database can't run it, or not within the limits of time.
    pub async fn sql(&self, statement: String, limits: SqlLimits) -> Result<SqlAnswer, SqlError> {
        if statement.len() > MAX_STATEMENT_BYTES {
            let why = format!("the statement has more than {MAX_STATEMENT_BYTES} bytes");
            return Err(SqlError::Statement(why));
        }
        match self {
            Self::Sqlite(reader) => reader.sql(statement, limits).await,
            Self::Postgres(reader) => reader.sql(&statement, limits).await,
        }
    }
}
