//! Clients that give up: a publisher that knows which publishes were acknowledged, and a reader of a device's windows.

use serde_json::Value;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The most elements of a set: sums of different powers of two below 2^53 are exact.
pub const MAX_ELEMENTS: u32 = 50;

/// How long a publisher waits for an acknowledgement before it tries another gateway.
const ACK_PATIENCE: Duration = Duration::from_secs(1);
/// How long a reader waits for an answer: longer than any gateway is stopped.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

fn open(port: u16, patience: Duration) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A client of MQTT 3.1.1 with one publish at a time.
pub struct Publisher {
    id: String,
    connection: Option<TcpStream>,
    packet_id: u16,
}

impl Publisher {
    pub fn new(id: String) -> Self {
        assert!(id.len() < 100);
        Self { id, connection: None, packet_id: 0 }
    }

    /// Publishes at QoS 1 at the gateway of this port, or on the current connection. If that fails, the outcome is
    /// unknown and the connection is gone.
    pub fn publish(&mut self, port: u16, topic: &str, payload: &str) -> Result<()> {
        let mut stream = match self.connection.take() {
            Some(stream) => stream,
            None => self.connect(port)?,
        };
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        let id = self.packet_id.to_be_bytes();
        let body = [&text(topic)[..], &id, payload.as_bytes()].concat();
        stream.write_all(&packet(0x32, &body))?;
        // On a connection of its own the next packet is this answer.
        expect(&mut stream, [0x40, 2, id[0], id[1]])?;
        self.connection = Some(stream);
        Ok(())
    }

    fn connect(&self, port: u16) -> Result<TcpStream> {
        let mut stream = open(port, ACK_PATIENCE)?;
        let body = [&text("MQTT")[..], &[4, 2, 0, 60], &text(&self.id)].concat();
        stream.write_all(&packet(0x10, &body))?;
        expect(&mut stream, [0x20, 2, 0, 0])?;
        Ok(stream)
    }
}

fn expect(stream: &mut TcpStream, answer: [u8; 4]) -> Result<()> {
    let mut came = [0; 4];
    stream.read_exact(&mut came)?;
    if came == answer { Ok(()) } else { Err(Error::new(ErrorKind::InvalidData, format!("{came:?}"))) }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    match body.len() {
        n if n < 128 => packet.push(n as u8),
        n => packet.extend([n as u8 | 0x80, (n >> 7) as u8]),
    }
    packet.extend(body);
    packet
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes()[..], text.as_bytes()].concat()
}

/// The elements that a gateway counts for a device, by a linearizable query; an error if it does not answer.
///
/// # Panics
/// If an element is counted twice.
pub fn read(port: u16, device: &str) -> Result<u64> {
    let mut stream = open(port, ANSWER_PATIENCE)?;
    let path = format!("/v1/aggregates?device={device}&from=2020-01-01T00:00:00Z&limit=10000");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let unanswered = || Error::new(ErrorKind::InvalidData, answer.chars().take(100).collect::<String>());
    if !answer.starts_with("HTTP/1.1 200") {
        return Err(unanswered());
    }
    let body = answer.split("\r\n\r\n").nth(1).ok_or_else(unanswered)?;
    let value: Value = serde_json::from_str(body).map_err(|_| unanswered())?;
    assert_eq!(value["consistency"], "linearizable");
    let windows = value["aggregates"].as_array().ok_or_else(unanswered)?;
    let (mut elements, mut count) = (0u64, 0);
    for window in windows {
        let sum = window["sum"].as_f64().ok_or_else(unanswered)?;
        assert!(
            sum.fract() == 0.0 && sum < (1u64 << MAX_ELEMENTS) as f64,
            "{device}: counted twice: {window}"
        );
        assert_eq!(elements & sum as u64, 0, "{device}: counted in two windows: {value}");
        elements |= sum as u64;
        count += window["count"].as_u64().ok_or_else(unanswered)?;
    }
    assert_eq!(u64::from(elements.count_ones()), count, "{device}: something is counted twice: {value}");
    Ok(elements)
}
