//! Decides which replicas are brought up to date from here, and what stays on disk for them.
//!
//! A replica that fell behind what its leader holds in memory is served from disk: from the log, and where that does
//! not reach back far enough, from a snapshot first (see [`selvedge_fabric::shard`]). All shards of a gateway share its
//! disk and its links, so they share the places too: at most [`MAX_TRANSFERS_ENTRIES`] transfers at a time. A replica
//! that finds no place is asked to try again. Places are given in the order of first requests, as long as a replica
//! keeps asking, so that each gets its turn.
//!
//! A transfer ends when its replica says that it has what it lacked, after [`STALLED_MS`] without progress, and in any
//! case after [`TRANSFER_MS`]. A replica that still lacks something asks again, behind those that wait. While a
//! transfer lasts, the log keeps what it needs (a *pin*): everything of its group from the slot on that it asked for
//! last, or behind the snapshot that it fetches.
//!
//! Invariant: at most [`MAX_TRANSFERS_ENTRIES`] replicas have a place, and each has at most one request under way.
//! Invariant: a group is pinned only while a transfer of it has a place.
//! Limits: pins hold back a bounded part of the log ([`crate::MAX_PINNED_SEGMENTS`]); a transfer that loses its pin
//! continues with a snapshot.

use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// Transfers at a time, of all shards together.
pub const MAX_TRANSFERS_ENTRIES: usize = 4;
/// A transfer without progress for this long ends.
pub const STALLED_MS: u64 = 15_000;
/// The longest that one transfer may last.
pub const TRANSFER_MS: u64 = 15 * 60_000;
/// A waiting replica that has not asked for this long loses its turn.
pub const WAITING_MS: u64 = 5_000;
/// The most replicas that wait in order; further ones are asked to try again, but have no turn.
pub const MAX_WAITING_ENTRIES: usize = 1_024;

/// A replica that is served: its shard and its gateway.
pub type Served = (ShardId, GatewayId);

#[derive(Debug)]
struct Active {
    since_ms: u64,
    progress_ms: u64,
    /// How far the replica has come: a slot, and bytes of a snapshot through it.
    reached: (u64, u64),
    pin: Option<u64>,
    /// A request is under way.
    asked: bool,
}

/// The places, and the replicas that wait for one.
#[derive(Debug, Default)]
pub struct Transfers {
    active: BTreeMap<Served, Active>,
    /// In the order in which they first asked, with the time of their last request.
    waiting: Vec<(Served, u64)>,
}

impl Transfers {
    /// Whether this replica has a place; gives it a free one if it is its turn.
    pub fn admit(&mut self, now_ms: u64, who: Served) -> bool {
        if self.active.contains_key(&who) {
            return true;
        }
        self.waiting.retain(|(_, asked_ms)| now_ms.saturating_sub(*asked_ms) < WAITING_MS);
        let ahead = self.waiting.iter().position(|(other, _)| *other == who);
        let place = ahead.unwrap_or(self.waiting.len());
        if self.active.len() + place >= MAX_TRANSFERS_ENTRIES {
            match ahead {
                Some(place) => self.waiting[place].1 = now_ms,
                None if self.waiting.len() < MAX_WAITING_ENTRIES => self.waiting.push((who, now_ms)),
                None => {}
            }
            return false;
        }
        if ahead.is_some() {
            self.waiting.remove(place);
        }
        let fresh =
            Active { since_ms: now_ms, progress_ms: now_ms, reached: (0, 0), pin: None, asked: false };
        self.active.insert(who, fresh);
        true
    }

    /// Whether to begin a request for this replica. False while one is under way, so that repeated requests do not pile
    /// up.
    pub fn ask(&mut self, who: Served) -> bool {
        self.active.get_mut(&who).is_some_and(|active| !std::mem::replace(&mut active.asked, true))
    }

    /// Notes that the replica's request was answered.
    pub fn answered(&mut self, who: Served) {
        if let Some(active) = self.active.get_mut(&who) {
            active.asked = false;
        }
    }

    /// Whether this replica has a place.
    pub fn has(&self, who: Served) -> bool {
        self.active.contains_key(&who)
    }

    /// Notes what the replica was given so far: a slot, and bytes of a snapshot through it. `waits`: it has everything
    /// and works on it, which counts as progress.
    pub fn reached(&mut self, now_ms: u64, who: Served, reached: (u64, u64), waits: bool) {
        if let Some(active) = self.active.get_mut(&who)
            && (reached > active.reached || waits)
        {
            (active.reached, active.progress_ms) = (reached.max(active.reached), now_ms);
        }
    }

    /// Pins the group's log from this slot on for this replica. Returns the group's pin.
    pub fn pin(&mut self, who: Served, slot: u64) -> Option<u64> {
        if let Some(active) = self.active.get_mut(&who) {
            active.pin = Some(slot);
        }
        self.pinned(who.0)
    }

    /// The group's pin: the lowest one of its transfers.
    pub fn pinned(&self, shard: ShardId) -> Option<u64> {
        self.active.iter().filter(|((of, _), _)| *of == shard).filter_map(|(_, active)| active.pin).min()
    }

    /// Ends the replica's transfer. Returns whether it had a place.
    pub fn end(&mut self, who: Served) -> bool {
        self.active.remove(&who).is_some()
    }

    /// Ends all transfers of a shard whose replica here was given up.
    pub fn forget(&mut self, shard: ShardId) {
        self.active.retain(|(of, _), _| *of != shard);
        self.waiting.retain(|((of, _), _)| *of != shard);
    }

    /// Ends and returns the transfers that make no progress or take too long.
    pub fn expire(&mut self, now_ms: u64) -> Vec<Served> {
        let over = |active: &Active| {
            now_ms.saturating_sub(active.progress_ms) >= STALLED_MS
                || now_ms.saturating_sub(active.since_ms) >= TRANSFER_MS
        };
        let ended: Vec<_> = self.active.iter().filter(|(_, a)| over(a)).map(|(who, _)| *who).collect();
        for who in &ended {
            self.active.remove(who);
        }
        ended
    }

    /// The number of replicas that have a place.
    pub fn active(&self) -> usize {
        self.active.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(n: u16) -> Served {
        (ShardId(n), GatewayId(2))
    }

    #[test]
    fn few_have_a_place_and_the_others_get_theirs_in_the_order_of_their_asking() {
        let mut transfers = Transfers::default();
        let most = MAX_TRANSFERS_ENTRIES as u16;
        assert!((0..most).all(|n| transfers.admit(0, replica(n))));
        assert!(!transfers.admit(10, replica(10)) && !transfers.admit(11, replica(11)));
        assert!(transfers.end(replica(0)));
        assert!(!transfers.admit(20, replica(11)), "another one asked first");
        assert!(!transfers.admit(21, replica(0)), "it had its turn");
        assert!(transfers.admit(22, replica(10)));
        assert!(transfers.end(replica(1)));
        assert!(transfers.admit(23, replica(11)) && !transfers.admit(24, replica(0)));
        // A replica that no longer asks delays no other one.
        assert!(transfers.end(replica(2)));
        assert!(transfers.admit(25 + WAITING_MS, replica(20)));
        assert_eq!(transfers.active(), MAX_TRANSFERS_ENTRIES);
    }

    #[test]
    fn one_that_gets_on_stays_but_not_for_ever_and_one_that_does_not_goes() {
        let mut transfers = Transfers::default();
        assert!(transfers.admit(0, replica(1)) && transfers.admit(0, replica(2)));
        let mut now_ms = 0;
        while now_ms + STALLED_MS / 2 < TRANSFER_MS {
            now_ms += STALLED_MS / 2;
            transfers.reached(now_ms, replica(1), (now_ms, 0), false);
            transfers.reached(now_ms, replica(2), (7, 7), false); // the same request again and again
            let ended = transfers.expire(now_ms);
            assert_eq!(
                ended.is_empty(),
                now_ms < 2 * STALLED_MS - STALLED_MS / 2 || now_ms > 3 * STALLED_MS / 2,
                "{now_ms}"
            );
            if !ended.is_empty() {
                assert_eq!(ended, [replica(2)]);
            }
        }
        assert_eq!(transfers.expire(TRANSFER_MS), [replica(1)]);
        // Installing a snapshot takes long; it counts as progress as long as the replica reports it.
        assert!(transfers.admit(TRANSFER_MS, replica(3)));
        for n in 1..5 {
            transfers.reached(TRANSFER_MS + n * STALLED_MS / 2, replica(3), (9, 9), true);
            assert!(transfers.expire(TRANSFER_MS + n * STALLED_MS / 2).is_empty());
        }
    }

    #[test]
    fn what_is_asked_for_over_and_over_does_not_pile_up() {
        let mut transfers = Transfers::default();
        assert!(!transfers.ask(replica(1)), "it has no place");
        assert!(transfers.admit(0, replica(1)) && transfers.ask(replica(1)));
        assert!(!transfers.ask(replica(1)));
        transfers.answered(replica(1));
        assert!(transfers.ask(replica(1)));
    }

    #[test]
    fn a_group_is_pinned_as_its_transfer_that_needs_most_asks() {
        let mut transfers = Transfers::default();
        let other = (ShardId(1), GatewayId(3));
        assert!(transfers.admit(0, replica(1)) && transfers.admit(0, other));
        assert_eq!(transfers.pin(replica(1), 50), Some(50));
        assert_eq!(transfers.pin(other, 30), Some(30));
        assert_eq!(transfers.pin(other, 80), Some(50));
        assert_eq!(transfers.pinned(ShardId(2)), None);
        transfers.end(replica(1));
        assert_eq!(transfers.pinned(ShardId(1)), Some(80));
        transfers.expire(STALLED_MS);
        assert_eq!(transfers.pinned(ShardId(1)), None);
    }
}
