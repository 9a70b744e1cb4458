//! A Selvedge gateway: takes readings from devices over MQTT, replicates them within its site, aggregates
//! them into windows and sends the results to cloud nodes.
//!
//! [`logic`] holds the protocols and the state as sans-IO cores, [`wal`] the durable log,
//! [`storage`] what is kept on disk as one, [`actors`] the IO.

pub mod actors;
mod descriptors;
pub mod identity;
pub mod logic;
mod program;
pub mod settings;
pub mod storage;
pub mod wal;

pub use program::run;
