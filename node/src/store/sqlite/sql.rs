//! A person's SQL in a process of its own ([`super::worker`]), which is killed when its time is over or nobody waits any more.

use super::super::StoreError;
use super::super::sql::{SqlAnswer, SqlError, SqlLimits};
use super::SqliteReader;
use super::worker::{ARGUMENT, Order, SqlOutcome};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// How much longer than its own clock allows the process may take, to start and to write its answer.
const PATIENCE_MS: u64 = 2_000;

/// How long an answer may be in the form in which the process writes it: JSON, which writes some characters with six.
const MAX_JSON_PER_BYTE: u64 = 6;

/// What of it is not values.
const MAX_JSON_FRAME_BYTES: u64 = 1024 * 1024;

impl SqliteReader {
    /// Runs a statement until it is answered, its time is over, or `left` is: then nobody waits any more. When this
    /// returns, the process has ended.
    pub async fn sql(
        &self,
        statement: String,
        limits: SqlLimits,
        left: impl Future<Output = ()>,
    ) -> Result<SqlAnswer, SqlError> {
        let time_ms = u64::try_from(limits.time.as_millis()).unwrap_or(u64::MAX);
        let order =
            Order { file: self.file.clone(), statement, time_ms, rows: limits.rows, bytes: limits.bytes };
        let failed = |why: std::io::Error| SqlError::Store(StoreError::Process { why });
        let (mut child, socket) = start().map_err(failed)?;
        let patience = limits.time + Duration::from_millis(PATIENCE_MS);
        let told = tokio::select! {
            told = tokio::time::timeout(patience, talk(socket, &order)) => told,
            () = left => Ok(Ok(vec![])),
        };
        let status = end(&mut child).await.map_err(failed)?;
        let text = told.map_err(|_| SqlError::Time)?.map_err(failed)?;
        match serde_json::from_slice(&text) {
            Ok(SqlOutcome::Answer(answer)) => Ok(answer),
            Ok(SqlOutcome::Statement(why)) => Err(SqlError::Statement(why)),
            Ok(SqlOutcome::Time) => Err(SqlError::Time),
            Ok(SqlOutcome::Memory) => Err(SqlError::Memory(order.memory_bytes())),
            Ok(SqlOutcome::Store(why)) => {
                Err(SqlError::Store(StoreError::Process { why: std::io::Error::other(why) }))
            }
            Err(_) => Err(died(status, &order)),
        }
    }
}

/// Why a process has ended that did not answer.
fn died(status: ExitStatus, order: &Order) -> SqlError {
    use rustix::process::Signal;
    match status.signal() {
        Some(signal) if [Signal::XCPU, Signal::KILL].map(Signal::as_raw).contains(&signal) => SqlError::Time,
        // Where the allocator has no more to give, the process aborts.
        Some(_) => SqlError::Memory(order.memory_bytes()),
        None => SqlError::Store(StoreError::Process {
            why: std::io::Error::other(format!("it ended with {status}")),
        }),
    }
}

/// This program once more; its standard input is our socket.
fn start() -> std::io::Result<(Child, UnixStream)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    // The file may have been replaced by a newer release meanwhile; this is the one that runs.
    let running = Path::new("/proc/self/exe");
    let program = if running.exists() { running.to_owned() } else { std::env::current_exe()? };
    let mut command = Command::new(program);
    command.arg0("selvedge-node").arg(ARGUMENT).env_clear();
    command
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.kill_on_drop(true).spawn()?;
    Ok((child, UnixStream::from_std(ours)?))
}

/// Gives the order, and reads what comes back, whatever it is.
async fn talk(mut socket: UnixStream, order: &Order) -> std::io::Result<Vec<u8>> {
    let text = serde_json::to_vec(order)?;
    socket.write_all(&text).await?;
    socket.shutdown().await?;
    let most = order.bytes.saturating_mul(MAX_JSON_PER_BYTE).saturating_add(MAX_JSON_FRAME_BYTES);
    let mut told = Vec::new();
    match socket.take(most).read_to_end(&mut told).await {
        Ok(_) => Ok(told),
        // It died with our order unread.
        Err(why) if why.kind() == std::io::ErrorKind::ConnectionReset => Ok(vec![]),
        Err(why) => Err(why),
    }
}

/// How it ended, by itself or because it was made to.
async fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    // One that has answered, or died, is at its end; the wait for it is short, and for others of no use.
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    child.kill().await?;
    child.wait().await
}
