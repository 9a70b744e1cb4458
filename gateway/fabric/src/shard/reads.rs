//! Admitted questions about recent windows, which are gathered turn by turn (see [`Gathering`]).
//!
//! Questions about one device do not wait for those about many. Each of the two kinds has its own steps in each
//! turn, and one question of each kind is under way, so that no more than two hold rows here. While questions wait,
//! the next turn comes as soon as the host has done everything else.
//!
//! Invariant: a question is gathered once, however often its asker repeats it.
//! Limits: [`MAX_QUERIES`] questions of each kind wait. A question is dropped when its asker stops waiting or is
//! no longer within reach.

use super::{MAX_QUERIES, Scanning};
use crate::machine::{GATHER_TURN_STEPS, Gathering, Machine};
use crate::peer::ShardQuery;
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeSet, VecDeque};

#[derive(Debug)]
struct Read {
    to: GatewayId,
    id: u64,
    until_ms: u64,
    gathering: Gathering,
}

/// The questions that wait to be gathered, by kind.
#[derive(Debug, Default)]
pub(super) struct ReadQueue {
    of_one: VecDeque<Read>,
    of_many: VecDeque<Read>,
}

impl ReadQueue {
    /// Admits a question. Returns false if too many wait.
    pub fn put(&mut self, now_ms: u64, to: GatewayId, id: u64, query: &ShardQuery) -> bool {
        let gathering = Gathering::new(&query.as_query(), &query.page);
        let list = if gathering.is_of_one() { &mut self.of_one } else { &mut self.of_many };
        if list.iter().any(|read| (read.to, read.id) == (to, id)) {
            return true;
        }
        if list.len() >= MAX_QUERIES {
            return false;
        }
        list.push_back(Read { to, id, until_ms: now_ms.saturating_add(u64::from(query.wait_ms)), gathering });
        true
    }

    /// Drops the questions of gateways that are not within reach.
    pub fn reach(&mut self, me: GatewayId, within: &BTreeSet<GatewayId>) {
        for list in [&mut self.of_one, &mut self.of_many] {
            list.retain(|read| read.to == me || within.contains(&read.to));
        }
    }

    /// Gathers for one turn; questions that are complete go to `out`.
    pub fn gather(&mut self, now_ms: u64, machine: &Machine, out: &mut Vec<Scanning>) {
        for list in [&mut self.of_one, &mut self.of_many] {
            list.retain(|read| read.until_ms > now_ms);
            let mut steps = GATHER_TURN_STEPS;
            while steps > 0
                && let Some(mut read) = list.pop_front()
            {
                if !read.gathering.go_on(machine, &mut steps) {
                    list.push_front(read);
                    break;
                }
                let Read { to, id, gathering, .. } = read;
                out.push(Scanning { to, id, scan: gathering.into_scan() });
            }
        }
    }

    /// Whether no question waits.
    pub fn is_empty(&self) -> bool {
        self.of_one.is_empty() && self.of_many.is_empty()
    }
}
