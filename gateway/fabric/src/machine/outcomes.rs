//! The outcomes of items and batches, as the leader returns them to the gateways.

use super::command::DueWill;
use super::judged::Judged;
use crate::directory::DirectoryOutcome;
use bincode::{Decode, Encode};

/// The outcome of one [`Item`](super::Item).
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum ItemOutcome {
    /// Applied; there is nothing more to say.
    Done,
    /// The readings of a publish were judged. The slot is its receipt.
    Judged(Judged),
    /// The publish was applied before; nothing was counted again.
    Duplicate,
    /// Not applied: a later connection has replaced the one that it came from.
    Stale,
    /// Not applied, for this reason: a bound is reached, or what the item names does not exist. A publish
    /// must not be acknowledged as kept.
    Refused(String),
    /// The outcome of [`Item::Subscriptions`](super::Item::Subscriptions) if a bound refused some filters;
    /// the others were applied.
    Subscribed {
        /// The refused ones among the added filters, by index.
        refused: Vec<u16>,
    },
    /// The outcome of [`Item::Connect`](super::Item::Connect).
    Connected(Box<ConnectOutcome>),
    /// The outcome of [`Item::Retire`](super::Item::Retire).
    Retired {
        /// How many streams were retired.
        streams: u32,
    },
    /// The outcome of [`Item::Disconnect`](super::Item::Disconnect) if a will is due at once. The gateway
    /// publishes it and then sends [`Item::WillDone`](super::Item::WillDone).
    WillDue(Box<DueWill>),
    /// The outcome of a command for the directory.
    Directory(Box<DirectoryOutcome>),
}

/// The state of a session at the start of a new connection.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct ConnectOutcome {
    /// Grows with each new session of the client.
    pub instance: u64,
    /// Grows with each connection.
    pub epoch: u64,
    /// The connection continues a stored session (session present).
    pub present: bool,
    /// Filters with their subscription options.
    pub subscriptions: Vec<(String, u8)>,
    /// The shards that may hold packet ids of its QoS 2 publishes.
    pub touched: Vec<u16>,
    /// How long the session outlives this connection, in seconds, within `session_expiry_cap_s`.
    pub expiry_s: u32,
    /// A due will of an earlier connection. The gateway publishes it and sends
    /// [`Item::WillDone`](super::Item::WillDone) before it answers CONNECT.
    pub will: Option<Box<DueWill>>,
}

/// The outcomes of a batch's items, in their order. Nearly all items are publishes of one reading that is
/// counted, so the leading run of those is stored as a number only. A plain batch thus costs neither memory
/// nor bytes for each item on its way through three gateways.
#[derive(Debug, Clone, PartialEq, Default, Encode, Decode)]
pub struct ItemOutcomes {
    counted: u32,
    others: Vec<ItemOutcome>,
}

/// The outcome of a publish whose only reading was counted.
static COUNTED: ItemOutcome =
    ItemOutcome::Judged(Judged { counted: 1, recognised: 0, set_aside: Vec::new() });

impl ItemOutcomes {
    /// Appends the outcome of the next item.
    pub fn push(&mut self, outcome: ItemOutcome) {
        if self.others.is_empty() && outcome == COUNTED {
            self.counted += 1;
        } else {
            self.others.push(outcome);
        }
    }

    /// The number of items. A list that a peer sent may claim any number.
    pub fn len(&self) -> usize {
        (self.counted as usize).saturating_add(self.others.len())
    }

    /// Whether the batch has no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The outcomes after the leading run of counted single readings.
    pub(super) fn others(&self) -> &[ItemOutcome] {
        &self.others
    }

    /// All outcomes, in the order of the items.
    pub fn iter(&self) -> impl Iterator<Item = &ItemOutcome> {
        std::iter::repeat_n(&COUNTED, self.counted as usize).chain(&self.others)
    }
}

impl IntoIterator for ItemOutcomes {
    type Item = ItemOutcome;
    type IntoIter = std::iter::Chain<std::iter::RepeatN<ItemOutcome>, std::vec::IntoIter<ItemOutcome>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::repeat_n(COUNTED.clone(), self.counted as usize).chain(self.others)
    }
}

impl FromIterator<ItemOutcome> for ItemOutcomes {
    fn from_iter<Of: IntoIterator<Item = ItemOutcome>>(list: Of) -> Self {
        let mut outcomes = Self::default();
        list.into_iter().for_each(|outcome| outcomes.push(outcome));
        outcomes
    }
}

/// The verdict on a forwarded batch.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum BatchVerdict {
    /// Applied now, with one outcome for each item.
    Applied(ItemOutcomes),
    /// Applied before. If the verdict of that time is no longer remembered, every item counts as done.
    AlreadyApplied,
    /// Earlier batches are missing: send again from `last + 1`.
    Gap {
        /// The number of the last batch that was applied.
        last: u64,
    },
    /// The shard has seen a later start of the same gateway.
    OldStart,
    /// The frame does not decode, because of a defect or because a newer release wrote it. Nothing of it was
    /// applied, but its number is used up.
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bincode::config::standard;

    #[test]
    fn outcomes_come_back_in_their_order_and_plain_ones_take_no_room() {
        let twice = ItemOutcome::Judged(Judged { counted: 2, ..Judged::default() });
        let plain = vec![COUNTED.clone(); 1_000];
        for (list, most_bytes) in [
            (Vec::new(), 2),
            (plain.clone(), 4),
            ([plain.clone(), vec![twice.clone(), COUNTED.clone(), ItemOutcome::Done]].concat(), 16),
            ([vec![twice], plain].concat(), 8_000),
        ] {
            let outcomes: ItemOutcomes = list.iter().cloned().collect();
            assert_eq!(outcomes.len(), list.len());
            assert!(outcomes.iter().eq(&list));
            let bytes = bincode::encode_to_vec(&outcomes, standard()).unwrap();
            assert!(bytes.len() <= most_bytes, "{} bytes", bytes.len());
            let (back, _): (ItemOutcomes, usize) = bincode::decode_from_slice(&bytes, standard()).unwrap();
            assert_eq!(back.into_iter().collect::<Vec<_>>(), list);
        }
    }
}
