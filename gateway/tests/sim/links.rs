//! A gateway process's links: the cores that ship (`fabric/link`, `fabric/detector`, `fabric/reach`), driven as the
//! actors of `actors/link` drive them, over the connections of [`super::wire`].

use super::invariants::detector::Watched;
use super::invariants::lanes::{self, Lanes};
use super::random::Random;
use super::wire::{Segment, Socket, Wires};
use selvedge_fabric::agreement::ClockNote;
use selvedge_fabric::detector::{Change, DETECT_MS, Detector, TICK_MS};
use selvedge_fabric::directory::GatewayKey;
use selvedge_fabric::link::{
    CONNECT_TIMEOUT_MS, Dialled, Greeting, HANDSHAKE_TIMEOUT_MS, Hello, Incarnation, Known, KnownPeer, Lane,
    Link, LinkState, PROTOCOL_NEWEST, PROTOCOL_OLDEST, PeerFrame, PeerList, PeerRefusal, REDIAL_MIN_MS,
    admit, check,
};
use selvedge_fabric::peer::PeerMessage;
use selvedge_fabric::reach::{News, Reach};
use selvedge_types::ids::GatewayId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The world around a process, as far as links need it.
pub struct Around<'a> {
    pub now: u64,
    pub wires: &'a mut Wires,
    pub random: &'a mut Random,
    /// What the disk holds about the peers, and the longest time of a write.
    pub known: &'a mut BTreeMap<GatewayId, Known>,
    pub disk_ms: u64,
}

impl Around<'_> {
    fn send(&mut self, socket: Socket, segment: Segment) {
        self.wires.send(self.random, self.now, socket, segment);
    }

    fn greet(&mut self, socket: Socket, greeting: &Greeting) {
        self.send(socket, Segment::Greeting(greeting.encode()));
    }

    fn close(&mut self, socket: Socket) {
        self.wires.close(self.random, self.now, socket);
    }
}

/// News and messages that links bring to their process, in order.
pub enum Brought {
    /// The set of reachable gateways has changed.
    News(News),
    /// A connection to a peer is new.
    Connected(GatewayId),
    Frame {
        from: GatewayId,
        clocks: ClockNote,
        full: bool,
        messages: Vec<PeerMessage>,
    },
    /// This start of a gateway was refused: by this gateway, or this gateway's own start by a peer.
    Refused {
        who: GatewayId,
        start: u64,
        reason: String,
    },
}

/// How a link without a connection gets one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seeking {
    Nothing,
    /// It is dialled at that time.
    Dial {
        at: u64,
    },
    Dialling {
        socket: Socket,
        until: u64,
    },
    /// The peer dials first; until this end does, it tests whether the peer's process is gone, `left` more times, next
    /// at that time.
    Probe {
        left: u64,
        at: u64,
        dial_at: u64,
    },
    Probing {
        left: u64,
        socket: Socket,
        until: u64,
        dial_at: u64,
    },
    Greeting {
        socket: Socket,
    },
}

struct Line {
    link: Link,
    socket: Option<Socket>,
    /// The part of a frame that has been read.
    part: Vec<u8>,
    heard_ms: u64,
    /// Until then the receiver takes what was read, and nothing more is read.
    pressed_back_until: u64,
    seeking: Seeking,
    lanes: Lanes,
    /// The gateways that the peer has up, as its last frame on this connection said.
    said: Arc<[GatewayId]>,
}

impl Line {
    fn new(now: u64, me: GatewayId, peer: GatewayId) -> Self {
        let link = Link::new(me, peer);
        let seeking = Seeking::Dial { at: now + link.first_wait_ms() };
        Self {
            link,
            socket: None,
            part: Vec::new(),
            heard_ms: 0,
            pressed_back_until: 0,
            seeking,
            lanes: Lanes::default(),
            said: Arc::default(),
        }
    }
}

#[derive(Debug)]
enum Step {
    /// The acceptor waits for Hello, the dialler for Welcome.
    Hear,
    /// The peer is being written to disk.
    Write { at: u64, them: Hello },
    /// The acceptor has consented and waits for Ready.
    Ready { them: Hello },
}

struct Greeted {
    until: u64,
    /// The gateway that the dialler meant to reach.
    peer: Option<GatewayId>,
    step: Step,
}

pub struct Links {
    me: Hello,
    peers: PeerList,
    lines: BTreeMap<GatewayId, Line>,
    /// The peers from the next turn on, if the directory has named others.
    named: Option<BTreeMap<GatewayId, KnownPeer>>,
    detector: Detector,
    reach: Reach,
    untold: Option<Change>,
    greetings: BTreeMap<Socket, Greeted>,
    tick_at: u64,
    watched: Watched,
    displaced: u64,
    /// When the links want to run next.
    pub due: u64,
}

impl Links {
    pub fn new(
        now: u64,
        (me, incarnation): (GatewayId, u128),
        start: u64,
        run: u64,
        gateways: &[GatewayId],
    ) -> Self {
        let peers = || gateways.iter().copied().filter(|g| *g != me);
        let mut listed = PeerList::new(me);
        let known = peers().map(|peer| (peer, KnownPeer::at(peer.to_string())));
        listed.set(known.collect()).expect("a site has fewer gateways than may be");
        Self {
            me: Hello {
                oldest: PROTOCOL_OLDEST,
                newest: PROTOCOL_NEWEST,
                site: "sim".to_string(),
                membership: [7; 32],
                gateway: me,
                incarnation: Incarnation(incarnation),
                start,
                run,
            },
            peers: listed,
            lines: peers().map(|peer| (peer, Line::new(now, me, peer))).collect(),
            named: None,
            detector: Detector::new(now, me, peers()),
            reach: Reach::new(me),
            untold: None,
            greetings: BTreeMap::new(),
            tick_at: next_tick(now),
            watched: Watched::new(me),
            displaced: 0,
            due: now,
        }
    }

    /// All other gateways.
    pub fn peers(&self) -> impl Iterator<Item = GatewayId> + '_ {
        self.lines.keys().copied()
    }

    pub fn up(&self) -> BTreeSet<GatewayId> {
        self.detector.up()
    }

    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Whether all links are up and nothing waits on them: as long as nothing else happens, only heartbeats are
    /// exchanged.
    pub fn is_quiet(&self) -> bool {
        let is_quiet = |line: &Line| {
            line.link.state() == LinkState::Up
                && line.seeking == Seeking::Nothing
                && Lane::ALL.iter().all(|lane| line.link.waiting(*lane).0 == 0)
        };
        self.greetings.is_empty()
            && self.up().len() == self.lines.len() + 1
            && self.lines.values().all(is_quiet)
    }

    /// Acts as if heartbeats had been exchanged until then.
    pub fn jump(&mut self, to: u64) {
        for (peer, line) in &mut self.lines {
            line.heard_ms = to;
            self.detector.heard(to, *peer);
        }
        let change = self.detector.tick(to);
        assert!(change.is_none(), "everyone was heard: {change:?}");
        self.tick_at = next_tick(to);
        self.due = to;
    }

    /// The state of each link, for failure messages.
    pub fn show(&self) -> String {
        let line = |(peer, line): (&GatewayId, &Line)| {
            let waiting: Vec<_> = Lane::ALL.iter().map(|lane| line.link.waiting(*lane).0).collect();
            format!("{peer} {:?} {:?} {waiting:?}", line.link.state(), line.seeking)
        };
        self.lines.iter().map(line).collect::<Vec<_>>().join("; ")
    }

    /// Queues messages for a peer.
    pub fn send(&mut self, to: GatewayId, message: PeerMessage) {
        let Some(line) = self.lines.get_mut(&to) else { return };
        let up = line.link.state() == LinkState::Up;
        line.link.send(vec![message.clone()]);
        line.lanes.sent(&line.link, &message, up);
    }

    /// The directory names these as all other gateways.
    pub fn name(&mut self, peers: BTreeMap<GatewayId, KnownPeer>) {
        self.named = Some(peers);
        self.due = 0;
    }

    /// The directory names these as removed.
    pub fn remember_removed(&mut self, removed: Vec<GatewayId>) {
        self.peers.remember_removed(removed);
    }

    /// Whether other gateways are named than those with links.
    pub fn is_renaming(&self) -> bool {
        self.named.is_some()
    }

    /// Makes links to peers that are new, and ends those to peers that were removed.
    fn rename(&mut self, around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        let Some(peers) = self.named.take() else { return };
        let change = self.peers.set(peers).expect("a site has fewer gateways than may be");
        for peer in change.added {
            self.lines.insert(peer, Line::new(around.now, self.me.gateway, peer));
        }
        for peer in change.removed {
            let Some(mut line) = self.lines.remove(&peer) else { continue };
            line.link.end();
            let seeks = match line.seeking {
                Seeking::Dialling { socket, .. }
                | Seeking::Probing { socket, .. }
                | Seeking::Greeting { socket } => Some(socket),
                _ => None,
            };
            for socket in seeks.into_iter().chain(line.socket) {
                self.greetings.remove(&socket);
                around.close(socket);
            }
            self.watched.removed(peer);
        }
        let change = self.detector.set_peers(self.lines.keys().copied());
        self.watched.looked(&self.detector, change.as_ref());
        self.apply(change, around, brought);
    }

    /// The process was frozen.
    pub fn stalled(&mut self, from: u64, to: u64) {
        self.watched.stalled(from, to);
    }

    /// Does what is due, and reads what has arrived. After a stall either may come first.
    pub fn tend(&mut self, around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        self.rename(around, brought);
        let ticks_first = around.random.chance(500);
        if ticks_first {
            self.tick(around, brought);
        }
        self.accept(around);
        self.read(around, brought);
        self.seek(around, brought);
        self.greetings_due(around, brought);
        if !ticks_first {
            self.tick(around, brought);
        }
    }

    fn tick(&mut self, around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        if self.tick_at > around.now {
            return;
        }
        self.tick_at = next_tick(around.now);
        self.tell(brought);
        let heard_at = |line: &Line| match line.pressed_back_until > around.now {
            true => around.now,
            false => line.heard_ms.max(line.pressed_back_until),
        };
        let heard: BTreeMap<_, _> = self.lines.iter().map(|(peer, line)| (*peer, heard_at(line))).collect();
        heard.iter().for_each(|(peer, at)| self.detector.heard(*at, *peer));
        let change = self.detector.tick(around.now);
        self.watched.ticked(around.now, &heard, &self.detector, change.as_ref());
        self.apply(change, around, brought);
    }

    fn apply(&mut self, change: Option<Change>, around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        let Some(change) = change else { return };
        for peer in &change.cut {
            if self.lines.get(peer).is_some_and(|line| line.socket.is_some()) {
                self.lose(*peer, around);
            }
        }
        match &mut self.untold {
            Some(untold) => untold.then(change),
            None => self.untold = Some(change),
        }
        // Sometimes the receiver is slow, and gets several changes at once.
        if around.random.chance(900) {
            self.tell(brought);
        }
    }

    /// Passes on what has changed.
    fn tell(&mut self, brought: &mut Vec<Brought>) {
        if let Some(change) = self.untold.take() {
            brought.push(Brought::News(self.reach.changed(change)));
        }
    }

    /// Ends the connection to a peer, and seeks a new one.
    fn lose(&mut self, peer: GatewayId, around: &mut Around<'_>) {
        let Some(line) = self.lines.get_mut(&peer) else { return };
        if let Some(socket) = line.socket.take() {
            around.close(socket);
        }
        line.part.clear();
        line.pressed_back_until = 0;
        let wait_ms = line.link.lost(around.now);
        line.lanes.lost();
        self.detector.lost(peer);
        let (at, dial_at) = (around.now, around.now + wait_ms);
        line.seeking = match line.link.dials_first() {
            true => Seeking::Dial { at: dial_at },
            false => Seeking::Probe { left: DETECT_MS / REDIAL_MIN_MS, at, dial_at },
        };
    }

    fn accept(&mut self, around: &mut Around<'_>) {
        while let Some(socket) = around.wires.accept(self.me.gateway) {
            let greeted = Greeted { until: around.now + HANDSHAKE_TIMEOUT_MS, peer: None, step: Step::Hear };
            self.greetings.insert(socket, greeted);
        }
    }

    fn read(&mut self, around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        // Greetings first: a new connection replaces an old one before more of the old one is read.
        for socket in self.greetings.keys().copied().collect::<Vec<_>>() {
            while self.greetings.contains_key(&socket)
                && let Some(segment) = around.wires.read(around.random, around.now, socket)
            {
                match segment {
                    Segment::Greeting(bytes) => self.hear(socket, &bytes, around, brought),
                    Segment::End => self.greeting_failed(socket, around),
                    other => panic!("{other:?} comes before a greeting is over"),
                }
            }
        }
        for peer in self.lines.keys().copied().collect::<Vec<_>>() {
            self.read_line(peer, around, brought);
        }
    }

    fn read_line(&mut self, peer: GatewayId, around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        while let Some(line) = self.lines.get_mut(&peer)
            && line.pressed_back_until <= around.now
            && let Some(socket) = line.socket
            && let Some(segment) = around.wires.read(around.random, around.now, socket)
        {
            match segment {
                Segment::Piece { bytes, ends } => {
                    line.heard_ms = around.now;
                    line.part.extend(bytes);
                    let Some(holds) = ends else { continue };
                    let bytes = std::mem::take(&mut line.part);
                    let frame = PeerFrame::decode(&bytes).expect("a frame that was sent");
                    lanes::arrived(&frame.messages, &holds);
                    if !frame.messages.is_empty() && around.random.chance(4) {
                        line.pressed_back_until = around.now + around.random.below(1_500);
                    }
                    let PeerFrame { clocks, full, up, messages } = frame;
                    if up != line.said {
                        line.said = up.clone();
                        let change = self.detector.said(peer, &up);
                        self.watched.looked(&self.detector, change.as_ref());
                        self.apply(change, around, brought);
                    }
                    // The messages of a connection are delivered after the change that it caused.
                    self.tell(brought);
                    brought.push(Brought::Frame { from: peer, clocks, full, messages });
                }
                Segment::End => self.lose(peer, around),
                other => panic!("{other:?} comes between frames"),
            }
        }
    }

    /// Dials, or tests whether a peer's process is gone.
    fn seek(&mut self, around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        let (now, me) = (around.now, (self.me.gateway, self.me.start));
        for peer in self.lines.keys().copied().collect::<Vec<_>>() {
            let Some(line) = self.lines.get_mut(&peer) else { continue };
            match line.seeking {
                Seeking::Dial { at } if at <= now => {
                    line.link.handshaking();
                    let socket = around.wires.dial(around.random, now, me, peer);
                    line.seeking = Seeking::Dialling { socket, until: now + CONNECT_TIMEOUT_MS };
                }
                Seeking::Probe { left, dial_at, .. } if left == 0 || dial_at <= now => {
                    line.seeking = Seeking::Dial { at: dial_at };
                }
                Seeking::Probe { left, at, dial_at } if at <= now => {
                    let socket = around.wires.dial(around.random, now, me, peer);
                    let until = (now + CONNECT_TIMEOUT_MS).min(dial_at);
                    line.seeking = Seeking::Probing { left, socket, until, dial_at };
                }
                Seeking::Dialling { socket, until } | Seeking::Probing { socket, until, .. } => {
                    let answer = around.wires.read(around.random, now, socket);
                    if answer.is_none() && now < until {
                        continue;
                    }
                    let accepted = matches!(answer, Some(Segment::Accepted));
                    if let (true, Seeking::Dialling { .. }) = (accepted, line.seeking) {
                        line.seeking = Seeking::Greeting { socket };
                        around.greet(socket, &Greeting::Hello(self.me.clone()));
                        let until = now + HANDSHAKE_TIMEOUT_MS;
                        self.greetings.insert(socket, Greeted { until, peer: Some(peer), step: Step::Hear });
                        continue;
                    }
                    around.close(socket);
                    line.seeking = match line.seeking {
                        Seeking::Probing { left, dial_at, .. } => {
                            Seeking::Probe { left: left - 1, at: now + REDIAL_MIN_MS, dial_at }
                        }
                        _ => Seeking::Dial { at: now + line.link.failed() },
                    };
                    if matches!(answer, Some(Segment::Refused)) {
                        let connected = line.socket.is_some();
                        let change = self.detector.refused(now, peer);
                        self.watched.refused(connected, &self.detector, change.as_ref());
                        self.apply(change, around, brought);
                    }
                }
                _ => {}
            }
        }
    }

    fn greetings_due(&mut self, around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        for socket in self.greetings.keys().copied().collect::<Vec<_>>() {
            let Some(greeted) = self.greetings.get_mut(&socket) else { continue };
            if greeted.until <= around.now {
                self.greeting_failed(socket, around);
            } else if matches!(greeted.step, Step::Write { at, .. } if at <= around.now)
                && let Step::Write { them, .. } = std::mem::replace(&mut greeted.step, Step::Hear)
            {
                self.consent(socket, them, around, brought);
            }
        }
    }

    /// A greeting has come.
    fn hear(&mut self, socket: Socket, bytes: &[u8], around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        let Some(greeted) = self.greetings.get_mut(&socket) else { return };
        let greeting = Greeting::decode(bytes).expect("a greeting that was sent");
        let step = std::mem::replace(&mut greeted.step, Step::Hear);
        match (socket.side, step, greeting) {
            (1, Step::Hear, Greeting::Hello(them)) | (0, Step::Hear, Greeting::Welcome(them)) => {
                if let Err(refusal) = check(&self.me, &them, greeted.peer, &self.peers) {
                    let is_peer = self.peers.get(them.gateway).is_some();
                    assert!(!is_peer, "{} refuses {}: {refusal}", self.me.gateway, them.gateway);
                    let reason = refusal.to_string();
                    let was_removed = self.peers.was_removed(them.gateway);
                    let answer =
                        if was_removed { Greeting::removed(&reason) } else { Greeting::refused(&reason) };
                    around.greet(socket, &answer);
                    return self.greeting_failed(socket, around);
                }
                match judge(&self.peers, &them, around) {
                    Ok(None) => self.consent(socket, them, around, brought),
                    Ok(Some(_)) | Err(_) => {
                        let at = around.now + around.random.below(2 * around.disk_ms);
                        greeted.step = Step::Write { at, them };
                    }
                }
            }
            (1, Step::Ready { them }, Greeting::Ready) => self.attach(socket, &them, around, brought),
            (_, _, Greeting::Refused { reason } | Greeting::Removed { reason }) => {
                let (who, start) = (self.me.gateway, self.me.start);
                brought.push(Brought::Refused { who, start, reason });
                self.greeting_failed(socket, around);
            }
            (side, step, greeting) => panic!("{greeting:?} comes at side {side} in {step:?}"),
        }
    }

    /// The peer is on disk, unless it is refused: this end consents.
    fn consent(&mut self, socket: Socket, them: Hello, around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        match judge(&self.peers, &them, around) {
            Ok(met) => _ = met.map(|met| around.known.insert(them.gateway, met)),
            Err(refusal) => {
                let (who, start, reason) = (them.gateway, them.start, refusal.to_string());
                around.greet(socket, &Greeting::refused(&reason));
                if self.peers.get(who).is_some() {
                    brought.push(Brought::Refused { who, start, reason });
                }
                return self.greeting_failed(socket, around);
            }
        }
        if socket.side == 0 {
            around.greet(socket, &Greeting::Ready);
            return self.attach(socket, &them, around, brought);
        }
        around.greet(socket, &Greeting::Welcome(self.me.clone()));
        if let Some(greeted) = self.greetings.get_mut(&socket) {
            greeted.step = Step::Ready { them };
        }
    }

    fn greeting_failed(&mut self, socket: Socket, around: &mut Around<'_>) {
        self.greetings.remove(&socket);
        around.close(socket);
        for line in self.lines.values_mut().filter(|l| l.seeking == Seeking::Greeting { socket }) {
            line.seeking = Seeking::Dial { at: around.now + line.link.failed() };
        }
    }

    /// A connection replaces the current one.
    fn attach(&mut self, socket: Socket, them: &Hello, around: &mut Around<'_>, brought: &mut Vec<Brought>) {
        let (now, peer, start) = (around.now, them.gateway, them.start);
        let known = around.known.get(&peer);
        assert!(
            known.is_some_and(|k| k.start >= start && k.mark == them.incarnation.mark()),
            "{} has a connection to start {start} of {peer}, of which it has only {known:?} on disk",
            self.me.gateway
        );
        self.greetings.remove(&socket);
        let Some(line) = self.lines.get_mut(&peer) else { return around.close(socket) };
        let by = if socket.side == 0 { self.me.gateway } else { peer };
        let dialled = Dialled { by, start };
        if !line.link.takes(dialled) {
            if line.seeking == (Seeking::Greeting { socket }) {
                line.seeking = Seeking::Nothing;
            }
            return around.close(socket);
        }
        match std::mem::replace(&mut line.seeking, Seeking::Nothing) {
            Seeking::Dialling { socket, .. } | Seeking::Probing { socket, .. } => around.close(socket),
            Seeking::Greeting { socket: other } if other != socket => {
                self.greetings.remove(&other);
                around.close(other);
            }
            _ => {}
        }
        if let Some(old) = line.socket.replace(socket) {
            around.close(old);
        }
        line.part.clear();
        (line.heard_ms, line.pressed_back_until) = (now, 0);
        line.link.connected(now, dialled);
        line.said = Arc::default();
        line.lanes.connected();
        brought.push(Brought::Connected(peer));
        let change = self.detector.connected(now, peer, start);
        self.watched.connected(peer, start, &self.detector, change.as_ref());
        self.apply(change, around, brought);
    }

    /// Writes what waits, as far as the connections take it, and heartbeats that are due. Returns how many messages
    /// have left full lanes since the last call.
    pub fn write(
        &mut self,
        around: &mut Around<'_>,
        full: bool,
        note: impl Fn(GatewayId) -> ClockNote,
    ) -> u64 {
        let up: Arc<[GatewayId]> = self.detector.up().into_iter().collect();
        for (peer, line) in &mut self.lines {
            let Some(socket) = line.socket else { continue };
            line.link.says_full(full);
            line.link.says_up(up.clone());
            while around.wires.takes(around.now, socket) {
                let before = line.link.counts();
                let Some(frame) = line.link.next_frame(around.now, || note(*peer)) else { break };
                let holds = line.lanes.took(&line.link, before, &frame);
                around.wires.write(around.random, around.now, socket, &frame, holds);
            }
        }
        self.due = self.deadline(around);
        let displaced = self.lines.values().map(|line| line.link.counts().total().dropped_full).sum();
        displaced - std::mem::replace(&mut self.displaced, displaced)
    }

    fn deadline(&self, around: &mut Around<'_>) -> u64 {
        let now = around.now;
        let mut due = self.tick_at;
        for line in self.lines.values() {
            due = due.min(match line.seeking {
                Seeking::Dial { at } => at,
                Seeking::Probe { at, dial_at, .. } => at.min(dial_at),
                Seeking::Dialling { until, .. } | Seeking::Probing { until, .. } => until,
                Seeking::Nothing | Seeking::Greeting { .. } => u64::MAX,
            });
            if line.pressed_back_until > now {
                due = due.min(line.pressed_back_until);
            }
            let Some(socket) = line.socket else { continue };
            due = due.min(match around.wires.takes(now, socket) {
                true => line.link.heartbeat_at(),
                false => around.wires.takes_at(socket).unwrap_or(u64::MAX),
            });
        }
        for greeted in self.greetings.values() {
            due = due.min(greeted.until);
            if let Step::Write { at, .. } = greeted.step {
                due = due.min(at);
            }
        }
        due.max(now + 1)
    }
}

/// Whether the peer is the one that is known. Each gateway keeps one key.
fn judge(peers: &PeerList, them: &Hello, around: &Around<'_>) -> Result<Option<Known>, PeerRefusal> {
    let Some(named) = peers.get(them.gateway) else {
        return Err(PeerRefusal(format!("{} was just removed from the site", them.gateway)));
    };
    admit(named, around.known.get(&them.gateway), them, key_of(them.incarnation))
}

/// The key that belongs to a data folder.
pub fn key_of(incarnation: Incarnation) -> GatewayKey {
    GatewayKey([incarnation.0 as u8; 32])
}

fn next_tick(now: u64) -> u64 {
    (now / TICK_MS + 1) * TICK_MS
}
