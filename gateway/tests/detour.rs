//! Sites of real gateways of which two don't reach each other, or not at the address that is known; and one that was
//! removed.

#[path = "histories/clients.rs"]
mod clients;
#[path = "gateways/site.rs"]
mod site;

use clients::{Publisher, read};
use serde_json::{Value, json};
use site::{Plan, Running, until};

/// Devices of one gateway: as many as to have some in nearly every shard.
const DEVICES: usize = 16;

/// What gateway `i` says of its link to another one.
fn peer(plan: &Plan, i: usize, gateway: u64) -> Value {
    let status = plan.json(i, "/v1/status");
    let all = status["peers"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|p| p["gateway"] == gateway).unwrap_or_default()
}

/// How many shards gateway `i` leads.
fn leads(plan: &Plan, i: usize) -> Option<u64> {
    plan.json(i, "/v1/status")["totals"]["leading"].as_u64()
}

/// One reading of each device of this round is acknowledged at gateway `at`, and counted as gateway `asked` says.
fn serves(plan: &Plan, round: &str, at: usize, asked: usize) {
    for device in (0..DEVICES).map(|n| format!("{round}-{at}-{n}")) {
        let mut publisher = Publisher::new(device.clone());
        let payload = json!({ "value": 1, "ts": 1_764_000_000_000_u64, "seq": 1, "boot": 1 }).to_string();
        until("a publish is acknowledged", || {
            publisher.publish(plan.mqtt[at], &format!("d/{device}/x"), &payload).is_ok()
        });
        until("its reading is counted once", || read(plan.http[asked], &device).is_ok_and(|sum| sum == 1));
    }
}

/// The metrics of gateway `i` that count detours of this kind.
fn detours(plan: &Plan, i: usize, what: &str) -> u64 {
    let page = plan.ask(i, "GET", "/metrics", "Host: x\r\n").unwrap_or_default();
    let line = format!("selvedge_detours_total{{what=\"{what}\"}} ");
    let counted = page.lines().find_map(|l| l.strip_prefix(&line)).map(|n| n.parse().unwrap());
    counted.unwrap_or(0)
}

/// The addresses that the two first gateways know of each other lead nowhere, so there is never a link between them.
#[test]
fn two_gateways_without_a_link_serve_devices_and_leadership_goes_to_the_third() {
    let plan = Plan::apart(3, [0, 1]);
    let _running: Vec<Running> = (0..3).map(|i| plan.started(i)).collect();
    until("all gateways are ready", || (0..3).all(|i| plan.is_ready(i)));
    for (i, other) in [(0, 2), (1, 1)] {
        until("it is reached by a detour", || peer(&plan, i, other)["detour"] == 3);
        assert_eq!(peer(&plan, i, other)["up"], false);
        let ready = plan.ask(i, "GET", "/readyz", "Host: x\r\n").unwrap();
        assert!(ready.contains(&format!("no link to g{other}, which is reached through g3")), "{ready}");
    }
    serves(&plan, "first", 0, 1);
    serves(&plan, "first", 1, 0);
    until("the third one leads all shards", || leads(&plan, 2) == Some(8));
    serves(&plan, "then", 0, 1);
    serves(&plan, "then", 1, 0);
    let count = |what| (0..3).map(|i| detours(&plan, i, what)).sum::<u64>();
    assert!(count("sent") > 0 && count("passed_on") > 0 && count("taken") > 0);
    assert_eq!(count("refused"), 0);
}

/// The gateway with the highest id has moved to another port, which only its own settings name.
#[test]
fn a_gateway_that_has_moved_announces_its_address() {
    let plan = Plan::new(3);
    let mut running: Vec<_> = (0..3).map(|i| Some(plan.started(i))).collect();
    until("all gateways are ready", || (0..3).all(|i| plan.is_ready(i)));
    until("the directory has begun", || plan.json(0, "/v1/directory")["gateways"].is_array());
    let port = selvedge_ports::claim(1).unwrap();
    let address = format!("127.0.0.1:{port}");
    let (bind, advertise) = (format!("peer.bind={address}"), format!("peer.advertise={address}"));
    running[2] = None;
    running[2] = Some(plan.started_with(2, &[&bind, &advertise]));
    until("all gateways are ready again", || (0..3).all(|i| plan.is_ready(i)));
    for i in [0, 1] {
        until("the directory knows the new address", || {
            let directory = plan.json(i, "/v1/directory");
            directory["gateways"][2]["addresses"]["peer"] == json!(address)
        });
        until("there is a link, which the moved one has dialled", || {
            let link = peer(&plan, i, 3);
            link["up"] == true && link["dialled_by"] == 3
        });
    }
}

#[test]
fn a_gateway_that_was_removed_says_so() {
    let plan = Plan::new(4);
    let mut running: Vec<_> = (0..4).map(|i| Some(plan.started(i))).collect();
    until("all gateways are ready", || (0..4).all(|i| plan.is_ready(i)));
    until("the directory has begun", || plan.json(0, "/v1/directory")["gateways"].is_array());
    until("gateway 4 is removed", || plan.order(0, "DELETE", "/v1/gateways/4?force=true").0 == 200);
    let says_so = || {
        let ready = plan.ask(3, "GET", "/readyz", "Host: x\r\n").unwrap_or_default();
        ready.starts_with("HTTP/1.1 503")
            && ready.contains("this gateway was removed from the site")
            && ready.contains("selvedge gateway invite")
    };
    until("gateway 4 says that it was removed", says_so);
    // Also if nobody who saw it go is left.
    running.iter_mut().for_each(|gateway| *gateway = None);
    for (i, gateway) in running.iter_mut().enumerate() {
        *gateway = Some(plan.started(i));
    }
    until("gateway 4 says so again", says_so);
}
