//! The task that writes: drains its bounded queue, applies what it found in one transaction, and gives the
//! cursors on to be confirmed once that is on disk.

use crate::live::Live;
use crate::stats::Stats;
use crate::store::{StoreError, Writer};
use selvedge_node_core::incoming::Incoming;
use selvedge_node_core::progress::BatchSpan;
use selvedge_node_core::stage::{MessageOutcome, SettledCursor, ShardKey};
use selvedge_types::ids::SiteId;
use selvedge_types::time::EpochMs;
use selvedge_types::uplink::{LedgerId, LostBatch};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{Notify, mpsc};

/// How many messages may wait to be applied; each holds at most
/// [`selvedge_types::uplink::MAX_BATCH_BYTES`] encoded.
pub const QUEUE_ENTRIES: usize = 128;

/// How many messages go into one transaction at most.
pub const TRANSACTION_ENTRIES: usize = 64;

/// How long to rest after the database failed; each time in a row that it does, twice as long, up to [`LONGEST_REST_MS`].
pub const FIRST_REST_MS: u64 = 100;

/// The longest rest after the database failed several times in a row.
pub const LONGEST_REST_MS: u64 = 5_000;

/// How many runs of lost batches a line of the log names.
const SHOWN_LOST_ENTRIES: usize = 5;

/// Cursors that are to be confirmed: the latest of each shard.
#[derive(Debug, Default)]
pub struct Confirmations {
    waiting: Mutex<BTreeMap<ShardKey, (LedgerId, SettledCursor)>>,
    arrived: Notify,
}

impl Confirmations {
    /// Shards' cursors are on disk in a ledger.
    pub fn put(&self, ledger: LedgerId, cursors: impl IntoIterator<Item = (ShardKey, SettledCursor)>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (shard, settled) in cursors {
            let latest = waiting.entry(shard).or_insert((ledger, settled));
            // The figures of another ledger, or of another incarnation of the site, say nothing about this one.
            let same = (latest.0, latest.1.incarnation) == (ledger, settled.incarnation);
            let cursor = if same { settled.cursor.max(latest.1.cursor) } else { settled.cursor };
            *latest = (ledger, SettledCursor { cursor, ..settled });
        }
        self.arrived.notify_one();
    }

    /// Waits until there are some, and takes them all.
    pub async fn take(&self) -> BTreeMap<ShardKey, (LedgerId, SettledCursor)> {
        loop {
            let taken = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken;
            }
            self.arrived.notified().await;
        }
    }
}

/// Applies until the queue is closed and empty, then closes the database. Messages that the database fails on, and those that
/// come while it rests from that, are dropped unconfirmed; the edge sends them again.
///
/// # Errors
/// When the database can't be closed well; nothing that was confirmed is lost by it.
pub async fn run(
    mut writer: Writer,
    mut queue: mpsc::Receiver<Incoming>,
    confirmations: Arc<Confirmations>,
    stats: Arc<Stats>,
    live: Arc<Live>,
) -> Result<(), StoreError> {
    let (mut waiting, mut rest_ms) = (Vec::with_capacity(TRANSACTION_ENTRIES), FIRST_REST_MS);
    while queue.recv_many(&mut waiting, TRANSACTION_ENTRIES).await > 0 {
        let messages: Arc<[Incoming]> = std::mem::take(&mut waiting).into();
        let start = Instant::now();
        match writer.apply(&messages, EpochMs::from(SystemTime::now())).await {
            Ok(applied) => {
                rest_ms = FIRST_REST_MS;
                stats.applied(&applied, start.elapsed());
                for (message, outcome) in messages.iter().zip(&applied.outcomes) {
                    told_once(message, *outcome, &stats);
                }
                told_lacking(&applied.lacking);
                told_lost(&applied.lost);
                live.applied(&messages, &applied.outcomes);
                confirmations.put(applied.ledger, applied.cursors);
            }
            Err(error) => {
                metrics::counter!("selvedge_node_store_errors_total").increment(1);
                tracing::error!(%error, messages = messages.len(), "can't apply messages; the node confirms none of them");
                let dropped = rest(&mut queue, Duration::from_millis(rest_ms)).await;
                metrics::counter!("selvedge_node_refused_total", "reason" => "database").increment(dropped);
                rest_ms = (rest_ms * 2).min(LONGEST_REST_MS);
            }
        }
    }
    live.close();
    writer.close().await
}

/// Drops what comes for so long, so that neither the connection to the broker stands still nor old messages pile up; says how
/// many these were. Ends early if the queue does.
async fn rest(queue: &mut mpsc::Receiver<Incoming>, rest: Duration) -> u64 {
    let end = tokio::time::Instant::now() + rest;
    let mut dropped = 0;
    while let Ok(Some(_)) = tokio::time::timeout_at(end, queue.recv()).await {
        dropped += 1;
    }
    dropped
}

/// Says which batches the sites have lost: a person should look.
fn told_lost(lost: &[(ShardKey, u64, LostBatch)]) {
    let mut sites: BTreeMap<&SiteId, Vec<&(ShardKey, u64, LostBatch)>> = BTreeMap::new();
    for one in lost {
        sites.entry(&one.0.0).or_default().push(one);
    }
    for (site, all) in sites {
        let readings = all.iter().map(|(_, _, lost)| lost.readings).fold(0, u64::saturating_add);
        let from = all.iter().map(|(_, _, lost)| lost.from).min().unwrap_or_default();
        let to = all.iter().map(|(_, _, lost)| lost.to).max().unwrap_or_default();
        let shown = all.iter().take(SHOWN_LOST_ENTRIES);
        let shown: Vec<_> = shown.map(|((_, shard), seq, _)| format!("shard {shard}: {seq}")).collect();
        tracing::error!(
            %site, batches = all.len(), readings, %from, %to, which = shown.join(", "),
            "every replica at the site has lost the content of batches: what they held is missing for good; /v1/sites/{site}, /v1/gaps \
             and the view `holes` list them"
        );
    }
}

/// Says which batches never came and never will: a person should look.
fn told_lacking(lacking: &[(ShardKey, BatchSpan)]) {
    let mut sites: BTreeMap<&SiteId, Vec<&(ShardKey, BatchSpan)>> = BTreeMap::new();
    for one in lacking {
        sites.entry(&one.0.0).or_default().push(one);
    }
    for (site, all) in sites {
        let batches = all.iter().map(|(_, span)| span.last.saturating_sub(span.first).saturating_add(1));
        let batches = batches.fold(0, u64::saturating_add);
        let shown = all.iter().take(SHOWN_LOST_ENTRIES);
        let shown: Vec<_> = shown
            .map(|((_, shard), span)| format!("shard {shard}: {} to {}", span.first, span.last))
            .collect();
        let from_the_first = all.iter().any(|(_, span)| span.first == 1);
        tracing::warn!(
            %site, batches, runs = all.len(), which = shown.join(", "),
            "this database lacks confirmed batches that the site no longer keeps: what they held is missing here for good{}; /v1/gaps and \
             the view `holes` list them",
            if from_the_first { ", unless a copy of the database that had them is restored (is this a new one in its place?)" } else { "" }
        );
    }
}

fn told_once(message: &Incoming, outcome: MessageOutcome, stats: &Stats) {
    let (reason, what) = match outcome {
        MessageOutcome::Conflict => (
            "conflict",
            "a batch number came with another content: was a gateway's disk copied or restored? The node confirms nothing of this shard \
             until shard_progress.conflict_seq is cleared",
        ),
        MessageOutcome::TooFarAhead => ("too_far_ahead", "a batch came too far ahead of a gap"),
        MessageOutcome::Superseded => (
            "superseded",
            "a batch of an earlier incarnation of the site came, although a later one is known: do two sites share a name and a secret, or \
             was the clock behind when the site was set up again?",
        ),
        MessageOutcome::Applied
        | MessageOutcome::Duplicate
        | MessageOutcome::Beacon
        | MessageOutcome::Lost
        | MessageOutcome::LostEarly => {
            return;
        }
    };
    if let Some(left_out) = stats.refused(reason, Instant::now()) {
        let (site, shard) = (&message.site, message.shard);
        tracing::warn!(%site, %shard, "{what}{left_out}");
    }
}
