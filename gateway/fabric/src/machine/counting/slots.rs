//! Slots: entries under small numbers, which are reused once they are free.
//!
//! A new entry gets the lowest free number. So its number depends only on which numbers are taken, and a
//! restored table assigns the same numbers as the one that it was made from.

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

/// A list of entries under small numbers.
#[derive(Debug)]
pub struct Slots<T> {
    /// The last element is never free.
    list: Vec<Option<T>>,
    free: BTreeSet<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { list: Vec::new(), free: BTreeSet::new() }
    }
}

impl<T> Slots<T> {
    /// The number of entries.
    pub fn len(&self) -> usize {
        self.list.len() - self.free.len()
    }

    /// The entries with their numbers, in ascending order of these.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..).zip(&self.list).filter_map(|(id, entry)| Some((id, entry.as_ref()?)))
    }

    pub fn get(&self, id: u32) -> Option<&T> {
        self.list.get(id as usize)?.as_ref()
    }

    /// Adds an entry and returns its number.
    pub fn insert(&mut self, entry: T) -> u32 {
        match self.free.pop_first() {
            Some(id) => {
                self.list[id as usize] = Some(entry);
                id
            }
            None => {
                self.list.push(Some(entry));
                self.list.len() as u32 - 1
            }
        }
    }

    /// Adds an entry under the number that it had. Numbers must ascend from call to call and not exceed
    /// `most`; returns false otherwise.
    pub fn restore(&mut self, id: u32, entry: T, most: u32) -> bool {
        let next = self.list.len() as u32;
        if id < next || id > most {
            return false;
        }
        self.free.extend(next..id);
        self.list.resize_with(id as usize, || None);
        self.list.push(Some(entry));
        true
    }

    pub fn remove(&mut self, id: u32) -> Option<T> {
        let entry = self.list.get_mut(id as usize)?.take()?;
        self.free.insert(id);
        while self.list.pop_if(|last| last.is_none()).is_some() {
            self.free.remove(&(self.list.len() as u32));
        }
        Some(entry)
    }
}

/// Panics on a free number, which would be a defect of this program.
impl<T> Index<u32> for Slots<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        match &self.list[id as usize] {
            Some(entry) => entry,
            None => panic!("number {id} is free"),
        }
    }
}

impl<T> IndexMut<u32> for Slots<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        match &mut self.list[id as usize] {
            Some(entry) => entry,
            None => panic!("number {id} is free"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_those_that_are_taken() {
        let mut slots = Slots::default();
        assert_eq!((0..4).map(|n| slots.insert(n)).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!((slots.remove(1), slots.remove(1), slots.remove(9)), (Some(1), None, None));
        assert_eq!((slots.remove(3), slots.len()), (Some(3), 2));
        assert_eq!((slots.insert(10), slots.insert(11), slots.insert(12)), (1, 3, 4), "the lowest first");
        let mut again = Slots::default();
        assert_eq!((slots.remove(0), slots.remove(3)), (Some(0), Some(11)));
        assert!(slots.iter().all(|(id, n)| again.restore(id, *n, 9)));
        assert!(!again.restore(4, 0, 9) && !again.restore(10, 0, 9), "taken, and above the most");
        assert_eq!([again.insert(0), again.insert(0), again.insert(0)], [0, 3, 5]);
        assert_eq!([slots.insert(0), slots.insert(0), slots.insert(0)], [0, 3, 5]);
    }

    #[test]
    fn what_was_removed_to_the_last_leaves_nothing() {
        let mut slots = Slots::default();
        (0..100).for_each(|n| _ = slots.insert(n));
        (0..100).for_each(|n| _ = slots.remove(n));
        assert_eq!((slots.len(), slots.list.len(), slots.free.len()), (0, 0, 0));
    }
}
