//! A site of real gateways that loses some of them for good: one is drained and removed, another dies and is removed.
//! Everything that was acknowledged is still counted, exactly once, on the gateways that stay, also after all of these
//! were killed.

#[path = "histories/clients.rs"]
mod clients;
#[path = "gateways/site.rs"]
mod site;

use clients::{Publisher, read};
use serde_json::Value;
use site::{Plan, until};
use std::sync::atomic::{AtomicBool, Ordering};

/// Devices whose readings are counted one by one.
const SETS: u32 = 12;
/// The most readings of a device: their values are different powers of two, so that the sum names them.
const ELEMENTS: u32 = 48;

/// Publishes the next reading of each device, whatever gateway takes it. Returns how many elements each device has.
fn publish_all(plan: &Plan, at: &[usize], stop: &AtomicBool) -> Vec<u32> {
    let publish = |set: u32| {
        let mut publisher = Publisher::new(format!("set-{set}"));
        let (mut element, mut turn) = (0, set as usize);
        while element < ELEMENTS && !(stop.load(Ordering::Relaxed) && element > 0) {
            let value = 1u64 << element;
            let payload = format!("{{\"value\":{value},\"ts\":1764000000000,\"seq\":{element},\"boot\":1}}");
            until("a publish is acknowledged", || {
                turn += 1;
                publisher.publish(plan.mqtt[at[turn % at.len()]], &format!("d/set-{set}/x"), &payload).is_ok()
            });
            element += 1;
            std::thread::sleep(std::time::Duration::from_millis(250));
        }
        element
    };
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..SETS).map(|set| scope.spawn(move || publish(set))).collect();
        all.into_iter().map(|set| set.join().unwrap()).collect()
    })
}

/// The record of a gateway in the directory, as gateway `i` has it; null if it is gone.
fn record(plan: &Plan, i: usize, gateway: u64) -> Value {
    let directory = plan.json(i, "/v1/directory");
    let all = directory["gateways"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|g| g["gateway"] == gateway).unwrap_or_default()
}

fn is_settled(plan: &Plan, i: usize) -> bool {
    let directory = plan.json(i, "/v1/directory");
    directory["misplaced_count"] == 0 && directory["moves"].as_array().is_some_and(Vec::is_empty)
}

fn order(plan: &Plan, i: usize, method: &str, path: &str) {
    until(&format!("{method} {path} is done"), || {
        let (status, answer) = plan.order(i, method, path);
        assert!(status != 409, "{answer}");
        status == 200
    });
}

#[test]
fn a_gateway_is_emptied_and_removed_and_a_dead_one_is_removed_and_nothing_is_lost() {
    let plan = Plan::new(5);
    let mut running: Vec<_> = (0..5).map(|i| Some(plan.started(i))).collect();
    until("all gateways are ready", || (0..5).all(|i| plan.is_ready(i)));
    until("the directory has begun", || plan.json(0, "/v1/directory")["gateways"].is_array());

    let stop = AtomicBool::new(false);
    let stay = [0, 2, 4];
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish_all(&plan, &stay, &stop));
        order(&plan, 0, "POST", "/v1/gateways/2/drain");
        until("gateway 2 holds nothing", || record(&plan, 0, 2)["replicas"] == 0);
        order(&plan, 2, "DELETE", "/v1/gateways/2");
        running[1] = None;
        until("no replica is out of place", || is_settled(&plan, 0));

        running[3] = None; // dies for good
        order(&plan, 0, "DELETE", "/v1/gateways/4");
        until("what it held is rebuilt elsewhere", || is_settled(&plan, 0));
        stop.store(true, Ordering::Relaxed);
        publishing.join().unwrap()
    });

    let check = || {
        for (set, elements) in (0..).zip(&published) {
            let all = (1u64 << elements) - 1;
            until(&format!("set {set} is counted whole"), || {
                read(plan.http[stay[set as usize % 3]], &format!("set-{set}")).is_ok_and(|found| {
                    assert_eq!(found & !all, 0, "more than was sent");
                    found == all
                })
            });
        }
    };
    check();
    // What was chosen since the site began is on the disks of those that stay.
    stay.iter().for_each(|i| running[*i] = None);
    stay.iter().for_each(|i| running[*i] = Some(plan.started(*i)));
    until("those that stay are ready", || stay.iter().all(|i| plan.is_ready(*i)));
    assert_eq!(record(&plan, 2, 2), Value::Null);
    until("the site is as it was", || is_settled(&plan, 0));
    check();
}
