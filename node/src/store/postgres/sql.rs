//! A person's SQL on a connection of its own, in a transaction that only reads, through a cursor: so only what is a query is
//! run, and only so much of it as is asked for.
//!
//! It runs as a role that may read the views and nothing else ([`super::role`]), and calls only functions that reckon
//! ([`selvedge_node_core::calls`]): so it can neither lift its own limits nor reach beyond them. The server stops it when its time is over;
//! if it does not, or nobody waits any more, the node has it stopped, and waits until its backend is gone.

use super::super::StoreError;
use super::super::sql::{SqlAnswer, SqlError, SqlLimits, SqlValue};
use super::link::{PostgresConnection, Said};
use super::{PostgresReader, role};
use selvedge_node_core::calls;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

/// How many rows are fetched at a time.
const FETCH_ENTRIES: u32 = 100;

/// How large a row may be, as the server holds it, so that what is fetched at a time has a bound.
const MAX_ROW_BYTES: u32 = 256 * 1024;

/// How much of the server's disk what is sorted may take, where the server lets us say so.
const MAX_TEMP_KIB: u32 = 1024 * 1024;

/// How often the server looks whether we are still there.
const LOOK_MS: u32 = 1_000;

/// How long to rest before looking again whether a backend is gone.
const GONE_REST_MS: u64 = 200;

impl PostgresReader {
    /// Runs a statement until it is answered, its time is over, or `left` is: then nobody waits any more. When this
    /// returns, the server works on nothing of it.
    pub async fn sql(
        &self,
        statement: &str,
        limits: SqlLimits,
        left: impl Future<Output = ()>,
    ) -> Result<SqlAnswer, SqlError> {
        calls::check(statement).map_err(SqlError::Statement)?;
        self.sql_role.get_or_try_init(|| role::prepare(&self.server)).await?;
        // Not one of the pool: whatever the statement has set goes with it.
        let link = self.server.link_to_read().await?;
        let backend = Backend::of(&link).await?;
        let end = Instant::now() + limits.time;
        let answered = tokio::select! {
            done = tokio::time::timeout_at(end, run(&link, statement, &limits)) => done.ok(),
            () = left => None,
        };
        let Some(result) = answered else {
            self.server.cancel(&link).await;
            drop(link);
            self.until_gone(&backend).await;
            return Err(SqlError::Time);
        };
        // It waits for us, or has failed: it ends with the connection.
        drop(link);
        result
    }

    /// Waits until a backend is gone, and ends it. A server that can't be asked may still be at it.
    async fn until_gone(&self, backend: &Backend) {
        let mut link = None;
        loop {
            let asked = match &link {
                Some(link) => backend.end(link).await,
                None => match self.server.link_to_read().await {
                    Ok(new) => backend.end(link.insert(new)).await,
                    Err(error) => Err(error),
                },
            };
            match asked {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "can't see whether a statement has ended; trying again");
                    link = None;
                }
            }
            tokio::time::sleep(Duration::from_millis(GONE_REST_MS)).await;
        }
    }
}

/// A backend of the server: no other one ever has its number and its start.
struct Backend {
    pid: i32,
    /// In microseconds since 1970.
    start_us: i64,
}

const START_US: &str = "(extract(epoch from backend_start) * 1000000)::bigint";

impl Backend {
    /// That of a connection.
    async fn of(link: &PostgresConnection) -> Result<Self, StoreError> {
        let sql = format!("SELECT pid, {START_US} FROM pg_stat_activity WHERE pid = pg_backend_pid()");
        let row = link.client.query_one(&sql, &[]).await?;
        Ok(Self { pid: row.try_get(0)?, start_us: row.try_get(1)? })
    }

    /// Ends it; says whether it is gone.
    async fn end(&self, link: &PostgresConnection) -> Result<bool, StoreError> {
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND {START_US} = $2"
        );
        Ok(link.client.query(&sql, &[&self.pid, &self.start_us]).await?.is_empty())
    }
}

async fn run(link: &PostgresConnection, statement: &str, limits: &SqlLimits) -> Result<SqlAnswer, SqlError> {
    let statement = statement.trim().trim_end_matches(';');
    if statement.is_empty() {
        return Err(SqlError::refused("there is no statement"));
    }
    // Not every server has these, or lets us set them.
    for (key, value) in [("client_connection_check_interval", LOOK_MS), ("temp_file_limit", MAX_TEMP_KIB)] {
        let _ = link.client.batch_execute(&format!("SET {key} = {value}")).await;
    }
    let time = i32::try_from(limits.time.as_millis()).unwrap_or(i32::MAX).max(1);
    let begin = format!(
        "SET statement_timeout = {time}; SET lock_timeout = {time}; SET idle_in_transaction_session_timeout = {time}; \
         SET standard_conforming_strings = on; \
         SELECT set_config('search_path', 'pg_catalog, ' || quote_ident(current_schema()), false); \
         SET ROLE {role}; BEGIN READ ONLY",
        role = role::NAME
    );
    link.client.batch_execute(&begin).await.map_err(failed)?;
    // Told what is wrong with it, rather than with what we make of it; and it is one, not several.
    let prepared = link.client.prepare(statement).await.map_err(failed)?;
    if !prepared.params().is_empty() {
        return Err(SqlError::refused("the statement has parameters (`$1`); write their values into it"));
    }
    if prepared.columns().is_empty() {
        return Err(SqlError::refused("only queries are allowed: SELECT, VALUES, TABLE, WITH"));
    }
    let columns: Vec<(String, Type)> =
        prepared.columns().iter().map(|c| (c.name().to_string(), c.type_().clone())).collect();
    // The cast fails with its text, and only for a row that is too large.
    let declare = format!(
        "DECLARE rows NO SCROLL CURSOR FOR SELECT * FROM (\n{statement}\n) AS its \
         WHERE CASE WHEN pg_column_size(its) <= {MAX_ROW_BYTES} THEN true \
         ELSE ('a row has more than {MAX_ROW_BYTES} bytes: ' || pg_column_size(its))::boolean END"
    );
    link.client.execute(&declare, &[]).await.map_err(failed)?;
    let kinds = columns.iter().map(|(name, kind)| (name.clone(), kind.name().to_string()));
    let (mut answer, mut bytes) = (SqlAnswer { columns: kinds.collect(), ..SqlAnswer::default() }, 0);
    loop {
        let fetched = link.client.simple_query(&format!("FETCH {FETCH_ENTRIES} FROM rows")).await;
        let fetched = fetched.map_err(failed)?;
        let rows: Vec<&SimpleQueryRow> = fetched
            .iter()
            .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None })
            .collect();
        for row in &rows {
            let values = columns.iter().enumerate().map(|(at, (_, kind))| value(row.get(at), kind));
            let values: Vec<SqlValue> = values.collect();
            bytes += values.iter().map(SqlValue::cost_bytes).sum::<u64>();
            if !answer.add(values, bytes, limits) {
                return Ok(answer);
            }
        }
        if rows.len() < FETCH_ENTRIES as usize {
            return Ok(answer);
        }
    }
}

/// From the text that the server writes.
fn value(text: Option<&str>, kind: &Type) -> SqlValue {
    let Some(text) = text else { return SqlValue::Null };
    // What is no finite number is nothing, as in every answer.
    let real =
        || text.parse().ok().map(|n: f64| if n.is_finite() { SqlValue::Real(n) } else { SqlValue::Null });
    let known = match *kind {
        Type::BOOL => Some(SqlValue::Flag(text == "t")),
        Type::INT2 | Type::INT4 | Type::INT8 | Type::OID => text.parse().ok().map(SqlValue::Whole),
        Type::FLOAT4 | Type::FLOAT8 => real(),
        // Sums of whole numbers are of this type.
        Type::NUMERIC => text.parse().ok().map(SqlValue::Whole).or_else(real),
        _ => None,
    };
    known.unwrap_or_else(|| SqlValue::Text(text.to_string()))
}

fn failed(why: tokio_postgres::Error) -> SqlError {
    let Some(code) = why.code() else { return SqlError::Store(StoreError::from(why)) };
    match *code {
        SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE => SqlError::Time,
        SqlState::READ_ONLY_SQL_TRANSACTION => SqlError::refused("only statements that read are allowed"),
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => {
            SqlError::Store(StoreError::from(why))
        }
        _ => SqlError::Statement(format!("the database says: {}", Said(why))),
    }
}
