//! The connections that read, and how they are asked.

use super::super::StoreError;
use super::super::pool::ConnectionPool;
use super::link::{Postgres, PostgresConnection, READ_MS};
use super::{LEDGER_ID, ledger_id};
use selvedge_types::uplink::LedgerId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// The connections that read.
#[derive(Clone)]
pub struct PostgresReader {
    pub(super) server: Arc<Postgres>,
    pool: Arc<ConnectionPool<PostgresConnection>>,
    /// Whether the role that a person's SQL runs as was seen to.
    pub(super) sql_role: Arc<OnceCell<()>>,
}

pub(super) type SqlParameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl PostgresReader {
    pub(super) fn new(server: Arc<Postgres>) -> Self {
        Self { server, pool: Arc::default(), sql_role: Arc::default() }
    }

    /// All rows of a query. A connection that fails is not used again; one that lay idle may have been cut off meanwhile, so
    /// that a new one gets a second try.
    pub(super) async fn rows<T>(
        &self,
        sql: &str,
        parameters: SqlParameters<'_>,
        read: impl Fn(&Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let (_place, idle) = self.pool.take().await?;
        let asked = match idle {
            Some(mut link) => match ask(&mut link, sql, parameters).await {
                Err(StoreError::Postgres(why)) if why.0.is_closed() => None,
                asked => Some((link, asked?)),
            },
            None => None,
        };
        let (link, rows) = match asked {
            Some(asked) => asked,
            None => {
                let mut link = self.server.link_to_read().await?;
                let rows = ask(&mut link, sql, parameters).await?;
                (link, rows)
            }
        };
        self.pool.give_back(link);
        rows.iter().map(read).collect()
    }

    pub async fn ledger_id(&self) -> Result<LedgerId, StoreError> {
        let rows = self.rows(LEDGER_ID, &[], ledger_id).await?;
        rows.into_iter().next().ok_or(StoreError::NoLedger)
    }
}

async fn ask(
    link: &mut PostgresConnection,
    sql: &str,
    parameters: SqlParameters<'_>,
) -> Result<Vec<Row>, StoreError> {
    // The server ends what takes too long; a server that says nothing any more is left.
    let limit = Duration::from_millis(READ_MS + 5_000);
    let asking = async {
        let statement = link.statement(sql).await?;
        Ok(link.client.query(&statement, parameters).await?)
    };
    tokio::time::timeout(limit, asking).await.map_err(|_| StoreError::Silent)?
}
