//! While no fault lasts, every gateway has every other one up within a bounded time: a broken link is dialled again,
//! and a peer that flapped has held its connection for long enough. Two gateways whose link stays cut have each other
//! within reach by a detour instead.

use crate::gateway::Place;
use selvedge_fabric::detector::{HOLD_MAX_MS, TICK_MS};
use selvedge_fabric::link::{CONNECT_TIMEOUT_MS, HANDSHAKE_TIMEOUT_MS, REDIAL_MAX_MS};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;

/// A greeting that a fault broke times out, the next dial waits, fails because a box is just coming up, waits again,
/// and succeeds.
pub const REACH_MS: u64 =
    HANDSHAKE_TIMEOUT_MS + 2 * REDIAL_MAX_MS + CONNECT_TIMEOUT_MS + 2 * HOLD_MAX_MS + 10 * TICK_MS;

/// `since`: the time since which nothing has gone wrong and no process has started. `apart`: two gateways whose link has
/// been cut since then.
pub fn check(
    now: u64,
    since: u64,
    places: &BTreeMap<GatewayId, Place>,
    apart: Option<(GatewayId, GatewayId)>,
) {
    if now < since + REACH_MS {
        return;
    }
    for (id, place) in places {
        let Some(live) = &place.live else { continue };
        let up = live.links.up();
        let cut_off = apart.filter(|(a, b)| [a, b].contains(&id)).map_or(0, |_| 1);
        assert!(
            up.len() + cut_off == places.len(),
            "{id} has only {up:?} up, {} ms after the calm began",
            now - since
        );
        let within = live.links.reach().within();
        assert!(
            within.len() == places.len() || places.len() < 3,
            "{id} has only {within:?} within reach, {} ms after the calm began",
            now - since
        );
    }
}
