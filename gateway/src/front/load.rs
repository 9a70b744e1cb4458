//! What the forwarder's state means for the connections: whether publishes are held back, whether new clients are
//! turned away, and which shards can't answer a CONNECT.
//!
//! A leader that is busy for a moment does not affect new clients. A leader whose disk or outbox has been full for
//! [`BUSY_MS`] does: what they would send could only wait.

use super::Front;
use selvedge_fabric::forward::Forward;
use selvedge_fabric::peer::BusyReason;

/// New clients are turned away once leaders have refused batches for this long.
pub const BUSY_MS: u64 = 2_000;

/// Watches a forwarder for its front.
#[derive(Debug, Default)]
pub struct Load {
    /// Since when leaders refuse batches, and their present reason.
    busy: Option<(u64, BusyReason)>,
}

impl Load {
    /// Passes the forwarder's state to the front, and refuses the clients that have waited too long. Call it several
    /// times a second while [`Load::goes_on`].
    pub fn look(&mut self, now_ms: u64, forward: &Forward, front: &Front) {
        self.busy = match (forward.busy(), self.busy) {
            (None | Some(BusyReason::Window), _) => None,
            (Some(why), Some((since_ms, _))) => Some((since_ms, why)),
            (Some(why), None) => Some((now_ms, why)),
        };
        let lasting = self.busy.filter(|(since_ms, _)| now_ms > since_ms + BUSY_MS);
        front.note_load(forward.full(), lasting.map(|(_, why)| why));
        front.arriving().note_stuck(forward.stuck(now_ms));
        front.expire(now_ms);
    }

    /// Whether the state may soon change. Otherwise nothing need look: an idle gateway sleeps.
    pub fn goes_on(forward: &Forward, front: &Front) -> bool {
        forward.deadline_ms().is_some() || forward.full() || front.arriving().deadline_ms().is_some()
    }
}
