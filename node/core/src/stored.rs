//! What is stored of streams: which series there are, and the rows of their windows and roll-ups.

use selvedge_types::aggregate::Aggregate;
use selvedge_types::sequences::Sequences;
use selvedge_types::time::EpochMs;

/// One stream at one width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesInfo {
    pub id: i64,
    /// The site of its device.
    pub site: String,
    pub device: String,
    pub stream: String,
    /// The width of its windows.
    pub width_ms: i64,
    /// How far the stream has come.
    pub passed: EpochMs,
    /// Whether lost batches may have held some of it; which stretches are in doubt is stored apart.
    pub doubtful: bool,
}

/// One window, or one span of a roll-up, as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredWindow {
    pub start: EpochMs,
    /// The figures of its readings.
    pub aggregate: Aggregate,
    /// How many of them were late.
    pub late: u64,
    /// How many parts it was merged from; in the tables, its `revision`.
    pub parts: u64,
    /// How many readings of the stream the site set aside while its parts were open.
    pub set_aside: u64,
    /// The sequence numbers of its readings.
    pub sequences: Sequences,
}

impl StoredWindow {
    /// Takes in another window of the same span.
    pub fn merge(&mut self, other: &Self) {
        self.aggregate.merge(&other.aggregate);
        self.late = self.late.saturating_add(other.late);
        self.parts = self.parts.saturating_add(other.parts);
        self.set_aside = self.set_aside.saturating_add(other.set_aside);
        self.sequences.merge(&other.sequences);
    }
}
