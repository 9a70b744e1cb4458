//! The cores of the cloud node: what it lets in, what a transaction of its database does, what a query asks and is
//! answered, what sites report. None has a clock, a disk, a network or a database: each is given what happened and the
//! time, and says what is to be done. `Cargo.toml` lists nothing that does IO, and `clippy.toml` refuses what the
//! standard library has of it.
//!
//! - From the uplink: [`verify`] opens and checks a message, which is [`incoming`] then; [`stage`] judges those of one
//!   transaction by [`progress`], and gathers what they add to rows ([`stored`], [`rollup`]), to [`totals`] and to how
//!   far streams have come ([`passed`]).
//! - To whom asks: [`params`] reads a request and [`query`] what it asks of rows, with [`owner`], [`grid`] and
//!   [`fill`]; [`row`] and [`table`] are its answer, [`gaps`] that to another question. [`calls`] says what SQL may
//!   name.
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
pub mod sites;
pub mod stage;
pub mod stored;
pub mod table;
pub mod totals;
pub mod verify;
