//! A person's SQL on a connection of its own, in a transaction that only reads, through a cursor: so only what is a query is
//! run, and only so much of it as is asked for. The server stops it when its time is over.

use super::super::StoreError;
use super::super::sql::{SqlAnswer, SqlError, SqlLimits, SqlValue};
use super::Reader;
use super::link::{Link, Said};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

/// How many rows are fetched at a time.
const FETCH_ENTRIES: u32 = 100;

/// How large a row may be, as the server holds it, so that what is fetched at a time has a bound.
const MAX_ROW_BYTES: u32 = 256 * 1024;

/// How much longer than the server we wait.
const PATIENCE_MS: u64 = 2_000;

impl Reader {
    pub async fn sql(&self, statement: &str, limits: SqlLimits) -> Result<SqlAnswer, SqlError> {
        // Not one of the pool: whatever the statement has set goes with it.
        let link = self.server.link_to_read().await?;
        let patience = limits.time + Duration::from_millis(PATIENCE_MS);
        tokio::time::timeout(patience, run(&link, statement, &limits)).await.map_err(|_| SqlError::Time)?
    }
}

async fn run(link: &Link, statement: &str, limits: &SqlLimits) -> Result<SqlAnswer, SqlError> {
    let statement = statement.trim().trim_end_matches(';');
    if statement.is_empty() {
        return Err(SqlError::refused("there is no statement"));
    }
    let time = i32::try_from(limits.time.as_millis()).unwrap_or(i32::MAX).max(1);
    let begin = format!("SET statement_timeout = {time}; SET lock_timeout = {time}; BEGIN READ ONLY");
    link.client.batch_execute(&begin).await.map_err(failed)?;
    // Told what is wrong with it, rather than with what we make of it; and it is one, not several.
    let prepared = link.client.prepare(statement).await.map_err(failed)?;
    if !prepared.params().is_empty() {
        return Err(SqlError::refused("the statement has parameters (`$1`); write their values into it"));
    }
    if prepared.columns().is_empty() {
        return Err(SqlError::refused("only queries are run here: SELECT, VALUES, TABLE, WITH"));
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
    let end = tokio::time::Instant::now() + limits.time;
    loop {
        let fetch = format!("FETCH {FETCH_ENTRIES} FROM rows");
        let fetched = tokio::time::timeout_at(end, link.client.simple_query(&fetch)).await;
        let fetched = fetched.map_err(|_| SqlError::Time)?.map_err(failed)?;
        let rows: Vec<&SimpleQueryRow> = fetched
            .iter()
            .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None })
            .collect();
        for row in &rows {
            let values = columns.iter().enumerate().map(|(at, (_, kind))| value(row.get(at), kind));
            if !answer.add(values.collect(), &mut bytes, limits) {
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
        SqlState::READ_ONLY_SQL_TRANSACTION => SqlError::refused("only statements that read are run here"),
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => {
            SqlError::Store(StoreError::from(why))
        }
        _ => SqlError::Statement(format!("the database says: {}", Said(why))),
    }
}
