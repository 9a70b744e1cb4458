//! Sequence numbers in payloads: which of a stream's numbers were counted.
//!
//! Kept for each boot of the device: its greatest number `top`, a bitmap of the
//! [`SEQUENCE_WIDTH_ENTRIES`] numbers up to it, and `low`, from which on every number below the bitmap was
//! seen. While nothing is missing there is no bitmap: `low..=top` says it all, in 40 bytes a boot.
//!
//! - A number in the bitmap is exact, in whatever order they come.
//! - Below it: from `low` on it was seen. Below `low` its fate is unknown: it is neither counted nor
//!   taken for a repetition, but set aside and reported.
//! - The first number of a boot makes those within the width below it acceptable: none was seen.
//!
//! Invariant: no number of a remembered boot is counted twice.
//! Limit: the last [`MAX_BOOTS_ENTRIES`] boots are remembered, by their last use. A device without boot
//! id must never start its sequence again.

use bincode::{Decode, Encode};

/// How many numbers up to the greatest are known one by one.
pub const SEQUENCE_WIDTH_ENTRIES: u64 = 1_024;
/// How many boots of a stream's device are remembered.
pub const MAX_BOOTS_ENTRIES: usize = 4;

const WORDS: usize = SEQUENCE_WIDTH_ENTRIES as usize / 64;

/// What is known of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Not seen before; it is now.
    New,
    /// Seen before.
    Repeated,
    /// Too old to tell.
    Unknown,
}

/// What is known of one boot's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) struct Boot {
    boot: Option<u64>,
    /// All from here up to the bitmap (without one: up to `top`) were seen; lower ones are unknown.
    low: u64,
    /// The greatest that was seen.
    top: u64,
    /// Bit `n % width` for each number `n` of the width up to `top`.
    bits: Option<Box<[u64; WORDS]>>,
}

/// Notes a number of a stream. The boots are kept in order of use, the latest last.
pub(super) fn note(boots: &mut Vec<Boot>, boot: Option<u64>, n: u64, forgotten: &mut u64) -> Fate {
    let Some(at) = boots.iter().rposition(|b| b.boot == boot) else {
        if boots.len() >= MAX_BOOTS_ENTRIES {
            boots.remove(0);
            *forgotten += 1;
        }
        boots.reserve_exact(1);
        boots.push(Boot { boot, low: n, top: n, bits: None });
        return Fate::New;
    };
    boots[at..].rotate_left(1);
    match boots.last_mut() {
        Some(boot) => boot.note(n),
        None => Fate::Unknown,
    }
}

impl Boot {
    /// Whether this can have come about (for one that was read back).
    pub fn is_sound(&self) -> bool {
        match &self.bits {
            None => self.low <= self.top,
            Some(bits) => self.low <= bottom(self.top) && get(bits, self.top),
        }
    }

    fn note(&mut self, n: u64) -> Fate {
        if self.bits.is_none() && n == self.top.wrapping_add(1) && n != 0 {
            self.top = n;
            return Fate::New;
        }
        if n > self.top {
            self.rise(n);
            return Fate::New;
        }
        if n < bottom(self.top) || self.bits.is_none() && n >= self.low {
            return if n >= self.low { Fate::Repeated } else { Fate::Unknown };
        }
        let bits = self.bits();
        if get(bits, n) {
            return Fate::Repeated;
        }
        set(bits, n);
        self.forget_full_bits();
        Fate::New
    }

    /// Moves the bitmap up, so that it ends with `n`, which is above it and now seen.
    fn rise(&mut self, n: u64) {
        if n - self.top >= SEQUENCE_WIDTH_ENTRIES {
            *self = Self { boot: self.boot, low: n, top: n, bits: None };
            return;
        }
        let old = self.top;
        let mut low = self.low.min(bottom(old));
        let bits = self.bits();
        for x in old + 1..=n {
            if let Some(leaving) = x.checked_sub(SEQUENCE_WIDTH_ENTRIES)
                && !get(bits, leaving)
            {
                low = leaving + 1;
            }
            clear(bits, x);
        }
        set(bits, n);
        self.low = low;
        self.top = n;
        self.forget_full_bits();
    }

    /// The bitmap, made from `low..=top` if there is none.
    fn bits(&mut self) -> &mut [u64; WORDS] {
        let (bottom, top, low) = (bottom(self.top), self.top, self.low);
        if self.bits.is_none() {
            let mut bits = Box::new([0; WORDS]);
            (low.max(bottom)..=top).for_each(|n| set(&mut bits, n));
            self.low = low.min(bottom);
            self.bits = Some(bits);
        }
        self.bits.get_or_insert_with(|| Box::new([0; WORDS]))
    }

    fn forget_full_bits(&mut self) {
        if self.bits.as_ref().is_some_and(|bits| bits.iter().all(|w| *w == u64::MAX)) {
            self.bits = None;
        }
    }
}

/// The least number that a bitmap up to `top` holds.
fn bottom(top: u64) -> u64 {
    top.saturating_sub(SEQUENCE_WIDTH_ENTRIES - 1)
}

fn place(n: u64) -> (usize, u64) {
    let at = (n % SEQUENCE_WIDTH_ENTRIES) as usize;
    (at / 64, 1 << (at % 64))
}

fn get(bits: &[u64; WORDS], n: u64) -> bool {
    let (word, bit) = place(n);
    bits[word] & bit != 0
}

fn set(bits: &mut [u64; WORDS], n: u64) {
    let (word, bit) = place(n);
    bits[word] |= bit;
}

fn clear(bits: &mut [u64; WORDS], n: u64) {
    let (word, bit) = place(n);
    bits[word] &= !bit;
}

#[cfg(test)]
mod tests {
    use super::*;
    use Fate::{New, Repeated, Unknown};
    use std::collections::BTreeSet;

    fn fates(numbers: &[u64]) -> Vec<Fate> {
        let mut boots = Vec::new();
        numbers.iter().map(|n| note(&mut boots, None, *n, &mut 0)).collect()
    }

    #[test]
    fn numbers_in_order_are_new_and_need_no_bitmap() {
        let mut boots = Vec::new();
        for n in 0..5_000 {
            assert_eq!(note(&mut boots, Some(1), n, &mut 0), New);
        }
        assert!(boots[0].bits.is_none());
        for n in [0, 1, 2_500, 4_999] {
            assert_eq!(note(&mut boots, Some(1), n, &mut 0), Repeated);
        }
    }

    #[test]
    fn numbers_out_of_order_are_told_apart_and_the_bitmap_goes_when_the_gap_has_passed() {
        assert_eq!(fates(&[0, 2, 1, 2, 1, 0, 3]), [New, New, New, Repeated, Repeated, Repeated, New]);
        let mut boots = Vec::new();
        for n in (0..10).chain(11..1_100) {
            assert_eq!(note(&mut boots, None, n, &mut 0), New);
        }
        assert!(boots[0].bits.is_none(), "10 has left the bitmap");
        assert_eq!(note(&mut boots, None, 10, &mut 0), Unknown);
        assert_eq!(note(&mut boots, None, 11, &mut 0), Repeated);
        assert_eq!(note(&mut boots, None, 9, &mut 0), Unknown, "below the gap nothing is told any more");
    }

    #[test]
    fn what_lies_within_the_width_below_the_first_number_is_new() {
        assert_eq!(fates(&[2_000, 977, 976, 1_999, 977]), [New, New, Unknown, New, Repeated]);
        assert_eq!(fates(&[5, 0, 4, 5]), [New, New, New, Repeated]);
    }

    #[test]
    fn a_leap_forgets_what_it_passes() {
        assert_eq!(
            fates(&[0, 1, 5_000, 1, 4_999, 3_977, 3_976]),
            [New, New, New, Unknown, New, New, Unknown]
        );
        assert_eq!(fates(&[0, u64::MAX, u64::MAX, 0, u64::MAX - 1]), [New, New, Repeated, Unknown, New]);
        assert_eq!(fates(&[u64::MAX, 0]), [New, Unknown]);
    }

    #[test]
    fn each_boot_counts_anew_and_the_least_recently_used_one_is_forgotten() {
        let (mut boots, mut forgotten) = (Vec::new(), 0);
        for boot in [None, Some(0), Some(1), Some(2)] {
            assert_eq!(note(&mut boots, boot, 0, &mut forgotten), New);
        }
        assert_eq!(note(&mut boots, None, 0, &mut forgotten), Repeated);
        assert_eq!(note(&mut boots, Some(3), 0, &mut forgotten), New);
        assert_eq!((boots.len(), forgotten), (MAX_BOOTS_ENTRIES, 1));
        assert_eq!(note(&mut boots, None, 0, &mut forgotten), Repeated);
        assert_eq!(note(&mut boots, Some(0), 0, &mut forgotten), New, "forgotten: the one used longest ago");
    }

    #[test]
    fn nothing_is_counted_twice_or_taken_for_a_repetition_wrongly() {
        for seed in 0..40 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut boots, mut seen, mut at) = (Vec::new(), BTreeSet::new(), random.u64(0..3_000));
            for _ in 0..5_000 {
                at = match random.u32(0..100) {
                    0 => at + random.u64(0..3_000),
                    1 => at.saturating_sub(random.u64(0..3_000)),
                    2..10 => at.saturating_sub(random.u64(0..30)),
                    _ => at + 1,
                };
                let fate = note(&mut boots, None, at, &mut 0);
                match fate {
                    New => assert!(seen.insert(at), "seed {seed}: {at} counted twice"),
                    Repeated => assert!(seen.contains(&at), "seed {seed}: {at} was never seen"),
                    Unknown => assert!(at + SEQUENCE_WIDTH_ENTRIES <= *seen.last().unwrap(), "seed {seed}"),
                }
                assert!(boots[0].is_sound(), "seed {seed}");
            }
        }
    }
}
