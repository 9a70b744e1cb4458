//! The process in which one statement of a person's SQL runs: this program, started again for it.
//!
//! SQLite looks up from its work only between the steps of its machine, and one step may search megabytes for minutes. A thread
//! can't be stopped there, a process can. It limits itself before it reads what it is to do: its memory, its time on a core, its
//! open files. Then it reads one [`Order`] from standard input, which is a socket, and writes one [`SqlOutcome`] back.

use super::super::sql::{MAX_STATEMENT_BYTES, SqlAnswer, SqlLimits, SqlValue};
use super::{File, open_to_read};
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, ErrorCode};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The hidden argument that makes this program a worker.
pub const ARGUMENT: &str = "sql_worker";

/// How much memory a statement may take beyond what its answer may.
pub const MEMORY_BYTES: u64 = 128 * 1024 * 1024;

/// How many times an answer may lie in memory while it is made and written.
const COPIES: u64 = 4;

/// The most open files: the database, its log, its index, and a few of the system's.
const FILES_ENTRIES: u64 = 32;

const MAX_ORDER_BYTES: u64 = 8 * MAX_STATEMENT_BYTES as u64;

/// How many steps of its machine SQLite makes before it looks at the clock.
const LOOK_EVERY_STEPS: i32 = 1_000;

/// The longest pattern of LIKE and GLOB, which cost most per byte.
const MAX_LIKE_BYTES: i32 = 256;

/// What may be asked of the database's own form.
const PRAGMAS: [&str; 6] =
    ["table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo"];

/// What a worker is to do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Order {
    pub file: File,
    pub statement: String,
    /// How long it may run.
    pub time_ms: u64,
    pub rows: u32,
    /// The most bytes of the answer's values.
    pub bytes: u64,
}

impl Order {
    fn limits(&self) -> SqlLimits {
        SqlLimits { time: Duration::from_millis(self.time_ms), rows: self.rows, bytes: self.bytes }
    }

    /// How much memory the statement may take.
    pub fn memory_bytes(&self) -> u64 {
        MEMORY_BYTES.saturating_add(self.bytes.saturating_mul(COPIES))
    }
}

/// What became of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum SqlOutcome {
    Answer(SqlAnswer),
    /// The statement is not run here, or the database can't run it.
    Statement(String),
    /// It took too long.
    Time,
    /// It took too much memory.
    Memory,
    Store(String),
}

/// Does what standard input says, once.
pub fn run() -> ExitCode {
    let input = std::io::stdin();
    let Ok(socket) = input.as_fd().try_clone_to_owned().map(UnixStream::from) else {
        eprintln!("selvedge-node: {ARGUMENT} is started by a node, not by a person");
        return ExitCode::FAILURE;
    };
    let mut text = Vec::new();
    let read = BufReader::new(&socket).take(MAX_ORDER_BYTES).read_to_end(&mut text);
    let Ok(order) = read.map_err(drop).and_then(|_| serde_json::from_slice::<Order>(&text).map_err(drop))
    else {
        eprintln!("selvedge-node: {ARGUMENT} is started by a node, not by a person");
        return ExitCode::FAILURE;
    };
    drop(text);
    let outcome = match bound_process(&order) {
        Ok(()) => answer(&order),
        Err(why) => SqlOutcome::Store(format!("the process that runs SQL can't be bounded: {why}")),
    };
    let mut out = BufWriter::new(&socket);
    let written = serde_json::to_writer(&mut out, &outcome).map_err(std::io::Error::from);
    match written.and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE, // nobody waits any more
    }
}

/// Bounds what this process may take, for good.
fn bound_process(order: &Order) -> std::io::Result<()> {
    let limit = |what, most: u64| {
        setrlimit(what, Rlimit { current: Some(most), maximum: Some(most) }).map_err(std::io::Error::from)
    };
    limit(Resource::As, mapped_bytes()?.saturating_add(order.memory_bytes()))?;
    limit(Resource::Cpu, order.time_ms.div_ceil(1_000).saturating_add(1))?;
    limit(Resource::Nofile, FILES_ENTRIES)?;
    limit(Resource::Core, 0)
}

/// How much address space this process has already: its program, above all.
fn mapped_bytes() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| std::io::Error::other("/proc/self/status has no VmSize"))
}

/// Runs it in this process, which is not bounded by that: [`run`] bounds one first.
pub fn answer(order: &Order) -> SqlOutcome {
    query(order).unwrap_or_else(|failed| match failed {
        Failed::Refused(why) => SqlOutcome::Statement(why.to_string()),
        Failed::Database(why) => match why.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => SqlOutcome::Time,
            Some(ErrorCode::OutOfMemory) => SqlOutcome::Memory,
            Some(ErrorCode::AuthorizationForStatementDenied | ErrorCode::ReadOnly) => SqlOutcome::Statement(
                "only statements that read the tables and views are allowed".to_string(),
            ),
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::DatabaseBusy
                | ErrorCode::CannotOpen,
            ) => SqlOutcome::Store(why.to_string()),
            _ => SqlOutcome::Statement(format!("the database says: {why}")),
        },
    })
}

/// Why there is no answer.
enum Failed {
    Refused(&'static str),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(why: rusqlite::Error) -> Self {
        Self::Database(why)
    }
}

fn query(order: &Order) -> Result<SqlOutcome, Failed> {
    let limits = order.limits();
    let end = Instant::now() + limits.time;
    let mut db = open_to_read(&order.file)?;
    bound(&mut db, &limits)?;
    db.progress_handler(LOOK_EVERY_STEPS, Some(move || Instant::now() >= end))?;
    db.authorizer(Some(may))?;

    let mut all = Batch::new(&db, &order.statement);
    let mut one = all.next()?.ok_or(Failed::Refused("there is no statement"))?;
    if !one.readonly() {
        return Err(Failed::Refused("only statements that read are allowed"));
    }
    if one.parameter_count() > 0 {
        return Err(Failed::Refused("the statement has parameters (`?`); write their values into it"));
    }
    // A second one that can't be compiled is a second one as well.
    if !matches!(all.next(), Ok(None)) {
        return Err(Failed::Refused("there is more than one statement; send one at a time"));
    }
    let names: Vec<String> = one.column_names().map(str::to_string).collect();
    let mut kinds: Vec<Option<&'static str>> = vec![None; names.len()];
    let (mut answer, mut bytes) = (SqlAnswer::default(), 0);
    let mut rows = one.query([])?;
    while let Some(row) = rows.next()? {
        let mut values = Vec::with_capacity(names.len());
        for (at, kind) in kinds.iter_mut().enumerate() {
            let (value, its) = match row.get_ref(at)? {
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
            bytes += value.cost_bytes();
            if bytes > limits.bytes {
                break; // the rest of the row is not even looked at
            }
            values.push(value);
        }
        if !answer.add(values, bytes, &limits) {
            break;
        }
    }
    let columns = names.into_iter().zip(kinds);
    answer.columns = columns.map(|(name, kind)| (name, kind.unwrap_or("null").to_string())).collect();
    Ok(SqlOutcome::Answer(answer))
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
    // What is sorted counts as memory; the disk is not there for it.
    db.pragma_update(None, "temp_store", "MEMORY")?;
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
