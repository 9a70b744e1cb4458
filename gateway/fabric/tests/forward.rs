//! Idempotent forwarding, said as scripts: what is sent to whom, and which outcomes leave when.

use selvedge_fabric::forward::{
    FULL_RETRY_MS, Forward, ForwardEffects, Forwardable, MAX_BATCH_BYTES, NamedReading, PIPELINE_BYTES,
    READING_BYTES, RESEND_MS, RETRY_MS, STUCK_MS, Ticket,
};
use selvedge_fabric::machine::{
    BatchVerdict, Connect, Item, ItemOutcome, Judged, MAX_INFLIGHT_BATCHES, Origin, Reading, Submission,
};
use selvedge_fabric::peer::{BusyReason, ForwardAnswer};
use selvedge_fabric::ring::{Member, Ring};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::StreamName;
use std::collections::BTreeMap;
use std::sync::Arc;

const S: ShardId = ShardId(0);
const DONE: ItemOutcome = ItemOutcome::Judged(Judged { counted: 1, recognised: 0, set_aside: Vec::new() });
const GONE: ItemOutcome = ItemOutcome::Done;

struct Script {
    forward: Forward,
    replicas: Vec<GatewayId>,
    out: ForwardEffects,
    bytes: BTreeMap<u64, Arc<[u8]>>,
}

impl Script {
    fn new() -> Self {
        let members: Vec<_> = (1..=3).map(|g| Member { id: GatewayId(g), weight: 1 }).collect();
        let ring = Arc::new(Ring::new(1, &members, 3).unwrap());
        let replicas = ring.replicas(S).to_vec();
        let forward = Forward::new(Origin { gateway: GatewayId(9), start: 4 }, ring, PIPELINE_BYTES);
        Self { forward, replicas, out: ForwardEffects::default(), bytes: BTreeMap::new() }
    }

    /// Each token becomes a batch of its own, as long as the window allows.
    fn submit(&mut self, now: u64, tokens: impl IntoIterator<Item = u64>) -> String {
        self.submit_each(now, tokens, PIPELINE_BYTES / READING_BYTES + 1)
    }

    fn submit_each(&mut self, now: u64, tokens: impl IntoIterator<Item = u64>, readings: usize) -> String {
        for token in tokens {
            let name = StreamName { device: "d".into(), stream: "s".into() };
            let reading = Reading { stream: 7, time: None, value: token as f64, seq: None, boot: None };
            let reading = NamedReading { name: name.into(), maker: None, reading };
            let item = Forwardable::Publish(None, vec![reading; readings]);
            self.forward.submit(S, Ticket { connection: 1, token }, item);
            self.forward.flush(now, &mut self.out);
        }
        self.said()
    }

    fn answer(&mut self, now: u64, from: usize, n: u64, answer: ForwardAnswer) -> String {
        let from = self.replicas[from];
        let origin = self.forward.origin();
        self.forward.answered(now, (from, origin, S, n), answer, &mut self.out);
        self.said()
    }

    fn applied(&mut self, now: u64, n: u64, outcomes: &[ItemOutcome]) -> String {
        self.answer(
            now,
            0,
            n,
            ForwardAnswer::Verdict {
                slot: 10 + n,
                verdict: BatchVerdict::Applied(outcomes.iter().cloned().collect()),
            },
        )
    }

    fn timer(&mut self, now: u64) -> String {
        self.forward.timer(now, &mut self.out);
        self.said()
    }

    /// `n>rank` for what is sent, `token=slot` for what is settled. A number's bytes must never change.
    fn said(&mut self) -> String {
        let ForwardEffects { send, outcomes } = std::mem::take(&mut self.out);
        let mut said = Vec::new();
        for (to, batch) in send {
            let before = self.bytes.entry(batch.n).or_insert(batch.submission.clone());
            assert_eq!(*before, batch.submission, "the bytes of {} have changed", batch.n);
            said.push(format!("{}>{}", batch.n, self.replicas.iter().position(|r| *r == to).unwrap()));
        }
        for settled in outcomes {
            let what = match settled.outcome {
                ItemOutcome::Done | ItemOutcome::Judged(_) => "",
                ItemOutcome::Refused(_) => "!",
                _ => "?",
            };
            said.push(format!("{}={}{what}", settled.ticket.token, settled.slot));
        }
        said.join(" ")
    }
}

fn verdict(verdict: BatchVerdict) -> ForwardAnswer {
    ForwardAnswer::Verdict { slot: 0, verdict }
}

#[test]
fn batches_are_numbered_and_what_gathers_behind_the_window_shares_one() {
    let mut s = Script::new();
    assert_eq!(s.submit(0, 1..=6), "1>0 2>0 3>0 4>0");
    assert_eq!(MAX_INFLIGHT_BATCHES, 4);
    assert_eq!(s.applied(1, 1, &[DONE]), "5>0 1=11");
    let last = Submission::decode(&s.bytes[&5]).unwrap();
    assert_eq!((last.items.len(), last.streams.len()), (2, 1), "a name is there once");
    assert_eq!(s.applied(1, 5, &[DONE, DONE]), "", "outcomes leave in order");
    for n in 2..=3 {
        assert_eq!(s.applied(1, n, &[DONE]), format!("{n}=1{n}"));
    }
    assert_eq!(s.applied(1, 4, &[DONE]), "4=14 5=15 6=15");
    assert_eq!((s.forward.queued_bytes(), s.forward.deadline_ms()), (0, None));
}

#[test]
fn little_waits_for_the_batch_under_way_and_much_does_not() {
    let mut s = Script::new();
    assert_eq!(s.submit_each(0, [1, 2, 3], 1), "1>0");
    assert_eq!(s.applied(1, 1, &[DONE]), "2>0 1=11");
    assert_eq!(Submission::decode(&s.bytes[&2]).unwrap().items.len(), 2);
    assert_eq!(s.submit_each(2, [4], 1), "");
    assert_eq!(s.submit(2, [5]), "3>0", "now it is worth its cost");
    assert_eq!(Submission::decode(&s.bytes[&3]).unwrap().items.len(), 2);
}

#[test]
fn silence_has_it_all_sent_again_elsewhere_until_somebody_knows_the_leader() {
    let mut s = Script::new();
    s.submit(0, 1..=2);
    assert_eq!(s.forward.deadline_ms(), Some(RESEND_MS));
    assert_eq!(s.timer(RESEND_MS - 1), "");
    assert_eq!(s.timer(RESEND_MS), "1>1 2>1");
    let hint = ForwardAnswer::NotLeader { leader: Some(s.replicas[2].0) };
    assert_eq!(s.answer(600, 1, 1, hint.clone()), "1>2 2>2");
    assert_eq!(s.answer(600, 1, 2, hint), "", "the second of the same");
    assert_eq!(s.submit(601, [3]), "3>2");
    s.forward.leader_is(700, S, s.replicas[0], &mut s.out);
    assert_eq!(s.said(), "1>0 2>0 3>0");
    s.forward.gateway_down(800, s.replicas[0]);
    assert_eq!(s.forward.deadline_ms(), Some(800 + RETRY_MS));
    assert_eq!(s.timer(800 + RETRY_MS), "1>2 2>2 3>2");
}

#[test]
fn a_gateway_that_is_gone_is_not_asked_again_whoever_names_it() {
    let mut s = Script::new();
    s.submit(0, [1]);
    let gone = s.replicas[0];
    s.forward.gateway_down(10, gone);
    assert_eq!(s.forward.deadline_ms(), Some(10 + RETRY_MS), "nobody was known to lead, but it was asked");
    assert_eq!(s.timer(60), "1>1");
    let hint = ForwardAnswer::NotLeader { leader: Some(gone.0) };
    assert_eq!(s.answer(61, 1, 1, hint.clone()), "", "its death is news to this one");
    assert_eq!(s.timer(61 + RETRY_MS), "1>2");
    assert_eq!(s.answer(112, 2, 1, ForwardAnswer::NotLeader { leader: None }), "");
    assert_eq!(s.timer(112 + RETRY_MS), "1>1", "not its turn while it is gone");
    s.forward.gateway_up(gone);
    assert_eq!(s.answer(163, 1, 1, hint), "1>0", "it is back");
}

#[test]
fn with_nobody_in_reach_it_still_tries() {
    let mut s = Script::new();
    s.submit(0, [1]);
    for gone in s.replicas.clone() {
        s.forward.gateway_down(10, gone);
    }
    assert_eq!(s.timer(60), "1>1");
}

#[test]
fn two_that_name_each_other_are_not_asked_without_end() {
    let mut s = Script::new();
    s.submit(0, [1]);
    let (a, b) = (s.replicas[0].0, s.replicas[1].0);
    assert_eq!(s.answer(1, 0, 1, ForwardAnswer::NotLeader { leader: Some(b) }), "1>1");
    assert_eq!(s.answer(2, 1, 1, ForwardAnswer::NotLeader { leader: Some(a) }), "1>0");
    assert_eq!(s.answer(3, 0, 1, ForwardAnswer::NotLeader { leader: Some(b) }), "");
    assert_eq!(s.forward.deadline_ms(), Some(3 + RETRY_MS));
}

#[test]
fn refusals_of_several_batches_do_not_multiply_them() {
    let mut s = Script::new();
    s.submit(0, 1..=3);
    let busy = ForwardAnswer::Busy { why: BusyReason::Outbox };
    assert_eq!(s.answer(5, 0, 1, busy.clone()), "");
    for n in 2..=3 {
        assert_eq!(s.answer(5, 0, n, verdict(BatchVerdict::Gap { last: 0 })), "");
    }
    assert_eq!(s.forward.busy(), Some(BusyReason::Outbox));
    assert_eq!(s.submit(6, [4]), "", "nothing new to a busy leader");
    assert_eq!(s.forward.deadline_ms(), Some(5 + FULL_RETRY_MS), "a full outbox does not empty at once");
    assert_eq!(s.timer(5 + FULL_RETRY_MS), "1>0 2>0 3>0", "to the same leader: it is not silent");
    assert_eq!(s.answer(2_000, 0, 1, busy), "", "still");
    assert_eq!(s.applied(2_100, 1, &[DONE]), "4>0 1=11");
    assert_eq!(s.forward.busy(), None);
}

#[test]
fn a_lost_batch_is_sent_again_soon_with_those_behind_it() {
    let mut s = Script::new();
    s.submit(0, 1..=3);
    assert_eq!(s.applied(1, 1, &[DONE]), "1=11");
    assert_eq!(s.answer(1, 0, 3, verdict(BatchVerdict::Gap { last: 1 })), "");
    assert_eq!(s.timer(1 + RETRY_MS), "2>0 3>0");
}

#[test]
fn a_lost_answer_is_asked_for_again_for_it_may_say_refused() {
    let mut s = Script::new();
    s.submit(0, 1..=2);
    assert_eq!(s.applied(5, 2, &[DONE]), "");
    assert_eq!(s.timer(5 + RETRY_MS), "1>1", "what is answered is not sent again");
    assert_eq!(s.applied(60, 1, &[ItemOutcome::Refused("full".into())]), "1=11! 2=12");

    s.submit(100, [3]);
    assert_eq!(
        s.answer(700, 0, 3, verdict(BatchVerdict::AlreadyApplied)),
        "3=0",
        "no slot is known any more"
    );
}

#[test]
fn what_does_not_decode_is_refused_and_echoes_change_nothing() {
    let mut s = Script::new();
    s.submit(0, 1..=2);
    assert_eq!(s.answer(1, 0, 1, verdict(BatchVerdict::Malformed)), "1=0!");
    assert_eq!(s.answer(2, 0, 1, verdict(BatchVerdict::AlreadyApplied)), "");
    assert_eq!(s.answer(2, 0, 77, ForwardAnswer::Busy { why: BusyReason::Disk }), "");
    assert_eq!((s.forward.busy(), s.forward.deadline_ms()), (None, Some(1 + RESEND_MS)));
    assert_eq!(s.applied(3, 2, &[DONE, GONE]), "2=0", "an answer for another number of items is none");
}

#[test]
fn answers_meant_for_an_earlier_start_acknowledge_nothing() {
    let mut s = Script::new();
    assert_eq!(s.submit(0, 1..=1), "1>0");
    let earlier = Origin { start: s.forward.origin().start - 1, ..s.forward.origin() };
    for old in [BatchVerdict::Applied([DONE].into_iter().collect()), BatchVerdict::AlreadyApplied] {
        s.forward.answered(1, (s.replicas[0], earlier, S, 1), verdict(old), &mut s.out);
        assert_eq!(s.said(), "");
    }
    assert_eq!(s.applied(1, 1, &[DONE]), "1=11");
}

#[test]
fn an_estimate_is_never_below_the_bytes_of_a_batch() {
    let mut s = Script::new();
    for token in 0..2_000 {
        let filter = |i: u64| (format!("{}", i % 10), 1);
        let item = Item::Subscriptions {
            client: "c".repeat(256),
            epoch: u64::MAX,
            add: (0..64).map(filter).collect(),
            remove: vec![],
        };
        s.forward.submit(S, Ticket { connection: 1, token }, Forwardable::Item(item));
        let (time, seq) = (Some(selvedge_types::time::EpochMs(i64::MIN)), Some(u64::MAX));
        let reading = Reading { stream: 0, time, value: 1.0, seq, boot: seq };
        let name = StreamName { device: format!("{token}"), stream: "s".into() };
        s.forward.submit(
            S,
            Ticket { connection: 2, token },
            Forwardable::Publish(None, vec![NamedReading { name: name.into(), maker: None, reading }]),
        );
    }
    s.forward.flush(0, &mut s.out);
    assert!(s.out.send.iter().all(|(_, b)| b.submission.len() <= MAX_BATCH_BYTES));
    assert!(!s.forward.full() && s.forward.queued_bytes() > 0);
}

#[test]
fn the_client_of_a_name_that_may_be_new_is_in_the_batch_once() {
    let mut s = Script::new();
    let reading = |stream: &str, maker: Option<&str>| {
        let name = StreamName { device: "d".into(), stream: stream.into() };
        let reading = Reading { stream: 0, time: None, value: 1.0, seq: None, boot: None };
        NamedReading { name: name.into(), maker: maker.map(Into::into), reading }
    };
    let readings = vec![
        reading("known", None),
        reading("new", Some("a")),
        reading("new", Some("b")),
        reading("new", None),
    ];
    s.forward.submit(S, Ticket { connection: 1, token: 1 }, Forwardable::Publish(None, readings));
    s.forward.flush(0, &mut s.out);
    assert_eq!(s.said(), "1>0");
    let batch = Submission::decode(&s.bytes[&1]).unwrap();
    assert_eq!((batch.streams.len(), batch.makers.len()), (2, 1));
    assert_eq!(batch.named(1).map(|(name, client)| (name.stream, client)), Some(("new", Some("a"))));
    assert_eq!(batch.named(0).map(|(name, client)| (name.stream, client)), Some(("known", None)));
}

#[test]
fn what_nobody_waits_for_is_taken_back_unless_a_batch_has_it_and_a_lane_that_stands_still_is_told() {
    let mut s = Script::new();
    let connect = |client: &str| {
        let at = Origin { gateway: GatewayId(9), start: 4 };
        let (client, will) = (client.to_string(), None);
        Forwardable::Item(Item::Connect(Connect {
            client,
            at,
            connection: 1,
            clean: false,
            expiry_s: 60,
            will,
        }))
    };
    let ticket = |token| Ticket { connection: token, token };
    s.forward.submit(S, ticket(1), connect("first"));
    s.forward.flush(0, &mut s.out);
    // Without a majority nothing is answered. A client that tries again every five seconds, all night, takes no room.
    for token in 2..7_202 {
        s.forward.submit(S, ticket(token), connect("again"));
        s.forward.flush(token, &mut s.out);
        assert!(s.forward.withdraw(S, ticket(token)));
    }
    assert!(!s.forward.withdraw(S, ticket(1)), "a batch has it");
    assert_eq!(s.forward.queued_bytes(), 512);
    assert_eq!((s.forward.stuck(STUCK_MS - 1).len(), s.forward.stuck(STUCK_MS).len()), (0, 1));
    s.forward.submit(S, ticket(8_000), connect("last"));
    s.out = ForwardEffects::default();
    let done = || {
        let verdict = BatchVerdict::Applied([ItemOutcome::Done].into_iter().collect());
        ForwardAnswer::Verdict { slot: 3, verdict }
    };
    s.answer(9_000, 0, 1, done());
    assert!(s.forward.stuck(9_000).is_empty());
    s.answer(9_100, 0, 2, done());
    assert!(s.forward.stuck(99_000).is_empty(), "nothing waits");
    assert_eq!(s.forward.queued_bytes(), 0);
}
