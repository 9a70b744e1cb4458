//! What a site begins with: the gateways that its settings name. Every first gateway makes the same directory of it, without a word
//! between them.

use super::configuration::{Configurations, ShardConfiguration};
use super::gateway::{FIRST_LEVEL, GatewayAddresses, GatewayRecord, GatewayRole, GatewayState, Gateways};
use super::placement::{Placement, directory_voters};
use super::{DIRECTORY_GROUP, FIRST_CONFIGURATION};
use crate::ring::{Member, Ring, RingError};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::ElapsedMs;
use std::collections::BTreeMap;

/// A site as its settings have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Genesis {
    pub shards: u16,
    pub replicas: usize,
    /// In any order.
    pub gateways: Vec<FirstGateway>,
}

/// One of the gateways that a site begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstGateway {
    pub id: GatewayId,
    pub weight: u32,
    /// Where the others reach it.
    pub peer: String,
}

/// Why settings make no directory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Shards, replicas, weights or numbers of gateways.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// An address that can't be kept.
    #[error("gateway {0}: its peer address has to be a host and port of at most 255 bytes")]
    Address(GatewayId),
}

impl Genesis {
    /// The gateways, and the first configuration of each shard and of the directory group: what the ring says.
    pub(super) fn begin(&self) -> Result<(Gateways, Configurations), GenesisError> {
        let members: Vec<Member> =
            self.gateways.iter().map(|g| Member { id: g.id, weight: g.weight }).collect();
        Ring::new(self.shards, &members, self.replicas)?;
        let mut all = BTreeMap::new();
        for first in &self.gateways {
            let addresses = GatewayAddresses { peer: first.peer.clone(), ..GatewayAddresses::default() };
            if !addresses.is_sound() {
                return Err(GenesisError::Address(first.id));
            }
            let record = GatewayRecord {
                incarnation: None,
                key: None,
                addresses,
                weight: first.weight,
                zone: None,
                role: GatewayRole::Full,
                state: GatewayState::Active,
                ring_id: first.id,
                level: FIRST_LEVEL,
                changed: 0,
                since: ElapsedMs(0),
            };
            all.insert(first.id, record);
        }
        let highest = all.keys().next_back().copied().unwrap_or(GatewayId(0));
        let gateways = Gateways { all, highest };
        let placement = Placement::of(self.shards, self.replicas, &gateways);
        let first = |voters: &[GatewayId]| ShardConfiguration {
            number: FIRST_CONFIGURATION,
            voters: voters.to_vec(),
            learners: Vec::new(),
        };
        let mut configurations: BTreeMap<ShardId, ShardConfiguration> =
            (0..self.shards).map(ShardId).map(|s| (s, first(placement.wanted(s)))).collect();
        configurations.insert(DIRECTORY_GROUP, first(&directory_voters(&gateways, &[])));
        Ok((gateways, Configurations(configurations)))
    }
}
