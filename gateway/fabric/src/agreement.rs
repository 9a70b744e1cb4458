//! Wall time that a majority of the gateways agrees on: the time that leaders write into the log.
//!
//! Every frame between two gateways carries a [`ClockNote`]: the sender's wall clock and monotonic clock, the
//! receiver's monotonic time in the last note that the sender got from it, and how long ago that was. So each frame
//! completes a round trip that is timed on *one* monotonic clock. It tells how far the peer's wall clock is ahead
//! of this gateway's monotonic clock, within the time of the trip. Because samples are measured against the
//! monotonic clock, no jump of this gateway's own wall clock spoils them.
//!
//! Each wall clock then is an interval: its reading, plus or minus [`APART_MS`] / 2, widened by the trip for a
//! peer's clock. Marzullo's algorithm finds the smallest interval that the most clocks share. If these clocks are a
//! majority of all gateways that the site has at that time, they agree:
//! - a gateway whose own clock lies within the interval uses its own clock;
//! - a gateway whose clock lies outside uses the middle of the interval, and should lead only if no other can
//!   ([`Agreement::outside`]);
//! - a clock before [`EARLIEST_NOW`] (a box without a battery after a power cut, or a GPS week rollover) is not
//!   counted.
//!
//! Without a majority a gateway has only its own clock, and marks the time as unsure. (A shard's leader then
//! continues by elapsed time from the last time agreed on: [`crate::shard`].)
//!
//! Invariant: wall time that is sure lies within [`APART_MS`] of the wall clocks of a majority, give or take a
//! round trip.
//! Invariant: a clock is called outside, or inside again, only after it has been so for [`HOLD_MS`]; without
//! agreement no clock is called outside.
//! Limit: if a majority of clocks is wrong in the same way, they agree on the wrong time. Only labels depend on it.
//!
//! Sources: K. Marzullo, "Maintaining the Time in a Distributed System" (1984), as used by NTP (RFC 5905, section
//! 11.2.1) and by TigerBeetle, `src/vsr/clock.zig`.

use bincode::{Decode, Encode};
use selvedge_types::canary::{self, Canary};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::{EARLIEST_NOW, EpochMs};
use std::collections::BTreeMap;

/// Wall clocks that are further apart than this do not agree, in milliseconds.
pub const APART_MS: i64 = 10_000;
/// A sample of a peer's clock counts for this long, in milliseconds: links are never silent for half of it.
pub const SAMPLE_KEPT_MS: u64 = 5_000;
/// A sample whose round trip took longer than this is too inaccurate to use, in milliseconds.
pub const MAX_TRIP_MS: u64 = 2_000;
/// A clock is called outside, or inside again, once it has been so for this long, in milliseconds.
pub const HOLD_MS: u64 = 5_000;
/// The longest time between two calls of [`Agreement::look`], in milliseconds.
pub const LOOK_MS: u64 = 1_000;

/// The state of a sender's clocks, as each frame carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct ClockNote {
    /// The time that the sender's wall clock shows.
    pub wall: EpochMs,
    /// The sender's monotonic clock, in milliseconds.
    pub mono_ms: u64,
    /// The receiver's monotonic clock in the last note that the sender got from it, and how long the sender has had
    /// that note, in milliseconds.
    pub heard: Option<(u64, u64)>,
}

/// The wall time as this gateway knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WallTime {
    pub wall: EpochMs,
    /// Whether a majority of the gateways agrees on it.
    pub sure: bool,
}

/// The last note from a peer about its clocks.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// The peer's monotonic clock, and ours when the note arrived.
    mono: Option<(u64, u64)>,
    /// How far the peer's wall clock is ahead of our monotonic clock at least; how much more it may be; and when
    /// that was measured.
    sample: Option<(i64, u64, u64)>,
}

/// Whether a clock is called outside, and since when it has seemed to be otherwise.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    outside: bool,
    otherwise_since_ms: Option<u64>,
}

/// The core. Times are milliseconds of this gateway's one monotonic clock.
#[derive(Debug)]
pub struct Agreement {
    me: GatewayId,
    peers: BTreeMap<GatewayId, Heard>,
    standings: BTreeMap<GatewayId, Standing>,
    /// How far the agreed time is ahead of our monotonic clock, from and to; none without a majority.
    agreed: Option<(i64, i64)>,
    looked_ms: Option<u64>,
}

impl Agreement {
    /// For this gateway and all others of its site; nothing is agreed before the first [`Agreement::look`].
    pub fn new(me: GatewayId, peers: impl IntoIterator<Item = GatewayId>) -> Self {
        let peers: BTreeMap<_, _> =
            peers.into_iter().filter(|p| *p != me).map(|p| (p, Heard::default())).collect();
        Self { me, peers, standings: BTreeMap::new(), agreed: None, looked_ms: None }
    }

    /// Takes these as all other gateways from now on; the next [`Agreement::look`] counts them.
    pub fn set_peers(&mut self, peers: impl IntoIterator<Item = GatewayId>) {
        let mut known = std::mem::take(&mut self.peers);
        let peers = peers.into_iter().filter(|p| *p != self.me);
        self.peers = peers.map(|p| (p, known.remove(&p).unwrap_or_default())).collect();
        self.standings.retain(|g, _| *g == self.me || self.peers.contains_key(g));
    }

    /// The note for the next frame to a peer.
    pub fn note(&self, peer: GatewayId, now_ms: u64, own: EpochMs) -> ClockNote {
        let heard = self.peers.get(&peer).and_then(|p| p.mono);
        ClockNote {
            wall: own,
            mono_ms: now_ms,
            heard: heard.map(|(mono, at)| (mono, now_ms.saturating_sub(at))),
        }
    }

    /// Takes in the note of a peer's frame.
    pub fn heard(&mut self, peer: GatewayId, now_ms: u64, note: ClockNote) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.mono = Some((note.mono_ms, now_ms));
        let trip = note.heard.and_then(|(mine, held)| now_ms.checked_sub(mine)?.checked_sub(held));
        if let Some(trip) = trip.filter(|trip| *trip <= MAX_TRIP_MS) {
            known.sample = Some((ahead(note.wall, now_ms), trip, now_ms));
        }
    }

    /// Forgets a peer's notes on a new connection: its process, and with it its monotonic clock, may be new too.
    pub fn connected(&mut self, peer: GatewayId) {
        if let Some(known) = self.peers.get_mut(&peer) {
            *known = Heard::default();
        }
    }

    /// Finds out which clocks agree. The caller does this regularly (see [`LOOK_MS`]). `own` is this gateway's wall
    /// clock.
    pub fn look(&mut self, now_ms: u64, own: EpochMs) {
        self.looked_ms = Some(now_ms);
        let clocks: Vec<(GatewayId, i64, i64)> = self.clocks(now_ms, own);
        let plausible = |from: i64, to: i64| {
            let earliest = ahead(EARLIEST_NOW, now_ms);
            (from.saturating_add(to)) / 2 >= earliest
        };
        let counted = clocks.iter().filter(|(_, from, to)| plausible(*from, *to));
        let counted: Vec<_> = counted.map(|(_, from, to)| (*from, *to)).collect();
        self.agreed = agree(&counted, 1 + self.peers.len(), ahead(own, now_ms));
        let Some((from, to)) = self.agreed else {
            self.standings.clear();
            return;
        };
        let was = std::mem::take(&mut self.standings);
        for (gateway, first, last) in clocks {
            let seems_outside = last < from || to < first;
            let mut standing = was.get(&gateway).copied().unwrap_or_default();
            if seems_outside == standing.outside {
                standing.otherwise_since_ms = None;
            } else if now_ms.saturating_sub(*standing.otherwise_since_ms.get_or_insert(now_ms)) >= HOLD_MS {
                standing = Standing { outside: seems_outside, otherwise_since_ms: None };
            }
            self.standings.insert(gateway, standing);
        }
    }

    /// When a look would call a clock outside, or inside again; none while no clock is about to change.
    pub fn changes_at(&self) -> Option<u64> {
        self.standings.values().filter_map(|s| Some(s.otherwise_since_ms? + HOLD_MS)).min()
    }

    /// The wall time now: the agreed one, or this gateway's own clock, marked as unsure.
    pub fn now(&self, now_ms: u64, own: EpochMs) -> WallTime {
        let fresh = self.looked_ms.is_some_and(|at| now_ms.saturating_sub(at) <= SAMPLE_KEPT_MS);
        match self.agreed.filter(|_| fresh) {
            _ if canary::makes(Canary::WallUnbounded) => WallTime { wall: own, sure: true },
            None => WallTime { wall: own, sure: false },
            Some((from, to)) if (from..=to).contains(&ahead(own, now_ms)) => {
                WallTime { wall: own, sure: true }
            }
            Some((from, to)) => {
                let middle = from / 2 + to / 2;
                WallTime { wall: EpochMs(middle).plus(i64::try_from(now_ms).unwrap_or(i64::MAX)), sure: true }
            }
        }
    }

    /// The gateways whose clocks lie outside the interval that a majority agrees on: they should lead only if no
    /// other can.
    pub fn outside(&self) -> Vec<GatewayId> {
        self.standings.iter().filter(|(_, s)| s.outside).map(|(gateway, _)| *gateway).collect()
    }

    /// How far the wall clock of each gateway with a recent sample is ahead of this gateway's, in milliseconds.
    pub fn ahead_ms(&self, now_ms: u64, own: EpochMs) -> BTreeMap<GatewayId, i64> {
        let mine = ahead(own, now_ms);
        let middle = |(g, from, to): (GatewayId, i64, i64)| (g, (from / 2 + to / 2).saturating_sub(mine));
        self.clocks(now_ms, own).into_iter().filter(|(g, _, _)| *g != self.me).map(middle).collect()
    }

    /// The clocks with a recent sample, as intervals ahead of our monotonic clock.
    fn clocks(&self, now_ms: u64, own: EpochMs) -> Vec<(GatewayId, i64, i64)> {
        let wide = |g: GatewayId, from: i64, trip: u64| {
            let to = from.saturating_add(i64::try_from(trip).unwrap_or(i64::MAX));
            (g, from.saturating_sub(APART_MS / 2), to.saturating_add(APART_MS / 2))
        };
        let fresh = |at: u64| now_ms.saturating_sub(at) <= SAMPLE_KEPT_MS;
        let peers = self.peers.iter().filter_map(|(g, p)| Some((*g, p.sample?)));
        let peers =
            peers.filter(|(_, (_, _, at))| fresh(*at)).map(|(g, (from, trip, _))| wide(g, from, trip));
        std::iter::once(wide(self.me, ahead(own, now_ms), 0)).chain(peers).collect()
    }
}

/// How far a wall clock is ahead of the monotonic one.
fn ahead(wall: EpochMs, mono_ms: u64) -> i64 {
    wall.plus(-i64::try_from(mono_ms).unwrap_or(i64::MAX)).0
}

/// The smallest interval that the most clocks share, if these are a majority of `all`. Among several it prefers one
/// that holds `own`, then the earliest.
fn agree(clocks: &[(i64, i64)], all: usize, own: i64) -> Option<(i64, i64)> {
    let mut edges: Vec<(i64, bool)> = Vec::with_capacity(clocks.len() * 2);
    for (from, to) in clocks {
        edges.extend([(*from, false), (*to, true)]); // of equal edges, what begins comes first
    }
    edges.sort_unstable();
    let (mut open, mut most, mut best) = (0, all / 2, None);
    for two in edges.windows(2) {
        let ((from, ends), (to, _)) = (two[0], two[1]);
        open = if ends { open - 1 } else { open + 1 };
        let better =
            open == most && best.is_some_and(|(f, t)| !(f..=t).contains(&own)) && (from..=to).contains(&own);
        if open > most || better {
            (most, best) = (open, Some((from, to)));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: EpochMs = EpochMs(1_764_000_000_000);
    const YEAR: i64 = 365 * 86_400_000;

    /// Gateway 1 among `offsets.len() + 1`: its own clock and its peers' are this far ahead of the right time.
    fn heard(own: i64, offsets: &[Option<i64>], now_ms: u64) -> Agreement {
        let ids = (2..).map(GatewayId).take(offsets.len());
        let mut a = Agreement::new(GatewayId(1), ids.clone());
        again(&mut a, own, offsets, now_ms);
        a
    }

    fn again(a: &mut Agreement, own: i64, offsets: &[Option<i64>], now_ms: u64) {
        for (peer, offset) in (2..).map(GatewayId).zip(offsets) {
            let Some(offset) = offset else { continue };
            let wall = WALL.plus(offset + now_ms as i64);
            let trip = Some((now_ms.saturating_sub(9), 4)); // five on the way
            a.heard(peer, now_ms, ClockNote { wall, mono_ms: 77, heard: trip });
        }
        a.look(now_ms, WALL.plus(own + now_ms as i64));
    }

    fn at(a: &Agreement, own: i64, now_ms: u64) -> (i64, bool) {
        let told = a.now(now_ms, WALL.plus(own + now_ms as i64));
        (told.wall.0 - WALL.0 - now_ms as i64, told.sure)
    }

    #[test]
    fn a_clock_within_what_the_majority_agrees_on_is_the_time() {
        assert_eq!(at(&heard(0, &[Some(300), Some(-200)], 500), 0, 500), (0, true));
        assert_eq!(at(&heard(4_000, &[Some(0), Some(-200)], 500), 4_000, 500), (4_000, true));
        assert_eq!(at(&heard(0, &[Some(100), None], 500), 0, 500), (0, true), "two of three are enough");
        assert_eq!(at(&heard(0, &[], 500), 0, 500), (0, true), "alone it is a majority");
    }

    #[test]
    fn a_clock_that_is_years_off_is_bounded_by_the_median_of_its_peers() {
        for own in [20 * YEAR, -20 * YEAR, 60_000] {
            let a = heard(own, &[Some(0), Some(10)], 500);
            let (wall, sure) = at(&a, own, 500);
            assert!(sure && wall.abs() < APART_MS, "{own}: {wall}");
        }
        let a = heard(0, &[Some(0), Some(20 * YEAR)], 500);
        assert_eq!(at(&a, 0, 500), (0, true), "a peer's clock that is off moves nobody");
        assert_eq!(at(&a, 20 * YEAR, 600).0.abs() / APART_MS, 0, "nor does a jump since they last looked");
    }

    #[test]
    fn without_a_majority_that_agrees_nothing_is_sure() {
        assert_eq!(at(&heard(0, &[None, None], 500), 0, 500), (0, false));
        assert_eq!(at(&heard(0, &[Some(YEAR), Some(-YEAR)], 500), 0, 500), (0, false));
        assert_eq!(at(&heard(0, &[Some(YEAR), None], 500), 0, 500), (0, false));
        let a = heard(0, &[Some(0), Some(0)], 500);
        assert!(!at(&a, 0, 500 + SAMPLE_KEPT_MS + 1).1, "what was agreed long ago");
    }

    #[test]
    fn a_clock_before_this_program_was_written_is_none() {
        let dead = -WALL.0;
        assert_eq!(at(&heard(dead, &[Some(dead), Some(dead)], 500), dead, 500), (dead, false), "all in 1970");
        let (wall, sure) = at(&heard(dead, &[Some(0), Some(0)], 500), dead, 500);
        assert!(sure && wall.abs() < APART_MS, "two are right");
        assert!(!at(&heard(dead, &[], 500), dead, 500).1);
    }

    #[test]
    fn a_clock_is_called_outside_and_inside_again_only_after_a_while() {
        const T: u64 = 500;
        let mut a = heard(0, &[Some(0), Some(YEAR)], T);
        assert_eq!(a.outside(), []);
        again(&mut a, 0, &[Some(0), Some(YEAR)], T + HOLD_MS);
        assert_eq!(a.outside(), [GatewayId(3)]);
        for (ms, offset) in [(1, 0), (2_000, YEAR), (2_500, 0), (2_499 + HOLD_MS, 0)] {
            again(&mut a, 0, &[Some(0), Some(offset)], T + HOLD_MS + ms);
            assert_eq!(a.outside(), [GatewayId(3)], "{ms}");
        }
        again(&mut a, 0, &[Some(0), Some(0)], T + HOLD_MS + 2_500 + HOLD_MS);
        assert_eq!(a.outside(), []);
        again(&mut a, 0, &[None, None], T + 8 * HOLD_MS);
        assert_eq!(a.outside(), [], "who does not know the time calls nobody wrong");
    }

    #[test]
    fn the_majority_is_that_of_the_gateways_that_are_present() {
        let (g2, g3) = (GatewayId(2), GatewayId(3));
        let mut a = heard(0, &[Some(0), None], 500);
        a.set_peers((1..=5).map(GatewayId));
        again(&mut a, 0, &[], 600);
        assert_eq!(at(&a, 0, 600), (0, false), "two of five");
        a.set_peers([g2]);
        again(&mut a, 0, &[], 700);
        assert_eq!(at(&a, 0, 700), (0, true), "both of two");

        let mut a = heard(0, &[Some(0), Some(YEAR)], 500);
        again(&mut a, 0, &[Some(0), Some(YEAR)], 500 + HOLD_MS);
        assert_eq!(a.outside(), [g3]);
        a.set_peers([g2]);
        assert_eq!(a.outside(), [], "a removed gateway is none whose clock matters");
        again(&mut a, 0, &[Some(0), Some(YEAR)], 600 + HOLD_MS);
        assert_eq!(a.ahead_ms(600 + HOLD_MS, WALL).into_keys().collect::<Vec<_>>(), [g2]);
    }

    #[test]
    fn each_frame_is_the_answer_of_a_round_trip() {
        let (one, two) = (GatewayId(1), GatewayId(2));
        let (mut a, mut b) = (Agreement::new(one, [two]), Agreement::new(two, [one]));
        // The monotonic clocks have nothing in common; the wall clock of 2 is 700 ahead.
        let note = a.note(two, 1_000, WALL);
        assert_eq!(note.heard, None);
        b.heard(one, 50_003, note);
        let answer = b.note(one, 50_013, WALL.plus(713));
        assert_eq!(answer.heard, Some((1_000, 10)));
        a.heard(two, 1_015, answer);
        // The trip took 5 of these 15: at 1015 the clock of 2 shows 713 to 718 more than ours did at 1000.
        let ahead = a.ahead_ms(1_015, WALL.plus(15))[&two];
        assert!((698..=703).contains(&ahead), "{ahead}");
        a.look(1_015, WALL.plus(15));
        assert!(a.now(1_015, WALL.plus(15)).sure);
        // A note that answers nothing this gateway sent, or whose trip took too long, is no sample.
        a.connected(two);
        a.heard(two, 1_020, ClockNote { heard: Some((2_000, 0)), ..answer });
        a.heard(two, 9_000, ClockNote { heard: Some((1_000, 0)), ..answer });
        a.heard(GatewayId(9), 9_000, answer);
        assert!(a.ahead_ms(9_000, WALL).is_empty());
    }
}
