//! What all Selvedge programs agree on: names, times, readings and aggregates, the frames that they exchange, and what an
//! MQTT endpoint and its application say to each other. Values alone: no clock, no randomness, no files, no sockets.

pub mod aggregate;
pub mod balance;
pub mod canary;
pub mod exact;
pub mod frame;
pub mod ids;
pub mod mqtt;
pub mod params;
pub mod pattern;
pub mod problem;
pub mod question;
pub mod recovery;
pub mod report;
pub mod sealed;
pub mod sequences;
pub mod site_window;
pub mod sketch;
pub mod sparkplug;
mod spread;
pub mod time;
pub mod topic;
pub mod uplink;
pub mod window_query;
