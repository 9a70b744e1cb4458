//! What a measurement found: one JSON object, or a plain table.

use super::Tally;
use super::plan::BenchPlan;
use super::watch::Usage;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The result of one measurement, as `bench --json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    pub plan: BenchPlan,
    /// How long was measured, in seconds.
    pub seconds: f64,
    /// Publishes sent in the whole run.
    pub published: u64,
    /// Publishes acknowledged in the whole run.
    pub acked: u64,
    /// Acknowledged in the measurement, per second.
    pub acked_per_s: f64,
    /// Sent and not acknowledged, even after the drain.
    pub unacknowledged: u64,
    /// Due, but not sent, since the broker was too far behind.
    pub skipped: u64,
    /// From sending (open loop: from when it was due) to the acknowledgement.
    pub latency_us: Latency,
    /// A write of 256 bytes and its fdatasync, if that was to be measured.
    pub disk_us: Option<Latency>,
    /// The broker's processes together.
    pub broker: Cost,
    pub generator: Cost,
    /// Each of the broker's processes.
    pub processes: Vec<Usage>,
}

/// A latency's mean, percentiles and maximum, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    /// 99.9 % of the publishes were acknowledged within this time.
    pub p999: u64,
    pub max: u64,
}

/// What processes used during the measurement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Processor time per acknowledged reading, in microseconds.
    pub cpu_us_per_reading: f64,
    /// Share of one core that was used.
    pub cores: f64,
    /// The peak resident memory of the largest process, in bytes.
    pub largest_resident_bytes: u64,
    /// Bytes written per acknowledged reading by the process that wrote most.
    pub most_written_bytes_per_reading: f64,
}

impl Latency {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        }
    }
}

impl Cost {
    fn of(usage: &[Usage], seconds: f64, readings: u64) -> Self {
        let cpu_us = usage.iter().map(|u| u.cpu_us).sum::<u64>() as f64;
        let most = |of: fn(&Usage) -> u64| usage.iter().map(of).max().unwrap_or(0);
        let each = |amount: f64| if readings > 0 { amount / readings as f64 } else { 0.0 };
        Self {
            cpu_us_per_reading: each(cpu_us),
            cores: cpu_us / 1e6 / seconds,
            largest_resident_bytes: most(|u| u.resident_bytes),
            most_written_bytes_per_reading: each(most(|u| u.written_bytes) as f64),
        }
    }
}

impl BenchReport {
    /// Puts it together; the last of `usage` is the generator.
    pub(super) fn new(
        plan: &BenchPlan,
        seconds: f64,
        tally: &Tally,
        disk_us: Option<Latency>,
        mut usage: Vec<Usage>,
    ) -> Self {
        let own: Vec<Usage> = usage.pop().into_iter().collect();
        Self {
            plan: plan.clone(),
            seconds,
            published: tally.published,
            acked: tally.acked,
            acked_per_s: tally.measured as f64 / seconds,
            unacknowledged: tally.published.saturating_sub(tally.acked),
            skipped: tally.skipped,
            latency_us: Latency::of(&tally.latency_us),
            disk_us,
            broker: Cost::of(&usage, seconds, tally.measured),
            generator: Cost::of(&own, seconds, tally.measured),
            processes: usage,
        }
    }
}

#[cfg(test)]
impl BenchReport {
    pub(super) fn empty() -> Self {
        let tally = Tally::new().unwrap();
        Self::new(&BenchPlan::default(), 1.0, &tally, None, Vec::new())
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = 1024.0 * 1024.0;
        let plan = &self.plan;
        let how = match (plan.idle, plan.rate > 0.0) {
            (true, _) => "idle".to_string(),
            (false, true) => format!("{} readings/s due", plan.rate),
            (false, false) => format!("{} in flight each", plan.in_flight),
        };
        writeln!(
            f,
            "{}: {} connections, {} devices, {how}, {:.1} s",
            plan.label,
            plan.connections,
            plan.devices(),
            self.seconds
        )?;
        if !plan.idle {
            let l = &self.latency_us;
            writeln!(
                f,
                "  acknowledged     {:.0}/s, {} in all, {} unacknowledged, {} skipped",
                self.acked_per_s, self.acked, self.unacknowledged, self.skipped
            )?;
            writeln!(
                f,
                "  latency (us)     p50 {}  p90 {}  p99 {}  p99.9 {}  max {}",
                l.p50, l.p90, l.p99, l.p999, l.max
            )?;
        }
        if let Some(d) = &self.disk_us {
            writeln!(f, "  fdatasync (us)   p50 {}  p90 {}  p99 {}", d.p50, d.p90, d.p99)?;
        }
        for (who, cost) in [("broker", &self.broker), ("generator", &self.generator)] {
            if who == "broker" && self.processes.is_empty() {
                continue;
            }
            writeln!(
                f,
                "  {who:<10} cpu   {:.3} us/reading, {:.3} cores",
                cost.cpu_us_per_reading, cost.cores
            )?;
        }
        for p in &self.processes {
            writeln!(
                f,
                "  {:<16} {:.1} MiB resident, {:.3} cores, {:.1} MiB written, {:.1} bytes/reading",
                format!("{} {}", p.name, p.pid),
                p.resident_bytes as f64 / MIB,
                p.cpu_us as f64 / 1e6 / self.seconds,
                p.written_bytes as f64 / MIB,
                p.written_bytes as f64 / (self.acked_per_s * self.seconds).max(1.0),
            )?;
        }
        Ok(())
    }
}
