//! The closed loop: every connection keeps its window full, and sends again when a quarter of it is free. One that
//! sent for each acknowledgement would make a broker that answers one by one work on one packet at a time.

use super::lane::Lane;
use super::packet::{self, Heard};
use super::plan::Plan;
use super::{LOOK_MS, Shared, Stage, Tally};
use std::cell::RefCell;
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What is read from a socket at a time.
const READ_BYTES: usize = 16 * 1024;

/// Starts the threads.
pub(super) fn start(
    plan: &Plan,
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
        std::thread::spawn(move || drive(lanes, window, &shared))
    };
    parts.into_iter().map(start).collect()
}

fn drive(lanes: Vec<Lane>, window: usize, shared: &Arc<Shared>) -> Result<Tally, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| format!("no runtime: {e}"))?;
    let tally = std::rc::Rc::new(RefCell::new(Tally::new()?));
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut tasks = JoinSet::new();
        for lane in lanes {
            let (shared, tally) = (shared.clone(), tally.clone());
            tasks.spawn_local(async move {
                if let Err(why) = keep_full(lane, window, &shared, &tally).await {
                    shared.fail(why);
                }
            });
        }
        let over = async {
            while shared.stage() != Stage::Over {
                tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
            }
        };
        tokio::select! {
            () = async { while tasks.join_next().await.is_some() {} } => {}
            () = over => {}
        }
    });
    drop(local); // the tasks hold the tally
    std::rc::Rc::into_inner(tally).map(RefCell::into_inner).ok_or_else(|| "a connection did not end".into())
}

async fn keep_full(
    mut lane: Lane,
    window: usize,
    shared: &Shared,
    tally: &RefCell<Tally>,
) -> Result<(), String> {
    let failed = |e: &dyn std::fmt::Display| format!("a connection broke: {e}");
    let copy = lane.stream.try_clone().map_err(|e| failed(&e))?;
    let stream = TcpStream::from_std(copy).map_err(|e| failed(&e))?;
    let mut free: Vec<u16> = (1..=window as u16).rev().collect();
    let mut sent_us = vec![0_u64; window + 1];
    let (mut out, mut written) = (Vec::new(), 0);
    let (mut input, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
    loop {
        let stage = shared.stage();
        if stage < Stage::Drain && free.len() >= window.div_ceil(4) {
            let now_us = shared.now_us();
            let time_ms = shared.wall_ms(now_us);
            tally.borrow_mut().published += free.len() as u64;
            for id in free.drain(..).rev() {
                sent_us[usize::from(id)] = now_us;
                lane.write(id, time_ms, &mut out);
            }
        }
        if stage >= Stage::Drain && free.len() == window {
            return Ok(());
        }
        while written < out.len() {
            match stream.try_write(&out[written..]) {
                Ok(0) => return Err(failed(&"it takes nothing")),
                Ok(n) => written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) => return Err(failed(&e)),
            }
        }
        if written == out.len() {
            out.clear();
            written = 0;
        }
        let interest =
            if out.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        stream.ready(interest).await.map_err(|e| failed(&e))?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Err(failed(&"the broker closed it")),
            Ok(n) => input.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
            Err(e) => return Err(failed(&e)),
        }
        let (now_us, stage) = (shared.now_us(), shared.stage());
        let mut tally = tally.borrow_mut();
        let taken = packet::read(&input, |heard| {
            let Heard::Acked(id) = heard else { return };
            let Some(at) = sent_us.get_mut(usize::from(id)).filter(|at| **at > 0) else { return };
            tally.acked(now_us - std::mem::take(at), stage);
            free.push(id);
        })?;
        input.drain(..taken);
    }
}
