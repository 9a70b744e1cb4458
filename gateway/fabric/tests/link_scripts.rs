//! Golden scripts of the messages that wait on a link.
//!
//! ```text
//! > up | down
//! > KIND KIB [xN]           N messages of so many KiB are sent; KIND is accept, forward, query, route or state
//! > interest FILTER [xN]    a subscriber's filters change N times, and are these at last
//! > frames N                the connection takes N frames, unless there is nothing to write
//! > counts
//! ```
//!
//! Messages are numbered by kind. A frame lists them in its order; `accept 1-3` stands for three messages.

#![allow(clippy::disallowed_methods)] // Scripts are files.

mod support {
    pub mod golden;
}

use selvedge_fabric::agreement::ClockNote;
use selvedge_fabric::link::{Dialled, Lane, Link, PeerFrame};
use selvedge_fabric::machine::{Origin, Page};
use selvedge_fabric::peer::{PeerMessage, RoutedPublish, ShardQuery, TransferMessage};
use selvedge_paxos::{Ballot, Message};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;
use std::fmt::Write;

const GROUP: ShardId = ShardId(0);

#[test]
fn links_do_as_written() {
    support::golden::check("link", || {
        let (mut link, mut numbers) = (Link::new(GatewayId(1), GatewayId(2)), BTreeMap::new());
        move |told: &str, out: &mut String| tell(&mut link, &mut numbers, told, out)
    });
}

fn tell(link: &mut Link, numbers: &mut BTreeMap<String, u64>, told: &str, out: &mut String) {
    let words: Vec<&str> = told.split_whitespace().collect();
    let times = words.last().and_then(|w| w.strip_prefix('x')).map_or(1, |n| n.parse().unwrap());
    match words[0] {
        "up" => link.connected(0, Dialled { by: GatewayId(1), start: 1 }),
        "down" => _ = link.lost(0),
        "frames" => {
            for _ in 0..words[1].parse().unwrap() {
                let Some(frame) = link.next_frame(0, ClockNote::default) else {
                    return writeln!(out, "nothing").unwrap();
                };
                writeln!(out, "{}", show(&PeerFrame::decode(&frame).unwrap().messages)).unwrap();
            }
        }
        "counts" => {
            for lane in Lane::ALL {
                let counts = link.counts().of(lane);
                if counts != Default::default() {
                    writeln!(out, "{}: {counts:?}", lane.name()).unwrap();
                }
            }
        }
        kind => {
            for _ in 0..times {
                let n = numbers.entry(kind.to_string()).or_default();
                *n += 1;
                link.send(vec![message(kind, words[1], *n)]);
            }
        }
    }
}

fn message(kind: &str, what: &str, n: u64) -> PeerMessage {
    let bytes = || vec![0; what.parse::<usize>().unwrap() * 1024];
    match kind {
        "accept" => {
            let ballot = Ballot { round: 1, gateway: 1 };
            let message = Message::Accept { ballot, prev: n, values: vec![bytes().into()], commit: 0 };
            PeerMessage::Paxos { group: GROUP, configuration: 1, message }
        }
        "forward" => {
            let origin = Origin { gateway: GatewayId(1), start: 1 };
            PeerMessage::Forward { shard: GROUP, origin, n, submission: bytes().into() }
        }
        "query" => {
            let device = String::from_utf8(bytes()).unwrap();
            let (from, to, page) = (EpochMs(0), EpochMs(1), Page::default());
            let (every_ms, stale, wait_ms) = (None, false, 1_000);
            let query = ShardQuery { device, stream: None, from, to, every_ms, stale, page, wait_ms };
            PeerMessage::Query { id: n, shard: GROUP, query }
        }
        "interest" => PeerMessage::Interest { filters: [format!("{what}/{n}")].into() },
        "route" => {
            let publish = RoutedPublish { topic: n.to_string(), payload: bytes(), qos: 1 };
            PeerMessage::Route { publisher: 1, publishes: vec![publish] }
        }
        "state" => {
            let message = TransferMessage::State { slot: 1, offset: n, data: bytes() };
            PeerMessage::Transfer { shard: GROUP, configuration: 1, message }
        }
        other => panic!("{other}?"),
    }
}

/// Runs of one kind become `kind first-last`.
fn show(messages: &[PeerMessage]) -> String {
    let mut runs: Vec<(&str, u64, u64)> = Vec::new();
    for message in messages {
        let (kind, n) = match message {
            PeerMessage::Paxos { message: Message::Accept { prev, .. }, .. } => ("accept", *prev),
            PeerMessage::Forward { n, .. } => ("forward", *n),
            PeerMessage::Query { id, .. } => ("query", *id),
            PeerMessage::Interest { filters } => {
                ("interest", filters[0].rsplit('/').next().unwrap().parse().unwrap())
            }
            PeerMessage::Route { publishes, .. } => ("route", publishes[0].topic.parse().unwrap()),
            PeerMessage::Transfer { message: TransferMessage::State { offset, .. }, .. } => {
                ("state", *offset)
            }
            other => panic!("{other:?}"),
        };
        match runs.last_mut().filter(|run| run.0 == kind && run.2 + 1 == n) {
            Some(run) => run.2 = n,
            None => runs.push((kind, n, n)),
        }
    }
    let shown = runs.iter().map(|(kind, first, last)| match first == last {
        true => format!("{kind} {first}"),
        false => format!("{kind} {first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(", ")
}
