//! What two Selvedge programs must agree on, and nothing else: names, times, readings and aggregates,
//! the frames and seals they exchange, how they read their settings, and the MQTT endpoint that
//! gateway and node both embed.

pub mod access;
pub mod aggregate;
pub mod balance;
pub mod browser;
pub mod canary;
pub mod config;
pub mod exact;
pub mod frame;
pub mod ids;
pub mod log_limit;
pub mod mqtt;
pub mod pattern;
pub mod private;
pub mod question;
pub mod report;
pub mod seal;
pub mod sequences;
pub mod sketch;
pub mod sparkplug;
mod spread;
pub mod time;
pub mod topic;
pub mod uplink;
