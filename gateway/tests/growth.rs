//! Sites of real gateways that lose some of them for good, and get new ones: gateways are drained and removed, die and are
//! removed or replaced, and join.
//! Everything that was acknowledged is still counted, exactly once, on the gateways that stay, also after all of these
//! were killed. The gateway that is emptied keeps no replica of a shard on its disk, whenever it is killed meanwhile.

#[path = "histories/clients.rs"]
mod clients;
#[path = "gateways/growing.rs"]
mod growing;
#[path = "gateways/site.rs"]
mod site;

use clients::{Publisher, read};
use growing::{invite, is_settled, order, record};
use serde_json::{Value, json};
use site::{Plan, until};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Devices whose readings are counted one by one.
const SETS: u32 = 12;
/// The most readings of a device: their values are different powers of two, so that the sum names them.
const ELEMENTS: u32 = 48;

/// Publishes of a few MiB, so that logs grow and gateways make snapshots.
const BULK_CLIENTS: usize = 8;
const BULK_PUBLISHES: usize = 60;
const BULK_BYTES: usize = 15_000;
/// The directory group is no shard: every gateway keeps it.
const DIRECTORY: u16 = u16::MAX;
/// The bytes in front of the marks in a gateway's file of them, and of each mark.
const MARKS_AT: usize = 68;
const MARK_BYTES: usize = 7;
/// A base names a slot and a configuration; a file has a head in front of it.
const MAX_BASE_FILE_BYTES: u64 = 300;

/// Publishes payloads that are no readings, which go into the quarantines of their clients' shards.
fn publish_bulk(plan: &Plan, at: &[usize]) {
    let payload = "?".repeat(BULK_BYTES);
    let publish = |client: usize| {
        let mut publisher = Publisher::new(format!("bulk-{client}"));
        for n in 0..BULK_PUBLISHES {
            until("a large publish is acknowledged", || {
                publisher
                    .publish(plan.mqtt[at[n % at.len()]], &format!("d/bulk-{client}/x"), &payload)
                    .is_ok()
            });
        }
    };
    std::thread::scope(|scope| {
        (0..BULK_CLIENTS).for_each(|client| drop(scope.spawn(move || publish(client))))
    });
}

/// The shards of which a data folder holds snapshots or contents of batches.
fn shards_with_files(data: &Path) -> Vec<u16> {
    let names = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let group = |name: &str| u16::from_str_radix(name, 16).ok();
    let snapshots = names(&data.join("snapshots"));
    let snapshots = snapshots.iter().filter_map(|name| group(name.strip_prefix("snapshot-")?.get(..4)?));
    let folders = names(&data.join("batches"));
    let batches = folders.iter().filter(|name| !names(&data.join("batches").join(name)).is_empty());
    let mut shards: Vec<u16> = snapshots.chain(batches.filter_map(|name| group(name))).collect();
    shards.retain(|shard| *shard != DIRECTORY);
    shards
}

/// Checks that a witness's data folder holds no state of a shard: for each at most a base, and no contents of batches.
fn holds_no_state(data: &Path) {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten().collect::<Vec<_>>();
    let mut bases = 0;
    for file in entries(&data.join("snapshots")) {
        let name = file.file_name().into_string().unwrap();
        if !name.starts_with(&format!("snapshot-{DIRECTORY:04x}")) && !name.ends_with(".tmp") {
            let bytes = file.metadata().map_or(0, |found| found.len());
            assert!(bytes <= MAX_BASE_FILE_BYTES, "{name} has {bytes} bytes");
            bases += 1;
        }
    }
    assert!(bases > 0, "a witness writes a base for each shard");
    let of_shards = |name: &str| name != format!("{DIRECTORY:04x}");
    for folder in
        entries(&data.join("batches")).iter().filter(|f| of_shards(&f.file_name().to_string_lossy()))
    {
        assert_eq!(entries(&folder.path()).len(), 0, "{:?} holds contents of batches", folder.path());
    }
}

/// The bytes of all files in a folder.
fn bytes_of(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_of(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

/// The shards that a data folder's marks name: those with a replica, and those whose replica was given up.
fn marked(data: &Path) -> (Vec<u16>, Vec<u16>) {
    let bytes = std::fs::read(data.join("replica-marks")).unwrap_or_default();
    let marks = bytes.get(MARKS_AT..).unwrap_or_default().chunks_exact(MARK_BYTES);
    let marks = marks.map(|mark| (u16::from_le_bytes([mark[0], mark[1]]), mark[2] == 1));
    let (given_up, held): (Vec<_>, Vec<_>) = marks.partition(|(_, given_up)| *given_up);
    let shards =
        |of: Vec<(u16, bool)>| of.into_iter().map(|(shard, _)| shard).filter(|s| *s != DIRECTORY).collect();
    (shards(held), shards(given_up))
}

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

/// Waits until every reading is counted, and fails if one is counted twice.
fn counted(plan: &Plan, at: &[usize], published: &[u32]) {
    for (set, elements) in (0..).zip(published) {
        let all = (1u64 << elements) - 1;
        until(&format!("set {set} is counted whole"), || {
            read(plan.http[at[set as usize % at.len()]], &format!("set-{set}")).is_ok_and(|found| {
                assert_eq!(found & !all, 0, "more than was sent");
                found == all
            })
        });
    }
}

/// All boxes of a site are exchanged, one after the other, while devices publish: one box dies with its disk and is
/// replaced, one is drained, the third is replaced while it runs. No gateway with which the site began is left.
#[test]
fn every_box_of_a_site_is_replaced_and_nothing_is_lost() {
    let plan = Plan::growing(3, 6);
    let mut running: Vec<_> = (0..3).map(|i| Some(plan.started(i))).collect();
    running.resize_with(6, || None);
    until("all gateways are ready", || (0..3).all(|i| plan.is_ready(i)));
    until("the directory has begun", || plan.json(0, "/v1/directory")["gateways"].is_array());

    let stop = AtomicBool::new(false);
    let all: Vec<usize> = (0..6).collect();
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish_all(&plan, &all, &stop));
        // Dies for good.
        running[0] = None;
        std::fs::remove_dir_all(plan.data(0)).unwrap();
        invite(&plan, 1, 3, &json!({ "replaces": 1 }));
        running[3] = Some(plan.started(3));
        until("gateway 4 has taken its place", || record(&plan, 1, 1) == Value::Null && is_settled(&plan, 1));
        assert_eq!(record(&plan, 1, 4)["state"], "active");

        // The site grows, and shrinks again.
        invite(&plan, 1, 4, &json!({}));
        running[4] = Some(plan.started(4));
        until("gateway 5 is active", || record(&plan, 1, 5)["state"] == "active");
        order(&plan, 1, "POST", "/v1/gateways/2/drain");
        until("gateway 2 holds nothing", || record(&plan, 3, 2)["replicas"] == 0);
        order(&plan, 3, "DELETE", "/v1/gateways/2");
        running[1] = None;
        until("no replica is out of place", || is_settled(&plan, 3));

        // Runs while it is replaced.
        invite(&plan, 3, 5, &json!({ "replaces": 3 }));
        running[5] = Some(plan.started(5));
        until("gateway 6 has taken its place", || record(&plan, 4, 3) == Value::Null && is_settled(&plan, 4));
        running[2] = None;
        stop.store(true, Ordering::Relaxed);
        publishing.join().unwrap()
    });

    let stay = [3, 4, 5];
    let check = || counted(&plan, &stay, &published);
    check();
    stay.iter().for_each(|i| running[*i] = None);
    // No token is needed again.
    stay.iter().for_each(|i| std::fs::remove_file(plan.token_file(*i)).unwrap());
    stay.iter().for_each(|i| running[*i] = Some(plan.started(*i)));
    until("those that stay are ready", || stay.iter().all(|i| plan.is_ready(*i)));
    check();
}

/// Two boxes and a witness serve, whichever of the three is down.
#[test]
fn two_boxes_and_a_witness_survive_the_loss_of_any_one() {
    let plan = Plan::growing(2, 3);
    let mut running: Vec<_> = (0..2).map(|i| Some(plan.started(i))).collect();
    until("the directory has begun", || plan.json(0, "/v1/directory")["gateways"].is_array());
    invite(&plan, 0, 2, &json!({ "witness": true }));
    running.push(Some(plan.started(2)));
    until("the witness votes everywhere", || {
        let witness = record(&plan, 0, 3);
        witness["role"] == "witness" && witness["replicas"] == 9 && is_settled(&plan, 0)
    });

    let stop = AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish_all(&plan, &[0, 1], &stop));
        for (down, gateway) in running.iter_mut().enumerate() {
            *gateway = None;
            let other = usize::from(down == 0);
            until("the two that are left serve", || plan.is_ready(other));
            until("every shard has a leader", || plan.json(other, "/v1/gateways")["leaderless_shards"] == 0);
            *gateway = Some(plan.started(down));
            until("all three are ready", || (0..3).all(|i| plan.is_ready(i)));
        }
        stop.store(true, Ordering::Relaxed);
        publishing.join().unwrap()
    });
    counted(&plan, &[0, 1], &published);
    holds_no_state(&plan.data(2));
}

/// One of two full gateways is away while the other one and a witness go on. Then the other is lost with its disk. The
/// first comes back, gets from the witness what it lacks, and leads.
#[test]
fn a_gateway_that_was_away_when_the_other_was_lost_gets_from_the_witness_what_was_acknowledged() {
    let plan = Plan::growing(2, 3);
    // Small logs, so that there are snapshots, and what was taken in meanwhile leaves the log of the other gateway.
    let start = |i| Some(plan.started_with(i, &["log.max_segments=3"]));
    let mut running: Vec<_> = (0..2).map(start).collect();
    until("the directory has begun", || plan.json(0, "/v1/directory")["gateways"].is_array());
    invite(&plan, 0, 2, &json!({ "witness": true }));
    running.push(start(2));
    until("the witness votes everywhere", || {
        let witness = record(&plan, 0, 3);
        witness["role"] == "witness" && witness["replicas"] == 9 && is_settled(&plan, 0)
    });

    running[1] = None;
    let stop = AtomicBool::new(false);
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish_all(&plan, &[0], &stop));
        publish_bulk(&plan, &[0]);
        stop.store(true, Ordering::Relaxed);
        publishing.join().unwrap()
    });
    until("a full gateway has snapshots", || !shards_with_files(&plan.data(0)).is_empty());
    let (full, witness) = (bytes_of(&plan.data(0)), bytes_of(&plan.data(2)));
    println!("bytes on disk while one is away: a full gateway {full}, the witness {witness}");
    holds_no_state(&plan.data(2));
    (running[0], running[2]) = (None, None);
    std::fs::remove_dir_all(plan.data(0)).unwrap();
    running[2] = start(2);
    running[1] = start(1);
    counted(&plan, &[1], &published);
    holds_no_state(&plan.data(2));
}

#[test]
fn a_gateway_is_emptied_and_removed_and_a_dead_one_is_removed_and_nothing_is_lost() {
    let plan = Plan::new(5);
    // Small logs, so that there are snapshots.
    let start = |i| Some(plan.started_with(i, &["log.max_segments=3"]));
    let mut running: Vec<_> = (0..5).map(start).collect();
    until("all gateways are ready", || (0..5).all(|i| plan.is_ready(i)));
    until("the directory has begun", || plan.json(0, "/v1/directory")["gateways"].is_array());

    publish_bulk(&plan, &[0, 1, 2, 3, 4]);
    let emptied = plan.path().join("data-1");
    until("gateway 2 has snapshots", || !shards_with_files(&emptied).is_empty());

    let stop = AtomicBool::new(false);
    let stay = [0, 2, 4];
    let published = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish_all(&plan, &stay, &stop));
        order(&plan, 0, "POST", "/v1/gateways/2/drain");
        until("gateway 2 holds nothing", || record(&plan, 0, 2)["replicas"] == 0);
        running[1] = None; // in the middle of deleting, more or less
        running[1] = start(1);
        until("gateway 2 has given all shards up", || {
            let (held, given_up) = marked(&emptied);
            held.is_empty() && !given_up.is_empty()
        });
        until("its disk holds nothing of them", || shards_with_files(&emptied).is_empty());
        running[1] = None;
        running[1] = start(1);
        until("gateway 2 is ready", || plan.is_ready(1));
        assert_eq!((marked(&emptied).0, shards_with_files(&emptied)), (vec![], vec![]), "after a restart");
        order(&plan, 2, "DELETE", "/v1/gateways/2");
        running[1] = None;
        until("no replica is out of place", || is_settled(&plan, 0));

        running[3] = None; // dies for good
        order(&plan, 0, "DELETE", "/v1/gateways/4");
        until("what it held is rebuilt elsewhere", || is_settled(&plan, 0));
        stop.store(true, Ordering::Relaxed);
        publishing.join().unwrap()
    });

    let check = || counted(&plan, &stay, &published);
    check();
    // What was chosen since the site began is on the disks of those that stay.
    stay.iter().for_each(|i| running[*i] = None);
    stay.iter().for_each(|i| running[*i] = start(*i));
    until("those that stay are ready", || stay.iter().all(|i| plan.is_ready(*i)));
    assert_eq!(record(&plan, 2, 2), Value::Null);
    until("the site is as it was", || is_settled(&plan, 0));
    check();
}
