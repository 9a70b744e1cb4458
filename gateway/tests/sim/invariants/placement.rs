//! Once faults have ended, every replica comes to be where the directory wants it, every gateway knows that, and no move
//! is left under way.

use crate::gateway::Place;
use selvedge_fabric::directory::{Directory, GatewayState};
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;

/// The newest directory that a gateway of the site has applied.
pub fn newest(places: &BTreeMap<GatewayId, Place>) -> Option<&Directory> {
    let lives = places.values().filter(|place| !place.gone).filter_map(|place| place.live.as_ref());
    lives.filter_map(|live| live.directory()).map(|directory| &**directory).max_by_key(|d| d.slot())
}

/// What is not settled yet, if anything.
pub fn unsettled(places: &BTreeMap<GatewayId, Place>) -> Option<String> {
    let Some(newest) = newest(places) else { return Some("there is no directory".to_string()) };
    if !newest.moves().is_empty() {
        return Some(format!("moves are under way: {:?}", newest.moves()));
    }
    if let Some((shard, found)) = newest.misplaced().next() {
        return Some(format!(
            "{shard} is at {:?}, and should be at {:?}",
            found.voters,
            newest.wanted(shard)
        ));
    }
    for (id, gateway) in newest.gateways() {
        if !places.contains_key(&id) {
            return Some(format!("{id} is lost, and was not removed"));
        }
        let leaves = gateway.state == GatewayState::Draining && newest.replacement_of(id).is_some();
        if gateway.state == GatewayState::Joining || leaves {
            return Some(format!("{id} is {:?}", gateway.state));
        }
    }
    for (id, place) in places {
        let Some(live) = &place.live else { return Some(format!("{id} is down")) };
        if place.gone || newest.gateway(*id).is_none() {
            return Some(format!("{id} was removed, and runs"));
        }
        if live.directory().is_none_or(|directory| directory.slot() != newest.slot()) {
            return Some(format!("{id} has an old copy of the directory"));
        }
        for (shard, known) in newest.configurations() {
            let replica = live.replicas.get(&shard).map(|replica| replica.core().configuration());
            let later = replica.is_some_and(|found| found.number > known.number);
            let behind = known.voters.contains(id) && replica.is_none_or(|found| found.number < known.number);
            if later || behind {
                return Some(format!("{shard} at {id} is in {replica:?}, and the directory has {known:?}"));
            }
        }
    }
    None
}
