//! A reading is in its window exactly once, through resends, failovers and uplink retries; one that was refused is in none.

use crate::devices::{Devices, WIDEST_MS};
use selvedge_shared::aggregate::{Aggregate, fingerprint};
use selvedge_shared::uplink::StreamName;
use std::collections::BTreeMap;

type Counted = BTreeMap<(StreamName, Option<i64>), (u64, u64)>;

fn add(to: &mut Counted, name: &StreamName, window: Option<i64>, count: u64, print: u64) {
    let had = to.entry((name.clone(), window)).or_default();
    *had = (had.0 + count, had.1.wrapping_add(print));
}

/// Holds what the node counted against what was acknowledged. Everything was settled before.
pub fn check(devices: &Devices, windows: &BTreeMap<(StreamName, i64), Aggregate>) {
    // Streams with readings that leave the time to the gateway are compared over all their windows.
    let mut untimed: BTreeMap<&StreamName, bool> = BTreeMap::new();
    for reading in devices.readings.values() {
        *untimed.entry(&reading.name).or_default() |= reading.window.is_none();
    }
    let whole = |name: &StreamName| untimed.get(name).copied().unwrap_or(false);
    let (mut wanted, mut found) = (Counted::new(), Counted::new());
    for (id, reading) in &devices.readings {
        let kept = reading.kept.unwrap_or_else(|| panic!("reading {id} is not settled"));
        if kept {
            let window = reading.window.filter(|_| !whole(&reading.name));
            add(&mut wanted, &reading.name, window, 1, fingerprint(*id as f64));
        }
    }
    for ((name, start), a) in windows {
        let window = (!whole(name)).then(|| start.div_euclid(WIDEST_MS));
        add(&mut found, name, window, a.count, a.fingerprint);
    }
    for (key, want) in &wanted {
        let got = found.get(key).copied().unwrap_or_default();
        assert!(got == *want, "{key:?}: acknowledged {} readings, counted {}", want.0, got.0);
    }
    for (key, got) in &found {
        assert!(wanted.contains_key(key), "{key:?}: counted {} readings, acknowledged none", got.0);
    }
}
