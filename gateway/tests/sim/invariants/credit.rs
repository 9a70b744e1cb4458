//! A gateway's held publishes stay within its credit, except for each connection's own reserve, and for what was read
//! when the pool became tight (see `shared::mqtt::credit`).

use crate::edge::Edge;
use selvedge_fabric::forward::Forward;
use selvedge_mqtt::CreditPool;
use selvedge_mqtt::credit::RESERVE_BYTES;
use selvedge_types::mqtt::QUEUED_OVERHEAD_BYTES;

/// Beyond the pool, each connection may have handed up its reserve, and have as much read behind it.
const OWN_BYTES: usize = 2 * RESERVE_BYTES;
/// The publishes that a tight connection may have held; each counts more than its bytes.
const OWN_ENTRIES: usize = 16;
/// The bytes of one read or one packet.
const AT_ONCE_BYTES: usize = 16 * 1024;

/// More than any device's packet has.
const PACKET_BYTES: usize = 9 * 1024;

/// A connection is about to read this many bytes at once.
pub fn reads(pool: &CreditPool, bytes: usize) {
    let is_tight = pool.lend(0).left_bytes.is_some();
    let most = RESERVE_BYTES + PACKET_BYTES;
    assert!(!is_tight || bytes <= most, "{bytes} bytes are read at once, though little may be held still");
}

pub fn check(edge: &Edge, forward: &Forward) {
    // The forwarder's bytes are counted twice: they belong to publishes that sessions hold.
    let held = edge.front.held_bytes().saturating_sub(forward.queued_bytes());
    let count = edge.connections().count().max(edge.front.connections());
    let own = count * (OWN_BYTES + OWN_ENTRIES * QUEUED_OVERHEAD_BYTES);
    let most = edge.credit_bytes() + AT_ONCE_BYTES + own;
    assert!(held <= most, "{held} bytes of publishes are held by {count} connections, {most} may be");
}
