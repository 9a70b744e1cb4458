//! Which peers live: one failure detector for all groups of a gateway.
//!
//! A peer is **up** while there is an authenticated connection to it, or was one so short ago that it may
//! come back, and it is heard. It goes down
//! - after [`DETECT_MS`] of silence (heartbeats come each 100 ms), or
//! - at once when its connection was lost *and* a new one to its address is refused: its machine answers, its process is gone.
//!   That is what a crash or `kill -9` looks like, and why failover then does not wait for the silence.
//!
//! A connection that is merely lost changes nothing for [`DETECT_MS`].
//!
//! **Our own stall is not their silence.** A process that was suspended or starved finds all its
//! peers silent. Only time in which it ran counts: when two ticks are further apart than
//! [`STALL_MS`], the excess is added to when each peer was last heard. A process that always runs
//! late detects late, but never declares everybody down at once.
//!
//! **A peer whose messages we don't read is not silent**: the caller reports it as heard while back pressure keeps its
//! connection unread.
//!
//! **Flapping** is damped mildly: the second time a peer goes down within [`FLAP_FORGET_MS`], it must
//! hold its next connection for [`HOLD_STEP_MS`] before it counts as up, the third time twice as long, up to [`HOLD_MAX_MS`].
//! The first failure in a while costs nothing.
//!
//! A peer's **restart** is told by its start number and reported as soon as it is met, even if it was never seen down.
//!
//! Invariant: `up` contains this gateway.
//! Invariant: a peer is reported as restarted once for each start after the first that was met.
//!
//! Left out: adaptive timeouts (phi accrual): a site is one local network, and a wrong "down" costs an election, not data.
//! The detector is a hint; safety never depends on it.

use selvedge_shared::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};

/// A peer that is silent for this long is down, in milliseconds.
pub const DETECT_MS: u64 = 500;

/// How often the detector is ticked, in milliseconds.
pub const TICK_MS: u64 = 50;

/// Two ticks further apart than this mean that this process did not run, in milliseconds.
pub const STALL_MS: u64 = 150;

/// A peer that stayed up this long has one failure less on its record, in milliseconds.
pub const FLAP_FORGET_MS: u64 = 10_000;

/// What each further failure adds to the wait before a peer counts as up again, in milliseconds.
pub const HOLD_STEP_MS: u64 = 200;

/// The longest such wait, in milliseconds.
pub const HOLD_MAX_MS: u64 = 1_000;

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// All gateways that are up now, this one among them.
    pub up: BTreeSet<GatewayId>,
    /// Those whose process is another than the one last met.
    pub restarted: Vec<GatewayId>,
    /// Those whose connection should be closed, because they are down: both ends shall agree on it.
    pub cut: Vec<GatewayId>,
}

#[derive(Debug, Default)]
struct Peer {
    /// The start last met.
    start: Option<u64>,
    connected: bool,
    up: bool,
    heard_ms: u64,
    connected_ms: u64,
    /// Recent failures.
    failures: u64,
    /// When the last failure was, or one was last forgiven.
    record_ms: u64,
}

impl Peer {
    fn hold_ms(&self) -> u64 {
        (self.failures.saturating_sub(1) * HOLD_STEP_MS).min(HOLD_MAX_MS)
    }
}

/// The failure detector of one gateway. All times are milliseconds of one monotonic clock.
#[derive(Debug)]
pub struct Detector {
    me: GatewayId,
    peers: BTreeMap<GatewayId, Peer>,
    tick_ms: u64,
    /// How long the last tick found this process had stalled.
    stalled_ms: u64,
}

impl Detector {
    /// A detector that takes all `peers` for down.
    pub fn new(now: u64, me: GatewayId, peers: impl IntoIterator<Item = GatewayId>) -> Self {
        let peers = peers.into_iter().filter(|p| *p != me).map(|p| (p, Peer::default())).collect();
        Self { me, peers, tick_ms: now, stalled_ms: 0 }
    }

    /// All gateways that are up, this one among them.
    pub fn up(&self) -> BTreeSet<GatewayId> {
        let peers = self.peers.iter().filter(|(_, p)| p.up).map(|(id, _)| *id);
        peers.chain([self.me]).collect()
    }

    /// How long this process had not run when it was last ticked, in milliseconds; 0 if it had.
    pub fn stalled_ms(&self) -> u64 {
        self.stalled_ms
    }

    /// There is an authenticated connection to this start of a peer's process, the first or a new one.
    pub fn connected(&mut self, now: u64, peer: GatewayId, start: u64) -> Option<Change> {
        let p = self.peers.get_mut(&peer)?;
        let restarted = p.start.is_some_and(|known| known != start);
        p.start = Some(start);
        p.heard_ms = p.heard_ms.max(now);
        if !p.connected {
            p.connected = true;
            p.connected_ms = now;
        }
        let rose = !p.up && p.hold_ms() == 0;
        p.up |= rose;
        self.change(rose, if restarted { vec![peer] } else { vec![] }, vec![])
    }

    /// Something authenticated came from a peer at that time, or it waits to be read.
    pub fn heard(&mut self, at: u64, peer: GatewayId) {
        if let Some(p) = self.peers.get_mut(&peer) {
            p.heard_ms = p.heard_ms.max(at);
        }
    }

    /// The connection to a peer ended.
    pub fn lost(&mut self, peer: GatewayId) {
        if let Some(p) = self.peers.get_mut(&peer) {
            p.connected = false;
        }
    }

    /// The machine at a peer's address refuses connections: no process listens there.
    pub fn refused(&mut self, now: u64, peer: GatewayId) -> Option<Change> {
        let p = self.peers.get_mut(&peer)?;
        if p.connected || !p.up {
            return None;
        }
        Self::fail(p, now);
        self.change(true, vec![], vec![])
    }

    /// Time has passed; to be called each [`TICK_MS`], after what was heard was reported.
    pub fn tick(&mut self, now: u64) -> Option<Change> {
        let gap = now.saturating_sub(self.tick_ms);
        self.tick_ms = self.tick_ms.max(now);
        self.stalled_ms = if gap > STALL_MS { gap - TICK_MS } else { 0 };
        let (mut changed, mut cut) = (false, vec![]);
        for (id, p) in &mut self.peers {
            p.heard_ms = p.heard_ms.saturating_add(self.stalled_ms).min(now.max(p.heard_ms));
            if p.connected || p.up {
                if now.saturating_sub(p.heard_ms) >= DETECT_MS {
                    if p.connected {
                        cut.push(*id);
                    }
                    p.connected = false;
                    if p.up {
                        Self::fail(p, now);
                        changed = true;
                    }
                } else if p.connected && !p.up && now.saturating_sub(p.connected_ms) >= p.hold_ms() {
                    p.up = true;
                    changed = true;
                }
            }
            if p.up && p.failures > 0 && now.saturating_sub(p.record_ms) >= FLAP_FORGET_MS {
                p.failures -= 1;
                p.record_ms = now;
            }
        }
        self.change(changed, vec![], cut)
    }

    fn fail(p: &mut Peer, now: u64) {
        // A long quiet time clears the record also of a peer that was down in it.
        if now.saturating_sub(p.record_ms) >= FLAP_FORGET_MS {
            p.failures = p.failures.saturating_sub(1);
        }
        p.up = false;
        p.failures = (p.failures + 1).min(HOLD_MAX_MS / HOLD_STEP_MS + 1);
        p.record_ms = now;
    }

    fn change(&self, changed: bool, restarted: Vec<GatewayId>, cut: Vec<GatewayId>) -> Option<Change> {
        let any = changed || !restarted.is_empty() || !cut.is_empty();
        any.then(|| Change { up: self.up(), restarted, cut })
    }
}

#[cfg(test)]
mod tests {}
