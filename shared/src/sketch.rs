//! Quantiles: how often readings fell into each of a few bins of values.
//!
//! A bin holds the values whose IEEE 754 numbers agree in their sign, their exponent and the first bits of their mantissa,
//! which makes its width a fixed share of its values, as in DDSketch (Masson, Rim, Lee: "DDSketch: a fast and
//! fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019), but by whole numbers alone: no
//! logarithm, whose last bit differs between processors, so that all replicas have the same bins.
//!
//! At first six bits of the mantissa count: what a quantile is said to be differs by at most 1/128 of it from the reading of that
//! rank. When more than [`MAX_BINS_ENTRIES`] bins are in use, neighbours become one, all over the sketch, as in UDDSketch
//! (Epicoco et al., 2020): one bit less counts, and the error at most doubles ([`Sketch::relative_error`]). That happens when
//! values spread over more than two octaves.
//!
//! - Invariant: the same readings, in any order and in any parts, give the same sketch: the finest for which the bins in use
//!   are not too many. So sketches merge without loss, and a wider window's is the merge of narrower ones'.
//! - Invariant: the bins hold as many readings as were added.

use crate::frame::varint_bytes;
use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// The most bins of a sketch.
pub const MAX_BINS_ENTRIES: usize = 128;

/// Leaves sign, exponent and six bits of the mantissa.
const FINEST_SHIFT: u8 = 46;
/// Leaves sign and the exponent's first bit: four bins are all there are.
const COARSEST_SHIFT: u8 = 62;

/// A bin and how many readings fell into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Bin {
    key: i32,
    count: u64,
}

/// How often readings fell into each bin of values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketch {
    /// How many low bits of a value's image do not count.
    shift: u8,
    /// Those in use, in order of their values.
    bins: Vec<Bin>,
}

impl Default for Sketch {
    /// Of no readings.
    fn default() -> Self {
        Self { shift: FINEST_SHIFT, bins: Vec::new() }
    }
}

impl Sketch {
    /// The sketch of one reading.
    pub fn of(value: f64) -> Self {
        let mut one = Self::default();
        one.add(value);
        one
    }

    /// Takes in a reading.
    pub fn add(&mut self, value: f64) {
        let key = key(value, self.shift);
        match self.bins.binary_search_by_key(&key, |bin| bin.key) {
            Ok(at) => self.bins[at].count += 1,
            Err(at) => {
                self.bins.insert(at, Bin { key, count: 1 });
                self.shrink();
            }
        }
    }

    /// Takes in the readings of another sketch.
    pub fn merge(&mut self, other: &Self) {
        while self.shift < other.shift {
            self.coarsen();
        }
        let by = other.shift.abs_diff(self.shift);
        let mut merged: Vec<Bin> = Vec::with_capacity(self.bins.len() + other.bins.len());
        let mut mine = self.bins.iter().copied().peekable();
        let mut others = other.bins.iter().map(|bin| Bin { key: bin.key >> by, count: bin.count }).peekable();
        loop {
            let next = match (mine.peek(), others.peek()) {
                (Some(a), Some(b)) if b.key < a.key => others.next(),
                (Some(_), _) => mine.next(),
                (None, _) => others.next(),
            };
            let Some(next) = next else { break };
            push(&mut merged, next);
        }
        self.bins = merged;
        self.shrink();
    }

    /// How many readings it holds.
    pub fn count(&self) -> u64 {
        self.bins.iter().fold(0, |sum, bin| sum.saturating_add(bin.count))
    }

    /// By how much of its value a quantile may differ from the reading of its rank; bins that span whole octaves promise nothing
    /// (infinity).
    pub fn relative_error(&self) -> f64 {
        if self.shift > 52 { f64::INFINITY } else { f64::exp2(f64::from(self.shift) - 53.0) }
    }

    /// About the value below which the share `q` (0 to 1) of the readings lies: the middle of the bin that holds the
    /// reading of rank `q * (count - 1)`, rounded down. Nothing if there are no readings. What is known of the least and the greatest
    /// reading sharpens it.
    pub fn quantile(&self, q: f64, min: f64, max: f64) -> Option<f64> {
        let rank = (q.clamp(0.0, 1.0) * self.count().checked_sub(1)? as f64) as u64;
        let mut below = 0u64;
        let holds = |bin: &&Bin| {
            below = below.saturating_add(bin.count);
            below > rank
        };
        let bin = self.bins.iter().find(holds).or(self.bins.last())?;
        let [low, high] = [0, 1].map(|add| edge((i64::from(bin.key) + add) << self.shift));
        let high = if low.is_finite() { high.min(f64::MAX) } else { high };
        let middle = low / 2.0 + high / 2.0;
        Some(if min <= max { middle.clamp(min, max) } else { middle })
    }

    /// How many bytes it takes within a frame.
    pub fn encoded_bytes(&self) -> usize {
        let mut size = 1 + varint_bytes(self.bins.len() as u64);
        let mut before = None;
        for bin in &self.bins {
            let key = match before {
                None => ((bin.key << 1) ^ (bin.key >> 31)) as u32,
                Some(before) => bin.key.wrapping_sub(before) as u32,
            };
            size += varint_bytes(key.into()) + varint_bytes(bin.count);
            before = Some(bin.key);
        }
        size
    }

    fn shrink(&mut self) {
        while self.bins.len() > MAX_BINS_ENTRIES {
            self.coarsen();
        }
    }

    fn coarsen(&mut self) {
        self.shift += 1;
        let mut merged = Vec::with_capacity(self.bins.len());
        self.bins.iter().for_each(|bin| push(&mut merged, Bin { key: bin.key >> 1, count: bin.count }));
        self.bins = merged;
    }
}

/// Appends a bin to a list in order, or adds it to the last.
fn push(bins: &mut Vec<Bin>, bin: Bin) {
    match bins.last_mut() {
        Some(last) if last.key == bin.key => last.count = last.count.saturating_add(bin.count),
        _ => bins.push(bin),
    }
}

/// The order of whole numbers is that of values: the image of IEEE 754's totalOrder; its own inverse.
fn image(bits: i64) -> i64 {
    bits ^ ((bits >> 63) & i64::MAX)
}

fn key(value: f64, shift: u8) -> i32 {
    // -0 counts as 0, and what is no number as one and the same.
    let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
    (image(value.to_bits() as i64) >> shift) as i32
}

/// The value of an image; infinity for those beyond.
fn edge(image_of: i64) -> f64 {
    let value = f64::from_bits(image(image_of) as u64);
    if value.is_nan() { f64::INFINITY.copysign(value) } else { value }
}

/// As shift, number of bins, and for each bin the distance of its key to the one before and its count.
impl Encode for Sketch {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        self.shift.encode(to)?;
        (self.bins.len() as u16).encode(to)?;
        let mut before = None;
        for bin in &self.bins {
            match before {
                None => bin.key.encode(to)?,
                Some(before) => (bin.key.wrapping_sub(before) as u32).encode(to)?,
            }
            bin.count.encode(to)?;
            before = Some(bin.key);
        }
        Ok(())
    }
}

impl<C> Decode<C> for Sketch {
    fn decode<D: Decoder<Context = C>>(from: &mut D) -> Result<Self, DecodeError> {
        let (shift, bins) = (u8::decode(from)?, usize::from(u16::decode(from)?));
        if !(FINEST_SHIFT..=COARSEST_SHIFT).contains(&shift) || bins > MAX_BINS_ENTRIES {
            return Err(DecodeError::Other("a sketch of bins that are too many, too fine or too coarse"));
        }
        let mut read: Vec<Bin> = Vec::with_capacity(bins);
        // Keys are what is left of 64 bits.
        let sound = |key: &i32| i64::from(*key) << shift >> shift == i64::from(*key);
        for _ in 0..bins {
            let key = match read.last() {
                None => Some(i32::decode(from)?),
                Some(before) => {
                    let distance = u32::decode(from)?;
                    i64::from(before.key).checked_add(distance.into()).and_then(|k| k.try_into().ok())
                }
            };
            let key = key.filter(sound).filter(|key| read.last().is_none_or(|before| before.key < *key));
            let (Some(key), count @ 1..) = (key, u64::decode(from)?) else {
                return Err(DecodeError::Other("a sketch whose bins are empty or out of order"));
            };
            read.push(Bin { key, count });
        }
        Ok(Self { shift, bins: read })
    }
}

impl<'de, C> bincode::BorrowDecode<'de, C> for Sketch {
    fn borrow_decode<D: bincode::de::BorrowDecoder<'de, Context = C>>(
        from: &mut D,
    ) -> Result<Self, DecodeError> {
        Self::decode(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    /// Numbers that are the same in every run.
    fn seeded(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    fn of(values: &[f64]) -> Sketch {
        let mut all = Sketch::default();
        values.iter().for_each(|v| all.add(*v));
        all
    }

    #[test]
    fn a_quantile_is_the_reading_of_its_rank_within_the_stated_error() {
        let mut random = seeded(1);
        let spreads: [&dyn Fn(f64) -> f64; 5] = [
            &|u| 20.0 + u,
            &|u| u * 1e6 - 5e5,
            &|u| (u * 40.0 - 20.0).exp2(),
            &|u| if u < 0.4 { 0.0 } else { -3.0 - u },
            &|u| 1e300 * u,
        ];
        for (i, spread) in spreads.iter().enumerate() {
            for n in [1, 2, 3, 100, 5_000] {
                let mut values: Vec<f64> = (0..n).map(|_| spread(random())).collect();
                let sketch = of(&values);
                values.sort_by(f64::total_cmp);
                assert_eq!(sketch.count(), n as u64);
                assert!(sketch.bins.len() <= MAX_BINS_ENTRIES);
                for q in [0.0, 0.01, 0.5, 0.9, 0.99, 1.0] {
                    let exact = values[(q * (n - 1) as f64) as usize];
                    let said = sketch.quantile(q, values[0], values[n - 1]).unwrap();
                    let off = (said - exact).abs();
                    assert!(
                        off <= sketch.relative_error() * exact.abs() + 1e-300,
                        "{i} {n} {q}: {said} {exact}"
                    );
                }
            }
        }
        assert_eq!(of(&[20.0, 21.0]).relative_error(), 1.0 / 128.0);
        assert_eq!(Sketch::default().quantile(0.5, 0.0, 0.0), None);
    }

    #[test]
    fn parts_merged_in_any_order_give_the_same_sketch() {
        let mut random = seeded(2);
        for round in 0..200 {
            let octaves = f64::from(round % 60);
            let values: Vec<f64> = (0..300).map(|_| (random() - 0.3) * (random() * octaves).exp2()).collect();
            let all = of(&values);
            let cut = (random() * 299.0) as usize;
            let (left, right) = (of(&values[..cut]), of(&values[cut..]));
            for (into, other) in [(&left, &right), (&right, &left)] {
                let mut merged = into.clone();
                merged.merge(other);
                assert_eq!(merged, all, "round {round}");
            }
            let reversed: Vec<f64> = values.iter().rev().copied().collect();
            assert_eq!(of(&reversed), all);
            let bytes = frame::encode(1, &all);
            assert_eq!(frame::decode::<Sketch>("sketch", 1, &bytes).unwrap(), all);
            assert_eq!(all.encoded_bytes() + 1, bytes.len());
        }
    }

    #[test]
    fn values_at_the_edges_of_numbers_count() {
        let values = [f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 0.0, -0.0, 5e-324, f64::NAN];
        let sketch = of(&values);
        assert_eq!(sketch.count(), 8);
        assert_eq!(sketch.quantile(0.0, f64::NEG_INFINITY, f64::INFINITY), Some(f64::NEG_INFINITY));
        assert_eq!(
            sketch.quantile(0.5, f64::NEG_INFINITY, f64::INFINITY).map(|v| v.abs() < 1e-300),
            Some(true)
        );
        assert_eq!(of(&[0.0, -0.0]).bins.len(), 1);
        // All that there is, spread as far as can be.
        let mut random = seeded(3);
        let wild: Vec<f64> =
            (0..20_000).map(|_| f64::from_bits((random() * 2f64.powi(63)) as u64 * 2)).collect();
        assert!(of(&wild).bins.len() <= MAX_BINS_ENTRIES);
    }

    #[test]
    fn a_sketch_has_these_bytes_and_wrong_ones_are_refused() {
        let mut sketch = of(&[1.0, 1.0, 1.0, 1.02]);
        let golden = [1, 46, 2, 252, 0x80, 0xff, 0x01, 0, 3, 1, 1];
        assert_eq!(frame::encode(1, &sketch), golden);
        let read = |bytes: &[u8]| frame::decode::<Sketch>("sketch", 1, bytes);
        assert_eq!(read(&golden).unwrap(), sketch);
        for (at, value) in [(1, 45), (1, 63), (2, 3), (2, 200), (8, 0), (9, 0), (10, 0), (6, 0x7f)] {
            let mut wrong = golden;
            wrong[at] = value;
            assert!(read(&wrong).is_err(), "byte {at}");
        }
        sketch.shift = COARSEST_SHIFT;
        sketch.bins = (-2..2).map(|key| Bin { key, count: 1 }).collect();
        assert_eq!(read(&frame::encode(1, &sketch)).unwrap(), sketch);
    }
}
