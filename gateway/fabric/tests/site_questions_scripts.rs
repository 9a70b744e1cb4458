//! Golden scripts of questions to the site: which replicas a gateway (g1 of three) asks about which shard, and the
//! answer that it makes of theirs.
//!
//! | Command | What happens |
//! |---|---|
//! | `shards N` | the site has N shards; it comes first, and without it there is one |
//! | `@MS ask DEVICES [stale] [limit=N] [deadline=MS]` | a question about a device, or a pattern; its deadline is 3000 |
//! | `@MS ID windows [DEVICE@START]... [next=DEVICE@START] [since=MS] [lacking=N]` | a shard's answer to the ask of this number |
//! | `@MS ID not-leader [gN] [cN gA gB...]`, `@MS ID unavailable` | a replica's answer to the ask of this number; the replica is in configuration N of these members (in the first) |
//! | `@MS ring sM cN gA gB...` | a ring that has this shard at these gateways, in configuration N |
//! | `@MS up gN...` | the failure detector sees exactly those up |
//! | `@MS timer` | the clock has come to this time |
//! | `@MS withdraw N` | the asker of question N has gone |

#![allow(clippy::disallowed_methods)] // Scripts are files.

mod support {
    pub mod golden;
}

use selvedge_fabric::machine::{Page, Scanned};
use selvedge_fabric::peer::{PeerMessage, QueryAnswer, ShardQuery};
use selvedge_fabric::ring::{Member, ReplicaSet, Ring};
use selvedge_fabric::site_questions::{QuestionEffect, SiteQuestion, SiteQuestions};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::balance::Policy;
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::question::SiteWindowPlace;
use selvedge_types::sequences::Sequences;
use selvedge_types::site_window::SiteWindow;
use selvedge_types::time::EpochMs;
use std::fmt::Write;
use std::sync::Arc;

const GATEWAYS: [GatewayId; 3] = [GatewayId(1), GatewayId(2), GatewayId(3)];

#[test]
fn questions_are_asked_as_written() {
    support::golden::check("site_questions", || {
        let mut site = new_site(1);
        move |told: &str, out: &mut String| match told.strip_prefix("shards ") {
            Some(count) => site = new_site(count.parse().unwrap()),
            None => tell(&site.0, &mut site.1, told, out),
        }
    });
}

/// The first ring, and the questions of gateway 1.
fn new_site(shards: u16) -> (Arc<Ring>, SiteQuestions) {
    let ring = Arc::new(Ring::new(shards, &GATEWAYS.map(|id| Member { id, weight: 1 }), 3).unwrap());
    let mut questions = SiteQuestions::new(GATEWAYS[0], ring.clone(), 7);
    questions.peers(0, &GATEWAYS.into(), &mut Vec::new());
    (ring, questions)
}

fn tell(ring: &Ring, questions: &mut SiteQuestions, told: &str, out: &mut String) {
    let words: Vec<&str> = told.split_whitespace().collect();
    let now_ms =
        words[0].strip_prefix('@').and_then(|at| at.parse().ok()).unwrap_or_else(|| panic!("{told}?"));
    let value = |key: &str| words.iter().find_map(|w| w.strip_prefix(key));
    let number = |key: &str| value(key).map(|n| n.parse::<u64>().unwrap());
    let mut effects = Vec::new();
    match words[1..] {
        ["ask", device, ..] => {
            let mut page = Page::default();
            page.limit = number("limit=").map_or(page.limit, |n| n as u32);
            let query = ShardQuery {
                device: device.into(),
                stream: None,
                from: EpochMs(0),
                to: EpochMs(1_000_000),
                every_ms: None,
                stale: words.contains(&"stale"),
                page,
                wait_ms: 0,
            };
            let deadline_ms = number("deadline=").unwrap_or(3_000);
            let question = SiteQuestion { query, policy: Policy::PowerOfTwo, deadline_ms };
            match questions.ask(now_ms, question, &mut effects) {
                Some(question) => writeln!(out, "question {question}").unwrap(),
                None => writeln!(out, "too many questions are open").unwrap(),
            }
        }
        ["up", ref gateways @ ..] => {
            questions.peers(now_ms, &gateways.iter().map(|g| gateway(g)).collect(), &mut effects);
        }
        ["ring", shard, ref set @ ..] => {
            let placed = ring.placed([(ShardId(shard[1..].parse().unwrap()), replica_set(set))]);
            questions.set_ring(now_ms, Arc::new(placed), &mut effects);
        }
        ["timer"] => questions.timer(now_ms, &mut effects),
        ["withdraw", question] => {
            questions.withdraw(now_ms, question.parse().unwrap(), &mut effects);
        }
        [id, ref said @ ..] => {
            let answer = match *said {
                ["windows", ..] => {
                    let rows = words[3..].iter().filter(|w| !w.contains('=')).map(|w| window(w));
                    QueryAnswer::Windows(Scanned {
                        windows: rows.collect(),
                        next: value("next=").map(|at| SiteWindowPlace::of(&window(at))),
                        since: number("since=").map(|ms| EpochMs(ms as i64)),
                        lacking: number("lacking=").unwrap_or(0) as u32,
                    })
                }
                ["not-leader", ref said @ ..] => {
                    let (leader, said) = match said {
                        [leader, said @ ..] if leader.starts_with('g') => (Some(gateway(leader).0), said),
                        said => (None, said),
                    };
                    let first = || ReplicaSet { configuration: 1, members: GATEWAYS.to_vec() };
                    let replicas = if said.is_empty() { first() } else { replica_set(said) };
                    QueryAnswer::NotLeader { leader, replicas }
                }
                ["unavailable"] => QueryAnswer::Unavailable,
                ref other => panic!("{other:?}?"),
            };
            questions.answered(now_ms, id.parse().unwrap(), answer, &mut effects);
        }
        [] => panic!("{told}?"),
    }
    effects.into_iter().for_each(|effect| show(effect, out));
}

fn show(effect: QuestionEffect, out: &mut String) {
    match effect {
        QuestionEffect::Send(to, PeerMessage::Query { id, shard, query }) => {
            let stale = if query.stale { ", stale will do" } else { "" };
            writeln!(
                out,
                "-> {to} ask {id}: {} in s{}, within {} ms and {} bytes{stale}",
                query.device, shard.0, query.wait_ms, query.page.bytes
            )
            .unwrap();
        }
        QuestionEffect::Send(to, other) => panic!("{other:?} for {to}"),
        QuestionEffect::Told(question, answer) => {
            let rows: Vec<_> = answer.windows.iter().map(|w| place(&SiteWindowPlace::of(w))).collect();
            let mut text = format!("question {question} of {} shards: [{}]", answer.shards, rows.join(" "));
            if let Some(next) = &answer.next {
                write!(text, ", next {}", place(next)).unwrap();
            }
            if let Some(since) = answer.since {
                write!(text, ", since {}", since.0).unwrap();
            }
            if answer.lacking > 0 {
                write!(text, ", {} batches lacking", answer.lacking).unwrap();
            }
            if answer.is_nothing() {
                text.push_str(", no shard answered");
            }
            let missing: Vec<_> = answer.missing.iter().map(|s| format!("s{}", s.0)).collect();
            if !missing.is_empty() {
                write!(text, ", missing {}", missing.join(" ")).unwrap();
            }
            writeln!(out, "{text}").unwrap();
        }
    }
}

/// A window of the stream `s` of a device, by `DEVICE@START`.
fn window(text: &str) -> SiteWindow {
    let (device, start) = text.split_once('@').unwrap_or_else(|| panic!("{text}?"));
    let start = EpochMs(start.parse().unwrap());
    SiteWindow {
        device: device.into(),
        stream: "s".into(),
        width_ms: 1_000,
        start,
        aggregate: Aggregate::of(Sample { time: start, slot: 1, index: 0, value: 1.0 }),
        late: 0,
        parts: 1,
        closed: true,
        watermark: EpochMs(0),
        set_aside: 0,
        sequences: Sequences::default(),
    }
}

fn place(place: &SiteWindowPlace) -> String {
    format!("{}@{}", place.device, place.start.0)
}

/// `cN gA gB...`
fn replica_set(words: &[&str]) -> ReplicaSet {
    let configuration = words[0].strip_prefix('c').unwrap().parse().unwrap();
    ReplicaSet { configuration, members: words[1..].iter().map(|g| gateway(g)).collect() }
}

fn gateway(text: &str) -> GatewayId {
    GatewayId(text.strip_prefix('g').and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}?")))
}
