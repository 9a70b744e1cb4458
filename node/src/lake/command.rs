//! `selvedge-node export`: writes days to a lake when a person asks for it.

use super::LakeError;
use super::export::{Choice, Done, Exporter};
use super::target::{Target, day_text};
use crate::store::day::DayKey;
use crate::store::lake::Exports;
use crate::store::{self, Database};
use clap::Args;
use selvedge_node_core::rollup::{DAY_MS, floor};
use selvedge_types::time::{EpochMs, duration_text, parse_duration_ms};
use std::io::Write;
use std::process::ExitCode;
use std::time::SystemTime;

/// Write windows to a lake: Parquet files in folders that Spark, Trino, DuckDB and Athena know as partitions.
///
/// The export skips a day whose windows in the lake are those of the database. So an export that was stopped continues
/// when you start it again, and a finished one writes only what has changed.
#[derive(Debug, Clone, Args)]
pub struct Export {
    /// Write to this folder, s3://bucket/path, gs://bucket/path or az://container/path; credentials come from the
    /// environment (AWS_*, GOOGLE_*, AZURE_*). By default `lake.url`.
    #[arg(long, value_name = "ADDRESS")]
    pub to: Option<String>,
    /// First day (UTC). By default the first one in the database.
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
    pub from_day: Option<EpochMs>,
    /// Last day (UTC). By default the last one that has ended.
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
    pub to_day: Option<EpochMs>,
    /// Export this site only.
    #[arg(long, value_name = "NAME")]
    pub site: Option<String>,
    /// Export windows of this width only, such as 10s.
    #[arg(long, value_name = "WIDTH", value_parser = parse_duration_ms)]
    pub width: Option<i64>,
    /// Also write days that have not changed, and days of which the database has less than the lake.
    #[arg(long)]
    pub again: bool,
}

fn day(text: &str) -> Result<EpochMs, String> {
    EpochMs::parse(&format!("{text}T00:00:00Z"))
        .map_err(|_| format!("{text:?} is not a day; write one such as 2026-11-24"))
}

/// What a run came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportTotals {
    /// Files that were written.
    pub files: u64,
    pub windows: i64,
    pub bytes: i64,
    /// Days that were there already.
    pub unchanged: u64,
    /// Days of which the database has less.
    pub kept: u64,
    /// Days that others were writing.
    pub taken: u64,
    /// Days that could not be written.
    pub failed: u64,
}

impl Export {
    /// Runs it, and prints a line for each day. The exit code is 0 if all days are in the lake then, 1 if not.
    pub async fn run(&self, database: &Database, address: &str) -> ExitCode {
        let mut out = std::io::stdout();
        match self.export(database, address, &mut out).await {
            Ok(ExportTotals { failed: 0, taken: 0, .. }) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("selvedge-node: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// The same, told to `out`.
    ///
    /// # Errors
    /// When the database or the lake can't be used at all.
    pub async fn export(
        &self,
        database: &Database,
        address: &str,
        out: &mut impl Write,
    ) -> Result<ExportTotals, LakeError> {
        let target = Target::open(address)?;
        let (writer, reader) = store::open(database).await?;
        let exporter = Exporter::new(reader, Exports::new(database), target);
        let all = Choice::all();
        let today = floor(EpochMs::from(SystemTime::now()), DAY_MS);
        let choice = Choice {
            site: self.site.clone(),
            width_ms: self.width,
            from: self.from_day.unwrap_or(all.from),
            to: self.to_day.map_or(today, |last| last.plus(DAY_MS)),
            again: self.again,
            ..all
        };
        let mut totals = ExportTotals::default();
        // Nobody reads it if that fails.
        let _ =
            writeln!(out, "{:<16} {:>6} {:<10} {:>12} {:>14}", "site", "width", "day", "windows", "bytes");
        let done = exporter.run(&choice, |key, done| {
            totals.add(done);
            let _ = writeln!(out, "{}", line(key, done));
        });
        let done = done.await;
        let closed = writer.close().await;
        done?;
        closed?;
        let ExportTotals { files, windows, bytes, unchanged, kept, taken, failed } = totals;
        let each = if windows > 0 {
            format!(", {:.1} bytes each", bytes as f64 / windows as f64)
        } else {
            String::new()
        };
        let _ = writeln!(
            out,
            "{files} files with {windows} windows written, {bytes} bytes{each}; {unchanged} days unchanged"
        );
        for (days, what) in [
            (kept, "kept: the database has less of them (--again writes them anyway)"),
            (taken, "left to another node, which is writing them"),
            (failed, "not written"),
        ] {
            if days > 0 {
                let _ = writeln!(out, "{days} days {what}");
            }
        }
        Ok(totals)
    }
}

impl ExportTotals {
    fn add(&mut self, done: &Done) {
        match done {
            Done::Written { windows, bytes, .. } => {
                (self.files, self.windows, self.bytes) =
                    (self.files + 1, self.windows + windows, self.bytes + bytes);
            }
            Done::Unchanged(_) => self.unchanged += 1,
            Done::Kept(_) => self.kept += 1,
            Done::Taken => self.taken += 1,
            Done::Failed(_) => self.failed += 1,
        }
    }
}

fn line(key: &DayKey, done: &Done) -> String {
    let (windows, bytes, what) = match done {
        Done::Written { windows, bytes, replaced: false } => (*windows, *bytes, "new".to_string()),
        Done::Written { windows, bytes, replaced: true } => (*windows, *bytes, "replaced".to_string()),
        Done::Unchanged(written) => (written.windows, written.bytes, "unchanged".to_string()),
        Done::Kept(written) => (written.windows, written.bytes, "kept".to_string()),
        Done::Taken => (0, 0, "another node is writing it".to_string()),
        Done::Failed(error) => (0, 0, format!("failed: {error}")),
    };
    let (width, day) = (duration_text(key.width_ms), day_text(key.day));
    format!("{:<16} {width:>6} {day:<10} {windows:>12} {bytes:>14} {what}", key.site)
}
