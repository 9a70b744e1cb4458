//! Wall clocks: each gateway has its own idea of the time.

use selvedge_shared::time::EpochMs;

/// When runs begin, by a right clock.
pub const START_MS: i64 = 1_764_000_000_000;

/// The right time.
pub fn true_time(now: u64) -> EpochMs {
    EpochMs(START_MS + now as i64)
}

/// One gateway's wall clock. Its monotonic clock is the world's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    offset_ms: i64,
    drift_per_mille: i64,
    drifts_since: u64,
}

impl Clock {
    pub fn read(&self, now: u64) -> EpochMs {
        let drifted = (now - self.drifts_since) as i64 * self.drift_per_mille / 1_000;
        true_time(now).plus(self.offset_ms + drifted)
    }

    pub fn jump(&mut self, by_ms: i64) {
        self.offset_ms += by_ms;
    }

    pub fn drift(&mut self, now: u64, per_mille: i64) {
        self.offset_ms = self.read(now).0 - true_time(now).0;
        (self.drift_per_mille, self.drifts_since) = (per_mille, now);
    }

    pub fn go_to_1970(&mut self, now: u64) {
        *self = Self { offset_ms: -true_time(now).0, ..Self::default() };
    }
}
