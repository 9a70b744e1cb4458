//! Nothing that comes from outside makes a group panic: neither its configuration, nor what a disk holds, nor what
//! a member sends.

use selvedge_paxos::{
    Ballot, ConfigError, Consensus, Entry, Event, GroupConfig, Limits, MAX_COUNT, MAX_MEMBERS, Message,
    ProposeError, Recovered, Slot, Value,
};
use selvedge_types::ids::{GatewayId, ShardId};

fn config(me: u16, members: &[u16]) -> GroupConfig {
    let members = members.iter().copied().map(GatewayId).collect();
    GroupConfig { group: ShardId(3), me: GatewayId(me), members, limits: Limits::default() }
}

fn entry(slot: Slot) -> Entry {
    Entry { slot, ballot: Ballot { round: 1, gateway: 1 }, value: Value::from([]) }
}

#[test]
fn a_bad_configuration_is_named() {
    let error = |me, members: &[u16]| Consensus::new(config(me, members)).unwrap_err();
    assert!(matches!(error(1, &[]), ConfigError::Count { count: 0, .. }));
    assert!(matches!(error(1, &[1; MAX_MEMBERS + 1]), ConfigError::Count { .. }));
    assert!(matches!(error(1, &[1, 2, 2]), ConfigError::Twice { member: GatewayId(2), .. }));
    assert!(matches!(error(4, &[1, 2, 3]), ConfigError::NotMember { .. }));
    let mut tight = config(1, &[1, 2, 3]);
    tight.limits.memory_bytes = tight.limits.window_bytes;
    assert!(matches!(Consensus::new(tight).unwrap_err(), ConfigError::Limits { .. }));
}

#[test]
fn a_log_with_a_hole_is_no_log() {
    let recover = |found| Consensus::recover(config(1, &[1, 2, 3]), found);
    let holed = Recovered { entries: vec![entry(1), entry(3)], ..Recovered::default() };
    assert!(matches!(recover(holed), Err(ConfigError::Hole { wanted: 2, found: 3, .. })));
    let short = Recovered { entries: vec![entry(1)], commit: 2, ..Recovered::default() };
    assert!(matches!(recover(short), Err(ConfigError::CommitBeyondLog { commit: 2, last: 1, .. })));
    let absurd = Recovered { snapshot_slot: u64::MAX, ..Recovered::default() };
    assert!(matches!(recover(absurd), Err(ConfigError::Absurd { .. })));
    // Entries below the snapshot, and a commit index below it, don't matter.
    let found =
        Recovered { snapshot_slot: 5, commit: 2, entries: vec![entry(2), entry(6)], ..Recovered::default() };
    let group = recover(found).unwrap();
    assert_eq!((group.commit(), group.first_slot(), group.last_slot()), (5, 6, 6));
    let damaged = Recovered { damaged: Some(1), ..Recovered::default() };
    assert!(matches!(Consensus::recover(config(1, &[1]), damaged), Err(ConfigError::DamagedAlone { .. })));
}

#[test]
fn what_may_not_be_proposed_is_refused() {
    let mut group = Consensus::new(config(1, &[1])).unwrap();
    let value = Value::from(&b"x"[..]);
    assert_eq!(group.propose(0, value.clone()), Err(ProposeError::NotLeader { leader: None }));
    group.step(0, Event::Timer);
    let token = group.take().token;
    group.step(0, Event::Persisted { token });
    assert!(group.propose(0, value).is_ok());
    let limit = Limits::default().value_bytes;
    let large = Value::from(vec![0; limit + 1]);
    assert_eq!(group.propose(0, large), Err(ProposeError::TooLarge { bytes: limit + 1, limit }));
}

/// Numbers at the edges, and some that make sense.
fn number(random: &mut impl FnMut(u64) -> u64) -> u64 {
    let odd = [0, 1, 2, 3, 4, 5, 9, MAX_COUNT - 1, MAX_COUNT, MAX_COUNT + 1, u64::MAX - 1, u64::MAX];
    odd[random(odd.len() as u64) as usize]
}

fn message(random: &mut impl FnMut(u64) -> u64) -> Message {
    let ballot = Ballot { round: number(random), gateway: random(4) as u16 };
    let (a, b, yes) = (number(random), number(random), random(2) == 0);
    let value = Value::from(&b"v"[..]);
    let count = random(4) as usize;
    match random(17) {
        0 => Message::Canvass { attempt: a, commit: b },
        1 => Message::Canvassed { attempt: a, granted: yes, seen: ballot },
        2 => Message::Prepare { ballot, from: a },
        3 | 4 => {
            let entry = (Ballot { round: b, gateway: 2 }, value);
            Message::Promise { ballot, from: a, commit: b, entries: vec![entry; count], more: yes }
        }
        5 => Message::Behind { ballot, first: a },
        6 | 7 => Message::Accept { ballot, prev: a, values: vec![value; count], commit: b },
        8 => Message::Accepted { ballot, upto: a, commit: b, vote: yes },
        9 => Message::Lagging { ballot, prefix: a },
        10 => Message::Refused { promised: ballot },
        11 => Message::Confirm { ballot, n: a },
        12 => Message::Confirmed { ballot, n: a },
        13 => Message::Resigned { ballot },
        14 => Message::Recovering { nonce: a },
        15 => Message::Standing { nonce: a, promised: ballot, damaged: yes },
        _ if yes => Message::Rejoin { nonce: a, above: ballot },
        _ => Message::Mark { nonce: a, slot: b },
    }
}

#[test]
fn no_message_and_no_event_makes_it_panic() {
    for seed in 1..=3000u64 {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = move |n: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 20) % n
        };
        let damaged = (random(4) == 0).then_some(1);
        let found = Recovered { damaged, ..Recovered::default() };
        let mut group = Consensus::recover(config(1, &[1, 2, 3]), found).unwrap();
        let up = || vec![GatewayId(2), GatewayId(3), GatewayId(77)];
        group.step(0, Event::Peers { up: up(), restarted: up() });
        let mut now = 0;
        for _ in 0..60 {
            let from = GatewayId(1 + random(4) as u16);
            let event = match random(12) {
                0 => Event::Timer,
                1 => Event::Persisted { token: number(&mut random) },
                2 => Event::TrimMemory { through: number(&mut random) },
                3 if random(3) == 0 => Event::SnapshotInstalled { slot: number(&mut random) },
                4 => Event::Room(random(4) != 0),
                5 => Event::Read { id: 1 },
                6 => Event::Peers { up: up()[..random(3) as usize].to_vec(), restarted: up() },
                _ => Event::Message { from, message: message(&mut random) },
            };
            now += random(300);
            group.step(now, event);
            let _ = group.propose(now, Value::from(&b"p"[..]));
            if random(2) == 0 {
                let effects = group.take();
                if random(2) == 0 {
                    group.step(now, Event::Persisted { token: effects.token });
                }
            }
            assert!(group.commit() <= group.last_slot() && group.first_slot() <= group.last_slot() + 1);
        }
    }
}
