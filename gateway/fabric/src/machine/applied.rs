//! The effects of applying a proposal, for the machine's host to carry out.

use super::command::Origin;
use super::judged::Reason;
use super::outcomes::BatchVerdict;

/// The effects of applying one proposal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// One verdict for each forwarded batch in the proposal, in its order.
    pub verdicts: Vec<(Origin, u64, BatchVerdict)>,
    /// The batches that were cut. The host must store them before a snapshot that includes this slot counts;
    /// applying the slot again cuts the same batches.
    pub batches: Vec<CutBatch>,
    /// The host may delete the contents of batches up to this one.
    pub released: Option<u64>,
    /// The batches that were marked as lost.
    pub lost: Vec<u64>,
    /// Connections that a later one of the same client has replaced. The gateway that holds one closes it.
    pub evicted: Vec<Evicted>,
    /// Gateway processes that were given up as lost and are heard from again. Each closes the connections
    /// that it has had in this shard.
    pub returned: Vec<Origin>,
    /// How often things happened, for metrics.
    pub counters: Counters,
}

/// A batch whose content is fixed from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutBatch {
    pub seq: u64,
    /// An encoded [`Batch`](selvedge_types::uplink::Batch), the same on every replica.
    pub bytes: Vec<u8>,
}

/// A connection that the gateway which holds it must close.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    pub client: String,
    /// The gateway process that holds the connection.
    pub at: Origin,
    /// The number that this process gave the connection.
    pub connection: u64,
    /// The epoch that the shard gave the connection.
    pub epoch: u64,
}

/// How often things happened while commands were applied, for metrics. Not part of the replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Readings that were counted.
    pub counted: u64,
    /// Of these, readings for a window that had already closed.
    pub late: u64,
    /// Of these, readings more than [`MAX_LEAD_MS`](super::MAX_LEAD_MS) ahead of a wall time that a majority
    /// agreed on.
    pub future: u64,
    /// Readings that were recognised by their sequence number as counted before.
    pub recognised: u64,
    /// Readings that were set aside, in the order of [`Reason::ALL`].
    pub set_aside: [u64; Reason::ALL.len()],
    /// Publishes that were recognised by their packet id.
    pub duplicates: u64,
    /// Items from a connection that a later one has replaced.
    pub stale: u64,
    /// Items that were refused.
    pub refused: u64,
    /// Publishes that went into the quarantine.
    pub quarantined: u64,
    /// Entries that the quarantine dropped at its bound.
    pub quarantine_evicted: u64,
    /// Batches that had been applied before.
    pub already_applied: u64,
    /// Batches that do not decode.
    pub malformed: u64,
    /// Parts of windows that closed.
    pub closed: u64,
    /// Of these, parts that closed early because of a bound.
    pub forced: u64,
    /// Clients whose packet ids were forgotten at the bound.
    pub clients_forgotten: u64,
    /// Boots whose sequence numbers were forgotten at the bound.
    pub boots_forgotten: u64,
    /// Sessions that ended because their expiry had passed.
    pub sessions_expired: u64,
    pub retired: u64,
    /// Of these, streams that were retired because they were silent.
    pub retired_idle: u64,
    /// Tombstones that were forgotten at their bound. A resend of such a stream's readings would count again.
    pub tombstones_forgotten: u64,
    /// Unconfirmed batches whose contents every replica has lost.
    pub batches_lost: u64,
}

impl Counters {
    /// How many readings were set aside for each reason.
    pub fn by_reason(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.set_aside)
    }

    /// The counters by their names, for metrics; those of `set_aside` have [`Counters::by_reason`].
    pub fn named(&self) -> [(&'static str, u64); 20] {
        [
            ("counted", self.counted),
            ("late", self.late),
            ("future", self.future),
            ("recognised", self.recognised),
            ("duplicates", self.duplicates),
            ("stale", self.stale),
            ("refused", self.refused),
            ("quarantined", self.quarantined),
            ("quarantine_evicted", self.quarantine_evicted),
            ("already_applied", self.already_applied),
            ("malformed", self.malformed),
            ("closed", self.closed),
            ("forced", self.forced),
            ("clients_forgotten", self.clients_forgotten),
            ("boots_forgotten", self.boots_forgotten),
            ("sessions_expired", self.sessions_expired),
            ("retired", self.retired),
            ("retired_idle", self.retired_idle),
            ("tombstones_forgotten", self.tombstones_forgotten),
            ("batches_lost", self.batches_lost),
        ]
    }
}
