//! Sessions, where scripts (`session_scripts.rs`) can't express it, or not in few words: outcomes that a shard
//! rarely gives, bounds, and fields of submitted items.

mod support {
    pub mod site;
}

use selvedge_fabric::decode::Decoder;
use selvedge_fabric::forward::{Forwardable, SettledItem, Ticket};
use selvedge_fabric::machine::{
    ConnectOutcome, DisconnectItem, DueWill, Item, ItemOutcome, Judged, MAX_FILTER_BYTES, MAX_WILL_BYTES,
    Quarantined, Reason, SessionWill, SetAside,
};
use selvedge_fabric::session::{MAX_QOS0_PENDING, Session, SessionEffects};
use selvedge_fabric::wills::{WILLS, Waited, WillPublisher};
use selvedge_types::ids::ShardId;
use selvedge_types::mqtt::{
    AckCode, Answer, CloseReason, Closed, Connect, Inbound, Publish, QoS, Subscription, Version, Will,
};
use selvedge_types::topic::Filter;
use std::num::NonZeroU16;
use support::site::{BEGIN, ORIGIN, Site};

const DONE: ItemOutcome = ItemOutcome::Judged(Judged { counted: 1, recognised: 0, set_aside: Vec::new() });

struct Script {
    site: Site,
    session: Session,
    out: SessionEffects,
    /// Items submitted and not settled.
    open: Vec<(ShardId, u64, Forwardable)>,
}

impl Script {
    fn new() -> Self {
        let (site, session) = (Site::new(), Session::new(5));
        Self { site, session, out: SessionEffects::default(), open: Vec::new() }
    }

    /// A session that is open, as version 5 or 3.1.1, with this expiry.
    fn open(version: Version, expiry_s: u32, touched: &[u16]) -> Self {
        let mut s = Self::new();
        s.connect(version, expiry_s);
        let touched = touched.to_vec();
        let found = ConnectOutcome { instance: 3, epoch: 8, touched, expiry_s, ..ConnectOutcome::default() };
        s.settle(0, ItemOutcome::Connected(Box::new(found)));
        s.out = SessionEffects::default();
        s
    }

    fn connect(&mut self, version: Version, expiry_s: u32) {
        self.connect_as("pump", version, expiry_s, None);
    }

    fn connect_as(&mut self, client: &str, version: Version, expiry_s: u32, will: Option<Will>) {
        let (client_id, clean) = (client.into(), expiry_s == 0);
        let (username, password) = (None, None);
        let connect =
            Connect { client_id, version, clean, expiry_s, keepalive_s: 0, will, username, password };
        self.inbound(Inbound::Connect(Box::new(connect)));
    }

    fn inbound(&mut self, event: Inbound) {
        let site = self.site.at(ORIGIN, BEGIN, &listens);
        self.session.inbound(site, event, &mut self.out);
        self.collect();
    }

    fn refuse(&mut self) {
        let site = self.site.at(ORIGIN, BEGIN, &listens);
        self.session.refuse(site, &mut self.out);
    }

    fn collect(&mut self) {
        for (shard, ticket, item) in self.out.submit.drain(..) {
            assert_eq!(ticket.connection, 5);
            self.open.push((shard, ticket.token, item));
        }
    }

    /// Settles the `i`-th submitted item.
    fn settle(&mut self, i: usize, outcome: ItemOutcome) {
        let (shard, token, _) = self.open.remove(i);
        let site = self.site.at(ORIGIN, BEGIN.plus(5_000), &listens);
        let settled = SettledItem { ticket: Ticket { connection: 5, token }, shard, slot: 7, outcome };
        self.session.settled(site, settled, &mut self.out);
        self.collect();
    }

    fn publish(&mut self, token: u64, qos: QoS, topic: &str, payload: &str) {
        self.publish_or_resend(token, qos, topic, payload, false);
    }

    fn publish_or_resend(&mut self, token: u64, qos: QoS, topic: &str, payload: &str, dup: bool) {
        let packet_id = (qos != QoS::AtMostOnce).then(|| NonZeroU16::new(token as u16).unwrap());
        let (topic, payload) = (topic.into(), payload.to_string().into());
        self.inbound(Inbound::Publish(Publish { token, topic, payload, qos, dup, retain: false, packet_id }));
    }

    fn close(&mut self, will: Option<Will>) {
        self.leave(will, None);
    }

    fn leave(&mut self, will: Option<Will>, expiry_s: Option<u32>) {
        let closed = Closed { reason: CloseReason::Gone, will, expiry_s, undelivered: Vec::new() };
        self.inbound(Inbound::Closed(Box::new(closed)));
    }

    /// The answers since the last call.
    fn said(&mut self) -> String {
        let said = self.out.answers.drain(..).map(|answer| match answer {
            Answer::Accept(a) => format!("accept {}", a.session_present),
            Answer::Refuse(why) => format!("refuse {why:?}"),
            Answer::Subscribed { token, refused } => format!("subscribed {token} without {refused:?}"),
            Answer::Unsubscribed { token } => format!("unsubscribed {token}"),
            Answer::Ack(a) if a.code == AckCode::Kept => {
                let receipt =
                    a.note.and_then(|n| n.properties.first().map(|(_, receipt)| format!(" {receipt}")));
                let note = receipt.unwrap_or_default();
                format!("ack {}{note}", a.token)
            }
            Answer::Ack(a) => format!("nack {} {:?}", a.token, a.code),
        });
        said.collect::<Vec<_>>().join(", ")
    }

    /// The publishes that were put into the quarantine and are not settled.
    fn quarantined(&self) -> Vec<&Quarantined> {
        let items = self.open.iter().filter_map(|(_, _, f)| match f {
            Forwardable::Item(Item::Quarantine { publish, .. }) => Some(&**publish),
            _ => None,
        });
        items.collect()
    }

    fn items(&self) -> Vec<&Item> {
        let items = self.open.iter().filter_map(|(_, _, f)| match f {
            Forwardable::Item(item) => Some(item),
            Forwardable::Publish(..) | Forwardable::Reading(_) | Forwardable::Readmit(..) => None,
        });
        items.collect()
    }
}

/// The topics that have a subscriber.
fn listens(topic: &str) -> bool {
    topic == "many" || topic.starts_with("heard/")
}

/// Two devices in different shards.
fn two(s: &Script) -> String {
    let other = (0..)
        .map(|i| format!("b{i}"))
        .find(|b| s.site.ring.shard_of(b) != s.site.ring.shard_of("a"))
        .unwrap();
    format!(r#"[{{"n":"a","v":1}},{{"n":"{other}","v":2}}]"#)
}

#[test]
fn an_edge_node_whose_alias_is_unknown_is_asked_for_its_births() {
    let mut s = Script::new();
    s.site.decoder = Decoder::default();
    s.connect(Version::V311, 0);
    let data = "\x12\x04\x10\x01\x50\x05"; // alias 1 is 5
    s.publish(1, QoS::AtMostOnce, "spBv1.0/g/NDATA/e", data);
    s.publish(2, QoS::AtMostOnce, "spBv1.0/g/NDATA/e", data);
    let topics: Vec<&str> = s.out.rebirths.iter().map(|r| r.topic.as_str()).collect();
    assert_eq!(topics, ["spBv1.0/g/NCMD/e"]);
}

#[test]
fn a_persistent_session_waits_for_its_shard_and_gets_back_what_it_had() {
    let mut s = Script::new();
    s.connect(Version::V5, 60);
    assert_eq!((s.said().as_str(), s.session.arriving()), ("", true));
    assert_eq!(s.open[0].0, s.site.ring.shard_of("pump"));
    let subscriptions = vec![("x/#".to_string(), 1)];
    let found = ConnectOutcome {
        instance: 3,
        epoch: 8,
        present: true,
        subscriptions,
        expiry_s: 7,
        ..ConnectOutcome::default()
    };
    s.settle(0, ItemOutcome::Connected(Box::new(found)));
    let Some(Answer::Accept(accept)) = s.out.answers.first() else { panic!("not accepted") };
    assert_eq!(accept.expiry_s, Some(7), "it asked for 60");
    assert_eq!(s.said(), "accept true");
    assert_eq!(s.out.subscribe.len(), 1);
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
    let Forwardable::Publish(Some(source), _) = &s.open[0].2 else { panic!("no source") };
    assert_eq!((source.instance, source.epoch, source.packet_id, source.qos), (3, 8, 1, 1));
}

#[test]
fn a_publish_that_one_shard_sets_aside_and_another_refuses_is_a_failure() {
    let mut s = Script::open(Version::V5, 0, &[]);
    let payload = two(&s);
    let set_aside = vec![SetAside { reading: 0, reason: Reason::StreamsFull }];
    s.publish(3, QoS::AtLeastOnce, "many", &payload);
    s.settle(0, ItemOutcome::Judged(Judged { set_aside, ..Judged::default() }));
    s.settle(0, ItemOutcome::Refused("full".into()));
    assert_eq!(s.said(), "nack 3 QuotaExceeded", "nothing of it is kept");
    assert!(matches!(s.quarantined()[..], [q] if q.counted.is_empty()));
}

#[test]
fn mqtt_3_is_acknowledged_what_was_not_counted_when_it_is_in_the_quarantine() {
    let mut s = Script::open(Version::V311, 0, &[]);
    let set_aside = vec![SetAside { reading: 0, reason: Reason::FarBehind }];
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
    s.settle(0, ItemOutcome::Judged(Judged { set_aside, ..Judged::default() }));
    s.publish(2, QoS::AtLeastOnce, "d/a/t", "{");
    s.publish(3, QoS::ExactlyOnce, "d/a/t", "off the air");
    let why: Vec<_> = s.quarantined().iter().map(|q| q.why.clone()).collect();
    assert!(why[0].starts_with("a/t: its sequence number is too far behind"), "{why:?}");
    assert_eq!((s.said().as_str(), s.out.route.len(), why.len()), ("", 0, 3));
    assert!(s.open.iter().all(|(shard, _, _)| *shard == s.site.ring.shard_of("pump")));
    s.settle(2, ItemOutcome::Done);
    s.settle(0, ItemOutcome::Done);
    assert_eq!((s.said().as_str(), s.out.route.len()), ("ack 3, ack 1", 2));
    // The quarantine can't keep it either: the client gets no answer, and sends it again.
    s.settle(0, ItemOutcome::Refused("no".into()));
    assert_eq!((s.said().as_str(), s.out.close), ("", Some(CloseReason::Busy)));
}

#[test]
fn a_publish_in_part_counted_is_a_success_that_names_the_rest() {
    for (version, said) in [(Version::V5, "ack 1 "), (Version::V311, "")] {
        let mut s = Script::open(version, 0, &[]);
        let payload = two(&s);
        s.publish(1, QoS::AtLeastOnce, "many", &payload);
        let set_aside = vec![SetAside { reading: 0, reason: Reason::StreamsFull }];
        s.settle(0, ItemOutcome::Judged(Judged { set_aside, ..Judged::default() }));
        s.settle(0, DONE);
        let note = s.out.answers.first().map(|a| format!("{a:?}")).unwrap_or_default();
        assert!(s.said().starts_with(said));
        assert_eq!(note.contains("max_streams"), version == Version::V5, "{note}");
        assert_eq!(s.quarantined()[0].counted.len(), 1, "the other is not to be counted again");
        assert_eq!(s.quarantined()[0].at, BEGIN, "relative times count from when it was decoded");
        s.settle(0, ItemOutcome::Done);
        assert_eq!(s.said(), if version == Version::V5 { "" } else { "ack 1" });
        assert_eq!((s.out.acked, s.out.route.len()), (1, 1));
        assert_eq!((s.out.fates.counted, s.out.fates.set_aside), (1, 1));
    }
}

#[test]
fn what_was_too_far_behind_to_tell_is_told_in_the_quarantine() {
    let mut s = Script::open(Version::V5, 0, &[]);
    for (reason, count) in [(Reason::FarBehind, 1), (Reason::LeapsAhead, 0)] {
        s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
        let set_aside = vec![SetAside { reading: 0, reason }];
        s.settle(0, ItemOutcome::Judged(Judged { set_aside, ..Judged::default() }));
        assert_eq!(s.quarantined()[0].far_behind, count);
        s.settle(0, ItemOutcome::Done);
    }
}

fn will() -> Will {
    Will { topic: "d/a/alive".into(), payload: "0".into(), qos: QoS::AtLeastOnce, delay_s: 0 }
}

/// The will that the shard reports as due, of `pump`'s connection of this epoch.
fn due(topic: &str, epoch: u64) -> DueWill {
    let will = SessionWill { topic: topic.into(), payload: b"0".to_vec(), qos: 1, delay_s: 0 };
    DueWill { client: "pump".into(), instance: 3, epoch, will }
}

#[test]
fn how_a_connection_ended_is_told_its_shard_which_decides_about_the_will() {
    let mut s = Script::open(Version::V5, 60, &[]);
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
    s.leave(Some(will()), Some(9));
    let [Item::Disconnect(DisconnectItem { epoch: 8, with_will: true, expiry_s: Some(9), .. })] =
        s.items()[..]
    else {
        panic!("{:?}", s.items())
    };
    s.settle(0, DONE);
    assert!(!s.session.is_over(), "its shard has yet to say what becomes of the will");
    s.settle(0, ItemOutcome::WillDue(Box::new(due("d/a/alive", 8))));
    assert!(s.session.is_over() && s.out.wills == [due("d/a/alive", 8)]);

    let mut s = Script::open(Version::V5, 0, &[]);
    s.leave(None, Some(0));
    assert!(
        matches!(s.items()[..], [Item::Disconnect(DisconnectItem { with_will: false, .. })]),
        "a goodbye"
    );
    // A connection that was not accepted has no will.
    let mut s = Script::new();
    s.connect_as("pump", Version::V5, 0, Some(will()));
    assert!(matches!(s.items()[..], [Item::Connect(c)] if c.will.is_some()));
    s.close(Some(will()));
    s.settle(
        0,
        ItemOutcome::Connected(Box::new(ConnectOutcome {
            instance: 4,
            epoch: 4,
            ..ConnectOutcome::default()
        })),
    );
    assert!(matches!(s.items()[..], [Item::Disconnect(DisconnectItem { with_will: false, epoch: 4, .. })]));
}

#[test]
fn the_will_of_an_earlier_connection_comes_before_connack() {
    for expiry_s in [0, 60] {
        let mut s = Script::new();
        s.connect(Version::V311, expiry_s);
        let will = Some(Box::new(due("d/a/alive", 7)));
        let found = ConnectOutcome { instance: 4, epoch: 8, will, expiry_s, ..ConnectOutcome::default() };
        s.settle(0, ItemOutcome::Connected(Box::new(found)));
        assert_eq!((s.said().as_str(), s.session.arriving()), ("", true));
        assert_eq!(s.out.wills, [due("d/a/alive", 7)]);
        s.session.will_published(&mut s.out);
        s.session.will_published(&mut s.out);
        assert_eq!(s.said(), "accept false", "once");
        // A connection that was refused in the meantime stays closed, and its shard learns of it.
        let mut s = Script::new();
        s.connect(Version::V311, expiry_s);
        let will = Some(Box::new(due("d/a/alive", 7)));
        let found = ConnectOutcome { instance: 4, epoch: 8, will, expiry_s, ..ConnectOutcome::default() };
        s.settle(0, ItemOutcome::Connected(Box::new(found)));
        s.refuse();
        s.session.will_published(&mut s.out);
        assert_eq!(s.said(), "refuse Unavailable");
        s.close(None);
        assert!(matches!(
            s.items()[..],
            [Item::Disconnect(DisconnectItem { with_will: false, epoch: 8, .. })]
        ));
    }
}

#[test]
fn who_is_given_a_client_id_is_let_in_at_once() {
    let mut s = Script::new();
    s.connect_as("", Version::V5, 0, Some(will()));
    let Some(Answer::Accept(accept)) = s.out.answers.first() else { panic!("not accepted") };
    assert!(accept.assigned_client_id.as_ref().is_some_and(|id| id.starts_with("auto-1-2-5")));
    s.close(Some(will()));
    s.settle(
        0,
        ItemOutcome::Connected(Box::new(ConnectOutcome {
            instance: 4,
            epoch: 4,
            ..ConnectOutcome::default()
        })),
    );
    assert!(matches!(s.items()[..], [Item::Disconnect(DisconnectItem { with_will: true, epoch: 4, .. })]));
    let mut s = Script::new();
    s.connect_as("", Version::V5, 60, None);
    assert_eq!(s.said(), "", "what is stored of it is chosen first");
}

#[test]
fn a_will_that_is_too_large_is_refused() {
    let mut s = Script::new();
    let large = Will { payload: vec![0; MAX_WILL_BYTES].into(), ..will() };
    s.connect_as("pump", Version::V5, 0, Some(large));
    assert_eq!((s.said().as_str(), s.open.len()), ("refuse Quota", 0));
    s.close(None);
    assert!(s.open.is_empty() && s.session.is_over());
}

/// Publishes wills on a table.
struct Publishing {
    script: Script,
    wills: WillPublisher,
}

impl Publishing {
    fn new() -> Self {
        Self { script: Script::new(), wills: WillPublisher::default() }
    }

    fn publish(&mut self, due: DueWill, waits: Option<u64>) {
        let s = &mut self.script;
        let site = s.site.at(ORIGIN, BEGIN, &listens);
        self.wills.publish(site, due, waits, &mut s.out);
    }

    /// Settles the first submitted item.
    fn settle(&mut self, outcome: ItemOutcome) -> Option<Waited> {
        let s = &mut self.script;
        let (shard, ticket, _) = s.out.submit.remove(0);
        assert_eq!(ticket.connection, WILLS);
        let site = s.site.at(ORIGIN, BEGIN, &listens);
        self.wills.settled(site, SettledItem { ticket, shard, slot: 7, outcome }, &mut s.out)
    }

    /// Settles the items submitted for the quarantine, and returns how many there were.
    fn set_aside(&mut self) -> usize {
        let is_it = |item: &Forwardable| matches!(item, Forwardable::Item(Item::Quarantine { epoch: 0, .. }));
        let count = self.script.out.submit.iter().filter(|(_, _, item)| is_it(item)).count();
        for _ in 0..count {
            assert_eq!(self.settle(ItemOutcome::Done), None);
        }
        count
    }

    fn asks_whose_it_is(&self) -> bool {
        matches!(&self.script.out.submit[..], [(_, _, Forwardable::Item(Item::WillDone { epoch: 7, .. }))])
    }
}

#[test]
fn a_will_is_counted_then_routed_by_the_one_whose_it_is_and_then_its_successor_comes_in() {
    let came_in = Waited { connection: 6, replaced: false };
    let replaced = Waited { replaced: true, ..came_in };
    for (outcome, routed, waited) in [
        (ItemOutcome::Done, 1, came_in),
        (ItemOutcome::Duplicate, 0, came_in),
        (ItemOutcome::Stale, 0, replaced),
    ] {
        let mut p = Publishing::new();
        p.publish(due("d/a/alive", 7), Some(5));
        p.publish(due("d/a/alive", 7), Some(6));
        let [(_, _, Forwardable::Publish(Some(source), readings))] = &p.script.out.submit[..] else {
            panic!("{:?}", p.script.out.submit)
        };
        assert_eq!((source.instance, source.epoch, source.packet_id, source.dup), (3, 7, 0, true));
        assert_eq!(readings.len(), 1);
        assert_eq!(p.settle(DONE), None);
        assert!(p.asks_whose_it_is() && p.script.out.route.is_empty());
        assert_eq!(p.settle(outcome), Some(waited), "the latest connection waits");
        assert_eq!((p.script.out.route.len(), p.wills.len()), (routed, 0));
    }
}

#[test]
fn the_same_will_of_two_connections_is_two() {
    let mut p = Publishing::new();
    p.publish(due("d/a/alive", 7), None);
    p.publish(due("d/a/alive", 8), None);
    let hash = |item: &Forwardable| match item {
        Forwardable::Publish(Some(source), _) => source.hash >> 16,
        other => panic!("{other:?}"),
    };
    let hashes: Vec<_> = p.script.out.submit.iter().map(|(_, _, item)| hash(item)).collect();
    assert_ne!(hashes[0], hashes[1], "a session that goes on would take the second for the first");
}

#[test]
fn a_will_that_is_no_reading_is_routed_and_one_that_can_not_be_kept_is_set_aside() {
    for (topic, set_aside) in [("lamp/on", 0), ("many", 1)] {
        let mut p = Publishing::new();
        p.publish(due(topic, 7), None);
        assert_eq!(p.set_aside(), set_aside);
        assert!(p.asks_whose_it_is());
        assert_eq!(p.settle(ItemOutcome::Done), None);
        assert_eq!(p.script.out.route.len(), 1);
    }
    let set_aside = SetAside { reading: 0, reason: Reason::StreamsFull };
    let nothing = ItemOutcome::Judged(Judged { set_aside: vec![set_aside], ..Judged::default() });
    for outcome in [ItemOutcome::Refused("max_outbox_batches".into()), nothing] {
        let mut p = Publishing::new();
        p.publish(due("d/a/alive", 7), Some(5));
        p.settle(outcome);
        assert_eq!(p.set_aside(), 1);
        let came_in = Waited { connection: 5, replaced: false };
        assert_eq!(
            p.settle(ItemOutcome::Done),
            Some(came_in),
            "a client is not kept out by what can't be kept"
        );
        assert_eq!(p.script.out.route.len(), 1);
    }
}

#[test]
fn a_connect_whose_outcome_was_lost_is_asked_again() {
    let mut s = Script::new();
    s.connect(Version::V5, 60);
    s.settle(0, DONE);
    assert!(matches!(s.items()[..], [Item::Connect(_)]));
    assert_eq!(s.said(), "");
    s.settle(
        0,
        ItemOutcome::Connected(Box::new(ConnectOutcome {
            instance: 1,
            epoch: 1,
            ..ConnectOutcome::default()
        })),
    );
    assert_eq!(s.said(), "accept false");
}

#[test]
fn a_connection_that_ends_early_is_disconnected_when_its_shard_has_answered() {
    for expiry_s in [0, 60] {
        let mut s = Script::new();
        s.connect(Version::V5, expiry_s);
        s.close(None);
        assert!(s.items().len() == 1 && !s.session.is_over(), "it is in its shard for good otherwise");
        s.settle(
            0,
            ItemOutcome::Connected(Box::new(ConnectOutcome {
                instance: 4,
                epoch: 4,
                ..ConnectOutcome::default()
            })),
        );
        assert!(matches!(
            s.items()[..],
            [Item::Disconnect(DisconnectItem { epoch: 4, with_will: false, .. })]
        ));
        s.settle(0, DONE);
        assert!(s.session.is_over());
    }
    let mut s = Script::new();
    s.connect(Version::V5, 60);
    s.close(None);
    s.settle(0, DONE);
    assert!(
        s.open.is_empty() && s.session.is_over(),
        "asked again, it would throw out its client's next connection"
    );
}

#[test]
fn qos_0_is_bounded_and_what_is_dropped_is_counted() {
    let mut s = Script::open(Version::V311, 0, &[]);
    for token in 1..=MAX_QOS0_PENDING as u64 + 2 {
        s.publish(token, QoS::AtMostOnce, "d/a/t", "5");
    }
    assert_eq!((s.open.len(), s.out.dropped), (MAX_QOS0_PENDING, 2));
    s.settle(0, DONE);
    s.publish(9_999, QoS::AtMostOnce, "d/a/t", "5");
    assert_eq!((s.open.len(), s.out.dropped, s.out.acked), (MAX_QOS0_PENDING, 2, 0));
    assert_eq!(s.said(), "");
}

#[test]
fn many_and_long_filters_are_stored_in_items_of_bounded_size() {
    let mut s = Script::open(Version::V5, 60, &[]);
    let subscription = |text: &str| Subscription {
        filter: Filter::new(text).unwrap(),
        qos: QoS::AtLeastOnce,
        no_local: false,
    };
    let mut list: Vec<_> = (0..200).map(|i| subscription(&format!("f/{i}"))).collect();
    list.push(subscription(&"x".repeat(MAX_FILTER_BYTES + 1)));
    s.inbound(Inbound::Subscribe { token: 1, subscriptions: list });
    let sizes: Vec<_> = s
        .items()
        .iter()
        .map(|i| if let Item::Subscriptions { add, .. } = i { add.len() } else { 0 })
        .collect();
    assert_eq!((sizes.as_slice(), s.out.subscribe.len()), ([64, 64, 64, 8].as_slice(), 0));
    // Packets that come in the meantime are answered in their own time.
    s.publish(1, QoS::AtLeastOnce, "heard/lamp", "1");
    assert_eq!(s.said(), "ack 1");
    s.settle(0, DONE);
    s.settle(0, ItemOutcome::Subscribed { refused: vec![1, 63] });
    s.settle(0, ItemOutcome::Refused("full".into()));
    assert_eq!(s.said(), "", "the last ones are not chosen yet");
    s.settle(0, DONE);
    let refused: Vec<_> = [200, 65, 127].into_iter().chain(128..192).collect();
    assert_eq!(s.said(), format!("subscribed 1 without {refused:?}"));
    assert_eq!(s.out.subscribe.len(), 201 - refused.len());
}

#[test]
fn a_name_is_told_with_its_client_until_the_shard_has_let_it_in() {
    let mut s = Script::open(Version::V5, 0, &[]);
    let mut told = |token, outcome| {
        s.publish(token, QoS::AtLeastOnce, "d/a/x", "1");
        let Forwardable::Reading(reading) = &s.open[0].2 else { panic!("{:?}", s.open[0].2) };
        let maker = reading.maker.as_deref().map(str::to_string);
        s.settle(0, outcome);
        (0..s.open.len()).for_each(|_| s.settle(0, ItemOutcome::Done)); // into the quarantine
        maker
    };
    let set_aside = vec![SetAside { reading: 0, reason: Reason::StreamsFull }];
    let full = ItemOutcome::Judged(Judged { set_aside, ..Judged::default() });
    let pump = Some("pump".to_string());
    assert_eq!([told(1, DONE), told(2, DONE)], [pump.clone(), None]);
    assert_eq!([told(3, full), told(4, DONE), told(5, DONE)], [None, pump, None]);
}

#[test]
fn a_connect_that_nobody_waits_for_is_taken_back_and_one_that_is_chosen_leaves() {
    for ended_by_wait in [true, false] {
        let mut s = Script::new();
        s.connect(Version::V311, u32::MAX);
        if ended_by_wait {
            s.refuse();
        }
        s.close(None);
        let (shard, token, _) = &s.open[0];
        let connect = (*shard, Ticket { connection: 5, token: *token });
        assert!(s.out.withdraw.contains(&connect), "{:?}", s.out.withdraw);
        assert!(!s.session.is_over(), "it may be in a batch");
        s.session.withdrawn();
        assert!(s.session.is_over());
    }
    // A client that was accepted at once, and leaves a will, leaves it through its shard.
    let mut s = Script::new();
    let will = Will { topic: "w".into(), payload: "gone".into(), qos: QoS::AtLeastOnce, delay_s: 0 };
    s.connect_as("", Version::V5, 0, Some(will.clone()));
    assert_eq!(s.said(), "accept false");
    s.close(Some(will));
    assert!(s.out.withdraw.is_empty());
}

#[test]
fn what_a_session_holds_is_counted_until_it_is_settled_also_beyond_its_connection() {
    let mut s = Script::open(Version::V5, 60, &[]);
    let payload = "x".repeat(50_000);
    assert_eq!(s.session.held_bytes(), 0);
    // A publish that maps to no stream is done at once; those behind a shard that is not noted as touched are held,
    // too.
    s.publish(1, QoS::AtLeastOnce, "unmapped", &payload);
    assert_eq!(s.session.held_bytes(), 0);
    let one = r#"{"value":1,"text":""}"#.replace(r#""text":"""#, &format!(r#""text":"{payload}""#));
    s.publish(2, QoS::AtMostOnce, "d/a/b", &one);
    s.publish(3, QoS::ExactlyOnce, "d/a/b", &one);
    s.publish(4, QoS::AtLeastOnce, "d/a/b", &one);
    let each = one.len() + "d/a/b".len();
    assert!((3 * each..3 * (each + 300)).contains(&s.session.held_bytes()), "{}", s.session.held_bytes());
    s.close(None);
    assert!(s.session.held_bytes() >= each, "its shards have not judged it");
    while !s.open.is_empty() {
        s.settle(0, DONE);
    }
    assert_eq!(s.session.held_bytes(), 0);
    assert!(s.session.is_over());
}

#[test]
fn what_waits_to_be_routed_is_routed_when_the_one_before_it_is_given_up() {
    let mut s = Script::open(Version::V5, 60, &[]);
    let other = (0..)
        .map(|i| format!("b{i}"))
        .find(|b| s.site.ring.shard_of(b) != s.site.ring.shard_of("a"))
        .unwrap();
    s.publish(1, QoS::AtLeastOnce, "many", r#"[{"n":"a","v":1}]"#);
    s.publish(2, QoS::AtLeastOnce, "many", &format!(r#"[{{"n":"{other}","v":2}}]"#));
    s.settle(1, DONE);
    assert!(s.out.route.is_empty());
    s.settle(0, ItemOutcome::Stale);
    assert_eq!(s.out.route.iter().map(|p| p.token).collect::<Vec<_>>(), [2]);
    s.close(None);
    assert!(s.session.is_over());
}
