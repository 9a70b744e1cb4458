//! What keeps strangers and careless neighbours off a program: who may ask ([`access`]), which pages may ([`browser`]), files that
//! only their owner reads ([`private`]), and logs that nobody can fill ([`log_limit`]).

pub mod access;
pub mod browser;
pub mod log_limit;
pub mod private;
