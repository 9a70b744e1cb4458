//! Ports for a site of a test.

use std::net::TcpListener;

/// The first of `count` ports in a row that are free now.
pub fn free_ports(count: u16) -> u16 {
    for _ in 0..100 {
        let Ok(probe) = TcpListener::bind("127.0.0.1:0") else { continue };
        let first = probe.local_addr().unwrap().port();
        let row: Vec<_> =
            (1..count).map(|i| first.checked_add(i).map(|p| TcpListener::bind(("127.0.0.1", p)))).collect();
        if row.iter().all(|l| matches!(l, Some(Ok(_)))) {
            return first;
        }
    }
    panic!("no {count} free ports in a row");
}
