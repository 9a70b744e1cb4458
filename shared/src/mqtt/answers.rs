//! What is owed to the client, in the order in which it asked: PUBACK, PUBREC and PUBCOMP.
//!
//! Invariant: tokens ascend; an entry leaves only from the front, and only when it is answered.

use super::event::{Ack, AckCode, AckNote};
use std::collections::VecDeque;
use std::num::NonZeroU16;

/// How an entry is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// PUBACK.
    Ack,
    /// PUBREC.
    Received,
    /// PUBCOMP.
    Complete,
}

/// One answer owed.
#[derive(Debug)]
pub(super) struct Owed {
    pub token: u64,
    pub packet_id: NonZeroU16,
    pub kind: Kind,
    pub code: AckCode,
    pub note: Option<Box<AckNote>>,
    pub done: bool,
}

/// First in, first out.
#[derive(Debug, Default)]
pub(super) struct Answers(VecDeque<Owed>);

impl Answers {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Owes an answer; `done`: it is known already and waits for its turn alone.
    pub fn owe(&mut self, token: u64, packet_id: NonZeroU16, kind: Kind, done: bool) {
        debug_assert!(self.0.back().is_none_or(|last| last.token < token));
        self.0.push_back(Owed { token, packet_id, kind, code: AckCode::Kept, note: None, done });
    }

    /// Notes an answer; one to a token that is not open is ignored.
    pub fn note(&mut self, ack: Ack) {
        if let Ok(at) = self.0.binary_search_by_key(&ack.token, |owed| owed.token)
            && let Some(owed) = self.0.get_mut(at)
            && !owed.done
        {
            owed.done = true;
            owed.code = ack.code;
            owed.note = ack.note;
        }
    }

    /// The next that may leave.
    pub fn pop_done(&mut self) -> Option<Owed> {
        if self.0.front()?.done { self.0.pop_front() } else { None }
    }

    /// Whether an answer of this kind is owed for this packet id.
    pub fn owes(&self, packet_id: NonZeroU16, kind: Kind) -> bool {
        self.0.iter().any(|owed| owed.packet_id == packet_id && owed.kind == kind)
    }
}
