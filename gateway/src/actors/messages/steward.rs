//! Messages to the steward.

use actix::Message;
use selvedge_fabric::directory::Directory;
use selvedge_fabric::steward::ReplicaView;
use selvedge_types::ids::ShardId;
use std::sync::Arc;

/// The shard's replica here is in another configuration than before, or began or ceased to lead.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReplicaIs(pub ShardId, pub ReplicaView);

/// The shard's replica here was given up.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct ReplicaDropped(pub ShardId);

/// The directory as the replica here has applied it.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct DirectoryIs(pub Arc<Directory>);
