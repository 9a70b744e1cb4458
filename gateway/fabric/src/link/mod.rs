//! Peer links: one connection for each pair of gateways, and the protocol on it.
//!
//! # Protocol
//!
//! Two gateways of a site share one TCP connection. **Either end may dial**: the one with the lower id at once, the other
//! one after [`DIAL_BACK_MS`] without a link. So a link needs only one address that is right and one direction that a
//! firewall lets through, and a gateway that was removed hears why it has no links. On the connection:
//!
//! 1. Four bytes, `SVL` and [`WIRE_VERSION`], then the three messages of `Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s` with
//!    empty payloads. The pre-shared key is derived from the site secret, so both ends prove that they know it; the
//!    ephemeral keys give every connection new keys; the static keys authenticate the gateways, and only an end that
//!    knows the secret can see them. The four bytes are the Noise prologue, so they can't be changed on the way.
//! 2. From here on, everything is a frame: four bytes of length (little-endian) and a body, cut into Noise messages
//!    of at most 65,535 bytes, each behind two bytes of length (big-endian). The frame's length is encrypted; a
//!    Noise message's length only hints at where its tag is.
//! 3. The dialler sends [`Greeting::Hello`]. The acceptor checks it and sends [`Greeting::Welcome`]; the dialler
//!    checks that and sends [`Greeting::Ready`]. Either may send [`Greeting::Refused`] with a reason instead, which
//!    both ends log. Each end has the other's incarnation and key on disk before it sends its own consent (see [`admit`]).
//! 4. [`PeerFrame`]s both ways, until the connection ends.
//!
//! If both dial at once, one connection stays, and both ends choose the same one without asking ([`Link::takes`]): that
//! which the lower id dialled stays, or comes in place of the other one; of two that the same end dialled, the later one,
//! since an end dials only when it has none; and the connection to a later start of the peer's process in any case.
//!
//! A new box that has no id yet sends [`Greeting::Join`] instead of a Hello, and gets one answer
//! ([`Greeting::Admitted`], [`Greeting::Later`] or [`Greeting::Refused`]), after which the connection ends.
//!
//! The first message can be replayed. So an acceptor counts a dialler as authenticated only after the third one, which
//! depends on the acceptor's fresh ephemeral key and on the dialler's static key.
//!
//! [`Link`] is the core of one link: a bounded queue with a lane for each kind of traffic ([`Lane`]), whose
//! messages become frames whenever the connection can take one. All messages queued at that moment share a frame
//! (up to [`FRAME_TARGET_BYTES`]). So a message on an idle link leaves at once and alone, and on a busy link the
//! batch grows with the load, without a timer. A frame without messages is a heartbeat; it is sent only when
//! nothing else has left for [`HEARTBEAT_MS`].
//!
//! # Guarantees
//!
//! **A link may lose messages, but never invents or repeats them, nor reorders those of a lane.** While it is down
//! it keeps only the subscriptions that the peer must know; a full lane drops its oldest messages, and counts them.
//! That is safe for everything that a link carries: Paxos assumes a lossy network, and a forwarded batch is kept by
//! its origin until it is answered.
//!
//! Gateways come and go while the site serves ([`PeerList`]). The link to a removed one ends for good, whatever waited
//! in it is dropped, and its Hello is answered with [`Greeting::Removed`].
//!
//! Invariant: at most [`Lane::most_bytes`] (as encoded; or one message) and [`LANE_MESSAGES`] wait in a lane.
//! Invariant: only a message of the same lane displaces a message. Only its own lane and the lanes before it keep
//! it waiting, and, from each lane behind it, one message in [`MAX_PASSED_OVER_FRAMES`] frames and whatever a frame
//! still has room for.
//! Invariant: no frame is longer than [`MAX_PEER_FRAME_BYTES`]; reading a longer one ends the connection.
//! Invariant: no message of a peer is delivered before its incarnation was admitted and is on disk.
//!
//! Left out: rekeying (a Noise key is good for 2^64 - 1 messages, which a link that sends a million each second
//! uses up in 580,000 years; a connection that gets there ends), compression, and a second connection for bulk.
//!
//! Sources: The Noise Protocol Framework, revision 34, sections 5, 7.5, 7.8, 9, 11.2 and 14.

mod hello;
mod incarnation;
mod join;
mod peers;
mod queue;

pub use hello::*;
pub use incarnation::{Incarnation, Mark};
pub use join::{JOIN_WAIT_MS, JoinAnswer, JoinQuestion, JoinToken, MAX_JOIN_ANSWER_BYTES};
pub use peers::{KnownPeer, MAX_REMOVED_PEERS_ENTRIES, PeerList, PeerListChange, TooManyPeers};
use queue::LinkQueue;
pub use queue::{BULK_FRAME_BYTES, LANE_MESSAGES, Lane, MAX_PASSED_OVER_FRAMES};

use crate::agreement::ClockNote;
use crate::peer::PeerMessage;
use crate::ring::MAX_GATEWAYS;
use bincode::{Decode, Encode};
use selvedge_types::frame::{self, FrameError};
use selvedge_types::ids::GatewayId;
use std::sync::Arc;

/// Version of the four bytes, the Noise pattern and the framing.
pub const WIRE_VERSION: u8 = 2;

/// The first bytes that a dialler sends; also the Noise prologue.
pub const PREAMBLE: [u8; 4] = [b'S', b'V', b'L', WIRE_VERSION];

/// The first bytes of a dialler whose release has no static keys; its handshake is `NNpsk0`. It is answered only with a
/// refusal that gives the reason.
pub const KEYLESS_PREAMBLE: [u8; 4] = *b"SVL\x01";

/// Format version of [`PeerFrame`].
pub const PEER_FRAME_VERSION: u8 = 10;

/// The longest frame, in bytes.
pub const MAX_PEER_FRAME_BYTES: usize = 4 * 1024 * 1024;

/// The longest message, in bytes as encoded: it still fits into a frame of its own.
pub const MAX_MESSAGE_BYTES: usize = MAX_PEER_FRAME_BYTES - 64 - UP_BYTES;

/// The most bytes of the gateways that a frame says are up.
const UP_BYTES: usize = 1 + 3 * MAX_GATEWAYS;

/// A frame takes no further message once it has this many bytes: large enough to make the cost of a frame
/// vanish, small enough that the receiver works on one while the next is under way.
pub const FRAME_TARGET_BYTES: usize = 256 * 1024;

/// A heartbeat is sent after this long without a frame, in milliseconds.
pub const HEARTBEAT_MS: u64 = 100;

/// The longest handshake, from the first byte to [`Greeting::Ready`], in milliseconds: long enough for an fsync on
/// slow flash.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 2_000;

/// How long a dialler waits for a TCP connection, in milliseconds.
pub const CONNECT_TIMEOUT_MS: u64 = 1_000;

/// The first wait between two attempts to dial, in milliseconds; it doubles with each further attempt.
pub const REDIAL_MIN_MS: u64 = 50;

/// The longest wait between two attempts to dial, in milliseconds.
pub const REDIAL_MAX_MS: u64 = 1_000;

/// How long the end with the higher id waits for a link before it dials, in milliseconds: if the other end can dial, its
/// next attempt comes before.
pub const DIAL_BACK_MS: u64 = 2 * REDIAL_MAX_MS;

/// The content of one frame: the sender's state, and messages.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub struct PeerFrame {
    /// The sender's clocks when it made the frame, so that gateways know how far apart their clocks are.
    pub clocks: ClockNote,
    /// The sender's disk has no room: it should lead only if no other can.
    pub full: bool,
    /// The gateways that the sender has up, itself included.
    pub up: Arc<[GatewayId]>,
    /// In the order in which they were sent; empty for a heartbeat.
    pub messages: Vec<PeerMessage>,
}

impl PeerFrame {
    /// Encodes the frame, with its version and a checksum.
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(PEER_FRAME_VERSION, self)
    }

    /// Decodes a frame as [`PeerFrame::encode`] makes it.
    ///
    /// # Errors
    /// Returned if the frame is damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        frame::decode("peer frame", PEER_FRAME_VERSION, bytes)
    }
}

/// The phases of a link's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// There is no connection; both ends dial again, each after its wait.
    Down,
    /// The peer was removed from the site: there is no connection any more, and none is made.
    Ended,
    /// This end is connecting, or the greetings are under way.
    Handshaking,
    /// The connection is authenticated and carries frames.
    Up,
}

/// The counts of one lane since the link was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LaneCounts {
    /// Messages that went into a frame.
    pub sent: u64,
    /// Messages dropped because the link was not up, including those that waited when it went down.
    pub dropped_down: u64,
    /// Messages dropped, oldest first, because the lane was full.
    pub dropped_full: u64,
    /// Messages dropped because they are longer than [`MAX_MESSAGE_BYTES`]: a defect of their sender.
    pub dropped_long: u64,
    /// Messages that a newer one replaced, because it contains everything that they said.
    pub replaced: u64,
}

impl LaneCounts {
    fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.dropped_down += other.dropped_down;
        self.dropped_full += other.dropped_full;
        self.dropped_long += other.dropped_long;
        self.replaced += other.replaced;
    }
}

/// The counts of all lanes since the link was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounts([LaneCounts; Lane::ALL.len()]);

impl LinkCounts {
    /// The counts of one lane.
    pub fn of(&self, lane: Lane) -> LaneCounts {
        self.0[lane as usize]
    }

    fn of_mut(&mut self, lane: Lane) -> &mut LaneCounts {
        &mut self.0[lane as usize]
    }

    /// The sums over all lanes.
    pub fn total(&self) -> LaneCounts {
        let mut sum = LaneCounts::default();
        self.0.iter().for_each(|lane| sum.add(lane));
        sum
    }

    /// Adds the counts of another link.
    pub fn add(&mut self, other: &Self) {
        for (sum, other) in self.0.iter_mut().zip(&other.0) {
            sum.add(other);
        }
    }

    fn sent(&self) -> [u64; Lane::ALL.len()] {
        self.0.map(|lane| lane.sent)
    }
}

/// An authenticated connection: which end dialled it, and which start of the peer's process it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialled {
    pub by: GatewayId,
    pub start: u64,
}

/// The core of one link, without its connection.
#[derive(Debug)]
pub struct Link {
    me: GatewayId,
    peer: GatewayId,
    state: LinkState,
    /// The connection, while the link is up.
    dialled: Option<Dialled>,
    queue: LinkQueue,
    last_frame_ms: u64,
    redial_ms: u64,
    connected_ms: u64,
    full: bool,
    up: Arc<[GatewayId]>,
    counts: LinkCounts,
}

impl Link {
    /// The link from `me` to `peer`, down.
    pub fn new(me: GatewayId, peer: GatewayId) -> Self {
        Self {
            me,
            peer,
            state: LinkState::Down,
            dialled: None,
            queue: LinkQueue::default(),
            last_frame_ms: 0,
            redial_ms: REDIAL_MIN_MS,
            connected_ms: 0,
            full: false,
            up: Arc::default(),
            counts: LinkCounts::default(),
        }
    }

    /// The gateway at the other end.
    pub fn peer(&self) -> GatewayId {
        self.peer
    }

    /// Whether this end is the one that dials first: the lower id.
    pub fn dials_first(&self) -> bool {
        self.me < self.peer
    }

    /// The end that dialled the connection, while the link is up.
    pub fn dialled_by(&self) -> Option<GatewayId> {
        self.dialled.map(|dialled| dialled.by)
    }

    /// How long to wait before this end dials for the first time, in milliseconds.
    pub fn first_wait_ms(&self) -> u64 {
        self.wait_ms(0)
    }

    /// The wait, or longer for the end that does not dial first.
    fn wait_ms(&self, wait_ms: u64) -> u64 {
        if self.dials_first() { wait_ms } else { wait_ms.max(DIAL_BACK_MS) }
    }

    /// The phase that the connection is in.
    pub fn state(&self) -> LinkState {
        self.state
    }

    /// The link's counts since it was made.
    pub fn counts(&self) -> LinkCounts {
        self.counts
    }

    /// How many messages wait in a lane, and how many bytes as encoded. (The subscriptions for the peer wait beside
    /// the lanes.)
    pub fn waiting(&self, lane: Lane) -> (usize, usize) {
        self.queue.waiting(lane)
    }

    /// Notes that an attempt to connect begins. (A link that is up stays so until the new connection replaces the
    /// old.)
    pub fn handshaking(&mut self) {
        if self.state == LinkState::Down {
            self.state = LinkState::Handshaking;
        }
    }

    /// Notes that the attempt failed. Returns how long to wait before the next, in milliseconds; the wait doubles
    /// each time.
    pub fn failed(&mut self) -> u64 {
        if self.state == LinkState::Handshaking {
            self.state = LinkState::Down;
        }
        let wait = self.redial_ms;
        self.redial_ms = (wait * 2).min(REDIAL_MAX_MS);
        self.wait_ms(wait)
    }

    /// Whether a new authenticated connection becomes that of the link. If not, the caller closes it. Both ends decide
    /// alike about the same two connections.
    pub fn takes(&self, new: Dialled) -> bool {
        let lower = self.me.min(self.peer);
        match self.dialled {
            _ if self.state == LinkState::Ended => false,
            Some(old) => new.start > old.start || new.by == lower || old.by != lower,
            None => true,
        }
    }

    /// Notes that an authenticated connection exists that the link takes, the first or one that replaces another. Waiting
    /// messages are kept. Messages that the old connection had taken may be lost, so the peer receives the subscriptions
    /// again.
    pub fn connected(&mut self, now: u64, dialled: Dialled) {
        if self.state == LinkState::Ended {
            return;
        }
        (self.state, self.dialled) = (LinkState::Up, Some(dialled));
        self.queue.connected();
        self.connected_ms = now;
        self.last_frame_ms = now;
    }

    /// Notes that the connection is gone, and drops the waiting messages. Returns how long to wait before dialling,
    /// in milliseconds: 0 for the end that dials first, unless the connection was short-lived, as it is when the peer
    /// ends it for a reason.
    pub fn lost(&mut self, now: u64) -> u64 {
        self.dialled = None;
        if self.state != LinkState::Ended {
            self.state = LinkState::Down;
        }
        self.queue.clear(&mut self.counts);
        if now.saturating_sub(self.connected_ms) < REDIAL_MAX_MS {
            return self.failed();
        }
        self.redial_ms = REDIAL_MIN_MS;
        self.wait_ms(0)
    }

    /// Ends the link for good, because the peer was removed from the site, and drops the waiting messages.
    pub fn end(&mut self) {
        (self.state, self.dialled) = (LinkState::Ended, None);
        self.queue.clear(&mut self.counts);
    }

    /// Queues messages, each in its lane, in order. Returns whether there is now something to write.
    pub fn send(&mut self, messages: Vec<PeerMessage>) -> bool {
        let up = self.state == LinkState::Up;
        for message in messages {
            match up {
                true => self.queue.push(message, &mut self.counts),
                false => self.queue.push_down(message, &mut self.counts),
            }
        }
        up && !self.queue.is_empty()
    }

    /// Sets whether frames from now on say that this gateway's disk has no room.
    pub fn says_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Sets which gateways frames from now on say that this gateway has up.
    pub fn says_up(&mut self, up: Arc<[GatewayId]>) {
        self.up = up;
    }

    /// The next frame, if one is due now: the waiting messages by priority (up to [`FRAME_TARGET_BYTES`]), or a
    /// heartbeat. The caller asks whenever the connection can take a frame. `clocks` reads the clocks at that
    /// moment.
    pub fn next_frame(&mut self, now: u64, clocks: impl FnOnce() -> ClockNote) -> Option<Vec<u8>> {
        if self.state != LinkState::Up || (self.queue.is_empty() && now < self.heartbeat_at()) {
            return None;
        }
        let messages = self.queue.take(FRAME_TARGET_BYTES, &mut self.counts);
        self.last_frame_ms = now;
        Some(PeerFrame { clocks: clocks(), full: self.full, up: self.up.clone(), messages }.encode())
    }

    /// When a heartbeat is due if nothing is sent until then, in the milliseconds of `now`: at a multiple of
    /// [`HEARTBEAT_MS`], so that the heartbeats of all links leave together.
    pub fn heartbeat_at(&self) -> u64 {
        (self.last_frame_ms / HEARTBEAT_MS + 1).saturating_mul(HEARTBEAT_MS)
    }
}

#[cfg(test)]
mod tests;
