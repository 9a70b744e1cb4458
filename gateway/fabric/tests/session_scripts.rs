//! Golden scripts of sessions: the packets of MQTT connections at two gateways, what their sessions submit to the
//! shards, and when the clients are answered. Sessions, wills, forwarders and the shards' machines are those that
//! ship; only Paxos is left out: the script says when a shard chooses the next batch that was sent to it.
//!
//! | Command | What happens |
//! |---|---|
//! | `rules JSON` | the counting rules of all shards, before anything else |
//! | `cN connect v5` or `v3 [clean] [expiry=S] [will=TOPIC] CLIENT` | connection N sends CONNECT; `-` is no client id |
//! | `cN publish [qos1 or qos2 id=ID] [dup] TOPIC PAYLOAD` | PUBLISH |
//! | `cN oversize [qos1 or qos2 id=ID] TOPIC BYTES` | a PUBLISH that is larger than `max_packet_bytes` |
//! | `cN release ID` | PUBREL |
//! | `cN subscribe FILTER...`, `cN unsubscribe FILTER...` | SUBSCRIBE, UNSUBSCRIBE |
//! | `cN bye [expiry=S]`, `cN gone` | the connection ends, with DISCONNECT or without |
//! | `cN waited` | its CONNECT has waited too long |
//! | `cN evicted` | its gateway learns that a shard has evicted it |
//! | `choose SHARD [of gN]` | the shard's next batch (of that gateway) is chosen, applied and answered |
//! | `choose all` | the same, until no batch is left |
//! | `wait MS` | both clocks move on |
//! | `tick SHARD` | the shard's leader proposes that time has passed |
//! | `figures` | what has been counted so far |
//!
//! Connections from `c20` on are at gateway 2, the others at gateway 1. A session at one connection is shown as
//! `CLIENT@EPOCH`. Effects follow in the order in which a gateway carries them out. Routed publishes go to
//! subscribers. A connection gives its client the answers in the order of the client's packets, in whatever order
//! they come here. A gateway publishes wills under its own name.

#![allow(clippy::disallowed_methods)] // Scripts are files.

mod support {
    pub mod golden;
    pub mod site;
}

use selvedge_fabric::forward::{
    Forward, ForwardEffects, Forwardable, NamedReading, Outgoing, SettledItem, Ticket,
};
use selvedge_fabric::machine::{
    BatchVerdict, Command, CountingRules, Item, ItemOutcome, Judged, Machine, Origin, Proposal, Source,
};
use selvedge_fabric::peer::ForwardAnswer;
use selvedge_fabric::session::{Session, SessionContext, SessionEffects};
use selvedge_fabric::wills::{WILLS, WillPublisher};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::mqtt::{
    AckCode, Answer, CloseReason, Closed, Connect, Inbound, Oversize, Publish, QoS, Subscription, TooLarge,
    Version, Will,
};
use selvedge_types::time::ElapsedMs;
use selvedge_types::topic::Filter;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::num::NonZeroU16;
use std::sync::Arc;
use support::site::{BEGIN, ORIGIN, Site};

fn world() -> impl FnMut(&str, &mut String) {
    let mut world = World::new();
    move |told, out| world.tell(told, out)
}

#[test]
fn sessions_do_as_written() {
    support::golden::check("session", world);
}

#[test]
fn known_mistakes_show_in_the_scripts() {
    for (mistake, script) in [
        (Canary::AcknowledgedInPart, "acknowledged_after_every_shard"),
        (Canary::AcknowledgedUnquarantined, "not_counted"),
        (Canary::SubackBeforeChosen, "suback_after_chosen"),
        (Canary::WillAfterConnack, "will"),
        (Canary::TouchedUnnoted, "qos_2_and_release"),
        (Canary::ReleasedInPart, "qos_2_and_release"),
        (Canary::RoutedAsSettled, "topic_order_across_shards"),
    ] {
        canary::make(Some(mistake));
        let differences = support::golden::differences("session", world);
        canary::make(None);
        let names: Vec<_> = differences.iter().filter_map(|d| d.path.file_stem()).collect();
        assert!(names.iter().any(|name| *name == script), "{mistake:?} shows in {names:?}");
    }
}

struct World {
    site: Site,
    gateways: [Gateway; 2],
    rules: Arc<CountingRules>,
    machines: BTreeMap<ShardId, Machine>,
    /// Items sent to the shards and not chosen.
    sent: BTreeMap<ShardId, VecDeque<(GatewayId, Outgoing)>>,
    connections: BTreeMap<u64, Connection>,
    now_ms: u64,
    figures: SessionEffects,
}

struct Gateway {
    forward: Forward,
    wills: WillPublisher,
}

impl Gateway {
    fn origin(&self) -> Origin {
        self.forward.origin()
    }
}

struct Connection {
    at: GatewayId,
    closed: bool,
    session: Session,
    will: Option<Will>,
    /// By token: the packet that the answer is for, with its id.
    packets: Vec<String>,
    filters: Vec<Filter>,
    asked: u64,
}

impl Connection {
    fn new(number: u64) -> Self {
        let at = GatewayId(if number < 20 { 1 } else { 2 });
        let (session, will, packets, filters) = (Session::new(number), None, vec![String::new()], Vec::new());
        Self { at, closed: false, session, will, packets, filters, asked: 0 }
    }
}

impl World {
    fn new() -> Self {
        let site = Site::new();
        let gateways = [GatewayId(1), GatewayId(2)].map(|gateway| {
            let forward = Forward::new(Origin { gateway, ..ORIGIN }, Arc::new(site.ring.clone()), 0);
            Gateway { forward, wills: WillPublisher::default() }
        });
        Self {
            site,
            gateways,
            rules: Arc::default(),
            machines: BTreeMap::new(),
            sent: BTreeMap::new(),
            connections: BTreeMap::new(),
            now_ms: 0,
            figures: SessionEffects::default(),
        }
    }

    fn tell(&mut self, told: &str, out: &mut String) {
        let (first, rest) = told.split_once(' ').unwrap_or((told, ""));
        match first {
            "rules" => self.rules = Arc::new(serde_json::from_str(rest).unwrap()),
            "choose" if rest == "all" => {
                while let Some(shard) = self.sent.iter().find(|(_, sent)| !sent.is_empty()).map(|(s, _)| *s) {
                    self.choose(shard, None, out);
                }
            }
            "choose" => {
                let (of, gateway) = rest.split_once(" of g").map_or((rest, None), |(s, g)| (s, Some(g)));
                self.choose(shard(of), gateway.map(|g| GatewayId(g.parse().unwrap())), out);
            }
            "wait" => self.now_ms += rest.parse::<u64>().unwrap(),
            "tick" => self.apply(shard(rest), Command::Tick, out),
            "figures" => self.show_figures(out),
            connection => {
                let number =
                    connection.strip_prefix('c').unwrap_or_else(|| panic!("{told}?")).parse().unwrap();
                self.connection(number, rest, out);
            }
        }
    }

    fn connection(&mut self, number: u64, told: &str, out: &mut String) {
        let (what, rest) = told.split_once(' ').unwrap_or((told, ""));
        let (flags, rest) = flags(rest);
        let value = |key: &str| flags.iter().find_map(|f| f.strip_prefix(key));
        let seconds = || value("expiry=").map(|s| s.parse::<u32>().unwrap());
        if what == "connect" {
            assert!(self.connections.insert(number, Connection::new(number)).is_none(), "{number} is taken");
        }
        let connection = self.connections.get_mut(&number).unwrap_or_else(|| panic!("c{number} is over"));
        let next_token = connection.packets.len() as u64;
        let packet_id = value("id=").map(|id| id.parse::<NonZeroU16>().unwrap());
        let (qos, answer) = match &flags {
            flags if flags.contains(&"qos1") => (QoS::AtLeastOnce, "PUBACK"),
            flags if flags.contains(&"qos2") => (QoS::ExactlyOnce, "PUBREC"),
            _ => (QoS::AtMostOnce, "nothing"),
        };
        assert_eq!(packet_id.is_some(), qos != QoS::AtMostOnce, "{told}");
        let dup = flags.contains(&"dup");
        let filters = || rest.split(' ').map(|f| Filter::new(f).unwrap());
        let event = match what {
            "connect" => {
                let will = |topic: &str| {
                    let (topic, payload) = (topic.into(), "0".into());
                    Will { topic, payload, qos: QoS::AtLeastOnce, delay_s: 0 }
                };
                connection.will = value("will=").map(will);
                Inbound::Connect(Box::new(Connect {
                    client_id: if rest == "-" { "".into() } else { rest.into() },
                    version: if flags.contains(&"v5") { Version::V5 } else { Version::V311 },
                    clean: flags.contains(&"clean"),
                    expiry_s: seconds().unwrap_or(0),
                    keepalive_s: 0,
                    will: connection.will.clone(),
                    username: None,
                    password: None,
                }))
            }
            "publish" | "oversize" => {
                connection.packets.push(format!("{answer} {}", packet_id.map_or(0, NonZeroU16::get)));
                let (topic, payload) = rest.split_once(' ').unwrap_or((rest, ""));
                let (token, topic) = (next_token, topic.into());
                if what == "publish" {
                    let payload = payload.to_string().into();
                    Inbound::Publish(Publish { token, topic, payload, qos, dup, retain: false, packet_id })
                } else {
                    let payload_bytes = payload.parse().unwrap();
                    let why = TooLarge::Packet { bytes: payload_bytes + 9, most: 262_144 };
                    let oversize = Oversize { token, topic, payload_bytes, qos, dup, packet_id, why };
                    Inbound::Oversize(Box::new(oversize))
                }
            }
            "release" => {
                connection.packets.push(format!("PUBCOMP {rest}"));
                Inbound::Release { token: next_token, packet_id: rest.parse().unwrap() }
            }
            "subscribe" => {
                connection.asked += 1;
                let subscribe = |filter| Subscription { filter, qos: QoS::AtLeastOnce, no_local: false };
                let subscriptions = filters().map(subscribe).collect();
                Inbound::Subscribe { token: connection.asked, subscriptions }
            }
            "unsubscribe" => {
                connection.asked += 1;
                Inbound::Unsubscribe { token: connection.asked, filters: filters().collect() }
            }
            "bye" | "gone" => {
                connection.closed = true;
                connection.filters.clear();
                let will = connection.will.take().filter(|_| what == "gone");
                let (reason, expiry_s, undelivered) = (CloseReason::Gone, seconds(), Vec::new());
                Inbound::Closed(Box::new(Closed { reason, will, expiry_s, undelivered }))
            }
            "waited" => {
                return self.step(number, out, |session, site, effects| session.refuse(site, effects));
            }
            "evicted" => return self.step(number, out, |session, _, effects| session.replaced(effects)),
            other => panic!("{other}?"),
        };
        self.step(number, out, |session, site, effects| session.inbound(site, event, effects));
    }

    /// Something happens to a session, and its effects are carried out.
    fn step(
        &mut self,
        number: u64,
        out: &mut String,
        happens: impl FnOnce(&mut Session, SessionContext<'_>, &mut SessionEffects),
    ) {
        let mut effects = SessionEffects::default();
        let filters = self.filters();
        let listens = |topic: &str| filters.iter().any(|f| f.matches(topic));
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let origin = self.gateways[index(connection.at)].origin();
        let site = self.site.at(origin, BEGIN.plus(self.now_ms as i64), &listens);
        happens(&mut connection.session, site, &mut effects);
        let (at, over) = (connection.at, connection.closed && connection.session.is_over());
        self.perform((at, number), effects, out);
        if over {
            writeln!(out, "c{number} is over").unwrap();
            self.connections.remove(&number);
        }
    }

    fn filters(&self) -> Vec<Filter> {
        self.connections.values().flat_map(|c| c.filters.iter().cloned()).collect()
    }

    fn perform(&mut self, (at, number): (GatewayId, u64), mut effects: SessionEffects, out: &mut String) {
        let who = if number == WILLS { format!("{at}") } else { format!("c{number}") };
        for subscription in &effects.subscribe {
            writeln!(out, "{who} hears {}", subscription.filter.as_str()).unwrap();
        }
        for filter in &effects.unsubscribe {
            writeln!(out, "{who} no longer hears {}", filter.as_str()).unwrap();
        }
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.filters.extend(effects.subscribe.drain(..).map(|s| s.filter));
            connection.filters.retain(|f| !effects.unsubscribe.contains(f));
        }
        for due in std::mem::take(&mut effects.wills) {
            let waits = Some(number).filter(|n| *n != WILLS);
            writeln!(out, "{who} has the will of {}@{} published", due.client, due.epoch).unwrap();
            let gateway = &mut self.gateways[index(at)];
            let site = self.site.at(gateway.origin(), BEGIN.plus(self.now_ms as i64), &|_| false);
            gateway.wills.publish(site, due, waits, &mut effects);
        }
        for (shard, ticket, item) in effects.submit.drain(..) {
            let from = if ticket.connection == WILLS { format!("{at}") } else { who.clone() };
            writeln!(out, "{from} -> {} {}", name(shard), show(&item)).unwrap();
            self.gateways[index(at)].forward.submit(shard, ticket, item);
        }
        let mut sent = ForwardEffects::default();
        self.gateways[index(at)].forward.flush(self.now_ms, &mut sent);
        self.send(at, sent);
        for (shard, ticket) in effects.withdraw.drain(..) {
            let withdrawn = self.gateways[index(at)].forward.withdraw(shard, ticket);
            writeln!(out, "{who} withdraws CONNECT{}", if withdrawn { "" } else { ", too late" }).unwrap();
        }
        for field in &effects.skipped {
            writeln!(out, "{who} skips {} of {}: {}", field.name, field.device, field.why).unwrap();
        }
        for (topic, bytes) in &effects.unmapped {
            writeln!(out, "{who} notes that {topic} maps to no stream ({bytes} bytes)").unwrap();
        }
        for answer in &effects.answers {
            let lost = if self.connections[&number].closed { " (it is gone)" } else { "" };
            writeln!(out, "{who} <- {}{lost}", self.answer(number, answer)).unwrap();
        }
        if let Some(reason) = effects.close {
            writeln!(out, "{who} is closed: {reason:?}").unwrap();
        }
        for publish in &effects.route {
            let payload = String::from_utf8_lossy(&publish.payload);
            writeln!(out, "{who} routes {} {payload}", publish.topic).unwrap();
        }
        let f = &mut self.figures;
        f.acked += effects.acked;
        f.refused += effects.refused;
        f.dropped += effects.dropped;
        f.fates.counted += effects.fates.counted;
        f.fates.recognised += effects.fates.recognised;
        f.fates.set_aside += effects.fates.set_aside;
    }

    fn answer(&self, number: u64, answer: &Answer) -> String {
        match answer {
            Answer::Accept(accept) => {
                let mut text = format!("CONNACK, session present {}", u8::from(accept.session_present));
                if let Some(id) = &accept.assigned_client_id {
                    write!(text, ", client id {id}").unwrap();
                }
                if let Some(seconds) = accept.expiry_s {
                    write!(text, ", expiry {seconds} s").unwrap();
                }
                text
            }
            Answer::Refuse(why) => format!("CONNACK, refused: {why:?}"),
            Answer::Subscribed { token, refused } if refused.is_empty() => format!("SUBACK {token}"),
            Answer::Subscribed { token, refused } => format!("SUBACK {token} without {refused:?}"),
            Answer::Unsubscribed { token } => format!("UNSUBACK {token}"),
            Answer::Ack(ack) => {
                let mut text = self.connections[&number].packets[ack.token as usize].clone();
                if ack.code != AckCode::Kept {
                    write!(text, " {:?}", ack.code).unwrap();
                }
                if let Some(note) = &ack.note {
                    for (key, value) in &note.properties {
                        write!(text, ", {key} {value}").unwrap();
                    }
                    if let Some(reason) = &note.reason_string {
                        write!(text, ": {reason}").unwrap();
                    }
                }
                text
            }
        }
    }

    fn send(&mut self, from: GatewayId, effects: ForwardEffects) {
        for (_, batch) in effects.send {
            self.sent.entry(batch.shard).or_default().push_back((from, batch));
        }
    }

    fn choose(&mut self, shard: ShardId, of: Option<GatewayId>, out: &mut String) {
        let sent = self.sent.entry(shard).or_default();
        let next = sent.iter().position(|(from, _)| of.is_none_or(|of| *from == of));
        match next.and_then(|at| sent.remove(at)) {
            None => writeln!(out, "nothing to choose").unwrap(),
            Some((from, Outgoing { n, submission, .. })) => {
                let origin = self.gateways[index(from)].origin();
                self.apply(shard, Command::Forwarded { origin, n, submission }, out);
            }
        }
    }

    fn apply(&mut self, shard: ShardId, command: Command, out: &mut String) {
        let (elapsed, wall) = (ElapsedMs(self.now_ms), BEGIN.plus(self.now_ms as i64));
        let proposal = |commands| Proposal { elapsed, wall, sure: true, commands };
        let machine = self.machines.entry(shard).or_insert_with(|| {
            let mut machine = Machine::new(shard, self.rules.clone());
            let rules: Vec<_> = machine.rules_command().into_iter().collect();
            machine.apply(1, &proposal(rules)).unwrap();
            machine
        });
        let slot = machine.slot() + 1;
        let applied = machine.apply(slot, &proposal(vec![command])).unwrap();
        for (origin, n, verdict) in applied.verdicts {
            let BatchVerdict::Applied(outcomes) = &verdict else { panic!("{verdict:?}") };
            for outcome in outcomes.iter() {
                writeln!(out, "{} {slot}: {}", name(shard), became(outcome)).unwrap();
            }
            let mut effects = ForwardEffects::default();
            let answer = ForwardAnswer::Verdict { slot, verdict };
            let forward = &mut self.gateways[index(origin.gateway)].forward;
            forward.answered(self.now_ms, (ORIGIN.gateway, origin, shard, n), answer, &mut effects);
            let outcomes = std::mem::take(&mut effects.outcomes);
            self.send(origin.gateway, effects);
            outcomes.into_iter().for_each(|settled| self.settled(origin.gateway, settled, out));
        }
        for evicted in applied.evicted {
            writeln!(out, "{} evicts c{}", name(shard), evicted.connection).unwrap();
        }
    }

    fn settled(&mut self, at: GatewayId, settled: SettledItem, out: &mut String) {
        let Ticket { connection, .. } = settled.ticket;
        if connection != WILLS {
            return self.step(connection, out, |session, site, effects| {
                session.settled(site, settled, effects);
            });
        }
        let mut effects = SessionEffects::default();
        let gateway = &mut self.gateways[index(at)];
        let site = self.site.at(gateway.origin(), BEGIN.plus(self.now_ms as i64), &|_| false);
        let waited = gateway.wills.settled(site, settled, &mut effects);
        self.perform((at, WILLS), effects, out);
        if let Some(waited) = waited {
            self.step(waited.connection, out, |session, _, effects| match waited.replaced {
                true => session.replaced(effects),
                false => session.will_published(effects),
            });
        }
    }

    fn show_figures(&self, out: &mut String) {
        let f = &self.figures;
        writeln!(
            out,
            "publishes: {} acknowledged, {} refused, {} dropped; readings: {} counted, {} recognised, {} set aside",
            f.acked, f.refused, f.dropped, f.fates.counted, f.fates.recognised, f.fates.set_aside
        )
        .unwrap();
        for (number, connection) in &self.connections {
            writeln!(out, "c{number} holds {} bytes", connection.session.held_bytes()).unwrap();
        }
    }
}

fn index(gateway: GatewayId) -> usize {
    usize::from(gateway.0) - 1
}

/// The leading words that set options, and the rest.
fn flags(text: &str) -> (Vec<&str>, &str) {
    let is_flag = |word: &str| {
        let keys = ["id=", "expiry=", "will="];
        ["qos1", "qos2", "dup", "clean", "v3", "v5"].contains(&word)
            || keys.iter().any(|k| word.starts_with(k))
    };
    let (mut list, mut rest) = (Vec::new(), text);
    loop {
        let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        if !is_flag(word) {
            return (list, rest);
        }
        list.push(word);
        rest = behind;
    }
}

fn shard(text: &str) -> ShardId {
    ShardId(
        text.strip_prefix('s').and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text} is no shard")),
    )
}

fn name(shard: ShardId) -> String {
    format!("s{}", shard.0)
}

fn show(item: &Forwardable) -> String {
    let readings = |list: &[NamedReading]| {
        let show = |r: &NamedReading| format!("{}/{}={}", r.name.device, r.name.stream, r.reading.value);
        list.iter().map(show).collect::<Vec<_>>().join(" ")
    };
    match item {
        Forwardable::Reading(reading) => readings(std::slice::from_ref(reading)),
        Forwardable::Publish(None, list) => readings(list),
        Forwardable::Publish(Some(source), list) => format!("{} of {}", readings(list), by(source)),
        Forwardable::Readmit(..) => panic!("sessions do not readmit"),
        Forwardable::Item(item) => match item {
            Item::Connect(c) => {
                let mut text = format!("connect {}", c.client);
                if c.expiry_s > 0 {
                    write!(text, " expiry {} s", c.expiry_s).unwrap();
                }
                if c.clean {
                    text.push_str(" clean");
                }
                if let Some(will) = &c.will {
                    write!(text, " will {}", will.topic).unwrap();
                }
                text
            }
            Item::Disconnect(d) => {
                let will = if d.with_will { " with its will" } else { "" };
                let expiry = d.expiry_s.map(|s| format!(" expiry {s} s")).unwrap_or_default();
                format!("disconnect {}@{}{will}{expiry}", d.client, d.epoch)
            }
            Item::WillDone { client, epoch, .. } => format!("will done {client}@{epoch}"),
            Item::Subscriptions { client, epoch, add, remove } => {
                let add = add.iter().map(|(filter, _)| format!(" +{filter}"));
                let all: String = add.chain(remove.iter().map(|filter| format!(" -{filter}"))).collect();
                format!("filters {client}@{epoch}{all}")
            }
            Item::Touch { client, epoch, shard } => format!("touch {client}@{epoch} s{shard}"),
            Item::Release(source) => format!("release {}", by(source)),
            Item::ResendCounted(source) => format!("resend counted {}", by(source)),
            Item::Quarantine { epoch, publish: q } => {
                let mut text = format!("quarantine {}@{epoch} {}", q.client, q.topic);
                if q.packet_id > 0 {
                    write!(text, " id {}", q.packet_id).unwrap();
                }
                if !q.counted.is_empty() {
                    write!(text, ", {} counted", q.counted.len()).unwrap();
                }
                if q.recognised > 0 {
                    write!(text, ", {} of these recognised", q.recognised).unwrap();
                }
                if q.payload.len() as u64 != q.payload_bytes {
                    write!(text, ", without its {} bytes", q.payload_bytes).unwrap();
                }
                format!("{text}: {}", q.why)
            }
            other => panic!("sessions do not submit {other:?}"),
        },
    }
}

fn by(s: &Source) -> String {
    let dup = if s.dup { " dup" } else { "" };
    format!("{}@{} qos {} id {}{dup}", s.client, s.epoch, s.qos, s.packet_id)
}

fn became(outcome: &ItemOutcome) -> String {
    match outcome {
        ItemOutcome::Done => "done".into(),
        ItemOutcome::Judged(Judged { counted, recognised, set_aside }) => {
            let mut text = format!("{counted} counted");
            if *recognised > 0 {
                write!(text, ", {recognised} recognised").unwrap();
            }
            if !set_aside.is_empty() {
                write!(text, ", {} set aside", set_aside.len()).unwrap();
            }
            text
        }
        ItemOutcome::Duplicate => "duplicate".into(),
        ItemOutcome::Stale => "stale".into(),
        ItemOutcome::Refused(why) => format!("refused: {why}"),
        ItemOutcome::Subscribed { refused } => format!("filters without {refused:?}"),
        ItemOutcome::Connected(found) => {
            let mut text = format!("connected, epoch {}", found.epoch);
            if found.present {
                text.push_str(", session present");
            }
            for (filter, _) in &found.subscriptions {
                write!(text, ", hears {filter}").unwrap();
            }
            for shard in &found.touched {
                write!(text, ", touched s{shard}").unwrap();
            }
            if let Some(will) = &found.will {
                write!(text, ", first the will of epoch {}", will.epoch).unwrap();
            }
            text
        }
        ItemOutcome::WillDue(will) => format!("the will of epoch {} is due", will.epoch),
        ItemOutcome::Retired { .. } => panic!("sessions do not retire streams"),
        ItemOutcome::Directory(_) => panic!("sessions send nothing to the directory"),
    }
}
