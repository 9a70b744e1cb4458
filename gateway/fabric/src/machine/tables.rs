//! The list of a machine's tables.

use super::counting::Counting;
use super::directory::DirectoryTable;
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
    /// Only in the directory group's machine.
    pub directory: Option<DirectoryTable>,
}

impl Tables {
    /// All tables, in the order in which they see items and ticks, and stand in a snapshot.
    pub fn list(&self) -> impl Iterator<Item = &dyn Table> {
        let Self { counting, packet_ids, quarantine, sessions, directory } = self;
        let tables: [&dyn Table; 4] = [counting, packet_ids, quarantine, sessions];
        tables.into_iter().chain(directory.as_ref().map(|table| table as &dyn Table))
    }

    /// As [`Tables::list`], with mutable access.
    pub fn list_mut(&mut self) -> impl Iterator<Item = &mut dyn Table> {
        let Self { counting, packet_ids, quarantine, sessions, directory } = self;
        let tables: [&mut dyn Table; 4] = [counting, packet_ids, quarantine, sessions];
        tables.into_iter().chain(directory.as_mut().map(|table| table as &mut dyn Table))
    }
}
