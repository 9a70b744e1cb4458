//! No client waits in vain: one that comes when its gateway knows that its shard can't make progress, or that the site
//! accepts nothing more, is refused at once.

use selvedge_gateway::front::Front;
use selvedge_types::ids::ShardId;

/// A client has just sent CONNECT.
pub fn check(front: &Front, connection: u64, client: &str, shard: ShardId) {
    let in_vain = front.trouble().is_some() || front.arriving().is_stuck(shard);
    let waits = front.connected(connection - 1, 1, |_| true).iter().any(|c| c.connection == connection);
    assert!(!(in_vain && waits), "{client} waits for {shard}, which can't move");
}
