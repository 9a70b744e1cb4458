//! What waits to be sent to one peer: bounded in bytes and in messages, oldest out first.

use super::{MAX_MESSAGE_BYTES, QUEUE_BYTES, QUEUE_MESSAGES};
use crate::logic::peer::PeerMessage;
use bincode::enc::write::SizeWriter;
use std::collections::VecDeque;

/// A message that no frame could hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// With their sizes as encoded.
    messages: VecDeque<(usize, PeerMessage)>,
    bytes: usize,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many bytes wait, as encoded.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a message in and says how many older ones had to leave for it.
    pub fn push(&mut self, message: PeerMessage) -> Result<usize, TooLong> {
        let size = encoded_bytes(&message);
        if size > MAX_MESSAGE_BYTES {
            return Err(TooLong);
        }
        let mut dropped = 0;
        while self.messages.len() >= QUEUE_MESSAGES || self.bytes + size > QUEUE_BYTES {
            let Some((old, _)) = self.messages.pop_front() else { break };
            self.bytes -= old;
            dropped += 1;
        }
        self.bytes += size;
        self.messages.push_back((size, message));
        Ok(dropped)
    }

    /// The oldest messages: as many as stay within `bytes`, but at least one if there is one.
    pub fn take(&mut self, bytes: usize) -> Vec<PeerMessage> {
        let mut out = Vec::new();
        let mut taken = 0;
        while let Some(&(size, _)) = self.messages.front() {
            if !out.is_empty() && taken + size > bytes {
                break;
            }
            taken += size;
            out.extend(self.messages.pop_front().map(|(_, message)| message));
        }
        self.bytes -= taken;
        out
    }

    /// Drops everything and says how many messages that were.
    pub fn clear(&mut self) -> usize {
        let count = self.messages.len();
        *self = Self::default();
        count
    }
}

/// How many bytes a message takes within a frame.
fn encoded_bytes(message: &PeerMessage) -> usize {
    let mut size = SizeWriter::default();
    match bincode::encode_into_writer(message, &mut size, bincode::config::standard()) {
        Ok(()) => size.bytes_written,
        Err(_) => usize::MAX, // counting does not fail
    }
}
