//! Sessions: what a connection's packets have submitted to shards, and when they are answered.

use selvedge_fabric::decode::{Decoder, Form, TopicRule};
use selvedge_fabric::forward::{Forwardable, Settled, Ticket};
use selvedge_fabric::machine::{
    Connected, Disconnect, DueWill, Item, ItemOutcome, Judged, MAX_FILTER_BYTES, MAX_WILL_BYTES, Origin,
    Quarantined, Reason, SetAside, Source, Will as LeftWill,
};
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::session::{MAX_QOS0_PENDING, Session, SessionContext, SessionEffects};
use selvedge_fabric::wills::{WILLS, Waited, Wills};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::mqtt::{
    AckCode, Answer, CloseReason, Closed, Connect, Inbound, Oversize, Publish, QoS, Refusal, Subscription,
    TooLarge, Version, Will,
};
use selvedge_types::time::EpochMs;
use selvedge_types::topic::Filter;
use std::num::NonZeroU16;

const DONE: ItemOutcome = ItemOutcome::Judged(Judged { counted: 1, recognised: 0, set_aside: Vec::new() });

struct Script {
    ring: Ring,
    decoder: Decoder,
    session: Session,
    out: SessionEffects,
    /// Submitted and not settled.
    open: Vec<(ShardId, u64, Forwardable)>,
}

impl Script {
    fn new() -> Self {
        let rule = |topic: &str, decoder| TopicRule { topic: topic.into(), decoder, ..TopicRule::default() };
        let rules = vec![rule("d/{device}/{stream}", Form::Auto), rule("many", Form::SenmlJson)];
        let ring = Ring::new(16, &[Member { id: GatewayId(1), weight: 1 }], 1).unwrap();
        let (decoder, session) = (Decoder::new(rules).unwrap(), Session::new(5));
        Self { ring, decoder, session, out: SessionEffects::default(), open: Vec::new() }
    }

    /// A session that is open, as version 5 or 3.1.1, with this expiry.
    fn open(version: Version, expiry_s: u32, touched: &[u16]) -> Self {
        let mut s = Self::new();
        s.connect(version, expiry_s);
        let touched = touched.to_vec();
        let found = Connected { instance: 3, epoch: 8, touched, expiry_s, ..Connected::default() };
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
        let origin = Origin { gateway: GatewayId(1), start: 2 };
        let (ring, decoder, now) = (&self.ring, &self.decoder, EpochMs(1_764_000_000_000));
        let site = SessionContext {
            ring,
            decoder,
            origin,
            now,
            listens: &|topic| topic == "many" || topic.starts_with("heard/"),
        };
        self.session.inbound(site, event, &mut self.out);
        self.collect();
    }

    fn refuse(&mut self) {
        let origin = Origin { gateway: GatewayId(1), start: 2 };
        let (ring, decoder, now) = (&self.ring, &self.decoder, EpochMs(1_764_000_000_000));
        let site = SessionContext { ring, decoder, origin, now, listens: &|_| false };
        self.session.refuse(site, &mut self.out);
    }

    fn collect(&mut self) {
        for (shard, ticket, item) in self.out.submit.drain(..) {
            assert_eq!(ticket.connection, 5);
            self.open.push((shard, ticket.token, item));
        }
    }

    /// The `i`-th of what is submitted is settled.
    fn settle(&mut self, i: usize, outcome: ItemOutcome) {
        let (shard, token, _) = self.open.remove(i);
        let origin = Origin { gateway: GatewayId(1), start: 2 };
        let (ring, decoder, now) = (&self.ring, &self.decoder, EpochMs(1_764_000_005_000));
        let site = SessionContext {
            ring,
            decoder,
            origin,
            now,
            listens: &|topic| topic == "many" || topic.starts_with("heard/"),
        };
        let settled = Settled { ticket: Ticket { connection: 5, token }, shard, slot: 7, outcome };
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

    /// The answers since it was last asked.
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
fn a_clean_session_waits_for_its_shard_too_and_its_publishes_carry_no_source() {
    let mut s = Script::new();
    s.connect(Version::V311, 0);
    assert_eq!(s.said(), "", "an earlier connection of its client may have left a will");
    s.settle(
        0,
        ItemOutcome::Connected(Box::new(Connected { instance: 4, epoch: 4, ..Connected::default() })),
    );
    assert_eq!(s.said(), "accept false");
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
    assert!(matches!(&s.open[0].2, Forwardable::Reading(_)));
    assert_eq!(s.said(), "");
    s.settle(0, DONE);
    assert_eq!(s.said(), "ack 1", "no receipt in 3.1.1");
    assert_eq!((s.out.route.len(), s.out.acked), (1, 1));
}

/// The reason string of the only answer.
fn reason(s: &mut Script) -> Option<String> {
    let [Answer::Ack(ack)] = s.out.answers.as_slice() else { panic!("{:?}", s.out.answers) };
    let reason = ack.note.as_ref().and_then(|n| n.reason_string.as_ref()).map(|r| r.to_string());
    s.out.answers.clear();
    reason
}

#[test]
fn what_is_skipped_is_named_where_the_client_can_be_told() {
    let payload = r#"[{"n":"a","v":1},{"bn":"a:","n":"label","vs":"x"}]"#;
    for version in [Version::V5, Version::V311] {
        let mut s = Script::open(version, 0, &[]);
        s.publish(1, QoS::AtLeastOnce, "many", payload);
        assert_eq!(s.out.skipped.len(), 1, "noted once");
        assert_eq!((&*s.out.skipped[0].device, &*s.out.skipped[0].name), ("a", "label"));
        s.settle(0, DONE);
        let named = r#"skipped: "label" (a text that is no number)"#.to_string();
        assert_eq!(reason(&mut s), (version == Version::V5).then_some(named));
        s.publish(2, QoS::AtLeastOnce, "d/a/t", "1");
        s.settle(0, DONE);
        assert_eq!(reason(&mut s), None);
    }
    // Of a publish that waits until its shard is noted, no field is counted twice.
    let mut s = Script::open(Version::V5, 60, &[]);
    s.publish(1, QoS::ExactlyOnce, "many", payload);
    assert!(s.out.skipped.is_empty());
    s.settle(0, ItemOutcome::Done);
    assert_eq!(s.out.skipped.len(), 1);
}

#[test]
fn an_emptied_retained_message_is_neither_counted_nor_quarantined() {
    let mut s = Script::open(Version::V5, 0, &[]);
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "");
    assert_eq!(s.out.answers.len(), 1);
    assert_eq!(s.said(), "ack 1");
    assert!(s.open.is_empty(), "nothing is counted or quarantined");
    assert_eq!(s.out.route.len(), 1);
    // A payload without a number is told what it lacks.
    s.publish(2, QoS::AtLeastOnce, "many", r#"[{"n":"a","vs":"x"}]"#);
    assert!(reason(&mut s).unwrap().contains("it holds no number"));
    assert_eq!(s.out.skipped.len(), 1);
}

#[test]
fn an_edge_node_whose_alias_is_unknown_is_asked_for_its_births() {
    let mut s = Script::new();
    s.decoder = Decoder::default();
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
    assert_eq!(s.open[0].0, s.ring.shard_of("pump"));
    let subscriptions = vec![("x/#".to_string(), 1)];
    let found = Connected {
        instance: 3,
        epoch: 8,
        present: true,
        subscriptions,
        expiry_s: 7,
        ..Connected::default()
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
    let aside = ItemOutcome::Judged(Judged { set_aside, ..Judged::default() });
    s.settle(0, aside.clone());
    s.settle(0, DONE);
    assert!(s.said().starts_with("ack 2"), "one of its readings is kept");
    assert_eq!(s.quarantined()[0].counted.len(), 1);
    s.settle(0, ItemOutcome::Done);
    s.publish(3, QoS::AtLeastOnce, "many", &payload);
    s.settle(0, aside);
    s.settle(0, ItemOutcome::Refused("full".into()));
    assert_eq!(s.said(), "nack 3 QuotaExceeded", "nothing of it is");
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
    assert!(s.open.iter().all(|(shard, _, _)| *shard == s.ring.shard_of("pump")));
    s.settle(2, ItemOutcome::Done);
    s.settle(0, ItemOutcome::Done);
    assert_eq!((s.said().as_str(), s.out.route.len()), ("ack 3, ack 1", 2));
    // It can't even be kept there: unanswered, it is sent again.
    s.settle(0, ItemOutcome::Refused("no".into()));
    assert_eq!((s.said().as_str(), s.out.close), ("", Some(CloseReason::Busy)));
}

#[test]
fn a_resend_that_counts_leaves_the_quarantine_before_it_is_acknowledged() {
    for version in [Version::V5, Version::V311] {
        let mut s = Script::open(version, 300, &[]);
        let payload = two(&s);
        s.publish_or_resend(1, QoS::AtLeastOnce, "many", &payload, true);
        s.settle(0, DONE);
        s.settle(0, DONE);
        let pump = s.ring.shard_of("pump");
        let told = matches!(&s.open[..], [(shard, 1, Forwardable::Item(Item::ResendCounted(source)))]
            if *shard == pump && source.packet_id == 1 && source.dup);
        assert!(told && s.said().is_empty(), "{:?}", s.open);
        s.settle(0, ItemOutcome::Done);
        assert!(s.said().starts_with("ack 1") && s.open.is_empty());
        // What is recognised may have been counted in part only; what came first was in no quarantine.
        s.publish_or_resend(2, QoS::AtLeastOnce, "many", &payload, true);
        s.settle(0, ItemOutcome::Duplicate);
        s.settle(0, DONE);
        assert!(s.said().starts_with("ack 2") && s.open.is_empty());
        s.publish(3, QoS::AtLeastOnce, "many", &payload);
        s.settle(0, DONE);
        s.settle(0, DONE);
        assert!(s.said().starts_with("ack 3") && s.open.is_empty());
        // Of a resend that is set aside in part the quarantine is told what counts now, and what is only recognised.
        s.publish_or_resend(4, QoS::AtLeastOnce, "many", &payload, true);
        s.settle(0, ItemOutcome::Duplicate);
        let set_aside = vec![SetAside { reading: 0, reason: Reason::StreamsFull }];
        s.settle(0, ItemOutcome::Judged(Judged { set_aside, ..Judged::default() }));
        assert_eq!(
            s.quarantined().iter().map(|q| (q.counted.len(), q.recognised)).collect::<Vec<_>>(),
            [(1, 1)]
        );
    }
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
        assert_eq!(
            s.quarantined()[0].at,
            EpochMs(1_764_000_000_000),
            "relative times count from when it was decoded"
        );
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
    s.settle(0, ItemOutcome::Duplicate);
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
    s.settle(0, ItemOutcome::Stale);
    assert_eq!(s.out.close.take(), Some(CloseReason::TakenOver));
    s.publish(3, QoS::AtLeastOnce, "d/a/t", "5");
    s.settle(0, ItemOutcome::Stale);
    assert_eq!(
        (s.said().as_str(), s.out.close, s.open.len()),
        ("", None, 0),
        "closed once, and nothing goes on"
    );
    s.close(None);
    assert!(s.open.is_empty() && s.session.is_over());
}

fn will() -> Will {
    Will { topic: "d/a/alive".into(), payload: "0".into(), qos: QoS::AtLeastOnce, delay_s: 0 }
}

/// What the shard says is due of `pump`'s connection of this epoch.
fn due(topic: &str, epoch: u64) -> DueWill {
    let will = LeftWill { topic: topic.into(), payload: b"0".to_vec(), qos: 1, delay_s: 0 };
    DueWill { client: "pump".into(), instance: 3, epoch, will }
}

#[test]
fn how_a_connection_ended_is_told_its_shard_which_decides_about_the_will() {
    let mut s = Script::open(Version::V5, 60, &[]);
    s.publish(1, QoS::AtLeastOnce, "d/a/t", "5");
    s.leave(Some(will()), Some(9));
    let [Item::Disconnect(Disconnect { epoch: 8, with_will: true, expiry_s: Some(9), .. })] = s.items()[..]
    else {
        panic!("{:?}", s.items())
    };
    s.settle(0, DONE);
    assert!(!s.session.is_over(), "its shard has yet to say what becomes of the will");
    s.settle(0, ItemOutcome::WillDue(Box::new(due("d/a/alive", 8))));
    assert!(s.session.is_over() && s.out.wills == [due("d/a/alive", 8)]);

    let mut s = Script::open(Version::V5, 0, &[]);
    s.leave(None, Some(0));
    assert!(matches!(s.items()[..], [Item::Disconnect(Disconnect { with_will: false, .. })]), "a goodbye");
    // Of a connection that was not let in there is no will.
    let mut s = Script::new();
    s.connect_as("pump", Version::V5, 0, Some(will()));
    assert!(matches!(s.items()[..], [Item::Connect(c)] if c.will.is_some()));
    s.close(Some(will()));
    s.settle(
        0,
        ItemOutcome::Connected(Box::new(Connected { instance: 4, epoch: 4, ..Connected::default() })),
    );
    assert!(matches!(s.items()[..], [Item::Disconnect(Disconnect { with_will: false, epoch: 4, .. })]));
}

#[test]
fn the_will_of_an_earlier_connection_comes_before_connack() {
    for expiry_s in [0, 60] {
        let mut s = Script::new();
        s.connect(Version::V311, expiry_s);
        let will = Some(Box::new(due("d/a/alive", 7)));
        let found = Connected { instance: 4, epoch: 8, will, expiry_s, ..Connected::default() };
        s.settle(0, ItemOutcome::Connected(Box::new(found)));
        assert_eq!((s.said().as_str(), s.session.arriving()), ("", true));
        assert_eq!(s.out.wills, [due("d/a/alive", 7)]);
        s.session.will_published(&mut s.out);
        s.session.will_published(&mut s.out);
        assert_eq!(s.said(), "accept false", "once");
        // One that was refused in the meantime stays out, and its shard learns it.
        let mut s = Script::new();
        s.connect(Version::V311, expiry_s);
        let will = Some(Box::new(due("d/a/alive", 7)));
        let found = Connected { instance: 4, epoch: 8, will, expiry_s, ..Connected::default() };
        s.settle(0, ItemOutcome::Connected(Box::new(found)));
        s.refuse();
        s.session.will_published(&mut s.out);
        assert_eq!(s.said(), "refuse Unavailable");
        s.close(None);
        assert!(matches!(s.items()[..], [Item::Disconnect(Disconnect { with_will: false, epoch: 8, .. })]));
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
        ItemOutcome::Connected(Box::new(Connected { instance: 4, epoch: 4, ..Connected::default() })),
    );
    assert!(matches!(s.items()[..], [Item::Disconnect(Disconnect { with_will: true, epoch: 4, .. })]));
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
    wills: Wills,
}

impl Publishing {
    fn new() -> Self {
        Self { script: Script::new(), wills: Wills::default() }
    }

    fn publish(&mut self, due: DueWill, waits: Option<u64>) {
        let s = &mut self.script;
        let origin = Origin { gateway: GatewayId(1), start: 2 };
        let now = EpochMs(1_764_000_000_000);
        let site = SessionContext { ring: &s.ring, decoder: &s.decoder, origin, now, listens: &|_| false };
        self.wills.publish(site, due, waits, &mut s.out);
    }

    /// The first of what was submitted is settled.
    fn settle(&mut self, outcome: ItemOutcome) -> Option<Waited> {
        let s = &mut self.script;
        let (shard, ticket, _) = s.out.submit.remove(0);
        assert_eq!(ticket.connection, WILLS);
        let origin = Origin { gateway: GatewayId(1), start: 2 };
        let now = EpochMs(1_764_000_000_000);
        let site = SessionContext { ring: &s.ring, decoder: &s.decoder, origin, now, listens: &|_| false };
        self.wills.settled(site, Settled { ticket, shard, slot: 7, outcome }, &mut s.out)
    }

    /// Settles what was submitted for the quarantine; how much that was.
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
        ItemOutcome::Connected(Box::new(Connected { instance: 1, epoch: 1, ..Connected::default() })),
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
            ItemOutcome::Connected(Box::new(Connected { instance: 4, epoch: 4, ..Connected::default() })),
        );
        assert!(matches!(s.items()[..], [Item::Disconnect(Disconnect { epoch: 4, with_will: false, .. })]));
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
fn a_connect_without_an_answer_is_refused_once_and_never_accepted_after_that() {
    let mut s = Script::new();
    s.connect(Version::V5, 60);
    s.refuse();
    s.refuse();
    assert_eq!(s.said(), format!("refuse {:?}", Refusal::Unavailable));
    s.settle(
        0,
        ItemOutcome::Connected(Box::new(Connected { instance: 4, epoch: 4, ..Connected::default() })),
    );
    assert_eq!(s.said(), "");
    s.close(None);
    assert!(
        matches!(s.items()[..], [Item::Disconnect(Disconnect { epoch: 4, with_will: false, .. })]),
        "once"
    );

    let mut s = Script::new();
    s.connect(Version::V5, 60);
    s.settle(0, ItemOutcome::Refused("max_sessions".into()));
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
    s.inbound(Inbound::Subscribe { token: 1, subscriptions: list });
    let sizes: Vec<_> = s
        .items()
        .iter()
        .map(|i| if let Item::Subscriptions { add, .. } = i { add.len() } else { 0 })
        .collect();
    assert_eq!((sizes.as_slice(), s.out.subscribe.len()), ([64, 64, 64, 8].as_slice(), 0));
    // What comes in the meantime is answered in its own time.
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
fn suback_and_unsuback_wait_for_the_shard_in_a_durable_session_alone() {
    let subscription =
        || Subscription { filter: Filter::new("x/#").unwrap(), qos: QoS::AtLeastOnce, no_local: false };
    for expiry_s in [0, 60] {
        let mut s = Script::open(Version::V311, expiry_s, &[]);
        s.inbound(Inbound::Subscribe { token: 1, subscriptions: vec![subscription()] });
        s.inbound(Inbound::Unsubscribe { token: 2, filters: vec![Filter::new("x/#").unwrap()] });
        if expiry_s > 0 {
            assert_eq!((s.said().as_str(), s.out.subscribe.len()), ("", 0));
            s.settle(0, DONE);
            assert_eq!((s.said().as_str(), s.out.unsubscribe.len()), ("subscribed 1 without []", 0));
            s.settle(0, DONE);
            assert_eq!(s.said(), "unsubscribed 2");
        } else {
            assert_eq!(s.said(), "subscribed 1 without [], unsubscribed 2");
        }
        assert_eq!((s.out.subscribe.len(), s.out.unsubscribe.len()), (1, 1));
    }
    // Neither is said to one that is gone, nor to one that was taken over.
    let mut s = Script::open(Version::V311, 60, &[]);
    s.inbound(Inbound::Subscribe { token: 1, subscriptions: vec![subscription()] });
    s.settle(0, ItemOutcome::Stale);
    assert_eq!((s.said().as_str(), s.out.close), ("", Some(CloseReason::TakenOver)));
    let mut s = Script::open(Version::V311, 60, &[]);
    s.inbound(Inbound::Subscribe { token: 1, subscriptions: vec![subscription()] });
    s.close(None);
    s.settle(0, DONE);
    assert_eq!((s.said().as_str(), s.out.subscribe.len()), ("", 0));
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
    // Who was let in at once and leaves a will does so through its shard.
    let mut s = Script::new();
    let will = Will { topic: "w".into(), payload: "gone".into(), qos: QoS::AtLeastOnce, delay_s: 0 };
    s.connect_as("", Version::V5, 0, Some(will.clone()));
    assert_eq!(s.said(), "accept false");
    s.close(Some(will));
    assert!(s.out.withdraw.is_empty());
}

#[test]
fn a_publish_that_is_too_large_is_answered_set_aside_and_not_routed() {
    let oversize = |token: u64, qos| {
        Inbound::Oversize(Box::new(Oversize {
            token,
            topic: "d/a/x".into(),
            payload_bytes: 300_000,
            qos,
            dup: false,
            packet_id: (qos != QoS::AtMostOnce).then(|| NonZeroU16::new(token as u16).unwrap()),
            why: TooLarge::Packet { bytes: 300_009, most: 262_144 },
        }))
    };
    let quarantined = |s: &Script| match &s.open[0].2 {
        Forwardable::Item(Item::Quarantine { publish, .. }) => {
            assert_eq!((publish.payload.len(), publish.payload_bytes), (0, 300_000));
            assert!(publish.why.contains("300009 bytes, 262144 are allowed"), "{}", publish.why);
        }
        other => panic!("{other:?}"),
    };
    let mut old = Script::open(Version::V311, 60, &[]);
    old.inbound(oversize(1, QoS::AtLeastOnce));
    assert_eq!(old.said(), "", "not before it is chosen");
    quarantined(&old);
    old.settle(0, ItemOutcome::Done);
    assert_eq!(old.said(), "ack 1");
    old.inbound(oversize(2, QoS::AtMostOnce));
    quarantined(&old);
    assert_eq!(old.said(), "");
    let mut new = Script::open(Version::V5, 60, &[]);
    new.inbound(oversize(1, QoS::ExactlyOnce));
    quarantined(&new);
    assert!(new.said().contains("QuotaExceeded"));
    assert!(old.out.route.is_empty() && new.out.route.is_empty());
}

#[test]
fn what_a_session_holds_is_counted_until_it_is_settled_also_beyond_its_connection() {
    let mut s = Script::open(Version::V5, 60, &[]);
    let payload = "x".repeat(50_000);
    assert_eq!(s.session.held_bytes(), 0);
    // What maps to no stream is done at once; what waits behind a shard that is not noted as touched is held, too.
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
fn publishes_to_one_topic_are_routed_in_their_order_whichever_shard_is_first() {
    let mut s = Script::open(Version::V311, 0, &[]);
    let other = (0..).map(|i| format!("b{i}")).find(|b| s.ring.shard_of(b) != s.ring.shard_of("a")).unwrap();
    s.publish(1, QoS::AtLeastOnce, "many", r#"[{"n":"a","v":1}]"#);
    s.publish(2, QoS::AtLeastOnce, "many", &format!(r#"[{{"n":"{other}","v":2}}]"#));
    s.publish(3, QoS::AtLeastOnce, &format!("d/{other}/t"), "3");
    let routed = |s: &Script| s.out.route.iter().map(|p| p.token).collect::<Vec<_>>();
    let held = s.session.held_bytes();
    s.settle(1, DONE);
    assert_eq!((s.said(), routed(&s)), ("ack 2".to_string(), vec![]), "the first to its topic is awaited");
    assert_eq!(s.session.held_bytes(), held, "what waits to be routed is held");
    s.settle(1, DONE);
    assert_eq!((s.said(), routed(&s)), ("ack 3".to_string(), vec![3]), "another topic waits for nothing");
    s.settle(0, DONE);
    assert_eq!((s.said(), routed(&s)), ("ack 1".to_string(), vec![3, 1, 2]));
    assert_eq!(s.session.held_bytes(), 0);
}

#[test]
fn what_waits_to_be_routed_is_routed_when_the_one_before_it_is_given_up() {
    let mut s = Script::open(Version::V5, 60, &[]);
    let other = (0..).map(|i| format!("b{i}")).find(|b| s.ring.shard_of(b) != s.ring.shard_of("a")).unwrap();
    s.publish(1, QoS::AtLeastOnce, "many", r#"[{"n":"a","v":1}]"#);
    s.publish(2, QoS::AtLeastOnce, "many", &format!(r#"[{{"n":"{other}","v":2}}]"#));
    s.settle(1, DONE);
    assert!(s.out.route.is_empty());
    s.settle(0, ItemOutcome::Stale);
    assert_eq!(s.out.route.iter().map(|p| p.token).collect::<Vec<_>>(), [2]);
    s.close(None);
    assert!(s.session.is_over());
}
