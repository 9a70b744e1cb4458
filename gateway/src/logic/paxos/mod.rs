//! (essay to be written)

mod acceptor;
mod group;
mod leader;
mod message;

pub use group::*;
pub use message::*;
