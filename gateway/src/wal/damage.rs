//! Which groups a damaged place concerns, and which of those are repaired.

use super::record::Position;
use std::collections::BTreeSet;

/// Damaged places that are told apart; more are taken together as one that concerns every group.
const MAX_SPANS_ENTRIES: usize = 1024;

/// A set of groups, or of all groups but some.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// Whether `listed` are the exceptions.
    all_but: bool,
    listed: BTreeSet<u16>,
}

impl Groups {
    /// These.
    pub fn these(groups: impl IntoIterator<Item = u16>) -> Self {
        Self { all_but: false, listed: groups.into_iter().collect() }
    }

    /// Every group there is.
    pub fn all() -> Self {
        Self { all_but: true, listed: BTreeSet::new() }
    }

    /// Whether that group is in it.
    pub fn contains(&self, group: u16) -> bool {
        self.listed.contains(&group) != self.all_but
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        !self.all_but && self.listed.is_empty()
    }

    /// Whether it was not known which: every group is in it, but for those repaired since.
    pub fn is_all(&self) -> bool {
        self.all_but
    }

    /// The groups, if they are known one by one.
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
pub struct Damage {
    spans: Vec<(Position, Groups)>,
}

impl Damage {
    /// Adds one.
    pub fn add(&mut self, at: Position, groups: Groups) {
        let full = self.spans.len() >= MAX_SPANS_ENTRIES;
        match self.spans.last_mut() {
            Some(last) if full => {
                // Kept at the later place, so that no repair made before counts for it.
                *last = (last.0.max(at), Groups::all());
            }
            _ => self.spans.push((at, groups)),
        }
    }

    /// Damage below `below` is repaired for these groups.
    pub fn repaired(&mut self, below: Position, groups: &Groups) {
        for (at, of) in &mut self.spans {
            if *at < below {
                of.take_away(groups);
            }
        }
        self.spans.retain(|(_, of)| !of.is_empty());
    }

    /// All groups that are concerned.
    pub fn groups(&self) -> Groups {
        let mut all = Groups::default();
        for (_, of) in &self.spans {
            all.add(of);
        }
        all
    }

    /// How many places.
    pub fn places(&self) -> usize {
        self.spans.len()
    }

    /// Whether one lies in this segment.
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
    fn a_repair_counts_only_for_what_lies_before_it() {
        let mut damage = Damage::default();
        damage.add(Position { segment: 1, offset: 600 }, Groups::all());
        damage.add(Position { segment: 3, offset: 600 }, Groups::these([7]));
        damage.repaired(Position { segment: 2, offset: 512 }, &Groups::all());
        assert_eq!(damage.groups(), Groups::these([7]));
    }
}
