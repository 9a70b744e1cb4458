//! The answers that a connection owes its client (PUBACK, PUBREC, PUBCOMP), in the order of the client's packets.
//!
//! Invariant: tokens ascend; an entry leaves only from the front, and only when it is answered.

use selvedge_types::canary::{self, Canary};
use selvedge_types::mqtt::{Ack, AckCode, AckNote};
use std::collections::VecDeque;
use std::num::NonZeroU16;

/// How an entry is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyKind {
    Ack,
    Received,
    Complete,
}

/// An answer that the connection owes its client, in its place in the order.
#[derive(Debug)]
pub(super) struct Owed {
    pub token: u64,
    pub packet_id: NonZeroU16,
    pub kind: ReplyKind,
    pub code: AckCode,
    pub note: Option<Box<AckNote>>,
    pub done: bool,
    /// How large what is answered is.
    bytes: u32,
}

/// First in, first out.
#[derive(Debug, Default)]
pub(super) struct Answers {
    owed: VecDeque<Owed>,
    bytes: usize,
}

impl Answers {
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    /// How large all that is to be answered is, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Owes an answer to what is so large; `done`: it is known already and waits for its turn alone.
    pub fn owe(&mut self, token: u64, packet_id: NonZeroU16, kind: ReplyKind, bytes: usize, done: bool) {
        debug_assert!(self.owed.back().is_none_or(|last| last.token < token));
        self.bytes += bytes;
        // No packet is larger than a length of MQTT can say.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.owed.push_back(Owed { token, packet_id, kind, code: AckCode::Kept, note: None, done, bytes });
    }

    /// Notes an answer; one to a token that is not open is ignored.
    pub fn note(&mut self, ack: Ack) {
        if let Ok(at) = self.owed.binary_search_by_key(&ack.token, |owed| owed.token)
            && let Some(owed) = self.owed.get_mut(at)
            && !owed.done
        {
            owed.done = true;
            owed.code = ack.code;
            owed.note = ack.note;
        }
    }

    /// The next that may leave.
    pub fn pop_done(&mut self) -> Option<Owed> {
        let owed = match canary::makes(Canary::AnsweredAsSettled) {
            true => self.owed.iter().position(|owed| owed.done).and_then(|at| self.owed.remove(at))?,
            false => self.owed.pop_front_if(|owed| owed.done)?,
        };
        self.bytes -= owed.bytes as usize;
        Some(owed)
    }

    /// Whether an answer of this kind is owed for this packet id.
    pub fn owes(&self, packet_id: NonZeroU16, kind: ReplyKind) -> bool {
        self.owed.iter().any(|owed| owed.packet_id == packet_id && owed.kind == kind)
    }
}
