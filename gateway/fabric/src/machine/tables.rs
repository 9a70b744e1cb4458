//! The tables of a machine: the one list of them.

use super::counting::Counting;
use super::packet_ids::PacketIds;
use super::quarantine::Quarantine;
use super::sessions::Sessions;
use super::table::Table;

/// All tables. A new one is a field here and in both lists, behind the others.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub counting: Counting,
    pub packet_ids: PacketIds,
    pub quarantine: Quarantine,
    pub sessions: Sessions,
}

impl Tables {
    /// In their order.
    pub fn list(&self) -> [&dyn Table; 4] {
        let Self { counting, packet_ids, quarantine, sessions } = self;
        [counting, packet_ids, quarantine, sessions]
    }

    /// As [`Tables::list`], to be changed.
    pub fn list_mut(&mut self) -> [&mut dyn Table; 4] {
        let Self { counting, packet_ids, quarantine, sessions } = self;
        [counting, packet_ids, quarantine, sessions]
    }
}
