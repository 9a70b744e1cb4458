//! Publishes on their way to subscribers at peers.
//!
//! A connection that publishes to a subscriber at its own gateway is held back while that subscriber is behind
//! ([`selvedge_mqtt::router`]). For subscribers at peers, the publisher's gateway counts how many bytes of each
//! connection are on their way, and from [`WINDOW_BYTES`] on it holds the connection's publishes back in the same way.
//! The peer reports what its subscribers have taken ([`PeerMessage::Taken`]): at once if none of them is behind,
//! otherwise when they have caught up, or after [`FOLLOW_MS`], which is the longest that a publisher waits.
//!
//! So a subscriber at QoS 1 that reads loses nothing, whatever gateway its publishers are connected to, while both stay
//! connected and the link between the gateways is up. Publishes that a link loses are never reported as taken, so a
//! connection for which no report has come for [`FOLLOW_MS`] counts from zero again.
//!
//! Limits: a connection exceeds its window by what one read of it holds. QoS 0 is not counted, because it may be
//! dropped. At most [`MAX_UNTOLD_ENTRIES`] publishes wait to be reported; beyond that the oldest is reported at once.
//!
//! [`PeerMessage::Taken`]: selvedge_fabric::peer::PeerMessage::Taken

use selvedge_mqtt::{Behind, FOLLOW_MS};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Bytes of one connection's publishes that may be on their way before it is held back.
pub const WINDOW_BYTES: u64 = 64 * 1024;

/// Publishes of peers that wait for subscribers that are behind, before they are reported as taken.
pub const MAX_UNTOLD_ENTRIES: usize = 4_096;

/// What one connection here has on its way to peers.
#[derive(Debug)]
struct Window {
    bytes: u64,
    /// When a report for it last came, or it began.
    told_ms: u64,
    behind: Behind,
}

/// A peer's publishes for a subscriber here that is behind.
#[derive(Debug)]
struct Untold {
    peer: GatewayId,
    publisher: u64,
    bytes: u64,
    since_ms: u64,
    behind: Behind,
}

/// Both ends: publishes of connections here, and publishes of peers.
#[derive(Debug, Default)]
pub struct Away {
    windows: HashMap<u64, Window>,
    untold: VecDeque<Untold>,
    /// By peer and its connection: bytes to report as taken.
    taken: BTreeMap<GatewayId, BTreeMap<u64, u64>>,
}

impl Away {
    /// Notes that a connection here has sent `bytes` to a peer. Returns a marker if the connection must wait.
    pub fn sent(&mut self, now_ms: u64, publisher: u64, bytes: u64) -> Option<Behind> {
        let window = self.windows.entry(publisher).or_insert_with(|| Window {
            bytes: 0,
            told_ms: now_ms,
            behind: Behind::default(),
        });
        if now_ms.saturating_sub(window.told_ms) >= FOLLOW_MS {
            (window.bytes, window.told_ms) = (0, now_ms);
        }
        window.bytes += bytes;
        window.behind.set(window.bytes >= WINDOW_BYTES);
        window.behind.get().then(|| window.behind.clone())
    }

    /// Notes a peer's report that it has taken `bytes` of a connection here.
    pub fn told(&mut self, now_ms: u64, publisher: u64, bytes: u64) {
        let Some(window) = self.windows.get_mut(&publisher) else { return };
        window.bytes = window.bytes.saturating_sub(bytes);
        window.told_ms = now_ms;
        if window.bytes <= WINDOW_BYTES / 2 {
            window.behind.set(false);
        }
        if window.bytes == 0 {
            self.windows.remove(&publisher);
        }
    }

    /// Forgets a connection here that is over.
    pub fn over(&mut self, publisher: u64) {
        if let Some(window) = self.windows.remove(&publisher) {
            window.behind.set(false);
        }
    }

    /// Notes `bytes` from a peer's connection; `behind` is the marker of a subscriber that is behind, if they went to
    /// one.
    pub fn came(&mut self, now_ms: u64, peer: GatewayId, publisher: u64, bytes: u64, behind: Option<Behind>) {
        let Some(behind) = behind else { return self.note_taken(peer, publisher, bytes) };
        if self.untold.len() >= MAX_UNTOLD_ENTRIES
            && let Some(oldest) = self.untold.pop_front()
        {
            self.note_taken(oldest.peer, oldest.publisher, oldest.bytes);
        }
        self.untold.push_back(Untold { peer, publisher, bytes, since_ms: now_ms, behind });
    }

    fn note_taken(&mut self, peer: GatewayId, publisher: u64, bytes: u64) {
        *self.taken.entry(peer).or_default().entry(publisher).or_default() += bytes;
    }

    /// The reports that are due now, for each peer. Call it after [`Away::came`], and several times a second.
    pub fn taken(&mut self, now_ms: u64) -> BTreeMap<GatewayId, Vec<(u64, u64)>> {
        let mut untold = std::mem::take(&mut self.untold);
        untold.retain(|u| {
            let waits = u.behind.get() && now_ms.saturating_sub(u.since_ms) < FOLLOW_MS;
            if !waits {
                self.note_taken(u.peer, u.publisher, u.bytes);
            }
            waits
        });
        self.untold = untold;
        std::mem::take(&mut self.taken)
            .into_iter()
            .map(|(peer, of)| (peer, of.into_iter().collect()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: GatewayId = GatewayId(2);

    #[test]
    fn a_connection_waits_from_its_window_until_half_of_it_is_taken() {
        let mut away = Away::default();
        assert!(away.sent(0, 7, WINDOW_BYTES - 1).is_none());
        assert!(away.sent(0, 8, 5).is_none(), "each counts for itself");
        let behind = away.sent(1, 7, 1).expect("its window is full");
        away.told(2, 7, WINDOW_BYTES / 2 - 1);
        assert!(behind.get());
        away.told(3, 7, 1);
        assert!(!behind.get());
        away.told(4, 7, WINDOW_BYTES);
        away.told(4, 8, 5);
        assert!(away.windows.is_empty(), "who has nothing on its way costs nothing");
    }

    #[test]
    fn what_a_link_loses_is_waited_for_once() {
        let mut away = Away::default();
        assert!(away.sent(0, 7, 2 * WINDOW_BYTES).is_some());
        assert!(away.sent(FOLLOW_MS - 1, 7, 1).is_some());
        assert!(away.sent(FOLLOW_MS, 7, 1).is_none());
        let behind = away.sent(FOLLOW_MS, 7, WINDOW_BYTES).expect("full again");
        away.over(7);
        assert!(!behind.get());
    }

    #[test]
    fn what_came_is_told_of_at_once_unless_its_subscriber_is_behind() {
        let (mut away, behind) = (Away::default(), Behind::default());
        behind.set(true);
        away.came(0, PEER, 7, 10, None);
        away.came(0, PEER, 7, 20, Some(behind.clone()));
        away.came(0, GatewayId(3), 7, 40, None);
        assert_eq!(away.taken(1), BTreeMap::from([(PEER, vec![(7, 10)]), (GatewayId(3), vec![(7, 40)])]));
        assert!(away.taken(FOLLOW_MS - 1).is_empty());
        behind.set(false);
        assert_eq!(away.taken(FOLLOW_MS - 1), BTreeMap::from([(PEER, vec![(7, 20)])]));
        behind.set(true);
        away.came(FOLLOW_MS, PEER, 9, 1, Some(behind));
        assert!(away.taken(2 * FOLLOW_MS - 1).is_empty());
        assert_eq!(away.taken(2 * FOLLOW_MS), BTreeMap::from([(PEER, vec![(9, 1)])]), "nobody waits longer");
    }

    #[test]
    fn what_waits_to_be_told_is_bounded() {
        let (mut away, behind) = (Away::default(), Behind::default());
        behind.set(true);
        (0..MAX_UNTOLD_ENTRIES as u64 + 2).for_each(|n| away.came(0, PEER, n, 1, Some(behind.clone())));
        assert_eq!(away.taken(1), BTreeMap::from([(PEER, vec![(0, 1), (1, 1)])]));
    }
}
