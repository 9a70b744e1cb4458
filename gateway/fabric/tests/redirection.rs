//! Which clients are sent to other gateways: golden traces, and what holds for any clients.

use selvedge_fabric::directory::*;
use selvedge_fabric::redirection::*;
use selvedge_types::balance::Policy;
use selvedge_types::ids::GatewayId;
use selvedge_types::time::ElapsedMs;
use std::collections::BTreeSet;
use std::fmt::Write;

fn other(id: u16, weight: u32) -> Destination {
    Destination { gateway: GatewayId(id), weight, mqtt: format!("g{id}:1883") }
}

/// Gateway 1, of weight 1, and others.
fn site(is_draining: bool, others: Vec<Destination>) -> DeviceSite {
    DeviceSite { is_draining, weight: u32::from(!is_draining), others }
}

struct Script {
    core: Redirection,
    now_ms: u64,
    connections: u64,
    number: u64,
    trace: String,
}

impl Script {
    fn new(policy: Option<Policy>) -> Self {
        let core = Redirection::new(policy);
        Self { core, now_ms: 0, connections: 0, number: 0, trace: String::new() }
    }

    fn site(&mut self, site: DeviceSite) {
        self.core.site(self.now_ms, site);
    }

    fn connects(&mut self, client: &str, v5: bool) -> bool {
        self.number += 1;
        let arrival = Arrival { connection: self.number, client, v5 };
        let to = self.core.arrives(self.now_ms, 7, arrival, self.connections);
        self.connections += u64::from(to.is_none());
        self.says(&format!("{client} connects"), to.clone());
        to.is_none()
    }

    fn leaves(&mut self, client: &str, v5: bool) -> Option<Elsewhere> {
        let to = self.core.leaves(self.now_ms, 7, client, v5);
        self.connections -= u64::from(to.is_some());
        let said = match &to {
            None => "stays".into(),
            Some(Elsewhere { reference }) => format!("to {}", reference.as_deref().unwrap_or("anywhere")),
        };
        let _ = writeln!(self.trace, "{client} leaves: {said}");
        to
    }

    fn says(&mut self, what: &str, to: Option<Elsewhere>) {
        let said = match to {
            None => "accepted".into(),
            Some(Elsewhere { reference }) => format!("to {}", reference.as_deref().unwrap_or("anywhere")),
        };
        let _ = writeln!(self.trace, "{what}: {said}");
    }

    fn reads(&self, golden: &str) {
        let tidy =
            |text: &str| text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n");
        assert_eq!(tidy(&self.trace), tidy(golden), "\n{}", self.trace);
    }
}

#[test]
fn a_drain_sends_clients_away_once_and_takes_those_back_that_return() {
    let mut s = Script::new(None);
    s.site(site(false, vec![other(2, 1), other(3, 1)]));
    for client in ["press", "oven", "pump"] {
        s.connects(client, client != "oven");
    }
    assert_eq!(s.core.due(0), None, "it does not drain");
    s.site(site(true, vec![other(2, 1), other(3, 1)]));
    s.now_ms = 1_000;
    assert_eq!(s.core.due(s.now_ms), Some(DrainDue { up_to: 3, most: 200 }));
    s.leaves("press", true);
    s.leaves("oven", false);
    s.leaves("pump", true);
    s.connects("press", true);
    s.connects("oven", false);
    s.connects("new", true);
    s.connects("new", true);
    s.connects("", true);
    s.connects("old", false);
    s.reads(
        "press connects: accepted
         oven connects: accepted
         pump connects: accepted
         press leaves: to g3:1883 g2:1883
         oven leaves: to anywhere
         pump leaves: to g2:1883 g3:1883
         press connects: accepted
         oven connects: accepted
         new connects: to g3:1883 g2:1883
         new connects: accepted
         connects: accepted
         old connects: accepted",
    );
    // Those that came during the drain stay.
    assert_eq!(s.core.due(2_000).unwrap().up_to, 3);
    // A drain that ends and begins again has them leave too: they are only accepted when they come back.
    s.site(site(false, vec![other(2, 1)]));
    assert_eq!(s.core.due(2_000), None);
    s.site(site(true, vec![other(2, 1)]));
    s.now_ms = 3_000;
    assert_eq!(s.core.due(s.now_ms).unwrap().up_to, s.number);
    assert!(s.leaves("press", true).is_some());
    assert!(s.connects("press", true));
}

#[test]
fn a_drain_keeps_its_rate_and_does_not_make_up_for_more_than_a_second() {
    let mut s = Script::new(None);
    s.site(site(false, vec![other(2, 1)]));
    (0..1_000).for_each(|n| assert!(s.connects(&format!("c{n}"), true)));
    s.site(site(true, vec![other(2, 1)]));
    let (mut gone, mut clients) = (0, (0..1_000).map(|n| format!("c{n}")));
    for step in 1..=10 {
        // Steps of 100 ms, with one of 5 s between them.
        s.now_ms += if step == 6 { 5_000 } else { 100 };
        let most = s.core.due(s.now_ms).map_or(0, |due| due.most);
        assert!(most <= DRAIN_CLIENTS_PER_S as usize);
        clients.by_ref().take(most).for_each(|c| drop(s.leaves(&c, true)));
        gone += most;
        assert_eq!(s.core.due(s.now_ms), None, "the rate is used up");
    }
    assert_eq!(gone, 20 * 9 + 200);
}

#[test]
fn nobody_is_sent_away_where_no_other_gateway_takes_devices() {
    let mut s = Script::new(Some(Policy::LeastLoaded));
    s.connects("press", true);
    s.site(site(true, vec![]));
    s.now_ms = 10_000;
    assert_eq!(s.core.due(s.now_ms), None);
    assert!(s.leaves("press", true).is_none());
    assert!(s.connects("new", true));
    // It drains, and one is there that has announced no address: clients find it by themselves, or come back.
    s.site(site(true, vec![Destination { mqtt: String::new(), ..other(2, 1) }]));
    assert_eq!(s.leaves("press", true), Some(Elsewhere { reference: None }));
    // To be balanced, clients must be told where to go.
    s.site(site(false, vec![Destination { mqtt: String::new(), ..other(2, 1) }]));
    s.core.counted(s.now_ms, GatewayId(2), 0);
    s.connections = 500;
    assert!(s.connects("another", true));
}

#[test]
fn more_than_a_share_and_a_quarter_goes_elsewhere_by_weight() {
    let mut s = Script::new(Some(Policy::LeastLoaded));
    s.site(site(false, vec![other(2, 1), other(3, 2)]));
    s.core.counted(0, GatewayId(2), 20);
    s.core.counted(0, GatewayId(3), 20);
    let accepted = (0..100).filter(|n| s.connects(&format!("c{n}"), true)).count() as u64;
    // 140 connections on weights of 1, 1 and 2: 35 a weight, and a quarter more of it here.
    let (mine, elsewhere) = (s.connections, 100 - accepted);
    assert_eq!(mine + elsewhere, 100);
    assert!((36..=44).contains(&mine), "{mine}");
    let first: Vec<_> = ["to g2", "to g3"].map(|to| s.trace.matches(to).count() as u64).into();
    assert_eq!(first.iter().sum::<u64>(), elsewhere);
    // What was sent there counts there at once, so both come near their shares.
    assert!(
        (33..=37).contains(&(20 + first[0])) && (65..=72).contains(&(20 + first[1])) || elsewhere < 60,
        "{first:?}"
    );
    // Version 3 is never sent away, and who returns is accepted.
    assert!(s.connects("old", false));
    let sent = s.trace.lines().find(|l| l.contains("to g")).unwrap().split(' ').next().unwrap().to_string();
    assert!(s.connects(&sent, true));
}

#[test]
fn a_gateway_with_few_connections_or_no_news_of_others_accepts_everybody() {
    let mut s = Script::new(Some(Policy::PowerOfTwo));
    s.site(site(false, vec![other(2, 1)]));
    s.core.counted(0, GatewayId(2), 0);
    (0..MIN_BALANCED_ENTRIES).for_each(|n| assert!(s.connects(&format!("c{n}"), true), "{n}"));
    assert!(!s.connects("one more", true));
    s.now_ms = COUNT_FRESH_MS;
    assert!(s.connects("when the count is old", true));
    s.core.counted(s.now_ms, GatewayId(2), 100);
    assert!(s.connects("when others have more", true));
    s.core.counted(s.now_ms, GatewayId(2), 0);
    s.site(site(false, vec![]));
    assert!(s.connects("when the other is away", true));
    s.site(site(false, vec![other(2, 1)]));
    assert!(s.connects("when its count was forgotten meanwhile", true));
    s.core.counted(s.now_ms, GatewayId(9), 0);
    assert!(s.connects("when somebody unknown has none", true));
    let mut off = Script::new(None);
    off.site(site(false, vec![other(2, 1)]));
    off.core.counted(0, GatewayId(2), 0);
    (0..1_000).for_each(|n| assert!(off.connects(&format!("c{n}"), true), "{n}"));
}

#[test]
fn what_is_remembered_is_bounded_and_expires_and_no_client_loops() {
    let mut s = Script::new(None);
    s.site(site(true, vec![other(2, 1)]));
    let sent = (0..MAX_SENT_AWAY_ENTRIES + 1_000).filter(|n| !s.connects(&format!("c{n}"), true)).count();
    assert_eq!(sent, MAX_SENT_AWAY_ENTRIES, "who can't be remembered is accepted");
    (0..1_000).for_each(|n| assert!(s.connects(&format!("c{n}"), true)));
    assert!(s.leaves("somebody else", true).is_none(), "and stays");
    assert!(s.leaves("somebody older", false).is_some(), "version 3 need not be remembered");
    s.now_ms = SENT_AWAY_MS;
    assert!(!s.connects("c1", true), "after an hour it may be sent away again");
    assert!(s.connects("c1", true));
}

#[test]
fn a_reference_is_bounded_and_holds_what_clients_can_take_apart() {
    let mut s = Script::new(None);
    let long = "x".repeat(250);
    let others = (2..40).map(|id| Destination { mqtt: format!("{long}{id}:1883"), ..other(id, 1) }).collect();
    s.site(site(true, others));
    let arrival = Arrival { connection: 1, client: "c", v5: true };
    let reference = s.core.arrives(0, 7, arrival, 0).unwrap().reference.unwrap();
    assert!(reference.len() <= MAX_REFERENCE_BYTES && reference.split(' ').count() == 3, "{reference}");
    s.site(site(true, (2..40).map(|id| other(id, 1)).collect()));
    let arrival = Arrival { connection: 2, client: "d", v5: true };
    let reference = s.core.arrives(0, 7, arrival, 0).unwrap().reference.unwrap();
    assert_eq!(reference.split(' ').count(), MAX_REFERENCE_ENTRIES);
}

#[test]
fn the_directory_the_links_and_the_disks_say_who_takes_devices() {
    let first = |id| FirstGateway { id: GatewayId(id), weight: u32::from(id), peer: format!("g{id}:7081") };
    let genesis = Genesis { shards: 4, replicas: 3, gateways: (1..=6).map(first).collect() };
    let mut directory = Directory::genesis(&genesis).unwrap();
    let mut tell = |slot, command| drop(directory.apply(slot, ElapsedMs(slot), None, &command));
    for (id, mqtt) in [(2, "g2:1883"), (3, "g3 1883"), (4, "g4:1883"), (5, "g5:1883"), (6, "g6:1883")] {
        let addresses =
            GatewayAddresses { peer: format!("g{id}:7081"), mqtt: mqtt.into(), http: String::new() };
        let (key, incarnation) = (GatewayKey([id as u8; 32]), id.into());
        let announcement = Announcement {
            gateway: GatewayId(id),
            incarnation,
            key,
            addresses,
            zone: None,
            level: FIRST_LEVEL,
        };
        tell(u64::from(id), DirectoryCommand::Announce(Box::new(announcement)));
    }
    tell(9, DirectoryCommand::Drain { gateway: GatewayId(4) });
    let (up, full) = (BTreeSet::from([1, 2, 3, 4, 5].map(GatewayId)), [GatewayId(5)]);
    let seen = DeviceSite::of(&directory, GatewayId(1), &up, &full);
    let usable = Destination { gateway: GatewayId(2), weight: 2, mqtt: "g2:1883".into() };
    // The address of 3 is none that a list separated by spaces could hold; 4 drains, 5 is full, 6 is out of reach.
    let nowhere = Destination { gateway: GatewayId(3), weight: 3, mqtt: String::new() };
    assert_eq!(seen, DeviceSite { is_draining: false, weight: 1, others: vec![usable, nowhere] });
    let seen = DeviceSite::of(&directory, GatewayId(4), &up, &full);
    assert_eq!((seen.is_draining, seen.weight), (true, 0));
    assert_eq!(seen.others.iter().map(|o| o.gateway.0).collect::<Vec<_>>(), [1, 2, 3]);
}
