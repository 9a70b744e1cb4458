//! Which gateways of the site have full disks, for all threads of a gateway: each gateway says so in every frame.

use selvedge_types::ids::GatewayId;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// The gateways with full disks, this one among them. An outdated entry of an unreachable gateway does no harm: that
/// one can't lead anyway.
#[derive(Debug)]
pub struct SiteRoom {
    me: GatewayId,
    full: Mutex<BTreeSet<GatewayId>>,
    /// The gateways that are being emptied.
    draining: Mutex<Vec<GatewayId>>,
}

impl SiteRoom {
    /// Of gateway `me` and its peers; no disk counts as full yet.
    pub fn new(me: GatewayId) -> Self {
        Self { me, full: Mutex::default(), draining: Mutex::default() }
    }

    /// Notes whether a gateway's disk is full.
    pub fn says(&self, who: GatewayId, full: bool) {
        let mut all = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if full {
            all.insert(who);
        } else {
            all.remove(&who);
        }
    }

    /// Forgets a gateway that was removed from the site.
    pub fn forget(&self, who: GatewayId) {
        self.says(who, false);
    }

    /// Notes whether this gateway's disk is full.
    pub fn mine(&self, full: bool) {
        self.says(self.me, full);
    }

    /// Whether this gateway's disk is full.
    pub fn is_full(&self) -> bool {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).contains(&self.me)
    }

    /// Notes which gateways are being emptied.
    pub fn drain(&self, draining: Vec<GatewayId>) {
        *self.draining.lock().unwrap_or_else(PoisonError::into_inner) = draining;
    }

    /// The gateways that should lead nothing: their disks are full, or they are being emptied.
    pub fn reluctant(&self) -> Vec<GatewayId> {
        let draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all: BTreeSet<GatewayId> = self.full().into_iter().chain(draining).collect();
        all.into_iter().collect()
    }

    /// All gateways whose disks are full.
    pub fn full(&self) -> Vec<GatewayId> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}
