//! How recent MQTT connections ended, and how often for which reason.
//!
//! Limit: the last [`REASON_ENTRIES`] departures of each reason are kept, so that a loop of one kind does not displace
//! the others. The number of reasons is that of the labels of `CloseReason::label`.

use selvedge_mqtt::Departure;
use selvedge_types::time::EpochMs;
use std::collections::{BTreeMap, VecDeque};

/// The departures that are kept of each reason.
pub const REASON_ENTRIES: usize = 16;

/// A connection that ended, or was refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    /// Running number: later departures have greater ones.
    pub n: u64,
    pub at: EpochMs,
    pub departure: Departure,
}

/// The last departures by reason, and how many there were of each.
#[derive(Debug, Default)]
pub struct Departures {
    by_reason: BTreeMap<&'static str, (u64, VecDeque<Left>)>,
    last: u64,
}

impl Departures {
    /// Counts a departure and keeps it, in place of the oldest one of its reason.
    pub fn note(&mut self, at: EpochMs, departure: &Departure) {
        self.last += 1;
        let (count, kept) = self.by_reason.entry(departure.reason.label()).or_default();
        *count += 1;
        if kept.len() >= REASON_ENTRIES {
            kept.pop_front();
        }
        kept.push_back(Left { n: self.last, at, departure: departure.clone() });
    }

    /// How many departures each reason has had.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.by_reason.iter().map(|(reason, (count, _))| (*reason, *count)).collect()
    }

    /// The kept departures that are `wanted`, latest first.
    pub fn list(&self, wanted: impl Fn(&Departure) -> bool) -> Vec<Left> {
        let kept = self.by_reason.values().flat_map(|(_, kept)| kept);
        let mut list: Vec<_> = kept.filter(|left| wanted(&left.departure)).cloned().collect();
        list.sort_unstable_by_key(|left| std::cmp::Reverse(left.n));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_types::mqtt::CloseReason;

    #[test]
    fn a_loop_of_one_reason_leaves_the_others() {
        let mut departures = Departures::default();
        let departure = |reason| Departure::refused(([127, 0, 0, 1], 9).into(), reason);
        departures.note(EpochMs(1), &departure(CloseReason::KeepAlive));
        for n in 2..5_002 {
            departures.note(EpochMs(n), &departure(CloseReason::TakenOver));
        }
        let list = departures.list(|_| true);
        assert_eq!(list.len(), REASON_ENTRIES + 1);
        assert_eq!((list[0].at, list[REASON_ENTRIES].at), (EpochMs(5_001), EpochMs(1)));
        assert_eq!(departures.counts(), BTreeMap::from([("keep_alive", 1), ("taken_over", 5_000)]));
        assert_eq!(departures.list(|d| d.reason == CloseReason::KeepAlive).len(), 1);
    }
}
