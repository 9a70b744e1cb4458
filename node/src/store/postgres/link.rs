//! Where the server is, and connections to it: in the clear, or by TLS with a certificate that is checked.

use super::super::StoreError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Config, Host, SslMode};
use tokio_postgres::{Client, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

/// How long a connection may take to be made.
pub const CONNECT_MS: u64 = 5_000;

/// How long the server waits for locks and works on one statement of a transaction that writes, and how long it leaves a
/// transaction open of a node that says nothing any more: then its locks are free for others.
pub const WRITE_MS: u64 = 60_000;

/// How long the server works on a query.
pub const READ_MS: u64 = 30_000;

/// How long a node that starts waits for another one that brings the tables to a newer form.
pub const MIGRATE_WAIT_MS: u64 = 3_600_000;

/// After how long without a sign of life the network is asked whether the other end is there, on both ends.
pub const KEEPALIVE_S: u64 = 10;

/// The most prepared statements of a connection that reads; there are fewer.
const STATEMENTS_ENTRIES: usize = 64;

/// Where a PostgreSQL server is, and how to use it.
#[derive(Clone, PartialEq)]
pub struct Postgres {
    config: Config,
    /// A file of certificates that the server's must come from with TLS; `None` for those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Whether windows lie in a hypertable of TimescaleDB.
    pub timescale: bool,
}

impl Postgres {
    /// Reads `postgres://user:password@host:5432/database`. A server that is not on this machine must speak TLS and prove its name,
    /// unless `plaintext` says that it need not; so must any with `?sslmode=require`.
    ///
    /// # Errors
    /// Says what is wrong with it, without repeating anything of it.
    pub fn parse(address: &str, plaintext: bool) -> Result<Self, String> {
        let mut config: Config = address.parse().map_err(|_| {
            "is not an address of PostgreSQL; write postgres://user:password@host:5432/database, with special characters of the password \
             as %40 and the like"
        })?;
        if config.get_hosts().is_empty() {
            return Err("names no host; write postgres://user:password@host:5432/database".to_string());
        }
        let local = is_local(&config);
        match config.get_ssl_mode() {
            SslMode::Disable if !local && !plaintext => {
                return Err("has sslmode=disable, which sends all data and the password in the clear over the network; leave it out, or \
                            set database_plaintext = true if that is meant"
                    .to_string());
            }
            // TLS that is used if it happens to be there protects from nothing.
            SslMode::Prefer if local || plaintext => drop(config.ssl_mode(SslMode::Disable)),
            SslMode::Prefer => drop(config.ssl_mode(SslMode::Require)),
            _ => {}
        }
        config
            .application_name("selvedge-node")
            .connect_timeout(Duration::from_millis(CONNECT_MS))
            .tcp_user_timeout(Duration::from_secs(3 * KEEPALIVE_S))
            .keepalives_idle(Duration::from_secs(KEEPALIVE_S))
            .keepalives_interval(Duration::from_secs(KEEPALIVE_S))
            .keepalives_retries(2);
        Ok(Self { config, ca_file: None, timescale: false })
    }

    /// A connection that writes. It finds all that it writes by key; what the server believes of a young table must not lead
    /// it to read all of it.
    pub async fn link_to_write(&self) -> Result<PostgresConnection, StoreError> {
        // A server that waits for even more at a commit goes on to do so.
        let settings = format!(
            "SELECT set_config('synchronous_commit', 'on', false) \
             WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply'); \
             SET statement_timeout = {WRITE_MS}; SET lock_timeout = {WRITE_MS}; \
             SET idle_in_transaction_session_timeout = {WRITE_MS}; \
             SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off"
        );
        self.link(&settings).await
    }

    /// A connection that reads, and can do nothing else.
    pub async fn link_to_read(&self) -> Result<PostgresConnection, StoreError> {
        self.link(&format!("SET statement_timeout = {READ_MS}; SET default_transaction_read_only = on")).await
    }

    /// A connection that brings tables to a newer form, which may take long.
    pub async fn link_to_migrate(&self) -> Result<PostgresConnection, StoreError> {
        self.link(&format!("SET statement_timeout = 0; SET lock_timeout = {MIGRATE_WAIT_MS}")).await
    }

    /// Asks the server to stop what a connection is at. It need not: see whether it does.
    pub async fn cancel(&self, link: &PostgresConnection) {
        let token = link.client.cancel_token();
        let asked = async {
            if self.config.get_ssl_mode() == SslMode::Disable {
                return token.cancel_query(NoTls).await.is_ok();
            }
            match tls(self.ca_file.as_deref()) {
                Ok(tls) => token.cancel_query(MakeRustlsConnect::new(tls)).await.is_ok(),
                Err(_) => false,
            }
        };
        if !tokio::time::timeout(Duration::from_millis(CONNECT_MS), asked).await.unwrap_or(false) {
            tracing::debug!("a statement could not be cancelled; its backend is ended instead");
        }
    }

    async fn link(&self, settings: &str) -> Result<PostgresConnection, StoreError> {
        let failed = |why| StoreError::Connect { server: self.to_string(), why: Said(why) };
        // Ends with the client, or with an error that the client's next call repeats.
        let (client, task) = if self.config.get_ssl_mode() == SslMode::Disable {
            let (client, connection) = self.config.connect(NoTls).await.map_err(failed)?;
            (client, tokio::spawn(async move { drop(connection.await) }))
        } else {
            let tls = MakeRustlsConnect::new(tls(self.ca_file.as_deref())?);
            let (client, connection) = self.config.connect(tls).await.map_err(failed)?;
            (client, tokio::spawn(async move { drop(connection.await) }))
        };
        let link = PostgresConnection { client, statements: HashMap::new(), task };
        let common = format!(
            "SET jit = off; SET client_encoding = 'UTF8'; SET tcp_keepalives_idle = {KEEPALIVE_S}; \
             SET tcp_keepalives_interval = {KEEPALIVE_S}; SET tcp_keepalives_count = 2; {settings}"
        );
        link.client.batch_execute(&common).await.map_err(failed)?;
        Ok(link)
    }
}

/// Whether what is said to a server stays on this machine.
fn is_local(config: &Config) -> bool {
    let host = |host: &Host| match host {
        Host::Tcp(name) => {
            name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }
        Host::Unix(_) => true,
    };
    config.get_hosts().iter().all(host) && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// What TLS trusts. Read for each connection, so that a file that is renewed is heeded.
fn tls(ca_file: Option<&Path>) -> Result<ClientConfig, StoreError> {
    let failed = |why: String| StoreError::Certificates { why };
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(file) => {
            let shown = file.display();
            let certificates =
                CertificateDer::pem_file_iter(file).map_err(|e| failed(format!("{shown}: {e}")))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|e| failed(format!("{shown}: {e}")))?;
                roots.add(certificate).map_err(|e| failed(format!("{shown}: {e}")))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(failed("there is none; name a file with the setting `database_ca_file`".to_string()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|e| failed(e.to_string()))?;
    Ok(versions.with_root_certificates(roots).with_no_client_auth())
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let user = self.config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        write!(f, "postgres://{user}{host}:{port}/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A connection to the server, with the statements that are prepared on it.
pub struct PostgresConnection {
    pub client: Client,
    statements: HashMap<String, Statement>,
    task: JoinHandle<()>,
}

impl PostgresConnection {
    /// A statement, prepared once.
    pub async fn statement(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        if self.statements.len() >= STATEMENTS_ENTRIES {
            self.statements.clear();
        }
        self.statements.insert(sql.to_string(), statement.clone());
        Ok(statement)
    }
}

impl Drop for PostgresConnection {
    /// The server notices at once, and ends what it is at.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a driver's error says, with what the server said.
#[derive(Debug)]
pub struct Said(pub tokio_postgres::Error);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the details, which repeat values.
        if let Some(error) = self.0.as_db_error() {
            return write!(f, "{} ({})", error.message(), error.code().code());
        }
        write!(f, "{}", self.0)?;
        let mut source = std::error::Error::source(&self.0);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl std::error::Error for Said {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_shows() {
        let server = Postgres::parse("postgres://me:hunter2@db.example:5433/plant", false).unwrap();
        assert_eq!(server.to_string(), "postgres://me@db.example:5433/plant");
        assert!(!format!("{server:?}").contains("hunter2"));
        for wrong in [
            "postgres://me:hunter2@db:port/x",
            "postgres://me:hunter2@db/x?hunter2=1",
            "postgres:///x",
            "postgres://me:hunter2@db/x?sslmode=perhaps",
        ] {
            let said = Postgres::parse(wrong, false).unwrap_err();
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_a_setting_says_otherwise() {
        let mode = |address: &str, plaintext| {
            Postgres::parse(&format!("postgres://me:pw@{address}"), plaintext)
                .map(|server| server.config.get_ssl_mode())
        };
        for local in [
            "127.0.0.1/x",
            "localhost/x",
            "[::1]:5432/x",
            "%2Frun%2Fpostgresql/x",
            "127.0.0.1/x?sslmode=disable",
        ] {
            assert_eq!(mode(local, false), Ok(SslMode::Disable), "{local}");
        }
        assert_eq!(mode("127.0.0.1/x?sslmode=require", false), Ok(SslMode::Require));
        for far in [
            "db.example/x",
            "10.0.0.5/x",
            "db.example/x?sslmode=prefer",
            "db.example/x?sslmode=require",
            "127.0.0.1,10.0.0.5/x",
            "localhost/x?hostaddr=10.0.0.5",
        ] {
            assert_eq!(mode(far, false), Ok(SslMode::Require), "{far}");
        }
        assert!(mode("db.example/x?sslmode=disable", false).unwrap_err().contains("database_plaintext"));
        assert_eq!(mode("db.example/x", true), Ok(SslMode::Disable));
        assert_eq!(mode("db.example/x?sslmode=disable", true), Ok(SslMode::Disable));
        assert_eq!(mode("db.example/x?sslmode=require", true), Ok(SslMode::Require));
    }
}
