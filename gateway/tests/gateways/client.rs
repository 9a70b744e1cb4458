//! A client of MQTT 3.1.1 that does just what a test says, packet ids and DUP included.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub const PUBLISH: u8 = 3;
pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBCOMP: u8 = 7;
pub const PINGRESP: u8 = 13;
const CONNACK: u8 = 2;
const SUBACK: u8 = 9;

/// How long an expected packet may take.
const WAIT: Duration = Duration::from_secs(20);

pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Packets that came while another kind was awaited.
    aside: Vec<(u8, Vec<u8>)>,
    pub session_present: bool,
}

impl Client {
    /// Connects, or says with which code it was refused.
    pub fn connect(port: u16, id: &str, clean: bool, will: Option<(&str, &str)>) -> Result<Self, u8> {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        let mut client = Self { stream, buffer: Vec::new(), aside: Vec::new(), session_present: false };
        let flags = u8::from(clean) << 1 | u8::from(will.is_some()) << 2;
        let mut body = [text("MQTT"), vec![4, flags, 0, 60], text(id)].concat();
        if let Some((topic, payload)) = will {
            body.extend([text(topic), text(payload)].concat());
        }
        client.send(0x10, &body);
        let answer = client.packet(CONNACK);
        client.session_present = answer[0] == 1;
        if answer[1] == 0 { Ok(client) } else { Err(answer[1]) }
    }

    pub fn publish(&mut self, topic: &str, payload: &str, qos: u8, packet_id: u16, dup: bool) {
        let body = [text(topic), packet_id.to_be_bytes().to_vec(), payload.as_bytes().to_vec()].concat();
        self.send(0x30 | u8::from(dup) << 3 | qos << 1, &body);
    }

    pub fn release(&mut self, packet_id: u16) {
        self.send(0x62, &packet_id.to_be_bytes());
    }

    pub fn subscribe(&mut self, filter: &str) {
        self.send(0x82, &[vec![0, 1], text(filter), vec![1]].concat());
        assert_eq!(self.packet(SUBACK), [0, 1, 1]);
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
        self.wait_for(kind).unwrap_or_else(|| panic!("no packet of kind {kind} came"))
    }

    /// The same, if one comes soon.
    pub fn try_packet(&mut self, kind: u8) -> Option<Vec<u8>> {
        self.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let found = self.wait_for(kind);
        self.stream.set_read_timeout(Some(WAIT)).unwrap();
        found
    }

    /// Whether the gateway closes the connection.
    pub fn is_closed(&mut self) -> bool {
        let mut rest = [0; 1024];
        loop {
            match self.stream.read(&mut rest) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    fn wait_for(&mut self, kind: u8) -> Option<Vec<u8>> {
        if let Some(at) = self.aside.iter().position(|(k, _)| *k == kind) {
            return Some(self.aside.remove(at).1);
        }
        loop {
            while let Some((found, body)) = self.cut() {
                if found == kind {
                    return Some(body);
                }
                self.aside.push((found, body));
            }
            let mut more = [0; 4096];
            match self.stream.read(&mut more) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.buffer.extend(&more[..n]),
            }
        }
    }

    /// The first whole packet in the buffer. (The lengths here fit into two bytes.)
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
        Some((first >> 4, packet))
    }

    fn send(&mut self, first: u8, body: &[u8]) {
        assert!(body.len() < 128);
        self.stream.write_all(&[&[first, body.len() as u8], body].concat()).unwrap();
    }
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}
