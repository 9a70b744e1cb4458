//! Sessions: what a connection's packets have submitted to shards, and when they are answered.

use selvedge_gateway::logic::decode::{Decoder, Form, TopicRule};
use selvedge_gateway::logic::forward::{Forwardable, Settled, Ticket};
use selvedge_gateway::logic::machine::{
    Connected, Item, Judged, MAX_FILTER_BYTES, Origin, Outcome, Quarantined, Reason, SetAside, Source,
};
use selvedge_gateway::logic::ring::{Member, Ring};
use selvedge_gateway::logic::session::{Effects, MAX_QOS0_PENDING, Session, Site};
use selvedge_shared::ids::{GatewayId, ShardId};
use selvedge_shared::mqtt::{
    AckCode, Answer, CloseReason, Closed, Connect, Inbound, Publish, QoS, Refusal, Subscription, Version,
    Will,
};
use selvedge_shared::time::EpochMs;
use selvedge_shared::topic::Filter;
use std::num::NonZeroU16;

const DONE: Outcome = Outcome::Judged(Judged { counted: 1, recognised: 0, set_aside: Vec::new() });

struct Script {
    ring: Ring,
    decoder: Decoder,
    session: Session,
    out: Effects,
    /// Submitted and not settled.
    open: Vec<(ShardId, u64, Forwardable)>,
}

impl Script {
    fn new() -> Self {
        let rule = |topic: &str, decoder| TopicRule { topic: topic.into(), decoder, ..TopicRule::default() };
        let rules = vec![rule("d/{device}/{stream}", Form::Auto), rule("many", Form::SenmlJson)];
        let ring = Ring::new(16, &[Member { id: GatewayId(1), weight: 1 }], 1).unwrap();
        let (decoder, session) = (Decoder::new(rules).unwrap(), Session::new(5));
        Self { ring, decoder, session, out: Effects::default(), open: Vec::new() }
    }

    /// A session that is open, as version 5 or 3.1.1, with this expiry.
    fn open(version: Version, expiry_s: u32, touched: &[u16]) -> Self {
        let mut s = Self::new();
        s.connect(version, expiry_s);
        let found = Connected { instance: 3, epoch: 8, touched: touched.to_vec(), ..Connected::default() };
        s.settle(0, Outcome::Connected(Box::new(found)));
        s.out = Effects::default();
        s
    }

    fn connect(&mut self, version: Version, expiry_s: u32) {
        let (client_id, clean) = ("pump".into(), expiry_s == 0);
        let (will, username, password) = (None, None, None);
        let connect =
            Connect { client_id, version, clean, expiry_s, keepalive_s: 0, will, username, password };
        self.inbound(Inbound::Connect(Box::new(connect)));
    }

    fn inbound(&mut self, event: Inbound) {
        let origin = Origin { gateway: GatewayId(1), start: 2 };
        let (ring, decoder, now) = (&self.ring, &self.decoder, EpochMs(1_764_000_000_000));
        let site = Site { ring, decoder, origin, now, listens: &|topic| topic.starts_with("heard/") };
        self.session.inbound(site, event, &mut self.out);
        self.collect();
    }

    fn collect(&mut self) {
        for (shard, ticket, item) in self.out.submit.drain(..) {
            assert_eq!(ticket.connection, 5);
            self.open.push((shard, ticket.token, item));
        }
    }

    /// The `i`-th of what is submitted is settled.
    fn settle(&mut self, i: usize, outcome: Outcome) {
        let (shard, token, _) = self.open.remove(i);
        let origin = Origin { gateway: GatewayId(1), start: 2 };
        let (ring, decoder, now) = (&self.ring, &self.decoder, EpochMs(1_764_000_000_000));
        let site = Site { ring, decoder, origin, now, listens: &|topic| topic.starts_with("heard/") };
        let settled = Settled { ticket: Ticket { connection: 5, token }, shard, slot: 7, outcome };
        self.session.settled(site, settled, &mut self.out);
        self.collect();
    }

    fn publish(&mut self, token: u64, qos: QoS, topic: &str, payload: &str) {
        let packet_id = (qos != QoS::AtMostOnce).then(|| NonZeroU16::new(token as u16).unwrap());
        let (topic, payload) = (topic.into(), payload.to_string().into());
        self.inbound(Inbound::Publish(Publish {
            token,
            topic,
            payload,
            qos,
            dup: false,
            retain: false,
            packet_id,
        }));
    }

    fn close(&mut self, will: Option<Will>) {
        let closed = Closed { reason: CloseReason::Gone, will, expiry_s: None, undelivered: Vec::new() };
        self.inbound(Inbound::Closed(Box::new(closed)));
    }

    /// The answers since it was last asked.
    fn said(&mut self) -> String {
        let said = self.out.answers.drain(..).map(|answer| match answer {
            Answer::Accept(a) => format!("accept {}", a.session_present),
            Answer::Refuse(why) => format!("refuse {why:?}"),
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

    /// What was put into the quarantine and is not settled.
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

/// Two devices in different shards.
fn two(s: &Script) -> String {
    let other = (0..).map(|i| format!("b{i}")).find(|b| s.ring.shard_of(b) != s.ring.shard_of("a")).unwrap();
    format!(r#"[{{"n":"a","v":1}},{{"n":"{other}","v":2}}]"#)
}

#[test]
fn a_clean_session_is_open_at_once_and_its_publishes_carry_no_source() {
    let mut s = Script::new();
    s.connect(Version::V311, 0);
    assert_eq!(s.said(), "accept false");
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
    assert!(matches!(&s.open[1].2, Forwardable::Reading(_)));
    assert_eq!(s.said(), "");
    s.settle(1, DONE);
    assert_eq!(s.said(), "ack 1", "no receipt in 3.1.1");
    assert_eq!((s.out.route.len(), s.out.acked), (1, 1));
}

#[test]
fn a_persistent_session_waits_for_its_shard_and_gets_back_what_it_had() {
    let mut s = Script::new();
    s.connect(Version::V5, 60);
    assert_eq!((s.said().as_str(), s.session.arriving()), ("", true));
    assert_eq!(s.open[0].0, s.ring.shard_of("pump"));
    let subscriptions = vec![("x/#".to_string(), 1)];
    let found = Connected { instance: 3, epoch: 8, present: true, subscriptions, touched: vec![] };
    s.settle(0, Outcome::Connected(Box::new(found)));
    assert_eq!(s.said(), "accept true");
    assert_eq!(s.out.subscribe.len(), 1);
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
    let Forwardable::Publish(Some(source), _) = &s.open[0].2 else { panic!("no source") };
    assert_eq!((source.instance, source.epoch, source.packet_id, source.qos), (3, 8, 1, 1));
}

#[test]
fn a_publish_in_several_shards_is_answered_after_all_of_them() {
    let mut s = Script::open(Version::V5, 0, &[]);
    let payload = two(&s);
    s.publish(1, QoS::AtLeastOnce, "many", &payload);
    assert_eq!(s.open.len(), 2);
    let last = s.open[0].0;
    s.settle(1, DONE);
    assert_eq!((s.said().as_str(), s.out.route.len()), ("", 0));
    s.settle(0, DONE);
    assert_eq!(s.said(), format!("ack 1 {last}/7"));

    s.publish(2, QoS::AtLeastOnce, "many", &payload);
    let set_aside = vec![SetAside { reading: 0, reason: Reason::StreamsFull }];
    let aside = Outcome::Judged(Judged { set_aside, ..Judged::default() });
    s.settle(0, aside.clone());
    s.settle(0, DONE);
    assert!(s.said().starts_with("ack 2"), "one of its readings is kept");
    assert_eq!(s.quarantined()[0].counted.len(), 1);
    s.settle(0, Outcome::Done);
    s.publish(3, QoS::AtLeastOnce, "many", &payload);
    s.settle(0, aside);
    s.settle(0, Outcome::Refused("full".into()));
    assert_eq!(s.said(), "nack 3 QuotaExceeded", "nothing of it is");
    assert!(matches!(s.quarantined()[..], [q] if q.counted.is_empty()));
}

#[test]
fn mqtt_3_is_acknowledged_what_was_not_counted_when_it_is_in_the_quarantine() {
    let mut s = Script::open(Version::V311, 0, &[]);
    let set_aside = vec![SetAside { reading: 0, reason: Reason::FarBehind }];
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
    s.settle(0, Outcome::Judged(Judged { set_aside, ..Judged::default() }));
    s.publish(2, QoS::AtLeastOnce, "d/a/t", "{");
    s.publish(3, QoS::ExactlyOnce, "d/a/t", "off the air");
    let why: Vec<_> = s.quarantined().iter().map(|q| q.why.clone()).collect();
    assert!(why[0].starts_with("a/t: its sequence number is too far behind"), "{why:?}");
    assert_eq!((s.said().as_str(), s.out.route.len(), why.len()), ("", 0, 3));
    assert!(s.open.iter().all(|(shard, _, _)| *shard == s.ring.shard_of("pump")));
    s.settle(2, Outcome::Done);
    s.settle(0, Outcome::Done);
    assert_eq!((s.said().as_str(), s.out.route.len()), ("ack 3, ack 1", 2));
    // It can't even be kept there: unanswered, it is sent again.
    s.settle(0, Outcome::Refused("no".into()));
    assert_eq!((s.said().as_str(), s.out.close), ("", Some(CloseReason::Busy)));
}

#[test]
fn a_publish_in_part_counted_is_a_success_that_names_the_rest() {
    for (version, said) in [(Version::V5, "ack 1 "), (Version::V311, "")] {
        let mut s = Script::open(version, 0, &[]);
        let payload = two(&s);
        s.publish(1, QoS::AtLeastOnce, "many", &payload);
        let set_aside = vec![SetAside { reading: 0, reason: Reason::StreamsFull }];
        s.settle(0, Outcome::Judged(Judged { set_aside, ..Judged::default() }));
        s.settle(0, DONE);
        let note = s.out.answers.first().map(|a| format!("{a:?}")).unwrap_or_default();
        assert!(s.said().starts_with(said));
        assert_eq!(note.contains("max_streams"), version == Version::V5, "{note}");
        assert_eq!(s.quarantined()[0].counted.len(), 1, "the other is not to be counted again");
        s.settle(0, Outcome::Done);
        assert_eq!(s.said(), if version == Version::V5 { "" } else { "ack 1" });
        assert_eq!((s.out.acked, s.out.route.len()), (1, 1));
        assert_eq!((s.out.fates.counted, s.out.fates.set_aside), (1, 1));
    }
}

#[test]
fn what_is_no_number_is_refused_and_quarantined_and_still_routed() {
    let mut s = Script::open(Version::V5, 0, &[]);
    s.publish(1, QoS::AtLeastOnce, "d/a/status", "offline");
    assert_eq!(s.said(), "nack 1 PayloadFormatInvalid");
    s.publish(2, QoS::AtMostOnce, "d/a/t", "{");
    assert_eq!((s.said().as_str(), s.quarantined().len(), s.out.route.len()), ("", 2, 2));
    assert_eq!((s.out.refused, s.out.close), (1, None));
}

#[test]
fn what_maps_to_no_stream_is_routed_and_told_whether_somebody_listens() {
    for (version, unheard) in [(Version::V5, "nack 2 NoSubscribers"), (Version::V311, "nack 2 NoSubscribers")]
    {
        let mut s = Script::open(version, 0, &[]);
        s.publish(1, QoS::ExactlyOnce, "heard/7/on", "1");
        assert_eq!((s.said().as_str(), s.out.unmapped.len()), ("ack 1", 0));
        for (token, topic) in [(2, "/d/x/t"), (3, "d/x/t/"), (4, "some/topic")] {
            s.publish(token, QoS::AtLeastOnce, topic, "12");
        }
        assert!(s.said().starts_with(unheard));
        let topics: Vec<_> =
            s.out.unmapped.iter().map(|(topic, bytes)| (topic.to_string(), *bytes)).collect();
        assert_eq!(topics, [("/d/x/t".into(), 2), ("d/x/t/".into(), 2), ("some/topic".into(), 2)]);
        assert_eq!((s.open.len(), s.out.acked, s.out.route.len()), (0, 4, 4));
    }
}

#[test]
fn qos_2_goes_nowhere_before_its_shard_is_noted_and_is_released_wherever_it_went() {
    let mut s = Script::open(Version::V5, 60, &[]);
    s.publish(1, QoS::ExactlyOnce, "d/a/t", "5");
    let shard = s.ring.shard_of("a");
    assert!(matches!(s.items()[..], [Item::Touch { shard: to, epoch: 8, .. }] if *to == shard.0));
    s.publish(2, QoS::AtLeastOnce, "d/a/t", "6");
    s.inbound(Inbound::Release { token: 3, packet_id: NonZeroU16::MIN });
    assert_eq!(s.open.len(), 1, "all that comes later waits, in order");
    s.settle(0, DONE);
    let tokens: Vec<_> = s.open.iter().map(|(_, token, _)| *token).collect();
    assert_eq!(tokens, [1, 2, 3]);
    assert!(matches!(s.items()[..], [Item::Release(Source { packet_id: 1, qos: 2, epoch: 8, .. })]));
    for token in 1..=3 {
        s.settle(0, DONE);
        assert!(s.said().starts_with(&format!("ack {token}")));
    }
    // What an earlier connection has touched is known, and released there.
    let mut s = Script::open(Version::V5, 60, &[shard.0, shard.0 ^ 1]);
    s.publish(1, QoS::ExactlyOnce, "d/a/t", "5");
    assert!(matches!(s.open[0].2, Forwardable::Publish(..)));
    s.settle(0, Outcome::Duplicate);
    assert_eq!(s.said(), "ack 1");
    s.inbound(Inbound::Release { token: 2, packet_id: NonZeroU16::MIN });
    assert_eq!(s.items().len(), 2);
    s.settle(0, DONE);
    assert_eq!(s.said(), "", "one shard has yet to release it");
    s.settle(0, DONE);
    assert_eq!(s.said(), "ack 2");
}

#[test]
fn a_replaced_connection_is_closed_and_nothing_of_it_acknowledged() {
    let mut s = Script::open(Version::V5, 60, &[]);
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
    s.publish(2, QoS::AtLeastOnce, "d/a/t", "5");
    s.settle(0, Outcome::Stale);
    assert_eq!(s.out.close.take(), Some(CloseReason::TakenOver));
    s.publish(3, QoS::AtLeastOnce, "d/a/t", "5");
    s.settle(0, Outcome::Stale);
    assert_eq!(
        (s.said().as_str(), s.out.close, s.open.len()),
        ("", None, 0),
        "closed once, and nothing goes on"
    );
    s.close(None);
    assert!(s.open.is_empty() && s.session.is_over());
}

#[test]
fn a_will_is_counted_and_routed_and_the_session_disconnected() {
    let mut s = Script::open(Version::V5, 60, &[]);
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
    let will = Will { topic: "d/a/alive".into(), payload: "0".into(), qos: QoS::AtLeastOnce, delay_s: 0 };
    s.close(Some(will));
    assert_eq!((s.open.len(), s.out.route.len()), (3, 1));
    assert!(matches!(s.open[1].2, Forwardable::Reading(_)));
    assert!(matches!(s.items()[..], [Item::Disconnect { epoch: 8, .. }]));
    assert!(!s.session.is_over(), "a publish is under way and will be routed");
    s.settle(0, DONE);
    assert!(s.session.is_over() && s.out.route.len() == 2);
}

#[test]
fn a_connect_whose_outcome_was_lost_is_asked_again() {
    let mut s = Script::new();
    s.connect(Version::V5, 60);
    s.settle(0, DONE);
    assert!(matches!(s.items()[..], [Item::Connect(_)]));
    assert_eq!(s.said(), "");
    s.settle(0, Outcome::Connected(Box::new(Connected { instance: 1, epoch: 1, ..Connected::default() })));
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
            Outcome::Connected(Box::new(Connected { instance: 4, epoch: 4, ..Connected::default() })),
        );
        assert!(matches!(s.items()[..], [Item::Disconnect { epoch: 4, .. }]));
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
fn a_connect_without_an_answer_is_refused_once_and_never_accepted_after_that() {
    let mut s = Script::new();
    s.connect(Version::V5, 60);
    s.session.refuse(&mut s.out);
    s.session.refuse(&mut s.out);
    assert_eq!(s.said(), format!("refuse {:?}", Refusal::Unavailable));
    s.settle(0, Outcome::Connected(Box::new(Connected { instance: 4, epoch: 4, ..Connected::default() })));
    assert_eq!(s.said(), "");
    s.close(None);
    assert!(matches!(s.items()[..], [Item::Disconnect { epoch: 4, .. }]), "once");

    let mut s = Script::new();
    s.connect(Version::V5, 60);
    s.settle(0, Outcome::Refused("max_sessions".into()));
    assert_eq!(s.said(), format!("refuse {:?}", Refusal::Busy));
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
    s.inbound(Inbound::Subscribed(list));
    let sizes: Vec<_> = s
        .items()
        .iter()
        .map(|i| if let Item::Subscriptions { add, .. } = i { add.len() } else { 0 })
        .collect();
    assert_eq!((sizes.as_slice(), s.out.subscribe.len()), ([64, 64, 64, 8].as_slice(), 201));
}

#[test]
fn a_name_is_told_with_its_client_until_the_shard_has_let_it_in() {
    let mut s = Script::open(Version::V5, 0, &[]);
    let mut told = |token, outcome| {
        s.publish(token, QoS::AtLeastOnce, "d/a/x", "1");
        let Forwardable::Reading(reading) = &s.open[0].2 else { panic!("{:?}", s.open[0].2) };
        let maker = reading.maker.as_deref().map(str::to_string);
        s.settle(0, outcome);
        maker
    };
    let set_aside = vec![SetAside { reading: 0, reason: Reason::StreamsFull }];
    let full = Outcome::Judged(Judged { set_aside, ..Judged::default() });
    let pump = Some("pump".to_string());
    assert_eq!([told(1, DONE), told(2, DONE)], [pump.clone(), None]);
    assert_eq!([told(3, full), told(4, DONE), told(5, DONE)], [None, pump, None]);
}
