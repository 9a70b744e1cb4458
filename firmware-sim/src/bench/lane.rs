//! One connection of the generator, and how it is opened.

use super::packet::{self, BOOT_RANGE, BrokerReply, Template};
use super::plan::BenchPlan;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long a broker may take to accept a connection.
const CONNECT_MS: u64 = 10_000;

/// The topics of all simulated devices.
const FILTER: &str = "d/#";

/// What is read from a socket at a time: many acknowledgements, of 4 bytes each.
const READ_BYTES: usize = 4 * 1024;

/// An accepted connection and the devices that publish through it.
#[derive(Debug)]
pub struct Lane {
    /// The socket; it does not block.
    pub stream: TcpStream,
    pub devices: Devices,
}

/// Devices that publish in turn.
#[derive(Debug)]
pub struct Devices {
    templates: Vec<Template>,
    next: usize,
}

impl Devices {
    /// Appends the next reading of the next device.
    pub fn write(&mut self, packet_id: u16, time_ms: u64, out: &mut Vec<u8>) {
        if let Some(template) = self.templates.get_mut(self.next) {
            template.write(packet_id, time_ms, out);
        }
        self.next = (self.next + 1) % self.templates.len().max(1);
    }
}

/// What a broker says on one connection.
#[derive(Debug)]
pub struct Inbox {
    input: Vec<u8>,
    buffer: [u8; READ_BYTES],
}

impl Default for Inbox {
    fn default() -> Self {
        Self { input: Vec::new(), buffer: [0; READ_BYTES] }
    }
}

impl Inbox {
    /// Reads once. False: there was nothing.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn fill(&mut self, stream: &tokio::net::TcpStream) -> Result<bool, String> {
        match stream.try_read(&mut self.buffer) {
            Ok(0) => Err(broke(&"the broker closed it")),
            Ok(n) => {
                self.input.extend_from_slice(&self.buffer[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(e) => Err(broke(&e)),
        }
    }

    /// The packet ids that were acknowledged.
    ///
    /// # Errors
    /// When the broker says what a publisher does not expect.
    pub fn acked(&mut self, mut acked: impl FnMut(u16)) -> Result<(), String> {
        let taken = packet::read(&self.input, |heard| {
            if let BrokerReply::Acked(id) = heard {
                acked(id);
            }
        })?;
        self.input.drain(..taken);
        Ok(())
    }
}

/// In words, that a connection has ended.
pub fn broke(why: &dyn std::fmt::Display) -> String {
    format!("a connection broke: {why}")
}

fn open(target: &str, hello: &[&[u8]]) -> Result<TcpStream, String> {
    let failed = |what: &str, e: &dyn std::fmt::Display| format!("{target}: {what}: {e}");
    let mut addresses =
        target.to_socket_addrs().map_err(|e| failed("not an address (write host:port)", &e))?;
    let address = addresses.next().ok_or_else(|| failed("no address", &"the name has no address"))?;
    let wait = Duration::from_millis(CONNECT_MS);
    let mut stream = TcpStream::connect_timeout(&address, wait).map_err(|e| failed("can't connect", &e))?;
    let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(wait)));
    set.and_then(|()| stream.set_write_timeout(Some(wait)))
        .map_err(|e| failed("can't set up the socket", &e))?;
    for packet in hello {
        stream.write_all(packet).map_err(|e| failed("can't write", &e))?;
        let mut answer = [0; 5];
        let length = if packet.first() == Some(&0x10) { 4 } else { 5 };
        stream.read_exact(&mut answer[..length]).map_err(|e| failed("it did not answer", &e))?;
        let mut refused = None;
        packet::read(&answer[..length], |heard| {
            refused = match heard {
                BrokerReply::Connected(0) | BrokerReply::Subscribed(0..=2) => None,
                other => Some(format!("{other:?}")),
            }
        })
        .map_err(|e| failed("it does not speak MQTT", &e))?;
        if let Some(refused) = refused {
            return Err(failed("it refuses the connection", &refused));
        }
    }
    Ok(stream)
}

/// Opens all connections of a plan.
///
/// # Errors
/// Names the broker and what it said.
pub fn connect_all(plan: &BenchPlan) -> Result<Vec<Lane>, String> {
    let boot = fastrand::u64(BOOT_RANGE);
    let mut lanes = Vec::with_capacity(plan.connections);
    for index in 0..plan.connections {
        let target = &plan.targets[index % plan.targets.len()];
        let client = format!("bench-{boot}-{index}");
        let stream = open(target, &[&packet::connect(plan, &client, true)])
            .map_err(|e| format!("connection {} of {}: {e}", index + 1, plan.connections))?;
        stream.set_nonblocking(true).map_err(|e| format!("{target}: {e}"))?;
        let devices = (index..plan.devices()).step_by(plan.connections);
        let templates = devices.map(|device| Template::new(device, boot)).collect();
        lanes.push(Lane { stream, devices: Devices { templates, next: 0 } });
    }
    Ok(lanes)
}

/// Leaves a subscription behind for which the broker has to store what is published.
///
/// # Errors
/// Names the broker and what it said.
pub fn leave_subscription(plan: &BenchPlan) -> Result<(), String> {
    let target = &plan.targets[0];
    let connect = packet::connect(plan, "bench-subscriber", false);
    let mut stream = open(target, &[&connect, &packet::subscribe(FILTER)])?;
    stream.write_all(&packet::DISCONNECT).map_err(|e| format!("{target}: {e}"))
}
