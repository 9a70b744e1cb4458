//! Whole numbers of any size, as far as the figures of exact sums need them: limbs of 64 bits, the lowest first.

/// How many bits a number has; none is zero.
pub fn bits(n: &[u64]) -> usize {
    let top = n.iter().rposition(|limb| *limb != 0);
    top.map_or(0, |at| 64 * at + 64 - n[at].leading_zeros() as usize)
}

/// The 64 bits from bit `at` on.
fn bits_from(n: &[u64], at: usize) -> u64 {
    let (limb, by) = (at / 64, at % 64);
    let low = n.get(limb).copied().unwrap_or(0) >> by;
    if by == 0 { low } else { low | n.get(limb + 1).copied().unwrap_or(0) << (64 - by) }
}

/// `n * 2^by`, in limbs of 64 bits, the lowest first.
pub fn shifted(n: &[u64], by: usize) -> Vec<u64> {
    let limbs = (bits(n) + by).div_ceil(64);
    let (zeros, by) = (by / 64, by % 64);
    let limb = |at: usize| match at.checked_sub(zeros) {
        None => 0,
        Some(0) => n.first().copied().unwrap_or(0) << by,
        Some(at) => bits_from(n, 64 * at - by),
    };
    (0..limbs).map(limb).collect()
}

/// `a * b`, in limbs of 64 bits, the lowest first.
pub fn product(a: &[u64], b: &[u64]) -> Vec<u64> {
    let mut all = vec![0; a.len() + b.len()];
    for (at, x) in a.iter().enumerate() {
        let mut carry = 0u128;
        for (y, to) in b.iter().zip(&mut all[at..]) {
            carry += u128::from(*x) * u128::from(*y) + u128::from(*to);
            *to = carry as u64;
            carry >>= 64;
        }
        all[at + b.len()] = carry as u64;
    }
    all
}

/// `a - b`; nothing if that is below zero.
pub fn difference(a: &[u64], b: &[u64]) -> Option<Vec<u64>> {
    let mut borrow = false;
    let limb = |at: usize| {
        let (x, y) = (a.get(at).copied().unwrap_or(0), b.get(at).copied().unwrap_or(0));
        let (x, first) = x.overflowing_sub(y);
        let (x, second) = x.overflowing_sub(borrow.into());
        borrow = first | second;
        x
    };
    let all = (0..a.len().max(b.len())).map(limb).collect();
    (!borrow).then_some(all)
}

/// `n / by`, and whether something is left; `by` is not 0.
pub fn quotient(n: &[u64], by: u64) -> (Vec<u64>, bool) {
    let (mut all, mut rest) = (vec![0; n.len()], 0u128);
    for (to, limb) in all.iter_mut().zip(n).rev() {
        rest = rest << 64 | u128::from(*limb);
        *to = (rest / u128::from(by)) as u64;
        rest %= u128::from(by);
    }
    (all, rest != 0)
}

/// The double nearest to `n * 2^exponent`, of two the even one; infinity beyond what doubles reach. `more` says that the true
/// number is a little greater, by less than `2^exponent`.
pub fn nearest(n: &[u64], exponent: i32, more: bool) -> f64 {
    let size = bits(n);
    let highest = exponent + size as i32 - 1;
    if size == 0 || highest > 1023 {
        return if size == 0 { 0.0 } else { f64::INFINITY };
    }
    // Of the last bit that a double of this size has.
    let last = (highest - 52).max(-1074);
    let mantissa = match usize::try_from(last - exponent) {
        Ok(drop @ 1..) => {
            let kept = bits_from(n, drop);
            let half = bits_from(n, drop - 1) & 1 == 1;
            let below = more || n.iter().any(|limb| *limb != 0) && trailing_zeros(n) < drop - 1;
            kept + u64::from(half && (below || kept & 1 == 1))
        }
        _ => n[0] << (exponent - last),
    };
    mantissa as f64 * power(last)
}

/// How often 2 divides `n`, which is not 0.
pub fn trailing_zeros(n: &[u64]) -> usize {
    let at = n.iter().position(|limb| *limb != 0).unwrap_or(0);
    64 * at + n[at].trailing_zeros() as usize
}

/// `2^exponent`, from the least double to beyond the greatest power of two.
pub fn power(exponent: i32) -> f64 {
    match exponent {
        ..=-1075 => 0.0,
        -1074..=-1023 => f64::from_bits(1 << (exponent + 1074)),
        -1022..=1023 => f64::from_bits(((exponent + 1023) as u64) << 52),
        1024.. => f64::INFINITY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reckoned_as_on_paper() {
        let (a, b) = ([u64::MAX, 3], [5u64]);
        assert_eq!(product(&a, &b), [u64::MAX - 4, 19, 0]);
        assert_eq!(difference(&a, &b).unwrap(), [u64::MAX - 5, 3]);
        assert_eq!(difference(&b, &a), None);
        assert_eq!(quotient(&[7, 10], 3), (vec![6_148_914_691_236_517_207, 3], true));
        assert_eq!(shifted(&[1 << 63 | 1], 65), [0, 2, 1]);
        assert_eq!(shifted(&[3], 64), [0, 3]);
        assert_eq!((bits(&[]), bits(&[0, 0]), bits(&[0, 1])), (0, 0, 65));
    }

    #[test]
    fn the_nearest_double_is_found() {
        let two_53 = 1u64 << 53;
        for (n, exponent, more, double) in [
            (vec![two_53 + 1], 0, false, two_53 as f64),
            (vec![two_53 + 1], 0, true, two_53 as f64 + 2.0),
            (vec![two_53 + 3], 0, false, two_53 as f64 + 4.0),
            (vec![0, 1], -64, false, 1.0),
            (vec![u64::MAX, u64::MAX], 0, false, 2f64.powi(128)),
            (vec![3], -1075, false, 1e-323),
            (vec![1], -1075, false, 0.0),
            (vec![1], -1075, true, 5e-324),
            (vec![1], -3000, true, 0.0),
            (vec![two_53 - 1], 971, false, f64::MAX),
            (vec![1], 1024, false, f64::INFINITY),
            (vec![], 5, false, 0.0),
        ] {
            assert_eq!(nearest(&n, exponent, more), double, "{n:?} {exponent} {more}");
        }
        assert_eq!((power(-1074), power(-1022), power(1023)), (5e-324, f64::MIN_POSITIVE, 2f64.powi(1023)));
    }
}
