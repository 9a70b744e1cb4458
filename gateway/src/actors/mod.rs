//! The IO: one actor per mailbox, each a thin adapter around a core of [`crate::logic`].

pub mod link;
