//! Quantiles: how often readings fell into each of a few bins of values.
//!
//! **Bins.** A bin holds the values whose IEEE 754 numbers agree in their sign, their exponent and the first bits of their
//! mantissa, which makes its width a share of its values, as in DDSketch (Masson, Rim, Lee: "DDSketch: a fast and
//! fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019), but by whole numbers alone: no
//! logarithm, whose last bit differs between processors, so that all replicas have the same bins. Zero has a bin of its own.
//!
//! **As fine as there is room.** At first all bits count, so that a bin is one value, and quantiles are readings themselves. When there
//! are more than [`MAX_BINS_ENTRIES`] bins, or the distances between them take more than [`MAX_BITS`], neighbours become one, all
//! over the sketch, as in UDDSketch (Epicoco et al., 2020): one bit less counts. A distance takes what it is written with, bits
//! that grow with its logarithm (Elias delta codes). So the values of a window that lie close together have bins as fine as their
//! spread, whatever they are far from, and one that lies apart costs a longer distance and nothing else.
//!
//! **Ranks.** The quantile q of n readings is the one of rank ceil(q n), where the least has rank 1 (nearest rank): the p50 of two
//! readings is the lesser, their p99 the greater. The answer is the middle of the bin that holds it, and so differs from it
//! by at most half the width of that ([`Sketch::relative_error`]); the least and the greatest reading are known as they are.
//!
//! - Invariant: the same readings, in any order and in any parts, give the same sketch: the finest whose bins are not too many.
//!   For that, what they take never shrinks when a reading is added, and never grows when bins become wider (a distance costs
//!   at most as much as two distances that add up to it and the bin between them, which is why each bin costs two bits as
//!   well). So sketches merge without loss, and a wider window's is the merge of narrower ones'.
//! - Invariant: the bins hold as many readings as were added.

use crate::frame::varint_bytes;
use bincode::de::Decoder;
use bincode::de::read::Reader;
use bincode::enc::Encoder;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

/// The most bins of a sketch.
pub const MAX_BINS_ENTRIES: usize = 128;

/// The most bits that the distances between its bins take.
pub const MAX_BITS: u32 = 768;

/// Leaves the sign: all numbers are in three bins.
const COARSEST_SHIFT: u8 = 63;

/// A bin and how many readings fell into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bin {
    /// 0 for zero; for others 1 more than what is left of their bits without the sign, with their sign.
    key: i64,
    count: u64,
}

/// How often readings fell into each bin of values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sketch {
    /// How many low bits of a value don't count.
    shift: u8,
    /// Those in use, in order of their values.
    bins: Vec<Bin>,
}

impl Sketch {
    /// The sketch of `count` equal readings.
    pub fn of(value: f64, count: u64) -> Self {
        Self { shift: 0, bins: vec![Bin { key: key(value, 0), count }] }
    }

    /// Takes in readings, which are sorted on the way.
    pub fn add_all(&mut self, values: &mut [f64]) {
        values.sort_unstable_by(f64::total_cmp);
        let values = values.iter().map(|value| Bin { key: key(*value, self.shift), count: 1 });
        self.bins = merged(&self.bins, values);
        self.shrink();
    }

    /// Takes in the readings of another sketch.
    pub fn merge(&mut self, other: &Self) {
        if self.shift < other.shift {
            self.bins = coarser(&self.bins, other.shift - self.shift).collect();
            self.shift = other.shift;
        }
        self.bins = merged(&self.bins, coarser(&other.bins, self.shift - other.shift));
        self.shrink();
    }

    /// How many readings it holds.
    pub fn count(&self) -> u64 {
        self.bins.iter().fold(0u64, |sum, bin| sum.saturating_add(bin.count))
    }

    /// By how much of its value a quantile may differ from the reading of its rank: 0 as long as each bin is one value. Numbers
    /// below 2^-1022 may differ by 2^-1022; bins that span whole octaves promise nothing (infinity).
    pub fn relative_error(&self) -> f64 {
        match self.shift {
            0 => 0.0,
            shift @ 1..=52 => f64::exp2(f64::from(shift) - 53.0),
            _ => f64::INFINITY,
        }
    }

    /// The quantile for a rank in percent, by nearest rank; `None` without readings. `min` and `max` are the least and
    /// the greatest reading.
    pub fn quantile(&self, percent: u8, min: f64, max: f64) -> Option<f64> {
        let count = self.count();
        let rank = rank(percent, count)?;
        if rank == 1 || rank == count {
            return Some(if rank == 1 { min } else { max });
        }
        let mut below = 0u64;
        let holds = |bin: &&Bin| {
            below = below.saturating_add(bin.count);
            below >= rank
        };
        let bin = self.bins.iter().find(holds).or(self.bins.last())?;
        let middle = middle(bin.key, self.shift);
        Some(if min <= max { middle.clamp(min, max) } else { middle })
    }

    /// Makes neighbours one until there is room.
    fn shrink(&mut self) {
        // The least that is enough lies after `few` and up to `enough`. It does not depend on where the search begins, nor on
        // its steps: of each distance a bit goes at a time, or little more.
        let (mut few, mut enough, mut next) = (-1, i32::from(COARSEST_SHIFT - self.shift), self.guess());
        while enough - few > 1 {
            let by = next.clamp(few + 1, enough - 1);
            let bits = bits(&self.bins, by as u8);
            let step = (bits.abs_diff(MAX_BITS) as usize / self.bins.len().max(1)).max(1) as i32;
            (few, enough) = if bits > MAX_BITS { (by, enough) } else { (few, by) };
            next = if bits > MAX_BITS { by + step } else { by - step };
        }
        if enough > 0 {
            self.bins = coarser(&self.bins, enough as u8).collect();
            self.shift += enough as u8;
        }
        self.bins.shrink_to_fit();
    }

    /// About how many bits have to go, if the bins are spread evenly.
    fn guess(&self) -> i32 {
        let ([first, .., last], bins) = (&self.bins[..], self.bins.len() as u32) else { return 0 };
        let apart = (distance(first.key, last.key) / u64::from(bins)).max(1).ilog2() as i32;
        let room = (MAX_BITS / bins).saturating_sub(BIN_BITS).max(1);
        apart - room as i32 + 2 * room.ilog2() as i32 - 1
    }

    /// Writes it, with what is known beside it left out: the least and the greatest reading, which differ.
    pub(crate) fn encode_within<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        self.shift.encode(to)?;
        (self.bins.len() as u16).encode(to)?;
        let mut bits = BitWriter { to, held: 0, used: 0 };
        for (at, bin) in self.bins.iter().enumerate() {
            if at > 0 && at + 1 < self.bins.len() {
                bits.put(distance(self.bins[at - 1].key, bin.key))?;
            }
            bits.put(bin.count)?;
        }
        bits.finish()
    }

    /// How many bytes [`Sketch::encode_within`] writes.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let counts: u32 = self.bins.iter().map(|bin| code_bits(bin.count)).sum();
        let inner = &self.bins[..self.bins.len().saturating_sub(1)];
        let distances = bits(inner, 0) - BIN_BITS * inner.len().saturating_sub(1) as u32;
        let bits = counts + distances;
        1 + varint_bytes(self.bins.len() as u64) + bits.div_ceil(8) as usize
    }

    /// Reads what [`Sketch::encode_within`] wrote.
    pub(crate) fn decode_within<D: Decoder>(min: f64, max: f64, from: &mut D) -> Result<Self, DecodeError> {
        let wrong = |why| Err(DecodeError::Other(why));
        let shift = u8::decode(from)?;
        if shift > COARSEST_SHIFT {
            return wrong("a sketch that is too coarse");
        }
        let (first, last) = (key(min, shift), key(max, shift));
        let mut sketch = Self { shift, ..Self::default() };
        let bins = usize::from(u16::decode(from)?);
        if !(1..=MAX_BINS_ENTRIES).contains(&bins) || (bins == 1) != (first == last) || first > last {
            return wrong("a sketch of too few or too many bins");
        }
        let mut bits = BitReader { from, byte: 0, left: 0 };
        let mut here = first;
        for at in 0..bins {
            if at > 0 && at + 1 < bins {
                let next = i128::from(here) + i128::from(bits.get()?);
                if next >= i128::from(last) {
                    return wrong("a sketch whose bins are out of order");
                }
                here = next as i64;
            }
            let key = if at + 1 < bins { here } else { last };
            sketch.bins.push(Bin { key, count: bits.get()? });
        }
        if self::bits(&sketch.bins, 0) > MAX_BITS {
            return wrong("a sketch that takes too much room");
        }
        Ok(sketch)
    }
}

/// The rank of a quantile among `count` readings, from 1 on: the share of them, rounded up.
fn rank(percent: u8, count: u64) -> Option<u64> {
    let rank = (u128::from(count) * u128::from(percent.min(100))).div_ceil(100) as u64;
    (count > 0).then_some(rank.max(1))
}

fn key(value: f64, shift: u8) -> i64 {
    let left = (value.to_bits() & i64::MAX as u64) as i64;
    match left {
        0 => 0,
        _ if value.is_sign_negative() => -1 - (left >> shift),
        // Of the NaN with all bits set this wraps, which an aggregate that was read may claim as its least or greatest reading.
        _ => (left >> shift).wrapping_add(1),
    }
}

/// The middle of a bin. Where bins span octaves it is that of their exponents.
fn middle(key: i64, shift: u8) -> f64 {
    let Some(left) = key.unsigned_abs().checked_sub(1) else { return 0.0 };
    let bits = (left << shift).saturating_add((1 << shift) / 2).min(f64::MAX.to_bits());
    let value = f64::from_bits(bits);
    if key < 0 { -value } else { value }
}

/// The wider bin that contains a bin once this many fewer bits count.
fn wider(key: i64, by: u8) -> i64 {
    // 1 less is what is left of a value's bits. Without branches, since this is asked often: of 0 it makes 0 as well.
    // Keys of a sketch that was read may be of no value: the sums wrap rather than panic.
    let sign = key >> 63;
    let left = (key ^ sign).wrapping_sub(sign).wrapping_sub(1);
    ((left >> by).wrapping_add(1) ^ sign).wrapping_sub(sign)
}

/// The wider bins that contain these once this many fewer bits count, in order.
fn coarser(bins: &[Bin], by: u8) -> impl Iterator<Item = Bin> {
    let mut bins = bins.iter().map(move |bin| Bin { key: wider(bin.key, by), count: bin.count }).peekable();
    std::iter::from_fn(move || {
        let mut one = bins.next()?;
        while let Some(same) = bins.next_if(|bin| bin.key == one.key) {
            one.count = one.count.saturating_add(same.count);
        }
        Some(one)
    })
}

/// Two lists in order as one.
fn merged(bins: &[Bin], others: impl Iterator<Item = Bin>) -> Vec<Bin> {
    let mut all: Vec<Bin> = Vec::with_capacity(bins.len() + others.size_hint().0.max(1));
    let (mut bins, mut others) = (bins.iter().copied().peekable(), others.peekable());
    loop {
        let next = match (bins.peek(), others.peek()) {
            (Some(one), Some(other)) if other.key < one.key => others.next(),
            (Some(_), _) => bins.next(),
            (None, _) => others.next(),
        };
        let Some(next) = next else { return all };
        match all.last_mut() {
            Some(last) if last.key == next.key => last.count = last.count.saturating_add(next.count),
            _ => all.push(next),
        }
    }
}

fn distance(before: i64, key: i64) -> u64 {
    key.wrapping_sub(before) as u64
}

/// What each bin after the first takes beside its distance from the one before.
const BIN_BITS: u32 = 2;

/// What bins take when so many bits less of their values count; more than [`MAX_BITS`] if they are too many.
fn bits(bins: &[Bin], by: u8) -> u32 {
    let Some((first, rest)) = bins.split_first() else { return 0 };
    let (mut here, mut bits, mut used) = (wider(first.key, by), 0, 1);
    for bin in rest {
        let key = wider(bin.key, by);
        if key != here {
            bits += BIN_BITS + code_bits(distance(here, key));
            (here, used) = (key, used + 1);
        }
    }
    if used > MAX_BINS_ENTRIES { bits.max(MAX_BITS + 1) } else { bits }
}

/// How many bits a number from 1 on has in the Elias delta code.
fn code_bits(n: u64) -> u32 {
    CODE_BITS[n.max(1).ilog2() as usize].into()
}

/// By the place of the number's highest bit.
const CODE_BITS: [u8; 64] = {
    let mut all = [0; 64];
    let mut length = 0;
    while length < 64 {
        all[length] = (2 * (length + 1).ilog2() as usize + 1 + length) as u8;
        length += 1;
    }
    all
};

/// Writes numbers from 1 on in the Elias delta code, the highest bit first.
struct BitWriter<'a, E> {
    to: &'a mut E,
    /// In its lowest `used` bits, fewer than 32, is what is not written yet.
    held: u128,
    used: u32,
}

impl<E: Encoder> BitWriter<'_, E> {
    fn put(&mut self, n: u64) -> Result<(), EncodeError> {
        // As many zeros as the length has digits after its first; the length; the number after its first bit.
        let length = n.max(1).ilog2();
        let code = u128::from(length + 1) << length | u128::from(n ^ 1 << length);
        self.held = self.held << code_bits(n) | code;
        self.used += code_bits(n);
        while self.used >= 32 {
            self.used -= 32;
            self.to.writer().write(&((self.held >> self.used) as u32).to_be_bytes())?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), EncodeError> {
        let last = (self.held << (32 - self.used)) as u32;
        self.to.writer().write(&last.to_be_bytes()[..self.used.div_ceil(8) as usize])
    }
}

struct BitReader<'a, D> {
    from: &'a mut D,
    byte: u8,
    left: u8,
}

impl<D: Decoder> BitReader<'_, D> {
    fn bit(&mut self) -> Result<bool, DecodeError> {
        if self.left == 0 {
            let mut byte = [0];
            self.from.claim_bytes_read(1)?;
            self.from.reader().read(&mut byte)?;
            (self.byte, self.left) = (byte[0], 8);
        }
        self.left -= 1;
        Ok(self.byte >> self.left & 1 == 1)
    }

    /// A number's other bits, after the first, which is 1.
    fn rest(&mut self, count: u32) -> Result<u64, DecodeError> {
        let mut n = 1u64;
        for _ in 0..count {
            n = n << 1 | u64::from(self.bit()?);
        }
        Ok(n)
    }

    fn get(&mut self) -> Result<u64, DecodeError> {
        let mut digits = 0;
        while !self.bit()? {
            digits += 1;
            if digits > 6 {
                return Err(DecodeError::Other("a sketch with a number of more than 64 bits"));
            }
        }
        let length = self.rest(digits)? - 1;
        if length > 63 {
            return Err(DecodeError::Other("a sketch with a number of more than 64 bits"));
        }
        self.rest(length as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        values.to_vec().chunks_mut(128).for_each(|values| all.add_all(values));
        all
    }

    fn ends(values: &[f64]) -> (f64, f64) {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        (least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    #[test]
    fn a_quantile_is_the_reading_of_its_rank_within_the_stated_error() {
        let mut random = seeded(1);
        let spreads: [&dyn Fn(f64) -> f64; 6] = [
            &|u| 20.0 + u,
            &|u| u * 1e6 - 5e5,
            &|u| (u * 40.0 - 20.0).exp2(),
            &|u| if u < 0.4 { 0.0 } else { -3.0 - u },
            &|u| 1e300 * u,
            &|u| 1e15 + (u * 100.0).floor(),
        ];
        for (i, spread) in spreads.iter().enumerate() {
            for n in [1, 2, 3, 100, 5_000] {
                let mut values: Vec<f64> = (0..n).map(|_| spread(random())).collect();
                let sketch = of(&values);
                values.sort_by(f64::total_cmp);
                assert_eq!(sketch.count(), n as u64);
                for percent in [0, 1, 50, 90, 99, 100] {
                    let rank = (n * usize::from(percent)).div_ceil(100).max(1);
                    let exact = values[rank - 1];
                    let said = sketch.quantile(percent, values[0], values[n - 1]).unwrap();
                    let off = (said - exact).abs();
                    assert!(
                        off <= sketch.relative_error() * exact.abs(),
                        "{i} {n} {percent}: {said} {exact}"
                    );
                    if n <= 3 || (i == 5 && n == 100) {
                        assert_eq!(said, exact, "few values, or few different ones, are kept as they are");
                    }
                }
            }
        }
        assert_eq!(Sketch::default().quantile(50, 0.0, 0.0), None);
    }

    #[test]
    fn values_close_together_are_told_apart_by_their_spread_not_by_their_size() {
        let mut random = seeded(4);
        for (middle, spread) in [(52.0, 0.4), (1e9, 12.0), (-273.15, 1e-6), (1e-250, 1e-255), (0.0, 1.0)] {
            let mut values: Vec<f64> = (0..3_600).map(|_| middle + spread * (random() - 0.5)).collect();
            // Far away, and zero, cost nothing.
            values.extend([0.0, 1e-310, 5e12]);
            let sketch = of(&values);
            values.sort_by(f64::total_cmp);
            for percent in [50, 90, 99] {
                let exact = values[(values.len() * usize::from(percent)).div_ceil(100) - 1];
                let said = sketch.quantile(percent, values[0], 5e12).unwrap();
                let bound = if middle == 0.0 { spread / 8.0 } else { spread / 100.0 };
                assert!((said - exact).abs() <= bound, "{middle} {percent}: {said} {exact}");
            }
        }
    }

    #[test]
    fn ranks_are_rounded_up_and_zero_is_zero() {
        assert_eq!(rank(50, 0), None);
        for (percent, count, right) in [
            (0, 5, 1),
            (50, 1, 1),
            (50, 2, 1),
            (50, 3, 2),
            (90, 10, 9),
            (99, 2, 2),
            (99, 100, 99),
            (99, 101, 100),
            (100, 7, 7),
        ] {
            assert_eq!(rank(percent, count), Some(right), "{percent} {count}");
        }
        assert_eq!(rank(99, u64::MAX), Some(u64::MAX / 100 * 99 + 15));
        let mut values = vec![0.0; 300];
        let mut random = seeded(5);
        values.extend((0..300).map(|_| (random() * 400.0 - 200.0).exp2()));
        values.extend((0..300).map(|_| -(random() * 400.0 - 200.0).exp2()));
        let (min, max) = ends(&values);
        assert_eq!(of(&values).quantile(50, min, max), Some(0.0), "also among bins of whole octaves");
        let tiny = of(&[1e-310, 3e-310, 1.0, -0.0]);
        assert_eq!(tiny.quantile(50, 0.0, 1.0), Some(1e-310));
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
            let mut slowly = Sketch::default();
            for value in &values {
                slowly.add_all(&mut [*value]);
                assert!(slowly.bins.len() <= MAX_BINS_ENTRIES && bits(&slowly.bins, 0) <= MAX_BITS);
            }
            assert_eq!(slowly, all);
        }
    }

    #[test]
    fn values_at_the_edges_of_numbers_count() {
        let values = [f64::MAX, f64::MIN, 0.0, -0.0, 5e-324, -5e-324, f64::MIN_POSITIVE];
        let sketch = of(&values);
        let said = [1, 15, 30, 50, 60, 80, 99].map(|p| sketch.quantile(p, f64::MIN, f64::MAX).unwrap());
        assert_eq!(said, [f64::MIN, -5e-324, 0.0, 0.0, 5e-324, f64::MIN_POSITIVE, f64::MAX]);
        // All that there is, spread as far as can be.
        let mut random = seeded(3);
        let wild: Vec<f64> =
            (0..20_000).map(|_| f64::from_bits((random() * 2f64.powi(63)) as u64 * 2)).collect();
        let wild: Vec<f64> = wild.into_iter().filter(|value| value.is_finite()).collect();
        let sketch = of(&wild);
        assert!(sketch.bins.len() <= MAX_BINS_ENTRIES);
        let (min, max) = ends(&wild);
        for percent in 0..=100 {
            let said = sketch.quantile(percent, min, max).unwrap();
            assert!((min..=max).contains(&said), "{percent} {said}");
        }
    }

    #[test]
    fn codes_are_as_long_as_is_said() {
        for (n, bits) in [(1, 1), (2, 4), (3, 4), (4, 5), (8, 8), (127, 11), (128, 14), (u64::MAX, 76)] {
            assert_eq!(code_bits(n), bits, "{n}");
        }
        for n in 1..5_000 {
            assert!(code_bits(2 * n) <= code_bits(n) + 3 && code_bits(n) <= code_bits(n + 1), "{n}");
        }
    }
}
