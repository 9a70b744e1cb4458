//! The node's knowledge of its sites: the newest report of each gateway, silent gateways, and the leaders of shards.
//!
//! Kept in memory alone: after a restart the next reports tell it all again.
//!
//! Invariant: a report counts only if it is newer, by (start, n), than the one that is known.
//! A gateway that the site has removed and that is silent is forgotten.
//! Limits: only sites of the settings are known, each with at most [`MAX_MEMBERS`] gateways.

use selvedge_types::ids::{GatewayId, ShardId, SiteId};
use selvedge_types::report::{Led, MAX_MEMBERS, Report, ReportedMove, SILENT_MS};
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;

/// A gateway as it was last heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardGateway {
    /// When, on the node's monotonic clock.
    pub at_ms: u64,
    /// When, on the node's wall clock.
    pub at: EpochMs,
    pub report: Report,
}

impl HeardGateway {
    /// Whether reports are missing.
    pub fn is_silent(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.at_ms) > SILENT_MS
    }

    /// How long the gateway's process has run by now.
    pub fn uptime_ms(&self, now_ms: u64) -> u64 {
        self.report.uptime_ms.saturating_add(now_ms.saturating_sub(self.at_ms))
    }
}

/// What the latest reports say of one shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteShard {
    pub shard: ShardId,
    /// Its replicas, the preferred leader first.
    pub replicas: Vec<GatewayId>,
    /// The gateway that reports itself as the leader, and what it reports of the shard.
    pub led: Option<(GatewayId, Led)>,
}

/// All sites that the node serves.
#[derive(Debug, Default)]
pub struct Sites(BTreeMap<SiteId, BTreeMap<GatewayId, HeardGateway>>);

impl Sites {
    /// These sites, without any report yet.
    pub fn new(sites: impl IntoIterator<Item = SiteId>) -> Self {
        Self(sites.into_iter().map(|site| (site, BTreeMap::new())).collect())
    }

    /// A report has come. False if it does not count: it is no news, or there are too many gateways.
    pub fn hear(&mut self, now_ms: u64, now: EpochMs, site: &SiteId, report: Report) -> bool {
        let Some(gateways) = self.0.get_mut(site) else { return false };
        match gateways.get(&report.gateway) {
            Some(known) if !report.is_newer_than(&known.report) => return false,
            None if gateways.len() >= MAX_MEMBERS => {
                // A gateway that is gone makes way.
                let Some((gone, heard)) = gateways.iter().min_by_key(|(_, heard)| heard.at_ms) else {
                    return false;
                };
                if !heard.is_silent(now_ms) {
                    return false;
                }
                let gone = *gone;
                gateways.remove(&gone);
            }
            _ => {}
        }
        gateways.insert(report.gateway, HeardGateway { at_ms: now_ms, at: now, report });
        let named: Option<Vec<_>> =
            self.newest(now_ms, site).map(|newest| newest.report.members.iter().map(|m| m.gateway).collect());
        if let (Some(gateways), Some(named)) = (self.0.get_mut(site), named) {
            gateways.retain(|gateway, heard| named.contains(gateway) || !heard.is_silent(now_ms));
        }
        true
    }

    /// The sites that are served, whether or not they have reported.
    pub fn names(&self) -> impl Iterator<Item = &SiteId> {
        self.0.keys()
    }

    /// The gateways of a site that were ever heard; nothing if it is not served.
    pub fn gateways(&self, site: &SiteId) -> Option<&BTreeMap<GatewayId, HeardGateway>> {
        self.0.get(site)
    }

    /// The gateways that are not silent.
    pub fn live(&self, now_ms: u64, site: &SiteId) -> Vec<GatewayId> {
        let all = self.0.get(site).into_iter().flatten();
        all.filter(|(_, heard)| !heard.is_silent(now_ms)).map(|(gateway, _)| *gateway).collect()
    }

    /// The newest word on a site, its gateways and its moves: of the gateways that are not silent, the one that knows most of
    /// the site's directory. One that is cut off from its site may still report.
    pub fn newest(&self, now_ms: u64, site: &SiteId) -> Option<&HeardGateway> {
        let newest = |h: &&HeardGateway| (!h.is_silent(now_ms), h.report.directory_slot, h.at_ms);
        self.0.get(site)?.values().max_by_key(newest)
    }

    /// The moves under way in a site, each as the gateway tells it to which the replica moves, if that one has spoken of it.
    pub fn moves(&self, now_ms: u64, site: &SiteId) -> Vec<ReportedMove> {
        let (Some(newest), Some(heard)) = (self.newest(now_ms, site), self.gateways(site)) else {
            return vec![];
        };
        let closest = |m: &ReportedMove| {
            let comes = heard.get(&m.comes?).filter(|heard| !heard.is_silent(now_ms))?;
            let same = |own: &&ReportedMove| (own.shard, own.since) == (m.shard, m.since);
            comes.report.moves.iter().find(same).copied()
        };
        newest.report.moves.iter().map(|m| closest(m).unwrap_or(*m)).collect()
    }

    /// The shards of a site. Who is silent leads none.
    pub fn shards(&self, now_ms: u64, site: &SiteId) -> Vec<SiteShard> {
        let Some(newest) = self.newest(now_ms, site) else { return vec![] };
        let mut led: BTreeMap<ShardId, (u64, GatewayId, Led)> = BTreeMap::new();
        for (gateway, heard) in self.0.get(site).into_iter().flatten() {
            for of in heard.report.led.iter().filter(|_| !heard.is_silent(now_ms)) {
                // While a lead changes two may claim it: the later word counts.
                if led.get(&of.shard).is_none_or(|(at, ..)| *at < heard.at_ms) {
                    led.insert(of.shard, (heard.at_ms, *gateway, *of));
                }
            }
        }
        let shard = |n| {
            let (shard, replicas) = (ShardId(n), newest.report.replicas(ShardId(n)).collect());
            SiteShard { shard, replicas, led: led.get(&shard).map(|(_, gateway, of)| (*gateway, *of)) }
        };
        (0..newest.report.shards).map(shard).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use selvedge_types::report::{MovePhase, ReportedMember};

    pub fn site() -> SiteId {
        SiteId::new("plant-7").unwrap()
    }

    /// A report of a site of three gateways and two shards.
    pub fn report(gateway: u16, n: u64, leads: &[u16]) -> Report {
        let led = |shard: &u16| Led {
            shard: ShardId(*shard),
            cursor: n,
            last: n + 1,
            outbox_bytes: 5,
            waiting_parts: 0,
            waiting_ms: 0,
        };
        Report {
            gateway: GatewayId(gateway),
            start: 1,
            n,
            uptime_ms: 1_000 * n,
            at: EpochMs(0),
            release: String::new(),
            trouble: None,
            members: [1, 2, 3].map(|g| ReportedMember::active(GatewayId(g), 1)).into(),
            shards: 2,
            placed: vec![0, 1, 2, 1, 2, 0],
            led: leads.iter().map(led).collect(),
            directory_slot: 0,
            paused: false,
            moves: Vec::new(),
            connections: 0,
            acked: 0,
            questions: 0,
            question_ms: 0,
            skipped: Vec::new(),
        }
    }

    #[test]
    fn only_news_counts_and_silence_shows() {
        let mut sites = Sites::new([site()]);
        let mut hear = |now_ms, report| sites.hear(now_ms, EpochMs(0), &site(), report);
        assert!(hear(0, report(1, 5, &[0])));
        assert!(!hear(1, report(1, 5, &[1])), "replayed");
        assert!(!hear(1, report(1, 4, &[1])), "older");
        assert!(hear(SILENT_MS, report(2, 1, &[1])));
        assert!(!sites.hear(0, EpochMs(0), &SiteId::new("other").unwrap(), report(1, 1, &[])));
        assert_eq!(sites.live(SILENT_MS, &site()), [1, 2].map(GatewayId));
        assert_eq!(sites.live(SILENT_MS + 1, &site()), [GatewayId(2)]);
        let shards = sites.shards(SILENT_MS + 1, &site());
        assert_eq!(shards[0].replicas, [1, 2, 3].map(GatewayId));
        assert_eq!(shards[0].led, None, "its leader is silent");
        assert_eq!(shards[1].led.map(|(gateway, led)| (gateway, led.cursor)), Some((GatewayId(2), 1)));
        assert_eq!(sites.gateways(&site()).unwrap()[&GatewayId(1)].uptime_ms(70), 5_070);
    }

    #[test]
    fn the_later_word_on_a_lead_counts() {
        let mut sites = Sites::new([site()]);
        for (now, gateway) in [(0, 2), (1, 1), (2, 3)] {
            sites.hear(now, EpochMs(0), &site(), report(gateway, 1, if gateway == 3 { &[] } else { &[0] }));
        }
        assert_eq!(sites.shards(3, &site())[0].led.map(|(g, _)| g), Some(GatewayId(1)));
    }

    #[test]
    fn moves_are_told_by_those_who_know_best() {
        let mut sites = Sites::new([site()]);
        let with = |gateway, slot, done_bytes, since| Report {
            directory_slot: slot,
            moves: vec![ReportedMove {
                shard: Some(ShardId(1)),
                since,
                leaves: Some(GatewayId(1)),
                comes: Some(GatewayId(3)),
                phase: MovePhase::Learning,
                done_bytes,
                total_bytes: 9,
            }],
            ..report(gateway, 1, &[])
        };
        let mut hear = |now_ms, report| sites.hear(now_ms, EpochMs(0), &site(), report);
        hear(1, with(3, 7, 5, 4));
        hear(2, with(2, 8, 1, 4));
        hear(3, Report { directory_slot: 3, ..report(1, 1, &[]) });
        let done = |sites: &Sites, now_ms| {
            sites.moves(now_ms, &site()).iter().map(|m| m.done_bytes).collect::<Vec<_>>()
        };
        assert_eq!(done(&sites, 3), [5], "gateway 1 lags behind, and gateway 3 is the one that receives");
        assert_eq!(done(&sites, SILENT_MS + 2), [1], "gateway 3 is silent");
        sites.hear(4, EpochMs(0), &site(), Report { n: 2, ..with(2, 9, 2, 6) });
        assert_eq!(done(&sites, 4), [2], "another move of the shard");
    }

    #[test]
    fn a_gateway_that_was_removed_is_forgotten_once_it_is_silent() {
        let mut sites = Sites::new([site()]);
        sites.hear(0, EpochMs(0), &site(), report(3, 1, &[]));
        let without = |n| {
            let mut report = report(1, n, &[]);
            report.directory_slot = 1;
            report.members.truncate(2);
            report.placed = vec![0, 1, 1, 0];
            report
        };
        sites.hear(SILENT_MS, EpochMs(0), &site(), without(1));
        assert!(sites.gateways(&site()).unwrap().contains_key(&GatewayId(3)));
        sites.hear(SILENT_MS + 1, EpochMs(0), &site(), without(2));
        assert!(!sites.gateways(&site()).unwrap().contains_key(&GatewayId(3)));
    }

    #[test]
    fn there_is_a_most_of_gateways_and_the_one_gone_for_longest_makes_way() {
        let mut sites = Sites::new([site()]);
        for gateway in 0..MAX_MEMBERS as u16 {
            assert!(sites.hear(u64::from(gateway), EpochMs(0), &site(), report(gateway, 1, &[])));
        }
        assert!(!sites.hear(100, EpochMs(0), &site(), report(500, 1, &[])));
        assert!(sites.hear(SILENT_MS + 1, EpochMs(0), &site(), report(500, 1, &[])));
        assert!(!sites.gateways(&site()).unwrap().contains_key(&GatewayId(0)));
        assert_eq!(sites.gateways(&site()).unwrap().len(), MAX_MEMBERS);
    }
}
