//! The state of the running node beyond its database, for the status page, readiness and metrics.

use selvedge_guard::log_limit::{LeftOut, LogLimit};
use selvedge_node_core::incoming::Incoming;
use selvedge_node_core::stage::{Applied, MessageOutcome};
use selvedge_types::ids::{ShardId, SiteId};
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Tells the recorder of metrics what they mean. Once, after it was installed.
pub fn describe_metrics() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};
    describe_gauge!("selvedge_node_uplink_connected", "1 while the uplink is subscribed at its broker");
    describe_counter!(
        "selvedge_node_received_bytes_total",
        "Bytes of the messages that came from the uplink"
    );
    describe_counter!("selvedge_node_refused_total", "Messages that were not accepted, by reason");
    describe_counter!("selvedge_node_messages_total", "Authentic messages, by outcome");
    describe_counter!("selvedge_node_windows_written_total", "Windows written or merged into");
    describe_counter!(
        "selvedge_node_batches_given_up_total",
        "Batches that the edge no longer has and that never came"
    );
    describe_counter!(
        "selvedge_node_batches_lost_total",
        "Given-up batches whose contents every replica at their site has lost"
    );
    describe_counter!("selvedge_node_http_denied_total", "HTTP requests without a sufficient token");
    describe_counter!("selvedge_node_confirmations_total", "Confirmations sent");
    describe_counter!("selvedge_node_disconnects_total", "Lost connections to the broker");
    describe_counter!("selvedge_node_questions_total", "Questions to sites, by outcome");
    describe_counter!("selvedge_node_answers_total", "Answers of gateways, by outcome");
    describe_counter!("selvedge_node_store_errors_total", "Transactions that failed in the database");
    describe_counter!("selvedge_node_lake_files_total", "Days written to the lake");
    describe_counter!("selvedge_node_lake_windows_total", "Windows in the days written to the lake");
    describe_counter!(
        "selvedge_node_lake_failures_total",
        "Failed searches for days to write, and days that could not be written"
    );
    describe_histogram!(
        "selvedge_node_lake_round_seconds",
        "Seconds of one search for days to write, including the writing"
    );
    describe_histogram!("selvedge_node_apply_seconds", "Seconds of a transaction, until it is on disk");
}

/// When a shard was last heard, and where it stood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeardShard {
    /// When an authentic message last came.
    pub at: EpochMs,
    /// The lowest seq that the edge then had.
    pub first_kept: u64,
    /// The highest seq that the edge had then cut.
    pub last: u64,
}

/// Shared by all parts of the node.
#[derive(Debug, Default)]
pub struct Stats {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    subscribed: bool,
    heard: BTreeMap<(SiteId, ShardId), HeardShard>,
    refused: BTreeMap<&'static str, u64>,
    /// What the times of `logged` count from.
    start: Option<Instant>,
    logged: LogLimit<&'static str>,
}

impl Stats {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The uplink is subscribed, or not any more.
    pub fn set_subscribed(&self, subscribed: bool) {
        self.inner().subscribed = subscribed;
        metrics::gauge!("selvedge_node_uplink_connected").set(f64::from(u8::from(subscribed)));
    }

    /// Whether the uplink is subscribed.
    pub fn is_subscribed(&self) -> bool {
        self.inner().subscribed
    }

    /// Counts a refused message; says whether to log it, and how many lines were left out before.
    pub fn refused(&self, reason: &'static str, now: Instant) -> Option<LeftOut> {
        metrics::counter!("selvedge_node_refused_total", "reason" => reason).increment(1);
        *self.inner().refused.entry(reason).or_default() += 1;
        self.log_due(reason, now)
    }

    /// The embedded broker has dropped `dropped` messages in all, of clients that send faster than they are heard; so many of them
    /// were counted before. Gives the number that is counted now.
    pub fn flooded(&self, counted: u64, dropped: u64) -> u64 {
        if dropped > counted {
            metrics::counter!("selvedge_node_refused_total", "reason" => "flood")
                .increment(dropped - counted);
            *self.inner().refused.entry("flood").or_default() += dropped - counted;
            if let Some(left_out) = self.log_due("flood", Instant::now()) {
                let dropped = dropped - counted;
                tracing::warn!(
                    dropped,
                    "a client of the embedded broker sends too fast; it loses messages{left_out}"
                );
            }
        }
        dropped
    }

    /// Whether `what` is to be logged, and what was left out before.
    pub fn log_due(&self, what: &'static str, now: Instant) -> Option<LeftOut> {
        let mut inner = self.inner();
        let start = *inner.start.get_or_insert(now);
        let now_ms = u64::try_from(now.duration_since(start).as_millis()).unwrap_or(u64::MAX);
        inner.logged.note(now_ms, what)
    }

    /// How often each reason came.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.inner().refused.clone()
    }

    /// An authentic message came. There are at most as many entries as shards that hold a secret.
    pub fn heard(&self, message: &Incoming, at: EpochMs) {
        let heard = HeardShard { at, first_kept: message.first_kept, last: message.last };
        self.inner().heard.insert((message.site.clone(), message.shard), heard);
    }

    /// When each shard was last heard.
    pub fn last_heard(&self) -> BTreeMap<(SiteId, ShardId), HeardShard> {
        self.inner().heard.clone()
    }

    /// A transaction was committed.
    pub fn applied(&self, applied: &Applied, took: Duration) {
        for outcome in &applied.outcomes {
            let outcome = match outcome {
                MessageOutcome::Applied => "applied",
                MessageOutcome::Duplicate => "duplicate",
                MessageOutcome::Beacon => "beacon",
                MessageOutcome::Lost => "lost",
                MessageOutcome::LostEarly => "lost_early",
                MessageOutcome::TooFarAhead => "too_far_ahead",
                MessageOutcome::Conflict => "conflict",
                MessageOutcome::Superseded => "superseded",
            };
            metrics::counter!("selvedge_node_messages_total", "outcome" => outcome).increment(1);
        }
        metrics::counter!("selvedge_node_windows_written_total").increment(applied.windows as u64);
        metrics::counter!("selvedge_node_batches_given_up_total").increment(applied.given_up);
        metrics::counter!("selvedge_node_batches_lost_total").increment(applied.lost.len() as u64);
        metrics::histogram!("selvedge_node_apply_seconds").record(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_guard::log_limit::{SPAN_LINES_ENTRIES, SPAN_MS};

    #[test]
    fn a_reason_is_logged_once_in_a_while_and_counted_always() {
        let (stats, start) = (Stats::default(), Instant::now());
        let later = start + Duration::from_millis(SPAN_MS);
        for _ in 0..SPAN_LINES_ENTRIES {
            assert_eq!(stats.refused("a", start), Some(LeftOut(0)));
        }
        assert_eq!(stats.refused("a", start), None);
        assert_eq!(stats.refused("b", start), Some(LeftOut(0)));
        assert_eq!(stats.refused("a", start), None);
        assert_eq!(stats.refused("a", later), Some(LeftOut(2)));
        assert_eq!(stats.refusals(), BTreeMap::from([("a", SPAN_LINES_ENTRIES + 3), ("b", 1)]));
    }
}
