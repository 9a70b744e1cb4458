//! Nothing that comes from outside makes a group panic: neither its configuration, nor what a disk holds, nor what
//! a member sends.

use selvedge_paxos::{
    Ballot, ConfigError, Consensus, Entry, Event, GroupConfig, Limits, MAX_COUNT, MAX_LEARNERS, MAX_MEMBERS,
    Message, ProposeError, Recovered, Role, Slot, Value,
};
use selvedge_types::ids::{GatewayId, ShardId};

fn config(me: u16, members: &[u16]) -> GroupConfig {
    let members = members.iter().copied().map(GatewayId).collect();
    GroupConfig::new(ShardId(3), GatewayId(me), members, Limits::default())
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
fn a_configuration_that_contradicts_itself_is_named() {
    let ids = |all: &[u16]| all.iter().copied().map(GatewayId).collect::<Vec<_>>();
    let error = |learners: &[u16], witnesses: &[u16]| {
        let (learners, witnesses) = (ids(learners), ids(witnesses));
        Consensus::new(GroupConfig { learners, witnesses, ..config(1, &[1, 2, 3]) }).unwrap_err()
    };
    assert!(matches!(error(&[4, 4], &[]), ConfigError::Twice { member: GatewayId(4), .. }));
    assert!(matches!(error(&[1], &[]), ConfigError::MemberLearns { learner: GatewayId(1), .. }));
    assert!(matches!(error(&[], &[2, 2]), ConfigError::Twice { member: GatewayId(2), .. }));
    assert!(matches!(error(&[], &[4]), ConfigError::WitnessNotMember { witness: GatewayId(4), .. }));
    assert!(matches!(error(&[4], &[4]), ConfigError::WitnessNotMember { .. }));
    assert!(matches!(error(&[], &[3, 1, 2]), ConfigError::AllWitnesses { .. }));
    let many: Vec<_> = (10..11 + MAX_LEARNERS as u16).collect();
    assert!(matches!(error(&many, &[]), ConfigError::Learners { .. }));
    let twice = Consensus::new(config(1, &[1, 1, 2])).unwrap_err();
    assert!(matches!(twice, ConfigError::Twice { member: GatewayId(1), .. }));
    let late = GroupConfig { base: MAX_COUNT + 1, configuration: 9, ..config(1, &[1, 2, 3]) };
    assert!(matches!(Consensus::new(late).unwrap_err(), ConfigError::Base { configuration: 9, .. }));
    let stranger = GroupConfig { learners: ids(&[5]), ..config(4, &[1, 2, 3]) };
    assert!(matches!(Consensus::new(stranger).unwrap_err(), ConfigError::NotMember { .. }));
}

#[test]
fn the_largest_group_has_room_for_every_learner() {
    let members: Vec<_> = (1..=MAX_MEMBERS as u16).collect();
    let learners: Vec<_> = (100..100 + MAX_LEARNERS as u16).map(GatewayId).collect();
    let last = *learners.last().unwrap();
    let group = GroupConfig { learners: learners.clone(), ..config(last.0, &members) };
    assert_eq!(Consensus::new(group).unwrap().role(), Role::Learner);
    let mut group =
        Consensus::new(GroupConfig { learners: learners.clone(), ..config(1, &members) }).unwrap();
    group.step(0, Event::Peers { up: learners.clone(), restarted: learners });
    // Learners that are reached make no majority, and nobody waits for anything.
    assert_eq!(group.deadline(), None);
}

#[test]
fn learners_that_can_not_be_are_left_out() {
    let mut group = Consensus::new(config(1, &[1, 2, 3])).unwrap();
    let many = [2, 4, 4, 1].into_iter().chain(50..200).map(GatewayId).collect();
    group.step(0, Event::Learners(many));
    let learners = &group.config().learners;
    assert_eq!((learners.len(), learners[0], learners[1]), (MAX_LEARNERS, GatewayId(4), GatewayId(50)));
    // A learner stays one until its host lets go of it.
    let me = GroupConfig { learners: vec![GatewayId(5)], ..config(5, &[1, 2, 3]) };
    let mut group = Consensus::new(me).unwrap();
    group.step(0, Event::Learners(vec![GatewayId(6)]));
    assert_eq!((group.role(), group.config().learners.len()), (Role::Learner, 2));
}

#[test]
fn the_next_configuration_begins_after_its_base() {
    let next = |found| Consensus::recover(GroupConfig { base: 5, ..config(1, &[1, 2, 3]) }, found);
    // The host has applied the base, though its snapshot is older. Entries up to the base are of no matter.
    let entries = vec![entry(4), entry(6), entry(7)];
    let group = next(Recovered { snapshot_slot: 2, commit: 3, entries, ..Recovered::default() }).unwrap();
    assert_eq!((group.commit(), group.first_slot(), group.last_slot()), (5, 6, 7));
    let group = next(Recovered { damaged: Some(1), ..Recovered::default() }).unwrap();
    assert_eq!((group.commit(), group.last_slot(), group.role()), (5, 5, Role::Damaged));
    let holed = Recovered { entries: vec![entry(7)], ..Recovered::default() };
    assert!(matches!(next(holed), Err(ConfigError::Hole { wanted: 6, found: 7, .. })));
}

#[test]
fn a_damaged_learner_needs_no_majority_of_its_own() {
    let me = GroupConfig { learners: vec![GatewayId(5)], ..config(5, &[1]) };
    let group = Consensus::recover(me, Recovered { damaged: Some(1), ..Recovered::default() }).unwrap();
    assert_eq!(group.role(), Role::Damaged);
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
    let value = Value::from(if random(9) == 0 { &b"stop"[..] } else { b"v" });
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
        8 => Message::Accepted { ballot, upto: a, commit: b, recorded: b, vote: yes, damaged: !yes },
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
        let learners = vec![GatewayId(4)];
        let is_stop: fn(&[u8]) -> bool = |value| value == b"stop";
        let me = if random(5) == 0 { 4 } else { 1 };
        let group = GroupConfig { learners, is_stop, ..config(me, &[1, 2, 3]) };
        let mut group = Consensus::recover(group, found).unwrap();
        let up = || vec![GatewayId(2), GatewayId(3), GatewayId(4), GatewayId(77)];
        group.step(0, Event::Peers { up: up(), restarted: up() });
        let mut now = 0;
        for _ in 0..60 {
            let from = GatewayId(1 + random(5) as u16);
            let value = || Value::from(&b"v"[..]);
            let event = match random(14) {
                12 => Event::Learners(vec![GatewayId(random(6) as u16), GatewayId(5)]),
                13 => {
                    let values = vec![value(), Value::from(&b"stop"[..]), value()];
                    Event::Learned { from: number(&mut random), values }
                }
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
            let _ = group.propose(now, Value::from(if random(20) == 0 { &b"stop"[..] } else { b"p" }));
            let _ = (group.deadline(), group.progress(from));
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
