//! Which groups a damaged place concerns, and for which of those it is repaired.
//!
//! Invariant: a repair covers the places that were known when it was made, and no other: later rot is new damage, even
//! in front of a repaired place or next to it.

use std::collections::BTreeSet;

/// The most damaged places that are kept apart; further ones are merged into one place that concerns every group.
const MAX_SPANS_ENTRIES: usize = 1024;

/// Offsets beyond the longest segment, for places without bytes of their own. Segments that are missing behind one end
/// at `GAP_END`; merged places begin at `MANY_START`. Such a span grows with its count, so that a repair that knew of
/// fewer does not cover more.
const GAP_END: u32 = u32::MAX;
const MANY_START: u32 = 1 << 31;

/// A damaged place: a range of bytes in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub segment: u64,
    pub from: u32,
    /// The byte behind the last one.
    pub to: u32,
}

impl Span {
    /// `missing` segments that are gone behind this one.
    pub fn gap(segment: u64, missing: u64) -> Self {
        let most = GAP_END - MANY_START - MAX_SPANS_ENTRIES as u32;
        Self { segment, from: GAP_END - missing.min(most.into()) as u32, to: GAP_END }
    }

    /// The records that are lost in front of a segment, as its header says.
    pub fn lost_before(segment: u64) -> Self {
        Self { segment, from: 0, to: 1 }
    }

    fn within(&self, other: &Self) -> bool {
        self.segment == other.segment && other.from <= self.from && self.to <= other.to
    }
}

/// A set of groups: the listed ones, or all but those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Whether `listed` holds the exceptions.
    all_but: bool,
    listed: BTreeSet<u16>,
}

impl Groups {
    /// The set of exactly these groups.
    pub fn these(groups: impl IntoIterator<Item = u16>) -> Self {
        Self { all_but: false, listed: groups.into_iter().collect() }
    }

    /// The set of every possible group.
    pub fn all() -> Self {
        Self { all_but: true, listed: BTreeSet::new() }
    }

    /// Whether the set holds this group.
    pub fn contains(&self, group: u16) -> bool {
        self.listed.contains(&group) != self.all_but
    }

    /// Whether the set holds no group.
    pub fn is_empty(&self) -> bool {
        !self.all_but && self.listed.is_empty()
    }

    /// Whether the set was unknown, and so holds every group except those repaired since.
    pub fn is_all(&self) -> bool {
        self.all_but
    }

    /// The groups, or `None` if it holds all but some.
    pub fn known(&self) -> Option<&BTreeSet<u16>> {
        (!self.all_but).then_some(&self.listed)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.listed = match (self.all_but, other.all_but) {
            (false, false) => self.listed.union(&other.listed).copied().collect(),
            (true, true) => self.listed.intersection(&other.listed).copied().collect(),
            (true, false) => self.listed.difference(&other.listed).copied().collect(),
            (false, true) => other.listed.difference(&self.listed).copied().collect(),
        };
        self.all_but |= other.all_but;
    }

    pub(super) fn take_away(&mut self, other: &Self) {
        match (self.all_but, other.all_but) {
            (false, _) => self.listed.retain(|g| !other.contains(*g)),
            (true, false) => self.listed.extend(&other.listed),
            (true, true) => {
                self.listed = other.listed.difference(&self.listed).copied().collect();
                self.all_but = false;
            }
        }
    }
}

/// The damaged places of a log that are not repaired yet.
#[derive(Debug, Clone, Default)]
pub struct LogDamage {
    spans: Vec<(Span, Groups)>,
}

impl LogDamage {
    /// Adds a place, or merges it into the last one beyond [`MAX_SPANS_ENTRIES`].
    pub fn add(&mut self, at: Span, groups: Groups) {
        let full = self.spans.len() >= MAX_SPANS_ENTRIES;
        match self.spans.last_mut() {
            Some((last, of)) if full => {
                let together = if last.from == MANY_START { last.to - MANY_START } else { 1 };
                let segment = last.segment.max(at.segment);
                *last = Span { segment, from: MANY_START, to: MANY_START + together.min(MANY_START - 2) + 1 };
                *of = Groups::all();
            }
            _ => self.spans.push((at, groups)),
        }
    }

    /// The places that concern at least one of these groups.
    pub fn places_of(&self, groups: &Groups) -> Vec<Span> {
        let concerned = |of: &Groups| {
            let mut rest = of.clone();
            rest.take_away(groups);
            rest != *of
        };
        self.spans.iter().filter(|(_, of)| concerned(of)).map(|(at, _)| *at).collect()
    }

    /// Notes that the damage in these places is repaired for these groups.
    pub fn repaired(&mut self, places: &[Span], groups: &Groups) {
        for (at, of) in &mut self.spans {
            if places.iter().any(|place| at.within(place)) {
                of.take_away(groups);
            }
        }
        self.spans.retain(|(_, of)| !of.is_empty());
    }

    /// All groups that some place concerns.
    pub fn groups(&self) -> Groups {
        let mut all = Groups::default();
        for (_, of) in &self.spans {
            all.add(of);
        }
        all
    }

    /// The number of places.
    pub fn places(&self) -> usize {
        self.spans.len()
    }

    /// Whether a damaged place lies in this segment.
    pub fn lies_in(&self, segment: u64) -> bool {
        self.spans.iter().any(|(at, _)| at.segment == segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_added_and_taken_away_as_sets() {
        let sets = [Groups::default(), Groups::these([1, 2]), Groups::these([2, 3]), Groups::all(), {
            let mut some = Groups::all();
            some.take_away(&Groups::these([2]));
            some
        }];
        for a in &sets {
            for b in &sets {
                let (mut sum, mut rest) = (a.clone(), a.clone());
                sum.add(b);
                rest.take_away(b);
                for g in 0..5 {
                    assert_eq!(sum.contains(g), a.contains(g) || b.contains(g), "{a:?} + {b:?} at {g}");
                    assert_eq!(rest.contains(g), a.contains(g) && !b.contains(g), "{a:?} - {b:?} at {g}");
                }
            }
        }
    }

    #[test]
    fn a_repair_counts_only_for_the_places_that_were_known() {
        let at = |segment, from, to| Span { segment, from, to };
        let mut damage = LogDamage::default();
        damage.add(at(1, 600, 700), Groups::all());
        damage.add(at(3, 600, 700), Groups::these([7]));
        damage.add(Span::gap(4, 2), Groups::all());
        let places = damage.places_of(&Groups::these([8]));
        assert_eq!(places, [at(1, 600, 700), Span::gap(4, 2)]);
        damage.repaired(&places, &Groups::all());
        assert_eq!(damage.groups(), Groups::these([7]));
        for (later, known) in [
            (at(1, 600, 700), true),
            (at(1, 640, 700), true),
            (at(1, 600, 708), false),
            (at(1, 520, 600), false),
            (at(2, 600, 700), false),
            (Span::gap(4, 1), true),
            (Span::gap(4, 3), false),
            (Span::gap(1, 1), false),
        ] {
            let mut damage = LogDamage::default();
            damage.add(later, Groups::all());
            damage.repaired(&places, &Groups::all());
            assert_eq!(damage.groups().is_empty(), known, "{later:?}");
        }
    }

    #[test]
    fn places_beyond_the_bound_are_repaired_together_and_one_more_is_not() {
        let damage = |places: u32| {
            let mut damage = LogDamage::default();
            (0..places).for_each(|n| damage.add(Span { segment: 1, from: n, to: n + 1 }, Groups::these([2])));
            damage
        };
        let many = MAX_SPANS_ENTRIES as u32 + 9;
        let known = damage(many).places_of(&Groups::all());
        assert_eq!(known.len(), MAX_SPANS_ENTRIES);
        for (later, repaired) in [(many, true), (many + 1, false)] {
            let mut damage = damage(later);
            assert!(damage.groups().is_all());
            damage.repaired(&known, &Groups::all());
            assert_eq!(damage.groups().is_empty(), repaired);
        }
    }
}
