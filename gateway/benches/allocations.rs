//! How often the cores ask for memory, by step: for one reading, or for what the name says.
//!
//! `cargo bench -p selvedge-gateway --bench allocations`

mod steps;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::hint::black_box;
use steps::{Measure, Step};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Until what is kept from run to run has grown to its size.
const WARM_UP_RUNS: u32 = 100;
/// Several windows of the machine.
const RUNS: u32 = 1_000;

struct Allocations;

impl Measure for Allocations {
    fn step<S: Step>(&mut self, name: &str, count: u32, make: impl Fn() -> S) {
        let mut step = make();
        let (mut times, mut bytes) = (0, 0);
        for run in 0..WARM_UP_RUNS + RUNS {
            let input = step.prepare();
            let region = Region::new(COUNTED);
            let output = black_box(step.run(input));
            let change = region.change();
            drop(output);
            if run >= WARM_UP_RUNS {
                times += change.allocations + change.reallocations;
                bytes += change.bytes_allocated;
            }
        }
        let per = |n: usize| n as f64 / f64::from(RUNS) / f64::from(count);
        println!("{name:50} {:8.3} {:10.1}", per(times), per(bytes));
    }
}

fn main() {
    println!("{:50} {:>8} {:>10}", "per reading", "times", "bytes");
    steps::all(&mut Allocations);
}
