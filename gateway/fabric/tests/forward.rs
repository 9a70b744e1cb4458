//! Forwarding, where scripts (`forward_scripts.rs`) can't express it: an estimate that must hold for any items, and
//! a queue that must not grow.

use selvedge_fabric::forward::{
    Forward, ForwardEffects, Forwardable, MAX_BATCH_BYTES, NamedReading, PIPELINE_BYTES, STUCK_MS, Ticket,
};
use selvedge_fabric::machine::{BatchVerdict, ConnectItem, Item, ItemOutcome, Origin, Reading};
use selvedge_fabric::peer::ForwardAnswer;
use selvedge_fabric::ring::{Member, Ring};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::uplink::StreamName;
use std::sync::Arc;

const S: ShardId = ShardId(0);

struct Script {
    forward: Forward,
    leader: GatewayId,
    out: ForwardEffects,
}

impl Script {
    fn new() -> Self {
        let members: Vec<_> = (1..=3).map(|g| Member { id: GatewayId(g), weight: 1 }).collect();
        let ring = Arc::new(Ring::new(1, &members, 3).unwrap());
        let leader = ring.replicas(S)[0];
        let forward = Forward::new(Origin { gateway: GatewayId(9), start: 4 }, ring, PIPELINE_BYTES);
        Self { forward, leader, out: ForwardEffects::default() }
    }

    /// The only item of a batch was applied.
    fn done(&mut self, now: u64, n: u64) {
        let verdict = BatchVerdict::Applied([ItemOutcome::Done].into_iter().collect());
        let (answer, origin) = (ForwardAnswer::Verdict { slot: 3, verdict }, self.forward.origin());
        self.forward.answered(now, (self.leader, origin, S, n), answer, &mut self.out);
    }
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
fn what_nobody_waits_for_is_taken_back_unless_a_batch_has_it_and_a_lane_that_stands_still_is_told() {
    let mut s = Script::new();
    let connect = |client: &str| {
        let at = Origin { gateway: GatewayId(9), start: 4 };
        let (client, will) = (client.to_string(), None);
        Forwardable::Item(Item::Connect(ConnectItem {
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
    // Without a majority no batch is answered. A client that tries again every five seconds, all night, takes no
    // room.
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
    s.done(9_000, 1);
    assert!(s.forward.stuck(9_000).is_empty());
    s.done(9_100, 2);
    assert!(s.forward.stuck(99_000).is_empty(), "nothing waits");
    assert_eq!(s.forward.queued_bytes(), 0);
}
