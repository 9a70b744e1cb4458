//! Puts a gateway together: opens what is on disk, recovers the replicas, starts the actors and the MQTT listener, and
//! stops them again. This is the only file that names all actors.

use crate::actors::admission::{AdmissionActor, token_of};
use crate::actors::clock::SiteClock;
use crate::actors::departures::{Bounds, DepartureDesk};
use crate::actors::describer::Describer;
use crate::actors::directory_copy::DirectoryCopy;
use crate::actors::forwarder::{Forwarder, ForwarderWays};
use crate::actors::host::{HostWays, ReplicaHost};
use crate::actors::http::{Api, access, browser, routes};
use crate::actors::link::{self, JoinRefused, LinkKey, LinkSettings};
use crate::actors::log::LogActor;
use crate::actors::messages::host::HoldReplica;
use crate::actors::metric_help::describe_metrics;
use crate::actors::redirector::Redirector;
use crate::actors::replicas::{ReplicaWays, Replicas};
use crate::actors::report::{Overview, Reporter};
use crate::actors::room::SiteRoom;
use crate::actors::shard::{ShardActor, ShardWays};
use crate::actors::steward::{StewardActor, StewardWays};
use crate::actors::supervisor::{SupervisedPart, Supervisor};
use crate::actors::switch::{Switch, SwitchWays};
use crate::actors::uplink::{UplinkActor, UplinkSettings, UplinkWays};
use crate::actors::ways::{FrontWays, Ways};
use crate::admission::{KeptAdmission, NewBox};
use crate::descriptors;
use crate::front::Front;
use crate::identity::{Expected, Identity, IdentityError, log_identity};
use crate::recovery::KeptRecovery;
use crate::settings::{Checked, Settings, SettingsError, SiteEntry, membership_hash};
use actix::{Actor, Addr, AsyncContext, Context};
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use metrics_exporter_prometheus::PrometheusBuilder;
use selvedge_fabric::directory::{
    Announcement, DIRECTORY_GROUP, FIRST_CONFIGURATION, Genesis, RELEASE_LEVEL,
};
use selvedge_fabric::forward::{Forward, PIPELINE_BYTES};
use selvedge_fabric::link::{KnownPeer, join_question};
use selvedge_fabric::machine::Origin;
use selvedge_fabric::replica::SHELF_BYTES;
use selvedge_fabric::ring::Member;
use selvedge_fabric::steward::Steward;
use selvedge_guard::browser::Browsers;
use selvedge_guard::log_limit::SharedLogLimit;
use selvedge_guard::private::{self, read_secret};
use selvedge_log::storage::{self, Folders, LogKeeper, OpenError, ReadStorage, ReplicaSettings};
use selvedge_log::{LogError, LogOptions, RealDisk, Scrubber};
use selvedge_mqtt::{ConnectionLimits, Listener, ListenerConfig};
use selvedge_seal::{SealError, link_psk};
use selvedge_types::ids::{GatewayId, ShardId, SiteId};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

/// The most HTTP connections; further ones wait in the system's backlog.
const MAX_HTTP_CONNECTIONS_ENTRIES: usize = 256;
/// The most threads that serve MQTT connections.
const MAX_LISTENER_THREADS: usize = 4;
/// How many publishes of a connection may be unanswered.
const MAX_INFLIGHT_ENTRIES: u16 = 256;
/// The most bytes that a shard's entries take in memory.
const GROUP_MEMORY_BYTES: usize = 2 * 1024 * 1024;
/// How long connections may take to end when the process is asked to stop.
const STOP_MS: u64 = 2_000;

/// Why a gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file or folder can't be used.
    #[error("{}: {error}", path.display())]
    File {
        path: PathBuf,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// An address can't be listened on.
    #[error("can't listen on {address}: {error}; set {key} to another address")]
    Address {
        address: SocketAddr,
        /// The setting that holds the address.
        key: &'static str,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// The data folder is not this gateway's, or can't be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log or a snapshot can't be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The replicas can't be opened from what is on disk.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file with the token to join with can't be used.
    #[error("gateway.join_token_file: {0}")]
    Token(String),
    /// The site does not admit this gateway.
    #[error(transparent)]
    Join(#[from] JoinRefused),
    /// The site's first gateways do not fit together.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Keys or random numbers can't be made.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The recorder of metrics can't be installed.
    #[error("can't record metrics: {0}")]
    Metrics(String),
}

/// Which work has threads of its own. The disk's work always has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Threads {
    /// Whether links have one, so that neither their encryption nor the fsync for admitting a peer delays a shard.
    links: bool,
    /// Threads that decode and encode for devices; 0: the shards' thread does it.
    listeners: usize,
}

impl Threads {
    /// Thread layout for this many cores; 0 uses all that are available. On few cores all work shares one thread,
    /// because each further thread costs every reading a wake-up (`docs/internals/benchmarks.md` has the figures).
    fn of(cores: u16) -> Self {
        let found = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        match if cores == 0 { found() } else { usize::from(cores) } {
            0..=2 => Self { links: false, listeners: 0 },
            cores => Self { links: true, listeners: (cores - 2).min(MAX_LISTENER_THREADS) },
        }
    }
}

fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::Address { address, key, error })
}

/// Runs a gateway until a signal (SIGTERM, SIGINT) stops it.
///
/// # Errors
/// Why it does not start.
pub async fn run(checked: Checked) -> Result<(), StartError> {
    let Checked { settings, site, entry, decoder, secret, password, access } = checked;
    let metrics =
        PrometheusBuilder::new().install_recorder().map_err(|e| StartError::Metrics(e.to_string()))?;
    describe_metrics();
    let epoch = Instant::now();

    // All ports first: a port that is taken is an error before anything is written.
    let peer_listener = bind(settings.peer.bind, "peer.bind")?;
    let http_listener = bind(settings.http.bind, "http.bind")?;
    // Devices may connect only once there is something to serve them.
    drop(bind(settings.mqtt.bind, "mqtt.bind")?);
    let mqtt_limits = ConnectionLimits {
        max_packet_bytes: settings.mqtt.max_packet_bytes,
        max_inflight_entries: MAX_INFLIGHT_ENTRIES,
        max_keepalive_s: settings.mqtt.max_keepalive_s,
        connect_wait_ms: settings.mqtt.connect_wait_ms,
        delivery_queue_bytes: settings.mqtt.delivery_queue_bytes,
        ..ConnectionLimits::default()
    };
    let descriptors = descriptors::raise_limit();
    let max_connections = descriptors::connections(descriptors, settings.mqtt.max_connections);
    if max_connections < settings.mqtt.max_connections {
        tracing::warn!(
            "the system gives this process {descriptors} file descriptors, which leaves room for {max_connections} MQTT connections: \
             raise the limit (ulimit -Hn, LimitNOFILE=), or lower mqtt.max_connections"
        );
    }
    let mqtt_config = ListenerConfig {
        address: settings.mqtt.bind,
        max_connections,
        max_connections_per_address: match settings.mqtt.max_connections_per_address {
            0 => max_connections,
            most => most,
        },
        limits: mqtt_limits,
    };

    let dir = &settings.gateway.data_dir;
    private::own_folder(dir).map_err(|error| StartError::File { path: dir.clone(), error })?;
    let psk = LinkKey::new(link_psk(&secret, &site));
    let Belonging { me, is_witness, genesis, mut peers, addresses, reached_at } =
        belong(&settings, &site, entry, &psk).await?;
    let membership = membership_hash(&site, &genesis);
    let found = Identity::find(dir, &Expected { site: site.clone(), gateway: me, membership })?;
    let ring = Arc::new(genesis.ring().map_err(SettingsError::from)?);
    let mut recovery = KeptRecovery::find(dir)?;
    if let Some(kept) = &mut recovery {
        // Nobody greets those that were given up, also before there is a copy of the directory that says so.
        peers.retain(|peer, _| !kept.plan.lost.contains(&peer.0));
        if !kept.done {
            carry_out(kept, dir, &settings, log_identity(found.incarnation()), me)?;
        }
    }
    let (read, scrubber) = read_disk(dir, &settings, log_identity(found.incarnation()))?;
    let replica_settings = ReplicaSettings {
        rules: Arc::new(settings.rules.clone()),
        limits: selvedge_paxos::Limits {
            memory_bytes: GROUP_MEMORY_BYTES,
            ..selvedge_paxos::Limits::default()
        },
        outbox_budget_bytes: settings.uplink.outbox_budget_mib * 1024 * 1024,
        incarnation: u128::from_le_bytes(selvedge_seal::random()?),
        shelf_bytes: SHELF_BYTES,
        is_witness,
    };
    let mut groups = read.shards(me, &ring)?;
    if ring.replicas(DIRECTORY_GROUP).contains(&me) {
        groups.insert(DIRECTORY_GROUP);
    }
    let disk = read.open_shards(me, groups, &ring, &replica_settings, &mut || fastrand::u64(..))?;
    // The start is counted only now: a release that can't read the files has changed nothing.
    let identity = found.start()?;
    let origin = Origin { gateway: me, start: identity.start() };
    tracing::info!(%site, gateway = %me, start = origin.start, "starting");

    let clock = Arc::new(SiteClock::new(me, peers.keys().copied()));
    let room = Arc::new(SiteRoom::new(me));
    let directory = Arc::new(DirectoryCopy::new(ring.clone()));
    let ways = Arc::new(Ways::new(epoch, clock.clone(), DepartureDesk::new(bounds(&mqtt_config))));
    let front = Front::new(ring.clone(), decoder, origin, Arc::default(), ways.clone());
    let front = Arc::new(front.balancing(settings.mqtt.policy()));
    let given_up = disk.marks.given_up().map(|(group, through)| (ShardId(group), through));
    let replicas = Arc::new(Replicas::new(given_up));
    let marks_are_complete = disk.marks.is_complete();
    let log = LogActor::new(
        LogKeeper::new(disk.log, disk.marks),
        disk.stores,
        replicas.clone(),
        settings.log.max_segments,
        settings.log.commit_delay_ms,
        room.clone(),
        (settings.log.scrub_bytes_per_s > 0).then_some((scrubber, settings.log.scrub_bytes_per_s)),
    )
    .start();
    let forward = Forward::new(origin, ring.clone(), PIPELINE_BYTES);
    let forwarder = Forwarder::new(me, forward, front.clone(), epoch).start();
    let switch = Switch::new(me, ring.clone(), front.clone(), epoch, clock.clone(), room.clone()).start();
    // Random, so that nobody can guess it and take the uplink's place at the broker.
    let client_id =
        format!("selvedge-{site}-{}-{:032x}", me.0, u128::from_le_bytes(selvedge_seal::random()?));
    let to = settings.uplink.clone();
    let (start, changed) = (origin.start, Arc::new(Notify::new()));
    let uplink = UplinkSettings {
        site: site.clone(),
        me,
        start,
        secret,
        client_id,
        to,
        password,
        epoch,
        changed: changed.clone(),
    };
    let uplink = UplinkActor::new(uplink)?.start();

    // The steward's ways lead to actors that start later, so the replicas write into its mailbox before it runs.
    let steward = Context::<StewardActor>::new();
    let shard_ways = Arc::new(ShardWays {
        persist: log.clone().recipient(),
        forget: log.clone().recipient(),
        healed: log.clone().recipient(),
        store: log.clone().recipient(),
        peers: switch.clone().recipient(),
        answered: forwarder.clone().recipient(),
        leader: forwarder.clone().recipient(),
        wills: forwarder.clone().recipient(),
        loaded: uplink.clone().recipient(),
        view: uplink.clone().recipient(),
        directory: steward.address().recipient(),
        steward: steward.address().recipient(),
        epoch,
        clock: clock.clone(),
        log_limit: SharedLogLimit::default(),
    });
    let start_replica =
        move |id, replica| ways_of(&ShardActor::new(id, me, replica, shard_ways.clone()).start());
    // They take their first turn after this: the log must know a shard before that shard's first record is on disk.
    for (id, replica) in disk.replicas {
        replicas.add(id, start_replica(id, replica));
    }
    uplink.do_send(UplinkWays { replicas: replicas.clone(), ask: switch.clone().recipient() });
    let host = ReplicaHost {
        me,
        ring: ring.clone(),
        settings: replica_settings,
        marks_are_complete,
        replicas: replicas.clone(),
        ways: HostWays {
            start: Box::new(start_replica),
            log: log.clone().recipient(),
            switch: switch.clone().recipient(),
            steward: steward.address().recipient(),
        },
        log_limit: SharedLogLimit::default(),
    }
    .start();
    // Every gateway has a replica of the directory group, whether or not it votes there.
    host.do_send(HoldReplica { shard: DIRECTORY_GROUP, configuration: FIRST_CONFIGURATION });
    let threads = Threads::of(settings.gateway.threads);
    let links_arbiter = match threads.links {
        true => actix::Arbiter::new().handle(),
        false => actix::Arbiter::current(),
    };
    let announcement = Announcement {
        gateway: me,
        incarnation: identity.incarnation().0,
        key: identity.public_key(),
        addresses: settings.announced(&reached_at),
        zone: zone(&settings),
        level: RELEASE_LEVEL,
    };
    let admission =
        AdmissionActor { ways: ways.clone(), directory: directory.clone(), genesis: genesis.clone() };
    let admission = admission.start();
    let links = link::start(
        LinkSettings {
            identity: Arc::new(Mutex::new(identity)),
            key: psk,
            listener: peer_listener,
            peers,
            inbound: switch.clone().recipient(),
            status: switch.clone().recipient(),
            clock: clock.clone(),
            room: room.clone(),
            admission: admission.clone().recipient(),
        },
        &links_arbiter,
    )
    .map_err(|error| StartError::Address { address: settings.peer.bind, key: "peer.bind", error })?;
    let redirector = Redirector {
        me,
        front: front.clone(),
        copy: directory.clone(),
        room: room.clone(),
        peers: switch.clone().recipient(),
        ask: switch.clone().recipient(),
    };
    let ways_of_steward = StewardWays {
        host: host.clone().recipient(),
        drop: host.clone().recipient(),
        replicas: replicas.clone(),
        ways: ways.clone(),
        peers: switch.clone().recipient(),
        ask: switch.clone().recipient(),
        placed: vec![forwarder.clone().recipient(), switch.clone().recipient()],
        links: links.clone(),
        addresses,
        room,
        copy: directory.clone(),
    };
    let mut core = Steward::new(me, genesis.clone(), Some(announcement));
    if let Some(kept) = &recovery {
        core.recovers(kept.for_directory());
    }
    let steward = steward.run(StewardActor::new(core, ring.clone(), ways_of_steward));
    forwarder.do_send(ForwarderWays { replicas: replicas.clone(), peers: switch.clone().recipient() });
    let overview = Overview {
        ring,
        front: front.clone(),
        clock: clock.clone(),
        directory: directory.clone(),
        ways: ways.clone(),
        replicas: replicas.clone(),
        links: links.clone(),
        peers: switch.clone().recipient(),
        ask: switch.clone().recipient(),
        ask_table: switch.clone().recipient(),
    };
    let describer = Describer {
        overview: overview.clone(),
        log: log.clone().recipient(),
        peers: switch.clone().recipient(),
        epoch,
    }
    .start();
    switch.do_send(SwitchWays {
        replicas: replicas.clone(),
        answered: forwarder.clone().recipient(),
        down: forwarder.clone().recipient(),
        up: forwarder.clone().recipient(),
        describe: describer.clone().recipient(),
        links: links.clone(),
    });
    let parts: Vec<SupervisedPart> = vec![
        part("the log", log.clone()),
        part("the switch", switch.clone()),
        part("the forwarder", forwarder.clone()),
        part("the uplink", uplink.clone()),
        part("the describer", describer),
        part("the host of replicas", host),
        part("the steward", steward),
        part("the admission of gateways", admission),
    ];
    Supervisor::new(parts, replicas).start();
    ways.connect(FrontWays {
        submit: forwarder.clone().recipient(),
        withdraw: forwarder.recipient(),
        interest: switch.clone().recipient(),
        links: links.clone(),
    });

    let listeners = match threads.listeners {
        0 => None,
        count => Some(
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(count)
                .thread_name("mqtt")
                .enable_all()
                .build()
                .map_err(|error| StartError::Address {
                    address: settings.mqtt.bind,
                    key: "mqtt.bind",
                    error,
                })?,
        ),
    };
    let (stop, stopping) = watch::channel(false);
    let (bound, binding) = tokio::sync::oneshot::channel();
    let app = front.clone();
    let serving = async move {
        match Listener::bind(mqtt_config).await {
            Ok(listener) => {
                let _ = bound.send(Ok(())); // `run` waits for it
                listener.run(app, stopping).await;
            }
            Err(error) => {
                let _ = bound.send(Err(error));
            }
        }
    };
    let serving = match &listeners {
        Some(listeners) => listeners.spawn(serving),
        None => tokio::spawn(serving),
    };
    if let Ok(Err(error)) = binding.await {
        listeners.into_iter().for_each(Runtime::shutdown_background);
        return Err(StartError::Address { address: settings.mqtt.bind, key: "mqtt.bind", error });
    }

    let members: Vec<_> = genesis.gateways.iter().map(|g| Member { id: g.id, weight: g.weight }).collect();
    let reporter = Reporter {
        me,
        start,
        members: members.clone(),
        overview: overview.clone(),
        load: uplink.clone().recipient(),
        uplink: uplink.clone().recipient(),
        changed,
        epoch,
    };
    actix::spawn(reporter.run());
    actix::spawn(redirector.run());
    let widths_ms = settings.rules.widths_ms();
    let log_limit = SharedLogLimit::default();
    let api = web::Data::new(Api {
        site,
        me,
        members,
        data_dir: dir.clone(),
        overview,
        uplink: uplink.recipient(),
        log: log.recipient(),
        links,
        metrics,
        epoch,
        log_limit,
        open: access.is_open(),
        widths_ms,
    });
    let browsers = Arc::new(Browsers { hosts: settings.http.hosts.clone(), tokens: !access.is_open() });
    let access = Arc::new(access);
    let app = move || {
        let (browsers, access, site) = (browsers.clone(), access.clone(), api.site.clone());
        let tokens = from_fn(move |request, next| access::admit(site.clone(), access.clone(), request, next));
        let pages = from_fn(move |request, next| browser::admit(browsers.clone(), request, next));
        // The middleware that is wrapped last runs first.
        App::new().app_data(api.clone()).wrap(tokens).wrap(pages).configure(|app| drop(routes(app)))
    };
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(MAX_HTTP_CONNECTIONS_ENTRIES)
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
    listeners.into_iter().for_each(Runtime::shutdown_background);
    Ok(())
}

/// The bounds of a client's connection, as settings that an operator can change.
fn bounds(config: &ListenerConfig) -> Bounds {
    let limits = &config.limits;
    let settings = [
        ("max_connections", config.max_connections as u64),
        ("max_connections_per_address", config.max_connections_per_address as u64),
        ("max_packet_bytes", limits.max_packet_bytes.into()),
        ("max_keepalive_s", limits.max_keepalive_s.into()),
        ("connect_wait_ms", limits.connect_wait_ms),
        ("delivery_queue_bytes", limits.delivery_queue_bytes as u64),
    ];
    settings.into_iter().map(|(name, value)| (name, format!("mqtt.{name} = {value}"))).collect()
}

fn ways_of(replica: &Addr<ShardActor>) -> ReplicaWays {
    ReplicaWays {
        events: replica.clone().recipient(),
        said: replica.clone().recipient(),
        load: replica.clone().recipient(),
        status: replica.clone().recipient(),
        give_up: replica.clone().recipient(),
    }
}

/// What a gateway knows of its place in the site when it starts.
struct Belonging {
    me: GatewayId,
    is_witness: bool,
    /// How the site began.
    genesis: Genesis,
    /// The gateways to have links with until there is a copy of the directory.
    peers: BTreeMap<GatewayId, KnownPeer>,
    /// The addresses that the settings give for other gateways.
    addresses: BTreeMap<GatewayId, String>,
    /// Where the others reach this gateway.
    reached_at: String,
}

/// Finds out as which gateway this process runs. A new data folder gets its identity: from the settings, or from the site
/// that it joins, which may take until the site answers.
async fn belong(
    settings: &Settings,
    site: &SiteId,
    entry: SiteEntry,
    psk: &LinkKey,
) -> Result<Belonging, StartError> {
    let dir = &settings.gateway.data_dir;
    let (seeds, reached_at) = match entry {
        SiteEntry::Founds { me, genesis, peers: addresses } => {
            if !Identity::exists(dir) {
                let membership = membership_hash(site, &genesis);
                Identity::init(dir, &Expected { site: site.clone(), gateway: me, membership })?;
                tracing::info!(data_dir = %dir.display(), "a new gateway: wrote its identity");
            }
            let own = addresses.get(&me).cloned().unwrap_or_default();
            let advertised = settings.peer.advertise.clone();
            let reached_at = if advertised.is_empty() { own } else { advertised };
            let peers = addresses.iter().map(|(peer, at)| (*peer, KnownPeer::at(at.clone()))).collect();
            return Ok(Belonging { me, is_witness: false, genesis, peers, addresses, reached_at });
        }
        SiteEntry::Joins { seeds, address } => (seeds, address),
    };
    let admission = if Identity::exists(dir) {
        KeptAdmission::find(dir)?
    } else {
        let candidate = NewBox::open(dir)?;
        let file = &settings.gateway.join_token_file;
        let token = read_secret(file).map_err(StartError::Token)?;
        let token = token_of(&token).ok_or_else(|| {
            StartError::Token(format!(
                "{} does not hold a token, which has 64 hexadecimal digits",
                file.display()
            ))
        })?;
        let addresses = settings.announced(&reached_at);
        let mut question = join_question(site.to_string(), token, candidate.incarnation(), addresses);
        question.zone = zone(settings);
        let answer = link::ask_to_join(&seeds, psk, candidate.static_key(), &question).await?;
        tracing::info!(gateway = %answer.gateway, "the site has admitted this gateway");
        candidate.admitted(site, answer)?
    };
    let KeptAdmission { gateway: me, is_witness, genesis, peers } = admission;
    if let Some(why) = settings.site.contradicts(&genesis) {
        tracing::warn!("{why}");
    }
    Ok(Belonging { me, is_witness, genesis, peers, addresses: BTreeMap::new(), reached_at })
}

fn zone(settings: &Settings) -> Option<String> {
    Some(settings.gateway.zone.clone()).filter(|zone| !zone.is_empty())
}

fn part<A: Actor>(name: &str, address: Addr<A>) -> SupervisedPart {
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

/// Carries out, on this gateway's disk, the plan of a recovery.
fn carry_out(
    kept: &mut KeptRecovery,
    dir: &Path,
    settings: &Settings,
    identity: [u8; 16],
    me: GatewayId,
) -> Result<(), StartError> {
    let (folders, options, _) = folders(dir, settings, identity)?;
    let rules = Arc::new(settings.rules.clone());
    storage::succeed(folders, options, &kept.orders(me), &rules)?;
    kept.finish()?;
    tracing::warn!(
        generation = kept.plan.name.generation,
        lost = ?kept.plan.lost,
        "the site is recovered without these gateways, which are given up for good"
    );
    Ok(())
}

/// The folders in which the data lies, and how the log is kept.
fn folders(
    dir: &Path,
    settings: &Settings,
    identity: [u8; 16],
) -> Result<(Folders, LogOptions, Scrubber), StartError> {
    let folder = |name: &str| {
        let path = dir.join(name);
        RealDisk::open(path.clone()).map(Arc::new).map_err(|error| StartError::File { path, error })
    };
    const MIB: u64 = 1024 * 1024;
    let mut log_settings = LogOptions::new(identity);
    log_settings.segment_bytes = settings.log.segment_mib * MIB;
    log_settings.keep_free_bytes = settings.log.keep_free_mib * MIB;
    let (log, snapshots, batches) = (folder("log")?, folder("snapshots")?, folder("batches")?);
    let floor = RealDisk::open(dir).map_err(|error| StartError::File { path: dir.into(), error })?;
    let scrubber =
        Scrubber { log: log.clone(), snapshots: snapshots.clone(), batches: batches.clone(), identity };
    Ok((Folders { floor: Arc::new(floor), log, snapshots, batches }, log_settings, scrubber))
}

fn read_disk(
    dir: &Path,
    settings: &Settings,
    identity: [u8; 16],
) -> Result<(ReadStorage, Scrubber), StartError> {
    let (folders, log_settings, scrubber) = folders(dir, settings, identity)?;
    let found = storage::read(folders, log_settings)?;
    let recovery = found.recovery();
    tracing::info!(
        records = recovery.records,
        torn_bytes_cut = recovery.torn_bytes_cut,
        damaged_places = recovery.damaged_places,
        "the log is read"
    );
    Ok((found, scrubber))
}
