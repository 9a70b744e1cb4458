//! Simulated devices: they measure, publish over MQTT until a gateway acknowledges, and keep a ledger of
//! what was published and acknowledged, so that a whole site can be held to account.
//!
//! [`device`] and [`session`] are the sans-IO cores, [`client`] is their IO, [`fleet`] runs many of them,
//! which report on a [`board`], [`ledger`] is what they say, [`reckoning`] compares that with what a node has counted, and [`gaps`] is how
//! long they went without an acknowledgement. [`bench`](mod@bench) is another kind of device: one that measures.

pub mod bench;
pub mod board;
pub mod client;
pub mod device;
pub mod faults;
pub mod fleet;
pub mod gaps;
pub mod ledger;
pub mod payload;
pub mod reckoning;
pub mod replay;
pub mod sensors;
pub mod session;
pub mod settings;
