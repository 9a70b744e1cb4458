//! Chooses the days to write, and writes them.

use super::LakeError;
use super::parquet::{Encoder, ParquetField};
use super::target::{Target, Upload};
use crate::store::Reader;
use crate::store::day::{Claim, DayKey, DayState, Written};
use crate::store::lake::Exports;
use selvedge_node_core::passed::StreamProgress;
use selvedge_node_core::rollup::DAY_MS;
use selvedge_node_core::stored::{SeriesInfo, StoredWindow};
use selvedge_node_core::table::{Cell, ColumnKind};
use selvedge_types::time::{EpochMs, TIME_RANGE};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::time::SystemTime;

/// How many windows are read at a time.
pub const READ_ENTRIES: u32 = 20_000;

/// How many devices' names are read at a time.
pub const DEVICES_ENTRIES: u32 = 200;

/// How many series are asked for at a time.
pub const SERIES_ENTRIES: usize = 1_000;

/// How many days are asked for at a time.
pub const DAYS_ENTRIES: u32 = 31;

/// How long a writer's claim on a day lasts without renewal.
pub const LEASE_MS: i64 = 300_000;

/// After this many failed days in a row, the export leaves the rest for later.
pub const MAX_FAILED_DAYS: usize = 3;

/// The columns; site, width and day are in the file's name. `fingerprint` has the bits that the database's views show as a
/// whole number too.
pub const FIELDS: [ParquetField<'static>; 24] = [
    ("device", ColumnKind::Text),
    ("stream", ColumnKind::Text),
    ("start", ColumnKind::Time),
    ("width_ms", ColumnKind::Whole),
    ("count", ColumnKind::Whole),
    ("sum", ColumnKind::Real),
    ("mean", ColumnKind::Real),
    ("min", ColumnKind::Real),
    ("max", ColumnKind::Real),
    ("first", ColumnKind::Real),
    ("first_time", ColumnKind::Time),
    ("last", ColumnKind::Real),
    ("last_time", ColumnKind::Time),
    ("stddev", ColumnKind::Real),
    ("p50", ColumnKind::Real),
    ("p90", ColumnKind::Real),
    ("p99", ColumnKind::Real),
    ("revision", ColumnKind::Whole),
    ("late_count", ColumnKind::Whole),
    ("set_aside", ColumnKind::Whole),
    ("missing", ColumnKind::Whole),
    ("complete", ColumnKind::Flag),
    ("fingerprint", ColumnKind::Whole),
    ("watermark", ColumnKind::Time),
];

/// A window's cells, in the order of [`FIELDS`].
fn cells<'a>(
    series: &'a SeriesInfo,
    window: &StoredWindow,
    progress: &StreamProgress,
) -> [Cell<'a>; FIELDS.len()] {
    let a = &window.aggregate;
    let count = |n: u64| Cell::Whole(i64::try_from(n).unwrap_or(i64::MAX));
    let figure = |figure: Option<f64>| figure.map_or(Cell::Null, Cell::Real);
    [
        Cell::Text(&series.device),
        Cell::Text(&series.stream),
        Cell::Time(window.start),
        Cell::Whole(series.width_ms),
        count(a.count),
        figure(a.sum()),
        Cell::Real(a.mean()),
        Cell::Real(a.min),
        Cell::Real(a.max),
        Cell::Real(a.first.value),
        Cell::Time(a.first.time),
        Cell::Real(a.last.value),
        Cell::Time(a.last.time),
        Cell::Real(a.stddev()),
        figure(a.quantile(50)),
        figure(a.quantile(90)),
        figure(a.quantile(99)),
        count(window.parts),
        count(window.late),
        count(window.set_aside),
        window.sequences.missing().map_or(Cell::Null, count),
        Cell::Flag(progress.is_complete(window.start, window.start.plus(series.width_ms))),
        Cell::Whole(a.fingerprint as i64),
        Cell::Time(progress.passed),
    ]
}

/// Which days to look at.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Of one site only.
    pub site: Option<String>,
    /// Of one width only.
    pub width_ms: Option<i64>,
    /// The start of the first day.
    pub from: EpochMs,
    /// The end of the last.
    pub to: EpochMs,
    /// Only days that ended so long ago, or that all their streams have passed.
    pub settle_ms: Option<i64>,
    /// Also days that are there as they are in the database, and those that the database has less of.
    pub again: bool,
}

impl Choice {
    /// Every day of every site and width that differs from the lake.
    pub fn all() -> Self {
        let (from, to) = (EpochMs(*TIME_RANGE.start()), EpochMs(*TIME_RANGE.end()));
        Self { site: None, width_ms: None, from, to, settle_ms: None, again: false }
    }

    fn is_settled(&self, day: EpochMs, state: &DayState, now: EpochMs) -> bool {
        let end = day.plus(DAY_MS);
        let passed = state.passed.is_some_and(|passed| passed >= end);
        self.settle_ms.is_none_or(|settle_ms| passed || end.plus(settle_ms) <= now)
    }
}

/// The outcome of a day.
#[derive(Debug)]
pub enum Done {
    Written {
        windows: i64,
        /// How large the file is.
        bytes: i64,
        /// Whether it was there before.
        replaced: bool,
    },
    /// It is there as the database has it.
    Unchanged(Written),
    /// The database has less of it than was written before, which stays.
    Kept(Written),
    /// Somebody else is writing it.
    Taken,
    /// It could not be written.
    Failed(LakeError),
}

/// Writes days of a database to a target.
pub struct Exporter {
    reader: Reader,
    exports: Exports,
    target: Target,
    owner: String,
}

impl Exporter {
    /// From a database to a target.
    pub fn new(reader: Reader, exports: Exports, target: Target) -> Self {
        let random = std::hash::RandomState::new().build_hasher().finish();
        Self { reader, exports, target, owner: format!("{}-{random:016x}", std::process::id()) }
    }

    /// Writes all days of a choice that are not there as the database has them, and tells of each. It goes on after a day that
    /// could not be written, unless there are [`MAX_FAILED_DAYS`] in a row.
    ///
    /// # Errors
    /// When the days can't be listed.
    pub async fn run(&self, choice: &Choice, mut tell: impl FnMut(&DayKey, &Done)) -> Result<(), LakeError> {
        let mut failed = 0;
        for (site, width_ms) in self.reader.widths().await? {
            let other_site = choice.site.as_ref().is_some_and(|only| *only != site);
            if other_site || choice.width_ms.is_some_and(|only| only != width_ms) {
                continue;
            }
            let written = self.exports.written(self.target.name(), &site, width_ms).await?;
            let written: BTreeMap<_, _> = written.into_iter().collect();
            let there = self.target.sizes(&site, width_ms).await?;
            let mut from = choice.from;
            while from < choice.to {
                let days = self.reader.days(&site, width_ms, from, choice.to, DAYS_ENTRIES).await?;
                for (day, state) in &days {
                    if !choice.is_settled(*day, state, EpochMs::from(SystemTime::now())) {
                        continue;
                    }
                    let key = DayKey { site: site.clone(), width_ms, day: *day };
                    let bytes = there.get(&self.target.path(&key)).and_then(|n| i64::try_from(*n).ok());
                    let before = written.get(day).copied();
                    let done = self.day(&key, *state, before, bytes, choice.again).await;
                    let done = done.unwrap_or_else(Done::Failed);
                    tell(&key, &done);
                    failed = if matches!(done, Done::Failed(_)) { failed + 1 } else { 0 };
                    if failed >= MAX_FAILED_DAYS {
                        return Ok(());
                    }
                }
                match days.last() {
                    Some((last, _)) if days.len() == DAYS_ENTRIES as usize => from = last.plus(DAY_MS),
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// Writes a day if need be. `before` is what was written last, `bytes` how large the file is that is there.
    async fn day(
        &self,
        key: &DayKey,
        state: DayState,
        before: Option<Written>,
        bytes: Option<i64>,
        again: bool,
    ) -> Result<Done, LakeError> {
        let judge = |before: Written| match before.revisions.cmp(&state.revisions) {
            _ if again => None,
            // It was removed, or overwritten by somebody who had lost the day to another.
            _ if bytes != Some(before.bytes) => None,
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal => Some(Done::Unchanged(before)),
            std::cmp::Ordering::Greater => Some(Done::Kept(before)),
        };
        if let Some(done) = before.and_then(judge) {
            return Ok(done);
        }
        let claim =
            Claim { target: self.target.name().to_string(), key: key.clone(), owner: self.owner.clone() };
        let now = EpochMs::from(SystemTime::now());
        let Some(latest) = self.exports.claim(&claim, now, now.plus(LEASE_MS)).await? else {
            return Ok(Done::Taken);
        };
        // Another node may have written it since it was listed.
        let meanwhile =
            latest.filter(|latest| Some(*latest) != before && latest.revisions >= state.revisions);
        if let (Some(latest), false) = (meanwhile, again) {
            self.exports.finish(&claim, None).await?;
            return Ok(Done::Unchanged(latest));
        }
        let mut upload = self.target.begin(key);
        let windows = match self.windows(&claim, &mut upload).await {
            Ok(windows) => windows,
            Err(error) => {
                upload.abort().await;
                let _ = self.exports.finish(&claim, None).await; // the lease ends by itself
                return Err(error);
            }
        };
        let fewer = latest.filter(|latest| windows < latest.windows && bytes == Some(latest.bytes) && !again);
        if let Some(latest) = fewer {
            upload.abort().await;
            self.exports.finish(&claim, None).await?;
            return Ok(Done::Kept(latest));
        }
        let size = i64::try_from(upload.finish().await?).unwrap_or(i64::MAX);
        let written = Written {
            revisions: state.revisions,
            windows,
            bytes: size,
            at: EpochMs::from(SystemTime::now()),
        };
        if !self.exports.finish(&claim, Some(written)).await? {
            return Err(LakeError::Lost);
        }
        Ok(Done::Written { windows, bytes: size, replaced: bytes.is_some() })
    }

    /// Sends a day's windows, by device, stream and start; says how many.
    async fn windows(&self, claim: &Claim, upload: &mut Upload) -> Result<i64, LakeError> {
        let key = &claim.key;
        let mut file =
            File { encoder: Encoder::new(&FIELDS)?, windows: 0, renewed: EpochMs::from(SystemTime::now()) };
        let each = DAY_MS / key.width_ms.max(1) + 1;
        let some = (i64::from(READ_ENTRIES) / each).clamp(1, SERIES_ENTRIES as i64) as usize;
        let mut after: Option<(String, String)> = None;
        loop {
            let from = after.as_ref().map(|(site, device)| (site.as_str(), device.as_str()));
            let all = self.reader.devices(Some(&key.site), from, DEVICES_ENTRIES).await?;
            let Some(last) = all.last() else { break };
            after = Some((last.site.clone(), last.device.clone()));
            let of_width: Vec<_> = all.iter().filter(|series| series.width_ms == key.width_ms).collect();
            for series in of_width.chunks(some) {
                self.series(claim, series, &mut file, upload).await?;
            }
        }
        let File { encoder, windows, .. } = file;
        upload.put(blocking(move || encoder.finish()).await?).await?;
        self.renew(claim).await?;
        Ok(windows)
    }

    /// Sends the windows of some series: read in one piece if they are few, or else one series after the other.
    async fn series(
        &self,
        claim: &Claim,
        series: &[&SeriesInfo],
        file: &mut File,
        upload: &mut Upload,
    ) -> Result<(), LakeError> {
        let (from, to) = (claim.key.day, claim.key.day.plus(DAY_MS));
        if series.len() > 1 {
            let ids: Vec<_> = series.iter().map(|one| one.id).collect();
            let rows = self.reader.windows_of(&ids, from, to, READ_ENTRIES).await?;
            if rows.len() < READ_ENTRIES as usize {
                // They come by number, and go by name.
                let of = rows.chunk_by(|a, b| a.0 == b.0).filter_map(|of| Some((of.first()?.0, of)));
                let of: HashMap<_, _> = of.collect();
                for one in series {
                    let progress = self.reader.progress(one).await?;
                    for (_, window) in of.get(&one.id).copied().unwrap_or_default() {
                        self.push(claim, &cells(one, window, &progress), file, upload).await?;
                    }
                }
                return Ok(());
            }
        }
        for one in series {
            let (mut from, progress) = (Some(from), self.reader.progress(one).await?);
            while let Some(start) = from {
                let page = self.reader.windows(one.id, start, to, READ_ENTRIES).await?;
                for window in &page.rows {
                    self.push(claim, &cells(one, window, &progress), file, upload).await?;
                }
                from = page.next;
            }
        }
        Ok(())
    }

    async fn push(
        &self,
        claim: &Claim,
        row: &[Cell<'_>],
        file: &mut File,
        upload: &mut Upload,
    ) -> Result<(), LakeError> {
        file.encoder.push(row)?;
        file.windows += 1;
        if file.encoder.is_full() {
            let mut encoder = std::mem::replace(&mut file.encoder, Encoder::new(&FIELDS)?);
            let bytes;
            (encoder, bytes) = blocking(move || encoder.take().map(|bytes| (encoder, bytes))).await?;
            file.encoder = encoder;
            upload.put(bytes).await?;
            if file.renewed.plus(LEASE_MS / 3) <= EpochMs::from(SystemTime::now()) {
                self.renew(claim).await?;
                file.renewed = EpochMs::from(SystemTime::now());
            }
        }
        Ok(())
    }

    async fn renew(&self, claim: &Claim) -> Result<(), LakeError> {
        let now = EpochMs::from(SystemTime::now());
        let ours = self.exports.claim(claim, now, now.plus(LEASE_MS)).await?;
        ours.map(|_| ()).ok_or(LakeError::Lost)
    }
}

/// A day's file while its windows are read.
struct File {
    encoder: Encoder,
    windows: i64,
    renewed: EpochMs,
}

/// Compresses on a thread that may be busy.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> parquet::errors::Result<T> + Send + 'static,
) -> Result<T, LakeError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| LakeError::Stopped)??)
}
