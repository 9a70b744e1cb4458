//! The database behind one face: SQLite in one file by default, PostgreSQL where several nodes share it. One
//! [`Writer`] a node applies batches, any number of [`Reader`]s answer queries.
//!
//! What a transaction does is said once, in [`selvedge_node_core::stage`]: which batches are new, which rows they touch, how these merge.
//! `sqlite` and `postgres` only lock, read and write for it; their tables and views have the same names.
//!
//! - Invariant: a batch's windows, what they add to roll-ups and the record that it was applied are in the same
//!   transaction.
//! - Invariant: what decides whether a batch is new is read from the database inside that transaction, while its shard's
//!   row is locked, so that neither a crash nor another node can count it twice.
//! - Invariant: a cursor leaves the store only after the transaction it rests on is on disk (SQLite: write-ahead log with
//!   `synchronous = FULL`; PostgreSQL: `synchronous_commit = on`).
//! - Invariant: after any failure the writer's connection, and all that was remembered with it, is thrown away.

pub mod day;
pub mod find;
pub mod lake;
mod pool;
mod postgres;
mod read;
pub mod sql;
mod sqlite;
mod statement;

pub use postgres::Postgres;
pub use sqlite::worker as sql_worker;

use selvedge_node_core::incoming::Incoming;
use selvedge_node_core::passed::{NEVER, StreamProgress};
use selvedge_node_core::stage::Applied;
use selvedge_node_core::stored::{SeriesInfo, StoredWindow};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{LedgerId, LostBatch};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How many connections answer queries.
pub const READ_CONNECTIONS_ENTRIES: usize = 4;

/// How long a query waits for one of them.
pub const READ_WAIT_MS: u64 = 5_000;

/// Format version of stored sequence numbers.
pub const SEQUENCES_VERSION: u8 = 1;

/// Which database the node writes to, and how it is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Database {
    /// SQLite, in the file `selvedge.db` of this folder.
    Sqlite(PathBuf),
    /// PostgreSQL, in the database that is named there.
    Postgres(Box<Postgres>),
}

impl Database {
    /// SQLite in this folder.
    pub fn sqlite(folder: &Path) -> Self {
        Self::Sqlite(folder.to_owned())
    }
}

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder of the database can't be made.
    #[error("the folder {path} (setting `data_dir`) can't be made: {why}")]
    Folder {
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The database can't be opened.
    #[error("the database {path} (in the setting `data_dir`) can't be opened: {why}")]
    Open {
        path: PathBuf,
        /// What the database said.
        why: rusqlite::Error,
    },
    /// A newer release has written it.
    #[error(
        "the database has schema version {found}, this release knows {known} and does not go back; \
         run the newer release, or restore a copy from before it"
    )]
    Newer {
        found: i64,
        /// The newest that is known.
        known: usize,
    },
    /// All connections for queries are taken.
    #[error("no connection to the database became free within {READ_WAIT_MS} ms; ask for less at a time")]
    Busy,
    /// The server can't be reached, or does not let us in.
    #[error("the database {server} (setting `database`) can't be used: {why}")]
    Connect {
        /// Which server, without the password.
        server: String,
        /// What it, or the network, said.
        why: postgres::Said,
    },
    /// There are no usable certificates to check the server by.
    #[error("no usable certificates for checking the database server: {why}")]
    Certificates {
        /// What is wrong with them.
        why: String,
    },
    /// The database does not say which ledger it is.
    #[error("the table `ledger` has no row: restore it from a copy of the database")]
    NoLedger,
    /// TimescaleDB is asked for, and is not there.
    #[error(
        "the setting `timescale` is true, but the database has no extension timescaledb; \
         let its owner run CREATE EXTENSION timescaledb, or set `timescale` to false"
    )]
    NoTimescale,
    /// The server says nothing any more.
    #[error("the database server does not answer in time")]
    Silent,
    /// Somebody else has written what is ours while its shard was locked.
    #[error("another transaction changed the same rows; is one device in two shards?")]
    Changed,
    /// What is stored of how values are spread can't be read.
    #[error("a row can't be read: {0}")]
    Spread(#[from] FrameError),
    /// The role for `POST /v1/sql` is missing and can't be created.
    #[error(
        "SQL needs the role selvedge_sql: {why}; let the server's administrator run CREATE ROLE selvedge_sql NOLOGIN, and \
         GRANT selvedge_sql TO the user of the setting `database`"
    )]
    Role { why: String },
    /// The process that runs a person's SQL could not do it.
    #[error("the process that runs SQL: {why}")]
    Process {
        /// What the system, or the database, said.
        why: std::io::Error,
    },
    /// A task of the store ended before its work.
    #[error("the store was stopped before it finished")]
    Stopped,
    /// Any other failure of SQLite.
    #[error("the database says: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Any other failure of PostgreSQL.
    #[error("the database says: {0}")]
    Postgres(postgres::Said),
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(why: tokio_postgres::Error) -> Self {
        Self::Postgres(postgres::Said(why))
    }
}

impl StoreError {
    /// Whether a server that starts, is restarted or has too many guests would say so.
    fn may_pass(&self) -> bool {
        use tokio_postgres::error::SqlState;
        let Self::Connect { why: postgres::Said(why), .. } = self else { return false };
        let passing = [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS];
        // A certificate that is wrong stays so.
        let io = std::error::Error::source(why).and_then(|cause| cause.downcast_ref::<std::io::Error>());
        let of_tls = io.and_then(std::io::Error::get_ref).is_some_and(|cause| cause.is::<rustls::Error>());
        !of_tls && why.code().is_none_or(|code| passing.contains(code))
    }
}

/// Opens the database (and makes it, if it is SQLite and not there), and brings it to this release's tables.
///
/// # Errors
/// When it can't be made, opened or brought there, or when a newer release has been at it.
pub async fn open(database: &Database) -> Result<(Writer, Reader), StoreError> {
    match database {
        Database::Sqlite(folder) => {
            let (writer, reader) = sqlite::open(folder).await?;
            Ok((Writer::Sqlite(writer), Reader::Sqlite(reader)))
        }
        Database::Postgres(server) => {
            let (writer, reader) = postgres::open(server).await?;
            Ok((Writer::Postgres(writer), Reader::Postgres(reader)))
        }
    }
}

/// Applies batches. One for each node.
pub enum Writer {
    #[doc(hidden)]
    Sqlite(sqlite::SqliteWriter),
    #[doc(hidden)]
    Postgres(postgres::PostgresWriter),
}

impl Writer {
    /// Applies messages in one transaction. When this returns, it is on disk; when it fails, nothing of it is, or at worst it
    /// is and nobody was told.
    ///
    /// # Errors
    /// When the database fails; the messages may be given again, over a new connection.
    pub async fn apply(&mut self, messages: &Arc<[Incoming]>, now: EpochMs) -> Result<Applied, StoreError> {
        match self {
            Self::Sqlite(writer) => writer.apply(messages, now).await,
            Self::Postgres(writer) => writer.apply(messages, now).await,
        }
    }

    /// Closes the database.
    ///
    /// # Errors
    /// When the last checkpoint fails; nothing that was applied is lost by it.
    pub async fn close(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(writer) => writer.close().await,
            Self::Postgres(_) => Ok(()),
        }
    }
}

/// Reads the database, from any number of tasks.
#[derive(Clone)]
pub enum Reader {
    #[doc(hidden)]
    Sqlite(sqlite::SqliteReader),
    #[doc(hidden)]
    Postgres(postgres::PostgresReader),
}

impl Reader {
    /// Which ledger this is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn ledger_id(&self) -> Result<LedgerId, StoreError> {
        match self {
            Self::Sqlite(reader) => reader.ledger_id().await,
            Self::Postgres(reader) => reader.ledger_id().await,
        }
    }
}

/// A window's place: its series and its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowKey {
    /// The series' row number.
    pub series: i64,
    /// Where the window starts.
    pub start: EpochMs,
}

/// Rows of one series, and where to go on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RowPage {
    /// In order of their start.
    pub rows: Vec<StoredWindow>,
    /// The place from which more may follow.
    pub next: Option<EpochMs>,
}

impl RowPage {
    /// Of what was found at so many places at most; nothing where only others have something.
    fn new(found: Vec<(EpochMs, Option<StoredWindow>)>, limit: u32) -> Self {
        let next = found.last().filter(|_| found.len() == limit as usize).map(|(start, _)| start.plus(1));
        Self { rows: found.into_iter().filter_map(|(_, row)| row).collect(), next }
    }
}

/// A page of the ledger: for each window its place, its count and its fingerprint.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LedgerPage {
    /// In order of series and start.
    pub windows: Vec<(WindowKey, u64, u64)>,
    /// The series that they name.
    pub series: Vec<SeriesInfo>,
    /// Whether more may follow.
    pub more: bool,
}

impl LedgerPage {
    /// Of windows and the series between the first's and the last's.
    fn new(windows: Vec<(WindowKey, u64, u64)>, between: Vec<SeriesInfo>, limit: u32) -> Self {
        let used: std::collections::BTreeSet<i64> = windows.iter().map(|(key, _, _)| key.series).collect();
        let series = between.into_iter().filter(|s| used.contains(&s.id)).collect();
        Self { more: windows.len() == limit as usize, windows, series }
    }
}

/// How far a shard has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardStatus {
    pub site: String,
    pub shard: u16,
    /// All batches up to it are settled.
    pub cursor: u64,
    /// Batches applied beyond the cursor.
    pub beyond: u64,
    /// Batches between the cursor and the highest that the edge is known to have cut that are not applied.
    pub missing: u64,
    /// Batches given up because the edge no longer has them.
    pub given_up: u64,
    /// Batches applied since the database was made.
    pub batches_applied: u64,
    /// The highest batch that the edge was known to have cut when something changed last.
    pub edge_last: u64,
    /// When something changed last.
    pub changed: EpochMs,
    /// The number that came with two contents, if one did; then nothing is confirmed any more.
    pub conflict: Option<u64>,
}

/// A run of batches that the edge no longer has and that never came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    pub site: String,
    pub shard: u16,
    /// The first number that is missing.
    pub first: u64,
    pub last: u64,
    /// When it was found.
    pub found: EpochMs,
    /// What the site says of it, if it is one batch that the site itself has lost.
    pub lost: Option<LostBatch>,
}

/// As SQL holds it; larger ones are refused before they come here.
fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn sequences_bytes(sequences: &Sequences) -> Option<Vec<u8>> {
    (!sequences.list().is_empty()).then(|| frame::encode(SEQUENCES_VERSION, sequences))
}

fn sequences_from(bytes: Option<&[u8]>) -> Result<Sequences, FrameError> {
    let read = |bytes| frame::decode("the sequence numbers of a window", SEQUENCES_VERSION, bytes);
    bytes.map_or_else(|| Ok(Sequences::default()), read)
}
