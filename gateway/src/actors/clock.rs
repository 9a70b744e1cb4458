//! The site's time for all threads of a gateway: the core [`Agreement`] behind a lock that is held only for one call.

use crate::actors::pulse;
use selvedge_fabric::agreement::{Agreement, ClockNote, WallTime};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// For this long after its start a gateway is not ready without an agreement on the time: some round trips to its
/// peers. After that it serves without one.
const AGREE_WAIT_MS: u64 = 5_000;

/// This gateway's clocks, and what the other gateways report of theirs.
#[derive(Debug)]
pub struct SiteClock(Mutex<Agreement>);

impl SiteClock {
    /// The clock of gateway `me`, with all other gateways of its site.
    pub fn new(me: GatewayId, peers: impl IntoIterator<Item = GatewayId>) -> Self {
        let mut agreement = Agreement::new(me, peers);
        agreement.look(pulse::now_ms(), EpochMs::from(SystemTime::now()));
        Self(Mutex::new(agreement))
    }

    /// Takes these as all other gateways of the site from now on.
    pub fn set_peers(&self, peers: impl IntoIterator<Item = GatewayId>) {
        self.lock().set_peers(peers);
    }

    fn lock(&self) -> MutexGuard<'_, Agreement> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wall time now, and whether a majority agrees on it.
    pub fn now(&self) -> WallTime {
        self.lock().now(pulse::now_ms(), EpochMs::from(SystemTime::now()))
    }

    /// Whether the gateway has just started and may yet agree with its peers on the time.
    pub fn is_agreeing(&self) -> bool {
        pulse::now_ms() < AGREE_WAIT_MS && !self.now().sure
    }

    /// The clock note for the next frame to a peer.
    pub fn note(&self, peer: GatewayId) -> ClockNote {
        self.lock().note(peer, pulse::now_ms(), EpochMs::from(SystemTime::now()))
    }

    /// Takes in the clock note of a peer's frame.
    pub fn heard(&self, peer: GatewayId, note: ClockNote) {
        self.lock().heard(peer, pulse::now_ms(), note);
    }

    /// Notes that the connection to a peer is new.
    pub fn connected(&self, peer: GatewayId) {
        self.lock().connected(peer);
    }

    /// Compares the clocks; call it several times a second. Returns the gateways whose clocks are outside of the
    /// agreement.
    pub fn look(&self) -> Vec<GatewayId> {
        let mut agreement = self.lock();
        agreement.look(pulse::now_ms(), EpochMs::from(SystemTime::now()));
        agreement.outside()
    }

    /// The gateways whose clocks are outside of what a majority agrees on.
    pub fn outside(&self) -> Vec<GatewayId> {
        self.lock().outside()
    }

    /// How far the wall clocks of the gateways heard from recently are ahead of this one's, in milliseconds.
    pub fn ahead_ms(&self) -> BTreeMap<GatewayId, i64> {
        self.lock().ahead_ms(pulse::now_ms(), EpochMs::from(SystemTime::now()))
    }
}
