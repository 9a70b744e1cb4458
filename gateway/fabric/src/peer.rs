//! The messages between gateways of one site: the content of a link's frames.

use crate::configuration::Configuration;
use crate::machine::{
    BatchVerdict, DeviceInfo, Origin, Page, QuarantineEntry, QuarantineStats, Query, Scanned, StreamInfo,
};
use crate::ring::ReplicaSet;
use crate::site_state::GatewayDescription;
use crate::skips::DeviceSkips;
use crate::unmapped::UnmappedTopic;
use bincode::{Decode, Encode};
use selvedge_types::ids::{GatewayId, ShardId};
use selvedge_types::mqtt::QUEUED_OVERHEAD_BYTES;
use selvedge_types::question::SiteQuery;
use selvedge_types::time::EpochMs;
use std::sync::Arc;

/// One message to a peer. A frame carries many of them.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum PeerMessage {
    /// A message within one Paxos group. A replica that has left the message's configuration answers
    /// [`PeerMessage::Superseded`]; one in an earlier configuration fetches what it lacks from the sender.
    Paxos {
        group: ShardId,
        /// The configuration in which the message counts.
        configuration: u32,
        message: selvedge_paxos::Message,
    },
    /// A batch for the leader of a shard; its origin keeps it until it is answered.
    Forward {
        shard: ShardId,
        /// The gateway and the start of its process that took the batch's items in.
        origin: Origin,
        /// The origin's number of the batch in this shard.
        n: u64,
        /// The batch as an encoded [`Submission`](crate::machine::Submission), the same bytes whenever it is resent.
        submission: Arc<[u8]>,
    },
    /// The answer to a forwarded batch.
    Forwarded {
        shard: ShardId,
        /// The origin of the batch.
        origin: Origin,
        /// The origin's number of the batch in this shard.
        n: u64,
        answer: ForwardAnswer,
    },
    /// State transfer to a replica that needs more than its leader holds in memory: chosen values, or a snapshot.
    /// `configuration` is the sender's present configuration.
    Transfer { shard: ShardId, configuration: u32, message: TransferMessage },
    /// A question about recent windows, for the shard's leader (or any replica if `stale` is enough).
    Query {
        /// Returned with the answer.
        id: u64,
        /// The shard of the device.
        shard: ShardId,
        query: ShardQuery,
    },
    /// The answer to [`PeerMessage::Query`].
    Answer {
        /// The `id` of the query.
        id: u64,
        answer: QueryAnswer,
    },
    /// A question about a table of a shard, which the shard's leader answers, or about a table of the receiving
    /// gateway.
    AskTable {
        /// Returned with the answer.
        id: u64,
        question: TableQuestion,
    },
    /// The answer to [`PeerMessage::AskTable`].
    TableAnswer {
        /// The `id` of the question.
        id: u64,
        answer: TableAnswer,
    },
    /// A later connection has taken over a client's session: the receiver closes this one.
    Evict {
        /// The start number of the process that held the session when it was taken over.
        start: u64,
        /// The connection's number within that process.
        connection: u64,
    },
    /// The site gave up the receiving gateway as lost in this shard: it closes the connections whose clients belong
    /// there.
    EvictAll {
        /// The start number of the process that held those connections.
        start: u64,
        /// The shard of their client ids.
        shard: ShardId,
    },
    /// The filters that programs at the sending gateway subscribe to. The list replaces the previous one.
    Interest {
        /// The distinct filters; more than [`MAX_INTEREST_FILTERS`] are sent as the one filter `#`.
        filters: Arc<[String]>,
    },
    /// Publishes for subscribers at the receiving gateway.
    Route {
        /// The connection at the sending gateway that published them; 0 if no connection waits for their
        /// subscribers.
        publisher: u64,
        /// In the order in which they were taken in.
        publishes: Vec<RoutedPublish>,
    },
    /// Subscribers that keep up have taken publishes of [`PeerMessage::Route`].
    Taken {
        /// For each publishing connection, the bytes taken ([`RoutedPublish::follow_bytes`]).
        publishers: Vec<(u64, u64)>,
    },
    /// The sender's replica is in this configuration. A receiver that is in an earlier one may fetch what it lacks from
    /// the sender.
    Superseded { shard: ShardId, configuration: u32 },
    /// A message that the receiver passes on, because the sender can't reach the gateway that it is for
    /// ([`crate::detour`]).
    Detour {
        to: GatewayId,
        /// A [`PeerMessage`] as [`detour::wrap`](crate::detour::wrap) encodes it.
        message: Arc<[u8]>,
    },
    /// A message that the sender has passed on: it is from the gateway that is named here.
    Detoured {
        from: GatewayId,
        /// The message as it came with [`PeerMessage::Detour`].
        message: Arc<[u8]>,
    },
}

impl PeerMessage {
    /// The shard that a request or its answer concerns, as far as the message names one.
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Forward { shard, .. }
            | Self::Forwarded { shard, .. }
            | Self::Query { shard, .. }
            | Self::EvictAll { shard, .. } => Some(*shard),
            Self::AskTable { question, .. } => question.shard(),
            _ => None,
        }
    }
}

/// The most filters that a gateway lists one by one to its peers.
pub const MAX_INTEREST_FILTERS: usize = 1_024;

/// A publish on its way to subscribers at another gateway.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RoutedPublish {
    pub topic: String,
    /// The device's original bytes, not decoded.
    pub payload: Vec<u8>,
    /// The QoS that it was published with: 0, 1 or 2.
    pub qos: u8,
}

impl RoutedPublish {
    /// The bytes that it counts towards its publisher's wait for subscribers that don't keep up: 0 at QoS 0.
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
    /// The name of a device; `*` stands for any characters and so covers several devices.
    pub device: String,
    /// The name of a stream, with `*` likewise; none asks for all streams.
    pub stream: Option<String>,
    /// Windows that end after this time.
    pub from: EpochMs,
    /// Windows that start before this time.
    pub to: EpochMs,
    /// Merge windows upwards to this width, in milliseconds.
    pub every_ms: Option<u32>,
    /// Whether any replica may answer, from the state that it has applied.
    pub stale: bool,
    /// The part of the result to return.
    pub page: Page,
    /// How long the asker waits for the answer, in milliseconds from when this message leaves.
    pub wait_ms: u32,
}

impl ShardQuery {
    /// The part of a site's question that goes to a shard, with bounds on the answer's bytes and on the wait for
    /// it.
    pub fn of(asked: &SiteQuery, bytes: u32, wait_ms: u32) -> Self {
        let SiteQuery { device, stream, from, to, every_ms, limit, after, stale } = asked.clone();
        Self { device, stream, from, to, every_ms, stale, page: Page { after, limit, bytes }, wait_ms }
    }

    /// The query in the form that the machine takes.
    pub fn as_query(&self) -> Query<'_> {
        let (device, stream) = (self.device.as_str(), self.stream.as_deref());
        Query { device, stream, from: self.from, to: self.to, every_ms: self.every_ms }
    }
}

/// A question about a table of a shard or of a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum TableQuestion {
    /// A shard's quarantine: how full it is, and entries of it.
    Quarantine {
        shard: ShardId,
        /// The entries to return.
        what: Listed,
    },
    /// The devices of a shard, by name.
    Devices {
        shard: ShardId,
        /// Return devices whose names come after this one.
        after: Option<String>,
        /// The most devices to return; an answer has at most [`DEVICES_PAGE_ENTRIES`].
        most: u32,
    },
    /// A device and its streams, by name.
    Device {
        shard: ShardId,
        device: String,
        /// Return streams whose names come after this one.
        after: Option<String>,
    },
    /// Topics that map to no stream and have no subscriber, as seen by the gateway that is asked.
    Unmapped,
    /// Fields that were no readings, as seen by the gateway that is asked.
    Skipped {
        /// Restricts the answer to this device.
        device: Option<String>,
    },
    /// How the gateway that is asked is, and each of its replicas.
    Gateway,
}

impl TableQuestion {
    /// The shard whose leader answers; none if each gateway answers for itself.
    pub fn shard(&self) -> Option<ShardId> {
        match self {
            Self::Quarantine { shard, .. } | Self::Devices { shard, .. } | Self::Device { shard, .. } => {
                Some(*shard)
            }
            Self::Unmapped | Self::Skipped { .. } | Self::Gateway => None,
        }
    }
}

/// The entries of a quarantine to return.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Listed {
    /// No entries, only how full the quarantine is.
    Nothing,
    /// One entry, with its whole payload.
    Whole { id: u64 },
    /// Several entries, with the first [`EXCERPT_BYTES`] of each payload.
    Excerpts {
        /// Restricts the answer to this client.
        client: Option<String>,
        /// Return entries with greater ids than this.
        after: u64,
    },
}

/// The most devices of one shard in one answer.
pub const DEVICES_PAGE_ENTRIES: usize = 256;

/// How much of each payload an answer contains when it lists entries of a quarantine.
pub const EXCERPT_BYTES: usize = 1_024;
/// The most bytes of one shard's entries in one answer.
pub const QUARANTINE_PAGE_BYTES: usize = 64 * 1024;

/// The answer to a [`TableQuestion`].
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum TableAnswer {
    /// Entries of a shard's quarantine.
    Quarantine {
        /// The entries, each with its id.
        entries: Vec<(u64, QuarantineEntry)>,
        /// Whether the quarantine holds more entries after these.
        more: bool,
        /// How full the quarantine is.
        stats: QuarantineStats,
    },
    /// Devices of a shard.
    Devices {
        /// In the order of their names.
        list: Vec<DeviceInfo>,
        /// Whether the shard has more devices after these.
        more: bool,
    },
    /// One device of a shard, with its streams.
    Device {
        /// None if the shard doesn't know the device.
        device: Option<DeviceInfo>,
        /// The device's streams in the order of their names, as many as one answer may have.
        streams: Vec<StreamInfo>,
        /// Whether the device has more streams after these.
        more: bool,
    },
    /// Topics that map to no stream.
    Unmapped {
        /// The number of unmapped publishes since the gateway started.
        total: u64,
        /// The topics that the gateway remembers.
        topics: Vec<UnmappedTopic>,
        /// How long the gateway has counted, in milliseconds.
        uptime_ms: u64,
    },
    /// Fields that were no readings.
    Skipped {
        /// Each device with its skipped fields.
        list: Vec<(String, DeviceSkips)>,
        /// How long the gateway has counted, in milliseconds.
        uptime_ms: u64,
    },
    /// The gateway that was asked, and its replicas.
    Gateway(Box<GatewayDescription>),
}

/// The answer to a [`ShardQuery`].
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum QueryAnswer {
    /// The windows that match, or a page of them.
    Windows(Scanned),
    /// This replica does not lead, or is retired and answers no question; the gateway named may lead.
    NotLeader {
        /// The leader's gateway number, as far as known.
        leader: Option<u16>,
        /// Who holds the shard in the latest configuration that this replica knows.
        replicas: ReplicaSet,
    },
    /// The leader could not confirm that it still leads, or too many questions came at once.
    Unavailable,
}

/// State transfer for a replica that fell too far behind. The receiver pulls, so that it sets the pace and a lost
/// message only costs a repetition.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum TransferMessage {
    /// From the leader: the receiver needs more than the leader holds in memory, and may ask for it.
    Behind,
    /// The receiver asks for chosen values.
    FetchLog {
        /// The first slot to send; later slots follow.
        from: u64,
    },
    /// Chosen values of consecutive slots.
    Log {
        /// The slot of the first value.
        from: u64,
        /// The values. None: from here on the leader has them in memory, and sends them by itself.
        values: Vec<selvedge_paxos::Value>,
    },
    /// The sender can give nothing just now: the receiver may ask again in a while.
    Wait,
    /// The answer to [`TransferMessage::FetchLog`] if the log does not reach back that far: the receiver may fetch
    /// a snapshot.
    Offer {
        /// The last slot that the snapshot covers.
        slot: u64,
        /// The length of the whole snapshot.
        bytes: u64,
        /// The CRC-32C checksum of the whole snapshot.
        crc: u32,
    },
    /// The receiver asks for a piece of the offered snapshot.
    FetchState {
        /// The last slot that the snapshot covers.
        slot: u64,
        /// The piece begins at this byte.
        offset: u64,
    },
    /// A piece of the snapshot.
    State {
        /// The last slot that the snapshot covers.
        slot: u64,
        /// The piece begins at this byte.
        offset: u64,
        /// At most [`TRANSFER_CHUNK_BYTES`]; empty at the snapshot's end.
        data: Vec<u8>,
    },
    /// The sender no longer holds the snapshot ready.
    Gone {
        /// The last slot that the snapshot covers.
        slot: u64,
    },
    /// A witness asks the leader up to which slot it may drop entries.
    FetchBase,
    /// The answer to [`TransferMessage::FetchBase`]: every full member of the sender's configuration has everything up
    /// to this slot on disk. So a witness may drop those entries, and go on behind the slot if it lacks them.
    Base {
        slot: u64,
        /// The sender's configuration, which begins at or below the slot; none if it is the first.
        configuration: Option<Configuration>,
    },
    /// The sender asks for the content of an uplink batch, which a snapshot only lists.
    FetchBatch { seq: u64 },
    /// The content of an uplink batch.
    Batch { seq: u64, answer: BatchAnswer },
}

/// A replica's answer about the content of an uplink batch. Only [`BatchAnswer::Lost`] counts towards giving the
/// batch up: neither silence nor doubt does.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum BatchAnswer {
    Here(Arc<[u8]>),
    /// The replica can't say: it has not cut the batch yet or has released it, or it can't read the file just now.
    Unsure,
    /// The replica's state lists the batch, but neither its memory nor its disk holds the whole content.
    Lost,
}

/// The largest piece of a snapshot in one message.
pub const TRANSFER_CHUNK_BYTES: usize = 64 * 1024;

/// The answer of a shard's replica to a forwarded batch.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum ForwardAnswer {
    /// The batch went through the log.
    Verdict {
        /// The slot in which it was chosen.
        slot: u64,
        verdict: BatchVerdict,
    },
    /// This replica does not lead; the gateway named may.
    NotLeader {
        /// The leader's gateway number, as far as this replica knows.
        leader: Option<u16>,
        /// Who holds the shard in the latest configuration that this replica knows. A retired replica knows the one
        /// that it has no part in.
        replicas: ReplicaSet,
    },
    /// The leader accepts nothing more now (its window, its outbox budget or its disk is full): send the batch
    /// again later.
    Busy { why: BusyReason },
}

/// The bound that keeps a leader from accepting more, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum BusyReason {
    /// Proposals that are not yet applied fill the group's window.
    Window,
    /// The leader's disk has no room, or that of a witness without which there is no majority.
    Disk,
    /// The outbox has reached its budget.
    Outbox,
}
