//! Several nodes on one PostgreSQL, sharing the uplink through a real Mosquitto by a shared subscription. The test is the edge:
//! it seals the batches of several shards, sends what is not confirmed again and again, in any order, and believes cursors.
//! Nodes are killed and the database is restarted at moments that a seed decides; in the end every window and roll-up is what the
//! edge's parts add up to.
//!
//! Needs PostgreSQL's programs and mosquitto (on Debian: `apt-get install postgresql mosquitto`), and leaves itself out without
//! them.

mod together;

use fastrand::Rng;
use selvedge_types::aggregate::Aggregate;
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;
use std::time::Duration;
use together::{Edge, NodeProcess, Source, WIDTH_MS, get, site};
use tokio::sync::watch;

const PATIENCE_MS: u64 = 120_000;

struct Plan {
    seed: u64,
    nodes: usize,
    kills: usize,
    restarts: usize,
    shards: u16,
    batches: u64,
}

/// What of the source is not there, and what is there too often, in readings.
#[derive(Debug, Default, PartialEq)]
struct Reckoning {
    windows: usize,
    readings: u64,
    lost: u64,
    duplicated: u64,
}

/// Compares a view with what its rows should be; panics where they differ in more than their counts.
async fn reckon(
    database: &tokio_postgres::Client,
    view: &str,
    length_ms: i64,
    expected: &BTreeMap<(String, String, EpochMs), (u64, Aggregate)>,
) -> Reckoning {
    let sql = format!(
        "SELECT device, stream, (extract(epoch FROM start) * 1000)::bigint, count, sum, min, max, fingerprint, revision, p50, \
         first, last, length FROM {view}"
    );
    let mut all = Reckoning::default();
    let mut left = expected.clone();
    for row in database.query(&sql, &[]).await.unwrap() {
        let (device, stream): (String, String) = (row.get(0), row.get(1));
        let key = (device, stream, EpochMs(row.get(2)));
        let (parts, source) = left.remove(&key).unwrap_or_else(|| panic!("{view}: nobody sent {key:?}"));
        let count = row.get::<_, i64>(3) as u64;
        all.windows += 1;
        all.readings += count;
        all.lost += source.count.saturating_sub(count);
        all.duplicated += count.saturating_sub(source.count);
        assert_eq!(row.get::<_, Option<f64>>(4), source.sum(), "{view}: {key:?}");
        let got: (f64, f64, u64, u64) =
            (row.get(5), row.get(6), row.get::<_, i64>(7) as u64, row.get::<_, i64>(8) as u64);
        assert_eq!(got, (source.min, source.max, source.fingerprint, parts), "{view}: {key:?}");
        assert_eq!(row.get::<_, Option<f64>>(9), source.quantile(50), "{view}: {key:?}");
        assert_eq!((row.get(10), row.get(11)), (source.first.value, source.last.value), "{view}: {key:?}");
        assert_eq!(row.get::<_, f64>(12), length_ms as f64 / 1e3);
    }
    all.lost += left.values().map(|(_, source)| source.count).sum::<u64>();
    all
}

async fn survives(plan: Plan) {
    let Some((cluster, mosquitto)) = together::servers() else { return };
    let mut random = Rng::with_seed(plan.seed);
    let source = Source::new(&mut random, plan.shards, plan.batches);
    let mut nodes: Vec<_> =
        (0..plan.nodes).map(|_| NodeProcess::start(&cluster, &mosquitto, &source.secret)).collect();
    nodes.iter().for_each(NodeProcess::wait_until_hearing);

    let total = u64::from(plan.shards) * plan.batches;
    let (progress, mut confirmed) = watch::channel(0);
    let edge = Edge::new(&mosquitto, &source, Rng::with_seed(plan.seed + 1));
    let edge = tokio::spawn(edge.run_until_confirmed(plan.batches, 1, progress));

    let faults = plan.kills + plan.restarts;
    let (mut kills, mut restarts) = (0, 0);
    for n in 0..faults {
        let due = total * (n as u64 + 1) / (faults as u64 + 2);
        let waited = confirmed.wait_for(|now| *now >= due);
        tokio::time::timeout(Duration::from_millis(PATIENCE_MS), waited).await.expect("it goes on").unwrap();
        tokio::time::sleep(Duration::from_millis(random.u64(..60))).await;
        // Restarts lie evenly among kills.
        if (n + 1) * plan.restarts / faults > restarts {
            restarts += 1;
            cluster.stop(if random.u64(..2) == 0 { "fast" } else { "immediate" });
            cluster.start();
        } else {
            kills += 1;
            let at = random.u64(..plan.nodes as u64) as usize;
            nodes[at].kill();
            nodes[at] = NodeProcess::start(&cluster, &mosquitto, &source.secret);
        }
    }
    let sent =
        tokio::time::timeout(Duration::from_millis(PATIENCE_MS), edge).await.expect("it goes on").unwrap();

    let database = cluster.connect().await;
    let windows = reckon(&database, "windows", WIDTH_MS.into(), &source.windows()).await;
    for (view, span_ms) in [("minute", 60_000), ("hour", 3_600_000), ("day", 86_400_000)] {
        let spans = reckon(&database, view, span_ms, &source.rollups(span_ms)).await;
        assert_eq!((spans.readings, spans.lost, spans.duplicated), (windows.readings, 0, 0), "{view}");
    }
    for node in &nodes {
        let status = get(node.http(), "/v1/status");
        assert_eq!((&status["batches_applied"], &status["batches_missing"]), (&total.into(), &0.into()));
        assert_eq!(status["batches_given_up"], 0);
    }
    println!(
        "reckoning: {} nodes, {kills} kills, {restarts} database restarts, {total} batches sent {sent} times, {} windows of {} \
         readings, {} lost, {} duplicated",
        plan.nodes, windows.windows, windows.readings, windows.lost, windows.duplicated
    );
    assert_eq!((windows.lost, windows.duplicated), (0, 0));
    assert_eq!((kills, restarts), (plan.kills, plan.restarts));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_nodes_that_are_killed_count_everything_once() {
    survives(Plan { seed: 1, nodes: 2, kills: 8, restarts: 2, shards: 4, batches: 150 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_nodes_that_are_killed_count_everything_once() {
    survives(Plan { seed: 2, nodes: 3, kills: 12, restarts: 2, shards: 6, batches: 120 }).await;
}

/// The copy is older than what was confirmed and forgotten by the edge: that is missing for good, is said to be, and the rest goes
/// on. The nodes run through it all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_restored_from_an_older_copy_has_a_hole_and_goes_on() {
    let Some((cluster, mosquitto)) = together::servers() else { return };
    let mut random = Rng::with_seed(3);
    let source = Source::new(&mut random, 2, 90);
    let nodes: Vec<_> = (0..2).map(|_| NodeProcess::start(&cluster, &mosquitto, &source.secret)).collect();
    nodes.iter().for_each(NodeProcess::wait_until_hearing);
    let limit = Duration::from_millis(PATIENCE_MS);
    let send = async |upto: u64, first_kept: u64| {
        let edge = Edge::new(&mosquitto, &source, Rng::with_seed(upto));
        let (progress, _confirmed) = watch::channel(0);
        tokio::time::timeout(limit, edge.run_until_confirmed(upto, first_kept, progress))
            .await
            .expect("it goes on");
    };
    send(30, 1).await;
    cluster.stop("fast");
    cluster.copy();
    cluster.start();
    // New devices come with every batch, so that the numbers of their series mean others in the older copy.
    send(60, 31).await;
    cluster.stop("fast");
    cluster.restore();
    cluster.start();
    send(90, 61).await;

    let database = cluster.connect().await;
    let sql = "SELECT shard, first_batch, last_batch, batches FROM holes WHERE site = $1 ORDER BY shard";
    let holes = database.query(sql, &[&site().as_str()]).await.unwrap();
    let holes: Vec<(i32, i64, i64, i64)> =
        holes.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    assert_eq!(holes, [(0, 31, 60, 30), (1, 31, 60, 30)]);
    for node in &nodes {
        let status = get(node.http(), "/v1/status");
        assert_eq!((&status["batches_given_up"], &status["batches_missing"]), (&60.into(), &0.into()));
        assert_eq!(status["sites"][0]["shards"][0]["given_up"], 30);
    }
    let windows = reckon(&database, "windows", WIDTH_MS.into(), &source.windows_but(31..=60)).await;
    assert_eq!((windows.lost, windows.duplicated), (0, 0));
}
