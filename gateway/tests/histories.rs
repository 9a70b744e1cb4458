//! Histories of concurrent publishes and linearizable queries on real gateways, checked for linearizability: on three
//! while gateways are killed, stopped and cut off from each other, and while all boxes of a site are exchanged.
//!
//! Several sets at a time, each of them a device's stream: two publishers add elements (QoS 1, numbered, resent at
//! another gateway until acknowledged), and three readers, one at each gateway, query it all the time. This process
//! records all operations, with one clock. `SELVEDGE_HISTORY_SECONDS=600` makes the run longer.

mod histories {
    pub mod checker;
    pub mod clients;
    pub mod wires;
}
#[path = "gateways/growing.rs"]
mod growing;
#[path = "gateways/site.rs"]
mod site;

use growing::{invite, is_settled, record};
use histories::checker::{Op, check};
use histories::clients::{MAX_ELEMENTS, Publisher, read};
use histories::wires::Wires;
use serde_json::json;
use site::{Plan, Running, until};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const GATEWAYS: usize = 3;
/// Sets that are written and read at the same time.
const LANES: usize = 4;
const WRITERS: usize = 2;
/// The length of a run in seconds, unless the environment says otherwise.
const SECONDS: u64 = 20;
/// How long a gateway is stopped or cut off: the others give it up after half a second.
const FAULT: Duration = Duration::from_millis(1_500);
/// How long a killed gateway is away.
const AWAY: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    Pause,
    /// It and one other gateway do not hear each other.
    Pair,
    /// No gateway hears it.
    Mute,
    /// It hears no other gateway.
    Deaf,
    /// Both of these; clients can reach it all the time.
    Island,
}

const FAULTS: [Fault; 6] = [Fault::Pause, Fault::Island, Fault::Kill, Fault::Mute, Fault::Pair, Fault::Deaf];

/// Three gateways whose links go through relays.
struct Site {
    plan: Plan,
    wires: std::sync::Arc<Wires>,
    running: Vec<Option<Running>>,
}

impl Site {
    fn start() -> Self {
        let (wires, listeners) = Wires::new(GATEWAYS);
        let ports: Vec<Vec<u16>> = listeners
            .iter()
            .map(|row| row.iter().map(|l| l.local_addr().unwrap().port()).collect())
            .collect();
        let plan = Plan::wired(GATEWAYS, |from, to| ports[from][to]);
        for (from, row) in listeners.into_iter().enumerate() {
            for (to, listener) in row.into_iter().enumerate() {
                wires.serve(listener, from, to, plan.peer[to]);
            }
        }
        let running = (0..GATEWAYS).map(|i| Some(plan.started(i))).collect();
        let site = Self { plan, wires, running };
        site.wait_whole();
        site
    }

    fn wait_whole(&self) {
        until("all gateways are ready", || (0..GATEWAYS).all(|i| self.plan.is_ready(i)));
    }

    /// A random gateway among those that lead.
    fn leading(&self) -> usize {
        let leads = |i: &usize| self.plan.json(*i, "/v1/status")["totals"]["leading"].as_u64() > Some(0);
        fastrand::choice((0..GATEWAYS).filter(leads).collect::<Vec<_>>()).unwrap_or(0)
    }

    fn suffer(&mut self, fault: Fault) {
        let me = self.leading();
        let others = || (0..GATEWAYS).filter(|i| *i != me);
        match fault {
            Fault::Kill => {
                self.running[me] = None;
                std::thread::sleep(AWAY);
                self.running[me] = Some(self.plan.started(me));
            }
            Fault::Pause => {
                let gateway = self.running[me].as_ref().unwrap();
                gateway.pause();
                std::thread::sleep(FAULT);
                gateway.resume();
            }
            Fault::Pair | Fault::Mute | Fault::Deaf | Fault::Island => {
                let cut = if fault == Fault::Pair {
                    others().take(1).collect()
                } else {
                    others().collect::<Vec<_>>()
                };
                for other in cut {
                    if fault != Fault::Deaf {
                        self.wires.cut(me, other);
                    }
                    if fault != Fault::Mute {
                        self.wires.cut(other, me);
                    }
                }
                std::thread::sleep(FAULT);
                self.wires.mend();
            }
        }
        self.wait_whole();
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.wires.end();
    }
}

/// How far a run has come.
#[derive(Default)]
struct Progress {
    over: AtomicBool,
    /// The first gateway that writers turn to: those before it are gone, or leave, and wait for their devices to go.
    first: AtomicUsize,
}

/// One set, with the history of its operations.
struct Object {
    device: String,
    next: AtomicU32,
    history: Mutex<Vec<Op>>,
}

fn think(most_ms: u64) {
    std::thread::sleep(Duration::from_millis(fastrand::u64(1..=most_ms)));
}

impl Object {
    fn new(n: u32) -> Self {
        Self { device: format!("set-{n}"), next: AtomicU32::new(0), history: Mutex::new(Vec::new()) }
    }

    fn note(&self, op: Op) {
        self.history.lock().unwrap().push(op);
    }

    /// Adds elements until there are no more, or the run is over.
    fn write(&self, plan: &Plan, writer: usize, run: &Progress) {
        let mut publisher = Publisher::new(format!("{}-{writer}", self.device));
        let all = plan.mqtt.len();
        let any = || fastrand::usize(run.first.load(Ordering::Relaxed)..all);
        let mut gateway = any();
        let topic = format!("d/{}/x", self.device);
        while !run.over.load(Ordering::Relaxed) {
            let element = self.next.fetch_add(1, Ordering::Relaxed);
            if element >= MAX_ELEMENTS {
                return;
            }
            let value = 1u64 << element;
            let payload = format!("{{\"value\":{value},\"ts\":1764000000000,\"seq\":{element},\"boot\":1}}");
            let invoked = Instant::now();
            let mut answered = None;
            // Once the run is over it gets a few more attempts; then its outcome stays unknown.
            let mut left = 5;
            while answered.is_none() && left > 0 {
                match publisher.publish(plan.mqtt[gateway], &topic, &payload) {
                    Ok(()) => answered = Some(Instant::now()),
                    Err(_) => gateway = any(),
                }
                left -= u32::from(run.over.load(Ordering::Relaxed));
            }
            self.note(Op::Add { element, invoked, answered });
            think(80);
        }
    }

    fn read(&self, plan: &Plan, gateway: usize) {
        let invoked = Instant::now();
        if let Ok(elements) = read(plan.http[gateway], &self.device) {
            self.note(Op::Read { elements, invoked, answered: Instant::now() });
        }
    }

    /// Two writers, and a reader at each gateway, until all elements are in or the run is over.
    fn work(&self, plan: &Plan, run: &Progress) {
        let writing = AtomicU32::new(WRITERS as u32);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let writing = &writing;
                scope.spawn(move || {
                    self.write(plan, writer, run);
                    writing.fetch_sub(1, Ordering::Relaxed);
                });
            }
            for gateway in 0..plan.http.len() {
                let writing = &writing;
                scope.spawn(move || {
                    while writing.load(Ordering::Relaxed) > 0 {
                        self.read(plan, gateway);
                        think(40);
                    }
                });
            }
        });
    }
}

/// Two runs at once would measure each other's load.
static ALONE: Mutex<()> = Mutex::new(());

/// Has clients work on several sets at a time while `suffer` runs. Then every gateway that is left must return the same
/// sets, with everything that was acknowledged. Returns the sets with their histories.
fn run(plan: &Plan, left: &[usize], suffer: impl FnOnce(&AtomicUsize)) -> Vec<Object> {
    let (progress, names) = (Progress::default(), AtomicU32::new(0));
    let objects = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while !progress.over.load(Ordering::Relaxed) {
                    let object = Object::new(names.fetch_add(1, Ordering::Relaxed));
                    object.work(plan, &progress);
                    objects.lock().unwrap().push(object);
                }
            });
        }
        // If this thread panics, the others must still be asked to end.
        let suffered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| suffer(&progress.first)));
        progress.over.store(true, Ordering::Relaxed);
        if let Err(panic) = suffered {
            std::panic::resume_unwind(panic);
        }
    });
    let objects = objects.into_inner().unwrap();
    for object in &objects {
        for gateway in left {
            until("a gateway of a whole site answers", || {
                let before = object.history.lock().unwrap().len();
                object.read(plan, *gateway);
                object.history.lock().unwrap().len() > before
            });
        }
    }
    objects
}

/// Fails if the history of a set is not linearizable.
fn checked(objects: &[Object]) {
    let (mut adds, mut unknown, mut reads) = (0, 0, 0);
    for object in objects {
        let history = object.history.lock().unwrap();
        for op in history.iter() {
            match op {
                Op::Add { answered: Some(_), .. } => adds += 1,
                Op::Add { answered: None, .. } => unknown += 1,
                Op::Read { .. } => reads += 1,
            }
        }
        check(&history).unwrap_or_else(|why| panic!("{} is not linearizable: {why}", object.device));
    }
    let sets = objects.len();
    println!("{sets} sets: {adds} adds acknowledged, {unknown} of unknown outcome, {reads} reads");
    assert!(adds > 100 && reads > 100, "enough was done to mean something: {adds} adds, {reads} reads");
}

#[test]
fn real_gateways_are_linearizable_while_they_are_killed_stopped_and_cut_off() {
    let seconds =
        std::env::var("SELVEDGE_HISTORY_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(SECONDS);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut site = Site::start();
    let mut faults = Vec::new();
    let plan = site.plan.clone();
    let objects = run(&plan, &[0, 1, 2], |_| {
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end || faults.len() < FAULTS.len() {
            let fault = FAULTS[faults.len() % FAULTS.len()];
            site.suffer(fault);
            faults.push(fault);
            think(500);
        }
    });
    checked(&objects);
    assert_eq!(faults.iter().collect::<BTreeSet<_>>().len(), FAULTS.len(), "each kind of fault was met");
}

/// All shards move, from the three boxes with which a site begins to three others. The first box has died, the others run
/// while they are replaced. Meanwhile the newest gateway is killed, and a leader pauses.
#[test]
fn real_gateways_are_linearizable_while_shards_move_to_other_boxes() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let plan = Plan::growing(3, 6);
    let mut running: Vec<_> = (0..6).map(|i| (i < 3).then(|| plan.started(i))).collect();
    until("all gateways are ready", || (0..3).all(|i| plan.is_ready(i)));
    until("the directory has begun", || plan.json(0, "/v1/directory")["gateways"].is_array());
    let objects = run(&plan, &[3, 4, 5], |first| {
        running[0] = None;
        first.store(1, Ordering::Relaxed);
        invite(&plan, 1, 3, &json!({ "replaces": 1 }));
        running[3] = Some(plan.started(3));
        until("gateway 4 holds something", || record(&plan, 1, 4)["replicas"].as_u64() > Some(0));
        running[3] = None;
        running[3] = Some(plan.started(3));
        until("gateway 4 has taken its place", || record(&plan, 1, 1).is_null() && is_settled(&plan, 1));

        first.store(2, Ordering::Relaxed);
        invite(&plan, 1, 4, &json!({ "replaces": 2 }));
        running[4] = Some(plan.started(4));
        until("gateway 5 holds something", || record(&plan, 2, 5)["replicas"].as_u64() > Some(0));
        let leader = running[2].as_ref().unwrap();
        leader.pause();
        std::thread::sleep(FAULT);
        leader.resume();
        until("gateway 5 has taken its place", || record(&plan, 3, 2).is_null() && is_settled(&plan, 3));
        running[1] = None;

        first.store(3, Ordering::Relaxed);
        invite(&plan, 3, 5, &json!({ "replaces": 3 }));
        running[5] = Some(plan.started(5));
        until("gateway 6 has taken its place", || record(&plan, 4, 3).is_null() && is_settled(&plan, 4));
        running[2] = None;
        until("those that stay are ready", || (3..6).all(|i| plan.is_ready(i)));
    });
    checked(&objects);
}
