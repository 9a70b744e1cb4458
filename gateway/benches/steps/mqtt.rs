//! The connection core: bytes to events, answers to bytes.

use super::load::{SOCKET_READ, payload, topic};
use super::{Measure, Step};
use selvedge_mqtt::{Connection, ConnectionLimits};
use selvedge_types::mqtt::{Ack, Answer, Inbound, Version};

/// What the listener makes room for when it reads so much at once.
const READ_BYTES: usize = 16 * 1024;

pub fn steps(m: &mut impl Measure) {
    for (version, name) in [(Version::V311, "3.1.1"), (Version::V5, "5")] {
        let count = SOCKET_READ as u32;
        m.step(&format!("mqtt {name}: bytes to publishes"), count, || Receive(Client::new(version)));
        m.step(&format!("mqtt {name}: acks to bytes"), count, || Acknowledge(Client::new(version)));
    }
}

struct Client {
    core: Connection,
    version: Version,
    /// What one read of the socket gives.
    read: Vec<u8>,
    events: Vec<Inbound>,
    /// The application's: it keeps a publish until its shard has applied it.
    kept: Vec<Inbound>,
}

impl Client {
    fn new(version: Version) -> Self {
        let mut core = Connection::new(ConnectionLimits::default(), 0);
        let mut events = Vec::new();
        let connect: &[u8] = match version {
            Version::V5 => b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c",
            _ => b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c",
        };
        core.input().extend_from_slice(connect);
        core.received(0, &mut events);
        assert!(matches!(events[..], [Inbound::Connect(_)]));
        events.clear();
        core.answer(0, &mut vec![Answer::Accept(Box::default())], &mut events);
        core.output().clear();
        let read = (1..=SOCKET_READ).flat_map(|id| publish(version, id as u16)).collect();
        Self { core, version, read, events, kept: Vec::new() }
    }

    fn receive(&mut self) {
        let input = self.core.input();
        input.reserve(READ_BYTES);
        input.extend_from_slice(&self.read);
        self.core.received(0, &mut self.events);
    }

    /// Takes the events, and answers them.
    fn answers(&mut self) -> Vec<Answer> {
        self.kept.clear();
        self.kept.append(&mut self.events);
        assert_eq!(self.kept.len(), SOCKET_READ);
        let answer = |event: &Inbound| {
            let Inbound::Publish(publish) = event else { panic!("{event:?}") };
            let ack = Ack::kept(publish.token);
            Answer::Ack(match self.version {
                Version::V5 => ack.with_receipt(format!("s12/{}", 1_000_000 + publish.token)),
                _ => ack,
            })
        };
        self.kept.iter().map(answer).collect()
    }

    fn acknowledge(&mut self, answers: &mut Vec<Answer>) {
        self.core.answer(0, answers, &mut self.events);
    }
}

fn publish(version: Version, packet_id: u16) -> Vec<u8> {
    let (topic, payload) = (topic(123), payload(1_000_000 + u64::from(packet_id)));
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend(packet_id.to_be_bytes());
    if version == Version::V5 {
        body.push(0); // no properties
    }
    body.extend(payload.as_bytes());
    assert!(body.len() < 128, "its length takes one byte");
    [vec![0x32, body.len() as u8], body].concat()
}

struct Receive(Client);

impl Step for Receive {
    type Input = ();
    type Output = ();

    fn prepare(&mut self) {
        if !self.0.events.is_empty() {
            let mut answers = self.0.answers();
            self.0.acknowledge(&mut answers);
            self.0.core.output().clear();
        }
    }

    fn run(&mut self, (): ()) {
        self.0.receive();
    }
}

struct Acknowledge(Client);

impl Step for Acknowledge {
    type Input = Vec<Answer>;
    type Output = Vec<Answer>;

    fn prepare(&mut self) -> Vec<Answer> {
        self.0.core.output().clear();
        self.0.receive();
        self.0.answers()
    }

    fn run(&mut self, mut answers: Vec<Answer>) -> Vec<Answer> {
        self.0.acknowledge(&mut answers);
        answers
    }
}
