//! The list of a machine's tables.

use super::counting::Counting;
use super::packet_ids::PacketIds;
use super::quarantine::Quarantine;
use super::sessions::Sessions;
use super::table::Table;

/// All tables. A new table becomes the last field here, and the last entry of both lists.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub counting: Counting,
    pub packet_ids: PacketIds,
    pub quarantine: Quarantine,
    pub sessions: Sessions,
}

impl Tables {
    /// All tables, in the order in which they see items and ticks, and stand in a snapshot.
    pub fn list(&self) -> [&dyn Table; 4] {
        let Self { counting, packet_ids, quarantine, sessions } = self;
        [counting, packet_ids, quarantine, sessions]
    }

    /// As [`Tables::list`], with mutable access.
    pub fn list_mut(&mut self) -> [&mut dyn Table; 4] {
        let Self { counting, packet_ids, quarantine, sessions } = self;
        [counting, packet_ids, quarantine, sessions]
    }
}
