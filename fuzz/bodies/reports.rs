//! What a gateway of the site reports and answers, which a holder of its secret could make of any bytes: what opens is such as the
//! node can keep and show.

use crate::source::Source;
use selvedge_node_core::questions::{Ask, Effect, Questions};
use selvedge_node_core::sites::Sites;
use selvedge_types::balance::Policy;
use selvedge_types::frame;
use selvedge_types::ids::{GatewayId, SiteId};
use selvedge_types::question::{
    GatewayAnswer, NodeId, QuestionOutcome, SiteQuery, SiteWindowPlace, SiteWindows,
};
use selvedge_types::report::{MAX_MEMBERS, MAX_SHARDS, MovePhase, Report, ReportedMember, ReportedMove};
use selvedge_types::sealed::Sealable;
use selvedge_types::time::EpochMs;

pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let site = SiteId::new("plant-7").expect("a name");
    let mut sites = Sites::new([site.clone()]);
    let mut questions = Questions::new(NodeId(1));
    assert!(sites.hear(0, EpochMs(0), &site, sound()));
    match source.below(3) {
        0 => report(source.rest(), &mut sites, &site),
        1 => answer(source.rest(), &mut questions, &sites, &site),
        _ => place(&source.text(600)),
    }
}

/// Of a gateway that can be asked.
fn sound() -> Report {
    Report {
        gateway: GatewayId(1),
        start: 1,
        n: 1,
        uptime_ms: 9,
        at: EpochMs(0),
        release: String::new(),
        trouble: None,
        members: vec![ReportedMember::active(GatewayId(1), 1)],
        shards: 1,
        placed: vec![0],
        led: vec![],
        directory_slot: 1,
        paused: false,
        moves: vec![ReportedMove {
            shard: None,
            since: 1,
            leaves: None,
            comes: Some(GatewayId(1)),
            phase: MovePhase::Learning,
            done_bytes: 1,
            total_bytes: 2,
        }],
        connections: 0,
        acked: 0,
        questions: 0,
        question_ms: 0,
        skipped: vec![],
    }
}

/// A message as the seal gives it, if it would.
fn opened<M: Sealable>(bytes: &[u8]) -> Option<M> {
    let message: M = frame::decode(M::WHAT, M::VERSION, bytes).ok()?;
    message.check().is_ok().then_some(message)
}

fn report(bytes: &[u8], sites: &mut Sites, site: &SiteId) {
    let Some(report) = opened::<Report>(bytes) else { return };
    assert_eq!(opened::<Report>(&frame::encode(Report::VERSION, &report)).as_ref(), Some(&report));
    sites.hear(1, EpochMs(1), site, report.clone());
    assert!(!sites.hear(2, EpochMs(2), site, report), "said already");
    assert!(sites.gateways(site).expect("served").len() <= MAX_MEMBERS);
    for now in [2, u64::MAX] {
        let shards = sites.shards(now, site);
        assert!(shards.len() <= MAX_SHARDS);
        for shard in &shards {
            assert!(shard.led.is_none_or(|(_, led)| led.cursor <= led.last));
        }
        for gateway in sites.live(now, site) {
            let _ = sites.gateways(site).expect("served")[&gateway].uptime_ms(now);
        }
    }
}

fn answer(bytes: &[u8], questions: &mut Questions, sites: &Sites, site: &SiteId) {
    let Some(answer) = opened::<GatewayAnswer>(bytes) else { return };
    if let QuestionOutcome::Windows(SiteWindows { streams, rows, .. }) = &answer.outcome {
        for row in rows {
            let _ = &streams[row.stream as usize];
            let a = &row.aggregate;
            assert!((a.min..=a.max).contains(&a.mean()) && a.stddev() <= a.max - a.min);
            assert!(a.quantile(50).is_none_or(|median| (a.min..=a.max).contains(&median)));
            let _ = (a.sum(), row.start.plus(row.width_ms.into()));
        }
    }
    let about = SiteQuery {
        device: "*".into(),
        stream: None,
        from: EpochMs(0),
        to: EpochMs(1),
        every_ms: None,
        limit: 1,
        after: None,
        stale: true,
    };
    let ask = Ask { site: site.clone(), about, policy: Policy::Random, wait_ms: 100 };
    let mut out = Vec::new();
    questions.ask(0, sites, 1, ask, answer.id.0, &mut out).expect("somebody lives");
    questions.answered(1, sites, site, answer, &mut out);
    questions.timer(100, sites, &mut out);
    let done = out.iter().filter(|effect| matches!(effect, Effect::Done(1, _))).count();
    assert!(done == 1 && questions.deadline_ms().is_none(), "it ends once");
}

fn place(text: &str) {
    if let Some(place) = SiteWindowPlace::parse(text) {
        assert_eq!(SiteWindowPlace::parse(&place.to_string()), Some(place));
    }
}
