//! The connections between gateways: a model of TCP and of the systems below it.
//!
//! A connection carries bytes in order both ways, after a delay and no faster than its network, with at most a window
//! of them under way: a writer that would exceed it waits. What can happen to it:
//!
//! - A *cut* network loses nothing at once: bytes under way arrive when the cut is mended, because TCP repeats them.
//!   Neither end learns of the cut otherwise.
//! - A *process that ends* leaves its connections to its system, which closes them and refuses new ones. Half of the
//!   time, bytes that are still under way are lost with the connection (a reset); otherwise they arrive before the end.
//! - A *box without power* sends nothing at all. When it is back, its system answers a peer that still sends with a
//!   reset.
//! - A *frozen* process reads nothing. Its system accepts connections and bytes for it until the window is full.
//!
//! Frames are cut into pieces as Noise cuts them. Not modelled: the encryption itself, and the two messages of its
//! handshake.

use super::plan::Weather;
use super::random::Random;
use selvedge_fabric::peer::PeerMessage;
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The content of one Noise message, in bytes.
const PIECE_BYTES: usize = 65_519;
/// The bytes around a piece on the wire.
const OVERHEAD_BYTES: usize = 58;

/// The unit that a connection carries in one direction.
#[derive(Debug)]
pub enum Segment {
    /// A request for a connection.
    Syn,
    /// The system of the other end has accepted the connection.
    Accepted,
    /// No process listens there.
    Refused,
    Greeting(Vec<u8>),
    /// A part of a frame; with its last part, what the frame holds according to the sender's invariants.
    Piece {
        bytes: Vec<u8>,
        ends: Option<Vec<PeerMessage>>,
    },
    /// The other end is closed, or was never known there.
    End,
}

impl Segment {
    fn bytes(&self) -> usize {
        OVERHEAD_BYTES
            + match self {
                Self::Greeting(bytes) | Self::Piece { bytes, .. } => bytes.len(),
                _ => 0,
            }
    }
}

/// One end of one connection. The dialler's end is side 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Socket {
    pub connection: u64,
    pub side: usize,
}

impl Socket {
    fn other(self) -> Self {
        Self { side: 1 - self.side, ..self }
    }
}

#[derive(Debug)]
struct End {
    at: GatewayId,
    /// The process (start) of that gateway that holds it.
    start: u64,
    open: bool,
    /// The other end has learned that this one is closed.
    ended: bool,
    /// On its way to the other end, with the time of its arrival; never out of order.
    under_way: VecDeque<(u64, Segment)>,
    /// When the network has taken everything that was written.
    free_at: u64,
    /// Bytes that were written and whose acknowledgement has not come back; and the acknowledgements on their way back.
    unacknowledged: usize,
    acknowledgements: VecDeque<(u64, usize)>,
    /// Arrived here and not read yet.
    unread: VecDeque<Segment>,
}

impl End {
    fn new(at: GatewayId, start: u64, open: bool) -> Self {
        Self {
            at,
            start,
            open,
            ended: false,
            under_way: VecDeque::new(),
            free_at: 0,
            unacknowledged: 0,
            acknowledgements: VecDeque::new(),
            unread: VecDeque::new(),
        }
    }
}

/// The properties of the network and the systems of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Temper {
    pub window_bytes: usize,
    pub bytes_per_ms: u64,
}

/// The state of a machine, which decides what happens to arriving segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    Off,
    /// It is up, and runs this start of the gateway's process; 0: none.
    On(u64),
}

/// All connections between gateways.
pub struct Wires {
    pub temper: Temper,
    weather: Weather,
    connections: BTreeMap<u64, [End; 2]>,
    last_connection: u64,
    /// When something arrives at the other end of a socket.
    arrivals: BTreeSet<(u64, Socket)>,
    /// Connections that the systems have accepted and the processes have not.
    backlog: BTreeMap<GatewayId, Vec<u64>>,
    /// The number of faults that cut this direction at the moment.
    cuts: BTreeMap<(GatewayId, GatewayId), u32>,
    /// How much longer bytes to and from a gateway take.
    slow: BTreeMap<GatewayId, u64>,
}

impl Wires {
    pub fn new(temper: Temper, weather: Weather) -> Self {
        Self {
            temper,
            weather,
            connections: BTreeMap::new(),
            last_connection: 0,
            arrivals: BTreeSet::new(),
            backlog: BTreeMap::new(),
            cuts: BTreeMap::new(),
            slow: BTreeMap::new(),
        }
    }

    /// Adds a reason for which nothing passes from one to the other, or removes one.
    pub fn cut(&mut self, random: &mut Random, now: u64, from: GatewayId, to: GatewayId, cut: bool) {
        let cuts = self.cuts.entry((from, to)).or_default();
        *cuts = if cut { *cuts + 1 } else { cuts.saturating_sub(1) };
        if *cuts == 0 {
            self.cuts.remove(&(from, to));
            self.repeat(random, now);
        }
    }

    pub fn passes(&self, from: GatewayId, to: GatewayId) -> bool {
        !self.cuts.contains_key(&(from, to))
    }

    pub fn slow(&mut self, at: GatewayId, by_ms: u64) {
        self.slow.insert(at, by_ms);
    }

    pub fn slow_ms(&self, from: GatewayId, to: GatewayId) -> u64 {
        [from, to].iter().filter_map(|g| self.slow.get(g)).max().copied().unwrap_or(0)
    }

    /// Ends all cuts, and makes the network as fast as it should be.
    pub fn calm(&mut self, random: &mut Random, now: u64) {
        self.cuts.clear();
        self.weather = Weather::default();
        self.temper.bytes_per_ms = self.temper.bytes_per_ms.max(10_000);
        self.repeat(random, now);
    }

    pub fn no_slow_links(&mut self) {
        self.slow.clear();
    }

    /// Resends what could not pass, some time after the cut is mended.
    fn repeat(&mut self, random: &mut Random, now: u64) {
        for (connection, ends) in &self.connections {
            for (side, end) in ends.iter().enumerate() {
                if end.under_way.front().is_some_and(|(at, _)| *at <= now) {
                    self.arrivals
                        .insert((now + 1 + random.below(200), Socket { connection: *connection, side }));
                }
            }
        }
    }

    pub fn next_at(&self) -> Option<u64> {
        self.arrivals.first().map(|(at, _)| *at)
    }

    /// Whether nothing is under way, unread or cut.
    pub fn is_quiet(&self) -> bool {
        let is_quiet = |end: &End| end.unread.is_empty() && end.under_way.is_empty();
        self.arrivals.is_empty()
            && self.cuts.is_empty()
            && self.backlog.values().all(Vec::is_empty)
            && self.connections.values().all(|ends| ends.iter().all(is_quiet))
    }

    /// A process asks for a connection to a gateway.
    pub fn dial(
        &mut self,
        random: &mut Random,
        now: u64,
        (from, start): (GatewayId, u64),
        to: GatewayId,
    ) -> Socket {
        self.last_connection += 1;
        let socket = Socket { connection: self.last_connection, side: 0 };
        let ends = [End::new(from, start, true), End::new(to, 0, false)];
        self.connections.insert(socket.connection, ends);
        self.send(random, now, socket, Segment::Syn);
        socket
    }

    pub fn send(&mut self, random: &mut Random, now: u64, socket: Socket, segment: Segment) {
        let Some(ends) = self.connections.get(&socket.connection) else { return };
        let mut wait = 1 + random.below(8) + self.slow_ms(ends[0].at, ends[1].at);
        // A lost segment is repeated: sometimes soon, because later ones show that it is missing, sometimes after a
        // timeout.
        if random.chance(self.weather.loss) {
            wait += random.pick(&[20, 20, 250, 400]);
        }
        if random.chance(self.weather.late) {
            wait += random.below(90);
        }
        let Some(end) = self.connections.get_mut(&socket.connection).map(|ends| &mut ends[socket.side])
        else {
            return;
        };
        let bytes = segment.bytes();
        if matches!(segment, Segment::Piece { .. } | Segment::Greeting(_)) {
            end.unacknowledged += bytes;
        }
        end.free_at = now.max(end.free_at) + bytes as u64 / self.temper.bytes_per_ms;
        let at = (end.free_at + wait).max(end.under_way.back().map_or(0, |(at, _)| *at));
        end.under_way.push_back((at, segment));
        self.arrivals.insert((at, socket));
    }

    /// Writes a frame, cut into pieces.
    pub fn write(
        &mut self,
        random: &mut Random,
        now: u64,
        socket: Socket,
        frame: &[u8],
        holds: Vec<PeerMessage>,
    ) {
        let (mut pieces, mut holds) = (frame.chunks(PIECE_BYTES).peekable(), Some(holds));
        while let Some(piece) = pieces.next() {
            let ends = if pieces.peek().is_none() { holds.take() } else { None };
            self.send(random, now, socket, Segment::Piece { bytes: piece.to_vec(), ends });
        }
    }

    /// Whether a writer need not wait: everything before is within the window.
    pub fn takes(&mut self, now: u64, socket: Socket) -> bool {
        let Self { connections, cuts, .. } = self;
        let Some(ends) = connections.get_mut(&socket.connection) else { return false };
        let way = (ends[1 - socket.side].at, ends[socket.side].at);
        let end = &mut ends[socket.side];
        if !cuts.contains_key(&way) {
            while let Some((_, bytes)) = end.acknowledgements.pop_front_if(|(at, _)| *at <= now) {
                end.unacknowledged -= bytes;
            }
        }
        end.unacknowledged <= self.temper.window_bytes
    }

    /// When a waiting writer can continue, as far as that is known.
    pub fn takes_at(&self, socket: Socket) -> Option<u64> {
        let ends = self.connections.get(&socket.connection)?;
        let passes = self.passes(ends[1 - socket.side].at, ends[socket.side].at);
        ends[socket.side].acknowledgements.front().filter(|_| passes).map(|(at, _)| *at)
    }

    /// The next segment that has arrived at a socket and was not read yet.
    pub fn read(&mut self, random: &mut Random, now: u64, socket: Socket) -> Option<Segment> {
        let slow = self.connections.get(&socket.connection).map(|e| self.slow_ms(e[0].at, e[1].at));
        let ends = self.connections.get_mut(&socket.connection)?;
        let segment = ends[socket.side].unread.pop_front()?;
        if matches!(segment, Segment::Piece { .. } | Segment::Greeting(_)) {
            let acknowledgements = &mut ends[1 - socket.side].acknowledgements;
            let at = now + 1 + random.below(8) + slow.unwrap_or(0);
            let at = at.max(acknowledgements.back().map_or(0, |(at, _)| *at));
            acknowledgements.push_back((at, segment.bytes()));
        }
        Some(segment)
    }

    /// A connection that a gateway's system has accepted for its process.
    pub fn accept(&mut self, at: GatewayId) -> Option<Socket> {
        let waiting = self.backlog.get_mut(&at).filter(|all| !all.is_empty())?;
        Some(Socket { connection: waiting.remove(0), side: 1 })
    }

    /// A process closes its end.
    pub fn close(&mut self, random: &mut Random, now: u64, socket: Socket) {
        let Some(end) = self.connections.get_mut(&socket.connection).map(|ends| &mut ends[socket.side])
        else {
            return;
        };
        end.open = false;
        end.unread.clear();
        self.end(random, now, socket, 0);
    }

    /// Tells the other end that this one is closed, unless it knows already.
    fn end(&mut self, random: &mut Random, now: u64, socket: Socket, after_ms: u64) {
        let Some(ends) = self.connections.get_mut(&socket.connection) else { return };
        if !std::mem::replace(&mut ends[socket.side].ended, true) {
            self.send(random, now + after_ms, socket, Segment::End);
        }
    }

    /// A process of a gateway has ended: with its whole box, or alone.
    pub fn process_ended(&mut self, random: &mut Random, now: u64, at: GatewayId, with_box: bool) {
        self.backlog.remove(&at);
        for socket in self.sockets_of(at) {
            let Some(ends) = self.connections.get_mut(&socket.connection) else { continue };
            let end = &mut ends[socket.side];
            end.open = false;
            end.unread.clear();
            if with_box {
                // What has not left yet never leaves.
                end.under_way.retain(|(arrives, _)| *arrives < now + 9);
                continue;
            }
            if random.chance(500) {
                end.under_way.clear();
            }
            self.end(random, now, socket, 0);
        }
    }

    /// A box is up again: a peer that still sends to its earlier process learns that it is gone.
    pub fn box_is_back(&mut self, random: &mut Random, now: u64, at: GatewayId) {
        for socket in self.sockets_of(at) {
            let after_ms = random.below(300);
            self.end(random, now, socket, after_ms);
        }
    }

    /// All ends of connections that a gateway has or had.
    fn sockets_of(&self, at: GatewayId) -> Vec<Socket> {
        let of = |(connection, ends): (&u64, &[End; 2])| {
            let side = (0..2).find(|side| ends[*side].at == at && (*side == 0 || ends[1].start > 0))?;
            Some(Socket { connection: *connection, side })
        };
        self.connections.iter().filter_map(of).collect()
    }

    /// Delivers everything that arrives until now. Returns the gateways whose processes have something to read.
    pub fn arrive(
        &mut self,
        random: &mut Random,
        now: u64,
        machine: impl Fn(GatewayId) -> Machine,
    ) -> BTreeSet<GatewayId> {
        let mut touched = BTreeSet::new();
        while let Some(first) = self.arrivals.first().copied().filter(|(at, _)| *at <= now) {
            self.arrivals.remove(&first);
            let (_, socket) = first;
            let Some(ends) = self.connections.get_mut(&socket.connection) else { continue };
            let (from, to) = (ends[socket.side].at, ends[1 - socket.side].at);
            if self.cuts.contains_key(&(from, to)) {
                continue; // it is repeated once it can pass
            }
            let machine = machine(to);
            let arrives = |(at, _): &mut (u64, Segment)| *at <= now;
            while let Some(ends) = self.connections.get_mut(&socket.connection)
                && let Some((_, segment)) = ends[socket.side].under_way.pop_front_if(arrives)
            {
                let end = &mut ends[1 - socket.side];
                match (machine, segment) {
                    (Machine::Off, _) => {}
                    (Machine::On(0), Segment::Syn) => {
                        self.send(random, now, socket.other(), Segment::Refused);
                    }
                    (Machine::On(start), Segment::Syn) => {
                        (end.start, end.open) = (start, true);
                        self.backlog.entry(to).or_default().push(socket.connection);
                        self.send(random, now, socket.other(), Segment::Accepted);
                        touched.insert(to);
                    }
                    (Machine::On(start), segment) if end.open && end.start == start => {
                        end.unread.push_back(segment);
                        touched.insert(to);
                    }
                    (Machine::On(_), Segment::End) => {
                        self.connections.remove(&socket.connection);
                    }
                    (Machine::On(_), _) => self.end(random, now, socket.other(), 0),
                }
            }
            let is_over = |ends: &[End; 2]| ends.iter().all(|end| !end.open && end.under_way.is_empty());
            if self.connections.get(&socket.connection).is_some_and(is_over) {
                self.connections.remove(&socket.connection);
            }
        }
        touched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: GatewayId = GatewayId(1);
    const B: GatewayId = GatewayId(2);

    struct World {
        wires: Wires,
        random: Random,
        now: u64,
        /// What runs at B.
        machine: Machine,
    }

    impl World {
        fn new(window_bytes: usize) -> Self {
            let temper = Temper { window_bytes, bytes_per_ms: 1_000 };
            let wires = Wires::new(temper, Weather::default());
            Self { wires, random: Random::new(7), now: 0, machine: Machine::On(1) }
        }

        fn pass(&mut self, ms: u64) {
            for _ in 0..ms {
                self.now += 1;
                let machine = self.machine;
                self.wires.arrive(
                    &mut self.random,
                    self.now,
                    |at| if at == A { Machine::On(1) } else { machine },
                );
            }
        }

        /// A has dialled B, and both systems have accepted.
        fn connected(&mut self) -> (Socket, Socket) {
            let a = self.wires.dial(&mut self.random, self.now, (A, 1), B);
            self.pass(50);
            assert!(matches!(self.read(a), Some(Segment::Accepted)));
            (a, self.wires.accept(B).expect("it is in the backlog"))
        }

        fn read(&mut self, socket: Socket) -> Option<Segment> {
            self.wires.read(&mut self.random, self.now, socket)
        }

        fn write(&mut self, socket: Socket, byte: u8, length: usize) {
            self.wires.write(&mut self.random, self.now, socket, &vec![byte; length], Vec::new());
        }

        /// The first byte of each piece that has arrived.
        fn pieces(&mut self, socket: Socket) -> Vec<u8> {
            std::iter::from_fn(|| match self.read(socket)? {
                Segment::Piece { bytes, .. } => Some(bytes[0]),
                other => panic!("{other:?}"),
            })
            .collect()
        }
    }

    #[test]
    fn a_cut_loses_nothing_and_keeps_the_order() {
        let mut world = World::new(1 << 20);
        let (a, b) = world.connected();
        world.write(a, 1, 10);
        world.wires.cut(&mut world.random, world.now, A, B, true);
        world.write(a, 2, 200_000);
        world.pass(2_000);
        assert!(world.pieces(b).is_empty());
        world.wires.cut(&mut world.random, world.now, A, B, false);
        world.write(a, 3, 10);
        world.pass(2_000);
        assert_eq!(world.pieces(b), [1, 2, 2, 2, 2, 3], "frames are cut into pieces");
    }

    #[test]
    fn a_full_window_keeps_the_writer_waiting_until_the_other_end_reads() {
        let mut world = World::new(1_000);
        let (a, b) = world.connected();
        assert!(world.wires.takes(world.now, a));
        world.write(a, 1, 2_000);
        world.pass(1_000);
        assert!(!world.wires.takes(world.now, a), "what has arrived is not read yet");
        assert_eq!(world.pieces(b), [1]);
        world.wires.cut(&mut world.random, world.now, B, A, true);
        world.pass(100);
        assert!(!world.wires.takes(world.now, a), "the acknowledgement does not get through");
        world.wires.cut(&mut world.random, world.now, B, A, false);
        assert!(world.wires.takes(world.now, a));
    }

    #[test]
    fn a_process_that_ends_is_heard_of_at_once_and_refuses() {
        let mut world = World::new(1_000);
        let (a, _) = world.connected();
        world.machine = Machine::On(0);
        world.wires.process_ended(&mut world.random, world.now, B, false);
        world.pass(50);
        assert!(matches!(world.read(a), Some(Segment::End)));
        let again = world.wires.dial(&mut world.random, world.now, (A, 1), B);
        world.pass(50);
        assert!(matches!(world.read(again), Some(Segment::Refused)));
    }

    #[test]
    fn a_box_without_power_says_nothing_until_it_is_back() {
        let mut world = World::new(1_000);
        let (a, _) = world.connected();
        world.machine = Machine::Off;
        world.wires.process_ended(&mut world.random, world.now, B, true);
        world.write(a, 1, 10);
        let again = world.wires.dial(&mut world.random, world.now, (A, 1), B);
        world.pass(3_000);
        assert!(world.read(a).is_none() && world.read(again).is_none());
        world.machine = Machine::On(2);
        world.wires.box_is_back(&mut world.random, world.now, B);
        world.pass(1_000);
        assert!(matches!(world.read(a), Some(Segment::End)));
    }

    #[test]
    fn connections_that_are_over_are_forgotten() {
        let mut world = World::new(1_000);
        let (a, b) = world.connected();
        world.wires.close(&mut world.random, world.now, a);
        world.pass(50);
        assert!(matches!(world.read(b), Some(Segment::End)));
        world.wires.close(&mut world.random, world.now, b);
        world.machine = Machine::Off;
        let unanswered = world.wires.dial(&mut world.random, world.now, (A, 1), B);
        world.pass(50);
        world.wires.close(&mut world.random, world.now, unanswered);
        world.pass(50);
        assert!(world.wires.connections.is_empty() && world.wires.is_quiet());
    }
}
