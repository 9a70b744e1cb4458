//! The events of a connection: CONNECT first and once, and nothing after its end.

use selvedge_types::mqtt::Inbound;
use std::collections::BTreeMap;

/// By connection: whether it has ended.
#[derive(Default)]
pub struct Events(BTreeMap<u64, bool>);

impl Events {
    pub fn inbound(&mut self, connection: u64, events: &[Inbound]) {
        for event in events {
            match (event, self.0.get(&connection)) {
                (Inbound::Connect(_), None) => _ = self.0.insert(connection, false),
                (Inbound::Closed(_), Some(false)) => _ = self.0.insert(connection, true),
                (Inbound::Connect(_) | Inbound::Closed(_), state) | (_, state @ (None | Some(true))) => {
                    panic!("connection {connection} (over: {state:?}) says {event:?}");
                }
                (_, Some(false)) => {}
            }
        }
    }
}
