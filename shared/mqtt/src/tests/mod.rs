//! The connection byte by byte, and the listener with real clients.

mod attendant;
mod connection;
mod listener;
mod noise;
mod redirection;
mod rig;
mod router;
