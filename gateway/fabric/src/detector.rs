//! The failure detector: which peers are up, for all groups of a gateway.
//!
//! A peer is **up** while an authenticated connection to it exists, or existed so recently that it may come back,
//! and the peer is heard. It goes down
//! - after [`DETECT_MS`] of silence (heartbeats come every 100 ms), or
//! - at once when its connection was lost *and* its address refuses a new one: its machine answers, but its process
//!   is gone. A crash or `kill -9` looks like this, so failover after one does not wait for the silence.
//!
//! A connection that is merely lost changes nothing for [`DETECT_MS`].
//!
//! **This process's stall is not the peers' silence.** A process that was suspended or starved finds all its peers
//! silent. Only time in which the process ran counts: when two ticks are further apart than [`STALL_MS`], the
//! excess is added to the time when each peer was last heard. A process that always runs late detects late, but
//! never declares all peers down at once.
//!
//! **A peer with unread messages is not silent.** The caller reports it as heard while backpressure keeps its
//! connection unread.
//!
//! **Flapping** is damped mildly. The second time a peer goes down within [`FLAP_FORGET_MS`], it must hold its next
//! connection for [`HOLD_STEP_MS`] before it counts as up, the third time twice as long, up to [`HOLD_MAX_MS`]. The
//! first failure in a while costs nothing.
//!
//! A new start number shows a peer's **restart**, which is reported with the first connection to the new process,
//! even if the peer was never seen down.
//!
//! Each peer says in every frame which gateways it has up itself. The detector keeps that, of peers that are up, for
//! [`crate::reach`]. What peers say of a gateway that has just gone down here counts only after [`DETOUR_AFTER_MS`]: most
//! likely it is down for them, too, and they have not said so yet.
//!
//! Gateways come and go. A new one is down until it connects; a removed one is down from then on, and nothing that
//! it still says changes that.
//!
//! Invariant: `up` contains this gateway, and of the others only peers that are present.
//! Invariant: a peer is reported as restarted once for each start after the first one seen.
//! Invariant: what is passed on of a peer's word names only gateways that are present: at most as many as a site has.
//!
//! Left out: adaptive timeouts (phi accrual). A site is one local network, and a wrong "down" costs an election,
//! not data. The detector is a hint; safety never depends on it.

use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};

/// A peer that is silent for this long is down, in milliseconds.
pub const DETECT_MS: u64 = 500;

/// How often the caller ticks the detector, in milliseconds.
pub const TICK_MS: u64 = 100;

/// Two ticks further apart than this mean that this process did not run in between, in milliseconds.
pub const STALL_MS: u64 = 250;

/// For how long after a gateway has gone down here the others' word that they have it up does not count, in
/// milliseconds: longer than they need to notice and to say that it is down for them, too.
pub const DETOUR_AFTER_MS: u64 = 300;

/// Each time a peer stays up this long, one failure is taken off its record, in milliseconds.
pub const FLAP_FORGET_MS: u64 = 10_000;

/// How much each further failure adds to the wait before a peer counts as up again, in milliseconds.
pub const HOLD_STEP_MS: u64 = 200;

/// The longest wait before a peer counts as up again, in milliseconds.
pub const HOLD_MAX_MS: u64 = 1_000;

/// For each gateway that is up, those that it has up itself, as it said last. This gateway is not among the keys.
pub type ReachReports = BTreeMap<GatewayId, BTreeSet<GatewayId>>;

/// A change in which gateways are up, with the restarts seen and the connections to close.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// All gateways that are up now, including this one.
    pub up: BTreeSet<GatewayId>,
    /// Those whose process is another than the one last seen.
    pub restarted: Vec<GatewayId>,
    /// Those whose connection should be closed because they are down, so that both ends agree on it.
    pub cut: Vec<GatewayId>,
    /// The gateways that each peer which is up has up itself, as it said last.
    pub said: ReachReports,
}

impl Change {
    /// Merges a later change into one that was not delivered yet. For a slow receiver only the latest `up` waits,
    /// and all peers that have restarted since.
    pub fn then(&mut self, later: Self) {
        (self.up, self.said) = (later.up, later.said);
        for (all, new) in [(&mut self.restarted, later.restarted), (&mut self.cut, later.cut)] {
            all.extend(new.into_iter().filter(|p| !all.contains(p)).collect::<Vec<_>>());
        }
    }
}

#[derive(Debug, Default)]
struct Peer {
    /// The start number of the process last seen.
    start: Option<u64>,
    connected: bool,
    up: bool,
    heard_ms: u64,
    connected_ms: u64,
    /// Recent failures, which lengthen the wait before the peer counts as up again.
    failures: u64,
    /// When the last failure was, or the last one was forgiven.
    record_ms: u64,
    /// The gateways that it has up, as it said last.
    said: BTreeSet<GatewayId>,
    /// From when on the others' word counts that they have it up.
    word_counts_ms: u64,
}

impl Peer {
    fn hold_ms(&self) -> u64 {
        (self.failures.saturating_sub(1) * HOLD_STEP_MS).min(HOLD_MAX_MS)
    }
}

/// The failure detector of one gateway. All times are milliseconds of one monotonic clock.
#[derive(Debug)]
pub struct Detector {
    me: GatewayId,
    peers: BTreeMap<GatewayId, Peer>,
    tick_ms: u64,
    /// How long this process had stalled before the last tick.
    stalled_ms: u64,
}

impl Detector {
    /// A detector that takes all `peers` to be down.
    pub fn new(now: u64, me: GatewayId, peers: impl IntoIterator<Item = GatewayId>) -> Self {
        let peers = peers.into_iter().filter(|p| *p != me).map(|p| (p, Peer::default())).collect();
        Self { me, peers, tick_ms: now, stalled_ms: 0 }
    }

    /// Takes these as all peers from now on. New ones are down; those that are missing are forgotten.
    pub fn set_peers(&mut self, peers: impl IntoIterator<Item = GatewayId>) -> Option<Change> {
        let mut known = std::mem::take(&mut self.peers);
        let peers = peers.into_iter().filter(|p| *p != self.me);
        self.peers = peers.map(|p| (p, known.remove(&p).unwrap_or_default())).collect();
        let present: BTreeSet<GatewayId> = self.peers.keys().copied().chain([self.me]).collect();
        self.peers.values_mut().for_each(|p| p.said.retain(|g| present.contains(g)));
        let lost = known.values().any(|p| p.up);
        self.change(lost, vec![], vec![])
    }

    /// All gateways that are up, including this one.
    pub fn up(&self) -> BTreeSet<GatewayId> {
        let peers = self.peers.iter().filter(|(_, p)| p.up).map(|(id, _)| *id);
        peers.chain([self.me]).collect()
    }

    /// How long this process had not run when it was last ticked, in milliseconds; 0 if it ran on time.
    pub fn stalled_ms(&self) -> u64 {
        self.stalled_ms
    }

    /// Notes an authenticated connection, the first or a new one, to the process of a peer that has this start
    /// number.
    pub fn connected(&mut self, now: u64, peer: GatewayId, start: u64) -> Option<Change> {
        let p = self.peers.get_mut(&peer)?;
        let restarted = p.start.is_some_and(|known| known != start) && !canary::makes(Canary::RestartUnseen);
        p.start = Some(start);
        p.heard_ms = p.heard_ms.max(now);
        if !p.connected {
            p.connected = true;
            p.connected_ms = now;
        }
        let rose = !p.up && p.hold_ms() == 0;
        p.up |= rose;
        self.change(rose, if restarted { vec![peer] } else { vec![] }, vec![])
    }

    /// Notes that a peer's authenticated message came at that time, or waits to be read.
    pub fn heard(&mut self, at: u64, peer: GatewayId) {
        if let Some(p) = self.peers.get_mut(&peer) {
            p.heard_ms = p.heard_ms.max(at);
        }
    }

    /// Notes which gateways a peer has up, as its last frame says.
    pub fn said(&mut self, peer: GatewayId, up: &[GatewayId]) -> Option<Change> {
        let is_present = |g: &GatewayId| *g == self.me || self.peers.contains_key(g);
        let said: BTreeSet<GatewayId> = up.iter().copied().filter(is_present).collect();
        let p = self.peers.get_mut(&peer)?;
        let changed = p.said != said;
        p.said = said;
        let news = changed && p.up;
        self.change(news, vec![], vec![])
    }

    /// Notes that the connection to a peer ended.
    pub fn lost(&mut self, peer: GatewayId) {
        if let Some(p) = self.peers.get_mut(&peer) {
            p.connected = false;
        }
    }

    /// Notes that the machine at a peer's address refuses connections: no process listens there.
    pub fn refused(&mut self, now: u64, peer: GatewayId) -> Option<Change> {
        let p = self.peers.get_mut(&peer)?;
        if p.connected || !p.up {
            return None;
        }
        Self::fail(p, now);
        self.change(true, vec![], vec![])
    }

    /// Notes that time has passed. The caller does this every [`TICK_MS`], after it reported which peers were
    /// heard.
    pub fn tick(&mut self, now: u64) -> Option<Change> {
        let gap = now.saturating_sub(self.tick_ms);
        self.tick_ms = self.tick_ms.max(now);
        self.stalled_ms = if gap > STALL_MS { gap - TICK_MS } else { 0 };
        let (mut changed, mut cut) = (self.word_begins_to_count(now - gap, now), vec![]);
        if canary::makes(Canary::StallIsSilence) {
            self.stalled_ms = 0;
        }
        for (id, p) in &mut self.peers {
            p.heard_ms = p.heard_ms.saturating_add(self.stalled_ms).min(now.max(p.heard_ms));
            if p.connected || p.up {
                if now.saturating_sub(p.heard_ms) >= DETECT_MS {
                    if p.connected {
                        cut.push(*id);
                    }
                    p.connected = false;
                    if p.up {
                        Self::fail(p, now);
                        changed = true;
                    }
                } else if p.connected && !p.up && now.saturating_sub(p.connected_ms) >= p.hold_ms() {
                    p.up = true;
                    changed = true;
                }
            }
            if p.up && p.failures > 0 && now.saturating_sub(p.record_ms) >= FLAP_FORGET_MS {
                p.failures -= 1;
                p.record_ms = now;
            }
        }
        self.change(changed, vec![], cut)
    }

    fn fail(p: &mut Peer, now: u64) {
        // A long quiet time also clears the record of a peer that was down during it.
        if now.saturating_sub(p.record_ms) >= FLAP_FORGET_MS {
            p.failures = p.failures.saturating_sub(1);
        }
        p.up = false;
        p.said.clear();
        p.word_counts_ms = now + DETOUR_AFTER_MS;
        p.failures = (p.failures + 1).min(HOLD_MAX_MS / HOLD_STEP_MS + 1);
        p.record_ms = now;
    }

    /// Whether, between these times, a peer's word that it has a gateway up has begun to count.
    fn word_begins_to_count(&self, after: u64, until: u64) -> bool {
        let begins = |p: &Peer| !p.up && (after + 1..=until).contains(&p.word_counts_ms);
        let is_up_for_others = |g: &GatewayId| self.peers.values().any(|p| p.up && p.said.contains(g));
        self.peers.iter().any(|(g, p)| begins(p) && is_up_for_others(g))
    }

    fn reports(&self) -> ReachReports {
        let counts =
            |g: &&GatewayId| self.peers.get(g).is_none_or(|p| p.up || p.word_counts_ms <= self.tick_ms);
        let said = |p: &Peer| p.said.iter().filter(counts).copied().collect();
        self.peers.iter().filter(|(_, p)| p.up).map(|(id, p)| (*id, said(p))).collect()
    }

    fn change(&self, changed: bool, restarted: Vec<GatewayId>, cut: Vec<GatewayId>) -> Option<Change> {
        let any = changed || !restarted.is_empty() || !cut.is_empty();
        any.then(|| Change { up: self.up(), restarted, cut, said: self.reports() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script of lines `time event => changes` on the detector of g1 with peers g2 and g3, and compares the
    /// changes with the expected ones. `run a..b` ticks at each interval in between, hearing the peers that follow;
    /// `tick` ticks once.
    fn golden(script: &str) {
        let mut d = Detector::new(0, GatewayId(1), (1..=3).map(GatewayId));
        let mut got = String::new();
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let event = line.split("=>").next().unwrap().trim();
            let words: Vec<&str> = event.split_whitespace().collect();
            let number = |s: &str| s.parse::<u64>().unwrap();
            let peer = |i: usize| GatewayId(number(words[i]) as u16);
            let changes = match words[1] {
                "connected" => vec![d.connected(number(words[0]), peer(2), number(words[4]))],
                "heard" => {
                    d.heard(number(words[0]), peer(2));
                    vec![]
                }
                "lost" => {
                    d.lost(peer(2));
                    vec![]
                }
                "refused" => vec![d.refused(number(words[0]), peer(2))],
                "says" => {
                    let up: Vec<_> = (3..words.len()).map(peer).collect();
                    vec![d.said(peer(2), &up)]
                }
                "peers" => vec![d.set_peers((2..words.len()).map(peer))],
                "tick" => vec![d.tick(number(words[0]))],
                "run" => {
                    let (from, to) = words[0].split_once("..").unwrap();
                    let ticks = (number(from)..=number(to)).step_by(TICK_MS as usize);
                    ticks
                        .map(|now| {
                            (2..words.len()).for_each(|i| d.heard(now, peer(i)));
                            d.tick(now)
                        })
                        .collect()
                }
                other => panic!("{other}"),
            };
            let said: Vec<String> = changes.into_iter().flatten().map(|c| say(&c)).collect();
            let answer = if said.is_empty() { "-".to_string() } else { said.join("; ") };
            got += &format!("{event} => {answer}\n");
        }
        let want: String =
            script.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| format!("{l}\n")).collect();
        assert_eq!(got, want, "\n--- got ---\n{got}");
    }

    fn say(c: &Change) -> String {
        let list = |name: &str, ids: Vec<GatewayId>| {
            let ids: Vec<String> = ids.iter().map(|i| i.0.to_string()).collect();
            if ids.is_empty() { String::new() } else { format!(" {name} {}", ids.join(" ")) }
        };
        let up = list("up", c.up.iter().copied().collect());
        let told = c.said.iter().filter(|(_, up)| !up.is_empty());
        let said: Vec<String> =
            told.map(|(of, up)| list(&format!("{} has", of.0), up.iter().copied().collect())).collect();
        let changes = up + &list("restarted", c.restarted.clone()) + &list("cut", c.cut.clone());
        (changes + &said.join("")).trim().to_string()
    }

    #[test]
    fn a_silent_peer_goes_down_and_its_connection_with_it() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            0 connected 3 start 1 => up 1 2 3
            100..400 run 2 3 => -
            500..800 run 2 => -
            900..900 run 2 => up 1 2 cut 3
            1000..2000 run 2 => -
            ",
        );
    }

    #[test]
    fn whom_a_peer_has_up_is_passed_on_when_it_changes_and_forgotten_when_it_goes_down() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            0 connected 3 start 1 => up 1 2 3
            50 says 2 1 2 => up 1 2 3 2 has 1 2
            60 says 2 2 1 => -
            70 says 2 1 2 3 9 => up 1 2 3 2 has 1 2 3
            80 says 9 1 => -
            100..400 run 3 => -
            500..500 run 3 => up 1 3 cut 2
            610 says 2 1 2 3 => -
            620 connected 2 start 1 => up 1 2 3 2 has 1 2 3
            630 peers 1 2 => up 1 2 2 has 1 2
            640 says 2 1 2 3 => -
            ",
        );
    }

    #[test]
    fn the_word_of_others_for_a_gateway_that_has_just_gone_down_counts_later() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            0 connected 3 start 1 => up 1 2 3
            50 says 3 1 2 3 => up 1 2 3 3 has 1 2 3
            100..400 run 3 => -
            500..700 run 3 => up 1 3 cut 2 3 has 1 3
            800..800 run 3 => up 1 3 3 has 1 2 3
            900..2000 run 3 => -
            2050 connected 2 start 1 => up 1 2 3 3 has 1 2 3
            2060 lost 2 => -
            2070 refused 2 => up 1 3 3 has 1 3
            2100..2200 run 3 => -
            2250 says 3 1 3 => up 1 3 3 has 1 3
            ",
        );
    }

    #[test]
    fn a_lost_connection_changes_nothing_if_a_new_one_comes() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            50..500 run 2 => -
            510 lost 2 => -
            550..600 run => -
            620 connected 2 start 1 => -
            650..1000 run 2 => -
            ",
        );
    }

    #[test]
    fn a_lost_connection_that_does_not_come_back_is_silence() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            100..500 run 2 => -
            510 lost 2 => -
            600..900 run => -
            1000..1000 run => up 1
            ",
        );
    }

    #[test]
    fn a_dead_process_is_down_at_once() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            50..500 run 2 => -
            510 lost 2 => -
            511 refused 2 => up 1
            512 refused 2 => -
            550..1000 run => -
            1010 connected 2 start 2 => up 1 2 restarted 2
            ",
        );
    }

    #[test]
    fn a_refusal_beside_a_living_connection_means_nothing() {
        golden(
            "
            0 refused 2 => -
            1 connected 2 start 1 => up 1 2
            2 refused 2 => -
            50..500 run 2 => -
            ",
        );
    }

    #[test]
    fn a_restart_faster_than_the_silence_is_still_told_and_only_once() {
        golden(
            "
            0 connected 2 start 4 => up 1 2
            50..500 run 2 => -
            510 lost 2 => -
            530 connected 2 start 5 => up 1 2 restarted 2
            540 lost 2 => -
            560 connected 2 start 5 => -
            570 connected 2 start 6 => up 1 2 restarted 2
            ",
        );
    }

    /// Suspended for ten seconds: no peer goes down for it, but one that stays silent afterwards does.
    #[test]
    fn an_own_stall_is_not_the_peers_silence() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            0 connected 3 start 1 => up 1 2 3
            50..500 run 2 3 => -
            10500 tick => -
            10550..10900 run 2 => -
            10950..10950 run 2 => up 1 2 cut 3
            ",
        );
    }

    /// A message that arrived while the loop was stalled counts at its own time, not after the stall.
    #[test]
    fn a_stall_never_makes_a_peer_heard_in_the_future() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            50..500 run 2 => -
            990 heard 2 => -
            1000 tick => -
            1050..1450 run => -
            1500..1500 run => up 1 cut 2
            ",
        );
    }

    /// Starved so that it is ticked every 300 ms instead of 100: a dead peer is detected after five ticks.
    #[test]
    fn a_starved_process_detects_late_but_does_detect() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            300 tick => -
            600 tick => -
            900 tick => -
            1200 tick => -
            1500 tick => up 1 cut 2
            1800 tick => -
            ",
        );
    }

    #[test]
    fn who_flaps_must_hold_a_connection_before_it_counts() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            10 lost 2 => -
            11 refused 2 => up 1
            50..100 run => -
            100 connected 2 start 1 => up 1 2
            110 lost 2 => -
            111 refused 2 => up 1
            150..200 run => -
            200 connected 2 start 1 => -
            250..350 run 2 => -
            400..400 run 2 => up 1 2
            410 lost 2 => -
            411 refused 2 => up 1
            420 connected 2 start 2 => up 1 restarted 2
            450..800 run 2 => -
            850..850 run 2 => up 1 2
            900..20850 run 2 => -
            20860 lost 2 => -
            20861 refused 2 => up 1
            20862 connected 2 start 2 => -
            20900..21050 run 2 => -
            21100..21100 run 2 => up 1 2
            21150..61100 run 2 => -
            61110 lost 2 => -
            61111 refused 2 => up 1
            61112 connected 2 start 2 => up 1 2
            ",
        );
    }

    #[test]
    fn peers_come_and_go_while_the_others_stay_as_they_are() {
        golden(
            "
            0 connected 2 start 1 => up 1 2
            0 connected 3 start 1 => up 1 2 3
            10 peers 1 2 3 4 => -
            20 connected 4 start 1 => up 1 2 3 4
            100..400 run 2 3 4 => -
            410 peers 2 4 => up 1 2 4
            420 connected 3 start 2 => -
            500..800 run 2 3 => -
            900..900 run 2 => up 1 2 cut 4
            910 peers 2 => -
            920 peers 2 3 => -
            930 connected 3 start 2 => up 1 2 3
            940 peers => up 1
            1000..2000 run 2 3 => -
            ",
        );
    }

    #[test]
    fn strangers_are_ignored() {
        golden(
            "
            0 connected 9 start 1 => -
            0 heard 9 => -
            0 lost 9 => -
            0 refused 9 => -
            0 connected 1 start 1 => -
            ",
        );
    }
}
