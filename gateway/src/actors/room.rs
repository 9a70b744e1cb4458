//! Which gateways of the site have no room on their disks, for all threads of a gateway: each says so of itself in every frame.

use selvedge_types::ids::GatewayId;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

/// Who is full, this gateway among them. What is remembered of one that can't be reached does no harm: it can't lead anyway.
#[derive(Debug)]
pub struct SiteRoom {
    me: GatewayId,
    full: Mutex<BTreeSet<GatewayId>>,
}

impl SiteRoom {
    /// Of this gateway and all others of its site; nobody is full as far as is known.
    pub fn new(me: GatewayId) -> Self {
        Self { me, full: Mutex::default() }
    }

    /// A gateway says whether its disk is full.
    pub fn says(&self, who: GatewayId, full: bool) {
        let mut all = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if full {
            all.insert(who);
        } else {
            all.remove(&who);
        }
    }

    /// This gateway's disk is full, or is no more.
    pub fn mine(&self, full: bool) {
        self.says(self.me, full);
    }

    /// Whether this gateway's disk is full.
    pub fn is_full(&self) -> bool {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).contains(&self.me)
    }

    /// All that are full.
    pub fn full(&self) -> Vec<GatewayId> {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}
