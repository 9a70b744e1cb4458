//! Real gateways send clients to each other: a gateway that drains loses its clients, and one with more than its share sends new
//! ones on.

mod gateways {
    pub mod client;
    pub mod site;
}

use gateways::client::{Client, DISCONNECT, Hello, PUBACK};
use gateways::site::{Plan, until};
use std::collections::BTreeSet;

const USE_ANOTHER_SERVER: u8 = 0x9c;

/// The ports of the servers that a reference names.
fn ports(reference: &str) -> BTreeSet<u16> {
    let port = |address: &str| address.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
    reference.split(' ').map(port).collect()
}

/// What gateway `i` says of gateway `of`.
fn listed(plan: &Plan, i: usize, of: usize) -> serde_json::Value {
    let answer = plan.json(i, "/v1/gateways");
    let all = answer["gateways"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|g| g["gateway"] == of as u64 + 1).unwrap_or_default()
}

/// Waits until all gateways know where devices may go.
fn until_announced(plan: &Plan) {
    let knows = |i: usize, of: usize| {
        let gateway = listed(plan, i, of);
        gateway["takes_devices"] == true && gateway["mqtt"] == format!("127.0.0.1:{}", plan.mqtt[of])
    };
    until("every gateway is listed with its address", || (0..3).all(|i| (0..3).all(|of| knows(i, of))));
}

#[test]
fn a_draining_gateway_loses_its_clients_and_locks_nobody_out() {
    let plan = Plan::new(3);
    let _running: Vec<_> = (0..3).map(|i| plan.started(i)).collect();
    until_announced(&plan);
    let roams = Hello::persistent("roams").v5();
    let mut new = Client::connect(plan.mqtt[0], roams).unwrap();
    let mut old = Client::connect(plan.mqtt[0], Hello::persistent("stays")).unwrap();
    new.publish("d/roams/x", "1", 1, 1, false);
    assert_eq!(new.packet(PUBACK)[..2], [0, 1]);
    until("the order is taken", || plan.order(1, "POST", "/v1/gateways/1/drain").0 == 200);

    let told = new.packet(DISCONNECT);
    assert_eq!((told[0], told[2]), (USE_ANOTHER_SERVER, 0x1c));
    let named = ports(std::str::from_utf8(&told[5..]).unwrap());
    assert_eq!(named, BTreeSet::from([plan.mqtt[1], plan.mqtt[2]]));
    assert!(new.is_closed() && old.is_closed());
    // The session goes on there: a resend is recognised.
    let mut new = Client::connect(plan.mqtt[1], roams).unwrap();
    assert!(new.session_present);
    new.publish("d/roams/x", "1", 1, 1, true);
    assert_eq!(new.packet(PUBACK)[..2], [0, 1]);

    until("it has no connections left", || listed(&plan, 1, 0)["connections"] == 0);
    let drained = listed(&plan, 1, 0);
    assert_eq!((&drained["takes_devices"], &drained["directory_state"]), (&false.into(), &"draining".into()));
    // Whoever comes back is accepted, and version 3 always.
    let first = Client::connect(plan.mqtt[0], Hello::clean("stubborn").v5());
    assert_eq!(first.err(), Some(USE_ANOTHER_SERVER));
    let mut stubborn = Client::connect(plan.mqtt[0], Hello::clean("stubborn").v5()).unwrap();
    let mut back = Client::connect(plan.mqtt[0], Hello::persistent("stays")).unwrap();
    for client in [&mut stubborn, &mut back] {
        client.publish("d/stubborn/x", "1", 1, 1, false);
        assert_eq!(client.packet(PUBACK)[..2], [0, 1]);
    }
}

#[test]
fn a_gateway_with_more_than_its_share_sends_new_clients_on() {
    let plan = Plan::new(3);
    let set = ["mqtt.balance=least_loaded"];
    let _running: Vec<_> = (0..3).map(|i| plan.started_with(i, &set)).collect();
    until_announced(&plan);
    let (mut clients, mut n) = (Vec::new(), 0);
    let old = || Client::connect(plan.mqtt[0], Hello::clean("version-3")).is_ok();
    until("a new client is sent on", || {
        n += 1;
        let id = format!("c{n}");
        match Client::connect(plan.mqtt[0], Hello::clean(&id).v5()) {
            Ok(client) => clients.push(client),
            Err(code) => assert_eq!(code, USE_ANOTHER_SERVER),
        }
        clients.len() < n
    });
    assert!(clients.len() >= 16, "not with few connections: {}", clients.len());
    let id = format!("c{n}");
    assert!(Client::connect(plan.mqtt[0], Hello::clean(&id).v5()).is_ok(), "it may come back");
    assert!(old());
    let gateway = listed(&plan, 1, 0);
    assert!(gateway["connections"].as_f64() > gateway["connections_share"].as_f64(), "{gateway}");
}
