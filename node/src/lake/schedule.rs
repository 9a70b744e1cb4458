//! The exporter that runs in a node: looks now and then which days are settled or were revised, and writes these.

use super::LakeError;
use super::export::{Choice, Done, Exporter};
use super::target::{Target, day_text};
use crate::store::Reader;
use crate::store::day::DayKey;
use crate::store::lake::Exports;
use selvedge_types::time::duration_text;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a node that has started waits before its first look, so that its queries and the uplink come first.
pub const FIRST_AFTER_MS: u64 = 10_000;

/// The section `lake`: the target of exports and their times.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LakeSettings {
    /// A folder, `s3://bucket/path`, `gs://bucket/path` or `az://container/path`; empty for none. Credentials come from the
    /// environment.
    pub url: String,
    /// How often to look for days that are settled or were revised.
    pub every_minutes: u32,
    /// How long after its end a day is written that some stream has not passed.
    pub settle_hours: u32,
}

/// An exporter and its times.
pub struct Schedule {
    exporter: Exporter,
    every: Duration,
    choice: Choice,
}

impl Schedule {
    /// The schedule of the settings; `None` if they name no address.
    ///
    /// # Errors
    /// When the address is wrong.
    pub fn new(settings: &LakeSettings, reader: Reader, exports: Exports) -> Result<Option<Self>, LakeError> {
        if settings.url.is_empty() {
            return Ok(None);
        }
        let exporter = Exporter::new(reader, exports, Target::open(&settings.url)?);
        let choice =
            Choice { settle_ms: Some(i64::from(settings.settle_hours) * 3_600_000), ..Choice::all() };
        let every = Duration::from_secs(u64::from(settings.every_minutes.max(1)) * 60);
        Ok(Some(Self { exporter, every, choice }))
    }

    /// Exports until `shutdown` is true. A file that is not whole then does not come to be.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            _ = shutdown.wait_for(|stop| *stop) => {}
            () = self.export_for_ever() => {}
        }
    }

    async fn export_for_ever(&self) {
        tokio::time::sleep(Duration::from_millis(FIRST_AFTER_MS)).await;
        let mut rounds = tokio::time::interval(self.every);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            self.round().await;
        }
    }

    /// Looks once for days to write, and writes them.
    pub async fn round(&self) {
        let start = Instant::now();
        if let Err(error) = self.exporter.run(&self.choice, told).await {
            metrics::counter!("selvedge_node_lake_failures_total").increment(1);
            tracing::error!(%error, "can't look for days to export; trying again in {} min", self.every.as_secs() / 60);
        }
        metrics::histogram!("selvedge_node_lake_round_seconds").record(start.elapsed().as_secs_f64());
    }
}

fn told(key: &DayKey, done: &Done) {
    let (site, width, day) = (&key.site, duration_text(key.width_ms), day_text(key.day));
    match done {
        Done::Written { windows, bytes, replaced } => {
            metrics::counter!("selvedge_node_lake_files_total").increment(1);
            metrics::counter!("selvedge_node_lake_windows_total")
                .increment(u64::try_from(*windows).unwrap_or(0));
            tracing::info!(%site, width, day, windows, bytes, replaced, "exported");
        }
        Done::Failed(error) => {
            metrics::counter!("selvedge_node_lake_failures_total").increment(1);
            tracing::error!(%site, width, day, %error, "can't export a day; trying again later");
        }
        Done::Kept(_) => tracing::debug!(%site, width, day, "the lake holds more of a day than the database"),
        Done::Unchanged(_) | Done::Taken => {}
    }
}
