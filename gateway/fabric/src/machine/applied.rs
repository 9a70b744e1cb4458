//! What applying a proposal gives, for the machine's host.

use super::command::Origin;
use super::judged::Reason;
use super::outcomes::BatchVerdict;

/// What applying one proposal gives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// One for each forwarded batch in the proposal, in its order.
    pub verdicts: Vec<(Origin, u64, BatchVerdict)>,
    /// Batches that were cut now. To be stored before a snapshot that includes this slot counts; applying the slot
    /// again gives the same.
    pub batches: Vec<CutBatch>,
    /// The contents of batches up to this one may be deleted.
    pub released: Option<u64>,
    /// Batches that were marked as lost now.
    pub lost: Vec<u64>,
    /// Connections that a later one of the same client has replaced: whoever holds one closes it.
    pub evicted: Vec<Evicted>,
    /// Processes that were given up as lost and are heard of again: each closes the connections it has had in this shard.
    pub returned: Vec<Origin>,
    /// What happened, in numbers.
    pub counters: Counters,
}

/// A batch that was cut now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CutBatch {
    /// Its number.
    pub seq: u64,
    /// An encoded [`Batch`](selvedge_types::uplink::Batch).
    pub bytes: Vec<u8>,
}

/// A connection that is to be closed by the gateway that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evicted {
    /// The client id.
    pub client: String,
    /// The gateway process that holds the connection.
    pub at: Origin,
    /// Which of its connections.
    pub connection: u64,
    /// The epoch it was given.
    pub epoch: u64,
}

/// How much of what happened. Not part of the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Readings that were counted.
    pub counted: u64,
    /// Of these, readings for a window that had closed.
    pub late: u64,
    /// Of these, readings that are ahead of a wall time that is sure by more than [`MAX_LEAD_MS`](super::MAX_LEAD_MS).
    pub future: u64,
    /// Readings that were recognised by their sequence number as counted before.
    pub recognised: u64,
    /// Readings that were set aside, by [`Reason::ALL`].
    pub set_aside: [u64; Reason::ALL.len()],
    /// Publishes recognised by their packet id.
    pub duplicates: u64,
    /// Items from a connection that was replaced.
    pub stale: u64,
    /// Items refused at a bound.
    pub refused: u64,
    /// Publishes that went into the quarantine.
    pub quarantined: u64,
    /// Entries that its bound has pushed out.
    pub quarantine_evicted: u64,
    /// Batches that had been applied before.
    pub already_applied: u64,
    /// Batches that do not decode.
    pub malformed: u64,
    /// Parts that closed.
    pub closed: u64,
    /// Of these, parts that a bound closed early.
    pub forced: u64,
    /// Clients whose packet ids were forgotten at the bound.
    pub clients_forgotten: u64,
    /// Boots whose sequence numbers were forgotten at the bound.
    pub boots_forgotten: u64,
    /// Sessions that have ended by time.
    pub sessions_expired: u64,
    /// Streams that were retired.
    pub retired: u64,
    /// Of these, streams that were retired because they were silent.
    pub retired_idle: u64,
    /// Tombstones that were forgotten at their bound: a resend behind them would count again.
    pub tombstones_forgotten: u64,
    /// Unconfirmed batches whose contents every replica has lost.
    pub batches_lost: u64,
}

impl Counters {
    /// How many readings were set aside for each reason.
    pub fn by_reason(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.set_aside)
    }

    /// All but the reasons by their names, for those who add them up.
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
