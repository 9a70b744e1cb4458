//! Credit: how many bytes of publishes a program may hold, whoever sent them.
//!
//! A publish is in memory from its first byte until it is answered: first with its connection, while it comes and while it is parked,
//! then with the application. Each holder counts what it has with a plain number, and settles the difference with the one pool once
//! for all that it did in a turn ([`Charge::set`]), not for each publish.
//!
//! Credit is asked for at the door, before something is read, and never for what is in memory already, so that nobody who holds
//! credit waits for more of it:
//! - While no more than half of the pool is taken, connections read as they like, each within its own bounds ([`super::ConnectionLimits`]).
//! - Beyond that the pool is tight. A connection then reads what is its own in any case ([`RESERVE_BYTES`], which is not charged), so
//!   that small publishes, acknowledgements and pings still pass; of what is larger, a packet for all of which there is room, which is
//!   charged at once. Any other stays in the socket, and TCP presses its client back. Nothing is closed or dropped for it.
//! - While the pool is tight, publishes are handed up one by one, once what the application has of the connection is within its own.
//!
//! Invariant: `used` is the sum of all charges.
//! Limits: charges exceed the pool by what threads take at the same moment, one read or packet each, and by what is each
//! connection's own. A publish counts its topic, its payload and [`super::QUEUED_OVERHEAD_BYTES`]; it may keep the rest of a read
//! buffer of up to [`super::MAX_READ_BYTES`] alive while its neighbours there are answered before it. Who sends a packet slowly
//! keeps its room for as long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a connection may hold in any case.
pub const RESERVE_BYTES: usize = 4 * 1024;

/// The credit of a program that says nothing else.
pub const DEFAULT_CREDIT_BYTES: usize = 32 * 1024 * 1024;

/// What may be held, and how much of it is.
#[derive(Debug)]
pub struct CreditPool {
    most_bytes: usize,
    used_bytes: AtomicUsize,
}

impl Default for CreditPool {
    fn default() -> Self {
        Self::new(DEFAULT_CREDIT_BYTES)
    }
}

impl CreditPool {
    /// A pool of which nothing is taken yet.
    pub fn new(most_bytes: usize) -> Self {
        Self { most_bytes, used_bytes: AtomicUsize::new(0) }
    }

    /// How many bytes are taken.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// What a connection may do now. `held_bytes` is what the application has of it.
    pub fn lend(&self, held_bytes: usize) -> Loan {
        let used = self.used_bytes();
        let is_tight = used > self.most_bytes / 2;
        Loan { left_bytes: is_tight.then(|| self.most_bytes.saturating_sub(used)), held_bytes }
    }
}

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loan {
    /// How much is left of the pool, while it is tight.
    pub left_bytes: Option<usize>,
    /// What the application has of the connection's publishes.
    pub held_bytes: usize,
}

/// What one holder has taken; given back when it is dropped. For one thread at a time.
#[derive(Debug)]
pub struct Charge {
    pool: Arc<CreditPool>,
    bytes: AtomicUsize,
}

impl Charge {
    /// A charge that has taken nothing of the pool yet.
    pub fn new(pool: Arc<CreditPool>) -> Self {
        Self { pool, bytes: AtomicUsize::new(0) }
    }

    /// What it is taken from.
    pub fn pool(&self) -> &CreditPool {
        &self.pool
    }

    /// Sets how many bytes are held now.
    pub fn set(&self, bytes: usize) {
        let before = self.bytes.load(Ordering::Relaxed);
        if bytes > before {
            self.pool.used_bytes.fetch_add(bytes - before, Ordering::Relaxed);
        } else if bytes < before {
            self.pool.used_bytes.fetch_sub(before - bytes, Ordering::Relaxed);
        }
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_the_sum_of_its_charges_and_is_tight_beyond_half() {
        let pool = Arc::new(CreditPool::new(1_000));
        let [a, b] = [(); 2].map(|()| Charge::new(pool.clone()));
        a.set(300);
        b.set(200);
        assert_eq!(pool.lend(7), Loan { left_bytes: None, held_bytes: 7 });
        a.set(301);
        assert_eq!(pool.lend(0), Loan { left_bytes: Some(499), held_bytes: 0 });
        b.set(2_000);
        assert_eq!(pool.lend(0).left_bytes, Some(0));
        drop(b);
        assert_eq!(pool.used_bytes(), 301);
        a.set(0);
        assert_eq!(pool.used_bytes(), 0);
    }
}
