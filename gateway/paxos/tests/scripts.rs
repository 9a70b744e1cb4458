//! Golden scripts of the protocol: `tests/scripts/paxos/*.txt`. Each line `> command` is carried out, and the
//! replicas' effects must be those that the file shows below it. `UPDATE_GOLDEN=1` writes the file anew.
//!
//! | Command | What happens |
//! |---|---|
//! | `group N [small] [CAST]` | N gateways start, all seeing each other (small: tight bounds); the cast of configuration 1, such as `1,2,3w,4l` (w: a witness, l: a learner), is all of them as members if it is left out |
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
//! | `learners N LIST` | the event |
//! | `learned N SLOT VALUE...` | values chosen from the slot on, brought by another host |
//! | `progress N OF` | how far OF is, as the leader N knows it |
//! | `next N` | N's host has applied the stop, such as `STOP(1,2,4)`, and makes the next configuration; the former one stays until `retire N` |
//! | `status` | the state of every replica |
//!
//! N is the replica of the newest configuration there; `N@C` is that of configuration C. The output names replicas of
//! configurations after the first in the same way.
//!
//! `silently` before a command leaves out its effects.

#![allow(clippy::disallowed_methods)] // Scripts are files.

mod stop;

use selvedge_paxos::{Consensus, Entry, Event, Limits, Message, Record, Recovered, Slot, Value};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use stop::Cast;

/// A gateway: its host, its disk, and a replica for each configuration that it still runs.
#[derive(Default)]
struct Node {
    groups: BTreeMap<u32, Consensus>,
    disk: Vec<(u32, Record)>,
    unwritten: Vec<(u32, Record)>,
    waiting: Vec<(u32, usize, Message)>,
    tokens: BTreeMap<u32, u64>,
    snapshot: Slot,
    /// The configuration of the snapshot, its cast and its base.
    snapshot_of: (u32, Cast, Slot),
    damaged: Option<u64>,
    up: Vec<GatewayId>,
    applied: Slot,
}

#[derive(Default)]
struct World {
    now: u64,
    small: bool,
    nodes: Vec<Node>,
    net: BTreeMap<(usize, usize), VecDeque<(u32, Message)>>,
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
        Message::Accepted { ballot, upto, commit, vote, damaged, .. } => {
            let vote = if *vote { "" } else { ", no vote" };
            let damaged = if *damaged { ", damaged" } else { "" };
            format!("Accepted {ballot} upto {upto} commit {commit}{vote}{damaged}")
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

/// A replica, as scripts name it.
fn name(n: usize, configuration: u32) -> String {
    if configuration == 1 { format!("g{n}") } else { format!("g{n}@{configuration}") }
}

impl Node {
    fn newest(&self) -> u32 {
        self.groups.keys().next_back().copied().unwrap_or(1)
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

    /// A gateway and the configuration that is meant there.
    fn at(&self, text: Option<&str>) -> (usize, u32) {
        match text.and_then(|t| t.split_once('@')) {
            Some((n, c)) => (Self::node(Some(n)), Self::number(Some(c)) as u32),
            None => {
                let n = Self::node(text);
                (n, self.nodes[n - 1].newest())
            }
        }
    }

    fn limits(&self) -> Limits {
        let limits = Limits::default();
        match self.small {
            true => Limits { window_entries: 3, chunk_bytes: 140, in_flight_bytes: 260, ..limits },
            false => limits,
        }
    }

    /// A process starts: it goes through its configurations until one that has no chosen stop on disk.
    fn start(&mut self, n: usize) {
        let (limits, me) = (self.limits(), GatewayId(n as u16));
        let node = &mut self.nodes[n - 1];
        let (mut configuration, mut cast, mut base) = node.snapshot_of.clone();
        node.tokens.clear();
        node.applied = node.snapshot;
        while cast.has(me) {
            let damaged = node.damaged;
            let mut found = Recovered { snapshot_slot: node.snapshot, damaged, ..Recovered::default() };
            for (_, record) in node.disk.iter().filter(|(c, _)| *c == configuration) {
                match record {
                    Record::Promised(b) => found.promised = found.promised.max(*b),
                    Record::Committed(s) => found.commit = found.commit.max(*s),
                    Record::Accepted(e) => found.entries.push(e.clone()),
                }
            }
            let config = cast.config(me, configuration, base, limits.clone());
            let group = match Consensus::recover(config, found) {
                Ok(group) => group,
                Err(e) => return self.say(format_args!("g{n}: {e}")),
            };
            let Some(slot) = group.stopped() else {
                node.groups.insert(configuration, group);
                if configuration > 1 {
                    self.say(format_args!("{} begins after slot {base}", name(n, configuration)));
                }
                return;
            };
            let stop = group.entry(slot).map(|e| e.value.clone()).unwrap_or_default();
            (configuration, cast, base) = (configuration + 1, Cast::after(&stop).expect("a stop"), slot);
            node.applied = node.applied.max(slot);
        }
        self.say(format_args!("g{n} has no part in configuration {configuration}"));
    }

    /// The host makes the next configuration.
    fn next(&mut self, n: usize) {
        let (limits, me) = (self.limits(), GatewayId(n as u16));
        let node = &mut self.nodes[n - 1];
        let newest = node.newest();
        let group = node.groups.get(&newest);
        let Some((group, base)) = group.and_then(|g| Some((g, g.stopped()?))) else {
            return self.say(format_args!("{} has not stopped", name(n, newest)));
        };
        assert!(node.applied >= base, "the host applies first");
        let configuration = newest + 1;
        let value = group.entry(base).expect("the stop is in memory").value.clone();
        let cast = Cast::after(&value).expect("a stop");
        if !cast.has(me) {
            return self.say(format_args!("g{n} has no part in configuration {configuration}"));
        }
        let config = cast.config(me, configuration, base, limits);
        let found = Recovered { damaged: node.damaged, ..Recovered::default() };
        match Consensus::recover(config, found) {
            Ok(group) => node.groups.insert(configuration, group),
            Err(e) => return self.say(format_args!("g{n}: {e}")),
        };
        let up = node.up.clone();
        self.say(format_args!("{} begins after slot {base}", name(n, configuration)));
        self.step((n, configuration), Event::Peers { up, restarted: vec![] });
    }

    fn step(&mut self, at: (usize, u32), event: Event) {
        let now = self.now;
        let Some(group) = self.nodes[at.0 - 1].groups.get_mut(&at.1) else { return };
        let before = (group.role(), group.leader(), group.ballot());
        group.step(now, event);
        self.take(at, before);
    }

    fn step_all(&mut self, n: usize, event: &Event) {
        for configuration in self.nodes[n - 1].groups.keys().copied().collect::<Vec<_>>() {
            self.step((n, configuration), event.clone());
        }
    }

    fn take(
        &mut self,
        (n, configuration): (usize, u32),
        before: (selvedge_paxos::Role, Option<GatewayId>, selvedge_paxos::Ballot),
    ) {
        let Some(group) = self.nodes[n - 1].groups.get_mut(&configuration) else { return };
        let e = group.take();
        let g = name(n, configuration);
        let after = (group.role(), group.leader(), group.ballot());
        let mut lines = Vec::new();
        if after != before || e.healed {
            let leader = after.1.map_or("nobody".into(), |l| l.to_string());
            lines.push(format!("{g} is {:?}, follows {leader} in {}", after.0, after.2));
        }
        if e.healed {
            lines.push(format!("{g} healed"));
        }
        for record in &e.records {
            lines.push(match record {
                Record::Promised(b) => format!("{g} writes Promised {b}"),
                Record::Committed(s) => format!("{g} writes Committed {s}"),
                Record::Accepted(Entry { slot, ballot, value: v }) => {
                    format!("{g} writes Accepted {slot} {ballot}:{}", value(v))
                }
            });
        }
        for (to, message) in &e.send {
            lines.push(format!("{g} -> {to} {}", show(message)));
        }
        for (to, message) in &e.send_after {
            lines.push(format!("{g} -> {to} {}, once written", show(message)));
        }
        let node = &mut self.nodes[n - 1];
        if e.healed {
            node.damaged = None;
        }
        let group = &node.groups[&configuration];
        if let Some(commit) = e.commit {
            let new = group.committed_entries(node.applied + 1, usize::MAX).map(|e| &e.value);
            lines.push(format!("{g} commits {commit} {}", values(new)));
            node.applied = node.applied.max(commit);
        }
        if let Some(slot) = e.stopped {
            lines.push(format!("{g} stops at {slot}"));
        }
        for (id, slot) in &e.reads {
            lines.push(format!("{g} read {id} at {slot}"));
        }
        for id in &e.reads_failed {
            lines.push(format!("{g} read {id} failed"));
        }
        for who in &e.behind {
            lines.push(format!("{g} says {who} needs a snapshot"));
        }
        node.tokens.insert(configuration, e.token);
        node.unwritten.extend(e.records.into_iter().map(|r| (configuration, r)));
        let idle = node.unwritten.is_empty();
        node.waiting.extend(e.send_after.into_iter().map(|(to, m)| (configuration, to.0 as usize, m)));
        for (to, message) in e.send {
            self.net.entry((n, to.0 as usize)).or_default().push_back((configuration, message));
        }
        if idle {
            self.release(n);
        }
        for line in lines {
            self.say(format_args!("{line}"));
        }
    }

    fn release(&mut self, n: usize) {
        for (configuration, to, message) in self.nodes[n - 1].waiting.split_off(0) {
            self.net.entry((n, to)).or_default().push_back((configuration, message));
        }
    }

    fn persist(&mut self, n: usize) {
        let node = &mut self.nodes[n - 1];
        if node.groups.is_empty() || node.unwritten.is_empty() {
            return;
        }
        node.disk.append(&mut node.unwritten);
        self.release(n);
        for (configuration, token) in self.nodes[n - 1].tokens.clone() {
            self.step((n, configuration), Event::Persisted { token });
        }
    }

    fn deliver(&mut self, from: usize, to: usize) {
        for (configuration, message) in self.net.remove(&(from, to)).unwrap_or_default() {
            let node = &self.nodes[to - 1];
            if !node.groups.is_empty() && !node.groups.contains_key(&configuration) {
                let newest = node.newest();
                let what = if configuration < newest { "is over" } else { "has not begun" };
                self.say(format_args!("{}: configuration {configuration} {what} here", name(to, newest)));
            }
            self.step((to, configuration), Event::Message { from: GatewayId(from as u16), message });
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
                let count = Self::number(words.next()) as u16;
                let mut cast = Cast::of(1..=count);
                for word in words {
                    match word {
                        "small" => self.small = true,
                        _ => cast = Cast::parse(word),
                    }
                }
                let up: Vec<_> = if count > 1 { (1..=count).map(GatewayId).collect() } else { vec![] };
                let snapshot_of = (1, cast, 0);
                let node = || Node { snapshot_of: snapshot_of.clone(), up: up.clone(), ..Node::default() };
                self.nodes = (0..count).map(|_| node()).collect();
                for n in 1..=usize::from(count) {
                    if snapshot_of.1.has(GatewayId(n as u16)) {
                        self.start(n);
                    }
                    if count > 1 {
                        self.step((n, 1), Event::Peers { up: up.clone(), restarted: vec![] });
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
                self.nodes[n - 1].up.clone_from(&up);
                self.step_all(n, &Event::Peers { up, restarted });
            }
            "propose" => {
                let at = self.at(words.next());
                let now = self.now;
                let Some(group) = self.nodes[at.0 - 1].groups.get_mut(&at.1) else { return };
                let g = name(at.0, at.1);
                let before = (group.role(), group.leader(), group.ballot());
                let mut lines = String::new();
                for word in words {
                    match group.propose(now, Value::from(word.as_bytes())) {
                        Ok((ballot, slot)) => writeln!(lines, "{g} proposes {word} at {slot} in {ballot}"),
                        Err(e) => writeln!(lines, "{g} refuses {word}: {e}"),
                    }
                    .unwrap();
                }
                self.out += &lines;
                self.take(at, before);
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
                let at = self.at(words.next());
                match self.nodes[at.0 - 1].groups.get(&at.1).and_then(Consensus::deadline) {
                    None => self.say(format_args!("{} wants no timer", name(at.0, at.1))),
                    Some(due) => {
                        self.now = self.now.max(due);
                        let now = self.now;
                        self.say(format_args!("at {now} ms"));
                        self.step(at, Event::Timer);
                    }
                }
            }
            "wait" => self.now += Self::number(words.next()),
            "crash" => {
                let n = Self::node(words.next());
                let node = &mut self.nodes[n - 1];
                node.groups.clear();
                node.unwritten.clear();
                node.waiting.clear();
                self.net.retain(|(_, to), _| *to != n);
            }
            "restart" => {
                let n = Self::node(words.next());
                if words.next().is_some() {
                    let node = &mut self.nodes[n - 1];
                    node.damaged = Some(Self::number(words.next()));
                    node.disk.clear();
                }
                self.start(n);
            }
            "next" => self.next(Self::node(words.next())),
            "retire" => {
                let node = &mut self.nodes[Self::node(words.next()) - 1];
                let newest = node.newest();
                node.groups.retain(|c, _| *c == newest);
                node.tokens.retain(|c, _| *c == newest);
            }
            "learners" => {
                let at = self.at(words.next());
                let learners = words.next().unwrap_or_default().split(',').filter(|w| !w.is_empty());
                let learners = learners.map(|w| GatewayId(w.parse().unwrap())).collect();
                self.step(at, Event::Learners(learners));
            }
            "learned" => {
                let at = self.at(words.next());
                let from = Self::number(words.next());
                let values = words.map(|w| Value::from(if w == "-" { "" } else { w }.as_bytes())).collect();
                self.step(at, Event::Learned { from, values });
            }
            "progress" => {
                let at = self.at(words.next());
                let of = GatewayId(Self::number(words.next()) as u16);
                let progress = self.nodes[at.0 - 1].groups.get(&at.1).and_then(|g| g.progress(of));
                let progress = progress.map_or("unknown".into(), |slot| slot.to_string());
                let group = self.nodes[at.0 - 1].groups.get(&at.1);
                let undamaged = if group.is_some_and(|g| g.is_undamaged(of)) { ", undamaged" } else { "" };
                self.say(format_args!("{} knows {of} up to {progress}{undamaged}", name(at.0, at.1)));
            }
            "read" => {
                let at = self.at(words.next());
                self.step(at, Event::Read { id: Self::number(words.next()) });
            }
            "room" => {
                let n = Self::node(words.next());
                self.step_all(n, &Event::Room(words.next() == Some("true")));
            }
            "trim" => {
                let at = self.at(words.next());
                let through = Self::number(words.next());
                let node = &mut self.nodes[at.0 - 1];
                node.snapshot = through;
                if let Some(group) = node.groups.get(&at.1) {
                    let c = group.config();
                    let (members, witnesses) = (c.members.clone(), c.witnesses.clone());
                    let cast = Cast { members, witnesses, learners: c.learners.clone() };
                    node.snapshot_of = (at.1, cast, c.base);
                }
                self.step(at, Event::TrimMemory { through });
            }
            "snapshot" => {
                let at = self.at(words.next());
                let slot = Self::number(words.next());
                self.nodes[at.0 - 1].snapshot = slot;
                self.nodes[at.0 - 1].applied = slot;
                self.step(at, Event::SnapshotInstalled { slot });
            }
            "reluctant" => {
                let at = self.at(words.next());
                let who = words.next().unwrap_or("").split(',').map(|w| GatewayId(w.parse().unwrap()));
                self.step(at, Event::Reluctant(who.collect()));
            }
            "stepdown" => {
                let at = self.at(words.next());
                self.step(at, Event::StepDown);
            }
            "status" => {
                let mut lines = Vec::new();
                for (n, node) in (1..).zip(&self.nodes) {
                    for (configuration, g) in &node.groups {
                        let leader = g.leader().map_or("nobody".into(), |l| l.to_string());
                        let held: Vec<_> =
                            (g.first_slot()..=g.last_slot()).filter_map(|s| g.entry(s)).collect();
                        let held = values(held.iter().map(|e| &e.value));
                        let (role, ballot, commit) = (g.role(), g.ballot(), g.commit());
                        let stopped = if g.stopped().is_some() { ", stopped" } else { "" };
                        lines.push(format!(
                            "{} {role:?} follows {leader} in {ballot}, commit {commit}{stopped}, holds {}.. {held}",
                            name(n, *configuration),
                            g.first_slot()
                        ));
                    }
                }
                for line in lines {
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
