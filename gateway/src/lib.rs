//! A Selvedge gateway: takes readings from devices over MQTT, replicates them within its site, aggregates them into
//! windows and sends the results to cloud nodes.
//!
//! The protocols and the state are sans-IO cores in crates of their own (`selvedge-paxos`, `selvedge-fabric`), and so
//! is the durable log (`selvedge-log`). This crate is the program around them: [`actors`] do the IO, and [`front`]
//! stands between the MQTT connections and the cores.

pub mod actors;
pub mod admission;
mod departures;
mod descriptors;
pub mod front;
pub mod identity;
mod program;
mod recovery;
pub mod settings;
pub mod static_key;

pub use program::run;
