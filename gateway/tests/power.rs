//! Power cuts on the files of a real gateway.
//!
//! A gateway (a site of one, so that its acknowledgements rest on its disk alone) runs under `strace`, which records
//! everything that it does to its files, while clients publish; it is killed, recovers and continues. Afterwards the
//! test simulates a power cut at many moments of that run: it builds the folder as it could be found on disk, with
//! unsynced bytes lost, kept or torn, and starts a real gateway on it. Every reading that was acknowledged before that
//! moment must be counted, no reading that was sent after it may be, and the gateway must accept further ones.
//!
//! A second test does the same with a site of three that loses power as a whole, and of which two gateways come back:
//! there acknowledgements rest on votes, and a vote that left before it was on disk shows.
//!
//! The gateway itself takes no part in this: a sync of a file or a folder that was forgotten shows, wherever it is.
//! `SELVEDGE_POWER_CUTS=2000` makes the test longer.

#[path = "histories/clients.rs"]
mod clients;
mod power {
    pub mod disk;
    pub mod trace;
}
#[path = "gateways/site.rs"]
mod site;

use clients::{Publisher, read};
use power::disk::{Crash, Disk};
use power::trace::{Act, CALLS, Event, Reader};
use selvedge_fabric::machine::Machine;
use selvedge_fabric::shard::MAX_SNAPSHOT_BYTES;
use selvedge_log::{BatchStore, RealDisk, SnapshotStore};
use selvedge_types::ids::ShardId;
use serde_json::Value;
use site::{Plan, Running, until};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The number of moments at which the power is cut, each in three ways, unless the environment says otherwise.
const CUTS: usize = 20;
/// The shards of the site.
const SHARDS: u16 = 8;
/// Devices whose readings are checked one by one, and how many readings each sends in one life of the gateway.
const SETS: u32 = 4;
const ELEMENTS: u32 = 12;
/// The pause between two readings, so that they continue while other things happen.
const PACE: Duration = Duration::from_millis(80);
/// Publishes that fill the log, so that it gets new segments, snapshots and trimming.
const BULK: u32 = 120;

/// Small bounds have large effects: the log asks for snapshots soon, and idle streams close their windows, which become
/// batches.
const RULES: [&str; 6] =
    ["--set", "log.max_segments=3", "--set", "rules.idle_close_ms=300", "--set", "rules.cut_after_ms=100"];

/// A reading, with the times at which it was sent and acknowledged, in seconds since 1970.
struct Sent {
    set: u32,
    element: u32,
    sent: f64,
    acked: f64,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn device(set: u32) -> String {
    format!("set-{set}")
}

fn publish(port: u16, publisher: &mut Publisher, topic: &str, payload: &str) {
    until("a publish is acknowledged", || publisher.publish(port, topic, payload).is_ok());
}

fn add(port: u16, publisher: &mut Publisher, set: u32, element: u32) {
    let value = 1u64 << element;
    let payload = format!("{{\"value\":{value},\"ts\":1764000000000,\"seq\":{element},\"boot\":1}}");
    publish(port, publisher, &format!("d/{}/x", device(set)), &payload);
}

/// Whether the first gateway has written a snapshot and a batch.
fn has_all(plan: &Plan) -> bool {
    let holds = |name: &str| {
        std::fs::read_dir(plan.path().join("data-0").join(name)).is_ok_and(|mut files| files.next().is_some())
    };
    holds("snapshots") && holds("batches")
}

/// Publishes at all gateways during their `life`th life.
fn work(plan: &Plan, life: u32) -> Vec<Sent> {
    let all = Mutex::new(Vec::new());
    let port = |n: u32| plan.mqtt[n as usize % plan.mqtt.len()];
    std::thread::scope(|scope| {
        for set in 0..SETS {
            let all = &all;
            scope.spawn(move || {
                let mut publisher = Publisher::new(format!("set-{set}"));
                for element in life * ELEMENTS..(life + 1) * ELEMENTS {
                    let sent = now();
                    add(port(set), &mut publisher, set, element);
                    all.lock().unwrap().push(Sent { set, element, sent, acked: now() });
                    std::thread::sleep(PACE);
                }
            });
        }
        for bulk in 0..2 {
            scope.spawn(move || {
                let mut publisher = Publisher::new(format!("bulk-{bulk}"));
                // The log holds the names of streams in full.
                let keys: Vec<_> =
                    (0..160).map(|n| format!("\"{}{n:03}\":1", "stream-".repeat(10))).collect();
                let payload = format!("{{{}}}", keys.join(","));
                // Until there is a file of each kind: the log checks every second whether it must be trimmed.
                for n in (0..).take_while(|n| *n < BULK || !has_all(plan)) {
                    assert!(n < 100 * BULK, "no snapshots and batches, whatever is published");
                    let topic = format!("d/bulk-{life}-{bulk}-{}", n / 10);
                    publish(port(bulk), &mut publisher, &topic, &payload);
                }
            });
        }
    });
    all.into_inner().unwrap()
}

/// Runs all gateways under strace through two lives. Returns what each did to its data folder, and what was sent.
fn record(plan: &Plan) -> (Vec<Vec<Event>>, Vec<Sent>) {
    let count = plan.mqtt.len();
    let mut readers: Vec<Reader> = (0..count).map(|_| Reader::default()).collect();
    let mut sent = Vec::new();
    for life in 0..2 {
        let trace = |i: usize| plan.path().join(format!("trace-{i}-{life}"));
        let start = |i: usize| {
            let gateway = plan.command(i);
            let mut strace = Command::new("strace");
            strace.args(["-f", "--seccomp-bpf", "-y", "-ttt", "-xx", "-s", "16777216", "-e", "signal=none"]);
            strace.arg("-e").arg(format!("trace={CALLS}")).arg("-o").arg(trace(i));
            strace.arg(gateway.get_program()).args(gateway.get_args()).args(RULES);
            Running::spawn(strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
        };
        let mut traced: Vec<Running> = (0..count).map(start).collect();
        until("all gateways are ready", || (0..count).all(|i| plan.is_ready(i)));
        sent.extend(work(plan, life));
        traced.iter_mut().for_each(Running::kill_child);
        for (i, reader) in readers.iter_mut().enumerate() {
            reader.read(&std::fs::read_to_string(trace(i)).unwrap());
        }
    }
    let root = plan.path().to_str().unwrap();
    let own = |(i, reader): (usize, Reader)| {
        let data = Disk::new(&format!("{root}/data-{i}"));
        // A sync of the parent folder makes the name of this folder durable.
        let within = |e: &Event| {
            data.concerns(&e.act)
                || matches!(&e.act, Act::SyncBegins(_, p) | Act::SyncEnds(_, p) if p == root)
        };
        let events: Vec<Event> = reader.events.into_iter().filter(within).collect();
        assert_reproduces(plan, i, &events);
        events
    };
    (readers.into_iter().enumerate().map(own).collect(), sent)
}

/// Every file that a gateway left must follow from what was recorded, or images would not be what a disk can hold.
fn assert_reproduces(plan: &Plan, gateway: usize, events: &[Event]) {
    let mut disk = Disk::new(plan.path().to_str().unwrap());
    events.iter().for_each(|e| disk.act(&e.act));
    let image = tempfile::tempdir().unwrap();
    disk.image(Crash::Kept, image.path());
    let name = format!("data-{gateway}");
    let (real, image) = (files(&plan.path().join(&name)), files(&image.path().join(&name)));
    assert_eq!(real.keys().collect::<Vec<_>>(), image.keys().collect::<Vec<_>>(), "the files of {name}");
    for (path, bytes) in real {
        assert!(image[&path] == bytes, "{name}/{}: other bytes than recorded", path.display());
    }
}

/// All files below a folder, with their bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(within) = folders.pop() {
        for entry in std::fs::read_dir(folder.join(&within)).unwrap().map(Result::unwrap) {
            let path = within.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(path),
                false => drop(found.insert(path, std::fs::read(entry.path()).unwrap())),
            }
        }
    }
    found
}

/// Each batch that the newest snapshot of a shard lists must be there as it was cut: no other gateway may have it.
/// Returns the number of batches.
fn check_batches(data: &Path, case: &str) -> u64 {
    let (snapshots, batches) = (data.join("snapshots"), data.join("batches"));
    if !snapshots.is_dir() || !batches.is_dir() {
        return 0; // they are made in this order, before any reading is accepted
    }
    let identity: Value =
        serde_json::from_slice(&std::fs::read(data.join("identity.json")).unwrap()).unwrap();
    let incarnation = identity["incarnation"].as_str().and_then(|text| u128::from_str_radix(text, 16).ok());
    let identity = incarnation.unwrap().to_le_bytes();
    let disk = |path| Arc::new(RealDisk::open(path).unwrap());
    let snapshots = SnapshotStore::open(disk(snapshots), identity, MAX_SNAPSHOT_BYTES).unwrap();
    let batches = BatchStore::open(disk(batches), identity).unwrap();
    let mut found = 0;
    for shard in 0..SHARDS {
        let newest = snapshots.load_newest(shard).unwrap_or_else(|e| panic!("{case}: {e}"));
        let Some((_, bytes)) = newest else { continue };
        let machine = Machine::restore(ShardId(shard), Arc::default(), &bytes).unwrap();
        let outbox = machine.outbox_stats();
        for seq in outbox.cursor + 1..=outbox.last {
            let content = batches.get(shard, seq).unwrap_or_else(|e| panic!("{case}: {e}"));
            let record = machine.batch_record(seq).unwrap();
            let sound = content.is_some_and(|content| record.matches(&content));
            assert!(sound, "{case}: batch {seq} of shard {shard} is in a snapshot and not on disk");
            found += 1;
        }
    }
    found
}

/// The output of a gateway, printed when a check fails.
struct Said(PathBuf);

impl Drop for Said {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}:\n{}", self.0.display(), std::fs::read_to_string(&self.0).unwrap_or_default());
        }
    }
}

/// Starts the gateways on their images and compares what they count with what was acknowledged before the power cut.
/// Nothing that was sent after `end` can be there.
fn check(plan: &Plan, images: &[(usize, PathBuf)], cut: f64, end: Option<f64>, sent: &[Sent], case: &str) {
    let start = |(i, image): &(usize, PathBuf)| {
        let mut command = plan.command(*i);
        command.args(RULES).arg("--set").arg(format!("gateway.data_dir={}", image.display()));
        let said = Said(image.with_extension("said"));
        (Running::spawn(command.stderr(File::create(&said.0).unwrap())), said)
    };
    let _gateways: Vec<(Running, Said)> = images.iter().map(start).collect();
    until(case, || images.iter().all(|(i, _)| plan.is_ready(*i)));
    for set in 0..SETS {
        let at = images[set as usize % images.len()].0;
        let (http, mqtt) = (plan.http[at], plan.mqtt[at]);
        let mut counted = None;
        until("a query is answered", || {
            counted = read(http, &device(set)).ok();
            counted.is_some()
        });
        let counted = counted.unwrap_or(0);
        for of in sent.iter().filter(|of| of.set == set) {
            let there = counted >> of.element & 1 == 1;
            assert!(there || of.acked >= cut, "{case}: set {set} lost {} that was acknowledged", of.element);
            let late = end.is_some_and(|end| of.sent >= end);
            assert!(!(there && late), "{case}: set {set} counts {} that was sent later", of.element);
        }
        // One more element, which was never sent before.
        add(mqtt, &mut Publisher::new(format!("after-{set}")), set, 2 * ELEMENTS);
        let all = counted | 1 << (2 * ELEMENTS);
        until("it is counted", || read(http, &device(set)).is_ok_and(|elements| elements == all));
    }
}

/// Moments between two acts: half of them in the busy stream of commits, half near rarer acts.
fn moments(events: &[Event], count: usize, chance: &mut fastrand::Rng) -> Vec<usize> {
    let name = |e: &Event| !matches!(e.act, Act::Write(..) | Act::SyncBegins(..) | Act::SyncEnds(..));
    let near = |i: &usize| events[i.saturating_sub(4)..(i + 2).min(events.len())].iter().any(name);
    let (rare, usual): (Vec<usize>, Vec<usize>) = (0..events.len()).partition(near);
    let mut chosen = chance.choose_multiple(rare, count / 2);
    chosen.extend(chance.choose_multiple(usual, count - count / 2));
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// How often the power is cut, and a random generator whose seed is printed.
fn cuts(most: usize) -> (usize, u64) {
    let cuts = std::env::var("SELVEDGE_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(most);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    (cuts, seed)
}

#[test]
#[ignore = "needs strace (on Debian: apt-get install strace), and leave to trace its own children"]
fn whatever_a_power_cut_leaves_of_a_real_gateways_files_holds_all_that_was_acknowledged() {
    let plan = Plan::new(1);
    let (mut events, sent) = record(&plan);
    let events = events.remove(0);
    let met = |what: &str| events.iter().filter(|e| format!("{:?}", e.act).contains(what)).count();
    println!(
        "{} acts on files: {} writes, {} syncs, {} files of snapshots, {} of batches, {} segments removed; {} readings",
        events.len(),
        met("Write("),
        met("SyncEnds("),
        events.iter().filter(|e| matches!(&e.act, Act::Rename(_, p) if p.contains("/snapshots/"))).count(),
        events.iter().filter(|e| matches!(&e.act, Act::Create(p) if p.contains("/batches/"))).count(),
        events.iter().filter(|e| matches!(&e.act, Act::Remove(p) if p.contains("/log/"))).count(),
        sent.len()
    );
    assert!(met("SyncEnds(") > 20 && met("/snapshots/") > 0 && met("/batches/") > 0, "enough was recorded");
    let (cuts, seed) = cuts(CUTS);
    let mut chance = fastrand::Rng::with_seed(seed);
    let moments = moments(&events, cuts, &mut chance);
    let mut disk = Disk::new(plan.path().to_str().unwrap());
    let (mut next, mut batches) = (0, 0);
    for (i, event) in events.iter().enumerate() {
        if moments.get(next) == Some(&i) {
            next += 1;
            for how in [Crash::Lost, Crash::Torn(chance.u64(..)), Crash::Torn(chance.u64(..))] {
                let image = tempfile::tempdir().unwrap();
                disk.image(how, image.path());
                let case =
                    format!("seed {seed}, before act {i} ({:.60}), {how:?}", format!("{:?}", event.act));
                let data = image.path().join("data-0");
                batches += check_batches(&data, &case);
                check(&plan, &[(0, data)], event.time, Some(event.time), &sent, &case);
            }
        }
        disk.act(&event.act);
    }
    let (cuts, images) = (moments.len(), 3 * moments.len());
    println!("{cuts} power cuts, {images} gateways started on what they left, {batches} batches read there");
}

#[test]
#[ignore = "needs strace (on Debian: apt-get install strace), and leave to trace its own children"]
fn a_site_that_went_dark_keeps_all_that_was_acknowledged_even_if_a_gateway_never_comes_back() {
    let plan = Plan::new(3);
    let (events, sent) = record(&plan);
    let (cuts, seed) = cuts(CUTS);
    let mut chance = fastrand::Rng::with_seed(seed);
    let mut done = 0;
    for moment in moments(&events[0], cuts, &mut chance) {
        // All lose power at the same time, and one never comes back. If one lost it later than the others, it would
        // hold what they sent after that, and remember a start of theirs that never came to be.
        let gone = chance.usize(0..events.len());
        let cut = events[0][moment].time;
        let images = tempfile::tempdir().unwrap();
        let mut data = Vec::new();
        let how = [Crash::Lost, Crash::Torn(chance.u64(..))][usize::from(chance.bool())];
        for (i, events) in events.iter().enumerate() {
            let mut disk = Disk::new(plan.path().to_str().unwrap());
            let before = events.iter().take_while(|e| e.time < cut).count();
            events.iter().take(before).for_each(|e| disk.act(&e.act));
            let to = images.path().join(i.to_string());
            disk.image(how, &to);
            data.push((i, to.join(format!("data-{i}"))));
        }
        data.remove(gone);
        let case =
            format!("seed {seed}, before act {moment} of gateway 1, {how:?}, without gateway {}", gone + 1);
        check(&plan, &data, cut, None, &sent, &case);
        done += 1;
    }
    println!("{done} times two of three gateways started on what a power cut left");
}
