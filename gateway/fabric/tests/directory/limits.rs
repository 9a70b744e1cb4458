//! Bounds, repeated requests, and cases of the planner that would make long scripts.

use crate::site::*;
use selvedge_fabric::directory::*;
use selvedge_fabric::ring::MAX_GATEWAYS;
use selvedge_types::ids::{GatewayId, ShardId};

fn refused(outcome: DirectoryOutcome) -> DirectoryRefusal {
    match outcome {
        DirectoryOutcome::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

fn remove(id: u16) -> DirectoryCommand {
    DirectoryCommand::Remove { gateway: GatewayId(id), force: false, unsound: vec![] }
}

#[test]
fn invitations_are_bounded_and_so_is_what_is_known_of_those_that_ended() {
    let mut site = Site::new(&genesis(1, 1, &[(1, 1)]));
    for token in 0..MAX_INVITATIONS_ENTRIES as u8 {
        site.tell(invite(token, Admission::default()));
    }
    let one_more = site.tell(invite(200, Admission::default()));
    assert_eq!(refused(one_more), DirectoryRefusal::TooManyInvitations);
    assert_eq!(site.directory.next_due(), Some(site.directory.elapsed().plus(3_600_000)));
    site.elapse(3_600_000);
    assert!(matches!(site.tell(invite(200, Admission::default())), DirectoryOutcome::Invited { .. }));
    assert_eq!(site.directory.invitations().len(), 1);
    let joined =
        |site: &mut Site, token| refused(site.tell(DirectoryCommand::Join(Box::new(join(token, token, 1)))));
    assert_eq!(joined(&mut site, 0), DirectoryRefusal::InvitationExpired);
    // One more invitation ends, so the first of the ended ones is forgotten.
    site.elapse(3_600_000);
    assert_eq!(joined(&mut site, 200), DirectoryRefusal::InvitationExpired);
    assert_eq!(joined(&mut site, 0), DirectoryRefusal::InvitationUnknown);
}

#[test]
fn no_more_gateways_than_a_ring_takes_are_let_in() {
    let first: Vec<(u16, u32)> = (1..MAX_GATEWAYS as u16).map(|id| (id, 1)).collect();
    let mut site = Site::new(&genesis(16, 3, &first));
    site.add(Admission::default());
    site.tell(invite(9, Admission::default()));
    let join_one = DirectoryCommand::Join(Box::new(join(9, 9, 1)));
    assert_eq!(refused(site.tell(join_one.clone())), DirectoryRefusal::TooManyGateways);
    // The invitation is still open when there is room again.
    let none = |site: &Site| (1..64).map(GatewayId).find(|id| !site.directory.holds_place(*id)).unwrap();
    assert_eq!(site.tell(remove(none(&site).0)), DirectoryOutcome::Done);
    assert_eq!(site.tell(join_one), DirectoryOutcome::Joined { gateway: GatewayId(65) });
}

#[test]
fn a_request_that_comes_again_counts_once_as_long_as_it_is_remembered() {
    let mut site = Site::new(&genesis(2, 3, &[(1, 1), (2, 1), (3, 1), (4, 1)]));
    let key = |n: u8| Some(RequestKey([n; 16]));
    assert_eq!(site.tell_as(key(0), remove(4)), DirectoryOutcome::Done);
    // The leader's addition is not part of the request.
    let unsound = vec![UnsoundReplica { shard: ShardId(0), gateway: GatewayId(1) }];
    let again = DirectoryCommand::Remove { gateway: GatewayId(4), force: false, unsound };
    assert_eq!(site.tell_as(key(0), again), DirectoryOutcome::Done);
    assert_eq!(refused(site.tell_as(key(0), remove(3))), DirectoryRefusal::KeyReused);
    for n in 1..=MAX_REQUESTS_ENTRIES as u8 {
        site.tell_as(key(n), DirectoryCommand::Pause);
    }
    assert_eq!(site.tell_as(key(0), remove(4)), DirectoryOutcome::Unchanged, "forgotten, and applied anew");
}

#[test]
fn a_move_whose_newcomer_has_no_room_gives_way_to_one_that_waits() {
    let mut site = Site::new(&genesis(64, 3, &[(1, 1), (2, 1), (3, 1)]));
    let full = site.add(Admission::default());
    for step in
        plan(&site.directory, &site.seen).into_iter().filter(|s| matches!(s, DirectoryStep::Propose(_)))
    {
        site.carry_out(&step);
    }
    assert_eq!(site.directory.moves().len(), MAX_MOVES_ENTRIES);
    site.seen.gateways.entry(full).and_modify(|g| g.has_room = false);
    let ends = |site: &Site| {
        let steps = plan(&site.directory, &site.seen);
        steps.iter().filter(|s| matches!(s, DirectoryStep::Propose(DirectoryCommand::EndMove { .. }))).count()
    };
    assert_eq!(ends(&site), 0, "nobody else waits");
    site.add(Admission::default());
    assert_eq!(ends(&site), MAX_MOVES_ENTRIES);
    let shard = *site.directory.moves().keys().next().unwrap();
    let too_many =
        DirectoryCommand::BeginMove { shard: ShardId(63), leaves: None, comes: Some(full), configuration: 1 };
    assert_eq!(refused(site.tell(too_many)), DirectoryRefusal::TooManyMoves);
    let twice = DirectoryCommand::BeginMove { shard, leaves: None, comes: Some(full), configuration: 1 };
    assert_eq!(refused(site.tell(twice)), DirectoryRefusal::MoveUnderWay(shard));
}

#[test]
fn a_removal_counts_what_a_move_under_way_may_have_taken_away_already() {
    let mut site = Site::new(&genesis(1, 3, &[(1, 1), (2, 1), (3, 1)]));
    let shrink = DirectoryCommand::BeginMove {
        shard: ShardId(0),
        leaves: Some(GatewayId(3)),
        comes: None,
        configuration: 1,
    };
    assert!(matches!(site.tell(shrink), DirectoryOutcome::Begun { .. }));
    let why = refused(site.tell(remove(2)));
    assert_eq!(
        why,
        DirectoryRefusal::NoMajority { gateway: GatewayId(2), shard: ShardId(0), left: 1, voters: 2 }
    );
    assert_eq!(site.tell(remove(3)), DirectoryOutcome::Done);
}

#[test]
fn a_witness_is_not_the_last_good_replica() {
    let mut site = Site::new(&genesis(2, 3, &[(1, 1), (2, 1)]));
    site.add(Admission { role: GatewayRole::Witness, ..Admission::default() });
    site.settle();
    let behind = |shard| UnsoundReplica { shard: ShardId(shard), gateway: GatewayId(2) };
    let removed = DirectoryCommand::Remove { gateway: GatewayId(1), force: false, unsound: vec![behind(1)] };
    assert_eq!(
        refused(site.tell(removed)),
        DirectoryRefusal::LastGoodReplica { gateway: GatewayId(1), shard: ShardId(1) }
    );
    assert_eq!(site.tell(remove(1)), DirectoryOutcome::Done);
}

#[test]
fn a_replacement_that_never_came_up_is_replaced_itself_and_the_old_one_stays() {
    let mut site = Site::new(&genesis(4, 3, &[(1, 1), (2, 1), (3, 1)]));
    let replace = |id| Admission { replaces: Some(GatewayId(id)), ..Admission::default() };
    let join_as = |site: &mut Site, token| site.tell(DirectoryCommand::Join(Box::new(join(token, token, 1))));
    site.tell(invite(1, replace(3)));
    assert_eq!(join_as(&mut site, 1), DirectoryOutcome::Joined { gateway: GatewayId(4) });
    site.settle();
    assert_eq!(site.directory.gateway(GatewayId(3)).unwrap().state, GatewayState::Active);
    // The first box never comes up. Once it is removed, another can replace gateway 3.
    assert_eq!(
        refused(site.tell(invite(2, replace(3)))),
        DirectoryRefusal::Replaced { gateway: GatewayId(3), by: GatewayId(4) }
    );
    assert_eq!(site.tell(remove(4)), DirectoryOutcome::Done);
    site.tell(invite(2, replace(3)));
    // The new box takes over the ring position even if the old gateway is removed before it joins.
    assert_eq!(site.tell(remove(3)), DirectoryOutcome::Done);
    assert_eq!(join_as(&mut site, 2), DirectoryOutcome::Joined { gateway: GatewayId(5) });
    site.up(GatewayId(5));
    site.settle();
    assert_eq!(site.directory.gateway(GatewayId(5)).unwrap().ring_id, GatewayId(3));
    assert!(site.directory.configurations().all(|(_, c)| !c.voters.contains(&GatewayId(3))));
}
