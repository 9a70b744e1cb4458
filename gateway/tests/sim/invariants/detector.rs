//! What the failure detector promises, checked against what its process heard and when it ran:
//!
//! - a gateway is up for itself,
//! - a peer goes down after the silence that the detector waits for, counted while this process ran, or when its
//!   address refuses a connection while there is none; a process that was frozen does not take peers for silent that it
//!   had no time to hear,
//! - a peer that was silent for that long is not up,
//! - a restart is reported when its start is met, once each, and nothing else is.

use selvedge_fabric::detector::{Change, DETECT_MS, Detector, STALL_MS, TICK_MS};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};

pub struct Watched {
    me: GatewayId,
    up: BTreeSet<GatewayId>,
    /// The last start that was met of each peer.
    starts: BTreeMap<GatewayId, u64>,
    /// When each peer was last heard, or was unread because of backpressure: the later loss of a connection does not
    /// revoke that.
    heard: BTreeMap<GatewayId, u64>,
    /// When this process was frozen recently: from and to.
    stalls: Vec<(u64, u64)>,
}

impl Watched {
    pub fn new(me: GatewayId) -> Self {
        Self {
            me,
            up: BTreeSet::from([me]),
            starts: BTreeMap::new(),
            heard: BTreeMap::new(),
            stalls: Vec::new(),
        }
    }

    /// The process was frozen.
    pub fn stalled(&mut self, from: u64, to: u64) {
        self.stalls.push((from, to));
    }

    /// A peer was removed from the site: nothing is expected of it any more.
    pub fn removed(&mut self, peer: GatewayId) {
        self.starts.remove(&peer);
        self.heard.remove(&peer);
    }

    /// The detector was told which peers there are.
    pub fn looked(&mut self, detector: &Detector, change: Option<&Change>) {
        self.look(detector, change);
    }

    /// The detector was given a connection to a start of a peer.
    pub fn connected(&mut self, peer: GatewayId, start: u64, detector: &Detector, change: Option<&Change>) {
        let restarted = self.starts.insert(peer, start).is_some_and(|known| known != start);
        let told = change.map_or(&[][..], |change| &change.restarted);
        let expected = if restarted { vec![peer] } else { Vec::new() };
        assert!(told == expected, "{}: start {start} of {peer} is met, and {told:?} is reported", self.me);
        self.look(detector, change);
    }

    /// The detector was given a refusal: no process listens at a peer's address.
    pub fn refused(&mut self, connected: bool, detector: &Detector, change: Option<&Change>) {
        assert!(change.is_none() || !connected, "{}: a peer with a connection goes down at once", self.me);
        self.look(detector, change);
    }

    /// The detector was ticked, after it was given the times at which each peer was heard.
    pub fn ticked(
        &mut self,
        now: u64,
        heard: &BTreeMap<GatewayId, u64>,
        detector: &Detector,
        change: Option<&Change>,
    ) {
        let was = self.up.clone();
        self.look(detector, change);
        for (peer, at) in heard {
            let heard = self.heard.entry(*peer).or_default();
            *heard = (*heard).max(*at);
            let heard = *heard;
            let (least, most) = self.silence(now, heard);
            let gone = was.contains(peer) && !self.up.contains(peer);
            assert!(
                !gone || most >= DETECT_MS,
                "{} takes {peer} for down, of whose silence it has seen {most} ms",
                self.me
            );
            let is_up = self.up.contains(peer);
            assert!(
                !is_up || least < DETECT_MS,
                "{} takes {peer} for up, whose silence it has seen for {least} ms",
                self.me
            );
        }
        self.stalls.retain(|(_, to)| now < to + 100 * DETECT_MS);
    }

    /// How much of a silence the process saw, at least and at most. It can't tell a short stall from a slow turn, nor
    /// where within a tick a long one began.
    fn silence(&self, now: u64, heard: u64) -> (u64, u64) {
        let stalls = self.stalls.iter().filter(|(_, to)| *to > heard);
        let (mut least, mut most) = (now.saturating_sub(heard), now.saturating_sub(heard));
        for (from, to) in stalls {
            let stood = to - from;
            least = least.saturating_sub(stood);
            most = most.saturating_sub(if stood > STALL_MS { stood - TICK_MS } else { 0 });
        }
        (least, most)
    }

    fn look(&mut self, detector: &Detector, change: Option<&Change>) {
        let up = detector.up();
        assert!(up.contains(&self.me), "{} is not up for itself", self.me);
        assert!(change.is_some() || up == self.up, "{}: who is up has changed, and nobody is told", self.me);
        if let Some(change) = change {
            assert!(change.up == up, "{}: {:?} are up, and {:?} are told", self.me, up, change.up);
        }
        self.up = up;
    }
}
