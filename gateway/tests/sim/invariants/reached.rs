//! Where no fault goes on, every gateway has every other one up within a bounded time: a link that broke is dialled
//! again, and a peer that flapped has held its connection for long enough.

use crate::gateway::Place;
use selvedge_fabric::detector::{HOLD_MAX_MS, TICK_MS};
use selvedge_fabric::link::{CONNECT_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, REDIAL_MAX_MS};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;

/// A greeting that a fault broke ends, the next dial waits, fails for a box that is just coming up, waits again, and
/// succeeds.
pub const REACH_MS: u64 =
    HANDSHAKE_TIMEOUT_MS + 2 * REDIAL_MAX_MS + CONNECT_TIMEOUT_MS + 2 * HOLD_MAX_MS + 10 * TICK_MS;

/// Nothing has gone wrong, and nobody has started, since then.
pub fn check(now: u64, since: u64, places: &BTreeMap<GatewayId, Place>) {
    if now < since + REACH_MS {
        return;
    }
    for (id, place) in places {
        let Some(live) = &place.live else { continue };
        let up = live.links.up();
        assert!(up.len() == places.len(), "{id} has only {up:?} up, {} ms after the calm began", now - since);
    }
}
