//! Golden scripts of forwarding: what a gateway (g9 in its fourth start) sends to the leaders of its shards, and which
//! outcomes leave when. The replicas are g1 to g3; the script says what they answer.
//!
//! | Command | What happens |
//! |---|---|
//! | `shards N` | the site has N shards; it comes first, and without it there is one |
//! | `@MS begin` | the process has begun |
//! | `@MS submit A-B [of sN] [xM]` | items A to B come together, each a publish of M readings (1) |
//! | `@MS each A-B [of sN] [xM]` | items A to B come one after the other |
//! | `@MS publish A DEVICE/STREAM[!CLIENT]...` | item A comes; a stream that may be new is named with its client |
//! | `@MS connect A CLIENT`, `withdraw A` | item A is a CONNECT; the session takes it back |
//! | `@MS gN [sM]#B applied [OUTCOME...]` | a replica answers for batch B; items without an outcome are counted |
//! | `@MS gN [sM]#B already`, `malformed`, `gap LAST`, `old-start` | other verdicts of the log |
//! | `@MS gN [sM]#B not-leader [gK] [cN gA gB...]` | that replica does not lead; it is in configuration N of these members (in the first) |
//! | `@MS gN [sM]#B busy window`, `busy disk`, `busy outbox` | answers without the log |
//! | `@MS gN [sM]#B of START ...` | an answer that is meant for another start of g9 |
//! | `@MS ring sM cN gA gB...` | a ring that has this shard at these gateways, in configuration N |
//! | `@MS leader gN [of sM]` | the forwarder learns which gateway leads |
//! | `@MS down gN`, `up gN` | gateway N can't be reached, or can be again |
//! | `@MS timer` | the clock has come to this time |
//! | `@MS status` | the batches and items that are held, and why |
//!
//! A batch is shown with its items and a checksum of its bytes: a number's bytes never change. `timer at` follows
//! whenever the time of the next resend has changed.

#![allow(clippy::disallowed_methods)] // Scripts are files.

mod support {
    pub mod golden;
}

use selvedge_fabric::forward::{Forward, ForwardEffects, Forwardable, NamedReading, PIPELINE_BYTES, Ticket};
use selvedge_fabric::machine::{
    BatchVerdict, ConnectItem, Item, ItemOutcome, Judged, Origin, Reading, Submission,
};
use selvedge_fabric::peer::{BusyReason, ForwardAnswer};
use selvedge_fabric::ring::{Member, ReplicaSet, Ring};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::StreamName;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

const ORIGIN: Origin = Origin { gateway: GatewayId(9), start: 4 };
const COUNTED: ItemOutcome = ItemOutcome::Judged(Judged { counted: 1, recognised: 0, set_aside: Vec::new() });
/// The slot in which a leader's batch is chosen: its number plus this.
const SLOTS_BEFORE: u64 = 10;

#[test]
fn forwarders_do_as_written() {
    support::golden::check("forward", || {
        let mut world = World::new(1);
        move |told: &str, out: &mut String| world.tell(told, out)
    });
}

struct World {
    /// The first ring.
    ring: Arc<Ring>,
    forward: Forward,
    effects: ForwardEffects,
    /// By shard and number.
    sent: BTreeMap<(ShardId, u64), Arc<[u8]>>,
    deadline_ms: Option<u64>,
}

impl World {
    fn new(shards: u16) -> Self {
        let members: Vec<_> = (1..=3).map(|g| Member { id: GatewayId(g), weight: 1 }).collect();
        let ring = Arc::new(Ring::new(shards, &members, 3).unwrap());
        let forward = Forward::new(ORIGIN, ring.clone(), PIPELINE_BYTES);
        Self { ring, forward, effects: ForwardEffects::default(), sent: BTreeMap::new(), deadline_ms: None }
    }

    fn tell(&mut self, told: &str, out: &mut String) {
        let words: Vec<&str> = told.split_whitespace().collect();
        match words[..] {
            ["shards", count] => *self = Self::new(count.parse().unwrap()),
            ["withdraw", item] => {
                let withdrawn = self.forward.withdraw(shard_of(&words), ticket(item.parse().unwrap()));
                writeln!(out, "{}", if withdrawn { "taken back" } else { "a batch has it" }).unwrap();
            }
            [at, ref rest @ ..] => {
                let now_ms = at.strip_prefix('@').and_then(|at| at.parse().ok());
                self.at(now_ms.unwrap_or_else(|| panic!("{told}?")), rest, out);
            }
            [] => panic!("nothing is told"),
        }
        self.show(out);
    }

    fn at(&mut self, now_ms: u64, words: &[&str], out: &mut String) {
        let shard = shard_of(words);
        match words[0] {
            "begin" => {
                self.forward.begin();
                self.forward.flush(now_ms, &mut self.effects);
            }
            what @ ("submit" | "each") => {
                let readings =
                    words.iter().find_map(|w| w.strip_prefix('x')).map_or(1, |n| n.parse().unwrap());
                for item in range(words[1]) {
                    let reading = reading("d/s", item as f64);
                    let publish = Forwardable::Publish(None, vec![reading; readings]);
                    self.forward.submit(shard, ticket(item), publish);
                    if what == "each" {
                        self.forward.flush(now_ms, &mut self.effects);
                    }
                }
                self.forward.flush(now_ms, &mut self.effects);
            }
            "publish" => {
                let item: u64 = words[1].parse().unwrap();
                let readings = words[2..].iter().map(|name| reading(name, item as f64)).collect();
                self.forward.submit(shard, ticket(item), Forwardable::Publish(None, readings));
                self.forward.flush(now_ms, &mut self.effects);
            }
            "connect" => {
                let (client, at, connection) = (words[2].to_string(), ORIGIN, 1);
                let connect = ConnectItem { client, at, connection, clean: false, expiry_s: 60, will: None };
                let item = Forwardable::Item(Item::Connect(connect));
                self.forward.submit(shard, ticket(words[1].parse().unwrap()), item);
                self.forward.flush(now_ms, &mut self.effects);
            }
            "ring" => {
                let shard = ShardId(words[1][1..].parse().unwrap());
                let ring = Arc::new(self.ring.placed([(shard, replica_set(&words[2..]))]));
                self.forward.set_ring(now_ms, ring, &mut self.effects);
            }
            "leader" => self.forward.leader_is(now_ms, shard, gateway(words[1]), &mut self.effects),
            "down" => self.forward.gateway_down(now_ms, gateway(words[1])),
            "up" => self.forward.gateway_up(gateway(words[1])),
            "timer" => self.forward.timer(now_ms, &mut self.effects),
            "status" => {
                let stuck: Vec<_> =
                    self.forward.stuck(now_ms).iter().map(|s| format!(", s{} is stuck", s.0)).collect();
                let full = if self.forward.full() { ", full" } else { "" };
                let busy = self.forward.busy().map(|why| format!(", busy: {why:?}")).unwrap_or_default();
                let bytes = self.forward.queued_bytes();
                writeln!(out, "{bytes} bytes are held{full}{busy}{}", stuck.concat()).unwrap();
            }
            from => self.answer(now_ms, gateway(from), &words[1..]),
        }
    }

    fn answer(&mut self, now_ms: u64, from: GatewayId, words: &[&str]) {
        let (shard, n) = words[0].split_once('#').unwrap();
        let shard = if shard.is_empty() { ShardId(0) } else { ShardId(shard[1..].parse().unwrap()) };
        let n: u64 = n.parse().unwrap();
        let (start, words) = match words[1..] {
            ["of", start, ref rest @ ..] => (start.parse().unwrap(), rest),
            ref rest => (ORIGIN.start, rest),
        };
        let verdict = |verdict| ForwardAnswer::Verdict { slot: SLOTS_BEFORE + n, verdict };
        let answer = match *words {
            ["applied", ref outcomes @ ..] => {
                let bytes = self.sent.get(&(shard, n));
                let count = bytes.map_or(1, |bytes| Submission::decode(bytes).unwrap().items.len());
                let said = outcomes.iter().map(|outcome| match *outcome {
                    "counted" => COUNTED,
                    "done" => ItemOutcome::Done,
                    "duplicate" => ItemOutcome::Duplicate,
                    "stale" => ItemOutcome::Stale,
                    why => ItemOutcome::Refused(why.to_string()),
                });
                let rest = std::iter::repeat_n(COUNTED, count.saturating_sub(outcomes.len()));
                verdict(BatchVerdict::Applied(said.chain(rest).collect()))
            }
            ["already"] => verdict(BatchVerdict::AlreadyApplied),
            ["malformed"] => verdict(BatchVerdict::Malformed),
            ["gap", last] => verdict(BatchVerdict::Gap { last: last.parse().unwrap() }),
            ["old-start"] => verdict(BatchVerdict::OldStart),
            ["not-leader", ref said @ ..] => {
                let (leader, said) = match said {
                    [leader, said @ ..] if leader.starts_with('g') => (Some(gateway(leader).0), said),
                    said => (None, said),
                };
                let first = || ReplicaSet { configuration: 1, members: self.ring.replicas(shard).to_vec() };
                let replicas = if said.is_empty() { first() } else { replica_set(said) };
                ForwardAnswer::NotLeader { leader, replicas }
            }
            ["busy", "window"] => ForwardAnswer::Busy { why: BusyReason::Window },
            ["busy", "disk"] => ForwardAnswer::Busy { why: BusyReason::Disk },
            ["busy", "outbox"] => ForwardAnswer::Busy { why: BusyReason::Outbox },
            ref other => panic!("{other:?}?"),
        };
        let origin = Origin { start, ..ORIGIN };
        self.forward.answered(now_ms, (from, origin, shard, n), answer, &mut self.effects);
    }

    fn show(&mut self, out: &mut String) {
        let ForwardEffects { send, outcomes } = std::mem::take(&mut self.effects);
        for (to, batch) in send {
            let name = format!("s{}#{}", batch.shard.0, batch.n);
            let submission = Submission::decode(&batch.submission).unwrap();
            let known = self.sent.entry((batch.shard, batch.n)).or_insert_with(|| batch.submission.clone());
            assert_eq!(*known, batch.submission, "the bytes of {name} have changed");
            let crc = crc32c::crc32c(&batch.submission);
            writeln!(out, "-> {to} {name} {} crc {crc:08x}", contents(&submission)).unwrap();
        }
        // Consecutive items with the same outcome share a line.
        let mut runs: Vec<(u64, u64, String)> = Vec::new();
        for settled in outcomes {
            let slot =
                if settled.slot > 0 { format!("in slot {}", settled.slot) } else { "slot unknown".into() };
            let what = match settled.outcome {
                ItemOutcome::Judged(judged) => format!("{} counted, {slot}", judged.counted),
                ItemOutcome::Refused(why) => format!("refused: {why}, {slot}"),
                other => format!("{other:?}, {slot}").to_lowercase(),
            };
            let item = settled.ticket.token;
            match runs.last_mut().filter(|run| run.1 + 1 == item && run.2 == what) {
                Some(run) => run.1 = item,
                None => runs.push((item, item, what)),
            }
        }
        for (first, last, what) in runs {
            match first == last {
                true => writeln!(out, "item {first}: {what}").unwrap(),
                false => writeln!(out, "items {first}-{last}: {what}").unwrap(),
            }
        }
        if self.deadline_ms != self.forward.deadline_ms() {
            self.deadline_ms = self.forward.deadline_ms();
            match self.deadline_ms {
                Some(at) => writeln!(out, "timer at {at}").unwrap(),
                None => writeln!(out, "no timer").unwrap(),
            }
        }
    }
}

/// `[items]`, with the streams of the readings, unless there is only one and it is known.
fn contents(submission: &Submission<selvedge_fabric::machine::NameRef<'_>>) -> String {
    let items = submission.items.iter().map(|item| match item {
        Item::Begin => "begin".to_string(),
        Item::Connect(connect) => format!("connect {}", connect.client),
        item => item.readings()[0].value.to_string(),
    });
    let mut text = match items.len() {
        many @ 13.. => format!("[{many} items]"),
        _ => format!("[{}]", items.collect::<Vec<_>>().join(", ")),
    };
    if submission.streams.len() > 1 || !submission.makers.is_empty() {
        let streams = (0..submission.streams.len()).filter_map(|i| submission.named(i as u32));
        let names = streams.map(|(name, client)| match client {
            Some(client) => format!(" {}/{} new of {client}", name.device, name.stream),
            None => format!(" {}/{}", name.device, name.stream),
        });
        write!(text, " streams:{}", names.collect::<Vec<_>>().join(",")).unwrap();
    }
    text
}

fn reading(name: &str, value: f64) -> NamedReading {
    let (name, maker) =
        name.split_once('!').map_or((name, None), |(name, client)| (name, Some(client.into())));
    let (device, stream) = name.split_once('/').unwrap();
    let name = StreamName { device: device.into(), stream: stream.into() };
    let reading = Reading { stream: 7, time: None, value, seq: None, boot: None };
    NamedReading { name: name.into(), maker, reading }
}

fn ticket(token: u64) -> Ticket {
    Ticket { connection: 1, token }
}

fn range(text: &str) -> std::ops::RangeInclusive<u64> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    first.parse().unwrap()..=last.parse().unwrap()
}

/// The shard that `of sN` names.
fn shard_of(words: &[&str]) -> ShardId {
    let at = words.iter().position(|w| *w == "of").map(|at| words[at + 1]);
    ShardId(at.and_then(|s| s.strip_prefix('s')).map_or(0, |n| n.parse().unwrap()))
}

/// `cN gA gB...`
fn replica_set(words: &[&str]) -> ReplicaSet {
    let configuration = words[0].strip_prefix('c').unwrap().parse().unwrap();
    ReplicaSet { configuration, members: words[1..].iter().map(|g| gateway(g)).collect() }
}

fn gateway(text: &str) -> GatewayId {
    GatewayId(text.strip_prefix('g').and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}?")))
}
