//! What all windows of a series add up to: kept with the series, so that a list of devices need not read their windows.
//!
//! Sequence numbers are merged as in windows, which keep those of the latest boots. What earlier boots were missing is added up when they
//! go; a late reading of one of them may then count its own gap once more.

use selvedge_types::sequences::{MAX_SEQUENCES_ENTRIES, SequenceSpan, Sequences};
use selvedge_types::uplink::Part;
use std::collections::BTreeMap;

/// The sums of a series.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    pub readings: u64,
    /// How many of them came late.
    pub late: u64,
    /// How many readings the site set aside.
    pub set_aside: u64,
    /// The sequence numbers of its latest boots.
    pub sequences: Sequences,
    /// How many were missing in earlier ones.
    pub missing_before: u64,
}

impl Totals {
    /// Takes in a part of a window.
    pub fn add(&mut self, part: &Part) {
        self.merge(&Self {
            readings: part.aggregate.count,
            late: part.late,
            set_aside: part.set_aside,
            sequences: part.sequences.clone(),
            missing_before: 0,
        });
    }

    /// Takes in others of the same series.
    pub fn merge(&mut self, other: &Self) {
        self.readings = self.readings.saturating_add(other.readings);
        self.late = self.late.saturating_add(other.late);
        self.set_aside = self.set_aside.saturating_add(other.set_aside);
        self.missing_before = self.missing_before.saturating_add(other.missing_before);
        if other.sequences.list().is_empty() {
            return;
        }
        let mut boots: BTreeMap<Option<u64>, SequenceSpan> = BTreeMap::new();
        for span in self.sequences.list().iter().chain(other.sequences.list()) {
            let one = boots.entry(span.boot).or_insert(SequenceSpan { count: 0, ..*span });
            (one.first, one.last) = (one.first.min(span.first), one.last.max(span.last));
            one.count = one.count.saturating_add(span.count);
        }
        while boots.len() > MAX_SEQUENCES_ENTRIES {
            let Some((_, gone)) = boots.pop_first() else { break };
            self.missing_before = self.missing_before.saturating_add(gone.missing());
        }
        self.sequences = Sequences::from_list(&boots.into_values().collect::<Vec<_>>());
    }

    /// How many sequence numbers are missing; nothing if no reading is numbered.
    pub fn missing(&self) -> Option<u64> {
        self.sequences.missing().map(|missing| missing.saturating_add(self.missing_before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_adds_up_over_any_number_of_boots() {
        let mut all = Totals { readings: 1, ..Totals::default() };
        assert_eq!(all.missing(), None);
        for boot in 1..=10 {
            // Of 1 to 4 the third is missing.
            for (first, last, count) in [(1, 2, 2), (4, 4, 1)] {
                let span = SequenceSpan { boot: Some(boot), first, last, count };
                let sequences = Sequences::from_list(&[span]);
                all.merge(&Totals { readings: count, set_aside: 1, sequences, ..Totals::default() });
            }
        }
        assert_eq!((all.readings, all.set_aside, all.missing()), (31, 20, Some(10)));
        assert_eq!(all.sequences.list().len(), MAX_SEQUENCES_ENTRIES);
    }
}
