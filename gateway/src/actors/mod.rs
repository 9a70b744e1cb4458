//! The IO: one actor per mailbox, each a thin adapter around a core of [`selvedge_fabric`].
//!
//! # What bounds the mailboxes
//! `do_send` puts a message into a mailbox however many are there. It is for messages whose number something else bounds. What is
//! left to others' pleasure is sent with `send().await`, which presses them back, or with `try_send`, whose failure has a meaning:
//!
//! | From, to | Messages | What bounds them |
//! |---|---|---|
//! | connections, forwarder | `Submit`, `Withdraw` | what a connection has unanswered ([`selvedge_mqtt::Limits`]), all of them together by the credit ([`selvedge_mqtt::credit`]); operators' orders by [`orders`] |
//! | connections, switch | `InterestChanged` | `try_send`: a switch that is behind looks by itself |
//! | connections, links | routed publishes | past the mailboxes: the link's lane drops its oldest and counts it ([`selvedge_fabric::link`]) |
//! | HTTP, switch | `Ask`, `AskTable` | `try_send`: too much is asked |
//! | broker, uplink | `FromBroker` | `send().await`: TCP presses the broker back |
//! | peers, switch | `FromPeer` | `send().await`: one frame of each peer, then TCP presses it back |
//! | switch, shards | `ShardEvents` of peers and of this gateway's questions | `try_send`: lost as on a link, which every protocol between replicas and gateways endures, and counted as `selvedge_shard_behind_total` |
//! | switch, shards and forwarder | who lives, clocks, room | what changed in 200 ms, or since a link changed |
//! | forwarder, shards | `ShardEvents` | [`selvedge_fabric::machine::MAX_INFLIGHT_BATCHES`] of each shard, again each [`selvedge_fabric::forward::RESEND_MS`] |
//! | shards and switch, forwarder | `Answered`, `LeaderIs`, `PublishWills` | one answer to each batch that was sent; one of each in a shard's turn |
//! | shards, switch and links | `ToPeers` | one in a shard's turn; the group's window ([`selvedge_paxos`]), and the links' lanes |
//! | shards, log, store and back | `Persist`, `LogSaid`, `Store`, `WorkDone` | one in a shard's turn, and one answer to each; [`selvedge_fabric::replica::MAX_LOADING_ENTRIES`] and [`selvedge_fabric::replica::MAX_SCANS_ENTRIES`] |
//! | uplink, shards and back | `LoadBatch`, `Confirmed`, `Loaded`, `ShardView` | the uplink's window ([`selvedge_fabric::uplink`]); confirmations of what is in it |
//! | uplink, switch and back | `Ask`, `SiteSaid` | [`selvedge_fabric::node_questions::MAX_QUESTIONS`] |
//! | links and their watch | `Attach`, `Connected`, `Disconnected`, `Refused`, `Cut`; `Lost` to itself | one of each in the life of a connection |
//! | report, uplink | `SendReport` | one in each interval |
//! | wiring, all | `ForwarderWays`, `SwitchWays`, `UplinkWays`, `LogWays` | once |

pub mod clock;
pub mod departures;
pub mod forwarder;
pub mod fullness;
pub mod http;
pub mod link;
pub mod log;
pub mod messages;
pub mod orders;
mod process;
mod pulse;
pub mod report;
pub mod room;
mod scrub;
pub mod shard;
pub mod supervisor;
pub mod switch;
pub mod uplink;
pub mod ways;
pub mod wiring;
