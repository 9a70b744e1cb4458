//! What applying commands answers: what became of an item, of a batch's items, and of the batch.

use super::command::DueWill;
use super::judged::Judged;
use bincode::{Decode, Encode};

/// What became of one [`Item`](super::Item).
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum ItemOutcome {
    /// It was applied.
    Done,
    /// A publish, each of whose readings was judged; the slot is its receipt.
    Judged(Judged),
    /// A publish that was applied before: nothing was counted again.
    Duplicate,
    /// It came from a connection that a later one of the same session has replaced: not applied.
    Stale,
    /// A bound of the machine is reached, which this names: not applied, and not to be acknowledged as kept.
    Refused(String),
    /// The answer to [`Item::Subscriptions`](super::Item::Subscriptions) of which a bound refuses a part; the rest was applied.
    Subscribed {
        /// Which of the added filters, by their index.
        refused: Vec<u16>,
    },
    /// The answer to [`Item::Connect`](super::Item::Connect).
    Connected(Box<Connected>),
    /// The answer to [`Item::Retire`](super::Item::Retire).
    Retired {
        /// How many streams there were.
        streams: u32,
    },
    /// The answer to [`Item::Disconnect`](super::Item::Disconnect) where a will is due at once: publish it, then
    /// [`Item::WillDone`](super::Item::WillDone).
    WillDue(Box<DueWill>),
}

/// A session as its new connection finds it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Connected {
    /// Which session of this client.
    pub instance: u64,
    /// Which connection of it.
    pub epoch: u64,
    /// A stored session goes on.
    pub present: bool,
    /// Its subscriptions.
    pub subscriptions: Vec<(String, u8)>,
    /// The shards that its QoS 2 publishes have touched.
    pub touched: Vec<u16>,
    /// How long the session outlives this connection, in seconds.
    pub expiry_s: u32,
    /// A will of an earlier connection that is due: to be published before the client is let in, then
    /// [`Item::WillDone`](super::Item::WillDone).
    pub will: Option<Box<DueWill>>,
}

/// What became of a batch's items, in their order. Nearly all are publishes of one reading, which is counted: of those in front there
/// is only the number, so that a plain batch costs neither room nor a byte for each on its way through three gateways.
#[derive(Debug, Clone, PartialEq, Default, Encode, Decode)]
pub struct ItemOutcomes {
    counted: u32,
    others: Vec<ItemOutcome>,
}

/// What became of a publish of one reading that was counted.
static COUNTED: ItemOutcome =
    ItemOutcome::Judged(Judged { counted: 1, recognised: 0, set_aside: Vec::new() });

impl ItemOutcomes {
    /// The next item's.
    pub fn push(&mut self, outcome: ItemOutcome) {
        if self.others.is_empty() && outcome == COUNTED {
            self.counted += 1;
        } else {
            self.others.push(outcome);
        }
    }

    /// How many items there are. From a peer, it may be any number.
    pub fn len(&self) -> usize {
        (self.counted as usize).saturating_add(self.others.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those behind the publishes of one reading in front that were all counted.
    pub(super) fn others(&self) -> &[ItemOutcome] {
        &self.others
    }

    /// All of them.
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

/// What became of a forwarded batch.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum BatchVerdict {
    /// Applied now, with one outcome an item.
    Applied(ItemOutcomes),
    /// It had been applied before (its outcomes are no longer known; all of it counts as done).
    AlreadyApplied,
    /// Batches are missing before it: send again from `last + 1`.
    Gap {
        /// The last that was applied.
        last: u64,
    },
    /// A later start of the same gateway was seen.
    OldStart,
    /// The frame does not decode: a defect or a newer release; nothing of it was applied, but its number
    /// is used up.
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
