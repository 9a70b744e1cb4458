//! The state of the gateway as a whole: for operators, and as reports to the nodes.

use crate::actors::clock::SiteClock;
use crate::actors::directory_copy::DirectoryCopy;
use crate::actors::fullness;
use crate::actors::link::PeerLinks;
use crate::actors::messages::shard::{GetStatus, ShardReport};
use crate::actors::messages::switch::{Ask, AskTable, GetPeers, PeersWithin};
use crate::actors::messages::uplink::{GetLoad, SendReport};
use crate::actors::pulse;
use crate::actors::replicas::Replicas;
use crate::actors::ways::Ways;
use crate::front::Front;
use actix::Recipient;
use selvedge_fabric::directory::{DIRECTORY_GROUP, Directory, GatewayRole, GatewayState, ShardMove};
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::site_state::{ReplicaRole, TransferProgress};
use selvedge_log::storage::LogFigures;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::report::{
    self, Led, MAX_MEMBERS, MAX_REPORTED_MOVES_ENTRIES, MAX_SKIPPED_FIELDS, MovePhase, REPORT_MS, Report,
    ReportedMember, ReportedMove, ReportedState,
};
use selvedge_types::time::EpochMs;
use std::collections::{BTreeMap, BTreeSet};
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
    pub links: PeerLinks,
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

    /// The gateways within reach, this one among them.
    pub async fn within_reach(&self) -> PeersWithin {
        self.peers.send(GetPeers).await.unwrap_or_default()
    }

    /// The gateways within reach, whether or not by a detour, this one among them.
    pub async fn up(&self) -> BTreeSet<GatewayId> {
        self.within_reach().await.all()
    }

    /// Why the gateway can't do its work now, if it can't.
    pub fn trouble(&self, reports: &[ShardReport], reach: &PeersWithin) -> Option<String> {
        if let Some(why) = self.links.removed() {
            return Some(format!("this gateway was removed from the site; another gateway says: {why}"));
        }
        if let Some(why) = self.front.trouble() {
            return Some(why.to_string());
        }
        let ring = self.directory.ring();
        let reachable = |s: &ShardId| {
            let replicas = ring.replicas(*s);
            replicas.iter().filter(|r| reach.contains(r)).count() > replicas.len() / 2
        };
        let lost = (0..ring.shards()).map(ShardId).filter(|s| !reachable(s)).count();
        if lost > 0 {
            return Some(format!("{lost} shards have no majority of their replicas within reach"));
        }
        // A replica that does not vote yet, or no more, may know no leader while the shard has one.
        let member = |r: &&ShardReport| !matches!(r.status.role, ReplicaRole::Learner | ReplicaRole::Retired);
        // Nor does a follower whose leader may be one that it reaches only by a detour. The shard serves nevertheless, and
        // if it does not, the front is in trouble.
        let led_afar = |r: &ShardReport| {
            r.status.members.iter().any(|m| reach.by_detour.contains_key(&GatewayId(m.gateway)))
        };
        let leaderless =
            reports.iter().filter(member).filter(|r| r.status.leader.is_none() && !led_afar(r)).count();
        if leaderless > 0 {
            return Some(format!("{leaderless} shards have no leader yet"));
        }
        self.clock.is_agreeing().then(|| "the gateways are agreeing on the time".to_string())
    }

    /// Conditions that an operator should fix, though the gateway does its work.
    pub fn warnings(&self, reports: &[ShardReport], log: &LogFigures) -> Vec<String> {
        let mut warnings = fullness::warnings(reports);
        warnings.extend(long_log(log));
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

/// Warns of a log that grows because it can't be trimmed: on a witness, while a full gateway is away.
fn long_log(log: &LogFigures) -> Option<String> {
    let (hours, mib) = (log.room_for_hours?, log.overlong_bytes.div_ceil(1024 * 1024));
    Some(format!(
        "the log keeps {mib} MiB more than log.max_segments allows, and the disk has room for {hours} more hours like the last: \
         bring gateways that are away back, or remove them"
    ))
}

/// Waits for the next multiple of a period, when other periodic work wakes the process too.
async fn next(period_ms: u64) {
    tokio::time::sleep_until(pulse::at((pulse::now_ms() / period_ms + 1) * period_ms)).await;
}

/// The members and places of a report ([`Report::placed`]). A gateway that was removed is a member as long as replicas are
/// placed there. While replicas move, some shards have fewer than others: their first place is repeated.
fn placement(ring: &Ring, mut members: Vec<ReportedMember>) -> (Vec<ReportedMember>, Vec<u8>) {
    let shards = || (0..ring.shards()).map(|shard| ring.replicas(ShardId(shard)));
    for gateway in shards().flatten() {
        if members.iter().all(|m| m.gateway != *gateway) && members.len() < MAX_MEMBERS {
            members
                .push(ReportedMember { state: ReportedState::Gone, ..ReportedMember::active(*gateway, 1) });
        }
    }
    let most = shards().map(<[GatewayId]>::len).max().unwrap_or(0);
    let place = |g: &GatewayId| members.iter().position(|m| m.gateway == *g).unwrap_or_default() as u8; // at most MAX_MEMBERS
    let padded = |replicas: &[GatewayId]| {
        let first = replicas.first().copied();
        let all = replicas.iter().copied().chain(first.into_iter().cycle()).take(most);
        all.map(|g| place(&g)).collect::<Vec<_>>()
    };
    let placed = shards().flat_map(padded).collect();
    (members, placed)
}

/// The site's gateways, as the directory has them.
fn members(directory: &Directory) -> Vec<ReportedMember> {
    let mut wanted: BTreeMap<GatewayId, u16> = BTreeMap::new();
    for (shard, _) in directory.configurations().filter(|(shard, _)| *shard != DIRECTORY_GROUP) {
        for gateway in directory.wanted(shard) {
            *wanted.entry(gateway).or_default() += 1;
        }
    }
    let state = |state| match state {
        GatewayState::Joining => ReportedState::Joining,
        GatewayState::Active => ReportedState::Active,
        GatewayState::Draining => ReportedState::Draining,
        GatewayState::Gone => ReportedState::Gone,
    };
    let living = directory.gateways().map(|(gateway, record)| ReportedMember {
        gateway,
        weight: record.weight,
        state: state(record.state),
        zone: record.zone.clone(),
        witness: record.role == GatewayRole::Witness,
        wanted: wanted.get(&gateway).copied().unwrap_or(0),
    });
    living.take(MAX_MEMBERS).collect()
}

/// The moves under way. The directory notes their progress only now and then; `here` is how far the replicas of this gateway are
/// that receive a transfer.
fn moves(
    directory: &Directory,
    me: GatewayId,
    here: &BTreeMap<ShardId, TransferProgress>,
) -> Vec<ReportedMove> {
    let reported = |(shard, m): (&ShardId, &ShardMove)| {
        let noted = TransferProgress { done_bytes: m.done_bytes, total_bytes: m.total_bytes };
        let own = here.get(shard).filter(|own| m.comes == Some(me) && own.total_bytes > 0);
        let TransferProgress { done_bytes, total_bytes } = own.copied().unwrap_or(noted);
        let phase = match m.comes {
            None => MovePhase::Stopping,
            Some(_) if total_bytes == 0 => MovePhase::Waiting,
            Some(_) if done_bytes < total_bytes => MovePhase::Learning,
            Some(_) => MovePhase::Stopping,
        };
        ReportedMove {
            shard: Some(*shard).filter(|shard| *shard != DIRECTORY_GROUP),
            since: m.since,
            leaves: m.leaves,
            comes: m.comes,
            phase,
            done_bytes: done_bytes.min(total_bytes),
            total_bytes,
        }
    };
    directory.moves().iter().map(reported).take(MAX_REPORTED_MOVES_ENTRIES).collect()
}

/// Sends reports to the nodes, and logs warnings.
pub struct Reporter {
    pub me: GatewayId,
    /// The number of this start of the process.
    pub start: u64,
    /// The gateways with which the site began, until there is a copy of the directory.
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
            let mut reports = self.overview.group_reports().await;
            let progress = |r: &ShardReport| (ShardId(r.status.shard), r.status.transfer);
            let transfers = reports.iter().map(progress).collect();
            reports.retain(|r| !r.is_directory());
            self.overview.ways.departures().sweep();
            Self::warn(&reports, &mut warned);
            // The uplink answers only while the broker is connected.
            if let Some(load) = self.load.send(GetLoad).await.ok().flatten() {
                n += 1;
                let report = self.make(n, load, reports, transfers).await;
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

    async fn make(
        &self,
        n: u64,
        (questions, question_ms): (u32, u32),
        reports: Vec<ShardReport>,
        transfers: BTreeMap<ShardId, TransferProgress>,
    ) -> Report {
        let ring = self.overview.directory.ring();
        let reach = self.overview.within_reach().await;
        let now = EpochMs::from(SystemTime::now());
        let led = |r: &ShardReport| Led {
            shard: ShardId(r.status.shard),
            cursor: r.status.last_batch.saturating_sub(r.status.outbox_batches),
            last: r.status.last_batch,
            outbox_bytes: r.status.outbox_bytes,
            waiting_parts: r.status.waiting_parts,
            waiting_ms: r.status.waiting_ms.unwrap_or(0),
        };
        let directory = self.overview.directory.get();
        let first = || self.members.iter().map(|m| ReportedMember::active(m.id, m.weight)).collect();
        let (members, placed) = placement(&ring, directory.as_deref().map_or_else(first, members));
        Report {
            gateway: self.me,
            start: self.start,
            n,
            uptime_ms: u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX),
            at: now,
            release: env!("CARGO_PKG_VERSION").to_string(),
            trouble: self.overview.trouble(&reports, &reach).map(|why| report::shown(&why)),
            members,
            shards: ring.shards(),
            placed,
            led: reports.iter().filter(|r| r.status.role == ReplicaRole::Leader).map(led).collect(),
            directory_slot: directory.as_ref().map_or(0, |d| d.slot()),
            paused: directory.as_ref().is_some_and(|d| d.is_paused()),
            moves: directory.as_ref().map(|d| moves(d, self.me, &transfers)).unwrap_or_default(),
            connections: self.overview.front.connections() as u64,
            acked: self.overview.front.acked(),
            questions,
            question_ms,
            skipped: self.overview.front.last_skipped(MAX_SKIPPED_FIELDS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selvedge_fabric::directory::{DirectoryCommand, FirstGateway, Genesis};
    use selvedge_fabric::ring::ReplicaSet;
    use selvedge_types::time::ElapsedMs;

    #[test]
    fn a_log_that_grows_is_warned_of_once_it_is_known_for_how_long_there_is_room() {
        let figures = |room_for_hours| LogFigures {
            overlong_bytes: 3 * 1024 * 1024,
            room_for_hours,
            ..LogFigures::default()
        };
        assert_eq!(long_log(&figures(None)), None);
        let warning = long_log(&figures(Some(40))).unwrap();
        assert!(warning.contains("3 MiB") && warning.contains("40 more hours"), "{warning}");
    }

    #[test]
    fn a_report_names_all_who_hold_replicas_while_these_move() {
        let member = |id| Member { id: GatewayId(id), weight: 1 };
        let reported = |id| ReportedMember::active(GatewayId(id), 1);
        let ring = Ring::new(2, &[1, 2, 3].map(member), 3).unwrap();
        let moved = ReplicaSet { configuration: 2, members: vec![GatewayId(3), GatewayId(2)] };
        let ring = ring.placed([(ShardId(1), moved)]);
        // Gateway 1 was removed, and gateway 4 has joined.
        let (members, placed) = placement(&ring, [2, 3, 4].map(reported).into());
        let ids: Vec<_> = members.iter().map(|m| m.gateway.0).collect();
        assert_eq!(ids, [2, 3, 4, 1]);
        assert_eq!(members[3].state, ReportedState::Gone);
        let report = Report {
            gateway: GatewayId(2),
            start: 1,
            n: 1,
            uptime_ms: 0,
            at: EpochMs(0),
            release: String::new(),
            trouble: None,
            members,
            shards: 2,
            placed,
            led: Vec::new(),
            directory_slot: 0,
            paused: false,
            moves: Vec::new(),
            connections: 0,
            acked: 0,
            questions: 0,
            question_ms: 0,
            skipped: Vec::new(),
        };
        assert_eq!(selvedge_types::sealed::Sealable::check(&report), Ok(()));
        let replicas: Vec<_> = [0, 1].map(|s| report.replicas(ShardId(s)).collect::<Vec<_>>()).into();
        assert_eq!(replicas[1], [GatewayId(3), GatewayId(2)]);
        assert_eq!(replicas[0].len(), 3);
    }

    #[test]
    fn a_report_has_states_and_moves_as_the_directory_does() {
        let first = |n| FirstGateway { id: GatewayId(n), weight: 1, peer: format!("10.0.0.{n}:7081") };
        let genesis = Genesis { shards: 4, replicas: 3, gateways: (1..=4).map(first).collect() };
        let mut directory = Directory::genesis(&genesis).unwrap();
        let leaves = directory.configuration(ShardId(0)).unwrap().voters[0];
        directory.apply(1, ElapsedMs(1), None, &DirectoryCommand::Drain { gateway: leaves });
        let comes = *directory
            .wanted(ShardId(0))
            .iter()
            .find(|g| !directory.configuration(ShardId(0)).unwrap().voters.contains(g))
            .unwrap();
        let begin = DirectoryCommand::BeginMove {
            shard: ShardId(0),
            leaves: Some(leaves),
            comes: Some(comes),
            configuration: 1,
        };
        directory.apply(2, ElapsedMs(2), None, &begin);
        let said = members(&directory);
        let draining = said.iter().find(|m| m.gateway == leaves).unwrap();
        assert_eq!((draining.state, draining.wanted), (ReportedState::Draining, 0));
        assert_eq!(said.iter().map(|m| m.wanted).sum::<u16>(), 12, "three replicas for each of four shards");
        let (none, own) = (BTreeMap::new(), TransferProgress { done_bytes: 3, total_bytes: 9 });
        let here = BTreeMap::from([(ShardId(0), own)]);
        let phase =
            |me, here| moves(&directory, me, here).first().map(|m| (m.phase, m.done_bytes, m.total_bytes));
        assert_eq!(phase(comes, &none), Some((MovePhase::Waiting, 0, 0)));
        assert_eq!(phase(comes, &here), Some((MovePhase::Learning, 3, 9)));
        assert_eq!(
            phase(leaves, &here),
            Some((MovePhase::Waiting, 0, 0)),
            "its own replicas receive no transfer of this move"
        );
        let note = DirectoryCommand::Progress { shard: ShardId(0), since: 2, done_bytes: 9, total_bytes: 9 };
        directory.apply(3, ElapsedMs(3), None, &note);
        assert_eq!(moves(&directory, leaves, &none)[0].phase, MovePhase::Stopping);
    }
}
