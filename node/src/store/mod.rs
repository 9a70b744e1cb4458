//! The database: SQLite in one file, written by one [`Writer`], read by any number of [`Reader`]s.
//!
//! - Invariant: a batch's windows, what they add to roll-ups and the record that it was applied are in the same
//!   transaction.
//! - Invariant: what decides whether a batch is new is read from the database inside that transaction, so
//!   that neither a crash nor a second process can count it twice.
//! - Invariant: a cursor leaves the store only after the transaction it rests on is on disk
//!   (write-ahead log with `synchronous = FULL`).

mod read;
mod schema;
mod write;

pub use read::{LedgerPage, Reader, RowPage, SeriesInfo, ShardStatus, StoredWindow, WindowKey};
pub use write::{Applied, Content, Incoming, Outcome, Writer};

use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a statement waits for another process's lock on the database.
pub const BUSY_TIMEOUT_MS: u64 = 10_000;

/// How much of the database the writer keeps in memory. What all devices of a fleet write at a time should find room:
/// each series' newest windows are on a page of their own.
pub const WRITE_CACHE_KIB: u32 = 64 * 1024;

/// How far the write-ahead log grows before it is copied into the database. A page that many transactions write
/// is copied once then; most of what a checkpoint costs is places on the disk, not bytes.
pub const CHECKPOINT_PAGES: u32 = 16 * 1024;

/// How large the write-ahead log stays once it is copied: its size at [`CHECKPOINT_PAGES`], so that it is not made anew each
/// time.
pub const LOG_KEPT_BYTES: u64 = 72 * 1024 * 1024;

/// How many connections answer queries.
pub const READ_CONNECTIONS_ENTRIES: u32 = 4;

/// How many rows the database may be ahead of who reads them: a small lead makes the two wait for each other.
pub const READ_BUFFER_ENTRIES: usize = 1_000;

/// How long a query waits for one of them.
pub const READ_WAIT_MS: u64 = 5_000;

/// Why the store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder of the database can't be made.
    #[error("the folder {path} (setting `data_dir`) can't be made: {why}")]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The database can't be opened.
    #[error("the database {path} (in the setting `data_dir`) can't be opened: {why}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// What the database said.
        why: sqlx::Error,
    },
    /// A newer release has written it.
    #[error("the database has schema version {found}, this release knows {known}; run the newer release")]
    Newer {
        /// The version found.
        found: i64,
        /// The newest that is known.
        known: usize,
    },
    /// Any other failure.
    #[error("the database says: {0}")]
    Database(#[from] sqlx::Error),
}

/// Opens (and makes, if need be) the database `selvedge.db` in `folder`.
///
/// # Errors
/// When the folder or the file can't be made, opened or brought to this release's tables.
pub async fn open(folder: &Path) -> Result<(Writer, Reader), StoreError> {
    std::fs::create_dir_all(folder).map_err(|why| StoreError::Folder { path: folder.to_owned(), why })?;
    let path = folder.join("selvedge.db");
    let failed = |why| StoreError::Open { path: path.clone(), why };
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))
        .foreign_keys(true);
    let writing = options
        .clone()
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", format!("-{WRITE_CACHE_KIB}"))
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
        .pragma("journal_size_limit", LOG_KEPT_BYTES.to_string());
    let mut db = writing.connect().await.map_err(failed)?;
    schema::migrate(&mut db).await?;
    let pool = SqlitePoolOptions::new()
        .max_connections(READ_CONNECTIONS_ENTRIES)
        .acquire_timeout(Duration::from_millis(READ_WAIT_MS))
        .connect_with(options.read_only(true).row_buffer_size(READ_BUFFER_ENTRIES))
        .await
        .map_err(failed)?;
    Ok((Writer::new(writing, db), Reader::new(pool)))
}
