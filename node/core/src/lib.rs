//! The cores of the cloud node: verification of messages, the work of a database transaction, queries and their answers,
//! reports of sites. None of them has a clock, a disk, a network or a database: each receives an event and the time, and
//! returns what to do. `Cargo.toml` lists no crate that does IO, and `clippy.toml` forbids the IO of the standard library.
//!
//! - From the uplink: [`verify`] opens and checks a message, which is [`incoming`] then; [`stage`] judges those of one
//!   transaction by [`progress`], and gathers what they add to rows ([`stored`], [`rollup`]), to [`totals`] and to how
//!   far streams have come ([`passed`]).
//! - To whom asks: [`query`] reads what a request asks of rows, with [`params`], [`owner`], [`grid`] and [`fill`];
//!   [`series_rows`] makes rows from what is read of a series; [`row`] and [`table`] are the answer, [`gaps`] that to another
//!   question. [`calls`] says what SQL may name.
//! - Of the sites themselves: [`sites`] keeps their reports, [`questions`] what they are asked.

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
pub mod series_rows;
pub mod sites;
pub mod stage;
pub mod stored;
pub mod table;
pub mod totals;
pub mod verify;
