//! In the calm no connection is left over: each connection of a gateway is one that a device uses, each client has at
//! most one, and no publishes are held.

use crate::devices::Devices;
use crate::gateway::Place;
use selvedge_types::ids::GatewayId;
use std::collections::BTreeMap;

pub fn check(devices: &Devices, places: &BTreeMap<GatewayId, Place>) {
    let mut clients: BTreeMap<String, GatewayId> = BTreeMap::new();
    for (id, place) in places {
        let edge = &place.live.as_ref().expect("it is up").edge;
        for connection in edge.connections() {
            assert!(devices.of(connection).is_some(), "nobody has connection {connection} of {id} any more");
        }
        let (lines, known) = (edge.connections().count(), edge.front.connections());
        assert_eq!(lines, known, "{id} has {lines} connections, and sessions of {known}");
        for connected in edge.front.connected(0, usize::MAX, |_| true) {
            let before = clients.insert(connected.client.clone(), *id);
            assert!(before.is_none(), "{} is connected to {before:?} and {id}", connected.client);
        }
        let held = edge.front.held_bytes();
        assert_eq!(held, 0, "{id} holds {held} bytes of publishes that are all answered");
    }
}
