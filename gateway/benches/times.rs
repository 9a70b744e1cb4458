//! How long the cores take, by step. The times are for one reading, or for what the name says.
//!
//! What a step takes is processor time, so that other work on the machine hardly counts; only where a step waits for a disk it is
//! the time that passes.
//!
//! `cargo bench -p selvedge-gateway --bench times`; `-- machine` for the steps whose name holds that. The log is measured on the
//! disk of the temporary folder, or of the one that `WAL_FOLDER` names.

mod steps;

use criterion::Criterion;
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::path::Path;
use std::time::Duration;
use steps::{Measure, Step};

struct Times(Criterion);

impl Times {
    /// `clock` says how much of the time that counts has passed.
    fn measure<S: Step>(&mut self, name: &str, count: u32, clock: fn() -> Duration, make: impl Fn() -> S) {
        let mut step = None;
        self.0.bench_function(name, |bencher| {
            bencher.iter_custom(|runs| {
                // Made only when it is not filtered out.
                let step = step.get_or_insert_with(&make);
                let mut spent = Duration::ZERO;
                for _ in 0..runs {
                    let input = black_box(step.prepare());
                    let start = clock();
                    let output = black_box(step.run(input));
                    spent += clock() - start;
                    drop(output);
                }
                spent / count
            });
        });
    }
}

impl Measure for Times {
    fn step<S: Step>(&mut self, name: &str, count: u32, make: impl Fn() -> S) {
        self.measure(name, count, || time(ClockId::ThreadCPUTime), make);
    }

    fn on_disk<S: Step>(&mut self, name: &str, count: u32, make: impl Fn(&Path) -> S) {
        let folder = match std::env::var_os("WAL_FOLDER") {
            Some(parent) => tempfile::tempdir_in(parent).unwrap(),
            None => tempfile::tempdir().unwrap(),
        };
        self.measure(name, count, || time(ClockId::Monotonic), || make(folder.path()));
    }
}

fn time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn main() {
    let criterion = Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    let mut times = Times(criterion.configure_from_args());
    steps::all(&mut times);
    times.0.final_summary();
}
