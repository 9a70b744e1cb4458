//! A corrupt minority never outvotes a sound majority: a replica whose records may be lost sends no vote that counts
//! until it is repaired.

use selvedge_fabric::peer::PeerMessage;
use selvedge_fabric::replica::Replica;
use selvedge_log::Groups;
use selvedge_paxos::{Message, Role};
use selvedge_types::ids::{GatewayId, ShardId};
use std::collections::BTreeMap;

/// A process has started, and its log reports this damage.
pub fn started(at: GatewayId, damaged: &Groups, replicas: &BTreeMap<ShardId, Replica>) {
    for (shard, replica) in replicas {
        let role = replica.core().consensus().role();
        assert!(
            role == Role::Damaged || !damaged.contains(shard.0),
            "{shard} at {at} lost records and votes"
        );
    }
}

/// A gateway sends this message.
pub fn said(replicas: &BTreeMap<ShardId, Replica>, message: &PeerMessage) {
    let PeerMessage::Paxos { group, message, .. } = message else { return };
    let votes = matches!(message, Message::Promise { .. } | Message::Accept { .. } | Message::Prepare { .. })
        || matches!(message, Message::Accepted { vote: true, .. });
    let damaged = replicas.get(group).is_some_and(|r| r.core().consensus().role() == Role::Damaged);
    assert!(!(votes && damaged), "{group}: a damaged replica says {message:?}");
}
