//! A network that can be cut: each gateway in a network namespace of its own, all on one bridge in another,
//! where the node and the devices are.
//!
//! The program starts itself a second time, within the namespace of the bridge, and removes all namespaces
//! when that has ended, in whatever way. Their names carry the outer process's id; those of processes that
//! are gone are removed at the next start. Addresses exist within the namespaces only.
//!
//! A cut is a neighbour entry that leads to an address nobody has: what is sent is lost without a word, as by
//! a dead switch, in one direction for each entry. (A cable that is pulled is the interface, down.) Nothing but
//! `ip` is needed.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::process::{Command, ExitCode, Stdio};

/// The option that passes the namespaces to the inner program.
pub const OPTION: &str = "--net";

/// What all names of namespaces begin with.
const PREFIX: &str = "selvedge-";

/// A link address that nobody has: frames to a neighbour that is cut off go there.
const NOWHERE: &str = "02:00:00:00:00:00";

/// The interface of a gateway.
const INTERFACE: &str = "eth0";

/// The address of gateway `index` within the namespaces.
pub fn gateway(index: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 83, 0, u8::try_from(index + 1).unwrap_or(1))
}

/// The address of the node and the devices within the namespaces.
pub const NODE: Ipv4Addr = Ipv4Addr::new(10, 83, 0, 254);

/// The namespace of gateway `index`.
pub fn namespace(net: &str, index: usize) -> String {
    format!("{net}-g{}", index + 1)
}

fn ip(args: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("can't run the program ip: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim()))
}

/// The namespaces of one site; dropped, they are removed.
struct Namespaces {
    net: String,
}

impl Namespaces {
    fn create(gateways: u16) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() || ip(&["-V"]).is_err() {
            return Err("--cut-every needs root and the program ip (on Debian: apt-get install iproute2): \
                        each gateway is put into a network namespace of its own"
                .to_string());
        }
        sweep(|pid| std::path::Path::new("/proc").join(pid).exists());
        let all = Self { net: format!("{PREFIX}{}", std::process::id()) };
        let hub = all.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "addr", "add", &format!("{NODE}/24"), "dev", "bridge"])?;
        for device in ["lo", "bridge"] {
            ip(&["-n", &hub, "link", "set", device, "up"])?;
        }
        for index in 0..gateways {
            let (own, port) = (namespace(&all.net, usize::from(index)), format!("g{}", index + 1));
            ip(&["netns", "add", &own])?;
            ip(&[
                "-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", INTERFACE, "netns", &own,
            ])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
            ip(&["-n", &own, "addr", "add", &format!("{}/24", gateway(index)), "dev", INTERFACE])?;
            for device in ["lo", INTERFACE] {
                ip(&["-n", &own, "link", "set", device, "up"])?;
            }
        }
        Ok(all)
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.net)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let own = self.net.clone();
        sweep(|pid| format!("{PREFIX}{pid}") != own);
    }
}

/// Removes the namespaces of all processes that are not to keep them.
fn sweep(keeps: impl Fn(&str) -> bool) {
    let list = ip(&["netns", "list"]).unwrap_or_default();
    for name in list.lines().filter_map(|line| line.split_whitespace().next()) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(pid, _)| pid);
        let ours = pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()));
        if ours && !pid.is_some_and(&keeps) {
            let _ = ip(&["netns", "del", name]); // another start may sweep at the same time
        }
    }
}

/// Starts this program again within namespaces, waits for it, and removes them.
///
/// # Errors
/// In words: why there are no namespaces, or why it does not start.
pub async fn within(
    gateways: u16,
    arguments: &[OsString],
    mut asked: tokio::sync::watch::Receiver<u32>,
) -> Result<ExitCode, String> {
    let all = Namespaces::create(gateways)?;
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut inner = tokio::process::Command::new("ip")
        .args(["netns", "exec", &all.hub()])
        .arg(exe)
        .args(arguments.iter().skip(1))
        .args([OPTION, &all.net])
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| e.to_string())?;
    let pid = inner.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    loop {
        tokio::select! {
            ended = inner.wait() => {
                let code = ended.ok().and_then(|status| status.code()).and_then(|c| u8::try_from(c).ok());
                return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
            }
            Ok(()) = asked.changed() => {
                if let Some(pid) = pid {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
                }
            }
        }
    }
}

/// Has this process end when the one that made the namespaces does.
pub fn end_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
}

/// What of a gateway's network is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It and one other gateway don't hear each other.
    Pair(usize, usize),
    /// Nothing gets from it to any other gateway, though all gets from them to it.
    Mute(usize),
    /// It and all other gateways don't hear each other; its devices stay with it.
    Island(usize),
    /// Its cable is pulled.
    Cable(usize),
    /// Its cable is pulled and its process is killed; the process is started again once the cable is back.
    Dark(usize),
}

/// The kinds of [`Cut`], as the option names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CutKind {
    Pair,
    Mute,
    Island,
    Cable,
}

impl CutKind {
    const ALL: [Self; 4] = [Self::Pair, Self::Mute, Self::Island, Self::Cable];
}

impl Cut {
    /// One that concerns this gateway first of all, of this kind or of any, by chance.
    pub fn random(kind: Option<CutKind>, gateway: usize, gateways: usize) -> Self {
        let other = (gateway + 1 + fastrand::usize(0..gateways.saturating_sub(1).max(1))) % gateways.max(1);
        match kind.or_else(|| fastrand::choice(CutKind::ALL)) {
            Some(CutKind::Pair) => Self::Pair(gateway, other),
            Some(CutKind::Mute) => Self::Mute(gateway),
            Some(CutKind::Island) => Self::Island(gateway),
            Some(CutKind::Cable) | None => Self::Cable(gateway),
        }
    }

    /// The cut of this turn, where each of the gateways is hit in turn: first all of them as islands, then all of them dark.
    pub fn in_turn(turn: usize, gateways: usize) -> Self {
        let (gateway, round) = (turn % gateways.max(1), turn / gateways.max(1));
        if round.is_multiple_of(2) { Self::Island(gateway) } else { Self::Dark(gateway) }
    }

    /// A word for it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Pair(..) => "pair cut",
            Self::Mute(_) => "mute",
            Self::Island(_) => "island",
            Self::Cable(_) => "cable",
            Self::Dark(_) => "dark",
        }
    }

    /// From whom nothing gets to whom.
    fn losses(self, gateways: usize) -> Vec<(usize, usize)> {
        let others = |me: usize| (0..gateways).filter(move |other| *other != me);
        match self {
            Self::Pair(a, b) => vec![(a, b), (b, a)],
            Self::Mute(me) => others(me).map(|other| (me, other)).collect(),
            Self::Island(me) => others(me).flat_map(|other| [(me, other), (other, me)]).collect(),
            Self::Cable(_) | Self::Dark(_) => Vec::new(),
        }
    }

    /// Cuts.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn apply(self, net: &str, gateways: usize) -> Result<(), String> {
        self.change(net, gateways, true)
    }

    /// Puts it right again.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn mend(self, net: &str, gateways: usize) -> Result<(), String> {
        self.change(net, gateways, false)
    }

    fn change(self, net: &str, gateways: usize, cut: bool) -> Result<(), String> {
        if let Self::Cable(me) | Self::Dark(me) = self {
            let state = if cut { "down" } else { "up" };
            ip(&["-n", &namespace(net, me), "link", "set", INTERFACE, state])?;
        }
        for (from, to) in self.losses(gateways) {
            let (own, to) = (namespace(net, from), gateway(u16::try_from(to).unwrap_or(0)).to_string());
            let entry: &[&str] = if cut {
                &["neigh", "replace", &to, "lladdr", NOWHERE, "dev", INTERFACE, "nud", "permanent"]
            } else {
                &["neigh", "del", &to, "dev", INTERFACE]
            };
            ip(&[&["-n", own.as_str()], entry].concat())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cut_loses_what_its_name_says() {
        assert_eq!(Cut::Pair(0, 2).losses(3), [(0, 2), (2, 0)]);
        assert_eq!(Cut::Mute(1).losses(3), [(1, 0), (1, 2)]);
        assert_eq!(Cut::Island(0).losses(3), [(0, 1), (1, 0), (0, 2), (2, 0)]);
        let turns: Vec<_> = (0..6).map(|turn| Cut::in_turn(turn, 3)).collect();
        let wanted = [0, 1, 2].map(Cut::Island).into_iter().chain([0, 1, 2].map(Cut::Dark));
        assert_eq!(turns, wanted.collect::<Vec<_>>());
        for _ in 0..100 {
            for (from, to) in Cut::random(None, 2, 3).losses(3) {
                assert!(from != to && from < 3 && to < 3);
            }
            assert!(matches!(Cut::random(Some(CutKind::Pair), 2, 3), Cut::Pair(2, 0 | 1)));
        }
    }
}
