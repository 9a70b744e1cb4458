//! Which ports the site takes, and whether they are free.

use crate::options::Options;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

/// One port and the option that changes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub port: u16,
    pub what: String,
    /// The option that moves it.
    pub option: &'static str,
}

/// Why the site can't listen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// A range runs past the last port.
    #[error("{what} would be at port {port}, which does not exist; choose a lower {option}")]
    Range {
        port: u32,
        what: String,
        /// The option that moves it.
        option: &'static str,
    },
    /// Two of us want the same.
    #[error("{} and {} both want port {}; move one with {} or {}", .first.what, .second.what, .first.port, .first.option, .second.option)]
    Twice { first: Wanted, second: Wanted },
    /// Someone else has it.
    #[error("port {} for {} is taken ({why}); choose another with {}", .wanted.port, .wanted.what, .wanted.option)]
    Taken {
        wanted: Wanted,
        /// What the system says.
        why: String,
    },
}

/// Loopback and a port.
pub fn local(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

/// All ports that the options ask for.
///
/// # Errors
/// When a range runs past the last port, or two overlap.
pub fn wanted(options: &Options) -> Result<Vec<Wanted>, PortError> {
    let mut all: Vec<Wanted> = Vec::new();
    let mut want = |base: u16, plus: u16, what: String, option: &'static str| {
        let number = u32::from(base) + u32::from(plus);
        let Ok(port) = u16::try_from(number) else {
            return Err(PortError::Range { port: number, what, option });
        };
        let second = Wanted { port, what, option };
        if let Some(first) = all.iter().find(|w| w.port == port) {
            return Err(PortError::Twice { first: first.clone(), second });
        }
        all.push(second);
        Ok(())
    };
    want(options.node_port, 0, "the node's HTTP".to_string(), "--node-port")?;
    want(options.uplink_port, 0, "the node's uplink".to_string(), "--uplink-port")?;
    for i in 0..options.boxes() {
        want(options.mqtt_port, i, format!("MQTT of gateway {}", i + 1), "--mqtt-port")?;
        want(options.http_port, i, format!("HTTP of gateway {}", i + 1), "--http-port")?;
    }
    Ok(all)
}

/// Makes sure that nobody listens there.
///
/// # Errors
/// Names the first port that is taken and the option that changes it.
pub fn check(all: &[Wanted]) -> Result<(), PortError> {
    for wanted in all {
        TcpListener::bind(local(wanted.port))
            .map_err(|e| PortError::Taken { wanted: wanted.clone(), why: e.to_string() })?;
    }
    Ok(())
}

/// Nobody listens on this port, and nobody of us will.
pub fn is_free(port: u16, wanted: &[Wanted]) -> bool {
    !wanted.iter().any(|w| w.port == port) && TcpListener::bind(local(port)).is_ok()
}

/// `count` free ports that are none of `taken`.
///
/// # Errors
/// When the system has none.
pub fn free(count: u16, taken: &[Wanted]) -> std::io::Result<Vec<u16>> {
    let mut ports = Vec::new();
    while ports.len() < usize::from(count) {
        let port = selvedge_ports::claim(1)?;
        if !taken.iter().any(|w| w.port == port) {
            ports.push(port);
        }
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn options(text: &str) -> Options {
        Options::try_parse_from(["x"].into_iter().chain(text.split_whitespace())).unwrap()
    }

    #[test]
    fn a_taken_port_is_named_with_the_option_that_changes_it() {
        let holder = TcpListener::bind(local(0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        for (option, what) in [
            ("--node-port", "the node's HTTP"),
            ("--uplink-port", "the node's uplink"),
            ("--mqtt-port", "MQTT of gateway 1"),
            ("--http-port", "HTTP of gateway 1"),
        ] {
            let all = wanted(&options(&format!("--gateways 1 {option} {port}"))).unwrap();
            let ours: Vec<Wanted> = all.into_iter().filter(|w| w.port == port).collect();
            let said = check(&ours).unwrap_err().to_string();
            assert!(said.contains(&port.to_string()) && said.contains(option), "{said}");
            assert!(said.contains(what), "{said}");
        }
    }

    #[test]
    fn ports_that_collide_or_do_not_exist_are_named() {
        let said = wanted(&options("--mqtt-port 8079")).unwrap_err().to_string();
        assert!(
            said.contains("8080") && said.contains("--mqtt-port") && said.contains("--node-port"),
            "{said}"
        );
        let said = wanted(&options("--http-port 65534")).unwrap_err().to_string();
        assert!(said.contains("65536") && said.contains("--http-port"), "{said}");
        assert_eq!(wanted(&options("--gateways 5")).unwrap().len(), 12);
    }

    #[test]
    fn free_ports_are_different() {
        let mut ports = free(5, &[]).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 5);
    }
}
