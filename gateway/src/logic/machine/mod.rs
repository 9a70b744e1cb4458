//! (essay to be written)

mod command;

pub use command::*;
