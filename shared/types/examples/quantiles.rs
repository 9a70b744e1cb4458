//! Exact and sketched quantiles side by side, for windows of several lengths.
//!
//! ```text
//! cargo run --release -p selvedge-types --example quantiles [series.csv]
//! ```
//! Without a file it makes series of the kinds that devices send, the same in every run. A file holds a reading a line, the
//! value in its last column; lines whose last column is no number are left out.
//!
//! An error is told as a share of the window's spread (its greatest value less its least): `typical` is that which half of the
//! windows' p50, p90 and p99 do not exceed, `worst` the greatest of all. `bytes` is what a window's sketch takes
//! on the uplink, on average.

#![allow(clippy::disallowed_methods)] // It reads what it is given.

use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::frame::encoded_bytes;
use selvedge_types::time::EpochMs;
use std::process::ExitCode;

/// How many readings a window holds; at the end all there are.
const LENGTHS: [usize; 4] = [10, 60, 288, 3_600];

const PERCENTS: [u8; 3] = [50, 90, 99];

/// How many readings a series has that is made here.
const MADE_ENTRIES: usize = 86_400;

fn main() -> ExitCode {
    let series = match std::env::args().nth(1) {
        None => made(),
        Some(path) => match std::fs::read_to_string(&path) {
            Ok(text) => vec![(path, values(&text))],
            Err(why) => {
                eprintln!("{path} can't be read: {why}");
                return ExitCode::FAILURE;
            }
        },
    };
    for (name, values) in series {
        if values.is_empty() {
            eprintln!("{name} holds no readings: each line should end with a number");
            return ExitCode::FAILURE;
        }
        compare(&name, &values);
    }
    ExitCode::SUCCESS
}

fn values(text: &str) -> Vec<f64> {
    let value = |line: &str| line.rsplit([',', ';', '\t']).next()?.trim().parse::<f64>().ok();
    text.lines().filter_map(value).filter(|value| value.is_finite()).collect()
}

fn compare(name: &str, values: &[f64]) {
    println!("{name}: {} readings", values.len());
    println!("  {:>8} {:>9} {:>12} {:>12} {:>6}", "readings", "windows", "typical", "worst", "bytes");
    for length in LENGTHS.into_iter().filter(|length| *length < values.len()).chain([values.len()]) {
        let (mut errors, mut bytes) = (vec![], 0);
        let windows = values.chunks_exact(length);
        let count = windows.len();
        for window in windows {
            let (exact, sketched, spread, its_bytes) = both(window);
            let off = exact.iter().zip(sketched).map(|(exact, said)| (said - exact).abs());
            errors.extend(off.map(|off| if off == 0.0 { 0.0 } else { off / spread }));
            bytes += its_bytes;
        }
        errors.sort_by(f64::total_cmp);
        let (typical, worst) = (errors[errors.len() / 2], errors[errors.len() - 1]);
        let percent = |share: f64| format!("{:.4} %", 100.0 * share);
        println!(
            "  {length:>8} {count:>9} {:>12} {:>12} {:>6}",
            percent(typical),
            percent(worst),
            bytes / count
        );
    }
    let (exact, sketched, ..) = both(values);
    for (at, percent) in PERCENTS.into_iter().enumerate() {
        println!("  p{percent} of all: exact {}, sketched {}", exact[at], sketched[at]);
    }
}

/// The exact and the sketched quantiles of a window, its spread, and how many bytes its sketch takes.
fn both(window: &[f64]) -> ([f64; 3], [f64; 3], f64, usize) {
    let sample = |value: f64| Sample { time: EpochMs(0), slot: 1, index: 0, value };
    let mut all = Aggregate::sketched(sample(window[0]));
    let mut plain = Aggregate::of(sample(window[0]));
    for value in &window[1..] {
        all.add(sample(*value));
        plain.add(sample(*value));
    }
    let mut sorted = window.to_vec();
    sorted.sort_by(f64::total_cmp);
    let exact = PERCENTS.map(|percent| sorted[(sorted.len() * usize::from(percent)).div_ceil(100) - 1]);
    let sketched = PERCENTS.map(|percent| all.quantile(percent).unwrap_or(f64::NAN));
    (exact, sketched, all.max - all.min, encoded_bytes(&all) - encoded_bytes(&plain))
}

/// Series of the kinds that devices send.
fn made() -> Vec<(String, Vec<f64>)> {
    let mut state = 11u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut noise = move || (0..12).map(|_| random()).sum::<f64>() - 6.0;
    let mut series = |name: &str, of: &mut dyn FnMut(usize, f64) -> f64| {
        let values = (0..MADE_ENTRIES).map(|at| of(at, noise())).collect();
        (name.to_string(), values)
    };
    let day = |at: usize| (at as f64 / 86_400.0 * std::f64::consts::TAU).sin();
    let (mut walk, mut drops) = (85.0, 0);
    vec![
        series("a bearing's temperature, two decimals", &mut |at, n| {
            ((52.0 + 3.0 * day(at) + 0.1 * n) * 100.0).round() / 100.0
        }),
        series("a machine's temperature that drifts and drops", &mut |_, n| {
            walk += 0.05 * n + 0.001 * (85.0 - walk);
            drops = if n > 3.3 { 400 } else { drops - i32::from(drops > 0) };
            if drops > 0 { walk - 70.0 } else { walk }
        }),
        series("an air pressure in Pa", &mut |at, n| 101_325.0 + 400.0 * day(at) + 3.0 * n),
        series("a counter's whole numbers, far from zero", &mut |at, n| {
            (1e12 + 10.0 * at as f64 + 4.0 * n).round()
        }),
        series("a latency over many sizes", &mut |_, n| (2.0 * n).exp()),
        series("a power that is zero half of the time", &mut |at, n| {
            if at % 600 < 300 { 0.0 } else { 1_500.0 + 40.0 * n }
        }),
        series("a vibration around zero", &mut |_, n| 0.02 * n),
    ]
}
