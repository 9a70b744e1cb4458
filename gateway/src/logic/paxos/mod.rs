//! (essay to be written)

mod acceptor;
mod campaign;
mod config;
mod effects;
mod election;
mod group;
mod leader;
mod log;
mod message;
mod reign;
mod repair;

pub use config::{ConfigError, GroupConfig, Limits, MAX_MEMBERS, MAX_RESEND_DOUBLINGS, Recovered};
pub use effects::{Effects, Event, ProposeError, Role};
pub use group::Group;
pub use message::{Ballot, Entry, MAX_COUNT, Message, Record, Slot, Value};
