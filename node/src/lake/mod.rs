//! The lake: windows as Parquet files in a folder or an object store, for Spark, Trino, DuckDB or Athena, where one database
//! ends.
//!
//! A day (UTC, by the start of its windows) of a site and a width is one file, in the form of Hive partitions:
//!
//! ```text
//! {address}/windows/site=plant-7/width=10s/day=2026-11-24/part-0.parquet
//! ```
//!
//! - Invariant: a window is in one file at most, whose name follows from the window alone: writing again replaces, and whoever
//!   lists in between sees each window once. A day is there whole, as it was before or as it is after.
//! - Invariant: what the table `lake_export` says of a day was true before its windows were read, so that what came
//!   meanwhile is seen as a change afterwards.
//! - Invariant: a day is never replaced by one with fewer windows, or of an older state of the database, unless a person says so:
//!   what a database has forgotten stays in the lake.
//!
//! [`parquet`] encodes, [`target`] names and sends, [`export`] decides what is to be written and does it, [`command`] and
//! [`schedule`] do so when a person or the time asks for it.

pub mod command;
pub mod export;
pub mod parquet;
pub mod schedule;
pub mod target;

use crate::store::StoreError;
use std::path::PathBuf;

/// Why something could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    /// The address is none. Holds nothing of it.
    #[error("the address of the lake {0}")]
    Address(String),
    /// The folder can't be made.
    #[error("the folder {path} of the lake can't be made: {why}")]
    Folder {
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// The object store fails.
    #[error("the lake can't be written or listed: {0}")]
    Store(#[from] object_store::Error),
    /// The end of a file can't be sent.
    #[error("the lake can't be written: {0}")]
    Send(std::io::Error),
    #[error(transparent)]
    Database(#[from] StoreError),
    /// A file can't be encoded.
    #[error("a Parquet file can't be made: {0}")]
    Encode(#[from] ::parquet::errors::ParquetError),
    /// Far more files than days.
    #[error("{0} holds more than {max} files, which can't all be days", max = target::MAX_LISTED_ENTRIES)]
    TooMany(String),
    /// Somebody else has taken the day over.
    #[error("another node has taken this day over; did this node's process stand still for minutes?")]
    Lost,
    /// A task ended before its work.
    #[error("the export was stopped before it finished")]
    Stopped,
}
