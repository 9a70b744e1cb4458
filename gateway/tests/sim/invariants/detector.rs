//! What the failure detector promises, held against what its process heard and when it ran:
//!
//! - a gateway is up for itself,
//! - a peer goes down after the silence that the detector waits for, in time in which this process ran, or when its
//!   address refuses a connection while there is none; a process that stood still takes nobody for silent that it had
//!   no time to hear,
//! - a peer that is silent for so long is not up,
//! - a restart is reported when its start is met, each once, and nothing else is.

use selvedge_fabric::detector::{Change, DETECT_MS, Detector, STALL_MS, TICK_MS};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};

pub struct Watched {
    me: GatewayId,
    up: BTreeSet<GatewayId>,
    /// The start of each peer that was last met.
    starts: BTreeMap<GatewayId, u64>,
    /// When each peer was last heard, or unread because of back pressure: a connection that is lost afterwards takes nothing back.
    heard: BTreeMap<GatewayId, u64>,
    /// When this process stood still, lately: from and to.
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

    /// The process stood still.
    pub fn stalled(&mut self, from: u64, to: u64) {
        self.stalls.push((from, to));
    }

    /// The detector was told of a connection to a start of a peer.
    pub fn connected(&mut self, peer: GatewayId, start: u64, detector: &Detector, change: Option<&Change>) {
        let restarted = self.starts.insert(peer, start).is_some_and(|known| known != start);
        let told = change.map_or(&[][..], |change| &change.restarted);
        let expected = if restarted { vec![peer] } else { Vec::new() };
        assert!(told == expected, "{}: start {start} of {peer} is met, and {told:?} is reported", self.me);
        self.look(detector, change);
    }

    /// The detector was told that nobody listens at a peer's address.
    pub fn refused(&mut self, connected: bool, detector: &Detector, change: Option<&Change>) {
        assert!(change.is_none() || !connected, "{}: a peer with a connection goes down at once", self.me);
        self.look(detector, change);
    }

    /// The detector was ticked, after it was told when each peer was heard.
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

    /// How much of a silence the process saw, at least and at most. It can't tell a short stall from a slow turn, and
    /// of a long one not when within a tick it began.
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
