//! Aggregates: what a window keeps of its readings, and how two of them become one.
//!
//! [`Aggregate::merge`] is commutative and associative to the last bit, so a window may be counted in parts, on several machines and
//! in any order, and a wider window is the merge of narrower ones.
//!
//! **Figures.** [`Aggregate::sum`], [`Aggregate::mean`], [`Aggregate::stddev`] and [`Aggregate::quantile`] are the only codes that
//! reckon one; answers, tables and files show what they say. One that can't be reckoned is nothing: null in JSON, NULL in SQL
//! and Parquet, empty in CSV. That is a sum beyond the greatest double, and quantiles where no sketch was kept of every reading.
//! Readings are finite numbers, so there is a mean and a deviation of any, and the mean is never below the least
//! reading or above the greatest.

use crate::frame::{self, FrameError, varint_bytes};
use crate::sketch::Sketch;
use crate::spread::Spread;
use crate::time::EpochMs;
use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// One reading's time and value, with its place in its shard's log, which breaks ties of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, Encode, Decode)]
pub struct Sample {
    /// When it was measured.
    pub time: EpochMs,
    /// The slot of the command that brought it.
    pub slot: u64,
    /// Its place within that command.
    pub index: u32,
    pub value: f64,
}

impl Sample {
    fn order(&self) -> (EpochMs, u64, u32) {
        (self.time, self.slot, self.index)
    }
}

/// The figures of one or more readings of a stream. There is no empty aggregate.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    pub count: u64,
    pub min: f64,
    pub max: f64,
    pub first: Sample,
    pub last: Sample,
    /// The sum, modulo 2^64, of [`fingerprint`] over the values: equal for the same readings in any
    /// order, so that a lost reading can't hide behind a duplicated one of another value.
    pub fingerprint: u64,
    /// How the values are spread.
    spread: Spread,
}

/// Format version of [`Aggregate::spread`].
pub const SPREAD_VERSION: u8 = 1;

impl Aggregate {
    /// The aggregate of one reading, whose value is finite, without a sketch.
    pub fn of(sample: Sample) -> Self {
        Self::one(sample, false)
    }

    /// The aggregate of one reading, whose value is finite, with a sketch.
    pub fn sketched(sample: Sample) -> Self {
        Self::one(sample, true)
    }

    fn one(sample: Sample, sketched: bool) -> Self {
        let value = sample.value;
        Self {
            count: 1,
            min: plain(value),
            max: plain(value),
            first: sample,
            last: sample,
            fingerprint: fingerprint(value),
            spread: Spread::of(value, sketched),
        }
    }

    /// Takes in one more reading, whose value is finite; the sketch, if there is one, too.
    pub fn add(&mut self, sample: Sample) {
        let value = sample.value;
        self.count = self.count.saturating_add(1);
        self.spread.add(value);
        self.min = self.min.min(plain(value));
        self.max = self.max.max(plain(value));
        if sample.order() < self.first.order() {
            self.first = sample;
        }
        if sample.order() > self.last.order() {
            self.last = sample;
        }
        self.fingerprint = self.fingerprint.wrapping_add(fingerprint(value));
    }

    /// Takes in another aggregate of the same stream.
    pub fn merge(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        self.spread.merge(&other.spread);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if other.first.order() < self.first.order() {
            self.first = other.first;
        }
        if other.last.order() > self.last.order() {
            self.last = other.last;
        }
        self.fingerprint = self.fingerprint.wrapping_add(other.fingerprint);
    }

    /// Makes it short and quick to ask and to write, once no more readings are expected.
    pub fn settle(&mut self) {
        if self.min != self.max {
            self.spread.settle();
        }
    }

    /// The sum of the values, rounded once; nothing if it lies beyond the greatest double.
    pub fn sum(&self) -> Option<f64> {
        Some(self.spread.settled().sum.value()).filter(|sum| sum.is_finite())
    }

    /// The arithmetic mean, rounded once.
    pub fn mean(&self) -> f64 {
        self.spread.settled().sum.mean(self.count)
    }

    /// The standard deviation of all readings (not that of a sample of them); 0 of one.
    pub fn stddev(&self) -> f64 {
        self.deviation().unwrap_or_default()
    }

    /// Nothing if there are no such readings.
    fn deviation(&self) -> Option<f64> {
        let settled = self.spread.settled();
        settled.sum.deviation(&settled.squares, self.count)
    }

    /// The quantile for a rank in percent, by nearest rank, if a sketch was kept ([`Sketch::quantile`]).
    pub fn quantile(&self, percent: u8) -> Option<f64> {
        self.sketch()?.quantile(percent, self.min, self.max)
    }

    /// How the values are spread, if that was kept.
    pub fn sketch(&self) -> Option<Cow<'_, Sketch>> {
        self.spread.is_sketched().then(|| match self.spread.settled() {
            Cow::Borrowed(settled) => Cow::Borrowed(&settled.sketch),
            Cow::Owned(settled) => Cow::Owned(settled.sketch),
        })
    }

    /// Whether it can have come about.
    pub fn is_sound(&self) -> bool {
        let known = [self.min, self.max, self.first.value, self.last.value];
        let within = |value: f64| (self.min..=self.max).contains(&value);
        // Of numbers between two others, the deviation is greatest when half of them are either.
        let deviation = self.deviation();
        self.count > 0
            && known.iter().all(|value| value.is_finite())
            && within(self.first.value)
            && within(self.last.value)
            && self.first.order() <= self.last.order()
            && within(self.mean())
            && deviation.is_some_and(|deviation| deviation <= self.max - self.min)
            && self.sketch().is_none_or(|sketch| sketch.count() == self.count)
    }

    /// How many bytes it takes within a frame; quicker than writing it.
    pub fn encoded_bytes(&self) -> usize {
        let signed = |n: i64| varint_bytes((n << 1 ^ n >> 63) as u64);
        let place = |sample: &Sample| varint_bytes(sample.slot) + varint_bytes(sample.index.into()) + 8;
        let mut bytes = varint_bytes(self.count) + signed(self.first.time.0) + place(&self.first);
        if self.count != 1 {
            bytes += signed(self.last.time.0.wrapping_sub(self.first.time.0)) + place(&self.last) + 3 * 8;
        }
        bytes + self.spread.encoded_bytes(self.min, self.max)
    }

    /// What a table keeps of it beside its count, its values and its fingerprint: a frame of the exact sums and the sketch.
    pub fn spread(&self) -> Vec<u8> {
        struct Written<'a>(&'a Aggregate);
        impl Encode for Written<'_> {
            fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
                self.0.spread.encode_within(self.0.min, self.0.max, to)
            }
        }
        frame::encode(SPREAD_VERSION, &Written(self))
    }

    /// An aggregate without sums and sketch, which a table keeps, with those that [`Aggregate::spread`] gave.
    ///
    /// # Errors
    /// When that is damaged, or does not go with the rest.
    pub fn restore(
        count: u64,
        [min, max]: [f64; 2],
        [first, last]: [Sample; 2],
        fingerprint: u64,
        spread: &[u8],
    ) -> Result<Self, FrameError> {
        struct Read(Spread);
        impl Decode<(u64, f64, f64)> for Read {
            fn decode<D: Decoder<Context = (u64, f64, f64)>>(from: &mut D) -> Result<Self, DecodeError> {
                let (count, min, max) = *from.context();
                Spread::decode_within(count, min, max, from).map(Self)
            }
        }
        let what = "the spread of a window's values";
        let Read(spread) = frame::decode_within(what, SPREAD_VERSION, spread, (count, min, max))?;
        Ok(Self { count, min, max, first, last, fingerprint, spread })
    }
}

/// As count and earliest reading; if there are more, the latest one, least and greatest value and fingerprint, which else
/// follow; then how they are spread.
impl Encode for Aggregate {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        self.count.encode(to)?;
        self.first.encode(to)?;
        if self.count != 1 {
            self.last.time.0.wrapping_sub(self.first.time.0).encode(to)?;
            (self.last.slot, self.last.index, self.last.value).encode(to)?;
            (self.min, self.max, self.fingerprint.to_le_bytes()).encode(to)?;
        }
        self.spread.encode_within(self.min, self.max, to)
    }
}

impl<C> Decode<C> for Aggregate {
    fn decode<D: Decoder<Context = C>>(from: &mut D) -> Result<Self, DecodeError> {
        let count = u64::decode(from)?;
        let first = Sample::decode(from)?;
        if count == 1 {
            let value = plain(first.value);
            let spread = Spread::decode_within(count, value, value, from)?;
            return Ok(Self { spread, ..Self::of(first) });
        }
        let time = EpochMs(first.time.0.wrapping_add(i64::decode(from)?));
        let (slot, index, value) = Decode::decode(from)?;
        let (min, max, fingerprint): (f64, f64, [u8; 8]) = Decode::decode(from)?;
        let last = Sample { time, slot, index, value };
        let spread = Spread::decode_within(count, min, max, from)?;
        Ok(Self { count, min, max, first, last, fingerprint: u64::from_le_bytes(fingerprint), spread })
    }
}

impl<'de, C> bincode::BorrowDecode<'de, C> for Aggregate {
    fn borrow_decode<D: bincode::de::BorrowDecoder<'de, Context = C>>(
        from: &mut D,
    ) -> Result<Self, DecodeError> {
        Self::decode(from)
    }
}

/// -0 as 0, so that the least and the greatest of both are the same on every processor.
fn plain(value: f64) -> f64 {
    value + 0.0
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
        assert_eq!((all.count, all.sum(), all.min, all.max), (4, Some(7.0), -4.0, 8.0));
        assert_eq!(all.stddev(), (291.0f64).sqrt() / 4.0);
        assert_eq!((all.first.slot, all.last.slot), (2, 3), "ties of time are broken by the slot");
    }

    #[test]
    fn an_aggregate_of_what_is_no_number_is_read_and_is_not_sound() {
        // All bits set but the sign: no double has a greater key.
        let last = f64::from_bits(u64::MAX >> 1);
        for value in [last, -last, f64::NAN, f64::INFINITY] {
            for forged in [[value, value], [1.0, value]] {
                let mut all = Aggregate::sketched(sample(1, 1, forged[0]));
                all.add(sample(2, 2, forged[1]));
                (all.min, all.max) = (forged[0], forged[1]);
                let read =
                    crate::frame::decode::<Aggregate>("an aggregate", 1, &crate::frame::encode(1, &all));
                assert!(read.is_err() || read.is_ok_and(|read| !read.is_sound()), "{forged:?}");
            }
        }
    }

    #[test]
    fn a_sketch_is_there_only_if_it_holds_every_reading() {
        let mut all = Aggregate::sketched(sample(1, 1, 1.0));
        all.add(sample(2, 2, 5.0));
        all.merge(&Aggregate::sketched(sample(3, 3, 9.0)));
        assert!(all.is_sound());
        assert_eq!([0, 33, 50, 90, 100].map(|p| all.quantile(p).unwrap()), [1.0, 1.0, 5.0, 9.0, 9.0]);
        assert!((all.stddev() - (32.0f64 / 3.0).sqrt()).abs() < 1e-12);
        all.merge(&Aggregate::of(sample(4, 4, 2.0)));
        assert_eq!((all.count, all.quantile(50)), (4, None));
        all.add(sample(5, 5, 2.0));
        assert_eq!((all.count, all.sketch()), (5, None));
        all.spread = Spread::of(1.0, true);
        assert!(!all.is_sound());
    }

    #[test]
    fn a_figure_is_nothing_only_if_it_can_not_be_reckoned() {
        let of = |values: &[f64]| {
            let mut all = Aggregate::sketched(sample(0, 1, values[0]));
            values[1..].iter().for_each(|value| all.add(sample(0, 1, *value)));
            assert!(all.is_sound(), "{values:?}");
            all
        };
        let huge = of(&[1e308, 1e308, 1e308, -1e308, 1e308]);
        assert_eq!((huge.sum(), huge.mean(), huge.quantile(50)), (None, 6e307, Some(1e308)));
        assert!((huge.stddev() / 8e307 - 1.0).abs() < 1e-15);
        let equal = of(&[23.4; 60]);
        assert_eq!((equal.mean(), equal.stddev(), equal.quantile(50)), (23.4, 0.0, Some(23.4)));
        let far = of(&[1_000_000_004.0, 1_000_000_007.0, 1_000_000_013.0, 1_000_000_016.0]);
        assert_eq!((far.stddev(), far.quantile(50)), (4.743416490252569, Some(1_000_000_007.0)));
        let bits = of(&[0.0, 1.0]);
        assert_eq!([50, 90, 99].map(|p| bits.quantile(p).unwrap()), [0.0, 1.0, 1.0]);
        let zeros = of(&[-0.0, 0.0]);
        assert_eq!((zeros.min.to_bits(), zeros.max.to_bits(), zeros.quantile(50)), (0, 0, Some(0.0)));
    }

    #[test]
    fn an_aggregate_has_these_bytes_and_wrong_ones_are_refused() {
        let mut all = Aggregate::sketched(sample(1_000, 7, 1.5));
        let one = [1, 1, 251, 208, 7, 7, 0, 0, 0, 0, 0, 0, 0, 248, 63, 1];
        assert_eq!(frame::encode(1, &all), one);
        all.add(sample(1_500, 8, 2.0));
        let bytes = frame::encode(1, &all);
        assert_eq!(bytes[1..3], [2, 251]);
        assert_eq!(bytes[15..20], [251, 232, 3, 8, 0], "the time since the first");
        assert_eq!(
            bytes[bytes.len() - 10..],
            [2, 1, 7, 2, 3, 25, 1, 0, 2, 192],
            "3.5, 6.25, two bins of one reading each"
        );
        let read = |bytes: &[u8]| frame::decode::<Aggregate>("aggregate", 1, bytes);
        for whole in [&one[..], &bytes] {
            assert_eq!(frame::encode(1, &read(whole).unwrap()), whole);
            assert_eq!(read(whole).unwrap().encoded_bytes() + 1, whole.len());
            assert!(read(whole).unwrap().is_sound());
            for end in 1..whole.len() {
                assert!(read(&whole[..end]).is_err(), "{end}");
            }
        }
        let restored = |count, spread: &[u8]| {
            Aggregate::restore(count, [all.min, all.max], [all.first, all.last], all.fingerprint, spread)
        };
        let spread = all.spread();
        assert_eq!(restored(2, &spread).unwrap(), all);
        assert!(restored(2, &spread[1..]).is_err());
        assert!(!restored(1, &spread).unwrap().is_sound());
        // The sum of the squares a little less than it can be.
        let mut wrong = bytes.clone();
        let at = wrong.len() - 5;
        assert_eq!(wrong[at], 25);
        wrong[at] = 23;
        assert!(!read(&wrong).unwrap().is_sound());
    }

    #[test]
    fn a_loss_behind_a_duplicate_changes_the_fingerprint() {
        let sum = |values: [f64; 2]| values.iter().map(|v| fingerprint(*v)).fold(0u64, u64::wrapping_add);
        assert_ne!(sum([1.0, 2.0]), sum([1.0, 1.0]));
        assert_eq!(fingerprint(0.0), fingerprint(-0.0));
    }
}
