//! The site's processes as a whole: starts them in order, asks for their state, injects faults, and stops them.

use crate::faults::{Done, FaultKind, Schedule};
use crate::folder::Folder;
use crate::growth::{Change, ChangeKind, Next, Request};
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
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How long everything may take until it is ready.
pub const READY_PATIENCE_MS: u64 = 60_000;

/// How often readiness is asked for.
const READY_POLL_MS: u64 = 50;

/// The running processes of a site, and the faults done to them.
#[derive(Debug)]
pub struct Site {
    /// A place for each gateway, those that may join included.
    boxes: Vec<SiteBox>,
    node: Process,
    node_http: SocketAddrV4,
    /// The network namespaces, if they have any of their own.
    net: Option<String>,
    leaders: Leaders,
    schedule: Schedule,
    /// The fault that the site has not got over yet.
    trouble: Option<Trouble>,
    /// The change of the site's gateways that is under way.
    growth: Option<Growth>,
    /// How many faults there were, where they hit the boxes in turn.
    turns: usize,
    /// What new gateways' files are made of.
    options: Options,
    folder: PathBuf,
}

/// A place for a gateway: its addresses, and the process that runs there.
#[derive(Debug)]
struct SiteBox {
    process: Option<Process>,
    /// The number of the gateway that runs here.
    id: u64,
    http: SocketAddrV4,
    /// How many shards it led when it was last looked at.
    leading: u64,
}

/// A change of the site's gateways, and the box that it concerns.
#[derive(Debug)]
struct Growth {
    change: Change,
    at: usize,
    /// Where a new gateway listens for the others.
    peer_port: u16,
    /// The site has settled; it remains to wait until all gateways are ready.
    settled: bool,
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
    /// Starts the node and all gateways with which the site begins.
    ///
    /// # Errors
    /// In words, with what the process said last.
    pub async fn start(options: &Options, folder: &Folder) -> Result<Self, String> {
        let files = settings::write(options, folder)?;
        let log = |name: &str| folder.at(&format!("{name}.log"));
        let (name, own) = ("the node".to_string(), options.node_settings());
        let node = Process::start(Program::Node, name, files.node, log("node"), None, &own)?;
        let mut boxes = Vec::new();
        for (at, http) in (0..options.boxes()).map(|i| options.http(i)).enumerate() {
            let config = files.gateways.get(at).cloned();
            let process = config.map(|config| gateway(options, folder.path(), at, config)).transpose()?;
            boxes.push(SiteBox { process, id: at as u64 + 1, http, leading: 0 });
        }
        Ok(Self {
            boxes,
            node,
            node_http: options.node_http(),
            net: options.net.clone(),
            leaders: Leaders::default(),
            schedule: Schedule::new(options, Instant::now()),
            trouble: None,
            growth: None,
            turns: 0,
            options: options.clone(),
            folder: folder.path().to_path_buf(),
        })
    }

    /// Waits until all are ready.
    ///
    /// # Errors
    /// Names the process that ended, or that is not ready in time.
    pub async fn ready(&mut self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_millis(READY_PATIENCE_MS);
        let mut waiting = vec![("the node".to_string(), self.node_http)];
        let running = self.boxes.iter().filter_map(|b| Some((b.process.as_ref()?.name.clone(), b.http)));
        waiting.extend(running);
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
        if self.options.witness { self.add_witness(until).await } else { Ok(()) }
    }

    /// Lets the witness join, and waits until it votes wherever it should.
    async fn add_witness(&mut self, until: Instant) -> Result<(), String> {
        let at = usize::from(self.options.gateways);
        let peer_port = selvedge_ports::claim(1).map_err(|e| format!("no free port: {e}"))?;
        let address = SocketAddrV4::new(self.options.gateway_host(at as u16), peer_port);
        let change = Change::new(ChangeKind::JoinAsWitness, address.to_string());
        self.growth = Some(Growth { change, at, peer_port, settled: false });
        while self.growth.is_some() {
            self.check()?;
            if Instant::now() > until {
                return Err(format!(
                    "the witness has not joined within {} s; its log is gateway-{}.log in the data folder",
                    READY_PATIENCE_MS / 1_000,
                    at + 1
                ));
            }
            self.grow().await?;
            tokio::time::sleep(Duration::from_millis(READY_POLL_MS)).await;
        }
        Ok(())
    }

    /// Checks that no process has ended by itself.
    ///
    /// # Errors
    /// Names it and shows what it said last.
    pub fn check(&mut self) -> Result<(), String> {
        let gateways = self.boxes.iter_mut().filter_map(|b| b.process.as_mut());
        for process in std::iter::once(&mut self.node).chain(gateways) {
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
        let running =
            self.boxes.iter().enumerate().filter(|(i, b)| b.process.is_some() && Some(*i) != silent);
        for (i, address) in running.map(|(i, b)| (i, b.http)) {
            asked.spawn(async move { (i, http::glance_json(address, "/v1/status").await) });
        }
        let node = http::glance_json(self.node_http, "/v1/status").await;
        let metrics = http::glance(self.node_http, "/metrics").await.map_or(Vec::new(), |(_, body)| body);
        let mut gateways = vec![Gateway::default(); self.boxes.len()];
        while let Some(answer) = asked.join_next().await {
            let Ok((i, value)) = answer else { continue };
            if let Some(gateway) = gateways.get_mut(i) {
                *gateway = status::gateway(value.as_ref());
            }
        }
        self.leaders.observe(gateways.iter().map(|g| g.leads.as_slice()));
        for (b, gateway) in self.boxes.iter_mut().zip(&mut gateways) {
            b.leading = gateway.leading;
            gateway.id = gateway.id.or(Some(b.id).filter(|id| *id > 0));
        }
        let shown = self.boxes.iter().zip(gateways).filter(|(b, _)| b.process.is_some());
        let shown = shown.map(|(_, gateway)| gateway).collect();
        (shown, status::node(node.as_ref(), &String::from_utf8_lossy(&metrics)))
    }

    /// Does to a gateway what is due, heals what has lasted long enough, carries changes of the gateways on, and notes when
    /// all are ready again. When it may do no more harm, what there is is healed at once.
    ///
    /// # Errors
    /// When a gateway can't be started again, or the network not be cut or mended.
    pub async fn harass(&mut self, fleet: Option<&Fleet>, may: bool) -> Result<(), String> {
        let now = Instant::now();
        self.grow().await?;
        match self.trouble {
            Some(trouble) if !trouble.healed => {
                if !may || trouble.heal_at <= now {
                    self.heal(trouble)?;
                    self.trouble = Some(Trouble { healed: true, ..trouble });
                }
            }
            Some(trouble) => {
                // A gateway that joins is not ready for a while, and nobody waits for it.
                let joins = self.growth.as_ref().map(|growth| growth.at);
                if self.all_ready(joins).await {
                    self.trouble = None;
                    self.schedule.rest(trouble.kind, Instant::now());
                }
            }
            None => {
                let allowed = match self.growth.as_ref().map(|growth| growth.change.kind()) {
                    None => |_| true,
                    Some(ChangeKind::Replace(_)) => |_| false,
                    Some(_) => FaultKind::goes_with_growth,
                };
                if let Some(kind) = may.then(|| self.schedule.next(now, allowed)).flatten() {
                    self.strike(kind, fleet).await?;
                }
            }
        }
        Ok(())
    }

    /// Whether all gateways are ready, but for the one at this box.
    async fn all_ready(&self, but: Option<usize>) -> bool {
        for (_, b) in self.boxes.iter().enumerate().filter(|(i, b)| b.process.is_some() && Some(*i) != but) {
            if !is_ready(b.http).await {
                return false;
            }
        }
        true
    }

    /// Begins a change of the site's gateways.
    async fn begin(&mut self, kind: FaultKind, fleet: Option<&Fleet>) -> Result<(), String> {
        let running: Vec<usize> = (0..self.boxes.len()).filter(|i| self.is_running(*i)).collect();
        let free = (0..self.boxes.len()).find(|i| !self.is_running(*i));
        let may_leave = running.len() > usize::from(self.options.gateways);
        let peer_port = selvedge_ports::claim(1).map_err(|e| format!("no free port: {e}"))?;
        let any = |of: &[usize]| fastrand::choice(of.to_vec()).unwrap_or(0);
        let (name, at) = match (kind, free) {
            (FaultKind::Replace, _) => ("replacement", any(&running)),
            (_, Some(free)) if !may_leave || fastrand::bool() => ("join", free),
            _ => ("leave", any(&running)),
        };
        let host = self.options.gateway_host(at as u16);
        let Some(b) = self.boxes.get_mut(at) else { return Ok(()) };
        let kind = match name {
            "join" => ChangeKind::Join,
            "leave" => ChangeKind::Leave(b.id),
            _ => ChangeKind::Replace(b.id),
        };
        if let ChangeKind::Replace(_) = kind
            && let Some(mut process) = b.process.take()
        {
            process.kill().await;
            self.empty(at)?;
        }
        if let Some(fleet) = fleet {
            fleet.fault(name, at);
        }
        let change = Change::new(kind, SocketAddrV4::new(host, peer_port).to_string());
        self.growth = Some(Growth { change, at, peer_port, settled: false });
        Ok(())
    }

    /// Carries the change that is under way one step on.
    async fn grow(&mut self) -> Result<(), String> {
        let Some(mut growth) = self.growth.take() else { return Ok(()) };
        let (at, kind) = (growth.at, growth.change.kind());
        if growth.settled {
            if self.all_ready(None).await {
                let fault =
                    if matches!(kind, ChangeKind::Replace(_)) { FaultKind::Replace } else { FaultKind::Grow };
                self.schedule.rest(fault, Instant::now());
            } else {
                self.growth = Some(growth);
            }
            return Ok(());
        }
        // One that stays, whichever: it may be down at the moment.
        let others = self.boxes.iter().enumerate().filter(|(i, b)| *i != at && b.process.is_some());
        let Some(http) = fastrand::choice(others.map(|(_, b)| b.http).collect::<Vec<_>>()) else {
            self.growth = Some(growth);
            return Ok(());
        };
        let Request { method, path, body } = growth.change.request();
        let answer = http::order(http, method, &path, body.as_ref()).await;
        let answer = answer.map(|(status, body)| (status, serde_json::from_slice(&body).unwrap_or_default()));
        match growth.change.answered(answer) {
            Next::Wait => {}
            Next::Start { token, seeds } => {
                let index = at as u16;
                let config = settings::write_joining(
                    &self.options,
                    &self.folder,
                    index,
                    growth.peer_port,
                    &token,
                    &seeds,
                )?;
                let process = gateway(&self.options, &self.folder, at, config)?;
                if let Some(b) = self.boxes.get_mut(at) {
                    (b.process, b.id) = (Some(process), 0);
                }
            }
            Next::End => {
                if let Some(mut process) = self.boxes.get_mut(at).and_then(|b| b.process.take()) {
                    process.stop().await;
                }
                self.empty(at)?;
            }
            Next::Done(new) => {
                growth.settled = true;
                if let (Some(new), Some(b)) = (new, self.boxes.get_mut(at)) {
                    b.id = new;
                }
            }
        }
        self.growth = Some(growth);
        Ok(())
    }

    fn is_running(&self, at: usize) -> bool {
        self.boxes.get(at).is_some_and(|b| b.process.is_some())
    }

    /// Deletes the disk of a box.
    fn empty(&self, at: usize) -> Result<(), String> {
        let data = self.folder.join(settings::data(at as u16));
        std::fs::remove_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))
    }

    async fn strike(&mut self, kind: FaultKind, fleet: Option<&Fleet>) -> Result<(), String> {
        if matches!(kind, FaultKind::Replace | FaultKind::Grow) {
            return self.begin(kind, fleet).await;
        }
        let running: Vec<usize> = (0..self.boxes.len()).filter(|i| self.is_running(*i)).collect();
        let leads = |i: &usize| self.boxes.get(*i).is_some_and(|b| b.leading > 0);
        let leading: Vec<usize> = running.iter().copied().filter(leads).collect();
        let index = fastrand::choice(leading).or(fastrand::choice(running)).unwrap_or(0);
        let (index, cut) = if self.options.witness {
            let (turn, boxes) = (self.turns, self.boxes.len());
            self.turns += 1;
            (turn % boxes, (kind == FaultKind::Cut).then(|| Cut::in_turn(turn, boxes)))
        } else {
            (
                index,
                (kind == FaultKind::Cut).then(|| Cut::random(self.options.cut_only, index, self.boxes.len())),
            )
        };
        let heal_at = Instant::now() + self.schedule.lasts(kind);
        let mut trouble = Trouble { gateway: index, kind, cut, heal_at, healed: false };
        if let Some(fleet) = fleet {
            let name = match kind {
                FaultKind::Kill => "kill",
                FaultKind::Pause => "pause",
                FaultKind::Cut => cut.map_or("cut", Cut::kind),
                FaultKind::Replace | FaultKind::Grow => "growth",
            };
            fleet.fault(name, index);
        }
        let boxes = self.boxes.len();
        let Some(gateway) = self.boxes.get_mut(index).and_then(|b| b.process.as_mut()) else { return Ok(()) };
        match kind {
            FaultKind::Kill => gateway.kill().await,
            FaultKind::Pause => gateway.signal(Signal::STOP),
            FaultKind::Cut => {
                if let (Some(cut), Some(net)) = (cut, &self.net) {
                    cut.apply(net, boxes)?;
                }
                if let Some(Cut::Dark(_)) = cut {
                    gateway.kill().await;
                }
            }
            FaultKind::Replace | FaultKind::Grow => {}
        }
        if heal_at <= Instant::now() {
            self.heal(trouble)?;
            trouble.healed = true;
        }
        self.trouble = Some(trouble);
        Ok(())
    }

    fn heal(&mut self, trouble: Trouble) -> Result<(), String> {
        let boxes = self.boxes.len();
        // One that left meanwhile stays away.
        let Some(gateway) = self.boxes.get_mut(trouble.gateway).and_then(|b| b.process.as_mut()) else {
            return Ok(());
        };
        match trouble.kind {
            FaultKind::Kill => gateway.spawn(),
            FaultKind::Pause => {
                gateway.signal(Signal::CONT);
                Ok(())
            }
            FaultKind::Cut => match (trouble.cut, &self.net) {
                (Some(cut), Some(net)) => {
                    cut.mend(net, boxes)?;
                    if let Cut::Dark(_) = cut { gateway.spawn() } else { Ok(()) }
                }
                _ => Ok(()),
            },
            FaultKind::Replace | FaultKind::Grow => Ok(()),
        }
    }

    /// No fault is still to be healed, no gateway still on its way back, and no replica still to move.
    pub fn is_whole(&self) -> bool {
        self.trouble.is_none() && self.growth.is_none()
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
        for mut gateway in self.boxes.iter_mut().filter_map(|b| b.process.take()) {
            stopping.spawn(async move { gateway.stop().await });
        }
        while stopping.join_next().await.is_some() {}
        self.node.stop().await;
    }
}

/// Starts the gateway of a box.
fn gateway(options: &Options, folder: &Path, at: usize, config: PathBuf) -> Result<Process, String> {
    let name = settings::data(at as u16);
    let log = folder.join(format!("{name}.log"));
    let namespace = options.net.as_ref().map(|net| net::namespace(net, at));
    let name = name.replace('-', " ");
    Process::start(Program::Gateway, name, config, log, namespace, &options.gateway_settings())
}

async fn is_ready(address: SocketAddrV4) -> bool {
    http::glance(address, "/readyz").await.is_some_and(|(status, _)| status == 200)
}
