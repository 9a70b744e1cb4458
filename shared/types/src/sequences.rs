//! The sequence numbers of a window's readings, which reveal missing readings.
//!
//! For each boot of the device a window keeps the least number, the greatest and how many were counted. Merging the spans of
//! parts, or of narrower windows, gives the same in any order: equal boots join, and beyond [`MAX_SEQUENCES_ENTRIES`] boots the
//! greatest remain.

use bincode::{Decode, Encode};

/// The most boots whose numbers one window keeps.
pub const MAX_SEQUENCES_ENTRIES: usize = 4;

/// The sequence numbers of one boot's readings in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct SequenceSpan {
    /// The boot; nothing if the device names none.
    pub boot: Option<u64>,
    pub first: u64,
    pub last: u64,
    /// How many different ones were counted.
    pub count: u64,
}

impl SequenceSpan {
    /// How many numbers between the least and the greatest were not counted.
    pub fn missing(&self) -> u64 {
        (self.last - self.first).saturating_add(1).saturating_sub(self.count)
    }
}

/// The spans of a window, by boot; none if its readings are not numbered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Sequences(Vec<SequenceSpan>);

impl Sequences {
    /// Of one reading, whose boot and number are these if it is numbered.
    pub fn of(number: Option<(Option<u64>, u64)>) -> Self {
        let mut spans = Self::default();
        spans.add(number);
        spans
    }

    /// From spans in any order.
    pub fn from_list(list: &[SequenceSpan]) -> Self {
        let mut spans = Self::default();
        list.iter().filter(|s| s.first <= s.last).for_each(|span| spans.put(*span));
        spans
    }

    /// Takes in a reading that was counted.
    pub fn add(&mut self, number: Option<(Option<u64>, u64)>) {
        let Some((boot, n)) = number else { return };
        match self.0.iter_mut().find(|s| s.boot == boot) {
            Some(span) => {
                (span.first, span.last) = (span.first.min(n), span.last.max(n));
                span.count = span.count.saturating_add(1);
            }
            None => self.put(SequenceSpan { boot, first: n, last: n, count: 1 }),
        }
    }

    /// Takes in what another part of the window, or another window, has.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|span| self.put(*span));
    }

    fn put(&mut self, more: SequenceSpan) {
        match self.0.binary_search_by_key(&more.boot, |s| s.boot) {
            Ok(at) => {
                let span = &mut self.0[at];
                (span.first, span.last) = (span.first.min(more.first), span.last.max(more.last));
                span.count = span.count.saturating_add(more.count);
            }
            Err(at) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, more);
                if self.0.len() > MAX_SEQUENCES_ENTRIES {
                    self.0.remove(0);
                }
            }
        }
    }

    /// The spans, one for each boot, ordered by boot.
    pub fn list(&self) -> &[SequenceSpan] {
        &self.0
    }

    /// How many numbers are missing; nothing if no reading is numbered.
    pub fn missing(&self) -> Option<u64> {
        let sum = || self.0.iter().fold(0u64, |sum, span| sum.saturating_add(span.missing()));
        (!self.0.is_empty()).then(sum)
    }

    /// Whether this can have come about (for one that was read).
    pub fn is_sound(&self) -> bool {
        let ordered = self.0.windows(2).all(|w| w[0].boot < w[1].boot);
        let spans = self.0.iter().all(|s| s.first <= s.last && s.count > 0);
        ordered && spans && self.0.len() <= MAX_SEQUENCES_ENTRIES
    }

    /// How many bytes the spans take in a stored or sent form.
    pub fn encoded_bytes(&self) -> usize {
        use crate::frame::varint_bytes;
        let span = |s: &SequenceSpan| {
            let boot = 1 + s.boot.map_or(0, varint_bytes);
            boot + varint_bytes(s.first) + varint_bytes(s.last) + varint_bytes(s.count)
        };
        varint_bytes(self.0.len() as u64) + self.0.iter().map(span).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_numbers_are_those_between_the_least_and_the_greatest_of_each_boot() {
        let mut s = Sequences::default();
        assert_eq!(s.missing(), None);
        s.add(None);
        assert_eq!(s.missing(), None, "not numbered");
        for n in [5, 7, 6, 10] {
            s.add(Some((None, n)));
        }
        assert_eq!(s.missing(), Some(2));
        s.add(Some((Some(3), 1)));
        s.add(Some((Some(3), 3)));
        assert_eq!(s.missing(), Some(3));
        let whole = Sequences::from_list(&[SequenceSpan { boot: None, first: 0, last: u64::MAX, count: 1 }]);
        assert_eq!(whole.missing(), Some(u64::MAX - 1));
    }

    #[test]
    fn spans_merge_to_the_same_in_every_order_and_stay_bounded() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..200 {
            let mut parts: Vec<Sequences> = (0..8)
                .map(|_| {
                    let boot = Some(random.u64(0..7)).filter(|b| *b > 0);
                    Sequences::of(Some((boot, random.u64(0..50))))
                })
                .collect();
            let merged = |parts: &[Sequences]| {
                let mut all = Sequences::default();
                parts.iter().for_each(|p| all.merge(p));
                all
            };
            let all = merged(&parts);
            let mut halves = merged(&parts[..4]);
            halves.merge(&merged(&parts[4..]));
            assert_eq!(halves, all);
            random.shuffle(&mut parts);
            assert_eq!(merged(&parts), all);
            assert!(all.is_sound());
            assert_eq!(all.encoded_bytes(), crate::frame::encoded_bytes(&all));
        }
    }
}
