//! The IO: one actor per mailbox, each a thin adapter around a core of [`selvedge_fabric`].
//!
//! # What bounds the mailboxes
//! `do_send` puts a message into a mailbox no matter how many are there. It is for messages whose number something else
//! bounds. Messages whose number others decide are sent with `send().await`, which applies backpressure, or with
//! `try_send`, whose failure has a meaning:
//!
//! | From, to | Messages | What bounds them |
//! |---|---|---|
//! | connections, forwarder | `Submit`, `Withdraw` | a connection's unanswered packets ([`selvedge_mqtt::ConnectionLimits`]); all connections together: the credit ([`selvedge_mqtt::credit`]); operators' orders: [`orders`] |
//! | connections, switch | `InterestChanged` | `try_send`: the switch also checks by itself |
//! | connections, links | routed publishes | they bypass the mailboxes: the link's lane drops its oldest and counts it ([`selvedge_fabric::link`]) |
//! | HTTP, switch | `Ask`, `AskTable` | `try_send`: a failure means that too many questions are open |
//! | broker, uplink | `FromBroker` | `send().await`: TCP slows the broker down |
//! | switch, describer | `Describe` | `try_send`: the gateway that asks counts a missing answer |
//! | describer, switch | `ToPeers` | one for each `Describe`, one at a time |
//! | peers, switch | `FromPeer` | `send().await`: one frame of each peer, then TCP slows it down |
//! | switch, shards | `ShardEvents` of peers and of this gateway's questions | `try_send`: a failure loses them as a link may, which every protocol between replicas and gateways tolerates; it is counted as `selvedge_shard_behind_total` |
//! | switch, shards and forwarder | which gateways are up, clocks, room | one change in 200 ms, and one for each change of a link |
//! | directory, forwarder and switch | `PlacementChanged` | one for each change of the directory |
//! | links, admission | `AskToJoin` | one for each unauthenticated connection ([`link::MAX_UNAUTHENTICATED_CONNECTIONS`]) |
//! | steward, host, shards and forwarder | `HoldReplica`, `ShardEvents` of moves, orders | one of each for each shard in a second ([`selvedge_fabric::steward::AGAIN_MS`]); orders: [`orders`] |
//! | shards, steward | `ReplicaIs`, `DirectoryIs` | one in a shard's turn, when its configuration, its leadership or the directory changed |
//! | host, log and switch | `ReplicaMade` | one for each replica that is made |
//! | forwarder, shards | `ShardEvents` | [`selvedge_fabric::machine::MAX_INFLIGHT_BATCHES`] of each shard, sent again every [`selvedge_fabric::forward::RESEND_MS`] |
//! | shards and switch, forwarder | `Answered`, `LeaderIs`, `PublishWills` | one answer to each batch that was sent; one of each kind in a shard's turn |
//! | shards, switch and links | `ToPeers` | one in a shard's turn; the group's window ([`selvedge_paxos`]) and the links' lanes |
//! | shards, log, store and back | `Persist`, `LogSaid`, `Store`, `WorkDone` | one in a shard's turn, and one answer to each; [`selvedge_fabric::replica::MAX_LOADING_ENTRIES`] and [`selvedge_fabric::replica::MAX_SCANS_ENTRIES`] |
//! | uplink, shards and back | `LoadBatch`, `Confirmed`, `Loaded`, `ShardView` | the uplink's window ([`selvedge_fabric::uplink`]); confirmations of batches in it |
//! | uplink, switch and back | `Ask`, `SiteSaid` | [`selvedge_fabric::node_questions::MAX_QUESTIONS`] |
//! | links and their watch | `Attach`, `PeerConnected`, `PeerDisconnected`, `PeerRefused`, `Cut`; `Lost` to itself | one of each in the life of a connection |
//! | redirector, switch | `GetPeers`, `AskTable` | it waits for the answer, or `try_send`: one question to each gateway in [`redirector`]'s interval |
//! | report, uplink | `SendReport` | one in each interval |
//! | host, log and switch | `ReplicaMade` | one for each replica that is made ([`replicas::MAX_REPLICAS_ENTRIES`]) |
//! | wiring, all | `ForwarderWays`, `SwitchWays`, `UplinkWays` | once |

pub mod admission;
pub mod clock;
pub mod departures;
mod describer;
pub mod directory_copy;
mod directory_orders;
pub mod forwarder;
pub mod fullness;
pub mod host;
pub mod http;
pub mod link;
pub mod log;
pub mod messages;
pub mod metric_help;
pub mod orders;
mod process;
mod pulse;
pub mod redirector;
pub mod replicas;
pub mod report;
pub mod room;
mod scrub;
pub mod shard;
pub mod steward;
pub mod supervisor;
pub mod switch;
pub mod uplink;
pub mod ways;
pub mod wiring;
