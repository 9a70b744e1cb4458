//! The load generator: drives any MQTT 3.1.1 broker with readings of QoS 1 and reports how fast it acknowledges them.
//!
//! One thread (or `--threads`) drives all connections, with packets built from templates, for the generator mostly shares a
//! machine with what it measures. A run has a warm-up, a measurement and a drain, in which nothing new is sent and
//! acknowledgements are waited for. A broker that closes a connection ends the run with an error: a figure from half of
//! the connections says nothing.
//!
//! Closed loop ([`closed`]): as many publishes as allowed are kept on the wire; latency counts from the moment before a
//! publish is handed to the socket. Open loop ([`open`]): a pacer sends at fixed times, and latency counts from when a
//! reading was due, also when it had to wait for its turn (no coordinated omission: Tene, "How NOT to Measure Latency").

pub mod closed;
pub mod disk;
pub mod lane;
pub mod open;
pub mod packet;
pub mod plan;
pub mod plot;
pub mod report;
pub mod summary;
mod thread;
pub mod watch;

use hdrhistogram::Histogram;
use plan::BenchPlan;
use report::BenchReport;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use watch::Watch;

/// How long acknowledgements are waited for after the measurement.
const DRAIN_MS: u64 = 10_000;

/// The longest latency that the histogram resolves, in microseconds.
const MAX_LATENCY_US: u64 = 600_000_000;

/// Decimal digits of a latency that are kept.
const LATENCY_DIGITS: u8 = 3;

/// How often processes are looked at while a stage lasts.
const WATCH_MS: u64 = 200;

/// How often the end of a run is looked for.
const LOOK_MS: u64 = 20;

/// What a run is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    WarmUp,
    Measure,
    Drain,
    Over,
}

const STAGES: [Stage; 4] = [Stage::WarmUp, Stage::Measure, Stage::Drain, Stage::Over];

/// What the threads of a run share.
#[derive(Debug)]
struct Shared {
    stage: AtomicU8,
    start: Instant,
    start_wall_ms: u64,
    failed: Mutex<Option<String>>,
}

impl Shared {
    fn new() -> Self {
        let start_wall_ms =
            u64::try_from(selvedge_types::time::EpochMs::from(SystemTime::now()).0).unwrap_or(0);
        Self { stage: AtomicU8::new(0), start: Instant::now(), start_wall_ms, failed: Mutex::new(None) }
    }

    fn stage(&self) -> Stage {
        STAGES[usize::from(self.stage.load(Ordering::Relaxed))]
    }

    fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn wall_ms(&self, now_us: u64) -> u64 {
        self.start_wall_ms + now_us / 1_000
    }

    fn fail(&self, why: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    fn failure(&self) -> Option<String> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sleeps until `end`; at once back when something failed.
    fn wait(&self, end: Instant, watch: &mut Watch) -> Result<(), String> {
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            std::thread::sleep(left.min(Duration::from_millis(WATCH_MS)));
            watch.look();
            if let Some(why) = self.failure() {
                return Err(why);
            }
        }
        Ok(())
    }
}

/// What one thread counted.
#[derive(Debug)]
struct Tally {
    published: u64,
    acked: u64,
    /// Acknowledged during the measurement.
    measured: u64,
    latency_us: Histogram<u64>,
    /// Readings that were due, but for which the generator itself had no room.
    skipped: u64,
}

impl Tally {
    fn new() -> Result<Self, String> {
        let latency_us =
            Histogram::new_with_bounds(1, MAX_LATENCY_US, LATENCY_DIGITS).map_err(|e| e.to_string())?;
        Ok(Self { published: 0, acked: 0, measured: 0, latency_us, skipped: 0 })
    }

    fn acked(&mut self, latency_us: u64, stage: Stage) {
        self.acked += 1;
        if stage == Stage::Measure {
            self.measured += 1;
            self.latency_us.saturating_record(latency_us);
        }
    }

    fn add(&mut self, other: &Self) -> Result<(), String> {
        self.published += other.published;
        self.acked += other.acked;
        self.measured += other.measured;
        self.skipped += other.skipped;
        self.latency_us.add(&other.latency_us).map_err(|e| e.to_string())
    }
}

/// Measures.
///
/// # Errors
/// When the plan makes no sense, the broker can't be reached, or it closed a connection.
pub fn run(plan: &BenchPlan) -> Result<BenchReport, String> {
    plan.check()?;
    if plan.subscriber {
        lane::leave_subscription(plan)?;
    }
    let disk_us = plan.disk.as_deref().map(disk::measure).transpose()?;
    let lanes = lane::connect_all(plan)?;
    let shared = Arc::new(Shared::new());
    let mut idle = Vec::new();
    let threads = match (plan.idle, plan.rate > 0.0) {
        (true, _) => {
            idle = lanes;
            Vec::new()
        }
        (false, true) => open::start(plan, lanes, &shared),
        (false, false) => closed::start(plan, lanes, &shared),
    };
    let pids: Vec<u32> = plan.watch.iter().copied().chain([std::process::id()]).collect();
    let measured = (|| {
        let begin = Instant::now() + Duration::from_secs(plan.warmup);
        shared.wait(begin, &mut Watch::start(&[])?)?;
        let mut watch = Watch::start(&pids)?;
        shared.enter(Stage::Measure);
        let begin = Instant::now();
        shared.wait(begin + Duration::from_secs(plan.seconds), &mut watch)?;
        shared.enter(Stage::Drain);
        let seconds = begin.elapsed().as_secs_f64();
        let usage = watch.end()?;
        let patience = Instant::now() + Duration::from_millis(DRAIN_MS);
        while Instant::now() < patience
            && threads.iter().any(|t| !t.is_finished())
            && shared.failure().is_none()
        {
            std::thread::sleep(Duration::from_millis(LOOK_MS));
        }
        Ok::<_, String>((seconds, usage))
    })();
    shared.enter(Stage::Over);
    let mut tally = Tally::new()?;
    for thread in threads {
        match thread.join() {
            Ok(one) => tally.add(&one?)?,
            Err(_) => return Err("a thread of the generator panicked".into()),
        }
    }
    let (seconds, usage) = measured?;
    if let Some(why) = shared.failure() {
        return Err(why);
    }
    drop(idle); // connected until here
    Ok(BenchReport::new(plan, seconds, &tally, disk_us, usage))
}
