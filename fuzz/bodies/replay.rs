//! The kept inputs of a target, run by an ordinary test with the code that the fuzzer runs, each as it is and once mutated.
//! `SELVEDGE_FUZZ_SECONDS` has them mutated on for so long, by chance alone: for where no fuzzer can be built.

use fastrand::Rng;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a mutated input may get, in bytes.
const MAX_INPUT_BYTES: usize = 4_096;

/// Runs a target on everything in its corpus.
pub fn replay(target: &str, run: impl Fn(&[u8])) {
    let at = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let folder = Path::new(&at).ancestors().map(|above| above.join("fuzz/corpus").join(target));
    let folder = folder.into_iter().find(|folder| folder.is_dir()).expect("a target has kept inputs");
    let listing = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = listing.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    let mut inputs = vec![];
    for path in paths {
        println!("{}", path.display()); // shown when the test fails
        let input = std::fs::read(&path).unwrap();
        run(&input);
        inputs.push(input);
    }
    let seconds = std::env::var("SELVEDGE_FUZZ_SECONDS").ok();
    let seed = std::env::var("SELVEDGE_SEED").ok().and_then(|seed| seed.parse().ok());
    let mut chance = Rng::with_seed(seed.unwrap_or(1));
    let mut shown = Shown(vec![]);
    for at in 0..inputs.len() {
        shown.0 = mutated(&inputs, at, &mut chance);
        run(&shown.0);
    }
    let Some(seconds) = seconds.map(|n| n.parse().expect("SELVEDGE_FUZZ_SECONDS is a number")) else {
        return;
    };
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        let at = chance.usize(..inputs.len());
        shown.0 = mutated(&inputs, at, &mut chance);
        run(&shown.0);
        count += 1;
    }
    println!("{target}: {count} mutated inputs in {:.1} s", start.elapsed().as_secs_f64());
}

/// An input that is told, in hexadecimal digits, if the target panics on it.
struct Shown(Vec<u8>);

impl Drop for Shown {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("mutated: {}", self.0.iter().map(|b| format!("{b:02x}")).collect::<String>());
        }
    }
}

/// One of the inputs, changed in some places.
fn mutated(inputs: &[Vec<u8>], at: usize, chance: &mut Rng) -> Vec<u8> {
    let mut input = inputs[at].clone();
    for _ in 0..=chance.usize(..6) {
        let (place, byte) = (chance.usize(..input.len() + 1), chance.usize(..256) as u8);
        match chance.usize(..6) {
            0 => input.insert(place, byte),
            1 => input.truncate(place.max(1)),
            2 => {
                // Another one's end, or this one's again.
                let other = &inputs[chance.usize(..inputs.len())];
                input.extend_from_slice(&other[chance.usize(..other.len() + 1)..]);
            }
            3 => input.extend((0..chance.usize(..40)).map(|_| chance.usize(..256) as u8)),
            _ => {
                if let Some(changed) = input.get_mut(place) {
                    *changed = if chance.usize(..2) == 0 { byte } else { *changed ^ (1 << (byte % 8)) };
                }
            }
        }
    }
    input.truncate(MAX_INPUT_BYTES);
    input
}
