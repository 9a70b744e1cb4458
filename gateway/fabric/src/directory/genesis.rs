//! The first state of a site, made from the gateways in its settings. Every gateway computes the same directory from
//! the same settings, without communication.

use super::configuration::{Configurations, ShardConfiguration};
use super::gateway::{FIRST_LEVEL, GatewayAddresses, GatewayRecord, GatewayRole, GatewayState, Gateways};
use super::placement::{Placement, directory_voters};
use super::{DIRECTORY_GROUP, FIRST_CONFIGURATION};
use crate::ring::{Member, Ring, RingError};
use bincode::{Decode, Encode};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::time::ElapsedMs;
use std::collections::BTreeMap;

/// The settings from which a directory begins. Every gateway of the site must have the same.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Genesis {
    pub shards: u16,
    /// Wanted replicas per shard.
    pub replicas: usize,
    /// The order does not matter.
    pub gateways: Vec<FirstGateway>,
}

/// A gateway in the settings of a new site.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct FirstGateway {
    pub id: GatewayId,
    pub weight: u32,
    /// The address (host and port) at which other gateways reach it.
    pub peer: String,
}

/// Why no directory can be made from settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// The ring refuses the number of shards or replicas, a weight, or the gateways' numbers.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The address is empty, too long, or has control characters.
    #[error("gateway {0}: its peer address has to be a host and port of at most 255 bytes")]
    Address(GatewayId),
}

impl Genesis {
    /// The ring with which the site begins.
    ///
    /// # Errors
    /// When shards, replicas or gateways do not fit together.
    pub fn ring(&self) -> Result<Ring, RingError> {
        let members: Vec<Member> =
            self.gateways.iter().map(|g| Member { id: g.id, weight: g.weight }).collect();
        Ring::new(self.shards, &members, self.replicas)
    }

    /// The gateways, and configuration 1 of each shard and of the directory group as the placement gives it.
    pub(super) fn begin(&self) -> Result<(Gateways, Configurations), GenesisError> {
        self.ring()?;
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
