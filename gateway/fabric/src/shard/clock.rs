//! Elapsed time, as the leader of a shard counts it.
//!
//! A leader goes on from what the log says and adds what has passed on its own monotonic clock since it began to lead. What
//! passes between two leaders, or after the last proposal of one, is lost: so what waits may wait longer than it was told to,
//! and never less, whatever any wall clock says.
//!
//! Invariant: elapsed time never goes back along the log, and never advances faster than the monotonic clock of whoever leads.
//! (So two proposals of one millisecond carry the same elapsed time: a step for each would invent some at more than a
//! thousand proposals a second.)

use selvedge_types::time::ElapsedMs;

/// The elapsed time of a shard while one replica leads it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ElapsedClock {
    /// What the log said when this replica began to lead.
    from: ElapsedMs,
    /// When that was, on the monotonic clock.
    begun_ms: u64,
}

impl ElapsedClock {
    /// Goes on from what the log says, at `mono_ms`.
    pub(super) fn new(from: ElapsedMs, mono_ms: u64) -> Self {
        Self { from, begun_ms: mono_ms }
    }

    /// The elapsed time now.
    pub(super) fn now(&self, mono_ms: u64) -> ElapsedMs {
        self.from.plus(mono_ms.saturating_sub(self.begun_ms))
    }

    /// When it will be `at`, on the monotonic clock; later than now.
    pub(super) fn when(&self, mono_ms: u64, at: ElapsedMs) -> u64 {
        mono_ms.saturating_add(at.since(self.now(mono_ms)).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_leader_goes_on_from_the_log_and_adds_what_passes_while_it_leads() {
        let clock = ElapsedClock::new(ElapsedMs(5_000), 70);
        assert_eq!(clock.now(70), ElapsedMs(5_000), "what passed before it led is lost");
        assert_eq!(clock.now(1_070), ElapsedMs(6_000));
        assert_eq!(clock.when(1_070, ElapsedMs(6_250)), 1_320);
        assert_eq!(
            clock.when(1_070, ElapsedMs(1)),
            1_071,
            "what is overdue comes next, not at once for ever"
        );
    }
}
