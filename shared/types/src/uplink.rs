//! The messages that gateways and nodes exchange over the uplink, inside the seal (see [`selvedge_seal`]).
//!
//! A shard's batches are numbered 1, 2, 3, ... without gaps, in each incarnation of its site. The gateway that leads the shard publishes
//! each to `selvedge/{site}/up/{shard}` until the node has confirmed it; the node answers on
//! `selvedge/{site}/ack/{shard}` with its cursor: all batches up to it are applied and on disk, or recorded as lost.

use crate::aggregate::Aggregate;
use crate::frame::{self, FrameError};
use crate::ids::{ShardId, SiteId};
use crate::sequences::Sequences;
use crate::time::EpochMs;
use bincode::{Decode, Encode};
use std::fmt;

/// Format version of [`Batch`] frames.
pub const BATCH_VERSION: u8 = 3;

/// The most bytes of an encoded [`Batch`].
pub const MAX_BATCH_BYTES: usize = 64 * 1024;

/// Which ledger: the database of a node, or of several that share it. Drawn at random when the database is made, so a copy that is
/// restored in its place is the same ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Encode, Decode)]
pub struct LedgerId(pub u128);

impl fmt::Display for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::str::FromStr for LedgerId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let id = digits.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        id.map(Self).ok_or_else(|| {
            "a ledger is named by 32 hexadecimal digits, as the node's /v1/status has it".to_string()
        })
    }
}

/// Identifies one setting-up of a site: a site that is set up again under its old name gets another incarnation, so that a node
/// never takes its batches for those of the old one.
/// Chosen once by each shard. A later one has a higher generation, which is the time at which it was chosen, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Encode, Decode)]
pub struct SiteIncarnation {
    /// Grows with each setting-up of the site.
    pub generation: u64,
    /// Drawn when the site is set up, so that two sites of one name differ.
    pub random: u128,
}

impl SiteIncarnation {
    /// How many bytes it has.
    pub const BYTES: usize = 24;

    /// The generation and the random part, big-endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (generation, random) = bytes.split_at_mut(8);
        generation.copy_from_slice(&self.generation.to_be_bytes());
        random.copy_from_slice(&self.random.to_be_bytes());
        bytes
    }

    /// Reads what [`SiteIncarnation::to_bytes`] wrote.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let (mut generation, mut random) = ([0; 8], [0; 16]);
        generation.copy_from_slice(&bytes[..8]);
        random.copy_from_slice(&bytes[8..]);
        Self { generation: u64::from_be_bytes(generation), random: u128::from_be_bytes(random) }
    }
}

/// One stream of one device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct StreamName {
    pub device: String,
    /// The stream of that device.
    pub stream: String,
}

/// A part of a window: additive, so that late readings are further parts of the same window.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Part {
    /// Which of the batch's [`Batch::streams`].
    pub stream: u32,
    /// The window's width in milliseconds.
    pub width_ms: u32,
    /// Where the window starts.
    pub start: EpochMs,
    /// The readings that this part counts; no other part counts them.
    pub aggregate: Aggregate,
    /// How many of them came after the window had closed.
    pub late: u64,
    /// The stream's watermark when this part was closed.
    pub watermark: EpochMs,
    /// How many readings of the stream were set aside since a part of this width closed before: each in one part of each width.
    pub set_aside: u64,
    /// The sequence numbers of its readings.
    pub sequences: Sequences,
}

/// The content of one batch, fixed once by a chosen command.
#[derive(Debug, Clone, PartialEq, Default, Encode, Decode)]
pub struct Batch {
    /// The streams that the parts name by index.
    pub streams: Vec<StreamName>,
    /// The parts; each is known for good by (site, shard, seq, its index here).
    pub parts: Vec<Part>,
}

impl Batch {
    /// As bytes, the same on every replica.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(BATCH_VERSION, self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// When the frame is damaged, or a part names a stream that is not there, a width of 0, no reading, or figures or sequence
    /// numbers that no readings have.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let batch: Self = frame::decode("uplink batch", BATCH_VERSION, bytes)?;
        let bad = |p: &Part| {
            p.stream as usize >= batch.streams.len()
                || p.width_ms == 0
                || !p.aggregate.is_sound()
                || !p.sequences.is_sound()
        };
        if batch.parts.iter().any(bad) {
            let why =
                "a part names a stream that is not there, a width of 0, no reading, or figures or sequence numbers that no readings have"
                    .to_string();
            return Err(FrameError::Malformed { what: "uplink batch", why });
        }
        Ok(batch)
    }
}

/// What a site still knows about a batch whose content every replica of its shard has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct LostBatch {
    /// How many readings its parts counted, those of each stream in the shortest windows that it held of that stream.
    pub readings: u64,
    /// How many parts of windows it held.
    pub parts: u32,
    /// Where the earliest of these windows starts.
    pub from: EpochMs,
    /// Where the latest of them ends.
    pub to: EpochMs,
}

/// From gateway to node.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Up {
    /// Batch `seq` (which the seal binds) of a shard.
    Batch {
        /// The lowest seq that the edge still has; below it lies only what was confirmed.
        first_kept: u64,
        /// The highest seq that the edge has cut.
        last: u64,
        body: Vec<u8>,
    },
    /// Sent when no batch waits: states the edge's progress, and asks for the cursor.
    Beacon {
        /// The lowest seq that the edge still has; below it lies only what was confirmed.
        first_kept: u64,
        last: u64,
    },
    /// Batch `seq` (which the seal binds) of a shard will never come: a chosen command says that its content is lost.
    Lost {
        /// The lowest seq that the edge still has; below it lies only what was confirmed.
        first_kept: u64,
        last: u64,
        /// What it held, as far as that is known.
        lost: LostBatch,
    },
}

/// From node to gateway.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Down {
    /// Every batch of the shard up to and including `cursor` is applied and on disk.
    Confirm {
        /// Where: a site trims its outbox only for the ledger that it has admitted.
        ledger: LedgerId,
        /// 0 when there is none yet.
        cursor: u64,
    },
}

/// The topic of a shard's batches.
pub fn up_topic(site: &SiteId, shard: ShardId) -> String {
    format!("selvedge/{site}/up/{}", shard.0)
}

/// The topic of a shard's confirmations.
pub fn ack_topic(site: &SiteId, shard: ShardId) -> String {
    format!("selvedge/{site}/ack/{}", shard.0)
}

/// The direction (`"up"` or `"ack"`), site and shard of an uplink topic.
pub fn parse_topic(topic: &str) -> Option<(&str, SiteId, ShardId)> {
    let (way @ ("up" | "ack"), site, shard) = split_topic(topic)? else { return None };
    let shard = shard.parse::<u16>().ok().filter(|n| n.to_string() == shard)?;
    Some((way, SiteId::new(site).ok()?, ShardId(shard)))
}

/// Way, site and last level of `selvedge/{site}/{way}/{last}`.
pub(crate) fn split_topic(topic: &str) -> Option<(&str, &str, &str)> {
    let mut parts = topic.split('/');
    let (root, site, way, last) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    (root == "selvedge" && parts.next().is_none()).then_some((way, site, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Sample;

    #[test]
    fn topics_round_trip_and_foreign_ones_are_refused() {
        let site = SiteId::new("plant-7").unwrap();
        assert_eq!(parse_topic(&up_topic(&site, ShardId(9))), Some(("up", site.clone(), ShardId(9))));
        assert_eq!(parse_topic(&ack_topic(&site, ShardId(0))), Some(("ack", site, ShardId(0))));
        for bad in [
            "selvedge/x/up",
            "selvedge/x/up/1/2",
            "a/x/up/1",
            "selvedge/X/up/1",
            "selvedge/x/up/+1",
            "selvedge/x/down/1",
        ] {
            assert_eq!(parse_topic(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_batch_has_these_bytes() {
        let sample = Sample { time: EpochMs(1_000), slot: 7, index: 0, value: 1.5 };
        let batch = Batch {
            streams: vec![StreamName { device: "d".into(), stream: "t".into() }],
            parts: vec![Part {
                stream: 0,
                width_ms: 10_000,
                start: EpochMs(0),
                aggregate: Aggregate::of(sample),
                late: 0,
                watermark: EpochMs(1_000),
                set_aside: 0,
                sequences: Sequences::default(),
            }],
        };
        let bytes = batch.encode();
        assert_eq!(Batch::decode(&bytes).unwrap(), batch);
        assert_eq!(
            &bytes[..14],
            [3, 1, 1, b'd', 1, b't', 1, 0, 251, 0x10, 0x27, 0, 1, 251],
            "golden bytes of version 3"
        );
        let mut wrong = batch;
        wrong.parts[0].stream = 1;
        assert!(Batch::decode(&wrong.encode()).is_err());
    }
}
