//! What the forwarder's state means for the connections: whether publishes are held back, whether newcomers are turned
//! away, and for which shards nobody should wait.
//!
//! A leader that is busy for a moment is none of a newcomer's business; one whose disk or outbox has been full for
//! [`BUSY_MS`] is, for what it would send could only wait.

use super::Front;
use selvedge_fabric::forward::Forward;
use selvedge_fabric::peer::BusyReason;

/// Leaders that have refused for so long turn newcomers away.
pub const BUSY_MS: u64 = 2_000;

/// Looks at a forwarder for its front.
#[derive(Debug, Default)]
pub struct Load {
    /// Since when leaders refuse, and why they do now.
    busy: Option<(u64, BusyReason)>,
}

impl Load {
    /// Tells the front how its forwarder stands now, and refuses those who have waited too long. To be called several
    /// times a second while it [`Load::goes_on`].
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

    /// Whether there may be something to tell soon: an idle gateway sleeps.
    pub fn goes_on(forward: &Forward, front: &Front) -> bool {
        forward.deadline_ms().is_some() || forward.full() || front.arriving().deadline_ms().is_some()
    }
}
