//! Sans-IO cores of the node: what is let in, what was applied, what a query asks. No clock, no network, no disk.

pub mod progress;
pub mod query;
pub mod verify;
