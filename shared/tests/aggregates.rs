//! However the readings of a window are cut into parts, and in whatever order the parts are merged: the same aggregate.
//!
//! All but the two sums comes out exactly. A sum of n doubles, added up in whatever order, lies within
//! (n - 1) * epsilon * (sum of the magnitudes) of the true one (Higham, "Accuracy and Stability of Numerical Algorithms",
//! section 4.2), so two of them lie within twice that of each other.

use proptest::prelude::*;
use proptest::sample::Index;
use selvedge_shared::aggregate::{Aggregate, Sample, fingerprint};
use selvedge_shared::sketch::Sketch;
use selvedge_shared::time::EpochMs;

/// Readings of few different times, so that slots break ties.
fn samples(value: impl Strategy<Value = f64>) -> impl Strategy<Value = Vec<Sample>> {
    prop::collection::vec((0i64..20, value), 1..60).prop_map(|list| {
        let sample = |(n, (time, value)): (u64, (i64, f64))| Sample {
            time: EpochMs(time),
            slot: n / 7,
            index: n as u32 % 7,
            value,
        };
        (0..).zip(list).map(sample).collect()
    })
}

/// Merges two of the parts at a time, until one is left.
fn merge_all(samples: &[Sample], order: &[(Index, Index)]) -> Aggregate {
    let mut parts: Vec<Aggregate> = samples.iter().copied().map(Aggregate::sketched).collect();
    let mut order = order.iter().cycle();
    while parts.len() > 1 {
        let (a, b) = order.next().unwrap();
        let part = parts.swap_remove(a.index(parts.len()));
        let into = b.index(parts.len());
        parts[into].merge(&part);
    }
    parts.remove(0)
}

/// By the plainest reckoning, reading by reading.
fn naive(samples: &[Sample]) -> Aggregate {
    let by = |s: &&Sample| (s.time, s.slot, s.index);
    let mut sketch = Sketch::default();
    samples.iter().for_each(|s| sketch.add(s.value));
    Aggregate {
        count: samples.len() as u64,
        sum: samples.iter().map(|s| s.value).sum(),
        sum_sq: samples.iter().map(|s| s.value * s.value).sum(),
        min: samples.iter().map(|s| s.value).fold(f64::INFINITY, f64::min),
        max: samples.iter().map(|s| s.value).fold(f64::NEG_INFINITY, f64::max),
        first: *samples.iter().min_by_key(by).unwrap(),
        last: *samples.iter().max_by_key(by).unwrap(),
        fingerprint: samples.iter().map(|s| fingerprint(s.value)).fold(0, u64::wrapping_add),
        sketch: Some(Box::new(sketch)),
    }
}

fn order() -> impl Strategy<Value = Vec<(Index, Index)>> {
    prop::collection::vec(any::<(Index, Index)>(), 1..60)
}

/// Finite, and so that neither squares nor sums leave the range of doubles.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        -1e3..1e3,
        -1e100..1e100,
        prop::num::f64::NORMAL.prop_map(|x| x % 1e60),
        Just(0.0),
        Just(-0.0)
    ]
}

proptest! {
    #[test]
    fn parts_in_any_order_are_the_readings_one_by_one(samples in samples(value()), order in order()) {
        let (merged, naive) = (merge_all(&samples, &order), naive(&samples));
        let bound = |size: f64| 2.0 * (samples.len() as f64 - 1.0) * f64::EPSILON * size;
        let size: f64 = samples.iter().map(|s| s.value.abs()).sum();
        prop_assert!((merged.sum - naive.sum).abs() <= bound(size), "{} {}", merged.sum, naive.sum);
        prop_assert!((merged.sum_sq - naive.sum_sq).abs() <= bound(naive.sum_sq));
        prop_assert_eq!(Aggregate { sum: naive.sum, sum_sq: naive.sum_sq, ..merged }, naive);
    }

    #[test]
    fn whole_numbers_add_up_to_the_last_bit(
        samples in samples((-1_000_000..1_000_000).prop_map(f64::from)),
        order in order(),
    ) {
        prop_assert_eq!(merge_all(&samples, &order), naive(&samples));
    }

    #[test]
    fn merging_is_commutative_and_but_for_sums_associative(list in samples(value()).prop_filter("3", |l| l.len() >= 3)) {
        let [a, b, c] = [0, 1, 2].map(|i| Aggregate::sketched(list[i]));
        let merged = |x: &Aggregate, y: &Aggregate| { let mut sum = x.clone(); sum.merge(y); sum };
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        let (left, right) = (merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(Aggregate { sum: right.sum, sum_sq: right.sum_sq, ..left }, right);
    }

    #[test]
    fn a_reading_lost_behind_one_counted_twice_shows(list in samples(value()), at in any::<(Index, Index)>()) {
        let (lost, twice) = (at.0.index(list.len()), at.1.index(list.len()));
        prop_assume!(list[lost].value != list[twice].value);
        let mut other = list.clone();
        other[lost].value = list[twice].value;
        prop_assert_ne!(naive(&list).fingerprint, naive(&other).fingerprint);
    }
}
