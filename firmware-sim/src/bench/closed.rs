//! The closed loop: every connection keeps its window full, and sends again when a quarter of it is free. One that
//! sent for each acknowledgement would make a broker that answers one by one work on one packet at a time.

use super::lane::{Inbox, Lane, broke};
use super::plan::BenchPlan;
use super::{Shared, Stage, Tally, thread};
use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Starts the threads that keep `in_flight` publishes unacknowledged on each connection.
pub(super) fn start(
    plan: &BenchPlan,
    lanes: Vec<Lane>,
    shared: &Arc<Shared>,
) -> Vec<JoinHandle<Result<Tally, String>>> {
    let mut parts: Vec<Vec<Lane>> = (0..plan.threads).map(|_| Vec::new()).collect();
    for (index, lane) in lanes.into_iter().enumerate() {
        parts[index % plan.threads].push(lane);
    }
    let window = plan.in_flight;
    let start = |lanes| {
        let shared = shared.clone();
        std::thread::spawn(move || {
            let task = |lane, shared, tally| keep_full(lane, window, shared, tally);
            thread::run(lanes, &shared, task, |_| false)
        })
    };
    parts.into_iter().map(start).collect()
}

async fn keep_full(
    Lane { stream, mut devices }: Lane,
    window: usize,
    shared: Arc<Shared>,
    tally: Rc<RefCell<Tally>>,
) -> Result<(), String> {
    let stream = TcpStream::from_std(stream).map_err(|e| broke(&e))?;
    let mut free: Vec<u16> = (1..=window as u16).rev().collect();
    let mut sent_us = vec![0_u64; window + 1];
    let (mut out, mut written) = (Vec::new(), 0);
    let mut inbox = Inbox::default();
    loop {
        let stage = shared.stage();
        if stage < Stage::Drain && free.len() >= window.div_ceil(4) {
            let now_us = shared.now_us();
            let time_ms = shared.wall_ms(now_us);
            tally.borrow_mut().published += free.len() as u64;
            for id in free.drain(..).rev() {
                sent_us[usize::from(id)] = now_us;
                devices.write(id, time_ms, &mut out);
            }
        }
        if stage >= Stage::Drain && free.len() == window {
            return Ok(());
        }
        while written < out.len() {
            match stream.try_write(&out[written..]) {
                Ok(0) => return Err(broke(&"the broker accepts no more bytes")),
                Ok(n) => written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(broke(&e)),
            }
        }
        if written == out.len() {
            out.clear();
            written = 0;
        }
        let interest =
            if out.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        stream.ready(interest).await.map_err(|e| broke(&e))?;
        if !inbox.fill(&stream)? {
            continue;
        }
        let (now_us, stage) = (shared.now_us(), shared.stage());
        let mut tally = tally.borrow_mut();
        inbox.acked(|id| {
            let Some(at) = sent_us.get_mut(usize::from(id)).filter(|at| **at > 0) else { return };
            tally.acked(now_us - std::mem::take(at), stage);
            free.push(id);
        })?;
    }
}
