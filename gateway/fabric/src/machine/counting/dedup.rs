//! Deduplication by sequence number: which numbers of a stream were counted.
//!
//! For each boot of the device, the stream keeps the greatest number `top`, a bitmap of the
//! [`SEQUENCE_WIDTH_ENTRIES`] numbers up to it, and `low`: every number from `low` up to the bitmap was seen.
//! While no number is missing there is no bitmap, because `low..=top` says everything, in 64 bytes for each
//! boot.
//!
//! - Within the bitmap, the answer is exact, in whatever order numbers arrive.
//! - Below the bitmap, numbers from `low` on were seen. Whether a number below `low` was seen is unknown, so
//!   it is neither counted nor taken for a repetition, but set aside as far behind.
//! - When the first number of a boot arrives, the numbers within the width below it are still new.
//!
//! # Leaps
//! One wild number must not make all later ones look old. So a number that is further above `top` than the
//! rules allow (`max_leap`, or 1/64 of `top` if that is more, for devices that number by timestamp) is set
//! aside and does not move `top`. If the boot's next new number is above the leap within the same distance,
//! the device really counts there, perhaps after days without contact. That number is counted, and `top`
//! moves up to it. Moving up is safe, because everything counted is below. Numbers above [`MAX_NUMBER`] are
//! never counted: no counter and no clock reaches them.
//!
//! The first number of a boot has nothing to be compared with. It is counted, but stays tentative until a
//! number near it arrives. If a number from far below arrives instead, the first number was the wild one:
//! counting goes on from the lower number, and the first is remembered separately (`stray`), so that it is
//! still recognised. This is exact, because nothing but the first number has been counted. Later on, numbers
//! from far below are set aside: after hundreds of numbers it is unknown which were counted. So a device that
//! restarts its sequence must number its boots, or an operator must reset the stream.
//!
//! # Counters of few bits
//! A rule may say that a stream's counter has N bits. Its numbers then follow serial number arithmetic (RFC
//! 1982): each stands for the number nearest to `top` that equals it modulo 2^N, so the counter may wrap. A
//! gap of half the range or more looks like a step back.
//!
//! # Invariants and limits
//! Invariant: no number of a remembered boot is counted twice.
//! Invariant: a number that is set aside changes no decision about another number, except that its successor
//! is believed.
//! Limit: the last [`MAX_BOOTS_ENTRIES`] boots in the order of use are remembered. A device that does not
//! number its boots must never restart its sequence.

use crate::machine::rules::StreamClass;
use bincode::{Decode, Encode};
use selvedge_types::canary::{self, Canary};

/// How many numbers up to the greatest one are known individually.
pub const SEQUENCE_WIDTH_ENTRIES: u64 = 1_024;
/// How many boots of a stream's device are remembered.
pub const MAX_BOOTS_ENTRIES: usize = 4;
/// The greatest sequence number that is counted: enough for nanoseconds since 1970 until the year 2262.
pub const MAX_NUMBER: u64 = i64::MAX as u64;
/// Whatever the rules say, a leap of this fraction (1/64) of the greatest number is allowed.
const LEAP_PART: u64 = 64;

const WORDS: usize = SEQUENCE_WIDTH_ENTRIES as usize / 64;

/// The verdict of the remembered numbers on a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Not seen before, and noted now. Holds the number that it stands for, which differs for a counter that
    /// wraps.
    New(u64),
    /// Counted before, so the reading is a resend.
    Repeated,
    /// So far below that it is unknown whether it was seen.
    FarBehind,
    /// Too far ahead to be believed.
    LeapsAhead,
}

/// How a stream's device numbers its readings.
#[derive(Debug, Clone, Copy)]
pub struct Numbering {
    /// How far a number may be above the greatest one before it.
    pub max_leap: u64,
    /// The width of the device's counter, if it wraps.
    pub bits: Option<u8>,
}

impl Numbering {
    pub fn of(class: &StreamClass) -> Self {
        Self { max_leap: class.max_leap, bits: class.sequence_bits }
    }

    /// The greatest number that is accepted after `from`.
    fn reach(self, from: u64) -> u64 {
        from.saturating_add(self.max_leap.max(from / LEAP_PART))
    }

    /// The number nearest to `top` that `n` may stand for.
    fn unrolled(self, top: u64, n: u64) -> u64 {
        let Some(bits) = self.bits else { return n };
        let range = 1u64 << bits;
        let ahead = n.wrapping_sub(top) & (range - 1);
        match top.checked_sub(range - ahead) {
            Some(behind) if ahead > range / 2 => behind,
            _ => top + ahead,
        }
    }
}

/// The remembered numbers of one boot.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Boot {
    boot: Option<u64>,
    /// All numbers from here up to the bitmap, or up to `top` without one, were seen. Lower ones are unknown.
    low: u64,
    /// The greatest number that was seen, apart from `stray`.
    top: u64,
    /// Bit `n % width` stands for number `n`, for the `width` numbers up to `top`.
    bits: Option<Box<[u64; WORDS]>>,
    /// Only `top` was counted, and no number near it.
    tentative: bool,
    /// The first number, if it was counted far above those after it; otherwise 0.
    stray: u64,
    /// The latest number that was set aside as a leap, if nothing new came after it; otherwise 0.
    leap: u64,
}

/// Notes a number of a stream. `boots` stays in the order of use, the latest last; `forgotten` counts boots
/// that had to go.
pub fn note(
    boots: &mut Vec<Boot>,
    boot: Option<u64>,
    n: u64,
    numbering: Numbering,
    forgotten: &mut u64,
) -> Fate {
    if n > MAX_NUMBER || numbering.bits.is_some_and(|bits| n >> bits != 0) {
        return Fate::LeapsAhead;
    }
    let Some(at) = boots.iter().rposition(|b| b.boot == boot) else {
        if boots.len() >= MAX_BOOTS_ENTRIES {
            boots.remove(0);
            *forgotten += 1;
        }
        // Leaves room below the first number for a whole round of a counter that wraps.
        let n = n + numbering.bits.map_or(0, |bits| 1 << bits);
        boots.reserve_exact(1);
        boots.push(Boot { boot, low: n, top: n, bits: None, tentative: true, stray: 0, leap: 0 });
        return Fate::New(n);
    };
    boots[at..].rotate_left(1);
    match boots.last_mut() {
        Some(boot) => boot.note(numbering.unrolled(boot.top, n), numbering),
        None => Fate::FarBehind,
    }
}

impl Boot {
    /// Whether a snapshot may contain this.
    pub fn is_sound(&self) -> bool {
        let first = !self.tentative || (self.low == self.top && self.bits.is_none());
        first
            && (self.leap == 0 || self.leap > self.top)
            && match &self.bits {
                None => self.low <= self.top,
                Some(bits) => self.low <= bottom(self.top) && get(bits, self.top),
            }
    }

    fn note(&mut self, n: u64, numbering: Numbering) -> Fate {
        if self.stray == n && n != 0 {
            return Fate::Repeated;
        }
        let fate = self.judge(n, numbering);
        match fate {
            Fate::New(_) => (self.tentative, self.leap) = (false, 0),
            Fate::LeapsAhead => self.leap = n,
            Fate::Repeated | Fate::FarBehind => {}
        }
        fate
    }

    fn judge(&mut self, n: u64, numbering: Numbering) -> Fate {
        if self.bits.is_none() && n == self.top + 1 {
            self.top = n;
            return Fate::New(n);
        }
        if n > self.top {
            let follows = |from: u64| from != 0 && n > from && n <= numbering.reach(from);
            let near = n <= numbering.reach(self.top) || canary::makes(Canary::LeapBelieved);
            if !near && !follows(self.leap) && !follows(self.stray) {
                return Fate::LeapsAhead;
            }
            self.rise(n);
            return Fate::New(n);
        }
        if n < bottom(self.top) && self.tentative {
            (self.stray, self.low, self.top) = (self.top, n, n);
            return Fate::New(n);
        }
        if n < bottom(self.top) || self.bits.is_none() && n >= self.low {
            return if n >= self.low { Fate::Repeated } else { Fate::FarBehind };
        }
        let bits = self.bits();
        if get(bits, n) {
            return Fate::Repeated;
        }
        set(bits, n);
        self.forget_full_bits();
        Fate::New(n)
    }

    /// Moves the bitmap up so that it ends with `n`, which is above it and now seen.
    fn rise(&mut self, n: u64) {
        if n - self.top >= SEQUENCE_WIDTH_ENTRIES {
            (self.low, self.top, self.bits) = (n, n, None);
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

    /// The bitmap; if there is none, it is made from `low..=top`.
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

/// The least number in a bitmap that ends with `top`.
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
    use Fate::{FarBehind, LeapsAhead, Repeated};
    use std::collections::BTreeSet;

    const PLAIN: Numbering = Numbering { max_leap: 1_000_000, bits: None };
    const SHORT: Numbering = Numbering { max_leap: 1_000_000, bits: Some(16) };

    fn note(boots: &mut Vec<Boot>, boot: Option<u64>, n: u64, forgotten: &mut u64) -> Fate {
        super::note(boots, boot, n, PLAIN, forgotten)
    }

    /// The fates of the numbers as letters: `n` new, `r` repeated, `b` far behind, `l` leaps ahead.
    fn told(numbering: Numbering, numbers: &[u64]) -> String {
        let mut boots = Vec::new();
        let letter = |n: &u64| {
            let fate = super::note(&mut boots, None, *n, numbering, &mut 0);
            assert!(boots.iter().all(Boot::is_sound), "{boots:?}");
            match fate {
                Fate::New(_) => 'n',
                Repeated => 'r',
                FarBehind => 'b',
                LeapsAhead => 'l',
            }
        };
        numbers.iter().map(letter).collect()
    }

    fn fates(numbers: &[u64]) -> String {
        told(PLAIN, numbers)
    }

    #[test]
    fn numbers_in_order_are_new_and_need_no_bitmap() {
        let mut boots = Vec::new();
        for n in 0..5_000 {
            assert_eq!(note(&mut boots, Some(1), n, &mut 0), Fate::New(n));
        }
        assert!(boots[0].bits.is_none());
        for n in [0, 1, 2_500, 4_999] {
            assert_eq!(note(&mut boots, Some(1), n, &mut 0), Repeated);
        }
    }

    #[test]
    fn numbers_out_of_order_are_told_apart_and_the_bitmap_goes_when_the_gap_has_passed() {
        assert_eq!(fates(&[0, 2, 1, 2, 1, 0, 3]), "nnnrrrn");
        let mut boots = Vec::new();
        for n in (0..10).chain(11..1_100) {
            assert_eq!(note(&mut boots, None, n, &mut 0), Fate::New(n));
        }
        assert!(boots[0].bits.is_none(), "10 has left the bitmap");
        assert_eq!(note(&mut boots, None, 10, &mut 0), FarBehind);
        assert_eq!(note(&mut boots, None, 11, &mut 0), Repeated);
        assert_eq!(note(&mut boots, None, 9, &mut 0), FarBehind, "below the gap nothing is told any more");
    }

    #[test]
    fn what_lies_within_the_width_below_the_first_number_is_new() {
        assert_eq!(fates(&[2_000, 977, 976, 1_999, 977]), "nnbnr");
        assert_eq!(fates(&[5, 0, 4, 5]), "nnnr");
    }

    #[test]
    fn a_gap_forgets_what_it_passes() {
        assert_eq!(fates(&[0, 1, 5_000, 1, 4_999, 3_977, 3_976]), "nnnbnnb");
    }

    #[test]
    fn one_wild_number_is_set_aside_and_the_others_count() {
        assert_eq!(fates(&[u64::MAX, 1, 2, 3, 4, 5]), "lnnnnn");
        assert_eq!(fates(&[1, 2, u64::MAX, 3, 4, u64::MAX, 5, 5]), "nnlnnlnr");
        assert_eq!(fates(&[1, 2, 1 << 40, 3, 1 << 41, 4, 1 << 40, 5]), "nnlnlnln", "each leap by itself");
        // The first number was the wild one, and is still recognised.
        assert_eq!(fates(&[1 << 40, 1, 2, 1 << 40, 3, 2]), "nnnrnr");
        // The second number was the wild one.
        assert_eq!(fates(&[1 << 40, 7, (1 << 40) + 1, (1 << 40) + 2, 1 << 40, 7]), "nnnnrb");
        assert_eq!(fates(&[0, 1 << 40, 0, 1]), "nlrn");
    }

    #[test]
    fn a_device_that_goes_on_far_ahead_is_believed_at_its_second_number() {
        assert_eq!(fates(&[1, 2, 5_000_000, 5_000_001, 5_000_002, 5_000_000, 3]), "nnlnnnb");
        assert_eq!(fates(&[1, 2, 5_000_000, 2, 5_000_000, 5_000_002]), "nnlrln", "resends in between");
        assert_eq!(fates(&[1, 1_000_001, 2_000_002]), "nnl", "max_leap is the last that is believed");
    }

    #[test]
    fn numbers_that_are_timestamps_may_be_months_apart() {
        let month = 30 * 86_400_000;
        let at = 1_764_000_000_000;
        assert_eq!(
            fates(&[at, at + 10_000, at + month, at + month, at + 3 * month, at + 36 * month]),
            "nnnrnl"
        );
        let ns = at * 1_000_000;
        assert_eq!(fates(&[ns, ns + 10_000_000_000, ns + month * 1_000_000]), "nnn");
    }

    #[test]
    fn a_counter_that_wraps_is_far_behind_unless_its_width_is_told() {
        let numbers = [65_533, 65_534, 65_535, 0, 1, 2];
        assert_eq!(fates(&numbers), "nnnbbb");
        assert_eq!(told(SHORT, &numbers), "nnnnnn");
        assert_eq!(told(SHORT, &[65_533, 0, 65_534, 65_535, 0, 65_533, 1]), "nnnnrrn", "out of order, too");
        assert_eq!(told(SHORT, &[0, 65_535, 65_536, 1]), "nnln", "before the first; no 16 bits; after it");
        assert_eq!(told(SHORT, &[20_000, 20_001, 0]), "nnb", "less than half the range back");
        let rounds: Vec<u64> = (0..300_000).step_by(500).map(|n| n % 65_536).collect();
        assert_eq!(told(SHORT, &rounds), "n".repeat(rounds.len()));
        let mut boots = Vec::new();
        for n in [255, 0, 1] {
            let bits = Numbering { bits: Some(8), ..PLAIN };
            let fate = super::note(&mut boots, None, n, bits, &mut 0);
            assert_eq!(fate, Fate::New(if n == 255 { 511 } else { 512 + n }));
        }
    }

    #[test]
    fn each_boot_counts_anew_and_the_least_recently_used_one_is_forgotten() {
        let (mut boots, mut forgotten) = (Vec::new(), 0);
        for boot in [None, Some(0), Some(1), Some(2)] {
            assert_eq!(note(&mut boots, boot, 0, &mut forgotten), Fate::New(0));
        }
        assert_eq!(note(&mut boots, None, 0, &mut forgotten), Repeated);
        assert_eq!(note(&mut boots, Some(3), 0, &mut forgotten), Fate::New(0));
        assert_eq!((boots.len(), forgotten), (MAX_BOOTS_ENTRIES, 1));
        assert_eq!(note(&mut boots, None, 0, &mut forgotten), Repeated);
        assert_eq!(
            note(&mut boots, Some(0), 0, &mut forgotten),
            Fate::New(0),
            "forgotten: the one used longest ago"
        );
    }

    #[test]
    fn nothing_is_counted_twice_or_taken_for_a_repetition_wrongly() {
        for seed in 0..40 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut boots, mut seen, mut at) = (Vec::new(), BTreeSet::new(), random.u64(0..3_000));
            for _ in 0..5_000 {
                at = match random.u32(0..100) {
                    0 => at + random.u64(0..3_000_000),
                    1 => at.saturating_sub(random.u64(0..3_000_000)),
                    2..10 => at.saturating_sub(random.u64(0..30)),
                    _ => at + 1,
                };
                let fate = note(&mut boots, None, at, &mut 0);
                let greatest = seen.last().copied().unwrap_or(0);
                match fate {
                    Fate::New(n) => assert!(n == at && seen.insert(at), "seed {seed}: {at} counted twice"),
                    Repeated => assert!(seen.contains(&at), "seed {seed}: {at} was never seen"),
                    FarBehind => assert!(at + SEQUENCE_WIDTH_ENTRIES <= greatest, "seed {seed}"),
                    LeapsAhead => assert!(boots[0].top + PLAIN.max_leap < at, "seed {seed}"),
                }
                assert!(boots[0].is_sound(), "seed {seed}");
            }
        }
    }
}
