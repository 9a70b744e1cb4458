//! What a fleet and its devices have in common: what devices are to do, and the board on which they report.

use crate::device::DeviceStats;
use crate::gaps::Gaps;
use crate::ledger::Ledger;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What devices are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Run,
    /// Measure no more; send until all is acknowledged.
    Drain,
    Stop,
}

/// What the fleet knows of one device.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeviceView {
    /// Publishes that wait for their acknowledgement.
    pub pending: usize,
    /// Nothing left to do.
    pub done: bool,
    pub stats: DeviceStats,
}

/// What the devices' tasks share: they report here, and the fleet reads it.
#[derive(Debug)]
pub struct Board {
    /// The ledger of all devices.
    pub ledger: Ledger,
    /// In the order of the fleet's devices.
    pub devices: Vec<DeviceView>,
    /// How long devices with sound links went without an acknowledgement.
    pub gaps: Gaps,
}

impl Board {
    /// The board for one holder alone, also after another has panicked with it.
    pub fn lock(board: &Mutex<Self>) -> MutexGuard<'_, Self> {
        board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
