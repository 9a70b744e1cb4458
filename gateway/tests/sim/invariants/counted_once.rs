//! A reading is in its window exactly once, through resends, failovers and uplink retries; a refused one is in none. A
//! reading that its device sends only once is counted once if it was acknowledged, and at most once if not.

use crate::devices::{Devices, Reading, WIDEST_MS};
use selvedge_types::aggregate::{Aggregate, fingerprint};
use selvedge_types::uplink::StreamName;
use std::collections::BTreeMap;

type Counted = BTreeMap<(StreamName, Option<i64>), (u64, u64)>;

fn add(to: &mut Counted, name: &StreamName, window: Option<i64>, count: u64, print: u64) {
    let had = to.entry((name.clone(), window)).or_default();
    *had = (had.0 + count, had.1.wrapping_add(print));
}

/// Compares what the node counted, and how often each payload is in the quarantine, with what was acknowledged.
/// Everything must be settled before.
pub fn check(
    devices: &Devices,
    windows: &BTreeMap<(StreamName, i64), Aggregate>,
    quarantine: &BTreeMap<String, u64>,
) {
    // Streams with readings that leave the time to the gateway are compared over all their windows.
    let mut untimed: BTreeMap<&StreamName, bool> = BTreeMap::new();
    for reading in devices.readings.values() {
        *untimed.entry(&reading.name).or_default() |= reading.window.is_none();
    }
    let whole = |name: &StreamName| untimed.get(name).copied().unwrap_or(false);
    let (mut wanted, mut found) = (Counted::new(), Counted::new());
    for (id, reading) in &devices.readings {
        if reading.once || reading.either {
            continue;
        }
        let kept = reading.kept.unwrap_or_else(|| panic!("reading {id} is not settled"));
        if kept {
            let window = reading.window.filter(|_| !whole(&reading.name));
            add(&mut wanted, &reading.name, window, 1, fingerprint(*id as f64));
        }
    }
    let mut once: BTreeMap<&StreamName, u64> = BTreeMap::new();
    for ((name, start), a) in windows {
        if name.stream.starts_with("once-") || name.stream.starts_with("either-") {
            *once.entry(name).or_default() += a.count;
            continue;
        }
        let window = (!whole(name)).then(|| start.div_euclid(WIDEST_MS));
        add(&mut found, name, window, a.count, a.fingerprint);
    }
    for (id, reading) in devices.readings.iter().filter(|(_, r)| r.once) {
        let aside = quarantine.get(&id.to_string()).copied().filter(|_| reading.will).unwrap_or(0);
        let count = once.get(&reading.name).copied().unwrap_or(0) + aside;
        let fits = match reading.kept {
            Some(kept) => count == u64::from(kept),
            None => count <= 1,
        };
        let Reading { name, kept, .. } = reading;
        assert!(fits, "reading {id} ({name:?}) is sent once, acknowledged: {kept:?}, counted {count} times");
    }
    for (id, reading) in devices.readings.iter().filter(|(_, r)| r.either) {
        let counted = once.get(&reading.name).copied().unwrap_or(0);
        let aside = |payload: String| quarantine.get(&payload).copied().unwrap_or(0);
        let aside = aside(id.to_string()) + aside(format!("bad {id}"));
        assert!(
            reading.kept == Some(true) && counted + aside == 1,
            "reading {id} is acknowledged ({:?}), counted {counted} times and {aside} times in the quarantine",
            reading.kept
        );
    }
    for (key, want) in &wanted {
        let got = found.get(key).copied().unwrap_or_default();
        assert!(got == *want, "{key:?}: acknowledged {} readings, counted {}", want.0, got.0);
    }
    for (key, got) in &found {
        assert!(wanted.contains_key(key), "{key:?}: counted {} readings, acknowledged none", got.0);
    }
}
