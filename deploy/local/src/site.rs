//! The site's processes as a whole: starts them in order, asks for their state, injects faults, and stops them.

use crate::faults::{Done, FaultKind, Schedule};
use crate::folder::Folder;
use crate::http;
use crate::net::{self, Cut};
use crate::options::Options;
use crate::process::Process;
use crate::programs::Program;
use crate::settings;
use crate::status::{self, Gateway, Leaders, Node};
use firmware_sim::fleet::Fleet;
use rustix::process::Signal;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long everything may take until it is ready.
pub const READY_PATIENCE_MS: u64 = 60_000;

/// How often readiness is asked for.
const READY_POLL_MS: u64 = 50;

/// The running processes of a site, and the faults done to them.
#[derive(Debug)]
pub struct Site {
    gateways: Vec<Process>,
    node: Process,
    http: Vec<SocketAddrV4>,
    node_http: SocketAddrV4,
    /// The network namespaces, if they have any of their own.
    net: Option<String>,
    leaders: Leaders,
    /// How many shards each gateway led when it was last looked at.
    leading: Vec<u64>,
    schedule: Schedule,
    /// The fault that the site has not got over yet.
    trouble: Option<Trouble>,
}

/// A fault that was done to a gateway.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    gateway: usize,
    kind: FaultKind,
    cut: Option<Cut>,
    heal_at: Instant,
    healed: bool,
}

impl Site {
    /// Starts the node and all gateways.
    ///
    /// # Errors
    /// In words, with what the process said last.
    pub async fn start(options: &Options, folder: &Folder) -> Result<Self, String> {
        let files = settings::write(options, folder)?;
        let log = |name: &str| folder.at(&format!("{name}.log"));
        let (name, own) = ("the node".to_string(), options.node_settings());
        let node = Process::start(Program::Node, name, files.node, log("node"), None, &own)?;
        let own = options.gateway_settings();
        let mut gateways = Vec::new();
        for (i, config) in files.gateways.into_iter().enumerate() {
            let (name, log) = (format!("gateway {}", i + 1), log(&format!("gateway-{}", i + 1)));
            let namespace = options.net.as_ref().map(|net| net::namespace(net, i));
            gateways.push(Process::start(Program::Gateway, name, config, log, namespace, &own)?);
        }
        Ok(Self {
            gateways,
            node,
            http: (0..options.gateways).map(|i| options.http(i)).collect(),
            node_http: options.node_http(),
            net: options.net.clone(),
            leaders: Leaders::default(),
            leading: Vec::new(),
            schedule: Schedule::new(options, Instant::now()),
            trouble: None,
        })
    }

    /// Waits until all are ready.
    ///
    /// # Errors
    /// Names the process that ended, or that is not ready in time.
    pub async fn ready(&mut self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_millis(READY_PATIENCE_MS);
        let mut waiting = vec![("the node".to_string(), self.node_http)];
        waiting.extend(self.gateways.iter().map(|g| g.name.clone()).zip(self.http.iter().copied()));
        while let Some((name, address)) = waiting.last() {
            self.check()?;
            if is_ready(*address).await {
                waiting.pop();
                continue;
            }
            if Instant::now() > until {
                return Err(format!(
                    "{name} is not ready after {} s; its log is in the data folder (keep it with --data-dir)",
                    READY_PATIENCE_MS / 1_000
                ));
            }
            tokio::time::sleep(Duration::from_millis(READY_POLL_MS)).await;
        }
        Ok(())
    }

    /// Checks that no process has ended by itself.
    ///
    /// # Errors
    /// Names it and shows what it said last.
    pub fn check(&mut self) -> Result<(), String> {
        for process in std::iter::once(&mut self.node).chain(&mut self.gateways) {
            if let Some(status) = process.ended() {
                return Err(format!(
                    "{} has ended ({status}); it said:\n{}",
                    process.name,
                    process.log_tail()
                ));
            }
        }
        Ok(())
    }

    /// What everyone says now.
    pub async fn look(&mut self) -> (Vec<Gateway>, Node) {
        let mut asked = JoinSet::new();
        // One that can't answer is not waited for.
        let silent = self.trouble.filter(|t| !t.healed).map(|t| t.gateway);
        for (i, address) in self.http.iter().copied().enumerate().filter(|(i, _)| Some(*i) != silent) {
            asked.spawn(async move { (i, http::glance_json(address, "/v1/status").await) });
        }
        let node = http::glance_json(self.node_http, "/v1/status").await;
        let metrics = http::glance(self.node_http, "/metrics").await.map_or(Vec::new(), |(_, body)| body);
        let mut gateways = vec![Gateway::default(); self.http.len()];
        while let Some(answer) = asked.join_next().await {
            let Ok((i, value)) = answer else { continue };
            if let Some(gateway) = gateways.get_mut(i) {
                *gateway = status::gateway(value.as_ref());
            }
        }
        self.leading = gateways.iter().map(|g| g.leading).collect();
        self.leaders.observe(gateways.iter().map(|g| g.leads.as_slice()));
        (gateways, status::node(node.as_ref(), &String::from_utf8_lossy(&metrics)))
    }

    /// Does to a gateway what is due, heals what has lasted long enough, and notes when all are ready again. When it
    /// may do no more harm, what there is is healed at once.
    ///
    /// # Errors
    /// When a gateway can't be started again, or the network not be cut or mended.
    pub async fn harass(&mut self, fleet: Option<&Fleet>, may: bool) -> Result<(), String> {
        let now = Instant::now();
        match self.trouble {
            Some(trouble) if !trouble.healed => {
                if !may || trouble.heal_at <= now {
                    self.heal(trouble)?;
                    self.trouble = Some(Trouble { healed: true, ..trouble });
                }
            }
            Some(trouble) => {
                let mut ready = true;
                for address in &self.http {
                    ready &= is_ready(*address).await;
                }
                if ready {
                    self.trouble = None;
                    self.schedule.rest(trouble.kind, Instant::now());
                }
            }
            None => {
                if let Some(kind) = may.then(|| self.schedule.next(now)).flatten() {
                    self.strike(kind, fleet).await?;
                }
            }
        }
        Ok(())
    }

    async fn strike(&mut self, kind: FaultKind, fleet: Option<&Fleet>) -> Result<(), String> {
        let leading: Vec<usize> =
            (0..self.gateways.len()).filter(|i| self.leading.get(*i) > Some(&0)).collect();
        let index =
            fastrand::choice(leading).unwrap_or_else(|| fastrand::usize(0..self.gateways.len().max(1)));
        let cut = (kind == FaultKind::Cut).then(|| Cut::random(index, self.gateways.len()));
        let heal_at = Instant::now() + self.schedule.lasts(kind);
        let mut trouble = Trouble { gateway: index, kind, cut, heal_at, healed: false };
        if let Some(fleet) = fleet {
            let name = match kind {
                FaultKind::Kill => "kill",
                FaultKind::Pause => "pause",
                FaultKind::Cut => cut.map_or("cut", Cut::kind),
            };
            fleet.fault(name, index);
        }
        let Some(gateway) = self.gateways.get_mut(index) else { return Ok(()) };
        match kind {
            FaultKind::Kill => gateway.kill().await,
            FaultKind::Pause => gateway.signal(Signal::STOP),
            FaultKind::Cut => {
                if let (Some(cut), Some(net)) = (cut, &self.net) {
                    cut.apply(net, self.gateways.len())?;
                }
            }
        }
        if heal_at <= Instant::now() {
            self.heal(trouble)?;
            trouble.healed = true;
        }
        self.trouble = Some(trouble);
        Ok(())
    }

    fn heal(&mut self, trouble: Trouble) -> Result<(), String> {
        let Some(gateway) = self.gateways.get_mut(trouble.gateway) else { return Ok(()) };
        match trouble.kind {
            FaultKind::Kill => gateway.spawn(),
            FaultKind::Pause => {
                gateway.signal(Signal::CONT);
                Ok(())
            }
            FaultKind::Cut => match (trouble.cut, &self.net) {
                (Some(cut), Some(net)) => cut.mend(net, self.gateways.len()),
                _ => Ok(()),
            },
        }
    }

    /// No fault is still to be healed, and no gateway still on its way back.
    pub fn is_whole(&self) -> bool {
        self.trouble.is_none()
    }

    /// What was done to gateways so far.
    pub fn faults(&self) -> Done {
        self.schedule.done()
    }

    /// Changes of leadership seen so far.
    pub fn leader_changes(&self) -> u64 {
        self.leaders.changes()
    }

    /// Stops all processes, gateways first, and waits until they are gone.
    pub async fn stop(&mut self) {
        let mut stopping = JoinSet::new();
        for mut gateway in self.gateways.drain(..) {
            stopping.spawn(async move { gateway.stop().await });
        }
        while stopping.join_next().await.is_some() {}
        self.node.stop().await;
    }
}

async fn is_ready(address: SocketAddrV4) -> bool {
    http::glance(address, "/readyz").await.is_some_and(|(status, _)| status == 200)
}
