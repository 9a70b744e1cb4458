//! The gateways that this one has links to, as its host last named them. Gateways come and go while a site serves.
//!
//! A gateway that was named and is not any more was removed from the site. Ids are never given twice, so it does not
//! come back; it is remembered, so that it learns why it is refused.

use super::incarnation::Incarnation;
use crate::directory::{GatewayKey, GatewayRecord};
use crate::ring::MAX_GATEWAYS;
use bincode::{Decode, Encode};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};

/// How many removed gateways are remembered. The oldest ids are forgotten first, and then refused as unknown.
pub const MAX_REMOVED_PEERS_ENTRIES: usize = 1024;

/// The facts about a peer that its site knows.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct KnownPeer {
    /// Host and port for links.
    pub address: String,
    /// The key that it must have. `None` while the directory does not name one: then the first one that this gateway
    /// meets is trusted ([`admit`](super::admit)).
    pub key: Option<GatewayKey>,
    /// The incarnation that its data folder must have; `None` as for the key.
    pub incarnation: Option<Incarnation>,
}

impl KnownPeer {
    /// A peer of which only the address is known.
    pub fn at(address: String) -> Self {
        Self { address, key: None, incarnation: None }
    }

    /// A peer as the directory has it.
    pub fn of(record: &GatewayRecord) -> Self {
        let incarnation = record.incarnation.map(Incarnation);
        Self { address: record.addresses.peer.clone(), key: record.key, incarnation }
    }

    /// Whether the directory names no other key for it.
    pub fn may_have(&self, key: GatewayKey) -> bool {
        self.key.is_none_or(|named| named == key)
    }
}

/// More peers were named than a site can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} peers were named, but a site has at most {MAX_GATEWAYS} gateways; the links stay as they were")]
pub struct TooManyPeers(pub usize);

/// What a change of the list means for links. A changed address means nothing for them: the next dial uses it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerListChange {
    pub added: Vec<GatewayId>,
    pub removed: Vec<GatewayId>,
    /// Peers whose key is newly named: a connection with another key must end.
    pub keyed: Vec<GatewayId>,
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
        let newly = |(p, known): (&GatewayId, &KnownPeer)| {
            let before = self.present.get(p)?;
            (known.key.is_some() && known.key != before.key).then_some(*p)
        };
        let keyed = peers.iter().filter_map(newly).collect();
        self.present = peers;
        self.removed.extend(&removed);
        self.removed.retain(|p| !self.present.contains_key(p));
        while self.removed.len() > MAX_REMOVED_PEERS_ENTRIES {
            self.removed.pop_first();
        }
        Ok(PeerListChange { added, removed, keyed })
    }

    /// Takes in that these gateways were removed from the site, according to the directory: a process that has just
    /// started did not see them go.
    pub fn remember_removed(&mut self, removed: impl IntoIterator<Item = GatewayId>) {
        self.removed.extend(removed.into_iter().filter(|p| !self.present.contains_key(p)));
        while self.removed.len() > MAX_REMOVED_PEERS_ENTRIES {
            self.removed.pop_first();
        }
    }

    /// The facts about a present peer.
    pub fn get(&self, peer: GatewayId) -> Option<&KnownPeer> {
        self.present.get(&peer)
    }

    /// The ids, in order.
    pub fn present(&self) -> impl Iterator<Item = GatewayId> {
        self.present.keys().copied()
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

    fn changed(added: &[u16], removed: &[u16], keyed: &[u16]) -> PeerListChange {
        let ids = |list: &[u16]| list.iter().copied().map(GatewayId).collect();
        PeerListChange { added: ids(added), removed: ids(removed), keyed: ids(keyed) }
    }

    #[test]
    fn peers_come_move_and_go() {
        let mut list = PeerList::new(GatewayId(1));
        let change = list.set(peers([1, 2, 3])).unwrap();
        assert_eq!(change, changed(&[2, 3], &[], &[]), "not this gateway itself");
        let mut moved = peers([2, 4]);
        moved.insert(GatewayId(2), KnownPeer::at("elsewhere:7000".to_string()));
        let change = list.set(moved).unwrap();
        assert_eq!(change, changed(&[4], &[3], &[]));
        assert_eq!(list.get(GatewayId(2)).unwrap().address, "elsewhere:7000");
        assert!(list.get(GatewayId(3)).is_none() && list.was_removed(GatewayId(3)));
        assert!(!list.was_removed(GatewayId(9)), "it never was one");
        list.set(peers([2, 3])).unwrap();
        assert!(!list.was_removed(GatewayId(3)) && list.was_removed(GatewayId(4)));
    }

    #[test]
    fn a_key_that_is_named_later_concerns_the_connection_that_there_is() {
        let (one, other) = (GatewayKey([1; 32]), GatewayKey([2; 32]));
        let mut list = PeerList::new(GatewayId(1));
        list.set(peers([2, 3])).unwrap();
        let mut named = peers([2, 3, 4]);
        let mut name = |peer, key| {
            named.entry(GatewayId(peer)).and_modify(|known| known.key = Some(key));
            named.clone()
        };
        name(4, one);
        assert_eq!(list.set(name(2, one)), Ok(changed(&[4], &[], &[2])), "a new link has no connection yet");
        assert_eq!(list.set(name(2, one)), Ok(changed(&[], &[], &[])));
        assert_eq!(list.set(name(2, other)), Ok(changed(&[], &[], &[2])));
        let known = list.get(GatewayId(2)).unwrap();
        assert!(known.may_have(other) && !known.may_have(one));
        assert!(list.get(GatewayId(3)).unwrap().may_have(one), "none is named");
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
