//! A person's SQL on a connection of its own, which is opened to read, is asked before anything is compiled whether that may be,
//! and is interrupted when its time is over or nobody waits any more.

use super::super::sql::{MAX_STATEMENT_BYTES, SqlAnswer, SqlError, SqlLimits, SqlValue};
use super::{File, Reader, open_to_read};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, ErrorCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// How many steps of its machine SQLite makes before it looks at the clock.
const LOOK_EVERY_STEPS: i32 = 1_000;

/// The longest pattern of LIKE and GLOB, which cost most per byte.
const MAX_LIKE_BYTES: i32 = 256;

/// What may be asked of the database's own form.
const PRAGMAS: [&str; 6] =
    ["table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo"];

/// Tells the thread that works when nobody waits any more.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Reader {
    pub async fn sql(&self, statement: String, limits: SqlLimits) -> Result<SqlAnswer, SqlError> {
        let file = self.file.clone();
        let given_up = Arc::new(AtomicBool::new(false));
        let _waiting = Waiting(given_up.clone());
        let work = move || run(&file, &statement, &limits, given_up);
        tokio::task::spawn_blocking(work).await.map_err(|_| super::super::StoreError::Stopped)?
    }
}

fn run(
    file: &File,
    statement: &str,
    limits: &SqlLimits,
    given_up: Arc<AtomicBool>,
) -> Result<SqlAnswer, SqlError> {
    let failed = |why: rusqlite::Error| match why.sqlite_error_code() {
        Some(ErrorCode::OperationInterrupted) => SqlError::Time,
        Some(ErrorCode::AuthorizationForStatementDenied | ErrorCode::ReadOnly) => {
            SqlError::refused("only statements that read the tables and views are run here")
        }
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::DatabaseBusy
            | ErrorCode::CannotOpen,
        ) => SqlError::Store(why.into()),
        _ => SqlError::Statement(format!("the database says: {why}")),
    };
    let end = Instant::now() + limits.time;
    let mut db = open_to_read(file).map_err(|why| SqlError::Store(why.into()))?;
    bound(&mut db, limits).map_err(|why| SqlError::Store(why.into()))?;
    let over = move || given_up.load(Ordering::Relaxed) || Instant::now() >= end;
    db.progress_handler(LOOK_EVERY_STEPS, Some(over)).map_err(failed)?;
    db.authorizer(Some(may)).map_err(failed)?;

    let mut all = Batch::new(&db, statement);
    let mut one = all.next().map_err(failed)?.ok_or_else(|| SqlError::refused("there is no statement"))?;
    if !one.readonly() {
        return Err(SqlError::refused("only statements that read are run here"));
    }
    if one.parameter_count() > 0 {
        return Err(SqlError::refused("the statement has parameters (`?`); write their values into it"));
    }
    // A second one that can't be compiled is a second one as well.
    if !matches!(all.next(), Ok(None)) {
        return Err(SqlError::refused("there is more than one statement; send one at a time"));
    }
    let names: Vec<String> = one.column_names().map(str::to_string).collect();
    let mut kinds: Vec<Option<&'static str>> = vec![None; names.len()];
    let (mut answer, mut bytes) = (SqlAnswer::default(), 0);
    let mut rows = one.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let mut values = Vec::with_capacity(names.len());
        for (at, kind) in kinds.iter_mut().enumerate() {
            let (value, its) = match row.get_ref(at).map_err(failed)? {
                ValueRef::Null => (SqlValue::Null, None),
                ValueRef::Integer(n) => (SqlValue::Whole(n), Some("integer")),
                ValueRef::Real(n) => (SqlValue::Real(n), Some("real")),
                ValueRef::Text(text) => {
                    (SqlValue::Text(String::from_utf8_lossy(text).into_owned()), Some("text"))
                }
                ValueRef::Blob(all) => (SqlValue::Bytes(all.to_vec()), Some("blob")),
            };
            // What a column holds is known from its values alone.
            *kind = match (*kind, its) {
                (Some(before), Some(its)) if before != its => Some("any"),
                (before, its) => before.or(its),
            };
            values.push(value);
        }
        if !answer.add(values, &mut bytes, limits) {
            break;
        }
    }
    let columns = names.into_iter().zip(kinds);
    answer.columns = columns.map(|(name, kind)| (name, kind.unwrap_or("null").to_string())).collect();
    Ok(answer)
}

/// Bounds what one statement can make grow.
fn bound(db: &mut Connection, limits: &SqlLimits) -> Result<(), rusqlite::Error> {
    let bytes = i32::try_from(limits.bytes).unwrap_or(i32::MAX);
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, bytes.max(MAX_STATEMENT_BYTES as i32)),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, MAX_STATEMENT_BYTES as i32),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MAX_LIKE_BYTES),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        db.set_limit(limit, most)?;
    }
    db.pragma_update(None, "query_only", true)?;
    db.pragma_update(None, "trusted_schema", false)
}

/// What a statement may do: read.
fn may(context: AuthContext<'_>) -> Authorization {
    let allowed = match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => true,
        AuthAction::Function { function_name } => !function_name.eq_ignore_ascii_case("load_extension"),
        AuthAction::Pragma { pragma_name, .. } => {
            PRAGMAS.iter().any(|known| pragma_name.eq_ignore_ascii_case(known))
        }
        _ => false,
    };
    if allowed { Authorization::Allow } else { Authorization::Deny }
}
