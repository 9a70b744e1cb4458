//! SQLite: one file, written by one connection, read by a few; each call works on a thread that may block.

mod lake;
mod read;
mod schema;
mod sql;
mod statement;
pub mod worker;
mod write;

pub use lake::SqliteExports;
pub use read::SqliteReader;
pub use write::SqliteWriter;

use super::statement::Dialect;
use super::{StoreError, sequences_from};
use rusqlite::types::FromSqlError;
use rusqlite::{Connection, OpenFlags, Row};
use selvedge_guard::private::own_folder;
use selvedge_node_core::stored::StoredWindow;
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::LedgerId;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a statement waits for another process's lock on the database.
pub const BUSY_TIMEOUT_MS: u64 = 10_000;

/// How much of the database the writer keeps in memory. What all devices of a fleet write at a time should find room:
/// each series' newest windows are on a page of their own.
pub const WRITE_CACHE_KIB: i64 = 64 * 1024;

/// How far the write-ahead log grows before it is copied into the database. A page that many transactions write
/// is copied once then; most of what a checkpoint costs is places on the disk, not bytes.
pub const CHECKPOINT_PAGES: i64 = 16 * 1024;

/// How large the write-ahead log stays once it is copied: its size at [`CHECKPOINT_PAGES`], so that it is not made anew each
/// time.
pub const LOG_KEPT_BYTES: i64 = 72 * 1024 * 1024;

/// How many prepared statements a connection keeps; there are fewer.
const STATEMENTS_ENTRIES: usize = 64;

/// The columns of a row of windows or roll-ups, as [`window_at`] reads them.
const ROW: &str = Dialect::Sqlite.row();

/// Opens (and makes, if need be) the database `selvedge.db` in `folder`.
pub async fn open(folder: &Path) -> Result<(SqliteWriter, SqliteReader), StoreError> {
    let folder = folder.to_owned();
    blocking(move || {
        own_folder(&folder).map_err(|why| StoreError::Folder { path: folder.clone(), why })?;
        let path = file(&folder);
        let failed = |why| StoreError::Open { path: path.clone(), why };
        let new = !path.exists();
        let mut db = open_to_write(&path).map_err(failed)?;
        schema::migrate(&mut db)?;
        if new {
            tracing::info!(path = %path.display(), "made a new database; if there was one before, its windows are not in this one");
        }
        drop(open_to_read(&path).map_err(failed)?);
        let ledger = ledger_id(&db)?;
        Ok((SqliteWriter::new(path.clone(), db, ledger), SqliteReader::new(path)))
    })
    .await
}

fn open_to_write(path: &Path) -> Result<Connection, rusqlite::Error> {
    let db = Connection::open(path)?;
    prepare(&db)?;
    // Returns the mode as a row.
    db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "cache_size", -WRITE_CACHE_KIB)?;
    db.pragma_update_and_check(None, "wal_autocheckpoint", CHECKPOINT_PAGES, |_| Ok(()))?;
    db.pragma_update_and_check(None, "journal_size_limit", LOG_KEPT_BYTES, |_| Ok(()))?;
    Ok(db)
}

/// Which ledger a database is.
fn ledger_id(db: &Connection) -> Result<LedgerId, rusqlite::Error> {
    db.query_row("SELECT id FROM ledger", [], |row| row.get(0)).map(|id| LedgerId(u128::from_be_bytes(id)))
}

fn open_to_read(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    prepare(&db)?;
    Ok(db)
}

fn prepare(db: &Connection) -> Result<(), rusqlite::Error> {
    db.busy_timeout(Duration::from_millis(BUSY_TIMEOUT_MS))?;
    db.set_prepared_statement_cache_capacity(STATEMENTS_ENTRIES);
    Ok(())
}

/// Runs on a thread that may block. If the caller gives up waiting, it runs to its end all the same.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Stopped)?
}

/// The columns [`ROW`] from `base` on.
fn window_at(row: &Row<'_>, base: usize) -> Result<StoredWindow, rusqlite::Error> {
    let whole = |at: usize| row.get::<_, i64>(base + at);
    let real = |at: usize| row.get::<_, f64>(base + at);
    let sample = |at: usize| {
        let (time, slot, index) = (EpochMs(whole(at)?), whole(at + 1)? as u64, whole(at + 2)? as u32);
        Ok::<_, rusqlite::Error>(Sample { time, slot, index, value: real(at + 3)? })
    };
    let (count, ends, samples) = (whole(1)? as u64, [real(2)?, real(3)?], [sample(4)?, sample(8)?]);
    let spread = row.get_ref(base + 17)?.as_blob().map_err(rusqlite::Error::from)?;
    let wrong = |why| rusqlite::Error::from(FromSqlError::Other(Box::new(why)));
    let bytes = row.get_ref(base + 16)?.as_blob_or_null()?;
    let sequences = sequences_from(bytes).map_err(|why| FromSqlError::Other(Box::new(why)))?;
    Ok(StoredWindow {
        start: EpochMs(whole(0)?),
        aggregate: Aggregate::restore(count, ends, samples, whole(12)? as u64, spread).map_err(wrong)?,
        late: whole(13)? as u64,
        parts: whole(14)? as u64,
        set_aside: whole(15)? as u64,
        sequences,
    })
}

/// Where the database lies.
type File = PathBuf;

fn file(folder: &Path) -> File {
    folder.join("selvedge.db")
}
