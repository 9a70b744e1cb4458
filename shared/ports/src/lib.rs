//! Loopback ports for programs that this process starts, or starts again, later.
//!
//! A port that the system hands out (`bind` to port 0) is no longer ours once the probing listener closes: the system may
//! give it to another probe, or to an outgoing connection of anyone, before the program that should listen there has
//! started. So this crate takes ports from below the range that systems hand out, and *claims* each one by holding its
//! UDP twin for the life of the process. A UDP socket keeps no TCP listener out, but it keeps out every other process
//! that claims in this way. Claims end with the process, however it ends.
//!
//! Limit: a program that neither claims nor asks the system for a port can still take one.

use std::hash::{BuildHasher, RandomState};
use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::Mutex;

/// Above the ports that services are known by, below those that Linux (32768), macOS and Windows (49152) hand out.
const CLAIMED_FROM: Range<u16> = 12_000..32_000;

/// How many places [`claim`] tries before it gives up.
const TRIES: u64 = 1_000;

/// The UDP twins of all ports that this process has claimed.
static CLAIMS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// Claims `count` loopback ports in a row for the life of this process and returns the first.
///
/// # Errors
/// If no such row was found where neither a listener nor another claim is in the way.
pub fn claim(count: u16) -> Result<u16> {
    let random = RandomState::new();
    let starts = (CLAIMED_FROM.end - CLAIMED_FROM.start).saturating_sub(count);
    let tries = if starts == 0 { 0 } else { TRIES };
    for attempt in 0..tries {
        let plus = random.hash_one(attempt) % u64::from(starts);
        let first = CLAIMED_FROM.start + plus as u16;
        let row: Result<Vec<_>> = (first..first + count).map(claim_one).collect();
        if let Ok(row) = row {
            CLAIMS.lock().unwrap_or_else(|e| e.into_inner()).extend(row);
            return Ok(first);
        }
    }
    Err(Error::new(ErrorKind::AddrInUse, format!("found no {count} free ports in a row in {CLAIMED_FROM:?}")))
}

fn claim_one(port: u16) -> Result<UdpSocket> {
    let twin = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    Ok(twin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claimed_ports_can_be_listened_at_and_are_claimed_once() {
        let mut all = Vec::new();
        for count in [1, 3, 100] {
            let first = claim(count).unwrap();
            all.extend(first..first + count);
        }
        for port in &all {
            TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).unwrap();
            assert!(claim_one(*port).is_err(), "port {port} was claimed twice");
        }
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 104);
    }

    #[test]
    fn a_port_with_a_listener_is_not_claimed() {
        let port = claim(1).unwrap();
        CLAIMS.lock().unwrap().retain(|twin| twin.local_addr().unwrap().port() != port);
        let _holder = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(claim_one(port).is_err());
    }

    #[test]
    fn more_ports_than_there_are_is_an_error() {
        assert_eq!(claim(u16::MAX).unwrap_err().kind(), ErrorKind::AddrInUse);
    }
}
