//! The cloud node: receives the sites' batches, verifies them, applies each exactly once, and answers queries over HTTP and
//! SQL.
//!
//! What the node decides, it decides in the crate [`selvedge_node_core`], which knows no clock, disk or network. The way
//! of a batch: [`uplink`] hears it, [`verify`](selvedge_node_core::verify) opens and checks it, [`apply`] queues it and
//! gives it with others to the [`store`], which counts it once ([`progress`](selvedge_node_core::progress)) in one
//! transaction; the cursor that follows from it goes back through [`uplink`]. The [`api`] only reads. What the sites
//! report of themselves, and what they are asked, goes through [`sites`]. The pages of [`web`] show a person what the
//! API answers.

pub mod api;
pub mod apply;
pub mod broker;
pub mod lake;
pub mod live;
pub mod node;
mod program;
pub mod settings;
pub mod sites;
pub mod stats;
pub mod store;
mod token;
pub mod uplink;
pub mod web;

pub use program::run;
pub use store::sql_worker::ARGUMENT as SQL_WORKER;
