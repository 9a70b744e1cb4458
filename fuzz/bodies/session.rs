//! A session between a client that does anything MQTT lets it do, and shards that settle in any order across each other and may
//! answer anything: what is promised to the client is promised once and only when it is so, and nothing stays behind.

use crate::source::Source;
use selvedge_fabric::decode::{Decoder, Form, TopicRule};
use selvedge_fabric::forward::{Forwardable, SettledItem, Ticket};
use selvedge_fabric::machine::{
    ConnectOutcome, DueWill, Item, ItemOutcome, Judged, MAX_WILL_BYTES, Origin, Reason, SessionWill, SetAside,
};
use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::session::{MAX_QOS0_PENDING, Session, SessionContext, SessionEffects};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::mqtt::{
    AckCode, Answer, CloseReason, Closed, Connect, Inbound, Oversize, Publish, QoS, Subscription, TooLarge,
    Version, Will,
};
use selvedge_types::time::EpochMs;
use selvedge_types::topic::Filter;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::sync::LazyLock;

const SHARDS: u16 = 8;
const CONNECTION: u64 = 5;
const MAX_STEPS: usize = 400;
/// As the connection lets through, of QoS 1 and 2.
const MAX_INFLIGHT: usize = 64;
/// What one event may have submitted: a part for each shard, or its note, and a SUBSCRIBE in pieces.
const MAX_SUBMITTED: usize = 2 * SHARDS as usize + 8;

/// From here on a session's items are of SUBSCRIBE and UNSUBSCRIBE.
const ASKED: u64 = 1 << 62;

const TOPICS: [&str; 7] =
    ["d/a/t", "d/b/t", "d/c/t", "many", "heard/x", "elsewhere", "d/a-device-of-another-shard/t"];
const PAYLOADS: [&str; 9] = [
    "5",
    "x",
    "",
    "1e999",
    r#"{"value": 1, "seq": 5}"#,
    r#"[{"n":"a","v":1},{"n":"b","v":2},{"n":"c","v":3},{"n":"d","v":4}]"#,
    r#"[{"n":"a","v":1},{"bn":"a:","n":"label","vs":"x"}]"#,
    r#"[{"n":"a","v":1},{"n":"a","v":2},{"n":"e","v":3}]"#,
    r#"[{"n":"label","vs":"x"}]"#,
];

static RING: LazyLock<Ring> =
    LazyLock::new(|| Ring::new(SHARDS, &[Member { id: GatewayId(1), weight: 1 }], 1).expect("a ring"));
static DECODER: LazyLock<Decoder> = LazyLock::new(|| {
    let rule = |topic: &str, decoder| TopicRule { topic: topic.into(), decoder, ..TopicRule::default() };
    let rules = vec![rule("d/{device}/{stream}", Form::Auto), rule("many", Form::SenmlJson)];
    Decoder::new(rules).expect("sound rules")
});

fn site() -> SessionContext<'static> {
    let (origin, now) = (Origin { gateway: GatewayId(1), start: 2 }, EpochMs(1_764_000_000_000));
    SessionContext {
        ring: &RING,
        decoder: &DECODER,
        origin,
        now,
        listens: &|topic| topic.starts_with("heard/"),
    }
}

/// What the client has sent that may be answered.
#[derive(Default)]
struct Sent {
    qos: u8,
    cost_bytes: usize,
    answered: bool,
    routed: bool,
    oversize: bool,
}

/// A session, the client before it, the shards behind it, and what is known of all three.
struct World {
    session: Session,
    out: SessionEffects,
    /// Submitted and not settled, in each shard's order.
    open: BTreeMap<u16, VecDeque<(u64, Forwardable)>>,
    /// The greatest token of a publish that reached each shard.
    reached: BTreeMap<u16, u64>,
    sent: BTreeMap<u64, Sent>,
    /// How many parts of each are not settled.
    parts: BTreeMap<u64, usize>,
    /// Of how many of QoS 0 that is so.
    unapplied: usize,
    looks: usize,
    /// The shards that the session's record names as touched.
    noted: BTreeSet<u16>,
    /// Of QoS 1 and 2, and releases, that are not answered.
    inflight: usize,
    /// SUBSCRIBE and UNSUBSCRIBE that are not answered.
    asked: BTreeSet<u64>,
    token: u64,
    ask: u64,
    connected: bool,
    /// CONNECT was answered, with yes or no.
    greeted: Option<bool>,
    closed: bool,
    /// A will of an earlier connection is published, and the session waits for that.
    will_waits: bool,
    /// CONNECT may be taken back: it is still here.
    withdrawn: bool,
    /// Of publishes that were answered.
    acks: u64,
    acked: u64,
    refused: u64,
}

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let mut world = World {
        session: Session::new(CONNECTION),
        out: SessionEffects::default(),
        open: BTreeMap::new(),
        reached: BTreeMap::new(),
        sent: BTreeMap::new(),
        parts: BTreeMap::new(),
        unapplied: 0,
        looks: 0,
        noted: BTreeSet::new(),
        inflight: 0,
        asked: BTreeSet::new(),
        token: 0,
        ask: 0,
        connected: false,
        greeted: None,
        closed: false,
        will_waits: false,
        withdrawn: false,
        acks: 0,
        acked: 0,
        refused: 0,
    };
    world.connect(&mut source);
    for _ in 0..MAX_STEPS {
        if source.is_empty() {
            break;
        }
        world.step(&mut source);
    }
    world.end();
}

impl World {
    fn connect(&mut self, source: &mut Source) {
        let version = source.pick(&[Version::V5, Version::V311, Version::V31]);
        let expiry_s = if source.flag() { source.number(60) as u32 } else { 0 };
        let client_id = match source.below(4) {
            0 => String::new(),
            1 => source.text(300),
            _ => "pump".into(),
        };
        let will = source.flag().then(|| Will {
            topic: "d/a/t".into(),
            payload: vec![b'1'; source.below(2 * MAX_WILL_BYTES)].into(),
            qos: source.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce]),
            delay_s: source.number(1) as u32,
        });
        let connect = Connect {
            client_id: client_id.into(),
            version,
            clean: source.flag(),
            expiry_s,
            keepalive_s: 0,
            will,
            username: None,
            password: None,
        };
        self.connected = true;
        self.inbound(Inbound::Connect(Box::new(connect)));
    }

    fn step(&mut self, source: &mut Source) {
        match source.below(16) {
            0..5 => self.publish(source),
            5 => {
                // As fast as a client can, while its shards may be busy.
                let most = if source.byte() < 8 { 1_600 } else { 40 };
                let (topic, count) = (source.pick(&TOPICS), 1 + source.below(most));
                for _ in 0..count {
                    self.send(QoS::AtMostOnce, topic, "5", false, 1, source.byte() < 4);
                }
            }
            6 => {
                if self.may_send() {
                    self.token += 1;
                    let token = self.token;
                    self.inflight += 1;
                    self.sent.insert(token, Sent { qos: 3, ..Sent::default() });
                    let packet_id = NonZeroU16::new(1 + source.below(4) as u16).expect("not 0");
                    self.inbound(Inbound::Release { token, packet_id });
                }
            }
            7 => self.ask(source),
            8..13 => self.settle(source),
            13 => {
                if self.will_waits && source.flag() {
                    self.will_waits = false;
                    let mut out = std::mem::take(&mut self.out);
                    self.session.will_published(&mut out);
                    self.look(out, usize::MAX);
                } else if self.withdrawn {
                    self.withdraw();
                }
            }
            14 => {
                let mut out = std::mem::take(&mut self.out);
                match source.below(12) {
                    0 => self.session.refuse(site(), &mut out),
                    1 => self.session.overtaken(site(), &mut out),
                    2 => self.session.replaced(&mut out),
                    _ => {}
                }
                self.look(out, 1);
            }
            _ => {
                if source.byte() < 16 {
                    self.close(source);
                }
            }
        }
    }

    /// As a connection hands events up: from when it was accepted on, until it is over.
    fn may_send(&self) -> bool {
        self.greeted == Some(true) && !self.closed && self.inflight < MAX_INFLIGHT
    }

    fn publish(&mut self, source: &mut Source) {
        let qos = source.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce]);
        let (topic, payload) = (source.pick(&TOPICS), source.pick(&PAYLOADS));
        let (dup, id) = (source.byte() < 40, 1 + source.below(4) as u16);
        self.send(qos, topic, payload, dup, id, source.byte() < 16);
    }

    fn send(&mut self, qos: QoS, topic: &str, payload: &str, dup: bool, id: u16, oversize: bool) {
        if !self.may_send() {
            return;
        }
        self.token += 1;
        let token = self.token;
        let packet_id = NonZeroU16::new(id).filter(|_| qos != QoS::AtMostOnce);
        let publish = Publish {
            token,
            topic: topic.into(),
            payload: payload.to_string().into(),
            qos,
            dup,
            retain: false,
            packet_id,
        };
        let cost_bytes = publish.cost_bytes();
        self.inflight += usize::from(packet_id.is_some());
        self.sent.insert(token, Sent { qos: qos.into(), cost_bytes, oversize, ..Sent::default() });
        self.inbound(match oversize {
            false => Inbound::Publish(publish),
            true => Inbound::Oversize(Box::new(Oversize {
                token,
                topic: topic.into(),
                payload_bytes: 1 << 20,
                qos,
                dup,
                packet_id,
                why: TooLarge::Packet { bytes: 1 << 20, most: 4096 },
            })),
        });
    }

    fn ask(&mut self, source: &mut Source) {
        if self.greeted != Some(true) || self.closed {
            return;
        }
        self.ask += 1;
        let token = self.ask;
        self.asked.insert(token);
        let count = 1 + source.below(140);
        let name = |i: usize| if i % 50 == 7 { "x/".repeat(300) + "y" } else { format!("f/{i}") };
        let filters: Vec<Filter> = (0..count).filter_map(|i| Filter::new(&name(i)).ok()).collect();
        self.inbound(match source.flag() {
            true => Inbound::Unsubscribe { token, filters },
            false => {
                let of = |filter| Subscription { filter, qos: QoS::AtLeastOnce, no_local: false };
                Inbound::Subscribe { token, subscriptions: filters.into_iter().map(of).collect() }
            }
        });
    }

    fn close(&mut self, source: &mut Source) {
        if self.closed {
            return;
        }
        self.closed = true;
        let will = (self.greeted == Some(true) && source.flag()).then(|| Will {
            topic: "d/a/t".into(),
            payload: "1".into(),
            qos: QoS::AtMostOnce,
            delay_s: 0,
        });
        let expiry_s = source.flag().then(|| source.number(9) as u32);
        let closed = Closed { reason: CloseReason::Gone, will, expiry_s, undelivered: Vec::new() };
        self.inbound(Inbound::Closed(Box::new(closed)));
    }

    fn inbound(&mut self, event: Inbound) {
        let mut out = std::mem::take(&mut self.out);
        self.session.inbound(site(), event, &mut out);
        self.look(out, 1);
    }

    /// CONNECT is taken back, if it is the last that its shard was given.
    fn withdraw(&mut self) {
        self.withdrawn = false;
        for list in self.open.values_mut() {
            if list.back().is_some_and(|(_, item)| matches!(item, Forwardable::Item(Item::Connect(_)))) {
                if let Some((token, _)) = list.pop_back() {
                    self.parts.remove(&token);
                }
                self.session.withdrawn();
                return;
            }
        }
    }

    /// The first of what a shard was given is settled.
    fn settle(&mut self, source: &mut Source) {
        let shards: Vec<u16> =
            self.open.iter().filter(|(_, list)| !list.is_empty()).map(|(s, _)| *s).collect();
        if shards.is_empty() {
            return;
        }
        let shard = source.pick(&shards);
        let count = if source.byte() < 32 { 1 + source.below(2_000) } else { 1 };
        for _ in 0..count {
            let Some((token, item)) = self.open.get_mut(&shard).and_then(VecDeque::pop_front) else { break };
            let outcome = outcome(source, &item);
            self.settled(shard, token, &item, outcome);
        }
    }

    fn settled(&mut self, shard: u16, token: u64, item: &Forwardable, outcome: ItemOutcome) {
        match (item, &outcome) {
            (_, ItemOutcome::Connected(found)) => self.noted.extend(&found.touched),
            (Forwardable::Item(Item::Touch { shard, .. }), _) => drop(self.noted.insert(*shard)),
            _ => {}
        }
        let ticket = Ticket { connection: CONNECTION, token };
        let parts = self.parts.get_mut(&token).expect("it was submitted");
        *parts -= 1;
        if *parts == 0 {
            self.parts.remove(&token);
            self.unapplied -= usize::from(is_qos0(&self.sent, token));
        }
        // Whatever waited behind it may go on now.
        let most = self.token as usize + 2;
        let settled = SettledItem { ticket, shard: ShardId(shard), slot: 7, outcome };
        let mut out = std::mem::take(&mut self.out);
        self.session.settled(site(), settled, &mut out);
        self.look(out, most);
    }

    /// Holds what the session wants done against its promises. `events`: how many it may stem from.
    fn look(&mut self, mut out: SessionEffects, events: usize) {
        assert!(out.submit.len() <= MAX_SUBMITTED.saturating_mul(events), "{} submitted", out.submit.len());
        for (shard, ticket, item) in out.submit.drain(..) {
            assert_eq!(ticket.connection, CONNECTION);
            assert!(shard.0 < SHARDS);
            if matches!(item, Forwardable::Reading(_) | Forwardable::Publish(..)) {
                let before = self.reached.insert(shard.0, ticket.token);
                assert!(
                    before.is_none_or(|b| b < ticket.token),
                    "{} after {before:?} in {shard}",
                    ticket.token
                );
            }
            if let Forwardable::Publish(Some(by), _) = &item {
                assert!(by.qos < 2 || self.noted.contains(&shard.0), "PUBREL would not find {shard}");
            }
            let parts = self.parts.entry(ticket.token).or_default();
            *parts += 1;
            self.unapplied += usize::from(*parts == 1 && is_qos0(&self.sent, ticket.token));
            self.open.entry(shard.0).or_default().push_back((ticket.token, item));
        }
        for answer in out.answers.drain(..) {
            match answer {
                Answer::Accept(_) | Answer::Refuse(_) => {
                    assert!(self.connected && self.greeted.is_none(), "CONNECT is answered twice");
                    self.greeted = Some(matches!(answer, Answer::Accept(_)));
                }
                Answer::Ack(ack) => {
                    let sent = self.sent.get_mut(&ack.token).expect("something was sent");
                    assert!(sent.qos > 0 && !std::mem::replace(&mut sent.answered, true), "{}", ack.token);
                    self.inflight -= 1;
                    self.acks += u64::from(sent.qos < 3);
                    let open = self.parts.get(&ack.token).copied();
                    assert!(open.is_none(), "{} is answered before all its parts are settled", ack.token);
                    let failed = !matches!(ack.code, AckCode::Kept | AckCode::NoSubscribers);
                    assert!(!failed || sent.qos < 3, "PUBREL has no failure");
                }
                Answer::Subscribed { token, refused } => {
                    assert!(self.asked.remove(&token), "{token} is answered twice");
                    assert!(!self.parts.contains_key(&(ASKED + token)), "{token} is not chosen");
                    assert!(refused.iter().all(|i| *i < 140));
                }
                Answer::Unsubscribed { token } => {
                    assert!(self.asked.remove(&token), "{token} is answered twice");
                    assert!(!self.parts.contains_key(&(ASKED + token)), "{token} is not chosen");
                }
            }
        }
        for publish in out.route.drain(..) {
            let sent = self.sent.get_mut(&publish.token).expect("it was sent");
            assert!(!sent.oversize && !std::mem::replace(&mut sent.routed, true), "{}", publish.token);
        }
        self.will_waits |= !out.wills.is_empty() && self.greeted.is_none();
        self.withdrawn |= !out.withdraw.is_empty();
        (self.acked, self.refused) = (self.acked + out.acked, self.refused + out.refused);
        assert_eq!(self.acks, self.acked + self.refused, "every answer is counted");
        assert!(self.unapplied <= MAX_QOS0_PENDING, "{} of QoS 0 wait", self.unapplied);
        self.looks += 1;
        if self.looks < 200 || self.looks.is_multiple_of(64) {
            let held: usize =
                self.sent.values().filter(|s| !s.answered && !s.routed).map(|s| s.cost_bytes).sum();
            assert!(self.session.held_bytes() <= held, "{} held of {held}", self.session.held_bytes());
        }
        if self.open.values().all(VecDeque::is_empty) && (!self.session.is_gone() || self.closed) {
            assert_eq!(self.session.held_bytes(), 0, "nothing is under way, and something is held");
        }
    }

    /// The connection ends, and its shards settle all that they have: nothing stays behind.
    fn end(&mut self) {
        self.close(&mut Source::new(&[]));
        let mut rounds = 0;
        while let Some((shard, (token, item))) =
            self.open.iter_mut().find_map(|(shard, list)| Some((*shard, list.pop_front()?)))
        {
            rounds += 1;
            assert!(rounds < 100_000, "it never ends");
            self.settled(shard, token, &item, outcome(&mut Source::new(&[]), &item));
        }
        assert_eq!(self.session.held_bytes(), 0);
        assert!(self.session.is_over(), "something is still awaited");
    }
}

fn is_qos0(sent: &BTreeMap<u64, Sent>, token: u64) -> bool {
    sent.get(&token).is_some_and(|sent| sent.qos == 0)
}

/// What a shard may say to an item. Without further choices: that it was applied.
fn outcome(source: &mut Source, item: &Forwardable) -> ItemOutcome {
    let how = source.byte();
    // Applied before, with an outcome that is no longer known.
    if (240..246).contains(&how) {
        return ItemOutcome::Done;
    }
    let refused = || ItemOutcome::Refused("a bound of the machine".into());
    let readings = match item {
        Forwardable::Reading(_) => 1,
        Forwardable::Publish(_, list) => list.len() as u32,
        Forwardable::Item(Item::Connect(connect)) => {
            if how >= 246 {
                return refused();
            }
            let will = (how % 4 == 1).then(|| {
                let will = SessionWill { topic: "d/a/t".into(), payload: b"1".to_vec(), qos: 0, delay_s: 0 };
                Box::new(DueWill { client: connect.client.clone(), instance: 3, epoch: 7, will })
            });
            let connected = ConnectOutcome {
                instance: 3,
                epoch: 8,
                present: how % 8 > 3,
                subscriptions: vec![("f/1".into(), how), (String::new(), 0)],
                touched: (0..u16::from(how % 3)).collect(),
                expiry_s: connect.expiry_s,
                will,
            };
            return ItemOutcome::Connected(Box::new(connected));
        }
        Forwardable::Item(Item::Subscriptions { add, .. }) => {
            return match how {
                0..160 => ItemOutcome::Done,
                160..230 => ItemOutcome::Subscribed { refused: (0..add.len() as u16).step_by(3).collect() },
                230..235 => ItemOutcome::Subscribed { refused: vec![u16::MAX] },
                235..250 => refused(),
                _ => ItemOutcome::Stale,
            };
        }
        Forwardable::Item(Item::Disconnect(_)) => {
            return match how {
                0..128 => ItemOutcome::Done,
                128..250 => {
                    let will =
                        SessionWill { topic: "d/a/t".into(), payload: b"1".to_vec(), qos: 0, delay_s: 0 };
                    ItemOutcome::WillDue(Box::new(DueWill {
                        client: "pump".into(),
                        instance: 3,
                        epoch: 8,
                        will,
                    }))
                }
                _ => ItemOutcome::Stale,
            };
        }
        _ => {
            return match how {
                0..220 => ItemOutcome::Done,
                220..250 => refused(),
                _ => ItemOutcome::Stale,
            };
        }
    };
    match how {
        0..120 => ItemOutcome::Judged(Judged { counted: readings, recognised: 0, set_aside: Vec::new() }),
        120..200 => {
            let mut judged = Judged::default();
            for reading in 0..readings {
                match source.below(3) {
                    0 => judged.counted += 1,
                    1 => judged.recognised += 1,
                    _ => {
                        let reason = source.pick(&Reason::ALL);
                        judged.set_aside.push(SetAside { reading, reason });
                    }
                }
            }
            ItemOutcome::Judged(judged)
        }
        200..225 => ItemOutcome::Duplicate,
        225..250 => refused(),
        _ => ItemOutcome::Stale,
    }
}
