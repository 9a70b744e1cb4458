//! However the readings of a window are cut into parts, and in whatever order the parts are merged: the same aggregate, to the
//! last bit, and the figures that a plain reckoning of the readings gives.

use proptest::prelude::*;
use proptest::sample::Index;
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::frame;
use selvedge_types::time::EpochMs;

/// Readings of few different times, so that slots break ties.
fn samples(value: impl Strategy<Value = f64>) -> impl Strategy<Value = Vec<Sample>> {
    prop::collection::vec((0i64..20, value), 1..300).prop_map(|list| {
        let sample = |(n, (time, value)): (u64, (i64, f64))| Sample {
            time: EpochMs(time),
            slot: n / 7,
            index: n as u32 % 7,
            value,
        };
        (0..).zip(list).map(sample).collect()
    })
}

/// Cuts the readings into parts, and merges two of them at a time, until one is left.
fn merge_all(samples: &[Sample], order: &[(Index, Index)]) -> Aggregate {
    let mut parts: Vec<Aggregate> = vec![];
    for (at, sample) in samples.iter().enumerate() {
        let (into, anew) = &order[at % order.len()];
        if parts.is_empty() || anew.index(4) == 0 {
            parts.push(Aggregate::sketched(*sample));
        } else {
            let into = into.index(parts.len());
            parts[into].add(*sample);
        }
    }
    let mut order = order.iter().cycle();
    while parts.len() > 1 {
        let (a, b) = order.next().unwrap();
        let part = parts.swap_remove(a.index(parts.len()));
        let into = b.index(parts.len());
        parts[into].merge(&part);
    }
    parts.remove(0)
}

/// Reading by reading, in the order given.
fn one_by_one(samples: &[Sample]) -> Aggregate {
    let mut all = Aggregate::sketched(samples[0]);
    samples[1..].iter().for_each(|sample| all.add(*sample));
    all
}

fn order() -> impl Strategy<Value = Vec<(Index, Index)>> {
    prop::collection::vec(any::<(Index, Index)>(), 1..60)
}

/// Of the kinds that devices send, and of all that there are.
fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (-1e3..1e3).prop_map(|x: f64| (x * 100.0).round() / 100.0),
        4 => 52.0..52.5,
        2 => -1e100..1e100,
        2 => prop::num::f64::NORMAL,
        1 => prop::num::f64::SUBNORMAL,
        1 => Just(0.0),
        1 => Just(-0.0),
        1 => Just(f64::MAX),
    ]
}

/// A sum by another way: partial sums that don't overlap, with their rounding errors kept beside them (Shewchuk, "Adaptive
/// precision floating-point arithmetic", 1997), are added from the greatest down until one does not fit in.
fn summed(values: &[f64]) -> f64 {
    let mut partials: Vec<f64> = vec![];
    for value in values {
        let mut high = *value;
        let mut kept = vec![];
        for partial in &partials {
            let (a, b) = if high.abs() < partial.abs() { (*partial, high) } else { (high, *partial) };
            high = a + b;
            let low = b - (high - a);
            kept.extend((low != 0.0).then_some(low));
        }
        kept.push(high);
        partials = kept;
    }
    let mut sum = partials.pop().unwrap_or(0.0);
    while let Some(partial) = partials.pop() {
        let before = sum;
        sum = before + partial;
        let low = partial - (sum - before);
        if low != 0.0 {
            // Of two doubles that are equally near, the rest decides.
            let twice = 2.0 * low;
            let beyond = partials.last().is_some_and(|next| (*next < 0.0) == (low < 0.0));
            return if beyond && sum + twice - sum == twice { sum + twice } else { sum };
        }
    }
    sum
}

proptest! {
    #[test]
    fn parts_in_any_order_are_the_readings_one_by_one(samples in samples(value()), order in order()) {
        let (merged, plain) = (merge_all(&samples, &order), one_by_one(&samples));
        prop_assert_eq!(&merged, &plain);
        let bytes = frame::encode(1, &merged);
        prop_assert_eq!(&bytes, &frame::encode(1, &plain));
        prop_assert_eq!(bytes.len(), merged.encoded_bytes() + 1);
        let read: Aggregate = frame::decode("aggregate", 1, &bytes).unwrap();
        prop_assert_eq!(&read, &merged);
        prop_assert!(read.is_sound());
        let a = &merged;
        let spread = a.spread();
        let restored = Aggregate::restore(a.count, [a.min, a.max], [a.first, a.last], a.fingerprint, &spread);
        prop_assert_eq!(restored.unwrap(), merged);
    }

    #[test]
    fn figures_are_those_of_the_readings(samples in samples(value()), order in order()) {
        let all = merge_all(&samples, &order);
        let mut values: Vec<f64> = samples.iter().map(|s| s.value + 0.0).collect();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (values[0], values[values.len() - 1]);
        prop_assert_eq!((all.count, all.min, all.max), (values.len() as u64, least, greatest));
        prop_assert!((least..=greatest).contains(&all.mean()));
        prop_assert!((0.0..=greatest - least).contains(&all.stddev()));
        let sketch = all.sketch().unwrap();
        for percent in [0, 1, 50, 90, 99, 100] {
            let exact = values[(values.len() * usize::from(percent)).div_ceil(100).max(1) - 1];
            let said = all.quantile(percent).unwrap();
            prop_assert!((said - exact).abs() <= sketch.relative_error() * exact.abs() + f64::MIN_POSITIVE);
            prop_assert!(exact != 0.0 || said == 0.0);
        }
    }

    #[test]
    fn sums_and_means_are_right_to_the_last_bit(
        samples in samples(prop_oneof![-1e3..1e3, 1e8..2e8, Just(0.1)]),
        order in order(),
    ) {
        let all = merge_all(&samples, &order);
        let values: Vec<f64> = samples.iter().map(|s| s.value).collect();
        let right = summed(&values);
        prop_assert_eq!(all.sum(), Some(right));
        // One rounding more.
        prop_assert!((all.mean() - right / values.len() as f64).abs() <= f64::EPSILON * right.abs());
        let distances: Vec<f64> = values.iter().map(|v| v - all.mean()).map(|d| d * d).collect();
        let deviation = (summed(&distances) / values.len() as f64).sqrt();
        prop_assert!((all.stddev() - deviation).abs() <= 1e-9 * deviation + 1e-12 * all.mean().abs());
    }

    #[test]
    fn equal_readings_are_their_own_mean(value in value(), times in 1usize..200, cut in any::<Index>()) {
        let sample = |slot| Sample { time: EpochMs(0), slot, index: 0, value };
        let all: Vec<Sample> = (0..times as u64).map(sample).collect();
        let mut merged = one_by_one(&all);
        merged.merge(&one_by_one(&all[cut.index(times)..]));
        prop_assert_eq!((merged.mean(), merged.stddev(), merged.quantile(50)), (value, 0.0, Some(value)));
    }

    #[test]
    fn a_reading_lost_behind_one_counted_twice_shows(list in samples(value()), at in any::<(Index, Index)>()) {
        let (lost, twice) = (at.0.index(list.len()), at.1.index(list.len()));
        prop_assume!(list[lost].value != list[twice].value);
        let mut other = list.clone();
        other[lost].value = list[twice].value;
        prop_assert_ne!(one_by_one(&list).fingerprint, one_by_one(&other).fingerprint);
    }
}
