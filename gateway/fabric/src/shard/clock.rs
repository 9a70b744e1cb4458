//! Elapsed time, as the leader of a shard counts it.
//!
//! A leader continues from the elapsed time in the log and adds the time that has passed on its own monotonic clock
//! since it began to lead. Time that passes between two leaders, or after the last proposal of one, is lost. So a
//! wait may last longer than it should, but never shorter, whatever any wall clock says.
//!
//! Invariant: elapsed time never goes back along the log, and never advances faster than the monotonic clock of the
//! current leader. (So two proposals within one millisecond carry the same elapsed time: a step for each would
//! invent time at more than a thousand proposals a second.)

use selvedge_types::time::ElapsedMs;

/// The elapsed time of a shard while one replica leads it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ElapsedClock {
    /// The elapsed time in the log when this replica began to lead.
    from: ElapsedMs,
    /// When this replica began to lead, on the monotonic clock.
    begun_ms: u64,
}

impl ElapsedClock {
    /// Continues from the elapsed time in the log, at `mono_ms`.
    pub(super) fn new(from: ElapsedMs, mono_ms: u64) -> Self {
        Self { from, begun_ms: mono_ms }
    }

    /// The elapsed time now.
    pub(super) fn now(&self, mono_ms: u64) -> ElapsedMs {
        self.from.plus(mono_ms.saturating_sub(self.begun_ms))
    }

    /// When elapsed time will reach `at`, on the monotonic clock; always later than now.
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
