//! Messages that wait to be sent to one peer: a bounded lane for each kind of traffic, written in the order of
//! their priority.
//!
//! A frame takes messages from the lanes in the order of [`Lane::ALL`] until it is full. A lane that got no place
//! in [`MAX_PASSED_OVER_FRAMES`] frames in a row goes first in the next one, with one message: so the lower lanes
//! slow down but never stall. Bulk fills no more than [`BULK_FRAME_BYTES`] of a frame, because messages that arrive
//! while a frame is being sent wait for its end.
//!
//! A full lane drops its own oldest message, never one of another lane. A gateway's subscriptions
//! ([`PeerMessage::Interest`]) are a state rather than a message: the newest one replaces the one that waits, and
//! each new connection sends it again.

use super::{LaneCounts, LinkCounts, MAX_MESSAGE_BYTES};
use crate::peer::PeerMessage;
use bincode::enc::write::SizeWriter;
use selvedge_types::canary::{self, Canary};
use std::collections::VecDeque;

/// The most messages that wait in one lane.
pub const LANE_MESSAGES: usize = 16 * 1024;

/// A lane that got no place in this many frames in a row goes first in the next.
pub const MAX_PASSED_OVER_FRAMES: u32 = 4;

/// The most that bulk fills of a frame, unless a single message is longer, in bytes.
pub const BULK_FRAME_BYTES: usize = 64 * 1024;

const MIB: usize = 1024 * 1024;

/// A kind of traffic between gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The messages of the Paxos groups.
    Consensus,
    /// Batches of what devices sent, on their way to leaders, and the answers.
    Forwarding,
    /// Questions of people and programs, and the answers.
    Questions,
    /// Messages that take a detour: those to pass on, and those that this gateway passes on for others.
    Detours,
    /// The filters of subscribers, and the publishes for them.
    Subscribers,
    /// Snapshots, pieces of the log and contents of batches.
    Bulk,
}

impl Lane {
    /// All lanes, by priority.
    pub const ALL: [Self; 6] =
        [Self::Consensus, Self::Forwarding, Self::Questions, Self::Detours, Self::Subscribers, Self::Bulk];

    /// The lane that a message belongs to.
    pub fn of(message: &PeerMessage) -> Self {
        match message {
            PeerMessage::Paxos { .. } | PeerMessage::Superseded { .. } => Self::Consensus,
            PeerMessage::Forward { .. }
            | PeerMessage::Forwarded { .. }
            | PeerMessage::Evict { .. }
            | PeerMessage::EvictAll { .. } => Self::Forwarding,
            PeerMessage::Query { .. }
            | PeerMessage::Answer { .. }
            | PeerMessage::AskTable { .. }
            | PeerMessage::TableAnswer { .. } => Self::Questions,
            PeerMessage::Detour { .. } | PeerMessage::Detoured { .. } => Self::Detours,
            PeerMessage::Interest { .. } | PeerMessage::Route { .. } | PeerMessage::Taken { .. } => {
                Self::Subscribers
            }
            PeerMessage::Transfer { .. } => Self::Bulk,
        }
    }

    /// The lane's name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Consensus => "consensus",
            Self::Forwarding => "forwarding",
            Self::Questions => "questions",
            Self::Detours => "detours",
            Self::Subscribers => "subscribers",
            Self::Bulk => "bulk",
        }
    }

    /// The most bytes, as encoded, that wait in the lane; a single message may be longer.
    pub fn most_bytes(self) -> usize {
        match self {
            Self::Consensus | Self::Forwarding | Self::Detours | Self::Subscribers => 4 * MIB,
            Self::Questions => MIB,
            Self::Bulk => 2 * MIB,
        }
    }
}

/// The messages of one lane with their encoded sizes.
#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<(usize, PeerMessage)>,
    bytes: usize,
    /// Frames in a row in which the lane got no place.
    passed_over: u32,
}

/// A frame that is being filled.
#[derive(Debug, Default)]
struct Filling {
    messages: Vec<PeerMessage>,
    bytes: usize,
}

impl Filling {
    fn has_room(&self, size: usize, most_bytes: usize) -> bool {
        self.messages.is_empty() || self.bytes + size <= most_bytes
    }

    fn add(&mut self, size: usize, message: PeerMessage) {
        self.bytes += size;
        self.messages.push(message);
    }
}

#[derive(Debug, Default)]
pub(super) struct LinkQueue {
    lanes: [Waiting; Lane::ALL.len()],
    /// The newest subscriptions, with their encoded size.
    interest: Option<(usize, PeerMessage)>,
    /// Whether the peer has yet to receive them.
    interest_due: bool,
}

impl LinkQueue {
    pub fn is_empty(&self) -> bool {
        !self.interest_due && self.lanes.iter().all(|lane| lane.messages.is_empty())
    }

    /// How many messages wait in a lane, and how many bytes as encoded.
    pub fn waiting(&self, lane: Lane) -> (usize, usize) {
        let waiting = &self.lanes[lane as usize];
        (waiting.messages.len(), waiting.bytes)
    }

    /// How many bytes wait, as encoded.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.bytes).sum()
    }

    /// Takes a message in; older ones of its lane may be dropped for it.
    pub fn push(&mut self, message: PeerMessage, counts: &mut LinkCounts) {
        let lane = Lane::of(&message);
        let counts = counts.of_mut(lane);
        let size = encoded_bytes(&message);
        if size > MAX_MESSAGE_BYTES {
            counts.dropped_long += 1;
        } else if matches!(message, PeerMessage::Interest { .. }) {
            counts.replaced += u64::from(std::mem::replace(&mut self.interest_due, true));
            self.interest = Some((size, message));
        } else {
            if canary::makes(Canary::LanesShared) {
                self.make_room_anywhere(size, lane.most_bytes());
            }
            self.lanes[lane as usize].push(size, message, lane.most_bytes(), counts);
        }
    }

    /// The mistake of [`Canary::LanesShared`]: one bound for all lanes.
    fn make_room_anywhere(&mut self, size: usize, most_bytes: usize) {
        while self.lanes.iter().map(|lane| lane.bytes).sum::<usize>() + size > most_bytes {
            let Some(first) = self.lanes.iter_mut().find(|lane| !lane.messages.is_empty()) else { break };
            let dropped = first.messages.pop_front().map_or(0, |(size, _)| size);
            first.bytes -= dropped;
        }
    }

    /// Drops a message for a peer that can't be reached, but keeps the subscriptions, which the next connection
    /// sends.
    pub fn push_down(&mut self, message: PeerMessage, counts: &mut LinkCounts) {
        match message {
            PeerMessage::Interest { .. } => {
                self.push(message, counts);
                self.interest_due = false;
            }
            message => counts.of_mut(Lane::of(&message)).dropped_down += 1,
        }
    }

    /// A new connection begins: the peer must receive the subscriptions, because the old connection may have lost
    /// them.
    pub fn connected(&mut self) {
        self.interest_due = self.interest.is_some();
    }

    /// The messages for the next frame: about `bytes`, but at least one message if there is one.
    pub fn take(&mut self, bytes: usize, counts: &mut LinkCounts) -> Vec<PeerMessage> {
        let mut frame = Filling::default();
        let before = counts.sent();
        for lane in Lane::ALL {
            if self.lanes[lane as usize].passed_over >= MAX_PASSED_OVER_FRAMES {
                self.move_one(lane, MAX_MESSAGE_BYTES, &mut frame, counts);
            }
        }
        for lane in Lane::ALL {
            let most_bytes = match lane {
                Lane::Bulk => bytes.min(frame.bytes + BULK_FRAME_BYTES),
                _ => bytes,
            };
            while self.move_one(lane, most_bytes, &mut frame, counts) {}
        }
        let lanes = self.lanes.iter_mut().zip(Lane::ALL).zip(before);
        for ((waiting, lane), before) in lanes {
            let waits = !waiting.messages.is_empty() || (lane == Lane::Subscribers && self.interest_due);
            let passed_over = waits && counts.of(lane).sent == before;
            waiting.passed_over = if passed_over { waiting.passed_over + 1 } else { 0 };
        }
        frame.messages
    }

    /// Moves a lane's next message into the frame, if that has room for it.
    fn move_one(
        &mut self,
        lane: Lane,
        most_bytes: usize,
        frame: &mut Filling,
        counts: &mut LinkCounts,
    ) -> bool {
        if let Some((size, interest)) =
            self.interest.as_ref().filter(|_| lane == Lane::Subscribers && self.interest_due)
        {
            if !frame.has_room(*size, most_bytes) {
                return false;
            }
            frame.add(*size, interest.clone());
            self.interest_due = false;
            counts.of_mut(lane).sent += 1;
            return true;
        }
        let waiting = &mut self.lanes[lane as usize];
        let Some((size, _)) = waiting.messages.front().filter(|(size, _)| frame.has_room(*size, most_bytes))
        else {
            return false;
        };
        waiting.bytes -= size;
        if let Some((size, message)) = waiting.messages.pop_front() {
            frame.add(size, message);
        }
        counts.of_mut(lane).sent += 1;
        true
    }

    /// Drops all waiting messages.
    pub fn clear(&mut self, counts: &mut LinkCounts) {
        for (waiting, lane) in self.lanes.iter_mut().zip(Lane::ALL) {
            counts.of_mut(lane).dropped_down += waiting.messages.len() as u64;
            *waiting = Waiting::default();
        }
        self.interest_due = false;
    }
}

impl Waiting {
    fn push(&mut self, size: usize, message: PeerMessage, most_bytes: usize, counts: &mut LaneCounts) {
        while self.messages.len() >= LANE_MESSAGES || self.bytes + size > most_bytes {
            let Some((old, _)) = self.messages.pop_front() else { break };
            self.bytes -= old;
            counts.dropped_full += 1;
        }
        self.bytes += size;
        self.messages.push_back((size, message));
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
