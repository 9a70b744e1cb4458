//! The operators' view of a site when its gateways' answers differ or are missing.

use selvedge_fabric::ring::{Member, Ring};
use selvedge_fabric::site_state::{
    GatewayDescription, ReplicaDescription, ReplicaRole, Shards, TransferProgress,
};
use selvedge_paxos::Ballot;
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

const SHARDS: u16 = 4;

fn ring() -> Ring {
    let members: Vec<_> = (1..=3).map(|id| Member { id: GatewayId(id), weight: 1 }).collect();
    Ring::new(SHARDS, &members, 3).unwrap()
}

/// A replica that follows `leader` in a ballot of this round.
fn replica(shard: u16, round: u64, leader: Option<u16>, applied: u64) -> ReplicaDescription {
    ReplicaDescription {
        shard: ShardId(shard),
        configuration: 1,
        role: ReplicaRole::Follower,
        leader: leader.map(GatewayId),
        ballot: Ballot { round, gateway: leader.unwrap_or(0) },
        commit: applied,
        applied,
        outbox_batches: 0,
        outbox_bytes: 0,
        transfer: TransferProgress::default(),
    }
}

fn gateway(replicas: Vec<ReplicaDescription>) -> GatewayDescription {
    GatewayDescription {
        release: "0.1.0".into(),
        uptime_ms: 5,
        trouble: None,
        warnings: 0,
        connections: 0,
        acked: 0,
        room: true,
        clock_sure: true,
        replicas,
    }
}

#[test]
fn the_replica_in_the_greatest_ballot_says_who_leads() {
    let leads = ReplicaDescription { role: ReplicaRole::Leader, ..replica(0, 7, Some(2), 90) };
    let said = BTreeMap::from([
        (GatewayId(1), gateway(vec![replica(0, 6, Some(1), 80)])),
        (GatewayId(2), gateway(vec![leads])),
        (GatewayId(3), gateway(vec![replica(0, 6, Some(1), 70)])),
    ]);
    let shards = Shards::of(&ring(), &said);
    let shard = &shards.0[0];
    assert_eq!((shard.leader, shard.configuration, shard.commit()), (Some(GatewayId(2)), Some(1), 90));
    assert_eq!(shard.leading(), Some(&leads));
    assert_eq!([1, 2, 3].map(|g| shards.behind_slots(GatewayId(g))), [10, 0, 20]);
    // No answer describes the other shards.
    assert_eq!(shards.leaderless(), usize::from(SHARDS) - 1);
    assert_eq!((shards.0[1].configuration, shards.0[1].leader, shards.0[1].leading()), (None, None, None));
}

#[test]
fn a_silent_gateway_keeps_its_place_and_a_stranger_gets_none() {
    let said = BTreeMap::from([
        (GatewayId(1), gateway((0..SHARDS).map(|s| replica(s, 1, Some(3), 1)).collect())),
        (GatewayId(9), gateway(vec![replica(0, 99, Some(9), 1)])),
    ]);
    // The leader that gateway 1 knows says nothing, so nobody can count on it.
    assert_eq!(Shards::of(&ring(), &said).leaderless(), usize::from(SHARDS));
    for shard in Shards::of(&ring(), &said).0 {
        let mut who: Vec<_> = shard.replicas.iter().map(|(gateway, _)| gateway.0).collect();
        who.sort_unstable();
        assert_eq!((who, shard.answered().count()), (vec![1, 2, 3], 1));
        // A follower names the leader, but the leader did not answer.
        assert_eq!((shard.leader, shard.leading()), (Some(GatewayId(3)), None));
    }
}

#[test]
fn a_gateway_that_says_too_much_is_not_believed() {
    assert!(gateway(vec![replica(0, 1, None, 1)]).is_sound());
    let many = gateway((0..1026).map(|s| replica(s, 1, None, 1)).collect());
    let evil = GatewayDescription { trouble: Some("\u{1b}[2J".into()), ..gateway(vec![]) };
    let long = GatewayDescription { release: "x".repeat(401), ..gateway(vec![]) };
    for bad in [many, evil, long] {
        assert!(!bad.is_sound());
    }
}
