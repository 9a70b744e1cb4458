//! Which messages open where: each kind in its own direction, at the gateway or node that it is for.

use selvedge_seal::{Opener, SealError, Sealer, SiteSecret};
use selvedge_types::balance::Policy;
use selvedge_types::ids::{GatewayId, ShardId, SiteId};
use selvedge_types::question::{
    About, GatewayAnswer, NodeId, NodeQuestion, QuestionId, QuestionOutcome, SiteQuery,
};
use selvedge_types::report::{Report, ReportedMember, place};
use selvedge_types::time::EpochMs;

fn question() -> NodeQuestion {
    let about = SiteQuery {
        device: "d*".into(),
        stream: None,
        from: EpochMs(0),
        to: EpochMs(60_000),
        every_ms: None,
        limit: 10,
        after: None,
        stale: false,
    };
    NodeQuestion {
        id: QuestionId(7),
        node: NodeId(9),
        start: 3,
        uptime_ms: 1_000,
        wait_ms: 500,
        policy: Policy::PowerOfTwo,
        about: About::Aggregates(about),
    }
}

#[test]
fn a_question_opens_at_its_gateway_and_an_answer_at_its_node() {
    let (site, secret) = (SiteId::new("plant-7").unwrap(), SiteSecret::generate().unwrap());
    let (mut ask, mut tell) = (Opener::<NodeQuestion>::new(), Opener::<GatewayAnswer>::new());
    ask.add(&site, &secret);
    tell.add(&site, &secret);
    let to = place(GatewayId(2));
    let asked = Sealer::new(&secret, &site).unwrap().seal(to, 9, &question()).unwrap();
    assert_eq!(ask.open(&site, to, &asked), Ok((9, question())));
    assert_eq!(ask.open(&site, place(GatewayId(1)), &asked), Err(SealError::NotAuthentic));
    assert_eq!(tell.open(&site, to, &asked), Err(SealError::Direction));
    let answer = GatewayAnswer { id: QuestionId(7), gateway: GatewayId(2), outcome: QuestionOutcome::Busy };
    let told = Sealer::new(&secret, &site).unwrap().seal(ShardId(0), 9, &answer).unwrap();
    assert_eq!(tell.open(&site, ShardId(0), &told), Ok((9, answer)));
}

#[test]
fn a_report_opens_as_its_gateways_own() {
    let (site, secret) = (SiteId::new("plant-7").unwrap(), SiteSecret::generate().unwrap());
    let report = Report {
        gateway: GatewayId(2),
        start: 4,
        n: 6,
        uptime_ms: 1_000,
        at: EpochMs(2_000),
        release: "0.1.0".into(),
        trouble: None,
        members: vec![ReportedMember::active(GatewayId(2), 1)],
        shards: 1,
        placed: vec![0],
        led: vec![],
        directory_slot: 0,
        paused: false,
        moves: vec![],
        connections: 8,
        acked: 10,
        questions: 1,
        question_ms: 2,
        skipped: vec![],
    };
    let sealed = Sealer::new(&secret, &site).unwrap().seal(place(GatewayId(2)), 6, &report).unwrap();
    let mut opener = Opener::<Report>::new();
    opener.add(&site, &secret);
    assert_eq!(opener.open(&site, place(GatewayId(2)), &sealed), Ok((6, report)));
    assert_eq!(opener.open(&site, place(GatewayId(3)), &sealed), Err(SealError::NotAuthentic));
}
