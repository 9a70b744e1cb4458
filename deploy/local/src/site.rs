//! The site's processes as a whole: start in order, look at all, kill one now and then, stop all.

use crate::folder::Folder;
use crate::http;
use crate::options::Options;
use crate::process::Process;
use crate::programs::Program;
use crate::settings;
use crate::status::{self, Gateway, Leaders, Node};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long everything may take until it is ready.
pub const READY_PATIENCE_MS: u64 = 60_000;

/// How often readiness is asked for.
const READY_POLL_MS: u64 = 50;

/// All processes.
#[derive(Debug)]
pub struct Site {
    gateways: Vec<Process>,
    node: Process,
    http_ports: Vec<u16>,
    node_port: u16,
    leaders: Leaders,
    /// The gateway that was killed and is not ready again.
    down: Option<usize>,
    next_kill: Option<Instant>,
    kill_every: Option<Duration>,
    kills: u64,
}

impl Site {
    /// Starts the node and all gateways.
    ///
    /// # Errors
    /// In words, with what the process said last.
    pub async fn start(options: &Options, folder: &Folder) -> Result<Self, String> {
        let files = settings::write(options, folder)?;
        let log = |name: &str| folder.at(&format!("{name}.log"));
        let node = Process::start(Program::Node, "the node".to_string(), files.node, log("node"))?;
        let mut gateways = Vec::new();
        for (i, config) in files.gateways.into_iter().enumerate() {
            let (name, log) = (format!("gateway {}", i + 1), log(&format!("gateway-{}", i + 1)));
            gateways.push(Process::start(Program::Gateway, name, config, log)?);
        }
        Ok(Self {
            gateways,
            node,
            http_ports: (0..options.gateways).map(|i| options.http_port + i).collect(),
            node_port: options.node_port,
            leaders: Leaders::default(),
            down: None,
            next_kill: None,
            kill_every: options.kill_every,
            kills: 0,
        })
    }

    /// Waits until all are ready.
    ///
    /// # Errors
    /// Names the process that ended, or that is not ready in time.
    pub async fn ready(&mut self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_millis(READY_PATIENCE_MS);
        let mut waiting: Vec<(String, u16)> = vec![("the node".to_string(), self.node_port)];
        waiting.extend(self.gateways.iter().map(|g| g.name.clone()).zip(self.http_ports.iter().copied()));
        while let Some((name, port)) = waiting.last() {
            self.check()?;
            if is_ready(*port).await {
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

    /// That no process has ended by itself.
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
        for (i, port) in self.http_ports.iter().copied().enumerate() {
            asked.spawn(async move { (i, http::glance_json(port, "/v1/status").await) });
        }
        let node = http::glance_json(self.node_port, "/v1/status").await;
        let metrics = http::glance(self.node_port, "/metrics").await.map_or(Vec::new(), |(_, body)| body);
        let mut gateways = vec![Gateway::default(); self.http_ports.len()];
        while let Some(answer) = asked.join_next().await {
            let Ok((i, value)) = answer else { continue };
            if let Some(gateway) = gateways.get_mut(i) {
                *gateway = status::gateway(value.as_ref());
            }
        }
        for (i, gateway) in gateways.iter().enumerate() {
            self.leaders.observe(i, &gateway.leads);
        }
        (gateways, status::node(node.as_ref(), &String::from_utf8_lossy(&metrics)))
    }

    /// Kills a gateway if it is time to, and notes when one that was killed is ready again.
    ///
    /// # Errors
    /// When a killed gateway does not come back.
    pub async fn harass(&mut self, kill: bool) -> Result<(), String> {
        if let Some(index) = self.down {
            let port = self.http_ports.get(index).copied().unwrap_or(0);
            if is_ready(port).await {
                self.down = None;
                self.next_kill = self.kill_every.map(|every| Instant::now() + every);
            }
            return Ok(());
        }
        let Some(every) = self.kill_every.filter(|_| kill) else { return Ok(()) };
        let due = *self.next_kill.get_or_insert_with(|| Instant::now() + every);
        if Instant::now() < due {
            return Ok(());
        }
        let index = fastrand::usize(0..self.gateways.len().max(1));
        if let Some(gateway) = self.gateways.get_mut(index) {
            gateway.kill().await;
            gateway.spawn()?;
            self.kills += 1;
            self.down = Some(index);
        }
        Ok(())
    }

    /// No killed gateway is still on its way back.
    pub fn is_whole(&self) -> bool {
        self.down.is_none()
    }

    /// Gateways killed so far.
    pub fn kills(&self) -> u64 {
        self.kills
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

async fn is_ready(port: u16) -> bool {
    http::glance(port, "/readyz").await.is_some_and(|(status, _)| status == 200)
}
