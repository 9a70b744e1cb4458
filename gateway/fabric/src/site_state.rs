//! The state of a site for operators: each gateway describes itself and its replicas, and [`Shards`] puts the answers
//! together shard by shard. Any gateway does that for the whole site.
//!
//! # Invariants
//! The answers are of about the same time, not of one instant: a shard may show two leaders, or none, while leadership
//! moves. The replica in the greatest ballot decides which leader is shown. Nothing here decides anything.
//!
//! # Limits
//! A gateway names at most [`MAX_SHARDS`] replicas, and its texts are as short as those of a report
//! ([`selvedge_types::report::shown`]).

use crate::ring::{MAX_SHARDS, Ring};
use bincode::{Decode, Encode};
use selvedge_paxos::{Ballot, Role, Slot};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// A gateway as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct GatewayDescription {
    pub release: String,
    /// How long the process has run.
    pub uptime_ms: u64,
    /// Why it can't do its work, if it can't.
    pub trouble: Option<String>,
    /// How many conditions an operator should fix, though it does its work.
    pub warnings: u32,
    /// MQTT connections that are open now.
    pub connections: u64,
    /// Publishes of QoS 1 and 2 that it has acknowledged since its start.
    pub acked: u64,
    /// Whether its disk has room for new readings.
    pub room: bool,
    /// Whether it agrees with a majority on the wall time.
    pub clock_sure: bool,
    pub replicas: Vec<ReplicaDescription>,
}

/// A replica as its gateway describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ReplicaDescription {
    pub shard: ShardId,
    /// The configuration of the shard that the replica is in.
    pub configuration: u32,
    pub role: ReplicaRole,
    /// The leader, as far as known.
    pub leader: Option<GatewayId>,
    /// The ballot that the replica has promised last.
    pub ballot: Ballot,
    /// All slots up to this one are chosen, as far as known.
    pub commit: Slot,
    /// All slots up to this one are applied.
    pub applied: Slot,
    /// Uplink batches that the cloud has not confirmed, and their bytes.
    pub outbox_batches: u64,
    pub outbox_bytes: u64,
}

/// What a replica is in its group, as operators and other gateways learn it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaRole {
    Follower,
    Candidate,
    Leader,
    Damaged,
}

impl From<Role> for ReplicaRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Follower => Self::Follower,
            Role::Candidate => Self::Candidate,
            Role::Leader => Self::Leader,
            Role::Damaged => Self::Damaged,
        }
    }
}

impl GatewayDescription {
    /// Whether what a peer sent keeps the bounds.
    pub fn is_sound(&self) -> bool {
        let text = |text: &str| selvedge_types::report::shown(text) == text;
        self.replicas.len() <= usize::from(MAX_SHARDS)
            && text(&self.release)
            && self.trouble.as_deref().is_none_or(text)
    }

    /// How many shards the gateway leads.
    pub fn leads(&self) -> usize {
        self.replicas.iter().filter(|r| r.role == ReplicaRole::Leader).count()
    }
}

/// One shard as the gateways' answers show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardState {
    pub shard: ShardId,
    /// The greatest configuration of its replicas; `None` if no replica answered.
    pub configuration: Option<u32>,
    /// The leader that the replica in the greatest ballot names.
    pub leader: Option<GatewayId>,
    /// The gateways that should hold it, the preferred leader first, with what they say of their replica; `None` for a
    /// gateway that did not answer or has no replica.
    pub replicas: Vec<(GatewayId, Option<ReplicaDescription>)>,
}

impl ShardState {
    /// How many slots a replica has yet to apply of those that any replica knows to be chosen.
    pub fn behind_slots(&self, replica: &ReplicaDescription) -> u64 {
        self.commit().saturating_sub(replica.applied)
    }

    /// The last slot that any replica knows to be chosen.
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
    /// Puts together what gateways said of themselves.
    pub fn of(ring: &Ring, gateways: &BTreeMap<GatewayId, GatewayDescription>) -> Self {
        let mut said: BTreeMap<(ShardId, GatewayId), ReplicaDescription> = BTreeMap::new();
        for (gateway, state) in gateways {
            said.extend(state.replicas.iter().map(|r| ((r.shard, *gateway), *r)));
        }
        let shard = |shard: ShardId| {
            let replicas: Vec<_> =
                ring.replicas(shard).iter().map(|g| (*g, said.get(&(shard, *g)).copied())).collect();
            let answered = || replicas.iter().filter_map(|(_, state)| *state);
            ShardState {
                shard,
                configuration: answered().map(|r| r.configuration).max(),
                leader: answered().max_by_key(|r| (r.configuration, r.ballot)).and_then(|r| r.leader),
                replicas,
            }
        };
        Self((0..ring.shards()).map(ShardId).map(shard).collect())
    }

    /// How many slots the replica of a gateway that is furthest behind has yet to apply.
    pub fn behind_slots(&self, gateway: GatewayId) -> u64 {
        let of = |s: &ShardState| {
            let own = s.replicas.iter().find(|(g, _)| *g == gateway).and_then(|(_, state)| *state);
            own.map_or(0, |replica| s.behind_slots(&replica))
        };
        self.0.iter().map(of).max().unwrap_or(0)
    }

    /// How many shards have no leader that anyone knows.
    pub fn leaderless(&self) -> usize {
        self.0.iter().filter(|s| s.leader.is_none()).count()
    }
}
