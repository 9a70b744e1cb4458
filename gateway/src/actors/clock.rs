//! What time it is, for all threads of a gateway: the core [`Agreement`] behind a lock that is held for no longer than a look.

use crate::actors::pulse;
use selvedge_fabric::agreement::{Agreement, ClockNote, WallTime};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::EpochMs;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// How long after its start a gateway is not ready for want of an agreement on the time: some round trips to its peers. After
/// that it goes on without one.
const AGREE_WAIT_MS: u64 = 5_000;

/// This gateway's clocks, and what the others' say.
#[derive(Debug)]
pub struct SiteClock(Mutex<Agreement>);

impl SiteClock {
    /// Of this gateway and all others of its site.
    pub fn new(me: GatewayId, peers: impl IntoIterator<Item = GatewayId>) -> Self {
        let mut agreement = Agreement::new(me, peers);
        agreement.look(pulse::now_ms(), EpochMs::from(SystemTime::now()));
        Self(Mutex::new(agreement))
    }

    fn lock(&self) -> MutexGuard<'_, Agreement> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The wall time now.
    pub fn now(&self) -> WallTime {
        self.lock().now(pulse::now_ms(), EpochMs::from(SystemTime::now()))
    }

    /// The gateway has just started and may yet agree with its peers on the time.
    pub fn is_agreeing(&self) -> bool {
        pulse::now_ms() < AGREE_WAIT_MS && !self.now().sure
    }

    /// What the next frame to a peer says.
    pub fn note(&self, peer: GatewayId) -> ClockNote {
        self.lock().note(peer, pulse::now_ms(), EpochMs::from(SystemTime::now()))
    }

    /// A peer's frame came.
    pub fn heard(&self, peer: GatewayId, note: ClockNote) {
        self.lock().heard(peer, pulse::now_ms(), note);
    }

    /// A connection to a peer is new.
    pub fn connected(&self, peer: GatewayId) {
        self.lock().connected(peer);
    }

    /// Sees who agrees; to be called several times a second. Gives the gateways whose clocks are outside.
    pub fn look(&self) -> Vec<GatewayId> {
        let mut agreement = self.lock();
        agreement.look(pulse::now_ms(), EpochMs::from(SystemTime::now()));
        agreement.outside()
    }

    /// The gateways whose clocks are outside of what a majority agrees on.
    pub fn outside(&self) -> Vec<GatewayId> {
        self.lock().outside()
    }

    /// How far the wall clocks of those heard of lately are ahead of this gateway's, in milliseconds.
    pub fn ahead_ms(&self) -> BTreeMap<GatewayId, i64> {
        self.lock().ahead_ms(pulse::now_ms(), EpochMs::from(SystemTime::now()))
    }
}
