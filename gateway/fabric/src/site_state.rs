//! The state of a site for operators: each gateway describes itself and its replicas, and [`Shards`] combines the
//! answers by shard. Any gateway can do that for the whole site.
//!
//! # Invariants
//! The answers are from about the same time, but not from one instant: while leadership moves, replicas may name two
//! leaders, or none. A shard shows the leader that the replica in the greatest configuration, and there in the greatest
//! ballot, names. The result only informs; no gateway acts on it.
//!
//! # Limits
//! A gateway describes at most [`MAX_SHARDS`] replicas, and its texts keep the bounds of a report
//! ([`selvedge_types::report::shown`]).

use crate::directory::DIRECTORY_GROUP;
use crate::ring::{MAX_SHARDS, Ring};
use bincode::{Decode, Encode};
use selvedge_paxos::{Ballot, Role, Slot};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// A gateway's description of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct GatewayDescription {
    pub release: String,
    /// Time since the process started.
    pub uptime_ms: u64,
    /// Why it can't do its work; `None` if it can.
    pub trouble: Option<String>,
    /// How many conditions an operator should fix, though it does its work.
    pub warnings: u32,
    /// MQTT connections that are open now.
    pub connections: u64,
    /// Publishes of QoS 1 and 2 that the process has acknowledged since its start.
    pub acked: u64,
    /// Whether its disk has room for new readings.
    pub room: bool,
    /// Whether it agrees with a majority of gateways on the wall time.
    pub clock_sure: bool,
    pub replicas: Vec<ReplicaDescription>,
}

/// A gateway's description of one of its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ReplicaDescription {
    pub shard: ShardId,
    /// The number of the configuration that the replica is in.
    pub configuration: u32,
    pub role: ReplicaRole,
    /// The leader that the replica knows, if any.
    pub leader: Option<GatewayId>,
    /// The last ballot that the replica promised.
    pub ballot: Ballot,
    /// The replica knows that all slots up to this one are chosen.
    pub commit: Slot,
    /// All slots up to this one are applied.
    pub applied: Slot,
    /// Uplink batches that the cloud has not confirmed, and their bytes.
    pub outbox_batches: u64,
    pub outbox_bytes: u64,
    /// What it has fetched of a snapshot, if it is fetching one.
    pub transfer: TransferProgress,
}

/// How much of a snapshot, with the contents of batches that it lists, a replica has fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, serde::Serialize)]
pub struct TransferProgress {
    pub done_bytes: u64,
    /// 0 while nothing is fetched. It grows when the snapshot has told which batches it lists.
    pub total_bytes: u64,
}

/// What a replica is in its group, as operators and other gateways learn it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaRole {
    Follower,
    Candidate,
    Leader,
    Damaged,
    Learner,
    /// Neither a member of the present configuration nor a learner.
    Retired,
}

impl From<Role> for ReplicaRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Follower => Self::Follower,
            Role::Candidate => Self::Candidate,
            Role::Leader => Self::Leader,
            Role::Damaged => Self::Damaged,
            Role::Learner => Self::Learner,
        }
    }
}

impl GatewayDescription {
    /// Whether a description from a peer keeps the bounds.
    pub fn is_sound(&self) -> bool {
        let text = |text: &str| selvedge_types::report::shown(text) == text;
        self.replicas.len() <= usize::from(MAX_SHARDS) + 1 // the directory group's
            && text(&self.release)
            && self.trouble.as_deref().is_none_or(text)
    }

    /// The gateway's replicas of shards. The directory group is no shard.
    pub fn shards(&self) -> impl Iterator<Item = &ReplicaDescription> {
        self.replicas.iter().filter(|r| r.shard != DIRECTORY_GROUP)
    }

    /// How many shards the gateway leads.
    pub fn leads(&self) -> usize {
        self.shards().filter(|r| r.role == ReplicaRole::Leader).count()
    }
}

/// One shard as the gateways' answers show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardState {
    pub shard: ShardId,
    /// The greatest configuration number among its replicas; `None` if no replica answered.
    pub configuration: Option<u32>,
    /// The leader that the replica in the greatest configuration and ballot names.
    pub leader: Option<GatewayId>,
    /// The gateways that should hold the shard, the preferred leader first, with their descriptions of their replicas;
    /// `None` for a gateway that did not answer or has no replica.
    pub replicas: Vec<(GatewayId, Option<ReplicaDescription>)>,
}

impl ShardState {
    /// How many of the slots that any replica knows to be chosen this replica has yet to apply.
    pub fn behind_slots(&self, replica: &ReplicaDescription) -> u64 {
        self.commit().saturating_sub(replica.applied)
    }

    /// The last slot that any replica knows to be chosen; 0 if none answered.
    pub fn commit(&self) -> Slot {
        self.answered().map(|r| r.commit).max().unwrap_or(0)
    }

    /// The state of the leader's replica, if it answered.
    pub fn leading(&self) -> Option<&ReplicaDescription> {
        let (_, state) = self.replicas.iter().find(|(gateway, _)| Some(*gateway) == self.leader)?;
        state.as_ref()
    }

    /// The replicas whose gateways answered.
    pub fn answered(&self) -> impl Iterator<Item = &ReplicaDescription> {
        self.replicas.iter().filter_map(|(_, state)| state.as_ref())
    }
}

/// The shards of a site, as the gateways' answers show them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shards(pub Vec<ShardState>);

impl Shards {
    /// Combines the gateways' descriptions, with an entry for each shard of the ring. Replicas elsewhere are left out.
    pub fn of(ring: &Ring, gateways: &BTreeMap<GatewayId, GatewayDescription>) -> Self {
        let placed = |shard| (shard, ring.replicas(shard).to_vec());
        Self::placed((0..ring.shards()).map(ShardId).map(placed), gateways)
    }

    /// The same for these shards, each with the gateways that should hold it.
    pub fn placed(
        shards: impl IntoIterator<Item = (ShardId, Vec<GatewayId>)>,
        gateways: &BTreeMap<GatewayId, GatewayDescription>,
    ) -> Self {
        let mut said: BTreeMap<(ShardId, GatewayId), ReplicaDescription> = BTreeMap::new();
        for (gateway, state) in gateways {
            said.extend(state.replicas.iter().map(|r| ((r.shard, *gateway), *r)));
        }
        let shard = |(shard, holders): (ShardId, Vec<GatewayId>)| {
            let replicas: Vec<_> = holders.into_iter().map(|g| (g, said.get(&(shard, g)).copied())).collect();
            let answered = || replicas.iter().filter_map(|(_, state)| *state);
            ShardState {
                shard,
                configuration: answered().map(|r| r.configuration).max(),
                leader: answered().max_by_key(|r| (r.configuration, r.ballot)).and_then(|r| r.leader),
                replicas,
            }
        };
        Self(shards.into_iter().map(shard).collect())
    }

    /// How many slots the gateway's slowest replica has yet to apply; 0 if the gateway did not answer.
    pub fn behind_slots(&self, gateway: GatewayId) -> u64 {
        let of = |s: &ShardState| {
            let own = s.replicas.iter().find(|(g, _)| *g == gateway).and_then(|(_, state)| *state);
            own.map_or(0, |replica| s.behind_slots(&replica))
        };
        self.0.iter().map(of).max().unwrap_or(0)
    }

    /// How many shards have no leader among the gateways that answered.
    pub fn leaderless(&self) -> usize {
        self.0.iter().filter(|s| s.leading().is_none_or(|r| r.role != ReplicaRole::Leader)).count()
    }
}
