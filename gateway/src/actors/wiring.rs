//! Puts a gateway together: opens what is on disk, recovers the replicas, starts the actors and the MQTT
//! listener, and stops them again. The only file that names them all.

use crate::actors::forwarder::{self, Forwarder};
use crate::actors::front::{Front, Ways};
use crate::actors::http::{Api, routes};
use crate::actors::link::{self, LinkKey, LinkSettings};
use crate::actors::log::{LogActor, Serve, Stores};
use crate::actors::shard::{Around, ShardActor};
use crate::actors::supervisor::{Part, Supervisor};
use crate::actors::switch::{self, Switch};
use crate::actors::uplink::{self, UplinkActor, UplinkSettings};
use crate::identity::{Expected, Identity, IdentityError};
use crate::logic::forward::Forward;
use crate::logic::machine::{Machine, Origin};
use crate::logic::paxos::{self, GroupConfig};
use crate::logic::shard::{MAX_SNAPSHOT_BYTES, Replay, Settings as ShardSettings, Shard};
use crate::settings::Checked;
use crate::wal::{BatchStore, Log, LogError, RealDisk, Settings as LogSettings, SnapshotStore};
use actix::{Actor, Addr};
use actix_web::{App, HttpServer, web};
use metrics_exporter_prometheus::PrometheusBuilder;
use selvedge_shared::ids::ShardId;
use selvedge_shared::mqtt::{Limits, Listener, ListenerConfig};
use selvedge_shared::seal::{SealError, link_psk};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Threads that serve MQTT connections.
const LISTENER_THREADS: usize = 2;
/// How many publishes of a connection may be unanswered.
const MAX_INFLIGHT_ENTRIES: u16 = 256;
/// The most bytes that a shard's entries take in memory.
const GROUP_MEMORY_BYTES: usize = 2 * 1024 * 1024;
/// How long connections have to end when the process is asked to.
const STOP_MS: u64 = 2_000;

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or folder.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// An address that can't be listened on.
    #[error("can't listen on {address}: {error}; set {key} to another address")]
    Address {
        /// The address.
        address: SocketAddr,
        /// Its setting.
        key: &'static str,
        /// What the system says.
        error: std::io::Error,
    },
    /// The data folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log or a snapshot.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A shard.
    #[error(transparent)]
    Group(#[from] paxos::ConfigError),
    /// Keys.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The metrics.
    #[error("can't record metrics: {0}")]
    Metrics(String),
}

fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::Address { address, key, error })
}

/// Runs a gateway until it is told to stop (SIGTERM, SIGINT).
///
/// # Errors
/// Why it does not start.
pub async fn run(checked: Checked) -> Result<(), StartError> {
    let Checked { settings, site, me, peers, ring, decoder, secret, membership } = checked;
    let metrics =
        PrometheusBuilder::new().install_recorder().map_err(|e| StartError::Metrics(e.to_string()))?;
    let epoch = Instant::now();
    let ring = Arc::new(ring);

    // All ports first: a taken one is an error before anything is written.
    let peer_listener = bind(settings.peer.bind, "peer.bind")?;
    let http_listener = bind(settings.http.bind, "http.bind")?;
    let mqtt_limits = Limits {
        max_packet_bytes: settings.mqtt.max_packet_bytes,
        max_inflight_entries: MAX_INFLIGHT_ENTRIES,
        ..Limits::default()
    };
    let mqtt_config = ListenerConfig {
        address: settings.mqtt.bind,
        max_connections: settings.mqtt.max_connections,
        limits: mqtt_limits,
    };

    let dir = &settings.gateway.data_dir;
    std::fs::create_dir_all(dir).map_err(|error| StartError::File { path: dir.clone(), error })?;
    let expected = Expected { site: site.clone(), gateway: me, membership };
    if !Identity::exists(dir) {
        Identity::init(dir, &expected)?;
        tracing::info!(data_dir = %dir.display(), "a new gateway: its identity is written");
    }
    let identity = Identity::open(dir, &expected)?;
    let origin = Origin { gateway: me, start: identity.start() };
    tracing::info!(%site, gateway = %me, start = origin.start, "starting");

    let mut disk = open_disk(dir, &settings, identity.incarnation().0.to_le_bytes())?;
    let mut shards = disk.shards(&settings, &ring, me)?;

    let front = Arc::new(Front::new(ring.clone(), decoder, origin));
    let log = LogActor::new(disk.log, disk.stores, settings.log.max_segments).start();
    let forward = Forward::new(origin, ring.clone());
    let forwarder = Forwarder::new(me, forward, front.clone(), epoch).start();
    let switch = Switch::new(me, ring.clone(), front.clone()).start();
    let psk = LinkKey::new(link_psk(&secret, &site));
    let password = match settings.uplink.password_file.as_os_str().is_empty() {
        true => None,
        false => {
            let path = settings.uplink.password_file.clone();
            let text = std::fs::read_to_string(&path).map_err(|error| StartError::File { path, error })?;
            Some(text.trim_end().to_string())
        }
    };
    let client_id = format!("selvedge-{site}-{}-{}", me.0, origin.start);
    let to = settings.uplink.clone();
    let uplink = UplinkSettings { site: site.clone(), secret, client_id, to, password, epoch };
    let uplink = UplinkActor::new(uplink)?.start();

    let around = Around {
        log: log.clone(),
        switch: switch.clone(),
        forwarder: forwarder.clone(),
        uplink: uplink.clone(),
        epoch,
    };
    let mut actors = BTreeMap::new();
    // The log's actor must know a shard before its first record is on disk; mailboxes keep their order.
    while let Some((id, (shard, stored))) = shards.pop_first() {
        let actor = ShardActor::new(id, me, shard, stored, around.clone());
        actors.insert(id, actor.start());
    }
    log.do_send(Serve(actors.clone()));
    uplink.do_send(uplink::Connect(actors.clone()));
    // On a thread of their own: encryption, and the fsync that admitting a peer costs, hold up no shard.
    let arbiter = actix::Arbiter::new();
    let links = link::start(
        LinkSettings {
            identity: Arc::new(Mutex::new(identity)),
            key: psk,
            listener: peer_listener,
            peers,
            inbound: switch.clone().recipient(),
            status: switch.clone().recipient(),
        },
        &arbiter.handle(),
    )
    .map_err(|error| StartError::Address { address: settings.peer.bind, key: "peer.bind", error })?;
    forwarder.do_send(forwarder::Connect { shards: actors.clone(), switch: switch.clone() });
    switch.do_send(switch::Connect {
        shards: actors.clone(),
        forwarder: forwarder.clone(),
        links: links.clone(),
    });
    let mut parts: Vec<Part> = vec![
        part("the log", log.clone()),
        part("the switch", switch.clone()),
        part("the forwarder", forwarder.clone()),
        part("the uplink", uplink.clone()),
    ];
    parts.extend(actors.iter().map(|(id, shard)| part(&format!("shard {id}"), shard.clone())));
    Supervisor::new(parts).start();
    front.connect(Ways { forwarder, switch: switch.clone() });

    // Devices on threads of their own, so that decoding and encoding leave the site's actors their core.
    let listeners = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(LISTENER_THREADS)
        .thread_name("mqtt")
        .enable_all()
        .build()
        .map_err(|error| StartError::Address { address: settings.mqtt.bind, key: "mqtt.bind", error })?;
    let (stop, stopping) = watch::channel(false);
    let (bound, binding) = tokio::sync::oneshot::channel();
    let app = front.clone();
    let serving = listeners.spawn(async move {
        match Listener::bind(mqtt_config).await {
            Ok(listener) => {
                let _ = bound.send(Ok(())); // who asked waits for it
                listener.run(app, stopping).await;
            }
            Err(error) => {
                let _ = bound.send(Err(error));
            }
        }
    });
    if let Ok(Err(error)) = binding.await {
        listeners.shutdown_background();
        return Err(StartError::Address { address: settings.mqtt.bind, key: "mqtt.bind", error });
    }

    let api =
        web::Data::new(Api { site, me, ring, front, shards: actors, switch, uplink, log, links, metrics });
    let server = HttpServer::new(move || App::new().app_data(api.clone()).configure(routes))
        .workers(1)
        .disable_signals()
        .listen(http_listener)
        .map_err(|error| StartError::Address { address: settings.http.bind, key: "http.bind", error })?
        .run();
    let handle = server.handle();
    actix::spawn(server);
    tracing::info!(mqtt = %settings.mqtt.bind, http = %settings.http.bind, peer = %settings.peer.bind, "serving");

    wait_for_signal().await;
    tracing::info!("stopping");
    let _ = stop.send(true); // the listener may have ended already
    let _ = tokio::time::timeout(Duration::from_millis(STOP_MS), serving).await;
    handle.stop(false).await;
    listeners.shutdown_background();
    Ok(())
}

fn part<A: Actor>(name: &str, address: Addr<A>) -> Part {
    (name.to_string(), Box::new(move || address.connected()))
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut term) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

/// What is on disk, opened.
struct Disk {
    log: Log,
    stores: Stores,
    replays: BTreeMap<u16, Replay>,
    damaged: crate::wal::Groups,
}

fn open_disk(
    dir: &Path,
    settings: &crate::settings::Settings,
    identity: [u8; 16],
) -> Result<Disk, StartError> {
    let folder = |name: &str| {
        let path = dir.join(name);
        RealDisk::open(path.clone()).map(Arc::new).map_err(|error| StartError::File { path, error })
    };
    const MIB: u64 = 1024 * 1024;
    let mut log_settings = LogSettings::new(identity);
    log_settings.segment_bytes = settings.log.segment_mib * MIB;
    log_settings.keep_free_bytes = settings.log.keep_free_mib * MIB;
    let mut replays: BTreeMap<u16, Replay> = BTreeMap::new();
    let mut visit = |record: crate::wal::Record| replays.entry(record.group).or_default().record(record);
    let (log, recovery) = Log::open(folder("log")?, log_settings, &mut visit)?;
    tracing::info!(
        records = recovery.records,
        torn_bytes_cut = recovery.torn_bytes_cut,
        damaged_places = recovery.damaged_places,
        "the log is read"
    );
    let snapshots = SnapshotStore::open(folder("snapshots")?, identity, MAX_SNAPSHOT_BYTES)?;
    let batches = BatchStore::open(folder("batches")?, identity)?;
    Ok(Disk { log, stores: Stores { snapshots, batches }, replays, damaged: recovery.damaged_groups })
}

impl Disk {
    /// The replicas of this gateway, each with the highest batch that its store holds.
    fn shards(
        &mut self,
        settings: &crate::settings::Settings,
        ring: &crate::logic::ring::Ring,
        me: selvedge_shared::ids::GatewayId,
    ) -> Result<BTreeMap<ShardId, (Shard, u64)>, StartError> {
        let rules = Arc::new(settings.rules.clone());
        let mut shards = BTreeMap::new();
        for id in ring.shards_of(me) {
            let mut damaged = self.damaged.contains(id.0);
            let snapshot = match self.stores.snapshots.load_newest(id.0) {
                Ok(found) => found,
                Err(e @ LogError::Damaged { .. }) => {
                    tracing::error!(shard = %id, "its snapshot is damaged, it is fetched from a peer: {e}");
                    damaged = true;
                    None
                }
                Err(e) => return Err(e.into()),
            };
            let fresh = || Machine::new(id, rules.clone());
            let machine = match &snapshot {
                None => fresh(),
                Some((_, bytes)) => Machine::restore(id, rules.clone(), bytes).unwrap_or_else(|e| {
                    tracing::error!(shard = %id, "its snapshot can't be read, it is fetched from a peer: {e}");
                    damaged = true;
                    fresh()
                }),
            };
            if damaged {
                tracing::error!(shard = %id, "its log is damaged: it does not vote until it is repaired from its peers");
            }
            let nonce = damaged.then(|| fastrand::u64(..));
            let replay = self.replays.get(&id.0).cloned().unwrap_or_default();
            let found = replay.finish(machine.slot(), nonce);
            let limits = paxos::Limits { memory_bytes: GROUP_MEMORY_BYTES, ..paxos::Limits::default() };
            let members = ring.replicas(id).to_vec();
            let shard_settings = ShardSettings {
                group: GroupConfig { group: id, me, members, limits },
                rules: rules.clone(),
                outbox_budget_bytes: settings.uplink.outbox_budget_mib * 1024 * 1024,
            };
            // What a snapshot covers need not stay in the log; the log does not remember this itself.
            self.log.keep_from(id.0, found.snapshot_slot + 1);
            let stored = self.stores.batches.list(id.0)?.last().map_or(0, |(seq, _)| *seq);
            shards.insert(id, (Shard::recover(shard_settings, machine, found)?, stored));
        }
        Ok(shards)
    }
}
