//! The connection between a device and a gateway: two streams of bytes that come in pieces, cut anywhere, late, and
//! that end at any time. This module is the gateway's end: the socket around an [`Attendant`], which decides when it
//! reads, writes and waits.

use super::invariants::credit;
use bytes::BytesMut;
use selvedge_mqtt::{Attendant, CreditPool, Wait};
use selvedge_types::mqtt::CloseReason;
use std::sync::Arc;

/// The bytes that may be under way to a device that does not read.
pub const WINDOW_BYTES: usize = 8 * 1024;

/// The next piece of a stream, or its end.
#[derive(Debug, Clone)]
pub enum Piece {
    Bytes(Vec<u8>),
    /// Nothing more comes, but what came before is still read.
    End,
    /// The connection is gone, together with its unread bytes.
    Reset,
}

/// The gateway's end of one connection.
pub struct Line {
    attendant: Attendant,
    credit: Arc<CreditPool>,
    /// Bytes that have come and are not read yet.
    arrived: BytesMut,
    /// How the other end has ended.
    ended: Option<Piece>,
    /// What it waits for; `None` if it has something to do at once.
    wait: Option<Wait>,
    /// How many more bytes the device's end takes.
    room: usize,
}

impl Line {
    pub fn new(attendant: Attendant, credit: Arc<CreditPool>) -> Self {
        Self { attendant, credit, arrived: BytesMut::new(), ended: None, wait: None, room: WINDOW_BYTES }
    }

    pub fn arrives(&mut self, piece: Piece) {
        match piece {
            Piece::Bytes(_) if self.ended.is_some() => {} // it was on its way when the connection ended
            Piece::Bytes(bytes) => self.arrived.extend_from_slice(&bytes),
            Piece::End => self.ended = self.ended.take().or(Some(Piece::End)),
            Piece::Reset => {
                self.arrived.clear();
                self.ended = Some(Piece::Reset);
            }
        }
    }

    /// The device has read this many bytes.
    pub fn gets_room(&mut self, bytes: usize) {
        self.room += bytes;
    }

    /// When it has something to do, if nothing happens before.
    pub fn deadline_ms(&self) -> u64 {
        self.wait.map_or(0, |wait| wait.until_ms.unwrap_or(u64::MAX))
    }

    /// Whether it has something to do now.
    pub fn is_ready(&self, now_ms: u64) -> bool {
        let Some(wait) = self.wait else { return true };
        // Called in any case: a task that runs for another reason takes the call, too.
        self.attendant.was_called()
            || self.can_read(wait)
            || (wait.writes && self.room > 0)
            || matches!(self.ended, Some(Piece::Reset))
            || wait.until_ms.is_some_and(|at| at <= now_ms)
    }

    fn can_read(&self, wait: Wait) -> bool {
        wait.reads && (!self.arrived.is_empty() || self.ended.is_some())
    }

    /// Does what can be done now, as a task would. Returns the bytes that leave, and whether the connection has ended.
    pub fn turn(&mut self, now_ms: u64) -> (Vec<u8>, bool) {
        let mut out = Vec::new();
        if let Some(wait) = self.wait.take() {
            self.woken(wait, now_ms);
        }
        loop {
            if !self.attendant.exchange(now_ms) {
                self.attendant.end(now_ms);
                self.write(&mut out, None);
                return (out, true);
            }
            self.write(&mut out, Some(now_ms));
            let Some(wait) = self.attendant.go_on(now_ms) else { continue };
            if !self.woken(wait, now_ms) && !self.attendant.was_called() {
                self.wait = Some(wait);
                return (out, false);
            }
        }
    }

    /// Does one of the things that it waited for and that is possible now.
    fn woken(&mut self, wait: Wait, now_ms: u64) -> bool {
        if matches!(self.ended, Some(Piece::Reset)) {
            self.attendant.close(CloseReason::Gone);
        } else if self.can_read(wait) {
            self.read(now_ms);
        } else if wait.until_ms.is_some_and(|at| at <= now_ms) {
            self.attendant.tick(now_ms);
        } else {
            return wait.writes && self.room > 0;
        }
        true
    }

    fn read(&mut self, now_ms: u64) {
        if self.arrived.is_empty() {
            return self.attendant.close(CloseReason::Gone);
        }
        let most = self.attendant.most_read_bytes().min(self.arrived.len());
        if most > 0 {
            credit::reads(&self.credit, most);
            let bytes = self.arrived.split_to(most);
            self.attendant.input().extend_from_slice(&bytes);
            self.attendant.received(most, now_ms);
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, now_ms: Option<u64>) {
        let most = self.attendant.output().len().min(self.room);
        out.extend_from_slice(&self.attendant.output()[..most]);
        self.room -= most;
        let Some(now_ms) = now_ms else { return };
        if most > 0 {
            self.attendant.written(most);
        }
        if !self.attendant.output().is_empty() {
            self.attendant.blocked(now_ms);
        }
    }
}
