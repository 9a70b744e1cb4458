//! Sans-IO cores of the node: what was applied, what a query asks. No clock, no network, no disk.

pub mod progress;
