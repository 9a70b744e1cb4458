//! What devices send: 1,000 of them, each with its sequence numbers.

use selvedge_fabric::forward::{Forwardable, NamedReading, Ticket};
use selvedge_fabric::machine::{Command, Item, Origin, Proposal, Reading, Submission};
use selvedge_types::ids::GatewayId;
use selvedge_types::time::{ElapsedMs, EpochMs};
use selvedge_types::uplink::StreamName;
use std::sync::Arc;

pub const DEVICES: usize = 1_000;
pub const BATCH: usize = 200;
pub const SOCKET_READ: usize = 100;
pub const START_MS: i64 = 1_764_000_000_000;
pub const BOOT: u64 = 123_456;
pub const ORIGIN: Origin = Origin { gateway: GatewayId(1), start: 1 };

/// How readings are spread over devices and time.
#[derive(Clone, Copy)]
pub enum Mix {
    /// Each device sends one reading a second: a batch holds one of each of 200 devices.
    Spread,
    /// Each device sends 100 a second, at once: a batch holds those of two devices.
    Bursts,
}

pub const MIXES: [(Mix, &str); 2] = [(Mix::Spread, "200 devices"), (Mix::Bursts, "2 devices")];

pub fn device(i: usize) -> String {
    format!("dev-{i:06}")
}

pub fn topic(i: usize) -> String {
    format!("d/{}/temp", device(i))
}

pub fn payload(seq: u64) -> String {
    format!(r#"{{"value":21.532,"ts":{},"seq":{seq},"boot":{BOOT}}}"#, START_MS + 250)
}

/// Gives batch after batch.
pub struct Load {
    mix: Mix,
    names: Vec<Arc<StreamName>>,
    seqs: Vec<u64>,
    next: usize,
    now: i64,
    n: u64,
}

impl Load {
    pub fn new(mix: Mix) -> Self {
        let name = |i| StreamName { device: device(i), stream: "temp".into() };
        let names = (0..DEVICES).map(name).map(Arc::new).collect();
        Self { mix, names, seqs: vec![1_000_000; DEVICES], next: 0, now: START_MS, n: 0 }
    }

    /// The time when the last batch was taken in.
    pub fn now(&self) -> EpochMs {
        EpochMs(self.now)
    }

    /// Devices and their readings, in the order in which they came.
    fn batch(&mut self) -> Vec<(usize, Reading)> {
        let (devices, each, pause_ms) = match self.mix {
            Mix::Spread => (BATCH, 1, 200),
            Mix::Bursts => (2, BATCH / 2, 2),
        };
        self.now += pause_ms;
        let mut batch = Vec::with_capacity(BATCH);
        for _ in 0..devices {
            let device = self.next;
            self.next = (device + 1) % DEVICES;
            for i in 0..each {
                self.seqs[device] += 1;
                let seq = self.seqs[device];
                let time = EpochMs(self.now - (each - 1 - i) as i64 * 10);
                let value = 21.0 + (seq % 100) as f64 / 10.0;
                let reading =
                    Reading { stream: 0, time: Some(time), value, seq: Some(seq), boot: Some(BOOT) };
                batch.push((device, reading));
            }
        }
        batch
    }

    /// As sessions give it to the forwarder.
    pub fn items(&mut self) -> Vec<(Ticket, Forwardable)> {
        let batch = self.batch();
        let item = |(token, (device, reading)): (u64, (usize, Reading))| {
            let reading = NamedReading { name: self.names[device].clone(), maker: None, reading };
            (Ticket { connection: device as u64, token }, Forwardable::Reading(reading))
        };
        (1..).zip(batch).map(item).collect()
    }

    /// As the forwarder encodes it.
    pub fn submission(&mut self) -> Submission {
        let mut submission = Submission::default();
        let mut last = None;
        for (device, mut reading) in self.batch() {
            if last != Some(device) {
                submission.streams.push((*self.names[device]).clone());
                last = Some(device);
            }
            reading.stream = submission.streams.len() as u32 - 1;
            submission.items.push(Item::Reading(reading));
        }
        submission
    }

    /// The next submission under its number.
    pub fn forwarded(&mut self) -> Command {
        self.n += 1;
        Command::Forwarded { origin: ORIGIN, n: self.n, submission: self.submission().encode().into() }
    }

    /// As the leader proposes it.
    pub fn proposal(&mut self) -> Proposal {
        let commands = vec![self.forwarded()];
        let wall = self.now();
        let elapsed = ElapsedMs((wall.0 - START_MS) as u64);
        Proposal { elapsed, wall, sure: true, commands }
    }
}
