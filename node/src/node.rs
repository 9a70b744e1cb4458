//! The node as a whole: starts its parts in the order in which they need each other, and stops them in the reverse.

use crate::api::{self, Api};
use crate::apply::{self, Confirmations, QUEUE_ENTRIES};
use crate::broker::{self, Carrier, Embedded};
use crate::lake::LakeError;
use crate::lake::schedule::Schedule;
use crate::live::Live;
use crate::settings::{BrokerChoice, Checked};
use crate::sites::{Edge, SitesLink};
use crate::stats::Stats;
use crate::store::lake::Exports;
use crate::store::{self, StoreError};
use crate::uplink::{Confirmer, Subscriber};
use crate::web::pages;
use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use metrics_exporter_prometheus::PrometheusHandle;
use selvedge_broker_client::BrokerAddress;
use selvedge_mqtt::{ConnectionLimits, Listener, ListenerConfig};
use selvedge_node_core::verify::Verifier;
use selvedge_seal::SealError;
use selvedge_types::time::EpochMs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

/// How many gateways may be connected to the embedded broker.
pub const MAX_CONNECTIONS_ENTRIES: usize = 1024;

/// How many of them may come from one address.
pub const MAX_CONNECTIONS_PER_ADDRESS_ENTRIES: usize = MAX_CONNECTIONS_ENTRIES / 2;

/// How long a part may take to stop.
pub const STOP_MS: u64 = 10_000;

const HTTP_WORKERS: usize = 2;
const UPKEEP_MS: u64 = 5_000;

/// Why the node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0} (setting `lake.url`)")]
    Lake(#[from] LakeError),
    /// An address that can't be listened on.
    #[error("can't listen on {address} (settings `{section}.host` and `{section}.port`): {why}")]
    Listen {
        address: SocketAddr,
        /// The section of the settings that names it.
        section: &'static str,
        /// What the system said.
        why: std::io::Error,
    },
    /// The system has no randomness for keys and ids.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A part ended that should not.
    #[error("the {0} ended unexpectedly; see the log")]
    Ended(&'static str),
}

/// The tasks of a node that runs, and what stops them in order.
pub struct Node {
    /// Where the query API listens.
    pub http: SocketAddr,
    /// Where the embedded broker listens, if there is one.
    pub broker: Option<SocketAddr>,
    stop_uplink: watch::Sender<bool>,
    stop_rest: watch::Sender<bool>,
    subscriber: JoinHandle<()>,
    confirmer: JoinHandle<()>,
    edge: JoinHandle<()>,
    writer: JoinHandle<Result<(), StoreError>>,
    telling: JoinHandle<()>,
    listener: Option<JoinHandle<()>>,
    server: JoinHandle<std::io::Result<()>>,
    server_handle: ServerHandle,
    upkeep: Option<JoinHandle<()>>,
    lake: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts a node. Within a tokio runtime.
    ///
    /// # Errors
    /// When the database can't be opened or an address is taken.
    pub async fn start(checked: Checked, metrics: Option<PrometheusHandle>) -> Result<Self, NodeError> {
        let Checked { settings, sites, broker, credentials, database, access } = checked;
        let stats = Arc::new(Stats::default());
        let names: Vec<_> = sites.iter().map(|site| site.name.clone()).collect();

        // Both addresses first: a node that can't be reached should not touch the database.
        let address = SocketAddr::new(settings.http.host, settings.http.port);
        let failed = |why| NodeError::Listen { address, section: "http", why };
        let socket = std::net::TcpListener::bind(address).map_err(failed)?;
        let http = socket.local_addr().map_err(failed)?;
        let listener = match broker {
            BrokerChoice::External => None,
            BrokerChoice::Embedded(address) => {
                let failed = |why| NodeError::Listen { address, section: "uplink", why };
                let limits = ConnectionLimits::default();
                let config = ListenerConfig {
                    address,
                    max_connections: MAX_CONNECTIONS_ENTRIES,
                    max_connections_per_address: MAX_CONNECTIONS_PER_ADDRESS_ENTRIES,
                    limits,
                };
                let listener = Listener::bind(config).await.map_err(failed)?;
                Some((listener.local_addr().map_err(failed)?, listener))
            }
        };
        let (writer, reader) = store::open(&database).await?;
        let lake = Schedule::new(&settings.lake, reader.clone(), Exports::new(&database))?;

        let broker = listener.as_ref().map(|(address, _)| *address);
        let edge = Arc::new(Edge::new(names.iter().cloned())?);
        let embedded = listener.as_ref().map(|_| Arc::new(Embedded::new(credentials.clone(), edge.me())));
        let carrier = match &embedded {
            Some(own) => Carrier::Embedded(own.clone()),
            None => {
                let uplink = &settings.uplink;
                let client_id = broker::client_id(&uplink.client_id)?;
                let (host, port) = (uplink.host.clone(), uplink.port);
                let credentials = credentials.map(|own| (own.username, own.password));
                Carrier::External(BrokerAddress { host, port, credentials, client_id })
            }
        };
        let confirmations = Arc::new(Confirmations::default());
        let confirmer = Confirmer::new(carrier.clone(), &sites, confirmations.clone())?;
        let link = SitesLink::new(edge.clone(), carrier.clone(), &sites, stats.clone())?;
        let (queue, waiting) = mpsc::channel(QUEUE_ENTRIES);
        let secrets = sites.iter().flat_map(|site| {
            let all = std::iter::once(&site.secret).chain(&site.also_accepted);
            all.map(|secret| (&site.name, secret))
        });
        let mut known = names.clone();
        known.dedup();
        let subscriber = Subscriber {
            carrier,
            sites: known,
            share: settings.uplink.share.clone(),
            verifier: Verifier::new(secrets),
            queue,
            stats: stats.clone(),
        };

        let (live, telling) = Live::new(reader.clone(), EpochMs::from(SystemTime::now()));
        let api = web::Data::new(Api {
            reader,
            stats: stats.clone(),
            sites: names,
            edge,
            metrics: metrics.clone(),
            access,
            live: live.clone(),
            sql: settings.http.sql.clone(),
            sql_places: Arc::new(Semaphore::new(api::MAX_RUNNING_ENTRIES)),
            whole_places: Arc::new(Semaphore::new(api::MAX_WHOLE_ENTRIES)),
            whole_limits: api::WholeLimits::default(),
        });
        let browsers = Arc::new(settings.browsers());
        let app = move || {
            let browsers = browsers.clone();
            let admit = from_fn(move |request, next| api::admit(browsers.clone(), request, next));
            App::new().app_data(api.clone()).wrap(admit).configure(|app| drop(api::routes(app, pages)))
        };
        let server =
            HttpServer::new(app).workers(HTTP_WORKERS).disable_signals().shutdown_timeout(STOP_MS / 1000);
        // Who has closed his end does not wait for an answer any more: what he asked for is stopped.
        let server = server.h1_allow_half_closed(false);
        let server = server.listen(socket).map_err(failed)?.run();

        let (stop_uplink, uplink_stopped) = watch::channel(false);
        let (stop_rest, rest_stopped) = watch::channel(false);
        Ok(Self {
            http,
            broker,
            listener: listener.zip(embedded).map(|((_, listener), own)| {
                tokio::spawn(listener.run(own.broker.clone(), rest_stopped.clone()))
            }),
            edge: tokio::spawn(link.run(rest_stopped.clone())),
            subscriber: tokio::spawn(subscriber.run(uplink_stopped)),
            writer: tokio::spawn(apply::run(writer, waiting, confirmations, stats, live)),
            telling: tokio::spawn(telling),
            confirmer: tokio::spawn(confirmer.run(rest_stopped.clone())),
            lake: lake.map(|lake| tokio::spawn(lake.run(rest_stopped))),
            server_handle: server.handle(),
            server: tokio::spawn(server),
            upkeep: metrics.map(|handle| tokio::spawn(upkeep(handle))),
            stop_uplink,
            stop_rest,
        })
    }

    /// Waits until a part ends that should not: never, if all is well.
    pub async fn ended(&mut self) -> NodeError {
        let listener = async {
            match &mut self.listener {
                Some(listener) => listener.await.is_ok(),
                None => std::future::pending().await,
            }
        };
        NodeError::Ended(tokio::select! {
            _ = &mut self.subscriber => "uplink",
            _ = &mut self.confirmer => "sender of confirmations",
            _ = &mut self.edge => "link to the sites",
            _ = &mut self.writer => "writer of the database",
            _ = listener => "embedded broker",
            _ = &mut self.server => "query API",
        })
    }

    /// Stops: hears no more, applies what was heard, and closes. A confirmation that does not get out any more
    /// is given when the edge asks again. Parts that do not stop in time are left behind.
    ///
    /// # Errors
    /// When the database could not be closed well.
    pub async fn stop(self) -> Result<(), NodeError> {
        let limit = Duration::from_millis(STOP_MS);
        let _ = self.stop_uplink.send(true);
        let late = |part: &str| tracing::warn!("the {part} did not stop in time");
        if tokio::time::timeout(limit, self.subscriber).await.is_err() {
            late("uplink");
        }
        // The subscriber held the queue's only sender: the writer ends once it has applied the rest.
        let closed = match tokio::time::timeout(limit, self.writer).await {
            Ok(Ok(closed)) => closed.map_err(NodeError::from),
            Ok(Err(_)) => Err(NodeError::Ended("writer of the database")),
            Err(_) => {
                late("writer of the database");
                Ok(())
            }
        };
        let _ = self.stop_rest.send(true);
        self.server_handle.stop(true).await;
        for (part, task) in [
            ("sender of confirmations", Some(self.confirmer)),
            ("link to the sites", Some(self.edge)),
            ("embedded broker", self.listener),
            ("sender of live windows", Some(self.telling)),
            ("exporter", self.lake),
        ] {
            if let Some(task) = task
                && tokio::time::timeout(limit, task).await.is_err()
            {
                late(part);
            }
        }
        if let Some(upkeep) = self.upkeep {
            upkeep.abort();
        }
        closed
    }
}

/// The recorder of metrics wants its histograms drained now and then.
async fn upkeep(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(Duration::from_millis(UPKEEP_MS));
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}
