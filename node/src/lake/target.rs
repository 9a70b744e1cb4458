//! The target of an export: a folder, or a bucket of an object store.
//!
//! Credentials and regions come from the environment, under the names that the clouds' own tools know: `AWS_*`, `GOOGLE_*`,
//! `AZURE_*`. They are never in the address, nor in what is logged.

use super::LakeError;
use crate::store::day::DayKey;
use bytes::Bytes;
use futures_util::StreamExt;
use object_store::buffered::BufWriter;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use selvedge_types::time::{EpochMs, duration_text};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

/// What is sent at a time of a file that is larger; a store takes at most 10,000 such pieces.
pub const PIECE_BYTES: usize = 16 * 1024 * 1024;

/// How many pieces are on their way at a time.
pub const PIECES_ENTRIES: usize = 2;

/// How many files a listing takes in at most.
pub const MAX_LISTED_ENTRIES: usize = 1_000_000;

/// The names that hold settings of object stores in the environment begin so.
const VARIABLES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// A folder or bucket that windows are written to.
#[derive(Clone)]
pub struct Target {
    name: String,
    store: Arc<dyn ObjectStore>,
    root: Path,
    /// Files of a folder are made elsewhere first: who reads the folder would read half of one.
    is_folder: bool,
}

impl Target {
    /// Reads an address: `/path`, `file:///path`, `s3://bucket/path`, `gs://bucket/path`, `az://container/path`. A folder is
    /// made if need be; nothing else is touched yet.
    ///
    /// # Errors
    /// When it is none of these, holds a password, or the environment lacks what it takes.
    pub fn open(address: &str) -> Result<Self, LakeError> {
        let scheme = check(address)?;
        let name = address.trim_end_matches('/').to_string();
        if scheme == Scheme::Folder {
            let folder = std::path::Path::new(name.strip_prefix("file://").unwrap_or(&name));
            let failed = |why: std::io::Error| LakeError::Folder { path: folder.to_owned(), why };
            std::fs::create_dir_all(folder).map_err(failed)?;
            // Whatever way it is written, the same folder is the same target.
            let folder = folder.canonicalize().map_err(failed)?;
            let store = LocalFileSystem::new_with_prefix(&folder)?.with_fsync(true);
            let (name, root) = (folder.display().to_string(), Path::default());
            return Ok(Self { name, store: Arc::new(store), root, is_folder: true });
        }
        let (store, root) = cloud(&name)?;
        Ok(Self { name, store: Arc::from(store), root, is_folder: false })
    }

    /// The address, without any secret.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of a day's file, which does not depend on its content or its writer.
    pub fn path(&self, key: &DayKey) -> Path {
        self.folder(&key.site, key.width_ms).join(format!("day={}", day_text(key.day))).join("part-0.parquet")
    }

    /// The folder of a site's windows of one width.
    fn folder(&self, site: &str, width_ms: i64) -> Path {
        let width = format!("width={}", duration_text(width_ms));
        self.root.clone().join("windows").join(format!("site={site}")).join(width)
    }

    /// How large the files are that are there of a site's windows of one width.
    ///
    /// # Errors
    /// When the store fails, or there are more than [`MAX_LISTED_ENTRIES`].
    pub async fn sizes(&self, site: &str, width_ms: i64) -> Result<BTreeMap<Path, u64>, LakeError> {
        let folder = self.folder(site, width_ms);
        let (mut all, mut listed) = (BTreeMap::new(), self.store.list(Some(&folder)));
        while let Some(file) = listed.next().await {
            let file = file?;
            all.insert(file.location, file.size);
            if all.len() > MAX_LISTED_ENTRIES {
                return Err(LakeError::TooMany(folder.to_string()));
            }
        }
        Ok(all)
    }

    /// Begins a day's file, which is there, whole, once it is finished; until then an older one stays as it is.
    pub fn begin(&self, key: &DayKey) -> Upload {
        let to = self.path(key);
        // Names that begin so are skipped by whoever reads folders of data.
        let unfinished = || self.root.clone().join("_unfinished").join(to.as_ref().replace('/', "."));
        let at = if self.is_folder { unfinished() } else { to.clone() };
        let writer = BufWriter::with_capacity(self.store.clone(), at.clone(), PIECE_BYTES);
        let writer = writer.with_max_concurrency(PIECES_ENTRIES);
        Upload { store: self.store.clone(), writer, at, to, bytes: 0 }
    }
}

/// A file on its way.
pub struct Upload {
    store: Arc<dyn ObjectStore>,
    writer: BufWriter,
    at: Path,
    to: Path,
    bytes: u64,
}

impl Upload {
    /// Sends more of it.
    ///
    /// # Errors
    /// When the store fails; then it should be given up.
    pub async fn put(&mut self, bytes: Vec<u8>) -> Result<(), LakeError> {
        self.bytes += bytes.len() as u64;
        Ok(self.writer.put(Bytes::from(bytes)).await?)
    }

    /// Makes it the day's file; says how large it is.
    ///
    /// # Errors
    /// When the store fails; an older file is then still there, or the new one is.
    pub async fn finish(mut self) -> Result<u64, LakeError> {
        self.writer.shutdown().await.map_err(LakeError::Send)?;
        if self.at != self.to {
            self.store.rename(&self.at, &self.to).await?;
        }
        Ok(self.bytes)
    }

    /// Gives the upload up; what the store keeps of it is logged and left to the store.
    pub async fn abort(mut self) {
        if let Err(why) = self.writer.abort().await {
            tracing::debug!(%why, "can't remove the sent part of a file from the store");
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Folder,
    Cloud,
}

/// What kind of address it is.
///
/// # Errors
/// When it is none, or one that this build can't write to, or holds what does not belong there. Repeats nothing of it.
pub fn check_address(address: &str) -> Result<(), LakeError> {
    check(address).map(|_| ())
}

fn check(address: &str) -> Result<Scheme, LakeError> {
    let wrong = |why: &str| Err(LakeError::Address(why.to_string()));
    let Some((scheme, rest)) = address.split_once("://") else {
        return if address.starts_with('/') { Ok(Scheme::Folder) } else { wrong(FORMS) };
    };
    let user = rest.split('/').next().and_then(|host| host.split_once('@')).map(|(user, _)| user);
    if rest.contains(['?', '#']) || user.is_some_and(|user| user.contains(':')) {
        return wrong(
            "holds a password, a token or options; they belong in the environment (AWS_*, GOOGLE_*, AZURE_*)",
        );
    }
    match scheme {
        "file" if rest.starts_with('/') => Ok(Scheme::Folder),
        "s3" | "gs" | "az" | "abfss" | "https" if cfg!(feature = "cloud") => Ok(Scheme::Cloud),
        "s3" | "gs" | "az" | "abfss" | "https" => wrong(
            "is of an object store, which this build can't write to; build it with `cargo build --release -p selvedge-node \
             --features cloud`, or name a folder",
        ),
        _ => wrong(FORMS),
    }
}

const FORMS: &str = "is not the address of a lake; give a folder (/srv/lake or file:///srv/lake), s3://bucket/path, gs://bucket/path, \
                     az://container/path or abfss://container@account.dfs.core.windows.net/path";

fn cloud(address: &str) -> Result<(Box<dyn ObjectStore>, Path), LakeError> {
    let url = url::Url::parse(address).map_err(|why| LakeError::Address(format!("is not a URL: {why}")))?;
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        let ours = VARIABLES.iter().any(|prefix| name.starts_with(prefix));
        Some((name, value.into_string().ok()?)).filter(|_| ours)
    });
    // What is there is what the rest of the program uses too; it stays if it was chosen before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Ok(object_store::parse_url_opts(&url, variables)?)
}

/// A day as `2026-11-24`.
pub fn day_text(day: EpochMs) -> String {
    day.to_string().chars().take_while(|c| *c != 'T').collect()
}
