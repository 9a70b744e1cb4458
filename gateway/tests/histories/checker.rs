//! Is a history of concurrent adds and reads of one set linearizable?
//!
//! # The object
//!
//! A set that only grows. [`Op::Add`] adds one element, and each element is added by one operation only. [`Op::Read`]
//! returns all elements. (A device's window is such a set: its readings are different powers of two, so that the
//! window's sum names exactly those that are counted, and its count shows whether any is counted twice.)
//!
//! # The question
//!
//! A history is linearizable if all operations that took effect can be put into one order such that (1) an operation
//! that was answered before another was invoked comes before it, and (2) each read returns exactly what was added
//! before it.
//!
//! # The answer
//!
//! Let `a -> b` ("a must come before b") hold when
//! - a was answered before b was invoked;
//! - a is an add, b a read, and b returned a's element;
//! - a is a read, b an add, and a did not return b's element.
//!
//! The history is linearizable if and only if this relation has no cycle. If the history is linearizable, its order
//! contains every `->`: the first kind by (1), the others by (2), because an element is added once and never leaves. So
//! there is no cycle. If there is no cycle, some order contains every `->`. It satisfies (1). It also satisfies (2):
//! each pair of an add and a read is related by the second or the third rule, so the elements added before a read in
//! that order are exactly those that it returned.
//!
//! # Unknown outcomes
//!
//! An add that was never answered has no end: no operation must come after it, unless a read returned its element. If
//! no read did, the add can come last, where it has no effect, so the checker need not guess whether it took effect. A
//! read that was not answered says nothing and is left out.
//!
//! Objects are checked one by one: a history is linearizable if and only if it is so for each object (Herlihy and Wing
//! 1990).

use super::clients::MAX_ELEMENTS;
use std::time::Instant;

/// One operation, with the times of its invocation and its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op {
    /// Adds an element; it may never have been answered.
    Add { element: u32, invoked: Instant, answered: Option<Instant> },
    /// Returned these elements, one bit each.
    Read { elements: u64, invoked: Instant, answered: Instant },
}

impl Op {
    fn invoked(&self) -> Instant {
        match self {
            Op::Add { invoked, .. } | Op::Read { invoked, .. } => *invoked,
        }
    }

    fn answered(&self) -> Option<Instant> {
        match self {
            Op::Add { answered, .. } => *answered,
            Op::Read { answered, .. } => Some(*answered),
        }
    }

    /// Whether this operation must come before `other`.
    fn before(&self, other: &Op) -> bool {
        if self.answered().is_some_and(|answered| answered < other.invoked()) {
            return true;
        }
        match (self, other) {
            (Op::Add { element, .. }, Op::Read { elements, .. }) => elements >> element & 1 == 1,
            (Op::Read { elements, .. }, Op::Add { element, .. }) => elements >> element & 1 == 0,
            _ => false,
        }
    }
}

/// Checks the history of one set.
///
/// # Errors
/// Operations of which each must come before the next, and the last before the first; or another contradiction.
pub fn check(history: &[Op]) -> Result<(), String> {
    let mut added = 0u64;
    for op in history {
        if let Op::Add { element, .. } = op {
            if *element >= MAX_ELEMENTS || added >> element & 1 == 1 {
                return Err(format!(
                    "element {element} is added twice or too large: no history for this checker"
                ));
            }
            added |= 1 << element;
        }
    }
    for op in history {
        if let Op::Read { elements, .. } = op
            && elements & !added != 0
        {
            return Err(format!("elements {:#x} were read and never added", elements & !added));
        }
    }
    // Repeatedly removes operations that no remaining operation must precede; what remains contains a cycle.
    let mut left: Vec<usize> = (0..history.len()).collect();
    loop {
        let free = |i: &usize| left.iter().all(|j| i == j || !history[*j].before(&history[*i]));
        let kept: Vec<usize> = left.iter().copied().filter(|i| !free(i)).collect();
        if kept.is_empty() {
            return Ok(());
        }
        if kept.len() == left.len() {
            return Err(cycle(history, &left));
        }
        left = kept;
    }
}

/// Follows predecessors, of which each of these operations has one, until one is met again.
fn cycle(history: &[Op], left: &[usize]) -> String {
    let start = history.iter().map(Op::invoked).min();
    let mut path = vec![left[0]];
    loop {
        let last = path[path.len() - 1];
        let Some(&next) = left.iter().find(|j| **j != last && history[**j].before(&history[last])) else {
            return "a cycle that can't be shown".to_string();
        };
        if let Some(at) = path.iter().position(|i| *i == next) {
            let ms = |at: Instant| start.map_or(0.0, |start| (at - start).as_secs_f64() * 1_000.0);
            let shown = path[at..].iter().rev().map(|i| {
                let op = &history[*i];
                let until = op.answered().map_or("never".to_string(), |at| format!("{:.3}", ms(at)));
                let what = match op {
                    Op::Add { element, .. } => format!("add {element}"),
                    Op::Read { elements, .. } => format!("read {elements:#x}"),
                };
                format!("  {what} (from {:.3} to {until} ms)\n", ms(op.invoked()))
            });
            return format!(
                "each must come before the next, and the last before the first:\n{}",
                shown.collect::<String>()
            );
        }
        path.push(next);
    }
}

mod tests {
    use super::*;
    use std::time::Duration;

    /// Makes histories on a clock of small numbers.
    struct Clock(Instant);

    impl Clock {
        fn new() -> Self {
            Self(Instant::now())
        }

        fn at(&self, time: u64) -> Instant {
            self.0 + Duration::from_millis(time)
        }

        fn add(&self, element: u32, from: u64, to: u64) -> Op {
            Op::Add { element, invoked: self.at(from), answered: Some(self.at(to)) }
        }

        fn open(&self, element: u32, from: u64) -> Op {
            Op::Add { element, invoked: self.at(from), answered: None }
        }

        fn read(&self, elements: u64, from: u64, to: u64) -> Op {
            Op::Read { elements, invoked: self.at(from), answered: self.at(to) }
        }
    }

    /// Whether some order fits, by trying all of them.
    fn by_brute_force(history: &[Op]) -> bool {
        fn extend(history: &[Op], placed: &mut Vec<usize>, set: u64) -> bool {
            let rest: Vec<usize> = (0..history.len()).filter(|i| !placed.contains(i)).collect();
            // Adds without an answer may never have happened.
            let optional = |i: &usize| history[*i].answered().is_none();
            if rest.iter().all(optional) {
                return true;
            }
            rest.iter().any(|i| {
                let late = |j: &usize| {
                    j != i && history[*j].answered().is_some_and(|answered| answered < history[*i].invoked())
                };
                if rest.iter().any(late) {
                    return false;
                }
                let next = match history[*i] {
                    Op::Add { element, .. } => set | 1 << element,
                    Op::Read { elements, .. } if elements == set => set,
                    Op::Read { .. } => return false,
                };
                placed.push(*i);
                let fits = extend(history, placed, next);
                placed.pop();
                fits
            })
        }
        extend(history, &mut Vec::new(), 0)
    }

    #[test]
    fn what_is_linearizable_passes() {
        let c = Clock::new();
        for history in [
            vec![],
            vec![c.add(0, 0, 10), c.read(1, 20, 30), c.add(1, 40, 50), c.read(3, 60, 70)],
            // While it is added a read may return it or not, but later reads must not lose it again.
            vec![c.add(0, 0, 100), c.read(0, 10, 20), c.read(1, 30, 40), c.read(1, 50, 60)],
            // Never answered: returned long after, or never.
            vec![c.open(0, 0), c.read(0, 10, 20), c.read(1, 5_000, 5_010)],
            vec![c.open(0, 0), c.read(0, 10, 20), c.read(0, 5_000, 5_010)],
            // Two adds at the same time, returned in either order by reads that overlap with both.
            vec![c.add(0, 0, 100), c.add(1, 0, 100), c.read(1, 0, 90), c.read(3, 0, 90)],
        ] {
            check(&history).unwrap();
            assert!(by_brute_force(&history), "{history:?}");
        }
    }

    #[test]
    fn each_way_of_being_wrong_is_found() {
        let c = Clock::new();
        for (wrong, history) in [
            ("a lost write", vec![c.add(0, 0, 10), c.read(0, 20, 30)]),
            ("a write lost later", vec![c.add(0, 0, 10), c.read(1, 20, 30), c.read(0, 40, 50)]),
            ("a stale read", vec![c.add(0, 0, 100), c.read(1, 10, 20), c.read(0, 30, 40)]),
            (
                "a stale read of what was never answered",
                vec![c.open(0, 0), c.read(1, 10, 20), c.read(0, 30, 40)],
            ),
            ("a read from the future", vec![c.read(1, 0, 10), c.add(0, 20, 30)]),
            ("a read of nothing that was ever added", vec![c.read(2, 0, 10), c.add(0, 20, 30)]),
            (
                "reads that disagree on the order",
                vec![c.add(0, 0, 99), c.add(1, 0, 99), c.read(1, 1, 90), c.read(2, 1, 90)],
            ),
            (
                "a write that overtook an earlier one",
                vec![c.add(0, 0, 10), c.add(1, 20, 100), c.read(2, 15, 90)],
            ),
            (
                "three that go round",
                vec![c.add(0, 0, 50), c.read(0, 40, 60), c.add(1, 70, 80), c.read(2, 75, 90)],
            ),
        ] {
            check(&history).expect_err(wrong);
            assert!(!by_brute_force(&history), "{wrong}");
        }
    }

    #[test]
    fn it_says_what_trying_all_orders_says() {
        let (c, mut rng) = (Clock::new(), fastrand::Rng::with_seed(7));
        let mut found = [0, 0];
        for _ in 0..20_000 {
            let mut history = Vec::new();
            for element in 0..rng.u32(1..=3) {
                let from = rng.u64(0..12);
                history.push(match rng.u32(0..4) {
                    0 => c.open(element, from),
                    _ => c.add(element, from, from + rng.u64(1..6)),
                });
            }
            let added = (1u64 << history.len()) - 1;
            for _ in 0..rng.u32(1..=3) {
                let from = rng.u64(0..12);
                history.push(c.read(rng.u64(0..=added), from, from + rng.u64(1..6)));
            }
            let linearizable = by_brute_force(&history);
            assert_eq!(check(&history).is_ok(), linearizable, "{history:?}");
            found[usize::from(linearizable)] += 1;
        }
        assert!(found.iter().all(|n| *n > 1_000), "both kinds are met: {found:?}");
    }
}
