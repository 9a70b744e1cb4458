//! Commands: the values of a shard's slots.

use super::rules::CountingRules;
use crate::configuration::{STOP_MARK, STOP_VERSION, SUCCESSION_VERSION};
use crate::directory::DirectoryItem;
use bincode::{BorrowDecode, Decode, Encode};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::{LedgerId, SiteIncarnation};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3Default;

/// Format version of [`Proposal`] frames. A release refuses any other version.
pub const PROPOSAL_VERSION: u8 = 6;

/// The value of one slot. A new leader opens its ballot with an empty one. When a proposal is decoded to be
/// applied, its submissions borrow from the slot's bytes.
#[derive(Debug, Clone, PartialEq, Default, Encode, BorrowDecode)]
pub struct Proposal<Bytes = Arc<[u8]>> {
    /// The shard's elapsed time. It never goes back from slot to slot, and is never ahead of what the leaders
    /// have counted on their monotonic clocks. Everything that waits or expires follows it.
    pub elapsed: ElapsedMs,
    /// The wall clock. It only labels, because it may jump by years, forward or back.
    pub wall: EpochMs,
    /// Whether a majority of the gateways agreed on `wall`. If not, `wall` continues by elapsed time from the
    /// last agreement.
    pub sure: bool,
    /// Applied in this order.
    pub commands: Vec<Command<Bytes>>,
}

impl<Bytes: Encode> Proposal<Bytes> {
    /// The frame that is stored in a slot.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(PROPOSAL_VERSION, self)
    }
}

impl<'a, Bytes: BorrowDecode<'a, ()>> Proposal<Bytes> {
    /// Reads a frame that [`Proposal::encode`] wrote.
    ///
    /// # Errors
    /// The frame is damaged or has another version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        frame::view("proposal", PROPOSAL_VERSION, bytes)
    }
}

/// The version of a slot's value, if this release does not know it.
pub fn unknown_proposal_version(value: &[u8]) -> Option<u8> {
    let (version, known) = match value {
        [STOP_MARK, SUCCESSION_VERSION, ..] => return None,
        [STOP_MARK, rest @ ..] => (rest.first(), STOP_VERSION),
        value => (value.first(), PROPOSAL_VERSION),
    };
    version.copied().filter(|version| *version != known)
}

/// One change of a shard's state.
#[derive(Debug, Clone, PartialEq, Encode, BorrowDecode)]
pub enum Command<Bytes = Arc<[u8]>> {
    /// A batch that a gateway has accepted from devices. Applied only if `n` is the next number of its
    /// origin.
    Forwarded {
        /// The gateway process that accepted it.
        origin: Origin,
        /// The batch's number, counted from 1 without gaps for each origin and shard.
        n: u64,
        /// An encoded [`Submission`](super::Submission) frame.
        submission: Bytes,
    },
    /// Time has passed: close idle windows and late parts, expire sessions, cut closed parts into a batch.
    Tick,
    /// A node has every batch up to and including `cursor` on disk. The first ledger that confirms is
    /// admitted; confirmations of any other ledger are ignored.
    Confirmed {
        /// The database that has them.
        ledger: LedgerId,
        cursor: u64,
    },
    /// The leader could not reach a gateway for long: its connections count as ended. If the gateway is heard
    /// from again, it closes them.
    Lost {
        /// The process that held the connections.
        origin: Origin,
    },
    /// From this slot on, forms of this level may be used.
    Upgrade {
        /// The level; the first is 1. A lower level than the current one has no effect.
        level: u32,
    },
    /// From this slot on, these rules are in force. Ignored if they are not valid.
    Rules(Box<CountingRules>),
    /// Every member of the shard has lost the content of this batch. Ignored unless the batch is unconfirmed.
    LostBatch { seq: u64 },
    /// The site's incarnation. The first one chosen stays for good; later ones are ignored.
    Incarnation(SiteIncarnation),
    /// The admitted ledger has said how far it has the batches of the generation before a recovery. Ignored unless the
    /// shard waits for that, with this last batch ([`OutboxFence`](super::OutboxFence)).
    Settled {
        /// The database that has them.
        ledger: LedgerId,
        /// The last batch that the earlier generation cut here.
        last: u64,
        /// Whether the ledger has batches of that generation beyond the last one, which the shard does not know.
        beyond: bool,
    },
}

/// One start of one gateway's process. The start numbers of a gateway only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Origin {
    pub gateway: GatewayId,
    pub start: u64,
}

/// One entry of a submission: an action of a client, a gateway or an operator.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Item {
    /// A publish, with all of its readings that lie in this shard.
    Publish(PublishItem),
    /// A gateway's process has started. Its first batch tells the shard that the connections of earlier
    /// starts are over.
    Begin,
    /// A client connected (in the shard of its client id).
    Connect(ConnectItem),
    /// A client's connection ended (in the shard of its client id). Ignored unless `epoch` is the session's.
    Disconnect(DisconnectItem),
    /// A due will has been published: its readings are chosen (in the shard of its client id). The outcome
    /// tells the publisher what to do:
    /// - [`Done`](super::ItemOutcome::Done): it was this process's to publish, so it now delivers the will to
    ///   subscribers.
    /// - [`Duplicate`](super::ItemOutcome::Duplicate): it was already done.
    /// - [`Stale`](super::ItemOutcome::Stale): a connection at another process has taken the session, so the
    ///   connection that waited for the will has been replaced.
    WillDone {
        client: String,
        /// The epoch of the connection that left the will.
        epoch: u64,
        /// The process that published it.
        at: Origin,
    },
    /// A client subscribed or unsubscribed in a persistent session (in the shard of its client id).
    Subscriptions {
        client: String,
        /// The epoch that [`ConnectOutcome`](super::ConnectOutcome) gave.
        epoch: u64,
        /// Filters to add or replace, each with its subscription options as one byte.
        add: Vec<(String, u8)>,
        remove: Vec<String>,
    },
    /// Records that a persistent session is about to send its first QoS 2 publish into `shard` (in the shard
    /// of its client id). A later PUBREL then finds every shard that holds its packet ids.
    Touch {
        client: String,
        /// The epoch that [`ConnectOutcome`](super::ConnectOutcome) gave.
        epoch: u64,
        shard: u16,
    },
    /// An operator retires a stream, or all streams of a device (in the shard of the device).
    Retire {
        device: String,
        /// `None` retires all of the device's streams.
        stream: Option<String>,
    },
    /// PUBREL: frees the packet id of a QoS 2 publish (in every shard that it touched).
    Release(Source),
    /// A publish of one reading outside a persistent session. Most items are of this kind, so it needs no
    /// list to allocate.
    Reading(Reading),
    /// A publish of which something was not counted, to be kept whole (in the shard of its client).
    Quarantine {
        /// The epoch of the connection's session; 0 if it is not known. If a later connection has replaced
        /// this one, the item is refused as stale, because the client sends the publish again.
        epoch: u64,
        publish: Box<Quarantined>,
    },
    /// A publish that is marked as a possible resend has now been counted completely. If the quarantine holds
    /// it from an earlier attempt, the entry is removed (in the shard of its client).
    ResendCounted(Source),
    /// Judges readings of a quarantined publish again (in the shards of their devices).
    Readmit(Readmit),
    /// All shards have answered [`Item::Readmit`] (in the shard of the client).
    Readmitted {
        /// The id of the quarantine entry.
        id: u64,
        /// The attempt that these answers belong to.
        attempt: u64,
        /// The hashes of the readings that were counted or recognised in this attempt.
        counted: Vec<u64>,
        /// How many readings this attempt set aside as far behind.
        far_behind: u32,
        /// Nothing is left to count: remove the entry.
        done: bool,
    },
    /// An operator resets the sequence numbers of a stream, or of all streams of a device (in the shard of
    /// the device). The next number of each stream counts as its first.
    ResetSequence {
        device: String,
        /// `None` resets all of the device's streams.
        stream: Option<String>,
    },
    /// An operator admits a ledger (in every shard). From this slot on, only its confirmations trim the
    /// outbox, and the uplink sends it every batch that is still kept.
    AdmitLedger { ledger: LedgerId },
    /// Something for the directory (in the directory group).
    Directory(Box<DirectoryItem>),
}

impl Item {
    /// The readings to judge; empty for items that carry none.
    pub fn readings(&self) -> &[Reading] {
        match self {
            Self::Publish(publish) => &publish.readings,
            Self::Reading(reading) => std::slice::from_ref(reading),
            Self::Readmit(readmit) => &readmit.readings,
            _ => &[],
        }
    }
}

/// A CONNECT, as the shard of its client id sees it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ConnectItem {
    pub client: String,
    /// The gateway process that holds the connection.
    pub at: Origin,
    /// Tells the connections of that process apart.
    pub connection: u64,
    /// Clean session (3.1.1) or clean start (5): discards the stored session first.
    pub clean: bool,
    /// How long the session outlives its connection, in seconds; 0 ends it with the connection, `u32::MAX`
    /// never expires.
    pub expiry_s: u32,
    /// Published if the connection ends without a DISCONNECT, or with one that asks for it.
    pub will: Option<Box<SessionWill>>,
}

/// The end of a connection, as the shard of its client id sees it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DisconnectItem {
    pub client: String,
    /// The epoch that [`ConnectOutcome`](super::ConnectOutcome) gave.
    pub epoch: u64,
    /// The gateway process that held the connection. It publishes a will that is due at once.
    pub at: Origin,
    /// The connection ended without a DISCONNECT, or with one that asks for the will.
    pub with_will: bool,
    /// The new expiry of the session, in seconds from now, if DISCONNECT changes what CONNECT set. Ignored if
    /// the session has no expiry.
    pub expiry_s: Option<u32>,
}

/// The last will and testament of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SessionWill {
    /// A well-formed topic name.
    pub topic: String,
    pub payload: Vec<u8>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// How long to wait before the will is published, in seconds, in case the client reconnects.
    pub delay_s: u32,
}

impl SessionWill {
    /// The bytes that the will counts against bounds: topic, payload and a fixed overhead.
    pub fn cost_bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + 64
    }
}

/// A will that must be published now.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DueWill {
    pub client: String,
    /// The session of the client that left it.
    pub instance: u64,
    /// The connection that left it: no two wills of a client have the same epoch.
    pub epoch: u64,
    pub will: SessionWill,
}

/// Identifies a publish within a persistent session, so that a resend is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Source {
    pub client: String,
    /// The number of the client's session. It grows with each new session, which makes the shard forget the
    /// packet ids of the older one.
    pub instance: u64,
    /// The number of the connection. Once the shard has seen a higher epoch, it refuses lower ones.
    pub epoch: u64,
    pub packet_id: u16,
    pub qos: u8,
    /// The publish is marked as a possible resend (the DUP flag).
    pub dup: bool,
    /// [`publish_hash`] of topic and payload.
    pub hash: u64,
}

/// A hash of topic and payload, which together with the packet id identifies a resend.
pub fn publish_hash(topic: &str, payload: &[u8]) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(topic.as_bytes());
    hasher.update(&[0]);
    hasher.update(payload);
    hasher.digest()
}

/// The readings of one publish that lie in one shard.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct PublishItem {
    /// Set for publishes of QoS 1 or 2 within a persistent session.
    pub source: Option<Source>,
    /// In the payload's order.
    pub readings: Vec<Reading>,
}

/// A publish of which something was not counted.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Quarantined {
    /// The id of the client that sent it.
    pub client: String,
    pub topic: String,
    /// Empty if the payload was longer than [`MAX_PAYLOAD_BYTES`](super::MAX_PAYLOAD_BYTES).
    pub payload: Vec<u8>,
    /// The length of the payload as it was sent.
    pub payload_bytes: u64,
    /// 0, 1 or 2.
    pub qos: u8,
    /// 0 at QoS 0.
    pub packet_id: u16,
    /// The publish is marked as a possible resend (the DUP flag).
    pub dup: bool,
    /// The wall time at which the gateway read the publish. Relative times in the payload count from here.
    pub at: EpochMs,
    /// Why something of it was not counted, for people.
    pub why: String,
    /// The hashes of the readings that were counted or recognised.
    pub counted: Vec<u64>,
    /// How many of the last hashes in `counted` come from shards that recognised the publish as a resend.
    /// Such a shard may have set the reading aside the first time, so an existing entry does not learn these
    /// hashes.
    pub recognised: u32,
    /// How many readings were set aside as far behind: for each of them it is unknown whether it was counted
    /// before.
    pub far_behind: u32,
}

/// Readings of a quarantined publish that lie in one shard, to be judged again.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Readmit {
    /// The shard whose quarantine has the entry.
    pub shard: u16,
    /// The entry's id there.
    pub id: u64,
    /// Numbers the attempts of this entry, so that a repeated attempt counts nothing again.
    pub attempt: u64,
    /// In the payload's order.
    pub readings: Vec<Reading>,
}

/// One measured value of a stream.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Reading {
    /// An index into the submission's streams.
    pub stream: u32,
    /// The time of measurement by the device's clock. A reading without one gets the wall time of its
    /// proposal.
    pub time: Option<EpochMs>,
    /// Finite; the machine sets any other value aside.
    pub value: f64,
    /// The device's sequence number for this stream, if it has one.
    pub seq: Option<u64>,
    /// The boot of the device that counts the sequence, if the device numbers its boots.
    pub boot: Option<u64>,
}
