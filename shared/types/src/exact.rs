//! Sums of doubles, and of their squares, that are exact.
//!
//! A double is a whole number times a power of two, and so is its square. Their sum is kept as such a number too, without
//! rounding. So the order in which it is added up, and the parts in which that happens, do not show in a single bit; nothing
//! cancels; nothing overflows; and all that is reckoned is whole numbers, which are the same on every processor. Rounding
//! happens once, when a figure is asked for: [`ExactSum::value`] and [`ExactSum::mean`] are the doubles nearest to the true ones.
//!
//! The variance of n readings is (n * (sum of squares) - (sum)^2) / n^2. In doubles that is the textbook's example of
//! cancellation, which Chan, Golub and LeVeque ("Algorithms for computing the sample variance", 1983) avoid by keeping the squares
//! of the distances from the mean instead; with exact sums the difference is exact as well, and merging stays an addition.
//!
//! Room: the readings of a stream mostly are of a few sizes, and then three limbs hold the sum of their squares. Those of
//! sizes that differ by more than some forty powers of two take [`MANY_LIMBS`], which hold whatever doubles add up to.

mod natural;

use crate::frame::varint_bytes;
use bincode::de::Decoder;
use bincode::de::read::Reader;
use bincode::enc::Encoder;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};

const FEW_LIMBS: usize = 3;
/// What is added to a number of [`FEW_LIMBS`], and that itself, are less than 2^this: so they don't run over.
const FEW_BITS: i32 = 64 * FEW_LIMBS as i32 - 2;

/// Exponents that differ by at most so much are near: the mantissas of 53 bits fit 64 with one exponent.
const NEAR_BITS: i32 = 11;

/// The exponent of the square of the least double.
const LEAST_EXPONENT: i32 = 2 * -1074;
/// Up to the square of the greatest double, 2^64 times, and a sign.
const MANY_LIMBS: usize = (2148usize + 2048 + 64 + 1).div_ceil(64);

/// A sum without rounding; the default is 0.
#[derive(Debug, Clone, Default)]
pub struct ExactSum {
    /// The sum is this number (two's complement, the lowest limb first) times `2^exponent`.
    few: [u64; FEW_LIMBS],
    exponent: i16,
    /// If it needs more room, it is this one times `2^LEAST_EXPONENT` instead.
    many: Option<Box<[u64; MANY_LIMBS]>>,
}

impl ExactSum {
    /// Adds a number, which is finite.
    pub fn add(&mut self, value: f64) {
        let (mantissa, exponent) = split(value);
        self.put(mantissa.into(), 53, exponent, value.is_sign_negative());
    }

    /// Adds the square of a number, which is finite.
    pub fn add_square(&mut self, value: f64) {
        let (mantissa, exponent) = split(value);
        self.put(u128::from(mantissa) * u128::from(mantissa), 106, 2 * exponent, false);
    }

    /// Adds finite numbers to `sum`, and their squares to `squares`: the same as one by one, and much quicker where they are of about
    /// the same size.
    pub fn add_all(values: &[f64], sum: &mut Self, squares: &mut Self) {
        let (mut least, mut greatest) = (i32::MAX, i32::MIN);
        for value in values.iter().filter(|value| **value != 0.0) {
            let (_, exponent) = split(*value);
            (least, greatest) = (least.min(exponent), greatest.max(exponent));
        }
        if least > greatest {
            return; // nothing but zeros
        }
        if greatest - least > NEAR_BITS {
            return values.iter().for_each(|value| {
                sum.add(*value);
                squares.add_square(*value);
            });
        }
        // As whole multiples of 2^least they have 64 bits, and there are less than 2^60 of them in any memory: nothing runs over.
        let (mut total, mut lows, mut highs) = (0i128, 0u128, 0u128);
        for value in values {
            let (mantissa, exponent) = split(*value);
            let multiple = mantissa << (exponent - least).max(0); // 0 has the least exponent of all
            let signed = i128::from(multiple);
            total += if value.is_sign_negative() { -signed } else { signed };
            let square = u128::from(multiple) * u128::from(multiple);
            lows += u128::from(square as u64);
            highs += square >> 64;
        }
        sum.put(total.unsigned_abs(), 124, least, total < 0);
        squares.put(lows, 124, 2 * least, false);
        squares.put(highs, 124, 2 * least + 64, false);
    }

    /// Adds a number `times` times.
    pub fn add_times(&mut self, value: f64, times: u64) {
        let (mantissa, exponent) = split(value);
        self.put(u128::from(mantissa) * u128::from(times), 117, exponent, value.is_sign_negative());
    }

    /// Adds the square of a number `times` times.
    pub fn add_square_times(&mut self, value: f64, times: u64) {
        let (mantissa, exponent) = split(value);
        let square = u128::from(mantissa) * u128::from(mantissa);
        for (limb, at) in [(square as u64, 0), ((square >> 64) as u64, 64)] {
            self.put(u128::from(limb) * u128::from(times), 128, 2 * exponent + at, false);
        }
    }

    /// Adds another sum, as exactly as single values.
    pub fn merge(&mut self, other: &Self) {
        other.read(|negative, exponent, limbs| {
            for (limb, at) in limbs.iter().zip((exponent..).step_by(64)) {
                self.put(u128::from(*limb), 64, at, negative);
            }
        });
    }

    /// The nearest double; infinity if the sum lies beyond the greatest.
    pub fn value(&self) -> f64 {
        self.read(|negative, exponent, limbs| signed(natural::nearest(limbs, exponent, false), negative))
    }

    /// The double that is nearest to its share for each of `count`.
    pub fn mean(&self, count: u64) -> f64 {
        self.read(|negative, exponent, limbs| {
            // 128 bits more, so that the quotient has more of them than a double.
            let (quotient, rest) = natural::quotient(&[&[0, 0], limbs].concat(), count.max(1));
            signed(natural::nearest(&quotient, exponent - 128, rest), negative)
        })
    }

    /// The standard deviation of `count` numbers with this sum and the sum `squares` of their squares; nothing if there are no
    /// such numbers.
    pub fn deviation(&self, squares: &Self, count: u64) -> Option<f64> {
        let (exponent, square) = self.read(|_, exponent, sum| (2 * exponent, natural::product(sum, sum)));
        let (squares_exponent, squares) = squares.read(|negative, exponent, squares| {
            (!negative && count > 0).then(|| (exponent, natural::product(squares, &[count])))
        })?;
        let common = exponent.min(squares_exponent);
        let scaled = |n: Vec<u64>, exponent: i32| natural::shifted(&n, (exponent - common) as usize);
        let left = natural::difference(&scaled(squares, squares_exponent), &scaled(square, exponent))?;
        // left * 2^common = f * 4^half, where f is from 1 to less than 4.
        let half = (common + natural::bits(&left) as i32 - 1).div_euclid(2);
        let root = natural::nearest(&left, common - 2 * half, false).sqrt() / count as f64;
        let (first, second) = (half / 2, half - half / 2);
        Some(root * natural::power(first) * natural::power(second))
    }

    /// How many bytes it takes within a frame.
    pub fn encoded_bytes(&self) -> usize {
        self.read(|negative, exponent, limbs| {
            let bytes = natural::bits(limbs).div_ceil(8);
            let signed = (exponent << 1 ^ exponent >> 31) as u32;
            varint_bytes(2 * bytes as u64 + u64::from(negative))
                + if bytes > 0 { varint_bytes(signed.into()) + bytes } else { 0 }
        })
    }

    /// Adds `number * 2^exponent`, or takes it away; the number is less than `2^size`.
    fn put(&mut self, number: u128, size: i32, exponent: i32, negative: bool) {
        let at = exponent - i32::from(self.exponent);
        if self.many.is_none() && at >= 0 && at + size <= FEW_BITS && has_room(&self.few) {
            add_to_few(&mut self.few, at as u32, number, negative);
        } else if number != 0 {
            self.put_slowly(number, exponent, negative);
        }
    }

    /// The same for what may need room to be made.
    #[cold]
    fn put_slowly(&mut self, number: u128, exponent: i32, negative: bool) {
        if self.many.is_none() {
            if self.few == [0; FEW_LIMBS] {
                self.exponent = exponent as i16;
            }
            if let Some(at) = self.room_for(number, exponent) {
                return add_to_few(&mut self.few, at, number, negative);
            }
            // As short as both can be, before they are too long.
            let zeros = number.trailing_zeros();
            self.shorten();
            if let Some(at) = self.room_for(number >> zeros, exponent + zeros as i32) {
                return add_to_few(&mut self.few, at, number >> zeros, negative);
            }
        }
        let at = (exponent - LEAST_EXPONENT).max(0) as usize;
        add_at(&mut self.spilled()[..], at, number, negative);
    }

    /// At which bit of `few` a number is to be added, once it has been moved up for that; nothing if there is no room.
    fn room_for(&mut self, number: u128, exponent: i32) -> Option<u32> {
        let mut at = exponent - i32::from(self.exponent);
        if at < 0 {
            if self.few_bits() - at > FEW_BITS {
                return None;
            }
            shift_left(&mut self.few, -at as usize);
            (self.exponent, at) = (exponent as i16, 0);
        }
        let size = 128 - number.leading_zeros() as i32;
        (has_room(&self.few) && at + size <= FEW_BITS).then_some(at as u32)
    }

    /// How many bits the number in `few` has, besides its sign.
    fn few_bits(&self) -> i32 {
        let mut few = self.few;
        if is_negative(&few) {
            negate(&mut few);
        }
        natural::bits(&few) as i32
    }

    /// Takes the zeros off the end of `few`.
    fn shorten(&mut self) {
        let (negative, mut few) = (is_negative(&self.few), self.few);
        if few == [0; FEW_LIMBS] {
            return;
        }
        if negative {
            negate(&mut few);
        }
        let zeros = natural::trailing_zeros(&few);
        shift_right(&mut few, zeros);
        if negative {
            negate(&mut few);
        }
        (self.few, self.exponent) = (few, self.exponent + zeros as i16);
    }

    /// The number with more room.
    fn spilled(&mut self) -> &mut [u64; MANY_LIMBS] {
        let (few, exponent) = (&mut self.few, i32::from(self.exponent));
        self.many.get_or_insert_with(|| {
            let mut many = Box::new([0; MANY_LIMBS]);
            let negative = is_negative(few);
            if negative {
                negate(few);
            }
            for (limb, at) in few.iter().zip((exponent - LEAST_EXPONENT..).step_by(64)) {
                if *limb != 0 {
                    add_at(&mut many[..], at as usize, u128::from(*limb), negative);
                }
            }
            many
        })
    }

    /// Reads it in the one way in which it can be written as a sign, an exponent and an odd number; 0 has no limbs.
    fn read<T>(&self, read: impl FnOnce(bool, i32, &[u64]) -> T) -> T {
        fn parts<T>(mut exponent: i32, limbs: &mut [u64], read: impl FnOnce(bool, i32, &[u64]) -> T) -> T {
            let negative = is_negative(limbs);
            if negative {
                negate(limbs);
            }
            let size = natural::bits(limbs);
            if size == 0 {
                return read(false, 0, &[]);
            }
            let zeros = natural::trailing_zeros(limbs);
            shift_right(limbs, zeros);
            exponent += zeros as i32;
            read(negative, exponent, &limbs[..(size - zeros).div_ceil(64)])
        }
        match &self.many {
            Some(many) => parts(LEAST_EXPONENT, &mut many.clone()[..], read),
            None => parts(self.exponent.into(), &mut self.few.clone(), read),
        }
    }
}

impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        self.read(|negative, exponent, limbs| {
            other.read(|its, other_exponent, others| {
                (negative, exponent, limbs) == (its, other_exponent, others)
            })
        })
    }
}

fn signed(value: f64, negative: bool) -> f64 {
    if negative { -value } else { value }
}

/// A finite number without its sign: a whole number, and the exponent of the power of two that it is multiplied by.
fn split(value: f64) -> (u64, i32) {
    let bits = value.to_bits();
    let (mantissa, exponent) = (bits & ((1 << 52) - 1), ((bits >> 52) & 0x7ff) as i32);
    if exponent == 0 { (mantissa, -1074) } else { (mantissa | 1 << 52, exponent - 1075) }
}

fn is_negative(limbs: &[u64]) -> bool {
    limbs.last().is_some_and(|top| top >> 63 == 1)
}

/// Whether the number is less than 2^[`FEW_BITS`], on either side of 0.
fn has_room(few: &[u64; FEW_LIMBS]) -> bool {
    let top = few[FEW_LIMBS - 1];
    (top ^ top << 1) >> 63 == 0
}

fn negate(limbs: &mut [u64]) {
    let mut carry = true;
    for limb in limbs {
        (*limb, carry) = (!*limb).overflowing_add(carry.into());
    }
}

/// As [`add_at`], of a sum that has room.
fn add_to_few(few: &mut [u64; FEW_LIMBS], at: u32, number: u128, negative: bool) {
    let by = at % 64;
    let (low, high) = (number << by, (number >> 1 >> (127 - by)) as u64);
    let (low, high) = match at / 64 {
        0 => (low, high),
        1 => (low << 64, (low >> 64) as u64),
        _ => (0, low as u64),
    };
    let before = u128::from(few[0]) | u128::from(few[1]) << 64;
    let (sum, carry) = if negative { before.overflowing_sub(low) } else { before.overflowing_add(low) };
    let high = high.wrapping_add(carry.into());
    let top = if negative { few[2].wrapping_sub(high) } else { few[2].wrapping_add(high) };
    *few = [sum as u64, (sum >> 64) as u64, top];
}

/// Adds `number * 2^at`, or takes it away.
fn add_at(limbs: &mut [u64], at: usize, number: u128, negative: bool) {
    let (first, by) = (at / 64, at % 64);
    let low = number << by;
    let high = if by == 0 { 0 } else { (number >> (128 - by)) as u64 };
    let parts = [low as u64, (low >> 64) as u64, high];
    let mut carry = false;
    for (place, limb) in limbs.iter_mut().skip(first).enumerate() {
        let part = parts.get(place).copied().unwrap_or(0);
        let step = if negative { u64::overflowing_sub } else { u64::overflowing_add };
        let (sum, one) = step(*limb, part);
        let (sum, other) = step(sum, carry.into());
        (*limb, carry) = (sum, one | other);
        if place >= 2 && !carry {
            break;
        }
    }
}

fn shift_left(limbs: &mut [u64], by: usize) {
    let (whole, by) = (by / 64, by % 64);
    for at in (0..limbs.len()).rev() {
        let limb = |at: Option<usize>| at.map_or(0, |at| limbs[at]);
        let low = if by == 0 { 0 } else { limb(at.checked_sub(whole + 1)) >> (64 - by) };
        limbs[at] = limb(at.checked_sub(whole)) << by | low;
    }
}

/// Shifts a number that is not negative right, by this many bits.
fn shift_right(limbs: &mut [u64], by: usize) {
    let (whole, by) = (by / 64, by % 64);
    for at in 0..limbs.len() {
        let limb = |at: usize| limbs.get(at).copied().unwrap_or(0);
        let high = if by == 0 { 0 } else { limb(at + whole + 1) << (64 - by) };
        limbs[at] = limb(at + whole) >> by | high;
    }
}

/// How many bytes the odd number has, twice, and 1 more if the sum is negative; the exponent; the number's bytes, the lowest first.
/// Of 0 only a zero.
impl Encode for ExactSum {
    fn encode<E: Encoder>(&self, to: &mut E) -> Result<(), EncodeError> {
        self.read(|negative, exponent, limbs| {
            let mut left = natural::bits(limbs).div_ceil(8);
            (left as u16 * 2 + u16::from(negative)).encode(to)?;
            if left > 0 {
                (exponent as i16).encode(to)?;
            }
            for limb in limbs {
                to.writer().write(&limb.to_le_bytes()[..left.min(8)])?;
                left = left.saturating_sub(8);
            }
            Ok(())
        })
    }
}

impl<C> Decode<C> for ExactSum {
    fn decode<D: Decoder<Context = C>>(from: &mut D) -> Result<Self, DecodeError> {
        let head = u16::decode(from)?;
        let (bytes, negative) = (usize::from(head / 2), head % 2 == 1);
        let wrong = |why| Err(DecodeError::Other(why));
        if bytes == 0 {
            return if negative { wrong("a sum of nothing with a sign") } else { Ok(Self::default()) };
        }
        let exponent = i32::from(i16::decode(from)?);
        let end = exponent + 8 * bytes as i32;
        if exponent < LEAST_EXPONENT || end >= LEAST_EXPONENT + 64 * MANY_LIMBS as i32 {
            return wrong("a sum of more than numbers can add up to");
        }
        from.claim_bytes_read(bytes)?;
        let mut room = [0; 8 * MANY_LIMBS];
        from.reader().read(&mut room[..bytes])?;
        if room[0] % 2 == 0 || room[bytes - 1] == 0 {
            return wrong("a sum that is longer than it needs to be");
        }
        let mut sum = Self { exponent: exponent as i16, ..Self::default() };
        let limbs = room[..bytes].chunks(8).zip((exponent..).step_by(64));
        for (chunk, at) in limbs {
            let mut limb = [0; 8];
            limb[..chunk.len()].copy_from_slice(chunk);
            sum.put(u64::from_le_bytes(limb).into(), 64, at, negative);
        }
        Ok(sum)
    }
}

impl<'de, C> bincode::BorrowDecode<'de, C> for ExactSum {
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

    fn of(values: &[f64]) -> (ExactSum, ExactSum) {
        let (mut sum, mut squares) = (ExactSum::default(), ExactSum::default());
        for value in values {
            sum.add(*value);
            squares.add_square(*value);
        }
        (sum, squares)
    }

    #[test]
    fn it_is_known_how_many_bytes_a_sum_of_any_length_takes() {
        for length in 0..1_020 {
            for sign in [1.0, -1.0] {
                let (sum, _) = of(&[sign, sign * 2f64.powi(length)]);
                assert_eq!(sum.encoded_bytes(), frame::encode(1, &sum).len() - 1, "{sign} and 2^{length}");
            }
        }
    }

    /// Doubles of every size, the same in every run.
    fn wild(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            loop {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let value = f64::from_bits(state ^ state >> 29);
                if value.is_finite() {
                    return value;
                }
            }
        }
    }

    #[test]
    fn many_at_once_are_the_same_as_one_by_one() {
        let mut wild = wild(7);
        let mut next = move |kind: u64| {
            let value = wild();
            let near =
                f64::from_bits(value.to_bits() & !(0x7ffu64 << 52) | (1_020 + value.to_bits() % 13) << 52);
            match kind {
                0 => value,
                1 => near,
                2 => [0.0, -0.0, near][value.to_bits() as usize % 3],
                3 => f64::from_bits(near.to_bits() & ((1 << 63) | ((1 << 54) - 1))), // the least doubles
                _ => near.signum() * f64::MAX,
            }
        };
        for kind in 0..5 {
            for count in [0, 1, 2, 127, 128, 3_000] {
                let values: Vec<f64> = (0..count).map(|_| next(kind)).collect();
                let (sum, squares) = of(&values);
                let mut at_once = (ExactSum::default(), ExactSum::default());
                let (some, others) = values.split_at(values.len() / 3);
                for part in [some, others] {
                    ExactSum::add_all(part, &mut at_once.0, &mut at_once.1);
                }
                assert!((sum, squares) == at_once, "{kind} {count}");
            }
        }
    }

    #[test]
    fn equal_values_have_themselves_as_mean_and_no_deviation() {
        for value in [0.1, 23.4, -1e-300, 5e-324, 1e308, f64::MAX, f64::MIN, 1.0 / 3.0, 0.0] {
            for count in [1, 2, 3, 60, 1_000] {
                let (sum, squares) = of(&vec![value; count]);
                assert_eq!(sum.mean(count as u64), value, "{value} {count}");
                assert_eq!(sum.deviation(&squares, count as u64), Some(0.0), "{value} {count}");
                let (mut times, mut square_times) = (ExactSum::default(), ExactSum::default());
                times.add_times(value, count as u64);
                square_times.add_square_times(value, count as u64);
                assert_eq!((times, square_times), (sum, squares));
            }
        }
    }

    #[test]
    fn nothing_cancels_and_nothing_runs_over() {
        let (sum, squares) = of(&[1_000_000_004.0, 1_000_000_007.0, 1_000_000_013.0, 1_000_000_016.0]);
        assert_eq!((sum.value(), sum.mean(4)), (4_000_000_040.0, 1_000_000_010.0));
        assert_eq!(sum.deviation(&squares, 4), Some(22.5f64.sqrt()));
        let (sum, _) = of(&[1e100, 1.0, -1e100]);
        assert_eq!(sum.value(), 1.0);
        let (sum, squares) = of(&[1e308; 3]);
        assert_eq!((sum.value(), sum.mean(3)), (f64::INFINITY, 1e308));
        assert_eq!(sum.deviation(&squares, 3), Some(0.0));
        let (sum, squares) = of(&[1e308, -1e308]);
        assert_eq!((sum.value(), sum.mean(2), sum.deviation(&squares, 2)), (0.0, 0.0, Some(1e308)));
        let (sum, squares) = of(&[f64::MAX, f64::MIN, f64::MAX, f64::MIN]);
        assert_eq!((sum.value(), sum.deviation(&squares, 4)), (0.0, Some(f64::MAX)));
        let (sum, squares) = of(&[5e-324, 15e-324]);
        assert_eq!((sum.mean(2), sum.deviation(&squares, 2)), (1e-323, Some(5e-324)));
        let (sum, squares) = of(&[1e-200, 3e-200]);
        assert!((sum.deviation(&squares, 2).unwrap() / 1e-200 - 1.0).abs() < 1e-15);
    }

    #[test]
    fn the_order_and_the_parts_do_not_show() {
        for seed in 0..60 {
            let mut wild = wild(seed);
            let scale = |v: f64| if seed % 2 == 0 { v } else { v % 1e6 };
            let values: Vec<f64> = (0..40).map(|_| scale(wild())).collect();
            let all = of(&values);
            let reversed: Vec<f64> = values.iter().rev().copied().collect();
            assert_eq!(of(&reversed), all, "{seed}");
            let (mut sum, mut squares) = of(&values[30..]);
            let (first, first_squares) = of(&values[..30]);
            sum.merge(&first);
            squares.merge(&first_squares);
            assert_eq!((&sum, &squares), (&all.0, &all.1), "{seed}");
            for one in [&sum, &squares] {
                let bytes = frame::encode(1, one);
                assert_eq!(&frame::decode::<ExactSum>("sum", 1, &bytes).unwrap(), one);
                assert!(bytes.len() <= 8 * MANY_LIMBS + 6);
            }
            // What was taken in goes away again, to the last bit.
            values.iter().for_each(|value| sum.add(-value));
            assert_eq!(sum, ExactSum::default(), "{seed}");
        }
    }

    #[test]
    fn sums_and_means_are_the_nearest_doubles() {
        // A reading more or less: whole numbers of 128 bits say what is right.
        let mut wild = wild(7);
        for round in 0..300 {
            let whole: Vec<i64> = (0..=round % 9).map(|_| wild().to_bits() as i64 >> (round % 40)).collect();
            let doubles: Vec<f64> = whole.iter().map(|n| (n >> 11) as f64).collect();
            let (sum, _) = of(&doubles);
            let right: i128 = whole.iter().map(|n| i128::from(n >> 11)).sum();
            assert_eq!(sum.value(), right as f64);
            let (count, size) = (doubles.len() as u64, right.unsigned_abs());
            let right =
                ((size << 64) / u128::from(count)) | u128::from((size << 64) % u128::from(count) != 0);
            assert_eq!(sum.mean(count).abs(), right as f64 / 2f64.powi(64));
        }
    }

    #[test]
    fn a_sum_has_these_bytes_and_wrong_ones_are_refused() {
        let (sum, _) = of(&[1.5, 2.0, -0.25]);
        let golden = [1, 2, 3, 13];
        assert_eq!(frame::encode(1, &sum), golden);
        assert_eq!(frame::encode(1, &ExactSum::default()), [1, 0]);
        let (mut sum, _) = of(&[-300.5]);
        assert_eq!(frame::encode(1, &sum), [1, 5, 1, 0x59, 2]);
        sum.add(300.5);
        assert_eq!(sum, ExactSum::default());
        let read = |bytes: &[u8]| frame::decode::<ExactSum>("sum", 1, bytes);
        let far = [1, 2, 251, 0xff, 0xff, 1];
        for wrong in [&[1, 1][..], &[1, 2, 3, 12], &[1, 4, 3, 13, 0], &[1, 4, 3, 13], &far] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
