//! The gateways that this one has links to, as its host last named them. Gateways come and go while a site serves.
//!
//! A gateway that was named and is not any more was removed from the site. Ids are never given twice, so it does not
//! come back; it is remembered, so that it learns why it is refused.

use crate::ring::MAX_GATEWAYS;
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};

/// How many removed gateways are remembered. The oldest ids are forgotten first, and then refused as unknown.
pub const MAX_REMOVED_PEERS_ENTRIES: usize = 1024;

/// The facts about a peer that its site knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPeer {
    /// Host and port for links.
    pub address: String,
}

impl KnownPeer {
    /// A peer of which only the address is known.
    pub fn at(address: String) -> Self {
        Self { address }
    }
}

/// More peers were named than a site can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} peers were named, but a site has at most {MAX_GATEWAYS} gateways; the links stay as they were")]
pub struct TooManyPeers(pub usize);

/// The links to make and to end after a change of the list. A changed address needs neither: the next dial uses it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerListChange {
    pub added: Vec<GatewayId>,
    pub removed: Vec<GatewayId>,
}

/// The peers of a gateway, present and removed.
///
/// Invariant: at most [`MAX_GATEWAYS`] - 1 are present, and this gateway is not among them.
/// Invariant: no gateway is both present and removed.
#[derive(Debug)]
pub struct PeerList {
    me: GatewayId,
    present: BTreeMap<GatewayId, KnownPeer>,
    removed: BTreeSet<GatewayId>,
}

impl PeerList {
    /// The empty list of gateway `me`.
    pub fn new(me: GatewayId) -> Self {
        Self { me, present: BTreeMap::new(), removed: BTreeSet::new() }
    }

    /// Takes these as all peers from now on; this gateway itself is ignored.
    ///
    /// # Errors
    /// When they are too many. The list is as before then.
    pub fn set(&mut self, mut peers: BTreeMap<GatewayId, KnownPeer>) -> Result<PeerListChange, TooManyPeers> {
        peers.remove(&self.me);
        if peers.len() >= MAX_GATEWAYS {
            return Err(TooManyPeers(peers.len()));
        }
        let added: Vec<_> = peers.keys().filter(|p| !self.present.contains_key(p)).copied().collect();
        let removed: Vec<_> = self.present.keys().filter(|p| !peers.contains_key(p)).copied().collect();
        self.present = peers;
        self.removed.extend(&removed);
        self.removed.retain(|p| !self.present.contains_key(p));
        while self.removed.len() > MAX_REMOVED_PEERS_ENTRIES {
            self.removed.pop_first();
        }
        Ok(PeerListChange { added, removed })
    }

    /// The facts about a present peer.
    pub fn get(&self, peer: GatewayId) -> Option<&KnownPeer> {
        self.present.get(&peer)
    }

    /// Whether a gateway was a peer and is one no more.
    pub fn was_removed(&self, peer: GatewayId) -> bool {
        self.removed.contains(&peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(ids: impl IntoIterator<Item = u16>) -> BTreeMap<GatewayId, KnownPeer> {
        ids.into_iter().map(|p| (GatewayId(p), KnownPeer::at(format!("box-{p}:7000")))).collect()
    }

    fn ids(list: &[u16]) -> Vec<GatewayId> {
        list.iter().copied().map(GatewayId).collect()
    }

    #[test]
    fn peers_come_move_and_go() {
        let mut list = PeerList::new(GatewayId(1));
        let change = list.set(peers([1, 2, 3])).unwrap();
        assert_eq!(
            change,
            PeerListChange { added: ids(&[2, 3]), removed: vec![] },
            "not this gateway itself"
        );
        let mut moved = peers([2, 4]);
        moved.insert(GatewayId(2), KnownPeer::at("elsewhere:7000".to_string()));
        let change = list.set(moved).unwrap();
        assert_eq!(change, PeerListChange { added: ids(&[4]), removed: ids(&[3]) });
        assert_eq!(list.get(GatewayId(2)).unwrap().address, "elsewhere:7000");
        assert!(list.get(GatewayId(3)).is_none() && list.was_removed(GatewayId(3)));
        assert!(!list.was_removed(GatewayId(9)), "it never was one");
        list.set(peers([2, 3])).unwrap();
        assert!(!list.was_removed(GatewayId(3)) && list.was_removed(GatewayId(4)));
    }

    #[test]
    fn the_list_is_bounded() {
        let mut list = PeerList::new(GatewayId(1));
        let most = MAX_GATEWAYS as u16;
        list.set(peers(1..=most)).unwrap();
        let said = list.set(peers(1..=most + 1)).unwrap_err().to_string();
        assert!(said.contains("64 peers were named"), "{said}");
        assert!(list.get(GatewayId(most)).is_some() && list.get(GatewayId(most + 1)).is_none());
        for round in 1..40 {
            list.set(peers(round * most..(round + 1) * most - 1)).unwrap();
        }
        list.set(peers([])).unwrap();
        assert_eq!(list.removed.len(), MAX_REMOVED_PEERS_ENTRIES);
        assert!(list.was_removed(GatewayId(40 * most - 2)) && !list.was_removed(GatewayId(2)));
    }
}
