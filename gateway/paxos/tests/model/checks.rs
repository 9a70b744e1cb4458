//! The properties that must hold in every state and of every message.

use super::world::{REPLICAS, Replica, STOP, Vote, World};
use selvedge_paxos::{Ballot, Message, Role, Slot, Value};

pub const AGREEMENT: &str = "at most one value is chosen for a slot";
pub const VALIDITY: &str = "only what was proposed, or the empty value, is chosen";
pub const CHOSEN: &str = "a commit index covers only what a majority had on disk in one ballot";
pub const LEADERS: &str = "a leader holds all that was chosen in lower ballots";
pub const ONE_VALUE: &str = "one ballot has one value for a slot";
pub const BALLOTS: &str = "no two processes use one ballot";
pub const PREFIX: &str = "commit index <= accepted prefix <= last slot";
pub const ACCEPTED: &str = "accepted is said only of what is chosen or on disk in that ballot";
pub const TELLS: &str = "a leader tells what it holds, and commits no higher than it knows";
pub const READS: &str = "a read is served at a slot that covers all that was known when it was asked for";
pub const APPLIES: &str = "what is newly committed is in memory";
pub const RECOVERS: &str = "a restart finds a sound log";
pub const STOPPED: &str = "a replica has stopped only if the stop is chosen";
pub const AFTER: &str = "nothing is chosen after a stop";
pub const BASES: &str = "everybody begins the next configuration after the same slots";
pub const TOKENS: &str = "a token stands for one write";

/// The entries that a majority had on disk in one ballot, at the same time or not.
pub fn chosen(world: &World) -> Vec<(Slot, Ballot, &Value)> {
    let mut chosen = Vec::new();
    let [a, b, c] = std::array::from_fn::<_, REPLICAS, _>(|i| &world.replicas[i].disk.votes);
    let in_a = a.iter().filter(|v| b.contains(v) || c.contains(v));
    let elsewhere = b.iter().filter(|v| c.contains(v) && !a.contains(v));
    chosen.extend(in_a.chain(elsewhere).map(|(slot, ballot, value)| (*slot, *ballot, value)));
    chosen
}

/// The properties that are violated after something happened at a replica.
pub fn all(world: &World, i: usize) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    let mut must = |holds: bool, what| {
        if !holds {
            wrong.push(what);
        }
    };
    let chosen = chosen(world);
    for (at, (slot, _, value)) in chosen.iter().enumerate() {
        must(chosen[..at].iter().all(|(s, _, v)| s != slot || v == value), AGREEMENT);
        let proposed = |&n: &u8| n == STOP || (1..=world.proposed).contains(&n);
        must(value.len() <= 1 && value.iter().all(proposed), VALIDITY);
        must(chosen.iter().all(|(s, _, _)| s <= slot) || value[..] != [STOP], AFTER);
        must(*slot > world.base, AFTER);
    }
    let replica = &world.replicas[i];
    let group = &replica.group;
    must(group.commit() <= group.prefix() && group.prefix() <= group.last_slot(), PREFIX);
    let stop = |slot: Slot| chosen.iter().any(|(s, _, v)| *s == slot && v[..] == [STOP]);
    must(group.stopped().is_none_or(stop), STOPPED);
    for (slot, value) in (1..).zip(&replica.applied).skip(world.base as usize) {
        must(chosen.iter().any(|(s, _, v)| *s == slot && *v == value), CHOSEN);
    }
    for leader in world.replicas.iter().filter(|r| r.group.role() == Role::Leader) {
        for (slot, ballot, value) in &chosen {
            must(*ballot >= leader.group.ballot() || leader.holds(*slot) == Some(value), LEADERS);
        }
    }
    let votes = |i: usize| world.replicas[i].disk.votes.iter();
    for (slot, ballot, value) in votes(i) {
        let same = |(s, b, v): &(Slot, Ballot, Value)| s != slot || b != ballot || v == value;
        must((0..REPLICAS).all(|o| votes(o).all(same)), ONE_VALUE);
        if let Some(reign) = world.net.reigns.iter().find(|r| r.ballot == *ballot) {
            let told = slot.checked_sub(reign.first).and_then(|at| reign.values.get(at as usize));
            must(told.is_none_or(|v| v == value), ONE_VALUE);
        }
    }
    wrong
}

/// The property that a replica violates by sending this message.
pub fn said(world: &World, i: usize, message: &Message) -> Option<&'static str> {
    match message {
        Message::Accepted { ballot, upto, vote: true, .. } => {
            let chosen = chosen(world);
            let own = &world.replicas[i].disk.votes;
            let covered = (world.base + 1..=*upto).all(|slot| {
                own.iter().any(|(s, b, _)| *s == slot && b == ballot)
                    || chosen.iter().any(|(s, ..)| *s == slot)
            });
            (!covered).then_some(ACCEPTED)
        }
        Message::Accept { ballot, prev, values, commit } => {
            let told = world.net.reigns.iter().find(|r| r.ballot == *ballot).is_some_and(|reign| {
                let values_told = (prev + 1..).zip(values).all(|(slot, value)| {
                    let at = slot.checked_sub(reign.first);
                    at.and_then(|at| reign.values.get(at as usize)) == Some(value)
                });
                values_told && *prev <= reign.last() && *commit <= reign.commit
            });
            (!told).then_some(TELLS)
        }
        _ => None,
    }
}

/// The ballot that the sender of this message uses as its own.
pub fn claims(message: &Message) -> Option<Ballot> {
    match message {
        Message::Prepare { ballot, .. }
        | Message::Accept { ballot, .. }
        | Message::Confirm { ballot, .. } => Some(*ballot),
        _ => None,
    }
}

/// A value, not only the empty one, is chosen.
pub fn value_chosen(world: &World) -> bool {
    chosen(world).iter().any(|(_, _, value)| !value.is_empty())
}

/// The same value is chosen in one ballot and then in another.
pub fn value_carried_on(world: &World) -> bool {
    let chosen = chosen(world);
    let values = || chosen.iter().filter(|(_, _, value)| !value.is_empty() && value[..] != [STOP]);
    values().any(|(slot, a, _)| values().any(|(s, b, _)| s == slot && a != b))
}

/// A replica that crashed or was damaged took part in choosing a value.
pub fn reborn_votes(world: &World) -> bool {
    let reborn = |r: &Replica| r.life > 0 && r.group.role() != Role::Damaged;
    let voted = |r: &Replica, vote: &Vote| r.disk.votes.contains(vote);
    world.replicas.iter().filter(|r| reborn(r)).any(|r| {
        let votes = r
            .disk
            .votes
            .iter()
            .filter(|(slot, _, value)| !value.is_empty() && r.applied.len() as Slot >= *slot);
        votes.into_iter().any(|vote| world.replicas.iter().any(|o| o.life == 0 && voted(o, vote)))
    })
}

/// A stop is chosen in one ballot and then in another.
pub fn stop_carried_on(world: &World) -> bool {
    let chosen = chosen(world);
    let stops = || chosen.iter().filter(|(_, _, value)| value[..] == [STOP]);
    stops().any(|(slot, a, _)| stops().any(|(s, b, _)| s == slot && a != b))
}

/// The next configuration has chosen something, with the vote of the newcomer.
pub fn newcomer_votes(world: &World) -> bool {
    let newcomer = &world.replicas[REPLICAS - 1].disk.votes;
    world.base > 0
        && chosen(world)
            .iter()
            .any(|(slot, ballot, value)| newcomer.contains(&(*slot, *ballot, (*value).clone())))
}
