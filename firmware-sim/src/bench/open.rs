//! The open loop: readings leave at fixed times, on one thread that does nothing else; acknowledgements are
//! read on another.

use super::lane::{Devices, Inbox, Lane, broke};
use super::plan::BenchPlan;
use super::{LOOK_MS, Shared, Stage, Tally, thread};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{ErrorKind, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;

/// Readings of one connection that are due and not sent, beyond which the generator gives up on the rate.
const MAX_BACKLOG_ENTRIES: usize = 100_000;

/// How soon a connection that had no room is tried again.
const AGAIN_US: u64 = 500;

/// When the publish of each packet id was due, in microseconds since the start; 0: the id is free.
type Slots = Arc<[AtomicU64]>;

/// Starts the threads that send each publish when it is due.
pub(super) fn start(
    plan: &BenchPlan,
    lanes: Vec<Lane>,
    shared: &Arc<Shared>,
) -> Vec<JoinHandle<Result<Tally, String>>> {
    let slots = || (0..plan.in_flight).map(|_| AtomicU64::new(0)).collect::<Slots>();
    let (mut sending, mut reading) = (Vec::new(), Vec::new());
    for Lane { stream, devices } in lanes {
        let slots = slots();
        match stream.try_clone() {
            Ok(copy) => reading.push((copy, slots.clone())),
            Err(e) => shared.fail(format!("can't duplicate a socket: {e}")),
        }
        sending.push(Sender { stream, devices, slots, at: 0, backlog: VecDeque::new(), out: Vec::new() });
    }
    let (interval_us, pacing, heard) = (1e6 / plan.rate, shared.clone(), shared.clone());
    vec![
        std::thread::spawn(move || pace(sending, interval_us, &pacing)),
        std::thread::spawn(move || hear(reading, &heard)),
    ]
}

struct Sender {
    stream: std::net::TcpStream,
    devices: Devices,
    slots: Slots,
    at: usize,
    backlog: VecDeque<u64>,
    out: Vec<u8>,
}

impl Sender {
    /// Sends what is due, and says how many publishes that were; what there is no room for stays.
    fn send(&mut self, shared: &Shared) -> std::io::Result<u64> {
        let mut count = 0;
        while let Some(due_us) = self.backlog.front() {
            let slot = &self.slots[self.at];
            if slot.load(Ordering::Acquire) != 0 {
                break;
            }
            slot.store((*due_us).max(1), Ordering::Release);
            self.devices.write(self.at as u16 + 1, shared.wall_ms(*due_us), &mut self.out);
            self.backlog.pop_front();
            self.at = (self.at + 1) % self.slots.len();
            count += 1;
        }
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => _ = self.out.drain(..n),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(count)
    }

    fn is_behind(&self) -> bool {
        !self.backlog.is_empty() || !self.out.is_empty()
    }
}

fn pace(mut senders: Vec<Sender>, interval_us: f64, shared: &Shared) -> Result<Tally, String> {
    let mut tally = Tally::new()?;
    let first_us = shared.now_us() as f64;
    let (mut n, mut touched) = (0_u64, Vec::new());
    loop {
        let now_us = shared.now_us();
        let due_us = loop {
            let due_us = (first_us + n as f64 * interval_us) as u64;
            if due_us > now_us || shared.stage() >= Stage::Drain {
                break due_us;
            }
            let index = (n % senders.len() as u64) as usize;
            if senders[index].backlog.len() >= MAX_BACKLOG_ENTRIES {
                tally.skipped += 1;
            } else {
                senders[index].backlog.push_back(due_us);
                touched.push(index);
            }
            n += 1;
        };
        for index in touched.drain(..) {
            match senders[index].send(shared) {
                Ok(count) => tally.published += count,
                Err(e) => {
                    shared.fail(broke(&e));
                    return Ok(tally);
                }
            }
        }
        touched.extend((0..senders.len()).filter(|i| senders[*i].is_behind()));
        let stage = shared.stage();
        if stage == Stage::Over || (stage == Stage::Drain && touched.is_empty()) {
            return Ok(tally);
        }
        let next_us = if touched.is_empty() { due_us } else { due_us.min(shared.now_us() + AGAIN_US) };
        std::thread::sleep(Duration::from_micros(
            next_us.saturating_sub(shared.now_us()).min(LOOK_MS * 1_000),
        ));
    }
}

fn hear(streams: Vec<(std::net::TcpStream, Slots)>, shared: &Arc<Shared>) -> Result<Tally, String> {
    let all: Vec<Slots> = streams.iter().map(|(_, slots)| slots.clone()).collect();
    let waits = || all.iter().flat_map(|slots| slots.iter()).any(|slot| slot.load(Ordering::Relaxed) != 0);
    thread::run(streams, shared, hear_one, |stage| stage == Stage::Drain && !waits())
}

async fn hear_one(
    (stream, slots): (std::net::TcpStream, Slots),
    shared: Arc<Shared>,
    tally: Rc<RefCell<Tally>>,
) -> Result<(), String> {
    let stream = TcpStream::from_std(stream).map_err(|e| broke(&e))?;
    let mut inbox = Inbox::default();
    loop {
        stream.readable().await.map_err(|e| broke(&e))?;
        if !inbox.fill(&stream)? {
            continue;
        }
        let (now_us, stage) = (shared.now_us(), shared.stage());
        let mut tally = tally.borrow_mut();
        inbox.acked(|id| {
            let Some(slot) = usize::from(id).checked_sub(1).and_then(|at| slots.get(at)) else { return };
            let due_us = slot.swap(0, Ordering::AcqRel);
            if due_us > 0 {
                tally.acked(now_us.saturating_sub(due_us), stage);
            }
        })?;
    }
}
