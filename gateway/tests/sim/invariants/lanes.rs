//! What the lanes of a link promise, checked against a plain model of one process's link to one peer:
//!
//! - a lane never holds more than its bounds,
//! - a message leaves its lane only into a frame, with its connection, or for a newer message of the *same* lane when
//!   that is full,
//! - the messages of a lane arrive in the order in which they were sent, each once, and no message that was not sent,
//! - a lane with waiting messages is passed over in only a bounded number of frames in a row,
//! - no frame is longer than a peer accepts.
//!
//! The model has one queue for each lane, independent of the others: any effect of one lane on another shows as a
//! difference.

use bincode::enc::write::SizeWriter;
use selvedge_fabric::link::{
    LANE_MESSAGES, Lane, Link, LinkCounts, MAX_MESSAGE_BYTES, MAX_PASSED_OVER_FRAMES, MAX_PEER_FRAME_BYTES,
};
use selvedge_fabric::peer::PeerMessage;
use std::collections::VecDeque;

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(usize, PeerMessage)>,
    bytes: usize,
    passed_over: u32,
}

#[derive(Default)]
pub struct Lanes {
    lanes: [Waiting; Lane::ALL.len()],
    /// The newest subscriptions, and whether the peer must still get them.
    interest: Option<PeerMessage>,
    interest_due: bool,
}

impl Lanes {
    /// The link was given this message.
    pub fn sent(&mut self, link: &Link, message: &PeerMessage, up: bool) {
        let lane = Lane::of(message);
        let size = encoded_bytes(message);
        if size > MAX_MESSAGE_BYTES {
            return;
        }
        if matches!(message, PeerMessage::Interest { .. }) {
            self.interest = Some(message.clone());
            self.interest_due = up;
        } else if up {
            let waiting = &mut self.lanes[lane as usize];
            while waiting.messages.len() >= LANE_MESSAGES || waiting.bytes + size > lane.most_bytes() {
                let Some((old, _)) = waiting.messages.pop_front() else { break };
                waiting.bytes -= old;
            }
            waiting.bytes += size;
            waiting.messages.push_back((size, message.clone()));
        }
        self.check(link);
    }

    /// Checks that each lane holds what it should, and no more than it may.
    pub fn check(&self, link: &Link) {
        for (lane, model) in Lane::ALL.into_iter().zip(&self.lanes) {
            let (messages, bytes) = link.waiting(lane);
            assert!(
                messages <= LANE_MESSAGES && (bytes <= lane.most_bytes() || messages == 1),
                "{messages} messages of {bytes} bytes wait in lane {lane:?}"
            );
            assert!(
                (messages, bytes) == (model.messages.len(), model.bytes),
                "lane {lane:?} holds {messages} messages of {bytes} bytes, not {} of {}: something else than the \
                 lane itself displaced what waited",
                model.messages.len(),
                model.bytes
            );
        }
    }

    /// There is a new connection.
    pub fn connected(&mut self) {
        self.interest_due = self.interest.is_some();
    }

    /// The connection is gone.
    pub fn lost(&mut self) {
        self.lanes = Default::default();
        self.interest_due = false;
    }

    /// The link made a frame. Returns what it should hold, lane by lane.
    pub fn took(&mut self, link: &Link, before: LinkCounts, frame: &[u8]) -> Vec<PeerMessage> {
        assert!(frame.len() <= MAX_PEER_FRAME_BYTES, "a frame of {} bytes", frame.len());
        let mut holds = Vec::new();
        for lane in Lane::ALL {
            let taken = link.counts().of(lane).sent - before.of(lane).sent;
            let model = &mut self.lanes[lane as usize];
            let interest_waited = lane == Lane::Subscribers && self.interest_due;
            let waited = interest_waited || !model.messages.is_empty();
            for n in 0..taken {
                if n == 0 && interest_waited {
                    self.interest_due = false;
                    holds.extend(self.interest.clone());
                    continue;
                }
                let next = model.messages.pop_front();
                let (size, message) = next.unwrap_or_else(|| panic!("lane {lane:?} sends what was not sent"));
                model.bytes -= size;
                holds.push(message);
            }
            model.passed_over = if waited && taken == 0 { model.passed_over + 1 } else { 0 };
            assert!(
                model.passed_over <= MAX_PASSED_OVER_FRAMES,
                "lane {lane:?} was passed over in {} frames in a row",
                model.passed_over
            );
        }
        self.check(link);
        holds
    }
}

/// Checks that a frame held what was put into it: the same messages of each lane, in the same order.
pub fn arrived(messages: &[PeerMessage], holds: &[PeerMessage]) {
    for lane in Lane::ALL {
        let of = |message: &&PeerMessage| Lane::of(message) == lane;
        assert!(
            messages.iter().filter(of).eq(holds.iter().filter(of)),
            "lane {lane:?} brings other messages than were sent, or in another order"
        );
    }
}

fn encoded_bytes(message: &PeerMessage) -> usize {
    let mut size = SizeWriter::default();
    bincode::encode_into_writer(message, &mut size, bincode::config::standard()).expect("it can be counted");
    size.bytes_written
}
