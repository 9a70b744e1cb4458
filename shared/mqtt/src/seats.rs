//! Who may have a connection: seats, shared out so that one address does not keep others out.
//!
//! - An address holds at most [`SHARE`] times what is still free, so that however many connections one address opens, one in
//!   [`SHARE`] + 1 seats is left for others; with k such addresses, one in [`SHARE`] k + 1. While seats are plenty nobody notices.
//! - A connection that has not said CONNECT has a seat for the time being: of these there are at most half as many as there are seats, and a
//!   further one takes the seat of another, the oldest of the address that has the most of them. Sockets that say nothing
//!   so displace each other, and not whoever speaks.
//!
//! An IPv6 address counts by its first 64 bits, since the holder of one such address holds all of them.

use super::ListenerConfig;
use super::handle::Handle;
use selvedge_types::mqtt::CloseReason;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many times what is still free an address may hold.
const SHARE: usize = 7;

/// The address range whose connections count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Address {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip.octets()),
            IpAddr::V6(ip) => {
                let mut network = [0; 8];
                network.copy_from_slice(&ip.octets()[..8]);
                Self::V6(network)
            }
        }
    }
}

/// What an address holds.
#[derive(Debug, Default)]
struct Held {
    seats: usize,
    /// The connections without CONNECT, by their number, and so by age.
    silent: BTreeMap<u64, Arc<Handle>>,
}

/// At most as many addresses as seats.
#[derive(Debug, Default)]
struct Taken {
    seats: usize,
    silent: usize,
    by_address: HashMap<Address, Held>,
}

/// The seats of a listener.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    most_of_address: usize,
    taken: Mutex<Taken>,
}

/// Holds a seat for as long as it lives.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    of: Address,
    number: u64,
}

impl Seats {
    pub fn new(config: &ListenerConfig) -> Arc<Self> {
        let (most, most_of_address) = (config.max_connections, config.max_connections_per_address);
        Arc::new(Self { most, most_of_address, taken: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for one more connection, or why there is none.
    pub fn take(self: &Arc<Self>, handle: &Arc<Handle>) -> Result<Seat, CloseReason> {
        let (of, number) = (Address::from(handle.peer_addr().ip()), handle.id());
        let mut taken = self.lock();
        let free = self.most.saturating_sub(taken.seats);
        if free == 0 {
            return Err(CloseReason::NoSeat);
        }
        let held = taken.by_address.get(&of).map_or(0, |held| held.seats);
        if held >= self.most_of_address || held >= SHARE.saturating_mul(free) {
            return Err(CloseReason::NoSeatForAddress);
        }
        let displaced = (taken.silent >= (self.most / 2).max(1)).then(|| taken.displace()).flatten();
        taken.seats += 1;
        taken.silent += 1;
        let held = taken.by_address.entry(of).or_default();
        held.seats += 1;
        held.silent.insert(number, handle.clone());
        drop(taken);
        if let Some(displaced) = displaced {
            displaced.close(CloseReason::NoConnect);
        }
        Ok(Seat { seats: self.clone(), of, number })
    }
}

impl Taken {
    /// Chooses the connection that loses its seat. The seat is free once that connection's task has ended, a moment later.
    fn displace(&mut self) -> Option<Arc<Handle>> {
        let held = self.by_address.values_mut().max_by_key(|held| held.silent.len())?;
        let (_, handle) = held.silent.pop_first()?;
        self.silent -= 1;
        Some(handle)
    }
}

impl Seat {
    /// CONNECT has come: nobody displaces the seat's holder from now on.
    pub fn keep(&self) {
        let mut taken = self.seats.lock();
        let silent = taken.by_address.get_mut(&self.of).and_then(|held| held.silent.remove(&self.number));
        taken.silent -= usize::from(silent.is_some());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.keep();
        let mut taken = self.seats.lock();
        taken.seats -= 1;
        if let Some(held) = taken.by_address.get_mut(&self.of) {
            held.seats -= 1;
            if held.seats == 0 {
                taken.by_address.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConnectionLimits;

    fn seats(most: usize) -> Arc<Seats> {
        let config = ListenerConfig {
            address: ([127, 0, 0, 1], 0).into(),
            max_connections: most,
            max_connections_per_address: most,
            limits: ConnectionLimits::default(),
        };
        Seats::new(&config)
    }

    fn handle(number: u64, ip: [u8; 4]) -> Arc<Handle> {
        Arc::new(Handle::new(number, (ip, 1).into(), &ConnectionLimits::default(), Arc::default()))
    }

    #[test]
    fn one_address_leaves_seats_for_others_and_silent_ones_displace_each_other() {
        let seats = seats(512);
        let (greedy, other) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let (mut held, mut handles, mut refused) = (Vec::new(), Vec::new(), 0);
        for number in 1..=1_300 {
            let handle = handle(number, greedy);
            match seats.take(&handle) {
                Ok(seat) => held.push(seat),
                Err(why) => {
                    assert_eq!(why, CloseReason::NoSeatForAddress);
                    refused += 1;
                }
            }
            handles.push(handle);
            // The tasks of those that were displaced end.
            held.retain(|seat| handles[seat.number as usize - 1].close_asked().is_none());
        }
        assert_eq!((held.len(), refused), (256, 0), "silent ones take half at most");
        held.iter().for_each(Seat::keep);
        for number in 1_301..=2_600 {
            if let Ok(seat) = seats.take(&handle(number, greedy)) {
                seat.keep();
                held.push(seat);
            }
        }
        assert_eq!(held.len(), 448, "of one address");
        let own = (0..60).map(|n| seats.take(&handle(3_000 + n, other)));
        assert_eq!(own.collect::<Vec<_>>().into_iter().filter(Result::is_ok).count(), 56);
        drop(held);
        let taken = seats.lock();
        assert_eq!((taken.seats, taken.silent, taken.by_address.len()), (0, 0, 0));
    }

    #[test]
    fn an_address_of_ipv6_is_its_network() {
        let of = |text: &str| Address::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
