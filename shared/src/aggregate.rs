//! Aggregates: what a window keeps of its readings, and how two of them become one.
//!
//! [`Aggregate::merge`] is commutative and associative (sums up to rounding), so a window may be counted
//! in parts, on several machines and in any order, and a wider window is the merge of narrower ones.

use crate::sketch::Sketch;
use crate::time::EpochMs;
use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// One reading's time and value, with its place in its shard's log, which breaks ties of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Encode, Decode)]
pub struct Sample {
    /// When it was measured.
    pub time: EpochMs,
    /// The slot of the command that brought it.
    pub slot: u64,
    /// Its place within that command.
    pub index: u32,
    /// What was measured.
    pub value: f64,
}

impl Sample {
    fn order(&self) -> (EpochMs, u64, u32) {
        (self.time, self.slot, self.index)
    }
}

/// What is known of one or more readings of a stream. There is none of no readings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Encode, Decode)]
pub struct Aggregate {
    /// How many readings.
    pub count: u64,
    /// Sum of the values.
    pub sum: f64,
    /// Sum of the squares of the values.
    pub sum_sq: f64,
    /// The least value.
    pub min: f64,
    /// The greatest value.
    pub max: f64,
    /// The earliest reading.
    pub first: Sample,
    /// The latest reading.
    pub last: Sample,
    /// The sum, modulo 2^64, of [`fingerprint`] over the values: equal for the same readings in any
    /// order, so that a lost reading can't hide behind a duplicated one of another value.
    pub fingerprint: u64,
    /// How the values are spread, for quantiles; nothing unless it was kept for every one of the readings.
    pub sketch: Option<Box<Sketch>>,
}

impl Aggregate {
    /// The aggregate of one reading, without a sketch.
    pub fn of(sample: Sample) -> Self {
        let value = sample.value;
        Self {
            count: 1,
            sum: value,
            sum_sq: value * value,
            min: value,
            max: value,
            first: sample,
            last: sample,
            fingerprint: fingerprint(value),
            sketch: None,
        }
    }

    /// The aggregate of one reading, with a sketch.
    pub fn sketched(sample: Sample) -> Self {
        Self { sketch: Some(Box::new(Sketch::of(sample.value))), ..Self::of(sample) }
    }

    /// Takes in one more reading; the sketch, if there is one, too.
    pub fn add(&mut self, sample: Sample) {
        let sketch = self.sketch.take().map(|mut sketch| {
            sketch.add(sample.value);
            sketch
        });
        self.merge(&Self::of(sample));
        self.sketch = sketch;
    }

    /// Takes in another aggregate of the same stream.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.sum += other.sum;
        self.sum_sq += other.sum_sq;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if other.first.order() < self.first.order() {
            self.first = other.first;
        }
        if other.last.order() > self.last.order() {
            self.last = other.last;
        }
        self.fingerprint = self.fingerprint.wrapping_add(other.fingerprint);
        match (&mut self.sketch, &other.sketch) {
            (Some(sketch), Some(other)) => sketch.merge(other),
            _ => self.sketch = None,
        }
    }

    /// The arithmetic mean.
    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// The standard deviation of all readings (not that of a sample of them).
    pub fn stddev(&self) -> f64 {
        (self.sum_sq / self.count as f64 - self.mean() * self.mean()).max(0.0).sqrt()
    }

    /// The value below which about the share `q` (0 to 1) of the readings lies, if a sketch was kept
    /// ([`Sketch::quantile`]).
    pub fn quantile(&self, q: f64) -> Option<f64> {
        self.sketch.as_ref()?.quantile(q, self.min, self.max)
    }

    /// Whether it can have come about: it counts something, and its sketch counts as much.
    pub fn is_sound(&self) -> bool {
        self.count > 0 && self.sketch.as_ref().is_none_or(|sketch| sketch.count() == self.count)
    }
}

/// A well-spread 64-bit image of a value (the finaliser of MurmurHash3 over its IEEE 754 bits; -0 counts
/// as 0).
pub fn fingerprint(value: f64) -> u64 {
    let mut h = (value + 0.0).to_bits() ^ 0x9e37_79b9_7f4a_7c15;
    h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(time: i64, slot: u64, value: f64) -> Sample {
        Sample { time: EpochMs(time), slot, index: 0, value }
    }

    #[test]
    fn parts_merged_in_any_order_give_the_same_aggregate() {
        let samples = [sample(5, 1, 2.0), sample(3, 2, -4.0), sample(5, 3, 8.0), sample(3, 4, 1.0)];
        let merged = |order: [usize; 4]| {
            let mut all = Aggregate::of(samples[order[0]]);
            for i in &order[1..] {
                all.merge(&Aggregate::of(samples[*i]));
            }
            all
        };
        let all = merged([0, 1, 2, 3]);
        assert_eq!(all, merged([3, 2, 1, 0]));
        assert_eq!(all, merged([2, 0, 3, 1]));
        assert_eq!((all.count, all.sum, all.sum_sq, all.min, all.max), (4, 7.0, 85.0, -4.0, 8.0));
        assert_eq!((all.first.slot, all.last.slot), (2, 3), "ties of time are broken by the slot");
    }

    #[test]
    fn a_sketch_is_there_only_if_it_holds_every_reading() {
        let mut all = Aggregate::sketched(sample(1, 1, 1.0));
        all.add(sample(2, 2, 5.0));
        all.merge(&Aggregate::sketched(sample(3, 3, 9.0)));
        assert!(all.is_sound());
        assert_eq!((all.quantile(0.0), all.quantile(1.0)), (Some(1.0078125), Some(9.0)));
        assert!((all.quantile(0.5).unwrap() - 5.0).abs() <= 5.0 / 128.0);
        assert!((all.stddev() - (32.0f64 / 3.0).sqrt()).abs() < 1e-12);
        all.merge(&Aggregate::of(sample(4, 4, 2.0)));
        assert_eq!((all.count, all.quantile(0.5)), (4, None));
        all.add(sample(5, 5, 2.0));
        assert_eq!((all.count, &all.sketch), (5, &None));
        all.sketch = Some(Box::new(Sketch::of(1.0)));
        assert!(!all.is_sound());
    }

    #[test]
    fn a_loss_behind_a_duplicate_changes_the_fingerprint() {
        let sum = |values: [f64; 2]| values.iter().map(|v| fingerprint(*v)).fold(0u64, u64::wrapping_add);
        assert_ne!(sum([1.0, 2.0]), sum([1.0, 1.0]));
        assert_eq!(fingerprint(0.0), fingerprint(-0.0));
    }
}
