//! Protection of a program against strangers and careless neighbours: tokens ([`access`]), requests of web pages ([`browser`]),
//! files that only their owner reads ([`private`]), and logs that nobody can fill ([`log_limit`]).

pub mod access;
pub mod browser;
pub mod log_limit;
pub mod private;
