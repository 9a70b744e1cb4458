//! What gateways of one site say to each other: the content of a link's frames.

use crate::machine::{
    BatchVerdict, DeviceInfo, Origin, Page, QuarantineEntry, QuarantineStats, Query, Scanned, StreamInfo,
};
use crate::skips::DeviceSkips;
use crate::unmapped::UnmappedTopic;
use bincode::{Decode, Encode};
use selvedge_types::ids::ShardId;
use selvedge_types::mqtt::QUEUED_OVERHEAD_BYTES;
use selvedge_types::question::SiteQuery;
use selvedge_types::time::EpochMs;
use std::sync::Arc;

/// One message to a peer. Many share a frame.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum PeerMessage {
    /// Of one Paxos group. Dropped unless the configuration is the group's.
    Paxos {
        /// The group.
        group: ShardId,
        /// The group's configuration (1 until it is changed).
        configuration: u32,
        /// What it says.
        message: selvedge_paxos::Message,
    },
    /// A batch for the leader of a shard; kept by its origin until it is answered.
    Forward {
        /// The shard.
        shard: ShardId,
        /// Who took it in.
        origin: Origin,
        /// Its number.
        n: u64,
        /// A submission frame.
        submission: Arc<[u8]>,
    },
    /// The answer to a forwarded batch.
    Forwarded {
        /// The shard.
        shard: ShardId,
        /// Who took it in.
        origin: Origin,
        /// Its number.
        n: u64,
        /// What became of it.
        answer: ForwardAnswer,
    },
    /// What a replica lacks that fell behind what its leader holds in memory: chosen values, or a snapshot.
    Transfer {
        /// The shard.
        shard: ShardId,
        /// The group's configuration.
        configuration: u32,
        /// What it says.
        message: TransferMessage,
    },
    /// A question about recent windows, for the shard's leader (or any replica of it if `stale` is enough).
    Query {
        /// Given back in the answer.
        id: u64,
        /// The shard of the device.
        shard: ShardId,
        /// What is asked.
        query: ShardQuery,
    },
    /// The answer to a query.
    Answer {
        /// The query's id.
        id: u64,
        /// What is answered.
        answer: QueryAnswer,
    },
    /// A question about a table of a shard, which its leader answers, or of a gateway.
    AskTable {
        /// Given back in the answer.
        id: u64,
        /// What is asked.
        question: TableQuestion,
    },
    /// The answer to it.
    TableAnswer {
        /// The question's id.
        id: u64,
        /// What is answered.
        answer: TableAnswer,
    },
    /// A later connection has taken a client's session: close this one.
    Evict {
        /// The process that held the session when it was taken.
        start: u64,
        /// Which connection of it.
        connection: u64,
    },
    /// The receiving gateway was given up as lost in this shard: it closes the connections whose clients belong there.
    EvictAll {
        /// The process that held them.
        start: u64,
        /// The shard of their client ids.
        shard: ShardId,
    },
    /// The filters that programs at the sending gateway subscribe to; replaces what it said before.
    Interest {
        /// The distinct filters; more than [`MAX_INTEREST_FILTERS`] are sent as the one filter `#`.
        filters: Arc<[String]>,
    },
    /// Publishes for subscribers at the receiving gateway.
    Route {
        /// The connection at the sending gateway that published them; 0 if none is to wait for their subscribers.
        publisher: u64,
        /// In the order in which they were taken in.
        publishes: Vec<RoutedPublish>,
    },
    /// Publishes that came in [`PeerMessage::Route`] are with subscribers that follow.
    Taken {
        /// How many bytes of each connection's ([`RoutedPublish::follow_bytes`]).
        publishers: Vec<(u64, u64)>,
    },
}

/// The most filters that a gateway names one by one to its peers.
pub const MAX_INTEREST_FILTERS: usize = 1_024;

/// A publish on its way to subscribers at another gateway.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RoutedPublish {
    /// The topic.
    pub topic: String,
    /// The device's original bytes.
    pub payload: Vec<u8>,
    /// As it was published: 0, 1 or 2.
    pub qos: u8,
}

impl RoutedPublish {
    /// What it counts for its publisher, who waits for subscribers that do not follow: nothing at QoS 0.
    pub fn follow_bytes(&self) -> u64 {
        match self.qos {
            0 => 0,
            _ => (self.topic.len() + self.payload.len() + QUEUED_OVERHEAD_BYTES) as u64,
        }
    }
}

/// A [`SiteQuery`] on its way to a shard.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ShardQuery {
    /// The device, or devices: `*` stands for any characters.
    pub device: String,
    /// The stream, or streams likewise, or all.
    pub stream: Option<String>,
    /// Windows that end after this time.
    pub from: EpochMs,
    /// Windows that start before this time.
    pub to: EpochMs,
    /// Merge upwards to windows of this width, in milliseconds.
    pub every_ms: Option<u32>,
    /// Any replica may answer from what it has applied.
    pub stale: bool,
    /// How much of it is wanted.
    pub page: Page,
    /// For how long the answer is waited for, in milliseconds, from when this leaves.
    pub wait_ms: u32,
}

impl ShardQuery {
    /// What a site is asked, for an answer of at most so many bytes that is waited for so long.
    pub fn of(asked: &SiteQuery, bytes: u32, wait_ms: u32) -> Self {
        let SiteQuery { device, stream, from, to, every_ms, limit, after, stale } = asked.clone();
        Self { device, stream, from, to, every_ms, stale, page: Page { after, limit, bytes }, wait_ms }
    }

    /// As the machine takes it.
    pub fn as_query(&self) -> Query<'_> {
        let (device, stream) = (self.device.as_str(), self.stream.as_deref());
        Query { device, stream, from: self.from, to: self.to, every_ms: self.every_ms }
    }
}

/// A question about a table.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum TableQuestion {
    /// A shard's quarantine: how full it is, and entries of it.
    Quarantine {
        /// The shard.
        shard: ShardId,
        /// Which entries.
        what: Listed,
    },
    /// The devices of a shard, by name.
    Devices {
        /// The shard.
        shard: ShardId,
        /// Behind this one.
        after: Option<String>,
        /// The most that are wanted; at most [`DEVICES_PAGE_ENTRIES`] are told.
        most: u32,
    },
    /// A device and its streams, by name.
    Device {
        /// Its shard.
        shard: ShardId,
        /// Its name.
        device: String,
        /// Streams behind this one.
        after: Option<String>,
    },
    /// Topics that map to no stream and that nobody subscribes to, as the gateway that is asked met them.
    Unmapped,
    /// Fields that were no readings, as the gateway that is asked met them.
    Skipped {
        /// Of this device alone.
        device: Option<String>,
    },
}

impl TableQuestion {
    /// The shard whose leader answers; nothing: each gateway answers for itself.
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Quarantine { shard, .. } | Self::Devices { shard, .. } | Self::Device { shard, .. } => {
                Some(*shard)
            }
            Self::Unmapped | Self::Skipped { .. } => None,
        }
    }
}

/// Which entries of a quarantine are told.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Listed {
    /// None.
    Nothing,
    /// One, with its whole payload.
    Whole {
        /// Its id.
        id: u64,
    },
    /// Several, with the first [`EXCERPT_BYTES`] of each.
    Excerpts {
        /// Of this client alone.
        client: Option<String>,
        /// With greater ids than this.
        after: u64,
    },
}

/// The most devices of one shard in one answer.
pub const DEVICES_PAGE_ENTRIES: usize = 256;

/// How much of a payload is told where entries of a quarantine are listed.
pub const EXCERPT_BYTES: usize = 1_024;
/// The most bytes of one shard's entries in one answer.
pub const QUARANTINE_PAGE_BYTES: usize = 64 * 1024;

/// The answer to a [`TableQuestion`].
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum TableAnswer {
    /// Entries of a shard's quarantine.
    Quarantine {
        /// With their ids.
        entries: Vec<(u64, QuarantineEntry)>,
        /// There are more behind them.
        more: bool,
        /// How full it is.
        stats: QuarantineStats,
    },
    /// Devices of a shard.
    Devices {
        /// By name.
        list: Vec<DeviceInfo>,
        /// There are more behind them.
        more: bool,
    },
    /// A device.
    Device {
        /// Nothing: it is not known.
        device: Option<DeviceInfo>,
        /// Streams of it, by name: as many as one answer may have.
        streams: Vec<StreamInfo>,
        /// There are more behind them.
        more: bool,
    },
    /// Topics that map to no stream.
    Unmapped {
        /// How many such publishes came since the gateway started.
        total: u64,
        /// Their topics.
        topics: Vec<UnmappedTopic>,
        /// For how long the gateway has counted, in milliseconds.
        uptime_ms: u64,
    },
    /// Fields that were no readings.
    Skipped {
        /// By device.
        list: Vec<(String, DeviceSkips)>,
        /// For how long the gateway has counted, in milliseconds.
        uptime_ms: u64,
    },
}

/// The answer to a [`ShardQuery`].
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum QueryAnswer {
    /// What is there.
    Windows(Scanned),
    /// This replica does not lead; perhaps that gateway does.
    NotLeader {
        /// The leader's gateway number as far as known.
        leader: Option<u16>,
    },
    /// The leader could not make sure that it still leads, or too much was asked at once.
    Unavailable,
}

/// How a replica that fell too far behind gets what it lacks. The receiver pulls, so that it sets
/// the pace and a lost message only costs a repetition.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum TransferMessage {
    /// From the leader: the receiver lacks more than the leader holds in memory, and may ask for it.
    Behind,
    /// Chosen values are wanted.
    FetchLog {
        /// Of this slot and those behind it.
        from: u64,
    },
    /// Chosen values of consecutive slots.
    Log {
        /// The first slot.
        from: u64,
        /// Their values; none: from here on they are in memory, and come by themselves.
        values: Vec<selvedge_paxos::Value>,
    },
    /// Nothing can be given just now: the receiver may ask again in a while.
    Wait,
    /// The answer to [`TransferMessage::FetchLog`] where the log does not reach back so far: a snapshot is there to be fetched.
    Offer {
        /// The last slot that it covers.
        slot: u64,
        /// Its length.
        bytes: u64,
        /// Checksum (crc32c) of all of it.
        crc: u32,
    },
    /// A piece of the offered snapshot is wanted.
    FetchState {
        /// Of the snapshot through this slot.
        slot: u64,
        /// From this byte on.
        offset: u64,
    },
    /// A piece of the snapshot.
    State {
        /// Of the snapshot through this slot.
        slot: u64,
        /// From this byte on.
        offset: u64,
        /// At most [`TRANSFER_CHUNK_BYTES`]; none at its end.
        data: Vec<u8>,
    },
    /// The snapshot is not held ready any more.
    Gone {
        /// The snapshot through this slot.
        slot: u64,
    },
    /// The content of an uplink batch, which a snapshot only lists, is wanted.
    FetchBatch {
        /// The batch.
        seq: u64,
    },
    /// The content of an uplink batch.
    Batch {
        /// The batch.
        seq: u64,
        /// What the replica that was asked has of it.
        answer: BatchAnswer,
    },
}

/// What a replica says of the content of an uplink batch. Only [`BatchAnswer::Lost`] speaks for giving it up: silence does not,
/// nor does doubt.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum BatchAnswer {
    /// Here it is.
    Here(Arc<[u8]>),
    /// It can't say: the batch is not cut there yet or is released there, or its file can't be read just now.
    Unsure,
    /// Its state lists the batch, and the content is neither in its memory nor whole on its disk.
    Lost,
}

/// The largest piece of a snapshot in one message.
pub const TRANSFER_CHUNK_BYTES: usize = 64 * 1024;

/// What a shard's replica answers to a forwarded batch.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum ForwardAnswer {
    /// It went through the log.
    Verdict {
        /// Where it was chosen.
        slot: u64,
        /// What became of it there.
        verdict: BatchVerdict,
    },
    /// This replica does not lead; perhaps that one does.
    NotLeader {
        /// The leader's gateway number as far as known here.
        leader: Option<u16>,
    },
    /// The leader takes nothing more now (its window, its outbox budget or its disk is full): send it again later.
    Busy {
        /// Why, for the operator.
        why: BusyReason,
    },
}

/// Why a leader takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum BusyReason {
    /// Too much is under way.
    Window,
    /// A disk is full.
    Disk,
    /// The outbox has reached its budget.
    Outbox,
}
