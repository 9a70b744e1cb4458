//! A client of MQTT 3.1.1 or 5 that does exactly what a test says, packet ids and DUP included.

#![allow(dead_code, reason = "several tests share this, and each uses a part of it")]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub const PUBLISH: u8 = 3;
pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBCOMP: u8 = 7;
pub const PINGRESP: u8 = 13;
pub const DISCONNECT: u8 = 14;
const CONNACK: u8 = 2;
const SUBACK: u8 = 9;

/// How long an expected packet may take.
const WAIT: Duration = Duration::from_secs(20);
/// How long one read waits; the caller bounds the whole wait.
const READ_MS: u64 = 50;

/// The parameters of a CONNECT.
#[derive(Clone, Copy)]
pub struct Hello<'a> {
    id: &'a str,
    v5: bool,
    clean: bool,
    will: Option<(&'a str, &'a str)>,
    keep_alive_s: u8,
}

impl<'a> Hello<'a> {
    /// Version 3.1.1, with a session that ends with the connection.
    pub fn clean(id: &'a str) -> Self {
        Self { id, v5: false, clean: true, will: None, keep_alive_s: 60 }
    }

    /// Version 3.1.1, with a session that outlives the connection.
    pub fn persistent(id: &'a str) -> Self {
        Self { clean: false, ..Self::clean(id) }
    }

    /// The same in version 5, where a session outlives the connection by at most an hour.
    pub fn v5(self) -> Self {
        Self { v5: true, ..self }
    }

    pub fn will(self, topic: &'a str, payload: &'a str) -> Self {
        Self { will: Some((topic, payload)), ..self }
    }

    pub fn keep_alive_s(self, keep_alive_s: u8) -> Self {
        Self { keep_alive_s, ..self }
    }

    fn body(&self) -> Vec<u8> {
        let flags = u8::from(self.clean) << 1 | u8::from(self.will.is_some()) << 2;
        let mut body =
            [text("MQTT"), vec![if self.v5 { 5 } else { 4 }, flags, 0, self.keep_alive_s]].concat();
        match (self.v5, self.clean) {
            (false, _) => {}
            (true, true) => body.push(0),
            (true, false) => body.extend([5, 0x11, 0, 0, 0x0e, 0x10]), // session expiry
        }
        body.extend(text(self.id));
        if let Some((topic, payload)) = self.will {
            body.extend(self.v5.then_some(0)); // no will properties
            body.extend([text(topic), text(payload)].concat());
        }
        body
    }
}

/// A publish that a subscriber received.
#[derive(Debug, PartialEq)]
pub struct Message {
    pub topic: String,
    pub payload: String,
    pub qos: u8,
}

pub struct Client {
    stream: TcpStream,
    v5: bool,
    buffer: Vec<u8>,
    /// Packets (first byte, body) that came while another kind was awaited.
    aside: VecDeque<(u8, Vec<u8>)>,
    ended: bool,
    pub session_present: bool,
}

impl Client {
    /// Connects, or returns the code with which the gateway refused.
    pub fn connect(port: u16, hello: Hello<'_>) -> Result<Self, u8> {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(READ_MS))).unwrap();
        let (buffer, aside) = (Vec::new(), VecDeque::new());
        let mut client = Self { stream, v5: hello.v5, buffer, aside, ended: false, session_present: false };
        client.send(0x10, &hello.body());
        let answer = client.packet(CONNACK);
        client.session_present = answer[0] == 1;
        if answer[1] == 0 { Ok(client) } else { Err(answer[1]) }
    }

    pub fn publish(&mut self, topic: &str, payload: &str, qos: u8, packet_id: u16, dup: bool) {
        self.send(0x30 | u8::from(dup) << 3 | qos << 1, &self.publish_body(topic, payload, qos, packet_id));
    }

    fn publish_body(&self, topic: &str, payload: &str, qos: u8, packet_id: u16) -> Vec<u8> {
        let mut body = text(topic);
        if qos > 0 {
            body.extend(packet_id.to_be_bytes());
        }
        body.extend(self.v5.then_some(0)); // no properties
        body.extend(payload.as_bytes());
        body
    }

    pub fn release(&mut self, packet_id: u16) {
        self.send(0x62, &packet_id.to_be_bytes());
    }

    /// Subscribes with QoS 1.
    pub fn subscribe(&mut self, filter: &str) {
        let properties = if self.v5 { vec![0] } else { Vec::new() };
        self.send(0x82, &[vec![0, 1], properties, text(filter), vec![1]].concat());
        assert_eq!(self.packet(SUBACK).last(), Some(&1));
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn ping(&mut self) {
        self.send(0xc0, &[]);
    }

    pub fn disconnect(mut self) {
        self.send(0xe0, &[]);
        assert!(self.is_closed());
    }

    /// The next packet of this kind, without its fixed header.
    pub fn packet(&mut self, kind: u8) -> Vec<u8> {
        self.packet_within(kind, WAIT).unwrap_or_else(|| panic!("no packet of kind {kind} came"))
    }

    /// The next packet of this kind, if one comes within `wait`.
    pub fn packet_within(&mut self, kind: u8, wait: Duration) -> Option<Vec<u8>> {
        self.find(wait, |first, _| first >> 4 == kind).map(|(_, body)| body)
    }

    /// The packet ids of the next `count` PUBACKs, or fewer if the gateway goes away.
    pub fn acks(&mut self, count: usize) -> Vec<u16> {
        let acks = std::iter::from_fn(|| self.packet_within(PUBACK, WAIT));
        acks.take(count).map(|body| u16::from_be_bytes([body[0], body[1]])).collect()
    }

    /// The next publish whose topic begins with `topic`.
    pub fn message(&mut self, topic: &str) -> Message {
        self.message_within(topic, WAIT).unwrap_or_else(|| panic!("nothing came on {topic}"))
    }

    /// The next publish whose topic begins with `topic`, if one comes within `wait`.
    pub fn message_within(&mut self, topic: &str, wait: Duration) -> Option<Message> {
        let v5 = self.v5;
        let found = self.find(wait, |first, body| {
            first >> 4 == PUBLISH && message(v5, first, body).topic.starts_with(topic)
        });
        found.map(|(first, body)| message(v5, first, &body))
    }

    /// Whether the gateway closes the connection.
    pub fn is_closed(&mut self) -> bool {
        self.find(WAIT, |_, _| false);
        self.ended
    }

    fn find(&mut self, wait: Duration, wanted: impl Fn(u8, &[u8]) -> bool) -> Option<(u8, Vec<u8>)> {
        let start = Instant::now();
        loop {
            while let Some(packet) = self.cut() {
                self.aside.push_back(packet);
            }
            if let Some(at) = self.aside.iter().position(|(first, body)| wanted(*first, body)) {
                return self.aside.remove(at);
            }
            if self.ended || start.elapsed() > wait {
                return None;
            }
            let mut more = [0; 4096];
            match self.stream.read(&mut more) {
                Ok(0) => self.ended = true,
                Ok(n) => self.buffer.extend(&more[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => self.ended = true,
            }
        }
    }

    /// The first complete packet in the buffer. (The lengths here fit into two bytes.)
    fn cut(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, low) = (*self.buffer.first()?, *self.buffer.get(1)?);
        let (length, head) = match low & 0x80 {
            0 => (usize::from(low), 2),
            _ => (usize::from(low & 0x7f) | usize::from(*self.buffer.get(2)?) << 7, 3),
        };
        if self.buffer.len() < head + length {
            return None;
        }
        let packet: Vec<u8> = self.buffer.drain(..head + length).skip(head).collect();
        Some((first, packet))
    }

    fn send(&mut self, first: u8, body: &[u8]) {
        assert!(body.len() < 128);
        self.stream.write_all(&[&[first, body.len() as u8], body].concat()).unwrap();
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

fn message(v5: bool, first: u8, body: &[u8]) -> Message {
    let qos = first >> 1 & 3;
    let (topic, rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
    let rest = &rest[if qos > 0 { 2 } else { 0 }..];
    let rest = if v5 { &rest[1 + usize::from(rest[0])..] } else { rest };
    let string = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Message { topic: string(topic), payload: string(rest), qos }
}
