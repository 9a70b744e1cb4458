//! Questions about tables. The leader answers them from the state that it has applied; other replicas stay silent.

use super::ShardCore;
use crate::machine::QuarantineEntry;
use crate::peer::{
    DEVICES_PAGE_ENTRIES, EXCERPT_BYTES, Listed, PeerMessage, QUARANTINE_PAGE_BYTES, TableAnswer,
    TableQuestion,
};
use selvedge_types::ids::GatewayId;

impl ShardCore {
    pub(super) fn on_table(&mut self, from: GatewayId, id: u64, question: TableQuestion) {
        if !self.serves() {
            return;
        }
        let machine = &self.machine;
        let answer = match question {
            TableQuestion::Quarantine { what, .. } => self.quarantine(what),
            TableQuestion::Devices { after, most, .. } => {
                let most = (most as usize).min(DEVICES_PAGE_ENTRIES);
                let (list, more) = machine.devices(after.as_deref(), most);
                TableAnswer::Devices { list, more }
            }
            TableQuestion::Device { device, after, .. } => {
                let (streams, more) = machine.streams_behind(&device, after.as_deref());
                TableAnswer::Device { device: machine.device(&device), streams, more }
            }
            TableQuestion::Unmapped | TableQuestion::Skipped { .. } | TableQuestion::Gateway => return,
        };
        self.out.send.push((from, PeerMessage::TableAnswer { id, answer }));
    }

    fn quarantine(&self, what: Listed) -> TableAnswer {
        let stats = self.machine.quarantine_stats();
        let (client, after, most, excerpt) = match what {
            Listed::Nothing => return TableAnswer::Quarantine { entries: Vec::new(), more: false, stats },
            Listed::Whole { id } => (None, id.saturating_sub(1), 0, usize::MAX),
            Listed::Excerpts { client, after } => (client, after, QUARANTINE_PAGE_BYTES, EXCERPT_BYTES),
        };
        let (list, more) = self.machine.quarantine(client.as_deref(), after, most);
        let excerpt = |(id, entry): (u64, &QuarantineEntry)| {
            let mut entry = entry.clone();
            entry.publish.payload.truncate(excerpt);
            (id, entry)
        };
        TableAnswer::Quarantine { entries: list.into_iter().map(excerpt).collect(), more, stats }
    }
}
