//! Sans-IO cores of the node: what is let in, what was applied, what is rolled up, what a query
//! asks. No clock, no network, no disk.

pub mod calls;
pub mod fill;
pub mod gaps;
pub mod grid;
pub mod incoming;
pub mod owner;
pub mod params;
pub mod passed;
pub mod progress;
pub mod query;
pub mod questions;
pub mod rollup;
pub mod row;
pub mod sites;
pub mod stage;
pub mod stored;
pub mod table;
pub mod totals;
pub mod verify;

