//! What a node asks, which a holder of the site's secret could make of any bytes, and what replicas answer then: a question is taken on
//! once, ends once, and its answer can be sealed.

use crate::source::Source;
use selvedge_fabric::machine::Scanned;
use selvedge_fabric::node_questions::{NodeQuestions, QuestionVerdict};
use selvedge_fabric::peer::{PeerMessage, QueryAnswer};
use selvedge_fabric::ring::{Member, ReplicaSet, Ring};
use selvedge_fabric::site_questions::{QuestionEffect, SiteQuestions};
use selvedge_seal::{Sealer, SiteSecret};
use selvedge_types::aggregate::{Aggregate, Sample};
use selvedge_types::frame;
use selvedge_types::ids::{GatewayId, MAX_NAME_BYTES, ShardId, SiteId};
use selvedge_types::question::{About, NodeQuestion, SiteWindowPlace};
use selvedge_types::sealed::Sealable;
use selvedge_types::sequences::Sequences;
use selvedge_types::site_window::SiteWindow;
use selvedge_types::time::EpochMs;
use std::sync::Arc;

const NOW_MS: u64 = 1_000;
const G: [GatewayId; 3] = [GatewayId(1), GatewayId(2), GatewayId(3)];

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let length = source.below(600);
    let bytes = source.bytes(length);
    let Ok(mut question) = frame::decode::<NodeQuestion>(NodeQuestion::WHAT, NodeQuestion::VERSION, bytes)
    else {
        return;
    };
    if question.check().is_err() {
        return;
    }
    let mut questions = NodeQuestions::new(G[0], 1);
    let _ = questions.take(NOW_MS, &question);
    // As it would be if it came in time.
    (question.start, question.uptime_ms, question.id.0) = (1, NOW_MS, question.id.0 ^ 1);
    let QuestionVerdict::Taken(wanted) = questions.take(NOW_MS, &question) else {
        panic!("sound and in time")
    };
    assert!(matches!(questions.take(NOW_MS, &question), QuestionVerdict::Dropped("seen")));
    let About::Aggregates(about) = &question.about;
    let members = G.map(|id| Member { id, weight: 1 });
    let ring = Ring::new(1 + source.below(40) as u16, &members, 3).expect("a ring");
    let mut asks = SiteQuestions::new(G[0], Arc::new(ring), source.u64());
    let (mut out, mut now_ms, mut told) = (Vec::new(), NOW_MS, None);
    asks.peers(now_ms, &G.into(), &mut out);
    assert!(asks.ask(now_ms, wanted, &mut out).is_some());
    while told.is_none() {
        for effect in std::mem::take(&mut out) {
            match effect {
                QuestionEffect::Told(_, all) => assert!(told.replace(all).is_none(), "it ends once"),
                QuestionEffect::Send(_, PeerMessage::Query { id, .. }) => {
                    asks.answered(now_ms, id, answer(&mut source), &mut out);
                }
                other => panic!("{other:?}"),
            }
        }
        if out.is_empty() && told.is_none() {
            now_ms += 250;
            asks.timer(now_ms, &mut out);
            assert!(now_ms < 60_000, "it goes on for ever");
        }
    }
    let told = told.expect("it ended");
    assert!(asks.open() == 0 && told.windows.len() <= about.limit as usize);
    assert!(told.windows.windows(2).all(|two| two[0].order() < two[1].order()));
    let before = |next: &SiteWindowPlace| told.windows.iter().all(|w| w.order() < next.order());
    assert!(told.next.as_ref().is_none_or(before));
    let (node, answer) = questions.told(now_ms, question.id, Some(told)).expect("it was taken on");
    assert_eq!((node, answer.check()), (question.node, Ok(())));
    let hex: String = (0..32).map(|i| format!("{i:02x}")).collect();
    let secret = SiteSecret::from_hex(&hex).expect("a secret");
    let site = SiteId::new("x".repeat(32)).expect("a name");
    let mut sealer = Sealer::new(&secret, &site).expect("randomness");
    assert!(sealer.seal(ShardId(0), node.0, &answer).is_ok());
}

/// What a replica of a site of honest gateways may answer.
fn answer(source: &mut Source) -> QueryAnswer {
    match source.below(4) {
        0 => {
            let leader = source.flag().then(|| source.below(5) as u16);
            let configuration = source.below(4) as u32;
            let members = (0..source.below(10)).map(|_| GatewayId(source.below(5) as u16)).collect();
            QueryAnswer::NotLeader { leader, replicas: ReplicaSet { configuration, members } }
        }
        1 => QueryAnswer::Unavailable,
        _ => {
            let mut windows: Vec<_> = (0..source.below(40)).map(|_| window(source)).collect();
            windows.sort_by(|a, b| a.order().cmp(&b.order()));
            windows.dedup_by(|a, b| a.order() == b.order());
            let next = source.flag().then(|| SiteWindowPlace {
                device: "x".repeat(source.below(MAX_NAME_BYTES)),
                stream: "y".repeat(source.below(MAX_NAME_BYTES)),
                start: EpochMs(source.time(0)),
            });
            let since = source.flag().then(|| EpochMs(source.time(0)));
            QueryAnswer::Windows(Scanned { windows, next, since, lacking: source.byte().into() })
        }
    }
}

fn window(source: &mut Source) -> SiteWindow {
    let start = EpochMs(i64::from(source.byte()) * 1_000);
    // Gateways count finite values only.
    let value = Some(source.float()).filter(|value| value.is_finite()).unwrap_or_default();
    let sample = Sample { time: start, slot: source.u64(), index: 0, value };
    SiteWindow {
        device: "d".repeat(1 + source.below(MAX_NAME_BYTES - 1)).into(),
        stream: "s".repeat(1 + source.below(3)).into(),
        width_ms: 1_000,
        start,
        aggregate: if source.flag() { Aggregate::sketched(sample) } else { Aggregate::of(sample) },
        late: source.number(1),
        parts: 1,
        closed: source.flag(),
        watermark: EpochMs(source.time(0)),
        set_aside: 0,
        sequences: Sequences::default(),
    }
}
