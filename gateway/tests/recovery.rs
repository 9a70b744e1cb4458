//! Sites of real gateways that lose majorities for good, and go on from what survives: everything acknowledged that the
//! survivor has on its disk is counted, exactly once, wherever the recovery is interrupted, and the site grows again.

#[path = "histories/clients.rs"]
mod clients;
#[path = "gateways/growing.rs"]
mod growing;
#[path = "gateways/site.rs"]
mod site;

use clients::{Publisher, read};
use growing::{invite, is_settled};
use selvedge_fabric::ring::shard_of;
use selvedge_types::recovery::{GoesOnFrom, RecoveryPlan, Survivor, assess};
use serde_json::{Value, json};
use site::{Plan, Running, until};

/// Devices whose readings are counted one by one.
const SETS: u32 = 6;
const RANDOM: &str = "000102030405060708090a0b0c0d0e0f";

/// Publishes the elements from `from` to `to` of each device at gateway `at`, each until it is acknowledged.
fn publish(plan: &Plan, at: usize, from: u32, to: u32) {
    std::thread::scope(|scope| {
        for set in 0..SETS {
            scope.spawn(move || {
                let mut publisher = Publisher::new(format!("set-{set}"));
                for element in from..to {
                    let value = 1u64 << element;
                    let payload =
                        format!("{{\"value\":{value},\"ts\":1764000000000,\"seq\":{element},\"boot\":1}}");
                    until("a publish is acknowledged", || {
                        publisher.publish(plan.mqtt[at], &format!("d/set-{set}/x"), &payload).is_ok()
                    });
                }
            });
        }
    });
}

/// Waits until every device's readings up to element `to` are counted at gateway `at`, and fails if one is counted twice. Of
/// the devices in shards that began anew, the first `lost` elements are gone.
fn counted_but(plan: &Plan, at: usize, to: u32, (anew, lost): (&[u16], u32)) {
    for set in 0..SETS {
        let device = format!("set-{set}");
        let first = if anew.contains(&shard_of(&device, 8).0) { lost } else { 0 };
        let all = (1u64 << to) - (1u64 << first);
        until(&format!("set {set} is counted whole"), || {
            read(plan.http[at], &device).is_ok_and(|found| {
                assert_eq!(found & !all, 0, "more than was sent, or than is left");
                found == all
            })
        });
    }
}

fn counted(plan: &Plan, at: usize, to: u32) {
    counted_but(plan, at, to, (&[], 0));
}

/// What these gateways say of themselves.
fn survivors(plan: &Plan, at: &[usize]) -> Vec<Survivor> {
    let one = |i: &usize| serde_json::from_value(plan.json(*i, "/v1/recovery")).ok();
    let mut all = Vec::new();
    until("the survivors answer", || {
        all = at.iter().filter_map(one).collect();
        all.len() == at.len()
    });
    all
}

/// The plan for the survivors, once these no longer take the others for reachable.
fn planned(plan: &Plan, at: &[usize]) -> RecoveryPlan {
    let mut made = None;
    until("the others count as gone", || {
        made = assess(&survivors(plan, at), 1_764_000_000_000, RANDOM.into()).ok();
        made.is_some()
    });
    made.unwrap().plan
}

/// Hands the plan to a gateway, whose process then ends.
fn hand_over(plan: &Plan, i: usize, recovery: &RecoveryPlan, process: &mut Option<Running>) {
    let (status, answer) = plan.post(i, "/v1/recovery", &serde_json::to_value(recovery).unwrap());
    assert_eq!((status, &answer["changed"]), (200, &Value::Bool(true)), "{answer}");
    until("the gateway ends", || process.as_mut().is_some_and(Running::has_ended));
    *process = None;
}

fn begin(plan: &Plan, count: usize) -> Vec<Option<Running>> {
    let running = (0..count).map(|i| Some(plan.started(i))).collect();
    until("all gateways are ready", || (0..count).all(|i| plan.is_ready(i)));
    until("all have the directory", || {
        (0..count)
            .all(|i| plan.json(i, "/v1/directory")["gateways"].as_array().is_some_and(|g| g.len() == count))
    });
    running
}

/// Kills gateways and deletes their disks.
fn lose(plan: &Plan, running: &mut [Option<Running>], which: &[usize]) {
    which.iter().for_each(|i| running[*i] = None);
    which.iter().for_each(|i| std::fs::remove_dir_all(plan.data(*i)).unwrap());
}

/// Lets gateway `i` join, as gateway `at` admits it.
fn join(plan: &Plan, at: usize, i: usize) -> Running {
    invite(plan, at, i, &json!({}));
    plan.started(i)
}

#[test]
fn one_of_three_goes_on_alone_and_the_site_grows_again() {
    let plan = Plan::growing(3, 5);
    let mut running = begin(&plan, 3);
    publish(&plan, 0, 0, 12);
    // Everything acknowledged is on the survivor's disk once it is counted there by a majority with it.
    until("the survivor has applied everything", || {
        let (one, other) = (plan.json(0, "/v1/recovery"), plan.json(1, "/v1/recovery"));
        let commits = |v: &Value| -> Vec<u64> {
            v["replicas"].as_array().into_iter().flatten().filter_map(|r| r["commit"].as_u64()).collect()
        };
        let (one, other) = (commits(&one), commits(&other));
        !one.is_empty() && one == other
    });
    // The gateway refuses as long as it reaches one of those that would be given up.
    let early = survivors(&plan, &[0]);
    assert!(assess(&early, 1, RANDOM.into()).unwrap_err().to_string().contains("still reaches"));

    lose(&plan, &mut running, &[1, 2]);
    let recovery = planned(&plan, &[0]);
    assert_eq!((&*recovery.survivors, &*recovery.lost), (&[1][..], &[2, 3][..]));
    assert_eq!(recovery.groups.len(), 9, "all shards and the directory");
    hand_over(&plan, 0, &recovery, &mut running[0]);
    // Killed while it carries the plan out, more or less.
    running.truncate(0);
    drop(plan.started(0));
    let mut running = vec![Some(plan.started(0))];
    until("the survivor serves", || plan.is_ready(0));
    counted(&plan, 0, 12);
    publish(&plan, 0, 12, 20);
    counted(&plan, 0, 20);

    // An older plan is not taken, and the same one changes nothing.
    let (status, answer) = plan.post(0, "/v1/recovery", &serde_json::to_value(&recovery).unwrap());
    assert_eq!((status, &answer["changed"]), (200, &Value::Bool(false)), "{answer}");
    let mut older = recovery.clone();
    older.name.generation -= 1;
    let (status, answer) = plan.post(0, "/v1/recovery", &serde_json::to_value(&older).unwrap());
    assert_eq!(status, 409, "{answer}");

    running.push(Some(join(&plan, 0, 3)));
    running.push(Some(join(&plan, 0, 4)));
    until("the site has three gateways again", || {
        let directory = plan.json(0, "/v1/directory");
        let gateways = directory["gateways"].as_array().cloned().unwrap_or_default();
        gateways.len() == 3
            && gateways.iter().all(|g| g["state"] == "active" && g["replicas"] == 9)
            && is_settled(&plan, 0)
    });
    assert_eq!(plan.json(0, "/v1/directory")["gateways"][1]["gateway"], 4, "no number is given twice");
    publish(&plan, 3, 20, 24);
    // The first survivor may go now.
    running[0] = None;
    counted(&plan, 4, 24);
}

/// Two survivors of five: shards with one replica among them go on from that one, those with two of three are not touched.
/// One of the survivors hears the plan late. The lost ones come back with their disks, believe to be the site, and reach no
/// survivor.
#[test]
fn two_of_five_go_on_and_those_that_come_back_do_not_reach_them() {
    let plan = Plan::new(5);
    let mut running = begin(&plan, 5);
    publish(&plan, 1, 0, 12);
    until("nobody is behind", || {
        let of = |i: usize| plan.json(i, "/v1/gateways")["gateways"].as_array().cloned().unwrap_or_default();
        (0..5).all(|i| of(i).len() == 5 && of(i).iter().all(|g| g["behind_slots"] == 0))
    });
    running[2..].iter_mut().for_each(|gateway| *gateway = None);
    let recovery = planned(&plan, &[0, 1]);
    assert_eq!((&*recovery.survivors, &*recovery.lost), (&[1, 2][..], &[3, 4, 5][..]));
    assert!(recovery.groups.iter().any(|g| g.group == u16::MAX), "three of five directory voters are gone");
    hand_over(&plan, 0, &recovery, &mut running[0]);
    running[0] = Some(plan.started(0));
    until("the first has carried the plan out", || {
        plan.json(0, "/v1/recovery")["generation"] == recovery.name.generation
            || recovery.groups.iter().all(|g| g.source == 2)
            || plan.json(0, "/v1/recovery")["plan"].is_object()
    });
    hand_over(&plan, 1, &recovery, &mut running[1]);
    running[1] = Some(plan.started(1));
    until("both serve", || (0..2).all(|i| plan.is_ready(i)));
    let generation = |i: usize| plan.json(i, "/v1/recovery")["generation"].as_u64();
    until("both have the new directory", || (0..2).all(|i| generation(i) == Some(recovery.name.generation)));
    // Some shards were on the three others alone.
    let anew = recovery.groups.iter().filter(|g| g.from == GoesOnFrom::Nothing);
    let anew: Vec<u16> = anew.map(|g| g.group).collect();
    counted_but(&plan, 0, 12, (&anew, 12));
    publish(&plan, 1, 12, 16);
    until("replicas grow onto both", || is_settled(&plan, 0));
    counted_but(&plan, 0, 16, (&anew, 12));

    for (i, gateway) in running.iter_mut().enumerate().skip(2) {
        *gateway = Some(plan.started(i));
    }
    until("those that come back are a majority among themselves", || {
        plan.json(2, "/v1/recovery")["reachable"] == json!([3, 4, 5])
    });
    publish(&plan, 0, 16, 20);
    counted_but(&plan, 1, 20, (&anew, 12));
    assert_eq!(plan.json(0, "/v1/recovery")["reachable"], json!([1, 2]));
}
