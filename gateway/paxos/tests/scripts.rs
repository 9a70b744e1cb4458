//! Golden scripts of the protocol: `tests/scripts/paxos/*.txt`. Each line `> command` is carried out, and the
//! replicas' effects must be those that the file shows below it. `UPDATE_GOLDEN=1` writes the file anew.
//!
//! | Command | What happens |
//! |---|---|
//! | `group N [small]` | N replicas start, all seeing each other (small: tight bounds) |
//! | `peers N LIST` | N's failure detector sees exactly those up; a `*` marks another process |
//! | `propose N VALUE...` | one proposal for each, then the effects are taken once |
//! | `persist N` | everything N gave out is on disk |
//! | `deliver A B` | what A said to B so far arrives; `deliver all`: everybody's |
//! | `drop A B` | it is lost; `drop all` |
//! | `run` | persist and deliver until nothing moves |
//! | `timer N` | the clock moves on to N's deadline, which fires |
//! | `wait MS` | the clock moves on |
//! | `crash N`, `restart N [damaged NONCE]` | records that are not on disk are lost |
//! | `read N ID`, `room N BOOL`, `trim N SLOT`, `snapshot N SLOT`, `stepdown N`, `reluctant N LIST` | the event |
//! | `status` | the state of every replica |
//!
//! `silently` before a command leaves out its effects.

#![allow(clippy::disallowed_methods)] // Scripts are files.

use selvedge_paxos::{Consensus, Entry, Event, GroupConfig, Limits, Message, Record, Recovered, Slot, Value};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

#[derive(Default)]
struct Node {
    group: Option<Consensus>,
    disk: Vec<Record>,
    unwritten: Vec<Record>,
    waiting: Vec<(usize, Message)>,
    token: u64,
    snapshot: Slot,
    applied: Slot,
}

#[derive(Default)]
struct World {
    now: u64,
    small: bool,
    nodes: Vec<Node>,
    net: BTreeMap<(usize, usize), VecDeque<Message>>,
    out: String,
}

fn value(v: &Value) -> String {
    if v.is_empty() { "-".into() } else { String::from_utf8_lossy(v).into_owned() }
}

fn values<'a>(all: impl Iterator<Item = &'a Value>) -> String {
    format!("[{}]", all.map(value).collect::<Vec<_>>().join(" "))
}

fn show(message: &Message) -> String {
    match message {
        Message::Promise { ballot, from, commit, entries, more } => {
            let entries: Vec<_> = entries.iter().map(|(b, v)| format!("{b}:{}", value(v))).collect();
            let more = if *more { ", more" } else { "" };
            format!("Promise {ballot} from {from} commit {commit} [{}]{more}", entries.join(" "))
        }
        Message::Accept { ballot, prev, values: v, commit } => {
            format!("Accept {ballot} prev {prev} {} commit {commit}", values(v.iter()))
        }
        Message::Accepted { ballot, upto, commit, vote } => {
            let vote = if *vote { "" } else { ", no vote" };
            format!("Accepted {ballot} upto {upto} commit {commit}{vote}")
        }
        Message::Prepare { ballot, from } => format!("Prepare {ballot} from {from}"),
        Message::Behind { ballot, first } => format!("Behind {ballot} first {first}"),
        Message::Canvass { attempt, commit } => format!("Canvass #{attempt} commit {commit}"),
        Message::Canvassed { attempt, granted, seen } => {
            format!("Canvassed #{attempt} {} seen {seen}", if *granted { "granted" } else { "denied" })
        }
        Message::Lagging { ballot, prefix } => format!("Lagging {ballot} prefix {prefix}"),
        Message::Refused { promised } => format!("Refused, promised {promised}"),
        Message::Confirm { ballot, n } => format!("Confirm {ballot} #{n}"),
        Message::Confirmed { ballot, n } => format!("Confirmed {ballot} #{n}"),
        Message::Resigned { ballot } => format!("Resigned {ballot}"),
        Message::Recovering { nonce } => format!("Recovering nonce {nonce}"),
        Message::Standing { nonce, promised, damaged } => {
            format!("Standing nonce {nonce} promised {promised}{}", if *damaged { ", damaged" } else { "" })
        }
        Message::Rejoin { nonce, above } => format!("Rejoin nonce {nonce} above {above}"),
        Message::Mark { nonce, slot } => format!("Mark nonce {nonce} slot {slot}"),
    }
}

impl World {
    fn say(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.out, "{line}").unwrap();
    }

    fn number(text: Option<&str>) -> u64 {
        let text = text.expect("a number");
        text.trim_start_matches('g').parse().unwrap_or_else(|_| panic!("{text} is no number"))
    }

    fn node(text: Option<&str>) -> usize {
        Self::number(text) as usize
    }

    fn start(&mut self, n: usize, damaged: Option<u64>) {
        let members: Vec<_> = (1..=self.nodes.len() as u16).map(GatewayId).collect();
        let mut limits = Limits::default();
        if self.small {
            limits = Limits { window_entries: 3, chunk_bytes: 140, in_flight_bytes: 260, ..limits };
        }
        let config = GroupConfig { group: ShardId(7), me: members[n - 1], members, limits };
        let node = &mut self.nodes[n - 1];
        let mut found = Recovered { snapshot_slot: node.snapshot, damaged, ..Recovered::default() };
        if damaged.is_some() {
            node.disk.clear();
        }
        for record in &node.disk {
            match record {
                Record::Promised(b) => found.promised = found.promised.max(*b),
                Record::Committed(s) => found.commit = found.commit.max(*s),
                Record::Accepted(e) => found.entries.push(e.clone()),
            }
        }
        node.token = 0;
        node.applied = node.snapshot;
        match Consensus::recover(config, found) {
            Ok(group) => node.group = Some(group),
            Err(e) => self.say(format_args!("g{n}: {e}")),
        }
    }

    fn step(&mut self, n: usize, event: Event) {
        let now = self.now;
        let Some(group) = &mut self.nodes[n - 1].group else { return };
        let before = (group.role(), group.leader(), group.ballot());
        group.step(now, event);
        self.take(n, before);
    }

    fn take(&mut self, n: usize, before: (selvedge_paxos::Role, Option<GatewayId>, selvedge_paxos::Ballot)) {
        let Some(group) = &mut self.nodes[n - 1].group else { return };
        let e = group.take();
        let after = (group.role(), group.leader(), group.ballot());
        let mut lines = Vec::new();
        if after != before || e.healed {
            let leader = after.1.map_or("nobody".into(), |l| l.to_string());
            lines.push(format!("g{n} is {:?}, follows {leader} in {}", after.0, after.2));
        }
        if e.healed {
            lines.push(format!("g{n} healed"));
        }
        for record in &e.records {
            lines.push(match record {
                Record::Promised(b) => format!("g{n} writes Promised {b}"),
                Record::Committed(s) => format!("g{n} writes Committed {s}"),
                Record::Accepted(Entry { slot, ballot, value: v }) => {
                    format!("g{n} writes Accepted {slot} {ballot}:{}", value(v))
                }
            });
        }
        for (to, message) in &e.send {
            lines.push(format!("g{n} -> {to} {}", show(message)));
        }
        for (to, message) in &e.send_after {
            lines.push(format!("g{n} -> {to} {}, once written", show(message)));
        }
        let node = &mut self.nodes[n - 1];
        let group = node.group.as_ref().unwrap();
        if let Some(commit) = e.commit {
            let new = group.committed_entries(node.applied + 1, usize::MAX).map(|e| &e.value);
            lines.push(format!("g{n} commits {commit} {}", values(new)));
            node.applied = commit;
        }
        for (id, slot) in &e.reads {
            lines.push(format!("g{n} read {id} at {slot}"));
        }
        for id in &e.reads_failed {
            lines.push(format!("g{n} read {id} failed"));
        }
        for who in &e.behind {
            lines.push(format!("g{n} says {who} needs a snapshot"));
        }
        node.token = e.token;
        node.unwritten.extend(e.records);
        let idle = node.unwritten.is_empty();
        node.waiting.extend(e.send_after.into_iter().map(|(to, m)| (to.0 as usize, m)));
        for (to, message) in e.send {
            self.net.entry((n, to.0 as usize)).or_default().push_back(message);
        }
        if idle {
            self.release(n);
        }
        for line in lines {
            self.say(format_args!("{line}"));
        }
    }

    fn release(&mut self, n: usize) {
        for (to, message) in self.nodes[n - 1].waiting.split_off(0) {
            self.net.entry((n, to)).or_default().push_back(message);
        }
    }

    fn persist(&mut self, n: usize) {
        let node = &mut self.nodes[n - 1];
        if node.group.is_none() || node.unwritten.is_empty() {
            return;
        }
        node.disk.append(&mut node.unwritten);
        let token = node.token;
        self.release(n);
        self.step(n, Event::Persisted { token });
    }

    fn deliver(&mut self, from: usize, to: usize) {
        for message in self.net.remove(&(from, to)).unwrap_or_default() {
            self.step(to, Event::Message { from: GatewayId(from as u16), message });
        }
    }

    fn deliver_all(&mut self) {
        for (from, to) in self.net.keys().copied().collect::<Vec<_>>() {
            self.deliver(from, to);
        }
    }

    fn command(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        match verb {
            "group" => {
                let count = Self::number(words.next());
                self.small = words.next() == Some("small");
                self.nodes = (0..count).map(|_| Node::default()).collect();
                for n in 1..=count as usize {
                    self.start(n, None);
                    let up = (1..=count as u16).map(GatewayId).collect();
                    if count > 1 {
                        self.step(n, Event::Peers { up, restarted: vec![] });
                    }
                }
            }
            "peers" => {
                let n = Self::node(words.next());
                let (mut up, mut restarted) = (vec![], vec![]);
                for word in words.next().unwrap_or_default().split(',').filter(|w| !w.is_empty()) {
                    let id = GatewayId(Self::number(Some(word.trim_end_matches('*'))) as u16);
                    up.push(id);
                    if word.ends_with('*') {
                        restarted.push(id);
                    }
                }
                self.step(n, Event::Peers { up, restarted });
            }
            "propose" => {
                let n = Self::node(words.next());
                let now = self.now;
                let Some(group) = &mut self.nodes[n - 1].group else { return };
                let before = (group.role(), group.leader(), group.ballot());
                let mut lines = String::new();
                for word in words {
                    match group.propose(now, Value::from(word.as_bytes())) {
                        Ok((ballot, slot)) => writeln!(lines, "g{n} proposes {word} at {slot} in {ballot}"),
                        Err(e) => writeln!(lines, "g{n} refuses {word}: {e}"),
                    }
                    .unwrap();
                }
                self.out += &lines;
                self.take(n, before);
            }
            "persist" => self.persist(Self::node(words.next())),
            "deliver" => match words.next() {
                Some("all") => self.deliver_all(),
                from => self.deliver(Self::node(from), Self::node(words.next())),
            },
            "drop" => match words.next() {
                Some("all") => self.net.clear(),
                from => {
                    self.net.remove(&(Self::node(from), Self::node(words.next())));
                }
            },
            "run" => {
                for _ in 0..50 {
                    for n in 1..=self.nodes.len() {
                        self.persist(n);
                    }
                    self.deliver_all();
                }
            }
            "timer" => {
                let n = Self::node(words.next());
                match self.nodes[n - 1].group.as_ref().and_then(Consensus::deadline) {
                    None => self.say(format_args!("g{n} wants no timer")),
                    Some(at) => {
                        self.now = self.now.max(at);
                        let now = self.now;
                        self.say(format_args!("at {now} ms"));
                        self.step(n, Event::Timer);
                    }
                }
            }
            "wait" => self.now += Self::number(words.next()),
            "crash" => {
                let n = Self::node(words.next());
                let node = &mut self.nodes[n - 1];
                node.group = None;
                node.unwritten.clear();
                node.waiting.clear();
                self.net.retain(|(_, to), _| *to != n);
            }
            "restart" => {
                let n = Self::node(words.next());
                let damaged = words.next().map(|_| Self::number(words.next()));
                self.start(n, damaged);
            }
            "read" => {
                let n = Self::node(words.next());
                self.step(n, Event::Read { id: Self::number(words.next()) });
            }
            "room" => {
                let n = Self::node(words.next());
                self.step(n, Event::Room(words.next() == Some("true")));
            }
            "trim" => {
                let n = Self::node(words.next());
                let through = Self::number(words.next());
                self.nodes[n - 1].snapshot = through;
                self.step(n, Event::TrimMemory { through });
            }
            "snapshot" => {
                let n = Self::node(words.next());
                let slot = Self::number(words.next());
                self.nodes[n - 1].snapshot = slot;
                self.nodes[n - 1].applied = slot;
                self.step(n, Event::SnapshotInstalled { slot });
            }
            "reluctant" => {
                let n = Self::node(words.next());
                let who = words.next().unwrap_or("").split(',').map(|w| GatewayId(w.parse().unwrap()));
                self.step(n, Event::Reluctant(who.collect()));
            }
            "stepdown" => self.step(Self::node(words.next()), Event::StepDown),
            "status" => {
                for n in 1..=self.nodes.len() {
                    let Some(g) = &self.nodes[n - 1].group else { continue };
                    let leader = g.leader().map_or("nobody".into(), |l| l.to_string());
                    let held: Vec<_> = (g.first_slot()..=g.last_slot()).filter_map(|s| g.entry(s)).collect();
                    let held = values(held.iter().map(|e| &e.value));
                    let line = format!(
                        "g{n} {:?} follows {leader} in {}, commit {}, holds {}.. {held}",
                        g.role(),
                        g.ballot(),
                        g.commit(),
                        g.first_slot()
                    );
                    self.say(format_args!("{line}"));
                }
            }
            other => panic!("no command {other:?}"),
        }
    }
}

fn play(script: &str) -> String {
    let mut world = World { now: 1000, ..World::default() };
    for line in script.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            world.say(format_args!("{line}"));
            if let Some(command) = command.strip_prefix("silently ") {
                let so_far = world.out.len();
                world.command(command);
                world.out.truncate(so_far);
            } else {
                world.command(command);
            }
        } else if line.starts_with('#') || line.is_empty() {
            world.say(format_args!("{line}"));
        }
    }
    world.out
}

#[test]
fn every_script_plays_as_written() {
    let folder =
        std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/scripts");
    let mut failed = Vec::new();
    let mut count = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let written = std::fs::read_to_string(&path).unwrap();
        let played = play(&written);
        count += 1;
        if played == written {
            continue;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, played).unwrap();
            continue;
        }
        let line = written.lines().zip(played.lines()).position(|(a, b)| a != b).unwrap_or(0);
        let (is, was) = (played.lines().nth(line), written.lines().nth(line));
        failed.push(format!("{}:{}: {is:?} instead of {was:?}", path.display(), line + 1));
    }
    assert!(count > 0);
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
