//! The cloud node: hears the sites' uplinks, verifies and applies their batches exactly once, and answers
//! queries by HTTP and SQL.

pub mod logic;
pub mod store;
