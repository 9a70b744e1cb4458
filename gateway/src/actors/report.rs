//! The state of the gateway as a whole: for operators, and as reports to the nodes.

use crate::actors::clock::SiteClock;
use crate::actors::directory_copy::DirectoryCopy;
use crate::actors::fullness;
use crate::actors::messages::shard::{GetStatus, ShardReport};
use crate::actors::messages::switch::{Ask, AskTable, GetPeers};
use crate::actors::messages::uplink::{GetLoad, SendReport};
use crate::actors::pulse;
use crate::actors::replicas::Replicas;
use crate::actors::ways::Ways;
use crate::front::Front;
use actix::Recipient;
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::site_state::ReplicaRole;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::report::{self, Led, MAX_SKIPPED_FIELDS, REPORT_MS, Report};
use selvedge_types::time::EpochMs;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::sync::Notify;

/// How long changes gather before an early report; also the shortest time between two reports.
const GATHER_MS: u64 = 1_000;

/// Access to the parts of the gateway whose state is reported.
#[derive(Clone)]
pub struct Overview {
    /// The placement of shards on gateways.
    pub ring: Arc<Ring>,
    pub front: Arc<Front>,
    pub clock: Arc<SiteClock>,
    /// The directory as far as this gateway has applied it.
    pub directory: Arc<DirectoryCopy>,
    /// For departures of connections and operators' orders.
    pub ways: Arc<Ways>,
    pub replicas: Arc<Replicas>,
    /// To the switch: which gateways are up.
    pub peers: Recipient<GetPeers>,
    /// To the switch: questions about recent windows.
    pub ask: Recipient<Ask>,
    /// To the switch: questions about tables.
    pub ask_table: Recipient<AskTable>,
}

impl Overview {
    /// The state of each shard with a replica here. The directory group is none.
    pub async fn reports(&self) -> Vec<ShardReport> {
        let mut reports = self.group_reports().await;
        reports.retain(|r| !r.is_directory());
        reports
    }

    /// The state of each shard with a replica here, and of the directory group.
    pub async fn group_reports(&self) -> Vec<ShardReport> {
        let replicas = self.replicas.all();
        let mut reports = Vec::with_capacity(replicas.len());
        for replica in replicas.values() {
            reports.extend(replica.status.send(GetStatus).await);
        }
        reports
    }

    /// The gateways that are up, this one among them.
    pub async fn up(&self) -> BTreeSet<GatewayId> {
        self.peers.send(GetPeers).await.unwrap_or_default()
    }

    /// Why the gateway can't do its work now, if it can't.
    pub fn trouble(&self, reports: &[ShardReport], up: &BTreeSet<GatewayId>) -> Option<String> {
        if let Some(why) = self.front.trouble() {
            return Some(why.to_string());
        }
        let ring = self.directory.ring();
        let reachable = |s: &ShardId| {
            let replicas = ring.replicas(*s);
            replicas.iter().filter(|r| up.contains(r)).count() > replicas.len() / 2
        };
        let lost = (0..ring.shards()).map(ShardId).filter(|s| !reachable(s)).count();
        if lost > 0 {
            return Some(format!("{lost} shards have no majority of their replicas within reach"));
        }
        // A replica that does not vote yet, or no more, may know no leader while the shard has one.
        let member = |r: &&ShardReport| !matches!(r.status.role, ReplicaRole::Learner | ReplicaRole::Retired);
        let leaderless = reports.iter().filter(member).filter(|r| r.status.leader.is_none()).count();
        if leaderless > 0 {
            return Some(format!("{leaderless} shards have no leader yet"));
        }
        self.clock.is_agreeing().then(|| "the gateways are agreeing on the time".to_string())
    }

    /// Conditions that an operator should fix, though the gateway does its work.
    pub fn warnings(&self, reports: &[ShardReport]) -> Vec<String> {
        let mut warnings = fullness::warnings(reports);
        if !self.clock.now().sure {
            warnings.push("no majority of the gateways agrees on the time: set their clocks right".into());
        }
        let outside = self.clock.outside();
        if !outside.is_empty() {
            let ids: Vec<_> = outside.iter().map(|g| g.0.to_string()).collect();
            warnings.push(format!("the clocks of gateways {} are off: set them right", ids.join(", ")));
        }
        warnings
    }
}

/// Waits for the next multiple of a period, when other periodic work wakes the process too.
async fn next(period_ms: u64) {
    tokio::time::sleep_until(pulse::at((pulse::now_ms() / period_ms + 1) * period_ms)).await;
}

/// Sends reports to the nodes, and logs warnings.
pub struct Reporter {
    pub me: GatewayId,
    /// The number of this start of the process.
    pub start: u64,
    pub members: Vec<Member>,
    pub overview: Overview,
    /// To the uplink: how busy it is, while the broker is connected.
    pub load: Recipient<GetLoad>,
    /// To the uplink: reports to send.
    pub uplink: Recipient<SendReport>,
    /// Woken when a change should be reported soon.
    pub changed: Arc<Notify>,
    /// The origin of the reported uptime.
    pub epoch: Instant,
}

impl Reporter {
    /// Runs as long as the gateway; sends reports while the broker is connected.
    pub async fn run(self) {
        let (mut n, mut warned) = (0, Vec::new());
        loop {
            tokio::select! {
                () = next(REPORT_MS) => {}
                () = self.changed.notified() => next(GATHER_MS).await,
            }
            let reports = self.overview.reports().await;
            self.overview.ways.departures().sweep();
            Self::warn(&reports, &mut warned);
            // The uplink answers only while the broker is connected.
            if let Some(load) = self.load.send(GetLoad).await.ok().flatten() {
                n += 1;
                let report = self.make(n, load, reports).await;
                self.uplink.do_send(SendReport(report));
            }
        }
    }

    /// Logs a warning when a rule has come near its bound since the last look.
    fn warn(reports: &[ShardReport], warned: &mut Vec<&'static str>) {
        let near = fullness::fullest(reports).into_iter().filter(|(_, f)| f.is_near());
        let near: Vec<_> = near.map(|(_, f)| f.rule).collect();
        if near.iter().any(|rule| !warned.contains(rule)) {
            for warning in fullness::warnings(reports) {
                tracing::warn!("near a bound: {warning}");
            }
        }
        *warned = near;
    }

    async fn make(&self, n: u64, (questions, question_ms): (u32, u32), reports: Vec<ShardReport>) -> Report {
        let ring = self.overview.directory.ring();
        let up = self.overview.up().await;
        let now = EpochMs::from(SystemTime::now());
        let led = |r: &ShardReport| Led {
            shard: ShardId(r.status.shard),
            cursor: r.status.last_batch.saturating_sub(r.status.outbox_batches),
            last: r.status.last_batch,
            outbox_bytes: r.status.outbox_bytes,
            waiting_parts: r.status.waiting_parts,
            waiting_ms: r.status.waiting_ms.unwrap_or(0),
        };
        let place = |g: &GatewayId| self.members.iter().position(|m| m.id == *g).unwrap_or_default() as u8;
        let member = |m: &Member| report::ReportedMember { gateway: m.id, weight: m.weight };
        Report {
            gateway: self.me,
            start: self.start,
            n,
            uptime_ms: u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX),
            at: now,
            release: env!("CARGO_PKG_VERSION").to_string(),
            trouble: self.overview.trouble(&reports, &up).map(|why| report::shown(&why)),
            members: self.members.iter().map(member).collect(),
            shards: ring.shards(),
            placed: (0..ring.shards()).map(ShardId).flat_map(|s| ring.replicas(s)).map(place).collect(),
            led: reports.iter().filter(|r| r.status.role == ReplicaRole::Leader).map(led).collect(),
            connections: self.overview.front.connections() as u64,
            acked: self.overview.front.acked(),
            questions,
            question_ms,
            skipped: self.overview.front.last_skipped(MAX_SKIPPED_FIELDS),
        }
    }
}
