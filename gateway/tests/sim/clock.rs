//! Wall clocks: each gateway has its own idea of the time.

use selvedge_types::time::EpochMs;

/// The time at which runs begin, by a correct clock.
pub const START_MS: i64 = 1_764_000_000_000;

/// The furthest that a clock is off: most rules of the simulated sites still count every reading there.
const MAX_OFF_MS: i64 = 60 * 31_557_600_000;

/// The time by a correct clock.
pub fn true_time(now: u64) -> EpochMs {
    EpochMs(START_MS + now as i64)
}

/// One gateway's wall clock. Its monotonic clock is the world's.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    offset_ms: i64,
    drift_per_mille: i64,
    drifts_since: u64,
    /// For each jump of the clock: when it was, and how far the clock was off before.
    before: Vec<(u64, i64)>,
}

impl Clock {
    pub fn read(&self, now: u64) -> EpochMs {
        true_time(now).plus(self.off(now))
    }

    fn off(&self, now: u64) -> i64 {
        self.offset_ms + (now - self.drifts_since) as i64 * self.drift_per_mille / 1_000
    }

    /// How far the clock is off now, and every offset that it had since `since`.
    pub fn offs(&self, now: u64, since: u64) -> impl Iterator<Item = i64> {
        let before = self.before.iter().filter(move |(until, _)| *until >= since).map(|(_, off)| *off);
        before.chain([self.off(now)])
    }

    pub fn jump(&mut self, now: u64, by_ms: i64) {
        self.before.push((now, self.off(now)));
        self.offset_ms = (self.offset_ms + by_ms).clamp(-MAX_OFF_MS, MAX_OFF_MS);
    }

    pub fn drift(&mut self, now: u64, per_mille: i64) {
        self.offset_ms = self.off(now);
        (self.drift_per_mille, self.drifts_since) = (per_mille, now);
    }

    pub fn go_to_1970(&mut self, now: u64) {
        self.drift(now, 0);
        self.jump(now, -true_time(now).0 - self.offset_ms);
    }

    pub fn set_right(&mut self, now: u64) {
        self.drift(now, 0);
        self.jump(now, -self.offset_ms);
    }
}
