//! What a slot holds: commands.

use super::rules::CountingRules;
use bincode::{BorrowDecode, Decode, Encode};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::{LedgerId, SiteIncarnation};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3Default;

/// Format version of [`Proposal`] frames.
pub const PROPOSAL_VERSION: u8 = 5;

/// The value of one slot. An empty one is what a new leader opens its ballot with. One that is applied borrows its submissions from the
/// slot's bytes.
#[derive(Debug, Clone, PartialEq, Default, Encode, BorrowDecode)]
pub struct Proposal<Bytes = Arc<[u8]>> {
    /// The elapsed time of the shard: never below that of a lower slot, and never ahead of what the leaders have counted on their
    /// monotonic clocks. All that waits or expires goes by it.
    pub elapsed: ElapsedMs,
    /// What a person's clock shows. It labels and nothing else, for it may jump by years, forward or back.
    pub wall: EpochMs,
    /// A majority of the gateways agreed on `wall`; if not, it continues by elapsed time from when one last did.
    pub sure: bool,
    /// Applied in this order.
    pub commands: Vec<Command<Bytes>>,
}

impl<Bytes: Encode> Proposal<Bytes> {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(PROPOSAL_VERSION, self)
    }
}

impl<'a, Bytes: BorrowDecode<'a, ()>> Proposal<Bytes> {
    /// From bytes.
    ///
    /// # Errors
    /// When the frame is damaged or of another version.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        frame::view("proposal", PROPOSAL_VERSION, bytes)
    }
}

/// The version of a slot's value, if it is one that this release does not know.
pub fn unknown_proposal_version(value: &[u8]) -> Option<u8> {
    value.first().copied().filter(|version| *version != PROPOSAL_VERSION)
}

/// What the state machine can be told.
#[derive(Debug, Clone, PartialEq, Encode, BorrowDecode)]
pub enum Command<Bytes = Arc<[u8]>> {
    /// A batch that a gateway took in: applied if `n` is the next of its origin, and else not at all.
    Forwarded {
        /// Who took it in.
        origin: Origin,
        /// Its number, from 1, without gaps, per origin and shard.
        n: u64,
        /// A [`Submission`] frame.
        submission: Bytes,
    },
    /// Time has passed: close idle windows and late parts, expire sessions, cut closed parts into a batch.
    Tick,
    /// A node has every batch up to and including `cursor` on disk. The first ledger that confirms is the one that is admitted
    /// from then on; what another one has counts for nothing.
    Confirmed {
        /// Where it has them.
        ledger: LedgerId,
        /// The cursor.
        cursor: u64,
    },
    /// A gateway can't be reached for long: its connections count as ended. If it comes back it closes them.
    Lost {
        /// The process that held them.
        origin: Origin,
    },
    /// From here on, forms of this level may be used.
    Upgrade {
        /// The level; the first is 1.
        level: u32,
    },
    /// From here on, these rules are in force. Ignored if they are not valid.
    Rules(Box<CountingRules>),
    /// Every member of the shard has lost the content of this batch. Ignored unless it is unconfirmed.
    LostBatch {
        /// Its number.
        seq: u64,
    },
    /// What this making of the site is called from here on, for good: the first that is chosen.
    Incarnation(SiteIncarnation),
}

/// One start of one gateway's process: the start numbers of a gateway only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
pub struct Origin {
    /// The gateway.
    pub gateway: GatewayId,
    /// Which start of it.
    pub start: u64,
}

/// One thing that a device did.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Item {
    /// It published; all readings of it that lie in this shard.
    Publish(Publish),
    /// A gateway's process has begun: by this a shard learns that the connections of its earlier ones are over.
    Begin,
    /// A client connected (in the shard of its client id).
    Connect(Connect),
    /// Its connection ended (in the shard of its client id). Ignored unless `epoch` is the session's.
    Disconnect(Disconnect),
    /// A will that was due is published: its readings are chosen (in the shard of its client id).
    /// [`Done`](super::ItemOutcome::Done) to the one whose it was to publish, who gives it to subscribers now;
    /// [`Duplicate`](super::ItemOutcome::Duplicate) if it is done; [`Stale`](super::ItemOutcome::Stale) if a connection
    /// at another process has the session by now: the one that waited for the will is replaced.
    WillDone {
        /// The client id.
        client: String,
        /// The epoch of the connection that left it.
        epoch: u64,
        /// Who published it.
        at: Origin,
    },
    /// It subscribed or unsubscribed in a persistent session (in the shard of its client id).
    Subscriptions {
        /// The client id.
        client: String,
        /// The epoch that [`Connected`](super::Connected) gave.
        epoch: u64,
        /// Filters and their greatest QoS, added or replaced.
        add: Vec<(String, u8)>,
        /// Filters taken away.
        remove: Vec<String>,
    },
    /// Notes, before the first QoS 2 publish of a persistent session into `shard`, that it goes there (in
    /// the shard of its client id), so that a later PUBREL finds every shard that holds its packet ids.
    Touch {
        /// The client id.
        client: String,
        /// The epoch that [`Connected`](super::Connected) gave.
        epoch: u64,
        /// The shard that will be touched.
        shard: u16,
    },
    /// An operator retires a stream, or all streams of a device (in the shard of the device).
    Retire {
        /// The device.
        device: String,
        /// Its stream; nothing: all of them.
        stream: Option<String>,
    },
    /// PUBREL: the packet id of a QoS 2 publish is free again (in every touched shard).
    Release(Source),
    /// A publish of one reading outside a persistent session: what most items are, without a list to allocate.
    Reading(Reading),
    /// A publish of which something was not counted, to be kept whole (in the shard of its client).
    Quarantine {
        /// The epoch of its connection's session; 0 if that is not known. Of a connection that was replaced nothing is kept, for
        /// its client sends it again.
        epoch: u64,
        /// The publish.
        publish: Box<Quarantined>,
    },
    /// All of a publish that says it may be a resend was judged now, and counted: if it is in the quarantine from before, it leaves it
    /// (in the shard of its client).
    ResendCounted(Source),
    /// Readings of such a publish are to be judged again (in the shards of their devices).
    Readmit(Readmit),
    /// They were (in the shard of the client).
    Readmitted {
        /// The entry.
        id: u64,
        /// Which attempt this was.
        attempt: u64,
        /// The hashes of those that were counted or recognised now.
        counted: Vec<u64>,
        /// How many were set aside now as far behind.
        far_behind: u32,
        /// Nothing of it is left to be counted: the entry goes.
        done: bool,
    },
    /// An operator wants the sequence numbers of a device's streams forgotten (in the shard of the device): the next
    /// number of each is its first.
    ResetSequence {
        /// The device.
        device: String,
        /// One of its streams, or all.
        stream: Option<String>,
    },
    /// An operator admits a ledger (in every shard): it alone trims from now on, and what is still kept is sent to it.
    AdmitLedger {
        /// Which.
        ledger: LedgerId,
    },
}

impl Item {
    /// The readings that it carries.
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
pub struct Connect {
    /// The client id.
    pub client: String,
    /// The gateway process that holds the connection.
    pub at: Origin,
    /// Distinguishes connections of that process.
    pub connection: u64,
    /// Clean session (3.1.1) or clean start (5): what was stored is discarded first.
    pub clean: bool,
    /// How long the session outlives its connection, in seconds; 0: not at all, `u32::MAX`: for ever.
    pub expiry_s: u32,
    /// What is to be published for the client if it goes without a goodbye.
    pub will: Option<Box<Will>>,
}

/// The end of a connection, as the shard of its client id sees it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Disconnect {
    /// The client id.
    pub client: String,
    /// The epoch that [`Connected`](super::Connected) gave.
    pub epoch: u64,
    /// The gateway process that held the connection: it publishes a will that is due at once.
    pub at: Origin,
    /// The client left without a goodbye, or wants its will published.
    pub with_will: bool,
    /// How long the session goes on from now, in seconds, if that is not what CONNECT said.
    pub expiry_s: Option<u32>,
}

/// What a client leaves to be published after it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Will {
    /// A well-formed topic name.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// How long to wait before it is published, in seconds, in case the client comes back.
    pub delay_s: u32,
}

impl Will {
    /// What it counts against bounds in bytes.
    pub fn cost_bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + 64
    }
}

/// A will that is to be published now.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DueWill {
    /// The client id.
    pub client: String,
    /// Which session of the client.
    pub instance: u64,
    /// Which connection of it: no two wills of a client have the same.
    pub epoch: u64,
    /// What is to be published.
    pub will: Will,
}

/// Who published within a persistent session: what a resend is recognised by.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Source {
    /// The client id.
    pub client: String,
    /// Which session of that client: raised when a session is made anew, so that what is known of the
    /// packet ids of an older one is forgotten.
    pub instance: u64,
    /// Which connection of that session: lower ones are refused once a higher one was seen.
    pub epoch: u64,
    /// The packet id.
    pub packet_id: u16,
    /// 1 or 2.
    pub qos: u8,
    /// The publish says that it may be a resend.
    pub dup: bool,
    /// [`publish_hash`] of topic and payload.
    pub hash: u64,
}

/// What a resend is recognised by, besides its packet id.
pub fn publish_hash(topic: &str, payload: &[u8]) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.update(topic.as_bytes());
    hasher.update(&[0]);
    hasher.update(payload);
    hasher.digest()
}

/// The readings of one publish that lie in one shard.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Publish {
    /// Set within a persistent session at QoS 1 or 2.
    pub source: Option<Source>,
    /// In the payload's order.
    pub readings: Vec<Reading>,
}

/// A publish of which something was not counted.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Quarantined {
    /// Who sent it.
    pub client: String,
    /// Where.
    pub topic: String,
    /// What; nothing if it was longer than [`MAX_PAYLOAD_BYTES`](super::MAX_PAYLOAD_BYTES).
    pub payload: Vec<u8>,
    /// How long the payload was, in bytes.
    pub payload_bytes: u64,
    /// 0, 1 or 2.
    pub qos: u8,
    /// 0 at QoS 0.
    pub packet_id: u16,
    /// The client says that it may be a resend.
    pub dup: bool,
    /// The wall time at which its gateway read it: relative times in the payload count from here.
    pub at: EpochMs,
    /// Why something of it was not counted.
    pub why: String,
    /// The hashes of those of its readings that were counted or recognised; none if nothing was.
    pub counted: Vec<u64>,
    /// How many of these, the last ones, lie in shards that recognised the publish as one that they had judged before, perhaps
    /// otherwise: an entry that is there knows better.
    pub recognised: u32,
    /// How many of its readings were set aside as far behind: each may have counted before, and nobody can tell.
    pub far_behind: u32,
}

/// Readings of a quarantined publish that lie in one shard, to be judged again.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Readmit {
    /// The shard whose quarantine has the entry.
    pub shard: u16,
    /// The entry.
    pub id: u64,
    /// Which attempt this is: a repetition of it counts nothing again.
    pub attempt: u64,
    /// In the payload's order.
    pub readings: Vec<Reading>,
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct Reading {
    /// Which of the submission's streams.
    pub stream: u32,
    /// When, by the device's clock; without one the wall time of its proposal counts.
    pub time: Option<EpochMs>,
    /// What. Finite.
    pub value: f64,
    /// The device's sequence number for this stream, if it has one.
    pub seq: Option<u64>,
    /// Which boot of the device counts that sequence.
    pub boot: Option<u64>,
}
